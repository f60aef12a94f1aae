//! Recognises a text that is nothing but a change of the tenant, so that the proxy can check it against the
//! user's grant and carry it out. Only forms whose meaning is in plain sight; everything else stays refused.

mod reserved;

use std::ops::Range;

use super::setting::{Setting, plain_literal};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;
use reserved::RESERVED;

/// A statement that sets the tenant setting, and does nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantChange {
    /// The command.
    pub form: Form,
    /// Which setting.
    pub name: ChangedName,
    /// For how long.
    pub scope: Scope,
    /// To what.
    pub target: Target,
    /// Where `set_config`'s last argument, with its cast, lies in the text; empty for the other forms.
    pub local_argument: Range<usize>,
    /// What `set_config`'s result column is called; empty for the other forms.
    pub column: Box<[u8]>,
}

/// The command that sets a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `SET … TO value`, `SET … TO DEFAULT`
    Set,
    /// `RESET …`
    Reset,
    /// `SELECT set_config(…)`
    SetConfig,
    /// A call of a function that the configuration names.
    Call(Called),
}

/// A chooser function that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Called {
    /// The one at this place of the configuration; what it returns is not looked up yet.
    Function(usize),
    /// One that returns void.
    Void,
    /// One that returns a text.
    Text,
}

impl Form {
    /// Whether it is a SELECT, which answers with a row.
    pub const fn is_select(self) -> bool {
        matches!(self, Self::SetConfig | Self::Call(_))
    }
}

/// The setting that a change names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangedName {
    /// The tenant setting.
    Tenant,
    /// The setting that carries claims, the tenant among them.
    Claims,
    /// The setting that the parameter of this number names: a change of the tenant if that is the tenant setting.
    Parameter(u16),
    /// The settings in the parameter of this number, an array of JSON of arrays of a name and a value.
    Pairs(u16),
}

/// For how long a setting is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// For the session.
    Session,
    /// For the transaction.
    Local,
    /// For the transaction in a block, and for the session outside of one.
    Block,
    /// As the parameter of this number says, a boolean.
    Parameter(u16),
}

/// To what a setting is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// To this.
    Value(String),
    /// To the parameter of this number, a text; NULL is the default.
    Parameter(u16),
    /// To its default.
    Default,
}

/// PostgreSQL cuts identifiers, but not literals, after so many bytes.
const MAX_IDENTIFIER_BYTES: usize = 63;

impl ChangedName {
    /// The parameter that says it, as a text.
    pub const fn parameter(self) -> Option<u16> {
        if let Self::Parameter(number) = self { Some(number) } else { None }
    }
}

impl Scope {
    /// The parameter that says it.
    pub const fn parameter(self) -> Option<u16> {
        if let Self::Parameter(number) = self { Some(number) } else { None }
    }
}

impl Target {
    /// The parameter that names it.
    pub const fn parameter(&self) -> Option<u16> {
        if let Self::Parameter(number) = self { Some(*number) } else { None }
    }
}

// === impl TenantChange ===

impl TenantChange {
    /// Reads a whole text.
    pub(super) fn read(text: &[u8], setting: &str) -> Option<Self> {
        let mut reader = ChangeReader(Lexer::new(text));
        while reader.takes(TokenKind::Semicolon) {}
        let change = match reader.keyword()? {
            Keyword::Set => reader.set(setting),
            Keyword::Reset => reader.reset(setting),
            Keyword::Select => reader.set_config(setting),
            _ => None,
        }?;
        while reader.takes(TokenKind::Semicolon) {}
        reader.0.next().is_none().then_some(change)
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> u16 {
        let all = [self.name.parameter(), self.target.parameter(), self.scope.parameter()];
        all.into_iter().flatten().max().unwrap_or_default()
    }

    /// The text of a `set_config` with its last argument so that the change is for the transaction, whatever the
    /// client asked for. A parameter stays in the text, so that the client's Bind still fits.
    pub fn made_local(&self, text: &[u8]) -> Option<Vec<u8>> {
        let before = text.get(..self.local_argument.start)?;
        let after = text.get(self.local_argument.end..)?;
        let argument = match (self.form, self.scope) {
            (Form::Set | Form::Reset | Form::Call(_), _) => return None,
            (Form::SetConfig, Scope::Session | Scope::Local | Scope::Block) => "true".to_owned(),
            (Form::SetConfig, Scope::Parameter(number)) => {
                format!("((${number})::pg_catalog.bool IS NULL OR true)")
            }
        };
        Some([before, argument.as_bytes(), after].concat())
    }
}

/// A call of `set_config` as it was read.
pub(super) struct SettingCall {
    /// Where the function's name begins.
    pub(super) start: usize,
    pub(super) name: CalledName,
    target: Target,
    scope: Scope,
    local_argument: Range<usize>,
    column: Box<[u8]>,
}

/// The setting that a call names.
pub(super) enum CalledName {
    Literal(Vec<u8>),
    Parameter(u16),
}

// === impl SettingCall ===

impl SettingCall {
    pub(super) fn into_change(self, name: ChangedName) -> TenantChange {
        let Self { target, scope, local_argument, column, .. } = self;
        TenantChange { form: Form::SetConfig, name, scope, target, local_argument, column }
    }
}

/// Takes what it expects, token by token; what it does not take stays.
pub(super) struct ChangeReader<'a>(Lexer<'a>);

// === impl ChangeReader ===

impl<'a> ChangeReader<'a> {
    pub(super) const fn new(lexer: Lexer<'a>) -> Self {
        Self(lexer)
    }

    /// Whether nothing follows.
    pub(super) fn is_at_end(&self) -> bool {
        self.0.clone().next().is_none()
    }

    /// Whether nothing of the statement follows.
    pub(super) fn ends_statement(&self) -> bool {
        self.0.clone().next().is_none_or(|token| token.kind == TokenKind::Semicolon)
    }

    /// Behind SET.
    pub(super) fn set(&mut self, setting: &str) -> Option<TenantChange> {
        let scope = self.set_scope();
        let name = Setting::read_name(&mut self.0)?;
        let assigns = match self.0.next()? {
            token if token.bytes == b"=" => true,
            token => is_word(&token, "to"),
        };
        if !name.is(setting) || !assigns {
            return None;
        }
        Some(TenantChange {
            form: Form::Set,
            name: ChangedName::Tenant,
            scope,
            target: self.assigned()?,
            local_argument: 0..0,
            column: Box::default(),
        })
    }

    /// Behind RESET.
    pub(super) fn reset(&mut self, setting: &str) -> Option<TenantChange> {
        let name = Setting::read_name(&mut self.0)?;
        name.is(setting).then_some(TenantChange {
            form: Form::Reset,
            name: ChangedName::Tenant,
            scope: Scope::Session,
            target: Target::Default,
            local_argument: 0..0,
            column: Box::default(),
        })
    }

    /// SESSION and LOCAL may also be the first part of the setting's name.
    fn set_scope(&mut self) -> Scope {
        let mut ahead = self.0.clone();
        let scope = match ahead.next() {
            Some(token) if is_word(&token, "session") => Scope::Session,
            Some(token) if is_word(&token, "local") => Scope::Local,
            _ => return Scope::Session,
        };
        let names = |token: &Token<'_>| matches!(token.kind, TokenKind::Word | TokenKind::QuotedWord);
        if ahead.clone().next().as_ref().is_some_and(names) {
            self.0 = ahead;
            return scope;
        }
        Scope::Session
    }

    /// A value as SET takes it.
    fn assigned(&mut self) -> Option<Target> {
        let token = self.0.next()?;
        match token.kind {
            TokenKind::Word if is_word(&token, "default") => Some(Target::Default),
            TokenKind::Word if RESERVED.find(token.bytes).is_some() => None,
            TokenKind::Word if token.bytes.is_ascii() => identifier(folded(token.bytes).to_vec()),
            TokenKind::QuotedWord => identifier(content(&token)),
            TokenKind::Number => Some(Target::Value(number(&token)?)),
            TokenKind::Operator if matches!(token.bytes, b"-" | b"+") => {
                let number = number(&self.0.next().filter(|next| next.kind == TokenKind::Number)?)?;
                // PostgreSQL negates the number, and not its text: `-0` is 0.
                let is_negated = token.bytes == b"-" && number != "0";
                Some(Target::Value(if is_negated { format!("-{number}") } else { number }))
            }
            _ => literal(&token),
        }
    }

    /// In front of the function's name.
    pub(super) fn set_config(&mut self, setting: &str) -> Option<TenantChange> {
        let call = self.call()?;
        let CalledName::Literal(name) = &call.name else { return None };
        Setting::named(name).is(setting).then(|| call.into_change(ChangedName::Tenant))
    }

    /// A call of `set_config` whose arguments are literals and parameters, in front of the function's name.
    pub(super) fn call(&mut self) -> Option<SettingCall> {
        let mut function = self.0.next()?;
        if is_name(&function, b"pg_catalog") {
            self.takes(TokenKind::Dot).then_some(())?;
            function = self.0.next()?;
        }
        let start = function.start;
        (is_name(&function, b"set_config") && self.takes(TokenKind::Open)).then_some(())?;
        let name = self.argument(&["text", "varchar"], called_name)?.0;
        self.takes(TokenKind::Comma).then_some(())?;
        let target = self.argument(&["text", "varchar"], value)?.0;
        self.takes(TokenKind::Comma).then_some(())?;
        let (scope, local_argument) = self.argument(&["bool", "boolean"], locality)?;
        self.takes(TokenKind::Close).then_some(())?;
        let mut column: Box<[u8]> = b"set_config"[..].into();
        if self.take_if(|token| is_word(token, "as")).is_some() {
            let alias = self.0.next()?;
            column = match alias.kind {
                TokenKind::Word => folded(alias.bytes).into(),
                TokenKind::QuotedWord => content(&alias).into(),
                _ => return None,
            };
        }
        Some(SettingCall { start, name, target, scope, local_argument, column })
    }

    /// A whole text that calls a function with one argument, a text: the parts of its name, and the change that it would be.
    /// The column is empty unless it has another name than the function.
    pub(super) fn chooser_call(&mut self) -> Option<(Vec<Token<'a>>, TenantChange)> {
        while self.takes(TokenKind::Semicolon) {}
        (self.keyword()? == Keyword::Select).then_some(())?;
        let is_table = self.take_if(|token| token.bytes == b"*").is_some();
        if is_table {
            self.take_if(|token| is_word(token, "from"))?;
        }
        let mut names = vec![self.0.next()?];
        if self.takes(TokenKind::Dot) {
            names.push(self.0.next()?);
        }
        self.takes(TokenKind::Open).then_some(())?;
        let target = self.argument(&["text", "varchar"], value)?.0;
        self.takes(TokenKind::Close).then_some(())?;
        let is_named = self.take_if(|token| is_word(token, "as")).is_some();
        let alias = if is_named { Some(self.0.next()?) } else { None };
        let column: Box<[u8]> = match alias {
            None => Box::default(),
            Some(alias) if alias.kind == TokenKind::Word => folded(alias.bytes).into(),
            Some(alias) if alias.kind == TokenKind::QuotedWord => content(&alias).into(),
            Some(_) => return None,
        };
        while self.takes(TokenKind::Semicolon) {}
        self.is_at_end().then_some(())?;
        let change = TenantChange {
            form: Form::SetConfig,
            name: ChangedName::Tenant,
            scope: Scope::Block,
            target,
            local_argument: 0..0,
            column,
        };
        Some((names, change))
    }

    /// An argument with or without a cast to one of these types, and where it lies.
    fn argument<T>(
        &mut self,
        types: &[&str],
        read: impl Fn(&Token<'_>) -> Option<T>,
    ) -> Option<(T, Range<usize>)> {
        let token = self.0.next()?;
        let argument = read(&token)?;
        let mut range = token.range();
        // The lexer gives the two colons one by one.
        if let Some(colon) = self.take_if(|token| token.bytes == b":") {
            self.take_if(|next| next.bytes == b":" && next.start == colon.range().end)?;
            let cast = self.0.next()?;
            types.iter().any(|name| is_word(&cast, name)).then_some(())?;
            range.end = cast.range().end;
        }
        Some((argument, range))
    }

    pub(super) fn keyword(&mut self) -> Option<Keyword> {
        let token = self.0.next()?;
        (token.kind == TokenKind::Word).then(|| Keyword::of(token.bytes))
    }

    pub(super) fn takes(&mut self, kind: TokenKind) -> bool {
        self.take_if(|token| token.kind == kind).is_some()
    }

    fn take_if(&mut self, fits: impl Fn(&Token<'a>) -> bool) -> Option<Token<'a>> {
        let mut ahead = self.0.clone();
        let token = ahead.next().filter(fits)?;
        self.0 = ahead;
        Some(token)
    }
}

fn is_word(token: &Token<'_>, word: &str) -> bool {
    token.kind == TokenKind::Word && token.bytes.eq_ignore_ascii_case(word.as_bytes())
}

/// Quoted capitals are other letters to PostgreSQL, and then it knows no such function.
fn is_name(token: &Token<'_>, name: &[u8]) -> bool {
    match token.kind {
        TokenKind::Word => token.bytes.eq_ignore_ascii_case(name),
        TokenKind::QuotedWord => content(token) == name,
        _ => false,
    }
}

fn identifier(name: Vec<u8>) -> Option<Target> {
    (name.len() <= MAX_IDENTIFIER_BYTES).then_some(())?;
    String::from_utf8(name).ok().map(Target::Value)
}

fn literal(token: &Token<'_>) -> Option<Target> {
    String::from_utf8(plain_literal(token)?).ok().map(Target::Value)
}

/// Whole numbers that fit an `int` lose their leading zeros; all others stay as written.
fn number(token: &Token<'_>) -> Option<String> {
    let written = String::from_utf8(token.bytes.to_vec()).ok()?;
    Some(written.parse::<i32>().map_or(written, |number| number.to_string()))
}

fn called_name(token: &Token<'_>) -> Option<CalledName> {
    match token.kind {
        TokenKind::Parameter => parameter(token).map(CalledName::Parameter),
        _ => plain_literal(token).map(CalledName::Literal),
    }
}

fn value(token: &Token<'_>) -> Option<Target> {
    match token.kind {
        TokenKind::Parameter => parameter(token).map(Target::Parameter),
        TokenKind::Word if is_word(token, "null") => Some(Target::Default),
        _ => literal(token),
    }
}

fn locality(token: &Token<'_>) -> Option<Scope> {
    let is_local = match token.kind {
        TokenKind::Parameter => return parameter(token).map(Scope::Parameter),
        TokenKind::Word if is_word(token, "true") => true,
        TokenKind::Word if is_word(token, "false") => false,
        _ => truth(&plain_literal(token)?)?,
    };
    Some(if is_local { Scope::Local } else { Scope::Session })
}

/// A boolean as PostgreSQL reads it from a text (`parse_bool_with_len`).
fn truth(text: &[u8]) -> Option<bool> {
    let text = text.trim_ascii().to_ascii_lowercase();
    let begins = |word: &str, shortest: usize| text.len() >= shortest && word.as_bytes().starts_with(&text);
    match () {
        () if begins("true", 1) || begins("yes", 1) || begins("on", 2) || text == b"1" => Some(true),
        () if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == b"0" => Some(false),
        () => None,
    }
}

pub(super) fn parameter(token: &Token<'_>) -> Option<u16> {
    let number = token.bytes.get(1..).and_then(|digits| std::str::from_utf8(digits).ok())?.parse().ok()?;
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests;
