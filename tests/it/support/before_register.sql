-- Takes a protected database back to what protect installed before there was a register.
DROP FUNCTION pgtenant.hand_over(text, text);
DROP SEQUENCE pgtenant.register_1, pgtenant.register_2;
ALTER FUNCTION pgtenant.enter(text, text) OWNER TO app_owner;
ALTER FUNCTION pgtenant.current_tenant() OWNER TO app_owner;
REVOKE ALL ON SCHEMA pgtenant FROM pgtenant_register;
REVOKE ALL ON pgtenant.key FROM pgtenant_register;
DROP ROLE pgtenant_register;
CREATE OR REPLACE FUNCTION pgtenant.enter(p_tenant text, p_proof text) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $pgtenant$
-- One query does all: each further expression costs as much as a hash. Keys are columns in it, never parameters,
-- because parameters become constants of its plan, which debug_print_plan shows.
DECLARE
  v_done text;
BEGIN
  SELECT set_config('pgtenant.tag', k.kid || '.' || encode(sha256(k.t_opad || sha256(k.t_ipad ||
              int4send(pg_backend_pid()) || timestamptz_send(now()) || convert_to(p_tenant, 'UTF8'))), 'hex') || '.' || p_tenant, true)
         || set_config('app.tenant_id', p_tenant, true)
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
$pgtenant$;
CREATE OR REPLACE FUNCTION pgtenant.current_tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED COST 1000
SET search_path = pg_catalog, pg_temp AS $pgtenant$
-- The tag holds for this server process and this transaction only. See pgtenant.enter for how keys are used.
DECLARE
  c text := current_setting('pgtenant.tag', true);
  t text;
BEGIN
  SELECT substr(c, length(k.kid) + 67)
  INTO t
  FROM pgtenant.key AS k
  WHERE k.kid = split_part(c, '.', 1) AND substr(c, length(k.kid) + 67) <> ''
    AND sha256(k.t_opad || convert_to(substr(c, length(k.kid) + 2, 64), 'UTF8')) =
        sha256(k.t_opad || convert_to(encode(sha256(k.t_opad || sha256(k.t_ipad ||
               int4send(pg_backend_pid()) || timestamptz_send(now()) || convert_to(substr(c, length(k.kid) + 67), 'UTF8'))), 'hex'), 'UTF8'));
  IF t IS NULL THEN
    IF c IS NULL OR c = '' THEN RAISE EXCEPTION 'pgtenant: no tenant context' USING ERRCODE = '28000'; END IF;
    RAISE EXCEPTION 'pgtenant: forged or stale tenant context' USING ERRCODE = '28000';
  END IF;
  RETURN t;
END
$pgtenant$;
