//! Connections that have not logged in: they take nobody's seat, they are bounded, and who is known still comes in.

use std::time::Duration;

use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, eventually, message, within};

fn with_operator(config: &mut Config) {
    config.add_user("ops", "operator", true);
}

/// Connections that say nothing.
async fn silent(proxy: &Proxy, count: usize) -> Vec<Link> {
    let mut links = Vec::new();
    for _ in 0..count {
        links.push(proxy.raw().await);
    }
    links
}

#[tokio::test]
async fn silent_connections_give_way_to_those_who_log_in() {
    let cluster = Cluster::start().await;
    for (setting, other) in
        [("max_logins", "max_logins_per_address"), ("max_logins_per_address", "max_logins")]
    {
        let proxy = Proxy::start(&cluster, |config| {
            config.set("listen.max_clients", 2);
            config.set("listen.login_timeout", "1h");
            config.set(&format!("listen.{setting}"), 4);
            config.set(&format!("listen.{other}"), 0);
        })
        .await;
        let mut links = silent(&proxy, 4).await;
        // Half-way connections are no better.
        links[0].startup(&[("user", "acme_app"), ("database", "app")]).await;
        assert_eq!(links[0].frame("the request for the password").await.tag, b'R', "{setting}");
        let login = || async { proxy.login("acme_app", &[]).await.ok() };
        let mut first = eventually("a login", login).await;
        assert_eq!(first.query("SELECT 1").await.value(), "1", "{setting}");
        let mut second = eventually("a second one", login).await;
        assert_eq!(second.query("SELECT 1").await.value(), "1", "{setting}");
        // One of those who said nothing went.
        let silent = links.split_off(1);
        let mut gone = 0;
        for mut link in silent {
            gone += usize::from(!link.stays_silent(Duration::from_millis(100)).await);
        }
        assert_eq!(gone, 1, "{setting}");
        assert_eq!(proxy.login("acme_app", &[]).await.err().unwrap().code, "53300", "max_clients holds");
    }
}

#[tokio::test]
async fn without_limits_any_number_may_be_silent() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("listen.max_clients", 1);
        config.set("listen.max_logins", 0);
        config.set("listen.max_logins_per_address", 0);
    })
    .await;
    let mut links = silent(&proxy, 100).await;
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await.value(), "1");
    for link in &mut links {
        assert!(link.stays_silent(Duration::from_millis(1)).await);
    }
}

#[tokio::test]
async fn cancel_requests_and_operators_come_in_when_all_seats_are_taken() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.set("listen.max_clients", 2);
    })
    .await;
    let mut running = proxy.link("acme_app").await;
    let _other = proxy.link("globex_app").await;
    running.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    let refused = proxy.login("globex_app", &[]).await.err().unwrap();
    assert_eq!((refused.code.as_str(), refused.severity.as_str()), ("53300", "FATAL"));
    let refused = proxy.login("acme_app", &[("database", "pgtenant")]).await.err().unwrap();
    assert_eq!(refused.code, "53300", "to name the console is not enough");
    let mut ops = proxy.link_with("ops", &[("database", "pgtenant")]).await;
    assert_eq!(ops.query("SHOW CLIENTS").await.code(), None);
    running.cancel().await;
    assert_eq!(within("the end of the statement", running.answer()).await.code().as_deref(), Some("57014"));
}

#[tokio::test]
async fn the_metrics_address_closes_silent_connections_and_answers_others() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    // More than there are seats for, and some that never finish their question.
    let mut links = Vec::new();
    for number in 0..20 {
        let mut link = Link::tcp(proxy.metrics_port()).await;
        if number % 2 == 0 {
            link.send("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
        }
        links.push(link);
    }
    let answered = eventually("an answer", || async {
        let (status, body) = proxy.http("/healthz").await;
        (status == 200).then_some(body)
    });
    assert_eq!(answered.await, "ok\n");
    let mut gone = 0;
    for link in &mut links {
        gone += usize::from(!link.stays_silent(Duration::from_millis(1)).await);
    }
    assert!(gone >= 16, "{gone}");
    assert_eq!(proxy.http("/metrics").await.0, 200);
}

#[tokio::test]
async fn few_descriptors_are_shared_out_and_a_low_limit_is_raised() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start_with_descriptors(&cluster, (256, 4096), |_| {}).await;
    assert_eq!(proxy.max_descriptors(), 4096, "as far as it may be");
    drop(proxy);

    let proxy = Proxy::start_with_descriptors(&cluster, (200, 200), with_operator).await;
    proxy.logged("the limit of open files").await;
    let mut links = Vec::new();
    let fault = loop {
        match proxy.login("acme_app", &[]).await {
            Ok(link) => links.push(link),
            Err(fault) => break fault,
        }
        assert!(links.len() < 200, "there is an end to it");
    };
    assert_eq!(fault.code, "53300");
    assert!(links.len() >= 40, "{} clients", links.len());
    let _silent = silent(&proxy, 150).await;
    // Everybody who is in works, servers are opened, and operators see what happens.
    let mut open = Vec::new();
    for link in links.iter_mut().take(4) {
        link.hold().await;
        open.push(link.query("SELECT pg_backend_pid()").await.value());
    }
    open.sort_unstable();
    open.dedup();
    assert_eq!(open.len(), 4, "four servers");
    assert_eq!(proxy.http("/metrics").await.0, 200);
    let console = || async { proxy.login("ops", &[("database", "pgtenant")]).await.ok() };
    let mut ops = eventually("the console", console).await;
    assert_eq!(ops.query("SHOW POOLS").await.code(), None);
    drop(links);
    let mut next = eventually("a login", || async { proxy.login("globex_app", &[]).await.ok() }).await;
    assert_eq!(next.query("SELECT 1").await.value(), "1");
    assert!(!proxy.log().contains("Too many open files"), "{}", proxy.log());
}
