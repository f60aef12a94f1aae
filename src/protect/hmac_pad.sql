
DECLARE
  r bytea := decode(repeat('00', 64), 'hex');
BEGIN
  FOR i IN 0..63 LOOP
    r := set_byte(r, i, (CASE WHEN i < length(k) THEN get_byte(k, i) ELSE 0 END) # x);
  END LOOP;
  RETURN r;
END
