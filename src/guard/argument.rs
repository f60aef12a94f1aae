//! The values that calls of `set_config` give to settings whose values the guard judges: literals are judged where they
//! stand, parameters of one SELECT when they are bound, and everything else is refused.

use super::ROLE;
use super::setting::{Setting, plain_literal};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};

/// The most calls of one text that take such a value from a parameter.
pub(super) const MAX_BOUND: usize = 16;

/// The value that a call gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// NULL, which is the default.
    Null,
    /// A literal without escapes.
    Literal(Vec<u8>),
    /// The parameter of this number, a text.
    Bound(u16),
    /// It cannot be told from the text.
    Opaque,
}

/// A setting whose value is judged and may be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedSetting {
    /// `role`
    Role,
    /// `search_path`
    SearchPath,
}

/// A parameter that is the value of such a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundValue {
    /// Which setting.
    pub setting: JudgedSetting,
    /// The parameter's number.
    pub number: u16,
}

/// What a Bind gives to a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given<'a> {
    /// NULL, which is the default of a setting.
    Null,
    /// A text.
    Text(&'a [u8]),
    /// Nothing, or a value that may become another text.
    Unknown,
}

/// The second argument of `set_config`, up to its comma.
pub(super) fn argument(mut lexer: Lexer<'_>) -> Argument {
    let Some(token) = lexer.next() else { return Argument::Opaque };
    let argument = match token.kind {
        TokenKind::Parameter => parameter(&token).map_or(Argument::Opaque, Argument::Bound),
        TokenKind::Word if token.bytes.eq_ignore_ascii_case(b"null") => Argument::Null,
        _ => plain_literal(&token).map_or(Argument::Opaque, Argument::Literal),
    };
    if ends_argument(lexer) { argument } else { Argument::Opaque }
}

/// The parameter to which a call of `set_config` binds such a value; the lexer is behind the function's name.
pub(super) fn bound_value(mut lexer: Lexer<'_>) -> Option<BoundValue> {
    lexer.next().filter(|token| token.kind == TokenKind::Open)?;
    let name = Setting::named(&plain_literal(&lexer.next()?)?);
    let setting = match () {
        () if name.is(ROLE) => JudgedSetting::Role,
        () if name.is_search_path() => JudgedSetting::SearchPath,
        () => return None,
    };
    lexer.next().filter(|token| token.kind == TokenKind::Comma)?;
    if let Argument::Bound(number) = argument(lexer) { Some(BoundValue { setting, number }) } else { None }
}

/// Whether every parameter of the text that is such a value is nothing else: its type would come from there, and a type
/// may make another text of it.
pub(super) fn binds_values_only(text: &[u8]) -> bool {
    let (mut lexer, mut bound, mut all) = (Lexer::new(text), Vec::new(), Vec::new());
    while let Some(token) = lexer.next() {
        match token.kind {
            TokenKind::Parameter => all.push(parameter(&token)),
            TokenKind::Word if Keyword::of(token.bytes) == Keyword::SetConfig => {
                bound.extend(bound_value(lexer.clone()).map(|value| value.number));
            }
            TokenKind::QuotedWord if Keyword::of_name(&content(&token)) == Keyword::SetConfig => {
                bound.extend(bound_value(lexer.clone()).map(|value| value.number));
            }
            _ => {}
        }
        if bound.len() > MAX_BOUND {
            return false;
        }
    }
    let uses = |number| all.iter().filter(|used| **used == Some(number)).count();
    bound.iter().all(|number| uses(*number) == bound.iter().filter(|other| *other == number).count())
}

/// A comma, or a cast that leaves a text as it is and a comma.
fn ends_argument(mut lexer: Lexer<'_>) -> bool {
    let mut next = lexer.next();
    if next.as_ref().is_some_and(|token| token.bytes == b":") {
        let is_cast = lexer.next().is_some_and(|token| token.bytes == b":");
        let is_text = lexer.next().is_some_and(|token| {
            token.kind == TokenKind::Word
                && [&b"text"[..], b"varchar"].iter().any(|name| token.bytes.eq_ignore_ascii_case(name))
        });
        next = lexer.next().filter(|_| is_cast && is_text);
    }
    next.is_some_and(|token| token.kind == TokenKind::Comma)
}

fn parameter(token: &Token<'_>) -> Option<u16> {
    let digits = token.bytes.get(1..).and_then(|digits| std::str::from_utf8(digits).ok())?;
    digits.parse().ok().filter(|number| *number > 0)
}
