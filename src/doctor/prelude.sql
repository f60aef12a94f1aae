-- What every check may ask for. $1: the login role, $2: tenancy.setting, $3: whether the context is sealed,
-- $4: whether the guard is strict, $5 and $6: tenants' own schemas and the role of each. A table expression that a check does not name costs nothing.
WITH RECURSIVE
me AS (
    SELECT r.oid, r.rolname, r.rolsuper FROM pg_roles r WHERE r.rolname = $1::text::name
),
-- What is ours, found in the catalogs: to name it, the login role would need USAGE on the schema.
own_table AS (
    SELECT c.oid, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgtenant'
),
own_function AS (
    SELECT p.oid, p.proname || '(' || oidvectortypes(p.proargtypes) || ')' AS name
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'pgtenant'
),
-- The register's sequences, the functions that use them, and the role that both belong to.
own_sequence AS (
    SELECT c.oid, c.relowner FROM pg_class c JOIN own_table o ON o.oid = c.oid WHERE c.relkind = 'S' AND o.name IN ('register_1', 'register_2')
),
own_door AS (
    SELECT p.oid, p.proowner FROM pg_proc p JOIN own_function o ON o.oid = p.oid
    WHERE o.name IN ('hand_over(text, text)', 'enter(text, text)', 'current_tenant()')
),
register_role AS (SELECT * FROM pg_roles WHERE rolname = 'pgtenant_register'),
-- Schemas that are one tenant's own.
own_schema AS (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl, p.role, r.oid AS roleid
    FROM unnest($5::text[], $6::text[]) AS p(schema, role)
    JOIN pg_namespace n ON n.nspname = p.schema::name LEFT JOIN pg_roles r ON r.rolname = p.role::name
),
-- The roles of tenants with a schema, the pool's login role among them, and every role that each can become.
tenant_hat AS (
    SELECT roleid AS wearer, roleid FROM own_schema WHERE roleid IS NOT NULL
    UNION SELECT oid, oid FROM me
    UNION SELECT h.wearer, m.roleid FROM pg_auth_members m JOIN tenant_hat h ON m.member = h.roleid
),
mode AS (SELECT $3::bool AS sealed, $4::bool AS strict),
-- The login role and every role that it can become.
hat AS (
    SELECT oid AS roleid FROM me
    UNION SELECT m.roleid FROM pg_auth_members m JOIN hat h ON m.member = h.roleid
),
-- Roles that row-level security does not hold.
free AS (SELECT oid AS roleid FROM pg_roles WHERE rolsuper OR rolbypassrls),
rel AS (
    SELECT c.oid, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.reloptions, c.relnamespace,
           n.nspname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
),
-- What the login role can read or write in tables and views; a superuser's privileges say nothing.
reach AS (
    SELECT r.oid AS relid,
           has_any_column_privilege(me.oid, r.oid, 'SELECT') AS reads,
           has_any_column_privilege(me.oid, r.oid, 'INSERT,UPDATE') OR has_table_privilege(me.oid, r.oid, 'DELETE') AS writes
    FROM rel r CROSS JOIN me
    WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_schema_privilege(me.oid, r.relnamespace, 'USAGE')
      AND (has_any_column_privilege(me.oid, r.oid, 'SELECT,INSERT,UPDATE,REFERENCES') OR has_table_privilege(me.oid, r.oid, 'DELETE'))
),
policy AS (
    SELECT p.oid, p.polrelid AS relid, p.polname, p.polcmd, p.polpermissive,
           coalesce(pg_get_expr(p.polqual, p.polrelid), '') AS qual,
           coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') AS checked,
           p.polroles = '{0}' OR EXISTS (SELECT FROM hat WHERE roleid = ANY (p.polroles)) AS applies
    FROM pg_policy p
),
-- How the tenant is written in an expression.
source AS (
    SELECT '(current_setting\(''' || replace($2::text, '.', '\.') || '''|pgtenant\.current_tenant\()' AS pattern
),
-- Columns that a table's own policies compare with the tenant.
own_column AS (
    SELECT DISTINCT p.relid, a.attnum, a.attname
    FROM policy p
    JOIN pg_attribute a ON a.attrelid = p.relid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN source s
    CROSS JOIN LATERAL (SELECT regexp_replace(quote_ident(a.attname), '([^[:alnum:]_])', '\\\1', 'g') AS word) w
    WHERE p.qual || ' ; ' || p.checked ~* ('(^|[( ])' || w.word || '\)?(::[a-z0-9_ ".]+)? = [^=;]*' || s.pattern)
       OR p.qual || ' ; ' || p.checked ~* (s.pattern || '[^=;]* = \(*' || w.word || '($|[) :])')
),
-- The same columns by name; a table's whole primary key names the table's own rows, not a tenant of others.
common_column AS (
    SELECT 'tenant_id'::name AS attname
    UNION
    SELECT o.attname FROM own_column o
    WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = o.relid AND i.indisprimary AND i.indnatts = 1 AND i.indkey[0] = o.attnum)
),
tenant_column AS (
    SELECT relid, attnum, attname FROM own_column
    UNION
    SELECT r.oid, a.attnum, a.attname
    FROM rel r
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN common_column c ON c.attname = a.attname
    WHERE r.relkind IN ('r', 'p', 'f', 'v', 'm')
),
tenant_table AS (
    SELECT r.* FROM rel r WHERE r.relkind IN ('r', 'p') AND EXISTS (SELECT FROM tenant_column t WHERE t.relid = r.oid)
),
-- Tables with a restrictive policy for everything, in the form that `pgtenant protect` makes.
pinned AS (
    SELECT DISTINCT p.relid
    FROM policy p
    JOIN tenant_column t ON t.relid = p.relid
    CROSS JOIN LATERAL (SELECT regexp_replace(quote_ident(t.attname), '([^[:alnum:]_])', '\\\1', 'g') AS word) w
    WHERE NOT p.polpermissive AND p.polcmd = '*' AND p.applies AND (p.checked = '' OR p.checked = p.qual)
      AND p.qual ~ ('^\(+' || w.word || '\)?(::[a-z0-9_ ".]+)? = (ANY \(\(?ARRAY\[)?\(+ ?SELECT \(*pgtenant\.current_tenant\(\)\)*(::[a-z0-9_ ".]+)?( AS "?[a-z0-9_]+"?)?\)+(::[a-z0-9_ ".]+)?(\]\)?(::[a-z0-9_ ".]+\[\])?\)\)|\) IS TRUE\))$')
),
-- Tables where a restrictive policy ties everything to the tenant, in whatever form.
guarded AS (
    SELECT DISTINCT p.relid
    FROM policy p JOIN own_column o ON o.relid = p.relid CROSS JOIN source s
    WHERE NOT p.polpermissive AND p.polcmd = '*' AND p.applies
      AND p.qual ~* s.pattern AND p.qual ~ ('(^|[^a-zA-Z0-9_])' || regexp_replace(o.attname, '([^[:alnum:]_])', '\\\1', 'g') || '($|[^a-zA-Z0-9_])')
      AND (p.checked = '' OR p.checked ~* s.pattern)
),
-- Which relations a view or a materialised view reads, however deep.
reads AS (
    SELECT DISTINCT w.ev_class AS viewid, d.refobjid AS relid
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    WHERE d.refobjid <> w.ev_class AND w.ev_class >= 16384
    UNION
    SELECT r.viewid, d.refobjid
    FROM reads r
    JOIN pg_rewrite w ON w.ev_class = r.relid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    WHERE d.refobjid <> w.ev_class AND w.ev_class >= 16384
)
