//! How many statements, of which kind, leaving what behind.

use super::Count::{Many, One, Unreadable};
use super::SessionEffect::Maybe;
use super::StatementKind as Kind;
use super::*;

fn check(text: &str, statements: Count, first: StatementKind, session_effect: SessionEffect) {
    let found = survey(text.as_bytes());
    assert_eq!(
        (found.statements, found.first, found.session_effect),
        (statements, first, session_effect),
        "{text}"
    );
}

#[test]
fn statements_are_counted_as_postgresql_counts_them() {
    let select = |text, count| check(text, count, Kind::Select, SessionEffect::None);
    for text in ["", "  ", ";", " ; -- x\n ;/* ; */"] {
        check(text, Count::None, Kind::Nothing, SessionEffect::None);
    }
    select("SELECT 1", One);
    select(";; SELECT 1 ;;", One);
    select("SELECT ';', \";\", $$;$$, $a$;$a$ -- ;\n /* ; */", One);
    select("SELECT E'\\';'", One);
    select("SELECT 1; SELECT 2", Many);
    select("((SELECT 1) UNION SELECT 2)", One);
    check("CREATE RULE r AS ON UPDATE TO v DO (SELECT 1; SELECT 2)", One, Kind::Create, Maybe);
    check("SELECT 'a", Unreadable, Kind::Select, Maybe);
    check("SELECT (1", Unreadable, Kind::Select, Maybe);
    check("SELECT 1)", Unreadable, Kind::Select, Maybe);
    let body = "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END";
    check(body, Unreadable, Kind::Create, Maybe);
    check("CREATE PROCEDURE p(begin atomic) AS 'x'", One, Kind::Create, Maybe);
}

#[test]
fn a_statement_is_known_by_its_first_words() {
    let free = |text, kind| check(text, One, kind, SessionEffect::None);
    let kept = |text, kind| check(text, One, kind, Maybe);
    free("/* x */ begin read only", Kind::Begin);
    free("START TRANSACTION", Kind::Begin);
    kept("START x", Kind::Other);
    free("COMMIT", Kind::Commit);
    free("END WORK", Kind::Commit);
    free("COMMIT AND NO CHAIN", Kind::Commit);
    free("COMMIT WORK AND CHAIN", Kind::CommitAndChain);
    free("END AND CHAIN;", Kind::CommitAndChain);
    kept("COMMIT PREPARED 'x'", Kind::CommitPrepared);
    free("ABORT", Kind::Rollback);
    free("ROLLBACK TO x", Kind::RollbackTo);
    free("ROLLBACK WORK TO SAVEPOINT x", Kind::RollbackTo);
    free("ROLLBACK TRANSACTION AND CHAIN", Kind::RollbackAndChain);
    kept("ROLLBACK PREPARED 'x'", Kind::RollbackPrepared);
    kept("PREPARE TRANSACTION 'x'", Kind::PrepareTransaction);
    kept("PREPARE p AS SELECT 1", Kind::Prepare);
    kept("DISCARD ALL", Kind::DiscardAll);
    kept("DISCARD TEMP", Kind::Discard);
    kept("RESET ALL", Kind::ResetAll);
    kept("RESET x", Kind::Reset);
    kept("DEALLOCATE PREPARE ALL", Kind::DeallocateAll);
    kept("DEALLOCATE ALL", Kind::DeallocateAll);
    kept("DEALLOCATE p", Kind::Deallocate);
    kept("LISTEN x", Kind::Listen);
    kept("VACUUM", Kind::Other);
    kept("\"select\" 1", Kind::Other);
}

#[test]
fn a_copy_is_known_by_its_other_end() {
    let copy = |text, kind| check(text, One, kind, SessionEffect::None);
    copy("COPY t FROM STDIN", Kind::CopyFromStdin);
    copy("copy s.t (a, b) from/**/stdin with (format csv)", Kind::CopyFromStdin);
    copy("COPY t FROM STDOUT", Kind::CopyFromStdin);
    copy("COPY t TO STDOUT", Kind::CopyToStdout);
    copy("COPY (SELECT a FROM stdin) TO STDOUT", Kind::CopyToStdout);
    copy("COPY t FROM '/x'", Kind::Copy);
    copy("COPY t FROM PROGRAM 'x' WHERE a IS DISTINCT FROM stdin", Kind::Copy);
    copy("COPY t FROM 'x' WHERE a IS DISTINCT FROM stdin", Kind::Copy);
}

#[test]
fn a_statement_that_may_leave_something_behind_says_so() {
    for text in [
        "SELECT set_config('a', 'b', true)",
        "SELECT \"set_config\"('a', 'b', true)",
        "SELECT pg_advisory_lock(1)",
        "SELECT PG_TRY_ADVISORY_LOCK_SHARED(1)",
        "SELECT setseed(0)",
        "SELECT 1 INTO TEMP t",
        "SELECT 1 INTO TEMPORARY t",
        "SELECT 1 INTO pg_temp.t",
        "SELECT U&\"x\"()",
    ] {
        check(text, One, Kind::Select, Maybe);
    }
    check("SELECT 1; SET a = 1", Many, Kind::Select, Maybe);
    for text in ["SELECT pg_advisory_xact_lock(1)", "SELECT set_config_count, template", "SELECT 'setseed'"] {
        check(text, One, Kind::Select, SessionEffect::None);
    }
}
