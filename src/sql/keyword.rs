//! The words that decide anything for the proxy, recognised without allocation. Everything else is
//! [`Keyword::Other`].

use super::words::{Words, folded};

/// A word the proxy looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the word it names")]
pub enum Keyword {
    Abort,
    All,
    Alter,
    And,
    As,
    Atomic,
    Authorization,
    Begin,
    By,
    Call,
    Chain,
    Close,
    Columns,
    Commit,
    Copy,
    Create,
    Cube,
    Deallocate,
    Declare,
    Default,
    Delete,
    Discard,
    Distinct,
    Do,
    Drop,
    Else,
    End,
    Except,
    Execute,
    Explain,
    Fetch,
    For,
    From,
    Function,
    Group,
    Having,
    Insert,
    Intersect,
    Into,
    Join,
    Limit,
    Listen,
    Local,
    Lock,
    Loop,
    Materialized,
    Merge,
    Move,
    Natural,
    Notify,
    Offset,
    On,
    Or,
    Order,
    Partition,
    Prepare,
    Prepared,
    Procedure,
    Release,
    Rename,
    Replace,
    Reset,
    Returning,
    Rollback,
    Rollup,
    Savepoint,
    Select,
    Session,
    Set,
    Sets,
    Show,
    Start,
    Stdin,
    Stdout,
    Table,
    Then,
    To,
    Transaction,
    Union,
    Unlisten,
    Update,
    Using,
    Values,
    Where,
    Window,
    With,
    XmlAttributes,
    /// `pg_settings`, the view through which an UPDATE sets settings.
    PgSettings,
    /// `set_config`, the function that sets settings.
    SetConfig,
    /// A name by which a statement leaves something behind in its session: `temp`, `pg_temp`, `setseed`,
    /// session-level advisory locks.
    Lingering,
    /// Anything else.
    Other,
}

// === impl Keyword ===

impl Keyword {
    /// The keyword that an unquoted word is.
    #[inline]
    pub fn of(word: &[u8]) -> Self {
        match KEYWORDS.find(word) {
            Some((_, keyword)) => *keyword,
            None if word.is_ascii() => Self::of_name(word),
            None => Self::of_name(&folded(word)),
        }
    }

    /// The keyword that a name is, quoted or not. Capitals are not told apart: at worst a quoted name that
    /// `PostgreSQL` does not know counts as the one it knows.
    #[inline]
    pub fn of_name(name: &[u8]) -> Self {
        match name {
            [b'p' | b'P', b'g' | b'G', b'_', ..] => Self::of_system_name(name),
            [b's' | b'S', b'e' | b'E', b't' | b'T', ..] if name.eq_ignore_ascii_case(b"set_config") => {
                Self::SetConfig
            }
            [b's' | b'S', b'e' | b'E', b't' | b'T', ..] if name.eq_ignore_ascii_case(b"setseed") => {
                Self::Lingering
            }
            _ => Self::Other,
        }
    }

    fn of_system_name(name: &[u8]) -> Self {
        let starts =
            |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix));
        if name.eq_ignore_ascii_case(b"pg_settings") {
            Self::PgSettings
        } else if starts(b"pg_temp")
            || starts(b"pg_advisory_lock")
            || starts(b"pg_try_advisory_lock")
            || starts(b"pg_advisory_unlock")
        {
            Self::Lingering
        } else {
            Self::Other
        }
    }
}

static KEYWORDS: Words<Keyword, 512> = {
    use Keyword as K;
    Words::new(&[
        ("abort", K::Abort),
        ("all", K::All),
        ("alter", K::Alter),
        ("and", K::And),
        ("as", K::As),
        ("atomic", K::Atomic),
        ("authorization", K::Authorization),
        ("begin", K::Begin),
        ("by", K::By),
        ("call", K::Call),
        ("chain", K::Chain),
        ("close", K::Close),
        ("columns", K::Columns),
        ("commit", K::Commit),
        ("copy", K::Copy),
        ("create", K::Create),
        ("cube", K::Cube),
        ("deallocate", K::Deallocate),
        ("declare", K::Declare),
        ("default", K::Default),
        ("delete", K::Delete),
        ("discard", K::Discard),
        ("distinct", K::Distinct),
        ("do", K::Do),
        ("drop", K::Drop),
        ("else", K::Else),
        ("end", K::End),
        ("except", K::Except),
        ("execute", K::Execute),
        ("explain", K::Explain),
        ("fetch", K::Fetch),
        ("for", K::For),
        ("from", K::From),
        ("function", K::Function),
        ("group", K::Group),
        ("having", K::Having),
        ("insert", K::Insert),
        ("intersect", K::Intersect),
        ("into", K::Into),
        ("join", K::Join),
        ("limit", K::Limit),
        ("listen", K::Listen),
        ("local", K::Local),
        ("lock", K::Lock),
        ("loop", K::Loop),
        ("materialized", K::Materialized),
        ("merge", K::Merge),
        ("move", K::Move),
        ("natural", K::Natural),
        ("notify", K::Notify),
        ("offset", K::Offset),
        ("on", K::On),
        ("or", K::Or),
        ("order", K::Order),
        ("partition", K::Partition),
        ("prepare", K::Prepare),
        ("prepared", K::Prepared),
        ("procedure", K::Procedure),
        ("release", K::Release),
        ("rename", K::Rename),
        ("replace", K::Replace),
        ("reset", K::Reset),
        ("returning", K::Returning),
        ("rollback", K::Rollback),
        ("rollup", K::Rollup),
        ("savepoint", K::Savepoint),
        ("select", K::Select),
        ("session", K::Session),
        ("set", K::Set),
        ("sets", K::Sets),
        ("show", K::Show),
        ("start", K::Start),
        ("stdin", K::Stdin),
        ("stdout", K::Stdout),
        ("table", K::Table),
        ("temp", K::Lingering),
        ("temporary", K::Lingering),
        ("then", K::Then),
        ("to", K::To),
        ("transaction", K::Transaction),
        ("union", K::Union),
        ("unlisten", K::Unlisten),
        ("update", K::Update),
        ("using", K::Using),
        ("values", K::Values),
        ("where", K::Where),
        ("window", K::Window),
        ("with", K::With),
        ("xmlattributes", K::XmlAttributes),
    ])
};
