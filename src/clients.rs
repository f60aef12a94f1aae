//! Who is connected: each client's process id and cancel key as we made them up, and a signal to it.
//! Promise: a cancel request reaches only the client that knows the key; what happens then is decided by
//! that client's own task, which knows what runs on its server.

mod tenant;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Context;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use atomic_waker::AtomicWaker;
use dashmap::DashMap;
use rand::Rng as _;
use subtle::ConstantTimeEq as _;

use crate::directory::{Directory, Tenant};
use crate::names::{TenantId, UserName};
use tenant::TenantState;
pub use tenant::{NoSeat, PinnedSeat, TenantSeat, TenantStatus, Turn};

/// How often is looked whether a tenant is quiet.
const LOOK: Duration = Duration::from_millis(2);

const CANCEL: u8 = 1;
const LEAVE: u8 = 2;
const LEAVE_NOW: u8 = 4;
const EXPIRED: u8 = 8;

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    by_process_id: DashMap<u32, Arc<Client>>,
    by_tenant: DashMap<TenantId, Arc<TenantState>>,
    /// What all clients of one tenant may keep in memory, in bytes; zero: no limit.
    max_tenant_memory: usize,
}

/// One client as others see it.
#[derive(Debug)]
pub struct Client {
    process_id: u32,
    key: Vec<u8>,
    user: UserName,
    tenant: ArcSwapOption<TenantId>,
    flags: AtomicU8,
    waker: AtomicWaker,
    address: Option<SocketAddr>,
    since: SystemTime,
    /// When what it has logged in with is no proof any more.
    expires: Option<SystemTime>,
    activity: AtomicU8,
    pin: ArcSwapOption<PinView>,
}

/// What a client does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// It has no transaction.
    Idle,
    /// It waits for a server.
    Waiting,
    /// It has a server.
    Active,
}

/// Why a client keeps its server, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinView {
    /// What is on the server.
    pub reasons: String,
    /// The beginning of the statement that made the first of it.
    pub statement: Box<str>,
    /// Since when.
    pub since: SystemTime,
}

/// A client as operators see it.
#[derive(Debug, Clone)]
pub struct ClientView {
    /// The process id that it was given.
    pub process_id: u32,
    /// Its login name.
    pub user: UserName,
    /// The tenant that it acts for.
    pub tenant: Option<TenantId>,
    /// Where it comes from; none: a unix socket.
    pub address: Option<SocketAddr>,
    /// When it logged in.
    pub since: SystemTime,
    /// What it does.
    pub activity: Activity,
    /// Why it keeps its server.
    pub pin: Option<Arc<PinView>>,
}

/// What a client was told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Leave as soon as no transaction is under way.
    Leave,
    /// The same, because its token has expired.
    Expire,
    /// Leave at once.
    LeaveNow,
}

impl Clients {
    /// None yet. `max_tenant_memory`: what all clients of one tenant may keep in memory, in bytes; zero: no limit.
    pub fn new(max_tenant_memory: usize) -> Self {
        Self { max_tenant_memory, ..Self::default() }
    }

    /// Registers a client under a new process id of 31 bits, which is as much as every driver takes.
    pub fn register(
        self: &Arc<Self>,
        user: UserName,
        tenant: Option<TenantId>,
        key_bytes: usize,
        (address, expires): (Option<SocketAddr>, Option<SystemTime>),
    ) -> Membership {
        let mut rng = rand::rng();
        loop {
            let process_id = rng.random_range(1..=0x7fff_ffff);
            if let dashmap::Entry::Vacant(place) = self.by_process_id.entry(process_id) {
                let mut key = vec![0; key_bytes];
                rng.fill(&mut key[..]);
                let client = Arc::new(Client {
                    process_id,
                    key,
                    user,
                    tenant: ArcSwapOption::from_pointee(tenant),
                    flags: AtomicU8::new(0),
                    waker: AtomicWaker::new(),
                    address,
                    since: SystemTime::now(),
                    expires,
                    activity: AtomicU8::new(0),
                    pin: ArcSwapOption::empty(),
                });
                place.insert(Arc::clone(&client));
                return Membership { clients: Arc::clone(self), client };
            }
        }
    }

    /// Counts one client of a tenant.
    pub fn join_tenant(&self, tenant: &Tenant) -> Result<TenantSeat, NoSeat> {
        TenantState::join(&self.state_of(tenant))
    }

    fn state_of(&self, tenant: &Tenant) -> Arc<TenantState> {
        let state = self.by_tenant.entry(tenant.id.clone());
        Arc::clone(
            &state.or_insert_with(|| Arc::new(TenantState::new(tenant.limits, self.max_tenant_memory))),
        )
    }

    /// What a tenant's clients may do from here on, until it is changed again or the proxy ends. False: it is being
    /// moved, and stays as it is.
    #[must_use]
    pub fn set_status(&self, tenant: &Tenant, status: TenantStatus) -> bool {
        let done = self.state_of(tenant).set(status);
        self.wake();
        done
    }

    /// Holds a tenant's transactions back until the hold is dropped; none if somebody holds it already.
    pub fn hold(self: &Arc<Self>, tenant: &Tenant) -> Option<Hold> {
        let state = self.state_of(tenant);
        let before = state.hold()?;
        Some(Hold { clients: Arc::clone(self), state, before })
    }

    /// Waits until a tenant has no transaction under way; false if that took longer than `limit`.
    pub async fn quiet(&self, tenant: &Tenant, limit: Duration) -> bool {
        let state = self.state_of(tenant);
        let quiet = async {
            while state.is_busy() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, quiet).await.is_ok()
    }

    /// A tenant's status, its clients, and how many of them are pinned.
    pub fn view_tenant(&self, tenant: &TenantId) -> (TenantStatus, usize, usize) {
        self.by_tenant.get(tenant).map_or_else(Default::default, |state| state.view())
    }

    /// All clients as they are now.
    pub fn view(&self) -> Vec<ClientView> {
        self.by_process_id.iter().map(|entry| entry.value().view()).collect()
    }

    /// A cancel request came in. Wrong ones are ignored, as PostgreSQL does.
    pub fn cancel(&self, process_id: u32, key: &[u8]) {
        let client = self.by_process_id.get(&process_id).map(|entry| Arc::clone(entry.value()));
        if let Some(client) = client.filter(|client| bool::from(client.key.ct_eq(key))) {
            client.raise(CANCEL);
        }
    }

    /// Gives an order to all clients whose user answers the question with yes.
    pub fn order(&self, order: Order, whom: impl Fn(&UserName, Option<&TenantId>) -> bool) -> usize {
        let flag = match order {
            Order::Leave => LEAVE,
            Order::Expire => EXPIRED,
            Order::LeaveNow => LEAVE | LEAVE_NOW,
        };
        let chosen = self.chosen(whom);
        for client in &chosen {
            client.raise(flag);
        }
        chosen.len()
    }

    /// Tells those to leave whose token has expired; returns how many there are.
    pub fn expire(&self, now: SystemTime) -> usize {
        let is_over = |client: &Client| client.expires.is_some_and(|expires| expires <= now);
        let over: Vec<Arc<Client>> = self
            .by_process_id
            .iter()
            .filter(|entry| is_over(entry.value()))
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        for client in &over {
            client.raise(EXPIRED);
        }
        over.len()
    }

    /// Has every client look around itself; returns how many there are.
    pub fn wake(&self) -> usize {
        // Nothing is waked while the map is held.
        let all = self.chosen(|_, _| true);
        for client in &all {
            client.waker.wake();
        }
        all.len()
    }

    fn chosen(&self, whom: impl Fn(&UserName, Option<&TenantId>) -> bool) -> Vec<Arc<Client>> {
        self.by_process_id
            .iter()
            .filter(|entry| whom(&entry.value().user, entry.value().tenant.load().as_deref()))
            .map(|entry| Arc::clone(entry.value()))
            .collect()
    }

    /// The directory was replaced: limits hold from each client's next transaction on, and so do the new places of
    /// tenants that moved. Returns how many moved. The new one must be what [`join_tenant`](Self::join_tenant)'s
    /// callers see already.
    pub fn follow(&self, old: &Directory, new: &Directory) -> usize {
        let mut moved = 0;
        self.by_tenant.retain(|id, state| {
            let (was, is) = (old.tenants.get(id), new.tenants.get(id));
            if let Some(is) = is {
                state.limit(is.limits);
                if was.is_some_and(|was| !was.is_where(is)) {
                    state.moved();
                    moved += 1;
                }
            }
            is.is_some() || !state.is_forgettable()
        });
        if moved > 0 {
            self.wake();
        }
        moved
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_process_id.len()
    }
}

impl Client {
    /// The process id that the client was given.
    pub const fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Where it comes from; none: a unix socket.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What it does from here on.
    pub fn does(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    /// Why it keeps its server from here on, if it does.
    pub fn shows_pin(&self, pin: Option<PinView>) {
        self.pin.store(pin.map(Arc::new));
    }

    fn view(&self) -> ClientView {
        ClientView {
            process_id: self.process_id,
            user: self.user.clone(),
            tenant: self.tenant.load().as_deref().cloned(),
            address: self.address,
            since: self.since,
            activity: match self.activity.load(Ordering::Relaxed) {
                1 => Activity::Waiting,
                2 => Activity::Active,
                _ => Activity::Idle,
            },
            pin: self.pin.load_full(),
        }
    }

    /// The tenant that it acts for from here on.
    pub fn acts_for(&self, tenant: Option<&TenantId>) {
        if self.tenant.load().as_deref() != tenant {
            self.tenant.store(tenant.cloned().map(Arc::new));
        }
    }

    /// The key that it was given.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    fn raise(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Wakes the task of `cx` when something is raised from now on.
    pub fn listen(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Whether a cancel request waits.
    pub fn is_cancelled(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CANCEL != 0
    }

    /// The cancel request was carried out, or there is nothing to cancel.
    pub fn clear_cancel(&self) {
        self.flags.fetch_and(!CANCEL, Ordering::AcqRel);
    }

    /// What it was told to do.
    pub fn order(&self) -> Option<Order> {
        match self.flags.load(Ordering::Acquire) {
            flags if flags & LEAVE_NOW != 0 => Some(Order::LeaveNow),
            flags if flags & LEAVE != 0 => Some(Order::Leave),
            flags if flags & EXPIRED != 0 => Some(Order::Expire),
            _ => None,
        }
    }
}

/// Keeps a client registered for as long as it lives.
#[derive(Debug)]
pub struct Membership {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Membership {
    /// The client.
    pub const fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.clients.by_process_id.remove(&self.client.process_id);
    }
}

/// Holds a tenant's transactions back. Dropped, its status is what it was, and its clients go on.
#[derive(Debug)]
pub struct Hold {
    clients: Arc<Clients>,
    state: Arc<TenantState>,
    before: TenantStatus,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.release(self.before);
        self.clients.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_needs_the_right_key() {
        let clients = Arc::new(Clients::default());
        let member = clients.register(UserName::parse("a").unwrap(), None, 4, (None, None));
        let client = Arc::clone(member.client());
        clients.cancel(client.process_id(), b"wrong");
        clients.cancel(client.process_id() ^ 1, client.key());
        assert!(!client.is_cancelled());
        clients.cancel(client.process_id(), client.key());
        assert!(client.is_cancelled());
        drop(member);
        assert_eq!(clients.count(), 0);
    }

    #[test]
    fn a_client_expires_with_its_token_and_not_before() {
        let clients = Arc::new(Clients::default());
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let member = clients.register(UserName::parse("a").unwrap(), None, 4, (None, Some(end)));
        let lasting = clients.register(UserName::parse("a").unwrap(), None, 4, (None, None));
        assert_eq!(clients.expire(end - Duration::from_secs(1)), 0);
        assert_eq!(member.client().order(), None);
        assert_eq!(clients.expire(end), 1);
        assert_eq!((member.client().order(), lasting.client().order()), (Some(Order::Expire), None));
    }
}
