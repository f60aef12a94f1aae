//! What an operator can set about listening and about TLS, on both sides.

use std::path::PathBuf;
use std::time::Duration;

/// `[listen]`: where clients come in and the limits before and during a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// `host:port` to listen on.
    pub address: String,
    /// Directory of the unix socket `.s.PGSQL.<port>`; none: no unix socket.
    pub socket_dir: Option<PathBuf>,
    /// Whether clients may or must use TLS. Unix sockets are never TLS.
    pub tls: ClientTls,
    /// PEM chain and key; both present unless `tls` is off.
    pub certificate: Option<PathBuf>,
    /// PEM private key of `certificate`.
    pub private_key: Option<PathBuf>,
    /// Whose certificates clients may log in with; none: they are not asked for one.
    pub clients: Option<ClientAuthority>,
    /// Names of databases that tenants may connect to besides the upstreams'. The name says nothing about where a tenant is.
    pub databases: Vec<String>,
    /// Clients in all; one more is refused with 53300.
    pub max_clients: usize,
    /// Threads that serve clients.
    pub workers: usize,
    /// Connections that have not logged in, besides those; 0: no limit.
    pub max_logins: usize,
    /// The same of one address (of one network of 64 bits with IPv6); 0: no limit.
    pub max_logins_per_address: usize,
    /// Server connections of the whole process.
    pub max_server_connections: usize,
    /// Time from accept to the end of the login.
    pub login_timeout: Duration,
    /// Time that running transactions have to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// Largest startup packet, in bytes; `PostgreSQL` itself allows 10,000.
    pub max_startup_bytes: usize,
    /// Largest client message that is collected (everything but `CopyData`), in bytes.
    pub max_message_bytes: usize,
    /// Time from the first byte of a client's message (but `CopyData`) to its last; zero: no limit.
    pub message_timeout: Duration,
    /// The most that the texts of one client's prepared statements may take, in bytes; 0: no limit.
    pub max_prepared_bytes: usize,
    /// What one client can make the proxy keep: unfinished messages, buffers, prepared statements, in bytes; 0: no limit.
    pub max_client_memory: usize,
    /// The same for all clients of one tenant.
    pub max_tenant_memory: usize,
    /// The same for all clients.
    pub max_memory: usize,
}

/// Whose certificates are taken from clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuthority {
    /// PEM roots.
    pub ca: PathBuf,
    /// PEM revocation lists of these roots.
    pub revoked: Option<PathBuf>,
}

/// `listen.tls`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientTls {
    /// TLS requests are answered with 'N'.
    Off,
    /// TLS if the client asks.
    Prefer,
    /// A TCP client without TLS is refused.
    Require,
}

/// `upstream.NAME.tls`, as libpq's sslmode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerTls {
    /// Never TLS.
    Off,
    /// TLS if the server offers it, unverified.
    Prefer,
    /// TLS or nothing, unverified.
    Require,
    /// The chain must lead to a trusted root.
    VerifyCa,
    /// As `VerifyCa`, and the host name must match.
    VerifyFull,
}
