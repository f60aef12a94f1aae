//! What servers still owe, in order: every message that was sent and expects an answer.
//! Promise: the proxy never guesses whose answer a frame is; a frame that nobody expects is a doubt.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::fault::Report;
use crate::relay::prepared::{Named, Statement};
use crate::upstream::StatementId;

/// Whether the client sees an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It is the client's.
    Client,
    /// It is the proxy's own.
    Nobody,
}

/// One answer owed.
#[derive(Debug)]
pub enum Owed {
    /// The reset between clients: everything up to its ReadyForQuery is ours.
    Reset,
    /// The context: everything up to its CommandComplete is ours.
    Enter,
    /// `ParseComplete`, with what to undo if it does not come.
    Parse(Shown, Undo),
    /// `BindComplete`.
    Bind(Shown),
    /// `ParameterDescription` and then a row description or none, of the statement that the client calls so.
    DescribeStatement(Shown, Box<[u8]>, Arc<Statement>),
    /// A row description or none; `Nobody` hides the none of a converted simple query.
    DescribePortal(Shown),
    /// Rows, then an end: complete, suspended, empty.
    Execute,
    /// The end of what is sent in the place of an extended `DISCARD ALL`.
    DiscardAll,
    /// The end of what is sent in the place of a `DEALLOCATE` of this name, which the protocol gave.
    Deallocate(Box<[u8]>),
    /// `CloseComplete` of a portal.
    ClosePortal,
    /// `CloseComplete` of a copy with this number, which nobody uses any more.
    Evict(u64),
    /// Everything up to ReadyForQuery.
    Query,
    /// ReadyForQuery.
    Sync,
    /// Not owed by the server: told to the client when its turn comes.
    Told(u8, Undo),
    /// An error that is made to happen; the client reads this report instead of it.
    Refused(Box<Report>),
}

/// What holds instead if a message does not do what it was sent for.
#[derive(Debug, Default)]
pub enum Undo {
    /// Nothing changes.
    #[default]
    Nothing,
    /// The unnamed statements before it, of the client and of the server: those that stay if it was skipped. A Parse
    /// that fails leaves none, as PostgreSQL drops the old one first.
    Unnamed(Option<Arc<Statement>>, Option<StatementId>),
    /// The named statement was not made.
    Named(Box<[u8]>, StatementId),
    /// The copy with this number is not on the server.
    OnServer(StatementId, u64),
    /// The server's unnamed statement is not known.
    UnnamedOnServer,
    /// The named statement was not closed.
    Closed(Box<[u8]>, Box<Named>),
    /// The unnamed statement was not closed.
    ClosedUnnamed(Option<Arc<Statement>>),
}

/// Why a message did not do what it was sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// The server skipped it.
    Skipped,
    /// The server tried, and reported an error; or it was lost with what became of it.
    Failed,
}

/// The answers owed, first one in front.
#[derive(Debug, Default)]
pub struct Ledger {
    owed: VecDeque<Owed>,
}

impl Ledger {
    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// One more.
    pub fn push(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }

    /// The next one.
    pub fn front(&self) -> Option<&Owed> {
        self.owed.front()
    }

    /// The next one is settled.
    pub fn pop(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front();
        if self.owed.is_empty() && self.owed.capacity() > 64 {
            self.owed = VecDeque::new();
        }
        owed
    }

    /// Whether the proxy's own statement runs.
    pub fn is_ours(&self) -> bool {
        matches!(self.front(), Some(Owed::Reset | Owed::Enter))
    }

    /// After an error in the extended protocol the server skips to the next Sync. Returns what it skips,
    /// last first, which is the order to undo it in; Sync itself stays.
    pub fn skip_to_sync(&mut self) -> Vec<Owed> {
        let end = self.owed.iter().position(|owed| matches!(owed, Owed::Sync)).unwrap_or(self.owed.len());
        let mut skipped: Vec<Owed> = self.owed.drain(..end).collect();
        skipped.reverse();
        skipped
    }

    /// Everything, last first: the server is gone or is given up.
    pub fn abandon(&mut self) -> Vec<Owed> {
        let mut all: Vec<Owed> = std::mem::take(&mut self.owed).into();
        all.reverse();
        all
    }
}
