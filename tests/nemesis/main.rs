//! Random clients, random faults, and a judge that knows only the standard.
//!
//! Some two dozen clients of 3.1.1 and 5.0 publish, subscribe, leave, come back and take over on three
//! nodes, while the nemesis kills and stops nodes. Everything that they sent and received is recorded
//! and judged by `testkit::checker`. `HOLDFAST_TEST_SCALE` says how many rounds of three minutes,
//! `HOLDFAST_TEST_SEED` repeats the random choices, though not their timing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and whatever they do not expect is a failure"
)]

mod actor;
mod faults;
mod features;
mod half;
mod mortal;
mod profile;
mod round;
mod wire;

use std::time::Duration;

use testkit::{Cluster, ClusterOptions, scale};

use crate::features::FEATURES;

/// One round.
const LENGTH: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_break_no_promise_to_random_clients() {
    let name = "random_faults_break_no_promise_to_random_clients";
    let options = ClusterOptions {
        alone: true,
        proxied: FEATURES.cuts,
        target: "nemesis",
        ..ClusterOptions::new(option_env!("CARGO_BIN_EXE_holdfast").unwrap_or("holdfast"))
    };
    let mut cluster = Cluster::start(name, options).await;
    for number in 1..=scale() {
        round::round(&mut cluster, number, length()).await;
    }
}

/// Of a round, in seconds: `HOLDFAST_NEMESIS_S`, for trying things out.
fn length() -> Duration {
    let seconds = std::env::var("HOLDFAST_NEMESIS_S").ok();
    let seconds = seconds.map(|text| text.parse().expect("a number of seconds"));
    seconds.map_or(LENGTH, Duration::from_secs)
}
