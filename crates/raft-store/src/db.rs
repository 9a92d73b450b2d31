//! The two databases of a node.
//!
//! **`log`**: the Raft logs, votes and purge marks of all shards. Every write is synced. Only the
//! log writer's thread writes. Keys are 11 bytes: `shard u16 BE | kind u8 | index u64 BE`.
//!
//! | shard | kind | index | value (`proto/raft.proto`) |
//! |---|---|---|---|
//! | n | 1 | 0 | `BallotVote`: the last vote of shard n |
//! | n | 2 | 0 | `LogId`: the last purged entry |
//! | n | 3 | index | `Entry` |
//! | 65535 | 0 | 0 | `Identity`: format, cluster, node, number of shards |
//!
//! **`state`**: the state tables of all shards, without a write-ahead log. One write carries the
//! changed keys of one shard together with how far it has applied. All is in one column family, so
//! a table flush makes a prefix of the writes durable: a crash finds a consistent older state, and
//! the log replays the rest. Keys are `shard u16 BE | kind u8 | …`:
//!
//! | kind | rest | value |
//! |---|---|---|
//! | 0 | | `AppliedState`: applied entry and membership |
//! | 1 | the machine's key | the machine's value |

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Direction, ErrorKind,
    FlushOptions, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::entry::{
    EntryError, FORMAT, check_format, decode_applied, decode_entry, log_id_from_wire,
    log_id_to_wire, vote_from_wire, vote_to_wire,
};
use crate::error::StoreError;
use crate::ids::{NodeId, ShardId};
use crate::proto::holdfast::raft::v1 as wire;
use crate::type_config::{Entry, LogId, StoredMembership, Vote};
use crate::wal;

/// Shards are numbered below this; the rest of the key space is the node's own.
pub const SHARDS_MAX: u16 = 1024;

const NODE_SPACE: u16 = u16::MAX;
const IDENTITY: u8 = 0;
const VOTE: u8 = 1;
const PURGED: u8 = 2;
const ENTRY: u8 = 3;

const APPLIED: u8 = 0;
const TABLE: u8 = 1;

/// A key and its value.
type Item = (Box<[u8]>, Box<[u8]>);

/// Memory that the databases may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Cache of table blocks, shared by both databases.
    pub block_cache_bytes: u64,
    /// Each database fills a write buffer of this size, while up to two more are being flushed.
    pub write_buffer_bytes: usize,
}

impl Budget {
    /// Write buffers of 32 MiB: large enough that flushes are rare, small enough that the replay of
    /// the write-ahead log at a start takes less than a second.
    #[must_use]
    pub fn new(block_cache_bytes: u64) -> Self {
        Self {
            block_cache_bytes,
            write_buffer_bytes: 32 << 20,
        }
    }
}

/// Whose data it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `cluster.name`.
    pub cluster: String,
    /// `node.id`.
    pub node: NodeId,
    /// `cluster.shards`.
    pub shards: u16,
}

/// Opens both databases of a node, making them at the first start.
///
/// # Errors
/// See [`StoreError`]; in particular a corrupt log is refused, while a torn end is cut.
pub fn open(
    data_dir: &Path,
    budget: Budget,
    owner: &Owner,
) -> Result<(LogDb, StateDb), StoreError> {
    let cache =
        Cache::new_lru_cache(usize::try_from(budget.block_cache_bytes).unwrap_or(usize::MAX));
    let log = LogDb::open(data_dir.join("log"), &options(budget, &cache), owner)?;
    let state = StateDb::open(data_dir.join("state"), &options(budget, &cache))?;
    Ok((log, state))
}

fn options(budget: Budget, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(budget.write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::None);
    options.set_keep_log_file_num(3);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|source| StoreError::Folder {
        path: path.to_owned(),
        source,
    })
}

fn open_error(path: &Path, source: rocksdb::Error) -> StoreError {
    let in_use = source.kind() == ErrorKind::IOError && source.as_ref().contains("lock");
    let path = path.to_owned();
    if in_use {
        StoreError::InUse { path }
    } else {
        StoreError::Open { path, source }
    }
}

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
}

impl LogDb {
    fn open(path: PathBuf, options: &Options, owner: &Owner) -> Result<Self, StoreError> {
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
        let db = DB::open(&options, &path).map_err(|source| open_error(&path, source))?;
        wal::note_opened(&path).map_err(folder_error)?;
        let db = Self { db, path };
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

/// The state database.
pub struct StateDb {
    db: DB,
    path: PathBuf,
}

impl StateDb {
    fn open(path: PathBuf, options: &Options) -> Result<Self, StoreError> {
        make_folder(&path)?;
        let mut options = options.clone();
        options.set_compression_type(DBCompressionType::Lz4);
        let db = DB::open(&options, &path).map_err(|source| open_error(&path, source))?;
        Ok(Self { db, path })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn applied(
        &self,
        shard: ShardId,
    ) -> Result<Option<(LogId, StoredMembership)>, StoreError> {
        let bytes = self.db.get(state_key(shard, APPLIED, &[]));
        let bytes = bytes.map_err(|source| StoreError::Read {
            path: self.path.clone(),
            shard,
            source,
        })?;
        let record_error = |source| StoreError::Record {
            path: self.path.clone(),
            what: "applied state".to_owned(),
            shard,
            source,
        };
        bytes
            .map(|bytes| decode_applied(&bytes).map_err(record_error))
            .transpose()
    }

    /// Hands the tables of a shard to `load`, keys without our prefix, in key order.
    pub(crate) fn load<T>(
        &self,
        shard: ShardId,
        load: impl FnOnce(&mut dyn Iterator<Item = Item>) -> T,
    ) -> Result<T, StoreError> {
        let prefix = state_key(shard, TABLE, &[]);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(state_key(shard, TABLE + 1, &[]));
        let mut items = self
            .db
            .iterator_opt(IteratorMode::From(&prefix, Direction::Forward), options);
        let mut failure = None;
        let loaded = load(&mut std::iter::from_fn(|| match items.next()? {
            Ok((key, value)) => Some((key.get(prefix.len()..)?.into(), value)),
            Err(source) => {
                failure = Some(source);
                None
            }
        }));
        match failure {
            None => Ok(loaded),
            Some(source) => Err(StoreError::Read {
                path: self.path.clone(),
                shard,
                source,
            }),
        }
    }

    /// Writes changed keys together with how far they reach. Does not wait for the disk.
    pub(crate) fn save(
        &self,
        shard: ShardId,
        applied: &[u8],
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            let key = state_key(shard, TABLE, &key);
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch.put(state_key(shard, APPLIED, &[]), applied);
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        self.db.write_opt(batch, &unlogged)
    }

    /// Makes all that was saved durable. Blocks for as long as the disk takes.
    pub(crate) fn flush(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options)
    }
}

fn state_key(shard: ShardId, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + rest.len());
    key.extend(shard.0.to_be_bytes());
    key.push(kind);
    key.extend(rest);
    key
}
