//! Simple queries, hand-overs and what resets settings.

use super::{Kind, Mode, Talk, enter, in_force};

const SET: &str = "SET \"app\".\"tenant_id\" TO 'a'";

#[test]
fn a_sealed_context_in_force_needs_nothing_in_front_of_a_transaction() {
    in_force(Mode::Sealed).script(&[
        ("> Q SELECT 1", "Q SELECT 1"),
        ("< T a:23 | D 1 | C SELECT 1 | Z I", "T | D 1 | C SELECT 1 | Z I (I)"),
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q SELECT 2", "Q SELECT 2"),
        ("< T a:23 | D 1 | C SELECT 1 | Z T", "T | D 1 | C SELECT 1 | Z T (T)"),
        ("> Q COMMIT", "Q COMMIT"),
        ("< C COMMIT | Z I", "C COMMIT | Z I (I)"),
    ]);
}

#[test]
fn a_maintenance_user_has_no_context() {
    in_force(Mode::Bare).script(&[
        ("> Q SELECT 1", "Q SELECT 1"),
        ("< C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
        ("> F", "F"),
        ("< V | Z I", "V | Z I (I)"),
    ]);
}

#[test]
fn a_plain_context_is_asserted_in_front_of_each_transaction() {
    let sent = format!("Q {SET};SELECT 1");
    in_force(Mode::Plain).script(&[
        ("> Q SELECT 1", &sent),
        ("< C SET | T a:23 | D 1 | C SELECT 1 | Z I", "T | D 1 | C SELECT 1 | Z I (I)"),
        ("> Q BEGIN", &format!("Q {SET};BEGIN")),
        ("< C SET | C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q SELECT 2", "Q SELECT 2"),
        ("< C SELECT 1 | Z T", "C SELECT 1 | Z T (T)"),
    ]);
}

#[test]
fn statements_that_may_not_share_a_text_are_asserted_apart() {
    for text in ["SELECT 1; SELECT 2", "EXPLAIN SELECT 1", "SAVEPOINT a", "FETCH 1 FROM c"] {
        let mut talk = in_force(Mode::Plain);
        let sent = talk.client(&format!("Q {text}"));
        if sent.contains("Z I") {
            continue;
        }
        assert_eq!(sent, format!("apart | Q {text}"), "{text}");
        assert_eq!(talk.server("apart | E 42601 | Z I"), "E 42601 | Z I (I)", "{text}");
    }
}

#[test]
fn what_reads_no_row_is_not_asserted() {
    for (text, tag) in
        [("SET x.y = 1", "SET"), ("COMMIT", "COMMIT"), ("ROLLBACK", "ROLLBACK"), ("UNLISTEN *", "UNLISTEN")]
    {
        in_force(Mode::Plain).script(&[
            (&format!("> Q {text}"), &format!("Q {text}")),
            (&format!("< C {tag} | Z I"), &format!("C {tag} | Z I (I)")),
        ]);
    }
}

#[test]
fn a_server_of_another_tenant_is_handed_over_before_the_first_message() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
        ("< hand-over", ""),
        ("< T a:23 | D 1 | C SELECT 1 | Z I", "T | D 1 | C SELECT 1 | Z I (I)"),
    ]);
    Talk::new(Mode::Plain).script(&[
        ("> Q INSERT INTO t VALUES (1); SELECT 1", "plain-hand-over | Q INSERT INTO t VALUES (1); SELECT 1"),
        ("< plain-hand-over", ""),
        ("< C INSERT 0 1 | T a:23 | D 1 | C SELECT 1 | Z I", "C INSERT 0 1 | T | D 1 | C SELECT 1 | Z I (I)"),
    ]);
}

#[test]
fn an_entry_that_fails_skips_the_clients_query() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q INSERT INTO t VALUES (1)", "hand-over | Q INSERT INTO t VALUES (1)"),
        ("< C BEGIN | E 42501", "server lost: context 42501: text"),
    ]);
}

#[test]
fn a_row_without_the_nonce_is_the_answer_to_something_else() {
    for answers in ["C BEGIN | D forged", "C BEGIN | C SELECT 0 | Z T"] {
        let mut talk = Talk::new(Mode::Plain);
        talk.client("Q SELECT 1; SELECT 2");
        assert_eq!(talk.server(answers), "server lost: shifted", "{answers}");
    }
    for answers in ["D forged | C SELECT 1", "C SELECT 0"] {
        let mut talk = Talk::new(Mode::Sealed);
        talk.client("Q SELECT 1");
        assert_eq!(
            talk.server(&format!("sealed-reset | 1 | 2 | {answers}")),
            "server lost: shifted",
            "{answers}"
        );
    }
}

#[test]
fn a_copy_begins_behind_a_hand_over_like_any_statement() {
    Talk::new(Mode::Sealed).script(&[
        ("> Q SELECT 1; COPY t FROM STDIN", "hand-over | Q SELECT 1; COPY t FROM STDIN"),
        ("< hand-over | C SELECT 1 | G", "C SELECT 1 | G"),
        ("> d x | c", "d x | c"),
        ("< C COPY 1 | Z I", "C COPY 1 | Z I (I)"),
    ]);
}

#[test]
fn refusals_need_no_server_outside_a_transaction() {
    in_force(Mode::Sealed).script(&[
        ("> Q SET ROLE x", "E 42501 | Z I (I)"),
        ("> Q SELECT set_config('app.tenant_id', 'b', false), 1", "E 42501 | Z I (I)"),
        ("> F", "E 42501 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn a_refused_statement_in_a_block_leaves_it_failed() {
    in_force(Mode::Sealed).script(&[
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q SET ROLE x", "Q refused by pgtenant"),
        ("< E 42601 | Z E", "E 42501 | Z E (E)"),
        ("> Q SELECT 1", "Q SELECT 1"),
        ("< E 25P02 | Z E", "E 25P02 | Z E (E)"),
        ("> Q ROLLBACK", "Q ROLLBACK"),
        ("< C ROLLBACK | Z I", "C ROLLBACK | Z I (I)"),
    ]);
}

#[test]
fn positions_in_errors_are_those_of_the_clients_text() {
    let prefix = SET.len() + 1;
    let mut talk = in_force(Mode::Plain);
    talk.client("Q SELECT x");
    assert_eq!(talk.server(&format!("E 42703@{} | Z I", prefix + 8)), "E 42703@8 | Z I (I)");
}

#[test]
fn reset_all_returns_to_what_the_client_asked_for_and_keeps_the_tenant() {
    let mut talk = Talk::with(Mode::Sealed, &[("timezone", "UTC")], Kind::Bound);
    enter(&mut talk);
    let values = "SET timezone TO 'UTC'";
    talk.script(&[
        ("> Q RESET ALL", &format!("Q RESET ALL;{SET};{values}")),
        ("< C RESET | C SET | C SET | Z I", "C RESET | Z I (I)"),
        ("> Q CLOSE ALL; RESET ALL ; SELECT 1", &format!("Q CLOSE ALL; RESET ALL;{SET};{values} ; SELECT 1")),
        (
            "< C CLOSE CURSOR ALL | C RESET | C SET | C SET | T a:23 | D 1 | C SELECT 1 | Z I",
            "C CLOSE CURSOR ALL | C RESET | T | D 1 | C SELECT 1 | Z I (I)",
        ),
    ]);
}

#[test]
fn one_reset_returns_to_the_clients_startup_value() {
    for (mode, text, tag) in [
        (Mode::Sealed, "RESET timezone", "RESET"),
        (Mode::Bare, "SET TIME ZONE DEFAULT", "SET"),
        (Mode::Bare, "SET timezone TO DEFAULT", "SET"),
        (Mode::Sealed, "SET TIME ZONE LOCAL", "SET"),
    ] {
        let mut talk = Talk::with(mode, &[("timezone", "UTC")], Kind::Bound);
        enter(&mut talk);
        talk.script(&[
            (&format!("> Q {text}"), &format!("Q {text};SET timezone TO 'UTC'")),
            (&format!("< C {tag} | C SET | Z I"), &format!("C {tag} | Z I (I)")),
        ]);
    }
    let mut talk = Talk::with(Mode::Sealed, &[("timezone", "UTC")], Kind::Bound);
    enter(&mut talk);
    talk.script(&[("> Q RESET work_mem", "Q RESET work_mem")]);
    // What SET would read otherwise, a list, is set by a function.
    let startup = [("search_path", "a, b"), ("timezone", "UTC")];
    let mut talk = Talk::with(Mode::Bare, &startup, Kind::Bound);
    enter(&mut talk);
    talk.script(&[
        (
            "> Q RESET ALL; SELECT 1",
            "Q RESET ALL;SET timezone TO 'UTC';SELECT pg_catalog.set_config('search_path','a, b',false) IS NULL; SELECT 1",
        ),
        (
            "< C RESET | C SET | T a:25 | D x | C SELECT 1 | T a:23 | D 1 | C SELECT 1 | Z I",
            "C RESET | T | D 1 | C SELECT 1 | Z I (I)",
        ),
    ]);
}

#[test]
fn discard_sequences_costs_the_context_and_precedes_no_read() {
    in_force(Mode::Sealed).script(&[
        ("> Q DISCARD SEQUENCES", "Q DISCARD SEQUENCES"),
        ("< C DISCARD SEQUENCES | Z I", "C DISCARD SEQUENCES | Z I (I)"),
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
    ]);
    in_force(Mode::Sealed)
        .script(&[("> Q DISCARD SEQUENCES;DISCARD TEMP", "Q DISCARD SEQUENCES;DISCARD TEMP")]);
    in_force(Mode::Sealed).script(&[("> Q DISCARD SEQUENCES; SELECT 1", "E 0A000 | Z I (I)")]);
    in_force(Mode::Sealed).script(&[
        ("> Q BEGIN", "Q BEGIN"),
        ("< C BEGIN | Z T", "C BEGIN | Z T (T)"),
        ("> Q DISCARD SEQUENCES", "Q refused by pgtenant"),
        ("< E 42601 | Z E", "E 0A000 | Z E (E)"),
    ]);
}

#[test]
fn a_register_that_refuses_is_entered_anew() {
    for code in ["28000", "55000"] {
        in_force(Mode::Sealed).script(&[
            ("> Q SELECT 1", "Q SELECT 1"),
            (&format!("< E {code} | Z I"), &format!("E {code} | Z I (I)")),
            ("> Q SELECT 1", "hand-over | Q SELECT 1"),
        ]);
    }
}

#[test]
fn a_gateway_without_a_tenant_reads_nothing() {
    let mut talk = Talk::gateway(Mode::Sealed);
    enter(&mut talk);
    talk.script(&[
        ("> Q SELECT a FROM t", "E 28000 | Z I (I)"),
        ("> P - SELECT a FROM t | S", "apart | P - refused by pgtenant | S"),
        ("< apart | E 42601 | Z I", "E 28000 | Z I (I)"),
    ]);
}

#[test]
fn a_choice_in_a_block_enters_the_tenant_in_front_of_what_stands_for_it() {
    let mut talk = Talk::gateway(Mode::Plain);
    enter(&mut talk);
    talk.script(&[
        ("> Q BEGIN", "Q SET \"app\".\"tenant_id\" TO '';BEGIN"),
        ("< C SET | C BEGIN | Z T", "C BEGIN | Z T (T)"),
        (
            "> Q SET LOCAL app.tenant_id = 'b'",
            "P - SET LOCAL \"app\".\"tenant_id\" TO 'b' | B pgtenant - | E pgtenant | C P pgtenant | P - SET LOCAL \"pgtenant\".\"choice\" TO '' | B - - | D P - | E - | S",
        ),
        ("< own | 1 | 2 | n | C SET | Z T", "C SET | Z T (T)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
}

#[test]
fn an_empty_message_between_transactions_needs_an_answer_only() {
    in_force(Mode::Sealed).script(&[
        ("> Q ", "Q -"),
        ("< I | Z I", "I | Z I (I)"),
        ("> S", "S"),
        ("< Z I", "Z I (I)"),
        ("> d x | c | f", ""),
        ("> X", "goodbye"),
    ]);
}

#[test]
fn a_server_of_another_tenant_or_with_other_parameters_is_handed_over() {
    let changes: [fn(&mut Talk); 2] = [
        |talk| talk.server.state.stamp.as_mut().unwrap().tenant = None,
        |talk| talk.server.state.stamp.as_mut().unwrap().parameters += 1,
    ];
    for change in changes {
        let mut talk = in_force(Mode::Sealed);
        change(&mut talk);
        talk.script(&[("> Q SELECT 1", "hand-over | Q SELECT 1")]);
    }
}

#[test]
fn parameters_that_the_proxys_own_statements_change_are_not_the_clients() {
    let mut talk = Talk::new(Mode::Sealed);
    talk.script(&[
        ("> Q SELECT 1", "hand-over | Q SELECT 1"),
        ("< S TimeZone=Asia/Tokyo | hand-over | C SELECT 1 | Z I", "C SELECT 1 | Z I (I)"),
    ]);
    assert_eq!(talk.conversation.parameters.get("timezone"), None);
}

#[test]
fn a_query_behind_a_pipeline_leaves_no_implicit_block_on_postgresql_18() {
    let nothing = "RESET \"pgtenant\".\"choice\"";
    let version = |talk: &mut Talk, version: &str| {
        talk.server.state.parameters.insert("server_version".to_owned(), version.to_owned());
    };
    let mut talk = in_force(Mode::Sealed);
    version(&mut talk, "18.4 (Debian)");
    talk.script(&[
        (
            "> P - SELECT 1 | B - - | E - | Q SHOW x.y -- why",
            &format!("P - SELECT 1 | B - - | E - | Q SHOW x.y;{nothing} -- why"),
        ),
        (
            "< 1 | 2 | D 1 | C SELECT 1 | T a:25 | D x | C SHOW | C RESET | Z I",
            "1 | 2 | D 1 | C SELECT 1 | T | D x | C SHOW | Z I (I)",
        ),
        ("> P - SELECT 1 | Q SELECT 1; SELECT 2", "P - SELECT 1 | Q SELECT 1; SELECT 2"),
        ("< 1 | C SELECT 1 | C SELECT 1 | Z I", "1 | C SELECT 1 | C SELECT 1 | Z I (I)"),
        ("> Q SELECT 1", "Q SELECT 1"),
    ]);
    let mut talk = in_force(Mode::Sealed);
    version(&mut talk, "17.9");
    talk.script(&[("> P - SELECT 1 | Q SELECT 1", "P - SELECT 1 | Q SELECT 1")]);
}
