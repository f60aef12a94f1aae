//! One bound on the connections of all pools of an upstream, and one on those of the whole process. A pool that needs
//! one when all are taken gets an idle one's of another pool, or waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::upstream::deadline::Deadline;
use crate::upstream::error::UpstreamFault;
use crate::upstream::pool::Pool;

/// Connections that may be opened, and the pools that have the others.
#[derive(Debug)]
pub(super) struct ConnectionBudget {
    free: Arc<Semaphore>,
    pools: Mutex<Vec<Weak<Pool>>>,
    /// Those who wait for one.
    waiting: AtomicUsize,
    /// The one that this is a part of.
    whole: Option<Arc<Self>>,
}

/// The right to one connection.
#[derive(Debug)]
pub struct Permit {
    _own: OwnedSemaphorePermit,
    _whole: Option<OwnedSemaphorePermit>,
}

impl ConnectionBudget {
    /// Of the whole process.
    pub(super) fn new(connections: usize) -> Arc<Self> {
        Self::with(connections, None)
    }

    /// A part of this, with a bound of its own.
    pub(super) fn part(self: &Arc<Self>, connections: usize) -> Arc<Self> {
        Self::with(connections, Some(Arc::clone(self)))
    }

    fn with(connections: usize, whole: Option<Arc<Self>>) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(connections));
        Arc::new(Self { free, pools: Mutex::default(), waiting: AtomicUsize::new(0), whole })
    }

    /// Whether an idle connection is of use to another pool.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0 || self.whole.as_ref().is_some_and(|whole| whole.is_wanted())
    }

    /// A pool that takes part.
    pub(super) fn join(&self, pool: &Arc<Pool>) {
        for budget in std::iter::once(self).chain(self.whole.as_deref()) {
            let mut pools = budget.lock();
            pools.retain(|pool| pool.strong_count() > 0);
            pools.push(Arc::downgrade(pool));
        }
    }

    /// The right to one connection, for as long as it is kept. Cancel safe.
    pub(super) async fn take(&self, deadline: Deadline) -> Result<Permit, UpstreamFault> {
        let own = self.take_one(deadline).await?;
        let whole = match &self.whole {
            Some(whole) => Some(whole.take_one(deadline).await?),
            None => None,
        };
        Ok(Permit { _own: own, _whole: whole })
    }

    async fn take_one(&self, deadline: Deadline) -> Result<OwnedSemaphorePermit, UpstreamFault> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(permit);
        }
        // Counted before it looks: whoever makes a connection idle sees the count, or this sees the connection.
        let _waiting = Waiting::new(&self.waiting);
        self.shed();
        match deadline.wait(Arc::clone(&self.free).acquire_owned()).await {
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

/// One of those who wait.
struct Waiting<'b>(&'b AtomicUsize);

impl<'b> Waiting<'b> {
    fn new(count: &'b AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
