//! Client messages as bytes, one function each; a batch is their concatenation.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

/// The codes that stand where a protocol version would.
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;
pub(crate) const SSL_REQUEST: u32 = 80_877_103;
pub(crate) const GSSENC_REQUEST: u32 = 80_877_104;

/// The protocol versions.
pub(crate) const VERSION_3_0: u32 = 3 << 16;
pub(crate) const VERSION_3_2: u32 = 3 << 16 | 2;

/// A message with any tag and body.
pub(crate) fn raw(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend(body);
    message
}

/// A packet without a tag, as they come before the session.
pub(crate) fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = u32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
    packet.extend(code.to_be_bytes());
    packet.extend(body);
    packet
}

/// The body of a startup packet.
pub(crate) fn startup_parameters(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in parameters {
        body.extend(text(name));
        body.extend(text(value));
    }
    body.push(0);
    body
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    raw(b'Q', &text(sql))
}

/// Parse with parameter types left to the server.
pub(crate) fn parse(statement: &str, sql: &str) -> Vec<u8> {
    raw(b'P', &[text(statement), text(sql), vec![0, 0]].concat())
}

/// Bind with all values and results as text.
pub(crate) fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [text(portal), text(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    raw(b'B', &body)
}

/// Bind with one value and all results in binary.
pub(crate) fn bind_binary(portal: &str, statement: &str, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    let values = [&[0, 1, 0, 1, 0, 1][..], &length, value, &[0, 1, 0, 1]].concat();
    raw(b'B', &[text(portal), text(statement), values].concat())
}

pub(crate) fn describe_statement(name: &str) -> Vec<u8> {
    raw(b'D', &[b"S".to_vec(), text(name)].concat())
}

pub(crate) fn describe_portal(name: &str) -> Vec<u8> {
    raw(b'D', &[b"P".to_vec(), text(name)].concat())
}

/// Execute with a limit of rows; 0 means all.
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    raw(b'E', &[text(portal), rows.to_be_bytes().to_vec()].concat())
}

pub(crate) fn close_statement(name: &str) -> Vec<u8> {
    raw(b'C', &[b"S".to_vec(), text(name)].concat())
}

pub(crate) fn close_portal(name: &str) -> Vec<u8> {
    raw(b'C', &[b"P".to_vec(), text(name)].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    raw(b'S', &[])
}

pub(crate) fn flush() -> Vec<u8> {
    raw(b'H', &[])
}

pub(crate) fn terminate() -> Vec<u8> {
    raw(b'X', &[])
}

pub(crate) fn copy_data(data: &str) -> Vec<u8> {
    raw(b'd', data.as_bytes())
}

pub(crate) fn copy_done() -> Vec<u8> {
    raw(b'c', &[])
}

pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    raw(b'f', &text(reason))
}

/// A call of a function by its OID, without arguments.
pub(crate) fn function_call(oid: u32) -> Vec<u8> {
    raw(b'F', &[oid.to_be_bytes().to_vec(), vec![0; 6]].concat())
}

/// Parse, Bind, Describe, Execute with the unnamed statement and portal; no Sync.
pub(crate) fn unnamed(sql: &str, values: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", "", values), describe_portal(""), execute("", 0)].concat()
}

/// Bind and Execute of a named statement; no Sync.
pub(crate) fn rerun(statement: &str, values: &[&str]) -> Vec<u8> {
    [bind("", statement, values), execute("", 0)].concat()
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), b"\0"].concat()
}
