//! Every metric in one place: name, kind, help, labels; counted through typed functions only.
//! The bound on tenants with series of their own is kept here, so no caller can exceed it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::fault::sqlstate::SqlState;
use crate::names::TenantId;
use crate::observability::table::{ALL, MetricKind};

/// Label of every tenant beyond the bound.
pub const OTHER: &str = "_other";
/// Label of clients that have no tenant: maintenance users, and gateway users before they choose.
pub const NONE: &str = "_none";

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// The rules of the guard by which a change of the context is refused; an alert looks at them. Their counters, and those of the
/// classes below, are there at 0 as soon as their tenant has series: Prometheus' `increase` sees no increase in a series
/// that begins at 3.
pub const WATCHED_RULES: &[&str] =
    &["connection-check", "context-change", "opaque-name", "own-objects", "role-change"];
/// The classes of errors that an alert looks at.
pub const WATCHED_CLASSES: &[&str] = &["08", "53"];

/// The installed recorder; renders the Prometheus text format.
#[derive(Clone, Debug)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Installs the process-wide recorder, once.
    pub fn install() -> Result<Self, BuildError> {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        if let Some(handle) = INSTALLED.get() {
            return Ok(Self(handle.clone()));
        }
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)?
            .install_recorder()?;
        for &(name, kind, _, help) in ALL {
            match kind {
                MetricKind::Counter => metrics::describe_counter!(name, help),
                MetricKind::Gauge => metrics::describe_gauge!(name, help),
                MetricKind::Histogram => metrics::describe_histogram!(name, metrics::Unit::Seconds, help),
            }
        }
        for outcome in LoginOutcome::ALL {
            logins(outcome).increment(0);
        }
        gauge!("pgtenant_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(INSTALLED.get_or_init(|| handle).clone()))
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Every sample: name, labels as written, value.
    pub fn samples(&self) -> Vec<(String, String, f64)> {
        let text = self.0.render();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(sample).collect()
    }

    /// Folds recorded samples into buckets; to be called every few seconds, or they pile up.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn sample(line: &str) -> Option<(String, String, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some((name.to_owned(), labels.trim_end_matches('}').to_owned(), value.parse().ok()?))
}

/// The memory that is counted in the budget of the process.
#[derive(Clone)]
pub struct MemoryGauge(Gauge);

impl std::fmt::Debug for MemoryGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryGauge")
    }
}

impl Default for MemoryGauge {
    fn default() -> Self {
        let gauge = gauge!("pgtenant_memory_bytes");
        gauge.set(0.0);
        Self(gauge)
    }
}

#[expect(clippy::cast_precision_loss, reason = "no process has so many bytes")]
impl MemoryGauge {
    /// So many bytes more.
    pub fn grow(&self, bytes: usize) {
        self.0.increment(bytes as f64);
    }

    /// So many bytes less.
    pub fn shrink(&self, bytes: usize) {
        self.0.decrement(bytes as f64);
    }
}

/// Gives out tenant labels: the first `max_tenants` names get their own, for the life of the process, so
/// that no counter ever goes backwards; the rest share [`OTHER`].
#[derive(Debug)]
pub struct TenantLabels {
    max_tenants: usize,
    given: Mutex<HashMap<TenantId, Arc<TenantMetrics>>>,
    other: Arc<TenantMetrics>,
    none: Arc<TenantMetrics>,
}

impl TenantLabels {
    /// At most `max_tenants` tenants get series of their own.
    pub fn new(max_tenants: usize) -> Self {
        Self {
            max_tenants,
            given: Mutex::default(),
            other: Arc::new(TenantMetrics::new(OTHER)),
            none: Arc::new(TenantMetrics::new(NONE)),
        }
    }

    /// The series of a tenant, or of clients without one.
    pub fn of(&self, tenant: Option<&TenantId>) -> Arc<TenantMetrics> {
        let Some(tenant) = tenant else { return Arc::clone(&self.none) };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = given.get(tenant) {
            return Arc::clone(metrics);
        }
        if given.len() >= self.max_tenants {
            return Arc::clone(&self.other);
        }
        let metrics = Arc::new(TenantMetrics::new(tenant.as_str()));
        given.insert(tenant.clone(), Arc::clone(&metrics));
        metrics
    }
}

/// One tenant's series, looked up once per client.
pub struct TenantMetrics {
    label: Arc<str>,
    query: Histogram,
    transaction: Histogram,
    queue_wait: Histogram,
    queries: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    clients: Gauge,
}

impl std::fmt::Debug for TenantMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantMetrics({})", self.label)
    }
}

impl TenantMetrics {
    fn new(label: &str) -> Self {
        let tenant: Arc<str> = Arc::from(label);
        let own = || metrics::SharedString::from(Arc::clone(&tenant));
        for rule in WATCHED_RULES {
            refusals(&tenant, rule).increment(0);
        }
        for class in WATCHED_CLASSES {
            errors(&tenant, class).increment(0);
        }
        Self {
            query: histogram!("pgtenant_query_duration_seconds", "tenant" => own()),
            transaction: histogram!("pgtenant_transaction_duration_seconds", "tenant" => own()),
            queue_wait: histogram!("pgtenant_queue_wait_seconds", "tenant" => own()),
            queries: counter!("pgtenant_queries_total", "tenant" => own()),
            bytes_in: counter!("pgtenant_client_bytes_total", "tenant" => own(), "direction" => "in"),
            bytes_out: counter!("pgtenant_client_bytes_total", "tenant" => own(), "direction" => "out"),
            clients: gauge!("pgtenant_clients", "tenant" => own()),
            label: tenant,
        }
    }

    /// A request was answered.
    pub fn query(&self, duration: Duration) {
        self.query.record(duration);
        self.queries.increment(1);
    }

    /// A server was given back.
    pub fn transaction(&self, duration: Duration) {
        self.transaction.record(duration);
    }

    /// A server was taken after waiting this long.
    pub fn queue_wait(&self, duration: Duration) {
        self.queue_wait.record(duration);
    }

    /// Bytes came from the client.
    pub fn bytes_in(&self, count: usize) {
        self.bytes_in.increment(count as u64);
    }

    /// Bytes went to the client.
    pub fn bytes_out(&self, count: usize) {
        self.bytes_out.increment(count as u64);
    }

    /// An ErrorResponse went to the client.
    pub fn error(&self, sqlstate: &str) {
        errors(&self.label, class(sqlstate)).increment(1);
    }

    /// The guard refused a statement.
    pub fn refusal(&self, rule: &'static str) {
        refusals(&self.label, rule).increment(1);
    }

    /// A client was pinned to a server.
    pub fn pin(&self, reason: &'static str) {
        counter!(
            "pgtenant_pins_total",
            "tenant" => metrics::SharedString::from(Arc::clone(&self.label)),
            "reason" => reason
        )
        .increment(1);
    }

    /// A client of this tenant logged in; counted until the guard is dropped.
    pub fn client(self: &Arc<Self>) -> ClientGauge {
        self.clients.increment(1.0);
        ClientGauge(Arc::clone(self))
    }
}

fn errors(tenant: &Arc<str>, class: &'static str) -> Counter {
    let tenant = metrics::SharedString::from(Arc::clone(tenant));
    counter!("pgtenant_errors_total", "tenant" => tenant, "class" => class)
}

fn refusals(tenant: &Arc<str>, rule: &'static str) -> Counter {
    let tenant = metrics::SharedString::from(Arc::clone(tenant));
    counter!("pgtenant_guard_refusals_total", "tenant" => tenant, "rule" => rule)
}

/// Counts one replication connection for as long as it lives.
#[derive(Debug)]
pub struct ReplicationGauge(Gauge);

impl ReplicationGauge {
    /// One more.
    pub fn new(upstream: &str) -> Self {
        let gauge = gauge!("pgtenant_replication_connections", "upstream" => upstream.to_owned());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for ReplicationGauge {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Counts one logged-in client for as long as it lives.
#[derive(Debug)]
pub struct ClientGauge(Arc<TenantMetrics>);

impl Drop for ClientGauge {
    fn drop(&mut self) {
        self.0.clients.decrement(1.0);
    }
}

/// The classes of PostgreSQL's appendix A; functions can raise any other, which must not grow the labels.
const CLASSES: &[&str] = &[
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23",
    "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44",
    "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
];

fn class(sqlstate: &str) -> &'static str {
    let wanted = sqlstate.get(..2).unwrap_or_default();
    CLASSES.iter().find(|class| **class == wanted).copied().unwrap_or("other")
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    /// The client is in.
    Ok,
    /// It was told no.
    Refused,
    /// It went away, timed out or did not speak the protocol.
    Failed,
}

impl LoginOutcome {
    const ALL: [Self; 3] = [Self::Ok, Self::Refused, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A login ended.
pub fn login(outcome: LoginOutcome) {
    logins(outcome).increment(1);
}

fn logins(outcome: LoginOutcome) -> Counter {
    counter!("pgtenant_logins_total", "outcome" => outcome.label())
}

/// An error before the tenant was known.
pub fn early_error(sqlstate: SqlState) {
    counter!("pgtenant_errors_total", "tenant" => NONE, "class" => class(sqlstate.0)).increment(1);
}

/// What the doctor found last, over all upstreams.
pub fn isolation_findings(severity: &'static str, count: usize) {
    // More than fit into 32 bits are as bad as that many.
    gauge!("pgtenant_isolation_findings", "severity" => severity)
        .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
}

/// The directory's tables were read.
pub fn directory_up() {
    gauge!("pgtenant_directory_up").set(1.0);
}

/// What became of their rows.
pub fn directory_rows(taken: usize, left_out: usize) {
    for (state, count) in [("taken", taken), ("left_out", left_out)] {
        gauge!("pgtenant_directory_rows", "state" => state)
            .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}

/// They cannot be read.
pub fn directory_down() {
    gauge!("pgtenant_directory_up").set(0.0);
}

/// Both probes of the canary saw what they should.
pub fn canary_up() {
    canary_walked(1.0);
}

/// They did not.
pub fn canary_down() {
    canary_walked(0.0);
}

fn canary_walked(up: f64) {
    gauge!("pgtenant_canary_up").set(up);
    // The series is there before it is needed, so that an alert on its increase works.
    counter!("pgtenant_canary_trips_total").increment(0);
}

/// A probe of the canary saw another tenant.
pub fn canary_tripped() {
    counter!("pgtenant_canary_trips_total").increment(1);
}

/// A hand-over failed, or the context function refused a statement.
pub fn context_error() {
    counter!("pgtenant_context_errors_total").increment(1);
}

/// A server answered another statement than the one that was due.
pub fn shifted_answer() {
    counter!("pgtenant_shifted_answers_total").increment(1);
}

/// A server was handed over.
#[derive(Clone)]
pub struct ContextSwitches(Counter);

impl std::fmt::Debug for ContextSwitches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContextSwitches")
    }
}

impl Default for ContextSwitches {
    fn default() -> Self {
        // The series are there before they are needed, so that an alert on their increase works.
        counter!("pgtenant_context_errors_total").increment(0);
        counter!("pgtenant_shifted_answers_total").increment(0);
        Self(counter!("pgtenant_context_switches_total"))
    }
}

impl ContextSwitches {
    /// One more.
    pub fn increment(&self) {
        self.0.increment(1);
    }
}

/// Gauges of one upstream's servers.
pub struct ServerGauges {
    idle: Gauge,
    used: Gauge,
}

impl ServerGauges {
    /// Those of one upstream.
    pub fn new(upstream: &str) -> Self {
        let upstream: Arc<str> = Arc::from(upstream);
        let label = || metrics::SharedString::from(Arc::clone(&upstream));
        Self {
            idle: gauge!("pgtenant_servers", "upstream" => label(), "state" => "idle"),
            used: gauge!("pgtenant_servers", "upstream" => label(), "state" => "used"),
        }
    }

    /// Adds to both; several pools of one upstream share the gauges.
    pub fn change(&self, idle: i32, used: i32) {
        if idle != 0 {
            self.idle.increment(f64::from(idle));
        }
        if used != 0 {
            self.used.increment(f64::from(used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_one_of_the_known_ones() {
        assert_eq!(class("42501"), "42");
        assert_eq!(class("57P01"), "57");
        assert_eq!(class("ZZ999"), "other");
        assert_eq!(class(""), "other");
    }

    #[test]
    fn alerts_look_at_counters_that_are_there_at_zero_and_at_known_classes() {
        let alerts = include_str!("../../deploy/alerts.yml");
        assert!(alerts.contains(&format!("{{rule=~\"{}\"}}", WATCHED_RULES.join("|"))), "the rules differ");
        // Its rows are held to the guard's own list.
        let errors = include_str!("../../docs/errors.md");
        for rule in WATCHED_RULES {
            let row = errors.lines().find(|line| line.starts_with(&format!("| `{rule}` |"))).unwrap();
            assert!(row.ends_with("| context | no |"), "{row}");
        }
        for found in alerts.split("class=\"").skip(1) {
            let class = found.split('"').next().unwrap();
            assert!(WATCHED_CLASSES.contains(&class), "class {class} is not there at zero");
        }
        assert!(WATCHED_CLASSES.iter().all(|class| CLASSES.contains(class)));
    }

    #[test]
    fn tenants_beyond_the_bound_share_one_label() {
        let labels = TenantLabels::new(2);
        let label = |name: &str| labels.of(Some(&TenantId::parse(name).unwrap())).label.to_string();
        assert_eq!([label("a"), label("b"), label("c"), label("a")], ["a", "b", OTHER, "a"]);
        assert_eq!(&*labels.of(None).label, NONE);
    }
}
