//! Values of `search_path`: the schemas in which names are looked for. One of the proxy's own, or another session's
//! temporary one, is refused in whatever way the value comes: as names or literals of a SET, as the argument of
//! `set_config` in sight or bound, and at startup.

use super::argument::{Argument, Given, argument};
use super::inspection::own_objects;
use super::rule::{self, refusal};
use super::setting::{OWN_SCHEMA, plain_literal};
use super::{Refusal, Rules};
use crate::directory::GuardLevel;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};

/// How the names of the schemas begin that hold other sessions' temporary objects.
const TEMPORARY_SCHEMAS: [&[u8]; 2] = [b"pg_temp_", b"pg_toast_temp_"];

impl Rules {
    /// What is wrong with a value of `search_path` as PostgreSQL gets it.
    pub(super) fn check_schemas(&self, value: &[u8]) -> Result<(), Refusal> {
        let value = value.to_ascii_lowercase();
        let names = |schema: &[u8]| value.windows(schema.len()).any(|window| window == schema);
        if self.level == GuardLevel::Off {
            return Ok(());
        }
        if names(OWN_SCHEMA) {
            return Err(own_objects());
        }
        if self.is_strict() && TEMPORARY_SCHEMAS.iter().any(|schema| names(schema)) {
            return self
                .object((rule::OTHER_SESSION, "search_path to a numbered temporary schema".to_owned()));
        }
        Ok(())
    }

    /// What is wrong with the argument of a call; the lexer is behind the name and its comma. A parameter is judged when
    /// it is bound.
    pub(super) fn check_called_path(&self, lexer: Lexer<'_>) -> Result<(), Refusal> {
        match argument(lexer) {
            Argument::Null | Argument::Bound(_) => Ok(()),
            Argument::Literal(value) => self.check_schemas(&value),
            Argument::Opaque => Err(unreadable(
                "set_config of search_path to a value that is no plain literal and no parameter",
            )),
        }
    }

    /// What is wrong with the literals of a SET; its names are judged where they stand. The lexer is behind the setting's
    /// name.
    pub(super) fn check_assigned_path(&self, mut lexer: Lexer<'_>) -> Result<(), Refusal> {
        let mut next = lexer.next();
        if next.as_ref().is_some_and(is_sign) {
            next = lexer.next();
        }
        while let Some(token) = next {
            match token.kind {
                _ if is_literal(&token) => self.check_schemas(&read(&token)?)?,
                TokenKind::Word | TokenKind::QuotedWord | TokenKind::Number => {}
                // The sign of a number.
                TokenKind::Operator => {
                    next = lexer.next();
                    continue;
                }
                _ => break,
            }
            let mut behind = lexer.next();
            // The rest of a number such as 0x1f.
            while token.kind == TokenKind::Number
                && behind.as_ref().is_some_and(|rest| rest.kind == TokenKind::Word)
            {
                behind = lexer.next();
            }
            if behind.is_none_or(|behind| behind.kind != TokenKind::Comma) {
                break;
            }
            next = lexer.next();
        }
        Ok(())
    }

    /// What is wrong with a bound value.
    pub(super) fn check_bound_path(&self, value: Given<'_>) -> Result<(), Refusal> {
        match value {
            Given::Null => Ok(()),
            Given::Text(value) => self.check_schemas(value),
            Given::Unknown if self.level == GuardLevel::Off => Ok(()),
            Given::Unknown => Err(unreadable("set_config of search_path to a parameter that is no text")),
        }
    }
}

/// A value that is not in sight may name any schema.
fn unreadable(what: &str) -> Refusal {
    refusal(rule::OWN_OBJECTS, what)
}

fn read(token: &Token<'_>) -> Result<Vec<u8>, Refusal> {
    if token.kind == TokenKind::DollarText {
        return Ok(content(token));
    }
    plain_literal(token).ok_or_else(|| unreadable("search_path to a literal with escapes"))
}

fn is_literal(token: &Token<'_>) -> bool {
    use TokenKind as K;
    matches!(token.kind, K::Text | K::EscapeText | K::UnicodeText | K::BitText | K::DollarText)
}

fn is_sign(token: &Token<'_>) -> bool {
    token.bytes == b"=" || (token.kind == TokenKind::Word && Keyword::of(token.bytes) == Keyword::To)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Verdict, inspect};

    fn rules(level: GuardLevel) -> Rules {
        // So that the strict level, too, reads on behind the kind of statement.
        Rules::new("app.tenant_id", level, &["explain", "statement-kind", "opaque-code", "role-setting"])
    }

    fn judge(text: &str, level: GuardLevel) -> &'static str {
        match inspect(text.as_bytes(), &rules(level)) {
            Verdict::Pass(_) => "pass",
            Verdict::Tenant(..) => "tenant",
            Verdict::Refuse(refused) => refused.rule,
        }
    }

    /// What both levels say.
    fn judge_both(text: &str) -> &'static str {
        let [context, strict] = [GuardLevel::Context, GuardLevel::Strict].map(|level| judge(text, level));
        assert_eq!(context, strict, "{text}");
        strict
    }

    #[test]
    fn a_path_in_sight_or_bound_passes() {
        for text in [
            "SET search_path = a, 'b', \"c\", $$d$$, E'e'",
            "SET LOCAL search_path TO DEFAULT",
            "SET SCHEMA 'a'",
            "SELECT set_config('search_path', 'a, b', true)",
            "SELECT set_config('search_path', '', false), 'pgtenant'",
            "SELECT set_config('search_path', NULL, false)",
            "SELECT set_config('search_path', $1, true)",
            "SELECT pg_catalog.set_config('Search_Path', $1::text, false), $2",
            "SELECT set_config('search_path', $1, true), set_config('search_path', $1, false)",
            "SELECT set_config('search_path', $1, true), set_config('x.y', $2 || 'a', true)",
            "DO $$ BEGIN SET search_path = a; PERFORM set_config('search_path', 'a', true); END $$",
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql SET search_path = a, 'b' AS E'SELECT \\'pg\\''",
        ] {
            assert_eq!(judge_both(text), "pass", "{text}");
        }
    }

    #[test]
    fn a_path_that_names_the_proxys_schema_or_is_out_of_sight_is_refused() {
        for text in [
            "SET search_path = E'pgt\\145nant'",
            "SET search_path = a, U&'pgt\\0065nant'",
            "SET search_path TO U&'pgtenant'",
            "SET search_path = $$pgtenant$$",
            "SET search_path = 'pgten'\n'ant'",
            "SET SCHEMA E'pgt\\145nant'",
            "SET search_path = 1, E'pgt\\145nant'",
            "SET search_path = -1.5, a, 0x1f, + 2, E'pgt\\145nant'",
            "SET SCHEMA U&'pgtenant'",
            "SET SESSION search_path = \"a\", E'\\160gtenant'",
            "SELECT set_config('search_path', 'pgten' || 'ant', true)",
            "SELECT set_config('search_path', concat('pgten', 'ant'), true)",
            "SELECT set_config('search_path', E'pgt\\145nant', true)",
            "SELECT set_config('search_path', U&'pgt\\0065nant', true)",
            "SELECT set_config('search_path', name, true) FROM users",
            "SELECT set_config('search_path', (SELECT 'x'), true)",
            "SELECT set_config('search_path', $1 || 'ant', true)",
            "SELECT set_config('search_path', $1::name, true)",
            "SELECT set_config('search_path', $1, true) WHERE $1 = 'x'",
            "SELECT set_config('search_path', $1, true); SELECT 1",
            "PREPARE p AS SELECT set_config('search_path', $1, true)",
            "PREPARE p(text) AS SELECT set_config('search_path', $1, true)",
            "DECLARE c CURSOR FOR SELECT set_config('search_path', $1, true)",
            "EXPLAIN ANALYZE SELECT set_config('search_path', $1, true)",
            "INSERT INTO t SELECT set_config('search_path', $1, true)",
            "WITH x AS (SELECT set_config('search_path', $1, true)) SELECT 1 FROM x",
            "DO $$ BEGIN PERFORM set_config('search_path', v, true); END $$",
            "CREATE FUNCTION f(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('search_path', $1, true) $$",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = E'pgt\\145nant' AS 'SELECT 1'",
            "ALTER ROLE app SET search_path = U&'pgtenant'",
        ] {
            assert_eq!(judge_both(text), "own-objects", "{text}");
        }
    }

    #[test]
    fn another_sessions_temporary_schema_is_refused_by_the_strict_level() {
        for text in [
            "SET search_path = 'pg_temp_3'",
            "SET search_path = a, 'PG_TOAST_TEMP_3'",
            "SELECT set_config('search_path', 'a, \"pg_temp_12\"', true)",
        ] {
            assert_eq!(judge(text, GuardLevel::Strict), "other-session", "{text}");
            assert_eq!(judge(text, GuardLevel::Context), "pass", "{text}");
        }
        for text in ["SET search_path = 'pg_temp'", "SELECT set_config('search_path', 'pg_temp, a', true)"] {
            assert_eq!(judge_both(text), "pass", "{text}");
        }
    }

    #[test]
    fn a_bound_path_is_judged_as_a_literal_is() {
        let said = |value, level| rules(level).check_bound_path(value).err().map(|refused| refused.rule);
        for (value, strict, context) in [
            (Given::Text(b"a, b"), None, None),
            (Given::Text(b""), None, None),
            (Given::Null, None, None),
            (Given::Text(b"a, \"PgTenant\""), Some("own-objects"), Some("own-objects")),
            (Given::Text(b"pg_temp_3"), Some("other-session"), None),
            (Given::Unknown, Some("own-objects"), Some("own-objects")),
        ] {
            let [by_strict, by_context, off] =
                [GuardLevel::Strict, GuardLevel::Context, GuardLevel::Off].map(|level| said(value, level));
            assert_eq!((by_strict, by_context, off), (strict, context, None), "{value:?}");
        }
    }

    #[test]
    fn a_path_at_startup_is_judged_too() {
        for (name, value, strict, context) in [
            ("search_path", "a, b", None, None),
            ("Search_Path", "a, pgtenant", Some("own-objects"), Some("own-objects")),
            ("search_path", "pg_temp_3", Some("other-session"), None),
            ("application_name", "pgtenant", None, None),
        ] {
            let said = [GuardLevel::Strict, GuardLevel::Context, GuardLevel::Off]
                .map(|level| rules(level).check_parameter(name, value).err().map(|refused| refused.rule));
            assert_eq!(said, [strict, context, None], "{name} = {value}");
        }
    }
}
