//! What sessions have beyond transactions, what definitions change under them, and how they end.

use rand::Rng as _;

use super::generator::{STATEMENTS, Writer};
use super::step::{End, Event, Leaves, Message, Step, Then, bind, execute, parse, query};

pub(super) fn startup(writer: &mut Writer<'_>) -> Vec<Event> {
    let changes = [
        "RESET ALL",
        "RESET TimeZone",
        "RESET search_path",
        "RESET DateStyle",
        "RESET work_mem",
        "DISCARD ALL",
        "SET TimeZone = DEFAULT",
        "SET TimeZone = 'Asia/Tokyo'",
        "SET TIME ZONE DEFAULT",
        "SET TIME ZONE LOCAL",
        "RESET TIME ZONE",
        "SET NAMES DEFAULT",
        "SET SESSION DateStyle TO DEFAULT",
    ];
    let shows =
        ["SHOW TimeZone", "SHOW search_path", "SHOW DateStyle", "SHOW work_mem", "SHOW application_name"];
    let mut messages = Vec::new();
    for _ in 0..writer.random.random_range(1..4) {
        let change = writer.one(&changes);
        let show = writer.one(&shows);
        match writer.random.random_range(0..4) {
            0 => messages.push(query(change)),
            1 => messages.push(query(format!("{change}; {show}"))),
            2 => messages.extend([parse("", change), bind("", ""), execute("", 0), Message::Sync]),
            _ => {
                messages.extend([parse("", change), bind("c1", ""), parse("", show), bind("c2", "")]);
                messages.extend([execute("c1", 0), execute("c2", 0), Message::Sync]);
            }
        }
        messages.push(query(show));
    }
    let steps = writer.all_sent(messages);
    writer.events("startup", steps)
}

pub(super) fn types(writer: &mut Writer<'_>) -> Vec<Event> {
    let texts = [
        "SELECT v FROM typed ORDER BY id",
        "SELECT * FROM typed ORDER BY id",
        "SELECT id, $1 FROM typed WHERE v = $1 ORDER BY id",
        "INSERT INTO typed (id, v) VALUES (3, $1)",
        "UPDATE typed SET v = $1 WHERE id = 2 RETURNING v",
    ];
    let (name, text) = (writer.one(&STATEMENTS), writer.one(&texts));
    let mut messages = vec![parse(name, text)];
    if writer.chance(70) {
        messages.push(Message::DescribeStatement(name));
    }
    messages.push(Message::Sync);
    let use_of = |writer: &mut Writer<'_>| {
        let mut messages = vec![match (text.contains('$'), writer.chance(60)) {
            (false, _) => bind("", name),
            (true, true) => {
                Message::BindBinary { portal: "", statement: name, value: 42_u32.to_be_bytes().to_vec() }
            }
            (true, false) => Message::Bind { portal: "", statement: name, values: vec!["42".to_owned()] },
        }];
        if writer.chance(25) {
            messages.push(Message::DescribePortal(""));
        }
        messages.extend([execute("", 0), Message::Sync]);
        messages
    };
    if writer.chance(60) {
        messages.extend(use_of(writer));
    }
    let mut events = writer.orderly_events("types", messages);
    let definition = writer.one(&[
        "ALTER TABLE typed ALTER v TYPE text USING v::text",
        "ALTER TABLE typed ALTER v TYPE bigint USING v::text::bigint",
        "ALTER TABLE typed ALTER v TYPE double precision USING v::text::double precision",
        "ALTER TABLE typed ADD COLUMN IF NOT EXISTS w int DEFAULT 7",
        "ALTER TABLE typed DROP COLUMN IF EXISTS w",
        "CREATE INDEX ON typed (v)",
    ]);
    events.push(Event::Definition(definition));
    if writer.chance(40) {
        let text = writer.one(&[
            "SET search_path = other, public",
            "BEGIN; SET LOCAL search_path = other; COMMIT",
            "SELECT 1",
        ]);
        events.extend(writer.orderly_events("types", vec![query(text)]));
    }
    for _ in 0..writer.random.random_range(1..3) {
        if writer.chance(50) {
            // The server is handed over, so that the statement has to be prepared again.
            events.extend(writer.other_client("types"));
        }
        let messages = use_of(writer);
        events.extend(writer.orderly_events("types", messages));
    }
    events
}

/// Code of the database changes the tenant of the session; what follows is another transaction.
pub(super) fn forged(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = Vec::new();
    for _ in 0..writer.random.random_range(1..4) {
        messages.extend(match writer.random.random_range(0..2) {
            0 => vec![query("SELECT forge()")],
            _ => vec![parse("", "SELECT forge()"), bind("", ""), execute("", 0), Message::Sync],
        });
        messages.extend(match writer.random.random_range(0..5) {
            0 => vec![query(writer.read())],
            // It has to be the first of its transaction.
            4 => vec![
                parse("", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
                bind("", ""),
                execute("", 0),
                Message::Sync,
            ],
            1 => vec![query(writer.write())],
            2 => vec![query(format!("{}; {}", writer.read(), writer.write()))],
            _ => vec![parse("", writer.write()), bind("", ""), execute("", 0), Message::Sync],
        });
    }
    writer.orderly_events("forged", messages)
}

/// Texts beyond ASCII of two clients with different encodings.
pub(super) fn encodings(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..writer.random.random_range(1..4) {
        let text =
            writer.one(&["SELECT char_length('\u{e4}')", "SELECT octet_length('\u{e4}'), 1 AS \"\u{e4}\""]);
        let messages = match writer.random.random_range(0..3) {
            0 => vec![parse("", text), bind("", ""), execute("", 0), Message::Sync],
            _ => vec![query(text)],
        };
        events.extend(writer.orderly_events("encodings", messages));
        events.extend(writer.other_client("encodings"));
    }
    events
}

pub(super) fn pins(writer: &mut Writer<'_>) -> Vec<Event> {
    let texts = [
        "CREATE TEMP TABLE mine (a int)",
        "INSERT INTO mine VALUES (1)",
        "SELECT count(*) FROM mine",
        "DROP TABLE mine",
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_advisory_unlock_all()",
        "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)",
        "FETCH 2 FROM held",
        "CLOSE ALL",
        "PREPARE stored AS SELECT 21",
        "EXECUTE stored",
        "DEALLOCATE ALL",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
    ];
    let count = writer.random.random_range(1..6);
    let mut messages: Vec<Message> = (0..count).map(|_| query(writer.one(&texts))).collect();
    if writer.chance(50) {
        messages.extend([parse("", writer.one(&texts)), bind("", ""), execute("", 0), Message::Sync]);
    }
    let steps = writer.all_sent(messages);
    let mut turn = writer.turn("pins", steps);
    turn.leaves = Leaves::Pin;
    vec![Event::Turn(turn)]
}

/// The same, and the client leaves.
pub(super) fn residue(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut events = pins(writer);
    for event in &mut events {
        if let Event::Turn(turn) = event {
            turn.end = writer.one(&[End::Vanish, End::Terminate]);
        }
    }
    events
}

/// Procedures that end their transaction and go on.
pub(super) fn procedures(writer: &mut Writer<'_>) -> Vec<Event> {
    let texts = ["CALL commits()", "CALL rolls_back()", "CALL commits(); SELECT 1", "SELECT 1"];
    let mut messages = Vec::new();
    for _ in 0..writer.random.random_range(1..4) {
        match writer.random.random_range(0..3) {
            0 => messages.extend([
                parse("", writer.one(&texts[..2])),
                bind("", ""),
                execute("", 0),
                Message::Sync,
            ]),
            _ => messages.push(query(writer.one(&texts))),
        }
        if writer.chance(30) {
            messages.push(query(writer.control()));
        }
    }
    let steps = writer.all_sent(messages);
    writer.events("procedures", steps)
}

/// What may not commit anything by itself stands unfinished at the end.
pub(super) fn departures(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = Vec::new();
    if writer.chance(50) {
        messages.extend([query("BEGIN"), query(writer.write())]);
    }
    let mut steps = writer.all_sent(messages);
    if let Some(last) = steps.last_mut() {
        last.then = Then::Answer;
    }
    let tail = match writer.random.random_range(0..6) {
        0 => vec![],
        1 => vec![parse("", writer.write()), bind("", ""), execute("", 0)],
        2 => vec![parse("", writer.write()), bind("", ""), execute("", 0), Message::Flush],
        3 => vec![parse("", writer.failure()), bind("", ""), Message::Flush],
        4 => {
            vec![parse("", "SELECT generate_series(1, 9)"), bind("c1", ""), execute("c1", 2), Message::Flush]
        }
        _ => vec![query("COPY lines (k, body) FROM STDIN"), Message::CopyData(writer.rows(1, None).concat())],
    };
    steps.extend(tail.into_iter().map(Step::from));
    if let Some(last) = steps.last_mut() {
        last.then = writer.one(&[Then::More, Then::Answer]);
    }
    let mut turn = writer.turn("departures", steps);
    turn.end = writer.one(&[End::Vanish, End::Terminate]);
    vec![Event::Turn(turn)]
}

pub(super) fn malformed(writer: &mut Writer<'_>) -> Vec<Event> {
    let raw = crate::support::message::raw;
    let bytes = writer.one(&[
        raw(b'Q', b"SELECT 1"),
        raw(b'P', b"s1\0SELECT 1"),
        raw(b'P', b"s1"),
        raw(b'B', b"\0\0\0\x09"),
        raw(b'E', b"\0"),
        raw(b'D', b"X\0"),
        raw(b'C', b"S"),
        raw(b'x', b"unknown"),
        raw(0, b""),
        vec![b'Q', 0, 0, 0, 3],
        vec![b'S', 0xff, 0xff, 0xff, 0xff],
        vec![b'd', 0, 0, 0, 0],
    ]);
    let mut messages = Vec::new();
    if writer.chance(40) {
        messages.extend([query("BEGIN"), query(writer.write())]);
    }
    messages.push(Message::Malformed(bytes));
    let steps = writer.all_sent(messages);
    let mut turn = writer.turn("malformed", steps);
    turn.end = End::Vanish;
    vec![Event::Turn(turn)]
}
