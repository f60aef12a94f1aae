-- Tenant tables: the named ones and what inherits from them, or all that the login role can reach by itself or
-- through a view, or as a role that its sessions may set. $1: the login role, $2: the tenant column, $3: the named tables,
-- $4: those roles.
WITH RECURSIVE holder_role AS (SELECT oid, rolname FROM pg_roles WHERE rolname = $1::text::name OR (rolname = ANY ($4::text[]) AND pg_has_role($1::text::name, oid, 'MEMBER'))),
reached AS (
    SELECT c.oid, c.relkind
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN holder_role r
    WHERE c.relkind IN ('r', 'p', 'v') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgtenant')
      AND has_schema_privilege(r.oid, n.oid, 'USAGE')
      AND (has_table_privilege(r.oid, c.oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER')
           OR has_any_column_privilege(r.oid, c.oid, 'SELECT,INSERT,UPDATE,REFERENCES'))
    UNION
    -- What a view reads needs no privilege of the login role. A materialised view holds a copy that no policy filters.
    SELECT d.refobjid, c.relkind
    FROM reached v
    JOIN pg_rewrite w ON v.relkind = 'v' AND w.ev_class = v.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = d.refobjid
),
named AS (
    SELECT unnest($3::oid[]) AS oid
    UNION
    SELECT i.inhrelid FROM named JOIN pg_inherits i ON i.inhparent = named.oid
),
-- A domain may stand on another.
domain (oid, base) AS (
    SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd'
    UNION
    SELECT d.oid, t.typbasetype FROM domain d JOIN pg_type t ON t.oid = d.base AND t.typtype = 'd'
),
based AS (
    SELECT d.oid, d.base FROM domain d JOIN pg_type t ON t.oid = d.base AND t.typtype <> 'd'
)
SELECT c.oid,
       format('%I.%I', n.nspname, c.relname),
       quote_ident(a.attname),
       -- A cast to bpchar keeps its index; one to name would cut a long tenant's id short.
       CASE WHEN t.typcategory = 'S' AND t.oid <> 'bpchar'::regtype THEN NULL ELSE format_type(t.oid, -1) END,
       c.relrowsecurity,
       c.relforcerowsecurity,
       pg_has_role(current_user, c.relowner, 'USAGE'),
       EXISTS (SELECT FROM holder_role r WHERE pg_has_role(r.oid, c.relowner, 'MEMBER')),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = a.attnum),
       c.relkind = 'p',
       ARRAY(SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END
             FROM (SELECT c.relacl AS acl UNION ALL
                   SELECT attacl FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) AS s
             CROSS JOIN LATERAL aclexplode(s.acl) AS x LEFT JOIN holder_role r ON r.oid = x.grantee
             WHERE (x.grantee = 0 OR r.oid IS NOT NULL) AND x.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')
             ORDER BY 1),
       EXISTS (SELECT FROM holder_role r WHERE has_table_privilege(r.oid, c.oid, 'TRUNCATE,REFERENCES,TRIGGER'))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2::text::name AND NOT a.attisdropped
LEFT JOIN based ON based.oid = a.atttypid
JOIN pg_type t ON t.oid = coalesce(based.base, a.atttypid)
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgtenant')
  AND CASE WHEN cardinality($3::oid[]) = 0 THEN c.oid IN (SELECT oid FROM reached)
           ELSE c.oid = ANY ($3) OR (c.oid IN (SELECT oid FROM named) AND c.oid IN (SELECT oid FROM reached)) END
ORDER BY 2
