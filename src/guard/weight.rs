//! Bounds of what a text may cost `PostgreSQL` before it can be interrupted. Its scanner, its analysis and parts of its
//! planner answer no cancel request and no timeout, and these kinds of text take them the square of their length, or
//! the cube; `tests/lexer/costs` measures which.

use super::rule::{COSTLY_TEXT, Refusal, refusal};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Token, TokenKind};

/// How many times over `PostgreSQL`'s scanner may read the text, on the average.
const MAX_REREADS: usize = 16;
/// How many bytes it may read again whatever the length.
const FREE_REREAD_BYTES: usize = 64 * 1024;
/// Tables, subqueries and functions that one statement may join, by JOIN or by a comma in FROM.
const MAX_RELATIONS: u32 = 256;
/// Queries that the WITH clauses of one statement may name.
const MAX_WITH_QUERIES: u32 = 100;
/// Expressions that one statement may group, order and tell apart by, taken together; and the columns of XML and
/// JSON expressions. `PostgreSQL` itself takes no more of them in one query.
const MAX_LISTED: u32 = 1664;
/// Digits of a number in another base.
const MAX_RADIX_DIGITS: usize = 1024;
/// How deep the levels of a statement are told apart. `PostgreSQL`'s grammar ends at 10,000.
const MAX_DEPTH: usize = 10_000;

/// What the statements of a text cost, as far as read.
#[derive(Debug)]
pub(super) struct Weight {
    text_bytes: usize,
    relations: u32,
    with_queries: u32,
    listed: u32,
    /// What a comma means at this level of brackets.
    level: Level,
    /// What it meant in front of DISTINCT.
    level_before: Level,
    /// The same of the levels outside it.
    levels: Levels,
    before: Before,
    /// Where the last number ended.
    number_end: usize,
}

/// What a comma means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Other,
    /// One more table.
    Relations,
    /// One more expression.
    Listed,
}

/// What stands in front of a token, as far as it changes what the token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Other,
    Dot,
    As,
    /// GROUP, ORDER or PARTITION, of which BY may follow.
    Sorts,
    /// Behind it a bracket opens more of the same list: BY, DISTINCT, ROLLUP, a comma or a bracket of the list.
    ListPart,
}

/// The levels outside the present one. Most statements have few.
#[derive(Debug, Default)]
struct Levels {
    depth: usize,
    first: [Level; 16],
    more: Vec<Level>,
}

// === impl Levels ===

impl Levels {
    fn push(&mut self, level: Level) {
        match self.first.get_mut(self.depth) {
            Some(place) => *place = level,
            None if self.depth < MAX_DEPTH => self.more.push(level),
            None => {}
        }
        self.depth = self.depth.saturating_add(1);
    }

    fn pop(&mut self) -> Option<Level> {
        self.depth = self.depth.checked_sub(1)?;
        match self.first.get(self.depth) {
            Some(level) => Some(*level),
            None if self.depth < MAX_DEPTH => self.more.pop(),
            None => Some(Level::Other),
        }
    }
}

// === impl Weight ===

impl Weight {
    /// The weight of a text of so many bytes, before its first token.
    pub(super) fn new(text_bytes: usize) -> Self {
        Self {
            text_bytes,
            relations: 0,
            with_queries: 0,
            listed: 0,
            level: Level::Other,
            level_before: Level::Other,
            levels: Levels::default(),
            before: Before::Other,
            number_end: 0,
        }
    }

    /// Takes the next token; refuses the text if it is too heavy with it.
    #[inline]
    pub(super) fn feed(&mut self, token: &Token<'_>, keyword: Keyword) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut self.before, Before::Other);
        match (token.kind, keyword) {
            (TokenKind::Word, Keyword::Other) => self.check_number(token),
            (TokenKind::Word, _) if before == Before::Dot => Ok(()),
            (TokenKind::Word, Keyword::As | Keyword::Materialized) => {
                self.before = Before::As;
                Ok(())
            }
            (TokenKind::Word, _) => self.word(keyword, before),
            (TokenKind::Comma, _) => self.comma(),
            (TokenKind::Open, _) => self.open(before),
            (TokenKind::Close, _) => {
                self.level = self.levels.pop().unwrap_or_default();
                Ok(())
            }
            (TokenKind::Dot, _) => {
                self.before = Before::Dot;
                Ok(())
            }
            (TokenKind::Punctuation, _) => {
                self.bracket(token.bytes);
                Ok(())
            }
            (TokenKind::Semicolon, _) => {
                self.end_statement();
                Ok(())
            }
            (TokenKind::Number, _) => {
                self.number_end = token.range().end;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Refuses a text of which `PostgreSQL`'s scanner would read so many bytes again.
    pub(super) fn check_rereads(&self, reread_bytes: usize) -> Result<(), Refusal> {
        let allowed = self.text_bytes.saturating_mul(MAX_REREADS).saturating_add(FREE_REREAD_BYTES);
        let what = "a long run of operator characters, or of comments without a blank between them,";
        if reread_bytes > allowed { Err(refusal(COSTLY_TEXT, what)) } else { Ok(()) }
    }

    fn word(&mut self, keyword: Keyword, before: Before) -> Result<(), Refusal> {
        use Keyword as K;
        match keyword {
            K::Join => return self.one_more_relation(),
            K::By if before == Before::Sorts => return self.list(),
            K::Distinct => {
                self.level_before = self.level;
                return self.list();
            }
            // IS DISTINCT FROM
            K::From if before == Before::ListPart => {
                self.level = self.level_before;
                self.listed = self.listed.saturating_sub(1);
            }
            // Of XMLTABLE and JSON_TABLE; INSERT INTO columns is something else.
            K::Columns if self.levels.depth > 0 => return self.list(),
            K::Rollup | K::Cube | K::Sets | K::On if self.level == Level::Listed => {
                self.before = Before::ListPart;
            }
            K::XmlAttributes => self.before = Before::ListPart,
            // Behind AS it is the name of a column.
            _ if before == Before::As => {}
            K::From | K::Using => self.level = Level::Relations,
            K::Where
            | K::Having
            | K::Window
            | K::Limit
            | K::Offset
            | K::Fetch
            | K::For
            | K::Union
            | K::Intersect
            | K::Except
            | K::Into
            | K::Returning
            | K::Do
            | K::Then => self.level = Level::Other,
            K::Order | K::Group => {
                self.level = Level::Other;
                self.before = Before::Sorts;
            }
            K::Partition => self.before = Before::Sorts,
            _ => {}
        }
        Ok(())
    }

    /// A list of expressions begins.
    fn list(&mut self) -> Result<(), Refusal> {
        self.level = Level::Listed;
        self.before = Before::ListPart;
        self.one_more_listed()
    }

    fn comma(&mut self) -> Result<(), Refusal> {
        match self.level {
            Level::Other => Ok(()),
            Level::Relations => self.one_more_relation(),
            Level::Listed => {
                self.before = Before::ListPart;
                self.one_more_listed()
            }
        }
    }

    fn open(&mut self, before: Before) -> Result<(), Refusal> {
        self.levels.push(self.level);
        match before {
            Before::As => {
                self.level = Level::Other;
                self.with_queries = self.with_queries.saturating_add(1);
                return bounded(self.with_queries, MAX_WITH_QUERIES, "queries named by WITH");
            }
            Before::ListPart => {
                self.level = Level::Listed;
                self.before = Before::ListPart;
            }
            Before::Other | Before::Dot | Before::Sorts => self.level = Level::Other,
        }
        Ok(())
    }

    fn bracket(&mut self, bytes: &[u8]) {
        match bytes {
            b"[" => {
                self.levels.push(self.level);
                self.level = Level::Other;
            }
            b"]" => self.level = self.levels.pop().unwrap_or_default(),
            _ => {}
        }
    }

    /// Inside brackets only CREATE RULE has a `;`.
    fn end_statement(&mut self) {
        if self.levels.depth == 0 {
            *self = Self::new(self.text_bytes);
        } else {
            self.level = Level::Other;
        }
    }

    /// `0x1f` is a number and a word behind it to the lexer.
    fn check_number(&self, token: &Token<'_>) -> Result<(), Refusal> {
        if token.start == self.number_end && token.bytes.len() > MAX_RADIX_DIGITS {
            return Err(refusal(COSTLY_TEXT, "a number of more than 1024 digits in another base"));
        }
        Ok(())
    }

    fn one_more_relation(&mut self) -> Result<(), Refusal> {
        self.relations = self.relations.saturating_add(1);
        bounded(self.relations, MAX_RELATIONS, "tables joined")
    }

    fn one_more_listed(&mut self) -> Result<(), Refusal> {
        self.listed = self.listed.saturating_add(1);
        bounded(self.listed, MAX_LISTED, "expressions to group or order by")
    }
}

fn bounded(count: u32, most: u32, what: &str) -> Result<(), Refusal> {
    if count <= most {
        return Ok(());
    }
    Err(refusal(COSTLY_TEXT, &format!("a statement with more than {most} {what}")))
}

#[cfg(test)]
mod tests;
