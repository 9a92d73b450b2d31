//! A snapshot on its way out: the live tables are read on a thread of their own, all as of one
//! moment, and sent chunk by chunk on a connection of their own.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use openraft::StorageError;
use openraft::errors::StreamingError;
use openraft::raft::SnapshotResponse;
use openraft::type_config::TypeConfigExt;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::count_event;
use crate::connections::Peer;
use crate::db::Live;
use crate::entry::{
    AppliedState, FORMAT, log_id_to_wire, membership_to_wire, vote_from_wire, vote_to_wire,
};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::proto::holdfast::raft::v1 as wire;
use crate::proto::holdfast::raft::v1::snapshot_part::Part;
use crate::replica::Replica;
use crate::retention::SendingGuard;
use crate::type_config::{LogId, TypeConfig, Vote};

/// Rows of one chunk, at most this and one row. Large enough that a chunk costs little besides its
/// bytes, small enough that a few of them are no memory.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for the connection.
const CHUNKS_WAITING: usize = 4;
/// The peer takes nothing for this long, though it answers pings: given up, and begun again. Above
/// the longest stall of a disk that is still worth waiting for.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How long the peer may take from the last chunk to its answer: it loads the state and makes it
/// durable, which takes seconds per million of messages.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

type Answer = Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>>;

/// Sends a replica's live tables to a peer, as the leader of `vote`, and waits until they are
/// installed there.
pub(crate) async fn send_snapshot(peer: &Peer, replica: Arc<Replica>, vote: Vote) -> Answer {
    let shard = replica.shard();
    let mut client = peer.clients()?.snapshots.clone();
    let Outgoing {
        parts,
        mut read,
        handed_over,
    } = read_live(Arc::clone(&replica), vote);
    let call = client.install_snapshot(peer.request(part_stream(parts)));
    tokio::pin!(call);
    let mut held = None;
    let mut read_all = false;
    let answer = loop {
        let before = handed_over.load(Ordering::Relaxed);
        let limit = if read_all { INSTALL_LIMIT } else { STUCK_AFTER };
        tokio::select! {
            answer = &mut call => break answer,
            result = &mut read, if !read_all => {
                read_all = true;
                held = read_result(result)?;
            }
            () = tokio::time::sleep(limit) => {
                if read_all || handed_over.load(Ordering::Relaxed) == before {
                    return Err(peer.unreachable("it does not take the snapshot").into());
                }
            }
        }
    };
    let answer = answer.map_err(|status| peer.failed(&status))?.into_inner();
    let vote = vote_from_wire(answer.vote).map_err(|error| peer.malformed(&error))?;
    peer.answered();
    count_event("sent");
    // Until now the log after it was kept.
    let sent = held.map(|Sent { applied, held }| (applied.index, drop(held)));
    let applied = sent.map(|(index, ())| index);
    tracing::info!(shard = shard.0, applied, "sent a snapshot");
    Ok(SnapshotResponse::new(vote))
}

/// A read that failed means that the disk did: the shard stops on this node, as for its log.
fn read_result(
    result: Result<Result<Option<Sent>, StoreError>, tokio::task::JoinError>,
) -> Result<Option<Sent>, StreamingError<TypeConfig>> {
    let reason = match result {
        Ok(Ok(sent)) => return Ok(sent),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(reason, "cannot read the state tables to send them");
    let source = TypeConfig::err_from_string(reason);
    Err(StorageError::read_snapshot(None, source).into())
}

fn part_stream(
    parts: mpsc::Receiver<wire::SnapshotPart>,
) -> impl Stream<Item = wire::SnapshotPart> + Send + 'static {
    stream::unfold(parts, |mut parts| async move {
        let part = parts.recv().await?;
        Some((part, parts))
    })
}

/// A snapshot on its way out.
pub(crate) struct Outgoing {
    /// What to send, in order. Ends early if the reading thread failed.
    pub(crate) parts: mpsc::Receiver<wire::SnapshotPart>,
    /// The reading thread's result; `None` when nobody took all parts.
    pub(crate) read: JoinHandle<Result<Option<Sent>, StoreError>>,
    /// Grows with each part that was handed over: it tells a slow receiver from a stuck one.
    pub(crate) handed_over: Arc<AtomicU64>,
}

/// All of a snapshot was read and handed over.
pub(crate) struct Sent {
    /// The last entry in it.
    pub(crate) applied: LogId,
    /// The log after it is kept, for the receiver, as long as this lives.
    pub(crate) held: SendingGuard,
}

/// Starts to read the live tables of a replica, on a thread of its own, for the leader of `vote`.
pub(crate) fn read_live(replica: Arc<Replica>, vote: Vote) -> Outgoing {
    let (sender, parts) = mpsc::channel(CHUNKS_WAITING);
    let handed_over = Arc::new(AtomicU64::new(0));
    let mut reader = Reader {
        replica: Arc::clone(&replica),
        vote,
        sender,
        handed_over: Arc::clone(&handed_over),
        chunks: Chunks::default(),
        read: None,
    };
    let read = spawn_blocking(move || {
        let (db, shard) = (replica.db(), replica.shard());
        let complete = db.visit_live(shard, |live| reader.visit(&live))?;
        Ok(reader.finish(complete))
    });
    Outgoing {
        parts,
        read,
        handed_over,
    }
}

/// Makes parts of what it reads, and hands them over one by one.
struct Reader {
    replica: Arc<Replica>,
    vote: Vote,
    sender: mpsc::Sender<wire::SnapshotPart>,
    handed_over: Arc<AtomicU64>,
    chunks: Chunks,
    read: Option<Sent>,
}

impl Reader {
    fn visit(&mut self, live: &Live<'_>) -> ControlFlow<()> {
        match live {
            Live::State(state) => {
                self.read = Some(Sent {
                    applied: state.applied,
                    held: self.replica.sending().begin(state.applied.index),
                });
                let head = head_to_wire(self.replica.shard(), &self.vote, state);
                self.send(Part::Head(head))
            }
            Live::Row(key, value) => match self.chunks.push(key, value) {
                Some(chunk) => self.send(Part::Chunk(chunk)),
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn finish(mut self, complete: bool) -> Option<Sent> {
        if !complete {
            return None;
        }
        let (last, end) = std::mem::take(&mut self.chunks).finish();
        let mut sent = ControlFlow::Continue(());
        for part in last.map(Part::Chunk).into_iter().chain([Part::End(end)]) {
            if sent.is_continue() {
                sent = self.send(part);
            }
        }
        self.read.filter(|_| sent.is_continue())
    }

    fn send(&self, part: Part) -> ControlFlow<()> {
        let part = wire::SnapshotPart { part: Some(part) };
        let sent = self.sender.blocking_send(part).is_ok();
        self.handed_over.fetch_add(1, Ordering::Relaxed);
        match sent {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

fn head_to_wire(shard: ShardId, vote: &Vote, state: &AppliedState) -> wire::SnapshotHead {
    wire::SnapshotHead {
        format: FORMAT,
        shard: u32::from(shard.0),
        vote: Some(vote_to_wire(vote)),
        applied: Some(log_id_to_wire(&state.applied)),
        membership_log_id: state.membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(state.membership.membership())),
    }
}

/// Rows gathered into chunks.
#[derive(Default)]
struct Chunks {
    rows: Vec<u8>,
    count: u64,
    checksums: Xxh3,
}

impl Chunks {
    /// Adds a row; returns a chunk when it is full.
    fn push(&mut self, key: &[u8], value: &[u8]) -> Option<wire::SnapshotChunk> {
        for part in [key, value] {
            // Neither is longer than the largest packet of MQTT.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.rows.extend(length.to_le_bytes());
        }
        self.rows.extend_from_slice(key);
        self.rows.extend_from_slice(value);
        self.count += 1;
        (self.rows.len() >= CHUNK_BYTES).then(|| self.cut())
    }

    fn cut(&mut self) -> wire::SnapshotChunk {
        let next = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let rows = Bytes::from(std::mem::replace(&mut self.rows, next));
        let checksum = xxh3_64(&rows);
        self.checksums.update(&checksum.to_le_bytes());
        metrics::counter!("holdfast_raft_snapshot_bytes_total", "direction" => "sent")
            .increment(u64::try_from(rows.len()).unwrap_or(0));
        wire::SnapshotChunk { rows, checksum }
    }

    fn finish(mut self) -> (Option<wire::SnapshotChunk>, wire::SnapshotEnd) {
        let last = (!self.rows.is_empty()).then(|| self.cut());
        let end = wire::SnapshotEnd {
            rows: self.count,
            checksum: self.checksums.digest(),
        };
        (last, end)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rows that are numbered in their keys, 1,000 bytes each, in chunks.
    pub(crate) fn chunks(rows: u32) -> (Vec<wire::SnapshotChunk>, wire::SnapshotEnd) {
        let mut chunks = Chunks::default();
        let mut cut = Vec::new();
        for row in 0..rows {
            cut.extend(chunks.push(&row.to_be_bytes(), &[7; 1000]));
        }
        let (last, end) = chunks.finish();
        cut.extend(last);
        (cut, end)
    }

    #[test]
    fn chunks_are_bounded() {
        let (chunks, end) = chunks(2000);
        assert_eq!(end.rows, 2000);
        assert!(chunks.len() > 7);
        for chunk in &chunks {
            assert!(chunk.rows.len() < CHUNK_BYTES + 2000);
        }
    }
}
