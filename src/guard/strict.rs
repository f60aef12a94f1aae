//! The allow-list by statement kind: what may stand where a statement begins. What is not known to stay within
//! its tenant's rows and its own session has a rule against it, a statement of PostgreSQL's future included.
//!
//! CREATE INDEX, and ALTER, DROP and COMMENT of tables, views, indexes and sequences, pass whatever they name:
//! PostgreSQL refuses anybody but the owner before it waits for a lock that would stop others, and the login role
//! owns nothing that outlives a session. Foreign keys and partitions are the exception, for the other table.

use super::rule::{
    EXPLAIN, LARGE_OBJECT, LOCK_TABLE, NOTIFY, OPAQUE_CODE, OTHER_SESSION, PREPARED_TRANSACTION,
    ROLE_SETTING, SERVER_FILE, STATEMENT_KIND, TEMPORARY_TYPE_NAME, TRUNCATE, UNKNOWN_STATEMENT, echo,
};
use super::setting::part;
use super::{Rules, types};
use crate::sql::StatementKind;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind};
use crate::sql::statement::Surveyor;

/// A rule, and what it is that the rule is against.
pub(super) type Objection = (&'static str, String);

/// What is wrong with a statement that begins with this token; the lexer is behind it.
#[inline]
pub(super) fn check_start(token: &Token<'_>, keyword: Keyword, lexer: &Lexer<'_>) -> Result<(), Objection> {
    use Keyword as K;
    match keyword {
        K::Select
        | K::Insert
        | K::Update
        | K::Delete
        | K::Merge
        | K::Values
        | K::Table
        | K::With
        | K::Begin
        | K::Start
        | K::Savepoint
        | K::Release
        | K::Declare
        | K::Fetch
        | K::Move
        | K::Close
        | K::Show
        | K::Reset
        | K::Discard
        | K::Deallocate
        | K::Execute
        | K::Call => Ok(()),
        K::Other if token.kind == TokenKind::Semicolon => Ok(()),
        _ => check_rare(token, keyword, lexer.clone()),
    }
}

fn check_rare(token: &Token<'_>, keyword: Keyword, mut lexer: Lexer<'_>) -> Result<(), Objection> {
    use Keyword as K;
    match keyword {
        K::Set => check_set(lexer),
        K::Commit | K::End | K::Rollback | K::Abort => match next_keyword(&mut lexer) {
            K::Prepared => object(PREPARED_TRANSACTION, "COMMIT or ROLLBACK PREPARED"),
            _ => Ok(()),
        },
        K::Prepare => match next_keyword(&mut lexer) {
            K::Transaction => object(PREPARED_TRANSACTION, "PREPARE TRANSACTION"),
            _ => Ok(()),
        },
        K::Unlisten => match lexer.next() {
            Some(token) if token.bytes == b"*" => Ok(()),
            _ => object(NOTIFY, "UNLISTEN of a channel"),
        },
        K::Listen => object(NOTIFY, "LISTEN"),
        K::Notify => object(NOTIFY, "NOTIFY"),
        K::Copy => check_copy(token, lexer),
        K::Create => check_create(lexer),
        K::Alter => check_alter(lexer),
        K::Drop => check_drop(lexer),
        K::Do => object(OPAQUE_CODE, "DO"),
        K::Explain => object(EXPLAIN, "EXPLAIN"),
        K::Lock => object(LOCK_TABLE, "LOCK"),
        _ => check_unknown(token, lexer),
    }
}

/// First words that are no keyword anywhere else in the proxy.
fn check_unknown(token: &Token<'_>, mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let first = Word(token);
    if token.kind == TokenKind::Open {
        // `(SELECT ...)`
        let inside = lexer.find(|token| token.kind != TokenKind::Open);
        let fits = inside.is_some_and(|it| Word(&it).is_any(&["select", "values", "table", "with"]));
        return if fits { Ok(()) } else { object(STATEMENT_KIND, "this in parentheses") };
    }
    if first.is("comment") {
        return check_comment(lexer);
    }
    let rules: [(&[&str], &'static str); 4] = [
        (&["grant", "revoke", "reassign", "security"], ROLE_SETTING),
        (&["truncate"], TRUNCATE),
        (&["load"], SERVER_FILE),
        (
            &[
                "analyze",
                "analyse",
                "checkpoint",
                "cluster",
                "import",
                "refresh",
                "reindex",
                "repack",
                "vacuum",
                "wait",
            ],
            STATEMENT_KIND,
        ),
    ];
    let rule =
        rules.iter().find(|(words, _)| first.is_any(words)).map_or(UNKNOWN_STATEMENT, |(_, rule)| rule);
    object(rule, &first.echo())
}

/// Of SET only that which takes another session's snapshot; what setting it sets is judged elsewhere.
fn check_set(lexer: Lexer<'_>) -> Result<(), Objection> {
    let mut words = lexer.take(3).skip_while(|token| Word(token).is("local") || Word(token).is("session"));
    let takes = words.next().is_some_and(|token| Word(&token).is("transaction"))
        && words.next().is_some_and(|token| Word(&token).is("snapshot"));
    if takes { object(OTHER_SESSION, "SET TRANSACTION SNAPSHOT") } else { Ok(()) }
}

fn check_copy(first: &Token<'_>, lexer: Lexer<'_>) -> Result<(), Objection> {
    let mut surveyor = Surveyor::default();
    surveyor.feed(first);
    for token in lexer.take_while(|token| token.kind != TokenKind::Semicolon) {
        surveyor.feed(&token);
    }
    match surveyor.finish().first {
        StatementKind::CopyFromStdin | StatementKind::CopyToStdout => Ok(()),
        _ => object(SERVER_FILE, "COPY of a file or program of the server"),
    }
}

fn check_create(mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let mut token = lexer.next();
    let mut is_temporary = false;
    while let Some(word) = token.as_ref().map(Word).filter(|word| word.is_any(OPENING)) {
        is_temporary = is_temporary || word.is("temp") || word.is("temporary");
        token = lexer.next();
    }
    let Some(word) = token.as_ref().map(Word) else { return object(STATEMENT_KIND, "CREATE") };
    let is_relation = word.is("table") || word.is("view") || word.is("sequence");
    if word.is("index") || (is_relation && (is_temporary || names_temporary(lexer.clone()))) {
        return check_other_table(lexer);
    }
    let rule = match () {
        () if word.is_any(&["role", "user", "group"]) => ROLE_SETTING,
        () if word.is_any(CODE) => OPAQUE_CODE,
        () => STATEMENT_KIND,
    };
    object(rule, &format!("CREATE {}", word.echo()))
}

/// Words between CREATE and the kind of object.
const OPENING: &[&str] =
    &["or", "replace", "global", "local", "unlogged", "recursive", "temp", "temporary", "unique"];

/// Kinds of object that are types as well.
const TYPED: &[&str] = &["table", "view", "sequence", "type", "domain"];

/// Objects of which a part is code, or runs it: CONSTRAINT and EVENT are triggers, TRUSTED and PROCEDURAL languages.
const CODE: &[&str] = &[
    "function",
    "procedure",
    "trigger",
    "constraint",
    "event",
    "rule",
    "operator",
    "cast",
    "aggregate",
    "type",
    "domain",
    "extension",
    "language",
    "trusted",
    "procedural",
    "transform",
    "conversion",
    "access",
];

/// Whether the name that stands here, perhaps behind IF NOT EXISTS, is in `pg_temp`.
fn names_temporary(lexer: Lexer<'_>) -> bool {
    let mut words = lexer.skip_while(|token| Word(token).is_any(&["if", "not", "exists"]));
    let schema = words.next();
    let dot = words.next();
    schema.as_ref().is_some_and(is_temporary_schema) && dot.is_some_and(|it| it.kind == TokenKind::Dot)
}

/// A clause by which the command asks for a lock on another table that stops all who write to it, or read it, and
/// waits for that lock before it asks whose the table is: REFERENCES, PARTITION OF, ATTACH and DETACH PARTITION.
fn check_other_table(lexer: Lexer<'_>) -> Result<(), Objection> {
    let mut before: Option<Token<'_>> = None;
    for token in lexer.take_while(|token| token.kind != TokenKind::Semicolon) {
        let word = Word(&token);
        let (first, second) = before.as_ref().map_or((false, false), |before| {
            (Word(before).is_any(&["attach", "detach"]), Word(before).is("partition"))
        });
        if word.is("references") || (first && word.is("partition")) || (second && word.is("of")) {
            return object(LOCK_TABLE, "a foreign key to, or a partition of, another table");
        }
        before = Some(token);
    }
    Ok(())
}

fn check_alter(mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let token = lexer.next();
    let Some(word) = token.as_ref().map(Word) else { return object(STATEMENT_KIND, "ALTER") };
    let rule = match () {
        () if word.is_any(RELATIONS) => return check_other_table(lexer),
        () if word.is_any(&["role", "user", "group", "database", "system", "default"]) => ROLE_SETTING,
        () if word.is("large") => LARGE_OBJECT,
        () => STATEMENT_KIND,
    };
    object(rule, &format!("ALTER {}", word.echo()))
}

fn check_drop(mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let token = lexer.next();
    let Some(word) = token.as_ref().map(Word) else { return object(STATEMENT_KIND, "DROP") };
    let rule = match () {
        () if word.is_any(RELATIONS) => return Ok(()),
        () if word.is_any(&["role", "user", "group", "owned"]) => ROLE_SETTING,
        () => STATEMENT_KIND,
    };
    object(rule, &format!("DROP {}", word.echo()))
}

const RELATIONS: &[&str] = &["table", "view", "index", "sequence"];

fn check_comment(mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let on = lexer.next().is_some_and(|token| Word(&token).is("on"));
    let token = lexer.next();
    let fits = token.is_some_and(|token| Word(&token).is_any(RELATIONS) || Word(&token).is("column"));
    if on && fits { Ok(()) } else { object(STATEMENT_KIND, "COMMENT on this kind of object") }
}

/// What is wrong with INTO here; the lexer is behind it. As a clause of SELECT it creates a table.
pub(super) fn check_into(
    previous: Option<&Token<'_>>,
    lexer: &Lexer<'_>,
    rules: &Rules,
) -> Result<(), Objection> {
    let is_other =
        |token: &Token<'_>| token.kind == TokenKind::Dot || Word(token).is_any(&["insert", "merge", "as"]);
    if previous.is_some_and(is_other) {
        return Ok(());
    }
    let mut lexer = lexer.clone();
    let mut is_temporary = false;
    let mut name = lexer.next();
    let words = ["local", "global", "temp", "temporary", "unlogged", "table"];
    while let Some(word) = name.as_ref().map(Word).filter(|word| word.is_any(&words)) {
        is_temporary = is_temporary || word.is("temp") || word.is("temporary");
        name = lexer.next();
    }
    if !is_temporary && !name.as_ref().is_some_and(is_temporary_schema) && !rules.is_granted(STATEMENT_KIND) {
        return object(STATEMENT_KIND, "SELECT INTO a table that is not temporary");
    }
    check_name(name, lexer)
}

/// What is wrong with the name of the object that a CREATE creates; the lexer is behind CREATE. A relation is a type as
/// well, and one among the temporary objects comes before the built-in type of its name.
pub(super) fn check_created_name(mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let mut token = lexer.next();
    while token.as_ref().map(Word).is_some_and(|word| word.is_any(OPENING)) {
        token = lexer.next();
    }
    if !token.as_ref().map(Word).is_some_and(|word| word.is_any(TYPED)) {
        return Ok(());
    }
    let mut name = lexer.next();
    while name.as_ref().map(Word).is_some_and(|word| word.is_any(&["if", "not", "exists"])) {
        name = lexer.next();
    }
    check_name(name, lexer)
}

/// What is wrong with the new name of an object; the lexer is behind RENAME in an ALTER. `RENAME a TO b` is of a column.
pub(super) fn check_renamed(mut lexer: Lexer<'_>) -> Result<(), Objection> {
    if next_keyword(&mut lexer) != Keyword::To {
        return Ok(());
    }
    let name = lexer.next();
    check_name(name, lexer)
}

/// A name, its first part read.
fn check_name(first: Option<Token<'_>>, mut lexer: Lexer<'_>) -> Result<(), Objection> {
    let mut name = first;
    for _ in 0..MAX_NAME_PARTS {
        let mut ahead = lexer.clone();
        if ahead.next().is_none_or(|token| token.kind != TokenKind::Dot) {
            break;
        }
        name = ahead.next();
        lexer = ahead;
    }
    if name.as_ref().and_then(part).is_some_and(|name| types::is_built_in(&name)) {
        return object(TEMPORARY_TYPE_NAME, "an object with the name of a built-in type");
    }
    Ok(())
}

/// `database.schema.table` has two parts more.
const MAX_NAME_PARTS: usize = 3;

fn is_temporary_schema(token: &Token<'_>) -> bool {
    Word(token).is("pg_temp") || token.bytes == b"\"pg_temp\""
}

fn next_keyword(lexer: &mut Lexer<'_>) -> Keyword {
    lexer
        .next()
        .filter(|token| token.kind == TokenKind::Word)
        .map_or(Keyword::Other, |token| Keyword::of(token.bytes))
}

fn object(rule: &'static str, what: &str) -> Result<(), Objection> {
    Err((rule, what.to_owned()))
}

/// A token as a word of SQL's own; nothing in quotes is one.
struct Word<'a>(&'a Token<'a>);

// === impl Word ===

impl Word<'_> {
    fn is(&self, word: &str) -> bool {
        self.0.kind == TokenKind::Word && self.0.bytes.eq_ignore_ascii_case(word.as_bytes())
    }

    fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }

    fn echo(&self) -> String {
        if self.0.kind == TokenKind::Word {
            echo(&self.0.bytes.to_ascii_uppercase())
        } else {
            "this".to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
