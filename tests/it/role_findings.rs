//! Roles that users may set own nothing and have no power over others: the doctor says so, serving does not begin and a
//! reload is refused before.

use crate::doctor::{Finding, findings, serve, sound_cluster, with_ports};
use crate::protect::{install_with, sealed};
use crate::support::config::Config;
use crate::support::{Cluster, Proxy};

const ROLES: &str = "CREATE ROLE authenticated NOLOGIN; CREATE ROLE middle NOLOGIN; CREATE ROLE heir NOLOGIN;
    GRANT middle TO authenticated; GRANT heir TO middle; GRANT authenticated TO app;";

fn listed(config: &mut Config) {
    config.set_user("acme_app", "roles", vec!["authenticated"]);
}

fn of_roles(cluster: &Cluster) -> Vec<Finding> {
    findings(cluster, listed).1.into_iter().filter(|one| one.id == "D55").collect()
}

async fn cluster_with_roles() -> Cluster {
    let cluster = sound_cluster().await;
    cluster.execute(ROLES).await;
    cluster
}

/// Each fault is found, and gone behind what is said to mend it.
async fn found_and_mended(cluster: &Cluster, faults: &[(&str, &str)]) {
    assert!(of_roles(cluster).is_empty(), "{:#?}", of_roles(cluster));
    for (make, _) in faults {
        cluster.execute(make).await;
    }
    let found = of_roles(cluster);
    for (make, said) in faults {
        let is_it = |one: &Finding| {
            one.message.contains(said) && one.severity == "critical" && one.object == "role authenticated"
        };
        assert!(found.iter().any(is_it), "{make}: {found:#?}");
    }
    for one in &found {
        cluster.execute(&one.fix.replace("TO …; -- in each database", "TO app_owner")).await;
    }
    assert!(of_roles(cluster).is_empty(), "{:#?}", of_roles(cluster));
}

#[tokio::test]
async fn a_role_that_has_power_over_others_is_found_and_mended() {
    let cluster = cluster_with_roles().await;
    let faults = [
        ("ALTER ROLE authenticated SUPERUSER", "it has SUPERUSER"),
        ("ALTER ROLE authenticated BYPASSRLS", "it has BYPASSRLS"),
        ("ALTER ROLE authenticated CREATEROLE", "it has CREATEROLE"),
        ("ALTER ROLE authenticated REPLICATION", "it has REPLICATION"),
        ("ALTER ROLE authenticated CREATEDB", "it has CREATEDB"),
        ("ALTER ROLE heir BYPASSRLS", "it can become heir, which has BYPASSRLS"),
        ("GRANT pg_read_all_data TO authenticated", "a member of pg_read_all_data"),
        ("GRANT pg_write_all_data TO heir", "a member of pg_write_all_data"),
        ("GRANT pg_signal_backend TO middle", "a member of pg_signal_backend"),
    ];
    found_and_mended(&cluster, &faults).await;
}

#[tokio::test]
async fn a_role_that_owns_something_is_found_and_mended() {
    let cluster = cluster_with_roles().await;
    let faults = [
        (
            "CREATE TABLE owned (a int); ALTER TABLE owned OWNER TO authenticated",
            "it owns table public.owned",
        ),
        ("CREATE SCHEMA owned AUTHORIZATION heir", "it can become heir, which owns schema owned"),
        (
            "CREATE TYPE owned_type AS ENUM (); ALTER TYPE owned_type OWNER TO authenticated",
            "it owns type public.owned_type",
        ),
        (
            "CREATE FUNCTION owned() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION owned() OWNER TO authenticated",
            "it owns function public.owned()",
        ),
        ("CREATE DATABASE owned OWNER authenticated", "it owns database owned"),
    ];
    found_and_mended(&cluster, &faults).await;
    // Temporary objects and large objects are the sessions' own.
    let session = cluster.superuser().await;
    session.batch_execute("GRANT TEMP ON DATABASE app TO authenticated; SET ROLE authenticated; CREATE TEMP TABLE t (a int); SELECT lo_create(0)").await.unwrap();
    assert!(of_roles(&cluster).is_empty(), "{:#?}", of_roles(&cluster));
    cluster.execute("REVOKE authenticated FROM app").await;
    let found = of_roles(&cluster);
    assert!(
        found.len() == 1 && found[0].severity == "advice" && found[0].fix.starts_with("GRANT"),
        "{found:#?}"
    );
}

#[tokio::test]
async fn what_a_role_reaches_without_the_login_role_is_examined_too() {
    let cluster = cluster_with_roles().await;
    cluster
        .execute(
            "ALTER ROLE app NOINHERIT; CREATE TABLE open (tenant_id text); GRANT SELECT ON open TO authenticated;
             GRANT TRUNCATE ON notes TO authenticated",
        )
        .await;
    let (_, found) = findings(&cluster, listed);
    for (id, object) in [("D04", "open"), ("D17", "notes")] {
        let is_there =
            |one: &Finding| one.id == id && one.object.contains(object) && one.severity == "critical";
        assert!(found.iter().any(is_there), "{id} {object}: {found:#?}");
    }
    let (_, without) = findings(&cluster, |_| {});
    assert!(!without.iter().any(|one| one.severity == "critical"), "{without:#?}");
    // And protected: the role's table is a tenant table, what no policy limits is taken from it.
    let owned = "ALTER TABLE open OWNER TO app_owner; REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO authenticated";
    cluster.execute(owned).await;
    install_with(&cluster, listed);
    let (_, found) = findings(&cluster, |config| {
        sealed(config, crate::protect::KEY);
        listed(config);
    });
    assert!(!found.iter().any(|one| one.severity == "critical"), "{found:#?}");
    let granted = "SELECT string_agg(has_function_privilege('authenticated', f, 'EXECUTE')::text, ' ') || ' ' || \
                   has_schema_privilege('authenticated', 'pgtenant', 'USAGE') || ' ' || has_table_privilege('authenticated', 'pgtenant.key', 'SELECT') \
                   FROM unnest(ARRAY['pgtenant.current_tenant()', 'pgtenant.hand_over(text, text)', 'pgtenant.add_key(text)']) f";
    assert_eq!(cluster.value(granted).await, "true true false true false");
}

#[tokio::test]
async fn serving_does_not_begin_with_such_a_role() {
    let cluster = cluster_with_roles().await;
    cluster.execute("GRANT pg_read_all_data TO middle").await;
    let mut config = Config::new(&cluster);
    with_ports(&mut config);
    listed(&mut config);
    let (_directory, path) = config.to_file();
    let (code, log) = serve(&path).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("D55") && log.contains("pg_read_all_data"), "{log}");
}

#[tokio::test]
async fn a_reload_that_adds_such_a_role_is_refused() {
    let cluster = cluster_with_roles().await;
    cluster.execute("ALTER ROLE heir BYPASSRLS; CREATE ROLE anon; GRANT anon TO app").await;
    let mut proxy = Proxy::start(&cluster, |config| {
        // The login role itself can become it, which an operator may allow.
        config.set("tenancy.allow_unsafe", true);
        config.set_user("acme_app", "roles", vec!["anon"]);
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query("SET ROLE anon").await, "C(SET) Z(I)");
    let log = proxy
        .reload(|config| {
            config.unset("tenancy.allow_unsafe");
            config.set_user("acme_app", "roles", vec!["anon", "authenticated"]);
        })
        .await;
    assert!(log.contains("reload refused") && log.contains("D55") && log.contains("heir"), "{log}");
    assert_eq!(link.query("SHOW role").await.value(), "anon", "the old configuration stays");
    assert_eq!(
        proxy.link("acme_app").await.query("SET ROLE authenticated").await.code().as_deref(),
        Some("42501")
    );
    cluster.execute("ALTER ROLE heir NOBYPASSRLS").await;
    let log = proxy.reload(|_| {}).await;
    assert!(!log.contains("refused"), "{log}");
    assert_eq!(proxy.link("acme_app").await.query("SET ROLE authenticated").await, "C(SET) Z(I)");
}
