//! It isolates: one server connection for everybody, and each sees its own rows only, whatever the
//! other did before.

use crate::support::{Cluster, Link, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// All tenants share one server connection.
async fn one_server() -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    (cluster, proxy)
}

/// The reset is proven by what the strict guard would not let through.
async fn one_lenient_server() -> (Cluster, Proxy) {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    (cluster, proxy)
}

// === whose rows ===

/// What one client does in the crowd, by turns: messages, and how many ReadyForQuery they bring.
fn turn(number: usize, tenant: &str) -> (Vec<u8>, usize) {
    let select = "SELECT tenant_id FROM notes";
    let insert = "INSERT INTO notes (body) VALUES ('crowd') RETURNING tenant_id";
    match number % 10 {
        0 => (message::query(select), 1),
        1 => ([message::unnamed(select, &[]), message::sync()].concat(), 1),
        2 => ([message::query("BEGIN"), message::query(select), message::query("COMMIT")].concat(), 3),
        3 => ([message::query("BEGIN"), message::query(insert), message::query("ROLLBACK")].concat(), 3),
        4 => (message::query(&format!("{select}; {select}")), 1),
        5 => (message::query("SELECT 1/0"), 1),
        6 => (
            [message::unnamed("SELECT 1/0", &[]), message::unnamed(select, &[]), message::sync()].concat(),
            1,
        ),
        7 => {
            let by_tenant = "SELECT tenant_id FROM notes WHERE tenant_id = $1";
            (
                [message::unnamed(by_tenant, &[tenant]), message::unnamed(select, &[]), message::sync()]
                    .concat(),
                1,
            )
        }
        8 => (message::query(&format!("BEGIN; {select}; COMMIT; {select}")), 1),
        _ => ([message::query(select), message::query("SELECT no_such"), message::query(select)].concat(), 3),
    }
}

/// Takes one turn; returns how many rows came, all of them checked.
async fn take_turn(link: &mut Link, number: usize, tenant: &str) -> usize {
    let (messages, answers) = turn(number, tenant);
    link.send(messages).await;
    let mut rows = 0;
    for _ in 0..answers {
        let answer = link.answer().await;
        let column = answer.column();
        assert!(column.iter().all(|row| row == tenant), "{tenant}, turn {number}: {answer}");
        rows += column.len();
    }
    rows
}

#[tokio::test]
async fn three_tenants_interleaved_on_one_server_see_their_own_rows_only() {
    let (cluster, proxy) = one_server().await;
    let mut crowd = Vec::new();
    for tenant in TENANTS {
        let mut link = proxy.link(&format!("{tenant}_app")).await;
        crowd.push(tokio::spawn(async move {
            let mut rows = 0;
            for number in 0..1000 {
                rows += take_turn(&mut link, number, tenant).await;
            }
            rows
        }));
    }
    for client in crowd {
        // Ten rows for each select; turn 8's last one may be refused, having left the transaction.
        let rows = client.await.unwrap();
        assert!(rows >= 100 * 10 * 10, "only {rows} rows came: the test proved little");
    }
    assert!(cluster.connections("app").await <= 1, "they did share one server");
}

#[tokio::test]
async fn a_tenants_error_or_rollback_never_brings_the_last_tenant_back() {
    let (_cluster, proxy) = one_server().await;
    let endings: [&[&str]; 9] = [
        &["SELECT 1/0"],
        &["BEGIN", "ROLLBACK"],
        &["BEGIN", "SELECT 1", "ROLLBACK"],
        &["BEGIN", "SELECT 1/0", "ROLLBACK"],
        &["BEGIN", "SELECT 1/0", "COMMIT"],
        &["BEGIN", "SAVEPOINT s", "SELECT 1/0", "ROLLBACK TO s", "ROLLBACK"],
        &["BEGIN; SELECT 1/0", "ROLLBACK"],
        &["no such command"],
        &["SELECT 1; SELECT 1/0"],
    ];
    let mut globex = proxy.link("globex_app").await;
    let mut acme = proxy.link("acme_app").await;
    for ending in endings {
        assert_eq!(globex.query(WHO).await.value(), "globex", "{ending:?}");
        for statement in ending {
            acme.query(statement).await;
        }
        assert_eq!(acme.query(WHO).await.value(), "acme", "{ending:?}, simple");
        assert_eq!(globex.query(WHO).await.value(), "globex", "{ending:?}");
        for statement in ending.iter().filter(|statement| !statement.contains(';')) {
            acme.extended(statement, &[]).await;
        }
        assert_eq!(acme.extended(WHO, &[]).await.value(), "acme", "{ending:?}, extended");
    }
}

#[tokio::test]
async fn in_an_explicit_transaction_the_tenant_stays_whatever_rolls_back() {
    let (_cluster, proxy) = one_server().await;
    let steps = [
        ("BEGIN", "T"),
        ("SAVEPOINT a", "T"),
        ("INSERT INTO notes (body) VALUES ('x')", "T"),
        ("ROLLBACK TO a", "T"),
        ("SAVEPOINT b", "T"),
        ("SELECT 1/0", "E"),
        ("ROLLBACK TO b", "T"),
        ("RELEASE b", "T"),
        ("RESET ALL", "T"),
        ("COMMIT", "I"),
        ("START TRANSACTION READ ONLY", "T"),
        ("ROLLBACK", "I"),
    ];
    proxy.link("globex_app").await.query(WHO).await;
    let mut link = proxy.link("acme_app").await;
    for (statement, status) in steps {
        let answer = link.query(statement).await;
        let ready = answer.0.last().unwrap().to_string();
        assert_eq!(ready, format!("Z({status})"), "{statement}: {answer}");
        if status != "E" {
            assert_eq!(link.query(WHO).await.value(), "acme", "after {statement}");
        }
    }
}

#[tokio::test]
async fn what_follows_a_commit_in_one_message_runs_as_the_same_tenant_or_not() {
    let (cluster, proxy) = one_server().await;
    let mut globex = proxy.link("globex_app").await;
    let mut acme = proxy.link("acme_app").await;
    let select = "SELECT tenant_id FROM notes";
    let insert = "INSERT INTO notes (body) VALUES ('after commit')";
    let batches = [
        format!("BEGIN; {select}; COMMIT; {select}"),
        format!("COMMIT; {select}"),
        format!("ROLLBACK; {select}"),
        format!("BEGIN; ROLLBACK; {select}; {insert}"),
        format!("BEGIN; COMMIT AND CHAIN; {select}; COMMIT; {insert}"),
        format!("{select}; COMMIT; BEGIN; {select}; ROLLBACK; {select}"),
    ];
    for batch in batches {
        globex.query(WHO).await;
        let answer = acme.query(&batch).await;
        assert!(answer.column().iter().all(|tenant| tenant == "acme"), "{batch}: {answer}");
        acme.query("ROLLBACK").await;
        assert_eq!(acme.query(WHO).await.value(), "acme", "after {batch}");
    }
    let pipelines = [
        [message::unnamed("COMMIT", &[]), message::unnamed(select, &[]), message::sync()].concat(),
        [message::unnamed("ROLLBACK", &[]), message::unnamed(select, &[]), message::sync()].concat(),
        [
            message::unnamed("BEGIN", &[]),
            message::unnamed("COMMIT", &[]),
            message::unnamed(insert, &[]),
            message::sync(),
        ]
        .concat(),
        [
            message::unnamed("BEGIN", &[]),
            message::unnamed("ROLLBACK", &[]),
            message::unnamed(select, &[]),
            message::sync(),
        ]
        .concat(),
    ];
    for (number, pipeline) in pipelines.into_iter().enumerate() {
        globex.query(WHO).await;
        let answer = acme.ask(pipeline).await;
        assert!(answer.column().iter().all(|tenant| tenant == "acme"), "pipeline {number}: {answer}");
        acme.query("ROLLBACK").await;
    }
    let strangers = "SELECT count(*) FROM notes WHERE body = 'after commit' AND tenant_id <> 'acme'";
    assert_eq!(cluster.value(strangers).await, "0");
}

// === nothing left behind ===

/// What one tenant does, what the next asks, and what a clean server answers to that.
const TRACES: [(&str, &[&str], &str, &str); 19] = [
    ("temporary table", &["CREATE TEMP TABLE t (x int)"], "SELECT to_regclass('pg_temp.t') IS NULL", "t"),
    ("temporary table by a function", &["SELECT scribble()"], "SELECT to_regclass('scribbled') IS NULL", "t"),
    (
        "temporary view over another's table",
        &["CREATE TEMP VIEW notes AS SELECT 'planted' AS tenant_id"],
        "SELECT count(*) FROM notes WHERE tenant_id = 'planted'",
        "0",
    ),
    (
        "custom setting",
        &["SELECT set_config('my.secret', 'x', false)"],
        "SELECT coalesce(current_setting('my.secret', true), '')",
        "",
    ),
    ("search_path", &["SET search_path = shelf"], "SHOW search_path", "\"$user\", public"),
    ("read-only default", &["SET default_transaction_read_only = on"], "SHOW transaction_read_only", "off"),
    (
        "statement_timeout",
        &["SET statement_timeout = '77s'"],
        "SELECT current_setting('statement_timeout') <> '77s'",
        "t",
    ),
    ("DateStyle", &["SET DateStyle = 'German'"], "SHOW DateStyle", "ISO, MDY"),
    ("TimeZone", &["SET TIME ZONE 'Asia/Tokyo'"], "SHOW TimeZone", "UTC"),
    ("planner setting", &["SET enable_seqscan = off"], "SHOW enable_seqscan", "on"),
    (
        "setting in a transaction",
        &["BEGIN", "SET work_mem = '77MB'", "COMMIT"],
        "SELECT current_setting('work_mem') <> '77MB'",
        "t",
    ),
    ("transform_null_equals", &["SET transform_null_equals = on"], "SHOW transform_null_equals", "off"),
    (
        "SQL-level prepared statement",
        &["PREPARE p AS SELECT 1"],
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'p'",
        "0",
    ),
    ("listening", &["LISTEN gossip"], "SELECT count(*) FROM pg_listening_channels()", "0"),
    (
        "advisory lock",
        &["SELECT pg_advisory_lock(7)"],
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "0",
    ),
    (
        "cursor WITH HOLD",
        &["DECLARE h CURSOR WITH HOLD FOR SELECT 1"],
        "SELECT count(*) FROM pg_cursors WHERE name = 'h'",
        "0",
    ),
    ("last sequence value", &["INSERT INTO notes (body) VALUES ('x')"], "SELECT lastval()", "E(55000)"),
    (
        "current sequence value",
        &["INSERT INTO notes (body) VALUES ('x')"],
        "SELECT currval('notes_id_seq')",
        "E(55000)",
    ),
    (
        "cursor and setting after an error",
        &["DECLARE e CURSOR WITH HOLD FOR SELECT 1; SET my.mark = 'x'", "SELECT 1/0"],
        "SELECT count(*)::text || coalesce(current_setting('my.mark', true), '') FROM pg_cursors WHERE name = 'e'",
        "0",
    ),
];

/// The answer to a probe: its value, or its error.
async fn probe(link: &mut Link, sql: &str) -> String {
    let answer = link.query(sql).await;
    match answer.code() {
        Some(code) => format!("E({code})"),
        None => answer.value(),
    }
}

#[tokio::test]
async fn nothing_that_a_tenant_does_to_its_session_reaches_the_next() {
    let (cluster, proxy) = one_lenient_server().await;
    let mut globex = proxy.link("globex_app").await;
    for (what, statements, question, clean) in TRACES {
        let mut acme = proxy.link("acme_app").await;
        let before = proxy.metrics().await.sum("pgtenant_pins_total", &[]);
        for statement in statements {
            acme.query(statement).await;
        }
        acme.query("").await;
        // A client that keeps the only server leaves nobody another one.
        if proxy.metrics().await.sum("pgtenant_pins_total", &[]) == before {
            assert_eq!(probe(&mut globex, question).await, clean, "{what}: acme is still there");
        }
        acme.leave().await;
        assert_eq!(probe(&mut globex, question).await, clean, "{what}: acme is gone");

        // The same session would show it, so the question is able to fail.
        let mut direct = cluster.link("acme").await;
        for statement in statements {
            direct.query(statement).await;
        }
        assert_ne!(probe(&mut direct, question).await, clean, "{what}: a probe that proves nothing");
    }
}

#[tokio::test]
async fn the_random_seed_of_a_tenant_does_not_foretell_the_next_ones_numbers() {
    let (cluster, proxy) = one_server().await;
    let mut direct = cluster.link("acme").await;
    direct.query("SELECT setseed(0.5)").await;
    let foretold = direct.query("SELECT random()").await.value();
    let mut acme = proxy.link("acme_app").await;
    let mut globex = proxy.link("globex_app").await;
    acme.query("SELECT setseed(0.5)").await;
    assert_ne!(globex.query("SELECT random()").await.value(), foretold);
}

#[tokio::test]
async fn a_tenants_prepared_statements_are_neither_seen_nor_run_by_the_next() {
    let (_cluster, proxy) = one_server().await;
    let mut acme = proxy.link("acme_app").await;
    let mut globex = proxy.link("globex_app").await;
    let prepared = acme.ask([message::parse("mine", "SELECT 'acme only'"), message::sync()].concat()).await;
    assert_eq!(prepared, "1 Z(I)");
    let texts = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%acme ' || 'only%'";
    assert_eq!(globex.query(texts).await.value(), "0");
    let run = globex.ask([message::rerun("mine", &[]), message::sync()].concat()).await;
    assert_eq!(run, "E(26000) Z(I)");
    let run = acme.ask([message::rerun("mine", &[]), message::sync()].concat()).await;
    assert_eq!(run, "2 D(acme only) C(SELECT 1) Z(I)", "its owner still has it");
}

#[tokio::test]
async fn a_notification_of_another_tenant_never_reaches_an_earlier_listener() {
    let (cluster, proxy) = one_lenient_server().await;
    let mut acme = proxy.link("acme_app").await;
    let mut globex = proxy.link("globex_app").await;
    acme.query("LISTEN gossip").await;
    acme.leave().await;
    globex.query("SELECT 1").await;
    cluster.execute("NOTIFY gossip, 'whisper'").await;
    for _ in 0..3 {
        let answer = globex.query("SELECT 1").await;
        assert_eq!(answer, "T(?column?) D(1) C(SELECT 1) Z(I)", "no A( frame");
    }
}

// === the direct routes ===

const REFUSED: [&str; 33] = [
    "SET app.tenant_id = 'globex'",
    "SET app.tenant_id TO globex",
    "set APP.Tenant_Id = 'globex'",
    "SET SESSION app.tenant_id = 'globex'",
    "SET LOCAL app.tenant_id = 'globex'",
    "SET \"app\".\"tenant_id\" = 'globex'",
    "SET \"app.tenant_id\" = 'globex'",
    "SET app . tenant_id = 'globex'",
    "/* a */ SET /* b /* nested */ */ app.tenant_id/**/= 'globex'",
    "-- a comment\nSET app.tenant_id = 'globex'",
    "\t\r\n SET\tapp.tenant_id\n=\n'globex'",
    ";;SET app.tenant_id = 'globex'",
    "SELECT 1; SET app.tenant_id = 'globex'",
    "SET app.tenant_id = 'globex'; SELECT tenant_id FROM notes",
    "SELECT 'a'';'; SET app.tenant_id = 'globex'; SELECT tenant_id FROM notes",
    "SELECT $x$;$x$; SET app.tenant_id = 'globex'; SELECT tenant_id FROM notes",
    "BEGIN; SET LOCAL app.tenant_id = 'globex'; SELECT tenant_id FROM notes; COMMIT",
    "SELECT set_config('app.tenant_id', 'globex', false)",
    "SELECT set_config('app.tenant_id', 'globex', true), tenant_id FROM notes",
    "select SET_CONFIG ( 'App.Tenant_ID' , 'globex' , false )",
    "SELECT pg_catalog.set_config('app.tenant_id', 'globex', false)",
    "SELECT \"set_config\"('app.tenant_id', 'globex', false)",
    "SELECT pg_catalog . /**/ \"set_config\" /**/ ('app.tenant_id', 'globex', false)",
    "WITH x AS (SELECT set_config('app.tenant_id', 'globex', false)) SELECT * FROM x",
    "SET ROLE app_owner",
    "SET LOCAL ROLE app_owner",
    "SET SESSION ROLE app_owner",
    "SET role = 'app_owner'",
    "SET \"role\" TO app_owner",
    "SET SESSION AUTHORIZATION app_owner",
    "SET LOCAL SESSION AUTHORIZATION app_owner",
    "SET session_authorization = 'app_owner'",
    "SELECT set_config('role', 'app_owner', false)",
];

const STATE: &str = "SELECT current_user || '/' || session_user || '/' || current_setting('app.tenant_id') || '/' || \
     (SELECT string_agg(DISTINCT tenant_id, ',') FROM notes)";

#[tokio::test]
async fn no_plain_statement_changes_tenant_role_or_authorization() {
    let (cluster, proxy) = one_server().await;
    cluster.execute("GRANT app_owner TO app").await;
    let mut link = proxy.link("acme_app").await;
    for sql in REFUSED {
        let answer = link.query(sql).await;
        assert_eq!(answer, "E(42501) Z(I)", "{sql}");
        let fault = answer.fault();
        assert!(fault.detail.is_some() && fault.hint.is_some(), "{sql}: {fault:?}");
        assert_eq!(link.query(STATE).await.value(), "app/app/acme/acme", "after {sql}");

        let several = sql.split(';').filter(|part| !part.trim().is_empty()).count() > 1;
        if !several {
            let batch =
                [message::unnamed(sql, &[]), message::unnamed("SELECT 1", &[]), message::sync()].concat();
            let answer = link.ask(batch).await;
            assert_eq!(answer.code().as_deref(), Some("42501"), "extended: {sql}: {answer}");
            assert!(!answer.to_string().contains("C("), "extended: {sql}: {answer}");
            assert_eq!(link.query(STATE).await.value(), "app/app/acme/acme", "after extended {sql}");
        }
    }
    let counted = proxy.metrics().await.sum("pgtenant_guard_refusals_total", &[("tenant", "acme")]);
    assert!(counted >= 33.0, "{counted}");
}

#[tokio::test]
async fn a_refusal_inside_a_transaction_fails_the_transaction_as_an_error_would() {
    let (_cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    link.query("BEGIN").await;
    link.query("INSERT INTO notes (body) VALUES ('before the attempt')").await;
    let answer = link.query("SET app.tenant_id = 'globex'").await;
    assert_eq!(answer.code().as_deref(), Some("42501"), "{answer}");
    let status = answer.0.last().unwrap().to_string();
    assert!(status == "Z(T)" || status == "Z(E)", "the transaction is still open: {answer}");
    if status == "Z(T)" {
        assert_eq!(link.query(WHO).await.value(), "acme");
    } else {
        assert_eq!(link.query("SELECT 1").await, "E(25P02) Z(E)");
    }
    link.query("ROLLBACK").await;
    assert_eq!(link.query(STATE).await.value(), "app/app/acme/acme");
}

#[tokio::test]
async fn a_bound_set_config_cannot_change_the_tenant() {
    let (_cluster, proxy) = one_server().await;
    let mut globex = proxy.link("globex_app").await;
    let mut acme = proxy.link("acme_app").await;
    for local in ["false", "true"] {
        for sql in ["SELECT set_config($1, $2, $3::bool)", "SELECT set_config($1 || '', $2, $3::bool)"] {
            let batch = [
                message::unnamed(sql, &["app.tenant_id", "globex", local]),
                message::unnamed("SELECT tenant_id FROM notes", &[]),
                message::sync(),
            ]
            .concat();
            let answer = acme.ask(batch).await;
            assert!(answer.to_string().ends_with("E(42501) Z(I)"), "{sql} {local}: {answer}");
            assert!(answer.column().is_empty(), "{sql} {local}: {answer}");
            assert_eq!(acme.query(STATE).await.value(), "app/app/acme/acme", "{sql} {local}");
            assert_eq!(globex.query(STATE).await.value(), "app/app/globex/globex", "{sql} {local}");
        }
    }
}

#[tokio::test]
async fn texts_that_only_look_like_a_change_of_tenant_are_served() {
    let (_cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    let harmless = [
        ("SELECT 'SET app.tenant_id = ''globex'''", "SET app.tenant_id = 'globex'"),
        ("SELECT $$RESET ROLE$$ -- SET ROLE x", "RESET ROLE"),
        ("SELECT /* SET ROLE app_owner */ 1", "1"),
        ("SELECT count(*) FROM notes WHERE body = 'set_config'", "0"),
        ("SELECT current_setting('app.tenant_id')", "acme"),
        ("SHOW app.tenant_id", "acme"),
        ("SELECT 1 AS \"role\"", "1"),
    ];
    for (sql, value) in harmless {
        assert_eq!(link.query(sql).await.value(), value, "{sql}");
        assert_eq!(link.extended(sql, &[]).await.value(), value, "extended {sql}");
    }
    for sql in
        ["SET search_path = public", "SET LOCAL work_mem = '1MB'", "RESET work_mem", "SET TIME ZONE 'UTC'"]
    {
        assert_eq!(link.query(sql).await.code(), None, "{sql}");
    }
    assert_eq!(link.query("UPDATE notes SET body = 'role' WHERE false").await, "C(UPDATE 0) Z(I)");
}

#[tokio::test]
async fn reset_all_and_discard_all_keep_the_tenant() {
    let (_cluster, proxy) = one_server().await;
    let mut link = proxy.link("acme_app").await;
    for sql in ["RESET ALL", "DISCARD ALL", "discard all", "DISCARD TEMP", "DISCARD PLANS", "DEALLOCATE ALL"]
    {
        let answer = link.query(sql).await;
        assert_eq!(answer.code(), None, "{sql}: {answer}");
        assert_eq!(link.query(STATE).await.value(), "app/app/acme/acme", "{sql}");
        assert_eq!(link.extended(sql, &[]).await.code(), None, "{sql} extended");
        assert_eq!(link.extended(STATE, &[]).await.value(), "app/app/acme/acme", "{sql} extended");
    }
}

#[tokio::test]
async fn where_the_context_cannot_be_entered_nothing_is_run() {
    let (cluster, proxy) = one_server().await;
    let mut acme = proxy.link("acme_app").await;
    assert_eq!(acme.query(WHO).await.value(), "acme");
    let mut globex = proxy.link("globex_app").await;
    // Neither SET nor set_config can be taken from a role as such, but every statement can be made to fail:
    // a read-only role of a database that refuses this login's settings is as good as a broken context.
    cluster.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, bool) FROM PUBLIC").await;
    for _ in 0..2 {
        let answer = globex.query("INSERT INTO imports VALUES ('bare')").await;
        if answer.code().is_none() {
            // The context does not depend on set_config; then it has to be the right one.
            assert_eq!(globex.query(WHO).await.value(), "globex");
            return;
        }
        assert!(!answer.fault().message.contains("set_config"), "in the proxy's words: {:?}", answer.fault());
        let batch = [message::unnamed("INSERT INTO imports VALUES ('bare')", &[]), message::sync()].concat();
        assert!(globex.ask(batch).await.code().is_some());
    }
    assert_eq!(
        cluster.value("SELECT count(*) FROM imports").await,
        "0",
        "no statement runs without its context"
    );
    cluster.execute("GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, bool) TO PUBLIC").await;
    assert_eq!(globex.query(WHO).await.value(), "globex");
    assert_eq!(acme.query(WHO).await.value(), "acme");
}

#[tokio::test]
async fn where_the_reset_fails_nothing_of_the_next_tenant_is_run() {
    let (cluster, proxy) = one_server().await;
    let mut acme = proxy.link("acme_app").await;
    let mut globex = proxy.link("globex_app").await;
    assert_eq!(acme.query(WHO).await.value(), "acme");
    cluster.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_advisory_unlock_all() FROM PUBLIC").await;
    for batch in [
        message::query("INSERT INTO imports VALUES ('unwiped')"),
        [message::unnamed("INSERT INTO imports VALUES ('unwiped')", &[]), message::sync()].concat(),
        message::query("BEGIN; INSERT INTO imports VALUES ('unwiped'); COMMIT"),
    ] {
        // Every server is handed over, and none can be reset.
        assert_eq!(globex.ask(batch).await.code().as_deref(), Some("08006"));
        assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
    }
    cluster.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_unlock_all() TO PUBLIC").await;
    assert_eq!(globex.query(WHO).await.value(), "globex");
    assert!(proxy.log().contains("a server could not be reset"), "the fault was provoked");
}

#[tokio::test]
async fn a_text_prepared_without_a_guard_is_read_by_each_clients_own_rules() {
    let (_cluster, proxy) = one_server().await;
    let choose = "SELECT set_config('app.tenant_id', $1, true)";
    let mut migrate = proxy.link("migrate").await;
    let prepared = migrate.ask([message::parse("same", choose), message::sync()].concat()).await;
    assert_eq!(prepared.code(), None, "a maintenance user may: {prepared}");
    let mut acme = proxy.link("acme_app").await;
    let batch = [
        message::parse("same", choose),
        message::bind("", "same", &["globex"]),
        message::execute("", 0),
        message::unnamed("SELECT tenant_id FROM notes", &[]),
        message::sync(),
    ];
    let answer = acme.ask(batch.concat()).await;
    assert_eq!(answer.code().as_deref(), Some("42501"), "{answer}");
    assert!(!answer.column().contains(&"globex".to_owned()), "{answer}");
    // The other way round: a tenant's reading does not bind the maintenance user.
    let own = [message::bind("", "same", &["globex"]), message::execute("", 0), message::sync()].concat();
    assert_eq!(migrate.ask(own).await.code(), None);
}

#[tokio::test]
async fn a_pipeline_that_fails_in_front_of_a_second_transaction_costs_no_server() {
    let (_cluster, proxy) = one_server().await;
    let mut acme = proxy.link("acme_app").await;
    let server = acme.query("SELECT pg_backend_pid()").await.value();
    for _ in 0..3 {
        let batch = [
            message::unnamed("SELECT 1/0", &[]),
            message::unnamed("COMMIT", &[]),
            message::unnamed("SELECT tenant_id FROM notes", &[]),
            message::sync(),
        ];
        assert_eq!(acme.ask(batch.concat()).await.code().as_deref(), Some("22012"));
        assert_eq!(acme.query(WHO).await.value(), "acme");
        assert_eq!(acme.query("SELECT pg_backend_pid()").await.value(), server);
    }
}
