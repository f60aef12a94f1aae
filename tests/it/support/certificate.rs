//! Certificates made for one test, with the authority that signed them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A server certificate for a name, and its authority.
pub(crate) struct Certificate {
    chain_pem: String,
    key_pem: String,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// What a client shows.
pub(crate) struct ClientCertificate {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

/// The serial number of certificates that are revoked.
pub(crate) const REVOKED: u64 = 666;

impl Certificate {
    /// A certificate for `name`, signed by an authority that nobody else knows.
    pub(crate) fn for_name(name: &str) -> Self {
        Self::for_names(&[name])
    }

    /// The same for several names.
    pub(crate) fn for_names(names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        // OpenSSL takes a certificate for self-signed whose issuer has its own name.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        Self { chain_pem: leaf.pem(), key_pem: key.serialize_pem(), authority }
    }

    /// A certificate for a client of that common name, changed by `change`.
    pub(crate) fn issue(
        &self,
        common_name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.authority).unwrap();
        ClientCertificate { chain_pem: leaf.pem(), key_pem: key.serialize_pem() }
    }

    /// Writes a list into `directory` that revokes the serial number [`REVOKED`].
    pub(crate) fn write_revocations(&self, directory: &Path) -> PathBuf {
        let revoked = RevokedCertParams {
            serial_number: REVOKED.into(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2096, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = directory.join("revoked.crl");
        fs::write(&path, params.signed_by(&self.authority).unwrap().pem().unwrap()).unwrap();
        path
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
        fs::write(&path, self.authority.pem()).unwrap();
        path
    }

    /// What a server needs in order to show it.
    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::from_pem_slice(self.chain_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![chain], key).unwrap())
    }

    /// What a client needs in order to trust it, offering these application protocols.
    pub(crate) fn client(&self, alpn: &[&str]) -> Arc<rustls::ClientConfig> {
        self.client_showing(alpn, None)
    }

    /// The same for a client that shows a certificate of its own.
    pub(crate) fn client_showing(
        &self,
        alpn: &[&str],
        own: Option<&ClientCertificate>,
    ) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::from_pem_slice(own.chain_pem.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl ClientCertificate {
    /// Writes certificate and key into `directory`; the key for its owner's eyes only, as libpq wants it.
    pub(crate) fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (chain, key) = (directory.join("client.crt"), directory.join("client.key"));
        fs::write(&chain, &self.chain_pem).unwrap();
        fs::write(&key, &self.key_pem).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        (chain, key)
    }
}
