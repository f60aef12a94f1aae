//! What goes in front of a transaction: the hand-over of a server, the assertion of a plain context, and the client's BEGIN
//! that waited.

use crate::relay::Conversation;
use crate::relay::core::block::Block;
use crate::relay::core::replies::{Reply, TextHandOver};
use crate::relay::core::segment::{AwaitedReply, Executed, InFront, Progress, Segment, Unnamed};
use crate::relay::requests::{REFUSED, Taken};
use crate::sql::lexer::{Lexer, TokenKind};
use crate::sql::{Course, StatementKind};
use crate::upstream::{Context, Expect, ServerSide};
use crate::wire::backend::Status;
use crate::wire::{encode, frame, frontend};

/// Where the assertion of a plain context stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asserted {
    /// In the transaction of what follows, which has a snapshot from there on.
    Beside,
    /// In a transaction of its own: what follows may mean something else if it is not the first in its transaction (SET
    /// TRANSACTION, SAVEPOINT, SET LOCAL).
    Apart,
}

/// Whether a context stands when a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContextEntered {
    /// None is entered here: it is a maintenance user's, or a transaction goes on.
    Nothing,
    /// It was in force already.
    Before,
    /// A hand-over was written.
    Now,
}

impl Conversation {
    /// A message of the extended protocol that may be its segment's first. In front of a transaction goes a hand-over, if
    /// the server was not this client's, or what asserts the context.
    pub(super) fn begin(&mut self, server: &mut dyn ServerSide) {
        self.begin_with(StatementKind::Nothing, server);
    }

    /// The same with a message about a statement of this kind.
    pub(super) fn begin_with(&mut self, first: StatementKind, server: &mut dyn ServerSide) {
        if self.segment != Segment::Between {
            return;
        }
        self.begin_course();
        self.segment = Segment::Open;
        let entered = self.hand_over_if_needed(server);
        if let Some(begin) = self.block.open() {
            self.begin_block(&begin, entered, server);
        } else if entered == ContextEntered::Before {
            let asserted = if first.reads() { Asserted::Beside } else { Asserted::Apart };
            self.assert_context(asserted, server);
        }
    }

    pub(super) fn begin_course(&mut self) {
        self.executed = Executed::Nothing;
        self.unnamed = Unnamed::Used;
        self.course = self.course_here();
    }

    /// Whether PostgreSQL runs nothing here but the end of a failed block. The segment's own statements may have ended it.
    pub(in crate::relay) fn is_in_failed_block(&self) -> bool {
        self.course_here().is_in_failed_block()
    }

    /// The way of the segment's statements so far.
    pub(in crate::relay) fn course_here(&self) -> Course {
        match (self.segment, self.told()) {
            (Segment::Between, Status::Idle) => Course::IDLE,
            (Segment::Between, Status::Transaction) => Course::BLOCK,
            (Segment::Between, Status::Failed) => Course::FAILED,
            (Segment::Open | Segment::Closed | Segment::Skipping(_), _) => self.course,
        }
    }

    /// Writes the client's BEGIN in front of its first message of the extended protocol. Nothing of the proxy's that
    /// takes a snapshot may run in its transaction: SET TRANSACTION may follow.
    pub(super) fn begin_block(&mut self, begin: &str, entered: ContextEntered, server: &mut dyn ServerSide) {
        let (state, out, context) = server.parts();
        if let Some(assertion) = context.assertion().filter(|_| entered == ContextEntered::Before) {
            if assertion.takes_snapshot {
                encode::query(out, &assertion.text);
                self.replies.push(Reply::OwnQuery);
            } else {
                Context::write_alone(out, &assertion.sql);
                self.replies.push(Reply::Own(Expect::Nothing));
            }
        }
        state.unnamed = None;
        Context::write_alone(out, begin);
        self.replies.push(Reply::Begin);
        self.status = Status::Transaction;
        self.progress = Progress::Entering;
    }

    /// Opens the client's block by Queries of the proxy, and fails it if it has failed already; the client's message
    /// waits until that was answered.
    pub(super) fn open_block(&mut self, server: &mut dyn ServerSide) -> Taken {
        let entered = self.hand_over_if_needed(server);
        let has_failed = self.block == Block::Failed;
        let begin = self.block.open().unwrap_or_else(|| "BEGIN".to_owned());
        let (state, out, context) = server.parts();
        // A Query closes it.
        state.unnamed = None;
        if let Some(assertion) = context.assertion().filter(|_| entered == ContextEntered::Before) {
            encode::query(out, &assertion.text);
            self.replies.push(Reply::OwnQuery);
        }
        encode::query(out, begin.as_bytes());
        self.replies.push(Reply::OpenBlock(Status::Transaction));
        if has_failed {
            encode::query(out, REFUSED);
            self.replies.push(Reply::OpenBlock(Status::Failed));
        }
        self.progress = Progress::Entering;
        self.hold = Some(AwaitedReply::Block);
        Taken::Later
    }

    /// Whether a client that has no tenant yet may be answered what reads no table outside of its block that waits: the server
    /// of the block is taken for the tenant that it chooses.
    pub(super) fn may_ask_outside(&self) -> bool {
        self.block.is_waiting()
            && self.has_chooser()
            && self.choice.acting().tenant().is_none()
            && !self.reads_comments()
    }

    /// Writes a hand-over in front of a transaction, unless the context is in force on the server.
    pub(super) fn hand_over_if_needed(&mut self, server: &mut dyn ServerSide) -> ContextEntered {
        self.progress = Progress::Running;
        self.in_front = InFront::Nothing;
        if self.status != Status::Idle || !server.context().enters() {
            return ContextEntered::Nothing;
        }
        let (client, keeper) = (self.client, self.keeps_server().then_some(self.client));
        let (state, out, context) = server.parts();
        if context.is_in_force(state, client, &self.parameters) {
            context.take_over(state, client, &self.parameters);
            return ContextEntered::Before;
        }
        let session = context.session_on(state, keeper);
        let written = context.write_hand_over((state, out), (client, &self.parameters), session);
        self.relay.switches.increment();
        self.in_front = InFront::HandOver;
        self.progress = Progress::Entering;
        self.replies.push(Reply::Reset(written.reset));
        self.replies.push(Reply::Own(written.entry));
        if let Some(behind) = written.behind {
            self.replies.push(Reply::Own(behind));
        }
        self.replies.push(Reply::Own(Expect::Nothing));
        ContextEntered::Now
    }

    /// A hand-over that stands in front of the text of a Query, if one is needed and the text is read in the same way
    /// before and after it: PostgreSQL reads a Query as a whole before it runs its first statement.
    pub(super) fn hand_over_in_text(
        &mut self,
        text: &[u8],
        server: &mut dyn ServerSide,
    ) -> Option<(String, TextHandOver)> {
        let (client, keeper) = (self.client, self.keeps_server().then_some(self.client));
        let encoding = self.encoding().map(ToOwned::to_owned);
        let (state, _, context) = server.parts();
        if self.status != Status::Idle
            || !context.enters()
            || context.is_in_force(state, client, &self.parameters)
        {
            return None;
        }
        let reported = |name: &str| state.parameters.get(name).map(String::as_str);
        // What decides how a text is taken apart, and how an error in it is told: the encoding, and what a backslash
        // means in a string.
        let is_read_alike = reported("standard_conforming_strings") == Some("on")
            && !text.contains(&b'\\')
            && encoding.is_some()
            && reported("client_encoding") == encoding.as_deref();
        if !is_read_alike {
            return None;
        }
        let session = context.session_on(state, keeper);
        let (statements, expects) = context.hand_over_in_text(state, (client, &self.parameters), session)?;
        self.relay.switches.increment();
        self.progress = Progress::Entering;
        Some((statements.sql, TextHandOver { statements: statements.count, expects }))
    }

    /// Asserts a plain context. If that fails, the server skips what follows.
    pub(super) fn assert_context(&mut self, asserted: Asserted, server: &mut dyn ServerSide) {
        let (state, out, context) = server.parts();
        let Some(assertion) = context.assertion() else { return };
        self.progress = Progress::Entering;
        if asserted == Asserted::Apart {
            Context::write_begin(out);
            self.replies.push(Reply::Own(Expect::Nothing));
        }
        if assertion.write(state, out) {
            self.replies.push(Reply::OwnClose);
        }
        self.replies.push(Reply::Own(Expect::Nothing));
        if asserted == Asserted::Apart {
            Context::write_commit(state, out);
            self.replies.push(Reply::Own(Expect::Nothing));
        }
    }
}

/// Tag and body of the messages that are there as a whole.
pub(super) fn whole_frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let header = frame::header(bytes).ok().flatten()?;
        let (whole, rest) = bytes.split_at_checked(header.total)?;
        bytes = rest;
        Some((header.tag, frame::body(whole)))
    })
}

/// Whether a segment is there as a whole and is one SHOW of a setting that does not belong to its transaction.
pub(super) fn shows_only(ahead: &[u8]) -> bool {
    let mut frames = whole_frames(ahead).filter(|(tag, _)| *tag != b'D');
    let statement = match frames.next() {
        Some((b'Q', body)) => return frontend::query(body).is_some_and(is_show),
        Some((b'P', body)) => {
            frontend::parse(body).filter(|parse| is_show(parse.text)).map(|parse| parse.name)
        }
        _ => None,
    };
    let Some((bind, executed)) = (|| {
        let bind =
            frames.next().filter(|(tag, _)| *tag == b'B').and_then(|(_, body)| frontend::bind(body))?;
        let (_, execute) = frames.next().filter(|(tag, _)| *tag == b'E')?;
        Some((bind, execute.split(|byte| *byte == 0).next()?))
    })() else {
        return false;
    };
    // The portal that runs is that of the SHOW.
    statement == Some(bind.statement)
        && executed == bind.portal
        && frames.next().is_some_and(|(tag, _)| tag == b'S')
}

/// SHOW and the name of one setting, which no characteristic of a transaction decides.
fn is_show(text: &[u8]) -> bool {
    let mut tokens = Lexer::new(text).filter(|token| token.kind != TokenKind::Semicolon);
    let mut word = || tokens.next().filter(|token| token.kind == TokenKind::Word).map(|token| token.bytes);
    let (first, name) = (word(), word());
    let is_of_transaction = |name: &[u8]| {
        name.eq_ignore_ascii_case(b"all")
            || name.get(..11).is_some_and(|begin| begin.eq_ignore_ascii_case(b"transaction"))
    };
    first.is_some_and(|word| word.eq_ignore_ascii_case(b"show"))
        && name.is_some_and(|name| !is_of_transaction(name))
        && tokens.next().is_none()
}

/// Whether a segment is there as a whole and does nothing but prepare, describe and close statements.
pub(super) fn prepares_only(mut ahead: &[u8]) -> bool {
    if ahead.first() != Some(&b'P') {
        return false;
    }
    while let Ok(Some(header)) = frame::header(ahead) {
        let Some((whole, rest)) = ahead.split_at_checked(header.total) else { return false };
        let is_of_statement = frame::body(whole).first() == Some(&b'S');
        match header.tag {
            b'S' => return true,
            b'P' => {}
            b'D' | b'C' if is_of_statement => {}
            _ => return false,
        }
        ahead = rest;
    }
    false
}
