//! Waiting for a condition instead of for a time: no test sleeps to synchronise.

use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; returns how long that took.
///
/// # Panics
/// When it does not hold within `limit`; `what` says what was waited for.
pub async fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Duration {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(POLL).await;
    }
    started.elapsed()
}

/// Lets `duration` of real time pass because the time itself is what a test is about (a node is
/// suspended that long, traffic runs that long), never to wait for something to happen.
pub async fn let_pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The same until an instant: what a client or a proxy does then, it does at a time of its own choice.
pub async fn let_pass_until(instant: Instant) {
    tokio::time::sleep_until(instant).await;
}
