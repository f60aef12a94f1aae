//! A text with at most one gap for a tenant's id: the names of TLS servers and of client certificates.
//! Promise: it reads a tenant only out of a text that fits as a whole; whether that tenant exists is another's affair.

/// The gap.
const TENANT: &str = "{tenant}";

/// What a name has to look like: `{tenant}.db.example.com`, `spiffe://example.com/app`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    /// Behind the gap; none: there is no gap, and the text is `before`.
    after: Option<String>,
}

/// What a text is to a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit<'t> {
    /// Another text.
    No,
    /// It fits, and there is no gap.
    Whole,
    /// It fits with this in the gap; never empty.
    Tenant(&'t str),
}

impl Pattern {
    /// None if there are two gaps, or braces that mean nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = match text.split_once(TENANT) {
            None => (text, None),
            Some((before, after)) => (before, Some(after)),
        };
        let is_plain = |part: &str| !part.contains(['{', '}']);
        let fits = is_plain(before) && after.is_none_or(is_plain) && !text.is_empty();
        fits.then(|| Self { before: before.to_owned(), after: after.map(str::to_owned) })
    }

    /// Whether it names a tenant.
    pub const fn has_gap(&self) -> bool {
        self.after.is_some()
    }

    /// Compares a text.
    pub fn fit<'t>(&self, text: &'t str) -> Fit<'t> {
        let Some(after) = &self.after else {
            return if text == self.before { Fit::Whole } else { Fit::No };
        };
        let gap = text.strip_prefix(self.before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
        gap.filter(|gap| !gap.is_empty()).map_or(Fit::No, Fit::Tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_as_a_whole_or_not_at_all() {
        let server = Pattern::parse("{tenant}.db.example.com").unwrap();
        assert_eq!(server.fit("acme.db.example.com"), Fit::Tenant("acme"));
        for other in ["db.example.com", ".db.example.com", "acme.db.example.com.evil.org", "acme.db", ""] {
            assert_eq!(server.fit(other), Fit::No, "{other}");
        }
        let role = Pattern::parse("spiffe://example.com/{tenant}/api").unwrap();
        assert_eq!(role.fit("spiffe://example.com/acme/api"), Fit::Tenant("acme"));
        assert_eq!(role.fit("spiffe://example.com//api"), Fit::No);
        assert_eq!(role.fit("spiffe://example.com/api"), Fit::No, "the two sides must not overlap");
        assert_eq!(Pattern::parse("app").unwrap().fit("app"), Fit::Whole);
        assert_eq!(Pattern::parse("app").unwrap().fit("app2"), Fit::No);
    }

    #[test]
    fn two_gaps_and_other_braces_mean_nothing() {
        for text in ["", "{tenant}{tenant}", "{tenant}.{region}", "a}b", "{tenan}"] {
            assert_eq!(Pattern::parse(text), None, "{text}");
        }
    }
}
