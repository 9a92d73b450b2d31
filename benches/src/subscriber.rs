//! The subscriber: acknowledges everything, and holds every delivery against those before.

use std::io;
use std::rc::Rc;

use codec::{
    Ack, Connack, Packet, PacketId, Publish, Qos, Subscribe, Subscription, SubscriptionOptions,
    TopicFilter,
};

use crate::client::Role;
use crate::connection::{Output, refused};
use crate::ledger::{Ledger, Verdict};
use crate::payload::Stamp;
use crate::shared::{Pause, Shared};

/// A client that subscribes to one topic.
#[derive(Debug)]
pub struct Subscriber {
    filter: TopicFilter,
    qos: Qos,
    shared: Rc<Shared>,
    is_subscribed: bool,
    /// Packet ids of QoS 2 messages that wait for PUBREL.
    unreleased: IdSet,
    /// Per publisher.
    pub ledgers: Vec<Ledger>,
    /// Deliveries of messages that were delivered before.
    pub repeated: u64,
    /// Of them, those without DUP.
    pub repeated_without_dup: u64,
    /// Deliveries after one that was published later.
    pub late: u64,
    /// The longest time without a delivery.
    pub pause: Pause,
    /// Resumptions that found no session.
    pub sessions_lost: u32,
}

impl Subscriber {
    /// Before its first connection.
    #[must_use]
    pub fn new(filter: TopicFilter, qos: Qos, shared: Rc<Shared>) -> Self {
        let ledgers = shared.progress.iter().map(|_| Ledger::default()).collect();
        Self {
            filter,
            qos,
            shared,
            is_subscribed: false,
            unreleased: IdSet::default(),
            ledgers,
            repeated: 0,
            repeated_without_dup: 0,
            late: 0,
            pause: Pause::default(),
            sessions_lost: 0,
        }
    }

    fn on_publish(&mut self, publish: &Publish, now_ns: u64) -> io::Result<Option<Packet>> {
        let Some(id) = publish.packet_id else {
            self.enter(publish, now_ns)?;
            return Ok(None);
        };
        match publish.qos {
            Qos::AtMostOnce | Qos::AtLeastOnce => {
                self.enter(publish, now_ns)?;
                Ok(Some(Packet::Puback(Ack::success(id))))
            }
            // Until PUBREL the same id is the same message [MQTT-4.3.3-10].
            Qos::ExactlyOnce => {
                if self.unreleased.insert(id) {
                    self.enter(publish, now_ns)?;
                }
                Ok(Some(Packet::Pubrec(Ack::success(id))))
            }
        }
    }

    fn enter(&mut self, publish: &Publish, now_ns: u64) -> io::Result<()> {
        let stamp = Stamp::decode(&publish.payload);
        let stamp = stamp.ok_or_else(|| refused("a message that nobody sent".to_owned()))?;
        let publisher = usize::try_from(stamp.publisher).unwrap_or(usize::MAX);
        let (Some(ledger), Some(progress)) = (
            self.ledgers.get_mut(publisher),
            self.shared.progress.get(publisher),
        ) else {
            return Err(refused(format!("no publisher {publisher}")));
        };
        if stamp.sequence >= progress.sent.get() {
            return Err(refused(format!("{stamp:?} was never sent")));
        }
        match ledger.receive(stamp.sequence) {
            Verdict::New => {}
            Verdict::Late => self.late += 1,
            Verdict::Repeated => {
                self.repeated += 1;
                self.repeated_without_dup += u64::from(!publish.dup);
                return Ok(());
            }
        }
        progress.delivered.set(progress.delivered.get() + 1);
        if self.qos == Qos::AtMostOnce {
            self.shared.wake(publisher);
        }
        self.pause.note(now_ns, &self.shared);
        if self.shared.recording.get() {
            let latency_ns = now_ns.saturating_sub(stamp.due_ns);
            self.shared
                .delivery_latencies
                .borrow_mut()
                .record(latency_ns);
        }
        Ok(())
    }

    fn subscribe(&self) -> Packet {
        Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: None,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription {
                filter: self.filter.clone(),
                options: SubscriptionOptions::new(self.qos),
            }],
        })
    }
}

impl Role for Subscriber {
    fn on_connected(&mut self, connack: &Connack, output: &mut Output) {
        if !connack.session_present {
            self.sessions_lost += u32::from(self.is_subscribed);
            self.unreleased = IdSet::default();
            output.push(&self.subscribe());
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other packet is a mistake of the server"
    )]
    fn on_packet(&mut self, packet: Packet, now_ns: u64, output: &mut Output) -> io::Result<()> {
        match packet {
            Packet::Publish(publish) => {
                if let Some(answer) = self.on_publish(&publish, now_ns)? {
                    output.push(&answer);
                }
            }
            Packet::Pubrel(ack) => {
                self.unreleased.remove(ack.packet_id);
                output.push(&Packet::Pubcomp(Ack::success(ack.packet_id)));
            }
            Packet::Suback(suback) => {
                if suback.reason_codes.iter().any(|code| code.is_error()) {
                    return Err(refused(format!("SUBACK {:?}", suback.reason_codes)));
                }
                if !self.is_subscribed {
                    self.is_subscribed = true;
                    self.shared.ready.set(self.shared.ready.get() + 1);
                }
            }
            Packet::Pingresp => {}
            Packet::Disconnect(disconnect) => {
                return Err(refused(format!("DISCONNECT {:?}", disconnect.reason_code)));
            }
            other => return Err(refused(format!("a subscriber got {}", other.packet_type()))),
        }
        Ok(())
    }

    fn fill(&mut self, _now_ns: u64, _output: &mut Output) {}

    fn is_away(&self) -> bool {
        self.shared.subscribers_away.get()
    }
}

/// A set of packet ids: a bit each, in memory only once one is used.
#[derive(Debug, Default, Clone)]
struct IdSet(Vec<u64>);

impl IdSet {
    /// Whether it was not in the set.
    fn insert(&mut self, id: PacketId) -> bool {
        let (word, bit) = place(id);
        if self.0.is_empty() {
            self.0 = vec![0; 1_024];
        }
        self.0.get_mut(word).is_some_and(|word| {
            let is_new = *word & bit == 0;
            *word |= bit;
            is_new
        })
    }

    fn remove(&mut self, id: PacketId) {
        let (word, bit) = place(id);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }
}

fn place(id: PacketId) -> (usize, u64) {
    (usize::from(id.get() / 64), 1 << (id.get() % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_until_it_is_in_the_set_and_again_after_it_left() {
        let mut set = IdSet::default();
        for id in [PacketId::MIN, PacketId::new(64).unwrap(), PacketId::MAX] {
            set.remove(id);
            assert!(set.insert(id));
            assert!(!set.insert(id));
            set.remove(id);
            assert!(set.insert(id));
        }
    }
}
