//! Views of the server messages that the proxy must look into.

use crate::wire::frame::split_cstr;

/// Transaction status in `ReadyForQuery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `I`: not in a transaction block.
    Idle,
    /// `T`: in a transaction block.
    Transaction,
    /// `E`: in a failed transaction block.
    Failed,
}

impl Status {
    /// The byte on the wire.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Transaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Reads a `ReadyForQuery` body.
pub const fn ready_for_query(body: &[u8]) -> Option<Status> {
    match body {
        b"I" => Some(Status::Idle),
        b"T" => Some(Status::Transaction),
        b"E" => Some(Status::Failed),
        _ => None,
    }
}

/// Reads a `ParameterStatus` body.
pub fn parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let (name, rest) = split_cstr(body)?;
    let (value, _) = split_cstr(rest)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// One column of a `DataRow` body, by its place from zero; none if it is NULL or not there.
pub fn column(body: &[u8], place: usize) -> Option<&str> {
    let (_, mut rest) = body.split_first_chunk::<2>()?;
    for before in 0.. {
        let (length, values) = rest.split_first_chunk::<4>()?;
        // NULL has the length -1 and no bytes.
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, after) = values.split_at_checked(length.unwrap_or(0))?;
        if before == place {
            return length.and_then(|_| std::str::from_utf8(value).ok());
        }
        rest = after;
    }
    None
}

/// What of a `RowDescription` body a client relies on: name, type and type modifier of each column, one after the other.
/// None: malformed.
pub fn column_shapes(body: &[u8]) -> Option<Vec<u8>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut shapes = Vec::with_capacity(body.len());
    for _ in 0..u16::from_be_bytes(*count) {
        let (name, fields) = split_cstr(rest)?;
        // Table and column number, type, length, modifier, format.
        let (fields, after) = fields.split_first_chunk::<18>()?;
        shapes.extend_from_slice(name);
        shapes.push(0);
        shapes.extend_from_slice(fields.get(6..10)?);
        shapes.extend_from_slice(fields.get(12..16)?);
        rest = after;
    }
    rest.is_empty().then_some(shapes)
}

/// Reads a `CommandComplete` body.
pub fn command_tag(body: &[u8]) -> &[u8] {
    split_cstr(body).map_or(body, |(tag, _)| tag)
}

/// One field of an `ErrorResponse` or `NoticeResponse` body, for example `C` (SQLSTATE) or `M` (message).
pub fn error_field(mut body: &[u8], code: u8) -> Option<&str> {
    while let Some((&field, rest)) = body.split_first() {
        if field == 0 {
            return None;
        }
        let (text, rest) = split_cstr(rest)?;
        if field == code {
            return std::str::from_utf8(text).ok();
        }
        body = rest;
    }
    None
}

/// Reads a `BackendKeyData` body.
pub fn backend_key_data(body: &[u8]) -> Option<(u32, &[u8])> {
    let (process_id, key) = body.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*process_id), key))
}

/// Reads an `Authentication…` body: its code and what follows.
pub fn authentication(body: &[u8]) -> Option<(u32, &[u8])> {
    let (code, data) = body.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*code), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_place_and_never_beyond_the_row() {
        let body = b"\0\x02\0\0\0\x0242\xff\xff\xff\xff\0\0\0\x01x";
        assert_eq!(column(body, 0), Some("42"));
        assert_eq!(column(body, 1), None, "NULL");
        assert_eq!(column(body, 2), Some("x"));
        assert_eq!(column(body, 3), None);
        assert_eq!(column(b"\0\x01\0\0\0\x09x", 0), None);
        assert_eq!(column(b"", 0), None);
    }

    #[test]
    fn error_fields_are_found_by_code() {
        let body = b"SERROR\0C42P01\0Mno table\0\0";
        assert_eq!(error_field(body, b'C'), Some("42P01"));
        assert_eq!(error_field(body, b'M'), Some("no table"));
        assert_eq!(error_field(body, b'H'), None);
        assert_eq!(error_field(b"SERR", b'C'), None);
    }
}
