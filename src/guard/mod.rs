//! Refuses texts that would change the tenant context or blind this very reading, by the direct routes: SET and
//! RESET in any spelling, `set_config`, names that hide what they set, encodings and string syntax that would make
//! `PostgreSQL` read another text than the guard did. The strict level also refuses what reaches beyond the tenant's
//! rows and the own session, by kind of statement and by name. A second line of defence, not the boundary: what a
//! view, function or trigger of the database does cannot be seen in a text. Pure; the entry is [`inspect`], or
//! [`read_until`] for a long text whose client may leave meanwhile.
//!
//! Every reading takes time in proportion to the text's length, whatever the text. What would cost PostgreSQL more than
//! that before it can be interrupted is refused (`weight`).

mod argument;
mod assignment;
mod bound;
mod calls;
mod chooser;
mod inspection;
mod names;
mod pairs;
mod roles;
mod rule;
mod schemas;
mod strict;
mod types;
mod weight;

pub mod cache;

pub mod change;
mod choices;
pub mod tenantless;

pub mod footprint;

pub mod setting;

pub use argument::{BoundValue, Given, JudgedSetting};
pub use bound::{SettingCalls, setting_calls};
pub use cache::Verdicts;
pub use change::TenantChange;
pub use choices::choices;
pub use chooser::{ChooserFunction, ChooserResult};
pub use inspection::{Findings, LONG_TEXT_BYTES, Stopped, inspect, read_until};
pub use pairs::paired_settings;
pub use roles::{NO_ROLE, ROLE};
pub use rule::{CONTEXT_CHANGE, FIXED, GRANTABLE, OPAQUE_NAME, Refusal};

use std::sync::Arc;

use crate::directory::{ClaimsSetting, GuardLevel};
use crate::sql::Survey;
use rule::refusal;
use setting::Setting;

/// What the guard protects, and from what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    setting: Arc<str>,
    level: GuardLevel,
    /// The rules that do not hold, as bits by their place in [`GRANTABLE`].
    granted: u32,
    /// Roles that clients may set.
    roles: Arc<[String]>,
    /// Functions of the database that choose the tenant.
    choosers: Arc<[ChooserFunction]>,
    /// The setting that carries claims, the tenant among them.
    claims: Option<Arc<ClaimsSetting>>,
}

/// What the guard says about a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on; the survey came with the same pass.
    Pass(Survey),
    /// The whole of it is a change of the tenant, for the proxy to check and to carry out.
    Tenant(Survey, TenantChange),
    /// It may not go on.
    Refuse(Refusal),
}

/// How much of a client's text a refusal repeats.
pub const MAX_ECHO_BYTES: usize = 64;

// === impl Rules ===

impl Rules {
    /// Protects the setting that carries the tenant, beside those that are always protected, without the rules
    /// in `allow`, as far as they are [`GRANTABLE`].
    pub fn new(setting: &str, level: GuardLevel, allow: &[&'static str]) -> Self {
        let bits = GRANTABLE.iter().enumerate().filter(|(_, rule)| allow.contains(rule));
        let granted = bits.fold(0, |granted, (at, _)| granted | 1 << at);
        Self {
            setting: setting.to_ascii_lowercase().into(),
            level,
            granted,
            roles: Arc::default(),
            choosers: Arc::default(),
            claims: None,
        }
    }

    /// With a setting that carries claims, the tenant among them.
    #[must_use]
    pub fn with_claims(mut self, claims: Option<&ClaimsSetting>) -> Self {
        self.claims = claims.cloned().map(Arc::new);
        self
    }

    /// The setting that carries claims.
    pub fn claims(&self) -> Option<&ClaimsSetting> {
        self.claims.as_deref()
    }

    /// The setting that carries the tenant.
    pub fn tenant_setting(&self) -> &str {
        &self.setting
    }

    /// The refusal of a change of the tenant that the user has no grant for.
    pub fn refuse_change(&self, change: &TenantChange) -> Refusal {
        let verb = match change.form {
            change::Form::Set => "SET",
            change::Form::Reset => "RESET",
            change::Form::SetConfig => "set_config of",
            change::Form::Call(_) => "a call of a function for",
        };
        let setting = rule::echo(self.setting.as_bytes());
        refusal(CONTEXT_CHANGE, &format!("{verb} {setting}"))
    }

    /// Tells rules apart well enough for a hash, not for more.
    fn fingerprint(&self) -> u32 {
        let level = match self.level {
            GuardLevel::Off => 0,
            GuardLevel::Context => 1,
            GuardLevel::Strict => 2,
        };
        self.granted << 2 | level
    }

    fn is_strict(&self) -> bool {
        self.level == GuardLevel::Strict
    }

    fn is_granted(&self, rule: &str) -> bool {
        let place = GRANTABLE.iter().position(|known| *known == rule);
        place.is_some_and(|at| self.granted & (1 << at) != 0)
    }

    /// Refuses by a rule, unless the user is granted it.
    fn object(&self, (rule, what): (&'static str, String)) -> Result<(), Refusal> {
        if self.is_granted(rule) { Ok(()) } else { Err(refusal(rule, &what)) }
    }

    /// Whether a setting of this name, in lower case, is part of the context or of the role.
    pub fn protects(&self, name: &str) -> bool {
        let setting = Setting::named(name.as_bytes());
        setting.is_of_role() || self.is_of_context(&setting)
    }

    fn is_of_context(&self, setting: &Setting) -> bool {
        setting.is(&self.setting)
            || setting.starts_with("pgtenant.")
            || self.claims.as_ref().is_some_and(|claims| setting.is(&claims.setting))
    }
}

#[cfg(test)]
mod tests;
