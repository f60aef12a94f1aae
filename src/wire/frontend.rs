//! Views of the client messages that the proxy must look into. Nothing is copied; none means malformed.

use crate::wire::frame::split_cstr;

/// `Parse`: destination name, query text, parameter types as they stand (count and OIDs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty: the unnamed statement.
    pub name: &'a [u8],
    /// The query text.
    pub text: &'a [u8],
    /// Count and OIDs.
    pub types: &'a [u8],
}

/// Whether a client may send a message of this kind in a session (`SocketBackend` in PostgreSQL's `postgres.c`).
pub const fn is_known(tag: u8) -> bool {
    matches!(tag, b'B' | b'C' | b'D' | b'E' | b'F' | b'H' | b'P' | b'Q' | b'S' | b'X' | b'c' | b'd' | b'f')
}

/// `Bind`: portal, statement and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Empty: the unnamed portal.
    pub portal: &'a [u8],
    /// Empty: the unnamed statement.
    pub statement: &'a [u8],
    /// Formats and values.
    pub rest: &'a [u8],
}

/// `Describe` or `Close`: what kind, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementOrPortal<'a> {
    /// `S` or `P`.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

/// Reads a `Parse` body.
pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let (name, rest) = split_cstr(body)?;
    let (text, types) = split_cstr(rest)?;
    let (count, oids) = types.split_first_chunk::<2>()?;
    (oids.len() == usize::from(u16::from_be_bytes(*count)).checked_mul(4)?).then_some(Parse {
        name,
        text,
        types,
    })
}

/// Reads a `Bind` body.
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let (portal, rest) = split_cstr(body)?;
    let (statement, rest) = split_cstr(rest)?;
    Some(Bind { portal, statement, rest })
}

/// The value of the parameter `$number` in what follows the names in a `Bind`; `Some(None)` is NULL, none that there
/// is no such parameter.
pub fn parameter(rest: &[u8], number: u16) -> Option<Option<&[u8]>> {
    let (formats, rest) = rest.split_first_chunk::<2>()?;
    let formats = usize::from(u16::from_be_bytes(*formats)).checked_mul(2)?;
    let (count, mut values) = rest.get(formats..)?.split_first_chunk::<2>()?;
    if number == 0 || number > u16::from_be_bytes(*count) {
        return None;
    }
    for before in 1..=number {
        let (length, after) = values.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        let (value, after) = after.split_at_checked(usize::try_from(length).unwrap_or(0))?;
        if before == number {
            return Some((length >= 0).then_some(value));
        }
        values = after;
    }
    None
}

/// How many parameters a `Bind` gives, by what follows its names.
pub fn parameter_count(rest: &[u8]) -> Option<u16> {
    let (formats, rest) = rest.split_first_chunk::<2>()?;
    let formats = usize::from(u16::from_be_bytes(*formats)).checked_mul(2)?;
    rest.get(formats..)?.first_chunk::<2>().map(|count| u16::from_be_bytes(*count))
}

/// The format that a `Bind` asks for in the first result column: 0 text, 1 binary. None: malformed.
pub fn result_format(rest: &[u8]) -> Option<u16> {
    let count = parameter_count(rest)?;
    let (formats, rest) = rest.split_first_chunk::<2>()?;
    let formats = usize::from(u16::from_be_bytes(*formats)).checked_mul(2)?;
    let mut values = rest.get(formats..)?.get(2..)?;
    for _ in 0..count {
        let (length, after) = values.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        values = after.get(length..)?;
    }
    let (count, codes) = values.split_first_chunk::<2>()?;
    match u16::from_be_bytes(*count) {
        0 => Some(0),
        _ => codes.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)),
    }
}

/// The type that a `Parse` declares for the parameter `$number`, zero if it leaves that open.
pub fn parameter_type(types: &[u8], number: u16) -> Option<u32> {
    let place = usize::from(number).checked_sub(1)?.checked_mul(4)?.checked_add(2)?;
    types.get(place..)?.first_chunk::<4>().map(|oid| u32::from_be_bytes(*oid))
}

/// Reads an `Execute` body; the portal's name.
pub fn execute(body: &[u8]) -> Option<&[u8]> {
    let (portal, rows) = split_cstr(body)?;
    (rows.len() == 4).then_some(portal)
}

/// Reads a `Describe` or `Close` body.
pub fn target(body: &[u8]) -> Option<StatementOrPortal<'_>> {
    let (&kind, rest) = body.split_first()?;
    let (name, rest) = split_cstr(rest)?;
    (rest.is_empty() && matches!(kind, b'S' | b'P')).then_some(StatementOrPortal { kind, name })
}

/// Reads a `Query` body; bytes behind the terminator make it malformed.
pub fn query(body: &[u8]) -> Option<&[u8]> {
    let (text, rest) = split_cstr(body)?;
    rest.is_empty().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_view_refuses_what_does_not_fit() {
        assert_eq!(query(b"SELECT 1\0"), Some(&b"SELECT 1"[..]));
        assert_eq!(query(b"SELECT 1\0x"), None);
        assert_eq!(query(b"SELECT 1"), None);
        assert_eq!(
            parse(b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
            Some(Parse { name: b"s", text: b"SELECT $1", types: b"\0\x01\0\0\0\x17" })
        );
        assert_eq!(parse(b"s\0SELECT $1\0\0\x02\0\0\0\x17"), None);
        assert_eq!(bind(b"\0s\0rest"), Some(Bind { portal: b"", statement: b"s", rest: b"rest" }));
        let two = b"\0\x01\0\0\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\0";
        assert_eq!(parameter(two, 1), Some(Some(&b"x"[..])));
        assert_eq!(parameter(two, 2), Some(None));
        assert_eq!((parameter(two, 0), parameter(two, 3), parameter(&two[..8], 1)), (None, None, None));
        assert_eq!(parameter_type(b"\0\x01\0\0\0\x17", 1), Some(23));
        assert_eq!((parameter_type(b"\0\x01\0\0\0\x17", 2), parameter_type(b"\0\0", 0)), (None, None));
        assert_eq!(execute(b"p\0\0\0\0\x01"), Some(&b"p"[..]));
        assert_eq!((execute(b"p\0\0\0\0"), execute(b"p"), execute(b"p\0\0\0\0\x01x")), (None, None, None));
        assert_eq!(target(b"Ss\0"), Some(StatementOrPortal { kind: b'S', name: b"s" }));
        assert_eq!(target(b"Xs\0"), None);
        assert_eq!(target(b"Ss\0x"), None);
    }
}
