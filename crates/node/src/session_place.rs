//! Where a connection's session lives: in its shard, or here in memory.

use std::collections::{BTreeSet, VecDeque};

use codec::PacketId;
use raft_store::Acknowledgement;
use session::{Resend, Session};

use crate::life::Life;

/// The session of one connection.
#[derive(Debug)]
pub(crate) enum SessionPlace {
    /// Replicated in the client's shard.
    Hosted(HostedSession),
    /// Here, for as long as the connection lasts.
    Transient(Box<Session>),
}

/// What the connection of a hosted session keeps.
#[derive(Debug, Default)]
pub(crate) struct HostedSession {
    /// What the client acknowledged and the shard does not know yet.
    pub(crate) acknowledgements: Vec<Acknowledgement>,
    /// The shard has said what the session holds: nothing is taken from the client before.
    pub(crate) is_resumed: bool,
    /// In flight since an earlier connection and not sent on this one, in order.
    pub(crate) resend: VecDeque<Resend>,
    /// Sent again on this connection and not acknowledged: never more than the client's Receive
    /// Maximum while `resend` is not empty [MQTT-3.3.4-9].
    pub(crate) resent: BTreeSet<PacketId>,
    /// Highest position of a PUBLISH that was sent on this connection.
    pub(crate) sent_position: u64,
    /// The same of PUBRECs whose PUBREL was sent.
    pub(crate) pubrel_position: u64,
    /// QoS 2 ids of the client that it has not released: a PUBLISH with one is a repeat.
    pub(crate) awaiting_pubrel: BTreeSet<PacketId>,
    /// Subscriptions of the session, as far as this connection knows.
    pub(crate) subscriptions: usize,
}

impl HostedSession {
    /// A PUBLISH of an earlier connection that is still to be sent again on this one.
    pub(crate) fn waits_to_be_resent(&self, sought: u64) -> bool {
        self.resend.iter().any(|resend| match resend {
            Resend::Publish { position, .. } => *position == sought,
            Resend::Pubrel { .. } => false,
        })
    }
}

impl SessionPlace {
    /// What the client sends can be judged: what it may be a repeat of is known.
    pub(crate) fn is_resumed(&self) -> bool {
        match self {
            Self::Hosted(hosted) => hosted.is_resumed,
            Self::Transient(_) => true,
        }
    }

    /// A hosted session holds this id of QoS 2 until PUBREL. Of a transient one the session itself knows.
    pub(crate) fn holds_for_pubrel(&self, packet_id: PacketId) -> bool {
        match self {
            Self::Hosted(hosted) => hosted.awaiting_pubrel.contains(&packet_id),
            Self::Transient(_) => false,
        }
    }

    /// The connection is gone: peers need not ask for its filters any more.
    pub(crate) fn leave(&self, life: &Life) {
        match self {
            Self::Hosted(_) => {}
            Self::Transient(session) => {
                for (filter, _) in session.subscriptions() {
                    life.retract(filter);
                }
            }
        }
    }
}
