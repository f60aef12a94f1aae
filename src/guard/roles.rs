//! Which role a SET or `set_config` names, and whether the user may have it (`user.roles`). Only forms whose value is in
//! plain sight, or bound as the parameter of one SELECT; everything else stays refused.

use super::argument::{Argument, argument};
use super::rule::{self, echo, refusal};
use super::setting::plain_literal;
use super::{Refusal, Rules};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;

/// The setting.
pub const ROLE: &str = "role";
/// What the setting says when the role is the one of the login.
pub const NO_ROLE: &str = "none";

/// The role that a statement names.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// The one of the login.
    Login,
    /// The one of this name.
    Is(Vec<u8>),
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
        let named = match argument(lexer) {
            Argument::Null | Argument::Bound(_) => return Ok(()),
            Argument::Literal(name) => of(name),
            Argument::Opaque => Named::Opaque,
        };
        self.check_named("set_config of", &named)
    }

    /// The value that is bound for a role; none is NULL, the default.
    pub fn check_bound_role(&self, value: Option<&[u8]>) -> Result<(), Refusal> {
        let named = value.map_or(Named::Login, |value| of(value.to_vec()));
        self.check_named("set_config of", &named)
    }

    fn check_named(&self, verb: &str, named: &Named) -> Result<(), Refusal> {
        let what = match named {
            Named::Login => return Ok(()),
            Named::Is(name) if std::str::from_utf8(name).is_ok_and(|name| self.allows_role(name)) => {
                return Ok(());
            }
            Named::Is(name) => format!("{verb} role to \"{}\"", echo(name)),
            Named::Opaque => format!("{verb} role to a value that is no plain name"),
        };
        Err(refusal(rule::ROLE_CHANGE, &what))
    }
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

fn of(name: Vec<u8>) -> Named {
    if name == NO_ROLE.as_bytes() { Named::Login } else { Named::Is(name) }
}

#[cfg(test)]
mod tests;
