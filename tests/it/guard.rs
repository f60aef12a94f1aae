//! What the guard refuses besides changes of the context: texts that would cost others, and settings and names by which
//! one tenant would be felt by the next on the same server.

use crate::support::{Cluster, Proxy, message};

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

fn costly_texts() -> Vec<String> {
    let many = |front: &str, piece: &str, back: &str| format!("{front}{}{back}", piece.repeat(10_000));
    vec![
        many("SELECT 1 ", "/*", &"*/".repeat(10_000)),
        many("SELECT 1 /*", "/**/", "*/"),
        many("SELECT ", "+", "1"),
        many("SELECT ", "-+", "1"),
        format!("SELECT 1 FROM notes{}", " NATURAL FULL JOIN notes".repeat(9)),
        format!("WITH {} SELECT 1", vec!["x AS (SELECT 1)"; 65].join(",")),
        format!("SELECT 1 FROM notes GROUP BY {}", vec!["id"; 1_000].join(",")),
    ]
}

#[tokio::test]
async fn a_text_over_a_bound_is_refused_as_a_limit_and_reaches_no_server() {
    let cluster = Cluster::start().await;
    for guard in ["strict", "context"] {
        let proxy = Proxy::start(&cluster, |config| {
            config.one_server();
            config.set("tenancy.guard", guard);
        })
        .await;
        let (mut acme, mut globex) = (proxy.link("acme_app").await, proxy.link("globex_app").await);
        for text in costly_texts() {
            let answer = acme.query(&text).await;
            assert_eq!(answer, "E(54000) Z(I)", "{text:.40}");
            let fault = answer.fault();
            assert!(fault.detail.unwrap().starts_with("rule \"costly-text\": ") && fault.hint.is_some());
            let answer = acme.ask([message::unnamed(&text, &[]), message::sync()].concat()).await;
            assert_eq!(answer.code().as_deref(), Some("54000"), "extended: {text:.40}: {answer}");
            assert_eq!(globex.query(WHO).await.value(), "globex");
        }
        assert_eq!(acme.query(WHO).await.value(), "acme", "the connection stays");
        let labels = [("tenant", "acme"), ("rule", "costly-text")];
        assert_eq!(proxy.metrics().await.sum("pgtenant_guard_refusals_total", &labels), 14.0);
    }
}

#[tokio::test]
async fn what_a_user_may_not_set_it_cannot_ask_for_at_startup() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set_user("globex_app", "allow", vec!["explain", "planner"]);
    })
    .await;
    let ways: [(&[(&str, &str)], &str); 4] = [
        (&[("enable_seqscan", "off")], "planner"),
        (&[("options", "-c plan_cache_mode=force_generic_plan")], "planner"),
        (&[("options", "-c work_mem=1MB --Debug_Print_Plan=on")], "explain"),
        (&[("auto_explain.log_analyze", "on")], "explain"),
    ];
    for (parameters, rule) in ways {
        let fault = proxy.login("acme_app", parameters).await.err().expect("it is refused");
        assert_eq!(fault.code, "42501", "{parameters:?}");
        assert!(fault.detail.unwrap().contains(rule), "{parameters:?}");
        let mut granted = proxy.link_with("globex_app", parameters).await;
        assert_eq!(granted.query(WHO).await.value(), "globex", "{parameters:?}");
    }
    let mut other = proxy.link_with("acme_app", &[("jit", "off"), ("work_mem", "1MB")]).await;
    assert_eq!(other.query("SHOW jit").await.value(), "off");
}

#[tokio::test]
async fn no_temporary_object_takes_a_types_name_from_the_databases_functions() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "CREATE FUNCTION said(x int) RETURNS text LANGUAGE plpgsql AS \
             $$ DECLARE t text := 'said ' || x; BEGIN RETURN t; END $$",
        )
        .await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let (mut acme, mut globex) = (proxy.link("acme_app").await, proxy.link("globex_app").await);
    for sql in [
        "CREATE TEMP TABLE \"text\" (x int); SELECT said(1)",
        "CREATE TEMP TABLE t (x int); ALTER TABLE t RENAME TO text; SELECT said(1)",
        "SELECT 1 AS x INTO TEMP text; SELECT said(1)",
        "CREATE TEMP VIEW pg_temp.text AS SELECT 1; SELECT said(1)",
    ] {
        let answer = acme.query(sql).await;
        assert_eq!(answer, "E(42501) Z(I)", "{sql}");
        assert!(answer.fault().detail.unwrap().contains("temporary-type-name"), "{sql}");
        assert_eq!(globex.query("SELECT said(1)").await.value(), "said 1", "after {sql}");
    }
}

#[tokio::test]
async fn no_plan_is_printed_to_a_tenant() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut link = proxy.link("acme_app").await;
    link.query("SET client_min_messages = log").await;
    for sql in [
        "SET debug_print_plan = on",
        "SET LOCAL debug_print_parse = on",
        "SELECT set_config('debug_print_rewritten', 'on', false)",
        "SET auto_explain.log_min_duration = 0",
    ] {
        assert_eq!(link.query(sql).await, "E(42501) Z(I)", "{sql}");
        let shown = link.query("SELECT id FROM notes WHERE body = 'x'").await.to_string();
        assert!(!shown.contains('N') && !shown.contains("plan_rows"), "{sql}: {shown}");
    }
}
