//! Who a connection belongs to, what it asked for, and the fences it has put up.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use codec::{ClientId, ProtocolVersion};
use raft_store::{Command, Epoch, Holder, NodeId, ShardId};

use crate::broker::Broker;
use crate::life::Life;
use crate::proto::NodeFence;
use crate::proto::live_item::Kind as ItemKind;
use crate::waiter::CommandWaiter;

/// One client on one connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its name.
    pub(crate) client_id: ClientId,
    /// Its protocol version.
    pub(crate) version: ProtocolVersion,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// Seconds; 0: none.
    pub(crate) keep_alive_s: u16,
    /// Effective interval in seconds.
    pub(crate) session_expiry_interval_s: u32,
    /// The client's Receive Maximum.
    pub(crate) receive_maximum: u16,
    /// The client's Maximum Packet Size in bytes.
    pub(crate) packet_bytes_max: usize,
    /// The shard of its session.
    pub(crate) shard: ShardId,
    /// This connection.
    pub(crate) holder: Holder,
    /// This connection's epoch.
    pub(crate) epoch: Epoch,
    /// Fences against former connections; `None`: all of them are closed.
    pub(crate) fences: Option<Fences>,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The client's address.
    pub(crate) address: SocketAddr,
    /// `name` of the listener that accepted it.
    pub(crate) listener: Arc<str>,
    /// A client without identity is admitted there.
    pub(crate) anonymous: bool,
}

/// Whom this connection has told to refuse its client's former connections.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    shards: BTreeSet<ShardId>,
    nodes: BTreeSet<NodeId>,
}

impl Client {
    /// To be called before each command to a shard: a former connection that is not recorded closed
    /// may still have commands under way there.
    pub(crate) fn fence_shard(&mut self, life: &Life, shard: ShardId) {
        let Some(fences) = &mut self.fences else { return };
        // The own shard knows the epoch itself.
        if shard != self.shard && fences.shards.insert(shard) {
            let fence = Command::Fence { client_id: self.client_id.clone(), epoch: self.epoch };
            life.propose(shard, &fence, CommandWaiter::None);
        }
    }

    /// To be called before each live message to a node.
    pub(crate) fn fence_node(&mut self, life: &Life, node: NodeId) {
        let Some(fences) = &mut self.fences else { return };
        if !fences.nodes.insert(node) {
            return;
        }
        if node == life.id.node {
            life.registry.fence(self.client_id.clone(), self.epoch);
        } else if let Some(link) = life.links.get(&node) {
            link.send(ItemKind::Fence(self.node_fence()), 0, None);
        }
    }

    /// Every former connection is recorded closed: nothing of theirs is under way.
    pub(crate) fn end_fences(&mut self, life: &Life) {
        let Some(fences) = self.fences.take() else { return };
        for shard in fences.shards {
            let end = Command::FenceEnd { client_id: self.client_id.clone(), epoch: self.epoch };
            life.propose(shard, &end, CommandWaiter::None);
        }
        for node in fences.nodes {
            if node == life.id.node {
                life.registry.fence_end(&self.client_id, self.epoch);
            } else if let Some(link) = life.links.get(&node) {
                link.send(ItemKind::FenceEnd(self.node_fence()), 0, None);
            }
        }
    }

    fn node_fence(&self) -> NodeFence {
        NodeFence { client_id: self.client_id.as_str().to_owned(), epoch: self.epoch.0 }
    }

    /// Records the connection closed. Everything that it sent must have been answered.
    pub(crate) fn record_closed(
        &self,
        broker: &Broker,
        life: &Life,
        session_expiry_interval_s: Option<u32>,
    ) {
        debug_assert_eq!(self.shard, broker.shard_of(&self.client_id));
        let command = Command::Disconnect {
            client_id: self.client_id.clone(),
            epoch: self.epoch,
            session_expiry_interval_s,
        };
        life.propose(self.shard, &command, CommandWaiter::None);
    }
}
