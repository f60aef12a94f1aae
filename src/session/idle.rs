//! Between transactions: the client holds no server and, while it is silent, no buffer.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::clients::Order;
use crate::fault::{Report, sqlstate};
use crate::relay::{Absorbed, ClientSide, Conversation, Front, LongTexts, RelayFault, TextRead};
use crate::session::turn::moved;
use crate::session::{End, Session, farewell, idle_in_transaction, session_lost};
use crate::sql::lexer::{Lexer, TokenKind};
use crate::sql::survey;
use crate::upstream::TenantServer;
use crate::wire::{encode, frame, frontend};
use tokio::time::Instant;

/// What the first frame in the buffer asks for.
pub(super) enum Next {
    /// A server.
    Server,
    /// Nothing that needs one; it was dealt with.
    Done,
    /// The client has to read first.
    Flush,
    /// More bytes, so many in all.
    More(usize),
    /// The end.
    End(End),
}

impl Session {
    /// Waits until there is a request that needs a server.
    pub(super) async fn next_request(&mut self, kept: &mut Option<TenantServer>) -> Result<(), End> {
        let mut wanted = 1;
        loop {
            self.look_at_kept(kept);
            // Also for a client that sends ahead and is never found idle.
            if let Some(order) = self.due_order() {
                return Err(End::Told(farewell(order)));
            }
            let next = match Conversation::long_ahead(&self.client) {
                None => self.look(),
                Some(bytes) => Box::pin(self.look_in_turn(bytes)).await?,
            };
            match next {
                Next::Server => {
                    self.collecting.is_whole();
                    // A comment may have chosen another tenant.
                    self.look_at_kept(kept);
                    return Ok(());
                }
                Next::Done => {
                    self.collecting.is_whole();
                    wanted = 1;
                    continue;
                }
                Next::End(end) => return Err(end),
                Next::Flush => {
                    poll_fn(|cx| self.poll_flush(cx)).await?;
                    continue;
                }
                Next::More(bytes) => wanted = bytes.max(wanted),
            }
            self.count_buffers(kept.as_mut())?;
            poll_fn(|cx| self.poll_idle(cx, wanted, kept.as_mut())).await?;
            self.count_buffers(kept.as_mut())?;
        }
    }

    /// A server is kept no longer than what it is kept for: DISCARD ALL ends that, and a choice of another tenant.
    fn look_at_kept(&mut self, kept: &mut Option<TenantServer>) {
        let tenant = self.conversation.session_acting().tenant();
        let stays = kept.as_mut().is_none_or(|server| {
            self.conversation.keeps_server()
                && server.is_of(tenant)
                && server.serves(self.conversation.client)
        });
        if !stays {
            self.let_go(kept);
        }
    }

    /// What a kept server says by itself: notifications, parameters that a reload changed, a goodbye.
    fn poll_kept(&mut self, cx: &mut Context<'_>, server: &mut TenantServer) -> Poll<End> {
        loop {
            let wanted = match self.absorb(server) {
                Ok(Absorbed::All { wanted }) => wanted,
                Ok(Absorbed::Ready(_)) => 0,
                Err(fault) => {
                    tracing::info!(%fault, "a session ends with its server");
                    return Poll::Ready(End::Told(session_lost()));
                }
            };
            if self.client.output.is_full() {
                return Poll::Pending;
            }
            let channel = &mut server.server().channel;
            match channel.input.poll_fill(&mut channel.stream, cx, wanted) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Told(session_lost())),
            }
        }
    }

    /// Until the client has taken enough; it may be told to leave meanwhile.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let client = self.membership.client();
        client.listen(cx);
        if let Some(order) = self.due_order() {
            return Poll::Ready(Err(End::Told(farewell(order))));
        }
        let channel = &mut self.client;
        channel.output.poll_flush(&mut channel.stream, cx).map_err(End::Lost)
    }

    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        kept: Option<&mut TenantServer>,
    ) -> Poll<Result<(), End>> {
        let client = self.membership.client();
        client.listen(cx);
        client.clear_cancel();
        if let Some(order) = self.due_order() {
            return Poll::Ready(Err(End::Told(farewell(order))));
        }
        if let Poll::Ready(end) = self.poll_block(cx) {
            return Poll::Ready(Err(end));
        }
        if let Some(server) = kept {
            if self.has_moved() {
                return Poll::Ready(Err(End::Told(moved())));
            }
            if let Poll::Ready(end) = self.poll_kept(cx, server) {
                return Poll::Ready(Err(end));
            }
        }
        let channel = &mut self.client;
        if let Poll::Ready(Err(error)) = channel.output.poll_flush(&mut channel.stream, cx) {
            return Poll::Ready(Err(End::Lost(error)));
        }
        let front = if channel.input.is_empty() { Front::Nothing } else { Front::Part };
        if let Poll::Ready(report) = self.collecting.poll_overdue(front, self.bounds.message_timeout, cx) {
            return Poll::Ready(Err(End::Told(report)));
        }
        if channel.output.is_full() {
            return Poll::Pending;
        }
        match channel.input.poll_fill(&mut channel.stream, cx, wanted) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(End::Lost(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(End::Lost(error))),
        }
    }

    /// Looks at the first frame.
    pub(super) fn look(&mut self) -> Next {
        if self.client.output.is_full() {
            // It sends without reading: no more work for it until it does.
            return Next::Flush;
        }
        if self.conversation.is_within_frame() {
            // What is there is no header.
            return match self.conversation.skip_refused(&mut self.client) {
                Some(()) => self.check_ahead().map_or_else(Next::End, |()| Next::Done),
                None => Next::More(1),
            };
        }
        let header = match frame::header(self.client.input.bytes()) {
            Ok(Some(header)) => header,
            Ok(None) => return Next::More(frame::HEADER_BYTES),
            Err(_) => return protocol_violation("invalid message length"),
        };
        if self.conversation.is_refusing() {
            return match self.conversation.skip_refused(&mut self.client) {
                Some(()) => self.check_ahead().map_or_else(Next::End, |()| Next::Done),
                None if header.tag == b'X' => Next::End(End::Goodbye),
                None => Next::More(1),
            };
        }
        match header.tag {
            b'X' => Next::End(End::Goodbye),
            b'S' if header.total == frame::HEADER_BYTES => {
                self.client.input.consume(header.total);
                self.tell_ready();
                Next::Done
            }
            // Nothing to flush; rows that come too late for a COPY that has failed.
            b'H' | b'd' | b'c' | b'f' => {
                self.conversation.drop_frame(header.total, &mut self.client);
                Next::Done
            }
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' => self.look_at_request(header),
            _ => protocol_violation("invalid frontend message type"),
        }
    }

    fn look_at_request(&mut self, header: frame::Header) -> Next {
        let limit = self.conversation.max_message_bytes();
        if header.total > limit {
            let fault = RelayFault::TooLarge { bytes: header.total, limit };
            return Next::End(End::Told(crate::fault::Fault::report(&fault)));
        }
        let Some(message) = self.client.input.bytes().get(..header.total) else {
            return Next::More(header.total);
        };
        if let Some(report) = self.conversation.take_owed_error() {
            return self.refuse_request(report).map_or_else(Next::End, |()| Next::Done);
        }
        let text = (header.tag == b'Q').then(|| frontend::query(frame::body(message))).flatten();
        if !self.conversation.is_block_waiting() && text.is_some_and(discards_all) {
            self.client.input.consume(header.total);
            self.discard_all();
            return Next::Done;
        }
        let behind = self.client.input.bytes().get(header.total..).unwrap_or_default();
        let chosen = self.conversation.choose_by_comment(message);
        let answered = match chosen.and_then(|()| self.conversation.choose_by_text(message, behind)) {
            Ok(TextRead::InPart) => return Next::More(self.client.input.len() + frame::HEADER_BYTES),
            Ok(TextRead::Whole) => {
                let channel = &mut self.client;
                let (input, output) = (&mut channel.input, &mut channel.output);
                let mut client = ClientSide { input, output, long: LongTexts::Stay };
                self.conversation.answer_without_server(&mut client)
            }
            Err(report) => Some(Err(report)),
        };
        match answered {
            None => return Next::Server,
            Some(Ok(())) => self.idle_since = Instant::now(),
            Some(Err(report)) => self.refuse_segment(&report),
        }
        Next::Done
    }

    /// DISCARD ALL ends the client's own state; no server is needed for it.
    fn discard_all(&mut self) {
        let out = self.client.output.space();
        encode::command_complete(out, "DISCARD ALL");
        self.conversation.discard_all_between(out);
        self.membership.client().shows_pin(None);
        self.tell_ready();
    }

    /// The same, once it is due: a client that has begun a block may end it first.
    pub(super) fn due_order(&self) -> Option<Order> {
        let is_in_block = self.conversation.is_block_waiting();
        self.order().filter(|order| !is_in_block || *order != Order::Leave)
    }

    /// The same limit holds for a block that no server has.
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if !self.conversation.is_block_waiting() {
            return Poll::Pending;
        }
        let limits = self.conversation.session_acting().limits();
        self.alarm.set(self.idle_since, limits.idle_transaction_timeout);
        self.alarm.poll(cx).map(|()| End::Told(idle_in_transaction()))
    }

    /// Whether the client was told to leave, and how.
    pub(super) fn order(&self) -> Option<Order> {
        self.membership.client().order()
    }
}

/// Whether a text is DISCARD ALL and nothing else. Most texts are told apart by their first word.
fn discards_all(text: &[u8]) -> bool {
    let mut words = Lexer::new(text).skip_while(|token| token.kind == TokenKind::Semicolon);
    let discards = words.next().is_some_and(|word| word.bytes.eq_ignore_ascii_case(b"discard"));
    discards && survey(text).discards_all()
}

fn protocol_violation(what: &'static str) -> Next {
    Next::End(End::Told(Report::new(sqlstate::PROTOCOL_VIOLATION, what)))
}
