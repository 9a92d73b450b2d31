//! A point in time of a shard, as the pure crates see it: a number that arrives as an argument.

use std::time::Duration;

/// Milliseconds of shard time.
///
/// Shard time is replicated: every replica sees the same value at the same log entry.
/// It is not wall-clock time and differs between shards; only differences within a shard mean
/// something. All arithmetic saturates.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of shard time.
    pub const ZERO: Self = Self(0);
    /// Later than everything: a deadline that never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// The point `millis` milliseconds after the start of shard time.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start of shard time.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `duration` later, at most [`Timestamp::MAX`]. Fractions of a millisecond are cut.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let ten = Timestamp::from_millis(10);
        assert_eq!(ten.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(
            Timestamp::MAX.plus(Duration::from_millis(1)),
            Timestamp::MAX
        );
        assert_eq!(Timestamp::ZERO.since(ten), Duration::ZERO);
        assert_eq!(
            ten.since(Timestamp::from_millis(4)),
            Duration::from_millis(6)
        );
    }
}
