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
/// A NATURAL JOIN compares the names of all columns, and counts as so many.
const NATURAL_RELATIONS: u32 = 32;
/// Words of a statement times the relations that it joins: each name is looked for in all of them.
const MAX_LOOKUPS: u64 = 500_000;
/// Queries and windows that one statement may name by `AS (`.
const MAX_WITH_QUERIES: u32 = 64;
/// Expressions that one statement may group, order and tell apart by or return, taken together, and the columns of XML and
/// JSON expressions. A bracket among them counts as one more. `PostgreSQL` numbers them in 16 bits.
const MAX_LISTED: u32 = 1_000;
/// GROUP BY, ORDER BY and PARTITION BY by themselves count as so many expressions: behind each window is a sort.
const LISTED_BY: u32 = 4;
/// A `*` in such a list stands for the columns of a table, of which there are up to 1,664, or of all that are joined.
const LISTED_STAR: u32 = 52;
/// Digits of a number in another base.
const MAX_RADIX_DIGITS: usize = 1024;
/// A shorter text is within all of these bounds.
pub(super) const MIN_WEIGHED_BYTES: usize = 128;
/// How deep the levels of a statement are told apart. `PostgreSQL`'s grammar ends at 10,000.
const MAX_DEPTH: usize = 10_000;

/// What the statements of a text cost, as far as read.
#[derive(Debug)]
pub(super) struct Weight {
    text_bytes: usize,
    words: u64,
    relations: u32,
    with_queries: u32,
    listed: u32,
    /// What a comma means at this level of brackets.
    level: Level,
    /// What it meant in front of DISTINCT.
    level_before: Level,
    /// The same of the levels outside it.
    levels: Levels,
    mark: Mark,
}

/// A token that changes what the one behind it means.
#[derive(Debug, Clone, Copy)]
struct Mark {
    end: usize,
    before: Before,
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
    /// The innermost of the first [`PACKED`] in the lowest two bits.
    packed: u64,
    more: Vec<Level>,
}

const PACKED: usize = 32;

// === impl Levels ===

impl Levels {
    fn push(&mut self, level: Level) {
        if self.depth < PACKED {
            self.packed = self.packed << 2 | level.bits();
        } else if self.depth < MAX_DEPTH {
            self.more.push(level);
        }
        self.depth = self.depth.saturating_add(1);
    }

    fn pop(&mut self) -> Level {
        let Some(depth) = self.depth.checked_sub(1) else { return Level::Other };
        self.depth = depth;
        if depth < PACKED {
            let level = Level::of_bits(self.packed);
            self.packed >>= 2;
            level
        } else if depth < MAX_DEPTH {
            self.more.pop().unwrap_or_default()
        } else {
            Level::Other
        }
    }
}

impl Level {
    fn bits(self) -> u64 {
        match self {
            Self::Other => 0,
            Self::Relations => 1,
            Self::Listed => 2,
        }
    }

    fn of_bits(bits: u64) -> Self {
        match bits & 3 {
            1 => Self::Relations,
            2 => Self::Listed,
            _ => Self::Other,
        }
    }
}

// === impl Weight ===

impl Weight {
    /// The weight of a text of so many bytes, before its first token.
    pub(super) fn new(text_bytes: usize) -> Self {
        Self {
            text_bytes,
            words: 0,
            relations: 0,
            with_queries: 0,
            listed: 0,
            level: Level::Other,
            level_before: Level::Other,
            levels: Levels::default(),
            mark: Mark { end: usize::MAX, before: Before::Other },
        }
    }

    /// Takes the next token; refuses the text if it is too heavy with it. The token before it ended `behind`, and `rest`
    /// is what stands behind it.
    pub(super) fn feed(
        &mut self,
        (token, keyword): (&Token<'_>, Keyword),
        behind: usize,
        rest: &[u8],
    ) -> Result<(), Refusal> {
        match token.kind {
            TokenKind::Word => {
                self.name()?;
                if keyword != Keyword::Other {
                    return self.word(token, keyword, self.before(behind));
                }
            }
            TokenKind::QuotedWord => return self.name(),
            TokenKind::Comma => return self.comma(token),
            TokenKind::Open => return self.open(token, behind),
            TokenKind::Close => self.level = self.levels.pop(),
            TokenKind::Dot => self.mark(token, Before::Dot),
            TokenKind::Operator if token.bytes == b"*" && self.level == Level::Listed => {
                return self.star(behind);
            }
            TokenKind::Punctuation => self.bracket(token.bytes),
            TokenKind::Semicolon => self.end_statement(),
            TokenKind::Number if rest.first().is_some_and(u8::is_ascii_alphabetic) => {
                return check_digits(rest);
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a text of which `PostgreSQL`'s scanner would read so many bytes again.
    pub(super) fn check_rereads(&self, reread_bytes: usize) -> Result<(), Refusal> {
        let allowed = self.text_bytes.saturating_mul(MAX_REREADS).saturating_add(FREE_REREAD_BYTES);
        let what = "a long run of operator characters, or of comments without a blank between them,";
        if reread_bytes > allowed { Err(refusal(COSTLY_TEXT, what)) } else { Ok(()) }
    }

    fn name(&mut self) -> Result<(), Refusal> {
        self.words = self.words.saturating_add(1);
        if self.relations == 0 { Ok(()) } else { self.check_lookups() }
    }

    fn before(&self, behind: usize) -> Before {
        if self.mark.end == behind { self.mark.before } else { Before::Other }
    }

    fn mark(&mut self, token: &Token<'_>, before: Before) {
        self.mark = Mark { end: token.range().end, before };
    }

    fn word(&mut self, token: &Token<'_>, keyword: Keyword, before: Before) -> Result<(), Refusal> {
        use Keyword as K;
        match keyword {
            // `t.from` is a column.
            _ if before == Before::Dot => {}
            K::As | K::Materialized => self.mark(token, Before::As),
            K::Join => return self.more_relations(1),
            K::Natural => return self.more_relations(NATURAL_RELATIONS.saturating_sub(1)),
            K::By if before == Before::Sorts => return self.list(token, LISTED_BY),
            K::Distinct => {
                self.level_before = self.level;
                return self.list(token, 1);
            }
            K::Returning => return self.list(token, 1),
            // IS DISTINCT FROM
            K::From if before == Before::ListPart => {
                self.level = self.level_before;
                self.listed = self.listed.saturating_sub(1);
            }
            // Of XMLTABLE and JSON_TABLE; INSERT INTO columns is something else.
            K::Columns if self.levels.depth > 0 => return self.list(token, 1),
            K::Rollup | K::Cube | K::Sets | K::On if self.level == Level::Listed => {
                self.mark(token, Before::ListPart);
            }
            K::XmlAttributes => self.mark(token, Before::ListPart),
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
            | K::Do
            | K::Then => self.level = Level::Other,
            K::Order | K::Group => {
                self.level = Level::Other;
                self.mark(token, Before::Sorts);
            }
            K::Partition => self.mark(token, Before::Sorts),
            _ => {}
        }
        Ok(())
    }

    /// A list of expressions begins.
    fn list(&mut self, token: &Token<'_>, weight: u32) -> Result<(), Refusal> {
        self.level = Level::Listed;
        self.mark(token, Before::ListPart);
        self.more_listed(weight)
    }

    fn comma(&mut self, token: &Token<'_>) -> Result<(), Refusal> {
        match self.level {
            Level::Other => Ok(()),
            Level::Relations => self.more_relations(1),
            Level::Listed => {
                self.mark(token, Before::ListPart);
                self.more_listed(1)
            }
        }
    }

    fn open(&mut self, token: &Token<'_>, behind: usize) -> Result<(), Refusal> {
        self.levels.push(self.level);
        match self.before(behind) {
            Before::As => {
                self.level = Level::Other;
                self.with_queries = self.with_queries.saturating_add(1);
                return bounded(self.with_queries, MAX_WITH_QUERIES, "queries or windows named by AS");
            }
            Before::ListPart => {
                self.level = Level::Listed;
                self.mark(token, Before::ListPart);
                return self.more_listed(1);
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
            b"]" => self.level = self.levels.pop(),
            _ => {}
        }
    }

    fn star(&mut self, behind: usize) -> Result<(), Refusal> {
        let tables = match self.before(behind) {
            Before::Dot => 1,
            Before::ListPart => self.relations.saturating_add(1),
            // A product.
            Before::Other | Before::As | Before::Sorts => 0,
        };
        self.more_listed(LISTED_STAR.saturating_mul(tables))
    }

    /// Inside brackets only CREATE RULE has a `;`.
    fn end_statement(&mut self) {
        if self.levels.depth == 0 {
            *self = Self::new(self.text_bytes);
        } else {
            self.level = Level::Other;
        }
    }

    fn more_relations(&mut self, count: u32) -> Result<(), Refusal> {
        self.relations = self.relations.saturating_add(count);
        bounded(self.relations, MAX_RELATIONS, "tables joined")
    }

    fn more_listed(&mut self, count: u32) -> Result<(), Refusal> {
        self.listed = self.listed.saturating_add(count);
        bounded(self.listed, MAX_LISTED, "expressions to group or order by or to return")
    }

    fn check_lookups(&self) -> Result<(), Refusal> {
        if self.words.saturating_mul(u64::from(self.relations)) <= MAX_LOOKUPS {
            return Ok(());
        }
        Err(refusal(COSTLY_TEXT, "a statement with so many names over so many joined tables"))
    }
}

/// The digits of `0x1f` are a word of their own to the lexer, right behind the number.
fn check_digits(rest: &[u8]) -> Result<(), Refusal> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
    if digits.take(MAX_RADIX_DIGITS.saturating_add(2)).count() <= MAX_RADIX_DIGITS.saturating_add(1) {
        return Ok(());
    }
    Err(refusal(COSTLY_TEXT, &format!("a number of more than {MAX_RADIX_DIGITS} digits in another base")))
}

fn bounded(count: u32, most: u32, what: &str) -> Result<(), Refusal> {
    if count <= most {
        return Ok(());
    }
    Err(refusal(COSTLY_TEXT, &format!("a statement with more than {most} {what}")))
}

#[cfg(test)]
mod tests;
