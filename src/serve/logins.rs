//! Connections that have not logged in yet: at most so many in all and of one address. They take no client's seat.
//! Promise: a newcomer is refused only as long as everybody in front of it may still be about to log in.
//!
//! When there is no place, the oldest that should have logged in by now gives way: one that has sent no startup packet for
//! `SPEAKS_WITHIN`, or has not proven who it is for `PROVES_WITHIN`. An honest client needs a few round trips.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

const SPEAKS_WITHIN: Duration = Duration::from_millis(500);
const PROVES_WITHIN: Duration = Duration::from_secs(3);

/// All of them.
#[derive(Debug)]
pub struct Logins {
    limit: usize,
    limit_per_address: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// The oldest first.
    all: BTreeMap<u64, Entry>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    address: Option<IpAddr>,
    stage: Stage,
    /// Told when its place is another's.
    eviction: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Silent,
    Heard,
}

/// There is no place, and nobody gives way yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// Slot of one connection that has not logged in yet; free once it is dropped.
#[derive(Debug)]
pub struct LoginSlot {
    logins: Arc<Logins>,
    number: u64,
}

/// Tells a connection that its place is another's.
#[derive(Debug)]
pub struct Eviction(oneshot::Receiver<()>);

// === impl Logins ===

impl Logins {
    /// So many in all, and of one address; 0 is no limit.
    pub fn new(limit: usize, limit_per_address: usize) -> Arc<Self> {
        Arc::new(Self { limit, limit_per_address, state: Mutex::default() })
    }

    /// Takes a place for a connection of that address; none: a unix socket, whose clients are of this machine.
    pub fn enter(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<(LoginSlot, Eviction), Crowded> {
        let address = address.map(network);
        let mut state = self.lock();
        let state = &mut *state;
        let own = address.and_then(|address| state.by_address.get(&address));
        if let Some(own) = own.filter(|own| is_full(own.len(), self.limit_per_address)) {
            let entries = own.iter().filter_map(|number| Some((number, state.all.get(number)?)));
            let late = first_late(entries, now).ok_or(Crowded)?;
            state.evict(late);
        } else if is_full(state.all.len(), self.limit) {
            let late = first_late(state.all.iter(), now).ok_or(Crowded)?;
            state.evict(late);
        }
        let number = state.next;
        state.next += 1;
        let (eviction, evicted) = oneshot::channel();
        state.all.insert(number, Entry { since: now, address, stage: Stage::Silent, eviction });
        if let Some(address) = address {
            state.by_address.entry(address).or_default().insert(number);
        }
        Ok((LoginSlot { logins: Arc::clone(self), number }, Eviction(evicted)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 0 is no limit.
const fn is_full(count: usize, limit: usize) -> bool {
    limit > 0 && count >= limit
}

/// One client can have all addresses of an IPv6 network, so that they count as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The oldest one that should have logged in by now.
fn first_late<'e>(entries: impl Iterator<Item = (&'e u64, &'e Entry)>, now: Instant) -> Option<u64> {
    let age = |entry: &Entry| now.saturating_duration_since(entry.since);
    // They come by age.
    let mut old = entries.take_while(|(_, entry)| age(entry) >= SPEAKS_WITHIN);
    let is_late = |entry: &Entry| entry.stage == Stage::Silent || age(entry) >= PROVES_WITHIN;
    old.find(|(_, entry)| is_late(entry)).map(|(number, _)| *number)
}

// === impl State ===

impl State {
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.all.remove(&number)?;
        if let Some(address) = entry.address
            && let Some(own) = self.by_address.get_mut(&address)
        {
            own.remove(&number);
            if own.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(entry)
    }

    fn evict(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            // One that ends in this moment does not hear it.
            let _heard = entry.eviction.send(());
        }
    }
}

// === impl LoginSlot ===

impl LoginSlot {
    /// Its startup packet has come.
    pub fn is_heard(&self) {
        if let Some(entry) = self.logins.lock().all.get_mut(&self.number) {
            entry.stage = Stage::Heard;
        }
    }
}

impl Drop for LoginSlot {
    fn drop(&mut self) {
        self.logins.lock().remove(self.number);
    }
}

// === impl Eviction ===

impl Eviction {
    /// Ready when the place is another's; never, once it was given up.
    pub async fn happens(self) {
        if self.0.await.is_err() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_evicted(eviction: &mut Eviction) -> bool {
        eviction.0.try_recv().is_ok()
    }

    #[test]
    fn both_sides_of_both_limits() {
        let logins = Logins::new(3, 2);
        let now = Instant::now();
        let enter = |text: &str| logins.enter(Some(address(text)), now);
        let first = enter("10.0.0.1").unwrap();
        let _second = enter("10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.1").err(), Some(Crowded), "two of one address");
        assert_eq!(enter("::ffff:10.0.0.1").err(), Some(Crowded), "the same address");
        let third = enter("10.0.0.2").unwrap();
        assert_eq!(enter("10.0.0.3").err(), Some(Crowded), "three in all");
        assert_eq!(logins.enter(None, now).err(), Some(Crowded), "a unix socket counts among all");
        drop(first);
        drop(third);
        let _third = enter("10.0.0.1").unwrap();
        let _local = logins.enter(None, now).unwrap();
        assert_eq!(logins.enter(None, now).err(), Some(Crowded));
    }

    #[test]
    fn zero_is_no_limit_and_nothing_is_left_of_those_who_went() {
        let logins = Logins::new(0, 0);
        let all: Vec<_> = (0..500).map(|_| logins.enter(Some(address("10.0.0.1")), Instant::now())).collect();
        assert!(all.iter().all(Result::is_ok));
        drop(all);
        let state = logins.lock();
        assert!(state.all.is_empty() && state.by_address.is_empty());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let logins = Logins::new(0, 1);
        let now = Instant::now();
        let _first = logins.enter(Some(address("2001:db8:1:2::1")), now).unwrap();
        assert!(logins.enter(Some(address("2001:db8:1:2:ffff::2")), now).is_err());
        assert!(logins.enter(Some(address("2001:db8:1:3::1")), now).is_ok());
    }

    #[test]
    fn the_oldest_that_is_late_gives_way_and_nobody_who_may_still_log_in() {
        let logins = Logins::new(3, 0);
        let start = Instant::now();
        let (heard, mut of_heard) = logins.enter(None, start).unwrap();
        heard.is_heard();
        let (_silent, mut of_silent) = logins.enter(None, start).unwrap();
        let (_young, mut of_young) = logins.enter(None, start + SPEAKS_WITHIN).unwrap();
        let just_before = start + SPEAKS_WITHIN.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(logins.enter(None, just_before).err(), Some(Crowded), "it may be about to speak");
        let (_next, _) = logins.enter(None, start + SPEAKS_WITHIN).unwrap();
        assert!(is_evicted(&mut of_silent) && !is_evicted(&mut of_heard) && !is_evicted(&mut of_young));
        assert_eq!(logins.enter(None, start + SPEAKS_WITHIN).err(), Some(Crowded));
        let (_last, _) = logins.enter(None, start + PROVES_WITHIN).unwrap();
        assert!(is_evicted(&mut of_heard) && !is_evicted(&mut of_young), "half-way for too long");
        drop(heard);
        assert_eq!(logins.lock().all.len(), 3, "a place that was taken is not given back twice");
    }

    #[test]
    fn an_address_that_is_full_takes_from_itself_only() {
        let logins = Logins::new(3, 2);
        let start = Instant::now();
        let (_other, mut of_other) = logins.enter(Some(address("10.0.0.9")), start).unwrap();
        let (_first, mut of_first) = logins.enter(Some(address("10.0.0.1")), start).unwrap();
        let _second = logins.enter(Some(address("10.0.0.1")), start).unwrap();
        assert!(logins.enter(Some(address("10.0.0.1")), start + PROVES_WITHIN).is_ok());
        assert!(is_evicted(&mut of_first) && !is_evicted(&mut of_other));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_logged_in_is_never_evicted() {
        let logins = Logins::new(1, 0);
        let (slot, eviction) = logins.enter(None, Instant::now()).unwrap();
        drop(slot);
        let waits = tokio::time::timeout(Duration::from_secs(3600), eviction.happens());
        assert!(waits.await.is_err());
    }
}
