//! The session parameters that a client believes to have: what it asked for at startup, and what
//! PostgreSQL reported to it since.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Names in lower case and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionParameters {
    values: BTreeMap<String, String>,
    fingerprint: u64,
}

impl SessionParameters {
    /// From what a client asked for; a later value beats an earlier one.
    pub fn new(parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        let values = parameters.into_iter().collect();
        let fingerprint = fingerprint(&values);
        Self { values, fingerprint }
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Equal for equal parameters. Two sets that collide would only cost one of the clients its settings
    /// within its own tenant, because a change of tenant always resets.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Those of a name alone: none or one.
    #[must_use]
    pub fn only(&self, name: &str) -> Self {
        Self::new(self.get(name).map(|value| (name.to_owned(), value.to_owned())))
    }

    /// One value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// It has its default again.
    pub fn remove(&mut self, name: &str) {
        if self.values.remove(name).is_some() {
            self.fingerprint = fingerprint(&self.values);
        }
    }

    /// PostgreSQL reported that the client changed a parameter.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        if self.values.get(&name).is_none_or(|known| known != value) {
            self.values.insert(name, value.to_owned());
            self.fingerprint = fingerprint(&self.values);
        }
    }
}

fn fingerprint(values: &BTreeMap<String, String>) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    values.hash(&mut hasher);
    hasher.finish()
}
