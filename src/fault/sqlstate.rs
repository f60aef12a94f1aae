//! The SQLSTATEs we send, by name, as in PostgreSQL's appendix A "Error Codes".

/// Five characters, for example `28P01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlState(pub &'static str);

/// 08000-class: the upstream could not be reached.
pub const CANNOT_CONNECT: SqlState = SqlState("08001");
/// The upstream was lost.
pub const CONNECTION_FAILURE: SqlState = SqlState("08006");
/// A transaction may have been committed: the answer to its end was lost.
pub const TRANSACTION_RESOLUTION_UNKNOWN: SqlState = SqlState("08007");
/// Bytes that are not the protocol.
pub const PROTOCOL_VIOLATION: SqlState = SqlState("08P01");
/// Something that is not built or not offered.
pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState("0A000");
/// An unusable parameter value.
pub const INVALID_PARAMETER_VALUE: SqlState = SqlState("22023");
/// A statement that no transaction block may hold.
pub const ACTIVE_SQL_TRANSACTION: SqlState = SqlState("25001");
/// A message that means something in a block that has not failed only.
pub const IN_FAILED_TRANSACTION: SqlState = SqlState("25P02");
/// A client idle in a transaction for too long.
pub const IDLE_IN_TRANSACTION_TIMEOUT: SqlState = SqlState("25P03");
/// A prepared statement that is not there.
pub const INVALID_STATEMENT_NAME: SqlState = SqlState("26000");
/// A database that is not there.
pub const INVALID_CATALOG_NAME: SqlState = SqlState("3D000");
/// No tenant, or one that is not granted.
pub const INVALID_AUTHORIZATION: SqlState = SqlState("28000");
/// Wrong password, unknown user or unknown tenant.
pub const INVALID_PASSWORD: SqlState = SqlState("28P01");
/// A portal that is not there.
pub const INVALID_CURSOR_NAME: SqlState = SqlState("34000");
/// The guard cannot read the statement.
pub const SYNTAX_ERROR: SqlState = SqlState("42601");
/// The guard's refusal.
pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState("42501");
/// A prepared statement's name is taken.
pub const DUPLICATE_STATEMENT: SqlState = SqlState("42P05");
/// Clients, servers or waiting time are used up.
pub const TOO_MANY_CONNECTIONS: SqlState = SqlState("53300");
/// A limit from the configuration.
pub const CONFIGURATION_LIMIT: SqlState = SqlState("53400");
/// A client's memory budget is used up.
pub const OUT_OF_MEMORY: SqlState = SqlState("53200");
/// A message over the limit.
pub const PROGRAM_LIMIT: SqlState = SqlState("54000");
/// Cancelled, by the client or by a time limit.
pub const QUERY_CANCELED: SqlState = SqlState("57014");
/// Not now: isolation is in doubt.
pub const CANNOT_CONNECT_NOW: SqlState = SqlState("57P03");
/// The proxy is shutting down.
pub const ADMIN_SHUTDOWN: SqlState = SqlState("57P01");

/// The SQLSTATEs with which PostgreSQL ends a session; any other one is [`ADMIN_SHUTDOWN`].
const ENDINGS: &[&str] = &["25P03", "25P04", "57P01", "57P02", "57P04", "57P05"];

/// The SQLSTATE with which a server ends a session.
pub fn ending(code: &str) -> SqlState {
    ENDINGS.iter().find(|known| **known == code).map_or(ADMIN_SHUTDOWN, |known| SqlState(known))
}
