//! Built-in functions, views and common extensions' functions by which a statement reaches beyond its tenant:
//! a call must name its function, so the name is refused wherever it stands as an identifier. What merely looks
//! at the database's own structure is not here, nor what makes state of the own session.
//!
//! `setval` and `pg_sequences` are here, since a sequence set back makes other tenants' inserts fail and its last
//! value counts their rows; `nextval`, `currval` and `lastval` are not: the latter two are the session's own.

use super::rule::{
    ADVISORY_LOCK, LARGE_OBJECT, NOTIFY, OTHER_SESSION, SEQUENCE, SERVER_CONTROL, SERVER_FILE, SQL_IN_STRING,
};
use crate::sql::words::Words;

/// The rule against a name, and the name as the refusal says it. The name is folded, or stood in quotes.
#[inline]
pub(super) fn denied(name: &[u8]) -> Option<(&'static str, &'static str)> {
    if name.len() < SHORTEST {
        return None;
    }
    if let Some((name, rule)) = NAMES.find(name) {
        return rule.map(|rule| (rule, *name));
    }
    match name {
        [b'p' | b'P', b'g' | b'G', b'_', ..] => of_family(name, SYSTEM_FAMILIES),
        [b'c' | b'C' | b'd' | b'D', ..] => of_family(name, OTHER_FAMILIES),
        _ => None,
    }
}

fn of_family(name: &[u8], families: &[(&'static str, &'static str)]) -> Option<(&'static str, &'static str)> {
    let starts =
        |family: &str| name.get(..family.len()).is_some_and(|it| it.eq_ignore_ascii_case(family.as_bytes()));
    families.iter().find(|(family, _)| starts(family)).map(|(family, rule)| (*rule, *family))
}

/// No name here is shorter than `lo_get`.
const SHORTEST: usize = 6;

/// Families of system names, by how they begin.
const SYSTEM_FAMILIES: &[(&str, &str)] = &[
    ("pg_advisory_", ADVISORY_LOCK),
    ("pg_background_", SQL_IN_STRING),
    ("pg_backup_", SERVER_CONTROL),
    ("pg_buffercache", OTHER_SESSION),
    ("pg_copy_", SERVER_CONTROL),
    ("pg_create_", SERVER_CONTROL),
    ("pg_file_", SERVER_FILE),
    ("pg_get_wal_", OTHER_SESSION),
    ("pg_logical_", SERVER_CONTROL),
    ("pg_ls_", SERVER_FILE),
    ("pg_read_", SERVER_FILE),
    ("pg_replication_", SERVER_CONTROL),
    ("pg_stat_", OTHER_SESSION),
    ("pg_statio_", OTHER_SESSION),
    // pg_temp is one's own; these are numbered, and anybody's.
    ("pg_temp_", OTHER_SESSION),
    ("pg_toast_temp_", OTHER_SESSION),
    ("pg_try_advisory_", ADVISORY_LOCK),
    ("pg_wal_replay_", SERVER_CONTROL),
];

/// Families of names of extensions.
const OTHER_FAMILIES: &[(&str, &str)] =
    &[("crosstab", SQL_IN_STRING), ("connectby", SQL_IN_STRING), ("dblink", SQL_IN_STRING)];

static NAMES: Words<Option<&'static str>, 512> = Words::new(&[
    // It gives back what is one's own; drivers send it to reset a session.
    ("pg_advisory_unlock_all", None),
    ("currtid", Some(SQL_IN_STRING)),
    ("currtid2", Some(SQL_IN_STRING)),
    ("cursor_to_xml", Some(SQL_IN_STRING)),
    ("cursor_to_xmlschema", Some(SQL_IN_STRING)),
    ("database_to_xml", Some(SQL_IN_STRING)),
    ("database_to_xml_and_xmlschema", Some(SQL_IN_STRING)),
    ("database_to_xmlschema", Some(SQL_IN_STRING)),
    ("query_to_xml", Some(SQL_IN_STRING)),
    ("query_to_xml_and_xmlschema", Some(SQL_IN_STRING)),
    ("query_to_xmlschema", Some(SQL_IN_STRING)),
    ("schedule_in_database", Some(SQL_IN_STRING)),
    ("schema_to_xml", Some(SQL_IN_STRING)),
    ("schema_to_xml_and_xmlschema", Some(SQL_IN_STRING)),
    ("schema_to_xmlschema", Some(SQL_IN_STRING)),
    ("table_to_xml", Some(SQL_IN_STRING)),
    ("table_to_xml_and_xmlschema", Some(SQL_IN_STRING)),
    ("table_to_xmlschema", Some(SQL_IN_STRING)),
    ("ts_rewrite", Some(SQL_IN_STRING)),
    ("ts_stat", Some(SQL_IN_STRING)),
    ("xpath_table", Some(SQL_IN_STRING)),
    ("xslt_process", Some(SQL_IN_STRING)),
    ("lo_close", Some(LARGE_OBJECT)),
    ("lo_creat", Some(LARGE_OBJECT)),
    ("lo_create", Some(LARGE_OBJECT)),
    ("lo_export", Some(SERVER_FILE)),
    ("lo_from_bytea", Some(LARGE_OBJECT)),
    ("lo_get", Some(LARGE_OBJECT)),
    ("lo_import", Some(SERVER_FILE)),
    ("lo_lseek", Some(LARGE_OBJECT)),
    ("lo_lseek64", Some(LARGE_OBJECT)),
    ("lo_manage", Some(LARGE_OBJECT)),
    ("lo_open", Some(LARGE_OBJECT)),
    ("lo_put", Some(LARGE_OBJECT)),
    ("lo_tell", Some(LARGE_OBJECT)),
    ("lo_tell64", Some(LARGE_OBJECT)),
    ("lo_truncate", Some(LARGE_OBJECT)),
    ("lo_truncate64", Some(LARGE_OBJECT)),
    ("lo_unlink", Some(LARGE_OBJECT)),
    ("loread", Some(LARGE_OBJECT)),
    ("lowrite", Some(LARGE_OBJECT)),
    ("pg_largeobject", Some(LARGE_OBJECT)),
    ("pg_largeobject_metadata", Some(LARGE_OBJECT)),
    ("pg_notify", Some(NOTIFY)),
    ("pg_notification_queue_usage", Some(NOTIFY)),
    ("pg_get_sequence_data", Some(SEQUENCE)),
    ("pg_sequence_last_value", Some(SEQUENCE)),
    ("pg_sequences", Some(SEQUENCE)),
    ("setval", Some(SEQUENCE)),
    ("get_raw_page", Some(OTHER_SESSION)),
    ("pg_aios", Some(OTHER_SESSION)),
    ("pg_backend_memory_contexts", Some(OTHER_SESSION)),
    ("pg_blocking_pids", Some(OTHER_SESSION)),
    ("pg_cancel_backend", Some(OTHER_SESSION)),
    ("pg_export_snapshot", Some(OTHER_SESSION)),
    ("pg_get_aios", Some(OTHER_SESSION)),
    ("pg_get_backend_memory_contexts", Some(OTHER_SESSION)),
    ("pg_get_multixact_members", Some(OTHER_SESSION)),
    ("pg_get_process_memory_contexts", Some(OTHER_SESSION)),
    ("pg_get_shmem_allocations", Some(OTHER_SESSION)),
    ("pg_isolation_test_session_is_blocked", Some(OTHER_SESSION)),
    ("pg_last_committed_xact", Some(OTHER_SESSION)),
    ("pg_lock_status", Some(OTHER_SESSION)),
    ("pg_locks", Some(OTHER_SESSION)),
    ("pg_log_backend_memory_contexts", Some(OTHER_SESSION)),
    ("pg_prepared_xact", Some(OTHER_SESSION)),
    ("pg_prepared_xacts", Some(OTHER_SESSION)),
    ("pg_safe_snapshot_blocking_pids", Some(OTHER_SESSION)),
    ("pg_shmem_allocations", Some(OTHER_SESSION)),
    ("pg_shmem_allocations_numa", Some(OTHER_SESSION)),
    ("pg_terminate_backend", Some(OTHER_SESSION)),
    ("pgrowlocks", Some(OTHER_SESSION)),
    ("pg_current_logfile", Some(SERVER_FILE)),
    ("pg_hba_file_rules", Some(SERVER_FILE)),
    ("pg_ident_file_mappings", Some(SERVER_FILE)),
    ("pg_logdir_ls", Some(SERVER_FILE)),
    ("pg_show_all_file_settings", Some(SERVER_FILE)),
    ("pg_stat_file", Some(SERVER_FILE)),
    ("pg_drop_replication_slot", Some(SERVER_CONTROL)),
    ("pg_get_replication_slots", Some(SERVER_CONTROL)),
    ("pg_import_system_collations", Some(SERVER_CONTROL)),
    ("pg_promote", Some(SERVER_CONTROL)),
    ("pg_reload_conf", Some(SERVER_CONTROL)),
    ("pg_rotate_logfile", Some(SERVER_CONTROL)),
    ("pg_rotate_logfile_old", Some(SERVER_CONTROL)),
    ("pg_show_replication_origin_status", Some(SERVER_CONTROL)),
    ("pg_start_backup", Some(SERVER_CONTROL)),
    ("pg_stop_backup", Some(SERVER_CONTROL)),
    ("pg_switch_wal", Some(SERVER_CONTROL)),
    ("pg_switch_xlog", Some(SERVER_CONTROL)),
    ("pg_sync_replication_slots", Some(SERVER_CONTROL)),
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_itself_or_by_its_family() {
        for (entry, rule) in NAMES.entries() {
            assert!(entry.len() >= SHORTEST, "{entry}");
            let found = denied(entry.to_ascii_uppercase().as_bytes());
            assert_eq!(found, rule.map(|rule| (rule, *entry)), "{entry}");
        }
        for (family, rule) in SYSTEM_FAMILIES.iter().chain(OTHER_FAMILIES) {
            assert_eq!(denied(format!("{family}x").as_bytes()), Some((*rule, *family)));
        }
        for innocent in [
            "",
            "pg",
            "pg_",
            "pg_class",
            "pg_statistic_ext",
            "pg_stats",
            "lo_orderkey",
            "notify",
            "dblin",
            "nextval",
            "currval",
            "lastval",
            "pg_temp",
            "pg_sequence",
            "pg_current_wal_lsn",
            "setseed",
            "crossta",
        ] {
            assert_eq!(denied(innocent.as_bytes()), None, "{innocent}");
        }
    }
}
