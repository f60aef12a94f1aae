//! SHOW STATS: what was done since the start, and averages over the last minute or two, as PgBouncer has them over its
//! `stats_period`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::show::rounded;
use super::table::CellValue;
use crate::observability::metrics::Exporter;

/// How old the totals are at least that the averages start from, once there are such.
const PERIOD: Duration = Duration::from_secs(60);

/// Counted since the start; times in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Totals {
    transactions: f64,
    queries: f64,
    received: f64,
    sent: f64,
    transaction_time: f64,
    query_time: f64,
    wait_time: f64,
}

/// The totals that averages start from, and those that the next will start from.
#[derive(Debug)]
pub(super) struct Stats(Mutex<[(Instant, Totals); 2]>);

impl Stats {
    pub(super) fn new() -> Self {
        Self(Mutex::new([(Instant::now(), Totals::default()); 2]))
    }

    /// The only row: all tenants together.
    pub(super) fn row(&self, exporter: &Exporter) -> Vec<CellValue> {
        let totals = Totals::of(exporter);
        let (averages, seconds) = self.since(Instant::now(), totals);
        let each = |time: f64, count: f64| if count > 0.0 { time / count } else { 0.0 };
        let mut row = vec![CellValue::from("all")];
        row.extend(
            [
                totals.transactions,
                totals.queries,
                totals.received,
                totals.sent,
                totals.transaction_time,
                totals.query_time,
                totals.wait_time,
                averages.transactions / seconds,
                averages.queries / seconds,
                averages.received / seconds,
                averages.sent / seconds,
                each(averages.transaction_time, averages.transactions),
                each(averages.query_time, averages.queries),
                averages.wait_time / seconds,
            ]
            .map(|value| CellValue::Number(rounded(value))),
        );
        row
    }

    /// What came since the totals that averages start from, and in how many seconds.
    fn since(&self, now: Instant, totals: Totals) -> (Totals, f64) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(marks[1].0) >= PERIOD {
            *marks = [marks[1], (now, totals)];
        }
        let (since, base) = marks[0];
        (totals.minus(&base), now.duration_since(since).as_secs_f64().max(1.0))
    }
}

impl Totals {
    fn of(exporter: &Exporter) -> Self {
        let samples = exporter.samples();
        let sum = |name: &str, label: &str| -> f64 {
            let of_name = samples.iter().filter(|(known, labels, _)| known == name && labels.contains(label));
            of_name.map(|(.., value)| value).sum()
        };
        let micros = |name: &str| sum(name, "") * 1e6;
        Self {
            transactions: sum("pgtenant_transaction_duration_seconds_count", ""),
            queries: sum("pgtenant_queries_total", ""),
            received: sum("pgtenant_client_bytes_total", "direction=\"in\""),
            sent: sum("pgtenant_client_bytes_total", "direction=\"out\""),
            transaction_time: micros("pgtenant_transaction_duration_seconds_sum"),
            query_time: micros("pgtenant_query_duration_seconds_sum"),
            wait_time: micros("pgtenant_queue_wait_seconds_sum"),
        }
    }

    fn minus(&self, other: &Self) -> Self {
        Self {
            transactions: self.transactions - other.transactions,
            queries: self.queries - other.queries,
            received: self.received - other.received,
            sent: self.sent - other.sent,
            transaction_time: self.transaction_time - other.transaction_time,
            query_time: self.query_time - other.query_time,
            wait_time: self.wait_time - other.wait_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_over_one_to_two_periods() {
        let stats = Stats::new();
        let start = Instant::now();
        let at = |seconds: u64, queries: f64| {
            let totals = Totals { queries, ..Totals::default() };
            let (since, seconds) = stats.since(start + Duration::from_secs(seconds), totals);
            (since.queries, seconds.round())
        };
        assert_eq!(at(10, 100.0), (100.0, 10.0), "since the start");
        assert_eq!(at(60, 600.0), (600.0, 60.0));
        assert_eq!(at(100, 700.0), (700.0, 100.0));
        assert_eq!(at(120, 800.0), (200.0, 60.0), "since the mark at 60 s");
        assert_eq!(at(170, 900.0), (300.0, 110.0));
        assert_eq!(at(180, 900.0), (100.0, 60.0), "since the mark at 120 s");
    }
}
