//! What all clients of one tenant share: how many they are, what they may do, and where their tenant is.
//! Promise: once a tenant is held and has no turn, nothing of it runs and nothing begins until it is let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::directory::Limits;
use crate::memory::{Budget, Whose};

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
    /// Their next transactions wait.
    Paused,
    /// The same, while their tenant goes to another place.
    Moving,
}

impl TenantStatus {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Suspended,
            2 => Self::Draining,
            3 => Self::Paused,
            4 => Self::Moving,
            _ => Self::Active,
        }
    }

    /// The word for operators.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Paused => "paused",
            Self::Moving => "moving",
        }
    }
}

/// What all clients of a tenant share.
#[derive(Debug)]
pub(super) struct TenantState {
    clients: AtomicUsize,
    pins: AtomicUsize,
    status: AtomicU8,
    limits: ArcSwap<Limits>,
    /// Transactions under way.
    turns: AtomicUsize,
    /// How often its place has changed.
    moves: AtomicU64,
    /// What all its clients keep.
    memory: Arc<Budget>,
}

impl TenantState {
    /// `max_memory`: what all its clients may keep, in bytes; zero: no limit.
    pub(super) fn new(limits: Limits, max_memory: usize) -> Self {
        Self {
            clients: AtomicUsize::new(0),
            pins: AtomicUsize::new(0),
            status: AtomicU8::new(0),
            limits: ArcSwap::from_pointee(limits),
            turns: AtomicUsize::new(0),
            moves: AtomicU64::new(0),
            memory: Arc::new(Budget::new(Whose::Tenant, max_memory)),
        }
    }

    pub(super) fn join(self: &Arc<Self>) -> Result<TenantSeat, NoSeat> {
        match self.status() {
            TenantStatus::Active | TenantStatus::Paused | TenantStatus::Moving => {}
            status @ (TenantStatus::Suspended | TenantStatus::Draining) => {
                return Err(NoSeat::Closed(status));
            }
        }
        if count_one(&self.clients, self.limits.load().max_clients) {
            Ok(TenantSeat { counted: Arc::new(Counted(Arc::clone(self))), moves: self.moves() })
        } else {
            Err(NoSeat::Full)
        }
    }

    fn status(&self) -> TenantStatus {
        TenantStatus::of(self.status.load(Ordering::SeqCst))
    }

    fn moves(&self) -> u64 {
        self.moves.load(Ordering::SeqCst)
    }

    /// False: it is being moved.
    pub(super) fn set(&self, status: TenantStatus) -> bool {
        let next = |now| (TenantStatus::of(now) != TenantStatus::Moving).then_some(status as u8);
        self.status.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// The status before; none if it is being moved already.
    pub(super) fn hold(&self) -> Option<TenantStatus> {
        let next =
            |now| (TenantStatus::of(now) != TenantStatus::Moving).then_some(TenantStatus::Moving as u8);
        self.status.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).ok().map(TenantStatus::of)
    }

    pub(super) fn release(&self, before: TenantStatus) {
        self.status.store(before as u8, Ordering::SeqCst);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.turns.load(Ordering::SeqCst) > 0
    }

    pub(super) fn limit(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }

    pub(super) fn moved(&self) {
        self.moves.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether nobody and nothing would miss it.
    pub(super) fn is_forgettable(&self) -> bool {
        !self.is_busy() && self.memory.used() == 0 && self.view() == <(TenantStatus, usize, usize)>::default()
    }

    pub(super) fn view(&self) -> (TenantStatus, usize, usize) {
        (self.status(), self.clients.load(Ordering::Relaxed), self.pins.load(Ordering::Relaxed))
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

/// One of a tenant's client connections, and how often the tenant had moved when it looked where that is.
#[derive(Debug)]
pub struct TenantSeat {
    counted: Arc<Counted>,
    moves: u64,
}

#[derive(Debug)]
struct Counted(Arc<TenantState>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TenantSeat {
    fn state(&self) -> &Arc<TenantState> {
        &self.counted.0
    }

    /// What the tenant's clients may keep in memory.
    pub fn memory(&self) -> &Arc<Budget> {
        &self.state().memory
    }

    /// The tenant's limits as they are now.
    pub fn limits(&self) -> Limits {
        **self.state().limits.load()
    }

    /// What the tenant's clients may do now.
    pub fn status(&self) -> TenantStatus {
        self.state().status()
    }

    /// Whether the tenant has moved since.
    pub fn is_stale(&self) -> bool {
        self.moves != self.state().moves()
    }

    /// The same client's, for another look at where the tenant is.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { counted: Arc::clone(&self.counted), moves: self.state().moves() }
    }

    /// A transaction begins; or the status that keeps it from that.
    pub fn begin(&self) -> Result<Turn, TenantStatus> {
        // Counted first: whoever holds the tenant sees the turn, or this sees the hold.
        self.state().turns.fetch_add(1, Ordering::SeqCst);
        let turn = Turn(Arc::clone(self.state()));
        match self.status() {
            TenantStatus::Active => Ok(turn),
            status => Err(status),
        }
    }

    /// Whether a transaction after another may begin without looking around.
    pub fn goes_on(&self) -> bool {
        self.status() == TenantStatus::Active && !self.is_stale()
    }

    /// Counts one pinned client of the tenant; none if that would be one too many.
    pub fn pin(&self) -> Option<PinnedSeat> {
        count_one(&self.state().pins, self.limits().max_pins).then(|| PinnedSeat(Arc::clone(self.state())))
    }
}

/// A transaction of the tenant that is under way.
#[derive(Debug)]
pub struct Turn(Arc<TenantState>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.turns.fetch_sub(1, Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state(max_clients: usize) -> Arc<TenantState> {
        let limits = Limits {
            max_clients,
            max_servers: 1,
            max_pins: 1,
            queue_timeout: std::time::Duration::ZERO,
            statement_timeout: std::time::Duration::ZERO,
            idle_transaction_timeout: std::time::Duration::ZERO,
        };
        Arc::new(TenantState::new(limits, 0))
    }

    #[test]
    fn both_sides_of_a_tenants_client_limit() {
        let state = state(2);
        let first = state.join();
        let second = state.join();
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(state.join().err(), Some(NoSeat::Full));
        drop(first);
        assert!(state.join().is_ok());
        let seat = second.unwrap();
        let pin = seat.pin();
        assert!(pin.is_some() && seat.pin().is_none());
        drop(pin);
        assert!(seat.pin().is_some());
        assert!(state.set(TenantStatus::Suspended));
        assert_eq!(seat.status(), TenantStatus::Suspended);
        assert_eq!(state.join().err(), Some(NoSeat::Closed(TenantStatus::Suspended)));
        assert!(state.set(TenantStatus::Active));
        assert!(state.join().is_ok());
    }

    #[test]
    fn nothing_begins_while_a_tenant_is_held_and_then_its_status_returns() {
        for before in [TenantStatus::Active, TenantStatus::Paused] {
            let state = state(2);
            let seat = state.join().unwrap();
            let turn = seat.begin().unwrap();
            assert!(state.is_busy() && state.set(before));
            assert_eq!(state.hold(), Some(before));
            assert_eq!(state.hold(), None, "held once");
            assert!(!state.set(TenantStatus::Active), "nobody lets it go meanwhile");
            assert_eq!(seat.begin().err(), Some(TenantStatus::Moving));
            assert!(state.is_busy(), "the transaction under way");
            drop(turn);
            assert!(!state.is_busy(), "one that was kept from beginning does not count");
            state.release(before);
            assert_eq!(seat.status(), before);
        }
    }

    #[test]
    fn a_seat_is_stale_once_its_tenant_has_moved_and_takes_one_place_still() {
        let state = state(1);
        let seat = state.join().unwrap();
        assert!(!seat.is_stale() && seat.goes_on());
        state.moved();
        assert!(seat.is_stale() && !seat.goes_on());
        let again = seat.again();
        assert!(!again.is_stale());
        drop(seat);
        assert_eq!(state.view().1, 1);
        drop(again);
        assert!(state.is_forgettable());
    }
}
