//! The parts of one node that its tasks share, and the parts of a broker that are one line each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use raft_store::{
    Answers, Batch, Command, Forwarder, NodeId, ProposerId, Response, ShardId, Shards, WriteError,
    encode_command,
};

use tokio::sync::watch;

use crate::auth::{AccessPolicy, Logins};
use crate::config::{Config, LimitsConfig};
use crate::disk::Disk;
use crate::dispatch::Dispatch;
use crate::drain::Drain;
use crate::health::Health;
use crate::lease::Lease;
use crate::life::{Destination, Life};
use crate::overload::Overload;
use crate::pressure::Pressure;
use crate::silence::{Reports, Silence};
use crate::transport::TlsStore;
use crate::visibility::Visibility;

/// One node.
#[derive(Debug)]
pub(crate) struct Broker {
    /// Its configuration.
    pub(crate) config: Config,
    /// When it started, by the clock of this machine.
    pub(crate) started: Duration,
    /// Its name in the cluster.
    pub(crate) node: NodeId,
    /// Every member with its cluster address, this node included.
    pub(crate) members: BTreeMap<NodeId, String>,
    /// Its replicas.
    pub(crate) shards: Arc<Shards>,
    /// The way to the shards' leaders.
    pub(crate) forwarder: Arc<Forwarder>,
    /// From what is applied to who is concerned.
    pub(crate) dispatch: Arc<Dispatch>,
    /// Its right to serve.
    pub(crate) lease: Lease,
    /// What health checks see.
    pub(crate) health: Arc<Health>,
    /// How long each peer has not been heard at all.
    pub(crate) silence: Silence,
    /// How long each peer has not answered this node.
    pub(crate) unanswered: Silence,
    /// Whom the peers cannot reach.
    pub(crate) reports: Reports,
    /// Whom to ask what they have seen.
    pub(crate) visibility: Arc<Visibility>,
    /// Slow subscribers, and the memory that all connections share.
    pub(crate) pressure: Arc<Pressure>,
    /// `[limits]`, which can change while the node runs.
    pub(crate) limits: watch::Sender<Arc<LimitsConfig>>,
    /// When new connections are refused.
    pub(crate) overload: Overload,
    /// Some outbox of this node's replicas holds more than its bound.
    pub(crate) outbox_full: watch::Sender<bool>,
    /// Who is let in and what they may do.
    pub(crate) access: watch::Sender<Arc<AccessPolicy>>,
    /// Logins under way, and those that failed.
    pub(crate) logins: Logins,
    /// Certificates of the listeners and of the cluster port.
    pub(crate) tls: Arc<TlsStore>,
    /// How it leaves.
    pub(crate) drain: Drain,
    /// Room on its disk.
    pub(crate) disk: Disk,
}

impl Broker {
    /// `[limits]` as it is now.
    pub(crate) fn limits(&self) -> Arc<LimitsConfig> {
        Arc::clone(&self.limits.borrow())
    }

    /// New limits: for CONNECTs, retained messages and buffers from now on; a session and a connection
    /// keep those that they began with.
    pub(crate) fn set_limits(&self, limits: &LimitsConfig) {
        if *self.limits() == *limits {
            return;
        }
        self.limits.send_replace(Arc::new(limits.clone()));
        self.overload.set_limits(limits);
        let buffers_max = usize::try_from(limits.buffers_max_bytes).unwrap_or(usize::MAX);
        self.pressure.budget.set_max(buffers_max);
    }

    /// Members besides this node.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (NodeId, &String)> {
        let this = self.node;
        self.members
            .iter()
            .map(|(peer, address)| (*peer, address))
            .filter(move |(p, _)| *p != this)
    }

    /// Nodes that make a majority, this one included.
    pub(crate) fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// The current life, if this node may serve right now.
    pub(crate) fn serving(&self) -> Option<Arc<Life>> {
        if !self.lease.is_held() {
            return None;
        }
        self.dispatch
            .life()
            .filter(|life| !life.ended.is_cancelled())
    }

    /// Some outbox holds more than its bound: publishers wait.
    pub(crate) fn is_outbox_full(&self) -> bool {
        *self.outbox_full.borrow()
    }

    /// Waits until no outbox is full, and the queue that the connection waits for is not.
    pub(crate) async fn capacity(&self, life: &Life, waits_for: Option<Destination>) {
        let mut outbox_full = self.outbox_full.subscribe();
        // The sender lives as long as the broker.
        drop(outbox_full.wait_for(|full| !full).await);
        if let Some(destination) = waits_for {
            life.ready(destination).await;
        }
    }

    /// The shard that a client's session lives in.
    pub(crate) fn shard_of(&self, client_id: &codec::ClientId) -> ShardId {
        ShardId::of_client(client_id.as_str(), self.shards.count())
    }

    /// There is a session of this client, as this node's replica of its shard has it.
    pub(crate) fn knows(&self, client_id: &codec::ClientId) -> bool {
        let own = self.shards.shard(self.shard_of(client_id));
        own.is_some_and(|shard| shard.with_machine(|machine| machine.knows(client_id)))
    }

    /// Writes commands that are harmless when repeated. One attempt.
    pub(crate) async fn propose_idempotent(
        &self,
        shard: ShardId,
        commands: &[Command],
    ) -> Result<Answers, WriteError> {
        self.write(shard, ProposerId::Idempotent, commands).await
    }

    /// Writes one unnumbered batch. One attempt.
    pub(crate) async fn write(
        &self,
        shard: ShardId,
        proposer: ProposerId,
        commands: &[Command],
    ) -> Result<Answers, WriteError> {
        let batch = Batch {
            proposer,
            sequence: 0,
            leader_time: codec::Timestamp::ZERO,
            commands: commands.iter().map(encode_command).collect(),
        };
        self.forwarder.send(shard, &batch).await
    }

    /// This node leads the shard, as far as it knows.
    pub(crate) fn leads(&self, shard: ShardId) -> bool {
        self.shards
            .shard(shard)
            .is_some_and(|shard| shard.is_leader())
    }

    /// Members of which no life has served for longer than a lease, as this node knows it: it has
    /// given none of them a heartbeat's answer in that time.
    pub(crate) fn long_over(&self) -> BTreeSet<NodeId> {
        let live = self.live_nodes();
        let lease = self.lease.duration();
        let over =
            |node: &NodeId| !live.contains_key(node) && self.dispatch.over_for(*node) > lease;
        self.members.keys().copied().filter(over).collect()
    }

    /// The newest life of each node that is not declared over, as this node's replica of shard 0
    /// knows it.
    pub(crate) fn live_nodes(&self) -> BTreeMap<NodeId, raft_store::Incarnation> {
        let Some(shard) = self.shards.shard(ShardId::ZERO) else {
            return BTreeMap::new();
        };
        shard.with_machine(|machine| {
            let live = machine.lives().filter(|(_, _, down)| !down);
            live.map(|(node, incarnation, _)| (node, incarnation))
                .collect()
        })
    }
}

/// The incarnation in the answers to a lone `NodeUp`.
pub(crate) fn incarnation_of(answers: &Answers) -> Option<raft_store::Incarnation> {
    match answers.first() {
        Some(Response::NodeUp { incarnation }) => Some(*incarnation),
        _ => None,
    }
}
