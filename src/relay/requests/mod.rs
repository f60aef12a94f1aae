//! From the client to the server: what becomes of each frame.

mod begin;
pub(in crate::relay) mod choice;
mod comment;
mod deallocate;
mod execute;
mod extended;
mod reading;
mod simple;
mod skip;
mod without_server;

use crate::fault::{Report, sqlstate};
use crate::guard::footprint::{Footprint, State};
use crate::guard::{LONG_TEXT_BYTES, Stopped, read_until};
use crate::net::buffer::{ReadBuffer, WriteBuffer};
use crate::relay::core::block::Block;
use crate::relay::core::copy::{CopyIn, FOREIGN_MESSAGE, InCopy, in_copy};
use crate::relay::core::replies::{Closed, Reply, Room, Text};
use crate::relay::core::segment::{AwaitedReply, Segment};
use crate::relay::{Conversation, RelayFault};
use crate::sql::{Reset, SessionEffect, Survey};
use crate::upstream::{APPLICATION_NAME, OtherRoles, ServerSide, SessionParameters, Span, Temporary, Wear};
use crate::wire::backend::Status;
use crate::wire::{encode, frame, frontend};

/// A text that every PostgreSQL answers with a syntax error: the client reads the proxy's report instead of it.
const REFUSED: &[u8] = b"refused by pgtenant";
/// Bytes of a header.
const HEADER_BYTES: u32 = 5;
const MALFORMED: RelayFault = RelayFault::Protocol("invalid message format");

/// What `pump` came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// Everything that could be sent on was.
    All,
    /// The client said goodbye.
    Goodbye,
    /// A segment was answered without the server: nothing is owed, and this is the transaction's status.
    Ready(Status),
    /// A long text is in front, which is to be read where blocking is allowed.
    Long,
}

/// What becomes of long texts.
pub enum LongTexts<'a> {
    /// They stay where they are: this thread must not block.
    Stay,
    /// They are read, unless the client has left meanwhile, as this says.
    AreRead(&'a dyn Fn() -> bool),
}

impl std::fmt::Debug for LongTexts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stay => "Stay",
            Self::AreRead(_) => "AreRead",
        })
    }
}

/// What becomes of a frame before it is looked into.
enum Admission {
    /// It is looked into as a whole.
    Whole,
    /// Its rows go on in pieces.
    Rows,
    /// It goes nowhere.
    Dropped,
    /// It stays where it is for now.
    Waits,
    /// The proxy fails the COPY because of a message of this kind, and the frame waits for that.
    FailsCopy(u8),
}

/// Whether a whole frame was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It was.
    Yes,
    /// It stays where it is until the server has answered ([`AwaitedReply`]).
    Later,
}

/// What the client's side of a conversation reads from and writes to.
#[derive(Debug)]
pub struct ClientSide<'a> {
    /// Read and not yet consumed.
    pub input: &'a mut ReadBuffer,
    /// To be written.
    pub output: &'a mut WriteBuffer,
    /// What becomes of long texts.
    pub long: LongTexts<'a>,
}

impl Conversation {
    /// Sends on what the client has sent, as far as the segment and the buffers allow.
    pub fn pump(
        &mut self,
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Pumped, RelayFault> {
        self.wanted = 0;
        loop {
            match self.replies.room() {
                Room::Some if server.has_room() => {}
                Room::Some | Room::None => return Ok(Pumped::All),
                Room::NoneFromHere => {
                    encode::bare(server.parts().1, b'H');
                    return Ok(Pumped::All);
                }
            }
            if !self.from_client.is_boundary() {
                let count = self.from_client.advance(client.input, server.parts().1);
                self.metrics.bytes_in(count);
                if !self.from_client.is_boundary() {
                    return Ok(Pumped::All);
                }
            }
            let header = frame::header(client.input.bytes())
                .map_err(|_| RelayFault::Protocol("invalid message length"))?;
            let Some(header) = header else {
                self.wanted = self.wanted_header(client.input);
                return Ok(Pumped::All);
            };
            match self.admit(header.tag, client.input.bytes()) {
                Admission::Waits if header.tag == b'X' => return Ok(Pumped::Goodbye),
                Admission::Waits => return Ok(Pumped::All),
                Admission::Dropped => self.from_client.begin_dropped(header.total),
                // Whole, it goes on as it is.
                Admission::Rows if client.input.len() < header.total => {
                    self.from_client.begin_rows(header.total, client.input);
                }
                Admission::FailsCopy(tag) if !frontend::is_known(tag) => {
                    return Err(RelayFault::Protocol("invalid frontend message type"));
                }
                Admission::FailsCopy(tag) => self.fail_copy(tag, server),
                Admission::Rows | Admission::Whole => {
                    if let Some(pumped) = self.take_whole(header, client, server)? {
                        return Ok(pumped);
                    }
                }
            }
        }
    }

    /// What to wait for when less than a header is there. A COPY may pause anywhere, and while the server answers a closed
    /// segment nothing more is taken.
    fn wanted_header(&self, input: &ReadBuffer) -> u32 {
        let is_collected = !input.is_empty()
            && self.copy_in == CopyIn::No
            && self.hold.is_none()
            && self.segment != Segment::Closed;
        if is_collected { HEADER_BYTES } else { 0 }
    }

    /// Takes a frame as a whole; what to return if that ends the pumping.
    fn take_whole(
        &mut self,
        header: frame::Header,
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Option<Pumped>, RelayFault> {
        let limit = self.relay.max_message_bytes;
        if header.total > limit && header.tag != b'd' {
            return Err(RelayFault::TooLarge { bytes: header.total, limit });
        }
        if client.input.len() < header.total {
            self.wanted = u32::try_from(header.total).unwrap_or(u32::MAX);
            return Ok(Some(Pumped::All));
        }
        let opens = self.segment == Segment::Between && self.status == Status::Idle;
        // The buffer cannot be read and marked at once, so it is lent out for the one frame.
        let input = std::mem::take(client.input);
        let whole = input.bytes().get(..header.total).ok_or(MALFORMED)?;
        if self.segment == Segment::Between {
            if begin::prepares_only(input.bytes()) {
                self.block.prepare();
                self.keep_while_preparing();
            } else if self.may_ask_outside() && begin::shows_only(input.bytes()) {
                self.block.prepare();
            }
        }
        let read = self.read_long(whole, &client.long);
        let taken = match read {
            Ok(LongText::IsRead) => self.take_frame(header.tag, whole, server).map(Some),
            Ok(LongText::Stays) | Err(Stopped) => Ok(None),
        };
        self.findings = None;
        *client.input = input;
        let Some(taken) = taken? else {
            return Ok(Some(if read.is_ok() { Pumped::Long } else { Pumped::Goodbye }));
        };
        if opens {
            // Until the client has seen an answer to it, the segment may be sent again.
            client.input.mark();
        }
        if taken == Taken::Later {
            return Ok(Some(Pumped::All));
        }
        client.input.consume(header.total);
        self.metrics.bytes_in(header.total);
        if let Some(report) = self.untold.local.take() {
            self.metrics.error(report.sqlstate.0);
            client.input.forget();
            self.block.fail();
            self.choice.roll_back();
            encode::error_response(client.output.space(), encode::Severity::Error, &report);
            encode::ready_for_query(client.output.space(), self.told().byte());
            self.segment = Segment::Between;
            return Ok(Some(Pumped::Ready(self.status)));
        }
        Ok(None)
    }

    /// Reads the text of a frame if it is long.
    fn read_long(&mut self, whole: &[u8], long: &LongTexts<'_>) -> Result<LongText, Stopped> {
        let Some(text) = long_text(whole) else { return Ok(LongText::IsRead) };
        let LongTexts::AreRead(has_left) = long else { return Ok(LongText::Stays) };
        self.findings = Some(Box::new(read_until(text, &self.rules, has_left)?));
        Ok(LongText::IsRead)
    }

    fn admit(&self, tag: u8, ahead: &[u8]) -> Admission {
        if self.copy_in == CopyIn::Rows && self.hold.is_none() {
            return match in_copy(tag) {
                InCopy::Data => Admission::Rows,
                InCopy::End => Admission::Whole,
                // It counts for nothing if rows follow. If none do, the COPY may have failed already, and it counts.
                InCopy::Ignored => match behind_syncs(ahead).map(|next| (next, in_copy(next))) {
                    Some((next, InCopy::Foreign)) => Admission::FailsCopy(next),
                    Some((_, InCopy::Data | InCopy::End | InCopy::Goodbye)) => Admission::Dropped,
                    Some((_, InCopy::Ignored)) | None => Admission::Waits,
                },
                InCopy::Goodbye => Admission::Waits,
                InCopy::Foreign => Admission::FailsCopy(tag),
            };
        }
        let waits = self.hold.is_some();
        match (tag, self.segment) {
            (b'X', _) => Admission::Waits,
            (b'S', Segment::Skipping(_)) => Admission::Whole,
            (_, Segment::Skipping(_)) => Admission::Dropped,
            _ if waits => Admission::Waits,
            // Rows that come too late, as PostgreSQL takes them; or a COPY may be about to begin.
            (b'd' | b'c' | b'f', _) if self.replies.is_empty() => Admission::Dropped,
            (b'd' | b'c' | b'f', Segment::Open) => Admission::Dropped,
            (_, Segment::Closed) => Admission::Waits,
            (_, Segment::Between | Segment::Open) => Admission::Whole,
        }
    }

    /// A message that is none of COPY's arrived while the server reads rows. PostgreSQL would fail the COPY, but if it
    /// has given the COPY up already, it would run the message.
    fn fail_copy(&mut self, tag: u8, server: &mut dyn ServerSide) {
        encode::copy_fail(server.parts().1, FOREIGN_MESSAGE);
        self.copy_in = CopyIn::No;
        self.hold = Some(AwaitedReply::CopyError(tag));
    }

    fn take_frame(
        &mut self,
        tag: u8,
        whole: &[u8],
        server: &mut dyn ServerSide,
    ) -> Result<Taken, RelayFault> {
        let body = frame::body(whole);
        let may_go_behind_begin = self.block != Block::Failed && matches!(tag, b'Q' | b'P' | b'B');
        if self.is_block_waiting() && self.segment == Segment::Between && !may_go_behind_begin {
            return Ok(self.open_block(server));
        }
        match tag {
            b'Q' => return Ok(self.query(frontend::query(body).ok_or(MALFORMED)?, server)),
            b'P' => self.parse(frontend::parse(body).ok_or(MALFORMED)?, whole, server),
            b'B' => return Ok(self.bind(frontend::bind(body).ok_or(MALFORMED)?, whole, server)),
            b'D' => return Ok(self.describe(frontend::target(body).ok_or(MALFORMED)?, whole, server)),
            b'C' => self.close(frontend::target(body).ok_or(MALFORMED)?, whole, server),
            b'E' => self.execute(frontend::execute(body).ok_or(MALFORMED)?, whole, server),
            b'S' => self.sync(whole, server),
            b'H' => {
                self.begin(server);
                server.parts().1.extend_from_slice(whole);
            }
            b'F' => self.function_call(whole, server),
            b'd' | b'c' | b'f' => {
                server.parts().1.extend_from_slice(whole);
                if tag != b'd' {
                    self.copy_in = CopyIn::No;
                }
            }
            _ => return Err(RelayFault::Protocol("invalid frontend message type")),
        }
        Ok(Taken::Yes)
    }

    fn send(&mut self, frame: &[u8], reply: Reply, server: &mut dyn ServerSide) {
        server.parts().1.extend_from_slice(frame);
        self.replies.push(reply);
    }

    /// What a statement may do to its session and to its tenant, as far as its text tells.
    fn note_effects(&mut self, survey: Survey, server: &mut dyn ServerSide) {
        self.course = self.course.through(survey.course);
        self.note_for_choice(survey);
        self.note_for_pin(survey);
        self.session.note(survey);
        // Code of the database may set a role that no text tells, where there is one to be set.
        let may_set_role =
            self.rules.has_roles() || server.state().identity().other_roles == OtherRoles::Maybe;
        if survey.session_effect == SessionEffect::Maybe || may_set_role {
            server.state().wear = Wear::Dirty;
        }
    }

    /// What the proxy adds behind a statement that resets settings: the tenant again, and what the client asked for at
    /// startup, which is what RESET returns to.
    fn put_back_after(&self, reset: &Reset, server: &dyn ServerSide) -> Vec<String> {
        let context = server.context();
        let startup = match reset {
            Reset::All => self.startup.clone(),
            Reset::Setting(name) | Reset::Local(name) => self.startup.only(name),
            Reset::Sequences | Reset::Statement(_) | Reset::Statements => SessionParameters::default(),
        };
        let resets_name = match reset {
            Reset::All => true,
            Reset::Setting(name) | Reset::Local(name) => name == APPLICATION_NAME,
            Reset::Sequences | Reset::Statement(_) | Reset::Statements => false,
        };
        let mut texts = Vec::new();
        if *reset == Reset::All {
            texts.extend(context.set_again());
        }
        // The tenant is part of the name.
        if !startup.is_empty() || (resets_name && context.name(&startup).is_some()) {
            let span = if matches!(reset, Reset::Local(_)) { Span::Transaction } else { Span::Session };
            texts.extend(context.applied(&startup, span));
        }
        texts
    }

    fn sync(&mut self, whole: &[u8], server: &mut dyn ServerSide) {
        self.begin(server);
        if !matches!(self.segment, Segment::Skipping(_)) {
            self.describe_unnamed(server);
        }
        self.segment = Segment::Closed;
        self.send(whole, Reply::Sync, server);
    }

    /// A function call reaches functions past every inspection. Maintenance users are not inspected.
    fn function_call(&mut self, whole: &[u8], server: &mut dyn ServerSide) {
        if server.context().enters() {
            return self.refuse_query(function_call(), server);
        }
        self.begin(server);
        server.state().wear = Wear::Dirty;
        self.segment = Segment::Closed;
        self.send(whole, Reply::FunctionCall, server);
    }

    /// Refuses a message that ends its segment. In a transaction, and behind messages that were sent, the server fails in
    /// the client's place, so that the transaction ends as it would; else no server is needed. A Query stands for the
    /// client's message, because a server that skips to the Sync skips a Query too.
    fn refuse_query(&mut self, report: Report, server: &mut dyn ServerSide) {
        if self.segment == Segment::Between && self.status == Status::Idle && self.replies.is_empty() {
            // Nothing ran that could have left anything. A Query that fails closes the unnamed statement all the same.
            self.session.forget();
            self.close_by_refused_query();
            self.untold.local = Some(Box::new(report));
            return;
        }
        self.begin(server);
        let text =
            Text { refused: Some(Box::new(report)), closed: self.close_by_query(server), ..Text::default() };
        encode::query(server.parts().1, REFUSED);
        self.replies.push(Reply::Query(Box::new(text)));
    }

    /// A Query closes the unnamed statement and portal, and ends the segment. What it closed, if it may be skipped.
    fn close_by_query(&mut self, server: &mut dyn ServerSide) -> Option<Box<Closed>> {
        let closed = Closed {
            statement: self.statements.unnamed.take(),
            on_server: server.state().unnamed.take(),
            portal: self.portals.close_unnamed(),
        };
        let is_behind_others = std::mem::replace(&mut self.segment, Segment::Closed) == Segment::Open;
        is_behind_others.then(|| Box::new(closed))
    }

    /// Refuses a message of the extended protocol: the server fails in the client's place, and skips to the Sync.
    fn refuse_message(&mut self, report: Report, server: &mut dyn ServerSide) {
        // What follows in the segment may still be noted, and asked of the server: it has to be this client's.
        self.begin(server);
        encode::parse(server.parts().1, "", REFUSED, &[0, 0]);
        server.state().unnamed = None;
        self.replies.push(Reply::Refused(Box::new(report)));
    }
}

/// Whether the text of a frame was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LongText {
    /// It was, or it is short, or there is none.
    IsRead,
    /// It has to be read where blocking is allowed.
    Stays,
}

/// The text of a Query or Parse if it is so long that reading it would keep others waiting.
fn long_text(whole: &[u8]) -> Option<&[u8]> {
    if whole.len() <= LONG_TEXT_BYTES {
        return None;
    }
    let body = frame::body(whole);
    let text = match whole.first() {
        Some(b'Q') => frontend::query(body),
        Some(b'P') => frontend::parse(body).map(|parse| parse.text),
        _ => None,
    };
    text.filter(|text| text.len() > LONG_TEXT_BYTES)
}

/// A statement with this footprint is about to run on the server.
fn note_temporary(footprint: &Footprint, server: &mut dyn ServerSide) {
    if footprint.states.has(State::Temporary) {
        server.state().temporary = Temporary::Maybe;
    }
}

/// The kind of the message behind the Sync and Flush messages in front.
fn behind_syncs(mut ahead: &[u8]) -> Option<u8> {
    while let Some((b'S' | b'H', _)) = ahead.split_first() {
        ahead = ahead.get(frame::HEADER_BYTES..).unwrap_or_default();
    }
    ahead.first().copied()
}

fn function_call() -> Report {
    Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "the function-call message is refused by the proxy")
        .detail("rule \"function-call\": it calls a function by number, past every inspection.")
        .hint("Call the function with SELECT.")
}
