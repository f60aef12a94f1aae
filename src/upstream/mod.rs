//! The way to PostgreSQL. Promise: the only thing that leaves here is a [`TenantServer`], whose
//! transactions begin with the tenant's context; a bare server cannot be had.

mod budget;
mod context;
mod deadline;
mod error;
mod gate;
mod greetings;
mod idle_reset;
mod own;
mod pool;
mod question;
mod replication;
pub mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::directory::Limits;
use crate::names::{TenantId, UpstreamName};
use crate::secret::Secret;
use budget::ConnectionBudget;
pub use context::application::APPLICATION_NAME;
pub use context::{Context, Contexts, Expect, HandOver, Nonce, ServerSession, SessionParameters, Span};
use dashmap::DashMap;
pub use deadline::Deadline;
pub use error::{ConnectError, UpstreamFault};
use gate::Gate;
use greetings::Greetings;
pub use pool::PoolView;
pub use pool::defaults::Defaults;
pub(crate) use pool::login::Connector;
#[cfg(any(test, fuzzing))]
pub(crate) use pool::senders::Sender;
pub use pool::server::{
    BackendIdentity, ClientKey, ContextState, Deallocated, OtherRoles, Server, ServerState, StatementId,
    Temporary, Wear, prepared_name,
};
use pool::{Asker, Lease, Pool};
pub use question::{Answer, Question};
pub use replication::ReplicationServer;
use settings::UpstreamSettings;
use tokio::time::Instant;

/// What PostgreSQL reports to a client at login, by name.
pub type Greeting = Arc<BTreeMap<String, String>>;

/// All pools.
#[derive(Debug)]
pub struct Upstreams {
    settings: HashMap<UpstreamName, UpstreamSettings>,
    pools: DashMap<PoolKey, Arc<Shared>>,
    gate: Arc<Gate>,
    budgets: HashMap<UpstreamName, Arc<ConnectionBudget>>,
}

/// One pool and what was learned about it.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    gate: Arc<Gate>,
    greetings: Greetings,
    /// Held by the task that resets its idle servers.
    resetting: Arc<tokio::sync::Mutex<()>>,
}

/// Which pool: the upstream, and what of it is not the upstream's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    upstream: UpstreamName,
    database: Option<String>,
    schema: Option<String>,
    /// With its password: behind a change of that, a new pool logs in with the new one.
    role: Option<Role>,
}

/// Where on an upstream: its own database and role, unless said otherwise.
#[derive(Debug, Clone, Default)]
pub struct PoolTarget {
    /// Another database.
    pub database: Option<String>,
    /// A schema of its own.
    pub schema: Option<String>,
    /// Another role.
    pub role: Option<Role>,
    /// Whether it is one tenant's own, and small.
    pub is_tenants_own: bool,
}

/// A role other than the upstream's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Role {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Option<Secret<String>>,
}

/// What one tenant, or a maintenance user, may take of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Servers at one time.
    pub max_servers: usize,
    /// Until when it waits.
    pub deadline: Deadline,
}

impl Share {
    /// As a tenant's limits say, from now on.
    pub fn of(limits: &Limits) -> Self {
        Self::since(Instant::now(), limits)
    }

    /// The same for a request that has waited since then.
    pub fn since(arrived: Instant, limits: &Limits) -> Self {
        let deadline = Deadline::behind(arrived, limits.queue_timeout);
        Self { max_servers: limits.max_servers, deadline }
    }
}

impl Upstreams {
    /// The upstream of those who have no tenant: the only one, or the first by name.
    pub fn first(&self) -> Option<&UpstreamName> {
        self.settings.keys().min()
    }

    /// Whether an upstream has a database of that name configured.
    pub fn has_database(&self, name: &str) -> bool {
        self.settings.values().any(|settings| settings.database == name)
    }

    /// The database of an upstream.
    pub fn database_of(&self, upstream: &UpstreamName) -> Option<&String> {
        self.settings.get(upstream).map(|settings| &settings.database)
    }

    /// What is configured, by name.
    pub fn settings(&self) -> Vec<&UpstreamSettings> {
        let mut all: Vec<_> = self.settings.values().collect();
        all.sort_by_key(|settings| &settings.name);
        all
    }

    /// The pools that were opened, as they are now.
    pub fn view(&self) -> Vec<PoolView> {
        let mut all: Vec<_> = self.pools.iter().map(|entry| entry.value().pool.view()).collect();
        all.sort_by(|a, b| (&a.upstream, &a.database, &a.user).cmp(&(&b.upstream, &b.database, &b.user)));
        all
    }

    /// Every server is replaced: idle ones are closed now, the others when they are given back.
    pub fn renew(&self) {
        for entry in &self.pools {
            entry.value().pool.renew();
        }
    }

    /// Whoever wants a server waits from here on.
    pub fn pause(&self) {
        self.gate.shut();
    }

    /// Nobody waits at the gate any more.
    pub fn resume(&self) {
        self.gate.open();
    }

    /// Whether those who want a server wait.
    pub fn is_paused(&self) -> bool {
        self.gate.is_shut()
    }

    /// Pools are opened on demand, and have `max_connections` together.
    pub fn new(settings: impl IntoIterator<Item = UpstreamSettings>, max_connections: usize) -> Self {
        let settings: HashMap<_, _> = settings.into_iter().map(|one| (one.name.clone(), one)).collect();
        let whole = ConnectionBudget::new(max_connections);
        let budget = |one: &UpstreamSettings| (one.name.clone(), whole.part(one.max_connections));
        let budgets = settings.values().map(budget).collect();
        Self { settings, pools: DashMap::new(), gate: Arc::default(), budgets }
    }

    /// A client's way to its pool, under its context.
    pub fn access(
        &self,
        upstream: &UpstreamName,
        target: PoolTarget,
        context: Context,
    ) -> Result<Access, UpstreamFault> {
        let key = PoolKey {
            upstream: upstream.clone(),
            database: target.database.clone(),
            schema: target.schema.clone(),
            role: target.role.clone(),
        };
        let shared = match self.pools.entry(key) {
            dashmap::Entry::Occupied(known) => Arc::clone(known.get()),
            dashmap::Entry::Vacant(place) => {
                Arc::clone(&place.insert(Arc::new(self.open(upstream, target)?)))
            }
        };
        Ok(Access { shared, context })
    }

    fn open(&self, upstream: &UpstreamName, target: PoolTarget) -> Result<Shared, UpstreamFault> {
        let unknown = || UpstreamFault::Doubt("the upstream is not configured");
        let mut settings = self.settings.get(upstream).cloned().ok_or_else(unknown)?;
        let budget = self.budgets.get(upstream).cloned().ok_or_else(unknown)?;
        let size = if target.is_tenants_own { settings.tenant_pool_size } else { settings.pool_size };
        if let Some(database) = target.database {
            settings.database = database;
        }
        let mut connector = match target.role {
            None => Connector::new(settings)?,
            Some(role) => {
                let inherited = settings.password.clone().filter(|_| target.is_tenants_own);
                let password = role.password.or(inherited);
                Connector::with_role(settings, role.user, password)?
            }
        };
        if let Some(schema) = target.schema {
            connector = connector.with_schema(&schema);
        }
        let pool = Pool::new(connector, size, budget);
        Ok(Shared {
            pool,
            gate: Arc::clone(&self.gate),
            greetings: Greetings::default(),
            resetting: Arc::default(),
        })
    }

    /// Closes connections of pools other than the upstream's own that nobody has needed for a while, and forgets pools
    /// without any.
    pub fn reap(&self) {
        self.pools.retain(|key, shared| {
            let is_own = key.database.is_some() || key.schema.is_some() || key.role.is_some();
            let limit = self.settings.get(&key.upstream).map(|settings| settings.tenant_idle_timeout);
            let Some(limit) = limit.filter(|_| is_own) else { return true };
            // A client that is there has the pool in its hands.
            shared.pool.reap(limit) || Arc::strong_count(shared) > 1
        });
    }
}

/// One client's way to servers.
#[derive(Debug, Clone)]
pub struct Access {
    shared: Arc<Shared>,
    context: Context,
}

impl Access {
    /// Whose context its servers enter.
    pub const fn tenant(&self) -> Option<&TenantId> {
        self.context.tenant_id()
    }

    /// Whether a context is entered at all.
    pub const fn enters_context(&self) -> bool {
        self.context.enters()
    }

    /// Tells databases apart: where OIDs of types mean the same.
    pub fn place(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// The context that its servers enter.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn context(&self) -> &Context {
        &self.context
    }

    /// Whether somebody waits for a server of this pool.
    pub fn has_waiters(&self) -> bool {
        self.shared.pool.has_waiters()
    }

    /// Takes a server for a transaction. Cancel safe.
    pub async fn acquire(
        &self,
        client: ClientKey,
        parameters: &SessionParameters,
        share: Share,
    ) -> Result<TenantServer, UpstreamFault> {
        let lease = self.checkout(client, share).await?;
        let mut server = TenantServer { lease, context: self.context.clone() };
        let known = server.lease.server();
        if known.state.temporary == Temporary::Maybe && !known.was_of(self.context.tenant_id()) {
            Box::pin(server.lease.replace()).await?;
        }
        // Without a context there is nothing that would fail if the reset did, so its answer is waited for.
        if !self.context.enters() {
            Box::pin(server.prepare(client, parameters)).await?;
        }
        server.lease.server().state.sender.is(process_id_of(client));
        Ok(server)
    }

    /// Takes over a server in the middle of its transaction: from here on it is booked for this tenant and runs under
    /// its context, until its next hand-over.
    pub fn adopt(&self, server: &mut TenantServer, share: Share) -> Result<(), UpstreamFault> {
        if !Arc::ptr_eq(server.lease.pool(), &self.shared.pool) {
            return Err(UpstreamFault::Elsewhere);
        }
        if !server.lease.rebook(self.context.tenant_id(), share.max_servers) {
            return Err(UpstreamFault::TenantFull);
        }
        server.context = self.context.clone();
        server.lease.server().state.stamp = None;
        Ok(())
    }

    async fn checkout(&self, client: ClientKey, share: Share) -> Result<Lease, UpstreamFault> {
        self.shared.gate.pass(share.deadline).await?;
        let asker = Asker {
            tenant: self.context.tenant_id(),
            client,
            max_servers: share.max_servers,
            deadline: share.deadline,
        };
        self.shared.pool.checkout(asker).await
    }
}

/// The process id that a client was given; the rest of its key counts how often it discarded its state.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
pub const fn process_id_of(client: ClientKey) -> u32 {
    client as u32
}

/// A server in a client's hands. Dropped, it is closed; only `release` gives it to others.
#[derive(Debug)]
pub struct TenantServer {
    lease: Lease,
    context: Context,
}

impl TenantServer {
    /// The server, to read from and to write to once the transaction has begun.
    pub fn server(&mut self) -> &mut Server {
        self.lease.server()
    }

    /// Whether a context is entered in front of each transaction.
    pub const fn enters_context(&self) -> bool {
        self.context.enters()
    }

    /// The server has these parameters, as it said itself.
    pub fn believes(&mut self, parameters: &SessionParameters) {
        if let Some(stamp) = &mut self.lease.server().state.stamp {
            stamp.parameters = parameters.fingerprint();
        }
    }

    /// Its session has what nobody is to have there: it needs a hand-over.
    pub fn doubts(&mut self) {
        self.lease.server().state.stamp = None;
    }

    /// Whether it serves this tenant.
    pub fn is_of(&self, tenant: Option<&TenantId>) -> bool {
        self.context.tenant_id() == tenant
    }

    /// Gives the server back. The caller knows: nothing is owed, and the last status was idle.
    pub fn release(self) {
        self.lease.release();
    }

    /// Closes this server and takes a new one in its slot.
    pub async fn replace(&mut self) -> Result<(), UpstreamFault> {
        self.lease.replace().await
    }

    /// Stops whatever runs on it and closes it; over when PostgreSQL's process is gone, and its slot free then.
    pub fn end(self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.end()
    }

    /// How to stop what runs on it.
    pub fn canceller(&mut self) -> Canceller {
        let (address, process_id, key) = self.lease.server().cancel_target();
        Canceller { pool: Arc::clone(self.lease.pool()), address, process_id, key }
    }

    /// Takes away what a client that has left still has on the server (its transaction, and whatever it left in the
    /// session), and gives the server back. A server that fails to do so within `OWN_STATEMENT_TIMEOUT` is closed.
    pub async fn clean_and_release(mut self) {
        match self.clean().await {
            Ok(()) => self.lease.release(),
            Err(error) => {
                tracing::debug!(%error, "a server was closed: what its client left could not be taken away");
            }
        }
    }

    /// Waits out a cancel signal that may still be on its way: it may hit this empty query, nothing else.
    pub async fn settle(&mut self) -> Result<(), UpstreamFault> {
        match self.run_own(b"").await {
            Err(UpstreamFault::Parameters { sqlstate, .. }) if sqlstate == "57014" => {
                self.run_own(b"").await.map(drop)
            }
            outcome => outcome.map(drop),
        }
    }
}

/// A server as the relay sees it: what is known of its session, and the buffer towards it. There is no socket in it.
pub trait ServerSide {
    /// What is known of its session.
    fn state(&mut self) -> &mut ServerState;
    /// The same with the buffer towards it and the context that it runs under.
    fn parts(&mut self) -> (&mut ServerState, &mut Vec<u8>, &Context);
    /// The context that it runs under.
    fn context(&self) -> &Context;
    /// Books it for another tenant in the middle of a transaction, and runs it under that tenant's context.
    fn adopt(&mut self, access: &Access, share: Share) -> Result<(), UpstreamFault>;
    /// Prepared statements kept on it.
    fn max_prepared(&self) -> usize;
    /// Whether the buffer towards it takes more.
    fn has_room(&mut self) -> bool;
}

impl ServerSide for TenantServer {
    fn state(&mut self) -> &mut ServerState {
        &mut self.lease.server().state
    }

    fn parts(&mut self) -> (&mut ServerState, &mut Vec<u8>, &Context) {
        let server = self.lease.server();
        (&mut server.state, server.channel.output.space(), &self.context)
    }

    fn context(&self) -> &Context {
        &self.context
    }

    fn adopt(&mut self, access: &Access, share: Share) -> Result<(), UpstreamFault> {
        access.adopt(self, share)
    }

    fn max_prepared(&self) -> usize {
        self.lease.pool().connector().max_prepared()
    }

    fn has_room(&mut self) -> bool {
        !self.lease.server().channel.output.is_full()
    }
}

/// Stops what one server process runs.
#[derive(Debug)]
pub struct Canceller {
    pool: Arc<Pool>,
    address: settings::ServerAddress,
    process_id: u32,
    key: Vec<u8>,
}

impl Canceller {
    /// Sends the request and waits until the server has taken it.
    pub async fn cancel(self) {
        let sent = self.pool.connector().cancel(&self.address, self.process_id, &self.key).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "a cancel request did not reach the server");
        }
    }
}
