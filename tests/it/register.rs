//! The register: what `pgtenant.hand_over` enters lasts until the next hand-over, and SQL of the login role can
//! neither change nor read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtenant::directory::SealKey;
use pgtenant::seal::{hand_over_proof, proof};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::cluster::{APP_PASSWORD, first_column};
use crate::support::config::Config;
use crate::support::proxy::run;
use crate::support::{Cluster, eventually, within};

#[path = "support/register_attacks.rs"]
mod attacks;

const KEY: [u8; 32] = [0x5a; 32];
const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

/// A database as `protect` left it before there was a register.
const BEFORE: &str = include_str!("support/before_register.sql");

/// Runs `pgtenant protect`; exit code and what was said.
fn protect(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    pgtenant(cluster, &[&["protect"], arguments].concat())
}

fn pgtenant(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    let mut config = Config::new(cluster);
    config.set("tenancy.context", "sealed");
    config.set("tenancy.seal_key", KEY.map(|byte| format!("{byte:02x}")).concat());
    let (_directory, path) = config.to_file();
    run(&[arguments, &["--config", &path]].concat())
}

async fn protected() -> [Cluster; 2] {
    let clusters = [Cluster::start().await, Cluster::postgres18().await];
    for cluster in &clusters {
        let (code, text) = protect(cluster, &["--apply"]);
        assert_eq!(code, 0, "{text}");
    }
    clusters
}

/// The login role, straight to the server.
async fn login(cluster: &Cluster) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(cluster.port()).user("app").password(APP_PASSWORD).dbname("app");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn pid_and_time(client: &Client) -> (u32, u64) {
    let sql = "SELECT pg_backend_pid(), date_part('epoch', clock_timestamp())::int8";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get::<_, i32>(0).unsigned_abs(), row.get::<_, i64>(1).unsigned_abs())
}

fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Resets and hands over as the proxy does.
async fn hand_over(client: &Client, tenant: &str) {
    let nonce = nonce();
    let reset = format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET SESSION AUTHORIZATION DEFAULT; RESET ALL;
         CLOSE ALL; DISCARD TEMP; DISCARD SEQUENCES; SET pgtenant.nonce = '{nonce}'"
    );
    client.batch_execute(&reset).await.unwrap();
    let (pid, now) = pid_and_time(client).await;
    let proof = hand_over_proof(&SealKey::new(KEY), tenant, pid, now + 30, &nonce);
    assert_eq!(entered(client, tenant, &proof).await, Ok(nonce));
}

/// What `hand_over` answers, or its SQLSTATE.
async fn entered(client: &Client, tenant: &str, proof: &str) -> Result<String, String> {
    let outcome = client.query_one("SELECT pgtenant.hand_over($1, $2)", &[&tenant, &proof]).await;
    outcome.map(|row| row.get(0)).map_err(|error| error.code().unwrap().code().to_owned())
}

async fn first(client: &Client, sql: &str) -> Result<String, String> {
    first_column(client, sql).await.map(|mut rows| rows.remove(0))
}

/// Whether `current_tenant` says that there is none: another one's register, or an empty one.
fn is_refused<T>(outcome: &Result<T, String>) -> bool {
    outcome.as_ref().err().is_some_and(|code| code == "28000" || code == "55000")
}

#[tokio::test]
async fn a_hand_over_lasts_until_the_next_one() {
    for cluster in protected().await {
        let client = login(&cluster).await;
        assert_eq!(first(&client, WHO).await, Err("28000".to_owned()), "nobody was handed over to");
        for tenant in ["acme", "globex", "initech", "acme"] {
            hand_over(&client, tenant).await;
            for _ in 0..2 {
                assert_eq!(first(&client, WHO).await, Ok(tenant.to_owned()));
                client.batch_execute("BEGIN; ROLLBACK").await.unwrap();
            }
            assert_eq!(first(&client, "SELECT pgtenant.current_tenant()").await, Ok(tenant.to_owned()));
            assert_eq!(first(&client, "SELECT current_setting('pgtenant.nonce')").await, Ok(String::new()));
        }
    }
}

#[tokio::test]
async fn a_hand_over_needs_its_reset_its_process_its_tenant_and_its_time() {
    for cluster in protected().await {
        let (client, other) = (login(&cluster).await, login(&cluster).await);
        let (key, refused) = (SealKey::new(KEY), Err("28000".to_owned()));
        let (pid, now) = pid_and_time(&client).await;
        let nonce = nonce();
        let good = hand_over_proof(&key, "acme", pid, now + 30, &nonce);
        let set = |nonce: &str| format!("SET pgtenant.nonce = '{nonce}'");
        assert_eq!(entered(&client, "acme", &good).await, refused, "no nonce");
        for wrong in
            ["", "x", &nonce[1..], &format!("{nonce}0"), &nonce.to_uppercase(), &format!("{nonce}\n")]
        {
            client.batch_execute(&set(wrong)).await.unwrap();
            let proof = hand_over_proof(&key, "acme", pid, now + 30, wrong);
            assert_eq!(entered(&client, "acme", &proof).await, refused, "nonce {wrong:?}");
            assert_eq!(entered(&client, "acme", &good).await, refused, "nonce {wrong:?}");
        }
        other.batch_execute(&set(&nonce)).await.unwrap();
        assert_eq!(entered(&other, "acme", &good).await, refused, "another process");
        client.batch_execute(&set(&nonce)).await.unwrap();
        for (why, tenant, proof) in [
            ("another tenant", "globex", good.clone()),
            ("no tenant", "", hand_over_proof(&key, "", pid, now + 30, &nonce)),
            ("expired", "acme", hand_over_proof(&key, "acme", pid, now - 2, &nonce)),
            (
                "another key",
                "acme",
                hand_over_proof(&SealKey::new([0xc3; 32]), "acme", pid, now + 30, &nonce),
            ),
            ("a proof of enter", "acme", proof(&key, "acme", pid, now + 30)),
            ("no proof", "acme", String::new()),
            ("no fields", "acme", "..".to_owned()),
            ("a part", "acme", good[..good.len() - 1].to_owned()),
            ("no time", "acme", good.replace(&format!(".{}.", now + 30), ".NaN.")),
        ] {
            assert_eq!(entered(&client, tenant, &proof).await, refused, "{why}");
            client.batch_execute(&format!("SET app.tenant_id = '{tenant}'")).await.unwrap();
            let now = first(&client, "SELECT pgtenant.current_tenant()").await;
            assert!(is_refused(&now), "{why}: {now:?}");
        }
        assert_eq!(entered(&client, "acme", &good).await, Ok(nonce.clone()));
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
        assert_eq!(entered(&client, "acme", &good).await, refused, "a second time");
    }
}

#[tokio::test]
async fn enter_serves_beside_the_register() {
    for cluster in protected().await {
        let client = login(&cluster).await;
        let (pid, now) = pid_and_time(&client).await;
        let old = proof(&SealKey::new(KEY), "globex", pid, now + 30);
        for _ in 0..2 {
            client.batch_execute("BEGIN").await.unwrap();
            client.execute("SELECT pgtenant.enter($1, $2)", &[&"globex", &old]).await.unwrap();
            assert_eq!(first(&client, WHO).await, Ok("globex".to_owned()));
            client.batch_execute("COMMIT").await.unwrap();
            let after = first(&client, WHO).await;
            assert!(is_refused(&after), "{after:?}");
        }
        hand_over(&client, "acme").await;
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
    }
}

// === attacks ===

const GLOBEX: &str = "SET app.tenant_id = 'globex'";

/// Looks that the session is not globex's, whatever it says, and that acme's is still there or is gone.
async fn assert_only_acme(client: &Client, attack: &str) {
    client.batch_execute("ROLLBACK").await.unwrap();
    let ask = "SET search_path = public; SET row_security = on; SELECT pgtenant.current_tenant()";
    let other = first(client, &format!("{GLOBEX}; {ask}")).await;
    assert!(other.is_err(), "{attack}: {other:?}");
    let own = first(client, &format!("SET app.tenant_id = 'acme'; {ask}")).await;
    assert!(own.is_err() || own == Ok("acme".to_owned()), "{attack}: {own:?}");
    for read in ["currval('pgtenant.register_1')", "last_value FROM pgtenant.register_2"] {
        assert_eq!(first(client, &format!("SELECT {read}")).await, Err("42501".to_owned()), "{attack}");
    }
}

/// What acme did to its own rows is undone.
const ACMES_ROWS: &str = "DELETE FROM notes WHERE tenant_id = 'acme';
                          INSERT INTO notes (tenant_id, body) SELECT 'acme', 'note ' || n || ' of acme' FROM generate_series(1, 10) AS n";

/// Sends the attack, as one text and statement by statement, because a text stops at its first error.
async fn attempt(client: &Client, attack: &str) {
    let statements = attack.split(";;").map(|statement| statement.trim().to_owned());
    for text in std::iter::once(attack.replace(";;", ";")).chain(statements) {
        for message in client.simple_query(&text).await.unwrap_or_default() {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let seen: Vec<_> = (0..row.len()).filter_map(|column| row.get(column)).collect();
            assert!(!seen.iter().any(|value| value.contains("of globex")), "{attack}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn sql_of_the_login_role_neither_moves_nor_reads_the_register() {
    for cluster in protected().await {
        let (client, superuser) = (login(&cluster).await, cluster.superuser().await);
        for attack in attacks::TEXTS {
            superuser.batch_execute(ACMES_ROWS).await.unwrap();
            hand_over(&client, "acme").await;
            assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()), "before {attack}");
            attempt(&client, attack).await;
            assert_only_acme(&client, attack).await;
        }
        let count =
            "SELECT count(*) FILTER (WHERE body LIKE 'note % of globex') || '/' || count(*) FROM notes
                     WHERE tenant_id = 'globex'";
        assert_eq!(cluster.value(count).await, "10/10", "globex's rows are as they were");
    }
}

/// Looks what a session says while a client's setting lasts, and whether it can be handed over.
async fn under_setting(client: &Client, setting: &str) {
    hand_over(client, "acme").await;
    let set = client.batch_execute(setting).await;
    assert!(set.is_ok() || attacks::VERSIONED.contains(&setting), "{setting}: {set:?}");
    for tenant in ["acme", "globex"] {
        drop(client.batch_execute(&format!("SET app.tenant_id = '{tenant}'")).await);
        let seen = first(client, "SELECT pgtenant.current_tenant()").await;
        assert!(seen.is_err() || seen == Ok("acme".to_owned()), "{setting}: {seen:?}");
    }
    let (pid, now) = pid_and_time(client).await;
    let nonce = nonce();
    client.batch_execute(&format!("SET pgtenant.nonce = '{nonce}'")).await.unwrap();
    let proof = hand_over_proof(&SealKey::new(KEY), "initech", pid, now + 30, &nonce);
    assert!(entered(client, "globex", &proof).await.is_err(), "{setting}");
    // It succeeds or fails as a whole.
    let now = if entered(client, "initech", &proof).await == Ok(nonce) { "initech" } else { "acme" };
    client.batch_execute("RESET ALL").await.unwrap();
    for tenant in ["acme", "globex", "initech"] {
        client.batch_execute(&format!("SET app.tenant_id = '{tenant}'")).await.unwrap();
        let seen = first(client, WHO).await;
        assert!(seen.is_err() || (tenant == now && seen == Ok(tenant.to_owned())), "{setting}: {seen:?}");
    }
}

#[tokio::test]
async fn settings_of_a_client_bend_neither_the_hand_over_nor_the_question() {
    for cluster in protected().await {
        let client = login(&cluster).await;
        for setting in attacks::SETTINGS {
            under_setting(&client, setting).await;
        }
    }
}

#[tokio::test]
async fn an_error_does_not_tell_whether_another_tenant_has_a_row() {
    let settings = [GLOBEX, "SET app.tenant_id = ''", "RESET app.tenant_id", "SET app.tenant_id = 'nobody'"];
    for cluster in protected().await {
        let client = login(&cluster).await;
        let theirs = cluster.value("SELECT min(id) FROM notes WHERE tenant_id = 'globex'").await;
        let texts = [&*theirs, "99999"].map(|id| {
            ["SELECT body FROM notes", "UPDATE notes SET body = ''"]
                .map(|sql| format!("{sql} WHERE id = {id}"))
        });
        for scans in ["enable_seqscan", "enable_indexscan"] {
            hand_over(&client, "acme").await;
            client.batch_execute(&format!("SET {scans} = off; SET enable_bitmapscan = off")).await.unwrap();
            for (setting, sql) in
                settings.iter().flat_map(|one| texts.as_flattened().iter().map(move |sql| (one, sql)))
            {
                client.batch_execute(setting).await.unwrap();
                let outcome = first_column(&client, sql).await;
                assert_eq!(outcome, Err("28000".to_owned()), "{scans} off, {setting}: {sql}");
            }
        }
    }
}

const INVOKER: &str = "CREATE FUNCTION pg_temp.who() RETURNS text LANGUAGE sql STABLE AS
                       'SELECT string_agg(DISTINCT tenant_id, '','') FROM public.notes'";

/// Hands over, and runs what was prepared for whoever came first, often enough for a generic plan.
async fn shows(client: &Client, (statement, mode): (&tokio_postgres::Statement, &str), tenant: &str) {
    hand_over(client, tenant).await;
    client.batch_execute(&format!("SET plan_cache_mode = {mode}; {INVOKER}")).await.unwrap();
    for _ in 0..7 {
        let row = client.query_one(statement, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), tenant, "{mode}");
        for ask in ["EXECUTE who", "SELECT pg_temp.who()"] {
            assert_eq!(first(client, ask).await, Ok(tenant.to_owned()), "{mode}: {ask}");
        }
    }
}

#[tokio::test]
async fn statements_plans_and_cursors_show_the_tenant_of_now() {
    for cluster in protected().await {
        for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
            let client = login(&cluster).await;
            hand_over(&client, "acme").await;
            let statement = client.prepare(WHO).await.unwrap();
            let held = "DECLARE held CURSOR WITH HOLD FOR SELECT DISTINCT tenant_id FROM notes";
            client.batch_execute(&format!("PREPARE who AS {WHO}; {held}")).await.unwrap();
            for tenant in ["acme", "globex", "acme", "initech"] {
                shows(&client, (&statement, mode), tenant).await;
            }
            assert_eq!(first(&client, "FETCH held").await, Err("34000".to_owned()), "the reset closed it");
        }
    }
}

#[tokio::test]
async fn functions_of_the_tables_owner_have_no_right_to_the_register() {
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster
            .execute(
                "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT ALL ON SEQUENCES TO app;
                 ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT ALL ON FUNCTIONS TO app;
                 SET ROLE app_owner;
                 CREATE FUNCTION renumber(s text, n bigint) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT setval(s::regclass, n)';
                 CREATE FUNCTION number(s text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT currval(s::regclass)';
                 CREATE FUNCTION on_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                     'BEGIN PERFORM setval(tg_argv[0]::regclass, 5); RETURN new; END'",
            )
            .await;
        let (code, text) = protect(&cluster, &["--apply"]);
        assert_eq!(code, 0, "{text}");
        let client = login(&cluster).await;
        hand_over(&client, "acme").await;
        client.batch_execute("CREATE TEMP TABLE mine (n int)").await.unwrap();
        client
            .batch_execute(
                "CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION on_change('pgtenant.register_1')",
            )
            .await
            .unwrap();
        for sql in [
            "SELECT renumber('pgtenant.register_1', 5)",
            "SELECT number('pgtenant.register_1')",
            "INSERT INTO mine VALUES (1)",
            "SELECT pgtenant.add_key('00')",
            "SELECT * FROM pgtenant.key",
        ] {
            assert_eq!(first(&client, sql).await, Err("42501".to_owned()), "{sql}");
        }
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
        let sound = "SELECT renumber('notes_id_seq', 5)";
        assert_eq!(
            first(&client, sound).await,
            Ok("5".to_owned()),
            "the functions work where their owner may"
        );
    }
}

#[tokio::test]
async fn what_fails_or_is_rolled_back_in_a_hand_over_leaves_one_tenant_or_none() {
    for cluster in protected().await {
        let (client, key) = (login(&cluster).await, SealKey::new(KEY));
        hand_over(&client, "acme").await;
        // Rolled back: the setting is acme's again, the register is globex's.
        let (pid, now) = pid_and_time(&client).await;
        let nonce = nonce();
        client.batch_execute(&format!("SET pgtenant.nonce = '{nonce}'; BEGIN; SAVEPOINT a")).await.unwrap();
        let proof = hand_over_proof(&key, "globex", pid, now + 30, &nonce);
        assert_eq!(entered(&client, "globex", &proof).await, Ok(nonce));
        assert_eq!(first(&client, WHO).await, Ok("globex".to_owned()));
        client.batch_execute("ROLLBACK TO a").await.unwrap();
        assert_eq!(first(&client, WHO).await, Err("28000".to_owned()));
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(first(&client, WHO).await, Err("28000".to_owned()), "acme's setting, globex's register");
        // In a read-only transaction nothing changes.
        hand_over(&client, "acme").await;
        let nonce = self::nonce();
        client.batch_execute(&format!("SET pgtenant.nonce = '{nonce}'; BEGIN READ ONLY")).await.unwrap();
        let proof = hand_over_proof(&key, "globex", pid, now + 30, &nonce);
        assert_eq!(entered(&client, "globex", &proof).await, Err("25006".to_owned()));
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
        // An emptied register is nobody's.
        for empties in ["DISCARD SEQUENCES", "DISCARD ALL", "RESET ALL"] {
            hand_over(&client, "acme").await;
            client.batch_execute(empties).await.unwrap();
            assert!(is_refused(&first(&client, WHO).await), "{empties}");
        }
    }
}

#[tokio::test]
async fn errors_of_a_hand_over_do_not_carry_its_proof() {
    for cluster in protected().await {
        let client = login(&cluster).await;
        let (pid, now) = pid_and_time(&client).await;
        let (key, nonce) = (SealKey::new(KEY), nonce());
        client.batch_execute(&format!("SET pgtenant.nonce = '{nonce}'")).await.unwrap();
        for (tenant, expiry) in [("globex", now + 30), ("acme", now - 9)] {
            let proof = hand_over_proof(&key, "acme", pid, expiry, &nonce);
            let outcome = client.query_one("SELECT pgtenant.hand_over($1, $2)", &[&tenant, &proof]).await;
            let said = format!("{:?}", outcome.unwrap_err());
            let mac = &proof[proof.len() - 64..];
            assert!(said.contains("28000") && !said.contains(mac) && !cluster.log().contains(mac), "{said}");
        }
    }
}

// === installing ===

#[tokio::test]
async fn a_retired_enter_opens_to_no_proof_and_no_tag() {
    for cluster in protected().await {
        let client = login(&cluster).await;
        let (pid, now) = pid_and_time(&client).await;
        let old = proof(&SealKey::new(KEY), "globex", pid, now + 30);
        let enter = "SELECT pgtenant.enter($1, $2)";
        client.batch_execute("BEGIN").await.unwrap();
        client.execute(enter, &[&"globex", &old]).await.unwrap();
        let (code, text) = protect(&cluster, &["--retire-enter", "--apply"]);
        assert!(code == 0 && !text.contains("note: instances of earlier"), "{code}: {text}");
        assert!(is_refused(&first(&client, WHO).await), "a tag of before");
        client.batch_execute("ROLLBACK").await.unwrap();
        let refused = client.execute(enter, &[&"globex", &old]).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "28000");
        hand_over(&client, "acme").await;
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
        for arguments in [&[][..], &["--retire-enter"]] {
            let (code, text) = protect(&cluster, arguments);
            assert!(code == 0 && text.contains("nothing to do"), "for good: {code}, {text}");
        }
    }
}

/// The statements that protect names for an administrator.
fn for_an_administrator(text: &str) -> String {
    let (_, sql) = text.split_once("before protect is run again: ").unwrap_or_else(|| panic!("{text}"));
    sql.lines()
        .next()
        .unwrap()
        .replace("In a quiet moment: ", "")
        .replace(" then protect --apply at once.", "")
}

/// Looks that all of the register belongs to its role, which nobody is.
async fn assert_own_role(cluster: &Cluster) {
    let others = "SELECT count(*) FROM pg_class c, pg_proc p WHERE c.relname ~ '^register_' AND p.proname IN ('hand_over', 'enter', 'current_tenant')
                  AND (pg_get_userbyid(c.relowner) <> 'pgtenant_register' OR pg_get_userbyid(p.proowner) <> 'pgtenant_register')";
    assert_eq!(cluster.value(others).await, "0");
    let members = "SELECT count(*) FROM pg_auth_members m WHERE roleid = 'pgtenant_register'::regrole
                   AND coalesce((to_jsonb(m) ->> 'set_option')::bool OR (to_jsonb(m) ->> 'inherit_option')::bool, true)";
    assert_eq!(cluster.value(members).await, "0");
}

/// What the doctor says of the register, and how much that weighs.
fn said_of_register(cluster: &Cluster) -> Vec<String> {
    let (_, report) = pgtenant(cluster, &["doctor", "--json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&report).unwrap();
    let ours = rows.iter().filter(|row| row["id"] == "D52" || row["id"] == "D53");
    ours.map(|row| format!("{} {} {}", row["id"], row["severity"], row["object"]).replace('"', "")).collect()
}

#[tokio::test]
async fn an_owner_who_may_not_create_roles_owns_the_register_for_the_time() {
    let owned = ["D53 warning pgtenant.register_1", "D53 warning pgtenant.register_2"];
    for cluster in [Cluster::start().await, Cluster::postgres18().await] {
        cluster.execute("ALTER ROLE app_owner NOCREATEROLE").await;
        let (code, text) = protect(&cluster, &["--apply"]);
        assert!(code == 0 && text.contains("CREATE ROLE pgtenant_register NOLOGIN; GRANT"), "{code}: {text}");
        let client = login(&cluster).await;
        hand_over(&client, "acme").await;
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
        assert_eq!(said_of_register(&cluster), owned);
        // Whatever else runs as that owner can reach the register.
        cluster
            .execute("SET ROLE app_owner; CREATE FUNCTION definer() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
            .await;
        assert_eq!(said_of_register(&cluster)[0], "D52 critical function public.definer()");
        let (code, text) = protect(&cluster, &[]);
        assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
        cluster.execute(&for_an_administrator(&text)).await;
        let (code, text) = protect(&cluster, &["--apply"]);
        assert_eq!(code, 0, "{text}");
        assert_own_role(&cluster).await;
        assert_eq!(said_of_register(&cluster), Vec::<String>::new());
        assert!(is_refused(&first(&client, WHO).await), "the old register is gone");
        hand_over(&client, "acme").await;
        assert_eq!(first(&client, WHO).await, Ok("acme".to_owned()));
    }
}

#[tokio::test]
async fn what_the_registers_role_owns_changes_with_an_administrators_leave() {
    for cluster in protected().await {
        let take = "ALTER ROLE app_owner NOCREATEROLE; REVOKE pgtenant_register FROM app_owner;
                    ALTER FUNCTION pgtenant.hand_over SET search_path = public";
        cluster.execute(take).await;
        let (code, text) = protect(&cluster, &["--apply"]);
        assert!(
            code == 1 && text.contains("NOT PROTECTED") && !text.contains("CREATE ROLE"),
            "{code}: {text}"
        );
        cluster.execute(&for_an_administrator(&text)).await;
        let (code, text) = protect(&cluster, &["--apply"]);
        assert!(code == 0 && text.contains("FUNCTION pgtenant.hand_over"), "{code}: {text}");
        assert_own_role(&cluster).await;
        let (code, text) = protect(&cluster, &[]);
        assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
    }
}

/// What is done to a protected database, what takes it back, and the check and object that name it.
const FAULTS: &[(&str, &str, &str, &str)] = &[
    (
        "GRANT UPDATE ON SEQUENCE pgtenant.register_1 TO app",
        "REVOKE ALL ON SEQUENCE pgtenant.register_1 FROM app",
        "D52",
        "pgtenant.register_1",
    ),
    (
        "GRANT USAGE ON SEQUENCE pgtenant.register_1 TO PUBLIC",
        "REVOKE ALL ON SEQUENCE pgtenant.register_1 FROM PUBLIC",
        "D52",
        "pgtenant.register_1",
    ),
    (
        "GRANT SELECT (last_value) ON pgtenant.register_2 TO app",
        "REVOKE ALL ON pgtenant.register_2 FROM app",
        "D52",
        "pgtenant.register_2",
    ),
    ("GRANT pg_write_all_data TO app", "REVOKE pg_write_all_data FROM app", "D52", "pgtenant.register_1"),
    ("GRANT pg_read_all_data TO app", "REVOKE pg_read_all_data FROM app", "D52", "pgtenant.register_2"),
    ("GRANT pgtenant_register TO app", "REVOKE pgtenant_register FROM app", "D52", "pgtenant.register_1"),
    ("GRANT pgtenant_register TO helper", "REVOKE pgtenant_register FROM helper", "D53", "role helper"),
    (
        "ALTER FUNCTION definer() OWNER TO pgtenant_register",
        "ALTER FUNCTION definer() OWNER TO helper",
        "D52",
        "function public.definer()",
    ),
    (
        "GRANT pg_write_all_data TO helper",
        "REVOKE pg_write_all_data FROM helper",
        "D52",
        "function public.definer()",
    ),
    (
        "ALTER ROLE pgtenant_register LOGIN",
        "ALTER ROLE pgtenant_register NOLOGIN",
        "D53",
        "role pgtenant_register",
    ),
    (
        "ALTER FUNCTION pgtenant.hand_over OWNER TO app_owner",
        "ALTER FUNCTION pgtenant.hand_over OWNER TO pgtenant_register",
        "D54",
        "pgtenant.hand_over(text, text)",
    ),
    (
        "ALTER FUNCTION pgtenant.current_tenant SET search_path = public",
        "ALTER FUNCTION pgtenant.current_tenant RESET search_path",
        "D54",
        "pgtenant.current_tenant()",
    ),
    (
        "ALTER FUNCTION pgtenant.hand_over RENAME TO x",
        "ALTER FUNCTION pgtenant.x RENAME TO hand_over",
        "D44",
        "pgtenant.hand_over(text, text)",
    ),
    (BEFORE, "", "D54", "pgtenant.enter(text, text)"),
];

/// Ways around: by roles of roles, by functions of others, by what its role may do.
const WAYS_AROUND: &[(&str, &str, &str, &str)] = &[
    (
        "CREATE ROLE middle; CREATE ROLE far; GRANT far TO middle; GRANT middle TO app; ALTER ROLE app NOINHERIT; ALTER ROLE middle NOINHERIT;
         GRANT UPDATE ON SEQUENCE pgtenant.register_2 TO far",
        "REVOKE ALL ON SEQUENCE pgtenant.register_2 FROM far; REVOKE middle FROM app; ALTER ROLE app INHERIT",
        "D52",
        "pgtenant.register_2",
    ),
    (
        "GRANT USAGE ON SEQUENCE pgtenant.register_1 TO app WITH GRANT OPTION",
        "REVOKE ALL ON SEQUENCE pgtenant.register_1 FROM app",
        "D52",
        "pgtenant.register_1",
    ),
    (
        "ALTER FUNCTION definer() OWNER TO app_owner; GRANT UPDATE ON SEQUENCE pgtenant.register_1 TO app_owner",
        "REVOKE ALL ON SEQUENCE pgtenant.register_1 FROM app_owner; ALTER FUNCTION definer() OWNER TO helper",
        "D52",
        "function public.definer()",
    ),
    (
        "CREATE FUNCTION sets_what_it_is_given() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS 'BEGIN PERFORM setval(NEW.name::regclass, NEW.value); RETURN NEW; END'",
        "DROP FUNCTION sets_what_it_is_given",
        "D52",
        "function public.sets_what_it_is_given()",
    ),
    (
        "CREATE FUNCTION helper_sets(name text, value bigint) RETURNS bigint LANGUAGE sql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS 'SELECT setval(name::regclass, value)';
         ALTER FUNCTION helper_sets OWNER TO pgtenant_register",
        "DROP FUNCTION helper_sets",
        "D52",
        "function public.helper_sets(text,bigint)",
    ),
    (
        "ALTER ROLE pgtenant_register BYPASSRLS CREATEROLE",
        "ALTER ROLE pgtenant_register NOBYPASSRLS NOCREATEROLE",
        "D53",
        "role pgtenant_register",
    ),
];

/// From PostgreSQL 16 on a membership can be to administer a role, to inherit from it, or to become it.
const FAULTS_FROM_16: &[(&str, &str, &str, &str)] = &[
    (
        "GRANT pgtenant_register TO helper WITH SET TRUE, INHERIT FALSE",
        "REVOKE pgtenant_register FROM helper",
        "D53",
        "role helper",
    ),
    (
        "GRANT pgtenant_register TO helper WITH SET FALSE, INHERIT TRUE",
        "REVOKE pgtenant_register FROM helper",
        "D53",
        "role helper",
    ),
];

/// Each is named by its check; the first way around that a check names is a reason not to serve.
async fn each_fault_is_critical(cluster: &Cluster, faults: &[&[(&str, &str, &str, &str)]]) {
    let (code, text) = protect(cluster, &["--apply"]);
    assert_eq!(code, 0, "{text}");
    let criticals = || {
        let (_, report) = pgtenant(cluster, &["doctor", "--json"]);
        let mut rows: Vec<serde_json::Value> = serde_json::from_str(&report).unwrap();
        rows.retain(|row| row["severity"] == "critical");
        rows
    };
    // A trigger's function too: everybody may hang it on a temporary table.
    let definer =
        "CREATE ROLE helper; CREATE FUNCTION definer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                   SET search_path = pg_catalog AS 'BEGIN END'; ALTER FUNCTION definer() OWNER TO helper";
    cluster.execute(definer).await;
    assert_eq!(criticals(), Vec::<serde_json::Value>::new());
    let mut refused = std::collections::HashSet::new();
    for (fault, undo, id, object) in faults.iter().copied().flatten() {
        cluster.execute(fault).await;
        let found = criticals();
        let is_it =
            |row: &serde_json::Value| row["id"] == *id && row["object"] == *object && row["fix"] != "";
        assert!(found.iter().any(is_it), "{fault}: {found:#?}");
        if faults != [FAULTS] && refused.insert(*id) {
            let (code, log) = serve(cluster).await;
            assert!(code == Some(1) && log.contains(id), "{fault}: {code:?} {log}");
        }
        cluster.execute(undo).await;
    }
}

/// Exit code and log of a `serve` that does not begin.
async fn serve(cluster: &Cluster) -> (Option<i32>, String) {
    let mut config = Config::new(cluster);
    crate::doctor::with_ports(&mut config);
    crate::protect::sealed(&mut config, KEY);
    let (_directory, path) = config.to_file();
    crate::doctor::serve(&path).await
}

#[tokio::test]
async fn what_reaches_the_register_from_outside_is_critical() {
    each_fault_is_critical(&Cluster::start().await, &[FAULTS]).await;
}

#[tokio::test]
async fn what_reaches_the_register_from_outside_is_critical_on_18() {
    each_fault_is_critical(&Cluster::postgres18().await, &[FAULTS]).await;
}

#[tokio::test]
async fn ways_around_the_registers_privileges_are_critical_and_not_served() {
    each_fault_is_critical(&Cluster::start().await, &[WAYS_AROUND]).await;
}

#[tokio::test]
async fn ways_around_the_registers_privileges_are_critical_and_not_served_on_18() {
    each_fault_is_critical(&Cluster::postgres18().await, &[WAYS_AROUND, FAULTS_FROM_16]).await;
}

#[tokio::test]
async fn protect_names_what_it_cannot_take_back() {
    let cluster = Cluster::start().await;
    let (code, text) = protect(&cluster, &["--apply"]);
    assert_eq!(code, 0, "{text}");
    cluster.execute("ALTER ROLE app_owner NOCREATEROLE; CREATE ROLE helper; CREATE ROLE crew").await;
    for (fault, wanted) in [
        ("GRANT pgtenant_register TO helper", "REVOKE pgtenant_register FROM helper"),
        ("GRANT pg_write_all_data TO app", "REVOKE pg_write_all_data FROM app"),
        ("ALTER ROLE pgtenant_register LOGIN", "ALTER ROLE pgtenant_register NOLOGIN"),
        ("GRANT crew TO pgtenant_register", "REVOKE crew FROM pgtenant_register"),
        (
            "CREATE TABLE other (); ALTER TABLE other OWNER TO pgtenant_register",
            "table public.other belongs to pgtenant_register",
        ),
    ] {
        cluster.execute(fault).await;
        let (code, text) = protect(&cluster, &["--apply"]);
        assert!(code == 1 && text.contains("NOT PROTECTED: ") && text.contains(wanted), "{fault}: {text}");
    }
    cluster.execute("DROP SEQUENCE pgtenant.register_1; CREATE SEQUENCE pgtenant.register_1; ALTER SEQUENCE pgtenant.register_1 OWNER TO app_owner").await;
    let (code, text) = protect(&cluster, &["--apply"]);
    assert!(code == 2 && text.contains("is not as protect makes it"), "{code}: {text}");
}

// === the upgrade ===

/// An instance of before the register: a context for each transaction.
async fn old_instance(client: Client, served: Arc<AtomicU64>) -> Result<(), String> {
    let (pid, now) = pid_and_time(&client).await;
    let old = proof(&SealKey::new(KEY), "globex", pid, now + 600);
    loop {
        client.batch_execute("BEGIN").await.map_err(|error| error.to_string())?;
        let entered = client.execute("SELECT pgtenant.enter($1, $2)", &[&"globex", &old]).await;
        entered.map_err(|error| format!("{error:?}"))?;
        let seen = first(&client, WHO).await;
        client.batch_execute("COMMIT").await.map_err(|error| error.to_string())?;
        if seen != Ok("globex".to_owned()) {
            return Err(format!("{seen:?}"));
        }
        served.fetch_add(1, Ordering::Relaxed);
    }
}

/// An instance of now, which waits for the functions and hands over to one tenant after the other.
async fn new_instance(client: Client, served: Arc<AtomicU64>) -> Result<(), String> {
    loop {
        for tenant in ["acme", "initech"] {
            let nonce = nonce();
            client
                .batch_execute(&format!("RESET ALL; DISCARD SEQUENCES; SET pgtenant.nonce = '{nonce}'"))
                .await
                .map_err(|error| error.to_string())?;
            let (pid, now) = pid_and_time(&client).await;
            let proof = hand_over_proof(&SealKey::new(KEY), tenant, pid, now + 30, &nonce);
            match entered(&client, tenant, &proof).await {
                Ok(answer) if answer == nonce => {}
                Err(code) if code == "42883" && served.load(Ordering::Relaxed) == 0 => continue,
                other => return Err(format!("{other:?}")),
            }
            for _ in 0..3 {
                let seen = first(&client, WHO).await;
                if seen != Ok(tenant.to_owned()) {
                    return Err(format!("{seen:?}"));
                }
            }
            served.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs `protect` while other tasks go on.
async fn apply(cluster: &Arc<Cluster>, arguments: &'static [&'static str]) {
    let cluster = Arc::clone(cluster);
    let (code, text) = tokio::task::spawn_blocking(move || protect(&cluster, arguments)).await.unwrap();
    assert_eq!(code, 0, "{text}");
}

async fn goes_on(what: &str, served: &AtomicU64) {
    let before = served.load(Ordering::Relaxed);
    eventually(what, async || (served.load(Ordering::Relaxed) > before + 20).then_some(())).await;
}

#[tokio::test]
async fn instances_of_both_kinds_are_served_during_the_upgrade() {
    for cluster in protected().await {
        cluster.execute(BEFORE).await;
        let (old, new) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (one, two, open) = (login(&cluster).await, login(&cluster).await, login(&cluster).await);
        // A transaction that stays open holds up neither the upgrade nor anybody else.
        let (pid, now) = pid_and_time(&open).await;
        let kept = proof(&SealKey::new(KEY), "acme", pid, now + 600);
        open.batch_execute("BEGIN").await.unwrap();
        open.execute("SELECT pgtenant.enter($1, $2)", &[&"acme", &kept]).await.unwrap();
        assert_eq!(first(&open, WHO).await, Ok("acme".to_owned()));
        let cluster = Arc::new(cluster);
        let mut older = tokio::spawn(old_instance(one, Arc::clone(&old)));
        let newer = tokio::spawn(new_instance(two, Arc::clone(&new)));
        goes_on("the older instance to be served", &old).await;
        apply(&cluster, &["--apply"]).await;
        goes_on("the older instance to be served after the upgrade", &old).await;
        goes_on("the newer instance to be served", &new).await;
        assert_eq!(first(&open, WHO).await, Ok("acme".to_owned()), "the open transaction goes on");
        open.batch_execute("COMMIT").await.unwrap();
        assert!(!older.is_finished() && !newer.is_finished());
        apply(&cluster, &["--retire-enter", "--apply"]).await;
        let ended = within("the older instance to be refused", &mut older).await.unwrap().unwrap_err();
        assert!(ended.contains("28000") || ended.contains("55000"), "{ended}");
        goes_on("the newer instance to be served to the end", &new).await;
        newer.abort();
    }
}
