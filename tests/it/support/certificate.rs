//! Certificates made for one test, with the authority that signed them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;

/// A server certificate for a name, and its authority.
pub(crate) struct Certificate {
    chain_pem: String,
    key_pem: String,
    authority_pem: String,
    authority: CertificateDer<'static>,
}

impl Certificate {
    /// A certificate for `name`, signed by an authority that nobody else knows.
    pub(crate) fn for_name(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        Self {
            chain_pem: leaf.pem(),
            key_pem: key.serialize_pem(),
            authority_pem: authority.pem(),
            authority: authority.der().clone(),
        }
    }

    /// Writes chain and key into `directory`; the key for its owner's eyes only.
    pub(crate) fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (chain, key) = (directory.join("server.crt"), directory.join("server.key"));
        fs::write(&chain, &self.chain_pem).unwrap();
        fs::write(&key, &self.key_pem).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        (chain, key)
    }

    /// Writes the authority's certificate into `directory`.
    pub(crate) fn write_authority(&self, directory: &Path) -> PathBuf {
        let path = directory.join("authority.crt");
        fs::write(&path, &self.authority_pem).unwrap();
        path
    }

    /// What a client needs in order to trust it, offering these application protocols.
    pub(crate) fn client(&self, alpn: &[&str]) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
