//! What follows from applying commands, for those who carry it out.

use codec::{ClientId, PacketId, ReasonCode, TopicFilter};
use session::{Delivery, DropCause, Resend, Subscription};

use super::WaitingItem;
use crate::ids::{Epoch, Holder, Incarnation, NodeId, ShardId};

/// What follows from applying an entry. Every replica computes it; the node concerned carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A connection was opened: what it must send first, and what it is subscribed to.
    Resumed {
        /// The connection.
        holder: Holder,
        /// In-flight messages in original order.
        resend: Vec<Resend>,
        /// The session's subscriptions.
        subscriptions: Vec<(TopicFilter, Subscription)>,
        /// QoS 2 ids of the client that it has not released: what it sends under one is a repeat.
        awaiting_pubrel: Vec<PacketId>,
    },
    /// Write a PUBLISH with DUP=0.
    Send {
        /// The connection.
        holder: Holder,
        /// Position in the session's order; grows from copy to copy.
        position: u64,
        /// Packet id.
        packet_id: PacketId,
        /// What; its body by name if this replica does not have it in memory.
        delivery: Delivery,
    },
    /// Write a PUBREL: the PUBREC is committed.
    SendPubrel {
        /// The connection.
        holder: Holder,
        /// Packet id.
        packet_id: PacketId,
        /// 0x00 or 0x92.
        reason_code: ReasonCode,
        /// Place in the order of PUBRECs; `None` for an id that is not in flight.
        pubrec_position: Option<u64>,
    },
    /// A snapshot was installed: the connection sends what it has not sent yet, with DUP=0.
    Resync {
        /// The connection.
        holder: Holder,
        /// Everything in flight, in the order of `Resumed`.
        in_flight: Vec<Resend>,
    },
    /// Close a connection.
    Close {
        /// The connection.
        holder: Holder,
        /// Why.
        reason: CloseReason,
    },
    /// Every former connection of a client is recorded closed: the fences against them may go, some
    /// time later. They may be recorded closed because their node was declared down, which the other
    /// shards learn a moment after this one; until then only the fences keep them out.
    FencesOver {
        /// The client.
        client_id: ClientId,
        /// Its newest connection: fences of this one and of older ones may go.
        epoch: Epoch,
    },
    /// A QoS 2 message for the transient sessions of one node.
    LiveOutbox {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// Number of the item for that target.
        number: u64,
        /// The message. A shared one must be claimed before it is handed to a member.
        item: WaitingItem,
    },
    /// Route table: one more reason to ask `target` about `filter`.
    RouteAdded {
        /// The filter.
        filter: TopicFilter,
        /// Who.
        target: RouteTarget,
    },
    /// Route table: one reason less.
    RouteRemoved {
        /// The filter.
        filter: TopicFilter,
        /// Who.
        target: RouteTarget,
    },
    /// A life of a node began (shard 0).
    NodeUp {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A life of a node ended.
    NodeDown {
        /// The node.
        node: NodeId,
        /// The life that ended.
        incarnation: Incarnation,
    },
    /// A message was lost to a documented limit.
    Dropped {
        /// Why.
        cause: DropCause,
    },
}

/// Why a connection is closed from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client connected elsewhere (0x8E).
    TakenOver,
    /// Its queue is full and the policy says so (0x97).
    QueueFull,
    /// Its node's life was declared over.
    NodeDown,
    /// An administrator asked for it (0x98); no shard does.
    Kicked,
}

/// Who must be asked about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTarget {
    /// A shard with persistent sessions granted QoS 1 or 2.
    Shard(ShardId),
    /// A node with connected sessions that take this message at any QoS on the live plane.
    Node(NodeId),
    /// A node with connected persistent sessions that take it on the live plane when it is published at QoS 0.
    NodeAtMostOnce(NodeId),
    /// For shared subscriptions only: a shard with connected members granted QoS 1 or 2.
    ConnectedShard(ShardId),
}
