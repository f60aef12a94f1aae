//! A function of the database by which applications choose the tenant, as the configuration names it.

use crate::choosing::{WHO, both_with};
use crate::support::link::Answer;
use crate::support::{Cluster, Link, Proxy, message};

/// Functions that would show if they ran.
const FUNCTIONS: &str = "
    CREATE TABLE public.ran (who text);
    GRANT INSERT ON public.ran TO app;
    CREATE SCHEMA app;
    GRANT USAGE ON SCHEMA app TO app;
    CREATE FUNCTION app.set_tenant(t text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.ran VALUES (t); PERFORM set_config('app.tenant_id', t, true); END $$;
    CREATE FUNCTION app.tell_tenant(t text) RETURNS text LANGUAGE sql AS
        $$ INSERT INTO public.ran VALUES (t); SELECT set_config('app.tenant_id', t, true) $$;
    CREATE FUNCTION app.count_tenant(t text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
";

/// Proxies in both modes that know the functions.
async fn known() -> Vec<(Cluster, Proxy)> {
    both_with(FUNCTIONS, |config| {
        config.one_server();
        let functions = ["app.set_tenant(text)", "app.tell_tenant(text)", "app.count_tenant(text)"];
        config.set("tenancy.chooser", functions.map(str::to_owned).to_vec());
    })
    .await
}

/// What runs in a block in front of a choice: nothing, so that it has no server, or something.
const FRONTS: [&[&str]; 2] = [&["BEGIN"], &["BEGIN", "SELECT 1"]];

async fn begin(link: &mut Link, front: &[&str]) {
    for text in front {
        link.query(text).await;
    }
}

async fn run(link: &mut Link, text: &str, values: &[&str]) -> Answer {
    if values.is_empty() { link.query(text).await } else { link.extended(text, values).await }
}

#[tokio::test]
async fn a_call_of_a_chooser_function_chooses_and_is_not_run() {
    for (cluster, proxy) in known().await {
        let mut other = proxy.link("globex_app").await;
        let mut link = proxy.link("any").await;
        for (text, values, row) in [
            ("SELECT app.set_tenant('acme')", vec![], ""),
            ("select Set_Tenant ( $1 )", vec!["acme"], ""),
            ("SELECT \"app\".\"set_tenant\"($1::text) AS x;", vec!["acme"], ""),
            ("SELECT * FROM app.set_tenant('acme'::text)", vec![], ""),
            ("select * from set_tenant($1) as t", vec!["acme"], ""),
            ("SELECT app.tell_tenant('acme')", vec![], "acme"),
            ("SELECT * FROM tell_tenant($1)", vec!["acme"], "acme"),
        ] {
            for front in FRONTS {
                other.query(WHO).await;
                begin(&mut link, front).await;
                assert_eq!(run(&mut link, text, &values).await.value(), row, "{text}");
                assert_eq!(link.query(WHO).await.value(), "acme", "{text}");
                assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
                assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"), "{text}: for its block");
            }
            // Outside a block, for the session.
            let chosen = link.extended(text, &values).await;
            assert_eq!(chosen.value(), row, "{text}: {chosen}");
            other.query(WHO).await;
            assert_eq!(link.query(WHO).await.value(), "acme", "{text}");
            assert_eq!(link.query("RESET app.tenant_id").await, "C(RESET) Z(I)");
        }
        assert_eq!(cluster.value("SELECT count(*) FROM public.ran").await, "0", "nothing ran");
    }
}

#[tokio::test]
async fn a_chooser_function_answers_as_it_would() {
    for (cluster, proxy) in known().await {
        let mut direct = cluster.link("acme").await;
        let mut link = proxy.link("any").await;
        for text in [
            "SELECT app.set_tenant($1)",
            "SELECT app.tell_tenant($1) AS \"X y\"",
            "SELECT * FROM app.set_tenant($1)",
            "SELECT * FROM app.tell_tenant($1)",
        ] {
            for front in FRONTS {
                begin(&mut direct, front).await;
                begin(&mut link, front).await;
                same(&mut link, &mut direct, ("", text)).await;
                same(&mut link, &mut direct, ("s", text)).await;
                let end = [message::query("ROLLBACK"), message::query("DEALLOCATE s")].concat();
                link.send(&end).await;
                direct.send(&end).await;
                assert_eq!(link.answers(2).await, direct.answers(2).await, "{text}");
            }
        }
    }
}

/// Prepared and run under this name, a statement is answered as PostgreSQL answers.
async fn same(link: &mut Link, direct: &mut Link, (name, text): (&str, &str)) {
    let prepare = [message::parse(name, text), message::describe_statement(name), message::sync()];
    let run = [
        message::bind_binary("", name, b"acme"),
        message::describe_portal(""),
        message::execute("", 0),
        message::sync(),
    ];
    for bytes in [prepare.concat(), run.concat()] {
        let (got, wanted) = (link.ask(&bytes).await.bytes(), direct.ask(&bytes).await.bytes());
        assert_eq!(got, wanted, "{text}");
    }
}

#[tokio::test]
async fn a_chooser_function_in_another_form_is_refused() {
    for (cluster, proxy) in known().await {
        for user in ["api", "acme_app"] {
            let mut link = proxy.link(user).await;
            for text in [
                "SELECT app.set_tenant('acme'), 1",
                "SELECT app.set_tenant('acme') FROM notes",
                "SELECT app.set_tenant(lower('ACME'))",
                "SELECT app.set_tenant(t => 'acme')",
                "SELECT app.set_tenant(NULL)",
                "SELECT app.set_tenant(tenant_id) FROM notes",
                "SELECT * FROM app.set_tenant('acme'), notes",
                "SELECT app.set_tenant('acme'); SELECT 1",
                "BEGIN; SELECT app.set_tenant('initech'); SELECT 1",
                "SELECT 1 WHERE \"set_tenant\" /* x */ ('initech') IS NULL",
                "DO $$ BEGIN PERFORM app.set_tenant('initech'); END $$",
                "SELECT other.set_tenant('initech')",
                "CALL app.set_tenant('initech')",
                "PREPARE p AS SELECT app.set_tenant('initech')",
                "UPDATE notes SET body = app.tell_tenant('initech')",
                // Of another type than the proxy can answer with.
                "SELECT app.count_tenant('acme')",
            ] {
                let refused = link.query(text).await;
                assert_eq!(refused.code().as_deref(), Some("42501"), "{user}: {text}: {refused}");
            }
            let choice = link.query("SELECT app.set_tenant('initech')").await;
            let code = if user == "api" { "28000" } else { "42501" };
            assert_eq!(choice.code().as_deref(), Some(code), "{user}: {choice}");
            assert!(link.extended("SELECT app.set_tenant($1)", &["initech"]).await.code().is_some());
        }
        let mut bound = proxy.link("acme_app").await;
        assert_eq!(bound.query("SELECT app.set_tenant('acme')").await.value(), "", "its own tenant");
        assert_eq!(bound.query(WHO).await.value(), "acme");
        // Who has no tenant runs it.
        let mut maintenance = proxy.link("migrate").await;
        cluster.execute("GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT INSERT ON public.ran TO PUBLIC").await;
        assert_eq!(maintenance.query("SELECT app.set_tenant('acme')").await.value(), "");
        assert_eq!(cluster.value("SELECT string_agg(who, ',') FROM public.ran").await, "acme");
    }
}

#[tokio::test]
async fn a_chooser_function_holds_for_one_transaction_where_the_user_says_so() {
    for (_cluster, proxy) in both_with(FUNCTIONS, |config| {
        config.one_server();
        config.set("tenancy.chooser", vec!["app.set_tenant(text)".to_owned()]);
        config.set_user("any", "choice", "transaction");
    })
    .await
    {
        let mut link = proxy.link("any").await;
        assert_eq!(link.extended("SELECT set_tenant($1)", &["acme"]).await.value(), "");
        assert_eq!(link.query(WHO).await.value(), "acme");
        assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
    }
}
