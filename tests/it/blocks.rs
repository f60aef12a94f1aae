//! A transaction block waits for its first statement: until then it holds no server, and a choice of tenant in it neither.

use crate::support::{Cluster, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

#[tokio::test]
async fn a_client_that_is_idle_in_a_block_in_which_nothing_ran_holds_no_server() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut link = proxy.link("acme_app").await;
        assert_eq!(link.query("BEGIN ISOLATION LEVEL REPEATABLE READ").await, "C(BEGIN) Z(T)");
        idle.push(link);
    }
    let mut other = proxy.link("globex_app").await;
    assert_eq!(other.query(WHO).await.value(), "globex");
    for mut link in idle {
        assert_eq!(link.query(WHO).await.value(), "acme");
        assert_eq!(link.query("SHOW transaction_isolation").await.value(), "repeatable read");
        assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
    }
}

#[tokio::test]
async fn a_block_is_what_it_is_without_a_proxy() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    let scripts: &[&[&str]] = &[
        &["BEGIN", "COMMIT", "COMMIT"],
        &["START TRANSACTION READ ONLY", "SHOW transaction_read_only", "ROLLBACK"],
        &[
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "SET TRANSACTION READ ONLY",
            "SHOW transaction_isolation",
            "END",
        ],
        &["BEGIN", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SHOW transaction_isolation", "ABORT"],
        &["BEGIN", "", "SELECT 1", "COMMIT"],
        &["BEGIN", "SELECT 1/0", "SELECT 1", "COMMIT"],
        &["BEGIN", "SELECT 1 1", "SELECT 1", "ROLLBACK", "SELECT 2"],
        &["BEGIN", "SELECT 1 1", "COMMIT", "SELECT 2"],
        &["BEGIN", "BEGIN", "COMMIT"],
        &["BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "SELECT 1", "COMMIT"],
        &["BEGIN", "SELECT 1; COMMIT; SELECT 2", "SELECT 3"],
        &["BEGIN", "SELECT 1; SELECT 1/0; SELECT 2", "ROLLBACK"],
        &["BEGIN", "DISCARD ALL", "ROLLBACK"],
        &["BEGIN", "COMMIT AND CHAIN", "SELECT 1", "ROLLBACK"],
        &["BEGIN", "DECLARE c CURSOR FOR SELECT 1", "FETCH ALL c", "COMMIT"],
        &["BEGIN", "INSERT INTO notes (body) VALUES ('x')", "ROLLBACK"],
    ];
    for script in scripts {
        let (mut through, mut direct) = (proxy.link("acme_app").await, cluster.link("acme").await);
        for text in *script {
            let (got, wanted) = (through.query(text).await, direct.query(text).await);
            assert_eq!(got.to_string(), wanted.to_string(), "{script:?} at {text:?}");
        }
    }
    // By the extended protocol: one statement in each.
    for script in scripts {
        let (mut through, mut direct) = (proxy.link("acme_app").await, cluster.link("acme").await);
        for text in script.iter().take_while(|text| !text.contains(';')) {
            let (got, wanted) = (through.extended(text, &[]).await, direct.extended(text, &[]).await);
            assert_eq!(got.to_string(), wanted.to_string(), "{script:?} at {text:?}, extended");
        }
    }
}

#[tokio::test]
async fn an_unchanged_gateway_application_runs_for_its_tenant_only() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let (mut one, mut other) = (proxy.link("any").await, proxy.link("any").await);
    for round in 0..3 {
        for (link, tenant) in [(&mut one, "acme"), (&mut other, "globex")] {
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)", "{round}");
            let choice = format!("SELECT set_config('app.tenant_id', '{tenant}', true)");
            let chosen = match round {
                0 => link.query(&choice).await,
                1 => link.extended(&choice, &[]).await,
                _ => link.extended("SELECT set_config('app.tenant_id', $1, true)", &[tenant]).await,
            };
            assert_eq!(chosen.value(), tenant);
        }
        for (link, tenant) in [(&mut one, "acme"), (&mut other, "globex")] {
            assert_eq!(link.query(WHO).await.value(), tenant);
            assert_eq!(link.query("SELECT current_setting('app.tenant_id')").await.value(), tenant);
            assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
        }
    }
    assert_eq!(one.query(WHO).await.code().as_deref(), Some("28000"), "the choice was for the block");
}

#[tokio::test]
async fn a_choice_that_is_refused_leaves_the_block_failed() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("api").await;
    link.query("BEGIN").await;
    assert_eq!(link.query("SET LOCAL app.tenant_id = 'no_such_tenant'").await, "E(28000) Z(E)");
    assert_eq!(link.query("SELECT 1").await, "E(25P02) Z(E)");
    assert_eq!(link.query("COMMIT").await, "C(ROLLBACK) Z(I)");
    link.query("BEGIN").await;
    assert_eq!(link.query(WHO).await, "E(28000) Z(E)", "no tenant was chosen");
    assert_eq!(link.extended("SELECT 1", &[]).await, "E(25P02) Z(E)");
    assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
}

#[tokio::test]
async fn a_block_that_gets_no_server_has_failed() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("defaults.queue_timeout", "200ms");
    })
    .await;
    let (mut busy, mut waits) = (proxy.link("acme_app").await, proxy.link("globex_app").await);
    busy.query("BEGIN").await;
    busy.query("SELECT 1").await;
    assert_eq!(waits.query("BEGIN").await, "C(BEGIN) Z(T)");
    assert_eq!(waits.query("INSERT INTO notes (body) VALUES ('one')").await, "E(53300) Z(E)");
    busy.query("COMMIT").await;
    assert_eq!(waits.query("INSERT INTO notes (body) VALUES ('two')").await, "E(25P02) Z(E)");
    assert_eq!(waits.query("COMMIT").await, "C(ROLLBACK) Z(I)");
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body IN ('one', 'two')").await, "0");
}

#[tokio::test]
async fn two_clients_of_a_tenant_at_its_limit_wait_however_they_chose_it() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set_tenant("acme", "max_servers", 1);
    })
    .await;
    let (mut first, mut second) = (proxy.link("any").await, proxy.link("any").await);
    for link in [&mut first, &mut second] {
        link.query("BEGIN").await;
        assert_eq!(link.query("SET LOCAL app.tenant_id = 'acme'").await, "C(SET) Z(T)");
    }
    assert_eq!(first.query(WHO).await.value(), "acme");
    second.send(message::query(WHO)).await;
    assert!(second.stays_silent(std::time::Duration::from_millis(300)).await);
    first.query("COMMIT").await;
    assert_eq!(second.answer().await.value(), "acme");
}

#[tokio::test]
async fn the_limit_of_idle_transactions_holds_for_a_block_without_a_server() {
    let cluster = Cluster::start().await;
    let proxy =
        Proxy::start(&cluster, |config| config.set("defaults.idle_transaction_timeout", "300ms")).await;
    let mut link = proxy.link("acme_app").await;
    link.query("BEGIN").await;
    assert_eq!(link.closes().await.code().as_deref(), Some("25P03"));
    let mut between = proxy.link("acme_app").await;
    between.query("BEGIN").await;
    between.query("COMMIT").await;
    assert!(between.stays_silent(std::time::Duration::from_millis(600)).await);
    assert_eq!(between.query(WHO).await.value(), "acme");
}

#[tokio::test]
async fn texts_that_choose_among_statements_run_for_the_tenant_they_choose() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut other = proxy.link("globex_app").await;
    let mut link = proxy.link("any").await;
    let whole = format!("BEGIN; SET LOCAL app.tenant_id = 'acme'; {WHO}; COMMIT");
    assert_eq!(link.query(&whole).await.value(), "acme");
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "it was for the block");
    other.query(WHO).await;

    link.query("BEGIN").await;
    let two = "SELECT set_config('app.tenant_id', 'acme', true), set_config('app.user_id', '7', true)";
    let set = link.query(two).await;
    assert!(set.to_string().contains("D(acme,7)"), "{set}");
    assert_eq!(link.query(WHO).await.value(), "acme");
    assert_eq!(link.query("SELECT current_setting('app.user_id')").await.value(), "7");
    link.query("COMMIT").await;
    other.query(WHO).await;

    link.query("BEGIN").await;
    let bound = "SELECT set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)";
    let set = link.extended(bound, &["acme", "8"]).await;
    assert!(set.to_string().contains("D(acme,8)"), "{set}");
    assert_eq!(link.extended(WHO, &[]).await.value(), "acme");
    link.query("COMMIT").await;
    other.query(WHO).await;

    assert_eq!(link.query("SET app.tenant_id = 'acme'; SET app.user_id = '9'").await, "C(SET) C(SET) Z(I)");
    other.query(WHO).await;
    assert_eq!(link.query(WHO).await.value(), "acme", "for the session");
    assert_eq!(link.query("SELECT current_setting('app.user_id')").await.value(), "9");
}

#[tokio::test]
async fn a_text_that_chooses_wrongly_runs_for_nobody() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("api").await;
    for (text, code) in [
        (format!("SET app.tenant_id = 'initech'; {WHO}"), "28000"),
        (format!("SET app.tenant_id = 'acme'; SET app.tenant_id = 'globex'; {WHO}"), "0A000"),
        (format!("BEGIN; SET LOCAL app.tenant_id = 'acme'; COMMIT; {WHO}"), "0A000"),
        (format!("{WHO}; SET app.tenant_id = 'acme'"), "42501"),
    ] {
        assert_eq!(link.query(&text).await.code().as_deref(), Some(code), "{text}");
        assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{text}");
    }
    let mut bound = proxy.link("acme_app").await;
    let text = |tenant| format!("SET app.tenant_id = '{tenant}'; {WHO}");
    assert_eq!(bound.query(&text("globex")).await.code().as_deref(), Some("42501"), "whose tenant is fixed");
    assert_eq!(bound.query(&text("acme")).await.value(), "acme");
}
