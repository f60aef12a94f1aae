//! A client has the session that it believes to have: its settings go with it to whichever server it has next, and
//! what lives on one server keeps it there, no longer than it is there, counted, bounded, and seen.

use std::time::Duration;

use crate::support::{Cluster, Link, Proxy, message, within};

/// Two servers and three clients, so that a client seldom has the server it had before.
async fn two_servers(cluster: &Cluster) -> Proxy {
    Proxy::start(cluster, |config| {
        config.set("upstream.main.pool_size", 2);
        config.lenient();
    })
    .await
}

/// Has another client of the same tenant, and one of another tenant, use all servers.
async fn stir(proxy: &Proxy) {
    for user in ["acme_app", "globex_app"] {
        let (mut one, mut two) = (proxy.link(user).await, proxy.link(user).await);
        for link in [&mut one, &mut two] {
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
        }
        for link in [&mut one, &mut two] {
            assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
        }
    }
}

async fn shows(link: &mut Link, setting: &str) -> String {
    link.query(&format!("SELECT current_setting('{setting}', true)")).await.value()
}

#[tokio::test]
async fn settings_go_with_the_client_in_whatever_form_they_were_set() {
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    for (sets, setting, value) in [
        ("SET work_mem = '1MB'", "work_mem", "1MB"),
        ("SET SESSION search_path TO \"Odd, one\", public", "search_path", "\"Odd, one\", public"),
        ("SET TIME ZONE 'Asia/Tokyo'", "timezone", "Asia/Tokyo"),
        ("SET TIME ZONE INTERVAL '-03:30' HOUR TO MINUTE", "timezone", "<-03:30>+03:30"),
        ("SET application.colour = 'rött ''x'''", "application.colour", "rött 'x'"),
        ("SELECT set_config('app.other', 'x', false)", "app.other", "x"),
        ("SET statement_timeout = 7000; SET lock_timeout = 8000; SELECT 1", "lock_timeout", "8s"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "transaction_isolation",
            "serializable",
        ),
        ("BEGIN; SET work_mem = '2MB'; COMMIT", "work_mem", "2MB"),
    ] {
        let mut link = proxy.link("acme_app").await;
        let answer = link.query(sets).await;
        assert!(answer.code().is_none(), "{sets}: {answer:?}");
        stir(&proxy).await;
        assert_eq!(shows(&mut link, setting).await, value, "{sets}");
    }
    proxy.comes_to_rest().await;
    assert_eq!(proxy.metrics().await.sum("pgtenant_pins_total", &[]), 0.0, "nobody was pinned");
}

#[tokio::test]
async fn what_the_proxy_adds_to_deferrable_transactions_waits_for_no_other() {
    const SET: &str = "SET SESSION CHARACTERISTICS AS TRANSACTION \
                       ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE";
    /// A question that is not answered takes five.
    const BRIEFLY: Duration = Duration::from_secs(2);
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    let mut other = proxy.link("globex_app").await;
    for sql in ["BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE", "SELECT count(*) FROM notes"] {
        assert_eq!(other.query(sql).await.code(), None, "{sql}");
    }
    let mut link = proxy.link_with("acme_app", &[("TimeZone", "Asia/Tokyo")]).await;
    let block = ["BEGIN ISOLATION LEVEL READ COMMITTED", "SELECT 1", "COMMIT"];
    let others = [
        "SHOW transaction_deferrable",
        // Behind these the application's name is put back, with its tenant in it.
        "SET application_name = 'weekly'",
        "RESET application_name",
        "RESET ALL; SHOW transaction_deferrable",
        SET,
    ];
    for sql in [&[SET], &block[..], &others, &block].concat() {
        let answer = tokio::time::timeout(BRIEFLY, link.query(sql)).await;
        assert_eq!(answer.unwrap_or_else(|_| panic!("{sql} waits")).code(), None, "{sql}");
    }
    for sql in
        [SET, "SHOW transaction_deferrable", "SET application_name = 'weekly'", "RESET application_name"]
    {
        let answer = tokio::time::timeout(BRIEFLY, link.extended(sql, &[])).await;
        assert_eq!(answer.unwrap_or_else(|_| panic!("{sql} waits")).code(), None, "{sql}");
    }
    // On a server that another client has used meanwhile.
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await.code(), None);
    let answer = tokio::time::timeout(BRIEFLY, link.query("SHOW transaction_deferrable")).await;
    assert_eq!(answer.expect("a hand-over waits for no other").value(), "on");
    assert_eq!(other.query("COMMIT").await, "C(COMMIT) Z(I)");
}

#[tokio::test]
async fn settings_from_bound_parameters_go_with_the_client() {
    let cluster = Cluster::start().await;
    let proxy = lenient_guard(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    link.extended("SELECT set_config('work_mem', $1, false)", &["3MB"]).await;
    link.extended("SELECT set_config($1, $2, false)", &["app.Given", "yes"]).await;
    link.extended("SELECT set_config('lock_timeout', $1, $2::bool)", &["9s", "true"]).await;
    stir(&proxy).await;
    stir_around(&proxy).await;
    let seen = [
        shows(&mut link, "work_mem").await,
        shows(&mut link, "app.given").await,
        shows(&mut link, "lock_timeout").await,
    ];
    assert_eq!(seen, ["3MB", "yes", "0"]);
}

#[tokio::test]
async fn a_setting_ends_as_postgresql_ends_it() {
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    link.query("SET work_mem = '1MB'").await;
    for (sets, value) in [
        ("BEGIN; SET work_mem = '2MB'; ROLLBACK", "1MB"),
        ("BEGIN; SET work_mem = '2MB'; SELECT 1/0", "1MB"),
        ("SET work_mem = '2MB'; SELECT 1/0", "1MB"),
        ("BEGIN; SET LOCAL work_mem = '2MB'; COMMIT", "1MB"),
        ("BEGIN; SET work_mem = '2MB'; SAVEPOINT a; SET work_mem = '3MB'; ROLLBACK TO a; COMMIT", "2MB"),
        ("BEGIN; SET work_mem = '4MB'; SAVEPOINT a; RESET work_mem; ROLLBACK TO a; COMMIT", "4MB"),
        ("RESET work_mem", "4MB"),
        ("SET work_mem = '5MB'; RESET ALL", "4MB"),
        ("SET work_mem = '6MB'", "6MB"),
        ("BEGIN; RESET ALL; ROLLBACK", "6MB"),
        ("BEGIN; RESET work_mem; COMMIT", "4MB"),
    ] {
        link.query(sets).await;
        link.query("ROLLBACK").await;
        stir(&proxy).await;
        assert_eq!(shows(&mut link, "work_mem").await, value, "{sets}");
    }
    link.query("SET work_mem = '7MB'").await;
    link.query("DISCARD ALL").await;
    stir(&proxy).await;
    assert_eq!(shows(&mut link, "work_mem").await, "4MB");
}

#[tokio::test]
async fn nobody_else_sees_a_clients_settings() {
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    let mut one = proxy.link("acme_app").await;
    let mut same = proxy.link("acme_app").await;
    let mut other = proxy.link("globex_app").await;
    one.query("SET work_mem = '1MB'; SET app.secret = 'x'").await;
    for _ in 0..4 {
        for link in [&mut same, &mut other] {
            assert_eq!(shows(link, "work_mem").await, "4MB");
            assert_eq!(
                link.query("SELECT coalesce(nullif(current_setting('app.secret', true), ''), 'none')")
                    .await
                    .value(),
                "none"
            );
        }
        assert_eq!(shows(&mut one, "work_mem").await, "1MB");
    }
}

#[tokio::test]
async fn a_transaction_lost_with_its_server_takes_its_settings_along() {
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    link.query("SET TIME ZONE 'Asia/Tokyo'").await;
    link.query("BEGIN").await;
    link.query("SET TIME ZONE 'Europe/Rome'").await;
    // While a statement runs: a client that is idle in its transaction would be disconnected.
    link.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    cluster.kill_servers().await;
    assert_eq!(link.answer().await.code().as_deref(), Some("08006"));
    assert_eq!(shows(&mut link, "timezone").await, "Asia/Tokyo");
}

#[tokio::test]
async fn settings_beyond_the_limit_are_refused_and_those_up_to_it_are_kept() {
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    for number in 0..64 {
        assert_eq!(link.query(&format!("SET app.s{number} = 'x'")).await, "C(SET) Z(I)", "{number}");
    }
    assert_eq!(link.query("SET app.s64 = 'x'").await, "E(53400) Z(I)");
    assert_eq!(link.query("SET app.s63 = 'y'").await, "C(SET) Z(I)");
    stir(&proxy).await;
    assert_eq!(shows(&mut link, "app.s63").await, "y");
}

#[tokio::test]
async fn a_value_too_long_to_carry_keeps_the_client_on_its_server() {
    let cluster = Cluster::start().await;
    let proxy = two_servers(&cluster).await;
    for (length, pins) in [(8192, 0.0), (8193, 1.0)] {
        let mut link = proxy.link("acme_app").await;
        link.query(&format!("SET app.long = '{}'", "x".repeat(length))).await;
        stir_around(&proxy).await;
        assert_eq!(
            link.query("SELECT length(current_setting('app.long'))").await.value(),
            length.to_string()
        );
        assert_eq!(proxy.metrics().await.sum("pgtenant_pins_total", &[("reason", "setting")]), pins);
    }
}

/// Statements that make state of one server, what shows that it is there, and what ends it.
const STATES: [(&str, &str, &str, &str); 8] = [
    ("temporary", "CREATE TEMP TABLE mine (a int)", "SELECT count(*) FROM mine", "DROP TABLE mine"),
    ("temporary", "SELECT 1 AS a INTO TEMP mine", "SELECT count(*) FROM mine", "DISCARD TEMP"),
    (
        "temporary",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT pg_temp.f()",
        "DROP FUNCTION pg_temp.f",
    ),
    (
        "held-cursor",
        "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)",
        "FETCH held",
        "CLOSE held",
    ),
    (
        "advisory-lock",
        "SELECT pg_advisory_lock(42)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "SELECT pg_advisory_unlock_all()",
    ),
    ("listen", "LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "UNLISTEN *"),
    ("prepared", "PREPARE mine AS SELECT 1", "EXECUTE mine", "DEALLOCATE mine"),
    (
        "temporary",
        "BEGIN; CREATE TEMP TABLE mine (a int); COMMIT",
        "SELECT count(*) FROM mine",
        "DISCARD ALL",
    ),
];

async fn lenient_guard(cluster: &Cluster) -> Proxy {
    Proxy::start(cluster, |config| {
        config.set("upstream.main.pool_size", 2);
        config.set("tenancy.guard", "off");
        config.set("tenancy.allow_unsafe", true);
    })
    .await
}

#[tokio::test]
async fn what_lives_on_one_server_keeps_the_client_there_until_it_ends() {
    let cluster = Cluster::start().await;
    let proxy = lenient_guard(&cluster).await;
    let mut pins = 0.0;
    for (reason, makes, shows, ends) in STATES {
        let mut link = proxy.link("acme_app").await;
        let answer = link.query(makes).await;
        assert!(answer.code().is_none(), "{makes}: {answer:?}");
        stir_around(&proxy).await;
        let answer = link.query(shows).await;
        assert!(answer.code().is_none(), "{makes}: {answer:?}");
        assert_eq!(proxy.metrics().await.sum("pgtenant_servers", &[("state", "used")]), 1.0, "{makes}");
        proxy
            .measures("pgtenant_pins_total", &[("tenant", "acme"), ("reason", reason)], {
                pins += 1.0;
                count_of(reason, makes)
            })
            .await;
        let answer = link.query(ends).await;
        assert!(answer.code().is_none(), "{ends}: {answer:?}");
        proxy.measures("pgtenant_servers", &[("state", "used")], 0.0).await;
        stir_around(&proxy).await;
        let answer = link.query(shows).await;
        let gone = answer.code().is_some() || answer.value() == "0";
        assert!(gone, "{ends}: {answer:?}");
        link.leave().await;
    }
    proxy.logged("the client is pinned to its server").await;
    assert!(proxy.log().contains("CREATE TEMP TABLE mine"), "the statement is named: {}", proxy.log());
    assert_eq!(proxy.metrics().await.sum("pgtenant_pins_total", &[]), pins);
}

/// How often this reason has been counted when this statement has run.
fn count_of(reason: &str, statement: &str) -> f64 {
    let upto = STATES.iter().position(|state| state.1 == statement).unwrap();
    let count = STATES.iter().take(upto + 1).filter(|state| state.0 == reason).count();
    f64::from(u32::try_from(count).unwrap())
}

async fn stir_around(proxy: &Proxy) {
    for user in ["acme_app", "globex_app"] {
        let mut link = proxy.link(user).await;
        assert_eq!(link.query("SELECT 1").await.value(), "1");
    }
}

#[tokio::test]
async fn what_a_transaction_takes_back_pins_nobody() {
    let cluster = Cluster::start().await;
    let proxy = lenient_guard(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    for text in [
        "BEGIN; CREATE TEMP TABLE mine (a int); ROLLBACK",
        "BEGIN; CREATE TEMP TABLE mine (a int) ON COMMIT DROP; COMMIT",
        "BEGIN; LISTEN news; ROLLBACK",
        "SELECT pg_try_advisory_lock(1), pg_advisory_unlock(1)",
        "CREATE TEMP TABLE mine (a nonsense)",
        "SELECT set_config('work_mem', '1MB', false) AS temp",
    ] {
        link.query(text).await;
        proxy.measures("pgtenant_servers", &[("state", "used")], 0.0).await;
    }
    assert_eq!(proxy.metrics().await.sum("pgtenant_pins_total", &[]), 0.0);
}

#[tokio::test]
async fn a_pinned_listener_hears_while_it_is_idle_and_from_itself() {
    let cluster = Cluster::start().await;
    let proxy = lenient_guard(&cluster).await;
    let mut listener = proxy.link("acme_app").await;
    assert_eq!(listener.query("LISTEN news").await, "C(LISTEN) Z(I)");
    let mut sender = proxy.link("acme_app").await;
    sender.query("NOTIFY news, 'first'").await;
    let heard = within("a notification", listener.frame("A")).await;
    assert!(heard.body.ends_with(b"news\0first\0"), "{heard:?}");
    assert_eq!(heard.body[..4], sender.process_id.to_be_bytes(), "from whom");
    listener.send(message::query("NOTIFY news, 'second'")).await;
    let answer = listener.answer().await;
    let own = answer.0.iter().find(|frame| frame.tag == b'A').unwrap();
    assert_eq!(own.body[..4], listener.process_id.to_be_bytes(), "from itself");
}

#[tokio::test]
async fn a_pinned_client_whose_server_dies_is_told() {
    let cluster = Cluster::start().await;
    let proxy = lenient_guard(&cluster).await;
    let mut idle = proxy.link("acme_app").await;
    idle.query("CREATE TEMP TABLE mine (a int)").await;
    cluster.kill_servers().await;
    assert_eq!(within("the end", idle.closes()).await.code().as_deref(), Some("08006"));
    proxy.comes_to_rest().await;
}

#[tokio::test]
async fn pins_are_bounded_by_tenant_and_can_be_refused_by_user() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("tenancy.guard", "off");
        config.set("tenancy.allow_unsafe", true);
        config.set("defaults.max_pins", 1);
        config.set_user("globex_app", "pinning", "refuse");
    })
    .await;
    let temp = "CREATE TEMP TABLE mine (a int)";
    let (mut one, mut two) = (proxy.link("acme_app").await, proxy.link("acme_app").await);
    assert_eq!(one.query(temp).await, "C(CREATE TABLE) Z(I)");
    let fault = two.query(temp).await.fault();
    assert_eq!(fault.code, "53300");
    assert!(fault.detail.as_deref().unwrap_or_default().contains("CREATE TEMP TABLE mine"), "{fault:?}");
    assert_eq!(two.extended(temp, &[]).await.code().as_deref(), Some("53300"));
    assert_eq!(two.query("SELECT 1").await.value(), "1", "everything else works");
    assert_eq!(one.query("CREATE TEMP TABLE another (a int)").await, "C(CREATE TABLE) Z(I)");
    one.leave().await;
    within("room for one more", async { while two.query(temp).await.code().is_some() {} }).await;
    let mut refused = proxy.link("globex_app").await;
    let fault = refused.query(temp).await.fault();
    assert_eq!(fault.code, "0A000");
    assert!(fault.detail.as_deref().unwrap_or_default().contains("CREATE TEMP TABLE mine"), "{fault:?}");
    assert_eq!(refused.query("SET work_mem = '1MB'").await, "C(SET) Z(I)", "settings pin nobody");
}

#[tokio::test]
async fn in_session_mode_a_user_keeps_its_server_from_the_first_transaction() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.pool_size", 2);
        config.set_user("acme_app", "pool_mode", "session");
        config.lenient();
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    proxy.measures("pgtenant_servers", &[("state", "used")], 0.0).await;
    let server = link.query("SELECT pg_backend_pid()").await.value();
    link.query("CREATE TEMP TABLE mine (a int)").await;
    stir_around_others(&proxy).await;
    assert_eq!(link.query("SELECT pg_backend_pid()").await.value(), server);
    assert_eq!(link.query("SELECT count(*) FROM mine").await.value(), "0");
    assert_eq!(link.query("SELECT string_agg(DISTINCT tenant_id, ',') FROM notes").await.value(), "acme");
    assert_eq!(link.query("DISCARD ALL").await, "C(DISCARD ALL) Z(I)");
    assert_eq!(link.query("SELECT count(*) FROM mine").await.code().as_deref(), Some("42P01"));
    link.leave().await;
    proxy.measures("pgtenant_servers", &[("state", "used")], 0.0).await;
}

async fn stir_around_others(proxy: &Proxy) {
    let mut link = proxy.link("globex_app").await;
    assert_eq!(link.query("SELECT 1").await.value(), "1");
}

#[tokio::test]
async fn what_pins_one_tenant_is_never_another_tenants() {
    let cluster = Cluster::start().await;
    let proxy = lenient_guard(&cluster).await;
    let mut gateway = proxy.link("api.acme").await;
    gateway.query("CREATE TEMP TABLE mine AS SELECT 'acme secret' AS a").await;
    assert_eq!(gateway.query("SET app.tenant_id = 'globex'").await.code().as_deref(), Some("0A000"));
    assert_eq!(gateway.query("BEGIN").await, "C(BEGIN) Z(T)");
    assert_eq!(gateway.query("SET LOCAL app.tenant_id = 'globex'").await.code().as_deref(), Some("0A000"));
    gateway.query("ROLLBACK").await;
    assert_eq!(gateway.query("SELECT a FROM mine").await.value(), "acme secret");
    assert_eq!(gateway.query("DISCARD ALL").await, "C(DISCARD ALL) Z(I)");
    assert_eq!(gateway.query("SET app.tenant_id = 'globex'").await, "C(SET) Z(I)");
    assert_eq!(gateway.query("SELECT a FROM mine").await.code().as_deref(), Some("42P01"));
}

#[tokio::test]
async fn a_pinned_client_leaves_with_the_drain_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let mut proxy = lenient_guard(&cluster).await;
    let mut link = proxy.link("acme_app").await;
    link.query("CREATE TEMP TABLE mine (a int)").await;
    let mut leaver = proxy.link("acme_app").await;
    leaver.query("CREATE TEMP TABLE mine (a int)").await;
    leaver.leave().await;
    proxy.measures("pgtenant_servers", &[("state", "used")], 1.0).await;
    for _ in 0..4 {
        let mut next = proxy.link("acme_app").await;
        assert_eq!(next.query("SELECT count(*) FROM mine").await.code().as_deref(), Some("42P01"));
    }
    proxy.terminate();
    assert_eq!(within("the end", link.closes()).await.code().as_deref(), Some("57P01"));
    assert!(proxy.exits().await.success());
}

#[tokio::test]
async fn a_maintenance_users_role_and_libraries_pin_it_as_long_as_they_last() {
    let cluster = Cluster::start().await;
    cluster.execute("ALTER ROLE app_owner SUPERUSER; CREATE ROLE helper; GRANT helper TO app_owner").await;
    let proxy = Proxy::start(&cluster, |config| config.set("upstream.main.pool_size", 2)).await;
    let used = |wanted| proxy.measures("pgtenant_servers", &[("state", "used")], wanted);
    let mut link = proxy.link("migrate").await;
    let role = "SELECT current_user::text";
    assert_eq!(link.query("SET ROLE helper").await.without(b"S"), "C(SET) Z(I)");
    proxy.link("migrate").await.query("SELECT 1").await;
    assert_eq!(link.query(role).await.value(), "helper");
    used(1.0).await;
    assert_eq!(link.query("RESET ROLE").await.without(b"S"), "C(RESET) Z(I)");
    used(0.0).await;
    assert_eq!(
        link.query("BEGIN; SET LOCAL ROLE helper; COMMIT").await.without(b"S"),
        "C(BEGIN) C(SET) C(COMMIT) Z(I)"
    );
    used(0.0).await;
    assert_eq!(link.query("LOAD 'auto_explain'").await, "C(LOAD) Z(I)");
    used(1.0).await;
    let server = link.query("SELECT pg_backend_pid()").await.value();
    link.leave().await;
    used(0.0).await;
    // What no reset takes away ends with its server.
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {server}");
    cluster.settles(&gone, "0").await;
}
