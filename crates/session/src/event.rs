//! The whole vocabulary of a session: what can happen to it, and what follows.

use codec::{PacketId, ReasonCode, SubscriptionIdentifier, SubscriptionOptions, TopicFilter};

use crate::delivery::Delivery;
use crate::limits::SessionLimits;

/// One subscription of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// QoS granted, No Local, Retain As Published, Retain Handling.
    pub options: SubscriptionOptions,
    /// Sent with each matching message.
    pub identifier: Option<SubscriptionIdentifier>,
}

/// What happens to a session. Every variant is applied by `Session::apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A connection opens and resumes (or begins) the session. In-flight messages are not output:
    /// the owner reads them with `Session::resume`, sends them, and then carries out the outputs.
    Connect {
        /// The client's Receive Maximum (65535 when it has none) [MQTT-3.3.4-9].
        receive_maximum: u16,
        /// Seconds the session outlives its connection; `u32::MAX`: for ever.
        session_expiry_interval_s: u32,
        /// The bounds that the accepting node gives this session.
        limits: SessionLimits,
    },
    /// The connection is gone; expiry starts. `session_expiry_interval_s` overrides CONNECT's.
    Disconnect {
        /// From a DISCONNECT packet (v5), already checked by the caller.
        session_expiry_interval_s: Option<u32>,
    },
    /// SUBSCRIBE of one filter; replaces an identical one [MQTT-3.8.4-3].
    Subscribe {
        /// The filter.
        filter: TopicFilter,
        /// Its options.
        subscription: Subscription,
    },
    /// UNSUBSCRIBE of one filter.
    Unsubscribe {
        /// The filter.
        filter: TopicFilter,
    },
    /// A message that matched.
    Deliver(Delivery),
    /// PUBACK from the client.
    Puback {
        /// Packet id.
        packet_id: PacketId,
    },
    /// PUBREC from the client; a reason of 0x80 or above ends the flow [MQTT-4.3.3-4].
    Pubrec {
        /// Packet id.
        packet_id: PacketId,
        /// Its reason code.
        reason_code: ReasonCode,
    },
    /// PUBCOMP from the client.
    Pubcomp {
        /// Packet id.
        packet_id: PacketId,
    },
    /// A QoS 2 PUBLISH from the client: remember its id until PUBREL.
    ReceiveExactlyOnce {
        /// Packet id.
        packet_id: PacketId,
    },
    /// PUBREL from the client: forget the id.
    Pubrel {
        /// Packet id.
        packet_id: PacketId,
    },
    /// The deadline that `next_deadline` named may have passed.
    Deadline,
    /// The session ends now, connected or not: Clean Start [MQTT-3.1.2-4], or an administrator.
    End,
}

/// Why a message never reached the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropCause {
    /// The queue was full: this, the newest, message was dropped.
    QueueFullNewest,
    /// The queue was full: the oldest queued message made room.
    QueueFullOldest,
    /// QoS 0 for a session without a connection.
    Offline,
    /// Its Message Expiry Interval passed before its delivery began [MQTT-3.3.2-5].
    Expired,
    /// The session ended.
    SessionEnded,
    /// Nobody is left in the shared subscription that it was for (section 4.8.2).
    NoMember,
}

/// What follows from an input, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write PUBLISH with DUP=0. `packet_id` and `position` are `None` for QoS 0. The delivery is now in flight.
    Send {
        /// Position in the session's order, which names the delivery for ever.
        position: Option<u64>,
        /// Packet id.
        packet_id: Option<PacketId>,
        /// What to send.
        delivery: Delivery,
    },
    /// Write PUBREL: the PUBREC is recorded. The body is released (see `Released`) in the same call.
    SendPubrel {
        /// Position of the delivery, `None` for an unknown id.
        position: Option<u64>,
        /// Place in the order of PUBRECs; `None` for an unknown id.
        pubrec_position: Option<u64>,
        /// Packet id.
        packet_id: PacketId,
        /// 0x00, or 0x92 for an id that is not in flight.
        reason_code: ReasonCode,
    },
    /// The delivery waits in the queue at this position.
    Queued {
        /// Position.
        position: u64,
    },
    /// The delivery is finished and forgotten: acknowledged, refused or dropped.
    Completed {
        /// Position.
        position: u64,
    },
    /// The session no longer refers to this body (one reference).
    Released {
        /// `StoredMessage::id`.
        body: u64,
    },
    /// The session ended and is not who gets this message: its owner finds another member of
    /// `delivery.share` (section 4.8.2). The delivery is forgotten here; its reference to the body
    /// is the owner's from now on.
    Reassign {
        /// Position that it had.
        position: u64,
        /// The copy; QoS 1, or QoS 2 and never sent [MQTT-4.8.2-5].
        delivery: Delivery,
    },
    /// A message was lost to a documented limit; the caller counts it.
    Dropped {
        /// Why.
        cause: DropCause,
    },
    /// The queue was full and the policy says: the publisher learns it (v5 0x97), nothing was queued.
    Rejected,
    /// The queue was full and the policy says: disconnect the client (0x97).
    DisconnectQueueFull,
    /// Answer to `ReceiveExactlyOnce`.
    Received {
        /// False: a repeat, must not be handed on again [MQTT-4.3.3-10].
        first: bool,
    },
    /// More unreleased QoS 2 ids than our Receive Maximum allows [MQTT-3.3.4-7] (0x93).
    ReceiveMaximumExceeded,
    /// Answer to `Pubrel`.
    PubrelAnswered {
        /// 0x00, or 0x92 when the id was unknown.
        reason_code: ReasonCode,
    },
    /// Answer to `Subscribe`.
    Subscribed {
        /// The filter had been there before.
        existed: bool,
    },
    /// Answer to `Unsubscribe`.
    Unsubscribed {
        /// The filter had been there.
        existed: bool,
    },
    /// The session is over; its owner deletes it. Bodies were released before.
    Ended,
}

/// What a resumed connection must send first, in original order [MQTT-4.4.0-1].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resend {
    /// PUBLISH with DUP=1 and its original packet id.
    Publish {
        /// Position in the session's order.
        position: u64,
        /// Original packet id.
        packet_id: PacketId,
        /// The copy as it was.
        delivery: Delivery,
    },
    /// PUBREL: a PUBREC was recorded.
    Pubrel {
        /// Position in the session's order.
        position: u64,
        /// Place in the order of PUBRECs [MQTT-4.6.0-4].
        pubrec_position: u64,
        /// Original packet id.
        packet_id: PacketId,
    },
}
