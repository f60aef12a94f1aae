//! The issuer's public keys. Promise: a signature is checked with a key of the kind that its algorithm needs and of
//! no other; keys are kept when their source is away, read again at intervals and, at most every few seconds, when a
//! token names one that is not known.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::settings::{JwksSource, TokenSettings};
use crate::net::tls::{TlsError, https_config};

/// The largest set of keys that is read, in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The most keys that are kept of it.
const MAX_KEYS: usize = 64;
/// How long reading them may take.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// The least time between two readings, whatever tokens name.
const MIN_GAP: Duration = Duration::from_secs(5);
/// How soon after a failure they are read again.
const RETRY: Duration = Duration::from_secs(10);

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Why keys could not be read.
#[derive(Debug, thiserror::Error)]
enum KeysFault {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {READ_LIMIT:?}")]
    Timeout,
    #[error("{0}")]
    Http(String),
    #[error("not a JWK set: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("no key in it can verify a signature")]
    Empty,
}

/// Public key that verifies signatures of tokens.
#[derive(Clone)]
pub(super) struct VerificationKey {
    id: Option<String>,
    jwk: Jwk,
    pub(super) decoding: DecodingKey,
}

/// Current verification keys of one JWKS source.
pub(super) struct KeySet {
    source: JwksSource,
    https: Option<HttpsClient>,
    interval: Duration,
    current: watch::Sender<Arc<Vec<VerificationKey>>>,
    wanted: Notify,
    last: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({:?})", self.source)
    }
}

impl KeySet {
    pub(super) fn new(settings: &TokenSettings) -> Result<Self, TlsError> {
        let https = match &settings.jwks {
            JwksSource::File(_) => None,
            JwksSource::Https(_) => Some(https_client(settings.jwks_ca.as_deref())?),
        };
        Ok(Self {
            source: settings.jwks.clone(),
            https,
            interval: settings.jwks_interval,
            current: watch::Sender::default(),
            wanted: Notify::new(),
            last: Mutex::default(),
        })
    }

    /// The keys that a signature may be of: those with the token's key id, or all if it names none. Waits for one
    /// reading if there is none of that id yet.
    pub(super) async fn of(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<VerificationKey> {
        let find = |keys: &[VerificationKey]| -> Vec<VerificationKey> {
            let same = |key: &&VerificationKey| id.is_none() || key.id.as_deref() == id;
            keys.iter().filter(same).filter(|key| key.fits(algorithm)).cloned().collect()
        };
        let mut readings = self.current.subscribe();
        let found = find(&readings.borrow_and_update());
        let was_read = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.is_empty() || was_read.is_some_and(|last| last.elapsed() < MIN_GAP) {
            return found;
        }
        self.wanted.notify_one();
        match timeout(READ_LIMIT, readings.changed()).await {
            Ok(Ok(())) => find(&readings.borrow()),
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    /// Reads them now and again, for ever. A failure keeps the last ones.
    pub(super) async fn keep(&self) {
        loop {
            let outcome = timeout(READ_LIMIT, self.read()).await.unwrap_or(Err(KeysFault::Timeout));
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let pause = match outcome {
                Ok(keys) => {
                    tracing::debug!(keys = keys.len(), "the token issuer's keys were read");
                    self.current.send_replace(Arc::new(keys));
                    self.interval
                }
                Err(fault) => {
                    let known = self.current.borrow().len();
                    tracing::warn!(%fault, known, "the token issuer's keys cannot be read: the known ones stay");
                    RETRY.min(self.interval)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn read(&self) -> Result<Vec<VerificationKey>, KeysFault> {
        let bytes = match (&self.source, &self.https) {
            (JwksSource::Https(address), Some(client)) => fetch(client, address).await?,
            (JwksSource::Https(_), None) => return Err(KeysFault::Empty),
            (JwksSource::File(path), _) => {
                if tokio::fs::metadata(path).await?.len() > MAX_BYTES as u64 {
                    return Err(KeysFault::TooLarge);
                }
                tokio::fs::read(path).await?.into()
            }
        };
        parse(&bytes)
    }
}

fn https_client(ca: Option<&Path>) -> Result<HttpsClient, TlsError> {
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(https_config(ca)?).https_only().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// No redirect is followed: the configured address is what the operator trusts.
async fn fetch(client: &HttpsClient, address: &str) -> Result<Bytes, KeysFault> {
    let wrong = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        KeysFault::Http(format!("{error}{cause}"))
    };
    let uri: Uri = address.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?;
    let request = Request::get(uri).header("accept", "application/json").body(Empty::new());
    let response =
        client.request(request.map_err(|error| wrong(&error))?).await.map_err(|error| wrong(&error))?;
    if response.status() != StatusCode::OK {
        return Err(KeysFault::Http(format!("the answer is {}", response.status())));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    Ok(body.map_err(|error| wrong(&*error))?.to_bytes())
}

/// Keys that cannot be used are passed over: sets hold keys for encryption, and of kinds that are new.
fn parse(bytes: &[u8]) -> Result<Vec<VerificationKey>, KeysFault> {
    #[derive(serde::Deserialize)]
    struct Loose {
        keys: Vec<serde_json::Value>,
    }
    let Loose { keys } = serde_json::from_slice(bytes)?;
    let jwks = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()).collect();
    let JwkSet { keys } = JwkSet { keys: jwks };
    let usable = keys.into_iter().filter(is_for_signatures).filter_map(|jwk| {
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Some(VerificationKey { id: jwk.common.key_id.clone(), jwk, decoding })
    });
    let usable: Vec<VerificationKey> = usable.take(MAX_KEYS).collect();
    if usable.is_empty() { Err(KeysFault::Empty) } else { Ok(usable) }
}

/// A shared secret is no public key: who can verify with it can sign.
fn is_for_signatures(jwk: &Jwk) -> bool {
    let is_public = matches!(
        jwk.algorithm,
        AlgorithmParameters::RSA(_)
            | AlgorithmParameters::EllipticCurve(_)
            | AlgorithmParameters::OctetKeyPair(_)
    );
    let use_fits = jwk.common.public_key_use.as_ref().is_none_or(|one| *one == PublicKeyUse::Signature);
    let operations = jwk.common.key_operations.as_ref();
    is_public && use_fits && operations.is_none_or(|all| all.contains(&KeyOperations::Verify))
}

impl VerificationKey {
    /// Whether the key is of the kind that an algorithm needs, and says nothing else of itself.
    fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match (&self.jwk.algorithm, algorithm) {
            (
                AlgorithmParameters::RSA(_),
                Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512,
            ) => true,
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES256) => {
                curve.curve == EllipticCurve::P256
            }
            (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES384) => {
                curve.curve == EllipticCurve::P384
            }
            (AlgorithmParameters::OctetKeyPair(pair), Algorithm::EdDSA) => {
                pair.curve == EllipticCurve::Ed25519
            }
            _ => false,
        };
        let stated = self.jwk.common.key_algorithm.map(|stated| stated.to_string().parse().ok());
        kind && stated.is_none_or(|stated| stated == Some(algorithm))
    }
}
