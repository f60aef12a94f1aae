//! The sealed context: a proof, made for one hand-over of one server process, that a function of the database verifies
//! before it enters a tenant's context. What the function leaves in its register no SQL of the login role can write, so
//! the context holds until the next hand-over and no statement needs a proof of its own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::directory::SealKey;
use crate::names::TenantId;
use crate::seal::hand_over_proof;
use crate::upstream::context::statement::{self, Nonce};
use crate::upstream::pool::server::ServerState;

/// How long a proof holds, by the server's clock. It must outlive the way to the server and the wait for what runs there
/// in front of it, and nothing else.
const LIFETIME: Duration = Duration::from_secs(30);

/// The key that proofs are made with.
#[derive(Debug)]
pub(crate) struct Seal(ArcSwap<SealKey>);

impl Seal {
    pub(super) fn new(key: SealKey) -> Self {
        Self(ArcSwap::from_pointee(key))
    }

    pub(super) fn replace(&self, key: SealKey) {
        if **self.0.load() != key {
            self.0.store(Arc::new(key));
        }
    }

    /// Writes the entry of a hand-over, with what its reset leaves to it.
    pub(super) fn write_entry(
        &self,
        (state, out): (&ServerState, &mut Vec<u8>),
        tenant: &TenantId,
        nonce: &Nonce,
        calls: &[String],
    ) {
        statement::enter_sealed(out, (tenant.as_str(), &self.proof(state, tenant, nonce)), calls);
    }

    /// Writes an entry inside a client's transaction.
    pub(super) fn write_entry_beside(
        &self,
        state: &ServerState,
        out: &mut Vec<u8>,
        tenant: &TenantId,
        nonce: &Nonce,
    ) {
        statement::enter_sealed_beside(out, nonce, tenant.as_str(), &self.proof(state, tenant, nonce));
    }

    fn proof(&self, state: &ServerState, tenant: &TenantId, nonce: &Nonce) -> String {
        let identity = state.identity();
        let expiry = identity.epoch_seconds(Instant::now()).saturating_add(LIFETIME.as_secs());
        hand_over_proof(&self.0.load(), tenant.as_str(), identity.backend_pid, expiry, nonce.as_str())
    }
}
