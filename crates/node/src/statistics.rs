//! What a node counts of itself for `$SYS/`: the sums behind some of the metrics, since it started.

use std::sync::atomic::{AtomicU64, Ordering};

use raft_store::ShardId;

use crate::broker::Broker;
use crate::clock;
use crate::proto::StatisticsReply;

/// One sum.
#[derive(Debug)]
pub(crate) struct Sum(AtomicU64);

impl Sum {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The sums of this process, which is one node.
#[derive(Debug)]
pub(crate) struct Sums {
    /// Connections that were admitted.
    pub(crate) connections_opened: Sum,
    /// Of these, those that have ended.
    pub(crate) connections_closed: Sum,
    /// Packets from clients.
    pub(crate) packets_received: Sum,
    /// Packets to clients.
    pub(crate) packets_sent: Sum,
    /// PUBLISHes from clients.
    pub(crate) publishes_received: Sum,
    /// PUBLISHes to clients.
    pub(crate) publishes_sent: Sum,
    /// Messages lost to a documented limit.
    pub(crate) messages_dropped: Sum,
    /// From clients that were admitted.
    pub(crate) bytes_received: Sum,
    /// To clients that were admitted.
    pub(crate) bytes_sent: Sum,
}

/// Written by `count`.
pub(crate) static SUMS: Sums = Sums {
    connections_opened: Sum::new(),
    connections_closed: Sum::new(),
    packets_received: Sum::new(),
    packets_sent: Sum::new(),
    publishes_received: Sum::new(),
    publishes_sent: Sum::new(),
    messages_dropped: Sum::new(),
    bytes_received: Sum::new(),
    bytes_sent: Sum::new(),
};

/// What this node tells of itself.
pub(crate) fn of_this_node(broker: &Broker) -> StatisticsReply {
    let closed = SUMS.connections_closed.get();
    let opened = SUMS.connections_opened.get();
    let transient_subscriptions = broker.dispatch.life().map_or(0, |life| {
        let (exact, wildcard, shared) = life.registry.transient_subscriptions();
        u64::try_from(exact.saturating_add(wildcard).saturating_add(shared)).unwrap_or(u64::MAX)
    });
    StatisticsReply {
        uptime_s: clock::now().saturating_sub(broker.started).as_secs(),
        connections: opened.saturating_sub(closed),
        connections_opened: opened,
        packets_received: SUMS.packets_received.get(),
        packets_sent: SUMS.packets_sent.get(),
        publishes_received: SUMS.publishes_received.get(),
        publishes_sent: SUMS.publishes_sent.get(),
        messages_dropped: SUMS.messages_dropped.get(),
        bytes_received: SUMS.bytes_received.get(),
        bytes_sent: SUMS.bytes_sent.get(),
        transient_subscriptions,
    }
}

/// What the replicas of this node say of the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Sessions, connected or not.
    pub(crate) sessions: u64,
    /// Sessions without a connection.
    pub(crate) disconnected: u64,
    /// Subscriptions of sessions that outlive their connection.
    pub(crate) subscriptions: u64,
    /// Retained messages.
    pub(crate) retained: u64,
    /// Shards of which no leader is known here.
    pub(crate) leaderless: u64,
}

/// Reads all replicas of this node.
pub(crate) fn stored(broker: &Broker) -> Stored {
    let mut stored = Stored::default();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    for shard in (0..broker.shards.count()).map(ShardId) {
        let Some(shard) = broker.shards.shard(shard) else {
            continue;
        };
        let (sessions, connected, subscriptions, retained) = shard.with_machine(|machine| {
            let sessions = machine.session_count();
            let connected = machine.connected_count();
            let subscriptions = machine.subscription_count();
            (sessions, connected, subscriptions, machine.retained_count())
        });
        stored.sessions = stored.sessions.saturating_add(number(sessions));
        stored.disconnected = stored
            .disconnected
            .saturating_add(number(sessions.saturating_sub(connected)));
        stored.subscriptions = stored.subscriptions.saturating_add(number(subscriptions));
        stored.retained = stored.retained.saturating_add(number(retained));
        stored.leaderless = stored
            .leaderless
            .saturating_add(u64::from(shard.leader().is_none()));
    }
    stored
}
