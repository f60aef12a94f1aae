//! The breaker: isolation is in doubt, so nothing of any tenant runs any more. It trips once and for the life
//! of the process; nothing here or elsewhere closes it again, because nobody but an operator can know why.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::fault::{Report, sqlstate};

/// Shifted streams of answers in the life of the process that trip the breaker. One may be a fault of a single server.
const MAX_SHIFTED: u32 = 3;

/// Open after the first doubt.
#[derive(Debug, Default)]
pub struct Breaker {
    is_tripped: AtomicBool,
    shifted: AtomicU32,
}

impl Breaker {
    /// Isolation is in doubt from here on.
    pub fn trip(&self) {
        self.is_tripped.store(true, Ordering::Release);
    }

    /// A server answered another statement than the one that was due. The third time trips the breaker.
    pub fn note_shifted(&self) {
        if self.shifted.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_SHIFTED {
            self.trip();
        }
    }

    /// Whether isolation is in doubt.
    pub fn is_tripped(&self) -> bool {
        self.is_tripped.load(Ordering::Acquire)
    }
}

/// What clients of tenants are told then.
pub fn in_doubt() -> Report {
    Report::new(sqlstate::CANNOT_CONNECT_NOW, "isolation between tenants is in doubt, nothing is run")
        .hint("The operator of the proxy has to look into its log and restart it.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_the_limit_of_shifted_streams() {
        let breaker = Breaker::default();
        for _ in 1..MAX_SHIFTED {
            breaker.note_shifted();
            assert!(!breaker.is_tripped());
        }
        breaker.note_shifted();
        assert!(breaker.is_tripped());
    }
}
