//! A client of the library rumqttc, which has a module for 3.1.1 and another for 5.0.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::wait_until;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use rumqttc::v5::mqttbytes::v5 as v5_packets;
use rumqttc::{self as v4, v5};

/// Until something must have come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Packets that wait until the test takes them: more than any test lets wait.
const WAITING_MAX: usize = 1_000;
/// So long a session lives without a connection.
const EXPIRY_S: u32 = 600;

/// A module of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    V4,
    V5,
}

/// A message as received.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

/// What the library says.
#[derive(Debug)]
enum Came {
    Connected {
        session_present: bool,
    },
    Subscribed {
        qos: Option<u8>,
    },
    /// PUBACK or PUBCOMP.
    Complete,
    Message(Message),
}

#[derive(Debug)]
enum Client {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// How a client connects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) is_persistent: bool,
    pub(crate) will_topic: Option<String>,
}

/// A client, connected to one node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) session_present: bool,
    client: Client,
    messages: Receiver<Message>,
    others: Receiver<Came>,
    task: JoinHandle<()>,
}

/// Where the library's words go.
#[derive(Debug, Clone)]
struct Ears {
    messages: Sender<Message>,
    others: Sender<Came>,
}

impl Ears {
    async fn hear(&self, came: Option<Came>) {
        match came {
            // A test that has ended hears nothing more.
            Some(Came::Message(message)) => self.messages.send(message).await.ok(),
            Some(other) => self.others.send(other).await.ok(),
            None => None,
        };
    }
}

impl Peer {
    pub(crate) async fn connect(
        module: Module,
        address: SocketAddr,
        (client_id, options): (&str, Options),
    ) -> Self {
        let mut connected = None;
        // A node that cannot reach the others for a moment refuses.
        wait_until("a CONNACK with success", PATIENCE, async || {
            let mut peer = Self::start(module, address, (client_id, options.clone()));
            let came = timeout(PATIENCE, peer.others.recv()).await;
            if let Ok(Some(Came::Connected { session_present })) = came {
                peer.session_present = session_present;
                connected = Some(peer);
            }
            connected.is_some()
        })
        .await;
        connected.expect("it was waited for")
    }

    fn start(module: Module, address: SocketAddr, identity: (&str, Options)) -> Self {
        let (messages_in, messages) = channel(WAITING_MAX);
        let (others_in, others) = channel(WAITING_MAX);
        let ears = Ears {
            messages: messages_in,
            others: others_in,
        };
        let (client, task) = match module {
            Module::V4 => start_v4(address, identity, ears),
            Module::V5 => start_v5(address, identity, ears),
        };
        Self {
            session_present: false,
            client,
            messages,
            others,
            task,
        }
    }

    async fn other(&mut self) -> Came {
        let came = timeout(PATIENCE, self.others.recv()).await;
        came.expect("an answer in time")
            .expect("the connection lives")
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        match &self.client {
            Client::V4(client) => client.subscribe(filter, qos_v4(qos)).await.unwrap(),
            Client::V5(client) => client.subscribe(filter, qos_v5(qos)).await.unwrap(),
        }
        match self.other().await {
            Came::Subscribed { qos: granted } => assert_eq!(granted, Some(qos), "{filter}"),
            other => panic!("{other:?} instead of SUBACK"),
        }
    }

    /// Returns when the exchange is complete.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, (qos, retain): (u8, bool)) {
        let bytes = payload.as_bytes().to_vec();
        match &self.client {
            Client::V4(client) => client
                .publish(topic, qos_v4(qos), retain, bytes)
                .await
                .unwrap(),
            Client::V5(client) => client
                .publish(topic, qos_v5(qos), retain, bytes)
                .await
                .unwrap(),
        }
        if qos > 0 {
            let came = self.other().await;
            assert!(matches!(came, Came::Complete), "{came:?} after {payload}");
        }
    }

    pub(crate) async fn take(&mut self) -> Message {
        let message = timeout(PATIENCE, self.messages.recv()).await;
        message
            .expect("a message in time")
            .expect("the connection lives")
    }

    /// The messages that come next, in any order, as payload and QoS; none is marked as retained.
    pub(crate) async fn expect(&mut self, expected: &[(&str, u8)]) {
        let mut found = Vec::new();
        for _ in expected {
            found.push(self.take().await);
        }
        let mut expected: Vec<Message> = expected
            .iter()
            .map(|(payload, qos)| Message {
                payload: (*payload).to_owned(),
                qos: *qos,
                retain: false,
            })
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    /// Closes the connection without DISCONNECT.
    pub(crate) fn vanish(self) {
        self.task.abort();
    }

    pub(crate) async fn close(self) {
        match &self.client {
            Client::V4(client) => client.disconnect().await.unwrap(),
            Client::V5(client) => client.disconnect().await.unwrap(),
        }
        let ended = timeout(PATIENCE, self.task).await;
        ended.expect("it ends in time").expect("it does not panic");
    }
}

fn start_v4(
    address: SocketAddr,
    (client_id, options): (&str, Options),
    ears: Ears,
) -> (Client, JoinHandle<()>) {
    let host = address.ip().to_string();
    let mut connect = v4::MqttOptions::new(client_id, host, address.port());
    connect.set_clean_session(!options.is_persistent);
    if let Some(topic) = options.will_topic {
        let will = v4::LastWill::new(topic, "the will", v4::QoS::AtLeastOnce, false);
        connect.set_last_will(will);
    }
    let (client, mut events) = v4::AsyncClient::new(connect, WAITING_MAX);
    let task = tokio::spawn(async move {
        // An error ends it: the library would connect to the same node again.
        while let Ok(event) = events.poll().await {
            if let v4::Event::Incoming(packet) = event {
                ears.hear(came_v4(packet)).await;
            }
        }
    });
    (Client::V4(client), task)
}

fn came_v4(packet: v4::Packet) -> Option<Came> {
    Some(match packet {
        v4::Packet::ConnAck(connack) => Came::Connected {
            session_present: connack.session_present,
        },
        v4::Packet::SubAck(suback) => Came::Subscribed {
            qos: match suback.return_codes[..] {
                [v4::SubscribeReasonCode::Success(qos)] => Some(qos as u8),
                _ => None,
            },
        },
        v4::Packet::PubAck(_) | v4::Packet::PubComp(_) => Came::Complete,
        v4::Packet::Publish(publish) => Came::Message(Message {
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            qos: publish.qos as u8,
            retain: publish.retain,
        }),
        _ => return None,
    })
}

fn start_v5(
    address: SocketAddr,
    (client_id, options): (&str, Options),
    ears: Ears,
) -> (Client, JoinHandle<()>) {
    let host = address.ip().to_string();
    let mut connect = v5::MqttOptions::new(client_id, host, address.port());
    connect.set_clean_start(!options.is_persistent);
    connect.set_session_expiry_interval(options.is_persistent.then_some(EXPIRY_S));
    if let Some(topic) = options.will_topic {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let will = v5_packets::LastWill::new(topic, "the will", qos, false, None);
        connect.set_last_will(will);
    }
    let (client, mut events) = v5::AsyncClient::new(connect, WAITING_MAX);
    let task = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let v5::Event::Incoming(packet) = event {
                ears.hear(came_v5(packet)).await;
            }
        }
    });
    (Client::V5(client), task)
}

fn came_v5(packet: v5_packets::Packet) -> Option<Came> {
    use v5_packets::Packet;
    Some(match packet {
        Packet::ConnAck(connack) => Came::Connected {
            session_present: connack.session_present,
        },
        Packet::SubAck(suback) => Came::Subscribed {
            qos: match suback.return_codes[..] {
                [v5_packets::SubscribeReasonCode::Success(qos)] => Some(qos as u8),
                _ => None,
            },
        },
        Packet::PubAck(_) | Packet::PubComp(_) => Came::Complete,
        Packet::Publish(publish) => Came::Message(Message {
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            qos: publish.qos as u8,
            retain: publish.retain,
        }),
        _ => return None,
    })
}

fn qos_v4(qos: u8) -> v4::QoS {
    v4::qos(qos).expect("0, 1 or 2")
}

fn qos_v5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).expect("0, 1 or 2")
}
