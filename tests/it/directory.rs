//! Tenants and users in tables: they log in as those in the file do, changes take effect while clients work, and what
//! was read last serves while that database is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::support::config::Config;
use crate::support::proxy::run;
use crate::support::{Cluster, Link, Proxy, eventually, message, within};

const READER_PASSWORD: &str = "reader-secret";

fn with_tables(config: &mut Config) {
    config.set("directory.user", "reader");
    config.set("directory.password", READER_PASSWORD);
    config.set("directory.upstream", "main");
    config.add_user("ops", "operator", true);
}

/// A cluster whose tables were made as an operator makes them.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    install(&cluster, with_tables).await;
    cluster
}

async fn install(cluster: &Cluster, change: impl Fn(&mut Config)) {
    cluster.execute(&format!("CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'")).await;
    let (code, text) = protect(cluster, change, &["--apply"]);
    assert_eq!(code, 0, "{text}");
}

fn protect(cluster: &Cluster, change: impl Fn(&mut Config), arguments: &[&str]) -> (i32, String) {
    let mut config = Config::new(cluster);
    change(&mut config);
    let (_directory, path) = config.to_file();
    run(&[&["protect", "--config", &path, "--directory"], arguments].concat())
}

/// A row of users; the password is `<name>-secret`, as PostgreSQL itself keeps it.
fn user(name: &str, grant: &str, to: &str) -> String {
    format!(
        "CREATE ROLE temporary PASSWORD '{name}-secret';
         INSERT INTO pgtenant.users (name, password, {grant}) SELECT '{name}', rolpassword, '{to}' FROM pg_authid WHERE rolname = 'temporary';
         DROP ROLE temporary"
    )
}

async fn logs_in(proxy: &Proxy, user: &str) -> Link {
    eventually("the login", || async { proxy.login(user, &[]).await.ok() }).await
}

async fn is_refused(proxy: &Proxy, user: &str, code: &str) {
    eventually("a refusal", || async {
        proxy.login(user, &[]).await.err().filter(|fault| fault.code == code).map(drop)
    })
    .await;
}

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

#[tokio::test]
async fn protect_makes_the_tables_once_and_for_their_reader_only() {
    let cluster = Cluster::start().await;
    let (code, text) = protect(&cluster, with_tables, &["--apply"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("there is no role \"reader\""), "{text}");
    install(&cluster, with_tables).await;
    let (code, text) = protect(&cluster, with_tables, &[]);
    assert!(code == 0 && text.contains("nothing to do"), "{text}");
    let privileges = "SELECT has_schema_privilege('app', 'pgtenant', 'USAGE') OR has_table_privilege('app', 'pgtenant.users', 'SELECT')";
    assert_eq!(cluster.value(privileges).await, "f");
    let doctor = || {
        let mut config = Config::new(&cluster);
        with_tables(&mut config);
        let (_directory, path) = config.to_file();
        run(&["doctor", "--config", &path])
    };
    let (_, text) = doctor();
    assert!(!text.contains("D46") && !text.contains("could not be checked"), "{text}");
    cluster.execute("GRANT SELECT (name, password) ON pgtenant.users TO app; GRANT UPDATE ON pgtenant.tenants TO PUBLIC; GRANT USAGE ON SCHEMA pgtenant TO app").await;
    let (code, text) = doctor();
    assert!(
        code == 1 && ["D46", "can read it", "can change it"].iter().all(|one| text.contains(one)),
        "{code}: {text}"
    );
    let (code, text) = protect(&cluster, with_tables, &["--apply"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("REVOKE ALL ON pgtenant.users FROM app") && text.contains("FROM PUBLIC"), "{text}");
    let (_, text) = doctor();
    assert!(!text.contains("D46"), "{text}");
    let (code, text) = protect(&cluster, |_| {}, &[]);
    assert!(code == 2 && text.contains("no section [directory]"), "{text}");
}

#[tokio::test]
async fn tenants_and_users_of_the_tables_log_in_and_changes_are_heard() {
    let cluster = cluster().await;
    cluster.execute("INSERT INTO pgtenant.tenants (id, max_clients) VALUES ('late', 1)").await;
    cluster.execute("INSERT INTO notes (tenant_id, body) VALUES ('late', 'hello')").await;
    cluster.execute(&user("late_app", "tenant", "late")).await;
    cluster.execute(&user("gate", "tenants", "{acme,late}")).await;
    let mut proxy = Proxy::start(&cluster, with_tables).await;
    let mut late = proxy.link("late_app").await;
    assert_eq!(late.query(WHO).await.value(), "late", "read before the first login");
    let full = proxy.login("gate.late", &[]).await.err().unwrap();
    assert_eq!(full.code, "53300", "its limit is the row's");
    let mut gate = proxy.link("gate.acme").await;
    assert_eq!(gate.query(WHO).await.value(), "acme");
    cluster.execute("UPDATE pgtenant.tenants SET max_clients = 10").await;
    let mut second = logs_in(&proxy, "gate.late").await;
    assert_eq!(second.query(WHO).await.value(), "late");
    cluster.execute(&user("more", "tenant", "globex")).await;
    let mut more = logs_in(&proxy, "more").await;
    assert_eq!(more.query(WHO).await.value(), "globex", "a tenant of the file");
    cluster.execute("DELETE FROM pgtenant.users WHERE name = 'more'").await;
    let told = within("its end", more.closes()).await;
    assert_eq!(told.code().as_deref(), Some("57P01"));
    is_refused(&proxy, "more", "28P01").await;
    proxy.reload(|config| config.set("defaults.max_pins", 3)).await;
    assert_eq!(late.query(WHO).await.value(), "late", "a reload of the file leaves the tables' as they are");
    assert_eq!(proxy.link("late_app").await.query(WHO).await.value(), "late");
    proxy.reload(|config| config.add_user("late_app", "tenant", "acme")).await;
    assert_eq!(within("its end", late.closes()).await.code().as_deref(), Some("57P01"));
    assert_eq!(proxy.link("late_app").await.query(WHO).await.value(), "acme", "the file counts");
}

#[tokio::test]
async fn a_change_that_nobody_tells_of_is_found_by_looking() {
    let cluster = cluster().await;
    cluster.execute("ALTER TABLE pgtenant.users DISABLE TRIGGER directory_changed").await;
    let proxy = Proxy::start(&cluster, |config| {
        with_tables(config);
        config.set("directory.interval", "1s");
    })
    .await;
    cluster.execute(&user("quiet", "tenant", "acme")).await;
    logs_in(&proxy, "quiet").await;
}

#[tokio::test]
async fn a_row_with_a_problem_is_left_out_and_the_others_hold() {
    let cluster = cluster().await;
    let proxy = Proxy::start(&cluster, with_tables).await;
    cluster
        .execute("INSERT INTO pgtenant.tenants (id, upstream) VALUES ('lost', 'nowhere'), ('fine', NULL)")
        .await;
    cluster.execute(&user("lost_app", "tenant", "lost")).await;
    cluster.execute(&user("fine_app", "tenant", "fine")).await;
    logs_in(&proxy, "fine_app").await;
    assert_eq!(proxy.login("lost_app", &[]).await.err().unwrap().code, "28P01");
    proxy.measures("pgtenant_directory_rows", &[("state", "left_out")], 2.0).await;
    proxy.measures("pgtenant_directory_up", &[], 1.0).await;
    proxy.logged("is left out").await;
    let log = proxy.log();
    assert!(
        log.contains("there is no upstream \\\"nowhere\\\"")
            || log.contains("there is no upstream \"nowhere\""),
        "{log}"
    );
    assert!(!log.contains("SCRAM-SHA-256$"), "no verifier in the log");
}

#[tokio::test]
async fn the_directory_changes_while_fifty_clients_work() {
    let cluster = cluster().await;
    cluster.execute("INSERT INTO pgtenant.tenants (id) VALUES ('busy')").await;
    cluster.execute("INSERT INTO notes (tenant_id, body) VALUES ('busy', 'b')").await;
    cluster.execute(&user("busy_app", "tenant", "busy")).await;
    let proxy = Proxy::start(&cluster, with_tables).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut tasks = Vec::new();
    for number in 0..50 {
        let (user, tenant) = [("busy_app", "busy"), ("acme_app", "acme"), ("any.busy", "busy")][number % 3];
        let mut link = proxy.link(user).await;
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let answer = link.query(WHO).await;
                assert_eq!((answer.code(), answer.value().as_str()), (None, tenant), "{user}");
                done.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let before = done.load(Ordering::SeqCst);
    for round in 0..10 {
        let name = format!("u{round}");
        cluster.execute(&format!("INSERT INTO pgtenant.tenants (id) VALUES ('{name}')")).await;
        cluster.execute(&user(&name, "tenant", &name)).await;
        cluster
            .execute(&format!("UPDATE pgtenant.tenants SET max_servers = {} WHERE id = 'busy'", 3 + round))
            .await;
        logs_in(&proxy, &name).await;
    }
    eventually("work all the while", || async { (done.load(Ordering::SeqCst) > before + 200).then_some(()) })
        .await;
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        within("a client", task).await.unwrap();
    }
}

#[tokio::test]
async fn the_last_snapshot_serves_until_the_directorys_database_is_back() {
    let cluster = Cluster::start().await;
    let mut control = Cluster::start().await;
    let port = control.port();
    let elsewhere = move |config: &mut Config| {
        with_tables(config);
        config.set("directory.upstream", "control");
        for (key, value) in [("database", "app"), ("user", "app"), ("password", "app-secret"), ("tls", "off")]
        {
            config.set(&format!("upstream.control.{key}"), value);
        }
        config.set("upstream.control.hosts", vec![format!("127.0.0.1:{port}")]);
        config.set_user("migrate", "maintenance", {
            let mut maintenance = toml::Table::new();
            maintenance.insert("upstream".to_owned(), "control".into());
            maintenance.insert("server_user".to_owned(), "app_owner".into());
            maintenance.insert("server_password".to_owned(), "owner-secret".into());
            maintenance
        });
    };
    control.execute(&format!("CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'")).await;
    let (code, text) = protect(&cluster, elsewhere, &["--apply"]);
    assert_eq!(code, 0, "{text}");
    control.execute("INSERT INTO pgtenant.tenants (id, upstream) VALUES ('far', 'main')").await;
    control.execute(&user("far_app", "tenant", "far")).await;
    cluster.execute("INSERT INTO notes (tenant_id, body) VALUES ('far', 'b')").await;
    let mut proxy = Proxy::start(&cluster, elsewhere).await;
    let mut far = proxy.link("far_app").await;
    control.crash();
    proxy.measures("pgtenant_directory_up", &[], 0.0).await;
    assert_eq!(far.query(WHO).await.value(), "far");
    assert_eq!(proxy.link("far_app").await.query(WHO).await.value(), "far", "a login needs no query");
    proxy.reload(|config| config.set("defaults.max_pins", 3)).await;
    assert_eq!(proxy.link("far_app").await.query(WHO).await.value(), "far", "a reload keeps it too");
    let mut ops = proxy.link_with("ops", &[("database", "pgtenant")]).await;
    let refused = ops.query("MOVE TENANT far TO SCHEMA").await.fault();
    assert_eq!((refused.code.as_str(), refused.message.contains("away")), ("55000", true), "{refused:?}");
    assert_eq!(far.query(WHO).await.value(), "far");
    control.boot().await;
    control.execute(&user("back_app", "tenant", "far")).await;
    logs_in(&proxy, "back_app").await;
    proxy.measures("pgtenant_directory_up", &[], 1.0).await;
}

#[tokio::test]
async fn a_tenant_of_the_tables_is_moved_by_the_console_alone() {
    let cluster = cluster().await;
    cluster
        .execute(
            "CREATE ROLE tenant_rowan LOGIN PASSWORD 'rowan-secret'; CREATE SCHEMA tenant_rowan;
             GRANT USAGE ON SCHEMA tenant_rowan TO tenant_rowan;
             CREATE TABLE tenant_rowan.notes (tenant_id text DEFAULT 'in its schema');
             GRANT ALL ON tenant_rowan.notes TO tenant_rowan;
             INSERT INTO tenant_rowan.notes DEFAULT VALUES;
             INSERT INTO notes (tenant_id, body) VALUES ('rowan', 'b')",
        )
        .await;
    cluster.execute("INSERT INTO pgtenant.tenants (id) VALUES ('rowan')").await;
    cluster.execute(&user("rowan_app", "tenant", "rowan")).await;
    let proxy = Proxy::start(&cluster, with_tables).await;
    let mut rowan = proxy.link("rowan_app").await;
    let mut ops = proxy.link_with("ops", &[("database", "pgtenant")]).await;
    rowan.query("BEGIN").await;
    assert_eq!(rowan.query(WHO).await.value(), "rowan");
    ops.send(message::query("MOVE TENANT rowan TO SCHEMA")).await;
    assert!(ops.stays_silent(std::time::Duration::from_millis(200)).await, "a transaction is under way");
    rowan.send(message::query("COMMIT")).await;
    assert_eq!(rowan.answer().await, "C(COMMIT) Z(I)");
    // The role has no password in the row yet, and the server wants none of this upstream's user's.
    assert_eq!(ops.answer().await, "C(MOVE) Z(I)");
    cluster.execute("UPDATE pgtenant.tenants SET role_password = 'rowan-secret' WHERE id = 'rowan'").await;
    eventually("the role's password", || async {
        let mut link = proxy.login("rowan_app", &[]).await.ok()?;
        (link.query(WHO).await.code().is_none()).then_some(())
    })
    .await;
    assert_eq!(rowan.query(WHO).await.value(), "in its schema", "it has stayed");
    assert_eq!(
        cluster.value("SELECT isolation FROM pgtenant.tenants WHERE id = 'rowan'").await,
        "schema",
        "a restart finds it there"
    );
    let refused = ops.query("MOVE TENANT rowan TO DATABASE UPSTREAM nowhere").await.fault();
    assert_eq!((refused.code.as_str(), refused.message.contains("nowhere")), ("55000", true), "{refused:?}");
    assert_eq!(rowan.query(WHO).await.value(), "in its schema", "nothing has changed");
    assert_eq!(ops.query("MOVE TENANT rowan TO ROW").await, "C(MOVE) Z(I)");
    assert_eq!(rowan.query(WHO).await.value(), "rowan");
}

#[tokio::test]
async fn more_rows_than_max_rows_are_not_taken_and_the_last_snapshot_stays() {
    let cluster = cluster().await;
    cluster.execute("INSERT INTO pgtenant.tenants (id) VALUES ('one')").await;
    cluster.execute(&user("one_app", "tenant", "one")).await;
    let proxy = Proxy::start(&cluster, |config| {
        with_tables(config);
        config.set("directory.max_rows", 1);
    })
    .await;
    proxy.link("one_app").await;
    cluster.execute("INSERT INTO pgtenant.tenants (id) VALUES ('two')").await;
    proxy.measures("pgtenant_directory_up", &[], 0.0).await;
    proxy.logged("more than max_rows").await;
    proxy.link("one_app").await;
    cluster.execute("DELETE FROM pgtenant.tenants WHERE id = 'two'").await;
    proxy.measures("pgtenant_directory_up", &[], 1.0).await;
}

#[tokio::test]
async fn a_start_without_the_directory_serves_the_files_users_and_is_not_ready() {
    let (cluster, mut control) = (Cluster::start().await, Cluster::start().await);
    let port = control.port();
    control.crash();
    let elsewhere = move |config: &mut Config| {
        config.set("directory.upstream", "control");
        config.set("directory.user", "reader");
        config.set("directory.password", READER_PASSWORD);
        for (key, value) in [("database", "app"), ("user", "app"), ("password", "app-secret"), ("tls", "off")]
        {
            config.set(&format!("upstream.control.{key}"), value);
        }
        config.set("upstream.control.hosts", vec![format!("127.0.0.1:{port}")]);
        config.set("listen.login_timeout", "60s");
    };
    let proxy = Proxy::start(&cluster, elsewhere).await;
    proxy.logged("cannot be read yet").await;
    assert_eq!(proxy.link("acme_app").await.query(WHO).await.value(), "acme");
    assert_eq!(proxy.http("/readyz").await.0, 503);
    control.boot().await;
    // Tables that were never made are as good as away.
    assert_eq!(proxy.http("/readyz").await.0, 503);
    control.execute(&format!("CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'")).await;
    control.execute("CREATE SCHEMA pgtenant; GRANT USAGE ON SCHEMA pgtenant TO reader").await;
    for sql in [
        include_str!("../../src/protect/directory.sql"),
        include_str!("../../src/protect/directory_users.sql"),
    ] {
        control.execute(sql).await;
    }
    control.execute("GRANT SELECT ON ALL TABLES IN SCHEMA pgtenant TO reader").await;
    eventually("readiness", || async { (proxy.http("/readyz").await.0 == 200).then_some(()) }).await;
    assert_eq!(proxy.http("/healthz").await.0, 200);
}

// === [auth_query] ===

/// A query over a table of the test's own, whose rows say who there is.
fn with_query(config: &mut Config, port: u16) {
    for (key, value) in [("database", "app"), ("user", "app"), ("password", "app-secret"), ("tls", "off")] {
        config.set(&format!("upstream.control.{key}"), value);
    }
    config.set("upstream.control.hosts", vec![format!("127.0.0.1:{port}")]);
    config.set("auth_query.upstream", "control");
    config.set("auth_query.user", "reader");
    config.set("auth_query.password", READER_PASSWORD);
    config.set("auth_query.query", "SELECT tenant, verifier FROM public.credentials WHERE login = $1");
    config.set("auth_query.negative_ttl", "100ms");
}

async fn with_credentials() -> (Cluster, Cluster) {
    let control = Cluster::start().await;
    control
        .execute(&format!(
            "CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'; CREATE ROLE acme_role PASSWORD 'acme_role-secret';
             CREATE ROLE lost_role PASSWORD 'lost_role-secret'; SET password_encryption = 'md5'; CREATE ROLE old_role PASSWORD 'old_role-secret';
             CREATE TABLE credentials (login text, tenant text, verifier text); GRANT SELECT ON credentials TO reader;
             ALTER TABLE credentials ENABLE ROW LEVEL SECURITY; CREATE POLICY reads ON credentials TO reader USING (true);
             INSERT INTO credentials SELECT rolname, split_part(rolname, '_', 1), rolpassword FROM pg_authid WHERE rolname LIKE '%\\_role';
             INSERT INTO credentials SELECT 'twice', 'acme', verifier FROM credentials; INSERT INTO credentials VALUES ('none', 'acme', NULL);
             INSERT INTO credentials SELECT 'acme_app', 'globex', verifier FROM credentials WHERE login = 'acme_role';
             UPDATE credentials SET tenant = 'acme' WHERE login = 'old_role'"
        ))
        .await;
    (Cluster::start().await, control)
}

async fn code(proxy: &Proxy, user: &str) -> String {
    proxy.login(user, &[]).await.err().map_or_else(|| "in".to_owned(), |fault| fault.code)
}

#[tokio::test]
async fn a_query_knows_users_whom_nothing_else_knows() {
    let (cluster, control) = with_credentials().await;
    let port = control.port();
    let mut proxy = Proxy::start(&cluster, |config| with_query(config, port)).await;
    let mut acme = proxy.link("acme_role").await;
    assert_eq!(acme.query(WHO).await.value(), "acme");
    assert_eq!(
        acme.query("SET app.tenant_id = 'globex'").await.code().as_deref(),
        Some("42501"),
        "it has one tenant"
    );
    assert_eq!(proxy.login_as("acme_role", "wrong", &[]).await.err().unwrap().code, "28P01");
    let asks_for_globex = proxy.login("acme_role", &[("options", "-c app.tenant_id=globex")]).await;
    assert_eq!(asks_for_globex.err().unwrap().code, "28000");
    let nobody = proxy.login("nobody", &[]).await.err().unwrap();
    for user in ["lost_role", "old_role", "twice", "none", "acme_role.acme"] {
        let fault = proxy.login(user, &[]).await.err().unwrap();
        assert_eq!(
            (&fault.code, fault.message.replace(user, "nobody")),
            (&nobody.code, nobody.message.clone()),
            "{user}"
        );
    }
    assert_eq!(
        proxy.link("acme_app").await.query(WHO).await.value(),
        "acme",
        "the file's user is the file's"
    );
    control.execute("UPDATE credentials SET login = 'late_role' WHERE login = 'acme_role'").await;
    assert_eq!(code(&proxy, "acme_role").await, "in", "the answer is remembered");
    assert_eq!(code(&proxy, "late_role").await, "28P01", "its password is another's name");
    proxy.reload(|_| {}).await;
    assert_eq!(code(&proxy, "acme_role").await, "28P01", "a reload forgets");
    assert_eq!(acme.query(WHO).await.value(), "acme", "who is in stays");
    control.execute("UPDATE credentials SET login = 'acme_role' WHERE login = 'late_role'").await;
    eventually("the refusal to be forgotten", || async {
        (code(&proxy, "acme_role").await == "in").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_documented_function_finds_the_roles_that_are_meant_and_no_others() {
    let documented = include_str!("../../docs/directory.md");
    let sql = documented.split("```sql\n-- As a superuser: only roles").nth(1).unwrap();
    let sql = sql.split_once('\n').unwrap().1.split("```").next().unwrap();
    let cluster = Cluster::start().await;
    cluster.execute(&format!("CREATE ROLE pgtenant_auth LOGIN PASSWORD '{READER_PASSWORD}'")).await;
    cluster.execute(sql).await;
    cluster
        .execute(
            "CREATE ROLE tenant_acme LOGIN PASSWORD 'tenant_acme-secret'; CREATE ROLE tenantXacme LOGIN PASSWORD 'tenantXacme-secret';
             CREATE ROLE tenant_globex PASSWORD 'tenant_globex-secret';
             CREATE ROLE tenant_initech LOGIN SUPERUSER PASSWORD 'tenant_initech-secret';
             CREATE ROLE tenant_ LOGIN PASSWORD 'tenant_-secret'",
        )
        .await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("auth_query.user", "pgtenant_auth");
        config.set("auth_query.password", READER_PASSWORD);
        config.set("auth_query.query", "SELECT verifier, tenant FROM auth.find_user($1)");
    })
    .await;
    assert_eq!(proxy.link("tenant_acme").await.query(WHO).await.value(), "acme");
    for user in ["tenantXacme", "tenant_globex", "tenant_initech", "tenant_", "postgres", "app"] {
        assert_eq!(code(&proxy, user).await, "28P01", "{user}");
    }
}

#[tokio::test]
async fn a_query_that_fails_is_an_answer_and_ends_what_was_known_before() {
    let (cluster, control) = with_credentials().await;
    control.execute("ALTER TABLE credentials ADD COLUMN divisor int DEFAULT 1").await;
    let port = control.port();
    let proxy = Proxy::start(&cluster, |config| {
        with_query(config, port);
        config.set("auth_query.ttl", "0s");
        let query = "SELECT tenant, verifier FROM public.credentials WHERE login = $1 AND 1 / divisor = 1";
        config.set("auth_query.query", query);
    })
    .await;
    assert_eq!(code(&proxy, "acme_role").await, "in");
    control.execute("UPDATE credentials SET divisor = 0").await;
    assert_eq!(code(&proxy, "acme_role").await, "28P01", "it may be how an account is locked");
    control.execute("UPDATE credentials SET divisor = 1").await;
    assert_eq!(code(&proxy, "acme_role").await, "in");
}

#[tokio::test]
async fn while_the_querys_database_is_away_the_last_answer_holds() {
    let (cluster, mut control) = with_credentials().await;
    let port = control.port();
    let proxy = Proxy::start(&cluster, |config| {
        with_query(config, port);
        config.set("auth_query.ttl", "0s");
    })
    .await;
    assert_eq!(code(&proxy, "acme_role").await, "in");
    control.crash();
    for _ in 0..3 {
        assert_eq!(code(&proxy, "acme_role").await, "in");
        assert_eq!(code(&proxy, "nobody").await, "28P01");
        assert_eq!(code(&proxy, "acme_app").await, "in");
    }
    control.boot().await;
    control.execute("DELETE FROM credentials").await;
    eventually("the new answer", || async { (code(&proxy, "acme_role").await == "28P01").then_some(()) })
        .await;
}
