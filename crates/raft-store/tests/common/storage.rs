//! The storage of one node in a temporary folder, and what is left of it after a crash.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use codec::Timestamp;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use raft_store::db::{self, Budget, LogDb, Owner};
use raft_store::entry::{EncodedBatch, Proposal};
use raft_store::log_store::LogStore;
use raft_store::log_writer::{LogWriter, LogWriterThread};
use raft_store::type_config::{Entry, LeaderId, LogId, TypeConfig};
use raft_store::{Batch, NodeId, ProposerId, ShardId, StoreError};

/// An open log of one node.
pub(crate) struct Storage {
    pub(crate) db: Arc<LogDb>,
    pub(crate) writer: LogWriter,
    thread: Option<LogWriterThread>,
}

impl Drop for Storage {
    /// A thread that still runs when the process ends would use a RocksDB that is half gone.
    fn drop(&mut self) {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(self.writer.stop());
            self.thread.take().unwrap().join();
        });
    }
}

pub(crate) fn owner() -> Owner {
    Owner {
        cluster: "test".to_owned(),
        node: NodeId(1),
        shards: 4,
    }
}

/// Small write buffers, so that a few megabytes go through several write-ahead log files.
pub(crate) fn small() -> Budget {
    Budget {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 256 << 10,
        log_tail_bytes: 64 << 20,
    }
}

impl Storage {
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, Budget::new(1 << 20), &owner())
    }

    pub(crate) fn open_with(
        folder: &Path,
        budget: Budget,
        owner: &Owner,
    ) -> Result<Self, StoreError> {
        let (log, _) = db::open(folder, budget, owner)?;
        let db = Arc::new(log);
        let (writer, thread) = LogWriter::start(Arc::clone(&db))?;
        Ok(Self {
            db,
            writer,
            thread: Some(thread),
        })
    }

    pub(crate) fn shard(&self, shard: u16) -> LogStore {
        LogStore::open(ShardId(shard), Arc::clone(&self.db), self.writer.clone()).unwrap()
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId::new(term, 1),
        index,
    }
}

/// An entry whose batch holds `bytes` bytes that depend on its place.
pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let fill = (index % 251) as u8;
    let batch = Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time: Timestamp::ZERO,
        commands: vec![Bytes::from(vec![fill; bytes])],
    };
    let time = Timestamp::from_millis(index);
    let proposal = Proposal::new(time, vec![EncodedBatch::new(batch)]);
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(proposal),
    }
}

/// Appends and waits until it is durable.
pub(crate) async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    let (told, waiter) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(told)).await.unwrap();
    waiter.await.unwrap().unwrap();
}

/// What a kill -9 at this moment leaves: the files as the kernel has them, nothing flushed or
/// closed.
pub(crate) fn crash_copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_folder(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}
