//! SCRAM-SHA-256 by pgwire's state machine over our frames (RFC 5802, RFC 7677; "SASL Authentication").
//! Promise: a name that nobody has costs the same messages and the same work as a wrong password.

use std::io;

use hmac::{Hmac, KeyInit, Mac};
use pgwire::api::auth::sasl::scram::{ScramSecret, ScramServerAuth};
use pgwire::error::PgWireError;
use sha2::Sha256;

use super::exchange::{SASL, SASL_CONTINUE, initial_response, read_message};
use super::{AuthFault, MAX_SASL_BYTES, Reason};
use crate::directory::Verifier;
use crate::net::Channel;
use crate::wire::encode;

const PLAIN_MECHANISM: &[u8] = b"SCRAM-SHA-256";
const PLUS_MECHANISM: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Proves passwords.
#[derive(Debug, Clone)]
pub(super) struct Scram {
    plain: ScramServerAuth,
    bound: Option<ScramServerAuth>,
    /// Salts of unknown users are made from it, so that they stay the same from try to try.
    mock_key: [u8; 32],
}

impl Scram {
    pub(super) fn new(chain_pem: Option<&[u8]>, mock_key: [u8; 32]) -> Self {
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

    /// Runs the exchange up to the client's proof, and gives the server's own. Without a verifier it fails, as for
    /// a wrong password, and the log reads `otherwise`.
    pub(super) async fn prove(
        &self,
        channel: &mut Channel,
        user: &str,
        verifier: Option<&Verifier>,
        otherwise: Reason,
    ) -> Result<String, AuthFault> {
        let refused = |error: &PgWireError| match verifier {
            Some(_) => AuthFault::refused(user, reason(error)),
            None => AuthFault::refused(user, otherwise.clone()),
        };
        let secret = verifier.map_or_else(|| self.mock_secret(user), secret);
        let scram = self.bound.as_ref().filter(|_| channel.stream.is_tls()).unwrap_or(&self.plain);
        offer(channel, scram).await?;
        let first = read_message(channel, MAX_SASL_BYTES).await?;
        let data = client_first(&first, scram).ok_or(AuthFault::Protocol)?;
        let (server_first, waiting) =
            scram.on_client_first_message_with_secret(data, secret).map_err(|error| refused(&error))?;
        encode::authentication(channel.output.space(), SASL_CONTINUE, server_first.as_bytes());
        channel.flush().await?;
        let last = read_message(channel, MAX_SASL_BYTES).await?;
        let server_final = waiting.on_client_final_message(&last).map_err(|error| refused(&error))?;
        if verifier.is_none() {
            return Err(AuthFault::refused(user, otherwise));
        }
        Ok(server_final)
    }

    /// Keys that no password matches, and a salt that does not change from try to try.
    fn mock_secret(&self, user: &str) -> ScramSecret {
        let mut salt = self.derive(b"salt", user);
        salt.truncate(16);
        ScramSecret::Verifier {
            salt,
            iterations: 4096,
            stored_key: self.derive(b"stored", user),
            server_key: self.derive(b"server", user),
        }
    }

    /// Bytes that look random, and are the same for a name as long as the process lives.
    pub(super) fn derive(&self, purpose: &[u8], user: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.mock_key).unwrap_or_else(|_| {
            // HMAC takes keys of any length (RFC 2104).
            unreachable!("HMAC accepts every key")
        });
        mac.update(purpose);
        mac.update(user.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }
}

/// In words of our own: an error of the library may hold what the client sent.
fn reason(error: &PgWireError) -> Reason {
    match error {
        PgWireError::InvalidPassword(_) => Reason::WrongPassword,
        PgWireError::InvalidScramMessage(text) if text.to_ascii_lowercase().contains("channel binding") => {
            Reason::Exchange(
                "the channel binding does not fit; does something between the client and pgtenant end TLS?",
            )
        }
        _ => Reason::Exchange("a field is missing or wrong"),
    }
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

/// The client-first message out of a `SASLInitialResponse`, if mechanism and channel-binding flag fit
/// together (RFC 5802, section 6).
fn client_first<'a>(body: &'a [u8], scram: &ScramServerAuth) -> Option<&'a [u8]> {
    let (mechanism, data) = initial_response(body)?;
    let flag = *data.first()?;
    let fits = match mechanism {
        PLUS_MECHANISM => scram.supports_channel_binding() && flag == b'p',
        PLAIN_MECHANISM => matches!(flag, b'n' | b'y'),
        _ => false,
    };
    fits.then_some(data)
}
