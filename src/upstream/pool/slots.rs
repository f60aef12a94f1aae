//! The pool as plain data: idle servers, slots in use by tenant, and the waiting line.
//! Promise: a slot is never lost or served twice, no tenant exceeds its limit, and tenants are served in
//! turn however many of their clients wait. No socket, no clock, no lock in here.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// As long as no tenant's first waiter has waited for so long, a server goes to the tenant that had it last, out of turn.
/// A change of tenants costs a reset, so under load this saves most of them. Behind that, every other tenant is served
/// at most once before the one that waits: this is the most that the preference delays anybody.
const PATIENCE: Duration = Duration::from_millis(10);

/// What a caller gets at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<S> {
    /// An idle server.
    Server(S),
    /// The right to open a new one.
    Open,
    /// Nothing: get in line.
    Wait,
}

/// What a waiting client is given: an idle server, or the right to open a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SlotGrant<S> {
    /// A server that was given back.
    Server(S),
    /// The right to open a new one.
    Open,
}

#[derive(Debug)]
struct Waiting<W> {
    ticket: u64,
    limit: usize,
    since: Instant,
    waiter: W,
}

/// `S`: a server, `T`: whose, `W`: how to reach a waiter.
#[derive(Debug)]
pub(crate) struct Slots<S, T, W> {
    size: usize,
    idle: Vec<S>,
    used: HashMap<T, usize>,
    used_total: usize,
    /// Used ones that do not count for the pool's size any more; for their tenants they do.
    overdue: usize,
    line: HashMap<T, VecDeque<Waiting<W>>>,
    /// Tenants with somebody in line, next one first.
    turns: VecDeque<T>,
    next_ticket: u64,
}

impl<S, T: Clone + Eq + std::hash::Hash, W> Slots<S, T, W> {
    /// At most `size` servers, idle or used.
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            idle: Vec::new(),
            used: HashMap::new(),
            used_total: 0,
            overdue: 0,
            line: HashMap::new(),
            turns: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Idle servers.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Slots in use, those whose server is being opened included.
    pub(crate) const fn used(&self) -> usize {
        self.used_total
    }

    /// How many are in line, and since when the first of them is.
    pub(crate) fn waiting(&self) -> (usize, Option<Instant>) {
        let all = || self.line.values().flatten();
        (all().count(), all().map(|waiting| waiting.since).min())
    }

    /// The idle servers, the one given back first in front.
    pub(crate) fn idle_ones(&self) -> &[S] {
        &self.idle
    }

    /// Takes the idle servers out that answer the question with yes, as long as it is asked.
    pub(crate) fn take_idle(&mut self, unwanted: impl FnMut(&mut S) -> bool) -> Vec<S> {
        self.idle.extract_if(.., unwanted).collect()
    }

    /// Takes the first idle server for this tenant, whatever its limit, of which the question is true.
    pub(crate) fn take_one(&mut self, tenant: &T, is_wanted: impl Fn(&S) -> bool) -> Option<S> {
        let at = self.idle.iter().position(is_wanted)?;
        self.use_slot(tenant);
        Some(self.idle.remove(at))
    }

    /// Takes all idle servers out.
    pub(crate) fn drain_idle(&mut self) -> Vec<S> {
        std::mem::take(&mut self.idle)
    }

    /// Whether somebody is in line.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Takes a server or a slot if that is possible now. The preferred idle server is the one that `rank`
    /// puts highest; among equals the one used last, whose caches are warm, and of strangers' (zero) the one that has been
    /// idle longest, whose tenant is the least likely to come back soon.
    pub(crate) fn take(&mut self, tenant: &T, limit: usize, rank: impl Fn(&S) -> u8) -> Taken<S> {
        if self.used_by(tenant) >= limit {
            return Taken::Wait;
        }
        let preference = |(at, server): &(usize, &S)| match rank(server) {
            0 => (0, usize::MAX - at),
            rank => (rank, *at),
        };
        let best = self.idle.iter().enumerate().max_by_key(preference).map(|(at, _)| at);
        // A stranger's server is only taken over when no new one may be opened.
        if let Some(at) = best
            && (self.idle.get(at).is_some_and(|server| rank(server) > 0) || self.open() >= self.size)
        {
            self.use_slot(tenant);
            return Taken::Server(self.idle.remove(at));
        }
        if self.open() >= self.size {
            return Taken::Wait;
        }
        self.use_slot(tenant);
        Taken::Open
    }

    /// Gets in line; the ticket serves to leave it.
    pub(crate) fn wait(&mut self, tenant: &T, limit: usize, since: Instant, waiter: W) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let line = self.line.entry(tenant.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(tenant.clone());
        }
        line.push_back(Waiting { ticket, limit, since, waiter });
        ticket
    }

    /// Leaves the line; harmless if it was served already.
    pub(crate) fn leave(&mut self, tenant: &T, ticket: u64) {
        if let Some(line) = self.line.get_mut(tenant) {
            line.retain(|waiting| waiting.ticket != ticket);
            if line.is_empty() {
                self.line.remove(tenant);
                self.turns.retain(|turn| turn != tenant);
            }
        }
    }

    /// A used server comes back.
    pub(crate) fn give_back(&mut self, tenant: &T, server: S) {
        self.free_slot(tenant);
        self.idle.push(server);
    }

    /// A used slot is another tenant's from now on; false if that would be one too many for it.
    pub(crate) fn rebook(&mut self, from: &T, to: &T, limit: usize) -> bool {
        if from != to {
            if self.used_by(to) >= limit {
                return false;
            }
            self.free_slot(from);
            self.use_slot(to);
        }
        true
    }

    /// A used slot is free: its server is closed or was never opened.
    pub(crate) fn close(&mut self, tenant: &T) {
        self.free_slot(tenant);
    }

    /// The server of a used slot cannot be stopped: others may have one in its place, but its tenant has one less.
    pub(crate) fn is_overdue(&mut self) {
        self.overdue += 1;
    }

    /// Such a server is gone at last.
    pub(crate) fn close_overdue(&mut self, tenant: &T) {
        self.overdue = self.overdue.saturating_sub(1);
        self.free_slot(tenant);
    }

    /// The next waiter that can be served, with what it gets. To be called until none comes. `owns` tells
    /// whether a server was that tenant's last.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        owns: impl Fn(&S, &T) -> bool,
    ) -> Option<(T, W, SlotGrant<S>)> {
        if self.idle.is_empty() && self.open() >= self.size {
            return None;
        }
        let next = self.turns.iter().position(|tenant| self.is_eligible(tenant))?;
        let favoured = self.favoured(now, owns).filter(|at| *at != next);
        let at = favoured.unwrap_or(next);
        let tenant = self.turns.remove(at)?;
        let line = self.line.get_mut(&tenant)?;
        let first = line.pop_front()?;
        if line.is_empty() {
            self.line.remove(&tenant);
        } else if favoured.is_some() {
            // It was not its turn, so it keeps its place.
            self.turns.insert(at, tenant.clone());
        } else {
            self.turns.push_back(tenant.clone());
        }
        self.use_slot(&tenant);
        let grant = self.idle.pop().map_or(SlotGrant::Open, SlotGrant::Server);
        Some((tenant, first.waiter, grant))
    }

    /// The place in `turns` of the tenant whose server comes next, if it can be served and no other one is overdue.
    fn favoured(&self, now: Instant, owns: impl Fn(&S, &T) -> bool) -> Option<usize> {
        let server = self.idle.last()?;
        let at = self.turns.iter().position(|tenant| owns(server, tenant) && self.is_eligible(tenant))?;
        let is_overdue = |tenant: &T| {
            self.is_eligible(tenant)
                && self.first_in_line(tenant).is_some_and(|first| now >= first.since + PATIENCE)
        };
        let mut others = self.turns.iter().enumerate().filter(|(place, _)| *place != at);
        (!others.any(|(_, tenant)| is_overdue(tenant))).then_some(at)
    }

    fn first_in_line(&self, tenant: &T) -> Option<&Waiting<W>> {
        self.line.get(tenant)?.front()
    }

    fn is_eligible(&self, tenant: &T) -> bool {
        self.first_in_line(tenant).is_some_and(|first| self.used_by(tenant) < first.limit)
    }

    fn open(&self) -> usize {
        self.idle.len() + self.used_total - self.overdue
    }

    fn used_by(&self, tenant: &T) -> usize {
        self.used.get(tenant).copied().unwrap_or(0)
    }

    fn use_slot(&mut self, tenant: &T) {
        *self.used.entry(tenant.clone()).or_insert(0) += 1;
        self.used_total += 1;
    }

    fn free_slot(&mut self, tenant: &T) {
        if let Entry::Occupied(mut used) = self.used.entry(tenant.clone()) {
            self.used_total -= 1;
            *used.get_mut() -= 1;
            if *used.get() == 0 {
                used.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests;
