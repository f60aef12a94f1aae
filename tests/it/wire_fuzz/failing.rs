//! Blocks that fail: what is described, bound and executed in them, and what follows their end in one pipeline.

use rand::Rng as _;

use super::generator::Writer;
use super::step::{Event, Message, bind, execute, parse, query};

const NAMES: [&str; 3] = ["", "", "s1"];

pub(super) fn failed(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = ["s1", "s2", "s3"].map(Message::CloseStatement).to_vec();
    for name in ["", "s1"] {
        if writer.chance(60) {
            messages.extend([parse(name, any_text(writer)), Message::Sync]);
        }
    }
    messages.push(Message::Sync);
    let mut events = writer.orderly_events("failed", messages);
    if writer.chance(50) {
        // The statements are not on the server any more.
        events.extend(writer.other_client("failed"));
    }
    let mut messages = begins(writer);
    if writer.chance(40) {
        messages.extend([parse("", any_text(writer)), Message::Sync]);
    }
    if writer.chance(30) {
        messages.extend([bind("c1", writer.one(&NAMES)), Message::Sync]);
    }
    match writer.random.random_range(0..6) {
        0 => messages.extend([parse("s2", writer.failure()), Message::Sync]),
        1 => messages.push(query(writer.failure())),
        2 => messages.push(writer.forbidden()),
        3 => messages.extend([parse("s2", "SELECT 1/0"), bind("", "s2"), execute("", 0), Message::Sync]),
        // An error that leaves the unnamed statement.
        4 => messages.extend([bind("", "none"), Message::Sync]),
        _ => {}
    }
    for _ in 0..writer.random.random_range(1..5) {
        messages.extend(in_block(writer));
    }
    messages.extend(ends(writer));
    let steps = writer.all_sent(messages);
    events.extend(writer.events("failed", steps));
    events
}

/// A statement with columns or without.
fn any_text(writer: &mut Writer<'_>) -> String {
    match writer.random.random_range(0..6) {
        0 => writer.read(),
        1 => writer.write(),
        2 => writer.control(),
        3 => writer.session(),
        4 => "COPY lines (k, body) FROM STDIN".to_owned(),
        _ => {
            writer.one(&["SELECT", "CALL commits()", "MOVE k", "INSERT INTO typed VALUES ($1, 2)"]).to_owned()
        }
    }
}

fn begins(writer: &mut Writer<'_>) -> Vec<Message> {
    match writer.random.random_range(0..3) {
        0 => vec![query("BEGIN")],
        1 => vec![parse("s3", "BEGIN"), bind("", "s3"), execute("", 0), Message::Sync],
        // It does not wait for what follows.
        _ => vec![query("BEGIN"), query("SELECT 1")],
    }
}

fn in_block(writer: &mut Writer<'_>) -> Vec<Message> {
    let name = writer.one(&NAMES);
    let mut messages = match writer.random.random_range(0..10) {
        0..4 => vec![Message::DescribeStatement(name)],
        4 => vec![bind(writer.one(&["", "c2"]), name)],
        5 => vec![Message::DescribePortal("c1")],
        6 => vec![execute("c1", 0)],
        7 => vec![parse(writer.one(&["", "s2"]), any_text(writer))],
        8 => vec![Message::CloseStatement(name)],
        _ => vec![query(any_text(writer))],
    };
    match writer.random.random_range(0..6) {
        0 | 1 => messages.push(Message::Sync),
        2 => messages.push(writer.forbidden()),
        3 => messages.push(query(writer.read())),
        _ => {}
    }
    messages
}

fn ends(writer: &mut Writer<'_>) -> Vec<Message> {
    let end = writer.one(&["ROLLBACK", "COMMIT", "ROLLBACK AND CHAIN", "ROLLBACK TO a"]);
    if writer.chance(30) {
        return vec![Message::Sync, query(end)];
    }
    let mut messages = vec![Message::Sync, parse("", end), bind("", ""), execute("", 0)];
    for _ in 0..writer.random.random_range(0..3) {
        let name = writer.one(&["", "s2"]);
        messages.extend([parse(name, any_text(writer)), bind("", name)]);
        if writer.chance(70) {
            messages.push(execute("", 0));
        }
        if writer.chance(30) {
            messages.extend([Message::DescribeStatement("s1"), bind("", "s1"), execute("", 0)]);
        }
    }
    messages.push(Message::Sync);
    messages
}
