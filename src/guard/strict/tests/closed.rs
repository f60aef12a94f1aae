//! What stays closed whatever is granted.

use super::*;

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
