//! Snapshots: the state tables of a shard as one replica has them, for one whose log ends before the
//! leader's begins.
//!
//! Nothing is copied to build one. It *is* the live tables: they are read when a follower needs them,
//! all as of one moment, in chunks. The follower writes the chunks into the slot that is not live,
//! checks the whole, and only then makes that slot the live one, in one write. Invariants:
//! - one chunk at a time is in memory, and a few on their way;
//! - nothing is installed that is not, row for row, what was sent;
//! - a crash at any point leaves either the old or the new state; a slot that is not live holds
//!   nothing that counts;
//! - one snapshot of a shard is received at a time.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::{RaftSnapshotBuilder, Snapshot};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};

use crate::entry::AppliedState;
use crate::replica::Replica;
use crate::type_config::TypeConfig;

pub mod incoming;
pub(crate) mod outgoing;

pub(crate) use incoming::ReceivedTables;

/// What openraft carries around as a snapshot.
pub(crate) enum SnapshotData {
    /// The live tables of this node's replica.
    Live(Arc<Replica>),
    /// Received tables, not yet live.
    Received(Box<ReceivedTables>),
}

/// What a state stands for, in openraft's words.
pub(crate) fn meta(state: &AppliedState) -> SnapshotMetaOf<TypeConfig> {
    SnapshotMetaOf::<TypeConfig> {
        last_log_id: Some(state.applied),
        last_membership: state.membership.clone(),
    }
}

/// Makes the live tables durable and says how far they have come.
pub(crate) struct Builder(pub(crate) Arc<Replica>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let replica = Arc::clone(&self.0);
        let began = Instant::now();
        let saved = tokio::task::spawn_blocking(move || replica.make_durable()).await;
        let saved = saved.map_err(io::Error::other)??;
        count_event("built");
        record_duration("build", began);
        Ok(Snapshot {
            meta: saved.as_ref().map(meta).unwrap_or_default(),
            snapshot: SnapshotData::Live(Arc::clone(&self.0)),
        })
    }
}

pub(crate) fn record_duration(op: &'static str, began: Instant) {
    metrics::histogram!("holdfast_raft_snapshot_duration_seconds", "op" => op)
        .record(began.elapsed());
}

pub(crate) fn count_event(event: &'static str) {
    metrics::counter!("holdfast_raft_snapshots_total", "event" => event).increment(1);
}
