//! What a statement wishes: a tenant and for how long, read from its text and from what was bound.

use crate::fault::{Report, sqlstate};
use crate::guard::change::{Form, Scope, Target, TenantChange};
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
    /// What several changes choose, which all have to name one tenant.
    pub(in crate::relay) fn of_all(changes: &[TenantChange], bound: Option<&[u8]>) -> Result<Self, Report> {
        let mut all: Option<Self> = None;
        for change in changes {
            let wish = change.wish(bound)?;
            match &mut all {
                None => all = Some(wish),
                Some(one) if one.tenant != wish.tenant => {
                    return Err(unreadable("its statements name different tenants"));
                }
                Some(one) if wish.span == Span::Session => one.span = Span::Session,
                Some(_) => {}
            }
        }
        all.filter(|wish| wish.tenant.is_some()).ok_or_else(|| unreadable("it names no tenant"))
    }
}

impl TenantChange {
    /// What it chooses, from the text or from what was bound.
    pub(in crate::relay) fn wish(&self, bound: Option<&[u8]>) -> Result<Wish, Report> {
        let span = if self.is_local(bound) { Span::Transaction } else { Span::Session };
        Ok(Wish { tenant: self.value(bound)?, span })
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
                    text.ok_or_else(|| unreadable("its value is not a text"))?.to_owned()
                }
            },
        };
        // PostgreSQL reads the value of `set_config` once more, in the client's encoding.
        if self.form == Form::SetConfig && !value.is_ascii() {
            return Err(unreadable("set_config takes a tenant beyond ASCII only by SET"));
        }
        Ok(Some(value))
    }

    /// Whether it lasts for the transaction only.
    fn is_local(&self, bound: Option<&[u8]>) -> bool {
        match self.scope {
            Scope::Session => false,
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
    /// has set the tenant.
    pub(in crate::relay) fn stand_in(&self, text: &[u8]) -> Vec<u8> {
        match self.form {
            Form::SetConfig => self.made_local(text).unwrap_or_default(),
            Form::Set if self.scope == Scope::Local => b"SET LOCAL \"pgtenant\".\"choice\" TO ''".to_vec(),
            Form::Set => b"SET \"pgtenant\".\"choice\" TO ''".to_vec(),
            Form::Reset => b"RESET \"pgtenant\".\"choice\"".to_vec(),
        }
    }
}

impl Reading {
    /// The tenant that it chooses with these values bound; none: it chooses none.
    pub(in crate::relay) fn wish(&self, bound: Option<&[u8]>) -> Result<Option<Wish>, Report> {
        match (&self.change, &self.choices) {
            (Some(change), _) => change.wish(bound).map(Some),
            (None, Some(choices)) => Wish::of_all(choices, bound).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Why a change of tenant cannot be followed with parameters declared like this: one that is no text would be
    /// read as something else by PostgreSQL than by the proxy.
    pub(in crate::relay) fn unfit(&self, types: &[u8]) -> Option<Report> {
        let mut changes =
            self.change.as_deref().into_iter().chain(self.choices.iter().flat_map(|all| all.iter()));
        changes.find_map(|change| unfit(change, types))
    }
}

const UNSPECIFIED: u32 = 0;

/// The types of parameters that reach `set_config` as they were bound: unspecified, text, unknown, varchar.
pub(in crate::relay) const TEXTS: [u32; 4] = [UNSPECIFIED, 25, 705, 1043];

fn unfit(change: &TenantChange, types: &[u8]) -> Option<Report> {
    const BOOL: u32 = 16;
    let declared = |number: u16| frontend::parameter_type(types, number).unwrap_or(UNSPECIFIED);
    let value = match change.target {
        Target::Parameter(number) => TEXTS.contains(&declared(number)),
        Target::Value(_) | Target::Default => true,
    };
    let scope = match change.scope {
        Scope::Parameter(number) => [UNSPECIFIED, BOOL].contains(&declared(number)),
        Scope::Session | Scope::Local => true,
    };
    (!value || !scope).then(|| unreadable("its parameters are of other types than text and boolean"))
}

fn unreadable(why: &str) -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "this change of tenant cannot be carried out")
        .detail(format!("The proxy carries it out, and {why}."))
        .hint("Use SET, or set_config with a text.")
}
