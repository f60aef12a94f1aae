//! The segment: what a client sends up to and including a Query or Sync. One segment is under way at a time.
//!
//! ```text
//!   Between ── first message ──> Open ── Sync, Query ──> Closed ── ReadyForQuery ──> Between
//!                                 │ ^                                                   ^
//!                       an error  v │ (none comes back: what follows is skipped)        │ Sync
//!                              Skipping ────────────────────────────────────────────────┘
//! ```

/// Where a client is in its segment. The default is the only reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Segment {
    /// None has begun.
    #[default]
    Between,
    /// Messages of the extended protocol were taken, and no Sync yet.
    Open,
    /// It was sent whole; its ReadyForQuery is owed.
    Closed,
    /// Messages are dropped up to the Sync that has not come yet.
    Skipping(Skip),
}

/// Why messages are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The server reported an error and would drop them (`ignore_till_sync` in PostgreSQL's `postgres.c`).
    ServerError,
    /// No server saw the beginning of the segment, or the server was lost: the proxy answers the Sync.
    NoServer,
}

/// How the transaction that a segment began or runs in stands, as far as it was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was taken back.
    #[default]
    Open,
    /// A statement failed, or the client rolled back.
    RolledBack,
}

/// How far the server has come with the segment, as far as it has answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Progress {
    /// At the hand-over or assertion in front: nothing of the client has run.
    Entering,
    /// At the client's messages.
    #[default]
    Running,
}

/// What stands in front of the segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InFront {
    /// Nothing that changes what the client's settings are on the server.
    #[default]
    Nothing,
    /// A hand-over. What it has set is reported at the segment's end.
    HandOver,
}

/// Whether a portal was executed in the segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Executed {
    /// None was.
    #[default]
    Nothing,
    /// One was.
    Something,
}

/// Whether the segment leaves an unnamed statement that PostgreSQL has not described yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unnamed {
    /// It was bound or described in the segment that parsed it.
    #[default]
    Used,
    /// It was only parsed, so that the client means to use it in a later segment.
    Parsed,
}

/// Server reply that the client's next message waits for. PostgreSQL sends each of these without further input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitedReply {
    /// The description of a statement that was prepared again, to be compared with what its client was told.
    Description,
    /// Whether the client's block is open.
    Block,
    /// Whether a portal may have a name that the proxy knows: PostgreSQL drops portals when a transaction ends.
    Bound,
    /// Whether a COPY from the client begins.
    CopyStart,
    /// The error of a COPY that the proxy ended with CopyFail, because of a message of this kind.
    CopyError(u8),
}
