-- What every check may ask for. $1: the login role, $2: tenancy.setting, $3: whether the context is sealed,
-- $4: whether the guard is strict, $5 and $6: tenants' own schemas and the role of each, $7: roles that sessions may set. A table expression that a check does not name costs nothing.
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
-- Roles that sessions may set, and every role that each can become.
set_role AS (SELECT r.oid, r.rolname FROM pg_roles r WHERE r.rolname = ANY ($7::text[])),
set_hat AS (
    SELECT oid AS wearer, oid AS roleid FROM set_role
    UNION SELECT h.wearer, m.roleid FROM pg_auth_members m JOIN set_hat h ON m.member = h.roleid
),
-- How each gets there, as what takes it back.
set_grant AS (
    SELECT h.wearer, m.roleid, string_agg(DISTINCT format('REVOKE %I FROM %I;', r.rolname, u.rolname), ' ') AS taken_back
    FROM set_hat h JOIN pg_auth_members m ON m.member = h.roleid JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
    GROUP BY h.wearer, m.roleid
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
-- A domain may stand on another.
domain AS (
    SELECT oid, typbasetype AS base FROM pg_type WHERE typtype = 'd'
    UNION
    SELECT d.oid, t.typbasetype FROM domain d JOIN pg_type t ON t.oid = d.base AND t.typtype = 'd'
),
-- The column that a tenant table's rows are pinned by: one that its own policies compare, if there is any.
pin_column AS (
    SELECT DISTINCT ON (t.relid) t.relid, a.attnum, quote_ident(a.attname) AS name, b.oid AS type, b.typcategory = 'S' AS is_text,
           -- A cast to bpchar keeps its index; one to name would cut a long tenant's id short.
           CASE WHEN b.typcategory = 'S' AND b.oid <> 'bpchar'::regtype THEN '' ELSE '::' || format_type(b.oid, -1) END AS cast
    FROM tenant_column t JOIN pg_attribute a ON a.attrelid = t.relid AND a.attnum = t.attnum
    LEFT JOIN (domain d JOIN pg_type y ON y.oid = d.base AND y.typtype <> 'd') ON d.oid = a.atttypid
    JOIN pg_type b ON b.oid = coalesce(d.base, a.atttypid)
    ORDER BY t.relid, NOT EXISTS (SELECT FROM own_column o WHERE o.relid = t.relid AND o.attnum = t.attnum), t.attnum
),
-- What protects a tenant table: its pin alone, and all of it. Each can be run as it stands, and again.
mend AS (
    SELECT c.relid, CASE WHEN mode.sealed THEN s.by_command ELSE s.pin END AS pin, CASE WHEN mode.sealed THEN s.by_command ELSE s.start || s.pin END AS whole
    FROM mode CROSS JOIN pin_column c
    CROSS JOIN LATERAL (SELECT format('(SELECT NULLIF(current_setting(%L, true), '''')%s)', $2::text, c.cast) AS tenant) t
    CROSS JOIN LATERAL (SELECT format('pgtenant protect --table %s --apply', c.relid::regclass) AS by_command,
        format('ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY;'||chr(10)||'ALTER TABLE %1$s FORCE ROW LEVEL SECURITY;'||chr(10)||
            'DROP POLICY IF EXISTS pgtenant_tenant ON %1$s;'||chr(10)||'CREATE POLICY pgtenant_tenant ON %1$s USING (%2$s = %3$s);'||chr(10),
            c.relid::regclass, c.name, t.tenant) AS start,
        format('DROP POLICY IF EXISTS pgtenant_pin ON %1$s;'||chr(10)||'CREATE POLICY pgtenant_pin ON %1$s AS RESTRICTIVE'||chr(10)||
            '  USING (coalesce(%2$s = ANY (ARRAY[%3$s]), false));', c.relid::regclass, c.name, t.tenant) AS pin) s
),
-- The forms that the planner does not merge with a client's condition, as PostgreSQL prints them. The self-test tries each.
pin_form AS (
    SELECT t.relid, f.form
    FROM tenant_column t CROSS JOIN mode
    CROSS JOIN LATERAL (SELECT '[a-z0-9_ ".]+' AS type, regexp_replace(quote_ident(t.attname), '([^[:alnum:]_])', '\\\1', 'g') AS word,
        'current_setting\(''' || replace($2::text, '.', '\.') || '''(::text)?(, (true|false))?\)' AS setting) w
    CROSS JOIN LATERAL (SELECT '(pgtenant\.current_tenant\(\)'
        || CASE WHEN mode.sealed THEN '' ELSE '|' || w.setting || '|NULLIF\(' || w.setting || ', ''''(::text)?\)' END || ')' AS tenant) v
    CROSS JOIN LATERAL (SELECT '(' || w.word || '|\(' || w.word || '\)::' || w.type || ') = ' AS left_side,
        '\(+ ?SELECT \(*' || v.tenant || '\)*(::' || w.type || ')?( AS "?[a-z0-9_]+"?)?\)+(::' || w.type || ')?' AS right_side) s
    CROSS JOIN LATERAL (SELECT s.left_side || 'ANY \(\(?ARRAY\[' || s.right_side || '\]\)?(::' || w.type || '\[\])?\)' AS any_of,
        s.left_side || s.right_side AS equal) e
    CROSS JOIN LATERAL (SELECT '(\(' || e.any_of || '\)|COALESCE\(\((' || e.any_of || '|' || e.equal || ')\), false\)|\(\(' || e.equal || '\) IS TRUE\))' AS form) f
),
pin AS (
    SELECT DISTINCT p.oid, p.relid FROM policy p JOIN pin_form f ON f.relid = p.relid
    WHERE p.qual ~ ('^' || f.form || '$') OR p.qual ~ ('^\(' || f.form || ' AND ')
),
-- Tables with such a policy that is restrictive and for everything, as `pgtenant protect` makes it.
pinned AS (
    SELECT DISTINCT p.relid FROM policy p
    WHERE NOT p.polpermissive AND p.polcmd = '*' AND p.applies AND (p.checked = '' OR p.checked = p.qual) AND p.oid IN (SELECT oid FROM pin)
),
-- Tables where nothing can be merged: pinned, or with such forms only, whomever they are for: a view reads as another role.
held AS (
    SELECT relid FROM pinned
    UNION
    SELECT p.relid FROM policy p WHERE p.polpermissive AND p.qual <> ''
    GROUP BY p.relid HAVING bool_and(p.oid IN (SELECT oid FROM pin))
),
-- Tables where a restrictive policy ties everything to the tenant, in whatever form.
guarded AS (
    SELECT DISTINCT p.relid
    FROM policy p JOIN own_column o ON o.relid = p.relid CROSS JOIN source s
    WHERE NOT p.polpermissive AND p.polcmd = '*' AND p.applies
      AND p.qual ~* s.pattern AND p.qual ~ ('(^|[^a-zA-Z0-9_])' || regexp_replace(o.attname, '([^[:alnum:]_])', '\\\1', 'g') || '($|[^a-zA-Z0-9_])')
      AND (p.checked = '' OR p.checked ~* s.pattern)
),
-- Which functions find temporary objects last. Where pg_temp is not named, PostgreSQL looks there first for types and tables.
search_path AS (
    SELECT p.oid, coalesce(c.path ~ ', *"?pg_temp"?(,|$)', false) AS ends_with_temp,
           format('ALTER ROUTINE %s SET search_path = %s, pg_temp;', p.oid::regprocedure,
               coalesce(NULLIF(regexp_replace(c.path, '^"?pg_temp"?(, *|$)|^""$', ''), ''),
                   CASE WHEN p.prosecdef OR c.path IS NOT NULL THEN 'pg_catalog' ELSE concat_ws(', ', 'pg_catalog', quote_ident(n.nspname), CASE WHEN n.nspname <> 'public' THEN to_regnamespace('public')::text END) END)) AS mend
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    LEFT JOIN LATERAL (SELECT substr(c, length('search_path=') + 1) AS path FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%') c ON true
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
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
