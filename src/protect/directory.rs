//! The directory's tables: `pgtenant.tenants` and `pgtenant.users`, a notification when they change, and a role that
//! reads them, besides whom nobody does.

use tokio_postgres::Client;

use super::{Plan, ProtectError, ROUNDS, Sql};
use crate::registry::CHANNEL;

const PART: &str = "directory";

/// The tables: name, how it is made, and what its reader may do besides reading.
const TABLES: [(&str, &str, Option<&str>); 2] = [
    (
        "pgtenant.tenants",
        include_str!("directory.sql"),
        // MOVE TENANT writes a tenant's new place.
        Some("UPDATE (upstream, isolation, database, schema, role, role_password)"),
    ),
    ("pgtenant.users", include_str!("directory_users.sql"), None),
];

/// What the database lacks for `reader` to read the directory in it. Changes nothing.
pub async fn directory_plan(client: &Client, reader: &str) -> Result<Plan, ProtectError> {
    client.batch_execute("BEGIN READ ONLY").await?;
    let plan = compare(client, reader).await;
    client.batch_execute("ROLLBACK").await?;
    plan
}

/// Does it, all or nothing; says what was done.
pub async fn apply_directory(client: &Client, reader: &str) -> Result<Plan, ProtectError> {
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = '10s'").await?;
    let done = settle(client, reader).await;
    client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    done
}

async fn settle(client: &Client, reader: &str) -> Result<Plan, ProtectError> {
    let mut done = Plan::default();
    for _ in 0..ROUNDS {
        let plan = compare(client, reader).await?;
        if plan.steps.is_empty() {
            return Ok(Plan { steps: done.steps, ..plan });
        }
        for step in plan.steps {
            if let Sql::Text(text) = &step.sql {
                let failed = |source| ProtectError::Statement { statement: text.clone(), source };
                client.batch_execute(text).await.map_err(failed)?;
            }
            done.steps.push(step);
        }
    }
    let left: Vec<String> =
        compare(client, reader).await?.steps.iter().map(|step| step.sql.to_string()).collect();
    if left.is_empty() { Ok(done) } else { Err(ProtectError::Unsettled(left.join(" "))) }
}

async fn compare(client: &Client, reader: &str) -> Result<Plan, ProtectError> {
    let mut plan = Plan::default();
    let known = client
        .query_one("SELECT to_regnamespace('pgtenant') IS NOT NULL, (SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = $1::text::name)", &[&reader])
        .await?;
    if !known.try_get::<_, bool>(0)? {
        plan.add(PART, "CREATE SCHEMA pgtenant");
    }
    for (table, sql, _) in TABLES {
        compare_table(client, (table, sql), &mut plan).await?;
    }
    match known.try_get::<_, Option<String>>(1)? {
        Some(quoted) => compare_grants(client, (reader, &quoted), &mut plan).await?,
        None => plan.blocked.push(format!(
            "there is no role {reader:?} that reads: CREATE ROLE … LOGIN PASSWORD '…', then again"
        )),
    }
    Ok(plan)
}

async fn compare_table(
    client: &Client,
    (table, sql): (&str, &str),
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    let function = "SELECT EXISTS (SELECT FROM pg_proc WHERE oid = to_regprocedure('pgtenant.directory_changed()')),
                           to_regclass($1) IS NOT NULL,
                           EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = 'directory_changed')";
    let there = client.query_one(function, &[&table]).await?;
    let (has_function, has_table, has_trigger): (bool, bool, bool) =
        (there.try_get(0)?, there.try_get(1)?, there.try_get(2)?);
    if !has_function && table == TABLES[0].0 {
        plan.add(
            PART,
            format!(
                "CREATE FUNCTION pgtenant.directory_changed() RETURNS trigger LANGUAGE plpgsql\n\
                 SET search_path = pg_catalog, pg_temp AS $$BEGIN PERFORM pg_notify('{CHANNEL}', ''); RETURN NULL; END$$"
            ),
        );
        plan.add(PART, "REVOKE ALL ON FUNCTION pgtenant.directory_changed() FROM PUBLIC");
    }
    if !has_table {
        plan.add(PART, sql.trim_end());
    }
    if !has_trigger {
        plan.add(
            PART,
            format!(
                "CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}\n\
                 FOR EACH STATEMENT EXECUTE FUNCTION pgtenant.directory_changed()"
            ),
        );
    }
    Ok(())
}

/// The reader's privileges, and nobody else's besides the owner's.
async fn compare_grants(
    client: &Client,
    (name, reader): (&str, &str),
    plan: &mut Plan,
) -> Result<(), ProtectError> {
    let sql = "SELECT has_schema_privilege($1::text::name, n.oid, 'USAGE') FROM pg_namespace n WHERE nspname = 'pgtenant'";
    let may_enter =
        client.query_opt(sql, &[&name]).await?.map(|row| row.try_get::<_, bool>(0)).transpose()?;
    if may_enter != Some(true) {
        plan.add(PART, format!("GRANT USAGE ON SCHEMA pgtenant TO {reader}"));
    }
    for (table, _, more) in TABLES {
        let sql = "SELECT has_table_privilege($1::text::name, oid, 'SELECT'),
                          has_any_column_privilege($1::text::name, oid, 'UPDATE')
                   FROM pg_class WHERE oid = to_regclass($2)";
        let may = client.query_opt(sql, &[&name, &table]).await?;
        let (may_read, may_write) =
            may.map_or(Ok((false, false)), |row| Ok::<_, ProtectError>((row.try_get(0)?, row.try_get(1)?)))?;
        if !may_read {
            plan.add(PART, format!("GRANT SELECT ON {table} TO {reader}"));
        }
        if let Some(more) = more.filter(|_| !may_write) {
            plan.add(PART, format!("GRANT {more} ON {table} TO {reader}"));
        }
        let others = "SELECT DISTINCT CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
                      FROM (SELECT relowner, relacl FROM pg_class WHERE oid = to_regclass($2)
                            UNION ALL SELECT relowner, attacl FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                            WHERE c.oid = to_regclass($2)) AS t (owner, acl)
                      CROSS JOIN LATERAL aclexplode(acl)
                      WHERE grantee <> owner AND grantee IS DISTINCT FROM to_regrole(quote_ident($1))::oid";
        for row in client.query(others, &[&name, &table]).await? {
            plan.add(PART, format!("REVOKE ALL ON {table} FROM {}", row.try_get::<_, String>(0)?));
        }
    }
    Ok(())
}
