//! A client's half of a session, kept as the standard asks of clients: what it sent and is not
//! acknowledged, what it received and not answered.

use std::collections::{BTreeSet, VecDeque};

use codec::{Ack, Packet, PacketId, Publish, Qos};

/// Packet ids of SUBSCRIBE and UNSUBSCRIBE, away from those of messages.
const CONTROL_IDS_FROM: u16 = 60_000;

/// A message under way to the broker.
#[derive(Debug)]
struct Outgoing {
    id: PacketId,
    publish: Publish,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// PUBACK or PUBREC is awaited.
    Publish,
    /// PUBCOMP is awaited.
    Release,
}

/// The client's half of its session.
#[derive(Debug, Default)]
pub(crate) struct Half {
    outgoing: VecDeque<Outgoing>,
    /// The packet id used last; the next free one after it is next, so ids wrap around.
    last_id: u16,
    last_control_id: u16,
    /// QoS 2 messages whose PUBREL is awaited.
    received: BTreeSet<PacketId>,
    /// Acknowledgements held back, in order.
    held: VecDeque<Packet>,
    /// Subscribed to, as far as is known.
    pub(crate) filters: BTreeSet<String>,
    /// The SUBSCRIBE or UNSUBSCRIBE whose answer is awaited, and its filter.
    pub(crate) asked: Option<(PacketId, String)>,
}

impl Half {
    /// Ids begin at any place, so that some clients wrap around.
    pub(crate) fn new(last_id: u16) -> Self {
        Self {
            last_id,
            ..Self::default()
        }
    }

    /// The session is gone.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.last_id);
    }

    /// The connection is gone: what was not sent yet, never will be.
    pub(crate) fn disconnected(&mut self) {
        self.held.clear();
        self.asked = None;
    }

    /// Messages under way to the broker.
    pub(crate) fn in_flight(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether nothing is under way in either direction.
    pub(crate) fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
            && self.received.is_empty()
            && self.held.is_empty()
            && self.asked.is_none()
    }

    /// A message to send: given its packet id, and kept until it is acknowledged.
    pub(crate) fn publish(&mut self, mut publish: Publish) -> Packet {
        if publish.qos != Qos::AtMostOnce {
            let id = self.free_id();
            publish.packet_id = Some(id);
            self.outgoing.push_back(Outgoing {
                id,
                publish: publish.clone(),
                step: Step::Publish,
            });
        }
        Packet::Publish(publish)
    }

    /// What is sent again on a resumed session, in its order [MQTT-4.4.0-1].
    pub(crate) fn resend(&self) -> Vec<Packet> {
        let again = |one: &Outgoing| match one.step {
            Step::Publish => Packet::Publish(Publish {
                dup: true,
                ..one.publish.clone()
            }),
            Step::Release => Packet::Pubrel(Ack::success(one.id)),
        };
        self.outgoing.iter().map(again).collect()
    }

    /// An acknowledgement of the broker; what it asks for.
    pub(crate) fn on_ack(&mut self, packet: &Packet) -> Option<Packet> {
        match packet {
            Packet::Puback(ack) | Packet::Pubcomp(ack) => self.complete(ack.packet_id),
            Packet::Pubrec(ack) if ack.reason_code.is_error() => self.complete(ack.packet_id),
            Packet::Pubrec(ack) => {
                let mut all = self.outgoing.iter_mut();
                let one = all.find(|one| one.id == ack.packet_id)?;
                one.step = Step::Release;
                return Some(Packet::Pubrel(Ack::success(ack.packet_id)));
            }
            _ => {}
        }
        None
    }

    fn complete(&mut self, id: PacketId) {
        self.outgoing.retain(|one| one.id != id);
    }

    /// A message or PUBREL of the broker: its answer is held back.
    pub(crate) fn on_incoming(&mut self, packet: &Packet) {
        match packet {
            Packet::Publish(publish) => match (publish.packet_id, publish.qos) {
                (Some(id), Qos::AtLeastOnce) => {
                    self.held.push_back(Packet::Puback(Ack::success(id)));
                }
                (Some(id), Qos::ExactlyOnce) => {
                    self.received.insert(id);
                    self.held.push_back(Packet::Pubrec(Ack::success(id)));
                }
                (_, _) => {}
            },
            Packet::Pubrel(ack) => {
                self.received.remove(&ack.packet_id);
                let pubcomp = Packet::Pubcomp(Ack::success(ack.packet_id));
                self.held.push_back(pubcomp);
            }
            _ => {}
        }
    }

    /// Whether acknowledgements are held back.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The oldest acknowledgement held back.
    pub(crate) fn next_held(&mut self) -> Option<Packet> {
        self.held.pop_front()
    }

    /// A packet id for SUBSCRIBE or UNSUBSCRIBE.
    pub(crate) fn control_id(&mut self) -> PacketId {
        self.last_control_id = (self.last_control_id + 1) % 1_000;
        PacketId::new(CONTROL_IDS_FROM + self.last_control_id).expect("it is not 0")
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = (self.last_id + 1) % CONTROL_IDS_FROM;
            let free = PacketId::new(self.last_id);
            let is_free = |id: &PacketId| self.outgoing.iter().all(|one| one.id != *id);
            if let Some(id) = free.filter(is_free) {
                return id;
            }
        }
    }
}
