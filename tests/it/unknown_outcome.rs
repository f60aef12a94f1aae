//! A transaction whose end was sent and not answered may have been committed: the client is told so (08007), and told
//! 08006 where it was certainly lost.

use crate::support::link::Answer;
use crate::support::tap::Tap;
use crate::support::{Cluster, Link, Proxy, message};

use message::{copy_data, copy_done, flush, parse, query, sync, unnamed};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

/// One server, reached through a relay that can lose its answers.
struct Stage {
    cluster: Cluster,
    tap: Tap,
    proxy: Proxy,
}

impl Stage {
    async fn new(timeout: &str) -> Self {
        Self::of(Cluster::start().await, timeout).await
    }

    async fn of(cluster: Cluster, timeout: &str) -> Self {
        let tap = Tap::start(&cluster).await;
        let proxy = Proxy::start(&cluster, |config| {
            config.one_server();
            config.set("defaults.queue_timeout", "15s");
            config.set("defaults.statement_timeout", timeout);
            config.add_user("boss", "operator", true);
            tap.stand_between(config);
        })
        .await;
        Self { cluster, tap, proxy }
    }

    /// A client whose server is open already, and has answered these.
    async fn link(&self, user: &str, before: &[&str]) -> Link {
        let mut link = self.proxy.link(user).await;
        for text in [&["SELECT 1"], before].concat() {
            link.query(text).await;
        }
        link
    }

    /// Sends bytes, which must have this effect, and loses all answers to them.
    async fn lose(&self, link: &mut Link, bytes: Vec<u8>, (effect, wanted): (&str, &str)) {
        self.tap.withhold();
        link.send(bytes).await;
        self.cluster.settles(effect, wanted).await;
        self.tap.cut();
    }
}

/// A statement of its own that the proxy must have sent.
fn insert(body: &str) -> String {
    format!("INSERT INTO notes (body) VALUES ('{body}')")
}

fn stored(body: &str) -> String {
    format!("SELECT count(*) FROM notes WHERE body = '{body}'")
}

fn extended(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| unnamed(text, &[])).collect()
}

fn assert_unknown(answer: &Answer, what: &str) {
    let fault = answer.fault();
    assert_eq!(fault.code, "08007", "{what}: {answer}");
    assert_eq!(fault.message, "the outcome of the transaction is unknown", "{what}");
    assert!(fault.hint.unwrap().contains("may have been committed"), "{what}");
}

/// What the client of a transaction reads whose end is lost. The BEGIN of a pipeline was answered before a server was
/// taken, so that its client is in a block.
fn told_of(what: &str) -> &'static str {
    match what {
        "a pipeline" => "1 2 n C(BEGIN) E(08007) Z(E)",
        _ => "E(08007) Z(I)",
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_as_unknown() {
    let stage = Stage::new("30s").await;
    for user in ["acme_app", "migrate"] {
        // The owner's rows need a tenant, and it may not read what it has stored.
        let tenant = if user == "migrate" { "SET LOCAL app.tenant_id = 'acme'" } else { "SELECT 1" };
        let one = |number: usize| insert(&format!("{user} {number}"));
        let cases: [(&str, &[&str], Vec<u8>); 10] = [
            ("COMMIT", &["BEGIN", tenant, &one(0)], query("COMMIT")),
            ("END", &["BEGIN", tenant, &one(1)], [extended(&["END"]), sync()].concat()),
            ("without Sync", &["BEGIN", tenant, &one(2)], [extended(&["COMMIT"]), flush()].concat()),
            ("AND CHAIN", &["BEGIN", tenant, &one(3)], query("COMMIT AND CHAIN")),
            ("in a text", &[], query(&format!("BEGIN; {tenant}; {}; COMMIT; SELECT 1", one(4)))),
            ("begins a text", &["BEGIN", tenant, &one(5)], query("COMMIT; SELECT 1")),
            ("a text", &[], query(&format!("SELECT 1; {tenant}; {}", one(6)))),
            ("a pipeline", &[], [extended(&["BEGIN", tenant, &one(7), "COMMIT"]), sync()].concat()),
            ("a batch", &[], [extended(&[tenant, &one(8), "SELECT 1"]), sync()].concat()),
            ("a comment", &["BEGIN", tenant, &one(9)], query("/* the end */ commit work;")),
        ];
        for (number, (what, before, bytes)) in cases.into_iter().enumerate() {
            let mut link = stage.link(user, before).await;
            let effect = stored(&format!("{user} {number}"));
            stage.lose(&mut link, bytes, (&effect, "1")).await;
            if what == "without Sync" {
                assert_unknown(&link.until(b'E').await, what);
                assert_eq!(link.ask(sync()).await, "Z(I)", "{user}, {what}");
            } else {
                let answer = link.answer().await;
                assert_unknown(&answer, &format!("{user}, {what}"));
                assert_eq!(answer, told_of(what), "{user}, {what}");
                link.query("ROLLBACK").await;
            }
            assert_eq!(link.query("SELECT 1").await, ONE, "{user}, {what}");
        }
    }
}

#[tokio::test]
async fn a_statement_that_commits_by_itself_is_unknown_too() {
    let stage = Stage::new("30s").await;
    let with = "WITH new AS (INSERT INTO notes (body) VALUES ('with') RETURNING id) SELECT count(*) FROM new";
    let copies = "SELECT count(*) FROM imports";
    for (what, bytes, effect, wanted) in [
        ("simple", query(&insert("simple")), stored("simple"), "1"),
        ("extended", [extended(&[&insert("extended")]), sync()].concat(), stored("extended"), "1"),
        ("WITH", query(with), stored("with"), "1"),
        ("UPDATE", query("UPDATE notes SET body = 'new' WHERE body = 'simple'"), stored("new"), "1"),
        ("DELETE", query("DELETE FROM notes WHERE body = 'new'"), stored("new"), "0"),
    ] {
        let mut link = stage.link("acme_app", &[]).await;
        stage.lose(&mut link, bytes, (&effect, wanted)).await;
        assert_unknown(&link.answer().await, what);
        assert_eq!(link.query("SELECT 1").await, ONE, "{what}");
    }
    // Its rows have ended; before that, nothing was committed.
    let mut link = stage.link("acme_app", &[]).await;
    link.send(query("COPY imports FROM STDIN")).await;
    link.until(b'G').await;
    stage.lose(&mut link, [copy_data("x\n"), copy_done()].concat(), (copies, "1")).await;
    assert_unknown(&link.answer().await, "COPY");
}

#[tokio::test]
async fn two_phase_commits_are_unknown_too() {
    let mut cluster = Cluster::start().await;
    cluster.execute("ALTER SYSTEM SET max_prepared_transactions = 5").await;
    cluster.crash();
    cluster.boot().await;
    let stage = Stage::of(cluster, "30s").await;
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    let begin = ["BEGIN", "INSERT INTO imports VALUES ('two')"];
    for (what, before, text, wanted) in [
        ("PREPARE TRANSACTION", &begin[..], "PREPARE TRANSACTION 'one'", "1"),
        ("COMMIT PREPARED", &[], "COMMIT PREPARED 'one'", "0"),
    ] {
        let mut link = stage.link("migrate", before).await;
        stage.lose(&mut link, query(text), (prepared, wanted)).await;
        assert_unknown(&link.answer().await, what);
    }
}

#[tokio::test]
async fn what_is_certainly_lost_is_told_as_before() {
    let stage = Stage::new("30s").await;
    let begin = ["BEGIN", "INSERT INTO notes (body) VALUES ('lost')"];
    let failed = ["BEGIN", "SELECT 1/0"];
    let cases: [(&str, &[&str], Vec<u8>); 12] = [
        ("SELECT", &[], query("SELECT pg_sleep(60) /* 0 */")),
        ("a batch of SELECT", &[], [extended(&["SELECT pg_sleep(60) /* 1 */"]), sync()].concat()),
        ("in a block", &begin, query("UPDATE notes SET body = 'lost' /* 2 */")),
        ("in a block, extended", &begin, [extended(&["DELETE FROM notes /* 3 */"]), sync()].concat()),
        ("no Sync", &[], [extended(&["DELETE FROM notes /* 4 */"]), flush()].concat()),
        ("BEGIN", &[], query("BEGIN; DELETE FROM notes; SELECT pg_sleep(60) /* 5 */")),
        ("ROLLBACK", &begin, query("ROLLBACK /* 6 */")),
        ("RELEASE", &["BEGIN", "SAVEPOINT s"], query("RELEASE s /* 7 */")),
        ("COMMIT of a failed block", &failed, query("COMMIT /* 8 */")),
        ("COMMIT without a block", &[], query("COMMIT /* 9 */")),
        ("SHOW", &[], query("SHOW transaction_isolation /* 10 */")),
        ("Parse only", &[], [parse("", "DELETE FROM notes /* 11 */"), flush()].concat()),
    ];
    for (number, (what, before, bytes)) in cases.into_iter().enumerate() {
        let mut link = stage.link("acme_app", before).await;
        stage.tap.withhold();
        link.send(bytes).await;
        stage.tap.receives(&format!("/* {number} */")).await;
        stage.tap.cut();
        let answer = link.until(b'E').await;
        assert_eq!(answer.code().as_deref(), Some("08006"), "{what}: {answer}");
        let rest = if matches!(what, "no Sync" | "Parse only") {
            link.ask(sync()).await
        } else {
            link.answer().await
        };
        assert_eq!(rest, "Z(I)", "{what}");
        assert_eq!(link.query("SELECT 1").await, ONE, "{what}");
    }
    let mut link = stage.link("acme_app", &[]).await;
    link.send(query("COPY imports FROM STDIN")).await;
    link.until(b'G').await;
    link.send(copy_data("not ended\n")).await;
    stage.tap.receives("not ended").await;
    stage.tap.cut();
    assert_eq!(link.answer().await, "E(08006) Z(I)", "rows that have not ended");
    assert_eq!(stage.cluster.value("SELECT count(*) FROM imports").await, "0");
    assert_eq!(stage.cluster.value(&stored("lost")).await, "0");
}

#[tokio::test]
async fn a_commit_behind_a_silent_link_is_unknown_and_not_cancelled() {
    let stage = Stage::new("300ms").await;
    let mut link = stage.link("acme_app", &["BEGIN", &insert("silent")]).await;
    stage.tap.withhold();
    link.send(query("COMMIT")).await;
    let answer = link.answer().await;
    assert_unknown(&answer, "statement timeout");
    let detail = answer.fault().detail.unwrap();
    assert!(detail.contains("statement timeout") && detail.contains("its server was closed"), "{detail}");
    assert_eq!(stage.cluster.value(&stored("silent")).await, "1");
    stage.tap.cut();
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn a_client_that_is_disconnected_is_told_that_its_commit_is_unknown() {
    let stage = Stage::new("30s").await;
    // Pinned: its session is lost as well.
    let mut pinned =
        stage.link("acme_app", &["CREATE TEMP TABLE t (a int)", "BEGIN", &insert("pinned")]).await;
    stage.lose(&mut pinned, query("COMMIT"), (&stored("pinned"), "1")).await;
    let end = pinned.closes().await;
    assert_unknown(&end, "pinned");
    assert_eq!(end.fault().severity, "FATAL");
    // It has sent more ahead, which does not run.
    let mut ahead = stage.link("acme_app", &["BEGIN", &insert("ahead")]).await;
    let bytes = [query("COMMIT"), query(&insert("not run"))].concat();
    stage.lose(&mut ahead, bytes, (&stored("ahead"), "1")).await;
    assert_unknown(&ahead.closes().await, "sent ahead");
    assert_eq!(stage.cluster.value(&stored("not run")).await, "0");
    // An operator ends it.
    let mut killed = stage.link("acme_app", &["BEGIN", &insert("killed")]).await;
    stage.tap.withhold();
    killed.send(query("COMMIT")).await;
    stage.cluster.settles(&stored("killed"), "1").await;
    let mut console = stage.proxy.raw().await;
    console.startup(&[("user", "boss"), ("database", "pgtenant")]).await;
    console.authenticate("boss-secret").await.unwrap();
    console.query("KILL TENANT acme").await;
    let end = killed.closes().await;
    assert_unknown(&end, "killed");
    assert!(end.fault().detail.unwrap().contains("administrator command"));
    stage.tap.cut();
}
