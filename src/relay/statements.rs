//! The client's statements on the server at hand: prepared there before they are used, with the parameter types that
//! the client was told, and used only if they return the columns that it was told.

use std::sync::Arc;

use crate::relay::description::{self, Description};
use crate::relay::ledger::{Owed, Shown, Undo, Undone};
use crate::relay::prepared::Statement;
use crate::relay::{Check, Conversation, Discard, RelayFault};
use crate::upstream::{Freshness, Server, StatementId, TenantServer, prepared_name};
use crate::wire::{encode, frame, frontend};

/// What became of a statement that the server may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provided {
    /// The server has it, by this number; the unnamed one has none.
    Ready(Option<u64>),
    /// The server was asked for its columns; the client's frame is taken again when they are known.
    Awaited,
    /// The client was told an error.
    Refused,
}

impl Conversation {
    /// Puts a statement on the server under a number. Closes what nobody uses there any more.
    pub(super) fn prepare(
        &mut self,
        statement: &Statement,
        number: u64,
        (shown, undo): (Shown, Undo),
        server: &mut TenantServer,
    ) {
        let limit = server.max_prepared();
        let server = server.server();
        server.copies.add(statement.id, number, limit);
        let out = server.channel.output.space();
        for leftover in server.copies.take_leftovers() {
            encode::close(out, b'S', &prepared_name(leftover));
            self.ledger.push(Owed::Evict(leftover));
        }
        encode::parse(out, &prepared_name(number), statement.sent(), statement.sent_types());
        self.ledger.push(Owed::Parse(shown, undo));
    }

    /// Asks the server for a statement's parameter types and columns.
    pub(super) fn ask_description(
        &mut self,
        (name, number): (&[u8], Option<u64>),
        statement: &Arc<Statement>,
        shown: Shown,
        server: &mut TenantServer,
    ) {
        let out = server.server().channel.output.space();
        encode::describe(out, b'S', &number.map(prepared_name).unwrap_or_default());
        self.ledger.push(Owed::DescribeStatement(shown, name.into(), Arc::clone(statement)));
    }

    /// Makes sure that the server has what the client calls by this name, as the client was told about it.
    pub(super) fn provide(
        &mut self,
        name: &[u8],
        (statement, fresh): (&Arc<Statement>, Freshness),
        server: &mut TenantServer,
    ) -> Provided {
        if self.check == Check::Differs(statement.id) {
            self.check = Check::No;
            self.refuse_message(description::changed(), server);
            return Provided::Refused;
        }
        if name.is_empty() {
            if server.server().unnamed == Some(statement.id) {
                return Provided::Ready(None);
            }
        } else if let Some(number) = server.server().copies.find(statement.id, fresh) {
            if statement.asks() {
                self.ask_description((name, Some(number)), statement, Shown::Nobody, server);
            }
            return Provided::Ready(Some(number));
        }
        if !statement.reads_the_same(&self.parameters, server.database()) {
            self.refuse_message(description::changed(), server);
            return Provided::Refused;
        }
        let number = self.prepare_again(name, statement, server);
        // A change of tenant is carried out by the proxy, and what is sent in its place has the columns of no table.
        let is_checked = statement.reading.change.is_none()
            && statement.description().is_none_or(Description::has_columns);
        if !is_checked {
            return Provided::Ready(number);
        }
        if statement.description().is_none() {
            if statement.asks() {
                self.ask_description((name, number), statement, Shown::Nobody, server);
            }
            return Provided::Ready(number);
        }
        self.ask_description((name, number), statement, Shown::Nobody, server);
        encode::bare(server.server().channel.output.space(), b'H');
        self.check = Check::Awaited(statement.id);
        Provided::Awaited
    }

    fn prepare_again(
        &mut self,
        name: &[u8],
        statement: &Arc<Statement>,
        server: &mut TenantServer,
    ) -> Option<u64> {
        if name.is_empty() {
            server.server().unnamed = Some(statement.id);
            let out = server.server().channel.output.space();
            encode::parse(out, "", statement.sent(), statement.sent_types());
            self.ledger.push(Owed::Parse(Shown::Nobody, Undo::UnnamedOnServer));
            return None;
        }
        let number = self.relay.interner.number();
        let undo = Undo::OnServer(statement.id, number);
        self.prepare(statement, number, (Shown::Nobody, undo), server);
        Some(number)
    }

    /// Whether the client's next frame waits for an answer about columns.
    pub(super) const fn awaits_check(&self) -> bool {
        matches!(self.check, Check::Awaited(_))
    }

    /// The server described a statement, by the message of its columns or of none.
    pub(super) fn statement_described(
        &mut self,
        name: &[u8],
        statement: &Arc<Statement>,
        whole: &[u8],
        server: &mut TenantServer,
    ) -> Result<(), RelayFault> {
        let columns = (whole.first() == Some(&b'T')).then(|| frame::body(whole));
        let description = Description::read(frame::body(&self.description), columns, server.database())
            .ok_or(RelayFault::Doubt("a malformed description"))?;
        let Some(told) = statement.description() else {
            self.learn(name, statement, description, server.server());
            return Ok(());
        };
        if self.check == Check::Awaited(statement.id) {
            self.check = Check::No;
            if *told != description {
                self.check = Check::Differs(statement.id);
                server.server().copies.give_up(statement.id);
                if name.is_empty() {
                    server.server().unnamed = None;
                }
            }
        }
        Ok(())
    }

    /// A statement was not described after all. A copy of which nobody knows the columns serves nobody.
    pub(super) fn was_not_described(&self, name: &[u8], statement: &Statement, server: Option<&mut Server>) {
        statement.is_not_asked();
        if self.check != Check::Awaited(statement.id) {
            return;
        }
        if let Some(server) = server {
            server.copies.give_up(statement.id);
            if name.is_empty() {
                server.unnamed = None;
            }
        }
    }

    /// What PostgreSQL says about a statement for the first time holds for as long as the client has it.
    fn learn(
        &mut self,
        name: &[u8],
        statement: &Arc<Statement>,
        description: Description,
        server: &mut Server,
    ) {
        let shared = self.relay.interner.learn(statement, description);
        server.copies.adopt(statement.id, shared.id);
        if !name.is_empty() {
            self.statements.settle(name, statement.id, &self.relay.interner);
        }
    }

    // === the unnamed statement ===

    /// The client parses the unnamed statement.
    pub(super) fn replace_unnamed(&mut self, statement: Arc<Statement>, server: &mut TenantServer) -> Undo {
        let server = server.server();
        let undo = Undo::Unnamed(self.statements.unnamed.take(), server.unnamed.replace(statement.id));
        self.unbound = statement.text.contains(&b'$').then_some(statement.id);
        self.statements.unnamed = Some(statement);
        undo
    }

    /// The client binds the unnamed statement. Binary values are of types that it chose or will go on to believe in, so
    /// the server is asked which ones they are unless the client has named them.
    pub(super) fn unnamed_is_bound(
        &mut self,
        statement: &Arc<Statement>,
        rest: &[u8],
        server: &mut TenantServer,
    ) {
        let is_first = self.unbound.take() == Some(statement.id);
        let count = frontend::value_count(rest).unwrap_or(0);
        if is_first
            && frontend::binds_binary(rest)
            && !frontend::declares_types(statement.types(), count)
            && statement.asks()
        {
            self.ask_description((b"", None), statement, Shown::Nobody, server);
        }
    }

    /// The segment ends. An unnamed statement that was only parsed in it is bound in another one, perhaps on another
    /// server.
    pub(super) fn describe_unbound(&mut self, server: &mut TenantServer) {
        let Some(id) = self.unbound.take() else { return };
        if let Some(statement) = self.statements.unnamed.clone()
            && statement.id == id
            && self.discard == Discard::No
            && statement.asks()
        {
            self.ask_description((b"", None), &statement, Shown::Nobody, server);
        }
    }

    // === undoing ===

    pub(super) fn undo_one(&mut self, undo: Undo, why: Undone, server: Option<&mut Server>) {
        match undo {
            Undo::Nothing => {}
            Undo::Unnamed(client, on_server) => {
                let stays = why == Undone::Skipped;
                self.statements.unnamed = client.filter(|_| stays);
                self.unbound = None;
                if let Some(server) = server {
                    server.unnamed = on_server.filter(|_| stays);
                }
            }
            Undo::Named(name, id) => {
                self.statements.remove(&name);
                not_on(server, id, id);
            }
            Undo::OnServer(id, number) => not_on(server, id, number),
            Undo::UnnamedOnServer => {
                if let Some(server) = server {
                    server.unnamed = None;
                }
            }
            Undo::Closed(name, named) => {
                self.statements.put_back(name, *named, &self.relay.interner);
            }
            Undo::ClosedUnnamed(statement) => self.statements.unnamed = statement,
        }
    }
}

fn not_on(server: Option<&mut Server>, id: StatementId, number: u64) {
    if let Some(server) = server {
        server.copies.undo(id, number);
    }
}
