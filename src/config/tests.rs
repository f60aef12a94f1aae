//! Every setting: its default, both sides of its limits, and all problems at once.

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
fn the_example_parses_and_says_the_defaults() {
    let example = read(EXAMPLE).unwrap();
    let short = read(UPSTREAM).unwrap();
    assert_eq!(
        (&example.listen, &example.metrics, &example.log),
        (&short.listen, &short.metrics, &short.log)
    );
    assert_eq!(
        (&example.upstreams, &example.directory.tenancy),
        (&short.upstreams, &short.directory.tenancy)
    );
    let tenants = &example.directory.tenants;
    assert_eq!(tenants["acme"].limits, tenants["globex"].limits);
    let without: String =
        EXAMPLE.lines().filter(|line| !is_limit(line)).fold(String::new(), |all, line| all + line + "\n");
    assert_eq!(read(&without).unwrap(), example, "a limit in the example is not the default");
}

fn is_limit(line: &str) -> bool {
    keys::DEFAULTS.names().any(|name| line.starts_with(&format!("{name} = ")))
}

#[test]
fn every_key_is_in_the_example_and_in_the_documentation() {
    let mut section = "";
    let mut shown = BTreeSet::new();
    for line in EXAMPLE.lines().map(|line| line.trim_start_matches("# ")) {
        let head = line.split('#').next().unwrap().trim();
        if head.starts_with('[') {
            section = head.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.insert(format!("{}.{key}", section.replace("upstream.main", "upstream.*")));
        }
    }
    shown.insert("user.maintenance".to_owned());
    let mut rows = BTreeSet::new();
    for (keys, key) in SECTIONS.iter().flat_map(|keys| keys.keys.iter().map(move |key| (keys, key))) {
        let name = format!("{}.{}", keys.section, key.name);
        let reload = if key.reload == Reload::Live { "live" } else { "restart" };
        let row = DOCS.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md lacks {name}"));
        assert!(row.ends_with(&format!(" {reload} |")), "docs/configuration.md: {name} is {reload}");
        assert!(shown.contains(&name), "config.example.toml lacks {name}");
        rows.insert(row);
    }
    let extra =
        DOCS.lines().filter(|line| line.starts_with("| `") && !rows.contains(line)).collect::<Vec<_>>();
    assert_eq!(extra, Vec::<&str>::new(), "documented, but not a key");
}

#[test]
fn every_known_key_is_read_and_no_other() {
    for keys in SECTIONS {
        for name in keys.names() {
            // No setting is a date, so whoever reads the key must complain.
            let found = refused(keys.section, &format!("{name} = 1979-05-27"));
            assert!(found.iter().any(|one| one.contains(&format!(".{name} (line"))), "{name}: {found:?}");
        }
        let found = refused(keys.section, "surprise = 1");
        assert_eq!(found.len(), 1, "{}: {found:?}", keys.section);
        assert!(found[0].contains(".surprise (line"), "{found:?}");
    }
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
fn only_gateway_users_name_a_tenant_in_comments() {
    let text = format!(
        "{UPSTREAM}[[user]]\nname = 'ann'\npassword = '{VERIFIER}'\ntenants = ['*']\ntenant_comment = true\n"
    );
    assert!(read(&text).unwrap().directory.users["ann"].tenant_comment);
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
fn a_user_proves_itself_by_a_password_a_certificate_or_a_token() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pem"), "x").unwrap();
    let tls = "certificate = 'pem'\nprivate_key = 'pem'\ntls = 'off'\n";
    let claims = "tenant_claim = 'tenant'\n";
    let found = |listen: &str, token: &str, user: &str| -> Vec<String> {
        let token = match token {
            "" => String::new(),
            more => format!("[token]\nissuer = 'i'\naudience = 'a'\njwks = 'pem'\n{more}\n"),
        };
        let text = format!(
            "{UPSTREAM}[listen]\n{listen}{token}[[tenant]]\nid = 'acme'\n[[user]]\nname = 'ann'\n{user}\n"
        );
        let text = text.replace("'V'", &format!("'{VERIFIER}'"));
        match parse(&text, dir.path(), &|_| None) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.0.iter().map(|problem| problem.what.clone()).collect(),
        }
    };
    let with_ca = format!("{tls}client_ca = 'pem'\n");
    let none = Vec::<String>::new();
    for user in [
        "certificate = 'cn:{user}'\ntenant = 'acme'",
        "certificate = 'uri:spiffe://x/{tenant}'\npassword = 'V'\ntenants = ['*']",
    ] {
        assert_eq!(found(&with_ca, "", user), none, "{user}");
        assert_eq!(found(tls, "", user), ["needs listen.client_ca"], "{user}");
    }
    for wrong in ["ann", "cn:", "x:ann", "dns:{tenant}.{tenant}", "uri:{x}"] {
        let user = format!("certificate = '{wrong}'\ntenant = 'acme'");
        assert_eq!(found(&with_ca, "", &user).len(), 1, "{wrong}");
    }
    assert_eq!(found(tls, "", "tenant = 'acme'"), ["is missing"]);
    assert_eq!(found("client_ca = 'pem'\n", "", "password = 'V'\ntenant = 'acme'"), ["needs TLS"]);
    assert_eq!(found("client_crl = 'pem'\n", "", "password = 'V'\ntenant = 'acme'"), ["needs client_ca"]);
    let token = "token = 'oauthbearer'\n";
    assert_eq!(found(tls, claims, &format!("{token}tenant = 'acme'")), none);
    assert_eq!(found(tls, claims, "token = 'password'\ntenants = ['*']"), none);
    assert_eq!(found(tls, "user_claim = 'sub'", &format!("{token}operator = true")), none);
    for (listen, section, user, problem) in [
        (tls, claims, "password = 'V'\ntenant = 'acme'", "and password are both there"),
        ("", claims, "tenant = 'acme'", "needs TLS"),
        (tls, "", "tenant = 'acme'", "needs a section [token]"),
        (tls, "scope = 'x'", "tenant = 'acme'", "needs token.user_claim or token.tenant_claim"),
        (tls, claims, "operator = true", "needs token.user_claim for a user without a tenant"),
    ] {
        assert_eq!(found(listen, section, &format!("{token}{user}")), [problem], "{listen} {section} {user}");
    }
    assert_eq!(found(tls, claims, "token = 'saml'\ntenant = 'acme'").len(), 1);
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
fn files_are_looked_for_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["server.crt", "server.key", "roots.crt"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    fs::write(dir.path().join("password"), "from-file\r\n").unwrap();
    let text = format!(
        "[listen]\ncertificate = 'server.crt'\nprivate_key = 'server.key'\n\
         {UPSTREAM}password = {{ file = 'password' }}\ntls = 'verify-full'\nca = 'roots.crt'\n"
    );
    fs::write(dir.path().join("c.toml"), &text).unwrap();
    let config = load(&dir.path().join("c.toml")).unwrap();
    assert_eq!(config.listen.tls, ClientTls::Prefer);
    assert_eq!(config.listen.certificate, Some(dir.path().join("server.crt")));
    let upstream = &config.upstreams["main"];
    assert_eq!(upstream.password.as_ref().unwrap().expose(), "from-file");
    assert_eq!(upstream.ca, Some(dir.path().join("roots.crt")));

    fs::write(dir.path().join("c.toml"), text.replace("verify-full", "require")).unwrap();
    assert!(load(&dir.path().join("c.toml")).unwrap_err().to_string().contains("main.ca"));
    fs::write(dir.path().join("c.toml"), text.replace("private_key = 'server.key'", "")).unwrap();
    assert!(load(&dir.path().join("c.toml")).unwrap_err().to_string().contains("needs private_key"));
    assert!(load(&PathBuf::from("/nonexistent.toml")).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn secrets_come_from_text_environment_or_file() {
    let secret = |value: &str| {
        let config = read(&format!("{UPSTREAM}password = {value}\n"))?;
        Ok::<_, Problems>(config.upstreams["main"].password.clone().unwrap().expose().clone())
    };
    assert_eq!(secret("'text'").unwrap(), "text");
    assert_eq!(secret("{ env = 'SET' }").unwrap(), "from-environment");
    for refused in
        ["{ env = 'UNSET' }", "{ file = 'missing' }", "{ env = 'SET', file = 'x' }", "{}", "''", "5"]
    {
        assert!(secret(refused).is_err(), "{refused}");
    }
}

#[test]
fn secrets_are_never_printed() {
    let word = "hunter2";
    let wrong = [
        format!("{UPSTREAM}password = ['{word}']\n"),
        format!("{UPSTREAM}password = {{ text = '{word}' }}\n"),
        format!("{UPSTREAM}pasword = '{word}'\n"),
        format!("{UPSTREAM}hosts = ['postgres://app:{word}@db/app']\n"),
        format!("{UPSTREAM}[tenancy]\nseal_key = '{word}'\n"),
        format!("{UPSTREAM}[[user]]\nname = 'ann'\npassword = '{word}'\noperator = true\n"),
        format!(
            "{UPSTREAM}[[user]]\nname = 'ann'\npassword = 'SCRAM-SHA-256$4096:{word}$a:b'\noperator = true\n"
        ),
        format!("{UPSTREAM}[[user]]\nname = 'ann'\npassword = \"{word}\\u0000\"\noperator = true\n"),
    ];
    for text in wrong {
        let problems = read(&text).unwrap_err();
        assert!(!format!("{problems} {problems:?}").contains(word), "{problems}");
    }
    let right = read(&format!("{UPSTREAM}password = '{word}'\n")).unwrap();
    assert!(!format!("{right:?}").contains(word));
}

#[test]
fn a_verifier_is_read_as_postgresql_writes_it() {
    let user = |password: &str| refused("user", &format!("password = '{password}'"));
    assert!(user(VERIFIER).is_empty());
    assert!(user(&VERIFIER.replace("4096", "1")).is_empty());
    assert!(user(&VERIFIER.replace("4096", "10000000")).is_empty());
    let wrong = [
        VERIFIER.replace("4096", "0"),
        VERIFIER.replace("4096", "10000001"),
        VERIFIER.replace("4096", "x"),
        VERIFIER.replace("c2FsdHNhbHRzYWx0c2FsdA==", ""),
        VERIFIER.replace("c2FsdHNhbHRzYWx0c2FsdA==", "not base64"),
        VERIFIER.replace("AAAA=", "A="),
        VERIFIER.replace("AAAAAAAA", ""),
        "SCRAM-SHA-256$".into(),
        format!("md5{}", "0".repeat(32)),
        "plain".into(),
    ];
    for password in wrong {
        assert_eq!(user(&password).len(), 1, "{password}");
    }
}

#[test]
fn a_plain_password_becomes_a_verifier_if_allowed() {
    let user = |password: &str| {
        let text = format!(
            "{UPSTREAM}[listen]\nallow_plain_passwords = true\n[[user]]\nname = 'ann'\npassword = '{password}'\noperator = true\n"
        );
        read(&text).map(|config| User::clone(&config.directory.users["ann"]))
    };
    let verifier = || user("pencil").unwrap().verifier.unwrap();
    let (first, second) = (verifier(), verifier());
    assert_eq!((first.iterations, first.salt.len()), (4096, 16));
    assert_ne!(first.salt, second.salt);
    let salted = pgwire::api::auth::sasl::scram::gen_salted_password("pencil", &first.salt, 4096);
    let derived =
        pgwire::api::auth::sasl::scram::ScramSecret::verifier_from_salted_password(first.salt, salted, 4096);
    let pgwire::api::auth::sasl::scram::ScramSecret::Verifier { stored_key, server_key, .. } = derived else {
        panic!("not a verifier")
    };
    assert_eq!((first.stored_key.expose(), first.server_key.expose()), (&stored_key, &server_key));
    assert!(user("SCRAM-SHA-256$broken").is_err(), "a broken verifier is not a password");
    assert!(user(&format!("md5{}", "a".repeat(32))).is_err(), "a hash is not a password");
}

/// Two tenants, acme and globex, and users by name and grant.
fn users(users: &[(&str, &str)]) -> Result<HashMap<UserName, Grant>, Vec<String>> {
    let mut text = format!("{UPSTREAM}[[tenant]]\nid = 'acme'\n[[tenant]]\nid = 'globex'\n");
    for (name, grant) in users {
        write!(text, "[[user]]\nname = '{name}'\npassword = '{VERIFIER}'\n{grant}\n").unwrap();
    }
    let config =
        read(&text).map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(config.directory.users.iter().map(|(name, user)| (name.clone(), user.grant.clone())).collect())
}

#[test]
fn a_user_has_exactly_one_grant() {
    let acme = || TenantId::parse("acme").unwrap();
    let grant = |text: &str| users(&[("ann", text)]).map(|users| users["ann"].clone());
    assert_eq!(grant("tenant = 'acme'"), Ok(Grant::Tenant(acme())));
    assert_eq!(grant("tenants = ['acme']"), Ok(Grant::Tenants(vec![acme()])));
    assert_eq!(grant("tenants = ['*']"), Ok(Grant::AnyTenant));
    assert_eq!(grant("operator = true"), Ok(Grant::Operator));
    assert_eq!(grant("tenant = 'acme'\noperator = false"), Ok(Grant::Tenant(acme())));
    let Ok(Grant::Maintenance(maintenance)) =
        grant("maintenance = { server_user = 'o', server_password = 'p' }")
    else {
        panic!("not a maintenance user")
    };
    assert_eq!((maintenance.upstream.as_str(), &*maintenance.server_user), ("main", "o"));
    let wrong = [
        "",
        "operator = false",
        "tenant = 'acme'\ntenants = ['*']",
        "tenant = 'acme'\noperator = true",
        "tenant = 'initech'",
        "tenants = ['acme', 'acme']",
        "tenants = ['acme', '*']",
        "tenants = ['initech']",
        "maintenance = { upstream = 'main' }",
    ];
    for text in wrong {
        assert_eq!(grant(text).unwrap_err().len(), 1, "{text}");
    }
}

#[test]
fn a_login_name_never_means_two_things() {
    let (bound, gateway) = ("tenant = 'acme'", "tenants = ['globex']");
    assert!(users(&[("api", gateway), ("api.other", bound)]).is_ok());
    assert!(users(&[("api", bound), ("api.acme", bound)]).is_ok());
    assert!(users(&[("api-eu", gateway), ("api", gateway)]).is_ok());
    assert!(users(&[("api.acme", bound), ("api", gateway)]).unwrap_err()[0].contains("\"api.acme\".name"));
    assert!(users(&[("a.b", gateway), ("a.b.acme", "operator = true")]).is_err());
    assert!(users(&[("api", gateway), ("api.eu", gateway)]).is_err());
    assert!(users(&[("api", bound), ("api", bound)]).unwrap_err()[0].contains("is there twice"));
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

/// Changes of what decides about isolation.
const OF_TENANCY: [(&str, &str); 19] = [
    (
        "tenancy",
        "context = 'sealed'\nseal_key = '5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'",
    ),
    ("tenancy", "guard = 'context'"),
    ("tenancy", "allow_unsafe = true"),
    ("tenancy", "doctor_interval = '1m'"),
    ("tenancy", "server_name = '{tenant}.db'"),
    ("token", "issuer = 'other'"),
    ("token", "audience = 'other'"),
    ("token", "algorithms = ['EdDSA']"),
    ("token", "jwks = 'other'"),
    ("token", "jwks_ca = 'other'"),
    ("token", "jwks_interval = '1m'"),
    ("token", "tenant_claim = 'other'"),
    ("token", "user_claim = 'other'"),
    ("token", "scope = 'other'"),
    ("token", "leeway = '1s'"),
    ("token", "end_sessions = true"),
    ("canary", "tenants = ['two', 'one']"),
    ("canary", "interval = '1s'"),
    ("canary", "query = 'SELECT 1'"),
];

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_reload_names_exactly_what_needs_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("other"), "x").unwrap();
    let environment = |_: &str| None;
    let read = |text: &str| parse(text, dir.path(), &environment).unwrap();
    let certified = "certificate = 'other'\nprivate_key = 'other'";
    // Another value than the default; several lines where a key needs company.
    let changes = [
        ("listen", "address = '127.0.0.1:1'"),
        ("listen", "socket_dir = 'run'"),
        ("listen", &*format!("tls = 'require'\n{certified}")),
        ("listen", "certificate = 'other'\ntls = 'off'\nprivate_key = 'other'"),
        ("listen", "private_key = 'other'\ntls = 'off'\ncertificate = 'other'"),
        ("listen", &*format!("client_ca = 'other'\ntls = 'off'\n{certified}")),
        ("listen", &*format!("client_crl = 'other'\ntls = 'off'\nclient_ca = 'other'\n{certified}")),
        ("listen", "max_clients = 1"),
        ("listen", "max_logins = 1"),
        ("listen", "max_logins_per_address = 1"),
        ("listen", "max_server_connections = 1"),
        ("listen", "login_timeout = '1s'"),
        ("listen", "drain_timeout = '1s'"),
        ("listen", "max_startup_bytes = 512"),
        (
            "listen",
            "max_message_bytes = '8kB'\nmax_client_memory = '192MiB'\nmax_tenant_memory = '256MiB'\nmax_memory = '1GiB'",
        ),
        ("listen", "message_timeout = '1s'"),
        ("listen", "max_client_memory = 0"),
        ("listen", "max_tenant_memory = 0"),
        ("listen", "max_memory = 0"),
        ("listen", "allow_plain_passwords = true"),
        ("metrics", "address = '127.0.0.1:1'"),
        ("metrics", "max_tenants = 1"),
        ("log", "format = 'json'"),
        ("log", "level = 'debug'"),
        ("upstream.*", "hosts = ['db']"),
        ("upstream.*", "database = 'other'"),
        ("upstream.*", "user = 'other'"),
        ("upstream.*", "password = 'other'"),
        ("upstream.*", "tls = 'verify-full'"),
        ("upstream.*", "ca = 'other'\ntls = 'verify-full'"),
        ("upstream.*", "pool_size = 1"),
        ("upstream.*", "tenant_pool_size = 3"),
        ("upstream.*", "tenant_idle_timeout = '3s'"),
        ("upstream.*", "max_connections = 50"),
        ("upstream.*", "connect_timeout = '1s'"),
        ("upstream.*", "max_prepared = 1"),
        ("tenancy", "setting = 'my.tenant'"),
        ("tenancy", "application_name = '{application_name}'"),
        ("tenancy", "require_tenant = false"),
        ("directory", "upstream = 'other'"),
        ("directory", "database = 'other'"),
        ("directory", "user = 'other'"),
        ("directory", "password = 'other'"),
        ("directory", "interval = '2m'"),
        ("directory", "max_rows = 1"),
        ("auth_query", "upstream = 'other'"),
        ("auth_query", "database = 'other'"),
        ("auth_query", "user = 'other'"),
        ("auth_query", "password = 'other'"),
        ("auth_query", "query = 'SELECT $1, 2'"),
        ("auth_query", "ttl = '2m'"),
        ("auth_query", "negative_ttl = '2m'"),
        ("auth_query", "max_entries = 1"),
        ("defaults", "max_clients = 1"),
        ("tenant", "max_servers = 1"),
        ("user", "name = 'bob'"),
        ("user.maintenance", "server_user = 'other'"),
        ("user.maintenance", "databases = ['other']"),
        ("listen", "databases = ['other']"),
    ];
    let old = read(UPSTREAM);
    let tokens = read(&with("token", "scope = 'openid'"));
    assert!(needs_restart(&old, &tokens).contains(&"token.scope"));
    let reader = |section: &str| read(&with(section, "password = 'first'"));
    let (tables, query) = (reader("directory"), reader("auth_query"));
    let mut covered = BTreeSet::new();
    for (section, lines) in changes.into_iter().chain(OF_TENANCY) {
        let name = lines.split_once(" = ").unwrap().0;
        let keys = SECTIONS.iter().find(|keys| keys.section == section).unwrap();
        let key = keys.keys.iter().find(|key| key.name == name).unwrap();
        let full = format!("{section}.{name}");
        let old = match section {
            "token" => &tokens,
            "directory" => &tables,
            "auth_query" => &query,
            _ => &old,
        };
        let other = "[upstream.other]\ndatabase = 'app'\nuser = 'app'\n";
        let more = if lines.starts_with("upstream = ") { other } else { "" };
        let restart = needs_restart(old, &read(&format!("{}{more}", with(section, lines))));
        assert_eq!(restart.contains(&&*full), key.reload == Reload::Restart, "{full}: {restart:?}");
        assert!(key.reload == Reload::Restart || restart.is_empty(), "{full}: {restart:?}");
        covered.insert(full);
    }
    for (keys, key) in SECTIONS.iter().flat_map(|keys| keys.keys.iter().map(move |key| (keys, key))) {
        let full = format!("{}.{}", keys.section, key.name);
        let seen = covered.contains(&full) || key.reload == Reload::Live;
        assert!(seen, "{full} lacks a row here");
    }
    let more = read(&format!("{UPSTREAM}[upstream.other]\ndatabase = 'app'\nuser = 'app'\n"));
    assert_eq!(needs_restart(&old, &more), ["upstream"]);
    assert_eq!(needs_restart(&old, &old), Vec::<&str>::new());
}
