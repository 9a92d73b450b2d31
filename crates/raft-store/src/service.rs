//! Raft messages from the peers.
//!
//! A call is refused unless it names this cluster and this node: a peer list that points at the
//! wrong machine, or a node of another cluster on a reused address, must never be counted or
//! listened to.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::connections::{
    CLUSTER_KEY, CONNECTION_WINDOW_BYTES, FROM_KEY, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES, TO_KEY,
};
use crate::entry::{
    EntryError, check_format, entry_from_wire, log_id_from_wire, log_id_to_wire, vote_from_wire,
    vote_to_wire,
};
use crate::error::StoreError;
use crate::held_answers::{Answer, Unanswered, hold_back};
use crate::ids::ShardId;
use crate::proto::holdfast::raft::v1 as wire;
use crate::proto::holdfast::raft::v1::raft_server::{Raft, RaftServer};
use crate::security::refuse_peer;
use crate::shard::Shard;
use crate::shards::Shards;
use crate::snapshot::incoming::{ReceptionError, first_part, head_from_wire, receive};
use crate::snapshot::{SnapshotData, count_event, meta};
use crate::type_config::{LogId, TypeConfig};

type Append = AppendEntriesRequest<TypeConfig>;
type Answers = stream::BoxStream<'static, Answer>;

/// The Raft service of this node, to be mounted on its cluster port.
pub struct RaftService {
    shards: Arc<Shards>,
}

/// Streams per connection: one per shard, and the calls besides.
const STREAMS_MAX: u32 = 8192;
/// Connections of senders that are gone are closed after twice this time. Nothing waits for that.
const SENDER_PING_EVERY: Duration = Duration::from_secs(10);

impl RaftService {
    /// The service for these shards, ready to be added to a tonic server, best to one from
    /// [`server_builder`].
    #[must_use]
    pub fn new(shards: Arc<Shards>) -> RaftServer<Self> {
        RaftServer::new(Self { shards })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn check_sender(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let value = |key| {
            metadata
                .get(key)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let (cluster, from, to) = (value(CLUSTER_KEY), value(FROM_KEY), value(TO_KEY));
        let (own_cluster, own_node) = (self.shards.cluster_name(), self.shards.node());
        if cluster == own_cluster && to == own_node.to_string() {
            return match self.shards.is_stopping() {
                true => Err(Status::unavailable("this node is stopping")),
                false => Ok(()),
            };
        }
        let reason = match cluster == own_cluster {
            true => "node",
            false => "cluster",
        };
        let detail = format!(
            "Raft messages for node {to:?} of cluster {cluster:?}; this is {own_node} of {own_cluster:?}"
        );
        refuse_peer(&format!("node {from}"), reason, &detail);
        Err(Status::failed_precondition(format!(
            "this is node {own_node} of cluster {own_cluster:?}"
        )))
    }

    fn shard(&self, shard: u32) -> Result<&Shard, Status> {
        let id = u16::try_from(shard).ok().map(ShardId);
        id.and_then(|id| self.shards.shard(id))
            .ok_or_else(|| Status::not_found(format!("no shard {shard} here")))
    }
}

/// A server with the limits and windows that Raft traffic wants.
#[must_use]
pub fn server_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // One append stream per shard shares a connection; hyper's default of 200 would stop the rest.
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(SENDER_PING_EVERY))
        .http2_keepalive_timeout(Some(SENDER_PING_EVERY))
}

fn malformed(error: EntryError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: &Fatal<TypeConfig>) -> Status {
    Status::unavailable(format!("the shard stopped: {error}"))
}

fn raft_stopped(error: &RaftError<TypeConfig>) -> Status {
    Status::unavailable(format!("the shard stopped: {error}"))
}

/// What a leader sends, in openraft's words.
///
/// # Errors
/// What is broken, or a format that only newer versions know.
pub fn append_from_wire(append: wire::AppendRequest) -> Result<Append, EntryError> {
    check_format(append.format)?;
    let entries = append
        .entries
        .into_iter()
        .map(entry_from_wire)
        .collect::<Result<_, _>>()?;
    Ok(Append {
        vote: vote_from_wire(append.vote)?,
        prev_log_id: append.previous.map(log_id_from_wire),
        entries,
        leader_commit: append.committed.map(log_id_from_wire),
    })
}

/// What a candidate sends, in openraft's words.
///
/// # Errors
/// As [`append_from_wire`].
pub fn vote_request_from_wire(
    vote: wire::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, EntryError> {
    check_format(vote.format)?;
    Ok(VoteRequest {
        vote: vote_from_wire(vote.vote)?,
        last_log_id: vote.last_log_id.map(log_id_from_wire),
        leadership_transfer: vote.leadership_transfer,
    })
}

fn vote_answer(answer: &VoteResponse<TypeConfig>) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(vote_to_wire(&answer.vote)),
        granted: answer.vote_granted,
        last_log_id: answer.last_log_id.as_ref().map(log_id_to_wire),
    }
}

fn append_answer(result: &StreamAppendResult<TypeConfig>) -> wire::AppendResponse {
    use wire::append_response::Result;
    let result = match result {
        Ok(matching) => Result::Matching(wire::Matching {
            log_id: matching.as_ref().map(log_id_to_wire),
        }),
        Err(StreamAppendError::Conflict(at)) => Result::Conflict(log_id_to_wire(at)),
        Err(StreamAppendError::HigherVote(vote)) => Result::HigherVote(vote_to_wire(vote)),
    };
    wire::AppendResponse {
        result: Some(result),
        applied: 0,
        declines_leadership: false,
    }
}

/// The last entry that an append covers.
fn last_of(append: &Append) -> Option<LogId> {
    append
        .entries
        .last()
        .map(|entry| entry.log_id)
        .or(append.prev_log_id)
}

/// The appends of one stream after the first, which named the shard. Ends at the first bad one:
/// what was sent after it must not be applied without it.
fn later_appends(
    shard: u32,
    requests: Streaming<wire::AppendRequest>,
    unanswered: Arc<Unanswered>,
) -> impl Stream<Item = Append> + Send + 'static {
    stream::unfold(
        (requests, unanswered),
        move |(mut requests, unanswered)| async move {
            let request = match requests.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return None,
                Err(status) => {
                    tracing::debug!(shard, %status, "an append stream broke");
                    return None;
                }
            };
            if request.shard != shard {
                tracing::error!(
                    shard,
                    other = request.shard,
                    "an append stream changed its shard"
                );
                return None;
            }
            match append_from_wire(request) {
                Ok(append) => {
                    unanswered.add(!append.entries.is_empty());
                    Some((append, (requests, unanswered)))
                }
                Err(error) => {
                    tracing::error!(shard, %error, "refused an append");
                    None
                }
            }
        },
    )
}

/// Waits for the first append, which names the shard, and serves the stream from there. The caller
/// has answered already: the first append may come much later.
async fn serve_appends(
    shards: Arc<Shards>,
    mut requests: Streaming<wire::AppendRequest>,
) -> Answers {
    let fail = |status| stream::once(std::future::ready(Err(status))).boxed();
    let first = match requests.message().await {
        Ok(Some(first)) => first,
        Ok(None) => return stream::empty().boxed(),
        Err(status) => return fail(status),
    };
    let number = first.shard;
    let Some(shard) = u16::try_from(number)
        .ok()
        .and_then(|id| shards.shard(ShardId(id)))
    else {
        return fail(Status::not_found(format!("no shard {number} here")));
    };
    let first = match append_from_wire(first) {
        Ok(first) => first,
        Err(error) => return fail(malformed(error)),
    };
    let heard = shard.heard_from_leader();
    let unanswered = Arc::new(Unanswered::default());
    unanswered.add(!first.entries.is_empty());
    let later = later_appends(number, requests, Arc::clone(&unanswered));
    let appends = stream::once(std::future::ready(first)).chain(later);
    let answers = shard.raft().stream_append(appends).map(move |answer| {
        let result = answer.map_err(|error| stopped(&error))?;
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            heard.now();
        }
        Ok(append_answer(&result))
    });
    hold_back(answers.boxed(), unanswered).boxed()
}

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStreamStream = Answers;

    async fn append_stream(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Answers>, Status> {
        self.check_sender(request.metadata())?;
        let served = serve_appends(Arc::clone(&self.shards), request.into_inner());
        Ok(Response::new(served.flatten_stream().boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendResponse>, Status> {
        self.check_sender(request.metadata())?;
        let request = request.into_inner();
        let shard = self.shard(request.shard)?;
        let append = append_from_wire(request).map_err(malformed)?;
        let (previous, last) = (append.prev_log_id, last_of(&append));
        let answer = shard
            .raft()
            .append_entries(append)
            .await
            .map_err(|error| raft_stopped(&error))?;
        let result = match answer {
            AppendEntriesResponse::Success => Ok(last),
            AppendEntriesResponse::PartialSuccess(matching) => Ok(matching),
            AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
            AppendEntriesResponse::Conflict => {
                let at = previous
                    .ok_or_else(|| Status::internal("a conflict before the start of the log"))?;
                Err(StreamAppendError::Conflict(at))
            }
        };
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            shard.heard_from_leader().now();
        }
        let applied = shard.applied_index();
        Ok(Response::new(wire::AppendResponse {
            applied,
            declines_leadership: self.shards.declines_leadership(),
            ..append_answer(&result)
        }))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        self.check_sender(request.metadata())?;
        let request = request.into_inner();
        let shard = self.shard(request.shard)?;
        let vote = vote_request_from_wire(request).map_err(malformed)?;
        let answer = shard
            .raft()
            .vote(vote)
            .await
            .map_err(|error| raft_stopped(&error))?;
        Ok(Response::new(vote_answer(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        self.check_sender(request.metadata())?;
        let request = request.into_inner();
        let shard = self.shard(request.shard)?;
        let vote = vote_request_from_wire(request).map_err(malformed)?;
        let answer = shard
            .raft()
            .pre_vote(vote)
            .await
            .map_err(|error| raft_stopped(&error))?;
        Ok(Response::new(vote_answer(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotInstalled>, Status> {
        self.check_sender(request.metadata())?;
        let mut parts = request.into_inner();
        let head = first_part(&mut parts).await?;
        let shard = self.shard(head.shard)?;
        let head = head_from_wire(head).map_err(malformed)?;
        let vote = head.vote;
        let received = match receive(shard.replica(), head, parts).await {
            Ok(received) => received,
            Err(error) => return Err(not_received(shard, &error)),
        };
        let snapshot = Snapshot {
            meta: meta(&received.state),
            snapshot: SnapshotData::Received(Box::new(received)),
        };
        let answer = shard.raft().install_full_snapshot(vote, snapshot).await;
        let answer = answer.map_err(|error| stopped(&error))?;
        Ok(Response::new(wire::SnapshotInstalled {
            vote: Some(vote_to_wire(&answer.vote)),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        self.check_sender(request.metadata())?;
        let request = request.into_inner();
        let shard = self.shard(request.shard)?;
        check_format(request.format).map_err(malformed)?;
        let from = vote_from_wire(request.from).map_err(malformed)?;
        let last_log_id = request.last_log_id.map(log_id_from_wire);
        let transfer = TransferLeaderRequest::new(from, request.to, last_log_id);
        let answer = shard
            .raft()
            .handle_transfer_leader(transfer)
            .await
            .map_err(|error| stopped(&error))?;
        Ok(Response::new(transfer_answer(answer)))
    }
}

fn not_received(shard: &Shard, error: &ReceptionError) -> Status {
    let id = shard.id().0;
    match error {
        ReceptionError::Busy => return Status::unavailable(error.to_string()),
        ReceptionError::Store(StoreError::Write { .. } | StoreError::Read { .. }) => {
            shard.replica().fail(error.to_string());
        }
        ReceptionError::Ended(_) => {
            tracing::info!(shard = id, %error, "a snapshot was not received");
        }
        ReceptionError::Damaged(_) | ReceptionError::Malformed(_) | ReceptionError::Store(_) => {
            tracing::error!(shard = id, %error, "refused a snapshot");
        }
    }
    count_event("refused");
    Status::data_loss(error.to_string())
}

fn transfer_answer(
    answer: Result<(), TransferLeaderError<TypeConfig>>,
) -> wire::TransferLeaderResponse {
    use wire::transfer_leader_response::Refused;
    let refused = answer.err().map(|error| match error {
        TransferLeaderError::VoteChanged { expected, actual } => {
            Refused::VoteChanged(wire::VoteChanged {
                expected: Some(vote_to_wire(&expected)),
                actual: Some(vote_to_wire(&actual)),
            })
        }
        TransferLeaderError::LogNotFlushed { expected, actual } => {
            Refused::LogNotFlushed(wire::LogNotFlushed {
                expected: expected.as_ref().map(log_id_to_wire),
                actual: actual.as_ref().map(log_id_to_wire),
            })
        }
    });
    wire::TransferLeaderResponse { refused }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tonic::Code;

    use super::*;
    use crate::ids::NodeId;
    use crate::shards::StoreConfig;

    async fn single_node(folder: &std::path::Path) -> Arc<Shards> {
        let config = StoreConfig {
            node: NodeId(1),
            cluster_name: "test".to_owned(),
            peers: BTreeMap::from([(NodeId(1), "127.0.0.1:7400".to_owned())]),
            shards: 1,
            data_dir: folder.to_owned(),
            heartbeat: Duration::from_millis(100),
            election_timeout: (Duration::from_millis(500), Duration::from_millis(1000)),
            block_cache_bytes: 1 << 20,
            snapshot_after: 100_000,
            security: crate::PeerSecurity::Open,
        };
        Shards::start(config, Arc::new(|_, _, _| {})).await.unwrap()
    }

    fn vote(cluster: &'static str, to: u16) -> Request<wire::VoteRequest> {
        let mut request = Request::new(wire::VoteRequest::default());
        request
            .metadata_mut()
            .insert(CLUSTER_KEY, cluster.parse().unwrap());
        request.metadata_mut().insert(FROM_KEY, 2.into());
        request.metadata_mut().insert(TO_KEY, to.into());
        request
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_for_another_cluster_or_node_are_refused_and_bad_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let shards = single_node(folder.path()).await;
        let service = RaftService {
            shards: Arc::clone(&shards),
        };
        for request in [
            vote("other", 1),
            vote("test", 2),
            Request::new(wire::VoteRequest::default()),
        ] {
            assert_eq!(
                service.vote(request).await.unwrap_err().code(),
                Code::FailedPrecondition
            );
        }
        // Ours, but of no known format.
        assert_eq!(
            service.vote(vote("test", 1)).await.unwrap_err().code(),
            Code::InvalidArgument
        );
        shards.shutdown().await.unwrap();
    }
}
