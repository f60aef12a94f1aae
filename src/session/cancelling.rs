//! A cancel request may hit whatever runs on its server when it arrives: its effect is waited out before anything else runs.

use tokio::task::JoinHandle;

use crate::upstream::TenantServer;

/// Waits until a cancel request has done its work, so that it cannot hit the next statement.
pub(super) async fn settle(server: &mut TenantServer, cancelling: JoinHandle<()>) -> bool {
    if cancelling.await.is_err() {
        return false;
    }
    match server.settle().await {
        Ok(()) => true,
        Err(fault) => {
            tracing::warn!(%fault, "a server was closed: its state after a cancel request is in doubt");
            false
        }
    }
}
