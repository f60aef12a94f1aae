//! Faults: what goes wrong, told in one shape.
//! Promise: every stage's error can say whose fault it is, its SQLSTATE and what the client may read.
//! It leaves the frames to `wire` and the telling to `serve` and `session`.

pub mod sqlstate;

use sqlstate::SqlState;

/// Whose fault it is; the word used in logs and docs alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client sent what it must not.
    Client,
    /// A limit from the configuration was reached.
    Limit,
    /// `PostgreSQL` or the way to it failed.
    Upstream,
    /// The proxy is going away or was told to end this client.
    Operator,
}

/// What a client is told, as the fields of an `ErrorResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The SQLSTATE, from PostgreSQL's appendix A.
    pub sqlstate: SqlState,
    /// One sentence, PostgreSQL's own words where it has some.
    pub message: String,
    /// More, for the one who looks.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<&'static str>,
    /// The routine in PostgreSQL that raises the same error, where drivers look for it.
    pub routine: Option<&'static str>,
}

impl Report {
    /// A report with neither DETAIL nor HINT.
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None, routine: None }
    }

    /// Adds a DETAIL.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a HINT.
    #[must_use]
    pub const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Names the routine in PostgreSQL that raises the same error.
    #[must_use]
    pub const fn routine(mut self, routine: &'static str) -> Self {
        self.routine = Some(routine);
        self
    }
}

/// An error that a client can be told about.
pub trait Fault: std::error::Error {
    /// Whose fault it is.
    fn kind(&self) -> Kind;
    /// What the client may read; never a secret, never another tenant's name.
    fn report(&self) -> Report;
}
