//! COPY from a client, frame by frame: while the server reads rows it is sent nothing but rows and their end, each
//! frame whole, and whoever uses the server afterwards finds it between frames.

use std::collections::HashSet;

use crate::protect::{KEY, install, sealed};
use crate::support::link::Answer;
use crate::support::tap::Tap;
use crate::support::{Cluster, Link, Proxy, message, within};

use message::{
    bind, close_portal, copy_data, copy_done, copy_fail, describe_portal, execute, flush, function_call,
    parse, query, raw, sync, unnamed,
};

const IN: &str = "COPY imports FROM STDIN";
const BAD: &str = "bad\n";
const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

/// How a COPY is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    /// Several statements in one text.
    Text,
    Extended,
}

use Protocol::{Extended, Simple, Text};

const PROTOCOLS: [Protocol; 3] = [Simple, Text, Extended];

impl Protocol {
    fn begin(self) -> Vec<u8> {
        match self {
            Simple => query(IN),
            Text => query(&format!("{IN}; SELECT 1")),
            Extended => [parse("", IN), bind("", "", &[]), execute("", 0)].concat(),
        }
    }

    /// What a client has to send behind a COPY that has failed.
    fn end(self) -> Vec<u8> {
        if self == Extended { sync() } else { Vec::new() }
    }

    async fn started(self, link: &mut Link) {
        link.send(self.begin()).await;
        let answer = link.until(b'G').await;
        assert_eq!(answer, if self == Extended { "1 2 G" } else { "G" });
    }
}

/// A proxy with one server for each role, a tap behind it, and two clients who use the same server in turn.
struct Stage {
    what: String,
    cluster: Cluster,
    tap: Tap,
    proxy: Proxy,
    user: &'static str,
    next: &'static str,
}

impl Stage {
    async fn new(context: &str, user: &'static str) -> Self {
        let cluster = Cluster::start().await;
        cluster.execute("ALTER TABLE imports ADD CHECK (line <> 'bad')").await;
        if context == "sealed" {
            install(&cluster);
        }
        let tap = Tap::start(&cluster).await;
        let proxy = Proxy::start(&cluster, |config| {
            config.one_server();
            config.set("defaults.queue_timeout", "15s");
            tap.stand_between(config);
            if context == "sealed" {
                sealed(config, KEY);
            }
        })
        .await;
        let next = if user == "migrate" { user } else { "globex_app" };
        Self { what: format!("{context}, {user}"), cluster, tap, proxy, user, next }
    }

    /// Tenants and maintenance users, in both kinds of context.
    async fn all() -> [Self; 3] {
        [
            Self::new("plain", "acme_app").await,
            Self::new("sealed", "acme_app").await,
            Self::new("plain", "migrate").await,
        ]
    }

    async fn links(&self) -> (Link, Link) {
        (self.proxy.link(self.user).await, self.proxy.link(self.next).await)
    }

    /// The client behind is answered, and as itself.
    async fn serves(&self, next: &mut Link, what: &str) {
        assert_eq!(next.query("SELECT 1").await, ONE, "{}, {what}", self.what);
        if self.next == "globex_app" {
            let who =
                next.extended("SELECT DISTINCT tenant_id FROM notes WHERE tenant_id <> $1", &["none"]).await;
            assert_eq!(who.value(), "globex", "{}, {what}", self.what);
        }
    }

    /// Every frame was whole, and no CopyData holds anything that the client has not sent as one or as a part of one.
    fn copied_only(&self, sent: &[Vec<u8>]) {
        let whole: HashSet<&[u8]> = sent.iter().map(|frame| &frame[5..]).collect();
        let is_part =
            |body: &[u8]| whole.iter().any(|frame| frame.windows(body.len().max(1)).any(|part| part == body));
        for body in self.tap.copied() {
            let is_sent = whole.contains(&body[..]) || is_part(&body);
            assert!(is_sent, "{}: {} bytes that no client has sent so", self.what, body.len());
        }
    }
}

/// CopyData that begins like this and goes on for `rest` bytes.
fn torn_copy_data(begin: &str, rest: usize) -> (Vec<u8>, Vec<u8>) {
    let mut whole = copy_data(&format!("{begin}{}", "x".repeat(rest)));
    let rest = whole.split_off(5 + begin.len());
    (whole, rest)
}

fn first_code(answer: &Answer) -> String {
    answer.code().unwrap_or_default()
}

// === messages of another kind ===

/// Every message that does not belong into a COPY, and what the client is answered once it has sent Sync.
fn wrong_messages() -> [(&'static str, Vec<u8>); 9] {
    [
        ("Query", query("SELECT 2")),
        ("Query, refused", query("SET app.tenant_id = 'globex'")),
        ("Parse", parse("", "SELECT 2")),
        ("Bind", bind("", "", &[])),
        ("Execute", execute("", 0)),
        ("Describe", describe_portal("")),
        ("Close", close_portal("")),
        ("function call", function_call(1598)),
        ("a batch", unnamed("INSERT INTO imports VALUES ('smuggled')", &[])),
    ]
}

/// The frames behind the one that began a COPY must be rows, and then its end.
fn assert_nothing_but_rows(stage: &Stage) {
    let is_copy = |body: &[u8]| body.windows(IN.len()).any(|part| part == IN.as_bytes());
    for frames in stage.tap.frames() {
        let mut frames = frames.iter().peekable();
        while let Some(frame) = frames.next() {
            match frame.tag {
                b'Q' if is_copy(&frame.body) => {}
                b'P' if is_copy(&frame.body) => {
                    while frames.next_if(|frame| b"BDEH".contains(&frame.tag)).is_some() {}
                }
                _ => continue,
            }
            while frames.next_if(|frame| frame.tag == b'd').is_some() {}
            let end = frames.next().map_or('-', |frame| char::from(frame.tag));
            assert!(matches!(end, 'c' | 'f'), "{}: {end} instead of the end of the rows", stage.what);
        }
    }
}

#[tokio::test]
async fn a_wrong_message_ends_a_copy_and_is_then_an_ordinary_one() {
    for stage in Stage::all().await {
        let (mut link, mut next) = stage.links().await;
        for protocol in PROTOCOLS {
            for (what, wrong) in wrong_messages() {
                let what = format!("{protocol:?}, {what}");
                protocol.started(&mut link).await;
                let answer = link.ask([copy_data("x\n"), wrong.clone(), sync()].concat()).await;
                assert_eq!(first_code(&answer), "08P01", "{}, {what}: {answer}", stage.what);
                assert!(answer.fault().message.contains("during COPY from stdin"), "{:?}", answer.fault());
                assert_eq!(answer.fault().severity, "ERROR");
                // By the extended protocol all of it is skipped up to Sync, as behind any error. Otherwise a Query is
                // answered by itself, and so is Sync; anything else is by its own Sync.
                let more = match (protocol, wrong[0]) {
                    (Extended, _) => 0,
                    (Simple | Text, b'Q' | b'F') => 2,
                    (Simple | Text, _) => 1,
                };
                link.answers(more).await;
                assert_eq!(link.query("SELECT 1").await, ONE, "{}, {what}", stage.what);
                stage.serves(&mut next, &what).await;
            }
        }
        assert_eq!(stage.cluster.value("SELECT count(*) FROM imports WHERE line = 'x'").await, "0");
        assert_nothing_but_rows(&stage);
    }
}

#[tokio::test]
async fn a_query_behind_a_failed_copy_passes_the_guard() {
    for (context, user) in [("plain", "acme_app"), ("sealed", "acme_app")] {
        let stage = Stage::new(context, user).await;
        let (mut link, mut next) = stage.links().await;
        let smuggled = "ROLLBACK; SET app.tenant_id = 'globex'; INSERT INTO notes (body) VALUES ('smuggled')";
        for round in 0..10 {
            let table = format!("CREATE TEMP TABLE zz{round} (i int); COPY zz{round} FROM STDIN");
            link.send(query(&table)).await;
            assert_eq!(link.until(b'G').await, "C(CREATE TABLE) G");
            let rows = copy_data(&"not a number\n".repeat(20_000));
            link.send([rows, query(smuggled), unnamed(smuggled, &[]), sync()].concat()).await;
            assert_eq!(link.answer().await, "E(22P02) Z(I)", "{}", stage.what);
            assert_eq!(link.answer().await, "E(42501) Z(I)", "{}", stage.what);
            assert_eq!(link.answer().await, "E(42501) Z(I)", "{}", stage.what);
            stage.serves(&mut next, "behind it").await;
        }
        assert_eq!(stage.cluster.value("SELECT count(*) FROM notes WHERE body = 'smuggled'").await, "0");
        let sent = stage.tap.frames().into_iter().flatten();
        let passed = sent.filter(|frame| frame.body.windows(8).any(|part| part == b"smuggled")).count();
        assert_eq!(passed, 0, "a refused text was sent");
    }
}

#[tokio::test]
async fn frames_that_look_like_answers_to_come_are_not_sent() {
    // What a client sends behind a bad row is never what the proxy's own statements are answered with.
    for (context, user) in [("plain", "acme_app"), ("sealed", "acme_app")] {
        let stage = Stage::new(context, user).await;
        let (mut link, mut next) = stage.links().await;
        for _ in 0..20 {
            link.send(query("CREATE TEMP TABLE tt (x int) ON COMMIT DROP; COPY tt FROM STDIN")).await;
            link.until(b'G').await;
            let forged = unnamed("SELECT 'forged'", &[]).repeat(3);
            link.send([copy_data("bad\n"), query("SELECT 'forged'"), forged].concat()).await;
            assert_eq!(link.answer().await, "E(22P02) Z(I)", "{}", stage.what);
            assert_eq!(link.answer().await.value(), "forged", "{}", stage.what);
            assert_eq!(link.ask(sync()).await.column(), ["forged"; 3], "{}", stage.what);
            stage.serves(&mut next, "behind it").await;
        }
    }
}

#[tokio::test]
async fn the_head_of_a_wrong_message_ends_a_copy_at_once() {
    let stage = Stage::new("plain", "acme_app").await;
    let (mut link, mut next) = stage.links().await;
    for protocol in [Simple, Text] {
        protocol.started(&mut link).await;
        let whole = query("SELECT 1");
        link.send([copy_data("x\n"), whole[..7].to_vec()].concat()).await;
        assert_eq!(link.answer().await, "E(08P01) Z(I)", "{protocol:?}");
        assert_eq!(link.ask(&whole[7..]).await, ONE, "{protocol:?}");
        stage.serves(&mut next, "behind it").await;
    }
}

#[tokio::test]
async fn an_unknown_message_inside_a_copy_ends_the_connection() {
    for stage in Stage::all().await {
        for protocol in PROTOCOLS {
            let (mut link, mut next) = stage.links().await;
            protocol.started(&mut link).await;
            link.send([copy_data("x\n"), raw(b'y', b"")].concat()).await;
            let end = link.closes().await;
            assert_eq!(end.0.last().unwrap().fault().code, "08P01", "{}, {protocol:?}: {end}", stage.what);
            stage.serves(&mut next, "behind it").await;
        }
        assert_eq!(stage.cluster.value("SELECT count(*) FROM imports WHERE line = 'x'").await, "0");
    }
}

#[tokio::test]
async fn a_statement_pipelined_behind_a_copy_ends_it() {
    let stage = Stage::new("plain", "acme_app").await;
    let (mut link, mut next) = stage.links().await;
    for _ in 0..3 {
        let batch = [Extended.begin(), unnamed("SELECT 2", &[]), sync()].concat();
        assert_eq!(link.ask(batch).await, "1 2 G E(08P01) Z(I)");
        assert_eq!(link.query("SELECT 1").await, ONE);
        // A portal of an earlier segment.
        link.query("BEGIN").await;
        assert_eq!(link.ask([parse("", IN), bind("p", "", &[]), sync()].concat()).await, "1 2 Z(T)");
        let batch = [execute("p", 0), unnamed("SELECT 2", &[]), sync()].concat();
        assert_eq!(link.ask(batch).await, "G E(08P01) Z(E)");
        assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
        stage.serves(&mut next, "behind it").await;
    }
}

// === Sync and Flush ===

#[tokio::test]
async fn sync_and_flush_inside_a_copy_count_as_often_as_direct() {
    let (bad, good) = (copy_data(BAD), copy_data("good\n"));
    let cases: [(&str, Protocol, Vec<u8>, usize); 14] = [
        ("a bad row, Sync", Extended, [bad.clone(), sync()].concat(), 1),
        ("a bad row, Flush, Sync", Extended, [bad.clone(), flush(), sync()].concat(), 1),
        ("a bad row, Sync", Simple, [bad.clone(), sync()].concat(), 2),
        ("a bad row, two Syncs", Simple, [bad.clone(), sync(), sync()].concat(), 3),
        ("a bad row, two Syncs", Extended, [bad.clone(), sync(), sync()].concat(), 2),
        (
            "Syncs between rows",
            Extended,
            [&sync()[..], &good, &sync(), &flush(), &good, &copy_done(), &sync()].concat(),
            1,
        ),
        (
            "Syncs between rows",
            Simple,
            [&sync()[..], &good, &sync(), &flush(), &good, &copy_done()].concat(),
            1,
        ),
        ("Sync first, then a bad row", Extended, [&sync()[..], &bad, &copy_done(), &sync()].concat(), 1),
        ("Sync first, then CopyFail", Extended, [&sync()[..], &copy_fail("no"), &sync()].concat(), 1),
        ("Sync behind CopyFail", Simple, [copy_fail("no"), sync()].concat(), 2),
        (
            "rows behind the end",
            Extended,
            [&good[..], &copy_done(), &good, &copy_done(), &sync()].concat(),
            1,
        ),
        ("rows behind the end", Simple, [&good[..], &copy_done(), &good, &copy_done(), &sync()].concat(), 2),
        (
            "an end behind a failure",
            Extended,
            [&good[..], &copy_fail("no"), &good, &copy_done(), &sync()].concat(),
            1,
        ),
        ("a query behind the end", Simple, [&good[..], &copy_done(), &query("SELECT 1")].concat(), 2),
    ];
    let stage = Stage::new("plain", "acme_app").await;
    let mut direct = stage.cluster.link("acme").await;
    let (mut link, mut next) = stage.links().await;
    for (what, protocol, bytes, answers) in cases {
        let mut both = Vec::new();
        for link in [&mut direct, &mut link] {
            protocol.started(link).await;
            link.send(&bytes).await;
            let mut all = link.answers(answers).await;
            all.push(link.query("SELECT 1").await.to_string());
            both.push(all);
        }
        assert_eq!(both[1], both[0], "{what}, {protocol:?}");
        stage.serves(&mut next, what).await;
    }
}

#[tokio::test]
async fn a_cancelled_copy_forgets_the_sync_that_began_it() {
    // libpq sends Sync with Execute and another one behind the rows: the first one is answered by nothing.
    let stage = Stage::new("plain", "acme_app").await;
    let (mut link, mut next) = stage.links().await;
    link.send([Extended.begin(), sync()].concat()).await;
    assert_eq!(link.until(b'G').await, "1 2 G");
    // PostgreSQL acts upon it between two rows only.
    stage
        .cluster
        .execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'COPY imports FROM STDIN'",
        )
        .await;
    link.send(copy_data("good\n")).await;
    assert_eq!(link.until(b'E').await, "E(57014)");
    assert_eq!(link.ask([copy_done(), sync()].concat()).await, "Z(I)");
    assert_eq!(link.query("SELECT 1").await, ONE);
    stage.serves(&mut next, "behind it").await;
}

// === frames in pieces ===

#[tokio::test]
async fn a_server_waits_for_the_rest_of_a_frame_before_it_serves_another() {
    for stage in Stage::all().await {
        let mut sent = vec![copy_data(BAD)];
        let (mut link, mut next) = stage.links().await;
        for protocol in PROTOCOLS {
            for rest in [1, 40, 70_000] {
                protocol.started(&mut link).await;
                let (head, tail) = torn_copy_data("torn ", rest);
                sent.push([head.clone(), tail.clone()].concat());
                link.send([copy_data(BAD), head, tail[..rest / 2].to_vec()].concat()).await;
                assert_eq!(first_code(&link.until(b'E').await), "23514");
                next.send(query("SELECT 1")).await;
                link.send([tail[rest / 2..].to_vec(), protocol.end()].concat()).await;
                assert_eq!(link.answer().await, "Z(I)", "{}, {protocol:?}", stage.what);
                assert_eq!(next.answer().await, ONE, "{}, {protocol:?}, {rest}", stage.what);
                assert_eq!(link.query("SELECT 1").await, ONE, "{}, {protocol:?}, {rest}", stage.what);
                stage.serves(&mut next, "behind it").await;
            }
        }
        stage.copied_only(&sent);
    }
}

#[tokio::test]
async fn a_server_whose_client_leaves_inside_a_frame_is_closed() {
    for stage in Stage::all().await {
        for protocol in PROTOCOLS {
            let (mut link, mut next) = stage.links().await;
            protocol.started(&mut link).await;
            let (head, _) = torn_copy_data("torn ", 90);
            link.send([copy_data(BAD), head].concat()).await;
            assert_eq!(first_code(&link.until(b'E').await), "23514");
            next.send(query("SELECT 'answered'")).await;
            drop(link);
            assert_eq!(next.answer().await.value(), "answered", "{}, {protocol:?}", stage.what);
            stage.serves(&mut next, "behind it").await;
        }
    }
}

#[tokio::test]
async fn an_unfinished_frame_holds_its_server_for_the_statement_timeout() {
    let stage = Stage::new("plain", "acme_app").await;
    let mut proxy = stage.proxy;
    proxy.reload(|config| config.set_tenant("acme", "statement_timeout", "300ms")).await;
    for protocol in PROTOCOLS {
        let (mut link, mut next) = (proxy.link("acme_app").await, proxy.link("globex_app").await);
        protocol.started(&mut link).await;
        let (head, tail) = torn_copy_data("torn ", 90);
        link.send([copy_data(BAD), head].concat()).await;
        assert_eq!(first_code(&link.until(b'E').await), "23514");
        if protocol != Extended {
            assert_eq!(link.frame("ReadyForQuery").await.to_string(), "Z(I)");
        }
        assert_eq!(within("a server", next.query("SELECT 1")).await, ONE, "{protocol:?}");
        // The client was answered already; what it sends of its frame goes nowhere.
        link.send([tail, protocol.end()].concat()).await;
        if protocol == Extended {
            assert_eq!(link.answer().await, "Z(I)");
        }
        assert_eq!(link.query("SELECT 1").await, ONE, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_failed_copy_in_a_block_leaves_the_block_failed_at_a_frames_end() {
    let stage = Stage::new("plain", "acme_app").await;
    let (mut link, mut next) = stage.links().await;
    for protocol in PROTOCOLS {
        assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
        protocol.started(&mut link).await;
        let (head, tail) = torn_copy_data("torn ", 90);
        link.send([copy_data(BAD), head].concat()).await;
        assert_eq!(first_code(&link.until(b'E').await), "23514");
        link.send([tail, protocol.end()].concat()).await;
        assert_eq!(link.answer().await, "Z(E)", "{protocol:?}");
        assert_eq!(link.query("SELECT 1").await, "E(25P02) Z(E)", "{protocol:?}");
        assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)", "{protocol:?}");
        stage.serves(&mut next, "behind it").await;
    }
}

// === drivers that send rows without waiting ===

#[tokio::test]
async fn two_hundred_failing_copies_of_a_tenant_fail_as_direct() {
    fail_as_direct(Stage::new("plain", "acme_app").await).await;
}

#[tokio::test]
async fn two_hundred_failing_copies_under_a_seal_fail_as_direct() {
    fail_as_direct(Stage::new("sealed", "acme_app").await).await;
}

#[tokio::test]
async fn two_hundred_failing_copies_of_a_maintenance_user_fail_as_direct() {
    fail_as_direct(Stage::new("plain", "migrate").await).await;
}

async fn fail_as_direct(stage: Stage) {
    stage.cluster.execute("CREATE UNIQUE INDEX ON imports (line)").await;
    let (mut link, mut next) = stage.links().await;
    // Near the beginning of many rows, one that is refused at once, and one that is when many were stored.
    let lines: Vec<String> = (0..20_000).map(|line| format!("line {line}\n")).collect();
    let bad = [&lines[..10].concat(), BAD, &lines[10..].concat()].concat();
    let duplicate = [&lines[..10].concat(), "line 1\n", &lines[10..].concat()].concat();
    let mut sent = Vec::new();
    for round in 0..200_usize {
        let protocol = PROTOCOLS[round % 3];
        let size = if round % 2 == 0 { 40 + round * 13 % 400 } else { 40 + round * 397 % 65_000 };
        let (lines, code) = if round % 2 == 0 { (&bad, "23514") } else { (&duplicate, "23505") };
        let frames = lines.as_bytes().chunks(size).map(|part| raw(b'd', part));
        let frames: Vec<Vec<u8>> = frames.collect();
        let rows = [frames.concat(), copy_done(), protocol.end()].concat();
        protocol.started(&mut link).await;
        // Writing goes on while the error comes, which is nearly always inside a frame.
        let (first, rest) = rows.split_at(1000 + round * 613 % 60_000);
        link.send(first).await;
        let mut answer = Answer(Vec::new());
        if round % 2 == 0 {
            answer = link.until(b'E').await;
        }
        link.send(rest).await;
        answer.0.extend(link.answer().await.0);
        let expected = format!("E({code}) Z(I)");
        assert_eq!(answer, expected.as_str(), "{}, round {round}, {protocol:?}", stage.what);
        sent.extend(frames);
        if round % 5 == 0 {
            assert_eq!(link.query("SELECT 1").await, ONE, "{}, round {round}", stage.what);
            stage.serves(&mut next, "behind it").await;
        }
    }
    stage.copied_only(&sent);
    assert_eq!(stage.cluster.value("SELECT count(*) FROM imports").await, "0");
}

#[tokio::test]
async fn a_sync_behind_the_rows_of_a_failed_copy_is_answered() {
    let cluster = Cluster::start().await;
    cluster.execute("ALTER TABLE imports ADD CHECK (line <> 'bad')").await;
    let proxy = Proxy::start(&cluster, |config| config.lenient()).await;
    let mut link = proxy.link("acme_app").await;
    let mut direct = cluster.link("acme").await;
    for protocol in PROTOCOLS {
        for link in [&mut direct, &mut link] {
            protocol.started(link).await;
            link.send([copy_data(BAD), sync(), query("SELECT 1")].concat()).await;
            assert_eq!(link.until(b'Z').await, "E(23514) Z(I)", "{protocol:?}");
            if protocol != Extended {
                assert_eq!(link.until(b'Z').await, "Z(I)", "{protocol:?}");
            }
            assert_eq!(link.until(b'Z').await, ONE, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_row_that_comes_behind_its_failed_copy_is_no_message() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    link.send(query("COPY notes (id, body) FROM STDIN")).await;
    // Nothing of it reads like the header of a message.
    let row = [&b"no number\trow\n"[..], &[0xff; 3000]].concat();
    let frame = raw(b'd', &row);
    link.send(&frame[..100]).await;
    link.send(&frame[100..1000]).await;
    let answer = within("the error", link.until(b'Z')).await;
    assert!(answer.code().is_some(), "{answer}");
    for part in frame[1000..].chunks(600) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        link.send(part).await;
    }
    link.send(copy_done()).await;
    assert_eq!(link.query("SELECT 1").await.value(), "1");
}
