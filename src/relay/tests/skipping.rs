//! What an error does: in the extended protocol PostgreSQL discards everything up to the Sync (`ignore_till_sync` in
//! `postgres.c`), a Query and a function call included; a simple query ends by itself.

use super::{Mode, in_force};

const BEGIN: [(&str, &str); 2] = [("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")];
const FAIL: [(&str, &str); 2] =
    [("> Q SELECT 1/0", "Q SELECT 1/0"), ("< E 22012 | Z E", "E 22012 | Z E (E)")];

#[test]
fn an_error_at_any_message_of_a_pipeline_leaves_its_sync() {
    for (before, seen) in [
        ("", ""),
        ("1", "1"),
        ("1 | 2", "1 | 2"),
        ("1 | 2 | T a:23", "1 | 2 | T"),
        ("1 | 2 | T a:23 | D 1", "1 | 2 | T | D 1"),
    ] {
        let mut talk = in_force(Mode::Sealed);
        talk.client("P - SELECT 1 | B - - | D P - | E - | S");
        if !before.is_empty() {
            assert_eq!(talk.server(before), seen);
        }
        talk.script(&[("< E 22012 | Z I", "E 22012 | Z I (I)"), ("> Q SELECT 2", "Q SELECT 2")]);
    }
}

#[test]
fn each_kind_of_message_is_discarded_behind_an_error() {
    for frames in [
        "Q SELECT 1",
        "P s SELECT 1",
        "B - -",
        "D S s",
        "D P p",
        "E -",
        "C S s",
        "C P p",
        "H",
        "F",
        "d x",
        "c",
        "f",
    ] {
        for mode in [Mode::Sealed, Mode::Plain, Mode::Bare] {
            let mut talk = in_force(mode);
            talk.client("P - SELECT nope | H");
            let mut answers = String::from("E 42703");
            if mode == Mode::Plain {
                answers = format!("assert | {answers}");
            }
            assert_eq!(talk.server(&answers), "E 42703");
            talk.script(&[(&format!("> {frames}"), ""), ("> S", "S"), ("< Z I", "Z I (I)")]);
        }
    }
}

#[test]
fn a_query_sent_in_the_same_segment_as_a_failed_parse_does_not_run() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT nope | Q SELECT 2", "P - SELECT nope | Q SELECT 2"),
        ("< E 42703", "E 42703"),
        ("> Q SELECT 3", ""),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn a_function_call_sent_behind_a_failed_parse_does_not_run() {
    in_force(Mode::Bare).script(&[
        ("> P - SELECT nope | F", "P - SELECT nope | F"),
        ("< E 42703", "E 42703"),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn a_query_ends_a_segment_of_the_extended_protocol_without_a_sync() {
    in_force(Mode::Sealed).script(&[
        ("> P s SELECT 1 | Q SELECT 2", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | Q SELECT 2"),
        ("< 1 | t | T a:23 | T a:23 | D 2 | C SELECT 1 | Z I", "1 | T | D 2 | C SELECT 1 | Z I (I)"),
        ("> B - s | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn an_error_of_a_query_ends_its_segment_by_itself() {
    in_force(Mode::Sealed).script(&[
        ("> Q SELECT nope | Q SELECT 1", "Q SELECT nope"),
        ("< E 42703 | Z I", "Q SELECT 1 E 42703 | Z I (I)"),
    ]);
}

#[test]
fn an_error_in_a_text_of_several_ends_all_of_it() {
    in_force(Mode::Sealed).script(&[
        ("> Q SELECT 1; SELECT 1/0; SELECT 3", "Q SELECT 1; SELECT 1/0; SELECT 3"),
        ("< T a:23 | D 1 | C SELECT 1 | E 22012 | Z I", "T | D 1 | C SELECT 1 | E 22012 | Z I (I)"),
    ]);
}

#[test]
fn an_error_in_a_block_fails_it_in_both_protocols() {
    in_force(Mode::Sealed).script(&BEGIN).script(&FAIL);
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SELECT 1/0 | B - - | E - | S", "P - SELECT 1/0 | B - - | E - | S"),
        ("< 1 | 2 | E 22012 | Z E", "1 | 2 | E 22012 | Z E (E)"),
    ]);
}

#[test]
fn an_error_outside_a_block_leaves_no_block() {
    let mut talk = in_force(Mode::Sealed);
    talk.client("P - INSERT INTO t VALUES (1) | B - - | E - | P - SELECT 1/0 | B - - | E - | S");
    assert_eq!(
        talk.server("1 | 2 | C INSERT 0 1 | 1 | 2 | E 22012 | Z I"),
        "1 | 2 | C INSERT 0 1 | 1 | 2 | E 22012 | Z I (I)"
    );
    assert!(!talk.conversation.is_idle_in_transaction());
}

#[test]
fn in_a_failed_block_texts_go_to_the_server_to_be_refused_there() {
    in_force(Mode::Sealed).script(&BEGIN).script(&FAIL).script(&[
        ("> P - SELECT 1 | S", "P - SELECT 1 | S"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> P s SELECT 1 | S", "P - SELECT 1 | S"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
    ]);
}

#[test]
fn a_name_refused_in_a_failed_block_is_free_behind_it() {
    in_force(Mode::Sealed).script(&BEGIN).script(&FAIL).script(&[
        ("> P s SELECT 1 | S", "P - SELECT 1 | S"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> Q ROLLBACK", "Q ROLLBACK"),
        ("< C ROLLBACK | Z I", "C ROLLBACK | Z I (I)"),
        ("> B - s | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
    ]);
}

#[test]
fn a_failed_block_ends_by_either_protocol() {
    for text in ["ROLLBACK", "COMMIT"] {
        in_force(Mode::Sealed).script(&BEGIN).script(&FAIL).script(&[
            (&format!("> P - {text} | B - - | E - | S"), &format!("P - {text} | B - - | E - | S")),
            ("< 1 | 2 | C ROLLBACK | Z I", "1 | 2 | C ROLLBACK | Z I (I)"),
        ]);
        in_force(Mode::Sealed).script(&BEGIN).script(&FAIL).script(&[
            (&format!("> Q {text}"), &format!("Q {text}")),
            ("< C ROLLBACK | Z I", "C ROLLBACK | Z I (I)"),
        ]);
    }
}

#[test]
fn rollback_to_a_savepoint_revives_a_failed_block() {
    in_force(Mode::Sealed).script(&BEGIN).script(&FAIL).script(&[
        ("> Q ROLLBACK TO a", "Q ROLLBACK TO a"),
        ("< C ROLLBACK | Z T", "C ROLLBACK | Z T (T)"),
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
    ]);
}

#[test]
fn statements_prepared_behind_an_error_do_not_exist() {
    in_force(Mode::Sealed).script(&[
        (
            "> P a SELECT nope | P b SELECT 2 | S",
            "P pgtenant_0 SELECT nope | D S pgtenant_0 | P pgtenant_1 SELECT 2 | D S pgtenant_1 | S",
        ),
        ("< E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> B - b | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
    ]);
}

#[test]
fn statements_prepared_in_front_of_an_error_stay() {
    in_force(Mode::Sealed).script(&[
        (
            "> P a SELECT 1 | P b SELECT nope | S",
            "P pgtenant_0 SELECT 1 | D S pgtenant_0 | P pgtenant_1 SELECT nope | D S pgtenant_1 | S",
        ),
        ("< 1 | t | T a:23 | E 42703 | Z I", "1 | E 42703 | Z I (I)"),
        ("> B - a | E - | S", "B - pgtenant_0 | E - | S"),
    ]);
}

#[test]
fn a_statement_whose_execution_failed_stays() {
    in_force(Mode::Sealed).script(&[
        (
            "> P s SELECT 1/0 | B - s | E - | S",
            "P pgtenant_0 SELECT 1/0 | D S pgtenant_0 | B - pgtenant_0 | E - | S",
        ),
        ("< 1 | t | T a:23 | 2 | E 22012 | Z I", "1 | 2 | E 22012 | Z I (I)"),
        ("> B - s | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn an_unnamed_portal_bound_behind_an_error_does_not_exist() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SELECT nope | B - - | S", "P - SELECT nope | B - - | S"),
        ("< E 42703 | Z E", "E 42703 | Z E (E)"),
        ("> E - | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z E", "E 34000 | Z E (E)"),
    ]);
}

#[test]
fn an_error_in_front_of_a_close_of_a_statement_keeps_it_unanswered() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT nope | C S x | S", "P - SELECT nope | D S - | S"),
        ("< E 42703 | Z I", "E 42703 | Z I (I)"),
    ]);
}

#[test]
fn what_the_server_sends_by_itself_passes_while_messages_are_discarded() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT nope | H", "P - SELECT nope | H"),
        ("< E 42703", "E 42703"),
        ("< N 00000 | S TimeZone=UTC", "N 00000 | S TimeZone=UTC"),
        ("> S", "S"),
        ("< N 00000 | Z I", "N 00000 | Z I (I)"),
    ]);
}

#[test]
fn an_answer_to_a_discarded_message_puts_the_server_in_doubt() {
    for answer in ["1", "2", "3", "D 1", "C SELECT 1", "T a:23", "G", "Z I", "E 42601"] {
        let mut talk = in_force(Mode::Sealed);
        talk.client("P - SELECT nope | B - - | E -");
        assert_eq!(talk.server("E 42703"), "E 42703");
        assert!(talk.server(answer).contains("server lost"), "{answer}");
    }
}

#[test]
fn the_next_segment_waits_for_the_answers_to_the_one_before() {
    for first in ["P - SELECT 1 | B - - | E - | S", "Q SELECT 1"] {
        for second in ["P s SELECT 2 | S", "Q SELECT 2", "S", "H", "B - nosuch", "C S s"] {
            let mut talk = in_force(Mode::Sealed);
            assert_eq!(talk.client(&format!("{first} | {second}")), first, "{second}");
            assert!(talk.conversation.is_closed(), "{second}");
        }
    }
}

#[test]
fn goodbye_is_heard_in_every_state() {
    for frames in ["", "P - SELECT 1", "Q SELECT 1", "P - COPY t FROM STDIN | B - - | E -"] {
        let mut talk = in_force(Mode::Sealed);
        if !frames.is_empty() {
            talk.client(frames);
        }
        assert_eq!(talk.client("X"), "goodbye", "{frames}");
    }
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT nope | H", "P - SELECT nope | H"),
        ("< E 42703", "E 42703"),
        ("> X", "goodbye"),
    ]);
}

#[test]
fn the_end_of_a_server_is_told_from_an_error_in_every_state() {
    for (frames, answers) in [
        ("", ""),
        ("Q SELECT 1", ""),
        ("Q COPY t FROM STDIN", "G"),
        ("P - SELECT 1 | B - - | E - | S", "1 | 2"),
        ("P - SELECT nope | H", "E 42703"),
    ] {
        for severity in ["FATAL", "PANIC"] {
            let mut talk = in_force(Mode::Sealed);
            if !frames.is_empty() {
                talk.client(frames);
            }
            if !answers.is_empty() {
                talk.server(answers);
            }
            assert_eq!(
                talk.server(&format!("E {severity} 57P01")),
                "server lost: ended 57P01: text",
                "{frames}"
            );
        }
    }
}

#[test]
fn an_error_of_a_function_call_ends_it() {
    in_force(Mode::Bare).script(&[
        ("> F", "F"),
        ("< E 42883 | Z I", "E 42883 | Z I (I)"),
        ("> F", "F"),
        ("< V | Z I", "V | Z I (I)"),
    ]);
}
