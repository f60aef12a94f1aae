//! The searches of the lexer: where a run of bytes, a quote, a comment ends. Positions in, positions out, total
//! on any bytes; nothing here knows of tokens but the kind of a literal, which decides how its quotes end.

use memchr::memmem;

use super::lexer::TokenKind;
use super::steps;

#[inline]
pub(super) fn byte_at(text: &[u8], at: usize) -> Option<u8> {
    text.get(at).copied()
}

/// The end of the run of bytes of one sort that starts here.
#[inline]
pub(super) fn run(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let mut at = from;
    while text.get(at).is_some_and(|byte| belongs(*byte)) {
        at = at.saturating_add(1);
    }
    steps::count(at.saturating_sub(from).saturating_add(1));
    at
}

pub(super) fn find(text: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let rest = text.get(from..)?;
    let found = memmem::find(rest, needle);
    steps::count(needle.len().saturating_add(found.unwrap_or(rest.len())));
    found.map(|at| from.saturating_add(at))
}

/// Whether these bytes stand somewhere in a text.
pub fn contains(text: &[u8], words: &[u8]) -> bool {
    memmem::find(text, words).is_some()
}

const WORD: u8 = 1;
const OPERATOR: u8 = 2;
const SPACE: u8 = 4;

/// To which sorts each byte belongs.
static SORTS: [u8; 256] = {
    let mut sorts = [0; 256];
    let mut byte: u8 = 0;
    loop {
        #[expect(clippy::as_conversions, clippy::indexing_slicing, reason = "the compiler runs it")]
        let sort = &mut sorts[byte as usize];
        *sort = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'$' | 0x80.. => WORD,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            // Vertical tab is white space from PostgreSQL 16 on. Before, it is a syntax error that sinks the
            // whole text, so reading it as white space for every version hides nothing.
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            _ => 0,
        };
        match byte.checked_add(1) {
            Some(next) => byte = next,
            None => break,
        }
    }
    sorts
};

#[inline]
fn is_of(byte: u8, sort: u8) -> bool {
    SORTS.get(usize::from(byte)).is_some_and(|sorts| sorts & sort != 0)
}

#[inline]
pub(super) fn is_word_byte(byte: u8) -> bool {
    is_of(byte, WORD)
}

#[inline]
pub(super) fn is_operator_byte(byte: u8) -> bool {
    is_of(byte, OPERATOR)
}

#[inline]
fn is_space(byte: u8) -> bool {
    is_of(byte, SPACE)
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// What `PostgreSQL`'s own scanner reads more than once. Wherever an operator or a block comment begins, it takes all
/// operator characters up to the next other byte and then puts back what is too much (`operator` and `xcstart` in
/// scan.l), so a long run of them costs it the square of its length, in which it cannot be interrupted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rereads {
    /// Where the run of operator characters ends that was met last.
    run_end: usize,
    /// Bytes put back so far.
    pub(super) bytes: usize,
}

// === impl Rereads ===

impl Rereads {
    /// An operator or the opening of a comment begins here and is kept up to there. Each run is read once.
    #[inline]
    pub(super) fn noted(self, text: &[u8], begins: usize, kept: usize) -> Self {
        let is_known = begins < self.run_end;
        let run_end = if is_known { self.run_end } else { run(text, begins, is_operator_byte) };
        Self { run_end, bytes: self.bytes.saturating_add(run_end.saturating_sub(kept)) }
    }
}

/// The first byte from here that is no white space.
#[inline]
pub(super) fn skip_spaces(text: &[u8], from: usize) -> usize {
    run(text, from, is_space)
}

/// The first byte from here that is neither white space nor comment; or where an endless comment starts.
pub(super) fn skip_comments(text: &[u8], from: usize, before: Rereads) -> (Result<usize, usize>, Rereads) {
    let (mut at, mut rereads) = (from, before);
    loop {
        match (byte_at(text, at), byte_at(text, at.saturating_add(1))) {
            (Some(byte), _) if is_space(byte) => at = run(text, at, is_space),
            (Some(b'-'), Some(b'-')) => at = run(text, at, |byte| !is_newline(byte)),
            (Some(b'/'), Some(b'*')) => match end_of_comment(text, at, &mut rereads) {
                Some(end) => at = end,
                None => return (Err(at), rereads),
            },
            _ => return (Ok(at), rereads),
        }
    }
}

/// The end of the block comment that starts here; they nest.
fn end_of_comment(text: &[u8], from: usize, rereads: &mut Rereads) -> Option<usize> {
    let mut at = from;
    let mut depth: usize = 0;
    loop {
        steps::count(1);
        let next = at.saturating_add(2);
        match (byte_at(text, at)?, byte_at(text, at.saturating_add(1))) {
            (b'/', Some(b'*')) => {
                *rereads = rereads.noted(text, at, next);
                depth = depth.saturating_add(1);
                at = next;
            }
            (b'*', Some(b'/')) => {
                depth = depth.saturating_sub(1);
                at = next;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at = at.saturating_add(1),
        }
    }
}

/// The end of a quoted text, from just inside its first quote.
pub(super) fn end_of_literal(text: &[u8], inside: usize, kind: TokenKind) -> Option<usize> {
    let mut at = inside;
    loop {
        let end = match kind {
            TokenKind::EscapeText => end_of_escape_piece(text, at),
            _ => end_of_piece(text, at, b'\''),
        }?;
        match continuation(text, end) {
            Some(inside) => at = inside,
            None => return Some(end),
        }
    }
}

/// The end of one pair of quotes, in which a doubled quote stands for itself.
pub(super) fn end_of_piece(text: &[u8], inside: usize, quote: u8) -> Option<usize> {
    let mut at = inside;
    loop {
        let end = run(text, at, |byte| byte != quote).saturating_add(1);
        byte_at(text, end.saturating_sub(1))?;
        if byte_at(text, end) != Some(quote) {
            return Some(end);
        }
        at = end.saturating_add(1);
    }
}

fn end_of_escape_piece(text: &[u8], inside: usize) -> Option<usize> {
    let mut at = inside;
    loop {
        let here = run(text, at, |byte| byte != b'\'' && byte != b'\\');
        let next = here.saturating_add(1);
        at = match (byte_at(text, here)?, byte_at(text, next)) {
            (b'\\', _) | (b'\'', Some(b'\'')) => next.saturating_add(1),
            _ => return Some(next),
        };
    }
}

/// A literal goes on behind white space with a newline in it, and `--` comments count as such space: the place
/// just inside the next piece's quote, or nothing (`quotecontinue` in scan.l).
pub(super) fn continuation(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    let mut newline = false;
    loop {
        steps::count(1);
        let byte = byte_at(text, at)?;
        let next = at.saturating_add(1);
        at = match byte {
            b'\'' if newline => return Some(next),
            b'-' if byte_at(text, next) == Some(b'-') => {
                let end = run(text, at, |byte| !is_newline(byte));
                byte_at(text, end)?;
                end
            }
            _ if is_space(byte) => next,
            _ => return None,
        };
        newline = newline || is_newline(byte);
    }
}

/// The end of the operator that starts here, and of the signs that it loses: a comment ends an operator, and so does a
/// trailing sign, unless the operator has a character that SQL's own have not.
pub(super) fn end_of_operator(text: &[u8], from: usize) -> (usize, usize) {
    // Behind the last byte that stays, and whether signs stay.
    let (mut at, mut kept, mut keeps_signs) = (from, from, false);
    while let Some(byte) = byte_at(text, at).filter(|byte| is_operator_byte(*byte)) {
        let next = at.saturating_add(1);
        if matches!((byte, byte_at(text, next)), (b'-', Some(b'-')) | (b'/', Some(b'*'))) {
            break;
        }
        keeps_signs = keeps_signs || b"~!@#^&|`?%".contains(&byte);
        if keeps_signs || !matches!(byte, b'+' | b'-') {
            kept = next;
        }
        at = next;
    }
    steps::count(at.saturating_sub(from));
    (kept.max(from.saturating_add(1)), at)
}

pub(super) fn end_of_number(text: &[u8], from: usize) -> usize {
    let digits = |from| run(text, from, |byte| byte.is_ascii_digit());
    let mut end = digits(from);
    // `1..2` is the number 1 and a range.
    if byte_at(text, end) == Some(b'.') && byte_at(text, end.saturating_add(1)) != Some(b'.') {
        end = digits(end.saturating_add(1));
    }
    if matches!(byte_at(text, end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(byte_at(text, end.saturating_add(1)), Some(b'+' | b'-')));
        let from = end.saturating_add(1).saturating_add(sign);
        let after = digits(from);
        // Without digits the `e` is not the number's: `1e'...'` is a number and an escape string.
        end = if after > from { after } else { end };
    }
    end
}

/// The end of the opening `$tag$`, if one stands here.
pub(super) fn end_of_tag(text: &[u8], from: usize) -> Option<usize> {
    let name = from.saturating_add(1);
    if byte_at(text, name).is_some_and(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let end = run(text, name, |byte| is_word_byte(byte) && byte != b'$');
    (byte_at(text, end) == Some(b'$')).then(|| end.saturating_add(1))
}
