//! The kinds of statement a proxy tells apart, known by their first words, and what each kind may leave behind
//! in its session.

use super::keyword::Keyword;

/// Whether a statement may leave something behind in its session: settings, locks, temporary tables, prepared
/// statements, cursors. By the text alone: what a function or trigger leaves behind is not seen, nor is the
/// last value of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEffect {
    /// Of a kind that leaves nothing.
    None,
    /// May leave something.
    Maybe,
}

/// A statement's kind by its first words. BEGIN and START TRANSACTION, COMMIT and END, ROLLBACK and ABORT are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the statement it names")]
pub enum StatementKind {
    /// No statement at all.
    Nothing,
    Alter,
    Begin,
    Call,
    Close,
    Commit,
    /// COMMIT AND CHAIN: the next transaction starts at once.
    CommitAndChain,
    CommitPrepared,
    /// COPY of or to a file or program of the server.
    Copy,
    CopyFromStdin,
    CopyToStdout,
    Create,
    Deallocate,
    DeallocateAll,
    Declare,
    Delete,
    Discard,
    DiscardAll,
    Do,
    Drop,
    Execute,
    Explain,
    Fetch,
    Insert,
    Listen,
    Lock,
    Merge,
    Move,
    Notify,
    Prepare,
    PrepareTransaction,
    Release,
    Reset,
    ResetAll,
    Rollback,
    /// ROLLBACK AND CHAIN: the next transaction starts at once.
    RollbackAndChain,
    RollbackPrepared,
    RollbackTo,
    Savepoint,
    Select,
    Set,
    Show,
    Table,
    Unlisten,
    Update,
    Values,
    With,
    /// Anything else.
    Other,
}

// === impl StatementKind ===

impl StatementKind {
    /// Whether no statement of this kind has columns, however the database changes: a utility statement without rows, for
    /// which `UtilityReturnsTuples` in PostgreSQL's `utility.c` is false. Rows of DML depend on RETURNING.
    pub const fn never_has_columns(self) -> bool {
        matches!(
            self,
            Self::Nothing
                | Self::Alter
                | Self::Begin
                | Self::Close
                | Self::Commit
                | Self::CommitAndChain
                | Self::CommitPrepared
                | Self::Copy
                | Self::CopyFromStdin
                | Self::CopyToStdout
                | Self::Create
                | Self::Deallocate
                | Self::DeallocateAll
                | Self::Declare
                | Self::Discard
                | Self::DiscardAll
                | Self::Do
                | Self::Drop
                | Self::Listen
                | Self::Lock
                | Self::Move
                | Self::Notify
                | Self::Prepare
                | Self::PrepareTransaction
                | Self::Release
                | Self::Reset
                | Self::ResetAll
                | Self::Rollback
                | Self::RollbackAndChain
                | Self::RollbackPrepared
                | Self::RollbackTo
                | Self::Savepoint
                | Self::Set
                | Self::Unlisten
        )
    }

    /// Whether it is allowed in a failed transaction block (`IsTransactionExitStmt` in PostgreSQL's `postgres.c`).
    pub fn ends_failed_block(self) -> bool {
        matches!(
            self,
            Self::Commit
                | Self::CommitAndChain
                | Self::Rollback
                | Self::RollbackAndChain
                | Self::RollbackTo
                | Self::PrepareTransaction
                | Self::Nothing
        )
    }

    /// Whether it is a query of rows: it takes a snapshot, and means the same wherever it stands in its transaction.
    pub fn reads(self) -> bool {
        matches!(
            self,
            Self::Select
                | Self::Insert
                | Self::Update
                | Self::Delete
                | Self::Merge
                | Self::Values
                | Self::Table
                | Self::With
        )
    }

    /// Whether it ends a transaction.
    pub fn ends_transaction(self) -> bool {
        matches!(self, Self::Commit | Self::CommitAndChain | Self::Rollback | Self::RollbackAndChain)
    }

    /// Whether a statement of this kind may leave something behind, its contents aside.
    pub fn session_effect(self) -> SessionEffect {
        match self {
            Self::Nothing
            | Self::Begin
            | Self::Close
            | Self::Commit
            | Self::CommitAndChain
            | Self::Copy
            | Self::CopyFromStdin
            | Self::CopyToStdout
            | Self::Delete
            | Self::Explain
            | Self::Fetch
            | Self::Insert
            | Self::Merge
            | Self::Move
            | Self::Release
            | Self::Rollback
            | Self::RollbackAndChain
            | Self::RollbackTo
            | Self::Savepoint
            | Self::Select
            | Self::Show
            | Self::Table
            | Self::Update
            | Self::Values
            | Self::With => SessionEffect::None,
            _ => SessionEffect::Maybe,
        }
    }

    pub(super) fn of(words: [Keyword; WORDS], copy: CopyPeer) -> Self {
        use Keyword as K;
        let chains = words.windows(2).any(|pair| matches!(pair, [K::And, K::Chain]));
        match words {
            [K::Commit | K::End, K::Prepared, ..] => Self::CommitPrepared,
            [K::Commit | K::End, ..] if chains => Self::CommitAndChain,
            [K::Commit | K::End, ..] => Self::Commit,
            [K::Rollback | K::Abort, K::Prepared, ..] => Self::RollbackPrepared,
            [K::Rollback | K::Abort, K::To, ..] | [K::Rollback | K::Abort, _, K::To, ..] => Self::RollbackTo,
            [K::Rollback | K::Abort, ..] if chains => Self::RollbackAndChain,
            [K::Rollback | K::Abort, ..] => Self::Rollback,
            [K::Begin, ..] | [K::Start, K::Transaction, ..] => Self::Begin,
            [K::Copy, ..] => match copy {
                CopyPeer::FromClient => Self::CopyFromStdin,
                CopyPeer::ToClient => Self::CopyToStdout,
                _ => Self::Copy,
            },
            [K::Deallocate, K::All, ..] | [K::Deallocate, K::Prepare, K::All, ..] => Self::DeallocateAll,
            [K::Discard, K::All, ..] => Self::DiscardAll,
            [K::Reset, K::All, ..] => Self::ResetAll,
            [K::Prepare, K::Transaction, ..] => Self::PrepareTransaction,
            [first, ..] => Self::of_first(first),
        }
    }

    fn of_first(first: Keyword) -> Self {
        use Keyword as K;
        match first {
            K::Alter => Self::Alter,
            K::Call => Self::Call,
            K::Close => Self::Close,
            K::Create => Self::Create,
            K::Deallocate => Self::Deallocate,
            K::Declare => Self::Declare,
            K::Delete => Self::Delete,
            K::Discard => Self::Discard,
            K::Do => Self::Do,
            K::Drop => Self::Drop,
            K::Execute => Self::Execute,
            K::Explain => Self::Explain,
            K::Fetch => Self::Fetch,
            K::Insert => Self::Insert,
            K::Listen => Self::Listen,
            K::Lock => Self::Lock,
            K::Merge => Self::Merge,
            K::Move => Self::Move,
            K::Notify => Self::Notify,
            K::Prepare => Self::Prepare,
            K::Release => Self::Release,
            K::Reset => Self::Reset,
            K::Savepoint => Self::Savepoint,
            K::Select => Self::Select,
            K::Set => Self::Set,
            K::Show => Self::Show,
            K::Table => Self::Table,
            K::Unlisten => Self::Unlisten,
            K::Update => Self::Update,
            K::Values => Self::Values,
            K::With => Self::With,
            _ => Self::Other,
        }
    }
}

/// How many words of a statement decide its kind: `COMMIT TRANSACTION AND CHAIN` has four.
pub(super) const WORDS: usize = 4;

/// With whom a COPY exchanges its data, as far as read. Only the first FROM or TO outside parentheses counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyPeer {
    Unread,
    From,
    To,
    FromClient,
    ToClient,
    Server,
}

// === impl CopyPeer ===

impl CopyPeer {
    /// STDIN and STDOUT are one word to `PostgreSQL`: the direction says which is meant.
    pub(super) fn then(self, keyword: Keyword) -> Self {
        match (self, keyword) {
            (Self::Unread, Keyword::From) => Self::From,
            (Self::Unread, Keyword::To) => Self::To,
            (Self::From, Keyword::Stdin | Keyword::Stdout) => Self::FromClient,
            (Self::To, Keyword::Stdin | Keyword::Stdout) => Self::ToClient,
            (Self::From | Self::To, _) => Self::Server,
            _ => self,
        }
    }
}
