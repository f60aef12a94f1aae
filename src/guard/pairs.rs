//! Reads the one text by which PostGraphile sets all settings of a transaction, whose names and values are in an array of
//! JSON: `select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el`. Nothing but this form: letter case
//! and space, the alias, AS, the schema `pg_catalog` and the parameter's number may differ.

use super::change::{ChangedName, Form, Scope, Target, TenantChange, parameter};
use super::inspection::inspect_but;
use super::{Rules, Verdict};
use crate::sql::Survey;
use crate::sql::lexer::{Lexer, Token, TokenKind, content};
use crate::sql::words::folded;

/// The most tokens of the form, and one.
const MAX_TOKENS: usize = 40;

/// The change that a text of this form may be, with its survey.
pub fn paired_settings(text: &[u8], rules: &Rules) -> Option<(Survey, TenantChange)> {
    let tokens: Vec<Token<'_>> = Lexer::new(text).take(MAX_TOKENS).collect();
    let mut reader = Reader(&tokens);
    reader.is("select")?;
    let place = reader.function("set_config")?;
    reader.bytes(b"(")?;
    let element = reader.element(b"0")?;
    reader.bytes(b",")?;
    (reader.element(b"1")? == element).then_some(())?;
    reader.bytes(b",")?;
    reader.is("true")?;
    reader.bytes(b")")?;
    reader.is("from")?;
    reader.function("json_array_elements")?;
    reader.bytes(b"(")?;
    let number = parameter(reader.next()?)?;
    reader.bytes(b":")?;
    reader.bytes(b":")?;
    reader.is("json")?;
    reader.bytes(b")")?;
    let mut alias = reader.next()?;
    if is_word(alias, "as") {
        alias = reader.next()?;
    }
    (name(alias)? == element).then_some(())?;
    while reader.bytes(b";").is_some() {}
    reader.0.is_empty().then_some(())?;
    let change = TenantChange {
        form: Form::SetConfig,
        name: ChangedName::Pairs(number),
        scope: Scope::Local,
        target: Target::Parameter(number),
        local_argument: 0..0,
        column: Box::default(),
    };
    match inspect_but(text, rules, &[place]) {
        Verdict::Pass(survey) => Some((survey, change)),
        Verdict::Tenant(..) | Verdict::Refuse(_) => None,
    }
}

/// Takes what it expects, and nothing else.
struct Reader<'t, 'a>(&'t [Token<'a>]);

impl<'t, 'a> Reader<'t, 'a> {
    fn next(&mut self) -> Option<&'t Token<'a>> {
        let (token, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(token)
    }

    fn is(&mut self, word: &str) -> Option<()> {
        is_word(self.next()?, word).then_some(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let (token, rest) = self.0.split_first()?;
        (token.bytes == bytes).then_some(())?;
        self.0 = rest;
        Some(())
    }

    /// The name of a function of PostgreSQL; where it begins.
    fn function(&mut self, wanted: &str) -> Option<usize> {
        let mut token = self.next()?;
        if name(token)? == b"pg_catalog" {
            self.bytes(b".")?;
            token = self.next()?;
        }
        (name(token)? == wanted.as_bytes()).then_some(token.start)
    }

    /// An element of the array, as text; the array's name.
    fn element(&mut self, at: &[u8]) -> Option<Vec<u8>> {
        let array = name(self.next()?)?;
        self.bytes(b"->>")?;
        let index = self.next().filter(|token| token.kind == TokenKind::Number)?;
        (index.bytes == at).then_some(array)
    }
}

fn is_word(token: &Token<'_>, word: &str) -> bool {
    token.kind == TokenKind::Word && token.bytes.eq_ignore_ascii_case(word.as_bytes())
}

fn name(token: &Token<'_>) -> Option<Vec<u8>> {
    let name = match token.kind {
        TokenKind::Word => folded(token.bytes).into_owned(),
        TokenKind::QuotedWord => content(token),
        _ => return None,
    };
    name.is_ascii().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::GuardLevel;

    fn read(text: &str) -> Option<u16> {
        let found = [GuardLevel::Context, GuardLevel::Strict].map(|level| {
            paired_settings(text.as_bytes(), &Rules::new("app.tenant_id", level, &[]))
                .map(|(_, change)| change)
        });
        assert_eq!(found[0], found[1], "{text}");
        found[0].as_ref().map(TenantChange::parameters)
    }

    #[test]
    fn the_form_is_read_and_nothing_else() {
        for (text, number) in [
            ("select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el", 1),
            (
                "SELECT pg_catalog.set_config ( E ->> 0,\ne->>1,TRUE ) FROM json_array_elements($3 :: JSON) AS \"e\" ;;",
                3,
            ),
        ] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in [
            "select set_config(el->>0, el->>1, false) from json_array_elements($1::json) el",
            "select set_config(el->>0, el->>1, $2) from json_array_elements($1::json) el",
            "select set_config(el->>00, el->>1, true) from json_array_elements($1::json) el",
            "select set_config(el->>'0', el->>1, true) from json_array_elements($1::json) el",
            "select set_config(el->0, el->>1, true) from json_array_elements($1::json) el",
            "select set_config(el->>0, x->>1, true) from json_array_elements($1::json) el",
            "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) x",
            "select set_config(el->>0, el->>1, true) from json_array_elements($1) el",
            "select set_config(el->>0, el->>1, true) from json_array_elements('[]'::json) el",
            "select set_config(el->>0, el->>1, true) from jsonb_array_elements($1::jsonb) el",
            "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el(value)",
            "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el where true",
            "select set_config(el->>0, el->>1, true), 1 from json_array_elements($1::json) el",
            "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el; select 1",
            "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el /* x */ union select 'x'",
            "with x as (select 1) select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
