//! Enhanced authentication (5.0, section 4.12) with SCRAM-SHA-256, by a client of `rsasl`, which also
//! checks that the broker knows the password.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use codec::{
    Auth, Connack, Connect, Disconnect, Message, MessageProperties, Packet, ProtocolVersion, Qos,
    ReasonCode, TopicName, Utf8, Will,
};
use rsasl::prelude::{Mechname, SASLClient, SASLConfig, Session};
use testkit::client::RecvError;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, NodeId, Outgoing};

use crate::scene::options;

const METHOD: &str = "SCRAM-SHA-256";
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// A node or three where only `alice` and `bob` may connect, both with the password `pencil`.
async fn cluster(name: &'static str, nodes: u16) -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    // Removed with the machine's other temporary files: the nodes read it once more when they restart.
    let path = folder.keep().join("scram.txt");
    for user in ["alice", "bob"] {
        hash_password(&["--user", user, "--append", path.to_str().unwrap()]);
    }
    let auth = format!("scram_file = \"{}\"\nanonymous = false", path.display());
    let options = ClusterOptions {
        nodes,
        auth,
        ..options()
    };
    Cluster::start(name, options).await
}

/// `holdfast hash-password --scram`; what it prints.
fn hash_password(arguments: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["hash-password", "--scram"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"pencil\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn utf8(text: &str) -> Utf8 {
    Utf8::try_from(text).unwrap()
}

/// The client's side of one exchange.
pub(crate) struct Scram(Session);

impl Scram {
    pub(crate) fn new(user: &str, password: &str) -> Self {
        let config =
            SASLConfig::with_credentials(None, user.to_owned(), password.to_owned()).unwrap();
        let method = Mechname::parse(METHOD.as_bytes()).unwrap();
        Self(SASLClient::new(config).start_suggested(&[method]).unwrap())
    }

    pub(crate) fn step(&mut self, data: Option<&[u8]>) -> Bytes {
        let mut answer = Vec::new();
        self.0
            .step(data, &mut answer)
            .expect("the broker is genuine");
        answer.into()
    }
}

pub(crate) fn connect(client_id: &str, data: Option<Bytes>) -> Connect {
    Connect {
        authentication_method: Some(utf8(METHOD)),
        authentication_data: data,
        ..ConnectOptions::persistent(client_id, ProtocolVersion::V5).packet()
    }
}

pub(crate) fn auth(reason_code: ReasonCode, data: Bytes) -> Packet {
    Packet::Auth(Auth {
        reason_code,
        authentication_method: Some(utf8(METHOD)),
        authentication_data: Some(data),
        ..Auth::default()
    })
}

async fn open(cluster: &Cluster, node: NodeId, name: &str) -> Client {
    let version = ProtocolVersion::V5;
    let opened = Client::open(cluster.mqtt(node), name, version, cluster.history()).await;
    opened.unwrap()
}

/// Sends CONNECT, and answers with `password` what it is asked.
pub(crate) async fn exchange(client: &mut Client, connect: Connect, mut scram: Scram) -> Connack {
    client.send(&Packet::Connect(Box::new(connect))).await;
    let challenge = expect_challenge(client).await;
    let proof = scram.step(Some(&challenge));
    client
        .send(&auth(ReasonCode::ContinueAuthentication, proof))
        .await;
    let connack = expect_connack(client).await;
    if connack.reason_code == ReasonCode::Success {
        // [MQTT-4.12.0-5]
        assert_eq!(connack.authentication_method, Some(utf8(METHOD)));
        scram.step(connack.authentication_data.as_deref());
    }
    connack
}

/// AUTH with 0x18 [MQTT-4.12.0-2] and the method of CONNECT [MQTT-4.12.0-5].
pub(crate) async fn expect_challenge(client: &mut Client) -> Bytes {
    let auth = client
        .expect("AUTH", |packet| match packet {
            Packet::Auth(auth) => Some(auth.clone()),
            _ => None,
        })
        .await;
    assert_eq!(auth.reason_code, ReasonCode::ContinueAuthentication);
    assert_eq!(auth.authentication_method, Some(utf8(METHOD)));
    auth.authentication_data.unwrap_or_default()
}

async fn expect_connack(client: &mut Client) -> Connack {
    client
        .expect("CONNACK", |packet| match packet {
            Packet::Connack(connack) => Some((**connack).clone()),
            _ => None,
        })
        .await
}

async fn expect_refused(client: &mut Client, reason_code: ReasonCode) {
    assert_eq!(expect_connack(client).await.reason_code, reason_code);
    assert!(client.expect_closed(CLOSED_WITHIN).await.is_empty());
}

/// DISCONNECT with this reason, then the end.
async fn expect_disconnected(client: &mut Client, reason_code: ReasonCode) {
    let before = client.expect_closed(CLOSED_WITHIN).await;
    let [Packet::Disconnect(disconnect)] = before.as_slice() else {
        panic!("{before:?} before the close")
    };
    assert_eq!(disconnect.reason_code, reason_code);
}

/// Connected as `alice`, with a will on `will/CLIENT_ID`.
async fn alice(cluster: &Cluster, node: NodeId, client_id: &str) -> Client {
    let mut scram = Scram::new("alice", "pencil");
    let topic = format!("will/{client_id}");
    let connect = Connect {
        will: Some(Will {
            message: Message {
                topic: TopicName::try_from(topic.as_str()).unwrap(),
                payload: Bytes::from_static(b"gone"),
                qos: Qos::AtLeastOnce,
                retain: false,
                properties: MessageProperties::default(),
            },
            delay_interval_s: 0,
        }),
        ..connect(client_id, Some(scram.step(None)))
    };
    let mut client = open(cluster, node, client_id).await;
    let connack = exchange(&mut client, connect, scram).await;
    assert_eq!(connack.reason_code, ReasonCode::Success);
    client
}

/// Whoever knows the password may connect, to any node; with data in CONNECT or without.
#[tokio::test]
async fn a_client_that_knows_its_password_is_admitted() {
    let name = "a_client_that_knows_its_password_is_admitted";
    let cluster = cluster(name, 3).await;
    for node in cluster.ids() {
        drop(alice(&cluster, node, "alice-1").await);
        // The client speaks first, if only after it was asked to.
        let mut client = open(&cluster, node, "bob-1").await;
        client
            .send(&Packet::Connect(Box::new(connect("bob-1", None))))
            .await;
        assert!(expect_challenge(&mut client).await.is_empty());
        let mut scram = Scram::new("bob", "pencil");
        let first = scram.step(None);
        client
            .send(&auth(ReasonCode::ContinueAuthentication, first))
            .await;
        let challenge = expect_challenge(&mut client).await;
        let proof = scram.step(Some(&challenge));
        client
            .send(&auth(ReasonCode::ContinueAuthentication, proof))
            .await;
        let connack = expect_connack(&mut client).await;
        assert_eq!(connack.reason_code, ReasonCode::Success);
        scram.step(connack.authentication_data.as_deref());
    }
}

/// Everybody else is refused with the reason, and the connection is closed.
#[tokio::test]
async fn whoever_cannot_show_who_he_is_is_refused() {
    let cluster = cluster("whoever_cannot_show_who_he_is_is_refused", 1).await;
    for (user, password) in [("alice", "ink"), ("carol", "pencil")] {
        let mut scram = Scram::new(user, password);
        let connect = connect("x", Some(scram.step(None)));
        let mut client = open(&cluster, 1, "x").await;
        let connack = exchange(&mut client, connect, scram).await;
        assert_eq!(connack.reason_code, ReasonCode::NotAuthorized);
        assert!(client.expect_closed(CLOSED_WITHIN).await.is_empty());
    }
    // Another method, none at all, and what is not SCRAM.
    for (method, data, reason_code) in [
        (Some("X-UNKNOWN"), None, ReasonCode::BadAuthenticationMethod),
        (
            Some("scram-sha-256"),
            None,
            ReasonCode::BadAuthenticationMethod,
        ),
        (None, None, ReasonCode::NotAuthorized),
        (Some(METHOD), Some("nonsense"), ReasonCode::NotAuthorized),
    ] {
        let connect = Connect {
            authentication_method: method.map(utf8),
            authentication_data: data.map(|data| Bytes::from_static(data.as_bytes())),
            ..connect("x", None)
        };
        let mut client = open(&cluster, 1, "x").await;
        client.send(&Packet::Connect(Box::new(connect))).await;
        expect_refused(&mut client, reason_code).await;
    }
}

/// Between CONNECT and CONNACK there is only AUTH that continues, with the same method
/// [MQTT-3.1.2-30, 4.12.0-3, 4.12.0-5].
#[tokio::test]
async fn an_exchange_that_leaves_the_rules_is_refused() {
    let cluster = cluster("an_exchange_that_leaves_the_rules_is_refused", 1).await;
    let other_method = Packet::Auth(Auth {
        reason_code: ReasonCode::ContinueAuthentication,
        authentication_method: Some(utf8("X")),
        ..Auth::default()
    });
    let publish = Outgoing {
        id: 1,
        dup: false,
        qos: Qos::AtLeastOnce,
        topic: "t",
        payload: "x",
    };
    for packet in [
        other_method,
        auth(ReasonCode::ReAuthenticate, Bytes::new()),
        Packet::Publish(publish.packet()),
        Packet::Pingreq,
    ] {
        let mut scram = Scram::new("alice", "pencil");
        let connect = connect("x", Some(scram.step(None)));
        let mut client = open(&cluster, 1, "x").await;
        client.send(&Packet::Connect(Box::new(connect))).await;
        expect_challenge(&mut client).await;
        client.send(&packet).await;
        expect_refused(&mut client, ReasonCode::ProtocolError).await;
    }
    // Who leaves is told nothing.
    let mut scram = Scram::new("alice", "pencil");
    let mut client = open(&cluster, 1, "x").await;
    let connect = connect("x", Some(scram.step(None)));
    client.send(&Packet::Connect(Box::new(connect))).await;
    expect_challenge(&mut client).await;
    let goodbye = Disconnect::new(ReasonCode::Success);
    client.send(&Packet::Disconnect(goodbye)).await;
    assert!(client.expect_closed(CLOSED_WITHIN).await.is_empty());
}

/// Who fails takes over nobody's connection [MQTT-3.1.4-2].
#[tokio::test]
async fn a_failed_authentication_takes_over_nothing() {
    let cluster = cluster("a_failed_authentication_takes_over_nothing", 3).await;
    let mut genuine = alice(&cluster, 1, "alice-1").await;
    for node in cluster.ids() {
        let mut scram = Scram::new("alice", "ink");
        let connect = Connect {
            clean_start: true,
            ..connect("alice-1", Some(scram.step(None)))
        };
        let mut client = open(&cluster, node, "alice-1").await;
        let connack = exchange(&mut client, connect, scram).await;
        assert_eq!(connack.reason_code, ReasonCode::NotAuthorized);
    }
    assert!(genuine.ping_barrier().await.is_empty());
}

/// AUTH 0x19 on an open connection; everything else goes on meanwhile (section 4.12.1).
#[tokio::test]
async fn a_connected_client_authenticates_again() {
    let cluster = cluster("a_connected_client_authenticates_again", 1).await;
    let mut client = alice(&cluster, 1, "alice-1").await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    for _ in 0..2 {
        let mut scram = Scram::new("alice", "pencil");
        let first = scram.step(None);
        client.send(&auth(ReasonCode::ReAuthenticate, first)).await;
        let challenge = expect_challenge(&mut client).await;
        let publish = Outgoing {
            id: 1,
            dup: false,
            qos: Qos::AtLeastOnce,
            topic: "t",
            payload: "meanwhile",
        };
        client.send(&Packet::Publish(publish.packet())).await;
        let mut received = 0;
        while received < 2 {
            match client.recv().await.unwrap() {
                Packet::Puback(_) => received += 1,
                Packet::Publish(publish) => {
                    received += 1;
                    let id = publish.packet_id.unwrap();
                    client.puback(id.get()).await;
                }
                other => panic!("{other:?}"),
            }
        }
        let proof = scram.step(Some(&challenge));
        client
            .send(&auth(ReasonCode::ContinueAuthentication, proof))
            .await;
        let done = client
            .expect("AUTH", |packet| match packet {
                Packet::Auth(auth) => Some(auth.clone()),
                _ => None,
            })
            .await;
        assert_eq!(done.reason_code, ReasonCode::Success);
        assert_eq!(done.authentication_method, Some(utf8(METHOD)));
        scram.step(done.authentication_data.as_deref());
    }
    assert!(client.ping_barrier().await.is_empty());
}

/// A failed one closes the connection [MQTT-4.12.1-2], and its will is published.
#[tokio::test]
async fn a_client_that_fails_to_authenticate_again_is_closed() {
    let name = "a_client_that_fails_to_authenticate_again_is_closed";
    let cluster = cluster(name, 1).await;
    let mut witness = alice(&cluster, 1, "witness").await;
    witness.subscribe("will/+", Qos::AtMostOnce).await;
    // Another user's password is right, and the session is not that user's.
    for (user, password) in [("alice", "ink"), ("bob", "pencil")] {
        let mut client = alice(&cluster, 1, "alice-1").await;
        let mut scram = Scram::new(user, password);
        let first = scram.step(None);
        client.send(&auth(ReasonCode::ReAuthenticate, first)).await;
        let challenge = expect_challenge(&mut client).await;
        let proof = scram.step(Some(&challenge));
        client
            .send(&auth(ReasonCode::ContinueAuthentication, proof))
            .await;
        expect_disconnected(&mut client, ReasonCode::NotAuthorized).await;
        assert_eq!(witness.expect_publish().await.topic, "will/alice-1");
    }
    // What is not such an exchange [MQTT-4.12.1-1].
    let other_method = Packet::Auth(Auth {
        reason_code: ReasonCode::ReAuthenticate,
        authentication_method: Some(utf8("X")),
        ..Auth::default()
    });
    for packet in [
        other_method,
        auth(ReasonCode::ContinueAuthentication, Bytes::new()),
    ] {
        let mut client = alice(&cluster, 1, "alice-1").await;
        client.send(&packet).await;
        expect_disconnected(&mut client, ReasonCode::ProtocolError).await;
        assert_eq!(witness.expect_publish().await.topic, "will/alice-1");
    }
    let closed = witness.recv_within(Duration::ZERO).await;
    assert_eq!(closed.unwrap_err(), RecvError::Silent);
}
