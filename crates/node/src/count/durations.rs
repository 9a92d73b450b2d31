//! How long messages take: from one socket of this node to another, measured by this node's clock alone.

use std::sync::OnceLock;
use std::time::Duration;

use codec::Qos;
use metrics::{Histogram, histogram};
use tokio::time::Instant;

use super::label;
use crate::metrics::{DELIVERY_DURATION_SECONDS, PUBLISH_ACK_DURATION_SECONDS};

/// A PUBLISH was acknowledged, so long after it came.
pub(crate) fn acknowledged(qos: Qos, after: Duration) {
    static DURATIONS: OnceLock<[Histogram; 3]> = OnceLock::new();
    let durations = DURATIONS.get_or_init(|| per_qos(PUBLISH_ACK_DURATION_SECONDS));
    if let Some(duration) = durations.get(usize::from(qos.as_u8())) {
        duration.record(after);
    }
}

/// Messages came at these times, and are about to be written to their subscriber.
pub(super) fn deliveries(timed: &mut [Option<Instant>; 3]) {
    static DURATIONS: OnceLock<[Histogram; 3]> = OnceLock::new();
    if timed.iter().all(Option::is_none) {
        return;
    }
    let durations = DURATIONS.get_or_init(|| per_qos(DELIVERY_DURATION_SECONDS));
    let now = Instant::now();
    for (duration, since) in durations.iter().zip(timed) {
        if let Some(since) = since.take() {
            duration.record(now.saturating_duration_since(since));
        }
    }
}

/// One histogram per QoS.
fn per_qos(name: &'static str) -> [Histogram; 3] {
    [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
        .map(|qos| histogram!(name, "qos" => label(qos)))
}
