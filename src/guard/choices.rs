//! Reads the changes of tenant in a text that holds other statements too, as applications send them: `SET …; SET …`,
//! `BEGIN; SET LOCAL …; SELECT …; COMMIT`, several settings in one SELECT. The text goes on as it stands, for the tenant
//! that it chooses; so only forms whose meaning is in plain sight, in front of anything that could read a row.

use super::change::{ChangeReader, ChangedName, Form, Scope, Target, TenantChange, parameter};
use super::inspection::inspect_but;
use super::tenantless::is_tenantless;
use super::{Rules, Verdict};
use crate::sql::Survey;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, Token, TokenKind};
use crate::sql::statement::TokenPosition;

/// The most changes in one text.
const MAX_CHANGES: usize = 16;

/// The changes of tenant in a text, and its survey; none: there are none, or the text cannot be sent on as it stands.
pub fn choices(text: &[u8], rules: &Rules) -> Option<(Survey, Vec<TenantChange>)> {
    let found = find(text, rules)?;
    if found.changes.is_empty() || !has_own_parameters(text, &found.changes) {
        return None;
    }
    let is_reset = |change: &TenantChange| change.target == Target::Default;
    // The default of the setting is nobody's tenant: nothing may be read there.
    let resets = found.changes.iter().filter(|change| is_reset(change)).count();
    let is_called = found.changes.iter().any(|change| is_reset(change) && change.form == Form::SetConfig);
    if is_called || (resets > 0 && resets < found.changes.len()) {
        return None;
    }
    let end = if resets > 0 { text.len() } else { found.end };
    if !is_tenantless(text.get(..end)?) {
        return None;
    }
    match inspect_but(text, rules, &found.places) {
        Verdict::Pass(survey) => Some((survey, found.changes)),
        Verdict::Tenant(..) | Verdict::Refuse(_) => None,
    }
}

/// Whether the parameters of the changes stand nowhere else in the text: in front of the change another use would give
/// a parameter its type, and the value another meaning.
fn has_own_parameters(text: &[u8], changes: &[TenantChange]) -> bool {
    let own: Vec<u16> = changes.iter().filter_map(|change| change.target.parameter()).collect();
    let uses = Lexer::new(text).filter(|token| token.kind == TokenKind::Parameter);
    own.is_empty()
        || uses.filter_map(|token| parameter(&token)).filter(|it| own.contains(it)).count() == own.len()
}

#[derive(Debug, Default)]
struct Found {
    changes: Vec<TenantChange>,
    /// Where the SET, RESET or `set_config` of each begins.
    places: Vec<usize>,
    /// Where the last statement with one ends.
    end: usize,
}

fn find(text: &[u8], rules: &Rules) -> Option<Found> {
    let mut found = Found::default();
    let (mut lexer, mut depth, mut holds) = (Lexer::new(text), 0_usize, false);
    let mut place = TokenPosition::Start;
    loop {
        let before = lexer.clone();
        let Some(token) = lexer.next() else { break };
        match token.kind {
            TokenKind::Semicolon if depth == 0 => {
                if std::mem::take(&mut holds) {
                    found.end = token.start;
                }
                place = TokenPosition::Start;
                continue;
            }
            TokenKind::Open => depth = depth.saturating_add(1),
            TokenKind::Close => depth = depth.saturating_sub(1),
            TokenKind::Word | TokenKind::QuotedWord => {
                if let Some(change) = choice_at(&token, (&before, &lexer), rules, place) {
                    found.changes.push(change);
                    found.places.push(token.start);
                    holds = true;
                }
            }
            _ => {}
        }
        place = TokenPosition::Within;
        if found.changes.len() > MAX_CHANGES {
            return None;
        }
    }
    if holds {
        found.end = text.len();
    }
    Some(found)
}

/// The change of the tenant setting, or of the one that carries claims, for its transaction.
fn choice_at(
    token: &Token<'_>,
    lexers: (&Lexer<'_>, &Lexer<'_>),
    rules: &Rules,
    place: TokenPosition,
) -> Option<TenantChange> {
    let change = change_at(token, lexers, rules.tenant_setting(), place);
    change.or_else(|| {
        let mut change = change_at(token, lexers, &rules.claims()?.setting, place)?;
        change.name = ChangedName::Claims;
        (change.scope == Scope::Local && change.target != Target::Default).then_some(change)
    })
}

/// The change that begins with a token, whose lexers stand in front of it and behind it.
fn change_at(
    token: &Token<'_>,
    (before, behind): (&Lexer<'_>, &Lexer<'_>),
    setting: &str,
    place: TokenPosition,
) -> Option<TenantChange> {
    let begins = place == TokenPosition::Start && token.kind == TokenKind::Word;
    let verb = if begins { Keyword::of(token.bytes) } else { Keyword::Other };
    if matches!(verb, Keyword::Set | Keyword::Reset) {
        let mut reader = ChangeReader::new(behind.clone());
        let change = if verb == Keyword::Set { reader.set(setting) } else { reader.reset(setting) };
        change.filter(|_| reader.ends_statement())
    } else if Keyword::of_name(spelling(token)) == Keyword::SetConfig {
        ChangeReader::new(before.clone()).set_config(setting)
    } else {
        None
    }
}

fn spelling<'a>(token: &Token<'a>) -> &'a [u8] {
    match token.kind {
        TokenKind::QuotedWord => token.bytes.get(1..token.bytes.len().saturating_sub(1)).unwrap_or_default(),
        _ => token.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::GuardLevel;

    fn read(text: &str) -> Option<Vec<(Target, Scope)>> {
        [GuardLevel::Context, GuardLevel::Strict]
            .map(|level| {
                let rules = Rules::new("app.tenant_id", level, &[]);
                let found = choices(text.as_bytes(), &rules).map(|(_, changes)| changes);
                found.map(|changes| changes.into_iter().map(|one| (one.target, one.scope)).collect())
            })
            .into_iter()
            .reduce(|one, other: Option<Vec<_>>| {
                assert_eq!(one, other, "{text}");
                other
            })
            .flatten()
    }

    fn value(text: &str) -> Target {
        Target::Value(text.to_owned())
    }

    #[test]
    fn the_idioms_of_applications_are_read() {
        for (text, expected) in [
            ("SET app.tenant_id = 'a'; SET app.user_id = '7'", vec![(value("a"), Scope::Session)]),
            ("SET LOCAL app.user_id = '7'; SET LOCAL app.tenant_id TO a;", vec![(value("a"), Scope::Local)]),
            (
                "BEGIN; SET LOCAL app.tenant_id = 'a'; SELECT * FROM orders; COMMIT",
                vec![(value("a"), Scope::Local)],
            ),
            (
                "SELECT set_config('app.tenant_id', 'a', true), set_config('app.user_id', '7', true)",
                vec![(value("a"), Scope::Local)],
            ),
            (
                "select set_config('app.user_id', $2, true), pg_catalog.set_config('app.tenant_id', $1, true) as t",
                vec![(Target::Parameter(1), Scope::Local)],
            ),
            ("RESET app.tenant_id; RESET app.user_id; SELECT 1", vec![(Target::Default, Scope::Session)]),
            (
                "SET LOCAL app.tenant_id TO DEFAULT; SET LOCAL app.user_id TO DEFAULT",
                vec![(Target::Default, Scope::Local)],
            ),
            (
                "SET app.tenant_id = 'a'; SET LOCAL app.tenant_id = 'b'; SELECT 1",
                vec![(value("a"), Scope::Session), (value("b"), Scope::Local)],
            ),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_in_plain_sight_is_left_refused() {
        for text in [
            "SELECT 1",
            "SELECT * FROM orders; SET app.tenant_id = 'a'",
            "SET app.tenant_id = 'a', 'b'; SELECT 1",
            "SET app.tenant_id TO DEFAULT; SELECT note FROM orders",
            "RESET app.tenant_id, x; RESET app.user_id",
            "RESET app.tenant_id; SET app.tenant_id = 'a'",
            "RESET app.tenant_id; SELECT f()",
            "SET app.tenant_id = 'a'; RESET app.tenant_id",
            "SELECT set_config('app.tenant_id', note, true) FROM orders",
            "SELECT set_config('app.tenant_id', 'a', true) FROM orders",
            "SELECT set_config('app.tenant_id', 'a', true), (SELECT note FROM orders)",
            "SELECT set_config('app.tenant_id', 'a' || 'b', true), 1",
            "SELECT set_config('app.tenant_id', lower('A'), true), 1",
            "SELECT set_config('app.tenant_id', 'a', true), set_config('app.tenant_id', f(), true)",
            "SELECT set_config('app.tenant_id', NULL, true), 1",
            "SELECT $1::\"char\", set_config('app.tenant_id', $1, true)",
            "SELECT set_config('app.tenant_id', $1, true), $1::name",
            "SET app.tenant_id = 'a'; SET pgtenant.nonce = 'x'",
            "SET app.tenant_id = 'a'; SET ROLE other",
            "SET app.tenant_id = 'a'; DO $$ BEGIN PERFORM set_config('app.tenant_id', 'b', true); END $$",
            "SET app.tenant_id = 'a'; CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.tenant_id = 'b' AS 'SELECT 1'",
            "ALTER ROLE app SET app.tenant_id = 'a'",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn both_sides_of_the_number_of_changes() {
        let text = |count: usize| format!("{}SELECT 1", "SET app.tenant_id = 'a'; ".repeat(count));
        assert_eq!(read(&text(MAX_CHANGES)).map(|found| found.len()), Some(MAX_CHANGES));
        assert_eq!(read(&text(MAX_CHANGES + 1)), None);
    }
}
