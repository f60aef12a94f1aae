//! The end of a server in the middle of something: `PostgreSQL` is told to stop, and the slot is free only when the
//! server process is gone, so that what clients leave running never adds up to more servers than were allowed.

use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy, sink};
use tokio::time::{Instant, sleep, timeout};

use crate::upstream::pool::Lease;

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
        let started = Instant::now();
        let process_id = server.process_id();
        let (address, target, key) = server.cancel_target();
        let stream = &mut server.channel.stream;
        let gone = async {
            // What was not sent yet is not sent any more. Under TLS even a farewell needs room in the socket.
            drop(timeout(FIRST_PAUSE, stream.shutdown()).await);
            // What still comes is read, for PostgreSQL does not notice anything while it waits to send.
            drop(copy(stream, &mut sink()).await);
        };
        let stopping = async {
            let mut pause = FIRST_PAUSE;
            while let Ok(()) = self.pool.connector.cancel(&address, target, &key).await {
                sleep(pause).await;
                if pause == LONGEST_PAUSE {
                    let seconds = started.elapsed().as_secs();
                    tracing::warn!(process_id, seconds, "a server process goes on without its client");
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        tokio::select! {
            // First, so that nothing is sent for a server that is gone already.
            biased;
            () = gone => {}
            () = stopping => tracing::warn!(process_id, "a server's host cannot be reached to stop what runs there"),
        }
    }
}
