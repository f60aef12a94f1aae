//! The small families of sequences that are known to be hard, each around one situation. The numbers are those of the
//! faults that were found in them.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::batches::{begun, close, consequential, deallocate, portals, suspended, unnamed};
use super::copying::{held, rows, tunnel, unfinished};
use super::failing::failed;
use super::generator::Writer;
use super::handing_over::{tampered, turns};
use super::sessions::{departures, encodings, forged, malformed, pins, procedures, residue, startup, types};
use super::step::{Event, Message, bind, execute, parse, query};

/// Startup parameters of a client.
type Startup = Vec<(&'static str, &'static str)>;

/// A kind of turn.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) weight: u32,
    /// Whether other messages are mixed in.
    pub(super) is_disturbed: bool,
    pub(super) startup: fn(&mut StdRng) -> Startup,
    pub(super) write: fn(&mut Writer<'_>) -> Vec<Event>,
}

/// All families.
pub(super) const FAMILIES: &[Family] = &[
    // What drivers do: whole segments in order, one statement each.
    Family { is_disturbed: false, ..family("orderly", 10, orderly) },
    // Messages of all kinds.
    family("soup", 10, soup),
    // W1: messages of other kinds within COPY from the client.
    family("tunnel", 6, tunnel),
    // W2: a message is unfinished when the server becomes idle.
    Family { is_disturbed: false, ..family("held", 4, held) },
    // W2, the same with the other client waiting for the server.
    Family { is_disturbed: false, ..family("unfinished", 5, unfinished) },
    // A message is begun behind another one.
    Family { is_disturbed: false, ..family("begun", 3, begun) },
    // W3: rows of a failing COPY in many messages.
    family("rows", 6, rows),
    // W4: portals executed in another order than they were bound.
    family("portals", 8, portals),
    // W5: a transaction ends inside a text.
    family("texts", 6, texts),
    // W6: a portal stays open while other messages run.
    family("suspended", 6, suspended),
    // W7: what the client asked for at startup, and RESET.
    Family { startup: parameters, ..family("startup", 5, startup) },
    // W8: DEALLOCATE of a statement that the protocol prepared.
    family("deallocate", 5, deallocate),
    // W9: Close in front of Execute.
    family("close", 5, close),
    // W11, W13, W21, W22: statements that were prepared before a definition changed.
    Family { is_disturbed: false, ..family("types", 6, types) },
    // What keeps a client on its server.
    Family { is_disturbed: false, ..family("pins", 4, pins) },
    // W14: the same with departures.
    Family { is_disturbed: false, ..family("residue", 4, residue) },
    // W24: procedures that commit.
    Family { is_disturbed: false, ..family("procedures", 3, procedures) },
    // W25: the unnamed statement after errors and skipped messages.
    family("unnamed", 4, unnamed),
    // Statements and portals in a failed block, and behind its end in one pipeline.
    Family { is_disturbed: false, ..family("failed", 5, failed) },
    // Code of the database that changes the tenant's setting.
    Family { is_disturbed: false, ..family("forged", 4, forged) },
    // Clients with different encodings.
    Family { startup: encoding, is_disturbed: false, ..family("encodings", 3, encodings) },
    // Clients with different settings take turns.
    Family { startup: parameters, is_disturbed: false, ..family("turns", 8, turns) },
    // A server answers a hand-over with something else, or fails it.
    Family { is_disturbed: false, ..family("tampered", 8, tampered) },
    // Clients that leave in the middle of something.
    Family { is_disturbed: false, ..family("departures", 5, departures) },
    // What is no message.
    Family { is_disturbed: false, ..family("malformed", 2, malformed) },
];

const fn family(name: &'static str, weight: u32, write: fn(&mut Writer<'_>) -> Vec<Event>) -> Family {
    Family { name, weight, is_disturbed: true, startup: nothing, write }
}

fn nothing(_: &mut StdRng) -> Startup {
    Vec::new()
}

fn parameters(random: &mut StdRng) -> Startup {
    let all: &[&[(&str, &str)]] = &[
        &[],
        &[("TimeZone", "Europe/Paris")],
        &[("DateStyle", "German")],
        &[("search_path", "other, public")],
        &[("TimeZone", "Europe/Paris"), ("work_mem", "9MB")],
    ];
    all.choose(random).unwrap().to_vec()
}

fn encoding(random: &mut StdRng) -> Startup {
    let all: &[&[(&str, &str)]] = &[&[], &[("client_encoding", "LATIN1")]];
    all.choose(random).unwrap().to_vec()
}

fn orderly(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = Vec::new();
    for _ in 0..writer.random.random_range(1..8) {
        let text = match writer.random.random_range(0..10) {
            0..3 => writer.read(),
            3..6 => writer.write(),
            6..8 => writer.one(&["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a"]).to_owned(),
            8 => writer
                .one(&["SET TimeZone = 'Asia/Tokyo'", "SET work_mem = '5MB'", "RESET work_mem"])
                .to_owned(),
            _ => writer.failure(),
        };
        match writer.random.random_range(0..4) {
            0 | 1 => messages.push(query(text)),
            2 => messages.extend([
                parse("", text),
                bind("", ""),
                Message::DescribePortal(""),
                execute("", 0),
                Message::Sync,
            ]),
            _ => {
                messages.extend([Message::CloseStatement("s1"), parse("s1", text), Message::Sync]);
                for _ in 0..writer.random.random_range(1..3) {
                    messages.extend([bind("", "s1"), execute("", 0), Message::Sync]);
                }
            }
        }
    }
    let steps = writer.all_sent(messages);
    writer.events("orderly", steps)
}

fn soup(writer: &mut Writer<'_>) -> Vec<Event> {
    let count = writer.random.random_range(1..10);
    let messages = (0..count).map(|_| writer.message()).collect();
    let steps = writer.all_sent(messages);
    writer.events("soup", steps)
}

fn texts(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = Vec::new();
    for _ in 0..writer.random.random_range(1..4) {
        let count = writer.random.random_range(2..5);
        let statements: Vec<String> = (0..count)
            .map(|_| if writer.chance(45) { writer.control() } else { consequential(writer) })
            .collect();
        messages.push(query(statements.join("; ")));
    }
    let steps = writer.all_sent(messages);
    writer.events("texts", steps)
}
