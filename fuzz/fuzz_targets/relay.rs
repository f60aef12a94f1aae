//! Any frames of a client, in any pieces, between the relay and a server that answers as PostgreSQL does: what must hold
//! is in `src/relay/tests/random.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| pgtenant::relay::walk(input));
