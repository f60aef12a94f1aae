//! The directory from what is written: `[defaults]`, `[[tenant]]` and `[[user]]`, under `[tenancy]`.
//! One pass over each list and hash look-ups between them: 100,000 tenants load in a blink.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::compile::{DAY, MAX_CLIENTS, MAX_SERVERS, databases};
use super::file::Section;
use super::keys;
use super::problem::{InvalidValue, refuse, suggest};
use super::tenancy::tenancy;
use super::value;
use super::verifier::{PlainPasswords, verifier};
use crate::auth::settings::TokenSettings;
use crate::directory::ChoiceSpan;
use crate::guard;
use crate::names::{TenantId, UpstreamName, UserName};
use crate::net::settings::ListenSettings;
use crate::tenant::{
    CertificateName, Directory, Grant, Isolation, Limits, Maintenance, Pinning, Place, PoolMode, Tenant,
    TokenUse, User, Verifier,
};

/// Names that others may refer to, in the file's order.
pub(super) struct Known<'p> {
    kind: &'static str,
    order: Vec<&'p str>,
    set: HashSet<&'p str>,
}

impl<'p> Known<'p> {
    pub(super) fn new(kind: &'static str, names: impl Iterator<Item = &'p str>) -> Self {
        let order: Vec<_> = names.collect();
        Self { kind, set: order.iter().copied().collect(), order }
    }

    fn only(&self) -> Option<&'p str> {
        if let [name] = self.order[..] { Some(name) } else { None }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    fn check(&self, name: &str) -> Result<(), InvalidValue> {
        if self.set.contains(name) {
            return Ok(());
        }
        Err(refuse(format!("there is no {} {name:?}", self.kind), suggest(name, self.order.iter().copied())))
    }
}

/// Everything that a reload replaces; none if something without a default is missing.
pub(super) fn directory(
    top: &Section<'_>,
    listen_section: &Section<'_>,
    (listen, upstreams): (&ListenSettings, &Known<'_>),
    tokens: Option<&TokenSettings>,
) -> Option<Directory> {
    let tenancy = tenancy(&top.section("tenancy", &keys::TENANCY));
    let defaults = limits(&top.section("defaults", &keys::DEFAULTS), DEFAULTS);
    let sections = top.list("tenant", &keys::TENANT, "id");
    let known = distinct("tenant", "id", &sections);
    let mut tenants = HashMap::with_capacity(sections.len());
    for section in &sections {
        let Some(tenant) = tenant(section, defaults, upstreams) else { continue };
        tenants.insert(tenant.id.clone(), Arc::new(tenant));
    }
    let plain = match listen_section.flag("allow_plain_passwords") {
        Some(true) => PlainPasswords::Allowed,
        Some(false) | None => PlainPasswords::Refused,
    };
    let sections = top.list("user", &keys::USER, "name");
    distinct("user", "name", &sections);
    let grants = Grants { tenants: &known, upstreams, listen, tokens, plain };
    let mut users = HashMap::with_capacity(sections.len());
    for section in &sections {
        let Some(user) = user(section, &grants) else { continue };
        users.insert(user.name.clone(), Arc::new(user));
    }
    refuse_ambiguous(&sections, &known);
    Some(Directory { tenants, users, tenancy: tenancy?, defaults })
}

/// The names of a list's tables; a second table of the same name is a problem.
fn distinct<'p>(kind: &'static str, key: &str, sections: &[Section<'p>]) -> Known<'p> {
    let mut first: HashMap<&str, &Section<'_>> = HashMap::with_capacity(sections.len());
    let mut names = Vec::with_capacity(sections.len());
    for section in sections {
        let Some(name) = section.peek(key) else { continue };
        names.push(name);
        if let Some(earlier) = first.get(name) {
            let hint = format!("the first is {}; remove one", earlier.place());
            section.report(key, refuse("is there twice", hint));
        } else {
            first.insert(name, section);
        }
    }
    Known::new(kind, names.into_iter())
}

// === [defaults] and [[tenant]] ===

const DEFAULTS: Limits = Limits {
    max_clients: 200,
    max_servers: 10,
    max_pins: 5,
    queue_timeout: Duration::from_secs(5),
    statement_timeout: Duration::from_secs(30),
    idle_transaction_timeout: Duration::ZERO,
};

fn limits(section: &Section<'_>, base: Limits) -> Limits {
    let any = Duration::ZERO..=DAY;
    Limits {
        max_clients: section.count("max_clients", base.max_clients, 1..=MAX_CLIENTS),
        max_servers: section.count("max_servers", base.max_servers, 1..=MAX_SERVERS),
        max_pins: section.count("max_pins", base.max_pins, 0..=MAX_SERVERS),
        queue_timeout: section.duration("queue_timeout", base.queue_timeout, any.clone()),
        statement_timeout: section.duration("statement_timeout", base.statement_timeout, any.clone()),
        idle_transaction_timeout: section.duration(
            "idle_transaction_timeout",
            base.idle_transaction_timeout,
            any,
        ),
    }
}

pub(super) fn tenant(section: &Section<'_>, defaults: Limits, upstreams: &Known<'_>) -> Option<Tenant> {
    let id = section.name("id", TenantId::parse);
    let upstream = upstream_of(section, upstreams);
    let all = [Isolation::Row, Isolation::Schema, Isolation::Database];
    let words = all.map(|isolation| (isolation.label(), Some(isolation)));
    let isolation = section.choice("isolation", &words).unwrap_or(Isolation::Row);
    let limits = limits(section, defaults);
    let place = place(section, isolation, id.as_ref());
    Some(Tenant { id: id?, upstream: upstream?, isolation, place: place?, limits })
}

/// Where a tenant is, as far as its isolation has a place of its own.
fn place(section: &Section<'_>, isolation: Isolation, id: Option<&TenantId>) -> Option<Place> {
    let allowed: &[&str] = match isolation {
        Isolation::Row => &[],
        Isolation::Schema => &["schema", "role", "role_password"],
        Isolation::Database => &["database", "role", "role_password"],
    };
    let mut fits = true;
    for key in ["database", "schema", "role", "role_password"] {
        if section.has(key) && !allowed.contains(&key) {
            let what = format!("means nothing with isolation = {:?}", isolation.label());
            section.report(key, refuse(what, "leave it out, or choose another isolation"));
            fits = false;
        }
    }
    let named = |key: &str, default: &str| {
        let text = section.text(key).unwrap_or(default);
        let text = text.replace("{tenant}", id.map_or("", TenantId::as_str));
        section.accept(key, value::identifier(&text))
    };
    let password = section.secret("role_password");
    let role = |name: String| (name, password.clone());
    let place = match isolation {
        Isolation::Row => Place::default(),
        Isolation::Schema => Place {
            database: None,
            schema: Some(named("schema", "tenant_{tenant}")?),
            role: Some(role(named("role", "tenant_{tenant}")?)),
        },
        Isolation::Database => Place {
            database: Some(named("database", "{tenant}")?),
            schema: None,
            role: if section.has("role") { Some(role(named("role", "")?)) } else { None },
        },
    };
    fits.then_some(place)
}

/// The upstream that a table names, or the only one there is.
pub(super) fn upstream_of(section: &Section<'_>, upstreams: &Known<'_>) -> Option<UpstreamName> {
    let name = match (section.has("upstream"), upstreams.only()) {
        (false, Some(only)) => only,
        (false, None) if upstreams.order.is_empty() => return None,
        _ => section.required("upstream")?,
    };
    section.accept("upstream", upstreams.check(name))?;
    UpstreamName::parse(name).ok()
}

// === [[user]] ===

/// What a grant may refer to.
pub(super) struct Grants<'k> {
    pub(super) tenants: &'k Known<'k>,
    pub(super) upstreams: &'k Known<'k>,
    pub(super) listen: &'k ListenSettings,
    pub(super) tokens: Option<&'k TokenSettings>,
    pub(super) plain: PlainPasswords,
}

pub(super) fn user(section: &Section<'_>, grants: &Grants<'_>) -> Option<User> {
    let name = section.name("name", UserName::parse);
    let proofs = proofs(section, name.as_ref(), grants);
    let grant = grant(section, grants);
    let allow = allowed_rules(section);
    let roles = roles(section);
    let modes = [("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];
    let pool_mode =
        section.choice("pool_mode", &modes.map(|(word, mode)| (word, Some(mode)))).unwrap_or_default();
    let pinnings = [("allow", Pinning::Allow), ("refuse", Pinning::Refuse)];
    let pinning =
        section.choice("pinning", &pinnings.map(|(word, pinning)| (word, Some(pinning)))).unwrap_or_default();
    let tenant_comment = section.flag("tenant_comment").unwrap_or(false);
    if tenant_comment && !section.has("tenants") {
        section.report("tenant_comment", refuse("is for users with tenants", "leave the line out"));
    }
    let choice = choice(section, pool_mode);
    let Proofs { verifier, certificate, token } = proofs?;
    Some(User {
        name: name?,
        verifier,
        certificate,
        token,
        grant: grant?,
        allow,
        roles,
        tenant_comment,
        choice,
        pool_mode,
        pinning,
    })
}

/// For how long the user's choices of a tenant hold.
fn choice(section: &Section<'_>, pool_mode: PoolMode) -> ChoiceSpan {
    let words = [("session", Some(ChoiceSpan::Session)), ("transaction", Some(ChoiceSpan::Transaction))];
    let choice = section.choice("choice", &words).unwrap_or_default();
    if section.has("choice") && !section.has("tenants") {
        section.report("choice", refuse("is for users with tenants", "leave the line out"));
    } else if choice == ChoiceSpan::Transaction && pool_mode == PoolMode::Session {
        let hint = "leave one of the two out: a session's server is one tenant's";
        section.report(
            "choice",
            refuse("= \"transaction\" and pool_mode = \"session\" exclude each other", hint),
        );
    }
    choice
}

/// What a user has to prove; at least one thing.
struct Proofs {
    verifier: Option<Verifier>,
    certificate: Option<CertificateName>,
    token: Option<TokenUse>,
}

fn proofs(section: &Section<'_>, name: Option<&UserName>, grants: &Grants<'_>) -> Option<Proofs> {
    if !["password", "certificate", "token"].iter().any(|key| section.has(key)) {
        section.report("password", refuse("is missing", "make a verifier with pgtenant scram"));
        return None;
    }
    let password = section.secret("password");
    let verifier =
        password.and_then(|text| section.accept("password", verifier(text.expose(), grants.plain)));
    let certificate = section
        .text("certificate")
        .and_then(|text| section.accept("certificate", value::certificate_name(text, name?.as_str())));
    if section.has("certificate") && grants.listen.clients.is_none() {
        let hint = "add listen.client_ca = \"…\", the PEM roots of client certificates";
        section.report("certificate", refuse("needs listen.client_ca", hint));
    }
    let token = token_use(section, grants);
    let read = [verifier.is_some(), certificate.is_some(), token.is_some()];
    let written = ["password", "certificate", "token"].map(|key| section.has(key));
    (read == written).then_some(Proofs { verifier, certificate, token })
}

fn token_use(section: &Section<'_>, grants: &Grants<'_>) -> Option<TokenUse> {
    let words = [("password", Some(TokenUse::Password)), ("oauthbearer", Some(TokenUse::OauthBearer))];
    let token = section.choice("token", &words)?;
    let refused = if section.has("password") {
        refuse("and password are both there", "a token stands in for the password: leave one out")
    } else if grants.listen.certificate.is_none() && grants.listen.socket_dir.is_none() {
        refuse("needs TLS", "add listen.certificate and listen.private_key: tokens are readable in the clear")
    } else {
        match grants.tokens {
            None => refuse("needs a section [token]", "add it, with issuer, audience and jwks"),
            Some(tokens) if tokens.user_claim.is_some() => return Some(token),
            // Any token of the issuer would do.
            Some(tokens) if tokens.tenant_claim.is_none() => refuse(
                "needs token.user_claim or token.tenant_claim",
                "name the claim that holds the login name",
            ),
            Some(_) if section.has("maintenance") || section.has("operator") => refuse(
                "needs token.user_claim for a user without a tenant",
                "name the claim that holds the login name",
            ),
            Some(_) => return Some(token),
        }
    };
    section.report("token", refused);
    None
}

/// Rules of the guard that do not hold for a user.
fn allowed_rules(section: &Section<'_>) -> Vec<&'static str> {
    let mut rules = Vec::new();
    for (place, text) in section.texts("allow").unwrap_or_default() {
        if let Some(rule) = guard::GRANTABLE.iter().find(|rule| **rule == text) {
            rules.push(*rule);
        } else {
            let what = format!("{text:?} is not a rule that can be granted");
            section.report(&place, refuse(what, suggest(text, guard::GRANTABLE.iter().copied())));
        }
    }
    rules
}

/// The most roles of one user.
const MAX_ROLES: usize = 64;

/// Roles that a user may SET. What they are in the database is asked by the doctor.
fn roles(section: &Section<'_>) -> Vec<String> {
    let mut roles = Vec::new();
    for (place, text) in section.texts("roles").unwrap_or_default() {
        let Some(role) = section.accept(&place, value::application_role(text)) else { continue };
        if roles.contains(&role) {
            section.report(&place, refuse(format!("{role:?} is there twice"), "remove one"));
        }
        roles.push(role);
    }
    if section.has("roles") && !(section.has("tenant") || section.has("tenants")) {
        section.report("roles", refuse("is for users with tenant or tenants", "leave the line out"));
    } else if roles.len() > MAX_ROLES {
        section.report("roles", refuse(format!("must hold at most {MAX_ROLES} roles"), "list fewer"));
    }
    roles
}

fn grant(section: &Section<'_>, grants: &Grants<'_>) -> Option<Grant> {
    let is_operator = section.flag("operator") == Some(true);
    let mut named = vec!["tenant", "tenants", "maintenance"];
    named.retain(|key| section.has(key));
    match (&named[..], is_operator) {
        ([], true) => Some(Grant::Operator),
        (["tenant"], false) => bound(section, grants.tenants),
        (["tenants"], false) => gateway(section, grants.tenants),
        (["maintenance"], false) => maintenance(section, grants.upstreams),
        _ => {
            let what = "must have exactly one of tenant, tenants, maintenance, operator";
            section.report_whole(refuse(what, "a user of one tenant has tenant = \"…\""));
            None
        }
    }
}

fn bound(section: &Section<'_>, tenants: &Known<'_>) -> Option<Grant> {
    let id = section.name("tenant", TenantId::parse)?;
    section.accept("tenant", tenants.check(id.as_str()))?;
    Some(Grant::Tenant(id))
}

fn gateway(section: &Section<'_>, tenants: &Known<'_>) -> Option<Grant> {
    let texts = section.texts("tenants")?;
    if matches!(texts[..], [(_, "*")]) {
        return Some(Grant::AnyTenant);
    }
    let mut seen = HashSet::with_capacity(texts.len());
    let mut ids = Vec::with_capacity(texts.len());
    for (place, text) in &texts {
        if *text == "*" {
            section.report(place, refuse("\"*\" stands alone", "write tenants = [\"*\"]"));
        } else if !seen.insert(*text) {
            section.report(place, refuse(format!("{text:?} is there twice"), "remove one"));
        } else if section.accept(place, tenants.check(text)).is_some() {
            ids.extend(TenantId::parse(text).ok());
        }
    }
    Some(Grant::Tenants(ids))
}

fn maintenance(section: &Section<'_>, upstreams: &Known<'_>) -> Option<Grant> {
    let section = section.section("maintenance", &keys::MAINTENANCE);
    let upstream = upstream_of(&section, upstreams);
    let server_user = section.name("server_user", UserName::parse);
    let server_password = section.secret("server_password");
    let max_replication = section.count("max_replication", 0, 0..=MAX_SERVERS);
    Some(Grant::Maintenance(Maintenance {
        upstream: upstream?,
        server_user: server_user?.as_str().to_owned(),
        server_password,
        databases: databases(&section),
        max_replication,
    }))
}

fn refuse_ambiguous(sections: &[Section<'_>], tenants: &Known<'_>) {
    let names = || sections.iter().filter_map(|section| Some((section, section.peek("name")?)));
    let gateways: HashSet<_> =
        names().filter(|(section, _)| section.has("tenants")).map(|(_, name)| name).collect();
    for (section, name) in names() {
        for (first, rest) in other_readings(name, |name| gateways.contains(name), |id| tenants.has(id)) {
            section.report("name", ambiguous(first, rest));
        }
    }
}

/// A gateway user logs in as `name.tenant` too, so that such a text must mean one thing only: no other user has it as a
/// name, and no two gateway users can both be its beginning. What else a name could mean.
pub(super) fn other_readings(
    name: &str,
    is_gateway: impl Fn(&str) -> bool,
    is_tenant: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (&str, &str)> {
    name.match_indices('.')
        .map(move |(at, _)| (&name[..at], &name[at + 1..]))
        .filter(move |(first, rest)| is_gateway(first) && (is_gateway(name) || is_tenant(rest)))
}

pub(super) fn ambiguous(first: &str, rest: &str) -> InvalidValue {
    let what = format!("reads as the gateway user {first:?} asking for the tenant {rest:?}");
    refuse(what, "rename the user, for example with a dash for the dot")
}
