//! Which settings SET, RESET, `set_config` and the startup packet may name, and to what they may set them.

use super::setting::{AssignedValue, Group, Setting, plain_literal};
use super::{ROLE, Refusal, Rules, rule};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Lexer, TokenKind};
use crate::sql::statement::TokenPosition;
use rule::refusal;

/// What the values that follow an assignment are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemainingValues {
    Nothing,
    /// The values up to the end of the command are schemas for `search_path`.
    Schemas,
}

// === impl Rules ===

impl Rules {
    /// What is wrong with a setting that a client asks for at startup.
    pub fn check_parameter(&self, name: &str, value: &str) -> Result<(), Refusal> {
        let setting = Setting::named(name.as_bytes());
        if self.claims().is_some_and(|claims| setting.is(&claims.setting)) {
            // It would last for the session.
            return Err(refusal(rule::CONTEXT_CHANGE, &format!("the startup parameter {}", setting.echo())));
        }
        if setting.is_search_path() {
            self.check_schemas(value.as_bytes())?;
        }
        self.check_group("the startup parameter", &setting)
    }

    /// SET or RESET as a statement, or as a clause of one. The lexer is behind the verb.
    pub(super) fn check_set(
        &self,
        (verb, place): (Keyword, TokenPosition),
        mut lexer: Lexer<'_>,
    ) -> Result<RemainingValues, Refusal> {
        let Some(setting) = Setting::read(&mut lexer) else { return Ok(RemainingValues::Nothing) };
        let is_reset = verb == Keyword::Reset;
        if setting.is_of_role() && (is_reset || setting.is_returned_to_login(lexer.clone())) {
            // Pools of drivers send it; it leads back to the role of the login.
            return Ok(RemainingValues::Nothing);
        }
        // A clause stores the role, or sets it while others than the client run code.
        if setting.is(ROLE) && self.has_roles() && place == TokenPosition::Start {
            return self.check_set_role(lexer).map(|()| RemainingValues::Nothing);
        }
        self.check_name(if is_reset { "RESET" } else { "SET" }, &setting)?;
        if is_reset {
            return Ok(RemainingValues::Nothing);
        }
        self.check_group("SET", &setting)?;
        if setting.is_read_by_guard() {
            let value = if setting.is("names") {
                AssignedValue::read(&mut lexer)
            } else {
                AssignedValue::read_assigned(&mut lexer)
            };
            check_value(&setting, &value)?;
        }
        if setting.is_search_path() {
            self.check_assigned_path(lexer)?;
        }
        Ok(watch(&setting))
    }

    /// The function. The lexer is behind its name.
    pub(super) fn check_set_config(&self, mut lexer: Lexer<'_>) -> Result<RemainingValues, Refusal> {
        let open = lexer.next().is_some_and(|token| token.kind == TokenKind::Open);
        let literal = lexer.next().and_then(|token| plain_literal(&token));
        let ends = lexer.next().is_some_and(|token| token.kind == TokenKind::Comma);
        let (true, Some(name), true) = (open, literal, ends) else {
            return Err(refusal(rule::OPAQUE_NAME, "set_config with a name that is not a plain literal"));
        };
        let setting = Setting::named(&name);
        if setting.is(ROLE) && self.has_roles() {
            return self.check_set_config_role(lexer).map(|()| RemainingValues::Nothing);
        }
        self.check_called(&setting)?;
        if setting.is_read_by_guard() {
            let value = lexer.next().and_then(|token| plain_literal(&token));
            let ends = lexer.next().is_some_and(|token| token.kind == TokenKind::Comma);
            let value = value.filter(|_| ends).map_or(AssignedValue::Opaque, AssignedValue::Given);
            check_value(&setting, &value)?;
        } else if setting.is_search_path() {
            self.check_called_path(lexer)?;
        }
        Ok(RemainingValues::Nothing)
    }

    /// The setting that a call of the function names.
    pub(super) fn check_called(&self, setting: &Setting) -> Result<(), Refusal> {
        self.check_name("set_config of", setting)?;
        self.check_group("set_config of", setting)
    }

    fn check_name(&self, verb: &str, setting: &Setting) -> Result<(), Refusal> {
        let rule = if setting.is_of_role() {
            rule::ROLE_CHANGE
        } else if self.is_of_context(setting) {
            rule::CONTEXT_CHANGE
        } else if setting.is("client_connection_check_interval") {
            rule::CONNECTION_CHECK
        } else {
            return Ok(());
        };
        Err(refusal(rule, &format!("{verb} {}", setting.echo())))
    }

    /// Settings that the strict level keeps from users who are not granted the rule.
    fn check_group(&self, verb: &str, setting: &Setting) -> Result<(), Refusal> {
        let rule = match setting.group() {
            Group::Plans => rule::EXPLAIN,
            Group::Planner => rule::PLANNER,
            Group::Other => return Ok(()),
        };
        if self.is_strict() { self.object((rule, format!("{verb} {}", setting.echo()))) } else { Ok(()) }
    }
}

fn watch(setting: &Setting) -> RemainingValues {
    if setting.is_search_path() { RemainingValues::Schemas } else { RemainingValues::Nothing }
}

pub(super) fn check_value(setting: &Setting, value: &AssignedValue) -> Result<(), Refusal> {
    if setting.is("standard_conforming_strings") {
        let refused = || refusal(rule::STRING_SYNTAX, "standard_conforming_strings other than on");
        return value.is_on().then_some(()).ok_or_else(refused);
    }
    let refused = || refusal(rule::CLIENT_ENCODING, "this client_encoding");
    value.is_safe_encoding().then_some(()).ok_or_else(refused)
}
