//! What `application_name` is on servers: the client's own with the tenant's id, so that `pg_stat_activity` and
//! PostgreSQL's log say for whom a server works. Clients go on to read their own.

use crate::upstream::context::SessionParameters;

/// The setting.
pub const APPLICATION_NAME: &str = "application_name";
/// PostgreSQL cuts it after so many bytes (`NAMEDATALEN - 1`).
const MAX_BYTES: usize = 63;

/// `tenancy.application_name`, for one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameForm {
    form: String,
}

impl NameForm {
    /// The form with the tenant filled in; none if it is the client's own name and nothing else.
    pub(super) fn new(form: &str, tenant: &str) -> Option<Self> {
        (form != "{application_name}").then(|| Self { form: form.replace("{tenant}", tenant) })
    }

    /// What a client with these parameters is called on servers.
    pub(super) fn of(&self, parameters: &SessionParameters) -> String {
        self.fill(parameters.get(APPLICATION_NAME).unwrap_or_default())
    }

    fn fill(&self, own: &str) -> String {
        let name = self.form.replace("{application_name}", own);
        let name = name.trim();
        let end = (0..=MAX_BYTES.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
        name.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_is_named_and_the_length_is_bounded() {
        let form = NameForm::new("{tenant} {application_name}", "acme").unwrap();
        assert_eq!(form.fill("billing"), "acme billing");
        assert_eq!(form.fill(""), "acme");
        assert_eq!(form.fill(&"x".repeat(100)), format!("acme {}", "x".repeat(58)));
        assert_eq!(form.fill(&"ä".repeat(100)), format!("acme {}", "ä".repeat(29)));
        assert_eq!(form.fill("{tenant}"), "acme {tenant}", "a client's own braces stay");
        assert_eq!(NameForm::new("{application_name}", "acme"), None);
    }
}
