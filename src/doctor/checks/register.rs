//! The register of the sealed context: who can reach it, who its owner is, and whether the functions are ours.

use super::super::check::{Check, Rank};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D52", Rank::Sealed),
        "who can reach the register",
        "The register says for which tenant a server process runs statements; whoever sets it becomes any tenant.",
        r"SELECT c.oid::regclass::text AS object,
       CASE WHEN h.roleid = me.oid THEN 'the login role can use or set it' ELSE format('the login role can become %I, which can use or set it', r.rolname) END AS message,
       format('REVOKE ALL ON SEQUENCE %s FROM PUBLIC, %I; -- or the membership that gives it', c.oid::regclass, r.rolname) AS fix
FROM own_sequence c CROSS JOIN hat h JOIN pg_roles r ON r.oid = h.roleid CROSS JOIN me
WHERE NOT me.rolsuper AND (has_sequence_privilege(h.roleid, c.oid, 'USAGE,SELECT,UPDATE') OR has_any_column_privilege(h.roleid, c.oid, 'SELECT'))
UNION ALL
-- Those of superusers are critical by D12, but for triggers, whose rows it cannot judge: everybody may hang one on a temporary table.
SELECT format('function %s', p.oid::regprocedure), format('runs as %s, which can use or set the register', p.proowner::regrole),
       format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, %I; -- or give the register a role of its own, as pgtenant protect says', p.oid::regprocedure, me.rolname)
FROM pg_proc p CROSS JOIN me
WHERE p.prosecdef AND NOT me.rolsuper
  AND (p.proowner NOT IN (SELECT roleid FROM free) OR p.prorettype = 'trigger'::regtype AND p.prosrc ~* '\m(setval|execute)\M')
  AND p.oid NOT IN (SELECT oid FROM own_door)
  AND EXISTS (SELECT FROM own_sequence c WHERE has_sequence_privilege(p.proowner, c.oid, 'USAGE,SELECT,UPDATE'))
  AND EXISTS (SELECT FROM hat h WHERE has_function_privilege(h.roleid, p.oid, 'EXECUTE'))",
    ),
    Check::new(
        ("D53", Rank::Sealed),
        "the register's role",
        "Its rights are the register's: whoever is that role, and whatever runs as it, undoes the seal.",
        r"SELECT c.oid::regclass::text AS object, format('belongs to %I, which may own more, and not to pgtenant_register', r.rolname) AS message,
       'pgtenant protect says what gives it a role of its own' AS fix, CASE WHEN mode.sealed THEN 'warning' ELSE 'advice' END AS severity
FROM mode CROSS JOIN own_sequence c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname <> 'pgtenant_register'
UNION ALL
SELECT format('role %I', u.rolname), format('can act as pgtenant_register or inherits from it'), format('REVOKE pgtenant_register FROM %I; -- ADMIN OPTION alone may stay, from PostgreSQL 16 on', u.rolname), NULL
FROM register_role o JOIN pg_auth_members m ON m.roleid = o.oid JOIN pg_roles u ON u.oid = m.member AND NOT u.rolsuper
CROSS JOIN LATERAL (SELECT to_jsonb(m) AS row) j
WHERE coalesce((j.row ->> 'inherit_option')::bool, true) OR coalesce((j.row ->> 'set_option')::bool, true)
GROUP BY u.rolname
UNION ALL
SELECT 'role pgtenant_register', format('has %s', a.attribute), format('ALTER ROLE pgtenant_register NO%s;', a.attribute), NULL
FROM register_role o CROSS JOIN LATERAL (VALUES ('LOGIN', o.rolcanlogin), ('SUPERUSER', o.rolsuper), ('BYPASSRLS', o.rolbypassrls),
    ('CREATEROLE', o.rolcreaterole), ('CREATEDB', o.rolcreatedb), ('REPLICATION', o.rolreplication)) a(attribute, has)
WHERE a.has
UNION ALL
SELECT 'role pgtenant_register', format('is a member of %I', r.rolname), format('REVOKE %I FROM pgtenant_register;', r.rolname), 'warning'
FROM register_role o JOIN pg_auth_members m ON m.member = o.oid JOIN pg_roles r ON r.oid = m.roleid
UNION ALL
SELECT pg_describe_object(d.classid, d.objid, d.objsubid), 'belongs to pgtenant_register, which owns nothing but the register', 'give it to another role', 'warning'
FROM register_role o JOIN pg_shdepend d ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = o.oid AND d.deptype = 'o'
WHERE d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM own_sequence))
  AND NOT (d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT oid FROM own_door))",
    ),
    Check::new(
        ("D54", Rank::Sealed),
        "functions of another version",
        "What they verify and what this version sends must be of one kind, and anything else in their place decides over tenants.",
        concat!(
            "WITH template (name, traits, body) AS (VALUES ('hand_over(text, text)', 'v|t|u|100 ', $pgtenant_body$",
            include_str!("../../protect/hand_over.sql"),
            "$pgtenant_body$), ('enter(text, text)', 'v|t|u|100 search_path=pg_catalog, pg_temp', $pgtenant_body$",
            include_str!("../../protect/enter.sql"),
            "$pgtenant_body$), ('current_tenant()', 's|t|r|1000 ', $pgtenant_body$",
            include_str!("../../protect/current_tenant.sql"),
            r"$pgtenant_body$)),
installed AS (
    SELECT f.oid, f.name, p.proowner, t.traits
               = concat_ws('|', p.provolatile, p.prosecdef, p.proparallel, p.procost) || ' ' || coalesce(array_to_string(p.proconfig, ';'), '') AS has_traits,
           p.prosrc = replace(replace(t.body, '{setting}', quote_literal($2)), '{tags}', 'true') AS is_serving,
           p.prosrc = replace(replace(t.body, '{setting}', quote_literal($2)), '{tags}', 'pg_catalog.pg_is_in_recovery()') AS is_retired
    FROM own_function f JOIN pg_proc p ON p.oid = f.oid JOIN template t ON t.name = f.name
)
SELECT 'pgtenant.' || i.name AS object, 'is not the function of this version' AS message, 'pgtenant protect --apply' AS fix, NULL AS severity
FROM installed i WHERE coalesce(NOT (i.has_traits AND (i.is_serving OR i.is_retired)), true)
UNION ALL
SELECT 'pgtenant.' || i.name, format('belongs to %s, and the register does not', i.proowner::regrole), 'pgtenant protect --apply', NULL
FROM installed i WHERE NOT EXISTS (SELECT FROM own_sequence c WHERE c.relowner = i.proowner)
UNION ALL
SELECT 'pgtenant.' || i.name, 'serves instances of earlier versions', 'when there are none: pgtenant protect --retire-enter --apply',
       CASE WHEN mode.sealed THEN 'warning' ELSE 'advice' END
FROM installed i CROSS JOIN mode WHERE i.name = 'enter(text, text)' AND i.is_serving"
        ),
    ),
];
