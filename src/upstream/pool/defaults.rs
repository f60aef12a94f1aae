//! The settings that servers begin with. `ALTER ROLE … SET`, `ALTER DATABASE … SET` and a reload of PostgreSQL change them for new
//! servers only; servers with others must not serve beside them, for clients believe in one value.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What servers report at login and clients rely on.
const NAMES: &[&str] = &[
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "default_transaction_read_only",
    "standard_conforming_strings",
    "search_path",
];

/// Settings that a server began with, by name.
pub type Defaults = Arc<BTreeMap<String, String>>;

/// Those of a pool's newest server.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Option<Defaults>>);

/// What a new server tells about the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They began like it.
    AreAlike,
    /// They began with other settings.
    Differ,
}

impl Newest {
    /// A server has logged in and reported this.
    pub(super) fn note(&self, reported: &BTreeMap<String, String>) -> (Defaults, Others) {
        let own = |(name, value): (&String, &String)| {
            NAMES.contains(&&**name).then(|| (name.clone(), value.clone()))
        };
        let own: BTreeMap<_, _> = reported.iter().filter_map(own).collect();
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some(known) if **known == own => (Arc::clone(known), Others::AreAlike),
            before => {
                let others = if before.is_some() { Others::Differ } else { Others::AreAlike };
                let own = Arc::new(own);
                *newest = Some(Arc::clone(&own));
                (own, others)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_begins_with_other_settings_is_noticed_once() {
        let newest = Newest::default();
        let reported = |style: &str, user: &str| {
            let pairs = [("DateStyle", style), ("session_authorization", user)];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        let (first, others) = newest.note(&reported("ISO, MDY", "a"));
        assert_eq!((first.len(), others), (1, Others::AreAlike));
        let (second, others) = newest.note(&reported("ISO, MDY", "b"));
        assert!(Arc::ptr_eq(&first, &second) && others == Others::AreAlike);
        assert_eq!(newest.note(&reported("SQL, DMY", "a")).1, Others::Differ);
        assert_eq!(newest.note(&reported("SQL, DMY", "a")).1, Others::AreAlike);
    }
}
