//! The database that a client names: an unknown one is refused as PostgreSQL does, a known one says nothing about where a
//! tenant is, and a maintenance user reaches those that it was granted.

use toml::{Table, Value};

use crate::support::config::Config;
use crate::support::{Cluster, Proxy, message};

const WHERE: &str = "SELECT current_database()";

/// The refusal of a login to a database.
async fn refused(proxy: &Proxy, user: &str, database: &str) -> (String, String) {
    match proxy.login(user, &[("database", database)]).await {
        Ok(_) => panic!("{user} is let in to {database}"),
        Err(fault) => (fault.code, fault.message),
    }
}

fn unknown(database: &str) -> (String, String) {
    ("3D000".to_owned(), format!("database \"{database}\" does not exist"))
}

/// Where a client is that names a database.
async fn lands(proxy: &Proxy, user: &str, database: &str) -> String {
    let mut link = proxy.link_with(user, &[("database", database)]).await;
    link.query(WHERE).await.value()
}

#[tokio::test]
async fn a_name_that_nothing_has_is_refused_behind_the_password() {
    let cluster = Cluster::start().await;
    cluster.execute("CREATE DATABASE spare").await;
    let proxy = Proxy::start(&cluster, |config| config.set("tenancy.require_tenant", false)).await;
    for user in ["acme_app", "api", "api.acme", "any", "migrate"] {
        // One that PostgreSQL has is none of the proxy's; upper and lower case differ; the console is the operators'.
        for database in ["no_such_database", "spare", "postgres", "APP", "pgtenant", "app "] {
            assert_eq!(refused(&proxy, user, database).await, unknown(database), "{user}");
        }
        assert_eq!(lands(&proxy, user, "app").await, "app", "{user}");
    }
    // As with PostgreSQL, the user's name stands for a database that is not named.
    assert_eq!(refused(&proxy, "api.acme", "").await, unknown("api.acme"));
    let fault = proxy.login_as("acme_app", "wrong", &[("database", "spare")]).await.err().unwrap();
    assert_eq!(fault.code, "28P01", "who does not know the password learns nothing");
    let metrics = proxy.metrics().await;
    assert!(metrics.sum("pgtenant_errors_total", &[("tenant", "_none"), ("class", "3D")]) >= 5.0);
}

#[tokio::test]
async fn known_names_let_tenants_in_and_say_nothing_about_where_they_are() {
    let cluster = Cluster::start().await;
    cluster.execute("CREATE DATABASE spare").await;
    let mut proxy = Proxy::start(&cluster, |config| {
        config.set("listen.databases", vec!["orders", "no_such_database"]);
        let mut spare = config.0["upstream"]["main"].as_table().unwrap().clone();
        spare.insert("database".to_owned(), "spare".into());
        config.set("upstream.second", Value::Table(spare));
        config.set("tenancy.allow_unsafe", true);
    })
    .await;
    for database in ["app", "spare", "orders", "no_such_database"] {
        for user in ["acme_app", "any.acme"] {
            assert_eq!(lands(&proxy, user, database).await, "app", "{user} {database}");
        }
    }
    assert_eq!(refused(&proxy, "migrate", "orders").await, unknown("orders"));
    assert_eq!(refused(&proxy, "migrate", "spare").await, unknown("spare"));
    proxy.reload(|config| config.set("listen.databases", vec!["bills"])).await;
    assert_eq!(refused(&proxy, "acme_app", "orders").await, unknown("orders"));
    assert_eq!(lands(&proxy, "acme_app", "bills").await, "app", "a reload applies it");
}

/// Grants these databases to the maintenance user.
fn granted(config: &mut Config, databases: &[&str]) {
    let list = config.0["user"].as_array_mut().unwrap();
    let user = list.iter_mut().find(|user| user["name"].as_str() == Some("migrate")).unwrap();
    let maintenance: &mut Table = user["maintenance"].as_table_mut().unwrap();
    let databases: Vec<Value> = databases.iter().map(|name| (*name).into()).collect();
    maintenance.insert("databases".to_owned(), databases.into());
}

#[tokio::test]
async fn a_maintenance_user_reaches_the_databases_that_it_was_granted() {
    let cluster = Cluster::start().await;
    cluster.execute("CREATE DATABASE spare OWNER app_owner").await;
    cluster.execute("CREATE DATABASE other OWNER app_owner").await;
    let mut proxy = Proxy::start(&cluster, |config| granted(config, &["app", "spare", "not_made_yet"])).await;
    assert_eq!(lands(&proxy, "migrate", "app").await, "app");
    assert_eq!(lands(&proxy, "migrate", "spare").await, "spare");
    assert_eq!(refused(&proxy, "migrate", "other").await, unknown("other"));
    assert_eq!(
        refused(&proxy, "migrate", "not_made_yet").await,
        unknown("not_made_yet"),
        "PostgreSQL's word"
    );
    assert_eq!(lands(&proxy, "acme_app", "app").await, "app");
    assert_eq!(refused(&proxy, "acme_app", "spare").await, unknown("spare"), "the grant is one user's");
    let mut link = proxy.link_with("migrate", &[("database", "spare")]).await;
    link.query("CREATE TABLE t (a int)").await;
    link.query("BEGIN").await;
    proxy.reload(|config| granted(config, &["other"])).await;
    assert_eq!(link.query("SELECT 1").await.value(), "1", "a transaction ends where it began");
    link.send(message::query("COMMIT")).await;
    assert_eq!(link.closes().await, "C(COMMIT) Z(I) E(57P01)");
    assert_eq!(lands(&proxy, "migrate", "other").await, "other");
    assert_eq!(refused(&proxy, "migrate", "app").await, unknown("app"), "only what is granted");
}

#[tokio::test]
async fn a_replication_connection_of_one_database_is_held_to_the_same() {
    let cluster = Cluster::start().await;
    cluster.execute("CREATE DATABASE spare").await;
    cluster.execute("ALTER ROLE app_owner REPLICATION").await;
    let proxy = Proxy::start(&cluster, |config| {
        granted(config, &["spare"]);
        let list = config.0["user"].as_array_mut().unwrap();
        let user = list.iter_mut().find(|user| user["name"].as_str() == Some("migrate")).unwrap();
        user["maintenance"].as_table_mut().unwrap().insert("max_replication".to_owned(), 2.into());
    })
    .await;
    let of = |database| [("replication", "database"), ("database", database)];
    let mut link = proxy.link_with("migrate", &of("spare")).await;
    let system = link.query("IDENTIFY_SYSTEM").await;
    assert!(system.to_string().contains(",spare)"), "{system}");
    let fault = proxy.login("migrate", &of("app")).await.err().unwrap();
    assert_eq!((fault.code, fault.message), unknown("app"));
    // A physical one is of the whole cluster, whatever it names.
    let physical = [("replication", "true"), ("database", "replication")];
    assert_eq!(proxy.link_with("migrate", &physical).await.query("IDENTIFY_SYSTEM").await.code(), None);
}
