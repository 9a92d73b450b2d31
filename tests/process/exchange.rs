//! Whole PUBLISH packets as clients exchange them here: with RETAIN, properties and identifiers.

use std::collections::BTreeSet;
use std::time::Duration;

use codec::{Message, MessageProperties, Packet, Publish, Qos, TopicName, Will};
use testkit::client::RecvError;
use testkit::{Client, Outgoing};

/// A message as a client sends it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) properties: MessageProperties,
}

impl Sent {
    pub(crate) fn new(topic: &str, payload: impl Into<String>, qos: Qos) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos,
            retain: false,
            properties: MessageProperties::default(),
        }
    }

    pub(crate) fn retained(self) -> Self {
        Self {
            retain: true,
            ..self
        }
    }

    pub(crate) fn expires_after_s(mut self, interval_s: u32) -> Self {
        self.properties.message_expiry_interval = Some(interval_s);
        self
    }

    pub(crate) fn packet(&self, id: u16, dup: bool) -> Packet {
        let outgoing = Outgoing {
            id,
            dup,
            qos: self.qos,
            topic: &self.topic,
            payload: &self.payload,
        };
        Packet::Publish(Publish {
            retain: self.retain,
            properties: self.properties.clone(),
            ..outgoing.packet()
        })
    }

    /// The same as a will.
    pub(crate) fn will(self, delay_interval_s: u32) -> Will {
        Will {
            message: Message {
                topic: TopicName::try_from(self.topic.as_str()).unwrap(),
                payload: self.payload.into(),
                qos: self.qos,
                retain: self.retain,
                properties: self.properties,
            },
            delay_interval_s,
        }
    }

    /// Publishes and waits until it is complete.
    pub(crate) async fn publish(&self, client: &mut Client, id: u16) {
        let packet_id = match self.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce | Qos::ExactlyOnce => id,
        };
        client.send(&self.packet(packet_id, false)).await;
        match self.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => drop(client.expect_puback(id).await),
            Qos::ExactlyOnce => {
                client.expect_pubrec(id).await;
                client.pubrel(id).await;
                client.expect_pubcomp(id).await;
            }
        }
    }
}

/// The payload as text.
pub(crate) fn text(publish: &Publish) -> String {
    String::from_utf8_lossy(&publish.payload).into_owned()
}

/// The payloads, in order.
pub(crate) fn texts(publishes: &[Publish]) -> Vec<String> {
    publishes.iter().map(text).collect()
}

/// The PUBLISHes among what was received.
pub(crate) fn publishes(packets: &[Packet]) -> Vec<Publish> {
    let found = packets.iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => Some(publish.clone()),
        _ => None,
    });
    found.collect()
}

/// Takes messages and completes their handshakes.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    /// Handed on to the application, in order.
    pub(crate) messages: Vec<Publish>,
    /// QoS 2 ids between PUBLISH and PUBREL.
    received: BTreeSet<u16>,
}

impl Taker {
    /// Takes until `done` says so of the messages, and no handshake is open.
    pub(crate) async fn take_until(
        &mut self,
        client: &mut Client,
        what: &str,
        done: impl Fn(&[Publish]) -> bool,
    ) {
        while !(done(&self.messages) && self.received.is_empty()) {
            match client.recv().await {
                Ok(packet) => self.on_packet(client, packet).await,
                Err(error) => {
                    let seen = texts(&self.messages);
                    panic!("{error:?} instead of {what} after {seen:?}");
                }
            }
        }
    }

    /// Takes whatever comes until nothing came for `silence`, or the connection is closed.
    pub(crate) async fn take_rest(&mut self, client: &mut Client, silence: Duration) {
        loop {
            match client.recv_within(silence).await {
                Ok(packet) => self.on_packet(client, packet).await,
                Err(RecvError::Silent | RecvError::Closed) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// One packet that was received.
    pub(crate) async fn on_packet(&mut self, client: &mut Client, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id.map_or(0, codec::PacketId::get);
                match publish.qos {
                    Qos::AtMostOnce => self.messages.push(publish),
                    Qos::AtLeastOnce => {
                        client.puback(id).await;
                        self.messages.push(publish);
                    }
                    Qos::ExactlyOnce => {
                        client.pubrec(id).await;
                        if self.received.insert(id) {
                            self.messages.push(publish);
                        }
                    }
                }
            }
            Packet::Pubrel(ack) => {
                let id = ack.packet_id.get();
                self.received.remove(&id);
                client.pubcomp(id).await;
            }
            Packet::Pingresp => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Takes messages up to the one with this payload.
pub(crate) async fn take_up_to(client: &mut Client, last: &str) -> Vec<Publish> {
    let mut taker = Taker::default();
    let is_there = |messages: &[Publish]| messages.iter().any(|message| text(message) == last);
    taker.take_until(client, last, is_there).await;
    taker.messages
}

/// Takes so many messages, and those that are there already.
pub(crate) async fn take(client: &mut Client, count: usize) -> Vec<Publish> {
    let mut taker = Taker::default();
    let what = format!("{count} messages");
    taker
        .take_until(client, &what, |messages| messages.len() >= count)
        .await;
    for packet in client.ping_barrier().await {
        taker.on_packet(client, packet).await;
    }
    taker.messages
}
