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
use crate::retention::LogLength;
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

mod tail;

use tail::{Plan, Tail, later};

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

impl LogStore {
    /// Reads a shard's vote and the ends of its log.
    ///
    /// # Errors
    /// When they cannot be read or make no sense.
    pub fn open(shard: ShardId, db: Arc<LogDb>, writer: LogWriter) -> Result<Self, StoreError> {
        let purged = db.purged(shard)?;
        let first = purged.map_or(0, |purged| purged.index + 1);
        let last = db.last_entry(shard)?.map(|entry| entry.log_id);
        let last = later(last, purged);
        if last != purged && db.entries(shard, first, first + 1, 1)?.is_empty() {
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
            length: LogLength::new(first, db.flushed_bytes(shard)),
            writes: 0,
            purge: None,
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

    /// Index of the first entry; of the next one when there is none.
    pub(crate) fn first_index(&self) -> u64 {
        self.tail().first
    }

    /// How many entries it holds.
    pub(crate) fn entries(&self) -> u64 {
        let tail = self.tail();
        let next = tail.last.map_or(0, |last| last.index.saturating_add(1));
        next.saturating_sub(tail.first)
    }

    /// The last entry that was cut off.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.tail().purged
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

    /// How long the log is.
    pub(crate) fn length(&self) -> LogLength {
        self.tail().length.clone()
    }

    /// The last purged entry, once its purge is on the disk.
    pub(crate) fn durable_purge(&self) -> Option<LogId> {
        let written = self.0.progress.written();
        let purge = self.tail().purge;
        purge
            .filter(|(_, write)| *write <= written)
            .map(|(upto, _)| upto)
    }

    /// Frees disk space that purged entries take. Blocks for a moment.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn drop_purged_files(&self) -> Result<(), StoreError> {
        let Some(upto) = self.durable_purge() else {
            return Ok(());
        };
        let dropped = self.0.db.drop_purged_files(self.0.shard, upto.index);
        dropped.map_err(|source| StoreError::Write {
            path: self.0.db.path().to_owned(),
            reason: source.into_string(),
        })
    }

    /// Merges purged entries away. Blocks for as long as that takes.
    pub fn reclaim(&self) {
        if let Some(upto) = self.durable_purge() {
            self.0.db.reclaim(self.0.shard, upto.index);
        }
    }

    /// Whether the log holds this very entry, or ends with it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn holds(&self, log_id: LogId) -> Result<bool, StoreError> {
        let (purged, end) = (self.tail().purged, log_id.index.saturating_add(1));
        let entries = self.read(log_id.index, end, usize::MAX)?;
        let found = entries.first().map(|entry| entry.log_id);
        Ok(purged == Some(log_id) || found == Some(log_id))
    }

    /// Makes the log empty, as if all up to `log_id` had been purged; durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) async fn restart_after(&self, log_id: LogId) -> io::Result<()> {
        let (truncation, purge) = {
            let mut tail = self.tail();
            let purged = tail.purged;
            tail.truncate(purged);
            let truncation = tail.next_write();
            (truncation, tail.purge(log_id))
        };
        let from = log_id.index.saturating_add(1);
        self.submit(Change::Truncate(from), truncation, IOFlushed::noop())
            .await?;
        let (told, waiter) = TypeConfig::oneshot();
        self.submit(Change::Purge(log_id), purge, IOFlushed::signal(told))
            .await?;
        waiter.await.map_err(io::Error::other)?
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
        // An openraft that asks for purged entries must not be given later ones instead.
        if start < self.tail().first {
            return Ok(Vec::new());
        }
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
                let bytes = encode_entry(&entry);
                tail.length.push(entry.log_id.index, bytes.len());
                encoded.push((entry.log_id.index, bytes));
                tail.push(entry, number);
            }
            tail.shrink(written, self.0.db.tail_bytes_max());
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
        let number = self.tail().purge(log_id);
        self.submit(Change::Purge(log_id), number, IOFlushed::noop())
            .await
    }
}
