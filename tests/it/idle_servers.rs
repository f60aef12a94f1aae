//! Servers that are idle for a moment are reset then, and are only entered later.

use crate::protect::{KEY, install, sealed};
use crate::support::{Cluster, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";
/// What a server ran last.
const RESET: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'idle'
                     AND query LIKE 'BEGIN ISOLATION%RESET ALL%DISCARD SEQUENCES;COMMIT'";
/// Of what an idle server still has of a tenant.
const LEFT: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";

async fn one_server(context: &str) -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    if context == "sealed" {
        install(&cluster);
    }
    let proxy = Proxy::start(&cluster, |config| {
        if context == "sealed" {
            sealed(config, KEY);
        }
        config.one_server();
    })
    .await;
    (cluster, proxy)
}

#[tokio::test]
async fn an_idle_server_is_reset_and_serves_whoever_comes_next() {
    for context in ["plain", "sealed"] {
        let (cluster, proxy) = one_server(context).await;
        let mut links = [proxy.link("acme_app").await, proxy.link("globex_app").await];
        for link in &mut links {
            link.ask([message::parse("mine", WHO), message::sync()].concat()).await;
            assert!(link.query("SET TimeZone = 'Asia/Tokyo'").await.code().is_none());
        }
        let rerun = [message::rerun("mine", &[]), message::sync()].concat();
        for ask in [message::query(WHO), rerun] {
            for (link, tenant) in links.iter_mut().zip(["acme", "globex"]) {
                cluster.settles(RESET, "1").await;
                assert_eq!(link.ask(&ask).await.value(), tenant, "{context}");
                assert_eq!(link.query("SHOW TimeZone").await.value(), "Asia/Tokyo", "{context}");
            }
        }
        // At once, in turn: no reset comes between.
        for (link, tenant) in links.iter_mut().zip(["acme", "globex"]).rev() {
            assert_eq!(link.query(WHO).await.value(), tenant, "{context}");
        }
    }
}

#[tokio::test]
async fn what_a_tenant_left_is_gone_from_an_idle_server_before_anybody_needs_it() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "CREATE FUNCTION locks() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(7)';
             GRANT EXECUTE ON FUNCTION locks() TO app",
        )
        .await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("acme_app").await;
    assert!(link.query("SELECT locks()").await.code().is_none());
    cluster.settles(LEFT, "0").await;
    cluster.settles(RESET, "1").await;
    assert_eq!(link.query(WHO).await.value(), "acme");
}

#[tokio::test]
async fn an_idle_server_that_cannot_be_reset_is_closed() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("acme_app").await;
    let process = link.query("SELECT pg_backend_pid()").await.value();
    cluster.settles(RESET, "1").await;
    // A server that is used again is reset again; its process ends meanwhile.
    assert_eq!(link.query("SELECT 1").await.value(), "1");
    cluster.execute(&format!("SELECT pg_terminate_backend({process})")).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'", "0").await;
    assert_eq!(link.query(WHO).await.value(), "acme");
}

#[tokio::test]
async fn notifications_for_who_listened_before_reach_nobody_behind_a_reset() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "CREATE FUNCTION attends() RETURNS void LANGUAGE plpgsql AS 'BEGIN LISTEN news; END';
             GRANT EXECUTE ON FUNCTION attends() TO app",
        )
        .await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set_user("globex_app", "pool_mode", "session");
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    assert!(link.query("SELECT attends()").await.code().is_none());
    for _ in 0..2 {
        cluster.execute("NOTIFY news, 'for acme'").await;
    }
    cluster.settles(RESET, "1").await;
    let mut other = proxy.link("globex_app").await;
    for text in ["SELECT 1", "SET application_name = 'x'", "SELECT 1"] {
        let answer = other.query(text).await;
        assert!(answer.0.iter().all(|frame| frame.tag != b'A'), "{text}: {answer}");
    }
}

#[tokio::test]
async fn settings_that_the_clients_encoding_does_not_have_are_carried() {
    for context in ["plain", "sealed"] {
        let (cluster, proxy) = one_server(context).await;
        let mut link = proxy.link("acme_app").await;
        for text in ["SET app.note = '\u{20ac}'", "SET client_encoding = 'LATIN1'"] {
            assert!(link.query(text).await.code().is_none(), "{text}");
        }
        let mut processes = Vec::new();
        for round in 0..3 {
            assert_eq!(proxy.link("globex_app").await.query(WHO).await.value(), "globex");
            assert_eq!(link.query(WHO).await.value(), "acme", "{context} {round}");
            processes.push(link.query("SELECT pg_backend_pid()").await.value());
            cluster.settles(RESET, "1").await;
        }
        processes.dedup();
        assert_eq!(processes.len(), 1, "{context}: no server was closed");
        let length = link.query("SELECT length(convert_to(current_setting('app.note'), 'UTF8'))").await;
        assert_eq!(length.value(), "3", "{context}");
    }
}
