//! One shard's Raft log, as openraft wants it: append, truncate, purge, vote, read.
//!
//! An appended entry can be read at once, long before it is durable, because the tail of the log is
//! kept in memory; older entries come from the database. Invariants:
//! - the tail has no gap and ends at the last entry;
//! - **an entry that is not yet written is in the tail**, so only written ones are ever dropped
//!   from it;
//! - what a reader is given at one index changes only after a truncation, and openraft never
//!   truncates what is committed.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{LogState, OptionalSend, RaftLogReader};

use crate::db::LogDb;
use crate::entry::{encode_entry, entry_memory_bytes};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::log_writer::{Change, LogWriter, Progress, Write};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

/// Memory for the tail of one shard. A follower that lags no further is served from memory.
const TAIL_BYTES_MAX: usize = 16 << 20;
/// Entries of one replication message, and of one step of a replay.
const READ_BYTES_MAX: usize = 1 << 20;

/// One shard's log. Clones share it; openraft uses one for writing and others for reading.
#[derive(Clone)]
pub struct LogStore(Arc<ShardLog>);

struct ShardLog {
    shard: ShardId,
    db: Arc<LogDb>,
    writer: LogWriter,
    progress: Progress,
    tail: Mutex<Tail>,
}

struct Tail {
    vote: Option<Vote>,
    /// In memory only: openraft wants it back within one life, not across.
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Index of the first entry; without entries, of the next one.
    first: u64,
    last: Option<LogId>,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Number of the newest write.
    writes: u64,
    /// Grows with each truncation: a reader that saw it change reads again.
    truncations: u64,
}

struct Recent {
    entry: Entry,
    bytes: usize,
    /// The write that makes it durable.
    write: u64,
}

impl LogStore {
    /// Reads a shard's vote and the ends of its log.
    ///
    /// # Errors
    /// When they cannot be read or make no sense.
    pub fn open(shard: ShardId, db: Arc<LogDb>, writer: LogWriter) -> Result<Self, StoreError> {
        let purged = db.purged(shard)?;
        let first = purged.map_or(0, |purged| purged.index + 1);
        let last = db.last_entry(shard)?.map(|entry| entry.log_id).max(purged);
        if last > purged && db.entries(shard, first, first + 1, 1)?.is_empty() {
            return Err(StoreError::LostEntry {
                path: db.path().to_owned(),
                shard,
                index: first,
            });
        }
        let tail = Tail {
            vote: db.vote(shard)?,
            committed: None,
            purged,
            first,
            last,
            recent: VecDeque::new(),
            recent_bytes: 0,
            writes: 0,
            truncations: 0,
        };
        Ok(Self(Arc::new(ShardLog {
            shard,
            db,
            writer,
            progress: Progress::default(),
            tail: Mutex::new(tail),
        })))
    }

    /// The last entry, durable or not.
    #[must_use]
    pub fn last_log_id(&self) -> Option<LogId> {
        self.tail().last
    }

    /// Whether every entry up to `index` is on this node's disk.
    #[must_use]
    pub fn is_durable(&self, index: u64) -> bool {
        let written = self.0.progress.written();
        let tail = self.tail();
        let first_unwritten = tail
            .recent
            .partition_point(|recent| recent.write <= written);
        match tail.recent.get(first_unwritten) {
            Some(unwritten) => index < unwritten.entry.log_id.index,
            None => tail.last.is_some_and(|last| index <= last.index),
        }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // Nothing that holds it can panic half-way through a change.
        self.0.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn submit(
        &self,
        change: Change,
        number: u64,
        done: IOFlushed<TypeConfig>,
    ) -> io::Result<()> {
        let progress = self.0.progress.clone();
        self.0
            .writer
            .submit(Write {
                shard: self.0.shard,
                change,
                number,
                progress,
                done,
            })
            .await
    }

    /// Entries `start..end` as far as the log has them, but no more once they take `bytes_max`.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        loop {
            let (plan, truncations) = {
                let tail = self.tail();
                (tail.plan(start, end, bytes_max), tail.truncations)
            };
            let (start, disk_end, end) = match plan {
                Plan::Memory(entries) => return Ok(entries),
                Plan::Disk {
                    start,
                    disk_end,
                    end,
                } => (start, disk_end, end),
            };
            let mut entries = self
                .0
                .db
                .entries(self.0.shard, start, disk_end, bytes_max)?;
            if self.tail().truncations != truncations {
                continue;
            }
            let bytes: usize = entries.iter().map(entry_memory_bytes).sum();
            let next = entries.last().map_or(start, |entry| entry.log_id.index + 1);
            if next < disk_end && bytes < bytes_max {
                return Err(StoreError::LostEntry {
                    path: self.0.db.path().to_owned(),
                    shard: self.0.shard,
                    index: next,
                });
            }
            if next == disk_end && next < end && bytes < bytes_max {
                entries.extend(self.read(next, end, bytes_max - bytes)?);
            }
            return Ok(entries);
        }
    }
}

enum Plan {
    Memory(Vec<Entry>),
    /// Entries `start..disk_end` are on disk; those up to `end` may be in memory.
    Disk {
        start: u64,
        disk_end: u64,
        end: u64,
    },
}

impl Tail {
    fn plan(&self, start: u64, end: u64, bytes_max: usize) -> Plan {
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

    fn recent_entries(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Entry> {
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
    fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    fn push(&mut self, entry: Entry, write: u64) {
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
    fn shrink(&mut self, written: u64) {
        while self.recent_bytes > TAIL_BYTES_MAX
            && let Some(recent) = self.recent.pop_front_if(|recent| recent.write <= written)
        {
            self.recent_bytes -= recent.bytes;
        }
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let keep =
            |recent: &mut Recent| last.is_none_or(|last| recent.entry.log_id.index > last.index);
        while let Some(recent) = self.recent.pop_back_if(keep) {
            self.recent_bytes -= recent.bytes;
        }
        self.last = last.max(self.purged);
        self.truncations += 1;
    }

    fn purge(&mut self, upto: LogId) {
        while let Some(recent) = self
            .recent
            .pop_front_if(|recent| recent.entry.log_id.index <= upto.index)
        {
            self.recent_bytes -= recent.bytes;
        }
        self.purged = self.purged.max(Some(upto));
        self.first = self.first.max(upto.index + 1);
        self.last = self.last.max(Some(upto));
    }
}

/// The indices of a range, end exclusive.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        Ok(self.read(start, end, usize::MAX)?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start, end, READ_BYTES_MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail().vote)
    }

    /// In steps, so that the replay of a long log takes bounded memory.
    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend {
        let (start, end) = bounds(&range);
        let steps = stream::unfold(Some((self.clone(), start)), move |state| async move {
            let (log, start) = state?;
            let step = match log.read(start, end, READ_BYTES_MAX) {
                Ok(step) => step,
                Err(error) => return Some((vec![Err(io::Error::from(error))], None)),
            };
            let next = step.last()?.log_id.index + 1;
            let state = (next < end).then_some((log, next));
            Some((step.into_iter().map(Ok).collect(), state))
        });
        steps.flat_map(stream::iter)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let number = self.tail().next_write();
        let (told, waiter) = TypeConfig::oneshot();
        self.submit(Change::Vote(*vote), number, IOFlushed::signal(told))
            .await?;
        waiter.await.map_err(io::Error::other)??;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.tail().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        let number = {
            let written = self.0.progress.written();
            let mut tail = self.tail();
            let number = tail.next_write();
            for entry in entries {
                encoded.push((entry.log_id.index, encode_entry(&entry)));
                tail.push(entry, number);
            }
            tail.shrink(written);
            number
        };
        self.submit(Change::Append(encoded), number, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (number, from) = {
            let mut tail = self.tail();
            let last = tail.last.map(|last| last.index);
            if last_log_id.map(|log_id| log_id.index) >= last {
                return Ok(());
            }
            tail.truncate(last_log_id);
            (
                tail.next_write(),
                last_log_id.map_or(0, |log_id| log_id.index + 1),
            )
        };
        self.submit(Change::Truncate(from), number, IOFlushed::noop())
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let number = {
            let mut tail = self.tail();
            tail.purge(log_id);
            tail.next_write()
        };
        self.submit(Change::Purge(log_id), number, IOFlushed::noop())
            .await
    }
}
