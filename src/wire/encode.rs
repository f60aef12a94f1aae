//! Frames that the proxy writes itself, appended to a buffer.
//! A body is bounded by what the caller has checked, so the length always fits its field.

use memchr::memchr;

use crate::fault::Report;

/// Appends a frame whose body `write` appends.
pub fn frame(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    sized(out, write);
}

/// Appends a length field and the body that it counts.
fn sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len().saturating_sub(at)).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at..at.saturating_add(4)) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a NUL-terminated string; anything from a NUL on is left out.
pub fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}

fn field(out: &mut Vec<u8>, code: u8, text: &str) {
    out.push(code);
    cstr(out, text.as_bytes());
}

/// Whether the session goes on after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It goes on.
    Error,
    /// The connection ends.
    Fatal,
}

/// `ErrorResponse`.
pub fn error_response(out: &mut Vec<u8>, severity: Severity, report: &Report) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    frame(out, b'E', |out| {
        field(out, b'S', severity);
        field(out, b'V', severity);
        field(out, b'C', report.sqlstate.0);
        field(out, b'M', &report.message);
        if let Some(detail) = &report.detail {
            field(out, b'D', detail);
        }
        if let Some(hint) = report.hint {
            field(out, b'H', hint);
        }
        if let Some(routine) = report.routine {
            field(out, b'R', routine);
        }
        out.push(0);
    });
}

/// `ErrorResponse` or `NoticeResponse` with the body of another one, but for the position in the text (field `P`).
pub fn with_position(out: &mut Vec<u8>, tag: u8, body: &[u8], position: impl Fn(usize) -> usize) {
    frame(out, tag, |out| {
        let mut rest = body;
        while let Some((&code, text)) = rest.split_first().filter(|(code, _)| **code != 0) {
            let Some((text, after)) = super::frame::split_cstr(text) else { break };
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            out.push(code);
            match number.filter(|_| code == b'P') {
                Some(sent) => cstr(out, position(sent).to_string().as_bytes()),
                None => cstr(out, text),
            }
            rest = after;
        }
        out.push(0);
    });
}

/// `ReadyForQuery` with `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    frame(out, b'Z', |out| out.push(status));
}

/// `ParameterStatus`.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    frame(out, b'S', |out| {
        cstr(out, name.as_bytes());
        cstr(out, value.as_bytes());
    });
}

/// `BackendKeyData`: 4 bytes of key for protocol 3.0, up to 256 from 3.2 on.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    frame(out, b'K', |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// `NegotiateProtocolVersion`: the newest version we speak and the options we do not know.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, version: u32, unknown: &[String]) {
    frame(out, b'v', |out| {
        out.extend_from_slice(&version.to_be_bytes());
        out.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(u32::MAX).to_be_bytes());
        for name in unknown {
            cstr(out, name.as_bytes());
        }
    });
}

/// An `Authentication…` request with its code and what follows it.
pub fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    frame(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// `NotificationResponse`: who sent it, and then the channel and the payload as they came.
pub fn notification(out: &mut Vec<u8>, process_id: u32, rest: &[u8]) {
    frame(out, b'A', |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(rest);
    });
}

/// `CommandComplete`.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    frame(out, b'C', |out| cstr(out, tag.as_bytes()));
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerType {
    /// `text`
    Text,
    /// `void`
    Void,
}

/// `RowDescription` of one column that belongs to no table, in this format.
pub fn one_column(out: &mut Vec<u8>, (name, kind): (&[u8], AnswerType), format: u16) {
    // OID, and length: -1 is a variable one.
    let (oid, length): (u32, i16) = match kind {
        AnswerType::Text => (25, -1),
        AnswerType::Void => (2278, 4),
    };
    frame(out, b'T', |out| {
        out.extend_from_slice(&[0, 1]);
        cstr(out, name);
        // No table, no column of one.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&oid.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        // Without a modifier.
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.extend_from_slice(&format.to_be_bytes());
    });
}

/// `ParameterDescription` with these types.
pub fn parameter_types(out: &mut Vec<u8>, types: &[u32]) {
    frame(out, b't', |out| {
        out.extend_from_slice(&u16::try_from(types.len()).unwrap_or(u16::MAX).to_be_bytes());
        for oid in types {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// `DataRow` of one value.
pub fn row(out: &mut Vec<u8>, value: &[u8]) {
    frame(out, b'D', |out| {
        out.extend_from_slice(&[0, 1]);
        sized_parameter(out, value);
    });
}

/// A message of a tag and nothing else: `ParseComplete`, `CloseComplete`, `Sync`, `Flush`, `Terminate` …
pub fn bare(out: &mut Vec<u8>, tag: u8) {
    frame(out, tag, |_| {});
}

/// `Query`.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    frame(out, b'Q', |out| cstr(out, text));
}

/// `Parse` with the parameter types as they stood in the client's frame (count and OIDs).
pub fn parse(out: &mut Vec<u8>, name: &str, text: &[u8], types: &[u8]) {
    frame(out, b'P', |out| {
        cstr(out, name.as_bytes());
        cstr(out, text);
        out.extend_from_slice(types);
    });
}

/// `Bind` of the unnamed statement to the unnamed portal, all parameters and results as text.
pub fn bind_text(out: &mut Vec<u8>, parameters: &[&[u8]]) {
    bind_text_to(out, "", parameters);
}

/// The same of a named statement.
pub fn bind_text_to(out: &mut Vec<u8>, statement: &str, parameters: &[&[u8]]) {
    bind_portal(out, "", statement, parameters);
}

/// `Bind` of a statement to a portal, all parameters and results as text.
pub fn bind_portal(out: &mut Vec<u8>, portal: &str, statement: &str, parameters: &[&[u8]]) {
    frame(out, b'B', |out| {
        // No parameter formats.
        cstr(out, portal.as_bytes());
        cstr(out, statement.as_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
        for parameter in parameters {
            sized_parameter(out, parameter);
        }
        out.extend_from_slice(&[0, 0]);
    });
}

fn sized_parameter(out: &mut Vec<u8>, parameter: &[u8]) {
    out.extend_from_slice(&u32::try_from(parameter.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(parameter);
}

/// `Bind` with the statement's name replaced; `rest` is what followed the names in the client's frame.
pub fn bind_renamed(out: &mut Vec<u8>, portal: &[u8], statement: &str, rest: &[u8]) {
    frame(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, statement.as_bytes());
        out.extend_from_slice(rest);
    });
}

/// `Describe` of a statement (`S`) or portal (`P`).
pub fn describe(out: &mut Vec<u8>, kind: u8, name: &str) {
    frame(out, b'D', |out| {
        out.push(kind);
        cstr(out, name.as_bytes());
    });
}

/// `Close` of a statement (`S`) or portal (`P`).
pub fn close(out: &mut Vec<u8>, kind: u8, name: impl AsRef<[u8]>) {
    frame(out, b'C', |out| {
        out.push(kind);
        cstr(out, name.as_ref());
    });
}

/// `Execute` of the unnamed portal, all rows.
pub fn execute_unnamed(out: &mut Vec<u8>) {
    execute(out, "");
}

/// `Execute` of a portal, all rows.
pub fn execute(out: &mut Vec<u8>, portal: &str) {
    frame(out, b'E', |out| {
        cstr(out, portal.as_bytes());
        out.extend_from_slice(&[0; 4]);
    });
}

/// `CopyFail` with a reason.
pub fn copy_fail(out: &mut Vec<u8>, reason: &str) {
    frame(out, b'f', |out| cstr(out, reason.as_bytes()));
}

/// `CopyData`.
pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, b'd', |out| out.extend_from_slice(data));
}

/// `StartupMessage` of protocol 3.0.
pub fn startup(out: &mut Vec<u8>, parameters: &[(&str, &str)]) {
    sized(out, |out| {
        out.extend_from_slice(&super::startup::PROTOCOL_3_0.to_be_bytes());
        for (name, value) in parameters {
            cstr(out, name.as_bytes());
            cstr(out, value.as_bytes());
        }
        out.push(0);
    });
}

/// `SSLRequest`.
pub fn ssl_request(out: &mut Vec<u8>) {
    sized(out, |out| out.extend_from_slice(&super::startup::SSL_REQUEST.to_be_bytes()));
}

/// `CancelRequest`.
pub fn cancel_request(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    sized(out, |out| {
        out.extend_from_slice(&super::startup::CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// `PasswordMessage`, `SASLResponse`: tag `p` and the bytes.
pub fn password(out: &mut Vec<u8>, bytes: &[u8]) {
    frame(out, b'p', |out| out.extend_from_slice(bytes));
}

/// `SASLInitialResponse`.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    frame(out, b'p', |out| {
        cstr(out, mechanism.as_bytes());
        sized_parameter(out, data);
    });
}
