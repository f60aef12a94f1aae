
-- For instances of earlier versions, and for standbys, where no sequence can be set.
-- One query does all: each further expression costs as much as a hash. Keys are columns in it, never parameters,
-- because parameters become constants of its plan, which debug_print_plan shows.
DECLARE
  v_done text;
BEGIN
  IF NOT {tags} THEN RAISE EXCEPTION 'pgtenant: enter is retired, use hand_over' USING ERRCODE = '28000'; END IF;
  SELECT set_config('pgtenant.tag', k.kid || '.' || encode(sha256(k.t_opad || sha256(k.t_ipad ||
              int4send(pg_backend_pid()) || timestamptz_send(now()) || convert_to(p_tenant, 'UTF8'))), 'hex') || '.' || p_tenant, true)
         || set_config({setting}, p_tenant, true)
  INTO v_done
  FROM pgtenant.key AS k
  WHERE k.kid = split_part(p_proof, '.', 1) AND p_tenant <> ''
    AND sha256(k.opad || convert_to(split_part(p_proof, '.', 3), 'UTF8')) =
        sha256(k.opad || convert_to(encode(sha256(k.opad || sha256(k.ipad || convert_to(
               'p1|' || pg_backend_pid() || '|' || split_part(p_proof, '.', 2) || '|' || p_tenant, 'UTF8'))), 'hex'), 'UTF8'));
  IF v_done IS NULL THEN RAISE EXCEPTION 'pgtenant: proof refused' USING ERRCODE = '28000'; END IF;
  -- The error takes back what was set.
  IF split_part(p_proof, '.', 2)::float8 < date_part('epoch', clock_timestamp())
  THEN RAISE EXCEPTION 'pgtenant: proof expired' USING ERRCODE = '28000'; END IF;
END
