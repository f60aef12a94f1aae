//! A tenant goes to another place while it works: its clients stay and at most wait, no row is lost or there twice,
//! and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::placement::{PASSWORD, cluster, placed};
use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, eventually, message, within};

fn with_operator(config: &mut Config) {
    config.add_user("ops", "operator", true);
    config.set("defaults.queue_timeout", "20s");
}

async fn console(proxy: &Proxy) -> Link {
    proxy.link_with("ops", &[("database", "pgtenant")]).await
}

async fn refused(ops: &mut Link, command: &str) -> (String, String) {
    let answer = ops.query(command).await;
    let fault = answer.fault();
    (fault.code, fault.message)
}

const COUNT: &str = "SELECT count(*) FROM notes WHERE body = 'from its schema'";

#[tokio::test]
async fn a_tenant_moves_by_a_reload_and_its_clients_stay() {
    let cluster = cluster().await;
    let mut proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.lenient();
    })
    .await;
    let mut idle = proxy.link("globex_app").await;
    let mut busy = proxy.link("any.globex").await;
    let mut pinned = proxy.link("globex_app").await;
    let mut undecided = proxy.link("any").await;
    let mut acme = proxy.link("acme_app").await;
    assert_eq!(idle.query(COUNT).await.value(), "0");
    busy.hold().await;
    assert_eq!(busy.query(COUNT).await.value(), "0");
    pinned.query("CREATE TEMP TABLE mine (a int)").await;
    proxy.reload(placed).await;
    let told = within("the pinned one's end", pinned.closes()).await.fault();
    assert_eq!((told.code.as_str(), told.message.contains("has moved")), ("57P01", true), "{told:?}");
    assert_eq!(busy.query(COUNT).await.value(), "0", "what is under way ends where it began");
    busy.query("COMMIT").await;
    for link in [&mut idle, &mut busy] {
        assert_eq!(link.query(COUNT).await.value(), "1");
        assert_eq!(link.extended(COUNT, &[]).await.value(), "1");
    }
    undecided.query("SET app.tenant_id = 'globex'").await;
    assert_eq!(undecided.query(COUNT).await.value(), "1");
    assert_eq!(acme.query("SELECT 1").await.value(), "1", "others do not notice");
}

#[tokio::test]
async fn a_paused_tenants_clients_wait_and_others_do_not() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let mut open = proxy.link("acme_app").await;
    let (mut waiting, mut extended) = (proxy.link("acme_app").await, proxy.link("any.acme").await);
    let (mut cancelled, mut other) = (proxy.link("acme_app").await, proxy.link("globex_app").await);
    open.hold().await;
    ops.send(message::query("PAUSE TENANT acme")).await;
    assert!(ops.stays_silent(Duration::from_millis(200)).await, "a transaction is under way");
    waiting.send(message::query("SELECT 2")).await;
    assert!(waiting.stays_silent(Duration::from_millis(100)).await);
    assert_eq!(open.query("SELECT 1").await.value(), "1");
    assert_eq!(open.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(ops.answer().await, "C(PAUSE) Z(I)");
    extended.send([message::unnamed("SELECT 3", &[]), message::sync()].concat()).await;
    cancelled.send(message::query("SELECT 4")).await;
    assert!(cancelled.stays_silent(Duration::from_millis(100)).await);
    cancelled.cancel().await;
    assert_eq!(cancelled.answer().await, "E(57014) Z(I)");
    assert_eq!(other.query("SELECT 1").await.value(), "1");
    other.query("SET app.tenant_id = 'acme'").await;
    let mut late = proxy.link("acme_app").await;
    late.send(message::query("SELECT 5")).await;
    assert!(late.stays_silent(Duration::from_millis(100)).await, "it is let in, and waits");
    let mut gateway = proxy.link("any.globex").await;
    gateway.hold().await;
    assert_eq!(
        gateway.query("SET LOCAL app.tenant_id = 'acme'").await.code().as_deref(),
        Some("57P03"),
        "a transaction of another tenant does not wait in the middle"
    );
    assert_eq!(ops.query("RESUME TENANT acme").await, "C(RESUME) Z(I)");
    for (link, value) in [(&mut waiting, "2"), (&mut extended, "3"), (&mut late, "5")] {
        assert_eq!(within("its turn", link.answer()).await.value(), value);
    }
    proxy.reload(|config| config.set("defaults.queue_timeout", "200ms")).await;
    waiting.query("SELECT 1").await;
    ops.query("PAUSE TENANT acme").await;
    let fault = waiting.query("SELECT 1").await.fault();
    assert_eq!((fault.code.as_str(), fault.message.as_str()), ("57P03", "the tenant is paused"));
    ops.query("RESUME TENANT acme").await;
    assert_eq!(waiting.query("SELECT 1").await.value(), "1");
}

#[tokio::test]
async fn clients_that_leave_a_paused_tenant_or_mid_statement_delay_nothing() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let mut running = proxy.link("acme_app").await;
    running.send(message::query("SELECT pg_sleep(60)")).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    cluster.settles(sleeping, "1").await;
    let mut open = proxy.link("acme_app").await;
    open.hold().await;
    open.query("INSERT INTO notes (body) VALUES ('never')").await;
    drop((running, open));
    assert_eq!(ops.query("PAUSE TENANT acme").await, "C(PAUSE) Z(I)");
    cluster.settles(sleeping, "0").await;
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'never'").await, "0");
    let (mut vanishing, mut waiting) = (proxy.link("acme_app").await, proxy.link("any.acme").await);
    for link in [&mut vanishing, &mut waiting] {
        link.send(message::query("SELECT 1")).await;
        assert!(link.stays_silent(Duration::from_millis(100)).await);
    }
    drop(vanishing);
    proxy.measures("pgtenant_clients", &[("tenant", "acme")], 1.0).await;
    assert_eq!(ops.query("SHUTDOWN").await, "C(SHUTDOWN) Z(I)");
    assert_eq!(
        within("its end", waiting.closes()).await.code().as_deref(),
        Some("57P01"),
        "it need not wait"
    );
}

#[tokio::test]
async fn a_move_needs_the_file_to_say_so_and_changes_nothing_when_it_fails() {
    let cluster = cluster().await;
    let mut proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let mut globex = proxy.link("globex_app").await;
    let (code, message) = refused(&mut ops, "MOVE TENANT globex TO SCHEMA ROLE tenant_globex").await;
    assert_eq!(code, "55000");
    assert!(message.contains("isolation = \"schema\", role = \"tenant_globex\""), "{message}");
    assert_eq!(refused(&mut ops, "MOVE TENANT nobody TO SCHEMA").await.0, "42704");
    assert_eq!(
        refused(&mut ops, "MOVE TENANT globex TO ROW").await,
        ("55000".to_owned(), "tenant \"globex\" is there already".to_owned())
    );
    proxy.write(placed);
    let (code, message) = refused(&mut ops, "MOVE TENANT globex TO SCHEMA SCHEMA elsewhere").await;
    assert_eq!((code.as_str(), message.contains("schema = \"elsewhere\"")), ("55000", true), "{message}");
    proxy.write(|config| config.set("defaults.queue_timeout", "300ms"));
    assert_eq!(ops.query("RELOAD").await, "C(RELOAD) Z(I)");
    proxy.write(|config| {
        config.set_tenant("acme", "isolation", "database");
        config.set_tenant("acme", "database", "initech");
        config.set_tenant("acme", "role", "tenant_initech");
        config.set_tenant("acme", "role_password", PASSWORD);
    });
    let mut acme = proxy.link("acme_app").await;
    acme.hold().await;
    let (code, message) = refused(&mut ops, "MOVE TENANT acme TO DATABASE").await;
    assert_eq!((code.as_str(), message.starts_with("nothing has changed")), ("55000", true), "{message}");
    let mine = "SELECT count(*) FROM notes WHERE body = 'from its database'";
    assert_eq!(acme.query(mine).await.value(), "0");
    acme.query("COMMIT").await;
    assert_eq!(acme.query(mine).await.value(), "0", "it goes on where it was");
    assert_eq!(ops.query("MOVE TENANT acme TO DATABASE DATABASE initech").await, "C(MOVE) Z(I)");
    assert_eq!(acme.query("SELECT current_database()").await.value(), "initech");
    assert_eq!(globex.query(COUNT).await.value(), "1", "the file was taken as a whole at the first RELOAD");
    proxy.write(|config| config.set("listen.nonsense", 1));
    assert_eq!(refused(&mut ops, "MOVE TENANT acme TO ROW").await.0, "F0000");
    let (code, message) = refused(&mut ops, "RELOAD").await;
    assert_eq!((code.as_str(), message.contains("nonsense")), ("F0000", true), "{message}");
    // The last that was refused: the log is written behind the answers.
    proxy.logged("the old configuration stays").await;
    let log = proxy.log();
    let moved = log.lines().find(|line| line.contains("\"moved\"")).unwrap();
    assert!(moved.contains("ops@127.0.0.1") && moved.contains("tenant=acme"), "{moved}");
    let refused = log.lines().filter(|line| line.contains("audit") && line.contains("refused="));
    assert!(refused.filter(|line| line.contains("ops@127.0.0.1")).count() >= 5, "{log}");
}

/// Clients that write numbered rows until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    /// Rows that were acknowledged.
    rows: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    async fn start(proxy: &Proxy, users: &[&str]) -> Self {
        let mut writers = Self { stop: Arc::default(), rows: Arc::default(), tasks: Vec::new() };
        for (number, user) in users.iter().enumerate() {
            let (link, stop, rows) = (proxy.link(user).await, writers.stop.clone(), writers.rows.clone());
            writers.tasks.push(tokio::spawn(write(link, number, stop, rows)));
        }
        writers
    }

    fn rows(&self) -> u32 {
        self.rows.load(Ordering::SeqCst)
    }

    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            within("a writer", task).await.unwrap();
        }
        i64::from(self.rows.load(Ordering::SeqCst))
    }
}

async fn write(mut link: Link, writer: usize, stop: Arc<AtomicBool>, rows: Arc<AtomicU32>) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let body = format!("w{writer}/{number}");
        let insert = format!("INSERT INTO notes (body) VALUES ('{body}')");
        match number % 3 {
            0 => assert_eq!(link.query(&insert).await, "C(INSERT 0 1) Z(I)", "{body}"),
            1 => {
                let answer = link.extended("INSERT INTO notes (body) VALUES ($1)", &[&body]).await;
                assert_eq!(answer.code(), None, "{body}: {answer}");
            }
            _ => {
                for text in ["BEGIN", &insert, "COMMIT"] {
                    let answer = link.query(text).await;
                    assert_eq!(answer.code(), None, "{body}: {answer}");
                }
            }
        }
        number += 1;
        rows.fetch_add(1, Ordering::SeqCst);
    }
}

/// Everything that acme has in one place is put in another.
async fn copy(from: &Client, to: &Client, (source, target): (&str, &str)) {
    let select = format!("SELECT tenant_id, body FROM {source} WHERE tenant_id = 'acme'");
    let insert = format!("INSERT INTO {target} (tenant_id, body) VALUES ($1, $2)");
    for row in from.query(&select, &[]).await.unwrap() {
        let (tenant, body): (String, Option<String>) = (row.get(0), row.get(1));
        to.execute(&insert, &[&tenant, &body]).await.unwrap();
    }
    from.execute(&format!("DELETE FROM {source} WHERE tenant_id = 'acme'"), &[]).await.unwrap();
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Places for acme: a schema, and a database.
async fn places(cluster: &Cluster) -> (Client, Client) {
    let table = "id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL DEFAULT current_setting('app.tenant_id'), body text";
    let here = cluster.superuser().await;
    here.batch_execute(&format!(
        "CREATE ROLE tenant_acme LOGIN PASSWORD '{PASSWORD}';
         CREATE SCHEMA tenant_acme; GRANT USAGE ON SCHEMA tenant_acme TO tenant_acme;
         CREATE TABLE tenant_acme.notes ({table}); GRANT ALL ON tenant_acme.notes TO tenant_acme;
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA tenant_acme TO tenant_acme"
    ))
    .await
    .unwrap();
    here.batch_execute("CREATE DATABASE acme").await.unwrap();
    let there = cluster.superuser_of("acme").await;
    there
        .batch_execute(&format!(
            "CREATE TABLE notes ({table}); GRANT ALL ON notes TO tenant_acme;
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO tenant_acme"
        ))
        .await
        .unwrap();
    (here, there)
}

#[tokio::test]
async fn a_tenant_moves_under_load_from_row_to_schema_to_database_and_back() {
    let cluster = cluster().await;
    let (here, there) = places(&cluster).await;
    let before = number(&here, "SELECT count(*) FROM notes WHERE tenant_id = 'acme'").await;
    let mut proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let writers = Writers::start(&proxy, &["acme_app", "any.acme", "acme_app", "any.acme"]).await;
    let others = Writers::start(&proxy, &["globex_app"]).await;
    for (isolation, from, to, names) in [
        ("schema", &here, &here, ("public.notes", "tenant_acme.notes")),
        ("database", &here, &there, ("tenant_acme.notes", "notes")),
        ("row", &there, &here, ("notes", "public.notes")),
    ] {
        let written = writers.rows();
        eventually("work in this place", || async { (writers.rows() > written + 20).then_some(()) }).await;
        assert_eq!(ops.query("PAUSE TENANT acme").await, "C(PAUSE) Z(I)");
        let (held, others_before) = (writers.rows(), others.rows());
        copy(from, to, names).await;
        proxy.write(|config| {
            config.renew_tenant("acme");
            if isolation != "row" {
                config.set_tenant("acme", "isolation", isolation);
                config.set_tenant("acme", "role", "tenant_acme");
                config.set_tenant("acme", "role_password", PASSWORD);
            }
        });
        assert_eq!(ops.query(&format!("MOVE TENANT acme TO {isolation}")).await, "C(MOVE) Z(I)");
        eventually("others' work", || async { (others.rows() > others_before + 20).then_some(()) }).await;
        // Those that were answered when PAUSE came back may be counted behind it.
        assert!(writers.rows() <= held + 4, "the operator's pause outlasts the move");
        assert_eq!(ops.query("RESUME TENANT acme").await, "C(RESUME) Z(I)");
    }
    let written = writers.rows();
    eventually("work where it began", || async { (writers.rows() > written + 20).then_some(()) }).await;
    let written = writers.stop().await;
    others.stop().await;
    let metrics = proxy.metrics().await;
    let waited = |tenant: &str| metrics.sum("pgtenant_queue_wait_seconds_sum", &[("tenant", tenant)]);
    assert!(waited("acme") > waited("globex"), "{} {}", waited("acme"), waited("globex"));
    let acme = "FROM notes WHERE tenant_id = 'acme'";
    assert_eq!(number(&here, &format!("SELECT count(*) {acme}")).await, before + written, "none is lost");
    let different = format!("SELECT count(DISTINCT body) {acme} AND body LIKE 'w%/%'");
    assert_eq!(number(&here, &different).await, written, "none is there twice");
    for (client, table) in [(&here, "tenant_acme.notes"), (&there, "notes")] {
        let left = number(client, &format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(left, 0, "{table}: nothing was written to a place that was left");
    }
}
