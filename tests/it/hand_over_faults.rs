//! A hand-over that is disturbed at any byte: the server is lost, the client leaves or cancels, the reset or the entry
//! fails. Whatever happens, a statement runs for its own tenant, once or not at all, and everybody goes on.

use std::collections::{BTreeMap, HashMap};

use crate::protect::{KEY, install, sealed};
use crate::support::link::Answer;
use crate::support::tap::{Tap, Then, Way};
use crate::support::{Cluster, Link, Proxy, message};

/// How a client sends its statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
}

/// What ends a hand-over that is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Leaving,
    Cancelling,
}

/// One server, reached through a relay, and the client of another tenant that had it last.
struct Stage {
    cluster: Cluster,
    tap: Tap,
    proxy: Proxy,
    other: Link,
    protocol: Protocol,
    number: usize,
    /// Statements whose row was answered, with what was done to them.
    answered: Vec<(String, String)>,
}

// === impl Stage ===

impl Stage {
    async fn new(context: &str, protocol: Protocol) -> Self {
        let cluster = Cluster::start().await;
        if context == "sealed" {
            install(&cluster);
        }
        let tap = Tap::start(&cluster).await;
        let proxy = Proxy::start(&cluster, |config| {
            if context == "sealed" {
                sealed(config, KEY);
            }
            config.one_server();
            tap.stand_between(config);
        })
        .await;
        let other = proxy.link("globex_app").await;
        Self { cluster, tap, proxy, other, protocol, number: 0, answered: Vec::new() }
    }

    /// The server is the other tenant's, with something that it left.
    async fn taken(&mut self) {
        self.other.query("SET work_mem = '7MB'").await;
        let rows = self.other.query("SELECT DISTINCT tenant_id FROM notes").await;
        assert_eq!(rows.column(), ["globex"], "{rows}");
    }

    /// A statement that tells whether it ran, and for whom.
    fn statement(&mut self) -> (String, Vec<u8>) {
        self.number += 1;
        let body = format!("disturbed {}", self.number);
        let sql = format!("INSERT INTO notes (body) VALUES ('{body}') RETURNING tenant_id");
        let bytes = match self.protocol {
            Protocol::Simple => message::query(&sql),
            Protocol::Extended => [message::unnamed(&sql, &[]), message::sync()].concat(),
        };
        (body, bytes)
    }

    /// How many bytes a hand-over with its statement has, each way.
    async fn lengths(&mut self) -> [usize; 2] {
        let mut link = self.proxy.link("acme_app").await;
        self.taken().await;
        let before = [Way::ToServer, Way::ToProxy].map(|way| self.tap.carried(way));
        let (_, bytes) = self.statement();
        assert_eq!(link.ask(bytes).await.column(), ["acme"]);
        let after = [Way::ToServer, Way::ToProxy].map(|way| self.tap.carried(way));
        [after[0] - before[0], after[1] - before[1]]
    }

    /// What the statements left: each one row of its own tenant or none, and one where rows were answered.
    async fn assert_stored(&self) {
        let sql =
            "SELECT body, string_agg(tenant_id, ',') FROM notes WHERE body LIKE 'disturbed %' GROUP BY body";
        let stored = self.cluster.superuser_of("app").await.query(sql, &[]).await.unwrap();
        let stored: HashMap<String, String> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
        for (body, tenants) in &stored {
            assert_eq!(tenants, "acme", "{body}");
        }
        for (body, what) in &self.answered {
            assert!(stored.contains_key(body), "{what}: its row was answered and is not stored");
        }
    }

    /// What a client read: its own tenant's row, or an error.
    fn reads(&mut self, body: String, answer: &Answer, what: &str) {
        if answer.column().is_empty() {
            assert!(answer.code().is_some(), "{what}: {answer}");
        } else {
            assert_eq!(answer.column(), ["acme"], "{what}: {answer}");
            self.answered.push((body, what.to_owned()));
        }
    }

    async fn goes_on(&mut self, what: &str) {
        let mut link = self.proxy.link("acme_app").await;
        self.goes_on_for(&mut link, what).await;
    }

    async fn goes_on_for(&mut self, link: &mut Link, what: &str) {
        let rows = link.query("SELECT DISTINCT tenant_id FROM notes").await;
        assert_eq!(rows.column(), ["acme"], "{what}: {rows}");
        assert_eq!(link.query("SHOW work_mem").await.value(), "4MB", "{what}");
        self.taken().await;
    }

    /// The connection ends at this byte. Whoever is still owed an answer gets one.
    async fn cut(&mut self, link: &mut Link, (way, at): (Way, usize)) -> Option<String> {
        let what = format!("cut at byte {at} {way:?}");
        self.taken().await;
        let (body, bytes) = self.statement();
        self.tap.at(way, at, Then::Ends);
        link.send(bytes).await;
        let (answer, is_open) = to_its_end(link).await;
        if is_open {
            self.reads(body, &answer, &what);
        } else {
            // Within a row nothing can be said any more.
            assert!(
                answer.column().is_empty() && answer.to_string().ends_with("T(tenant_id)"),
                "{what}: {answer}"
            );
            *link = self.proxy.link("acme_app").await;
        }
        answer.code()
    }

    /// The hand-over stops at this byte, its client leaves or cancels, and it goes on.
    async fn hold(&mut self, mut link: Link, by: By, at: usize) -> Link {
        let what = format!("{by:?} at byte {at}");
        self.taken().await;
        let (body, bytes) = self.statement();
        self.tap.at(Way::ToServer, at, Then::Holds);
        link.send(bytes).await;
        self.tap.holds().await;
        match by {
            By::Leaving => {
                link.leave().await;
                self.tap.let_go();
                let mut next = self.proxy.link("acme_app").await;
                self.goes_on_for(&mut next, &what).await;
                next
            }
            By::Cancelling => {
                link.cancel().await;
                self.tap.let_go();
                let answer = link.answer().await;
                assert!(answer.code().is_none_or(|code| code == "57014"), "{what}: {answer}");
                self.reads(body, &answer, &what);
                self.goes_on_for(&mut link, &what).await;
                link
            }
        }
    }
}

/// Bytes between two disturbances: `PGTENANT_HAND_OVER_STRIDE`, 1 for every byte. Each takes a server connection or a log-in.
fn stride() -> usize {
    std::env::var("PGTENANT_HAND_OVER_STRIDE").map_or(11, |stride| stride.parse().unwrap())
}

/// An answer up to ReadyForQuery, or to the end of its connection.
async fn to_its_end(link: &mut Link) -> (Answer, bool) {
    let mut frames = Vec::new();
    while let Some(frame) = link.try_frame("the end of an answer").await {
        let is_last = frame.tag == b'Z';
        frames.push(frame);
        if is_last {
            return (Answer(frames), true);
        }
    }
    (Answer(frames), false)
}

const BOTH: [Protocol; 2] = [Protocol::Simple, Protocol::Extended];

async fn every_cut(context: &str) {
    for protocol in BOTH {
        let mut stage = Stage::new(context, protocol).await;
        let lengths = stage.lengths().await;
        let mut link = stage.proxy.link("acme_app").await;
        let (mut codes, mut tried) = (BTreeMap::new(), 0);
        for (way, length) in [(Way::ToServer, lengths[0]), (Way::ToProxy, lengths[1])] {
            assert!(length > 100, "a hand-over is more: {length}");
            for at in (0..length).step_by(stride()) {
                *codes.entry(stage.cut(&mut link, (way, at)).await).or_insert(0) += 1;
                tried += 1;
            }
        }
        stage.goes_on("after all").await;
        stage.assert_stored().await;
        println!("{context} {protocol:?}: {tried} bytes {lengths:?}, {codes:?}");
    }
}

async fn every_pause(context: &str, by: By) {
    for protocol in BOTH {
        let mut stage = Stage::new(context, protocol).await;
        let [length, _] = stage.lengths().await;
        let mut link = stage.proxy.link("acme_app").await;
        for at in (0..length).step_by(stride()) {
            link = stage.hold(link, by, at).await;
        }
        stage.assert_stored().await;
    }
}

#[tokio::test]
async fn a_server_that_is_lost_at_any_byte_of_a_plain_hand_over_costs_no_tenant_its_rows() {
    every_cut("plain").await;
}

#[tokio::test]
async fn a_server_that_is_lost_at_any_byte_of_a_sealed_hand_over_costs_no_tenant_its_rows() {
    every_cut("sealed").await;
}

#[tokio::test]
async fn a_client_that_leaves_at_any_byte_of_a_hand_over_leaves_nothing_behind() {
    for context in ["plain", "sealed"] {
        every_pause(context, By::Leaving).await;
    }
}

#[tokio::test]
async fn a_cancellation_at_any_byte_of_a_hand_over_meets_its_own_statement_only() {
    for context in ["plain", "sealed"] {
        every_pause(context, By::Cancelling).await;
    }
}

/// What fails while it runs, with the statements in front of it done: found in a hand-over, and put in its place.
const FAILING: [(&str, &str); 9] = [
    ("SET SESSION AUTHORIZATION DEFAULT", "SET SESSION AUTHORIZATION DEFAULX"),
    ("RESET ALL", "RESET ALX"),
    ("CLOSE ALL", "CLOSE ALX"),
    ("DEALLOCATE ALL", "DEALLOCATE ALX"),
    ("SET seed TO ", "SET sead TO "),
    ("DISCARD TEMP", "DISCARD TEMX"),
    ("DISCARD SEQUENCES", "RESET seeeeeeeeed"),
    ("BEGIN ISOLATION", "BEGIX ISOLATION"),
    ("COMMIT", "COMMIX"),
];

#[tokio::test]
async fn a_hand_over_of_which_a_statement_fails_runs_nothing_of_the_client() {
    for context in ["plain", "sealed"] {
        for protocol in BOTH {
            let mut stage = Stage::new(context, protocol).await;
            let own: &[(&str, &str)] = match (context, protocol) {
                ("sealed", _) => {
                    &[("\"nonce\" TO '", "\"nonce\" TO x"), ("pgtenant.hand_over(", "pgtenant.hand_ovex(")]
                }
                (_, Protocol::Extended) => &[("RELEASE \"pgtenant\"", "RELEASE \"pgtenanx\"")],
                _ => &[],
            };
            let mut link = stage.proxy.link("acme_app").await;
            for (from, to) in FAILING.iter().chain(own) {
                let what = format!("{context} {protocol:?}: {to}");
                stage.taken().await;
                let (body, bytes) = stage.statement();
                stage.tap.change(from.as_bytes(), to.as_bytes());
                let answer = link.ask(bytes).await;
                assert!(!stage.tap.waits_for_change(), "{what} was never sent");
                stage.reads(body, &answer, &what);
                stage.goes_on_for(&mut link, &what).await;
            }
            stage.assert_stored().await;
        }
    }
}
