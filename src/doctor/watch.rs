//! The doctor beside a serving proxy: at start, soon again while an upstream could not be reached, and from
//! time to time. Promise: it counts what stands now, says what is new, and ends only if serving has to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Examination, Finding, FindingSeverity, Reached, examine};
use crate::directory::{ContextMode, Directory, Tenancy};
use crate::observability::metrics::isolation_findings;
use crate::upstream::settings::UpstreamSettings;

/// How soon an upstream is asked again that could not be reached.
const AGAIN: Duration = Duration::from_secs(2);

/// Findings about forms of policies that this product has recommended before. Under a plain context they are critical, and
/// told at each start, but do not stop it yet: an upgrade must not end the service of an installed database.
const STARTS_WITH: [&str; 2] = ["D10", "D48"];

/// Serving is refused: these upstreams do not isolate tenants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database does not isolate tenants:\n{findings}mend this (pgtenant doctor --config FILE says how), or set tenancy.allow_unsafe = true to serve anyway"
)]
pub struct Unsafe {
    findings: String,
}

/// What is known about all upstreams.
pub struct Watch {
    /// Who there is at that moment.
    directory: Box<dyn Fn() -> Directory + Send + Sync>,
    tenancy: Tenancy,
    upstreams: Vec<UpstreamSettings>,
    known: BTreeMap<String, Examination>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.known.keys()).finish()
    }
}

impl Watch {
    /// Over these upstreams; nothing is asked yet.
    pub fn new(
        directory: impl Fn() -> Directory + Send + Sync + 'static,
        upstreams: Vec<UpstreamSettings>,
    ) -> Self {
        let tenancy = directory().tenancy;
        Self { directory: Box::new(directory), tenancy, upstreams, known: BTreeMap::new() }
    }

    /// Looks at every upstream once. An upstream that is not there does not stop serving: others may be.
    pub async fn first(&mut self) -> Result<(), Unsafe> {
        // All at one time: one that does not answer must not hold up the start once for each.
        let mut looks = Vec::new();
        for settings in self.upstreams.clone() {
            let directory = (self.directory)();
            looks.push(tokio::spawn(async move { examine(&settings, &directory).await }));
        }
        let mut verdict = Ok(());
        for look in looks {
            if let Ok(examination) = look.await {
                verdict = verdict.and(self.take(examination));
            }
        }
        verdict
    }

    /// Looks again, for ever: at intervals, and after each reload. An upstream's first examination may end serving; what
    /// a later one finds is told and counted only, for a migration must be able to pass through an unfinished state.
    pub async fn run(mut self, reloaded: Arc<Notify>) -> Unsafe {
        let mut whole_round = Instant::now() + self.tenancy.doctor_interval;
        loop {
            let is_reload = tokio::select! {
                () = self.due(whole_round) => false,
                () = reloaded.notified() => true,
            };
            let is_due = !self.tenancy.doctor_interval.is_zero() && Instant::now() >= whole_round;
            let is_round = is_reload || is_due;
            for settings in self.upstreams.clone() {
                let known = self.known.get(settings.name.as_str()).map(|known| known.reached);
                if !is_round && known == Some(Reached::Examined) {
                    continue;
                }
                if let Err(verdict) = self.take(examine(&settings, &(self.directory)()).await) {
                    return verdict;
                }
            }
            if is_round {
                whole_round = Instant::now() + self.tenancy.doctor_interval;
            }
        }
    }

    /// Waits until an upstream is to be examined.
    async fn due(&self, whole_round: Instant) {
        let waits = self.known.values().any(|known| known.reached == Reached::Unreachable);
        let again = Instant::now() + AGAIN;
        match (waits, self.tenancy.doctor_interval.is_zero()) {
            (true, true) => sleep_until(again).await,
            (true, false) => sleep_until(again.min(whole_round)).await,
            (false, false) => sleep_until(whole_round).await,
            (false, true) => std::future::pending().await,
        }
    }

    /// Takes in what was found at an upstream.
    fn take(&mut self, examination: Examination) -> Result<(), Unsafe> {
        let before = self.known.get(&examination.upstream);
        let examined = before.is_some_and(|before| before.reached == Reached::Examined);
        tell(&examination, before.map_or(&[], |before| &before.findings));
        if examined && examination.reached == Reached::Unreachable {
            // What was found before still stands; that the upstream is away is its pool's news.
            return Ok(());
        }
        let verdict = self.verdict(&examination, before.map(|before| before.reached));
        self.known.insert(examination.upstream.clone(), examination);
        self.count();
        verdict
    }

    fn verdict(&self, examination: &Examination, before: Option<Reached>) -> Result<(), Unsafe> {
        if examination.count(FindingSeverity::Critical) == 0 {
            return Ok(());
        }
        let upstream = &examination.upstream;
        if self.tenancy.allow_unsafe {
            tracing::warn!(upstream, "serving although the database does not isolate tenants: allow_unsafe");
            return Ok(());
        }
        if before == Some(Reached::Examined) {
            tracing::error!(upstream, "the database does not isolate tenants any more");
            return Ok(());
        }
        let is_sealed = matches!(self.tenancy.context, ContextMode::Sealed(_));
        let critical = examination.findings.iter().filter(|one| one.severity == FindingSeverity::Critical);
        let mut stops = critical.filter(|one| is_sealed || !STARTS_WITH.contains(&one.id)).peekable();
        if stops.peek().is_none() {
            tracing::error!(
                upstream,
                "serving although policies do not keep tenants apart: a later release will not; pgtenant protect --apply mends them"
            );
            return Ok(());
        }
        let line = |one: &Finding| {
            format!("  {upstream}: {} {}: {}\n", one.id, one.object.escape_debug(), one.message)
        };
        Err(Unsafe { findings: stops.map(line).collect() })
    }

    fn count(&self) {
        for severity in FindingSeverity::ALL {
            let count = self.known.values().map(|known| known.count(severity)).sum();
            isolation_findings(severity.word(), count);
        }
    }
}

/// Logs what was not known before, and a line with the numbers if anything changed.
fn tell(examination: &Examination, known: &[Finding]) {
    let Examination { upstream, findings, reached } = examination;
    for finding in findings.iter().filter(|finding| !known.contains(finding)) {
        let Finding { id, object, message, fix, .. } = finding;
        match finding.severity {
            FindingSeverity::Critical => {
                tracing::error!(upstream, id, object, finding = message, fix, "doctor: critical");
            }
            FindingSeverity::Warning => {
                tracing::warn!(upstream, id, object, finding = message, fix, "doctor: warning");
            }
            FindingSeverity::Advice => {
                tracing::debug!(upstream, id, object, finding = message, fix, "doctor: advice");
            }
        }
    }
    if findings != known && *reached == Reached::Examined {
        let [critical, warnings, advice] = FindingSeverity::ALL.map(|severity| examination.count(severity));
        tracing::info!(upstream, critical, warnings, advice, "doctor: examined");
    }
}
