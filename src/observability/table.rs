//! The contract: every metric by name, kind, labels and help.

/// Type of a metric, as Prometheus names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Seconds in buckets.
    Histogram,
}

/// One row of the contract: name, kind, labels, help.
pub type Description = (&'static str, MetricKind, &'static [&'static str], &'static str);

/// Every metric there is.
pub const ALL: &[Description] = &[
    (
        "pgtenant_query_duration_seconds",
        MetricKind::Histogram,
        &["tenant"],
        "From the client's request received to its ReadyForQuery sent",
    ),
    (
        "pgtenant_transaction_duration_seconds",
        MetricKind::Histogram,
        &["tenant"],
        "From checkout of a server to its release",
    ),
    ("pgtenant_queue_wait_seconds", MetricKind::Histogram, &["tenant"], "Wait for a server at checkout"),
    ("pgtenant_queries_total", MetricKind::Counter, &["tenant"], "Requests answered with ReadyForQuery"),
    (
        "pgtenant_errors_total",
        MetricKind::Counter,
        &["tenant", "class"],
        "ErrorResponses sent to clients, by SQLSTATE class",
    ),
    (
        "pgtenant_client_bytes_total",
        MetricKind::Counter,
        &["tenant", "direction"],
        "Bytes from (in) and to (out) clients after login",
    ),
    ("pgtenant_clients", MetricKind::Gauge, &["tenant"], "Logged-in clients"),
    (
        "pgtenant_servers",
        MetricKind::Gauge,
        &["upstream", "state"],
        "Server connections by state: idle, used",
    ),
    (
        "pgtenant_replication_connections",
        MetricKind::Gauge,
        &["upstream"],
        "Replication connections, each with a server of its own",
    ),
    (
        "pgtenant_memory_bytes",
        MetricKind::Gauge,
        &[],
        "Memory counted in listen.max_memory: unfinished messages, buffers, prepared statements",
    ),
    (
        "pgtenant_guard_refusals_total",
        MetricKind::Counter,
        &["tenant", "rule"],
        "Statements refused by the guard",
    ),
    (
        "pgtenant_pins_total",
        MetricKind::Counter,
        &["tenant", "reason"],
        "Clients pinned to a server, by what keeps them there",
    ),
    (
        "pgtenant_logins_total",
        MetricKind::Counter,
        &["outcome"],
        "Login attempts by outcome: ok, refused, failed",
    ),
    (
        "pgtenant_context_switches_total",
        MetricKind::Counter,
        &[],
        "Hand-overs of servers to another tenant or client",
    ),
    (
        "pgtenant_context_errors_total",
        MetricKind::Counter,
        &[],
        "Hand-overs that failed, and statements that the context function refused",
    ),
    (
        "pgtenant_shifted_answers_total",
        MetricKind::Counter,
        &[],
        "Servers closed because they answered another statement than the one that was due",
    ),
    (
        "pgtenant_isolation_findings",
        MetricKind::Gauge,
        &["severity"],
        "What the doctor found at all upstreams: critical, warning, advice",
    ),
    ("pgtenant_canary_up", MetricKind::Gauge, &[], "1 if both probes saw their own tenant at the last walk"),
    (
        "pgtenant_canary_trips_total",
        MetricKind::Counter,
        &[],
        "Probes that saw another tenant; one stops all tenants",
    ),
    (
        "pgtenant_directory_up",
        MetricKind::Gauge,
        &[],
        "1 as long as the tables of [directory] are read and changes to them are heard of",
    ),
    (
        "pgtenant_directory_rows",
        MetricKind::Gauge,
        &["state"],
        "Rows of the tables of [directory]: taken, left_out because something in them is wrong",
    ),
    ("pgtenant_build_info", MetricKind::Gauge, &["version"], "Always 1; the version is a label"),
];
