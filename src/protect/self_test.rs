//! Tries on a live server whether the pin holds there: a later version's planner may treat it otherwise.
//! Leaves nothing behind: everything happens in a temporary table and a transaction that is rolled back.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::directory::SealKey;
use crate::seal::proof;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfTest {
    /// Only the entered tenant's rows were seen or touched.
    Holds,
    /// Another tenant's row was seen or touched.
    Leaks,
    /// It could not be tried, and why.
    CannotRun(String),
}

/// The pin as tenant tables have it.
pub const PIN: &str = "tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())])";

const OWN: &str = "pgtenant probe a";
const OTHER: &str = "pgtenant probe b";

/// How long a proof of the test holds.
const LIFETIME: Duration = Duration::from_secs(30);

/// Rows of two tenants, mixed, under a policy in the usual form.
const SETUP: &str = "
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL row_security = on;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_indexonlyscan = off;
CREATE TEMP TABLE pgtenant_probe (tenant_id text, note int);
INSERT INTO pg_temp.pgtenant_probe
SELECT CASE WHEN n % 2 = 0 THEN 'pgtenant probe a' ELSE 'pgtenant probe b' END, n FROM generate_series(0, 9) AS n;
ALTER TABLE pg_temp.pgtenant_probe ENABLE ROW LEVEL SECURITY;
ALTER TABLE pg_temp.pgtenant_probe FORCE ROW LEVEL SECURITY;
CREATE POLICY usual ON pg_temp.pgtenant_probe USING (tenant_id = current_setting('pgtenant_probe.tenant', true));";

/// What is tried; each starts with the own tenant in `pgtenant_probe.given`. The first column is whose row it was.
const TRIES: [&str; 4] = [
    "SELECT tenant_id, set_config('pgtenant_probe.given', 'pgtenant probe b', true)
     FROM pg_temp.pgtenant_probe WHERE tenant_id = current_setting('pgtenant_probe.given')",
    "DELETE FROM pg_temp.pgtenant_probe WHERE tenant_id = current_setting('pgtenant_probe.given')
     RETURNING tenant_id, set_config('pgtenant_probe.given', 'pgtenant probe b', true)",
    "UPDATE pg_temp.pgtenant_probe SET tenant_id = 'pgtenant probe a', note = -note WHERE tenant_id = current_setting('pgtenant_probe.given')
     RETURNING CASE note % 2 WHEN 0 THEN 'pgtenant probe a' ELSE 'pgtenant probe b' END,
     set_config('pgtenant_probe.given', 'pgtenant probe b', true)",
    "SELECT tenant_id FROM pg_temp.pgtenant_probe",
];

/// Tries the pin as the login role, whose session this must be.
pub async fn self_test(client: &Client, key: &SealKey) -> Result<SelfTest, Error> {
    try_policies(client, key, Some(PIN)).await
}

/// Tries any boundary, or none beside the usual policy: so the test itself can be tested.
pub async fn try_policies(client: &Client, key: &SealKey, boundary: Option<&str>) -> Result<SelfTest, Error> {
    client.batch_execute("BEGIN").await?;
    let outcome = attempt(client, key, boundary).await;
    client.batch_execute("ROLLBACK").await?;
    match outcome {
        Err(error) if error.as_db_error().is_some() => Ok(SelfTest::CannotRun(super::told(&error))),
        other => other,
    }
}

async fn attempt(client: &Client, key: &SealKey, boundary: Option<&str>) -> Result<SelfTest, Error> {
    client.batch_execute(SETUP).await?;
    if let Some(boundary) = boundary {
        let sql = format!(
            "CREATE POLICY boundary ON pg_temp.pgtenant_probe AS RESTRICTIVE USING ({boundary}) WITH CHECK ({boundary})"
        );
        client.batch_execute(&sql).await?;
    }
    enter(client, key).await?;
    for sql in TRIES {
        client.batch_execute("SAVEPOINT attempt").await?;
        let given = format!("SELECT set_config('pgtenant_probe.given', '{OWN}', true)");
        client.batch_execute(&given).await?;
        let owners = owners(client, sql).await?;
        client.batch_execute("ROLLBACK TO attempt").await?;
        if owners.iter().any(|owner| owner == OTHER) {
            return Ok(SelfTest::Leaks);
        }
        if owners.is_empty() {
            return Ok(SelfTest::CannotRun("the entered tenant does not see its own rows".to_owned()));
        }
    }
    Ok(SelfTest::Holds)
}

/// Enters as one of the tenants with a proof as the proxy makes it.
async fn enter(client: &Client, key: &SealKey) -> Result<(), Error> {
    let sql = "SELECT pg_backend_pid(), date_part('epoch', clock_timestamp())::int8";
    let row = client.query_one(sql, &[]).await?;
    let (pid, now): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
    let expiry = now.unsigned_abs().saturating_add(LIFETIME.as_secs());
    let proof = proof(key, OWN, pid.unsigned_abs(), expiry);
    let enter = "SELECT pgtenant.enter($1, $2)";
    client.query_typed(enter, &[(&OWN, Type::TEXT), (&proof, Type::TEXT)]).await?;
    let usual = format!("SELECT set_config('pgtenant_probe.tenant', '{OWN}', true)");
    client.batch_execute(&usual).await
}

async fn owners(client: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(rows.collect())
}
