//! A client's open portals: what each of them will do when it is executed. Effects happen at Execute, not at Bind, and a
//! client may bind several and execute them in any order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::memory::Charge;
use crate::relay::core::statements::Statement;
use crate::relay::core::wish::Wish;

/// Most named portals of one client at one time.
pub const MAX_NAMED: usize = 1024;

/// What is known of a portal.
#[derive(Debug, Clone)]
pub struct Portal {
    /// The statement that it runs.
    pub statement: Arc<Statement>,
    /// The names of settings that the bound values give, in lower case, in the order of the statement's footprint.
    pub names: Vec<Option<String>>,
    /// The tenant that the bound values choose.
    pub wish: Option<Wish>,
    /// Whether it was executed.
    pub ran: Ran,
    /// The part of its client's memory that a shared statement is.
    pub charge: Option<Arc<Charge>>,
}

/// How far a portal was executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ran {
    /// It was not, or it may have more rows.
    #[default]
    No,
    /// Its statement is one that runs once, and it did.
    ToItsEnd,
}

/// What undoes a Bind.
#[derive(Debug)]
pub enum Unbind {
    /// It changed nothing.
    Nothing,
    /// The unnamed portal is this one again.
    Unnamed(Option<Portal>),
    /// There is no portal of this name.
    Named(Box<[u8]>),
    /// The portal of this name is this one again.
    Replaced(Box<[u8]>, Box<Portal>),
}

/// Open portals by name. A client that has bound none holds no memory for them.
#[derive(Debug, Default)]
pub struct Portals(Option<Box<Open>>);

#[derive(Debug, Default)]
struct Open {
    unnamed: Option<Portal>,
    named: HashMap<Box<[u8]>, Portal>,
}

impl Portals {
    /// The portal of that name. None: PostgreSQL may know it as a cursor, or says that there is none.
    pub fn get(&self, name: &[u8]) -> Option<&Portal> {
        let open = self.0.as_deref()?;
        if name.is_empty() { open.unnamed.as_ref() } else { open.named.get(name) }
    }

    /// Whether one more portal of that name is over the limit.
    pub fn is_full(&self, name: &[u8]) -> bool {
        let is_full = |open: &Open| open.named.len() >= MAX_NAMED && !open.named.contains_key(name);
        !name.is_empty() && self.0.as_deref().is_some_and(is_full)
    }

    /// A Bind was sent. PostgreSQL refuses a name that is in use, but it drops portals whenever a transaction ends, so a
    /// known name may be free: its portal is replaced, and nothing may follow the Bind before that is answered. What comes
    /// back undoes it, should the server skip or refuse the Bind.
    pub fn bind(&mut self, name: &[u8], portal: Portal) -> Unbind {
        let open = self.0.get_or_insert_default();
        if name.is_empty() {
            return Unbind::Unnamed(open.unnamed.replace(portal));
        }
        match open.named.entry(name.into()) {
            Entry::Occupied(mut place) => Unbind::Replaced(name.into(), Box::new(place.insert(portal))),
            Entry::Vacant(place) => {
                place.insert(portal);
                Unbind::Named(name.into())
            }
        }
    }

    /// A Bind was skipped or refused.
    pub fn undo(&mut self, unbind: Unbind) {
        let Some(open) = &mut self.0 else { return };
        match unbind {
            Unbind::Nothing => {}
            Unbind::Unnamed(before) => open.unnamed = before,
            Unbind::Named(name) => {
                open.named.remove(&name);
            }
            Unbind::Replaced(name, before) => {
                open.named.insert(name, *before);
            }
        }
    }

    /// An Execute of a statement that runs once was sent.
    pub fn end(&mut self, name: &[u8]) {
        if let Some(portal) = self.get_mut(name) {
            portal.ran = Ran::ToItsEnd;
        }
    }

    /// A portal was bound anew to what stands in for its statement.
    pub fn rebind(&mut self, name: &[u8], stand_in: &Arc<Statement>) {
        if let Some(portal) = self.get_mut(name) {
            portal.statement = Arc::clone(stand_in);
        }
    }

    fn get_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        let open = self.0.as_mut()?;
        if name.is_empty() { open.unnamed.as_mut() } else { open.named.get_mut(name) }
    }

    /// A Close was sent.
    pub fn close(&mut self, name: &[u8]) {
        let Some(open) = &mut self.0 else { return };
        if name.is_empty() {
            open.unnamed = None;
        } else {
            open.named.remove(name);
        }
    }

    /// A Query was sent, which closes the unnamed portal.
    pub fn close_unnamed(&mut self) -> Option<Portal> {
        self.0.as_mut()?.unnamed.take()
    }

    /// DISCARD ALL closes all, its own too. Their names, in order.
    pub fn take_all(&mut self) -> Vec<Box<[u8]>> {
        let Some(open) = &mut self.0 else { return Vec::new() };
        let unnamed = open.unnamed.take().map(|_| Box::default());
        let mut all: Vec<Box<[u8]>> = std::mem::take(&mut open.named).into_keys().chain(unnamed).collect();
        all.sort_unstable();
        all
    }

    /// The transaction is over, and all portals with it.
    pub fn clear(&mut self) {
        let Some(open) = &mut self.0 else { return };
        open.unnamed = None;
        if !open.named.is_empty() {
            open.named = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::core::statements::tests::statement;

    fn portal(text: &str) -> Portal {
        Portal { statement: statement(text), names: Vec::new(), wish: None, ran: Ran::No, charge: None }
    }

    fn text(portals: &Portals, name: &[u8]) -> Option<String> {
        portals.get(name).map(|portal| String::from_utf8_lossy(&portal.statement.text).into_owned())
    }

    #[test]
    fn portals_are_kept_apart_by_name_until_they_are_closed() {
        let mut portals = Portals::default();
        portals.bind(b"", portal("SELECT 1"));
        portals.bind(b"p", portal("SELECT 2"));
        portals.bind(b"", portal("SELECT 3"));
        let second = portals.bind(b"p", portal("SELECT 4"));
        assert_eq!(
            text(&portals, b"p").as_deref(),
            Some("SELECT 4"),
            "the first may have ended with its transaction"
        );
        portals.undo(second);
        assert_eq!(text(&portals, b"").as_deref(), Some("SELECT 3"), "the unnamed one is replaced");
        assert_eq!(
            text(&portals, b"p").as_deref(),
            Some("SELECT 2"),
            "PostgreSQL has refused the second of a name"
        );
        portals.close_unnamed();
        assert_eq!(text(&portals, b""), None);
        portals.close(b"p");
        assert_eq!(text(&portals, b"p"), None);
        portals.bind(b"", portal("SELECT 5"));
        portals.bind(b"p", portal("SELECT 5"));
        assert_eq!(portals.take_all(), [Box::<[u8]>::default(), (*b"p").into()]);
        portals.bind(b"q", portal("SELECT 5"));
        assert!(portals.get(b"").is_none() && portals.get(b"p").is_none());
        portals.clear();
        assert_eq!(text(&portals, b"q"), None);
    }

    #[test]
    fn a_bind_that_the_server_skipped_leaves_what_was_there_before() {
        let mut portals = Portals::default();
        portals.bind(b"", portal("SELECT 1"));
        let unnamed = portals.bind(b"", portal("SELECT 2"));
        let named = portals.bind(b"p", portal("SELECT 3"));
        let refused = portals.bind(b"p", portal("SELECT 4"));
        for undo in [refused, named, unnamed] {
            portals.undo(undo);
        }
        assert_eq!(text(&portals, b"").as_deref(), Some("SELECT 1"));
        assert_eq!(text(&portals, b"p"), None);
    }

    #[test]
    fn both_sides_of_the_limit() {
        let mut portals = Portals::default();
        for number in 0..MAX_NAMED {
            let name = number.to_string();
            assert!(!portals.is_full(name.as_bytes()));
            portals.bind(name.as_bytes(), portal("SELECT 1"));
        }
        assert!(portals.is_full(b"one more"));
        assert!(!portals.is_full(b"7") && !portals.is_full(b""));
    }
}
