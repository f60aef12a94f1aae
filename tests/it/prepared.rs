//! It keeps its word about statements: the parameter types and columns that a client was told of a prepared statement
//! hold on every server and after every change of definitions, or the client gets PostgreSQL's own error, as often as
//! directly. Nearly every test sends the same frames to PostgreSQL and through the proxy and compares the answers.

use tokio_postgres::Client;

use crate::placement;
use crate::support::cluster::OWNER_PASSWORD;
use crate::support::link::{Answer, Frame};
use crate::support::{Cluster, Link, Proxy, message};

use message::{
    bind, close_statement, describe_portal, describe_statement, execute, flush, parse, query, raw,
};
use message::{rerun, sync, unnamed};

/// Result or parameter format.
const TEXT: u16 = 0;
const BINARY: u16 = 1;

/// Bind with all values in one format and all results in another.
fn bind_as(statement: &str, values: (u16, &[&[u8]]), results: u16) -> Vec<u8> {
    let (format, values) = values;
    let mut body = [b"\0", statement.as_bytes(), b"\0"].concat();
    for number in [1, format, u16::try_from(values.len()).unwrap()] {
        body.extend(number.to_be_bytes());
    }
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(*value);
    }
    for number in [1, results] {
        body.extend(number.to_be_bytes());
    }
    raw(b'B', &body)
}

/// Parse with parameter types.
fn parse_as(statement: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [statement.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    for oid in types {
        body.extend(oid.to_be_bytes());
    }
    raw(b'P', &body)
}

/// A frame with all that a client goes by: columns with their types, values to the byte, the error's words.
fn shown(frame: &Frame) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    match frame.tag {
        b'T' => {
            let mut columns = Vec::new();
            let mut rest = &frame.body[2..];
            while let Some(end) = rest.iter().position(|byte| *byte == 0) {
                let name = String::from_utf8_lossy(&rest[..end]).into_owned();
                columns.push(format!("{name}:{}", hex(&rest[end + 7..end + 19])));
                rest = &rest[end + 19..];
            }
            format!("T({})", columns.join(","))
        }
        b'D' => format!("D({})", hex(&frame.body)),
        // Where in PostgreSQL it was raised is part of one error only, by which drivers know what to do.
        b'E' if frame.fault().code == "0A000" => {
            format!("E(0A000 {} {})", frame.fault().message, field(frame, b'R'))
        }
        b'E' => format!("E({} {})", frame.fault().code, frame.fault().message),
        _ => frame.to_string(),
    }
}

fn field(frame: &Frame, letter: u8) -> String {
    let mut fields = frame.body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    fields
        .find(|field| field[0] == letter)
        .map(|field| String::from_utf8_lossy(&field[1..]).into())
        .unwrap_or_default()
}

fn all_shown(answer: &Answer) -> String {
    let mut frames: Vec<&Frame> = answer.0.iter().collect();
    // A named difference: in front of an error, parameter types may be told or not.
    if let Some(at) = frames.iter().position(|frame| frame.tag == b'E')
        && at > 0
        && frames[at - 1].tag == b't'
    {
        frames.remove(at - 1);
    }
    frames.into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

/// One side of a comparison: a client and its own table, which look the same from outside.
struct Side {
    link: Link,
    table: &'static str,
}

impl Side {
    async fn ask(&mut self, frames: &[Vec<u8>]) -> String {
        all_shown(&self.link.ask(frames.concat()).await).replace(self.table, "TABLE")
    }
}

const TABLES: [&str; 2] = ["direct_t", "through_t"];

async fn make_tables(superuser: &Client) {
    for table in TABLES {
        let sql = format!(
            "DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (k int, v bigint, w text);
             INSERT INTO {table} VALUES (1, 42, 'x'); ALTER TABLE {table} OWNER TO app_owner;
             GRANT SELECT, INSERT, UPDATE ON {table} TO app"
        );
        superuser.batch_execute(&sql).await.unwrap();
    }
}

async fn owner(cluster: &Cluster) -> Link {
    let mut link = Link::tcp(cluster.port()).await;
    link.startup(&[("user", "app_owner"), ("database", "app")]).await;
    link.authenticate(OWNER_PASSWORD).await.unwrap();
    link
}

// === definitions change ===

/// What is done to the table.
const CHANGES: [(&str, &str); 7] = [
    ("nothing", "SELECT 1"),
    ("a type changed", "ALTER TABLE TABLE ALTER v TYPE double precision"),
    ("a column's type became text", "ALTER TABLE TABLE ALTER v TYPE text"),
    ("a column added", "ALTER TABLE TABLE ADD z int DEFAULT 7"),
    ("a column dropped", "ALTER TABLE TABLE DROP w"),
    ("columns reordered", "ALTER TABLE TABLE DROP v; ALTER TABLE TABLE ADD v bigint DEFAULT 5"),
    ("a column renamed", "ALTER TABLE TABLE RENAME w TO x"),
];

/// What is prepared, and with how many parameters: each is the number 42 as bigint.
const STATEMENTS: [(&str, usize); 6] = [
    ("SELECT * FROM TABLE", 0),
    ("SELECT v FROM TABLE WHERE v = $1", 1),
    ("SELECT v, $1 + v AS sum FROM TABLE", 1),
    ("INSERT INTO TABLE (v) VALUES ($1)", 1),
    ("INSERT INTO TABLE (k, v) VALUES (2, $1) RETURNING v", 1),
    ("UPDATE TABLE SET v = $1 WHERE k = 1", 1),
];

/// Between the preparation and the use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// Another tenant has the only server and gives it back.
    HandOver,
    /// The client goes on on another server.
    OtherServer,
    /// The server keeps one statement, and has another one by then.
    Evicted,
    /// A maintenance user makes the change in its own session.
    OwnChange,
    /// A maintenance user, whose only server another one of them has in the meantime.
    OtherMaintenance,
}

/// The rest of the proxy that a comparison needs.
struct Scene {
    proxy: Proxy,
    superuser: Client,
    meanwhile: Meanwhile,
    other: Link,
}

impl Scene {
    async fn new(cluster: &Cluster, meanwhile: Meanwhile) -> Self {
        let proxy = Proxy::start(cluster, |config| {
            let size = if meanwhile == Meanwhile::OtherServer { 2 } else { 1 };
            config.set("upstream.main.pool_size", size);
            if meanwhile == Meanwhile::Evicted {
                config.set("upstream.main.max_prepared", 1);
            }
        })
        .await;
        let other = proxy
            .link(match meanwhile {
                Meanwhile::HandOver => "globex_app",
                Meanwhile::Nothing | Meanwhile::OtherServer | Meanwhile::Evicted => "acme_app",
                Meanwhile::OwnChange | Meanwhile::OtherMaintenance => "migrate",
            })
            .await;
        Self { proxy, superuser: cluster.superuser().await, meanwhile, other }
    }

    const fn is_maintenance(&self) -> bool {
        matches!(self.meanwhile, Meanwhile::OwnChange | Meanwhile::OtherMaintenance)
    }

    async fn sides(&self, cluster: &Cluster) -> [Side; 2] {
        let (direct, through) = if self.is_maintenance() {
            (owner(cluster).await, self.proxy.link("migrate").await)
        } else {
            (cluster.link("acme").await, self.proxy.link("acme_app").await)
        };
        [Side { link: direct, table: TABLES[0] }, Side { link: through, table: TABLES[1] }]
    }

    async fn change(&mut self, sides: &mut [Side; 2], ddl: &str) {
        for side in sides {
            let ddl = ddl.replace("TABLE TABLE", &format!("TABLE {}", side.table));
            if self.meanwhile == Meanwhile::OwnChange {
                assert_eq!(side.link.query(&ddl).await.code(), None, "{ddl}");
            } else {
                self.superuser.batch_execute(&ddl).await.unwrap();
            }
        }
        match self.meanwhile {
            Meanwhile::Nothing | Meanwhile::OwnChange => {}
            Meanwhile::HandOver => assert_eq!(self.other.query("SELECT 1").await.value(), "1"),
            // Its settings make the server another client's, which is reset for the next one.
            Meanwhile::OtherMaintenance => {
                assert_eq!(self.other.query("SET work_mem = '5MB'").await, "C(SET) Z(I)");
            }
            Meanwhile::OtherServer => assert_eq!(self.other.query("BEGIN").await, "C(BEGIN) Z(T)"),
            Meanwhile::Evicted => {
                let batch = [parse("e", "SELECT 'another'"), rerun("e", &[]), close_statement("e"), sync()];
                assert_eq!(self.other.ask(batch.concat()).await.value(), "another");
            }
        }
    }

    async fn end(&mut self) {
        if self.meanwhile == Meanwhile::OtherServer {
            assert_eq!(self.other.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
        }
    }
}

/// How a statement is prepared and used.
#[derive(Debug, Clone, Copy)]
struct Usage {
    sql: &'static str,
    parameters: usize,
    results: u16,
    is_described: bool,
}

impl Usage {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (sql, parameters) in STATEMENTS {
            for results in [TEXT, BINARY] {
                for is_described in [true, false] {
                    all.push(Self { sql, parameters, results, is_described });
                }
            }
        }
        all
    }

    fn prepare(self, table: &str) -> Vec<u8> {
        let mut frames = parse("s", &self.sql.replace("TABLE", table));
        if self.is_described {
            frames.extend(describe_statement("s"));
        }
        frames
    }

    fn run(self) -> Vec<u8> {
        let number = 42_i64.to_be_bytes();
        let values = vec![&number[..]; self.parameters];
        [bind_as("s", (BINARY, &values), self.results), execute("", 0)].concat()
    }

    fn run_text(self) -> Vec<u8> {
        let values = vec![&b"42"[..]; self.parameters];
        [bind_as("s", (TEXT, &values), self.results), execute("", 0)].concat()
    }

    async fn before(self, side: &mut Side) -> Vec<String> {
        let prepare = self.prepare(side.table);
        vec![side.ask(&[prepare, sync()]).await, side.ask(&[self.run(), sync()]).await]
    }

    async fn after(self, side: &mut Side) -> Vec<String> {
        let all = [
            vec![self.run(), sync()],
            vec![self.run(), describe_portal(""), sync()],
            vec![describe_statement("s"), self.run(), sync()],
            vec![query("BEGIN")],
            vec![self.run(), self.run(), sync()],
            vec![query("ROLLBACK")],
            vec![self.run(), sync()],
            vec![close_statement("s"), self.prepare(side.table), sync()],
            vec![self.run_text(), sync()],
            vec![self.run_text(), sync()],
            vec![close_statement("s"), sync()],
        ];
        let mut answers = Vec::new();
        for frames in all {
            answers.push(side.ask(&frames).await);
        }
        let rows = format!("SELECT k, v::text FROM {} ORDER BY 1, 2", side.table);
        answers.push(side.ask(&[query(&rows)]).await);
        answers
    }
}

async fn compare(meanwhile: Meanwhile) {
    let cluster = Cluster::start().await;
    let mut scene = Scene::new(&cluster, meanwhile).await;
    let mut sides = scene.sides(&cluster).await;
    let mut refused = 0;
    for (what, ddl) in CHANGES {
        for usage in Usage::all() {
            make_tables(&scene.superuser).await;
            let mut before = Vec::new();
            for side in &mut sides {
                before.push(usage.before(side).await);
            }
            assert_eq!(before[0], before[1], "{meanwhile:?}, {what}: before {usage:?}");
            scene.change(&mut sides, ddl).await;
            let mut after = Vec::new();
            for side in &mut sides {
                after.push(usage.after(side).await);
            }
            assert_eq!(after[0], after[1], "{meanwhile:?}, {what}: after {usage:?}");
            refused += usize::from(after[1].iter().any(|answer| answer.contains("E(0A000 cached plan")));
            scene.end().await;
        }
    }
    assert!(refused > 30, "{refused} of them are refused, as directly");
}

#[tokio::test]
async fn on_the_same_server_a_statement_is_as_direct_after_any_change() {
    compare(Meanwhile::Nothing).await;
}

#[tokio::test]
async fn after_a_hand_over_a_statement_is_as_direct_after_any_change() {
    compare(Meanwhile::HandOver).await;
}

#[tokio::test]
async fn on_another_server_a_statement_is_as_direct_after_any_change() {
    compare(Meanwhile::OtherServer).await;
}

#[tokio::test]
async fn after_eviction_a_statement_is_as_direct_after_any_change() {
    compare(Meanwhile::Evicted).await;
}

#[tokio::test]
async fn after_its_own_change_a_statement_is_as_direct() {
    compare(Meanwhile::OwnChange).await;
}

#[tokio::test]
async fn among_maintenance_users_a_statement_is_as_direct_after_any_change() {
    compare(Meanwhile::OtherMaintenance).await;
}

#[tokio::test]
async fn a_value_is_never_read_as_another_type() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    make_tables(&cluster.superuser().await).await;
    let mut link = proxy.link("acme_app").await;
    let mut other = proxy.link("globex_app").await;
    let prepare = [
        parse("read", "SELECT v, $1::text FROM through_t"),
        describe_statement("read"),
        parse("write", "INSERT INTO through_t (k, v) VALUES (9, $1)"),
        describe_statement("write"),
        sync(),
    ];
    assert_eq!(link.ask(prepare.concat()).await, "1 t(25) T(v,text) 1 t(20) n Z(I)");
    let number = 42_i64.to_be_bytes();
    let read = [bind_as("read", (TEXT, &[b"x"]), BINARY), execute("", 0), sync()].concat();
    let write = [bind_as("write", (BINARY, &[&number]), BINARY), execute("", 0), sync()].concat();
    assert_eq!(link.ask(&write).await, "2 C(INSERT 0 1) Z(I)");
    cluster.execute("ALTER TABLE through_t ALTER v TYPE double precision").await;
    for _ in 0..3 {
        other.query("SELECT 1").await;
        assert_eq!(link.ask(&read).await, "E(0A000) Z(I)");
        assert_eq!(
            link.ask(&write).await,
            "2 C(INSERT 0 1) Z(I)",
            "an integer goes into the new column as 42"
        );
    }
    assert_eq!(cluster.value("SELECT string_agg(DISTINCT v::text, ',') FROM through_t").await, "42");
    let again =
        [close_statement("read"), parse("read", "SELECT v, $1::text FROM through_t WHERE k = 1"), sync()];
    assert_eq!(link.ask(again.concat()).await, "3 1 Z(I)");
    other.query("SELECT 1").await;
    let answer = link.ask(&read).await;
    let row = answer.0.iter().find(|frame| frame.tag == b'D').unwrap();
    assert_eq!(row.body[6..14], 42_f64.to_be_bytes());
}

#[tokio::test]
async fn a_change_that_is_taken_back_makes_the_statement_good_again() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    make_tables(&cluster.superuser().await).await;
    let mut link = proxy.link("acme_app").await;
    let mut other = proxy.link("globex_app").await;
    link.ask([parse("s", "SELECT * FROM through_t"), sync()].concat()).await;
    let run = [rerun("s", &[]), sync()].concat();
    for (ddl, answer) in [
        ("ALTER TABLE through_t ADD z int", "E(0A000) Z(I)"),
        ("ALTER TABLE through_t DROP z", "2 D(1,42,x) C(SELECT 1) Z(I)"),
        ("ALTER TABLE through_t RENAME w TO x", "E(0A000) Z(I)"),
        ("ALTER TABLE through_t RENAME x TO w", "2 D(1,42,x) C(SELECT 1) Z(I)"),
    ] {
        cluster.execute(ddl).await;
        for _ in 0..2 {
            assert_eq!(link.ask(&run).await, answer, "{ddl}: where it is");
            other.query("SELECT 1").await;
            assert_eq!(link.ask(&run).await, answer, "{ddl}: after a hand-over");
        }
    }
    assert_eq!(proxy.metrics().await.sum("pgtenant_servers", &[]), 1.0, "no server was lost");
}

#[tokio::test]
async fn a_refused_statement_fails_its_transaction_and_nothing_behind_it_runs() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    make_tables(&cluster.superuser().await).await;
    let mut link = proxy.link("acme_app").await;
    let mut other = proxy.link("globex_app").await;
    link.ask([parse("s", "SELECT * FROM through_t"), sync()].concat()).await;
    cluster.execute("ALTER TABLE through_t ADD z int").await;
    other.query("SELECT 1").await;
    let insert = unnamed("INSERT INTO through_t (k) VALUES (8)", &[]);
    let batch = [insert.clone(), rerun("s", &[]), insert.clone(), sync()].concat();
    assert_eq!(link.ask(batch).await, "1 2 n C(INSERT 0 1) E(0A000) Z(I)");
    other.query("SELECT 1").await;
    link.query("BEGIN").await;
    assert_eq!(link.ask([rerun("s", &[]), insert, sync()].concat()).await, "E(0A000) Z(E)");
    assert_eq!(link.query("SELECT 1").await, "E(25P02) Z(E)");
    assert_eq!(link.query("COMMIT").await, "C(ROLLBACK) Z(I)");
    assert_eq!(cluster.value("SELECT count(*) FROM through_t WHERE k = 8").await, "0");
}

#[tokio::test]
async fn a_new_parse_sees_the_definitions_of_its_time() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut early = proxy.link("acme_app").await;
    let mut late = proxy.link("acme_app").await;
    make_tables(&cluster.superuser().await).await;
    let text = "SELECT v FROM through_t WHERE v = $1";
    let prepare = [parse("s", text), describe_statement("s"), sync()].concat();
    assert_eq!(early.ask(&prepare).await, "1 t(20) T(v) Z(I)");
    let mut kept = Vec::new();
    // Made by others, so that nothing of it passes the proxy.
    for (ddl, described) in [
        ("ALTER TABLE through_t ALTER v TYPE numeric", "t(1700)"),
        ("ALTER TABLE through_t ALTER v TYPE text", "t(25)"),
        ("ALTER TABLE through_t ALTER v TYPE varchar(9)", "t(25)"),
        ("ALTER TABLE through_t ALTER v TYPE bigint USING v::bigint", "t(20)"),
    ] {
        cluster.execute(ddl).await;
        let mut fresh = proxy.link("acme_app").await;
        for link in [&mut fresh, &mut late] {
            let answer = link.ask(&prepare).await;
            assert_eq!(answer, format!("1 {described} T(v) Z(I)").as_str(), "{ddl}");
            assert_eq!(link.ask([rerun("s", &["42"]), sync()].concat()).await.value(), "42", "{ddl}");
        }
        late.ask([close_statement("s"), sync()].concat()).await;
        kept.push(fresh);
    }
    assert_eq!(early.ask([rerun("s", &["42"]), sync()].concat()).await.value(), "42", "as it was");
}

#[tokio::test]
async fn a_new_parse_sees_a_table_that_stands_earlier_in_the_path() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "CREATE SCHEMA front; GRANT USAGE ON SCHEMA front TO app; CREATE TABLE things (v int);
             INSERT INTO things VALUES (1); GRANT SELECT ON things TO app",
        )
        .await;
    let proxy = Proxy::start(&cluster, |config| config.set("upstream.main.pool_size", 2)).await;
    let path = [("search_path", "front, public")];
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(proxy.link_with("acme_app", &path).await);
    }
    let prepare = [parse("s", "SELECT v FROM things"), sync()].concat();
    let run = [rerun("s", &[]), sync()].concat();
    let [early, blocker, late, other] = &mut links[..] else { panic!("four") };
    // Both servers have it by the old definitions.
    for step in ["BEGIN", "COMMIT"] {
        blocker.query(step).await;
        early.ask(&prepare).await;
        assert_eq!(early.ask(&run).await.value(), "1");
        early.ask([close_statement("s"), sync()].concat()).await;
    }
    early.ask(&prepare).await;
    cluster
        .execute(
            "CREATE TABLE front.things (v int); INSERT INTO front.things VALUES (2);
                  GRANT SELECT ON front.things TO app",
        )
        .await;
    for link in [late, other] {
        assert_eq!(link.ask(&prepare).await, "1 Z(I)");
        for step in ["BEGIN", "COMMIT", "BEGIN", "COMMIT"] {
            blocker.query(step).await;
            assert_eq!(link.ask(&run).await.value(), "2", "on either server");
        }
    }
}

#[tokio::test]
async fn a_named_statement_follows_a_local_search_path() {
    let cluster = Cluster::start().await;
    cluster
        .execute(
            "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO app;
             CREATE TABLE things (v int); CREATE TABLE other.things (v text, w text);
             INSERT INTO things VALUES (1); INSERT INTO other.things VALUES ('o', 'p');
             GRANT SELECT ON things, other.things TO app",
        )
        .await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut sides = [cluster.link("acme").await, proxy.link("acme_app").await];
    let mut elsewhere = proxy.link("acme_app").await;
    let text = "SELECT * FROM things";
    elsewhere.ask([parse("x", text), rerun("x", &[]), sync()].concat()).await;
    let batch = [parse("a", text), describe_statement("a"), rerun("a", &[]), sync()].concat();
    let other = [parse("b", text), describe_statement("b"), rerun("b", &[]), sync()].concat();
    let all = [
        batch,
        query("BEGIN"),
        query("SET LOCAL search_path = other"),
        other,
        [rerun("b", &[]), sync()].concat(),
        [rerun("a", &[]), sync()].concat(),
        query("ROLLBACK"),
        [rerun("a", &[]), sync()].concat(),
        [rerun("b", &[]), sync()].concat(),
        query("BEGIN"),
        query("SET LOCAL search_path = other"),
        [rerun("b", &[]), sync()].concat(),
        query("ROLLBACK"),
    ];
    for frames in all {
        let mut answers = Vec::new();
        for side in &mut sides {
            answers.push(all_shown(&side.ask(&frames).await));
        }
        assert_eq!(answers[0], answers[1]);
    }
    assert_eq!(elsewhere.ask([rerun("x", &[]), sync()].concat()).await.value(), "1");
}

#[tokio::test]
async fn temporary_objects_of_one_client_are_in_no_statement_of_another() {
    let cluster = Cluster::start().await;
    cluster
        .execute("CREATE TABLE things (v int); INSERT INTO things VALUES (1); GRANT SELECT ON things TO app")
        .await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    let prepare = [parse("s", "SELECT v FROM things"), rerun("s", &[]), sync()].concat();
    let run = [rerun("s", &[]), sync()].concat();
    let mut plain = proxy.link("acme_app").await;
    let mut temporary = proxy.link("acme_app").await;
    assert_eq!(plain.ask(&prepare).await.value(), "1");
    temporary.query("BEGIN; CREATE TEMP TABLE things AS SELECT 2 AS v").await;
    assert_eq!(temporary.ask(&prepare).await.value(), "2");
    temporary.query("ROLLBACK").await;
    assert_eq!(plain.ask(&run).await.value(), "1");
    assert_eq!(temporary.ask(&run).await.value(), "1");
    assert_eq!(proxy.link("acme_app").await.ask(&prepare).await.value(), "1");
}

#[tokio::test]
async fn definitions_of_one_tenant_cost_no_other_its_statements() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.pool_size", 2);
        config.lenient();
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    let mut late = proxy.link("acme_app").await;
    let mut other = proxy.link("globex_app").await;
    let mut migrate = proxy.link("migrate").await;
    let prepare = [parse("s", "SELECT 'kept'"), sync()].concat();
    let run = [rerun("s", &[]), sync()].concat();
    link.ask(&prepare).await;
    let prepared = "SELECT string_agg(name || prepare_time, ',') FROM pg_prepared_statements
                    WHERE statement = 'SELECT ''kept'''";
    let before = link.query(prepared).await.value();
    for _ in 0..3 {
        assert_eq!(other.query("CREATE TABLE none.such (v int)").await, "E(3F000) Z(I)");
        assert_eq!(migrate.query("CREATE TABLE made (v int); DROP TABLE made").await.code(), None);
        assert_eq!(link.ask(&run).await.value(), "kept");
    }
    assert_eq!(link.query(prepared).await.value(), before, "it was not parsed again");
    // Both go on by the copy that is the newest.
    late.ask(&prepare).await;
    assert_eq!(late.ask(&run).await.value(), "kept");
    assert_eq!(link.ask(&run).await.value(), "kept");
    assert_ne!(link.query(prepared).await.value(), before);
}

#[tokio::test]
async fn a_text_that_many_clients_prepare_is_one_statement_on_a_server() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    let mut links = Vec::new();
    for _ in 0..20 {
        let mut link = proxy.link("acme_app").await;
        let batch = [parse("s", "SELECT 'shared'"), rerun("s", &[]), sync()].concat();
        assert_eq!(link.ask(batch).await.value(), "shared");
        links.push(link);
    }
    for link in &mut links {
        assert_eq!(link.ask([rerun("s", &[]), sync()].concat()).await.value(), "shared");
    }
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT ''shared'''";
    let count: usize = links[0].query(count).await.value().parse().unwrap();
    assert!(count <= 2, "one, and one that is closed next: {count}");
}

// === one batch ===

/// Frames that end in one ReadyForQuery; both sides get them in turn and answer alike.
async fn same_answers(sides: &mut [Link; 2], batches: &[(&str, Vec<u8>)]) {
    for (what, frames) in batches {
        let mut answers = Vec::new();
        for side in &mut *sides {
            answers.push(all_shown(&side.ask(frames).await));
        }
        assert_eq!(answers[0], answers[1], "{what}");
    }
}

async fn both(cluster: &Cluster) -> (Proxy, [Link; 2]) {
    let proxy = Proxy::start(cluster, |config| {
        config.one_server();
        config.lenient();
    })
    .await;
    let sides = [cluster.link("acme").await, proxy.link("acme_app").await];
    (proxy, sides)
}

#[tokio::test]
async fn a_statement_may_be_closed_before_its_portal_is_executed() {
    let cluster = Cluster::start().await;
    let (proxy, mut sides) = both(&cluster).await;
    let process = "SELECT pg_backend_pid()";
    let before = sides[1].query(process).await.value();
    let shapes = |sql: &str, name: &str| {
        let opened = [parse(name, sql), bind("p", name, &[])].concat();
        [
            [opened.clone(), close_statement(name), execute("p", 0), sync()].concat(),
            [opened.clone(), close_statement(name), describe_portal("p"), execute("p", 0), sync()].concat(),
            [
                opened.clone(),
                close_statement(name),
                close_statement(name),
                execute("p", 1),
                execute("p", 0),
                sync(),
            ]
            .concat(),
            [opened.clone(), close_statement(name), parse(name, "SELECT 'other'"), execute("p", 0), sync()]
                .concat(),
            [
                close_statement(name),
                opened.clone(),
                execute("p", 0),
                close_statement(name),
                execute("p", 0),
                sync(),
            ]
            .concat(),
            [opened.clone(), close_statement(name), flush(), execute("p", 0), sync()].concat(),
            [opened, close_statement(name), execute("p", 0), bind("", name, &[]), sync()].concat(),
            [close_statement(name), sync()].concat(),
        ]
    };
    for name in ["s", ""] {
        for sql in [
            "SELECT generate_series(1, 3)",
            "SELECT 1/0",
            "INSERT INTO notes (body) VALUES ('closed') RETURNING body",
            "COPY (SELECT 1) TO STDOUT",
            "SET LOCAL work_mem = '5MB'",
        ] {
            for (number, frames) in shapes(sql, name).into_iter().enumerate() {
                let what = format!("{number} of {sql} as {name:?}");
                same_answers(&mut sides, &[(&what, frames)]).await;
            }
        }
    }
    assert_eq!(sides[1].query(process).await.value(), before, "the server was not closed");
    assert_eq!(proxy.metrics().await.sum("pgtenant_servers", &[]), 1.0);
}

#[tokio::test]
async fn the_unnamed_statement_survives_what_was_skipped() {
    let cluster = Cluster::start().await;
    let (_proxy, mut sides) = both(&cluster).await;
    let fails = unnamed("SELECT 1/0", &[]);
    let named_fails = [parse("bad", "SELECT 1/0"), rerun("bad", &[])].concat();
    let unknown = bind("", "no_such", &[]);
    let syntax = parse("bad2", "SELEKT");
    let behind: [(&str, Vec<u8>); 6] = [
        ("Close", close_statement("")),
        ("Parse", parse("", "SELECT 'other'")),
        ("Parse and Close", [parse("", "SELECT 'other'"), close_statement("")].concat()),
        ("Close and Parse", [close_statement(""), parse("", "SELECT 'other'")].concat()),
        ("two Parses", [parse("", "SELECT 'other'"), parse("", "SELECT 'third'")].concat()),
        ("Parse and Bind", unnamed("SELECT 'other'", &[])),
    ];
    for (error, front) in
        [("unnamed", fails), ("named", named_fails), ("unknown", unknown), ("syntax", syntax)]
    {
        for (what, skipped) in &behind {
            let what = format!("{error}, then {what}");
            let batches = [
                ("prepare", [parse("", "SELECT $1::text AS kept"), sync()].concat()),
                ("use", [rerun("", &["a"]), sync()].concat()),
                (what.as_str(), [front.clone(), skipped.clone(), sync()].concat()),
                (what.as_str(), [rerun("", &["b"]), sync()].concat()),
                (what.as_str(), [rerun("", &[]), sync()].concat()),
                ("close", [close_statement("bad"), close_statement(""), sync()].concat()),
                ("closed", [rerun("", &["c"]), sync()].concat()),
            ];
            same_answers(&mut sides, &batches).await;
        }
    }
}

#[tokio::test]
async fn the_unnamed_statement_ends_with_a_parse_that_fails() {
    let cluster = Cluster::start().await;
    let (_proxy, mut sides) = both(&cluster).await;
    let prepare = ("prepare", [parse("", "SELECT 'kept'"), sync()].concat());
    let run = ("run", [rerun("", &[]), sync()].concat());
    for bad in ["SELEKT", "SELECT no_such_column FROM notes"] {
        let batches =
            [prepare.clone(), (bad, [parse("", bad), parse("", "SELECT 1"), sync()].concat()), run.clone()];
        same_answers(&mut sides, &batches).await;
        let batches = [
            prepare.clone(),
            ("begin", query("BEGIN")),
            prepare.clone(),
            ("fail", [parse("x", "SELEKT"), sync()].concat()),
            ("refused", [parse("", "SELECT 2"), sync()].concat()),
            ("rollback", [parse("r", "ROLLBACK"), rerun("r", &[]), close_statement("r"), sync()].concat()),
            run.clone(),
            ("close", [close_statement("r"), sync()].concat()),
        ];
        same_answers(&mut sides, &batches).await;
    }
}

#[tokio::test]
async fn named_statements_survive_what_was_skipped() {
    let cluster = Cluster::start().await;
    let (_proxy, mut sides) = both(&cluster).await;
    let fails = unnamed("SELECT 1/0", &[]);
    let batches = [
        ("prepare", [parse("s", "SELECT 's', $1::int"), describe_statement("s"), sync()].concat()),
        ("skipped Close", [fails.clone(), close_statement("s"), sync()].concat()),
        ("still there", [rerun("s", &["1"]), sync()].concat()),
        (
            "skipped Close and Parse",
            [fails.clone(), close_statement("s"), parse("s", "SELECT 2"), sync()].concat(),
        ),
        ("still the old one", [rerun("s", &["1"]), describe_statement("s"), sync()].concat()),
        ("skipped Parse", [fails.clone(), parse("t", "SELECT 2"), sync()].concat()),
        ("not there", [rerun("t", &[]), sync()].concat()),
        ("Parse, error, Close", [parse("u", "SELECT 'u'"), fails, close_statement("u"), sync()].concat()),
        ("there", [rerun("u", &[]), describe_statement("u"), sync()].concat()),
        ("many", [rerun("u", &[]), rerun("s", &["2"]), rerun("u", &[]), rerun("t", &[]), sync()].concat()),
        ("begin", query("BEGIN")),
        ("Parse that fails", [parse("v", "SELEKT"), sync()].concat()),
        ("Bind in a failed block", [rerun("s", &["1"]), sync()].concat()),
        ("rollback", [parse("r", "ROLLBACK"), sync()].concat()),
        ("rollback", [rerun("r", &[]), sync()].concat()),
        ("not there", [rerun("v", &[]), sync()].concat()),
        ("there", [rerun("s", &["3"]), sync()].concat()),
    ];
    same_answers(&mut sides, &batches).await;
}

// === the unnamed statement elsewhere ===

#[tokio::test]
async fn the_unnamed_statement_keeps_its_word_in_the_next_batch() {
    let cluster = Cluster::start().await;
    let number = 42_i64.to_be_bytes();
    for (describes, binds) in [(true, false), (false, false), (false, true)] {
        let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
        make_tables(&cluster.superuser().await).await;
        let mut sides = [
            Side { link: cluster.link("acme").await, table: TABLES[0] },
            Side { link: proxy.link("acme_app").await, table: TABLES[1] },
        ];
        let mut other = proxy.link("globex_app").await;
        let run = [bind_as("", (BINARY, &[&number]), BINARY), execute("", 0)].concat();
        let mut answers = [Vec::new(), Vec::new()];
        for (side, answers) in sides.iter_mut().zip(&mut answers) {
            let sql = format!("INSERT INTO {} (k, v) VALUES (5, $1) RETURNING v", side.table);
            let mut frames = vec![parse("", &sql)];
            frames.extend(describes.then(|| describe_statement("")));
            frames.extend(binds.then(|| run.clone()));
            frames.push(sync());
            answers.push(side.ask(&frames).await);
        }
        for table in TABLES {
            cluster.execute(&format!("ALTER TABLE {table} ALTER v TYPE double precision")).await;
        }
        for _ in 0..2 {
            other.query("SELECT 1").await;
            for (side, answers) in sides.iter_mut().zip(&mut answers) {
                answers.push(side.ask(&[run.clone(), sync()]).await);
            }
        }
        assert_eq!(answers[0], answers[1], "described: {describes}, bound: {binds}");
        let rows = |table: &str| format!("SELECT string_agg(v::text, ',' ORDER BY v) FROM {table}");
        assert_eq!(cluster.value(&rows(TABLES[0])).await, cluster.value(&rows(TABLES[1])).await);
    }
}

#[tokio::test]
async fn types_that_the_client_named_stay_as_it_named_them() {
    let cluster = Cluster::start().await;
    let (proxy, mut sides) = both(&cluster).await;
    let mut other = proxy.link("globex_app").await;
    let number = 7_i32.to_be_bytes();
    for name in ["s", ""] {
        let sql = "SELECT $1, $2 || 'x', pg_typeof($1)::text";
        let prepare = [parse_as(name, sql, &[23]), sync()].concat();
        let run = [bind_as(name, (BINARY, &[&number, b"y"]), TEXT), execute("", 0), sync()].concat();
        same_answers(&mut sides, &[("prepare", prepare), ("run", run.clone())]).await;
        other.query("SELECT 1").await;
        same_answers(
            &mut sides,
            &[("elsewhere", run), ("described", [describe_statement(name), sync()].concat())],
        )
        .await;
    }
}

// === encodings and databases ===

#[tokio::test]
async fn a_text_is_never_read_in_another_encoding() {
    let cluster = Cluster::start().await;
    let (proxy, mut sides) = both(&cluster).await;
    let mut other = proxy.link("globex_app").await;
    let run = [rerun("s", &[]), sync()].concat();
    same_answers(&mut sides, &[("prepare", [parse("s", "SELECT length('é') AS n"), sync()].concat())]).await;
    for (encoding, refused) in [("LATIN1", true), ("UTF8", false)] {
        same_answers(&mut sides, &[("set", query(&format!("SET client_encoding = '{encoding}'")))]).await;
        other.query("SELECT 1").await;
        assert_eq!(sides[0].ask(&run).await.value(), "1");
        let answer = sides[1].ask(&run).await;
        // PostgreSQL has read the text once and for all; the proxy would have to read it anew.
        assert_eq!(answer.code().as_deref(), refused.then_some("0A000"), "{encoding}: {answer}");
    }
    same_answers(&mut sides, &[("back", run)]).await;
}

#[tokio::test]
async fn types_of_one_database_are_not_taken_for_those_of_another() {
    let cluster = placement::cluster().await;
    let there = cluster.superuser_of("initech").await;
    // The numbers of types differ, as they do in any two databases that were not made together.
    there.batch_execute("CREATE TYPE mood AS ENUM ('ok'); GRANT USAGE ON TYPE mood TO PUBLIC").await.unwrap();
    cluster.execute("CREATE TYPE other AS ENUM ('x'); CREATE TYPE mood AS ENUM ('ok')").await;
    let proxy = Proxy::start(&cluster, placement::placed).await;
    let mut link = proxy.link("any.acme").await;
    let prepare = [
        parse("own", "SELECT $1::mood AS m"),
        parse("parameter", "SELECT $1::mood IS NULL AS b"),
        parse("common", "SELECT $1::int AS n"),
        sync(),
    ];
    assert_eq!(link.ask(prepare.concat()).await, "1 1 1 Z(I)");
    for (tenant, own) in [("acme", "ok"), ("initech", "E"), ("acme", "ok"), ("initech", "E")] {
        assert_eq!(link.query(&format!("SET app.tenant_id = '{tenant}'")).await.code(), None);
        for (name, value, result) in
            [("own", "ok", own), ("parameter", "ok", if own == "ok" { "f" } else { "E" })]
        {
            let answer = link.ask([rerun(name, &[value]), sync()].concat()).await;
            if result == "E" {
                assert_eq!(answer, "E(0A000) Z(I)", "{tenant} {name}");
            } else {
                assert_eq!(answer.value(), result, "{tenant} {name}");
            }
        }
        assert_eq!(link.ask([rerun("common", &["7"]), sync()].concat()).await.value(), "7", "{tenant}");
    }
    let again = [close_statement("own"), parse("own", "SELECT $1::mood AS m"), rerun("own", &["ok"]), sync()];
    assert_eq!(link.ask(again.concat()).await.value(), "ok");
}
