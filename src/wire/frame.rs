//! Where a frame ends: a tag byte, a length that counts itself, a body.

use memchr::memchr;

/// Tag and length field.
pub const HEADER_BYTES: usize = 5;

/// The first five bytes of a frame, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What kind of message.
    pub tag: u8,
    /// Bytes of the whole frame, tag and length field included; at least [`HEADER_BYTES`].
    pub total: usize,
}

/// The length field is impossible: below 4 or above `i32::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length")]
pub struct InvalidLength;

/// Reads a header; none if fewer than five bytes are there.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, InvalidLength> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = i32::from_be_bytes([a, b, c, d]);
    let length = usize::try_from(length).map_err(|_| InvalidLength)?;
    if length < 4 {
        return Err(InvalidLength);
    }
    Ok(Some(Header { tag, total: length.saturating_add(1) }))
}

/// The body of a complete frame.
pub fn body(frame: &[u8]) -> &[u8] {
    frame.get(HEADER_BYTES..).unwrap_or_default()
}

/// Splits a NUL-terminated string off the front; none without a NUL.
pub fn split_cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(0, bytes)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first surprise"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_sides_of_the_length_limits() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(header(b"Q\0\0\0\x03"), Err(InvalidLength));
        assert_eq!(header(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', total: 5 })));
        assert_eq!(header(b"Q\x7f\xff\xff\xff").unwrap().unwrap().total, 0x8000_0000);
        assert_eq!(header(b"Q\x80\0\0\0"), Err(InvalidLength));
    }

    #[test]
    fn a_string_ends_at_its_nul() {
        assert_eq!(split_cstr(b"ab\0cd"), Some((&b"ab"[..], &b"cd"[..])));
        assert_eq!(split_cstr(b"\0"), Some((&b""[..], &b""[..])));
        assert_eq!(split_cstr(b"ab"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            match header(&bytes) {
                Ok(None) => prop_assert!(bytes.len() < HEADER_BYTES),
                Ok(Some(header)) => prop_assert!(header.total >= HEADER_BYTES && header.tag == bytes[0]),
                Err(InvalidLength) => prop_assert!(bytes.len() >= HEADER_BYTES),
            }
        }

        #[test]
        fn frames_are_the_same_in_any_chunking(
            messages in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 1..8),
            cuts in proptest::collection::vec(1usize..17, 1..8),
            rest in proptest::collection::vec(any::<u8>(), 0..HEADER_BYTES),
        ) {
            let mut stream = Vec::new();
            for (tag, body) in &messages {
                stream.push(*tag);
                stream.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
                stream.extend_from_slice(body);
            }
            stream.extend_from_slice(&rest);
            let (mut seen, mut pending, mut stream) = (Vec::new(), Vec::new(), &stream[..]);
            let mut cuts = cuts.into_iter().cycle();
            while !stream.is_empty() {
                let (piece, after) = stream.split_at(cuts.next().unwrap().min(stream.len()));
                stream = after;
                pending.extend_from_slice(piece);
                while let Some(header) = header(&pending).unwrap() {
                    if pending.len() < header.total {
                        break;
                    }
                    seen.push((header.tag, body(&pending[..header.total]).to_vec()));
                    pending.drain(..header.total);
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(pending, rest);
        }

        #[test]
        fn the_views_of_messages_are_total(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            use crate::wire::{backend, frontend};
            let views = [
                frontend::parse(&body).map(|parse| parse.name.len() + parse.text.len() + parse.types.len()),
                frontend::bind(&body).map(|bind| bind.portal.len() + bind.statement.len() + bind.rest.len()),
                frontend::target(&body).map(|target| target.name.len()),
                frontend::query(&body).map(<[u8]>::len),
                backend::parameter_status(&body).map(|(name, value)| name.len() + value.len()),
                Some(backend::command_tag(&body).len()),
                backend::error_field(&body, b'C').map(str::len),
                backend::column(&body, 0).map(str::len),
                backend::column(&body, body.len()).map(str::len),
                backend::backend_key_data(&body).map(|(_, key)| key.len()),
                backend::authentication(&body).map(|(_, data)| data.len()),
            ];
            prop_assert!(views.into_iter().flatten().all(|length| length <= body.len()));
        }
    }
}
