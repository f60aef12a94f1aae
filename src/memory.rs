//! Budgets of memory: what strangers can make the proxy keep is counted per client, per tenant and for the process.
//! Promise: whoever is over a budget is refused, and nobody else; what is counted is given back when its [`Charge`] goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fault::{Fault, Kind, Report, sqlstate};
use crate::observability::metrics::MemoryGauge;

/// What one client, one tenant or the process may keep, and what it keeps, in bytes.
#[derive(Debug)]
pub struct Budget {
    whose: Whose,
    /// Zero: no limit.
    limit: usize,
    used: AtomicUsize,
    /// The process's only.
    gauge: Option<MemoryGauge>,
}

/// Whose memory a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// One client connection's.
    Client,
    /// All clients' of one tenant.
    Tenant,
    /// The process's.
    Process,
}

/// Where the memory of one client is counted.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its own.
    pub client: Arc<Budget>,
    /// Its tenant's; none: a maintenance user, or no tenant chosen yet.
    pub tenant: Option<Arc<Budget>>,
    /// The process's.
    pub process: Arc<Budget>,
}

/// Bytes that are counted in budgets until it is dropped.
#[derive(Debug)]
pub struct Charge {
    budgets: [Option<Arc<Budget>>; 3],
    bytes: usize,
}

/// A budget does not allow more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory budget of the {} is used up", .whose.label())]
pub struct OverBudget {
    /// Whose.
    pub whose: Whose,
    limit: usize,
}

// === impl Budget ===

impl Budget {
    /// A budget of which nothing is used; zero: no limit.
    pub const fn new(whose: Whose, limit: usize) -> Self {
        Self { whose, limit, used: AtomicUsize::new(0), gauge: None }
    }

    /// The budget of the process, shown as a metric.
    pub fn of_process(limit: usize) -> Self {
        Self { gauge: Some(MemoryGauge::default()), ..Self::new(Whose::Process, limit) }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        let more = |used: usize| {
            let after = used.saturating_add(bytes);
            (self.limit == 0 || after <= self.limit).then_some(after)
        };
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|_| OverBudget { whose: self.whose, limit: self.limit })?;
        self.gauge.iter().for_each(|gauge| gauge.grow(bytes));
        Ok(())
    }

    fn take_anyway(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.gauge.iter().for_each(|gauge| gauge.grow(bytes));
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.gauge.iter().for_each(|gauge| gauge.shrink(bytes));
    }
}

// === impl Account ===

impl Account {
    /// Counts nothing yet.
    pub fn open(&self) -> Charge {
        let tenant = self.tenant.as_ref().map(Arc::clone);
        Charge {
            budgets: [Some(Arc::clone(&self.client)), tenant, Some(Arc::clone(&self.process))],
            bytes: 0,
        }
    }

    /// Counts bytes in all budgets, or in none.
    pub fn charge(&self, bytes: usize) -> Result<Charge, OverBudget> {
        let mut charge = self.open();
        charge.grow(bytes)?;
        Ok(charge)
    }
}

// === impl Charge ===

impl Charge {
    /// Bytes counted.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts more bytes in all budgets, or in none.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let budgets = || self.budgets.iter().flatten();
        for (at, budget) in budgets().enumerate() {
            if let Err(over) = budget.take(bytes) {
                budgets().take(at).for_each(|before| before.give(bytes));
                return Err(over);
            }
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Counts more bytes of which the memory is in use already and cannot be refused.
    pub fn grow_anyway(&mut self, bytes: usize) {
        self.budgets.iter().flatten().for_each(|budget| budget.take_anyway(bytes));
        self.bytes += bytes;
    }

    /// Counts fewer bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.budgets.iter().flatten().for_each(|budget| budget.give(bytes));
        self.bytes -= bytes;
    }

    /// In two: what the client and its tenant hold, and what the process holds.
    #[must_use]
    pub fn split(mut self) -> (Self, Self) {
        let [client, tenant, process] = std::mem::take(&mut self.budgets);
        let bytes = std::mem::take(&mut self.bytes);
        (Self { budgets: [client, tenant, None], bytes }, Self { budgets: [None, None, process], bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

// === impl OverBudget ===

impl Whose {
    const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Tenant => "tenant",
            Self::Process => "proxy",
        }
    }

    const fn setting(self) -> &'static str {
        match self {
            Self::Client => "listen.max_client_memory",
            Self::Tenant => "listen.max_tenant_memory",
            Self::Process => "listen.max_memory",
        }
    }
}

impl Fault for OverBudget {
    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn report(&self) -> Report {
        Report::new(sqlstate::OUT_OF_MEMORY, self.to_string())
            .detail(format!(
                "Unfinished messages, buffers and prepared statements may take {} bytes together ({}).",
                self.limit,
                self.whose.setting()
            ))
            .hint("Send smaller messages, use COPY, or close prepared statements that are not needed.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(client: usize, tenant: usize, process: usize) -> Account {
        Account {
            client: Arc::new(Budget::new(Whose::Client, client)),
            tenant: Some(Arc::new(Budget::new(Whose::Tenant, tenant))),
            process: Arc::new(Budget::new(Whose::Process, process)),
        }
    }

    fn used(account: &Account) -> [usize; 3] {
        [account.client.used(), account.tenant.as_ref().unwrap().used(), account.process.used()]
    }

    #[test]
    fn both_sides_of_each_budget_and_nothing_is_counted_of_what_was_refused() {
        for (limits, whose) in
            [([10, 99, 99], Whose::Client), ([99, 10, 99], Whose::Tenant), ([99, 99, 10], Whose::Process)]
        {
            let account = account(limits[0], limits[1], limits[2]);
            let charge = account.charge(10).unwrap();
            assert_eq!(used(&account), [10; 3]);
            assert_eq!(account.charge(1).err().map(|over| over.whose), Some(whose));
            assert_eq!(used(&account), [10; 3], "all or nothing");
            drop(charge);
            assert_eq!(used(&account), [0; 3]);
            assert!(account.charge(10).is_ok());
        }
    }

    #[test]
    fn zero_is_no_limit_and_what_is_in_use_already_counts_beyond_a_limit() {
        assert!(account(0, 0, 0).charge(usize::MAX).is_ok());
        let account = account(10, 10, 10);
        let mut charge = account.charge(8).unwrap();
        charge.grow_anyway(8);
        assert_eq!(used(&account), [16; 3]);
        assert!(charge.grow(1).is_err() && charge.bytes() == 16);
        charge.shrink(10);
        assert!(charge.grow(4).is_ok() && charge.grow(1).is_err());
    }

    #[test]
    fn a_split_charge_is_given_back_in_two_parts() {
        let account = account(10, 10, 10);
        let (holder, process) = account.charge(4).unwrap().split();
        drop(holder);
        assert_eq!(used(&account), [0, 0, 4]);
        drop(process);
        assert_eq!(used(&account), [0; 3]);
    }
}
