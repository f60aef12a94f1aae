//! Until when something may wait. A limit of zero is no limit, here and nowhere else, so that no place can forget it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// The time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

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
    /// is.
    pub async fn wait<T>(self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        match self.0 {
            Some(end) => timeout_at(end, work).await.map_err(|_| Elapsed),
            None => Ok(work.await),
        }
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
        assert_eq!(Deadline::behind(start, limit).wait(pending::<()>()).await, Err(Elapsed));
        assert_eq!(start.elapsed(), limit);
        assert_eq!(Deadline::behind(start, limit).wait(pending::<()>()).await, Err(Elapsed));
        assert_eq!(start.elapsed(), limit, "it counts from its start, not from the wait");
        assert_eq!(Deadline::behind(start, limit).wait(ready(1)).await, Ok(1), "what is there is taken");
        let year = tokio::time::sleep(Duration::from_secs(365 * 24 * 60 * 60));
        assert_eq!(Deadline::of(Duration::ZERO).wait(year).await, Ok(()));
    }
}
