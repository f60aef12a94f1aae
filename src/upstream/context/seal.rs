//! The sealed context: a proof, made for one server process and a few seconds, that the function
//! `pgtenant.enter` verifies inside PostgreSQL before any policy believes the tenant.
//! A proof is kept with its server and used again while it is young, so that most transactions cost no hash.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::directory::SealKey;
use crate::names::TenantId;
use crate::seal::proof;
use crate::upstream::context::statement;
use crate::upstream::pool::server::Server;

/// How long a proof holds, by the server's clock. It must outlive the way to the server and the wait behind what
/// runs there in front of it, and nothing else.
const LIFETIME: Duration = Duration::from_secs(30);
/// How long one is used before another is made.
const FRESH: Duration = Duration::from_secs(10);

/// The key that proofs are made with.
#[derive(Debug)]
pub(crate) struct Seal(ArcSwap<SealKey>);

/// The frames that enter a context, with a proof in them.
#[derive(Debug)]
pub struct SealedFrames {
    tenant: TenantId,
    key: Arc<SealKey>,
    fresh_until: Instant,
    entry: statement::Entry,
}

// === impl Seal ===

impl Seal {
    pub(super) fn new(key: SealKey) -> Self {
        Self(ArcSwap::from_pointee(key))
    }

    pub(super) fn replace(&self, key: SealKey) {
        if **self.0.load() != key {
            self.0.store(Arc::new(key));
        }
    }

    /// Writes the frames that enter the tenant's context on this server.
    pub(super) fn write_enter(&self, server: &mut Server, tenant: &TenantId) {
        let key = self.0.load();
        let now = Instant::now();
        let made = match server.sealed.take() {
            Some(made)
                if made.tenant == *tenant && made.fresh_until > now && Arc::ptr_eq(&made.key, &key) =>
            {
                made
            }
            _ => SealedFrames::new(server, tenant, Arc::clone(&key), now),
        };
        made.entry.write(server);
        server.sealed = Some(made);
    }
}

// === impl SealedFrames ===

impl SealedFrames {
    fn new(server: &Server, tenant: &TenantId, key: Arc<SealKey>, now: Instant) -> Self {
        let identity = server.identity();
        let expiry = identity.epoch_seconds(now).saturating_add(LIFETIME.as_secs());
        let proof = proof(&key, tenant.as_str(), identity.backend_pid, expiry);
        let entry = statement::enter_sealed(tenant.as_str(), &proof);
        Self { tenant: tenant.clone(), key, fresh_until: now + FRESH, entry }
    }
}
