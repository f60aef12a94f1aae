//! DEALLOCATE and DISCARD ALL: what they drop, where, and what stays.

use super::{Mode, Talk, in_force};

#[test]
fn a_deallocate_of_a_protocol_statement_happens_when_it_is_executed() {
    in_force(Mode::Sealed).script(&[
        ("> P s1 SELECT 1 | S", "P pgtenant_0 SELECT 1 | D S pgtenant_0 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        (
            "> P x DEALLOCATE s1 | B p1 x | P - SELECT 42 | B p2 - | E p1 | E p2 | S",
            "P pgtenant_1 RESET \"pgtenant\".\"choice\" | D S pgtenant_1 | B p1 pgtenant_1 | P - SELECT 42 | B p2 - | E p1 | E p2 | S",
        ),
        (
            "< 1 | t | n | 2 | 1 | 2 | C RESET | D 42 | C SELECT 1 | Z I",
            "1 | 2 | 1 | 2 | C DEALLOCATE | D 42 | C SELECT 1 | Z I (I)",
        ),
        ("> Q DEALLOCATE x", "Q RESET \"pgtenant\".\"choice\""),
        ("< C RESET | Z I", "C DEALLOCATE | Z I (I)"),
        ("> B - s1 | S", "P - refused by pgtenant | S"),
    ]);
}

#[test]
fn discard_all_is_stood_for_and_told_when_it_is_executed() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        ("> P - DISCARD ALL | B p - | S", "P - DISCARD TEMP | B p - | S"),
        ("< 1 | 2 | S TimeZone=Asia/Tokyo | Z I", "1 | 2 | S TimeZone=Asia/Tokyo | Z I (I)"),
        ("> P - DISCARD ALL | B - - | E - | S", "P - DISCARD TEMP | B - - | E - | C P - | S"),
        ("< 1 | 2 | C DISCARD TEMP | 3 | Z I", "1 | 2 | C DISCARD ALL | S TimeZone=UTC | Z I (I)"),
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
    ]);
}

/// A client that has prepared `s1` and, if it has another, `s2`.
fn with_statements(names: &[&str]) -> Talk {
    let mut talk = in_force(Mode::Sealed);
    for (number, name) in names.iter().enumerate() {
        let known = format!("pgtenant_{number}");
        talk.script(&[
            (&format!("> P {name} SELECT 1 | S"), &format!("P {known} SELECT 1 | D S {known} | S")),
            ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ]);
    }
    talk
}

#[test]
fn a_deallocate_among_other_statements_drops_what_the_protocol_prepared() {
    with_statements(&["s1"]).script(&[
        (
            "> Q COMMIT; DEALLOCATE s1; SELECT 2",
            "Q COMMIT; PREPARE \"s1\" AS SELECT 1;DEALLOCATE s1; SELECT 2",
        ),
        (
            "< C COMMIT | C PREPARE | C DEALLOCATE | T a:23 | D 2 | C SELECT 1 | Z I",
            "C COMMIT | C DEALLOCATE | T | D 2 | C SELECT 1 | Z I (I)",
        ),
        ("> Q DEALLOCATE s1; COMMIT", "Q DEALLOCATE s1; COMMIT"),
        ("< E 26000 | Z I", "E 26000 | Z I (I)"),
        ("> B - s1 | S", "P - refused by pgtenant | S"),
    ]);
    // Only the first of a name; and none behind DEALLOCATE ALL.
    with_statements(&["s1", "s2"]).script(&[
        (
            "> Q DEALLOCATE s1; DEALLOCATE PREPARE s1; DEALLOCATE ALL; DEALLOCATE s2",
            "Q PREPARE \"s1\" AS SELECT 1;DEALLOCATE s1; DEALLOCATE PREPARE s1; DEALLOCATE ALL; DEALLOCATE s2",
        ),
        ("< C PREPARE | C DEALLOCATE | E 26000 | Z I", "C DEALLOCATE | E 26000 | Z I (I)"),
        ("> B - s2 | S", "B - pgtenant_1 | S"),
    ]);
}

#[test]
fn a_deallocate_that_does_not_complete_drops_nothing() {
    with_statements(&["s1"]).script(&[
        ("> Q SELECT 1/0; DEALLOCATE s1", "Q SELECT 1/0; PREPARE \"s1\" AS SELECT 1;DEALLOCATE s1"),
        ("< E 22012 | Z I", "E 22012 | Z I (I)"),
        ("> B - s1 | S", "B - pgtenant_0 | S"),
        ("< 2 | Z I", "2 | Z I (I)"),
        (
            "> P - SELECT nope | Q SELECT 1; DEALLOCATE s1 | S",
            "P - SELECT nope | Q SELECT 1; PREPARE \"s1\" AS SELECT 1;DEALLOCATE s1",
        ),
        ("< E 42703", "S E 42703"),
        ("< Z I", "Z I (I)"),
        (
            "> P - DEALLOCATE s1 | B - - | P - SELECT nope | E - | S",
            "P - RESET \"pgtenant\".\"choice\" | B - - | P - SELECT nope | E - | D S - | S",
        ),
        ("< 1 | 2 | E 42703 | Z I", "1 | 2 | E 42703 | Z I (I)"),
        ("> B - s1 | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn a_name_put_into_a_text_is_quoted_and_moves_positions() {
    let name = "\u{e4}\"";
    let front = "PREPARE \"\u{e4}\"\"\" AS SELECT 1;";
    let text = "DEALLOCATE \"\u{e4}\"\"\"; SELECT nope";
    let mut talk = with_statements(&[name]);
    talk.script(&[(&format!("> Q {text}"), &format!("Q {front}{text}"))]);
    let sent = front.chars().count() + text.find("nope").unwrap();
    let own = text.chars().take_while(|c| *c != 'n').count() + 1;
    assert_eq!(sent, front.chars().count() + own, "a byte more than characters");
    assert_eq!(
        talk.server(&format!("C PREPARE | C DEALLOCATE | E 42703@{sent} | Z I")),
        format!("C DEALLOCATE | E 42703@{own} | Z I (I)")
    );
}

#[test]
fn both_sides_of_the_length_of_a_name_in_sql() {
    let (short, long) = ("a".repeat(63), "b".repeat(64));
    with_statements(&[&short, &long]).script(&[
        (&format!("> Q DEALLOCATE {long}"), &format!("Q DEALLOCATE {long}")),
        ("< E 26000 | Z I", "E 26000 | Z I (I)"),
        (&format!("> Q DEALLOCATE {short}"), "Q RESET \"pgtenant\".\"choice\""),
    ]);
}

#[test]
fn a_deallocate_drops_what_has_the_name_when_it_runs() {
    // Its own name, and one that is prepared after it.
    in_force(Mode::Sealed).script(&[
        (
            "> P s1 DEALLOCATE s1 | B - s1 | E - | S",
            "P pgtenant_0 RESET \"pgtenant\".\"choice\" | D S pgtenant_0 | B - pgtenant_0 | E - | S",
        ),
        ("< 1 | t | n | 2 | C RESET | Z I", "1 | 2 | C DEALLOCATE | Z I (I)"),
        ("> B - s1 | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
        ("> P d DEALLOCATE s2 | S", "P pgtenant_1 DEALLOCATE s2 | D S pgtenant_1 | S"),
        ("< 1 | t | n | Z I", "1 | Z I (I)"),
        ("> P s2 SELECT 1 | S", "P pgtenant_2 SELECT 1 | D S pgtenant_2 | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        (
            "> B - d | E - | S",
            "C S pgtenant_0 | P pgtenant_3 RESET \"pgtenant\".\"choice\" | B - pgtenant_3 | E - | S",
        ),
        ("< 3 | 1 | 2 | C RESET | Z I", "2 | C DEALLOCATE | Z I (I)"),
        ("> B - s2 | S", "P - refused by pgtenant | S"),
    ]);
    // One that is prepared between Bind and Execute.
    in_force(Mode::Sealed).script(&[
        (
            "> P - DEALLOCATE s1 | B d - | P s1 SELECT 1 | E d | E d | S",
            "P - DEALLOCATE s1 | B d - | P pgtenant_1 SELECT 1 | D S pgtenant_1 \
             | P pgtenant_2 RESET \"pgtenant\".\"choice\" | C P d | B d pgtenant_2 | E d | E d | S",
        ),
        (
            "< 1 | 2 | 1 | t | T a:23 | 1 | 3 | 2 | C RESET | E 55000 | Z I",
            "1 | 2 | 1 | C DEALLOCATE | E 55000 | Z I (I)",
        ),
        ("> B - s1 | S", "hand-over | P - refused by pgtenant | S"),
    ]);
    // One that is gone by then.
    with_statements(&["s1"]).script(&[
        (
            "> P - DEALLOCATE s1 | B p - | C S s1 | E p | S",
            "P - RESET \"pgtenant\".\"choice\" | B p - | P - refused by pgtenant | S",
        ),
        ("< 1 | 2 | E 42601 | Z I", "1 | 2 | 3 | E 26000 | Z I (I)"),
    ]);
}

#[test]
fn discard_all_is_stood_for_everywhere() {
    for mode in [Mode::Sealed, Mode::Bare] {
        in_force(mode).script(&[
            ("> P - DISCARD ALL | B - - | E - | S", "P - DISCARD TEMP | B - - | E - | C P - | S"),
            ("< 1 | 2 | C DISCARD TEMP | 3 | Z I", "1 | 2 | C DISCARD ALL | Z I (I)"),
        ]);
        in_force(mode).script(&[
            ("> Q ; DISCARD ALL", "Q DISCARD TEMP"),
            ("< C DISCARD TEMP | Z I", "C DISCARD ALL | Z I (I)"),
        ]);
    }
}

#[test]
fn discard_all_is_refused_inside_a_transaction() {
    let begin = [("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")];
    in_force(Mode::Sealed).script(&begin).script(&[
        ("> P - DISCARD ALL | B - - | E - | S", "P - DISCARD TEMP | B - - | P - refused by pgtenant | S"),
        ("< 1 | 2 | E 42601 | Z E", "1 | 2 | E 25001 | Z E (E)"),
        ("> Q DISCARD ALL", "Q DISCARD ALL"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
    ]);
    in_force(Mode::Sealed).script(&begin).script(&[("> Q DISCARD ALL", "Q refused by pgtenant")]);
    in_force(Mode::Sealed).script(&[(
        "> P - SELECT 1 | B - - | E - | Q DISCARD ALL",
        "P - SELECT 1 | B - - | E - | Q refused by pgtenant",
    )]);
}

#[test]
fn where_a_discard_all_stands_is_told_by_the_statements_before_it() {
    let run = |text: &str| format!("P - {text} | B - - | E -");
    for (status, before, expected) in [
        ("I", "BEGIN ISOLATION LEVEL SERIALIZABLE", Some("run inside a transaction block")),
        ("I", "SELECT 1", Some("be executed within a pipeline")),
        ("I", "COMMIT", None),
        ("T", "SELECT 1", Some("run inside a transaction block")),
        ("T", "COMMIT", None),
        ("T", "ROLLBACK", None),
        ("T", "COMMIT AND CHAIN", Some("run inside a transaction block")),
    ] {
        let mut talk = in_force(Mode::Sealed);
        if status == "T" {
            talk.client("Q BEGIN");
            talk.server("C BEGIN | Z T");
        }
        talk.client(&run(before));
        let found = talk.conversation.lacks_own_transaction().map(|report| report.message);
        assert_eq!(found, expected.map(|why| format!("DISCARD ALL cannot {why}")), "{status} {before}");
    }
}

#[test]
fn discard_all_closes_the_portals_of_its_segment() {
    in_force(Mode::Sealed).script(&[
        (
            "> P - SELECT 1 | B p - | B - - | P - DISCARD ALL | B d - | E d",
            "P - SELECT 1 | B p - | B - - | P - DISCARD TEMP | B d - | E d | C P - | C P d | C P p",
        ),
        ("< 1 | 2 | 2 | 1 | 2 | C DISCARD TEMP | 3 | 3 | 3", "1 | 2 | 2 | 1 | 2 | C DISCARD ALL"),
        ("> E p | S", "E p | S"),
        ("< E 34000 | Z I", "E 34000 | Z I (I)"),
    ]);
}

#[test]
fn the_unnamed_statement_outlives_deallocate_all_and_discard_all() {
    in_force(Mode::Sealed).script(&[
        (
            "> P s DEALLOCATE ALL | P - SELECT 7 | S",
            "P pgtenant_0 DEALLOCATE ALL | D S pgtenant_0 | P - SELECT 7 | D S - | S",
        ),
        ("< 1 | t | n | 1 | t | T a:23 | Z I", "1 | 1 | Z I (I)"),
        ("> B p s | E p | B - - | E - | S", "B p pgtenant_0 | E p | B - - | E - | S"),
        (
            "< 2 | C DEALLOCATE ALL | 2 | D 7 | C SELECT 1 | Z I",
            "2 | C DEALLOCATE ALL | 2 | D 7 | C SELECT 1 | Z I (I)",
        ),
        ("> B - s | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
        ("> P - DISCARD ALL | B - - | E - | S", "P - DISCARD TEMP | B - - | E - | C P - | S"),
        ("< 1 | 2 | C DISCARD TEMP | 3 | Z I", "1 | 2 | C DISCARD ALL | Z I (I)"),
        ("> B - - | S", "hand-over | P - DISCARD TEMP | B - - | S"),
    ]);
}

#[test]
fn what_is_prepared_behind_a_deallocate_all_stays() {
    with_statements(&["s1"]).script(&[
        (
            "> P - DEALLOCATE ALL | B - - | E - | P s2 SELECT 2 | P - DEALLOCATE s1 | B d - | E d | S",
            "P - DEALLOCATE ALL | B - - | E - | P pgtenant_2 SELECT 2 | D S pgtenant_2 | P - DEALLOCATE s1 | B d - | E d | S",
        ),
        (
            "< 1 | 2 | C DEALLOCATE ALL | 1 | t | T a:23 | 1 | 2 | E 26000 | Z I",
            "1 | 2 | C DEALLOCATE ALL | 1 | 1 | 2 | E 26000 | Z I (I)",
        ),
        ("> B - s2 | S", "B - pgtenant_2 | S"),
        ("< 2 | Z I", "2 | Z I (I)"),
        ("> B - s1 | S", "P - refused by pgtenant | S"),
    ]);
    // One that was skipped deallocates nothing.
    with_statements(&["s1"]).script(&[
        (
            "> P - DEALLOCATE ALL | B d - | P - SELECT nope | E d | S",
            "P - DEALLOCATE ALL | B d - | P - SELECT nope | E d | D S - | S",
        ),
        ("< 1 | 2 | E 42703 | Z I", "1 | 2 | E 42703 | Z I (I)"),
        ("> B - s1 | S", "B - pgtenant_0 | S"),
    ]);
    with_statements(&["s1"]).script(&[
        (
            "> P - DISCARD ALL | B d - | P - SELECT nope | E d | S",
            "P - DISCARD TEMP | B d - | P - SELECT nope | E d | C P d | D S - | S",
        ),
        ("< 1 | 2 | E 42703 | Z I", "1 | 2 | E 42703 | Z I (I)"),
        ("> B - s1 | S", "B - pgtenant_0 | S"),
    ]);
}

#[test]
fn a_portal_that_has_run_to_its_end_is_the_servers_to_refuse() {
    for text in ["DEALLOCATE s1", "DEALLOCATE ALL"] {
        let mut talk = with_statements(&["s1"]);
        talk.client(&format!("P - {text} | B - - | E -"));
        talk.server("1 | 2 | C OK");
        assert_eq!(talk.client("E - | S"), "E - | S", "{text}");
        assert_eq!(talk.server("E 55000 | Z I"), "E 55000 | Z I (I)");
    }
}

#[test]
fn a_refused_query_between_transactions_closes_the_unnamed_statement() {
    in_force(Mode::Sealed).script(&[
        ("> P - SELECT 7 | S", "P - SELECT 7 | D S - | S"),
        ("< 1 | t | T a:23 | Z I", "1 | Z I (I)"),
        ("> Q SET ROLE x", "E 42501 | Z I (I)"),
        ("> B - - | S", "P - refused by pgtenant | S"),
        ("< E 42601 | Z I", "E 26000 | Z I (I)"),
    ]);
}

#[test]
fn parameters_that_discard_all_changes_are_reported_before_ready() {
    in_force(Mode::Sealed).script(&[
        ("> Q SET timezone = 'Asia/Tokyo'", "Q SET timezone = 'Asia/Tokyo'"),
        ("< C SET | S TimeZone=Asia/Tokyo | Z I", "C SET | S TimeZone=Asia/Tokyo | Z I (I)"),
        ("> P - DISCARD ALL | B - - | E - | E p | S", "P - DISCARD TEMP | B - - | E - | C P - | E p | S"),
        ("< 1 | 2 | C DISCARD TEMP | 3 | E 34000", "1 | 2 | C DISCARD ALL | E 34000"),
        ("< Z I", "S TimeZone=UTC | Z I (I)"),
    ]);
}
