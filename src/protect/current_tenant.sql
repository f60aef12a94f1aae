
-- The register holds the digest of the tenant that this server process was handed over to last; currval fails
-- while it is empty. A tag comes from pgtenant.enter and holds for this server process and this transaction only.
DECLARE
  v_tag text := current_setting('pgtenant.tag', true);
  v_tenant text;
BEGIN
  IF v_tag IS NULL OR v_tag = '' OR NOT {tags} THEN
    v_tenant := current_setting({setting}, true);
    IF v_tenant IS NOT NULL AND v_tenant <> ''
       AND int8send(currval('pgtenant.register_1'::regclass)) || int8send(currval('pgtenant.register_2'::regclass))
           = substr(sha256(convert_to(v_tenant, 'UTF8')), 1, 16)
    THEN RETURN v_tenant; END IF;
    RAISE EXCEPTION 'pgtenant: no tenant context' USING ERRCODE = '28000';
  END IF;
  SELECT substr(v_tag, length(k.kid) + 67)
  INTO v_tenant
  FROM pgtenant.key AS k
  WHERE k.kid = split_part(v_tag, '.', 1) AND substr(v_tag, length(k.kid) + 67) <> ''
    AND sha256(k.t_opad || convert_to(substr(v_tag, length(k.kid) + 2, 64), 'UTF8')) =
        sha256(k.t_opad || convert_to(encode(sha256(k.t_opad || sha256(k.t_ipad ||
               int4send(pg_backend_pid()) || timestamptz_send(now()) || convert_to(substr(v_tag, length(k.kid) + 67), 'UTF8'))), 'hex'), 'UTF8'));
  IF v_tenant IS NULL THEN RAISE EXCEPTION 'pgtenant: forged or stale tenant context' USING ERRCODE = '28000'; END IF;
  RETURN v_tenant;
END
