//! Policies: whether they speak of the tenant, and whether a client can talk them into another one.

use super::super::FindingSeverity::{Advice, Critical};
use super::super::check::{Check, Rank};
use super::super::trial::Trial;

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D06", Rank::Always(Advice)),
        "row-level security without a policy for a granted command",
        "The command is granted and finds no row, which looks like lost data.",
        r"SELECT c.oid::regclass::text AS object, format('no policy lets the granted %s see or make a row', string_agg(k.command, ', ' ORDER BY k.command)) AS message,
       format('CREATE POLICY … ON %s …; -- or REVOKE', c.oid::regclass) AS fix
FROM rel c JOIN reach ON reach.relid = c.oid CROSS JOIN me CROSS JOIN (VALUES ('r', 'SELECT'), ('a', 'INSERT'), ('w', 'UPDATE'), ('d', 'DELETE')) k(code, command)
WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT me.rolsuper AND has_table_privilege(me.oid, c.oid, k.command)
  AND NOT EXISTS (SELECT FROM policy p WHERE p.relid = c.oid AND p.polpermissive AND p.applies AND p.polcmd::text IN ('*', k.code))
GROUP BY c.oid",
    ),
    Check::new(
        ("D07", Rank::Sealed),
        "permissive policies that do not ask for the sealed tenant",
        "A policy that reads a plain setting believes whoever set it last.",
        r"SELECT c.oid::regclass::text AS object, format('%s: not tied to pgtenant.current_tenant()', string_agg(quote_ident(p.polname), ', ' ORDER BY p.polname)) AS message,
       format('pgtenant protect --table %s --apply', c.oid::regclass) AS fix
FROM tenant_table c JOIN reach ON reach.relid = c.oid JOIN policy p ON p.relid = c.oid
WHERE c.relrowsecurity AND p.polpermissive AND p.applies AND c.oid NOT IN (SELECT relid FROM pinned)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
      AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = (SELECT oid FROM own_function WHERE name = 'current_tenant()'))
GROUP BY c.oid",
    ),
    Check::new(
        ("D08", Rank::Sealed),
        "policies that read settings or role names",
        "A session can change a setting, and all tenants share one role.",
        r"SELECT c.oid::regclass::text AS object, format('policy %I reads %s', p.polname,
           CASE WHEN lower(p.qual || p.checked) LIKE '%current_setting(%' THEN 'a setting' ELSE 'the name of a role' END) AS message,
       format('pgtenant protect --table %s --apply', c.oid::regclass) AS fix
FROM tenant_table c JOIN reach ON reach.relid = c.oid JOIN policy p ON p.relid = c.oid CROSS JOIN source s CROSS JOIN mode
WHERE c.relrowsecurity AND p.applies AND c.oid NOT IN (SELECT relid FROM pinned)
  AND lower(p.qual || ' ; ' || p.checked) LIKE ANY (ARRAY['%current_setting(%', '%current_user%', '%session_user%', '%current_role%'])
  -- Without the seal, reading the tenant's own setting is how it works.
  AND (mode.sealed OR p.qual || ' ; ' || p.checked !~* s.pattern)",
    ),
    Check::new(
        ("D09", Rank::Always(Critical)),
        "a permissive policy that does not mention the tenant column",
        "Permissive policies add up: one that does not speak of the tenant opens the table to all of them.",
        r"SELECT c.oid::regclass::text AS object, format('policy %I does not mention the tenant column: %s', p.polname,
           left(concat_ws(' ', 'USING ' || NULLIF(p.qual, ''), 'WITH CHECK ' || NULLIF(p.checked, '')), 200)) AS message,
       format('DROP POLICY %I ON %s;', p.polname, c.oid::regclass) AS fix
FROM tenant_table c JOIN reach ON reach.relid = c.oid JOIN policy p ON p.relid = c.oid
CROSS JOIN LATERAL (SELECT '(^|[^a-zA-Z0-9_])(' || string_agg(regexp_replace(t.attname, '([^[:alnum:]_])', '\\\1', 'g'), '|') || ')($|[^a-zA-Z0-9_])' AS word
    FROM tenant_column t WHERE t.relid = c.oid) w
WHERE c.relrowsecurity AND p.polpermissive AND p.applies AND lower(p.qual) <> 'false'
  AND ((p.qual <> '' AND p.qual !~ w.word) OR (p.checked <> '' AND p.checked !~ w.word AND lower(p.checked) <> 'false'))
  AND c.oid NOT IN (SELECT relid FROM guarded) AND c.oid NOT IN (SELECT relid FROM pinned)",
    ),
    Check::new(
        ("D10", Rank::Always(Critical)),
        "no policy in a form that the planner keeps",
        "A policy written as a bare equality can be merged by the planner with a client's own condition, so the tenant check uses a form that is not merged.",
        r"SELECT c.oid::regclass::text AS object, CASE WHEN mode.sealed THEN 'has no restrictive policy that pins its rows to pgtenant.current_tenant()'
           ELSE 'has no policy that pins its rows to the tenant in a form that the planner keeps' END AS message, m.pin AS fix,
       -- Under a seal there is nothing to try: a policy that is kept still believes a setting.
       CASE WHEN mode.sealed THEN '{}' WHEN k.is_text THEN ARRAY[x.explain || k.name || x.given]
           ELSE ARRAY[x.explain || k.name || x.given || k.cast, x.explain || k.name || '::text' || x.given] END AS attempts,
       CASE WHEN k.is_text THEN 'pgtenant probe' WHEN k.type = 'uuid'::regtype THEN '00000000-0000-4000-8000-000000000000' ELSE '1' END AS given,
       k.name AS tenant_column
FROM tenant_table c CROSS JOIN mode JOIN mend m ON m.relid = c.oid JOIN pin_column k ON k.relid = c.oid
CROSS JOIN LATERAL (SELECT format('EXPLAIN (COSTS OFF, FORMAT JSON) SELECT FROM %s AS pgtenant_probe WHERE ', c.oid::regclass) AS explain,
    ' = current_setting(''pgtenant_probe.given'')' AS given) x
WHERE c.relrowsecurity AND c.oid NOT IN (SELECT relid FROM pinned)
  AND (mode.sealed OR c.oid NOT IN (SELECT relid FROM held) AND EXISTS (SELECT FROM policy p WHERE p.relid = c.oid AND p.polpermissive AND p.qual <> ''))
  -- What a view reads needs no privilege of the login role.
  AND c.oid IN (SELECT relid FROM reach UNION ALL
      SELECT reads.relid FROM reads JOIN reach ON reach.relid = reads.viewid JOIN rel v ON v.oid = reads.viewid AND v.relkind = 'v')",
    )
    .tried(Trial::Merging),
    Check::new(
        ("D48", Rank::Always(Critical)),
        "policies that the empty string satisfies",
        "A setting that was set before is the empty string. Where policies take that for a tenant, everybody without a tenant shares its rows.",
        r"SELECT c.oid::regclass::text AS object, 'shows rows whose tenant is the empty string to whoever has no tenant' AS message, m.pin AS fix,
       -- What the policies of SELECT, and the table's own constraints, say of such a row.
       ARRAY[format('SELECT (%s)%s FROM (SELECT %s) AS %I', p.permissive, p.restrictive || coalesce(f.checks, ''), a.columns, x.relname)] AS attempts,
       '' AS given, p.is_bare AS suspected, k.name AS tenant_column
FROM tenant_table c JOIN reach ON reach.relid = c.oid AND reach.reads JOIN pin_column k ON k.relid = c.oid AND k.is_text
JOIN mend m ON m.relid = c.oid JOIN pg_class x ON x.oid = c.oid CROSS JOIN source s
CROSS JOIN LATERAL (SELECT string_agg('(' || p.qual || ')', ' OR ') FILTER (WHERE p.polpermissive) AS permissive,
        coalesce(string_agg(' AND (' || p.qual || ')', '') FILTER (WHERE NOT p.polpermissive), '') AS restrictive,
        coalesce(bool_or(p.qual ~* ('(?<!NULLIF\()' || s.pattern)) FILTER (WHERE p.polpermissive), false)
            AND NOT coalesce(bool_or(p.qual ~* ('NULLIF\(' || s.pattern)) FILTER (WHERE NOT p.polpermissive), false) AS is_bare
    FROM policy p WHERE p.relid = c.oid AND p.applies AND p.polcmd IN ('*', 'r') AND p.qual <> '') p
CROSS JOIN LATERAL (SELECT string_agg(format('%s::%s AS %I', CASE WHEN a.attnum = k.attnum THEN '''''' ELSE 'NULL' END,
        format_type(a.atttypid, a.atttypmod), a.attname), ', ' ORDER BY a.attnum) AS columns
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a
CROSS JOIN LATERAL (SELECT string_agg(' AND (' || pg_get_expr(n.conbin, n.conrelid) || ') IS NOT FALSE', '') AS checks
    FROM pg_constraint n WHERE n.conrelid = c.oid AND n.contype = 'c' AND n.convalidated) f
WHERE c.relrowsecurity AND p.permissive IS NOT NULL
  AND c.oid NOT IN (SELECT p.relid FROM policy p JOIN pin ON pin.oid = p.oid
      WHERE NOT p.polpermissive AND p.polcmd = '*' AND p.applies AND p.qual ~ '(NULLIF\(|pgtenant\.current_tenant)')",
    )
    .tried(Trial::Empty),
    Check::new(
        ("D11", Rank::Sealed),
        "functions that policies rest on",
        "A policy is as good as the functions it calls: wrongly immutable ones are answered from an old plan, and a definer's without a search path can be given other functions to call.",
        r"SELECT format('function %s', f.oid::regprocedure) AS object, format('is used by policies and is %s', x.fault) AS message, coalesce(x.mend, s.mend) AS fix,
       CASE WHEN x.fault = 'owned by the login role' THEN 'critical' END AS severity
FROM (SELECT DISTINCT d.refobjid FROM pg_depend d JOIN pg_policy p ON p.oid = d.objid WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_proc'::regclass) used
JOIN pg_proc f ON f.oid = used.refobjid LEFT JOIN search_path s ON s.oid = f.oid
CROSS JOIN LATERAL (VALUES (f.provolatile = 'i', 'marked IMMUTABLE', format('ALTER FUNCTION %s STABLE;', f.oid::regprocedure)),
    (f.prosecdef AND NOT s.ends_with_temp AND f.oid NOT IN (SELECT oid FROM own_door), 'SECURITY DEFINER without a search_path that ends with pg_temp', NULL),
    (f.proowner IN (SELECT roleid FROM hat), 'owned by the login role', format('ALTER FUNCTION %s OWNER TO …;', f.oid::regprocedure))) x(holds, fault, mend)
WHERE x.holds
UNION ALL
SELECT p.relid::regclass::text, format('policy %I calls pgtenant.current_tenant() for every row', p.polname),
       'write (SELECT pgtenant.current_tenant()), which is called once per statement', 'advice'
FROM policy p WHERE p.qual || ' ; ' || p.checked ~ '(?<!SELECT )(?<!SELECT \()pgtenant\.current_tenant\(\)'",
    ),
    Check::new(
        ("D24", Rank::Always(Advice)),
        "policies that read the setting in a way that fails",
        "A setting that was never set raises an error, and one that was set before is the empty string, which no cast takes.",
        r"SELECT p.relid::regclass::text AS object, format('policy %I: %s', p.polname, x.fault) AS message,
       format('use NULLIF(current_setting(%L, true), '''')', $2) AS fix
FROM policy p CROSS JOIN source s
CROSS JOIN LATERAL (VALUES
    ('(?i)current_setting\(''' || replace($2, '.', '\.') || '''(::text)?\)', 'current_setting without its second argument raises an error where nothing is set'),
    ('(?i)(?<!NULLIF\()current_setting\(''' || replace($2, '.', '\.') || '''(::text)?, true\)\)::', 'the empty string is cast')) x(pattern, fault)
WHERE p.qual || ' ; ' || p.checked ~ x.pattern",
    ),
    Check::new(
        ("D41", Rank::Always(Critical)),
        "a policy that does not read the tenant's setting",
        "It cannot know for which tenant a statement runs; if it reads another setting, clients can set that one.",
        r"SELECT c.oid::regclass::text AS object, format('policy %I reads neither %s nor the sealed tenant: %s', p.polname, $2, left(coalesce(NULLIF(p.qual, ''), p.checked), 200)) AS message,
       format('DROP POLICY %I ON %s; -- and one that reads %s', p.polname, c.oid::regclass, $2) AS fix,
       CASE WHEN f.any THEN 'warning' ELSE 'critical' END AS severity
FROM tenant_table c JOIN reach ON reach.relid = c.oid JOIN policy p ON p.relid = c.oid CROSS JOIN source s
CROSS JOIN LATERAL (SELECT '(^|[^a-zA-Z0-9_])(' || string_agg(regexp_replace(t.attname, '([^[:alnum:]_])', '\\\1', 'g'), '|') || ')($|[^a-zA-Z0-9_])' AS word
    FROM tenant_column t WHERE t.relid = c.oid) w
CROSS JOIN LATERAL (SELECT count(*) > 0 AS any, coalesce(bool_or(q.prosrc ~* replace($2, '.', '\.') OR q.prosrc ~ 'pgtenant\.current_tenant'
        OR coalesce(pg_get_function_sqlbody(q.oid), '') ~* replace($2, '.', '\.')), false) AS reads
    FROM pg_depend d JOIN pg_proc q ON q.oid = d.refobjid
    WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass) f
WHERE c.relrowsecurity AND p.polpermissive AND p.applies AND p.qual || ' ; ' || p.checked ~ w.word
  AND p.qual || ' ; ' || p.checked !~* s.pattern AND NOT f.reads
  AND c.oid NOT IN (SELECT relid FROM guarded) AND c.oid NOT IN (SELECT relid FROM pinned)",
    ),
    Check::new(
        ("D44", Rank::Sealed),
        "the sealed context is not installed",
        "Without its functions no transaction can begin.",
        r"SELECT 'pgtenant.' || f.name AS object, CASE WHEN o.oid IS NULL THEN 'does not exist' ELSE 'may not be called by the login role' END AS message,
       'pgtenant protect --apply' AS fix
FROM (VALUES ('hand_over(text, text)'), ('current_tenant()')) f(name) CROSS JOIN me CROSS JOIN mode LEFT JOIN own_function o ON o.name = f.name
WHERE mode.sealed AND (o.oid IS NULL OR NOT has_function_privilege(me.oid, o.oid, 'EXECUTE')
    OR NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'pgtenant' AND has_schema_privilege(me.oid, n.oid, 'USAGE')))",
    ),
];
