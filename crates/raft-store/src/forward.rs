//! Brings a batch to a shard's leader, here or on a peer, and answers peers that do the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response as GrpcResponse, Status};

use crate::batch::Batch;
use crate::command::Answers;
use crate::encoding::{decode_answers, encode_answers, encode_batch};
use crate::entry::EncodedBatch;
use crate::error::WriteError;
use crate::ids::{NodeId, ShardId};
use crate::proto::holdfast::propose::v1::proposals_client::ProposalsClient;
use crate::proto::holdfast::propose::v1::proposals_server::{Proposals, ProposalsServer};
use crate::proto::holdfast::propose::v1::propose_reply::Outcome;
use crate::proto::holdfast::propose::v1::{ProposeReply, ProposeRequest};
use crate::shard::Shard;
use crate::shards::Shards;

/// How long one attempt may take; then the same batch is sent again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a peer is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Larger than any batch: 1 MiB of commands plus one command of the largest packet size.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// A channel to a peer that connects when first used and again after each failure.
///
/// # Errors
/// The address is not a valid `host:port`.
pub fn peer_channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_millis(500))
        .tcp_nodelay(true)
        // A peer that was cut off is reached again soon after, not when TCP tries again.
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024);
    Ok(endpoint.connect_lazy())
}

/// Finds the leader and hands it a batch.
#[derive(Debug)]
pub struct Forwarder {
    node: NodeId,
    cluster: String,
    shards: Arc<Shards>,
    peers: BTreeMap<NodeId, ProposalsClient<Channel>>,
}

impl Forwarder {
    /// `node` and `cluster` name this node; `peers`: the cluster address of every other node.
    ///
    /// # Errors
    /// An address is not a valid `host:port`.
    pub fn new(
        (node, cluster): (NodeId, String),
        shards: Arc<Shards>,
        peers: &BTreeMap<NodeId, String>,
    ) -> Result<Self, tonic::transport::Error> {
        let mut clients = BTreeMap::new();
        for (peer, address) in peers {
            if *peer == node {
                continue;
            }
            let client = ProposalsClient::new(peer_channel(address)?)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
            clients.insert(*peer, client);
        }
        Ok(Self {
            node,
            cluster,
            shards,
            peers: clients,
        })
    }

    /// Writes a batch on the shard's leader and returns its answers; none for a numbered stream,
    /// whose own replica answers.
    ///
    /// # Errors
    /// Every error but `Stopped` means: send the same batch again.
    pub async fn send(&self, shard: ShardId, batch: &Batch) -> Result<Answers, WriteError> {
        let Some(local) = self.shards.shard(shard) else {
            return Err(WriteError::Stopped);
        };
        let Some(leader) = local.leader() else {
            return Err(WriteError::NotLeader { leader: None });
        };
        let attempt = async {
            if leader == self.node {
                return local.write(batch.clone()).await;
            }
            self.send_to(leader, shard, batch).await
        };
        // A stopped leader answers nothing; the next one is known long before the time is up.
        let mut watch = local.leader_watch();
        let moved = watch.wait_for(|known| known.is_some_and(|known| known != leader));
        tokio::select! {
            result = timeout(ATTEMPT_TIMEOUT, attempt) => {
                result.unwrap_or(Err(WriteError::Unknown))
            }
            _ = moved => Err(WriteError::Unknown),
        }
    }

    async fn send_to(
        &self,
        leader: NodeId,
        shard: ShardId,
        batch: &Batch,
    ) -> Result<Answers, WriteError> {
        let Some(client) = self.peers.get(&leader) else {
            return Err(WriteError::NotLeader { leader: None });
        };
        let request = ProposeRequest {
            cluster: self.cluster.clone(),
            shard: u32::from(shard.0),
            batch: encode_batch(batch),
        };
        let reply = client.clone().propose(request).await.map_err(|status| {
            tracing::debug!(%leader, %status, "proposal to peer failed");
            WriteError::Unknown
        })?;
        match reply.into_inner().outcome {
            Some(Outcome::Answers(answers)) => decode_answers(answers).map_err(|error| {
                tracing::error!(%leader, %error, "peer sent answers that make no sense");
                WriteError::Unknown
            }),
            Some(Outcome::Applied(_)) => Ok(Answers::from([])),
            Some(Outcome::Leader(leader)) => Err(WriteError::NotLeader {
                leader: u16::try_from(leader).ok().filter(|id| *id != 0).map(NodeId),
            }),
            Some(Outcome::Unknown(_)) | None => Err(WriteError::Unknown),
        }
    }

    /// Follows [`Shard::installs_watch`] of this node's replica.
    #[must_use]
    pub fn installs_watch(&self, shard: ShardId) -> Option<watch::Receiver<u64>> {
        Some(self.shards.shard(shard)?.installs_watch())
    }

    /// Waits until the shard's leader as known here changes, at most `limit`.
    pub async fn leader_changed(&self, shard: ShardId, limit: Duration) {
        let Some(local) = self.shards.shard(shard) else {
            return;
        };
        let mut leader = local.leader_watch();
        leader.mark_unchanged();
        // Either outcome means: try again now.
        drop(timeout(limit, leader.changed()).await);
    }
}

/// Answers peers that forward their batches to this node.
#[derive(Clone, Debug)]
pub struct ProposalService {
    shards: Arc<Shards>,
}

impl ProposalService {
    /// The tonic service to mount on the cluster port.
    #[must_use]
    pub fn server(shards: Arc<Shards>) -> ProposalsServer<Self> {
        ProposalsServer::new(Self { shards })
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn write(&self, shard: u32, batch: Bytes) -> Result<Outcome, Status> {
        let shard = u16::try_from(shard)
            .ok()
            .and_then(|id| self.shards.shard(ShardId(id)));
        let Some(shard) = shard else {
            return Err(Status::not_found("no such shard here"));
        };
        let batch = EncodedBatch::decode(batch)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // A numbered stream is answered by its own replica; only the others need the answers.
        let numbered = batch.is_numbered();
        Ok(match shard.write_encoded(batch).await {
            Ok(_) if numbered => Outcome::Applied(true),
            Ok(answers) => Outcome::Answers(encode_answers(&answers)),
            Err(WriteError::NotLeader { leader }) => {
                Outcome::Leader(leader.map_or(0, |node| u32::from(node.0)))
            }
            Err(WriteError::Unknown | WriteError::Stopped) => Outcome::Unknown(true),
        })
    }
}

#[tonic::async_trait]
impl Proposals for ProposalService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<GrpcResponse<ProposeReply>, Status> {
        let ProposeRequest {
            cluster,
            shard,
            batch,
        } = request.into_inner();
        if cluster != self.shards.cluster_name() {
            return Err(Status::permission_denied("another cluster"));
        }
        let outcome = self.write(shard, batch).await?;
        Ok(GrpcResponse::new(ProposeReply {
            outcome: Some(outcome),
        }))
    }
}

impl Shard {
    /// Shard time by this node's clock, on any replica: an estimate of what the leader would stamp
    /// on an entry now.
    #[must_use]
    pub fn leader_time(&self) -> codec::Timestamp {
        self.replica().clock.time()
    }
}
