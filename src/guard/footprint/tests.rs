//! What texts touch, by the way that they are written.

use super::*;
use crate::guard::JudgedSetting;

fn settings(text: &str) -> Vec<String> {
    let found = footprint(text.as_bytes());
    let shown = |touch: &Touch| {
        let name = match &touch.name {
            Name::Is(name) => name.clone(),
            Name::Parameter(number) => format!("${number}"),
            Name::All => "*".to_owned(),
        };
        if touch.verb == Verb::Reset { format!("-{name}") } else { name }
    };
    found.settings.iter().map(shown).collect()
}

fn states(text: &str) -> Vec<&'static str> {
    footprint(text.as_bytes()).states.iter().map(State::label).collect()
}

#[test]
fn settings_are_found_in_every_form_and_local_ones_are_not() {
    for (text, expected) in [
        ("SET work_mem = '1MB'", &["work_mem"][..]),
        ("set /* x */ session Work_Mem TO 1", &["work_mem"]),
        ("SET app.Color TO 'red'", &["app.color"]),
        ("SET \"App\".\"Color\" TO 'red'", &["app.color"]),
        ("SET session.x = 1", &["session.x"]),
        ("SET local.x = 1", &["local.x"]),
        ("SET LOCAL work_mem = 1", &[]),
        (
            "SET TIME ZONE 'UTC'; SET NAMES 'UTF8'; SET SCHEMA 'x'",
            &["timezone", "client_encoding", "search_path"],
        ),
        ("SET SESSION TIME ZONE LOCAL", &["timezone"]),
        ("SET XML OPTION DOCUMENT", &["xmloption"]),
        ("SET time = 1", &["time"]),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            &[
                "default_transaction_isolation",
                "default_transaction_read_only",
                "default_transaction_deferrable",
            ],
        ),
        ("SET TRANSACTION READ ONLY; SET CONSTRAINTS ALL DEFERRED; SET SEED TO 0.1", &[]),
        ("RESET work_mem; RESET ALL", &["-work_mem", "-*"]),
        ("RESET TIME ZONE", &["-timezone"]),
        ("SET ROLE x; SET SESSION ROLE x; SET role = 'x'", &["role", "role", "role"]),
        ("SET LOCAL ROLE x", &[]),
        ("RESET ROLE; SET ROLE NONE; SET role TO DEFAULT", &["-role", "-role", "-role"]),
        ("SET SESSION AUTHORIZATION DEFAULT; RESET SESSION AUTHORIZATION", &["-role", "-role"]),
        ("SELECT set_config('role', 'x', false), set_config('role', 'y', true)", &["role"]),
        ("SELECT set_config('a.b', 'x', false)", &["a.b"]),
        ("SELECT pg_catalog.set_config('A'::text, f(1, 2), $1)", &["a"]),
        ("SELECT \"set_config\"($2, $1, false)", &["$2"]),
        ("SELECT set_config('a.b', f(1, true), TRUE)", &[]),
        ("SELECT set_config('a.b', (ARRAY['x', true])[1], true)", &[]),
        ("SELECT set_config('a.b', set_config('c.d', 'x', false), true)", &["c.d"]),
        ("SELECT set_config('a.b', set_config('c.d', 'x', true), false)", &["a.b"]),
        ("SELECT set_config('a.b', 'x'); SET c.d = 1", &["a.b", "c.d"]),
        ("SELECT set_config('a.b', 'x'", &["a.b"]),
        ("SELECT set_config, f('a', 'b', false)", &[]),
        ("SELECT 1; SELECT 'SET x = 1' /* SET y = 1 */", &[]),
        ("UPDATE t SET work_mem = 1", &[]),
    ] {
        assert_eq!(settings(text), expected, "{text}");
    }
}

#[test]
fn state_of_one_server_is_found_by_the_statement_that_makes_it() {
    for (text, expected) in [
        ("CREATE TEMP TABLE x (a int)", &["temporary"][..]),
        ("create or replace local temporary view x as select 1", &["temporary"]),
        ("CREATE TABLE pg_temp.x (a int)", &["temporary"]),
        ("SELECT 1 AS a INTO TEMP x", &["temporary"]),
        ("SELECT 1 AS a INTO LOCAL TEMPORARY x", &["temporary"]),
        ("CREATE TABLE weather (city text, temp int)", &[]),
        ("SELECT temp FROM weather", &[]),
        ("SELECT * FROM pg_temp.x", &[]),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", &["held-cursor"]),
        ("DECLARE c CURSOR WITHOUT HOLD FOR WITH x AS (SELECT 1) SELECT * FROM x", &[]),
        ("DECLARE c CURSOR FOR SELECT 1 AS hold", &[]),
        ("SELECT 1; SELECT pg_try_advisory_lock(1)", &["advisory-lock"]),
        ("SELECT pg_advisory_xact_lock(1), pg_advisory_unlock(1)", &[]),
        ("LISTEN x", &["listen"]),
        ("LOAD 'auto_explain'", &["library"]),
        ("PREPARE x AS SELECT 1", &["prepared"]),
        ("PREPARE TRANSACTION 'x'", &[]),
        ("SET ROLE x", &[]),
        ("SET SESSION AUTHORIZATION x", &["role"]),
        ("SET SESSION SESSION AUTHORIZATION x", &["role"]),
        ("SET ROLE NONE; RESET ROLE; SET SESSION AUTHORIZATION DEFAULT; RESET SESSION AUTHORIZATION", &[]),
        ("SELECT set_config(name, value, false) FROM t", &["setting"]),
        ("SELECT set_config('a' || 'b', 'c', false)", &["setting"]),
        ("SELECT set_config($1 || 'b', 'c', false)", &["setting"]),
        ("SELECT 'LISTEN x'", &[]),
        ("SELECT set_config()", &["setting"]),
    ] {
        assert_eq!(states(text), expected, "{text}");
    }
}

#[test]
fn more_settings_or_calls_than_are_told_apart_are_of_unknown_name() {
    let sets = |count: usize| footprint("SET a.b = 1;".repeat(count).as_bytes());
    assert_eq!((sets(MAX_TOUCHES).settings.len(), sets(MAX_TOUCHES).states.is_empty()), (MAX_TOUCHES, true));
    assert_eq!(sets(MAX_TOUCHES + 1).settings.len(), MAX_TOUCHES);
    assert!(sets(MAX_TOUCHES + 1).states.has(State::Setting));
    for (depth, is_known) in [(32, true), (33, false)] {
        let (opening, closing) = ("set_config('a.b', ".repeat(depth), ", false)".repeat(depth));
        let found = footprint(format!("SELECT {opening}'x'{closing}").as_bytes());
        assert_eq!((found.settings.len(), found.states.is_empty()), (32, is_known), "{depth}");
    }
}

#[test]
fn parameters_whose_values_are_judged_are_found_and_counted() {
    use JudgedSetting::{Role, SearchPath};
    for (text, expected) in [
        (
            "SELECT set_config('search_path', $1, true), set_config('role', $2, true)",
            &[(SearchPath, 1), (Role, 2)][..],
        ),
        ("SELECT \"set_config\"('ROLE', $1::text, $2), set_config('role', $1, true)", &[(Role, 1)]),
        ("SELECT set_config('role', 'x', true), set_config('a.b', $1, true)", &[]),
        ("SELECT set_config('role', $1 || 'x', true)", &[]),
    ] {
        let expected: Vec<BoundValue> =
            expected.iter().map(|&(setting, number)| BoundValue { setting, number }).collect();
        assert_eq!(footprint(text.as_bytes()).bound, expected, "{text}");
    }
}
