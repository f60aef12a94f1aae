//! From the server to the client: what becomes of each frame.

mod async_messages;
mod descriptions;
mod errors;

use crate::fault::{Report, sqlstate};
use crate::net::buffer::ReadBuffer;
use crate::relay::core::copy::CopyIn;
use crate::relay::core::framing::FromServer;
use crate::relay::core::portals::Unbind;
use crate::relay::core::replies::{Reply, Shown, Then};
use crate::relay::core::segment::{AwaitedReply, Outcome, Progress, Segment};
use crate::relay::requests::ClientSide;
use crate::relay::{Conversation, RelayFault};
use crate::upstream::{ContextState, Expect, ServerSide};
use crate::wire::backend::{self, Status};
use crate::wire::encode;
use crate::wire::frame;

pub(in crate::relay) use async_messages::is_reported;

/// Largest server message that is looked into as a whole, in bytes: errors, notices, tags, parameters.
const MAX_WHOLE_BYTES: usize = 16 * 1024 * 1024;

/// What `absorb` came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absorbed {
    /// Everything that could be passed on was; the server's next frame is whole with so many bytes.
    All {
        /// Zero: unknown.
        wanted: usize,
    },
    /// A segment was answered, and nothing is owed. This is the transaction's status.
    Ready(Status),
}

/// What becomes of a frame from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disposition {
    /// It goes on to the client.
    Forward,
    /// It does not, or something else went in its place.
    Swallow,
    /// It does not; the client was told another status, and its segment ends.
    Ends,
}

impl Conversation {
    /// Passes on what the server has sent.
    pub fn absorb(
        &mut self,
        client: &mut ClientSide<'_>,
        input: &mut ReadBuffer,
        server: &mut dyn ServerSide,
    ) -> Result<Absorbed, RelayFault> {
        let mut passed = 0;
        let absorbed = self.absorb_frames(client, (input, &mut passed), server);
        // Once for many frames: a counter is shared by all clients of a tenant.
        if passed > 0 {
            self.metrics.bytes_out(passed);
        }
        absorbed
    }

    fn absorb_frames(
        &mut self,
        client: &mut ClientSide<'_>,
        (input, passed): (&mut ReadBuffer, &mut usize),
        server: &mut dyn ServerSide,
    ) -> Result<Absorbed, RelayFault> {
        loop {
            if !self.replies.waits_for_server() {
                self.answer_locally(client);
            }
            if client.output.is_full() {
                return Ok(Absorbed::All { wanted: 0 });
            }
            *passed += self.from_server.advance(input, client.output.space());
            if !self.from_server.is_boundary() {
                return Ok(Absorbed::All { wanted: 0 });
            }
            let header = frame::header(input.bytes())
                .map_err(|_| RelayFault::Doubt("the server sent an impossible length"))?;
            let Some(header) = header else { return Ok(Absorbed::All { wanted: 0 }) };
            if matches!(header.tag, b'D' | b'd') && !self.expects_nonce() {
                self.begin_row(header.total, client)?;
                continue;
            }
            if header.total > MAX_WHOLE_BYTES {
                return Err(RelayFault::Doubt("the server sent a message over the limit"));
            }
            let Some(whole) = input.bytes().get(..header.total) else {
                return Ok(Absorbed::All { wanted: header.total });
            };
            let disposition = self.take_answer(header.tag, whole, client, server)?;
            if disposition == Disposition::Forward {
                client.input.forget();
                client.output.space().extend_from_slice(whole);
                *passed += header.total;
            }
            input.consume(header.total);
            // A ReadyForQuery that answers a part of the proxy's ends no segment.
            if header.tag == b'Z' && disposition != Disposition::Swallow {
                return Ok(Absorbed::Ready(self.status));
            }
        }
    }

    /// Whether a part of a hand-over is answered now whose row is looked into.
    fn expects_nonce(&mut self) -> bool {
        self.expected().is_some_and(|expected| matches!(expected, Expect::Nonce(_)))
    }

    /// What the part of a hand-over that is answered now has to return.
    fn expected(&mut self) -> Option<&mut Expect> {
        match self.replies.front_mut() {
            Some(Reply::Own(expected) | Reply::Reset(expected)) => Some(expected),
            Some(Reply::Query(text)) => text.handing_over().map(|front| &mut front.expects),
            _ => None,
        }
    }

    fn begin_row(&mut self, total: usize, client: &mut ClientSide<'_>) -> Result<(), RelayFault> {
        self.answer_locally(client);
        self.from_server = match self.replies.front() {
            Some(Reply::Query(text)) if text.is_hidden() => FromServer::Dropped(total),
            Some(Reply::Execute(_) | Reply::Query(_)) => {
                client.input.forget();
                FromServer::Passed(total)
            }
            Some(Reply::Own(_) | Reply::OwnQuery | Reply::Reset(_) | Reply::OpenBlock(_)) => {
                FromServer::Dropped(total)
            }
            _ => return Err(RelayFault::Doubt("rows that nothing asked for")),
        };
        Ok(())
    }

    /// Gives the answers that the server does not owe and whose turn has come.
    fn answer_locally(&mut self, client: &mut ClientSide<'_>) {
        loop {
            let out = client.output.space();
            match self.replies.front() {
                Some(Reply::Local(tag, _)) => encode::bare(out, *tag),
                Some(Reply::LocalDescription(statement)) => {
                    encode::frame(out, b't', |out| out.extend_from_slice(statement.sent_types()));
                    encode::bare(out, b'n');
                }
                _ => return,
            }
            client.input.forget();
            self.replies.pop();
        }
    }

    fn take_answer(
        &mut self,
        tag: u8,
        whole: &[u8],
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Disposition, RelayFault> {
        let body = frame::body(whole);
        self.answer_locally(client);
        match tag {
            b'N' => Ok(self.notice(body, client)),
            b'A' => Ok(self.notification(body, client.output, server)),
            b'S' => self.parameter(body, client, server),
            b'E' => match errors::fatal(body) {
                Some(_) if self.is_idle_in_transaction() => {
                    Err(RelayFault::Farewell(Box::new(farewell(body))))
                }
                Some(fault) => Err(fault),
                None => self.error(body, client, server),
            },
            b'Z' => self.ready(body, client, server),
            b'C' | b's' | b'I' => self.completed(tag, body, client, server),
            b'D' => self.compare_nonce(body),
            b'G' => self.copy_in_begins(),
            b'H' | b'c' => match self.replies.front() {
                Some(Reply::Execute(_) | Reply::Query(_)) => Ok(Disposition::Forward),
                _ => Err(RelayFault::Doubt("COPY that nothing asked for")),
            },
            b'T' | b'n' | b't' => self.described(tag, body, server),
            b'V' => match self.replies.front() {
                Some(Reply::FunctionCall) => Ok(Disposition::Forward),
                _ => Err(RelayFault::Doubt("the result of a function that nothing called")),
            },
            b'1' | b'2' | b'3' => self.acknowledged(tag, server),
            _ => Err(RelayFault::Doubt("the server sent a message of an unknown kind")),
        }
    }

    /// The row of a reset or entry holds the nonce of its hand-over, or it is the answer to something else.
    fn compare_nonce(&mut self, body: &[u8]) -> Result<Disposition, RelayFault> {
        match self.expected() {
            Some(expected) => match expected {
                Expect::Nonce(nonce) if backend::column(body, 0) == Some(nonce.as_str()) => {
                    *expected = Expect::Nothing;
                    Ok(Disposition::Swallow)
                }
                Expect::Nonce(_) | Expect::Nothing => Err(RelayFault::Shifted),
            },
            None => Err(RelayFault::Doubt("rows that nothing asked for")),
        }
    }

    fn notice(&self, body: &[u8], client: &mut ClientSide<'_>) -> Disposition {
        match self.replies.front() {
            Some(reply) if reply.is_own() => Disposition::Swallow,
            // In front of the first statement PostgreSQL reads the whole text; what it says of that is about the client's.
            Some(Reply::Query(text)) if text.is_hidden() && text.at > 0 => Disposition::Swallow,
            Some(Reply::Query(text)) if !text.inserted.is_empty() => {
                client.input.forget();
                encode::with_position(client.output.space(), b'N', body, |sent| text.position(sent));
                Disposition::Swallow
            }
            _ => Disposition::Forward,
        }
    }

    fn ready(
        &mut self,
        body: &[u8],
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Disposition, RelayFault> {
        let status = backend::ready_for_query(body).ok_or(RelayFault::Doubt("a malformed ReadyForQuery"))?;
        self.tell_unreported(client, server)?;
        match self.replies.pop() {
            Some(Reply::OwnQuery) if status == Status::Idle => Ok(Disposition::Swallow),
            Some(Reply::Reset(expected)) if status == Status::Transaction => match expected {
                Expect::Nothing => Ok(Disposition::Swallow),
                Expect::Nonce(_) => Err(RelayFault::Shifted),
            },
            Some(Reply::OpenBlock(expected)) if status == expected => {
                if self.replies.is_empty() {
                    self.status = status;
                    self.block.opened();
                    self.hold = None;
                    self.progress = Progress::Running;
                }
                Ok(Disposition::Swallow)
            }
            Some(Reply::Query(_) | Reply::Sync | Reply::FunctionCall) if self.replies.is_empty() => {
                self.end_segment(status, server);
                client.input.forget();
                client.output.space().extend_from_slice(&std::mem::take(&mut self.untold.reports));
                if self.is_block_waiting() && status == Status::Idle {
                    // Its BEGIN did not come to run, or statements were prepared in front of it.
                    self.block.close();
                    encode::ready_for_query(client.output.space(), self.told().byte());
                    return Ok(Disposition::Ends);
                }
                Ok(Disposition::Forward)
            }
            _ => {
                server.state().stamp = None;
                Err(RelayFault::Doubt("the server was ready out of turn"))
            }
        }
    }

    /// A segment was answered whole.
    fn end_segment(&mut self, status: Status, server: &mut dyn ServerSide) {
        self.status = status;
        self.segment = Segment::Between;
        self.progress = Progress::Running;
        self.end_copy();
        let outcome = std::mem::take(&mut self.outcome);
        if status == Status::Idle {
            self.portals.clear();
            if outcome == Outcome::RolledBack {
                self.choice.roll_back();
                self.session.roll_back();
            }
            self.session.end();
            if std::mem::take(&mut self.loses_context)
                && let Some(stamp) = &mut server.state().stamp
            {
                stamp.context = ContextState::Lost;
            }
        }
    }

    fn completed(
        &mut self,
        tag: u8,
        body: &[u8],
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Disposition, RelayFault> {
        let then = match self.replies.front_mut() {
            Some(Reply::OwnQuery | Reply::Reset(_) | Reply::OpenBlock(_)) => return Ok(Disposition::Swallow),
            Some(Reply::Begin) if tag == b'C' => {
                self.replies.pop();
                self.block.opened();
                self.progress = Progress::Running;
                return Ok(Disposition::Swallow);
            }
            Some(Reply::Own(Expect::Nothing)) if tag == b'C' => {
                self.replies.pop();
                if !self.replies.is_own() {
                    self.progress = Progress::Running;
                }
                return Ok(Disposition::Swallow);
            }
            Some(Reply::Own(Expect::Nonce(_))) => return Err(RelayFault::Shifted),
            Some(Reply::Query(_)) => match self.completed_in_text()? {
                Some(then) => then,
                None => return Ok(Disposition::Swallow),
            },
            Some(Reply::Execute(_)) => match self.replies.pop() {
                Some(Reply::Execute(then)) => {
                    // Nothing is sent behind the Execute of a COPY before it has begun.
                    if self.replies.is_empty() {
                        self.end_copy();
                    }
                    then
                }
                _ => Then::Nothing,
            },
            _ => return Err(RelayFault::Doubt("a completion that nothing waits for")),
        };
        match then {
            Then::Nothing => {
                self.note_completion(tag, backend::command_tag(body), server);
                Ok(Disposition::Forward)
            }
            // The statements that are there now were prepared behind it.
            Then::DeallocateAll(_) => Ok(Disposition::Forward),
            Then::DiscardAll(_) => {
                client.input.forget();
                encode::command_complete(client.output.space(), "DISCARD ALL");
                // PostgreSQL reports parameters in front of ReadyForQuery.
                let mut reports = Vec::new();
                self.discard_all(&mut reports);
                self.untold.reports = reports.into();
                Ok(Disposition::Swallow)
            }
            Then::Deallocate(_) => {
                client.input.forget();
                encode::command_complete(client.output.space(), "DEALLOCATE");
                Ok(Disposition::Swallow)
            }
        }
    }

    /// A statement of a text is complete. What follows it; none: it is the proxy's.
    fn completed_in_text(&mut self) -> Result<Option<Then>, RelayFault> {
        let Some(Reply::Query(text)) = self.replies.front_mut() else { return Ok(None) };
        let (number, is_hidden) = (text.at, text.is_hidden());
        if text.begin == Some(number) {
            self.block.opened();
        }
        text.at += 1;
        if !is_hidden {
            return Ok(Some(text.take_then(number)));
        }
        match text.front.as_ref().filter(|front| front.statements == text.at) {
            None => {}
            Some(front) if front.expects == Expect::Nothing => self.progress = Progress::Running,
            Some(_) => return Err(RelayFault::Shifted),
        }
        Ok(None)
    }

    fn note_completion(&mut self, tag: u8, command: &[u8], server: &mut dyn ServerSide) {
        match command {
            b"COMMIT" => {
                self.choice.commit();
                // What follows in the segment is another transaction.
                self.outcome = Outcome::Open;
            }
            b"ROLLBACK" => self.outcome = Outcome::RolledBack,
            b"DEALLOCATE ALL" | b"DISCARD ALL" if tag == b'C' => {
                self.loses_context |= command == b"DISCARD ALL";
                drop((self.statements.take_named(), server.state().deallocate_all()));
            }
            _ => {}
        }
    }

    fn copy_in_begins(&mut self) -> Result<Disposition, RelayFault> {
        let is_asked = match self.replies.front() {
            Some(Reply::Query(_)) => true,
            Some(Reply::Execute(_)) => self.hold == Some(AwaitedReply::CopyStart),
            _ => false,
        };
        if !is_asked {
            return Err(RelayFault::Doubt("COPY that nothing asked for"));
        }
        self.hold = None;
        self.copy_in = CopyIn::Rows;
        Ok(Disposition::Forward)
    }

    fn acknowledged(&mut self, tag: u8, server: &mut dyn ServerSide) -> Result<Disposition, RelayFault> {
        let is_own = matches!(self.replies.front(), Some(Reply::Own(_) | Reply::Begin));
        if is_own && tag != b'3' {
            return Ok(Disposition::Swallow);
        }
        match (tag, self.replies.pop()) {
            (b'1', Some(Reply::Parse(shown, _))) => Ok(disposition(shown)),
            (b'2', Some(Reply::Bind(shown, undo))) => {
                if matches!(undo, Unbind::Replaced(..)) {
                    self.hold = None;
                }
                Ok(disposition(shown))
            }
            (b'3', Some(Reply::ClosePortal)) => Ok(Disposition::Forward),
            (b'3', Some(Reply::CloseStatement(_) | Reply::OwnClose)) => {
                if !self.replies.is_own() {
                    self.progress = Progress::Running;
                }
                Ok(Disposition::Swallow)
            }
            (_, Some(reply)) => {
                self.undo(vec![reply], Some(server));
                Err(RelayFault::Doubt("an answer out of turn"))
            }
            (_, None) => Err(RelayFault::Doubt("an answer that nothing waits for")),
        }
    }
}

/// What the server says to a session that it ends, for its client.
fn farewell(body: &[u8]) -> Report {
    let field = |code| backend::error_field(body, code);
    let sqlstate = field(b'C').map_or(sqlstate::ADMIN_SHUTDOWN, sqlstate::ending);
    let report = Report::new(sqlstate, field(b'M').unwrap_or("the server ended the session"));
    match field(b'D') {
        Some(detail) => report.detail(detail),
        None => report,
    }
}

const fn disposition(shown: Shown) -> Disposition {
    match shown {
        Shown::Client => Disposition::Forward,
        Shown::Nobody => Disposition::Swallow,
    }
}
