//! The extended protocol: statements, portals, and what is told about them.

use super::{Kind, Mode, Talk, enter, in_force};
use crate::relay::core::replies::MAX_OWED;

#[test]
fn unnamed_statements_go_on_as_they_came() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | B - - | D P - | E - | S", "P - SELECT 1 | B - - | D P - | E - | S"),
        ("< 1 | 2 | T a:23 | D 1 | C SELECT 1 | Z I", "1 | 2 | T | D 1 | C SELECT 1 | Z I (I)"),
    ]);
    in_force(Mode::Plain).script(&[
        ("> P - SELECT 1 | B - - | E - | S", "assert | P - SELECT 1 | B - - | E - | S"),
        ("< assert", ""),
        ("< 1 | 2 | D 1 | C SELECT 1 | Z I", "1 | 2 | D 1 | C SELECT 1 | Z I (I)"),
        ("> P - SELECT 1 | B - - | E - | S", "asserted | P - SELECT 1 | B - - | E - | S"),
    ]);
    Talk::new(Mode::Sealed).script(&[
        ("> P - SELECT 1 | B - - | E - | S", "hand-over | P - SELECT 1 | B - - | E - | S"),
        ("< hand-over | 1 | 2 | D 1 | C SELECT 1 | Z I", "1 | 2 | D 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn a_named_statement_is_described_once_and_used_under_its_name_on_servers() {
    in_force(Mode::Sealed).script(&[
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> B - s | E - | S", "B - pgtenant_0 | E - | S"),
        ("< 2 | D 1 | C SELECT 1 | Z I", "2 | D 1 | C SELECT 1 | Z I (I)"),
        ("> D S s | S", "D S pgtenant_0 | S"),
        ("< t | T a:23 | Z I", "t | T | Z I (I)"),
    ]);
}

#[test]
fn a_statement_is_prepared_again_with_the_types_that_its_client_was_told() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P s SELECT $1 | S", "P pgtenant_0 SELECT $1 | D S pgtenant_0 | S"),
        ("< 1 | t 20 | T a:20 | Z I", "1 | Z I (I)"),
    ]);
    talk.server.state.clear_prepared();
    talk.script(&[
        ("> B - s | E - | S", "P pgtenant_0 SELECT $1 | D S pgtenant_0 | H"),
        ("< 1 | t 20 | T a:20", "B - pgtenant_0 | E - | S"),
        ("< 2 | D 1 | C SELECT 1 | Z I", "2 | D 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn columns_that_are_no_longer_what_was_told_are_an_error() {
    for changed in ["T a:701", "T b:20", "T a:20,b:20", "n"] {
        let mut talk = in_force(Mode::Sealed);
        talk.script(&[
            ("> P s SELECT v | S", "P pgtenant_0 SELECT v | D S pgtenant_0 | S"),
            ("< 1 | t | T a:20 | Z I", "1 | Z I (I)"),
        ]);
        talk.server.state.clear_prepared();
        for _ in 0..2 {
            talk.script(&[
                ("> B - s | E - | S", "P pgtenant_0 SELECT v | D S pgtenant_0 | H"),
                (
                    &format!("< 1 | t | {changed}"),
                    "C S pgtenant_0 | P - refused by pgtenant | P - refused by pgtenant | S",
                ),
                ("< 3 | E 42601 | Z I", "E 0A000 | Z I (I)"),
            ]);
        }
    }
}

#[test]
fn parameter_types_that_are_no_longer_what_was_told_are_an_error() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        (
            "> P s SELECT a FROM t WHERE b = $1 | S",
            "P pgtenant_0 SELECT a FROM t WHERE b = $1 | D S pgtenant_0 | S",
        ),
        ("< 1 | t 20 | T a:23 | Z I", "1 | Z I (I)"),
    ]);
    talk.server.state.clear_prepared();
    talk.script(&[
        ("> D S s | S", "P pgtenant_0 SELECT a FROM t WHERE b = $1 | D S pgtenant_0 | H"),
        ("< 1 | t 701 | T a:23", "C S pgtenant_0 | P - refused by pgtenant | S"),
        ("< 3 | E 42601 | Z I", "E 0A000 | Z I (I)"),
        // PostgreSQL counts the values first.
        ("> B - s | S", "P pgtenant_0 SELECT a FROM t WHERE b = $1 | D S pgtenant_0 | H"),
        ("< 1 | t 701 | T a:23", "C S pgtenant_0 | P - refused by pgtenant | S"),
        ("< 3 | E 42601 | Z I", "E 08P01 | Z I (I)"),
    ]);
}

#[test]
fn an_error_while_it_is_prepared_again_is_the_clients() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
    ]);
    talk.server.state.clear_prepared();
    talk.script(&[
        ("> B - s | E - | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | H"),
        ("< E 42P01", "S E 42P01"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn close_in_front_of_execute_leaves_the_portal() {
    in_force(Mode::Sealed).script(&[
        (
            "> P s SELECT 1 | B p s | C S s | E p | S",
            "P pgtenant_0 SELECT 1 | D S pgtenant_0 | B p pgtenant_0 | E p | S",
        ),
        ("< 1 | t | T a:23 | 2 | D 1 | C SELECT 1 | Z I", "1 | 2 | 3 | D 1 | C SELECT 1 | Z I (I)"),
        ("> B p s | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
    ]);
}

#[test]
fn portals_run_in_any_order_with_the_effects_of_their_own() {
    let mut talk = Talk::with(Mode::Sealed, &[("timezone", "UTC")], Kind::Bound);
    enter(&mut talk);
    talk.script(&[
        (
            "> P - RESET ALL | B p1 - | P - SHOW timezone | B p2 - | E p2",
            "P - RESET ALL | B p1 - | P - SHOW timezone | B p2 - | E p2",
        ),
        (
            "> E p1 | S",
            "E p1 | P - SET \"app\".\"tenant_id\" TO 'a' | B pgtenant - | E pgtenant | C P pgtenant | P - SET timezone TO 'UTC' | B pgtenant - | E pgtenant | C P pgtenant | S",
        ),
        (
            "< 1 | 2 | 1 | 2 | D UTC | C SHOW | C RESET | own | own | Z I",
            "1 | 2 | 1 | 2 | D UTC | C SHOW | C RESET | Z I (I)",
        ),
    ]);
}

#[test]
fn an_open_portal_goes_on_behind_other_statements() {
    in_force(Mode::Sealed).script(&[
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> P - SELECT 1 | B c1 - | E c1 | S", "P - SELECT 1 | B c1 - | E c1 | S"),
        ("< 1 | 2 | D 1 | s | Z T", "1 | 2 | D 1 | s | Z T (T)"),
        ("> P - SHOW timezone | B - - | E - | S", "P - SHOW timezone | B - - | E - | S"),
        ("< 1 | 2 | D UTC | C SHOW | Z T", "1 | 2 | D UTC | C SHOW | Z T (T)"),
        ("> E c1 | S", "E c1 | S"),
        ("< D 2 | C SELECT 2 | Z T", "D 2 | C SELECT 2 | Z T (T)"),
    ]);
}

#[test]
fn a_skipped_parse_leaves_the_unnamed_statement_and_a_failed_one_does_not() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> B - nosuch | P - SELECT 2 | C S - | S", "P - refused by pgtenant | P - SELECT 2 | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
        // Prepared again: the server's own was replaced by what was refused.
        ("> B - - | E - | S", "P - SELECT 1 | D S - | H"),
        ("< 1 | t | T a:23", "B - - | E - | S"),
        ("< 2 | D 1 | C SELECT 1 | Z I", "2 | D 1 | C SELECT 1 | Z I (I)"),
    ]);
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> P - SELECT nope | S", "P - SELECT nope | D S - | S"),
        ("< E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> B - - | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
    ]);
}

#[test]
fn a_name_that_was_never_prepared_is_free_again() {
    in_force(Mode::Sealed).script(&[
        ("> P s SELECT nope | S", "P pgtenant_0 SELECT nope | D S pgtenant_0 | S"),
        ("< E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> P s SELECT 1 | S", "P pgtenant_1 SELECT 1 | D S pgtenant_1 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> P s SELECT 2 | S", "P - SELECT 2 | P - refused by pgtenant | S"),
        ("< 1 | E 42601 | Z I", "E 42P05 | Z I (I)"),
        // PostgreSQL reads the text first.
        ("> P s SELECT nope | S", "P - SELECT nope | P - refused by pgtenant | S"),
        ("< E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> B - s | E - | S", "B - pgtenant_1 | E - | S"),
    ]);
}

#[test]
fn what_is_closed_behind_an_error_is_not_closed() {
    in_force(Mode::Sealed).script(&[
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> P - SELECT nope | C S s | S", "P - SELECT nope | D S - | S"),
        ("< E 42703 | Z I", "E 42703 | Z I (I)"),
        ("> B - s | E - | S", "B - pgtenant_0 | E - | S"),
    ]);
}

#[test]
fn statements_beyond_the_servers_limit_are_closed_and_prepared_again() {
    let mut talk = in_force(Mode::Sealed);
    for number in 0..3 {
        let name = format!("pgtenant_{number}");
        talk.script(&[
            (
                &format!("> P s{number} SELECT {number} | S"),
                &format!("P {name} SELECT {number} | D S {name} | S"),
            ),
            ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ]);
    }
    talk.script(&[
        ("> P s3 SELECT 3 | S", "C S pgtenant_0 | P pgtenant_3 SELECT 3 | D S pgtenant_3 | S"),
        ("< 3 | 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> B - s0 | S", "C S pgtenant_1 | P pgtenant_0 SELECT 0 | D S pgtenant_0 | H"),
        ("< 3 | 1 | t | T a:23", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn the_bytes_of_a_clients_statements_are_bounded() {
    let mut talk = in_force(Mode::Sealed);
    let text = format!("SELECT '{}'", "x".repeat(600));
    assert!(talk.client(&format!("P a {text} | S")).starts_with("P pgtenant_0"));
    assert_eq!(talk.server("1 | t | T a:25 | Z I"), "1 | Z I (I)");
    assert_eq!(talk.client(&format!("P b {text} | S")), "P - refused by pgtenant | S");
    assert_eq!(talk.server("E 42601 | Z I"), "E 53200 | Z I (I)");
    assert_eq!(talk.client("C S a | S"), "S");
    assert_eq!(talk.server("Z I"), "3 | Z I (I)");
    assert!(talk.client(&format!("P b {text} | S")).starts_with("P pgtenant_"));
}

#[test]
fn flush_and_describe_of_portals_pass() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | B - - | D P - | H", "P - SELECT 1 | B - - | D P - | H"),
        ("< 1 | 2 | T a:23", "1 | 2 | T"),
        ("> C P - | E - | S", "C P - | P - refused by pgtenant | S"),
        ("< 3 | E 42601", "3 | E 34000"),
        ("< Z I", "Z I (I)"),
        ("> D P - | S", "P - refused by pgtenant | S"),
    ]);
}

#[test]
fn an_unnamed_statement_for_a_later_batch_is_prepared_with_its_types() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P - SELECT $1 | S", "P - SELECT $1 | D S - | S"),
        ("< 1 | t 20 | T a:20 | Z I", "1 | Z I (I)"),
    ]);
    talk.server.state.unnamed = None;
    talk.script(&[
        ("> B - - | E - | S", "P - SELECT $1 | D S - | H"),
        ("< 1 | t 20 | T a:20", "B - - | E - | S"),
    ]);
}

#[test]
fn an_unnamed_statement_whose_types_nobody_knows_is_not_prepared_again() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P - SELECT $1 | B - - x | E - | S", "P - SELECT $1 | B - - … | E - | S"),
        ("< 1 | 2 | D x | C SELECT 1 | Z I", "1 | 2 | D x | C SELECT 1 | Z I (I)"),
        ("> B - - x | E - | S", "B - - … | E - | S"),
        ("< 2 | D x | C SELECT 1 | Z I", "2 | D x | C SELECT 1 | Z I (I)"),
    ]);
    talk.server.state.unnamed = None;
    talk.script(&[
        ("> B - - x | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 0A000 | Z I (I)"),
    ]);
}

#[test]
fn a_query_that_chooses_a_tenant_follows_no_message_of_its_segment() {
    let mut talk = Talk::gateway(Mode::Plain);
    enter(&mut talk);
    talk.script(&[
        ("> Q BEGIN", "Q SET \"app\".\"tenant_id\" TO '';BEGIN"),
        ("< C SET | C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> H | Q SET LOCAL app.tenant_id = 'b'", "H | Q refused by pgtenant"),
        ("< E 42601 | Z E", "E 0A000 | Z E (E)"),
    ]);
}

#[test]
fn what_must_be_first_of_its_transaction_follows_no_query() {
    for first in
        ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION READ ONLY", "SAVEPOINT a", "SHOW x.y"]
    {
        let mut talk = in_force(Mode::Plain);
        talk.script(&[
            (&format!("> P - {first} | B - - | E - | S"), &format!("apart | P - {first} | B - - | E - | S")),
            ("< apart", ""),
            ("< 1 | 2 | C BEGIN | Z T", "1 | 2 | C BEGIN | Z T (T)"),
        ]);
        let mut talk = in_force(Mode::Plain);
        talk.script(&[
            (&format!("> P s {first} | S"), &format!("apart | P pgtenant_0 {first} | D S pgtenant_0 | S")),
            ("< apart | 1 | t | n | Z I", "1 | Z I (I)"),
            ("> B - s | E - | S", "asserted-apart | B - pgtenant_0 | E - | S"),
        ]);
    }
}

#[test]
fn an_assertion_that_fails_runs_nothing_behind_it() {
    for frames in ["Q SELECT 1; SELECT 2", "P - BEGIN | B - - | E - | S", "P - SELECT 1 | B - - | E - | S"] {
        let mut talk = in_force(Mode::Plain);
        let sent = talk.client(frames);
        let begin = if sent.starts_with("apart") { "1 | 2 | C BEGIN | " } else { "" };
        let answers = format!("{begin}3 | 1 | 2 | E 57014");
        assert_eq!(talk.server(&answers), "server lost: context 57014: text", "{frames}");
    }
}

#[test]
fn a_statement_prepared_again_declares_the_types_its_client_was_told() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P s SELECT $1 | S", "P pgtenant_0 SELECT $1 | D S pgtenant_0 | S"),
        ("< 1 | t 20 | T a:20 | Z I", "1 | Z I (I)"),
    ]);
    talk.server.state.clear_prepared();
    let before = talk.server.output_log().len();
    talk.client("B - s | S");
    let sent = talk.server.output_log().split_off(before);
    let declared = b"SELECT $1\0\0\x01\0\0\0\x14";
    assert!(sent.windows(declared.len()).any(|part| part == declared), "{sent:?}");
}

#[test]
fn a_statement_without_columns_is_prepared_again_in_its_own_write() {
    for text in ["COMMIT", "SAVEPOINT a", "INSERT INTO t VALUES ($1)", "UPDATE t SET a = 1", "SET a.b = 1"] {
        let mut talk = in_force(Mode::Sealed);
        talk.client(&format!("P s {text} | S"));
        talk.server("1 | t | n | Z I");
        talk.server.state.clear_prepared();
        assert_eq!(
            talk.client("B - s | E - | S"),
            format!("P pgtenant_0 {text} | B - pgtenant_0 | E - | S"),
            "{text}"
        );
    }
    for text in ["SELECT 1", "INSERT INTO t VALUES (1) returning *", "CALL p()", "SHOW a.b"] {
        let mut talk = in_force(Mode::Sealed);
        talk.client(&format!("P s {text} | S"));
        talk.server("1 | t | n | Z I");
        talk.server.state.clear_prepared();
        assert_eq!(
            talk.client("B - s | E - | S"),
            format!("P pgtenant_0 {text} | D S pgtenant_0 | H"),
            "{text}: what it returns may be something else by now"
        );
    }
}

#[test]
fn a_query_closes_the_unnamed_statement() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 7 | S", "P - SELECT 7 | D S - | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
        ("< C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
        ("> B - - | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
    ]);
}

#[test]
fn in_a_failed_block_postgresql_is_asked_before_the_proxy_refuses() {
    in_force(Mode::Sealed).script(&[
        ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q SELECT 1/0", "Q SELECT 1/0"),
        ("< E 22012 | Z E", "E 22012 | Z E (E)"),
        // A name in use, and one that is free: 25P02 for both, and the second is not taken.
        ("> P s SELECT 2 | S", "P - SELECT 2 | S"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> P t SELECT 2 | S", "P - SELECT 2 | S"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> Q ROLLBACK", "Q ROLLBACK"),
        ("< C ROLLBACK | Z I", "C ROLLBACK | Z I (I)"),
        ("> B - t | S", "P - refused by pgtenant | S"),
    ]);
}

#[test]
fn a_client_far_ahead_of_its_answers_is_held_back_until_they_come() {
    let mut talk = in_force(Mode::Bare);
    talk.bytes_of_client(b"P\0\0\0\x10\0SELECT 1\0\0\0");
    let close = b"C\0\0\0\x07Sx\0";
    talk.bytes_of_client(&close.repeat(MAX_OWED - 2));
    assert!(talk.client_input.is_empty(), "the last that fits");
    let sent = talk.bytes_of_client(&close.repeat(1000));
    assert_eq!(talk.client_input.len(), 999 * close.len());
    assert_eq!(sent.matches('H').count(), 1, "the server is told once to answer: {sent:.80}");
    assert_eq!(talk.bytes_of_client(close), "");
    talk.server("1");
    assert!(talk.client_input.is_empty(), "it goes on");
}

#[test]
fn a_setting_before_a_commit_stays_though_its_pipeline_fails() {
    let pipeline = "P - SET work_mem = '5MB' | B - - | E - | P - END | B - - | E - | E c2 | S";
    for (behind, asked) in [("E 34000", true), ("s", true)] {
        let mut talk = in_force(Mode::Sealed);
        talk.client(pipeline);
        talk.server(&format!("1 | 2 | C SET | 1 | 2 | C COMMIT | {behind} | Z I"));
        assert_eq!(talk.conversation.question().is_some(), asked, "{behind}");
    }
    let mut talk = in_force(Mode::Sealed);
    talk.client("P - SET work_mem = '5MB' | B - - | E - | E c2 | S");
    talk.server("1 | 2 | C SET | E 34000 | Z I");
    assert!(talk.conversation.question().is_none(), "the error took it back");
}
