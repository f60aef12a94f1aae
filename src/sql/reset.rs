//! Which setting a RESET, or a SET … TO DEFAULT, returns to its default.

use super::lexer::{Lexer, Token, TokenKind, content};

/// The name in lower case; none if the text is neither, or returns a setting for the transaction only.
/// `SET TIME ZONE DEFAULT` and `SET NAMES` are left to PostgreSQL.
pub fn reset_setting(text: &[u8]) -> Option<String> {
    let mut words = Lexer::new(text).filter(|token| !is_end(token)).map(|token| word(&token));
    let first = words.next()??;
    let mut name = words.next()??;
    if first == "set" && name == "session" {
        name = words.next()??;
    }
    let mut next = words.next();
    while let Some(Some(dot)) = &next
        && dot == "."
    {
        name.push('.');
        name.push_str(&words.next()??);
        next = words.next();
    }
    match (first.as_str(), next) {
        ("reset", None) => Some(name),
        ("set", Some(Some(to))) if to == "to" || to == "=" => {
            (words.next()?? == "default" && words.next().is_none()).then_some(name)
        }
        _ => None,
    }
}

/// Whether one of several statements is RESET ALL. A false yes costs a reset, nothing else.
pub fn mentions_reset_all(text: &[u8]) -> bool {
    let mut before = false;
    Lexer::new(text).any(|token| {
        let found = before && token.bytes.eq_ignore_ascii_case(b"all");
        before = token.bytes.eq_ignore_ascii_case(b"reset");
        found
    })
}

fn is_end(token: &Token<'_>) -> bool {
    token.bytes == b";"
}

/// A word or sign as PostgreSQL reads it; none for anything else.
fn word(token: &Token<'_>) -> Option<String> {
    let bytes = match token.kind {
        TokenKind::Word => token.bytes.to_ascii_lowercase(),
        TokenKind::QuotedWord => content(token),
        _ if matches!(token.bytes, b"." | b"=") => token.bytes.to_vec(),
        _ => return None,
    };
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_all_is_found_among_several_statements() {
        assert!(mentions_reset_all(b"CLOSE ALL; UNLISTEN *; reset\n ALL;"));
        assert!(!mentions_reset_all(b"CLOSE ALL; RESET x; SELECT 'RESET ALL'"));
    }

    #[test]
    fn the_setting_is_found_in_any_spelling() {
        for (text, expected) in [
            ("RESET search_path", Some("search_path")),
            ("reset /* x */ \"search_path\" ;", Some("search_path")),
            ("RESET app.Color", Some("app.color")),
            ("SET search_path TO DEFAULT", Some("search_path")),
            ("SET SESSION search_path = DEFAULT;", Some("search_path")),
            ("SET LOCAL search_path TO DEFAULT", None),
            ("SET search_path TO x", None),
            ("SET search_path TO DEFAULT, x", None),
            ("SELECT 1", None),
            ("RESET", None),
            ("", None),
        ] {
            assert_eq!(reset_setting(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
