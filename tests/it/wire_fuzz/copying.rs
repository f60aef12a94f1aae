//! COPY from the client: what fails in it, what stands in it that is no row, and where it is cut.

use rand::Rng as _;

use super::generator::Writer;
use super::step::{End, Event, Message, Step, Then, bind, execute, parse, query};

/// COPY as a simple query or by the extended protocol.
pub(super) fn copy(writer: &mut Writer<'_>) -> Vec<Message> {
    let text = writer.one(&[
        "COPY lines (k, body) FROM STDIN",
        "COPY lines (k, body) FROM STDIN",
        "COPY lines (k, body) FROM STDIN; SELECT 1",
        "SELECT 1; COPY lines (k, body) FROM STDIN",
        "CREATE TEMP TABLE zz (i int, t text) ON COMMIT DROP; COPY zz FROM STDIN",
    ]);
    let mut all = Vec::new();
    if writer.chance(25) {
        all.push(query("BEGIN"));
    }
    if writer.chance(35) {
        let text = text
            .split("; ")
            .find(|text| text.starts_with("COPY lines"))
            .unwrap_or("COPY lines (k, body) FROM STDIN");
        all.extend([parse("", text), bind("", ""), execute("", 0)]);
        all.push(writer.one(&[Message::Sync, Message::Flush]));
    } else {
        all.push(query(text));
    }
    all
}

pub(super) fn tunnel(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = copy(writer);
    let failing = writer.chance(75).then_some(0);
    let count = writer.random.random_range(0..3);
    messages.extend(writer.rows(count, failing).into_iter().map(Message::CopyData));
    for _ in 0..writer.random.random_range(1..4) {
        let message = match writer.random.random_range(0..4) {
            0 => writer.forbidden(),
            1 => query(writer.text()),
            2 => writer.one(&[Message::CopyDone, Message::Sync]),
            _ => writer.message(),
        };
        messages.push(message);
    }
    let steps = writer.all_sent(messages);
    writer.events("tunnel", steps)
}

pub(super) fn held(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = copy(writer);
    if writer.chance(90) {
        messages.extend(writer.rows(1, Some(0)).into_iter().map(Message::CopyData));
    }
    let last = match writer.random.random_range(0..4) {
        0 => writer.message(),
        _ => Message::CopyData(writer.rows(1, None).concat()),
    };
    let mut steps = writer.all_sent(messages);
    if let Some(step) = steps.last_mut() {
        step.then = Then::Answer;
    }
    steps.push(last.into());
    let mut turn = writer.turn("held", steps);
    turn.end = End::Hold(writer.random.random_range(1..1000));
    vec![Event::Turn(turn)]
}

/// A COPY fails while its client has sent a part of the next message of rows; the rest comes when the other client has had the
/// server.
pub(super) fn unfinished(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = copy(writer);
    let rows = match writer.random.random_range(0..4) {
        // PostgreSQL looks at keys once it has so many rows.
        0 => writer.rows(1100, Some(0)).concat(),
        _ => [writer.rows(1, Some(0)).concat(), writer.rows(2, None).concat()].concat(),
    };
    messages.push(Message::CopyData(rows));
    let mut steps: Vec<Step> = messages.into_iter().map(Step::from).collect();
    for step in &mut steps {
        step.then = Then::Answer;
    }
    if let Some(failing) = steps.last_mut() {
        // In the same write the part is on its way when the COPY fails.
        failing.then = writer.one(&[Then::More, Then::More, Then::Answer]);
    }
    let (tenant, number) = (writer.tenant(), writer.fresh());
    let words = writer.one(&[10, 100, 1000, 5000]);
    let words: Vec<String> = (0..words).map(|word| format!("{number}.{word}")).collect();
    let body = words.join(" ");
    steps.push(Message::CopyData(format!("{}\t{tenant}: {body}\n", 100 + number)).into());
    let mut turn = writer.turn("unfinished", steps);
    turn.end = End::Hold(writer.random.random_range(1..1000));
    let mut events = vec![Event::Turn(turn)];
    for _ in 0..writer.random.random_range(1..3) {
        events.extend(writer.other_client("unfinished"));
    }
    let messages = vec![query(writer.read())];
    events.extend(writer.orderly_events("unfinished", messages));
    events
}

pub(super) fn rows(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = copy(writer);
    let count = writer.random.random_range(2..20);
    let failing = writer.chance(85).then(|| writer.random.random_range(0..count));
    let rows = writer.rows(count, failing);
    messages.extend(rows.into_iter().map(Message::CopyData));
    messages.push(writer.one(&[Message::CopyDone, Message::CopyDone, Message::CopyFail]));
    messages.extend([Message::Sync, query(writer.text())]);
    let mut steps = writer.all_sent(messages);
    for step in &mut steps {
        if matches!(step.message, Message::CopyData(_)) && writer.chance(30) {
            step.cut = Some(writer.random.random_range(0..1000));
        }
    }
    writer.events("rows", steps)
}
