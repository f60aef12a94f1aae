//! The ways in which applications choose the tenant of a gateway user, and for how long.

use crate::protect::{KEY, install, sealed};
use crate::support::config::Config;

use crate::support::{Cluster, Fault, Link, Proxy, message};

pub(crate) const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

/// Proxies in both modes, each with a cluster of its own.
pub(crate) async fn both(edit: impl Fn(&mut Config)) -> Vec<(Cluster, Proxy)> {
    both_with("", edit).await
}

/// The same, with more in the clusters.
pub(crate) async fn both_with(sql: &str, edit: impl Fn(&mut Config)) -> Vec<(Cluster, Proxy)> {
    let mut all = Vec::new();
    for is_sealed in [false, true] {
        let cluster = Cluster::start().await;
        cluster.execute(sql).await;
        if is_sealed {
            install(&cluster);
        }
        let proxy = Proxy::start(&cluster, |config| {
            if is_sealed {
                sealed(config, KEY);
            }
            edit(config);
        })
        .await;
        all.push((cluster, proxy));
    }
    all
}

async fn holds_for_its_block(link: &mut Link, front: &[&str], choice: &str) {
    for text in front.iter().chain([&choice]) {
        assert!(link.query(text).await.code().is_none(), "{text}");
    }
    assert_eq!(link.query(WHO).await.value(), "acme", "{choice}");
    assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{choice}");
}

#[tokio::test]
async fn a_choice_of_a_transaction_is_gone_behind_it_whatever_its_form() {
    for (_cluster, proxy) in both(|config| {
        config.one_server();
        config.set_user("any", "choice", "transaction");
    })
    .await
    {
        let mut link = proxy.link("any").await;
        for choice in [
            "SET app.tenant_id = 'acme'",
            "SELECT set_config('app.tenant_id', 'acme', false)",
            "SET app.tenant_id = 'acme'; SET app.user_id = '7'",
            "SELECT set_config('app.tenant_id', 'acme', false), set_config('app.user_id', '7', false)",
        ] {
            // Outside a block: for the very next transaction.
            assert!(link.query(choice).await.code().is_none(), "{choice}");
            assert_eq!(link.query(WHO).await.value(), "acme", "{choice}");
            assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{choice}");
            // A block is one transaction.
            link.query(choice).await;
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
            assert_eq!(link.query(WHO).await.value(), "acme", "{choice}");
            assert_eq!(link.query(WHO).await.value(), "acme", "{choice}");
            assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
            assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{choice}");
            // In a block, also behind its first statement.
            holds_for_its_block(&mut link, &["BEGIN"], choice).await;
            if !choice.contains("app.user_id") {
                holds_for_its_block(&mut link, &["BEGIN", "SELECT 1"], choice).await;
            }
            // A failure uses it up, and so does a block in which nothing ran.
            for text in ["SELECT 1/0", "LOCK notes", "BEGIN; COMMIT"] {
                link.query(choice).await;
                link.query(text).await;
                assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{choice} {text}");
            }
            link.query(choice).await;
            link.query("BEGIN").await;
            link.query("COMMIT").await;
            assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{choice}");
        }
        // The tenant of the login stays.
        let mut own = proxy.link("any.globex").await;
        own.query("SET app.tenant_id = 'acme'").await;
        assert_eq!(own.query(WHO).await.value(), "acme");
        assert_eq!(own.query(WHO).await.value(), "globex");
        own.query("SET app.tenant_id = 'acme'").await;
        own.query("RESET app.tenant_id").await;
        assert_eq!(own.query(WHO).await.value(), "globex");
    }
}

#[tokio::test]
async fn a_choice_of_a_transaction_waits_while_its_statement_is_prepared() {
    for (_cluster, proxy) in both(|config| {
        config.one_server();
        config.set_user("any", "choice", "transaction");
    })
    .await
    {
        let mut link = proxy.link("any").await;
        for round in 0..3 {
            let choice = link.extended("SELECT set_config('app.tenant_id', $1, false)", &["acme"]).await;
            assert_eq!(choice.value(), "acme");
            let name = format!("s{round}");
            let prepared = [message::parse(&name, WHO), message::sync()].concat();
            assert_eq!(link.ask(prepared).await, "1 Z(I)");
            let run = [message::rerun(&name, &[]), message::sync()].concat();
            assert_eq!(link.ask(run.clone()).await.value(), "acme");
            assert_eq!(link.ask(run).await.code().as_deref(), Some("28000"));
        }
        // Sent ahead: a choice in the segment of its statement is that transaction's.
        let ahead = [
            message::unnamed("SET app.tenant_id = 'globex'", &[]),
            message::unnamed(WHO, &[]),
            message::sync(),
            message::unnamed(WHO, &[]),
            message::sync(),
        ];
        link.send(ahead.concat()).await;
        assert_eq!(link.answer().await.value(), "globex");
        assert_eq!(link.answer().await.code().as_deref(), Some("28000"));
        // A statement that would pin has no tenant behind its transaction.
        link.query("SET app.tenant_id = 'globex'").await;
        assert_eq!(link.query("CREATE TEMP TABLE t (a int)").await, "E(0A000) Z(I)");
    }
}

/// Parse, Bind and Execute of one statement, with its values and results in binary; NULL where there is none.
fn binary(text: &str, values: &[Option<&[u8]>]) -> Vec<u8> {
    let count = u16::try_from(values.len()).unwrap().to_be_bytes();
    let mut body = [&b"\0\0\0\x01\0\x01"[..], &count].concat();
    for value in values {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        body.extend(length.to_be_bytes());
        body.extend(value.unwrap_or_default());
    }
    body.extend([0, 1, 0, 1]);
    [message::parse("", text), message::raw(b'B', &body), message::execute("", 0), message::sync()].concat()
}

const BOUND: &str = "SELECT set_config($1, $2, true)";

#[tokio::test]
async fn a_setting_named_by_a_parameter_chooses_if_it_is_the_tenants() {
    for (_cluster, proxy) in both(|config| {
        config.one_server();
        config.set("defaults.queue_timeout", "300ms");
    })
    .await
    {
        let mut busy = proxy.link("globex_app").await;
        let mut link = proxy.link("any").await;
        for (text, values) in [
            (BOUND, vec!["app.tenant_id", "acme"]),
            (BOUND, vec!["App.Tenant_ID", "acme"]),
            (
                "select pg_catalog.set_config($1::text, $2::varchar, $3) as t;",
                vec!["app.tenant_id", "acme", "t"],
            ),
            ("SELECT set_config($2, $1, 'on')", vec!["acme", "app.tenant_id"]),
        ] {
            // No server is needed for the choice.
            busy.query("BEGIN").await;
            busy.query(WHO).await;
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
            assert_eq!(link.extended(text, &values).await.value(), "acme", "{text}");
            busy.query("COMMIT").await;
            assert_eq!(link.query(WHO).await.value(), "acme", "{text}");
            assert_eq!(link.query("SELECT current_setting('app.tenant_id')").await.value(), "acme", "{text}");
            assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
            assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{text}");
            // Behind a statement of its block.
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
            link.query("SELECT 1").await;
            assert_eq!(link.extended(text, &values).await.value(), "acme", "{text}");
            assert_eq!(link.query(WHO).await.value(), "acme", "{text}");
            assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
        }
        // In binary, and for the session.
        let values = [Some(&b"app.tenant_id"[..]), Some(b"acme"), Some(b"\0")];
        assert_eq!(link.ask(binary("SELECT set_config($1, $2, $3)", &values)).await.value(), "acme");
        assert_eq!(link.query(WHO).await.value(), "acme");
        assert_eq!(link.query("RESET app.tenant_id").await, "C(RESET) Z(I)");
        // Prepared once, and run for the tenant of each request.
        let prepared =
            [message::parse("s", BOUND), message::describe_statement("s"), message::sync()].concat();
        assert_eq!(link.ask(prepared).await, "1 t(25,25) T(set_config) Z(I)");
        for tenant in ["acme", "globex", "acme"] {
            link.query("BEGIN").await;
            let run = [message::rerun("s", &["app.tenant_id", tenant]), message::sync()].concat();
            assert_eq!(link.ask(run).await.value(), tenant);
            assert_eq!(link.query(WHO).await.value(), tenant);
            let run = [message::rerun("s", &["app.user_id", "7"]), message::sync()].concat();
            assert_eq!(link.ask(run).await.value(), "7");
            assert_eq!(link.query("SELECT current_setting('app.user_id')").await.value(), "7");
            assert_eq!(link.query(WHO).await.value(), tenant);
            link.query("COMMIT").await;
        }
    }
}

#[tokio::test]
async fn a_setting_named_by_a_parameter_is_one_like_any_other() {
    for (_cluster, proxy) in both(|config| config.one_server()).await {
        let mut other = proxy.link("globex_app").await;
        for user in ["any", "acme_app"] {
            let mut link = proxy.link(user).await;
            link.query("BEGIN").await;
            assert_eq!(link.extended(BOUND, &["app.user_id", "7"]).await.value(), "7");
            assert_eq!(link.query("SELECT current_setting('app.user_id')").await.value(), "7");
            link.query("COMMIT").await;
            // For the session it is carried to the next server.
            let session = "SELECT set_config($1, $2, false)";
            assert_eq!(link.extended(session, &["Statement_Timeout", "77s"]).await.value(), "77s");
            other.query(WHO).await;
            assert_eq!(link.query("SHOW statement_timeout").await.value(), "77s");
            // PostgreSQL's own words for what is no setting.
            let null = [None, Some(&b"acme"[..])];
            assert_eq!(link.ask(binary(BOUND, &null)).await.code().as_deref(), Some("22004"));
            assert_eq!(link.extended(BOUND, &["no_such", "7"]).await.code().as_deref(), Some("42704"));
            assert_eq!(link.query(BOUND).await.code().as_deref(), Some("42P02"), "no value is bound");
        }
        let mut link = proxy.link("any").await;
        let two = "SELECT set_config($1, $2, true), set_config($3, $4, true) AS u";
        link.query("BEGIN").await;
        let set = link.extended(two, &["app.user_id", "8", "app.tenant_id", "acme"]).await;
        assert!(set.to_string().contains("D(8,acme)"), "{set}");
        assert_eq!(link.query(WHO).await.value(), "acme");
        link.query("COMMIT").await;
        let mixed = "SELECT set_config('app.tenant_id', $1, true), set_config($2, $3, true)";
        link.query("BEGIN").await;
        let set = link.extended(mixed, &["globex", "app.user_id", "9"]).await;
        assert!(set.to_string().contains("D(globex,9)"), "{set}");
        assert_eq!(link.query(WHO).await.value(), "globex");
        assert_eq!(link.query("SELECT current_setting('app.user_id')").await.value(), "9");
        link.query("COMMIT").await;
    }
}

#[tokio::test]
async fn a_parameter_names_no_setting_that_a_literal_may_not() {
    for (_cluster, proxy) in both(|config| config.one_server()).await {
        for user in ["api", "acme_app"] {
            let mut link = proxy.link(user).await;
            for (text, values, code) in [
                (BOUND, vec!["role", "app_owner"], "42501"),
                (BOUND, vec!["Session_Authorization", "app_owner"], "42501"),
                (BOUND, vec!["pgtenant.nonce", "x"], "42501"),
                (BOUND, vec!["PgTenant.proof", "x"], "42501"),
                (BOUND, vec!["enable_seqscan", "off"], "42501"),
                (BOUND, vec!["client_connection_check_interval", "0"], "42501"),
                (BOUND, vec!["client_encoding", "sjis"], "42501"),
                (BOUND, vec!["standard_conforming_strings", "off"], "42501"),
                (BOUND, vec!["search_path", "pgtenant, public"], "42501"),
                (BOUND, vec!["app.tenant_\u{131}d", "initech"], "42501"),
                (
                    "SELECT set_config($1, $2, true), set_config($3, $4, true)",
                    vec!["app.user_id", "7", "role", "app_owner"],
                    "42501",
                ),
                // What becomes of the parameter, or of the call, is not in plain sight.
                ("SELECT set_config($1 || '', $2, true)", vec!["app.user_id", "x"], "42501"),
                ("SELECT set_config($1::bpchar, $2, true)", vec!["app.user_id", "x"], "42501"),
                ("SELECT $1::bpchar, set_config($1, $2, true)", vec!["app.user_id", "x"], "42501"),
                ("SELECT set_config($1, $2, true) FROM notes", vec!["app.user_id", "x"], "42501"),
                (
                    "SELECT set_config($1, $2, true), (SELECT body FROM notes LIMIT 1)",
                    vec!["app.user_id", "x"],
                    "42501",
                ),
                ("SELECT set_config($1, current_user::text, true)", vec!["app.user_id"], "42501"),
                ("SELECT 1; SELECT set_config($1, $2, true)", vec!["app.user_id", "x"], "42501"),
                ("PREPARE p AS SELECT set_config($1, $2, true)", vec![], "42501"),
            ] {
                let got = link.extended(text, &values).await;
                assert_eq!(got.code().as_deref(), Some(code), "{user}: {text} {values:?}: {got}");
            }
            // Another tenant's.
            let choice = link.extended(BOUND, &["app.tenant_id", "initech"]).await;
            let code = if user == "api" { "28000" } else { "42501" };
            assert_eq!(choice.code().as_deref(), Some(code), "{user}: {choice}");
            let nobody = link.extended(BOUND, &["app.tenant_id", ""]).await;
            assert_eq!(nobody.code().as_deref(), Some("0A000"), "{user}: {nobody}");
            let nobody = link.ask(binary(BOUND, &[Some(b"app.tenant_id"), None])).await;
            assert_eq!(nobody.code().as_deref(), Some("0A000"), "{user}: {nobody}");
            let two = "SELECT set_config($1, $2, true), set_config($1, $3, true)";
            let choice = link.extended(two, &["app.tenant_id", "acme", "initech"]).await;
            assert!(choice.code().is_some(), "{user}: {choice}");
            let typed = [0, 2, 0, 0, 4, 18, 0, 0, 0, 25];
            let parse = message::raw(b'P', &[b"\0", BOUND.as_bytes(), b"\0", &typed].concat());
            let bind = message::bind("", "", &["app.tenant_id", "acme"]);
            let declared = [parse, bind, message::execute("", 0), message::sync()].concat();
            assert!(link.ask(declared).await.code().is_some(), "a parameter of type bpchar");
        }
        let mut bound = proxy.link("acme_app").await;
        bound.query("BEGIN").await;
        assert_eq!(bound.extended(BOUND, &["app.tenant_id", "acme"]).await.value(), "acme", "its own");
        assert_eq!(bound.query(WHO).await.value(), "acme");
    }
}

#[tokio::test]
async fn a_choice_that_is_prepared_or_bound_and_not_run_chooses_nothing() {
    let two = "SELECT set_config('app.tenant_id', 'acme', false), set_config('app.user_id', '7', false)";
    for (_cluster, proxy) in both(|_| {}).await {
        let mut link = proxy.link("any").await;
        for (name, bytes) in [
            (
                "prepared",
                [message::parse("", two), message::describe_statement(""), message::sync()].concat(),
            ),
            ("bound", [message::parse("", two), message::bind("", "", &[]), message::sync()].concat()),
        ] {
            assert!(link.ask(bytes).await.code().is_none(), "{name}");
            assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{name}");
        }
        assert!(link.extended(two, &[]).await.code().is_none());
        assert_eq!(link.query(WHO).await.value(), "acme");
    }
}

#[tokio::test]
async fn a_block_that_returns_to_the_login_gives_its_server_back() {
    for (_cluster, proxy) in both(|config| config.one_server()).await {
        let mut link = proxy.link("any").await;
        for text in ["BEGIN", "SET app.tenant_id = 'acme'", "SELECT 1", "RESET ALL", "COMMIT"] {
            assert!(link.query(text).await.code().is_none(), "{text}");
        }
        assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
        // The only server is free for another tenant, and is that tenant's.
        assert_eq!(proxy.link("globex_app").await.query(WHO).await.value(), "globex");
        assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
    }
}

#[tokio::test]
async fn a_tenant_bound_to_a_parameter_of_a_shorter_type_is_not_another_tenant() {
    for (cluster, proxy) in both(|config| {
        config.one_server();
        config.add_tenant("a");
    })
    .await
    {
        cluster.execute("INSERT INTO notes (tenant_id, body) VALUES ('a', 'of a')").await;
        for user in ["api", "acme_app"] {
            let mut link = proxy.link(user).await;
            for text in [
                "SELECT $1::\"char\", set_config('app.tenant_id', $1, true)",
                "SELECT CAST($1 AS pg_catalog.\"char\"), set_config('app.tenant_id', $1, true)",
                "SELECT set_config('app.tenant_id', $1, true) FROM (SELECT $1::\"char\") x",
            ] {
                link.query("BEGIN").await;
                let set = link.extended(text, &["acme"]).await;
                let seen = link.query(WHO).await;
                assert!(set.code().is_some() || seen.value() == "acme", "{user}: {text}: {set}: {seen}");
                link.query("ROLLBACK").await;
            }
        }
    }
}

#[tokio::test]
async fn a_form_that_cannot_be_read_is_refused_with_the_forms_that_can() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let forms = ["SET LOCAL setting = '…'", "set_config('setting', $1, true)", "set_config($1, $2, true)"];
    let hint = |fault: &Fault| fault.hint.clone().unwrap_or_default();
    for text in [
        "SELECT set_config('app.' || 'tenant_id', 'acme', true)",
        "SELECT set_config('app.tenant_id', lower('ACME'), true)",
        "SELECT body FROM notes; SET app.tenant_id = 'acme'",
        "SET app.tenant_id FROM CURRENT",
    ] {
        let mut gateway = proxy.link("any").await;
        let fault = gateway.query(text).await.fault();
        assert_eq!(fault.code, "42501", "{text}");
        assert!(
            fault.detail.as_ref().is_some_and(|detail| detail.ends_with("setting is app.tenant_id")),
            "{fault:?}"
        );
        assert!(forms.iter().all(|form| hint(&fault).contains(form)), "{text}: {}", hint(&fault));
        let mut bound = proxy.link("acme_app").await;
        let fault = bound.query(text).await.fault();
        assert!(forms.iter().all(|form| !hint(&fault).contains(form)), "{text}: {}", hint(&fault));
    }
    // What is no choice keeps the rule's own hint.
    let mut gateway = proxy.link("any").await;
    let fault = gateway.query("SET pgtenant.nonce = 'x'").await.fault();
    assert!(!hint(&fault).contains("set_config"), "{}", hint(&fault));
}

/// What chooses, with its values, and what gives the tenant up.
const PAIRS: [(&str, &[&str], &str); 9] = [
    // Hibernate, Marten: at check-out and at release.
    ("SET app.tenant_id TO 'acme'", &[], "RESET app.tenant_id"),
    ("SET SESSION app.tenant_id = acme", &[], "SET app.tenant_id TO DEFAULT"),
    // Nile: a tenant and a user, in one text or one statement.
    ("SET app.tenant_id = 'acme'; SET app.user_id = '7'", &[], "RESET app.tenant_id; RESET app.user_id"),
    ("SET app.user_id = '7'; SET app.tenant_id = 'acme';", &[], "RESET app.user_id; RESET app.tenant_id;"),
    (
        "SET app.tenant_id = 'acme'; SET app.user_id = '7'",
        &[],
        "SET app.tenant_id TO DEFAULT; SET app.user_id TO DEFAULT",
    ),
    (
        "SET app.tenant_id = 'acme'; SET app.user_id = '7'",
        &[],
        "SET app.tenant_id = ''; SET app.user_id = ''",
    ),
    (
        "SET app.tenant_id = 'acme'; SET app.user_id = '7'",
        &[],
        "SELECT set_config('app.tenant_id', '', false), set_config('app.user_id', '', false)",
    ),
    (
        "SELECT set_config('app.tenant_id', $1, false), set_config('app.user_id', $2, false)",
        &["acme", "7"],
        "RESET ALL",
    ),
    (
        "SELECT set_config('app.tenant_id', $1, false) AS t, set_config('app.user_id', $2, false) AS u",
        &["acme", "7"],
        "DISCARD ALL",
    ),
];

#[tokio::test]
async fn settings_that_go_with_the_tenant_are_set_and_reset_with_it() {
    for (_cluster, proxy) in both(|config| config.one_server()).await {
        let mut other = proxy.link("globex_app").await;
        let mut link = proxy.link("any").await;
        for (set, values, reset) in PAIRS {
            let chosen =
                if values.is_empty() { link.query(set).await } else { link.extended(set, values).await };
            assert!(chosen.code().is_none(), "{set}: {chosen}");
            other.query(WHO).await;
            assert_eq!(link.query(WHO).await.value(), "acme", "{set}");
            if set.contains("user_id") {
                let user = link.query("SELECT current_setting('app.user_id')").await;
                assert_eq!(user.value(), "7", "{set}");
            }
            let released = link.query(reset).await;
            assert!(released.code().is_none(), "{reset}: {released}");
            assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{reset}");
            other.query(WHO).await;
            let user = link.query("SELECT current_setting('app.user_id', true)").await;
            assert!(user.code().is_some() || user.value() != "7", "{reset}: {user}");
        }
        // In a block, and undone with it.
        link.query("BEGIN").await;
        assert_eq!(
            link.query("SET LOCAL app.tenant_id = 'acme'; SET LOCAL app.user_id = '8'").await,
            "C(SET) C(SET) Z(T)"
        );
        assert_eq!(link.query(WHO).await.value(), "acme");
        link.query("ROLLBACK").await;
        assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
        // Who has a tenant by its login is not left without one.
        for user in ["any.acme", "acme_app"] {
            let mut own = proxy.link(user).await;
            let reset = own.query("RESET app.tenant_id; RESET app.user_id").await;
            assert!(reset.code().is_some(), "{user}: {reset}");
            assert_eq!(own.query(WHO).await.value(), "acme");
        }
        let reads = link.query(&format!("RESET app.tenant_id; {WHO}")).await;
        assert!(reads.code().is_some(), "{reads}");
    }
}

/// PostGraphile's.
const PAIRED: &str = "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el";

#[tokio::test]
async fn settings_in_an_array_of_json_choose_if_the_tenants_is_among_them() {
    for (_cluster, proxy) in both(|config| config.one_server()).await {
        let mut other = proxy.link("globex_app").await;
        let mut link = proxy.link("any").await;
        for text in [
            PAIRED,
            "SELECT pg_catalog.set_config(\"x\" ->> 0, x->>1, TRUE)\nFROM pg_catalog.json_array_elements( $1 :: JSON ) AS X;",
        ] {
            for pairs in [
                r#"[["app.tenant_id","acme"],["app.user_id","7"]]"#,
                r#" [ ["App.User_Id", "7"], ["app.tenant\u005fid", "ac\u006de"], ["APP.TENANT_ID", "acme"] ] "#,
            ] {
                other.query(WHO).await;
                link.query("BEGIN").await;
                let set = link.extended(text, &[pairs]).await;
                assert!(set.code().is_none(), "{text}: {pairs}: {set}");
                assert_eq!(link.query(WHO).await.value(), "acme", "{text}: {pairs}");
                assert_eq!(link.query("SELECT current_setting('app.user_id')").await.value(), "7");
                assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
                assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
            }
        }
        // Prepared once, for each request; behind a statement of its block; without a tenant among them.
        let prepared =
            [message::parse("s", PAIRED), message::describe_statement("s"), message::sync()].concat();
        assert_eq!(link.ask(prepared).await, "1 t(114) T(set_config) Z(I)");
        for tenant in ["acme", "globex", "acme"] {
            link.query("BEGIN").await;
            link.query("SELECT 1").await;
            let pairs = format!(r#"[["app.tenant_id","{tenant}"]]"#);
            assert_eq!(
                link.ask([message::rerun("s", &[&pairs]), message::sync()].concat()).await.value(),
                tenant
            );
            let pairs = r#"[["app.user_id","9"],["statement_timeout","50s"]]"#;
            let set = link.ask([message::rerun("s", &[pairs]), message::sync()].concat()).await;
            assert_eq!(set.column(), ["9", "50s"], "{set}");
            assert_eq!(link.query(WHO).await.value(), tenant);
            link.query("COMMIT").await;
        }
        assert_eq!(link.extended(PAIRED, &["[]"]).await.column(), [""; 0]);
    }
}

#[tokio::test]
async fn settings_in_an_array_of_json_are_read_exactly_or_refused() {
    for (_cluster, proxy) in both(|config| config.one_server()).await {
        for user in ["api", "acme_app"] {
            let mut link = proxy.link(user).await;
            for (text, pairs) in [
                (PAIRED, r#"[["app.tenant_id","initech"]]"#),
                (PAIRED, r#"[["app.tenant_id","acme"],["app.tenant\u005fid","initech"]]"#),
                (PAIRED, r#"[["app.tenant_id","initech"],["app.tenant_id","acme"]]"#),
                (PAIRED, r#"[["app.tenant_id",""]]"#),
                (PAIRED, r#"[["app.tenant_id",null]]"#),
                (PAIRED, r#"[["app.tenant_id",7]]"#),
                (PAIRED, r#"[["app.tenant_id"]]"#),
                (PAIRED, r#"[["app.user_id","7","app.tenant_id"]]"#),
                (PAIRED, r#"[{"0":"app.tenant_id","1":"initech"}]"#),
                (PAIRED, r#"[["role","app_owner"]]"#),
                (PAIRED, r#"[["app.user_id","7"],["pgtenant.nonce","x"]]"#),
                (PAIRED, r#"[["app.tenant_id","acme"]] x"#),
                (PAIRED, "nonsense"),
                ("select set_config(el->>0, el->>1, false) from json_array_elements($1::json) el", "[]"),
                ("select set_config(el->>1, el->>0, true) from json_array_elements($1::json) el", "[]"),
                ("select set_config(el->>0, el->>1, true) from json_array_elements($1::jsonb) el", "[]"),
                (
                    "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el, notes",
                    "[]",
                ),
                (
                    "select set_config(el->>0, el->>1, true) from json_array_elements(replace($1,'x','y')::json) el",
                    "[]",
                ),
                (
                    "select set_config(el->>0, el->>1, true) from public.json_array_elements($1::json) el",
                    "[]",
                ),
                ("select set_config(el->>0, e->>1, true) from json_array_elements($1::json) el", "[]"),
            ] {
                let refused = link.extended(text, &[pairs]).await;
                let codes = ["28000", "42501", "0A000", "22023"];
                let code = refused.code().unwrap_or_default();
                assert!(codes.contains(&code.as_str()), "{user}: {text}: {pairs}: {refused}");
            }
            let typed = [0, 1, 0, 0, 0x0e, 0xda];
            let parse = message::raw(b'P', &[b"\0", PAIRED.as_bytes(), b"\0", &typed].concat());
            let bind = message::bind("", "", &[r#"[["app.tenant_id","initech"]]"#]);
            let declared = [parse, bind, message::execute("", 0), message::sync()].concat();
            assert!(link.ask(declared).await.code().is_some(), "a parameter of type jsonb");
        }
        let mut bound = proxy.link("acme_app").await;
        bound.query("BEGIN").await;
        let set = bound.extended(PAIRED, &[r#"[["app.tenant_id","acme"],["app.user_id","7"]]"#]).await;
        assert!(set.code().is_none(), "its own tenant: {set}");
        assert_eq!(bound.query(WHO).await.value(), "acme");
    }
}

#[tokio::test]
async fn a_choice_waits_until_it_is_known_whether_it_runs() {
    let two = "SELECT set_config('app.tenant_id', 'acme', false), set_config('app.user_id', '7', false)";
    for (_cluster, proxy) in both(|_| {}).await {
        let mut link = proxy.link("any").await;
        // Each message in a write of its own.
        for (rest, chosen) in [
            (vec![message::sync()], None),
            (vec![message::bind("", "", &[]), message::sync()], None),
            (vec![message::bind("", "", &[]), message::execute("", 0), message::sync()], Some("acme")),
        ] {
            link.send(message::parse("", two)).await;
            for bytes in rest {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                link.send(bytes).await;
            }
            assert!(link.answer().await.code().is_none());
            let answer = link.query(WHO).await;
            match chosen {
                Some(tenant) => assert_eq!(answer.value(), tenant),
                None => assert_eq!(answer.code().as_deref(), Some("28000")),
            }
        }
    }
}
