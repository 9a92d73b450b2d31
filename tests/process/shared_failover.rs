//! Shared subscriptions when nodes die (5.0 section 4.8.2; failover.md section 15): that of a member at
//! each step of a delivery, and that of the publisher.

use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos};
use testkit::{
    Client, Cluster, ConnectOptions, NodeId, Receiver, Sender, SenderOptions, VERSIONS,
    client_id_in_shard, oracle, wait_until,
};

use crate::exchange::Sent;
use crate::scene::{
    client_ids, leader_of_some, options, payloads, publisher, resent, spread_leaders, tag,
};
use crate::shared::{
    Case, IN_TIME, QOS_1_AND_2, connect, dropped, expect_publishes, good_member, got, got_in_all,
    half_way, member, publish_numbers, session, small_window,
};

/// [MQTT-4.8.2-4]: of a session that is resumed nobody else gets anything.
#[tokio::test]
async fn at_qos_2_a_member_that_comes_back_completes_what_it_had() {
    let name = "at_qos_2_a_member_that_comes_back_completes_what_it_had";
    let mut cluster = Cluster::start(name, small_window()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    // Its connection is lost; then its node.
    for killed in [false, true] {
        let mut halves = Vec::new();
        for (version, shard, id) in client_ids(&format!("s-back-{killed}"), cluster.shards()) {
            let options = ConnectOptions::persistent(&id, version);
            let topic = format!("s-back/{id}");
            let case = Case::new(topic.clone(), near, shard % 2 == 0);
            let half = half_way(&cluster, home, &options, &case).await;
            let other = ConnectOptions::transient(format!("{id}-other"), version);
            let other = good_member(&cluster, &[far], other, &topic).await;
            halves.push((options, half, other, topic));
        }
        if killed {
            cluster.kill(home);
        }
        for (options, half, other, topic) in halves {
            half.client.abandon();
            let mut client = connect(&cluster, near, &options).await;
            assert!(client.session_present(), "{}", options.client_id);
            let (first, second) = (&half.deliveries[0], &half.deliveries[1]);
            client.expect_pubrel(second.id).await;
            assert_eq!(client.expect_publish().await, resent(first));
            client.pubrec(first.id).await;
            client.pubcomp(second.id).await;
            client
                .recv_until("PUBREL", |packet| matches!(packet, Packet::Pubrel(_)))
                .await;
            client.pubcomp(first.id).await;
            other_got_nothing(&cluster, &other, near, &topic).await;
        }
    }
    cluster.restart_all().await;
}

/// A member got nothing of a topic so far: the next message comes first.
async fn other_got_nothing(cluster: &Cluster, other: &Receiver, node: NodeId, topic: &str) {
    let id = format!("{}-end", topic.replace('/', "-"));
    let mut source = publisher(cluster, node, &id, ProtocolVersion::V5).await;
    // The window of the first member may have room again: some go there.
    wait_until("the other member gets a message", IN_TIME, async || {
        source.publish_qos1(999, topic, "end").await;
        other
            .log()
            .messages
            .iter()
            .any(|message| message.payload == "end")
    })
    .await;
    assert_eq!(got(other), [""; 0], "{}", other.name());
}

/// How far a message has come when the node of its member is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Published,
    Received,
}

/// The node of a transient member is killed after PUBLISH was sent, or after PUBREC: at QoS 1 another
/// member gets the message, at QoS 2 nobody [MQTT-4.8.2-5].
#[tokio::test]
async fn when_the_node_of_a_member_dies_qos_1_goes_elsewhere_and_sent_qos_2_does_not() {
    let name = "when_the_node_of_a_member_dies_qos_1_goes_elsewhere_and_sent_qos_2_does_not";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let mut scenes = Vec::new();
    for version in VERSIONS {
        for (qos, step) in [
            (Qos::AtLeastOnce, Step::Published),
            (Qos::ExactlyOnce, Step::Published),
            (Qos::ExactlyOnce, Step::Received),
        ] {
            for persistent_source in [true, false] {
                let kind = format!(
                    "{}-{}-{step:?}-{persistent_source}",
                    tag(version),
                    qos.as_u8()
                );
                let topic = format!("s-node/{kind}");
                let options = ConnectOptions::transient(format!("s-node-{kind}"), version);
                let mut member = member(&cluster, home, &options, &topic).await;
                let from = session(persistent_source, &format!("s-node-{kind}-source"), version);
                let mut source = connect(&cluster, near, &from).await;
                let sent = publish_numbers(&mut source, qos, &topic, 3).await;
                for delivery in expect_publishes(&mut member, 3).await {
                    if step == Step::Received {
                        member.pubrec(delivery.id).await;
                        member.expect_pubrel(delivery.id).await;
                    }
                }
                let other = ConnectOptions::transient(format!("s-node-{kind}-other"), version);
                let other = good_member(&cluster, &[far], other, &topic).await;
                let moved = if qos == Qos::AtLeastOnce {
                    sent
                } else {
                    Vec::new()
                };
                scenes.push((member, source, other, topic, moved));
            }
        }
    }
    cluster.kill(home);
    // What was sent at QoS 2 by transient publishers.
    wait_until("what nobody else may get is counted", IN_TIME, async || {
        dropped(&cluster, "session_ended").await > 2.0 * 3.0 - 0.5
    })
    .await;
    for (_member, source, other, topic, moved) in &mut scenes {
        let got = got_in_all(other, source, topic, moved.len()).await;
        assert_eq!(got, *moved, "{topic}");
    }
}

/// The same before anything was sent to the member: its node sleeps, then is killed. QoS 1 and what is
/// in an outbox reach another member; a transient publisher's QoS 2 message reaches one at most.
#[tokio::test]
async fn what_did_not_reach_the_node_of_a_member_goes_elsewhere() {
    let name = "what_did_not_reach_the_node_of_a_member_goes_elsewhere";
    let mut cluster = Cluster::start(name, options()).await;
    let leaders = spread_leaders(&cluster).await;
    let home = leader_of_some(&leaders);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    // Of the persistent publishers: it has a leader while the node sleeps.
    let shard = leaders.iter().find(|(_, leader)| **leader != home);
    let shard = *shard.unwrap().0;
    let mut scenes = Vec::new();
    for version in VERSIONS {
        for qos in QOS_1_AND_2 {
            for persistent_source in [true, false] {
                let kind = format!("{}-{}-{persistent_source}", tag(version), qos.as_u8());
                let topic = format!("s-sleep/{kind}");
                let options = ConnectOptions::transient(format!("s-sleep-{kind}"), version);
                let member = member(&cluster, home, &options, &topic).await;
                let other = ConnectOptions::transient(format!("s-sleep-{kind}-other"), version);
                let other = good_member(&cluster, &[far], other, &topic).await;
                let id = format!("s-sleep-{kind}-source");
                let id = client_id_in_shard(&id, shard, cluster.shards());
                let from = session(persistent_source, &id, version);
                let source = connect(&cluster, near, &from).await;
                scenes.push(Scene {
                    _member: member,
                    source,
                    other,
                    topic,
                    qos,
                    persistent_source,
                });
            }
        }
    }
    cluster.suspend(home).await;
    // Some of them for the member that sleeps.
    const COUNT: u16 = 10;
    for scene in &mut scenes {
        for (id, payload) in (1..).zip(payloads(&scene.topic, 0..COUNT.into())) {
            let sent = Sent::new(&scene.topic, payload, scene.qos);
            scene.source.send(&sent.packet(id, false)).await;
        }
    }
    // A promise to a persistent publisher needs no member.
    for scene in &mut scenes {
        if scene.qos == Qos::ExactlyOnce && scene.persistent_source {
            scene.expect_acknowledged(COUNT).await;
        }
    }
    cluster.kill(home);
    for scene in &mut scenes {
        if scene.qos == Qos::AtLeastOnce || !scene.persistent_source {
            scene.expect_acknowledged(COUNT).await;
        }
        let certain = scene.qos == Qos::AtLeastOnce || scene.persistent_source;
        let wanted = if certain { usize::from(COUNT) } else { 0 };
        let got = got_in_all(&scene.other, &mut scene.source, &scene.topic, wanted).await;
        let mut sent = payloads(&scene.topic, 0..COUNT.into());
        if !certain {
            assert!(
                got.len() < sent.len(),
                "{}: none was on its way",
                scene.topic
            );
            sent.retain(|payload| got.contains(payload));
        }
        assert_eq!(got, sent, "{}", scene.topic);
    }
}

/// A publisher, and one of two members.
struct Scene {
    _member: Client,
    source: Client,
    other: Receiver,
    topic: String,
    qos: Qos,
    persistent_source: bool,
}

impl Scene {
    async fn expect_acknowledged(&mut self, count: u16) {
        for id in 1..=count {
            match self.qos {
                Qos::ExactlyOnce => self.source.expect_pubrec(id).await,
                Qos::AtLeastOnce | Qos::AtMostOnce => self.source.expect_puback(id).await,
            };
        }
    }
}

/// A publisher's node is killed under load, and with it the connections of some members: nothing
/// acknowledged is lost, nothing of QoS 2 reaches two members.
#[tokio::test]
async fn nothing_is_lost_or_doubled_when_a_node_with_publishers_and_members_is_killed() {
    let name = "nothing_is_lost_or_doubled_when_a_node_with_publishers_and_members_is_killed";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let nodes = [&[home], cluster.others(home).as_slice()].concat();
    let mut members = Vec::new();
    for (number, version) in VERSIONS.into_iter().cycle().take(4).enumerate() {
        // Those on the node that is killed come back.
        let mut order = nodes.clone();
        order.rotate_left(number % nodes.len());
        let id = format!("s-load-persistent-{number}");
        let options = ConnectOptions::persistent(id, version);
        members.push(good_member(&cluster, &order, options, "s-load/#").await);
    }
    for node in &nodes[1..] {
        let id = format!("s-load-transient-{node}");
        let options = ConnectOptions::transient(id, ProtocolVersion::V5);
        members.push(good_member(&cluster, &[*node], options, "s-load/#").await);
    }
    let mut senders = Vec::new();
    for (version, shard, client_id) in client_ids("s-load-source", cluster.shards()) {
        let mut order = nodes.clone();
        // Half of them on the node that is killed.
        order.rotate_left(usize::from(shard % 2));
        let qos = QOS_1_AND_2[usize::from(shard / 2 % 2)];
        let options = SenderOptions {
            topic: format!("s-load/{client_id}"),
            connect: ConnectOptions::persistent(client_id, version),
            addresses: order.iter().map(|node| cluster.mqtt(*node)).collect(),
            qos,
            in_flight_max: 10,
            interval: Duration::from_millis(10),
            count: None,
        };
        senders.push((qos, Sender::start(options, cluster.history()).await));
    }
    let progress = async |count: usize| {
        for (_, sender) in &senders {
            let until = sender.log().acknowledged.len() + count;
            sender.wait_acknowledged(until, IN_TIME).await;
        }
    };
    progress(50).await;
    cluster.kill(home);
    progress(50).await;
    for (qos, sender) in senders {
        let name = sender.name().to_owned();
        let log = sender.finish().await;
        assert_eq!(log.violations, [""; 0], "{name}");
        let union = || {
            let seen = members.iter().flat_map(|member| member.sequence(&name));
            let mut seen: Vec<u64> = seen.collect();
            seen.sort_unstable();
            seen
        };
        let wanted = match qos {
            Qos::ExactlyOnce => (0..log.begun).collect(),
            Qos::AtLeastOnce | Qos::AtMostOnce => log.acknowledged.clone(),
        };
        wait_until(&format!("all of {name} has come"), IN_TIME, async || {
            let seen = union();
            wanted
                .iter()
                .all(|number| seen.binary_search(number).is_ok())
        })
        .await;
        if qos == Qos::ExactlyOnce {
            assert_eq!(oracle::exactly_once(&union(), log.begun), Ok(()), "{name}");
        }
    }
    for member in &members {
        assert_eq!(member.log().violations, [""; 0], "{}", member.name());
    }
}
