//! From a claim to an identity, by what the user is configured to prove: a password, a certificate, a token.
//! Promise: an `Identity` exists only for a user who has proven all of it, and an unknown user costs the
//! same messages and the same work as a known one with a wrong password.

mod bearer;
mod certificate;
mod exchange;
mod keys;
mod reach;
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
    /// The refusal that tells nothing: the same for user, password and tenant.
    pub fn refused(user: &str) -> Self {
        Self::Refused { user: user.to_owned() }
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
        let candidate =
            find(directory, &claim.user).or(found).and_then(|candidate| certified(candidate, channel, claim));
        let user = candidate.as_ref().map(|candidate| &*candidate.user);
        let method = user.map_or_else(|| self.mock_method(&claim.user), Method::of);
        let found = match readable(method, channel, &claim.user) {
            Method::Nothing => Found::default(),
            Method::Scram => {
                let verifier = user.and_then(|user| user.verifier.as_ref());
                let server_final = self.scram.prove(channel, &claim.user, verifier).await?;
                Found { server_final: Some(server_final), ..Found::default() }
            }
            Method::Token(how) => self.by_token(how, channel, &claim.user, user).await?,
        };
        let Candidate { user, suffix, mut reach } =
            candidate.ok_or_else(|| AuthFault::refused(&claim.user))?;
        if let Some(tenants) = found.tenants {
            reach.narrow(tenants);
        }
        Ok(Identity { user, suffix, reach, expires: found.expires, server_final: found.server_final })
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
        let tokens = self.tokens.as_ref().ok_or_else(|| AuthFault::refused(name))?;
        let outcome = match how {
            TokenUse::Password => bearer::by_password(channel, tokens).await?,
            TokenUse::OauthBearer => bearer::by_oauthbearer(channel, name, tokens).await?,
        };
        let user = user.ok_or_else(|| AuthFault::refused(name))?;
        let believed = |proven: Proven| {
            let expires = tokens.settings.end_sessions.then_some(proven.expires);
            Ok(Found { tenants: tokens.tenants_of(user, proven)?, expires, server_final: None })
        };
        outcome.and_then(believed).map_err(|reason: TokenFault| {
            tracing::info!(user = name, %reason, "a token was refused");
            AuthFault::refused(name)
        })
    }
}

/// Nobody is asked for a token where others can read it: the login goes on as if it were for a password, and fails.
fn readable(method: Method, channel: &Channel, name: &str) -> Method {
    if matches!(method, Method::Token(_)) && matches!(channel.stream, Stream::Tcp(_)) {
        tracing::info!(user = name, "a login by token needs TLS or a unix socket");
        return Method::Scram;
    }
    method
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
fn certified(mut candidate: Candidate, channel: &Channel, claim: &Claim) -> Option<Candidate> {
    let Some(wanted) = &candidate.user.certificate else { return Some(candidate) };
    match certificate::matches(wanted, channel.stream.client_certificate()) {
        CertificateMatch::No => {
            tracing::info!(user = claim.user, "the user's certificate was not shown");
            return None;
        }
        CertificateMatch::User => {}
        CertificateMatch::Tenants(tenants) => candidate.reach.narrow(tenants),
    }
    Some(candidate)
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
