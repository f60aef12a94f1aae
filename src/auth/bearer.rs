//! Tokens on the wire: as a cleartext password, and by SASL OAUTHBEARER (RFC 7628), whose messages pgwire reads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use pgwire::api::auth::sasl::oauth::{Oauth, OauthValidator, ValidatorModuleResult};
use pgwire::api::auth::sasl::{OAUTHBEARER_METHOD, SASLState};
use pgwire::api::{ClientInfo as _, DefaultClient, METADATA_USER};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::startup::{Authentication, PasswordMessageFamily, SASLInitialResponse, SASLResponse};

use super::exchange::{CLEARTEXT_PASSWORD, SASL, SASL_CONTINUE, initial_response, read_message};
use super::token::{MAX_TOKEN_BYTES, Proven, TokenFault, Tokens};
use super::{AuthFault, MAX_SASL_BYTES, Reason};
use crate::net::Channel;
use crate::wire::{encode, frame};

/// Asks for a token as a password.
pub(super) async fn by_password(
    channel: &mut Channel,
    tokens: &Tokens,
) -> Result<Result<Proven, TokenFault>, AuthFault> {
    encode::authentication(channel.output.space(), CLEARTEXT_PASSWORD, &[]);
    channel.flush().await?;
    let body = read_message(channel, MAX_TOKEN_BYTES + 1).await?;
    let (token, rest) = frame::split_cstr(&body).ok_or(AuthFault::Protocol)?;
    if !rest.is_empty() {
        return Err(AuthFault::Protocol);
    }
    Ok(tokens.verify(&String::from_utf8_lossy(token)).await)
}

/// Asks for a token by OAUTHBEARER. A client that has none is told where to get one, and fails then.
pub(super) async fn by_oauthbearer(
    channel: &mut Channel,
    user: &str,
    tokens: &Arc<Tokens>,
) -> Result<Result<Proven, TokenFault>, AuthFault> {
    let mut mechanisms = Vec::new();
    encode::cstr(&mut mechanisms, OAUTHBEARER_METHOD.as_bytes());
    mechanisms.push(0);
    encode::authentication(channel.output.space(), SASL, &mechanisms);
    channel.flush().await?;
    let body = read_message(channel, MAX_TOKEN_BYTES).await?;
    let (mechanism, data) = initial_response(&body).ok_or(AuthFault::Protocol)?;
    if mechanism != OAUTHBEARER_METHOD.as_bytes() || data.is_empty() {
        return Err(AuthFault::Protocol);
    }
    let verdict = Arc::new(Verdict { tokens: Arc::clone(tokens), reached: Mutex::default() });
    let settings = &tokens.settings;
    let oauth = Oauth::new(settings.issuer.clone(), settings.scope.clone(), Arc::clone(&verdict) as _);
    let first = SASLInitialResponse::new(OAUTHBEARER_METHOD.to_owned(), Some(Bytes::copy_from_slice(data)));
    let first = PasswordMessageFamily::SASLInitialResponse(first);
    let client = client(user);
    let (answer, state) = oauth
        .process_oauth_message(&client, first, &SASLState::OauthStateInit)
        .await
        .map_err(|error| AuthFault::refused(user, Reason::OauthBearer(fault(&error))))?;
    if let Some(Authentication::SASLContinue(problem)) = answer {
        encode::authentication(channel.output.space(), SASL_CONTINUE, &problem);
        channel.flush().await?;
        let last = SASLResponse::new(read_message(channel, MAX_SASL_BYTES).await?.into());
        let last = PasswordMessageFamily::SASLResponse(last);
        let end = oauth.process_oauth_message(&client, last, &state).await;
        let told = Reason::OauthBearer("the client sent no token, and was told where to get one");
        return Err(end.map_or_else(|_| AuthFault::refused(user, told), |_| AuthFault::Protocol));
    }
    let reached = verdict.reached.lock().unwrap_or_else(PoisonError::into_inner).take();
    reached.ok_or(AuthFault::Protocol)
}

/// In words of our own: an error of the library may hold what the client sent.
const fn fault(error: &PgWireError) -> &'static str {
    match error {
        PgWireError::OAuthAuthenticationFailed(_) => "the client's message holds no bearer token",
        _ => "the client's message cannot be read",
    }
}

/// What pgwire wants to know about a client.
fn client(user: &str) -> DefaultClient<()> {
    let mut client = DefaultClient::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), true);
    client.metadata_mut().insert(METADATA_USER.to_owned(), user.to_owned());
    client
}

/// Takes the token out of pgwire's hands, and keeps what was found about it.
#[derive(Debug)]
struct Verdict {
    tokens: Arc<Tokens>,
    reached: Mutex<Option<Result<Proven, TokenFault>>>,
}

#[async_trait]
impl OauthValidator for Verdict {
    async fn validate(&self, token: &str, _: &str, _: &str, _: &str) -> PgWireResult<ValidatorModuleResult> {
        let outcome = self.tokens.verify(token).await;
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        // Whether it is good enough is decided where the user is known.
        Ok(ValidatorModuleResult { authorized: true, authn_id: None, metadata: None })
    }
}
