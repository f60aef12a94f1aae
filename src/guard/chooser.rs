//! Functions of the database by which applications choose the tenant, as the configuration names them. A call that can be
//! read exactly is a change of the tenant, which the proxy carries out and answers: the function is not run. Any other
//! call of such a name is refused.

use std::sync::OnceLock;

use super::Rules;
use super::change::{Called, ChangeReader, Form, Target, TenantChange};
use super::rule::{self, Refusal, refusal};
use super::setting::part;
use crate::directory::ChooserName;
use crate::sql::contains;
use crate::sql::lexer::{Lexer, Token};

/// A function that chooses the tenant.
#[derive(Debug, PartialEq, Eq)]
pub struct ChooserFunction {
    /// Which.
    pub name: ChooserName,
    /// What it returns; empty until the catalog was read.
    pub result: OnceLock<ChooserResult>,
}

/// What a chooser function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChooserResult {
    /// Nothing: the type void.
    Void,
    /// A text, which is taken to be the tenant's id.
    Text,
    /// Something that the proxy cannot answer with.
    Unfit,
}

// === impl ChooserFunction ===

impl ChooserFunction {
    /// One whose catalog entry was not read yet.
    pub const fn new(name: ChooserName) -> Self {
        Self { name, result: OnceLock::new() }
    }
}

/// Whether a token is this name, as PostgreSQL folds and cuts it.
fn is(token: &Token<'_>, name: &str) -> bool {
    part(token).is_some_and(|part| part == name.as_bytes())
}

// === impl Rules ===

impl Rules {
    /// With functions that choose the tenant.
    #[must_use]
    pub fn with_choosers(mut self, choosers: std::sync::Arc<[ChooserFunction]>) -> Self {
        self.choosers = choosers;
        self
    }

    /// Whether a text may call a chooser function by its usual spelling.
    pub fn may_call_chooser(&self, text: &[u8]) -> bool {
        self.choosers.iter().any(|function| contains(text, function.name.name.as_bytes()))
    }

    /// A call of a chooser function with what it returns, or why it cannot be answered.
    pub fn resolve(&self, change: &mut TenantChange) -> Result<(), Refusal> {
        let Form::Call(Called::Function(place)) = change.form else { return Ok(()) };
        let function = self.choosers.get(place);
        let called = match function.and_then(|function| function.result.get()) {
            Some(ChooserResult::Void) => Ok(Called::Void),
            Some(ChooserResult::Text) => Ok(Called::Text),
            Some(ChooserResult::Unfit) => Err("which returns neither void nor text,"),
            None => Err("which was not found in the database yet,"),
        };
        let name = function.map(|one| format!("{}.{}", one.name.schema, one.name.name)).unwrap_or_default();
        let called =
            called.map_err(|why| refusal(rule::CONTEXT_CHANGE, &format!("a call of {name}, {why}")))?;
        change.form = Form::Call(called);
        Ok(())
    }

    /// Refuses the name of a chooser function, whatever it stands for: a function of one argument can be called like a column
    /// too. A call that can be read is told apart afterwards.
    pub(super) fn check_chooser(&self, token: &Token<'_>) -> Result<(), Refusal> {
        let Some(function) = self.choosers.iter().find(|function| is(token, &function.name.name)) else {
            return Ok(());
        };
        let what = format!("this use of the name of {}.{}", function.name.schema, function.name.name);
        Err(refusal(rule::CONTEXT_CHANGE, &what))
    }

    /// A text that is nothing but a change of the tenant.
    pub(super) fn read_change(&self, text: &[u8]) -> Option<TenantChange> {
        TenantChange::read(text, &self.setting).or_else(|| self.read_call(text))
    }

    /// `SELECT app.set_tenant('a')`, `SELECT * FROM app.set_tenant('a')`
    fn read_call(&self, text: &[u8]) -> Option<TenantChange> {
        if self.choosers.is_empty() {
            return None;
        }
        let mut reader = ChangeReader::new(Lexer::new(text));
        let (names, mut change) = reader.chooser_call()?;
        if change.target == Target::Default {
            return None;
        }
        let (schema, name) = match names.as_slice() {
            [name] => (None, name),
            [schema, name] => (Some(schema), name),
            _ => return None,
        };
        let mut fitting = self.choosers.iter().enumerate().filter(|(_, function)| {
            is(name, &function.name.name) && schema.is_none_or(|schema| is(schema, &function.name.schema))
        });
        let (place, function) = fitting.next()?;
        // Which of two is meant, only the search path tells.
        fitting.next().is_none().then_some(())?;
        if change.column.is_empty() {
            change.column = function.name.name.as_bytes().into();
        }
        change.form = Form::Call(Called::Function(place));
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::GuardLevel;
    use crate::guard::{Verdict, inspect};

    fn rules(level: GuardLevel) -> Rules {
        let long = "x".repeat(63);
        let functions = [("app", "set_tenant"), ("app", "twice"), ("other", "twice"), ("app", &long)];
        let functions = functions.map(|(schema, name)| {
            ChooserFunction::new(ChooserName { schema: schema.to_owned(), name: name.to_owned() })
        });
        Rules::new("app.tenant_id", level, &[]).with_choosers(functions.into_iter().collect())
    }

    /// The function that a text calls; none: it is refused.
    fn called(text: &str) -> Option<usize> {
        let found = [GuardLevel::Context, GuardLevel::Strict].map(|level| {
            match inspect(text.as_bytes(), &rules(level)) {
                Verdict::Tenant(_, change) => match change.form {
                    Form::Call(Called::Function(place)) => Some(place),
                    other => panic!("{text}: {other:?}"),
                },
                Verdict::Refuse(refused) => {
                    assert_eq!(refused.rule, "context-change", "{text}");
                    None
                }
                Verdict::Pass(_) => panic!("{text} passes"),
            }
        });
        assert_eq!(found[0], found[1], "{text}");
        found[0]
    }

    #[test]
    fn a_call_is_a_change_or_is_refused() {
        for (text, place) in [
            ("SELECT set_tenant('a')", Some(0)),
            (";select App . \"set_tenant\" ( $1::text ) as x ;", Some(0)),
            ("SELECT * FROM set_tenant(E'a')", Some(0)),
            ("SELECT other.twice('a')", Some(2)),
            ("SELECT twice('a')", None),
            ("SELECT third.set_tenant('a')", None),
            ("SELECT app.set_tenant('a') LIMIT 0", None),
            ("SELECT app.set_tenant(U&'a')", None),
            ("SELECT app.set_tenant('a' || 'b')", None),
            ("SELECT app.set_tenant('a', 'b')", None),
            ("SELECT app.set_tenant()", None),
            ("SELECT app.set_tenant(ALL 'a')", None),
            ("SELECT x.app.set_tenant('a')", None),
            ("SELECT id FROM t WHERE set_tenant (x) IS NULL", None),
            // PostgreSQL calls a function of one argument like a column, too.
            ("SELECT ('a'::text).set_tenant", None),
            ("SELECT ($1::text) . \"set_tenant\", 1", None),
            ("SELECT x.set_tenant FROM unnest(ARRAY['a']) x", None),
            ("SELECT ('a'::text).set_tenant; SELECT 1", None),
            ("SELECT set_tenant FROM t", None),
        ] {
            assert_eq!(called(text), place, "{text}");
        }
        assert_eq!(called(&format!("SELECT {}('a'), 1", "x".repeat(70))), None, "PostgreSQL cuts names");
        for text in ["SELECT 'set_tenant(1)'", "SELECT set_tenants('a')"] {
            let verdict = inspect(text.as_bytes(), &rules(GuardLevel::Strict));
            assert!(matches!(verdict, Verdict::Pass(_)), "{text}");
        }
        let off = inspect(b"SELECT set_tenant('a')", &rules(GuardLevel::Off));
        assert!(matches!(off, Verdict::Tenant(..)));
    }
}
