//! What the server still owes, in order: every message that was sent and expects an answer.
//! Promise: the proxy never guesses whose answer a frame is; a frame that nothing waits for puts the server in doubt.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::fault::Report;
use crate::relay::core::portals::{Portal, Unbind};
use crate::relay::core::statements::{AllNamed, Named, Statement};
use crate::upstream::{Deallocated, Expect, ServerState, StatementId};
use crate::wire::backend::Status;

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
pub enum Reply {
    /// A Query of the proxy: everything up to its ReadyForQuery.
    OwnQuery,
    /// The reset of a hand-over: everything up to its ReadyForQuery, which says that its transaction is open.
    Reset(Expect),
    /// A statement of the proxy in the extended protocol: everything up to its CommandComplete.
    Own(Expect),
    /// CloseComplete of a portal of the proxy.
    OwnClose,
    /// The client's BEGIN that waited, in the extended protocol: everything up to its CommandComplete. An error is the
    /// client's.
    Begin,
    /// A Query of the proxy that opens the client's block, or fails it: everything up to ReadyForQuery with this status.
    OpenBlock(Status),
    /// ParseComplete, with what to undo if it does not come.
    Parse(Shown, Undo),
    /// BindComplete, with what to undo if it does not come.
    Bind(Shown, Unbind),
    /// ParameterDescription, and then RowDescription or NoData, of a client's statement of this name: learned or
    /// compared, and seen by the client if it asked.
    DescribeStatement(Shown, Box<[u8]>, Arc<Statement>),
    /// RowDescription or NoData; the client that sent a simple query does not see the NoData.
    DescribePortal(Shown),
    /// Rows, then an end: complete, suspended, empty.
    Execute(Then),
    /// CloseComplete of a portal.
    ClosePortal,
    /// CloseComplete of a statement that the proxy closes on the server.
    CloseStatement(StatementId),
    /// Everything up to ReadyForQuery.
    Query(Box<Text>),
    /// FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
    /// ReadyForQuery.
    Sync,
    /// Not owed by the server: the proxy answers the client when its turn comes.
    Local(u8, Undo),
    /// Not owed by the server: the proxy describes a statement without columns, of which it knows the parameter types.
    LocalDescription(Arc<Statement>),
    /// An error that is made to happen; the client reads this report instead of it.
    Refused(Box<Report>),
}

/// What follows the completion of a statement.
#[derive(Debug, Default)]
pub enum Then {
    /// Nothing.
    #[default]
    Nothing,
    /// It stands for DISCARD ALL. The client has its statements again if that does not complete.
    DiscardAll(Box<AllNamed>),
    /// It is DEALLOCATE ALL in the extended protocol, where messages behind it may prepare others before it completes.
    DeallocateAll(Box<(AllNamed, Deallocated)>),
    /// It stands for a DEALLOCATE of this statement, to which the protocol gave its name. The client has it again if the
    /// DEALLOCATE does not complete.
    Deallocate(Box<(Box<[u8]>, Named)>),
}

/// The text of a Query as it was sent.
#[derive(Debug, Default)]
pub struct Text {
    /// The hand-over in front.
    pub front: Option<TextHandOver>,
    /// Statements of the proxy in it, by their numbers from zero, in order.
    pub hidden: Vec<usize>,
    /// The number of the BEGIN that waited, if that stands in front.
    pub begin: Option<usize>,
    /// Where the proxy put bytes in: after so many characters of the client's text, so many.
    pub inserted: Vec<(usize, usize)>,
    /// The statement whose answers come now.
    pub at: usize,
    /// What the proxy does when statements are complete, by their numbers, in order.
    pub then: VecDeque<(usize, Then)>,
    /// The report that the client reads in the place of an error that is made to happen.
    pub refused: Option<Box<Report>>,
    /// What it closed. None: no message in front of it can make the server skip it.
    pub closed: Option<Box<Closed>>,
}

/// A hand-over in front of the text of a Query.
#[derive(Debug)]
pub struct TextHandOver {
    /// How many statements it has.
    pub statements: usize,
    /// A row of the reset, until it has come.
    pub expects: Expect,
}

/// What a Query closes, given back if the server skips the Query.
#[derive(Debug, Default)]
pub struct Closed {
    /// The unnamed statement.
    pub statement: Option<Arc<Statement>>,
    /// The unnamed statement of the server.
    pub on_server: Option<StatementId>,
    /// The unnamed portal.
    pub portal: Option<Portal>,
}

/// What a client loses or keeps if a message was skipped.
#[derive(Debug, Default)]
pub enum Undo {
    /// Nothing.
    #[default]
    Nothing,
    /// The unnamed statement is this one again.
    Unnamed(Option<Arc<Statement>>),
    /// The named statement was not made.
    Named(Box<[u8]>, StatementId),
    /// The statement is not on the server.
    OnServer(StatementId),
    /// The named statement was not closed.
    Closed(Box<[u8]>, Box<Named>),
    /// The unnamed statement was not closed.
    ClosedUnnamed(Option<Arc<Statement>>),
}

// === impl Undo ===

impl Undo {
    /// PostgreSQL has dropped the unnamed statement.
    pub fn forget_unnamed(&mut self) {
        if let Self::Unnamed(before) = self {
            *before = None;
        }
    }

    /// What the server has not got.
    pub fn on_server(&self, state: &mut ServerState) {
        match self {
            Self::Nothing | Self::Closed(..) | Self::ClosedUnnamed(_) => {}
            Self::Unnamed(_) => state.unnamed = None,
            Self::Named(_, id) => {
                state.remove_prepared(*id);
            }
            Self::OnServer(id) => {
                state.remove_prepared(*id);
                state.unnamed = None;
            }
        }
    }
}

// === impl Text ===

impl Text {
    /// Whether the answers that come now are to a statement of the proxy.
    pub fn is_hidden(&self) -> bool {
        self.hidden.binary_search(&self.at).is_ok()
    }

    /// The hand-over in front, while its statements are answered.
    pub fn handing_over(&mut self) -> Option<&mut TextHandOver> {
        self.front.as_mut().filter(|front| self.at < front.statements)
    }

    /// Whether the answers that come now are to the hand-over in front.
    pub fn is_handing_over(&self) -> bool {
        self.front.as_ref().is_some_and(|front| self.at < front.statements)
    }

    /// What follows the statement of this number; taken.
    pub fn take_then(&mut self, number: usize) -> Then {
        match self.then.front() {
            Some((of, _)) if *of == number => self.then.pop_front().map(|(_, then)| then).unwrap_or_default(),
            _ => Then::Nothing,
        }
    }

    /// The text for the server: these bytes are put in at these places, in order.
    pub fn insert(&mut self, text: &[u8], inserts: &[(usize, Vec<u8>)]) -> Vec<u8> {
        let mut sent =
            Vec::with_capacity(text.len() + inserts.iter().map(|(_, added)| added.len()).sum::<usize>());
        let (mut from, mut before) = (0, 0);
        for (at, added) in inserts {
            let between = text.get(from..*at).unwrap_or_default();
            before += characters(between);
            sent.extend_from_slice(between);
            sent.extend_from_slice(added);
            self.inserted.push((before, characters(added)));
            from = *at;
        }
        sent.extend_from_slice(text.get(from..).unwrap_or_default());
        sent
    }

    /// Where the client's text has what the server calls this position; both count characters from one.
    pub fn position(&self, sent: usize) -> usize {
        let (mut own, mut before) = (sent, 0);
        for &(after, count) in &self.inserted {
            own = own.saturating_sub(count.min(sent.saturating_sub(after + before)));
            before += count;
        }
        own.max(1)
    }
}

/// Characters of a text in UTF-8: bytes that do not go on with one.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

// === impl Reply ===

impl Reply {
    /// Whether it is the answer to a statement of the proxy.
    pub const fn is_own(&self) -> bool {
        match self {
            Self::OwnQuery
            | Self::Reset(_)
            | Self::Own(_)
            | Self::OwnClose
            | Self::Begin
            | Self::OpenBlock(_) => true,
            Self::Parse(..)
            | Self::Bind(..)
            | Self::DescribeStatement(..)
            | Self::DescribePortal(_)
            | Self::Execute(_)
            | Self::ClosePortal
            | Self::CloseStatement(_)
            | Self::Query(_)
            | Self::FunctionCall
            | Self::Sync
            | Self::Local(..)
            | Self::LocalDescription(_)
            | Self::Refused(_) => false,
        }
    }
}

/// The answers owed, first one in front.
#[derive(Debug, Default)]
pub struct Replies {
    owed: VecDeque<Reply>,
    flush: Flush,
}

/// Most answers owed to one client; as long as there are more, nothing is taken from it.
pub const MAX_OWED: usize = 8192;

/// Whether the server was told to send what it has answered, since there was room last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Flush {
    #[default]
    NotSent,
    Sent,
}

/// Whether more answers may be owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// They may.
    Some,
    /// Not from here on: the server is told to send what it has answered, which it may keep until a Sync.
    NoneFromHere,
    /// They may not.
    None,
}

// === impl Replies ===

impl Replies {
    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// One more.
    pub fn push(&mut self, reply: Reply) {
        self.owed.push_back(reply);
    }

    /// How much more may be owed.
    pub fn room(&mut self) -> Room {
        if self.owed.len() < MAX_OWED {
            self.flush = Flush::NotSent;
            return Room::Some;
        }
        match std::mem::replace(&mut self.flush, Flush::Sent) {
            Flush::NotSent => Room::NoneFromHere,
            Flush::Sent => Room::None,
        }
    }

    /// The next one.
    pub fn front(&self) -> Option<&Reply> {
        self.owed.front()
    }

    /// The next one, to be changed.
    pub fn front_mut(&mut self) -> Option<&mut Reply> {
        self.owed.front_mut()
    }

    /// Whether the server owes anything.
    pub fn waits_for_server(&self) -> bool {
        self.owed.iter().any(|reply| !matches!(reply, Reply::Local(..) | Reply::LocalDescription(_)))
    }

    /// The next one is settled.
    pub fn pop(&mut self) -> Option<Reply> {
        let reply = self.owed.pop_front();
        if self.owed.is_empty() && self.owed.capacity() > 64 {
            self.owed = VecDeque::new();
        }
        reply
    }

    /// Whether the statement that runs now is the proxy's.
    pub fn is_own(&self) -> bool {
        self.front().is_some_and(Reply::is_own)
    }

    /// Whether the end of the segment was sent and not answered.
    pub fn owes_end(&self) -> bool {
        self.owed.iter().any(|reply| matches!(reply, Reply::Query(_) | Reply::Sync | Reply::FunctionCall))
    }

    /// After an error in the extended protocol the server skips to the next Sync. What it skips, last first, which is the
    /// order to undo it in; Sync itself stays.
    pub fn skip_to_sync(&mut self) -> Vec<Reply> {
        let is_sync = |reply: &Reply| matches!(reply, Reply::Sync);
        let end = self.owed.iter().position(is_sync).unwrap_or(self.owed.len());
        let mut skipped: Vec<Reply> = self.owed.drain(..end).collect();
        skipped.reverse();
        skipped
    }

    /// Everything, last first: the server is gone or is given up.
    pub fn abandon(&mut self) -> Vec<Reply> {
        let mut all: Vec<Reply> = std::mem::take(&mut self.owed).into();
        all.reverse();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Reply {
        Reply::Execute(Then::Nothing)
    }

    #[test]
    fn an_error_skips_to_the_next_sync_and_no_further() {
        let mut replies = Replies::default();
        for reply in [
            Reply::Parse(Shown::Client, Undo::Unnamed(None)),
            run(),
            Reply::Sync,
            Reply::Parse(Shown::Client, Undo::Nothing),
            Reply::Sync,
        ] {
            replies.push(reply);
        }
        let skipped = replies.skip_to_sync();
        assert!(matches!(skipped.as_slice(), [Reply::Execute(_), Reply::Parse(_, Undo::Unnamed(_))]));
        assert!(matches!(replies.front(), Some(Reply::Sync)));
        assert!(replies.skip_to_sync().is_empty());
        assert_eq!(replies.abandon().len(), 3);
        assert!(replies.is_empty());
    }

    #[test]
    fn the_proxys_answers_are_told_from_the_clients() {
        let mut replies = Replies::default();
        replies.push(Reply::OwnQuery);
        replies.push(Reply::Own(Expect::Nothing));
        replies.push(run());
        for own in [true, true, false, false] {
            assert_eq!(replies.is_own(), own);
            replies.pop();
        }
    }

    #[test]
    fn local_answers_are_not_owed_by_the_server() {
        let mut replies = Replies::default();
        replies.push(Reply::Local(b'1', Undo::Nothing));
        assert!(!replies.is_empty() && !replies.waits_for_server());
        replies.push(Reply::Sync);
        assert!(replies.waits_for_server());
    }

    #[test]
    fn positions_of_errors_are_those_of_the_clients_text() {
        let text = Text { inserted: vec![(0, 10)], ..Text::default() };
        assert_eq!([11, 12, 30].map(|sent| text.position(sent)), [1, 2, 20]);
        // `abc` + 5 characters + `def`.
        let text = Text { inserted: vec![(3, 5)], ..Text::default() };
        assert_eq!([1, 3, 9, 11].map(|sent| text.position(sent)), [1, 3, 4, 6]);
        let both = Text { inserted: vec![(0, 10), (3, 5)], ..Text::default() };
        assert_eq!([11, 13, 19, 21].map(|sent| both.position(sent)), [1, 3, 4, 6]);
    }

    #[test]
    fn what_is_put_into_a_text_is_counted_in_characters() {
        let mut text = Text::default();
        let inserts = [(0, b"SET x;".to_vec()), (4, b";+".to_vec())];
        assert_eq!(text.insert("aé1;b".as_bytes(), &inserts), "SET x;aé1;+;b".as_bytes());
        assert_eq!(text.inserted, [(0, 6), (3, 2)]);
    }

    #[test]
    fn hidden_statements_are_found_by_their_number() {
        let mut text = Text { hidden: vec![0, 2], ..Text::default() };
        for (at, hidden) in [(0, true), (1, false), (2, true), (3, false)] {
            text.at = at;
            assert_eq!(text.is_hidden(), hidden);
        }
    }
}
