//! Tries on a live server whether pins hold there: a later version's planner may treat them otherwise.
//! Leaves nothing behind: everything happens in a temporary table and a transaction that is rolled back.

use std::time::Duration;

use rand::Rng as _;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::policy::{SEALED_TENANT, setting_of_tenant};
use crate::directory::{ContextMode, SealKey};
use crate::seal::hand_over_proof;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfTest {
    /// Only the entered tenant's rows were seen or touched.
    Holds,
    /// Another tenant's row was seen or touched: by which of the tries.
    Leaks(Vec<String>),
    /// It could not be tried, and why.
    CannotRun(String),
}

/// The pin of a text column as `protect` makes it; `{tenant}` stands for the sub-select that yields the tenant.
pub const PIN: &str = "coalesce(tenant_id = ANY (ARRAY[{tenant}]), false)";

/// Every form of a restrictive policy that the doctor takes for a pin, each with a name.
const FORMS: [(&str, &str); 3] = [
    ("coalesce", PIN),
    ("any", "tenant_id = ANY (ARRAY[{tenant}])"),
    ("is true", "(tenant_id = {tenant}) IS TRUE"),
];

/// A type of column: its name, two tenants, and what their text is cast to.
struct KeyType {
    name: &'static str,
    own: &'static str,
    other: &'static str,
    cast: &'static str,
}

const KINDS: [KeyType; 3] = [
    KeyType { name: "text", own: "pgtenant probe a", other: "pgtenant probe b", cast: "" },
    KeyType {
        name: "uuid",
        own: "11111111-1111-4111-8111-111111111111",
        other: "22222222-2222-4222-8222-222222222222",
        cast: "::uuid",
    },
    KeyType { name: "bigint", own: "1000001", other: "1000002", cast: "::bigint" },
];

/// How long a proof of the test holds.
const LIFETIME: Duration = Duration::from_secs(30);

/// Plans that read rows one by one: an index condition would be computed once, and hide what the test is for.
const SETUP: &str = "
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL row_security = on;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_material = off;";

/// Rows of two tenants, mixed, under a policy in the usual form.
const TABLE: &str = "
CREATE TEMP TABLE pgtenant_probe (tenant_id {kind}, note int);
INSERT INTO pg_temp.pgtenant_probe
SELECT (CASE WHEN n % 2 = 0 THEN '{own}' ELSE '{other}' END){cast}, n FROM generate_series(0, 9) AS n;
ALTER TABLE pg_temp.pgtenant_probe ENABLE ROW LEVEL SECURITY;
ALTER TABLE pg_temp.pgtenant_probe FORCE ROW LEVEL SECURITY;
CREATE POLICY usual ON pg_temp.pgtenant_probe USING (tenant_id = current_setting('pgtenant_probe.tenant', true){cast});";

/// What is tried, each with a name; the own tenant stands in `pgtenant_probe.given` before. The first column is
/// whose row it was.
const TRIES: [(&str, &str); 6] = [
    (
        "read",
        "SELECT tenant_id, set_config('pgtenant_probe.given', '{other}', true)
         FROM pg_temp.pgtenant_probe WHERE tenant_id = current_setting('pgtenant_probe.given'){cast}",
    ),
    (
        "lock",
        "SELECT tenant_id, set_config('pgtenant_probe.given', '{other}', true)
         FROM pg_temp.pgtenant_probe WHERE tenant_id = current_setting('pgtenant_probe.given'){cast} FOR UPDATE",
    ),
    (
        "with",
        "WITH p AS MATERIALIZED (SELECT tenant_id, set_config('pgtenant_probe.given', '{other}', true)
             FROM pg_temp.pgtenant_probe WHERE tenant_id = current_setting('pgtenant_probe.given'){cast}) SELECT * FROM p",
    ),
    (
        "delete",
        "DELETE FROM pg_temp.pgtenant_probe WHERE tenant_id = current_setting('pgtenant_probe.given'){cast}
         RETURNING tenant_id, set_config('pgtenant_probe.given', '{other}', true)",
    ),
    (
        "update",
        "UPDATE pg_temp.pgtenant_probe SET tenant_id = '{own}', note = -note
         WHERE tenant_id = current_setting('pgtenant_probe.given'){cast}
         RETURNING CASE note % 2 WHEN 0 THEN '{own}' ELSE '{other}' END, set_config('pgtenant_probe.given', '{other}', true)",
    ),
    ("bare", "SELECT tenant_id FROM pg_temp.pgtenant_probe"),
];

/// Tries every form of a pin as the login role, whose session this must be, under a context as the proxy enters it.
pub async fn self_test(client: &Client, setting: &str, context: &ContextMode) -> Result<SelfTest, Error> {
    let mut leaks = Vec::new();
    for (name, form) in FORMS {
        match try_policies(client, (setting, context), Some(form)).await? {
            SelfTest::Holds => {}
            SelfTest::Leaks(tries) => leaks.extend(tries.iter().map(|attempt| format!("{name}: {attempt}"))),
            could_not @ SelfTest::CannotRun(_) => return Ok(could_not),
        }
    }
    Ok(if leaks.is_empty() { SelfTest::Holds } else { SelfTest::Leaks(leaks) })
}

/// Tries any boundary, or none beside the usual policy: so the test itself can be tested. It speaks of a text
/// column `tenant_id`, and of the tenant as `{tenant}`.
pub async fn try_policies(
    client: &Client,
    under: (&str, &ContextMode),
    boundary: Option<&str>,
) -> Result<SelfTest, Error> {
    client.batch_execute("BEGIN").await?;
    let outcome = attempt(client, under, boundary).await;
    client.batch_execute("ROLLBACK").await?;
    match outcome {
        Err(error) if error.as_db_error().is_some() => Ok(SelfTest::CannotRun(super::told(&error))),
        other => other,
    }
}

async fn attempt(
    client: &Client,
    (setting, context): (&str, &ContextMode),
    boundary: Option<&str>,
) -> Result<SelfTest, Error> {
    client.batch_execute(SETUP).await?;
    let mut leaks = Vec::new();
    for kind in &KINDS {
        client.batch_execute("SAVEPOINT kind").await?;
        client.batch_execute(&kind.written(TABLE)).await?;
        let held = client.query_one("SELECT row_security_active('pg_temp.pgtenant_probe')", &[]).await?;
        if !held.try_get::<_, bool>(0)? {
            return Ok(SelfTest::CannotRun("row-level security does not hold the login role".to_owned()));
        }
        if let Some(boundary) = boundary {
            let tenant = match context {
                ContextMode::Plain => setting_of_tenant(setting),
                ContextMode::Sealed(_) => SEALED_TENANT.to_owned(),
            };
            let boundary = boundary.replace("{tenant}", &format!("(SELECT {tenant}{})", kind.cast));
            let sql = format!(
                "CREATE POLICY boundary ON pg_temp.pgtenant_probe AS RESTRICTIVE USING ({boundary}) WITH CHECK ({boundary})"
            );
            client.batch_execute(&sql).await?;
        }
        enter(client, (setting, context), kind.own).await?;
        for (name, sql) in TRIES {
            client.batch_execute("SAVEPOINT attempt").await?;
            let given = format!("SELECT set_config('pgtenant_probe.given', '{}', true)", kind.own);
            client.batch_execute(&given).await?;
            let owners = owners(client, &kind.written(sql)).await?;
            client.batch_execute("ROLLBACK TO attempt").await?;
            if owners.iter().any(|owner| owner == kind.other) {
                leaks.push(format!("{name} {}", kind.name));
            } else if owners.is_empty() {
                let why = format!("the entered tenant does not see its own rows: {name} {}", kind.name);
                return Ok(SelfTest::CannotRun(why));
            }
        }
        client.batch_execute("ROLLBACK TO kind").await?;
    }
    Ok(if leaks.is_empty() { SelfTest::Holds } else { SelfTest::Leaks(leaks) })
}

impl KeyType {
    fn written(&self, sql: &str) -> String {
        let filled =
            [("{kind}", self.name), ("{own}", self.own), ("{other}", self.other), ("{cast}", self.cast)];
        filled.iter().fold(sql.to_owned(), |sql, (mark, value)| sql.replace(mark, value))
    }
}

/// Enters as one of the tenants, as the proxy does.
async fn enter(client: &Client, (setting, context): (&str, &ContextMode), own: &str) -> Result<(), Error> {
    match context {
        ContextMode::Plain => set(client, setting, own).await?,
        ContextMode::Sealed(key) => enter_sealed(client, key, own).await?,
    }
    set(client, "pgtenant_probe.tenant", own).await
}

async fn set(client: &Client, setting: &str, value: &str) -> Result<(), Error> {
    let sql = "SELECT set_config($1, $2, true)";
    client.query_typed(sql, &[(&setting, Type::TEXT), (&value, Type::TEXT)]).await.map(drop)
}

async fn enter_sealed(client: &Client, key: &SealKey, own: &str) -> Result<(), Error> {
    let sql = "SELECT pg_backend_pid(), date_part('epoch', clock_timestamp())::int8";
    let row = client.query_one(sql, &[]).await?;
    let (pid, now): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
    let expiry = now.unsigned_abs().saturating_add(LIFETIME.as_secs());
    let nonce = format!("{:032x}", rand::rng().random::<u128>());
    client.batch_execute(&format!("SET LOCAL pgtenant.nonce = '{nonce}'")).await?;
    let proof = hand_over_proof(key, own, pid.unsigned_abs(), expiry, &nonce);
    let enter = "SELECT pgtenant.hand_over($1, $2)";
    client.query_typed(enter, &[(&own, Type::TEXT), (&proof, Type::TEXT)]).await.map(drop)
}

async fn owners(client: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::super::policy::Column;
    use super::*;

    #[test]
    fn what_is_tried_is_the_pin_that_tables_get() {
        for kind in &KINDS {
            let cast = (!kind.cast.is_empty()).then(|| kind.name.to_owned());
            let column = Column { name: "tenant_id".to_owned(), cast };
            for tenant in [SEALED_TENANT.to_owned(), setting_of_tenant("app.tenant_id")] {
                let tried = PIN.replace("{tenant}", &format!("(SELECT {tenant}{})", kind.cast));
                assert_eq!(tried, column.pin(&tenant), "{}", kind.name);
            }
        }
    }
}
