//! COPY both ways, by both protocols, and its failures from either side.

use crate::support::{Cluster, Proxy, message};

use message::{bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, sync};

const IN: &str = "COPY imports FROM STDIN";
const OUT: &str = "COPY (SELECT n FROM generate_series(1, 3) AS n) TO STDOUT";
const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

async fn one_server() -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    (cluster, proxy)
}

#[tokio::test]
async fn copy_out_works_by_both_protocols() {
    let (_cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query(OUT).await, "H d(1\n) d(2\n) d(3\n) c C(COPY 3) Z(I)");
    let extended = [parse("", OUT), bind("", "", &[]), execute("", 0), sync()].concat();
    assert_eq!(link.ask(extended).await, "1 2 H d(1\n) d(2\n) d(3\n) c C(COPY 3) Z(I)");
    let own = link.query("COPY (SELECT DISTINCT tenant_id FROM notes) TO STDOUT").await;
    assert_eq!(own, "H d(acme\n) c C(COPY 1) Z(I)");
    let mixed = link.query(&format!("SELECT 1; {OUT}; SELECT 1")).await;
    let expected =
        "T(?column?) D(1) C(SELECT 1) H d(1\n) d(2\n) d(3\n) c C(COPY 3) T(?column?) D(1) C(SELECT 1) Z(I)";
    assert_eq!(mixed, expected);
}

#[tokio::test]
async fn copy_in_works_by_both_protocols() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    let data =
        [copy_data("one\ntw"), copy_data("o\n"), copy_data(""), copy_data("three\n"), copy_done()].concat();
    link.send(query(IN)).await;
    assert_eq!(link.until(b'G').await, "G");
    assert_eq!(link.ask(&data).await, "C(COPY 3) Z(I)");

    link.send([parse("", IN), bind("", "", &[]), execute("", 0), flush()].concat()).await;
    assert_eq!(link.until(b'G').await, "1 2 G");
    link.send(&data).await;
    assert_eq!(link.ask(sync()).await, "C(COPY 3) Z(I)");

    // Everything sent ahead, as drivers do that know what they want.
    assert_eq!(link.ask([query(IN), data.clone()].concat()).await, "G C(COPY 3) Z(I)");
    let ahead = [parse("", IN), bind("", "", &[]), execute("", 0), data, sync()].concat();
    assert_eq!(link.ask(ahead).await, "1 2 G C(COPY 3) Z(I)");
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "12");
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn sync_and_flush_inside_a_copy_are_passed_over_as_postgresql_does() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    // libpq sends Sync right behind Execute when it starts a COPY by the extended protocol.
    link.send([parse("", IN), bind("", "", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(link.until(b'G').await, "1 2 G");
    link.send([copy_data("x\n"), flush(), sync(), copy_data("y\n"), copy_done(), sync()].concat()).await;
    assert_eq!(link.answer().await, "C(COPY 2) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "2");
}

#[tokio::test]
async fn a_copy_that_the_client_fails_leaves_nothing_and_the_session_goes_on() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    let failing = [copy_data("one\n"), copy_fail("changed my mind")].concat();
    assert_eq!(link.ask([query(IN), failing.clone()].concat()).await, "G E(57014) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    link.send([parse("", IN), bind("", "", &[]), execute("", 0), flush()].concat()).await;
    link.until(b'G').await;
    assert_eq!(link.ask([failing, sync()].concat()).await, "E(57014) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
}

#[tokio::test]
async fn a_copy_that_the_server_fails_midway_swallows_the_rest_of_the_data() {
    let (cluster, proxy) = one_server().await;
    cluster.execute("ALTER TABLE imports ADD CHECK (line <> 'bad')").await;
    let mut link = proxy.link("acme_app").await;
    let good = copy_data("good\n");
    let rest = good.repeat(20_000);
    let bad = [good, copy_data("bad\n"), rest, copy_done()].concat();
    assert_eq!(link.ask([query(IN), bad.clone()].concat()).await, "G E(23514) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    let extended = [parse("", IN), bind("", "", &[]), execute("", 0), bad, sync()].concat();
    assert_eq!(link.ask(extended).await, "1 2 G E(23514) Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
}

#[tokio::test]
async fn a_copy_refused_at_its_start_swallows_data_sent_ahead() {
    let (_cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    let data = [copy_data("x\n").repeat(1000), copy_done()].concat();
    let ahead = [query("COPY no_such FROM STDIN"), data.clone(), query("SELECT 1")].concat();
    assert_eq!(link.ask(ahead).await, "E(42P01) Z(I)");
    assert_eq!(link.answer().await, ONE);
    let rls = link.ask([query("COPY notes FROM STDIN"), data].concat()).await;
    assert_eq!(rls, "E(0A000) Z(I)", "PostgreSQL refuses it on a table under row-level security");
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn a_wrong_message_inside_a_copy_fails_it_and_runs_behind_it() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    link.send(query(IN)).await;
    link.until(b'G').await;
    // PostgreSQL would end the connection (08P01).
    assert_eq!(link.ask([copy_data("x\n"), query("SELECT 1")].concat()).await, "E(08P01) Z(I)");
    assert_eq!(link.answer().await, ONE);
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
}

#[tokio::test]
async fn large_copies_stream_both_ways_in_bounded_memory() {
    let (cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    link.query("SELECT 1").await;
    let before = proxy.resident_kib();
    link.send(query(IN)).await;
    link.until(b'G').await;
    let block = copy_data(&format!("{}\n", "x".repeat(999)).repeat(1000));
    for _ in 0..30 {
        link.send(&block).await;
    }
    assert_eq!(link.ask(copy_done()).await, "C(COPY 30000) Z(I)");
    link.send(query("COPY imports TO STDOUT")).await;
    let (mut bytes, mut peak) = (0, proxy.resident_kib());
    loop {
        let frame = link.frame("COPY data").await;
        bytes += frame.body.len();
        if bytes % 1000 < 10 {
            peak = peak.max(proxy.resident_kib());
        }
        if frame.tag == b'Z' {
            break;
        }
    }
    assert!(bytes >= 30_000_000, "{bytes}");
    assert!(peak < before + 16 * 1024, "{before} KiB before, {peak} KiB at the most");
    drop(cluster);
}

#[tokio::test]
async fn a_message_limit_does_not_limit_copy_data() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.max_message_bytes", 10_000)).await;
    let mut link = proxy.link("acme_app").await;
    let long = format!("{}\n", "x".repeat(50_000));
    assert_eq!(link.ask([query(IN), copy_data(&long), copy_done()].concat()).await, "G C(COPY 1) Z(I)");
}
