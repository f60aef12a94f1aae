//! A setting that carries the claims of a token, the tenant among them, as the configuration names it.

use crate::choosing::{WHO, both_with};
use crate::support::link::Answer;
use crate::support::{Cluster, Link, Proxy, message};

const CLAIMS: &str = "SELECT current_setting('request.jwt.claims', true)";

async fn known() -> Vec<(Cluster, Proxy)> {
    both_with("", |config| {
        config.one_server();
        config.set("tenancy.claims_setting", "request.jwt.claims");
        config.set("tenancy.claims_pointer", "/app/tenant_id");
    })
    .await
}

async fn choose(link: &mut Link, front: &str, (text, values): (&str, &[&str])) -> Answer {
    for text in front.split("; ") {
        link.query(text).await;
    }
    if values.is_empty() { link.query(text).await } else { link.extended(text, values).await }
}

#[tokio::test]
async fn claims_that_name_a_tenant_choose_it_and_are_set() {
    for (_cluster, proxy) in known().await {
        let mut other = proxy.link("globex_app").await;
        let mut link = proxy.link("any").await;
        let claims = r#"{"sub":"7","app":{"tenant_id":"acme"}}"#;
        let pairs = r#"[["request.jwt.claims","{\"app\":{\"tenant_id\":\"acme\"}}"],["app.user_id","7"]]"#;
        let paired = "select set_config(el->>0, el->>1, true) from json_array_elements($1::json) el";
        let literal = format!("SET LOCAL request.jwt.claims = '{claims}'");
        let among = format!("SET LOCAL request.jwt.claims TO '{claims}'; SET LOCAL app.user_id = '7'");
        for (text, values) in [
            ("SELECT set_config('request.jwt.claims', $1, true)", vec![claims]),
            ("SELECT set_config($1, $2, true)", vec!["Request.jwt.claims", claims]),
            (
                "SELECT set_config('app.user_id', $2, true), set_config('request.jwt.claims', $1, true)",
                vec![claims, "7"],
            ),
            (
                "SELECT set_config('app.tenant_id', 'acme', true), set_config('request.jwt.claims', $1, true)",
                vec![claims],
            ),
            (paired, vec![pairs]),
            (&literal, vec![]),
            (&among, vec![]),
        ] {
            // A Query runs as it stands, for the tenant of its transaction: it chooses in front of everything else.
            let fronts: &[&str] = if values.is_empty() { &["BEGIN"] } else { &["BEGIN", "BEGIN; SELECT 1"] };
            for front in fronts {
                other.query(WHO).await;
                let set = choose(&mut link, front, (text, &values)).await;
                assert!(set.code().is_none(), "{text}: {set}");
                assert_eq!(link.query(WHO).await.value(), "acme", "{text}");
                assert!(link.query(CLAIMS).await.value().contains("acme"), "{text}");
                link.query("COMMIT").await;
                assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{text}");
                assert_eq!(link.query(CLAIMS).await.column().concat(), "", "{text}: for the transaction");
            }
        }
        // Prepared once.
        let prepared =
            [message::parse("s", "SELECT set_config('request.jwt.claims', $1, true)"), message::sync()]
                .concat();
        assert_eq!(link.ask(prepared).await, "1 Z(I)");
        for tenant in ["acme", "globex", "acme"] {
            link.query("BEGIN").await;
            let claims = format!(r#"{{"app":{{"tenant_id":"{tenant}"}}}}"#);
            link.ask([message::rerun("s", &[&claims]), message::sync()].concat()).await;
            assert_eq!(link.query(WHO).await.value(), tenant);
            link.query("COMMIT").await;
        }
    }
}

#[tokio::test]
async fn claims_without_a_tenant_that_is_granted_are_refused() {
    for (_cluster, proxy) in known().await {
        for user in ["api", "acme_app"] {
            let mut link = proxy.link(user).await;
            let bound = "SELECT set_config('request.jwt.claims', $1, true)";
            for (text, value, codes) in [
                (bound, r#"{"app":{"tenant_id":"initech"}}"#, ["28000", "42501"]),
                (bound, r#"{"app":{"tenant_id":""}}"#, ["22023", "22023"]),
                (bound, r#"{"app":{"tenant_id":null}}"#, ["22023", "22023"]),
                (bound, r#"{"app":{"tenant_id":["acme"]}}"#, ["22023", "22023"]),
                (bound, r#"{"app":{"tenant_id":7.5}}"#, ["22023", "22023"]),
                (bound, r#"{"tenant_id":"acme"}"#, ["22023", "22023"]),
                (bound, r#"{"app":{"tenant_id":"acme"}"#, ["22023", "22023"]),
                (bound, "", ["22023", "22023"]),
                (
                    "SELECT set_config('request.jwt.claims', $1, false)",
                    r#"{"app":{"tenant_id":"acme"}}"#,
                    ["42501", "42501"],
                ),
                (
                    "SELECT set_config('request.jwt.claims', $1 || '', true)",
                    r#"{"app":{"tenant_id":"acme"}}"#,
                    ["42501", "42501"],
                ),
                (
                    "SELECT set_config('app.tenant_id', 'globex', true), set_config('request.jwt.claims', $1, true)",
                    r#"{"app":{"tenant_id":"acme"}}"#,
                    ["0A000", "0A000"],
                ),
            ] {
                let refused = link.extended(text, &[value]).await;
                let code = codes[usize::from(user != "api")];
                let got = refused.code().unwrap_or_default();
                assert!(
                    got == code || (user != "api" && got == codes[0]),
                    "{user}: {text}: {value}: {refused}"
                );
            }
            let claims = r#"{"app":{"tenant_id":"acme"}}"#;
            let set =
                link.extended("SELECT set_config($2, $1, false)", &[claims, "request.jwt.claims"]).await;
            assert_eq!(set.code().as_deref(), Some("0A000"), "{user}: for the session: {set}");
            for text in [
                r#"SET request.jwt.claims = '{"app":{"tenant_id":"acme"}}'"#,
                "SET LOCAL request.jwt.claims TO DEFAULT",
                "RESET request.jwt.claims",
            ] {
                assert_eq!(link.query(text).await.code().as_deref(), Some("42501"), "{user}: {text}");
            }
        }
    }
}
