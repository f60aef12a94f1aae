//! What can go wrong on the way to a server. The operator reads the source in the log; the client reads
//! nothing about the upstream but that it is unreachable.

use std::io;

use crate::fault::{Fault, Kind, Report, sqlstate};
use crate::net::tls::TlsError;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    /// The tenant's servers or all servers were busy for `queue_timeout`.
    #[error("no server became free within queue_timeout")]
    QueueTimeout,
    /// The open transaction has a server, and the tenant that it turns to has as many as it may have.
    #[error("the tenant has as many servers as it may have")]
    TenantFull,
    /// The upstream does not take us.
    #[error("cannot connect to the upstream: {0}")]
    Connect(#[from] ConnectError),
    /// The upstream was lost.
    #[error("the upstream was lost: {0}")]
    Lost(io::Error),
    /// What the server sent is not the protocol, or its state is in doubt.
    #[error("the server's state is in doubt: {0}")]
    Doubt(&'static str),
    /// The answer to another statement stood where the proxy's own was due: the stream of answers is shifted.
    #[error("an answer belongs to another statement")]
    Shifted,
    /// The server refused what the client asked for at startup.
    #[error("{message}")]
    Parameters {
        /// As the server gave it.
        sqlstate: String,
        /// As the server gave it.
        message: String,
    },
    /// The tenant is on another upstream than the open transaction.
    #[error("the tenant's rows are on another upstream")]
    Elsewhere,
    /// The tenant's context could not be entered; nothing of the client ran.
    #[error("the tenant context could not be entered: {0}")]
    Context(String),
}

/// Why a connection to `PostgreSQL` was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Sockets.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS set-up.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The server offers no TLS where it is required.
    #[error("the server does not offer TLS")]
    NoTls,
    /// `connect_timeout` went by.
    #[error("no answer within connect_timeout")]
    Timeout,
    /// The server said no.
    #[error("{sqlstate}: {message}")]
    Refused {
        /// As the server gave it.
        sqlstate: String,
        /// As the server gave it.
        message: String,
    },
    /// The server asks for a password and there is none, or for a way we do not offer.
    #[error("{0}")]
    Authentication(&'static str),
    /// Not the protocol.
    #[error("unexpected message from the server")]
    Protocol,
    /// None of the hosts accepts writes.
    #[error("no host accepts writes")]
    ReadOnly,
}

impl Fault for UpstreamFault {
    fn kind(&self) -> Kind {
        match self {
            Self::QueueTimeout | Self::TenantFull => Kind::Limit,
            Self::Parameters { .. } | Self::Elsewhere => Kind::Client,
            Self::Connect(_) | Self::Lost(_) | Self::Doubt(_) | Self::Shifted | Self::Context(_) => {
                Kind::Upstream
            }
        }
    }

    fn report(&self) -> Report {
        match self {
            Self::QueueTimeout => {
                Report::new(sqlstate::TOO_MANY_CONNECTIONS, "no server connection became free in time")
                    .detail("All server connections that this tenant may use were busy for queue_timeout.")
                    .hint("Shorten transactions, or raise max_servers, pool_size or queue_timeout.")
            }
            Self::TenantFull => Report::new(sqlstate::TOO_MANY_CONNECTIONS, self.to_string())
                .detail("The transaction has a server already, so it does not wait for another one.")
                .hint(
                    "Choose the tenant before the first statement of the transaction, or raise max_servers.",
                ),
            Self::Connect(_) => {
                Report::new(sqlstate::CANNOT_CONNECT, "cannot connect to the upstream server")
            }
            Self::Lost(_) | Self::Doubt(_) | Self::Shifted => {
                Report::new(sqlstate::CONNECTION_FAILURE, "the connection to the upstream server was lost")
                    .hint(
                        "Nothing is known about the outcome of the running statement; the next one can work.",
                    )
            }
            Self::Elsewhere => Report::new(sqlstate::FEATURE_NOT_SUPPORTED, self.to_string())
                .hint("Choose the tenant by a simple SET before the transaction, or at login."),
            Self::Parameters { message, .. } => {
                Report::new(sqlstate::INVALID_PARAMETER_VALUE, message.clone())
            }
            Self::Context(_) => Report::new(
                sqlstate::CONNECTION_FAILURE,
                "the tenant context could not be entered, the statement was not run",
            ),
        }
    }
}
