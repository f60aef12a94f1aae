//! Code and views inside the database that act for somebody else than the login role.

use super::super::FindingSeverity::{Advice, Critical, Warning};
use super::super::check::{Check, Rank};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D12", Rank::Always(Critical)),
        "SECURITY DEFINER functions that escape row-level security",
        "They run as their owner; if row-level security does not hold the owner, it does not hold their caller.",
        r"SELECT format('function %s', p.oid::regprocedure) AS object,
       CASE WHEN x.escapes THEN format('runs as %s, whom row-level security does not hold', p.proowner::regrole)
            ELSE format('runs as %s without a search_path of its own that ends with pg_temp', p.proowner::regrole) END AS message,
       CASE WHEN x.escapes THEN format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, %I;', p.oid::regprocedure, me.rolname)
            ELSE s.mend END AS fix,
       CASE WHEN x.escapes THEN 'critical' ELSE 'warning' END AS severity
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN search_path s ON s.oid = p.oid CROSS JOIN me
CROSS JOIN LATERAL (SELECT p.proowner IN (SELECT roleid FROM free)
    OR EXISTS (SELECT FROM rel c WHERE c.relowner = p.proowner AND c.relrowsecurity AND NOT c.relforcerowsecurity) AS escapes) x
WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT me.rolsuper
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
  AND has_function_privilege(me.oid, p.oid, 'EXECUTE') AND has_schema_privilege(me.oid, n.oid, 'USAGE')
  AND p.oid NOT IN (SELECT oid FROM own_door)
  AND (x.escapes OR NOT s.ends_with_temp)",
    ),
    Check::new(
        ("D13", Rank::Always(Critical)),
        "views that show tenant tables as their owner",
        "Without security_invoker a view reads with its owner's rights, past row-level security if that does not hold the owner.",
        r"SELECT v.oid::regclass::text AS object,
       CASE WHEN bool_or(x.leaks) THEN format('shows rows of every tenant of %s, as %s', string_agg(t.oid::regclass::text, ', ' ORDER BY t.oid) FILTER (WHERE x.leaks), v.relowner::regrole)
            ELSE format('reads %s as %s, whom row-level security holds today', string_agg(t.oid::regclass::text, ', ' ORDER BY t.oid), v.relowner::regrole) END AS message,
       CASE WHEN current_setting('server_version_num')::int >= 150000 THEN format('ALTER VIEW %s SET (security_invoker = true);', v.oid::regclass)
            ELSE format('REVOKE ALL ON %s FROM %I;', v.oid::regclass, min(me.rolname)) END AS fix,
       CASE WHEN bool_or(x.leaks) THEN 'critical' ELSE 'advice' END AS severity
FROM reads JOIN rel v ON v.oid = reads.viewid JOIN reach ON reach.relid = v.oid JOIN tenant_table t ON t.oid = reads.relid CROSS JOIN me
CROSS JOIN LATERAL (SELECT NOT t.relrowsecurity OR v.relowner IN (SELECT roleid FROM free) OR (t.relowner = v.relowner AND NOT t.relforcerowsecurity) AS leaks) x
WHERE v.relkind = 'v' AND NOT coalesce(v.reloptions::text, '') ~ 'security_invoker=(true|on|1|yes)' AND NOT me.rolsuper
GROUP BY v.oid, v.relowner",
    ),
    Check::new(
        ("D14", Rank::Always(Critical)),
        "materialised views over tenant tables",
        "Their rows are a copy that no policy filters.",
        r"SELECT DISTINCT v.oid::regclass::text AS object, 'holds a copy of tenants'' rows that every tenant can read' AS message, format('REVOKE ALL ON %s FROM %I;', v.oid::regclass, me.rolname) AS fix
FROM reads JOIN rel v ON v.oid = reads.viewid JOIN reach ON reach.relid = v.oid JOIN tenant_table t ON t.oid = reads.relid CROSS JOIN me
WHERE v.relkind = 'm' AND NOT me.rolsuper",
    ),
    Check::new(
        ("D26", Rank::Always(Warning)),
        "functions that run SQL given as text or reach out",
        "What they run cannot be inspected, and some of them run it as somebody else or somewhere else. One that runs what \
         its caller gives it undoes the guard, and what a role may do to itself no privilege takes away.",
        r#"SELECT format('function %s', p.oid::regprocedure) AS object,
       CASE WHEN e.extname IS NOT NULL THEN 'of the extension ' || quote_ident(e.extname) || ' runs SQL or reaches out'
            WHEN x.obeys THEN 'runs any command that its caller gives it' ELSE 'runs SQL that it puts together, or changes settings' END AS message,
       format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC, %I;', p.oid::regprocedure, me.rolname) AS fix,
       CASE WHEN x.obeys THEN 'critical' ELSE 'warning' END AS severity
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace CROSS JOIN me
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' LEFT JOIN pg_extension e ON e.oid = d.refobjid
CROSS JOIN LATERAL (SELECT e.extname IS NULL AND p.prolang IN (SELECT l.oid FROM pg_language l WHERE l.lanname = 'plpgsql') AND EXISTS (
    SELECT FROM (SELECT '\$[0-9]+' UNION ALL SELECT regexp_replace(name, '([^[:alnum:]_])', '\\\1', 'g') FROM unnest(p.proargnames) AS name WHERE name <> '') AS given (name)
    WHERE p.prosrc ~* ('\mexecute[\s(]+"?' || given.name || '"?[\s)]*(;|\minto\M|\musing\M|\mloop\M)')) AS obeys) x
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgtenant') AND NOT me.rolsuper
  AND has_function_privilege(me.oid, p.oid, 'EXECUTE') AND has_schema_privilege(me.oid, n.oid, 'USAGE')
  AND ((e.extname IN ('dblink', 'xml2', 'tablefunc', 'adminpack', 'pg_cron', 'http', 'pg_net', 'pg_background')
        AND p.proname ~ '^(dblink|crosstab|connectby|xpath_table|pg_file_|pg_logdir|schedule|http|pg_background)')
    OR (e.extname IS NULL AND p.prolang IN (SELECT l.oid FROM pg_language l WHERE l.lanname NOT IN ('internal', 'c', 'sql'))
        AND p.prosrc ~* '\m(execute|set_config|dblink)\M'))"#,
    ),
    Check::new(
        ("D50", Rank::Always(Warning)),
        "PL/pgSQL functions that find temporary objects first",
        "PL/pgSQL keeps what names meant when a server first called the function, for every tenant after.",
        r"SELECT format('function %s', p.oid::regprocedure) AS object, 'has no search_path of its own that ends with pg_temp' AS message, s.mend AS fix
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang JOIN search_path s ON s.oid = p.oid CROSS JOIN me
WHERE l.lanname = 'plpgsql' AND n.nspname <> 'pgtenant' AND NOT me.rolsuper AND NOT s.ends_with_temp
  AND CASE WHEN p.prorettype = 'trigger'::regtype THEN EXISTS (SELECT FROM pg_trigger t JOIN reach ON reach.relid = t.tgrelid AND reach.writes WHERE t.tgfoid = p.oid)
           -- D12 names the others.
           ELSE NOT p.prosecdef AND has_function_privilege(me.oid, p.oid, 'EXECUTE') AND has_schema_privilege(me.oid, n.oid, 'USAGE') END",
    ),
    Check::new(
        ("D30", Rank::Always(Warning)),
        "triggers and rules that act for somebody else",
        "A trigger's definer function, one that the login role can replace, and rules run unseen in every tenant's statements.",
        r"SELECT t.tgrelid::regclass::text AS object, format('trigger %I calls %s, which %s', t.tgname, t.tgfoid::regprocedure,
           CASE WHEN f.prosecdef THEN format('runs as %s', f.proowner::regrole) ELSE 'the login role can replace' END) AS message,
       format('ALTER FUNCTION %s SECURITY INVOKER;', t.tgfoid::regprocedure) AS fix
FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid JOIN reach ON reach.relid = t.tgrelid
WHERE NOT t.tgisinternal AND (f.prosecdef OR f.proowner IN (SELECT roleid FROM hat))
UNION ALL
SELECT w.ev_class::regclass::text, format('rule %I rewrites statements', w.rulename), format('DROP RULE %I ON %s;', w.rulename, w.ev_class::regclass)
FROM pg_rewrite w JOIN reach ON reach.relid = w.ev_class WHERE w.rulename <> '_RETURN' AND w.ev_class >= 16384",
    ),
    Check::new(
        ("D36", Rank::Always(Advice)),
        "functions marked LEAKPROOF",
        "PostgreSQL may call them on rows that the policies then hide.",
        r"SELECT format('function %s', p.oid::regprocedure) AS object, 'is marked LEAKPROOF' AS message, format('ALTER FUNCTION %s NOT LEAKPROOF;', p.oid::regprocedure) AS fix
FROM pg_proc p WHERE p.proleakproof AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')",
    ),
];
