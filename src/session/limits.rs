//! What a client makes the proxy collect and keep, in time and in memory: a message that was begun is finished within
//! `listen.message_timeout`, and what stands in buffers is counted in the budgets of its client, tenant and the process.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::fault::{Fault as _, Report, sqlstate};
use crate::memory::Charge;
use crate::net::Channel;
use crate::net::buffer::{BACKPRESSURE_BYTES, ReadBuffer};
use crate::relay::Front;
use crate::session::{Alarm, End, Session};
use crate::upstream::TenantServer;

/// Memory is counted in steps of so many bytes, so that the buffers of short messages are never counted.
const STEP_BYTES: usize = BACKPRESSURE_BYTES;

/// The message that a client has begun, and what stands in buffers for it; nothing most of the time.
#[derive(Debug, Default)]
pub struct Collecting {
    unfinished: Option<Box<Unfinished>>,
    /// None: less than is worth counting.
    buffers: Option<Box<Charge>>,
}

#[derive(Debug)]
struct Unfinished {
    since: Instant,
    alarm: Alarm,
}

impl Collecting {
    /// Ready once the message that the client has begun is overdue, which has to be whole within `timeout`; zero: no limit.
    pub(super) fn poll_overdue(
        &mut self,
        front: Front,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<Report> {
        if front == Front::Nothing || timeout.is_zero() {
            self.unfinished = None;
            return Poll::Pending;
        }
        let begin = || Box::new(Unfinished { since: Instant::now(), alarm: Alarm::default() });
        let unfinished = self.unfinished.get_or_insert_with(begin);
        unfinished.alarm.set(unfinished.since, timeout);
        unfinished.alarm.poll(cx).map(|()| too_late(timeout))
    }

    /// The message in front is whole.
    pub(super) fn is_whole(&mut self) {
        self.unfinished = None;
    }
}

impl Session {
    /// Counts what stands in buffers; says why if that is more than the client may keep. What goes to the server was
    /// allowed when it was collected.
    pub(super) fn count_buffers(&mut self, server: Option<&mut TenantServer>) -> Result<(), End> {
        let in_steps = |bytes: usize| bytes - bytes % STEP_BYTES;
        let mut bytes = in_steps(self.client.input.held()) + in_steps(self.client.output.held());
        let mut allowed = 0;
        if let Some(server) = server {
            let channel = &server.server().channel;
            bytes += in_steps(channel.input.held());
            allowed = in_steps(channel.output.held());
        }
        let Some(charge) = &mut self.collecting.buffers else {
            if bytes + allowed == 0 {
                return Ok(());
            }
            self.collecting.buffers = Some(Box::new(self.conversation.account().open()));
            return self.adjust(bytes, allowed);
        };
        if charge.bytes() == bytes + allowed { Ok(()) } else { self.adjust(bytes, allowed) }
    }

    /// The same while a server answers: a client that has a part of a frame cannot be told.
    pub(super) fn count_buffers_with(&mut self, server: &mut TenantServer) -> Result<(), End> {
        self.count_buffers(Some(server)).map_err(|end| match end {
            End::Told(report) => self.told_or_torn(report),
            End::Goodbye | End::Lost(_) | End::Torn => end,
        })
    }

    /// Ready once the message that the client has begun is overdue.
    pub(super) fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<Report> {
        self.collecting.poll_overdue(self.conversation.front(), self.bounds.message_timeout, cx)
    }

    /// Counts what stands in buffers, and sends the client what is for it.
    pub(super) fn count_and_flush(
        &mut self,
        cx: &mut Context<'_>,
        server: &mut TenantServer,
    ) -> Result<(), End> {
        self.count_buffers_with(server)?;
        match self.client.output.poll_flush(&mut self.client.stream, cx) {
            Poll::Ready(Err(error)) => Err(End::Lost(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn adjust(&mut self, bytes: usize, allowed: usize) -> Result<(), End> {
        let Some(charge) = &mut self.collecting.buffers else { return Ok(()) };
        let before = charge.bytes();
        let after = bytes + allowed;
        if after == 0 {
            self.collecting.buffers = None;
            return Ok(());
        }
        if after < before {
            charge.shrink(before - after);
            return Ok(());
        }
        // Of the growth, what may be refused.
        let refusable = (after - before).saturating_sub(allowed);
        charge.grow_anyway(after - before - refusable);
        if refusable > 0
            && let Err(over) = charge.grow(refusable)
        {
            tracing::info!(%over, "a client is over a memory budget");
            self.client.input = ReadBuffer::default();
            return Err(End::Told(over.report()));
        }
        Ok(())
    }
}

/// How long a client may go on sending that was told why its message is not taken.
const LINGER: Duration = Duration::from_secs(1);

/// Whether a client may be in the middle of a message when it is told this.
pub(super) fn cuts_a_message(report: &Report) -> bool {
    [sqlstate::OUT_OF_MEMORY, sqlstate::PROGRAM_LIMIT, sqlstate::PROTOCOL_VIOLATION]
        .contains(&report.sqlstate)
}

impl Session {
    /// Reads what still comes, for a while. A connection that is closed with bytes unread is reset, and the client may never
    /// read what it was told.
    pub(super) async fn linger(&mut self) {
        let Channel { stream, input, .. } = &mut self.client;
        let rest = async {
            stream.shutdown().await?;
            loop {
                input.consume(input.len());
                if poll_fn(|cx| input.poll_fill(stream, cx, 1)).await? == 0 {
                    return std::io::Result::Ok(());
                }
            }
        };
        if !matches!(tokio::time::timeout(LINGER, rest).await, Ok(Ok(()))) {
            tracing::debug!("the client went on sending");
        }
    }
}

/// PostgreSQL's words for a message whose rest does not come (`pq_getmessage`). PostgreSQL itself waits without a limit.
fn too_late(timeout: Duration) -> Report {
    Report::new(sqlstate::PROTOCOL_VIOLATION, "incomplete message from client")
        .detail(format!(
            "The message did not arrive whole within listen.message_timeout ({}).",
            humantime::format_duration(timeout)
        ))
        .hint("Send smaller messages, use COPY, or raise the limit.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_overdue_after_its_time_and_the_next_one_has_its_own() {
        let (mut collecting, timeout) = (Collecting::default(), Duration::from_secs(10));
        for _ in 0..2 {
            let start = Instant::now();
            poll_fn(|cx| {
                assert!(collecting.poll_overdue(Front::Part, timeout, cx).is_pending());
                Poll::Ready(())
            })
            .await;
            tokio::time::advance(Duration::from_millis(9_990)).await;
            poll_fn(|cx| {
                assert!(
                    collecting.poll_overdue(Front::Part, timeout, cx).is_pending(),
                    "more of it does not give it more time"
                );
                Poll::Ready(())
            })
            .await;
            let report = poll_fn(|cx| collecting.poll_overdue(Front::Part, timeout, cx)).await;
            assert_eq!(
                (report.sqlstate, start.elapsed()),
                (sqlstate::PROTOCOL_VIOLATION, Duration::from_secs(10))
            );
            collecting.is_whole();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_messages_and_zero_have_no_limit() {
        for (timeout, front) in [(10, Front::Nothing), (0, Front::Part)] {
            let (mut collecting, timeout) = (Collecting::default(), Duration::from_secs(timeout));
            let wait = poll_fn(|cx| collecting.poll_overdue(front, timeout, cx));
            assert!(tokio::time::timeout(Duration::from_secs(1000), wait).await.is_err());
        }
    }
}
