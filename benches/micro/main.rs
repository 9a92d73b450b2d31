//! Micro-benchmarks: decode, encode, route, apply, append.
//!
//! Each is repeated until a sample takes long enough to be timed well. The fastest of several
//! samples counts: what disturbs a measurement only ever makes it slower.
//!
//! `cargo bench -p benches --bench micro [NAME]`: only those whose name contains NAME.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod append;
mod apply;
mod harness;
mod route;
mod wire;

use harness::Harness;

fn main() {
    // `cargo bench` adds `--bench`.
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let harness = Harness::new(filter);
    wire::run(&harness);
    route::run(&harness);
    apply::run(&harness);
    append::run(&harness);
}
