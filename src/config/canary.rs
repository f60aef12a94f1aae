//! `[canary]` from what is written. Its tenants are ordinary tenants of the same file, on one upstream: only
//! in one pool can one of them meet what the other left.

use std::time::Duration;

use super::compile::DAY;
use super::file::Section;
use super::keys;
use super::problem::{InvalidValue, refuse};
use crate::names::TenantId;
use crate::tenant::{Canary, ContextMode, Directory};

const SHORTEST: Duration = Duration::from_millis(100);

/// What `pgtenant protect` makes for the probes.
const SEALED_QUERY: &str = "SELECT tenant_id FROM pgtenant.canary";

/// None if the file has no such section, or a problem with it.
pub(super) fn canary(top: &Section<'_>, directory: &Directory) -> Option<Canary> {
    if !top.has("canary") {
        return None;
    }
    let section = top.section("canary", &keys::CANARY);
    let interval = section.duration("interval", Duration::from_secs(5), SHORTEST..=DAY);
    let query = match section.parsed("query", query) {
        None if matches!(directory.tenancy.context, ContextMode::Sealed(_)) => Some(SEALED_QUERY.to_owned()),
        query => query,
    };
    Some(Canary { tenants: tenants(&section, directory)?, interval, query })
}

fn tenants(section: &Section<'_>, directory: &Directory) -> Option<[TenantId; 2]> {
    let hint = "add tenants = [\"probe_a\", \"probe_b\"], two tenants that nothing else uses";
    if !section.has("tenants") {
        section.report("tenants", refuse("is missing", hint));
    }
    let named = section.texts("tenants")?;
    let [(_, one), (_, other)] = named[..] else {
        section.report("tenants", refuse("must name two tenants", hint));
        return None;
    };
    let found = [one, other].map(|name| directory.tenants.get(name));
    let [Some(first), Some(second)] = found else {
        section.report("tenants", refuse("must name tenants that are there", "add a [[tenant]] for each"));
        return None;
    };
    if one == other {
        section.report("tenants", refuse("must name two different tenants", hint));
    }
    if first.upstream != second.upstream {
        section.report("tenants", refuse("must name tenants of one upstream", "they have to share a pool"));
    }
    Some([first.id.clone(), second.id.clone()])
}

fn query(text: &str) -> Result<String, InvalidValue> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err(refuse("must be a query", "write it as \"SELECT tenant_id FROM t\", or leave it out"));
    }
    Ok(text.to_owned())
}
