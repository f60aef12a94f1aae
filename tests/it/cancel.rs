//! Cancel reaches the client's own running query, and nothing else.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::certificate::Certificate;
use crate::support::{Cluster, Link, Proxy, eventually, message};

const SLEEPING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

#[tokio::test]
async fn cancel_ends_the_clients_own_query_and_no_other() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut victim = proxy.link("acme_app").await;
    let mut others = Vec::new();
    for user in ["acme_app", "globex_app", "acme_app"] {
        let mut link = proxy.link(user).await;
        link.send(message::query("SELECT pg_sleep(3), 'done' AS done")).await;
        others.push(link);
    }
    victim.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles(SLEEPING, "4").await;
    let before = Instant::now();
    victim.cancel().await;
    assert_eq!(victim.answer().await.without(b"T"), "E(57014) Z(I)");
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(victim.query("SELECT 1").await, ONE, "the next query is not hit");
    for link in &mut others {
        assert_eq!(link.answer().await.code(), None, "somebody else's query died");
    }
}

#[tokio::test]
async fn cancelled_extended_queries_and_transactions_end_as_in_postgresql() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    link.send([message::unnamed("SELECT pg_sleep(60)", &[]), message::sync()].concat()).await;
    cluster.settles(SLEEPING, "1").await;
    link.cancel().await;
    assert_eq!(link.answer().await.without(b"T"), "1 2 E(57014) Z(I)");
    link.hold().await;
    link.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles(SLEEPING, "1").await;
    link.cancel().await;
    assert_eq!(link.answer().await.without(b"T"), "E(57014) Z(E)");
    assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
}

#[tokio::test]
async fn a_wrong_key_does_nothing_and_says_nothing() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    let stranger = proxy.link("globex_app").await;
    link.send(message::query("SELECT pg_sleep(1.5), 'done' AS done")).await;
    cluster.settles(SLEEPING, "1").await;
    let mut wrong = link.cancel_key.to_vec();
    wrong[0] ^= 1;
    link.cancel_with(link.process_id, &wrong).await;
    link.cancel_with(link.process_id, &[]).await;
    link.cancel_with(link.process_id, &[0; 4]).await;
    link.cancel_with(link.process_id, &[0; 256]).await;
    link.cancel_with(link.process_id, &stranger.cancel_key).await;
    link.cancel_with(stranger.process_id, &link.cancel_key).await;
    link.cancel_with(0, &link.cancel_key).await;
    stranger.cancel().await;
    let answer = link.answer().await;
    assert_eq!(answer.code(), None, "{answer}");
}

#[tokio::test]
async fn the_keys_are_our_own_and_differ_from_client_to_client() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10 {
        let mut link = proxy.link("acme_app").await;
        assert!(seen.insert((link.process_id, link.cancel_key.clone())), "a key was given twice");
        let server = link.query("SELECT pg_backend_pid()").await.value();
        assert_ne!(server, link.process_id.to_string(), "the server's own id was given out");
    }
}

#[tokio::test]
async fn cancel_while_idle_harms_neither_the_next_query_nor_another_client() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut idle = proxy.link("acme_app").await;
    idle.query("SELECT 1").await;
    let mut busy = proxy.link("globex_app").await;
    busy.send(message::query("SELECT pg_sleep(1), 'done' AS done")).await;
    cluster.settles(SLEEPING, "1").await;
    for _ in 0..5 {
        idle.cancel().await;
    }
    let answer = busy.answer().await;
    assert_eq!(answer.code(), None, "the server had changed hands: {answer}");
    assert_eq!(idle.query("SELECT 1").await, ONE);
    idle.hold().await;
    idle.cancel().await;
    assert_eq!(idle.query("SELECT 1").await.value(), "1", "idle inside a transaction");
    assert_eq!(idle.query("COMMIT").await, "C(COMMIT) Z(I)");
}

#[tokio::test]
async fn cancel_of_a_client_that_waits_for_a_server_ends_its_waiting() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("defaults.queue_timeout", "19s");
    })
    .await;
    let mut holder = proxy.link("globex_app").await;
    holder.hold().await;
    let mut waiting = proxy.link("acme_app").await;
    let before = Instant::now();
    waiting.send(message::query("INSERT INTO imports VALUES ('must not run')")).await;
    assert!(waiting.stays_silent(Duration::from_millis(200)).await, "it does wait");
    waiting.cancel().await;
    assert_eq!(waiting.answer().await, "E(57014) Z(I)");
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(holder.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(waiting.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
}

#[tokio::test]
async fn a_late_cancel_never_hits_the_next_query() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("acme_app").await;
    let mut next = proxy.link("globex_app").await;
    for round in 0..60 {
        link.send(message::query(&format!("SELECT pg_sleep(0.00{})", round % 10))).await;
        let (answer, ()) = {
            let process_id = link.process_id;
            let key = link.cancel_key.clone();
            let canceller = proxy.raw();
            let cancel = async {
                let mut canceller = canceller.await;
                let body = [&process_id.to_be_bytes()[..], &key].concat();
                canceller.send(message::packet(message::CANCEL_REQUEST, &body)).await;
                canceller.closes().await;
            };
            tokio::join!(link.answer(), cancel)
        };
        assert!(matches!(answer.code().as_deref(), None | Some("57014")), "{answer}");
        let answer = next.query("SELECT 1").await;
        assert_eq!(answer, ONE, "round {round}: the cancel arrived at the next tenant's query");
    }
}

#[tokio::test]
async fn a_cancel_whose_sender_does_not_wait_is_still_delivered() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let client = proxy.client("acme_app").await;
    let token = client.cancel_token();
    let query = tokio::spawn(async move { client.simple_query("SELECT pg_sleep(60)").await.err().unwrap() });
    cluster.settles(SLEEPING, "1").await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = crate::support::within("the cancelled query", query).await.unwrap();
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("57014"));
    eventually("the server to be idle", || async { (cluster.value(SLEEPING).await == "0").then_some(()) })
        .await;
}

#[tokio::test]
async fn cancels_do_not_count_as_clients_or_logins() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let link = proxy.link("acme_app").await;
    let before = proxy.metrics().await.sum("pgtenant_logins_total", &[]);
    for _ in 0..5 {
        link.cancel().await;
    }
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.sum("pgtenant_clients", &[]), 1.0);
    assert_eq!(metrics.sum("pgtenant_logins_total", &[]), before);
}

#[tokio::test]
async fn a_cancel_request_over_tls_does_the_same() {
    let cluster = Cluster::start().await;
    let certificate = Certificate::for_name("localhost");
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = certificate.write(directory.path());
    let proxy = Proxy::start(&cluster, |config| {
        config.set("listen.tls", "require");
        config.set("listen.certificate", chain.display().to_string());
        config.set("listen.private_key", key.display().to_string());
    })
    .await;
    let encrypted = || async {
        let mut link = Link::tcp(proxy.port()).await;
        assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
        link.tls(certificate.client(&[]), "localhost").await.unwrap()
    };
    let mut link = encrypted().await;
    link.startup(&[("user", "acme_app"), ("database", "app")]).await;
    link.authenticate("acme_app-secret").await.unwrap();
    link.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles(SLEEPING, "1").await;
    let mut sender = encrypted().await;
    let request = [&link.process_id.to_be_bytes()[..], &link.cancel_key].concat();
    sender.send(message::packet(message::CANCEL_REQUEST, &request)).await;
    assert_eq!(link.answer().await.without(b"T"), "E(57014) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    // In clear, as older libpq sends it also for an encrypted session.
    link.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles(SLEEPING, "1").await;
    link.cancel_with(link.process_id, &link.cancel_key.clone()).await;
    assert_eq!(link.answer().await.without(b"T"), "E(57014) Z(I)");
}

/// Many clients on few servers: each cancels every other statement of its own at a random moment, also while it waits
/// for a server and after its statement has ended.
#[tokio::test]
async fn under_a_storm_of_cancels_each_client_loses_its_own_statements_only() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("upstream.main.pool_size", 3)).await;
    let mut clients = Vec::new();
    for number in 0..12_u64 {
        let user = ["acme_app", "globex_app", "initech_app"][usize::try_from(number % 3).unwrap()];
        let link = proxy.link(user).await;
        clients.push(tokio::spawn(storm(number, link)));
    }
    let mut lost = 0;
    for client in clients {
        lost += client.await.unwrap();
    }
    assert!(lost > 10, "{lost} statements were hit, so the storm was none");
}

/// One client of the storm; how many of its statements were hit.
async fn storm(number: u64, mut link: Link) -> usize {
    let mut lost = 0;
    for round in 0..20_u64 {
        // The last one of three is left alone: nobody may cancel it.
        let cancels = round % 3 != 2;
        link.send(message::query("SELECT pg_sleep(0.02), 'done' AS done")).await;
        if cancels {
            tokio::time::sleep(Duration::from_millis((number * 7 + round * 3) % 40)).await;
            link.cancel().await;
        }
        let answer = link.answer().await;
        match answer.code().as_deref() {
            None => {}
            Some("57014") if cancels => lost += 1,
            _ => panic!("client {number}, round {round}: {answer}"),
        }
    }
    lost
}

#[tokio::test]
async fn in_one_transaction_a_second_statement_can_be_cancelled_too() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    link.hold().await;
    link.query("SAVEPOINT a").await;
    for _ in 0..3 {
        link.send(message::query("SELECT pg_sleep(60)")).await;
        cluster.settles(SLEEPING, "1").await;
        link.cancel().await;
        assert_eq!(link.answer().await.without(b"T"), "E(57014) Z(E)");
        assert_eq!(link.query("ROLLBACK TO a").await, "C(ROLLBACK) Z(T)");
    }
    assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
}
