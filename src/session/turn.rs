//! In front of each transaction: its tenant may be paused, and may be somewhere else than it was.
//! Promise: a transaction begins only with a turn, in the place where the tenant is for as long as the turn lasts.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use crate::clients::{Activity, TenantSeat, TenantStatus};
use crate::fault::{Report, sqlstate};
use crate::relay::core::tenant_choice::closed;
use crate::session::{End, Session, cancelled, farewell, poll_departure};
use crate::upstream::Deadline;

/// Where a transaction begins.
pub(super) enum TenantPlace {
    /// Where the one before was.
    Here,
    /// In another place: the tenant has moved.
    Elsewhere,
}

/// Why a transaction does not begin.
pub(super) enum Halt {
    /// The client is told, and stays.
    Refused(Report),
    /// The session is over.
    End(End),
}

/// What became of a wait.
enum Waited {
    Over,
    Cancelled,
    End(End),
}

impl Session {
    /// Takes a turn for a request, once the tenant lets transactions begin. Clients without a tenant need none.
    pub(super) async fn enter(&mut self, arrived: Instant) -> Result<TenantPlace, Halt> {
        let mut entered = TenantPlace::Here;
        loop {
            let Some(seat) = &self.conversation.session_acting().seat else { return Ok(entered) };
            match seat.begin() {
                Ok(turn) if !seat.is_stale() => {
                    self.turn = Some(turn);
                    return Ok(entered);
                }
                Ok(_) => {
                    self.conversation.follow_tenant().map_err(Halt::Refused)?;
                    self.look_up_limits();
                    entered = TenantPlace::Elsewhere;
                }
                Err(status @ (TenantStatus::Paused | TenantStatus::Moving)) => {
                    self.wait_for_tenant(status, arrived).await?;
                }
                Err(status @ (TenantStatus::Suspended | TenantStatus::Draining | TenantStatus::Active)) => {
                    return Err(Halt::Refused(closed(status)));
                }
            }
        }
    }

    /// Whether the tenant is somewhere else than when it was looked up.
    pub(super) fn has_moved(&self) -> bool {
        self.conversation.session_acting().seat.as_ref().is_some_and(TenantSeat::is_stale)
    }

    /// Waits as for a server; the time counts as one for both.
    async fn wait_for_tenant(&mut self, status: TenantStatus, arrived: Instant) -> Result<(), Halt> {
        let since = Instant::now();
        let client = Arc::clone(self.membership.client());
        client.clear_cancel();
        client.does(Activity::Waiting);
        let conversation = &self.conversation;
        let channel = &mut self.client;
        let waits = || {
            let seat = conversation.session_acting().seat.as_ref();
            let now = seat.map_or(TenantStatus::Active, TenantSeat::status);
            matches!(now, TenantStatus::Paused | TenantStatus::Moving)
        };
        let wait = poll_fn(|cx| {
            client.listen(cx);
            if !waits() {
                return Poll::Ready(Waited::Over);
            }
            if client.is_cancelled() {
                client.clear_cancel();
                return Poll::Ready(Waited::Cancelled);
            }
            // Nothing of it has begun.
            if let Some(order) = client.order() {
                return Poll::Ready(Waited::End(End::Told(farewell(order))));
            }
            poll_departure(channel, cx).map(Waited::End)
        });
        let waited = Deadline::behind(arrived, self.limits.queue_timeout).wait(wait).await;
        client.does(Activity::Idle);
        self.conversation.metrics.queue_wait(since.elapsed());
        match waited {
            Ok(Waited::Over) => Ok(()),
            Ok(Waited::Cancelled) => Err(Halt::Refused(cancelled())),
            Ok(Waited::End(end)) => Err(Halt::End(end)),
            Err(_) => Err(Halt::Refused(closed(status))),
        }
    }
}

/// What a client is told whose session is on a server where its tenant is no more.
pub(super) fn moved() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection because the tenant has moved")
        .hint("The session's state was where the tenant was (temporary tables, cursors, …): connect again.")
}
