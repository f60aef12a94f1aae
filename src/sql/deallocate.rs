//! Which prepared statement a DEALLOCATE names.

use super::lexer::{Lexer, TokenKind, content};
use super::words::folded;

/// The name; none if the text is something else, or names all.
pub fn deallocated(text: &[u8]) -> Option<Vec<u8>> {
    let mut tokens = Lexer::new(text).filter(|token| token.kind != TokenKind::Semicolon);
    let verb = tokens.next().filter(|token| token.kind == TokenKind::Word)?;
    verb.bytes.eq_ignore_ascii_case(b"deallocate").then_some(())?;
    let mut name = tokens.next()?;
    let mut next = tokens.next();
    // PREPARE is a name, too, if nothing follows it.
    if name.kind == TokenKind::Word
        && name.bytes.eq_ignore_ascii_case(b"prepare")
        && let Some(behind) = next
    {
        name = behind;
        next = tokens.next();
    }
    if next.is_some() {
        return None;
    }
    match name.kind {
        TokenKind::Word if name.bytes.eq_ignore_ascii_case(b"all") => None,
        TokenKind::Word => Some(folded(name.bytes).into_owned()),
        TokenKind::QuotedWord => Some(content(&name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_read_as_postgresql_reads_it() {
        for (text, name) in [
            ("DEALLOCATE x", Some("x")),
            ("deallocate /* a */ PREPARE \"_pg3_0\" ;", Some("_pg3_0")),
            ("DEALLOCATE Upper", Some("upper")),
            ("DEALLOCATE \"Up\"\"per\"", Some("Up\"per")),
            ("DEALLOCATE prepare", Some("prepare")),
            ("DEALLOCATE ALL", None),
            ("DEALLOCATE PREPARE ALL", None),
            ("DEALLOCATE x y", None),
            ("DEALLOCATE", None),
            ("SELECT x", None),
        ] {
            assert_eq!(deallocated(text.as_bytes()).as_deref(), name.map(str::as_bytes), "{text}");
        }
    }
}
