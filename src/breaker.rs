//! The breaker: isolation is in doubt, so nothing of any tenant runs any more. It trips once and for the life
//! of the process; nothing here or elsewhere closes it again, because nobody but an operator can know why.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::fault::{Report, sqlstate};

/// Open after the first doubt.
#[derive(Debug, Default)]
pub struct Breaker(AtomicBool);

impl Breaker {
    /// Isolation is in doubt from here on.
    pub fn trip(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub fn is_tripped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What clients of tenants are told then.
pub fn in_doubt() -> Report {
    Report::new(sqlstate::CANNOT_CONNECT_NOW, "isolation between tenants is in doubt, nothing is run")
        .hint("The operator of the proxy has to look into its log and restart it.")
}
