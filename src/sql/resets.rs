//! Which statements of a text return settings to their defaults, empty the session's sequence cache, or drop prepared
//! statements: RESET, SET … TO DEFAULT, SET TIME ZONE DEFAULT | LOCAL, SET NAMES DEFAULT, DISCARD SEQUENCES, DEALLOCATE,
//! in any spelling.

use super::deallocate::deallocated;
use super::lexer::{Lexer, Token, TokenKind, content};

/// Words of one statement that are looked at. `SET SESSION "a"."b" TO DEFAULT` has seven.
const MAX_WORDS: usize = 8;

/// One such statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetStatement {
    /// Its number among the statements of the text, from zero.
    pub index: usize,
    /// Where it begins in the text, in bytes.
    pub start: usize,
    /// Where it ends in the text, in bytes, without its semicolon.
    pub end: usize,
    /// What it resets.
    pub what: Reset,
}

/// What a statement resets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reset {
    /// RESET ALL.
    All,
    /// A setting, by its name in lower case.
    Setting(String),
    /// A setting, for the transaction only.
    Local(String),
    /// DISCARD SEQUENCES.
    Sequences,
    /// DEALLOCATE of this prepared statement.
    Statement(Vec<u8>),
    /// DEALLOCATE ALL.
    Statements,
}

/// The reset statements of a text, and how many statements it holds.
pub fn resets(text: &[u8]) -> (Vec<ResetStatement>, usize) {
    let mut found = Vec::new();
    let (mut index, mut depth) = (0_usize, 0_usize);
    let (mut start, mut end) = (0_usize, 0_usize);
    let mut words: Vec<String> = Vec::new();
    let mut is_plain = true;
    let mut close = |words: &mut Vec<String>, is_plain: &mut bool, (start, end): (usize, usize)| {
        let dropped = || deallocated(text.get(start..end)?).map(Reset::Statement);
        let what = is_plain.then(|| reset(words)).flatten();
        let drops = words.first().is_some_and(|word| word == "deallocate");
        if let Some(what) = what.or_else(|| drops.then(dropped).flatten()) {
            found.push(ResetStatement { index, start, end, what });
        }
        let is_empty = words.is_empty() && *is_plain;
        index = index.saturating_add(usize::from(!is_empty));
        words.clear();
        *is_plain = true;
    };
    for token in Lexer::new(text) {
        match token.kind {
            TokenKind::Semicolon if depth == 0 => {
                close(&mut words, &mut is_plain, (start, end));
                continue;
            }
            TokenKind::Open => depth = depth.saturating_add(1),
            TokenKind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        if words.is_empty() && is_plain {
            start = token.range().start;
        }
        end = token.range().end;
        match word(&token).filter(|_| words.len() < MAX_WORDS) {
            Some(word) => words.push(word),
            None => is_plain = false,
        }
    }
    close(&mut words, &mut is_plain, (start, end));
    (found, index)
}

/// Whether a text may hold such a statement; a false yes costs a closer look. Most texts are told apart by their first
/// word.
pub fn may_reset(text: &[u8]) -> bool {
    Lexer::new(text).any(|token| {
        token.kind == TokenKind::Word
            && [&b"reset"[..], b"default", b"local", b"names", b"discard", b"deallocate"]
                .iter()
                .any(|word| token.bytes.eq_ignore_ascii_case(word))
    })
}

fn reset(words: &[String]) -> Option<Reset> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["discard", "sequences"] => Some(Reset::Sequences),
        ["deallocate", "all"] | ["deallocate", "prepare", "all"] => Some(Reset::Statements),
        ["reset", "all"] => Some(Reset::All),
        ["reset", "time", "zone"] => Some(Reset::Setting("timezone".to_owned())),
        ["reset", "transaction", "isolation", "level"] | ["reset", "session", "authorization"] => None,
        ["reset", name @ ..] => dotted(name).map(Reset::Setting),
        ["set", "local", rest @ ..] => to_default(rest).map(Reset::Local),
        ["set", "session", rest @ ..] | ["set", rest @ ..] => to_default(rest).map(Reset::Setting),
        _ => None,
    }
}

fn to_default(words: &[&str]) -> Option<String> {
    match words {
        ["time", "zone", "default" | "local"] => Some("timezone".to_owned()),
        ["names"] | ["names", "default"] => Some("client_encoding".to_owned()),
        [name @ .., "to" | "=", "default"] => dotted(name),
        _ => None,
    }
}

/// `a`, or `a . b`.
fn dotted(words: &[&str]) -> Option<String> {
    match words {
        [name] => Some((*name).to_owned()),
        [first, ".", rest @ ..] => dotted(rest).map(|rest| format!("{first}.{rest}")),
        _ => None,
    }
}

/// A word or sign as PostgreSQL reads it; none for anything else.
fn word(token: &Token<'_>) -> Option<String> {
    let bytes = match token.kind {
        TokenKind::Word => token.bytes.to_ascii_lowercase(),
        // Setting names are folded in quotes, too.
        TokenKind::QuotedWord => content(token).to_ascii_lowercase(),
        _ if matches!(token.bytes, b"." | b"=") => token.bytes.to_vec(),
        _ => return None,
    };
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str) -> Reset {
        Reset::Setting(name.to_owned())
    }

    #[test]
    fn a_reset_is_found_in_any_spelling() {
        for (text, expected) in [
            ("RESET search_path", Some(setting("search_path"))),
            ("reset /* x */ \"Search_Path\" ;", Some(setting("search_path"))),
            ("RESET app.Color", Some(setting("app.color"))),
            ("SET search_path TO DEFAULT", Some(setting("search_path"))),
            ("SET SESSION search_path = DEFAULT;", Some(setting("search_path"))),
            ("SET SESSION \"a\".\"b\" TO DEFAULT", Some(setting("a.b"))),
            ("SET LOCAL search_path TO DEFAULT", Some(Reset::Local("search_path".to_owned()))),
            ("RESET TIME ZONE", Some(setting("timezone"))),
            ("SET TIME ZONE DEFAULT", Some(setting("timezone"))),
            ("SET SESSION TIME ZONE LOCAL", Some(setting("timezone"))),
            ("SET LOCAL TIME ZONE LOCAL", Some(Reset::Local("timezone".to_owned()))),
            ("SET NAMES DEFAULT", Some(setting("client_encoding"))),
            ("SET NAMES", Some(setting("client_encoding"))),
            ("RESET ALL", Some(Reset::All)),
            ("discard sequences", Some(Reset::Sequences)),
            ("DEALLOCATE s1", Some(Reset::Statement(b"s1".to_vec()))),
            ("deallocate prepare /* x */ \"S\"\"1\";", Some(Reset::Statement(b"S\"1".to_vec()))),
            ("DEALLOCATE PREPARE ALL", Some(Reset::Statements)),
            ("DEALLOCATE a b", None),
            ("RESET SESSION AUTHORIZATION", None),
            ("SET NAMES 'UTF8'", None),
            ("SET search_path TO x", None),
            ("SET search_path TO DEFAULT, x", None),
            ("DISCARD ALL", None),
            ("SELECT 1", None),
            ("RESET", None),
            ("", None),
        ] {
            let (found, _) = resets(text.as_bytes());
            assert_eq!(found.into_iter().next().map(|one| one.what), expected, "{text}");
            if expected.is_some() {
                assert!(may_reset(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn statements_are_counted_and_their_ends_known() {
        let text = b"CLOSE ALL;; RESET  all ; SELECT ';', (1);/**/deallocate x; set x to default";
        let (found, count) = resets(text);
        assert_eq!(count, 5);
        let places: Vec<_> =
            found.iter().map(|one| (one.index, text.get(one.start..one.end).unwrap())).collect();
        let expected = [(1, &b"RESET  all"[..]), (3, b"deallocate x"), (4, b"set x to default")];
        assert_eq!(places, expected);
    }
}
