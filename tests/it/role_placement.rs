//! Roles that users may set, in all three placements, and where the role is gone that a client has.

use crate::placement::{cluster, placed};
use crate::protect::{KEY, install_with, sealed};
use crate::support::config::Config;
use crate::support::{Cluster, Proxy};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') || ' ' || current_user FROM notes";

fn listed(config: &mut Config) {
    for user in ["acme_app", "globex_app", "initech_app", "any"] {
        config.set_user(user, "roles", vec!["authenticated", "staff"]);
    }
}

/// acme's and initech's clients may become `authenticated`, globex's `staff`.
async fn with_roles() -> Cluster {
    let cluster = cluster().await;
    let roles = "CREATE ROLE authenticated; CREATE ROLE staff; GRANT authenticated TO app, tenant_initech; GRANT staff TO tenant_globex;
        GRANT SELECT ON notes TO authenticated; GRANT USAGE ON SCHEMA tenant_globex TO staff; GRANT SELECT ON tenant_globex.notes TO staff";
    cluster.execute(roles).await;
    cluster
        .superuser_of("initech")
        .await
        .batch_execute("GRANT SELECT ON notes TO authenticated")
        .await
        .unwrap();
    cluster
}

#[tokio::test]
async fn a_role_shows_its_own_tenants_rows_in_all_three_placements() {
    for is_sealed in [false, true] {
        let cluster = with_roles().await;
        if is_sealed {
            install_with(&cluster, |config| {
                placed(config);
                listed(config);
            });
        }
        let proxy = Proxy::start(&cluster, |config| {
            if is_sealed {
                sealed(config, KEY);
            }
            placed(config);
            listed(config);
        })
        .await;
        for _ in 0..2 {
            shows_its_own_rows(&proxy, ("acme", "app"), ("authenticated", "staff")).await;
            shows_its_own_rows(&proxy, ("globex", "tenant_globex"), ("staff", "authenticated")).await;
            shows_its_own_rows(&proxy, ("initech", "tenant_initech"), ("authenticated", "staff")).await;
        }
    }
}

/// `role` is one that the tenant's login role is a member of, `other` is none.
async fn shows_its_own_rows(proxy: &Proxy, (tenant, login): (&str, &str), (role, other): (&str, &str)) {
    for user in [format!("{tenant}_app"), format!("any.{tenant}")] {
        let mut link = proxy.link(&user).await;
        assert_eq!(link.query(&format!("SET ROLE {role}")).await, "C(SET) Z(I)");
        assert_eq!(link.query(WHO).await.value(), format!("{tenant} {role}"));
        assert_eq!(link.query("DELETE FROM notes").await.code().as_deref(), Some("42501"));
        let mut without = proxy.link(&user).await;
        assert_eq!(without.query(WHO).await.value(), format!("{tenant} {login}"));
        assert_eq!(without.query(&format!("SET ROLE {other}")).await.code().as_deref(), Some("42501"));
    }
}

#[tokio::test]
async fn a_role_that_is_gone_is_told_to_its_client_and_to_nobody_else() {
    for is_sealed in [false, true] {
        let cluster = with_roles().await;
        if is_sealed {
            install_with(&cluster, listed);
        }
        let proxy = Proxy::start(&cluster, |config| {
            if is_sealed {
                sealed(config, KEY);
            }
            config.one_server();
            listed(config);
        })
        .await;
        let mut link = proxy.link("acme_app").await;
        assert_eq!(link.query("SET ROLE authenticated").await, "C(SET) Z(I)");
        let mut other = proxy.link("globex_app").await;
        let all = "SELECT count(*) FROM notes";
        assert_eq!(other.query(all).await.value(), "10");
        cluster.execute("REVOKE authenticated FROM app").await;
        let answer = link.query(WHO).await;
        assert_eq!(answer.code().as_deref(), Some("08006"), "{answer}");
        assert_eq!(other.query(all).await.value(), "10");
        let mut again = proxy.link("acme_app").await;
        assert_eq!(again.query(WHO).await.value(), "acme app");
    }
}
