//! What operators see: metrics, logs and the small HTTP service that shows them.
//! Promise: nothing here can block or stop a connection, and every label set is bounded.

pub mod http;
pub mod logging;
pub mod metrics;
pub mod settings;
pub mod table;
