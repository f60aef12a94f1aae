//! Clients that keep their server: the context is entered again where it was lost, and nothing of the session is reset.

use crate::protect::{KEY, install, sealed};
use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

/// Statements behind which the register of a sealed context is empty, or may be.
const LOSES: [&str; 4] = [
    "DISCARD SEQUENCES",
    "SELECT lastval()",
    "DO $$ BEGIN RAISE SQLSTATE '28000'; END $$",
    "BEGIN; SELECT lastval()",
];

async fn stage(context: &str, mode: &str) -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    if context == "sealed" {
        install(&cluster);
    }
    let proxy = Proxy::start(&cluster, |config| {
        if context == "sealed" {
            sealed(config, KEY);
        }
        config.set("tenancy.guard", "off");
        config.set("tenancy.allow_unsafe", true);
        config.set("upstream.main.pool_size", 2);
        config.set_user("acme_app", "pool_mode", mode);
    })
    .await;
    (cluster, proxy)
}

async fn keeps(link: &mut Link, statement: &str) {
    assert_eq!(link.query("SELECT a FROM mine").await.value(), "1", "{statement}");
    assert_eq!(link.query("SHOW work_mem").await.value(), "7MB", "{statement}");
    assert_eq!(link.query("EXECUTE own").await.value(), "acme", "{statement}");
    assert_eq!(link.query(WHO).await.value(), "acme", "{statement}");
}

#[tokio::test]
async fn a_kept_server_keeps_its_session_when_the_context_is_lost() {
    for (context, mode) in [("plain", "transaction"), ("sealed", "transaction"), ("sealed", "session")] {
        let (_cluster, proxy) = stage(context, mode).await;
        let mut link = proxy.link("acme_app").await;
        for made in [
            "CREATE TEMP TABLE mine AS SELECT 1 AS a",
            "SET work_mem = '7MB'",
            "PREPARE own AS SELECT DISTINCT tenant_id FROM notes",
            "LISTEN news",
        ] {
            assert!(link.query(made).await.code().is_none(), "{made}");
        }
        keeps(&mut link, "at first").await;
        let process = link.query("SELECT pg_backend_pid()").await.value();
        for statement in LOSES {
            link.query(statement).await;
            if statement.starts_with("BEGIN") {
                link.query("ROLLBACK").await;
            }
            keeps(&mut link, statement).await;
            // By the extended protocol too.
            link.query(statement).await;
            if statement.starts_with("BEGIN") {
                link.query("ROLLBACK").await;
            }
            assert_eq!(link.extended("SELECT a FROM mine", &[]).await.value(), "1", "{statement}");
        }
        assert_eq!(link.query("SELECT pg_backend_pid()").await.value(), process);
        link.send(message::query("NOTIFY news, 'heard'")).await;
        assert!(link.answer().await.0.iter().any(|frame| frame.tag == b'A'), "it still listens");
    }
}

#[tokio::test]
async fn what_postgresql_says_of_a_text_reaches_its_client() {
    let (_cluster, proxy) = stage("plain", "transaction").await;
    let long = "SELECT 1 AS ".to_owned() + &"x".repeat(80);
    for _ in 0..2 {
        // Behind a hand-over, behind an assertion, and behind a BEGIN that waits.
        let mut link = proxy.link("globex_app").await;
        for (number, front) in ["", "", "BEGIN"].into_iter().enumerate() {
            if !front.is_empty() {
                link.query(front).await;
            }
            let answer = link.query(&long).await;
            let notices: Vec<_> = answer.0.iter().filter(|frame| frame.tag == b'N').collect();
            assert_eq!(notices.len(), 1, "{number}: {answer:?}");
            assert_eq!(notices[0].fault().code, "42622", "{number}");
        }
        link.query("ROLLBACK").await;
    }
}

/// The next client needs the reset, for it has another's settings, and nothing at all to set.
#[tokio::test]
async fn a_time_limit_that_was_left_on_a_server_is_no_maintenance_users_error() {
    let cluster = Cluster::postgres18().await;
    let proxy = Proxy::start(&cluster, Config::one_server).await;
    for limit in ["transaction_timeout", "idle_session_timeout", "statement_timeout"] {
        for _ in 0..30 {
            let mut leaves = proxy.link("migrate").await;
            let mut next = proxy.link("migrate").await;
            leaves.query(&format!("SET {limit} = 1")).await;
            assert_eq!(next.query("SELECT 1").await.value(), "1", "{limit}");
            assert_eq!(next.query(&format!("SHOW {limit}")).await.value(), "0");
        }
    }
}

#[tokio::test]
async fn a_time_limit_that_was_left_on_a_server_is_nobodys_error() {
    let cluster = Cluster::postgres18().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("tenancy.guard", "off");
        config.set("tenancy.allow_unsafe", true);
    })
    .await;
    for (limit, value) in
        [("transaction_timeout", "1"), ("idle_session_timeout", "1"), ("statement_timeout", "1")]
    {
        for _ in 0..20 {
            let mut leaves = proxy.link("acme_app").await;
            leaves.query(&format!("SET {limit} = {value}")).await;
            drop(leaves);
            let mut next = proxy.link("globex_app").await;
            assert_eq!(next.query("SELECT 1").await.value(), "1", "{limit}");
            assert_eq!(next.query(WHO).await.value(), "globex", "{limit}");
        }
    }
}
