//! One check: a row with its number, its severity and its query, and how it is run.
//! A query answers with `object`, `message`, `fix` and, where findings of one check weigh differently,
//! `severity`; where a query can only suspect, `attempts` are tried before it is believed. It runs in a read-only transaction of its own, with nothing but `pg_catalog` in its search
//! path, so that names come out qualified and nobody's operators or functions are called.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::trial::Trial;
use super::{Finding, FindingSeverity};
use crate::directory::{ContextMode, GuardLevel, Tenancy};

/// What the queries begin with.
const PRELUDE: &str = include_str!("prelude.sql");

/// Findings told of one check; the rest is a number.
const MAX_FINDINGS: usize = 100;

/// Suspicions of one check that are tried; what is beyond them stands.
const MAX_TRIALS: usize = 10_000;

/// In front of every query. Nothing that a role stored for itself may change what a check sees; nested loops
/// over what the prelude gathers, and compiling the plans, take seconds where there are thousands of tables.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog; SET LOCAL statement_timeout = '10s'; \
     SET LOCAL lock_timeout = '2s'; SET LOCAL enable_nestloop = off; SET LOCAL jit = off; SET LOCAL standard_conforming_strings = on";

/// One check.
#[derive(Debug)]
pub(super) struct Check {
    /// Its number, for ever.
    pub(super) id: &'static str,
    /// How much a finding weighs.
    pub(super) rank: Rank,
    /// What is wrong, in a few words.
    pub(super) name: &'static str,
    /// Why that matters.
    pub(super) why: &'static str,
    /// The first version of PostgreSQL that has what is asked for.
    pub(super) since: i32,
    /// The query.
    pub(super) query: &'static str,
    /// What confirms a row of the query, if the query cannot.
    trial: Option<Trial>,
}

/// How much a finding weighs, unless its row says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// The same always.
    Always(FindingSeverity),
    /// What the sealed context rests on: critical with it, advice without.
    Sealed,
    /// What the strict guard refuses: advice with it, a warning without.
    BehindGuard,
}

/// What a query answered.
struct Answer {
    rows: Vec<Row>,
    /// How many rows more there are.
    unseen: usize,
}

/// Parameters of the checks: the role, the tenancy and the schemas that they look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckScope<'q> {
    pub(super) role: &'q str,
    pub(super) tenancy: &'q Tenancy,
    /// Schemas that are one tenant's own, and its role for each.
    pub(super) schemas: &'q [&'q str],
    pub(super) roles: &'q [&'q str],
    /// Roles that sessions of the login role may set.
    pub(super) settable: &'q [String],
}

impl CheckScope<'_> {
    const fn sealed(self) -> bool {
        matches!(self.tenancy.context, ContextMode::Sealed(_))
    }

    const fn strict(self) -> bool {
        matches!(self.tenancy.guard, GuardLevel::Strict)
    }

    fn severity(self, rank: Rank) -> FindingSeverity {
        match rank {
            Rank::Always(severity) => severity,
            Rank::Sealed if self.sealed() => FindingSeverity::Critical,
            Rank::BehindGuard if !self.strict() => FindingSeverity::Warning,
            Rank::Sealed | Rank::BehindGuard => FindingSeverity::Advice,
        }
    }
}

impl Check {
    /// A check that every supported version can be asked.
    pub(super) const fn new(
        (id, rank): (&'static str, Rank),
        name: &'static str,
        why: &'static str,
        query: &'static str,
    ) -> Self {
        Self { id, rank, name, why, since: 0, query, trial: None }
    }

    /// A check that an older version cannot be asked.
    pub(super) const fn since(mut self, version: i32) -> Self {
        self.since = version;
        self
    }

    /// A check whose rows are suspicions.
    pub(super) const fn tried(mut self, trial: Trial) -> Self {
        self.trial = Some(trial);
        self
    }

    /// Asks; a query that PostgreSQL does not answer is a finding too.
    pub(super) async fn run(&self, client: &Client, scope: CheckScope<'_>) -> Vec<Finding> {
        match self.ask(client, scope).await {
            Ok(answer) => self.findings(&answer, scope),
            Err(error) => vec![self.unanswered(&error)],
        }
    }

    async fn ask(&self, client: &Client, scope: CheckScope<'_>) -> Result<Answer, tokio_postgres::Error> {
        let limit = if self.trial.is_some() { MAX_TRIALS } else { MAX_FINDINGS };
        let sql = format!(
            "{PRELUDE} SELECT q.*, count(*) OVER () AS total FROM ({}) q ORDER BY 1, 2 LIMIT {limit}",
            self.query
        );
        let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
            (&scope.role, Type::TEXT),
            (&scope.tenancy.setting, Type::TEXT),
            (&scope.sealed(), Type::BOOL),
            (&scope.strict(), Type::BOOL),
            (&scope.schemas, Type::TEXT_ARRAY),
            (&scope.roles, Type::TEXT_ARRAY),
            (&scope.settable, Type::TEXT_ARRAY),
        ];
        client.batch_execute(BEGIN).await?;
        let answer = match client.query_typed(&sql, &parameters).await {
            Ok(rows) => self.confirm(client, scope, rows).await,
            Err(error) => Err(error),
        };
        client.batch_execute("ROLLBACK").await?;
        answer
    }

    /// Leaves out what a trial clears.
    async fn confirm(
        &self,
        client: &Client,
        scope: CheckScope<'_>,
        rows: Vec<Row>,
    ) -> Result<Answer, tokio_postgres::Error> {
        let total: i64 = rows.first().map_or(0, |row| row.try_get("total").unwrap_or(0));
        let unseen = usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(rows.len());
        let Some(trial) = self.trial else { return Ok(Answer { rows, unseen }) };
        let mut confirmed = Vec::new();
        for row in rows {
            if trial.confirms(client, &scope.tenancy.setting, &row).await? {
                confirmed.push(row);
            }
        }
        Ok(Answer { rows: confirmed, unseen })
    }

    fn findings(&self, answer: &Answer, scope: CheckScope<'_>) -> Vec<Finding> {
        let usual = scope.severity(self.rank);
        let text = |row: &Row, column: &str| row.try_get::<_, String>(column).unwrap_or_default();
        let told = answer.rows.iter().take(MAX_FINDINGS).map(|row| {
            let severity = FindingSeverity::parse(&text(row, "severity")).unwrap_or(usual);
            self.finding(severity, text(row, "object"), text(row, "message"), text(row, "fix"))
        });
        let mut findings: Vec<Finding> = told.collect();
        let more = answer.unseen + answer.rows.len() - findings.len();
        if more > 0 {
            // They may weigh as much as the heaviest that was told.
            let severity = findings.iter().map(|finding| finding.severity).min().unwrap_or(usual);
            let message = format!("{more} more of this kind are not listed");
            findings.push(self.finding(severity, "…".to_owned(), message, String::new()));
        }
        findings
    }

    fn unanswered(&self, error: &tokio_postgres::Error) -> Finding {
        let reason = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
        let message = format!("could not be checked: {reason}");
        self.finding(FindingSeverity::Warning, self.name.to_owned(), message, String::new())
    }

    fn finding(&self, severity: FindingSeverity, object: String, message: String, fix: String) -> Finding {
        Finding { id: self.id, severity, name: self.name, object, message, why: self.why, fix }
    }
}
