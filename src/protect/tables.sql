SELECT c.oid,
       format('%I.%I', n.nspname, c.relname),
       quote_ident(a.attname),
       CASE WHEN b.typcategory = 'S' AND b.oid NOT IN ('bpchar'::regtype, 'name'::regtype) THEN NULL
            ELSE format_type(b.oid, -1) END,
       c.relrowsecurity,
       c.relforcerowsecurity,
       pg_has_role(current_user, c.relowner, 'USAGE'),
       pg_has_role(r.oid, c.relowner, 'MEMBER'),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = a.attnum),
       c.relkind = 'p',
       ARRAY(SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END
             FROM (SELECT c.relacl AS acl UNION ALL
                   SELECT attacl FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) AS s
             CROSS JOIN LATERAL aclexplode(s.acl) AS x
             WHERE x.grantee IN (0, r.oid) AND x.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')
             ORDER BY 1),
       has_table_privilege(r.oid, c.oid, 'TRUNCATE,REFERENCES,TRIGGER')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2::text::name AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
JOIN pg_roles r ON r.rolname = $1::text::name
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgtenant')
  AND CASE WHEN cardinality($3::oid[]) > 0 THEN c.oid = ANY ($3)
           ELSE has_schema_privilege(r.oid, n.oid, 'USAGE')
                AND (has_table_privilege(r.oid, c.oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER')
                     OR has_any_column_privilege(r.oid, c.oid, 'SELECT,INSERT,UPDATE,REFERENCES')) END
ORDER BY 2
