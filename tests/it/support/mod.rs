//! The vocabulary of the tests: a private `Cluster`, a `Proxy` in front of it, and a `Link`, which is a
//! client that speaks in frames. Every wait has a deadline and says what it waited for.

pub(crate) mod certificate;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod recorder;
pub(crate) mod sql;
pub(crate) mod tap;

use std::future::Future;
use std::time::Duration;

pub(crate) use cluster::Cluster;
pub(crate) use link::{Fault, Link};
pub(crate) use proxy::Proxy;

/// How long anything may take before a test gives up; generous, because the machine is shared.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(DEADLINE, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for {what}"))
}

/// Asks again and again until `question` answers with a value.
pub(crate) async fn eventually<T, F>(what: &str, mut question: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(what, async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
