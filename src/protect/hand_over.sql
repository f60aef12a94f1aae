
-- A proof holds for one server process, one reset (its nonce) and a few seconds. Everything is verified before the
-- register is written, because an error does not undo setval. Keys are columns, never parameters: see pgtenant.enter.
-- Each call of a function costs its look-up, and an expression without a query costs least. A SET search_path would cost
-- more than the digest, so every name, type and operator is qualified instead.
DECLARE
  v_nonce pg_catalog.text := pg_catalog.current_setting('pgtenant.nonce', true);
  v_expiry pg_catalog.text := pg_catalog.split_part(p_proof, '.', 2);
  v_digest pg_catalog.bytea;
BEGIN
  -- The lengths of expiry and nonce leave one reading of what is signed, whatever the tenant's id holds. Digests of the
  -- two signatures are compared, so that the time of the comparison tells nothing of the right one.
  SELECT pg_catalog.sha256(pg_catalog.convert_to(p_tenant, 'UTF8'))
  INTO v_digest
  FROM pgtenant.key AS k
  WHERE k.kid OPERATOR(pg_catalog.=) pg_catalog.split_part(p_proof, '.', 1) AND p_tenant OPERATOR(pg_catalog.<>) ''
    AND pg_catalog.length(v_expiry) OPERATOR(pg_catalog.<=) 12 AND pg_catalog.length(v_nonce) OPERATOR(pg_catalog.=) 32
    AND pg_catalog.translate(v_nonce, '0123456789abcdef', '') OPERATOR(pg_catalog.=) ''
    AND pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.split_part(p_proof, '.', 3), 'UTF8')) OPERATOR(pg_catalog.=)
        pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.encode(pg_catalog.sha256(k.opad OPERATOR(pg_catalog.||)
          pg_catalog.sha256(k.ipad OPERATOR(pg_catalog.||) pg_catalog.convert_to(pg_catalog.concat_ws('|',
            'p2', pg_catalog.pg_backend_pid(), v_expiry, v_nonce, p_tenant), 'UTF8'))), 'hex'), 'UTF8'));
  IF v_digest IS NULL
  THEN
    IF pg_catalog.length(v_nonce) OPERATOR(pg_catalog.=) 32
    THEN RAISE EXCEPTION 'pgtenant: proof refused' USING ERRCODE = '28000'; END IF;
    RAISE EXCEPTION 'pgtenant: no reset before the hand-over' USING ERRCODE = '28000';
  END IF;
  IF v_expiry::pg_catalog.float8 OPERATOR(pg_catalog.<) pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
  THEN RAISE EXCEPTION 'pgtenant: proof expired' USING ERRCODE = '28000'; END IF;
  RETURN CASE WHEN
    pg_catalog.setval('pgtenant.register_1'::pg_catalog.regclass, ('x' OPERATOR(pg_catalog.||) pg_catalog.encode(
      pg_catalog.substr(v_digest, 1, 8), 'hex'))::pg_catalog.bit(64)::pg_catalog.int8) IS NOT NULL
    AND pg_catalog.setval('pgtenant.register_2'::pg_catalog.regclass, ('x' OPERATOR(pg_catalog.||) pg_catalog.encode(
      pg_catalog.substr(v_digest, 9, 8), 'hex'))::pg_catalog.bit(64)::pg_catalog.int8) IS NOT NULL
    AND pg_catalog.set_config({setting}, p_tenant, false) IS NOT NULL
    AND pg_catalog.set_config('pgtenant.nonce', '', false) IS NOT NULL
    THEN v_nonce END;
END
