//! What a reload applies and what needs a restart.

use super::*;

/// Changes of what decides about isolation.
const OF_TENANCY: [(&str, &str); 22] = [
    (
        "tenancy",
        "context = 'sealed'\nseal_key = '5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'",
    ),
    ("tenancy", "guard = 'context'"),
    ("tenancy", "allow_unsafe = true"),
    ("tenancy", "doctor_interval = '1m'"),
    ("tenancy", "chooser = ['app.set_tenant(text)']"),
    ("tenancy", "claims_setting = 'request.jwt.claims'\nclaims_pointer = '/tenant_id'"),
    ("tenancy", "claims_pointer = '/tenant_id'\nclaims_setting = 'request.jwt.claims'"),
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
        ("listen", "workers = 7"),
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
        ("listen", "max_prepared_bytes = 1"),
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
