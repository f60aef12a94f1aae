//! The ways in which applications choose the tenant of a gateway user, and for how long.

use crate::protect::{KEY, install, sealed};
use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

/// Proxies in both modes, each with a cluster of its own.
async fn both(edit: impl Fn(&mut Config)) -> Vec<(Cluster, Proxy)> {
    let mut all = Vec::new();
    for is_sealed in [false, true] {
        let cluster = Cluster::start().await;
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
