//! What follows the end of a transaction in the same pipeline or text: it is another transaction, which is not taken back
//! with the one before.

use super::{Mode, Talk, in_force};

const BEGIN: [(&str, &str); 2] = [("> Q BEGIN", "Q BEGIN"), ("< C BEGIN | Z T", "C BEGIN | Z T (T)")];

const BEGIN_OF_NOBODY: [(&str, &str); 2] = [
    ("> Q BEGIN", "Q SET \"app\".\"tenant_id\" TO '';BEGIN"),
    ("< C SET | C BEGIN | Z T", "C BEGIN | Z T (T)"),
];

/// The settings whose values are asked for when the transaction is over.
fn asked(talk: &Talk) -> Vec<String> {
    talk.conversation.question().map(|question| question.settings).unwrap_or_default()
}

#[test]
fn a_setting_behind_a_rollback_of_its_pipeline_is_kept() {
    for block in [false, true] {
        let mut talk = in_force(Mode::Sealed);
        if block {
            talk.script(&BEGIN);
        }
        talk.client("P - ROLLBACK | B - - | E - | P - SET work_mem = '5MB' | B - - | E - | S");
        talk.script(&[(
            "< 1 | 2 | C ROLLBACK | 1 | 2 | C SET | Z I",
            "1 | 2 | C ROLLBACK | 1 | 2 | C SET | Z I (I)",
        )]);
        assert_eq!(asked(&talk), ["work_mem"], "in a block: {block}");
    }
}

#[test]
fn the_last_rollback_counts() {
    let mut talk = in_force(Mode::Sealed);
    talk.client("P - ROLLBACK | B - - | E - | P - SET work_mem = '5MB' | B - - | E - | P - ROLLBACK | B - - | E - | S");
    talk.server("1 | 2 | C ROLLBACK | 1 | 2 | C SET | 1 | 2 | C ROLLBACK | Z I");
    assert!(asked(&talk).is_empty());
}

#[test]
fn a_setting_in_front_of_a_rollback_is_not() {
    let mut talk = in_force(Mode::Sealed);
    talk.script(&BEGIN);
    talk.client("P - SET work_mem = '5MB' | B - - | E - | P - ROLLBACK | B - - | E - | S");
    talk.server("1 | 2 | C SET | 1 | 2 | C ROLLBACK | Z I");
    assert!(asked(&talk).is_empty());
}

#[test]
fn a_tenant_is_not_chosen_for_the_session_behind_an_end_in_one_pipeline() {
    for end in ["ROLLBACK", "COMMIT"] {
        let front = format!("P - {end} | B - - | E - ");
        let sent =
            format!("{front}| P - SET \"pgtenant\".\"choice\" TO '' | B - - | P - refused by pgtenant | S");
        let mut talk = Talk::gateway(Mode::Plain);
        super::enter(&mut talk);
        talk.script(&BEGIN_OF_NOBODY).script(&[
            (&format!("> {front}| P - SET app.tenant_id = 'b' | B - - | E - | S"), &sent),
            (
                &format!("< 1 | 2 | C {end} | 1 | 2 | E 42601 | Z I"),
                &format!("1 | 2 | C {end} | 1 | 2 | E 0A000 | Z I (I)"),
            ),
        ]);
        assert_eq!(talk.conversation.session_acting().tenant(), None);
    }
}

#[test]
fn a_tenant_is_not_chosen_for_the_session_behind_an_end_in_one_text() {
    for text in ["ROLLBACK; SET app.tenant_id = 'b'", "SET app.tenant_id = 'b'; ROLLBACK; SELECT 1"] {
        let mut talk = Talk::gateway(Mode::Plain);
        let message = super::encode_all(&format!("Q {text}"), super::Direction::Client, "");
        let refused = talk.conversation.choose_by_text(&message, b"").unwrap_err();
        assert_eq!(refused.sqlstate.0, "0A000", "{text}");
    }
    for text in
        ["SET app.tenant_id = 'b'; SELECT 1", "BEGIN; SET LOCAL app.tenant_id = 'b'; SELECT 1; COMMIT"]
    {
        let mut talk = Talk::gateway(Mode::Plain);
        let message = super::encode_all(&format!("Q {text}"), super::Direction::Client, "");
        assert!(talk.conversation.choose_by_text(&message, b"").is_ok(), "{text}");
    }
}
