//! What one server received and answered: whose its frames are, and where one client's end and another's begin.

use super::tampering::Answers;
use super::{OwnTexts, Record};
use crate::support::link::Frame;

/// How a hand-over begins, with or without a reset.
const HAND_OVER: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE;";
/// How a reset begins.
pub(super) const RESET: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE;SET SESSION AUTHORIZATION DEFAULT;RESET ALL;";
/// Where a hand-over ends that stands in front of a client's text.
const END_OF_FRONT: &[u8] = b";COMMIT;";
/// How texts of the proxy's own begin.
const OWN_TEXTS: &[&str] = &[
    // The reset of a hand-over, its entry, and what lets the entry last; what is asked about a transaction's session.
    HAND_OVER,
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;SELECT '",
    "SELECT pgtenant.hand_over(",
    "RELEASE \"pgtenant\"",
    "COMMIT",
    // The assertion of a plain context, also in a transaction of its own.
    "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE",
    "SET \"app\".\"tenant_id\" TO ",
    "SET LOCAL \"app\".\"tenant_id\" TO ",
    // Who and how old a new server is.
    "SELECT pg_catalog.pg_backend_pid(), ",
    // In the place of a statement that does not run as it stands.
    "refused by pgtenant",
    "RESET \"pgtenant\".\"choice\"",
    "DISCARD TEMP",
    "ROLLBACK",
];
/// What is known of one server.
#[derive(Default)]
pub(super) struct Server {
    name: String,
    /// The client whose frame was the last that is only one client's.
    owner: Option<usize>,
    /// ReadyForQuery messages that the server owes.
    owed: usize,
    /// COPY makes it uncertain whether a Sync counts.
    counts: Counts,
    /// Whether the last frame is the server's ReadyForQuery with status idle.
    phase: Phase,
    /// Whose text the last Parse was of.
    parsed: Origin,
    /// Whether it reads the rows of a COPY.
    copying: Copying,
    /// What it has answered to hand-overs.
    pub(super) kept: Answers,
    texts: Texts,
    ending: Ending,
}

#[derive(Default, PartialEq, Eq)]
enum Counts {
    #[default]
    Exactly,
    Roughly,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    #[default]
    Busy,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Copying {
    #[default]
    No,
    Rows,
}

/// The client's texts in the open transaction.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Texts {
    /// One statement each, and none of them a COMMIT.
    #[default]
    Single,
    /// The transaction may have ended within one.
    Mixed,
}

/// How a transaction ended; of an open one, what its last statement was.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Ending {
    #[default]
    Other,
    /// By a ROLLBACK of all of it.
    RolledBack,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Origin {
    #[default]
    Client,
    Proxy,
}

// === impl Server ===

impl Server {
    pub(super) fn new(number: usize) -> Self {
        Self { name: format!("server {number}"), ..Self::default() }
    }

    pub(super) fn receives(&mut self, frame: &Frame, record: &mut Record) {
        let tag = char::from(frame.tag);
        record.remember(format!("{} <- {tag} {}", self.name, shown(&frame.body)));
        if let Some(found) = self.objection(frame, record) {
            let text = format!("{}: {found}: {tag} {}", self.name, shown(&frame.body));
            record.violations.push(text);
        }
        if matches!(frame.tag, b'Q' | b'F' | b'S') {
            self.owed += 1;
        }
        if frame.tag != b'p' {
            let stays = matches!(frame.tag, b'd' | b'c' | b'f' | b'H');
            self.phase = if stays { self.phase } else { Phase::Busy };
        }
    }

    /// What is wrong with a frame.
    fn objection(&mut self, frame: &Frame, record: &Record) -> Option<String> {
        if !b"QPBDECSHdcfFXp".contains(&frame.tag) {
            return Some("a message of an unknown kind".to_owned());
        }
        if self.copying == Copying::Rows && !b"dcfX".contains(&frame.tag) {
            self.copying = Copying::No;
            return Some("a message that is no row within COPY".to_owned());
        }
        if matches!(frame.tag, b'c' | b'f') {
            self.copying = Copying::No;
        }
        if frame.tag == b'd' && record.is_late(&frame.body) {
            return Some("rows that their client has sent behind the end of its COPY".to_owned());
        }
        if self.is_own(frame) {
            return self.objection_to_question(frame, record);
        }
        let sent = behind_begin(key(frame.tag, &clients_part(frame))?, record);
        if sent[0] == b'Q' && may_be_mixed(&sent[1..]) {
            self.texts = Texts::Mixed;
        }
        let part_of = |key: &&Vec<u8>| {
            // Rows go on in pieces.
            frame.tag == b'd' && key[0] == b'd' && key.windows(sent.len() - 1).any(|part| *part == sent[1..])
        };
        let sender = record.sent.get(&sent).or_else(|| record.sent.get(record.sent.keys().find(part_of)?));
        let Some(sender) = sender else {
            let may_be_own = record.own_texts == OwnTexts::Unknown && b"QPB".contains(&frame.tag);
            if may_be_own || is_begin_alone(&sent, record) {
                return None;
            }
            return Some("a frame that no client sent".to_owned());
        };
        if sender.is_forbidden {
            return Some("a message that must not reach a server".to_owned());
        }
        let mut clients = sender.clients.iter();
        let (Some(client), None) = (clients.next(), clients.next()) else { return None };
        let before = self.owner.replace(*client);
        let is_clear = match self.counts {
            // Where a hand-over of another build begins is not known.
            _ if record.own_texts == OwnTexts::Unknown => true,
            Counts::Exactly => self.owed == 0 || self.phase == Phase::Idle,
            Counts::Roughly => true,
        };
        match before {
            Some(before) if before != *client && !is_clear => {
                Some(format!("sent for client {client} while client {before} awaits answers"))
            }
            _ => None,
        }
    }

    /// What is wrong with a frame that is the proxy's, or a client's text that begins as one.
    fn objection_to_question(&mut self, frame: &Frame, record: &Record) -> Option<String> {
        let is_text = !frame.body.starts_with(HAND_OVER.as_bytes()) && !frame.body.starts_with(QUESTION);
        let key = key(frame.tag, &frame.body)?;
        let may_be_clients = frame.tag == b'Q' || record.sent.contains_key(&key);
        if is_text && may_be_clients && may_be_mixed(&key[1..]) {
            self.texts = Texts::Mixed;
        }
        let asks = memchr::memmem::find(&frame.body, b"current_setting(").is_some();
        let is_in_vain = frame.body.starts_with(QUESTION) && asks && self.ending == Ending::RolledBack;
        is_in_vain.then(|| "a question for the settings of a transaction that was rolled back".to_owned())
    }

    fn is_own(&mut self, frame: &Frame) -> bool {
        let mut texts = frame.body.split(|byte| *byte == 0);
        let first = texts.next().unwrap_or_default();
        let second = texts.next().unwrap_or_default();
        let is_own_text = |text: &[u8]| {
            OWN_TEXTS.iter().any(|own| text.starts_with(own.as_bytes()))
                || PUT_BACK.iter().any(|own| text.starts_with(own))
        };
        match frame.tag {
            b'Q' => {
                // The assertion of a plain context stands in front of a client's text or alone.
                let is_own = is_own_text(first) && clients_part(frame).len() <= 1;
                let is_own =
                    is_own || (is_own_text(first) && !first.starts_with(SET_TENANT) && !is_front(first));
                // A refused message stands where its client's would.
                let is_refusal = first.starts_with(b"refused by pgtenant");
                let is_between = (is_own && !is_refusal) || is_front(first);
                if is_between && (self.owed == 0 || self.phase == Phase::Idle) {
                    // A hand-over, also in front of a text, or a question after the last transaction: nothing is owed here.
                    self.owner = None;
                    self.owed = 0;
                    self.counts = Counts::Exactly;
                }
                is_own
            }
            b'P' => {
                self.parsed = if is_own_text(second) { Origin::Proxy } else { Origin::Client };
                self.parsed == Origin::Proxy
            }
            // Without values it tells nothing: the proxy may send a simple query as Parse, Bind, Execute.
            b'f' => first == b"another message arrived during COPY",
            b'B' => {
                (first.is_empty() || first == b"pgtenant")
                    && (self.parsed == Origin::Proxy
                        || second == b"pgtenant_tenant"
                        || frame.body[..] == [0; 8])
            }
            _ => false,
        }
    }

    pub(super) fn answers(&mut self, frame: &Frame, record: &mut Record) {
        record.remember(format!("{} -> {}", self.name, shown_answer(frame)));
        match frame.tag {
            b'Z' => {
                self.owed = self.owed.saturating_sub(1);
                self.phase = if frame.body[..] == *b"I" { Phase::Idle } else { Phase::Busy };
                if self.phase == Phase::Idle && std::mem::take(&mut self.texts) == Texts::Mixed {
                    self.ending = Ending::Other;
                }
            }
            b'A' | b'S' | b'N' => {}
            tag => {
                self.phase = Phase::Busy;
                let is_rollback = tag == b'C' && frame.body[..] == *b"ROLLBACK\0";
                self.ending = if is_rollback { Ending::RolledBack } else { Ending::Other };
                self.copying = if tag == b'G' { Copying::Rows } else { Copying::No };
                if tag == b'G' {
                    self.counts = Counts::Roughly;
                }
            }
        }
    }
}

/// How the question begins that the proxy asks about a transaction's session.
const QUESTION: &[u8] = b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;SELECT '";
/// How the statement that sets a tenant begins.
const SET_TENANT: &[u8] = b"SET \"app\".\"tenant_id\" TO '";
/// How the statements that put a client's settings back begin.
const PUT_BACK: &[&[u8]] = &[
    b"SELECT pg_catalog.set_config(",
    b"SET application_name TO '",
    b"SET LOCAL application_name TO '",
    b"SET client_encoding TO '",
    b"SET LOCAL client_encoding TO '",
    b"SET datestyle TO '",
    b"SET LOCAL datestyle TO '",
    b"SET extra_float_digits TO '",
    b"SET LOCAL extra_float_digits TO '",
    b"SET intervalstyle TO '",
    b"SET LOCAL intervalstyle TO '",
    b"SET timezone TO '",
    b"SET LOCAL timezone TO '",
];
/// What ends the implicit block of a pipeline on PostgreSQL 18.
const NOTHING: &[u8] = b"RESET \"pgtenant\".\"choice\"";
/// What stands around the name of a statement in front of its DEALLOCATE.
const PREPARED: [&[u8]; 2] = [b"PREPARE \"", b"\" AS SELECT 1;"];

/// Whether a client has sent a BEGIN. It goes on in the proxy's own spelling, where the client's has comments or semicolons
/// around it.
fn has_begun(record: &Record) -> bool {
    record.sent.keys().any(|known| {
        let text = known[1..].to_ascii_lowercase();
        known[0] == b'Q'
            && (memchr::memmem::find(&text, b"begin").or(memchr::memmem::find(&text, b"start"))).is_some()
    })
}

/// Whether it is a BEGIN that waited, as a Query of its own.
fn is_begin_alone(key: &[u8], record: &Record) -> bool {
    key.starts_with(b"QBEGIN") && !key.contains(&b';') && has_begun(record)
}

/// A BEGIN that waited stands in front of the text of the next Query, both as clients sent them.
fn behind_begin(key: Vec<u8>, record: &Record) -> Vec<u8> {
    let begins = |text: &[u8]| {
        let starts =
            |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        starts(b"begin") || starts(b"start")
    };
    let waited = record.sent.keys().filter(|known| known[0] == b'Q' && begins(&known[1..]));
    let rest = waited.filter_map(|begin| key.strip_prefix(begin.as_slice())?.strip_prefix(b";"));
    let canonical = key.strip_prefix(b"QBEGIN").and_then(|behind| {
        let at = behind.iter().position(|byte| *byte == b';')?;
        let rest = [b"Q", behind.get(at + 1..)?].concat();
        (!record.sent.contains_key(&key) && record.sent.contains_key(&rest) && has_begun(record))
            .then_some(rest)
    });
    if let Some(rest) = canonical {
        return rest;
    }
    match rest.min_by_key(|rest| rest.len()) {
        Some(rest) if key[0] == b'Q' && !record.sent.contains_key(&key) => [b"Q", rest].concat(),
        _ => key,
    }
}

/// Whether a transaction may have ended within a text of a client, or the proxy cannot know.
fn may_be_mixed(text: &[u8]) -> bool {
    let starts = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let quotes = memchr::memchr_iter(b'\'', text).count();
    text.contains(&b';') || starts(b"commit") || starts(b"end") || starts(b"call") || quotes % 2 == 1
}

/// Whether a text begins with a hand-over that stands in front of a client's.
fn is_front(text: &[u8]) -> bool {
    text.starts_with(HAND_OVER.as_bytes())
        && text.windows(END_OF_FRONT.len()).any(|part| part == END_OF_FRONT)
}

/// A frame's body without what the proxy puts into the text of a Query.
fn clients_part(frame: &Frame) -> Vec<u8> {
    let mut body = frame.body.to_vec();
    if frame.tag != b'Q' {
        return body;
    }
    if is_front(&body) {
        let end = body.windows(END_OF_FRONT.len()).position(|part| part == END_OF_FRONT).unwrap_or_default();
        body.drain(..end + END_OF_FRONT.len());
    }
    if body.starts_with(SET_TENANT) {
        let end = body.iter().position(|byte| *byte == b';').map_or(0, |at| at + 1);
        body.drain(..end);
    }
    let find = |body: &[u8], part: &[u8]| body.windows(part.len()).position(|window| window == part);
    while let Some(at) = find(&body, PREPARED[0]) {
        let Some(length) = find(&body[at..], PREPARED[1]) else { break };
        body.drain(at..at + length + PREPARED[1].len());
    }
    for own in PUT_BACK.iter().copied().chain([SET_TENANT, NOTHING]) {
        let own = [b";", own].concat();
        while let Some(at) = body.windows(own.len()).position(|part| part == own) {
            let rest = &body[at + 1..];
            let length = rest.iter().position(|byte| matches!(byte, b';' | 0)).unwrap_or(rest.len());
            body.drain(at..at + 1 + length);
        }
    }
    body
}

/// What of a frame the proxy does not change. A simple query may be sent as Parse, and names of statements are
/// others on servers. None: nothing of it tells whose it is.
pub(super) fn key(tag: u8, body: &[u8]) -> Option<Vec<u8>> {
    let after_name = |body: &[u8]| {
        let end = body.iter().position(|byte| *byte == 0)?;
        Some(body[end + 1..].to_vec())
    };
    let text = |body: &[u8]| body.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let (kind, content) = match tag {
        b'Q' => (b'Q', text(body)),
        b'P' => (b'Q', text(&after_name(body)?)),
        b'B' => (b'B', [text(body), after_name(&after_name(body)?)?].join(&0)),
        b'd' | b'f' => (tag, body.to_vec()),
        _ => return None,
    };
    Some([vec![kind], content].concat())
}

fn shown(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(120).collect();
    text.replace('\0', "·").replace('\n', "\\n")
}

fn shown_answer(frame: &Frame) -> String {
    if b"TDCZEdSR".contains(&frame.tag) { frame.to_string() } else { char::from(frame.tag).to_string() }
}
