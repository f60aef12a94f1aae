//! The doctor: whether a database really isolates tenants, asked of its catalogs as the pool's login role.
//! Promise: every finding has a number, an object, a reason and what mends it; no catalog, however odd, makes
//! it fail; it changes nothing and takes a bounded time. docs/doctor.md explains each check.

mod check;
mod checks;
mod live;
mod report;
mod trial;
mod watch;

use std::time::Duration;

use tokio::time::timeout;

use crate::control;
use crate::directory::{Directory, Isolation, Tenant};
use crate::upstream::settings::UpstreamSettings;
use check::CheckScope;
pub use report::{as_json, as_text};
pub use watch::{Unsafe, Watch};

/// All checks of one upstream together may take this long.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a reload waits for what one upstream says about roles.
const ROLES_LIMIT: Duration = Duration::from_secs(5);

/// How much a finding weighs; the heaviest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// Tenants are not isolated.
    Critical,
    /// They are, and something can be seen or disturbed.
    Warning,
    /// It could be better.
    Advice,
}

impl FindingSeverity {
    /// All of them, the heaviest first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Advice];

    /// The word in reports, logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Advice => "advice",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.word() == word)
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check's number.
    pub id: &'static str,
    /// How much it weighs.
    pub severity: FindingSeverity,
    /// The check in a few words.
    pub name: &'static str,
    /// What it is about, as SQL would name it.
    pub object: String,
    /// What is wrong with it.
    pub message: String,
    /// Why that matters.
    pub why: &'static str,
    /// The SQL that mends it, or what to do; may be empty.
    pub fix: String,
}

impl Finding {
    /// The same of a role that sessions of the login role may set.
    fn of_role(self, role: &str) -> Self {
        let message = self.message.replace("the login role", &format!("the role {role:?} of user.roles"));
        Self { message, ..self }
    }
}

/// Whether an upstream could be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Its catalogs were read.
    Examined,
    /// It could not be reached, or not in time.
    Unreachable,
}

/// What was found at one upstream, the heaviest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// The upstream's name.
    pub upstream: String,
    /// Whether it could be looked at.
    pub reached: Reached,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// How many findings weigh this much.
    pub fn count(&self, severity: FindingSeverity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Looks at one upstream. Never fails: what could not be looked at is a finding.
pub async fn examine(settings: &UpstreamSettings, directory: &Directory) -> Examination {
    let mut findings = live::configuration(&directory.tenancy);
    let looked = timeout(LIMIT, look(settings, directory)).await;
    let reached = match looked {
        Ok(Ok(found)) => {
            findings.extend(found);
            Reached::Examined
        }
        Ok(Err(error)) => {
            findings.push(live::unreachable(&error.to_string()));
            Reached::Unreachable
        }
        Err(_) => {
            findings.push(live::unreachable("the checks took longer than a minute"));
            Reached::Unreachable
        }
    };
    findings.sort_by(|a, b| (a.severity, a.id, &a.object).cmp(&(b.severity, b.id, &b.object)));
    Examination { upstream: settings.name.as_str().to_owned(), reached, findings }
}

/// Looks whether users may set these roles at all upstreams; what speaks against it.
pub async fn refuse_roles(upstreams: &[UpstreamSettings], directory: &Directory) -> Result<(), String> {
    let settable: Vec<String> = directory.roles().into_iter().collect();
    let mut refused = Vec::new();
    for settings in upstreams {
        let upstream = &settings.name;
        let Ok(found) = timeout(ROLES_LIMIT, look_at_roles(settings, directory, &settable)).await else {
            refused.push(format!("{upstream}: its roles could not be looked at in time"));
            continue;
        };
        match found {
            Ok(findings) => {
                let critical = findings.into_iter().filter(|one| one.severity != FindingSeverity::Advice);
                refused.extend(critical.map(|one| {
                    format!("{upstream}: {} {}: {} (fix: {})", one.id, one.object, one.message, one.fix)
                }));
            }
            Err(error) => refused.push(format!("{upstream}: its roles could not be looked at: {error}")),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused.join("\n")) }
}

async fn look_at_roles(
    settings: &UpstreamSettings,
    directory: &Directory,
    settable: &[String],
) -> Result<Vec<Finding>, crate::upstream::ConnectError> {
    let client = control::connect(settings, &settings.user, settings.password.as_ref()).await?;
    let (schemas, roles) = schemas_of(directory, settings);
    let scope = CheckScope {
        role: &settings.user,
        tenancy: &directory.tenancy,
        schemas: &schemas,
        roles: &roles,
        settable,
    };
    let mut findings = Vec::new();
    for check in checks::all().filter(|check| check.id == checks::SETTABLE) {
        findings.extend(check.run(&client, scope).await);
    }
    Ok(findings)
}

async fn look(
    settings: &UpstreamSettings,
    directory: &Directory,
) -> Result<Vec<Finding>, crate::upstream::ConnectError> {
    let client = control::connect(settings, &settings.user, settings.password.as_ref()).await?;
    let (schemas, roles) = schemas_of(directory, settings);
    let tenancy = &directory.tenancy;
    let settable: Vec<String> = directory.roles().into_iter().collect();
    let scope =
        CheckScope { role: &settings.user, tenancy, schemas: &schemas, roles: &roles, settable: &settable };
    let version = live::version(&client).await;
    let mut findings = live::outdated(version);
    findings.extend(live::pooler(settings, &client).await);
    for check in checks::all().filter(|check| version >= check.since) {
        findings.extend(check.run(&client, scope).await);
    }
    for role in &settable {
        if !live::may_become(&client, &settings.user, role).await {
            continue;
        }
        let scope = CheckScope { role, ..scope };
        for check in checks::of_settable().filter(|check| version >= check.since) {
            let found = check.run(&client, scope).await.into_iter();
            let more = found.filter(|one| !findings.contains(one)).map(|one| one.of_role(role));
            findings.extend(more.collect::<Vec<_>>());
        }
    }
    findings.extend(live::self_test(&client, tenancy).await);
    Ok(findings)
}

/// The schemas of tenants on an upstream, and for each the role of its tenant.
fn schemas_of<'d>(directory: &'d Directory, settings: &UpstreamSettings) -> (Vec<&'d str>, Vec<&'d str>) {
    let here = |tenant: &&Tenant| tenant.upstream == settings.name && tenant.isolation == Isolation::Schema;
    let tenants = directory.tenants.values().map(AsRef::as_ref).filter(here);
    let placed = |tenant: &'d Tenant| {
        let (schema, role) = (tenant.place.schema.as_deref()?, tenant.place.role.as_ref()?);
        Some((schema, role.0.as_str()))
    };
    tenants.filter_map(placed).unzip()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_number_of_its_own_and_a_row_in_the_documentation() {
        let documented = include_str!("../../docs/doctor.md");
        let mut ids = BTreeSet::new();
        let known = checks::all().map(|check| (check.id, check.name)).chain(live::NAMES.iter().copied());
        for (id, name) in known {
            assert!(ids.insert(id), "{id} is there twice");
            let row = format!("| {id} | ");
            let row = documented.lines().find(|line| line.starts_with(&row));
            let row = row.unwrap_or_else(|| panic!("docs/doctor.md lacks {id}"));
            assert!(row.contains(name), "docs/doctor.md calls {id} otherwise: {row}, not {name}");
        }
        let rows = documented.lines().filter(|line| line.starts_with("| D")).count();
        assert_eq!(rows, ids.len(), "docs/doctor.md has rows that no check has");
    }
}
