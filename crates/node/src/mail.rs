//! One piece of what other tasks hand to a connection.

use codec::{PacketId, ReasonCode, TopicFilter};
use raft_store::{CloseReason, Effect, Response};
use session::{Delivery, Resend, Subscription};
use tokio::time::Instant;

use crate::backlog::Backlog;
use crate::shared::{Shared, SharedOrigin};

/// One piece of mail.
#[derive(Debug)]
pub(crate) enum Mail {
    /// The response to a command that the connection proposed.
    Answer {
        /// The connection's own name for what it waits for.
        tag: u64,
        /// Log index at which it took effect.
        index: u64,
        /// The response.
        response: Response,
    },
    /// A peer has received a live message, or will never (its life is over).
    Received {
        /// The connection's own name for what it waits for.
        tag: u64,
    },
    /// A peer has received a live message and holds its acknowledgement up; `Released` follows.
    Held {
        /// The connection's own name for what it waits for.
        tag: u64,
    },
    /// A live message's acknowledgement is held up no longer.
    Released {
        /// The connection's own name for what it waits for.
        tag: u64,
    },
    /// A subscription change is visible to every node that may start a PUBLISH.
    Visible {
        /// The connection's own name for what it waits for.
        tag: u64,
    },
    /// The session was opened: what to send first.
    Resumed {
        /// In flight, in original order.
        resend: Vec<Resend>,
        /// The session's subscriptions.
        subscriptions: Vec<(TopicFilter, Subscription)>,
        /// QoS 2 ids of the client that it has not released.
        awaiting_pubrel: Vec<PacketId>,
    },
    /// A snapshot was installed: what is in flight, of which the connection sends what it has not.
    Resync {
        /// In flight, in original order.
        in_flight: Vec<Resend>,
    },
    /// A hosted session sends a PUBLISH.
    Send {
        /// Position in the session's order.
        position: u64,
        /// Packet id.
        packet_id: PacketId,
        /// What.
        delivery: Delivery,
        /// When it came, if a client of this node published it.
        since: Option<Instant>,
    },
    /// A hosted session sends a PUBREL.
    SendPubrel {
        /// Packet id.
        packet_id: PacketId,
        /// 0x00 or 0x92.
        reason_code: ReasonCode,
        /// Place in the order of PUBRECs.
        pubrec_position: Option<u64>,
    },
    /// A message on the live plane.
    Live {
        /// What.
        delivery: Delivery,
        /// When it came, if a client of this node published it.
        since: Option<Instant>,
    },
    /// A message for this member of a shared subscription, held elsewhere until it is settled.
    LiveShared(Box<SharedDelivery>),
    /// What became of a message that the connection published to a shared subscription.
    Shared {
        /// The connection's own name for what it waits for.
        tag: u64,
        /// What became of it.
        outcome: Shared,
    },
    /// Close the connection.
    Close(CloseReason),
}

impl Mail {
    /// What an effect means to the connection that it names; `None`: it names none. `since`: when the
    /// message came that it is about, if a client of this node published it.
    pub(crate) fn of(effect: Effect, since: Option<Instant>) -> Option<Self> {
        match effect {
            Effect::Resumed {
                resend,
                subscriptions,
                awaiting_pubrel,
                ..
            } => Some(Self::Resumed {
                resend,
                subscriptions,
                awaiting_pubrel,
            }),
            Effect::Send {
                position,
                packet_id,
                delivery,
                ..
            } => Some(Self::Send {
                position,
                packet_id,
                delivery,
                since,
            }),
            Effect::SendPubrel {
                packet_id,
                reason_code,
                pubrec_position,
                ..
            } => Some(Self::SendPubrel {
                packet_id,
                reason_code,
                pubrec_position,
            }),
            Effect::Resync { in_flight, .. } => Some(Self::Resync { in_flight }),
            Effect::Close { reason, .. } => Some(Self::Close(reason)),
            Effect::FencesOver { .. }
            | Effect::LiveOutbox { .. }
            | Effect::RouteAdded { .. }
            | Effect::RouteRemoved { .. }
            | Effect::NodeUp { .. }
            | Effect::NodeDown { .. }
            | Effect::Dropped { .. } => None,
        }
    }

    /// How many of the things that the connection waits for this answers.
    pub(crate) fn answers(&self) -> u64 {
        match self {
            Self::Answer { .. }
            | Self::Received { .. }
            | Self::Held { .. }
            | Self::Shared { .. } => 1,
            Self::Released { .. }
            | Self::Visible { .. }
            | Self::Resumed { .. }
            | Self::Resync { .. }
            | Self::Send { .. }
            | Self::SendPubrel { .. }
            | Self::Live { .. }
            | Self::LiveShared(_)
            | Self::Close(_) => 0,
        }
    }

    /// What it counts as a live message.
    pub(crate) fn backlog(&self) -> Backlog {
        let body = match self {
            Self::Live { delivery, .. } => &delivery.body,
            Self::LiveShared(shared) => &shared.delivery.body,
            Self::Answer { .. }
            | Self::Received { .. }
            | Self::Held { .. }
            | Self::Released { .. }
            | Self::Visible { .. }
            | Self::Resumed { .. }
            | Self::Resync { .. }
            | Self::Send { .. }
            | Self::SendPubrel { .. }
            | Self::Shared { .. }
            | Self::Close(_) => return Backlog::default(),
        };
        Backlog::of_one(usize::try_from(body.size_bytes()).unwrap_or(usize::MAX))
    }
}

/// A message for one member of a shared subscription.
#[derive(Debug)]
pub(crate) struct SharedDelivery {
    /// The copy.
    pub(crate) delivery: Delivery,
    /// Who holds the message.
    pub(crate) origin: SharedOrigin,
}
