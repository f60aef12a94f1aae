
-- Keys and what is made of them stand in simple expressions only: as a parameter of a query they would be
-- constants in its plan, which debug_print_plan shows.
DECLARE
  k pgtenant.key;
  v_kid text := split_part(p_proof, '.', 1);
  v_exp text := split_part(p_proof, '.', 2);
  v_tag text;
BEGIN
  SELECT * INTO k FROM pgtenant.key WHERE kid = v_kid;
  IF NOT COALESCE(p_tenant <> '' AND
       sha256(k.opad || convert_to(split_part(p_proof, '.', 3), 'UTF8')) =
       sha256(k.opad || convert_to(encode(sha256(k.opad || sha256(k.ipad ||
              convert_to('p1|' || pg_backend_pid() || '|' || v_exp || '|' || p_tenant, 'UTF8'))), 'hex'), 'UTF8')), false)
  THEN RAISE EXCEPTION 'pgtenant: proof refused' USING ERRCODE = '28000'; END IF;
  IF v_exp::float8 < date_part('epoch', clock_timestamp())
  THEN RAISE EXCEPTION 'pgtenant: proof expired' USING ERRCODE = '28000'; END IF;
  v_tag := v_kid || '.' || encode(sha256(k.t_opad || sha256(k.t_ipad ||
              int4send(pg_backend_pid()) || timestamptz_send(now()) || convert_to(p_tenant, 'UTF8'))), 'hex') || '.' || p_tenant;
  -- Assignments, which cost no query of their own.
  v_tag := set_config('pgtenant.tag', v_tag, true);
  v_tag := set_config({setting}, p_tenant, true);
END
