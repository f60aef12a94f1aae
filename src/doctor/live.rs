//! Checks that are no question to the catalogs: the configuration, the server's version, a pooler in
//! between, and the self-test of the pin.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Finding;
use super::FindingSeverity::{self, Critical, Warning};
use crate::control;
use crate::directory::{ContextMode, GuardLevel, Tenancy};
use crate::protect::{self, SelfTest};
use crate::upstream::settings::UpstreamSettings;

/// A check without a query: its number, what is wrong, why that matters.
struct Known {
    id: &'static str,
    name: &'static str,
    why: &'static str,
}

const UNREACHABLE: Known = Known {
    id: "D00",
    name: "the upstream could not be examined",
    why: "Nothing is known about whether it isolates tenants.",
};
const OUTDATED: Known = Known {
    id: "D38",
    name: "the server's version",
    why: "Older versions have known ways past row-level security.",
};
const POOLER: Known = Known {
    id: "D39",
    name: "a pooler between pgtenant and PostgreSQL",
    why: "In transaction mode it moves sessions between servers: resets and contexts reach the wrong one.",
};
const SELF_TEST: Known = Known {
    id: "D40",
    name: "the self-test of the pin",
    why: "It tries on this very server whether the forms of a pin hold that the doctor accepts.",
};
const CONFIGURATION: Known = Known {
    id: "D43",
    name: "neither guard nor seal",
    why: "With a plain context and nothing inspected, any client becomes any tenant by one SET.",
};

/// Numbers and names of the checks in this file.
#[cfg(test)]
pub(super) const NAMES: &[(&str, &str)] = &[
    (UNREACHABLE.id, UNREACHABLE.name),
    (OUTDATED.id, OUTDATED.name),
    (POOLER.id, POOLER.name),
    (SELF_TEST.id, SELF_TEST.name),
    (CONFIGURATION.id, CONFIGURATION.name),
];

/// The oldest minor version of each major one without a known way past row-level security
/// (the last ones: CVE-2024-10976, CVE-2025-8713).
const SOUND: [(i32, i32); 4] = [(14, 19), (15, 14), (16, 10), (17, 6)];

/// The oldest major version that is looked after.
const OLDEST: i32 = 14;

impl Known {
    fn found(&self, severity: FindingSeverity, object: &str, message: String, fix: &str) -> Finding {
        let (object, fix) = (object.to_owned(), fix.to_owned());
        Finding { id: self.id, severity, name: self.name, object, message, why: self.why, fix }
    }
}

/// What the configuration alone gives away.
pub(super) fn configuration(tenancy: &Tenancy) -> Vec<Finding> {
    let object = "configuration";
    let finding = match (&tenancy.context, tenancy.guard) {
        (ContextMode::Plain, GuardLevel::Off) => CONFIGURATION.found(
            Critical,
            object,
            "tenancy.context is plain and tenancy.guard is off".to_owned(),
            "set tenancy.guard = \"strict\", and after pgtenant protect tenancy.context = \"sealed\"",
        ),
        (ContextMode::Plain, GuardLevel::Context) => CONFIGURATION.found(
            Warning,
            object,
            "tenancy.context is plain and tenancy.guard only closes the direct routes to it".to_owned(),
            "set tenancy.guard = \"strict\", and after pgtenant protect tenancy.context = \"sealed\"",
        ),
        (ContextMode::Plain, GuardLevel::Strict) => CONFIGURATION.found(
            FindingSeverity::Advice,
            object,
            "tenancy.context is plain: code inside the database can change the setting".to_owned(),
            "run pgtenant protect, then set tenancy.context = \"sealed\"",
        ),
        (ContextMode::Sealed(_), GuardLevel::Off) => CONFIGURATION.found(
            Warning,
            object,
            "tenancy.guard is off: sessions of one role can disturb and watch each other".to_owned(),
            "set tenancy.guard = \"strict\"",
        ),
        (ContextMode::Sealed(_), GuardLevel::Context | GuardLevel::Strict) => return Vec::new(),
    };
    vec![finding]
}

/// No examination.
pub(super) fn unreachable(reason: &str) -> Finding {
    UNREACHABLE.found(Warning, "upstream", format!("could not be examined: {reason}"), "")
}

/// `server_version_num`; zero if it cannot be read.
pub(super) async fn version(client: &Client) -> i32 {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
    let rows = client.query_typed(sql, &[]).await.unwrap_or_default();
    rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(0)
}

/// Whether sessions of the login role may set a role; also if that cannot be read.
pub(super) async fn may_become(client: &Client, login: &str, role: &str) -> bool {
    let sql = "SELECT pg_catalog.pg_has_role(l.oid, r.oid, 'MEMBER') FROM pg_catalog.pg_roles l, pg_catalog.pg_roles r
               WHERE l.rolname OPERATOR(pg_catalog.=) $1 AND r.rolname OPERATOR(pg_catalog.=) $2";
    let names = [(&login as &(dyn ToSql + Sync), Type::NAME), (&role, Type::NAME)];
    match client.query_typed(sql, &names).await {
        // There may be no such role.
        Ok(rows) => rows.first().is_some_and(|row| row.try_get(0).unwrap_or(true)),
        Err(_) => true,
    }
}

/// A version that is out of support, or has a hole that is known.
pub(super) fn outdated(version: i32) -> Vec<Finding> {
    let (major, minor) = (version / 10_000, version % 10_000);
    let object = format!("PostgreSQL {major}.{minor}");
    if major < OLDEST {
        let message = format!("is older than {OLDEST} and gets no security releases");
        return vec![OUTDATED.found(Warning, &object, message, "upgrade")];
    }
    let sound = SOUND.iter().find(|(known, _)| *known == major).map_or(0, |(_, sound)| *sound);
    if minor < sound {
        let message = format!("has a known way past row-level security that {major}.{sound} closes");
        return vec![OUTDATED.found(Warning, &object, message, "install the latest minor release")];
    }
    Vec::new()
}

/// Two sessions that live at one time cannot have the same server process, and one session cannot have two.
pub(super) async fn pooler(settings: &UpstreamSettings, first: &Client) -> Vec<Finding> {
    let Ok(second) = control::connect(settings, &settings.user, settings.password.as_ref()).await else {
        return Vec::new();
    };
    let moved = async {
        let before = process_id(first).await?;
        second.batch_execute("BEGIN").await.ok()?;
        let other = process_id(&second).await?;
        let after = process_id(first).await?;
        second.batch_execute("ROLLBACK").await.ok()?;
        Some(before == other || before != after)
    };
    if moved.await != Some(true) {
        return Vec::new();
    }
    let message = "sessions share or change server processes: a pooler in transaction mode".to_owned();
    vec![POOLER.found(Critical, "upstream", message, "point upstream hosts at PostgreSQL itself")]
}

async fn process_id(client: &Client) -> Option<i32> {
    client.query_typed("SELECT pg_catalog.pg_backend_pid()", &[]).await.ok()?.first()?.try_get(0).ok()
}

/// Whether pins hold on this server, and under a seal whether the key is in the database.
pub(super) async fn self_test(client: &Client, tenancy: &Tenancy) -> Vec<Finding> {
    let could_not = |why: String| {
        let remedy = match tenancy.context {
            ContextMode::Plain => "the login role needs TEMP on the database",
            ContextMode::Sealed(_) => {
                "run pgtenant protect with this configuration; the login role needs TEMP on the database"
            }
        };
        SELF_TEST.found(Warning, "pin", format!("could not be tried: {why}"), remedy)
    };
    match protect::self_test(client, &tenancy.setting, &tenancy.context).await {
        Ok(SelfTest::Holds) => Vec::new(),
        Ok(SelfTest::Leaks(tries)) => {
            let message = format!(
                "it does not hold on this server: another tenant's rows were seen ({})",
                tries.join(", ")
            );
            vec![SELF_TEST.found(Critical, "pin", message, "report this with the server's version")]
        }
        Ok(SelfTest::CannotRun(why)) => vec![could_not(why)],
        Err(error) => vec![could_not(error.to_string())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_sound_from_the_release_that_closed_the_last_hole() {
        for sound in [140_019, 150_014, 150_020, 160_010, 170_006, 180_000, 190_001] {
            assert!(outdated(sound).is_empty(), "{sound}");
        }
        for old in [0, 130_022, 140_018, 150_013, 160_009, 170_005] {
            assert_eq!(outdated(old).len(), 1, "{old}");
        }
    }
}
