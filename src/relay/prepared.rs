//! Prepared statements of clients, kept apart from those on servers. Two clients may use one name for different texts,
//! and many clients share one id for the same text, as long as PostgreSQL said the same about it to each of them.
//!
//! ```text
//!   Parse          draft, with an id of its own, parsed on the server at hand
//!   its answer     described: types and columns, which hold for as long as the client has the statement
//!                  the id of another statement with this text and description, if there is one
//!   Bind           a copy on the server at hand, not older than the client's Parse
//!                  else parsed there with the described types, and its columns compared
//! ```

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dashmap::DashMap;

use crate::guard::TenantChange;
use crate::guard::footprint::Footprint;
use crate::relay::description::Description;
use crate::sql::Survey;
use crate::upstream::{Freshness, SessionParameters, StatementId};

/// Runs in the place of what the proxy does itself: allowed wherever that is, and changes nothing.
pub(super) const NOTHING: &[u8] = b"RESET \"pgtenant\".\"choice\"";

/// A statement as a client prepared it.
#[derive(Debug)]
pub struct Statement {
    /// Identifies it, also on servers.
    pub id: StatementId,
    /// The query text.
    pub text: Box<[u8]>,
    /// Parameter types as they stood in `Parse`: count and OIDs, zero for those left open.
    types: Box<[u8]>,
    /// What its text tells about running it.
    pub reading: Reading,
    /// The client's statement of this name ends with it.
    pub deallocates: Option<Box<[u8]>>,
    /// What is sent in the place of a text that must not run as it stands.
    stand_in: Option<Vec<u8>>,
    /// The encoding that a text beyond ASCII is written in.
    encoding: Option<Box<str>>,
    /// Where it can be found by others; none: it is not shared.
    interner: Option<Arc<Interner>>,
    /// Whether a server was asked about it, and has not answered yet.
    is_asked: AtomicBool,
    learned: OnceLock<Learned>,
}

/// What the answer to `Parse` brought.
#[derive(Debug)]
struct Learned {
    description: Description,
    /// A number that was given after the answer.
    since: u64,
}

/// What was read in a text.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Its statements.
    pub survey: Survey,
    /// The change of tenant that it is, for the proxy to carry out.
    pub change: Option<Arc<TenantChange>>,
    /// What it may leave in its session; none: nothing.
    pub footprint: Option<Arc<Footprint>>,
}

/// Whether a statement may be one for several clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// It may.
    Shared,
    /// It is the unnamed one, or its text may mean something else in other sessions.
    Own,
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

    /// The parameter types for servers, as in `Parse`: the described ones, so that no server infers others.
    pub fn sent_types(&self) -> &[u8] {
        self.description().map_or(&self.types, Description::types)
    }

    /// The parameter types as they stood in the client's `Parse`.
    pub fn types(&self) -> &[u8] {
        &self.types
    }

    /// What PostgreSQL said about it; none: nothing yet.
    pub fn description(&self) -> Option<&Description> {
        self.learned.get().map(|learned| &learned.description)
    }

    /// Whether a server has to be asked about it; the caller does so.
    pub fn asks(&self) -> bool {
        self.description().is_none() && !self.is_asked.swap(true, Ordering::Relaxed)
    }

    /// The server will not answer.
    pub fn is_not_asked(&self) {
        self.is_asked.store(false, Ordering::Relaxed);
    }

    /// Whether a server of that database, told that text by a client with these parameters, reads what its client
    /// prepared.
    pub fn reads_the_same(&self, parameters: &SessionParameters, database: u64) -> bool {
        let encoding = self.encoding.as_deref().is_none_or(|own| own == encoding(parameters));
        encoding && self.description().is_none_or(|description| description.holds_in(database))
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let stand_in = self.stand_in.as_ref().map_or(0, Vec::len);
        let description = self.description().map_or(0, Description::bytes);
        self.text.len() + self.types.len() + stand_in + description
    }

    /// Digest of what makes it the same as another.
    fn digest(&self, description: &Description) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.text, &self.encoding, description, self.reading.change.is_some()).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether it is the same: what is sent, what was said about it, and what the proxy does with it. One text can be
    /// a change of tenant to a tenant's client and none to a maintenance user.
    fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
            && self.encoding == other.encoding
            && self.description() == other.description()
            && self.reading.change.is_some() == other.reading.change.is_some()
            && self.reading.survey == other.reading.survey
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        if let (Some(interner), Some(learned)) = (&self.interner, self.learned.get()) {
            interner.forget(self.digest(&learned.description));
        }
    }
}

/// The encoding of a client with these parameters, without the ways to spell it.
fn encoding(parameters: &SessionParameters) -> String {
    let name = parameters.get("client_encoding").unwrap_or("utf8");
    name.chars().filter(char::is_ascii_alphanumeric).map(|it| it.to_ascii_lowercase()).collect()
}

// === Interner ===

/// Finds the statement that others have, process-wide. It keeps nothing alive.
#[derive(Debug, Default)]
pub struct Interner {
    /// By digest.
    known: DashMap<u64, Vec<Weak<Statement>>>,
    next: AtomicU64,
}

impl Interner {
    /// A number greater than all before.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A statement that nothing is known about yet.
    pub fn draft(
        self: &Arc<Self>,
        text: &[u8],
        types: &[u8],
        (reading, sharing): (Reading, Sharing),
        parameters: &SessionParameters,
    ) -> Arc<Statement> {
        Arc::new(Statement {
            id: self.number(),
            text: text.into(),
            types: types.into(),
            stand_in: reading.change.as_ref().map(|change| change.stand_in(text)),
            deallocates: None,
            encoding: (!text.is_ascii()).then(|| encoding(parameters).into()),
            interner: (sharing == Sharing::Shared).then(|| Arc::clone(self)),
            is_asked: AtomicBool::new(false),
            learned: OnceLock::new(),
            reading,
        })
    }

    /// DEALLOCATE of a name that is known to the proxy only.
    pub fn deallocation(&self, text: &[u8], name: Box<[u8]>, reading: Reading) -> Arc<Statement> {
        Arc::new(Statement {
            id: self.number(),
            text: text.into(),
            types: Box::new([0, 0]),
            reading,
            deallocates: Some(name),
            stand_in: Some(NOTHING.to_vec()),
            encoding: None,
            interner: None,
            is_asked: AtomicBool::new(false),
            learned: OnceLock::new(),
        })
    }

    /// Takes in what PostgreSQL said about a statement. The statement that its client has from here on.
    pub fn learn(&self, statement: &Arc<Statement>, description: Description) -> Arc<Statement> {
        statement.learned.get_or_init(|| Learned { description, since: self.number() });
        self.shared(statement)
    }

    /// The first statement that is the same.
    fn shared(&self, statement: &Arc<Statement>) -> Arc<Statement> {
        let (Some(_), Some(learned)) = (&statement.interner, statement.learned.get()) else {
            return Arc::clone(statement);
        };
        // Dropped behind the guard of the map, because the last one to go looks into the map.
        let mut others = Vec::new();
        let mut same = self.known.entry(statement.digest(&learned.description)).or_default();
        others.extend(same.iter().filter_map(Weak::upgrade));
        let first = others.iter().find(|other| other.is_same(statement)).map(Arc::clone);
        first.unwrap_or_else(|| {
            same.push(Arc::downgrade(statement));
            Arc::clone(statement)
        })
    }

    /// A statement with this digest is gone.
    fn forget(&self, digest: u64) {
        self.known.remove_if_mut(&digest, |_, same| {
            same.retain(|statement| statement.strong_count() > 0);
            same.is_empty()
        });
    }
}

// === Statements ===

/// A statement that a client has by a name.
#[derive(Debug)]
pub struct Named {
    statement: Arc<Statement>,
    fresh: Freshness,
    /// As they were counted.
    bytes: usize,
}

impl Named {
    fn new(statement: Arc<Statement>) -> Self {
        let fresh = Freshness { own: statement.id, since: 0 };
        Self { statement, fresh, bytes: 0 }
    }

    /// The client's own draft was described.
    fn settle(&mut self, interner: &Interner) {
        if self.statement.id == self.fresh.own
            && let Some(learned) = self.statement.learned.get()
        {
            self.fresh.since = learned.since;
            self.statement = interner.shared(&self.statement);
        }
    }
}

/// Most named statements of one client.
pub const MAX_NAMED: usize = 4096;

/// One client's statements by name.
#[derive(Debug, Default)]
pub struct Statements {
    named: HashMap<Box<[u8]>, Named>,
    /// Bytes of the names, and of the statements as they came.
    bytes: usize,
    /// The unnamed one.
    pub unnamed: Option<Arc<Statement>>,
}

impl Statements {
    /// The statement of that name, and which copies of it may serve; empty: the unnamed one.
    pub fn find(&self, name: &[u8]) -> Option<(Arc<Statement>, Freshness)> {
        if name.is_empty() {
            return self.unnamed.clone().map(|statement| (statement, Freshness::default()));
        }
        self.named.get(name).map(|named| (Arc::clone(&named.statement), named.fresh))
    }

    /// Whether there is a named one of that name.
    pub fn has(&self, name: &[u8]) -> bool {
        self.named.contains_key(name)
    }

    /// Whether there is no room for another named one.
    pub fn is_full(&self) -> bool {
        self.named.len() >= MAX_NAMED
    }

    /// Bytes of all named ones, where a text that is shared counts for each of its names.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The client prepares a statement by that name.
    pub fn add(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.put(name.into(), Named::new(statement));
    }

    /// The client closes the one of that name.
    pub fn remove(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Named)> {
        let removed = self.named.remove_entry(name);
        if let Some((_, named)) = &removed {
            self.bytes = self.bytes.saturating_sub(named.bytes);
        }
        removed
    }

    /// It was not closed after all. Meanwhile it may have been described.
    pub fn put_back(&mut self, name: Box<[u8]>, mut named: Named, interner: &Interner) {
        named.settle(interner);
        self.put(name, named);
    }

    /// The statement of that name was described, if it is still this one.
    pub fn settle(&mut self, name: &[u8], draft: StatementId, interner: &Interner) {
        if let Some((name, mut named)) = self.remove(name) {
            if named.statement.id == draft {
                named.settle(interner);
            }
            self.put(name, named);
        }
    }

    fn put(&mut self, name: Box<[u8]>, mut named: Named) {
        named.bytes = name.len() + named.statement.bytes();
        self.bytes += named.bytes;
        if let Some(earlier) = self.named.insert(name, named) {
            self.bytes = self.bytes.saturating_sub(earlier.bytes);
        }
    }

    /// All are gone, as after `DISCARD ALL`.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests;
