//! The words that decide anything for the proxy, recognised without allocation: by length and first byte, then
//! compared. Everything else is [`Keyword::Other`].

/// A word the proxy looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the word it names")]
pub enum Keyword {
    Abort,
    All,
    Alter,
    And,
    Atomic,
    Authorization,
    Begin,
    Call,
    Chain,
    Close,
    Commit,
    Copy,
    Create,
    Deallocate,
    Declare,
    Default,
    Delete,
    Discard,
    Do,
    Drop,
    Else,
    End,
    Execute,
    Explain,
    Fetch,
    From,
    Function,
    Insert,
    Listen,
    Local,
    Lock,
    Loop,
    Merge,
    Move,
    Notify,
    Or,
    Prepare,
    Prepared,
    Procedure,
    Release,
    Replace,
    Reset,
    Rollback,
    Savepoint,
    Select,
    Session,
    Set,
    Show,
    Start,
    Stdin,
    Stdout,
    Table,
    Then,
    To,
    Transaction,
    Unlisten,
    Update,
    Values,
    With,
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

impl Keyword {
    /// The keyword that an unquoted word is.
    pub fn of(word: &[u8]) -> Self {
        let Some(first) = word.first().map(u8::to_ascii_lowercase) else { return Self::Other };
        let found = of_length(word.len()).iter().find(|(name, _)| {
            name.as_bytes().first() == Some(&first) && word.eq_ignore_ascii_case(name.as_bytes())
        });
        match found {
            Some((_, keyword)) => *keyword,
            None if matches!(first, b'p' | b's') => Self::of_name(word),
            None => Self::Other,
        }
    }

    /// The keyword that a name is, quoted or not. Capitals are not told apart: at worst a quoted name that
    /// `PostgreSQL` does not know counts as the one it knows.
    pub fn of_name(name: &[u8]) -> Self {
        let starts =
            |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix));
        if starts(b"set_config") && name.len() == 10 {
            Self::SetConfig
        } else if starts(b"pg_settings") && name.len() == 11 {
            Self::PgSettings
        } else if starts(b"pg_temp")
            || starts(b"pg_advisory_lock")
            || starts(b"pg_try_advisory_lock")
            || (starts(b"setseed") && name.len() == 7)
        {
            Self::Lingering
        } else {
            Self::Other
        }
    }
}

fn of_length(length: usize) -> &'static [(&'static str, Keyword)] {
    use Keyword as K;
    match length {
        2 => &[("do", K::Do), ("or", K::Or), ("to", K::To)],
        3 => &[("all", K::All), ("and", K::And), ("end", K::End), ("set", K::Set)],
        4 => &[
            ("from", K::From),
            ("with", K::With),
            ("show", K::Show),
            ("copy", K::Copy),
            ("move", K::Move),
            ("lock", K::Lock),
            ("call", K::Call),
            ("drop", K::Drop),
            ("then", K::Then),
            ("else", K::Else),
            ("loop", K::Loop),
            ("temp", K::Lingering),
        ],
        5 => &[
            ("begin", K::Begin),
            ("start", K::Start),
            ("abort", K::Abort),
            ("merge", K::Merge),
            ("table", K::Table),
            ("fetch", K::Fetch),
            ("close", K::Close),
            ("reset", K::Reset),
            ("alter", K::Alter),
            ("chain", K::Chain),
            ("local", K::Local),
            ("stdin", K::Stdin),
        ],
        6 => &[
            ("select", K::Select),
            ("insert", K::Insert),
            ("update", K::Update),
            ("delete", K::Delete),
            ("values", K::Values),
            ("commit", K::Commit),
            ("create", K::Create),
            ("listen", K::Listen),
            ("notify", K::Notify),
            ("atomic", K::Atomic),
            ("stdout", K::Stdout),
        ],
        _ => of_greater_length(length),
    }
}

fn of_greater_length(length: usize) -> &'static [(&'static str, Keyword)] {
    use Keyword as K;
    match length {
        7 => &[
            ("explain", K::Explain),
            ("prepare", K::Prepare),
            ("execute", K::Execute),
            ("declare", K::Declare),
            ("release", K::Release),
            ("replace", K::Replace),
            ("discard", K::Discard),
            ("default", K::Default),
            ("session", K::Session),
        ],
        8 => &[
            ("rollback", K::Rollback),
            ("prepared", K::Prepared),
            ("unlisten", K::Unlisten),
            ("function", K::Function),
        ],
        9 => &[("savepoint", K::Savepoint), ("procedure", K::Procedure), ("temporary", K::Lingering)],
        10 => &[("deallocate", K::Deallocate)],
        11 => &[("transaction", K::Transaction)],
        13 => &[("authorization", K::Authorization)],
        _ => &[],
    }
}
