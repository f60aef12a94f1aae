//! A BEGIN that waits, the end of a block in which nothing ran, and choices of a tenant, all without a server.

use super::frames::{Direction, encode_all};
use super::{Mode, Talk, enter, in_force};
use crate::names::TenantId;

const SET: &str = "SET \"app\".\"tenant_id\" TO 'a'";

#[test]
fn begin_waits_and_goes_in_front_of_the_first_statement() {
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SELECT 1", "Q BEGIN;SELECT 1"),
        ("< C BEGIN | T a:23 | D 1 | C SELECT 1 | Z T", "T | D 1 | C SELECT 1 | Z T (T)"),
        ("> Q SELECT 2", "Q SELECT 2"),
        ("< C SELECT 1 | Z T", "C SELECT 1 | Z T (T)"),
        ("> Q COMMIT", "Q COMMIT"),
        ("< C COMMIT | Z I", "C COMMIT | Z I (I)"),
    ]);
    in_force(Mode::Plain).script(&[
        ("~ Q start transaction isolation level serializable", "C START TRANSACTION | Z T"),
        (
            "~ Q SET TRANSACTION READ ONLY",
            &format!("Q {SET};BEGIN ISOLATION LEVEL SERIALIZABLE;SET TRANSACTION READ ONLY"),
        ),
        ("< C SET | C BEGIN | C SET | Z T", "C SET | Z T (T)"),
    ]);
    Talk::new(Mode::Sealed).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q INSERT INTO t VALUES (1)", "hand-over | Q BEGIN;INSERT INTO t VALUES (1)"),
        ("< hand-over | C BEGIN | C INSERT 0 1 | Z T", "C INSERT 0 1 | Z T (T)"),
    ]);
}

#[test]
fn begin_in_front_of_extended_messages_is_one_too() {
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN READ ONLY", "C BEGIN | Z T"),
        (
            "~ P - SELECT 1 | B - - | E - | S",
            "P - BEGIN READ ONLY | B - - | E - | P - SELECT 1 | B - - | E - | S",
        ),
        ("< 1 | 2 | C BEGIN | 1 | 2 | D 1 | C SELECT 1 | Z T", "1 | 2 | D 1 | C SELECT 1 | Z T (T)"),
    ]);
    in_force(Mode::Plain).script(&[
        ("~ P - BEGIN | B - - | D P - | E - | S", "1 | 2 | n | C BEGIN | Z T"),
        (
            "~ P - SELECT 1 | B - - | E - | S",
            &format!("P - {SET} | B - - | E - | P - BEGIN | B - - | E - | P - SELECT 1 | B - - | E - | S"),
        ),
        ("< 1 | 2 | C SET | 1 | 2 | C BEGIN | 1 | 2 | C SELECT 1 | Z T", "1 | 2 | C SELECT 1 | Z T (T)"),
    ]);
}

#[test]
fn a_block_in_which_nothing_ran_ends_without_a_server() {
    let mut talk = in_force(Mode::Plain);
    for (end, tag) in
        [("COMMIT", "COMMIT"), ("END", "COMMIT"), ("rollback work", "ROLLBACK"), ("abort;", "ROLLBACK")]
    {
        talk.script(&[("~ Q BEGIN", "C BEGIN | Z T"), (&format!("~ Q {end}"), &format!("C {tag} | Z I"))]);
    }
    talk.script(&[
        (
            "~ P - BEGIN | B - - | E - | S | P - COMMIT | B - - | E - | S",
            "1 | 2 | C BEGIN | Z T | 1 | 2 | C COMMIT | Z I",
        ),
        // The end of no block is for the server to remark on.
        ("~ Q COMMIT", "Q COMMIT"),
    ]);
}

#[test]
fn messages_that_cannot_follow_begin_wait_until_the_block_is_open() {
    for (frames, sent, answers) in [
        ("Q", "Q -", "I | Z T"),
        ("Q DEALLOCATE s", "Q DEALLOCATE s", "C DEALLOCATE | Z T"),
        ("D P c | S", "D P c | S", "n | Z T"),
        ("S", "S", "Z T"),
        ("C P c | S", "C P c | S", "3 | Z T"),
    ] {
        in_force(Mode::Plain).script(&[
            ("~ Q BEGIN", "C BEGIN | Z T"),
            (&format!("~ {frames}"), &format!("Q {SET}; | Q BEGIN")),
            ("< C SET | Z I | C BEGIN | Z T", sent),
            (&format!("< {answers}"), &format!("{answers} (T)")),
        ]);
    }
}

#[test]
fn an_error_of_begin_answers_the_first_statement_and_fails_the_block() {
    // A text that PostgreSQL cannot read keeps the BEGIN in front of it from running.
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SELECT 1 1", "Q BEGIN;SELECT 1 1"),
        ("< E 42601@16 | Z I", "E 42601@10 | Z E (I)"),
        ("~ Q SELECT 1", "Q BEGIN | Q refused by pgtenant"),
        ("< C BEGIN | Z T | E 42601 | Z E", "Q SELECT 1"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> Q ROLLBACK", "Q ROLLBACK"),
        ("< C ROLLBACK | Z I", "C ROLLBACK | Z I (I)"),
    ]);
    // As a standby refuses it.
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN ISOLATION LEVEL SERIALIZABLE", "C BEGIN | Z T"),
        (
            "~ P - SELECT 1 | B - - | E - | S",
            "P - BEGIN ISOLATION LEVEL SERIALIZABLE | B - - | E - | P - SELECT 1 | B - - | E - | S",
        ),
        ("< 1 | 2 | E 0A000 | Z I", "E 0A000 | Z E (I)"),
        ("~ Q COMMIT", "C ROLLBACK | Z I"),
    ]);
    // An error behind BEGIN is the server's, and the block as well.
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SELECT 1/0", "Q BEGIN;SELECT 1/0"),
        ("< C BEGIN | E 22012 | Z E", "E 22012 | Z E (E)"),
        ("> Q ROLLBACK", "Q ROLLBACK"),
    ]);
}

#[test]
fn a_refused_statement_fails_the_block_and_only_its_end_is_answered() {
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SET ROLE other", "E 42501 | Z E (I)"),
        ("~ Q COMMIT", "C ROLLBACK | Z I"),
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SET ROLE other", "E 42501 | Z E (I)"),
        ("~ Q SELECT 1", "Q BEGIN | Q refused by pgtenant"),
        ("< C BEGIN | Z T | E 42601 | Z E", "Q SELECT 1"),
    ]);
}

#[test]
fn a_block_whose_server_is_lost_before_it_ran_may_be_opened_on_another() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SELECT 1", "hand-over | Q BEGIN;SELECT 1"),
        ("< sealed-reset | 1 | 2 | E 28000", "server lost: context 28000: text"),
    ]);
    assert!(talk.conversation.has_run_nothing());
    talk.conversation.abandon();
    talk.server_input.clear();
    talk.script(&[
        ("~ Q SELECT 1", "hand-over | Q BEGIN;SELECT 1"),
        ("< hand-over | C BEGIN | C SELECT 1 | Z T", "C SELECT 1 | Z T (T)"),
    ]);
}

#[test]
fn what_chooses_or_begins_is_prepared_without_a_server() {
    let mut talk = Talk::gateway(Mode::Sealed);
    let choice = "P c SELECT set_config('app.tenant_id',$1,$2) AS Chosen";
    talk.script(&[
        ("~ P b BEGIN | D S b | S", "1 | t | n | Z I"),
        (&format!("~ {choice} | D S c | S"), "1 | t 25 16 | T | Z I"),
        ("~ B - b | E - | S", "2 | C BEGIN | Z T"),
        ("~ B - c b t | D P - | E - | S", "2 | T | D b | C SELECT 1 | Z T"),
        ("~ Q ROLLBACK", "C ROLLBACK | Z I"),
        // As asyncpg does.
        ("~ P a SELECT set_config('app.tenant_id',$1,false) | D S a | H", "1 | t 25 | T"),
        ("~ B - a b | E - | S", "2 | D b | C SELECT 1 | Z I"),
        // As pgjdbc does once it has run them often: both in one pipeline, by names.
        ("~ P d BEGIN | B - d | E - | B - c b t | E - | S", "1 | 2 | C BEGIN | 2 | D b | C SELECT 1 | Z T"),
    ]);
    assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
    // A name that is taken, another statement and a bound user's set_config are for a server.
    for frames in [
        "P t SELECT set_config('app.tenant_id',$1::varchar,true) | D S t | S",
        "P t SELECT set_config('app.tenant_id',$1,$1) | D S t | S",
        "P b COMMIT | S",
        "P x SELECT 1 | S",
        "P b BEGIN | D S other | S",
        "D S b | S",
    ] {
        let got = talk.without_server(frames);
        assert!(talk.conversation.is_running(), "{frames}: {got}");
        talk.conversation.abandon();
        talk.client_input.clear();
    }
    // It is prepared on the server where it has to run there.
    let mut talk = Talk::gateway(Mode::Sealed);
    talk.script(&[("~ P e END | S", "1 | Z I"), ("~ Q BEGIN", "C BEGIN | Z T")]);
    enter(&mut talk);
    talk.client("Q SELECT 1");
    talk.server("C SET | C BEGIN | C SELECT 1 | Z T");
    assert_eq!(talk.client("B - e | E - | S"), "P pgtenant_0 END | B - pgtenant_0 | E - | S");
}

#[test]
fn statements_are_prepared_outside_of_a_waiting_block() {
    let mut talk = Talk::gateway(Mode::Sealed);
    talk.script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ P s SELECT set_config('app.tenant_id','b',true) | S", "1 | Z T"),
        ("~ P r SELECT 1 | S", "plain-hand-over | P pgtenant_1 SELECT 1 | D S pgtenant_1 | S"),
        ("< plain-hand-over | 1 | t | T a:23 | Z I", "1 | Z T (I)"),
        ("~ B - s | D P - | E - | S", "2 | T | D b | C SELECT 1 | Z T"),
    ]);
    assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
    // One that cannot be prepared fails the block.
    in_force(Mode::Sealed).script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ P s SELECT x | S", "P pgtenant_0 SELECT x | D S pgtenant_0 | S"),
        ("< E 42703 | Z I", "E 42703 | Z E (I)"),
        ("~ Q COMMIT", "C ROLLBACK | Z I"),
    ]);
}

#[test]
fn a_choice_in_a_waiting_block_takes_no_server() {
    for (mode, span) in [(Mode::Plain, "true"), (Mode::Sealed, "false")] {
        let mut talk = Talk::gateway(mode);
        talk.script(&[
            ("~ Q BEGIN", "C BEGIN | Z T"),
            (
                &format!("~ Q SELECT set_config('app.tenant_id', 'b', {span}) AS Chosen"),
                "T | D b | C SELECT 1 | Z T",
            ),
        ]);
        assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
        talk.script(&[("~ Q ROLLBACK", "C ROLLBACK | Z I")]);
        assert_eq!(talk.conversation.session_acting().tenant(), None, "a rollback takes it back");
        talk.script(&[
            ("~ Q BEGIN", "C BEGIN | Z T"),
            ("~ Q SET LOCAL app.tenant_id = 'b'", "C SET | Z T"),
            ("~ Q COMMIT", "C COMMIT | Z I"),
        ]);
        assert_eq!(talk.conversation.session_acting().tenant(), None, "it was for the block");
        talk.script(&[
            ("~ Q BEGIN", "C BEGIN | Z T"),
            ("~ Q SET app.tenant_id = 'b'", "C SET | Z T"),
            ("~ Q COMMIT", "C COMMIT | Z I"),
        ]);
        assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
        talk.script(&[("~ Q RESET app.tenant_id", "C RESET | Z I")]);
        assert_eq!(talk.conversation.session_acting().tenant(), None);
    }
}

#[test]
fn a_setting_is_shown_outside_of_a_block_whose_tenant_is_not_chosen_yet() {
    for (show, front, answers) in [
        ("Q SHOW search_path", "apart | ", "apart | "),
        ("P - show search_path; | B - - | D P - | E - | S", "apart | ", "apart | 1 | 2 | "),
    ] {
        let mut talk = Talk::gateway(Mode::Sealed);
        enter(&mut talk);
        talk.script(&[("~ Q BEGIN READ ONLY", "C BEGIN | Z T")]);
        assert_eq!(talk.without_server(show), format!("{front}{show}"));
        let got = talk.server(&format!("{answers}T a:25 | D public | C SHOW | Z I"));
        assert!(got.ends_with("D public | C SHOW | Z T (I)"), "{got}");
        assert!(talk.conversation.is_block_waiting());
        // The choice needs no server, and the block begins with what follows it.
        talk.script(&[("~ Q SET LOCAL app.tenant_id = 'b'", "C SET | Z T")]);
        assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
    }
    // A characteristic of the transaction is asked in it.
    for show in ["SHOW transaction_read_only", "SHOW ALL", "SHOW TRANSACTION ISOLATION LEVEL", "SHOW a, b"] {
        let mut talk = Talk::gateway(Mode::Sealed);
        enter(&mut talk);
        talk.script(&[("~ Q BEGIN READ ONLY", "C BEGIN | Z T")]);
        assert!(talk.without_server(&format!("Q {show}")).contains("BEGIN READ ONLY"), "{show}");
    }
    // One that fails fails the block.
    let mut talk = Talk::gateway(Mode::Sealed);
    enter(&mut talk);
    talk.script(&[("~ Q BEGIN", "C BEGIN | Z T")]);
    talk.without_server("Q SHOW nonsense");
    let got = talk.server("apart | E 42704 | Z I");
    assert!(got.ends_with("E 42704 | Z E (I)"), "{got}");
    talk.script(&[("~ Q ROLLBACK", "C ROLLBACK | Z I")]);
}

#[test]
fn nothing_but_the_show_itself_runs_outside_of_the_block() {
    for tail in
        ["B - im | E - | S", "B p - | E - | S", "B - - | E p | S", "B - - | E - | E - | S", "B - - | E -"]
    {
        let mut talk = Talk::gateway(Mode::Sealed);
        enter(&mut talk);
        talk.client("P im SHOW a | S");
        talk.server("apart | 1 | t | T a:25 | Z I");
        talk.script(&[("~ Q BEGIN READ ONLY", "C BEGIN | Z T")]);
        let sent = talk.without_server(&format!("P - SHOW search_path | {tail}"));
        assert!(sent.contains("P - BEGIN READ ONLY | B - - | E -"), "{tail}: {sent}");
    }
}

#[test]
fn statements_in_front_of_a_pipeline_are_answered_from_its_begin_on() {
    let begin = "P - BEGIN | B - - | E -";
    let choice = "P - SELECT set_config('app.tenant_id','b',true) | B - - | D P - | E -";
    let read = "P - SELECT 1 | B - - | E -";
    let (told, chosen) = ("1 | 2 | C BEGIN", "1 | 2 | T | D b | C SELECT 1");
    let mut talk = Talk::gateway(Mode::Sealed);
    talk.script(&[(&format!("~ {begin} | {choice} | S"), &format!("{told} | {chosen} | Z T"))]);
    assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
    // What is left is a segment for a server, behind the BEGIN.
    for (frames, answers, sent) in [
        (format!("{begin} | {read} | S"), told.to_owned(), read),
        (format!("{begin} | {choice} | {read} | S"), format!("{told} | {chosen}"), read),
    ] {
        let mut talk = Talk::gateway(Mode::Sealed);
        enter(&mut talk);
        let got = talk.without_server(&frames);
        assert!(got.starts_with(&format!("{answers} / ")), "{got}");
        assert!(got.ends_with(&format!("P - BEGIN | B - - | E - | {sent} | S")), "{got}");
    }
    // A choice for the session may fail together with what follows, and half a segment may go on in any way.
    for frames in [
        format!("P - SET app.tenant_id = 'b' | B - - | E - | {read} | S"),
        format!("{begin} | {read}"),
        format!("{read} | {begin} | S"),
    ] {
        let mut talk = Talk::gateway(Mode::Sealed);
        let got = talk.without_server(&frames);
        assert!(!got.contains(" / "), "{frames}: {got}");
    }
    // A choice that is not granted fails the block, and the rest of its segment is skipped.
    let refused = format!("P - SET LOCAL app.tenant_id = '{}' | B - - | E -", "x".repeat(300));
    let got = Talk::gateway(Mode::Sealed).without_server(&format!("{begin} | {refused} | {read} | S"));
    assert!(got.starts_with(&format!("{told} / refused ")), "{got}");
}

#[test]
fn a_choice_by_the_extended_protocol_is_answered_frame_by_frame() {
    let mut talk = Talk::gateway(Mode::Sealed);
    talk.script(&[(
        "~ P - SELECT set_config('app.tenant_id','b',false) | B - - | D P - | E - | S",
        "1 | 2 | T | D b | C SELECT 1 | Z I",
    )]);
    assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("b"));
    talk.script(&[
        ("~ P - SET app.tenant_id TO DEFAULT | B - - | D P - | E - | S", "1 | 2 | n | C SET | Z I"),
        ("~ P - BEGIN | B - - | E - | S", "1 | 2 | C BEGIN | Z T"),
        ("~ P - SET LOCAL app.tenant_id = 'c' | B - - | E - | S", "1 | 2 | C SET | Z T"),
    ]);
    assert_eq!(talk.conversation.session_acting().tenant().map(TenantId::as_str), Some("c"));
}

#[test]
fn a_choice_that_is_not_granted_fails_its_block() {
    let mut talk = Talk::gateway(Mode::Sealed);
    let long = "x".repeat(300);
    talk.script(&[
        (&format!("~ Q SET app.tenant_id = '{long}'"), "refused 28000"),
        ("~ Q BEGIN", "C BEGIN | Z T"),
        (&format!("~ Q SET LOCAL app.tenant_id = '{long}'"), "refused 28000"),
        ("~ Q ROLLBACK", "C ROLLBACK | Z I"),
    ]);
}

#[test]
fn what_is_not_known_goes_to_a_server() {
    for text in [
        "SELECT 1",
        "SET LOCAL app.tenant_id = 'b'",
        "SELECT set_config('app.tenant_id', 'b', true)",
        "SELECT set_config('app.tenant_id', NULL, false)",
        "SELECT set_config('app.tenant_id', 'b', false) FROM t",
        "BEGIN; SELECT 1",
        "COMMIT",
        "ROLLBACK AND CHAIN",
    ] {
        let mut talk = Talk::gateway(Mode::Sealed);
        let got = talk.without_server(&format!("Q {text}"));
        assert!(!got.contains("| Z I /") && !got.starts_with("C "), "{text}: {got}");
    }
    // A segment of more than one statement, and one that is not there as a whole.
    for frames in ["P - BEGIN | B - - | E -", "P n BEGIN | B - n | E -"] {
        let mut talk = in_force(Mode::Sealed);
        let got = talk.without_server(frames);
        assert!(got.contains("BEGIN") && !got.contains("C BEGIN"), "{frames}: {got}");
    }
}

#[test]
fn statements_behind_the_end_of_a_transaction_do_not_run_for_its_tenant() {
    for text in ["SELECT 1; COMMIT; SELECT 2", "ROLLBACK; SELECT 2", "COMMIT AND CHAIN"] {
        let mut talk = Talk::gateway(Mode::Sealed);
        talk.script(&[("~ Q BEGIN", "C BEGIN | Z T"), ("~ Q SET LOCAL app.tenant_id = 'b'", "C SET | Z T")]);
        enter(&mut talk);
        talk.script(&[(&format!("~ Q {text}"), "E 0A000 | Z E (I)")]);
    }
    let mut talk = Talk::gateway(Mode::Sealed);
    talk.script(&[
        ("~ Q BEGIN", "C BEGIN | Z T"),
        ("~ Q SET LOCAL app.tenant_id = 'b'", "C SET | Z T"),
        ("~ Q SELECT 1", "Q front;BEGIN;SELECT 1"),
        ("< front | C BEGIN | C SELECT 1 | Z T", "C SELECT 1 | Z T (T)"),
        (
            "> P - COMMIT | B - - | E - | P - SELECT 2 | S",
            "P - COMMIT | B - - | E - | P - refused by pgtenant | S",
        ),
        ("< 1 | 2 | C COMMIT | E 42601 | Z I", "1 | 2 | C COMMIT | E 0A000 | Z I (I)"),
    ]);
}

#[test]
fn a_server_goes_on_with_whole_messages_only() {
    let talk = in_force(Mode::Plain);
    for (frames, is_for_server) in [
        ("Q SELECT 1", true),
        ("P - SELECT 1", true),
        ("B - -", true),
        ("Q DISCARD ALL", false),
        ("d rows", false),
        ("S", false),
    ] {
        let bytes = encode_all(frames, Direction::Client, "");
        let wants = |bytes: &[u8]| talk.conversation.wants_server(bytes);
        assert_eq!(wants(&bytes), is_for_server, "{frames}");
        assert_eq!(wants(&[&bytes[..], b"Q"].concat()), is_for_server, "{frames}, and more behind it");
        for length in 0..bytes.len() {
            assert!(!wants(&bytes[..length]), "{length} bytes of {frames}");
        }
    }
}
