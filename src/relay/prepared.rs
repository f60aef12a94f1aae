//! Prepared statements of clients, kept apart from those on servers: a client's name leads to a text, and
//! a text to one name on every server. Two clients may use one name for different texts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::guard::TenantChange;
use crate::guard::footprint::Footprint;
use crate::sql::Survey;
use crate::upstream::StatementId;

/// Runs in the place of what the proxy does itself: allowed wherever that is, and changes nothing.
pub(super) const NOTHING: &[u8] = b"RESET \"pgtenant\".\"choice\"";

/// A statement as a client prepared it.
#[derive(Debug)]
pub struct Statement {
    /// Names it on servers.
    pub id: StatementId,
    /// The query text.
    pub text: Box<[u8]>,
    /// Parameter types as they stood in `Parse`: count and OIDs.
    pub types: Box<[u8]>,
    /// What its text tells about running it.
    pub reading: Reading,
    /// The client's statement of this name ends with it.
    pub deallocates: Option<Box<[u8]>>,
    /// What is sent in the place of a text that must not run as it stands.
    stand_in: Option<Vec<u8>>,
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

impl Statement {
    /// What its text tells about running it.
    pub fn survey(&self) -> Survey {
        self.reading.survey
    }

    fn key(&self) -> Key {
        (self.text.clone(), self.types.clone(), self.reading.change.is_some())
    }

    /// The text for servers.
    pub fn sent(&self) -> &[u8] {
        self.stand_in.as_deref().unwrap_or(&self.text)
    }
}

/// One id for each text with its types and reading, process-wide. It holds a text as long as a client does.
#[derive(Debug, Default)]
pub struct Interner {
    known: DashMap<Key, Arc<Statement>>,
    next: AtomicU64,
}

/// Text, types, and whether it is a change of tenant for the proxy to carry out: the same text is one to a tenant's
/// client and none to a maintenance user, and neither may run by the other's reading.
type Key = (Box<[u8]>, Box<[u8]>, bool);

impl Interner {
    /// A named statement that is not shared, because its text may mean something else in other sessions.
    pub fn own(self: &Arc<Self>, text: &[u8], types: &[u8], reading: Reading) -> Named {
        Named { statement: self.single(text, types, reading), interner: Arc::clone(self), is_used: false }
    }

    /// A statement that is not shared: the unnamed one.
    pub fn single(&self, text: &[u8], types: &[u8], reading: Reading) -> Arc<Statement> {
        Arc::new(Statement {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            text: text.into(),
            types: types.into(),
            stand_in: reading.change.as_ref().map(|change| change.stand_in(text)),
            deallocates: None,
            reading,
        })
    }

    /// DEALLOCATE of a name that is known to the proxy only.
    pub fn deallocation(&self, text: &[u8], name: Box<[u8]>, reading: Reading) -> Arc<Statement> {
        Arc::new(Statement {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            text: text.into(),
            types: Box::default(),
            reading,
            deallocates: Some(name),
            stand_in: Some(NOTHING.to_vec()),
        })
    }

    /// The statement of this text, shared by all clients that prepare it.
    pub fn intern(self: &Arc<Self>, text: &[u8], types: &[u8], reading: Reading) -> Named {
        let entry = self.known.entry((text.into(), types.into(), reading.change.is_some()));
        let statement = Arc::clone(&entry.or_insert_with(|| self.single(text, types, reading)));
        Named { statement, interner: Arc::clone(self), is_used: false }
    }

    /// Definitions may have changed: whoever prepares from here on has its texts read anew by every server, because
    /// what they mean, and of which types their parameters are, was decided by the old ones.
    pub fn forget_all(&self) {
        self.known.clear();
    }

    /// Plans of a statement do not fit their tables any more: from here on its text has another id, so that every
    /// server prepares it anew. The old one ages out of servers like any that is not used.
    fn renew(self: &Arc<Self>, old: &Statement) -> Arc<Statement> {
        let renewed = || self.single(&old.text, &old.types, old.reading.clone());
        let mut entry = self.known.entry(old.key()).or_insert_with(renewed);
        if entry.id == old.id {
            *entry = renewed();
        }
        Arc::clone(&entry)
    }
}

/// A client's hold on a shared statement.
#[derive(Debug)]
pub struct Named {
    statement: Arc<Statement>,
    interner: Arc<Interner>,
    is_used: bool,
}

impl Named {
    /// The statement.
    pub const fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let key = self.statement.key();
        // The map's and this one: nobody else holds it. The map may have another one of this text by now.
        let is_last =
            |known: &Arc<Statement>| Arc::ptr_eq(known, &self.statement) && Arc::strong_count(known) <= 2;
        self.interner.known.remove_if(&key, |_, known| is_last(known));
    }
}

/// Most named statements of one client.
pub const MAX_NAMED: usize = 4096;

/// One client's statements by name.
#[derive(Debug, Default)]
pub struct Statements {
    /// The named ones.
    pub named: HashMap<Box<[u8]>, Named>,
    /// The unnamed one.
    pub unnamed: Option<Arc<Statement>>,
}

impl Statements {
    /// The statement of that name; empty: the unnamed one.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Statement>> {
        if name.is_empty() {
            return self.unnamed.clone();
        }
        self.named.get(name).map(|named| Arc::clone(named.statement()))
    }

    /// The client binds the statement of that name or asks for its columns; whether it has done so before.
    pub fn use_of(&mut self, name: &[u8]) -> bool {
        self.named.get_mut(name).is_none_or(|named| std::mem::replace(&mut named.is_used, true))
    }

    /// The client's statements of this id get the one that renews it, as if they had not been used yet.
    pub fn renew(&mut self, id: StatementId) {
        for named in self.named.values_mut().filter(|named| named.statement.id == id) {
            named.statement = named.interner.renew(&named.statement);
            named.is_used = false;
        }
    }

    /// All are gone, as after `DISCARD ALL`.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::survey;

    #[test]
    fn one_text_has_one_id_as_long_as_somebody_holds_it() {
        let interner = Arc::new(Interner::default());
        let reading = || Reading { survey: survey(b"SELECT 1"), change: None, footprint: None };
        let first = interner.intern(b"SELECT 1", b"\0\0", reading());
        let second = interner.intern(b"SELECT 1", b"\0\0", reading());
        assert_eq!(first.statement().id, second.statement().id);
        assert_ne!(
            first.statement().id,
            interner.intern(b"SELECT 1", b"\0\x01\0\0\0\x17", reading()).statement().id
        );
        drop((first, second));
        assert!(interner.known.is_empty());
    }
}
