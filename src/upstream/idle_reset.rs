//! Servers that are idle for a moment are reset then: what a tenant left does not stay on them, and a later hand-over only
//! enters. A tenant that comes back sooner finds its server as it left it.

use std::sync::Arc;
use std::time::Duration;

use crate::observability::metrics::shifted_answer;
use crate::upstream::context::{Context, SessionParameters};
use crate::upstream::pool::Pool;
use crate::upstream::{Shared, TenantServer, UpstreamFault, Upstreams};

/// How long a server has been idle before it is reset.
const IDLE_FOR: Duration = Duration::from_millis(500);
/// Between one look at the idle servers and the next.
const PERIOD: Duration = Duration::from_millis(250);

impl Upstreams {
    /// Resets servers that become idle, for ever.
    pub async fn reset_idle_servers(&self) {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            for entry in &self.pools {
                entry.value().reset_idle_servers();
            }
        }
    }
}

impl Shared {
    /// One after another in a task of its own, of which a pool has at most one.
    fn reset_idle_servers(&self) {
        let Ok(turn) = Arc::clone(&self.resetting).try_lock_owned() else { return };
        if !self.pool.has_unreset(IDLE_FOR) {
            return;
        }
        let pool = Arc::clone(&self.pool);
        tokio::spawn(async move {
            reset_all(&pool).await;
            drop(turn);
        });
    }
}

async fn reset_all(pool: &Arc<Pool>) {
    while let Some(lease) = pool.take_unreset(IDLE_FOR) {
        let mut server = TenantServer { lease, context: Context::none() };
        match server.reset_for(&SessionParameters::default()).await {
            Ok(()) => server.release(),
            Err(UpstreamFault::Shifted) => {
                shifted_answer();
                tracing::error!("a server answered another statement than its reset; it is closed");
            }
            // It is closed.
            Err(error) => tracing::debug!(%error, "an idle server could not be reset"),
        }
    }
}
