//! Policies as PostgreSQL prints them, compared with what they should say. Pure.
//! Printed and written forms differ in blanks, parentheses and made-up names, so those are left out first.

/// The column that names the tenant, as a table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Quoted where it has to be.
    pub(super) name: String,
    /// What the tenant's text is cast to; none for types that compare as text.
    pub(super) cast: Option<String>,
}

/// The SQL of the tenant under the sealed context: verified, or an error.
pub(super) const SEALED_TENANT: &str = "pgtenant.current_tenant()";

/// The SQL of the tenant under the plain context. NULLIF, because a setting that was set before is the empty string.
pub(super) fn setting_of_tenant(setting: &str) -> String {
    format!("NULLIF(current_setting({}, true), '')", super::literal(setting))
}

impl Column {
    fn cast(&self) -> String {
        self.cast.as_ref().map(|cast| format!("::{cast}")).unwrap_or_default()
    }

    /// The boundary: compares the column with this SQL of the tenant. `ANY (ARRAY[…])` and not `=`, because the planner
    /// must not join it with the client's clauses. `coalesce`, because beside a policy with `=` the planner would
    /// otherwise count the same condition twice and expect next to no rows.
    pub(super) fn pin(&self, tenant: &str) -> String {
        format!("coalesce({} = ANY (ARRAY[(SELECT {tenant}{})]), false)", self.name, self.cast())
    }

    /// The quick comparison with this SQL of the tenant: computed once per statement, an index condition that keeps
    /// orders. Under a seal it asks for the sealed tenant too: an index condition on a setting that somebody changed
    /// would tell, by the pin's error, whether there is a row.
    pub(super) fn equality(&self, tenant: &str) -> String {
        format!("{} = (SELECT {tenant}{})", self.name, self.cast())
    }

    /// Whether a printed expression is the pin.
    pub(super) fn is_pin(&self, printed: &str, tenant: &str) -> bool {
        let printed = normal(printed);
        self.spellings().any(|name| normal(&Self { name, cast: self.cast.clone() }.pin(tenant)) == printed)
    }

    /// Whether a printed expression compares the column with the setting, once per statement.
    pub(super) fn is_equality(&self, printed: &str, setting: &str) -> bool {
        let printed = normal(printed);
        let setting = super::literal(setting);
        let calls = ["", ",true", ",false"].map(|missing| format!("current_setting{setting}{missing}"));
        let nullified = calls.iter().map(|call| format!("NULLIF{call},''"));
        let values: Vec<String> = calls.iter().cloned().chain(nullified).collect();
        self.spellings().any(|name| {
            values.iter().any(|value| {
                [String::new(), self.cast()]
                    .iter()
                    .any(|cast| printed == normal(&format!("{name} = SELECT {value}{cast}")))
            })
        })
    }

    /// Whether a printed expression compares the column with the setting, asking for it again for each row.
    pub(super) fn is_slow_equality(&self, printed: &str, setting: &str) -> bool {
        let printed = normal(printed);
        let setting = super::literal(setting);
        let calls = ["", ",true", ",false"].map(|missing| format!("current_setting{setting}{missing}"));
        let plain = calls.iter().cloned();
        let nullified = calls.iter().map(|call| format!("NULLIF{call},''"));
        let values: Vec<String> = plain.chain(nullified).collect();
        let casts = [String::new(), self.cast(), "::text".to_owned(), "::charactervarying".to_owned()];
        self.spellings().any(|name| {
            let name = normal(&name);
            values.iter().any(|value| {
                casts.iter().any(|cast| {
                    let value = format!("{value}{}", normal(cast));
                    printed == format!("{name}={value}") || printed == format!("{value}={name}")
                })
            })
        })
    }

    /// How the column is printed where it is compared.
    fn spellings(&self) -> impl Iterator<Item = String> {
        let bare = Some(self.name.clone());
        let as_text = Some(format!("{}::text", self.name));
        let as_base = self.cast.as_ref().map(|cast| format!("{}::{cast}", self.name));
        [bare, as_text, as_base].into_iter().flatten()
    }
}

fn normal(expression: &str) -> String {
    let made_up = [
        (" AS current_tenant", ""),
        (" AS \"nullif\"", ""),
        (" AS current_setting", ""),
        ("COALESCE", "coalesce"),
        ("'::text", "'"),
    ];
    let written = made_up.iter().fold(expression.to_owned(), |text, (from, to)| text.replace(from, to));
    written.chars().filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cast: Option<&str>) -> Column {
        Column { name: "tenant_id".to_owned(), cast: cast.map(str::to_owned) }
    }

    #[test]
    fn a_pin_is_recognised_as_it_is_printed_and_nothing_else_is() {
        let sealed = |column: Column, printed: &str| column.is_pin(printed, SEALED_TENANT);
        let text = "COALESCE((tenant_id = ANY (ARRAY[( SELECT pgtenant.current_tenant() AS current_tenant)])), false)";
        let uuid = "COALESCE((tenant_id = ANY (ARRAY[( SELECT (pgtenant.current_tenant())::uuid AS current_tenant)])), false)";
        let varchar = text.replace("(tenant_id =", "((tenant_id)::text =");
        assert!(sealed(column(None), text) && sealed(column(None), &varchar));
        assert!(sealed(column(Some("uuid")), uuid));
        for other in [
            uuid,
            "(tenant_id = ( SELECT pgtenant.current_tenant() AS current_tenant))",
            "(tenant_id = ANY (ARRAY[( SELECT pgtenant.current_tenant() AS current_tenant)]))",
            &text.replace("false", "true"),
            &format!("({text} OR true)"),
            &text.replace("tenant_id", "other"),
            &text.replace(
                "pgtenant.current_tenant()",
                "NULLIF(current_setting('app.tenant_id'::text, true), ''::text)",
            ),
        ] {
            assert!(!sealed(column(None), other), "{other}");
        }
    }

    #[test]
    fn the_pin_of_the_plain_context_leaves_the_empty_string_out() {
        let tenant = setting_of_tenant("app.tenant_id");
        let text = "COALESCE((tenant_id = ANY (ARRAY[( SELECT NULLIF(current_setting('app.tenant_id'::text, true), ''::text) AS \"nullif\")])), false)";
        let uuid = text.replace("NULLIF(", "(NULLIF(").replace("''::text)", "''::text))::uuid");
        assert!(column(None).is_pin(text, &tenant) && column(Some("uuid")).is_pin(&uuid, &tenant));
        let bare = text.replace("NULLIF(", "").replace(", ''::text) AS \"nullif\"", " AS current_setting");
        for other in [&*bare, &text.replace("app.tenant_id", "app.other"), &uuid] {
            assert!(!column(None).is_pin(other, &tenant), "{other}");
        }
    }

    #[test]
    fn a_comparison_with_the_setting_is_recognised_under_a_seal() {
        let setting = "app.tenant_id";
        let text = "(tenant_id = ( SELECT NULLIF(current_setting('app.tenant_id'::text, true), ''::text) AS \"nullif\"))";
        let bare = "(tenant_id = ( SELECT current_setting('app.tenant_id'::text) AS current_setting))";
        let uuid = "(tenant_id = ( SELECT (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid AS \"nullif\"))";
        let outside = "(tenant_id = (( SELECT NULLIF(current_setting('app.tenant_id'::text, true), ''::text) AS \"nullif\"))::uuid)";
        assert!(column(None).is_equality(text, setting) && column(None).is_equality(bare, setting));
        assert!(
            column(Some("uuid")).is_equality(uuid, setting)
                && column(Some("uuid")).is_equality(outside, setting)
        );
        for other in [
            uuid,
            &text.replace("app.tenant_id", "app.other"),
            &format!("({text} OR is_public)"),
            "(tenant_id = ( SELECT pgtenant.current_tenant() AS current_tenant))",
        ] {
            assert!(!column(None).is_equality(other, setting), "{other}");
        }
    }

    #[test]
    fn the_common_form_is_rewritten_and_what_says_more_is_left_alone() {
        let setting = "app.tenant_id";
        for slow in [
            "(tenant_id = current_setting('app.tenant_id'::text))",
            "(tenant_id = current_setting('app.tenant_id'::text, true))",
            "(tenant_id = NULLIF(current_setting('app.tenant_id'::text, true), ''::text))",
            "((tenant_id)::text = current_setting('app.tenant_id'::text, true))",
            "(current_setting('app.tenant_id'::text) = tenant_id)",
        ] {
            assert!(column(None).is_slow_equality(slow, setting), "{slow}");
        }
        let uuid = "(tenant_id = (current_setting('app.tenant_id'::text))::uuid)";
        assert!(column(Some("uuid")).is_slow_equality(uuid, setting));
        for other in [
            "(tenant_id = ( SELECT NULLIF(current_setting('app.tenant_id'::text, true), ''::text) AS \"nullif\"))",
            "((tenant_id = current_setting('app.tenant_id'::text)) OR is_public)",
            "(tenant_id = current_setting('app.other'::text))",
            "true",
        ] {
            assert!(!column(None).is_slow_equality(other, setting), "{other}");
        }
    }
}
