//! Structured logs to standard error, as text or JSON. A writer thread of its own takes the lines from a
//! bounded queue and loses lines rather than make a connection wait.

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::observability::settings::{LogFormat, LogSettings};

/// Lines that may wait for the writer.
const QUEUE_LINES: usize = 16 * 1024;

/// Starts logging; lines flow until the guard is dropped.
pub fn start(settings: &LogSettings) -> Result<WorkerGuard, Box<dyn std::error::Error + Send + Sync>> {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES).finish(std::io::stderr());
    let filter = EnvFilter::try_new(&settings.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    match settings.format {
        LogFormat::Text => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(guard)
}
