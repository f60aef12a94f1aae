//! Names of the client: what Close, Query, the end of a transaction and DEALLOCATE do to statements and portals.

use super::{Mode, Talk, in_force};

const BEGIN: [(&str, &str); 2] = [("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")];
const PREPARE: [(&str, &str); 2] = [
    ("> P s SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
    ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
];
const UNKNOWN: [(&str, &str); 2] =
    [("> B - s | S", "P - refused by pgtenant | S"), ("< E 42601 | Z I", "E 26000 | Z I (I)")];

#[test]
fn a_statement_outlives_transactions_and_queries() {
    in_force(Mode::Sealed).script(&PREPARE).script(&BEGIN).script(&[
        ("> Q ROLLBACK", "Q ROLLBACK"),
        ("< C ROLLBACK | Z I", "C ROLLBACK | Z I (I)"),
        ("> B - s | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn a_closed_statement_is_unknown_at_once() {
    in_force(Mode::Sealed)
        .script(&PREPARE)
        .script(&[("> C S s | S", "S"), ("< Z I", "3 | Z I (I)")])
        .script(&UNKNOWN);
}

#[test]
fn closing_what_is_not_there_is_no_error() {
    in_force(Mode::Sealed).script(&[
        ("> C S nosuch | C S - | C P nosuch | C P - | S", "C P nosuch | C P - | S"),
        ("< 3 | 3 | Z I", "3 | 3 | 3 | 3 | Z I (I)"),
    ]);
}

#[test]
fn a_close_is_answered_in_its_turn() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | C S x | B - - | C S y | E - | S", "P - SELECT 1 | B - - | E - | S"),
        ("< 1 | 2 | D 1 | C SELECT 1 | Z I", "1 | 3 | 2 | 3 | D 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn a_closed_name_can_be_prepared_again_in_the_same_segment() {
    in_force(Mode::Sealed).script(&PREPARE).script(&[
        ("> C S s | P s SELECT 2 | B - s | S", "P pgtenant_1 SELECT 2 | D S pgtenant_1 | B - pgtenant_1 | S"),
        ("< 1 | t | T a:23 | 2 | Z I", "3 | 1 | 2 | Z I (I)"),
    ]);
}

#[test]
fn a_query_drops_the_unnamed_statement() {
    for text in ["SELECT 2", "BEGIN", ""] {
        let mut talk = in_force(Mode::Sealed);
        talk.script(&[
            ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
            ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ]);
        talk.client(&format!("Q {text}"));
        talk.server("C SELECT 1 | Z I");
        assert_eq!(talk.client("B - - | S"), "P - refused by pgtenant | S", "{text}");
    }
}

#[test]
fn the_unnamed_statement_outlives_its_segment_and_is_replaced_by_the_next() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> B - - | S", "B - - | S"),
        ("< 2 | Z I", "2 | Z I (I)"),
        ("> P - SELECT 2 | B - - | E - | S", "P - SELECT 2 | B - - | E - | S"),
        ("< 1 | 2 | C SELECT 1 | Z I", "1 | 2 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn closing_the_unnamed_statement_drops_it() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | C S - | B - - | S", "P - SELECT 1 | P - refused by pgtenant | S"),
        ("< 1 | E 42601 | Z I", "1 | 3 | E 26000 | Z I (I)"),
    ]);
}

#[test]
fn portals_end_with_their_transaction() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 1 | B - - | S", "P - SELECT 1 | B - - | S"),
        ("< 1 | 2 | Z I", "1 | 2 | Z I (I)"),
        ("> E - | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 34000 | Z I (I)"),
    ]);
}

#[test]
fn portals_outlive_segments_of_their_block() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SELECT 1 | B - - | B p - | S", "P - SELECT 1 | B - - | B p - | S"),
        ("< 1 | 2 | 2 | Z T", "1 | 2 | 2 | Z T (T)"),
        ("> E - | E p | S", "E - | E p | S"),
        ("< C SELECT 1 | C SELECT 1 | Z T", "C SELECT 1 | C SELECT 1 | Z T (T)"),
    ]);
}

#[test]
fn a_query_in_a_block_closes_the_unnamed_portal_and_no_other() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SELECT 1 | B - - | B p - | S", "P - SELECT 1 | B - - | B p - | S"),
        ("< 1 | 2 | 2 | Z T", "1 | 2 | 2 | Z T (T)"),
        ("> Q SELECT 2", "Q SELECT 2"),
        ("< C SELECT 1 | Z T", "C SELECT 1 | Z T (T)"),
        ("> E p | E - | S", "E p | P - refused by pgtenant | S"),
        ("< C SELECT 1 | E 42601 | Z E", "C SELECT 1 | E 34000 | Z E (E)"),
    ]);
}

#[test]
fn a_named_portal_that_the_proxy_does_not_know_may_be_a_cursor() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> D P c | E c | C P c | S", "D P c | E c | C P c | S"),
        ("< T a:23 | D 1 | C FETCH 1 | 3 | Z T", "T | D 1 | C FETCH 1 | 3 | Z T (T)"),
        ("> E nosuch | S", "E nosuch | S"),
        ("< E 34000 | Z E", "E 34000 | Z E (E)"),
    ]);
}

#[test]
fn a_second_portal_of_a_name_is_refused_by_the_server_and_the_first_stays() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SELECT 1 | B p - | S", "P - SELECT 1 | B p - | S"),
        ("< 1 | 2 | Z T", "1 | 2 | Z T (T)"),
        ("> B p - | E p | S", "B p - | H"),
        ("< E 42P03", "S E 42P03"),
        ("< Z E", "Z E (E)"),
    ]);
}

#[test]
fn a_portals_name_is_free_once_its_transaction_ended_in_the_pipeline() {
    for end in ["COMMIT", "ROLLBACK"] {
        let mut talk = in_force(Mode::Sealed);
        talk.client(&format!("P - SELECT 1 | B q - | P - {end} | B - - | E -"));
        talk.script(&[
            ("> P - COPY t FROM STDIN | B q - | E q | Q SELECT 1", "P - COPY t FROM STDIN | B q - | H"),
            (&format!("< 1 | 2 | 1 | 2 | C {end} | 1 | 2"), &format!("E q 1 | 2 | 1 | 2 | C {end} | 1 | 2")),
            // The COPY is known as one.
            ("< G", "f G"),
        ]);
    }
}

#[test]
fn a_suspended_portal_goes_on() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SELECT 1 | B p - | E p | H", "P - SELECT 1 | B p - | E p | H"),
        ("< 1 | 2 | D 1 | s", "1 | 2 | D 1 | s"),
        ("> E p | E p | S", "E p | E p | S"),
        ("< D 2 | s | D 3 | C SELECT 1 | Z T", "D 2 | s | D 3 | C SELECT 1 | Z T (T)"),
    ]);
}

#[test]
fn an_empty_statement_is_answered_as_empty_in_both_protocols() {
    in_force(Mode::Sealed).script(&[
        ("> P - | B - - | D P - | E - | S", "P - - | B - - | D P - | E - | S"),
        ("< 1 | 2 | n | I | Z I", "1 | 2 | n | I | Z I (I)"),
        ("> Q ;;", "Q ;;"),
        ("< I | Z I", "I | Z I (I)"),
    ]);
}

#[test]
fn deallocate_all_forgets_every_name() {
    in_force(Mode::Sealed)
        .script(&PREPARE)
        .script(&[
            ("> Q DEALLOCATE ALL", "Q DEALLOCATE ALL"),
            ("< C DEALLOCATE ALL | Z I", "C DEALLOCATE ALL | Z I (I)"),
        ])
        .script(&UNKNOWN);
}

#[test]
fn a_deallocate_all_that_failed_forgets_nothing() {
    in_force(Mode::Sealed).script(&PREPARE).script(&[
        ("> Q SELECT 1/0; DEALLOCATE ALL", "Q SELECT 1/0; DEALLOCATE ALL"),
        ("< E 22012 | Z I", "E 22012 | Z I (I)"),
        ("> B - s | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn a_deallocate_of_a_name_of_sql_goes_on_as_it_is() {
    in_force(Mode::Sealed).script(&PREPARE).script(&[
        ("> Q DEALLOCATE other", "Q DEALLOCATE other"),
        ("< E 26000 | Z I", "E 26000 | Z I (I)"),
        ("> B - s | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn discard_all_of_a_maintenance_user_forgets_every_name() {
    let mut talk = Talk::new(Mode::Bare);
    talk.script(&PREPARE)
        .script(&[
            ("> Q DISCARD ALL", "Q DISCARD TEMP"),
            ("< C DISCARD TEMP | Z I", "C DISCARD ALL | Z I (I)"),
        ])
        .script(&UNKNOWN);
}

#[test]
fn a_statement_on_another_server_is_prepared_there_first() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&PREPARE);
    talk.server.state.clear_prepared();
    talk.script(&[
        ("> D S s | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | H"),
        ("< 1 | t | T a:23", "D S pgtenant_0 | S"),
        ("< t | T a:23 | Z I", "t | T | Z I (I)"),
    ]);
}

#[test]
fn a_portals_limit_is_named() {
    use crate::relay::core::portals::MAX_NAMED;
    let mut talk = in_force(Mode::Sealed);
    talk.script(&BEGIN);
    talk.script(&[
        ("> P - SELECT 1 | S", "P - SELECT 1 | D S - | S"),
        ("< 1 | t | T a:23 | Z T", "1 | Z T (T)"),
    ]);
    for number in 0..MAX_NAMED {
        assert_eq!(talk.client(&format!("B p{number} - | S")), format!("B p{number} - | S"));
        assert_eq!(talk.server("2 | Z T"), "2 | Z T (T)");
    }
    talk.script(&[
        ("> B one-more - | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z E", "E 53400 | Z E (E)"),
    ]);
}

#[test]
fn both_sides_of_the_bytes_that_a_clients_statements_may_take() {
    let talk = |length: usize| {
        let mut talk = in_force(Mode::Sealed);
        talk.client(&format!("P s SELECT '{}' | S", "x".repeat(length)))
    };
    let fits = (0..1_000).rev().find(|length| talk(*length).starts_with("P pgtenant_0")).unwrap();
    assert!((700..1_000).contains(&fits), "{fits}");
    assert_eq!(talk(fits + 1), "P - refused by pgtenant | S");
}
