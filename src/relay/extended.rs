//! Extended queries: Parse, Bind, Describe, Close, with the client's statement names kept apart from those on
//! servers.

use std::sync::Arc;

use crate::fault::{Report, sqlstate};
use crate::relay::Conversation;
use crate::relay::entry::Lead;
use crate::relay::ledger::{Bound, Owed, Shown, Undo};
use crate::relay::prepared::{MAX_NAMED, Reading, Statement};
use crate::relay::requests::REFUSED;
use crate::sql::{Count, StatementKind, Survey, deallocated};
use crate::upstream::{TenantServer, prepared_name};
use crate::wire::backend::Status;
use crate::wire::{encode, frontend};

/// Allowed in a transaction block and answered without rows.
const DISCARD_STAND_IN: &[u8] = b"DISCARD TEMP";

impl Conversation {
    pub(super) fn parse(&mut self, mut parse: frontend::Parse<'_>, whole: &[u8], server: &mut TenantServer) {
        let reading = match self.inspect(parse.text) {
            Ok(reading) => reading,
            Err(report) => return self.refuse_message(report, server),
        };
        let survey = reading.survey;
        if let Err(report) = self.follow_comment(parse.text, server) {
            return self.refuse_message(report, server);
        }
        if let Some(report) = reading.unfit(parse.types).or_else(|| self.lack_of_tenant_for(&reading)) {
            return self.refuse_message(report, server);
        }
        self.begin(Lead::of(survey), server);
        // It cannot run behind the context, so a harmless part of it stands in for it.
        let discards = survey.first == StatementKind::DiscardAll && self.status == Status::Idle;
        if discards && server.enters_context() {
            parse.text = DISCARD_STAND_IN;
        }
        if self.status == Status::Failed && !survey.first.ends_failed_block() {
            // PostgreSQL looks at the block's state first; what is told here without it must not.
            server.server().unnamed = None;
            encode::parse(server.server().channel.output.space(), "", parse.text, parse.types);
            self.ledger.push(Owed::Parse(Shown::Client, Undo::Nothing));
            return;
        }
        if parse.name.is_empty()
            && let Some(name) = self.known_deallocated(parse.text, survey)
        {
            let statement = self.relay.interner.deallocation(parse.text, name, reading);
            server.server().unnamed = Some(statement.id);
            encode::parse(server.server().channel.output.space(), "", statement.sent(), parse.types);
            self.statements.unnamed = Some(statement);
            self.ledger.push(Owed::Parse(Shown::Client, Undo::Unnamed));
            return;
        }
        if parse.name.is_empty() {
            let changes = reading.change.is_some();
            let statement = self.relay.interner.single(parse.text, parse.types, reading);
            server.server().unnamed = Some(statement.id);
            if discards || changes {
                encode::parse(server.server().channel.output.space(), "", statement.sent(), parse.types);
                self.statements.unnamed = Some(statement);
                self.ledger.push(Owed::Parse(Shown::Client, Undo::Unnamed));
            } else {
                self.statements.unnamed = Some(statement);
                self.send(whole, Owed::Parse(Shown::Client, Undo::Unnamed), server);
            }
            return;
        }
        self.parse_named(parse, reading, server);
    }

    fn parse_named(&mut self, parse: frontend::Parse<'_>, reading: Reading, server: &mut TenantServer) {
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
        let interner = &self.relay.interner;
        let named = if self.has_temporary_objects() {
            interner.own(parse.text, parse.types, reading)
        } else {
            interner.intern(parse.text, parse.types, reading)
        };
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
        encode::parse(out, &prepared_name(statement.id), statement.sent(), &statement.types);
        self.ledger.push(Owed::Parse(shown, undo));
    }

    /// Makes sure that the server has what the client calls by this name.
    fn provide(&mut self, name: &[u8], statement: &Statement, server: &mut TenantServer) {
        if name.is_empty() {
            if server.server().unnamed != Some(statement.id) {
                server.server().unnamed = Some(statement.id);
                encode::parse(server.server().channel.output.space(), "", statement.sent(), &statement.types);
                self.ledger.push(Owed::Parse(Shown::Nobody, Undo::OnServer(statement.id)));
            }
        } else if !server.server().has_prepared(statement.id) {
            self.prepare(statement, Shown::Nobody, Undo::OnServer(statement.id), server);
        }
    }

    pub(super) fn bind(&mut self, bind: frontend::Bind<'_>, whole: &[u8], server: &mut TenantServer) {
        let Some(statement) = self.statements.find(bind.statement) else {
            self.refuse_message(no_statement(bind.statement), server);
            return;
        };
        if let Err(report) = self.follow_comment(&statement.text, server) {
            return self.refuse_message(report, server);
        }
        if let Some(report) = self.lack_of_tenant_for(&statement.reading) {
            return self.refuse_message(report, server);
        }
        if let Some(footprint) = &statement.reading.footprint
            && let Err(report) = self.note_footprint(footprint, &statement.text, Some(bind.rest))
        {
            return self.refuse_message(report, server);
        }
        self.begin(Lead::of(statement.survey()), server);
        if let Some(change) = &statement.reading.change
            && let Err(report) = self.choose(change, Some(bind.rest), server)
        {
            return self.refuse_message(report, server);
        }
        self.provide(bind.statement, &statement, server);
        self.bound = statement.survey().first;
        self.deallocates.clone_from(&statement.deallocates);
        self.note_effects(statement.survey(), server);
        self.may_copy |= statement.survey().first == StatementKind::CopyFromStdin;
        if bind.statement.is_empty() {
            self.send(whole, Owed::Bind(Shown::Client, None), server);
        } else {
            let out = server.server().channel.output.space();
            encode::bind_renamed(out, bind.portal, &prepared_name(statement.id), bind.rest);
            let is_known = self.statements.use_of(bind.statement);
            self.ledger.push(Owed::Bind(Shown::Client, Some(Bound { id: statement.id, is_known })));
        }
    }

    /// The name in a DEALLOCATE of a statement that servers know by another one.
    pub(super) fn known_deallocated(&self, text: &[u8], survey: Survey) -> Option<Box<[u8]>> {
        if survey.first != StatementKind::Deallocate || survey.statements != Count::One {
            return None;
        }
        let name = deallocated(text)?;
        self.statements.named.contains_key(name.as_slice()).then(|| name.into())
    }

    pub(super) fn describe(&mut self, target: frontend::Target<'_>, whole: &[u8], server: &mut TenantServer) {
        if target.kind == b'P' {
            self.send(whole, Owed::DescribePortal(Shown::Client), server);
            return;
        }
        let Some(statement) = self.statements.find(target.name) else {
            self.refuse_message(no_statement(target.name), server);
            return;
        };
        self.provide(target.name, &statement, server);
        self.statements.use_of(target.name);
        if target.name.is_empty() {
            self.send(whole, Owed::DescribeStatement(statement.id), server);
        } else {
            encode::describe(server.server().channel.output.space(), b'S', &prepared_name(statement.id));
            self.ledger.push(Owed::DescribeStatement(statement.id));
        }
    }

    pub(super) fn close(&mut self, target: frontend::Target<'_>, whole: &[u8], server: &mut TenantServer) {
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
}

fn no_statement(name: &[u8]) -> Report {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Report::new(sqlstate::INVALID_STATEMENT_NAME, message)
}
