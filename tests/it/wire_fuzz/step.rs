//! What a sequence consists of: frontend messages, the steps in which they are sent, the turns of two clients. A
//! sequence prints itself so that a found one can be read, and be written down as a test.

use std::fmt;

use crate::support::message;
use crate::support::recorder::Tampering;

/// A text that every PostgreSQL answers with a syntax error. The direct side is sent it in the place of a statement
/// that the proxy has to refuse, so that both sides fail at the same point.
pub(super) const REFUSED: &str = "refused by pgtenant";
/// Names of the two tenants.
pub(super) const TENANTS: [&str; 2] = ["acme", "globex"];

/// One frontend message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Query(String),
    Parse {
        name: &'static str,
        text: String,
    },
    Bind {
        portal: &'static str,
        statement: &'static str,
        values: Vec<String>,
    },
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    Execute {
        portal: &'static str,
        rows: u32,
    },
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Sync,
    Flush,
    CopyData(String),
    CopyDone,
    CopyFail,
    FunctionCall,
    /// A message that no server may receive; the proxy refuses it.
    Forbidden(Box<Message>),
    /// A value in binary, and results in binary.
    BindBinary {
        portal: &'static str,
        statement: &'static str,
        value: Vec<u8>,
    },
    /// Bytes that are no message of the protocol.
    Malformed(Vec<u8>),
}

/// What the client does after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Sends the next one in the same write.
    More,
    /// Is silent for a moment.
    Pause,
    /// Reads all answers that are due.
    Answer,
}

/// A message and how it is sent.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) message: Message,
    /// A place in the message, in thousandths of its length, at which the client is silent for a moment.
    pub(super) cut: Option<usize>,
    pub(super) then: Then,
}

/// How a turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All answers are read, and an open transaction block is ended by this statement.
    Rest(&'static str),
    /// The last message is sent up to this place, in thousandths; the rest follows in a later turn.
    Hold(usize),
    /// The connection is closed without a word.
    Vanish,
    /// The connection is closed by Terminate.
    Terminate,
}

/// Session state that keeps the client on its server until DISCARD ALL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    Nothing,
    Pin,
}

/// A client's part of a sequence.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) client: usize,
    pub(super) family: &'static str,
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
    pub(super) leaves: Leaves,
    /// The first write is sent while the other client still holds the server.
    pub(super) is_early: bool,
}

/// One event of a sequence.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Turn(Turn),
    /// The owner of the tables changes a definition.
    Definition(&'static str),
    /// Something is done to the next hand-over, or to no more of them.
    Tampering(Option<Tampering>),
}

/// Who the two clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Users {
    /// Bound users of two tenants.
    Tenants,
    /// A maintenance user, twice; what stands for its tenant is a setting of its own.
    Maintenance,
}

/// One test case.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub(super) users: Users,
    /// Startup parameters of both clients.
    pub(super) startup: [Vec<(&'static str, &'static str)>; 2],
    pub(super) events: Vec<Event>,
}

// === impl Message ===

impl Message {
    /// The bytes that the client of the proxy sends.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Query(text) => message::query(text),
            Self::Parse { name, text } => message::parse(name, text),
            Self::Bind { portal, statement, values } => {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                message::bind(portal, statement, &values)
            }
            Self::DescribeStatement(name) => message::describe_statement(name),
            Self::DescribePortal(name) => message::describe_portal(name),
            Self::Execute { portal, rows } => message::execute(portal, *rows),
            Self::CloseStatement(name) => message::close_statement(name),
            Self::ClosePortal(name) => message::close_portal(name),
            Self::Sync => message::sync(),
            Self::Flush => message::flush(),
            Self::CopyData(data) => message::copy_data(data),
            Self::CopyDone => message::copy_done(),
            Self::CopyFail => message::copy_fail("given up"),
            // version: the same on both sides, whatever a session has left
            Self::FunctionCall => message::function_call(89),
            Self::Forbidden(inner) => inner.bytes(),
            Self::BindBinary { portal, statement, value } => message::bind_binary(portal, statement, value),
            Self::Malformed(bytes) => bytes.clone(),
        }
    }

    /// The bytes that stand for it on the direct side.
    pub(super) fn direct_bytes(&self) -> Vec<u8> {
        match self {
            Self::Forbidden(inner) => match &**inner {
                Self::Parse { name, .. } => message::parse(name, REFUSED),
                _ => message::query(REFUSED),
            },
            _ => self.bytes(),
        }
    }

    /// Whether PostgreSQL answers it with a ReadyForQuery of its own, unless it is skipped.
    pub(super) fn ends_segment(&self) -> bool {
        match self {
            Self::Query(_) | Self::Sync | Self::FunctionCall => true,
            Self::Forbidden(inner) => inner.ends_segment(),
            _ => false,
        }
    }

    /// Whether everything that PostgreSQL has to say about it is on its way without another message.
    pub(super) fn is_answered_at_once(&self) -> bool {
        self.ends_segment()
            || matches!(self, Self::Flush | Self::CopyData(_) | Self::CopyDone | Self::CopyFail)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(text) => write!(f, "Q {text:?}"),
            Self::Parse { name, text } => write!(f, "P {name:?} {text:?}"),
            Self::Bind { portal, statement, values } => write!(f, "B {portal:?} {statement:?} {values:?}"),
            Self::DescribeStatement(name) => write!(f, "D S {name:?}"),
            Self::DescribePortal(name) => write!(f, "D P {name:?}"),
            Self::Execute { portal, rows } => write!(f, "E {portal:?} {rows}"),
            Self::CloseStatement(name) => write!(f, "C S {name:?}"),
            Self::ClosePortal(name) => write!(f, "C P {name:?}"),
            Self::Sync => write!(f, "S"),
            Self::Flush => write!(f, "H"),
            Self::CopyData(data) if data.len() > 60 => {
                write!(f, "d {:?}… {} bytes", data.chars().take(40).collect::<String>(), data.len())
            }
            Self::CopyData(data) => write!(f, "d {data:?}"),
            Self::CopyDone => write!(f, "c"),
            Self::CopyFail => write!(f, "f"),
            Self::FunctionCall => write!(f, "F"),
            Self::Forbidden(inner) => write!(f, "forbidden {inner}"),
            Self::BindBinary { portal, statement, value } => {
                write!(f, "B {portal:?} {statement:?} binary {value:?}")
            }
            Self::Malformed(bytes) => write!(f, "malformed {:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

// === impl Sequence ===

/// Why a sequence with a Sync behind rows of a COPY, and more of that COPY behind it, cannot be judged.
pub(super) const SYNC_AMONG_ROWS: &str = "Sync among the rows of a COPY";

impl Sequence {
    /// Whether a Sync or Flush stands behind rows of a COPY and in front of more of them. If the COPY fails, PostgreSQL
    /// answers it or not, as the row in error stood in front of it or behind; the proxy cannot know which.
    pub(super) fn has_sync_among_rows(&self) -> bool {
        let is_late = |message: &Message| matches!(message, Message::Sync | Message::Flush);
        let is_copy = |message: &Message| {
            matches!(message, Message::CopyData(_) | Message::CopyDone | Message::CopyFail)
        };
        self.events.iter().any(|event| {
            let Event::Turn(turn) = event else { return false };
            let messages: Vec<&Message> = turn.steps.iter().map(|step| &step.message).collect();
            messages.split(|message| !is_late(message) && !is_copy(message)).any(|run| {
                let first = run.iter().position(|message| is_copy(message));
                let last = run.iter().rposition(|message| is_copy(message));
                first.zip(last).is_some_and(|(first, last)| run[first..last].iter().any(|one| is_late(one)))
            })
        })
    }
}

// === impl Step ===

impl From<Message> for Step {
    fn from(message: Message) -> Self {
        Self { message, cut: None, then: Then::More }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(place) = self.cut {
            write!(f, "  [cut at {place}/1000]")?;
        }
        match self.then {
            Then::More => Ok(()),
            Then::Pause => write!(f, "  [pause]"),
            Then::Answer => write!(f, "  [read]"),
        }
    }
}

// === impl Turn and Sequence ===

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let early = if self.is_early { ", sent early" } else { "" };
        let pin = if self.leaves == Leaves::Pin { ", then DISCARD ALL" } else { "" };
        writeln!(f, "{} ({}{early}){pin}, end: {:?}", TENANTS[self.client], self.family, self.end)?;
        for step in &self.steps {
            writeln!(f, "    {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.users)?;
        for (tenant, startup) in TENANTS.iter().zip(&self.startup) {
            if !startup.is_empty() {
                writeln!(f, "{tenant} starts with {startup:?}")?;
            }
        }
        for event in &self.events {
            match event {
                Event::Turn(turn) => write!(f, "{turn}")?,
                Event::Definition(sql) => writeln!(f, "owner: {sql}")?,
                Event::Tampering(tampering) => writeln!(f, "server: {tampering:?}")?,
            }
        }
        Ok(())
    }
}

// === short forms ===

pub(super) fn query(text: impl Into<String>) -> Message {
    Message::Query(text.into())
}

pub(super) fn parse(name: &'static str, text: impl Into<String>) -> Message {
    Message::Parse { name, text: text.into() }
}

pub(super) fn bind(portal: &'static str, statement: &'static str) -> Message {
    Message::Bind { portal, statement, values: Vec::new() }
}

pub(super) fn execute(portal: &'static str, rows: u32) -> Message {
    Message::Execute { portal, rows }
}
