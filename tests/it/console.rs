//! Operators see what happens and decide about tenants, and nobody else does; what they decide is the tenant's only.

use std::time::Duration;

use crate::support::config::Config;
use crate::support::{Cluster, Link, Proxy, message, within};

fn with_operator(config: &mut Config) {
    config.add_user("ops", "operator", true);
    config.set("upstream.main.pool_size", 4);
}

async fn console(proxy: &Proxy) -> Link {
    proxy.link_with("ops", &[("database", "pgtenant")]).await
}

/// The column of that name in each row.
async fn column(link: &mut Link, sql: &str, name: &str) -> Vec<String> {
    let answer = link.query(sql).await;
    assert_eq!(answer.code(), None, "{sql}: {answer}");
    let head = answer.0.iter().find(|frame| frame.tag == b'T').unwrap().to_string();
    let names: Vec<&str> = head[2..head.len() - 1].split(',').collect();
    let place = names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name} in {head}"));
    answer.0.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.values()[place].clone()).collect()
}

#[tokio::test]
async fn operators_reach_the_console_only_and_others_do_not_reach_it() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    assert!(ops.query("SHOW VERSION").await.value().starts_with("pgtenant "));
    for database in ["app", "postgres"] {
        let fault = proxy.login("ops", &[("database", database)]).await.err().unwrap();
        assert_eq!(fault.code, "28000", "{database}");
    }
    let fault = proxy.login("acme_app", &[("database", "pgtenant")]).await.err().unwrap();
    assert_eq!(fault.code, "3D000", "for others there is no such database");
    let mut tenant = proxy.link("acme_app").await;
    assert_eq!(tenant.query("SHOW POOLS").await.code().as_deref(), Some("42704"), "PostgreSQL's own answer");
    assert_eq!(ops.query("SELECT 1").await, "E(42601) Z(I)");
    assert_eq!(ops.query("").await, "I Z(I)");
    assert_eq!(ops.query("SET extra_float_digits = 2").await, "C(SET) Z(I)");
    ops.leave().await;
}

#[tokio::test]
async fn every_table_is_shown_by_both_protocols_and_says_what_is_so() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    let mut acme = proxy.link("acme_app").await;
    acme.hold().await;
    acme.query("SELECT 1").await;
    proxy.link("globex_app").await.query("EXPLAIN SELECT 1").await;
    let mut ops = console(&proxy).await;
    for table in column(&mut ops, "SHOW HELP", "command").await {
        if table.starts_with("SHOW ") {
            let simple = ops.query(&table).await;
            assert_eq!(simple.code(), None, "{table}: {simple}");
            let extended = ops.extended(&table, &[]).await;
            assert_eq!(extended.code(), None, "{table}: {extended}");
        }
    }
    assert_eq!(column(&mut ops, "SHOW POOLS", "cl_active").await, ["1"]);
    assert_eq!(column(&mut ops, "SHOW POOLS", "database").await, ["main"]);
    assert_eq!(column(&mut ops, "SHOW DATABASES", "pool_size").await, ["4"]);
    let users = column(&mut ops, "SHOW CLIENTS", "user").await;
    assert!(users.contains(&"acme_app".to_owned()) && users.contains(&"ops".to_owned()), "{users:?}");
    assert!(column(&mut ops, "SHOW CLIENTS", "state").await.contains(&"active".to_owned()));
    assert!(column(&mut ops, "SHOW SERVERS", "state").await.contains(&"active".to_owned()));
    assert_eq!(column(&mut ops, "SHOW TENANTS", "status").await, ["active"; 3]);
    assert_eq!(column(&mut ops, "SHOW TENANTS", "clients").await[0], "1");
    assert_eq!(column(&mut ops, "SHOW REFUSALS", "rule").await, ["explain"]);
    assert_ne!(column(&mut ops, "SHOW STATS", "total_query_count").await, ["0"]);
    assert_ne!(column(&mut ops, "SHOW STATS", "avg_query_time").await, ["0"]);
    let settings = ops.query("SHOW CONFIG").await.to_string();
    assert!(settings.contains("tenancy.setting,app.tenant_id") && !settings.contains("secret"), "{settings}");
}

#[tokio::test]
async fn users_are_shown_with_their_roles_and_their_choice() {
    let cluster = Cluster::start().await;
    cluster.execute("CREATE ROLE anon NOLOGIN; CREATE ROLE staff NOLOGIN; GRANT anon, staff TO app").await;
    let proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.set_user("any", "roles", vec!["anon", "staff"]);
        config.set_user("any", "choice", "transaction");
    })
    .await;
    let mut ops = console(&proxy).await;
    let users = ops.query("SHOW USERS").await;
    let row = |name: &str| {
        let rows = users.0.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.values());
        rows.filter(|row| row[0] == name).flatten().skip(1).collect::<Vec<_>>()
    };
    assert_eq!(row("any"), ["transaction", "any tenant", "anon, staff", "transaction"]);
    assert_eq!(row("api"), ["transaction", "2 tenants", "NULL", "session"]);
    assert_eq!(row("acme_app"), ["transaction", "tenant acme", "NULL", "NULL"]);
}

#[tokio::test]
async fn pins_are_shown_with_their_statement_as_long_as_they_last() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.lenient();
    })
    .await;
    let mut ops = console(&proxy).await;
    let mut acme = proxy.link("acme_app").await;
    acme.query("CREATE TEMP TABLE mine (a int)").await;
    acme.query("SELECT 1").await;
    assert_eq!(column(&mut ops, "SHOW PINS", "statement").await, ["CREATE TEMP TABLE mine (a int)"]);
    assert_eq!(column(&mut ops, "SHOW PINS", "reason").await, ["temporary"]);
    assert_eq!(column(&mut ops, "SHOW PINS", "tenant").await, ["acme"]);
    assert_eq!(column(&mut ops, "SHOW TENANTS", "pins").await, ["1", "0", "0"]);
    acme.query("DROP TABLE mine").await;
    acme.query("SELECT 1").await;
    assert_eq!(column(&mut ops, "SHOW PINS", "statement").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_at_its_next_transaction_others_are_not() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let mut under_way = proxy.link("acme_app").await;
    let mut idle = proxy.link("acme_app").await;
    let mut other = proxy.link("globex_app").await;
    under_way.hold().await;
    assert_eq!(ops.query("SUSPEND TENANT acme").await, "C(SUSPEND) Z(I)");
    assert_eq!(under_way.query("SELECT 1").await.value(), "1", "what is under way ends as it would");
    assert_eq!(under_way.query("COMMIT").await, "C(COMMIT) Z(I)");
    for link in [&mut under_way, &mut idle] {
        assert_eq!(link.query("SELECT 1").await, "E(57P03) Z(I)");
        assert_eq!(link.extended("SELECT 1", &[]).await, "E(57P03) Z(I)");
    }
    assert_eq!(proxy.login("acme_app", &[]).await.err().unwrap().code, "57P03");
    assert_eq!(other.query("SELECT 1").await.value(), "1");
    assert_eq!(column(&mut ops, "SHOW TENANTS", "status").await, ["suspended", "active", "active"]);
    assert_eq!(ops.query("RESUME TENANT acme").await, "C(RESUME) Z(I)");
    assert_eq!(idle.query("SELECT 1").await.value(), "1");
    assert_eq!(ops.query("SUSPEND TENANT nobody").await, "E(42704) Z(I)");
    let log = proxy.log();
    assert!(log.contains("audit") && log.contains("ops@127.0.0.1") && log.contains("Suspend"), "{log}");
}

#[tokio::test]
async fn clients_of_a_drained_tenant_leave_at_a_boundary_of_a_killed_at_once() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let (mut idle, mut busy) = (proxy.link("acme_app").await, proxy.link("acme_app").await);
    let mut other = proxy.link("globex_app").await;
    busy.hold().await;
    assert_eq!(ops.query("DRAIN TENANT acme").await, "C(DRAIN) Z(I)");
    assert_eq!(within("the idle one's end", idle.closes()).await.code().as_deref(), Some("57P01"));
    assert_eq!(busy.query("SELECT 1").await.value(), "1");
    busy.send(message::query("COMMIT")).await;
    let rest = within("the busy one's end", busy.closes()).await;
    assert_eq!(rest, "C(COMMIT) Z(I) E(57P01)");
    assert_eq!(proxy.login("acme_app", &[]).await.err().unwrap().code, "57P03");
    ops.query("RESUME TENANT acme").await;
    let mut running = proxy.link("acme_app").await;
    running.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    assert_eq!(ops.query("KILL TENANT acme").await, "C(KILL) Z(I)");
    assert_eq!(within("the end", running.closes()).await.code().as_deref(), Some("57P01"));
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "0").await;
    assert_eq!(other.query("SELECT 1").await.value(), "1");
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await.value(), "1", "they may come again");
}

#[tokio::test]
async fn pause_holds_new_transactions_back_until_resume() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    let mut ops = console(&proxy).await;
    let mut open = proxy.link("acme_app").await;
    open.hold().await;
    ops.send(message::query("PAUSE")).await;
    assert!(ops.stays_silent(Duration::from_millis(200)).await, "a transaction is under way");
    open.query("COMMIT").await;
    assert_eq!(ops.answer().await, "C(PAUSE) Z(I)");
    open.send(message::query("SELECT 1")).await;
    assert!(open.stays_silent(Duration::from_millis(200)).await, "it waits");
    assert_eq!(column(&mut ops, "SHOW DATABASES", "paused").await, ["1"]);
    assert_eq!(ops.query("RESUME").await, "C(RESUME) Z(I)");
    assert_eq!(open.answer().await.value(), "1");
}

#[tokio::test]
async fn reconnect_replaces_servers_reload_and_shutdown_act_as_signals_do() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |config| {
        with_operator(config);
        config.lenient();
    })
    .await;
    let mut ops = console(&proxy).await;
    let mut link = proxy.link("acme_app").await;
    let pid = "SELECT pg_backend_pid()";
    let before = link.query(pid).await.value();
    link.hold().await;
    assert_eq!(ops.query("RECONNECT").await, "C(RECONNECT) Z(I)");
    assert_eq!(link.query(pid).await.value(), before, "in use it stays");
    link.query("COMMIT").await;
    assert_ne!(link.query(pid).await.value(), before);
    assert_eq!(ops.query("RELOAD").await, "C(RELOAD) Z(I)");
    proxy.logged("configuration reloaded").await;
    assert_eq!(ops.query("SHUTDOWN").await, "C(SHUTDOWN) Z(I)");
    assert_eq!(within("the drain", link.closes()).await.code().as_deref(), Some("57P01"));
    assert!(proxy.exits().await.success());
}

#[tokio::test]
async fn the_console_answers_while_the_upstream_is_away_and_to_psql() {
    let mut cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, with_operator).await;
    cluster.crash();
    let mut ops = console(&proxy).await;
    assert_eq!(column(&mut ops, "SHOW DATABASES", "name").await, ["main"]);
    let client = proxy.client_of("ops", "pgtenant").await;
    let rows = client.query("SHOW TENANTS", &[]).await.unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].get::<_, String>("tenant"), "acme");
    assert_eq!(rows[0].get::<_, i64>("max_clients"), 200);
}
