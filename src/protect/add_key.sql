
DECLARE
  p bytea := decode(hex, 'hex');
  t bytea := sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
  v_kid text := left(encode(sha256(convert_to('pgtenant kid', 'UTF8') || p), 'hex'), 8);
BEGIN
  IF length(p) IS DISTINCT FROM 32 THEN
    RAISE EXCEPTION 'pgtenant: a seal key has 64 hexadecimal digits' USING ERRCODE = '22023';
  END IF;
  INSERT INTO pgtenant.key (kid, ipad, opad, t_ipad, t_opad)
  VALUES (v_kid, pgtenant.hmac_pad(p, 54), pgtenant.hmac_pad(p, 92), pgtenant.hmac_pad(t, 54), pgtenant.hmac_pad(t, 92))
  ON CONFLICT (kid) DO NOTHING;
  RETURN v_kid;
END
