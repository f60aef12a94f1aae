//! Tells how many statements a text holds, of which kind the first is, and whether any may leave something
//! behind in its session. One pass, by first words only. A wrong `One` is harmless where `PostgreSQL` sees several
//! (the extended protocol refuses them) and a wrong `Many` or `Unreadable` costs an optimisation.
//!
//! `PostgreSQL` splits at a `;` outside parentheses (CREATE RULE has some inside) and outside a body written as
//! `BEGIN ATOMIC ... END`. Such a body would need the grammar to find its end, so its text is `Unreadable`.

use super::keyword::Keyword;
use super::kind::{CopyPeer, SessionEffect, StatementKind, WORDS};
use super::lexer::{Lexer, Token, TokenKind};
use super::transaction::TextCourse;

/// What one pass over a text finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// How many statements.
    pub statements: Count,
    /// The kind of the first one.
    pub first: StatementKind,
    /// Whether any of them may leave something behind in its session.
    pub session_effect: SessionEffect,
    /// Their way through transactions.
    pub course: TextCourse,
}

impl Survey {
    /// Whether the text is DISCARD ALL and nothing else.
    pub fn discards_all(self) -> bool {
        self.first == StatementKind::DiscardAll && self.statements == Count::One
    }
}

/// How many statements a text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Only white space, comments and `;`.
    None,
    /// One.
    One,
    /// More than one.
    Many,
    /// Cannot be told: something without an end, parentheses that do not match, a `BEGIN ATOMIC` body.
    Unreadable,
}

/// Surveys a text. Total on any bytes.
pub fn survey(text: &[u8]) -> Survey {
    let mut surveyor = Surveyor::default();
    for token in Lexer::new(text) {
        surveyor.feed(&token);
    }
    surveyor.finish()
}

/// Position of a token in its statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenPosition {
    /// Where a command's first word stands.
    Start,
    Within,
}

/// The state of a survey between two tokens; the guard feeds it from its own pass.
#[derive(Debug)]
pub(crate) struct Surveyor {
    words: [Keyword; WORDS],
    /// How many tokens the statement has so far, counted up to [`WORDS`].
    count: usize,
    previous: Keyword,
    place: TokenPosition,
    depth: usize,
    copy: CopyPeer,
    statements: Count,
    first: StatementKind,
    session_effect: SessionEffect,
    course: TextCourse,
}

impl Default for Surveyor {
    fn default() -> Self {
        Self {
            words: [Keyword::Other; WORDS],
            count: 0,
            previous: Keyword::Other,
            place: TokenPosition::Start,
            depth: 0,
            copy: CopyPeer::Unread,
            statements: Count::None,
            first: StatementKind::Nothing,
            session_effect: SessionEffect::None,
            course: TextCourse::default(),
        }
    }
}

impl Surveyor {
    /// Takes the next token; says which keyword it is and where it stood.
    #[inline]
    pub(crate) fn feed(&mut self, token: &Token<'_>) -> (Keyword, TokenPosition) {
        let place = std::mem::replace(&mut self.place, TokenPosition::Within);
        let keyword = match token.kind {
            TokenKind::Word => Keyword::of(token.bytes),
            TokenKind::QuotedWord => {
                let inner = token.bytes.get(1..token.bytes.len().saturating_sub(1));
                Keyword::of_name(inner.unwrap_or_default())
            }
            TokenKind::Open => return (self.open(), place),
            TokenKind::Close => {
                self.close();
                Keyword::Other
            }
            TokenKind::Semicolon => return (self.separate(), place),
            TokenKind::Unterminated | TokenKind::Unknown => {
                self.statements = Count::Unreadable;
                Keyword::Other
            }
            TokenKind::UnicodeWord => {
                self.session_effect = SessionEffect::Maybe;
                Keyword::Other
            }
            _ => Keyword::Other,
        };
        self.note(keyword);
        (keyword, place)
    }

    /// Whether the statement is one in which a SET clause outside parentheses sets a setting: any ALTER, and
    /// CREATE of a function or procedure.
    #[inline]
    pub(crate) fn takes_set_clause(&self) -> bool {
        self.depth == 0 && (matches!(self.words, [Keyword::Alter, ..]) || self.creates_routine())
    }

    /// Whether the statement is a CREATE.
    pub(crate) fn creates(&self) -> bool {
        matches!(self.words, [Keyword::Create, ..])
    }

    /// Whether the statement is an ALTER.
    pub(crate) fn alters(&self) -> bool {
        matches!(self.words, [Keyword::Alter, ..])
    }

    /// Whether the statement's literals may hold code.
    #[inline]
    pub(crate) fn holds_code(&self) -> bool {
        matches!(self.words, [Keyword::Do, ..]) || self.creates_routine()
    }

    /// The survey, at the end of the text.
    pub(crate) fn finish(mut self) -> Survey {
        if self.depth > 0 {
            self.statements = Count::Unreadable;
        }
        self.end_statement();
        if self.statements == Count::Unreadable {
            self.session_effect = SessionEffect::Maybe;
            self.course = TextCourse::unreadable();
        }
        Survey {
            statements: self.statements,
            first: self.first,
            session_effect: self.session_effect,
            course: self.course,
        }
    }

    fn creates_routine(&self) -> bool {
        use Keyword as K;
        matches!(
            self.words,
            [K::Create, K::Function | K::Procedure, ..]
                | [K::Create, K::Or, K::Replace, K::Function | K::Procedure]
        )
    }

    #[inline]
    fn open(&mut self) -> Keyword {
        self.depth = self.depth.saturating_add(1);
        // `(SELECT ...)` is a SELECT.
        if self.count > 0 {
            self.note(Keyword::Other);
        }
        Keyword::Other
    }

    fn close(&mut self) {
        match self.depth.checked_sub(1) {
            Some(depth) => self.depth = depth,
            None => self.statements = Count::Unreadable,
        }
    }

    fn separate(&mut self) -> Keyword {
        // Inside parentheses only CREATE RULE has one: not a statement's end, but a command starts behind it.
        if self.depth == 0 {
            self.end_statement();
        }
        self.place = TokenPosition::Start;
        self.previous = Keyword::Other;
        Keyword::Other
    }

    #[inline]
    fn note(&mut self, keyword: Keyword) {
        if let Some(word) = self.words.get_mut(self.count) {
            *word = keyword;
            self.count = self.count.saturating_add(1);
        }
        let pair = (std::mem::replace(&mut self.previous, keyword), keyword);
        match keyword {
            Keyword::Lingering | Keyword::SetConfig => self.session_effect = SessionEffect::Maybe,
            Keyword::Atomic if pair.0 == Keyword::Begin && self.depth == 0 && self.creates_routine() => {
                self.end_statement();
                self.statements = Count::Unreadable;
                self.place = TokenPosition::Start;
            }
            _ => {}
        }
        if self.depth == 0 && matches!(self.words, [Keyword::Copy, ..]) {
            self.copy = self.copy.then(keyword);
        }
    }

    fn end_statement(&mut self) {
        if self.count == 0 {
            return;
        }
        let kind = StatementKind::of(self.words, self.copy);
        if self.first == StatementKind::Nothing {
            self.first = kind;
        }
        if kind.session_effect() == SessionEffect::Maybe {
            self.session_effect = SessionEffect::Maybe;
        }
        self.course = self.course.then(kind);
        self.statements = match self.statements {
            Count::None => Count::One,
            Count::One | Count::Many => Count::Many,
            Count::Unreadable => Count::Unreadable,
        };
        self.words = [Keyword::Other; WORDS];
        self.count = 0;
        self.copy = CopyPeer::Unread;
    }
}

#[cfg(test)]
mod tests;
