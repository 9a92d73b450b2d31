//! Latencies as HDR histograms.
//!
//! At a fixed rate a latency counts from the moment at which the message was due. So a broker that
//! stalls is charged for every message that would have been sent meanwhile, not only for the one
//! that was under way ("coordinated omission").

use hdrhistogram::Histogram;
use serde::Serialize;

/// Largest value that is told apart, nanoseconds: ten minutes.
const MAX_NS: u64 = 600_000_000_000;
/// Decimal digits that are kept.
const DIGITS: u8 = 3;

/// Latencies of one kind.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Option<Histogram<u64>>);

impl Latencies {
    /// Enters one.
    pub fn record(&mut self, ns: u64) {
        if self.0.is_none() {
            self.0 = Histogram::new_with_bounds(1_000, MAX_NS, DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(ns);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// The usual quantiles; `None` when nothing was entered.
    #[must_use]
    pub fn summary(&self) -> Option<LatencySummary> {
        let histogram = self.0.as_ref()?;
        let us = |ns: u64| ns / 1_000;
        Some(LatencySummary {
            count: histogram.len(),
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        })
    }
}

/// Quantiles, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LatencySummary {
    /// How many were entered.
    pub count: u64,
    /// Half were faster.
    pub p50_us: u64,
    /// 90 % were faster.
    pub p90_us: u64,
    /// 99 % were faster.
    pub p99_us: u64,
    /// 99.9 % were faster.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_entered() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        for ms in 1..=1_000_u64 {
            latencies.record(ms * 1_000_000);
        }
        let summary = latencies.summary().unwrap();
        assert_eq!(summary.count, 1_000);
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) * 500 <= wanted;
        assert!(near(summary.p50_us, 500_000), "{summary:?}");
        assert!(near(summary.p99_us, 990_000), "{summary:?}");
        assert!(near(summary.max_us, 1_000_000), "{summary:?}");
    }

    #[test]
    fn what_is_beyond_the_scale_counts_as_its_end() {
        let mut latencies = Latencies::default();
        latencies.record(u64::MAX);
        latencies.record(0);
        assert_eq!(latencies.summary().map(|summary| summary.count), Some(2));
    }
}
