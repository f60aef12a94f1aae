//! What a request waits for: a paused tenant, a gate that is shut, a pool that is full. One limit holds for all of it, and
//! none is none.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, message, within};

/// What a request may wait.
const LIMIT: Duration = Duration::from_secs(3);
/// How long each of three things lasts.
const STEP: Duration = Duration::from_millis(1200);

fn with_operator(config: &mut Config) {
    config.one_server();
    config.add_user("ops", "operator", true);
}

async fn console(proxy: &Proxy) -> Link {
    proxy.link_with("ops", &[("database", "pgtenant")]).await
}

/// Has a client's request held back by its paused tenant, then by the gate, then by the pool; returns when it was sent.
async fn held_back_three_times(ops: &mut Link, waiting: &mut Link) -> Instant {
    assert_eq!(ops.query("PAUSE TENANT acme").await, "C(PAUSE) Z(I)");
    // Answered when nothing is under way any more, but shut at once.
    ops.send(message::query("PAUSE")).await;
    let sent = Instant::now();
    waiting.send(message::query("SELECT 1")).await;
    assert!(ops.stays_silent(STEP).await, "a transaction is under way");
    sent
}

#[tokio::test]
async fn a_request_waits_once_for_all_that_keeps_it() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.set_tenant("acme", "queue_timeout", "3s");
    })
    .await;
    let mut holder = proxy.link("globex_app").await;
    let mut waiting = proxy.link("acme_app").await;
    let (mut ops, mut second) = (console(&proxy).await, console(&proxy).await);
    holder.hold().await;
    let sent = held_back_three_times(&mut ops, &mut waiting).await;
    assert_eq!(second.query("RESUME TENANT acme").await, "C(RESUME) Z(I)");
    sleep_until(sent + 2 * STEP).await;
    assert!(waiting.stays_silent(Duration::from_millis(1)).await);
    assert_eq!(second.query("RESUME").await, "C(RESUME) Z(I)");
    assert_eq!(within("the refusal", waiting.answer()).await, "E(53300) Z(I)");
    let took = sent.elapsed();
    assert!(took + Duration::from_millis(50) >= LIMIT, "not before its time: {took:?}");
    assert!(took + Duration::from_millis(100) < LIMIT + STEP, "one limit for all: {took:?}");
    // The next request's time is its own.
    waiting.send(message::query("SELECT 2")).await;
    assert!(waiting.stays_silent(STEP).await);
    holder.query("COMMIT").await;
    assert_eq!(within("its turn", waiting.answer()).await.value(), "2");
}

#[tokio::test]
async fn without_a_limit_a_request_waits_for_as_long_as_it_takes() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.set("defaults.queue_timeout", "0s");
    })
    .await;
    let mut holder = proxy.link("globex_app").await;
    let mut waiting = proxy.link("acme_app").await;
    let (mut ops, mut second) = (console(&proxy).await, console(&proxy).await);
    holder.hold().await;
    held_back_three_times(&mut ops, &mut waiting).await;
    assert_eq!(second.query("RESUME TENANT acme").await, "C(RESUME) Z(I)");
    assert!(waiting.stays_silent(Duration::from_millis(300)).await, "at the gate");
    assert_eq!(second.query("RESUME").await, "C(RESUME) Z(I)");
    assert!(waiting.stays_silent(Duration::from_millis(300)).await, "in line");
    holder.query("COMMIT").await;
    assert_eq!(within("its turn", waiting.answer()).await.value(), "1");
    // It may still be cancelled and leave.
    holder.hold().await;
    waiting.send(message::query("SELECT 1")).await;
    assert!(waiting.stays_silent(Duration::from_millis(300)).await);
    waiting.cancel().await;
    assert_eq!(waiting.answer().await, "E(57014) Z(I)");
}

#[tokio::test]
async fn without_a_limit_a_login_and_a_move_wait_too() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.set("defaults.queue_timeout", "0s");
    })
    .await;
    let mut ops = console(&proxy).await;
    let mut holder = proxy.link("acme_app").await;
    holder.hold().await;
    // Parameters that nobody has asked for yet have a login ask a server.
    {
        let login = proxy.login("globex_app", &[("timezone", "Asia/Tokyo")]);
        let mut login = std::pin::pin!(login);
        assert!(tokio::time::timeout(Duration::from_millis(400), login.as_mut()).await.is_err(), "it waits");
        assert_eq!(holder.query("COMMIT").await, "C(COMMIT) Z(I)");
        assert!(within("the login", login).await.is_ok());
    }
    let mut open = proxy.link("acme_app").await;
    open.hold().await;
    proxy.write(|config| {
        config.set_tenant("acme", "isolation", "database");
        config.set_tenant("acme", "database", "app");
    });
    ops.send(message::query("MOVE TENANT acme TO DATABASE")).await;
    assert!(ops.stays_silent(Duration::from_millis(400)).await, "a transaction is under way");
    assert_eq!(open.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(within("the move", ops.answer()).await, "C(MOVE) Z(I)");
}

#[tokio::test]
async fn an_idle_connection_of_another_pool_is_closed_for_a_waiting_client() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("upstream.main.max_connections", 1);
        config.set("upstream.main.connect_timeout", "15s");
    })
    .await;
    let mut holder = proxy.link("acme_app").await;
    let mut other = proxy.link("migrate").await;
    holder.hold().await;
    // Another role is another pool.
    other.send(message::query("SELECT 1")).await;
    assert!(other.stays_silent(Duration::from_millis(300)).await, "there is one connection for both pools");
    assert_eq!(holder.query("COMMIT").await, "C(COMMIT) Z(I)");
    let before = Instant::now();
    assert_eq!(within("its connection", other.answer()).await.value(), "1");
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test]
async fn a_message_begun_behind_an_answered_one_keeps_no_server() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, Config::one_server).await;
    for (user, next) in [("acme_app", "globex_app"), ("migrate", "migrate")] {
        let (mut one, mut other) = (proxy.link(user).await, proxy.link(next).await);
        for begun in [
            message::query("SELECT 2"),
            [message::unnamed("SELECT 2", &[]), message::sync()].concat(),
            message::copy_data("late"),
            message::sync(),
        ] {
            // In front of the end of the first message, which begins a segment.
            for length in [1, 4, 5, 6, 9].into_iter().filter(|length| *length < begun.len()) {
                one.send([message::query("SELECT 1"), begun[..length].to_vec()].concat()).await;
                assert_eq!(one.answer().await.value(), "1");
                let answer = within("the other client's answer", other.query("SELECT 3")).await;
                assert_eq!(answer.value(), "3", "{user}, {length} of {begun:?}");
                one.send(&begun[length..]).await;
                match begun[0] {
                    b'Q' | b'P' => assert_eq!(one.answer().await.value(), "2"),
                    b'S' => assert_eq!(one.answer().await, "Z(I)"),
                    _ => assert_eq!(one.query("SELECT 4").await.value(), "4"),
                }
            }
        }
    }
}
