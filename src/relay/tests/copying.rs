//! COPY in both protocols: what reaches the server while it reads rows, and what ends it.

use super::{Mode, in_force};
use crate::wire::encode;

const SIMPLE: [(&str, &str); 2] = [("> Q COPY t FROM STDIN", "Q COPY t FROM STDIN"), ("< G", "G")];
const EXTENDED: [(&str, &str); 2] = [
    ("> P - COPY t FROM STDIN | B - - | E -", "P - COPY t FROM STDIN | B - - | E -"),
    ("< 1 | 2 | G", "1 | 2 | G"),
];

#[test]
fn rows_go_on_and_their_end_ends_them() {
    for mode in [Mode::Sealed, Mode::Bare] {
        in_force(mode).script(&SIMPLE).script(&[
            ("> d one | d two | c", "d one | d two | c"),
            ("< C COPY 2 | Z I", "C COPY 2 | Z I (I)"),
        ]);
        in_force(mode)
            .script(&EXTENDED)
            .script(&[("> d one | c | S", "d one | c | S"), ("< C COPY 1 | Z I", "C COPY 1 | Z I (I)")]);
    }
}

#[test]
fn what_is_sent_ahead_of_a_copy_waits_until_it_begins() {
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t FROM STDIN | d one | c | Q SELECT 1", "Q COPY t FROM STDIN"),
        ("< G", "d one | c G"),
        ("< C COPY 1 | Z I", "Q SELECT 1 C COPY 1 | Z I (I)"),
    ]);
    // As libpq does.
    in_force(Mode::Sealed).script(&[
        ("> P - COPY t FROM STDIN | B - - | E - | S", "P - COPY t FROM STDIN | B - - | E -"),
        ("< 1 | 2 | G", "1 | 2 | G"),
        ("> d one | c | S", "d one | c | S"),
        ("< C COPY 1 | Z I", "C COPY 1 | Z I (I)"),
    ]);
}

#[test]
fn a_copy_that_does_not_begin_leaves_the_sync_behind_it() {
    in_force(Mode::Sealed).script(&[
        ("> P - COPY t FROM STDIN | B - - | E - | d x | c | S", "P - COPY t FROM STDIN | B - - | E -"),
        ("< 1 | 2 | E 42P01", "S 1 | 2 | E 42P01"),
        ("< Z I", "Z I (I)"),
    ]);
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t FROM STDIN | d x | c", "Q COPY t FROM STDIN"),
        ("< E 42P01 | Z I", "E 42P01 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn sync_and_flush_count_for_nothing_in_front_of_rows() {
    for begin in [SIMPLE, EXTENDED] {
        in_force(Mode::Sealed).script(&begin).script(&[
            ("> d one | S | H | d two", "d one | d two"),
            ("> S | S", ""),
            ("> c", "c"),
        ]);
    }
}

#[test]
fn a_sync_that_no_rows_follow_counts_once_the_copy_has_failed() {
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> d one | S", "d one"),
        ("< E 22P02", "S E 22P02"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn a_sync_before_another_message_counts_if_the_copy_had_failed() {
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> d one | S | H | Q SELECT 1", "d one | f"),
        ("< E 22P02", "S E 22P02"),
        ("< Z I", "H | Q SELECT 1 Z I (I)"),
    ]);
    in_force(Mode::Sealed).script(&SIMPLE).script(&[
        ("> d one | S | Q SELECT 1", "d one | f"),
        ("< E 22P02 | Z I", "S E 22P02 | Z I (I)"),
        ("< Z I", "Q SELECT 1 Z I (I)"),
    ]);
    // The server still read rows, and would have ignored it.
    in_force(Mode::Sealed).script(&SIMPLE).script(&[
        ("> d one | S | H | Q SELECT 1", "d one | f"),
        ("< E 57014 | Z I", "Q SELECT 1 E 08P01 | Z I (I)"),
    ]);
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> d one | S | Q SELECT 1", "d one | f"),
        ("< E 57014", "E 08P01"),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn any_other_message_fails_the_copy_and_waits_for_that() {
    for frame in ["Q SELECT 1", "P - SELECT 1", "B - -", "E -", "D P -", "C P -", "F"] {
        for mode in [Mode::Sealed, Mode::Bare] {
            in_force(mode)
                .script(&SIMPLE)
                .script(&[(&format!("> d one | {frame}"), "d one | f"), ("> Q SELECT 2", "")]);
        }
    }
    in_force(Mode::Sealed).script(&SIMPLE).script(&[
        ("> d one | Q SELECT 2", "d one | f"),
        ("< E 57014", "E 08P01"),
        ("< Z I", "Q SELECT 2 Z I (I)"),
    ]);
}

#[test]
fn behind_a_failed_copy_the_server_skips_to_the_sync() {
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> d one | Q SELECT 2", "d one | f"),
        ("< E 57014", "E 08P01"),
        ("> P - SELECT 3 | B - - | E -", ""),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
        ("> Q SELECT 4", "Q SELECT 4"),
    ]);
}

#[test]
fn no_text_reaches_a_server_uninspected_behind_a_copy() {
    let attack = "Q SELECT set_config('app.tenant_id', 'b', false), 1";
    for begin in [SIMPLE, EXTENDED] {
        in_force(Mode::Sealed)
            .script(&begin)
            .script(&[(&format!("> d x | {attack} | P - {attack} | B - - | E - | S"), "d x | f")]);
    }
    in_force(Mode::Sealed).script(&SIMPLE).script(&[
        (&format!("> d x | {attack}"), "d x | f"),
        ("< E 22P02 | Z I", "E 22P02 | Z I | E 42501 | Z I (I)"),
    ]);
}

#[test]
fn an_error_of_the_server_ends_the_copy_in_the_middle_of_a_frame() {
    let mut frame = Vec::new();
    encode::copy_data(&mut frame, &[b'x'; 1000]);
    for (begin, answer) in [(SIMPLE, "E 23505 | Z I (I)"), (EXTENDED, "E 23505")] {
        let mut talk = in_force(Mode::Sealed);
        talk.script(&begin);
        let sent = talk.bytes_of_client(&frame[..105]);
        assert_eq!(sent, format!("d {}", "x".repeat(100)), "whole frames only");
        let ends = if begin == SIMPLE { "E 23505 | Z I" } else { "E 23505" };
        assert_eq!(talk.server(ends), answer);
        // The rest of the frame goes nowhere.
        assert_eq!(talk.bytes_of_client(&frame[105..900]), "");
        let mut rest = frame[900..].to_vec();
        if begin == SIMPLE {
            encode::query(&mut rest, b"SELECT 1");
            assert_eq!(talk.bytes_of_client(&rest), "Q SELECT 1");
        } else {
            encode::bare(&mut rest, b'S');
            assert_eq!(talk.bytes_of_client(&rest), "S");
        }
    }
}

#[test]
fn rows_in_any_pieces_are_whole_frames_to_the_server() {
    let mut frame = Vec::new();
    encode::copy_data(&mut frame, b"abcdef");
    let mut talk = in_force(Mode::Sealed);
    talk.script(&SIMPLE);
    assert_eq!(talk.bytes_of_client(&frame[..3]), "");
    assert_eq!(talk.bytes_of_client(&frame[3..7]), "d ab");
    assert_eq!(talk.bytes_of_client(&frame[7..8]), "d c");
    assert_eq!(talk.bytes_of_client(&frame[8..]), "d def");
}

#[test]
fn a_text_of_several_copies_takes_one_after_the_other() {
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t FROM STDIN; COPY u FROM STDIN", "Q COPY t FROM STDIN; COPY u FROM STDIN"),
        ("< G", "G"),
        ("> d one | c | d two | c", "d one | c"),
        ("< C COPY 1 | G", "d two | c C COPY 1 | G"),
        ("< C COPY 1 | Z I", "C COPY 1 | Z I (I)"),
    ]);
}

#[test]
fn copy_that_nothing_asked_for_closes_the_server() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | B - - | E - | S", "P - SELECT 1 | B - - | E - | S"),
        ("< 1 | 2 | G", "1 | 2 server lost: COPY that nothing asked for"),
    ]);
    in_force(Mode::Sealed).script(&[("< G", "server lost: COPY that nothing asked for")]);
}

#[test]
fn rows_too_late_for_a_copy_go_nowhere() {
    in_force(Mode::Sealed).script(&[
        ("> d x | d y | c | Q SELECT 1", "Q SELECT 1"),
        ("< C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
        ("> P - SELECT 1 | d x | c | S", "P - SELECT 1 | D S - | S"),
    ]);
}

#[test]
fn rows_to_the_client_pass_as_they_come() {
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t TO STDOUT", "Q COPY t TO STDOUT"),
        ("< H | d one | d two | c | C COPY 2 | Z I", "H | d one | d two | c | C COPY 2 | Z I (I)"),
    ]);
}

#[test]
fn a_copy_in_a_block_that_fails_leaves_the_block_failed() {
    in_force(Mode::Sealed).script(&[
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q COPY t FROM STDIN", "Q COPY t FROM STDIN"),
        ("< G", "G"),
        ("> d x", "d x"),
        ("< E 22P02 | Z E", "E 22P02 | Z E (E)"),
        ("> d y | c", ""),
        ("> Q ROLLBACK", "Q ROLLBACK"),
    ]);
}

#[test]
fn a_copy_without_rows_ends_as_any() {
    in_force(Mode::Sealed)
        .script(&SIMPLE)
        .script(&[("> c", "c"), ("< C COPY 0 | Z I", "C COPY 0 | Z I (I)")]);
    in_force(Mode::Sealed)
        .script(&EXTENDED)
        .script(&[("> c | S", "c | S"), ("< C COPY 0 | Z I", "C COPY 0 | Z I (I)")]);
}

#[test]
fn a_client_that_fails_its_copy_reads_the_error() {
    in_force(Mode::Sealed).script(&SIMPLE).script(&[
        ("> d one | f no", "d one | f"),
        ("< E 57014 | Z I", "E 57014 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> f no", "f"),
        ("< E 57014", "E 57014"),
        ("> P - SELECT 1", ""),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
    ]);
}

#[test]
fn an_error_that_crosses_the_end_of_the_rows_is_the_copys() {
    in_force(Mode::Sealed).script(&SIMPLE).script(&[
        ("> d bad | c", "d bad | c"),
        ("< E 22P02 | Z I", "E 22P02 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
    in_force(Mode::Sealed)
        .script(&EXTENDED)
        .script(&[("> d bad | c | S", "d bad | c | S"), ("< E 22P02 | Z I", "E 22P02 | Z I (I)")]);
}

#[test]
fn messages_behind_the_end_of_the_rows_go_on_as_usual() {
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> d one | c | P - SELECT 1 | B - - | E - | S", "d one | c | P - SELECT 1 | B - - | E - | S"),
        ("< C COPY 1 | 1 | 2 | D 1 | C SELECT 1 | Z I", "C COPY 1 | 1 | 2 | D 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn goodbye_and_unknown_messages_end_a_session_in_a_copy() {
    for begin in [SIMPLE, EXTENDED] {
        in_force(Mode::Sealed).script(&begin).script(&[("> d one | X", "d one goodbye")]);
        let mut talk = in_force(Mode::Sealed);
        talk.script(&begin);
        assert_eq!(talk.bytes_of_client(b"w\0\0\0\x04"), "ends: invalid frontend message type");
    }
}

#[test]
fn what_the_server_sends_by_itself_passes_in_a_copy() {
    in_force(Mode::Sealed)
        .script(&SIMPLE)
        .script(&[("< N 00000 | S TimeZone=UTC", "N 00000 | S TimeZone=UTC"), ("> d one", "d one")]);
}

#[test]
fn a_copy_in_a_block_leaves_the_block_open() {
    in_force(Mode::Sealed).script(&[
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q COPY t FROM STDIN", "Q COPY t FROM STDIN"),
        ("< G", "G"),
        ("> d x | c", "d x | c"),
        ("< C COPY 1 | Z T", "C COPY 1 | Z T (T)"),
    ]);
}

#[test]
fn a_copy_to_the_client_passes_in_the_extended_protocol() {
    in_force(Mode::Sealed).script(&[
        ("> P - COPY t TO STDOUT | B - - | E - | S", "P - COPY t TO STDOUT | B - - | E - | S"),
        ("< 1 | 2 | H | d one | c | C COPY 1 | Z I", "1 | 2 | H | d one | c | C COPY 1 | Z I (I)"),
    ]);
}

#[test]
fn an_error_in_the_middle_of_a_copy_to_the_client_ends_it() {
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t TO STDOUT", "Q COPY t TO STDOUT"),
        ("< H | d one | E 57014 | Z I", "H | d one | E 57014 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn rows_for_the_server_in_a_copy_to_the_client_wait_and_go_nowhere() {
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t TO STDOUT | d x | c", "Q COPY t TO STDOUT"),
        ("< H | d one | c | C COPY 1 | Z I", "H | d one | c | C COPY 1 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn a_plain_context_is_asserted_apart_from_a_copy() {
    in_force(Mode::Plain).script(&[
        ("> Q COPY t FROM STDIN", "apart | Q COPY t FROM STDIN"),
        ("< apart | G", "G"),
        ("> d x | c", "d x | c"),
        ("< C COPY 1 | Z I", "C COPY 1 | Z I (I)"),
    ]);
}

#[test]
fn statements_behind_a_copy_in_its_text_are_answered_behind_it() {
    in_force(Mode::Sealed).script(&[
        ("> Q COPY t FROM STDIN; SELECT 1", "Q COPY t FROM STDIN; SELECT 1"),
        ("< G", "G"),
        ("> d x | c", "d x | c"),
        ("< C COPY 1 | T a:23 | D 1 | C SELECT 1 | Z I", "C COPY 1 | T | D 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn a_second_copy_begins_while_the_first_ones_rows_have_ended() {
    in_force(Mode::Sealed).script(&EXTENDED).script(&[
        ("> c | P - COPY u FROM STDIN | B - - | E - | S", "c | P - COPY u FROM STDIN | B - - | E -"),
        ("< C COPY 0 | 1 | 2 | G", "C COPY 0 | 1 | 2 | G"),
        ("> d x | c | S", "d x | c | S"),
        ("< C COPY 1 | Z I", "C COPY 1 | Z I (I)"),
    ]);
}
