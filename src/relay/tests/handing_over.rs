//! The proxy's own part in front of a transaction: a hand-over or an assertion that fails at any of its answers never
//! lets the client's part be taken for answered, and nothing of it reaches the client.

use super::{Mode, Talk, in_force};

/// The answers to a hand-over up to the row of its entry.
const RESET: &str = "C SET | C RESET | C SELECT 1 | C SET | Z I";

#[test]
fn an_error_at_any_answer_of_the_entry_ends_the_server() {
    for before in ["", " | 1", " | 1 | 2"] {
        for mode in [Mode::Plain, Mode::Sealed] {
            let mut talk = Talk::new(mode);
            talk.client("Q SELECT 1");
            assert_eq!(
                talk.server(&format!("{RESET}{before} | E 42501")),
                "server lost: context 42501: text",
                "behind {before}"
            );
        }
    }
}

#[test]
fn an_error_of_the_commit_behind_the_entry_ends_the_server() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.client("Q SELECT 1");
    let entry = talk.answers("hand-over");
    let commit = talk.answers("C COMMIT").len();
    let mut answers = entry[..entry.len() - commit].to_vec();
    answers.extend(talk.answers("E 40001"));
    talk.server_input = answers;
    assert_eq!(talk.run(), "server lost: context 40001: text");
}

#[test]
fn an_error_of_the_reset_is_seen_by_nobody_and_leaves_the_context_unknown() {
    for mode in [Mode::Plain, Mode::Sealed] {
        let mut talk = in_force(mode);
        talk.server.state.stamp = None;
        talk.client("Q SELECT 1");
        assert_eq!(talk.server("C SET | E 42501"), "");
        assert!(talk.server.state.stamp.is_none());
        assert_eq!(talk.server("Z I | E 28000"), "server lost: context 28000: text");
    }
}

#[test]
fn a_reset_that_leaves_a_transaction_open_ends_the_server() {
    for status in ["T", "E"] {
        let mut talk = Talk::new(Mode::Sealed);
        talk.client("Q SELECT 1");
        assert_eq!(
            talk.server(&format!("C SET | Z {status}")),
            "server lost: the server was ready out of turn"
        );
    }
}

#[test]
fn an_answer_to_nothing_that_was_asked_ends_a_server_in_the_reset() {
    for answer in ["1", "2", "3", "V", "W", "G", "H"] {
        let mut talk = Talk::new(Mode::Sealed);
        talk.client("Q SELECT 1");
        assert!(talk.server(&format!("C SET | {answer}")).starts_with("server lost"), "{answer}");
    }
}

#[test]
fn nothing_of_a_hand_over_reaches_the_client() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
        ("< N 00000 | C SET | S TimeZone=UTC | N 01000 | C RESET | T a:25 | D x | C SELECT 1 | Z I", ""),
    ]);
}

#[test]
fn a_client_gets_its_own_notices_once_the_hand_over_was_answered() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
        ("< hand-over | N 00000 | C SELECT 1 | N 01000 | Z I", "N 00000 | C SELECT 1 | N 01000 | Z I (I)"),
    ]);
}

#[test]
fn an_error_behind_the_entry_is_the_clients() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q SELECT nope", "hand-over | Q SELECT nope"),
        ("< hand-over | E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
    Talk::new(Mode::Sealed).script(&[
        ("> P - SELECT nope | B - - | S", "hand-over | P - SELECT nope | B - - | S"),
        ("< hand-over | E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> P - SELECT 1 | B - - | S", "P - SELECT 1 | B - - | S"),
    ]);
}

#[test]
fn a_context_once_entered_is_in_force_for_all_that_follows() {
    for frames in ["Q SELECT 1", "P - SELECT 1 | B - - | E - | S"] {
        let mut talk = Talk::new(Mode::Sealed);
        assert_eq!(talk.client(frames), format!("hand-over | {frames}"));
        talk.server("hand-over");
        talk.server(if frames.starts_with('Q') { "C SELECT 1 | Z I" } else { "1 | 2 | C SELECT 1 | Z I" });
        assert_eq!(talk.client(frames), frames);
    }
}

#[test]
fn every_kind_of_first_message_is_handed_over_to() {
    for frames in ["Q SELECT 1", "P - SELECT 1", "D P c", "E c", "C P p", "S", "H"] {
        let mut talk = Talk::new(Mode::Sealed);
        assert_eq!(talk.client(frames), format!("hand-over | {frames}"), "{frames}");
    }
}

#[test]
fn inside_a_block_nothing_is_put_in_front() {
    for mode in [Mode::Plain, Mode::Sealed] {
        let mut talk = in_force(mode);
        talk.client("Q BEGIN");
        talk.server(if mode == Mode::Plain { "C SET | C BEGIN | Z T" } else { "C BEGIN | Z T" });
        talk.server.state.stamp = None;
        for frames in ["Q SELECT 1", "Q SELECT 1; SELECT 2"] {
            assert_eq!(talk.client(frames), frames, "the transaction has its context");
            talk.server("C SELECT 1 | C SELECT 1 | Z T");
        }
    }
}

#[test]
fn an_assertion_is_asked_once_and_then_executed_again() {
    let frames = "P - SELECT 1 | B - - | E - | S";
    let mut talk = in_force(Mode::Plain);
    assert_eq!(talk.client(frames), format!("assert | {frames}"));
    talk.server("assert | 1 | 2 | C SELECT 1 | Z I");
    for _ in 0..3 {
        assert_eq!(talk.client(frames), format!("asserted | {frames}"));
        assert_eq!(talk.server("asserted | 1 | 2 | C SELECT 1 | Z I"), "1 | 2 | C SELECT 1 | Z I (I)");
    }
}

#[test]
fn an_assertion_that_fails_ends_the_server() {
    for before in ["", "3 | ", "3 | 1 | ", "3 | 1 | 2 | "] {
        let mut talk = in_force(Mode::Plain);
        talk.client("P - SELECT 1 | B - - | E - | S");
        assert_eq!(talk.server(&format!("{before}E 42501")), "server lost: context 42501: text", "{before}");
    }
}

#[test]
fn an_assertion_in_a_transaction_of_its_own_is_not_the_clients() {
    in_force(Mode::Plain).script(&[
        ("> Q SELECT 1; SELECT 2", "apart | Q SELECT 1; SELECT 2"),
        ("< apart", ""),
        ("< C SELECT 1 | C SELECT 1 | Z I", "C SELECT 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn another_clients_use_of_a_server_costs_a_hand_over() {
    let mut talk = in_force(Mode::Sealed);
    talk.conversation.client += 1;
    assert_eq!(talk.client("Q SELECT 1"), "Q SELECT 1", "it is the same tenant's, with the same settings");
    let mut talk = in_force(Mode::Sealed);
    talk.server.state.stamp = None;
    assert_eq!(talk.client("Q SELECT 1"), "hand-over | Q SELECT 1");
}

#[test]
fn a_refusal_between_transactions_hands_nothing_over() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.script(&[("> Q SET ROLE x", "E 42501 | Z I (I)"), ("> Q SELECT 1", "hand-over | Q SELECT 1")]);
}
