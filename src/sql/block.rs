//! Recognises a text that opens or ends a transaction block and does nothing else, in the forms whose answer is known
//! without a server (`TransactionStmt` in PostgreSQL's `gram.y`). Everything else is for a server to read.

use super::lexer::{Lexer, TokenKind};

/// The longest text that is read. `START TRANSACTION` with all three modes has 68 characters.
const MAX_TEXT_BYTES: usize = 256;

/// A statement that opens or ends a transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockStatement {
    /// `BEGIN` or `START TRANSACTION`, with or without modes.
    Begin(Begin),
    /// `COMMIT` or `END`.
    Commit,
    /// `ROLLBACK` or `ABORT`.
    Rollback,
}

/// A statement that opens a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The tag of its completion.
    pub tag: &'static str,
    /// What it says of its transaction.
    pub modes: Modes,
}

/// The modes of a transaction, as far as its BEGIN gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modes {
    isolation: Option<Isolation>,
    access: Option<Access>,
    deferrable: Option<Deferrable>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolation {
    Serializable,
    RepeatableRead,
    ReadCommitted,
    ReadUncommitted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deferrable {
    Yes,
    No,
}

// === impl Modes ===

impl Modes {
    /// Reads a list of modes; none: it is no such list, or gives one twice.
    fn read(words: &[&[u8]]) -> Option<Self> {
        let mut modes = Self::default();
        let mut rest = words;
        while !rest.is_empty() {
            let behind = modes.take(rest)?;
            rest = behind.strip_prefix(&[&b","[..]]).unwrap_or(behind);
            if rest.is_empty() && !behind.is_empty() {
                // A comma stands between two modes only.
                return None;
            }
        }
        Some(modes)
    }

    /// Takes one mode; the words behind it.
    fn take<'a, 'b>(&mut self, words: &'a [&'b [u8]]) -> Option<&'a [&'b [u8]]> {
        if let [b"isolation", b"level", level @ ..] = words {
            let (level, behind) = match level {
                [b"serializable", behind @ ..] => (Isolation::Serializable, behind),
                [b"repeatable", b"read", behind @ ..] => (Isolation::RepeatableRead, behind),
                [b"read", b"committed", behind @ ..] => (Isolation::ReadCommitted, behind),
                [b"read", b"uncommitted", behind @ ..] => (Isolation::ReadUncommitted, behind),
                _ => return None,
            };
            return self.isolation.replace(level).is_none().then_some(behind);
        }
        match words {
            [b"read", b"write", behind @ ..] => {
                self.access.replace(Access::ReadWrite).is_none().then_some(behind)
            }
            [b"read", b"only", behind @ ..] => {
                self.access.replace(Access::ReadOnly).is_none().then_some(behind)
            }
            [b"not", b"deferrable", behind @ ..] => {
                self.deferrable.replace(Deferrable::No).is_none().then_some(behind)
            }
            [b"deferrable", behind @ ..] => {
                self.deferrable.replace(Deferrable::Yes).is_none().then_some(behind)
            }
            _ => None,
        }
    }

    /// The BEGIN with these modes.
    pub fn begin(self) -> String {
        let isolation = match self.isolation {
            None => "",
            Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
            Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::ReadUncommitted) => " ISOLATION LEVEL READ UNCOMMITTED",
        };
        let access = match self.access {
            None => "",
            Some(Access::ReadWrite) => " READ WRITE",
            Some(Access::ReadOnly) => " READ ONLY",
        };
        let deferrable = match self.deferrable {
            None => "",
            Some(Deferrable::Yes) => " DEFERRABLE",
            Some(Deferrable::No) => " NOT DEFERRABLE",
        };
        ["BEGIN", isolation, access, deferrable].concat()
    }
}

// === impl BlockStatement ===

impl BlockStatement {
    /// Whether a text may be one: most are told apart by their first byte.
    pub fn may_be(text: &[u8]) -> bool {
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        text.len() <= MAX_TEXT_BYTES
            && first.is_some_and(|byte| {
                matches!(
                    byte.to_ascii_lowercase(),
                    b'a' | b'b' | b'c' | b'e' | b'r' | b's' | b'/' | b'-' | b';'
                )
            })
    }

    /// Reads a whole text.
    pub fn read(text: &[u8]) -> Option<Self> {
        Self::may_be(text).then_some(())?;
        let mut words = Vec::new();
        let mut tokens = Lexer::new(text).skip_while(|token| token.kind == TokenKind::Semicolon);
        for token in tokens.by_ref() {
            match token.kind {
                TokenKind::Word => words.push(token.bytes.to_ascii_lowercase()),
                TokenKind::Comma => words.push(b",".to_vec()),
                TokenKind::Semicolon => break,
                _ => return None,
            }
        }
        tokens.all(|token| token.kind == TokenKind::Semicolon).then_some(())?;
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let (verb, rest) = words.split_first()?;
        match (*verb, rest) {
            (b"begin", [b"work" | b"transaction", modes @ ..] | modes) => begin("BEGIN", modes),
            (b"start", [b"transaction", modes @ ..]) => begin("START TRANSACTION", modes),
            (b"commit" | b"end", [] | [b"work" | b"transaction"]) => Some(Self::Commit),
            (b"rollback" | b"abort", [] | [b"work" | b"transaction"]) => Some(Self::Rollback),
            _ => None,
        }
    }
}

fn begin(tag: &'static str, modes: &[&[u8]]) -> Option<BlockStatement> {
    Modes::read(modes).map(|modes| BlockStatement::Begin(Begin { tag, modes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(text: &str) -> Option<(&'static str, String)> {
        match BlockStatement::read(text.as_bytes())? {
            BlockStatement::Begin(begin) => Some((begin.tag, begin.modes.begin())),
            BlockStatement::Commit | BlockStatement::Rollback => None,
        }
    }

    #[test]
    fn every_spelling_of_begin_is_read_with_its_modes() {
        for (text, tag, sent) in [
            ("BEGIN", "BEGIN", "BEGIN"),
            (" begin;", "BEGIN", "BEGIN"),
            ("/* a */ BEGIN -- b", "BEGIN", "BEGIN"),
            (";; Begin Work ;;", "BEGIN", "BEGIN"),
            ("BEGIN TRANSACTION READ ONLY", "BEGIN", "BEGIN READ ONLY"),
            ("START TRANSACTION", "START TRANSACTION", "BEGIN"),
            (
                "start transaction isolation level repeatable read, read write not deferrable",
                "START TRANSACTION",
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE NOT DEFERRABLE",
            ),
            (
                "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY, DEFERRABLE",
                "BEGIN",
                "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
            ),
            ("BEGIN ISOLATION LEVEL READ COMMITTED", "BEGIN", "BEGIN ISOLATION LEVEL READ COMMITTED"),
            ("BEGIN ISOLATION LEVEL READ UNCOMMITTED", "BEGIN", "BEGIN ISOLATION LEVEL READ UNCOMMITTED"),
        ] {
            assert_eq!(begins(text), Some((tag, sent.to_owned())), "{text}");
        }
    }

    #[test]
    fn every_spelling_of_the_end_is_read() {
        for verb in ["COMMIT", "end", "commit work;", "END TRANSACTION"] {
            assert_eq!(BlockStatement::read(verb.as_bytes()), Some(BlockStatement::Commit), "{verb}");
        }
        for verb in ["ROLLBACK", "abort", "rollback transaction ;", "ABORT WORK"] {
            assert_eq!(BlockStatement::read(verb.as_bytes()), Some(BlockStatement::Rollback), "{verb}");
        }
    }

    #[test]
    fn whatever_else_is_in_a_text_leaves_it_to_a_server() {
        for text in [
            "",
            ";",
            "BEGIN; SELECT 1",
            "BEGIN READ",
            "BEGIN READ ONLY,",
            "BEGIN , READ ONLY",
            "BEGIN READ ONLY,, DEFERRABLE",
            "BEGIN READ ONLY, READ WRITE",
            "BEGIN ISOLATION LEVEL SERIALIZABLE ISOLATION LEVEL READ COMMITTED",
            "BEGIN ISOLATION LEVEL",
            "BEGIN ISOLATION LEVEL REPEATABLE",
            "BEGIN 1",
            "\"begin\"",
            "BEGIN ATOMIC",
            "START",
            "START WORK",
            "COMMIT AND CHAIN",
            "COMMIT AND NO CHAIN",
            "COMMIT PREPARED 'x'",
            "ROLLBACK TO a",
            "ROLLBACK TO SAVEPOINT a",
            "PREPARE TRANSACTION 'x'",
            "SET LOCAL x = 1",
            "BEGIN /* not closed",
        ] {
            assert_eq!(BlockStatement::read(text.as_bytes()), None, "{text}");
        }
        let long = |spaces| format!("BEGIN{}", " ".repeat(spaces));
        assert!(BlockStatement::read(long(MAX_TEXT_BYTES - 5).as_bytes()).is_some());
        assert!(BlockStatement::read(long(MAX_TEXT_BYTES - 4).as_bytes()).is_none());
    }
}
