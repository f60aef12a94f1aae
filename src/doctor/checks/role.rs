//! The login role of the pool: what it is, what it can become, what it owns.

use super::super::FindingSeverity::{Critical, Warning};
use super::super::check::{Check, Rank};

/// The number of the check on roles that sessions may set.
pub(in crate::doctor) const SETTABLE: &str = "D55";

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D01", Rank::Always(Critical)),
        "the login role may bypass row-level security",
        "A superuser and a role with BYPASSRLS see every tenant's rows; CREATEROLE and REPLICATION lead there.",
        r"SELECT format('role %I', r.rolname) AS object, format('the login role has %s', a.attribute) AS message,
       format('ALTER ROLE %I NO%s;', r.rolname, a.attribute) AS fix, a.severity
FROM pg_roles r JOIN me ON me.oid = r.oid
CROSS JOIN LATERAL (VALUES ('SUPERUSER', r.rolsuper, 'critical'), ('BYPASSRLS', r.rolbypassrls, 'critical'),
    ('CREATEROLE', r.rolcreaterole, 'critical'), ('REPLICATION', r.rolreplication, 'critical'),
    ('CREATEDB', r.rolcreatedb, 'warning')) a(attribute, has, severity)
WHERE a.has",
    ),
    Check::new(
        ("D02", Rank::Always(Critical)),
        "the login role can become another role",
        "SET ROLE, and for inherited roles nothing at all, gives a session everything that the other role may do.",
        r"SELECT format('role %I', r.rolname) AS object,
       format('the login role is a member of %I, which %s', r.rolname, CASE
           WHEN r.rolsuper THEN 'is a superuser' WHEN r.rolbypassrls THEN 'bypasses row-level security'
           WHEN r.rolcreaterole OR r.rolreplication THEN 'can make itself more powerful'
           WHEN r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files') THEN 'reaches the server''s files'
           WHEN o.owns THEN 'owns tables'
           WHEN r.rolname ~ '^pg_' THEN 'sees or does more than a tenant should'
           ELSE 'it could act as' END) AS message,
       format('REVOKE %I FROM %I;', r.rolname, me.rolname) AS fix,
       CASE WHEN r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolreplication OR o.owns
                 OR r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files') THEN 'critical'
            WHEN r.rolname ~ '^pg_' THEN 'warning' ELSE 'advice' END AS severity
FROM hat h JOIN pg_roles r ON r.oid = h.roleid JOIN me ON me.oid <> r.oid
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM rel c WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p')) AS owns) o
WHERE r.oid NOT IN (SELECT oid FROM set_role)",
    ),
    Check::new(
        (SETTABLE, Rank::Always(Critical)),
        "a role of user.roles is more than a tenant's",
        "Whoever may set a role has all that it may do, in every tenant's sessions: it must own nothing and have no power over others.",
        r"SELECT format('role %I', w.rolname) AS object,
       CASE WHEN r.oid = w.oid THEN format('user.roles lists it, and it has %s', a.attribute)
            ELSE format('user.roles lists it, and it can become %I, which has %s', r.rolname, a.attribute) END AS message,
       CASE WHEN r.oid = w.oid THEN format('ALTER ROLE %I NO%s;', r.rolname, a.attribute) ELSE g.taken_back END AS fix,
       'critical' AS severity
FROM set_hat h JOIN set_role w ON w.oid = h.wearer JOIN pg_roles r ON r.oid = h.roleid
LEFT JOIN set_grant g ON g.wearer = h.wearer AND g.roleid = h.roleid
CROSS JOIN LATERAL (VALUES ('SUPERUSER', r.rolsuper), ('BYPASSRLS', r.rolbypassrls), ('CREATEROLE', r.rolcreaterole),
    ('REPLICATION', r.rolreplication), ('CREATEDB', r.rolcreatedb)) a(attribute, has)
WHERE a.has
UNION ALL
SELECT format('role %I', w.rolname), format('user.roles lists it, and it is a member of %I', r.rolname), g.taken_back, 'critical'
FROM set_hat h JOIN set_role w ON w.oid = h.wearer JOIN pg_roles r ON r.oid = h.roleid
LEFT JOIN set_grant g ON g.wearer = h.wearer AND g.roleid = h.roleid
WHERE r.rolname ~ '^pg_' OR r.rolname = 'pgtenant_register'
UNION ALL
-- Objects of the sessions themselves aside: temporary ones, and large objects, which tenants make.
SELECT format('role %I', w.rolname),
       CASE WHEN h.roleid = w.oid THEN format('user.roles lists it, and it owns %s', o.name)
            ELSE format('user.roles lists it, and it can become %I, which owns %s', h.roleid::regrole, o.name) END,
       format('REASSIGN OWNED BY %s TO …; -- in each database', h.roleid::regrole), 'critical'
FROM set_hat h JOIN set_role w ON w.oid = h.wearer
CROSS JOIN LATERAL (
    SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS name
    FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = h.roleid AND d.deptype = 'o'
      AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND d.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
      AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname ~ '^pg_(toast_)?temp_' AND n.oid IN (
          SELECT relnamespace FROM pg_class WHERE d.classid = 'pg_class'::regclass AND oid = d.objid
          UNION ALL SELECT typnamespace FROM pg_type WHERE d.classid = 'pg_type'::regclass AND oid = d.objid
          UNION ALL SELECT pronamespace FROM pg_proc WHERE d.classid = 'pg_proc'::regclass AND oid = d.objid))) o
UNION ALL
SELECT format('role %I', w.rolname), format('user.roles lists it, and a tenant logs in as it: %I', s.nspname), 'take it out of user.roles', 'critical'
FROM own_schema s JOIN set_role w ON w.oid = s.roleid
UNION ALL
SELECT format('role %I', w.rolname), 'user.roles lists it, and the login role is no member of it: SET ROLE fails', format('GRANT %I TO %I;', w.rolname, me.rolname), 'advice'
FROM set_role w CROSS JOIN me WHERE w.oid NOT IN (SELECT roleid FROM hat)",
    ),
    Check::new(
        ("D03", Rank::Always(Critical)),
        "the login role owns objects",
        "An owner may switch row-level security off, drop policies, and replace what it owns.",
        r"SELECT c.oid::regclass::text AS object, format('%s is owned by %I', k.word, r.rolname) AS message,
       format('ALTER %s %s OWNER TO …;', upper(k.word), c.oid::regclass) AS fix
FROM rel c JOIN hat h ON h.roleid = c.relowner JOIN pg_roles r ON r.oid = c.relowner
JOIN (VALUES ('r', 'table'), ('p', 'table'), ('v', 'view'), ('m', 'materialized view'), ('f', 'foreign table'), ('S', 'sequence')) k(kind, word)
  ON k.kind = c.relkind::text
WHERE NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
UNION ALL
SELECT format('schema %I', n.nspname), format('schema is owned by %I', r.rolname), format('ALTER SCHEMA %I OWNER TO …;', n.nspname)
FROM pg_namespace n JOIN hat h ON h.roleid = n.nspowner JOIN pg_roles r ON r.oid = n.nspowner
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT format('database %I', d.datname), format('database is owned by %I', r.rolname), format('ALTER DATABASE %I OWNER TO …;', d.datname)
FROM pg_database d JOIN hat h ON h.roleid = d.datdba JOIN pg_roles r ON r.oid = d.datdba
WHERE d.datname = current_database()
UNION ALL
SELECT format('function %s', p.oid::regprocedure), format('function is owned by %I', r.rolname), format('ALTER FUNCTION %s OWNER TO …;', p.oid::regprocedure)
FROM pg_proc p JOIN hat h ON h.roleid = p.proowner JOIN pg_roles r ON r.oid = p.proowner
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
    ),
    Check::new(
        ("D28", Rank::Always(Warning)),
        "settings are stored for the login role",
        "Every server connection starts with them, whatever tenant it serves; a role may store them for itself.",
        r"SELECT format('%s in %s', coalesce('role ' || quote_ident(r.rolname), 'every role'), coalesce('database ' || quote_ident(d.datname), 'every database')) AS object,
       format('connections start with %s', i.item) AS message,
       format('ALTER %s RESET %I;', coalesce('ROLE ' || quote_ident(r.rolname) || coalesce(' IN DATABASE ' || quote_ident(d.datname), ''),
           'DATABASE ' || quote_ident(d.datname), 'ROLE ALL'), split_part(i.item, '=', 1)) AS fix,
       CASE WHEN lower(split_part(i.item, '=', 1)) IN (lower($2), 'role', 'session_authorization', 'row_security', 'search_path',
           'session_preload_libraries', 'local_preload_libraries', 'standard_conforming_strings', 'session_replication_role')
           THEN 'warning' ELSE 'advice' END AS severity
FROM pg_db_role_setting s
LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
CROSS JOIN LATERAL unnest(s.setconfig) AS i(item)
CROSS JOIN me
WHERE (s.setrole = 0 OR s.setrole = me.oid) AND (s.setdatabase = 0 OR d.datname = current_database())
  AND i.item <> 'track_activities=off'",
    ),
    Check::new(
        ("D29", Rank::Always(Warning)),
        "privileges on server parameters",
        "A parameter that only a superuser may set can carry texts from tenant to tenant, or reach the server.",
        r"SELECT format('parameter %s', p.parname) AS object, 'the login role may change a parameter that is a superuser''s' AS message,
       format('REVOKE ALL ON PARAMETER %s FROM %s;', p.parname, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END) AS fix
FROM pg_parameter_acl p CROSS JOIN LATERAL (SELECT DISTINCT grantee FROM aclexplode(p.paracl)) x
WHERE x.grantee = 0 OR x.grantee IN (SELECT roleid FROM hat)",
    )
    .since(150_000),
];
