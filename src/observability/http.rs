//! `/metrics`, `/healthz` and `/readyz` on the metrics address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::observability::metrics::Exporter;

/// Whether new clients are welcome; false while draining.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// New clients are welcome.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// They are not.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, exporter: Exporter, ready: Ready) -> std::io::Result<()> {
    let router = Router::new()
        .route(
            "/metrics",
            get(move || async move {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exporter.render())
            }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.0.load(Ordering::Relaxed) {
                    "ready\n".into_response()
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
                }
            }),
        );
    axum::serve(listener, router).await
}
