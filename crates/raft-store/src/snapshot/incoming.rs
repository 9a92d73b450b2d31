//! A snapshot on its way in: checked chunk by chunk, written into the slot that is not live.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tonic::{Status, Streaming};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::db::StateDb;
use crate::entry::{
    AppliedState, EntryError, Slot, check_format, log_id_from_wire, membership_from_wire,
    required_log_id, vote_from_wire,
};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::machine::Machine;
use crate::proto::holdfast::raft::v1 as wire;
use crate::proto::holdfast::raft::v1::snapshot_part::Part;
use crate::replica::{Replica, load_machine};
use crate::type_config::{LogId, StoredMembership, Vote};

/// The sender is silent for this long: given up, so that another leader's snapshot can come in.
const SILENT_LIMIT: Duration = Duration::from_secs(10);
/// Before each key and value: the length of both.
const ROW_HEADER_BYTES: usize = 8;

/// Why a snapshot was not received. The sender starts again.
#[derive(Debug, thiserror::Error)]
pub enum ReceptionError {
    /// Another one of this shard is on its way in.
    #[error("another snapshot of this shard is being received")]
    Busy,
    /// Not what was sent.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// A message makes no sense.
    #[error("{0}")]
    Malformed(#[from] EntryError),
    /// The sender gave up, or went silent.
    #[error("the snapshot ended early: {0}")]
    Ended(String),
    /// It cannot be stored. Final, like every failed write.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What a snapshot stands for, and whose it is.
#[derive(Debug)]
pub struct SnapshotHead {
    /// The leader that sends it.
    pub vote: Vote,
    /// The last entry in it.
    pub applied: LogId,
    /// The membership at that entry.
    pub membership: StoredMembership,
}

/// Reads the head of a snapshot.
///
/// # Errors
/// What is broken, or a format that only newer versions know.
pub fn head_from_wire(head: wire::SnapshotHead) -> Result<SnapshotHead, EntryError> {
    check_format(head.format)?;
    let membership = membership_from_wire(head.membership.unwrap_or_default())?;
    Ok(SnapshotHead {
        vote: vote_from_wire(head.vote)?,
        applied: required_log_id(head.applied, "applied")?,
        membership: StoredMembership::new(head.membership_log_id.map(log_id_from_wire), membership),
    })
}

/// The rows of a chunk: keys and values, checked against its checksum.
///
/// # Errors
/// [`ReceptionError::Damaged`].
pub fn rows(chunk: &wire::SnapshotChunk) -> Result<Vec<Row<'_>>, ReceptionError> {
    if xxh3_64(&chunk.rows) != chunk.checksum {
        return Err(damaged("a chunk's checksum is wrong"));
    }
    let mut rest = chunk.rows.as_ref();
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let (row, after) = split_row(rest).ok_or_else(|| damaged("a row is cut"))?;
        rows.push(row);
        rest = after;
    }
    Ok(rows)
}

/// A key and its value.
pub type Row<'a> = (&'a [u8], &'a [u8]);
/// A row, and what follows it.
type Split<'a> = (Row<'a>, &'a [u8]);

fn split_row(bytes: &[u8]) -> Option<Split<'_>> {
    let (lengths, rest) = bytes.split_first_chunk::<ROW_HEADER_BYTES>()?;
    let [k0, k1, k2, k3, v0, v1, v2, v3] = *lengths;
    let length = |bytes: [u8; 4]| usize::try_from(u32::from_le_bytes(bytes)).ok();
    let (key, rest) = rest.split_at_checked(length([k0, k1, k2, k3])?)?;
    let (value, rest) = rest.split_at_checked(length([v0, v1, v2, v3])?)?;
    Some(((key, value), rest))
}

fn damaged(what: &str) -> ReceptionError {
    ReceptionError::Damaged(what.to_owned())
}

/// Takes the head of a snapshot from its stream.
pub(crate) async fn first_part(
    parts: &mut Streaming<wire::SnapshotPart>,
) -> Result<wire::SnapshotHead, Status> {
    match next_part(parts).await {
        Ok(Part::Head(head)) => Ok(head),
        Ok(Part::Chunk(_) | Part::End(_)) => Err(Status::invalid_argument("no head")),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

async fn next_part(parts: &mut Streaming<wire::SnapshotPart>) -> Result<Part, ReceptionError> {
    let ended = |reason: &str| ReceptionError::Ended(reason.to_owned());
    match tokio::time::timeout(SILENT_LIMIT, parts.message()).await {
        Err(_) => Err(ended("the sender is silent")),
        Ok(Err(status)) => Err(ended(status.message())),
        Ok(Ok(None)) => Err(ended("no end was sent")),
        Ok(Ok(Some(part))) => part
            .part
            .ok_or(ReceptionError::Malformed(EntryError::Missing("part"))),
    }
}

/// Takes the rest of a snapshot from its stream into the slot that is not live.
pub(crate) async fn receive(
    replica: &Arc<Replica>,
    head: SnapshotHead,
    mut parts: Streaming<wire::SnapshotPart>,
) -> Result<ReceivedTables, ReceptionError> {
    let owned = Arc::clone(replica);
    let mut reception = blocking(move || Reception::begin(&owned, head)).await?;
    loop {
        match next_part(&mut parts).await? {
            Part::Chunk(chunk) => {
                reception = blocking(move || {
                    reception.add(&chunk)?;
                    Ok(reception)
                })
                .await?;
            }
            Part::End(end) => return blocking(move || reception.finish(&end)).await,
            Part::Head(_) => return Err(damaged("a second head")),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReceptionError> + Send + 'static,
) -> Result<T, ReceptionError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ReceptionError::Ended(error.to_string())))
}

/// A snapshot on its way in: the slot that is not live fills. Dropping it empties the slot.
pub(crate) struct Reception {
    slot: FillingSlot,
    applied: LogId,
    membership: StoredMembership,
    count: u64,
    checksums: Xxh3,
}

/// A complete and checked snapshot in the slot that is not live. Dropping it empties the slot.
pub(crate) struct ReceivedTables {
    slot: FillingSlot,
    pub(crate) state: AppliedState,
    pub(crate) machine: Machine,
    pub(crate) rows: u64,
}

/// The right to fill the slot that is not live.
struct FillingSlot {
    db: Arc<StateDb>,
    shard: ShardId,
    slot: Slot,
    live: bool,
    _only_one: OwnedMutexGuard<()>,
}

impl Drop for FillingSlot {
    fn drop(&mut self) {
        if self.live {
            return;
        }
        if let Err(error) = self.db.clear(self.shard, self.slot) {
            // The next reception, or the next start, tries again.
            tracing::error!(shard = self.shard.0, %error, "cannot delete a snapshot that is not needed");
        }
    }
}

impl Reception {
    /// Empties the slot that is not live, to be filled. Blocks.
    pub(crate) fn begin(replica: &Replica, head: SnapshotHead) -> Result<Self, ReceptionError> {
        let only_one = replica.only_reception().ok_or(ReceptionError::Busy)?;
        let slot = FillingSlot {
            db: Arc::clone(replica.db()),
            shard: replica.shard(),
            slot: replica.live_slot().other(),
            live: false,
            _only_one: only_one,
        };
        let cleared = slot.db.clear(slot.shard, slot.slot);
        cleared.map_err(|error| slot.write_error(error))?;
        Ok(Self {
            slot,
            applied: head.applied,
            membership: head.membership,
            count: 0,
            checksums: Xxh3::new(),
        })
    }

    /// Stores a chunk. Blocks.
    pub(crate) fn add(&mut self, chunk: &wire::SnapshotChunk) -> Result<(), ReceptionError> {
        let rows = rows(chunk)?;
        self.count += u64::try_from(rows.len()).unwrap_or(0);
        self.checksums.update(&chunk.checksum.to_le_bytes());
        metrics::counter!("holdfast_raft_snapshot_bytes_total", "direction" => "received")
            .increment(u64::try_from(chunk.rows.len()).unwrap_or(0));
        let FillingSlot {
            db, shard, slot, ..
        } = &self.slot;
        let filled = db.fill(*shard, *slot, rows.into_iter());
        filled.map_err(|error| self.slot.write_error(error))
    }

    /// Checks that all is there, and that it is a state. Blocks; O(size of the state).
    pub(crate) fn finish(self, end: &wire::SnapshotEnd) -> Result<ReceivedTables, ReceptionError> {
        if end.rows != self.count {
            let reason = format!("{} rows were sent, {} came", end.rows, self.count);
            return Err(ReceptionError::Damaged(reason));
        }
        if end.checksum != self.checksums.digest() {
            return Err(damaged("the checksum of all chunks is wrong"));
        }
        let FillingSlot {
            ref db,
            shard,
            slot,
            ..
        } = self.slot;
        let (machine, _) = load_machine(db, shard, slot)?;
        let state = AppliedState {
            applied: self.applied,
            membership: self.membership,
            slot,
            installed: Some(self.applied),
        };
        Ok(ReceivedTables {
            slot: self.slot,
            state,
            machine,
            rows: self.count,
        })
    }
}

impl FillingSlot {
    fn write_error(&self, source: rocksdb::Error) -> ReceptionError {
        ReceptionError::Store(StoreError::Write {
            path: self.db.path().to_owned(),
            reason: source.into_string(),
        })
    }
}

impl ReceivedTables {
    /// The slot is the live one now: it stays. Returns the state that it holds, and the right to
    /// use the other slot, to be held until that one is empty.
    pub(crate) fn keep(mut self) -> (AppliedState, Machine, impl Send) {
        self.slot.live = true;
        (self.state, self.machine, self.slot)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::outgoing::tests::chunks;
    use super::*;

    #[test]
    fn rows_come_out_as_they_went_in() {
        let (chunks, _) = chunks(2000);
        let mut expected = 0_u32;
        for chunk in &chunks {
            for (key, value) in rows(chunk).unwrap() {
                assert_eq!(key, expected.to_be_bytes());
                assert_eq!(value, [7; 1000]);
                expected += 1;
            }
        }
        assert_eq!(expected, 2000);
    }

    #[test]
    fn a_changed_byte_or_a_cut_row_is_noticed() {
        let (chunks, _) = chunks(3);
        let chunk = &chunks[0];
        let mut changed = chunk.rows.to_vec();
        changed[20] ^= 1;
        let changed = wire::SnapshotChunk {
            rows: Bytes::from(changed),
            checksum: chunk.checksum,
        };
        assert!(matches!(rows(&changed), Err(ReceptionError::Damaged(_))));
        for length in [1, 7, 9, chunk.rows.len() - 1] {
            let cut = chunk.rows.slice(..length);
            let checksum = xxh3_64(&cut);
            let cut = wire::SnapshotChunk {
                rows: cut,
                checksum,
            };
            assert!(matches!(rows(&cut), Err(ReceptionError::Damaged(_))));
        }
    }
}
