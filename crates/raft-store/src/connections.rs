//! The connections of this node to its peers, shared by all shards.
//!
//! Three per peer: one for log entries, one for snapshots, one for heartbeats, votes and hand-overs,
//! so that bulk never delays an election, and a snapshot no entries. Each connects when first used and
//! again when broken, resolving the name anew.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::errors::{RPCError, Unreachable};
use tokio::sync::Notify;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::entry::EntryError;
use crate::ids::{NodeId, ShardId};
use crate::proto::holdfast::raft::v1::raft_client::RaftClient;
use crate::security::PeerSecurity;
use crate::type_config::{PeerAddress, TypeConfig};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A peer that answers no ping (stopped, cut off) loses its connection after the sum of both.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Unread bytes that a sender may have under way, per stream and per connection.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// One message: a megabyte of entries and one entry, which may hold the largest packet of MQTT. An
/// entry that the leader logged but could not send would stop its shard for good.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 << 20;

/// Metadata of each call; the receiver refuses what is not meant for it.
pub(crate) const CLUSTER_KEY: &str = "holdfast-cluster";
pub(crate) const FROM_KEY: &str = "holdfast-from";
pub(crate) const TO_KEY: &str = "holdfast-to";

/// A failure that openraft answers with a retry.
pub(crate) type RpcError = RPCError<TypeConfig>;

/// All of them.
pub(crate) struct Connections {
    cluster: String,
    from: NodeId,
    security: PeerSecurity,
    peers: Mutex<BTreeMap<(u64, String), Arc<Peer>>>,
}

pub(crate) struct Peer {
    node: u64,
    address: String,
    metadata: MetadataMap,
    /// `None`: the address cannot be one.
    clients: Option<Clients>,
    /// A refusal was logged; reset by a success.
    refused: AtomicBool,
    /// How far it said to have applied each shard.
    applied: Mutex<BTreeMap<ShardId, u64>>,
    /// Breaks the streams of entries to it.
    interrupts: Mutex<BTreeMap<ShardId, Arc<Notify>>>,
}

pub(crate) struct Clients {
    pub(crate) bulk: RaftClient<Channel>,
    pub(crate) snapshots: RaftClient<Channel>,
    pub(crate) control: RaftClient<Channel>,
}

impl Connections {
    pub(crate) fn new(cluster: String, from: NodeId, security: PeerSecurity) -> Self {
        Self {
            cluster,
            from,
            security,
            peers: Mutex::new(BTreeMap::new()),
        }
    }

    /// How far a peer has applied a shard, by its last answer to a heartbeat from here. `None` also of
    /// one that is about to stop.
    pub(crate) fn applied(&self, node: u64, shard: ShardId) -> Option<u64> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = peers
            .iter()
            .filter(|((peer, _), _)| *peer == node)
            .filter_map(|(_, peer)| peer.applied(shard));
        applied.max()
    }

    /// Breaks the streams of a shard's entries to a peer: openraft then decides anew what to send.
    pub(crate) fn interrupt(&self, node: u64, shard: ShardId) {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, peer) in peers.iter().filter(|((peer, _), _)| *peer == node) {
            peer.interrupt(shard).notify_waiters();
        }
    }

    pub(crate) fn peer(&self, node: u64, address: &PeerAddress) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peers
            .entry((node, address.0.clone()))
            .or_insert_with(|| Arc::new(self.new_peer(node, &address.0)));
        Arc::clone(peer)
    }

    fn new_peer(&self, node: u64, address: &str) -> Peer {
        let mut metadata = MetadataMap::new();
        if let Ok(cluster) = AsciiMetadataValue::try_from(self.cluster.as_str()) {
            metadata.insert(CLUSTER_KEY, cluster);
        }
        metadata.insert(FROM_KEY, u64::from(self.from.0).into());
        metadata.insert(TO_KEY, node.into());
        let clients = endpoint(address).map(|endpoint| Clients {
            bulk: client(&endpoint, &self.security),
            snapshots: client(&endpoint, &self.security),
            control: client(&endpoint, &self.security),
        });
        Peer {
            node,
            address: address.to_owned(),
            metadata,
            clients,
            refused: AtomicBool::new(false),
            applied: Mutex::default(),
            interrupts: Mutex::default(),
        }
    }
}

/// How a peer at `host:port` is reached; `None` when that is no address.
pub(crate) fn endpoint(address: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    endpoint.uri().port()?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Some(endpoint)
}

fn client(endpoint: &Endpoint, security: &PeerSecurity) -> RaftClient<Channel> {
    RaftClient::new(security.channel(endpoint.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl Peer {
    fn applied(&self, shard: ShardId) -> Option<u64> {
        self.applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&shard)
            .copied()
    }

    /// `None`: it is not to lead.
    pub(crate) fn note_applied(&self, shard: ShardId, index: Option<u64>) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        match index {
            Some(index) => applied.insert(shard, index),
            None => applied.remove(&shard),
        };
    }

    /// Told when a stream of this shard's entries is to end.
    pub(crate) fn interrupt(&self, shard: ShardId) -> Arc<Notify> {
        let mut interrupts = self
            .interrupts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(interrupts.entry(shard).or_default())
    }

    /// The peer answered.
    pub(crate) fn answered(&self) {
        self.refused.store(false, Ordering::Relaxed);
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    pub(crate) fn unreachable(&self, reason: impl fmt::Display) -> RpcError {
        RPCError::Unreachable(Unreachable::from_string(format!(
            "node {} at {}: {reason}",
            self.node, self.address
        )))
    }

    /// Every failure makes openraft wait a moment before the next try.
    pub(crate) fn failed(&self, status: &Status) -> RpcError {
        let refused = matches!(
            status.code(),
            Code::FailedPrecondition | Code::Unimplemented
        );
        if refused && !self.refused.swap(true, Ordering::Relaxed) {
            tracing::error!(peer = self.node, address = %self.address, reason = status.message(), "the peer refuses this node");
        }
        self.unreachable(status)
    }

    pub(crate) fn malformed(&self, error: &EntryError) -> RpcError {
        self.unreachable(format_args!("its answer makes no sense: {error}"))
    }

    pub(crate) fn clients(&self) -> Result<&Clients, RpcError> {
        self.clients
            .as_ref()
            .ok_or_else(|| self.unreachable("this is not host:port"))
    }
}
