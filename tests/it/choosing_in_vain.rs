//! Choices of a tenant that cannot be carried out: each says why, and what to send instead; and what works in their place.

use crate::choosing::{WHO, both};
use crate::support::{Link, message};

async fn refused(link: &mut Link, frames: Vec<u8>, (why, hint): (&str, &str)) {
    assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
    let answer = link.ask(frames).await;
    let fault = answer.fault();
    assert_eq!((&*fault.code, &*fault.message), ("0A000", "this change of tenant cannot be carried out"));
    assert!(fault.detail.as_deref().unwrap_or_default().contains(why), "{why}: {fault:?}");
    assert!(fault.hint.as_deref().unwrap_or_default().contains(hint), "{hint}: {fault:?}");
    assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
}

fn bound(text: &str, values: &[&str]) -> Vec<u8> {
    [message::unnamed(text, values), message::sync()].concat()
}

#[tokio::test]
async fn each_choice_that_cannot_be_carried_out_has_a_hint_of_its_own() {
    for (_cluster, proxy) in both(|config| {
        config.add_tenant("müller");
        config.set("tenancy.claims_setting", "app.claims");
        config.set("tenancy.claims_pointer", "/tenant");
    })
    .await
    {
        let mut link = proxy.link("any").await;
        let two = "SELECT set_config('app.tenant_id', $1, true), set_config('app.tenant_id', $2, true)";
        let named = "SELECT set_config($1, $2, true)";
        for (frames, why, hint) in [
            (bound(named, &["app.tenant_id", ""]), "names no tenant", "a text that is not empty"),
            (bound(two, &["acme", "globex"]), "different tenants", "Name one tenant"),
            (
                bound("SELECT set_config($1, $2, false)", &["app.claims", "{\"tenant\":\"acme\"}"]),
                "claims are set for a transaction only",
                "SET LOCAL",
            ),
            (bound(named, &["app.tenant_id", "müller"]), "beyond ASCII", "SET or SET LOCAL"),
            (
                message::query("SELECT set_config('app.tenant_id', 'müller', true)"),
                "beyond ASCII",
                "SET or SET LOCAL",
            ),
            (
                bound("SELECT set_config('app.tenant_id', $1, true)", &["müller"]),
                "beyond ASCII",
                "SET or SET LOCAL",
            ),
        ] {
            refused(&mut link, frames, (why, hint)).await;
        }
    }
}

#[tokio::test]
async fn a_tenant_beyond_ascii_is_named_at_login_by_set_and_in_a_comment() {
    for (cluster, proxy) in both(|config| {
        config.add_tenant("müller");
        config.set_user("any", "tenant_comment", true);
    })
    .await
    {
        cluster.execute("INSERT INTO notes (tenant_id, body) VALUES ('müller', 'theirs')").await;
        let mut link = proxy.link("any").await;
        assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
        assert_eq!(link.query("SET LOCAL app.tenant_id = 'müller'").await, "C(SET) Z(T)");
        assert_eq!(link.query(WHO).await.value(), "müller");
        assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
        assert_eq!(link.query(&format!("{WHO} /*tenant='m%C3%BCller'*/")).await.value(), "müller");
        assert_eq!(link.query("SET app.tenant_id = 'müller'").await, "C(SET) Z(I)");
        assert_eq!(link.query(WHO).await.value(), "müller");
        for (user, parameters) in [("any.müller", &[][..]), ("any", &[("app.tenant_id", "müller")])] {
            let mut link = proxy.login_as(user, "any-secret", parameters).await.unwrap();
            assert_eq!(link.query(WHO).await.value(), "müller", "{user}");
        }
    }
}

#[tokio::test]
async fn a_statement_that_would_pin_says_that_the_choice_ends_before_its_state() {
    for (_cluster, proxy) in both(|config| config.set_user("any", "choice", "transaction")).await {
        let mut link = proxy.link("any").await;
        assert_eq!(link.query("SET app.tenant_id = 'acme'").await, "C(SET) Z(I)");
        let fault = link.query("CREATE TEMP TABLE t (a int)").await.fault();
        assert_eq!(
            (&*fault.code, &*fault.message),
            ("0A000", "this statement would pin the client to a server")
        );
        assert!(
            fault.detail.as_deref().unwrap_or_default().contains("chosen for one transaction"),
            "{fault:?}"
        );
        assert!(fault.hint.as_deref().unwrap_or_default().contains("name the tenant at login"), "{fault:?}");
        // As the hint says.
        let mut link = proxy.link("any.acme").await;
        assert_eq!(link.query("CREATE TEMP TABLE t (a int)").await, "C(CREATE TABLE) Z(I)");
    }
}

#[tokio::test]
async fn where_no_tenant_is_required_no_statement_without_one_reaches_a_row() {
    let all = both(|config| config.set("tenancy.require_tenant", false)).await;
    for ((_cluster, proxy), is_sealed) in all.iter().zip([false, true]) {
        let mut link = proxy.link("any").await;
        for (sql, plain, sealed) in [
            ("SELECT count(*) FROM notes", "T(count) D(0) C(SELECT 1) Z(I)", "T(count) E(28000) Z(I)"),
            ("UPDATE notes SET body = 'x'", "C(UPDATE 0) Z(I)", "E(28000) Z(I)"),
            ("DELETE FROM notes", "C(DELETE 0) Z(I)", "E(28000) Z(I)"),
            ("INSERT INTO notes (tenant_id, body) VALUES ('acme', 'x')", "E(42501) Z(I)", "E(28000) Z(I)"),
            ("INSERT INTO notes (tenant_id, body) VALUES ('', 'x')", "E(42501) Z(I)", "E(28000) Z(I)"),
        ] {
            assert_eq!(link.query(sql).await, if is_sealed { sealed } else { plain }, "{sql}");
        }
        // What no policy limits is there for all.
        assert_eq!(link.query("SELECT body FROM shelf.notes").await.value(), "from the shelf");
    }
}
