//! Snapshots: none yet. The log is kept whole, so a replica always catches up from it.
//!
//! Raft is configured never to ask for a snapshot and never to purge the log. The types say the
//! same: a snapshot is [`Infallible`], of which there is no value to send or install.

use std::convert::Infallible;
use std::io;

use openraft::storage::{RaftSnapshotBuilder, Snapshot};
use openraft::type_config::alias::SnapshotOf;

use crate::ids::ShardId;
use crate::type_config::TypeConfig;

/// What a snapshot would hold.
pub(crate) type SnapshotData = Infallible;

/// Refuses to build a snapshot, and says so.
pub(crate) struct NoSnapshots {
    pub(crate) shard: ShardId,
}

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let reason = format!(
            "shard {}: this version builds no snapshots; the log must be whole",
            self.shard
        );
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }
}

/// Proves that there is no snapshot to handle.
pub(crate) fn none<T>(
    snapshot: &Snapshot<
        crate::type_config::LeaderId,
        u64,
        crate::type_config::PeerAddress,
        SnapshotData,
    >,
) -> T {
    match snapshot.snapshot {}
}
