//! It speaks the whole protocol: pipelines, prepared statements that follow their client from server to
//! server, portals, errors in every state, and results of any size in bounded memory.

use std::time::Duration;

use crate::support::{Cluster, Link, Proxy, message};

use message::{
    bind, close_portal, close_statement, describe_portal, describe_statement, execute, flush, parse, query,
};
use message::{rerun, sync, unnamed};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

async fn started() -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.lenient()).await;
    (cluster, proxy)
}

/// Holds one of two servers in a transaction, so that the next transaction has to use the other.
struct TwoServers {
    blocker: Link,
}

impl TwoServers {
    async fn new(cluster: &Cluster) -> (Proxy, Self) {
        let proxy = Proxy::start(cluster, |config| config.set("upstream.main.pool_size", 2)).await;
        let blocker = proxy.link("acme_app").await;
        (proxy, Self { blocker })
    }

    async fn hold(&mut self) {
        assert_eq!(self.blocker.query("BEGIN").await, "C(BEGIN) Z(T)");
    }

    async fn let_go(&mut self) {
        assert_eq!(self.blocker.query("COMMIT").await, "C(COMMIT) Z(I)");
    }
}

// === simple queries ===

#[tokio::test]
async fn simple_queries_answer_frame_by_frame_as_the_protocol_says() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let table = [
        ("", "I Z(I)"),
        ("  ; ;", "I Z(I)"),
        ("-- nothing", "I Z(I)"),
        ("SELECT 1 AS a, NULL AS b", "T(a,b) D(1,NULL) C(SELECT 1) Z(I)"),
        ("SELECT 1; SELECT 2", "T(?column?) D(1) C(SELECT 1) T(?column?) D(2) C(SELECT 1) Z(I)"),
        ("SELECT 1 WHERE false", "T(?column?) C(SELECT 0) Z(I)"),
        ("SELECT 1; SELECT 1/0; SELECT 2", "T(?column?) D(1) C(SELECT 1) T(?column?) E(22012) Z(I)"),
        ("no such command", "E(42601) Z(I)"),
        ("SELECT * FROM no_such", "E(42P01) Z(I)"),
        ("BEGIN", "C(BEGIN) Z(T)"),
        ("BEGIN", "N(25001) C(BEGIN) Z(T)"),
        ("SELECT 1/0", "T(?column?) E(22012) Z(E)"),
        ("SELECT 1", "E(25P02) Z(E)"),
        ("", "I Z(E)"),
        ("COMMIT", "C(ROLLBACK) Z(I)"),
        ("COMMIT", "N(25P01) C(COMMIT) Z(I)"),
        ("BEGIN; SELECT 1; COMMIT", "C(BEGIN) T(?column?) D(1) C(SELECT 1) C(COMMIT) Z(I)"),
        ("DO $$ BEGIN RAISE NOTICE 'hello'; END $$", "N(00000) C(DO) Z(I)"),
        ("SELECT 1", ONE),
    ];
    for (sql, expected) in table {
        // Whether the columns are described before a division fails is PostgreSQL's affair.
        let answer = link.query(sql).await;
        let (answer, expected) = if expected.contains("E(22012)") {
            (answer.without(b"T").to_string(), expected.replace("T(?column?) ", ""))
        } else {
            (answer.to_string(), expected.to_owned())
        };
        assert_eq!(answer, expected, "{sql}");
    }
}

#[tokio::test]
async fn simple_queries_may_be_sent_ahead() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let mut all = Vec::new();
    for number in 0..200 {
        all.extend(query(&format!("SELECT {number}")));
    }
    link.send(all).await;
    for number in 0..200 {
        assert_eq!(link.answer().await.value(), number.to_string());
    }
    let mixed = [
        query("SELECT 1/0"),
        unnamed("SELECT 'e'", &[]),
        sync(),
        query("BEGIN"),
        query("SELECT 's'"),
        query("COMMIT"),
    ];
    link.send(mixed.concat()).await;
    assert_eq!(link.answer().await.code().as_deref(), Some("22012"));
    assert_eq!(link.answer().await.value(), "e");
    assert_eq!(link.answer().await, "C(BEGIN) Z(T)");
    assert_eq!(link.answer().await.value(), "s");
    assert_eq!(link.answer().await, "C(COMMIT) Z(I)");
}

#[tokio::test]
async fn messages_may_arrive_one_byte_at_a_time() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    for byte in [query("SELECT 1"), unnamed("SELECT $1::text", &["x"]), sync()].concat() {
        link.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(link.answer().await, ONE);
    assert_eq!(link.answer().await, "1 2 T(text) D(x) C(SELECT 1) Z(I)");
}

// === extended queries ===

#[tokio::test]
async fn extended_batches_answer_frame_by_frame_as_the_protocol_says() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let table: [(&str, Vec<Vec<u8>>, &str); 17] = [
        ("nothing but Sync", vec![], "Z(I)"),
        ("unnamed", vec![unnamed("SELECT $1::int AS n", &["7"])], "1 2 T(n) D(7) C(SELECT 1) Z(I)"),
        (
            "describe a statement",
            vec![parse("", "SELECT $1::int AS n"), describe_statement("")],
            "1 t(23) T(n) Z(I)",
        ),
        (
            "no rows to describe",
            vec![parse("", "DELETE FROM notes WHERE false"), describe_statement("")],
            "1 t() n Z(I)",
        ),
        ("empty query", vec![unnamed("", &[])], "1 2 n I Z(I)"),
        (
            "a pipeline",
            vec![unnamed("SELECT 1", &[]), unnamed("SELECT 2", &[])],
            "1 2 T(?column?) D(1) C(SELECT 1) 1 2 T(?column?) D(2) C(SELECT 1) Z(I)",
        ),
        (
            "an error skips the rest",
            vec![unnamed("SELECT no", &[]), unnamed("SELECT 2", &[])],
            "E(42703) Z(I)",
        ),
        ("several statements", vec![parse("", "SELECT 1; SELECT 2")], "E(42601) Z(I)"),
        ("unknown statement", vec![bind("", "nope", &[])], "E(26000) Z(I)"),
        ("unknown statement described", vec![describe_statement("nope")], "E(26000) Z(I)"),
        ("unknown portal", vec![execute("nope", 0)], "E(34000) Z(I)"),
        ("closing what is not there", vec![close_statement("nope"), close_portal("nope")], "3 3 Z(I)"),
        ("begin", vec![unnamed("BEGIN", &[])], "1 2 n C(BEGIN) Z(T)"),
        ("inside", vec![unnamed("SELECT 1", &[])], "1 2 T(?column?) D(1) C(SELECT 1) Z(T)"),
        ("error inside", vec![unnamed("SELECT no", &[])], "E(42703) Z(E)"),
        ("refused inside", vec![unnamed("SELECT 1", &[])], "E(25P02) Z(E)"),
        ("rollback", vec![unnamed("ROLLBACK", &[])], "1 2 n C(ROLLBACK) Z(I)"),
    ];
    for (what, messages, expected) in table {
        assert_eq!(link.ask([messages.concat(), sync()].concat()).await, expected, "{what}");
    }
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn flush_brings_what_is_there_before_sync() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    link.send([parse("", "SELECT $1::text AS x"), describe_statement(""), flush()].concat()).await;
    assert_eq!(link.until(b'T').await, "1 t(25) T(x)");
    link.send([bind("", "", &["a"]), execute("", 0), flush()].concat()).await;
    assert_eq!(link.until(b'C').await, "2 D(a) C(SELECT 1)");
    link.send([bind("", "", &["b"]), execute("", 0), sync()].concat()).await;
    assert_eq!(link.answer().await, "2 D(b) C(SELECT 1) Z(I)");
}

#[tokio::test]
async fn after_an_error_everything_up_to_sync_is_skipped_even_what_comes_later() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    link.send([unnamed("SELECT 1/0", &[]), flush()].concat()).await;
    assert_eq!(link.until(b'E').await.code().as_deref(), Some("22012"));
    link.send([unnamed("INSERT INTO notes (body) VALUES ('skipped')", &[]), flush()].concat()).await;
    assert_eq!(link.ask(sync()).await, "Z(I)");
    assert_eq!(link.query("SELECT count(*) FROM notes WHERE body = 'skipped'").await.value(), "0");
}

#[tokio::test]
async fn a_batch_is_one_transaction_up_to_its_sync() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let insert = "INSERT INTO notes (body) VALUES ('undone')";
    let answer = link.ask([unnamed(insert, &[]), unnamed("SELECT no", &[]), sync()].concat()).await;
    assert_eq!(answer, "1 2 n C(INSERT 0 1) E(42703) Z(I)");
    assert_eq!(link.query("SELECT count(*) FROM notes WHERE body = 'undone'").await.value(), "0");
}

#[tokio::test]
async fn a_portal_with_a_row_limit_is_resumed_where_it_stopped() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let series = "SELECT generate_series(1, 5) AS n";
    let batch =
        [parse("", series), bind("", "", &[]), execute("", 2), execute("", 2), execute("", 2), sync()];
    let expected = "1 2 D(1) D(2) s D(3) D(4) s D(5) C(SELECT 1) Z(I)";
    assert_eq!(link.ask(batch.concat()).await, expected);

    link.send([parse("", series), bind("p", "", &[]), execute("p", 3), flush()].concat()).await;
    assert_eq!(link.until(b's').await, "1 2 D(1) D(2) D(3) s");
    assert_eq!(link.ask([execute("p", 0), sync()].concat()).await, "D(4) D(5) C(SELECT 2) Z(I)");

    link.query("BEGIN").await;
    let opened =
        link.ask([parse("", series), bind("kept", "", &[]), execute("kept", 1), sync()].concat()).await;
    assert_eq!(opened, "1 2 D(1) s Z(T)");
    assert_eq!(
        link.ask([execute("kept", 1), sync()].concat()).await,
        "D(2) s Z(T)",
        "it lives as long as its transaction"
    );
    assert_eq!(
        link.ask([describe_portal("kept"), close_portal("kept"), sync()].concat()).await,
        "T(n) 3 Z(T)"
    );
    assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(link.ask([execute("kept", 1), sync()].concat()).await, "E(34000) Z(I)");
}

#[tokio::test]
async fn the_unnamed_statement_outlives_its_sync() {
    let cluster = Cluster::start().await;
    let (proxy, mut servers) = TwoServers::new(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.ask([parse("", "SELECT $1::text AS x"), sync()].concat()).await, "1 Z(I)");
    assert_eq!(link.ask([rerun("", &["a"]), sync()].concat()).await, "2 D(a) C(SELECT 1) Z(I)");
    servers.hold().await;
    assert_eq!(link.ask([rerun("", &["b"]), sync()].concat()).await, "2 D(b) C(SELECT 1) Z(I)");
}

#[tokio::test]
async fn a_simple_query_forgets_the_unnamed_statement_as_postgresql_does() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    link.ask([parse("", "SELECT 'stale'"), sync()].concat()).await;
    link.query("SELECT 1").await;
    assert_eq!(link.ask([rerun("", &[]), sync()].concat()).await, "E(26000) Z(I)");
}

// === prepared statements ===

#[tokio::test]
async fn a_prepared_statement_works_on_whichever_server_comes() {
    let cluster = Cluster::start().await;
    let (proxy, mut servers) = TwoServers::new(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    let prepared =
        link.ask([parse("s", "SELECT $1::int + 1 AS n"), describe_statement("s"), sync()].concat()).await;
    assert_eq!(prepared, "1 t(23) T(n) Z(I)");
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..6 {
        if round % 2 == 0 {
            servers.hold().await;
        } else {
            servers.let_go().await;
        }
        let number = round.to_string();
        let answer = link.ask([rerun("s", &[&number]), sync()].concat()).await;
        assert_eq!(answer, format!("2 D({}) C(SELECT 1) Z(I)", round + 1).as_str());
        let described = link.ask([describe_statement("s"), sync()].concat()).await;
        assert_eq!(described, "t(23) T(n) Z(I)");
        seen.insert(link.query("SELECT pg_backend_pid()").await.value());
    }
    cluster.kill_servers().await;
    let answer = link.ask([rerun("s", &["9"]), sync()].concat()).await;
    assert_eq!(answer, "2 D(10) C(SELECT 1) Z(I)", "on a server that never saw it");
}

#[tokio::test]
async fn one_name_may_mean_different_things_to_different_clients() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut clients = Vec::new();
    for (number, user) in ["acme_app", "acme_app", "globex_app", "acme_app"].into_iter().enumerate() {
        let mut link = proxy.link(user).await;
        let sql = format!("SELECT 'client {number}' AS x");
        assert_eq!(link.ask([parse("s", &sql), sync()].concat()).await, "1 Z(I)");
        clients.push(link);
    }
    for _ in 0..5 {
        for (number, link) in clients.iter_mut().enumerate() {
            let answer = link.ask([rerun("s", &[]), sync()].concat()).await;
            assert_eq!(answer, format!("2 D(client {number}) C(SELECT 1) Z(I)").as_str());
        }
    }
    let closed = clients[0].ask([close_statement("s"), sync()].concat()).await;
    assert_eq!(closed, "3 Z(I)");
    assert_eq!(clients[0].ask([rerun("s", &[]), sync()].concat()).await, "E(26000) Z(I)");
    assert_eq!(
        clients[1].ask([rerun("s", &[]), sync()].concat()).await.value(),
        "client 1",
        "not the others'"
    );
}

#[tokio::test]
async fn a_name_can_be_used_again_after_close_and_not_before() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.ask([parse("s", "SELECT 1"), sync()].concat()).await, "1 Z(I)");
    assert_eq!(link.ask([parse("s", "SELECT 2"), sync()].concat()).await, "E(42P05) Z(I)");
    assert_eq!(link.ask([parse("s", "SELEKT"), sync()].concat()).await, "E(42601) Z(I)", "it is read first");
    assert_eq!(link.ask([rerun("s", &[]), sync()].concat()).await.value(), "1");
    let again = [close_statement("s"), parse("s", "SELECT 2"), rerun("s", &[]), sync()].concat();
    assert_eq!(link.ask(again).await, "3 1 2 D(2) C(SELECT 1) Z(I)");
}

#[tokio::test]
async fn a_failed_parse_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("acme_app").await;
    let mut other = proxy.link("acme_app").await;
    assert_eq!(link.ask([parse("s", "SELECT broken FROM"), sync()].concat()).await, "E(42601) Z(I)");
    assert_eq!(link.ask([rerun("s", &[]), sync()].concat()).await, "E(26000) Z(I)");
    assert_eq!(
        link.ask([parse("s", "SELECT 1 AS n"), rerun("s", &[]), sync()].concat()).await,
        "1 2 D(1) C(SELECT 1) Z(I)"
    );
    // Skipped, because something before it in the batch failed.
    let skipped = [unnamed("SELECT no", &[]), parse("t", "SELECT 2"), sync()].concat();
    assert_eq!(link.ask(skipped).await, "E(42703) Z(I)");
    assert_eq!(link.ask([rerun("t", &[]), sync()].concat()).await, "E(26000) Z(I)");
    // A table that did not exist for the first may exist for the next with the same text.
    let late = [parse("u", "SELECT * FROM late"), sync()].concat();
    assert_eq!(link.ask(&late).await, "E(42P01) Z(I)");
    cluster.execute("CREATE TABLE late (x int); GRANT SELECT ON late TO app").await;
    assert_eq!(other.ask(&late).await, "1 Z(I)");
    assert_eq!(link.ask(&late).await, "1 Z(I)");
}

#[tokio::test]
async fn a_refused_query_behind_a_failed_message_is_skipped_to_the_sync() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    link.ask([parse("", "SELECT 7"), sync()].concat()).await;
    let refused = query("SET ROLE app_owner");
    for skipped in [refused.clone(), message::function_call(2854), query("SELECT 1")] {
        let batch = [parse("s", "SELECT nope"), skipped, rerun("", &[]), sync()].concat();
        assert_eq!(link.ask(batch).await, "E(42703) Z(I)");
    }
    assert_eq!(link.ask([rerun("", &[]), sync()].concat()).await.value(), "7", "no Query was run");
    let behind = [unnamed("SELECT 1", &[]), refused].concat();
    assert_eq!(link.ask(behind).await, "1 2 T(?column?) D(1) C(SELECT 1) E(42501) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn an_extended_begin_is_the_first_statement_of_its_transaction() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat();
    assert_eq!(link.query("SELECT 1").await, ONE, "the context is in force");
    for (begin, tag) in [
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN"),
        ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION"),
    ] {
        assert_eq!(link.ask(run(begin)).await, format!("1 2 C({tag}) Z(T)").as_str());
        let own = link.query("SELECT current_setting('app.tenant_id')").await;
        assert_eq!(own.value(), "acme");
        assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
    }
    assert_eq!(link.ask(run("SET LOCAL work_mem = '6MB'")).await, "1 2 N(25P01) C(SET) Z(I)");
    assert_eq!(link.ask(run("SAVEPOINT a")).await, "1 2 E(25P01) Z(I)");
    // The unnamed statement is still the client's own.
    assert_eq!(link.ask([parse("", "SHOW search_path"), sync()].concat()).await, "1 Z(I)");
    assert_eq!(link.ask([rerun("", &[]), sync()].concat()).await.without(b"D"), "2 C(SHOW) Z(I)");
}

#[tokio::test]
async fn a_deallocate_among_other_statements_is_as_postgresql_runs_it() {
    let (cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let mut direct = cluster.link("acme").await;
    for frames in [
        [parse("s1", "SELECT 1"), parse("S \"2", "SELECT 2"), sync()].concat(),
        query("SELECT 1; DEALLOCATE s1; SELECT 2"),
        query("BEGIN; SELECT 1/0; DEALLOCATE \"S \"\"2\"; SELECT 2"),
        query("ROLLBACK; DEALLOCATE \"S \"\"2\"; DEALLOCATE \"S \"\"2\""),
        [rerun("s1", &[]), sync()].concat(),
        [rerun("S \"2", &[]), sync()].concat(),
        [parse("s1", "DEALLOCATE s1"), rerun("s1", &[]), sync()].concat(),
        [parse("d", "DEALLOCATE s1"), parse("s1", "SELECT 1"), rerun("d", &[]), sync()].concat(),
        [rerun("d", &[]), sync()].concat(),
    ] {
        let answer = direct.ask(frames.clone()).await.without(b"T").to_string();
        assert_eq!(link.ask(frames).await.without(b"T"), answer.as_str());
    }
}

#[tokio::test]
async fn discard_all_returns_to_the_startup_values_by_either_protocol() {
    let cluster = Cluster::start().await;
    for mode in ["transaction", "session"] {
        let proxy = Proxy::start(&cluster, |config| {
            config.lenient();
            for user in ["acme_app", "migrate"] {
                config.set_user(user, "pool_mode", mode);
            }
        })
        .await;
        for user in ["acme_app", "migrate"] {
            let mut link = proxy.link_with(user, &[("application_name", "mine")]).await;
            let name = link.query("SHOW application_name").await.value();
            let extended = [unnamed("DISCARD ALL", &[]), sync()].concat();
            for (discard, answer) in [
                (extended, "1 2 n C(DISCARD ALL) Z(I)"),
                (query("DISCARD ALL"), "C(DISCARD ALL) Z(I)"),
                (query("; DISCARD ALL"), "C(DISCARD ALL) Z(I)"),
            ] {
                link.query("SET work_mem = '5MB'").await;
                assert_eq!(link.query("SHOW work_mem").await.value(), "5MB", "{user} {mode}");
                assert_eq!(link.ask(discard).await, answer, "{user} {mode}");
                assert_eq!(link.query("SHOW work_mem").await.value(), "4MB", "{user} {mode}");
                assert_eq!(link.query("SHOW application_name").await.value(), name, "{user} {mode}");
            }
        }
    }
}

#[tokio::test]
async fn what_deallocate_all_and_discard_all_keep_is_what_postgresql_keeps() {
    let (cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let mut direct = cluster.link("acme").await;
    for all in ["DEALLOCATE ALL", "DISCARD ALL"] {
        for frames in [
            [parse("s", all), parse("", "SELECT 7"), sync()].concat(),
            [bind("a", "s", &[]), execute("a", 0), rerun("", &[]), sync()].concat(),
            [rerun("s", &[]), sync()].concat(),
            [rerun("", &[]), sync()].concat(),
            [parse("", all), bind("d", "", &[]), parse("t", "SELECT 8"), bind("o", "t", &[]), sync()]
                .concat(),
            [bind("o", "t", &[]), bind("d", "", &[]), execute("d", 0), execute("o", 0), sync()].concat(),
            [rerun("t", &[]), sync()].concat(),
            [parse("", all), bind("", "", &[]), execute("", 0), execute("", 0), sync()].concat(),
            query("BEGIN"),
            [parse("u", all), bind("", "u", &[]), execute("", 0), sync()].concat(),
            query("ROLLBACK"),
            query("DEALLOCATE ALL"),
        ] {
            let answer = direct.ask(frames.clone()).await.to_string();
            assert_eq!(link.ask(frames).await, answer.as_str(), "{all}");
        }
    }
}

#[tokio::test]
async fn a_query_behind_a_pipeline_leaves_the_next_client_a_sound_server() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        let proxy = Proxy::start(&cluster, |config| {
            config.lenient();
            config.one_server();
        })
        .await;
        for user in ["acme_app", "migrate"] {
            let mut first = proxy.link(user).await;
            let mut second = proxy.link(user).await;
            let begun = first.ask([unnamed("SELECT 1", &[]), query("SELECT 1")].concat()).await;
            assert_eq!(begun, "1 2 T(?column?) D(1) C(SELECT 1) T(?column?) D(1) C(SELECT 1) Z(I)");
            assert_eq!(first.ask(sync()).await, "Z(I)");
            assert_eq!(second.query("SELECT 1").await, ONE);
        }
    }
}

#[tokio::test]
async fn a_parse_that_is_rolled_back_is_kept_as_postgresql_keeps_it() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    link.query("BEGIN").await;
    link.ask([parse("s", "SELECT 'kept'"), sync()].concat()).await;
    link.query("ROLLBACK").await;
    assert_eq!(link.ask([rerun("s", &[]), sync()].concat()).await.value(), "kept");
}

#[tokio::test]
async fn more_statements_than_a_server_keeps_all_go_on_working() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("upstream.main.max_prepared", 10);
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    for number in 0..50 {
        let name = format!("s{number}");
        let batch = [parse(&name, &format!("SELECT {number}")), rerun(&name, &[]), sync()].concat();
        assert_eq!(link.ask(batch).await.value(), number.to_string());
    }
    for number in (0..50).rev() {
        let answer = link.ask([rerun(&format!("s{number}"), &[]), sync()].concat()).await;
        assert_eq!(answer.value(), number.to_string());
    }
    let mut batch = Vec::new();
    for number in 0..50 {
        batch.extend(rerun(&format!("s{number}"), &[]));
    }
    let all: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(
        link.ask([batch, sync()].concat()).await.column(),
        all,
        "more in one batch than the server keeps"
    );
    let kept: usize =
        link.query("SELECT count(*) FROM pg_prepared_statements").await.value().parse().unwrap();
    assert!(kept <= 11, "the server's cache is bounded: {kept}");
}

#[tokio::test]
async fn a_client_keeps_4096_named_statements_and_no_more() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    let mut batch: Vec<u8> = (0..4096).flat_map(|number| parse(&format!("s{number}"), "SELECT 1")).collect();
    batch.extend(sync());
    let answer = link.ask(batch).await;
    assert_eq!((answer.code(), answer.0.len()), (None, 4097), "{}", answer.0.last().unwrap());
    let one_more = [parse("more", "SELECT 1"), sync()].concat();
    assert_eq!(link.ask(one_more.clone()).await, "E(53400) Z(I)");
    assert_eq!(
        link.ask([rerun("s4095", &[]), sync()].concat()).await.value(),
        "1",
        "the others are still there"
    );
    assert_eq!(link.ask([close_statement("s7"), sync()].concat()).await, "3 Z(I)");
    assert_eq!(link.ask(one_more).await, "1 Z(I)");
}

#[tokio::test]
async fn deallocate_all_and_discard_all_forget_the_clients_statements() {
    let (_cluster, proxy) = started().await;
    for sql in ["DEALLOCATE ALL", "DISCARD ALL"] {
        let mut link = proxy.link("acme_app").await;
        link.ask([parse("s", "SELECT 1"), sync()].concat()).await;
        assert_eq!(link.query(sql).await.code(), None);
        assert_eq!(link.ask([rerun("s", &[]), sync()].concat()).await, "E(26000) Z(I)", "{sql}");
        assert_eq!(
            link.ask([parse("s", "SELECT 2"), rerun("s", &[]), sync()].concat()).await.value(),
            "2",
            "{sql}"
        );
    }
}

// === size ===

#[tokio::test]
async fn a_result_of_fifty_megabytes_streams_through_in_bounded_memory() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    link.query("SELECT 1").await;
    let before = proxy.resident_kib();
    link.send(query("SELECT repeat('x', 1000000) FROM generate_series(1, 50)")).await;
    let mut peak = before;
    let mut bytes = 0;
    loop {
        let frame = link.frame("a row").await;
        bytes += frame.body.len();
        peak = peak.max(proxy.resident_kib());
        if frame.tag == b'Z' {
            break;
        }
    }
    assert!(bytes > 50_000_000, "{bytes}");
    assert!(peak < before + 16 * 1024, "{before} KiB before, {peak} KiB at the most");
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_bounded_memory_and_blocks_no_other() {
    let (_cluster, proxy) = started().await;
    let mut lazy = proxy.link("acme_app").await;
    let mut busy = proxy.link("globex_app").await;
    busy.query("SELECT 1").await;
    let before = proxy.resident_kib();
    lazy.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 2000000)")).await;
    for _ in 0..200 {
        assert_eq!(busy.query("SELECT 1").await, ONE);
    }
    let after = proxy.resident_kib();
    assert!(after < before + 16 * 1024, "{before} KiB before, {after} KiB with 2 GB unread");
    assert_eq!(proxy.metrics().await.sum("pgtenant_servers", &[("state", "used")]), 1.0, "its one server");
}

#[tokio::test]
async fn a_client_that_floods_requests_without_reading_is_held_back() {
    let (_cluster, proxy) = started().await;
    let mut busy = proxy.link("globex_app").await;
    busy.query("SELECT 1").await;
    let before = proxy.resident_kib();
    for batch in
        [query("SELECT repeat('x', 1000)"), [unnamed("SELECT repeat('x', 1000)", &[]), sync()].concat()]
    {
        let mut flood = proxy.link("acme_app").await;
        let many = batch.repeat(1000);
        let mut sent = 0_usize;
        // The socket's own buffers take some megabytes; then nothing more goes in.
        let stopped = tokio::time::timeout(Duration::from_secs(3), async {
            while sent < 1_000_000_000 {
                flood.try_send(&many).await.unwrap();
                sent += many.len();
            }
        });
        assert!(stopped.await.is_err(), "{sent} bytes went in");
        assert_eq!(busy.query("SELECT 1").await, ONE);
        let after = proxy.resident_kib();
        assert!(
            after < before + 16 * 1024,
            "{before} KiB before, {after} KiB under the flood of {sent} bytes"
        );
    }
}

#[tokio::test]
async fn idle_clients_cost_a_few_kib_each() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("defaults.max_clients", 1000)).await;
    let mut links = Vec::new();
    let mut before = 0;
    for number in 0..150 {
        if number == 50 {
            before = proxy.resident_kib();
        }
        let mut link = proxy.link("acme_app").await;
        assert_eq!(link.query("SELECT 1").await, ONE, "client {number}");
        links.push(link);
    }
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 100 * 24, "100 more clients took {grown} KiB");
    for link in &mut links {
        assert_eq!(link.query("SELECT 1").await, ONE);
    }
}

#[tokio::test]
async fn values_around_the_sizes_of_buffers_pass_both_ways() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    for power in 10..22 {
        for length in [(1_usize << power) - 40, 1 << power, (1 << power) + 40] {
            let value = "x".repeat(length);
            let answer = link.ask([unnamed("SELECT length($1::text)", &[&value]), sync()].concat()).await;
            assert_eq!(answer.value(), length.to_string());
            assert_eq!(link.query(&format!("SELECT length('{value}')")).await.value(), length.to_string());
            let back = link.query(&format!("SELECT repeat('x', {length})")).await;
            assert_eq!(back.value().len(), length);
        }
    }
}

#[tokio::test]
async fn one_value_of_fifty_megabytes_passes_both_ways() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let value = "x".repeat(50_000_000);
    let answer =
        link.ask([unnamed("SELECT $1::text AS x, length($1::text) AS n", &[&value]), sync()].concat()).await;
    let row = answer.0.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{answer}")).values();
    assert_eq!((row[0].len(), row[1].as_str()), (50_000_000, "50000000"));
}

#[tokio::test]
async fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.max_message_bytes", 100_000)).await;
    let padded = |total: usize| query(&format!("SELECT 1 --{}", "x".repeat(total - "SELECT 1 --".len() - 6)));
    let mut link = proxy.link("acme_app").await;
    assert_eq!(padded(100_000).len(), 100_000);
    assert_eq!(link.ask(padded(100_000)).await, ONE);

    // Five bytes of tolerance: whether tag and length count is not promised.
    drop(link.try_send(padded(100_006)).await);
    let refusal = link.until(b'E').await;
    assert_eq!(refusal.code().as_deref(), Some("54000"));

    let mut link = proxy.link("acme_app").await;
    drop(link.try_send([&b"Q"[..], &0x7fff_ffff_u32.to_be_bytes()].concat()).await);
    let refusal = link.until(b'E').await;
    assert_eq!(refusal.code().as_deref(), Some("54000"), "by the length alone, nothing is waited for");
}

// === what is not the protocol ===

#[tokio::test]
async fn the_function_call_message_is_refused_and_the_session_goes_on() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let answer = link.ask(message::function_call(2078)).await;
    assert_eq!(answer.0.len(), 2, "{answer}");
    assert!(["0A000", "42501"].contains(&answer.fault().code.as_str()), "{answer}");
    assert_eq!(link.query("SELECT 1").await, ONE);
    link.query("BEGIN").await;
    let answer = link.ask(message::function_call(1598)).await;
    assert!(answer.code().is_some(), "{answer}");
    assert_eq!(link.query("ROLLBACK").await.0.last().unwrap().to_string(), "Z(I)");
}

#[tokio::test]
async fn bytes_that_are_not_the_protocol_end_the_session_with_08p01() {
    let (cluster, proxy) = started().await;
    let junk = [
        ("an unknown tag", message::raw(b'z', b"")),
        ("a length below four", vec![b'Q', 0, 0, 0, 3]),
        ("a negative length", vec![b'Q', 0xff, 0xff, 0xff, 0xff]),
        ("a query without end", message::raw(b'Q', b"SELECT 1")),
        ("bytes behind the query's end", message::raw(b'Q', b"SELECT 1\0SET ROLE x\0")),
        ("a Parse cut short", message::raw(b'P', b"s\0SELECT 1")),
        ("a Bind cut short", message::raw(b'B', b"\0")),
        ("a Describe of nothing", message::raw(b'D', b"X\0")),
        ("a Close of nothing", message::raw(b'C', b"")),
        ("an Execute cut short", message::raw(b'E', b"\0\0")),
        ("a password after login", message::raw(b'p', b"x\0")),
    ];
    for (what, bytes) in junk {
        let mut link = proxy.link("acme_app").await;
        drop(link.try_send(bytes).await);
        drop(link.try_send(sync()).await);
        let answer = link.until(b'Z').await;
        let code = answer.code();
        // PostgreSQL itself answers some of these with an error and goes on; both are fair.
        assert!(code.as_deref() == Some("08P01"), "{what}: {answer}");
    }
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query("SELECT 1").await, ONE);
    drop(cluster);
}

#[tokio::test]
async fn notices_and_changed_parameters_reach_the_client() {
    let (_cluster, proxy) = started().await;
    let mut link = proxy.link("acme_app").await;
    let answer = link.query("DO $$ BEGIN RAISE WARNING 'careful'; END $$").await;
    assert_eq!(answer, "N(01000) C(DO) Z(I)");
    let answer = link.query("BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'").await;
    assert_eq!(answer, "C(BEGIN) C(SET) S(TimeZone=Asia/Tokyo) Z(T)");
    let answer = link.query("ROLLBACK").await;
    assert_eq!(answer, "C(ROLLBACK) S(TimeZone=UTC) Z(I)");
}

#[tokio::test]
async fn nothing_of_the_proxys_own_is_ever_shown() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut acme = proxy.link_with("acme_app", &[("TimeZone", "Asia/Tokyo")]).await;
    let mut globex = proxy.link_with("globex_app", &[("DateStyle", "German")]).await;
    for _ in 0..10 {
        for link in [&mut acme, &mut globex] {
            assert_eq!(link.query("SELECT 1").await, ONE);
            assert_eq!(link.extended("SELECT 1", &[]).await, "1 2 T(?column?) D(1) C(SELECT 1) Z(I)");
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
            assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
            assert!(link.query("SELECT 1/0").await.without(b"T") == "E(22012) Z(I)");
        }
    }
    assert!(acme.stays_silent(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn sql_deallocate_ends_a_statement_that_the_protocol_prepared() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    for user in ["acme_app", "migrate"] {
        let mut link = proxy.link(user).await;
        let prepare = [parse("mine", "SELECT 42"), sync()].concat();
        let run = [rerun("mine", &[]), sync()].concat();
        assert_eq!(link.ask(&prepare).await, "1 Z(I)");
        assert_eq!(link.query("DEALLOCATE mine").await, "C(DEALLOCATE) Z(I)", "{user}");
        assert_eq!(link.ask(&run).await, "E(26000) Z(I)", "{user}");
        assert_eq!(link.query("DEALLOCATE mine").await, "E(26000) Z(I)", "{user}");
        assert_eq!(link.ask(&prepare).await, "1 Z(I)", "{user}");
        link.query("BEGIN").await;
        link.query("SELECT 1/0").await;
        assert_eq!(link.query("DEALLOCATE mine").await, "E(25P02) Z(E)", "{user}");
        link.query("ROLLBACK").await;
        assert_eq!(link.ask(&run).await, "2 D(42) C(SELECT 1) Z(I)", "{user}");
        let extended = [unnamed("DEALLOCATE PREPARE \"mine\"", &[]), sync()].concat();
        assert_eq!(link.ask(&extended).await, "1 2 n C(DEALLOCATE) Z(I)", "{user}");
        assert_eq!(link.ask(&run).await, "E(26000) Z(I)", "{user}");
        assert_eq!(link.ask(&prepare).await, "1 Z(I)", "{user}");
        assert_eq!(link.query("DEALLOCATE ALL").await, "C(DEALLOCATE ALL) Z(I)", "{user}");
        assert_eq!(link.ask(&run).await, "E(26000) Z(I)", "{user}");
        assert_eq!(link.query("SELECT 1").await.value(), "1");
    }
}

#[tokio::test]
async fn columns_that_changed_are_an_error_for_those_who_prepared_before() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    cluster
        .execute("CREATE TABLE things (a int); INSERT INTO things VALUES (1); GRANT SELECT ON things TO app")
        .await;
    let text = "SELECT * FROM things";
    let run = [bind("", "mine", &[]), describe_portal(""), execute("", 0), sync()].concat();
    let blind = [rerun("mine", &[]), sync()].concat();
    let mut old = proxy.link("acme_app").await;
    let prepared = old.ask([parse("mine", text), describe_statement("mine"), sync()].concat()).await;
    assert_eq!(prepared, "1 t() T(a) Z(I)");
    assert_eq!(old.ask(&run).await, "2 T(a) D(1) C(SELECT 1) Z(I)");
    cluster.execute("ALTER TABLE things ADD COLUMN b int").await;
    for _ in 0..2 {
        assert_eq!(old.ask(&run).await, "E(0A000) Z(I)");
        assert_eq!(old.ask(&blind).await, "E(0A000) Z(I)");
    }
    // Who prepares after the change does not suffer from what another client has prepared before.
    for flows in [
        vec![[parse("mine", text), describe_statement("mine"), sync()].concat(), run.clone()],
        vec![[parse("mine", text), sync()].concat(), blind.clone()],
        vec![[parse("mine", text), rerun("mine", &[]), sync()].concat(), run.clone()],
    ] {
        let mut fresh = proxy.link("acme_app").await;
        for flow in &flows {
            let answer = fresh.ask(flow).await;
            assert_eq!(answer.code(), None, "{answer}");
        }
        assert_eq!(old.ask(&run).await, "E(0A000) Z(I)", "the older one is not helped by that");
    }
    let again = [close_statement("mine"), parse("mine", text), describe_statement("mine"), sync()].concat();
    assert_eq!(old.ask(&again).await, "3 1 t() T(a,b) Z(I)");
    assert_eq!(old.ask(&run).await, "2 T(a,b) D(1,NULL) C(SELECT 1) Z(I)");
    assert_eq!(old.ask(&blind).await, "2 D(1,NULL) C(SELECT 1) Z(I)");
}

#[tokio::test]
async fn a_text_that_is_prepared_after_ddl_is_read_by_the_new_definitions() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut migrate = proxy.link("migrate").await;
    let mut earlier = proxy.link("migrate").await;
    let text = "SELECT a FROM things WHERE a = $1";
    let prepare = [parse("mine", text), describe_statement("mine"), sync()].concat();
    for (definition, described) in [("int", "23"), ("text", "25"), ("date", "1082")] {
        let created = format!("CREATE TABLE things (a {definition})");
        assert_eq!(migrate.query(&created).await, "C(CREATE TABLE) Z(I)");
        let answer = earlier.ask(&prepare).await;
        assert_eq!(answer, format!("1 t({described}) T(a) Z(I)").as_str(), "{definition}");
        earlier.ask([close_statement("mine"), sync()].concat()).await;
        migrate.query("DROP TABLE things").await;
    }
}
