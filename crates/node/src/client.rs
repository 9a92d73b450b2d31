//! Who a connection belongs to, what it asked for, and the fences it has put up.

use std::net::SocketAddr;
use std::sync::Arc;

use codec::{ClientId, ProtocolVersion};
use raft_store::{Command, Epoch, Holder, ShardId};

use tokio::time::sleep;

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
    /// Fences against former connections are up.
    pub(crate) fenced: bool,
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

impl Client {
    /// Former connections are not recorded closed: what they still have under way is refused from
    /// now on in every other shard and on every node. This connection's own commands and messages
    /// follow in the same streams, so none of them can be overtaken by an older one.
    pub(crate) fn put_up_fences(&self, life: &Life) {
        let fence = Command::Fence { client_id: self.client_id.clone(), epoch: self.epoch };
        life.registry.fence(self.client_id.clone(), self.epoch);
        let item = ItemKind::Fence(node_fence(&self.client_id, self.epoch));
        tell_everybody(life, self.shard, &fence, &item);
    }

    /// Every former connection is recorded closed: the fences go, some time later. A former
    /// connection may be recorded closed because its node was declared down, which the other shards
    /// and nodes learn a moment after the client's own shard; until then only the fence keeps it out.
    pub(crate) fn end_fences(&mut self, broker: &Broker, life: &Arc<Life>) {
        if !std::mem::take(&mut self.fenced) {
            return;
        }
        let linger = broker.config.cluster.node_down_after;
        let fence = FenceEnd {
            client_id: self.client_id.clone(),
            epoch: self.epoch,
            shard: self.shard,
        };
        let (ended, life) = (life.ended.clone(), Arc::clone(life));
        life.clone().tasks.spawn(async move {
            if ended.run_until_cancelled(sleep(linger)).await.is_some() {
                fence.send(&life);
            }
        });
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

/// The end of one connection's fences.
#[derive(Debug)]
struct FenceEnd {
    client_id: ClientId,
    epoch: Epoch,
    shard: ShardId,
}

impl FenceEnd {
    fn send(self, life: &Life) {
        let Self { client_id, epoch, shard } = self;
        life.registry.fence_end(&client_id, epoch);
        let item = ItemKind::FenceEnd(node_fence(&client_id, epoch));
        tell_everybody(life, shard, &Command::FenceEnd { client_id, epoch }, &item);
    }
}

/// To every shard but the client's own, which knows the epoch itself, and to every peer.
fn tell_everybody(life: &Life, own: ShardId, command: &Command, item: &ItemKind) {
    for shard in life.shards().filter(|shard| *shard != own) {
        life.propose(shard, command, CommandWaiter::None);
    }
    for link in life.links.values() {
        link.send(item.clone(), FENCE_BYTES, None);
    }
}

fn node_fence(client_id: &ClientId, epoch: Epoch) -> NodeFence {
    NodeFence { client_id: client_id.as_str().to_owned(), epoch: epoch.0 }
}

/// What a fence counts for in a peer's queue.
const FENCE_BYTES: usize = 64;
