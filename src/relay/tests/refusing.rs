//! Refusals by the proxy in every state of a segment: outside a transaction no server is needed; inside one the server
//! fails in the client's place, so that the transaction ends as it would.

use super::frames::{Direction, encode_all};
use super::{Mode, Talk, in_force};
use crate::net::Channel;
use crate::net::buffer::ReadBuffer;
use crate::net::stream::Stream;

const REFUSED: &str = "P - refused by pgtenant";
const REFUSED_QUERY: &str = "Q refused by pgtenant";
const BEGIN: [(&str, &str); 2] = [("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")];

#[test]
fn between_transactions_a_refused_query_needs_no_server() {
    for (text, sqlstate) in [
        ("SET ROLE x", "42501"),
        ("SET SESSION AUTHORIZATION x", "42501"),
        ("SELECT 1; SET ROLE x", "42501"),
        ("SELECT 'a", "42601"),
        ("/* a", "42601"),
    ] {
        for mode in [Mode::Plain, Mode::Sealed] {
            in_force(mode).script(&[
                (&format!("> Q {text}"), &format!("E {sqlstate} | Z I (I)")),
                (&format!("> Q {text}"), &format!("E {sqlstate} | Z I (I)")),
            ]);
        }
    }
}

#[test]
fn a_refused_parse_fails_its_segment_on_the_server() {
    in_force(Mode::Sealed).script(&[
        ("> P - SET ROLE x | H", &format!("{REFUSED} | H")),
        ("< E 42601", "E 42501"),
        ("> B - - | E -", ""),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn a_refused_query_behind_messages_of_its_segment_fails_it_on_the_server() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | Q SET ROLE x", &format!("P - SELECT 1 | {REFUSED_QUERY}")),
        ("< 1 | E 42601 | Z I", "1 | E 42501 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn a_refused_function_call_fails_as_a_refused_query_does() {
    in_force(Mode::Sealed).script(&[("> F", "E 42501 | Z I (I)")]);
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | F", &format!("P - SELECT 1 | {REFUSED_QUERY}")),
        ("< 1 | E 42601 | Z I", "1 | E 42501 | Z I (I)"),
    ]);
    in_force(Mode::Sealed)
        .script(&BEGIN)
        .script(&[("> F", REFUSED_QUERY), ("< E 42601 | Z E", "E 42501 | Z E (E)")]);
}

#[test]
fn a_refusal_behind_an_error_of_the_server_is_not_reported() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT nope | Q SET ROLE x", &format!("P - SELECT nope | {REFUSED_QUERY}")),
        // As PostgreSQL, which discards the Query too.
        ("< E 42703", "E 42703"),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn a_refusal_in_a_block_fails_it_in_both_protocols() {
    for frames in ["Q SET ROLE x", "P - SET ROLE x | S", "Q SELECT 'a", "P s SET ROLE x | S"] {
        let sent = if frames.starts_with('Q') { REFUSED_QUERY.to_owned() } else { format!("{REFUSED} | S") };
        in_force(Mode::Sealed).script(&BEGIN).script(&[
            (&format!("> {frames}"), sent.as_str()),
            (
                "< E 42601 | Z E",
                if frames.contains('\'') { "E 42601 | Z E (E)" } else { "E 42501 | Z E (E)" },
            ),
            ("> Q ROLLBACK", "Q ROLLBACK"),
        ]);
    }
}

#[test]
fn a_refusal_in_a_failed_block_leaves_it_failed() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> Q SELECT 1/0", "Q SELECT 1/0"),
        ("< E 22012 | Z E", "E 22012 | Z E (E)"),
        ("> Q SET ROLE x", REFUSED_QUERY),
        ("< E 42601 | Z E", "E 42501 | Z E (E)"),
    ]);
}

#[test]
fn the_first_of_two_refusals_is_the_one_that_is_reported() {
    in_force(Mode::Sealed).script(&[
        ("> P - SET ROLE x | B - nosuch | S", &format!("{REFUSED} | {REFUSED} | S")),
        ("< E 42601 | Z I", "E 42501 | Z I (I)"),
    ]);
}

#[test]
fn what_is_refused_is_read_as_each_message_of_the_protocol_names_it() {
    for (frames, sqlstate) in [
        ("B - nosuch", "26000"),
        ("D S nosuch", "26000"),
        ("D P -", "34000"),
        ("E -", "34000"),
        ("B - -", "26000"),
        ("D S -", "26000"),
    ] {
        for before in [&[][..], &BEGIN[..]] {
            let status = if before.is_empty() { ("I", "(I)") } else { ("E", "(E)") };
            in_force(Mode::Sealed).script(before).script(&[
                (&format!("> {frames} | S"), &format!("{REFUSED} | S")),
                (
                    &format!("< E 42601 | Z {}", status.0),
                    &format!("E {sqlstate} | Z {} {}", status.0, status.1),
                ),
            ]);
        }
    }
}

#[test]
fn another_error_than_the_provoked_one_is_read_as_the_refusal_too() {
    // The backend may fail the provoked text for another reason, for example 25P02 or out of memory.
    for sqlstate in ["42601", "25P02", "53200"] {
        in_force(Mode::Sealed).script(&[
            ("> P - SET ROLE x | S", &format!("{REFUSED} | S")),
            (&format!("< E {sqlstate} | Z I"), "E 42501 | Z I (I)"),
        ]);
    }
}

#[test]
fn an_answer_other_than_an_error_to_a_refused_message_ends_the_server() {
    for answer in ["1", "2", "C SELECT 1", "D 1", "Z I", "I", "T a:23", "G"] {
        let mut talk = in_force(Mode::Sealed);
        talk.client("P - SET ROLE x | S");
        assert!(talk.server(answer).starts_with("server lost"), "{answer}");
    }
}

#[test]
fn a_refused_parse_drops_the_unnamed_statement() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> P - SET ROLE x | S", &format!("{REFUSED} | S")),
        ("< E 42601 | Z I", "E 42501 | Z I (I)"),
        ("> B - - | S", &format!("{REFUSED} | S")),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
    ]);
}

#[test]
fn a_refused_parse_of_a_name_leaves_it_free() {
    in_force(Mode::Sealed).script(&[
        ("> P s SET ROLE x | S", &format!("{REFUSED} | S")),
        ("< E 42601 | Z I", "E 42501 | Z I (I)"),
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
    ]);
}

#[test]
fn a_name_in_use_is_refused_and_keeps_its_statement() {
    in_force(Mode::Sealed)
        .script(&[
            ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
            ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ])
        .script(&[
            // It is read first: a syntax error comes before the name, as in PostgreSQL.
            ("> P s SELECT 2 | S", &format!("P - SELECT 2 | {REFUSED} | S")),
            ("< 1 | E 42601 | Z I", "E 42P05 | Z I (I)"),
            ("> B - s | S", "B - pgtenant_0 | S"),
        ]);
}

#[test]
fn a_maintenance_user_is_refused_nothing_by_the_guard() {
    for text in ["SET ROLE x", "RESET ROLE", "SELECT 'a", "DISCARD SEQUENCES; SELECT 1"] {
        in_force(Mode::Bare).script(&[(&format!("> Q {text}"), &format!("Q {text}"))]);
    }
}

#[test]
fn a_refused_text_leaves_the_context_as_it_was() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[("> Q SET ROLE x", "E 42501 | Z I (I)")]);
    assert!(talk.server.state.stamp.is_some());
    talk.script(&[("> Q SELECT 1", "Q SELECT 1")]);
}

#[test]
fn a_gateway_without_a_tenant_is_refused_in_every_protocol() {
    for (frames, sent) in [("Q SELECT * FROM t", "E 28000 | Z I (I)"), ("F", "E 42501 | Z I (I)")] {
        let mut talk = Talk::gateway(Mode::Sealed);
        super::enter(&mut talk);
        talk.script(&[(&format!("> {frames}"), sent)]);
    }
}

#[tokio::test]
async fn a_query_that_is_refused_without_a_server_closes_the_unnamed_statement() {
    for (frames, is_closed) in [("Q SELECT 1", true), ("F", false), ("B - - | S", false)] {
        let mut talk = in_force(Mode::Sealed);
        talk.script(&[
            ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
            ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ]);
        let stream = tokio::net::UnixStream::pair().unwrap().0;
        let mut client = Channel::new(Stream::Unix(stream));
        client.input = ReadBuffer::of(&encode_all(frames, Direction::Client, ""));
        talk.conversation.refuse(&mut client);
        assert_eq!(talk.conversation.statements.unnamed.is_none(), is_closed, "{frames}");
    }
}

#[test]
fn a_bound_value_is_judged_when_it_is_bound() {
    const TEXT: &str = "SELECT set_config('search_path', $1, true)";
    let parse = format!("P - {TEXT}");
    for (value, is_refused) in [("shelf", false), ("pgtenant", true), ("PG_TEMP_3", true)] {
        let mut talk = in_force(Mode::Sealed);
        let sent = talk.client(&format!("{parse} | B - - {value} | E - | S"));
        let expected = if is_refused {
            format!("{parse} | {REFUSED} | {REFUSED} | S")
        } else {
            format!("{parse} | B - - … | E - | S")
        };
        assert_eq!(sent, expected, "{value}");
    }
    // Of a guard that is off, nothing is judged.
    in_force(Mode::Bare)
        .script(&[(&format!("> {parse} | B - - pgtenant | S"), &format!("{parse} | B - - … | S"))]);
}
