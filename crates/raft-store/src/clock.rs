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
//!
//! A restarted node goes on where its clocks were, as long as the machine was not booted again
//! ([`kept`]): the entries that it replays are of the leader whose time it had, or of earlier ones, and
//! do not set it back. An entry of a later leader does.

pub(crate) mod kept;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codec::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use kept::KeptClock;

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
    /// Whose time it is: the term of the last entry, or that in which this node last offered one.
    term: u64,
    /// The last time that was applied.
    applied: Timestamp,
    /// The term in which this node last offered a time.
    offered: u64,
    /// It has offered one, and applied no entry of that term: there may be others to apply before,
    /// and what they say is not known yet.
    opening: bool,
    /// It is from an earlier process, and no other leader's entry was seen since.
    resumed: bool,
}

impl Anchor {
    /// A take-over, and what was resumed, add no more than the gap to what is in the log.
    fn time(&self, now: Duration) -> Timestamp {
        let time = self.unbounded_time(now);
        if self.resumed || self.opening {
            time.min(self.applied.plus(TAKEOVER_GAP_MAX))
        } else {
            time
        }
    }

    fn unbounded_time(&self, now: Duration) -> Timestamp {
        self.at
            .map_or(self.time, |at| self.time.plus(now.saturating_sub(at)))
    }

    fn set(&mut self, time: Timestamp, now: Duration) {
        self.time = time;
        self.at = Some(now);
    }
}

impl ShardClock {
    /// An entry of this term with this time was applied.
    pub(crate) fn observe(&self, applied: Timestamp, term: u64) {
        self.observe_at(applied, term, since_boot());
    }

    /// Goes on where an earlier process was; `applied_term` is that of the last entry in the tables.
    pub(crate) fn resume(&self, kept: KeptClock, applied_term: u64) {
        self.resume_at(kept, applied_term, since_boot());
    }

    /// What a later process needs to go on; `None` before the first entry.
    pub(crate) fn kept(&self) -> Option<KeptClock> {
        let anchor = self.lock();
        Some(KeptClock {
            time: anchor.time,
            at: anchor.at?,
            term: anchor.term,
            applied: anchor.applied,
        })
    }

    /// Shard time by this node's clock; for reading, on any replica.
    pub(crate) fn time(&self) -> Timestamp {
        self.lock().time(since_boot())
    }

    /// The time to give an entry that this node, the leader of `term`, accepts now.
    pub(crate) fn leader_time(&self, term: u64) -> Timestamp {
        self.leader_time_at(term, since_boot())
    }

    fn observe_at(&self, applied: Timestamp, term: u64, now: Duration) {
        let mut anchor = self.lock();
        let before = anchor.applied;
        anchor.applied = before.max(applied);
        if anchor.opening && anchor.offered == term {
            // All that other leaders logged is applied: from here on the clock runs on by itself.
            let latest = before.plus(TAKEOVER_GAP_MAX);
            let time = anchor.unbounded_time(now).min(latest).max(applied);
            anchor.set(time, now);
            anchor.term = term;
            (anchor.opening, anchor.resumed) = (false, false);
            return;
        }
        anchor.opening &= term < anchor.offered;
        // What a start replays may begin long before the kept clock, with earlier leaders.
        let same_clock = anchor.offered == term || (anchor.resumed && term <= anchor.term);
        if anchor.at.is_none() || !same_clock || applied > anchor.unbounded_time(now) {
            anchor.set(applied, now);
        }
        anchor.term = match anchor.resumed && same_clock {
            true => anchor.term,
            false => term,
        };
        anchor.resumed &= same_clock;
    }

    fn resume_at(&self, kept: KeptClock, applied_term: u64, now: Duration) {
        let mut anchor = self.lock();
        // What was kept is older than the tables if those have a later leader's time. One that has
        // only begun to lead has given none: its first entry is empty. A clock that is behind what it
        // was is another clock.
        let has_later_leader = kept.term < applied_term && anchor.applied > kept.applied;
        if has_later_leader || kept.at > now {
            return;
        }
        if kept.time.plus(now.saturating_sub(kept.at)) > anchor.time(now) {
            anchor.set(kept.time, kept.at);
            anchor.term = kept.term;
            anchor.resumed = true;
        }
    }

    fn leader_time_at(&self, term: u64, now: Duration) -> Timestamp {
        let mut anchor = self.lock();
        if anchor.at.is_none() {
            anchor.at = Some(now);
        }
        if anchor.offered != term {
            anchor.offered = term;
            anchor.opening = true;
        }
        anchor.time(now)
    }

    fn lock(&self) -> MutexGuard<'_, Anchor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        clock.observe_at(at(110), 2, seconds(3600));
        assert_eq!(clock.leader_time_at(2, seconds(7200)), at(3710));
    }

    #[test]
    fn a_shard_without_entries_starts_at_zero() {
        let clock = ShardClock::default();
        assert_eq!(clock.leader_time_at(1, seconds(50)), at(0));
        clock.observe_at(at(0), 1, seconds(50));
        assert_eq!(clock.leader_time_at(1, seconds(51)), at(1));
    }

    const fn kept(time_s: u64, at_s: u64, term: u64) -> KeptClock {
        KeptClock {
            time: at(time_s),
            at: seconds(at_s),
            term,
            applied: at(time_s),
        }
    }

    /// As a restart does it: the tables say `tables`, of this term.
    fn restarted(tables: Timestamp, term: u64, kept: KeptClock, now_s: u64) -> ShardClock {
        let clock = ShardClock::default();
        clock.observe_at(tables, 0, seconds(now_s));
        clock.resume_at(kept, term, seconds(now_s));
        clock
    }

    #[test]
    fn a_restart_loses_neither_the_idle_time_before_it_nor_the_time_of_the_restart() {
        let before = ShardClock::default();
        before.observe_at(at(100), 1, seconds(5));
        let stamped = before.leader_time_at(2, seconds(7));
        before.observe_at(stamped, 2, seconds(8));
        // Idle for three seconds, then away for two.
        let clock = restarted(at(100), 1, before.kept().unwrap(), 13);
        // The log replays what the tables lack.
        clock.observe_at(stamped, 2, seconds(14));
        assert_eq!(clock.leader_time_at(3, seconds(15)), at(110));
    }

    #[test]
    fn a_resumed_clock_adds_at_most_the_capped_gap() {
        let clock = restarted(at(100), 1, kept(100, 5, 1), 3605);
        assert_eq!(clock.lock().time(seconds(3605)), at(110));
        clock.observe_at(at(101), 1, seconds(3605));
        assert_eq!(clock.leader_time_at(2, seconds(3605)), at(111));
        clock.observe_at(at(111), 2, seconds(3605));
        assert_eq!(clock.leader_time_at(2, seconds(3606)), at(112));
    }

    #[test]
    fn a_resumed_clock_follows_another_leader_that_is_behind() {
        let clock = restarted(at(100), 1, kept(100, 5, 1), 12);
        // The leader of term 2 has lost the time in between.
        clock.observe_at(at(101), 2, seconds(13));
        assert_eq!(clock.leader_time_at(3, seconds(14)), at(102));
    }

    #[test]
    fn what_was_kept_before_a_later_leader_or_by_another_clock_is_not_believed() {
        // The tables have the time of term 2, which was kept by nobody.
        let clock = restarted(at(101), 2, kept(100, 5, 1), 12);
        assert_eq!(clock.leader_time_at(3, seconds(12)), at(101));
        // Time since boot went back.
        let clock = restarted(at(100), 1, kept(100, 50, 1), 12);
        assert_eq!(clock.leader_time_at(2, seconds(12)), at(100));
        // The tables are ahead: time never goes back.
        let clock = restarted(at(200), 1, kept(100, 5, 1), 12);
        assert_eq!(clock.leader_time_at(2, seconds(12)), at(200));
    }

    #[test]
    fn the_entries_of_earlier_leaders_that_a_start_replays_do_not_set_the_clock_back() {
        // The tables are as of the last flush; the clock is of term 3.
        let clock = restarted(at(50), 1, kept(100, 5, 3), 12);
        for (time_s, term) in [(60, 1), (80, 2), (100, 3)] {
            clock.observe_at(at(time_s), term, seconds(13));
        }
        assert_eq!(clock.leader_time_at(4, seconds(13)), at(108));
    }

    #[test]
    fn a_leader_that_has_not_replayed_its_log_yet_offers_less_and_loses_nothing() {
        let clock = restarted(at(0), 0, kept(100, 5, 2), 12);
        // Of the log it knows nothing yet; the machine never lets time go back.
        assert_eq!(clock.leader_time_at(3, seconds(12)), at(10));
        for (time_s, term) in [(60, 1), (100, 2)] {
            clock.observe_at(at(time_s), term, seconds(12));
        }
        clock.observe_at(at(100), 3, seconds(13));
        assert_eq!(clock.leader_time_at(3, seconds(13)), at(108));
    }

    #[test]
    fn a_leader_that_gave_no_time_yet_does_not_set_the_clock_back() {
        // The last entry in the tables is the empty one with which term 2 began.
        let clock = restarted(at(100), 2, kept(100, 5, 1), 12);
        assert_eq!(clock.leader_time_at(3, seconds(12)), at(107));
    }

    #[test]
    fn a_second_restart_goes_on_as_well() {
        let first = restarted(at(100), 1, kept(100, 5, 1), 8);
        first.observe_at(at(101), 1, seconds(9));
        let clock = restarted(at(101), 1, first.kept().unwrap(), 12);
        assert_eq!(clock.leader_time_at(2, seconds(12)), at(107));
    }

    #[test]
    fn a_shard_without_entries_keeps_nothing() {
        assert_eq!(ShardClock::default().kept(), None);
    }
}
