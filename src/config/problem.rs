//! What is wrong in a configuration: where, what, and what to do about it.
//! A problem never quotes a secret, nor a line of the file (a secret may stand in it).

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, for example `user[2] "acme_app".tenant`.
    pub place: String,
    /// Its line in the file, counted from one.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        write!(f, ": {} (hint: {})", self.what, self.hint)
    }
}

/// Everything that is wrong, in the order of the file's sections; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Error of a parser of one value: what is wrong and a hint. The section and the key are added by the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InvalidValue {
    pub(super) what: String,
    pub(super) hint: String,
}

/// Makes an [`InvalidValue`].
pub(super) fn refuse(what: impl Into<String>, hint: impl Into<String>) -> InvalidValue {
    InvalidValue { what: what.into(), hint: hint.into() }
}

/// Names shown at most in one hint.
const SHOWN: usize = 5;

/// Names compared at most with a misspelt one, so that many mistakes among many names stay cheap.
const COMPARED: usize = 50;

/// A hint for `text`, which should have been one of `known`.
pub(super) fn suggest<'a>(text: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let near = known
        .clone()
        .take(COMPARED)
        .map(|name| (distance(text, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4)
        .min();
    if let Some((_, name)) = near {
        return format!("did you mean {name:?}?");
    }
    let shown: Vec<_> = known.clone().take(SHOWN).map(|name| format!("{name:?}")).collect();
    match (shown.is_empty(), known.count() > SHOWN) {
        (true, _) => "there is none yet".into(),
        (false, true) => format!("known: {}, …", shown.join(", ")),
        (false, false) => format!("known: {}", shown.join(", ")),
    }
}

/// Levenshtein's distance: insertions, removals and replacements that lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        row[0] = left;
        for (cell, to) in row[1..].iter_mut().zip(&b) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row[b.len()]
}
