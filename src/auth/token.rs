//! What a JSON Web Token proves (RFC 7519). Promise: nothing of a token is believed before its signature was verified
//! with a key of the issuer, by an algorithm that the operator allows; then issuer, audience and time must fit too.

use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::keys::KeySet;
use super::settings::TokenSettings;
use crate::directory::{Grant, User};
use crate::names::MAX_NAME_BYTES;
use crate::net::tls::TlsError;

/// Longest token, in bytes; as PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH.
pub(super) const MAX_TOKEN_BYTES: usize = 65_535;
/// The most tenants that one token may name.
const MAX_TENANTS: usize = 64;

/// Why a token proves nothing. For the log; clients are told the one refusal.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenFault {
    #[error("it is no JSON Web Token")]
    Malformed,
    #[error("its header names extensions that are not understood")]
    Critical,
    #[error("its algorithm is not among token.algorithms")]
    Algorithm,
    #[error("no key of the issuer fits it")]
    UnknownKey,
    #[error("{0}")]
    Invalid(String),
    #[error("its claim {0:?} is missing or no name")]
    Claim(String),
    #[error("it is of another user")]
    OtherUser,
}

/// What a valid token says.
#[derive(Debug)]
pub(super) struct Proven {
    user: Option<String>,
    tenants: Option<Vec<String>>,
    pub(super) expires: SystemTime,
}

/// Verifies tokens of one issuer.
#[derive(Debug)]
pub struct Tokens {
    pub(super) settings: TokenSettings,
    keys: KeySet,
}

impl Tokens {
    /// Reads no keys yet.
    pub fn new(settings: TokenSettings) -> Result<Self, TlsError> {
        let keys = KeySet::new(&settings)?;
        Ok(Self { settings, keys })
    }

    /// Reads the issuer's keys, now and at intervals; never ends.
    pub async fn keep_keys(&self) {
        self.keys.keep().await;
    }

    pub(super) async fn verify(&self, token: &str) -> Result<Proven, TokenFault> {
        let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenFault::Critical);
        }
        if !self.settings.algorithms.contains(&header.alg) {
            return Err(TokenFault::Algorithm);
        }
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        let mut fault = TokenFault::UnknownKey;
        for key in self.keys.of(header.kid.as_deref(), header.alg).await {
            match decode::<Map<String, Value>>(token, &key.decoding, &validation) {
                Ok(data) => return self.proven(&data.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                    fault = invalid(&error);
                }
                Err(error) => return Err(invalid(&error)),
            }
        }
        Err(fault)
    }

    fn proven(&self, claims: &Map<String, Value>) -> Result<Proven, TokenFault> {
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        let expires = Duration::try_from_secs_f64(expires).unwrap_or_default() + self.settings.leeway;
        let expires = SystemTime::UNIX_EPOCH.checked_add(expires);
        let user = match &self.settings.user_claim {
            None => None,
            Some(claim) => {
                let missing = || TokenFault::Claim(claim.clone());
                Some(find(claims, claim).and_then(name).ok_or_else(missing)?)
            }
        };
        let tenants = match &self.settings.tenant_claim {
            None => None,
            Some(claim) => match find(claims, claim) {
                None => None,
                Some(value) => Some(names(value).ok_or_else(|| TokenFault::Claim(claim.clone()))?),
            },
        };
        let missing = || TokenFault::Claim("exp".to_owned());
        Ok(Proven { user, tenants, expires: expires.ok_or_else(missing)? })
    }

    /// The tenants that a token leaves to a user; none: what the user is granted.
    pub(super) fn tenants_of(&self, user: &User, proven: Proven) -> Result<Option<Vec<String>>, TokenFault> {
        if proven.user.is_some_and(|name| name != user.name.as_str()) {
            return Err(TokenFault::OtherUser);
        }
        let is_for_tenants = !matches!(user.grant, Grant::Maintenance(_) | Grant::Operator);
        match (&self.settings.tenant_claim, proven.tenants) {
            (Some(claim), None) if is_for_tenants => Err(TokenFault::Claim(claim.clone())),
            (_, tenants) => Ok(tenants),
        }
    }
}

/// In words of our own: an error of the library may hold a part of the token.
fn invalid(error: &jsonwebtoken::errors::Error) -> TokenFault {
    let what = match error.kind() {
        ErrorKind::InvalidSignature => "its signature is not by a key of the issuer",
        ErrorKind::ExpiredSignature => "it has expired (exp)",
        ErrorKind::ImmatureSignature => "it is not valid yet (nbf)",
        ErrorKind::InvalidIssuer => "its issuer (iss) is not token.issuer",
        ErrorKind::InvalidAudience => "its audience (aud) is not token.audience",
        ErrorKind::MissingRequiredClaim(claim) => {
            return TokenFault::Invalid(format!("its claim {claim} is missing"));
        }
        _ => "it cannot be read, or a claim has another form than RFC 7519 says",
    };
    TokenFault::Invalid(what.to_owned())
}

/// A claim by its name, or by a JSON pointer (RFC 6901) if that begins with a slash.
fn find<'c>(claims: &'c Map<String, Value>, claim: &str) -> Option<&'c Value> {
    let mut parts = claim.strip_prefix('/').map(|rest| rest.split('/')).into_iter().flatten();
    let Some(first) = parts.next() else { return claims.get(claim) };
    let unescaped = |part: &str| part.replace("~1", "/").replace("~0", "~");
    parts.try_fold(claims.get(&unescaped(first))?, |value, part| value.get(unescaped(part)))
}

/// A text, or a whole number, as which some issuers write ids.
fn name(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_u64() => number.to_string(),
        _ => return None,
    };
    (!text.is_empty() && text.len() <= MAX_NAME_BYTES).then_some(text)
}

fn names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(all) if all.len() <= MAX_TENANTS => all.iter().map(name).collect(),
        one => name(one).map(|name| vec![name]),
    }
}
