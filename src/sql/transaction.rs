//! Follows statements through their transactions, by kind alone: whether one of them may have been committed if no
//! answer comes. It errs towards "may have been".

use super::kind::StatementKind;

/// Transaction state that a sequence of statements has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockState {
    /// Outside a transaction block, behind nothing that may write.
    Idle,
    /// Outside a transaction block, behind a statement that may write. The end of the text, or Sync, commits it.
    Implicit,
    /// In a transaction block.
    Block,
    /// In a failed transaction block.
    Failed,
}

/// Whether a transaction that may have written was told to end, so that it may have been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    No,
    Possible,
}

/// Whether a transaction was told to end, and whether statements stand behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    None,
    Last,
    Followed,
}

/// The way of a sequence of statements through its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    state: BlockState,
    commit: Commit,
    end: End,
}

/// The course of a text, from wherever it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextCourse {
    idle: Course,
    implicit: Course,
    block: Course,
    failed: Course,
    is_empty: bool,
}

// === impl Course ===

impl Course {
    /// Begins outside a transaction block.
    pub const IDLE: Self = Self::begin(BlockState::Idle);
    /// Begins in a transaction block.
    pub const BLOCK: Self = Self::begin(BlockState::Block);
    /// Begins in a failed transaction block.
    pub const FAILED: Self = Self::begin(BlockState::Failed);

    const fn begin(state: BlockState) -> Self {
        Self { state, commit: Commit::No, end: End::None }
    }

    /// Whether it is in a transaction block that has not failed.
    pub fn is_in_block(self) -> bool {
        self.state == BlockState::Block
    }

    /// Whether it is in a transaction block that has failed.
    pub fn is_in_failed_block(self) -> bool {
        self.state == BlockState::Failed
    }

    /// Whether a transaction was told to end.
    pub fn has_end(self) -> bool {
        self.end != End::None
    }

    /// Whether a statement stands behind the end of a transaction.
    pub fn goes_on_behind_end(self) -> bool {
        self.end == End::Followed
    }

    /// Whether a statement that was sent may have committed a transaction.
    pub fn may_have_committed(self) -> bool {
        self.commit == Commit::Possible
    }

    /// Whether the end of the text, or Sync, commits something.
    pub fn commits_at_end(self) -> bool {
        self.state == BlockState::Implicit
    }

    /// The course through this text, too.
    #[must_use]
    pub fn through(self, text: TextCourse) -> Self {
        let Self { state, commit, end } = match self.state {
            BlockState::Idle => text.idle,
            BlockState::Implicit => text.implicit,
            BlockState::Block => text.block,
            BlockState::Failed => text.failed,
        };
        let end = match self.end {
            End::None => end,
            end if text.is_empty => end,
            End::Last | End::Followed => End::Followed,
        };
        Self { state, commit: if self.may_have_committed() { self.commit } else { commit }, end }
    }

    fn then(self, kind: StatementKind) -> Self {
        let (state, commit) = match self.state {
            BlockState::Idle | BlockState::Implicit => self.outside(kind),
            BlockState::Block => inside(kind),
            BlockState::Failed => (behind_failure(kind), Commit::No),
        };
        let ends = kind.ends_transaction() || kind == StatementKind::PrepareTransaction;
        let end = match self.end {
            End::None if ends => End::Last,
            End::None => End::None,
            End::Last | End::Followed => End::Followed,
        };
        Self { state, commit: if self.may_have_committed() { self.commit } else { commit }, end }
    }

    fn outside(self, kind: StatementKind) -> (BlockState, Commit) {
        use StatementKind as K;
        match (self.state, kind) {
            (_, K::Begin) => (BlockState::Block, Commit::No),
            (_, K::Rollback) | (BlockState::Idle, K::Commit) => (BlockState::Idle, Commit::No),
            (_, K::Commit) => (BlockState::Idle, Commit::Possible),
            (_, kind) if commits_by_itself(kind) => (BlockState::Implicit, Commit::Possible),
            (_, kind) if may_write(kind) => (BlockState::Implicit, Commit::No),
            (state, _) => (state, Commit::No),
        }
    }
}

fn inside(kind: StatementKind) -> (BlockState, Commit) {
    match kind {
        StatementKind::Commit | StatementKind::PrepareTransaction => (BlockState::Idle, Commit::Possible),
        StatementKind::CommitAndChain => (BlockState::Block, Commit::Possible),
        StatementKind::Rollback => (BlockState::Idle, Commit::No),
        _ => (BlockState::Block, Commit::No),
    }
}

/// COMMIT of a failed transaction rolls it back.
fn behind_failure(kind: StatementKind) -> BlockState {
    use StatementKind as K;
    match kind {
        K::Commit | K::Rollback | K::PrepareTransaction => BlockState::Idle,
        K::CommitAndChain | K::RollbackAndChain | K::RollbackTo => BlockState::Block,
        _ => BlockState::Failed,
    }
}

/// Statements that may end transactions themselves when they stand outside a transaction block: procedures, DO, and
/// those that refuse a block (CREATE INDEX CONCURRENTLY, VACUUM, …).
fn commits_by_itself(kind: StatementKind) -> bool {
    use StatementKind as K;
    matches!(
        kind,
        K::Alter | K::Call | K::CommitPrepared | K::Create | K::Do | K::Drop | K::Other | K::RollbackPrepared
    )
}

/// Whether a statement of this kind may change what others see. A SELECT counts as one that does not, though a
/// function that it calls may.
fn may_write(kind: StatementKind) -> bool {
    use StatementKind as K;
    !matches!(
        kind,
        K::Nothing
            | K::Begin
            | K::Close
            | K::CommitAndChain
            | K::Deallocate
            | K::DeallocateAll
            | K::Declare
            | K::Discard
            | K::DiscardAll
            | K::Fetch
            | K::Listen
            | K::Lock
            | K::Move
            | K::Prepare
            | K::PrepareTransaction
            | K::Release
            | K::Reset
            | K::ResetAll
            | K::RollbackAndChain
            | K::RollbackTo
            | K::Savepoint
            | K::Select
            | K::Set
            | K::Show
            | K::Table
            | K::Unlisten
            | K::Values
    )
}

// === impl TextCourse ===

impl Default for TextCourse {
    /// Of a text without a statement.
    fn default() -> Self {
        let [idle, implicit, block, failed] =
            [BlockState::Idle, BlockState::Implicit, BlockState::Block, BlockState::Failed]
                .map(Course::begin);
        Self { idle, implicit, block, failed, is_empty: true }
    }
}

impl TextCourse {
    /// With one more statement.
    #[must_use]
    pub(super) fn then(self, kind: StatementKind) -> Self {
        let Self { idle, implicit, block, failed, .. } = self;
        let [idle, implicit, block, failed] = [idle, implicit, block, failed].map(|course| course.then(kind));
        Self { idle, implicit, block, failed, is_empty: false }
    }

    /// Of a text whose statements cannot be told apart.
    pub(super) fn unreadable() -> Self {
        let unknown = Course { state: BlockState::Implicit, commit: Commit::Possible, end: End::Followed };
        Self { idle: unknown, implicit: unknown, block: unknown, failed: unknown, is_empty: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::survey;

    /// What the loss of the answers to these texts leaves open: `c`, that something was committed; `e`, that the end
    /// of the last text commits something; `-`, nothing.
    fn open(start: Course, texts: &[&str]) -> char {
        let course = texts.iter().fold(start, |course, text| course.through(survey(text.as_bytes()).course));
        match (course.may_have_committed(), course.commits_at_end()) {
            (true, _) => 'c',
            (false, true) => 'e',
            (false, false) => '-',
        }
    }

    #[test]
    fn a_text_says_whether_it_may_commit_wherever_it_begins() {
        // Outside a block, in one, in a failed one.
        for (text, idle, block, failed) in [
            ("", '-', '-', '-'),
            ("SELECT 1", '-', '-', '-'),
            ("SHOW all; VALUES (1); SET x = 1", '-', '-', '-'),
            ("INSERT INTO t VALUES (1)", 'e', '-', '-'),
            ("WITH x AS (DELETE FROM t RETURNING 1) SELECT 1", 'e', '-', '-'),
            ("COPY t FROM STDIN", 'e', '-', '-'),
            ("COPY (INSERT INTO t VALUES (1) RETURNING 1) TO STDOUT", 'e', '-', '-'),
            ("SELECT 1; DELETE FROM t", 'e', '-', '-'),
            ("BEGIN", '-', '-', '-'),
            ("BEGIN; INSERT INTO t VALUES (1)", '-', '-', '-'),
            ("INSERT INTO t VALUES (1); BEGIN", '-', '-', '-'),
            ("COMMIT", '-', 'c', '-'),
            ("END WORK", '-', 'c', '-'),
            ("COMMIT AND CHAIN", '-', 'c', '-'),
            ("PREPARE TRANSACTION 'p'", '-', 'c', '-'),
            ("COMMIT PREPARED 'p'", 'c', '-', '-'),
            ("ROLLBACK PREPARED 'p'", 'c', '-', '-'),
            ("RELEASE s", '-', '-', '-'),
            ("SAVEPOINT s; ROLLBACK TO s", '-', '-', '-'),
            ("ROLLBACK", '-', '-', '-'),
            ("ROLLBACK; INSERT INTO t VALUES (1)", 'e', 'e', 'e'),
            ("BEGIN; INSERT INTO t VALUES (1); COMMIT; SELECT 1", 'c', 'c', '-'),
            ("BEGIN; ROLLBACK; UPDATE t SET a = 1", 'e', 'e', 'e'),
            ("INSERT INTO t VALUES (1); COMMIT", 'c', 'c', '-'),
            ("COMMIT; DELETE FROM t", 'e', 'c', 'e'),
            ("ROLLBACK TO s; COMMIT", '-', 'c', 'c'),
            ("ROLLBACK AND CHAIN; COMMIT", '-', 'c', 'c'),
            ("CALL p()", 'c', '-', '-'),
            ("DO 'code'", 'c', '-', '-'),
            ("VACUUM t", 'c', '-', '-'),
            ("SELECT 'no end", 'c', 'c', 'c'),
        ] {
            let found = [Course::IDLE, Course::BLOCK, Course::FAILED].map(|start| open(start, &[text]));
            assert_eq!(found, [idle, block, failed], "{text}");
        }
    }

    #[test]
    fn statements_behind_the_end_of_a_transaction_are_noticed() {
        for (texts, expected) in [
            (&["SELECT 1", "COMMIT"][..], false),
            (&["SELECT 1; ROLLBACK", "", ";"], false),
            (&["SELECT 1; COMMIT; SELECT 2"], true),
            (&["COMMIT", "SELECT 2"], true),
            (&["ABORT; BEGIN"], true),
            (&["PREPARE TRANSACTION 'p'; SELECT 1"], true),
            (&["COMMIT AND CHAIN", "SELECT 1"], true),
            (&["SELECT 'no end"], true),
            (&["ROLLBACK TO s", "SELECT 1"], false),
        ] {
            let course = texts
                .iter()
                .fold(Course::BLOCK, |course, text| course.through(survey(text.as_bytes()).course));
            assert_eq!(course.goes_on_behind_end(), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_pipeline_is_one_course() {
        assert_eq!(open(Course::IDLE, &["INSERT INTO t VALUES (1)", "SELECT 1"]), 'e');
        assert_eq!(open(Course::IDLE, &["INSERT INTO t VALUES (1)", "ROLLBACK"]), '-');
        assert_eq!(open(Course::IDLE, &["INSERT INTO t VALUES (1)", "COMMIT"]), 'c');
        assert_eq!(open(Course::IDLE, &["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT", "SELECT 1"]), 'c');
        assert_eq!(open(Course::BLOCK, &["SELECT 1", "COMMIT", "BEGIN"]), 'c');
    }
}
