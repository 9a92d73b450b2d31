//! Shard time on this node: where a leader's `leader_time` comes from (DESIGN section 5).
//!
//! It runs with the machine's monotonic clock, also while the machine sleeps. A wall clock plays no
//! role. It is only an offer: the machine clamps what an entry carries so that shard time never goes
//! back.
//!
//! A leader's clock runs on between its own entries, so that the time a commit takes is not lost. A
//! follower's begins anew with each entry: if the leader's is behind (it was restarted, and does not
//! know for how long it was down), whoever leads next must not make up for it at one stroke, since
//! sessions would end and wills be published that much early.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use codec::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// How much unseen time a new leader adds at most when it takes over. A replica that was cut off or
/// suspended for hours must not end sessions whose clients could not reach it: rather late than
/// early.
pub const TAKEOVER_GAP_MAX: Duration = Duration::from_secs(10);

/// Time since the machine's boot, suspended time included.
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// One shard's clock on this node.
#[derive(Debug, Default)]
pub(crate) struct ShardClock(Mutex<Anchor>);

#[derive(Debug, Default)]
struct Anchor {
    /// Shard time at `at`, which is time since boot. Nothing was observed yet: both zero.
    time: Timestamp,
    at: Option<Duration>,
    /// The last time that was applied.
    applied: Timestamp,
    /// The term in which this node last offered a time.
    term: u64,
}

impl Anchor {
    fn time(&self, now: Duration) -> Timestamp {
        self.at
            .map_or(self.time, |at| self.time.plus(now.saturating_sub(at)))
    }
}

impl ShardClock {
    /// An entry of this term with this time was applied.
    pub(crate) fn observe(&self, applied: Timestamp, term: u64) {
        self.observe_at(applied, term, since_boot());
    }

    /// Shard time by this node's clock; for reading, on any replica.
    pub(crate) fn time(&self) -> Timestamp {
        let anchor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anchor.time(since_boot())
    }

    /// The time to give an entry that this node, the leader of `term`, accepts now.
    pub(crate) fn leader_time(&self, term: u64) -> Timestamp {
        self.leader_time_at(term, since_boot())
    }

    fn observe_at(&self, applied: Timestamp, term: u64, now: Duration) {
        let mut anchor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anchor.applied = anchor.applied.max(applied);
        let of_another_leader = anchor.term != term;
        if anchor.at.is_none() || of_another_leader || applied > anchor.time(now) {
            anchor.time = applied;
            anchor.at = Some(now);
        }
    }

    fn leader_time_at(&self, term: u64, now: Duration) -> Timestamp {
        let mut anchor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if anchor.at.is_none() {
            anchor.at = Some(now);
        }
        if anchor.term != term {
            anchor.term = term;
            let latest = anchor.applied.plus(TAKEOVER_GAP_MAX);
            if anchor.time(now) > latest {
                anchor.time = latest;
                anchor.at = Some(now);
            }
        }
        anchor.time(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn time_runs_on_between_entries_and_does_not_lose_the_time_a_commit_takes() {
        let clock = ShardClock::default();
        clock.observe_at(at(100), 0, seconds(5));
        let stamped = clock.leader_time_at(1, seconds(7));
        assert_eq!(stamped, at(102));
        // Applied two seconds after it was stamped.
        clock.observe_at(stamped, 1, seconds(9));
        assert_eq!(clock.leader_time_at(1, seconds(9)), at(104));
    }

    #[test]
    fn an_entry_that_is_ahead_moves_the_clock_forward() {
        let clock = ShardClock::default();
        clock.observe_at(at(100), 1, seconds(5));
        clock.observe_at(at(200), 1, seconds(6));
        assert_eq!(clock.leader_time_at(1, seconds(6)), at(200));
    }

    #[test]
    fn a_follower_of_a_slow_leader_does_not_make_up_for_it_when_it_leads() {
        let clock = ShardClock::default();
        clock.observe_at(at(100), 1, seconds(0));
        // The leader of term 2 was down for six seconds and does not know it.
        clock.observe_at(at(101), 2, seconds(7));
        assert_eq!(clock.leader_time_at(3, seconds(8)), at(102));
    }

    #[test]
    fn a_take_over_adds_at_most_the_capped_gap_and_a_reign_adds_all() {
        let clock = ShardClock::default();
        clock.observe_at(at(100), 1, seconds(0));
        assert_eq!(clock.leader_time_at(2, seconds(3600)), at(110));
        assert_eq!(clock.leader_time_at(2, seconds(7200)), at(3710));
    }

    #[test]
    fn a_shard_without_entries_starts_at_zero() {
        let clock = ShardClock::default();
        assert_eq!(clock.leader_time_at(1, seconds(50)), at(0));
        assert_eq!(clock.leader_time_at(1, seconds(51)), at(1));
    }
}
