//! Statements and portals in a failed block, where nothing can be prepared again. PostgreSQL describes what has no columns
//! and refuses what has some (`exec_describe_statement_message` in `postgres.c`), whoever prepared it and wherever.

use super::{Mode, Talk, in_force};

const BEGIN: [(&str, &str); 2] = [("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")];
const FAIL: [(&str, &str); 2] =
    [("> Q SELECT 1/0", "Q SELECT 1/0"), ("< E 22012 | Z E", "E 22012 | Z E (E)")];
const FAIL_NAMED: [(&str, &str); 2] = [
    ("> P f SELECT nope | S", "P pgtenant_1 SELECT nope | D S pgtenant_1 | S"),
    ("< E 42703 | Z E", "E 42703 | Z E (E)"),
];
const REFUSED: &str = "P - refused by pgtenant";
const REFUSED_QUERY: &str = "Q refused by pgtenant";

/// A failed block of a client that has an unnamed statement, which its server does not have any more.
fn unnamed(text: &str, described: &str) -> Talk {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&BEGIN).script(&[
        (&format!("> P - {text} | S"), &format!("P - {text} | D S - | S")),
        (&format!("< 1 | {described} | Z T"), "1 | Z T (T)"),
    ]);
    talk.script(&FAIL_NAMED);
    talk.server.state.unnamed = None;
    talk
}

/// The same with a named one.
fn named(text: &str, described: &str) -> Talk {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&[
        (&format!("> P s {text} | S"), &format!("P pgtenant_0 {text} | D S pgtenant_0 | S")),
        (&format!("< 1 | {described} | Z I"), "1 | Z I (I)"),
    ]);
    talk.server.state.clear_prepared();
    talk.script(&BEGIN).script(&FAIL);
    talk
}

#[test]
fn a_block_that_opens_by_queries_closes_the_servers_unnamed_statement() {
    for mode in [Mode::Sealed, Mode::Plain] {
        let mut talk = in_force(mode);
        talk.script(&[("~ Q BEGIN", "C BEGIN | Z T")]);
        talk.client("P - SET x = 1 | S");
        talk.server(if mode == Mode::Plain { "apart | 1 | t | n | Z I" } else { "1 | t | n | Z I" });
        assert!(talk.server.state.unnamed.is_some());
        let opens = talk.client("D S - | Q SET ROLE x");
        assert!(opens.ends_with("Q BEGIN"), "{opens}");
        assert_eq!(talk.server.state.unnamed, None, "a Query closes it");
        let answers = if mode == Mode::Plain { "C SET | Z I | C BEGIN | Z T" } else { "C BEGIN | Z T" };
        assert_eq!(talk.server(answers), format!("P - SET x = 1 | D S - | {REFUSED_QUERY}"));
        talk.script(&[("< 1 | t | n | E 42601 | Z E", "t | n | E 42501 | Z E (E)")]);
    }
}

#[test]
fn what_has_no_columns_is_described_without_the_server() {
    for text in ["SET x = 1", "COPY t FROM STDIN", "INSERT INTO t VALUES ($1)", "MOVE c", "CALL p()"] {
        for (mut talk, name) in [(unnamed(text, "t 23 | n"), "-"), (named(text, "t 23 | n"), "s")] {
            talk.script(&[
                (&format!("> D S {name} | S"), "S"),
                ("< Z E", "t 23 | n | Z E (E)"),
                (&format!("> D S {name} | D S {name} | H"), "H t 23 | n | t 23 | n"),
                ("> Q SET ROLE x", REFUSED_QUERY),
                ("< E 42601 | Z E", "E 42501 | Z E (E)"),
            ]);
        }
    }
}

#[test]
fn an_answer_of_the_proxy_waits_for_those_in_front_of_it() {
    named("SET x = 1", "t | n").script(&[
        ("> C P p | D S s | D P q | D S s | S", "C P p | D P q | S"),
        ("< 3", "3"),
        ("< E 34000", "t | n | E 34000"),
        ("< Z E", "Z E (E)"),
    ]);
}

#[test]
fn what_was_never_described_is_known_by_its_kind() {
    for (text, sent) in [("COPY t FROM STDIN", true), ("DISCARD PLANS", true), ("CALL p()", false)] {
        let mut talk = in_force(Mode::Sealed);
        talk.script(&BEGIN).script(&[
            (&format!("> P - {text} | B - - | S"), &format!("P - {text} | B - - | S")),
            ("< 1 | 2 | Z T", "1 | 2 | Z T (T)"),
        ]);
        talk.script(&FAIL_NAMED);
        talk.server.state.unnamed = None;
        let (asked, answered) =
            if sent { ("H t | n".to_owned(), "") } else { (format!("{REFUSED} | H"), "E 25P02") };
        talk.script(&[("> D S - | H", &asked)]);
        if !sent {
            talk.script(&[("< E 42601", answered)]);
        }
    }
}

#[test]
fn what_has_columns_is_refused() {
    for (text, columns) in [
        ("SELECT 1", "T a:23"),
        ("SELECT", "T"),
        ("INSERT INTO t VALUES (1) RETURNING a", "T a:23"),
        ("CALL p()", "T a:23"),
    ] {
        let described = format!("t | {columns}");
        unnamed(text, &described).script(&[
            ("> D S - | Q SET ROLE x", &format!("{REFUSED} | {REFUSED_QUERY}")),
            ("< E 42601", "E 25P02"),
            ("> S", "S"),
            ("< Z E", "Z E (E)"),
        ]);
        named(text, &described)
            .script(&[("> D S s | S", &format!("{REFUSED} | S")), ("< E 42601 | Z E", "E 25P02 | Z E (E)")]);
    }
}

#[test]
fn what_ends_the_block_is_prepared_again() {
    for text in ["ROLLBACK", "COMMIT", "ROLLBACK TO a", "--"] {
        named(text, "t | n").script(&[
            ("> D S s | B - s | S", &format!("P pgtenant_0 {text} | D S pgtenant_0 | B - pgtenant_0 | S")),
            ("< 1 | t | n | 2 | Z E", "t | n | 2 | Z E (E)"),
        ]);
    }
}

#[test]
fn a_bind_in_a_failed_block_fails_behind_a_wrong_number_of_values() {
    for (mut talk, name) in [
        (unnamed("SET x = 1", "t | n"), "-"),
        (named("SET x = 1", "t | n"), "s"),
        (unnamed("SELECT 1", "t | T a:23"), "-"),
        (named("SELECT 1", "t | T a:23"), "s"),
    ] {
        talk.script(&[
            (&format!("> B - {name} | S"), &format!("{REFUSED} | S")),
            ("< E 42601 | Z E", "E 25P02 | Z E (E)"),
            (&format!("> B - {name} x | S"), &format!("{REFUSED} | S")),
            ("< E 42601 | Z E", "E 08P01 | Z E (E)"),
        ]);
    }
}

#[test]
fn a_statement_that_its_server_still_has_is_described_there() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SET x = 1 | S", "P - SET x = 1 | D S - | S"),
        ("< 1 | t | n | Z T", "1 | Z T (T)"),
        ("> P f SELECT nope | S", "P pgtenant_1 SELECT nope | D S pgtenant_1 | S"),
        ("< E 42703 | Z E", "E 42703 | Z E (E)"),
        ("> D S - | Q SET ROLE x", &format!("D S - | {REFUSED_QUERY}")),
        ("< t | n | E 42601 | Z E", "t | n | E 42501 | Z E (E)"),
    ]);
}

#[test]
fn a_parse_that_fails_in_the_block_leaves_the_unnamed_statement_of_a_client() {
    in_force(Mode::Sealed).script(&BEGIN).script(&[
        ("> P - SET x = 1 | S", "P - SET x = 1 | D S - | S"),
        ("< 1 | t | n | Z T", "1 | Z T (T)"),
        ("> P f SELECT nope | S", "P pgtenant_1 SELECT nope | D S pgtenant_1 | S"),
        ("< E 42703 | Z E", "E 42703 | Z E (E)"),
        // Sent without its name, so that it drops the server's unnamed statement.
        ("> P g SELECT 1 | S", "P - SELECT 1 | S"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> D S - | S", "S"),
        ("< Z E", "t | n | Z E (E)"),
    ]);
}

#[test]
fn behind_the_end_of_a_failed_block_a_pipeline_is_as_outside_of_it() {
    in_force(Mode::Sealed).script(&BEGIN).script(&FAIL).script(&[
        (
            "> P - ROLLBACK | B - - | E - | P s SELECT 1 | B - s | E - | S",
            "P - ROLLBACK | B - - | E - | P pgtenant_1 SELECT 1 | D S pgtenant_1 | B - pgtenant_1 | E - | S",
        ),
        (
            "< 1 | 2 | C ROLLBACK | 1 | t | T a:23 | 2 | D 1 | C SELECT 1 | Z I",
            "1 | 2 | C ROLLBACK | 1 | 2 | D 1 | C SELECT 1 | Z I (I)",
        ),
    ]);
    // What has to be prepared again is compared again.
    named("SELECT 1", "t | T a:23").script(&[
        (
            "> P - ROLLBACK | B - - | E - | D S s",
            "P - ROLLBACK | B - - | E - | P pgtenant_0 SELECT 1 | D S pgtenant_0 | H",
        ),
        (
            "< 1 | 2 | C ROLLBACK | 1 | t | T a:20",
            "C S pgtenant_0 | P - refused by pgtenant 1 | 2 | C ROLLBACK",
        ),
        ("< 3 | E 42601", "E 0A000"),
    ]);
}

const CHOICE: &[(&str, &str)] = &[("~ Q SET LOCAL app.tenant_id = 'b'", "C SET | Z T")];

/// A failed block of a gateway user that has made this choice in it.
fn failed_block_of_a_gateway(choice: &[(&str, &str)]) -> Talk {
    let mut talk = Talk::gateway(Mode::Plain);
    talk.script(&[("~ Q BEGIN", "C BEGIN | Z T")]).script(choice).script(&[
        ("~ Q SELECT 1/0", "Q front;BEGIN;SELECT 1/0"),
        ("< front | C BEGIN | E 22012 | Z E", "E 22012 | Z E (E)"),
    ]);
    talk
}

#[test]
fn behind_the_end_of_a_failed_block_the_rules_of_tenants_hold() {
    for (choice, sqlstate) in [(CHOICE, "0A000"), (&[], "28000")] {
        for end in ["ROLLBACK", "COMMIT"] {
            let sent = format!("P - {end} | B - - | E - | {REFUSED} | S");
            failed_block_of_a_gateway(choice).script(&[
                (&format!("> P - {end} | B - - | E - | P - SELECT * FROM t | S"), &sent),
                (
                    "< 1 | 2 | C ROLLBACK | E 42601 | Z I",
                    &format!("1 | 2 | C ROLLBACK | E {sqlstate} | Z I (I)"),
                ),
            ]);
        }
    }
}

#[test]
fn behind_the_end_of_a_failed_block_a_choice_is_carried_out() {
    let mut talk = failed_block_of_a_gateway(&[]);
    let sent = talk.client(
        "P - ROLLBACK | B - - | E - | P - SELECT set_config('app.tenant_id', 'b', true) | B - - | E - | S",
    );
    assert!(sent.contains("| P - SET LOCAL \"app\".\"tenant_id\" TO 'b' |"), "{sent}");
}
