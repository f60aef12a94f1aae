//! What an operator can set about metrics and logs.

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// `host:port` of /metrics, /healthz and /readyz.
    pub address: String,
    /// Tenants with a series of their own; the rest share `tenant="_other"`.
    pub max_tenants: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// A `tracing` filter, for example `info` or `info,pgtenant::session=debug`.
    pub level: String,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}
