//! What a login leaves of its user's grant. Promise: it only ever narrows; two narrowings leave what both allow.

/// The tenants that the ways of logging in leave to a user, by name as stated; none of them adds one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(Option<Vec<String>>);

impl Reach {
    /// Leaves these of what was left.
    pub fn narrow(&mut self, tenants: Vec<String>) {
        match &mut self.0 {
            None => self.0 = Some(tenants),
            Some(left) => left.retain(|tenant| tenants.contains(tenant)),
        }
    }

    /// Whether anything was said about tenants.
    pub const fn is_narrow(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what was said leaves no tenant at all.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether a tenant is left.
    pub fn allows(&self, tenant: &str) -> bool {
        self.0.as_ref().is_none_or(|left| left.iter().any(|one| one == tenant))
    }

    /// The one tenant that is left, if it is one.
    pub fn only(&self) -> Option<&str> {
        if let Some([only]) = self.0.as_deref() { Some(only) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_ever_narrows() {
        let mut reach = Reach::default();
        assert!(reach.allows("acme") && !reach.is_narrow() && reach.only().is_none());
        reach.narrow(vec!["acme".into(), "globex".into()]);
        assert!(reach.allows("acme") && reach.allows("globex") && !reach.allows("initech"));
        assert_eq!(reach.only(), None);
        reach.narrow(vec!["globex".into(), "initech".into()]);
        assert_eq!(reach.only(), Some("globex"));
        reach.narrow(vec!["acme".into()]);
        assert!(!reach.allows("acme") && !reach.allows("globex") && reach.is_narrow() && reach.is_empty());
    }
}
