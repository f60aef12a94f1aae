//! A server in doubt, played by the relay in front of it: one hand-over is answered with what belongs to another, or a
//! statement of it fails.

use bytes::{BufMut, Bytes, BytesMut};

use super::server::RESET;
use crate::support::link::Frame;

/// Repeated answers in the life of a proxy; one more, and its breaker stops everything.
const MAX_REPEATS: usize = 2;
/// Behind this statement of a reset stands the one that fails.
const FAILS_BEHIND: &str = "RESET ALL;";

/// What is done to one hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tampering {
    /// In front of its answers stand those of the hand-over before and of the transaction behind that.
    Repeats,
    /// The same, without the row that tells one hand-over from another.
    RepeatsWithoutRow,
    /// A statement of it fails with this SQLSTATE.
    Fails(&'static str),
}

/// What is to be done, and what was.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) next: Option<Tampering>,
    /// Hand-overs since the beginning of the sequence to which something was done.
    pub(super) done: usize,
    /// Answers that were repeated to this proxy.
    pub(super) repeats: usize,
}

/// What a server answered to its hand-overs, up to the end of the transactions behind them.
#[derive(Default)]
pub(super) struct Answers {
    before: Vec<Frame>,
    since: Vec<Frame>,
    /// What stands in front of the next answer.
    due: Vec<Frame>,
}

// === impl Plan ===

impl Plan {
    /// Whether one more would stop the proxy.
    pub(super) const fn has_repeated_enough(&self) -> bool {
        self.repeats >= MAX_REPEATS
    }
}

// === impl Answers ===

impl Answers {
    /// The proxy has sent a frame; what the server receives in its place, if that is another.
    pub(super) fn asked(&mut self, frame: &Frame, plan: &mut Plan) -> Option<Frame> {
        if frame.tag != b'Q' || !frame.body.starts_with(RESET.as_bytes()) {
            return None;
        }
        if self.since.last().is_some_and(is_end) {
            self.before = std::mem::take(&mut self.since);
        }
        self.since.clear();
        let tampering = plan.next?;
        let replaced = match tampering {
            Tampering::Fails(sqlstate) => Some(failing(frame, sqlstate)?),
            Tampering::Repeats | Tampering::RepeatsWithoutRow => {
                if self.before.is_empty() || plan.has_repeated_enough() {
                    return None;
                }
                self.due.clone_from(&self.before);
                let row = self.due.iter().position(|frame| frame.tag == b'D');
                if let (Tampering::RepeatsWithoutRow, Some(row)) = (tampering, row) {
                    self.due.remove(row);
                }
                plan.repeats += 1;
                None
            }
        };
        plan.next = None;
        plan.done += 1;
        replaced
    }

    /// The server has sent a frame; what stands in front of it.
    pub(super) fn answered(&mut self, frame: &Frame) -> Vec<Frame> {
        if b"SNA".contains(&frame.tag) {
            return Vec::new();
        }
        if !self.since.last().is_some_and(is_end) {
            self.since.push(frame.clone());
        }
        std::mem::take(&mut self.due)
    }
}

/// Whether nothing of a transaction follows.
fn is_end(frame: &Frame) -> bool {
    frame.tag == b'Z' && frame.body[..] == *b"I"
}

/// A hand-over, one of whose statements fails.
fn failing(frame: &Frame, sqlstate: &str) -> Option<Frame> {
    let text = std::str::from_utf8(&frame.body).ok()?;
    let (before, behind) = text.split_once(FAILS_BEHIND)?;
    let fails = format!("DO $do$BEGIN RAISE EXCEPTION 'tampered' USING ERRCODE = '{sqlstate}'; END$do$;");
    let text = [before, FAILS_BEHIND, &fails, behind].concat();
    Some(Frame { tag: frame.tag, body: Bytes::from(text) })
}

/// A frame as it is sent.
pub(super) fn encode(frame: &Frame, out: &mut BytesMut) {
    out.put_u8(frame.tag);
    out.put_u32(u32::try_from(frame.body.len() + 4).unwrap());
    out.extend_from_slice(&frame.body);
}
