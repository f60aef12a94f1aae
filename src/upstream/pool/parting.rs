//! The end of a server in the middle of something: `PostgreSQL` is told to stop, and the slot is free only when the
//! server process is gone, so that what clients leave running never adds up to more servers than were allowed.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy, sink};
use tokio::time::{Instant, sleep, timeout};

use crate::net::buffer::ReadBuffer;
use crate::upstream::pool::{Lease, LeaseState, PoolSlots};

/// How long a server process that cannot be stopped keeps its place in the pool.
const SLOT_BOUND: Duration = Duration::from_secs(10);
/// Between one cancel request and the next; twice as long each time, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Lease {
    /// Closes the server and waits until its process is gone, or its host. A cancel request that comes before
    /// `PostgreSQL` has read the statement does nothing (`ProcessInterrupts` in `postgres.c`), and a function may
    /// catch one; so they are repeated, and `PostgreSQL` itself looks after the connection
    /// (`client_connection_check_interval`).
    pub(in crate::upstream) async fn end(mut self) {
        // There is none where it could not be replaced.
        let Some(mut server) = self.server.take() else { return };
        let pool = Arc::clone(&self.pool);
        let started = Instant::now();
        let process_id = server.process_id();
        let (address, target, key) = server.cancel_target();
        // Nobody counts them any more.
        server.channel.output.clear();
        server.channel.input = ReadBuffer::default();
        let stream = &mut server.channel.stream;
        let gone = async {
            // What was not sent yet is not sent any more. Under TLS even a farewell needs room in the socket.
            drop(timeout(FIRST_PAUSE, stream.shutdown()).await);
            // What still comes is read, for PostgreSQL does not notice anything while it waits to send.
            drop(copy(stream, &mut sink()).await);
        };
        let stopping = async {
            let mut pause = FIRST_PAUSE;
            while let Ok(()) = pool.connector.cancel(&address, target, &key).await {
                sleep(pause).await;
                if pause == LONGEST_PAUSE {
                    let seconds = started.elapsed().as_secs();
                    tracing::warn!(process_id, seconds, "a server process goes on without its client");
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        let over = async {
            tokio::select! {
                // First, so that nothing is sent for a server that is gone already.
                biased;
                () = gone => {}
                () = stopping => tracing::warn!(process_id, "a server's host cannot be reached to stop what runs there"),
            }
        };
        let mut over = std::pin::pin!(over);
        if timeout(SLOT_BOUND, &mut over).await.is_err() {
            tracing::warn!(
                process_id,
                tenant = self.tenant.as_ref().map(tracing::field::display),
                "a server process cannot be stopped: others get its place in the pool, its tenant has one server less"
            );
            self.state = LeaseState::Overdue;
            pool.settle(PoolSlots::is_overdue);
            over.await;
        }
    }
}
