//! `[directory]` and `[auth_query]`: what the proxy reads in PostgreSQL for itself.

use std::time::Duration;

use super::compile::DAY;
use super::directory::{Known, upstream_of};
use super::file::Section;
use super::keys;
use super::problem::{InvalidValue, refuse};
use super::value;
use crate::names::UserName;
use crate::tenant::{AuthQuery, ReaderLogin, Tables};
use crate::upstream::settings::UpstreamSettings;

const SECOND: Duration = Duration::from_secs(1);

/// The most that tables or a cache may hold.
const MAX_ROWS: usize = 10_000_000;

/// Upstreams by name, and as they are written.
type Upstreams<'u> = (&'u Known<'u>, &'u [Option<UpstreamSettings>]);

pub(super) fn tables(top: &Section<'_>, upstreams: Upstreams<'_>) -> Option<Tables> {
    if !top.has("directory") {
        return None;
    }
    let section = top.section("directory", &keys::DIRECTORY);
    let interval = section.duration("interval", 60 * SECOND, SECOND..=DAY);
    let max_rows = section.count("max_rows", 500_000, 1..=MAX_ROWS);
    Some(Tables { login: login(&section, upstreams)?, interval, max_rows })
}

pub(super) fn auth_query(top: &Section<'_>, upstreams: Upstreams<'_>) -> Option<AuthQuery> {
    if !top.has("auth_query") {
        return None;
    }
    let section = top.section("auth_query", &keys::AUTH_QUERY);
    let query = section.required("query").and_then(|text| section.accept("query", query(text)));
    let ttl = section.duration("ttl", 60 * SECOND, Duration::ZERO..=DAY);
    let negative_ttl = section.duration("negative_ttl", 5 * SECOND, Duration::ZERO..=DAY);
    let max_entries = section.count("max_entries", 10_000, 1..=MAX_ROWS);
    Some(AuthQuery { login: login(&section, upstreams)?, query: query?, ttl, negative_ttl, max_entries })
}

fn login(section: &Section<'_>, (known, upstreams): Upstreams<'_>) -> Option<ReaderLogin> {
    let upstream = upstream_of(section, known);
    let database =
        section.text("database").and_then(|text| section.accept("database", value::identifier(text)));
    let user = section.name("user", UserName::parse);
    let password = section.secret("password");
    let is_pools = |pool: &UpstreamSettings| user.as_ref().is_some_and(|user| user.as_str() == pool.user);
    if upstreams.iter().flatten().any(is_pools) {
        let hint = "make a role of its own: what this one reads, no tenant may";
        section.report("user", refuse("is the login role of an upstream, which tenants use", hint));
    }
    Some(ReaderLogin { upstream: upstream?, database, user: user?.as_str().to_owned(), password })
}

fn query(text: &str) -> Result<String, InvalidValue> {
    let hint = "write it as \"SELECT verifier, tenant FROM auth.find_user($1)\"";
    if text.contains('\0') || !text.contains("$1") {
        return Err(refuse("must be a query with $1 for the login name", hint));
    }
    Ok(text.to_owned())
}
