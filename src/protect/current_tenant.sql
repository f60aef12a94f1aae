
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
