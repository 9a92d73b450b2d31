//! The content of one Raft entry: a batch of commands from one proposer.

use bytes::Bytes;
use codec::Timestamp;

use crate::ids::{Incarnation, NodeId, ShardId};

/// The numbered FIFO stream of batches that an entry belongs to (DESIGN section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProposerId {
    /// One life of a node, proposing for its connections.
    Node {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// The outbox of another shard, drained by that shard's leader. Its commands carry item numbers
    /// of their own, so its `sequence` is not checked.
    Outbox {
        /// The shard whose outbox it is.
        source: ShardId,
    },
    /// Commands that are harmless when repeated: timers, `NodeUp`, `NodeDown`. Not numbered.
    Idempotent,
}

/// One Raft entry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose stream it belongs to.
    pub proposer: ProposerId,
    /// Position in that stream, from 1 without gaps; 0 where the stream is not numbered.
    pub sequence: u64,
    /// The leader's shard time when it accepted the batch; clamped to grow at apply.
    pub leader_time: Timestamp,
    /// Encoded commands, opaque until apply.
    pub commands: Vec<Bytes>,
}

/// How large a batch is where batches wait for company: each command counts, and each half KiB, since
/// one command may stand for many messages.
pub(crate) fn weight(commands: usize, bytes: usize) -> usize {
    commands.saturating_add(bytes / 512)
}
