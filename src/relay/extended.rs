//! Extended queries: Parse, Bind, Describe, Close, with the client's statement names kept apart from those on
//! servers.

use std::sync::Arc;

use crate::fault::{Report, sqlstate};
use crate::relay::Conversation;
use crate::relay::entry::Lead;
use crate::relay::ledger::{Owed, Shown, Undo};
use crate::relay::prepared::{MAX_NAMED, Reading, Sharing, Statement};
use crate::relay::requests::REFUSED;
use crate::relay::statements::Provided;
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
            return self.parse_in_failed_block(parse, server);
        }
        if !parse.name.is_empty() {
            return self.parse_named(parse, reading, server);
        }
        let changes = reading.change.is_some();
        if let Some(name) = self.known_deallocated(parse.text, survey) {
            let statement = self.relay.interner.deallocation(parse.text, name, reading);
            self.parse_stand_in(statement, server);
        } else {
            let statement =
                self.relay.interner.draft(parse.text, parse.types, (reading, Sharing::Own), &self.parameters);
            if discards || changes {
                self.parse_stand_in(statement, server);
            } else {
                let undo = self.replace_unnamed(statement, server);
                self.send(whole, Owed::Parse(Shown::Client, undo), server);
            }
        }
    }

    /// PostgreSQL looks at the block's state first; what is told here without it must not.
    fn parse_in_failed_block(&mut self, parse: frontend::Parse<'_>, server: &mut TenantServer) {
        let before = server.server().unnamed.take();
        let undo = if parse.name.is_empty() {
            Undo::Unnamed(self.statements.unnamed.take(), before)
        } else {
            Undo::Nothing
        };
        encode::parse(server.server().channel.output.space(), "", parse.text, parse.types);
        self.ledger.push(Owed::Parse(Shown::Client, undo));
    }

    /// An unnamed statement in whose place another text is sent.
    fn parse_stand_in(&mut self, statement: Arc<Statement>, server: &mut TenantServer) {
        encode::parse(server.server().channel.output.space(), "", statement.sent(), statement.types());
        let undo = self.replace_unnamed(statement, server);
        self.ledger.push(Owed::Parse(Shown::Client, undo));
    }

    /// It is always parsed by the server, because only that tells what the text means now; and described, so that it
    /// means the same on every other server.
    fn parse_named(&mut self, parse: frontend::Parse<'_>, reading: Reading, server: &mut TenantServer) {
        let name = String::from_utf8_lossy(parse.name);
        if self.statements.has(parse.name) {
            let message = format!("prepared statement \"{name}\" already exists");
            self.refuse_message(Report::new(sqlstate::DUPLICATE_STATEMENT, message), server);
            return;
        }
        if self.statements.is_full() {
            let message = format!("too many prepared statements: the limit is {MAX_NAMED}");
            let report = Report::new(sqlstate::CONFIGURATION_LIMIT, message);
            self.refuse_message(report.hint("Close prepared statements that are not needed."), server);
            return;
        }
        let sharing = if self.has_temporary_objects() { Sharing::Own } else { Sharing::Shared };
        let interner = &self.relay.interner;
        let statement = interner.draft(parse.text, parse.types, (reading, sharing), &self.parameters);
        self.statements.add(parse.name, Arc::clone(&statement));
        let undo = Undo::Named(parse.name.into(), statement.id);
        self.prepare(&statement, statement.id, (Shown::Client, undo), server);
        if statement.asks() {
            self.ask_description((parse.name, Some(statement.id)), &statement, Shown::Nobody, server);
        }
    }

    pub(super) fn bind(&mut self, bind: frontend::Bind<'_>, whole: &[u8], server: &mut TenantServer) {
        let Some((statement, fresh)) = self.statements.find(bind.statement) else {
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
        let Provided::Ready(number) = self.provide(bind.statement, (&statement, fresh), server) else {
            return;
        };
        self.bound = statement.survey().first;
        self.deallocates.clone_from(&statement.deallocates);
        self.note_effects(statement.survey(), server);
        self.may_copy |= statement.survey().first == StatementKind::CopyFromStdin;
        match number {
            None => {
                self.unnamed_is_bound(&statement, bind.rest, server);
                self.send(whole, Owed::Bind(Shown::Client), server);
            }
            Some(number) => {
                let out = server.server().channel.output.space();
                encode::bind_renamed(out, bind.portal, &prepared_name(number), bind.rest);
                self.ledger.push(Owed::Bind(Shown::Client));
            }
        }
    }

    /// The name in a DEALLOCATE of a statement that servers know by another one.
    pub(super) fn known_deallocated(&self, text: &[u8], survey: Survey) -> Option<Box<[u8]>> {
        if survey.first != StatementKind::Deallocate || survey.statements != Count::One {
            return None;
        }
        let name = deallocated(text)?;
        self.statements.has(&name).then(|| name.into())
    }

    pub(super) fn describe(&mut self, target: frontend::Target<'_>, whole: &[u8], server: &mut TenantServer) {
        if target.kind == b'P' {
            return self.send(whole, Owed::DescribePortal(Shown::Client), server);
        }
        let Some((statement, fresh)) = self.statements.find(target.name) else {
            self.refuse_message(no_statement(target.name), server);
            return;
        };
        let provided = self.provide(target.name, (&statement, fresh), server);
        let Provided::Ready(number) = provided else { return };
        if number.is_none() {
            self.unbound = None;
        }
        self.ask_description((target.name, number), &statement, Shown::Client, server);
    }

    pub(super) fn close(&mut self, target: frontend::Target<'_>, whole: &[u8], server: &mut TenantServer) {
        if target.kind == b'P' {
            self.send(whole, Owed::ClosePortal, server);
            return;
        }
        // On the server it stays, for others of this tenant and for the next time.
        let undo = if target.name.is_empty() {
            Undo::ClosedUnnamed(self.statements.unnamed.take())
        } else {
            match self.statements.remove(target.name) {
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

    pub(super) fn refuse_message(&mut self, report: Report, server: &mut TenantServer) {
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
