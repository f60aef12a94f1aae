//! Which texts are a change of the tenant, and which only look like one.

use super::*;
use crate::directory::GuardLevel;
use crate::guard::{Rules, Verdict, inspect};
use crate::sql::survey;

/// What a text is to each level; all three agree on changes.
#[track_caller]
fn change(text: &str) -> Option<TenantChange> {
    let [off, context, strict] = [GuardLevel::Off, GuardLevel::Context, GuardLevel::Strict].map(|level| {
        match inspect(text.as_bytes(), &Rules::new("App.tenant_id", level, &[])) {
            Verdict::Tenant(found, change) => {
                assert_eq!(found, survey(text.as_bytes()), "{text}");
                Some(change)
            }
            Verdict::Pass(_) => {
                assert_eq!(level, GuardLevel::Off, "{text} passes");
                None
            }
            Verdict::Refuse(refusal) => {
                let rule = refusal.rule;
                assert!(["context-change", "opaque-name", "role-change"].contains(&rule), "{text}: {rule}");
                None
            }
        }
    });
    assert!(off == context && context == strict, "{text}: {off:?}, {context:?}, {strict:?}");
    strict
}

fn value(text: &str) -> Target {
    Target::Value(text.to_owned())
}

#[test]
fn a_set_is_recognised_in_any_lawful_spelling() {
    for (text, scope, target) in [
        ("SET app.tenant_id = 'b'", Scope::Session, value("b")),
        ("set APP.Tenant_Id to 'B'", Scope::Session, value("B")),
        ("SET SESSION app.tenant_id = b", Scope::Session, value("b")),
        ("SET LOCAL app.tenant_id = 'b'", Scope::Local, value("b")),
        (";; SET/**/app . \"TENANT_id\"/*;*/= -- x\n'b' ;", Scope::Session, value("b")),
        ("SET \"App.Tenant_ID\" TO 'b'", Scope::Session, value("b")),
        ("SET app.tenant_id TO Globex", Scope::Session, value("globex")),
        ("SET app.tenant_id TO \"Globex\"", Scope::Session, value("Globex")),
        ("SET app.tenant_id TO \"a\"\"b\"", Scope::Session, value("a\"b")),
        ("SET app.tenant_id = 'it''s'", Scope::Session, value("it's")),
        ("SET app.tenant_id = 'a'\n'b'", Scope::Session, value("ab")),
        ("SET app.tenant_id = E'b'", Scope::Session, value("b")),
        ("SET app.tenant_id = ''", Scope::Session, value("")),
        ("SET app.tenant_id = 'caf\u{e9}'", Scope::Session, value("caf\u{e9}")),
        ("SET app.tenant_id = 42", Scope::Session, value("42")),
        ("SET app.tenant_id = 007", Scope::Session, value("7")),
        ("SET app.tenant_id = 0099999999999", Scope::Session, value("0099999999999")),
        ("SET app.tenant_id = 1.50", Scope::Session, value("1.50")),
        ("SET app.tenant_id = -5", Scope::Session, value("-5")),
        ("SET app.tenant_id = -0", Scope::Session, value("0")),
        ("SET app.tenant_id = - 000", Scope::Session, value("0")),
        ("SET app.tenant_id = +007", Scope::Session, value("7")),
        ("SET app.tenant_id = + 5", Scope::Session, value("5")),
        ("SET app.tenant_id = \"user\"", Scope::Session, value("user")),
        ("SET app.tenant_id TO off", Scope::Session, value("off")),
        ("SET app.tenant_id = On", Scope::Session, value("on")),
        ("SET app.tenant_id = true", Scope::Session, value("true")),
        ("SET app.tenant_id TO DEFAULT", Scope::Session, Target::Default),
        ("SET LOCAL app.tenant_id = default", Scope::Local, Target::Default),
        ("SET app.tenant_id = \"default\"", Scope::Session, value("default")),
    ] {
        let expected = TenantChange {
            form: Form::Set,
            name: ChangedName::Tenant,
            scope,
            target,
            local_argument: 0..0,
            column: Box::default(),
        };
        assert_eq!(change(text), Some(expected), "{text}");
    }
}

#[test]
fn a_reset_is_recognised() {
    for text in ["RESET app.tenant_id", "reset \"app\".Tenant_id;", "/* x */ RESET \"app.tenant_id\" -- y"] {
        let expected = TenantChange {
            form: Form::Reset,
            name: ChangedName::Tenant,
            scope: Scope::Session,
            target: Target::Default,
            local_argument: 0..0,
            column: Box::default(),
        };
        assert_eq!(change(text), Some(expected), "{text}");
    }
}

#[test]
fn a_set_config_is_recognised_and_can_be_made_local() {
    for (text, scope, target, local) in [
        ("SELECT set_config('app.tenant_id', 'b', false)", Scope::Session, value("b"), "true)"),
        ("select SET_CONFIG ('App.Tenant_ID' , 'b' , TRUE ) ;", Scope::Local, value("b"), "true ) ;"),
        (
            "SELECT pg_catalog.set_config('app.tenant_id', $1, true)",
            Scope::Local,
            Target::Parameter(1),
            "true)",
        ),
        (
            "SELECT \"pg_catalog\" . \"set_config\"('app.tenant_id', $2, 'f')",
            Scope::Session,
            Target::Parameter(2),
            "true)",
        ),
        (
            "SELECT set_config('app.tenant_id', $1::text, 't'::bool)",
            Scope::Local,
            Target::Parameter(1),
            "true)",
        ),
        (
            "SELECT set_config('app.tenant_id', $1::VARCHAR, ' ON ')",
            Scope::Local,
            Target::Parameter(1),
            "true)",
        ),
        ("SELECT set_config('app.tenant_id', 'b'::text, 'no')", Scope::Session, value("b"), "true)"),
        ("SELECT set_config('app.tenant_id', NULL, false)", Scope::Session, Target::Default, "true)"),
        ("SELECT set_config('app.tenant_id', '', false) AS x", Scope::Session, value(""), "true) AS x"),
        (
            "SELECT set_config('app.tenant_id', $1, $2) AS \"x y\";",
            Scope::Parameter(2),
            Target::Parameter(1),
            "(($2)::pg_catalog.bool IS NULL OR true)) AS \"x y\";",
        ),
        (
            "SELECT set_config('app.tenant_id', $1, $65535::boolean)",
            Scope::Parameter(65535),
            Target::Parameter(1),
            "(($65535)::pg_catalog.bool IS NULL OR true))",
        ),
    ] {
        let found = change(text).unwrap_or_else(|| panic!("{text} is a change"));
        assert_eq!((found.form, found.scope, &found.target), (Form::SetConfig, scope, &target), "{text}");
        let made = String::from_utf8(found.made_local(text.as_bytes()).unwrap()).unwrap();
        let (head, _) = text.rsplit_once(", ").or_else(|| text.rsplit_once(" ,")).unwrap();
        assert!(made.starts_with(head) && made.ends_with(local), "{text} becomes {made}");
    }
    assert_eq!(change("RESET app.tenant_id").unwrap().made_local(b"RESET app.tenant_id"), None);
}

/// Texts that a change is a part of, or that only look like one.
const MORE: [&str; 55] = [
    "SET app.tenant_id = 'b'; SELECT 1",
    "SELECT 1; SET app.tenant_id = 'b'",
    "SET app.tenant_id = 'b'; SET app.tenant_id = 'c'",
    "SET app.tenant_id = 'b', 'c'",
    "SET app.tenant_id = 'b' 'c'",
    "SET app.tenant_id",
    "SET app.tenant_id =",
    "SET app.tenant_id = 'b')",
    "SET app.tenant_id FROM CURRENT",
    "SET app.tenant_id = $1",
    "SET app.tenant_id = $$b$$",
    "SET app.tenant_id = N'b'",
    "SET app.tenant_id = E'\\x62'",
    "SET app.tenant_id = U&'b'",
    "SET app.tenant_id = 12ab",
    "SET app.tenant_id = - - 5",
    "SET app.tenant_id = -b",
    "SET app.tenant_id = caf\u{c9}",
    "SET app.tenant_id = b.c",
    "SET app.tenant_id = NULL",
    "SET app.tenant_id TO Current_User",
    "SET SESSION LOCAL app.tenant_id = 'b'",
    "SET pgtenant.tag = 'b'",
    "RESET app.tenant_id, x",
    "RESET LOCAL app.tenant_id",
    "RESET pgtenant.tag",
    "SET ROLE b",
    "SELECT set_config('app.tenant_id', 'b', false), tenant_id FROM t",
    "SELECT set_config('app.tenant_id', 'b', false) FROM t",
    "SELECT set_config('app.tenant_id', 'b', false) x",
    "SELECT set_config('app.tenant_id', 'b', false) AS",
    "SELECT set_config('app.tenant_id', 'b', false) AS 'x'",
    "SELECT set_config('app.tenant_id', 'b', false)::int",
    "SELECT set_config('app.tenant_id', 'b', false) || ''",
    "SELECT * FROM set_config('app.tenant_id', 'b', false)",
    "SELECT 1, set_config('app.tenant_id', 'b', false)",
    "SELECT ALL set_config('app.tenant_id', 'b', false)",
    "(SELECT set_config('app.tenant_id', 'b', false))",
    "WITH x AS (SELECT set_config('app.tenant_id', 'b', false)) TABLE x",
    "SELECT set_config('app.tenant_id', 'b' || $1, false)",
    "SELECT set_config('app.tenant_id', 'b'::bytea, false)",
    "SELECT set_config('app.tenant_id', 'b': :text, false)",
    "SELECT set_config('app.tenant_id', (SELECT 'b'), false)",
    "SELECT set_config('app.tenant_id', 'b', NULL)",
    "SELECT set_config('app.tenant_id', 'b', 1)",
    "SELECT set_config('app.tenant_id', 'b', 'o')",
    "SELECT set_config('app.tenant_id', 'b', random() > 0.5)",
    "SELECT set_config('app.tenant_id', $0, false)",
    "SELECT set_config('app.tenant_id', $65536, false)",
    "SELECT set_config('app.tenant_id', 'b')",
    "SELECT set_config('app.tenant_id', 'b', false, 1)",
    "SELECT \"SET_CONFIG\"('app.tenant_id', 'b', false)",
    "SELECT public.set_config('app.tenant_id', 'b', false)",
    "SELECT set_config($1, 'b', false)",
    "PREPARE p AS SELECT set_config('app.tenant_id', 'b', false)",
];

#[test]
fn what_is_more_than_a_change_is_none() {
    for text in MORE {
        assert_eq!(change(text), None, "{text}");
    }
    let long = format!("SET app.tenant_id = {}", "x".repeat(64));
    assert_eq!(change(&long), None, "PostgreSQL would cut it");
    assert!(change(&format!("SET app.tenant_id = '{}'", "x".repeat(64))).is_some());
}

#[test]
fn a_setting_whose_name_begins_like_a_scope_is_told_apart() {
    for (text, scope) in [
        ("SET local.tenant = 'b'", Scope::Session),
        ("SET LOCAL local.tenant = 'b'", Scope::Local),
        ("SET SESSION local . tenant = 'b'", Scope::Session),
    ] {
        let rules = Rules::new("local.tenant", GuardLevel::Strict, &[]);
        let Verdict::Tenant(_, change) = inspect(text.as_bytes(), &rules) else { panic!("{text}") };
        assert_eq!(change.scope, scope, "{text}");
    }
}
