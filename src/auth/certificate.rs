//! Names out of a client's certificate, which TLS has verified already, and what they are to a user.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::directory::{CertificateName, Fit, SubjectKind};

/// How the names in a client certificate match the name that its user is configured with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CertificateMatch {
    /// Not that user's, or none at all.
    No,
    /// That user's, for any of its tenants.
    User,
    /// That user's, for these tenants.
    Tenants(Vec<String>),
}

/// Compares the names in a certificate with the name that the user's certificate must hold.
pub(super) fn matches(wanted: &CertificateName, certificate: Option<&[u8]>) -> CertificateMatch {
    let names = certificate.map(|der| names(wanted.kind, der)).unwrap_or_default();
    let mut tenants = Vec::new();
    for name in &names {
        match wanted.pattern.fit(name) {
            Fit::No => {}
            Fit::Whole => return CertificateMatch::User,
            Fit::Tenant(tenant) => tenants.push(tenant.to_owned()),
        }
    }
    if tenants.is_empty() { CertificateMatch::No } else { CertificateMatch::Tenants(tenants) }
}

/// A subject with two common names has none: which of them was meant is in doubt.
fn names(kind: SubjectKind, der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    if kind == SubjectKind::Cn {
        let mut all = certificate.subject().iter_common_name();
        let (first, second) = (all.next(), all.next());
        let only = first.filter(|_| second.is_none()).and_then(|name| name.as_str().ok());
        return only.map(str::to_owned).into_iter().collect();
    }
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let all = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let pick = |name: &GeneralName<'_>| match (kind, name) {
        (SubjectKind::Dns, GeneralName::DNSName(name)) => Some(name.to_ascii_lowercase()),
        (SubjectKind::Uri, GeneralName::URI(name)) => Some((*name).to_owned()),
        _ => None,
    };
    all.filter_map(pick).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::directory::Pattern;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["API.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "acme_app");
        params.subject_alt_names.push(SanType::URI("spiffe://example.com/acme/api".try_into().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://example.com/globex/api".try_into().unwrap()));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn look(kind: SubjectKind, pattern: &str) -> CertificateMatch {
        let wanted = CertificateName { kind, pattern: Pattern::parse(pattern).unwrap() };
        matches(&wanted, Some(&certificate()))
    }

    #[test]
    fn each_kind_of_name_is_found_in_its_place_only() {
        assert_eq!(look(SubjectKind::Cn, "acme_app"), CertificateMatch::User);
        assert_eq!(look(SubjectKind::Cn, "api.example.com"), CertificateMatch::No);
        assert_eq!(look(SubjectKind::Dns, "api.example.com"), CertificateMatch::User);
        assert_eq!(look(SubjectKind::Dns, "acme_app"), CertificateMatch::No);
        assert_eq!(look(SubjectKind::Cn, "{tenant}_app"), CertificateMatch::Tenants(vec!["acme".into()]));
        let both = CertificateMatch::Tenants(vec!["acme".into(), "globex".into()]);
        assert_eq!(look(SubjectKind::Uri, "spiffe://example.com/{tenant}/api"), both);
        assert_eq!(look(SubjectKind::Uri, "spiffe://example.org/{tenant}/api"), CertificateMatch::No);
        let wanted = CertificateName { kind: SubjectKind::Cn, pattern: Pattern::parse("a").unwrap() };
        assert_eq!(matches(&wanted, None), CertificateMatch::No);
        assert_eq!(matches(&wanted, Some(b"no certificate")), CertificateMatch::No);
    }
}
