//! Where each side is inside a frame. Rows are passed on in pieces; everything else is taken as a whole.
//!
//! Towards the server there is nothing to remember: each piece of a client's CopyData goes on as a CopyData of its own,
//! because COPY is a stream of bytes whose message boundaries mean nothing ("COPY Operations" in PostgreSQL's protocol).
//! So a server is at a frame boundary at all times, whatever a client has begun and not finished.

use crate::net::buffer::ReadBuffer;
use crate::wire::encode;
use crate::wire::frame::HEADER_BYTES;

/// Where the stream from the client is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FromClient {
    /// Between frames.
    #[default]
    Boundary,
    /// In a CopyData whose rows go on: so many bytes of it are still to come.
    Rows(usize),
    /// In a frame that goes nowhere: so many bytes of it are still to come.
    Dropped(usize),
}

/// Where the stream from the server is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FromServer {
    /// Between frames.
    #[default]
    Boundary,
    /// In a row that goes on to the client: so many bytes of it are still to come.
    Passed(usize),
    /// In a row that goes nowhere: so many bytes of it are still to come.
    Dropped(usize),
}

// === impl FromClient ===

impl FromClient {
    /// A frame of so many bytes begins whose rows go on; its header is taken off the input.
    pub fn begin_rows(&mut self, total: usize, input: &mut ReadBuffer) {
        input.consume(HEADER_BYTES);
        *self = match total.saturating_sub(HEADER_BYTES) {
            0 => Self::Boundary,
            left => Self::Rows(left),
        };
    }

    /// A frame of so many bytes begins that goes nowhere.
    pub const fn begin_dropped(&mut self, total: usize) {
        *self = Self::Dropped(total);
    }

    /// The rest of a frame goes nowhere: nobody reads its rows any more.
    pub const fn drop_rest(&mut self) {
        if let Self::Rows(left) = *self {
            *self = Self::Dropped(left);
        }
    }

    /// Moves what is there of the frame; how many bytes that were. `out` is the server's.
    pub fn advance(&mut self, input: &mut ReadBuffer, out: &mut Vec<u8>) -> usize {
        let (left, passes) = match *self {
            Self::Boundary => return 0,
            Self::Rows(left) => (left, true),
            Self::Dropped(left) => (left, false),
        };
        let count = left.min(input.len());
        if passes && count > 0 {
            encode::copy_data(out, input.bytes().get(..count).unwrap_or_default());
        }
        input.consume(count);
        *self = match (left.saturating_sub(count), passes) {
            (0, _) => Self::Boundary,
            (left, true) => Self::Rows(left),
            (left, false) => Self::Dropped(left),
        };
        count
    }

    /// Whether the next byte begins a frame.
    pub fn is_boundary(self) -> bool {
        self == Self::Boundary
    }
}

// === impl FromServer ===

impl FromServer {
    /// Moves what is there of a row; how many bytes went on to the client, whose buffer `out` is.
    pub fn advance(&mut self, input: &mut ReadBuffer, out: &mut Vec<u8>) -> usize {
        let (left, passes) = match *self {
            Self::Boundary => return 0,
            Self::Passed(left) => (left, true),
            Self::Dropped(left) => (left, false),
        };
        let count = left.min(input.len());
        if passes {
            out.extend_from_slice(input.bytes().get(..count).unwrap_or_default());
        }
        input.consume(count);
        *self = match (left.saturating_sub(count), passes) {
            (0, _) => Self::Boundary,
            (left, true) => Self::Passed(left),
            (left, false) => Self::Dropped(left),
        };
        if passes { count } else { 0 }
    }

    /// Whether the next byte begins a frame.
    pub fn is_boundary(self) -> bool {
        self == Self::Boundary
    }

    /// Whether the client has a part of a frame, and would take anything else for the rest of it.
    pub const fn is_torn(self) -> bool {
        matches!(self, Self::Passed(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    fn input(bytes: &[u8]) -> ReadBuffer {
        ReadBuffer::of(bytes)
    }

    #[test]
    fn a_copy_frame_in_any_pieces_reaches_the_server_as_whole_frames() {
        let data: Vec<u8> = (0..=u8::MAX).collect();
        for piece in [1, 2, 7, 100, 256] {
            let (mut from, mut out) = (FromClient::default(), Vec::new());
            from.begin_rows(data.len() + HEADER_BYTES, &mut input(b"d\0\0\x01\x04"));
            for bytes in data.chunks(piece) {
                assert!(!from.is_boundary());
                from.advance(&mut input(bytes), &mut out);
            }
            assert!(from.is_boundary());
            let (mut rest, mut rows) = (&out[..], Vec::new());
            while let Some(header) = frame::header(rest).unwrap() {
                assert_eq!(header.tag, b'd');
                rows.extend_from_slice(frame::body(&rest[..header.total]));
                rest = &rest[header.total..];
            }
            assert!(rest.is_empty() && rows == data, "{piece}");
        }
    }

    #[test]
    fn the_rest_of_a_frame_whose_copy_has_ended_goes_nowhere() {
        let (mut from, mut out) = (FromClient::default(), Vec::new());
        from.begin_rows(105, &mut input(b"d\0\0\0\x68"));
        from.advance(&mut input(b"abc"), &mut out);
        from.drop_rest();
        assert_eq!(from, FromClient::Dropped(97));
        assert_eq!(from.advance(&mut input(&[0; 200]), &mut out), 97);
        assert!(from.is_boundary() && out == b"d\0\0\0\x07abc");
        from.begin_rows(HEADER_BYTES, &mut input(b"d\0\0\0\x04"));
        assert!(from.is_boundary(), "an empty frame has no rest");
    }

    #[test]
    fn a_row_that_goes_on_tears_the_client_until_its_end() {
        let (mut from, mut out) = (FromServer::Passed(4), Vec::new());
        assert!(from.is_torn());
        assert_eq!(from.advance(&mut input(b"D\0"), &mut out), 2);
        assert!(from.is_torn());
        assert_eq!(from.advance(&mut input(b"xyz"), &mut out), 2);
        assert!(from.is_boundary() && !from.is_torn());
        assert_eq!(out, b"D\0xy");
        let mut from = FromServer::Dropped(2);
        assert!(!from.is_torn());
        assert_eq!(from.advance(&mut input(b"xyz"), &mut out), 0);
        assert!(from.is_boundary() && out == b"D\0xy");
    }
}
