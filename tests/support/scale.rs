//! The two variables that steer random and long tests: `HOLDFAST_TEST_SCALE` and `HOLDFAST_TEST_SEED`.

use std::time::{SystemTime, UNIX_EPOCH};

/// How much longer than in `make test` a long test runs: `HOLDFAST_TEST_SCALE`, 1 when unset.
///
/// # Panics
/// When the variable is set to something other than a whole number from 1.
#[must_use]
pub fn scale() -> u32 {
    match std::env::var("HOLDFAST_TEST_SCALE") {
        Ok(text) => text
            .parse()
            .ok()
            .filter(|scale| *scale >= 1)
            .unwrap_or_else(|| {
                panic!("HOLDFAST_TEST_SCALE={text}: a whole number from 1 is allowed")
            }),
        Err(_) => 1,
    }
}

/// Seeded random numbers (splitmix64): the same seed gives the same choices.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// Seeded by `HOLDFAST_TEST_SEED`, or by the clock. A failing test prints [`seed`](Self::seed).
    ///
    /// # Panics
    /// When the variable is set to something other than a number.
    #[must_use]
    pub fn from_environment() -> Self {
        let seed = match std::env::var("HOLDFAST_TEST_SEED") {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("HOLDFAST_TEST_SEED={text}: a number is allowed")),
            Err(_) => Self::from_clock(),
        };
        Self::new(seed)
    }

    /// A number that differs from call to call.
    pub(crate) fn from_clock() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| {
                u64::from(since.subsec_nanos()) ^ (since.as_secs() << 20)
            })
    }

    /// Seeded by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// What to set `HOLDFAST_TEST_SEED` to for the same choices.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let bound = u64::try_from(choices.len()).expect("a slice length fits");
        let index = usize::try_from(self.below(bound)).expect("it is below a slice length");
        &choices[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_again() {
        let mut first = Random::new(7);
        let mut again = Random::new(7);
        let choices: Vec<u64> = (0..50).map(|_| first.below(10)).collect();
        assert_eq!(
            choices,
            (0..50).map(|_| again.below(10)).collect::<Vec<_>>()
        );
        assert!(
            choices.iter().any(|choice| *choice != choices[0]),
            "it does vary: {choices:?}"
        );
    }
}
