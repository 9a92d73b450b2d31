//! The vocabulary of a shard: commands in, responses and effects out. It may only grow (DESIGN section 7).

use std::sync::Arc;

use codec::{
    ClientId, Message, PacketId, Qos, ReasonCode, SubscriptionIdentifier, Timestamp, TopicFilter,
    Utf8, Will,
};
use session::{Body, SessionLimits, StoredMessage, Subscription};

use crate::ids::{Epoch, Holder, Incarnation, NodeId, ShardId};

mod effect;

pub use effect::{CloseReason, Effect, RouteTarget};

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
        /// What becomes of its will.
        ending: Ending,
    },
    /// SUBSCRIBE of a session that this shard hosts.
    Subscribe {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// In packet order.
        filters: Vec<(TopicFilter, Subscription)>,
        /// Retained messages will be read for it: from now until its `DeliverRetained { last }` the
        /// session notes which versions it got live.
        reads_retained: bool,
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
        /// Under which version it was stored, if it is retained.
        retained_version: Option<u64>,
    },
    /// A QoS 1 or 2 message for one member, in this shard, of a shared subscription.
    PublishShared {
        /// The publisher.
        client_id: ClientId,
        /// Its connection; `None`: a node passes on what it was handed and could not deliver.
        epoch: Option<Epoch>,
        /// The shared subscription, with `$share/`.
        filter: TopicFilter,
        /// The message.
        message: Message,
        /// What is left of its lifetime; `None`: as the message itself says.
        expires_in_ms: Option<u64>,
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
        /// Under which version it was stored, if it is retained.
        retained_version: Option<u64>,
        /// Per matching shared subscription the place that was picked; may name this shard.
        shared: Vec<(TopicFilter, OutboxTarget)>,
    },
    /// Stores, replaces or (empty payload) clears the retained message of a topic of this shard.
    SetRetained {
        /// The publisher.
        client_id: ClientId,
        /// Its connection; `None`: a will.
        epoch: Option<Epoch>,
        /// The message.
        message: Message,
        /// Bounds of this shard's retained messages.
        limits: RetainedLimits,
    },
    /// Retained messages that were read for a new subscription of a session that this shard hosts.
    DeliverRetained {
        /// The client.
        client_id: ClientId,
        /// Its connection.
        epoch: Epoch,
        /// In order.
        copies: Vec<RetainedCopy>,
        /// The read that `Subscribe` announced is over.
        last: bool,
    },
    /// Changes nothing: once a node's own replica has answered it, that replica has everything
    /// that was acknowledged before. The answer tells the newest version of a retained message.
    Barrier,
    /// A will is due: consumes it and hands its message on, in one step.
    PublishWill {
        /// The connection that set it.
        epoch: Epoch,
        /// Under which version it was stored, if it is retained.
        retained_version: Option<u64>,
        /// Shards with matching sessions; may name this shard.
        shards: Vec<ShardId>,
        /// Nodes that deliver it to their connections.
        nodes: Vec<(NodeId, Incarnation)>,
        /// Per matching shared subscription the place that was picked; may name this shard.
        shared: Vec<(TopicFilter, OutboxTarget)>,
    },
    /// Gives an item that has no place a new one.
    Place {
        /// Its number among the unplaced.
        number: u64,
        /// The place; `None`: no member is left anywhere, the item is dropped.
        to: Option<OutboxTarget>,
    },
    /// A node takes one shared item of its lane, before it hands it to a member.
    Claim {
        /// The node.
        target: OutboxTarget,
        /// The item.
        number: u64,
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
        /// The source has recorded what became of every item up to this number.
        settled: u64,
        /// Number of the first item.
        first: u64,
        /// The items.
        items: Vec<OutboxItem>,
    },
    /// A target of this shard's outbox has taken every item up to a number.
    Taken {
        /// Who took them.
        target: OutboxTarget,
        /// Cumulative. A node's shared items stay until they are claimed or refused.
        upto: u64,
        /// Shared items that it did not take, for want of a member: they need another place. Of a
        /// shard only those up to `upto` count.
        refused: Vec<u64>,
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
    /// To be published when the connection is lost.
    pub will: Option<Will>,
    /// The user name that the client has shown to be; `None`: it is anonymous. A session that is there
    /// must belong to the same, or the command is refused.
    pub owner: Option<Utf8>,
}

/// How a connection ended, for its will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// DISCONNECT with 0x00: the will goes unpublished [MQTT-3.14.4-3].
    Normal,
    /// Anything else: the will is published when it is due [MQTT-3.1.2-8].
    Abnormal,
}

/// Bounds of the retained messages of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Topics with a retained message.
    pub messages_max: u64,
    /// Bytes (`Message::size`) of them all.
    pub bytes_max: u64,
}

/// A retained message on its way to a new subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedCopy {
    /// The message as stored.
    pub message: Message,
    /// Its version.
    pub version: u64,
    /// The effective QoS, 1 or 2.
    pub qos: Qos,
    /// Of the subscription that it is for.
    pub identifier: Option<SubscriptionIdentifier>,
    /// What is left of its lifetime.
    pub expires_in_ms: Option<u64>,
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

/// One message of an outbox, as it travels to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxItem {
    /// The publisher, for No Local.
    pub publisher: ClientId,
    /// The message. Its `expires_at` means nothing on the way: shards have different times.
    pub body: Arc<StoredMessage>,
    /// What is left of its lifetime.
    pub expires_in_ms: Option<u64>,
    /// The shared subscription of which one member must get it; `None`: everyone who matches.
    pub share: Option<TopicFilter>,
}

/// One message that waits in an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingItem {
    /// The publisher, for No Local.
    pub publisher: ClientId,
    /// The message, or its name in this shard.
    pub body: Body,
    /// The shared subscription of which one member must get it; `None`: everyone who matches.
    pub share: Option<TopicFilter>,
}

impl WaitingItem {
    /// The item as it leaves the shard at `now`; `content`: the message that its body names.
    #[must_use]
    pub fn into_item(self, content: Arc<StoredMessage>, now: Timestamp) -> OutboxItem {
        let left = |expires_at: Timestamp| expires_at.as_millis().saturating_sub(now.as_millis());
        OutboxItem {
            publisher: self.publisher,
            expires_in_ms: content.expires_at.map(left),
            body: content,
            share: self.share,
        }
    }
}

/// Where outbox items go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboxTarget {
    /// The sessions of another shard.
    Shard(ShardId),
    /// The transient sessions of one life of a node.
    Node(NodeId, Incarnation),
    /// Nowhere yet: shared items whose place had no member any more.
    Unplaced,
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
    /// To `Publish` and `PublishShared`; for the latter `matched` 0 means that no such member is here.
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
    /// To `SetRetained`: done. To `Barrier`.
    RetainedSet {
        /// What live copies of the message must carry; to `Barrier`, the newest one so far, 0 before the
        /// first. Grows within a shard.
        version: u64,
    },
    /// To `SetRetained`: a bound of the retained messages is reached, nothing was changed.
    RetainedFull,
    /// To `DeliverRetained`.
    RetainedDelivered {
        /// Copies for which the queue had no room.
        dropped: u32,
    },
    /// To `Claim`, `Place` and `PublishWill`.
    Claimed {
        /// What the command names was there, and this command took it.
        claimed: bool,
    },
    /// To `TakeOutbox`: every item was taken but these.
    TookOutbox {
        /// Shared items, of this batch and of earlier ones that are not settled, for which there was no
        /// member here. `Taken` must name them all.
        refused: Vec<u64>,
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
    /// To `Connect`: the session belongs to another user.
    NotOwner,
}

/// The answers to a batch, in command order.
pub type Answers = Arc<[Response]>;
