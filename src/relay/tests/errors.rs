//! Errors, skipped messages, malformed frames, lost answers, and what a lost server leaves in doubt.

use super::{Mode, Talk, in_force};

#[test]
fn behind_an_error_messages_are_dropped_to_the_sync() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT nope | H", "P - SELECT nope | H"),
        ("< E 42703", "E 42703"),
        ("> B - - | E - | Q SELECT 1 | P - SELECT 2 | d x | c | H", ""),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn an_error_of_the_commit_at_a_sync_is_the_clients() {
    in_force(Mode::Sealed).script(&[
        (
            "> P - INSERT INTO t VALUES (1) | B - - | E - | S",
            "P - INSERT INTO t VALUES (1) | B - - | E - | S",
        ),
        ("< 1 | 2 | C INSERT 0 1 | E 23503 | Z I", "1 | 2 | C INSERT 0 1 | E 23503 | Z I (I)"),
    ]);
}

#[test]
fn answers_out_of_turn_close_the_server() {
    for (answers, fault) in [
        ("Z I", "the server was ready out of turn"),
        ("2", "an answer out of turn"),
        ("3", "an answer out of turn"),
        ("D 1", "rows that nothing asked for"),
        ("C SELECT 1", "a completion that nothing waits for"),
        ("T a:23", "a description that nothing asked for"),
        ("t 23", "a description that nothing asked for"),
        ("H", "COPY that nothing asked for"),
        ("V", "the result of a function that nothing called"),
        ("W", "the server sent a message of an unknown kind"),
    ] {
        let mut talk = in_force(Mode::Sealed);
        talk.client("P - SELECT 1 | B - - | E - | S");
        assert_eq!(talk.server(answers), format!("server lost: {fault}"), "{answers}");
    }
}

#[test]
fn frames_that_nothing_asked_for_close_an_idle_server() {
    for (answers, fault) in [
        ("1", "an answer that nothing waits for"),
        ("Z I", "the server was ready out of turn"),
        ("E 42601", "an error that nothing caused"),
        ("D 1", "rows that nothing asked for"),
    ] {
        assert_eq!(in_force(Mode::Sealed).server(answers), format!("server lost: {fault}"));
    }
}

#[test]
fn what_postgresql_sends_by_itself_passes_at_any_time() {
    in_force(Mode::Sealed).script(&[
        ("< N 00000 | S TimeZone=UTC", "N 00000 | S TimeZone=UTC"),
        ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
        ("< N 00000 | 1 | N 00000 | t | T a:23 | Z I", "N 00000 | 1 | N 00000 | Z I (I)"),
    ]);
}

#[test]
fn a_server_that_ends_says_so() {
    in_force(Mode::Sealed)
        .script(&[("> Q SELECT 1", "Q SELECT 1"), ("< E FATAL 57P01", "server lost: ended 57P01: text")]);
}

#[test]
fn malformed_messages_end_the_session() {
    for bytes in [
        &b"Q\0\0\0\x05x"[..],
        b"Q\0\0\0\x08a\0b\0",
        b"P\0\0\0\x06s\0",
        b"B\0\0\0\x05x",
        b"D\0\0\0\x06X\0",
        b"E\0\0\0\x05\0",
        b"C\0\0\0\x04",
    ] {
        let mut talk = in_force(Mode::Sealed);
        assert_eq!(talk.bytes_of_client(bytes), "ends: invalid message format", "{bytes:?}");
    }
    let mut talk = in_force(Mode::Sealed);
    assert_eq!(talk.bytes_of_client(b"Q\0\0\0\x03"), "ends: invalid message length");
    assert_eq!(in_force(Mode::Sealed).bytes_of_client(b"w\0\0\0\x04"), "ends: invalid frontend message type");
}

#[test]
fn both_sides_of_the_limit_of_a_message() {
    let text = |length: usize| format!("Q {}", " ".repeat(length));
    // Tag, length and terminator.
    assert!(in_force(Mode::Bare).client(&text(10_000 - 6)).starts_with("Q "));
    assert_eq!(in_force(Mode::Bare).client(&text(10_001 - 6)), "ends: too large");
}

#[test]
fn a_lost_commit_is_in_doubt_and_nothing_else_is() {
    for (frames, in_doubt) in [
        ("Q SELECT 1", false),
        // There is no block to commit.
        ("Q COMMIT", false),
        ("Q INSERT INTO t VALUES (1)", true),
        ("Q UPDATE t SET a = 1", true),
        ("Q BEGIN", false),
        ("Q ROLLBACK", false),
        ("Q SET x.y = 1", false),
        ("Q SELECT 1; COMMIT", false),
        ("Q INSERT INTO t VALUES (1); COMMIT", true),
        ("Q WITH x AS (DELETE FROM t RETURNING 1) SELECT 1", true),
        ("P - INSERT INTO t VALUES (1) | B - - | E - | S", true),
        ("P - SELECT 1 | B - - | E - | S", false),
        ("P - COMMIT | B - - | S", false),
        ("P - INSERT INTO t VALUES (1) | B - - | E - | P - COMMIT | B - - | E -", true),
        ("P - INSERT INTO t VALUES (1) | B - - | E -", false),
    ] {
        let mut talk = in_force(Mode::Sealed);
        talk.client(frames);
        assert_eq!(talk.conversation.is_outcome_unknown(), in_doubt, "{frames}");
    }
}

#[test]
fn an_implicit_commit_is_in_doubt_until_its_ready_for_query() {
    let mut talk = in_force(Mode::Sealed);
    talk.client("P - INSERT INTO t VALUES (1) | B - - | E - | S");
    talk.server("1 | 2 | C INSERT 0 1");
    assert!(talk.conversation.is_outcome_unknown(), "the statement was answered, its commit was not");
    talk.server("Z I");
    assert!(!talk.conversation.is_outcome_unknown());
}

#[test]
fn rows_of_a_copy_that_have_not_ended_commit_nothing() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[("> Q COPY t FROM STDIN", "Q COPY t FROM STDIN"), ("< G", "G"), ("> d x", "d x")]);
    assert!(!talk.conversation.is_outcome_unknown());
    talk.client("c");
    assert!(talk.conversation.is_outcome_unknown());
}

#[test]
fn inside_a_block_only_its_end_commits() {
    for (text, in_doubt) in
        [("INSERT INTO t VALUES (1)", false), ("COMMIT", true), ("END", true), ("ROLLBACK", false)]
    {
        let mut talk = in_force(Mode::Sealed);
        talk.script(&[("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")]);
        talk.client(&format!("Q {text}"));
        assert_eq!(talk.conversation.is_outcome_unknown(), in_doubt, "{text}");
        talk.server("C OK | Z I");
        assert!(!talk.conversation.is_outcome_unknown(), "{text}: it was answered");
    }
}

#[test]
fn nothing_has_run_until_the_entry_was_answered() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.client("Q SELECT 1");
    assert!(talk.conversation.has_run_nothing());
    talk.server("hand-over");
    assert!(!talk.conversation.has_run_nothing());
    let mut talk = in_force(Mode::Sealed);
    talk.client("Q SELECT 1");
    assert!(!talk.conversation.has_run_nothing(), "it was sent by itself");
}

#[test]
fn a_lost_server_leaves_a_conversation_as_new() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> P - COPY t FROM STDIN | B p - | E p", "P - COPY t FROM STDIN | B p - | E p"),
        ("< 1 | 2 | G", "1 | 2 | G"),
    ]);
    talk.conversation.abandon();
    assert!(talk.conversation.is_between() && talk.conversation.is_quiet());
    assert!(!talk.conversation.is_idle_in_transaction());
    talk.script(&[("> d x | Q SELECT 1", "Q SELECT 1"), ("< C SELECT 1 | Z I", "C SELECT 1 | Z I (I)")]);
}

#[test]
fn a_server_is_quiet_only_between_segments_with_nothing_owed() {
    let mut talk = in_force(Mode::Sealed);
    assert!(talk.conversation.is_quiet());
    talk.client("P - SELECT 1");
    assert!(!talk.conversation.is_quiet());
    talk.client("S");
    assert!(!talk.conversation.is_quiet());
    talk.server("1 | t | T a:23");
    assert!(!talk.conversation.is_quiet());
    talk.server("Z I");
    assert!(talk.conversation.is_quiet());
}

#[test]
fn a_refused_first_message_hands_the_server_over_too() {
    // What follows in the segment is noted, and is asked of the server afterwards.
    Talk::new(Mode::Sealed).script(&[(
        "> B - nosuch | Q SET work_mem = '5MB'",
        "hand-over | P - refused by pgtenant | Q SET work_mem = '5MB'",
    )]);
}

#[test]
fn a_refused_query_leaves_nothing_to_be_asked() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[("> Q SET work_mem = '5MB'; DISCARD SEQUENCES; SELECT 1", "E 0A000 | Z I (I)")]);
    assert_eq!(talk.conversation.question(), None);
}

#[test]
fn a_refused_message_after_a_failed_one_is_skipped_too() {
    for refused in ["Q SET ROLE x", "F", "Q SET app.tenant_id = 'b'"] {
        in_force(Mode::Sealed).script(&[
            (
                &format!("> P - SELECT nope | {refused} | B - - | E -"),
                "P - SELECT nope | Q refused by pgtenant",
            ),
            ("< E 42703", "E 42703"),
            ("> S", "S"),
            ("< Z I", "Z I (I)"),
            ("> Q SELECT 1", "Q SELECT 1"),
        ]);
    }
}

#[test]
fn a_refused_message_behind_others_ends_their_transaction() {
    for refused in ["Q SET ROLE x", "F"] {
        in_force(Mode::Sealed).script(&[
            (&format!("> P - SELECT 1 | {refused}"), "P - SELECT 1 | Q refused by pgtenant"),
            ("< 1 | E 42601 | Z I", "1 | E 42501 | Z I (I)"),
            ("> Q SELECT 1", "Q SELECT 1"),
        ]);
    }
}

#[test]
fn what_a_skipped_query_would_have_closed_is_still_there() {
    for skipped in ["Q SELECT 1", "Q SET ROLE x"] {
        let sent = if skipped == "Q SELECT 1" { skipped } else { "Q refused by pgtenant" };
        in_force(Mode::Sealed).script(&[
            ("> P - SELECT 7 | S", "P - SELECT 7 | D S - | S"),
            ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
            (
                &format!("> P s SELECT nope | {skipped}"),
                &format!("P pgtenant_1 SELECT nope | D S pgtenant_1 | {sent}"),
            ),
            ("< E 42703", "E 42703"),
            ("> S", "S"),
            ("< Z I", "Z I (I)"),
            ("> B - - | E - | S", "B - - | E - | S"),
        ]);
    }
}
