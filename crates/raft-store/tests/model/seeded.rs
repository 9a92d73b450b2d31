//! Runs random cases. `HOLDFAST_TEST_SEED` repeats a failure, `HOLDFAST_TEST_SCALE` multiplies the cases,
//! `HOLDFAST_TEST_SHRINK` says how often to try for a smaller failure (0: not at all).

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: a number is allowed")),
    )
}

/// Tries `cases` values of `strategy`; panics with the smallest failing one and the seed.
pub(crate) fn check<S: Strategy>(
    cases: u32,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = variable("HOLDFAST_TEST_SEED").unwrap_or_else(rand_seed);
    let scale = u32::try_from(variable("HOLDFAST_TEST_SCALE").unwrap_or(1)).unwrap_or(u32::MAX);
    let shrink = variable("HOLDFAST_TEST_SHRINK").unwrap_or(20_000);
    let config = Config {
        cases: cases.saturating_mul(scale.max(1)),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: u32::try_from(shrink).unwrap_or(u32::MAX),
        ..Config::default()
    };
    if let Err(error) = TestRunner::new(config).run(&strategy, test) {
        panic!("{error}\nrepeat with HOLDFAST_TEST_SEED={seed}");
    }
}

/// A seed that differs from run to run.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("seed")
}
