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
//! | 0 | | `AppliedState`: applied entry, membership, which slot is live |
//! | 1, 2 | the machine's key | the machine's value; slot A, slot B |
//!
//! A snapshot is received into the slot that is not live; one write of `AppliedState` installs it.

use std::fs;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, ErrorKind, LogLevel, Options, properties,
};

use crate::error::StoreError;
use crate::ids::NodeId;

mod log;
mod state;

pub(crate) use log::LogBatch;
pub use log::LogDb;
pub use state::StateDb;
pub(crate) use state::{Changes, Live};

/// Shards are numbered below this; the rest of the key space is the node's own.
pub const SHARDS_MAX: u16 = 1024;

/// A key and its value.
type Item = (Box<[u8]>, Box<[u8]>);

/// Memory that the databases may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Cache of table blocks, shared by both databases.
    pub block_cache_bytes: u64,
    /// Each database fills a write buffer of this size, while up to two more are being flushed.
    pub write_buffer_bytes: usize,
    /// The newest entries of all shards' logs, in memory.
    pub log_tail_bytes: usize,
}

impl Budget {
    /// Write buffers of 16 MiB: large enough that flushes are rare, small enough that both databases
    /// together take less than 100 MiB, and that the replay of the write-ahead log at a start takes
    /// less than a second. Tails of 16 MiB: a follower that lags no further, a second or two at full
    /// load, is served from memory.
    #[must_use]
    pub fn new(block_cache_bytes: u64) -> Self {
        Self {
            block_cache_bytes,
            write_buffer_bytes: 16 << 20,
            log_tail_bytes: 16 << 20,
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
    let options = options(budget, &cache);
    let log = LogDb::open(data_dir.join("log"), &options, budget, owner)?;
    let state = StateDb::open(data_dir.join("state"), &options)?;
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

/// How a database copes with what is written to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WritePressure {
    /// Estimate of what it has to rewrite.
    pub(crate) pending_compaction_bytes: u64,
    /// Writes are slowed down.
    pub(crate) is_delayed: bool,
    /// Nothing can be written.
    pub(crate) is_stopped: bool,
}

fn write_pressure(db: &DB) -> WritePressure {
    let property = |name: &properties::PropName| {
        let value = db.property_int_value(name);
        value.ok().flatten().unwrap_or(0)
    };
    WritePressure {
        pending_compaction_bytes: property(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        is_delayed: property(properties::ACTUAL_DELAYED_WRITE_RATE) > 0,
        is_stopped: property(properties::IS_WRITE_STOPPED) > 0,
    }
}

fn size_property(db: &DB) -> u64 {
    let size = db.property_int_value(properties::TOTAL_SST_FILES_SIZE);
    size.ok().flatten().unwrap_or(0)
}
