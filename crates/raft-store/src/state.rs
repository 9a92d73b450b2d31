//! What a shard's state consists of, key by key, so that an apply writes only what it changed.
//!
//! `encoding` turns both into bytes. Keys sort by kind, so that a load meets what is known of each
//! body before the deliveries that refer to it, and each session before its parts. The contents of
//! bodies come last: a load leaves them on disk.

use codec::{ClientId, Message, PacketId, Qos, Timestamp, TopicFilter, TopicName, Utf8, Will};
use session::{DeliveryRecord, SessionMeta, Subscription};

use crate::command::{Answers, OutboxTarget};
use crate::ids::{Epoch, Holder, Incarnation, NodeId, ShardId};

/// Names one stored part of a shard's state. The order of the variants is the order on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateKey {
    /// The counters of the shard.
    Counters,
    /// What the shard knows of a node's newest life and its stream of batches.
    Node(NodeId),
    /// How far this shard has taken another shard's outbox.
    Taken(ShardId),
    /// What is kept in memory of a message body.
    BodyIndex(u64),
    /// A fence against older connections of a client.
    Fence(ClientId),
    /// A session's registration and, if hosted here, its small fixed part.
    Session(ClientId),
    /// The QoS 2 packet ids that a client has not released.
    Inbound(ClientId),
    /// One subscription.
    Subscription(ClientId, TopicFilter),
    /// One queued or in-flight delivery, by position.
    Delivery(ClientId, u64),
    /// What a session got live while retained messages are read for it.
    RetainedRead(ClientId),
    /// The numbering of one outbox target.
    Outbox(OutboxTarget),
    /// One outbox item, by number.
    OutboxItem(OutboxTarget, u64),
    /// The will that a connection set.
    Will(Epoch),
    /// The retained message of a topic.
    Retained(TopicName),
    /// The content of a message body, stored once whatever the fan-out.
    Body(u64),
}

/// The value under a [`StateKey`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRecord {
    /// The counters of the shard.
    Counters {
        /// Shard time at the last apply.
        time: Timestamp,
        /// The epoch that the next `Connect` gets.
        next_epoch: u64,
        /// The id that the next body gets.
        next_body: u64,
        /// The version that the next retained message gets.
        next_version: u64,
        /// Whose turn it is in shared subscriptions.
        next_turn: u64,
    },
    /// A node's newest life.
    Node {
        /// The life.
        incarnation: Incarnation,
        /// It was declared over.
        down: bool,
        /// Last batch applied of its stream; 0: none.
        last_sequence: u64,
        /// That batch's answers.
        answers: Answers,
    },
    /// How far an outbox is taken.
    Taken {
        /// Number of the last item.
        upto: u64,
        /// Items refused that the source has not settled, ascending.
        refused: Vec<u64>,
    },
    /// What is kept in memory of a message body.
    BodyIndex {
        /// Deliveries and outbox items that refer to it; at least 1.
        references: u64,
        /// `Message::size`.
        size_bytes: u32,
        /// When a copy that was not sent is dropped.
        expires_at: Option<Timestamp>,
        /// The QoS it was published with.
        qos: Qos,
        /// The RETAIN flag it was published with.
        retain: bool,
    },
    /// A fence.
    Fence {
        /// Older epochs are refused.
        epoch: Epoch,
    },
    /// A session's registration.
    Session {
        /// Its newest connection's epoch.
        epoch: Epoch,
        /// Its connection, while it has one.
        holder: Option<Holder>,
        /// Older connections not yet recorded closed.
        formers: Vec<(Epoch, Holder)>,
        /// The small fixed part of a hosted session; `None` for a transient one.
        hosted: Option<SessionMeta>,
        /// The user name that created it; `None`: an anonymous client did.
        owner: Option<Utf8>,
    },
    /// Unreleased QoS 2 packet ids, ascending.
    Inbound(Vec<PacketId>),
    /// One subscription.
    Subscription(Subscription),
    /// One delivery.
    Delivery(DeliveryRecord),
    /// The numbering of one outbox target.
    Outbox {
        /// The number that the next item gets.
        next_number: u64,
    },
    /// One outbox item.
    OutboxItem {
        /// The publisher.
        publisher: ClientId,
        /// Its body's id.
        body: u64,
        /// The shared subscription that it is for.
        share: Option<TopicFilter>,
    },
    /// Versions that a session got while retained messages are read for it.
    RetainedRead {
        /// Reads under way, at least 1.
        open: u32,
        /// Per topic, ascending: the lowest version that may still be delivered.
        wanted_from: Vec<(TopicName, u64)>,
    },
    /// A will.
    Will {
        /// The client.
        client_id: ClientId,
        /// What is published, and how long it waits.
        will: Will,
        /// When; `None`: its connection is open or not recorded closed.
        due: Option<Timestamp>,
    },
    /// A retained message.
    Retained {
        /// The message.
        message: Message,
        /// Its version.
        version: u64,
        /// When it is gone.
        expires_at: Option<Timestamp>,
    },
    /// The content of a message body; never changes.
    Body {
        /// The message.
        message: Message,
        /// When a copy that was not sent is dropped.
        expires_at: Option<Timestamp>,
        /// Its version if it is a retained message.
        retained_version: Option<u64>,
    },
}
