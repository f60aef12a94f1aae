//! Tells whether a text reads nothing of any tenant, so that a gateway user may send it before it has chosen one: what
//! drivers and frameworks ask when they connect. An allow-list of statements, functions of PostgreSQL and relations of
//! `pg_catalog` and `information_schema`; whatever is not on it needs a tenant. It decides about an error only: without a
//! tenant the policies show no row of anybody.

mod columns;
mod frames;
mod reader;
mod words;

use std::collections::HashSet;

use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;
use reader::TenantlessReader;
use words::Meaning::Syntax;
use words::{FUNCTIONS, Meaning, WORDS};

/// Nested parentheses that are followed.
const MAX_DEPTH: usize = 64;
/// The longest text that is read, in bytes. asyncpg's question about types has 7,000.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Whether no statement of a text needs a tenant.
pub fn is_tenantless(text: &[u8]) -> bool {
    if text.len() > MAX_TEXT_BYTES {
        return false;
    }
    let queries = common_table_expressions(text);
    TenantlessReader::new(text, queries).reads_all().is_some()
}

/// The names that stand in front of `AS (`, with or without columns. One that WITH does not give is a relation's own
/// alias, or an error of PostgreSQL.
fn common_table_expressions(text: &[u8]) -> HashSet<Vec<u8>> {
    let mut names = HashSet::new();
    // The last name at each depth.
    let mut last: Vec<Option<Vec<u8>>> = vec![None];
    let mut tokens = Lexer::new(text).peekable();
    while let Some(token) = tokens.next() {
        match token.kind {
            TokenKind::Open if last.len() < MAX_DEPTH => last.push(None),
            TokenKind::Close if last.len() > 1 => {
                last.pop();
            }
            TokenKind::Word if token.bytes.eq_ignore_ascii_case(b"as") => {
                let skips = |next: &Token<'_>| {
                    [&b"not"[..], b"materialized"].iter().any(|word| next.bytes.eq_ignore_ascii_case(word))
                };
                while tokens.next_if(skips).is_some() {}
                let name = last.last_mut().and_then(Option::take);
                if tokens.peek().is_some_and(|next| next.kind == TokenKind::Open) {
                    names.extend(name);
                }
            }
            TokenKind::Word | TokenKind::QuotedWord => {
                if let Some(last) = last.last_mut() {
                    *last = Some(spelled(&token));
                }
            }
            _ => {}
        }
    }
    names
}

/// A function of `pg_catalog`, or one of its names that nothing qualifies; one that the views of `information_schema` use.
fn is_known_function(name: &[Vec<u8>]) -> bool {
    match name {
        [name] => FUNCTIONS.find(name).is_some() || WORDS.find(name).is_some_and(|(_, word)| *word == Syntax),
        [schema, name] if schema == b"information_schema" => name.starts_with(b"_pg_"),
        [schema, name] => schema == b"pg_catalog" && FUNCTIONS.find(name).is_some(),
        _ => false,
    }
}

fn meaning(token: &Token<'_>) -> Option<Meaning> {
    WORDS.find(token.bytes).map(|(_, meaning)| *meaning)
}

/// A name as PostgreSQL takes it.
fn spelled(token: &Token<'_>) -> Vec<u8> {
    if token.kind == TokenKind::QuotedWord { content(token) } else { folded(token.bytes).into_owned() }
}

fn is_plain(token: &Token<'_>) -> bool {
    !matches!(token.kind, TokenKind::Unterminated | TokenKind::Unknown | TokenKind::UnicodeWord)
}

#[cfg(test)]
mod tests;
