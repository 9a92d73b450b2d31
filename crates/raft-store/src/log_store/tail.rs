//! The ends of one shard's log, and its newest entries in memory.

use std::collections::VecDeque;

use crate::entry::entry_memory_bytes;
use crate::retention::LogLength;
use crate::type_config::{Entry, LogId, Vote};

pub(super) struct Tail {
    pub(super) vote: Option<Vote>,
    /// In memory only: openraft wants it back within one life, not across.
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// Index of the first entry; without entries, of the next one.
    pub(super) first: u64,
    pub(super) last: Option<LogId>,
    pub(super) recent: VecDeque<Recent>,
    pub(super) recent_bytes: usize,
    pub(super) length: LogLength,
    /// Number of the newest write.
    pub(super) writes: u64,
    /// The newest purge, and the write that makes it durable.
    pub(super) purge: Option<(LogId, u64)>,
    /// Grows with each truncation: a reader that saw it change reads again.
    pub(super) truncations: u64,
}

pub(super) struct Recent {
    pub(super) entry: Entry,
    pub(super) bytes: usize,
    /// The write that makes it durable.
    pub(super) write: u64,
}

pub(super) enum Plan {
    Memory(Vec<Entry>),
    /// Entries `start..disk_end` are on disk; those up to `end` may be in memory.
    Disk {
        start: u64,
        disk_end: u64,
        end: u64,
    },
}

impl Tail {
    pub(super) fn plan(&self, start: u64, end: u64, bytes_max: usize) -> Plan {
        let start = start.max(self.first);
        let end = end.min(self.last.map_or(0, |last| last.index + 1));
        if start >= end {
            return Plan::Memory(Vec::new());
        }
        match self.recent.front().map(|recent| recent.entry.log_id.index) {
            Some(first) if first <= start => {
                Plan::Memory(self.recent_entries(start - first, end - first, bytes_max))
            }
            Some(first) => Plan::Disk {
                start,
                disk_end: first.min(end),
                end,
            },
            None => Plan::Disk {
                start,
                disk_end: end,
                end,
            },
        }
    }

    pub(super) fn recent_entries(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Entry> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let count = usize::try_from(to)
            .unwrap_or(usize::MAX)
            .saturating_sub(from);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for recent in self.recent.iter().skip(from).take(count) {
            if bytes >= bytes_max {
                break;
            }
            bytes += recent.bytes;
            entries.push(recent.entry.clone());
        }
        entries
    }

    /// Numbers a new write.
    pub(super) fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    pub(super) fn push(&mut self, entry: Entry, write: u64) {
        let bytes = entry_memory_bytes(&entry);
        if self.last == self.purged {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        self.recent_bytes += bytes;
        self.recent.push_back(Recent {
            entry,
            bytes,
            write,
        });
    }

    /// Drops the oldest entries that are written, while the tail is too large.
    pub(super) fn shrink(&mut self, written: u64, bytes_max: usize) {
        while self.recent_bytes > bytes_max
            && let Some(recent) = self.recent.pop_front_if(|recent| recent.write <= written)
        {
            self.recent_bytes -= recent.bytes;
        }
    }

    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let keep =
            |recent: &mut Recent| last.is_none_or(|last| recent.entry.log_id.index > last.index);
        while let Some(recent) = self.recent.pop_back_if(keep) {
            self.recent_bytes -= recent.bytes;
        }
        self.last = later(last, self.purged);
        self.length
            .truncate(self.last.map_or(0, |last| last.index.saturating_add(1)));
        self.truncations += 1;
    }

    /// Returns the number of the write that it is.
    pub(super) fn purge(&mut self, upto: LogId) -> u64 {
        while let Some(recent) = self
            .recent
            .pop_front_if(|recent| recent.entry.log_id.index <= upto.index)
        {
            self.recent_bytes -= recent.bytes;
        }
        self.purged = later(self.purged, Some(upto));
        self.first = self.first.max(upto.index.saturating_add(1));
        self.last = later(self.last, Some(upto));
        self.length.purge(upto.index);
        let write = self.next_write();
        self.purge = Some((upto, write));
        write
    }
}

/// The one further along the log; `second` if both are at one place. Entries that were never
/// committed may have a higher term than a later one of a snapshot.
pub(super) fn later(first: Option<LogId>, second: Option<LogId>) -> Option<LogId> {
    let index = |log_id: Option<LogId>| log_id.map(|log_id| log_id.index);
    if index(first) > index(second) {
        first
    } else {
        second
    }
}
