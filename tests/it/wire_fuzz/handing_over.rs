//! A server that goes from one client to the other: with other settings, and with something done to the hand-over.

use rand::Rng as _;

use crate::support::recorder::Tampering;

use super::generator::Writer;
use super::step::{Event, Message, bind, execute, parse, query};

/// Rows of the tenant alone.
const ROWS: &str = "SELECT tenant_id, id, body FROM orders ORDER BY id";
/// What decides how a text is read, or what it returns.
const SETTINGS: [&str; 8] = [
    "SET TimeZone = 'Asia/Tokyo'",
    "SET DateStyle = 'German'",
    "SET work_mem = '5MB'",
    "SET backslash_quote = off",
    "SET backslash_quote = on",
    "SET search_path = other, public",
    "RESET ALL",
    "SELECT set_config('work_mem', '7MB', false)",
];

/// Each text means what its own client's settings say, also one that nobody can read, and the text behind that.
pub(super) fn turns(writer: &mut Writer<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    if writer.chance(50) {
        events.extend(after_another(writer));
    }
    for _ in 0..writer.random.random_range(2..6) {
        let mut messages = Vec::new();
        match writer.random.random_range(0..4) {
            0 => messages.push(query(writer.one(&SETTINGS))),
            1 => {
                let end = writer.one(&["ROLLBACK", "ROLLBACK", "COMMIT"]);
                messages.extend([query("BEGIN"), query(writer.one(&SETTINGS)), query(end)]);
            }
            _ => {}
        }
        if writer.chance(50) {
            events.extend(writer.orderly_events("turns", std::mem::take(&mut messages)));
            events.extend(writer.other_client("turns"));
        }
        let unreadable = ["SELECT 1 1", "SELECT FROM WHERE", "SELECT (1", "SELEKT", "SELECT 'unterminated"];
        if writer.chance(40) {
            messages.push(query(writer.one(&unreadable)));
        }
        let texts = [
            "SELECT E'it\\'s'",
            "SELECT E'a\\\\b', 'a\\b', $$a\\b$$",
            "SHOW TimeZone",
            "SHOW work_mem",
            "SELECT current_setting('work_mem'), current_setting('TimeZone')",
            "SELECT timestamptz '2026-02-01 12:00:00+00', current_schemas(false)",
        ];
        messages.push(query(writer.one(&texts)));
        events.extend(writer.orderly_events("turns", messages));
        writer.client = if writer.chance(70) { 1 - writer.client } else { writer.client };
    }
    events
}

/// One client sets what the other sets too, or what the other's text must not be read under.
fn after_another(writer: &mut Writer<'_>) -> Vec<Event> {
    let (set, messages) = if writer.chance(50) {
        ("SET backslash_quote = off", vec![query("SELECT E'it\\'s'")])
    } else {
        let set = writer.one(&SETTINGS[..2]);
        (set, vec![query("BEGIN"), query(set), query("COMMIT"), query("SHOW TimeZone")])
    };
    let mut events = writer.orderly_events("turns", vec![query(set)]);
    writer.client = 1 - writer.client;
    events.extend(writer.orderly_events("turns", messages));
    events
}

/// Both clients read their rows in the same way, so that the answers of one could be taken for those of the other.
pub(super) fn tampered(writer: &mut Writer<'_>) -> Vec<Event> {
    let form = writer.random.random_range(0..4);
    let read = |writer: &mut Writer<'_>| {
        let messages = match form {
            0 | 1 => vec![query(ROWS)],
            2 => vec![query(format!("{ROWS}; SELECT 1"))],
            _ => vec![
                parse("", ROWS),
                bind("", ""),
                Message::DescribePortal(""),
                execute("", 0),
                Message::Sync,
            ],
        };
        let events = writer.orderly_events("tampered", messages);
        writer.client = 1 - writer.client;
        events
    };
    let mut events = [read(writer), read(writer)].concat();
    let code = writer.one(&["57014", "53200", "42501", "22012"]);
    let tampering = writer.one(&[
        Tampering::Repeats,
        Tampering::RepeatsWithoutRow,
        Tampering::RepeatsWithoutRow,
        Tampering::Fails(code),
    ]);
    events.push(Event::Tampering(Some(tampering)));
    events.extend(read(writer));
    events.push(Event::Tampering(None));
    events.extend([read(writer), read(writer)].concat());
    events
}
