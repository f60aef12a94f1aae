//! Refuses texts that would change the tenant context or blind this very reading, by the direct routes: SET and
//! RESET in any spelling, `set_config`, names that hide what they set, encodings and string syntax that would make
//! `PostgreSQL` read another text than the guard did. The strict level also refuses what reaches beyond the tenant's
//! rows and the own session, by kind of statement and by name. A second line of defence, not the boundary: what a
//! view, function or trigger of the database does cannot be seen in a text. Pure; the entry is [`inspect`].

mod names;
mod rule;
mod strict;

pub mod cache;

pub mod change;

pub mod footprint;

pub mod setting;

pub use cache::Verdicts;
pub use change::TenantChange;
pub use rule::{FIXED, GRANTABLE, Refusal};

use std::sync::Arc;

use crate::directory::GuardLevel;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::statement::{Place, Surveyor};
use crate::sql::words::folded;
use crate::sql::{Count, SessionState, Survey, survey};
use rule::refusal;
use setting::{Setting, Value};

/// What the guard protects, and from what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    setting: Arc<str>,
    level: GuardLevel,
    /// The rules that do not hold, as bits by their place in [`GRANTABLE`].
    granted: u32,
}

/// What the guard says about a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on; the survey came with the same pass.
    Pass(Survey),
    /// The whole of it is a change of the tenant, for the proxy to check and to carry out.
    Tenant(Survey, TenantChange),
    /// It may not go on.
    Refuse(Refusal),
}

/// How much of a client's text a refusal repeats.
pub const MAX_ECHO_BYTES: usize = 64;

/// Reads a text once; total on any bytes.
///
/// The code of DO blocks and of functions written as a literal is read as well, one level deep and as far as it
/// looks like SQL or PL/pgSQL: help against accidents, no boundary, since code can compute what it executes.
pub fn inspect(text: &[u8], rules: &Rules) -> Verdict {
    if rules.level == GuardLevel::Off {
        return rules.recognise(text);
    }
    let mut surveyor = Surveyor::default();
    let mut lexer = Lexer::new(text);
    let mut previous = lexer.clone();
    loop {
        let before = lexer.clone();
        // Looked at where it lies: to copy each token costs as much as to read it.
        let next = lexer.next();
        let Some(token) = &next else { break };
        let (keyword, place) = surveyor.feed(token);
        let step = Step { token, keyword, place, previous: &previous, lexer: &lexer };
        if let Err(refused) = rules.check(&step, &surveyor) {
            return rules.refuse(text, refused);
        }
        previous = before;
    }
    Verdict::Pass(surveyor.finish())
}

/// A token on its way through the guard.
struct Step<'a> {
    token: &'a Token<'a>,
    keyword: Keyword,
    place: Place,
    /// In front of the token before.
    previous: &'a Lexer<'a>,
    /// Behind the token.
    lexer: &'a Lexer<'a>,
}

// === impl Rules ===

impl Rules {
    /// Protects the setting that carries the tenant, beside those that are always protected, without the rules
    /// in `allow`, as far as they are [`GRANTABLE`].
    pub fn new(setting: &str, level: GuardLevel, allow: &[&'static str]) -> Self {
        let bits = GRANTABLE.iter().enumerate().filter(|(_, rule)| allow.contains(rule));
        let granted = bits.fold(0, |granted, (at, _)| granted | 1 << at);
        Self { setting: setting.to_ascii_lowercase().into(), level, granted }
    }

    /// The refusal of a change of the tenant that the user has no grant for.
    pub fn refuse_change(&self, change: &TenantChange) -> Refusal {
        let verb = match change.form {
            change::Form::Set => "SET",
            change::Form::Reset => "RESET",
            change::Form::SetConfig => "set_config of",
        };
        let setting = rule::echo(self.setting.as_bytes());
        refusal(rule::CONTEXT_CHANGE, &format!("{verb} {setting}"))
    }

    /// The guard that is off: a survey, and the change of tenant that is the proxy's own matter.
    fn recognise(&self, text: &[u8]) -> Verdict {
        let survey = survey(text);
        if survey.statements == Count::One
            && survey.session_state == SessionState::Maybe
            && let Some(change) = TenantChange::read(text, &self.setting)
        {
            return Verdict::Tenant(survey, change);
        }
        Verdict::Pass(survey)
    }

    fn refuse(&self, text: &[u8], refused: Refusal) -> Verdict {
        let change =
            (refused.rule == rule::CONTEXT_CHANGE).then(|| TenantChange::read(text, &self.setting)).flatten();
        match change {
            Some(change) => Verdict::Tenant(survey(text), change),
            None => Verdict::Refuse(refused),
        }
    }

    /// Tells rules apart well enough for a hash, not for more.
    fn fingerprint(&self) -> u32 {
        let level = match self.level {
            GuardLevel::Off => 0,
            GuardLevel::Context => 1,
            GuardLevel::Strict => 2,
        };
        self.granted << 2 | level
    }

    fn is_strict(&self) -> bool {
        self.level == GuardLevel::Strict
    }

    fn is_granted(&self, rule: &str) -> bool {
        let place = GRANTABLE.iter().position(|known| *known == rule);
        place.is_some_and(|at| self.granted & (1 << at) != 0)
    }

    /// Refuses by a rule, unless the user is granted it.
    fn object(&self, (rule, what): (&'static str, String)) -> Result<(), Refusal> {
        if self.is_granted(rule) { Ok(()) } else { Err(refusal(rule, &what)) }
    }

    #[inline]
    fn check(&self, step: &Step<'_>, surveyor: &Surveyor) -> Result<(), Refusal> {
        if self.is_strict() {
            self.check_strictly(step)?;
        }
        match step.keyword {
            Keyword::Other => self.check_token(step, surveyor),
            Keyword::Set | Keyword::Reset if step.place == Place::Start || surveyor.takes_set_clause() => {
                self.check_set(step.keyword, step.lexer.clone())
            }
            // An UPDATE of a view of that view is one of the view itself.
            Keyword::PgSettings if surveyor.creates() => {
                Err(refusal(rule::OPAQUE_NAME, "an object made of pg_settings"))
            }
            keyword => self.check_anywhere(keyword, step.lexer),
        }
    }

    #[inline]
    fn check_strictly(&self, step: &Step<'_>) -> Result<(), Refusal> {
        if step.place == Place::Start
            && let Err(objection) = strict::check_start(step.token, step.keyword, step.lexer)
        {
            self.object(objection)?;
        }
        match (step.token.kind, step.keyword) {
            (TokenKind::Unknown, _) => Err(refusal(rule::UNREADABLE, "a byte that SQL has no use for")),
            (TokenKind::Unterminated, _) => {
                Err(refusal(rule::UNREADABLE, "a quote or comment without an end"))
            }
            (_, Keyword::Into) => match strict::check_into(step.previous.clone().next(), step.lexer) {
                Ok(()) => Ok(()),
                Err(objection) => self.object(objection),
            },
            (_, Keyword::Other | Keyword::Lingering) => self.check_denied(step.token),
            _ => Ok(()),
        }
    }

    /// A name of those by which a statement reaches beyond its tenant.
    #[inline]
    fn check_denied(&self, token: &Token<'_>) -> Result<(), Refusal> {
        match denied(token) {
            Some((rule, name)) => self.object((rule, name.to_owned())),
            None => Ok(()),
        }
    }

    #[inline]
    fn check_token(&self, step: &Step<'_>, surveyor: &Surveyor) -> Result<(), Refusal> {
        match step.token.kind {
            TokenKind::Word | TokenKind::QuotedWord => check_own(step.token, step.lexer),
            TokenKind::UnicodeWord => Err(unicode_escape()),
            TokenKind::Text | TokenKind::EscapeText | TokenKind::DollarText if surveyor.holds_code() => {
                self.check_code(&content(step.token))
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
            if self.is_strict() {
                self.check_denied(&token)?;
            }
            match keyword {
                Keyword::Set | Keyword::Reset if place == Place::Start => {
                    self.check_set(keyword, lexer.clone())?;
                }
                Keyword::Other => check_own(&token, &lexer)?,
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
            Keyword::Update if setting::is_settings_view(lexer) => {
                Err(refusal(rule::OPAQUE_NAME, "UPDATE pg_settings"))
            }
            _ => Ok(()),
        }
    }

    fn check_set(&self, verb: Keyword, mut lexer: Lexer<'_>) -> Result<(), Refusal> {
        let Some(setting) = Setting::read(&mut lexer) else { return Ok(()) };
        let verb_name = if verb == Keyword::Reset { "RESET" } else { "SET" };
        if verb == Keyword::Reset && setting.is_of_role() {
            // Drivers send it; it leads back to the role that nothing else could have changed.
            return Ok(());
        }
        self.check_name(verb_name, &setting)?;
        if setting.is("search_path") && setting::names_own_schema(lexer.clone()) {
            return Err(own_objects());
        }
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
            return Err(refusal(rule::OPAQUE_NAME, "set_config with a name that is not a plain literal"));
        };
        let setting = Setting::named(&name);
        self.check_name("set_config of", &setting)?;
        if setting.is("search_path") && setting::names_own_schema(lexer.clone()) {
            return Err(own_objects());
        }
        if setting.is_read_by_guard() {
            let value = lexer.next().and_then(|token| setting::plain_literal(&token));
            let ends = lexer.next().is_some_and(|token| token.kind == TokenKind::Comma);
            let value = value.filter(|_| ends).map_or(Value::Opaque, Value::Given);
            return check_value(&setting, &value);
        }
        Ok(())
    }

    /// Whether a setting of this name, in lower case, is part of the context or of the role.
    pub fn protects(&self, name: &str) -> bool {
        let setting = Setting::named(name.as_bytes());
        setting.is_of_role() || self.is_of_context(&setting)
    }

    fn is_of_context(&self, setting: &Setting) -> bool {
        setting.is(&self.setting) || setting.starts_with("pgtenant.")
    }

    fn check_name(&self, verb: &str, setting: &Setting) -> Result<(), Refusal> {
        let rule = if setting.is_of_role() {
            rule::ROLE_CHANGE
        } else if self.is_of_context(setting) {
            rule::CONTEXT_CHANGE
        } else if setting.is("client_connection_check_interval") {
            rule::CONNECTION_CHECK
        } else {
            return Ok(());
        };
        Err(refusal(rule, &format!("{verb} {}", setting.echo())))
    }
}

fn check_value(setting: &Setting, value: &Value) -> Result<(), Refusal> {
    if setting.is("standard_conforming_strings") {
        let refused = || refusal(rule::STRING_SYNTAX, "standard_conforming_strings other than on");
        return value.is_on().then_some(()).ok_or_else(refused);
    }
    let refused = || refusal(rule::CLIENT_ENCODING, "this client_encoding");
    value.is_safe_encoding().then_some(()).ok_or_else(refused)
}

/// Refuses what is in the proxy's own schema or has a name of its own kind, but for the one function that a
/// client may call.
#[inline]
fn check_own(token: &Token<'_>, lexer: &Lexer<'_>) -> Result<(), Refusal> {
    match spelling(token) {
        [b'p' | b'P', b'g' | b'G', b't' | b'T', rest @ ..] if is_own(rest) => {
            check_own_use(rest, lexer.clone())
        }
        _ => Ok(()),
    }
}

fn is_own(rest: &[u8]) -> bool {
    let (name, behind) = rest.split_at_checked(5).unwrap_or((rest, b""));
    name.eq_ignore_ascii_case(b"enant") && matches!(behind, [] | [b'_', ..])
}

fn check_own_use(rest: &[u8], mut lexer: Lexer<'_>) -> Result<(), Refusal> {
    let dot = lexer.next().is_some_and(|token| token.kind == TokenKind::Dot);
    let function = lexer.next();
    let may = rest.len() == 5
        && dot
        && function.is_some_and(|token| spelling(&token).eq_ignore_ascii_case(b"current_tenant"));
    if may { Ok(()) } else { Err(own_objects()) }
}

/// An identifier without its quotes; a doubled quote inside stays, which no name that is looked for has.
#[inline]
fn spelling<'a>(token: &Token<'a>) -> &'a [u8] {
    match token.kind {
        TokenKind::Word => token.bytes,
        TokenKind::QuotedWord => token.bytes.get(1..token.bytes.len().saturating_sub(1)).unwrap_or_default(),
        _ => &[],
    }
}

#[inline]
fn denied(token: &Token<'_>) -> Option<(&'static str, &'static str)> {
    match token.kind {
        TokenKind::Word if !token.bytes.is_ascii() => names::denied(&folded(token.bytes)),
        TokenKind::Word | TokenKind::QuotedWord => names::denied(spelling(token)),
        _ => None,
    }
}

fn own_objects() -> Refusal {
    refusal(rule::OWN_OBJECTS, "the use of an object of the proxy's own")
}

fn unicode_escape() -> Refusal {
    refusal(rule::UNICODE_ESCAPE, "an identifier written as U&\"...\"")
}

#[cfg(test)]
mod tests;
