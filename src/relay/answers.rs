//! From the server to the client: `absorb`.

use crate::net::Channel;
use crate::relay::ledger::{Owed, Shown, Undone};
use crate::relay::{
    Absorbed, Check, Conversation, CopyIn, Discard, Gate, HeldSync, Outcome, Reach, RelayFault, Standing,
    Stream,
};
use crate::sql::StatementKind;
use crate::upstream::{Server, TenantServer};
use crate::wire::backend::{self, Status};
use crate::wire::encode::{self, Severity};
use crate::wire::frame;

/// Largest server message that is looked into as a whole, in bytes: errors, notices, tags, parameters.
const MAX_WHOLE_BYTES: usize = 16 * 1024 * 1024;

/// What happens to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Forward,
    Swallow,
}

impl Conversation {
    /// Passes on what the server has sent. `wanted` of the server's input is left to the caller: the result
    /// of the second value is how many bytes the next frame needs to be whole.
    pub fn absorb(
        &mut self,
        client: &mut Channel,
        server: &mut TenantServer,
    ) -> Result<(Absorbed, usize), RelayFault> {
        let absorbed = self.absorb_frames(client, server);
        // Once for many frames: a counter is shared by all clients of a tenant.
        match std::mem::take(&mut self.passed_on) {
            0 => {}
            bytes => self.metrics.bytes_out(bytes),
        }
        absorbed
    }

    fn absorb_frames(
        &mut self,
        client: &mut Channel,
        server: &mut TenantServer,
    ) -> Result<(Absorbed, usize), RelayFault> {
        loop {
            self.tell_due(client);
            if client.output.is_full() {
                return Ok((Absorbed::All, 0));
            }
            if !self.pass_answer_stream(client, server.server()) {
                return Ok((Absorbed::All, 0));
            }
            let bytes = server.server().channel.input.bytes();
            let header = frame::header(bytes)
                .map_err(|_| RelayFault::Doubt("the server sent an impossible length"))?;
            let Some(header) = header else { return Ok((Absorbed::All, 0)) };
            if matches!(header.tag, b'D' | b'd') {
                self.from_server = match self.ledger.front() {
                    Some(Owed::Execute | Owed::Query) => Stream::Pass(header.total),
                    Some(Owed::Enter | Owed::Reset) => Stream::Drop(header.total),
                    _ => return Err(RelayFault::Doubt("rows that nobody asked for")),
                };
                continue;
            }
            if header.total > MAX_WHOLE_BYTES {
                return Err(RelayFault::Doubt("the server sent a message over the limit"));
            }
            if bytes.len() < header.total {
                return Ok((Absorbed::All, header.total));
            }
            // Lent out for the one frame, as in `pump`.
            let input = std::mem::take(&mut server.server().channel.input);
            let whole = input.bytes().get(..header.total).unwrap_or_default();
            let fate = self.take_answer(header.tag, whole, client, server);
            if let Ok(Fate::Forward) = fate {
                client.input.forget();
                client.output.space().extend_from_slice(whole);
                self.passed_on += header.total;
            }
            server.server().channel.input = input;
            server.server().channel.input.consume(header.total);
            fate?;
            if header.tag == b'Z' && self.gate == Gate::Between {
                return Ok((Absorbed::Ready(self.status), 0));
            }
        }
    }

    /// Tells the client what the server does not owe and whose turn has come.
    fn tell_due(&mut self, client: &mut Channel) {
        while let Some(Owed::Told(tag, _)) = self.ledger.front() {
            encode::bare(client.output.space(), *tag);
            client.input.forget();
            self.ledger.pop();
        }
    }

    /// Passes on the rest of a row; false if more of it has to come first.
    fn pass_answer_stream(&mut self, client: &mut Channel, server: &mut Server) -> bool {
        let (left, passes) = match self.from_server {
            Stream::No => return true,
            Stream::Pass(left) => (left, true),
            Stream::Drop(left) => (left, false),
        };
        let input = &mut server.channel.input;
        let count = left.min(input.len());
        if passes {
            client.output.space().extend_from_slice(input.bytes().get(..count).unwrap_or_default());
            self.passed_on += count;
        }
        input.consume(count);
        let left = left - count;
        self.from_server = match (left, passes) {
            (0, _) => Stream::No,
            (left, true) => Stream::Pass(left),
            (left, false) => Stream::Drop(left),
        };
        left == 0
    }

    fn take_answer(
        &mut self,
        tag: u8,
        whole: &[u8],
        client: &mut Channel,
        server: &mut TenantServer,
    ) -> Result<Fate, RelayFault> {
        let body = frame::body(whole);
        match tag {
            b'N' => Ok(if self.ledger.is_ours() { Fate::Swallow } else { Fate::Forward }),
            b'A' => Ok(self.notification(body, client, server.server())),
            b'S' => self.parameter(body, client, server),
            b'E' => self.error(body, client, server),
            b'Z' => self.ready(body, client, server.server()),
            b'C' | b's' | b'I' => self.completed(tag, body, client, server),
            b'G' => self.copy_in_begins(),
            b'H' | b'c' => match self.ledger.front() {
                Some(Owed::Execute | Owed::Query) => Ok(Fate::Forward),
                _ => Err(RelayFault::Doubt("COPY that nobody asked for")),
            },
            b'T' | b'n' => self.described(whole, client, server),
            b't' => match self.ledger.front() {
                Some(Owed::DescribeStatement(..)) => {
                    // An error may stand in the place of the columns.
                    self.description.extend_from_slice(whole);
                    Ok(Fate::Swallow)
                }
                _ => Err(RelayFault::Doubt("a description that nobody asked for")),
            },
            b'1' | b'2' | b'3' => self.acknowledged(tag),
            _ => Err(RelayFault::Doubt("the server sent a message of an unknown kind")),
        }
    }

    fn error(
        &mut self,
        body: &[u8],
        client: &mut Channel,
        server: &mut TenantServer,
    ) -> Result<Fate, RelayFault> {
        let field = |code| backend::error_field(body, code).unwrap_or_default();
        let sqlstate = field(b'C');
        if matches!(field(b'V'), "FATAL" | "PANIC") {
            return Err(RelayFault::Ended(format!("{sqlstate}: {}", field(b'M'))));
        }
        self.outcome = Outcome::RolledBack;
        match self.ledger.front() {
            None => Err(RelayFault::Doubt("an error that nobody caused")),
            // Its ReadyForQuery follows, and then entering the context fails for want of the nonce.
            Some(Owed::Reset) => {
                tracing::warn!(sqlstate, message = field(b'M'), "a server could not be reset");
                server.server().stamp = None;
                Ok(Fate::Swallow)
            }
            Some(Owed::Enter) => {
                server.server().stamp = None;
                Err(RelayFault::Context(format!("{sqlstate}: {}", field(b'M'))))
            }
            Some(Owed::Query) => {
                self.copy_in = CopyIn::No;
                self.metrics.error(sqlstate);
                Ok(Fate::Forward)
            }
            Some(Owed::Sync) => {
                // For example a deferred constraint, checked when the transaction ends.
                self.metrics.error(sqlstate);
                Ok(Fate::Forward)
            }
            Some(Owed::Refused(_)) => {
                if let Some(Owed::Refused(report)) = self.ledger.pop() {
                    self.metrics.error(report.sqlstate.0);
                    client.input.forget();
                    encode::error_response(client.output.space(), Severity::Error, &report);
                }
                self.fail(server);
                Ok(Fate::Swallow)
            }
            Some(owed) => {
                self.metrics.error(sqlstate);
                if matches!(owed, Owed::DescribeStatement(Shown::Client, ..)) {
                    self.tell_description(client);
                }
                let failed = self.ledger.pop().into_iter().collect();
                self.undo(failed, Undone::Failed, Some(server.server()));
                self.fail(server);
                Ok(Fate::Forward)
            }
        }
    }

    /// The server skips everything up to the next Sync.
    fn fail(&mut self, server: &mut TenantServer) {
        self.copy_in = CopyIn::No;
        let skipped = self.ledger.skip_to_sync();
        self.undo(skipped, Undone::Skipped, Some(server.server()));
        self.check = Check::No;
        self.description.clear();
        if self.ledger.is_empty() {
            if self.held == HeldSync::No {
                self.discard = Discard::ServerSkips;
            } else {
                self.send_sync(server);
            }
        }
    }

    fn ready(&mut self, body: &[u8], client: &mut Channel, server: &mut Server) -> Result<Fate, RelayFault> {
        let status = backend::ready_for_query(body).ok_or(RelayFault::Doubt("a malformed ReadyForQuery"))?;
        match self.ledger.pop() {
            Some(Owed::Reset) if status == Status::Idle => Ok(Fate::Swallow),
            Some(Owed::Query | Owed::Sync) if self.ledger.is_empty() => {
                self.status = status;
                self.gate = Gate::Between;
                self.copy_in = CopyIn::No;
                self.discard = Discard::No;
                self.may_copy = false;
                self.bound = StatementKind::Nothing;
                if status == Status::Idle {
                    self.standing = Standing::Sure;
                    self.state.end();
                    if self.outcome == Outcome::RolledBack {
                        self.choice.roll_back();
                    }
                }
                self.outcome = Outcome::Open;
                self.check = Check::No;
                self.unbound = None;
                client.input.forget();
                if let Some(started) = self.started.take() {
                    self.metrics.query(started.elapsed());
                }
                if self.held != HeldSync::No {
                    return Err(RelayFault::Doubt("ready while a Sync was held back"));
                }
                Ok(Fate::Forward)
            }
            _ => {
                server.stamp = None;
                Err(RelayFault::Doubt("the server was ready out of turn"))
            }
        }
    }

    fn completed(
        &mut self,
        tag: u8,
        body: &[u8],
        client: &mut Channel,
        server: &mut TenantServer,
    ) -> Result<Fate, RelayFault> {
        match self.ledger.front() {
            Some(Owed::Reset) => return Ok(Fate::Swallow),
            Some(Owed::Enter) if tag == b'C' => {
                self.ledger.pop();
                if !self.ledger.is_ours() {
                    self.reach = Reach::Statement;
                }
                return Ok(Fate::Swallow);
            }
            Some(Owed::Execute) => {
                self.ledger.pop();
            }
            Some(Owed::DiscardAll) => {
                self.ledger.pop();
                self.discard_all();
                if !server.enters_context() {
                    // Without a context there was no stand-in: it really ran.
                    server.server().clear_prepared();
                }
                client.input.forget();
                encode::command_complete(client.output.space(), "DISCARD ALL");
                return Ok(Fate::Swallow);
            }
            Some(Owed::Deallocate(_)) => {
                if let Some(Owed::Deallocate(name)) = self.ledger.pop() {
                    self.statements.remove(&name);
                }
                client.input.forget();
                encode::command_complete(client.output.space(), "DEALLOCATE");
                return Ok(Fate::Swallow);
            }
            Some(Owed::Query) => {}
            _ => return Err(RelayFault::Doubt("a completion that nobody waits for")),
        }
        match backend::command_tag(body) {
            b"COMMIT" => self.choice.commit(),
            b"ROLLBACK" => self.outcome = Outcome::RolledBack,
            _ => {}
        }
        if tag == b'C' && matches!(backend::command_tag(body), b"DEALLOCATE ALL" | b"DISCARD ALL") {
            self.statements.clear();
            server.server().clear_prepared();
        }
        if self.held != HeldSync::No && self.ledger.is_empty() {
            self.send_sync(server);
        }
        Ok(Fate::Forward)
    }

    fn copy_in_begins(&mut self) -> Result<Fate, RelayFault> {
        match self.ledger.front() {
            Some(Owed::Query) => self.copy_in = CopyIn::Simple,
            Some(Owed::Execute) => match self.held {
                HeldSync::Ours => self.copy_in = CopyIn::Simple,
                HeldSync::Client => {
                    // The server would have ignored it; the client sends another behind its rows.
                    self.held = HeldSync::No;
                    self.gate = Gate::Open;
                    self.copy_in = CopyIn::Extended;
                }
                HeldSync::No if self.gate == Gate::Open => self.copy_in = CopyIn::Extended,
                HeldSync::No => return Err(RelayFault::Doubt("COPY by a statement that was none")),
            },
            _ => return Err(RelayFault::Doubt("COPY that nobody asked for")),
        }
        Ok(Fate::Forward)
    }

    fn described(
        &mut self,
        whole: &[u8],
        client: &mut Channel,
        server: &mut TenantServer,
    ) -> Result<Fate, RelayFault> {
        let returns_rows = whole.first() == Some(&b'T');
        match self.ledger.front() {
            Some(Owed::Query) if returns_rows => return Ok(Fate::Forward),
            Some(Owed::Enter | Owed::Reset) => return Ok(Fate::Swallow),
            Some(Owed::DescribeStatement(..) | Owed::DescribePortal(_)) => {}
            _ => return Err(RelayFault::Doubt("a description that nobody asked for")),
        }
        match self.ledger.pop() {
            Some(Owed::DescribePortal(Shown::Nobody)) if !returns_rows => Ok(Fate::Swallow),
            Some(Owed::DescribeStatement(shown, name, statement)) => {
                self.statement_described(&name, &statement, whole, server)?;
                if shown == Shown::Nobody {
                    self.description.clear();
                    return Ok(Fate::Swallow);
                }
                self.tell_description(client);
                Ok(Fate::Forward)
            }
            _ => Ok(Fate::Forward),
        }
    }

    fn tell_description(&mut self, client: &mut Channel) {
        if !self.description.is_empty() {
            client.output.space().append(&mut self.description);
        }
    }

    fn acknowledged(&mut self, tag: u8) -> Result<Fate, RelayFault> {
        if matches!(self.ledger.front(), Some(Owed::Enter)) {
            return Ok(Fate::Swallow);
        }
        let shown = match (tag, self.ledger.pop()) {
            (b'1', Some(Owed::Parse(shown, _))) | (b'2', Some(Owed::Bind(shown))) => shown,
            (b'3', Some(Owed::ClosePortal)) => Shown::Client,
            (b'3', Some(Owed::Evict(_))) => Shown::Nobody,
            (_, Some(owed)) => {
                self.undo(vec![owed], Undone::Failed, None);
                return Err(RelayFault::Doubt("an answer out of turn"));
            }
            (_, None) => return Err(RelayFault::Doubt("an answer that nobody waits for")),
        };
        Ok(match shown {
            Shown::Client => Fate::Forward,
            Shown::Nobody => Fate::Swallow,
        })
    }
}
