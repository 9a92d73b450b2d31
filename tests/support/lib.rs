//! Harness of the whole-system tests: real broker processes, clients that control and record every
//! packet, a disk that can be held or lose what was not synced.
//!
//! Start reading at [`Cluster`] and [`Client`]. A test that fails prints its seed, the packets of all its
//! clients and the ends of the nodes' logs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a harness fails by panicking, and whatever it does not expect is a failure"
)]

pub mod certificates;
pub mod chaos;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod connect;
pub mod coverage;
pub mod header;
pub mod history;
pub mod http;
pub mod lines;
pub mod oracle;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod recording;
pub mod scale;
pub mod script;
pub mod sender;
pub mod shards;
pub mod shim;
pub mod skip;
#[cfg(test)]
mod stub;
pub mod summary;
pub mod wait;
pub mod wire;

pub use client::{Client, Delivery, Outgoing};
pub use cluster::{Cluster, ClusterOptions, NodeId};
pub use connect::{ConnectOptions, VERSIONS};
pub use history::History;
pub use receiver::Receiver;
pub use scale::{Random, scale};
pub use sender::{Sender, SenderOptions};
pub use shards::{client_id_in_shard, shard_of};
pub use shim::Shim;
pub use skip::{report, skip};
pub use wait::{let_pass, let_pass_until, wait_until};
