//! The gate in front of all pools: shut, it holds back whoever wants a server; those who have one go on.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::upstream::deadline::Deadline;
use crate::upstream::error::UpstreamFault;

/// Open, unless an operator shut it.
#[derive(Debug)]
pub(super) struct Gate {
    is_shut: AtomicBool,
    changes: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { is_shut: AtomicBool::new(false), changes: watch::Sender::new(false) }
    }
}

impl Gate {
    pub(super) fn shut(&self) {
        self.is_shut.store(true, Ordering::Relaxed);
        self.changes.send_replace(true);
    }

    pub(super) fn open(&self) {
        self.is_shut.store(false, Ordering::Relaxed);
        self.changes.send_replace(false);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Relaxed)
    }

    /// Waits until it is open.
    pub(super) async fn pass(&self, deadline: Deadline) -> Result<(), UpstreamFault> {
        if !self.is_shut() {
            return Ok(());
        }
        let mut changes = self.changes.subscribe();
        let open = changes.wait_for(|is_shut| !is_shut);
        match deadline.wait(open).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(UpstreamFault::QueueTimeout),
        }
    }
}
