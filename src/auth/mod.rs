//! From a claim to an identity: SCRAM-SHA-256 by pgwire's state machine over our frames.
//! Promise: an `Identity` exists only for a user whose password was proven, and an unknown user costs the
//! same messages and the same work as a known one with a wrong password.

use std::io;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use pgwire::api::auth::sasl::scram::{ScramSecret, ScramServerAuth};
use sha2::Sha256;

use crate::directory::{Directory, User, Verifier};
use crate::fault::{Fault, Kind, Report, sqlstate};
use crate::names::UserName;
use crate::net::Channel;
use crate::startup::Claim;
use crate::wire::{encode, frame};

/// A user whose password was proven. Made by [`Authenticator::authenticate`] alone.
#[derive(Debug)]
pub struct Identity {
    user: Arc<User>,
    /// What a gateway user appended to its name: `api.acme` → `acme`.
    suffix: Option<String>,
    /// The server's proof, told only once the client is admitted.
    server_final: String,
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
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum AuthFault {
    /// The client went away.
    #[error("connection lost during login: {0}")]
    Lost(#[from] io::Error),
    /// Wrong password or unknown user: one message.
    #[error("password authentication failed for user \"{user}\"")]
    Refused {
        /// The name as claimed.
        user: String,
    },
    /// What came was no SASL message, or one over the limit.
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

/// `AuthenticationSASL`, `…Continue`, `…Final` and `…Ok` (protocol documentation, "Message Formats").
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;
const AUTHENTICATION_OK: u32 = 0;
/// Largest SASL message accepted, in bytes; PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH.
const MAX_SASL_BYTES: usize = 1024;
const PLAIN_MECHANISM: &[u8] = b"SCRAM-SHA-256";
const PLUS_MECHANISM: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Proves passwords.
#[derive(Debug, Clone)]
pub struct Authenticator {
    plain: ScramServerAuth,
    bound: Option<ScramServerAuth>,
    /// Salts of unknown users are made from it, so that they stay the same from try to try.
    mock_key: [u8; 32],
}

impl Authenticator {
    /// `chain_pem` is the certificate that clients see, for channel binding; `mock_key` is random and lives
    /// as long as the process.
    pub fn new(chain_pem: Option<&[u8]>, mock_key: [u8; 32]) -> Self {
        let bound = chain_pem.and_then(|pem| {
            let mut auth = ScramServerAuth::new();
            match auth.configure_certificate(pem) {
                Ok(()) => Some(auth),
                Err(error) => {
                    tracing::warn!(%error, "no channel binding with this certificate");
                    None
                }
            }
        });
        Self { plain: ScramServerAuth::new(), bound, mock_key }
    }

    /// Runs the exchange up to the client's proof. What follows is told by [`accept`], so that an unknown
    /// tenant can still be refused in the same steps as a wrong password.
    pub async fn authenticate(
        &self,
        channel: &mut Channel,
        claim: &Claim,
        directory: &Directory,
    ) -> Result<Identity, AuthFault> {
        let candidate = find(directory, &claim.user);
        let secret = match &candidate {
            Some((user, _)) => secret(&user.verifier),
            None => self.mock_secret(&claim.user),
        };
        let scram = self.bound.as_ref().filter(|_| channel.stream.is_tls()).unwrap_or(&self.plain);
        offer(channel, scram).await?;
        let first = read_sasl(channel).await?;
        let data = client_first(&first, scram).ok_or(AuthFault::Protocol)?;
        let (server_first, waiting) = scram
            .on_client_first_message_with_secret(data, secret)
            .map_err(|_| AuthFault::refused(&claim.user))?;
        encode::authentication(channel.output.space(), SASL_CONTINUE, server_first.as_bytes());
        channel.flush().await?;
        let last = read_sasl(channel).await?;
        let server_final =
            waiting.on_client_final_message(&last).map_err(|_| AuthFault::refused(&claim.user))?;
        let (user, suffix) = candidate.ok_or_else(|| AuthFault::refused(&claim.user))?;
        Ok(Identity { user, suffix, server_final })
    }

    /// Keys that no password matches, and a salt that does not change from try to try.
    fn mock_secret(&self, user: &str) -> ScramSecret {
        let derive = |purpose: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&self.mock_key).unwrap_or_else(|_| {
                // HMAC takes keys of any length (RFC 2104).
                unreachable!("HMAC accepts every key")
            });
            mac.update(purpose);
            mac.update(user.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let mut salt = derive(b"salt");
        salt.truncate(16);
        ScramSecret::Verifier {
            salt,
            iterations: 4096,
            stored_key: derive(b"stored"),
            server_key: derive(b"server"),
        }
    }
}

/// The server's proof and `AuthenticationOk`.
pub fn accept(identity: &Identity, out: &mut Vec<u8>) {
    encode::authentication(out, SASL_FINAL, identity.server_final.as_bytes());
    encode::authentication(out, AUTHENTICATION_OK, &[]);
}

/// The user of that name, or the gateway user in front of a dot with the tenant behind it.
fn find(directory: &Directory, name: &str) -> Option<(Arc<User>, Option<String>)> {
    if let Some(user) = UserName::parse(name).ok().and_then(|name| directory.users.get(&name)) {
        return Some((Arc::clone(user), None));
    }
    name.char_indices().filter(|(_, c)| *c == '.').find_map(|(dot, _)| {
        let (user, suffix) = name.split_at_checked(dot)?;
        let user = directory.users.get(user).filter(|user| user.grant.is_gateway())?;
        Some((Arc::clone(user), Some(suffix.get(1..)?.to_owned())))
    })
}

fn secret(verifier: &Verifier) -> ScramSecret {
    ScramSecret::Verifier {
        salt: verifier.salt.clone(),
        iterations: verifier.iterations,
        stored_key: verifier.stored_key.expose().clone(),
        server_key: verifier.server_key.expose().clone(),
    }
}

async fn offer(channel: &mut Channel, scram: &ScramServerAuth) -> io::Result<()> {
    let mut mechanisms = Vec::new();
    if scram.supports_channel_binding() {
        encode::cstr(&mut mechanisms, PLUS_MECHANISM);
    }
    encode::cstr(&mut mechanisms, PLAIN_MECHANISM);
    mechanisms.push(0);
    encode::authentication(channel.output.space(), SASL, &mechanisms);
    channel.flush().await
}

/// Reads one `p` message.
async fn read_sasl(channel: &mut Channel) -> Result<Vec<u8>, AuthFault> {
    channel.fill(frame::HEADER_BYTES).await?;
    let header = frame::header(channel.input.bytes())
        .ok()
        .flatten()
        .filter(|header| header.tag == b'p' && header.total <= frame::HEADER_BYTES + MAX_SASL_BYTES)
        .ok_or(AuthFault::Protocol)?;
    channel.fill(header.total).await?;
    let body = channel.input.bytes().get(frame::HEADER_BYTES..header.total).unwrap_or_default().to_vec();
    channel.input.consume(header.total);
    Ok(body)
}

/// The client-first message out of a `SASLInitialResponse`, if mechanism and channel-binding flag fit
/// together (RFC 5802, section 6).
fn client_first<'a>(body: &'a [u8], scram: &ScramServerAuth) -> Option<&'a [u8]> {
    let (mechanism, rest) = frame::split_cstr(body)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    if usize::try_from(i32::from_be_bytes(*length)).ok()? != data.len() {
        return None;
    }
    let flag = *data.first()?;
    let fits = match mechanism {
        PLUS_MECHANISM => scram.supports_channel_binding() && flag == b'p',
        PLAIN_MECHANISM => matches!(flag, b'n' | b'y'),
        _ => false,
    };
    fits.then_some(data)
}
