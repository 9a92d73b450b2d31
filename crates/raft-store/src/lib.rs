//! Replicated shards: a pure machine per shard, and around it Raft on RocksDB.
//!
//! - **Shards.** All replicated state is cut into shards, one Raft group each. A session lives in
//!   shard `hash(client_id) % shards`; shard 0 also holds the lives of nodes.
//! - **What is durable when.** A command takes effect when its entry is committed, that is when a
//!   quorum of replicas has fsynced it in their logs. All shards of a node share one log writer and
//!   so one fsync. State tables are derived from the log, are written without waiting for the disk
//!   together with the index they stand for, and are caught up from the log after a crash.
//! - **Exactly once.** Commands come in numbered batches ([`Proposer`]); a repeated batch takes no
//!   effect and gets the same answers.
//! - **Effects.** Every replica computes them; the caller's `on_applied` carries out those that
//!   concern its node.
//!
//! Disk layout: `data_dir/log` (Raft logs, votes; WAL, fsynced) and `data_dir/state` (state tables;
//! no WAL); `db` describes the keys byte by byte. `data_dir/clocks`: shard time across a restart.
//!
//! Invariants:
//! - **`machine`, `command`, `state`, `digest` and `encoding` are pure**: no clock, no I/O, no hash
//!   iteration (checked by `tests/tidy`).
//! - Openraft is instantiated here only, behind handles that are not generic.

pub mod batch;
pub mod clock;
pub mod command;
mod connections;
pub mod db;
mod digest;
pub mod encoding;
pub mod entry;
pub mod error;
pub mod forward;
mod group_commit;
mod held_answers;
pub mod ids;
pub mod leadership;
pub mod log_store;
pub mod log_writer;
pub mod machine;
pub mod network;
mod pace;
pub mod proposer;
mod replica;
mod retention;
pub mod security;
pub mod service;
pub mod shard;
pub mod shards;
pub mod snapshot;
pub mod state;
mod state_machine;
pub mod type_config;
mod verify;
mod wal;

/// Generated from `proto/`.
pub mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        unused_lifetimes,
        clippy::all,
        clippy::missing_errors_doc,
        clippy::or_fun_call,
        clippy::use_self,
        clippy::str_to_string,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

pub use batch::{Batch, ProposerId};
pub use command::{
    Acknowledgement, Answers, CloseReason, Command, Connect, Effect, Ending, OutboxItem,
    OutboxTarget, Refusal, Response, RetainedCopy, RetainedLimits, RouteTarget, WaitingItem,
};
pub use encoding::{decode_message, encode_command, encode_message};
pub use error::{StoreError, WriteError};
pub use forward::{Forwarder, ProposalService, peer_channel};
pub use ids::{ConnectionId, Epoch, Holder, Incarnation, NodeId, ShardId};
pub use leadership::{ShardStatus, TransferError, preferred_leader};
pub use machine::{
    Applied, BodyLookup, DueSession, DueWill, Machine, RetainedPage, SessionTally, SessionView,
    StateError, StoredSession, SubscriberView,
};
pub use proposer::{Proposer, ProposerCore, Waiter};
pub use replica::OnApplied;
pub use security::{PeerSecret, PeerSecurity, PeerTls, incoming, refuse_peer};
pub use service::{RaftService, server_builder};
pub use shard::Shard;
pub use shards::{Shards, StorageHealth, StoreConfig};
pub use state::{StateKey, StateRecord};
pub use verify::{VerifiedShard, verify};
