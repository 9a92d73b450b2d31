//! `$SYS/`: statistics of the whole cluster as retained messages, from whichever node leads shard 0.

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::client::delivery;
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, NodeId, Outgoing, VERSIONS, wait_until,
};

use crate::scene::{options, publisher, tag};

const IN_TIME: Duration = Duration::from_secs(30);

async fn cluster(name: &'static str) -> Cluster {
    let options = ClusterOptions {
        limits: "[sys_topics]\ninterval = \"1s\"",
        ..options()
    };
    Cluster::start(name, options).await
}

/// What a new subscriber of the topic is sent; the last value within a moment.
async fn value(cluster: &Cluster, node: NodeId, topic: &str) -> Option<String> {
    let options = ConnectOptions::transient("reader", ProtocolVersion::V5);
    let address = [cluster.mqtt(node)];
    let mut client = Client::connect_any(&address, &options, cluster.history()).await;
    client.send_subscribe(topic, Qos::AtMostOnce).await;
    // Retained messages follow the SUBACK.
    client
        .recv_until("SUBACK", |packet| matches!(packet, Packet::Suback(_)))
        .await;
    let received = client.commit_barrier().await;
    let message = received.iter().find_map(delivery)?;
    assert_eq!(message.topic, topic);
    Some(message.payload)
}

async fn wait_for(cluster: &Cluster, node: NodeId, topic: &str, is_wanted: impl Fn(&str) -> bool) {
    wait_until(topic, IN_TIME, async || {
        value(cluster, node, topic)
            .await
            .is_some_and(|text| is_wanted(&text))
    })
    .await;
}

/// Sums over all nodes, read through any node; they go on when the node that published them dies.
#[tokio::test]
async fn statistics_are_of_the_whole_cluster_and_outlive_their_publisher() {
    let name = "statistics_are_of_the_whole_cluster_and_outlive_their_publisher";
    let mut cluster = cluster(name).await;
    let mut publishers = Vec::new();
    for node in cluster.ids() {
        let version = ProtocolVersion::V5;
        let mut client = publisher(&cluster, node, &format!("p-{node}"), version).await;
        for id in 1..=7 {
            client.publish_qos1(id, "t", "x").await;
        }
        publishers.push(client);
    }
    for node in cluster.ids() {
        let least = |least: u64| move |text: &str| text.parse::<u64>().unwrap() >= least;
        let topic = "$SYS/broker/publish/messages/received";
        wait_for(&cluster, node, topic, least(21)).await;
        wait_for(&cluster, node, "$SYS/broker/clients/connected", least(3)).await;
        wait_for(&cluster, node, "$SYS/broker/bytes/received", least(100)).await;
        wait_for(&cluster, node, "$SYS/cluster/nodes", |text| text == "3").await;
        let topic = format!("$SYS/node/{node}/publish/messages/received");
        wait_for(&cluster, node, &topic, least(7)).await;
        let topic = "$SYS/broker/version";
        wait_for(&cluster, node, topic, |text| text.starts_with("holdfast ")).await;
        wait_for(&cluster, node, "$SYS/broker/uptime", |text| {
            text.ends_with(" seconds")
        })
        .await;
    }
    let leader = cluster.leaders().await[&0];
    cluster.kill(leader);
    let witness = cluster.others(leader)[0];
    wait_for(&cluster, witness, "$SYS/cluster/nodes", |text| text == "2").await;
    let topic = format!("$SYS/node/{leader}/up");
    wait_for(&cluster, witness, &topic, |text| text == "0").await;
}

/// Live subscribers get each change; `#` does not match [MQTT-4.7.2-1].
#[tokio::test]
async fn changes_are_published_and_wildcards_do_not_match() {
    let cluster = cluster("changes_are_published_and_wildcards_do_not_match").await;
    for version in VERSIONS {
        let name = format!("live-{}", tag(version));
        let mut client = publisher(&cluster, 2, &name, version).await;
        client
            .subscribe("$SYS/broker/uptime", Qos::AtLeastOnce)
            .await;
        let mut everything = publisher(&cluster, 3, &format!("all-{name}"), version).await;
        everything.subscribe("#", Qos::AtLeastOnce).await;
        everything
            .subscribe("+/broker/uptime", Qos::AtLeastOnce)
            .await;
        let mut last = String::new();
        for _ in 0..3 {
            let message = client.expect_publish().await;
            assert_eq!(message.qos, Qos::AtMostOnce);
            assert_ne!(message.payload, last);
            last = message.payload;
        }
        assert!(everything.commit_barrier().await.is_empty());
    }
}

/// Clients must not publish there: 5.0 is told, the others are not, and nobody gets it.
#[tokio::test]
async fn clients_do_not_publish_below_sys() {
    let cluster = cluster("clients_do_not_publish_below_sys").await;
    for version in VERSIONS {
        let mut subscriber = publisher(&cluster, 1, "subscriber", version).await;
        subscriber.subscribe("$SYS/mine", Qos::ExactlyOnce).await;
        let mut client = publisher(&cluster, 2, "publisher", version).await;
        let told = match version {
            ProtocolVersion::V5 => ReasonCode::NotAuthorized,
            ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::Success,
        };
        assert_eq!(client.publish_qos1(1, "$SYS/mine", "x").await, told);
        let exactly_once = Outgoing {
            id: 2,
            dup: false,
            qos: Qos::ExactlyOnce,
            topic: "$SYS/mine",
            payload: "x",
        };
        client.publish(&exactly_once).await;
        assert_eq!(client.expect_pubrec(2).await, told);
        let at_most_once = Outgoing {
            id: 0,
            qos: Qos::AtMostOnce,
            ..exactly_once
        };
        client.publish(&at_most_once).await;
        assert!(client.ping_barrier().await.is_empty());
        assert!(subscriber.commit_barrier().await.is_empty());
    }
}
