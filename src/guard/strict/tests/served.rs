//! What must be served: everyday statements, and what drivers and frameworks ask.

use super::*;

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
    let manual = include_str!("../../../../docs/errors.md");
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
