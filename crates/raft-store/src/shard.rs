//! One shard on this node: its Raft group and its replica, behind a handle without type parameters.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Instant as _, ReadPolicy, ServerState};
use session::{Body, StoredMessage};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::clock::since_boot;
use crate::command::{Answers, OutboxItem, OutboxTarget, WaitingItem};
use crate::entry::{EncodedBatch, Proposal};
use crate::error::WriteError;
use crate::group_commit::GroupCommit;
use crate::ids::{NodeId, ShardId};
use crate::machine::Machine;
use crate::pace::Pace;
use crate::replica::Replica;
use crate::state_machine::StateMachine;
use crate::type_config::TypeConfig;

/// How long a write may take before its outcome counts as unknown. Above the longest election; the
/// proposer resends the same batch.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read index may take: two round trips and a heartbeat, and room for a busy machine.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) type ShardRaft = openraft::Raft<TypeConfig, StateMachine>;

/// One shard on this node.
pub struct Shard {
    id: ShardId,
    node: NodeId,
    raft: ShardRaft,
    replica: Arc<Replica>,
    server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    leader: watch::Sender<Option<NodeId>>,
    heard: HeardFromLeader,
    counters: Counters,
    group_commit: GroupCommit,
}

/// When this node last accepted something from the shard's leader.
#[derive(Clone, Default)]
pub(crate) struct HeardFromLeader(Arc<AtomicU64>);

impl HeardFromLeader {
    pub(crate) fn now(&self) {
        self.0.store(now_ms(), Ordering::Relaxed);
    }

    fn within(&self, limit: Duration) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            at => Duration::from_millis(now_ms().saturating_sub(at)) <= limit,
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

struct Counters {
    committed: metrics::Counter,
    not_leader: metrics::Counter,
    unknown: metrics::Counter,
    stopped: metrics::Counter,
    duration: metrics::Histogram,
}

impl Counters {
    fn new() -> Self {
        let counter = |result: &'static str| metrics::counter!("holdfast_raft_proposals_total", "result" => result);
        Self {
            committed: counter("committed"),
            not_leader: counter("not_leader"),
            unknown: counter("unknown"),
            stopped: counter("stopped"),
            duration: metrics::histogram!("holdfast_raft_proposal_duration_seconds"),
        }
    }

    fn count(&self, result: &Result<Answers, WriteError>) {
        let counter = match result {
            Ok(_) => &self.committed,
            Err(WriteError::NotLeader { .. }) => &self.not_leader,
            Err(WriteError::Unknown) => &self.unknown,
            Err(WriteError::Stopped) => &self.stopped,
        };
        counter.increment(1);
    }
}

impl Shard {
    pub(crate) fn new(id: ShardId, node: NodeId, raft: ShardRaft, replica: Arc<Replica>) -> Self {
        let (leader, _) = watch::channel(None);
        let (server, metrics) = (raft.server_metrics(), raft.metrics());
        let (heard, counters) = (HeardFromLeader::default(), Counters::new());
        Self {
            id,
            node,
            raft,
            replica,
            server,
            metrics,
            leader,
            heard,
            counters,
            group_commit: GroupCommit::default(),
        }
    }

    /// Which shard it is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Commits a batch, as the leader: together with what else waits it becomes an entry, which is
    /// stamped with this node's time, replicated, and applied. `Ok` means that it is durable on a
    /// quorum and applied here; its effects were handed out before.
    ///
    /// # Errors
    /// See [`WriteError`]. After [`WriteError::Unknown`] the batch may still be committed.
    pub async fn write(&self, batch: Batch) -> Result<Answers, WriteError> {
        self.write_encoded(EncodedBatch::new(batch)).await
    }

    pub(crate) async fn write_encoded(&self, batch: EncodedBatch) -> Result<Answers, WriteError> {
        let result = match self.leadership() {
            Ok(_) => self.group_commit.write(batch).await,
            Err(error) => Err(error),
        };
        self.counters.count(&result);
        result
    }

    /// The term that this node leads.
    fn leadership(&self) -> Result<u64, WriteError> {
        let server = self.server.borrow_watched();
        if server.current_leader == Some(u64::from(self.node.0)) {
            return Ok(server.vote.leader_id.term);
        }
        Err(WriteError::NotLeader {
            leader: server.current_leader.and_then(node_id),
        })
    }

    /// Makes entries of the batches that wait, one entry after the other, until the node stops.
    pub(crate) async fn commit_groups(&self, stop: CancellationToken) {
        let mut pace = Pace::default();
        while let Some(Some(group)) = stop
            .run_until_cancelled(self.group_commit.next(&pace))
            .await
        {
            let (weight, began) = (group.weight(), Instant::now());
            let (batches, waiters) = group.into_parts();
            let answers = self.commit(batches).await;
            let took = began.elapsed();
            self.counters.duration.record(took);
            pace.answered(weight, took);
            waiters.answer(answers);
        }
        self.group_commit.close();
    }

    /// One entry.
    async fn commit(&self, batches: Vec<EncodedBatch>) -> Result<Arc<[Answers]>, WriteError> {
        let term = self.leadership()?;
        let leader_time = self.replica.clock.leader_time(term);
        let write = self.raft.client_write(Proposal::new(leader_time, batches));
        // What was proposed in a lost term is answered by the next leader, or by nobody.
        let mut server = self.server.clone();
        let lost =
            async { while self.leadership() == Ok(term) && server.changed().await.is_ok() {} };
        let written = tokio::select! {
            written = tokio::time::timeout(WRITE_TIMEOUT, write) => written,
            () = lost => return Err(WriteError::Unknown),
        };
        match written {
            Err(_) => Err(WriteError::Unknown),
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(RaftError::Fatal(_))) => Err(WriteError::Stopped),
            Ok(Err(RaftError::APIError(error))) => Err(match error {
                ClientWriteError::ForwardToLeader(forward) => not_leader(&forward),
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_) => WriteError::Unknown,
            }),
        }
    }

    /// As the leader: an index such that a replica which has applied it has everything that was
    /// acknowledged before this call. A quorum confirmed the leadership meanwhile.
    ///
    /// # Errors
    /// [`WriteError::NotLeader`], also when the quorum does not answer; [`WriteError::Stopped`].
    pub async fn read_index(&self) -> Result<u64, WriteError> {
        let read = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match tokio::time::timeout(READ_TIMEOUT, read).await {
            Err(_) => Err(WriteError::NotLeader { leader: None }),
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(RaftError::Fatal(_))) => Err(WriteError::Stopped),
            Ok(Err(RaftError::APIError(error))) => Err(match error {
                LinearizableReadError::ForwardToLeader(forward) => not_leader(&forward),
                LinearizableReadError::QuorumNotEnough(_) => WriteError::NotLeader { leader: None },
            }),
        }
    }

    /// The leader as this node knows it. It may be out of date; see [`Self::has_leader_confirmed`].
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    /// Follows [`Self::leader`].
    #[must_use]
    pub fn leader_watch(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.subscribe()
    }

    /// Whether this node leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.node)
    }

    /// Index of the last entry applied here; 0 before the first. An entry's index shows after its
    /// effects were handed out, and before [`Self::write`] answers.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.replica.applied_index()
    }

    /// Changes with each item that is put into the outbox for a shard. A snapshot, or the start, may
    /// bring items without a change.
    #[must_use]
    pub fn outbox_watch(&self) -> watch::Receiver<u64> {
        self.replica.outbox_watch()
    }

    /// Follows the installation of snapshots here: what such a one brought was not applied entry by
    /// entry.
    #[must_use]
    pub fn installs_watch(&self) -> watch::Receiver<u64> {
        self.replica.installs_watch()
    }

    /// Index of the first entry that the log still has; of the next one when it is empty.
    #[must_use]
    pub fn first_log_index(&self) -> u64 {
        self.replica.log().first_index()
    }

    /// Index of the last entry that this node knows to be committed; 0 when it knows of none yet.
    #[must_use]
    pub fn commit_index(&self) -> u64 {
        let metrics = self.metrics.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.local_committed);
        committed.map_or(0, |log_id| log_id.index)
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.server.borrow_watched().vote.leader_id.term
    }

    /// Whether a leader was confirmed within `limit`: to the leader by a quorum that answered it,
    /// to a follower by the leader's messages.
    #[must_use]
    pub fn has_leader_confirmed(&self, limit: Duration) -> bool {
        let metrics = self.metrics.borrow_watched();
        match metrics.current_leader {
            None => false,
            Some(leader) if leader == u64::from(self.node.0) => {
                // A quorum of one confirms itself; openraft notes only the answers of others.
                let alone = metrics.membership_config.membership().voter_ids().count() == 1;
                let acknowledged = metrics.last_quorum_acked;
                alone || acknowledged.is_some_and(|at| at.elapsed() <= limit)
            }
            Some(_) => self.heard.within(limit),
        }
    }

    /// Reads the replica's state. Entries wait meanwhile, so `read` must be short; it must not call
    /// back into this shard.
    pub fn with_machine<R>(&self, read: impl FnOnce(&Machine) -> R) -> R {
        self.replica.with_machine(read)
    }

    /// The content of a body: from memory, or from the disk, which blocks for a moment. `None`: it is
    /// gone, or the disk failed, which is final.
    #[must_use]
    pub fn message(&self, id: u64) -> Option<Arc<StoredMessage>> {
        self.replica.message(id)
    }

    /// Items of one outbox target after a number, at most `max_items` and about `max_bytes`. May read
    /// from the disk, which blocks for a moment.
    #[must_use]
    pub fn outbox_items(
        &self,
        target: OutboxTarget,
        after: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> VecDeque<(u64, OutboxItem)> {
        let waiting =
            self.with_machine(|machine| machine.outbox_items(target, after, max_items, max_bytes));
        let now = self.leader_time();
        let item = |(number, item): (u64, WaitingItem)| {
            let content = match &item.body {
                Body::Here(stored) => Arc::clone(stored),
                Body::Stored(reference) => self.message(reference.id)?,
            };
            Some((number, item.into_item(content, now)))
        };
        // Without a gap: whoever took a later item would be said to have taken all before it.
        waiting.into_iter().map_while(item).collect()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn raft(&self) -> &ShardRaft {
        &self.raft
    }

    pub(crate) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub(crate) fn heard_from_leader(&self) -> HeardFromLeader {
        self.heard.clone()
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.metrics.borrow_watched().clone()
    }

    /// Why the Raft group has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        let running = &self.metrics.borrow_watched().running_state;
        running.as_ref().err().map(ToString::to_string)
    }

    /// Writes the gauges of this shard.
    pub(crate) fn report(&self) {
        let shard = self.id.to_string();
        let gauge = |name: &'static str, value: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a gauge; exact below 2^53")]
            metrics::gauge!(name, "shard" => shard.clone()).set(value as f64);
        };
        gauge("holdfast_raft_applied_index", self.applied_index());
        gauge("holdfast_raft_commit_index", self.commit_index());
        gauge("holdfast_raft_term", self.term());
        gauge("holdfast_raft_log_entries", self.replica.log().entries());
        self.report_replication(&shard);
        gauge(
            "holdfast_raft_has_leader",
            u64::from(self.leader().is_some()),
        );
    }

    /// What the snapshot covers, and as the leader how far each follower is behind.
    #[expect(clippy::cast_precision_loss, reason = "gauges; exact below 2^53")]
    fn report_replication(&self, shard: &str) {
        let metrics = self.metrics();
        let snapshot = metrics.snapshot.map_or(0, |log_id| log_id.index);
        metrics::gauge!("holdfast_raft_snapshot_index", "shard" => shard.to_owned())
            .set(snapshot as f64);
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.unwrap_or_default();
        let peers = metrics.membership_config.membership().voter_ids();
        for peer in peers.filter(|peer| *peer != metrics.id) {
            let lag = replication.get(&peer).map_or(0, |matching| {
                last.saturating_sub(matching.as_ref().map_or(0, |log_id| log_id.index))
            });
            let labels = [("shard", shard.to_owned()), ("peer", peer.to_string())];
            metrics::gauge!("holdfast_raft_follower_lag_entries", &labels).set(lag as f64);
        }
    }

    /// Keeps [`Self::leader`] up to date until the group or the node stops.
    pub(crate) async fn follow_leader(&self, stop: CancellationToken) {
        let changes =
            metrics::counter!("holdfast_raft_leader_changes_total", "shard" => self.id.to_string());
        let mut server = self.server.clone();
        let elections =
            metrics::counter!("holdfast_raft_elections_total", "shard" => self.id.to_string());
        let mut last = None;
        let mut stood_in = None;
        loop {
            let (leader, term, stands) = {
                let server = server.borrow_and_update();
                (
                    server.current_leader.and_then(node_id),
                    server.vote.leader_id.term,
                    server.state == ServerState::Candidate
                        || server.current_leader == Some(u64::from(self.node.0)),
                )
            };
            // An election that is won at once shows as leadership alone.
            if stands && stood_in != Some(term) {
                stood_in = Some(term);
                elections.increment(1);
            }
            if leader.is_some() && leader != last {
                changes.increment(1);
                tracing::info!(
                    shard = self.id.0,
                    term,
                    leader = leader.map(|node| node.0),
                    "the shard has a leader"
                );
                last = leader;
            }
            self.leader
                .send_if_modified(|known| std::mem::replace(known, leader) != leader);
            tokio::select! {
                () = stop.cancelled() => break,
                changed = server.changed() => if changed.is_err() { break },
            }
        }
        self.leader.send_replace(None);
        if let Some(reason) = self.failure()
            && !stop.is_cancelled()
        {
            tracing::error!(shard = self.id.0, reason, "the shard stopped on this node");
        }
    }
}

fn node_id(id: u64) -> Option<NodeId> {
    u16::try_from(id).ok().map(NodeId)
}

fn not_leader(forward: &ForwardToLeader<TypeConfig>) -> WriteError {
    WriteError::NotLeader {
        leader: forward.leader_id.and_then(node_id),
    }
}
