//! What MQTT is carried by: TLS, WebSocket, Unix sockets, and PROXY headers in front of them. One node
//! each, with real sockets; clients of other people are in `interop`.

mod access;
mod clients;
mod proxy;
mod tls;
mod unix;
mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use codec::ProtocolVersion;
use testkit::ports::Port;
use testkit::{Client, Cluster, ClusterOptions, ConnectOptions, Outgoing, wait_until};

use crate::scene::options;

const VERSION: ProtocolVersion = ProtocolVersion::V5;
const IN_TIME: Duration = Duration::from_secs(30);

/// One node with further listeners.
async fn node(name: &'static str, listeners: String) -> Cluster {
    node_with(name, listeners, "anonymous = \"loopback\"").await
}

async fn node_with(name: &'static str, listeners: String, auth: &str) -> Cluster {
    let options = ClusterOptions {
        nodes: 1,
        listeners,
        auth: auth.to_owned(),
        ..options()
    };
    Cluster::start(name, options).await
}

/// A `[[listener]]` on a port of its own, called after its kind.
fn listener(kind: &str, port: &Port, lines: &str) -> String {
    let address = port.address();
    format!("\n[[listener]]\nname = \"{kind}\"\nkind = \"{kind}\"\nbind = \"{address}\"\n{lines}\n")
}

fn transient(client_id: &str) -> ConnectOptions {
    ConnectOptions::transient(client_id, VERSION)
}

async fn tcp(address: SocketAddr) -> tokio::net::TcpStream {
    tokio::net::TcpStream::connect(address).await.unwrap()
}

/// A message of QoS 1 from one to the other, larger than any buffer between them.
async fn exchange(from: &mut Client, to: &mut Client) {
    to.subscribe("transport/#", codec::Qos::AtLeastOnce).await;
    let payload = "0123456789abcdef".repeat(50_000);
    let large = Outgoing {
        id: 1,
        dup: false,
        qos: codec::Qos::AtLeastOnce,
        topic: "transport/large",
        payload: &payload,
    };
    from.publish(&large).await;
    let (acknowledged, delivery) = tokio::join!(from.expect_puback(1), to.expect_publish());
    assert_eq!(acknowledged, codec::ReasonCode::Success);
    assert!(delivery.payload == payload, "another payload arrived");
    to.puback(delivery.id).await;
    to.ping_barrier().await;
}

/// Connections that a listener did not admit, by reason.
async fn rejected(cluster: &Cluster, listener: &str, reason: &str) -> f64 {
    let samples = cluster.metrics(1).await;
    let wanted = samples.iter().filter(|sample| {
        sample.name == "holdfast_connections_rejected_total"
            && sample.labels["listener"] == listener
            && sample.labels["reason"] == reason
    });
    wanted.map(|sample| sample.value).sum()
}

async fn expect_rejected(cluster: &Cluster, listener: &str, reason: &str, times: u32) {
    let what = format!("{times} rejected on {listener} for {reason}");
    wait_until(&what, IN_TIME, async || {
        rejected(cluster, listener, reason).await >= f64::from(times)
    })
    .await;
    assert!(rejected(cluster, listener, reason).await <= f64::from(times));
}

/// Who connects and then says nothing is closed when `mqtt.connect_timeout` is over, on whatever.
#[tokio::test]
async fn a_handshake_that_takes_too_long_is_broken_off() {
    use tokio::io::AsyncReadExt as _;

    let folder = tempfile::tempdir().unwrap();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let [tls, ws, proxied] = &ports;
    let files = tls::Files::new(folder.path());
    let lines = [
        listener("mqtts", tls, &files.server()),
        listener("ws", ws, ""),
        listener("mqtt", proxied, "proxy_protocol = \"v1v2\""),
        "\n[mqtt]\nconnect_timeout = \"1s\"\n".to_owned(),
    ];
    let name = "a_handshake_that_takes_too_long_is_broken_off";
    let cluster = node(name, lines.concat()).await;
    for (port, kind) in [(tls, "mqtts"), (ws, "ws"), (proxied, "mqtt")] {
        let mut stream = tcp(port.address()).await;
        let mut rest = Vec::new();
        tokio::time::timeout(IN_TIME, stream.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert!(rest.is_empty(), "{kind}");
        expect_rejected(&cluster, kind, "connect_timeout", 1).await;
    }
}
