//! Clients for volume: nothing of them is recorded, and many packets go out with one call.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use codec::{
    Ack, Decoder, MessageProperties, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode,
    Subscribe, Subscription, SubscriptionOptions, TopicFilter, TopicName,
};
use testkit::{ConnectOptions, wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

/// How long a client waits for what must come.
const IN_TIME: Duration = Duration::from_secs(40);
/// Packets that go out with one call at most.
const BATCH: usize = 20;

/// One connection.
pub(crate) struct Bulk {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: BytesMut,
    decoder: Decoder,
    pub(crate) version: ProtocolVersion,
}

/// What a publisher saw.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Acknowledged with success or "no matching subscribers".
    pub(crate) acknowledged: u64,
    /// Acknowledged with 0x97.
    pub(crate) refused: u64,
    /// Longest time between two acknowledgements, or before the first.
    pub(crate) longest_wait: Duration,
}

impl Bulk {
    /// Connects; panics when the node does not accept.
    pub(crate) async fn connect(address: SocketAddr, options: &ConnectOptions) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        let mut bulk = Self {
            reader,
            writer,
            input: BytesMut::new(),
            decoder: wire::decoder(options.version),
            version: options.version,
        };
        bulk.send(&Packet::Connect(Box::new(options.packet())))
            .await;
        match bulk.recv().await {
            Some(Packet::Connack(connack)) if connack.reason_code == ReasonCode::Success => bulk,
            other => panic!("{}: {other:?} instead of CONNACK", options.client_id),
        }
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        let bytes = wire::encode(packet, self.version);
        self.write(&bytes).await;
    }

    /// Whether all was written: not when the connection is closed.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = timeout(IN_TIME, self.writer.write_all(bytes)).await;
        written.expect("the broker reads").is_ok()
    }

    /// Writes as much as goes through without waiting longer than `limit`. Returns how much.
    pub(crate) async fn write_within(&mut self, bytes: &[u8], limit: Duration) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match timeout(limit, self.writer.write(&bytes[written..])).await {
                Ok(Ok(count)) if count > 0 => written += count,
                _ => break,
            }
        }
        written
    }

    /// The next packet; `None`: closed.
    pub(crate) async fn recv(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            let read = timeout(IN_TIME, self.reader.read_buf(&mut self.input)).await;
            match read.expect("something comes in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Subscribes and waits for SUBACK.
    pub(crate) async fn subscribe(&mut self, filters: &[String], qos: Qos) {
        self.write(&subscribe_at(self.version, filters, qos)).await;
        loop {
            match self.recv().await {
                Some(Packet::Suback(_)) => return,
                Some(Packet::Publish(_)) => {}
                other => panic!("{other:?} instead of SUBACK"),
            }
        }
    }

    /// The next message at QoS 0 or 1, acknowledged. `None`: closed.
    pub(crate) async fn take(&mut self) -> Option<Publish> {
        loop {
            match self.recv().await? {
                Packet::Publish(publish) => {
                    if let Some(packet_id) = publish.packet_id {
                        let ack = Ack::new(packet_id, ReasonCode::Success);
                        self.send(&Packet::Puback(ack)).await;
                    }
                    return Some(publish);
                }
                Packet::Disconnect(_) => {}
                other => panic!("{other:?} instead of PUBLISH"),
            }
        }
    }

    /// Publishes `payloads` at QoS 1, at most `window` unacknowledged; ends early when closed.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        window: usize,
        payloads: impl Iterator<Item = Bytes>,
    ) -> Published {
        let mut payloads = payloads.peekable();
        let mut published = Published::default();
        let mut under_way = VecDeque::new();
        let mut next_id = 0_u16;
        let mut last = Instant::now();
        while payloads.peek().is_some() || !under_way.is_empty() {
            let mut batch = BytesMut::new();
            let room = window - under_way.len();
            for payload in payloads.by_ref().take(room.min(BATCH)) {
                next_id = next_id % 60_000 + 1;
                under_way.push_back(next_id);
                let packet = Packet::Publish(message(topic, Qos::AtLeastOnce, next_id, payload));
                batch.extend_from_slice(&wire::encode(&packet, self.version));
            }
            if !batch.is_empty() && !self.write(&batch).await {
                return published;
            }
            // Acknowledgements come in order [MQTT-4.6.0-2].
            while under_way.len() + BATCH.min(window) > window || payloads.peek().is_none() {
                let Some(expected) = under_way.pop_front() else {
                    break;
                };
                let Some(Packet::Puback(ack)) = self.recv().await else {
                    return published;
                };
                assert_eq!(ack.packet_id.get(), expected);
                published.longest_wait = published.longest_wait.max(last.elapsed());
                last = Instant::now();
                if ack.reason_code == ReasonCode::QuotaExceeded {
                    published.refused += 1;
                } else {
                    published.acknowledged += 1;
                }
            }
        }
        published
    }

    /// Publishes `count` messages at QoS 1 to a topic that it is subscribed to, and takes them all.
    /// It acknowledges none before `first` of its own are acknowledged and as many more are sent.
    pub(crate) async fn publish_to_itself(&mut self, topic: &str, first: u64, count: u64) {
        const WINDOW: u64 = 100;
        let (mut sent, mut acknowledged, mut taken) = (0_u64, 0_u64, 0_u64);
        let mut owed = Vec::new();
        while acknowledged < count || taken < count {
            while sent < count && sent < acknowledged + WINDOW {
                let id = u16::try_from(sent % 60_000 + 1).unwrap();
                let publish = message(topic, Qos::AtLeastOnce, id, Bytes::from_static(b"me"));
                self.send(&Packet::Publish(publish)).await;
                sent += 1;
            }
            if sent >= first + WINDOW {
                for packet_id in std::mem::take(&mut owed) {
                    let ack = Ack::new(packet_id, ReasonCode::Success);
                    self.send(&Packet::Puback(ack)).await;
                }
            }
            match self.recv().await {
                Some(Packet::Puback(_)) => acknowledged += 1,
                Some(Packet::Publish(publish)) => {
                    taken += 1;
                    owed.push(publish.packet_id.unwrap());
                }
                other => panic!("{other:?} after {taken} of {count} messages"),
            }
        }
    }

    /// Writes `count` messages at QoS 0 as fast as they go through.
    pub(crate) async fn flood(&mut self, topic: &str, size: usize, count: usize) -> bool {
        let payload = Bytes::from(vec![b'x'; size]);
        let packet = Packet::Publish(message(topic, Qos::AtMostOnce, 0, payload));
        let packet = wire::encode(&packet, self.version);
        let at_once = (65_536 / packet.len()).max(1);
        let batch = packet.repeat(at_once);
        for _ in 0..count.div_ceil(at_once) {
            if !self.write(&batch).await {
                return false;
            }
        }
        true
    }
}

/// A PUBLISH; id 0 at QoS 0.
pub(crate) fn message(topic: &str, qos: Qos, id: u16, payload: Bytes) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(id),
        topic: Some(TopicName::try_from(topic).unwrap()),
        topic_alias: None,
        payload,
        properties: MessageProperties::default(),
        subscription_identifiers: Vec::new(),
    }
}

/// A SUBSCRIBE for all filters at QoS 1.
pub(crate) fn subscribe(version: ProtocolVersion, filters: &[String]) -> Bytes {
    subscribe_at(version, filters, Qos::AtLeastOnce)
}

fn subscribe_at(version: ProtocolVersion, filters: &[String], qos: Qos) -> Bytes {
    let subscriptions = filters.iter().map(|filter| Subscription {
        filter: TopicFilter::try_from(filter.as_str()).unwrap(),
        options: SubscriptionOptions::new(qos),
    });
    let subscribe = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        subscription_identifier: None,
        subscriptions: subscriptions.collect(),
        user_properties: Vec::new(),
    };
    wire::encode(&Packet::Subscribe(subscribe), version)
}
