//! A differential fuzzer of the wire: sequences of messages of two clients of two tenants go through a proxy with one
//! server connection, and directly to PostgreSQL. Both must give the same answers and leave the same rows, and a
//! recorder watches what the server receives. A fault is reported with its seed and the shortest sequence that shows it.
//!
//! `PGTENANT_WIRE_FUZZ_SECONDS` and `PGTENANT_WIRE_FUZZ_SEED` say how long and from where;
//! `PGTENANT_WIRE_FUZZ_FAMILY` names the families that are used, separated by commas, or `all`;
//! `PGTENANT_WIRE_FUZZ_FINDS` is the number of faults after which it stops, `PGTENANT_WIRE_FUZZ_SHRUNK` how many of a kind
//! are made shorter; `PGTENANT_WIRE_FUZZ_CONTEXT` is `plain` or
//! `sealed`; `PGTENANT_WIRE_FUZZ_POSTGRES` is the directory of PostgreSQL's programs, for another version.
//! `PGTENANT_WIRE_FUZZ_ANOTHER_BUILD` says that `PGTENANT_BINARY` is a build whose own statements the recorder does not
//! know.

mod batches;
mod compare;
mod copying;
mod failing;
mod families;
mod generator;
mod handing_over;
mod pair;
mod sessions;
mod shrink;
mod side;
mod step;
mod tables;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use families::{FAMILIES, Family};
use world::{Outcome, World};

/// How long it looks if nothing else is said.
const SECONDS: u64 = 20;
/// Faults of one kind that are made shorter.
const SHRUNK: u64 = 2;
/// Sequences between two renewals of the proxy's server.
const CHAPTER: u64 = 50;

#[tokio::test]
async fn both_sides_answer_the_same_and_leave_the_same() {
    let seconds = from_environment("PGTENANT_WIRE_FUZZ_SECONDS").unwrap_or(SECONDS);
    let seed = from_environment("PGTENANT_WIRE_FUZZ_SEED").unwrap_or_else(|| {
        u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()) << 20
    });
    println!("PGTENANT_WIRE_FUZZ_SEED={seed}");
    let families = chosen_families();
    let mut world = World::start().await;
    let since = Instant::now();
    let mut inconclusive: BTreeMap<&str, u64> = BTreeMap::new();
    let shrunk = from_environment("PGTENANT_WIRE_FUZZ_SHRUNK").unwrap_or(SHRUNK);
    let finds = from_environment("PGTENANT_WIRE_FUZZ_FINDS").unwrap_or(1);
    let mut found = 0;
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let most = from_environment("PGTENANT_WIRE_FUZZ_SEQUENCES").unwrap_or(u64::MAX);
    let mut count = 0;
    while since.elapsed() < Duration::from_secs(seconds) && count < most && found < finds {
        let number = seed.wrapping_add(count);
        let sequence = generator::sequence(number, &families);
        match world.run(&sequence).await {
            Outcome::Same => {}
            Outcome::Inconclusive(why) => *inconclusive.entry(why).or_default() += 1,
            Outcome::Found(fault) => {
                found += 1;
                let at = format!("after {count} sequences and {:?}", since.elapsed());
                println!("=== fault {found} ({}) {at}, PGTENANT_WIRE_FUZZ_SEED={number}", fault.kind);
                println!("{}", fault.report);
                let of_kind = kinds.entry(fault.kind.clone()).or_default();
                *of_kind += 1;
                if *of_kind <= shrunk {
                    println!("{}", shrink::shrink(&mut world, sequence, &fault.kind).await);
                }
                world.renew().await;
            }
        }
        count += 1;
        if count % CHAPTER == 0 {
            world.renew().await;
        }
    }
    println!("{count} sequences in {:?}, not compared to the end: {inconclusive:?}", since.elapsed());
    assert_eq!(found, 0, "faults; expected differences are\n{}", compare::expected());
    assert!(count > 0 && inconclusive.values().sum::<u64>() * 2 < count, "most sequences are compared");
}

fn chosen_families() -> Vec<&'static Family> {
    let chosen = std::env::var("PGTENANT_WIRE_FUZZ_FAMILY").unwrap_or_default();
    let names: Vec<&str> = chosen.split(',').filter(|name| !name.is_empty()).collect();
    let is_chosen = |family: &&Family| match names.as_slice() {
        [] | ["all"] => true,
        names => names.contains(&family.name),
    };
    let all: Vec<_> = FAMILIES.iter().filter(is_chosen).collect();
    assert!(!all.is_empty(), "no such family: {chosen}");
    all
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}
