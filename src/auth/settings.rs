//! `[token]`: whose tokens are believed, and what they say.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

pub use jsonwebtoken::Algorithm;

/// Whose tokens are believed (RFC 7519), and which claims name the user and the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must hold.
    pub audience: String,
    /// What tokens may be signed with; public-key algorithms only.
    pub algorithms: Vec<Algorithm>,
    /// Where the issuer's public keys are, as a JWK set (RFC 7517).
    pub jwks: JwksSource,
    /// PEM roots to verify that address with; none: the system's.
    pub jwks_ca: Option<PathBuf>,
    /// How often they are read again.
    pub jwks_interval: Duration,
    /// The claim that names the tenant, or the tenants.
    pub tenant_claim: Option<String>,
    /// The claim that must be the login name.
    pub user_claim: Option<String>,
    /// What clients are told to ask the issuer for.
    pub scope: String,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Sessions end with their token, at the next transaction boundary.
    pub end_sessions: bool,
}

/// Where public keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// In a file.
    File(PathBuf),
    /// Behind an HTTPS address.
    Https(String),
}

/// An algorithm by its name (RFC 7518, RFC 8037). HS256 and its like are none: who can verify with those can sign.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let is_shared_secret =
        |one: &Algorithm| matches!(one, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    Algorithm::from_str(name).ok().filter(|one| !is_shared_secret(one))
}
