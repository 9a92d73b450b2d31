//! The database of the state tables of all shards.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, DBCompressionType, Direction, FlushOptions,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::{Item, WritePressure, make_folder, open_error, size_property, write_pressure};
use crate::entry::{AppliedState, Slot, decode_applied, encode_applied};
use crate::error::StoreError;
use crate::ids::ShardId;

const APPLIED: u8 = 0;
const SLOT_A: u8 = 1;
const SLOT_B: u8 = 2;

/// Of this many rows in a file, in order, half deleted ones make the file worth a merge.
const DELETIONS_WINDOW: usize = 4096;
/// Read ahead while a whole table is read.
const READ_AHEAD_BYTES: usize = 2 << 20;

/// Changed keys with their values; without one it is gone.
pub(crate) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What live tables consist of.
pub(crate) enum Live<'a> {
    /// First: what they stand for.
    State(&'a AppliedState),
    /// Then each key with its value, in key order.
    Row(&'a [u8], &'a [u8]),
}

/// The state database.
pub struct StateDb {
    db: DB,
    path: PathBuf,
}

impl StateDb {
    pub(super) fn open(path: PathBuf, options: &Options) -> Result<Self, StoreError> {
        make_folder(&path)?;
        let mut options = options.clone();
        options.set_compression_type(DBCompressionType::Lz4);
        // A drained queue leaves nothing but deletions: without this they stay, and what they delete,
        // until enough else is written.
        options.add_compact_on_deletion_collector_factory(
            DELETIONS_WINDOW,
            DELETIONS_WINDOW / 2,
            0.5,
        );
        let db = DB::open(&options, &path).map_err(|source| open_error(&path, source))?;
        Ok(Self { db, path })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the tables of a shard have come, and where they are; `None` before the first save.
    ///
    /// # Errors
    /// When that cannot be read or makes no sense.
    pub fn applied(&self, shard: ShardId) -> Result<Option<AppliedState>, StoreError> {
        let bytes = self.db.get(state_key(shard, APPLIED, &[]));
        let bytes = bytes.map_err(|source| self.read_error(shard, source))?;
        bytes
            .map(|bytes| self.decode_applied(shard, &bytes))
            .transpose()
    }

    fn decode_applied(&self, shard: ShardId, bytes: &[u8]) -> Result<AppliedState, StoreError> {
        decode_applied(bytes).map_err(|source| StoreError::Record {
            path: self.path.clone(),
            what: "applied state".to_owned(),
            shard,
            source,
        })
    }

    /// Hands the tables in a slot to `load`, keys without our prefix, in key order, up to before
    /// `end` if it is given.
    pub(crate) fn load<T>(
        &self,
        shard: ShardId,
        slot: Slot,
        end: Option<&[u8]>,
        load: impl FnOnce(&mut dyn Iterator<Item = Item>) -> T,
    ) -> Result<T, StoreError> {
        let prefix = slot_prefix(shard, slot);
        let mut options = scan_options();
        options.set_iterate_upper_bound(match end {
            Some(end) => state_key(shard, slot_kind(slot), end),
            None => slot_end(shard, slot),
        });
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
            Some(source) => Err(self.read_error(shard, source)),
        }
    }

    /// One value of the tables in a slot, for who reads it once: the block cache is left alone.
    pub(crate) fn get(
        &self,
        shard: ShardId,
        slot: Slot,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        self.db
            .get_opt(state_key(shard, slot_kind(slot), key), &options)
            .map_err(|source| self.read_error(shard, source))
    }

    /// Hands the live tables of a shard to `visit`, all as of one moment, until that breaks off.
    /// Tells whether everything was visited. Blocks; O(size of the state).
    pub(crate) fn visit_live(
        &self,
        shard: ShardId,
        mut visit: impl FnMut(Live<'_>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let first = state_key(shard, APPLIED, &[]);
        let mut options = scan_options();
        options.set_iterate_upper_bound(slot_end(shard, Slot::B));
        // One iterator sees one moment, also while another thread writes.
        let mut items = self
            .db
            .iterator_opt(IteratorMode::From(&first, Direction::Forward), options);
        let state = match items.next().transpose() {
            Err(source) => return Err(self.read_error(shard, source)),
            Ok(Some((key, value))) if *key == *first => self.decode_applied(shard, &value)?,
            Ok(_) => return Ok(false),
        };
        if visit(Live::State(&state)).is_break() {
            return Ok(false);
        }
        let prefix = slot_prefix(shard, state.slot);
        items.set_mode(IteratorMode::From(&prefix, Direction::Forward));
        for item in items {
            let (key, value) = item.map_err(|source| self.read_error(shard, source))?;
            let Some(key) = key.strip_prefix(prefix.as_slice()) else {
                break;
            };
            if visit(Live::Row(key, &value)).is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes changed keys of the live tables together with how far they reach. Does not wait for
    /// the disk.
    pub(crate) fn save(
        &self,
        shard: ShardId,
        state: &AppliedState,
        changes: Changes,
    ) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            let key = state_key(shard, slot_kind(state.slot), &key);
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch.put(state_key(shard, APPLIED, &[]), encode_applied(state));
        self.write(batch)
    }

    /// Writes rows into the slot that is not live. Does not wait for the disk.
    pub(crate) fn fill<'a>(
        &self,
        shard: ShardId,
        slot: Slot,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put(state_key(shard, slot_kind(slot), key), value);
        }
        self.write(batch)
    }

    /// Makes a filled slot the live one; durable when it returns.
    pub(crate) fn switch(
        &self,
        shard: ShardId,
        state: &AppliedState,
    ) -> Result<(), rocksdb::Error> {
        self.save(shard, state, Vec::new())?;
        self.flush()
    }

    /// Deletes everything in a slot. Does not wait for the disk; [`Self::reclaim`] frees the space.
    pub(crate) fn clear(&self, shard: ShardId, slot: Slot) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        batch.delete_range(slot_prefix(shard, slot), slot_end(shard, slot));
        self.write(batch)
    }

    /// Whether a slot holds nothing.
    pub(crate) fn is_clear(&self, shard: ShardId, slot: Slot) -> Result<bool, StoreError> {
        self.load(shard, slot, None, |items| items.next().is_none())
    }

    /// Frees the disk space of what was deleted from a slot. Blocks for as long as that takes.
    pub(crate) fn reclaim(&self, shard: ShardId, slot: Slot) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_opt(
            Some(slot_prefix(shard, slot)),
            Some(slot_end(shard, slot)),
            &options,
        );
    }

    /// Makes all that was saved durable. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// What RocksDB said.
    pub fn flush(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options)
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

    fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let began = std::time::Instant::now();
        let written = self.db.write_opt(batch, &unlogged);
        metrics::histogram!("holdfast_storage_write_duration_seconds").record(began.elapsed());
        written
    }

    fn read_error(&self, shard: ShardId, source: rocksdb::Error) -> StoreError {
        StoreError::Read {
            path: self.path.clone(),
            shard,
            source,
        }
    }
}

/// A scan of whole tables leaves the block cache alone.
fn scan_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(READ_AHEAD_BYTES);
    options
}

fn slot_kind(slot: Slot) -> u8 {
    match slot {
        Slot::A => SLOT_A,
        Slot::B => SLOT_B,
    }
}

fn slot_prefix(shard: ShardId, slot: Slot) -> Vec<u8> {
    state_key(shard, slot_kind(slot), &[])
}

/// The first key after a slot.
fn slot_end(shard: ShardId, slot: Slot) -> Vec<u8> {
    state_key(shard, slot_kind(slot) + 1, &[])
}

fn state_key(shard: ShardId, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + rest.len());
    key.extend(shard.0.to_be_bytes());
    key.push(kind);
    key.extend(rest);
    key
}
