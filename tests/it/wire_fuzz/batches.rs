//! Extended queries: portals and statements in unusual orders.

use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::generator::{PORTALS, STATEMENTS, Writer};
use super::step::{End, Event, Message, Step, bind, execute, parse, query};

/// A text that may end, begin or reset something.
pub(super) fn consequential(writer: &mut Writer<'_>) -> String {
    match writer.random.random_range(0..8) {
        0 | 1 => writer.control(),
        2 => writer.session(),
        3 => writer.prepared(),
        4 => writer.failure(),
        5 => writer.write(),
        _ => writer.read(),
    }
}

pub(super) fn portals(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = Vec::new();
    if writer.chance(30) {
        messages.extend([parse("s1", "SELECT 7"), Message::Sync]);
    }
    let mut bound = Vec::new();
    for portal in PORTALS.iter().skip(1).take(writer.random.random_range(1..4)) {
        messages.push(parse("", consequential(writer)));
        messages.push(bind(portal, ""));
        bound.push(*portal);
        if writer.chance(30) {
            let portal = writer.one(&bound);
            messages.push(execute(portal, writer.one(&[0, 0, 2])));
        }
    }
    bound.shuffle(writer.random);
    for portal in bound {
        if writer.chance(10) {
            messages.push(Message::DescribePortal(portal));
        }
        messages.push(execute(portal, writer.one(&[0, 0, 0, 2])));
    }
    messages.push(Message::Sync);
    let steps = writer.all_sent(messages);
    writer.events("portals", steps)
}

pub(super) fn suspended(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = vec![parse("s1", "SELECT 7"), Message::Sync, query("BEGIN")];
    messages.extend([parse("", "SELECT generate_series(1, 9)"), bind("c1", ""), execute("c1", 3)]);
    messages.push(Message::Sync);
    for _ in 0..writer.random.random_range(1..3) {
        messages.extend([parse("", consequential(writer)), bind("", ""), execute("", 0), Message::Sync]);
        if writer.chance(30) {
            messages.push(query(consequential(writer)));
        }
        messages.push(execute("c1", 3));
        messages.push(Message::Sync);
    }
    let steps = writer.all_sent(messages);
    writer.events("suspended", steps)
}

pub(super) fn deallocate(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = vec![parse("s1", writer.read()), parse("s2", "SELECT 8"), Message::Sync];
    let name = writer.one(&STATEMENTS);
    messages.extend([parse(name, writer.prepared()), bind("c1", name)]);
    if writer.chance(70) {
        messages.extend([parse("", "SELECT 42"), bind("c2", "")]);
    }
    messages.push(execute("c1", 0));
    messages.extend([execute("c2", 0), Message::Sync]);
    messages.extend([bind("", "s1"), execute("", 0), Message::Sync]);
    let steps = writer.all_sent(messages);
    writer.events("deallocate", steps)
}

pub(super) fn close(writer: &mut Writer<'_>) -> Vec<Event> {
    let name = writer.one(&STATEMENTS);
    let portal = writer.one(&PORTALS);
    let mut messages = vec![parse(name, consequential(writer)), bind(portal, name)];
    let closes = [Message::CloseStatement(name), Message::ClosePortal(portal)];
    messages.push(writer.one(&closes));
    messages.extend([execute(portal, 0), Message::Sync]);
    if writer.chance(50) {
        let place = writer.random.random_range(0..messages.len());
        messages.insert(place, writer.message());
    }
    let steps: Vec<Step> = writer.all_sent(messages);
    writer.events("close", steps)
}

pub(super) fn unnamed(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut messages = vec![parse("", writer.read()), Message::Sync];
    for _ in 0..writer.random.random_range(1..5) {
        let more = match writer.random.random_range(0..7) {
            0 => vec![query(writer.statement())],
            1 => vec![parse("", writer.failure()), Message::CloseStatement(""), Message::Sync],
            2 => vec![bind("c1", "s1"), parse("", writer.read()), Message::Sync],
            3 => vec![
                parse("s2", writer.failure()),
                Message::Sync,
                Message::CloseStatement("s2"),
                Message::Sync,
            ],
            4 => vec![Message::DescribeStatement(""), Message::Sync],
            // The Query is skipped, and closes nothing.
            5 => vec![parse("s3", writer.failure()), query(writer.read()), Message::Sync],
            _ => vec![
                query("BEGIN"),
                query(writer.failure()),
                parse("", writer.read()),
                Message::Sync,
                query("ROLLBACK"),
            ],
        };
        messages.extend(more);
        messages.extend([bind("", ""), execute("", 0), Message::Sync]);
    }
    let steps = writer.all_sent(messages);
    writer.events("unnamed", steps)
}

/// A message is begun in the write of the one before it, and goes on when the other client has had the server.
pub(super) fn begun(writer: &mut Writer<'_>) -> Vec<Event> {
    let text = writer.read();
    let begun = match writer.random.random_range(0..3) {
        0 => parse("", text),
        1 => query(text),
        _ => writer.message(),
    };
    let steps = vec![query(writer.read()).into(), begun.into()];
    let mut turn = writer.turn("begun", steps);
    turn.end = End::Hold(writer.random.random_range(1..1000));
    let mut events = vec![Event::Turn(turn)];
    events.extend(writer.other_client("begun"));
    events
}
