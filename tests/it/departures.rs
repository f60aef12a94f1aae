//! Departures and deaths: a client that goes leaves nothing behind, a server that dies is replaced, and
//! nobody waits longer than promised.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Cluster, Proxy, message, process, within};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";
const BUSY: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";

async fn one_server() -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("defaults.queue_timeout", "10s");
    })
    .await;
    (cluster, proxy)
}

// === clients that leave ===

#[tokio::test]
async fn a_client_that_vanishes_frees_its_server_at_once_and_leaves_nothing() {
    let (cluster, proxy) = one_server().await;
    let insert = "INSERT INTO notes (body) VALUES ('orphan')";
    let batch = message::unnamed(insert, &[]);
    let partings: [(&str, Vec<u8>, Option<u8>); 11] = [
        ("before it asks", vec![], None),
        ("mid-transaction", [message::query("BEGIN"), message::query(insert)].concat(), Some(b'C')),
        (
            "in a failed transaction",
            [message::query("BEGIN"), message::query("SELECT 1/0")].concat(),
            Some(b'E'),
        ),
        ("mid-query", message::query(&format!("{insert}; SELECT pg_sleep(60)")), None),
        (
            "mid-result",
            message::query("SELECT repeat('x', 10000) FROM generate_series(1, 100000)"),
            Some(b'D'),
        ),
        ("without Sync", [batch.clone(), message::flush()].concat(), Some(b'C')),
        ("without Sync and unflushed", batch, None),
        (
            "in an error without Sync",
            [message::unnamed("SELECT 1/0", &[]), message::flush()].concat(),
            Some(b'E'),
        ),
        (
            "mid-COPY in",
            [message::query("COPY imports FROM STDIN"), message::copy_data("orphan\n")].concat(),
            Some(b'G'),
        ),
        (
            "mid-COPY out",
            message::query("COPY (SELECT repeat('x', 10000) FROM generate_series(1, 100000)) TO STDOUT"),
            Some(b'd'),
        ),
        ("mid-message", message::query(insert)[..20].to_vec(), None),
    ];
    let mut next = proxy.link("globex_app").await;
    for (what, bytes, reached) in partings {
        for polite in ["Terminate", "nothing"] {
            let mut link = proxy.link("acme_app").await;
            link.send(&bytes).await;
            if let Some(tag) = reached {
                link.until(tag).await;
            }
            if polite == "Terminate" && what != "mid-message" {
                drop(link.try_send(message::terminate()).await);
            }
            drop(link);
            let before = Instant::now();
            assert_eq!(next.query("SELECT 1").await, ONE, "{what}, {polite}");
            assert!(before.elapsed() < Duration::from_secs(5), "{what}, {polite}: {:?}", before.elapsed());
            let who = next.query("SELECT string_agg(DISTINCT tenant_id, ',') FROM notes").await;
            assert_eq!(who.value(), "globex", "{what}, {polite}");
        }
    }
    next.leave().await;
    proxy.comes_to_rest().await;
    cluster.settles(BUSY, "0").await;
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'orphan'").await, "0");
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
}

#[tokio::test]
async fn the_query_of_a_client_that_vanished_is_cancelled() {
    let (cluster, proxy) = one_server().await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let mut link = proxy.link("acme_app").await;
    link.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles(sleeping, "1").await;
    drop(link);
    let before = Instant::now();
    cluster.settles(sleeping, "0").await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    proxy.comes_to_rest().await;
}

/// Catches every cancel request.
const STUBBORN: &str = "DO $$ BEGIN FOR i IN 1..1000 LOOP BEGIN PERFORM pg_sleep(60); \
                        EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$";

#[tokio::test]
async fn an_unstoppable_server_gives_its_place_back_and_costs_its_tenant() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.lenient();
        config.one_server();
        config.set("defaults.max_servers", 1);
        config.set("defaults.queue_timeout", "18s");
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    let process = link.query("SELECT pg_backend_pid()").await.value().parse().unwrap();
    link.send(message::query("SELECT pg_sleep(600)")).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    cluster.settles(sleeping, "1").await;
    // It hears of nothing.
    process::signal(process, "STOP");
    drop(link);
    // The one place is another tenant's after ten seconds, and not that tenant's.
    let mut other = proxy.link("globex_app").await;
    assert_eq!(other.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value(sleeping).await, "1", "it runs still");
    let mut own = proxy.link("acme_app").await;
    assert_eq!(
        own.query("SELECT 1").await.code().as_deref(),
        Some("53300"),
        "one server is all that it may have"
    );
    assert_eq!(other.query("SELECT 1").await, ONE);
    process::signal(process, "CONT");
    cluster.settles(sleeping, "0").await;
    assert_eq!(own.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn what_vanished_clients_left_running_counts_until_it_has_ended() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.lenient();
        config.set("upstream.main.pool_size", 2);
        config.set("defaults.queue_timeout", "30s");
    })
    .await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    for statement in ["SELECT pg_sleep(60)", STUBBORN] {
        for _ in 0..3 {
            let mut links = [proxy.link("acme_app").await, proxy.link("globex_app").await];
            for link in &mut links {
                link.send(message::query(statement)).await;
            }
            cluster.settles(sleeping, "2").await;
            drop(links);
            assert!(cluster.connections("app").await <= 2, "{statement}");
        }
        assert_eq!(proxy.link("initech_app").await.query("SELECT 1").await, ONE, "{statement}");
        assert!(cluster.connections("app").await <= 2, "{statement}");
        cluster.settles(BUSY, "0").await;
    }
    // The cancel request may come before the statement.
    for patience in 0..20 {
        let mut link = proxy.link("acme_app").await;
        link.query("SELECT 1").await;
        link.send(message::query("SELECT pg_sleep(60)")).await;
        tokio::time::sleep(Duration::from_micros(100 * patience)).await;
        drop(link);
        assert!(cluster.connections("app").await <= 2, "after {patience}");
    }
    cluster.settles(BUSY, "0").await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_waiting_gives_its_place_in_the_line_up() {
    let (cluster, proxy) = one_server().await;
    let mut holder = proxy.link("globex_app").await;
    holder.hold().await;
    for _ in 0..5 {
        let mut waiting = proxy.link("acme_app").await;
        waiting.send(message::query("INSERT INTO imports VALUES ('orphan')")).await;
    }
    let mut patient = proxy.link("initech_app").await;
    patient.send(message::query("SELECT 1")).await;
    proxy.measures("pgtenant_clients", &[], 2.0).await;
    assert_eq!(holder.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(patient.answer().await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0", "nobody's statement is not run");
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_still_gets_its_transaction_ended() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    link.hold().await;
    link.query("INSERT INTO notes (body) VALUES ('orphan')").await;
    link.shut().await;
    link.closes().await;
    assert_eq!(proxy.link("globex_app").await.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'orphan'").await, "0");
}

#[tokio::test]
async fn nothing_sent_ahead_runs_without_the_transaction_before_it() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set_tenant("acme", "queue_timeout", "400ms");
    })
    .await;
    let sent_ahead = "INSERT INTO notes (body) VALUES ('ahead')";
    for how in ["simple", "extended"] {
        let one = |text| match how {
            "simple" => message::query(text),
            _ => [message::unnamed(text, &[]), message::sync()].concat(),
        };
        let bytes = |first| [one(first), one(sent_ahead)].concat();
        // No server becomes free in time for the first, but one does for what follows.
        let mut holder = proxy.link("globex_app").await;
        holder.hold().await;
        let mut waiting = proxy.link("acme_app").await;
        waiting.send(bytes("SELECT 1")).await;
        let refused = waiting.frame("the refusal").await;
        assert_eq!(refused.tag, b'E', "{how}");
        holder.query("COMMIT").await;
        let end = waiting.closes().await;
        assert_eq!(end.code().as_deref(), Some("53300"), "{how}: {end}");

        // The server is lost in the middle of the transaction, while the client is silent.
        let mut silent = proxy.link("acme_app").await;
        silent.hold().await;
        cluster.kill_servers().await;
        drop(silent.try_send(bytes(sent_ahead)).await);
        let end = silent.closes().await;
        assert_eq!(end.code().as_deref(), Some("57P01"), "{how}: {end}");

        // The context cannot be entered at the hand-over, and the server not be replaced.
        let mut lost = proxy.link("acme_app").await;
        lost.query("SELECT 1").await;
        proxy.link("globex_app").await.query("SELECT 1").await;
        let broken = "REVOKE EXECUTE ON FUNCTION pg_advisory_unlock_all FROM PUBLIC; ALTER ROLE app NOLOGIN";
        cluster.execute(broken).await;
        lost.send(bytes(sent_ahead)).await;
        let end = lost.closes().await;
        cluster
            .execute("GRANT EXECUTE ON FUNCTION pg_advisory_unlock_all TO PUBLIC; ALTER ROLE app LOGIN")
            .await;
        assert_eq!(end.code().as_deref(), Some("08006"), "{how}: {end}");
    }
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'ahead'").await, "0");
}

// === servers that die ===

#[tokio::test]
async fn a_server_that_died_idle_is_never_noticed() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    for _ in 0..5 {
        assert_eq!(link.query("SELECT 1").await, ONE);
        cluster.kill_servers().await;
        assert_eq!(link.extended("SELECT 1", &[]).await, "1 2 T(?column?) D(1) C(SELECT 1) Z(I)");
        cluster.kill_servers().await;
    }
    assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
    assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
}

#[tokio::test]
async fn a_server_that_dies_mid_query_is_a_clear_error_and_the_next_query_works() {
    let (cluster, proxy) = one_server().await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let mut link = proxy.link("acme_app").await;
    let deaths: [(&str, Vec<u8>); 3] = [
        ("simple", message::query("SELECT pg_sleep(60)")),
        ("extended", [message::unnamed("SELECT pg_sleep(60)", &[]), message::sync()].concat()),
        ("in a transaction", message::query("BEGIN; SELECT pg_sleep(60)")),
    ];
    for (what, bytes) in deaths {
        link.send(bytes).await;
        cluster.settles(sleeping, "1").await;
        cluster.kill_servers().await;
        let answer = link.answer().await.without(b"TC12n");
        assert_eq!(answer, "E(08006) Z(I)", "{what}");
        assert_eq!(link.query("SELECT 1").await, ONE, "{what}");
    }
    let mut other = proxy.link("globex_app").await;
    let who = other.query("SELECT string_agg(DISTINCT tenant_id, ',') FROM notes").await;
    assert_eq!(who.value(), "globex");
}

#[tokio::test]
async fn a_transaction_whose_server_died_between_statements_is_reported_lost() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    link.hold().await;
    link.query("INSERT INTO notes (body) VALUES ('lost')").await;
    cluster.kill_servers().await;
    // The client is told what PostgreSQL said, and the rest of the transaction is never run on another server.
    drop(link.try_send(message::query("INSERT INTO notes (body) VALUES ('rest')")).await);
    let end = link.closes().await;
    assert_eq!(end.code().as_deref(), Some("57P01"), "{end}");
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body IN ('lost', 'rest')").await, "0");
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn a_restart_of_postgresql_is_survived() {
    let (mut cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query("SELECT 1").await, ONE);
    cluster.crash();
    let refused = link.query("SELECT 1").await;
    assert!(matches!(refused.code().as_deref(), Some("08001" | "08006")), "{refused}");
    assert_eq!(refused.0.last().unwrap().to_string(), "Z(I)", "the client is kept: {refused}");
    cluster.boot().await;
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_said_to_be_so_in_time() {
    let cluster = Cluster::start().await;
    let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nowhere.local_addr().unwrap().to_string();
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.hosts", vec![address.clone()]);
        config.set("upstream.main.connect_timeout", "500ms");
        config.set("defaults.queue_timeout", "2s");
    })
    .await;
    let before = Instant::now();
    // Refused at login or at the first statement: both are told in the upstream's class.
    let code = match proxy.login("acme_app", &[]).await {
        Err(fault) => Some(fault.code),
        Ok(mut link) => link.query("SELECT 1").await.code(),
    };
    assert!(matches!(code.as_deref(), Some("08001" | "08006" | "53300")), "{code:?}");
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
}

// === waiting ===

#[tokio::test]
async fn waiting_for_a_server_ends_with_53300_when_the_time_is_up() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("defaults.queue_timeout", "400ms");
    })
    .await;
    let mut holder = proxy.link("globex_app").await;
    holder.hold().await;
    let mut waiting = proxy.link("acme_app").await;
    for batch in [message::query("SELECT 1"), [message::unnamed("SELECT 1", &[]), message::sync()].concat()] {
        let before = Instant::now();
        let answer = waiting.ask(batch).await;
        let took = before.elapsed();
        assert_eq!(answer, "E(53300) Z(I)");
        assert!(took >= Duration::from_millis(350) && took < Duration::from_secs(4), "{took:?}");
    }
    holder.query("COMMIT").await;
    assert_eq!(waiting.query("SELECT 1").await, ONE);
    let waited = proxy.metrics().await.sum("pgtenant_queue_wait_seconds_sum", &[("tenant", "acme")]);
    assert!(waited >= 0.35, "the waiting is measured: {waited}");
}

#[tokio::test]
async fn a_tenant_at_its_own_server_limit_waits_while_others_are_served() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set_tenant("acme", "max_servers", 1);
        config.set_tenant("acme", "queue_timeout", "400ms");
    })
    .await;
    let mut first = proxy.link("acme_app").await;
    first.hold().await;
    let mut second = proxy.link("acme_app").await;
    assert_eq!(second.query("SELECT 1").await, "E(53300) Z(I)");
    assert_eq!(proxy.link("globex_app").await.query("SELECT 1").await, ONE);
    first.query("COMMIT").await;
    assert_eq!(second.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn the_pool_never_grows_beyond_its_size_and_serves_everyone() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.pool_size", 3);
        config.set("defaults.queue_timeout", "19s");
    })
    .await;
    let mut links = Vec::new();
    for number in 0..30 {
        let mut link = proxy.link(["acme_app", "globex_app", "initech_app"][number % 3]).await;
        link.send(message::query("SELECT pg_sleep(0.05), 'done' AS done")).await;
        links.push(link);
    }
    assert!(cluster.connections("app").await <= 3);
    for link in &mut links {
        assert_eq!(link.answer().await.code(), None);
    }
    assert!(cluster.connections("app").await <= 3);
    assert_eq!(proxy.metrics().await.sum("pgtenant_servers", &[("upstream", "main")]), 3.0);
}

#[tokio::test]
async fn a_statement_beyond_its_time_is_ended_with_57014() {
    let cluster = Cluster::start().await;
    let proxy =
        Proxy::start(&cluster, |config| config.set_tenant("acme", "statement_timeout", "400ms")).await;
    let mut link = proxy.link("acme_app").await;
    let before = Instant::now();
    assert_eq!(link.query("SELECT pg_sleep(30)").await.code().as_deref(), Some("57014"));
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(link.query("SELECT 1").await, ONE);
    let free = proxy.link("globex_app").await.query("SELECT pg_sleep(0.6), 'done' AS done").await;
    assert_eq!(free.code(), None, "the limit is acme's own");
}

#[tokio::test]
async fn no_statement_outlasts_its_time_by_missing_or_catching_the_cancel() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.lenient();
        config.one_server();
        config.set("defaults.queue_timeout", "30s");
        config.set_tenant("acme", "statement_timeout", "400ms");
    })
    .await;
    let mut late = proxy.link("acme_app").await;
    late.send(message::parse("", "SELECT pg_sleep(60)")).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    late.send([message::bind("", "", &[]), message::execute("", 0), message::sync()].concat()).await;
    let answer = within("the end of a late statement", late.answer()).await;
    assert_eq!(answer.code().as_deref(), Some("57014"), "{answer}");
    assert_eq!(late.query("SELECT 1").await, ONE);

    let mut stubborn = proxy.link("acme_app").await;
    stubborn.send(message::query(STUBBORN)).await;
    let answer = within("the end of a stubborn statement", stubborn.answer()).await;
    // A DO block may have committed.
    assert_eq!(answer.code().as_deref(), Some("08007"), "{answer}");
    assert!(answer.fault().detail.unwrap().contains("statement timeout"));
    assert_eq!(stubborn.query("SELECT 1").await, ONE);

    // Not even begun: it holds a server all the same.
    let mut silent = proxy.link("acme_app").await;
    silent.send([message::parse("", "SELECT 1"), message::flush()].concat()).await;
    assert_eq!(within("the server", proxy.link("globex_app").await.query("SELECT 1")).await, ONE);
    cluster.settles(BUSY, "0").await;
}

#[tokio::test]
async fn a_client_idle_in_its_transaction_beyond_its_time_is_put_out_with_25p03() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set_tenant("acme", "idle_transaction_timeout", "400ms");
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    link.hold().await;
    link.query("INSERT INTO notes (body) VALUES ('idle')").await;
    let last = link.until(b'E').await;
    assert_eq!(last.code().as_deref(), Some("25P03"), "{last}");
    assert_eq!(proxy.link("globex_app").await.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'idle'").await, "0");
}
