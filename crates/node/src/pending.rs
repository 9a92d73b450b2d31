//! What a connection has published and not acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use codec::{Ack, Message, Packet, PacketId, ProtocolVersion, Qos, ReasonCode};
use raft_store::Refusal;
use session::Input;
use tokio::time::Instant;

use crate::clock;
use crate::config::Config;
use crate::connection::Connection;
use crate::count;
use crate::reason;
use crate::session_place::SessionPlace;
use crate::shared::Shared;

/// Bytes of PUBLISHes that one connection may have under way, before it is not read. What a slow
/// subscriber gets on top of its mark is bounded by it.
const UNDER_WAY_BYTES_MAX: usize = 1024 * 1024;

/// PUBLISHes and PUBRELs of one connection that are not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct PendingPublishes {
    /// In the order received: acknowledgements leave in this order [MQTT-4.6.0-2, -3].
    publishes: VecDeque<PendingPublish>,
    /// Bytes of their messages.
    bytes: usize,
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
    /// Bytes of its message, where somebody gets it.
    pub(crate) bytes: usize,
    /// Shards, nodes and groups that have not answered, and slow subscribers that it waits for.
    pub(crate) awaited: u32,
    /// Somebody gets the message.
    pub(crate) matched: bool,
    /// The publisher is told that its message was not accepted: a queue was full and that is the policy,
    /// there was no room to store it, or it is not what it says.
    pub(crate) refused: Option<ReasonCode>,
    /// When it came.
    pub(crate) since: Instant,
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
    /// When it came.
    pub(crate) since: Instant,
}

impl PendingPublish {
    /// Nobody has been asked yet.
    pub(crate) fn new(tag: u64, packet_id: PacketId, qos: Qos) -> Self {
        Self {
            tag,
            packet_id,
            qos,
            bytes: 0,
            awaited: 0,
            matched: false,
            refused: None,
            since: Instant::now(),
        }
    }

    /// One answer less to wait for.
    pub(crate) fn answered(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }
}

impl Drop for PendingPublishes {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(self.publishes.len(), Ordering::Relaxed);
    }
}

/// PUBLISHes of all connections of this process that are not acknowledged yet.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// How many there are.
pub(crate) fn under_way() -> usize {
    UNDER_WAY.load(Ordering::Relaxed)
}

impl PendingPublishes {
    /// As many are under way as we allow a client.
    pub(crate) fn is_full(&self, config: &Config) -> bool {
        let under_way = self.publishes.len().saturating_add(self.releases.len());
        under_way >= usize::from(config.mqtt.receive_maximum) || self.bytes >= UNDER_WAY_BYTES_MAX
    }

    /// Nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.publishes.is_empty() && self.releases.is_empty()
    }

    /// One more is under way.
    pub(crate) fn begin(&mut self, publish: PendingPublish) {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_add(publish.bytes);
        self.publishes.push_back(publish);
    }

    /// Somebody may have got the newest one.
    pub(crate) fn last_matched(&mut self) {
        if let Some(publish) = self.publishes.back_mut() {
            publish.matched = true;
        }
    }

    /// The next one to acknowledge, if everybody asked has answered.
    pub(crate) fn next_answered(&mut self) -> Option<PendingPublish> {
        let answered = self
            .publishes
            .pop_front_if(|publish| publish.awaited == 0)?;
        self.bytes = self.bytes.saturating_sub(answered.bytes);
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        count::acknowledged(answered.qos, answered.since.elapsed());
        Some(answered)
    }

    /// Somebody on a peer gets a message; what it waits for is still to come.
    pub(crate) fn held(&mut self, tag: u64) {
        if let Some(publish) = self.find(tag) {
            publish.matched = true;
        }
    }

    /// A node has received a message and holds nothing up, or its life is over.
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
                if publish.qos == Qos::AtLeastOnce {
                    publish.refused = Some(ReasonCode::QuotaExceeded);
                }
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

impl Connection {
    /// A message that goes to nobody. 5.0 publishers at QoS 1 and 2 learn it.
    pub(crate) fn refuse_publish(
        &mut self,
        packet_id: PacketId,
        qos: Qos,
        reason_code: ReasonCode,
    ) {
        if self.client.version == ProtocolVersion::V5
            && let SessionPlace::Transient(session) = &mut self.place
        {
            // No PUBREL follows a PUBREC that refuses [MQTT-4.3.3-4].
            let now = clock::timestamp();
            session.apply(now, Input::Pubrel { packet_id }, &mut Vec::new());
        }
        let tag = self.tag();
        self.publishes.begin(PendingPublish {
            refused: Some(reason_code),
            ..PendingPublish::new(tag, packet_id, qos)
        });
    }

    /// Sends the PUBACKs and PUBRECs that are due, in the order of the PUBLISHes.
    pub(crate) fn acknowledge_publishes(&mut self) {
        while let Some(publish) = self.publishes.next_answered() {
            let reason_code = match (publish.refused, publish.matched) {
                (Some(refused), _) => refused,
                (None, true) => ReasonCode::Success,
                (None, false) => ReasonCode::NoMatchingSubscribers,
            };
            let ack = Ack::new(publish.packet_id, self.for_version(reason_code));
            let packet = match publish.qos {
                Qos::ExactlyOnce => Packet::Pubrec(ack),
                Qos::AtMostOnce | Qos::AtLeastOnce => Packet::Puback(ack),
            };
            if publish.refused.is_some() {
                let text = reason::of_publish(reason_code);
                self.client.audience().tell(&mut self.wire, packet, text);
            } else {
                self.wire.send(&packet, self.client.version);
            }
        }
    }
}
