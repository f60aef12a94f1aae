//! Splits a text into tokens where `PostgreSQL`'s own scanner (`src/backend/parser/scan.l`) splits it, with
//! `standard_conforming_strings = on`. Total on any bytes and free of allocation; a byte of 0x80 or more is an
//! identifier's, as in scan.l, so a text need not be valid UTF-8. Encodings that hide an ASCII byte inside a
//! character (SJIS, BIG5, GBK, ...) would be misread: the guard keeps them out.

use super::scan::{
    Rereads, byte_at, continuation, end_of_literal, end_of_number, end_of_operator, end_of_piece, end_of_tag,
    find, is_operator_byte, is_word_byte, run, skip_comments, skip_spaces,
};
use super::steps;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"..."`
    QuotedWord,
    /// `U&"..."`: an identifier whose spelling hides its name.
    UnicodeWord,
    /// `'...'` or `N'...'`, continuations over a newline included.
    Text,
    /// `E'...'`, continuations included.
    EscapeText,
    /// `U&'...'`, continuations included.
    UnicodeText,
    /// `B'...'` or `X'...'`, continuations included.
    BitText,
    /// `$tag$...$tag$`
    DollarText,
    /// A number. Its trailing junk (`1abc`, and the digits of `0x1f` or `1_000`) is a `Word` of its own, as
    /// before `PostgreSQL` 15; later versions refuse it or take it into the number, and nothing hangs on it.
    Number,
    /// `$1`
    Parameter,
    /// A run of operator characters.
    Operator,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `;`
    Semicolon,
    /// `,`
    Comma,
    /// `.`
    Dot,
    /// `[`, `]`, `:`
    Punctuation,
    /// A byte that `PostgreSQL`'s grammar has no use for; the server answers with a syntax error.
    Unknown,
    /// A quote, dollar quote or comment without an end. It reaches to the end of the text and is the last token.
    Unterminated,
}

/// A piece of the text that is neither white space nor comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// Where it starts in the text, in bytes.
    pub start: usize,
    /// Its spelling, quotes and prefixes included.
    pub bytes: &'a [u8],
}

impl Token<'_> {
    /// Where it lies in the text, in bytes.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start.saturating_add(self.bytes.len())
    }
}

/// The tokens of a text, one after the other. Clone it to look ahead.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    position: usize,
    /// Up to here each byte is a sign that the operator in front of it lost, and so an operator by itself.
    signs_end: usize,
    rereads: Rereads,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of the text.
    pub fn new(text: &'a [u8]) -> Self {
        Self::at(text, 0)
    }

    /// Starts where an earlier token of the text ended.
    pub(crate) fn at(text: &'a [u8], position: usize) -> Self {
        Self { text, position, signs_end: 0, rereads: Rereads::default() }
    }

    /// Where the last token ended, in bytes.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.text.get(self.position..).unwrap_or_default()
    }

    /// How many bytes of the text so far `PostgreSQL`'s scanner reads again: it takes a run of operator characters
    /// as a whole wherever an operator or a comment begins in it.
    #[inline]
    pub(crate) fn reread_bytes(&self) -> usize {
        self.rereads.bytes
    }

    #[inline]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.position.saturating_add(ahead)).copied()
    }

    #[inline]
    fn token(&mut self, kind: TokenKind, end: usize) -> Token<'a> {
        let start = self.position;
        let end = end.min(self.text.len());
        self.position = end;
        Token { kind, start, bytes: self.text.get(start..end).unwrap_or_default() }
    }

    /// A token of so many bytes from here.
    #[inline]
    fn short(&mut self, kind: TokenKind, length: usize) -> Token<'a> {
        self.token(kind, self.position.saturating_add(length))
    }

    /// A token that ends where a search says, or never does.
    #[inline]
    fn quoted(&mut self, kind: TokenKind, end: Option<usize>) -> Token<'a> {
        match end {
            Some(end) => self.token(kind, end),
            None => self.token(TokenKind::Unterminated, self.text.len()),
        }
    }

    /// A quoted text whose quote stands so many bytes from here.
    #[inline]
    fn literal(&mut self, kind: TokenKind, quote: usize) -> Token<'a> {
        let inside = self.position.saturating_add(quote).saturating_add(1);
        let end = end_of_literal(self.text, inside, kind);
        self.quoted(kind, end)
    }

    /// A quoted identifier whose quote stands so many bytes from here.
    #[inline]
    fn quoted_word(&mut self, kind: TokenKind, quote: usize) -> Token<'a> {
        let inside = self.position.saturating_add(quote).saturating_add(1);
        let end = end_of_piece(self.text, inside, b'"');
        self.quoted(kind, end)
    }

    #[inline]
    fn word_or_prefixed(&mut self, first: u8) -> Token<'a> {
        match (first, self.peek(1)) {
            (b'e' | b'E', Some(b'\'')) => self.literal(TokenKind::EscapeText, 1),
            (b'n' | b'N', Some(b'\'')) => self.literal(TokenKind::Text, 1),
            (b'b' | b'B' | b'x' | b'X', Some(b'\'')) => self.literal(TokenKind::BitText, 1),
            (b'u' | b'U', Some(b'&')) => match self.peek(2) {
                Some(b'\'') => self.literal(TokenKind::UnicodeText, 2),
                Some(b'"') => self.quoted_word(TokenKind::UnicodeWord, 2),
                _ => self.short(TokenKind::Word, 1),
            },
            _ => self.token(TokenKind::Word, run(self.text, self.position, is_word_byte)),
        }
    }

    #[inline]
    fn dollar(&mut self) -> Token<'a> {
        let (kind, end) = dollar(self.text, self.position);
        self.quoted(kind, end)
    }

    #[inline]
    fn operator(&mut self) -> Token<'a> {
        let begins = self.position;
        let next = begins.saturating_add(1);
        // Most operators are one byte between others.
        if !self.peek(1).is_some_and(is_operator_byte) {
            return self.token(TokenKind::Operator, next);
        }
        let end = if begins < self.signs_end {
            next
        } else {
            let (end, signs_end) = end_of_operator(self.text, begins);
            self.signs_end = signs_end;
            end
        };
        self.rereads = self.rereads.noted(self.text, begins, end);
        self.token(TokenKind::Operator, end)
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    #[inline]
    fn next(&mut self) -> Option<Token<'a>> {
        self.position = skip_spaces(self.text, self.position);
        if matches!(self.peek(0), Some(b'-' | b'/')) {
            let (behind, rereads) = skip_comments(self.text, self.position, self.rereads);
            self.rereads = rereads;
            match behind {
                Ok(next) => self.position = next,
                Err(comment) => {
                    self.position = comment;
                    return Some(self.token(TokenKind::Unterminated, self.text.len()));
                }
            }
        }
        let first = self.peek(0)?;
        Some(match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => self.word_or_prefixed(first),
            b'\'' => self.literal(TokenKind::Text, 0),
            b'"' => self.quoted_word(TokenKind::QuotedWord, 0),
            b'0'..=b'9' => self.token(TokenKind::Number, end_of_number(self.text, self.position)),
            b'.' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => {
                self.token(TokenKind::Number, end_of_number(self.text, self.position))
            }
            b'$' => self.dollar(),
            b'(' => self.short(TokenKind::Open, 1),
            b')' => self.short(TokenKind::Close, 1),
            b';' => self.short(TokenKind::Semicolon, 1),
            b',' => self.short(TokenKind::Comma, 1),
            b'.' => self.short(TokenKind::Dot, 1),
            b'[' | b']' | b':' => self.short(TokenKind::Punctuation, 1),
            _ if is_operator_byte(first) => self.operator(),
            _ => self.short(TokenKind::Unknown, 1),
        })
    }
}

/// A parameter, a dollar quote or a byte of no use: what it is, and its end if it has one.
fn dollar(text: &[u8], from: usize) -> (TokenKind, Option<usize>) {
    let next = from.saturating_add(1);
    if byte_at(text, next).is_some_and(|byte| byte.is_ascii_digit()) {
        return (TokenKind::Parameter, Some(run(text, next, |byte| byte.is_ascii_digit())));
    }
    let Some(inside) = end_of_tag(text, from) else { return (TokenKind::Unknown, Some(next)) };
    let tag = text.get(from..inside).unwrap_or_default();
    let end = find(text, inside, tag).map(|at| at.saturating_add(tag.len()));
    (TokenKind::DollarText, end)
}

/// What a plain, escape-free literal or dollar quote says: quotes, tags and continuations taken away. An
/// `E'...'` loses its backslashes only, so its escapes are not computed; other tokens say nothing.
pub fn content(token: &Token<'_>) -> Vec<u8> {
    steps::count(token.bytes.len());
    match token.kind {
        TokenKind::Text | TokenKind::EscapeText => {
            let prefix = usize::from(token.bytes.first() != Some(&b'\''));
            text_content(token, prefix.saturating_add(1))
        }
        TokenKind::QuotedWord => {
            let inner = token.bytes.get(1..token.bytes.len().saturating_sub(1)).unwrap_or_default();
            let mut quotes: usize = 0;
            let keep = |byte: &u8| {
                quotes = if *byte == b'"' { quotes.saturating_add(1) } else { quotes };
                *byte != b'"' || quotes % 2 == 1
            };
            inner.iter().copied().filter(keep).collect()
        }
        TokenKind::DollarText => {
            let tag = end_of_tag(token.bytes, 0).unwrap_or(0);
            token.bytes.get(tag..token.bytes.len().saturating_sub(tag)).unwrap_or_default().to_vec()
        }
        _ => Vec::new(),
    }
}

fn text_content(token: &Token<'_>, inside: usize) -> Vec<u8> {
    let mut content = Vec::new();
    let mut at = inside;
    while let Some(byte) = byte_at(token.bytes, at) {
        let next = at.saturating_add(1);
        at = match byte {
            b'\'' if byte_at(token.bytes, next) == Some(b'\'') => {
                content.push(b'\'');
                next.saturating_add(1)
            }
            b'\'' => match continuation(token.bytes, next) {
                Some(inside) => inside,
                None => break,
            },
            b'\\' if token.kind == TokenKind::EscapeText => {
                content.extend(byte_at(token.bytes, next));
                next.saturating_add(1)
            }
            _ => {
                content.push(byte);
                next
            }
        };
    }
    content
}

#[cfg(test)]
mod tests;
