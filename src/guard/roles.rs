//! Which role a SET or `set_config` names, and whether the user may have it (`user.roles`). Only forms whose value is in
//! plain sight, or bound as the parameter of one SELECT; everything else stays refused.

use super::rule::{self, echo, refusal};
use super::setting::{Setting, plain_literal};
use super::{Refusal, Rules};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;

/// The setting.
pub const ROLE: &str = "role";
/// What the setting says when the role is the one of the login.
pub const NO_ROLE: &str = "none";

/// The most calls of one text that take the role from a parameter.
pub(super) const MAX_BOUND: usize = 16;

/// The role that a statement names.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// The one of the login.
    Login,
    /// The one of this name.
    Is(Vec<u8>),
    /// The one that the parameter of this number names, a text.
    Bound(u16),
    /// It cannot be told from the text.
    Opaque,
}

// === impl Rules ===

impl Rules {
    /// The same with roles that clients may set. Where nothing is inspected, nothing limits them either.
    #[must_use]
    pub fn with_roles(mut self, roles: &[String]) -> Self {
        if self.level != crate::directory::GuardLevel::Off {
            self.roles = roles.into();
        }
        self
    }

    /// Whether clients may set any role; then it is carried from server to server.
    pub fn has_roles(&self) -> bool {
        !self.roles.is_empty()
    }

    /// Whether clients may set this role.
    pub fn allows_role(&self, role: &str) -> bool {
        self.roles.iter().any(|allowed| allowed == role)
    }

    /// SET of the role; the lexer is behind the setting's name.
    pub(super) fn check_set_role(&self, lexer: Lexer<'_>) -> Result<(), Refusal> {
        self.check_named("SET", &assigned(lexer))
    }

    /// `set_config` of the role; the lexer is behind the name and its comma.
    pub(super) fn check_set_config_role(&self, lexer: Lexer<'_>) -> Result<(), Refusal> {
        self.check_named("set_config of", &argument(lexer))
    }

    /// The value that is bound for a role; none is NULL, the default.
    pub fn check_bound_role(&self, value: Option<&[u8]>) -> Result<(), Refusal> {
        let named = value.map_or(Named::Login, |value| of(value.to_vec()));
        self.check_named("set_config of", &named)
    }

    fn check_named(&self, verb: &str, named: &Named) -> Result<(), Refusal> {
        let what = match named {
            Named::Login | Named::Bound(_) => return Ok(()),
            Named::Is(name) if std::str::from_utf8(name).is_ok_and(|name| self.allows_role(name)) => {
                return Ok(());
            }
            Named::Is(name) => format!("{verb} role to \"{}\"", echo(name)),
            Named::Opaque => format!("{verb} role to a value that is no plain name"),
        };
        Err(refusal(rule::ROLE_CHANGE, &what))
    }
}

/// The parameter that a call of `set_config` binds the role to; the lexer is behind the function's name.
pub(super) fn bound_role(mut lexer: Lexer<'_>) -> Option<u16> {
    lexer.next().filter(|token| token.kind == TokenKind::Open)?;
    let name = plain_literal(&lexer.next()?)?;
    let is_role = Setting::named(&name).is(ROLE);
    lexer.next().filter(|token| is_role && token.kind == TokenKind::Comma)?;
    if let Named::Bound(number) = argument(lexer) { Some(number) } else { None }
}

/// Whether every parameter of the text that is a role is nothing else: its type would come from there, and a type may
/// make another text of it.
pub(super) fn binds_roles_only(text: &[u8]) -> bool {
    let (mut lexer, mut roles, mut all) = (Lexer::new(text), Vec::new(), Vec::new());
    while let Some(token) = lexer.next() {
        match token.kind {
            TokenKind::Parameter => all.push(parameter(&token)),
            TokenKind::Word if Keyword::of(token.bytes) == Keyword::SetConfig => {
                roles.extend(bound_role(lexer.clone()));
            }
            TokenKind::QuotedWord if Keyword::of_name(&content(&token)) == Keyword::SetConfig => {
                roles.extend(bound_role(lexer.clone()));
            }
            _ => {}
        }
        if roles.len() > MAX_BOUND {
            return false;
        }
    }
    let uses = |number| all.iter().filter(|used| **used == Some(number)).count();
    roles.iter().all(|number| uses(*number) == roles.iter().filter(|role| *role == number).count())
}

/// `= value` or `TO value`, or the value alone, up to the statement's end.
fn assigned(mut lexer: Lexer<'_>) -> Named {
    let mut value = lexer.next();
    let is_to = |token: &Token<'_>| token.kind == TokenKind::Word && Keyword::of(token.bytes) == Keyword::To;
    if value.as_ref().is_some_and(|token| token.bytes == b"=" || is_to(token)) {
        value = lexer.next();
    }
    let is_alone = lexer.next().is_none_or(|token| token.kind == TokenKind::Semicolon);
    let name = value.filter(|_| is_alone).and_then(|token| match token.kind {
        TokenKind::Word if token.bytes.is_ascii() => Some(folded(token.bytes).into_owned()),
        TokenKind::QuotedWord => Some(content(&token)),
        _ => plain_literal(&token),
    });
    name.map_or(Named::Opaque, of)
}

/// The second argument of `set_config`, up to its comma.
fn argument(mut lexer: Lexer<'_>) -> Named {
    let Some(token) = lexer.next() else { return Named::Opaque };
    let named = match token.kind {
        TokenKind::Parameter => parameter(&token).map_or(Named::Opaque, Named::Bound),
        TokenKind::Word if token.bytes.eq_ignore_ascii_case(b"null") => Named::Login,
        _ => plain_literal(&token).map_or(Named::Opaque, of),
    };
    if ends_argument(lexer) { named } else { Named::Opaque }
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

fn of(name: Vec<u8>) -> Named {
    if name == NO_ROLE.as_bytes() { Named::Login } else { Named::Is(name) }
}

fn parameter(token: &Token<'_>) -> Option<u16> {
    let digits = token.bytes.get(1..).and_then(|digits| std::str::from_utf8(digits).ok())?;
    digits.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests;
