//! Why the demo stopped, in words for the person who ran it.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Neither on PATH nor where Linux distributions put it.
    #[error(
        "no PostgreSQL found on PATH or in /usr/lib/postgresql: `make setup` installs it from the system's packages"
    )]
    NoPostgres,
    /// `initdb` refuses to run as root, so root needs another account to run it as.
    #[error(
        "PostgreSQL does not run as root, and {0} is missing: install it, or run the demo as another user"
    )]
    NoAccount(&'static str),
    /// A file, a socket or a process.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended although it should have stayed, or failed.
    #[error("{program} failed; the end of its output:\n{output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said last.
        output: String,
    },
    /// Something took too long.
    #[error("{what} took longer than {}", humantime::format_duration(*.limit))]
    Timeout {
        /// What was being waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// A statement or a login failed that should have worked.
    #[error("{what}: {}", explain(.source))]
    Sql {
        /// What was being done.
        what: String,
        /// What the server, or the proxy, said.
        source: tokio_postgres::Error,
    },
    /// A promise did not hold.
    #[error("this did not hold: {0}")]
    DidNotHold(String),
    /// Ctrl-C or SIGTERM before the last step.
    #[error("interrupted before the last step")]
    Interrupted,
}

/// Turns an I/O error into a [`DemoError`] that says what was being done.
pub(super) fn during(what: &str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::Io { what: what.to_owned(), source }
}

/// Turns a `PostgreSQL` error into a [`DemoError`] that says what was being done.
pub(super) fn asking(what: &str) -> impl FnOnce(tokio_postgres::Error) -> DemoError {
    move |source| DemoError::Sql { what: what.to_owned(), source }
}

/// The whole of what the server said, a line for each field; `tokio_postgres::Error` shows only "db error".
pub(super) fn explain(error: &tokio_postgres::Error) -> String {
    let Some(said) = error.as_db_error() else {
        return std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    };
    let mut text = format!("{} {}", said.code().code(), said.message());
    for (label, value) in [("DETAIL", said.detail()), ("HINT", said.hint())] {
        if let Some(value) = value {
            write!(text, "\n{label}: {value}").expect("writing to a String cannot fail");
        }
    }
    text
}
