//! The packets before the first tagged frame: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.
//! Source: "Message Flow", "Start-up" and "Canceling Requests in Progress"; `ProcessStartupPacket` in
//! PostgreSQL's `backend_startup.c`.

use crate::wire::frame::split_cstr;

/// Protocol 3.0, spoken by every client since PostgreSQL 7.4.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// Protocol 3.2, the newest we speak: cancel keys of up to 256 bytes.
pub const PROTOCOL_3_2: u32 = (3 << 16) | 2;
/// The request codes, in the place of a version.
pub const CANCEL_REQUEST: u32 = (1234 << 16) + 5678;
/// Asks for TLS.
pub const SSL_REQUEST: u32 = (1234 << 16) + 5679;
/// Asks for GSSAPI encryption.
pub const GSSENC_REQUEST: u32 = (1234 << 16) + 5680;

/// One of the untagged packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// TLS, please.
    Ssl,
    /// GSSAPI encryption, please.
    GssEnc,
    /// Stop what this process id is doing.
    Cancel {
        /// The process id that we gave out.
        process_id: u32,
        /// The key that we gave out with it.
        key: Vec<u8>,
    },
    /// A session.
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Minor version asked for, as sent.
    pub minor: u32,
    /// Name and value, in the order sent; `_pq_.` options are in `unknown_options`.
    pub parameters: Vec<(String, String)>,
    /// Protocol options that we do not know.
    pub unknown_options: Vec<String>,
}

/// Why a packet is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The bytes do not follow the layout.
    #[error("invalid startup packet layout: {0}")]
    Layout(&'static str),
    /// A major version that we do not speak.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Longest cancel key of protocol 3.2, in bytes.
const MAX_CANCEL_KEY: usize = 256;

/// Parses what follows the length field.
pub fn parse(body: &[u8]) -> Result<Packet, StartupError> {
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(StartupError::Layout("too short"));
    };
    match u32::from_be_bytes(*code) {
        SSL_REQUEST => bare(rest, Packet::Ssl),
        GSSENC_REQUEST => bare(rest, Packet::GssEnc),
        CANCEL_REQUEST => cancel(rest),
        version if version >> 16 == 3 => Ok(Packet::Startup(startup(version & 0xffff, rest)?)),
        version => Err(StartupError::Version { major: version >> 16, minor: version & 0xffff }),
    }
}

fn bare(rest: &[u8], packet: Packet) -> Result<Packet, StartupError> {
    if rest.is_empty() { Ok(packet) } else { Err(StartupError::Layout("bytes behind the request code")) }
}

fn cancel(rest: &[u8]) -> Result<Packet, StartupError> {
    match rest.split_first_chunk::<4>() {
        Some((process_id, key)) if !key.is_empty() && key.len() <= MAX_CANCEL_KEY => {
            Ok(Packet::Cancel { process_id: u32::from_be_bytes(*process_id), key: key.to_vec() })
        }
        _ => Err(StartupError::Layout("cancel request of a wrong length")),
    }
}

fn startup(minor: u32, mut rest: &[u8]) -> Result<Startup, StartupError> {
    let mut startup = Startup { minor, parameters: Vec::new(), unknown_options: Vec::new() };
    loop {
        let (name, after) = text(rest)?;
        if name.is_empty() {
            return if after.is_empty() {
                Ok(startup)
            } else {
                Err(StartupError::Layout("bytes behind the terminator"))
            };
        }
        let (value, after) = text(after)?;
        if name.starts_with("_pq_.") {
            startup.unknown_options.push(name);
        } else {
            startup.parameters.push((name, value));
        }
        rest = after;
    }
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), StartupError> {
    let (text, rest) = split_cstr(bytes).ok_or(StartupError::Layout("expected terminator as last byte"))?;
    let text = String::from_utf8(text.to_vec()).map_err(|_| StartupError::Layout("not valid UTF-8"))?;
    Ok((text, rest))
}

/// Splits the `options` parameter into words as `pg_split_opts` in PostgreSQL's `postinit.c`: white space
/// separates, a backslash takes the next character as it is.
pub fn split_options(options: &str) -> Vec<String> {
    let (mut words, mut word, mut escaped) = (Vec::new(), String::new(), false);
    let mut inside = false;
    for character in options.chars() {
        match character {
            _ if escaped => {
                word.push(character);
                escaped = false;
            }
            '\\' => (escaped, inside) = (true, true),
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            _ => {
                word.push(character);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

/// Reads `-c name=value`, `-cname=value` and `--name=value`; a dash in a long name means an underscore.
/// The first word that is none of them comes back as the error.
pub fn options_parameters(options: &str) -> Result<Vec<(String, String)>, String> {
    let mut parameters = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next().ok_or(word)?
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(word);
        };
        let Some((name, value)) = assignment.split_once('=') else { return Err(assignment) };
        parameters.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Result<Packet, StartupError> {
        parse(&[&code.to_be_bytes()[..], rest].concat())
    }

    #[test]
    fn the_four_packets_are_told_apart() {
        assert_eq!(packet(SSL_REQUEST, b""), Ok(Packet::Ssl));
        assert_eq!(packet(GSSENC_REQUEST, b""), Ok(Packet::GssEnc));
        assert_eq!(
            packet(CANCEL_REQUEST, b"\0\0\0\x07abcd"),
            Ok(Packet::Cancel { process_id: 7, key: b"abcd".to_vec() })
        );
        assert!(matches!(packet(PROTOCOL_3_0, b"user\0a\0\0"), Ok(Packet::Startup(_))));
    }

    #[test]
    fn malformed_packets_are_refused() {
        for rest in [&b""[..], b"user", b"user\0", b"user\0a\0", b"user\0a\0\0x", b"\xff\0a\0\0"] {
            assert!(matches!(packet(PROTOCOL_3_0, rest), Err(StartupError::Layout(_))), "{rest:?}");
        }
        assert!(matches!(packet(2 << 16, b""), Err(StartupError::Version { major: 2, minor: 0 })));
        assert!(packet(CANCEL_REQUEST, b"\0\0\0\x07").is_err());
        assert!(packet(CANCEL_REQUEST, &[1; 4 + 256]).is_ok());
        assert!(packet(CANCEL_REQUEST, &[1; 4 + 257]).is_err());
        assert!(packet(SSL_REQUEST, b"x").is_err());
    }

    #[test]
    fn unknown_protocol_options_are_set_apart() {
        let Ok(Packet::Startup(startup)) = packet(PROTOCOL_3_2, b"user\0a\0_pq_.x\0y\0\0") else {
            unreachable!("a startup packet")
        };
        assert_eq!(startup.minor, 2);
        assert_eq!(startup.unknown_options, ["_pq_.x"]);
        assert_eq!(startup.parameters, [("user".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn options_are_read_as_postgres_reads_them() {
        let read = |text| options_parameters(text).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read("-c a=1 -cb=2  --work-mem=3"),
            [pair("a", "1"), pair("b", "2"), pair("work_mem", "3")]
        );
        assert_eq!(read("-c a=x\\ y\\\\"), [pair("a", "x y\\")]);
        assert_eq!(options_parameters("-c"), Err("-c".to_owned()));
        assert_eq!(options_parameters("-c a"), Err("a".to_owned()));
        assert_eq!(options_parameters("-d 5"), Err("-d".to_owned()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(parse(&bytes));
            drop(packet(PROTOCOL_3_0, &bytes));
            drop(options_parameters(&String::from_utf8_lossy(&bytes)));
        }

        #[test]
        fn a_packet_is_read_as_it_was_written(
            minor in 0u32..0x1_0000,
            parameters in proptest::collection::vec(("[a-z.]{1,9}", "[^\0]{0,9}"), 0..6),
            unknown_options in proptest::collection::vec(r"_pq_\.[a-z]{0,5}", 0..3),
        ) {
            let known = parameters.iter().map(|(name, value)| format!("{name}\0{value}\0"));
            let unknown = unknown_options.iter().map(|name| format!("{name}\0\0"));
            let body: String = known.chain(unknown).collect();
            let expected = Startup { minor, parameters, unknown_options };
            let read = packet(PROTOCOL_3_0 | minor, format!("{body}\0").as_bytes());
            prop_assert_eq!(read, Ok(Packet::Startup(expected)));
        }
    }
}
