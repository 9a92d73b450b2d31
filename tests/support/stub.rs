//! A peer that speaks exactly what a unit test tells it to: shows that the clients notice a broker
//! that breaks its promises.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use codec::{
    Ack, Connack, Decoder, Limits, MessageProperties, Packet, PacketId, ProtocolVersion, Publish,
    Qos, ReasonCode, Suback,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::history::History;
use crate::summary::summary;
use crate::wire;

const PATIENCE: Duration = Duration::from_secs(10);

/// The stub; speaks v5, serves one connection at a time.
pub(crate) struct Stub {
    listener: TcpListener,
    connection: Mutex<Option<(TcpStream, Decoder, BytesMut)>>,
    history: History,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback is there");
        Self {
            listener,
            connection: Mutex::default(),
            history: History::new(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Accepts a connection, reads CONNECT, answers CONNACK.
    pub(crate) async fn accept(&self, session_present: bool) {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("in time")
            .expect("a client");
        let decoder = Decoder::from_client(Limits::default());
        *self.connection.lock().await = Some((stream, decoder, BytesMut::new()));
        let connect = self.recv().await;
        assert!(matches!(connect, Packet::Connect(_)), "{connect:?}");
        let connack = Connack {
            session_present,
            ..Connack::default()
        };
        self.send(&Packet::Connack(Box::new(connack))).await;
    }

    /// Reads SUBSCRIBE, grants QoS 2.
    pub(crate) async fn grant(&self) {
        let Packet::Subscribe(subscribe) = self.recv().await else {
            panic!("SUBSCRIBE comes next")
        };
        let suback = Suback {
            packet_id: subscribe.packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes: vec![ReasonCode::GrantedQos2],
        };
        self.send(&Packet::Suback(suback)).await;
    }

    pub(crate) async fn send(&self, packet: &Packet) {
        let mut connection = self.connection.lock().await;
        let (stream, ..) = connection.as_mut().expect("a client is connected");
        stream
            .write_all(&wire::encode(packet, ProtocolVersion::V5))
            .await
            .expect("the client reads");
    }

    pub(crate) async fn recv(&self) -> Packet {
        let mut connection = self.connection.lock().await;
        let (stream, decoder, buffer) = connection.as_mut().expect("a client is connected");
        loop {
            if let Some(packet) = decoder.decode(buffer).expect("the client speaks MQTT") {
                return packet;
            }
            let read = timeout(PATIENCE, stream.read_buf(buffer))
                .await
                .expect("in time")
                .expect("open");
            assert!(read > 0, "the client closed");
        }
    }

    pub(crate) async fn recv_texts(&self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(summary(&self.recv().await));
        }
        texts
    }

    /// Closes the connection.
    pub(crate) async fn close(&self) {
        self.connection.lock().await.take();
    }

    pub(crate) fn publish(id: u16, dup: bool, qos: Qos, payload: &str) -> Packet {
        Packet::Publish(Publish {
            dup,
            qos,
            retain: false,
            packet_id: PacketId::new(id),
            topic: "t".try_into().ok(),
            topic_alias: None,
            payload: payload.to_owned().into(),
            properties: MessageProperties::default(),
            subscription_identifiers: Vec::new(),
        })
    }

    pub(crate) fn pubrec(id: u16) -> Packet {
        Packet::Pubrec(Ack::success(PacketId::new(id).expect("not 0")))
    }

    pub(crate) fn pubcomp(id: u16) -> Packet {
        Packet::Pubcomp(Ack::success(PacketId::new(id).expect("not 0")))
    }
}
