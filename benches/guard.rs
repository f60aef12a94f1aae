//! Nanoseconds that the guard takes for typical statements, read and remembered: `cargo bench --bench guard`.
//! Prints and judges nothing; the best of many rounds, since a shared machine only ever adds.
#![expect(clippy::print_stdout, reason = "its figures are its result")]

use std::hint::black_box;
use std::time::Duration;

use pgtenant::directory::GuardLevel;
use pgtenant::guard::{Rules, Verdicts, inspect};
use pgtenant::sql::survey;

const ROUNDS: u32 = 20;
const CALLS: u32 = 20_000;

const TEXTS: [(&str, &str); 6] = [
    ("begin", "BEGIN"),
    ("short select", "SELECT id, name FROM users WHERE id = $1"),
    ("insert", "INSERT INTO notes (tenant_id, body, created_at) VALUES ($1, $2, now()) RETURNING id"),
    (
        "ORM select",
        "SELECT \"orders\".\"id\", \"orders\".\"tenant_id\", \"orders\".\"customer_id\", \"orders\".\"total\", \
         \"orders\".\"created_at\" FROM \"orders\" INNER JOIN \"customers\" ON (\"orders\".\"customer_id\" = \
         \"customers\".\"id\") WHERE (\"customers\".\"country\" = $1 AND \"orders\".\"total\" > $2) \
         ORDER BY \"orders\".\"created_at\" DESC LIMIT 20",
    ),
    (
        "catalogue",
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON \
         n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(notes)$' COLLATE pg_catalog.default \
         AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3",
    ),
    ("refused", "SELECT pid, query FROM pg_stat_activity WHERE state = 'active'"),
];

fn main() {
    let strict = Rules::new("app.tenant_id", GuardLevel::Strict, &[]);
    let context = Rules::new("app.tenant_id", GuardLevel::Context, &[]);
    let verdicts = Verdicts::new(1 << 20);
    println!("{:14}{:>7}{:>9}{:>9}{:>9}{:>12}", "ns", "bytes", "survey", "context", "strict", "remembered");
    for (name, text) in TEXTS {
        let text = text.as_bytes();
        println!(
            "{name:14}{:7}{:9}{:9}{:9}{:12}",
            text.len(),
            nanoseconds(|| survey(black_box(text))),
            nanoseconds(|| inspect(black_box(text), &context)),
            nanoseconds(|| inspect(black_box(text), &strict)),
            nanoseconds(|| verdicts.inspect(black_box(text), &strict)),
        );
    }
    let texts: Vec<String> =
        (0..CALLS).map(|number| format!("{} OFFSET {number}", TEXTS.map(|(_, text)| text)[3])).collect();
    let mut next = texts.iter().cycle();
    let missed = nanoseconds(|| next.next().map(|text| verdicts.inspect(text.as_bytes(), &strict)));
    println!("ORM select, each text once, through the cache: {missed}");
}

fn nanoseconds<T>(mut call: impl FnMut() -> T) -> u128 {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = tokio::time::Instant::now();
        for _ in 0..CALLS {
            black_box(call());
        }
        best = best.min(start.elapsed());
    }
    best.as_nanos() / u128::from(CALLS)
}
