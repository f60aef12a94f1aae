//! With a server in hand: relay until the transaction is over, whatever happens on either side.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::breaker::in_doubt;
use crate::clients::{Order, PinView};
use crate::fault::{Fault, Report, sqlstate};
use crate::guard::footprint::State;
use crate::observability::metrics::{context_error, shifted_answer};
use crate::relay::core::session_state::Change;
use crate::relay::{Absorbed, ClientSide, LongTexts, Pumped, RelayFault};
use crate::session::cancelling::settle;
use crate::session::{
    End, Session, cancelled, idle_in_transaction, overdue, session_lost, shutdown, unresolved,
};
use crate::upstream::{TenantServer, UpstreamFault};
use crate::wire::backend::Status;

/// How often a segment is sent again because its context could not be entered.
const MAX_REPLAYS: usize = 2;

/// How often a statement beyond its time is sent a cancel request before its server is closed.
const MAX_OVERDUE: u32 = 5;

/// What stopped the relay.
enum Event {
    /// A segment was answered with this status; nothing is owed.
    Ready(Status),
    /// The server ended or is in doubt.
    ServerFault(RelayFault),
    /// A cancel request: stop what runs.
    Cancel,
    /// `statement_timeout` is over, and has been for a while if this is not the first time.
    Overdue,
    /// The session is over, whoever ended it.
    Leave(End),
}

impl Session {
    /// Runs one transaction, or several while the client goes on and nobody waits for the server. The server comes back
    /// if the client keeps it.
    pub(super) async fn converse(&mut self, mut server: TenantServer) -> Result<Option<TenantServer>, End> {
        let mut replays = 0;
        let mut cancelling: Option<JoinHandle<()>> = None;
        let loss = loop {
            match poll_fn(|cx| self.poll_relay(cx, &mut server)).await {
                Event::Ready(Status::Idle) => {
                    if let Some(cancelling) = cancelling.take()
                        && !Box::pin(settle(&mut server, cancelling)).await
                    {
                        return self.unsettled().map(|()| None);
                    }
                    replays = 0;
                    server = match self.end_transaction(server).await? {
                        ControlFlow::Continue(server) => server,
                        ControlFlow::Break(kept) => return Ok(kept),
                    };
                }
                Event::Ready(Status::Transaction | Status::Failed) => {
                    // PostgreSQL signals a process twice for one request; the client's next statement waits for both.
                    if let Some(cancelling) = cancelling.take()
                        && cancelling.await.is_err()
                    {
                        break session_lost();
                    }
                    self.membership.client().clear_cancel();
                    self.idle_since = Instant::now();
                }
                Event::Overdue if self.alarm.times() > MAX_OVERDUE => {
                    tracing::warn!(
                        "a statement beyond its time could not be cancelled; its server is closed"
                    );
                    break self.unanswered(overdue());
                }
                // One is on its way.
                Event::Cancel | Event::Overdue
                    if cancelling.as_ref().is_some_and(|one| !one.is_finished()) => {}
                Event::Cancel | Event::Overdue => {
                    cancelling = Some(tokio::spawn(server.canceller().cancel()));
                }
                // The request hit the statement that enters the context: nothing of the client ran.
                Event::ServerFault(RelayFault::Context(_)) if cancelling.is_some() => break cancelled(),
                Event::ServerFault(fault) => {
                    self.note_fault(&fault);
                    replays += 1;
                    if replays > MAX_REPLAYS
                        || self.conversation.keeps_server()
                        || !self.replay(&fault, &mut server).await
                    {
                        tracing::warn!(%fault, "the server was lost");
                        break self.loss_by(&fault);
                    }
                }
                Event::Leave(end) => {
                    self.leave_server(server, cancelling.as_ref());
                    return Err(end);
                }
            }
        };
        tokio::spawn(server.end());
        self.lost(&loss).map(|()| None)
    }

    /// The transaction is over and its client has been answered: the server serves it on, or is kept, or goes back.
    async fn end_transaction(
        &mut self,
        mut server: TenantServer,
    ) -> Result<ControlFlow<Option<TenantServer>, TenantServer>, End> {
        if self.conversation.is_block_waiting() {
            // What the client has chosen in its block stays.
            server.release();
            return Ok(ControlFlow::Break(None));
        }
        // A server that changed tenants in its transaction goes back to be reset.
        let changed = self.conversation.end_transaction();
        self.settle_session(&mut server).await?;
        // The client has not been told yet that its statement has ended: what came until now was for it.
        self.membership.client().clear_cancel();
        let changed = changed || !server.serves(self.conversation.client);
        if self.conversation.keeps_server() && !changed {
            return Ok(ControlFlow::Break(Some(server)));
        }
        if changed || self.order().is_some() || !self.goes_on() {
            server.release();
            return Ok(ControlFlow::Break(None));
        }
        Ok(ControlFlow::Continue(server))
    }

    /// One round over both sockets: everything that can move moves.
    fn poll_relay(&mut self, cx: &mut Context<'_>, server: &mut TenantServer) -> Poll<Event> {
        self.membership.client().listen(cx);
        loop {
            match self.pump(cx, server) {
                Ok(Pumped::All | Pumped::Long) => {}
                Ok(Pumped::Goodbye) => return Poll::Ready(Event::Leave(End::Goodbye)),
                Ok(Pumped::Ready(status)) => return Poll::Ready(self.segment_ends(status)),
                Err(fault) => return Poll::Ready(Event::Leave(self.told_or_torn(fault.report()))),
            }
            let wanted = match self.absorb(server) {
                Ok(Absorbed::All { wanted }) => wanted,
                Ok(Absorbed::Ready(status)) => return Poll::Ready(self.segment_ends(status)),
                Err(fault) => return Poll::Ready(self.server_fault(fault)),
            };
            let channel = &mut server.server().channel;
            let pressed = channel.output.is_full() || self.client.output.is_full();
            if let Poll::Ready(Err(error)) = channel.output.poll_flush(&mut channel.stream, cx) {
                // What the server said before it went is still to be read.
                tracing::debug!(%error, "cannot write to the server");
                channel.output.clear();
            }
            if let Err(end) = self.count_and_flush(cx, server) {
                return Poll::Ready(Event::Leave(end));
            }
            let channel = &mut server.server().channel;
            if pressed && !channel.output.is_full() && !self.client.output.is_full() {
                // What was held back by a full buffer can move now.
                continue;
            }
            let mut moved = false;
            if !self.client.output.is_full() {
                match channel.input.poll_fill(&mut channel.stream, cx, wanted) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Event::ServerFault(RelayFault::Closed("end of file".to_owned())));
                    }
                    Poll::Ready(Ok(_)) => moved = true,
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Event::ServerFault(RelayFault::Closed(error.to_string())));
                    }
                    Poll::Pending => {}
                }
            }
            if !moved {
                match self.poll_client(cx, server) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Event::Leave(end)),
                    Poll::Pending => {}
                }
            }
            if !moved {
                // The answers and the flush may have lifted what held the client's next frames back.
                let before = (self.client.input.len(), server.server().channel.output.len());
                let pumped = self.pump(cx, server);
                let after = (self.client.input.len(), server.server().channel.output.len());
                match pumped {
                    Ok(Pumped::Ready(status)) => return Poll::Ready(self.segment_ends(status)),
                    Ok(_) if after == before => return self.poll_orders(cx),
                    Ok(_) => {}
                    Err(fault) => return Poll::Ready(Event::Leave(self.told_or_torn(fault.report()))),
                }
            }
        }
    }

    /// Sends on what the client has sent.
    fn pump(&mut self, cx: &mut Context<'_>, server: &mut TenantServer) -> Result<Pumped, RelayFault> {
        let before = self.client.input.len();
        let pumped = self.pump_in_turn(cx, server);
        if self.client.input.len() < before {
            self.collecting.is_whole();
        }
        let is_under_way = !self.conversation.is_between() || self.conversation.is_running();
        if is_under_way && self.started.is_none() {
            self.started = Some(Instant::now());
        }
        pumped
    }

    /// Passes on what the server has sent.
    pub(super) fn absorb(&mut self, server: &mut TenantServer) -> Result<Absorbed, RelayFault> {
        let client = &mut self.client;
        let mut client =
            ClientSide { input: &mut client.input, output: &mut client.output, long: LongTexts::Stay };
        // Lent out, because the server's state is changed while its input is read.
        let mut input = std::mem::take(&mut server.server().channel.input);
        let absorbed = self.conversation.absorb(&mut client, &mut input, server);
        server.server().channel.input = input;
        absorbed
    }

    /// What a fault of the server means for the client.
    fn server_fault(&self, fault: RelayFault) -> Event {
        match fault {
            RelayFault::Farewell(report) => Event::Leave(self.told_or_torn(*report)),
            fault => Event::ServerFault(fault),
        }
    }

    /// A segment was answered whole.
    fn segment_ends(&mut self, status: Status) -> Event {
        if let Some(started) = self.started.take() {
            self.conversation.metrics.query(started.elapsed());
        }
        Event::Ready(status)
    }

    /// Reads from the client, also while its statement runs: that is how its departure is noticed. What it
    /// sends ahead is bounded by one buffer, or by the one message that is being collected.
    fn poll_client(&mut self, cx: &mut Context<'_>, server: &mut TenantServer) -> Poll<Result<(), End>> {
        let ahead = crate::net::buffer::READ_BYTES / 2;
        let wanted = self.conversation.wanted();
        let most = ahead.max(wanted).max(self.inspecting.read_ahead());
        if server.server().channel.output.is_full() || self.client.input.len() >= most {
            return Poll::Pending;
        }
        match self.client.input.poll_fill(&mut self.client.stream, cx, wanted) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(End::Lost(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Ok(_)) => Poll::Ready(self.count_buffers_with(server)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(End::Lost(error))),
        }
    }

    /// Timers, cancel requests, orders.
    fn poll_orders(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let client = self.membership.client();
        if client.order() == Some(Order::LeaveNow) {
            return Poll::Ready(Event::Leave(self.told_or_torn(shutdown())));
        }
        if self.is_in_doubt() {
            return Poll::Ready(Event::Leave(self.told_or_torn(in_doubt())));
        }
        if client.is_cancelled() {
            client.clear_cancel();
            if self.conversation.is_running() {
                return Poll::Ready(Event::Cancel);
            }
        }
        if let Poll::Ready(report) = self.poll_unfinished(cx) {
            return Poll::Ready(Event::Leave(self.told_or_torn(report)));
        }
        let limits = self.conversation.chosen_limits().unwrap_or(self.limits);
        match self.started {
            Some(started) => self.alarm.set(started, limits.statement_timeout),
            None => self.alarm.set(self.idle_since, limits.idle_transaction_timeout),
        }
        if self.alarm.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.conversation.is_idle_in_transaction() {
            return Poll::Ready(Event::Leave(End::Told(idle_in_transaction())));
        }
        Poll::Ready(Event::Overdue)
    }

    /// Whether the same server may be used for the client's next transaction right away.
    fn goes_on(&mut self) -> bool {
        self.alarm.clear();
        let acting = self.conversation.session_acting();
        let waits = acting.access.has_waiters() || acting.seat.as_ref().is_some_and(|seat| !seat.goes_on());
        // A comment chooses before a server is taken.
        !waits
            && !self.conversation.reads_comments()
            && !self.is_in_doubt()
            && self.client.input.len() > crate::wire::frame::HEADER_BYTES
            && self.conversation.wants_server(self.client.input.bytes())
    }

    /// Sends a segment again on another server, if nothing of it can have run and the client has seen nothing.
    async fn replay(&mut self, fault: &RelayFault, server: &mut TenantServer) -> bool {
        let is_certain = match fault {
            // The server said why it ends the session before it answered anything of the client: an operator ends it, or
            // a time limit that was left on it is over.
            RelayFault::Context(_) | RelayFault::Ended(_) => true,
            RelayFault::Protocol(_)
            | RelayFault::Closed(_)
            | RelayFault::TooLarge { .. }
            | RelayFault::Doubt(_)
            | RelayFault::Farewell(_)
            | RelayFault::Shifted => false,
        };
        if !is_certain || !self.conversation.has_run_nothing() || !self.client.input.is_marked() {
            return false;
        }
        tracing::info!(%fault, "the server is replaced before the client's statement has run");
        if let Err(fault) = Box::pin(server.replace()).await {
            tracing::warn!(%fault, "the server could not be replaced");
            return false;
        }
        self.abandon();
        self.client.input.rewind()
    }

    /// Learns what the transaction left in the session, if it may have left anything.
    async fn settle_session(&mut self, server: &mut TenantServer) -> Result<(), End> {
        let restored = self.conversation.puts_back();
        let question = self.conversation.question();
        if restored.is_none() && question.is_none() {
            return Ok(());
        }
        let outcome = Box::pin(async {
            if let Some(parameters) = restored {
                server.put_back(&parameters).await?;
            }
            let Some(question) = question else { return Ok(Change::None) };
            let answer = server.ask(&question).await?;
            Ok::<_, UpstreamFault>(self.conversation.settle(&question, answer, server))
        })
        .await;
        self.conversation.notify(&mut self.client.output, server);
        match outcome {
            Ok(Change::None) => {}
            Ok(Change::Pinned) => {
                if let Some(pin) = self.conversation.pin() {
                    let reasons: Vec<&str> = pin.states.iter().map(State::label).collect();
                    let (reasons, statement) = (reasons.join(","), pin.statement.clone());
                    tracing::info!(
                        reason = reasons,
                        statement = &*statement,
                        "the client is pinned to its server"
                    );
                    let view = PinView { reasons, statement, since: SystemTime::now() };
                    self.membership.client().shows_pin(Some(view));
                }
            }
            Ok(Change::Freed) => {
                tracing::info!("the client is no longer pinned to its server");
                self.membership.client().shows_pin(None);
            }
            Err(fault) => {
                if matches!(fault, UpstreamFault::Shifted) {
                    self.note_shifted();
                }
                // What the session is now cannot be told, so it must not go on.
                tracing::warn!(%fault, "the session's state is in doubt");
                return Err(self.told_or_torn(session_lost()));
            }
        }
        Ok(())
    }

    /// The server was closed behind a transaction that was answered. The client need not know, unless its session's
    /// state was on that server, or what the transaction did to it cannot be asked any more.
    fn unsettled(&mut self) -> Result<(), End> {
        self.conversation.end_transaction();
        if self.conversation.keeps_server() || self.conversation.question().is_some() {
            return Err(self.told_or_torn(session_lost()));
        }
        Ok(())
    }

    /// Counts what puts contexts in doubt.
    fn note_fault(&self, fault: &RelayFault) {
        match fault {
            RelayFault::Context(_) => context_error(),
            RelayFault::Shifted => self.note_shifted(),
            RelayFault::Protocol(_)
            | RelayFault::TooLarge { .. }
            | RelayFault::Doubt(_)
            | RelayFault::Farewell(_)
            | RelayFault::Ended(_)
            | RelayFault::Closed(_) => {}
        }
    }

    fn note_shifted(&self) {
        shifted_answer();
        tracing::error!("a server answered another statement than the one that was due; it is closed");
        self.breaker.note_shifted();
    }

    /// What the client is told of the loss of its server.
    fn loss_by(&self, fault: &RelayFault) -> Report {
        match fault {
            // Nothing of the client ran.
            RelayFault::Context(_) => fault.report(),
            RelayFault::Protocol(_)
            | RelayFault::TooLarge { .. }
            | RelayFault::Doubt(_)
            | RelayFault::Shifted
            | RelayFault::Farewell(_)
            | RelayFault::Ended(_)
            | RelayFault::Closed(_) => self.unanswered(fault.report()),
        }
    }

    /// What the client is told instead of an answer that will not come.
    pub(super) fn unanswered(&self, report: Report) -> Report {
        if self.conversation.is_outcome_unknown() { unresolved(&report) } else { report }
    }

    /// The server is gone, and what was under way with it.
    fn abandon(&mut self) {
        self.conversation.abandon();
        self.started = None;
    }

    /// The server is gone. A client that kept it has lost its session with it.
    fn lost(&mut self, report: &Report) -> Result<(), End> {
        if self.conversation.keeps_server() {
            tracing::info!(reason = report.message, "a session ends with its server");
            let is_unknown = report.sqlstate == sqlstate::TRANSACTION_RESOLUTION_UNKNOWN;
            let told = if is_unknown { report.clone() } else { session_lost() };
            return Err(if self.conversation.is_mid_frame() { End::Torn } else { End::Told(told) });
        }
        self.server_lost(report)
    }

    /// The server is gone; the client stays, if it can be told.
    fn server_lost(&mut self, report: &Report) -> Result<(), End> {
        self.client.input.forget();
        if self.conversation.is_mid_frame() {
            return Err(End::Torn);
        }
        let between = self.conversation.is_between();
        let closed = self.conversation.is_closed();
        if closed && !self.client.input.is_empty() {
            // What it has sent ahead was meant for the transaction that is lost, and must not run without it.
            return Err(End::Told(report.clone()));
        }
        let was_told = self.conversation.was_told();
        self.abandon();
        self.conversation.fail_block();
        if was_told {
            // One error a segment: the client waits for the answer to its Sync.
            self.conversation.refuse_rest();
            return Ok(());
        }
        if between {
            // It waits for nothing now; its next request is answered with the error.
            self.conversation.owe_error(report.clone());
            return Ok(());
        }
        self.conversation.metrics.error(report.sqlstate.0);
        crate::wire::encode::error_response(
            self.client.output.space(),
            crate::wire::encode::Severity::Error,
            report,
        );
        if closed {
            self.tell_ready();
        } else {
            self.conversation.refuse_rest();
            self.conversation.refuses_for(report.clone());
        }
        Ok(())
    }

    /// The client is gone: its transaction is rolled back, or what runs is stopped and its server closed.
    fn leave_server(&mut self, server: TenantServer, cancelling: Option<&JoinHandle<()>>) {
        // Its tenant's turn lasts until the server has heard of it.
        let turn = self.turn.take();
        let quiet = cancelling.is_none() && self.conversation.is_quiet();
        tokio::spawn(async move {
            if quiet {
                server.clean_and_release().await;
            } else {
                server.end().await;
            }
            drop(turn);
        });
    }
}
