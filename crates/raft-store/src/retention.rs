//! How much of a shard's log is kept: when its state is to be made durable so that the log can be cut
//! off behind it, and where.
//!
//! Invariants:
//! - only what the state durably holds is cut off (openraft refuses more);
//! - what a follower needs that is being sent entries or a snapshot stays, unless that takes
//!   [`HELD_FACTOR`] times the ordinary length;
//! - a tail stays, so that a follower that was away for a moment catches up from the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes logged after which the log is cut off, although they are few entries: with four shards a
/// node's logs stay below half a gigabyte.
const SNAPSHOT_AFTER_BYTES: u64 = 64 << 20;
/// Of a log that is cut off this much stays: some seconds at full load.
const KEPT_BYTES: u64 = 32 << 20;
/// And this part of `snapshot_after`.
const KEPT_ENTRIES_PART: u64 = 4;
/// How many times its ordinary length the log may have for the sake of a follower. One that takes
/// longer to receive a snapshot starts again; one that is slower than the others gets one.
const HELD_FACTOR: u64 = 4;
/// The distance between two marks of how long the log is.
const MARK_EVERY_BYTES: u64 = 256 << 10;

/// When the log of a shard is cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// `storage.snapshot_after`: entries since the last snapshot.
    pub(crate) snapshot_after: u64,
    /// The same in bytes.
    pub(crate) snapshot_after_bytes: u64,
    /// Bytes that stay.
    pub(crate) kept_bytes: u64,
}

/// Where a shard's log stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogPosition {
    /// The last applied entry.
    pub(crate) applied: u64,
    /// The last entry that the durable state is known to hold.
    pub(crate) snapshot: Option<u64>,
    /// The last entry that was cut off.
    pub(crate) purged: Option<u64>,
    /// The oldest snapshot that is being sent: its receiver needs what comes after.
    pub(crate) sending: Option<u64>,
}

impl Retention {
    pub(crate) fn new(snapshot_after: u64) -> Self {
        Self {
            snapshot_after,
            snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
            kept_bytes: KEPT_BYTES,
        }
    }

    /// Whether the state is to be made durable now.
    pub(crate) fn is_snapshot_due(self, at: LogPosition, length: &LogLength) -> bool {
        let next = at.snapshot.map_or(0, |index| index.saturating_add(1));
        let entries = at.applied.saturating_add(1).saturating_sub(next);
        entries >= self.snapshot_after
            || (entries > 0 && length.bytes_from(next) >= self.snapshot_after_bytes)
    }

    /// The last entry to cut off now, if any.
    pub(crate) fn purge_upto(self, at: LogPosition, length: &LogLength) -> Option<u64> {
        let snapshot = at.snapshot?;
        let kept_entries = self.snapshot_after / KEPT_ENTRIES_PART;
        let by_entries = snapshot.checked_sub(kept_entries);
        let by_bytes = length.first_of_last(self.kept_bytes).checked_sub(1);
        let mut upto = by_entries.max(by_bytes)?.min(snapshot);
        if let Some(sending) = at.sending
            && self.may_hold(sending, at, length)
        {
            upto = upto.min(sending);
        }
        // Each cut costs a write: not for a handful of entries.
        let first = at.purged.map_or(0, |purged| purged.saturating_add(1));
        let count = upto.saturating_add(1).saturating_sub(first);
        let bytes = length
            .bytes_from(first)
            .saturating_sub(length.bytes_from(upto.saturating_add(1)));
        let worth = count >= kept_entries.max(1) || bytes >= self.kept_bytes / 2;
        (count > 0 && worth).then_some(upto)
    }

    /// Whether the log is longer than it may be for the sake of any follower.
    pub(crate) fn is_overlong(self, at: LogPosition, length: &LogLength) -> bool {
        !self.may_hold(at.purged.unwrap_or(0), at, length)
    }

    fn may_hold(self, from: u64, at: LogPosition, length: &LogLength) -> bool {
        at.applied.saturating_sub(from) < self.snapshot_after.saturating_mul(HELD_FACTOR)
            && length.bytes_from(from.saturating_add(1))
                < self.snapshot_after_bytes.saturating_mul(HELD_FACTOR)
    }
}

/// How many bytes of entries a log has from which entry on; exact to about one mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogLength {
    /// Bytes ever logged.
    total: u64,
    /// An entry, and the bytes logged before it; ascending.
    marks: VecDeque<(u64, u64)>,
}

impl LogLength {
    /// A log that starts with entry `first` and takes about `bytes`.
    pub(crate) fn new(first: u64, bytes: u64) -> Self {
        Self {
            total: bytes,
            marks: VecDeque::from([(first, 0)]),
        }
    }

    /// An entry was appended.
    pub(crate) fn push(&mut self, index: u64, bytes: usize) {
        let marked = self.marks.back().map(|(_, before)| *before);
        if marked.is_none_or(|before| self.total.saturating_sub(before) >= MARK_EVERY_BYTES) {
            self.marks.push_back((index, self.total));
        }
        self.total = self
            .total
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The entries from `from` on were removed.
    pub(crate) fn truncate(&mut self, from: u64) {
        while let Some((_, before)) = self.marks.pop_back_if(|(index, _)| *index >= from) {
            self.total = before;
        }
    }

    /// The entries up to `upto` were removed.
    pub(crate) fn purge(&mut self, upto: u64) {
        let next = upto.saturating_add(1);
        while self.marks.get(1).is_some_and(|(index, _)| *index <= next) {
            self.marks.pop_front();
        }
        // What is before it in the distance of a mark counts on.
        if let Some((first, _)) = self.marks.front_mut() {
            *first = next.max(*first);
        }
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_from(0)
    }

    /// Bytes of the entries from `from` on.
    pub(crate) fn bytes_from(&self, from: u64) -> u64 {
        let place = self.marks.partition_point(|(index, _)| *index <= from);
        let mark = self.marks.get(place.saturating_sub(1));
        mark.map_or(0, |(_, before)| self.total.saturating_sub(*before))
    }

    /// The first of the last entries that take no more than `bytes`; 0 when that is all of them.
    fn first_of_last(&self, bytes: u64) -> u64 {
        let long = |(_, before): &(u64, u64)| self.total.saturating_sub(*before) > bytes;
        match self.marks.partition_point(long) {
            0 => 0,
            place => match self.marks.get(place) {
                Some((index, _)) => *index,
                // Even the last mark is too far from the end.
                None => self.marks.back().map_or(0, |(index, _)| *index),
            },
        }
    }
}

/// The snapshots that are being sent, each with the last entry that is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sending(Arc<Mutex<SendingState>>);

#[derive(Debug, Default)]
struct SendingState {
    next: u64,
    under_way: BTreeMap<u64, u64>,
}

/// A snapshot is being sent as long as this lives.
#[derive(Debug)]
pub(crate) struct SendingGuard {
    sending: Sending,
    number: u64,
}

impl Sending {
    pub(crate) fn begin(&self, applied: u64) -> SendingGuard {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, applied);
        drop(state);
        SendingGuard {
            sending: self.clone(),
            number,
        }
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.under_way.values().min().copied()
    }
}

impl Drop for SendingGuard {
    fn drop(&mut self) {
        let mut state = self
            .sending
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Retention = Retention {
        snapshot_after: 100,
        snapshot_after_bytes: 64 << 20,
        kept_bytes: 32 << 20,
    };

    /// A log from 0 on of entries that are all `bytes` long.
    fn log(entries: u64, bytes: usize) -> LogLength {
        let mut length = LogLength::new(0, 0);
        (0..entries).for_each(|index| length.push(index, bytes));
        length
    }

    fn at(applied: u64, snapshot: Option<u64>) -> LogPosition {
        LogPosition {
            applied,
            snapshot,
            ..LogPosition::default()
        }
    }

    #[test]
    fn a_snapshot_is_due_after_so_many_entries_or_so_many_bytes() {
        let small = log(200, 10);
        assert!(!RETENTION.is_snapshot_due(at(98, None), &small));
        assert!(RETENTION.is_snapshot_due(at(99, None), &small));
        assert!(!RETENTION.is_snapshot_due(at(150, Some(99)), &small));
        let large = log(65, 1 << 20);
        assert!(RETENTION.is_snapshot_due(at(64, None), &large));
        assert!(!RETENTION.is_snapshot_due(at(64, Some(30)), &large));
        // Nothing new was applied.
        assert!(!RETENTION.is_snapshot_due(at(64, Some(64)), &large));
    }

    #[test]
    fn a_tail_of_entries_or_of_bytes_is_kept() {
        assert_eq!(RETENTION.purge_upto(at(99, None), &log(100, 10)), None);
        assert_eq!(
            RETENTION.purge_upto(at(99, Some(99)), &log(100, 10)),
            Some(74)
        );
        // 64 entries are less than there may be of them, but 32 of them are 32 MiB.
        assert_eq!(
            RETENTION.purge_upto(at(63, Some(63)), &log(64, 1 << 20)),
            Some(38)
        );
        let few = Retention {
            snapshot_after: 1000,
            ..RETENTION
        };
        assert_eq!(
            few.purge_upto(at(63, Some(63)), &log(64, 1 << 20)),
            Some(31)
        );
        // Never what is not in the durable state.
        assert_eq!(
            few.purge_upto(at(63, Some(20)), &log(64, 1 << 20)),
            Some(20)
        );
    }

    #[test]
    fn a_handful_of_entries_is_not_worth_a_write() {
        let purged = LogPosition {
            purged: Some(70),
            ..at(99, Some(99))
        };
        assert_eq!(RETENTION.purge_upto(purged, &log(100, 10)), None);
    }

    #[test]
    fn what_the_receiver_of_a_snapshot_needs_stays_for_a_while() {
        let sending = |sending, applied| LogPosition {
            sending: Some(sending),
            ..at(applied, Some(applied))
        };
        let length = log(1000, 10);
        assert_eq!(RETENTION.purge_upto(sending(40, 99), &length), Some(40));
        assert_eq!(RETENTION.purge_upto(sending(40, 439), &length), Some(40));
        assert_eq!(RETENTION.purge_upto(sending(40, 440), &length), Some(415));
    }

    #[test]
    fn a_log_is_not_kept_for_ever_for_a_follower_that_is_too_slow() {
        let at = |applied| LogPosition {
            purged: Some(50),
            ..at(applied, Some(applied))
        };
        assert!(!RETENTION.is_overlong(at(449), &log(1000, 10)));
        assert!(RETENTION.is_overlong(at(450), &log(1000, 10)));
        assert!(RETENTION.is_overlong(at(100), &log(400, 1 << 20)));
    }

    #[test]
    fn the_length_follows_truncations_and_purges() {
        let mut length = log(100, 256 << 10);
        assert_eq!(length.bytes(), 25 << 20);
        assert_eq!(length.bytes_from(96), 1 << 20);
        length.truncate(92);
        assert_eq!(length.bytes(), 23 << 20);
        length.purge(87);
        assert_eq!(length.bytes(), 1 << 20);
        length.purge(95);
        assert!(length.bytes() <= 256 << 10);
        length.push(96, 1 << 20);
        assert!(length.bytes_from(96) >= 1 << 20);
    }

    #[test]
    fn the_oldest_snapshot_under_way_counts() {
        let sending = Sending::default();
        let (first, second) = (sending.begin(5), sending.begin(9));
        assert_eq!(sending.oldest(), Some(5));
        drop(first);
        assert_eq!(sending.oldest(), Some(9));
        drop(second);
        assert_eq!(sending.oldest(), None);
    }
}
