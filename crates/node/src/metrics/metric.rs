//! What a row of the table says.

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricType {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by upper bound; its unit is the last word of its name.
    Histogram(&'static [f64]),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Its type.
    pub metric_type: MetricType,
    /// What it tells, for people.
    pub help: &'static str,
}

/// From 50 µs, half an fsync of a fast disk, to 10 s, a disk that is failing.
pub(super) const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];
/// From 1, nothing was batched, to more than a batch should hold.
pub(super) const ENTRIES: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];

pub(super) const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        metric_type: MetricType::Counter,
        help,
    }
}

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        metric_type: MetricType::Gauge,
        help,
    }
}

pub(super) const fn histogram(
    name: &'static str,
    bounds: &'static [f64],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        metric_type: MetricType::Histogram(bounds),
        help,
    }
}
