//! The register: what `pgtenant.hand_over` enters lasts until the next hand-over, and SQL of the login role can
//! neither change nor read it.

use pgtenant::directory::SealKey;
use pgtenant::seal::{hand_over_proof, proof};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::Cluster;
use crate::support::cluster::APP_PASSWORD;
use crate::support::config::Config;
use crate::support::proxy::run;

const KEY: [u8; 32] = [0x5a; 32];
const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

/// Runs `pgtenant protect`; exit code and what was said.
fn protect(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    let mut config = Config::new(cluster);
    config.set("tenancy.context", "sealed");
    config.set("tenancy.seal_key", KEY.map(|byte| format!("{byte:02x}")).concat());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgtenant.toml");
    std::fs::write(&path, config.text()).unwrap();
    run(&[&["protect", "--config", &path.display().to_string()], arguments].concat())
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
    let reset = format!("RESET ALL; DISCARD TEMP; DISCARD SEQUENCES; SET pgtenant.nonce = '{nonce}'");
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

/// The first column, or the SQLSTATE.
async fn first_column(client: &Client, sql: &str) -> Result<Vec<String>, String> {
    let messages = client.simple_query(sql).await.map_err(|error| error.code().unwrap().code().to_owned())?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    Ok(rows.collect())
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
