//! What a statement wishes: a tenant and for how long, read from its text and from what was bound.

use std::borrow::Cow;

use crate::fault::{Report, sqlstate};
use crate::guard::Rules;
use crate::guard::change::{Called, ChangedName, Form, Scope, Target, TenantChange};
use crate::relay::core::statements::Reading;
use crate::upstream::Span;
use crate::wire::frontend;

/// The tenant that a statement chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its id; none: the tenant of the login.
    pub tenant: Option<String>,
    /// For how long.
    pub span: Span,
}

impl Wish {
    /// What several changes choose, which all have to name one tenant; none: what they name is not the tenant setting.
    pub(in crate::relay) fn of_all(
        changes: &[TenantChange],
        bound: Option<&[u8]>,
        rules: &Rules,
    ) -> Result<Option<Self>, Report> {
        let mut all: Option<Self> = None;
        for change in changes {
            let Some(wish) = change.wish(bound, rules)? else { continue };
            match &mut all {
                // The text runs as it stands; only SET and RESET without a tenant are read.
                _ if wish.tenant.is_none() && change.form == Form::SetConfig => {
                    return Err(unreadable(Unreadable::Nothing));
                }
                None => all = Some(wish),
                Some(one) if one.tenant != wish.tenant => {
                    return Err(unreadable(Unreadable::StatementsDiffer));
                }
                Some(one) if wish.span == Span::Session => one.span = Span::Session,
                Some(_) => {}
            }
        }
        Ok(all)
    }
}

impl TenantChange {
    /// What it chooses, from the text or from what was bound; none: what it names is not the tenant setting.
    pub(in crate::relay) fn wish(&self, bound: Option<&[u8]>, rules: &Rules) -> Result<Option<Wish>, Report> {
        let span = if self.is_local(bound) { Span::Transaction } else { Span::Session };
        if self.name == ChangedName::Tenant {
            let tenant = self.value(bound)?;
            if tenant.is_none() && matches!(self.form, Form::Call(_)) {
                return Err(unreadable(Unreadable::Null));
            }
            return Ok(Some(Wish { tenant, span }));
        }
        // It runs as it stands.
        let mut tenants = Vec::new();
        for (name, value) in self.bound_settings(bound.unwrap_or_default(), rules)? {
            if rules.is_claims(&name) {
                if span == Span::Session {
                    return Err(unreadable(Unreadable::SessionClaims));
                }
                tenants.push(Some(Cow::Owned(claimed(value.as_deref(), rules)?)));
            } else if rules.is_tenant_setting(&name) {
                tenants.push(value);
            }
        }
        let Some(tenant) = tenants.pop() else { return Ok(None) };
        if tenants.iter().any(|other| *other != tenant) {
            return Err(unreadable(Unreadable::SettingsDiffer));
        }
        let tenant = tenant.filter(|tenant| !tenant.is_empty()).ok_or(Unreadable::Nothing);
        let is_ascii =
            |tenant: &Cow<'_, [u8]>| if tenant.is_ascii() { Ok(()) } else { Err(Unreadable::BeyondAscii) };
        let tenant = tenant.and_then(|tenant| is_ascii(&tenant).map(|()| tenant)).map_err(unreadable)?;
        let tenant = String::from_utf8(tenant.into_owned()).map_err(|_| unreadable(Unreadable::NoText))?;
        Ok(Some(Wish { tenant: Some(tenant), span }))
    }

    /// The settings that it names when its values are bound, each with its value; no value is NULL.
    pub(in crate::relay) fn bound_settings<'a>(
        &'a self,
        bound: &'a [u8],
        rules: &'a Rules,
    ) -> Result<Vec<Setting<'a>>, Report> {
        let (ChangedName::Parameter(number) | ChangedName::Pairs(number)) = self.name else {
            let claims = rules.claims().filter(|_| self.name == ChangedName::Claims);
            let setting = |name: &'a str| (Cow::Borrowed(name.as_bytes()), self.value_bytes(bound));
            return Ok(claims.map(|claims| setting(&claims.setting)).into_iter().collect());
        };
        // PostgreSQL refuses NULL for a name, and makes no row of NULL.
        let Some(bytes) = frontend::parameter(bound, number).flatten() else { return Ok(Vec::new()) };
        if matches!(self.name, ChangedName::Pairs(_)) {
            return pairs(bytes);
        }
        Ok(vec![(bytes.into(), self.value_bytes(bound))])
    }

    fn value_bytes<'a>(&'a self, bound: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let value = match &self.target {
            Target::Default => None,
            Target::Value(value) => Some(value.as_bytes()),
            Target::Parameter(number) => frontend::parameter(bound, *number).flatten(),
        };
        value.map(Cow::Borrowed)
    }

    /// The value; none is the default.
    fn value(&self, bound: Option<&[u8]>) -> Result<Option<String>, Report> {
        let value = match &self.target {
            Target::Default => return Ok(None),
            Target::Value(value) => value.clone(),
            Target::Parameter(number) => match bound.and_then(|rest| frontend::parameter(rest, *number)) {
                None | Some(None) => return Ok(None),
                Some(Some(bytes)) => {
                    let text = std::str::from_utf8(bytes).ok();
                    text.ok_or_else(|| unreadable(Unreadable::NoText))?.to_owned()
                }
            },
        };
        // PostgreSQL reads the value of `set_config` once more, in the client's encoding.
        if self.form.is_select() && !value.is_ascii() {
            return Err(unreadable(Unreadable::BeyondAscii));
        }
        Ok(Some(value))
    }

    /// Whether it lasts for the transaction only.
    fn is_local(&self, bound: Option<&[u8]>) -> bool {
        match self.scope {
            // Where it stands is for the conversation to say.
            Scope::Session | Scope::Block => false,
            Scope::Local => true,
            Scope::Parameter(number) => {
                let value = bound.and_then(|rest| frontend::parameter(rest, number)).flatten();
                // Binary, or a text as PostgreSQL takes it for a boolean.
                value.is_some_and(|value| {
                    matches!(value.first(), Some(1 | b't' | b'T' | b'y' | b'Y' | b'1'))
                        || value.eq_ignore_ascii_case(b"on")
                })
            }
        }
    }

    /// What is sent in the client's place, which answers as the client's own statement would: the entry in front of it
    /// has set the tenant. None: it runs as it stands, because it may be about another setting.
    pub(in crate::relay) fn stand_in(&self, text: &[u8]) -> Option<Vec<u8>> {
        (self.name == ChangedName::Tenant).then(|| match self.form {
            Form::SetConfig => self.made_local(text).unwrap_or_default(),
            Form::Set if self.scope == Scope::Local => b"SET LOCAL \"pgtenant\".\"choice\" TO ''".to_vec(),
            Form::Set => b"SET \"pgtenant\".\"choice\" TO ''".to_vec(),
            Form::Reset => b"RESET \"pgtenant\".\"choice\"".to_vec(),
            Form::Call(called) => self.call_stand_in(called),
        })
    }
}

/// A setting's name and its value; none: NULL.
type Setting<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// The tenant in claims.
fn claimed(value: Option<&[u8]>, rules: &Rules) -> Result<Vec<u8>, Report> {
    let claims: Option<serde_json::Value> = value
        .filter(|value| value.len() <= MAX_PAIRS_BYTES)
        .and_then(|value| serde_json::from_slice(value).ok());
    let pointer = rules.claims().map(|claims| claims.pointer.as_str()).unwrap_or_default();
    let tenant = match claims.as_ref().and_then(|claims| claims.pointer(pointer)) {
        Some(serde_json::Value::String(tenant)) => Some(tenant.clone()),
        Some(serde_json::Value::Number(number)) if number.is_u64() => Some(number.to_string()),
        _ => None,
    };
    tenant.filter(|tenant| !tenant.is_empty()).map(String::into_bytes).ok_or_else(|| {
        Report::new(sqlstate::INVALID_PARAMETER_VALUE, "the claims name no tenant")
            .detail(format!("They have to be an object of JSON of at most {MAX_PAIRS_BYTES} bytes, with the tenant at {pointer}."))
            .hint("Set claims that name a tenant, a text or a whole number.")
    })
}

/// The longest array of settings, and the longest claims, in bytes.
const MAX_PAIRS_BYTES: usize = 64 * 1024;

/// Names and values from an array of JSON.
fn pairs(json: &[u8]) -> Result<Vec<Setting<'static>>, Report> {
    let read = if json.len() <= MAX_PAIRS_BYTES { serde_json::from_slice(json).ok() } else { None };
    let pairs: Vec<(String, String)> = read.ok_or_else(|| {
        Report::new(sqlstate::INVALID_PARAMETER_VALUE, "the settings of this statement cannot be read")
            .detail(format!(
                "They may name the tenant, and are no array of JSON of at most {MAX_PAIRS_BYTES} bytes."
            ))
            .hint("Bind an array of arrays of two strings: [[\"name\", \"value\"]].")
    })?;
    let bytes = |text: String| Cow::Owned(text.into_bytes());
    Ok(pairs.into_iter().map(|(name, value)| (bytes(name), Some(bytes(value)))).collect())
}

impl TenantChange {
    /// A SELECT that answers as the function would.
    fn call_stand_in(&self, called: Called) -> Vec<u8> {
        let value = match &self.target {
            Target::Parameter(number) => format!("(${number})::pg_catalog.text"),
            Target::Value(value) => format!("'{}'::pg_catalog.text", value.replace('\'', "''")),
            Target::Default => "NULL::pg_catalog.text".to_owned(),
        };
        let result = match called {
            Called::Text => value,
            // The one function that returns void and does nothing.
            Called::Void | Called::Function(_) => {
                format!("pg_catalog.pg_sleep(CASE WHEN {value} IS NULL THEN 0 ELSE 0 END)")
            }
        };
        let column = String::from_utf8_lossy(&self.column).replace('"', "\"\"");
        format!("SELECT {result} AS \"{column}\"").into_bytes()
    }
}

impl Reading {
    /// The tenant that it chooses with these values bound; none: it chooses none.
    pub(in crate::relay) fn wish(&self, bound: Option<&[u8]>, rules: &Rules) -> Result<Option<Wish>, Report> {
        match (&self.change, &self.choices) {
            (Some(change), _) => change.wish(bound, rules),
            (None, Some(choices)) => Wish::of_all(choices, bound, rules),
            (None, None) => Ok(None),
        }
    }

    /// All changes of tenant in it.
    pub(in crate::relay) fn changes(&self) -> impl Iterator<Item = &TenantChange> {
        self.change.as_deref().into_iter().chain(self.choices.iter().flat_map(|all| all.iter()))
    }

    /// Why a change of tenant cannot be followed with parameters declared like this: one that is no text would be
    /// read as something else by PostgreSQL than by the proxy.
    pub(in crate::relay) fn unfit(&self, types: &[u8]) -> Option<Report> {
        self.changes().find_map(|change| unfit(change, types))
    }
}

const UNSPECIFIED: u32 = 0;

/// The types of parameters that reach `set_config` as they were bound: unspecified, text, unknown, varchar.
pub(in crate::relay) const TEXTS: [u32; 4] = [UNSPECIFIED, 25, 705, 1043];

fn unfit(change: &TenantChange, types: &[u8]) -> Option<Report> {
    const BOOL: u32 = 16;
    const JSON: u32 = 114;
    const TEXTS: [u32; 4] = [UNSPECIFIED, 25, 705, 1043];
    let declared = |number: u16| frontend::parameter_type(types, number).unwrap_or(UNSPECIFIED);
    let is_text = |number: Option<u16>| number.is_none_or(|number| TEXTS.contains(&declared(number)));
    let texts = match change.name {
        ChangedName::Pairs(number) => declared(number) == JSON || is_text(Some(number)),
        name => is_text(name.parameter()) && is_text(change.target.parameter()),
    };
    let scope = change.scope.parameter().is_none_or(|number| [UNSPECIFIED, BOOL].contains(&declared(number)));
    (!texts || !scope).then(|| unreadable(Unreadable::Types))
}

/// Why a change of tenant cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Unreadable {
    /// The value is NULL or empty.
    Nothing,
    /// NULL is the argument of a chooser function.
    Null,
    /// Several statements of one text name different tenants.
    StatementsDiffer,
    /// Several settings of one statement name different tenants.
    SettingsDiffer,
    /// Claims would be set for the session.
    SessionClaims,
    /// The value is not UTF-8.
    NoText,
    /// PostgreSQL would read the value in the client's encoding, the proxy in UTF-8.
    BeyondAscii,
    /// PostgreSQL would read a parameter as something else than a text.
    Types,
    /// The setting would be gone, and the tenant of the login with it.
    LeavesLogin,
}

impl Unreadable {
    /// The reason, and what to send instead.
    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Nothing => (
                "it names no tenant",
                "Name the tenant by a text that is not empty, or return to the tenant of the login by RESET of the setting.",
            ),
            Self::Null => ("NULL is no tenant", "Call the function with the id of the tenant."),
            Self::StatementsDiffer => (
                "its statements name different tenants",
                "Name one tenant in a message, or send a message for each tenant.",
            ),
            Self::SettingsDiffer => {
                ("its settings name different tenants", "Name one tenant in all settings of a statement.")
            }
            Self::SessionClaims => (
                "claims are set for a transaction only",
                "In a transaction block, use SET LOCAL, or set_config with true as its third argument.",
            ),
            Self::NoText => (
                "its value is not a text in UTF-8",
                "Bind the id of the tenant as a text, with client_encoding set to UTF8.",
            ),
            Self::BeyondAscii => (
                "PostgreSQL may read a value beyond ASCII as another than the proxy does",
                "Name this tenant by SET or SET LOCAL with its id in the text, or at login.",
            ),
            Self::Types => (
                "its parameters are of other types than text and boolean",
                "Declare the name and the value as text and the third argument as boolean, or leave their types open.",
            ),
            Self::LeavesLogin => (
                "it would leave the tenant of the login without its setting",
                "Send RESET of the setting in a message of its own.",
            ),
        }
    }
}

pub(in crate::relay) fn unreadable(why: Unreadable) -> Report {
    let (detail, hint) = why.told();
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "this change of tenant cannot be carried out")
        .detail(format!("The proxy carries it out, and {detail}."))
        .hint(hint)
}
