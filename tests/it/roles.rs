//! Roles of the application: a user's clients may set those that the configuration lists, and no other. The tenant's pin
//! holds whatever role is set, and no client finds a role that another one set.

use crate::protect::{KEY, install_with, sealed};
use crate::support::config::Config;
use crate::support::message::{self, sync, unnamed};
use crate::support::{Cluster, Link, Proxy};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";
const ROLE: &str = "SELECT current_user || ' ' || current_setting('role')";
const LOGIN: &str = "app none";
const SET: &str = "authenticated authenticated";

/// Roles without privileges of the login's: what they may do, they may do by themselves.
const ROLES: &str = "
CREATE ROLE authenticated NOLOGIN; CREATE ROLE anon NOLOGIN; CREATE ROLE unlisted NOLOGIN;
GRANT authenticated, anon, unlisted TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO authenticated, unlisted;
GRANT USAGE ON SEQUENCE notes_id_seq TO authenticated;
GRANT SELECT ON notes TO anon;
SET ROLE app_owner;
CREATE FUNCTION becomes(role text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN PERFORM set_config('role', role, false); END $$;
CREATE TABLE triggers (tenant_id text NOT NULL DEFAULT current_setting('app.tenant_id'), n int);
ALTER TABLE triggers ENABLE ROW LEVEL SECURITY; ALTER TABLE triggers FORCE ROW LEVEL SECURITY;
CREATE POLICY pgtenant_tenant ON triggers USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')));
CREATE POLICY pgtenant_pin ON triggers AS RESTRICTIVE
    USING (coalesce(tenant_id = ANY (ARRAY[(SELECT NULLIF(current_setting('app.tenant_id', true), ''))]), false));
GRANT SELECT, INSERT ON triggers TO app, authenticated;
CREATE FUNCTION becomes_too() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN PERFORM set_config('role', 'authenticated', false); RETURN NEW; END $$;
CREATE TRIGGER becomes BEFORE INSERT ON triggers FOR EACH ROW EXECUTE FUNCTION becomes_too();";

fn listed(config: &mut Config) {
    for user in ["acme_app", "globex_app", "api", "any"] {
        config.set_user(user, "roles", vec!["authenticated", "anon"]);
    }
}

/// Proxies in both modes, each with a cluster of its own.
async fn both(edit: impl Fn(&mut Config)) -> Vec<(Cluster, Proxy)> {
    on([Cluster::start().await, Cluster::start().await], edit).await
}

/// The first plain, the second sealed.
async fn on(clusters: [Cluster; 2], edit: impl Fn(&mut Config)) -> Vec<(Cluster, Proxy)> {
    let mut all = Vec::new();
    for (cluster, is_sealed) in clusters.into_iter().zip([false, true]) {
        cluster.execute(ROLES).await;
        if is_sealed {
            install_with(&cluster, listed);
        }
        let proxy = Proxy::start(&cluster, |config| {
            if is_sealed {
                sealed(config, KEY);
            }
            listed(config);
            edit(config);
        })
        .await;
        all.push((cluster, proxy));
    }
    all
}

async fn role_of(link: &mut Link) -> String {
    link.query(ROLE).await.value()
}

#[tokio::test]
async fn a_role_of_the_list_holds_as_long_as_postgresql_lets_it() {
    for (_cluster, proxy) in both(Config::one_server).await {
        for user in ["any", "api"] {
            let mut link = proxy.link(user).await;
            let tenant = "SET app.tenant_id = 'acme'";
            link.query(tenant).await;
            // For a transaction.
            for local in [
                "SET LOCAL ROLE authenticated",
                "SET LOCAL role TO 'authenticated'",
                "SELECT set_config('role', 'authenticated', true)",
            ] {
                link.query("BEGIN").await;
                assert!(link.query(local).await.code().is_none(), "{local}");
                assert_eq!(role_of(&mut link).await, SET, "{local}");
                assert_eq!(link.query("SHOW role").await.value(), "authenticated");
                assert_eq!(link.query(WHO).await.value(), "acme", "{local}");
                link.query("COMMIT").await;
                assert_eq!(role_of(&mut link).await, LOGIN, "{local}");
            }
            let text = format!("BEGIN; SET LOCAL ROLE authenticated; {ROLE}; COMMIT");
            assert_eq!(link.query(&text).await.value(), SET);
            assert_eq!(role_of(&mut link).await, LOGIN);
            // For the session, until it is taken back.
            for (set, back) in [
                ("SET ROLE authenticated", "RESET ROLE"),
                ("SET SESSION ROLE 'authenticated'", "SET ROLE NONE"),
                ("SET role = authenticated", "SET SESSION AUTHORIZATION DEFAULT"),
                ("SELECT set_config('role', 'authenticated', false)", "DISCARD ALL"),
                ("SET ROLE \"authenticated\"", "SELECT set_config('role', 'none', false)"),
                ("SELECT 1; SET ROLE authenticated; SELECT 2", "RESET SESSION AUTHORIZATION"),
            ] {
                assert!(link.query(set).await.code().is_none(), "{set}");
                assert_eq!(role_of(&mut link).await, SET, "{set}");
                assert_eq!(link.query("RESET ALL").await.code(), None);
                assert_eq!(role_of(&mut link).await, SET, "RESET ALL leaves the role");
                assert!(link.query(back).await.code().is_none(), "{back}");
                assert_eq!(role_of(&mut link).await, LOGIN, "{back}");
                link.query(tenant).await;
            }
            // A rollback takes it back, to what it was.
            link.query("BEGIN; SET ROLE authenticated; ROLLBACK").await;
            assert_eq!(role_of(&mut link).await, LOGIN);
            link.query("SET ROLE authenticated").await;
            link.query("BEGIN; SET ROLE anon; ROLLBACK").await;
            assert_eq!(role_of(&mut link).await, SET);
            link.query("BEGIN; SET ROLE anon; SELECT 1/0").await;
            link.query("ROLLBACK").await;
            assert_eq!(role_of(&mut link).await, SET);
        }
    }
}

#[tokio::test]
async fn the_role_goes_with_its_client_and_with_nobody_else() {
    let mut all = both(Config::one_server).await;
    let newest = [Cluster::postgres18().await, Cluster::postgres18().await];
    all.extend(on(newest, Config::one_server).await);
    for (_cluster, proxy) in all {
        let mut with = proxy.link("acme_app").await;
        let mut same = proxy.link("acme_app").await;
        let mut other = proxy.link("globex_app").await;
        let mut gateway = proxy.link("any").await;
        let mut unlisted = proxy.link("initech_app").await;
        assert_eq!(with.query("SET ROLE authenticated").await, "C(SET) Z(I)");
        for _ in 0..3 {
            assert_eq!(role_of(&mut same).await, LOGIN);
            assert_eq!(role_of(&mut with).await, SET);
            assert_eq!(role_of(&mut other).await, LOGIN);
            assert_eq!(other.query(WHO).await.value(), "globex");
            assert_eq!(role_of(&mut with).await, SET);
            assert_eq!(with.query(WHO).await.value(), "acme");
            assert_eq!(role_of(&mut unlisted).await, LOGIN);
            assert_eq!(with.extended(ROLE, &[]).await.value(), SET);
            assert_eq!(gateway.query(&format!("/* */ {}", "SELECT 1")).await.value(), "1");
        }
        // A gateway's role stays its own from tenant to tenant, also where it is set in front of the choice.
        assert_eq!(gateway.query("SET ROLE anon").await.without(b"S"), "C(SET) Z(I)");
        for tenant in ["acme", "globex"] {
            gateway.query(&format!("SET app.tenant_id = '{tenant}'")).await;
            assert_eq!(gateway.query(WHO).await.value(), tenant);
            assert_eq!(role_of(&mut gateway).await, "anon anon");
            gateway.query("BEGIN").await;
            gateway.query("SET LOCAL ROLE authenticated").await;
            assert_eq!(role_of(&mut gateway).await, SET);
            gateway.query("COMMIT").await;
            assert_eq!(role_of(&mut gateway).await, "anon anon");
        }
        assert_eq!(role_of(&mut other).await, LOGIN);
    }
}

#[tokio::test]
async fn a_tenant_may_be_chosen_behind_a_role() {
    for (_cluster, proxy) in both(Config::one_server).await {
        let mut link = proxy.link("any").await;
        for choice in
            ["SET LOCAL app.tenant_id = 'globex'", "SELECT set_config('app.tenant_id', 'globex', true)"]
        {
            link.query("BEGIN").await;
            assert!(link.query("SET LOCAL ROLE authenticated").await.code().is_none());
            assert!(link.query(choice).await.code().is_none(), "{choice}");
            assert_eq!(link.query(WHO).await.value(), "globex");
            assert_eq!(role_of(&mut link).await, SET);
            link.query("COMMIT").await;
        }
        let text = "BEGIN; SET LOCAL ROLE authenticated; SET LOCAL app.tenant_id = 'acme'; \
                    SELECT string_agg(DISTINCT tenant_id, ',') FROM notes; COMMIT";
        assert_eq!(link.query(text).await.value(), "acme");
    }
}

#[tokio::test]
async fn rows_of_another_tenant_are_out_of_reach_whatever_role_is_set() {
    for (cluster, proxy) in both(Config::one_server).await {
        let mut link = proxy.link("acme_app").await;
        link.query("SET ROLE authenticated").await;
        assert_eq!(link.query("SELECT count(*) FROM notes").await.value(), "10");
        assert_eq!(link.query("SELECT count(*) FROM notes WHERE tenant_id = 'globex'").await.value(), "0");
        for write in [
            "UPDATE notes SET body = 'x' WHERE tenant_id <> 'acme'",
            "DELETE FROM notes WHERE tenant_id = 'globex'",
        ] {
            let answer = link.query(write).await.to_string();
            assert!(answer.contains(" 0)"), "{write}: {answer}");
        }
        for write in [
            "INSERT INTO notes (tenant_id, body) VALUES ('globex', 'x')",
            "UPDATE notes SET tenant_id = 'globex'",
        ] {
            assert_eq!(link.query(write).await.code().as_deref(), Some("42501"), "{write}");
        }
        assert_eq!(
            link.query("INSERT INTO notes (tenant_id, body) VALUES ('acme', 'x')").await,
            "C(INSERT 0 1) Z(I)"
        );
        // What the login role may not do, it does not learn by a role, nor the other way round.
        link.query("SET ROLE anon").await;
        assert_eq!(link.query("DELETE FROM notes").await.code().as_deref(), Some("42501"));
        assert_eq!(link.query(WHO).await.value(), "acme");
        let others = "SELECT count(*) FROM notes WHERE tenant_id <> 'acme' AND body <> 'x'";
        assert_eq!(cluster.value(others).await, "20");
    }
}

#[tokio::test]
async fn a_role_that_code_of_the_database_left_is_gone_with_its_client() {
    for (_cluster, proxy) in both(Config::one_server).await {
        for leave in [
            "SELECT becomes('authenticated')",
            "SELECT becomes('unlisted')",
            "INSERT INTO triggers (tenant_id, n) VALUES ('acme', 1)",
            "SET ROLE authenticated",
            "SELECT 1; SET ROLE authenticated; SELECT becomes('unlisted')",
        ] {
            let mut leaver = proxy.link("acme_app").await;
            let mut same = proxy.link("acme_app").await;
            let answer = leaver.query(leave).await;
            assert!(answer.code().is_none(), "{leave}: {answer}");
            assert_eq!(role_of(&mut same).await, LOGIN, "{leave}");
            assert!(leaver.query(leave).await.code().is_none(), "{leave}");
            let mut other = proxy.link("globex_app").await;
            assert_eq!(role_of(&mut other).await, LOGIN, "{leave}");
            assert_eq!(other.query(WHO).await.value(), "globex", "{leave}");
            assert!(leaver.query(leave).await.code().is_none(), "{leave}");
            assert_eq!(proxy.link("migrate").await.query("SELECT current_user").await.value(), "app_owner");
            leaver.leave().await;
        }
        // A text that ends as another role than those of the list does not carry it on.
        let mut link = proxy.link("acme_app").await;
        link.query("SELECT 1; SET ROLE authenticated; SELECT becomes('unlisted')").await;
        assert_eq!(role_of(&mut link).await, LOGIN);
    }
}

/// Texts that name no role, of a user without `roles`.
#[tokio::test]
async fn a_role_that_code_left_reaches_no_client_of_a_user_without_roles() {
    let mut all = both(Config::one_server).await;
    all.extend(on([Cluster::postgres18().await, Cluster::postgres18().await], Config::one_server).await);
    for (_cluster, proxy) in all {
        let mut leaver = proxy.link("initech_app").await;
        let mut same = proxy.link("initech_app").await;
        for leave in [
            "SELECT becomes('authenticated')",
            "SELECT becomes('unlisted')",
            "INSERT INTO triggers (tenant_id, n) VALUES ('initech', 1)",
        ] {
            assert!(leaver.query(leave).await.code().is_none(), "{leave}");
            assert_eq!(role_of(&mut same).await, LOGIN, "{leave}");
            assert_eq!(same.query(WHO).await.value(), "initech", "{leave}");
            assert!(leaver.extended(leave, &[]).await.code().is_none(), "{leave}");
            assert_eq!(same.extended(ROLE, &[]).await.value(), LOGIN, "{leave}");
        }
    }
}

/// A login role that can become no other needs no reset between clients of one tenant.
#[tokio::test]
async fn clients_of_a_login_role_that_can_become_no_other_share_a_server_as_it_is() {
    for (membership, is_reset) in [
        ("", false),
        ("CREATE ROLE crew; GRANT crew TO app", true),
        ("CREATE ROLE crew; GRANT crew TO app WITH SET FALSE, INHERIT TRUE", false),
        ("REVOKE SELECT ON pg_auth_members FROM PUBLIC", true),
    ] {
        let cluster = Cluster::postgres18().await;
        cluster.execute(membership).await;
        cluster.execute("CREATE FUNCTION leaves() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.left', 'x', false) $$").await;
        let proxy = Proxy::start(&cluster, Config::one_server).await;
        let (mut one, mut other) = (proxy.link("acme_app").await, proxy.link("acme_app").await);
        assert_eq!(one.query("SELECT leaves()").await.value(), "x");
        let left = other.query("SELECT coalesce(current_setting('app.left', true), '')").await.value();
        assert_eq!(left.is_empty(), is_reset, "{membership}");
    }
}

#[tokio::test]
async fn other_roles_are_refused_with_the_setting_that_lists_them() {
    let cluster = Cluster::start().await;
    cluster.execute(ROLES).await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set_user("acme_app", "roles", vec!["authenticated"]);
        config.set_user("globex_app", "roles", vec!["anon"]);
        config.set_user("api", "roles", vec!["anon"]);
        config.set_user("api", "allow", vec!["opaque-code", "statement-kind"]);
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    for text in [
        "SET ROLE unlisted",
        "SET ROLE anon",
        "SET LOCAL ROLE app_owner",
        "SET ROLE \"unlisted\"",
        "SET/**/ROLE--\nunlisted",
        "SET ROLE U&\"authenticated\"",
        "SET U&\"ro\\006ce\" = authenticated",
        "SELECT set_config('role', 'unlisted', true)",
        "SELECT set_config('ro' || 'le', 'unlisted', true)",
        "SET SESSION AUTHORIZATION authenticated",
        "BEGIN; SET LOCAL ROLE authenticated; SET ROLE unlisted; COMMIT",
        "DO $$ BEGIN SET ROLE unlisted; END $$",
        "DO $$ BEGIN EXECUTE 'SET ROLE unlisted'; END $$",
        "PREPARE p AS SELECT set_config('role', $1, false)",
        "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', 'unlisted', false) $$",
        "CREATE TEMP VIEW v AS SELECT set_config('role', 'unlisted', false)",
        "ALTER ROLE app SET role = 'authenticated'",
    ] {
        let fault = link.query(text).await.fault();
        assert_eq!(fault.code, "42501", "{text}: {fault:?}");
    }
    let hint = link.query("SET ROLE unlisted").await;
    assert!(hint.to_string().contains("42501"), "{hint}");
    assert_eq!(link.query("SET ROLE authenticated").await, "C(SET) Z(I)");
    // Each has a list of its own.
    assert_eq!(proxy.link("globex_app").await.query("SET ROLE anon").await, "C(SET) Z(I)");
    assert_eq!(
        proxy.link("globex_app").await.query("SET ROLE authenticated").await.code().as_deref(),
        Some("42501")
    );
    assert_eq!(proxy.link("initech_app").await.query("SET ROLE anon").await.code().as_deref(), Some("42501"));
    let mut code = proxy.link("api").await;
    for text in [
        "DO $$ BEGIN SET ROLE unlisted; END $$",
        "DO $$ BEGIN PERFORM set_config('role', 'unlisted', true); END $$",
    ] {
        assert_eq!(code.query(text).await.code().as_deref(), Some("42501"), "{text}");
    }
    // Nor at startup.
    let refused = proxy.login("acme_app", &[("role", "authenticated")]).await.err().unwrap();
    assert!(
        refused.code.starts_with("22") || refused.code == "42501" || refused.code == "08P01",
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_bound_role_is_looked_at_when_it_is_bound() {
    for (_cluster, proxy) in both(Config::one_server).await {
        let mut link = proxy.link("acme_app").await;
        let text = "SELECT set_config('search_path', $1, true), set_config('role', $2, true), current_user";
        assert_eq!(link.extended(text, &["public", "authenticated"]).await.code(), None);
        assert_eq!(role_of(&mut link).await, LOGIN);
        for other in ["unlisted", "app_owner", "Authenticated", "authenticated ", ""] {
            let answer = link.extended(text, &["public", other]).await;
            assert_eq!(answer.code().as_deref(), Some("42501"), "{other}: {answer}");
            assert_eq!(role_of(&mut link).await, LOGIN, "{other}");
        }
        // For the session, by a statement with a name, over and over.
        let named = "SELECT set_config('role', $1, false)";
        link.ask([message::parse("s", named), sync()].concat()).await;
        for role in ["authenticated", "anon", "none"] {
            let answer =
                link.ask([message::bind("", "s", &[role]), message::execute("", 0), sync()].concat()).await;
            assert_eq!(answer.code(), None, "{role}: {answer}");
            let expected = if role == "none" { "none" } else { role };
            assert_eq!(link.query("SHOW role").await.value(), expected);
            proxy.link("globex_app").await.query("SELECT 1").await;
            assert_eq!(link.query("SHOW role").await.value(), expected);
        }
        let refused =
            link.ask([message::bind("", "s", &["unlisted"]), message::execute("", 0), sync()].concat()).await;
        assert_eq!(refused.code().as_deref(), Some("42501"));
        // A type that would make another text of the value.
        let other = "SELECT $1::\"char\", set_config('role', $1::text, true)";
        assert_eq!(
            link.ask([unnamed(other, &["authenticated"]), sync()].concat()).await.code().as_deref(),
            Some("42501")
        );
    }
}

#[tokio::test]
async fn a_client_that_keeps_its_server_keeps_its_role_when_the_context_is_lost() {
    for (_cluster, proxy) in both(|config| {
        config.set("upstream.main.pool_size", 2);
        config.set_user("acme_app", "pool_mode", "session");
    })
    .await
    {
        let mut link = proxy.link("acme_app").await;
        assert!(link.query("SET ROLE authenticated").await.code().is_none());
        let process = link.query("SELECT pg_backend_pid()").await.value();
        for _ in 0..2 {
            link.query("DISCARD SEQUENCES").await;
            assert_eq!(role_of(&mut link).await, SET);
            assert_eq!(link.query(WHO).await.value(), "acme");
            assert_eq!(link.extended(ROLE, &[]).await.value(), SET);
        }
        assert_eq!(link.query("SELECT pg_backend_pid()").await.value(), process);
    }
}
