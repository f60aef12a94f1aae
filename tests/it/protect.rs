//! It protects: what `pgtenant protect` installs as the tables' owner makes PostgreSQL believe only the proxy, and
//! a second run finds nothing to do.

use std::fs;
use std::process::Command;

use pgtenant::directory::{ContextMode, SealKey};
use pgtenant::protect::{PIN, SelfTest, self_test, try_policies};
use pgtenant::seal::proof;
use tokio_postgres::{Client, NoTls};

use crate::support::cluster::{APP_PASSWORD, OWNER_PASSWORD, first_column};
use crate::support::config::Config;
use crate::support::message::{sync, unnamed};
use crate::support::proxy::run;
use crate::support::{Cluster, Proxy};

pub(crate) const KEY: [u8; 32] = [0x5a; 32];
const NEW_KEY: [u8; 32] = [0xc3; 32];
const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

fn hex(key: [u8; 32]) -> String {
    key.map(|byte| format!("{byte:02x}")).concat()
}

pub(crate) fn sealed(config: &mut Config, key: [u8; 32]) {
    config.set("tenancy.context", "sealed");
    config.set("tenancy.seal_key", hex(key));
}

fn plain(config: &mut Config) {
    config.set("tenancy.context", "plain");
    config.unset("tenancy.seal_key");
}

/// A sealed configuration of the cluster's proxy as a file.
fn file(cluster: &Cluster, change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, String) {
    let mut config = Config::new(cluster);
    sealed(&mut config, KEY);
    change(&mut config);
    config.to_file()
}

/// Runs `pgtenant protect`; exit code and what was said.
fn protect_as(cluster: &Cluster, arguments: &[&str], change: impl FnOnce(&mut Config)) -> (i32, String) {
    let (_directory, path) = file(cluster, change);
    run(&[&["protect", "--config", &path], arguments].concat())
}

fn protect(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    protect_as(cluster, arguments, |_| {})
}

/// Applies, and looks that nothing is left to do.
pub(crate) fn install(cluster: &Cluster) {
    install_with(cluster, |_| {});
}

/// The same for another configuration.
pub(crate) fn install_with(cluster: &Cluster, change: impl Fn(&mut Config)) {
    let (code, text) = protect_as(cluster, &["--apply"], &change);
    assert_eq!(code, 0, "{text}");
    let (code, text) = protect_as(cluster, &[], &change);
    assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
}

/// The login role, straight to the server.
async fn login(cluster: &Cluster) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(cluster.port()).user("app").password(APP_PASSWORD).dbname("app");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A proof for this session that holds for so many seconds more.
async fn proof_for(client: &Client, key: [u8; 32], tenant: &str, seconds: i64) -> String {
    let sql = "SELECT pg_backend_pid(), date_part('epoch', clock_timestamp())::int8";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (pid, now): (i32, i64) = (row.get(0), row.get(1));
    proof(&SealKey::new(key), tenant, pid.unsigned_abs(), u64::try_from(now + seconds).unwrap())
}

/// Tables whose tenant columns have other types, one of them under a policy that is slow.
const TYPES: &str = "
SET ROLE app_owner;
CREATE TYPE mood AS ENUM ('7', '8');
CREATE DOMAIN tenant_key AS text CHECK (VALUE <> '');
CREATE TABLE by_uuid (tenant_id uuid, n int);
INSERT INTO by_uuid VALUES ('11111111-1111-4111-8111-111111111111', 1), (gen_random_uuid(), 2);
ALTER TABLE by_uuid ENABLE ROW LEVEL SECURITY;
CREATE POLICY \"my \"\"own\" ON by_uuid USING (tenant_id = current_setting('app.tenant_id')::uuid)
    WITH CHECK (tenant_id = current_setting('app.tenant_id', true)::uuid);
CREATE TABLE by_int (tenant_id int, n int);
CREATE TABLE by_big (tenant_id bigint, n int) PARTITION BY LIST (n);
CREATE TABLE by_big_1 PARTITION OF by_big DEFAULT;
CREATE TABLE by_enum (tenant_id mood, n int);
CREATE TABLE by_varchar (tenant_id varchar(40), n int);
CREATE TABLE by_char (tenant_id char(1), n int);
CREATE TABLE by_domain (tenant_id tenant_key, n int);
CREATE DOMAIN number AS int;
CREATE DOMAIN tenant_number AS number;
CREATE TABLE by_nested (tenant_id tenant_number, n int);
CREATE TABLE \"by Name\" (tenant_id name, n int);
INSERT INTO by_int VALUES (7, 1), (8, 2);
INSERT INTO by_big VALUES (7, 1), (8, 2);
INSERT INTO by_enum VALUES ('7', 1), ('8', 2);
INSERT INTO by_varchar VALUES ('7', 1), ('8', 2);
INSERT INTO by_char VALUES ('7', 1), ('8', 2);
INSERT INTO by_domain VALUES ('7', 1), ('8', 2);
INSERT INTO by_nested VALUES (7, 1), (8, 2);
INSERT INTO \"by Name\" VALUES ('7', 1), ('8', 2);
GRANT ALL ON by_uuid, by_int, by_big, by_enum, by_varchar, by_char, by_domain, by_nested, \"by Name\" TO app";

/// The names of those with a tenant 7 and a tenant 8.
const TABLES_OF_SEVEN: [&str; 8] =
    ["by_int", "by_big", "by_enum", "by_varchar", "by_char", "by_domain", "by_nested", "\"by Name\""];

/// The rows of one statement under a plain context, or the SQLSTATE.
async fn plainly(client: &Client, tenant: &str, sql: &str) -> Result<Vec<String>, String> {
    client.batch_execute("BEGIN").await.unwrap();
    client.execute("SELECT set_config('app.tenant_id', $1, true)", &[&tenant]).await.unwrap();
    let outcome = first_column(client, sql).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    outcome
}

/// The rows of one statement under an entered context, or the SQLSTATE.
async fn under(client: &Client, tenant: &str, proof: &str, sql: &str) -> Result<Vec<String>, String> {
    client.batch_execute("BEGIN").await.unwrap();
    let entered = client.execute("SELECT pgtenant.enter($1, $2)", &[&tenant, &proof]).await;
    let outcome = match entered {
        Ok(_) => first_column(client, sql).await,
        Err(error) => Err(error.code().unwrap().code().to_owned()),
    };
    client.batch_execute("ROLLBACK").await.unwrap();
    outcome
}

// === installing ===

#[tokio::test]
async fn a_dry_run_shows_what_is_missing_and_after_apply_nothing_is() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        let (code, text) = protect(&cluster, &[]);
        assert_eq!(code, 1, "{text}");
        for wanted in [
            "CREATE SCHEMA pgtenant",
            "SELECT pgtenant.add_key(:'seal_key')",
            "CREATE POLICY pgtenant_pin ON public.notes",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(text.contains("left to the guard"), "the owner is no superuser: {text}");
        assert!(!text.contains("CREATE POLICY pgtenant_tenant"), "the table has a policy of its own: {text}");
        assert!(!text.contains(&hex(KEY)), "the key was printed");
        assert_eq!(cluster.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtenant'").await, "0");
        install(&cluster);
        let proxy = Proxy::start(&cluster, |config| {
            sealed(config, KEY);
            config.one_server();
        })
        .await;
        let mut links = Vec::new();
        for tenant in ["acme", "globex"] {
            links.push((tenant, proxy.link(&format!("{tenant}_app")).await));
        }
        for _ in 0..3 {
            for (tenant, link) in &mut links {
                assert_eq!(link.query(WHO).await.value(), *tenant);
                assert_eq!(link.extended(WHO, &[]).await.value(), *tenant);
                let insert = "INSERT INTO notes (body) VALUES ('x') RETURNING tenant_id";
                assert_eq!(link.query(insert).await.value(), *tenant);
                let foreign = "INSERT INTO notes (tenant_id, body) VALUES ('initech', 'x')";
                assert_eq!(link.query(foreign).await.code().unwrap(), "42501");
            }
        }
    }
}

#[tokio::test]
async fn what_a_dry_run_shows_can_be_given_to_psql() {
    let cluster = Cluster::start().await;
    let create = "SET ROLE app_owner; CREATE TYPE mood AS ENUM ('7'); CREATE TABLE by_enum (tenant_id mood);
                  GRANT SELECT ON by_enum TO app";
    cluster.execute(create).await;
    let (_, script) = protect(&cluster, &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("protect.sql");
    fs::write(&path, script).unwrap();
    let destination = format!("host=127.0.0.1 port={} user=app_owner dbname=app", cluster.port());
    let output = Command::new("psql")
        .args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-v", &format!("seal_key={}", hex(KEY))])
        .args(["-d", &destination, "-f", &path.display().to_string()])
        .env("PGPASSWORD", OWNER_PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, text) = protect(&cluster, &[]);
    assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
}

/// Makes each change, and looks that protect names what it lacks since and puts it back.
async fn mends(cluster: &Cluster, changes: &[(&str, &str)]) {
    install(cluster);
    for (change, wanted) in changes {
        cluster.execute(change).await;
        let (code, text) = protect(cluster, &["--apply"]);
        assert!(code == 0 && text.contains(wanted), "{change}: {code}, {text}");
    }
    install(cluster);
}

#[tokio::test]
async fn what_was_changed_in_tables_since_is_found_and_mended() {
    let changes = [
        ("ALTER TABLE notes NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"),
        ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY"),
        ("ALTER POLICY pgtenant_pin ON notes USING (true)", "CREATE POLICY pgtenant_pin"),
        ("ALTER POLICY pgtenant_pin ON notes TO app_owner", "CREATE POLICY pgtenant_pin"),
        ("DROP POLICY pgtenant_pin ON notes", "CREATE POLICY pgtenant_pin"),
        ("DROP POLICY tenant ON notes", "CREATE POLICY pgtenant_tenant"),
        ("GRANT TRUNCATE ON notes TO app", "REVOKE TRUNCATE"),
        ("GRANT REFERENCES (id) ON notes TO PUBLIC", "FROM PUBLIC"),
        ("GRANT CREATE ON DATABASE app TO PUBLIC", "REVOKE CREATE ON DATABASE app FROM PUBLIC"),
        ("GRANT CREATE ON DATABASE app TO app", "REVOKE CREATE ON DATABASE app FROM app"),
        ("GRANT CREATE ON SCHEMA public TO app", "REVOKE CREATE ON SCHEMA public FROM app"),
    ];
    mends(&Cluster::start().await, &changes).await;
}

#[tokio::test]
async fn what_was_changed_in_the_schema_since_is_found_and_mended() {
    let changes = [
        ("GRANT SELECT ON pgtenant.key TO app", "REVOKE ALL ON TABLE pgtenant.key FROM app"),
        ("GRANT SELECT (kid, ipad) ON pgtenant.key TO app", "REVOKE ALL ON TABLE pgtenant.key FROM app"),
        ("GRANT SELECT (opad) ON pgtenant.key TO PUBLIC", "REVOKE ALL ON TABLE pgtenant.key FROM PUBLIC"),
        ("DELETE FROM pgtenant.key", "pgtenant.add_key"),
        ("GRANT CREATE ON SCHEMA pgtenant TO app", "REVOKE CREATE ON SCHEMA pgtenant FROM app"),
        ("GRANT EXECUTE ON FUNCTION pgtenant.add_key TO PUBLIC", "REVOKE ALL ON FUNCTION pgtenant.add_key"),
        ("REVOKE EXECUTE ON FUNCTION pgtenant.enter FROM app", "GRANT EXECUTE ON FUNCTION pgtenant.enter"),
        ("ALTER FUNCTION pgtenant.enter RESET search_path", "CREATE OR REPLACE FUNCTION pgtenant.enter"),
        ("ALTER FUNCTION pgtenant.current_tenant SECURITY INVOKER", "FUNCTION pgtenant.current_tenant"),
        (
            "ALTER FUNCTION pgtenant.hand_over OWNER TO app_owner",
            "hand_over(text, text) OWNER TO pgtenant_register",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pgtenant.current_tenant FROM app_owner",
            "current_tenant() TO app_owner",
        ),
        (
            "REVOKE SELECT ON pgtenant.key FROM pgtenant_register",
            "GRANT SELECT ON pgtenant.key TO pgtenant_register",
        ),
        (
            "REVOKE ALL ON SCHEMA pgtenant FROM pgtenant_register",
            "GRANT USAGE ON SCHEMA pgtenant TO pgtenant_register",
        ),
        (
            "GRANT USAGE ON SEQUENCE pgtenant.register_1 TO app",
            "REVOKE ALL ON SEQUENCE pgtenant.register_1 FROM app",
        ),
        (
            "GRANT UPDATE ON SEQUENCE pgtenant.register_2 TO PUBLIC",
            "SEQUENCE pgtenant.register_2 FROM PUBLIC",
        ),
        ("GRANT SELECT (last_value) ON pgtenant.register_1 TO app", "SEQUENCE pgtenant.register_1 FROM app"),
        ("GRANT pgtenant_register TO app", "REVOKE pgtenant_register FROM app"),
        ("DROP SEQUENCE pgtenant.register_1", "CREATE UNLOGGED SEQUENCE pgtenant.register_1"),
    ];
    mends(&Cluster::start().await, &changes).await;
}

#[tokio::test]
async fn the_owners_default_privileges_open_neither_keys_nor_functions() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT ALL ON TABLES TO app;
             ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT ALL ON FUNCTIONS TO app;
             ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT ALL ON SCHEMAS TO app",
        )
        .await;
    install(&cluster);
    let client = login(&cluster).await;
    for sql in [
        "SELECT * FROM pgtenant.key",
        "SELECT pgtenant.add_key('00')",
        "SELECT pgtenant.hmac_pad('a', 1)",
        "CREATE TABLE pgtenant.x ()",
    ] {
        assert_eq!(first_column(&client, sql).await, Err("42501".to_owned()), "{sql}");
    }
}

#[tokio::test]
async fn what_cannot_protect_is_refused_with_a_hint() {
    let cluster = Cluster::start().await;
    let (code, text) = protect_as(&cluster, &["--retire-keys"], plain);
    assert!(code == 2 && text.contains("a plain context has no keys"), "{code}: {text}");
    let (code, text) = protect_as(&cluster, &[], |config| config.remove_user("migrate"));
    assert!(code == 2 && text.contains("maintenance"), "{code}: {text}");
    let (code, text) = protect(&cluster, &["--table", "no_such"]);
    assert!(code == 2 && text.contains("no_such"), "{code}: {text}");
    cluster.execute("ALTER TABLE imports ADD tenant_id text; ALTER TABLE imports OWNER TO postgres").await;
    let (code, text) = protect(&cluster, &["--apply"]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.lines().last().is_some_and(|last| last.starts_with("-- NOT PROTECTED: table public.imports")),
        "{text}"
    );
    assert_eq!(
        text.lines().nth(1),
        Some("-- done, but this is not all: see NOT PROTECTED at the end. Done:"),
        "{text}"
    );
    let (code, text) = protect(&cluster, &["--apply"]);
    let head = "-- NOT PROTECTED, and nothing to do that this role may: see the end";
    assert_eq!((code, text.lines().nth(1)), (1, Some(head)), "{text}");
    cluster.execute("ALTER ROLE app BYPASSRLS").await;
    let (code, text) = protect(&cluster, &[]);
    assert!(code == 2 && text.contains("BYPASSRLS"), "{code}: {text}");
}

#[tokio::test]
async fn a_superuser_hardens_and_the_proxy_still_serves() {
    let cluster = Cluster::start().await;
    cluster.execute("CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss-secret'").await;
    install(&cluster);
    let boss = |config: &mut Config| {
        config.remove_user("migrate");
        let mut maintenance = toml::Table::new();
        maintenance.insert("upstream".to_owned(), "main".into());
        maintenance.insert("server_user".to_owned(), "boss".into());
        maintenance.insert("server_password".to_owned(), "boss-secret".into());
        config.add_user("boss", "maintenance", maintenance);
    };
    let (code, text) = protect_as(&cluster, &["--apply"], boss);
    assert!(code == 0 && text.contains("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_notify"), "{code}: {text}");
    assert!(!text.contains("left to the guard"), "{text}");
    let (code, text) = protect_as(&cluster, &[], boss);
    assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
    let (_directory, path) = file(&cluster, |_| {});
    let (_, report) = run(&["doctor", "--config", &path]);
    let left = "the login role may call pg_advisory_unlock_all, set_config, setseed, ts_rewrite\n";
    assert!(
        report.contains(left)
            && !report.contains("D33")
            && !report.contains("D27")
            && !report.contains("D28"),
        "{report}"
    );
    for context in ["sealed", "plain"] {
        let proxy = Proxy::start(&cluster, |config| {
            sealed(config, KEY);
            if context == "plain" {
                plain(config);
                // The pin asks for a proof.
                config.set("tenancy.allow_unsafe", true);
            }
            config.one_server();
        })
        .await;
        for tenant in ["acme", "globex", "acme"] {
            let sql = if context == "plain" { "SELECT current_setting('app.tenant_id')" } else { WHO };
            assert_eq!(proxy.link(&format!("{tenant}_app")).await.query(sql).await.value(), tenant);
        }
    }
}

#[tokio::test]
async fn the_doctor_is_content_with_what_protect_installs() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster.execute("REVOKE ALL ON imports FROM app").await;
        let change = |config: &mut Config| {
            config.set("canary.tenants", vec!["acme", "globex"]);
        };
        let doctor = || {
            let (_directory, path) = file(&cluster, change);
            run(&["doctor", "--config", &path]).1
        };
        let before = doctor();
        assert!(before.contains("D40"), "{before}");
        let (code, text) = protect_as(&cluster, &["--apply"], change);
        assert_eq!(code, 0, "{text}");
        let after = doctor();
        assert!(
            after.contains("0 critical, 1 warnings") && after.contains("serves instances of earlier"),
            "{after}"
        );
        let (code, text) = protect_as(&cluster, &["--apply", "--retire-enter"], change);
        assert_eq!(code, 0, "{text}");
        let after = doctor();
        assert!(after.contains("0 critical, 0 warnings"), "{after}");
        for ours in ["D40", "- pgtenant.", "pgtenant_"] {
            assert!(!after.contains(ours), "{ours}: {after}");
        }
    }
}

// === tables ===

#[tokio::test]
async fn other_column_types_and_slow_policies_show_each_tenant_its_own_rows() {
    let one = "11111111-1111-4111-8111-111111111111";
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster.execute(TYPES).await;
        let (_, text) = protect(&cluster, &[]);
        assert!(text.contains("ALTER POLICY \"my \"\"own\" ON public.by_uuid"), "{text}");
        assert!(text.contains("CREATE INDEX CONCURRENTLY ON public.by_int (tenant_id)"), "{text}");
        install(&cluster);
        let client = login(&cluster).await;
        let seven = proof_for(&client, KEY, "7", 30).await;
        for table in TABLES_OF_SEVEN {
            let sql = format!("SELECT n FROM {table}");
            assert_eq!(under(&client, "7", &seven, &sql).await.unwrap(), ["1"], "{table}");
            let sql = format!("UPDATE {table} SET n = n + 1 WHERE tenant_id = '8' RETURNING n");
            assert!(under(&client, "7", &seven, &sql).await.unwrap().is_empty(), "{table}");
            let sql = format!("INSERT INTO {table} VALUES ('8', 3)");
            assert_eq!(under(&client, "7", &seven, &sql).await, Err("42501".to_owned()), "{table}");
            let truncated = first_column(&client, &format!("TRUNCATE {table}")).await;
            assert_eq!(truncated, Err("42501".to_owned()), "{table}");
        }
        let uuid = proof_for(&client, KEY, one, 30).await;
        assert_eq!(under(&client, one, &uuid, "SELECT n FROM by_uuid").await.unwrap(), ["1"]);
        let policy = "SELECT qual || with_check FROM pg_policies WHERE policyname = 'my \"own'";
        assert_eq!(cluster.value(policy).await.matches("SELECT").count(), 2);
    }
}

#[tokio::test]
async fn without_a_seal_tables_are_pinned_to_the_setting() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster.execute(&format!("REVOKE ALL ON imports FROM app; {TYPES}")).await;
        let (code, text) = protect_as(&cluster, &["--table", "by_int"], plain);
        let pin = "CREATE POLICY pgtenant_pin ON public.by_int AS RESTRICTIVE FOR ALL TO PUBLIC\n  \
                   USING (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), '')::integer)]), false))";
        assert!(code == 1 && text.contains(pin) && !text.contains("public.by_big"), "{code}: {text}");
        let (code, text) = protect_as(&cluster, &["--apply"], plain);
        assert!(code == 0 && !text.contains("pgtenant."), "{code}: {text}");
        let (code, text) = protect_as(&cluster, &[], plain);
        assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
        let client = login(&cluster).await;
        for table in TABLES_OF_SEVEN {
            let sql = format!("SELECT n FROM {table}");
            assert_eq!(plainly(&client, "7", &sql).await.unwrap(), ["1"], "{table}");
            assert!(plainly(&client, "", &sql).await.unwrap().is_empty(), "{table}");
            let sql = format!("INSERT INTO {table} VALUES ('8', 3)");
            assert_eq!(plainly(&client, "7", &sql).await, Err("42501".to_owned()), "{table}");
        }
        let (_directory, path) = file(&cluster, plain);
        let (_, report) = run(&["doctor", "--config", &path]);
        assert!(report.contains("0 critical"), "{report}");
    }
}

#[tokio::test]
async fn a_seal_takes_the_place_of_a_plain_pin_and_never_the_other_way() {
    let cluster = Cluster::start().await;
    let pin = "SELECT qual FROM pg_policies WHERE tablename = 'notes' AND policyname = 'pgtenant_pin'";
    assert!(cluster.value(pin).await.contains("current_setting"));
    install(&cluster);
    assert!(cluster.value(pin).await.contains("pgtenant.current_tenant()"));
    let (code, text) = protect_as(&cluster, &["--apply"], plain);
    let note = "note: public.notes asks for the sealed context, which stays";
    assert!(code == 0 && text.contains("nothing to do") && text.contains(note), "{code}: {text}");
    // As earlier releases made it.
    cluster
        .execute(
            "ALTER POLICY pgtenant_pin ON notes USING (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())]))
                 WITH CHECK (tenant_id = ANY (ARRAY[(SELECT pgtenant.current_tenant())]))",
        )
        .await;
    let (code, text) = protect_as(&cluster, &["--apply"], plain);
    assert!(code == 0 && text.contains(note), "{code}: {text}");
    install(&cluster);
    assert!(cluster.value(pin).await.contains("COALESCE"));
}

/// Estimates decide between plans of milliseconds and plans of hours: one condition must not be counted twice.
#[tokio::test]
async fn beside_an_equality_the_pin_keeps_orders_and_estimates() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster
            .execute(
                "SET ROLE app_owner;
                 CREATE TABLE many (tenant_id text, id int, n int, PRIMARY KEY (tenant_id, id));
                 INSERT INTO many SELECT 'tenant ' || i % 100, i, i FROM generate_series(1, 100000) AS i;
                 GRANT SELECT ON many TO app;
                 RESET ROLE;
                 ANALYZE many",
            )
            .await;
        let (code, text) = protect_as(&cluster, &["--apply"], plain);
        assert_eq!(code, 0, "{text}");
        let client = login(&cluster).await;
        client.batch_execute("SET app.tenant_id = 'tenant 7'").await.unwrap();
        let plan = |sql: &str| {
            let (client, sql) = (&client, format!("EXPLAIN {sql}"));
            async move { first_column(client, &sql).await.unwrap().join("\n") }
        };
        let ordered = plan("SELECT * FROM many ORDER BY id LIMIT 20").await;
        assert!(ordered.contains("Index Scan using many_pkey") && !ordered.contains("Sort"), "{ordered}");
        let whole = plan("SELECT * FROM many").await;
        let estimate = whole.lines().find_map(|line| line.split("rows=").nth(1)?.split(' ').next());
        let estimate: u32 = estimate.unwrap().parse().unwrap();
        assert!((400..=1000).contains(&estimate), "of 1000 rows: {whole}");
        let join = plan("SELECT count(*) FROM many a JOIN many b ON a.n = b.n").await;
        assert!(!join.contains("Nested Loop"), "{join}");
    }
}

#[tokio::test]
async fn ids_that_differ_behind_the_length_of_a_name_stay_apart() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "SET ROLE app_owner;
             CREATE TABLE by_name (tenant_id name);
             INSERT INTO by_name VALUES (repeat('t', 63));
             GRANT SELECT ON by_name TO app",
        )
        .await;
    install(&cluster);
    let client = login(&cluster).await;
    for (id, wanted) in [("t".repeat(63), 1), ("t".repeat(64), 0)] {
        let proof = proof_for(&client, KEY, &id, 30).await;
        let seen = under(&client, &id, &proof, "SELECT tenant_id FROM by_name").await.unwrap();
        assert_eq!(seen.len(), wanted, "{id}");
    }
}

#[tokio::test]
async fn what_is_reached_through_a_view_or_below_a_named_table_is_protected_too() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster
            .execute(
                "SET ROLE app_owner;
                 CREATE SCHEMA vault;
                 CREATE TABLE vault.behind (tenant_id text, n int);
                 INSERT INTO vault.behind VALUES ('acme', 1), ('globex', 2);
                 CREATE VIEW vault.inner AS SELECT * FROM vault.behind;
                 CREATE VIEW front AS SELECT tenant_id, n FROM vault.inner;
                 CREATE TABLE vault.unseen (tenant_id text);
                 CREATE TABLE above (tenant_id text, n int) PARTITION BY LIST (n);
                 CREATE TABLE middle PARTITION OF above FOR VALUES IN (1, 2) PARTITION BY LIST (n);
                 CREATE TABLE below PARTITION OF middle FOR VALUES IN (1, 2);
                 CREATE TABLE aside PARTITION OF above DEFAULT;
                 INSERT INTO above VALUES ('acme', 1), ('globex', 2);
                 GRANT SELECT, INSERT ON front, above, below TO app",
            )
            .await;
        let (code, text) = protect(&cluster, &["--apply", "--table", "above"]);
        assert_eq!(code, 0, "{text}");
        let client = login(&cluster).await;
        let acme = proof_for(&client, KEY, "acme", 30).await;
        for table in ["above", "below"] {
            let sql = format!("SELECT n FROM {table}");
            assert_eq!(under(&client, "acme", &acme, &sql).await.unwrap(), ["1"], "{table}");
        }
        assert!(!text.contains("aside"), "nobody reaches it but through its parent: {text}");
        install(&cluster);
        assert_eq!(under(&client, "acme", &acme, "SELECT n FROM front").await.unwrap(), ["1"]);
        let foreign = "INSERT INTO front VALUES ('globex', 3)";
        assert_eq!(under(&client, "acme", &acme, foreign).await, Err("42501".to_owned()));
        assert_eq!(first_column(&client, "SELECT n FROM front").await, Err("28000".to_owned()));
        let unseen = "SELECT relrowsecurity FROM pg_class WHERE relname = 'unseen'";
        assert_eq!(cluster.value(unseen).await, "f", "nobody reaches it");
    }
}

#[tokio::test]
async fn the_doctor_asks_for_a_pin_behind_a_view_too() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "SET ROLE app_owner;
             CREATE SCHEMA vault;
             CREATE TABLE vault.behind (tenant_id text);
             ALTER TABLE vault.behind ENABLE ROW LEVEL SECURITY;
             ALTER TABLE vault.behind FORCE ROW LEVEL SECURITY;
             CREATE POLICY own ON vault.behind USING (tenant_id = current_setting('app.tenant_id', true));
             CREATE VIEW front AS SELECT * FROM vault.behind;
             GRANT SELECT ON front TO app",
        )
        .await;
    let doctor = || {
        let (_directory, path) = file(&cluster, |_| {});
        run(&["doctor", "--config", &path]).1
    };
    let is_told = |report: &str| {
        report
            .lines()
            .any(|line| line.contains("- vault.behind") && line.contains("has no restrictive policy"))
    };
    let (code, text) = protect(&cluster, &["--apply", "--table", "notes"]);
    assert_eq!(code, 0, "{text}");
    let before = doctor();
    assert!(is_told(&before), "{before}");
    install(&cluster);
    let after = doctor();
    assert!(after.contains("0 critical") && !is_told(&after), "{after}");
}

#[tokio::test]
async fn foreign_keys_between_protected_tables_still_hold_and_cascade() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster
            .execute(
                "SET ROLE app_owner;
                 CREATE TABLE parent (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
                 CREATE TABLE child (tenant_id text, id int, FOREIGN KEY (tenant_id, id) REFERENCES parent ON DELETE CASCADE);
                 GRANT SELECT, INSERT, DELETE ON parent, child TO app",
            )
            .await;
        install(&cluster);
        let client = login(&cluster).await;
        let acme = proof_for(&client, KEY, "acme", 30).await;
        let sql = "INSERT INTO parent VALUES ('acme', 1); INSERT INTO child VALUES ('acme', 1);
                   DELETE FROM parent; SELECT count(*) FROM child";
        assert_eq!(under(&client, "acme", &acme, sql).await.unwrap(), ["0"]);
        let orphan = "INSERT INTO child VALUES ('acme', 2)";
        assert_eq!(under(&client, "acme", &acme, orphan).await, Err("23503".to_owned()));
    }
}

#[tokio::test]
async fn the_canary_has_a_row_for_each_of_its_tenants() {
    let cluster = Cluster::start().await;
    let change = |config: &mut Config| {
        config.set("canary.tenants", vec!["acme", "globex"]);
    };
    let (code, text) = protect_as(&cluster, &["--apply"], change);
    assert_eq!(code, 0, "{text}");
    let (code, text) = protect_as(&cluster, &[], change);
    assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
    for weaker in [
        "ALTER POLICY pgtenant_pin ON pgtenant.canary USING (true)",
        "ALTER POLICY pgtenant_pin ON pgtenant.canary TO app_owner",
        "ALTER POLICY pgtenant_tenant ON pgtenant.canary USING (false)",
        "GRANT TRUNCATE ON pgtenant.canary TO app",
        "GRANT UPDATE (tenant_id) ON pgtenant.canary TO PUBLIC",
    ] {
        cluster.execute(weaker).await;
        let (code, text) = protect_as(&cluster, &[], change);
        assert!(
            code == 1 && text.contains("CREATE POLICY pgtenant_pin ON pgtenant.canary"),
            "{weaker}: {text}"
        );
        let (code, text) = protect_as(&cluster, &["--apply"], change);
        assert_eq!(code, 0, "{weaker}: {text}");
    }
    let client = login(&cluster).await;
    for tenant in ["acme", "globex"] {
        let proof = proof_for(&client, KEY, tenant, 30).await;
        let seen = under(&client, tenant, &proof, "SELECT tenant_id FROM pgtenant.canary").await;
        assert_eq!(seen.unwrap(), [tenant]);
    }
}

// === the seal ===

#[tokio::test]
async fn what_is_forged_replayed_expired_or_missing_is_refused() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        install(&cluster);
        let (client, other) = (login(&cluster).await, login(&cluster).await);
        let refused = Err("28000".to_owned());
        let rows = "SELECT tenant_id FROM notes LIMIT 1";
        for off in ["enable_seqscan", "enable_indexscan"] {
            client.batch_execute(&format!("SET enable_bitmapscan = off; SET {off} = off")).await.unwrap();
            assert_eq!(first_column(&client, rows).await, refused, "no context, {off} off");
            client.batch_execute("RESET ALL").await.unwrap();
        }
        let set = "BEGIN; SET LOCAL app.tenant_id = 'acme'";
        client.batch_execute(set).await.unwrap();
        let alone = first_column(&client, rows).await;
        assert_eq!(alone, Err("55000".to_owned()), "the setting alone, and an empty register");
        client.batch_execute("ROLLBACK").await.unwrap();
        let good = proof_for(&client, KEY, "acme", 30).await;
        assert_eq!(under(&client, "acme", &good, rows).await.unwrap(), ["acme"]);
        assert_eq!(under(&client, "globex", &good, rows).await, refused, "another tenant");
        assert_eq!(under(&other, "acme", &good, rows).await, refused, "another connection");
        let expired = proof_for(&client, KEY, "acme", -2).await;
        assert_eq!(under(&client, "acme", &expired, rows).await, refused, "expired");
        let unknown = proof_for(&client, NEW_KEY, "acme", 30).await;
        assert_eq!(under(&client, "acme", &unknown, rows).await, refused, "another key");
        let empty = proof_for(&client, KEY, "", 30).await;
        assert_eq!(under(&client, "", &empty, rows).await, refused, "the empty tenant");
        for forged in ["", ".", "..", "4a647df5", "4a647df5.99999999999.00", "\u{e9}.1.2"] {
            assert_eq!(under(&client, "acme", forged, rows).await, refused, "{forged}");
        }
        let tag = "SELECT current_setting('pgtenant.tag')";
        let tag = under(&client, "acme", &good, tag).await.unwrap().remove(0);
        for forged in
            [tag.clone(), tag.replace("acme", "globex"), ".".to_owned(), "4a647df5.00.acme".to_owned()]
        {
            let set = format!("BEGIN; SET LOCAL app.tenant_id = 'acme'; SET LOCAL pgtenant.tag = '{forged}'");
            client.batch_execute(&set).await.unwrap();
            assert_eq!(first_column(&client, rows).await, refused, "tag {forged}");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        client.batch_execute("BEGIN").await.unwrap();
        client.execute("SELECT pgtenant.enter('acme', $1)", &[&good]).await.unwrap();
        client.batch_execute("SET LOCAL app.tenant_id = 'globex'").await.unwrap();
        assert_eq!(
            first_column(&client, rows).await.unwrap(),
            ["acme"],
            "the setting moved, the seal did not"
        );
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn a_key_is_changed_while_the_proxy_runs() {
    let cluster = Cluster::start().await;
    install(&cluster);
    let mut proxy = Proxy::start(&cluster, |config| sealed(config, KEY)).await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query(WHO).await.value(), "acme");
    let (code, text) = protect_as(&cluster, &["--apply"], |config| sealed(config, NEW_KEY));
    assert!(code == 0 && text.contains("--retire-keys"), "{code}: {text}");
    assert_eq!(link.query(WHO).await.value(), "acme", "the old key is still good");
    proxy.reload(|config| sealed(config, NEW_KEY)).await;
    assert_eq!(link.query(WHO).await.value(), "acme", "the new one too");
    let retire = ["--apply", "--retire-keys"];
    let (code, text) = protect_as(&cluster, &retire, |config| sealed(config, NEW_KEY));
    assert!(code == 0 && text.contains("DELETE FROM pgtenant.key"), "{code}: {text}");
    assert_eq!(link.query(WHO).await.value(), "acme");
    let client = login(&cluster).await;
    let old = proof_for(&client, KEY, "acme", 30).await;
    assert_eq!(under(&client, "acme", &old, WHO).await, Err("28000".to_owned()), "the old key is gone");
    let (code, text) = protect_as(&cluster, &["--retire-keys"], |config| sealed(config, NEW_KEY));
    assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
}

#[tokio::test]
async fn no_plan_shows_a_key() {
    let cluster = Cluster::start().await;
    install(&cluster);
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(cluster.port()).user("app").password(APP_PASSWORD).dbname("app");
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                sender.send(notice.detail().unwrap_or_default().to_owned()).unwrap();
            }
        }
    });
    let good = proof_for(&client, KEY, "acme", 30).await;
    client
        .batch_execute("SET client_min_messages = log; SET debug_pretty_print = off; SET plan_cache_mode = force_custom_plan; SET debug_print_plan = on; SET debug_print_parse = on; SET debug_print_rewritten = on")
        .await
        .unwrap();
    assert!(!under(&client, "acme", &good, "SELECT body FROM notes").await.unwrap().is_empty());
    drop(client);
    let mut seen = String::new();
    while let Some(notice) = notices.recv().await {
        seen.push_str(&notice);
    }
    // A constant is printed byte by byte, in decimal and with its sign; a pretty plan would break lines in numbers.
    let squeezed = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains("97 99 109 101"), "the tenant's own bytes are there: the search can find");
    for column in ["ipad", "opad", "t_ipad", "t_opad"] {
        let sql = format!(
            "SELECT string_agg((CASE WHEN b > 127 THEN b - 256 ELSE b END)::text, ' ' ORDER BY i)
                           FROM pgtenant.key, generate_series(0, 15) AS i, get_byte({column}, i) AS b"
        );
        let bytes = cluster.value(&sql).await;
        assert!(!squeezed.contains(&bytes), "{column} was shown");
    }
}

#[tokio::test]
async fn the_self_test_holds_with_every_pin_and_leaks_without_one() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        let client = login(&cluster).await;
        let (sealed, setting) = (ContextMode::Sealed(SealKey::new(KEY)), "app.tenant_id");
        assert!(matches!(self_test(&client, setting, &sealed).await.unwrap(), SelfTest::CannotRun(_)));
        assert_eq!(self_test(&client, setting, &ContextMode::Plain).await.unwrap(), SelfTest::Holds);
        install(&cluster);
        // Every try must be able to fail, or it proves nothing; the bare one needs no pin.
        let tries = ["text", "uuid", "bigint"]
            .map(|kind| ["read", "lock", "with", "delete", "update"].map(|name| format!("{name} {kind}")));
        let all = SelfTest::Leaks(tries.concat());
        for context in [&sealed, &ContextMode::Plain] {
            assert_eq!(self_test(&client, setting, context).await.unwrap(), SelfTest::Holds);
            let under = (setting, context);
            assert_eq!(try_policies(&client, under, Some(PIN)).await.unwrap(), SelfTest::Holds);
            assert_eq!(try_policies(&client, under, None).await.unwrap(), all);
            let equal = Some("tenant_id = {tenant}");
            assert_eq!(try_policies(&client, under, equal).await.unwrap(), all);
            cluster.execute("REVOKE TEMP ON DATABASE app FROM PUBLIC").await;
            let no_temp = self_test(&client, setting, context).await.unwrap();
            assert!(matches!(&no_temp, SelfTest::CannotRun(why) if why.contains("42501")), "{no_temp:?}");
            cluster.execute("GRANT TEMP ON DATABASE app TO PUBLIC").await;
        }
        let other_key = ContextMode::Sealed(SealKey::new(NEW_KEY));
        let wrong = self_test(&client, setting, &other_key).await.unwrap();
        assert!(matches!(wrong, SelfTest::CannotRun(why) if why.contains("28000")));
    }
}

#[tokio::test]
async fn a_gateway_client_goes_from_no_tenant_to_a_tenant_and_back_under_a_seal() {
    let cluster = Cluster::start().await;
    install(&cluster);
    let chosen = [unnamed_choice(), sync()].concat();
    for first in ["select 1", ""] {
        let proxy = Proxy::start(&cluster, |config| {
            sealed(config, KEY);
            config.one_server();
            config.set("tenancy.require_tenant", false);
        })
        .await;
        let mut link = proxy.link("api").await;
        if !first.is_empty() {
            assert_eq!(link.query(first).await.value(), "1");
        }
        // The same server runs the entry statements of no tenant and of a tenant in turn.
        for round in 0..3 {
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)", "{first} {round}");
            assert_eq!(
                link.query("SET LOCAL app.tenant_id = 'acme'").await,
                "C(SET) Z(T)",
                "{first} {round}"
            );
            assert_eq!(link.query(WHO).await.value(), "acme", "{first} {round}");
            assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
            assert_eq!(link.query("select 1").await.value(), "1");
        }
        assert_eq!(link.ask(&chosen).await.value(), "globex", "{first}");
        assert_eq!(link.query(WHO).await.value(), "globex", "{first}");
    }
}

/// A choice whose tenant is bound, as the first that a client sends.
fn unnamed_choice() -> Vec<u8> {
    unnamed("SELECT set_config('app.tenant_id', $1, false)", &["globex"])
}
