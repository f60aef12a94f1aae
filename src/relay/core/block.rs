//! A transaction block that its client has begun and no server has. BEGIN waits for the first statement behind it, so a
//! client that is idle in a transaction holds no server until it has run something.
//!
//! ```text
//!   Served ── BEGIN ──> Waiting ── first statement ──> Opening ── BEGIN is complete ──> Served
//!     ^                   │  │                            │
//!     │                   │  └── a refusal ──> Failed <───┘ an error in front of it
//!     └─ COMMIT, ROLLBACK ┴─────────────────────┘
//! ```

use crate::sql::block::Modes;
use crate::wire::backend::Status;

/// Where a client's transaction block is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Block {
    /// The server's status holds: it has the block, or there is none.
    #[default]
    Served,
    /// The client was told that it is in a block. A BEGIN with these modes goes in front of its first statement.
    Waiting(Modes),
    /// The same, while statements are prepared on a server, outside of the block.
    Preparing(Modes),
    /// The BEGIN was sent in front of the segment that is under way, and has not completed.
    Opening(Modes),
    /// It failed before a server had it.
    Failed,
}

// === impl Block ===

impl Block {
    /// The status that the client was told; none: the server's.
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Served => None,
            Self::Waiting(_) | Self::Preparing(_) | Self::Opening(_) => Some(Status::Transaction),
            Self::Failed => Some(Status::Failed),
        }
    }

    /// Whether a BEGIN waits for what is sent next.
    pub const fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// The BEGIN that goes in front of what is sent now, if one waits.
    pub fn open(&mut self) -> Option<String> {
        let Self::Waiting(modes) = *self else { return None };
        *self = Self::Opening(modes);
        Some(modes.begin())
    }

    /// Statements are prepared, and nothing runs: the block stays without a server.
    pub fn prepare(&mut self) {
        if let Self::Waiting(modes) = *self {
            *self = Self::Preparing(modes);
        }
    }

    /// The server has it.
    pub fn opened(&mut self) {
        *self = Self::Served;
    }

    /// A statement was refused, or its server was lost, before the server had the block.
    pub fn fail(&mut self) {
        if *self != Self::Served {
            *self = Self::Failed;
        }
    }

    /// The server that was to have it, or that prepares statements for it, is given up, and nothing ran: it waits again.
    pub fn close(&mut self) {
        if let Self::Opening(modes) | Self::Preparing(modes) = *self {
            *self = Self::Waiting(modes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_waits_until_it_is_opened_and_may_be_opened_again() {
        let mut block = Block::Waiting(Modes::default());
        assert_eq!(block.open().as_deref(), Some("BEGIN"));
        assert_eq!(block.open(), None, "once");
        block.close();
        assert_eq!(block, Block::Waiting(Modes::default()));
        block.open();
        block.opened();
        assert_eq!((block.status(), block.open()), (None, None));
        block.close();
        block.fail();
        assert_eq!(block, Block::Served, "a block that a server has fails there");
    }

    #[test]
    fn a_block_waits_while_statements_are_prepared() {
        let mut block = Block::Waiting(Modes::default());
        block.prepare();
        assert_eq!((block.status(), block.open()), (Some(Status::Transaction), None));
        block.close();
        assert_eq!(block, Block::Waiting(Modes::default()));
        block.prepare();
        block.fail();
        assert_eq!(block, Block::Failed);
    }

    #[test]
    fn a_block_that_failed_is_not_opened() {
        for mut block in [Block::Waiting(Modes::default()), Block::Opening(Modes::default())] {
            assert_eq!(block.status(), Some(Status::Transaction));
            block.fail();
            assert_eq!((block.status(), block.open()), (Some(Status::Failed), None));
        }
    }
}
