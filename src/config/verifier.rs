//! A user's password as configured: a SCRAM verifier, or (if allowed) a plain password turned into one.
//! No refusal quotes any part of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::problem::{InvalidValue, refuse};
use crate::secret::Secret;
use crate::tenant::Verifier;

const SCHEME: &str = "SCRAM-SHA-256$";

/// More would let one login hold a core for seconds.
const MAX_ITERATIONS: usize = 10_000_000;

const MAX_SALT_BYTES: usize = 1024;

/// The length of SHA-256.
const KEY_BYTES: usize = 32;

/// `listen.allow_plain_passwords`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlainPasswords {
    Refused,
    Allowed,
}

/// The verifier of a password that is no part of a configuration.
pub fn verifier_of(password: &str) -> Option<Verifier> {
    verifier(password, PlainPasswords::Allowed).ok()
}

/// Reads a verifier that PostgreSQL stores; or what is wrong with it.
pub fn stored_verifier(text: &str) -> Result<Verifier, String> {
    verifier(text, PlainPasswords::Refused).map_err(|refusal| refusal.what)
}

/// Reads a `user.password`.
pub(super) fn verifier(password: &str, plain: PlainPasswords) -> Result<Verifier, InvalidValue> {
    if let Some(rest) = password.strip_prefix(SCHEME) {
        return scram(rest);
    }
    if is_md5(password) {
        return Err(refuse(
            "is an MD5 hash, which proves nothing by SCRAM",
            "make a verifier with pgtenant scram",
        ));
    }
    match plain {
        PlainPasswords::Allowed => {
            let made = postgres_protocol::password::scram_sha_256(password.as_bytes());
            scram(made.strip_prefix(SCHEME).unwrap_or_default())
        }
        PlainPasswords::Refused => Err(refuse(
            "is not a SCRAM-SHA-256 verifier",
            "make one with pgtenant scram, or set listen.allow_plain_passwords = true",
        )),
    }
}

/// `<iterations>:<salt>$<stored key>:<server key>`, as in `pg_authid.rolpassword`.
fn scram(text: &str) -> Result<Verifier, InvalidValue> {
    let hint = "write SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>, as pgtenant scram does";
    let malformed = || refuse("is a malformed SCRAM-SHA-256 verifier", hint);
    let (front, keys) = text.split_once('$').ok_or_else(malformed)?;
    let (iterations, salt) = front.split_once(':').ok_or_else(malformed)?;
    let (stored, server) = keys.split_once(':').ok_or_else(malformed)?;
    let iterations = iterations.parse().map_err(|_| malformed())?;
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| malformed());
    let (salt, stored, server) = (decode(salt)?, decode(stored)?, decode(server)?);
    if !(1..=MAX_ITERATIONS).contains(&iterations) {
        return Err(refuse(format!("must have between 1 and {MAX_ITERATIONS} iterations"), "4096 is usual"));
    }
    if salt.is_empty() || salt.len() > MAX_SALT_BYTES {
        return Err(refuse(format!("must have a salt of 1 to {MAX_SALT_BYTES} bytes"), "16 is usual"));
    }
    if stored.len() != KEY_BYTES || server.len() != KEY_BYTES {
        return Err(refuse(format!("must have keys of {KEY_BYTES} bytes"), hint));
    }
    Ok(Verifier { iterations, salt, stored_key: Secret::new(stored), server_key: Secret::new(server) })
}

/// `PostgreSQL`'s older kind of hash: a user who pastes one does not mean a password of that text.
fn is_md5(password: &str) -> bool {
    let digits = password.strip_prefix("md5").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}
