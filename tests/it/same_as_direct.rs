//! Same as direct: a script of messages is sent to PostgreSQL and through the proxy, and the frames must
//! be the same, byte for byte, except for named differences: an error of the proxy's own names no
//! place in PostgreSQL's source, a notification names another process, parameters that are reported in one go come in another order, columns may be described before an error, and an error may call a prepared
//! statement by the name that it has on the proxy's servers. Each side has a cluster of its own, so that neither waits for the other's locks
//! and both make the same rows.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::link::{Answer, Frame};
use crate::support::{Cluster, Link, Proxy, message};

use message::{
    bind, close_portal, close_statement, describe_portal, describe_statement, execute, parse, query,
};
use message::{rerun, sync, unnamed};

/// The strict guard would refuse some of the script in its own words.
async fn lenient_proxy(cluster: &Cluster) -> Proxy {
    Proxy::start(cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await
}

#[expect(clippy::too_many_lines, reason = "a table")]
/// Each entry ends in exactly one ReadyForQuery.
fn script() -> Vec<(&'static str, Vec<u8>)> {
    let simple = [
        "SELECT 1, 'two', NULL, 3.5::numeric, now() IS NOT NULL",
        "SELECT id, tenant_id, body FROM notes ORDER BY id",
        "SELECT 1; SELECT 'a'; SELECT 2",
        "",
        ";",
        "-- only a comment",
        "SELECT 1/0",
        "SELECT 1; SELECT 1/0; SELECT 2",
        "SELEKT",
        "SELECT 'unterminated",
        "SELECT 1; SELECT 'unterminated",
        "BEGIN",
        "SAVEPOINT a",
        "SELECT no_such_column FROM notes",
        "SELECT 1",
        "ROLLBACK TO a",
        "INSERT INTO notes (id, body) VALUES (1001, 'x') RETURNING id, tenant_id, body",
        "UPDATE notes SET body = 'y' WHERE id = 1001",
        "DECLARE c CURSOR FOR SELECT generate_series(1, 5)",
        "FETCH 2 FROM c",
        "MOVE 1 FROM c",
        "FETCH ALL FROM c",
        "CLOSE c",
        "ROLLBACK",
        "BEGIN; SELECT 1; COMMIT; SELECT 2",
        "BEGIN; SELECT 1/0; COMMIT",
        "ROLLBACK",
        "ROLLBACK",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "INSERT INTO notes (body) VALUES ('refused')",
        "COMMIT",
        "BEGIN",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SHOW transaction_isolation",
        "COMMIT",
        "BEGIN; SET TRANSACTION READ ONLY, DEFERRABLE; COMMIT",
        "SELECT 1 AS a UNION ALL SELECT 2 ORDER BY 1",
        "EXPLAIN (COSTS OFF) SELECT 1",
        "SHOW server_version",
        "VALUES (1, 'a'), (2, 'b')",
        "TABLE shelf.notes",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'P0042', DETAIL = 'd', HINT = 'h'; END $$",
        "COPY (SELECT 1, 'x') TO STDOUT",
        "COPY (SELECT 1/0) TO STDOUT",
        "COPY no_such TO STDOUT",
        "INSERT INTO notes (tenant_id, body) VALUES ('globex', 'policy')",
        "SELECT * FROM shelf.no_such",
        "SELECT repeat('x', 100000)",
        "SELECT generate_series(1, 2000)",
        "SET work_mem = '8MB'",
        "SET work_mem = 'nonsense'",
        "SET no_such_setting = 1",
        "BEGIN; SET LOCAL work_mem = '9MB'; SHOW work_mem; COMMIT",
    ];
    let extended: [(&str, Vec<Vec<u8>>); 22] = [
        ("Sync alone", vec![]),
        ("unnamed", vec![unnamed("SELECT $1::int, $2::text", &["1", "x"])]),
        ("rows", vec![unnamed("SELECT id, body FROM notes WHERE tenant_id = $1 ORDER BY id", &["acme"])]),
        ("no Describe", vec![parse("", "SELECT 1"), bind("", "", &[]), execute("", 0)]),
        (
            "Describe statement",
            vec![parse("", "SELECT $1::int AS n, $2 || 'x' AS t"), describe_statement("")],
        ),
        (
            "named",
            vec![parse("n", "SELECT $1::int * 2 AS twice"), describe_statement("n"), rerun("n", &["4"])],
        ),
        ("rerun", vec![rerun("n", &["5"]), rerun("n", &["6"])]),
        ("wrong parameter", vec![rerun("n", &["six"])]),
        ("wrong count of parameters", vec![bind("", "n", &[])]),
        ("Parse of a taken name", vec![parse("n", "SELECT 1")]),
        ("Close and rerun", vec![close_statement("n"), rerun("n", &["7"])]),
        ("Close again", vec![close_statement("n"), close_portal("none")]),
        ("syntax error", vec![parse("bad", "SELECT FROM WHERE"), rerun("bad", &[])]),
        ("error in Execute", vec![unnamed("SELECT 1/0", &[]), unnamed("SELECT 2", &[])]),
        ("empty", vec![unnamed("", &[])]),
        (
            "row limit",
            vec![
                parse("", "SELECT generate_series(1, 5)"),
                bind("p", "", &[]),
                execute("p", 2),
                execute("p", 9),
            ],
        ),
        ("unknown portal", vec![describe_portal("none")]),
        ("two in one", vec![parse("", "SELECT 1; SELECT 2")]),
        ("DML", vec![unnamed("UPDATE notes SET body = body WHERE id < $1", &["3"])]),
        ("transaction", vec![unnamed("BEGIN", &[]), unnamed("SELECT 1", &[]), unnamed("COMMIT", &[])]),
        ("COPY out", vec![parse("", "COPY (SELECT 1) TO STDOUT"), bind("", "", &[]), execute("", 0)]),
        ("savepoint", vec![unnamed("BEGIN", &[]), unnamed("SAVEPOINT s", &[]), unnamed("ROLLBACK", &[])]),
    ];
    let simple = simple.into_iter().map(|sql| (sql, query(sql)));
    let extended = extended.into_iter().map(|(what, batch)| (what, [batch.concat(), sync()].concat()));
    simple.chain(extended).collect()
}

/// What must be the same: every byte but for the named differences.
fn bytes(answer: &Answer) -> Vec<(char, Vec<u8>)> {
    answer.0.iter().map(|frame| (char::from(frame.tag), without_source(frame))).collect()
}

fn without_source(frame: &Frame) -> Vec<u8> {
    if frame.tag == b'A' {
        return frame.body[4..].to_vec();
    }
    if !matches!(frame.tag, b'E' | b'N') {
        return frame.body.to_vec();
    }
    let fields = frame.body.split(|byte| *byte == 0);
    let kept = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
    kept.map(without_name).collect::<Vec<_>>().join(&0)
}

/// A message without the name of a prepared statement, which has another one on the proxy's servers.
fn without_name(field: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(field);
    let Some((before, rest)) = text.split_once("prepared statement \"") else { return field.to_vec() };
    let after = rest.split_once('"').map_or("", |(_, after)| after);
    [before, after].concat().into_bytes()
}

/// Without a RowDescription that is followed by an error: whether a simple query that fails has described its
/// columns before depends on the kind of statement in PostgreSQL, and tells the client nothing.
fn described_in_vain(mut answer: Answer) -> Answer {
    let fails = |frames: &[Frame], place: usize| frames.get(place + 1).is_some_and(|next| next.tag == b'E');
    let all = answer.0.clone();
    let mut place = 0;
    answer.0.retain(|frame| {
        place += 1;
        frame.tag != b'T' || !fails(&all, place - 1)
    });
    answer
}

/// In a failed block everything fails: directly a Bind may fail for its parameters first, while the proxy
/// has to prepare the statement on this server and is told of the block's state. 25P02 is sent in a failed
/// block only, so this cannot hide the first error of one.
fn is_refused_by_a_failed_block(answer: &Answer, expected: &Answer) -> bool {
    let tags = |answer: &Answer| answer.0.iter().map(|frame| frame.tag).collect::<Vec<_>>();
    let text = answer.to_string();
    text == "E(25P02) Z(E)" && tags(expected) == *b"EZ" && expected.to_string().ends_with("Z(E)")
}

/// Parameters that are reported in one go come in no particular order.
fn in_order(mut answer: Answer) -> Answer {
    let is_report = |frame: &&mut Frame| frame.tag == b'S';
    let mut reports: Vec<Frame> = answer.0.iter().filter(|frame| frame.tag == b'S').cloned().collect();
    reports.sort_by_key(|frame| frame.body.to_vec());
    for (place, report) in answer.0.iter_mut().filter(is_report).zip(reports) {
        *place = report;
    }
    answer
}

/// Sends the same to both; none: they answered the same.
async fn difference(what: &str, bytes_sent: &[u8], direct: &mut Link, proxied: &mut Link) -> Option<String> {
    let expected = in_order(described_in_vain(direct.ask(bytes_sent).await));
    let answer = in_order(described_in_vain(proxied.ask(bytes_sent).await));
    if is_refused_by_a_failed_block(&answer, &expected) {
        return None;
    }
    if answer.to_string() != expected.to_string() {
        return Some(format!("{what}\n proxied {answer}\n direct  {expected}"));
    }
    if bytes(&answer) == bytes(&expected) {
        return None;
    }
    let mut pairs = answer.0.iter().zip(&expected.0);
    let (ours, theirs) = pairs.find(|(ours, theirs)| without_source(ours) != without_source(theirs)).unwrap();
    Some(format!("{what}: {ours} differs\n proxied {:?}\n direct  {:?}", ours.body, theirs.body))
}

/// Runs the whole script and shows all differences at once.
async fn compare(script: &[(&str, Vec<u8>)], direct: &mut Link, proxied: &mut Link) {
    let mut differences = Vec::new();
    for (what, bytes) in script {
        if let Some(found) = difference(what, bytes, direct, proxied).await {
            differences.push(found);
            direct.query("ROLLBACK").await;
            proxied.query("ROLLBACK").await;
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[tokio::test]
async fn every_frame_of_the_script_is_the_same_as_direct() {
    let (cluster, twin) = (Cluster::start().await, Cluster::start().await);
    let proxy = lenient_proxy(&cluster).await;
    let mut direct = twin.link("acme").await;
    let mut proxied = proxy.link("acme_app").await;
    compare(&script(), &mut direct, &mut proxied).await;
}

#[tokio::test]
async fn every_frame_of_the_script_is_the_same_as_direct_on_postgresql_18() {
    let (cluster, twin) = (Cluster::postgres18().await, Cluster::postgres18().await);
    let proxy = lenient_proxy(&cluster).await;
    let mut direct = twin.link("acme").await;
    let mut proxied = proxy.link("acme_app").await;
    compare(&script(), &mut direct, &mut proxied).await;
}

#[tokio::test]
async fn every_frame_is_as_direct_in_any_order_with_another_tenant_between() {
    let seed =
        std::env::var("PGTENANT_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("PGTENANT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (cluster, twin) = (Cluster::start().await, Cluster::start().await);
    let proxy = lenient_proxy(&cluster).await;
    let mut direct = twin.link("acme").await;
    let mut proxied = proxy.link("acme_app").await;
    let mut stranger = proxy.link("globex_app").await;
    // Session settings and SQL cursors are compared in the script above; here only what a pool must carry.
    let script: Vec<_> = script().into_iter().filter(|(what, _)| !what.starts_with("SET ")).collect();
    for _ in 0..500 {
        let (what, bytes) = &script[random.random_range(0..script.len())];
        let found = difference(what, bytes, &mut direct, &mut proxied).await;
        assert_eq!(found, None);
        let idle = direct.query("SELECT 1").await.0.last().unwrap().to_string() == "Z(I)";
        proxied.query("SELECT 1").await;
        if idle {
            assert_eq!(stranger.query("SELECT 1").await.value(), "1");
        }
    }
}

/// What a session keeps: settings in all forms, and what lives on one server.
#[expect(clippy::too_many_lines, reason = "a table")]
fn session_script() -> Vec<(&'static str, Vec<u8>)> {
    let simple = [
        "SET work_mem = '1MB'",
        "SET work_mem = '2MB'",
        "SET LOCAL work_mem = '3MB'",
        "RESET work_mem",
        "SHOW work_mem",
        "SET search_path = shelf, public",
        "SET SESSION search_path TO public",
        "RESET search_path",
        "SHOW search_path",
        "SELECT count(*) FROM notes",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET TIME ZONE DEFAULT",
        "SHOW TimeZone",
        "SET DateStyle = 'German'",
        "RESET DateStyle",
        "SELECT date '2026-02-01'",
        "SET app.colour = 'red'; SET app.size = '5'",
        "SELECT nullif(current_setting('app.colour', true), ''), nullif(current_setting('app.size', true), '')",
        "SELECT set_config('app.colour', 'blue', false)",
        "SELECT set_config('app.colour', 'green', true)",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SHOW transaction_read_only",
        "RESET ALL",
        "DISCARD ALL",
        "DISCARD TEMP",
        "DISCARD PLANS",
        "BEGIN",
        "BEGIN",
        "SAVEPOINT a",
        "ROLLBACK TO a",
        "RELEASE a",
        "COMMIT",
        "COMMIT",
        "ROLLBACK",
        "SELECT 1/0",
        "BEGIN; SET work_mem = '5MB'; COMMIT",
        "BEGIN; SET work_mem = '6MB'; ROLLBACK",
        "SET work_mem = '7MB'; SELECT 1/0",
        "BEGIN; SAVEPOINT b; SET work_mem = '8MB'; ROLLBACK TO b; COMMIT",
        "CREATE TEMP TABLE mine (a int)",
        "CREATE TEMP TABLE IF NOT EXISTS mine (a int) ON COMMIT DELETE ROWS",
        "INSERT INTO mine VALUES (1), (2)",
        "SELECT count(*) FROM mine",
        "DROP TABLE mine",
        "DROP TABLE IF EXISTS mine",
        "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)",
        "FETCH 2 FROM held",
        "CLOSE held",
        "CLOSE ALL",
        "PREPARE stored (int) AS SELECT $1 * 2",
        "EXECUTE stored (21)",
        "DEALLOCATE stored",
        "DEALLOCATE ALL",
        "LISTEN news",
        "NOTIFY news, 'hello'",
        "UNLISTEN *",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_advisory_unlock(1)",
        "SELECT pg_advisory_unlock_all()",
    ];
    let extended: [(&str, Vec<Vec<u8>>); 8] = [
        ("bound setting", vec![unnamed("SELECT set_config('work_mem', $1, false)", &["4MB"])]),
        ("bound name", vec![unnamed("SELECT set_config($1, $2, false)", &["app.size", "6"])]),
        ("extended SET", vec![unnamed("SET work_mem = '9MB'", &[])]),
        (
            "prepare",
            vec![parse("p", "SELECT count(*) AS n, $1::text AS t FROM notes"), describe_statement("p")],
        ),
        ("run", vec![rerun("p", &["x"])]),
        ("run twice", vec![rerun("p", &["x"]), rerun("p", &["y"])]),
        ("close", vec![close_statement("p")]),
        (
            "pipeline with SET",
            vec![
                unnamed("SET work_mem = '10MB'", &[]),
                unnamed("SHOW work_mem", &[]),
                unnamed("SELECT 1/0", &[]),
            ],
        ),
    ];
    let simple = simple.into_iter().map(|sql| (sql, query(sql)));
    let extended = extended.into_iter().map(|(what, batch)| (what, [batch.concat(), sync()].concat()));
    simple.chain(extended).collect()
}

/// A client, and the same client of PostgreSQL itself.
struct Pair {
    tenant: &'static str,
    proxied: Link,
    direct: Link,
}

impl Pair {
    async fn step(&mut self, what: &str, bytes: &[u8], trace: &mut Vec<String>) {
        trace.push(format!("{}: {what}", self.tenant));
        if let Some(found) = difference(what, bytes, &mut self.direct, &mut self.proxied).await {
            panic!(
                "{}\nafter\n{}",
                found,
                trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n")
            );
        }
    }

    async fn is_idle(&mut self) -> bool {
        let status = |answer: &Answer| answer.0.last().unwrap().to_string();
        let both = [self.direct.query("").await, self.proxied.query("").await];
        assert_eq!(status(&both[0]), status(&both[1]));
        status(&both[0]) == "Z(I)"
    }
}

/// Random steps of two tenants that have one server between them, and each of them one of its own directly.
#[tokio::test]
async fn sessions_of_two_tenants_on_one_server_are_the_same_as_direct() {
    let seed =
        std::env::var("PGTENANT_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("PGTENANT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (cluster, twin) = (Cluster::start().await, Cluster::start().await);
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.set("tenancy.guard", "off");
        config.set("tenancy.allow_unsafe", true);
        config.set("tenancy.application_name", "{application_name}");
    })
    .await;
    let script: Vec<_> = session_script()
        .into_iter()
        .chain(script().into_iter().filter(|(what, _)| *what != "SET work_mem = '8MB'"))
        .collect();
    let own = session_script().len();
    let mut pairs = Vec::new();
    for tenant in ["acme", "globex"] {
        let proxied = proxy.link(&format!("{tenant}_app")).await;
        pairs.push(Pair { tenant, proxied, direct: twin.link(tenant).await });
    }
    let mut trace = Vec::new();
    for _ in 0..200 {
        let pair = &mut pairs[random.random_range(0..2)];
        for _ in 0..random.random_range(1..8) {
            let place = if random.random_bool(0.8) {
                random.random_range(0..own)
            } else {
                random.random_range(0..script.len())
            };
            let (what, bytes) = &script[place];
            pair.step(what, bytes, &mut trace).await;
        }
        // The other one can go on only if this one keeps no server.
        for what in ["ROLLBACK", "DISCARD ALL"] {
            if !pair.is_idle().await
                || proxy.metrics().await.sum("pgtenant_servers", &[("state", "used")]) > 0.0
            {
                pair.step(what, &query(what), &mut trace).await;
            }
        }
    }
    for pair in &mut pairs {
        for state in [
            "SELECT id, tenant_id, body FROM notes ORDER BY id",
            "SELECT name, setting FROM pg_settings WHERE name IN ('work_mem', 'search_path', 'TimeZone', 'DateStyle', 'default_transaction_read_only')",
            "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
        ] {
            pair.step(state, &query(state), &mut trace).await;
        }
    }
    for table in ["notes", "shelf.notes"] {
        let all = format!("SELECT coalesce(string_agg(t::text, ',' ORDER BY t::text), '') FROM {table} AS t");
        assert_eq!(cluster.value(&all).await, twin.value(&all).await, "{table}");
    }
}
