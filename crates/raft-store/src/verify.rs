//! Reads everything that a node has on disk, without running it: for `holdfast check`.
//!
//! The databases are opened as at a start, so a torn end of the log is cut off; nothing else is
//! changed. Every entry, record and content is read and decoded, and RocksDB compares the checksum of
//! every block on the way.

use std::ops::ControlFlow;
use std::path::Path;

use crate::db::{self, Budget, Live, LogDb, Owner, StateDb};
use crate::encoding::{BODIES_FROM, decode_body};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::replica::load_machine;

/// Cache while it reads; each block is read once.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Log entries in memory at once.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// One shard that was read without finding anything wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedShard {
    /// Which.
    pub shard: ShardId,
    /// The entry that its tables stand for; `None`: none yet.
    pub applied_index: Option<u64>,
    /// Of the state in the tables. The same on every replica that stands for the same entry.
    pub digest: u64,
    /// Sessions in it.
    pub sessions: usize,
    /// Rows of the tables, and their bytes.
    pub rows: u64,
    /// Bytes of them.
    pub row_bytes: u64,
    /// First and last entry of the log; `None`: it is empty.
    pub log: Option<(u64, u64)>,
}

/// Reads the databases of a data folder that no process uses.
///
/// # Errors
/// See [`StoreError`]: the first thing that is wrong.
pub fn verify(data_dir: &Path, owner: &Owner) -> Result<Vec<VerifiedShard>, StoreError> {
    let (log, state) = db::open(data_dir, Budget::new(CACHE_BYTES), owner)?;
    let shards = (0..owner.shards).map(ShardId);
    let verified = shards
        .map(|shard| verify_shard(&log, &state, shard))
        .collect();
    log.cancel_background_work();
    state.cancel_background_work();
    verified
}

fn verify_shard(log: &LogDb, state: &StateDb, shard: ShardId) -> Result<VerifiedShard, StoreError> {
    let applied = state.applied(shard)?;
    let slot = applied.as_ref().map(|applied| applied.slot);
    let (machine, _) = load_machine(state, shard, slot.unwrap_or_default())?;
    let (rows, row_bytes) = read_rows(state, shard)?;
    let entries = read_log(log, shard)?;
    let applied_index = applied.map(|applied| applied.applied.index);
    let purged = log.purged(shard)?.map(|log_id| log_id.index);
    // What was cut off the log must be in the tables.
    if let Some(purged) = purged
        && applied_index < Some(purged)
    {
        return Err(StoreError::LostState {
            path: state.path().to_owned(),
            shard,
            purged,
        });
    }
    Ok(VerifiedShard {
        shard,
        applied_index,
        digest: machine.digest(),
        sessions: machine.session_count(),
        rows,
        row_bytes,
        log: entries,
    })
}

/// Reads every row of the live tables, and decodes the contents of messages, which a load leaves out.
fn read_rows(state: &StateDb, shard: ShardId) -> Result<(u64, u64), StoreError> {
    let (mut rows, mut bytes) = (0_u64, 0_u64);
    let mut wrong = None;
    state.visit_live(shard, |live| {
        if let Live::Row(key, value) = live {
            rows = rows.saturating_add(1);
            let size = u64::try_from(key.len().saturating_add(value.len())).unwrap_or(u64::MAX);
            bytes = bytes.saturating_add(size);
            if key >= BODIES_FROM.as_slice() {
                let content = bytes::Bytes::copy_from_slice(value);
                if let Err(error) = decode_body(0, content) {
                    wrong = Some(error.to_string());
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    match wrong {
        None => Ok((rows, bytes)),
        Some(reason) => Err(StoreError::State {
            path: state.path().to_owned(),
            shard,
            reason,
        }),
    }
}

/// Reads every entry that the log must have. The last one is known, so a gap before it shows.
fn read_log(log: &LogDb, shard: ShardId) -> Result<Option<(u64, u64)>, StoreError> {
    let Some(last) = log.last_entry(shard)?.map(|entry| entry.log_id.index) else {
        return Ok(None);
    };
    let purged = log.purged(shard)?.map(|log_id| log_id.index);
    let first = purged.map_or(0, |purged| purged.saturating_add(1));
    if last < first {
        return Ok(None);
    }
    let mut next = first;
    while next <= last {
        let chunk = log.entries(shard, next, last.saturating_add(1), CHUNK_BYTES)?;
        let Some(read) = chunk.last() else {
            return Err(StoreError::LostEntry {
                path: log.path().to_owned(),
                shard,
                index: next,
            });
        };
        next = read.log_id.index.saturating_add(1);
    }
    Ok(Some((first, last)))
}
