//! The pool under seeded simulation, against a model that only counts.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

type Pool = Slots<u32, u8, u32>;

/// One instant for all; what counts is how far from it.
fn start() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

#[test]
fn a_tenant_keeps_its_server_under_load_until_anothers_patience_ends() {
    let mut slots: Pool = Slots::new(1);
    assert_eq!(slots.take(&1, 9, |_| 0), Taken::Open);
    slots.wait(&2, 9, start(), 20);
    for waiter in 10..13 {
        slots.wait(&1, 9, start(), waiter);
    }
    let early = start() + PATIENCE / 2;
    let owner = |server: &u32, tenant: &u8| u32::from(*tenant) == *server;
    slots.give_back(&1, 1);
    assert_eq!(slots.serve(early, owner), Some((1, 10, SlotGrant::Server(1))));
    slots.give_back(&1, 1);
    assert_eq!(slots.serve(early, owner), Some((1, 11, SlotGrant::Server(1))));
    slots.give_back(&1, 1);
    assert_eq!(slots.serve(start() + PATIENCE, owner), Some((2, 20, SlotGrant::Server(1))));
}

#[test]
fn of_strangers_servers_the_one_idle_longest_is_taken_over() {
    let mut slots: Pool = Slots::new(3);
    for tenant in 1..=3 {
        assert_eq!(slots.take(&tenant, 9, |_| 0), Taken::Open);
    }
    for (tenant, server) in [(1, 10), (2, 20), (3, 30)] {
        slots.give_back(&tenant, server);
    }
    assert_eq!(slots.take(&4, 9, |_| 0), Taken::Server(10));
    // One that was reset is better, and of two such the one used last.
    assert_eq!(slots.take(&4, 9, |_| 1), Taken::Server(30));
}

#[test]
fn an_idle_server_is_taken_past_its_limit_and_keeps_its_place() {
    let mut slots: Pool = Slots::new(2);
    assert_eq!(slots.take(&1, 9, |_| 0), Taken::Open);
    assert_eq!(slots.take(&1, 9, |_| 0), Taken::Open);
    slots.give_back(&1, 10);
    slots.give_back(&1, 11);
    assert_eq!(slots.take_one(&0, |server| *server == 12), None);
    assert_eq!(slots.take_one(&0, |server| *server == 11), Some(11));
    assert_eq!((slots.idle(), slots.used()), (1, 1));
    assert_eq!(slots.take(&2, 9, |_| 1), Taken::Server(10));
    assert_eq!(slots.take(&2, 9, |_| 1), Taken::Wait, "no third is opened meanwhile");
    slots.give_back(&0, 11);
    assert_eq!((slots.idle(), slots.used()), (1, 1));
}

#[test]
fn an_idle_server_of_the_own_tenant_is_preferred() {
    let mut slots: Pool = Slots::new(2);
    assert_eq!(slots.take(&1, 9, |_| 0), Taken::Open);
    assert_eq!(slots.take(&2, 9, |_| 0), Taken::Open);
    slots.give_back(&1, 10);
    slots.give_back(&2, 20);
    assert_eq!(slots.take(&1, 9, |&server| u8::from(server == 10)), Taken::Server(10));
}

#[test]
fn a_strangers_server_is_taken_over_only_when_the_pool_is_full() {
    let mut slots: Pool = Slots::new(2);
    assert_eq!(slots.take(&1, 9, |_| 0), Taken::Open);
    slots.give_back(&1, 10);
    assert_eq!(slots.take(&2, 9, |_| 0), Taken::Open);
    assert_eq!(slots.take(&2, 9, |_| 0), Taken::Server(10));
    assert_eq!(slots.take(&2, 9, |_| 0), Taken::Wait);
}

#[test]
fn both_sides_of_a_tenants_limit() {
    let mut slots: Pool = Slots::new(9);
    assert_eq!(slots.take(&1, 2, |_| 0), Taken::Open);
    assert_eq!(slots.take(&1, 2, |_| 0), Taken::Open);
    assert_eq!(slots.take(&1, 2, |_| 0), Taken::Wait);
    slots.wait(&1, 2, start(), 7);
    assert_eq!(slots.serve(start() + PATIENCE, |_, _| true), None);
    assert_eq!(slots.take(&2, 2, |_| 0), Taken::Open, "another tenant is not held up");
    slots.close(&1);
    assert_eq!(slots.serve(start() + PATIENCE, |_, _| true), Some((1, 7, SlotGrant::Open)));
}

#[test]
fn tenants_are_served_in_turn_however_many_wait() {
    let mut slots: Pool = Slots::new(1);
    assert_eq!(slots.take(&1, 9, |_| 0), Taken::Open);
    for waiter in 0..5 {
        slots.wait(&1, 9, start(), waiter);
    }
    slots.wait(&2, 9, start(), 100);
    let mut order = Vec::new();
    let mut holder = 1;
    while slots.has_waiters() {
        slots.give_back(&holder, 1);
        let (tenant, waiter, _) = slots.serve(start() + PATIENCE, |_, _| true).unwrap();
        order.push(waiter);
        holder = tenant;
    }
    assert_eq!(order, [0, 100, 1, 2, 3, 4]);
}

/// What must hold whatever happened.
struct Model {
    size: usize,
    limit: usize,
    /// Who holds which server.
    held: Vec<(u8, u32)>,
    waiting: HashMap<u32, (u8, u64)>,
    next: u32,
}

impl Model {
    fn check(&self, slots: &Pool) {
        assert_eq!(slots.used(), self.held.len());
        assert!(slots.idle() + slots.used() <= self.size);
        let mut servers = HashSet::new();
        assert!(self.held.iter().all(|(_, server)| servers.insert(*server)), "nobody is served twice");
        for tenant in 0..4 {
            assert!(self.held.iter().filter(|(holder, _)| *holder == tenant).count() <= self.limit);
        }
        assert_eq!(slots.has_waiters(), !self.waiting.is_empty());
    }

    fn serve(&mut self, slots: &mut Pool) {
        let now = start() + PATIENCE * u32::from(self.next.is_multiple_of(2));
        while let Some((tenant, waiter, grant)) =
            slots.serve(now, |server, tenant| server % 4 == u32::from(*tenant))
        {
            let (expected, _) = self.waiting.remove(&waiter).expect("served once, and only who waits");
            assert_eq!(expected, tenant);
            self.hold(tenant, &grant);
        }
        // Nobody waits who could be served.
        if slots.idle() > 0 || slots.idle() + slots.used() < self.size {
            for (tenant, _) in self.waiting.values() {
                let held = self.held.iter().filter(|(holder, _)| holder == tenant).count();
                assert_eq!(held, self.limit);
            }
        }
    }

    fn hold(&mut self, tenant: u8, grant: &SlotGrant<u32>) {
        let server = match *grant {
            SlotGrant::Server(server) => server,
            SlotGrant::Open => {
                self.next += 1;
                self.next
            }
        };
        self.held.push((tenant, server));
    }

    fn step(&mut self, slots: &mut Pool, rng: &mut StdRng) {
        match rng.random_range(0..10) {
            0..5 => {
                let tenant = rng.random_range(0..4);
                match slots.take(&tenant, self.limit, |server| u8::from(server % 2 == 0)) {
                    Taken::Server(server) => self.hold(tenant, &SlotGrant::Server(server)),
                    Taken::Open => self.hold(tenant, &SlotGrant::Open),
                    Taken::Wait => {
                        self.next += 1;
                        let ticket = slots.wait(&tenant, self.limit, start(), self.next);
                        self.waiting.insert(self.next, (tenant, ticket));
                    }
                }
            }
            5..9 if !self.held.is_empty() => {
                let (tenant, server) = self.held.swap_remove(rng.random_range(0..self.held.len()));
                if rng.random_bool(0.2) {
                    slots.close(&tenant);
                } else {
                    slots.give_back(&tenant, server);
                }
            }
            _ => {
                let waiters: Vec<u32> = self.waiting.keys().copied().collect();
                if let Some(waiter) = waiters.choose(rng) {
                    let (tenant, ticket) = self.waiting.remove(waiter).unwrap();
                    slots.leave(&tenant, ticket);
                }
            }
        }
        self.serve(slots);
        self.check(slots);
    }
}

#[test]
fn no_slot_is_lost_or_served_twice_in_any_order_of_events() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (size, limit) = (rng.random_range(1..6), rng.random_range(1..4));
        let mut slots = Slots::new(size);
        let mut model = Model { size, limit, held: Vec::new(), waiting: HashMap::new(), next: 0 };
        for _ in 0..500 {
            model.step(&mut slots, &mut rng);
        }
        while let Some((tenant, server)) = model.held.pop() {
            slots.give_back(&tenant, server);
            model.serve(&mut slots);
            model.check(&slots);
        }
        assert!(model.waiting.is_empty() && slots.used() == 0, "seed {seed}");
    }
}

// === what the preference may cost ===

/// A pool under load, by a clock that only the test moves. It knows nothing of how waiters are chosen.
struct Load {
    slots: Slots<Held, u8, u32>,
    now: Instant,
    rng: StdRng,
    size: usize,
    limit: usize,
    tenants: u8,
    /// Who has a server, and until when.
    held: Vec<(u8, Held, Instant)>,
    /// Who is in line: tenant, since when.
    line: Vec<(u32, u8, Instant)>,
    /// For each tenant whose first waiter has waited for `PATIENCE` and may have a server: what others got since.
    overdue: HashMap<u8, HashMap<u8, usize>>,
    next: u32,
    switches: usize,
    grants: usize,
}

/// A server, by the tenant that had it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held(u8);

/// The longest that a server is kept.
const LONGEST_USE: Duration = Duration::from_millis(3);

impl Load {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (size, tenants) = (rng.random_range(1..6), rng.random_range(2..6));
        // At its limit, a tenant waits for itself and not for others.
        let limit = if rng.random_bool(0.5) { size } else { rng.random_range(1..=size) };
        Self {
            slots: Slots::new(size),
            now: start(),
            rng,
            size,
            limit,
            tenants,
            held: Vec::new(),
            line: Vec::new(),
            overdue: HashMap::new(),
            next: 0,
            switches: 0,
            grants: 0,
        }
    }

    fn holds(&self, tenant: u8) -> usize {
        self.held.iter().filter(|(holder, ..)| *holder == tenant).count()
    }

    fn first_of(&self, tenant: u8) -> Option<(u32, Instant)> {
        let first = self.line.iter().find(|(_, waiting, _)| *waiting == tenant);
        first.map(|(waiter, _, since)| (*waiter, *since))
    }

    /// One client comes and takes what is there, or gets in line.
    fn arrive(&mut self, tenant: u8) {
        match self.slots.take(&tenant, self.limit, |server| u8::from(server.0 == tenant)) {
            Taken::Server(server) => self.use_server(tenant, Some(server)),
            Taken::Open => self.use_server(tenant, None),
            Taken::Wait => {
                self.slots.wait(&tenant, self.limit, self.now, self.next);
                self.line.push((self.next, tenant, self.now));
                self.next += 1;
            }
        }
    }

    fn use_server(&mut self, tenant: u8, server: Option<Held>) {
        self.grants += 1;
        self.switches += usize::from(server.is_some_and(|server| server.0 != tenant));
        let kept = Duration::from_micros(self.rng.random_range(100..=3000)).min(LONGEST_USE);
        self.held.push((tenant, Held(tenant), self.now + kept));
    }

    /// Those whose time is over give back, and whoever can be served is.
    fn settle(&mut self) {
        while let Some(at) = self.held.iter().position(|(.., until)| *until <= self.now) {
            let (tenant, server, _) = self.held.swap_remove(at);
            self.slots.give_back(&tenant, server);
            self.serve();
        }
    }

    fn serve(&mut self) {
        self.note_overdue();
        while let Some((tenant, waiter, grant)) =
            self.slots.serve(self.now, |server, tenant| server.0 == *tenant)
        {
            let (first, since) = self.first_of(tenant).expect("only who waits is served");
            assert_eq!(first, waiter, "a tenant's clients are served in the order in which they came");
            self.line.retain(|(other, ..)| *other != waiter);
            self.overdue.remove(&tenant);
            for (late, served) in &mut self.overdue {
                let count = served.entry(tenant).or_default();
                *count += 1;
                assert!(
                    *count <= 1,
                    "tenant {late} is overdue, and tenant {tenant} is served twice before it"
                );
            }
            if self.limit == self.size {
                // Nothing but other tenants has kept it waiting: the preference, then one turn of each of the others and its
                // own clients in front of it.
                self.check_wait(tenant, since);
            }
            match grant {
                SlotGrant::Server(server) => self.use_server(tenant, Some(server)),
                SlotGrant::Open => self.use_server(tenant, None),
            }
            self.note_overdue();
        }
        let has_slot = self.slots.idle() + self.held.len() < self.size || self.slots.idle() > 0;
        for (_, tenant, _) in self.line.iter().filter(|_| has_slot) {
            assert_eq!(self.holds(*tenant), self.limit, "nobody waits who could be served");
        }
    }

    /// A client that was alone in its tenant's line.
    fn check_wait(&self, tenant: u8, since: Instant) {
        // Tenant 0 has one client at a time.
        let longest = PATIENCE + LONGEST_USE * u32::from(self.tenants);
        let waited = self.now - since;
        assert!(
            tenant != 0 || waited <= longest,
            "a quiet tenant has waited {waited:?}, {longest:?} at most"
        );
    }

    fn note_overdue(&mut self) {
        for tenant in 0..self.tenants {
            let is_late = self.first_of(tenant).is_some_and(|(_, since)| self.now >= since + PATIENCE);
            if is_late && self.holds(tenant) < self.limit {
                self.overdue.entry(tenant).or_default();
            } else {
                self.overdue.remove(&tenant);
            }
        }
    }

    /// Tenant 0 has one client that comes now and then, the others as many as are wanted, at once after each answer.
    fn run(&mut self, clients: usize) {
        let end = self.now + Duration::from_secs(2);
        while self.now < end {
            self.settle();
            for tenant in 1..self.tenants {
                let there = self.line.iter().filter(|(_, waiting, _)| *waiting == tenant).count();
                for _ in there + self.holds(tenant)..clients {
                    self.arrive(tenant);
                }
            }
            if self.first_of(0).is_none() && self.holds(0) == 0 && self.rng.random_bool(0.05) {
                self.arrive(0);
            }
            self.now += Duration::from_micros(100);
        }
    }
}

#[test]
fn a_preferred_tenant_delays_no_other_for_longer_than_the_patience() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut load = Load::new(seed);
        let clients = load.rng.random_range(1..30);
        load.run(clients);
        assert!(load.grants > 500, "seed {seed}: {} grants", load.grants);
    }
}

#[test]
fn the_preference_saves_changes_of_tenants_while_nobody_is_overdue() {
    let mut load = Load { size: 4, limit: 4, tenants: 3, slots: Slots::new(4), ..Load::new(1) };
    // Lines so short that nobody waits for as long as the patience is.
    load.run(6);
    assert!(load.switches * 3 < load.grants, "{} changes in {} grants", load.switches, load.grants);
}

#[test]
fn an_overdue_slot_is_free_for_others_and_counts_for_its_tenant() {
    let mut slots: Slots<u32, &str, u32> = Slots::new(1);
    assert_eq!(slots.take(&"a", 1, |_| 0), Taken::Open);
    assert_eq!(slots.take(&"b", 1, |_| 0), Taken::Wait);
    slots.is_overdue();
    assert_eq!(slots.take(&"a", 1, |_| 0), Taken::Wait, "its tenant has it still");
    assert_eq!(slots.take(&"b", 1, |_| 0), Taken::Open);
    assert_eq!(slots.take(&"c", 1, |_| 0), Taken::Wait, "one place was given back, not two");
    slots.close_overdue(&"a");
    assert_eq!(slots.take(&"a", 1, |_| 0), Taken::Wait, "the pool is full");
    slots.close(&"b");
    assert_eq!(slots.take(&"a", 1, |_| 0), Taken::Open);
}
