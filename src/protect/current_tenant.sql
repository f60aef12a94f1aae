
-- The tag holds for this server process and this transaction only. See pgtenant.enter for how keys are used.
DECLARE
  c text := current_setting('pgtenant.tag', true);
  k pgtenant.key;
  v_kid text;
  t text;
BEGIN
  IF c IS NULL OR c = '' THEN RAISE EXCEPTION 'pgtenant: no tenant context' USING ERRCODE = '28000'; END IF;
  v_kid := split_part(c, '.', 1);
  t := substr(c, length(v_kid) + 67);
  SELECT * INTO k FROM pgtenant.key WHERE kid = v_kid;
  IF NOT COALESCE(t <> '' AND
       sha256(k.t_opad || convert_to(substr(c, length(v_kid) + 2, 64), 'UTF8')) =
       sha256(k.t_opad || convert_to(encode(sha256(k.t_opad || sha256(k.t_ipad ||
              int4send(pg_backend_pid()) || timestamptz_send(now()) || convert_to(t, 'UTF8'))), 'hex'), 'UTF8')), false)
  THEN RAISE EXCEPTION 'pgtenant: forged or stale tenant context' USING ERRCODE = '28000'; END IF;
  RETURN t;
END
