//! The guard against a real PostgreSQL: whatever it lets pass of texts made of fragments leaves the tenant's
//! setting, the role and the other tenants' rows as they were, and shows none of them. With the guard off the same
//! texts find a way in a moment, so the test can fail.
//!
//! `PGTENANT_FUZZ_SECONDS` makes it run longer, `PGTENANT_FUZZ_SEED` repeats a run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgtenant::directory::GuardLevel;
use pgtenant::guard::{Rules, Verdict, inspect};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::support::cluster::APP_PASSWORD;
use crate::support::link::Answer;
use crate::support::sql::{OPAQUE, SHAPES, Sql};
use crate::support::{Cluster, Link, message};

/// Stands in every row of another tenant and in no fragment.
const SECRET: &str = "k7Qx0vZ3";
/// Texts before a session is made fresh; what an earlier one left may help a later one.
const CHAIN: usize = 8;
const STATE: &str = "SELECT pg_catalog.concat_ws('|', pg_catalog.current_setting('app.tenant_id', true), \
    current_user, session_user, pg_catalog.current_setting('role'), \
    pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.current_setting('client_encoding'))";
const STATE_AS_IT_WAS: &str = "acme|app|app|none|on|UTF8";
const OTHERS: &str = "SELECT pg_catalog.concat_ws('|', \
    (SELECT md5(string_agg(n::text, ',' ORDER BY id)) FROM notes n WHERE tenant_id <> 'acme'), \
    (SELECT md5(string_agg(a::text, ',' ORDER BY oid)) FROM pg_authid a), \
    (SELECT count(*) FROM pg_db_role_setting))";

#[tokio::test]
async fn what_the_guard_lets_pass_changes_no_context_and_no_other_tenant() {
    let seconds = from_environment("PGTENANT_FUZZ_SECONDS").unwrap_or(4);
    let rules = Rules::new("app.tenant_id", GuardLevel::Strict, &[]);
    let mut hunt = Hunt::start(&[SHAPES, OPAQUE].concat()).await;
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let breach = hunt.chain(|text| matches!(inspect(text, &rules), Verdict::Pass(_))).await;
        assert_eq!(breach, None, "seed {}", hunt.seed);
    }
    println!("{} of {} texts passed, {} of them ran", hunt.passed, hunt.made, hunt.ran);
    assert!(hunt.ran > 50 && hunt.passed < hunt.made, "the guard and PostgreSQL both have a say");
}

#[tokio::test]
async fn without_the_guard_the_same_texts_find_a_way_at_once() {
    let mut hunt = Hunt::start(&[SHAPES, OPAQUE].concat()).await;
    let mut breaches = 0;
    for _ in 0..50 {
        breaches += usize::from(hunt.chain(|_| true).await.is_some());
    }
    assert!(breaches > 5, "{breaches} of 50 chains; seed {}", hunt.seed);
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Texts on their way to a PostgreSQL, as the role that the proxy logs in with.
struct Hunt {
    cluster: Cluster,
    superuser: tokio_postgres::Client,
    link: Link,
    shapes: Vec<&'static str>,
    random: StdRng,
    seed: u64,
    others: String,
    made: usize,
    passed: usize,
    ran: usize,
}

impl Hunt {
    async fn start(shapes: &[&'static str]) -> Self {
        let cluster = Cluster::start().await;
        cluster.execute(&format!("UPDATE notes SET body = '{SECRET}' WHERE tenant_id <> 'acme'")).await;
        let seed = from_environment("PGTENANT_FUZZ_SEED").unwrap_or_else(|| {
            u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos())
        });
        println!("PGTENANT_FUZZ_SEED={seed}");
        let (superuser, link) = (cluster.superuser().await, connect(&cluster).await);
        let random = StdRng::seed_from_u64(seed);
        let (shapes, others) = (shapes.to_vec(), String::new());
        let mut hunt =
            Self { cluster, superuser, link, shapes, random, seed, others, made: 0, passed: 0, ran: 0 };
        hunt.others = hunt.others().await;
        hunt
    }

    /// Runs some texts in one session, those that pass; what they did if they did harm.
    async fn chain(&mut self, passes: impl Fn(&[u8]) -> bool) -> Option<String> {
        let mut sent = Vec::new();
        for _ in 0..CHAIN {
            let text = Sql::new(&mut self.random, &self.shapes).text();
            self.made += 1;
            if !passes(text.as_bytes()) {
                continue;
            }
            self.passed += 1;
            sent.push(text);
            if let Some(harm) = self.harm(sent.last().unwrap()).await {
                self.renew().await;
                return Some(format!("{harm} after {sent:#?}"));
            }
        }
        if !self.settle("ROLLBACK; DISCARD ALL").await {
            self.renew().await;
        }
        None
    }

    async fn harm(&mut self, text: &str) -> Option<String> {
        let in_block = self.random.random();
        if in_block && !self.settle("BEGIN").await {
            return self.died().await;
        }
        let Some(answer) = self.ask(text).await else { return self.died().await };
        self.ran += usize::from(answer.code().is_none());
        if answer.0.iter().any(|frame| b"DdEN".contains(&frame.tag) && lossy(&frame.body).contains(SECRET)) {
            return Some(format!("another tenant's row: {answer}"));
        }
        let failed = answer.0.last().is_some_and(|frame| frame.body[..] == *b"E");
        if failed && !self.settle("ROLLBACK").await {
            return self.died().await;
        }
        let Some(state) = self.ask(STATE).await else { return self.died().await };
        if state.code().is_some() || state.value() != STATE_AS_IT_WAS {
            return Some(format!("a changed session: {state}"));
        }
        if !self.settle("COMMIT").await {
            return self.died().await;
        }
        self.others_changed().await
    }

    /// The session ended, which only its own tenant notices.
    async fn died(&mut self) -> Option<String> {
        self.link = connect(&self.cluster).await;
        self.others_changed().await
    }

    async fn others_changed(&self) -> Option<String> {
        let others = self.others().await;
        (others != self.others).then(|| format!("others changed from {} to {others}", self.others))
    }

    async fn others(&self) -> String {
        self.superuser.query_one(OTHERS, &[]).await.unwrap().get(0)
    }

    /// A fresh session, and whatever was done to the others taken for given.
    async fn renew(&mut self) {
        self.cluster.kill_servers().await;
        let mend = format!("ALTER ROLE app RESET ALL; ALTER ROLE app PASSWORD '{APP_PASSWORD}'");
        self.superuser.batch_execute(&mend).await.unwrap();
        self.link = connect(&self.cluster).await;
        self.others = self.others().await;
    }

    /// Whether the session is still there behind a statement of our own.
    async fn settle(&mut self, sql: &str) -> bool {
        self.ask(sql).await.is_some()
    }

    /// The answer to a simple query, to the ReadyForQuery; none if the session ends.
    async fn ask(&mut self, sql: &str) -> Option<Answer> {
        self.link.try_send(message::query(sql)).await.ok()?;
        let mut frames = Vec::new();
        loop {
            let frame = self.link.try_frame(sql).await?;
            if frame.tag == b'G' {
                self.link.try_send(message::copy_fail("no data")).await.ok()?;
            }
            frames.push(frame);
            if frames.last().is_some_and(|frame| frame.tag == b'Z') {
                return Some(Answer(frames));
            }
        }
    }
}

async fn connect(cluster: &Cluster) -> Link {
    let mut link = Link::tcp(cluster.port()).await;
    // What RESET returns to is the tenant too, as it is behind a proxy.
    let options =
        "-c app.tenant_id=acme -c statement_timeout=1000 -c client_encoding=UTF8 -c lock_timeout=200";
    link.startup(&[("user", "app"), ("database", "app"), ("options", options)]).await;
    link.authenticate(APP_PASSWORD).await.unwrap();
    link
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
