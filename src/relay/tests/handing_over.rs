//! The proxy's own part in front of a transaction: a hand-over or an assertion that fails at any of its answers never
//! lets the client's part be taken for answered, and nothing of it reaches the client.

use super::{Kind, Mode, Talk, enter, in_force};
use crate::upstream::Wear;

/// A text with which a hand-over cannot share its Query.
const APART: &str = "SELECT 1; SELECT 2";

#[test]
fn an_error_at_any_answer_of_the_entry_ends_the_server() {
    for before in ["", "1 | ", "1 | 2 | "] {
        for mode in [Mode::Plain, Mode::Sealed] {
            let mut talk = Talk::new(mode);
            talk.client(&format!("Q {APART}"));
            let reset = if mode == Mode::Sealed { "sealed-reset" } else { "reset" };
            assert_eq!(
                talk.server(&format!("{reset} | {before}E 42501")),
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
fn an_error_of_the_reset_is_seen_by_nobody_and_ends_the_server() {
    for (mode, answers) in
        [(Mode::Plain, "E 57014"), (Mode::Sealed, "E 57014"), (Mode::Plain, "C BEGIN | E 42501")]
    {
        let mut talk = in_force(mode);
        talk.server.state.stamp = None;
        talk.client(&format!("Q {APART}"));
        let sqlstate = &answers[answers.len() - 5..];
        assert_eq!(talk.server(answers), format!("server lost: context {sqlstate}: text"));
        assert!(talk.server.state.stamp.is_none() && talk.conversation.has_run_nothing());
    }
}

#[test]
fn a_reset_whose_transaction_is_not_open_ends_the_server() {
    for mode in [Mode::Plain, Mode::Sealed] {
        let mut talk = Talk::new(mode);
        talk.client(&format!("Q {APART}"));
        assert_eq!(talk.server("C BEGIN | Z I"), "server lost: the server was ready out of turn");
    }
}

#[test]
fn an_answer_to_nothing_that_was_asked_ends_a_server_in_the_reset() {
    for answer in ["1", "2", "3", "V", "W", "G", "H"] {
        let mut talk = Talk::new(Mode::Sealed);
        talk.client("Q SELECT 1");
        assert!(talk.server(&format!("C BEGIN | {answer}")).starts_with("server lost"), "{answer}");
    }
}

#[test]
fn nothing_of_a_hand_over_reaches_the_client() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
        ("< N 00000 | sealed-reset | S TimeZone=UTC", ""),
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
fn a_client_that_keeps_its_server_is_never_reset() {
    let lost = "E 55000 | Z I";
    for (mode, entry) in [(Mode::Sealed, "entry | "), (Mode::Plain, "")] {
        let mut talk = Talk::keeping_its_server(mode);
        enter(&mut talk);
        talk.client("Q SELECT lastval()");
        talk.server(if mode == Mode::Plain { "C SET | E 55000 | Z I" } else { lost });
        assert_eq!(talk.client(&format!("Q {APART}")), format!("{entry}{}Q {APART}", apart(mode)));
    }
    for (mode, entry) in [(Mode::Sealed, "entry"), (Mode::Plain, "plain-entry")] {
        let mut talk = Talk::keeping_its_server(mode);
        enter(&mut talk);
        // As if a setting had another value than the client believes.
        talk.server.state.stamp.as_mut().unwrap().parameters += 1;
        assert_eq!(talk.client("Q SELECT 1"), format!("{entry} | Q SELECT 1"));
        assert_eq!(talk.server(&format!("{entry} | C SELECT 1 | Z I")), "C SELECT 1 | Z I (I)");
        talk.client("Q SELECT 1");
        talk.server(if mode == Mode::Plain { "C SET | C SELECT 1 | Z I" } else { "C SELECT 1 | Z I" });
        // To servers it is another client from here on, and its temporary tables go.
        talk.server.state.wear = Wear::Dirty;
        talk.client("Q DISCARD ALL");
        talk.server(if mode == Mode::Plain { "apart | C DISCARD TEMP | Z I" } else { "C SELECT 1 | Z I" });
        let whole = if mode == Mode::Plain { "plain-hand-over" } else { "hand-over" };
        assert_eq!(talk.client(&format!("Q {APART}")), format!("{whole} | Q {APART}"));
    }
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q SELECT lastval()");
    talk.server(lost);
    assert_eq!(talk.client("Q SELECT 1"), "hand-over | Q SELECT 1", "another may have had the server");
}

#[test]
fn a_server_that_was_reset_while_it_was_idle_is_only_entered() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.server.state.wear = Wear::Reset;
    talk.script(&[
        ("> Q SELECT 1", "entry | Q SELECT 1"),
        ("< entry | C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
    assert_eq!(talk.server.state.wear, Wear::Clean, "it is used from here on");
    let mut talk = Talk::new(Mode::Plain);
    talk.server.state.wear = Wear::Reset;
    talk.script(&[
        ("> Q SELECT 1", "Q front;SELECT 1"),
        ("< C BEGIN | C SET | C COMMIT | C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
    ]);
    let mut talk = Talk::new(Mode::Plain);
    talk.server.state.wear = Wear::Reset;
    assert_eq!(talk.client(&format!("Q {APART}")), format!("plain-entry | Q {APART}"));
    // Whoever has had it since may have left something.
    let mut talk = in_force(Mode::Sealed);
    talk.server.state.wear = Wear::Reset;
    talk.server.state.stamp.as_mut().unwrap().tenant = None;
    assert_eq!(talk.client("Q SELECT 1"), "hand-over | Q SELECT 1");
}

/// What stands in front of a text of several statements where the context is in force.
fn apart(mode: Mode) -> &'static str {
    if mode == Mode::Plain { "apart | " } else { "" }
}

#[test]
fn discard_sequences_empties_the_register_and_nothing_else() {
    let mut talk = Talk::keeping_its_server(Mode::Sealed);
    enter(&mut talk);
    talk.script(&[
        ("> Q DISCARD SEQUENCES", "Q DISCARD SEQUENCES"),
        ("< C DISCARD SEQUENCES | Z I", "C DISCARD SEQUENCES | Z I (I)"),
        ("> Q SELECT 1", "entry | Q SELECT 1"),
        ("< entry | C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
        ("> P - DISCARD SEQUENCES | B - - | E - | S", "P - DISCARD SEQUENCES | B - - | E - | S"),
        ("< 1 | 2 | C DISCARD SEQUENCES | Z I", "1 | 2 | C DISCARD SEQUENCES | Z I (I)"),
        ("> Q SELECT 1", "entry | Q SELECT 1"),
    ]);
    // A plain context has no register.
    in_force(Mode::Plain).script(&[
        ("> Q DISCARD SEQUENCES", "Q DISCARD SEQUENCES"),
        ("< C DISCARD SEQUENCES | Z I", "C DISCARD SEQUENCES | Z I (I)"),
        ("> Q SELECT 1", "Q SET \"app\".\"tenant_id\" TO 'a';SELECT 1"),
    ]);
}

#[test]
fn an_entry_into_a_kept_session_that_fails_ends_the_server() {
    for answers in
        ["E 42501", "C BEGIN | C SET | Z T | 1 | 2 | E 28000", "C BEGIN | C SET | Z T | 1 | 2 | D forged"]
    {
        let mut talk = Talk::keeping_its_server(Mode::Sealed);
        enter(&mut talk);
        talk.client("Q DISCARD SEQUENCES");
        talk.server("C DISCARD SEQUENCES | Z I");
        talk.client("Q SELECT 1");
        assert!(talk.server(answers).starts_with("server lost: "), "{answers}");
        assert!(talk.conversation.has_run_nothing(), "{answers}");
    }
}

#[test]
fn a_refusal_between_transactions_hands_nothing_over() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.script(&[("> Q SET ROLE x", "E 42501 | Z I (I)"), ("> Q SELECT 1", "hand-over | Q SELECT 1")]);
}

#[test]
fn a_plain_hand_over_stands_in_front_of_a_text_that_reads() {
    for (text, sent) in [
        ("Q SELECT 1", "Q front;SELECT 1"),
        ("Q BEGIN; ", "Q front;BEGIN; "),
        ("Q COPY t TO STDOUT", "Q front;COPY t TO STDOUT"),
        ("Q SELECT 'ä'", "Q front;SELECT 'ä'"),
        ("Q SELECT E'\\n'", "plain-hand-over | Q SELECT E'\\n'"),
        ("Q SELECT 1; SELECT 2", "plain-hand-over | Q SELECT 1; SELECT 2"),
        ("Q COMMIT", "plain-hand-over | Q COMMIT"),
        ("P - SELECT 1 | B - - | S", "plain-hand-over | P - SELECT 1 | B - - | S"),
    ] {
        assert_eq!(Talk::new(Mode::Plain).client(text), sent, "{text}");
    }
    let mut talk = Talk::new(Mode::Plain);
    talk.server.state.parameters.insert("standard_conforming_strings".to_owned(), "off".to_owned());
    assert_eq!(talk.client("Q SELECT 1"), "plain-hand-over | Q SELECT 1", "another lexer would read it");
    let mut talk = Talk::new(Mode::Plain);
    talk.server.state.parameters.insert("client_encoding".to_owned(), "LATIN1".to_owned());
    assert_eq!(talk.client("Q SELECT 1"), "plain-hand-over | Q SELECT 1", "an error would be told in it");
}

#[test]
fn a_hand_over_in_front_of_a_text_is_hidden_up_to_its_end() {
    let mut talk = Talk::new(Mode::Plain);
    talk.script(&[
        ("> Q SELECT 1", "Q front;SELECT 1"),
        // What PostgreSQL says when it reads the text is about the client's.
        (
            "< N 22P06 | front | T a:23 | D 1 | N 01000 | C SELECT 1",
            "N 22P06 | T | D 1 | N 01000 | C SELECT 1",
        ),
        // What it has put back the client knows; what the statement changed is news.
        ("< S TimeZone=UTC | Z I", "Z I (I)"),
        ("> Q SELECT 2", "Q SET \"app\".\"tenant_id\" TO 'a';SELECT 2"),
        ("< C SET | D 2 | C SELECT 1 | Z I", "D 2 | C SELECT 1 | Z I (I)"),
    ]);
    Talk::new(Mode::Plain).script(&[
        (
            "> Q SELECT set_config('timezone', 'Asia/Tokyo', false)",
            "Q front;SELECT set_config('timezone', 'Asia/Tokyo', false)",
        ),
        (
            "< front | C SELECT 1 | S TimeZone=Asia/Tokyo | Z I",
            "C SELECT 1 | S TimeZone=Asia/Tokyo | Z I (I)",
        ),
    ]);
}

#[test]
fn a_text_that_cannot_be_read_leaves_the_hand_over_in_front_undone() {
    let mut talk = Talk::new(Mode::Plain);
    talk.client("Q SELECT 1 1");
    let prefix = talk.server.output_log().len() - "SELECT 1 1".len() - 6;
    talk.script(&[
        (&format!("< E 42601@{} | Z I", prefix + 10), "E 42601@10 | Z I (I)"),
        ("> Q SELECT 1", "Q front;SELECT 1"),
        ("< front | C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
    ]);
    // The BEGIN in front of it has not run either, and the client believes to be in a block.
    Talk::new(Mode::Plain).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SELECT 1 1", "Q front;BEGIN;SELECT 1 1"),
        ("< E 42601 | Z I", "E 42601 | Z E (I)"),
        ("~ Q ROLLBACK", "C ROLLBACK | Z I"),
    ]);
}

#[test]
fn a_hand_over_in_front_of_a_text_that_fails_ends_the_server() {
    for (answers, why) in [
        ("E 57014", "context 57014: text"),
        ("C BEGIN | E 42501", "context 42501: text"),
        ("front-but-commit | E 40001", "context 40001: text"),
        ("C BEGIN | C SET | C RESET | C CLOSE | C DEALLOCATE | C UNLISTEN | D forged", "shifted"),
        ("front-without-row", "shifted"),
    ] {
        let mut talk = Talk::new(Mode::Plain);
        talk.client("Q INSERT INTO t VALUES (1)");
        assert_eq!(talk.server(answers), format!("server lost: {why}"), "{answers}");
        assert!(talk.conversation.has_run_nothing(), "{answers}");
    }
    let mut talk = Talk::new(Mode::Plain);
    talk.script(&[("> Q INSERT INTO t VALUES (1)", "Q front;INSERT INTO t VALUES (1)"), ("< front", "")]);
    assert!(!talk.conversation.has_run_nothing());
    assert_eq!(talk.server("E 23505 | Z I"), "E 23505 | Z I (I)");
    assert_eq!(
        talk.client("Q SELECT 1"),
        "Q SET \"app\".\"tenant_id\" TO 'a';SELECT 1",
        "the hand-over lasts"
    );
}

#[test]
fn a_value_of_the_last_user_is_told_though_it_is_not_reported() {
    // Set back by the hand-over and set again by the text: PostgreSQL compares with what it reported last.
    let was = |talk: &mut Talk, name: &str, value: &str| {
        talk.server.state.parameters.insert(name.to_owned(), value.to_owned());
    };
    let mut talk = Talk::new(Mode::Plain);
    was(&mut talk, "TimeZone", "Asia/Tokyo");
    let set = "SELECT set_config('timezone', 'Asia/Tokyo', false)";
    talk.script(&[
        (&format!("> Q {set}"), &format!("Q front;{set}")),
        ("< front | C SELECT 1 | Z I", "C SELECT 1 | S TimeZone=Asia/Tokyo | Z I (I)"),
        ("> Q SELECT 1", "Q SET \"app\".\"tenant_id\" TO 'a';SELECT 1"),
        ("< C SET | C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
    ]);
    assert_eq!(talk.conversation.parameters.get("timezone"), Some("Asia/Tokyo"), "it is carried");
    // In a block, which is rolled back.
    let mut talk = Talk::new(Mode::Plain);
    was(&mut talk, "TimeZone", "Asia/Tokyo");
    talk.script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SET TimeZone = 'Asia/Tokyo'", "Q front;BEGIN;SET TimeZone = 'Asia/Tokyo'"),
        ("< front | C BEGIN | C SET | Z T", "C SET | S TimeZone=Asia/Tokyo | Z T (T)"),
        ("> Q ROLLBACK", "Q ROLLBACK"),
        ("< C ROLLBACK | S TimeZone=UTC | Z I", "C ROLLBACK | S TimeZone=UTC | Z I (I)"),
    ]);
    assert_ne!(talk.conversation.parameters.get("timezone"), Some("Asia/Tokyo"));
    // A text that fails as a whole has changed nothing, nor has the hand-over.
    let mut talk = Talk::new(Mode::Plain);
    was(&mut talk, "TimeZone", "Asia/Tokyo");
    talk.client("Q SELECT 1 1");
    assert_eq!(talk.server("E 42601 | Z I"), "E 42601 | Z I (I)");
    // What the hand-over alone has changed the client knows.
    let mut talk = Talk::new(Mode::Plain);
    was(&mut talk, "TimeZone", "Asia/Tokyo");
    talk.client("Q SELECT 1");
    assert_eq!(talk.server("front | C SELECT 1 | S TimeZone=UTC | Z I"), "C SELECT 1 | Z I (I)");
}

#[test]
fn what_the_entry_of_a_sealed_context_sets_is_not_told() {
    // PostgreSQL 18 reports it.
    let startup = [("search_path", "other, public")];
    for segment in ["Q SELECT 1", "P - SELECT 1 | B - - | E - | S"] {
        let mut talk = Talk::with(Mode::Sealed, &startup, Kind::Bound);
        assert_eq!(talk.client(segment), format!("hand-over | {segment}"));
        let front = if segment.starts_with('Q') { "" } else { "1 | 2 | " };
        let answers = format!("hand-over | {front}D 1 | C SELECT 1 | S search_path=other, public | Z I");
        assert_eq!(talk.server(&answers), format!("{front}D 1 | C SELECT 1 | Z I (I)"));
        // What the client sets is told, also where that is what it asked for at startup.
        for value in ["mine", "other, public"] {
            talk.client(&format!("Q SET search_path = {value}"));
            let answers = format!("C SET | S search_path={value} | Z I");
            assert_eq!(talk.server(&answers), format!("{answers} (I)"));
        }
    }
}
