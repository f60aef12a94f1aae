//! It knows the tenant: from the credential, from the packet, from the name, and from nothing else.

use crate::support::{Cluster, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

#[tokio::test]
async fn a_bound_user_sees_the_rows_of_its_tenant_only() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    for tenant in ["acme", "globex", "initech"] {
        let mut link = proxy.link(&format!("{tenant}_app")).await;
        assert_eq!(link.query(WHO).await.value(), tenant);
        assert_eq!(link.extended(WHO, &[]).await.value(), tenant);
        assert_eq!(link.query("SELECT current_setting('app.tenant_id')").await.value(), tenant);
        assert_eq!(link.query("SELECT current_user || '/' || session_user").await.value(), "app/app");
    }
}

#[tokio::test]
async fn a_row_written_without_naming_a_tenant_belongs_to_the_writers() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(
        link.query("INSERT INTO notes (body) VALUES ('mine') RETURNING tenant_id").await.value(),
        "acme"
    );
    let foreign = link.query("INSERT INTO notes (tenant_id, body) VALUES ('globex', 'planted')").await;
    assert_eq!(foreign, "E(42501) Z(I)", "the policy's own refusal");
    assert_eq!(link.query("UPDATE notes SET body = 'x' WHERE tenant_id <> 'acme'").await, "C(UPDATE 0) Z(I)");
    assert_eq!(link.query("DELETE FROM notes WHERE tenant_id <> 'acme'").await, "C(DELETE 0) Z(I)");
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'planted'").await, "0");
}

#[tokio::test]
async fn a_gateway_user_names_its_tenant_in_any_of_the_agreed_ways() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let ways: [(&str, &[(&str, &str)]); 9] = [
        ("api", &[("app.tenant_id", "globex")]),
        ("api", &[("App.Tenant_ID", "globex")]),
        ("api", &[("options", "-c app.tenant_id=globex")]),
        ("api", &[("options", "-capp.tenant_id=globex")]),
        ("api", &[("options", "--app.tenant_id=globex")]),
        ("api", &[("options", "-c statement_timeout=9s -c app.tenant_id=globex")]),
        ("api.globex", &[]),
        ("any", &[("app.tenant_id", "globex")]),
        ("any.globex", &[]),
    ];
    for (user, parameters) in ways {
        let mut link = proxy.link_with(user, parameters).await;
        assert_eq!(link.query(WHO).await.value(), "globex", "{user} {parameters:?}");
        assert_eq!(link.extended(WHO, &[]).await.value(), "globex", "{user} {parameters:?}");
    }
}

#[tokio::test]
async fn user_name_and_startup_options_that_name_two_tenants_are_refused() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    // Each of the first two would be let in alone; that the others are not there or not granted is not said.
    for tenant in ["acme", "globex", "initech", "no_such_tenant"] {
        let other = if tenant == "acme" { "globex" } else { "acme" };
        for (user, parameters) in [
            (format!("api.{other}"), [("app.tenant_id", tenant.to_owned())]),
            (format!("api.{other}"), [("options", format!("-c app.tenant_id={tenant}"))]),
        ] {
            let parameters = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
            let fault = proxy.login(&user, &parameters).await.err().unwrap();
            let told = (fault.code.as_str(), fault.message.as_str());
            assert_eq!(told, ("28000", "user name and startup parameters name different tenants"), "{user}");
        }
    }
    let mut empty = proxy.link_with("api.acme", &[("app.tenant_id", "")]).await;
    assert_eq!(empty.query(WHO).await.value(), "acme", "an empty one names none");
    let mut agreed = proxy.link_with("api.acme", &[("app.tenant_id", "acme")]).await;
    assert_eq!(agreed.query(WHO).await.value(), "acme");
}

#[tokio::test]
async fn a_tenant_that_is_not_granted_is_refused_at_login() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let cases: [(&str, &[(&str, &str)]); 5] = [
        ("api", &[("app.tenant_id", "initech")]),
        ("api", &[("options", "-c app.tenant_id=initech")]),
        ("api.initech", &[]),
        ("acme_app", &[("app.tenant_id", "globex")]),
        ("acme_app", &[("options", "-c app.tenant_id=globex")]),
    ];
    for (user, parameters) in cases {
        let fault = proxy.login(user, parameters).await.err();
        let fault = fault.unwrap_or_else(|| panic!("{user} {parameters:?} was let in"));
        assert_eq!(
            (fault.code.as_str(), fault.severity.as_str()),
            ("28000", "FATAL"),
            "{user} {parameters:?}"
        );
    }
    let mut own = proxy.link_with("acme_app", &[("app.tenant_id", "acme")]).await;
    assert_eq!(own.query(WHO).await.value(), "acme", "a bound user may name its own");
}

#[tokio::test]
async fn a_gateway_user_without_a_tenant_is_refused_and_told_what_to_do() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("api").await;
    let refusal = link.query("INSERT INTO imports VALUES ('bare')").await;
    assert_eq!(refusal, "E(28000) Z(I)");
    assert!(refusal.fault().hint.is_some(), "{:?}", refusal.fault());
    let batch = [message::unnamed("INSERT INTO imports VALUES ('bare')", &[]), message::sync()].concat();
    assert_eq!(link.ask(batch).await, "E(28000) Z(I)");
    let told = link.query(WHO).await.fault();
    assert_eq!((told.code.as_str(), told.detail.unwrap().contains("app.tenant_id")), ("28000", true));
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0", "nothing was run");
}

#[tokio::test]
async fn what_a_framework_asks_when_it_connects_needs_no_tenant() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("api").await;
    for text in [
        "SELECT version()",
        "SHOW transaction_isolation",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SELECT current_schema()",
        "SET client_min_messages TO 'warning'; SET TIME ZONE 'UTC'",
        "SELECT t.oid FROM pg_catalog.pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typname = 'hstore'",
        "SELECT set_config('TimeZone', 'UTC', false)",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL",
    ] {
        let answer = link.query(text).await;
        assert_eq!(answer.code(), None, "{text}: {answer}");
        if !text.contains(';') {
            assert_eq!(link.extended(text, &[]).await.code(), None, "{text}");
        }
    }
    link.query("BEGIN").await;
    assert_eq!(link.query("SELECT 1").await.value(), "1");
    assert_eq!(link.query("SET LOCAL app.tenant_id = 'acme'").await, "C(SET) Z(T)", "not too late");
    assert_eq!(link.query(WHO).await.value(), "acme");
    link.query("COMMIT").await;
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
}

#[tokio::test]
async fn where_no_tenant_is_required_a_gateway_user_without_one_sees_nothing() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("tenancy.require_tenant", false);
    })
    .await;
    let mut link = proxy.link("api").await;
    let mut other = proxy.link("acme_app").await;
    for _ in 0..3 {
        assert_eq!(link.query("SELECT count(*) FROM notes").await.value(), "0");
        assert_eq!(other.query("SELECT count(*) FROM notes").await.value(), "10");
        assert_eq!(link.extended("SELECT count(*) FROM notes", &[]).await.value(), "0");
        assert_eq!(other.query("SELECT 1/0").await.code().as_deref(), Some("22012"));
    }
}

#[tokio::test]
async fn a_maintenance_user_runs_as_its_own_role_without_a_tenant() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut tenant = proxy.link("acme_app").await;
    assert_eq!(tenant.query("SELECT 1").await.value(), "1");
    let mut link = proxy.link("migrate").await;
    assert_eq!(link.query("SELECT current_user").await.value(), "app_owner");
    let setting = "SELECT coalesce(current_setting('app.tenant_id', true), '')";
    assert_eq!(link.query(setting).await.value(), "", "no tenant");
    assert_eq!(link.query("CREATE TABLE fresh (id int)").await, "C(CREATE TABLE) Z(I)");
    assert_eq!(link.query("VACUUM fresh").await, "C(VACUUM) Z(I)", "outside any transaction of ours");
    assert_eq!(link.query("CREATE INDEX CONCURRENTLY ON fresh (id)").await, "C(CREATE INDEX) Z(I)");
    assert_eq!(tenant.query("SELECT current_user").await.value(), "app", "the pools are apart");
    proxy.logged("migrate").await;
}

// === startup parameters ===

/// What a client may ask for at startup, and what `SHOW` says then.
const PARAMETERS: [(&str, &str, &str); 7] = [
    ("DateStyle", "German, DMY", "German, DMY"),
    ("TimeZone", "Asia/Tokyo", "Asia/Tokyo"),
    ("search_path", "shelf", "shelf"),
    ("statement_timeout", "71s", "71s"),
    ("IntervalStyle", "iso_8601", "iso_8601"),
    ("extra_float_digits", "2", "2"),
    ("client_encoding", "LATIN1", "LATIN1"),
];

#[tokio::test]
async fn startup_parameters_take_effect_for_this_client_and_no_other() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    for (name, value, shown) in PARAMETERS {
        let mut neighbour = proxy.link("acme_app").await;
        let show = format!("SHOW {name}");
        let default = neighbour.query(&show).await.value();
        assert_ne!(default, shown, "{name}: the test needs another value");
        let option = format!("-c {name}={}", value.replace(' ', "\\ "));
        for parameter in [(name, value), ("options", option.as_str())] {
            let mut link = proxy.link_with("acme_app", &[parameter]).await;
            for _ in 0..2 {
                assert_eq!(link.query(&show).await.value(), shown, "{parameter:?}");
                assert_eq!(
                    neighbour.query(&show).await.value(),
                    default,
                    "{parameter:?} reached a neighbour"
                );
                assert_eq!(link.extended(&show, &[]).await.value(), shown, "{parameter:?} extended");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_startup_parameter_is_refused_at_login_and_harms_no_other() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let cases = [
        ("datestyle", "nonsense"),
        ("work_mem", "-5"),
        ("no_such_setting", "1"),
        ("9lives; DROP", "1"),
        ("a-b", "1"),
    ];
    for (name, value) in cases {
        let refused = proxy.login("acme_app", &[(name, value)]).await.err();
        let (code, severity) = refused.map(|fault| (fault.code, fault.severity)).unwrap_or_default();
        assert_eq!((code.as_str(), severity.as_str()), ("22023", "FATAL"), "{name}={value}");
        assert_eq!(proxy.link("globex_app").await.query(WHO).await.value(), "globex");
    }
    let many: Vec<(String, String)> = (0..65).map(|number| (format!("x.y{number}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(proxy.login("acme_app", &many[..64]).await.is_ok());
    assert_eq!(proxy.login("acme_app", &many).await.err().unwrap().code, "22023");
}

#[tokio::test]
async fn the_login_reports_parameters_as_postgresql_would() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let asked = [
        ("client_encoding", "utf-8"),
        ("datestyle", "german"),
        ("timezone", "asia/tokyo"),
        ("application_name", "x"),
    ];
    let ours = proxy.link_with("acme_app", &asked).await;
    let mut direct = crate::support::Link::tcp(cluster.port()).await;
    direct.startup(&[&[("user", "app"), ("database", "app")], &asked[..]].concat()).await;
    direct.authenticate("app-secret").await.unwrap();
    let mut names: Vec<_> = direct.parameters.keys().collect();
    names.sort();
    for name in names {
        // The session's role is the client's login name at pgtenant: either is a fair answer.
        if name != "session_authorization" && name != "application_name" {
            assert_eq!(ours.parameters.get(name), direct.parameters.get(name), "{name}");
        }
    }
}

#[tokio::test]
async fn the_application_name_is_seen_by_the_client_and_in_the_servers_activity() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    let mut link = proxy.link_with("acme_app", &[("application_name", "billing")]).await;
    let mut other = proxy.link_with("globex_app", &[("application_name", "search")]).await;
    assert_eq!(link.parameters.get("application_name").map(String::as_str), Some("billing"), "its own name");
    let own = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    for _ in 0..2 {
        assert_eq!(link.query(own).await.value(), "acme billing");
        assert_eq!(other.query(own).await.value(), "globex search");
    }
    for (text, told, there) in [
        ("SET application_name = 'till'", "C(SET) S(application_name=till) Z(I)", "acme till"),
        ("BEGIN; SET application_name = 'x'; ROLLBACK", "C(BEGIN) C(SET) C(ROLLBACK) Z(I)", "acme till"),
        (
            "SELECT set_config('application_name', 'desk', false)",
            "T(set_config) D(desk) C(SELECT 1) S(application_name=desk) Z(I)",
            "acme desk",
        ),
    ] {
        assert_eq!(link.query(text).await, told, "{text}");
        assert_eq!(link.query(own).await.value(), there, "{text}");
        assert_eq!(other.query(own).await.value(), "globex search");
        assert_eq!(link.query(own).await.value(), there, "{text}");
    }
    link.query("BEGIN").await;
    assert_eq!(link.query("SET application_name = 'x'").await, "C(SET) S(application_name=x) Z(T)");
    assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) S(application_name=desk) Z(I)");
    assert_eq!(link.query(own).await.value(), "acme desk");
}

#[tokio::test]
async fn a_first_transaction_that_fails_still_names_the_tenant() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    let mut link = proxy.link_with("acme_app", &[]).await;
    assert_eq!(link.extended("SELECT 1/0", &[]).await.code().as_deref(), Some("22012"));
    assert_eq!(link.query("SHOW application_name").await.value(), "acme");
    cluster.kill_servers().await;
    link.query("BEGIN").await;
    link.query("ROLLBACK").await;
    assert_eq!(link.query("SHOW application_name").await.value(), "acme");
}

#[tokio::test]
async fn the_application_name_can_be_left_as_it_is() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("tenancy.application_name", "{application_name}");
        config.lenient();
    })
    .await;
    let mut link = proxy.link_with("acme_app", &[("application_name", "billing")]).await;
    assert_eq!(link.query("SHOW application_name").await.value(), "billing");
    assert_eq!(link.query("SET application_name = 'till'").await, "C(SET) S(application_name=till) Z(I)");
    assert_eq!(link.query("SHOW application_name").await.value(), "till");
}

#[tokio::test]
async fn role_and_tenant_never_pass_through_from_the_startup_packet() {
    let cluster = Cluster::start().await;
    cluster.execute("GRANT app_owner TO app").await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        // The doctor would not have this membership.
        config.set("tenancy.allow_unsafe", true);
    })
    .await;
    let cases = [
        ("role", "app_owner"),
        ("ROLE", "app_owner"),
        ("session_authorization", "app_owner"),
        ("options", "-c role=app_owner"),
        ("options", "-crole=app_owner"),
        ("options", "--role=app_owner"),
        ("options", "-c session_authorization=app_owner"),
        ("options", "-c search_path=public -c ROLE=app_owner"),
        ("options", "-c row_security=off"),
        ("options", "-c app.tenant_id=acme -c app.tenant_id=globex"),
        ("replication", "database"),
    ];
    let who = "SELECT current_user || '/' || session_user || '/' || current_setting('app.tenant_id')";
    for parameter in cases {
        match proxy.login("acme_app", &[parameter]).await {
            Err(fault) => assert_ne!(fault.code, "28P01", "{parameter:?}: {fault:?}"),
            Ok(mut link) => {
                assert_eq!(link.query(who).await.value(), "app/app/acme", "{parameter:?}");
                assert_eq!(link.query("DISCARD ALL").await.code(), None);
                assert_eq!(link.query(who).await.value(), "app/app/acme", "{parameter:?} after DISCARD ALL");
                assert_eq!(link.query(WHO).await.value(), "acme", "{parameter:?}");
            }
        }
        let mut next = proxy.link("globex_app").await;
        assert_eq!(next.query(who).await.value(), "app/app/globex", "{parameter:?} reached the next tenant");
    }
}

#[tokio::test]
async fn discard_all_returns_to_what_this_client_asked_for_at_startup() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link_with("acme_app", &[("search_path", "shelf"), ("DateStyle", "German")]).await;
    for reset in ["DISCARD ALL", "RESET ALL", "RESET search_path", "SET search_path TO DEFAULT"] {
        assert_eq!(link.query(reset).await.code(), None, "{reset}");
        assert_eq!(link.query("SHOW search_path").await.value(), "shelf", "{reset}");
        assert_eq!(link.query("SELECT body FROM notes").await.value(), "from the shelf", "{reset}");
        assert_eq!(link.query("SELECT current_setting('app.tenant_id')").await.value(), "acme", "{reset}");
    }
}

#[tokio::test]
async fn a_gateway_user_chooses_its_tenant_by_set_as_far_as_it_is_granted() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("api").await;
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
    for (set, answer, who) in [
        ("SET app.tenant_id = 'acme'", "C(SET) Z(I)", "acme"),
        ("set session App.Tenant_Id to globex", "C(SET) Z(I)", "globex"),
        (
            "SELECT set_config('app.tenant_id', 'acme', false)",
            "T(set_config) D(acme) C(SELECT 1) Z(I)",
            "acme",
        ),
        ("SET app.tenant_id = 'initech'", "E(28000) Z(I)", "acme"),
        ("SET app.tenant_id = 'no such'", "E(28000) Z(I)", "acme"),
        ("SELECT set_config('app.tenant_id', 'initech', false)", "E(28000) Z(I)", "acme"),
    ] {
        assert_eq!(link.query(set).await, answer, "{set}");
        assert_eq!(link.query(WHO).await.value(), who, "{set}");
    }
    assert_eq!(link.query("RESET app.tenant_id").await, "C(RESET) Z(I)");
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
}

#[tokio::test]
async fn a_tenant_chosen_in_a_transaction_ends_as_postgresql_would_end_it() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("api").await;
    let mut other = proxy.link("globex_app").await;
    let local = ["BEGIN", "SET LOCAL app.tenant_id = 'acme'", WHO];
    let session = ["BEGIN", "SET app.tenant_id = 'acme'", WHO];
    let bound = ["BEGIN", "SELECT set_config('app.tenant_id', 'acme', true)", WHO];
    for (statements, end, after) in [
        (local, "COMMIT", None),
        (local, "ROLLBACK", None),
        (bound, "COMMIT", None),
        (session, "ROLLBACK", None),
        (session, "SELECT 1/0; COMMIT", None),
        (session, "COMMIT", Some("acme")),
        (["BEGIN", "SET LOCAL app.tenant_id = 'globex'", "SELECT 1"], "COMMIT", Some("acme")),
    ] {
        let mut last = String::new();
        for sql in statements {
            last = link.query(sql).await.to_string();
        }
        assert!(last.contains("D(acme)") || last.contains("D(1)"), "{statements:?}: {last}");
        link.query(end).await;
        link.query("ROLLBACK").await;
        let answer = link.query(WHO).await;
        match after {
            None => assert_eq!(answer.code().as_deref(), Some("28000"), "{statements:?} {end}"),
            Some(tenant) => assert_eq!(answer.value(), tenant, "{statements:?} {end}"),
        }
        assert_eq!(other.query(WHO).await.value(), "globex");
    }
    assert_eq!(link.query("DISCARD ALL").await, "C(DISCARD ALL) Z(I)");
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "as at login");
}

#[tokio::test]
async fn a_bound_parameter_chooses_the_tenant_too_and_only_as_a_text() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("api").await;
    let choose = "SELECT set_config('app.tenant_id', $1, true)";
    for (tenant, seen) in [("acme", Some("acme")), ("globex", Some("globex")), ("initech", None)] {
        let batch = [
            message::unnamed("BEGIN", &[]),
            message::unnamed(choose, &[tenant]),
            message::unnamed(WHO, &[]),
            message::unnamed("COMMIT", &[]),
            message::sync(),
        ];
        let answer = link.ask(batch.concat()).await;
        match seen {
            Some(tenant) => assert_eq!(answer.column().last().map(String::as_str), Some(tenant), "{answer}"),
            None => assert_eq!(answer.code().as_deref(), Some("28000"), "{answer}"),
        }
        link.query("ROLLBACK").await;
    }
}

#[tokio::test]
async fn a_bound_users_change_to_its_own_tenant_is_a_harmless_yes() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("acme_app").await;
    for sql in [
        "SET app.tenant_id = 'acme'",
        "SET app.tenant_id TO DEFAULT",
        "RESET app.tenant_id",
        "SELECT set_config('app.tenant_id', 'acme', false)",
        "RESET ALL",
    ] {
        assert_eq!(link.query(sql).await.code(), None, "{sql}");
        assert_eq!(link.query(WHO).await.value(), "acme", "{sql}");
    }
    assert_eq!(link.query("SET app.tenant_id = 'globex'").await.code().as_deref(), Some("42501"));
}

#[tokio::test]
async fn a_chosen_tenants_limits_hold_for_the_transaction_that_chose_it() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.pool_size", 3);
        config.set_tenant("acme", "statement_timeout", "300ms");
        config.set_tenant("acme", "max_servers", 1);
    })
    .await;
    let (mut one, mut two) = (proxy.link("api").await, proxy.link("api").await);
    // Both have a server already, so that neither can wait for one of the tenant.
    one.hold().await;
    assert_eq!(one.query("SET LOCAL app.tenant_id = 'acme'").await, "C(SET) Z(T)");
    two.hold().await;
    assert_eq!(
        two.query("SET LOCAL app.tenant_id = 'acme'").await.code().as_deref(),
        Some("53300"),
        "one over it"
    );
    assert_eq!(one.query("SELECT pg_sleep(20)").await.code().as_deref(), Some("57014"));
    one.query("ROLLBACK").await;
    two.query("ROLLBACK").await;
    two.hold().await;
    assert_eq!(two.query("SET LOCAL app.tenant_id = 'acme'").await, "C(SET) Z(T)", "at it");
}
