//! By name: what reaches beyond the tenant whatever the statement.

use super::*;

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
