//! The messages that all ways of logging in are made of ("Message Formats" in the protocol documentation).

use super::AuthFault;
use crate::net::Channel;
use crate::wire::frame;

/// `AuthenticationOk`.
pub(super) const AUTHENTICATION_OK: u32 = 0;
/// `AuthenticationCleartextPassword`.
pub(super) const CLEARTEXT_PASSWORD: u32 = 3;
/// `AuthenticationSASL`.
pub(super) const SASL: u32 = 10;
/// `AuthenticationSASLContinue`.
pub(super) const SASL_CONTINUE: u32 = 11;
/// `AuthenticationSASLFinal`.
pub(super) const SASL_FINAL: u32 = 12;

/// Reads one `p` message whose body is at most `limit` bytes long.
pub(super) async fn read_message(channel: &mut Channel, limit: usize) -> Result<Vec<u8>, AuthFault> {
    channel.fill(frame::HEADER_BYTES).await?;
    let header = frame::header(channel.input.bytes())
        .ok()
        .flatten()
        .filter(|header| header.tag == b'p' && header.total <= frame::HEADER_BYTES + limit)
        .ok_or(AuthFault::Protocol)?;
    channel.fill(header.total).await?;
    let body = channel.input.bytes().get(frame::HEADER_BYTES..header.total).unwrap_or_default().to_vec();
    channel.input.consume(header.total);
    Ok(body)
}

/// Mechanism and data of a `SASLInitialResponse`.
pub(super) fn initial_response(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mechanism, rest) = frame::split_cstr(body)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    (usize::try_from(i32::from_be_bytes(*length)).ok()? == data.len()).then_some((mechanism, data))
}
