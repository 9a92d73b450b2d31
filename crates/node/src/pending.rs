//! What a connection has published and not acknowledged.

use std::collections::{BTreeMap, VecDeque};

use codec::{Message, PacketId, Qos};
use raft_store::Refusal;

use crate::config::Config;
use crate::count;
use crate::shared::Shared;

/// PUBLISHes and PUBRELs of one connection that are not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct PendingPublishes {
    /// In the order received: acknowledgements leave in this order [MQTT-4.6.0-2, -3].
    pub(crate) publishes: VecDeque<PendingPublish>,
    /// PUBRELs under way to the shard, by tag.
    pub(crate) releases: BTreeMap<u64, PacketId>,
}

/// One PUBLISH.
#[derive(Debug)]
pub(crate) struct PendingPublish {
    /// The connection's own name for it.
    pub(crate) tag: u64,
    /// Its packet id.
    pub(crate) packet_id: PacketId,
    /// Its QoS.
    pub(crate) qos: Qos,
    /// Shards, nodes and groups that have not answered.
    pub(crate) awaited: u32,
    /// Somebody gets the message.
    pub(crate) matched: bool,
    /// A queue was full, and the policy is to tell the publisher.
    pub(crate) rejected: bool,
}

/// A retained PUBLISH whose message is being stored: the packets behind it wait (G4).
#[derive(Debug)]
pub(crate) struct ParkedPublish {
    /// The connection's own name for it.
    pub(crate) tag: u64,
    /// `None` at QoS 0.
    pub(crate) packet_id: Option<PacketId>,
    /// The message.
    pub(crate) message: Message,
}

impl PendingPublish {
    /// Nobody has been asked yet.
    pub(crate) fn new(tag: u64, packet_id: PacketId, qos: Qos) -> Self {
        Self {
            tag,
            packet_id,
            qos,
            awaited: 0,
            matched: false,
            rejected: false,
        }
    }

    /// One answer less to wait for.
    pub(crate) fn answered(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }
}

impl PendingPublishes {
    /// As many are under way as we allow a client.
    pub(crate) fn is_full(&self, config: &Config) -> bool {
        let under_way = self.publishes.len().saturating_add(self.releases.len());
        under_way >= usize::from(config.mqtt.receive_maximum)
    }

    /// A node has received a message, or its life is over.
    pub(crate) fn received(&mut self, tag: u64) {
        if let Some(publish) = self.find(tag) {
            publish.answered();
            publish.matched = true;
        }
    }

    /// What became of a message for a shared subscription.
    pub(crate) fn shared(&mut self, tag: u64, outcome: Shared) -> Result<(), Refusal> {
        if let Some(publish) = self.find(tag) {
            publish.answered();
            publish.matched |= outcome == Shared::Placed;
            if outcome == Shared::Full {
                count::dropped("queue_full");
                // A refused QoS 2 message would come again, also to those who have it.
                publish.rejected |= publish.qos == Qos::AtLeastOnce;
            }
        }
        match outcome {
            Shared::Refused(refusal) => Err(refusal),
            Shared::Placed | Shared::NoMember | Shared::Full => Ok(()),
        }
    }

    /// By the connection's own name.
    pub(crate) fn find(&mut self, tag: u64) -> Option<&mut PendingPublish> {
        let index = self
            .publishes
            .binary_search_by_key(&tag, |publish| publish.tag)
            .ok()?;
        self.publishes.get_mut(index)
    }
}
