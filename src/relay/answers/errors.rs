//! Errors that the server reports: passed on, or answered with the proxy's own report, and what they make the server skip.

use crate::fault::Report;
use crate::fault::sqlstate::PROTOCOL_VIOLATION;
use crate::observability::metrics::context_error;
use crate::relay::answers::Disposition;
use crate::relay::core::copy::CopyIn;
use crate::relay::core::replies::Reply;
use crate::relay::core::segment::{AwaitedReply, Outcome, Segment, Skip};
use crate::relay::requests::ClientSide;
use crate::relay::{Conversation, RelayFault};
use crate::upstream::{ServerSide, Wear};
use crate::wire::backend::{self, Status};
use crate::wire::encode::{self, Severity};
use crate::wire::frame::HEADER_BYTES;

impl Conversation {
    pub(super) fn error(
        &mut self,
        body: &[u8],
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Disposition, RelayFault> {
        let field = |code| backend::error_field(body, code).unwrap_or_default();
        let sqlstate = field(b'C');
        self.note_error(sqlstate, server);
        match self.replies.front() {
            None => Err(RelayFault::Doubt("an error that nothing caused")),
            Some(Reply::Reset(_)) => {
                server.state().stamp = None;
                Err(not_reset(sqlstate, field(b'M')))
            }
            Some(
                Reply::Own(_)
                | Reply::OwnQuery
                | Reply::OwnClose
                | Reply::OpenBlock(Status::Idle | Status::Transaction),
            ) => {
                server.state().stamp = None;
                Err(RelayFault::Context(format!("{sqlstate}: {}", field(b'M'))))
            }
            Some(Reply::OpenBlock(Status::Failed)) => Ok(Disposition::Swallow),
            Some(Reply::Begin) => Ok(self.begin_error(sqlstate, client, server)),
            Some(reply) if self.reports_foreign_message(sqlstate, client) => {
                match reply {
                    Reply::Query(_) => self.end_query(),
                    _ => self.fail(server),
                }
                Ok(Disposition::Swallow)
            }
            Some(Reply::Query(_)) => self
                .note_failed_front((sqlstate, field(b'M')), server)
                .map(|()| self.query_error((sqlstate, body), client)),
            // Of a Sync, for example a deferred constraint, checked when the transaction ends.
            Some(Reply::Sync | Reply::FunctionCall) => {
                self.metrics.error(sqlstate);
                Ok(Disposition::Forward)
            }
            Some(Reply::Refused(_)) => {
                self.report_refusal(client);
                self.fail(server);
                Ok(Disposition::Swallow)
            }
            Some(
                Reply::Parse(..)
                | Reply::Bind(..)
                | Reply::DescribeStatement(..)
                | Reply::DescribePortal(_)
                | Reply::Execute(_)
                | Reply::ClosePortal
                | Reply::CloseStatement(_)
                | Reply::Local(..)
                | Reply::LocalDescription(_),
            ) => {
                self.metrics.error(sqlstate);
                if let Some(Reply::Parse(_, undo)) = self.replies.front_mut() {
                    // PostgreSQL drops the unnamed statement before it parses the new one.
                    undo.forget_unnamed();
                }
                self.fail(server);
                Ok(Disposition::Forward)
            }
        }
    }

    /// The client's BEGIN failed, in front of its first message.
    fn begin_error(
        &mut self,
        sqlstate: &str,
        client: &mut ClientSide<'_>,
        server: &mut dyn ServerSide,
    ) -> Disposition {
        client.input.forget();
        self.metrics.error(sqlstate);
        self.block.fail();
        self.status = Status::Idle;
        self.fail(server);
        Disposition::Forward
    }

    /// An error in the statements of a hand-over in front of a text. In front of the first of them, where PostgreSQL reads
    /// the whole text, it is the client's: nothing has run, and the server is as its last user left it.
    fn note_failed_front(
        &mut self,
        (sqlstate, message): (&str, &str),
        server: &mut dyn ServerSide,
    ) -> Result<(), RelayFault> {
        let Some(Reply::Query(text)) = self.replies.front() else { return Ok(()) };
        if !text.is_handing_over() {
            return Ok(());
        }
        let at = text.at;
        let state = server.state();
        state.stamp = None;
        state.wear = Wear::Dirty;
        let is_of_text =
            at == 0 && ["0A", "22", "42", "53", "54"].iter().any(|class| sqlstate.starts_with(class));
        if is_of_text { Ok(()) } else { Err(not_reset(sqlstate, message)) }
    }

    fn query_error(&mut self, (sqlstate, body): (&str, &[u8]), client: &mut ClientSide<'_>) -> Disposition {
        self.block.fail();
        let disposition = match self.replies.front() {
            Some(Reply::Query(text)) if text.refused.is_some() => {
                self.report_refusal(client);
                Disposition::Swallow
            }
            Some(Reply::Query(text)) if !text.inserted.is_empty() => {
                self.metrics.error(sqlstate);
                client.input.forget();
                encode::with_position(client.output.space(), b'E', body, |sent| text.position(sent));
                Disposition::Swallow
            }
            _ => {
                self.metrics.error(sqlstate);
                Disposition::Forward
            }
        };
        self.end_query();
        disposition
    }

    fn note_error(&mut self, sqlstate: &str, server: &mut dyn ServerSide) {
        self.outcome = Outcome::RolledBack;
        if server.context().is_sealed() && matches!(sqlstate, "28000" | "55000") {
            // The register of a sealed context is empty or another tenant's.
            self.loses_context = true;
            context_error();
        }
    }

    /// The client reads the proxy's report in the place of the error that was made to happen.
    fn report_refusal(&mut self, client: &mut ClientSide<'_>) {
        let report = match self.replies.front_mut() {
            // Its ReadyForQuery is still owed.
            Some(Reply::Query(text)) => text.refused.take(),
            _ => match self.replies.pop() {
                Some(Reply::Refused(report)) => Some(report),
                _ => None,
            },
        };
        if let Some(report) = report {
            self.metrics.error(report.sqlstate.0);
            client.input.forget();
            encode::error_response(client.output.space(), Severity::Error, &report);
        }
    }

    /// A Query failed: what was to follow its other statements does not.
    fn end_query(&mut self) {
        if let Some(Reply::Query(text)) = self.replies.front_mut() {
            for (_, then) in std::mem::take(&mut text.then).into_iter().rev() {
                self.did_not_complete(then, None);
            }
        }
        self.end_copy();
    }

    /// A COPY from the client has failed, if there was one: nobody reads its rows any more.
    pub(super) fn end_copy(&mut self) {
        self.copy_in = CopyIn::No;
        if matches!(self.hold, Some(AwaitedReply::CopyStart | AwaitedReply::CopyError(_))) {
            self.hold = None;
        }
        self.from_client.drop_rest();
    }

    /// The proxy has ended a COPY because of another message: the client reads what PostgreSQL says to such a message.
    fn reports_foreign_message(&self, sqlstate: &str, client: &mut ClientSide<'_>) -> bool {
        let Some(AwaitedReply::CopyError(tag)) = self.hold.filter(|_| sqlstate == "57014") else {
            return false;
        };
        let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
        let report = Report::new(PROTOCOL_VIOLATION, message);
        self.metrics.error(report.sqlstate.0);
        client.input.forget();
        // The server would have ignored what stands in front of that message.
        while matches!(client.input.bytes().first(), Some(b'S' | b'H')) {
            client.input.consume(HEADER_BYTES);
        }
        encode::error_response(client.output.space(), Severity::Error, &report);
        true
    }

    /// The server skips everything up to the next Sync.
    pub(super) fn fail(&mut self, server: &mut dyn ServerSide) {
        self.end_copy();
        self.block.fail();
        self.hold = None;
        let skipped = self.replies.skip_to_sync();
        self.undo(skipped, Some(server));
        if self.replies.is_empty() {
            self.segment = Segment::Skipping(Skip::ServerError);
        }
    }
}

/// A reset failed: nothing of the client has run, and the server is closed.
fn not_reset(sqlstate: &str, message: &str) -> RelayFault {
    tracing::warn!(sqlstate, message, "a server could not be reset");
    RelayFault::Context(format!("{sqlstate}: {message}"))
}

/// The server ends the session with this error.
pub(super) fn fatal(body: &[u8]) -> Option<RelayFault> {
    let field = |code| backend::error_field(body, code).unwrap_or_default();
    let is_fatal = matches!(field(b'V'), "FATAL" | "PANIC");
    is_fatal.then(|| RelayFault::Ended(format!("{}: {}", field(b'C'), field(b'M'))))
}
