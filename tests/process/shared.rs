//! Shared subscriptions (5.0 section 4.8.2): each message to one member, on both planes and across
//! nodes; what becomes of it when the member is gone. 3.1.1 clients may be members. Nodes die in
//! `shared_failover`.

use std::time::Duration;

use codec::{ProtocolVersion, Qos, ReasonCode};
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, Delivery, NodeId, Receiver, VERSIONS,
    client_id_in_shard, wait_until,
};

use crate::exchange::{Sent, take, texts};
use crate::scene::{options, payloads, publish_all, publisher, tag};

pub(crate) const IN_TIME: Duration = Duration::from_secs(30);
/// Of sessions that are to end soon after their connection.
const SHORT_EXPIRY_S: u32 = 1;
pub(crate) const QOS_1_AND_2: [Qos; 2] = [Qos::AtLeastOnce, Qos::ExactlyOnce];

pub(crate) async fn connect(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await
}

/// The group of a topic.
fn shared(topic: &str) -> String {
    format!("$share/group/{topic}")
}

pub(crate) fn session(persistent: bool, id: &str, version: ProtocolVersion) -> ConnectOptions {
    match persistent {
        true => ConnectOptions::persistent(id, version),
        false => ConnectOptions::transient(id, version),
    }
}

/// A member that does what the test says.
pub(crate) async fn member(
    cluster: &Cluster,
    node: NodeId,
    options: &ConnectOptions,
    topic: &str,
) -> Client {
    let mut client = connect(cluster, node, options).await;
    client.subscribe(&shared(topic), Qos::ExactlyOnce).await;
    client
}

/// A member that acknowledges everything, and connects to the next of these nodes when it must.
pub(crate) async fn good_member(
    cluster: &Cluster,
    nodes: &[NodeId],
    options: ConnectOptions,
    topic: &str,
) -> Receiver {
    let addresses = nodes.iter().map(|node| cluster.mqtt(*node)).collect();
    let filter = shared(topic);
    let filters = [(filter.as_str(), Qos::ExactlyOnce)];
    Receiver::start(options, addresses, &filters, cluster.history()).await
}

/// What a member got, sorted, without the message that tells that nothing more comes.
pub(crate) fn got(member: &Receiver) -> Vec<String> {
    let log = member.log();
    assert_eq!(log.violations, [""; 0], "{}", member.name());
    let messages = log.messages.into_iter().map(|message| message.payload);
    let mut got: Vec<String> = messages.filter(|payload| payload != "end").collect();
    got.sort();
    got
}

/// Waits until a member has so many messages and one that is published last, then returns them.
pub(crate) async fn got_in_all(
    member: &Receiver,
    source: &mut Client,
    topic: &str,
    count: usize,
) -> Vec<String> {
    wait_until(
        &format!("{} has {count}", member.name()),
        IN_TIME,
        async || member.log().messages.len() >= count,
    )
    .await;
    source.publish_qos1(999, topic, "end").await;
    member.wait_for("end", IN_TIME).await;
    got(member)
}

/// `reason` of `holdfast_messages_dropped_total`, over all nodes that run.
pub(crate) async fn dropped(cluster: &Cluster, reason: &str) -> f64 {
    let mut sum = 0.0;
    for node in cluster.running() {
        let name = "holdfast_messages_dropped_total";
        sum += cluster.metric(node, name, ("reason", reason)).await;
    }
    sum
}

pub(crate) async fn expect_publishes(client: &mut Client, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(client.expect_publish().await);
    }
    deliveries
}

/// Together they get exactly these, and each of them a part.
async fn each_message_once(receivers: &[Receiver], expected: &[String]) {
    let count = || {
        receivers
            .iter()
            .map(|member| got(member).len())
            .sum::<usize>()
    };
    wait_until("every message has come", IN_TIME, async || {
        count() >= expected.len()
    })
    .await;
    for member in receivers {
        member.wait_for("end", IN_TIME).await;
        assert!(!got(member).is_empty(), "{} got nothing", member.name());
    }
    let mut all: Vec<String> = receivers.iter().flat_map(got).collect();
    all.sort();
    assert_eq!(all, expected);
}

/// Publishes to `s-one/t` through every node, from persistent and transient clients, and ends each with
/// a message to `s-one-end`. Returns the payloads.
async fn publish_at_every_qos(cluster: &Cluster) -> Vec<String> {
    let mut expected = Vec::new();
    for (number, node) in cluster.ids().into_iter().enumerate() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for persistent in [true, false] {
                let version = VERSIONS[(number + usize::from(persistent)) % 2];
                let id = format!("s-one-from-{node}-{}-{persistent}", qos.as_u8());
                let mut source = connect(cluster, node, &session(persistent, &id, version)).await;
                let payloads = payloads(&id, 0..20);
                for payload in &payloads {
                    Sent::new("s-one/t", payload, qos)
                        .publish(&mut source, 1)
                        .await;
                }
                expected.extend(payloads);
            }
        }
        let id = format!("s-one-end-{node}");
        let mut source = publisher(cluster, node, &id, ProtocolVersion::V5).await;
        source.publish_qos1(1, "s-one-end", "end").await;
    }
    expected
}

/// [MQTT-4.8.2-3] and the first sentences of section 4.8.2: every session of the group gets a part,
/// and other subscriptions are not concerned.
#[tokio::test]
async fn each_message_goes_to_exactly_one_member() {
    let name = "each_message_goes_to_exactly_one_member";
    let cluster = Cluster::start(name, options()).await;
    let (mut group, mut other_group) = (Vec::new(), Vec::new());
    for node in cluster.ids() {
        for version in VERSIONS {
            for persistent in [true, false] {
                let id = format!("s-one-{node}-{}-{persistent}", tag(version));
                let options = session(persistent, &id, version);
                let filters = [
                    ("$share/g/s-one/#", Qos::ExactlyOnce),
                    ("s-one-end", Qos::AtLeastOnce),
                ];
                let addresses = vec![cluster.mqtt(node)];
                group.push(Receiver::start(options, addresses, &filters, cluster.history()).await);
            }
        }
        let options = ConnectOptions::persistent(format!("s-one-h-{node}"), ProtocolVersion::V5);
        let filters = [
            ("$share/h/s-one/+", Qos::AtLeastOnce),
            ("s-one-end", Qos::AtLeastOnce),
        ];
        let addresses = vec![cluster.mqtt(node)];
        other_group.push(Receiver::start(options, addresses, &filters, cluster.history()).await);
    }
    let plain = ConnectOptions::persistent("s-one-plain", ProtocolVersion::V311);
    let filters = [
        ("s-one/#", Qos::ExactlyOnce),
        ("s-one-end", Qos::AtLeastOnce),
    ];
    let addresses = vec![cluster.mqtt(2)];
    let plain = [Receiver::start(plain, addresses, &filters, cluster.history()).await];

    let mut expected = publish_at_every_qos(&cluster).await;
    expected.sort();
    for receivers in [group.as_slice(), &other_group, &plain] {
        each_message_once(receivers, &expected).await;
    }
    assert!(dropped(&cluster, "no_member").await < 0.5);
}

/// How a member's session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// With its connection.
    Transient,
    /// By its expiry interval.
    Expiry,
    /// By a connection that starts clean.
    Clean,
}

const LEAVINGS: [(Leaving, ProtocolVersion); 5] = [
    (Leaving::Transient, ProtocolVersion::V311),
    (Leaving::Transient, ProtocolVersion::V5),
    (Leaving::Expiry, ProtocolVersion::V5),
    (Leaving::Clean, ProtocolVersion::V311),
    (Leaving::Clean, ProtocolVersion::V5),
];

fn leaving_session(leaving: Leaving, id: &str, version: ProtocolVersion) -> ConnectOptions {
    let options = session(leaving != Leaving::Transient, id, version);
    match leaving {
        Leaving::Expiry => options.session_expiry_s(SHORT_EXPIRY_S),
        Leaving::Transient | Leaving::Clean => options,
    }
}

/// The connection is lost, and the session ends.
async fn leave(cluster: &Cluster, client: Client, leaving: Leaving, options: ConnectOptions) {
    client.abandon();
    if leaving == Leaving::Clean {
        let node = cluster.ids()[0];
        let client = connect(cluster, node, &options.clean_start(true)).await;
        assert!(!client.session_present());
        client.disconnect().await;
    }
}

/// Publishes so many numbered messages, each complete.
pub(crate) async fn publish_numbers(
    source: &mut Client,
    qos: Qos,
    topic: &str,
    count: u64,
) -> Vec<String> {
    let payloads = payloads(topic, 0..count);
    publish_all(source, qos, topic, &payloads).await;
    payloads
}

/// Section 4.8.2, QoS 1: what a member has not acknowledged when its session ends goes to another.
#[tokio::test]
async fn at_qos_1_what_a_member_did_not_acknowledge_goes_to_another() {
    let name = "at_qos_1_what_a_member_did_not_acknowledge_goes_to_another";
    let cluster = Cluster::start(name, options()).await;
    for (number, (leaving, version)) in LEAVINGS.into_iter().enumerate() {
        // The publisher is on the member's node, or on another one.
        for from in [1, 2] {
            let topic = format!("s-q1/{number}-{from}");
            let id = topic.replace('/', "-");
            let options = leaving_session(leaving, &id, version);
            let mut member = member(&cluster, 1, &options, &topic).await;
            let mut source = publisher(&cluster, from, &format!("{id}-source"), version).await;
            let sent = publish_numbers(&mut source, Qos::AtLeastOnce, &topic, 5).await;
            let deliveries = expect_publishes(&mut member, 5).await;
            for delivery in &deliveries[..2] {
                member.puback(delivery.id).await;
            }
            member.commit_barrier().await;
            let other = ConnectOptions::persistent(format!("{id}-other"), version);
            let other = good_member(&cluster, &[3], other, &topic).await;
            leave(&cluster, member, leaving, options).await;
            let got = got_in_all(&other, &mut source, &topic, 3).await;
            assert_eq!(got, sent[2..], "{leaving:?} {version:?} from {from}");
        }
    }
}

/// Messages in flight to one member at QoS 2 in these tests: the third one is not sent.
const WINDOW: u16 = 2;

pub(crate) fn small_window() -> ClusterOptions {
    ClusterOptions {
        inflight_max: WINDOW,
        ..options()
    }
}

/// A member that has the first message without PUBREC, the second up to PUBREL, and lacks two.
pub(crate) async fn half_way(
    cluster: &Cluster,
    node: NodeId,
    options: &ConnectOptions,
    case: &Case,
) -> Half {
    let mut client = member(cluster, node, options, &case.topic).await;
    let from = session(case.persistent_source, &case.source, options.version);
    let mut source = connect(cluster, case.from, &from).await;
    publish_numbers(&mut source, Qos::ExactlyOnce, &case.topic, 4).await;
    let deliveries = expect_publishes(&mut client, usize::from(WINDOW)).await;
    client.pubrec(deliveries[1].id).await;
    client.expect_pubrel(deliveries[1].id).await;
    Half {
        client,
        source,
        deliveries,
    }
}

pub(crate) struct Case {
    topic: String,
    source: String,
    from: NodeId,
    persistent_source: bool,
}

impl Case {
    pub(crate) fn new(topic: String, from: NodeId, persistent_source: bool) -> Self {
        Self {
            source: format!("{}-source", topic.replace('/', "-")),
            topic,
            from,
            persistent_source,
        }
    }
}

pub(crate) struct Half {
    pub(crate) client: Client,
    pub(crate) source: Client,
    pub(crate) deliveries: Vec<Delivery>,
}

/// The payloads without the number, in the order in which the member got them.
fn named(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|delivery| delivery.payload.clone())
        .collect()
}

/// [MQTT-4.8.2-5]
#[tokio::test]
async fn at_qos_2_what_was_sent_to_a_member_goes_to_nobody_else_and_the_rest_does() {
    let name = "at_qos_2_what_was_sent_to_a_member_goes_to_nobody_else_and_the_rest_does";
    let cluster = Cluster::start(name, small_window()).await;
    for (number, (leaving, version)) in LEAVINGS.into_iter().enumerate() {
        for persistent_source in [true, false] {
            let topic = format!("s-q2/{number}-{persistent_source}");
            let id = topic.replace('/', "-");
            let options = leaving_session(leaving, &id, version);
            let case = Case::new(topic.clone(), 2, persistent_source);
            let mut half = half_way(&cluster, 1, &options, &case).await;
            let seen = named(&half.deliveries);
            let other = ConnectOptions::persistent(format!("{id}-other"), version);
            let other = good_member(&cluster, &[3], other, &topic).await;
            leave(&cluster, half.client, leaving, options).await;
            let got = got_in_all(&other, &mut half.source, &topic, 2).await;
            let mut rest = payloads(&topic, 0..4);
            rest.retain(|payload| !seen.contains(payload));
            assert_eq!(
                got, rest,
                "{leaving:?} {version:?}; the member saw {seen:?}"
            );
        }
    }
    // In a shard the loss of what had no PUBREC is counted; a transient member's connection is not
    // asked what became of it.
    let persistent = LEAVINGS
        .iter()
        .filter(|(leaving, _)| *leaving != Leaving::Transient);
    let count = 2 * u32::try_from(persistent.count()).unwrap();
    let lost = dropped(&cluster, "session_ended").await;
    assert!(
        lost > f64::from(count) - 0.5,
        "{lost} of {count} are counted"
    );
}

/// Section 4.8.2: with the last session the subscription ends, and what it had.
#[tokio::test]
async fn with_the_last_member_the_group_and_its_messages_end() {
    let name = "with_the_last_member_the_group_and_its_messages_end";
    let cluster = Cluster::start(name, options()).await;
    for (number, (leaving, version)) in LEAVINGS.into_iter().enumerate() {
        let topic = format!("s-last/{number}");
        let id = topic.replace('/', "-");
        let mut source = publisher(&cluster, 2, &format!("{id}-v5"), ProtocolVersion::V5).await;
        let reason = source.publish_qos1(1, &topic, "before").await;
        assert_eq!(reason, ReasonCode::NoMatchingSubscribers, "{topic}");
        let options = leaving_session(leaving, &id, version);
        let mut last = member(&cluster, 1, &options, &topic).await;
        let reason = source.publish_qos1(2, &topic, "held").await;
        assert_eq!(reason, ReasonCode::Success, "{topic}");
        last.expect_publish().await;
        let before = dropped(&cluster, "no_member").await;
        leave(&cluster, last, leaving, options).await;
        wait_until(
            &format!("{topic}: the message is counted"),
            IN_TIME,
            async || dropped(&cluster, "no_member").await > before + 0.5,
        )
        .await;
        wait_until(&format!("{topic}: nobody is left"), IN_TIME, async || {
            source.publish_qos1(3, &topic, "between").await == ReasonCode::NoMatchingSubscribers
        })
        .await;
        let next = ConnectOptions::persistent(format!("{id}-next"), version);
        let mut next = member(&cluster, 3, &next, &topic).await;
        source.publish_qos1(4, &topic, "after").await;
        assert_eq!(texts(&take(&mut next, 1).await), ["after"], "{topic}");
        // UNSUBSCRIBE is a way to leave as well; what is in flight is completed.
        source.publish_qos1(5, &topic, "in flight").await;
        let delivery = next.expect_publish().await;
        let unsubscribe = next.send_unsubscribe(&shared(&topic)).await;
        next.recv_until("UNSUBACK", |packet| {
            testkit::client::is_unsuback(packet, unsubscribe)
        })
        .await;
        next.puback(delivery.id).await;
        wait_until(
            &format!("{topic}: nobody is left again"),
            IN_TIME,
            async || {
                source.publish_qos1(6, &topic, "nobody").await == ReasonCode::NoMatchingSubscribers
            },
        )
        .await;
        assert!(next.commit_barrier().await.is_empty(), "{topic}");
    }
}

/// A persistent member, and what shows that it is offline: its will has come to the watcher, and then
/// a client of the same shard on the publisher's node got an answer of that shard.
struct Offline {
    options: ConnectOptions,
    barrier: Client,
}

impl Offline {
    async fn new(cluster: &Cluster, version: ProtocolVersion, shard: u16, from: NodeId) -> Self {
        let prefix = format!("s-first-{}-s{shard}", tag(version));
        let id = client_id_in_shard(&prefix, shard, cluster.shards());
        let will = Sent::new("s-first-will", &id, Qos::AtLeastOnce).will(0);
        let barrier = client_id_in_shard(&format!("{prefix}-barrier"), shard, cluster.shards());
        let barrier = ConnectOptions::persistent(barrier, ProtocolVersion::V5);
        Self {
            options: ConnectOptions::persistent(id, version).will(will),
            barrier: connect(cluster, from, &barrier).await,
        }
    }

    async fn leave(&mut self, client: Client, watcher: &Receiver) {
        client.abandon();
        watcher.wait_for(&self.options.client_id, IN_TIME).await;
        self.barrier.commit_barrier().await;
    }
}

/// DESIGN section 6: connected members first, then persistent ones that are offline.
#[tokio::test]
async fn connected_members_come_first_and_offline_ones_last() {
    let name = "connected_members_come_first_and_offline_ones_last";
    let cluster = Cluster::start(name, options()).await;
    let watcher = ConnectOptions::persistent("s-first-watcher", ProtocolVersion::V5);
    let filters = [("s-first-will", Qos::AtLeastOnce)];
    let addresses = vec![cluster.mqtt(1)];
    let watcher = Receiver::start(watcher, addresses, &filters, cluster.history()).await;
    for shard in 0..cluster.shards() {
        for version in VERSIONS {
            let topic = format!("s-first/{}-{shard}", tag(version));
            let id = topic.replace('/', "-");
            let mut source = publisher(&cluster, 2, &format!("{id}-source"), version).await;
            let mut offline = Offline::new(&cluster, version, shard, 2).await;
            let client = member(&cluster, 1, &offline.options, &topic).await;
            let options = ConnectOptions::transient(format!("{id}-connected"), version);
            let mut connected = member(&cluster, 3, &options, &topic).await;
            offline.leave(client, &watcher).await;

            let (mut for_connected, mut for_offline) = (Vec::new(), Vec::new());
            for qos in QOS_1_AND_2 {
                let payloads = payloads(&format!("connected-{}", qos.as_u8()), 0..8);
                publish_all(&mut source, qos, &topic, &payloads).await;
                for_connected.extend(payloads);
            }
            let mut got = texts(&take(&mut connected, for_connected.len()).await);
            got.sort();
            assert_eq!(got, for_connected, "{topic}");
            let unsubscribe = connected.send_unsubscribe(&shared(&topic)).await;
            connected
                .recv_until("UNSUBACK", |packet| {
                    testkit::client::is_unsuback(packet, unsubscribe)
                })
                .await;
            for qos in QOS_1_AND_2 {
                let payloads = payloads(&format!("offline-{}", qos.as_u8()), 0..4);
                publish_all(&mut source, qos, &topic, &payloads).await;
                for_offline.extend(payloads);
            }
            let mut client = connect(&cluster, 3, &offline.options).await;
            assert!(client.session_present(), "{topic}");
            // Those that were offered to the member that had just left come behind others.
            let mut got = texts(&take(&mut client, for_offline.len()).await);
            got.sort();
            assert_eq!(got, for_offline, "{topic}");
            client.disconnect().await;
        }
    }
}
