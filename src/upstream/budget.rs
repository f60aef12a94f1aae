//! One bound on the connections of all pools of an upstream. A pool that needs one when all are taken gets an idle one's
//! of another pool, or waits.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::upstream::error::UpstreamFault;
use crate::upstream::pool::Pool;

/// Connections that may be opened, and the pools that have the others.
#[derive(Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Budget {
    pub(super) fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(connections)), pools: Mutex::default() })
    }

    /// A pool that takes part.
    pub(super) fn join(&self, pool: &Arc<Pool>) {
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// The right to one connection, for as long as it is kept.
    pub(super) async fn take(&self, limit: Duration) -> Result<OwnedSemaphorePermit, UpstreamFault> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(permit);
        }
        self.shed();
        match timeout(limit, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(UpstreamFault::QueueTimeout),
        }
    }

    /// Closes the idle connection that was used least recently, of whichever pool.
    fn shed(&self) {
        let pools: Vec<Arc<Pool>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let oldest =
            pools.iter().filter_map(|pool| Some((pool.idle_since()?, pool))).min_by_key(|(since, _)| *since);
        if let Some((_, pool)) = oldest {
            pool.shed();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
