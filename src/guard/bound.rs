//! Reads a SELECT of nothing but calls of `set_config`, of which some name their setting by a parameter. Which setting
//! that is, is seen when the parameter is bound: the tenant setting is a choice of the tenant, any other is judged then
//! as it is judged where it stands in the text.

use super::argument::{Given, JudgedSetting};
use super::assignment::check_value;
use super::change::{CalledName, ChangeReader, ChangedName, Scope, TenantChange};
use super::inspection::inspect_but;
use super::rule::{self, Refusal, refusal};
use super::setting::{AssignedValue, Setting};
use super::{Rules, Verdict};
use crate::sql::Survey;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, TokenKind};

/// The most calls in one text.
const MAX_CALLS: usize = 64;

/// A text that is nothing but calls of `set_config`.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingCalls {
    /// Its survey.
    pub survey: Survey,
    /// The calls that name the tenant setting, or by a parameter any.
    pub changes: Vec<TenantChange>,
    /// How many calls there are.
    pub count: usize,
}

/// The calls of a text with the tenant setting or a parameter for a name; none: the text is something else, or the guard
/// refuses another part of it.
pub fn setting_calls(text: &[u8], rules: &Rules) -> Option<SettingCalls> {
    let mut reader = ChangeReader::new(Lexer::new(text));
    while reader.takes(TokenKind::Semicolon) {}
    (reader.keyword()? == Keyword::Select).then_some(())?;
    let (mut changes, mut places, mut count) = (Vec::new(), Vec::new(), 0_usize);
    loop {
        let call = reader.call()?;
        let name = match &call.name {
            CalledName::Literal(name) if Setting::named(name).is(&rules.setting) => Some(ChangedName::Tenant),
            CalledName::Literal(name)
                if rules.claims().is_some_and(|claims| Setting::named(name).is(&claims.setting)) =>
            {
                Some(ChangedName::Claims)
            }
            CalledName::Literal(_) => None,
            CalledName::Parameter(number) => Some(ChangedName::Parameter(*number)),
        };
        if let Some(name) = name {
            places.push(call.start);
            changes.push(call.into_change(name));
        }
        count = count.saturating_add(1);
        if count > MAX_CALLS {
            return None;
        }
        if !reader.takes(TokenKind::Comma) {
            break;
        }
    }
    while reader.takes(TokenKind::Semicolon) {}
    reader.is_at_end().then_some(())?;
    let lasts = |change: &TenantChange| change.name == ChangedName::Claims && change.scope != Scope::Local;
    if changes.iter().any(lasts) {
        return None;
    }
    match inspect_but(text, rules, &places) {
        Verdict::Pass(survey) => Some(SettingCalls { survey, changes, count }),
        Verdict::Tenant(..) | Verdict::Refuse(_) => None,
    }
}

// === impl Rules ===

impl Rules {
    /// Whether this is the name of the tenant setting or of the one that carries claims.
    pub fn is_choice(&self, name: &[u8]) -> bool {
        self.is_tenant_setting(name) || self.is_claims(name)
    }

    /// Whether this is the name of the setting that carries claims.
    pub fn is_claims(&self, name: &[u8]) -> bool {
        self.claims().is_some_and(|claims| name.eq_ignore_ascii_case(claims.setting.as_bytes()))
    }

    /// Whether this is the tenant setting's name, as `set_config` reads it.
    pub fn is_tenant_setting(&self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.setting.as_bytes())
    }

    /// What is wrong with a setting that is not the tenant's, named by a parameter, and with its value; no value is NULL.
    pub fn check_bound(&self, name: &[u8], value: Option<&[u8]>) -> Result<(), Refusal> {
        if !name.is_ascii() {
            return Err(refusal(rule::OPAQUE_NAME, "set_config of a name beyond ASCII"));
        }
        let setting = Setting::named(name);
        self.check_called(&setting)?;
        if setting.is_read_by_guard() {
            let value = value.map_or(AssignedValue::Default, |value| AssignedValue::Given(value.to_vec()));
            check_value(&setting, &value)?;
        }
        let given = value.map_or(Given::Null, Given::Text);
        if setting.is_search_path() { self.check_bound_path(given) } else { Ok(()) }
    }

    /// What is wrong with the value that a parameter gives to a setting which the text names.
    pub fn check_bound_value(&self, setting: JudgedSetting, value: Given<'_>) -> Result<(), Refusal> {
        match (setting, value) {
            (JudgedSetting::SearchPath, value) => self.check_bound_path(value),
            (JudgedSetting::Role, _) if !self.has_roles() => Ok(()),
            (JudgedSetting::Role, Given::Null) => self.check_bound_role(None),
            (JudgedSetting::Role, Given::Text(value)) => self.check_bound_role(Some(value)),
            (JudgedSetting::Role, Given::Unknown) => self.check_bound_role(Some(b"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{ClaimsSetting, GuardLevel};

    fn read(text: &str) -> Option<(Vec<ChangedName>, usize)> {
        let found = [GuardLevel::Context, GuardLevel::Strict].map(|level| {
            let found = setting_calls(text.as_bytes(), &Rules::new("app.tenant_id", level, &[]))?;
            Some((found.changes.iter().map(|change| change.name).collect(), found.count))
        });
        assert_eq!(found[0], found[1], "{text}");
        let [found, _] = found;
        found
    }

    #[test]
    fn calls_with_a_bound_name_are_read() {
        use ChangedName::{Parameter, Tenant};
        for (text, names, count) in [
            ("SELECT set_config($1, $2, true)", vec![Parameter(1)], 1),
            (
                ";select PG_catalog.\"set_config\" ( $3 :: text , 'a'::varchar, $1 ) as x ;;",
                vec![Parameter(3)],
                1,
            ),
            ("SELECT set_config($1,$2,true), set_config($3,$4,false)", vec![Parameter(1), Parameter(3)], 2),
            (
                "SELECT set_config('app.tenant_id', $1, true), set_config('x.y', 'z', true), set_config($2, $3, true)",
                vec![Tenant, Parameter(2)],
                3,
            ),
            ("SELECT set_config('app.tenant_id'::text, $1, true)", vec![Tenant], 1),
        ] {
            assert_eq!(read(text), Some((names, count)), "{text}");
        }
    }

    #[test]
    fn what_is_more_than_calls_is_not_read() {
        for text in [
            "",
            "SELECT",
            "SELECT set_config($1, $2, true), 1",
            "SELECT set_config($1, $2, true) FROM orders",
            "SELECT set_config($1, $2, true) WHERE true",
            "SELECT set_config($1 || '', $2, true)",
            "SELECT set_config(lower($1), $2, true)",
            "SELECT set_config($1::bpchar, $2, true)",
            "SELECT set_config($1::varchar(3), $2, true)",
            "SELECT set_config($1::text[], $2, true)",
            "SELECT set_config($1, f($2), true)",
            "SELECT set_config($1, $2, NULL)",
            "SELECT set_config(NULL, $2, true)",
            "SELECT set_config($1, $2, true), set_config('role', $3, true)",
            "SELECT set_config($1, $2, true), set_config('pgtenant.x', $3, true)",
            "SELECT set_config($1, $2, true); SELECT 1",
            "SELECT 1; SELECT set_config($1, $2, true)",
            "SELECT public.set_config($1, $2, true)",
            "SELECT set_config($1, $2, true) INTO x",
            "SELECT set_config($1, $2, true) UNION SELECT 'x'",
            "WITH x AS (SELECT set_config($1, $2, true)) TABLE x",
            "PREPARE p AS SELECT set_config($1, $2, true)",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn both_sides_of_the_number_of_calls() {
        let text = |count: usize| format!("SELECT {}", vec!["set_config($1, $2, true)"; count].join(", "));
        assert_eq!(read(&text(MAX_CALLS)).map(|(_, count)| count), Some(MAX_CALLS));
        assert_eq!(read(&text(MAX_CALLS + 1)), None);
    }

    #[test]
    fn a_bound_name_is_judged_as_a_literal_is() {
        let strict = Rules::new("app.tenant_id", GuardLevel::Strict, &[]);
        let judge = |name: &str, value: Option<&str>| {
            strict.check_bound(name.as_bytes(), value.map(str::as_bytes)).map_err(|refused| refused.rule)
        };
        for (name, value) in [
            ("work_mem", Some("1MB")),
            ("App.User_Id", None),
            ("search_path", Some("shelf, public")),
            ("client_encoding", Some("LATIN1")),
            ("standard_conforming_strings", Some("on")),
            ("role_x", Some("a")),
        ] {
            assert_eq!(judge(name, value), Ok(()), "{name}");
        }
        for (name, value, rule) in [
            ("role", Some("a"), "role-change"),
            ("ROLE", None, "role-change"),
            ("session_Authorization", Some("a"), "role-change"),
            ("pgtenant.nonce", Some("a"), "context-change"),
            ("client_encoding", Some("SJIS"), "client-encoding"),
            ("standard_conforming_strings", Some("off"), "string-syntax"),
            ("client_connection_check_interval", Some("0"), "connection-check"),
            ("enable_seqscan", Some("off"), "planner"),
            ("search_path", Some("public, \"PgTenant\""), "own-objects"),
            ("schema\u{e9}", Some("a"), "opaque-name"),
        ] {
            assert_eq!(judge(name, value), Err(rule), "{name}");
        }
    }

    #[test]
    fn claims_are_a_choice_for_a_transaction_and_nothing_else() {
        let claims = ClaimsSetting { setting: "request.jwt.claims".to_owned(), pointer: "/t".to_owned() };
        let rules = Rules::new("app.tenant_id", GuardLevel::Strict, &[]).with_claims(Some(&claims));
        let refused = rules.check_parameter("Request.JWT.Claims", "{}").map_err(|refused| refused.rule);
        assert_eq!(refused, Err("context-change"), "at startup it would last for the session");
        let text = |scope: &str| format!("SELECT set_config('Request.jwt.claims', $1, {scope})");
        let read = |scope: &str| setting_calls(text(scope).as_bytes(), &rules);
        assert_eq!(read("true").map(|calls| calls.changes[0].name), Some(ChangedName::Claims));
        assert_eq!((read("false"), read("$2")), (None, None));
    }
}
