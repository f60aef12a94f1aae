
-- A proof holds for one server process, one reset (its nonce) and a few seconds. Everything is verified before the
-- register is written, because an error does not undo setval. Keys are columns, never parameters: see pgtenant.enter.
-- An assignment is evaluated without a query, which PERFORM is not.
DECLARE
  v_nonce text := current_setting('pgtenant.nonce', true);
  v_expiry text := split_part(p_proof, '.', 2);
  v_digest bytea;
  v_set int8;
  v_done text;
BEGIN
  IF v_nonce IS NULL OR length(v_nonce) <> 32 OR translate(v_nonce, '0123456789abcdef', '') <> ''
  THEN RAISE EXCEPTION 'pgtenant: no reset before the hand-over' USING ERRCODE = '28000'; END IF;
  -- The lengths of expiry and nonce leave one reading of what is signed, whatever the tenant's id holds.
  SELECT sha256(convert_to(p_tenant, 'UTF8'))
  INTO v_digest
  FROM pgtenant.key AS k
  WHERE k.kid = split_part(p_proof, '.', 1) AND p_tenant <> '' AND length(v_expiry) <= 12
    AND sha256(k.opad || convert_to(split_part(p_proof, '.', 3), 'UTF8')) =
        sha256(k.opad || convert_to(encode(sha256(k.opad || sha256(k.ipad || convert_to(
               'p2|' || pg_backend_pid() || '|' || v_expiry || '|' || v_nonce || '|' || p_tenant, 'UTF8'))), 'hex'), 'UTF8'));
  IF v_digest IS NULL THEN RAISE EXCEPTION 'pgtenant: proof refused' USING ERRCODE = '28000'; END IF;
  IF v_expiry::float8 < date_part('epoch', clock_timestamp())
  THEN RAISE EXCEPTION 'pgtenant: proof expired' USING ERRCODE = '28000'; END IF;
  v_set := setval('pgtenant.register_1'::regclass, ('x' || encode(substr(v_digest, 1, 8), 'hex'))::bit(64)::int8)
           # setval('pgtenant.register_2'::regclass, ('x' || encode(substr(v_digest, 9, 8), 'hex'))::bit(64)::int8);
  v_done := set_config({setting}, p_tenant, false) || set_config('pgtenant.nonce', '', false);
  RETURN v_nonce;
END
