//! Settings from what is written: `[listen]`, `[metrics]`, `[log]` and `[upstream.NAME]`.
//! Goes on after every problem; the caller looks at the page to see whether there was any.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::Config;
use super::canary::canary;
use super::directory::{Known, directory};
use super::file::Section;
use super::keys;
use super::problem::{InvalidValue, refuse};
use super::reader::{auth_query, tables};
use super::token::token;
use super::value;
use crate::names::{UpstreamName, UserName};
use crate::net::settings::{ClientAuthority, ClientTls, ListenSettings, ServerTls};
use crate::observability::settings::{LogFormat, LogSettings, MetricsSettings};
use crate::upstream::settings::{ServerAddress, UpstreamSettings};

/// The longest time that any setting may name.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const MILLISECOND: Duration = Duration::from_millis(1);

/// Clients that any setting may allow.
pub(super) const MAX_CLIENTS: usize = 1_000_000;
const MAX_WORKERS: usize = 1024;

/// Server connections that any setting may allow.
pub(super) const MAX_SERVERS: usize = 10_000;

const KIB: usize = 1024;

const MIB: usize = 1024 * KIB;
/// The largest memory budget, in bytes.
const MAX_MEMORY: usize = 1024 * 1024 * MIB;

/// All settings; none if something without a default is missing.
pub(super) fn config(top: &Section<'_>) -> Option<Config> {
    let listen_section = top.section("listen", &keys::LISTEN);
    let listen = listen(&listen_section);
    let metrics = metrics(&top.section("metrics", &keys::METRICS));
    if listen.address == metrics.address && !listen.address.ends_with(":0") {
        let what = "metrics.address and listen.address are the same";
        top.report("metrics", refuse(what, "give each its own port"));
    }
    let log = log(&top.section("log", &keys::LOG));
    let written = top.named_sections("upstream", &keys::UPSTREAM);
    if written.is_empty() {
        top.report(
            "upstream",
            refuse("there is no upstream", "add [upstream.main] with hosts, database and user"),
        );
    }
    let known = Known::new("upstream", written.iter().map(|(name, _)| *name));
    let upstreams: Vec<_> = written.iter().map(|(name, section)| upstream(name, section)).collect();
    let token = token(top);
    let directory = directory(top, &listen_section, (&listen, &known), token.as_ref())?;
    let (tables, auth_query) = (tables(top, (&known, &upstreams)), auth_query(top, (&known, &upstreams)));
    let upstreams: Option<BTreeMap<_, _>> =
        upstreams.into_iter().map(|upstream| upstream.map(|one| (one.name.clone(), one))).collect();
    let canary = canary(top, &directory);
    Some(Config { listen, metrics, log, upstreams: upstreams?, token, tables, auth_query, canary, directory })
}

fn listen(section: &Section<'_>) -> ListenSettings {
    let certificate = section.file("certificate");
    let private_key = section.file("private_key");
    let socket_dir = section.path("socket_dir");
    if let Some(dir) = &socket_dir {
        section.accept("socket_dir", value::socket_path(&dir.join(".s.PGSQL.65535")));
    }
    let max_message_bytes = section.bytes("max_message_bytes", 64 * MIB, 8 * KIB..=1024 * MIB - 1);
    ListenSettings {
        address: section.parsed("address", value::listen_address).unwrap_or_else(|| "127.0.0.1:6432".into()),
        socket_dir,
        tls: client_tls(section),
        certificate,
        private_key,
        clients: clients(section),
        databases: databases(section),
        workers: match section.count("workers", 0, 0..=MAX_WORKERS) {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        },
        max_clients: section.count("max_clients", 10_000, 1..=MAX_CLIENTS),
        max_logins: section.count("max_logins", 1000, 0..=MAX_CLIENTS),
        max_logins_per_address: section.count("max_logins_per_address", 200, 0..=MAX_CLIENTS),
        max_server_connections: section.count("max_server_connections", 1000, 1..=MAX_SERVERS),
        login_timeout: section.duration("login_timeout", Duration::from_secs(15), MILLISECOND..=DAY),
        drain_timeout: section.duration("drain_timeout", Duration::from_secs(30), Duration::ZERO..=DAY),
        max_startup_bytes: section.bytes("max_startup_bytes", 10_000, 512..=MIB),
        max_message_bytes,
        message_timeout: section.duration("message_timeout", Duration::from_secs(60), Duration::ZERO..=DAY),
        max_prepared_bytes: section.bytes("max_prepared_bytes", 16 * MIB, 0..=MAX_MEMORY),
        max_client_memory: memory(section, "max_client_memory", 3, max_message_bytes),
        max_tenant_memory: memory(section, "max_tenant_memory", 4, max_message_bytes),
        max_memory: memory(section, "max_memory", 16, max_message_bytes),
    }
}

/// A memory budget, by default so many of the largest message; none may be too small for one of them.
fn memory(section: &Section<'_>, key: &str, messages: usize, max_message_bytes: usize) -> usize {
    let bytes = section.bytes(key, messages * max_message_bytes, 0..=MAX_MEMORY);
    if bytes != 0 && bytes < max_message_bytes {
        let hint = "lower max_message_bytes too; 0 is no limit";
        section.report(key, refuse("is less than max_message_bytes", hint));
    }
    bytes
}

/// Names of databases; none if the file says nothing.
pub(super) fn databases(section: &Section<'_>) -> Vec<String> {
    let texts = section.texts("databases").unwrap_or_default();
    texts.iter().filter_map(|(place, text)| section.accept(place, value::database(text))).collect()
}

fn clients(section: &Section<'_>) -> Option<ClientAuthority> {
    let (ca, revoked) = (section.file("client_ca"), section.file("client_crl"));
    if section.has("client_ca") && !section.has("certificate") {
        let hint = "add certificate and private_key: client certificates are shown over TLS";
        section.report("client_ca", refuse("needs TLS", hint));
    }
    if section.has("client_crl") && !section.has("client_ca") {
        section.report("client_crl", refuse("needs client_ca", "add client_ca = \"…\""));
    }
    Some(ClientAuthority { ca: ca?, revoked })
}

fn client_tls(section: &Section<'_>) -> ClientTls {
    let words = [
        ("off", Some(ClientTls::Off)),
        ("prefer", Some(ClientTls::Prefer)),
        ("require", Some(ClientTls::Require)),
    ];
    let chosen = section.choice("tls", &words);
    let certified = section.has("certificate");
    for (given, missing) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if section.has(given) && !section.has(missing) {
            section.report(given, refuse(format!("needs {missing}"), format!("add {missing} = \"…\"")));
        }
    }
    if matches!(chosen, Some(ClientTls::Prefer | ClientTls::Require)) && !certified {
        let hint = "add certificate and private_key, or use tls = \"off\"";
        section.report("tls", refuse("needs a certificate", hint));
    }
    chosen.unwrap_or(if certified { ClientTls::Prefer } else { ClientTls::Off })
}

fn metrics(section: &Section<'_>) -> MetricsSettings {
    MetricsSettings {
        address: section.parsed("address", value::listen_address).unwrap_or_else(|| "127.0.0.1:9187".into()),
        max_tenants: section.count("max_tenants", 1000, 0..=100_000),
    }
}

fn log(section: &Section<'_>) -> LogSettings {
    let words = [("text", Some(LogFormat::Text)), ("json", Some(LogFormat::Json))];
    LogSettings {
        format: section.choice("format", &words).unwrap_or(LogFormat::Text),
        level: section.parsed("level", log_level).unwrap_or_else(|| "info".into()),
    }
}

fn log_level(text: &str) -> Result<String, InvalidValue> {
    if text.trim().is_empty() || EnvFilter::try_new(text).is_err() {
        return Err(refuse("is not a log filter", "use \"info\", or \"info,pgtenant::session=debug\""));
    }
    Ok(text.to_owned())
}

fn upstream(name: &str, section: &Section<'_>) -> Option<UpstreamSettings> {
    let parsed = UpstreamName::parse(name);
    if let Err(error) = &parsed {
        section.report_whole(refuse(error.to_string(), "choose another name"));
    }
    let hosts = hosts(section);
    // A database and a role obey the same rules as our own names: bounded, no control characters.
    let database = section.name("database", UserName::parse);
    let user = section.name("user", UserName::parse);
    let password = section.secret("password");
    let (tls, ca) = server_tls(section);
    let pool_size = section.count("pool_size", 20, 1..=MAX_SERVERS);
    let tenant_pool_size = section.count("tenant_pool_size", 2, 1..=MAX_SERVERS);
    let minute = Duration::from_secs(60);
    let tenant_idle_timeout = section.duration("tenant_idle_timeout", minute, MILLISECOND..=DAY);
    let max_connections = section.count("max_connections", 90.max(pool_size), 1..=MAX_SERVERS);
    if max_connections < pool_size {
        section.report("max_connections", refuse("is less than pool_size", "raise it, or lower pool_size"));
    }
    let connect_timeout = section.duration("connect_timeout", Duration::from_secs(5), MILLISECOND..=DAY);
    let max_prepared = section.count("max_prepared", 200, 1..=100_000);
    Some(UpstreamSettings {
        name: parsed.ok()?,
        hosts,
        database: database?.as_str().to_owned(),
        user: user?.as_str().to_owned(),
        password,
        tls,
        ca,
        pool_size,
        tenant_pool_size,
        tenant_idle_timeout,
        max_connections,
        connect_timeout,
        max_prepared,
    })
}

fn hosts(section: &Section<'_>) -> Vec<ServerAddress> {
    let Some(texts) = section.texts("hosts") else {
        return vec![ServerAddress::Tcp { host: "127.0.0.1".into(), port: 5432 }];
    };
    let parse = |(place, text): (String, &str)| section.accept(&place, value::server_address(text));
    texts.into_iter().filter_map(parse).collect()
}

fn server_tls(section: &Section<'_>) -> (ServerTls, Option<PathBuf>) {
    let words = [
        ("off", Some(ServerTls::Off)),
        ("prefer", Some(ServerTls::Prefer)),
        ("require", Some(ServerTls::Require)),
        ("verify-ca", Some(ServerTls::VerifyCa)),
        ("verify-full", Some(ServerTls::VerifyFull)),
    ];
    let tls = section.choice("tls", &words).unwrap_or(ServerTls::Prefer);
    let ca = section.file("ca");
    if ca.is_some() && matches!(tls, ServerTls::Off | ServerTls::Prefer | ServerTls::Require) {
        let hint = "add tls = \"verify-full\", or leave ca out";
        section.report("ca", refuse("is not looked at unless tls verifies the server", hint));
    }
    (tls, ca)
}
