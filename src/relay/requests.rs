//! From the client to the server: `pump`, and the messages that stand for themselves.

use std::sync::Arc;

use crate::fault::{Report, sqlstate};
use crate::guard::footprint::footprint;
use crate::guard::{TenantChange, Verdict};
use crate::net::Channel;
use crate::net::buffer::ReadBuffer;
use crate::relay::entry::Lead;
use crate::relay::ledger::{Owed, Shown, Undo};
use crate::relay::prepared::{NOTHING, Reading};
use crate::relay::{
    Conversation, CopyIn, Discard, Gate, HeldSync, Pumped, Reach, RelayFault, Stream, refusal,
};
use crate::sql::{Count, SessionState, StatementKind, Survey, mentions_reset_all, reset_setting};
use crate::upstream::{SessionParameters, TenantServer};
use crate::wire::backend::Status;
use crate::wire::{encode, frame, frontend};

/// A text that every PostgreSQL answers with a syntax error: the error that the client reads is ours.
pub(super) const REFUSED: &[u8] = b"refused by pgtenant";
const MALFORMED: RelayFault = RelayFault::Protocol("invalid message format");

/// What to do with a frame before it is looked into.
enum Admission {
    /// Looked into as a whole.
    Take,
    /// Passed on in pieces, unseen.
    Pass,
    Drop,
    Wait,
}

impl Conversation {
    /// Sends on what the client has sent, as far as the segment's state and the buffers allow.
    pub fn pump(&mut self, client: &mut Channel, server: &mut TenantServer) -> Result<Pumped, RelayFault> {
        self.wanted = 0;
        loop {
            if server.server().channel.output.is_full() {
                return Ok(Pumped::All);
            }
            if !self.pass_stream(&mut client.input, server) {
                return Ok(Pumped::All);
            }
            let header = frame::header(client.input.bytes())
                .map_err(|_| RelayFault::Protocol("invalid message length"))?;
            let Some(header) = header else { return Ok(Pumped::All) };
            match self.admit(header.tag) {
                Admission::Wait if header.tag == b'X' => return Ok(Pumped::Goodbye),
                Admission::Wait => return Ok(Pumped::All),
                Admission::Drop => {
                    self.from_client = Stream::Drop(header.total);
                    continue;
                }
                Admission::Pass => {
                    self.from_client = Stream::Pass(header.total);
                    continue;
                }
                Admission::Take => {}
            }
            if header.total > self.relay.max_message_bytes {
                return Err(RelayFault::TooLarge {
                    bytes: header.total,
                    limit: self.relay.max_message_bytes,
                });
            }
            if client.input.len() < header.total {
                self.wanted = header.total;
                return Ok(Pumped::All);
            }
            // The buffer cannot be read and marked at once, so it is lent out for the one frame.
            let opens = self.gate == Gate::Between;
            let input = std::mem::take(&mut client.input);
            let taken = self.take_frame(header.tag, &input, header.total, server);
            client.input = input;
            if opens && self.status == Status::Idle {
                // Until the client has seen an answer to it, the segment may be sent again.
                client.input.mark();
                self.reach = if server.enters_context() { Reach::Context } else { Reach::Statement };
            }
            if self.awaits_check() {
                // The frame is taken once more when the server has answered.
                return taken.map(|()| Pumped::All);
            }
            client.input.consume(header.total);
            self.metrics.bytes_in(header.total);
            taken?;
        }
    }

    /// Passes on the rest of a frame; false if more of it has to come first.
    fn pass_stream(&mut self, input: &mut ReadBuffer, server: &mut TenantServer) -> bool {
        let (left, passes) = match self.from_client {
            Stream::No => return true,
            Stream::Pass(left) => (left, true),
            Stream::Drop(left) => (left, false),
        };
        let count = left.min(input.len());
        if passes {
            let bytes = input.bytes().get(..count).unwrap_or_default();
            server.server().channel.output.space().extend_from_slice(bytes);
            self.metrics.bytes_in(count);
        }
        input.consume(count);
        let left = left - count;
        self.from_client = match (left, passes) {
            (0, _) => Stream::No,
            (left, true) => Stream::Pass(left),
            (left, false) => Stream::Drop(left),
        };
        left == 0
    }

    fn admit(&self, tag: u8) -> Admission {
        match tag {
            b'X' => Admission::Wait,
            _ if self.awaits_check() => Admission::Wait,
            b'd' | b'c' | b'f' => match self.copy_in {
                CopyIn::Simple | CopyIn::Extended if tag == b'd' => Admission::Pass,
                CopyIn::Simple | CopyIn::Extended => Admission::Take,
                // The server may be about to ask for rows; otherwise they are late, and PostgreSQL drops them.
                CopyIn::No if self.ledger.is_empty() || self.discard != Discard::No => Admission::Drop,
                CopyIn::No => Admission::Wait,
            },
            b'S' if self.discard != Discard::No => Admission::Take,
            // While it reads rows, PostgreSQL ignores these two ("COPY Operations").
            b'S' | b'H' if self.copy_in != CopyIn::No => Admission::Drop,
            // Anything else fails the COPY there.
            _ if self.copy_in != CopyIn::No => Admission::Pass,
            _ if self.gate == Gate::Closed => Admission::Wait,
            _ if self.discard != Discard::No => Admission::Drop,
            _ => Admission::Take,
        }
    }

    fn take_frame(
        &mut self,
        tag: u8,
        input: &ReadBuffer,
        total: usize,
        server: &mut TenantServer,
    ) -> Result<(), RelayFault> {
        let whole = input.bytes().get(..total).ok_or(MALFORMED)?;
        let body = frame::body(whole);
        if matches!(tag, b'c' | b'f') {
            self.end_copy(whole, server);
            return Ok(());
        }
        match tag {
            b'Q' => self.query(frontend::query(body).ok_or(MALFORMED)?, server),
            b'P' => self.parse(frontend::parse(body).ok_or(MALFORMED)?, whole, server),
            b'B' => self.bind(frontend::bind(body).ok_or(MALFORMED)?, whole, server),
            b'D' | b'C' | b'E' | b'S' | b'H' => {
                self.begin(Lead::Control, server);
                self.take_extended(tag, body, whole, server)?;
            }
            b'F' => self.refuse_query(function_call(), server),
            _ => return Err(RelayFault::Protocol("invalid frontend message type")),
        }
        Ok(())
    }

    /// The messages whose meaning does not depend on a statement's text.
    fn take_extended(
        &mut self,
        tag: u8,
        body: &[u8],
        whole: &[u8],
        server: &mut TenantServer,
    ) -> Result<(), RelayFault> {
        match tag {
            b'D' => self.describe(frontend::target(body).ok_or(MALFORMED)?, whole, server),
            b'C' => self.close(frontend::target(body).ok_or(MALFORMED)?, whole, server),
            b'E' => {
                let (_, rows) = frame::split_cstr(body).ok_or(MALFORMED)?;
                if rows.len() != 4 {
                    return Err(MALFORMED);
                }
                let discards = self.bound == StatementKind::DiscardAll && self.status == Status::Idle;
                let owed = match self.deallocates.clone() {
                    Some(name) => Owed::Deallocate(name),
                    None if discards => Owed::DiscardAll,
                    None => Owed::Execute,
                };
                self.send(whole, owed, server);
                self.follow_up(self.bound, server);
            }
            b'S' => self.sync(server),
            _ => server.server().channel.output.space().extend_from_slice(whole),
        }
        Ok(())
    }

    pub(super) fn send(&mut self, frame: &[u8], owed: Owed, server: &mut TenantServer) {
        server.server().channel.output.space().extend_from_slice(frame);
        self.ledger.push(owed);
    }

    /// What the guard says; of a change of tenant, only where somebody decides about it.
    pub(super) fn inspect(&mut self, text: &[u8]) -> Result<Reading, Report> {
        match self.relay.verdicts.inspect(text, &self.rules) {
            Verdict::Pass(survey) => {
                let leaves = survey.session_state == SessionState::Maybe;
                let footprint =
                    leaves.then(|| footprint(text)).filter(|found| !found.is_empty()).map(Arc::new);
                Ok(Reading { survey, change: None, footprint })
            }
            Verdict::Tenant(survey, change) => {
                let change = self.has_chooser().then(|| Arc::new(change));
                Ok(Reading { survey, change, footprint: None })
            }
            Verdict::Refuse(refused) => {
                self.metrics.refusal(refused.rule);
                Err(refusal(refused))
            }
        }
    }

    fn query(&mut self, text: &[u8], server: &mut TenantServer) {
        let Reading { survey, change, footprint } = match self.inspect(text) {
            Ok(reading) => reading,
            Err(report) => return self.refuse_query(report, server),
        };
        if let Some(change) = change {
            return self.query_choice(text, survey, &change, server);
        }
        if let Err(report) = self.follow_comment(text, server) {
            return self.refuse_query(report, server);
        }
        if let Some(report) = self.lack_of_tenant(survey) {
            return self.refuse_query(report, server);
        }
        if let Some(footprint) = footprint
            && let Err(report) = self.note_footprint(&footprint, text, None)
        {
            return self.refuse_query(report, server);
        }
        if let Some(name) = self.known_deallocated(text, survey) {
            return self.query_deallocate(name, server);
        }
        if survey.statements == Count::Many && self.has_left_login() && mentions_reset_all(text) {
            self.choose_login();
        }
        self.begin(Lead::of(survey), server);
        self.note_effects(survey, server);
        self.statements.unnamed = None;
        server.server().unnamed = None;
        // RESET of what the client asked for at startup returns to that, not to the server's default.
        let returned = match survey.first {
            StatementKind::Reset | StatementKind::Set if !self.startup.is_empty() => {
                reset_setting(text).map(|name| self.startup.only(&name)).unwrap_or_default()
            }
            _ => SessionParameters::default(),
        };
        // Behind unsynced messages a single statement breaks the session's state on PostgreSQL 18, so it is
        // sent as one more of them. Several statements stay a Query: they cannot be prepared.
        let converts = matches!(survey.statements, Count::One | Count::None)
            && server.enters_context()
            && (!self.ledger.is_empty() || survey.first == StatementKind::ResetAll || !returned.is_empty());
        if converts {
            self.send_converted(text, survey, &returned, server);
        } else {
            if survey.statements == Count::Many && !self.startup.is_empty() && mentions_reset_all(text) {
                self.bound = StatementKind::ResetAll;
            }
            encode::query(server.server().channel.output.space(), text);
            self.ledger.push(Owed::Query);
        }
        self.gate = Gate::Closed;
    }

    /// DEALLOCATE as a simple query, of a statement that servers know by another name.
    fn query_deallocate(&mut self, name: Box<[u8]>, server: &mut TenantServer) {
        self.begin(Lead::Control, server);
        self.statements.unnamed = None;
        server.server().unnamed = None;
        let out = server.server().channel.output.space();
        encode::parse(out, "", NOTHING, &[0, 0]);
        encode::bind_text(out, &[]);
        encode::execute_unnamed(out);
        let all =
            [Owed::Parse(Shown::Nobody, Undo::Nothing), Owed::Bind(Shown::Nobody), Owed::Deallocate(name)];
        for owed in all {
            self.ledger.push(owed);
        }
        self.send_sync(server);
    }

    /// A change of tenant as a simple query.
    fn query_choice(
        &mut self,
        text: &[u8],
        survey: Survey,
        change: &TenantChange,
        server: &mut TenantServer,
    ) {
        self.begin(Lead::Control, server);
        if let Err(report) = self.choose(change, None, server) {
            return self.refuse_query(report, server);
        }
        self.note_effects(survey, server);
        self.statements.unnamed = None;
        server.server().unnamed = None;
        self.send_converted(&change.stand_in(text), survey, &SessionParameters::default(), server);
        self.gate = Gate::Closed;
    }

    /// A simple query as Parse, Bind, Describe, Execute, Sync: the client gets the same frames.
    fn send_converted(
        &mut self,
        text: &[u8],
        survey: Survey,
        returned: &SessionParameters,
        server: &mut TenantServer,
    ) {
        let out = server.server().channel.output.space();
        encode::parse(out, "", text, &[0, 0]);
        encode::bind_text(out, &[]);
        encode::describe(out, b'P', "");
        encode::execute_unnamed(out);
        for owed in [
            Owed::Parse(Shown::Nobody, Undo::Nothing),
            Owed::Bind(Shown::Nobody),
            Owed::DescribePortal(Shown::Nobody),
            Owed::Execute,
        ] {
            self.ledger.push(owed);
        }
        self.restore(returned, server);
        self.follow_up(survey.first, server);
        if survey.first == StatementKind::CopyFromStdin {
            encode::bare(server.server().channel.output.space(), b'H');
            self.held = HeldSync::Ours;
        } else {
            self.send_sync(server);
        }
    }

    /// Lets the server fail in the client's place, so that its transaction ends as it would.
    pub(super) fn refuse_query(&mut self, report: Report, server: &mut TenantServer) {
        self.begin(Lead::Other, server);
        let out = server.server().channel.output.space();
        encode::parse(out, "", REFUSED, &[0, 0]);
        encode::bare(out, b'S');
        server.server().unnamed = None;
        self.ledger.push(Owed::Refused(Box::new(report)));
        self.ledger.push(Owed::Sync);
        self.gate = Gate::Closed;
    }

    fn sync(&mut self, server: &mut TenantServer) {
        self.describe_unbound(server);
        self.gate = Gate::Closed;
        if self.may_copy && !self.ledger.is_empty() && self.discard == Discard::No {
            encode::bare(server.server().channel.output.space(), b'H');
            self.held = HeldSync::Client;
            return;
        }
        self.send_sync(server);
    }

    /// Sends the Sync that ends a segment.
    pub(super) fn send_sync(&mut self, server: &mut TenantServer) {
        self.held = HeldSync::No;
        self.discard = Discard::No;
        encode::bare(server.server().channel.output.space(), b'S');
        self.ledger.push(Owed::Sync);
        self.gate = Gate::Closed;
    }

    /// CopyDone or CopyFail. Behind a converted query the Sync that was held back follows.
    fn end_copy(&mut self, whole: &[u8], server: &mut TenantServer) {
        server.server().channel.output.space().extend_from_slice(whole);
        self.copy_in = CopyIn::No;
        if self.held == HeldSync::Ours {
            self.send_sync(server);
        }
    }
}

fn function_call() -> Report {
    Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "the function-call message is refused by the proxy")
        .detail("rule \"function-call\": it calls a function by number, past every inspection.")
        .hint("Call the function with SELECT.")
}
