//! Long texts are read where blocking is allowed, a few at a time: whoever waits for its turn, or has left, keeps nobody from
//! anything. How long a queue can become is bounded by the memory budgets, for only whole messages stand in it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::block_in_place;

use crate::net::Channel;
use crate::net::buffer::READ_BYTES;
use crate::relay::{ClientSide, Conversation, LongTexts, Pumped, RelayFault};
use crate::session::idle::Next;
use crate::session::{End, Session, farewell, poll_departure_within};
use crate::upstream::TenantServer;

/// Texts that are longer have a queue of their own, so that shorter ones do not wait for them.
const HUGE_BYTES: usize = 1024 * 1024;

/// What bounds the cost of messages, for all sessions.
#[derive(Debug)]
pub struct Bounds {
    /// `listen.message_timeout`: within which a message that was begun has to be whole; zero: no limit.
    pub message_timeout: Duration,
    /// Turns at reading long texts.
    long: Arc<Semaphore>,
    /// Turns at reading the longest.
    huge: Arc<Semaphore>,
}

/// One session's place in the queue; none most of the time.
#[derive(Debug, Default)]
pub struct Inspecting(Option<Box<Waiting>>);

struct Waiting {
    turn: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send + Sync>>,
    /// How much of the client's bytes is read meanwhile, so that its departure is noticed.
    read_ahead: usize,
}

impl Bounds {
    /// A quarter of the processors, and one at least, reads texts of each kind at one time.
    pub fn new(message_timeout: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let queue = || Arc::new(Semaphore::new((processors / 4).max(1)));
        Self { message_timeout, long: queue(), huge: queue() }
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("read_ahead", &self.read_ahead).finish_non_exhaustive()
    }
}

impl Inspecting {
    /// Ready when a message of so many bytes may be read; the turn lasts until it is dropped.
    fn poll_turn(
        &mut self,
        bounds: &Bounds,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<OwnedSemaphorePermit>> {
        let waiting = self.0.get_or_insert_with(|| {
            let queue = if bytes > HUGE_BYTES { &bounds.huge } else { &bounds.long };
            let turn = Arc::clone(queue).acquire_owned();
            let turn = Box::pin(async { turn.await.ok() });
            Box::new(Waiting { turn, read_ahead: bytes + READ_BYTES / 2 })
        });
        let polled = waiting.turn.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }

    /// How many bytes of a client are read while it waits for its turn; zero: it does not.
    pub(super) fn read_ahead(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.read_ahead)
    }
}

impl Session {
    /// Looks at the message in front, of so many bytes, when it is its turn.
    pub(super) async fn look_in_turn(&mut self, bytes: usize) -> Result<Next, End> {
        let turn = poll_fn(|cx| self.poll_turn(bytes, cx)).await?;
        let next = block_in_place(|| self.look());
        drop(turn);
        Ok(next)
    }

    /// Waits until the message in front, of so many bytes, may be looked at.
    fn poll_turn(
        &mut self,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<OwnedSemaphorePermit>, End>> {
        let client = self.membership.client();
        client.listen(cx);
        if let Some(order) = self.due_order() {
            return Poll::Ready(Err(End::Told(farewell(order))));
        }
        if let Poll::Ready(turn) = self.inspecting.poll_turn(&self.bounds, bytes, cx) {
            return Poll::Ready(Ok(turn));
        }
        poll_departure_within(bytes + READ_BYTES / 2, &mut self.client, cx).map(Err)
    }

    /// Sends on what the client has sent. A long text waits for its turn, and is read where blocking is allowed.
    pub(super) fn pump_in_turn(
        &mut self,
        cx: &mut Context<'_>,
        server: &mut TenantServer,
    ) -> Result<Pumped, RelayFault> {
        let (conversation, client) = (&mut self.conversation, &mut self.client);
        let mut side =
            ClientSide { input: &mut client.input, output: &mut client.output, long: LongTexts::Stay };
        let pumped = conversation.pump(&mut side, server)?;
        if pumped != Pumped::Long {
            return Ok(pumped);
        }
        let bytes = Conversation::long_ahead(client).unwrap_or_default();
        let Poll::Ready(_turn) = self.inspecting.poll_turn(&self.bounds, bytes, cx) else {
            return Ok(Pumped::All);
        };
        block_in_place(|| pump_long(conversation, client, server))
    }
}

fn pump_long(
    conversation: &mut Conversation,
    client: &mut Channel,
    server: &mut TenantServer,
) -> Result<Pumped, RelayFault> {
    let stream = &client.stream;
    let has_left = || stream.has_left();
    let long = LongTexts::AreRead(&has_left);
    conversation.pump(&mut ClientSide { input: &mut client.input, output: &mut client.output, long }, server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shorter_texts_have_turns_of_their_own_and_who_leaves_gives_up() {
        let one = || Arc::new(Semaphore::new(1));
        let bounds = Bounds { message_timeout: Duration::ZERO, long: one(), huge: one() };
        let mut sessions: Vec<_> = (0..4).map(|_| Inspecting::default()).collect();
        let huge = HUGE_BYTES + 1;
        let turn = poll_fn(|cx| sessions[0].poll_turn(&bounds, huge, cx)).await;
        poll_fn(|cx| {
            assert!(sessions[1].poll_turn(&bounds, huge, cx).is_pending());
            assert!(sessions[2].poll_turn(&bounds, huge, cx).is_pending());
            assert!(sessions[3].poll_turn(&bounds, HUGE_BYTES, cx).is_ready());
            Poll::Ready(())
        })
        .await;
        assert_eq!(sessions[1].read_ahead(), huge + READ_BYTES / 2);
        drop(sessions.remove(1));
        drop(turn);
        let turn = poll_fn(|cx| sessions[1].poll_turn(&bounds, huge, cx)).await;
        assert!(turn.is_some() && sessions[1].read_ahead() == 0);
    }
}
