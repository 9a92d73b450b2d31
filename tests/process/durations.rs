//! How long a message takes from one client to another, as a node measures it.

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos};
use testkit::{Client, Cluster, ConnectOptions, NodeId, wait_until};

use crate::scene::{options, publisher};

const IN_TIME: Duration = Duration::from_secs(30);
const COUNT: &str = "holdfast_delivery_duration_seconds_count";
const SENT: &str = "holdfast_publish_sent_total";

async fn connect(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    let mut client = Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await;
    client.subscribe("t", Qos::ExactlyOnce).await;
    client
}

async fn next_message(client: &mut Client) {
    client
        .recv_until("PUBLISH", |packet| matches!(packet, Packet::Publish(_)))
        .await;
}

/// The node has sent so many messages at a QoS.
async fn sent(cluster: &Cluster, (node, qos): (NodeId, &str), count: f64) {
    wait_until("the messages are counted", IN_TIME, async || {
        cluster.metric(node, SENT, ("qos", qos)).await >= count
    })
    .await;
}

/// Clocks of nodes differ, so only what one node saw of both clients is measured; for stored sessions and
/// for those in memory.
#[tokio::test]
async fn a_delivery_is_measured_where_both_clients_are() {
    let name = "a_delivery_is_measured_where_both_clients_are";
    let cluster = Cluster::start(name, options()).await;
    let version = ProtocolVersion::V5;
    let mut stored = connect(&cluster, 1, &ConnectOptions::persistent("stored", version)).await;
    let mut passing = connect(&cluster, 1, &ConnectOptions::transient("passing", version)).await;
    let mut here = publisher(&cluster, 1, "here", version).await;
    let mut elsewhere = publisher(&cluster, 2, "elsewhere", version).await;
    for client in [&mut here, &mut elsewhere] {
        client.publish_qos1(1, "t", "m").await;
        next_message(&mut stored).await;
        next_message(&mut passing).await;
    }
    sent(&cluster, (1, "1"), 4.0).await;
    assert_eq!(cluster.metric(1, COUNT, ("qos", "1")).await, 2.0);
    assert_eq!(cluster.metric(2, COUNT, ("qos", "1")).await, 0.0);
    let sum = "holdfast_delivery_duration_seconds_sum";
    let sum = cluster.metric(1, sum, ("qos", "1")).await;
    assert!(sum > 0.0 && sum < IN_TIME.as_secs_f64(), "{sum}");
}

/// How long a client takes to acknowledge says nothing about the broker.
#[tokio::test]
async fn what_waited_for_the_clients_window_is_not_measured() {
    let name = "what_waited_for_the_clients_window_is_not_measured";
    let options = testkit::ClusterOptions {
        nodes: 1,
        ..options()
    };
    let cluster = Cluster::start(name, options).await;
    let version = ProtocolVersion::V5;
    let of_one = |options: ConnectOptions| ConnectOptions {
        receive_maximum: Some(1),
        ..options
    };
    let stored = of_one(ConnectOptions::persistent("stored", version));
    let passing = of_one(ConnectOptions::transient("passing", version));
    let mut readers = [
        connect(&cluster, 1, &stored).await,
        connect(&cluster, 1, &passing).await,
    ];
    let mut writer = publisher(&cluster, 1, "writer", version).await;
    writer.publish_qos1(1, "t", "at once").await;
    writer.publish_qos1(2, "t", "later").await;
    for reader in &mut readers {
        next_message(reader).await;
        reader.puback(1).await;
        next_message(reader).await;
    }
    sent(&cluster, (1, "1"), 4.0).await;
    assert_eq!(cluster.metric(1, COUNT, ("qos", "1")).await, 2.0);
}
