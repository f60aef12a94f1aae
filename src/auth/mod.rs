//! From a claim to an identity, by what the user is configured to prove: a password, a certificate, a token.
//! Promise: an `Identity` exists only for a user who has proven all of it, and an unknown user costs the
//! same messages and the same work as a known one with a wrong password.

mod bearer;
mod certificate;
mod exchange;
mod keys;
mod reach;
mod reason;
mod scram;
pub mod settings;
mod token;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::directory::{Directory, TokenUse, User};
use crate::fault::{Fault, Kind, Report, sqlstate};
use crate::names::UserName;
use crate::net::Channel;
use crate::net::stream::Stream;
use crate::startup::Claim;
use crate::wire::encode;
use certificate::CertificateMatch;
use exchange::{AUTHENTICATION_OK, SASL_FINAL};
pub use reach::Reach;
pub use reason::Reason;
use scram::Scram;
pub use token::Tokens;
use token::{Proven, TokenFault};

/// Largest SASL message of SCRAM, in bytes; PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH.
const MAX_SASL_BYTES: usize = 1024;

/// A user who has proven to be one. Made by [`Authenticator::authenticate`] alone.
#[derive(Debug)]
pub struct Identity {
    user: Arc<User>,
    /// What a gateway user appended to its name: `api.acme` → `acme`.
    suffix: Option<String>,
    /// What is left of its grant.
    reach: Reach,
    /// When what has proven it is no proof any more.
    expires: Option<SystemTime>,
    /// The server's own proof, told only once the client is admitted.
    server_final: Option<String>,
}

impl Identity {
    /// Who it is.
    pub const fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// The tenant named in the user name, if any.
    pub fn suffix(&self) -> Option<&str> {
        self.suffix.as_deref()
    }

    /// The tenants that its proofs leave to it.
    pub const fn reach(&self) -> &Reach {
        &self.reach
    }

    /// When its token expires.
    pub const fn expires(&self) -> Option<SystemTime> {
        self.expires
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum AuthFault {
    /// The client went away.
    #[error("connection lost during login: {0}")]
    Lost(#[from] io::Error),
    /// Wrong password, certificate or token, or unknown user: one message.
    #[error("password authentication failed for user \"{user}\"")]
    Refused {
        /// The name as claimed.
        user: String,
        /// For the log only.
        reason: Reason,
    },
    /// What came was no message of this login, or one over the limit.
    #[error("invalid authentication message")]
    Protocol,
}

impl Fault for AuthFault {
    fn kind(&self) -> Kind {
        Kind::Client
    }

    fn report(&self) -> Report {
        let sqlstate = match self {
            Self::Lost(_) | Self::Protocol => sqlstate::PROTOCOL_VIOLATION,
            Self::Refused { .. } => sqlstate::INVALID_PASSWORD,
        };
        Report::new(sqlstate, self.to_string())
    }
}

impl AuthFault {
    /// The refusal that tells the client nothing: the same for user, password and tenant.
    pub fn refused(user: &str, reason: Reason) -> Self {
        Self::Refused { user: user.to_owned(), reason }
    }

    /// What the log says of it and the client does not read.
    pub fn reason(&self) -> Option<Box<str>> {
        match self {
            Self::Refused { reason, .. } => Some(reason.to_string().into()),
            Self::Lost(_) | Self::Protocol => None,
        }
    }

    /// The same refusal for a name that is no candidate, whatever step of the exchange it failed at.
    fn because(self, reason: Option<&Reason>) -> Self {
        match (self, reason) {
            (Self::Refused { user, .. }, Some(reason)) => Self::Refused { user, reason: reason.clone() },
            (fault, _) => fault,
        }
    }
}

/// What a name in a claim may turn out to be.
struct Candidate {
    user: Arc<User>,
    suffix: Option<String>,
    reach: Reach,
}

/// What a client is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Nothing: its certificate has proven it.
    Nothing,
    Scram,
    Token(TokenUse),
}

impl Method {
    fn of(user: &User) -> Self {
        match (user.token, &user.verifier) {
            (Some(token), _) => Self::Token(token),
            (None, Some(_)) => Self::Scram,
            (None, None) => Self::Nothing,
        }
    }
}

/// What the exchange has found out, besides that the user is one.
#[derive(Default)]
struct Found {
    server_final: Option<String>,
    tenants: Option<Vec<String>>,
    expires: Option<SystemTime>,
}

/// Proves who somebody is.
#[derive(Debug, Clone)]
pub struct Authenticator {
    scram: Scram,
    tokens: Option<Arc<Tokens>>,
    /// What users are asked for here; names that nobody has are asked for one of it.
    methods: Vec<Method>,
}

impl Authenticator {
    /// `chain_pem` is the certificate that clients see, for channel binding; `mock_key` is random and lives
    /// as long as the process.
    pub fn new(
        chain_pem: Option<&[u8]>,
        mock_key: [u8; 32],
        tokens: Option<Arc<Tokens>>,
        directory: &Directory,
    ) -> Self {
        let all = [Method::Scram, Method::Token(TokenUse::Password), Method::Token(TokenUse::OauthBearer)];
        let is_used = |method: &Method| directory.users.values().any(|user| Method::of(user) == *method);
        let methods = all.into_iter().filter(is_used).collect();
        Self { scram: Scram::new(chain_pem, mock_key), tokens, methods }
    }

    /// The same where users may be found besides those of the directory: they have passwords.
    #[must_use]
    pub fn with_passwords(mut self) -> Self {
        if !self.methods.contains(&Method::Scram) {
            self.methods.push(Method::Scram);
        }
        self
    }

    /// Runs the exchange up to the client's proof. What follows is told by [`accept`], so that an unknown
    /// tenant can still be refused in the same steps as a wrong password. `found` is a user whom the directory does
    /// not have.
    pub async fn authenticate(
        &self,
        channel: &mut Channel,
        claim: &Claim,
        directory: &Directory,
        found: Option<Arc<User>>,
    ) -> Result<Identity, AuthFault> {
        let found = found.map(|user| Candidate { user, suffix: None, reach: Reach::default() });
        let candidate = find(directory, &claim.user)
            .or(found)
            .ok_or(Reason::UnknownUser)
            .and_then(|candidate| certified(candidate, channel));
        let user = candidate.as_ref().ok().map(|candidate| &*candidate.user);
        let found = self.exchange(channel, &claim.user, user).await;
        let found = found.map_err(|fault| fault.because(candidate.as_ref().err()))?;
        let Candidate { user, suffix, mut reach } =
            candidate.map_err(|reason| AuthFault::refused(&claim.user, reason))?;
        if let Some(tenants) = found.tenants {
            reach.narrow(tenants);
        }
        Ok(Identity { user, suffix, reach, expires: found.expires, server_final: found.server_final })
    }

    /// Asks the client for what the user is configured to prove; a name without a user for something that users are.
    async fn exchange(
        &self,
        channel: &mut Channel,
        name: &str,
        user: Option<&User>,
    ) -> Result<Found, AuthFault> {
        let method = user.map_or_else(|| self.mock_method(name), Method::of);
        let prove = async |channel: &mut Channel, verifier, reason| {
            let server_final = self.scram.prove(channel, name, verifier, reason).await?;
            Ok(Found { server_final: Some(server_final), ..Found::default() })
        };
        match method {
            Method::Nothing => Ok(Found::default()),
            // No client is asked for a token where others can read it: the login goes on as for a password, and fails.
            Method::Token(_) if matches!(channel.stream, Stream::Tcp(_)) => {
                prove(channel, None, Reason::CleartextToken).await
            }
            Method::Scram => {
                let verifier = user.and_then(|user| user.verifier.as_ref());
                prove(channel, verifier, Reason::UnknownUser).await
            }
            Method::Token(how) => self.by_token(how, channel, name, user).await,
        }
    }

    /// A name that nobody has is asked for what users are asked for, always the same.
    fn mock_method(&self, name: &str) -> Method {
        let number = self.scram.derive(b"method", name).first().map_or(0, |byte| usize::from(*byte));
        let at = number.checked_rem(self.methods.len());
        at.and_then(|at| self.methods.get(at)).copied().unwrap_or(Method::Scram)
    }

    async fn by_token(
        &self,
        how: TokenUse,
        channel: &mut Channel,
        name: &str,
        user: Option<&User>,
    ) -> Result<Found, AuthFault> {
        let unconfigured =
            || AuthFault::refused(name, Reason::Token("there is no section [token]".to_owned()));
        let tokens = self.tokens.as_ref().ok_or_else(unconfigured)?;
        let outcome = match how {
            TokenUse::Password => bearer::by_password(channel, tokens).await?,
            TokenUse::OauthBearer => bearer::by_oauthbearer(channel, name, tokens).await?,
        };
        let user = user.ok_or_else(|| AuthFault::refused(name, Reason::UnknownUser))?;
        let believed = |proven: Proven| {
            let expires = tokens.settings.end_sessions.then_some(proven.expires);
            Ok(Found { tenants: tokens.tenants_of(user, proven)?, expires, server_final: None })
        };
        outcome
            .and_then(believed)
            .map_err(|fault: TokenFault| AuthFault::refused(name, Reason::Token(fault.to_string())))
    }
}

/// Whether a name in a claim is one of the directory's.
pub fn is_known(directory: &Directory, name: &str) -> bool {
    find(directory, name).is_some()
}

/// The server's proof and `AuthenticationOk`.
pub fn accept(identity: &Identity, out: &mut Vec<u8>) {
    if let Some(server_final) = &identity.server_final {
        encode::authentication(out, SASL_FINAL, server_final.as_bytes());
    }
    encode::authentication(out, AUTHENTICATION_OK, &[]);
}

/// A candidate that needs a certificate is one only with it. Without, the login goes on as for an unknown name.
fn certified(mut candidate: Candidate, channel: &Channel) -> Result<Candidate, Reason> {
    let Some(wanted) = &candidate.user.certificate else { return Ok(candidate) };
    let shown = channel.stream.client_certificate();
    match certificate::matches(wanted, shown) {
        CertificateMatch::No if shown.is_none() => return Err(Reason::NoCertificate),
        CertificateMatch::No => return Err(Reason::OtherCertificate),
        CertificateMatch::User => {}
        CertificateMatch::Tenants(tenants) => candidate.reach.narrow(tenants),
    }
    Ok(candidate)
}

/// The user of that name, or the gateway user in front of a dot with the tenant behind it.
fn find(directory: &Directory, name: &str) -> Option<Candidate> {
    let candidate =
        |user: &Arc<User>, suffix| Candidate { user: Arc::clone(user), suffix, reach: Reach::default() };
    if let Some(user) = UserName::parse(name).ok().and_then(|name| directory.users.get(&name)) {
        return Some(candidate(user, None));
    }
    name.char_indices().filter(|(_, c)| *c == '.').find_map(|(dot, _)| {
        let (user, suffix) = name.split_at_checked(dot)?;
        let user = directory.users.get(user).filter(|user| user.grant.is_gateway())?;
        Some(candidate(user, Some(suffix.get(1..)?.to_owned())))
    })
}
