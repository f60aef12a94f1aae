//! Extended queries: Parse, Bind, Describe, Execute, Close, with the client's statement names kept apart from those on
//! servers.

use std::sync::Arc;

use crate::fault::{Fault as _, Report, sqlstate};
use crate::guard::Given;
use crate::guard::footprint::{Footprint, Name};
use crate::memory::{Charge, OverBudget};
use crate::relay::core::portals::{self, Portal, Ran, Unbind};
use crate::relay::core::replies::{Reply, Shown, Undo};
use crate::relay::core::segment::{AwaitedReply, Unnamed};
use crate::relay::core::statements::{MAX_NAMED, Named, Reading, Statement};
use crate::relay::core::wish::TEXTS;
use crate::relay::requests::Taken;
use crate::relay::requests::execute::DISCARD_STAND_IN;
use crate::relay::{Conversation, refusal};
use crate::upstream::{ServerSide, prepared_name};
use crate::wire::{encode, frontend};

/// What a statement takes besides its texts and types, roughly, in bytes.
const STATEMENT_BYTES: usize = 512;
/// Unnamed statements of so many bytes and fewer are not counted.
const SHORT_BYTES: usize = 2048;

/// What a message needs of the server in front of it.
enum Provided {
    /// The server has the statement under this name.
    Yes(String),
    /// It was prepared again, and its description has to be compared first.
    Later,
    /// Its columns are not what the client was told.
    Changed,
    /// The server does not have it, and prepares nothing in a failed block.
    Never,
}

impl Conversation {
    pub(super) fn parse(&mut self, parse: frontend::Parse<'_>, whole: &[u8], server: &mut dyn ServerSide) {
        let read = self.read_parse(&parse, server).and_then(|reading| {
            let charge = self.charge_for(&parse, &reading).map_err(|over| over.report())?;
            Ok((reading, charge))
        });
        let (reading, charge) = match read {
            Ok(read) => read,
            Err(report) => {
                if parse.name.is_empty() {
                    // A Parse that fails drops the unnamed statement.
                    self.statements.unnamed = None;
                }
                return self.refuse_message(report, server);
            }
        };
        let survey = reading.survey;
        self.begin_with(survey.first, server);
        if self.is_in_failed_block() && !survey.first.ends_failed_block() {
            // PostgreSQL looks at the block's state first; what is answered here without it must not.
            let (state, out, _) = server.parts();
            state.unnamed = None;
            encode::parse(out, "", parse.text, parse.types);
            let is_unnamed = parse.name.is_empty();
            let undo = if is_unnamed { Undo::Unnamed(self.statements.unnamed.take()) } else { Undo::Nothing };
            return self.replies.push(Reply::Parse(Shown::Client, undo));
        }
        let discards = survey.discards_all();
        let changes = reading.change.is_some();
        let interner = Arc::clone(&self.relay.interner);
        let statement = match self.known_deallocated(parse.text, survey, parse.name) {
            Some(name) => interner.deallocation(parse.text, name, reading),
            None if discards => interner.replaced(parse.text, reading, DISCARD_STAND_IN),
            None => interner.encoded(
                (parse.text, self.encoding()),
                (parse.types, self.choice.acting().access.place()),
                reading,
            ),
        };
        if let Some(charge) = charge {
            statement.count(charge);
        }
        if !parse.name.is_empty() {
            return self.parse_named(parse.name, &statement, server);
        }
        let (state, out, _) = server.parts();
        state.unnamed = Some(statement.id);
        if discards || changes || statement.deallocates.is_some() {
            encode::parse(out, "", statement.sent(), parse.types);
        } else {
            out.extend_from_slice(whole);
        }
        let before = self.statements.unnamed.replace(statement);
        self.replies.push(Reply::Parse(Shown::Client, Undo::Unnamed(before)));
        self.unnamed = Unnamed::Parsed;
    }

    /// Counts the memory of a statement. Unnamed ones with short texts are not worth it: there are few of them at a time.
    pub(super) fn charge_for(
        &self,
        parse: &frontend::Parse<'_>,
        reading: &Reading,
    ) -> Result<Option<Charge>, OverBudget> {
        let texts = if reading.change.is_some() { 2 } else { 1 };
        let bytes = texts * parse.text.len() + parse.types.len() + STATEMENT_BYTES;
        if parse.name.is_empty() && bytes <= SHORT_BYTES {
            return Ok(None);
        }
        self.account().charge(bytes).map(Some)
    }

    /// The unnamed statement was parsed for a later segment, where another server may have to prepare it again: its types
    /// and columns are learned now.
    pub(super) fn describe_unnamed(&mut self, server: &mut dyn ServerSide) {
        let is_new = std::mem::take(&mut self.unnamed) == Unnamed::Parsed;
        let Some(statement) = self.statements.unnamed.clone().filter(|_| is_new) else { return };
        if !self.is_in_failed_block() && server.state().unnamed == Some(statement.id) {
            encode::describe(server.parts().1, b'S', "");
            self.replies.push(Reply::DescribeStatement(Shown::Nobody, Box::default(), statement));
        }
    }

    fn read_parse(
        &mut self,
        parse: &frontend::Parse<'_>,
        server: &mut dyn ServerSide,
    ) -> Result<Reading, Report> {
        let reading = self.inspect(parse.text)?;
        if let Some(choices) = &reading.choices {
            self.may_prepare(choices, reading.survey)?;
        }
        self.follow_comment(parse.text, server)?;
        match reading.unfit(parse.types).or_else(|| self.lack_of_tenant_for(parse.text, &reading)) {
            Some(report) => Err(report),
            None => Ok(reading),
        }
    }

    fn parse_named(&mut self, name: &[u8], statement: &Arc<Statement>, server: &mut dyn ServerSide) {
        if let Some(report) = self.refuses_statement(name, statement) {
            if report.sqlstate == sqlstate::DUPLICATE_STATEMENT {
                // PostgreSQL reads the text before it looks at the name.
                let (state, out, _) = server.parts();
                state.unnamed = None;
                encode::parse(out, "", statement.sent(), &statement.types);
                self.replies.push(Reply::Parse(Shown::Nobody, Undo::Nothing));
            }
            return self.refuse_message(report, server);
        }
        let key: Box<[u8]> = name.into();
        let parsed = self.relay.interner.tick();
        let named = Named::new((Arc::clone(statement), parsed), &self.relay.interner);
        self.statements.insert(key.clone(), named);
        self.prepare(statement, (Shown::Client, Undo::Named(key.clone(), statement.id)), server);
        encode::describe(server.parts().1, b'S', &prepared_name(statement.id));
        self.replies.push(Reply::DescribeStatement(Shown::Nobody, key, Arc::clone(statement)));
    }

    pub(super) fn refuses_statement(&self, name: &[u8], statement: &Statement) -> Option<Report> {
        if self.statements.named(name).is_some() {
            let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
            return Some(Report::new(sqlstate::DUPLICATE_STATEMENT, message));
        }
        let (count, bytes) = self.statements.size();
        if count >= MAX_NAMED {
            let message = format!("too many prepared statements: the limit is {MAX_NAMED}");
            return Some(
                Report::new(sqlstate::CONFIGURATION_LIMIT, message)
                    .hint("Close prepared statements that are not needed."),
            );
        }
        let limit = self.relay.max_prepared_bytes;
        (limit > 0 && bytes + statement.size() > limit).then(|| {
            Report::new(
                sqlstate::OUT_OF_MEMORY,
                "the prepared statements of this client take too much memory",
            )
            .detail(format!("Their texts may take {limit} bytes together."))
            .hint("Close prepared statements that are not needed, or raise listen.max_prepared_bytes.")
        })
    }

    /// The client's encoding, if it has set one.
    pub(super) fn encoding(&self) -> Option<&str> {
        let told = || self.greeting.get("client_encoding").map(String::as_str);
        self.parameters.get("client_encoding").or_else(told)
    }

    /// Puts a statement on the server under its own name there.
    pub(super) fn prepare(
        &mut self,
        statement: &Statement,
        (shown, undo): (Shown, Undo),
        server: &mut dyn ServerSide,
    ) {
        let limit = server.max_prepared();
        let parsed = self.relay.interner.tick();
        let (state, out, _) = server.parts();
        for unneeded in state.add_prepared(statement.id, (parsed, limit)) {
            encode::close(out, b'S', prepared_name(unneeded));
            self.replies.push(Reply::CloseStatement(unneeded));
        }
        encode::parse(out, &prepared_name(statement.id), statement.sent(), statement.sent_types());
        self.replies.push(Reply::Parse(shown, undo));
    }

    /// Makes sure that the server has what the client calls by this name.
    fn provide(&mut self, name: &[u8], statement: &Arc<Statement>, server: &mut dyn ServerSide) -> Provided {
        if self.untold.changed.take() == Some(statement.id) {
            return Provided::Changed;
        }
        if let Some(name) = self.name_on_server(name, statement, server) {
            return Provided::Yes(name);
        }
        if self.is_in_failed_block() && !statement.survey().first.ends_failed_block() {
            return Provided::Never;
        }
        if statement.encoding.is_some() && statement.encoding.as_deref() != self.encoding()
            || statement.is_of_another_place(self.choice.acting().access.place())
            || (name.is_empty() && statement.has_unknown_types())
        {
            // It would be read as another text, or its types might be others.
            return Provided::Changed;
        }
        let undo = Undo::OnServer(statement.id);
        let sent_name = if name.is_empty() {
            let (state, out, _) = server.parts();
            state.unnamed = Some(statement.id);
            encode::parse(out, "", statement.sent(), statement.sent_types());
            self.replies.push(Reply::Parse(Shown::Nobody, undo));
            String::new()
        } else {
            self.prepare(statement, (Shown::Nobody, undo), server);
            prepared_name(statement.id)
        };
        if statement.description.get().is_none() || statement.never_has_columns() {
            return Provided::Yes(sent_name);
        }
        let out = server.parts().1;
        encode::describe(out, b'S', &sent_name);
        encode::bare(out, b'H');
        self.replies.push(Reply::DescribeStatement(Shown::Nobody, name.into(), Arc::clone(statement)));
        self.hold = Some(AwaitedReply::Description);
        Provided::Later
    }

    /// The name of a client's statement on the server, if it is there.
    fn name_on_server(
        &self,
        name: &[u8],
        statement: &Statement,
        server: &mut dyn ServerSide,
    ) -> Option<String> {
        if name.is_empty() {
            return (server.state().unnamed == Some(statement.id)).then(String::new);
        }
        self.statements.named(name).and_then(|named| named.on(server.state())).map(prepared_name)
    }

    pub(super) fn bind(
        &mut self,
        bind: frontend::Bind<'_>,
        whole: &[u8],
        server: &mut dyn ServerSide,
    ) -> Taken {
        match self.try_bind(bind, whole, server) {
            Ok(taken) => taken,
            Err(report) => {
                self.refuse_message(report, server);
                Taken::Yes
            }
        }
    }

    fn try_bind(
        &mut self,
        bind: frontend::Bind<'_>,
        whole: &[u8],
        server: &mut dyn ServerSide,
    ) -> Result<Taken, Report> {
        let statement = self.statements.find(bind.statement).ok_or_else(|| no_statement(bind.statement))?;
        if self.portals.is_full(bind.portal) {
            let message = format!("too many portals: the limit is {}", portals::MAX_NAMED);
            return Err(Report::new(sqlstate::CONFIGURATION_LIMIT, message).hint("Close portals."));
        }
        self.follow_comment(&statement.text, server)?;
        if let Some(report) = self.lack_of_tenant_for(&statement.text, &statement.reading) {
            return Err(report);
        }
        self.check_bound_settings(&statement.reading, bind.rest)?;
        self.check_bound_values(&statement, bind.rest)?;
        let wish = statement.reading.wish(Some(bind.rest), &self.rules)?;
        let wish = wish.map(|wish| self.settled(wish, statement.reading.change.as_deref()));
        self.begin_with(statement.survey().first, server);
        if bind.statement.is_empty() {
            self.unnamed = Unnamed::Used;
        }
        let stand_in = self.stand_in_for_deallocate(&statement, server);
        let statement = stand_in.clone().unwrap_or(statement);
        let provided = match stand_in {
            Some(stand_in) => Provided::Yes(prepared_name(stand_in.id)),
            None => self.provide(bind.statement, &statement, server),
        };
        let name = match provided {
            Provided::Yes(name) => name,
            Provided::Later => return Ok(Taken::Later),
            Provided::Changed => return Err(count_of(&bind, &statement).unwrap_or_else(changed)),
            Provided::Never => return Err(count_of(&bind, &statement).unwrap_or_else(aborted)),
        };
        let footprint = statement.reading.footprint.as_deref();
        let names = footprint.map(|footprint| bound_names(footprint, bind.rest)).unwrap_or_default();
        let kept = self.statements.named(bind.statement).and_then(Named::charge);
        let portal = Portal { statement, names, wish, ran: Ran::No, charge: kept };
        let undo = self.portals.bind(bind.portal, portal);
        let out = server.parts().1;
        if name.is_empty() {
            out.extend_from_slice(whole);
        } else {
            encode::bind_renamed(out, bind.portal, &name, bind.rest);
        }
        if matches!(undo, Unbind::Replaced(..)) {
            // Which of the two portals the name is, only PostgreSQL knows.
            encode::bare(out, b'H');
            self.hold = Some(AwaitedReply::Bound);
        }
        self.replies.push(Reply::Bind(Shown::Client, undo));
        Ok(Taken::Yes)
    }

    /// Why values may not be bound that a call of `set_config` gives to a setting whose values are judged.
    fn check_bound_values(&self, statement: &Statement, rest: &[u8]) -> Result<(), Report> {
        let Some(footprint) = statement.reading.footprint.as_deref() else { return Ok(()) };
        for bound in &footprint.bound {
            let declared = frontend::parameter_type(&statement.types, bound.number).unwrap_or_default();
            // A parameter of another type may become another text.
            let value = match frontend::parameter(rest, bound.number).filter(|_| TEXTS.contains(&declared)) {
                Some(Some(value)) => Given::Text(value),
                Some(None) => Given::Null,
                None => Given::Unknown,
            };
            self.rules.check_bound_value(bound.setting, value).map_err(|refused| {
                self.metrics.refusal(refused.rule);
                refusal(refused)
            })?;
        }
        Ok(())
    }

    pub(super) fn describe(
        &mut self,
        target: frontend::StatementOrPortal<'_>,
        whole: &[u8],
        server: &mut dyn ServerSide,
    ) -> Taken {
        if target.kind == b'P' {
            self.begin(server);
            if target.name.is_empty() && self.portals.get(b"").is_none() {
                self.refuse_message(no_unnamed_portal(), server);
            } else {
                self.send(whole, Reply::DescribePortal(Shown::Client), server);
            }
            return Taken::Yes;
        }
        let Some(statement) = self.statements.find(target.name) else {
            self.refuse_message(no_statement(target.name), server);
            return Taken::Yes;
        };
        self.begin_with(statement.survey().first, server);
        let name = match self.provide(target.name, &statement, server) {
            Provided::Yes(name) => name,
            Provided::Later => return Taken::Later,
            Provided::Changed => {
                self.refuse_message(changed(), server);
                return Taken::Yes;
            }
            Provided::Never if statement.has_no_columns() => {
                self.replies.push(Reply::LocalDescription(statement));
                return Taken::Yes;
            }
            Provided::Never => {
                self.refuse_message(aborted(), server);
                return Taken::Yes;
            }
        };
        if target.name.is_empty() {
            self.unnamed = Unnamed::Used;
        }
        encode::describe(server.parts().1, b'S', &name);
        self.replies.push(Reply::DescribeStatement(Shown::Client, target.name.into(), statement));
        Taken::Yes
    }

    pub(super) fn close(
        &mut self,
        target: frontend::StatementOrPortal<'_>,
        whole: &[u8],
        server: &mut dyn ServerSide,
    ) {
        self.begin(server);
        if target.kind == b'P' {
            self.portals.close(target.name);
            return self.send(whole, Reply::ClosePortal, server);
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
        self.replies.push(Reply::Local(b'3', undo));
    }
}

/// The names that the bound values give to settings, in lower case, in the order of the footprint.
fn bound_names(footprint: &Footprint, rest: &[u8]) -> Vec<Option<String>> {
    let bound = |name: &Name| {
        let Name::Parameter(number) = name else { return None };
        let value = frontend::parameter(rest, *number).flatten()?;
        std::str::from_utf8(value).ok().map(str::to_ascii_lowercase)
    };
    footprint.settings.iter().map(|touch| bound(&touch.name)).collect()
}

pub(super) fn no_statement(name: &[u8]) -> Report {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Report::new(sqlstate::INVALID_STATEMENT_NAME, message)
}

/// PostgreSQL's words. A server may have an unnamed portal that the proxy used.
pub(super) fn no_unnamed_portal() -> Report {
    Report::new(sqlstate::INVALID_CURSOR_NAME, "portal \"\" does not exist")
}

/// PostgreSQL's words for a wrong number of values, which it looks at before a statement's columns.
fn count_of(bind: &frontend::Bind<'_>, statement: &Statement) -> Option<Report> {
    let types = &statement.description.get()?.types;
    let wanted = types.first_chunk::<2>().map(|count| u16::from_be_bytes(*count))?;
    let given = frontend::parameter_count(bind.rest)?;
    (given != wanted).then(|| {
        let name = String::from_utf8_lossy(bind.statement);
        let message = format!(
            "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {wanted}"
        );
        Report::new(sqlstate::PROTOCOL_VIOLATION, message)
    })
}

/// PostgreSQL's words in a failed block.
fn aborted() -> Report {
    Report::new(
        sqlstate::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// PostgreSQL's words for a statement whose columns are not what they were when it was prepared.
fn changed() -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .routine("RevalidateCachedQuery")
}
