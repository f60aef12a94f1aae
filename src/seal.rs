//! The proof that makes a tenant context believable inside PostgreSQL: an HMAC that only the holder of the seal
//! key can make, bound to one server process and a few seconds. Pure; what verifies it is the SQL of `protect`.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::directory::SealKey;

/// Names a key without telling anything of it: the first 8 hexadecimal digits of a hash over it.
pub fn key_id(key: &SealKey) -> String {
    let digest = Sha256::new().chain_update(b"pgtenant kid").chain_update(key.expose()).finalize();
    hexadecimal(&digest[..4])
}

/// The proof that this tenant's context may be entered by the server process `backend_pid` until `expiry`, in
/// seconds of the Unix epoch by that server's clock: `kid "." expiry "." hex(HMAC-SHA256(key, "p1|pid|expiry|tenant"))`.
/// The separator is unambiguous, because the fields in front of the tenant are numbers.
pub fn proof(key: &SealKey, tenant: &str, backend_pid: u32, expiry: u64) -> String {
    signed(key, expiry, &format!("p1|{backend_pid}|{expiry}|{tenant}"))
}

/// The proof that the server process `backend_pid` may be handed over to this tenant, after the reset with this
/// nonce and until `expiry`: `kid "." expiry "." hex(HMAC-SHA256(key, "p2|pid|expiry|nonce|tenant"))`.
/// The nonce has 32 hexadecimal digits, so the fields before the tenant have one reading.
pub fn hand_over_proof(key: &SealKey, tenant: &str, backend_pid: u32, expiry: u64, nonce: &str) -> String {
    signed(key, expiry, &format!("p2|{backend_pid}|{expiry}|{nonce}|{tenant}"))
}

fn signed(key: &SealKey, expiry: u64, text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new(&padded(key).into());
    mac.update(text.as_bytes());
    format!("{}.{expiry}.{}", key_id(key), hexadecimal(&mac.finalize().into_bytes()))
}

/// HMAC fills a short key up to its block with zeros (RFC 2104).
fn padded(key: &SealKey) -> [u8; 64] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key.expose());
    block
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey::new([byte; 32])
    }

    #[test]
    fn a_proof_is_the_hmac_that_postgresql_computes() {
        // By `printf 'p1|42|1700000000|acme' | openssl dgst -sha256 -mac HMAC -macopt hexkey:5a…`.
        let expected = "4a647df5.1700000000.f20a0cc4539eb4e3a2f614ba50eeaf90d3eb4f3a1f028741d97114dca8e0b626";
        assert_eq!(proof(&key(0x5a), "acme", 42, 1_700_000_000), expected);
    }

    #[test]
    fn a_hand_over_proof_is_the_hmac_that_postgresql_computes() {
        // By `printf 'p2|42|1700000000|00112233445566778899aabbccddeeff|acme' | openssl dgst -sha256 -mac HMAC -macopt hexkey:5a…`.
        let nonce = "00112233445566778899aabbccddeeff";
        let expected = "4a647df5.1700000000.d8e41bd816c28465f5096483571a24b3f6d81657c49983ec659e5636264ebe9f";
        assert_eq!(hand_over_proof(&key(0x5a), "acme", 42, 1_700_000_000, nonce), expected);
        let other = nonce.replace('f', "e");
        assert_ne!(hand_over_proof(&key(0x5a), "acme", 42, 1_700_000_000, &other), expected);
        assert_ne!(proof(&key(0x5a), "acme", 42, 1_700_000_000), expected);
    }

    #[test]
    fn a_proof_holds_for_one_key_tenant_process_and_time() {
        let one = proof(&key(1), "acme", 42, 1_700_000_000);
        assert_eq!(one, proof(&key(1), "acme", 42, 1_700_000_000));
        for other in [
            proof(&key(2), "acme", 42, 1_700_000_000),
            proof(&key(1), "acme2", 42, 1_700_000_000),
            proof(&key(1), "acme", 43, 1_700_000_000),
            proof(&key(1), "acme", 42, 1_700_000_001),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(key_id(&key(1)).len(), 8);
        assert_ne!(key_id(&key(1)), key_id(&key(2)));
    }
}
