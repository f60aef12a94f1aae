//! Reads what a text leaves in its session once it has run: the settings that it sets, and state that lives on one
//! server only. Decides nothing, and may say too much: what really came to be is asked of the server.
//! What functions, triggers and DO blocks leave behind stands in no text.

use super::ROLE;
use super::argument::{BoundValue, MAX_BOUND, bound_value};
use super::calls::Calls;
use super::inspection::{Poll, Stopped};
use super::setting::Setting;
use crate::sql::lexer::{Lexer, Token, TokenKind};
use crate::sql::words::folded;

/// How many settings of one text are told apart; a session carries far fewer.
const MAX_TOUCHES: usize = 1024;

/// What a text may leave in its session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Settings that it sets or resets for the session.
    pub settings: Vec<Touch>,
    /// State that cannot be carried to another server.
    pub states: States,
    /// Parameters of calls of `set_config` whose values are judged when they are bound.
    pub bound: Vec<BoundValue>,
}

/// A setting that is set or reset for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// Which.
    pub name: Name,
    /// What is done to it.
    pub verb: Verb,
}

/// What is done to a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It gets a value.
    Set,
    /// It returns to its default.
    Reset,
}

/// Which setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The one of this name, in lower case.
    Is(String),
    /// The one that the parameter of this number names.
    Parameter(u16),
    /// All of them.
    All,
}

/// A kind of session state that lives on one server only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A temporary table, view, sequence, function or type.
    Temporary,
    /// A cursor WITH HOLD.
    HeldCursor,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// LISTEN.
    Listen,
    /// A statement prepared by SQL.
    Prepared,
    /// SET SESSION AUTHORIZATION, and SET ROLE where the role is not carried.
    Role,
    /// LOAD.
    Library,
    /// A setting whose name cannot be told.
    Setting,
}

/// Several of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct States(u8);

// === impl State ===

impl State {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Temporary,
        Self::HeldCursor,
        Self::AdvisoryLock,
        Self::Listen,
        Self::Prepared,
        Self::Role,
        Self::Library,
        Self::Setting,
    ];

    /// The name in metrics, logs and messages.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::HeldCursor => "held-cursor",
            Self::AdvisoryLock => "advisory-lock",
            Self::Listen => "listen",
            Self::Prepared => "prepared",
            Self::Role => "role",
            Self::Library => "library",
            Self::Setting => "setting",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

// === impl States ===

impl States {
    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    pub const fn has(self, state: State) -> bool {
        self.0 & state.bit() != 0
    }

    /// One more.
    pub const fn add(&mut self, state: State) {
        self.0 |= state.bit();
    }

    /// One less.
    pub const fn remove(&mut self, state: State) {
        self.0 &= !state.bit();
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = State> {
        State::ALL.into_iter().filter(move |state| self.has(*state))
    }
}

/// Reads a text. Total on any bytes.
pub fn footprint(text: &[u8]) -> Footprint {
    footprint_until(text, &|| false).unwrap_or_default()
}

/// Reads a text until it ends or `stop` says so.
pub(super) fn footprint_until(text: &[u8], stop: &dyn Fn() -> bool) -> Result<Footprint, Stopped> {
    let mut found = Footprint::default();
    let mut poll = Poll::new(stop);
    let mut lexer = Lexer::new(text);
    let mut statement = Statement::default();
    let mut calls = Calls::default();
    while let Some(token) = lexer.next() {
        calls.feed(&token, &mut found);
        if token.kind == TokenKind::Semicolon {
            statement = Statement::default();
            continue;
        }
        let word = Word::of(&token);
        if statement.count == 0 && token.kind != TokenKind::Open {
            statement.first = word;
            found.note_start(word, &lexer);
        }
        if word == Word::SetConfig {
            calls.begin();
            found.note_bound(&lexer);
        }
        found.note_word(word, &statement);
        statement.note(word, token.kind);
        poll.at(lexer.position())?;
    }
    calls.end(&mut found);
    Ok(found)
}

/// The statement that is being read.
#[derive(Debug, Default)]
struct Statement {
    first: Word,
    previous: Word,
    /// Tokens so far.
    count: usize,
    /// Whether a WITH was the last word that matters in front of HOLD.
    is_with: bool,
}

impl Statement {
    fn note(&mut self, word: Word, kind: TokenKind) {
        match word {
            Word::With => self.is_with = true,
            Word::Without => self.is_with = false,
            _ => {}
        }
        if kind != TokenKind::Open || self.count > 0 {
            self.count = self.count.saturating_add(1);
        }
        self.previous = word;
    }
}

/// The words that matter here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Word {
    #[default]
    Other,
    Create,
    Declare,
    Hold,
    Into,
    Listen,
    Load,
    Local,
    LockFunction,
    Prepare,
    Reset,
    Set,
    SetConfig,
    /// TEMP, TEMPORARY
    Temporary,
    /// `pg_temp`
    TemporarySchema,
    Transaction,
    With,
    Without,
}

impl Word {
    fn of(token: &Token<'_>) -> Self {
        let name = match token.kind {
            TokenKind::Word => folded(token.bytes).into_owned(),
            TokenKind::QuotedWord => {
                token.bytes.get(1..token.bytes.len().saturating_sub(1)).unwrap_or_default().to_vec()
            }
            _ => return Self::Other,
        };
        match name.as_slice() {
            b"set_config" => Self::SetConfig,
            name if name.starts_with(b"pg_temp") => Self::TemporarySchema,
            b"pg_advisory_lock"
            | b"pg_advisory_lock_shared"
            | b"pg_try_advisory_lock"
            | b"pg_try_advisory_lock_shared" => Self::LockFunction,
            _ if token.kind == TokenKind::QuotedWord => Self::Other,
            b"create" => Self::Create,
            b"declare" => Self::Declare,
            b"hold" => Self::Hold,
            b"into" => Self::Into,
            b"listen" => Self::Listen,
            b"load" => Self::Load,
            b"global" | b"local" => Self::Local,
            b"prepare" => Self::Prepare,
            b"reset" => Self::Reset,
            b"set" => Self::Set,
            b"temp" | b"temporary" => Self::Temporary,
            b"transaction" => Self::Transaction,
            b"with" => Self::With,
            b"without" => Self::Without,
            _ => Self::Other,
        }
    }
}

// === impl Footprint ===

impl Footprint {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.states.is_empty() && self.bound.is_empty()
    }

    /// Behind the name of `set_config`.
    fn note_bound(&mut self, lexer: &Lexer<'_>) {
        let Some(value) = bound_value(lexer.clone()) else { return };
        if self.bound.len() < MAX_BOUND && !self.bound.contains(&value) {
            self.bound.push(value);
        }
    }

    fn note_start(&mut self, first: Word, lexer: &Lexer<'_>) {
        match first {
            Word::Listen => self.states.add(State::Listen),
            Word::Load => self.states.add(State::Library),
            Word::Prepare if lexer.clone().next().is_none_or(|next| Word::of(&next) != Word::Transaction) => {
                self.states.add(State::Prepared);
            }
            Word::Set => self.note_set(lexer.clone(), Verb::Set),
            Word::Reset => self.note_set(lexer.clone(), Verb::Reset),
            _ => {}
        }
    }

    fn note_word(&mut self, word: Word, statement: &Statement) {
        match (word, statement.first) {
            (Word::LockFunction, _) => self.states.add(State::AdvisoryLock),
            (Word::Hold, Word::Declare) if statement.is_with => self.states.add(State::HeldCursor),
            // CREATE [OR REPLACE] [LOCAL] TEMP
            (Word::Temporary, Word::Create) if statement.count <= 4 => self.states.add(State::Temporary),
            (Word::TemporarySchema, Word::Create) => self.states.add(State::Temporary),
            (Word::Temporary | Word::TemporarySchema | Word::Local, _)
                if statement.previous == Word::Into =>
            {
                self.states.add(State::Temporary);
            }
            _ => {}
        }
    }

    /// SET and RESET, behind the verb.
    fn note_set(&mut self, mut lexer: Lexer<'_>, verb: Verb) {
        let words: Vec<Keyed> = lexer.clone().take(4).map(|token| Keyed::of(&token)).collect();
        let mut words = words.as_slice();
        if let [Keyed::Session, rest @ ..] = words
            && !matches!(rest, [] | [Keyed::Sign, ..])
        {
            lexer.next();
            words = rest;
        }
        match words {
            [Keyed::Local, next, ..] if *next != Keyed::Sign => {}
            [Keyed::Transaction | Keyed::Constraints | Keyed::Seed, ..] => {}
            [Keyed::Characteristics, ..] => {
                for name in ["isolation", "read_only", "deferrable"] {
                    self.touch_named(format!("default_transaction_{name}"), verb);
                }
            }
            [Keyed::Role, ..] => {
                let verb = if returns_to_login(lexer) { Verb::Reset } else { verb };
                self.touch_named(ROLE.to_owned(), verb);
            }
            [Keyed::Authorization, ..] | [Keyed::Session, Keyed::Authorization, ..] => {
                if verb == Verb::Set && !returns_to_login(lexer) {
                    self.states.add(State::Role);
                }
                // It takes the role back.
                self.touch_named(ROLE.to_owned(), Verb::Reset);
            }
            [Keyed::Time, Keyed::Zone, ..] => self.touch_named("timezone".to_owned(), verb),
            [Keyed::Names, ..] => self.touch_named("client_encoding".to_owned(), verb),
            [Keyed::Schema, ..] => self.touch_named("search_path".to_owned(), verb),
            [Keyed::Xml, Keyed::Option, ..] => self.touch_named("xmloption".to_owned(), verb),
            [Keyed::All, ..] if verb == Verb::Reset => self.touch(Touch { name: Name::All, verb }),
            _ => {
                let name = Setting::read_name(&mut lexer).and_then(Setting::into_name);
                match name {
                    Some(name) => self.touch_named(name, verb),
                    None => self.states.add(State::Setting),
                }
            }
        }
    }

    fn touch_named(&mut self, name: String, verb: Verb) {
        self.touch(Touch { name: Name::Is(name), verb });
    }

    /// Takes note of a setting. Of too many the rest counts as one of unknown name.
    pub(super) fn touch(&mut self, touch: Touch) {
        if self.settings.len() < MAX_TOUCHES {
            self.settings.push(touch);
        } else {
            self.states.add(State::Setting);
        }
    }
}

/// SET ROLE NONE, SET SESSION AUTHORIZATION DEFAULT, behind SET.
fn returns_to_login(lexer: Lexer<'_>) -> bool {
    let value = lexer.take_while(|token| token.kind != TokenKind::Semicolon).last();
    value.is_some_and(|token| Keyed::of(&token) == Keyed::Nobody)
}

/// The words behind SET that are not a setting's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keyed {
    All,
    Authorization,
    Characteristics,
    Constraints,
    Local,
    Names,
    /// NONE, DEFAULT
    Nobody,
    Option,
    Role,
    Schema,
    Seed,
    Session,
    /// `=`, `.`, TO
    Sign,
    Time,
    Transaction,
    Xml,
    Zone,
    Other,
}

impl Keyed {
    fn of(token: &Token<'_>) -> Self {
        if token.kind == TokenKind::Dot || token.bytes == b"=" {
            return Self::Sign;
        }
        if token.kind != TokenKind::Word {
            return Self::Other;
        }
        match token.bytes.to_ascii_lowercase().as_slice() {
            b"all" => Self::All,
            b"authorization" => Self::Authorization,
            b"characteristics" => Self::Characteristics,
            b"constraints" => Self::Constraints,
            b"local" => Self::Local,
            b"names" => Self::Names,
            b"none" | b"default" => Self::Nobody,
            b"option" => Self::Option,
            b"role" => Self::Role,
            b"schema" => Self::Schema,
            b"seed" => Self::Seed,
            b"session" => Self::Session,
            b"time" => Self::Time,
            b"to" => Self::Sign,
            b"transaction" => Self::Transaction,
            b"xml" => Self::Xml,
            b"zone" => Self::Zone,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests;
