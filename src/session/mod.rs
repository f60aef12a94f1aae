//! One client's life after login: wait for a request, take a server, converse, give the server back.
//!
//! ```text
//!   ┌─> idle ── request ──> acquire ──> converse ── ready and idle ──> release ─┐
//!   │     │                    │            │                                   │
//!   │     └ goodbye, told to   └ refused:   └ server lost: error, go on         │
//!   │       leave: end           error      └ client lost: roll back or close   │
//!   └───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One task owns the client and, while it has one, the server: no channel, no lock on this path.

mod cancelling;
mod converse;
mod idle;
mod inspecting;
mod limits;
pub mod tunnel;
mod turn;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::breaker::{Breaker, in_doubt};
use crate::clients::{Activity, Membership, Order, Turn};
use crate::fault::{Fault, Report, sqlstate};
use crate::guard::footprint::State;
use crate::net::Channel;
use crate::relay::Conversation;
use crate::tenant::Limits;
use crate::upstream::{ServerSide, Share, TenantServer, UpstreamFault, Wear};
use crate::wire::encode::{self, Severity};
pub use inspecting::{Bounds, Inspecting};
pub use limits::Collecting;
use turn::{Halt, TenantPlace, moved};

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// The client said goodbye.
    Goodbye,
    /// The client went away without a word.
    Lost(io::Error),
    /// The client was told why.
    Told(Report),
    /// The client could not even be told: a frame to it was torn.
    Torn,
}

/// What a session starts with.
#[derive(Debug)]
pub struct Session {
    /// The client's stream.
    pub client: Channel,
    /// Its place among the clients.
    pub membership: Membership,
    /// What is under way between it and its server.
    pub conversation: Conversation,
    /// Its limits, looked up anew for each transaction.
    pub limits: Limits,
    /// Whether anything of any tenant may run.
    pub breaker: Arc<Breaker>,
    /// The one timer.
    pub alarm: Alarm,
    /// When the last segment in a transaction block was answered.
    pub idle_since: Instant,
    /// When the segment that is under way began.
    pub started: Option<Instant>,
    /// The transaction under way, as its tenant counts it.
    pub turn: Option<Turn>,
    /// What bounds the cost of messages.
    pub bounds: Arc<Bounds>,
    /// The message that its client has begun and not finished, and what is kept in buffers.
    pub collecting: Collecting,
    /// Its turn at having a long text read.
    pub inspecting: Inspecting,
}

/// What a client waits for at the door of a server.
enum Acquired {
    Server(TenantServer),
    Refused(UpstreamFault),
    InDoubt,
    Cancelled,
    End(End),
}

impl Session {
    /// Runs to the end.
    pub async fn run(&mut self) -> End {
        let end = self.serve().await;
        if let End::Told(report) = &end {
            self.conversation.metrics.error(report.sqlstate.0);
            encode::error_response(self.client.output.space(), Severity::Fatal, report);
            // A client that does not read must not keep its task alive.
            let told = tokio::time::timeout(Duration::from_secs(2), self.client.flush()).await;
            if !matches!(told, Ok(Ok(()))) {
                tracing::debug!("the client did not take the last message");
            }
            if limits::cuts_a_message(report) {
                Box::pin(self.linger()).await;
            }
        }
        end
    }

    async fn serve(&mut self) -> End {
        let mut kept = None;
        loop {
            let server = match self.begin(&mut kept).await {
                Ok(Some(server)) => server,
                Ok(None) => {
                    self.turn = None;
                    continue;
                }
                Err(end) => {
                    self.let_go(&mut kept);
                    return end;
                }
            };
            let taken = Instant::now();
            self.membership.client().does(Activity::Active);
            let outcome = self.converse(server).await;
            self.membership.client().does(Activity::Idle);
            self.conversation.metrics.transaction(taken.elapsed());
            self.alarm.clear();
            self.turn = None;
            match outcome {
                Ok(server) => kept = server,
                Err(end) => return end,
            }
        }
    }

    /// Waits for a request and takes what its transaction needs: a turn of its tenant, and a server. None: it was
    /// refused.
    async fn begin(&mut self, kept: &mut Option<TenantServer>) -> Result<Option<TenantServer>, End> {
        self.next_request(kept).await?;
        // What it waits for from here on counts as one wait.
        let arrived = Instant::now();
        self.look_up_limits();
        match self.enter(arrived).await {
            // What the session has on its server stays where the tenant was.
            Ok(TenantPlace::Elsewhere) if kept.is_some() => return Err(End::Told(moved())),
            Ok(TenantPlace::Here | TenantPlace::Elsewhere) => {}
            Err(Halt::Refused(report)) => return self.refuse_request(report).map(|()| None),
            Err(Halt::End(end)) => return Err(end),
        }
        match kept.take().filter(|_| !self.is_in_doubt()) {
            Some(server) => Ok(Some(server)),
            None => self.take_server(arrived).await,
        }
    }

    /// Takes a server from the pool; none: the request was refused.
    async fn take_server(&mut self, arrived: Instant) -> Result<Option<TenantServer>, End> {
        let waited = Instant::now();
        self.membership.client().does(Activity::Waiting);
        let acquired = self.acquire(arrived).await;
        self.membership.client().does(Activity::Idle);
        self.conversation.metrics.queue_wait(waited.elapsed());
        let report = match acquired {
            Acquired::Server(mut server) => {
                self.conversation.tell_defaults(&mut self.client.output, &mut server);
                return Ok(Some(server));
            }
            Acquired::Refused(fault) => {
                tracing::warn!(%fault, "no server for the client");
                fault.report()
            }
            Acquired::InDoubt => in_doubt(),
            Acquired::Cancelled => cancelled(),
            Acquired::End(end) => return Err(end),
        };
        self.refuse_request(report).map(|()| None)
    }

    /// The transaction that the next request begins does not begin.
    fn refuse_request(&mut self, report: Report) -> Result<(), End> {
        self.refuse_segment(&report);
        self.conversation.refuses_for(report);
        self.check_ahead()
    }

    /// What a client has sent ahead of the answer to a refused request may have been meant for the transaction that did
    /// not begin or was lost, and must not run without it.
    fn check_ahead(&mut self) -> Result<(), End> {
        if self.conversation.is_refusing() {
            return Ok(());
        }
        match self.conversation.take_reason() {
            Some(report) if !self.client.input.is_empty() => Err(End::Told(report)),
            _ => Ok(()),
        }
    }

    /// Gives back a server that the client has kept between transactions. What it left there is taken away first; what no
    /// reset takes away closes the server.
    fn let_go(&mut self, kept: &mut Option<TenantServer>) {
        let Some(mut server) = kept.take() else { return };
        let lasts = self.conversation.pin().is_some_and(|pin| pin.states.has(State::Library));
        server.state().wear = Wear::Dirty;
        if !lasts {
            tokio::spawn(server.clean_and_release());
        }
    }

    /// Isolation is in doubt, and this client runs as a tenant.
    fn is_in_doubt(&self) -> bool {
        self.breaker.is_tripped() && self.conversation.session_acting().access.enters_context()
    }

    /// A client may have chosen another tenant, and limits may have changed.
    fn look_up_limits(&mut self) {
        let acting = self.conversation.session_acting();
        self.membership.client().acts_for(acting.tenant());
        self.limits = acting.limits();
    }

    /// Takes a server; meanwhile the client may leave or cancel.
    async fn acquire(&mut self, arrived: Instant) -> Acquired {
        let access = &self.conversation.session_acting().access;
        let client = Arc::clone(self.membership.client());
        client.clear_cancel();
        // Without a context there is no tenant whose isolation could be in doubt.
        let stops = || access.enters_context() && self.breaker.is_tripped();
        let share = Share::since(arrived, &self.limits);
        let work = access.acquire(self.conversation.client, &self.conversation.parameters, share);
        let mut work = std::pin::pin!(work);
        let channel = &mut self.client;
        std::future::poll_fn(|cx| {
            client.listen(cx);
            if stops() {
                return Poll::Ready(Acquired::InDoubt);
            }
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(match result {
                    Ok(server) => Acquired::Server(server),
                    Err(fault) => Acquired::Refused(fault),
                });
            }
            if client.is_cancelled() {
                client.clear_cancel();
                return Poll::Ready(Acquired::Cancelled);
            }
            if client.order() == Some(Order::LeaveNow) {
                return Poll::Ready(Acquired::End(End::Told(shutdown())));
            }
            match poll_departure(channel, cx) {
                Poll::Ready(end) => Poll::Ready(Acquired::End(end)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Answers a segment that no server saw: an error, and readiness once all of it was taken.
    fn refuse_segment(&mut self, report: &Report) {
        self.conversation.metrics.error(report.sqlstate.0);
        encode::error_response(self.client.output.space(), Severity::Error, report);
        self.conversation.refuse(&mut self.client);
    }

    /// How the session ends with this report.
    fn told_or_torn(&self, report: Report) -> End {
        if self.conversation.is_mid_frame() { End::Torn } else { End::Told(self.unanswered(report)) }
    }

    /// The client may send its next request.
    fn tell_ready(&mut self) {
        encode::ready_for_query(self.client.output.space(), self.conversation.told().byte());
    }
}

/// Notices a client that leaves while it waits. What it sends meanwhile is kept, within bounds.
fn poll_departure(client: &mut Channel, cx: &mut Context<'_>) -> Poll<End> {
    poll_departure_within(crate::net::buffer::READ_BYTES / 2, client, cx)
}

/// The same, with this many bytes read in all.
fn poll_departure_within(limit: usize, client: &mut Channel, cx: &mut Context<'_>) -> Poll<End> {
    while client.input.len() < limit {
        match client.input.poll_fill(&mut client.stream, cx, 1) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(End::Lost(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(End::Lost(error)),
        }
    }
    Poll::Pending
}

/// What clients are told whose request was cancelled before a server saw it; PostgreSQL's words.
fn overdue() -> Report {
    Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to statement timeout")
        .detail("The statement did not end when it was told to, so its server was closed.")
}

/// PostgreSQL's words.
fn idle_in_transaction() -> Report {
    Report::new(
        sqlstate::IDLE_IN_TRANSACTION_TIMEOUT,
        "terminating connection due to idle-in-transaction timeout",
    )
}

fn cancelled() -> Report {
    Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

/// What a client is told whose transaction was told to end, in place of the report of what became of the answer.
fn unresolved(report: &Report) -> Report {
    let reason = [Some(&*report.message), report.detail.as_deref()];
    let reason: Vec<&str> = reason.into_iter().flatten().collect();
    Report::new(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, "the outcome of the transaction is unknown")
        .detail(format!("No answer came: {}", reason.join(". ")))
        .hint("It may have been committed: look for its effects before you run it again.")
}

/// What a client is told whose session was on the server that is lost.
fn session_lost() -> Report {
    Report::new(sqlstate::CONNECTION_FAILURE, "the connection to the upstream server was lost")
        .hint("The session's state was on it (temporary tables, cursors, …): connect again.")
}

/// What clients are told when the proxy goes away or their user does.
pub fn shutdown() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// What a client is told that an order sends away.
pub fn farewell(order: Order) -> Report {
    match order {
        Order::Leave | Order::LeaveNow => shutdown(),
        Order::Expire => Report::new(
            sqlstate::ADMIN_SHUTDOWN,
            "terminating connection because its access token has expired",
        )
        .hint("Log in again with a new one."),
    }
}

/// Between two rings of one deadline.
const SNOOZE: Duration = Duration::from_secs(1);

/// One timer for all the limits of a session. A deadline is a plain value; the timer behind it is only
/// touched when it fires or when an earlier deadline comes, so a deadline per statement costs nothing.
#[derive(Debug, Default)]
pub struct Alarm {
    deadline: Option<Instant>,
    /// The deadline that has passed last, and how often it rang.
    rung: Option<(Instant, u32)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// This long after `start`, and again each `SNOOZE` while it is set; zero: never.
    pub fn set(&mut self, start: Instant, after: Duration) {
        self.deadline = (!after.is_zero()).then(|| start + after);
    }

    /// How often it rang for the deadline that is set.
    pub fn times(&self) -> u32 {
        self.rung.filter(|(deadline, _)| self.deadline == Some(*deadline)).map_or(0, |(_, times)| times)
    }

    /// No deadline.
    pub const fn clear(&mut self) {
        self.deadline = None;
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let rung = self.times();
        let next = deadline + SNOOZE * rung;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if timer.deadline() > next {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= next {
                self.rung = Some((deadline, rung + 1));
                self.timer = None;
                return Poll::Ready(());
            }
            timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_at_its_last_deadline_and_again_behind_that() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        alarm.set(start, Duration::from_secs(1));
        poll_fn(|cx| {
            assert!(alarm.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        alarm.set(start, Duration::from_secs(5));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        for times in 1..4 {
            assert_eq!(alarm.times(), times);
            poll_fn(|cx| alarm.poll(cx)).await;
            assert_eq!(start.elapsed().as_secs(), 5 + u64::from(times), "it rings again while it is set");
        }
        alarm.set(start, Duration::from_secs(9));
        assert_eq!(alarm.times(), 0, "another deadline has not rung");
        alarm.set(start, Duration::ZERO);
        assert!(alarm.deadline.is_none(), "zero means never");
    }
}
