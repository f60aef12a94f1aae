//! One pool: servers of one upstream, database and role, shared by all tenants.
//! Promise: a checkout ends within the tenant's waiting time, a `Lease` always gives its slot back, and a
//! server that died while idle never reaches a client.

pub(in crate::upstream) mod login;
pub(in crate::upstream) mod defaults;
mod parting;
pub(in crate::upstream) mod senders;
pub(in crate::upstream) mod server;
pub(in crate::upstream) mod slots;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::names::TenantId;
use crate::observability::metrics::ServerGauges;
use crate::upstream::budget::ConnectionBudget;
use crate::upstream::deadline::Deadline;
use crate::upstream::error::UpstreamFault;
use defaults::{Newest, Others};
use login::Connector;
use server::Server;
use slots::{SlotGrant, Slots, Taken};

type PoolSlots = Slots<Box<Server>, Option<TenantId>, oneshot::Sender<Lease>>;

/// Servers of one upstream, database and role.
pub(super) struct Pool {
    connector: Connector,
    size: usize,
    budget: Arc<ConnectionBudget>,
    /// Servers of an older one are closed when they are given back.
    generation: AtomicU64,
    slots: Mutex<PoolSlots>,
    gauges: ServerGauges,
    defaults: Newest,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.connector.name())
    }
}

/// A pool as operators see it.
#[derive(Debug, Clone)]
pub struct PoolView {
    /// The upstream's name.
    pub upstream: String,
    /// The database there.
    pub database: String,
    /// The login role.
    pub user: String,
    /// The most servers.
    pub size: usize,
    /// Idle servers.
    pub idle: usize,
    /// Servers in use.
    pub used: usize,
    /// Clients in line.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub longest_wait: Duration,
    /// Every server: its process id, the client that had it last, and whether that still has it.
    pub servers: Vec<(u32, Option<u32>, bool)>,
}

/// Who asks for a server.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The tenant, none for maintenance.
    pub tenant: Option<&'a TenantId>,
    /// The client's process id as we made it up.
    pub client: server::ClientKey,
    /// The tenant's servers in this pool, at most.
    pub max_servers: usize,
    /// Until when it waits.
    pub deadline: Deadline,
}

impl Pool {
    /// An empty pool of at most `size` servers.
    pub(super) fn new(connector: Connector, size: usize, budget: Arc<ConnectionBudget>) -> Arc<Self> {
        let gauges = ServerGauges::new(connector.name());
        gauges.change(0, 0);
        let generation = AtomicU64::new(0);
        let slots = Mutex::new(Slots::new(size));
        let pool = Arc::new(Self {
            connector,
            size,
            budget,
            generation,
            slots,
            gauges,
            defaults: Newest::default(),
        });
        pool.budget.join(&pool);
        pool
    }

    /// Since when its longest idle server has been idle.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.lock().idle_ones().first().map(|server| server.idle_since)
    }

    /// Closes the server that has been idle longest.
    pub(super) fn shed(self: &Arc<Self>) {
        let mut first = true;
        self.close_idle(|_| std::mem::take(&mut first));
    }

    /// Closes servers that have been idle for so long; whether any is left, idle or used.
    pub(super) fn reap(self: &Arc<Self>, limit: Duration) -> bool {
        self.close_idle(|server| server.idle_since.elapsed() >= limit);
        let slots = self.lock();
        slots.idle() + slots.used() > 0
    }

    /// Whether a server has been idle for so long and was not reset since.
    pub(super) fn has_unreset(&self, idle_for: Duration) -> bool {
        let slots = self.lock();
        !slots.has_waiters() && slots.idle_ones().iter().any(|server| server.is_unreset(idle_for))
    }

    /// Takes such a server to reset it. It counts as one of nobody's meanwhile.
    pub(super) fn take_unreset(self: &Arc<Self>, idle_for: Duration) -> Option<Lease> {
        let mut slots = self.lock();
        let (idle, used) = (slots.idle(), slots.used());
        let server = slots.take_one(&None, |server| server.is_unreset(idle_for))?;
        self.note(idle, used, &slots);
        Some(Lease::new(self, None, Some(server)))
    }

    fn close_idle(self: &Arc<Self>, mut unwanted: impl FnMut(&Server) -> bool) {
        let mut closed = Vec::new();
        self.settle(|slots| closed = slots.take_idle(|server| unwanted(server)));
        drop(closed);
    }

    /// The pool as it is now.
    pub(super) fn view(&self) -> PoolView {
        let slots = self.lock();
        let (waiting, since) = slots.waiting();
        PoolView {
            upstream: self.connector.name().to_owned(),
            database: self.connector.database().to_owned(),
            user: self.connector.user().to_owned(),
            size: self.size,
            idle: slots.idle(),
            used: slots.used(),
            waiting,
            longest_wait: since.map(|since| since.elapsed()).unwrap_or_default(),
            servers: self.connector.senders().view(),
        }
    }

    /// Every server is closed: idle ones now, the others when they are given back.
    pub(super) fn renew(self: &Arc<Self>) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        let mut idle = Vec::new();
        self.settle(|slots| idle = slots.drain_idle());
        drop(idle);
    }

    /// Opens a server. The deadline is for the right to one more connection; reaching PostgreSQL has a time of its own.
    async fn connect(self: &Arc<Self>, deadline: Deadline) -> Result<Box<Server>, UpstreamFault> {
        let generation = self.generation.load(Ordering::Relaxed);
        let permit = self.budget.take(deadline).await?;
        let mut server = Box::new(self.connector.connect().await?);
        server.generation = generation;
        server.permit = Some(permit);
        let (defaults, others) = self.defaults.note(&server.state.parameters);
        server.state.defaults = defaults;
        if others == Others::Differ {
            tracing::warn!(
                pool = self.connector.name(),
                "new servers begin with other settings (ALTER ROLE, ALTER DATABASE, a reload): older ones are closed"
            );
            self.renew();
            server.generation = self.generation();
        }
        Ok(server)
    }

    /// Servers of an older one are closed when they are given back.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// How to reach this pool's `PostgreSQL`, for cancel requests.
    pub(super) const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Whether somebody waits for a server.
    pub(super) fn has_waiters(&self) -> bool {
        self.lock().has_waiters()
    }

    /// Takes a server: this client's own or its tenant's if one is idle, a new one, anybody's, or waits.
    /// Cancel safe: whatever was granted is given back.
    pub(super) async fn checkout(self: &Arc<Self>, asker: Asker<'_>) -> Result<Lease, UpstreamFault> {
        let mut lease = match self.take_or_wait(asker) {
            Ok(lease) => lease,
            Err((place, receiver)) => {
                let granted = asker.deadline.wait(receiver).await;
                drop(place);
                granted.map_err(|_| UpstreamFault::QueueTimeout)?.map_err(|_| UpstreamFault::QueueTimeout)?
            }
        };
        if let Some(server) = &mut lease.server
            && !server.is_alive().await
        {
            // Died while idle: the slot stays, the server is replaced.
            lease.server = None;
        }
        if lease.server.is_none() {
            // Boxed, because this rare path must not make every waiting client's task large.
            lease.server = Some(Box::pin(self.connect(asker.deadline)).await?);
        }
        Ok(lease)
    }

    /// Takes what is there now, or a place in line.
    fn take_or_wait(
        self: &Arc<Self>,
        asker: Asker<'_>,
    ) -> Result<Lease, (PlaceInLine, oneshot::Receiver<Lease>)> {
        let tenant = asker.tenant.cloned();
        let mut slots = self.lock();
        let (before_idle, before_used) = (slots.idle(), slots.used());
        let taken = slots.take(&tenant, asker.max_servers, |server| server.rank(asker));
        self.note(before_idle, before_used, &slots);
        match taken {
            Taken::Server(server) => Ok(Lease::new(self, tenant, Some(server))),
            Taken::Open => Ok(Lease::new(self, tenant, None)),
            Taken::Wait => {
                let (sender, receiver) = oneshot::channel();
                let ticket = slots.wait(&tenant, asker.max_servers, Instant::now(), sender);
                Err((PlaceInLine { pool: Arc::clone(self), tenant, ticket }, receiver))
            }
        }
    }

    /// Changes the slots, then serves whoever can be served.
    fn settle(self: &Arc<Self>, change: impl FnOnce(&mut PoolSlots)) {
        let mut unwanted = Vec::new();
        {
            let mut slots = self.lock();
            let (idle, used) = (slots.idle(), slots.used());
            change(&mut slots);
            while let Some((tenant, waiter, grant)) =
                slots.serve(Instant::now(), |server, tenant| server.was_of(tenant.as_ref()))
            {
                let server = match grant {
                    SlotGrant::Server(server) => Some(server),
                    SlotGrant::Open => None,
                };
                if let Err(mut lease) = waiter.send(Lease::new(self, tenant.clone(), server)) {
                    // The waiter left in this moment; undo by hand, for the lock is ours.
                    match lease.disarm() {
                        Some(server) => slots.give_back(&tenant, server),
                        None => slots.close(&tenant),
                    }
                    unwanted.push(lease);
                }
            }
            self.note(idle, used, &slots);
        }
        drop(unwanted);
    }

    fn note(&self, idle: usize, used: usize, slots: &PoolSlots) {
        let difference = |now: usize, before: usize| {
            i32::try_from(now).unwrap_or(i32::MAX) - i32::try_from(before).unwrap_or(i32::MAX)
        };
        self.gauges.change(difference(slots.idle(), idle), difference(slots.used(), used));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PoolSlots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the waiting line, left on drop.
#[derive(Debug)]
struct PlaceInLine {
    pool: Arc<Pool>,
    tenant: Option<TenantId>,
    ticket: u64,
}

impl Drop for PlaceInLine {
    fn drop(&mut self) {
        self.pool.lock().leave(&self.tenant, self.ticket);
    }
}

/// A slot and, once it is open, its server. Dropped before use it gives the server back; dropped in use it
/// closes it.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    tenant: Option<TenantId>,
    server: Option<Box<Server>>,
    state: LeaseState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    Untouched,
    InUse,
    /// In use by a statement that cannot be stopped; others have its place in the pool.
    Overdue,
    Over,
}

impl Lease {
    fn new(pool: &Arc<Pool>, tenant: Option<TenantId>, server: Option<Box<Server>>) -> Self {
        Self { pool: Arc::clone(pool), tenant, server, state: LeaseState::Untouched }
    }

    /// The server, in use from here on.
    pub(super) fn server(&mut self) -> &mut Server {
        self.state = LeaseState::InUse;
        self.server.as_deref_mut().expect("checkout and replace leave a server here or fail")
    }

    /// Its pool.
    pub(super) const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Gives the server back for others. Only the one who knows that nothing is owed may call it.
    pub(super) fn release(mut self) {
        self.state = LeaseState::Over;
        let server = self.server.take();
        let current = self.pool.generation.load(Ordering::Relaxed);
        let mut server = server.filter(|server| server.generation == current);
        if let Some(server) = &mut server {
            server.state.sender.rests();
            server.state.notifications = Vec::new();
            server.idle_since = Instant::now();
        }
        match server {
            Some(server) => self.put_back(server),
            None => self.pool.settle(|slots| slots.close(&self.tenant)),
        }
    }

    /// Counts the slot as another tenant's; false if that tenant may have no more.
    pub(super) fn rebook(&mut self, tenant: Option<&TenantId>, limit: usize) -> bool {
        let tenant = tenant.cloned();
        let mut moved = false;
        // Whoever waits for the tenant that gives the slot up may be served now.
        self.pool.settle(|slots| moved = slots.rebook(&self.tenant, &tenant, limit));
        if moved {
            self.tenant = tenant;
        }
        moved
    }

    /// Closes the server but keeps the slot for a new one.
    pub(super) async fn replace(&mut self) -> Result<(), UpstreamFault> {
        self.server = None;
        let limit = self.pool.connector.hosts().1;
        self.server = Some(self.pool.connect(Deadline::of(limit)).await?);
        Ok(())
    }

    /// For whoever waits here; if nobody does, and another pool needs a connection, an idle one is closed for it.
    fn put_back(&self, server: Box<Server>) {
        self.pool.settle(|slots| slots.give_back(&self.tenant, server));
        if self.pool.budget.is_wanted() {
            self.pool.shed();
        }
    }

    fn disarm(&mut self) -> Option<Box<Server>> {
        self.state = LeaseState::Over;
        self.server.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, LeaseState::Over);
        let server = self.server.take();
        match (state, server) {
            (LeaseState::Over, _) => {}
            (LeaseState::Overdue, server) => {
                drop(server);
                self.pool.settle(|slots| slots.close_overdue(&self.tenant));
            }
            (LeaseState::Untouched, Some(server)) => {
                self.put_back(server);
            }
            (LeaseState::Untouched | LeaseState::InUse, server) => {
                drop(server);
                self.pool.settle(|slots| slots.close(&self.tenant));
            }
        }
    }
}
