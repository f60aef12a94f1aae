//! Any frames of a client, in any pieces, against a server that answers as PostgreSQL does, at any moment. What holds
//! whatever comes: no panic; a server gets whole frames only, and nothing but COPY's while it reads rows; it is never
//! found in doubt; a conversation is quiet only with a server that is; the client gets whole frames; and once everything
//! was answered, a Sync brings peace.

use super::frames::{Direction, encode_all};
use super::model::{BlockStatus, Model};
use super::{Mode, Talk, in_force, name};
use crate::net::buffer::{BACKPRESSURE_BYTES, ReadBuffer, WriteBuffer};
use crate::relay::{Absorbed, ClientSide, LongTexts, Pumped, RelayFault, TextRead};
use crate::wire::backend::Status;
use crate::wire::{encode, frame};

const TEXTS: &[&str] = &[
    "SELECT 1",
    "SELECT nope",
    "SELECT 1/0",
    "SELECT $1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "INSERT INTO t VALUES (1)",
    "COPY t FROM STDIN",
    "COPY t TO STDOUT",
    "COPY nope FROM STDIN",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY t FROM STDIN; SELECT 2",
    "COPY t FROM STDIN; COPY u FROM STDIN",
    "BEGIN; SELECT 1",
    "COMMIT; SELECT 1",
    "SELECT 1/0; SELECT 2",
    "SET x.y = 1",
    "SET LOCAL x.y = 2",
    "RESET ALL",
    "RESET timezone",
    "SHOW timezone",
    "DISCARD ALL",
    "DISCARD SEQUENCES",
    "DEALLOCATE s",
    "DEALLOCATE ALL",
    "SET ROLE x",
    "SET app.tenant_id = 'b'",
    "SELECT 'a",
    "",
    ";",
];
const NAMES: &[&str] = &["-", "-", "-", "s", "p", "q"];

/// Decisions, taken from bytes. At their end everything is the first choice.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % count
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    /// One frame, or what is none.
    fn frame(&mut self) -> Vec<u8> {
        let name = self.one(NAMES);
        let text = match self.below(24) {
            0..5 => format!("Q {}", self.one(TEXTS)),
            5..8 => format!("P - {} | B {name} - | E {name}", self.one(TEXTS)),
            8 => format!("P s {} | S | B {name} s", self.one(TEXTS)),
            9 => format!("P {name} {}", self.one(TEXTS)),
            10 => format!("B {} {name}", self.one(NAMES)),
            11 => format!("B - {name} | E -"),
            12 => format!("E {name}"),
            13..15 => return limited(name),
            15..18 => "S".to_owned(),
            18 => "H".to_owned(),
            19 => format!("D {} {name}", self.one(&["S", "P"])),
            20 => format!("C {} {name}", self.one(&["S", "P"])),
            21 => self.one(&["d one", "d bad", "d ", "c", "f no"]).to_owned(),
            22 => self.one(&["c", "c", "f no", "F"]).to_owned(),
            _ => match self.below(8) {
                0 => return b"w\0\0\0\x04".to_vec(),
                1 => return b"B\0\0\0\x05x".to_vec(),
                2 => return b"Q\0\0\0\x03".to_vec(),
                _ => format!("d {}", "x".repeat(1 << self.below(15))),
            },
        };
        encode_all(&text, Direction::Client, "")
    }
}

/// Execute of one row.
fn limited(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::frame(&mut out, b'E', |out| {
        encode::cstr(out, name.trim_start_matches('-').as_bytes());
        out.extend_from_slice(&[0, 0, 0, 1]);
    });
    out
}

/// The client's hold on its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Kept between transactions.
    Kept,
    /// Given back when the client is idle.
    Taken,
    /// None: the next request that needs a server takes it.
    Nothing,
}

/// A conversation under way, and what is on its ways.
struct Walk {
    talk: Talk,
    model: Model,
    hold: Hold,
    /// What the client has sent and the proxy has not read.
    unread: Vec<u8>,
    /// What the client got.
    got: Vec<u8>,
    is_over: bool,
}

impl Walk {
    fn new(talk: Talk, hold: Hold) -> Self {
        let model = Model::default();
        Self { talk, model, hold, unread: Vec::new(), got: Vec::new(), is_over: false }
    }

    /// The proxy reads so many bytes of what the client and the server have sent, and moves what can be moved.
    fn moves(&mut self, from_client: usize, from_server: usize) {
        let of_client: Vec<u8> = self.unread.drain(..from_client.min(self.unread.len())).collect();
        let answers = &mut self.model.answers;
        let of_server: Vec<u8> = answers.drain(..from_server.min(answers.len())).collect();
        self.talk.client_input.extend_from_slice(&of_client);
        self.talk.server_input.extend_from_slice(&of_server);
        let mut output = WriteBuffer::default();
        let mut input = ReadBuffer::of(&std::mem::take(&mut self.talk.client_input));
        let mut answers = ReadBuffer::of(&std::mem::take(&mut self.talk.server_input));
        loop {
            let before = (input.len(), answers.len(), self.hold);
            let long = LongTexts::AreRead(&|| false);
            let mut client = ClientSide { input: &mut input, output: &mut output, long };
            if self.hold == Hold::Nothing {
                self.looks(&mut client);
            } else {
                self.relays(&mut client, &mut answers);
            }
            if (input.len(), answers.len(), self.hold) == before || self.is_over {
                break;
            }
        }
        self.talk.client_input = input.bytes().to_vec();
        self.talk.server_input = answers.bytes().to_vec();
        self.got.extend_from_slice(output.space());
        self.delivers();
    }

    /// With a server.
    fn relays(&mut self, client: &mut ClientSide<'_>, answers: &mut ReadBuffer) {
        let Talk { conversation, server, .. } = &mut self.talk;
        match conversation.pump(client, server) {
            Ok(Pumped::All | Pumped::Long | Pumped::Ready(_)) => {}
            Ok(Pumped::Goodbye) | Err(RelayFault::Protocol(_) | RelayFault::TooLarge { .. }) => {
                self.is_over = true;
            }
            Err(fault) => panic!("a client cannot put a server in doubt: {}", name(&fault)),
        }
        match conversation.absorb(client, answers, server) {
            Ok(Absorbed::All { .. }) => {}
            Ok(Absorbed::Ready(status)) => {
                let expected = match self.model.status() {
                    BlockStatus::Idle => Status::Idle,
                    BlockStatus::Block => Status::Transaction,
                    BlockStatus::Failed => Status::Failed,
                };
                assert_eq!(status, expected);
                if self.hold == Hold::Taken && status == Status::Idle && conversation.is_quiet() {
                    self.hold = Hold::Nothing;
                }
            }
            Err(fault) => {
                panic!("a server that answers as PostgreSQL does is not in doubt: {}", name(&fault))
            }
        }
    }

    /// Without a server: looks at the request in front as the session does.
    fn looks(&mut self, client: &mut ClientSide<'_>) {
        let conversation = &mut self.talk.conversation;
        let Ok(header) = frame::header(client.input.bytes()) else {
            self.is_over = true;
            return;
        };
        let Some(header) = header.filter(|header| header.total <= client.input.len()) else { return };
        let bytes = client.input.bytes().to_vec();
        let (message, behind) = bytes.split_at(header.total);
        match header.tag {
            b'S' => {
                client.input.consume(header.total);
                encode::ready_for_query(client.output.space(), conversation.told().byte());
            }
            b'H' | b'd' | b'c' | b'f' => client.input.consume(header.total),
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' => {
                let chosen = conversation.choose_by_comment(message);
                let chosen = chosen.and_then(|()| conversation.choose_by_text(message, behind));
                if chosen.as_ref().is_ok_and(|read| *read == TextRead::InPart) {
                    return;
                }
                match chosen.map(|_| conversation.answer_without_server(client)) {
                    Ok(None) => self.hold = Hold::Taken,
                    Ok(Some(Ok(()))) => {}
                    // The session tells the client; the rest of an extended segment is dropped there.
                    Err(_) | Ok(Some(Err(_))) if header.tag == b'Q' => {
                        conversation.fail_block();
                        client.input.consume(header.total);
                        encode::ready_for_query(client.output.space(), conversation.told().byte());
                    }
                    Err(_) | Ok(Some(Err(_))) => self.is_over = true,
                }
            }
            _ => self.is_over = true,
        }
    }

    /// The server gets what was written for it, the client reads.
    fn delivers(&mut self) {
        let sent = self.talk.server.output.space();
        assert!(sent.len() <= 2 * BACKPRESSURE_BYTES, "{} bytes wait for the server", sent.len());
        self.model.receives(&std::mem::take(sent));
        if self.talk.conversation.is_quiet() {
            let is_quiet = self.model.is_quiet() && self.talk.server_input.is_empty();
            assert!(is_quiet, "the conversation is quiet, but its server is not");
        }
        while let Ok(Some(header)) = frame::header(&self.got) {
            if self.got.len() < header.total {
                break;
            }
            self.got.drain(..header.total);
        }
    }

    /// The server answers all that it got, and everybody reads all.
    fn settles(&mut self) {
        loop {
            let before = (self.unread.len(), self.talk.client_input.len());
            self.moves(usize::MAX, usize::MAX);
            let mut answered = false;
            while self.model.answers_one() {
                answered = true;
            }
            let after = (self.unread.len(), self.talk.client_input.len());
            if self.is_over || (!answered && self.model.answers.is_empty() && before == after) {
                return;
            }
        }
    }

    /// Everything is answered in the end.
    fn ends(&mut self) {
        for frames in ["f enough | S", "S"] {
            self.settles();
            if self.is_over {
                return;
            }
            self.unread.extend_from_slice(&encode_all(frames, Direction::Client, ""));
        }
        self.settles();
        if self.is_over {
            return;
        }
        assert!(self.talk.conversation.is_between(), "the segment has ended");
        assert!(self.talk.conversation.is_quiet(), "the server has answered everything");
        assert!(self.talk.client_input.is_empty(), "every frame was taken: {:?}", self.talk.client_input);
        assert!(self.got.is_empty(), "the client has whole frames only: {:?}", self.got);
    }
}

/// Walks as these bytes say. Panics where a promise is broken.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "the fuzz target is outside"))]
pub fn walk(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mode = [Mode::Sealed, Mode::Plain, Mode::Bare][choices.below(3)];
    let talk = if choices.below(2) == 0 { in_force(mode) } else { Talk::new(mode) };
    let hold = [Hold::Kept, Hold::Nothing][choices.below(2)];
    let mut walk = Walk::new(talk, hold);
    while !choices.0.is_empty() && !walk.is_over {
        match choices.below(10) {
            0..4 => {
                let frame = choices.frame();
                walk.unread.extend_from_slice(&frame);
            }
            4..6 => walk.moves(1 << choices.below(12), 0),
            6 => {
                walk.model.answers_one();
            }
            7 => walk.moves(0, 1 << choices.below(8)),
            8 => walk.settles(),
            _ => match choices.below(4) {
                0 => walk.model.changes += 1,
                // Another client had the server.
                1 if walk.talk.conversation.is_quiet() && walk.model.status() == BlockStatus::Idle => {
                    walk.talk.server.state.stamp = None;
                }
                _ => {
                    let frame = choices.frame();
                    walk.unread.extend_from_slice(&frame);
                    walk.settles();
                }
            },
        }
    }
    walk.ends();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    /// A thousand walks, the same each time. `PROPTEST_CASES=50000 PROPTEST_RNG_SEED=7` takes others, and more.
    fn config() -> Config {
        let of_environment = Config::default();
        let rng_seed = match of_environment.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            seed @ RngSeed::Fixed(_) => seed,
        };
        Config { cases: of_environment.cases * 4, rng_seed, failure_persistence: None, ..of_environment }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn any_frames_in_any_pieces_keep_the_promises_of_the_relay(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            super::walk(&bytes);
        }
    }
}
