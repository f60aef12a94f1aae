
-- The register holds the digest of the tenant that this server process was handed over to last; currval fails
-- while it is empty. A tag comes from pgtenant.enter and holds for this server process and this transaction only.
-- Policies call this once a statement, so it has no SET search_path, which costs as much as the look at the register:
-- every name, type and operator is qualified instead.
BEGIN
  IF (CASE WHEN pg_catalog.current_setting('pgtenant.tag', true) OPERATOR(pg_catalog.<>) '' AND {tags} THEN false
           WHEN pg_catalog.current_setting({setting}, true) OPERATOR(pg_catalog.<>) ''
           THEN pg_catalog.int8send(pg_catalog.currval('pgtenant.register_1'::pg_catalog.regclass))
                OPERATOR(pg_catalog.||) pg_catalog.int8send(pg_catalog.currval('pgtenant.register_2'::pg_catalog.regclass))
                OPERATOR(pg_catalog.=) pg_catalog.substr(pg_catalog.sha256(pg_catalog.convert_to(
                  pg_catalog.current_setting({setting}, true), 'UTF8')), 1, 16) END)
  THEN RETURN pg_catalog.current_setting({setting}); END IF;
  DECLARE
    v_tag pg_catalog.text := pg_catalog.current_setting('pgtenant.tag', true);
    v_tenant pg_catalog.text;
  BEGIN
    IF v_tag IS NULL OR v_tag OPERATOR(pg_catalog.=) '' OR NOT {tags}
    THEN RAISE EXCEPTION 'pgtenant: no tenant context' USING ERRCODE = '28000'; END IF;
    SELECT pg_catalog.substr(v_tag, pg_catalog.length(k.kid) OPERATOR(pg_catalog.+) 67)
    INTO v_tenant
    FROM pgtenant.key AS k
    WHERE k.kid OPERATOR(pg_catalog.=) pg_catalog.split_part(v_tag, '.', 1)
      AND pg_catalog.substr(v_tag, pg_catalog.length(k.kid) OPERATOR(pg_catalog.+) 67) OPERATOR(pg_catalog.<>) ''
      AND pg_catalog.sha256(k.t_opad OPERATOR(pg_catalog.||) pg_catalog.convert_to(
            pg_catalog.substr(v_tag, pg_catalog.length(k.kid) OPERATOR(pg_catalog.+) 2, 64), 'UTF8')) OPERATOR(pg_catalog.=)
          pg_catalog.sha256(k.t_opad OPERATOR(pg_catalog.||) pg_catalog.convert_to(pg_catalog.encode(
            pg_catalog.sha256(k.t_opad OPERATOR(pg_catalog.||) pg_catalog.sha256(k.t_ipad OPERATOR(pg_catalog.||)
              pg_catalog.int4send(pg_catalog.pg_backend_pid()) OPERATOR(pg_catalog.||)
              pg_catalog.timestamptz_send(pg_catalog.now()) OPERATOR(pg_catalog.||) pg_catalog.convert_to(
                pg_catalog.substr(v_tag, pg_catalog.length(k.kid) OPERATOR(pg_catalog.+) 67), 'UTF8'))), 'hex'), 'UTF8'));
    IF v_tenant IS NULL
    THEN RAISE EXCEPTION 'pgtenant: forged or stale tenant context' USING ERRCODE = '28000'; END IF;
    RETURN v_tenant;
  END;
END
