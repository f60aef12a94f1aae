//! Who is connected: each client's process id and cancel key as we made them up, and a signal to it.
//! Promise: a cancel request reaches only the client that knows the key; what happens then is decided by
//! that client's own task, which knows what runs on its server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::Context;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use atomic_waker::AtomicWaker;
use dashmap::DashMap;
use rand::Rng as _;
use subtle::ConstantTimeEq as _;

use crate::directory::{Directory, Limits, Tenant};
use crate::names::{TenantId, UserName};

const CANCEL: u8 = 1;
const LEAVE: u8 = 2;
const LEAVE_NOW: u8 = 4;
const EXPIRED: u8 = 8;

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    by_process_id: DashMap<u32, Arc<Client>>,
    by_tenant: DashMap<TenantId, Arc<TenantState>>,
}

/// What all clients of a tenant share.
#[derive(Debug)]
struct TenantState {
    clients: AtomicUsize,
    pins: AtomicUsize,
    status: AtomicU8,
    limits: ArcSwap<Limits>,
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

/// Whether a tenant's clients may do anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TenantStatus {
    /// They may.
    #[default]
    Active,
    /// Their statements are refused from their next transaction on, and their logins.
    Suspended,
    /// They are told to leave when their transaction is over, and not let in.
    Draining,
}

impl TenantStatus {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Suspended,
            2 => Self::Draining,
            _ => Self::Active,
        }
    }

    /// The word for operators.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
        }
    }
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
        let state = self.state_of(&tenant.id, tenant.limits);
        match TenantStatus::of(state.status.load(Ordering::Relaxed)) {
            TenantStatus::Active if count_one(&state.clients, tenant.limits.max_clients) => {
                Ok(TenantSeat(state))
            }
            TenantStatus::Active => Err(NoSeat::Full),
            status @ (TenantStatus::Suspended | TenantStatus::Draining) => Err(NoSeat::Closed(status)),
        }
    }

    fn state_of(&self, tenant: &TenantId, limits: Limits) -> Arc<TenantState> {
        let state = self.by_tenant.entry(tenant.clone()).or_insert_with(|| {
            Arc::new(TenantState {
                clients: AtomicUsize::new(0),
                pins: AtomicUsize::new(0),
                status: AtomicU8::new(0),
                limits: ArcSwap::from_pointee(limits),
            })
        });
        Arc::clone(&state)
    }

    /// What a tenant's clients may do from here on; until it is changed again or the proxy ends.
    pub fn set_status(&self, tenant: &Tenant, status: TenantStatus) {
        self.state_of(&tenant.id, tenant.limits).status.store(status as u8, Ordering::Relaxed);
    }

    /// A tenant's status, its clients, and how many of them are pinned.
    pub fn view_tenant(&self, tenant: &TenantId) -> (TenantStatus, usize, usize) {
        let state = self.by_tenant.get(tenant);
        state.map_or_else(Default::default, |state| {
            let status = TenantStatus::of(state.status.load(Ordering::Relaxed));
            (status, state.clients.load(Ordering::Relaxed), state.pins.load(Ordering::Relaxed))
        })
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
        let chosen: Vec<Arc<Client>> = self
            .by_process_id
            .iter()
            .filter(|entry| whom(&entry.value().user, entry.value().tenant.load().as_deref()))
            .map(|entry| Arc::clone(entry.value()))
            .collect();
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
        let all: Vec<Arc<Client>> =
            self.by_process_id.iter().map(|entry| Arc::clone(entry.value())).collect();
        for client in &all {
            client.waker.wake();
        }
        all.len()
    }

    /// The limits of tenants changed; their clients see it at their next transaction.
    pub fn update_limits(&self, directory: &Directory) {
        for entry in &self.by_tenant {
            if let Some(tenant) = directory.tenants.get(entry.key()) {
                entry.value().limits.store(Arc::new(tenant.limits));
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_process_id.len()
    }
}

/// Why a client cannot act for a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSeat {
    /// The tenant has as many clients as it may have.
    Full,
    /// Its status.
    Closed(TenantStatus),
}

/// One more, unless that would be one too many.
fn count_one(count: &AtomicUsize, limit: usize) -> bool {
    let more = |now| (now < limit).then_some(now + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
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

/// One of a tenant's client connections.
#[derive(Debug)]
pub struct TenantSeat(Arc<TenantState>);

impl TenantSeat {
    /// The tenant's limits as they are now.
    pub fn limits(&self) -> Limits {
        **self.0.limits.load()
    }

    /// What the tenant's clients may do now.
    pub fn status(&self) -> TenantStatus {
        TenantStatus::of(self.0.status.load(Ordering::Relaxed))
    }

    /// Counts one pinned client of the tenant; none if that would be one too many.
    pub fn pin(&self) -> Option<PinnedSeat> {
        count_one(&self.0.pins, self.limits().max_pins).then(|| PinnedSeat(Arc::clone(&self.0)))
    }
}

/// One of a tenant's clients that are pinned to a server.
#[derive(Debug)]
pub struct PinnedSeat(Arc<TenantState>);

impl Drop for PinnedSeat {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for TenantSeat {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
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
        let end = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        let member = clients.register(UserName::parse("a").unwrap(), None, 4, (None, Some(end)));
        let lasting = clients.register(UserName::parse("a").unwrap(), None, 4, (None, None));
        assert_eq!(clients.expire(end - std::time::Duration::from_secs(1)), 0);
        assert_eq!(member.client().order(), None);
        assert_eq!(clients.expire(end), 1);
        assert_eq!((member.client().order(), lasting.client().order()), (Some(Order::Expire), None));
    }

    #[test]
    fn both_sides_of_a_tenants_client_limit() {
        let clients = Clients::default();
        let tenant = Tenant {
            id: TenantId::parse("a").unwrap(),
            upstream: crate::names::UpstreamName::parse("main").unwrap(),
            isolation: crate::directory::Isolation::Row,
            place: crate::directory::Place::default(),
            limits: Limits {
                max_clients: 2,
                max_servers: 1,
                max_pins: 1,
                queue_timeout: std::time::Duration::ZERO,
                statement_timeout: std::time::Duration::ZERO,
                idle_transaction_timeout: std::time::Duration::ZERO,
            },
        };
        let first = clients.join_tenant(&tenant);
        let second = clients.join_tenant(&tenant);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(clients.join_tenant(&tenant).err(), Some(NoSeat::Full));
        drop(first);
        assert!(clients.join_tenant(&tenant).is_ok());
        let seat = second.unwrap();
        let pin = seat.pin();
        assert!(pin.is_some() && seat.pin().is_none());
        drop(pin);
        assert!(seat.pin().is_some());
        clients.set_status(&tenant, TenantStatus::Suspended);
        assert_eq!(seat.status(), TenantStatus::Suspended);
        assert_eq!(clients.join_tenant(&tenant).err(), Some(NoSeat::Closed(TenantStatus::Suspended)));
        clients.set_status(&tenant, TenantStatus::Active);
        assert!(clients.join_tenant(&tenant).is_ok());
    }
}
