//! What a conversation says of itself in every state: the session releases, cancels and counts by these answers.

use super::{Mode, in_force};
use crate::relay::Conversation;

/// What is asked: between, closed, running, idle in a transaction, quiet, torn.
fn says(conversation: &Conversation) -> String {
    [
        (conversation.is_between(), "between"),
        (conversation.is_closed(), "closed"),
        (conversation.is_running(), "running"),
        (conversation.is_idle_in_transaction(), "idle-in-transaction"),
        (conversation.is_quiet(), "quiet"),
        (conversation.is_mid_frame(), "torn"),
        (conversation.was_told(), "told"),
    ]
    .into_iter()
    .filter_map(|(holds, what)| holds.then_some(what))
    .collect::<Vec<_>>()
    .join(" ")
}

fn check(steps: &[(&str, &str)], expected: &str) {
    let mut talk = in_force(Mode::Sealed);
    for (direction, frames) in steps {
        match *direction {
            ">" => drop(talk.client(frames)),
            _ => drop(talk.server(frames)),
        }
    }
    assert_eq!(says(&talk.conversation), expected, "{steps:?}");
}

#[test]
fn a_conversation_that_has_not_begun_is_quiet() {
    check(&[], "between quiet");
}

#[test]
fn a_query_runs_until_its_ready_for_query() {
    check(&[(">", "Q SELECT 1")], "closed running");
    check(&[(">", "Q SELECT 1"), ("<", "C SELECT 1")], "closed running");
    check(&[(">", "Q SELECT 1"), ("<", "C SELECT 1 | Z I")], "between quiet");
}

#[test]
fn a_pipeline_runs_from_its_first_message_to_its_ready_for_query() {
    check(&[(">", "P - SELECT 1")], "running");
    check(&[(">", "P - SELECT 1"), ("<", "1")], "");
    check(&[(">", "P - SELECT 1 | S")], "closed running");
    check(&[(">", "H")], "");
    check(&[(">", "S"), ("<", "Z I")], "between quiet");
}

#[test]
fn a_block_is_idle_between_its_segments() {
    let begin = [(">", "Q BEGIN"), ("<", "C BEGIN | Z T")];
    check(&begin, "between idle-in-transaction quiet");
    check(&[&begin[..], &[(">", "P - SELECT 1"), ("<", "1")]].concat(), "");
    check(
        &[&begin[..], &[(">", "Q SELECT 1/0"), ("<", "E 22012 | Z E")]].concat(),
        "between idle-in-transaction quiet",
    );
    check(&[&begin[..], &[(">", "Q COMMIT"), ("<", "C COMMIT | Z I")]].concat(), "between quiet");
}

#[test]
fn a_client_that_was_told_an_error_runs_no_statement() {
    check(&[(">", "P - SELECT nope | H"), ("<", "E 42703")], "told");
    check(&[(">", "P - SELECT nope | H"), ("<", "E 42703"), (">", "S")], "closed running");
    check(&[(">", "Q BEGIN"), ("<", "C BEGIN | Z T"), (">", "P - SELECT nope | H"), ("<", "E 42703")], "");
}

#[test]
fn a_server_that_reads_rows_is_not_quiet() {
    check(&[(">", "Q COPY t FROM STDIN"), ("<", "G")], "closed running");
    check(&[(">", "Q COPY t FROM STDIN"), ("<", "G"), (">", "d one")], "closed running");
    check(&[(">", "Q COPY t FROM STDIN"), ("<", "G"), (">", "c")], "closed running");
    check(&[(">", "P - COPY t FROM STDIN | B - - | E -"), ("<", "1 | 2 | G")], "running");
    check(
        &[(">", "P - COPY t FROM STDIN | B - - | E -"), ("<", "1 | 2 | G"), (">", "c"), ("<", "C COPY 0")],
        "",
    );
}

#[test]
fn a_refusal_without_a_server_leaves_a_conversation_quiet() {
    check(&[(">", "Q SET ROLE x")], "between quiet");
}

#[test]
fn an_abandoned_conversation_is_quiet_in_every_state() {
    for frames in
        ["Q SELECT 1", "P - SELECT 1", "P - SELECT 1 | S", "P - COPY t FROM STDIN | B - - | E -", "C S s"]
    {
        let mut talk = in_force(Mode::Sealed);
        talk.client(frames);
        talk.conversation.abandon();
        assert_eq!(says(&talk.conversation), "between quiet", "{frames}");
    }
}

#[test]
fn names_made_on_a_lost_server_are_as_the_client_was_told() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P a SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> C S a | P b SELECT 2 | S", "P pgtenant_1 SELECT 2 | D S pgtenant_1 | S"),
    ]);
    talk.conversation.abandon();
    talk.server.state.clear_prepared();
    assert_eq!(talk.client("B - b | S"), "P - refused by pgtenant | S", "its ParseComplete never came");
    assert_eq!(talk.server("E 42601 | Z I"), "E 26000 | Z I (I)");
}

#[test]
fn a_changed_parameter_goes_with_the_client_once_it_was_reported() {
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q SET timezone = 'Asia/Tokyo'");
    talk.server("S TimeZone=Asia/Tokyo | C SET | Z I");
    assert_eq!(talk.conversation.parameters.get("timezone"), Some("Asia/Tokyo"));
    assert_eq!(talk.client("Q SELECT 1"), "Q SELECT 1", "the server has it already");
}

#[test]
fn a_parameter_changed_in_a_block_that_rolls_back_is_what_it_was() {
    let mut talk = in_force(Mode::Sealed);
    for (frames, answers) in [
        ("Q BEGIN", "C BEGIN | Z T"),
        ("Q SET timezone = 'Asia/Tokyo'", "S TimeZone=Asia/Tokyo | C SET | Z T"),
        ("Q ROLLBACK", "S TimeZone=UTC | C ROLLBACK | Z I"),
    ] {
        talk.client(frames);
        talk.server(answers);
    }
    assert_eq!(talk.conversation.parameters.get("timezone"), Some("UTC"));
}

#[test]
fn malformed_messages_of_a_server_put_it_in_doubt() {
    for (bytes, fault) in [
        (&b"S\0\0\0\x06ab"[..], "a malformed ParameterStatus"),
        (b"Z\0\0\0\x05X", "a malformed ReadyForQuery"),
        (b"Z\0\0\0\x04", "a malformed ReadyForQuery"),
    ] {
        let mut talk = in_force(Mode::Sealed);
        talk.client("Q SELECT 1");
        talk.server_input = bytes.to_vec();
        assert_eq!(talk.run(), format!("server lost: {fault}"));
    }
}
