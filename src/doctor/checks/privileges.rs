//! Privileges that row-level security does not cover, and what all sessions of one role share.

use super::super::FindingSeverity::{Critical, Warning};
use super::super::check::{Check, Rank};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D17", Rank::Always(Critical)),
        "privileges that policies do not cover",
        "TRUNCATE removes every tenant's rows, REFERENCES tells which exist, TRIGGER runs code in others' statements.",
        r"SELECT c.oid::regclass::text AS object, format('the login role has %s', string_agg(k.privilege, ', ' ORDER BY k.privilege)) AS message,
       format('REVOKE %s ON %s FROM %I, PUBLIC;', string_agg(k.privilege, ', ' ORDER BY k.privilege), c.oid::regclass, min(me.rolname)) AS fix,
       CASE WHEN c.oid IN (SELECT oid FROM tenant_table) THEN 'critical' ELSE 'warning' END AS severity
FROM rel c CROSS JOIN me CROSS JOIN unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) k(privilege)
WHERE c.relkind IN ('r', 'p') AND NOT me.rolsuper AND c.relowner NOT IN (SELECT roleid FROM hat)
  AND has_schema_privilege(me.oid, c.relnamespace, 'USAGE') AND has_table_privilege(me.oid, c.oid, k.privilege)
GROUP BY c.oid",
    ),
    Check::new(
        ("D42", Rank::Always(Warning)),
        "the privilege MAINTAIN",
        "It lets a session lock and rewrite a table that all tenants share.",
        r"SELECT c.oid::regclass::text AS object, 'the login role has MAINTAIN' AS message, format('REVOKE MAINTAIN ON %s FROM %I, PUBLIC;', c.oid::regclass, me.rolname) AS fix
FROM rel c CROSS JOIN me
WHERE c.relkind IN ('r', 'p', 'm') AND NOT me.rolsuper AND c.relowner NOT IN (SELECT roleid FROM hat) AND has_table_privilege(me.oid, c.oid, 'MAINTAIN')",
    )
    .since(170_000),
    Check::new(
        ("D18", Rank::Always(Warning)),
        "the login role may create objects",
        "Objects of one tenant's making stand in the way of another's names, and code can do what the guard cannot see.",
        r"SELECT format('schema %I', n.nspname) AS object, 'the login role may create objects in it' AS message, format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, %I;', n.nspname, me.rolname) AS fix,
       CASE WHEN mode.strict THEN 'advice' ELSE 'warning' END AS severity
FROM pg_namespace n CROSS JOIN me CROSS JOIN mode WHERE has_schema_privilege(me.oid, n.oid, 'CREATE') AND n.nspname !~ '^pg_' AND NOT me.rolsuper
UNION ALL
-- TEMP stays: tenants may have temporary tables, and the reset and the self-test of the pin (D40) need it.
SELECT format('database %I', d.datname), 'the login role has CREATE', format('REVOKE CREATE ON DATABASE %I FROM PUBLIC, %I;', d.datname, me.rolname),
       CASE WHEN mode.strict THEN 'advice' ELSE 'warning' END
FROM pg_database d CROSS JOIN me CROSS JOIN mode
WHERE d.datname = current_database() AND has_database_privilege(me.oid, d.oid, 'CREATE') AND NOT me.rolsuper
UNION ALL
SELECT format('language %I', l.lanname), 'the login role may write code in it', format('REVOKE USAGE ON LANGUAGE %I FROM PUBLIC, %I;', l.lanname, me.rolname),
       CASE WHEN mode.strict THEN 'advice' ELSE 'warning' END
FROM pg_language l CROSS JOIN me CROSS JOIN mode WHERE l.lanname NOT IN ('internal', 'c') AND has_language_privilege(me.oid, l.oid, 'USAGE') AND NOT me.rolsuper",
    ),
    Check::new(
        ("D23", Rank::Always(Warning)),
        "sequences that can be set or looked at",
        "setval disturbs every tenant, and the last value tells how much others store.",
        r"SELECT c.oid::regclass::text AS object, format('the login role has %s', concat_ws(', ', CASE WHEN x.sets THEN 'UPDATE (setval)' END, CASE WHEN x.looks THEN 'SELECT (last_value)' END)) AS message,
       format('REVOKE UPDATE, SELECT ON SEQUENCE %s FROM %I; GRANT USAGE ON SEQUENCE %1$s TO %2$I;', c.oid::regclass, me.rolname) AS fix
FROM rel c CROSS JOIN me CROSS JOIN LATERAL (SELECT has_sequence_privilege(me.oid, c.oid, 'UPDATE') AS sets, has_sequence_privilege(me.oid, c.oid, 'SELECT') AS looks) x
WHERE c.relkind = 'S' AND NOT me.rolsuper AND (x.sets OR x.looks)",
    ),
    Check::new(
        ("D25", Rank::BehindGuard),
        "built-in functions that reach other sessions or hide SQL",
        "They change settings, run SQL given as text, signal other tenants' sessions, or store things outside of tables.",
        r"SELECT 'pg_catalog' AS object, format('the login role may call %s', string_agg(DISTINCT p.proname, ', ' ORDER BY p.proname)) AS message,
       'REVOKE EXECUTE ON FUNCTION … FROM PUBLIC; -- as a superuser; pgtenant protect prints them' AS fix
FROM pg_proc p CROSS JOIN me
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND NOT me.rolsuper AND has_function_privilege(me.oid, p.oid, 'EXECUTE')
  AND (p.proname IN ('set_config', 'pg_cancel_backend', 'pg_terminate_backend', 'query_to_xml', 'query_to_xmlschema', 'query_to_xml_and_xmlschema',
      'cursor_to_xml', 'cursor_to_xmlschema', 'ts_stat', 'ts_rewrite', 'pg_notify', 'setseed', 'pg_export_snapshot', 'pg_stat_get_activity',
      'pg_stat_get_backend_activity', 'pg_stat_clear_snapshot', 'lastval', 'loread', 'lowrite', 'lo_from_bytea', 'lo_get', 'lo_put', 'lo_open',
      'lo_creat', 'lo_create', 'lo_unlink', 'pg_read_file', 'pg_ls_dir', 'pg_current_logfile', 'currtid2', 'pg_log_backend_memory_contexts',
      'pg_cursor', 'pg_prepared_statement', 'pg_prepared_xact', 'pg_lock_status')
    OR p.proname ~ '^pg_(try_)?advisory_')
HAVING count(*) > 0",
    ),
    Check::new(
        ("D32", Rank::Always(Warning)),
        "large objects of the login role",
        "They belong to the one role that all tenants share; row-level security does not cover them.",
        r"SELECT 'large objects' AS object, format('%s large objects can be read by every tenant', count(*)) AS message, 'move them into a table with a tenant column, then lo_unlink' AS fix
FROM pg_largeobject_metadata l WHERE l.lomowner IN (SELECT roleid FROM hat) HAVING count(*) > 0",
    ),
    Check::new(
        ("D33", Rank::BehindGuard),
        "views that show other sessions",
        "Sessions of one role see each other's SQL texts, locks, prepared statements and what ANALYZE found in temporary tables.",
        r"SELECT c.oid::regclass::text AS object, 'the login role can read it' AS message, format('REVOKE SELECT ON %s FROM PUBLIC, %I; -- as a superuser', c.oid::regclass, me.rolname) AS fix
FROM pg_class c CROSS JOIN me
WHERE c.relkind = 'v' AND c.relname IN ('pg_stat_activity', 'pg_prepared_statements', 'pg_cursors', 'pg_locks', 'pg_stat_statements', 'pg_prepared_xacts',
    'pg_stats', 'pg_stats_ext', 'pg_stats_ext_exprs')
  AND NOT me.rolsuper AND has_table_privilege(me.oid, c.oid, 'SELECT') AND has_schema_privilege(me.oid, c.relnamespace, 'USAGE')",
    ),
    Check::new(
        ("D35", Rank::Sealed),
        "who can read the seal's key",
        "Whoever has the key can make the proof of any tenant.",
        r"SELECT format('role %I', r.rolname) AS object, 'can read pgtenant.key' AS message, format('REVOKE ALL ON pgtenant.key FROM %I, PUBLIC;', r.rolname) AS fix,
       CASE WHEN r.oid IN (SELECT roleid FROM hat) THEN NULL ELSE 'advice' END AS severity
FROM pg_roles r JOIN pg_class k ON k.oid = (SELECT oid FROM own_table WHERE name = 'key')
WHERE NOT r.rolsuper AND r.oid <> k.relowner AND r.rolname <> 'pgtenant_register' AND r.rolname !~ '^pg_' AND has_any_column_privilege(r.oid, k.oid, 'SELECT')",
    ),
    Check::new(
        ("D46", Rank::Always(Critical)),
        "the directory's tables are open to tenants",
        "Whoever reads pgtenant.users can try passwords at leisure; whoever writes it logs in as any tenant.",
        r"SELECT c.oid::regclass::text AS object, format('the login role can %s it', CASE WHEN x.writes THEN 'change' ELSE 'read' END) AS message,
       format('REVOKE ALL ON %s FROM %I, PUBLIC;', c.oid::regclass, me.rolname) AS fix
FROM pg_class c CROSS JOIN me
CROSS JOIN LATERAL (SELECT has_any_column_privilege(me.oid, c.oid, 'INSERT,UPDATE') OR has_table_privilege(me.oid, c.oid, 'DELETE,TRUNCATE,TRIGGER') AS writes) x
WHERE c.oid IN (SELECT oid FROM own_table WHERE name IN ('users', 'tenants')) AND NOT me.rolsuper
  AND has_schema_privilege(me.oid, c.relnamespace, 'USAGE') AND (x.writes OR has_any_column_privilege(me.oid, c.oid, 'SELECT'))",
    ),
    Check::new(
        ("D47", Rank::Always(Critical)),
        "tenants' schemas that others may use",
        "A schema is a tenant's own only if no other tenant's role can use it, become its role, or pass by all privileges.",
        r"SELECT format('schema %I', s.nspname) AS object,
       format('%s may use it', CASE WHEN x.grantee = 0 THEN 'every role' ELSE format('the role %I of another tenant', min(w.rolname)) END) AS message,
       format('REVOKE ALL ON SCHEMA %I FROM %s;', s.nspname, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE format('%I', min(g.rolname)) END) AS fix
FROM own_schema s CROSS JOIN LATERAL aclexplode(s.nspacl) x
LEFT JOIN tenant_hat h ON h.roleid = x.grantee AND h.wearer IS DISTINCT FROM s.roleid
LEFT JOIN pg_roles w ON w.oid = h.wearer LEFT JOIN pg_roles g ON g.oid = x.grantee
WHERE (x.grantee = 0 OR h.wearer IS NOT NULL)
GROUP BY s.nspname, x.grantee
UNION ALL
SELECT format('schema %I', s.nspname), format('it belongs to %I, which the role %I of another tenant is or can become', o.rolname, min(w.rolname)),
       format('ALTER SCHEMA %I OWNER TO …;', s.nspname)
FROM own_schema s JOIN pg_roles o ON o.oid = s.nspowner JOIN tenant_hat h ON h.roleid = s.nspowner JOIN pg_roles w ON w.oid = h.wearer
WHERE h.wearer IS DISTINCT FROM s.roleid
GROUP BY s.nspname, o.rolname
UNION ALL
SELECT format('role %I', w.rolname), format('it can become %I, the role of another tenant', r.rolname), format('REVOKE %I FROM %I;', r.rolname, w.rolname)
FROM tenant_hat h JOIN own_schema s ON s.roleid = h.roleid AND h.wearer <> h.roleid JOIN pg_roles w ON w.oid = h.wearer JOIN pg_roles r ON r.oid = h.roleid
UNION ALL
SELECT format('role %I', r.rolname), format('it has %s', a.attribute), format('ALTER ROLE %I NO%s;', r.rolname, a.attribute)
FROM (SELECT DISTINCT roleid FROM own_schema) s JOIN pg_roles r ON r.oid = s.roleid
CROSS JOIN LATERAL (VALUES ('SUPERUSER', r.rolsuper), ('BYPASSRLS', r.rolbypassrls), ('CREATEROLE', r.rolcreaterole), ('REPLICATION', r.rolreplication)) a(attribute, has)
WHERE a.has
UNION ALL
SELECT format('role %I', w.rolname), format('it is a member of %I, which passes by the privileges of schemas', r.rolname), format('REVOKE %I FROM %I;', r.rolname, w.rolname)
FROM tenant_hat h JOIN (SELECT DISTINCT roleid FROM own_schema) s ON s.roleid = h.wearer JOIN pg_roles w ON w.oid = h.wearer JOIN pg_roles r ON r.oid = h.roleid
WHERE h.wearer <> h.roleid AND (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolreplication OR r.rolname IN
    ('pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_signal_backend'))
UNION ALL
SELECT format('role %I', min(r.role)), format('tenants share it for the schemas %s', string_agg(format('%I', r.nspname), ', ' ORDER BY r.nspname)), 'give each tenant a role of its own'
FROM own_schema r GROUP BY r.roleid HAVING count(*) > 1",
    ),
];
