//! By kind of statement: what may stand where a statement begins.

use super::*;

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
