//! The vocabulary of a shard: commands in, responses and effects out. It may only grow (DESIGN section 7).

use std::sync::Arc;

use codec::{ClientId, Message, PacketId, ReasonCode, TopicFilter};
use session::{Delivery, DropCause, Resend, SessionLimits, StoredMessage, Subscription};

use crate::ids::{Epoch, Holder, Incarnation, NodeId, ShardId};

/// One deterministic state change of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// First in every shard for each life of a node: its batch declares the earlier lives over, and
    /// once it is applied, so is everything committed before it (a read index).
    Hello,
    /// Shard 0: a new life of a node begins; its incarnation is this entry's log index.
    NodeUp {
        /// The node.
        node: NodeId,
    },
    /// One life of a node is over. Decided in shard 0, copied by the other shards' leaders.
    NodeDown {
        /// The node.
        node: NodeId,
        /// The life that ended; later ones are not touched.
        incarnation: Incarnation,
    },
    /// A client connects: takes the session over, resumes or clears it.
    Connect(Box<Connect>),
    /// A connection is closed and all that it sent was answered.
    Disconnect {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// Overrides CONNECT's interval (v5 DISCONNECT).
        session_expiry_interval_s: Option<u32>,
    },
    /// SUBSCRIBE of a session that this shard hosts.
    Subscribe {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// In packet order.
        filters: Vec<(TopicFilter, Subscription)>,
    },
    /// UNSUBSCRIBE of a session that this shard hosts.
    Unsubscribe {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// In packet order.
        filters: Vec<TopicFilter>,
    },
    /// A QoS 1 or 2 message for every session of this shard that it matches.
    Publish {
        /// The publisher.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// The message.
        message: Message,
    },
    /// A QoS 2 message from a session that this shard hosts: records the packet id, and puts the
    /// message into the outbox for its targets, in one step (exactly once, DESIGN section 6).
    ReceiveExactlyOnce {
        /// The publisher.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// Packet id of the PUBLISH.
        packet_id: PacketId,
        /// The message.
        message: Message,
        /// Shards with matching sessions; may name this shard.
        shards: Vec<ShardId>,
        /// Nodes with matching transient sessions.
        nodes: Vec<(NodeId, Incarnation)>,
    },
    /// PUBREL from a client whose session this shard hosts.
    Release {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// Packet id.
        packet_id: PacketId,
    },
    /// What a client acknowledged, in the order received.
    Acknowledge {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// In the order received.
        acknowledgements: Vec<Acknowledgement>,
    },
    /// Refuse commands of older connections of this client from now on (its session lives elsewhere).
    Fence {
        /// The client.
        client_id: ClientId,
        /// The connection that fences.
        epoch: Epoch,
    },
    /// The older connections have nothing left: the fence of this epoch is lifted.
    FenceEnd {
        /// The client.
        client_id: ClientId,
        /// The connection that fenced.
        epoch: Epoch,
    },
    /// Items from another shard's outbox, numbered without gaps from `first`.
    TakeOutbox {
        /// Whose outbox.
        source: ShardId,
        /// Number of the first item.
        first: u64,
        /// The items.
        items: Vec<OutboxItem>,
    },
    /// A target of this shard's outbox has taken every item up to a number.
    Taken {
        /// Who took them.
        target: OutboxTarget,
        /// Cumulative.
        upto: u64,
    },
    /// Timer: the session of this epoch may have passed its deadline.
    ExpireSession {
        /// The client.
        client_id: ClientId,
        /// The session's last connection when the timer was set.
        epoch: Epoch,
    },
}

/// CONNECT as the shard sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The client.
    pub client_id: ClientId,
    /// Where its new connection lives.
    pub holder: Holder,
    /// Discard an existing session [MQTT-3.1.2-4].
    pub clean_start: bool,
    /// Seconds; 0 ends the session with the connection, `u32::MAX` never.
    pub session_expiry_interval_s: u32,
    /// The client's Receive Maximum.
    pub receive_maximum: u16,
    /// Bounds that the accepting node gives the session.
    pub limits: SessionLimits,
}

/// One acknowledgement from a receiver of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// PUBACK.
    Puback(PacketId),
    /// PUBREC with its reason code.
    Pubrec(PacketId, ReasonCode),
    /// PUBCOMP.
    Pubcomp(PacketId),
}

/// One message in an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxItem {
    /// The publisher, for No Local.
    pub publisher: ClientId,
    /// The message.
    pub body: Arc<StoredMessage>,
}

/// Where outbox items go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboxTarget {
    /// The sessions of another shard.
    Shard(ShardId),
    /// The transient sessions of one life of a node.
    Node(NodeId, Incarnation),
}

/// The answer to one command, the same on every replica, remembered per proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Done, nothing to tell.
    Done,
    /// Changed nothing.
    Refused(Refusal),
    /// To `NodeUp`.
    NodeUp {
        /// The new life's number.
        incarnation: Incarnation,
    },
    /// To `Connect`. `Effect::Resumed` follows.
    Connected {
        /// The new connection's epoch.
        epoch: Epoch,
        /// CONNACK's flag.
        session_present: bool,
        /// The session lives in this shard; otherwise on the accepting node.
        hosted: bool,
        /// Former connections that are not yet recorded closed.
        formers: bool,
    },
    /// To `Subscribe`: per filter, whether it replaced an existing subscription.
    Subscribed {
        /// In command order.
        existed: Vec<bool>,
    },
    /// To `Unsubscribe`: per filter, whether there was one.
    Unsubscribed {
        /// In command order.
        existed: Vec<bool>,
    },
    /// To `Publish`.
    Published {
        /// Sessions that matched.
        matched: u32,
        /// A queue was full and the policy is to refuse (v5 0x97).
        rejected: bool,
    },
    /// To `ReceiveExactlyOnce`.
    Received {
        /// False: a repeat.
        first: bool,
    },
    /// To `ReceiveExactlyOnce`: the client broke our Receive Maximum (0x93).
    ReceiveMaximumExceeded,
    /// To `Release`.
    Released {
        /// 0x00, or 0x92 for an unknown id.
        reason_code: ReasonCode,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It came from an older connection of the client, or the session is gone.
    StaleEpoch,
    /// It came from a life of a node that is over: the node begins a new one.
    StaleIncarnation,
    /// Its bytes or its place in the stream make no sense; a bug or a corrupt peer.
    Malformed,
}

/// The answers to a batch, in command order.
pub type Answers = Arc<[Response]>;

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
    },
    /// Write a PUBLISH with DUP=0.
    Send {
        /// The connection.
        holder: Holder,
        /// Packet id.
        packet_id: PacketId,
        /// What.
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
        /// The message.
        item: OutboxItem,
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

/// Why a shard closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client connected elsewhere (0x8E).
    TakenOver,
    /// Its queue is full and the policy says so (0x97).
    QueueFull,
    /// Its node's life was declared over.
    NodeDown,
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
}
