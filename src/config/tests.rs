//! Every setting: its default, both sides of its limits, and all problems at once.

mod documented;
mod reload;
mod secrets;
mod users;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{Reload, SECTIONS};
use super::*;
use crate::names::{TenantId, UserName};
use crate::net::settings::{ClientTls, ServerTls};
use crate::tenant::{Grant, User};
use crate::upstream::settings::ServerAddress;

const EXAMPLE: &str = include_str!("../../config.example.toml");
const DOCS: &str = include_str!("../../docs/configuration.md");
const UPSTREAM: &str = "[upstream.main]\ndatabase = 'app'\nuser = 'app'\n";
const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn read(text: &str) -> Result<Config, Problems> {
    parse(text, Path::new("/nonexistent"), &|name| (name == "SET").then(|| "from-environment".to_owned()))
}

fn problems(text: &str) -> Vec<Problem> {
    read(text).map_or_else(|problems| problems.0, |_| Vec::new())
}

/// A configuration with `line` in `section`, nothing else but what it needs; the section's line follows its place.
fn with(section: &str, line: &str) -> String {
    let (head, needs) = match section {
        "upstream.*" => ("[upstream.main]", "database = 'app'\nuser = 'app'\n"),
        "tenant" => ("[[tenant]]", "id = 'acme'\n"),
        "canary" => {
            ("[[tenant]]\nid = 'one'\n[[tenant]]\nid = 'two'\n[canary]", "tenants = ['one', 'two']\n")
        }
        "token" => ("[token]", "issuer = 'https://id'\naudience = 'pgtenant'\njwks = 'https://id/keys'\n"),
        "directory" => ("[directory]", "user = 'reader'\n"),
        "auth_query" => ("[auth_query]", "user = 'reader'\nquery = 'SELECT $1'\n"),
        "user" => ("[[user]]", "name = 'ann'\npassword = 'V'\noperator = true\n"),
        "user.maintenance" => (
            "[[user]]\nname = 'ann'\npassword = 'V'\n[user.maintenance]",
            "upstream = 'main'\nserver_user = 'o'\n",
        ),
        other => (&*format!("[{other}]"), ""),
    };
    let key = line.split_once(" = ").map_or("", |(key, _)| key);
    let needs: String = needs.lines().filter(|need| !need.starts_with(&format!("{key} "))).fold(
        String::new(),
        |mut all, need| {
            writeln!(all, "{need}").unwrap();
            all
        },
    );
    let needs = if ["tenant", "tenants", "maintenance"].contains(&key) {
        needs.replace("operator = true\n", "")
    } else {
        needs
    };
    let others = if section == "upstream.*" { "" } else { UPSTREAM };
    format!("{others}{head}\n{line}\n{needs}").replace("'V'", &format!("'{VERIFIER}'"))
}

fn refused(section: &str, line: &str) -> Vec<String> {
    problems(&with(section, line)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_short_file_gets_the_documented_defaults() {
    let config = read(UPSTREAM).unwrap();
    assert_eq!(config.listen.address, "127.0.0.1:6432");
    assert_eq!(config.listen.tls, ClientTls::Off);
    assert_eq!(config.listen.max_message_bytes, 64 << 20);
    let upstream = config.upstreams.values().next().unwrap();
    assert_eq!(upstream.hosts, [ServerAddress::Tcp { host: "127.0.0.1".into(), port: 5432 }]);
    assert_eq!((upstream.tls, upstream.pool_size), (ServerTls::Prefer, 20));
    assert_eq!(config.directory.tenancy.setting, "app.tenant_id");
    assert!(config.directory.tenancy.require_tenant);
}

#[test]
fn all_problems_come_at_once_with_place_line_and_hint() {
    let text = "\
[listen]
adress = '127.0.0.1:1'
max_clients = 0
tls = 'require'
[upstream.main]
database = 'app'
pool_size = 'many'
[logs]
[[tenant]]
id = 'acme'
upstream = 'mian'
[[user]]
name = 'ann'
password = 'hunter2'
tenant = 'acne'
";
    let shown = read(text).unwrap_err().to_string();
    let expected = "\
logs (line 8): is not a known setting (hint: did you mean \"log\"?)
listen.adress (line 2): is not a known setting (hint: did you mean \"address\"?)
listen.tls (line 4): needs a certificate (hint: add certificate and private_key, or use tls = \"off\")
listen.max_clients (line 3): must be between 1 and 1000000 (hint: the default is 10000)
upstream.main.user (line 5): is missing (hint: add user = \"…\")
upstream.main.pool_size (line 7): must be a whole number (hint: write it as pool_size = 10)
tenant[0] \"acme\".upstream (line 11): there is no upstream \"mian\" (hint: did you mean \"main\"?)
user[0] \"ann\".password (line 14): is not a SCRAM-SHA-256 verifier (hint: make one with pgtenant scram, or set listen.allow_plain_passwords = true)
user[0] \"ann\".tenant (line 15): there is no tenant \"acne\" (hint: did you mean \"acme\"?)";
    assert_eq!(shown, expected);
}

#[test]
fn what_is_not_toml_is_reported_without_quoting_the_line() {
    let found = problems("[listen]\npassword = hunter2 hunter2\n[upstream\nx = \"hunter2\n")
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("the file (line 2): is not TOML: "), "{found:?}");
    assert!(!found.concat().contains("hunter2"), "{found:?}");
}

#[test]
fn both_sides_of_each_limit() {
    // section, key, the last values accepted, the first ones refused
    let table: &[(&str, &str, &[&str], &[&str])] = &[
        ("listen", "max_clients", &["1", "1_000_000"], &["0", "1000001", "-1", "1.5", "'1'"]),
        ("listen", "workers", &["0", "1024"], &["1025", "-1"]),
        ("listen", "max_logins", &["0", "1000000"], &["1000001", "-1"]),
        ("listen", "max_logins_per_address", &["0", "1000000"], &["1000001", "-1"]),
        ("listen", "max_server_connections", &["1", "10000"], &["0", "10001"]),
        ("listen", "login_timeout", &["'1ms'", "'1day'"], &["'0s'", "'1day 1ms'", "5", "'5'", "'soon'"]),
        ("listen", "drain_timeout", &["'0s'", "'24h'"], &["'25h'"]),
        ("listen", "max_startup_bytes", &["512", "'1MiB'"], &["511", "1048577"]),
        (
            "listen",
            "max_message_bytes",
            &["'8kB'", "1073741823"],
            &["8191", "'1GiB'", "'1XB'", "'99999999999GiB'"],
        ),
        ("listen", "message_timeout", &["'0s'", "'1day'"], &["'1day 1ms'", "60"]),
        ("listen", "max_prepared_bytes", &["0", "1", "'1024GiB'"], &["'1025GiB'", "-1"]),
        ("listen", "max_client_memory", &["0", "'64MiB'", "'1024GiB'"], &["67108863", "1", "'1025GiB'"]),
        ("listen", "max_tenant_memory", &["0", "'64MiB'", "'1024GiB'"], &["67108863", "1", "'1025GiB'"]),
        ("listen", "max_memory", &["0", "'64MiB'", "'1024GiB'"], &["67108863", "1", "'1025GiB'"]),
        ("metrics", "max_tenants", &["0", "100000"], &["100001"]),
        ("upstream.*", "pool_size", &["1", "10000"], &["0", "10001"]),
        ("upstream.*", "connect_timeout", &["'1ms'", "'1day'"], &["'0ms'", "'2days'"]),
        ("upstream.*", "max_prepared", &["1", "100000"], &["0", "100001"]),
        ("defaults", "max_clients", &["1", "1000000"], &["0", "1000001"]),
        ("tenant", "max_servers", &["1", "10000"], &["0", "10001"]),
        ("tenant", "queue_timeout", &["'0s'", "'1day'"], &["'1day 1s'"]),
        ("tenant", "statement_timeout", &["'0s'", "'1day'"], &["'1day 1s'"]),
        ("defaults", "idle_transaction_timeout", &["'0s'", "'1day'"], &["'1day 1s'"]),
    ];
    check(table);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn words_names_and_addresses() {
    let table: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "listen",
            "address",
            &["'0.0.0.0:0'", "'[::1]:6432'", "'db-1.x:65535'"],
            &["'host'", "':6432'", "'::1:6432'", "'a:65536'", "'a b:1'", "'[x]:1'"],
        ),
        ("listen", "tls", &["'off'"], &["'prefer'", "'require'", "'on'", "true"]),
        ("listen", "client_ca", &[], &["'missing.crt'"]),
        ("listen", "databases", &["['a', 'B c']"], &["[]", "['']", "'a'", "[\"a\\u0000\"]", "[1]"]),
        ("listen", "client_crl", &[], &["'missing.crl'"]),
        (
            "token",
            "algorithms",
            &["['PS512']", "['EdDSA', 'ES384']"],
            &["['none']", "['HS256']", "['rs256']", "[]", "'RS256'"],
        ),
        ("token", "jwks", &["'https://id/keys'"], &["'http://id/keys'", "'missing.json'", "''"]),
        ("token", "jwks_ca", &[], &["'missing.crt'"]),
        ("token", "jwks_interval", &["'1s'", "'1day'"], &["'999ms'", "'2days'"]),
        ("token", "leeway", &["'0s'", "'5m'"], &["'5m 1s'"]),
        ("token", "tenant_claim", &["'/a/b'"], &["''"]),
        ("token", "user_claim", &["'sub'"], &["''"]),
        ("token", "end_sessions", &["true"], &["1"]),
        (
            "tenancy",
            "server_name",
            &["'{tenant}.db'"],
            &["'db'", "'{tenant}{tenant}'", "'{tenant}.{x}'", "''"],
        ),
        ("listen", "certificate", &[], &["'missing.crt'", "''"]),
        (
            "listen",
            "socket_dir",
            &["'run'"],
            &[
                "''",
                "'/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
            ],
        ),
        ("metrics", "address", &["'127.0.0.1:0'"], &["'127.0.0.1:6432'"]),
        ("log", "format", &["'text'", "'json'"], &["'xml'"]),
        ("log", "level", &["'debug'", "'info,pgtenant::session=trace'"], &["''", "'info,=='"]),
        (
            "upstream.*",
            "hosts",
            &["['db']", "['db:1', '/run', '[::1]']"],
            &["[]", "['db:0']", "['a:b@c:1']", "[5]", "'db'"],
        ),
        (
            "upstream.*",
            "tls",
            &["'off'", "'prefer'", "'require'", "'verify-ca'", "'verify-full'"],
            &["'disable'"],
        ),
        ("upstream.*", "ca", &[], &["'missing.crt'"]),
        ("directory", "upstream", &["'main'"], &["'other'"]),
        ("directory", "user", &["'reader'"], &["'app'", "''"]),
        ("directory", "database", &["'d'"], &["''"]),
        ("directory", "interval", &["'1s'", "'1day'"], &["'999ms'", "'2days'"]),
        ("directory", "max_rows", &["1", "10000000"], &["0", "10000001"]),
        ("auth_query", "user", &["'reader'"], &["'app'"]),
        ("auth_query", "query", &["'SELECT $1'"], &["''", "'SELECT 1'"]),
        ("auth_query", "ttl", &["'0s'", "'1day'"], &["'2days'"]),
        ("auth_query", "negative_ttl", &["'0s'", "'1day'"], &["'2days'"]),
        ("auth_query", "max_entries", &["1", "10000000"], &["0", "10000001"]),
        ("tenant", "id", &["'a.b'"], &["''", "\"a\\u0000\""]),
        ("tenant", "upstream", &["'main'"], &["'other'"]),
        ("user", "operator", &["true"], &["false", "1"]),
        ("user", "tenants", &["['*']"], &["[]", "['a']"]),
        ("user.maintenance", "upstream", &["'main'"], &["'other'"]),
        ("user.maintenance", "databases", &["['a']"], &["[]", "['']", "'a'"]),
        ("user.maintenance", "server_user", &["'owner'"], &["''"]),
        ("upstream.*", "database", &["'app'"], &["''", "\"a\\u0000\""]),
    ];
    check(table);
}

#[test]
fn the_canary_needs_two_tenants_of_one_upstream() {
    let table: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "canary",
            "tenants",
            &["['one', 'two']"],
            &["[]", "['one']", "['one', 'one']", "['one', 'x']", "['one', 'two', 'one']", "'one'"],
        ),
        ("canary", "interval", &["'100ms'", "'1day'"], &["'99ms'", "'2days'"]),
        ("canary", "query", &["'SELECT 1'"], &["''", "' '", "\"\\u0000\""]),
    ];
    check(table);
    let text = with("canary", "interval = '1s'");
    let canary = |text: &str| read(text).unwrap().canary;
    assert_eq!(canary(UPSTREAM), None);
    assert_eq!(canary(&text).unwrap().query, None);
    let sealed = format!("[tenancy]\ncontext = 'sealed'\nseal_key = '{}'\n{text}", "5a".repeat(32));
    assert_eq!(canary(&sealed).unwrap().query.unwrap(), "SELECT tenant_id FROM pgtenant.canary");
    let apart = text
        .replace("id = 'two'", "id = 'two'\nupstream = 'other'")
        .replace("id = 'one'", "id = 'one'\nupstream = 'main'")
        + "[upstream.other]\ndatabase = 'app'\nuser = 'app'\n";
    let found = problems(&apart);
    assert!(found.len() == 1 && found[0].what.contains("one upstream"), "{found:?}");
}

#[test]
fn a_chooser_function_is_named_by_schema_name_and_argument() {
    check(&[(
        "tenancy",
        "chooser",
        &["['app.set_tenant(text)']", "['a.b(text)', 'a.c(text)']"],
        &[
            "'app.set_tenant(text)'",
            "[]",
            "['set_tenant(text)']",
            "['app.set_tenant(uuid)']",
            "['app.set_tenant']",
            "['App.set_tenant(text)']",
            "['app.set tenant(text)']",
            "['pg_catalog.lower(text)']",
            "['app.set_config(text)']",
        ],
    )]);
}

#[test]
fn claims_need_a_setting_and_a_pointer() {
    let both = |setting: &str, pointer: &str| {
        refused("tenancy", &format!("claims_setting = '{setting}'\nclaims_pointer = '{pointer}'"))
    };
    assert!(both("request.jwt.claims", "/tenant_id").is_empty());
    for (setting, pointer) in
        [("claims", "/t"), ("pgtenant.x", "/t"), ("pg_x.y", "/t"), ("a..b", "/t"), ("a.b", "t"), ("a.b", "")]
    {
        assert!(!both(setting, pointer).is_empty(), "{setting} {pointer}");
    }
    for alone in ["claims_setting = 'a.b'", "claims_pointer = '/t'"] {
        assert!(!refused("tenancy", alone).is_empty(), "{alone}");
    }
}

#[test]
fn words_of_tenancy() {
    type Row = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);
    let table: &[Row] = &[
        (
            "tenancy",
            "setting",
            &["'app.tenant_id'", "'_a.b2'"],
            &["'tenant'", "'a.b.c'", "'1a.b'", "'a.b-c'", "'pg_x.y'", "'plpgsql.x'", "'.a'"],
        ),
        (
            "tenancy",
            "context",
            &[
                "'plain'",
                "'sealed'\nseal_key = '5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'",
            ],
            &[
                "'sealed'",
                "'x'",
                "'plain'\nseal_key = '5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'",
            ],
        ),
        ("tenancy", "guard", &["'context'", "'off'", "'strict'"], &["'x'"]),
        (
            "tenancy",
            "seal_key",
            &[],
            &[
                "'key'",
                "'key'\ncontext = 'sealed'",
                "'5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'",
            ],
        ),
        (
            "tenant",
            "isolation",
            &[
                "'row'",
                "'schema'",
                "'schema'\nschema = 's_{tenant}'\nrole = 'r'\nrole_password = 'x'",
                "'database'\ndatabase = 'd'",
            ],
            &[
                "'x'",
                "'row'\nschema = 's'",
                "'schema'\ndatabase = 'd'",
                "'database'\nschema = 's'",
                "'schema'\nschema = ''",
            ],
        ),
        ("tenancy", "application_name", &["'{tenant}'", "'{application_name}'"], &["'x'", "''"]),
        ("user", "pool_mode", &["'session'", "'transaction'"], &["'statement'"]),
        ("user", "tenant_comment", &["false"], &["true", "'yes'"]),
        ("user", "choice", &[], &["'session'", "'transaction'", "'x'"]),
        ("user", "pinning", &["'allow'", "'refuse'"], &["'x'"]),
        ("tenancy", "allow_unsafe", &["true", "false"], &["'yes'"]),
        ("tenancy", "doctor_interval", &["'0s'", "'1day'"], &["'2days'"]),
        ("user", "allow", &["['explain', 'notify']"], &["[]", "['context-change']", "['x']"]),
        ("tenancy", "require_tenant", &["true", "false"], &["'yes'"]),
    ];
    check(table);
}

fn check(table: &[(&str, &str, &[&str], &[&str])]) {
    for (section, key, accepted, refuse) in table {
        for value in *accepted {
            let found = refused(section, &format!("{key} = {value}"));
            assert!(found.is_empty(), "{section}.{key} = {value}: {found:?}");
        }
        for value in *refuse {
            let found = refused(section, &format!("{key} = {value}"));
            assert!(!found.is_empty(), "{section}.{key} = {value} was accepted");
        }
    }
}

#[test]
fn a_server_address_is_tcp_or_a_socket() {
    let tcp = |host: &str, port| ServerAddress::Tcp { host: host.into(), port };
    let cases = [
        ("db", tcp("db", 5432)),
        ("db:6000", tcp("db", 6000)),
        ("[::1]", tcp("::1", 5432)),
        ("[::1]:6000", tcp("::1", 6000)),
        ("/run/pg", ServerAddress::Unix("/run/pg/.s.PGSQL.5432".into())),
        ("/run/pg/.s.PGSQL.6000", ServerAddress::Unix("/run/pg/.s.PGSQL.6000".into())),
    ];
    for (text, expected) in cases {
        assert_eq!(value::server_address(text), Ok(expected), "{text}");
    }
}

#[test]
fn references_and_duplicates() {
    assert!(problems("")[0].to_string().starts_with("upstream (line 1): there is no upstream"));
    let two = format!("{UPSTREAM}[upstream.other]\ndatabase = 'app'\nuser = 'app'\n");
    assert!(
        problems(&format!("{two}[[tenant]]\nid = 'a'\n"))[0]
            .to_string()
            .contains("upstream (line 7): is missing")
    );
    assert!(read(&format!("{two}[[tenant]]\nid = 'a'\nupstream = 'other'\n")).is_ok());
    let twice = problems(&format!("{UPSTREAM}[[tenant]]\nid = 'a'\n[[tenant]]\nid = 'a'\n"));
    assert!(twice[0].hint.contains("the first is tenant[0] \"a\""), "{twice:?}");
    let found = problems(&format!("{UPSTREAM}[tenant]\nid = 'a'\n"));
    assert!(found[0].to_string().starts_with("tenant (line 4): must be an array of tables"), "{found:?}");
    let strange = problems(&format!("{UPSTREAM}[upstream.'']\ndatabase = 'app'\nuser = 'app'\n"));
    assert!(strange[0].what.contains("empty"), "{strange:?}");
}

#[test]
fn a_tenant_overrides_the_defaults() {
    let text = format!("{UPSTREAM}[defaults]\nmax_clients = 7\n[[tenant]]\nid = 'a'\nqueue_timeout = '9s'\n");
    let limits = read(&text).unwrap().directory.tenants["a"].limits;
    assert_eq!((limits.max_clients, limits.max_servers), (7, 10));
    assert_eq!(
        (limits.queue_timeout, limits.statement_timeout),
        (Duration::from_secs(9), Duration::from_secs(30))
    );
}

#[test]
fn many_tenants_load_quickly_right_or_wrong() {
    // An optimised build takes 0.7 s for ten times as many; quadratic work would take many minutes here.
    const MANY: usize = 10_000;
    let mut text = UPSTREAM.to_owned();
    for index in 0..MANY {
        write!(text, "[[tenant]]\nid = 't{index}'\n").unwrap();
        write!(text, "[[user]]\nname = 'u{index}'\npassword = '{VERIFIER}'\ntenant = 't{index}'\n").unwrap();
    }
    let start = tokio::time::Instant::now();
    let directory = read(&text).unwrap().directory;
    assert_eq!((directory.tenants.len(), directory.users.len()), (MANY, MANY));
    assert_eq!(problems(&text.replace("tenant = 't", "tenant = 'x")).len(), MANY);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
