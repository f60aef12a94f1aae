//! What ends a conversation, or the server's part in it.

use crate::fault::{Fault, Kind, Report, sqlstate};

/// Why the relay stopped.
#[derive(Debug, thiserror::Error)]
pub enum RelayFault {
    /// The client's bytes are not the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// A message over the limit.
    #[error("message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// As announced.
        bytes: usize,
        /// `listen.max_message_bytes`.
        limit: usize,
    },
    /// The server's state is in doubt.
    #[error("{0}")]
    Doubt(&'static str),
    /// The answer to another statement stood where the proxy's own was due: the stream of answers is shifted.
    #[error("an answer belongs to another statement")]
    Shifted,
    /// The context could not be entered; nothing of the client ran.
    #[error("{0}")]
    Context(String),
    /// The server ended the session while the client was idle in its transaction, and said why.
    #[error("the server ends an idle transaction: {}", .0.message)]
    Farewell(Box<Report>),
    /// The server said that it ends this session: whatever it had run before that, it has answered.
    #[error("the server ends the session: {0}")]
    Ended(String),
    /// The connection to the server ended without a word.
    #[error("the connection to the server was lost: {0}")]
    Closed(String),
}

impl Fault for RelayFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Protocol(_) => Kind::Client,
            Self::TooLarge { .. } => Kind::Limit,
            Self::Doubt(_)
            | Self::Shifted
            | Self::Context(_)
            | Self::Farewell(_)
            | Self::Ended(_)
            | Self::Closed(_) => Kind::Upstream,
        }
    }

    fn report(&self) -> Report {
        match self {
            Self::Protocol(what) => Report::new(sqlstate::PROTOCOL_VIOLATION, *what),
            Self::TooLarge { .. } => Report::new(sqlstate::PROGRAM_LIMIT, self.to_string())
                .hint("Raise listen.max_message_bytes, or use COPY, which has no such limit."),
            Self::Doubt(_) | Self::Shifted | Self::Ended(_) | Self::Closed(_) => {
                Report::new(sqlstate::CONNECTION_FAILURE, "the connection to the upstream server was lost")
                    .hint(
                        "Nothing is known about the outcome of the running statement; the next one can work.",
                    )
            }
            Self::Farewell(report) => (**report).clone(),
            Self::Context(_) => Report::new(
                sqlstate::CONNECTION_FAILURE,
                "the tenant context could not be entered, the statement was not run",
            ),
        }
    }
}
