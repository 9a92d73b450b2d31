//! Raft messages to the peers, over gRPC.
//!
//! Entries of one shard travel on one stream per peer with many requests in flight; answers come
//! back in request order, so they need no numbers.
//!
//! Every wait for a peer ends: requests have deadlines, a stream on which an answer is overdue is
//! broken off, and connections whose peer answers no ping are closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{ReplicationClosed, StreamingError};
use openraft::network::{
    Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::{Notify, Semaphore};
use tonic::{Status, Streaming};

use crate::connections::{Connections, Peer, RpcError};
use crate::entry::{
    EntryError, FORMAT, entry_to_wire, log_id_from_wire, log_id_to_wire, vote_from_wire,
    vote_to_wire,
};
use crate::ids::ShardId;
use crate::proto::holdfast::raft::v1 as wire;
use crate::snapshot::SnapshotData;
use crate::snapshot::outgoing::send_snapshot;
use crate::type_config::{PeerAddress, TypeConfig, Vote};

/// Appends on one stream that wait for their answer. As many as the receiving openraft takes in.
const IN_FLIGHT_MAX: usize = 64;
/// An append unanswered for this long breaks its stream. Above the longest stall of a disk that is
/// still worth waiting for; a dead peer is noticed by the ping long before.
const ANSWER_OVERDUE: Duration = Duration::from_secs(5);
/// Between two tries to reach a peer: a restarted one is found within a tenth of a second.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

type Append = AppendEntriesRequest<TypeConfig>;
type AppendResult = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// Makes openraft's network clients for one shard.
pub(crate) struct NetworkFactory {
    pub(crate) shard: ShardId,
    pub(crate) connections: Arc<Connections>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &PeerAddress) -> Network {
        Network {
            shard: self.shard,
            peer: self.connections.peer(target, node),
            appends: Appends::Streamed,
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerAddress) -> Network {
        Network {
            shard: self.shard,
            peer: self.connections.peer(target, node),
            appends: Appends::Heartbeats,
        }
    }
}

/// openraft's client for one shard and peer.
pub(crate) struct Network {
    shard: ShardId,
    peer: Arc<Peer>,
    appends: Appends,
}

#[derive(Clone, Copy)]
enum Appends {
    /// Entries, on the bulk connection.
    Streamed,
    /// No entries, one by one, on the control connection.
    Heartbeats,
}

impl Network {
    fn append_to_wire(shard: ShardId, append: &Append) -> wire::AppendRequest {
        wire::AppendRequest {
            format: FORMAT,
            shard: u32::from(shard.0),
            vote: Some(vote_to_wire(&append.vote)),
            previous: append.prev_log_id.as_ref().map(log_id_to_wire),
            committed: append.leader_commit.as_ref().map(log_id_to_wire),
            entries: append.entries.iter().map(entry_to_wire).collect(),
        }
    }

    fn vote_to_wire(&self, vote: &VoteRequest<TypeConfig>) -> wire::VoteRequest {
        wire::VoteRequest {
            format: FORMAT,
            shard: u32::from(self.shard.0),
            vote: Some(vote_to_wire(&vote.vote)),
            last_log_id: vote.last_log_id.as_ref().map(log_id_to_wire),
            leadership_transfer: vote.leadership_transfer,
        }
    }

    /// Waits for an answer, but not longer than openraft wants to.
    async fn answer<T>(
        &self,
        option: &RPCOption,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        let limit = option.soft_ttl();
        let Ok(answer) = tokio::time::timeout(limit, call).await else {
            return Err(self
                .peer
                .unreachable(format_args!("no answer within {limit:?}")));
        };
        let answer = answer.map_err(|status| self.peer.failed(&status))?;
        self.peer.answered();
        Ok(answer.into_inner())
    }

    fn vote_answer(
        &self,
        answer: wire::VoteResponse,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let vote = vote_from_wire(answer.vote).map_err(|error| self.peer.malformed(&error))?;
        Ok(VoteResponse {
            vote,
            vote_granted: answer.granted,
            last_log_id: answer.last_log_id.map(log_id_from_wire),
        })
    }

    async fn open_append_stream<S>(
        &self,
        input: S,
    ) -> Result<BoxStream<'static, AppendResult>, RpcError>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        let mut client = self.peer.clients()?.bulk.clone();
        let flow = Arc::new(Flow {
            room: Semaphore::new(IN_FLIGHT_MAX),
            unanswered: AtomicUsize::new(0),
        });
        let requests = outgoing(self.shard, input, Arc::clone(&flow));
        let call = client.append_stream(self.peer.request(requests));
        let Ok(answers) = tokio::time::timeout(ANSWER_OVERDUE, call).await else {
            return Err(self.peer.unreachable("it opens no append stream"));
        };
        let answers = answers
            .map_err(|status| self.peer.failed(&status))?
            .into_inner();
        self.peer.answered();
        let interrupt = self.peer.interrupt(self.shard);
        let peer = Arc::clone(&self.peer);
        Ok(Box::pin(incoming(peer, answers, flow, interrupt)))
    }
}

/// Bounds what is under way on one append stream.
struct Flow {
    room: Semaphore,
    unanswered: AtomicUsize,
}

impl Flow {
    fn answered(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.room.add_permits(1);
    }
}

fn outgoing<S>(
    shard: ShardId,
    input: S,
    flow: Arc<Flow>,
) -> impl Stream<Item = wire::AppendRequest> + Send + 'static
where
    S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
{
    stream::unfold((input, flow), move |(mut input, flow)| async move {
        flow.room.acquire().await.ok()?.forget();
        let append = input.next().await?;
        flow.unanswered.fetch_add(1, Ordering::Relaxed);
        Some((Network::append_to_wire(shard, &append), (input, flow)))
    })
}

fn incoming(
    peer: Arc<Peer>,
    answers: Streaming<wire::AppendResponse>,
    flow: Arc<Flow>,
    interrupt: Arc<Notify>,
) -> impl Stream<Item = AppendResult> + Send + 'static {
    stream::unfold(Some((peer, answers, flow, interrupt)), |state| async move {
        let (peer, mut answers, flow, interrupt) = state?;
        let next = tokio::select! {
            next = next_answer(&mut answers, &flow) => next,
            () = interrupt.notified() => Next::Interrupted,
        };
        let answer = match next {
            Next::Answer(answer) => answer,
            Next::Interrupted => {
                return Some((Err(peer.unreachable("it lags behind the log")), None));
            }
            Next::End => return None,
            Next::Overdue => {
                let failed = Err(peer.unreachable("an append is overdue"));
                return Some((pause_after_failure(failed).await, None));
            }
            Next::Failed(status) => {
                let failed = Err(peer.failed(&status));
                return Some((pause_after_failure(failed).await, None));
            }
        };
        flow.answered();
        let answer = append_result(answer).map_err(|error| peer.malformed(&error));
        // After a refusal or a failure there is nothing left to be answered on this stream.
        let state = matches!(answer, Ok(Ok(_))).then_some((peer, answers, flow, interrupt));
        Some((answer, state))
    })
}

/// Openraft opens the next stream at once after a failure: its back-off applies to requests that are
/// taken from the input, and a stream that cannot be opened takes none.
async fn pause_after_failure<T>(result: Result<T, RpcError>) -> Result<T, RpcError> {
    if result.is_err() {
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
    result
}

enum Next {
    Answer(wire::AppendResponse),
    End,
    Overdue,
    /// It lags so far that the log must not wait for it.
    Interrupted,
    Failed(Status),
}

async fn next_answer(answers: &mut Streaming<wire::AppendResponse>, flow: &Flow) -> Next {
    let mut waiting = false;
    loop {
        // Cancel-safe: a half-read message stays in `answers`.
        match tokio::time::timeout(ANSWER_OVERDUE, answers.message()).await {
            Ok(Ok(Some(answer))) => return Next::Answer(answer),
            Ok(Ok(None)) => return Next::End,
            Ok(Err(status)) => return Next::Failed(status),
            // Only an answer that was awaited for the whole time is overdue.
            Err(_) if waiting => return Next::Overdue,
            Err(_) => waiting = flow.unanswered.load(Ordering::Relaxed) > 0,
        }
    }
}

/// What a follower answers, in openraft's words.
///
/// # Errors
/// What is missing.
pub fn append_result(
    answer: wire::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, EntryError> {
    match answer.result.ok_or(EntryError::Missing("result"))? {
        wire::append_response::Result::Matching(matching) => {
            Ok(Ok(matching.log_id.map(log_id_from_wire)))
        }
        wire::append_response::Result::Conflict(at) => {
            Ok(Err(StreamAppendError::Conflict(log_id_from_wire(at))))
        }
        wire::append_response::Result::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(
            vote_from_wire(Some(vote))?,
        ))),
    }
}

/// What the next leader answers, in openraft's words.
///
/// # Errors
/// What is missing.
pub fn transfer_answer(
    answer: wire::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<TypeConfig>, EntryError> {
    use wire::transfer_leader_response::Refused;
    Ok(match answer.refused {
        None => Ok(()),
        Some(Refused::VoteChanged(wire::VoteChanged { expected, actual })) => {
            Err(TransferLeaderError::VoteChanged {
                expected: vote_from_wire(expected)?,
                actual: vote_from_wire(actual)?,
            })
        }
        Some(Refused::LogNotFlushed(wire::LogNotFlushed { expected, actual })) => {
            Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(log_id_from_wire),
                actual: actual.map(log_id_from_wire),
            })
        }
    })
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        append: Append,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let mut client = self.peer.clients()?.control.clone();
        let request = self.peer.request(Self::append_to_wire(self.shard, &append));
        let answer = self.answer(&option, client.heartbeat(request)).await?;
        let applied = (!answer.declines_leadership).then_some(answer.applied);
        self.peer.note_applied(self.shard, applied);
        let result = append_result(answer).map_err(|error| self.peer.malformed(&error))?;
        Ok(match result {
            Ok(matching) => AppendEntriesResponse::PartialSuccess(matching),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RpcError>>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        match self.appends {
            Appends::Heartbeats => stream_append_sequential(self, input, option),
            // `option` holds a heartbeat's limit, which means nothing to a stream that stays open.
            Appends::Streamed => {
                let network: &'s Self = self;
                let opened = network.open_append_stream(input).then(pause_after_failure);
                opened
                    .map(|opened| opened.map(|answers| answers as BoxStream<'s, _>))
                    .boxed()
            }
        }
    }

    async fn vote(
        &mut self,
        vote: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.peer.clients()?.control.clone();
        let request = self.peer.request(self.vote_to_wire(&vote));
        let answer = self.answer(&option, client.vote(request)).await?;
        self.vote_answer(answer)
    }

    async fn pre_vote(
        &mut self,
        vote: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.peer.clients()?.control.clone();
        let request = self.peer.request(self.vote_to_wire(&vote));
        let answer = self.answer(&option, client.pre_vote(request)).await?;
        self.vote_answer(answer)
    }

    /// Sends the live tables as they are now: they may be newer than `snapshot` says.
    ///
    /// `option` holds the limit of a single message; here progress is what counts.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Live(replica) = snapshot.snapshot else {
            return Err(ReplicationClosed::new("only live tables are sent").into());
        };
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = send_snapshot(&self.peer, replica, vote) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        transfer: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.peer.clients()?.control.clone();
        let request = self.peer.request(wire::TransferLeaderRequest {
            format: FORMAT,
            shard: u32::from(self.shard.0),
            from: Some(vote_to_wire(transfer.from_leader())),
            to: *transfer.to_node_id(),
            last_log_id: transfer.last_log_id().map(log_id_to_wire),
        });
        let answer = self
            .answer(&option, client.transfer_leader(request))
            .await?;
        transfer_answer(answer).map_err(|error| self.peer.malformed(&error))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RECONNECT_AFTER)))
    }
}
