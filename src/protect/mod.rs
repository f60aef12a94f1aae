//! Installs in a database what keeps tenants apart there: policies that pin every tenant table to its tenant, less for
//! the login role to reach, and for the sealed context the schema `pgtenant`, which verifies it.
//! Promise: what is done is only what the catalogs lack, so a second run does nothing; the key is never printed.

mod canary;
mod directory;
mod harden;
mod policy;
mod register;
mod schema;
mod self_test;
mod tables;

use std::fmt;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

pub use canary::canary_sql;
pub use directory::{apply_directory, directory_plan};
pub use harden::{Hardening, harden, missing_hardening};
pub use self_test::{PIN, SelfTest, self_test, try_policies};

use crate::directory::ContextMode;
use crate::names::TenantId;
use policy::{SEALED_TENANT, setting_of_tenant};
use register::Prerequisite;

/// How often what was applied is compared with the catalogs: default privileges can make a second round.
const ROUNDS: usize = 3;

/// Options of `protect`: how one database is to be protected.
#[derive(Debug, Clone)]
pub struct ProtectOptions {
    /// The pool's login role.
    pub role: String,
    /// Roles that its sessions may set (`user.roles`).
    pub roles: Vec<String>,
    /// The setting that carries the tenant.
    pub setting: String,
    /// What the policies believe: the setting, or a context that is proven with this key.
    pub context: ContextMode,
    /// The column that names a row's tenant.
    pub column: String,
    /// Tables by name; none: every one that has the column and that the login role can reach.
    pub tables: Vec<String>,
    /// The canary's tenants.
    pub canary: Option<[TenantId; 2]>,
    /// Take every other key away.
    pub retire_keys: bool,
    /// What becomes of `pgtenant.enter`.
    pub enter: Enter,
}

/// Whether instances of earlier versions, which call `pgtenant.enter`, are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enter {
    /// As the database has it.
    Kept,
    /// No longer, except on standbys.
    Retired,
}

impl ProtectOptions {
    /// The SQL of the tenant that policies compare with.
    fn tenant(&self) -> String {
        match self.context {
            ContextMode::Plain => setting_of_tenant(&self.setting),
            ContextMode::Sealed(_) => SEALED_TENANT.to_owned(),
        }
    }
}

/// What is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Statements, in order.
    pub steps: Vec<Step>,
    /// What is missing and cannot be done by this role.
    pub blocked: Vec<String>,
    /// What else an operator should know.
    pub notes: Vec<String>,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is about.
    pub part: String,
    /// The statement.
    pub sql: Sql,
}

/// A statement, or the one that carries the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sql {
    /// As it stands.
    Text(String),
    /// Hands the key over, as a parameter.
    AddKey,
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text};"),
            Self::AddKey => f.write_str("SELECT pgtenant.add_key(:'seal_key');"),
        }
    }
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// The server said no, or nothing.
    #[error("{}", told(.0))]
    Database(#[from] Error),
    /// A statement failed.
    #[error("{}: {statement}", told(.source))]
    Statement {
        /// Which.
        statement: String,
        /// How.
        source: Error,
    },
    /// Protection would be none.
    #[error("{0}")]
    Refused(String),
    /// What was applied does not show in the catalogs.
    #[error("after all statements these are still missing, so nothing was kept: {0}")]
    Unsettled(String),
}

/// An error with what the server said; the package's own text leaves it out.
pub fn told(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

/// What the catalogs lack. Changes nothing.
pub async fn plan(client: &Client, options: &ProtectOptions) -> Result<Plan, ProtectError> {
    client.batch_execute("BEGIN READ ONLY").await?;
    let plan = look(client, options).await;
    client.batch_execute("ROLLBACK").await?;
    plan
}

/// Does what the catalogs lack, all or nothing; says what was done.
pub async fn apply(client: &Client, options: &ProtectOptions) -> Result<Plan, ProtectError> {
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = '10s'").await?;
    let done = settle(client, options).await;
    client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    done
}

async fn look(client: &Client, options: &ProtectOptions) -> Result<Plan, ProtectError> {
    let named = names(client, options).await?;
    compare(client, options, &named).await
}

/// The named tables. From here on names mean one thing, and the catalogs print every other schema.
async fn names(client: &Client, options: &ProtectOptions) -> Result<Vec<u32>, ProtectError> {
    let named = tables::find(client, options).await?;
    client.batch_execute("SET LOCAL search_path = pg_catalog, pg_temp").await?;
    Ok(named)
}

async fn settle(client: &Client, options: &ProtectOptions) -> Result<Plan, ProtectError> {
    let named = names(client, options).await?;
    let mut done = Vec::new();
    for _ in 0..ROUNDS {
        let plan = compare(client, options, &named).await?;
        if plan.steps.is_empty() {
            return Ok(Plan { steps: done, ..plan });
        }
        for step in plan.steps {
            execute(client, &step.sql, options).await?;
            done.push(step);
        }
    }
    let left = compare(client, options, &named).await?;
    if left.steps.is_empty() {
        return Ok(Plan { steps: done, ..left });
    }
    let left: Vec<String> = left.steps.iter().map(|step| step.sql.to_string()).collect();
    Err(ProtectError::Unsettled(left.join(" ")))
}

async fn execute(client: &Client, sql: &Sql, options: &ProtectOptions) -> Result<(), ProtectError> {
    let outcome = match (sql, &options.context) {
        (Sql::Text(text), _) => client.batch_execute(text).await,
        (Sql::AddKey, ContextMode::Plain) => Ok(()),
        (Sql::AddKey, ContextMode::Sealed(key)) => {
            let hex = key.expose().map(|byte| format!("{byte:02x}")).concat();
            let added = client.query_typed("SELECT pgtenant.add_key($1)", &[(&hex, Type::TEXT)]).await;
            added.map(drop)
        }
    };
    outcome.map_err(|source| ProtectError::Statement { statement: sql.to_string(), source })
}

async fn compare(client: &Client, options: &ProtectOptions, named: &[u32]) -> Result<Plan, ProtectError> {
    let role = schema::login_role(client, options).await?;
    let mut plan = Plan::default();
    if let ContextMode::Sealed(key) = &options.context
        && schema::compare(client, options, (&role, key), &mut plan).await? == Prerequisite::Blocked
    {
        return Ok(plan);
    }
    tables::compare(client, options, (&role, named), &mut plan).await?;
    canary::compare(client, options, &role, &mut plan).await?;
    Ok(plan)
}

impl Plan {
    fn add(&mut self, part: &str, text: impl Into<String>) {
        self.steps.push(Step { part: part.to_owned(), sql: Sql::Text(text.into()) });
    }
}

/// A text between quotes; `standard_conforming_strings` is on wherever this runs.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
