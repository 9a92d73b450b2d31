//! Who a connection belongs to, what it asked for, and the fences it has put up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use codec::{ClientId, ProtocolVersion, TopicName};
use raft_store::{Command, Epoch, Holder, ShardId};

use crate::acl::Rights;
use crate::auth::{AccessPolicy, Identity, Principal};
use crate::broker::Broker;
use crate::end::End;
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
    /// The client's Topic Alias Maximum.
    pub(crate) topic_alias_maximum: u16,
    /// Who it has shown to be.
    pub(crate) principal: Principal,
    /// What that was decided by, and its rights.
    pub(crate) policy: Arc<AccessPolicy>,
    /// What it may do.
    pub(crate) rights: Rights,
    /// Where its will is published.
    pub(crate) will_topic: Option<TopicName>,
    /// How it has shown who it is, if by enhanced authentication.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The client takes Reason Strings.
    pub(crate) wants_reasons: bool,
    /// The shard of its session.
    pub(crate) shard: ShardId,
    /// This connection.
    pub(crate) holder: Holder,
    /// This connection's epoch.
    pub(crate) epoch: Epoch,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The client's address, as a proxy announced it if there is one; on a Unix socket 127.0.0.1, port 0.
    pub(crate) address: SocketAddr,
    /// `name` of the listener that accepted it.
    pub(crate) listener: Arc<str>,
    /// When it was accepted.
    pub(crate) since: Instant,
    /// It comes from this host: the listener is bound to a loopback address or is a socket in the file
    /// system, and no proxy says otherwise.
    pub(crate) is_local: bool,
    /// Who it is by the certificate that it has shown, if the listener's `identity_from` says so. The
    /// certificate was verified, here or by the proxy in front.
    pub(crate) certificate_identity: Option<Arc<str>>,
}

impl Client {
    /// Former connections are not recorded closed: what they still have under way is refused from
    /// now on in every other shard and on every node. This connection's own commands and messages
    /// follow in the same streams, so none of them can be overtaken by an older one.
    pub(crate) fn put_up_fences(&self, life: &Life) {
        let command = Command::Fence {
            client_id: self.client_id.clone(),
            epoch: self.epoch,
        };
        life.registry.fence(self.client_id.clone(), self.epoch);
        // The own shard knows the epoch itself.
        for shard in life.shards().filter(|shard| *shard != self.shard) {
            life.propose(shard, &command, CommandWaiter::None);
        }
        for link in life.links.values() {
            let fence = NodeFence {
                client_id: self.client_id.as_str().to_owned(),
                epoch: self.epoch.0,
            };
            link.send(ItemKind::Fence(fence), FENCE_BYTES, None);
        }
    }

    /// Records the connection closed. Everything that it sent must have been answered.
    pub(crate) fn record_closed(&self, broker: &Broker, life: &Life, end: &End) {
        debug_assert_eq!(self.shard, broker.shard_of(&self.client_id));
        let (session_expiry_interval_s, ending) = end.of_session();
        let command = Command::Disconnect {
            client_id: self.client_id.clone(),
            epoch: self.epoch,
            session_expiry_interval_s,
            ending,
        };
        life.propose(self.shard, &command, CommandWaiter::None);
    }
}

/// What a fence counts for in a peer's queue.
const FENCE_BYTES: usize = 64;
