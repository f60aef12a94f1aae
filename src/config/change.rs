//! What a reload cannot apply: the settings that differ and were built into what is running.
//! Each struct is taken apart by field, so that a new setting cannot be forgotten here.

use super::Config;
use crate::auth::settings::TokenSettings;
use crate::directory::ClaimsSetting;
use crate::net::settings::ListenSettings;
use crate::observability::settings::{LogSettings, MetricsSettings};
use crate::tenant::{AuthQuery, Canary, ContextMode, ReaderLogin, Tables, Tenancy};
use crate::upstream::settings::UpstreamSettings;

/// Names of changed settings that need a restart; `upstream` alone means that one came or went.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // Live: the directory but for one setting of it.
    let Config { listen, metrics, log, upstreams, token, tables, auth_query, canary, directory } = old;
    let mut rows = Vec::new();
    rows.extend(listen_rows(listen, &new.listen));
    let MetricsSettings { address, max_tenants } = metrics;
    rows.push(("metrics.address", *address != new.metrics.address));
    rows.push(("metrics.max_tenants", *max_tenants != new.metrics.max_tenants));
    let LogSettings { format, level } = log;
    rows.push(("log.format", *format != new.log.format));
    rows.push(("log.level", *level != new.log.level));
    rows.push(("upstream", !upstreams.keys().eq(new.upstreams.keys())));
    for (name, upstream) in upstreams {
        rows.extend(new.upstreams.get(name).into_iter().flat_map(|new| upstream_rows(upstream, new)));
    }
    rows.extend(token_rows(token.as_ref(), new.token.as_ref()));
    rows.extend(directory_rows(tables.as_ref(), new.tables.as_ref()));
    rows.extend(auth_query_rows(auth_query.as_ref(), new.auth_query.as_ref()));
    rows.extend(canary_rows(canary.as_ref(), new.canary.as_ref()));
    rows.extend(tenancy_rows(&directory.tenancy, &new.directory.tenancy));

    let mut names = Vec::new();
    for (name, changed) in rows {
        if changed && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

type Row = (&'static str, bool);

fn listen_rows(old: &ListenSettings, new: &ListenSettings) -> [Row; 17] {
    let ListenSettings {
        address,
        socket_dir,
        tls,
        certificate: _,
        private_key: _,
        clients: _,
        databases: _,
        max_clients,
        workers,
        max_logins,
        max_logins_per_address,
        max_server_connections,
        login_timeout,
        drain_timeout,
        max_startup_bytes,
        max_message_bytes,
        message_timeout,
        max_prepared_bytes,
        max_client_memory,
        max_tenant_memory,
        max_memory,
    } = old;
    [
        ("listen.address", *address != new.address),
        ("listen.socket_dir", *socket_dir != new.socket_dir),
        ("listen.tls", *tls != new.tls),
        ("listen.max_clients", *max_clients != new.max_clients),
        ("listen.workers", *workers != new.workers),
        ("listen.max_logins", *max_logins != new.max_logins),
        ("listen.max_logins_per_address", *max_logins_per_address != new.max_logins_per_address),
        ("listen.max_server_connections", *max_server_connections != new.max_server_connections),
        ("listen.login_timeout", *login_timeout != new.login_timeout),
        ("listen.drain_timeout", *drain_timeout != new.drain_timeout),
        ("listen.max_startup_bytes", *max_startup_bytes != new.max_startup_bytes),
        ("listen.max_message_bytes", *max_message_bytes != new.max_message_bytes),
        ("listen.message_timeout", *message_timeout != new.message_timeout),
        ("listen.max_prepared_bytes", *max_prepared_bytes != new.max_prepared_bytes),
        ("listen.max_client_memory", *max_client_memory != new.max_client_memory),
        ("listen.max_tenant_memory", *max_tenant_memory != new.max_tenant_memory),
        ("listen.max_memory", *max_memory != new.max_memory),
    ]
}

fn tenancy_rows(old: &Tenancy, new: &Tenancy) -> [Row; 9] {
    let Tenancy {
        setting,
        application_name,
        server_name: _,
        require_tenant: _,
        context,
        guard,
        allow_unsafe,
        doctor_interval,
        choosers,
        claims,
    } = old;
    let parts = |claims: &Option<ClaimsSetting>| claims.clone().map(|it| (it.setting, it.pointer)).unzip();
    let (before, after) = (parts(claims), parts(&new.claims));
    // The key may change while sealed stays sealed.
    let sealed = |mode: &ContextMode| matches!(mode, ContextMode::Sealed(_));
    [
        ("tenancy.setting", *setting != new.setting),
        ("tenancy.context", sealed(context) != sealed(&new.context)),
        ("tenancy.application_name", *application_name != new.application_name),
        ("tenancy.guard", *guard != new.guard),
        ("tenancy.allow_unsafe", *allow_unsafe != new.allow_unsafe),
        ("tenancy.doctor_interval", *doctor_interval != new.doctor_interval),
        ("tenancy.chooser", *choosers != new.choosers),
        ("tenancy.claims_setting", before.0 != after.0),
        ("tenancy.claims_pointer", before.1 != after.1),
    ]
}

/// Tokens that come or go change all of their settings.
fn token_rows(old: Option<&TokenSettings>, new: Option<&TokenSettings>) -> [Row; 11] {
    const NAMES: [&str; 11] = [
        "token.issuer",
        "token.audience",
        "token.algorithms",
        "token.jwks",
        "token.jwks_ca",
        "token.jwks_interval",
        "token.tenant_claim",
        "token.user_claim",
        "token.scope",
        "token.leeway",
        "token.end_sessions",
    ];
    let (Some(old), Some(new)) = (old, new) else {
        return NAMES.map(|name| (name, old.is_some() != new.is_some()));
    };
    let TokenSettings {
        issuer,
        audience,
        algorithms,
        jwks,
        jwks_ca,
        jwks_interval,
        tenant_claim,
        user_claim,
        scope,
        leeway,
        end_sessions,
    } = old;
    let changed = [
        *issuer != new.issuer,
        *audience != new.audience,
        *algorithms != new.algorithms,
        *jwks != new.jwks,
        *jwks_ca != new.jwks_ca,
        *jwks_interval != new.jwks_interval,
        *tenant_claim != new.tenant_claim,
        *user_claim != new.user_claim,
        *scope != new.scope,
        *leeway != new.leeway,
        *end_sessions != new.end_sessions,
    ];
    std::array::from_fn(|at| (NAMES[at], changed[at]))
}

fn login_changes(old: &ReaderLogin, new: &ReaderLogin) -> [bool; 4] {
    let ReaderLogin { upstream, database, user, password } = old;
    [*upstream != new.upstream, *database != new.database, *user != new.user, *password != new.password]
}

/// Tables that come or go change all of their settings.
fn directory_rows(old: Option<&Tables>, new: Option<&Tables>) -> [Row; 6] {
    const NAMES: [&str; 6] = [
        "directory.upstream",
        "directory.database",
        "directory.user",
        "directory.password",
        "directory.interval",
        "directory.max_rows",
    ];
    let changed = match (old, new) {
        (Some(Tables { login, interval, max_rows }), Some(new)) => {
            let [upstream, database, user, password] = login_changes(login, &new.login);
            [upstream, database, user, password, *interval != new.interval, *max_rows != new.max_rows]
        }
        _ => [old.is_some() != new.is_some(); 6],
    };
    std::array::from_fn(|at| (NAMES[at], changed[at]))
}

/// A query that comes or goes changes all of its settings.
fn auth_query_rows(old: Option<&AuthQuery>, new: Option<&AuthQuery>) -> [Row; 8] {
    const NAMES: [&str; 8] = [
        "auth_query.upstream",
        "auth_query.database",
        "auth_query.user",
        "auth_query.password",
        "auth_query.query",
        "auth_query.ttl",
        "auth_query.negative_ttl",
        "auth_query.max_entries",
    ];
    let changed = match (old, new) {
        (Some(AuthQuery { login, query, ttl, negative_ttl, max_entries }), Some(new)) => {
            let [upstream, database, user, password] = login_changes(login, &new.login);
            let negative = *negative_ttl != new.negative_ttl;
            let (query, entries) = (*query != new.query, *max_entries != new.max_entries);
            [upstream, database, user, password, query, *ttl != new.ttl, negative, entries]
        }
        _ => [old.is_some() != new.is_some(); 8],
    };
    std::array::from_fn(|at| (NAMES[at], changed[at]))
}

/// A canary that comes or goes changes all of its settings.
fn canary_rows(old: Option<&Canary>, new: Option<&Canary>) -> [Row; 3] {
    let (Some(old), Some(new)) = (old, new) else {
        let changed = old.is_some() != new.is_some();
        return ["canary.tenants", "canary.interval", "canary.query"].map(|name| (name, changed));
    };
    let Canary { tenants, interval, query } = old;
    [
        ("canary.tenants", *tenants != new.tenants),
        ("canary.interval", *interval != new.interval),
        ("canary.query", *query != new.query),
    ]
}

fn upstream_rows(old: &UpstreamSettings, new: &UpstreamSettings) -> [Row; 12] {
    let UpstreamSettings {
        name: _,
        hosts,
        database,
        user,
        password,
        tls,
        ca,
        pool_size,
        tenant_pool_size,
        tenant_idle_timeout,
        max_connections,
        connect_timeout,
        max_prepared,
    } = old;
    [
        ("upstream.*.hosts", *hosts != new.hosts),
        ("upstream.*.database", *database != new.database),
        ("upstream.*.user", *user != new.user),
        ("upstream.*.password", *password != new.password),
        ("upstream.*.tls", *tls != new.tls),
        ("upstream.*.ca", *ca != new.ca),
        ("upstream.*.pool_size", *pool_size != new.pool_size),
        ("upstream.*.tenant_pool_size", *tenant_pool_size != new.tenant_pool_size),
        ("upstream.*.tenant_idle_timeout", *tenant_idle_timeout != new.tenant_idle_timeout),
        ("upstream.*.max_connections", *max_connections != new.max_connections),
        ("upstream.*.connect_timeout", *connect_timeout != new.connect_timeout),
        ("upstream.*.max_prepared", *max_prepared != new.max_prepared),
    ]
}
