//! Acknowledgements to a publisher: each of something that it sent on this connection, and of its
//! kind [MQTT-4.3.2-4, MQTT-4.3.3-8, MQTT-4.3.3-11]. Also packets that no server may send.

use std::collections::BTreeMap;

use codec::{Packet, Qos};

use super::Story;
use super::story::Connection;
use super::verdict::{Rule, Verdict};
use crate::recording::End;
use crate::summary::summary;

/// What a connection waits for under a packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Puback,
    Pubrec,
    Pubcomp,
    Suback,
    Unsuback,
}

/// What a client sent on one connection and is not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Unanswered(BTreeMap<u16, (Waits, usize)>);

impl Unanswered {
    pub(super) fn sent(&mut self, record: usize, packet: &Packet) {
        let (id, waits) = match packet {
            Packet::Publish(publish) => match (publish.packet_id, publish.qos) {
                (Some(id), Qos::AtLeastOnce) => (id, Waits::Puback),
                (Some(id), Qos::ExactlyOnce) => (id, Waits::Pubrec),
                (_, _) => return,
            },
            Packet::Pubrel(ack) => (ack.packet_id, Waits::Pubcomp),
            Packet::Subscribe(subscribe) => (subscribe.packet_id, Waits::Suback),
            Packet::Unsubscribe(unsubscribe) => (unsubscribe.packet_id, Waits::Unsuback),
            _ => return,
        };
        self.0.insert(id.get(), (waits, record));
    }

    /// Whether this acknowledges something.
    pub(super) fn received(&mut self, packet: &Packet) -> bool {
        let (id, waits) = match packet {
            Packet::Puback(ack) => (ack.packet_id, Waits::Puback),
            Packet::Pubrec(ack) => (ack.packet_id, Waits::Pubrec),
            Packet::Pubcomp(ack) => (ack.packet_id, Waits::Pubcomp),
            Packet::Suback(suback) => (suback.packet_id, Waits::Suback),
            Packet::Unsuback(unsuback) => (unsuback.packet_id, Waits::Unsuback),
            _ => return true,
        };
        let expected = self.0.get(&id.get()).map(|(waits, _)| *waits);
        if expected == Some(waits) {
            self.0.remove(&id.get());
        }
        expected == Some(waits)
    }

    /// Records of what waits still.
    pub(super) fn rest(&self) -> impl Iterator<Item = usize> {
        self.0.values().map(|(_, record)| *record)
    }
}

pub(super) fn check(story: &Story<'_>, verdict: &mut Verdict) {
    for connection in &story.connections {
        check_connection(story, connection, verdict);
    }
}

fn check_connection(story: &Story<'_>, connection: &Connection<'_>, verdict: &mut Verdict) {
    let mut unanswered = Unanswered::default();
    let mut greeted = false;
    for record in &connection.packets {
        if let Some(packet) = story.sent(*record) {
            unanswered.sent(*record, packet);
        }
        if let Some(packet) = story.received(*record) {
            if !may_come(packet, greeted) {
                let text = format!("{} gets {}", connection.client, summary(packet));
                verdict.add(Rule::Malformed, &[*record], text);
            }
            greeted = true;
            if !unanswered.received(packet) {
                let text = format!(
                    "{} gets {}, but sent nothing on this connection that it answers",
                    connection.client,
                    summary(packet)
                );
                verdict.add(Rule::Acknowledgement, &[*record], text);
            }
        }
    }
    if let Some((record, End::Malformed)) = connection.end {
        let text = format!("{} got bytes that are no MQTT", connection.client);
        verdict.add(Rule::Malformed, &[record], text);
    }
}

/// CONNACK comes first [MQTT-3.2.0-1] and once [MQTT-3.2.0-2]; some packets never come.
fn may_come(packet: &Packet, greeted: bool) -> bool {
    match packet {
        Packet::Connack(_) => !greeted,
        Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::Pingreq => {
            false
        }
        _ => greeted,
    }
}
