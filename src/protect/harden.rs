//! What every role may do by default and a tenant has no need of. Most of it belongs to the superuser; what the
//! installing role may not take away is left to the guard.
//! Kept, because the proxy's own reset and plain context need them of the login role: `set_config`, `setseed`,
//! `pg_advisory_unlock_all`, and TEMP on the database.

use tokio_postgres::Client;

use super::{ProtectError, ProtectOptions, told};

const FUNCTIONS: &[&str] = &[
    "pg_cancel_backend(integer)",
    "pg_terminate_backend(integer, bigint)",
    "pg_stat_get_activity(integer)",
    "pg_stat_get_backend_activity(integer)",
    "pg_stat_clear_snapshot()",
    "query_to_xml(text, boolean, boolean, text)",
    "query_to_xmlschema(text, boolean, boolean, text)",
    "query_to_xml_and_xmlschema(text, boolean, boolean, text)",
    "cursor_to_xml(refcursor, integer, boolean, boolean, text)",
    "ts_stat(text)",
    "ts_stat(text, text)",
    "pg_notify(text, text)",
    "pg_advisory_lock(bigint)",
    "pg_advisory_lock(integer, integer)",
    "pg_try_advisory_lock(bigint)",
    "pg_try_advisory_lock(integer, integer)",
    "pg_advisory_lock_shared(bigint)",
    "pg_advisory_lock_shared(integer, integer)",
    "pg_try_advisory_lock_shared(bigint)",
    "pg_try_advisory_lock_shared(integer, integer)",
    "pg_export_snapshot()",
    "pg_prepared_statement()",
    "pg_cursor()",
    "lastval()",
    "pg_lock_status()",
    "lo_get(oid)",
    "lo_get(oid, bigint, integer)",
    "lo_put(oid, bigint, bytea)",
    "lo_from_bytea(oid, bytea)",
    "lo_create(oid)",
    "lo_creat(integer)",
    "lo_open(oid, integer)",
    "lo_unlink(oid)",
    "cursor_to_xmlschema(refcursor, boolean, boolean, text)",
    "ts_rewrite(tsquery, text)",
    "pg_prepared_xact()",
    "currtid2(text, tid)",
    "loread(integer, integer)",
    "lowrite(integer, bytea)",
    "pg_advisory_xact_lock(bigint)",
    "pg_advisory_xact_lock(integer, integer)",
    "pg_advisory_xact_lock_shared(bigint)",
    "pg_advisory_xact_lock_shared(integer, integer)",
    "pg_try_advisory_xact_lock(bigint)",
    "pg_try_advisory_xact_lock(integer, integer)",
    "pg_try_advisory_xact_lock_shared(bigint)",
    "pg_try_advisory_xact_lock_shared(integer, integer)",
    "pg_advisory_unlock(bigint)",
    "pg_advisory_unlock(integer, integer)",
    "pg_advisory_unlock_shared(bigint)",
    "pg_advisory_unlock_shared(integer, integer)",
];

/// The last three show values of other sessions' temporary tables, which belong to the same role.
const VIEWS: &[&str] = &[
    "pg_stat_activity",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_cursors",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
];

/// Each statement that would change something, and whether this role may.
const SQL: &str = "
WITH may AS (SELECT rolsuper AS everything FROM pg_roles WHERE rolname = current_user),
     login AS (SELECT oid, rolname FROM pg_roles WHERE rolname = $3::text::name),
     -- The login role, and the roles that its sessions may set.
     holder_role AS (SELECT oid, rolname FROM pg_roles WHERE rolname = $3::text::name OR (rolname = ANY ($4::text[]) AND pg_has_role($3::text::name, oid, 'MEMBER'))),
     object (rank, statement, owner, acl, privilege) AS (
    SELECT 1, format('REVOKE CREATE ON DATABASE %I', datname), datdba, coalesce(datacl, acldefault('d', datdba)), 'CREATE'
    FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT 2, 'REVOKE CREATE ON SCHEMA public', nspowner, coalesce(nspacl, acldefault('n', nspowner)), 'CREATE'
    FROM pg_namespace WHERE nspname = 'public'
    UNION ALL
    SELECT 3, format('REVOKE USAGE ON LANGUAGE %I', lanname), lanowner, coalesce(lanacl, acldefault('l', lanowner)), 'USAGE'
    FROM pg_language WHERE lanname IN ('plpgsql', 'sql')
    UNION ALL
    SELECT 4, format('REVOKE EXECUTE ON FUNCTION pg_catalog.%s', s), proowner, coalesce(proacl, acldefault('f', proowner)), 'EXECUTE'
    FROM unnest($1::text[]) AS f (s) JOIN pg_proc p ON p.oid = to_regprocedure('pg_catalog.' || s)
    UNION ALL
    SELECT 5, format('REVOKE SELECT ON pg_catalog.%I', relname), relowner, coalesce(relacl, acldefault('r', relowner)), 'SELECT'
    FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = ANY ($2::text[])
    UNION ALL
    SELECT 6, 'REVOKE UPDATE ON pg_catalog.pg_settings', relowner, coalesce(relacl, acldefault('r', relowner)), 'UPDATE'
    FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = 'pg_settings'
)
SELECT statement || ' FROM ' || holder.name, may.everything OR pg_has_role(current_user, owner, 'USAGE'), rank
FROM object CROSS JOIN may
-- What the login role was given of the rest, it was given on purpose: a user's rule of the guard may need it.
CROSS JOIN LATERAL (SELECT 0, 'PUBLIC' UNION ALL SELECT oid, quote_ident(rolname) FROM holder_role WHERE rank <= 2) AS holder (oid, name)
WHERE EXISTS (SELECT FROM aclexplode(acl) WHERE grantee = holder.oid AND privilege_type = privilege)
UNION ALL
SELECT format('ALTER ROLE %I SET track_activities = off', rolname), may.everything, 7
FROM pg_roles CROSS JOIN may
WHERE rolname IN (SELECT rolname FROM login) AND NOT coalesce(rolconfig, '{}') @> '{track_activities=off}'
ORDER BY 3, 1";

/// What hardening there is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardening {
    /// Statements that this role may run; after `apply` those that took hold.
    pub steps: Vec<String>,
    /// Statements that it may not, with the reason if the server gave one: left to the guard.
    pub left: Vec<String>,
}

/// Does what is missing as far as this role may, each statement by itself.
pub async fn harden(client: &Client, options: &ProtectOptions) -> Result<Hardening, ProtectError> {
    let mut hardening = missing_hardening(client, options).await?;
    if hardening.steps.is_empty() {
        return Ok(hardening);
    }
    let mut failed = Vec::new();
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = '10s'").await?;
    for step in &hardening.steps {
        client.batch_execute("SAVEPOINT step").await?;
        match client.batch_execute(step).await {
            Ok(()) => client.batch_execute("RELEASE step").await?,
            Err(error) if error.as_db_error().is_some() => {
                client.batch_execute("ROLLBACK TO step").await?;
                failed.push(format!("{step} -- {}", told(&error)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    client.batch_execute("COMMIT").await?;
    // What revokes nothing only warns, so the catalogs have the last word.
    let still = missing_hardening(client, options).await?;
    hardening.steps.retain(|step| !still.steps.contains(step));
    let silent = still.steps.into_iter().filter(|step| !failed.iter().any(|failed| failed.starts_with(step)));
    hardening.left.extend(silent.collect::<Vec<_>>());
    hardening.left.append(&mut failed);
    Ok(hardening)
}

/// What is missing. Changes nothing.
pub async fn missing_hardening(client: &Client, options: &ProtectOptions) -> Result<Hardening, ProtectError> {
    let mut hardening = Hardening::default();
    for row in client.query(SQL, &[&FUNCTIONS, &VIEWS, &options.role, &options.roles]).await? {
        let (statement, may): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        if may { hardening.steps.push(statement) } else { hardening.left.push(statement) }
    }
    Ok(hardening)
}
