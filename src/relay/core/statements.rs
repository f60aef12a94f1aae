//! Prepared statements of clients, kept apart from those on servers: a client's name leads to a statement, and the
//! statement to one name on every server. Two clients may use one name for different texts.
//!
//! What a client was told about a statement holds for as long as the client has it. PostgreSQL fixes the parameter types
//! of a statement when it is parsed, and refuses to run it once its columns have changed (`RevalidateCachedQuery` in
//! `plancache.c`). So each Parse of a named statement reaches a server, and its description is learned there; wherever
//! the statement is prepared again it has the parameter types of the first time, and its columns are compared.
//! Statements of one text are shared by clients only if they have one description, too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use dashmap::DashMap;

use crate::guard::TenantChange;
use crate::guard::footprint::Footprint;
use crate::memory::Charge;
use crate::relay::core::description::Description;
use crate::relay::core::replies::Undo;
use crate::sql::{ResetStatement, StatementKind, Survey, may_reset, resets};
use crate::upstream::{ServerState, StatementId};

/// Runs in the place of what the proxy does itself: allowed wherever that is, and changes nothing.
pub(in crate::relay) const NOTHING: &[u8] = b"RESET \"pgtenant\".\"choice\"";

/// A statement as a client prepared it.
#[derive(Debug)]
pub struct Statement {
    /// Names it on servers.
    pub id: StatementId,
    /// The query text.
    pub text: Arc<[u8]>,
    /// Parameter types as they stood in `Parse`: count and OIDs.
    pub types: Box<[u8]>,
    /// The client's encoding in which a text beyond ASCII is read.
    pub encoding: Option<Box<str>>,
    /// The database in which its types are known.
    pub place: usize,
    /// What its text tells about running it.
    pub reading: Reading,
    /// The client's statement of this name ends with it.
    pub deallocates: Option<Box<[u8]>>,
    /// What is sent in the place of a text that must not run as it stands.
    stand_in: Option<Vec<u8>>,
    /// What PostgreSQL says of it; empty until it was asked.
    pub description: OnceLock<Description>,
    /// Its statements that reset settings, each of which is looked at when it runs.
    pub resets: Box<[ResetStatement]>,
    /// The memory that it is.
    charges: Mutex<Option<Box<Charges>>>,
    /// Who shares it among clients; empty: nobody.
    shared_by: OnceLock<Weak<Interner>>,
}

/// The memory of a statement, as it is counted.
#[derive(Debug)]
struct Charges {
    /// In the budgets of the client that parsed it and of its tenant; none: it is shared, and each client counts it by itself.
    holder: Option<Charge>,
    /// In that of the process, where a text is counted once.
    _process: Charge,
}

/// What was read in a text.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Its statements.
    pub survey: Survey,
    /// The change of tenant that it is, for the proxy to carry out.
    pub change: Option<Arc<TenantChange>>,
    /// The changes of tenant in it, which stand beside other statements; it runs as it stands, for their tenant.
    pub choices: Option<Arc<[TenantChange]>>,
    /// What it may leave in its session; none: nothing.
    pub footprint: Option<Arc<Footprint>>,
}

// === impl Statement ===

impl Statement {
    /// What its text tells about running it.
    pub fn survey(&self) -> Survey {
        self.reading.survey
    }

    /// The text for servers.
    pub fn sent(&self) -> &[u8] {
        self.stand_in.as_deref().unwrap_or(&self.text)
    }

    /// The parameter types for servers: those that the client was told, else those that it gave.
    pub fn sent_types(&self) -> &[u8] {
        self.description.get().map_or(&self.types, |description| &description.types)
    }

    /// Whether it has no columns, however the database changes: nothing has to be compared when it is prepared again.
    pub fn never_has_columns(&self) -> bool {
        use StatementKind as K;
        let kind = self.survey().first;
        let returns = || self.text.windows(9).any(|word| word.eq_ignore_ascii_case(b"returning"));
        kind.never_has_columns() || (matches!(kind, K::Insert | K::Update | K::Delete) && !returns())
    }

    /// Whether PostgreSQL describes it without columns, as far as that is known here.
    pub fn has_no_columns(&self) -> bool {
        match self.description.get() {
            Some(description) => description.columns.is_none(),
            None => self.never_has_columns() && !self.has_unknown_types(),
        }
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.text.len() + self.types.len()
    }

    /// Whether it has parameters whose types PostgreSQL chose and did not tell.
    pub fn has_unknown_types(&self) -> bool {
        let is_open =
            self.types.get(2..).is_none_or(|oids| oids.is_empty() || oids.chunks(4).any(|oid| oid == [0; 4]));
        self.description.get().is_none() && is_open && self.text.contains(&b'$')
    }

    /// Whether it has types of its own database and that is another than this.
    pub fn is_of_another_place(&self, place: usize) -> bool {
        self.place != place && self.description.get().is_some_and(Description::has_own_types)
    }

    /// Its memory is counted until it is gone.
    pub fn count(&self, charge: Charge) {
        let (holder, process) = charge.split();
        *self.charges() = Some(Box::new(Charges { holder: Some(holder), _process: process }));
    }

    /// What its client and that client's tenant count.
    fn take_holder(&self) -> Option<Charge> {
        self.charges().as_mut()?.holder.take()
    }

    fn charges(&self) -> std::sync::MutexGuard<'_, Option<Box<Charges>>> {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self) -> Option<StatementKey> {
        let description = self.description.get()?.clone();
        let (types, encoding) = (self.types.clone(), self.encoding.clone());
        let meaning = (encoding, self.place, self.reading.change.is_some() || self.reading.choices.is_some());
        Some((Arc::clone(&self.text), types, meaning, description))
    }
}

/// Shares statements that are the same. It forgets one with its last holder: a client that has it by name, or a portal.
#[derive(Debug, Default)]
pub struct Interner {
    known: DashMap<StatementKey, Weak<Statement>>,
    next: AtomicU64,
    time: AtomicU64,
}

/// Text, types as given, encoding, database, whether it is a change of tenant for the proxy to carry out (the same text is one to a
/// tenant's client and none to a maintenance user), and description.
type StatementKey = (Arc<[u8]>, Box<[u8]>, (Option<Box<str>>, usize, bool), Description);

/// What was read in a text, the name that it deallocates, and what is sent in its place.
type Meaning = (Reading, Option<Box<[u8]>>, Option<Vec<u8>>);

// === impl Interner ===

impl Interner {
    /// The time, in numbers that only rise: what was parsed later has a higher one.
    pub fn tick(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    /// A statement that is not shared.
    pub fn single(&self, text: &[u8], types: &[u8], reading: Reading) -> Arc<Statement> {
        self.encoded((text, None), (types, 0), reading)
    }

    /// The same of a text in the client's encoding, in this database.
    pub fn encoded(
        &self,
        (text, encoding): (&[u8], Option<&str>),
        (types, place): (&[u8], usize),
        reading: Reading,
    ) -> Arc<Statement> {
        let stand_in = reading.change.as_ref().and_then(|change| change.stand_in(text));
        let encoding = encoding.filter(|_| !text.is_ascii());
        self.make((text, encoding), (types, place), (reading, None, stand_in))
    }

    /// The same, with another text for servers.
    pub fn replaced(&self, text: &[u8], reading: Reading, stand_in: &[u8]) -> Arc<Statement> {
        self.make((text, None), (&[0, 0], 0), (reading, None, Some(stand_in.to_vec())))
    }

    /// DEALLOCATE of a name that is known to the proxy only.
    pub fn deallocation(&self, text: &[u8], name: Box<[u8]>, reading: Reading) -> Arc<Statement> {
        self.make((text, None), (&[0, 0], 0), (reading, Some(name), Some(NOTHING.to_vec())))
    }

    fn make(
        &self,
        (text, encoding): (&[u8], Option<&str>),
        (types, place): (&[u8], usize),
        (reading, deallocates, stand_in): Meaning,
    ) -> Arc<Statement> {
        let may = matches!(
            reading.survey.first,
            StatementKind::Reset | StatementKind::ResetAll | StatementKind::Set | StatementKind::Discard
        );
        let resets = if may && may_reset(text) { resets(text).0 } else { Vec::new() };
        Arc::new(Statement {
            resets: resets.into(),
            id: self.next.fetch_add(1, Ordering::Relaxed),
            text: text.into(),
            types: types.into(),
            encoding: encoding.map(Into::into),
            place,
            reading,
            deallocates,
            stand_in,
            description: OnceLock::new(),
            charges: Mutex::default(),
            shared_by: OnceLock::new(),
        })
    }

    /// The statement that all clients share that have this text with this description; its description is known.
    fn share(self: &Arc<Self>, statement: &Arc<Statement>) -> Arc<Statement> {
        let Some(key) = statement.key() else { return Arc::clone(statement) };
        let mut known = self.known.entry(key).or_default();
        if let Some(shared) = known.upgrade() {
            return shared;
        }
        *known = Arc::downgrade(statement);
        statement.shared_by.get_or_init(|| Arc::downgrade(self));
        Arc::clone(statement)
    }
}

/// A client's named statement.
#[derive(Debug)]
pub struct Named {
    /// Shared, once its description is known.
    statement: Arc<Statement>,
    /// When the client parsed it. Definitions may have changed since an older copy on a server was made.
    parsed: u64,
    interner: Arc<Interner>,
    /// The part of its client's memory that a shared statement is; a portal may outlive the name.
    charge: Option<Arc<Charge>>,
}

// === impl Named ===

impl Named {
    /// A statement that was just parsed.
    pub fn new((statement, parsed): (Arc<Statement>, u64), interner: &Arc<Interner>) -> Self {
        Self { statement, parsed, interner: Arc::clone(interner), charge: None }
    }

    /// The part of its client's memory that it is, if the statement is shared.
    pub fn charge(&self) -> Option<Arc<Charge>> {
        self.charge.as_ref().map(Arc::clone)
    }

    /// The statement.
    pub const fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }

    /// The name under which this server has a copy that is no older than the client's own Parse.
    pub fn on(&self, server: &mut ServerState) -> Option<StatementId> {
        server.prepared(self.statement.id, self.parsed)
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        let Some(interner) = self.shared_by.get().and_then(Weak::upgrade) else { return };
        let Some(key) = self.key() else { return };
        // Another one of this text may have come in its place.
        interner.known.remove_if(&key, |_, known| known.strong_count() == 0);
    }
}

/// Most named statements of one client.
pub const MAX_NAMED: usize = 4096;

/// One client's statements by name.
#[derive(Debug, Default)]
pub struct Statements {
    named: HashMap<Box<[u8]>, Named>,
    /// Bytes that the named ones take.
    bytes: usize,
    /// The unnamed one.
    pub unnamed: Option<Arc<Statement>>,
}

/// All named statements of a client.
#[derive(Debug, Default)]
pub struct AllNamed {
    named: HashMap<Box<[u8]>, Named>,
    bytes: usize,
}

// === impl Statements ===

impl Statements {
    /// The statement of that name; empty: the unnamed one.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Statement>> {
        if name.is_empty() {
            return self.unnamed.clone();
        }
        self.named.get(name).map(|named| Arc::clone(named.statement()))
    }

    /// The named statement of that name.
    pub fn named(&self, name: &[u8]) -> Option<&Named> {
        self.named.get(name)
    }

    /// How many there are, and the bytes that they take.
    pub fn size(&self) -> (usize, usize) {
        (self.named.len(), self.bytes)
    }

    /// One more.
    pub fn insert(&mut self, name: Box<[u8]>, named: Named) {
        self.bytes += named.statement.size();
        if let Some(before) = self.named.insert(name, named) {
            self.bytes = self.bytes.saturating_sub(before.statement.size());
        }
    }

    /// One less.
    pub fn remove(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Named)> {
        let removed = self.named.remove_entry(name)?;
        self.bytes = self.bytes.saturating_sub(removed.1.statement.size());
        Some(removed)
    }

    /// The description of a statement of this client is known: from here on it is the one that others have, too. Its id,
    /// if it is another.
    pub fn share(&mut self, name: &[u8], statement: &Arc<Statement>) -> Option<StatementId> {
        let named = self.named.get_mut(name).filter(|named| Arc::ptr_eq(&named.statement, statement))?;
        let shared = named.interner.share(statement);
        let id = (shared.id != statement.id).then_some(shared.id);
        named.charge = statement.take_holder().map(Arc::new);
        named.statement = shared;
        id
    }

    /// A message was skipped, so that it changed nothing.
    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing | Undo::OnServer(_) => {}
            Undo::Unnamed(before) | Undo::ClosedUnnamed(before) => self.unnamed = before,
            Undo::Named(name, _) => {
                self.remove(&name);
            }
            Undo::Closed(name, named) => self.insert(name, *named),
        }
    }

    /// Takes all named ones away, as `DEALLOCATE ALL` and `DISCARD ALL` do (`DropAllPreparedStatements`).
    pub fn take_named(&mut self) -> AllNamed {
        AllNamed { named: std::mem::take(&mut self.named), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Gives them back.
    pub fn restore(&mut self, all: AllNamed) {
        self.named = all.named;
        self.bytes = all.bytes;
    }
}

#[cfg(test)]
pub(in crate::relay) mod tests {
    use super::*;
    use crate::sql::survey;

    fn reading(text: &str) -> Reading {
        Reading { survey: survey(text.as_bytes()), change: None, choices: None, footprint: None }
    }

    /// A statement of its own interner.
    pub(in crate::relay) fn statement(text: &str) -> Arc<Statement> {
        Interner::default().single(text.as_bytes(), &[0, 0], reading(text))
    }

    fn described(interner: &Interner, text: &str, columns: &[u8]) -> Arc<Statement> {
        let statement = interner.single(text.as_bytes(), &[0, 0], reading(text));
        let description = Description { types: [0, 0].into(), columns: Some(columns.into()) };
        statement.description.set(description).unwrap();
        statement
    }

    #[test]
    fn statements_are_shared_by_text_and_description() {
        let interner = Arc::new(Interner::default());
        let mut clients = [Statements::default(), Statements::default(), Statements::default()];
        let columns: [&[u8]; 3] = [b"int", b"int", b"text"];
        for (client, columns) in clients.iter_mut().zip(columns) {
            let statement = described(&interner, "SELECT x", columns);
            client.insert((*b"s").into(), Named::new((Arc::clone(&statement), 0), &interner));
            client.share(b"s", &statement);
        }
        let ids: Vec<_> = clients.iter().map(|client| client.find(b"s").unwrap().id).collect();
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2], "another description is another statement");
        for client in &mut clients {
            client.remove(b"s");
        }
        assert!(interner.known.is_empty(), "nothing outlives its clients");
    }

    #[test]
    fn a_statement_that_outlives_its_name_is_forgotten_with_its_last_holder() {
        let interner = Arc::new(Interner::default());
        let mut client = Statements::default();
        let statement = described(&interner, "SELECT x", b"int");
        client.insert((*b"s").into(), Named::new((Arc::clone(&statement), 0), &interner));
        client.share(b"s", &statement);
        let portal = client.find(b"s").unwrap();
        drop(statement);
        drop(client.take_named());
        assert_eq!(interner.known.len(), 1);
        drop(portal);
        assert!(interner.known.is_empty());
    }

    #[test]
    fn bytes_are_counted_as_statements_come_and_go() {
        let interner = Arc::new(Interner::default());
        let mut statements = Statements::default();
        for text in ["SELECT 1", "SELECT 22", "SELECT 333"] {
            let statement = interner.single(text.as_bytes(), &[0, 0], reading(text));
            statements.insert(text.as_bytes().into(), Named::new((statement, 0), &interner));
        }
        assert_eq!(statements.size(), (3, 8 + 9 + 10 + 3 * 2));
        statements.remove(b"SELECT 22");
        assert_eq!(statements.size(), (2, 8 + 10 + 2 * 2));
        let all = statements.take_named();
        assert_eq!(statements.size(), (0, 0));
        statements.restore(all);
        assert_eq!(statements.size(), (2, 8 + 10 + 2 * 2));
    }
}
