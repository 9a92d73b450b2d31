//! What is in `deploy/`, checked with the tools that will read it: helm, Kubernetes' schemas, promtool
//! and Prometheus, HAProxy, systemd, both versions of compose, and containers of the binary under test.
//!
//! No Kubernetes cluster takes part. A tool that is not there skips its tests; `scripts/deploy_tools.sh`
//! prepares those that are no apt packages, `scripts/engine.sh` a Docker engine. One container scenario
//! runs always, the others with `HOLDFAST_TEST_SCALE` above 1.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and whatever they do not expect is a failure"
)]

mod chart;
mod compose;
mod containers;
mod engine;
mod files;
mod metrics;
mod monitoring;
mod pods;
mod tools;
