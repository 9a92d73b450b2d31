//! Brings a batch to a shard's leader, here or on a peer, and answers peers that do the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response as GrpcResponse, Status, Streaming};

use crate::batch::Batch;
use crate::command::Answers;
use crate::connections::CLUSTER_KEY;
use crate::encoding::{decode_answers, encode_answers, encode_batch};
use crate::entry::EncodedBatch;
use crate::error::WriteError;
use crate::ids::{NodeId, ShardId};
use crate::proto::holdfast::propose::v1::proposals_client::ProposalsClient;
use crate::proto::holdfast::propose::v1::proposals_server::{Proposals, ProposalsServer};
use crate::proto::holdfast::propose::v1::propose_reply::Outcome;
use crate::proto::holdfast::propose::v1::{ProposeReply, ProposeRequest};
use crate::security::{PeerSecurity, refuse_peer};
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
pub fn peer_channel(
    address: &str,
    security: &PeerSecurity,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_millis(500))
        .tcp_nodelay(true)
        // A peer that was cut off is reached again soon after, not when TCP tries again.
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024);
    Ok(security.channel(endpoint))
}

/// Finds the leader and hands it a batch.
#[derive(Debug)]
pub struct Forwarder {
    node: NodeId,
    shards: Arc<Shards>,
    peers: BTreeMap<NodeId, ProposalLink>,
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
        let mut links = BTreeMap::new();
        for (peer, address) in peers {
            if *peer != node {
                links.insert(
                    *peer,
                    ProposalLink::new(*peer, peer_channel(address, shards.security())?, &cluster),
                );
            }
        }
        Ok(Self {
            node,
            shards,
            peers: links,
        })
    }

    /// Writes a batch on the shard's leader and returns its answers. For a batch of a numbered stream
    /// that another node leads it may not return when the batch is written: the own replica answers.
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
            match self.peers.get(&leader) {
                Some(link) => link.send(shard, encode_batch(batch)).await,
                None => Err(WriteError::NotLeader { leader: None }),
            }
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

    /// How this node and its peers make sure of each other.
    #[must_use]
    pub fn security(&self) -> &PeerSecurity {
        self.shards.security()
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

/// The stream of batches to one peer; opened when first used, and again after each failure.
#[derive(Debug)]
struct ProposalLink {
    peer: NodeId,
    client: ProposalsClient<Channel>,
    cluster: MetadataMap,
    open: Mutex<Option<OpenStream>>,
}

/// Batches that wait for the connection.
const REQUESTS_WAITING: usize = 16;
/// Requests without a reply after which those are forgotten that nobody waits for.
const UNANSWERED_BEFORE_LOOK: usize = 64;

/// One stream.
#[derive(Clone, Debug)]
struct OpenStream {
    requests: mpsc::Sender<ProposeRequest>,
    outcomes: Arc<Mutex<Outcomes>>,
}

/// Who waits for which reply.
#[derive(Debug, Default)]
struct Outcomes {
    waiting: BTreeMap<u64, oneshot::Sender<Outcome>>,
    last_number: u64,
    /// The stream broke.
    closed: bool,
}

impl Outcomes {
    /// A new request's number; `None`: there will be no reply.
    fn expect(&mut self) -> Option<(u64, oneshot::Receiver<Outcome>)> {
        if self.closed {
            return None;
        }
        if self.waiting.len() >= UNANSWERED_BEFORE_LOOK {
            self.waiting.retain(|_, sender| !sender.is_closed());
        }
        let (sender, outcome) = oneshot::channel();
        self.last_number += 1;
        self.waiting.insert(self.last_number, sender);
        Some((self.last_number, outcome))
    }
}

impl ProposalLink {
    fn new(peer: NodeId, channel: Channel, cluster: &str) -> Self {
        let client = ProposalsClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut metadata = MetadataMap::new();
        if let Ok(cluster) = AsciiMetadataValue::try_from(cluster) {
            metadata.insert(CLUSTER_KEY, cluster);
        }
        Self {
            peer,
            client,
            cluster: metadata,
            open: Mutex::default(),
        }
    }

    async fn send(&self, shard: ShardId, batch: Bytes) -> Result<Answers, WriteError> {
        let stream = self.stream();
        let Some((number, outcome)) = locked(&stream.outcomes).expect() else {
            return Err(WriteError::Unknown);
        };
        let request = ProposeRequest {
            shard: u32::from(shard.0),
            batch,
            number,
        };
        let sent = stream.requests.send(request).await;
        sent.map_err(|_closed| WriteError::Unknown)?;
        // The stream broke, before or after it was taken.
        drop(stream);
        match outcome.await {
            Err(_) | Ok(Outcome::Unknown(_)) => Err(WriteError::Unknown),
            Ok(Outcome::Leader(leader)) => Err(WriteError::NotLeader {
                leader: u16::try_from(leader).ok().filter(|id| *id != 0).map(NodeId),
            }),
            Ok(Outcome::Answers(answers)) => decode_answers(answers).map_err(|error| {
                tracing::error!(peer = %self.peer, %error, "peer sent answers that make no sense");
                WriteError::Unknown
            }),
        }
    }

    /// The open stream, or a new one.
    fn stream(&self) -> OpenStream {
        let mut open = locked(&self.open);
        if let Some(stream) = open.as_ref()
            && !locked(&stream.outcomes).closed
        {
            return stream.clone();
        }
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING);
        let stream = OpenStream {
            requests,
            outcomes: Arc::default(),
        };
        let mut request = Request::new(request_stream(waiting));
        *request.metadata_mut() = self.cluster.clone();
        let (client, outcomes) = (self.client.clone(), Arc::clone(&stream.outcomes));
        let peer = self.peer;
        tokio::spawn(async move {
            if let Err(status) = take_replies(client, request, &outcomes).await {
                tracing::debug!(%peer, %status, "a stream of proposals broke");
            }
            // Whoever waits sends again, on another stream.
            let mut outcomes = locked(&outcomes);
            outcomes.closed = true;
            outcomes.waiting.clear();
        });
        *open = Some(stream.clone());
        stream
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request_stream(
    waiting: mpsc::Receiver<ProposeRequest>,
) -> impl Stream<Item = ProposeRequest> + Send + 'static {
    stream::unfold(waiting, |mut waiting| async move {
        Some((waiting.recv().await?, waiting))
    })
}

/// Hands replies to who waits for them, until the stream ends.
async fn take_replies(
    mut client: ProposalsClient<Channel>,
    request: Request<impl Stream<Item = ProposeRequest> + Send + 'static>,
    outcomes: &Mutex<Outcomes>,
) -> Result<(), Status> {
    let mut replies = client.propose_stream(request).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        let waiting = locked(outcomes).waiting.remove(&reply.number);
        if let (Some(waiting), Some(outcome)) = (waiting, reply.outcome) {
            // Whoever no longer waits has its answers, or sends again.
            drop(waiting.send(outcome));
        }
    }
    Ok(())
}

/// Batches of one peer that are being written; each of its streams has one.
const UNDER_WAY_MAX: usize = 4096;

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

    /// `None`: it is written, and the sender's own replica answers.
    async fn write(&self, shard: u32, batch: Bytes) -> Result<Option<Outcome>, Status> {
        let shard = u16::try_from(shard)
            .ok()
            .and_then(|id| self.shards.shard(ShardId(id)));
        let Some(shard) = shard else {
            return Err(Status::not_found("no such shard here"));
        };
        let batch = EncodedBatch::decode(batch)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let numbered = batch.is_numbered();
        // The sender does not wait for longer; what waits here for its entry is then forgotten.
        let written = timeout(ATTEMPT_TIMEOUT, shard.write_encoded(batch)).await;
        Ok(match written.unwrap_or(Err(WriteError::Unknown)) {
            Ok(_) if numbered => None,
            Ok(answers) => Some(Outcome::Answers(encode_answers(&answers))),
            Err(WriteError::NotLeader { leader }) => {
                Some(Outcome::Leader(leader.map_or(0, |node| u32::from(node.0))))
            }
            Err(WriteError::Unknown | WriteError::Stopped) => Some(Outcome::Unknown(true)),
        })
    }

    async fn reply(
        self,
        request: Result<ProposeRequest, Status>,
    ) -> Option<Result<ProposeReply, Status>> {
        let ProposeRequest {
            shard,
            batch,
            number,
        } = match request {
            Ok(request) => request,
            Err(status) => return Some(Err(status)),
        };
        let outcome = self.write(shard, batch).await.transpose()?;
        Some(outcome.map(|outcome| ProposeReply {
            outcome: Some(outcome),
            number,
        }))
    }
}

#[tonic::async_trait]
impl Proposals for ProposalService {
    type ProposeStreamStream = BoxStream<'static, Result<ProposeReply, Status>>;

    async fn propose_stream(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<GrpcResponse<Self::ProposeStreamStream>, Status> {
        let cluster = request.metadata().get(CLUSTER_KEY);
        if cluster.is_none_or(|cluster| cluster.as_bytes() != self.shards.cluster_name().as_bytes())
        {
            let peer = request.remote_addr().map(|address| address.ip());
            let peer = peer.map_or_else(String::new, |address| address.to_string());
            refuse_peer(&peer, "cluster", "batches for another cluster");
            return Err(Status::permission_denied("another cluster"));
        }
        let this = self.clone();
        let replies = request
            .into_inner()
            .map(move |request| this.clone().reply(request))
            .buffer_unordered(UNDER_WAY_MAX)
            .filter_map(std::future::ready);
        Ok(GrpcResponse::new(replies.boxed()))
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
