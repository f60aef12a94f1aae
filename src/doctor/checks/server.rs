//! The server: its settings and what leaves it by other ways.

use super::super::FindingSeverity::{Advice, Warning};
use super::super::check::{Check, Rank};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        ("D27", Rank::Always(Warning)),
        "server settings",
        "Some settings of the server show one tenant's statements to others, or keep them where others look.",
        r"SELECT format('%s = %s', s.name, s.setting) AS object, x.message, x.fix, CASE WHEN x.guarded AND mode.strict THEN 'advice' ELSE x.severity END AS severity
FROM pg_settings s CROSS JOIN me CROSS JOIN mode
JOIN (VALUES
    ('max_prepared_transactions', '^[1-9]', 'a prepared transaction holds its locks after its session is gone', 'ALTER SYSTEM SET max_prepared_transactions = 0;', 'warning', true),
    ('track_activities', '^on$', 'sessions of one role see each other''s statements', 'ALTER ROLE %I SET track_activities = off;', 'warning', true),
    ('log_statement', '^(all|mod)$', 'statements with their values are written to the log', 'ALTER SYSTEM SET log_statement = ''none'';', 'advice', false),
    ('session_preload_libraries', '.', 'libraries are loaded into every session', '', 'advice', false),
    ('local_preload_libraries', '.', 'libraries are loaded into every session', '', 'advice', false),
    ('standard_conforming_strings', '^off$', 'strings are read in a way that hides SQL', 'ALTER SYSTEM SET standard_conforming_strings = on;', 'warning', false),
    ('row_security', '^off$', 'queries that policies would filter fail', 'ALTER SYSTEM SET row_security = on;', 'warning', false),
    ('session_replication_role', '^(replica|local)$', 'triggers and foreign keys are not enforced', 'ALTER SYSTEM SET session_replication_role = origin;', 'warning', false)
) v(name, pattern, message, fix, severity, guarded) ON v.name = s.name AND s.setting ~ v.pattern
CROSS JOIN LATERAL (SELECT v.message, replace(v.fix, '%I', quote_ident(me.rolname)) AS fix, v.severity, v.guarded) x",
    ),
    Check::new(
        ("D37", Rank::Always(Advice)),
        "publications with tenant tables",
        "A subscriber receives the rows of every tenant: row filters are not policies.",
        r"SELECT format('publication %I', p.pubname) AS object, CASE WHEN p.puballtables THEN 'publishes all tables' ELSE format('publishes %s', string_agg(r.prrelid::regclass::text, ', ' ORDER BY r.prrelid)) END AS message, '' AS fix
FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM tenant_table)
GROUP BY p.oid, p.pubname, p.puballtables HAVING p.puballtables OR count(r.prrelid) > 0",
    ),
];
