//! Replication connections: passed through for a maintenance user that is allowed them, refused for all others.

use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, message, within};

const PASSWORD: &str = "copier-secret";

/// A cluster that keeps what logical replication needs, and a role that may replicate.
async fn cluster() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.execute("ALTER SYSTEM SET wal_level = logical").await;
    cluster.execute(&format!("CREATE ROLE copier LOGIN REPLICATION PASSWORD '{PASSWORD}'")).await;
    cluster.execute("CHECKPOINT").await;
    cluster.crash();
    cluster.boot().await;
    cluster
}

fn with_copier(config: &mut Config, connections: i64) {
    let mut maintenance = toml::Table::new();
    maintenance.insert("server_user".to_owned(), "copier".into());
    maintenance.insert("server_password".to_owned(), PASSWORD.into());
    maintenance.insert("max_replication".to_owned(), connections.into());
    config.add_user("copier", "maintenance", maintenance);
}

async fn logical(proxy: &Proxy) -> Link {
    proxy.link_with("copier", &[("replication", "database")]).await
}

#[tokio::test]
async fn changes_stream_to_a_maintenance_user_that_is_allowed_it() {
    let cluster = cluster().await;
    let proxy = Proxy::start(&cluster, |config| with_copier(config, 2)).await;
    let mut link = logical(&proxy).await;
    let system = link.query("IDENTIFY_SYSTEM").await;
    assert!(system.to_string().starts_with("T(systemid,timeline,xlogpos,dbname) D("), "{system}");
    let slot = link.query("CREATE_REPLICATION_SLOT copied TEMPORARY LOGICAL test_decoding").await;
    assert_eq!(slot.code(), None, "{slot}");
    link.send(message::query("START_REPLICATION SLOT copied LOGICAL 0/0")).await;
    assert_eq!(link.frame("W").await.tag, b'W');
    cluster.execute("INSERT INTO imports VALUES ('streamed')").await;
    let heard = within("the change", async {
        loop {
            let frame = link.frame("d").await;
            let text = String::from_utf8_lossy(&frame.body).into_owned();
            if text.contains("streamed") {
                return text;
            }
        }
    })
    .await;
    assert!(heard.contains("INSERT"), "{heard}");
    // The client ends the copying, and the connection goes on.
    link.send(message::copy_done()).await;
    let rest = link.answer().await.without(b"dc");
    assert_eq!(rest.code(), None, "{rest}");
    assert_eq!(link.query("SHOW wal_level").await.value(), "logical");
}

#[tokio::test]
async fn a_physical_connection_is_counted_bounded_and_takes_no_pool_server() {
    let cluster = cluster().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_copier(config, 2);
        config.one_server();
    })
    .await;
    let physical = [("replication", "true")];
    let mut first = proxy.link_with("copier", &physical).await;
    let second = proxy.link_with("copier", &physical).await;
    assert_eq!(first.query("IDENTIFY_SYSTEM").await.code(), None);
    assert_eq!(proxy.login("copier", &physical).await.err().unwrap().code, "53300");
    proxy.measures("pgtenant_replication_connections", &[("upstream", "main")], 2.0).await;
    assert_eq!(proxy.metrics().await.sum("pgtenant_servers", &[("state", "used")]), 0.0);
    let mut tenant = proxy.link("acme_app").await;
    assert_eq!(tenant.query("SELECT 1").await.value(), "1");
    second.leave().await;
    proxy.measures("pgtenant_replication_connections", &[("upstream", "main")], 1.0).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'", "1").await;
    proxy.link_with("copier", &physical).await;
}

#[tokio::test]
async fn tenants_and_maintenance_users_that_are_not_allowed_it_are_refused() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    for user in ["acme_app", "api.acme", "migrate"] {
        for kind in ["true", "database"] {
            let fault = proxy.login(user, &[("replication", kind)]).await.err().unwrap();
            assert_eq!(fault.code, "0A000", "{user}: {fault:?}");
            assert!(fault.hint.unwrap().contains("maintenance user"), "{user}");
        }
        assert_eq!(
            proxy.link_with(user, &[("replication", "off")]).await.query("SELECT 1").await.value(),
            "1"
        );
    }
    let fault = proxy.login("migrate", &[("replication", "maybe")]).await.err().unwrap();
    assert_eq!(fault.code, "22023");
}

#[tokio::test]
async fn a_stream_ends_with_the_drain_and_with_its_server_and_can_be_cancelled() {
    let cluster = cluster().await;
    let mut proxy = Proxy::start(&cluster, |config| with_copier(config, 3)).await;
    let mut slow = logical(&proxy).await;
    slow.send(message::query("SELECT pg_sleep(60)")).await;
    cluster
        .settles(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND usename = 'copier'",
            "1",
        )
        .await;
    slow.cancel().await;
    assert_eq!(within("the cancel", slow.answer()).await, "T(pg_sleep) E(57014) Z(I)");
    let mut orphan = logical(&proxy).await;
    cluster
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'copier' AND backend_type = 'walsender'")
        .await;
    assert_eq!(within("the server's end", orphan.closes()).await.code().as_deref(), Some("57P01"));
    let mut streaming = logical(&proxy).await;
    assert_eq!(streaming.query("SELECT 1").await.value(), "1");
    proxy.terminate();
    within("the drain", streaming.closes()).await;
    assert!(proxy.exits().await.success());
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE usename = 'copier'", "0").await;
}
