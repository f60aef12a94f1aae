//! Random transactions of 20 tenants over three servers, with clients that vanish and cancel, and servers that are killed:
//! every row is the asker's. `PGTENANT_CROWD` says how many transactions, each half of them in one mode.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::protect::{KEY, install, sealed};
use crate::support::link::Answer;
use crate::support::{Cluster, Link, Proxy, eventually, message};

const TENANTS: usize = 20;
const CLIENTS: usize = 30;
const WHO: &str = "SELECT DISTINCT tenant_id FROM notes";
/// What a client may be told when its server is killed or its statement is cancelled, and what it asks for itself.
const EXPECTED: [&str; 9] = ["57P01", "08001", "08006", "08007", "57014", "22012", "25P02", "26000", "53300"];

/// What all clients of a run share.
struct Crowd {
    proxy: Proxy,
    left: AtomicUsize,
    rows: AtomicUsize,
    errors: AtomicUsize,
}

/// One client.
struct Client<'c> {
    crowd: &'c Crowd,
    random: StdRng,
    tenant: String,
    link: Link,
    /// How it chooses its tenant; none: it is bound.
    choice: Option<&'static str>,
}

impl Client<'_> {
    /// A transaction: its bytes, and how many answers it has.
    fn transaction(&mut self) -> (Vec<u8>, usize) {
        let (begin, front) = self.begin();
        let extended = [message::unnamed(WHO, &[]), message::sync()].concat();
        let (body, answers) = match self.random.random_range(0..10) {
            0..3 => (message::query(WHO), 1),
            3..5 => (extended, 1),
            5 => (
                [
                    // An error in the one before may have left it.
                    message::close_statement("own"),
                    message::parse("own", WHO),
                    message::rerun("own", &[]),
                    message::close_statement("own"),
                    message::sync(),
                ]
                .concat(),
                1,
            ),
            6 => (message::query("INSERT INTO notes (body) VALUES ('crowd') RETURNING tenant_id"), 1),
            7 => (message::query(&format!("{WHO}; SELECT min(tenant_id) FROM notes")), 1),
            8 => (message::query("SELECT 1/0"), 1),
            _ => (
                [
                    message::query(&format!("SET app.user_id = '{}'", self.tenant)),
                    message::query("SHOW app.user_id"),
                ]
                .concat(),
                2,
            ),
        };
        // A bound user needs no block for a single statement.
        if self.choice.is_none() && answers == 1 && self.random.random_bool(0.5) {
            let inserts = body.windows(6).any(|part| part == b"INSERT");
            if !inserts {
                return (body, 1);
            }
        }
        let end = if self.random.random_bool(0.5) { "ROLLBACK" } else { "ABORT" };
        ([begin, body, message::query(end)].concat(), front + answers + 1)
    }

    /// Runs one; false if the connection is over.
    async fn run(&mut self) -> bool {
        let (bytes, answers) = self.transaction();
        let chance = self.random.random_range(0..1000);
        if chance < 4 {
            // It vanishes somewhere.
            let part = self.random.random_range(1..=bytes.len());
            drop(self.link.try_send(&bytes[..part]).await);
            return false;
        }
        if chance < 8 {
            let (bytes, answers) = self.sleep();
            drop(self.link.try_send(bytes).await);
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..10))).await;
            self.link.cancel().await;
            return self.take_all(answers).await;
        }
        if self.link.try_send(bytes).await.is_err() {
            return false;
        }
        self.take_all(answers).await
    }

    /// What is cancelled, in a block of the tenant.
    fn sleep(&self) -> (Vec<u8>, usize) {
        let (begin, front) = self.begin();
        // If the request to cancel comes too early, it runs to its end.
        let sleep = format!("SELECT '{}' FROM pg_sleep(5)", self.tenant);
        ([begin, message::query(&sleep), message::query("ROLLBACK")].concat(), front + 2)
    }

    /// What begins a block of the tenant, and how many answers it has.
    fn begin(&self) -> (Vec<u8>, usize) {
        let Some(choice) = self.choice else { return (message::query("BEGIN"), 1) };
        let choice = choice.replace('$', &self.tenant);
        ([message::query("BEGIN"), message::query(&choice)].concat(), 2)
    }

    async fn take_all(&mut self, answers: usize) -> bool {
        for _ in 0..answers {
            if !self.take().await {
                return false;
            }
        }
        true
    }

    /// Takes one answer and looks at its rows; false if the connection is over.
    async fn take(&mut self) -> bool {
        let mut frames = Vec::new();
        loop {
            let Some(frame) = self.link.try_frame("an answer in the crowd").await else { return false };
            let is_last = frame.tag == b'Z';
            frames.push(frame);
            if is_last {
                break;
            }
        }
        let answer = Answer(frames);
        let rows = answer.column();
        assert!(rows.iter().all(|row| *row == self.tenant), "{} was shown: {answer}", self.tenant);
        self.crowd.rows.fetch_add(rows.len(), Ordering::Relaxed);
        if let Some(code) = answer.code() {
            assert!(EXPECTED.contains(&code.as_str()), "{}: {answer}", self.tenant);
            self.crowd.errors.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

/// The ways in which a gateway user chooses; `$` is the tenant.
const CHOICES: [&str; 4] = [
    "SELECT set_config('app.tenant_id', '$', true)",
    "SET LOCAL app.tenant_id = '$'",
    "SET LOCAL app.tenant_id TO '$'; SET LOCAL app.user_id = '$'",
    "SELECT set_config('app.tenant_id', '$', true), set_config('app.user_id', '$', true)",
];

/// A client of some tenant, bound to it or not.
async fn enter<'c>(crowd: &'c Crowd, random: &mut StdRng) -> Client<'c> {
    let tenant = format!("t{}", random.random_range(0..TENANTS));
    let choice = random.random_bool(0.5).then(|| CHOICES[random.random_range(0..CHOICES.len())]);
    let user = if choice.is_some() { "any".to_owned() } else { format!("{tenant}_app") };
    let login = || async { crowd.proxy.login(&user, &[]).await.ok() };
    let link = eventually("a login in the crowd", login).await;
    Client { crowd, random: StdRng::seed_from_u64(random.random()), tenant, link, choice }
}

async fn live(crowd: &Crowd, number: usize, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed + number as u64);
    let mut known = None;
    while crowd.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let mut client = match known.take() {
            Some(client) => client,
            None => enter(crowd, &mut random).await,
        };
        if client.run().await {
            known = Some(client);
        }
    }
}

async fn kill_servers(cluster: &Cluster, crowd: &Crowd) -> usize {
    let superuser = cluster.superuser().await;
    let mut kills = 0;
    while crowd.left.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1";
        superuser.batch_execute(kill).await.unwrap();
        kills += 1;
    }
    kills
}

async fn crowd(context: &str, transactions: usize, seed: u64) {
    let cluster = Arc::new(Cluster::start().await);
    let rows = format!(
        "INSERT INTO notes (tenant_id, body) SELECT 't' || t, 'row' FROM generate_series(0, {}) t, generate_series(1, 5)",
        TENANTS - 1
    );
    cluster.execute(&rows).await;
    if context == "sealed" {
        install(&cluster);
    }
    let before = cluster.value("SELECT count(*) FROM notes").await;
    let proxy = Proxy::start(&cluster, |config| {
        if context == "sealed" {
            sealed(config, KEY);
        }
        config.set("upstream.main.pool_size", 3);
        config.set("defaults.queue_timeout", "20s");
        for number in 0..TENANTS {
            config.add_tenant(&format!("t{number}"));
            config.add_user(&format!("t{number}_app"), "tenant", format!("t{number}"));
        }
    })
    .await;
    let (left, rows, errors) = (transactions.into(), AtomicUsize::new(0), AtomicUsize::new(0));
    let crowd = Arc::new(Crowd { proxy, left, rows, errors });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let crowd = Arc::clone(&crowd);
        clients.spawn(async move { live(&crowd, number, seed).await });
    }
    let kills = kill_servers(&cluster, &crowd).await;
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{context}: {transactions} transactions, {} rows, {} errors, {kills} servers killed",
        count(&crowd.rows),
        count(&crowd.errors)
    );
    assert!(count(&crowd.rows) > transactions / 2, "most transactions are answered");
    crowd.proxy.comes_to_rest().await;
    assert_eq!(cluster.value("SELECT count(*) FROM notes").await, before, "nothing was committed");
    assert!(cluster.connections("app").await <= 3, "the pool's size holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_crowd_of_tenants_every_row_belongs_to_the_asker() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let seed = number("PGTENANT_SEED").unwrap_or_else(|| rand::rng().random_range(0..u64::from(u32::MAX)));
    println!("PGTENANT_SEED={seed}");
    let transactions = usize::try_from(number("PGTENANT_CROWD").unwrap_or(2000)).unwrap();
    for context in ["plain", "sealed"] {
        crowd(context, transactions / 2, seed).await;
    }
}
