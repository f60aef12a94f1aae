//! The canary walks the way of all clients and stops all of them when it sees another tenant; nothing else
//! does that.

use crate::support::config::Config;
use crate::support::{Cluster, Proxy};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";
const TRIPS: &str = "pgtenant_canary_trips_total";
const UP: &str = "pgtenant_canary_up";

/// Two probes, often.
fn canary(config: &mut Config) {
    config.add_tenant("probe_a");
    config.add_tenant("probe_b");
    config.set("canary.tenants", vec!["probe_a", "probe_b"]);
    config.set("canary.interval", "100ms");
}

fn with_query(config: &mut Config) {
    canary(config);
    config.set("canary.query", "SELECT tenant_id FROM probes");
}

/// A table of the probes' own, which nobody else locks, and a row for each of them.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let sql = "CREATE TABLE probes (tenant_id text PRIMARY KEY);
        ALTER TABLE probes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY tenant ON probes USING (tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]));
        GRANT SELECT ON probes TO app;
        INSERT INTO probes VALUES ('probe_a'), ('probe_b')";
    cluster.execute(sql).await;
    cluster
}

/// Row-level security as somebody broke it.
const OPEN: &str = "CREATE POLICY everything ON probes USING (true)";

#[tokio::test]
async fn probes_that_see_their_own_rows_disturb_nobody() {
    let cluster = cluster().await;
    for one_server in [false, true] {
        let mut proxy = Proxy::start(&cluster, |config| {
            with_query(config);
            if one_server {
                config.one_server();
            }
        })
        .await;
        proxy.measures(UP, &[], 1.0).await;
        let mut link = proxy.link("acme_app").await;
        for _ in 0..20 {
            assert_eq!(link.query("SELECT 1").await, ONE);
        }
        proxy.reload(|config| config.remove_user("any")).await;
        let walked = proxy.metrics().await.sum("pgtenant_queries_total", &[("tenant", "probe_b")]);
        walks_on(&proxy, walked).await;
        let metrics = proxy.metrics().await;
        assert_eq!((metrics.sum(UP, &[]), metrics.sum(TRIPS, &[])), (1.0, 0.0), "{}", proxy.log());
        assert_eq!(link.query("SELECT 1").await, ONE);
    }
}

/// Waits until the probes have walked some more.
async fn walks_on(proxy: &Proxy, walked: f64) {
    crate::support::eventually("the probes to walk on", || async {
        let now = proxy.metrics().await.sum("pgtenant_queries_total", &[("tenant", "probe_b")]);
        (now > walked + 5.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_row_of_another_tenant_stops_all_tenants() {
    let cluster = cluster().await;
    let mut proxy = Proxy::start(&cluster, with_query).await;
    proxy.measures(UP, &[], 1.0).await;
    let mut idle = proxy.link("acme_app").await;
    let mut busy = proxy.link("globex_app").await;
    busy.hold().await;
    cluster.execute(OPEN).await;
    proxy.measures(TRIPS, &[], 1.0).await;
    proxy.measures(UP, &[], 0.0).await;
    proxy.logged("ISOLATION IS IN DOUBT").await;

    // Simple and extended, old clients and new ones: refused, and the connection lives.
    for _ in 0..2 {
        let answer = idle.query("SELECT 1").await;
        assert!(answer.to_string().contains("57P03") && answer.to_string().contains("Z(I)"), "{answer}");
        let answer = idle.extended("SELECT 1", &[]).await;
        assert!(answer.to_string().contains("57P03") && answer.to_string().contains("Z(I)"), "{answer}");
    }
    let answer = proxy.link("initech_app").await.query("SELECT 1").await;
    assert!(answer.to_string().contains("57P03"), "{answer}");
    // What was under way is over.
    cluster
        .settles("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'", "0")
        .await;
    assert!(proxy.login("globex_app", &[]).await.is_ok());
    // Somebody has to be able to look.
    assert_eq!(proxy.link("migrate").await.query("SELECT 1").await, ONE);

    // Mended or reloaded, it stays: only a restart says that somebody looked.
    cluster.execute("DROP POLICY everything ON probes").await;
    proxy.reload(|_| {}).await;
    let answer = idle.query("SELECT 1").await;
    assert!(answer.to_string().contains("57P03"), "{answer}");
    proxy.terminate();
    assert!(proxy.exits().await.success());
}

#[tokio::test]
async fn a_client_in_a_transaction_is_told_why_it_ends() {
    let cluster = cluster().await;
    let proxy = Proxy::start(&cluster, with_query).await;
    proxy.measures(UP, &[], 1.0).await;
    let client = proxy.client("globex_app").await;
    client.batch_execute("BEGIN; INSERT INTO notes (body) VALUES ('unfinished')").await.unwrap();
    cluster.execute(OPEN).await;
    proxy.measures(TRIPS, &[], 1.0).await;
    let error = client.batch_execute("COMMIT").await.unwrap_err();
    assert!(error.is_closed() || error.code().is_some_and(|code| code.code() == "57P03"), "{error}");
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'unfinished'").await, "0");
}

#[tokio::test]
async fn a_client_that_waits_for_a_server_is_refused_and_does_not_hang() {
    let cluster = cluster().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_query(config);
        config.set("upstream.main.pool_size", 3);
        config.set("defaults.queue_timeout", "1h");
        config.set_tenant("acme", "max_servers", 1);
    })
    .await;
    proxy.measures(UP, &[], 1.0).await;
    let mut holder = proxy.link("acme_app").await;
    holder.hold().await;
    let mut waiter = proxy.link("acme_app").await;
    let answer = tokio::spawn(async move { waiter.query("SELECT 1").await });
    cluster.execute(OPEN).await;
    let answer = crate::support::within("the refusal", answer).await.unwrap();
    // Whichever it was first: the refusal, or the server that the holder had to give up.
    assert!(answer.to_string().contains("57P03"), "{answer}");
}

#[tokio::test]
async fn blind_probes_are_a_warning_and_trip_nothing() {
    let mut cluster = cluster().await;
    cluster.execute("DELETE FROM probes").await;
    let proxy = Proxy::start(&cluster, with_query).await;
    proxy.logged("shows no row").await;
    assert_eq!(proxy.metrics().await.sum(UP, &[]), 0.0);
    cluster.execute("INSERT INTO probes VALUES ('probe_a'), ('probe_b')").await;
    // Commits are not waited for here, so that a crash would undo this one.
    cluster.execute("CHECKPOINT").await;
    proxy.measures(UP, &[], 1.0).await;
    cluster.crash();
    proxy.measures(UP, &[], 0.0).await;
    cluster.boot().await;
    proxy.measures(UP, &[], 1.0).await;
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum(TRIPS, &[]), 0.0);
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn without_a_query_the_setting_alone_is_watched() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, canary).await;
    proxy.measures(UP, &[], 1.0).await;
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum(TRIPS, &[]), 0.0);
    // The names of its users are no secret that a log would tell, but nobody can log in by them.
    assert!(proxy.login("canary-", &[]).await.is_err());
}
