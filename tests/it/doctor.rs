//! The doctor finds each kind of fault and names nothing that is good; `serve` asks it before it lets
//! anybody in.

use std::collections::BTreeSet;

use serde_json::Value;
use tempfile::TempDir;

use crate::placement;
use crate::protect;
use crate::support::config::Config;
use crate::support::proxy::{binary, run};
use crate::support::{Cluster, Proxy, within};

const FAULTS: &str = include_str!("support/faults.sql");

/// Faults that have no object of their own name: the check and what its object begins with.
const UNNAMED: [(&str, &str); 12] = [
    ("D01", "role app"),
    ("D18", "database app"),
    ("D18", "language sql"),
    ("D25", "pg_catalog"),
    ("D27", "track_activities"),
    ("D28", "role app"),
    ("D30", "faults.d16_written"),
    ("D31", "user mapping for public"),
    ("D32", "large objects"),
    ("D33", "pg_stat_activity"),
    ("D35", "role helper"),
    ("D43", "configuration"),
];

/// The configuration of a cluster's proxy as a file.
fn file(cluster: &Cluster, change: impl FnOnce(&mut Config)) -> (TempDir, String) {
    let mut config = Config::new(cluster);
    change(&mut config);
    config.to_file()
}

/// What the doctor says as text: exit code and report.
fn text(cluster: &Cluster, change: impl FnOnce(&mut Config)) -> (i32, String) {
    let (_directory, path) = file(cluster, change);
    run(&["doctor", "--config", &path])
}

/// What the doctor says as JSON: exit code and findings.
pub(crate) fn findings(cluster: &Cluster, change: impl FnOnce(&mut Config)) -> (i32, Vec<Finding>) {
    let (_directory, path) = file(cluster, change);
    let (code, report) = run(&["doctor", "--config", &path, "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"));
    let field =
        |row: &Value, key: &str| row[key].as_str().unwrap_or_else(|| panic!("{key}: {row}")).to_owned();
    let finding = |row: &Value| {
        assert_eq!(field(row, "upstream"), "main");
        assert!(!field(row, "why").is_empty(), "{row}");
        Finding {
            id: field(row, "id"),
            severity: field(row, "severity"),
            object: field(row, "object"),
            message: field(row, "message"),
            fix: field(row, "fix"),
        }
    };
    (code, rows.iter().map(finding).collect())
}

#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) id: String,
    pub(crate) severity: String,
    pub(crate) object: String,
    pub(crate) message: String,
    pub(crate) fix: String,
}

impl Finding {
    fn names(&self, object: &str) -> bool {
        self.object.contains(object) || self.message.contains(object)
    }
}

/// The names in the schema of faults that begin with a check's number: `d04_bare`.
fn named_faults() -> BTreeSet<&'static str> {
    let words = FAULTS.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with('d') && word[1..].starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

fn assert_each_fault_is_found(found: &[Finding]) {
    for name in named_faults() {
        let id = name[..3].to_uppercase();
        assert!(
            found.iter().any(|one| one.id == id && one.names(name)),
            "{id} did not find {name}: {found:#?}"
        );
    }
    for (id, object) in UNNAMED {
        let is_there = found.iter().any(|one| one.id == id && one.object.starts_with(object));
        assert!(is_there, "{id} did not find {object}: {found:#?}");
    }
    let unasked: Vec<_> = found.iter().filter(|one| one.message.contains("could not be checked")).collect();
    assert!(unasked.is_empty(), "{unasked:?}");
}

async fn every_kind_of_fault_on(cluster: &Cluster) {
    cluster.execute(FAULTS).await;
    let (code, found) = findings(cluster, |_| {});
    assert_eq!(code, 1);
    assert_each_fault_is_found(&found);
    // With a plain context, what the seal rests on is advice for all tables.
    let of_seal = |one: &Finding| one.id == "D07" && one.severity == "advice";
    let wrong: Vec<_> = found.iter().filter(|one| one.object.contains("good_") && !of_seal(one)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for id in ["D04", "D09", "D10", "D12", "D13", "D14", "D15", "D17", "D41", "D48"] {
        assert!(found.iter().any(|one| one.id == id && one.severity == "critical"), "{id}");
    }
    let obeying: Vec<_> = found.iter().filter(|one| one.id == "D26" && one.severity == "critical").collect();
    assert!(obeying.len() == 3 && obeying.iter().all(|one| one.object.contains("d26_obeys")), "{obeying:#?}");
    // A table without the privilege to reach it is nobody's fault.
    assert!(!found.iter().any(|one| one.object == "faults.unreachable"));
}

async fn what_the_seal_rests_on_is_critical_on(cluster: &Cluster) {
    let sealed = |config: &mut Config| {
        config.set("tenancy.context", "sealed");
        config.set("tenancy.seal_key", "0123456789abcdef".repeat(4));
    };
    let (_, found) = findings(cluster, sealed);
    let wrong: Vec<_> = found.iter().filter(|one| one.object.contains("good_pinned")).collect();
    assert!(wrong.is_empty(), "a pinned table is reported: {wrong:#?}");
    for (id, object) in
        [("D07", "good_table"), ("D08", "good_table"), ("D10", "d10_equality"), ("D11", "d11_constant")]
    {
        let is_critical =
            |one: &&Finding| one.id == id && one.object.contains(object) && one.severity == "critical";
        assert!(found.iter().any(|one| is_critical(&one)), "{id} {object}: {found:#?}");
    }
    assert!(!found.iter().any(|one| one.id == "D44"), "the functions are there");
    cluster.execute("REVOKE EXECUTE ON FUNCTION pgtenant.hand_over(text, text) FROM PUBLIC").await;
    let (_, found) = findings(cluster, sealed);
    assert!(found.iter().any(|one| one.id == "D44" && one.object.contains("hand_over")), "{found:#?}");
}

#[tokio::test]
async fn one_fault_of_each_kind_is_found_and_nothing_good_is_named() {
    let cluster = Cluster::start().await;
    every_kind_of_fault_on(&cluster).await;
    cluster.execute("GRANT SET ON PARAMETER log_statement TO app").await;
    let (_, found) = findings(&cluster, |_| {});
    assert!(found.iter().any(|one| one.id == "D29" && one.object == "parameter log_statement"), "{found:#?}");
    what_the_seal_rests_on_is_critical_on(&cluster).await;
}

#[tokio::test]
async fn the_same_holds_on_the_newest_postgresql() {
    let cluster = Cluster::postgres18().await;
    every_kind_of_fault_on(&cluster).await;
    cluster.execute("GRANT MAINTAIN ON faults.good_table TO app").await;
    let (_, found) = findings(&cluster, |_| {});
    assert!(found.iter().any(|one| one.id == "D42" && one.object == "faults.good_table"), "{found:#?}");
    what_the_seal_rests_on_is_critical_on(&cluster).await;
}

/// Nothing is wrong with it but that a table is shared.
pub(crate) async fn sound_cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.execute("REVOKE ALL ON imports FROM app").await;
    cluster.execute("CHECKPOINT").await;
    cluster
}

#[tokio::test]
async fn the_exit_code_says_whether_there_is_more_than_advice() {
    let cluster = sound_cluster().await;
    let (code, report) = text(&cluster, |_| {});
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("0 critical, 0 warnings") && report.contains("ADVICE"), "{report}");
    cluster.execute("CREATE TABLE open (tenant_id text); GRANT SELECT ON open TO app").await;
    let (code, report) = text(&cluster, |_| {});
    assert_eq!(code, 1, "{report}");
    for wanted in ["CRITICAL (1)", "D04", "public.open", "ALTER TABLE public.open ENABLE ROW LEVEL SECURITY;"]
    {
        assert!(report.contains(wanted), "{wanted}: {report}");
    }
    assert_eq!(run(&["doctor", "--config", "/nonexistent"]).0, 2);
    assert_eq!(run(&["doctor"]).0, 2);
}

#[tokio::test]
async fn doctor_and_protect_agree_that_temp_stays() {
    let cluster = sound_cluster().await;
    let (_, found) = findings(&cluster, |_| {});
    let on_database = |one: &&Finding| one.fix.contains("ON DATABASE");
    assert_eq!(found.iter().find(on_database).map(|one| &one.fix), None, "TEMP is granted, and stays");
    cluster.execute("GRANT CREATE ON DATABASE app TO app").await;
    let (_, found) = findings(&cluster, |_| {});
    let fixes: Vec<&str> = found.iter().filter(on_database).map(|one| &*one.fix).collect();
    assert_eq!(fixes, ["REVOKE CREATE ON DATABASE app FROM PUBLIC, app;"]);
}

#[tokio::test]
async fn a_login_role_without_privileges_is_told_which_it_needs() {
    let cluster = Cluster::start().await;
    let d45 = async || {
        let (_, mut found) = findings(&cluster, |_| {});
        found.retain(|one| one.id == "D45");
        found.pop().map(|one| (one.message, one.fix))
    };
    assert_eq!(d45().await, None);
    cluster.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public, shelf FROM app").await;
    let (message, fix) = d45().await.unwrap();
    assert_eq!(message, "the login role has no privilege on any table yet, or none on its schema");
    assert!(fix.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON … TO app;"), "{fix}");
    cluster.execute("CREATE TABLE plain (id int); GRANT SELECT ON plain TO app").await;
    let (message, fix) = d45().await.unwrap();
    assert_eq!(message, "the login role reaches no table with a tenant column");
    assert!(fix.contains("pgtenant protect --column"), "{fix}");
}

#[tokio::test]
async fn the_sql_that_mends_a_table_mends_it() {
    let cluster = sound_cluster().await;
    cluster
        .execute(
            "CREATE TABLE open (tenant_id uuid, id int); GRANT SELECT ON open TO app;
             CREATE TABLE short (tenant_id text, id serial, n int GENERATED ALWAYS AS IDENTITY); GRANT SELECT, INSERT ON short TO app;
             CREATE FUNCTION pathless() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
             CREATE FUNCTION empty_path() RETURNS int LANGUAGE plpgsql SET search_path = '' AS 'BEGIN RETURN 1; END';
             CREATE DOMAIN key AS varchar(9); CREATE TABLE \"bare One\" (\"the Tenant\" key, id int); GRANT SELECT ON \"bare One\" TO app;
             INSERT INTO \"bare One\" VALUES ('a', 1), ('b', 2), ('', 3);
             ALTER TABLE \"bare One\" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY own ON \"bare One\" USING (\"the Tenant\" = current_setting('app.tenant_id', true));
             ALTER ROLE app CREATEROLE; GRANT TRUNCATE ON notes TO app; ALTER TABLE notes NO FORCE ROW LEVEL SECURITY;
             CREATE VIEW seen AS SELECT * FROM notes; GRANT SELECT ON seen TO app;
             CREATE POLICY everything ON notes USING (true)",
        )
        .await;
    let (code, found) = findings(&cluster, |_| {});
    assert_eq!(code, 1);
    for id in ["D10", "D48"] {
        assert!(
            found.iter().any(|one| one.id == id && one.object == "public.\"bare One\""),
            "{id}: {found:#?}"
        );
    }
    let is_mended = |one: &&Finding| one.severity == "critical" || ["D05", "D49", "D50"].contains(&&*one.id);
    for id in ["D49", "D50"] {
        assert_eq!(found.iter().filter(|one| one.id == id).count(), 2, "{id}: {found:#?}");
    }
    for fault in found.iter().filter(is_mended) {
        cluster.execute(&fault.fix).await;
    }
    let (_, left) = findings(&cluster, |_| {});
    let left: Vec<_> = left.iter().filter(is_mended).collect();
    assert!(left.is_empty(), "{left:#?}");
    for (tenant, rows) in [("a", "1"), ("", "NULL")] {
        let sql = format!(
            "SET ROLE app; SET app.tenant_id = '{tenant}'; SELECT string_agg(id::text, ',') FROM \"bare One\""
        );
        assert_eq!(cluster.value(&sql).await, rows, "{tenant}");
    }
}

#[tokio::test]
async fn a_superuser_and_a_configuration_without_guard_are_critical() {
    let cluster = sound_cluster().await;
    let (code, found) = findings(&cluster, |config| config.set("tenancy.guard", "off"));
    let critical: Vec<_> =
        found.iter().filter(|one| one.severity == "critical").map(|one| &*one.id).collect();
    assert_eq!((code, critical), (1, vec!["D43"]));
    cluster.execute("ALTER ROLE app SUPERUSER").await;
    let (_, found) = findings(&cluster, |_| {});
    let critical: BTreeSet<_> =
        found.iter().filter(|one| one.severity == "critical").map(|one| &*one.id).collect();
    assert_eq!(critical, BTreeSet::from(["D01"]));
}

#[tokio::test]
async fn many_findings_of_one_check_are_bounded_and_counted() {
    let cluster = sound_cluster().await;
    cluster
        .execute(
            "DO $$ BEGIN FOR n IN 1..130 LOOP
                 EXECUTE format('CREATE TABLE open_%s (tenant_id text)', n);
                 EXECUTE format('GRANT SELECT ON open_%s TO app', n);
             END LOOP; END $$",
        )
        .await;
    let (_, found) = findings(&cluster, |_| {});
    let open: Vec<_> = found.iter().filter(|one| one.id == "D04").collect();
    assert_eq!(open.len(), 101);
    let rest = open.iter().find(|one| one.message.contains("more of this kind")).unwrap();
    assert_eq!((&*rest.message, &*rest.severity), ("30 more of this kind are not listed", "critical"));
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_told_and_no_success() {
    let mut cluster = Cluster::start().await;
    cluster.crash();
    let (code, found) = findings(&cluster, |_| {});
    assert_eq!(code, 1);
    assert!(found.iter().any(|one| one.id == "D00"), "{found:#?}");
}

#[tokio::test]
async fn a_pooler_in_between_is_seen() {
    let cluster = sound_cluster().await;
    let (_, direct) = findings(&cluster, |_| {});
    assert!(!direct.iter().any(|one| one.id == "D39"), "{direct:#?}");
    let pooler = Proxy::start(&cluster, |_| {}).await;
    let (code, found) = findings(&cluster, |config| {
        config.set("upstream.main.hosts", vec![format!("127.0.0.1:{}", pooler.port())]);
        config.set("upstream.main.user", "acme_app");
        config.set("upstream.main.password", "acme_app-secret");
    });
    assert_eq!(code, 1);
    assert!(found.iter().any(|one| one.id == "D39" && one.severity == "critical"), "{found:#?}");
}

/// Runs `serve` to its end.
pub(crate) async fn serve(path: &str) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(binary());
    command.args(["serve", "--config", path]).kill_on_drop(true);
    let output = within("pgtenant to refuse", command.output()).await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A configuration with free ports.
pub(crate) fn with_ports(config: &mut Config) {
    config.set("listen.address", "127.0.0.1:0");
    config.set("metrics.address", "127.0.0.1:0");
}

#[tokio::test]
async fn serve_refuses_what_does_not_isolate_unless_it_is_told_otherwise() {
    let cluster = sound_cluster().await;
    cluster.execute("ALTER ROLE app BYPASSRLS").await;
    let (_directory, path) = file(&cluster, with_ports);
    let (code, log) = serve(&path).await;
    assert_eq!(code, Some(1), "{log}");
    for wanted in ["D01", "role app", "BYPASSRLS", "tenancy.allow_unsafe = true"] {
        assert!(log.contains(wanted), "{wanted}: {log}");
    }
    let proxy = Proxy::start(&cluster, |config| config.set("tenancy.allow_unsafe", true)).await;
    proxy.logged("serving although").await;
    proxy.link("acme_app").await.query("SELECT 1").await;
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum("pgtenant_isolation_findings", &[("severity", "critical")]), 1.0);
    assert!(metrics.sum("pgtenant_isolation_findings", &[("severity", "advice")]) > 1.0);
}

#[tokio::test]
async fn policies_of_an_older_form_are_told_and_do_not_stop_a_start_yet() {
    let cluster = sound_cluster().await;
    cluster
        .execute(
            "CREATE TABLE older (tenant_id text, id int); GRANT SELECT ON older TO app;
             ALTER TABLE older ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY own ON older USING (tenant_id = current_setting('app.tenant_id', true))",
        )
        .await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    proxy.logged("serving although policies do not keep tenants apart").await;
    proxy.logged("no policy that pins its rows").await;
    let critical = [("severity", "critical")];
    assert_eq!(proxy.metrics().await.sum("pgtenant_isolation_findings", &critical), 2.0, "D10 and D48");
    proxy.link("acme_app").await.query("SELECT 1").await;
    // Beside another critical finding, and under a seal, they are named among the reasons.
    cluster.execute("GRANT TRUNCATE ON older TO app").await;
    let (_directory, path) = file(&cluster, with_ports);
    let (code, log) = serve(&path).await;
    assert!(code == Some(1) && log.contains("D17") && !log.contains("main: D10"), "{code:?}: {log}");
    let (_directory, path) = file(&cluster, |config| {
        with_ports(config);
        config.set("tenancy.context", "sealed");
        config.set("tenancy.seal_key", "aa".repeat(32));
    });
    let (code, log) = serve(&path).await;
    assert!(code == Some(1) && log.contains("main: D10"), "{code:?}: {log}");
}

#[tokio::test]
async fn what_comes_up_later_is_counted_and_serving_goes_on() {
    let cluster = sound_cluster().await;
    let proxy = Proxy::start(&cluster, |config| config.set("tenancy.doctor_interval", "200ms")).await;
    let critical = [("severity", "critical")];
    assert_eq!(proxy.metrics().await.sum("pgtenant_isolation_findings", &critical), 0.0);
    cluster.execute("CREATE TABLE open (tenant_id text); GRANT SELECT ON open TO app").await;
    proxy.measures("pgtenant_isolation_findings", &critical, 1.0).await;
    proxy.logged("does not isolate tenants any more").await;
    proxy.link("acme_app").await.query("SELECT 1").await;
    cluster.execute("DROP TABLE open").await;
    proxy.measures("pgtenant_isolation_findings", &critical, 0.0).await;
}

#[tokio::test]
async fn a_reload_has_the_doctor_look_at_what_is_new_in_the_file() {
    let cluster = placement::cluster().await;
    cluster.execute("GRANT USAGE ON SCHEMA tenant_globex TO app").await;
    let mut proxy = Proxy::start(&cluster, |config| config.set("tenancy.doctor_interval", "0s")).await;
    let critical = [("severity", "critical")];
    assert_eq!(proxy.metrics().await.sum("pgtenant_isolation_findings", &critical), 0.0);
    let log = proxy.reload(placement::placed).await;
    assert!(log.contains("configuration reloaded"), "{log}");
    proxy.measures("pgtenant_isolation_findings", &critical, 1.0).await;
    proxy.logged("does not isolate tenants any more").await;
    assert!(proxy.log().contains("D47"), "{}", proxy.log());
    // Mended, and looked at again.
    cluster.execute("REVOKE ALL ON SCHEMA tenant_globex FROM app").await;
    proxy.reload(|_| {}).await;
    proxy.measures("pgtenant_isolation_findings", &critical, 0.0).await;
}

#[tokio::test]
async fn a_reloaded_key_that_the_database_does_not_have_opens_nothing() {
    let cluster = Cluster::start().await;
    protect::install(&cluster);
    let mut proxy = Proxy::start(&cluster, |config| protect::sealed(config, protect::KEY)).await;
    let mut before = proxy.link("acme_app").await;
    assert_eq!(before.query("SELECT count(*) FROM notes").await.value(), "10");
    proxy.reload(|config| config.set("tenancy.seal_key", "ab".repeat(32))).await;
    // A hand-over with the new key: another tenant, on a server that was this one's or is new.
    let mut behind = proxy.link("globex_app").await;
    let refused = behind.query("SELECT count(*) FROM notes").await;
    assert_eq!(refused.code().as_deref(), Some("08006"), "{refused}");
    proxy.logged("proof refused").await;
    proxy.logged("D40").await;
}

#[tokio::test]
async fn an_upstream_that_comes_late_is_examined_then() {
    let mut cluster = sound_cluster().await;
    cluster.crash();
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let warning = [("severity", "warning")];
    proxy.measures("pgtenant_isolation_findings", &warning, 1.0).await;
    cluster.boot().await;
    proxy.measures("pgtenant_isolation_findings", &warning, 0.0).await;
    proxy.link("acme_app").await.query("SELECT 1").await;
}

#[tokio::test]
async fn an_upstream_that_comes_late_and_does_not_isolate_ends_serving() {
    let mut cluster = sound_cluster().await;
    cluster.execute("ALTER ROLE app BYPASSRLS").await;
    // Commits are not waited for here, so that a crash would undo this one.
    cluster.execute("CHECKPOINT").await;
    cluster.crash();
    let mut proxy = Proxy::start(&cluster, |_| {}).await;
    cluster.boot().await;
    assert_eq!(proxy.exits().await.code(), Some(1));
    assert!(proxy.log().contains("tenancy.allow_unsafe = true"), "{}", proxy.log());
}
