//! What can go wrong with a node's storage and shards. Each variant is a decision that someone must
//! take.

use std::io;
use std::path::PathBuf;

use crate::entry::EntryError;
use crate::ids::{NodeId, ShardId};

/// Why the shards of this node do not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Configuration(String),
    /// The data folder cannot be made or read.
    #[error("cannot use {path}: {source}; the folder and its parent must be writable by this user")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// RocksDB's own lock is held.
    #[error(
        "{path} is in use by another process: stop that one, or give this node another data_dir"
    )]
    InUse {
        /// The database folder.
        path: PathBuf,
    },
    /// RocksDB does not open.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The database folder.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The folder was made by another node or cluster.
    #[error(
        "{path} belongs to {found}, not to {expected}: check node.id, cluster.name and data_dir"
    )]
    Foreign {
        /// The database folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who opens it.
        expected: String,
    },
    /// `cluster.shards` was changed after the first start.
    #[error(
        "cluster.shards is {configured}, but {path} was made with {stored}: it is fixed at the first start"
    )]
    ShardCount {
        /// The database folder.
        path: PathBuf,
        /// What the configuration says.
        configured: u16,
        /// What the first start said.
        stored: u32,
    },
    /// The end of the log is intact, but something before it is not: acknowledged entries are gone.
    #[error(
        "the Raft log is corrupt at {file}, byte {offset}, with intact records after it: acknowledged entries may be \
         lost, so this node must not vote with it. Replace the node: on a healthy node run `holdfast members remove \
         {node}`, move {path} away, and start this node again under a new node.id"
    )]
    CorruptLog {
        /// The database folder.
        path: PathBuf,
        /// The write-ahead log file.
        file: PathBuf,
        /// Where it goes wrong.
        offset: u64,
        /// This node.
        node: NodeId,
    },
    /// A record cannot be read back.
    #[error(
        "{path}: {what} of shard {shard}: {source}; replace this node's disk and rejoin it as a new member"
    )]
    Record {
        /// The database folder.
        path: PathBuf,
        /// Which record.
        what: String,
        /// Whose.
        shard: ShardId,
        /// What is wrong with it.
        source: EntryError,
    },
    /// The log has a hole, or is shorter than what was applied from it.
    #[error(
        "{path}: shard {shard} lacks log entry {index}, which this node once had: it must not vote with this log. \
         Rejoin it as a new member with an empty data folder"
    )]
    LostEntry {
        /// The database folder.
        path: PathBuf,
        /// Whose.
        shard: ShardId,
        /// The first missing entry.
        index: u64,
    },
    /// The log was cut off behind a state that is no longer there.
    #[error(
        "{path}: the state of shard {shard} is gone or too old: its log begins after entry {purged}, and what is \
         before that can come only from other nodes. Rejoin this node as a new member with an empty data folder"
    )]
    LostState {
        /// The database folder.
        path: PathBuf,
        /// Whose.
        shard: ShardId,
        /// The last entry that was cut off.
        purged: u64,
    },
    /// A read failed.
    #[error("cannot read {path}: {source}; shard {shard} stops on this node")]
    Read {
        /// The database folder.
        path: PathBuf,
        /// Whose.
        shard: ShardId,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The state tables are not what this version wrote.
    #[error("{path}: state of shard {shard}: {reason}")]
    State {
        /// The database folder.
        path: PathBuf,
        /// Whose.
        shard: ShardId,
        /// What is wrong.
        reason: String,
    },
    /// A write or fsync failed. Nothing is acknowledged any more: the node leaves the quorum.
    #[error(
        "cannot write {path}: {reason}; nothing is acknowledged any more. Replace the disk, then rejoin the node"
    )]
    Write {
        /// The database folder.
        path: PathBuf,
        /// What the system or RocksDB said, at the first failure.
        reason: String,
    },
    /// A Raft group does not start or has stopped.
    #[error("shard {shard} stopped on this node: {reason}")]
    Raft {
        /// Whose.
        shard: ShardId,
        /// What openraft said.
        reason: String,
    },
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

/// Why a batch was not written, or not known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node cannot take it now; nothing was appended. Send it to the leader, or retry here
    /// when there is none yet.
    #[error("not the leader")]
    NotLeader {
        /// Who is, if this node knows. May be this node itself, when it waits for its quorum.
        leader: Option<NodeId>,
    },
    /// It may have been committed or may still be: resend the same batch.
    #[error("outcome unknown")]
    Unknown,
    /// This node's replica has stopped.
    #[error("the shard has stopped on this node")]
    Stopped,
}
