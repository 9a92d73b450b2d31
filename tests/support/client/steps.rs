//! The steps of the handshakes, one packet each, and what a test expects next.

use codec::{
    Ack, MessageProperties, Packet, PacketId, Publish, Qos, ReasonCode, Suback, Subscribe,
    Subscription, SubscriptionIdentifier, SubscriptionOptions, TopicFilter, TopicName, Unsuback,
    Unsubscribe,
};

use super::Client;
use crate::summary::summary;

/// A PUBLISH as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// 0 for QoS 0.
    pub id: u16,
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: Qos,
    /// Topic.
    pub topic: String,
    /// Payload as text.
    pub payload: String,
}

/// A PUBLISH to send.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    /// 0 for QoS 0.
    pub id: u16,
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: Qos,
    /// Topic.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a str,
}

impl Outgoing<'_> {
    /// The packet, without RETAIN and without properties.
    ///
    /// # Panics
    /// When the topic is not legal.
    #[must_use]
    pub fn packet(&self) -> Publish {
        Publish {
            dup: self.dup,
            qos: self.qos,
            retain: false,
            packet_id: PacketId::new(self.id),
            topic: Some(TopicName::try_from(self.topic).expect("a legal topic")),
            topic_alias: None,
            payload: self.payload.to_owned().into(),
            properties: MessageProperties::default(),
            subscription_identifiers: Vec::new(),
        }
    }
}

impl Client {
    /// The next packet, which must satisfy `accept`.
    ///
    /// # Panics
    /// When it does not, or does not come.
    pub async fn expect<T>(&mut self, what: &str, accept: impl FnOnce(&Packet) -> Option<T>) -> T {
        match self.recv().await {
            Ok(packet) => accept(&packet)
                .unwrap_or_else(|| panic!("{}: {} instead of {what}", self.name, summary(&packet))),
            Err(error) => panic!("{}: {error:?} instead of {what}", self.name),
        }
    }

    /// The next packet, which must be a PUBLISH.
    ///
    /// # Panics
    /// When it is not.
    pub async fn expect_publish(&mut self) -> Delivery {
        self.expect("PUBLISH", delivery).await
    }

    /// The next packet, which must be the PUBACK of `id`.
    ///
    /// # Panics
    /// When it is not.
    pub async fn expect_puback(&mut self, id: u16) -> ReasonCode {
        let accept = |packet: &Packet| {
            matches!(packet, Packet::Puback(_))
                .then(|| ack_of(packet, id))
                .flatten()
        };
        self.expect(&format!("PUBACK id={id}"), accept).await
    }

    /// The next packet, which must be the PUBREC of `id`.
    ///
    /// # Panics
    /// When it is not.
    pub async fn expect_pubrec(&mut self, id: u16) -> ReasonCode {
        let accept = |packet: &Packet| {
            matches!(packet, Packet::Pubrec(_))
                .then(|| ack_of(packet, id))
                .flatten()
        };
        self.expect(&format!("PUBREC id={id}"), accept).await
    }

    /// The next packet, which must be the PUBREL of `id`.
    ///
    /// # Panics
    /// When it is not.
    pub async fn expect_pubrel(&mut self, id: u16) -> ReasonCode {
        let accept = |packet: &Packet| {
            matches!(packet, Packet::Pubrel(_))
                .then(|| ack_of(packet, id))
                .flatten()
        };
        self.expect(&format!("PUBREL id={id}"), accept).await
    }

    /// The next packet, which must be the PUBCOMP of `id`.
    ///
    /// # Panics
    /// When it is not.
    pub async fn expect_pubcomp(&mut self, id: u16) -> ReasonCode {
        let accept = |packet: &Packet| {
            matches!(packet, Packet::Pubcomp(_))
                .then(|| ack_of(packet, id))
                .flatten()
        };
        self.expect(&format!("PUBCOMP id={id}"), accept).await
    }

    /// Sends a PUBLISH.
    ///
    /// # Panics
    /// When the topic is not legal.
    pub async fn publish(&mut self, outgoing: &Outgoing<'_>) {
        self.send(&Packet::Publish(outgoing.packet())).await;
    }

    /// Sends a PUBLISH of QoS 1 and waits for its PUBACK.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn publish_qos1(&mut self, id: u16, topic: &str, payload: &str) -> ReasonCode {
        self.publish(&Outgoing {
            id,
            dup: false,
            qos: Qos::AtLeastOnce,
            topic,
            payload,
        })
        .await;
        self.expect_puback(id).await
    }

    /// Sends a PUBLISH of QoS 2 and carries out the handshake.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn publish_qos2(&mut self, id: u16, topic: &str, payload: &str) {
        self.publish(&Outgoing {
            id,
            dup: false,
            qos: Qos::ExactlyOnce,
            topic,
            payload,
        })
        .await;
        self.expect_pubrec(id).await;
        self.pubrel(id).await;
        self.expect_pubcomp(id).await;
    }

    /// Publishes with either QoS 1 or 2 and waits until it is complete.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn publish_acknowledged(&mut self, qos: Qos, id: u16, topic: &str, payload: &str) {
        match qos {
            Qos::AtMostOnce => panic!("QoS 0 is not acknowledged"),
            Qos::AtLeastOnce => drop(self.publish_qos1(id, topic, payload).await),
            Qos::ExactlyOnce => self.publish_qos2(id, topic, payload).await,
        }
    }

    /// Sends PUBACK.
    pub async fn puback(&mut self, id: u16) {
        self.send(&Packet::Puback(ack(id))).await;
    }

    /// Sends PUBREC.
    pub async fn pubrec(&mut self, id: u16) {
        self.send(&Packet::Pubrec(ack(id))).await;
    }

    /// Sends PUBREL.
    pub async fn pubrel(&mut self, id: u16) {
        self.send(&Packet::Pubrel(ack(id))).await;
    }

    /// Sends PUBCOMP.
    pub async fn pubcomp(&mut self, id: u16) {
        self.send(&Packet::Pubcomp(ack(id))).await;
    }

    /// Receives one message and acknowledges it completely, with whatever QoS it has.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn take_message(&mut self) -> Delivery {
        let delivery = self.expect_publish().await;
        match delivery.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.puback(delivery.id).await,
            Qos::ExactlyOnce => {
                self.pubrec(delivery.id).await;
                // Messages may have been sent before the PUBREL: tests that let that happen read themselves.
                self.expect_pubrel(delivery.id).await;
                self.pubcomp(delivery.id).await;
            }
        }
        delivery
    }

    /// Sends SUBSCRIBE for one filter; returns its packet id.
    ///
    /// # Panics
    /// When the filter is not legal.
    pub async fn send_subscribe(&mut self, filter: &str, qos: Qos) -> u16 {
        let options = SubscriptionOptions::new(qos);
        self.send_subscribe_with(filter, options, None).await
    }

    /// The same with options, and with a Subscription Identifier that is not 0 (v5).
    ///
    /// # Panics
    /// When the filter or the identifier is not legal.
    pub async fn send_subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    ) -> u16 {
        let id = self.next_control_packet_id();
        let filter = TopicFilter::try_from(filter).expect("a legal filter");
        let packet = Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(id).expect("it is not 0"),
            subscription_identifier: identifier
                .map(|value| SubscriptionIdentifier::new(value).expect("a legal identifier")),
            user_properties: Vec::new(),
            subscriptions: vec![Subscription { filter, options }],
        });
        self.send(&packet).await;
        id
    }

    /// Subscribes to one filter with options and waits for SUBACK. Returns what was received before
    /// it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    ) -> Vec<Packet> {
        let qos = options.qos;
        let id = self.send_subscribe_with(filter, options, identifier).await;
        self.recv_until("SUBACK", |packet| is_suback(packet, id, qos))
            .await
    }

    /// Subscribes to one filter and waits for SUBACK. Returns what was received before it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn subscribe(&mut self, filter: &str, qos: Qos) -> Vec<Packet> {
        let id = self.send_subscribe(filter, qos).await;
        self.recv_until("SUBACK", |packet| is_suback(packet, id, qos))
            .await
    }

    /// Sends UNSUBSCRIBE for one filter; returns its packet id.
    ///
    /// # Panics
    /// When the filter is not legal.
    pub async fn send_unsubscribe(&mut self, filter: &str) -> u16 {
        let id = self.next_control_packet_id();
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::new(id).expect("it is not 0"),
            user_properties: Vec::new(),
            filters: vec![TopicFilter::try_from(filter).expect("a legal filter")],
        });
        self.send(&packet).await;
        id
    }

    /// Waits until all acknowledgements that this connection sent are committed: a SUBSCRIBE is a
    /// command to the same shard through the same proposer, so its SUBACK comes after them. Returns
    /// what was received meanwhile.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn commit_barrier(&mut self) -> Vec<Packet> {
        self.subscribe("commit-barrier", Qos::AtMostOnce).await
    }

    /// Sends PINGREQ; returns what was received before PINGRESP, so what had been sent by then.
    ///
    /// # Panics
    /// When the connection is closed.
    pub async fn ping_barrier(&mut self) -> Vec<Packet> {
        self.send(&Packet::Pingreq).await;
        self.recv_until("PINGRESP", |packet| matches!(packet, Packet::Pingresp))
            .await
    }

    fn next_control_packet_id(&mut self) -> u16 {
        self.control_packet_id = if self.control_packet_id == u16::MAX {
            60_000
        } else {
            self.control_packet_id + 1
        };
        self.control_packet_id
    }
}

/// The PUBLISH in a packet.
#[must_use]
pub fn delivery(packet: &Packet) -> Option<Delivery> {
    let Packet::Publish(publish) = packet else {
        return None;
    };
    Some(Delivery {
        id: publish.packet_id.map_or(0, PacketId::get),
        dup: publish.dup,
        qos: publish.qos,
        topic: publish
            .topic
            .as_ref()
            .map(|topic| topic.as_str().to_owned())
            .unwrap_or_default(),
        payload: String::from_utf8_lossy(&publish.payload).into_owned(),
    })
}

/// Whether a packet acknowledges anything: none may leave a node without a lease.
#[must_use]
pub fn is_acknowledgement(packet: &Packet) -> bool {
    match packet {
        Packet::Connack(connack) => connack.reason_code == ReasonCode::Success,
        Packet::Puback(_)
        | Packet::Pubrec(_)
        | Packet::Pubcomp(_)
        | Packet::Suback(_)
        | Packet::Unsuback(_) => true,
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Pubrel(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::Pingreq
        | Packet::Pingresp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => false,
    }
}

/// Whether a packet is the UNSUBACK of `id`.
#[must_use]
pub fn is_unsuback(packet: &Packet, id: u16) -> bool {
    matches!(packet, Packet::Unsuback(Unsuback { packet_id, .. }) if packet_id.get() == id)
}

/// Whether a packet is the SUBACK of `id`.
///
/// # Panics
/// When it is and grants another QoS.
fn is_suback(packet: &Packet, id: u16, qos: Qos) -> bool {
    let Packet::Suback(Suback {
        packet_id,
        reason_codes,
        ..
    }) = packet
    else {
        return false;
    };
    if packet_id.get() != id {
        return false;
    }
    let granted: Vec<u8> = reason_codes.iter().map(|code| code.as_u8()).collect();
    assert_eq!(granted, [qos.as_u8()], "SUBACK id={id}");
    true
}

fn ack(id: u16) -> Ack {
    Ack::success(PacketId::new(id).expect("a packet id is not 0"))
}

fn ack_of(packet: &Packet, id: u16) -> Option<ReasonCode> {
    match packet {
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            (ack.packet_id.get() == id).then_some(ack.reason_code)
        }
        _ => None,
    }
}
