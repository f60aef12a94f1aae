//! One client of the proxy and the same client of PostgreSQL itself. Both are sent the same messages. The direct side
//! says what has to arrive at the proxied one, so that nothing depends on how long an answer takes.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::link::{Answer, Frame};
use crate::support::{Link, message};

use super::compare::{excuse, lacks_failed_portal, objection};
use super::side::Side;
use super::step::{End, Message, Step, TENANTS, Then};

/// Longest time for an answer of the direct side.
const HANG: Duration = Duration::from_secs(3);
/// Silence of the direct side after which nothing more is expected for now. Taken for silence too early, an answer is
/// compared later.
const SILENCE: Duration = Duration::from_millis(4);
/// The short silence of a client.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a sequence does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A fault was found.
    Found(Fault),
    /// Both sides may differ from here on.
    Inconclusive(&'static str),
}

/// A fault.
#[derive(Debug)]
pub(super) struct Fault {
    /// What is the same while a sequence is made shorter.
    pub(super) kind: String,
    pub(super) report: String,
}

impl Stop {
    pub(super) fn found(kind: impl Into<String>, report: impl Into<String>) -> Self {
        Self::Found(Fault { kind: kind.into(), report: report.into() })
    }
}

/// What ends a turn.
pub(super) struct Closing {
    /// Ends an open transaction block.
    pub(super) end: &'static str,
    /// Comes after it.
    pub(super) then: Option<&'static str>,
    /// What the other client sends while this one is still in its transaction block.
    pub(super) early: Option<Vec<u8>>,
}

/// The rest of a message.
struct Held {
    message: Message,
    proxied: Vec<u8>,
    direct: Vec<u8>,
}

/// Both connections of a client.
pub(super) struct Pair {
    pub(super) client: usize,
    pub(super) direct: Side,
    pub(super) proxied: Side,
    /// Bytes of an unfinished message that the client has not sent yet.
    held: Option<Held>,
    /// Bytes of this turn that the proxied side was sent during the turn before.
    early: usize,
    /// Whether all messages of this turn were such that each segment has one ReadyForQuery.
    segments: usize,
    last: Option<Message>,
    /// Whether a segment has begun that no Sync or Query has ended.
    is_segment_open: bool,
    markers: usize,
    /// Longest time in which the proxied side has to give what the direct side gave.
    pub(super) patience: Duration,
    /// Whether the proxy may lose its server.
    pub(super) servers: Servers,
}

/// Whether the proxy may lose its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Servers {
    Last,
    /// Something was done to one.
    MayBeLost,
}

// === impl Pair: sending and reading ===

impl Pair {
    pub(super) fn new(client: usize, links: [Link; 2], patience: Duration) -> Self {
        let [direct, proxied] = links;
        Self {
            client,
            direct: Side::new(direct),
            proxied: Side::new(proxied),
            held: None,
            early: 0,
            segments: 0,
            last: None,
            is_segment_open: false,
            markers: 0,
            patience,
            servers: Servers::Last,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.direct.is_closed()
    }

    pub(super) fn holds_back(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the client is between two transactions but for the message that it holds back.
    pub(super) fn is_idle(&self) -> bool {
        let is_answered = self.direct.ready() == self.segments;
        !self.is_segment_open && is_answered && self.direct.status() == Some(b'I')
    }

    /// What is held back of a message of rows, if the client was told that their COPY has ended; the COPY began behind so
    /// many frames.
    pub(super) fn late_rows(&self, before: usize) -> Option<&[u8]> {
        let held = self.held.as_ref().filter(|held| matches!(held.message, Message::CopyData(_)))?;
        let has_begun = self.proxied.frames.iter().skip(before).any(|frame| frame.tag == b'G');
        (has_begun && !self.proxied.awaits_rows()).then_some(&held.proxied)
    }

    /// Sends steps as they say. With `hold`, the last message up to that place only.
    pub(super) async fn play(
        &mut self,
        steps: &[Step],
        hold: Option<usize>,
        mut other: Option<&mut Self>,
    ) -> Result<(), Stop> {
        let (mut proxied, mut direct) = (Vec::new(), Vec::new());
        for (place, step) in steps.iter().enumerate() {
            if let Message::Malformed(bytes) = &step.message {
                self.write(&mut proxied, &mut direct).await;
                return self.offend(bytes).await;
            }
            let (bytes, direct_bytes) = (step.message.bytes(), step.message.direct_bytes());
            if let Some(hold) = hold
                && place + 1 == steps.len()
            {
                let (first, rest) = split(&bytes, hold);
                let (direct_first, direct_rest) = split(&direct_bytes, hold);
                proxied.extend(first);
                direct.extend(direct_first);
                self.write(&mut proxied, &mut direct).await;
                let message = step.message.clone();
                self.held = Some(Held { message, proxied: rest.to_vec(), direct: direct_rest.to_vec() });
                return self.read_due(other.as_deref_mut()).await;
            }
            if let Some(cut) = step.cut {
                let (first, rest) = split(&bytes, cut);
                proxied.extend(first);
                self.write(&mut proxied, &mut direct).await;
                tokio::time::sleep(PAUSE).await;
                proxied.extend(rest);
            } else {
                proxied.extend(bytes);
            }
            direct.extend(direct_bytes);
            self.note_sent(step.message.clone());
            match step.then {
                Then::More => {}
                Then::Pause => {
                    self.write(&mut proxied, &mut direct).await;
                    tokio::time::sleep(PAUSE).await;
                }
                Then::Answer => {
                    self.write(&mut proxied, &mut direct).await;
                    if step.message.is_answered_at_once() {
                        self.read_due(other.as_deref_mut()).await?;
                    }
                }
            }
        }
        self.write(&mut proxied, &mut direct).await;
        Ok(())
    }

    /// Sends what is no message. Both sides have to object; how they do differs, so the client leaves.
    async fn offend(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.read_due(None).await?;
        if !self.is_idle() {
            return Ok(());
        }
        let before = self.proxied.frames.len();
        self.write(&mut bytes.to_vec(), &mut bytes.to_vec()).await;
        self.follow(None, |side| side.frames.len() > before).await?;
        let code =
            self.proxied.frames.get(before).filter(|frame| frame.tag == b'E').map(|frame| frame.fault().code);
        match code.as_deref() {
            Some("08P01") => {
                self.direct.frames.clear();
                self.proxied.frames.clear();
                Ok(())
            }
            code => Err(Stop::found("malformed", format!("{bytes:?} was answered with {code:?}"))),
        }
    }

    /// Sends the beginning of the next turn, to the proxied side only: the other client holds the server.
    async fn send_early(&mut self, bytes: &[u8]) {
        if !self.is_closed() && self.held.is_none() {
            self.proxied.send(bytes).await;
            self.early = bytes.len();
        }
    }

    async fn write(&mut self, proxied: &mut Vec<u8>, direct: &mut Vec<u8>) {
        let early = self.early.min(proxied.len());
        self.early -= early;
        proxied.drain(..early);
        self.proxied.send(proxied).await;
        self.direct.send(direct).await;
        proxied.clear();
        direct.clear();
    }

    /// The rest of a message that was held back.
    pub(super) async fn release(&mut self) {
        if let Some(mut held) = self.held.take() {
            self.write(&mut held.proxied, &mut held.direct).await;
            self.note_sent(held.message);
        }
    }

    /// Follows segments. Rows that come too late belong to none.
    fn note_sent(&mut self, message: Message) {
        let is_late = matches!(message, Message::CopyData(_) | Message::CopyDone | Message::CopyFail);
        self.segments += usize::from(message.ends_segment());
        self.is_segment_open = !message.ends_segment() && (self.is_segment_open || !is_late);
        self.last = Some(message);
    }

    /// Reads what the direct side has to say now, and as much from the proxied side.
    pub(super) async fn read_due(&mut self, other: Option<&mut Self>) -> Result<(), Stop> {
        while self.direct.ready() < self.segments || self.direct.status().is_none() {
            if !self.direct.read(SILENCE).await {
                break;
            }
        }
        let wanted = self.direct.progress();
        self.follow(other, |side| side.progress() >= wanted).await
    }

    /// Reads from the proxied side until it is far enough. The other client is between two transactions, also if it has
    /// begun a message: nothing may wait for the rest of that.
    async fn follow(
        &mut self,
        other: Option<&mut Self>,
        is_enough: impl Fn(&Side) -> bool,
    ) -> Result<(), Stop> {
        let since = Instant::now();
        while !is_enough(&self.proxied) && !self.proxied.is_closed() {
            let patience = self.patience.saturating_sub(since.elapsed());
            if self.proxied.read(patience).await {
                let last = self.proxied.frames.last();
                let found = last.and_then(|frame| objection(self.client, frame, self.servers));
                let Some(found) = found else { continue };
                while self.direct.read(SILENCE * 5).await {}
                return Err(excuse(&self.direct.frames).map_or(found, Stop::Inconclusive));
            }
            if self.proxied.is_closed() {
                return Ok(());
            }
            // The other client may hold the server where PostgreSQL has ended its connection.
            let theirs = other.as_ref().and_then(|other| excuse(&other.direct.frames));
            let begun = other.is_some_and(|other| other.holds_back());
            let kind = if begun { "waits for the rest of the other client's message" } else { "hangs" };
            let (proxied, direct) = (&self.proxied.frames, &self.direct.frames);
            let answers =
                format!("proxied {}\n  direct  {}", Answer(proxied.clone()), Answer(direct.clone()));
            let hangs = Stop::found(kind, format!("{} {kind}\n  {answers}", TENANTS[self.client]));
            let portal = lacks_failed_portal(direct, proxied).then_some("the unnamed portal of what failed");
            return Err(excuse(direct).or(theirs).or(portal).map_or(hangs, Stop::Inconclusive));
        }
        Ok(())
    }

    /// Whether the direct side has answered everything and waits for the next request.
    fn is_at_rest(&self) -> bool {
        let closed = self.last.as_ref().is_none_or(Message::ends_segment);
        closed
            && self.held.is_none()
            && self.direct.ready() == self.segments
            && self.direct.status().is_some()
    }

    /// Brings both sides to a point between two transactions at which everything was answered.
    pub(super) async fn settle(
        &mut self,
        closing: Closing,
        mut other: Option<&mut Self>,
    ) -> Result<(), Stop> {
        let Closing { end, then, early } = closing;
        self.release().await;
        self.read_due(other.as_deref_mut()).await?;
        if self.segments > 0 && self.is_at_rest() {
            if self.direct.status() != Some(b'I') {
                if let (Some(other), Some(early)) = (&mut other, early) {
                    other.send_early(&early).await;
                }
                self.ask(end, other.as_deref_mut()).await?;
            }
            if self.direct.status() == Some(b'I') {
                return match then {
                    Some(then) => self.ask(then, other).await,
                    None => Ok(()),
                };
            }
        }
        self.markers += 1;
        let marker = format!("marker {}", self.markers);
        let mut bytes = Vec::new();
        if self.direct.awaits_rows() {
            bytes.extend(message::copy_fail("settled"));
        }
        bytes.extend([message::sync(), message::query("ROLLBACK")].concat());
        if let Some(then) = then {
            bytes.extend(message::query(then));
        }
        bytes.extend(message::query(&format!("SELECT '{marker}'")));
        self.write(&mut bytes.clone(), &mut bytes).await;
        while !self.direct.has_marker(&marker) && self.direct.read(HANG).await {}
        if !self.direct.is_closed() && !self.direct.has_marker(&marker) {
            return Err(Stop::Inconclusive("the direct side hangs"));
        }
        if self.direct.is_closed() {
            return self.follow(other, |_| false).await;
        }
        self.follow(other, |side| side.has_marker(&marker)).await
    }

    /// Makes both forget their session; false if one of them does not answer.
    pub(super) async fn discard(&mut self) -> bool {
        let asked = self.ask("DISCARD ALL", None).await;
        let (direct, proxied) = self.take_frames();
        let is_done = |frames: &[Frame]| frames.iter().all(|frame| b"CSZ".contains(&frame.tag));
        self.markers = 0;
        asked.is_ok() && is_done(&direct) && is_done(&proxied)
    }

    async fn ask(&mut self, sql: &str, other: Option<&mut Self>) -> Result<(), Stop> {
        let mut bytes = message::query(sql);
        self.write(&mut bytes.clone(), &mut bytes).await;
        self.segments += 1;
        while self.direct.ready() < self.segments && self.direct.read(HANG).await {}
        let wanted = self.direct.ready();
        self.follow(other, |side| side.ready() >= wanted).await
    }

    /// Closes both connections. What was on its way is compared as far as both sides have it.
    pub(super) async fn leave(&mut self, end: End) -> Result<(), Stop> {
        self.read_due(None).await?;
        if end == End::Terminate && self.held.is_none() {
            let mut bytes = message::terminate();
            self.write(&mut bytes.clone(), &mut bytes).await;
        }
        self.held = None;
        let common = self.direct.ready().min(self.proxied.ready());
        for side in [&mut self.direct, &mut self.proxied] {
            side.truncate(common);
            side.link = None;
        }
        Ok(())
    }

    /// What both received in this turn; the next one begins.
    pub(super) fn take_frames(&mut self) -> (Vec<Frame>, Vec<Frame>) {
        self.segments = 0;
        self.last = None;
        self.is_segment_open = false;
        (std::mem::take(&mut self.direct.frames), std::mem::take(&mut self.proxied.frames))
    }
}

fn split(bytes: &[u8], place: usize) -> (&[u8], &[u8]) {
    bytes.split_at((bytes.len() * place / 1000).min(bytes.len()))
}
