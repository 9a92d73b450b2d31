//! The database of the Raft logs, votes and purge marks of all shards.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use rocksdb::{
    CompactOptions, DB, DBRecoveryMode, Direction, IteratorMode, Options, Range, ReadOptions,
    WriteBatch, WriteOptions,
};

use super::{
    Budget, Item, Owner, WritePressure, make_folder, open_error, size_property, write_pressure,
};
use crate::entry::{
    EntryError, FORMAT, check_format, decode_entry, log_id_from_wire, log_id_to_wire,
    vote_from_wire, vote_to_wire,
};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::proto::holdfast::raft::v1 as wire;
use crate::type_config::{Entry, LogId, Vote};
use crate::wal;

const NODE_SPACE: u16 = u16::MAX;
const IDENTITY: u8 = 0;
const VOTE: u8 = 1;
const PURGED: u8 = 2;
const ENTRY: u8 = 3;

/// Flushed files before they are merged. Most of what is in them is purged by then, so that merging
/// copies little; a read has to look into each.
const FILES_BEFORE_MERGE: i32 = 8;

/// The key of a record in the log database.
fn log_key(shard: ShardId, kind: u8, index: u64) -> [u8; 11] {
    let mut key = [0; 11];
    let parts = shard
        .0
        .to_be_bytes()
        .into_iter()
        .chain([kind])
        .chain(index.to_be_bytes());
    for (place, byte) in key.iter_mut().zip(parts) {
        *place = byte;
    }
    key
}

/// The log database.
pub struct LogDb {
    db: DB,
    path: PathBuf,
    tail_bytes_max: usize,
}

impl LogDb {
    pub(super) fn open(
        path: PathBuf,
        options: &Options,
        budget: Budget,
        owner: &Owner,
    ) -> Result<Self, StoreError> {
        make_folder(&path)?;
        let folder_error = |source| StoreError::Folder {
            path: path.clone(),
            source,
        };
        if let Some(corruption) = wal::find_corruption(&path).map_err(folder_error)? {
            let wal::Corruption { file, offset } = corruption;
            return Err(StoreError::CorruptLog {
                path,
                file,
                offset,
                node: owner.node,
            });
        }
        let mut options = options.clone();
        // A file that was written before is synced three times as fast as one that grows.
        options.set_recycle_log_file_num(4);
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_level_zero_file_num_compaction_trigger(FILES_BEFORE_MERGE);
        let db = DB::open(&options, &path).map_err(|source| open_error(&path, source))?;
        wal::note_opened(&path).map_err(folder_error)?;
        let tail_bytes_max = budget.log_tail_bytes / usize::from(owner.shards.max(1));
        let db = Self {
            db,
            path,
            tail_bytes_max,
        };
        db.check_owner(owner)?;
        Ok(db)
    }

    fn check_owner(&self, owner: &Owner) -> Result<(), StoreError> {
        let node_space = ShardId(NODE_SPACE);
        let Some(bytes) = self.get(node_space, IDENTITY)? else {
            return self.write_identity(owner);
        };
        let identity = wire::Identity::decode(bytes.as_ref()).map_err(EntryError::from);
        let record_error = |source| self.record_error("identity", node_space, source);
        let identity = identity.map_err(record_error)?;
        check_format(identity.format).map_err(record_error)?;
        if identity.cluster != owner.cluster || identity.node != u64::from(owner.node.0) {
            return Err(StoreError::Foreign {
                path: self.path.clone(),
                found: format!("node {} of cluster {:?}", identity.node, identity.cluster),
                expected: format!("node {} of cluster {:?}", owner.node, owner.cluster),
            });
        }
        if identity.shards != u32::from(owner.shards) {
            let path = self.path.clone();
            return Err(StoreError::ShardCount {
                path,
                configured: owner.shards,
                stored: identity.shards,
            });
        }
        Ok(())
    }

    fn write_identity(&self, owner: &Owner) -> Result<(), StoreError> {
        let identity = wire::Identity {
            format: FORMAT,
            cluster: owner.cluster.clone(),
            node: u64::from(owner.node.0),
            shards: u32::from(owner.shards),
        };
        let mut batch = LogBatch::default();
        batch.0.put(
            log_key(ShardId(NODE_SPACE), IDENTITY, 0),
            identity.encode_to_vec(),
        );
        let written = self.write_synced(batch);
        written.map_err(|source| StoreError::Write {
            path: self.path.clone(),
            reason: source.into_string(),
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes and syncs. Blocks for as long as the disk takes; must not be called again after an
    /// error.
    pub(crate) fn write_synced(&self, batch: LogBatch) -> Result<(), rocksdb::Error> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(batch.0, &synced)
    }

    pub(crate) fn vote(&self, shard: ShardId) -> Result<Option<Vote>, StoreError> {
        let Some(bytes) = self.get(shard, VOTE)? else {
            return Ok(None);
        };
        let vote = wire::BallotVote::decode(bytes.as_ref()).map_err(EntryError::from);
        let vote = vote.and_then(|vote| vote_from_wire(Some(vote)));
        vote.map(Some)
            .map_err(|source| self.record_error("vote", shard, source))
    }

    pub(crate) fn purged(&self, shard: ShardId) -> Result<Option<LogId>, StoreError> {
        let Some(bytes) = self.get(shard, PURGED)? else {
            return Ok(None);
        };
        let log_id = wire::LogId::decode(bytes.as_ref()).map_err(EntryError::from);
        let log_id = log_id.map_err(|source| self.record_error("purge mark", shard, source))?;
        Ok(Some(log_id_from_wire(log_id)))
    }

    /// The last entry of a shard's log.
    pub(crate) fn last_entry(&self, shard: ShardId) -> Result<Option<Entry>, StoreError> {
        let end = log_key(shard, ENTRY, u64::MAX);
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(log_key(shard, ENTRY, 0));
        let mut items = self
            .db
            .iterator_opt(IteratorMode::From(&end, Direction::Reverse), options);
        items
            .next()
            .map(|item| self.entry_of(shard, item))
            .transpose()
    }

    /// Entries from `start`, without a gap, up to before `end`, but no more once they take
    /// `bytes_max`. Stops at the first missing entry. O(entries read); blocks while it reads.
    pub(crate) fn entries(
        &self,
        shard: ShardId,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let first = log_key(shard, ENTRY, start);
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_upper_bound(log_key(shard, ENTRY, end));
        let items = self
            .db
            .iterator_opt(IteratorMode::From(&first, Direction::Forward), options);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (item, index) in items.zip(start..) {
            bytes += item.as_ref().map_or(0, |(_, value)| value.len());
            let entry = self.entry_of(shard, item)?;
            if entry.log_id.index != index {
                break;
            }
            entries.push(entry);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    /// About how many bytes the entries of a shard take on disk, without those of the last minutes.
    pub(crate) fn flushed_bytes(&self, shard: ShardId) -> u64 {
        let (start, end) = (log_key(shard, ENTRY, 0), log_key(shard, ENTRY + 1, 0));
        let sizes = self.db.get_approximate_sizes(&[Range::new(&start, &end)]);
        sizes.first().copied().unwrap_or(0)
    }

    /// Removes the files that hold nothing but purged entries. To be called once the purge is
    /// durable. Blocks a little.
    ///
    /// It may bring back what a removed file had deleted from an older one; all that is purged, too,
    /// and never read.
    pub(crate) fn drop_purged_files(
        &self,
        shard: ShardId,
        upto: u64,
    ) -> Result<(), rocksdb::Error> {
        let end = upto.saturating_add(1);
        self.db
            .delete_file_in_range(log_key(shard, ENTRY, 0), log_key(shard, ENTRY, end))
    }

    /// Merges the purged part of a shard's log away. Blocks for as long as that takes.
    pub(crate) fn reclaim(&self, shard: ShardId, upto: u64) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_opt(
            Some(log_key(shard, ENTRY, 0)),
            Some(log_key(shard, ENTRY, upto.saturating_add(1))),
            &options,
        );
    }

    /// Bytes of its table files.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        size_property(&self.db)
    }

    /// How it copes with what is written.
    pub(crate) fn pressure(&self) -> WritePressure {
        write_pressure(&self.db)
    }

    /// Stops merging files. Nothing can be written afterwards.
    pub(crate) fn cancel_background_work(&self) {
        self.db.cancel_all_background_work(false);
    }

    /// Memory for the tail of one shard's log.
    pub(crate) fn tail_bytes_max(&self) -> usize {
        self.tail_bytes_max
    }

    fn entry_of(
        &self,
        shard: ShardId,
        item: Result<Item, rocksdb::Error>,
    ) -> Result<Entry, StoreError> {
        let (_, value) = item.map_err(|source| self.read_error(shard, source))?;
        decode_entry(Bytes::from(value))
            .map_err(|source| self.record_error("log entry", shard, source))
    }

    fn get(&self, shard: ShardId, kind: u8) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .get(log_key(shard, kind, 0))
            .map_err(|source| self.read_error(shard, source))
    }

    fn read_error(&self, shard: ShardId, source: rocksdb::Error) -> StoreError {
        StoreError::Read {
            path: self.path.clone(),
            shard,
            source,
        }
    }

    fn record_error(&self, what: &str, shard: ShardId, source: EntryError) -> StoreError {
        StoreError::Record {
            path: self.path.clone(),
            what: what.to_owned(),
            shard,
            source,
        }
    }
}

/// Changes of any shards' logs that become durable together.
#[derive(Default)]
pub(crate) struct LogBatch(WriteBatch);

impl LogBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn put_entry(&mut self, shard: ShardId, index: u64, bytes: &[u8]) {
        self.0.put(log_key(shard, ENTRY, index), bytes);
    }

    pub(crate) fn put_vote(&mut self, shard: ShardId, vote: &Vote) {
        self.0
            .put(log_key(shard, VOTE, 0), vote_to_wire(vote).encode_to_vec());
    }

    /// Removes all entries from `from` on.
    pub(crate) fn truncate(&mut self, shard: ShardId, from: u64) {
        self.0
            .delete_range(log_key(shard, ENTRY, from), log_key(shard, ENTRY + 1, 0));
    }

    /// Removes all entries up to `upto`, inclusive.
    pub(crate) fn purge(&mut self, shard: ShardId, upto: &LogId) {
        self.0.put(
            log_key(shard, PURGED, 0),
            log_id_to_wire(upto).encode_to_vec(),
        );
        self.0.delete_range(
            log_key(shard, ENTRY, 0),
            log_key(shard, ENTRY, upto.index.saturating_add(1)),
        );
    }
}
