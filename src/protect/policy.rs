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

impl Column {
    fn cast(&self) -> String {
        self.cast.as_ref().map(|cast| format!("::{cast}")).unwrap_or_default()
    }

    /// The boundary. `ANY (ARRAY[…])` and not `=`: the planner must not join it with the client's clauses.
    pub(super) fn pin(&self) -> String {
        format!("{} = ANY (ARRAY[(SELECT pgtenant.current_tenant()){}])", self.name, self.cast())
    }

    /// The quick comparison: computed once per statement, an index condition that keeps orders.
    pub(super) fn equality(&self, setting: &str) -> String {
        let setting = super::literal(setting);
        format!("{} = (SELECT NULLIF(current_setting({setting}, true), ''){})", self.name, self.cast())
    }

    /// Whether a printed expression is the pin.
    pub(super) fn is_pin(&self, printed: &str) -> bool {
        let printed = normal(printed);
        self.spellings().any(|name| {
            let wanted = format!("{name} = ANY (ARRAY[(SELECT pgtenant.current_tenant()){}])", self.cast());
            normal(&wanted) == printed
        })
    }

    /// Whether a printed expression compares the column with the setting, asking for it again for each row.
    pub(super) fn is_slow_equality(&self, printed: &str, setting: &str) -> bool {
        let printed = normal(printed);
        let setting = super::literal(setting);
        let calls = ["", ",true", ",false"].map(|missing| format!("current_setting{setting}::text{missing}"));
        let plain = calls.iter().cloned();
        let nullified = calls.iter().map(|call| format!("NULLIF{call},''::text"));
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
    let named = expression.replace(" AS current_tenant", "").replace(" AS \"nullif\"", "");
    named.chars().filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cast: Option<&str>) -> Column {
        Column { name: "tenant_id".to_owned(), cast: cast.map(str::to_owned) }
    }

    #[test]
    fn a_pin_is_recognised_as_it_is_printed_and_nothing_else_is() {
        let text = "(tenant_id = ANY (ARRAY[( SELECT pgtenant.current_tenant() AS current_tenant)]))";
        let uuid = "(tenant_id = ANY (ARRAY[(( SELECT pgtenant.current_tenant() AS current_tenant))::uuid]))";
        let varchar =
            "((tenant_id)::text = ANY (ARRAY[( SELECT pgtenant.current_tenant() AS current_tenant)]))";
        assert!(column(None).is_pin(text) && column(None).is_pin(varchar));
        assert!(column(Some("uuid")).is_pin(uuid));
        for other in [
            uuid,
            "(tenant_id = ( SELECT pgtenant.current_tenant() AS current_tenant))",
            "((tenant_id = ANY (ARRAY[( SELECT pgtenant.current_tenant() AS current_tenant)])) OR true)",
            "(other = ANY (ARRAY[( SELECT pgtenant.current_tenant() AS current_tenant)]))",
        ] {
            assert!(!column(None).is_pin(other), "{other}");
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
