//! The strict level: what it refuses, by which rule, and what it must not be in the way of.

use super::*;
use crate::directory::GuardLevel;
use crate::guard::rule::{ADVISORY_LOCK, PLANNER, SEQUENCE, SERVER_CONTROL, SQL_IN_STRING};
use crate::guard::{FIXED, GRANTABLE, Rules, Verdict, inspect};
use crate::sql::survey;
use proptest::prelude::*;

fn strict(allow: &[&'static str]) -> Rules {
    Rules::new("app.tenant_id", GuardLevel::Strict, allow)
}

fn judge_by(text: &[u8], rules: &Rules) -> &'static str {
    match inspect(text, rules) {
        Verdict::Pass(found) => {
            assert_eq!(found, survey(text));
            "pass"
        }
        Verdict::Tenant(..) => "tenant",
        Verdict::Refuse(refusal) => {
            assert!(refusal.detail.starts_with(&format!("rule \"{}\": ", refusal.rule)), "{refusal:?}");
            assert!(refusal.detail.ends_with(" is not allowed") && !refusal.hint.is_empty(), "{refusal:?}");
            refusal.rule
        }
    }
}

/// Each text is refused by its rule: alone, behind another statement, and in front of one; and where its rule
/// can be granted and is, it passes.
#[track_caller]
fn refused(rule: &'static str, texts: &[&str]) {
    for text in texts {
        for whole in [(*text).to_owned(), format!("SELECT 1; {text}"), format!("{text}\n; SELECT 1")] {
            assert_eq!(judge_by(whole.as_bytes(), &strict(&[])), rule, "{whole}");
        }
        let granted = if GRANTABLE.contains(&rule) { "pass" } else { rule };
        assert_eq!(judge_by(text.as_bytes(), &strict(&[rule])), granted, "granted: {text}");
        let others: Vec<&'static str> = GRANTABLE.iter().copied().filter(|other| *other != rule).collect();
        assert_eq!(judge_by(text.as_bytes(), &strict(&others)), rule, "others granted: {text}");
    }
}

#[track_caller]
fn served(texts: &[&str]) {
    for text in texts {
        assert_eq!(judge_by(text.as_bytes(), &strict(&[])), "pass", "{text}");
    }
}

// === by kind ===

#[test]
fn code_is_refused() {
    refused(
        OPAQUE_CODE,
        &[
            "DO $$ BEGIN NULL; END $$",
            "DO LANGUAGE plpgsql 'BEGIN NULL; END'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "create or replace function pg_temp.f() returns int language sql as $$ select 1 $$",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
            "CREATE PROCEDURE p() LANGUAGE sql AS ''",
            "CREATE TRIGGER t BEFORE UPDATE ON x EXECUTE FUNCTION f()",
            "CREATE OR REPLACE TRIGGER t BEFORE UPDATE ON x EXECUTE FUNCTION f()",
            "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON x EXECUTE FUNCTION f()",
            "CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION f()",
            "CREATE RULE r AS ON UPDATE TO v DO INSTEAD (UPDATE t SET a = 1; DELETE FROM u)",
            "CREATE OPERATOR + (FUNCTION = f, LEFTARG = int)",
            "CREATE CAST (text AS int) WITH FUNCTION f(text)",
            "CREATE AGGREGATE a (int) (SFUNC = f, STYPE = int)",
            "CREATE TYPE pg_temp.t AS (a int)",
            "CREATE DOMAIN pg_temp.d AS pg_catalog.text CHECK (f(VALUE))",
            "CREATE EXTENSION hstore",
            "CREATE LANGUAGE plperl",
            "CREATE TRUSTED LANGUAGE plperl",
            "CREATE OR REPLACE PROCEDURAL LANGUAGE plperl",
        ],
    );
}

#[test]
fn files_and_programs_of_the_server_are_refused() {
    refused(
        SERVER_FILE,
        &[
            "COPY t FROM '/etc/passwd'",
            "COPY t TO '/tmp/x'",
            "COPY t FROM PROGRAM 'id'",
            "COPY (SELECT 'stdout') TO PROGRAM 'sh'",
            "COPY t (stdin) FROM '/x'",
            "COPY \"stdin\" FROM 'x'",
            "COPY t FROM /* STDIN */ 'x'",
            "COPY s.from FROM '/x'",
            "COPY",
            "LOAD 'auto_explain'",
            "SELECT pg_read_file('pg_hba.conf')",
            "SELECT * FROM pg_ls_dir('.')",
            "SELECT * FROM pg_ls_waldir()",
            "SELECT pg_read_binary_file('x')",
            "SELECT pg_stat_file('x')",
            "SELECT lo_import('/etc/passwd')",
            "SELECT lo_export(1, '/tmp/x')",
            "SELECT pg_current_logfile()",
            "TABLE pg_hba_file_rules",
        ],
    );
}

#[test]
fn roles_and_stored_settings_are_refused() {
    refused(
        ROLE_SETTING,
        &[
            "ALTER ROLE app SET work_mem = '1GB'",
            "ALTER ROLE CURRENT_USER PASSWORD 'x'",
            "ALTER USER app WITH PASSWORD 'x'",
            "alter group g add user app",
            "ALTER DATABASE d SET work_mem = '1GB'",
            "ALTER SYSTEM SET work_mem = '1GB'",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "CREATE ROLE b",
            "CREATE USER b",
            "CREATE USER MAPPING FOR b SERVER s",
            "CREATE GROUP g",
            "DROP ROLE b",
            "DROP USER IF EXISTS b",
            "DROP OWNED BY CURRENT_USER",
            "REASSIGN OWNED BY app TO b",
            "GRANT SELECT ON t TO PUBLIC",
            "REVOKE ALL ON t FROM app",
            "SECURITY LABEL ON TABLE t IS 'x'",
        ],
    );
}

#[test]
fn kinds_that_reach_all_tenants_are_refused() {
    refused(
        LOCK_TABLE,
        &[
            "LOCK TABLE t",
            "LOCK t IN ROW EXCLUSIVE MODE NOWAIT",
            "lock only (t)",
            "CREATE TEMP TABLE t (a int REFERENCES orders)",
            "CREATE TEMP TABLE t (a int, FOREIGN KEY (a) REFERENCES orders (id))",
            "CREATE TABLE pg_temp.t PARTITION OF orders DEFAULT",
            "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES orders",
            "ALTER TABLE t ATTACH PARTITION orders DEFAULT",
            "ALTER TABLE t DETACH /* x */ PARTITION orders",
            "ALTER INDEX i ATTACH PARTITION j",
        ],
    );
    refused(TRUNCATE, &["TRUNCATE t", "truncate table only t restart identity cascade"]);
    refused(EXPLAIN, &["EXPLAIN SELECT 1", "explain (analyze) select 1", "EXPLAIN ANALYZE VERBOSE TABLE t"]);
    refused(NOTIFY, &["LISTEN a", "UNLISTEN a", "NOTIFY a", "notify a, 'x'", "SELECT pg_notify('a', 'b')"]);
    refused(
        PREPARED_TRANSACTION,
        &[
            "PREPARE TRANSACTION 'a'",
            "COMMIT PREPARED 'a'",
            "ROLLBACK/**/PREPARED 'a'",
            "rollback prepared 'a'",
        ],
    );
    refused(
        OTHER_SESSION,
        &[
            "SET TRANSACTION SNAPSHOT '0-1'",
            "SET LOCAL TRANSACTION SNAPSHOT '0-1'",
            "SET SESSION TRANSACTION SNAPSHOT '0-1'",
        ],
    );
}

#[test]
fn every_other_kind_is_refused() {
    refused(
        STATEMENT_KIND,
        &[
            "VACUUM",
            "ANALYZE t",
            "ANALYSE",
            "REINDEX TABLE t",
            "CLUSTER",
            "CHECKPOINT",
            "IMPORT FOREIGN SCHEMA s FROM SERVER t INTO u",
            "REFRESH MATERIALIZED VIEW v",
            "CREATE TABLE t (a int)",
            "CREATE TABLE IF NOT EXISTS temp (a int)",
            "CREATE UNLOGGED TABLE t ()",
            "CREATE TABLE \"temp\".t ()",
            "CREATE TABLE pgtemp (a int)",
            "CREATE VIEW v AS SELECT 1",
            "CREATE OR REPLACE RECURSIVE VIEW v (a) AS SELECT 1",
            "CREATE SEQUENCE s",
            "CREATE MATERIALIZED VIEW v AS SELECT 1",
            "CREATE SCHEMA temp",
            "CREATE DATABASE d",
            "CREATE POLICY p ON t USING (true)",
            "CREATE STATISTICS s ON a, b FROM t",
            "CREATE PUBLICATION p FOR ALL TABLES",
            "CREATE",
            "ALTER POLICY p ON t USING (true)",
            "ALTER FUNCTION f() RENAME TO g",
            "ALTER SCHEMA s OWNER TO app",
            "ALTER EXTENSION e UPDATE",
            "ALTER",
            "DROP POLICY p ON t",
            "DROP FUNCTION f()",
            "DROP SCHEMA s CASCADE",
            "DROP MATERIALIZED VIEW v",
            "DROP",
            "COMMENT ON DATABASE d IS 'x'",
            "COMMENT ON POLICY p ON t IS 'x'",
            "SELECT * INTO t FROM u",
            "SELECT 1 AS into INTO t FROM u",
            "WITH x AS (SELECT 1) SELECT * INTO UNLOGGED t FROM x",
            "SELECT 1 INTO TABLE t",
            "SELECT 1 INTO local",
            "REPACK t",
            "(LOCK t)",
            "((SET a = 1))",
            "(x)",
        ],
    );
}

#[test]
fn a_slip_of_the_pen_is_told_from_an_attempt() {
    refused("unknown-statement", &["FROBNICATE", "SELEC 1", "\"select\" 1", "1", "SELECT 1; SELEKT 2"]);
    let refusal = |text: &str| match inspect(text.as_bytes(), &strict(&[])) {
        Verdict::Refuse(refusal) => refusal.is_about_syntax(),
        other => panic!("{text}: {other:?}"),
    };
    assert!(refusal("SELEC 1") && refusal("SELECT 'a"));
    assert!(!refusal("VACUUM") && !refusal("SET ROLE b"));
}

#[test]
fn no_object_comes_before_a_built_in_type() {
    refused(
        TEMPORARY_TYPE_NAME,
        &[
            "CREATE TEMP TABLE \"text\" (x int)",
            "create local temporary table if not exists Text as select 1",
            "CREATE TEMP TABLE/**/int4/**/()",
            "CREATE TEMP TABLE _text ()",
            "CREATE TABLE pg_temp.\"uuid\" ()",
            "CREATE TABLE pg_temp . jsonb ()",
            "CREATE TEMP TABLE app.pg_temp.date ()",
            "CREATE OR REPLACE TEMP RECURSIVE VIEW record (a) AS SELECT 1",
            "CREATE TEMP VIEW \"int\" AS SELECT 1",
            "CREATE TEMP VIEW pg_class AS SELECT 1",
            "CREATE TEMP SEQUENCE timestamptz",
            "SELECT 1 INTO TEMP text",
            "SELECT 1 INTO LOCAL TEMPORARY TABLE \"name\" FROM t",
            "SELECT 1 INTO pg_temp.varchar",
            "WITH x AS (SELECT 1) SELECT * INTO TABLE pg_temp.\"bool\" FROM x",
            "ALTER TABLE t RENAME TO text",
            "ALTER TABLE IF EXISTS ONLY t rename to \"numeric\"",
            "ALTER VIEW v RENAME TO json",
            "ALTER SEQUENCE s RENAME TO money",
        ],
    );
    served(&[
        "CREATE TEMP TABLE texts (text text, name name)",
        "CREATE TEMP TABLE \"Text\" ()",
        "CREATE TEMP TABLE \"text\".t ()",
        "CREATE TEMP TABLE t AS SELECT 'x'::text",
        "SELECT x INTO TEMP t FROM text",
        "INSERT INTO text VALUES (1)",
        "SELECT 1 AS into FROM text",
        "ALTER TABLE t RENAME a TO text",
        "ALTER TABLE t RENAME COLUMN a TO text",
        "ALTER TABLE text RENAME TO t",
        "CREATE INDEX text ON t (a)",
        "DROP TABLE IF EXISTS text",
        "SELECT rename, text FROM t",
    ]);
    let granted = strict(&[OPAQUE_CODE, STATEMENT_KIND, EXPLAIN]);
    for text in [
        "CREATE TYPE pg_temp.text AS (a int)",
        "CREATE DOMAIN text AS int",
        "CREATE TABLE text ()",
        "SELECT 1 INTO text",
        "EXPLAIN ANALYZE CREATE TEMP TABLE text AS SELECT 1",
        "ALTER TYPE t RENAME TO text",
    ] {
        assert_eq!(judge_by(text.as_bytes(), &granted), TEMPORARY_TYPE_NAME, "{text}");
    }
}

// === by setting ===

#[test]
fn settings_that_print_plans_are_refused() {
    refused(
        EXPLAIN,
        &[
            "SET debug_print_plan = on",
            "SET LOCAL Debug_Print_Parse TO true",
            "SET SESSION \"debug_print_rewritten\" = on",
            "SET debug_print_raw_parse = on",
            "SET debug_pretty_print TO on",
            "SET auto_explain.log_min_duration = 0",
            "SET \"auto_explain\".log_analyze = on",
            "SET log_planner_stats = on",
            "SET log_executor_stats = on",
            "SET log_statement_stats = on",
            "SET trace_sort = on",
            "SELECT set_config('debug_print_plan', 'on', true)",
            "SELECT set_config('auto_explain.log_min_duration', $1, false)",
            "SELECT pg_catalog.\"set_config\"('Trace_Sort', $1, false)",
        ],
    );
    let all_but =
        |rule: &'static str| GRANTABLE.iter().copied().filter(|other| *other != rule).collect::<Vec<_>>();
    for text in [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET debug_print_plan = on AS 'SELECT 1'",
        "ALTER FUNCTION f() SET auto_explain.log_analyze TO on",
        "ALTER ROLE app SET debug_print_plan = on",
        "ALTER DATABASE d SET debug_print_plan = on",
        "ALTER SYSTEM SET debug_print_plan = on",
        "DO $$ BEGIN SET LOCAL debug_print_plan = on; END $$",
        "DO $$ BEGIN PERFORM set_config('debug_print_plan', 'on', true); END $$",
    ] {
        assert_eq!(judge_by(text.as_bytes(), &strict(&all_but(EXPLAIN))), EXPLAIN, "{text}");
        assert_eq!(judge_by(text.as_bytes(), &strict(GRANTABLE)), "pass", "{text}");
    }
    served(&[
        "RESET debug_print_plan",
        "SHOW debug_print_plan",
        "SET client_min_messages = log",
        "SELECT current_setting('debug_print_plan')",
        "SET app.debug_print_plan = on",
    ]);
}

#[test]
fn settings_of_the_planner_are_refused() {
    refused(
        PLANNER,
        &[
            "SET enable_seqscan = off",
            "SET LOCAL Enable_Nestloop TO off",
            "SET random_page_cost = 1e9",
            "SET cpu_tuple_cost = 0",
            "SET SESSION plan_cache_mode = force_generic_plan",
            "SET from_collapse_limit = 1",
            "SET join_collapse_limit = 100",
            "SET geqo = off",
            "SET geqo_threshold = 2",
            "SET jit_above_cost = 0",
            "SET jit_expressions = off",
            "SET cursor_tuple_fraction = 1",
            "SET constraint_exclusion = off",
            "SET force_parallel_mode = on",
            "SET debug_parallel_query = on",
            "SET min_parallel_table_scan_size = 0",
            "SET effective_cache_size = 1",
            "SELECT set_config('enable_indexscan', 'off', false)",
            "SELECT set_config('plan_cache_mode', $1, true)",
        ],
    );
    served(&[
        "RESET enable_seqscan",
        "RESET ALL",
        "SHOW random_page_cost",
        "SET work_mem = '64MB'",
        "SET LOCAL statement_timeout = 0",
        "SET max_parallel_workers_per_gather = 0",
        "SET vacuum_cost_delay = 1",
        "SET app.unit_cost = 1",
        "SET app.enable_x = on",
        // What asyncpg sends around its questions about types.
        "SET jit = off",
        "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
        "SELECT set_config('jit', $1, false)",
    ]);
}

#[test]
fn startup_parameters_follow_the_same_rules() {
    let rule = |name: &str, rules: &Rules| rules.check_parameter(name).err().map(|refusal| refusal.rule);
    for (name, expected) in [
        ("debug_print_plan", Some(EXPLAIN)),
        ("auto_explain.log_analyze", Some(EXPLAIN)),
        ("Enable_SeqScan", Some(PLANNER)),
        ("jit", None),
        ("work_mem", None),
        ("app.tenant_id", None),
    ] {
        assert_eq!(rule(name, &strict(&[])), expected, "{name}");
        assert_eq!(rule(name, &strict(&[EXPLAIN, PLANNER])), None, "{name}");
        for level in [GuardLevel::Off, GuardLevel::Context] {
            assert_eq!(rule(name, &Rules::new("app.tenant_id", level, &[])), None, "{name}");
        }
    }
}

// === by name ===

#[test]
fn other_sessions_are_out_of_reach() {
    refused(
        OTHER_SESSION,
        &[
            "SELECT pg_terminate_backend(1)",
            "SELECT \"pg_terminate_backend\" (1)",
            "SELECT pg_catalog . pg_cancel_backend /* x */ -- y\n ( 1 )",
            "SELECT PG_TERMINATE_BACKEND(1)",
            "SELECT * FROM pg_stat_activity",
            "TABLE pg_catalog.\"pg_stat_activity\"",
            "SELECT pg_stat_get_backend_activity(1)",
            "SELECT (pg_stat_get_activity(NULL)).query",
            "SELECT * FROM pg_locks",
            "SELECT pg_lock_status()",
            "SELECT * FROM pg_stat_statements",
            "SELECT * FROM pg_stat_user_tables",
            "SELECT * FROM pg_statio_user_tables",
            "SELECT * FROM pg_prepared_xacts",
            "SELECT pg_log_backend_memory_contexts(1)",
            "SELECT pg_export_snapshot()",
            "SELECT * FROM pg_temp_3.t",
            "DROP TABLE \"pg_temp_3\".t",
            "PREPARE p AS SELECT pg_terminate_backend($1)",
            "DECLARE c CURSOR FOR TABLE pg_locks",
            "COPY pg_stat_activity TO STDOUT",
            "CREATE TEMP VIEW v AS TABLE pg_stat_activity",
            "INSERT INTO t DEFAULT VALUES RETURNING pg_cancel_backend(1)",
            "UPDATE t SET a = pg_cancel_backend(1)",
            "SELECT (1).pg_terminate_backend",
            "SELECT 1 FROM t ORDER BY pg_cancel_backend(1)",
            "SELECT * FROM ROWS FROM (pg_lock_status())",
            "CALL p(pg_cancel_backend(1))",
            "EXECUTE p(pg_cancel_backend(1))",
            "VALUES (pg_cancel_backend(1))",
            "MERGE INTO t USING pg_locks ON true WHEN MATCHED THEN DELETE",
        ],
    );
}

#[test]
fn names_that_reach_beyond_the_tenant_are_refused() {
    refused(
        SQL_IN_STRING,
        &[
            "SELECT query_to_xml('SELECT 1', true, false, '')",
            "SELECT pg_catalog.query_to_xml_and_xmlschema('x', true, false, '')",
            "SELECT table_to_xml('t', true, false, '')",
            "SELECT schema_to_xmlschema('s', true, false, '')",
            "SELECT database_to_xml(true, false, '')",
            "SELECT cursor_to_xml('c', 1, true, false, '')",
            "SELECT * FROM ts_stat('SELECT v FROM t')",
            "SELECT ts_rewrite('a'::tsquery, 'SELECT 1')",
            "SELECT * FROM dblink('', 'SELECT 1') AS t (a int)",
            "SELECT dblink_connect_u('x')",
            "SELECT * FROM crosstab('SELECT 1') AS t (a int)",
            "SELECT * FROM crosstab3('SELECT 1')",
            "SELECT * FROM connectby('t', 'a', 'b', 'c', 1)",
            "SELECT * FROM xpath_table('a', 'b', 'c', 'd', 'e')",
            "SELECT currtid2('t', '(0,1)')",
        ],
    );
    refused(
        ADVISORY_LOCK,
        &[
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_xact_lock_shared(1, 2)",
            "SELECT pg_try_advisory_lock(1)",
            "SELECT pg_try_advisory_xact_lock($1)",
            "SELECT \"pg_advisory_unlock\"(1)",
        ],
    );
    refused(
        LARGE_OBJECT,
        &[
            "SELECT lo_get(1)",
            "SELECT lo_creat(-1)",
            "SELECT lo_from_bytea(0, $1)",
            "SELECT loread(lo_open(1, 262144), 10)",
            "SELECT lowrite(0, 'x')",
            "SELECT * FROM pg_largeobject",
            "SELECT * FROM pg_largeobject_metadata",
            "ALTER LARGE OBJECT 1 OWNER TO app",
        ],
    );
    refused(
        SEQUENCE,
        &["SELECT setval('s', 1)", "SELECT last_value FROM pg_sequences", "SELECT pg_sequence_last_value(1)"],
    );
    refused(
        SERVER_CONTROL,
        &[
            "SELECT pg_reload_conf()",
            "SELECT pg_promote()",
            "SELECT pg_create_restore_point('x')",
            "SELECT pg_switch_wal()",
            "SELECT pg_logical_emit_message(true, 'a', 'b')",
            "SELECT * FROM pg_replication_slots",
            "SELECT pg_create_logical_replication_slot('a', 'b')",
        ],
    );
}

#[test]
fn a_capital_that_folds_into_a_name_hides_nothing() {
    refused(ADVISORY_LOCK, &["SELECT pg_adv\u{130}sory_lock(1)"]);
    refused("opaque-name", &["SELECT set_conf\u{130}g($1, 'b', false)"]);
    refused("context-change", &["SET app.tenant_\u{130}d = 'b', 'c'"]);
    served(&["SELECT \"pg_adv\u{130}sory_lock\"(1)", "SELECT caf\u{e9} FROM \u{130}stanbul"]);
}

// === what stays closed whatever is granted ===

#[test]
fn the_proxys_own_objects_are_refused_in_both_levels() {
    let texts = [
        "SELECT * FROM pgtenant.key",
        "SELECT pgtenant.enter('b', 'x')",
        "SELECT \"pgtenant\" . enter('b', 'x')",
        "SELECT PgTenant/**/.enter('b', 'x')",
        "TABLE \"pgtenant\".\"key\"",
        "ALTER TABLE t RENAME TO pgtenant_x",
        "SELECT 1 AS \"pgtenant_tenant\"",
        "SET search_path = pgtenant, public",
        "SET search_path = 'pgtenant'",
        "SET LOCAL search_path TO public, 'PGTENANT'",
        "SET SCHEMA 'pgtenant'",
        "SET search_path = 'a', 'b', E'c', 'pgtenant'",
        "SELECT set_config('search_path', 'public,pgtenant', true)",
        "SELECT pgtenant.current_tenant_of(1)",
        "SELECT pgtenant.\"CURRENT_tenantx\"()",
        "SELECT pgtenant",
        "SELECT pgtenant_x.current_tenant()",
    ];
    refused("own-objects", &texts);
    let context = Rules::new("app.tenant_id", GuardLevel::Context, &[]);
    for text in texts {
        assert_eq!(judge_by(text.as_bytes(), &context), "own-objects", "{text}");
    }
    served(&[
        "SELECT pgtenant.current_tenant()",
        "SELECT \"pgtenant\".\"current_tenant\"()",
        "SELECT 'pgtenant.key', pgtenants, pgtenantx.key, xpgtenant.key",
        "SET search_path = public, \"$user\"",
        "SET application_name = 'pgtenant'",
        "SELECT datname FROM pg_database WHERE datname = 'pgtenant'",
    ]);
}

#[test]
fn what_cannot_be_read_is_refused() {
    for text in [
        &b"SELECT 'a"[..],
        b"SELECT \"a",
        b"SELECT $$a",
        b"SELECT 1 /* /* */",
        b"SELECT U&'a",
        b"SELECT E'\\'",
        b"SELECT \\",
        b"SELECT {d '2020-01-01'}",
        b"SELECT \x01",
        b"SELECT $",
    ] {
        assert_eq!(judge_by(text, &strict(GRANTABLE)), "unreadable", "{}", String::from_utf8_lossy(text));
    }
    served(&[
        "SELECT U&'d\\0061t\\+000061'",
        "SELECT U&'d!0061''t' UESCAPE '!', 1",
        "SELECT U&'\\' UESCAPE '!'",
        "SELECT '\u{20ac}', \"\u{20ac}\", $\u{20ac}$;$\u{20ac}$",
        "SELECT '\\'",
        "RESET ROLE",
        "RESET SESSION AUTHORIZATION",
    ]);
    // Latin 1, for example: no byte of a character is an ASCII one in the encodings that are let through.
    let latin: &[u8] = b"SELECT '\xe9t\xe9' AS \xe9";
    assert!(matches!(inspect(latin, &strict(&[])), Verdict::Pass(_)));
    assert!(matches!(inspect(b"SELECT '\xe9'; DO 'x'", &strict(&[])), Verdict::Refuse(_)));
}

#[test]
fn the_context_rules_hold_in_the_strict_level_too() {
    refused("role-change", &["SET ROLE b", "SELECT set_config('role', 'b', false)"]);
    refused("opaque-name", &["SELECT set_config($1, $2, true)", "UPDATE pg_settings SET setting = 'x'"]);
    refused("opaque-name", &["CREATE TEMP VIEW v AS TABLE pg_settings"]);
    refused("unicode-escape", &["SELECT U&\"pg\\005fnotify\"('a', 'b')"]);
    refused("client-encoding", &["SET client_encoding = 'SJIS'"]);
    refused("string-syntax", &["SET standard_conforming_strings = off"]);
    let all = strict(GRANTABLE);
    for text in [
        "ALTER ROLE app SET app.tenant_id = 'b'",
        "DO $$ BEGIN SET app.tenant_id = 'b'; END $$",
        "CREATE FUNCTION f() RETURNS int SET app.tenant_id = 'b' LANGUAGE sql AS 'SELECT 1'",
        "EXPLAIN ANALYZE SELECT set_config('app.tenant_id', 'b', false)",
    ] {
        assert_eq!(judge_by(text.as_bytes(), &all), "context-change", "{text}");
    }
    let code = strict(&[OPAQUE_CODE]);
    let text = b"DO $$ BEGIN PERFORM pg_notify('a', 'b'); END $$";
    assert_eq!(judge_by(text, &code), NOTIFY, "a grant of code is no grant of what the code plainly says");
    assert_eq!(judge_by(text, &strict(&[OPAQUE_CODE, NOTIFY])), "pass");
}

// === what must be served ===

#[test]
fn everyday_statements_are_served() {
    served(&[
        "",
        ";;",
        "SELECT 1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "((SELECT 1))",
        "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING id",
        "UPDATE t SET a = 1 FROM u WHERE t.id = u.id",
        "DELETE FROM t USING u WHERE t.id = u.id",
        "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN DO NOTHING",
        "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x",
        "WITH RECURSIVE x AS (SELECT 1) TABLE x",
        "VALUES (1), (2)",
        "TABLE t",
        "SELECT * FROM t WHERE id = $1 FOR UPDATE SKIP LOCKED",
        "COPY t FROM STDIN",
        "COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER)",
        "COPY (SELECT * FROM t) TO STDOUT",
        "COPY t TO STDOUT (FORMAT binary); COPY u FROM stdin",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
        "START TRANSACTION",
        "COMMIT AND CHAIN",
        "END",
        "ROLLBACK TO SAVEPOINT s",
        "ABORT",
        "SAVEPOINT s",
        "RELEASE SAVEPOINT s",
        "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1",
        "FETCH FORWARD 10 FROM c",
        "MOVE ALL IN c",
        "CLOSE ALL",
        "SHOW search_path",
        "SHOW ALL",
        "SET search_path = a, public",
        "SET LOCAL statement_timeout = '1s'",
        "SET TIME ZONE 'UTC'",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "RESET ALL",
        "DISCARD ALL",
        "DISCARD PLANS",
        "PREPARE p (int) AS SELECT $1",
        "EXECUTE p (1)",
        "DEALLOCATE PREPARE ALL",
        "CALL p(1)",
        "UNLISTEN *",
        "CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); RESET ALL",
        "SELECT setseed(0.5), random()",
        "SELECT nextval('s'), currval('s'), lastval()",
        "SELECT set_config('search_path', '', false)",
        "SELECT 'set_config'::regproc, 'pg_notify(text,text)'::regprocedure, to_regclass('pg_stat_activity')",
        "SELECT role, password, notify, explain, lock, truncate, listen, copy FROM users AS do",
        "SELECT lo_orderkey, lo_quantity FROM lineorder -- pg_notify('a')",
        "SELECT '; DROP ROLE x', $$ LOCK t $$ /* VACUUM */",
    ]);
}

#[test]
fn the_sessions_own_objects_are_served() {
    served(&[
        "CREATE TEMP TABLE t (a int)",
        "CREATE TEMPORARY TABLE IF NOT EXISTS t AS SELECT 1",
        "CREATE LOCAL TEMP TABLE t ON COMMIT DROP AS TABLE u",
        "create global temporary table t ()",
        "CREATE TABLE pg_temp.t (a int)",
        "CREATE TABLE IF NOT EXISTS \"pg_temp\".t ()",
        "CREATE TEMP TABLE t (partition int, attach int) PARTITION BY RANGE (partition)",
        "CREATE TEMP TABLE t AS SELECT count(*) OVER (PARTITION BY a) FROM t",
        "CREATE TEMP TABLE t (LIKE orders INCLUDING ALL)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE OR REPLACE TEMP RECURSIVE VIEW v (a) AS SELECT 1",
        "CREATE TEMP SEQUENCE s",
        "CREATE INDEX ON t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)",
        "SELECT 1 INTO TEMP t",
        "SELECT * INTO TEMPORARY TABLE t FROM u",
        "SELECT 1 INTO LOCAL TEMP t",
        "SELECT 1 INTO pg_temp.t",
        "SELECT 1 INTO TABLE \"pg_temp\".t",
        "SELECT t.into, 1 AS into FROM t",
        "ALTER TABLE t ADD COLUMN b int",
        "DROP TABLE IF EXISTS t",
        "DROP VIEW v",
        "DROP INDEX i",
        "DROP SEQUENCE s",
        "COMMENT ON TABLE t IS 'x'",
        "COMMENT ON COLUMN t.a IS 'x'",
    ]);
}

#[test]
fn what_drivers_and_psql_ask_about_a_schema_is_served() {
    let mut count = 0;
    for line in include_str!("psql.sql").lines().chain(include_str!("drivers.sql").lines()) {
        served(&[line]);
        count += 1;
    }
    assert!(count > 150, "{count}");
}

#[test]
fn what_other_frameworks_ask_is_served() {
    served(&[
        // Rails
        "SET client_min_messages TO 'warning'",
        "SET standard_conforming_strings = on",
        "SET SESSION intervalstyle TO iso_8601",
        "SHOW max_identifier_length",
        "SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype \
         FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'bool')",
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, \
         col_description(a.attrelid, a.attnum) AS comment, attidentity AS identity FROM pg_attribute a \
         LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
         WHERE a.attrelid = '\"notes\"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        "SELECT i.relname AS name, d.indisunique, d.indkey, pg_get_indexdef(d.indexrelid), \
         pg_catalog.obj_description(i.oid, 'pg_class') FROM pg_class t INNER JOIN pg_index d ON t.oid = d.indrelid",
        "SELECT c.relname FROM pg_class c LEFT JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = ANY (current_schemas(false)) AND c.relkind IN ('r','v','m','p','f')",
        "SELECT current_database(), current_schema, current_setting('server_version_num'), version()",
        // pgjdbc, Hibernate
        "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME FROM pg_catalog.pg_class c",
        "select * from information_schema.sequences",
        "select current_schema()",
        "SET extra_float_digits = 3",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SELECT 1 FROM information_schema.table_constraints tc JOIN information_schema.key_column_usage k USING (a)",
        // Npgsql
        "SELECT version(); SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid \
         FROM (SELECT typ.oid, typ.typnamespace, typ.typname FROM pg_type AS typ) AS t \
         JOIN pg_namespace AS ns ON (ns.oid = typnamespace)",
        "DISCARD ALL",
        "SELECT enumtypid, enumlabel FROM pg_enum ORDER BY oid, enumsortorder",
        // postgres.js, pg, Prisma
        "select b.oid, b.typarray from pg_catalog.pg_type a left join pg_catalog.pg_type b on b.oid = a.typelem \
         where a.typcategory = 'A' group by b.oid, b.typarray order by b.oid",
        "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm')",
        "SELECT pg_is_in_recovery(), pg_backend_pid(), txid_current(), pg_current_wal_lsn()",
        "SELECT pg_size_pretty(pg_total_relation_size('t')), pg_sleep(0)",
        "SELECT * FROM pg_stats WHERE tablename = 't'",
        "SELECT name, setting FROM pg_settings",
        "SELECT pg_get_viewdef('v'), pg_get_functiondef('f'::regproc), pg_get_serial_sequence('t', 'id')",
    ]);
}

#[test]
fn the_guard_that_is_off_refuses_nothing() {
    let off = Rules::new("app.tenant_id", GuardLevel::Off, &[]);
    for text in ["SET ROLE b", "DO $$ $$", "SELECT 'a", "TABLE pgtenant.key", "SELECT U&\"x\"", "FROBNICATE"]
    {
        assert_eq!(judge_by(text.as_bytes(), &off), "pass", "{text}");
    }
    assert_eq!(judge_by(b"SELECT '\xff'", &off), "pass");
}

#[test]
fn each_rule_is_granted_or_fixed_and_stands_in_the_manual() {
    let manual = include_str!("../../../docs/errors.md");
    let (_, table) = manual.split_once("## Rules behind 42501").unwrap();
    let row = |rule: &str| table.lines().find(|line| line.starts_with(&format!("| `{rule}` |")));
    for rule in GRANTABLE {
        assert!(row(rule).is_some_and(|row| row.ends_with("| yes |")), "{rule}");
    }
    for rule in FIXED.iter().chain(&["function-call", "startup-parameter"]) {
        assert!(row(rule).is_some_and(|row| row.ends_with("| no |")), "{rule}");
    }
    let rows = table.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, GRANTABLE.len() + FIXED.len() + 2, "no row for a rule that is not");
}

// === properties ===

/// Words from which statements, sound and unsound, are thrown together.
const WORDS: &[&str] = &[
    "SELECT",
    "INSERT",
    "INTO",
    "TEMP",
    "CREATE",
    "TABLE",
    "FUNCTION",
    "ALTER",
    "ROLE",
    "COPY",
    "FROM",
    "STDIN",
    "TO",
    "STDOUT",
    "PROGRAM",
    "SET",
    "LOCAL",
    "TRANSACTION",
    "SNAPSHOT",
    "PREPARE",
    "AS",
    "COMMIT",
    "PREPARED",
    "COMMENT",
    "ON",
    "UNLISTEN",
    "*",
    "LOCK",
    "EXPLAIN",
    "pg_notify",
    "pg_catalog",
    "pg_advisory_lock",
    "pg_stat_activity",
    "pgtenant",
    "current_tenant",
    "enter",
    "lo_get",
    "dblink",
    "app",
    "tenant_id",
    ".",
    ",",
    ";",
    "(",
    ")",
    "=",
    "'b'",
    "'app.tenant_id'",
    "set_config",
    "true",
    "$1",
    "1",
    "t",
    "x",
    "IF",
    "NOT",
    "EXISTS",
    "pg_temp",
    "DROP",
    "OR",
    "REPLACE",
    "search_path",
    "'pgtenant'",
    "DEFAULT",
    "RESET",
    "+",
    "-",
    "::",
];

const BLANKS: &[&str] = &[" ", "\n", "\t", "/**/", "/* ; /* ' */ LOCK t */", "-- '\n", " \r\u{c}", "--\r"];

/// How a word may be written without becoming another: capitals always, quotes where it is a name of ours.
fn respelled(word: &str, how: usize) -> String {
    let is_name = word.starts_with("pg") || ["set_config", "lo_get", "dblink", "tenant_id"].contains(&word);
    match how {
        1 => word.to_ascii_uppercase(),
        2 if word.starts_with('\'') => word.to_owned(),
        2 => word.to_ascii_lowercase(),
        3 if is_name => format!("\"{word}\""),
        _ => word.to_owned(),
    }
}

proptest! {
    #[test]
    fn spelling_changes_no_verdict(
        words in proptest::collection::vec((0..WORDS.len(), 0..BLANKS.len(), 0..4_usize), 0..14)
    ) {
        let mut plain = String::new();
        let mut other = String::new();
        let mut previous = "";
        for (word, between, how) in words {
            let (word, between) = (*WORDS.get(word).unwrap(), *BLANKS.get(between).unwrap());
            // Two literals with a newline between are one; two signs may be a comment.
            let joins = word.starts_with('\'') && previous.starts_with('\'') || word == "-" && previous == "-";
            if !joins {
                plain.extend([word, " "]);
                // A minus and a comment that begins with one would be another comment.
                let between = if word == "-" && between.starts_with('-') { " " } else { between };
                other.extend([&respelled(word, how), between]);
                previous = word;
            }
        }
        for rules in [strict(&[]), strict(GRANTABLE), Rules::new("app.tenant_id", GuardLevel::Context, &[])] {
            prop_assert_eq!(
                judge_by(plain.as_bytes(), &rules),
                judge_by(other.as_bytes(), &rules),
                "{} | {}", plain, other
            );
        }
    }

    #[test]
    fn any_bytes_get_a_verdict_in_every_level(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        for level in [GuardLevel::Off, GuardLevel::Context, GuardLevel::Strict] {
            judge_by(&text, &Rules::new("app.tenant_id", level, &[]));
        }
    }
}
