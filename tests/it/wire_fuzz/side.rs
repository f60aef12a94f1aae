//! One connection of a client, and what it received in a turn.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::Link;
use crate::support::link::Frame;

/// One connection and what it received in this turn.
pub(super) struct Side {
    pub(super) link: Option<Link>,
    pub(super) frames: Vec<Frame>,
}

// === impl Side ===

impl Side {
    pub(super) fn new(link: Link) -> Self {
        Self { link: Some(link), frames: Vec::new() }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.link.is_none()
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        if let Some(link) = &mut self.link {
            // What the other side has said before it closed is read later.
            drop(link.try_send(bytes).await);
        }
    }

    /// Reads one frame; false if none comes in time or the connection has ended.
    pub(super) async fn read(&mut self, patience: Duration) -> bool {
        let Some(link) = &mut self.link else { return false };
        match timeout(patience, link.try_frame("a frame of the fuzzer")).await {
            Ok(Some(frame)) => {
                self.frames.push(frame);
                true
            }
            Ok(None) => {
                self.link = None;
                false
            }
            Err(_) => false,
        }
    }

    pub(super) fn count(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.frames.iter().filter(|frame| wanted(frame)).count()
    }

    pub(super) fn ready(&self) -> usize {
        self.count(|frame| frame.tag == b'Z')
    }

    /// How far the answers are: segments that were answered, and frames after them. Not counted is what may come at
    /// another point on the two sides.
    pub(super) fn progress(&self) -> (usize, usize) {
        let last = self.frames.iter().rposition(|frame| frame.tag == b'Z').map_or(0, |place| place + 1);
        let after = self.frames[last..].iter().filter(|frame| !b"SNAT".contains(&frame.tag)).count();
        (self.ready(), after)
    }

    /// Takes away what comes after so many answered segments.
    pub(super) fn truncate(&mut self, segments: usize) {
        let mut ready = 0;
        self.frames.retain(|frame| {
            let stays = ready < segments;
            ready += usize::from(frame.tag == b'Z');
            stays
        });
    }

    pub(super) fn has_marker(&self, marker: &str) -> bool {
        let is_marker = |frame: &Frame| frame.tag == b'D' && frame.values() == [marker];
        let place = self.frames.iter().rposition(is_marker);
        place.is_some_and(|place| self.frames[place..].iter().any(|frame| frame.tag == b'Z'))
    }

    /// Whether the server reads the rows of a COPY, as far as is known.
    pub(super) fn awaits_rows(&self) -> bool {
        let last = self.frames.iter().rfind(|frame| !b"SNA".contains(&frame.tag));
        last.is_some_and(|frame| frame.tag == b'G')
    }

    /// The transaction status of the last ReadyForQuery, if that is the last frame.
    pub(super) fn status(&self) -> Option<u8> {
        let last = self.frames.iter().rfind(|frame| !b"SNA".contains(&frame.tag))?;
        (last.tag == b'Z').then(|| last.body[0])
    }
}
