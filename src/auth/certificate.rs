//! Names out of a client's certificate, which TLS has verified already, and what they are to a user.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::directory::{CertificateName, Fit, SubjectKind};

/// What a certificate is to a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Not that user's, or none at all.
    No,
    /// That user's, for any of its tenants.
    User,
    /// That user's, for these tenants.
    Tenants(Vec<String>),
}

/// Looks for the name that a user's certificate must hold.
pub(super) fn shown(wanted: &CertificateName, certificate: Option<&[u8]>) -> Shown {
    let names = certificate.map(|der| names(wanted.kind, der)).unwrap_or_default();
    let mut tenants = Vec::new();
    for name in &names {
        match wanted.pattern.fit(name) {
            Fit::No => {}
            Fit::Whole => return Shown::User,
            Fit::Tenant(tenant) => tenants.push(tenant.to_owned()),
        }
    }
    if tenants.is_empty() { Shown::No } else { Shown::Tenants(tenants) }
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

    fn look(kind: SubjectKind, pattern: &str) -> Shown {
        let wanted = CertificateName { kind, pattern: Pattern::parse(pattern).unwrap() };
        shown(&wanted, Some(&certificate()))
    }

    #[test]
    fn each_kind_of_name_is_found_in_its_place_only() {
        assert_eq!(look(SubjectKind::Cn, "acme_app"), Shown::User);
        assert_eq!(look(SubjectKind::Cn, "api.example.com"), Shown::No);
        assert_eq!(look(SubjectKind::Dns, "api.example.com"), Shown::User);
        assert_eq!(look(SubjectKind::Dns, "acme_app"), Shown::No);
        assert_eq!(look(SubjectKind::Cn, "{tenant}_app"), Shown::Tenants(vec!["acme".into()]));
        let both = Shown::Tenants(vec!["acme".into(), "globex".into()]);
        assert_eq!(look(SubjectKind::Uri, "spiffe://example.com/{tenant}/api"), both);
        assert_eq!(look(SubjectKind::Uri, "spiffe://example.org/{tenant}/api"), Shown::No);
        let wanted = CertificateName { kind: SubjectKind::Cn, pattern: Pattern::parse("a").unwrap() };
        assert_eq!(shown(&wanted, None), Shown::No);
        assert_eq!(shown(&wanted, Some(b"no certificate")), Shown::No);
    }
}
