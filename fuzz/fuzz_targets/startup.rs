//! Any bytes are a packet or an error, never a panic; a startup packet that was understood is understood again in the
//! same way when it is written anew; what becomes of it is a claim or a refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::startup::Claim;
use pgtenant::wire::startup::{Packet, Startup, options_parameters, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Packet::Startup(startup)) = parse(bytes) {
        assert_eq!(parse(&written(&startup)), Ok(Packet::Startup(startup.clone())));
        if let Ok(claim) = Claim::new(startup) {
            assert!(!claim.user.is_empty() && !claim.database.is_empty());
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = options_parameters(text);
    }
});

fn written(startup: &Startup) -> Vec<u8> {
    let mut bytes = ((3 << 16) | startup.minor).to_be_bytes().to_vec();
    let unknown = startup.unknown_options.iter().map(|name| (name.as_str(), ""));
    let known = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in known.chain(unknown) {
        bytes.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    bytes.push(0);
    bytes
}
