//! TLS by rustls on both sides: what clients are shown, and how far servers are trusted.
//! `prefer` and `require` towards a server do not verify it, as libpq's sslmode of that name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::net::settings::{ClientAuthority, ServerTls};

/// The ALPN name of the protocol, needed for direct TLS (IANA registry; PostgreSQL 17).
pub const ALPN: &[u8] = b"postgresql";

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or parsed.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// rustls does not accept what the files hold.
    #[error("{0}")]
    Refused(#[from] rustls::Error),
    /// The roots cannot verify anything.
    #[error("no usable root certificates: {0}")]
    Roots(String),
}

/// What clients are shown: the rustls side, and the PEM chain for SCRAM channel binding.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// The chain as PEM text; `tls-server-end-point` (RFC 5929) hashes the first one.
    pub chain_pem: Arc<[u8]>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn file_error(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::File { path: path.to_owned(), source: source.into() }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| file_error(path, error))?;
    if chain.is_empty() {
        return Err(file_error(path, "holds no certificate"));
    }
    Ok(chain)
}

/// Loads the certificate that clients are shown. With `clients`, they may show one themselves, which must then be
/// of these authorities.
pub fn load_identity(
    certificate: &Path,
    private_key: &Path,
    clients: Option<&ClientAuthority>,
) -> Result<ServerIdentity, TlsError> {
    let chain = read_chain(certificate)?;
    let chain_pem = std::fs::read(certificate).map_err(|error| file_error(certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(|error| file_error(private_key, error))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(authority) => builder.with_client_cert_verifier(client_verifier(authority)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(ServerIdentity { config: Arc::new(config), chain_pem: chain_pem.into() })
}

/// A stranger's certificate, an expired and a revoked one end the handshake; no certificate at all does not: which
/// users need one is decided at login.
fn client_verifier(authority: &ClientAuthority) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(&authority.ca)?), provider())
            .allow_unauthenticated();
    if let Some(path) = &authority.revoked {
        let lists = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| file_error(path, error))?;
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    builder.build().map_err(|error| TlsError::Roots(error.to_string()))
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate).map_err(|error| file_error(path, error))?;
    }
    Ok(roots)
}

/// How to speak TLS to a server; none if `tls` is off.
pub fn client_config(tls: ServerTls, ca: Option<&Path>) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = match tls {
        ServerTls::Off => return Ok(None),
        ServerTls::Prefer | ServerTls::Require => Arc::new(Lenient { check: None, provider: provider() }),
        ServerTls::VerifyCa => Arc::new(Lenient { check: Some(webpki(ca)?), provider: provider() }),
        ServerTls::VerifyFull => webpki(ca)?,
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(Arc::new(config)))
}

/// How to speak to an HTTPS server, which has to be who it says.
pub fn https_config(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_webpki_verifier(webpki(ca)?).with_no_client_auth())
}

fn webpki(ca: Option<&Path>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = if let Some(path) = ca {
        read_roots(path)?
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| TlsError::Roots(error.to_string()))
}

/// The name to verify, from the host as configured.
pub fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Verifies less than the full name: nothing, or the chain alone.
#[derive(Debug)]
struct Lenient {
    check: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(check) = &self.check else { return Ok(ServerCertVerified::assertion()) };
        match check.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The chain is checked before the name, so a wrong name is all that is wrong here.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
