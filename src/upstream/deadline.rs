//! Until when something may wait. A limit of zero is no limit, here and nowhere else, so that no place can forget it.

use std::time::Duration;

use tokio::time::{Instant, Timeout, timeout_at};

/// Longer than any process runs.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A point in time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// So long behind a start; zero: never.
    pub fn behind(start: Instant, limit: Duration) -> Self {
        Self((!limit.is_zero()).then(|| start + limit))
    }

    /// So long from now on; zero: never.
    pub fn of(limit: Duration) -> Self {
        Self::behind(Instant::now(), limit)
    }

    /// Awaits something, but no longer than until then. What is ready at once is taken, however late it is. Cancel safe if that
    /// is. Tokio's own future, and no `async fn` around it, which would make every waiting client's task larger.
    pub fn wait<F: Future>(self, work: F) -> Timeout<F> {
        timeout_at(self.0.unwrap_or_else(|| Instant::now() + NEVER), work)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_zero_is_none_and_any_other_ends_a_wait() {
        let start = Instant::now();
        let limit = Duration::from_secs(2);
        assert_eq!(Deadline::behind(start, limit).wait(pending::<()>()).await.ok(), None);
        assert_eq!(start.elapsed(), limit);
        assert_eq!(Deadline::behind(start, limit).wait(pending::<()>()).await.ok(), None);
        assert_eq!(start.elapsed(), limit, "it counts from its start, not from the wait");
        assert_eq!(
            Deadline::behind(start, limit).wait(ready(1)).await.ok(),
            Some(1),
            "what is there is taken"
        );
        let year = tokio::time::sleep(Duration::from_secs(365 * 24 * 60 * 60));
        assert_eq!(Deadline::of(Duration::ZERO).wait(year).await.ok(), Some(()));
    }
}
