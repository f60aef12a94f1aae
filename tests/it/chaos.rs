//! It isolates under chaos: three tenants on two servers, with clients that vanish, cancel and err and
//! servers that are killed. Whatever comes back belongs to the asker; at the end nothing is left over.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::link::Answer;
use crate::support::{Cluster, Link, Proxy, message};

const SELECT: &str = "SELECT tenant_id FROM notes";
const CLIENTS: usize = 12;
const TIME: Duration = Duration::from_secs(8);
/// How much longer a client goes on that has seen no row yet: on a busy machine it has not asked often.
const PATIENCE: Duration = Duration::from_secs(30);

/// One client's wishes: what it sends, how many answers it awaits, and whether it stays for them.
enum Wish {
    Ask(Vec<u8>, usize),
    SendAndVanish(Vec<u8>),
    CancelItself,
    Reconnect,
}

fn wish(random: &mut StdRng) -> Wish {
    let select = message::query(SELECT);
    let extended = [message::unnamed(SELECT, &[]), message::sync()].concat();
    let transaction = [message::query("BEGIN"), select.clone(), message::query("COMMIT")].concat();
    match random.random_range(0..24) {
        0..5 => Wish::Ask(select, 1),
        5..9 => Wish::Ask(extended, 1),
        9..11 => Wish::Ask(transaction, 3),
        11 => Wish::Ask(message::query("SELECT 1/0"), 1),
        12 => Wish::Ask(
            [message::query("BEGIN"), message::query("no"), message::query("ROLLBACK"), select].concat(),
            4,
        ),
        13 => Wish::Ask(
            [message::unnamed("SELECT 1/0", &[]), message::unnamed(SELECT, &[]), message::sync()].concat(),
            1,
        ),
        14 => Wish::Ask(
            [
                message::parse("s", SELECT),
                message::rerun("s", &[]),
                message::close_statement("s"),
                message::sync(),
            ]
            .concat(),
            1,
        ),
        15 => Wish::Ask(
            [
                message::query("BEGIN"),
                message::query("INSERT INTO notes (body) VALUES ('x') RETURNING tenant_id"),
                message::query("ROLLBACK"),
            ]
            .concat(),
            3,
        ),
        16 => Wish::SendAndVanish(message::query("SELECT pg_sleep(30)")),
        17 => Wish::SendAndVanish([message::query("BEGIN"), select].concat()),
        18 => Wish::SendAndVanish(message::query("COPY imports FROM STDIN")),
        19 => Wish::SendAndVanish(message::unnamed(SELECT, &[])),
        20 => Wish::SendAndVanish(extended[..extended.len() / 2].to_vec()),
        21 => Wish::SendAndVanish(message::query("SELECT repeat('x', 5000) FROM generate_series(1, 5000)")),
        22 => Wish::CancelItself,
        _ => Wish::Reconnect,
    }
}

/// How many rows came back, all of them checked.
async fn live(proxy: &Proxy, number: usize, seed: u64) -> usize {
    let tenant = ["acme", "globex", "initech"][number % 3];
    let user = format!("{tenant}_app");
    let mut random = StdRng::seed_from_u64(seed + number as u64);
    let mut rows = 0;
    let until = Instant::now() + TIME;
    let mut link = proxy.link(&user).await;
    while Instant::now() < until || (rows == 0 && Instant::now() < until + PATIENCE) {
        let mut alive;
        match wish(&mut random) {
            Wish::Ask(bytes, answers) => {
                alive = link.try_send(bytes).await.is_ok();
                for _ in 0..answers {
                    let Some(answer) = answer(&mut link).await else {
                        alive = false;
                        break;
                    };
                    rows += check(tenant, &answer);
                }
            }
            Wish::SendAndVanish(bytes) => {
                drop(link.try_send(bytes).await);
                tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
                alive = false;
            }
            Wish::CancelItself => {
                alive = link.try_send(message::query("SELECT pg_sleep(20)")).await.is_ok();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
                link.cancel().await;
                alive = alive && matches!(answer(&mut link).await, Some(answer) if answer.code().is_some());
            }
            Wish::Reconnect => alive = false,
        }
        if !alive {
            link = proxy.link(&user).await;
        }
    }
    rows
}

/// Kills a server now and then; returns how many times.
async fn kill_servers(superuser: tokio_postgres::Client) -> usize {
    let until = Instant::now() + TIME;
    let mut kills = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' LIMIT 1";
        superuser.batch_execute(kill).await.unwrap();
        kills += 1;
    }
    kills
}

/// Reads to ReadyForQuery, or nothing if the connection ends first.
async fn answer(link: &mut Link) -> Option<Answer> {
    let mut frames = Vec::new();
    loop {
        let frame = link.try_frame("an answer in the chaos").await?;
        let last = frame.tag == b'Z';
        frames.push(frame);
        if last {
            return Some(Answer(frames));
        }
    }
}

fn check(tenant: &str, answer: &Answer) -> usize {
    let rows = answer.column();
    assert!(rows.iter().all(|row| row == tenant), "{tenant} was shown: {answer}");
    rows.len()
}

#[tokio::test]
async fn in_chaos_every_row_belongs_to_the_asker_and_nothing_is_left_over() {
    let seed =
        std::env::var("PGTENANT_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("PGTENANT_SEED={seed}");
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.pool_size", 2);
        config.set("defaults.queue_timeout", "20s");
    })
    .await;
    let proxy = Arc::new(proxy);
    let mut crowd = JoinSet::new();
    for number in 0..CLIENTS {
        let proxy = Arc::clone(&proxy);
        crowd.spawn(async move { live(&proxy, number, seed).await });
    }
    crowd.spawn(kill_servers(cluster.superuser().await));
    let mut rows = Vec::new();
    while let Some(client) = crowd.join_next().await {
        rows.push(client.unwrap());
    }
    println!("rows by client: {rows:?}");
    assert!(rows.iter().all(|rows| *rows > 0), "somebody was never served: {rows:?}");

    proxy.comes_to_rest().await;
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
    cluster.settles(busy, "0").await;
    assert!(cluster.connections("app").await <= 2, "the pool's size holds");
    for tenant in ["acme", "globex", "initech"] {
        let mut link = proxy.link(&format!("{tenant}_app")).await;
        assert_eq!(check(tenant, &link.query(SELECT).await), 10);
        link.leave().await;
    }
    assert_eq!(cluster.value("SELECT count(*) FROM notes").await, "30", "what was not committed is gone");
    assert_eq!(cluster.value("SELECT count(*) FROM imports").await, "0");
}
