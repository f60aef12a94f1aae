//! From the client to the server: `pump`.

use std::sync::Arc;

use tokio::time::Instant;

use crate::fault::{Report, sqlstate};
use crate::guard::{self, Verdict};
use crate::net::Channel;
use crate::net::buffer::ReadBuffer;
use crate::relay::ledger::{Owed, Shown, Undo};
use crate::relay::prepared::{MAX_NAMED, Statement};
use crate::relay::{
    Conversation, CopyIn, Discard, Gate, HeldSync, Pumped, RelayFault, Standing, Stream, refusal,
};
use crate::sql::{Count, SessionState, StatementKind, Survey, mentions_reset_all, reset_setting};
use crate::upstream::{Part, SessionParameters, TenantServer, Wear, prepared_name};
use crate::wire::backend::Status;
use crate::wire::{encode, frame, frontend};

/// A text that every PostgreSQL answers with a syntax error: the error that the client reads is ours.
const REFUSED: &[u8] = b"refused by pgtenant";
/// Allowed in a transaction block and answered without rows.
const DISCARD_STAND_IN: &[u8] = b"DISCARD TEMP";
const MALFORMED: RelayFault = RelayFault::Protocol("invalid message format");

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// By BEGIN alone.
    Begin,
    /// By BEGIN and more in one text.
    BeginAndMore,
    /// By anything else.
    Other,
}

impl Lead {
    fn of(survey: Survey) -> Self {
        match (survey.first, survey.statements) {
            (StatementKind::Begin, Count::One) => Self::Begin,
            (StatementKind::Begin, _) => Self::BeginAndMore,
            _ => Self::Other,
        }
    }
}

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
            if opens && server.enters_context() && self.status == Status::Idle {
                // Until the context is entered nothing of the segment has run, so it can be sent again.
                client.input.mark();
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
                self.begin(Lead::Other, server);
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
                self.send(whole, if discards { Owed::DiscardAll } else { Owed::Execute }, server);
                self.follow_up(self.bound, server);
            }
            b'S' => self.sync(server),
            _ => server.server().channel.output.space().extend_from_slice(whole),
        }
        Ok(())
    }

    /// The first message of a segment; the first of a transaction is preceded by the context.
    fn begin(&mut self, lead: Lead, server: &mut TenantServer) {
        if self.gate != Gate::Between {
            return;
        }
        self.gate = Gate::Open;
        self.started = Some(Instant::now());
        if !server.enters_context() {
            return;
        }
        match (self.status, self.standing) {
            (Status::Idle, _) => {}
            (Status::Transaction, Standing::Doubtful | Standing::Awaited) => {
                self.enter_in_block(server);
                return;
            }
            // In a failed block nothing runs, so nothing can run without a context.
            (Status::Transaction | Status::Failed, _) => return,
        }
        if server.reset(self.client, &self.parameters) == Part::Sent {
            self.relay.switches.increment();
            self.ledger.push(Owed::Reset);
            self.ledger.push(Owed::Enter);
        }
        match lead {
            Lead::Begin => self.standing = Standing::Awaited,
            // PostgreSQL warns that there is no block yet; there will be one before the first query.
            Lead::BeginAndMore => self.enter_in_block(server),
            Lead::Other => self.enter(server),
        }
    }

    fn enter(&mut self, server: &mut TenantServer) {
        server.enter();
        self.ledger.push(Owed::Enter);
        self.standing = Standing::Sure;
    }

    fn enter_in_block(&mut self, server: &mut TenantServer) {
        server.enter_in_block();
        self.ledger.push(Owed::Enter);
        self.standing = Standing::Sure;
    }

    /// What has to follow a statement in the same write: the context behind BEGIN, and what the client
    /// asked for at startup behind RESET ALL.
    fn follow_up(&mut self, executed: StatementKind, server: &mut TenantServer) {
        if executed == StatementKind::ResetAll {
            let startup = self.startup.clone();
            self.restore(&startup, server);
        }
        if self.standing == Standing::Awaited {
            self.enter_in_block(server);
        }
    }

    fn restore(&mut self, parameters: &SessionParameters, server: &mut TenantServer) {
        if !parameters.is_empty() {
            server.restore(parameters);
            self.ledger.push(Owed::Enter);
        }
    }

    fn send(&mut self, frame: &[u8], owed: Owed, server: &mut TenantServer) {
        server.server().channel.output.space().extend_from_slice(frame);
        self.ledger.push(owed);
    }

    // === simple queries ===

    fn query(&mut self, text: &[u8], server: &mut TenantServer) {
        let survey = match guard::inspect(text, &self.relay.rules) {
            Verdict::Pass(survey) => survey,
            Verdict::Refuse(refused) => {
                self.metrics.refusal(refused.rule);
                self.refuse_query(refusal(refused), server);
                return;
            }
        };
        self.begin(Lead::of(survey), server);
        self.note_effects(survey, server);
        self.statements.unnamed = None;
        server.server().unnamed = None;
        // Behind unsynced messages a single statement breaks the session's state on PostgreSQL 18, so it is
        // sent as one more of them. Several statements stay a Query: they cannot be prepared.
        // RESET of what the client asked for at startup returns to that, not to the server's default.
        let returned = match survey.first {
            StatementKind::Reset | StatementKind::Set if !self.startup.is_empty() => {
                reset_setting(text).map(|name| self.startup.only(&name)).unwrap_or_default()
            }
            _ => SessionParameters::default(),
        };
        let converts = matches!(survey.statements, Count::One | Count::None)
            && server.enters_context()
            && (!self.ledger.is_empty()
                || self.standing == Standing::Awaited
                || survey.first == StatementKind::ResetAll
                || !returned.is_empty());
        let out = server.server().channel.output.space();
        if converts {
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
            self.restore(&returned, server);
            self.follow_up(survey.first, server);
            let out = server.server().channel.output.space();
            if survey.first == StatementKind::CopyFromStdin {
                encode::bare(out, b'H');
                self.held = HeldSync::Ours;
            } else {
                encode::bare(out, b'S');
                self.ledger.push(Owed::Sync);
            }
        } else {
            if survey.statements == Count::Many && !self.startup.is_empty() && mentions_reset_all(text) {
                self.bound = StatementKind::ResetAll;
            }
            encode::query(out, text);
            self.ledger.push(Owed::Query);
        }
        self.gate = Gate::Closed;
    }

    /// Lets the server fail in the client's place, so that its transaction ends as it would.
    fn refuse_query(&mut self, report: Report, server: &mut TenantServer) {
        self.begin(Lead::Other, server);
        let out = server.server().channel.output.space();
        encode::parse(out, "", REFUSED, &[0, 0]);
        encode::bare(out, b'S');
        server.server().unnamed = None;
        self.ledger.push(Owed::Refused(Box::new(report)));
        self.ledger.push(Owed::Sync);
        self.gate = Gate::Closed;
    }

    // === extended queries ===

    fn parse(&mut self, mut parse: frontend::Parse<'_>, whole: &[u8], server: &mut TenantServer) {
        let survey = match guard::inspect(parse.text, &self.relay.rules) {
            Verdict::Pass(survey) => survey,
            Verdict::Refuse(refused) => {
                self.metrics.refusal(refused.rule);
                self.refuse_message(refusal(refused), server);
                return;
            }
        };
        self.begin(Lead::of(survey), server);
        // It cannot run behind the context, so a harmless part of it stands in for it.
        let discards = survey.first == StatementKind::DiscardAll && self.status == Status::Idle;
        if discards && server.enters_context() {
            parse.text = DISCARD_STAND_IN;
        }
        if self.status == Status::Failed && !survey.first.ends_failed_block() {
            // PostgreSQL looks at the block's state first; what is told here without it must not.
            encode::parse(server.server().channel.output.space(), "", parse.text, parse.types);
            self.ledger.push(Owed::Parse(Shown::Client, Undo::Nothing));
            return;
        }
        if parse.name.is_empty() {
            let statement = self.relay.interner.single(parse.text, parse.types, survey);
            server.server().unnamed = Some(statement.id);
            self.statements.unnamed = Some(statement);
            if discards {
                encode::parse(server.server().channel.output.space(), "", parse.text, parse.types);
                self.ledger.push(Owed::Parse(Shown::Client, Undo::Unnamed));
            } else {
                self.send(whole, Owed::Parse(Shown::Client, Undo::Unnamed), server);
            }
            return;
        }
        self.parse_named(parse, survey, server);
    }

    fn parse_named(&mut self, parse: frontend::Parse<'_>, survey: Survey, server: &mut TenantServer) {
        let name = String::from_utf8_lossy(parse.name);
        if self.statements.named.contains_key(parse.name) {
            let message = format!("prepared statement \"{name}\" already exists");
            self.refuse_message(Report::new(sqlstate::DUPLICATE_STATEMENT, message), server);
            return;
        }
        if self.statements.named.len() >= MAX_NAMED {
            let message = format!("too many prepared statements: the limit is {MAX_NAMED}");
            let report = Report::new(sqlstate::CONFIGURATION_LIMIT, message);
            self.refuse_message(report.hint("Close prepared statements that are not needed."), server);
            return;
        }
        let named = self.relay.interner.intern(parse.text, parse.types, survey);
        let statement = Arc::clone(named.statement());
        let key: Box<[u8]> = parse.name.into();
        self.statements.named.insert(key.clone(), named);
        if server.server().has_prepared(statement.id) {
            self.tell(b'1', Undo::Named(key, u64::MAX));
        } else {
            self.prepare(&statement, Shown::Client, Undo::Named(key, statement.id), server);
        }
    }

    /// Puts a statement on the server under its own name there.
    fn prepare(&mut self, statement: &Statement, shown: Shown, undo: Undo, server: &mut TenantServer) {
        let limit = server.max_prepared();
        let evicted = server.server().add_prepared(statement.id, limit);
        let out = server.server().channel.output.space();
        if let Some(evicted) = evicted {
            encode::close(out, b'S', &prepared_name(evicted));
            self.ledger.push(Owed::Evict(evicted));
        }
        encode::parse(out, &prepared_name(statement.id), &statement.text, &statement.types);
        self.ledger.push(Owed::Parse(shown, undo));
    }

    /// Makes sure that the server has what the client calls by this name.
    fn provide(&mut self, name: &[u8], statement: &Statement, server: &mut TenantServer) {
        if name.is_empty() {
            if server.server().unnamed != Some(statement.id) {
                server.server().unnamed = Some(statement.id);
                encode::parse(server.server().channel.output.space(), "", &statement.text, &statement.types);
                self.ledger.push(Owed::Parse(Shown::Nobody, Undo::OnServer(statement.id)));
            }
        } else if !server.server().has_prepared(statement.id) {
            self.prepare(statement, Shown::Nobody, Undo::OnServer(statement.id), server);
        }
    }

    fn bind(&mut self, bind: frontend::Bind<'_>, whole: &[u8], server: &mut TenantServer) {
        let Some(statement) = self.statements.find(bind.statement) else {
            self.refuse_message(no_statement(bind.statement), server);
            return;
        };
        let lead = Lead::of(statement.survey);
        self.begin(lead, server);
        if self.standing == Standing::Awaited && lead != Lead::Begin {
            self.enter(server);
        }
        self.provide(bind.statement, &statement, server);
        self.bound = statement.survey.first;
        self.note_effects(statement.survey, server);
        self.may_copy |= statement.survey.first == StatementKind::CopyFromStdin;
        if bind.statement.is_empty() {
            self.send(whole, Owed::Bind(Shown::Client), server);
        } else {
            let out = server.server().channel.output.space();
            encode::bind_renamed(out, bind.portal, &prepared_name(statement.id), bind.rest);
            self.ledger.push(Owed::Bind(Shown::Client));
        }
    }

    fn describe(&mut self, target: frontend::Target<'_>, whole: &[u8], server: &mut TenantServer) {
        if target.kind == b'P' {
            self.send(whole, Owed::DescribePortal(Shown::Client), server);
            return;
        }
        let Some(statement) = self.statements.find(target.name) else {
            self.refuse_message(no_statement(target.name), server);
            return;
        };
        self.provide(target.name, &statement, server);
        if target.name.is_empty() {
            self.send(whole, Owed::DescribeStatement, server);
        } else {
            encode::describe(server.server().channel.output.space(), b'S', &prepared_name(statement.id));
            self.ledger.push(Owed::DescribeStatement);
        }
    }

    fn close(&mut self, target: frontend::Target<'_>, whole: &[u8], server: &mut TenantServer) {
        if target.kind == b'P' {
            self.send(whole, Owed::ClosePortal, server);
            return;
        }
        // On the server it stays, for others of this tenant and for the next time.
        let undo = if target.name.is_empty() {
            self.statements.unnamed = None;
            Undo::Nothing
        } else {
            match self.statements.named.remove_entry(target.name) {
                Some((name, named)) => Undo::Closed(name, Box::new(named)),
                None => Undo::Nothing,
            }
        };
        self.tell(b'3', undo);
    }

    /// An answer that the server does not owe. It still waits for its turn, and an error before it skips it.
    fn tell(&mut self, tag: u8, undo: Undo) {
        self.ledger.push(Owed::Told(tag, undo));
    }

    fn refuse_message(&mut self, report: Report, server: &mut TenantServer) {
        self.begin(Lead::Other, server);
        encode::parse(server.server().channel.output.space(), "", REFUSED, &[0, 0]);
        server.server().unnamed = None;
        self.ledger.push(Owed::Refused(Box::new(report)));
    }

    fn sync(&mut self, server: &mut TenantServer) {
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

    /// What a statement may do to its session and to the context, as far as its text tells.
    fn note_effects(&mut self, survey: Survey, server: &mut TenantServer) {
        if survey.session_state == SessionState::Maybe {
            server.server().wear = Wear::Dirty;
            self.standing = Standing::Doubtful;
        }
        let chains = matches!(survey.first, StatementKind::CommitAndChain | StatementKind::RollbackAndChain);
        if chains || !matches!(survey.statements, Count::One | Count::None) {
            self.standing = Standing::Doubtful;
        }
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

fn no_statement(name: &[u8]) -> Report {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Report::new(sqlstate::INVALID_STATEMENT_NAME, message)
}

fn function_call() -> Report {
    Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "the function-call message is refused by the proxy")
        .detail("rule \"function-call\": it calls a function by number, past every inspection.")
        .hint("Call the function with SELECT.")
}
