//! `[shutdown]`: how a node leaves.

use std::time::Duration;

use super::reader::Reader;
use super::value::Table;

/// `[shutdown]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// `drain_timeout`, 1s..1h: how long handing over and saying goodbye to the clients may take; then
    /// what is left of them is closed at once. Default 60s: at `close_rate`, 100000 clients take 50.
    pub drain_timeout: Duration,
    /// `grace`, 0s..10m: how long the node serves on after it has become unready, so that balancers
    /// notice. Default 0s; some seconds behind a balancer.
    pub grace: Duration,
    /// `close_rate`, 1..1000000: clients per second that are told to leave. Default 2000: they come
    /// back elsewhere, and `limits.connect_rate` of two other nodes lets as many in.
    pub close_rate: u32,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> ShutdownConfig {
    let mut section = reader.section(root, "shutdown");
    let second = Duration::from_secs(1);
    let config = ShutdownConfig {
        drain_timeout: section.duration("drain_timeout", second * 60, second..=second * 3_600),
        grace: section.duration("grace", Duration::ZERO, Duration::ZERO..=second * 600),
        close_rate: section.integer("close_rate", 2_000, 1..=1_000_000),
    };
    section.finish();
    config
}
