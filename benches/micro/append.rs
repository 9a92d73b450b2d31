//! The Raft log on disk: append, fsync, tell.

use std::sync::Arc;

use bytes::Bytes;
use codec::Timestamp;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;
use openraft::vote::RaftLeaderId as _;
use raft_store::db::{self, Budget, Owner};
use raft_store::entry::{EncodedBatch, Proposal};
use raft_store::log_store::LogStore;
use raft_store::log_writer::LogWriter;
use raft_store::type_config::{Entry, LeaderId, LogId, TypeConfig};
use raft_store::{Batch, NodeId, ProposerId, ShardId};
use tokio::runtime::{Builder, Runtime};

use crate::harness::Harness;

/// Entries that are kept; older ones are purged, as in a running node.
const KEPT: u64 = 10_000;

pub(crate) fn run(harness: &Harness) {
    let wanted = [1_u32, 64].map(|entries| (entries, name(entries)));
    if !wanted.iter().any(|(_, name)| harness.wants(name)) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let owner = Owner {
        cluster: "bench".to_owned(),
        node: NodeId(1),
        shards: 1,
    };
    let (log, _state) = db::open(folder.path(), Budget::new(1 << 20), &owner).expect("a database");
    let log = Arc::new(log);
    let (writer, thread) = LogWriter::start(Arc::clone(&log)).expect("a thread");
    let store = LogStore::open(ShardId::ZERO, log, writer.clone()).expect("a log");
    let runtime = Builder::new_current_thread().enable_all().build();
    let mut bench = Bench {
        runtime: runtime.expect("a runtime"),
        store,
        last: 0,
        purged: 0,
    };
    for (entries, name) in wanted {
        harness.run(&name, entries, || bench.append(entries));
    }
    bench.runtime.block_on(writer.stop());
    thread.join();
}

fn name(entries: u32) -> String {
    format!("log append: {entries} entries of 256 bytes per fsync")
}

struct Bench {
    runtime: Runtime,
    store: LogStore,
    last: u64,
    purged: u64,
}

impl Bench {
    fn append(&mut self, count: u32) {
        let entries: Vec<Entry> = (0..count)
            .map(|_| {
                self.last += 1;
                entry(self.last)
            })
            .collect();
        let purge = (self.last > self.purged + 2 * KEPT).then(|| self.last - KEPT);
        let store = &mut self.store;
        self.runtime.block_on(async {
            let (told, waiter) = TypeConfig::oneshot();
            let appended = store.append(entries, IOFlushed::signal(told)).await;
            appended.expect("an append");
            waiter.await.expect("an answer").expect("a durable entry");
            if let Some(index) = purge {
                store.purge(log_id(index)).await.expect("a purge");
            }
        });
        self.purged = purge.unwrap_or(self.purged);
    }
}

fn log_id(index: u64) -> LogId {
    LogId {
        leader_id: LeaderId::new(1, 1),
        index,
    }
}

fn entry(index: u64) -> Entry {
    let batch = Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time: Timestamp::from_millis(index),
        commands: vec![Bytes::from(vec![b'.'; 256])],
    };
    let time = Timestamp::from_millis(index);
    Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Proposal::new(time, vec![EncodedBatch::new(batch)])),
    }
}
