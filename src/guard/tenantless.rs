//! Tells whether a text reads nothing of any tenant, so that a gateway user may send it before it has chosen one: what
//! drivers and frameworks ask when they connect. An allow-list of statements, functions of PostgreSQL and relations of
//! `pg_catalog` and `information_schema`; whatever is not on it needs a tenant. It decides about an error only: without a
//! tenant the policies show no row of anybody.

mod words;

use std::collections::HashSet;
use std::iter::Peekable;

use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;
use words::Meaning::{ClauseEnd, Control, Effect, Modifier, Query, Relation, Syntax};
use words::{CATALOGS, FUNCTIONS, Meaning, WORDS};

/// Nested parentheses that are followed.
const MAX_DEPTH: usize = 64;
/// The longest text that is read, in bytes. asyncpg's question about types has 7,000.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Where a query stands, at one depth of parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// In no FROM clause.
    Other,
    /// In one, where a relation stands next.
    Expected,
    /// In one, behind a relation.
    Joined,
}

/// What parentheses behind a name would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parentheses {
    /// Those of a type or an alias.
    OfName,
    /// The arguments of a function.
    OfCall,
}

/// Whether no statement of a text needs a tenant.
pub fn is_tenantless(text: &[u8]) -> bool {
    if text.len() > MAX_TEXT_BYTES {
        return false;
    }
    let queries = common_table_expressions(text);
    let mut reader = Reader { tokens: Lexer::new(text).peekable(), queries, clauses: vec![Clause::Other] };
    while reader.tokens.peek().is_some() {
        if reader.statement().is_none() {
            return false;
        }
    }
    true
}

struct Reader<'a> {
    tokens: Peekable<Lexer<'a>>,
    /// Names that WITH gives.
    queries: HashSet<Vec<u8>>,
    /// One for each open parenthesis, and the outermost.
    clauses: Vec<Clause>,
}

impl<'a> Reader<'a> {
    /// Reads one statement with its semicolon; none if it may need a tenant.
    fn statement(&mut self) -> Option<()> {
        self.clauses = vec![Clause::Other];
        let first = self.tokens.find(|token| token.kind != TokenKind::Semicolon);
        let Some(first) = first else { return Some(()) };
        match (first.kind, meaning(&first)) {
            (TokenKind::Word, Some(Control)) => {
                let mut rest = self.tokens.by_ref().take_while(|token| token.kind != TokenKind::Semicolon);
                rest.all(|token| is_plain(&token)).then_some(())
            }
            (TokenKind::Word, Some(Query)) => self.query(),
            (TokenKind::Open, _) => {
                self.clauses.push(Clause::Other);
                self.query()
            }
            _ => None,
        }
    }

    fn query(&mut self) -> Option<()> {
        let mut before = TokenKind::Semicolon;
        let mut names_alias = false;
        while let Some(token) = self.tokens.next() {
            let aliased = std::mem::take(&mut names_alias);
            match token.kind {
                TokenKind::Semicolon => return Some(()),
                TokenKind::Open => self.open()?,
                TokenKind::Close => {
                    self.clauses.pop();
                    self.clauses.last()?;
                }
                TokenKind::Comma if self.clause() != Clause::Other => self.set(Clause::Expected),
                TokenKind::Word | TokenKind::QuotedWord => {
                    names_alias = token.kind == TokenKind::Word && token.bytes.eq_ignore_ascii_case(b"as");
                    // A type behind `::`, or a name behind AS, is followed by its own parentheses.
                    let parentheses = if before == TokenKind::Punctuation || aliased {
                        Parentheses::OfName
                    } else {
                        Parentheses::OfCall
                    };
                    self.word(&token, parentheses)?;
                }
                // Behind anything but a name it may call a function of one argument (`(value).function`).
                TokenKind::Dot => return None,
                _ if !is_plain(&token) => return None,
                _ => {}
            }
            before = token.kind;
        }
        Some(())
    }

    fn open(&mut self) -> Option<()> {
        let inside = if self.clause() == Clause::Expected { Clause::Expected } else { Clause::Other };
        if inside == Clause::Expected {
            self.set(Clause::Joined);
        }
        self.clauses.push(inside);
        (self.clauses.len() <= MAX_DEPTH).then_some(())
    }

    fn word(&mut self, token: &Token<'a>, parentheses: Parentheses) -> Option<()> {
        let is_callable = parentheses == Parentheses::OfCall;
        let meaning = (token.kind == TokenKind::Word).then(|| meaning(token)).flatten();
        match meaning {
            Some(Effect) => return None,
            Some(Query | ClauseEnd) => {
                self.set(Clause::Other);
                return Some(());
            }
            Some(Relation) => {
                self.set(Clause::Expected);
                return Some(());
            }
            Some(Modifier) if self.clause() == Clause::Expected => return Some(()),
            Some(Syntax) => return Some(()),
            Some(Control | Modifier) | None => {}
        }
        let mut name = vec![spelled(token)];
        while self.tokens.next_if(|next| next.kind == TokenKind::Dot).is_some() {
            match self.tokens.peek().map(|next| next.kind) {
                Some(TokenKind::Word | TokenKind::QuotedWord) => {
                    name.push(self.tokens.next().map(|part| spelled(&part))?);
                }
                // `t.*`
                _ => break,
            }
        }
        let is_call = self.tokens.peek().is_some_and(|next| next.kind == TokenKind::Open);
        let fits = match (self.clause(), is_call) {
            (Clause::Expected, false) => self.is_known_relation(&name),
            (Clause::Expected, true) => is_known_function(&name),
            // The columns of a WITH query, or a call.
            (Clause::Other, true) => {
                let is_query = matches!(&*name, [name] if self.queries.contains(name)) && self.is_alias();
                !is_callable || is_query || is_known_function(&name)
            }
            // An alias with its columns, or a function in a condition.
            (Clause::Joined, true) => {
                !is_callable || (name.len() == 1 && self.is_alias()) || is_known_function(&name)
            }
            (Clause::Other | Clause::Joined, false) => true,
        };
        if self.clause() == Clause::Expected {
            self.set(Clause::Joined);
        }
        fits.then_some(())
    }

    /// Whether the parentheses that follow hold nothing but names, as those of an alias do.
    fn is_alias(&self) -> bool {
        let mut ahead = self.tokens.clone().skip(1).take_while(|token| token.kind != TokenKind::Close);
        ahead.all(|token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedWord | TokenKind::Comma))
            && !matches!(self.tokens.clone().nth(1), Some(token) if token.kind == TokenKind::Close)
    }

    fn is_known_relation(&self, name: &[Vec<u8>]) -> bool {
        match name {
            [name] => self.queries.contains(name) || CATALOGS.find(name).is_some(),
            [schema, name] if schema == b"pg_catalog" => CATALOGS.find(name).is_some(),
            [schema, _] => schema == b"information_schema",
            _ => false,
        }
    }

    fn clause(&self) -> Clause {
        self.clauses.last().copied().unwrap_or(Clause::Other)
    }

    fn set(&mut self, clause: Clause) {
        if let Some(last) = self.clauses.last_mut() {
            *last = clause;
        }
    }
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
mod tests {
    use super::*;

    #[test]
    fn what_drivers_ask_when_they_connect_needs_no_tenant() {
        for text in [
            "",
            "SELECT version()",
            "select pg_catalog.version();",
            "SHOW server_version; SHOW standard_conforming_strings",
            "SELECT 1",
            "SELECT current_schema()",
            "SELECT current_database(), current_user, session_user",
            "SELECT pg_is_in_recovery()",
            "BEGIN; SELECT set_config('TimeZone', 'UTC', false); COMMIT",
            "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET client_encoding TO 'UTF8'; SET TIME ZONE 'UTC'",
            "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'",
            "SELECT t.oid, t.typname FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid \
             WHERE t.typname IN ('int2', 'bool') OR t.typtype IN ('r', 'e')",
            "WITH RECURSIVE types (id, depth) AS (SELECT oid, 0 FROM pg_catalog.pg_type WHERE oid = any($1::oid[]) \
             UNION ALL SELECT t.typelem, depth + 1 FROM pg_type t, types WHERE types.id = t.oid) \
             SELECT DISTINCT ON (id) * FROM types ORDER BY id, depth",
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod)::varchar(63), pg_get_expr(d.adbin, d.adrelid) \
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum) \
             WHERE a.attrelid = '\"orders\"'::regclass AND a.attnum > 0 AND NOT a.attisdropped",
            "SELECT EXISTS (SELECT * FROM information_schema.tables WHERE table_name = 'migrations')",
            "SELECT x.a FROM (SELECT 1 AS a) x, unnest(ARRAY[1, 2]) WITH ORDINALITY AS u(a, n)",
            "(SELECT 1) UNION (SELECT 2)",
            "SELECT * FROM (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)",
            "SELECT CAST(current_setting('server_version_num') AS int)",
            "SET LOCAL SCHEMA ''",
            "SELECT (pg_relation_is_updatable(c.oid::regclass, TRUE) & 8) = 8, information_schema._pg_truetypid(a.*, t.*), \
             (parse_ident(n.oid::regnamespace::text))[1], json_array_elements(c.relname::text::json->0) \
             FROM pg_class c, pg_attribute a, pg_type t, pg_namespace n",
            "SELECT name FROM pg_settings WHERE has_parameter_privilege(quote_ident(current_user)::regrole::oid, name, 'set')",
        ] {
            assert!(is_tenantless(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn whatever_may_read_or_change_a_tenants_rows_needs_one() {
        for text in [
            "SELECT * FROM orders",
            "SELECT 1; SELECT * FROM orders",
            "SELECT * FROM public.pg_type",
            "SELECT * FROM pg_catalog.orders",
            "SELECT * FROM pg_type, orders",
            "SELECT * FROM pg_type t JOIN orders o ON true",
            "SELECT * FROM (orders)",
            "SELECT * FROM (pg_type CROSS JOIN orders)",
            "SELECT (SELECT count(*) FROM orders)",
            "SELECT * FROM LATERAL (SELECT * FROM ONLY orders) x",
            "SELECT * FROM pg_type WHERE EXISTS (SELECT 1 FROM orders)",
            "SELECT * FROM pg_type UNION SELECT * FROM orders",
            "WITH x AS (SELECT * FROM orders) SELECT * FROM x",
            "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
            "SELECT my_function()",
            "SELECT ('a'::text).my_function",
            "SELECT (ARRAY['a'])[1] . my_function",
            "SELECT * FROM my_function()",
            "SELECT public.version()",
            "SELECT _pg_truetypid(a.*, t.*) FROM pg_attribute a, pg_type t",
            "SELECT information_schema.my_function()",
            "SELECT public._pg_truetypid(1)",
            "SELECT * FROM pg_type t WHERE my_function(t.oid)",
            "SELECT extract(year FROM orders)",
            "SELECT * INTO TEMP x FROM pg_type",
            "SELECT * FROM pg_type FOR UPDATE",
            "SELECT * FROM pg_stats",
            "SELECT * FROM pg_stat_activity",
            "SELECT pg_relation_size('orders')",
            "SELECT nextval('orders_id_seq')",
            "TABLE orders",
            "VALUES ((TABLE orders))",
            "INSERT INTO orders VALUES (1)",
            "COPY orders TO STDOUT",
            "CALL p()",
            "EXECUTE p",
            "CREATE TEMP TABLE x (a int)",
            "DECLARE c CURSOR FOR SELECT 1",
            "EXPLAIN SELECT 1",
            "SELECT * FROM U&\"orders\"",
            "SELECT query_to_xml('SELECT * FROM orders', true, true, '')",
            "SELECT 'no end",
        ] {
            assert!(!is_tenantless(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn both_sides_of_the_limits_of_a_text() {
        let nested = |depth: usize| format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(is_tenantless(nested(MAX_DEPTH - 1).as_bytes()));
        assert!(!is_tenantless(nested(MAX_DEPTH).as_bytes()));
        let long = |bytes: usize| format!("SELECT 1{}", " ".repeat(bytes - 8));
        assert!(is_tenantless(long(MAX_TEXT_BYTES).as_bytes()));
        assert!(!is_tenantless(long(MAX_TEXT_BYTES + 1).as_bytes()));
    }
}
