//! The guard against a corpus of attacks and of innocent statements, and under property tests.

use super::*;
use crate::sql::Count;
use proptest::prelude::*;

mod cost;

mod stop;

fn rules() -> Rules {
    Rules::new("app.Tenant_ID", GuardLevel::Context, &[])
}

/// The rule that refuses a text, or `pass`. A change of the tenant does not pass: it is for the proxy to decide.
fn judge(text: &[u8]) -> &'static str {
    match inspect(text, &rules()) {
        Verdict::Pass(_) => "pass",
        Verdict::Tenant(_, change) => rules().refuse_change(&change).rule,
        Verdict::Refuse(refusal) => {
            assert!(
                refusal.detail.starts_with(&format!("rule \"{}\": ", refusal.rule)),
                "{}",
                refusal.detail
            );
            refusal.rule
        }
    }
}

#[track_caller]
fn check(rule: &str, texts: &[&str]) {
    for text in texts {
        assert_eq!(judge(text.as_bytes()), rule, "{text}");
    }
}

#[test]
fn the_tenant_setting_cannot_be_set_in_any_spelling() {
    check(
        "context-change",
        &[
            "SET app.tenant_id = 'b'",
            "set App.Tenant_Id to b",
            "SET SESSION app.tenant_id = 'b'",
            "SET LOCAL app.tenant_id = 'b'",
            "SET/**/app/* x */./**/tenant_id='b'",
            "SET -- x\n app -- y\r . tenant_id = 'b'",
            "SET \"app\".\"tenant_id\" = 'b'",
            "SET \"APP\".tenant_id = 'b'",
            "SET \"app.tenant_id\" = 'b'",
            "SET \"App.Tenant_Id\" TO DEFAULT",
            "SET\u{b}app.tenant_id = 'b'",
            "SET app.tenant_id FROM CURRENT",
            "RESET app.tenant_id",
            "reset \"app\" . tenant_id",
            "SET pgtenant.proof = 'x'",
            "SET LOCAL PgTenant.anything = 'x'",
            "SET \"pgtenant.tag\" = 'x'",
            "RESET pgtenant.x",
            "SELECT 1; SET app.tenant_id = 'b'",
            "; ;SET app.tenant_id = 'b'; SELECT 1",
            "SELECT '--'; SET app.tenant_id = 'b'",
            "SELECT '/*'; SET app.tenant_id = 'b' -- */",
            "SELECT $$;$$; SET app.tenant_id = 'b'",
            "SELECT $a$ $b$ $a$; SET app.tenant_id = 'b' -- $b$",
            "SELECT 'a\\'; SET app.tenant_id = 'b' --'",
            "SELECT E'\\\\'; SET app.tenant_id = 'b' --'",
            "SELECT 'a'\n'b'; SET app.tenant_id = 'b'",
            "SELECT a$$; SET app.tenant_id = 'b' --$$",
            "/* /* */ */ SET app.tenant_id = 'b'",
            "SELECT 1 */**/2; SET app.tenant_id = 'b'",
            "BEGIN; SET LOCAL app.tenant_id = 'b'; SELECT * FROM t; COMMIT",
            "SELECT \"a\"\"\"; SET app.tenant_id = 'b' --\"",
            "SELECT 1)); SET app.tenant_id = 'b'",
            "SELECT (1; SET app.tenant_id = 'b')",
        ],
    );
}

#[test]
fn the_role_cannot_be_changed() {
    check(
        "role-change",
        &[
            "SET ROLE b",
            "SET/**/ROLE/**/b",
            "SET LOCAL ROLE b",
            "SET SESSION ROLE b",
            "SET role = 'b'",
            "SET \"role\" TO b",
            "SET \"ROLE\" TO b",
            "SET LOCAL role TO 'b'",
            "SET SESSION AUTHORIZATION b",
            "SET SESSION AUTHORIZATION \"default\"",
            "SET SESSION AUTHORIZATION none",
            "SET ROLE 'none'",
            "SET ROLE nonesuch",
            "SET ROLE = b",
            "SET SESSION AUTHORIZATION DEFAULT; SET ROLE b",
            "SET LOCAL SESSION AUTHORIZATION b",
            "SET SESSION SESSION AUTHORIZATION b",
            "SET session_authorization = 'b'",
            "SET LOCAL session_authorization TO b",
            "UPDATE t SET role = 'x'; SET ROLE b",
            "SELECT set_config('role', 'b', false)",
            "SELECT set_config('Session_Authorization', 'b', false)",
        ],
    );
}

#[test]
fn the_role_of_the_login_can_be_returned_to() {
    check(
        "pass",
        &[
            "SET SESSION AUTHORIZATION DEFAULT",
            "set/**/session authorization default;RESET ALL",
            "SET LOCAL SESSION AUTHORIZATION DEFAULT",
            "SET session_authorization TO DEFAULT",
            "SET ROLE NONE",
            "SET SESSION role = none",
            "SET role TO DEFAULT",
            "RESET ROLE",
            "RESET SESSION AUTHORIZATION",
        ],
    );
}

#[test]
fn statements_cannot_be_made_to_outlive_their_clients() {
    check(
        "connection-check",
        &[
            "SET client_connection_check_interval = 0",
            "SET LOCAL \"Client_Connection_Check_Interval\" TO '1d'",
            "RESET client_connection_check_interval",
            "SELECT set_config('client_connection_check_interval', '0', false)",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET client_connection_check_interval = 0 AS 'SELECT 1'",
        ],
    );
    check("pass", &["SHOW client_connection_check_interval", "RESET ALL"]);
}

#[test]
fn a_set_clause_is_a_set() {
    check(
        "context-change",
        &[
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.tenant_id = 'b' AS 'SELECT 1'",
            "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql SET \"app.tenant_id\" TO b AS $$SELECT 1$$",
            "ALTER FUNCTION f() SET app.tenant_id TO 'b'",
            "ALTER ROUTINE f() RESET app.tenant_id",
            "ALTER ROLE app SET app.tenant_id = 'b'",
            "ALTER USER app IN DATABASE d SET app.tenant_id = 'b'",
            "ALTER ROLE ALL RESET app.tenant_id",
            "ALTER DATABASE d SET app.tenant_id = 'b'",
            "ALTER SYSTEM SET app.tenant_id = 'b'",
            "CREATE FUNCTION f() RETURNS int SET app.tenant_id = 'b' BEGIN ATOMIC SELECT 1; END",
        ],
    );
    check(
        "role-change",
        &[
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET role = b AS 'SELECT 1'",
            "ALTER ROLE app SET role = 'b'",
            "ALTER ROLE role SET ROLE b",
        ],
    );
}

#[test]
fn set_config_needs_a_plain_name_that_is_not_protected() {
    check(
        "context-change",
        &[
            "SELECT set_config('app.tenant_id', 'b', false)",
            "SELECT SET_CONFIG('APP.TENANT_ID', $1, true)",
            "SELECT pg_catalog.set_config('app.tenant_id', 'b', false)",
            "SELECT \"pg_catalog\" . \"set_config\" ('app.tenant_id', 'b', false)",
            "SELECT set_config/**/(/**/'app.tenant_id'/**/,'b',false)",
            "SELECT set_config('app.'\n'tenant_id', 'b', false)",
            "SELECT set_config(E'app.tenant_id', 'b', false)",
            "SELECT * FROM set_config('app.tenant_id', 'b', false)",
            "EXPLAIN ANALYZE SELECT set_config('app.tenant_id', 'b', false)",
            "PREPARE p AS SELECT set_config('app.tenant_id', $1, false)",
            "UPDATE t SET a = set_config('app.tenant_id', 'b', false)",
            "WITH x AS (SELECT set_config('app.tenant_id', 'b', false)) SELECT * FROM x",
            "COPY (SELECT set_config('app.tenant_id', 'b', false)) TO STDOUT",
            "CREATE VIEW v AS SELECT set_config('app.tenant_id', 'b', false)",
            "SELECT set_config('pgtenant.proof', 'b', false)",
            "CREATE FUNCTION f() RETURNS text RETURN set_config('app.tenant_id', 'b', false)",
        ],
    );
    check(
        "opaque-name",
        &[
            "SELECT set_config($1, 'b', false)",
            "SELECT set_config('app.' || 'tenant_id', 'b', false)",
            "SELECT set_config('app.tenant' '_id', 'b', false)",
            "SELECT set_config(('app.tenant_id'), 'b', false)",
            "SELECT set_config(E'app.tenant\\137id', 'b', false)",
            "SELECT set_config(U&'app.tenant\\005fid', 'b', false)",
            "SELECT set_config(N'app.tenant_id', 'b', false)",
            "SELECT set_config($$app.tenant_id$$, 'b', false)",
            "SELECT set_config(setting_name => 'app.tenant_id', new_value => 'b', is_local => false)",
            "SELECT set_config(VARIADIC ARRAY['app.tenant_id'])",
            "SELECT set_config('timezone'::text, 'b', false)",
            "SELECT set_config(name, 'b', false) FROM (VALUES ('app.tenant_id')) v (name)",
            "SELECT set_config",
            "SELECT set_config(",
            "UPDATE pg_settings SET setting = 'b' WHERE name = 'role'",
            "UPDATE ONLY pg_catalog.\"pg_settings\" SET setting = 'b'",
            "CREATE TEMP VIEW v AS SELECT * FROM pg_settings",
            "CREATE OR REPLACE VIEW v AS (WITH x AS (SELECT 1) TABLE pg_catalog.\"pg_settings\")",
        ],
    );
}

#[test]
fn an_identifier_cannot_hide_its_name() {
    check(
        "unicode-escape",
        &[
            "SELECT U&\"set\\005fconfig\"('app.tenant_id', 'b', false)",
            "SET u&\"app\".tenant_id = 'b'",
            "SET app.U&\"tenant!005fid\" UESCAPE '!' = 'b'",
            "SELECT u&\"x\"",
        ],
    );
}

#[test]
fn the_reading_of_the_text_cannot_be_changed() {
    check(
        "client-encoding",
        &[
            "SET client_encoding = 'SJIS'",
            "SET client_encoding TO big5",
            "SET Client_Encoding TO 'Gbk'",
            "SET \"client_encoding\" = GB18030",
            "SET LOCAL client_encoding = 'JOHAB'",
            "SET NAMES 'UHC'",
            "SET NAMES 'SHIFT_JIS_2004'",
            "SET SESSION NAMES 's j-i s'",
            "SET client_encoding = U&'UTF8'",
            "SELECT set_config('client_encoding', 'SJIS', false)",
            "SELECT set_config('client_encoding', $1, false)",
            "SELECT set_config('client_encoding', 'UTF8' || '', false)",
            "ALTER ROLE app SET client_encoding = 'SJIS'",
        ],
    );
    check(
        "string-syntax",
        &[
            "SET standard_conforming_strings = off",
            "SET standard_conforming_strings TO 'false'",
            "SET LOCAL Standard_Conforming_Strings TO 0",
            "SELECT set_config('standard_conforming_strings', 'off', false)",
            "SELECT set_config('standard_conforming_strings', NULL, false)",
            "ALTER DATABASE d SET standard_conforming_strings = off",
        ],
    );
}

#[test]
fn code_in_literals_is_read_one_level_deep() {
    check(
        "context-change",
        &[
            "DO $$ BEGIN PERFORM set_config('app.tenant_id', 'b', false); END $$",
            "DO 'BEGIN PERFORM set_config(''app.tenant_id'', ''b'', false); END'",
            "DO E'BEGIN PERFORM set_config(\\'app.tenant_id\\', \\'b\\', false); END'",
            "DO LANGUAGE plpgsql $x$ BEGIN SET app.tenant_id = 'b'; END $x$",
            "DO $$ BEGIN IF true THEN SET LOCAL app.tenant_id = 'b'; END IF; END $$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SET app.tenant_id = ''b'''",
            "CREATE OR REPLACE FUNCTION f() RETURNS void AS $$ SELECT 1; SET app.tenant_id = 'b' $$ LANGUAGE sql",
            "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ <<x>> BEGIN NULL; RESET app.tenant_id; END $$",
        ],
    );
    check("role-change", &["DO $$ BEGIN SET ROLE b; END $$"]);
    check("opaque-name", &["DO $$ BEGIN PERFORM set_config(x, 'b', false); END $$"]);
    check("unicode-escape", &["DO $$ BEGIN PERFORM U&\"x\"(); END $$"]);
}

#[test]
fn an_innocent_statement_passes() {
    check(
        "pass",
        &[
            "",
            ";",
            "SELECT 1",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            "UPDATE users SET role = 'x'",
            "UPDATE users SET role = 'x' WHERE id = $1",
            "UPDATE users AS u SET (name, role) = ('a', 'b')",
            "INSERT INTO users VALUES ($1) ON CONFLICT (id) DO UPDATE SET role = excluded.role",
            "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET role = s.role",
            "WITH x AS (UPDATE t SET role = 'x' RETURNING *) SELECT * FROM x",
            "EXPLAIN UPDATE t SET role = 'x'",
            "PREPARE p AS UPDATE t SET role = $1",
            "CREATE RULE r AS ON UPDATE TO v DO INSTEAD UPDATE t SET role = new.role",
            "CREATE RULE r AS ON UPDATE TO v DO (UPDATE t SET role = new.role; UPDATE u SET role = new.role)",
            "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC UPDATE t SET role = 'x'; UPDATE t SET role = 'y'; END",
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ UPDATE t SET role = 'x' $$",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = a, b AS 'SELECT 1'",
            "DO $$ BEGIN UPDATE t SET role = 'x'; SET search_path = a; END $$",
            "SELECT role, set_config_count FROM t",
            "SELECT role FROM t WHERE reset = 'role'",
        ],
    );
}

#[test]
fn an_innocent_setting_passes() {
    check(
        "pass",
        &[
            "SET search_path TO x",
            "SET TIME ZONE 'UTC'",
            "SET LOCAL statement_timeout = 5",
            "SET SESSION statement_timeout = 5",
            "SET app.other = 'x'",
            "SET app.tenant_id_2 = 'x'",
            "SET xapp.tenant_id = 'x'",
            "SET app.tenant_id.more = 'x'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET CONSTRAINTS ALL DEFERRED",
            "SELECT 'SET ROLE x'",
            "SELECT '; SET ROLE x'",
            "SELECT E'\\'; SET ROLE x'",
            "SELECT $$; SET ROLE x$$",
            "SELECT $a$; $$ SET ROLE x$a$",
            "-- SET ROLE",
            "/* SET ROLE b; /* */ set_config(x) */ SELECT 1",
            "SELECT \"SET ROLE x\"",
            "SELECT U&'\\0041'",
            "SELECT set_config('TimeZone', $1, false)",
            "SELECT pg_catalog.set_config('search_path', '', false)",
            "SELECT set_config(E'work_mem', '1MB', true)",
            "SELECT current_setting('app.tenant_id')",
            "SELECT * FROM pg_settings WHERE name = 'role' FOR UPDATE",
            "CREATE TEMP TABLE t AS SELECT 1; SELECT name FROM pg_settings",
            "SHOW app.tenant_id",
            "SHOW role",
            "RESET ALL",
            "RESET search_path",
            "DISCARD ALL",
            "DEALLOCATE ALL",
            "CREATE ROLE b",
            "CREATE TABLE t (role text, app int REFERENCES a ON DELETE SET NULL)",
            "ALTER TABLE t ALTER COLUMN role SET NOT NULL",
            "ALTER TABLE t ALTER role SET DEFAULT 'x'",
            "ALTER TABLE t SET SCHEMA role",
            "ALTER SERVER s OPTIONS (SET role 'x')",
            "SET client_encoding = 'UTF8'",
            "SET client_encoding TO utf8",
            "SET client_encoding TO DEFAULT",
            "SET NAMES 'utf-8'",
            "SET NAMES",
            "SET NAMES 'EUC_JP'",
            "SET NAMES latin1; SELECT 1",
            "RESET client_encoding",
            "SELECT set_config('client_encoding', 'WIN1252', false)",
            "SET standard_conforming_strings = on",
            "SET standard_conforming_strings TO 'True'",
            "COPY t (role) FROM STDIN",
            "SELECT 'unterminated; SET ROLE x",
            "SELECT é, 'é' FROM \"é\"",
        ],
    );
}

#[test]
fn a_cut_identifier_is_compared_as_postgresql_cuts_it() {
    let part = "x".repeat(63);
    let rules = Rules::new(&format!("app.{part}"), GuardLevel::Context, &[]);
    let text = format!("SET app.{part}yz = 'b'");
    assert!(!matches!(inspect(text.as_bytes(), &rules), Verdict::Pass(_)));
}

#[test]
fn a_setting_may_begin_with_session_or_local() {
    for name in ["session.tenant", "local.tenant"] {
        let rules = Rules::new(name, GuardLevel::Context, &[]);
        for set in ["SET", "SET LOCAL", "SET SESSION", "RESET"] {
            let text = format!("{set} {name} = 'b'");
            assert!(!matches!(inspect(text.as_bytes(), &rules), Verdict::Pass(_)), "{text}");
        }
    }
}

#[test]
fn a_refusal_names_its_rule_and_repeats_little() {
    let Verdict::Refuse(refusal) = inspect(b"SET app.tenant_id = 'b', 'c'", &rules()) else {
        panic!("passed")
    };
    assert_eq!(refusal.detail, "rule \"context-change\": SET app.tenant_id is not allowed");
    let long = format!("SET \"pgtenant.\n{}\" = 1", "é".repeat(200));
    let Verdict::Refuse(refusal) = inspect(long.as_bytes(), &rules()) else { panic!("passed") };
    assert!(refusal.detail.len() < 120 && !refusal.detail.contains('\n'), "{}", refusal.detail);
}

#[test]
fn bytes_that_are_not_utf8_belong_to_identifiers() {
    assert_eq!(judge(b"SELECT '\xff'; SET ROLE b"), "role-change");
    assert_eq!(judge(b"SELECT \xff\x80 FROM t"), "pass");
    assert_eq!(judge(b"SET ROLE\xff = 1"), "pass");
}

#[test]
fn a_pass_brings_the_survey() {
    let Verdict::Pass(survey) = inspect(b"SELECT 1; SELECT 2", &rules()) else { panic!("refused") };
    assert_eq!(survey, crate::sql::survey(b"SELECT 1; SELECT 2"));
    assert_eq!(survey.statements, Count::Many);
}

/// Words from which statements, sound and unsound, are thrown together.
const WORDS: &[&str] = &[
    "SET",
    "RESET",
    "LOCAL",
    "SESSION",
    "AUTHORIZATION",
    "ROLE",
    "app",
    ".",
    "tenant_id",
    "\"app\"",
    "=",
    "TO",
    "'b'",
    "UPDATE",
    "t",
    "ALTER",
    "CREATE",
    "FUNCTION",
    "f",
    "(",
    ")",
    ";",
    ",",
    "set_config",
    "'app.tenant_id'",
    "'work_mem'",
    "BEGIN",
    "ATOMIC",
    "DO",
    "$$SET ROLE b$$",
    "NAMES",
    "client_encoding",
    "'SJIS'",
    "COPY",
    "FROM",
    "STDIN",
    "pg_settings",
    "U&\"x\"",
    "COMMIT",
    "AND",
    "CHAIN",
    "$1",
    "1",
];

const BLANKS: &[&str] = &["\n", "\t", "/**/", "/* ; /* ' */ SET ROLE b */", "-- '\n", " \r\u{c}", "--\r"];

fn is_text(word: &str) -> bool {
    word.starts_with('\'')
}

proptest! {
    #[test]
    fn blanks_between_tokens_change_no_verdict(
        words in proptest::collection::vec((0..WORDS.len(), 0..BLANKS.len()), 0..14)
    ) {
        let mut plain = String::new();
        let mut blank = String::new();
        let mut previous = "";
        for (word, between) in words {
            let (word, between) = (*WORDS.get(word).unwrap(), *BLANKS.get(between).unwrap());
            // Two literals with a newline between are one.
            if !(is_text(word) && is_text(previous)) {
                plain.extend([word, " "]);
                blank.extend([word, between]);
                previous = word;
            }
        }
        prop_assert_eq!(inspect(plain.as_bytes(), &rules()), inspect(blank.as_bytes(), &rules()), "{} | {}", plain, blank);
    }

    #[test]
    fn any_bytes_get_a_verdict(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _verdict = inspect(&text, &rules());
    }
}
