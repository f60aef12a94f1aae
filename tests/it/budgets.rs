//! What a message may cost: time to finish it, and memory, by client, tenant and process. Whoever is over a bound is
//! told so; nobody else notices.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::certificate::Certificate;
use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, eventually, message, within};

const MIB: usize = 1 << 20;

/// The beginning of a Query of so many bytes, of which so many are sent.
fn begun(total: usize, sent: usize) -> Vec<u8> {
    let mut bytes = vec![b'Q'];
    bytes.extend(u32::try_from(total - 1).unwrap().to_be_bytes());
    bytes.extend(b"SELECT 1 /*");
    bytes.resize(sent, b'x');
    bytes
}

/// The last word to a client whose message was not taken; it may have been sent while the client still wrote.
async fn told(link: &mut Link) -> Option<String> {
    let fault = link.closes().await.0.into_iter().find(|frame| frame.tag == b'E').map(|frame| frame.fault());
    fault.map(|fault| format!("{} {} {}", fault.severity, fault.code, fault.message))
}

#[tokio::test]
async fn a_message_that_was_begun_is_finished_in_time_or_its_client_is_told() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.message_timeout", "1s")).await;
    let mut silent = proxy.link("acme_app").await;
    let mut copying = proxy.link("acme_app").await;
    assert_eq!(copying.query("BEGIN; CREATE TEMP TABLE t (a text)").await.code(), None);
    copying.send(message::query("COPY t FROM STDIN")).await;
    copying.until(b'G').await;
    let rows = message::copy_data("one\ntwo\n");
    copying.send(&rows[..3]).await;
    for (before, bytes) in [
        ("", begun(100, 3)),
        ("", begun(MIB, 5)),
        ("", begun(MIB, 100_000)),
        ("BEGIN", begun(100, 1)),
        ("BEGIN", begun(MIB, 100_000)),
        ("SELECT * FROM none", begun(MIB, 40)),
    ] {
        let mut link = proxy.link("globex_app").await;
        if !before.is_empty() {
            link.query(before).await;
        }
        link.send(&bytes).await;
        let told = told(&mut link).await;
        assert_eq!(
            told.as_deref(),
            Some("FATAL 08P01 incomplete message from client"),
            "{before} {}",
            bytes.len()
        );
    }
    // More than a second each has gone by six times.
    copying.send(&rows[3..]).await;
    let copied = copying.ask([message::copy_done(), message::query("SELECT count(*) FROM t")].concat()).await;
    assert_eq!(copied, "C(COPY 2) Z(T)");
    assert_eq!(copying.answer().await.value(), "2");
    assert_eq!(silent.query("SELECT 1").await.value(), "1");
    proxy.measures("pgtenant_clients", &[("tenant", "globex")], 0.0).await;
}

#[tokio::test]
async fn a_message_that_comes_in_time_is_taken_however_many_pieces_it_has() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.message_timeout", "10s")).await;
    let mut link = proxy.link("acme_app").await;
    let text = format!("SELECT length('{}')", "x".repeat(300_000));
    for _ in 0..2 {
        for piece in message::query(&text).chunks(10_007) {
            link.send(piece).await;
        }
        assert_eq!(link.answer().await.value(), "300000");
    }
}

/// Fifteen clients of one tenant hold 62 MiB each of a message that they do not finish.
#[tokio::test]
async fn unfinished_messages_of_one_tenant_take_no_more_than_its_budget() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut other = proxy.link("globex_app").await;
    let mut links = Vec::new();
    for _ in 0..15 {
        links.push(proxy.link("acme_app").await);
    }
    let before = proxy.resident_kib();
    let bytes = begun(63 * MIB, 62 * MIB);
    let mut refused = Vec::new();
    let mut holding = Vec::new();
    for mut link in links {
        if link.try_send(&bytes).await.is_ok() && link.stays_silent(Duration::from_millis(300)).await {
            holding.push(link);
        } else {
            refused.push(link);
        }
    }
    let grown = (proxy.resident_kib() - before) / 1024;
    println!("resident memory grew by {grown} MiB while {} clients hold 62 MiB each", holding.len());
    assert!((3..=4).contains(&holding.len()), "{} of 15", holding.len());
    assert!(grown <= 256 + 48, "{grown} MiB");
    for mut link in refused {
        if let Some(told) = told(&mut link).await {
            assert_eq!(told, "FATAL 53200 the memory budget of the tenant is used up");
        }
    }
    assert!(
        proxy.metrics().await.sum("pgtenant_errors_total", &[("tenant", "acme"), ("class", "53")]) >= 11.0
    );
    // Nobody else notices, and the tenant itself can go on with what is not long.
    let long = format!("SELECT length('{}')", "x".repeat(8 * MIB));
    assert_eq!(other.query(&long).await.value(), (8 * MIB).to_string());
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await.value(), "1");
    // What was taken comes back.
    drop(holding);
    proxy.measures("pgtenant_memory_bytes", &[], 0.0).await;
    let shrunk = || async { (proxy.resident_kib() <= before + 48 * 1024).then_some(()) };
    eventually("the memory to be given back", shrunk).await;
    let own = format!("SELECT length('{}')", "x".repeat(60 * MIB));
    assert_eq!(proxy.link("acme_app").await.query(&own).await.value(), (60 * MIB).to_string());
    proxy.measures("pgtenant_memory_bytes", &[], 0.0).await;
}

fn small(config: &mut Config) {
    config.set("listen.max_message_bytes", "1MiB");
    config.set("listen.max_client_memory", "4MiB");
    config.set("listen.max_tenant_memory", "8MiB");
    config.set("listen.max_memory", "16MiB");
}

/// A statement of so many bytes.
fn long(name: &str, number: usize, bytes: usize) -> Vec<u8> {
    let text = format!("SELECT {number} /*");
    message::parse(name, &format!("{text}{}*/", "x".repeat(bytes - text.len())))
}

#[tokio::test]
async fn statements_that_portals_keep_count_for_their_client() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, small).await;
    let mut link = proxy.link("acme_app").await;
    for name in ["", "s"] {
        assert_eq!(link.query("BEGIN").await.code(), None);
        let mut held = 0;
        let code = loop {
            let parse = [long(name, held, 900_000), message::sync()].concat();
            let answer = link.ask(parse).await;
            if let Some(code) = answer.code() {
                break code;
            }
            let portal = format!("p{held}");
            let mut bind = message::bind(&portal, name, &[]);
            if !name.is_empty() {
                bind.extend(message::close_statement(name));
            }
            assert_eq!(link.ask([bind, message::sync()].concat()).await.code(), None, "{held}");
            held += 1;
            assert!(held < 10, "there is an end to it");
        };
        assert_eq!((code.as_str(), held), ("53200", 3), "'{name}'");
        link.query("ROLLBACK").await;
        assert_eq!(link.query("SELECT 1").await.value(), "1");
        // The portals are gone, and what they kept.
        assert_eq!(link.ask([long("", 0, 900_000), message::sync()].concat()).await, "1 Z(I)");
        link.query("SELECT 1").await;
        proxy.measures("pgtenant_memory_bytes", &[], 0.0).await;
    }
}

#[tokio::test]
async fn prepared_statements_are_bounded_and_a_shared_text_is_held_once() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, small).await;
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(proxy.link("acme_app").await);
    }
    // Six MB of the tenant's eight.
    for (at, link) in links[..3].iter_mut().enumerate() {
        for number in 0..2 {
            let prepared =
                link.ask([long(&format!("s{number}"), number, 1_000_000), message::sync()].concat()).await;
            assert_eq!(prepared.code(), None, "{at} {number}");
        }
    }
    // The process holds two texts of them, not six.
    let held = proxy.metrics().await.sum("pgtenant_memory_bytes", &[]);
    assert!((2_000_000.0..2_200_000.0).contains(&held), "{held}");
    let another = |name, number| [long(name, number, 1_000_000), message::sync()].concat();
    assert_eq!(links[3].ask(another("seventh", 1)).await.code(), None);
    // One MB more, and another one for the message while it is there.
    let refused = links[3].ask(another("eighth", 1)).await.fault();
    assert_eq!((refused.severity.as_str(), refused.code.as_str()), ("ERROR", "53200"));
    assert_eq!(refused.message, "the memory budget of the tenant is used up");
    // Another tenant has its own budget, shares the texts too, and those who were first may leave.
    let mut other = proxy.link("globex_app").await;
    for number in 0..2 {
        let prepared =
            other.ask([long(&format!("s{number}"), number, 1_000_000), message::sync()].concat()).await;
        assert_eq!(prepared.code(), None);
    }
    for link in links {
        link.leave().await;
    }
    let rest =
        || async { (proxy.metrics().await.sum("pgtenant_memory_bytes", &[]) < 2_200_000.0).then_some(()) };
    eventually("the texts of one client", rest).await;
    let mut again = proxy.link("acme_app").await;
    for number in 0..3 {
        let prepared =
            again.ask([long(&format!("s{number}"), number, 1_000_000), message::sync()].concat()).await;
        assert_eq!(prepared.code(), None, "the tenant's budget is free again: {number}");
    }
    assert_eq!(other.ask([message::rerun("s1", &[]), message::sync()].concat()).await.value(), "1");
    drop((again, other));
    proxy.measures("pgtenant_memory_bytes", &[], 0.0).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_count_for_their_client() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        small(config);
        config.lenient();
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    // Errors are collected whole before they are passed on.
    link.send(message::query("SELECT repeat('x', 8000000)::int")).await;
    let told = within("the end of the connection", told(&mut link)).await;
    assert_eq!(told.as_deref(), Some("FATAL 53200 the memory budget of the client is used up"));
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query("SELECT repeat('x', 1000000)::int").await.code().as_deref(), Some("22P02"));
    // Rows are passed on in pieces, however many there are.
    let rows = link.query("SELECT repeat('x', 1000000) FROM generate_series(1, 20)").await;
    assert_eq!(rows.column().len(), 20);
    proxy.measures("pgtenant_memory_bytes", &[], 0.0).await;
}

/// A Query of so many bytes that the guard reads to its end and then refuses.
fn refused_at_its_end(bytes: usize) -> Vec<u8> {
    let mut text = "SELECT 1".to_owned();
    while text.len() < bytes {
        text.push_str(",1");
    }
    text.push_str("; LOCK TABLE x");
    message::query(&text)
}

#[tokio::test]
async fn nobody_waits_while_long_texts_are_read() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut probe = proxy.link("globex_app").await;
    assert_eq!(probe.query("SELECT 1").await.value(), "1");
    let text = refused_at_its_end(12 * MIB);
    let mut links = Vec::new();
    for _ in 0..4 {
        let mut link = proxy.link("acme_app").await;
        link.send(&text).await;
        links.push(link);
    }
    let started = Instant::now();
    let (mut probes, mut worst) = (0, Duration::ZERO);
    let reading = async {
        for link in &mut links {
            assert_eq!(link.answer().await.code().as_deref(), Some("42501"));
        }
        started.elapsed()
    };
    let mut reading = std::pin::pin!(reading);
    let took = loop {
        let asked = Instant::now();
        assert_eq!(probe.query("SELECT 1").await.value(), "1");
        worst = worst.max(asked.elapsed());
        probes += 1;
        if let Ok(took) = tokio::time::timeout(Duration::from_millis(1), &mut reading).await {
            break took;
        }
    };
    println!("four texts of 12 MiB took {took:?}; {probes} probes meanwhile, the slowest {worst:?}");
    assert!(probes >= 20 && worst < took / 4, "{probes} probes in {took:?}, the slowest {worst:?}");
    // Middle-sized texts do not wait for the largest.
    assert_eq!(probe.query(&format!("SELECT length('{}')", "x".repeat(100_000))).await.value(), "100000");
}

#[tokio::test]
async fn a_client_that_has_left_does_not_keep_those_behind_it_waiting() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let text = refused_at_its_end(16 * MIB);
    let mut link = proxy.link("acme_app").await;
    let started = Instant::now();
    assert_eq!(link.ask(&text).await.code().as_deref(), Some("42501"));
    let one = started.elapsed();
    drop(link);
    for _ in 0..3 {
        let mut link = proxy.link("acme_app").await;
        link.send(&text).await;
    }
    let started = Instant::now();
    proxy.measures("pgtenant_clients", &[], 0.0).await;
    let all = started.elapsed();
    println!("one text took {one:?}, three clients that left were gone after {all:?}");
    assert!(all < one * 3 / 2, "{all:?} for three, one takes {one:?}");
    proxy.measures("pgtenant_memory_bytes", &[], 0.0).await;
}

#[tokio::test]
async fn a_text_is_read_no_longer_than_its_client_is_there() {
    let cluster = Cluster::start().await;
    let certificate = Certificate::for_name("localhost");
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = certificate.write(directory.path());
    let proxy = Proxy::start(&cluster, |config| {
        config.set("listen.socket_dir", directory.path().display().to_string());
        config.set("listen.tls", "prefer");
        config.set("listen.certificate", chain.display().to_string());
        config.set("listen.private_key", key.display().to_string());
    })
    .await;
    let socket = directory.path().join(format!(".s.PGSQL.{}", proxy.port()));
    let text = refused_at_its_end(16 * MIB);
    for way in ["TCP", "TLS", "a unix socket"] {
        let connect = async || {
            let mut link = match way {
                "TCP" => Link::tcp(proxy.port()).await,
                "TLS" => {
                    let mut link = Link::tcp(proxy.port()).await;
                    assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
                    link.tls(certificate.client(&[]), "localhost").await.unwrap()
                }
                _ => Link::unix(&socket).await,
            };
            link.startup(&[("user", "acme_app"), ("database", "app")]).await;
            link.authenticate("acme_app-secret").await.unwrap();
            link
        };
        let mut link = connect().await;
        let started = Instant::now();
        assert_eq!(link.ask(&text).await.code().as_deref(), Some("42501"));
        let whole = started.elapsed();
        drop(link);
        // One that says goodbye, which stays unread behind the text, and one that does not.
        for goodbye in [Vec::new(), message::terminate()] {
            let mut link = connect().await;
            let started = Instant::now();
            link.send([&text[..], &goodbye].concat()).await;
            drop(link);
            proxy.measures("pgtenant_clients", &[], 0.0).await;
            let gone = started.elapsed();
            println!("{way}: the text took {whole:?}; its client was gone after {gone:?}");
            assert!(gone < whole / 2, "{way}: {gone:?} of {whole:?}");
        }
    }
}
