//! Refuses texts that would change the tenant context or blind this very reading, by the direct routes: SET and
//! RESET in any spelling, `set_config`, names that hide what they set, encodings and string syntax that would make
//! `PostgreSQL` read another text than the guard did. A second line of defence, not the boundary: what a view,
//! function or trigger of the database does cannot be seen in a text. Pure; the entry is [`inspect`].

pub mod setting;

use crate::sql::Survey;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::statement::{Place, Surveyor};
use setting::{Setting, Value};

/// Rules that can be granted to a user (`allow`), because what they close does not reach the context itself.
pub const GRANTABLE: &[&str] = &[
    "advisory-lock",
    "explain",
    "large-object",
    "lock-table",
    "notify",
    "opaque-code",
    "other-session",
    "prepared-transaction",
    "role-setting",
    "server-file",
    "sql-in-string",
    "statement-kind",
    "truncate",
];

/// What the guard protects.
#[derive(Debug, Clone)]
pub struct Rules {
    setting: String,
}

/// What the guard says about a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on; the survey came with the same pass.
    Pass(Survey),
    /// It may not.
    Refuse(Refusal),
}

/// Why a text may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule's short name.
    pub rule: &'static str,
    /// The rule and what broke it, with at most [`MAX_ECHO_BYTES`] of the client's own text.
    pub detail: String,
    /// What to do instead.
    pub hint: &'static str,
}

/// How much of a client's text a refusal repeats.
pub const MAX_ECHO_BYTES: usize = 64;

/// Reads a text once; total on any bytes.
///
/// The code of DO blocks and of functions written as a literal is read as well, one level deep and as far as it
/// looks like SQL or PL/pgSQL: help against accidents, no boundary, since code can compute what it executes.
pub fn inspect(text: &[u8], rules: &Rules) -> Verdict {
    let mut surveyor = Surveyor::default();
    let mut lexer = Lexer::new(text);
    while let Some(token) = lexer.next() {
        let (keyword, place) = surveyor.feed(&token);
        let checked = match keyword {
            Keyword::Other => rules.check_token(&token, &surveyor),
            Keyword::Set | Keyword::Reset if place == Place::Start || surveyor.takes_set_clause() => {
                rules.check_set(keyword, lexer.clone())
            }
            _ => rules.check_anywhere(keyword, &lexer),
        };
        if let Err(refusal) = checked {
            return Verdict::Refuse(refusal);
        }
    }
    Verdict::Pass(surveyor.finish())
}

// === impl Rules ===

impl Rules {
    /// Protects the setting that carries the tenant, beside those that are always protected.
    pub fn new(setting: &str) -> Self {
        Self { setting: setting.to_ascii_lowercase() }
    }

    fn check_token(&self, token: &Token<'_>, surveyor: &Surveyor) -> Result<(), Refusal> {
        match token.kind {
            TokenKind::UnicodeWord => Err(unicode_escape()),
            TokenKind::Text | TokenKind::EscapeText | TokenKind::DollarText if surveyor.holds_code() => {
                self.check_code(&content(token))
            }
            _ => Ok(()),
        }
    }

    /// The code of a DO block or function. A command starts at its beginning, behind `;` and behind the words
    /// of PL/pgSQL that open a block.
    fn check_code(&self, code: &[u8]) -> Result<(), Refusal> {
        let mut lexer = Lexer::new(code);
        let mut place = Place::Start;
        while let Some(token) = lexer.next() {
            let keyword = match token.kind {
                TokenKind::Word => Keyword::of(token.bytes),
                TokenKind::QuotedWord => Keyword::of_name(&content(&token)),
                TokenKind::UnicodeWord => return Err(unicode_escape()),
                _ => Keyword::Other,
            };
            match keyword {
                Keyword::Set | Keyword::Reset if place == Place::Start => {
                    self.check_set(keyword, lexer.clone())?;
                }
                _ => self.check_anywhere(keyword, &lexer)?,
            }
            place = match (token.kind, keyword) {
                (TokenKind::Semicolon, _)
                | (_, Keyword::Begin | Keyword::Then | Keyword::Else | Keyword::Loop) => Place::Start,
                (TokenKind::Operator, _) if token.bytes == b">>" => Place::Start,
                _ => Place::Within,
            };
        }
        Ok(())
    }

    /// What is judged wherever it stands. The lexer is behind the keyword.
    fn check_anywhere(&self, keyword: Keyword, lexer: &Lexer<'_>) -> Result<(), Refusal> {
        match keyword {
            Keyword::SetConfig => self.check_set_config(lexer.clone()),
            // PostgreSQL has a rule on this view that calls set_config.
            Keyword::Update if setting::is_settings_view(lexer) => Err(opaque("UPDATE pg_settings")),
            _ => Ok(()),
        }
    }

    fn check_set(&self, verb: Keyword, mut lexer: Lexer<'_>) -> Result<(), Refusal> {
        let Some(setting) = Setting::read(&mut lexer) else { return Ok(()) };
        let verb_name = if verb == Keyword::Reset { "RESET" } else { "SET" };
        self.check_name(verb_name, &setting)?;
        if verb == Keyword::Set && setting.is_read_by_guard() {
            let value =
                if setting.is("names") { Value::read(&mut lexer) } else { Value::read_assigned(&mut lexer) };
            return check_value(&setting, &value);
        }
        Ok(())
    }

    fn check_set_config(&self, mut lexer: Lexer<'_>) -> Result<(), Refusal> {
        let open = lexer.next().is_some_and(|token| token.kind == TokenKind::Open);
        let literal = lexer.next().and_then(|token| setting::plain_literal(&token));
        let ends = lexer.next().is_some_and(|token| token.kind == TokenKind::Comma);
        let (true, Some(name), true) = (open, literal, ends) else {
            return Err(opaque("set_config with a name that is not a plain literal"));
        };
        let setting = Setting::named(&name);
        self.check_name("set_config of", &setting)?;
        if setting.is_read_by_guard() {
            let value = lexer.next().and_then(|token| setting::plain_literal(&token));
            let ends = lexer.next().is_some_and(|token| token.kind == TokenKind::Comma);
            let value = value.filter(|_| ends).map_or(Value::Opaque, Value::Given);
            return check_value(&setting, &value);
        }
        Ok(())
    }

    fn check_name(&self, verb: &str, setting: &Setting) -> Result<(), Refusal> {
        if setting.is("role") || setting.is("session_authorization") {
            return Err(refusal(
                "role-change",
                &format!("{verb} {}", setting.echo()),
                "The proxy chooses the role; log in as another user instead.",
            ));
        }
        if setting.is(&self.setting) || setting.starts_with("pgtenant.") {
            return Err(refusal(
                "context-change",
                &format!("{verb} {}", setting.echo()),
                "The proxy sets the tenant by the login; leave the setting alone.",
            ));
        }
        Ok(())
    }
}

fn check_value(setting: &Setting, value: &Value) -> Result<(), Refusal> {
    if setting.is("standard_conforming_strings") {
        let hint = "Write E'...' where a literal needs backslash escapes.";
        let refused = || refusal("string-syntax", "standard_conforming_strings other than on", hint);
        return value.is_on().then_some(()).ok_or_else(refused);
    }
    let hint = "Use UTF8, or another encoding whose multibyte characters hold no ASCII byte.";
    let refused = || refusal("client-encoding", "this client_encoding", hint);
    value.is_safe_encoding().then_some(()).ok_or_else(refused)
}

fn unicode_escape() -> Refusal {
    refusal("unicode-escape", "an identifier written as U&\"...\"", "Write the identifier itself.")
}

fn opaque(what: &str) -> Refusal {
    refusal(
        "opaque-name",
        what,
        "Name the setting as a plain literal: SELECT set_config('work_mem', $1, true).",
    )
}

fn refusal(rule: &'static str, what: &str, hint: &'static str) -> Refusal {
    Refusal { rule, detail: format!("rule \"{rule}\": {what} is not allowed"), hint }
}

#[cfg(test)]
mod tests;
