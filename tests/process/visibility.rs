//! G5: after SUBACK, a PUBLISH that any node then starts to process matches the subscription: also
//! with a node that sleeps, is dead, has just come back, or hears only one way.

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos, ReasonCode};
use testkit::client::RecvError;
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, NodeId, Outgoing, VERSIONS, let_pass, report,
};

use crate::exchange::{Sent, take};
use crate::scene::{options, publisher, tag};

/// Kinds of sessions: version, whether it is persistent.
const KINDS: [(ProtocolVersion, bool); 4] = [
    (ProtocolVersion::V311, true),
    (ProtocolVersion::V311, false),
    (ProtocolVersion::V5, true),
    (ProtocolVersion::V5, false),
];
/// Until a publisher on a node that was cut off gives up.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

fn session(kind: (ProtocolVersion, bool), id: String) -> ConnectOptions {
    match kind {
        (version, true) => ConnectOptions::persistent(id, version),
        (version, false) => ConnectOptions::transient(id, version),
    }
}

/// A publisher per node, in turn of both versions.
async fn publishers(cluster: &Cluster, nodes: &[NodeId], prefix: &str) -> Vec<(NodeId, Client)> {
    let mut publishers = Vec::new();
    for node in nodes {
        let version = VERSIONS[usize::from(node % 2)];
        let id = format!("{prefix}-source-{node}");
        publishers.push((*node, publisher(cluster, *node, &id, version).await));
    }
    publishers
}

/// Subscribes and says so.
async fn subscribed(
    cluster: &Cluster,
    node: NodeId,
    kind: (ProtocolVersion, bool),
    topic: &str,
) -> Client {
    let (version, persistent) = kind;
    let id = format!("{}-{}-{persistent}", topic.replace('/', "-"), tag(version));
    let address = [cluster.mqtt(node)];
    let mut client = Client::connect_any(&address, &session(kind, id), cluster.history()).await;
    client.subscribe(topic, Qos::AtLeastOnce).await;
    client
}

/// Each of the publishers publishes at once, and the subscriber gets all of it.
async fn expect_seen(client: &mut Client, publishers: &mut [(NodeId, Client)], topic: &str) {
    for (node, publisher) in publishers.iter_mut() {
        let payload = format!("from {node}");
        let reason = publisher.publish_qos1(1, topic, &payload).await;
        assert_eq!(
            reason,
            ReasonCode::Success,
            "{topic}: node {node} knew nobody"
        );
    }
    let messages = take(client, publishers.len()).await;
    assert_eq!(messages.len(), publishers.len(), "{topic}");
}

/// One round: a subscriber of each kind on every one of `nodes`.
async fn round(
    cluster: &Cluster,
    nodes: &[NodeId],
    publishers: &mut [(NodeId, Client)],
    prefix: &str,
) {
    for node in nodes {
        for kind in KINDS {
            let topic = format!("{prefix}/{node}/{}-{}", tag(kind.0), kind.1);
            let mut client = subscribed(cluster, *node, kind, &topic).await;
            expect_seen(&mut client, publishers, &topic).await;
            client.disconnect().await;
        }
    }
}

const ROUNDS: u32 = 10;

#[tokio::test]
async fn a_subscription_is_seen_by_every_node_once_it_is_acknowledged() {
    let name = "a_subscription_is_seen_by_every_node_once_it_is_acknowledged";
    let cluster = Cluster::start(name, options()).await;
    let nodes = cluster.ids();
    let mut publishers = publishers(&cluster, &nodes, "v").await;
    for number in 0..ROUNDS * testkit::scale() {
        round(&cluster, &nodes, &mut publishers, &format!("v/{number}")).await;
    }
}

#[tokio::test]
async fn a_subscription_is_seen_while_a_node_is_dead_and_when_it_is_back() {
    let name = "a_subscription_is_seen_while_a_node_is_dead_and_when_it_is_back";
    let mut cluster = Cluster::start(name, options()).await;
    for victim in cluster.ids() {
        let rest = cluster.others(victim);
        let prefix = format!("vd/{victim}");
        let mut living = publishers(&cluster, &rest, &format!("vd-{victim}")).await;
        let mut before = Vec::new();
        for kind in KINDS {
            let topic = format!("{prefix}/before/{}-{}", tag(kind.0), kind.1);
            before.push((subscribed(&cluster, rest[0], kind, &topic).await, topic));
        }
        cluster.kill(victim);
        round(&cluster, &rest, &mut living, &prefix).await;
        cluster.restart_all().await;
        // What was subscribed while it was dead, and before.
        let mut back = publishers(&cluster, &[victim], &format!("vd-back-{victim}")).await;
        for (client, topic) in &mut before {
            expect_seen(client, &mut back, topic).await;
        }
        let all = cluster.ids();
        living.append(&mut back);
        round(&cluster, &all, &mut living, &format!("{prefix}/back")).await;
    }
}

/// Publishes without waiting: nobody may be reading.
async fn write(publisher: &mut Client, topic: &str) {
    let outgoing = Outgoing {
        id: 2,
        dup: false,
        qos: Qos::AtLeastOnce,
        topic,
        payload: "late",
    };
    publisher.publish(&outgoing).await;
}

/// Whether a message that was written was acknowledged; then somebody must have matched.
async fn is_acknowledged(publisher: &mut Client, topic: &str) -> bool {
    loop {
        match publisher.recv_within(ANSWER_WITHIN).await {
            Ok(Packet::Puback(ack)) => {
                assert_eq!(
                    ack.reason_code,
                    ReasonCode::Success,
                    "{topic}: it knew nobody"
                );
                return true;
            }
            Ok(Packet::Disconnect(_)) => {}
            Ok(other) => panic!("unexpected {other:?}"),
            Err(RecvError::Closed) => return false,
            Err(error) => panic!("{topic}: {error:?}"),
        }
    }
}

/// While `node` sleeps there are subscriptions on the others; what its clients wrote meanwhile is
/// processed after it wakes, so after these SUBACKs.
async fn sleep_and_publish(cluster: &mut Cluster, node: NodeId, duration: Duration) -> usize {
    let rest = cluster.others(node);
    let prefix = format!("vs/{node}-{}", duration.as_millis());
    let name = prefix.replace('/', "-");
    let mut living = publishers(cluster, &rest[..1], &name).await;
    let mut inside = Vec::new();
    for number in 0..KINDS.len() {
        let version = VERSIONS[number % 2];
        let id = format!("{name}-inside-{number}");
        inside.push(publisher(cluster, node, &id, version).await);
    }
    cluster.suspend(node).await;
    let began = std::time::Instant::now();
    let mut subscribers = Vec::new();
    for (kind, inside) in KINDS.into_iter().zip(&mut inside) {
        let topic = format!("{prefix}/{}-{}", tag(kind.0), kind.1);
        let mut client = subscribed(cluster, rest[1], kind, &topic).await;
        write(inside, &topic).await;
        expect_seen(&mut client, &mut living, &topic).await;
        subscribers.push((client, topic));
    }
    let_pass(duration.saturating_sub(began.elapsed())).await;
    cluster.wake(node);
    let mut acknowledged = 0;
    for ((client, topic), inside) in subscribers.iter_mut().zip(&mut inside) {
        if is_acknowledged(inside, topic).await {
            acknowledged += 1;
            assert_eq!(take(client, 1).await.len(), 1, "{topic}");
        }
    }
    cluster.wait_ready().await;
    acknowledged
}

#[tokio::test]
async fn a_subscription_is_seen_while_a_node_sleeps_and_when_it_wakes() {
    let name = "a_subscription_is_seen_while_a_node_sleeps_and_when_it_wakes";
    let mut cluster = Cluster::start(name, options()).await;
    for (node, millis) in [(3, 0), (1, 0), (2, 1_500), (3, 6_500)] {
        let duration = Duration::from_millis(millis);
        let acknowledged = sleep_and_publish(&mut cluster, node, duration).await;
        report(&format!(
            "{name}: node {node}, at least {millis} ms: {acknowledged} of {} acknowledged after it woke",
            KINDS.len()
        ));
    }
}

/// Subscribes at `from` while something is wrong between it and `to`, and publishes at `to` at once.
/// Returns whether `to` acknowledged that.
async fn seen_across(cluster: &Cluster, from: NodeId, to: NodeId, prefix: &str) -> usize {
    let third = cluster
        .others(from)
        .into_iter()
        .find(|id| *id != to)
        .unwrap();
    let mut acknowledged = 0;
    for kind in KINDS {
        let topic = format!("{prefix}/{}-{}", tag(kind.0), kind.1);
        let id = format!("{}-{}-{}", prefix.replace('/', "-"), tag(kind.0), kind.1);
        // On the node that may not hear of it; if that is out of service, on the third.
        let addresses = [cluster.mqtt(to), cluster.mqtt(third)];
        let options = ConnectOptions::transient(format!("{id}-source"), kind.0);
        let mut source = Client::connect_any(&addresses, &options, cluster.history()).await;
        // Likewise.
        let addresses = [cluster.mqtt(from), cluster.mqtt(third)];
        let options = session(kind, id);
        let mut client = Client::connect_any(&addresses, &options, cluster.history()).await;
        let packet_id = client.send_subscribe(&topic, Qos::AtLeastOnce).await;
        match client.recv_within(ANSWER_WITHIN).await {
            Ok(Packet::Suback(suback)) if suback.packet_id.get() == packet_id => {}
            Ok(Packet::Disconnect(_)) | Err(RecvError::Closed) => continue,
            other => panic!("{topic}: {other:?} instead of SUBACK"),
        }
        write(&mut source, &topic).await;
        if !is_acknowledged(&mut source, &topic).await {
            continue;
        }
        match client.recv_within(ANSWER_WITHIN).await {
            Ok(Packet::Publish(publish)) => {
                assert_eq!(publish.payload, "late");
                acknowledged += 1;
            }
            // Its own node went out of service: a persistent session gets it elsewhere.
            Ok(Packet::Disconnect(_)) | Err(RecvError::Closed) => {
                if options.is_persistent() {
                    let addresses = cluster.mqtt_from(third);
                    client = Client::connect_any(&addresses, &options, cluster.history()).await;
                    assert_eq!(take(&mut client, 1).await.len(), 1, "{topic}");
                    acknowledged += 1;
                }
            }
            other => panic!("{topic}: {other:?} instead of the message"),
        }
    }
    acknowledged
}

#[tokio::test]
async fn a_subscription_is_seen_across_one_way_cuts() {
    let name = "a_subscription_is_seen_across_one_way_cuts";
    let mut cluster = Cluster::start(
        name,
        ClusterOptions {
            proxied: true,
            ..options()
        },
    )
    .await;
    let mut total = 0;
    for (number, (from, to)) in [(1, 2), (2, 1), (3, 1), (2, 3)].into_iter().enumerate() {
        for wrong in ["stall", "cut"] {
            match wrong {
                "stall" => cluster.stall(from, to),
                _ => cluster.cut(from, to),
            }
            let prefix = format!("vc/{number}-{wrong}");
            let acknowledged = seen_across(&cluster, from, to, &prefix).await;
            report(&format!(
                "{name}: {wrong} {from} -> {to}: {acknowledged} of {} seen",
                KINDS.len()
            ));
            total += acknowledged;
            cluster.heal();
            cluster.wait_ready().await;
        }
    }
    assert!(total >= 8, "next to nothing was acknowledged: {total}");
    // Healed: everything works at once.
    let mut source = publisher(&cluster, 1, "vc-end", ProtocolVersion::V5).await;
    let mut client = subscribed(&cluster, 2, KINDS[2], "vc/end").await;
    Sent::new("vc/end", "end", Qos::AtLeastOnce)
        .publish(&mut source, 1)
        .await;
    assert_eq!(take(&mut client, 1).await.len(), 1);
}
