//! The section `[tenancy]`: how transactions get their tenant, and what is not let through.

use std::time::Duration;

use super::compile::DAY;
use super::file::Section;
use super::problem::refuse;
use super::value;
use crate::directory::{ChooserName, ClaimsSetting, ContextMode, GuardLevel, Tenancy};

/// What the section says; none if anything of it is refused.
pub(super) fn tenancy(section: &Section<'_>) -> Option<Tenancy> {
    let setting = if section.has("setting") {
        section.parsed("setting", value::tenancy_setting)
    } else {
        Some("app.tenant_id".into())
    };
    let words = [
        ("off", Some(GuardLevel::Off)),
        ("context", Some(GuardLevel::Context)),
        ("strict", Some(GuardLevel::Strict)),
    ];
    let guard = section.choice("guard", &words).unwrap_or(GuardLevel::Strict);
    let context = context(section);
    let application_name = if section.has("application_name") {
        section.parsed("application_name", value::name_form)
    } else {
        Some("{tenant} {application_name}".to_owned())
    };
    let server_name = section.parsed("server_name", value::server_name);
    let require_tenant = section.flag("require_tenant").unwrap_or(true);
    let allow_unsafe = section.flag("allow_unsafe").unwrap_or(false);
    let doctor_interval =
        section.duration("doctor_interval", Duration::from_secs(3600), Duration::ZERO..=DAY);
    let choosers = choosers(section);
    let claims = claims(section);
    Some(Tenancy {
        setting: setting?,
        application_name: application_name?,
        server_name,
        require_tenant,
        context: context?,
        guard,
        allow_unsafe,
        doctor_interval,
        choosers: choosers?,
        claims,
    })
}

/// Both or neither.
fn claims(section: &Section<'_>) -> Option<ClaimsSetting> {
    let setting = section.parsed("claims_setting", value::claims_setting);
    let pointer = section.parsed("claims_pointer", value::json_pointer);
    match (section.has("claims_setting"), section.has("claims_pointer")) {
        (true, true) => Some(ClaimsSetting { setting: setting?, pointer: pointer? }),
        (false, false) => None,
        (is_named, _) => {
            let (here, other) = if is_named {
                ("claims_setting", "claims_pointer")
            } else {
                ("claims_pointer", "claims_setting")
            };
            section.report(here, refuse(format!("needs {other}"), "write both, or neither"));
            None
        }
    }
}

/// The most functions that choose a tenant.
const MAX_CHOOSERS: usize = 16;

fn choosers(section: &Section<'_>) -> Option<Vec<ChooserName>> {
    let texts = section.texts("chooser").unwrap_or_default();
    if texts.len() > MAX_CHOOSERS {
        section.report("chooser", refuse(format!("names more than {MAX_CHOOSERS} functions"), "name fewer"));
        return None;
    }
    texts.into_iter().map(|(place, text)| section.accept(&place, value::chooser(text))).collect()
}

fn context(section: &Section<'_>) -> Option<ContextMode> {
    let sealed = section.choice("context", &[("plain", Some(false)), ("sealed", Some(true))]);
    match (sealed.unwrap_or(false), section.has("seal_key")) {
        (false, false) => Some(ContextMode::Plain),
        (false, true) => {
            let hint = "add context = \"sealed\", or leave the line out";
            section.report("seal_key", refuse("is for context = \"sealed\"", hint));
            None
        }
        (true, false) => {
            let hint = "add seal_key = { file = \"seal.key\" }; make one with: openssl rand -hex 32";
            section.report("context", refuse("\"sealed\" needs seal_key", hint));
            None
        }
        (true, true) => {
            let text = section.secret("seal_key")?;
            section.accept("seal_key", value::seal_key(text.expose())).map(ContextMode::Sealed)
        }
    }
}
