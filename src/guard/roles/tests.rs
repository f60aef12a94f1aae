//! Roles of the list pass in every spelling that can be read, and nothing else does.

use super::*;
use crate::directory::GuardLevel;
use crate::guard::argument::MAX_BOUND;
use crate::guard::{Verdict, inspect};

fn rules(level: GuardLevel, allow: &[&'static str]) -> Rules {
    Rules::new("app.tenant_id", level, allow)
        .with_roles(&["authenticated".to_owned(), "Web \"User\"".to_owned()])
}

/// What both levels say.
fn judge(text: &str) -> &'static str {
    let said = [GuardLevel::Context, GuardLevel::Strict].map(|level| {
        // So that the strict level, too, reads on behind the kind of statement.
        let rules = rules(level, &["explain", "statement-kind", "opaque-code", "role-setting"]);
        match inspect(text.as_bytes(), &rules) {
            Verdict::Pass(_) => "pass",
            Verdict::Tenant(..) => "tenant",
            Verdict::Refuse(refused) => refused.rule,
        }
    });
    assert_eq!(said[0], said[1], "{text}");
    said[0]
}

#[test]
fn roles_of_the_list_pass_in_every_spelling() {
    for text in [
        "SET ROLE authenticated",
        "set/**/local role Authenticated;",
        "SET SESSION ROLE authenticated",
        "SET ROLE 'authenticated'",
        "SET ROLE \"authenticated\"",
        "SET ROLE \"Web \"\"User\"\"\"",
        "SET role = authenticated",
        "SET LOCAL \"role\" TO 'authenticated'",
        "SET ROLE E'authenticated'",
        "SET ROLE 'none'; SET ROLE NONE; RESET ROLE; SET role TO DEFAULT",
        "BEGIN; SET LOCAL ROLE authenticated; SELECT 1; COMMIT",
        "SELECT set_config('role', 'authenticated', true)",
        "SELECT pg_catalog.set_config('ROLE', 'authenticated'::text, false), 1",
        "SELECT set_config('role', 'none', false), set_config('role', NULL, true)",
        "SELECT set_config('search_path', $1, true), set_config('role', $2, true)",
        "SELECT set_config('role', $1::varchar, true)",
        "SELECT set_config('role', $1, true), set_config('role', $1, false), $2",
        "DO $$ BEGIN SET LOCAL ROLE authenticated; END $$",
    ] {
        assert_eq!(judge(text), "pass", "{text}");
    }
}

#[test]
fn every_other_role_and_every_value_out_of_sight_is_refused() {
    for text in [
        "SET ROLE other",
        "SET ROLE \"Authenticated\"",
        "SET ROLE 'AUTHENTICATED'",
        "SET ROLE authenticated_",
        "SET ROLE \"authenticated \"",
        "SET ROLE 'NONE'",
        "SET ROLE",
        "SET role = ",
        "SET ROLE authenticated, other",
        "SET ROLE 'authen'\n'x'",
        "SET ROLE U&'authenticated'",
        "SET ROLE E'authenti\\143ated'",
        "SET ROLE $$authenticated$$",
        "SET ROLE 1",
        "SET ROLE authenticat\u{e9}",
        "SET ROLE authenticated; SET ROLE other",
        "SET/* x */ROLE-- authenticated\n other",
        "SET SESSION AUTHORIZATION authenticated",
        "SET session_authorization = 'authenticated'",
        "SELECT set_config('session_authorization', 'authenticated', true)",
        "SELECT set_config('role', 'other', true)",
        "SELECT set_config('role', 'authenticated' || 'x', true)",
        "SELECT set_config('role', lower('authenticated'), true)",
        "SELECT set_config('role', name, true) FROM users",
        "SELECT set_config('role', $1 || 'x', true)",
        "SELECT set_config('role', $1::name, true)",
        "SELECT set_config('role', $1::text || 'x', true)",
        "SELECT set_config('role', $0, true)",
        "SELECT $1::\"char\", set_config('role', $1::text, true)",
        "SELECT set_config('role', $1, true) WHERE $01 = 1",
        "SELECT set_config('role', 'authenticated'",
        "PREPARE p AS SELECT set_config('role', $1, true)",
        "DECLARE c CURSOR FOR SELECT set_config('role', $1, true)",
        "EXPLAIN ANALYZE SELECT set_config('role', $1, true)",
        "SELECT set_config('role', $1, true); SELECT 1",
        "CREATE FUNCTION f(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', $1, true) $$",
        "CREATE FUNCTION f(text) RETURNS text BEGIN ATOMIC SELECT set_config('role', $1, true); END",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET role = authenticated AS 'SELECT 1'",
        "ALTER ROLE app SET role = 'authenticated'",
        "ALTER ROLE app SET ROLE authenticated",
        "ALTER DATABASE app SET role TO authenticated",
        "DO $$ BEGIN SET ROLE other; END $$",
        "DO $$ BEGIN PERFORM set_config('role', 'other', true); END $$",
    ] {
        assert_eq!(judge(text), "role-change", "{text}");
    }
    for (text, rule) in [
        ("SET U&\"ro\\006ce\" = authenticated", "unicode-escape"),
        ("SET ROLE U&\"authenticated\"", "unicode-escape"),
        ("SELECT set_config('ro' || 'le', 'authenticated', true)", "opaque-name"),
        ("SELECT set_config('role'::text, 'authenticated', true)", "opaque-name"),
        ("UPDATE pg_settings SET setting = 'authenticated' WHERE name = 'role'", "opaque-name"),
    ] {
        let said = judge(text);
        assert!(said == rule || said == "role-change", "{text}: {said}");
    }
}

#[test]
fn a_refusal_names_the_setting_that_lists_roles() {
    let Verdict::Refuse(refused) = inspect(b"SET ROLE other", &rules(GuardLevel::Strict, &[])) else {
        panic!("it passed")
    };
    assert!(refused.hint.contains("user.roles"), "{}", refused.hint);
    assert!(refused.detail.contains("\"other\""), "{}", refused.detail);
}

#[test]
fn a_bound_value_is_compared_with_the_list() {
    let rules = rules(GuardLevel::Strict, &[]);
    for value in [Some(&b"authenticated"[..]), Some(b"none"), None] {
        assert_eq!(rules.check_bound_role(value), Ok(()), "{value:?}");
    }
    for value in [&b"other"[..], b"", b"Authenticated", b"authenticated\0", b"\xff", &[b'a'; 100]] {
        assert_eq!(rules.check_bound_role(Some(value)).unwrap_err().rule, "role-change", "{value:?}");
    }
}

#[test]
fn without_a_guard_nothing_limits_roles_and_none_is_carried() {
    assert!(!rules(GuardLevel::Off, &[]).has_roles());
    assert!(rules(GuardLevel::Context, &[]).has_roles());
}

#[test]
fn both_sides_of_the_number_of_bound_roles() {
    let calls = |count: usize| {
        let calls: Vec<String> = (1..=count).map(|n| format!("set_config('role', ${n}, true)")).collect();
        judge(&format!("SELECT {}", calls.join(", ")))
    };
    assert_eq!(calls(MAX_BOUND), "pass");
    assert_eq!(calls(MAX_BOUND + 1), "role-change");
}
