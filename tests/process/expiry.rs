//! What has an end, and what is kept until then: message expiry and session expiry across the death
//! of a leader and a restart of all nodes (failover.md sections 8 and 11), and what a copy knows of
//! its subscriptions (sections 12, 13, 17).

use std::time::{Duration, Instant};

use codec::{Packet, PacketId, ProtocolVersion, Publish, Qos, SubscriptionOptions};
use testkit::{
    Client, Cluster, ConnectOptions, NodeId, Receiver, VERSIONS, client_id_in_shard, let_pass,
};

use crate::exchange::{Sent, Taker, take, text, texts};
use crate::scene::{leader_of_some, options, publisher, spread_leaders, tag};

const IN_TIME: Duration = Duration::from_secs(30);

async fn connect(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await
}

/// What a take-over adds at most, and how often the log has the time while something waits for it
/// (decision 0022), with time for a slow machine to write it.
const TAKEOVER_GAP_MAX: Duration = Duration::from_secs(10);
const TIME_LOGGED_EVERY: Duration = Duration::from_secs(6);
/// Longer than the first, so that a failover loses time if the log does not have it.
const IDLE: Duration = Duration::from_secs(14);
/// Nobody runs.
const DOWN: Duration = Duration::from_secs(3);
const LONG_S: u32 = 1_000;
const SHORT_S: u32 = 8;
const EXPIRY_TOPIC: &str = "e-expiry";
/// Messages per QoS, and QoS, of each kind.
const PER_SUBSCRIBER: usize = 4;

/// Offline sessions of one shard in both versions; each is read once.
async fn sleepers(cluster: &Cluster, node: NodeId, phase: &str) -> Vec<ConnectOptions> {
    let mut sleepers = Vec::new();
    for shard in 0..cluster.shards() {
        for version in VERSIONS {
            let prefix = format!("e-{phase}-{}-s{shard}", tag(version));
            let id = client_id_in_shard(&prefix, shard, cluster.shards());
            let options = ConnectOptions::persistent(id, version);
            let mut client = connect(cluster, node, &options).await;
            client.subscribe(EXPIRY_TOPIC, Qos::ExactlyOnce).await;
            client.disconnect().await;
            sleepers.push(options);
        }
    }
    sleepers
}

/// When the messages were published: between these two.
#[derive(Debug, Clone, Copy)]
struct Published {
    from: Instant,
    to: Instant,
}

/// Each sleeper gets the messages that live, with what they have left: not less than what has really
/// passed allows, and not more than that and `uncounted` [MQTT-3.3.2-6].
async fn check_intervals(
    cluster: &Cluster,
    node: NodeId,
    sleepers: &[ConnectOptions],
    published: Published,
    uncounted: Duration,
) {
    for options in sleepers {
        let asked = published.to.elapsed();
        let mut client = connect(cluster, node, options).await;
        assert!(client.session_present(), "{}", options.client_id);
        let messages = take(&mut client, PER_SUBSCRIBER / 2).await;
        let answered = published.from.elapsed();
        // Messages of two QoS may overtake each other.
        let mut seen = texts(&messages);
        seen.sort();
        assert_eq!(seen, ["long-1", "long-2"], "{}", options.client_id);
        client.disconnect().await;
        if options.version != ProtocolVersion::V5 {
            continue;
        }
        for message in &messages {
            let left_s = message.properties.message_expiry_interval.unwrap();
            let passed = Duration::from_secs(u64::from(LONG_S - left_s));
            // What is left is rounded up to a second.
            let name = (&options.client_id, asked, answered);
            assert!(
                passed <= answered,
                "{name:?}: early: {passed:?} have passed"
            );
            let counted = passed + Duration::from_secs(1) + uncounted;
            assert!(counted >= asked, "{name:?}: only {passed:?} of it counted");
        }
    }
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[tokio::test]
async fn a_queued_message_counts_its_expiry_down_across_failover_and_full_restart() {
    let name = "a_queued_message_counts_its_expiry_down_across_failover_and_full_restart";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let after_failover = sleepers(&cluster, near, "failover").await;
    let after_restart = sleepers(&cluster, far, "restart").await;
    let from = Instant::now();
    let source = ConnectOptions::persistent("e-expiry-source", ProtocolVersion::V5);
    let mut source = connect(&cluster, near, &source).await;
    for (kind, interval_s) in [("short", SHORT_S), ("long", LONG_S)] {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let payload = format!("{kind}-{}", qos.as_u8());
            let sent = Sent::new(EXPIRY_TOPIC, payload, qos).expires_after_s(interval_s);
            sent.publish(&mut source, 1).await;
        }
    }
    source.disconnect().await;
    let to = Instant::now();
    let published = Published { from, to };

    let_pass(IDLE).await;
    cluster.kill(home);
    // Losses are counted by the leaders, once they know that they are.
    cluster.leaders().await;
    // The new leaders have seen all of the time.
    let slack = Duration::from_secs(1);
    check_intervals(&cluster, near, &after_failover, published, slack).await;
    let expired = (PER_SUBSCRIBER / 2) * after_failover.len();
    let mut counted = 0.0;
    for node in cluster.running() {
        let name = "holdfast_messages_dropped_total";
        counted += cluster.metric(node, name, ("reason", "expired")).await;
    }
    assert!(
        (counted - expired as f64).abs() < 0.5,
        "{counted} of {expired} are counted"
    );

    cluster.restart_all().await;
    // Clocks are kept once a second; what a new leader logged after that would set them back.
    let_pass(Duration::from_secs(2)).await;
    cluster.kill_all();
    let killed = Instant::now();
    let_pass(DOWN).await;
    cluster.restart_all().await;
    cluster.leaders().await;
    // On a machine so slow that the gap is longer than what a take-over adds.
    let gap = killed.elapsed() + TIME_LOGGED_EVERY;
    let uncounted = slack + gap.saturating_sub(TAKEOVER_GAP_MAX);
    check_intervals(&cluster, far, &after_restart, published, uncounted).await;
}

/// After a power loss the time since boot begins anew: what was kept of it must not be believed, and
/// the log says how late it was.
#[tokio::test]
async fn after_a_boot_the_log_says_how_late_it_was() {
    let name = "after_a_boot_the_log_says_how_late_it_was";
    let mut cluster = Cluster::start(name, options()).await;
    let sleepers = sleepers(&cluster, 1, "boot").await;
    let from = Instant::now();
    let mut source = publisher(&cluster, 2, "e-boot-source", ProtocolVersion::V5).await;
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let payload = format!("long-{}", qos.as_u8());
        let sent = Sent::new(EXPIRY_TOPIC, payload, qos).expires_after_s(LONG_S);
        sent.publish(&mut source, 1).await;
    }
    source.disconnect().await;
    let to = Instant::now();
    let_pass(IDLE).await;
    cluster.kill_all();
    let killed = Instant::now();
    for node in cluster.ids() {
        let clocks = cluster.data_dir(node).join("clocks");
        let text = std::fs::read_to_string(&clocks).unwrap_or_default();
        let boot = text.lines().nth(1).unwrap_or("none");
        std::fs::write(&clocks, text.replace(boot, "another")).unwrap();
    }
    cluster.restart_all().await;
    cluster.leaders().await;
    let uncounted = TIME_LOGGED_EVERY + killed.elapsed();
    assert!(uncounted < IDLE, "the machine is too slow to tell");
    check_intervals(&cluster, 3, &sleepers, Published { from, to }, uncounted).await;
}

const EXPIRY_S: u32 = 5;
const EXPIRY: Duration = Duration::from_secs(EXPIRY_S as u64);
/// Of sessions that see a restart of all nodes.
const LONGER_EXPIRY_S: u32 = 10;
/// How much later a session may end.
const LATE_MAX: Duration = Duration::from_secs(6);
/// When those that come back in time do so.
const BACK_AFTER: Duration = Duration::from_secs(3);

/// A session that shows when it ends: by its will, whose own delay is longer [MQTT-3.1.2-8].
fn mortal(cluster: &Cluster, prefix: &str, shard: u16) -> ConnectOptions {
    let id = client_id_in_shard(&format!("{prefix}-s{shard}"), shard, cluster.shards());
    let will = Sent::new("e-end", &id, Qos::AtLeastOnce).will(600);
    ConnectOptions::persistent(id, ProtocolVersion::V5)
        .session_expiry_s(EXPIRY_S)
        .will(will)
}

async fn watcher(cluster: &Cluster, node: NodeId) -> Receiver {
    let options = ConnectOptions::persistent("e-watcher", ProtocolVersion::V5);
    let filters = [("e-end", Qos::AtLeastOnce)];
    let mut addresses = cluster.mqtt_from(node);
    addresses.truncate(2);
    Receiver::start(options, addresses, &filters, cluster.history()).await
}

/// A session whose client is gone, or will be when its node is.
struct Left {
    options: ConnectOptions,
    /// Not later than its connection was lost.
    since: Instant,
}

impl Left {
    /// Waits for the end of the session; returns how long it lived.
    async fn lived(&self, cluster: &Cluster, watcher: &Receiver) -> Duration {
        watcher.wait_for(&self.options.client_id, IN_TIME).await;
        let lived = self.since.elapsed();
        let id = &self.options.client_id;
        cluster.history().note(format!("{id} lived for {lived:?}"));
        lived
    }
}

fn has_ended(watcher: &Receiver, client_id: &str) -> bool {
    let log = watcher.log();
    log.messages
        .iter()
        .any(|message| message.payload == client_id)
}

/// [MQTT-3.1.2-23] [MQTT-4.1.0-2]: not earlier, on whichever node it is resumed; and not much later.
#[tokio::test]
async fn a_session_ends_after_its_interval_when_its_node_or_its_leader_is_killed() {
    let name = "a_session_ends_after_its_interval_when_its_node_or_its_leader_is_killed";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let watcher = watcher(&cluster, far).await;
    let (mut open, mut ending, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for shard in 0..cluster.shards() {
        // On the node that is killed: it ends, or comes back.
        for (prefix, list) in [("e-dies", &mut ending), ("e-back", &mut back)] {
            let options = mortal(&cluster, prefix, shard);
            open.push(connect(&cluster, home, &options).await);
            list.push(options);
        }
    }
    let (mut ending_away, mut back_away) = (Vec::new(), Vec::new());
    for shard in 0..cluster.shards() {
        // Without a connection already: only the leader of its shard may die.
        for (prefix, list) in [
            ("e-away", &mut ending_away),
            ("e-away-back", &mut back_away),
        ] {
            let options = mortal(&cluster, prefix, shard);
            let client = connect(&cluster, near, &options).await;
            let since = Instant::now();
            client.abandon();
            list.push(Left { options, since });
        }
    }
    let since = cluster.kill(home);
    let died = |options| Left { options, since };
    ending_away.extend(ending.into_iter().map(died));
    back_away.extend(back.into_iter().map(died));
    let comes_back = since + BACK_AFTER;
    let_pass(comes_back.saturating_duration_since(Instant::now())).await;
    let mut resumed = Vec::new();
    for Left { options, since } in back_away {
        let client = connect(&cluster, near, &options.clone().session_expiry_s(600)).await;
        // A slow machine may come too late.
        if since.elapsed() < EXPIRY {
            assert!(client.session_present(), "{}: too early", options.client_id);
            resumed.push((client, options.client_id));
        }
    }
    assert!(resumed.len() > 4, "the machine is too slow to tell");
    for left in &ending_away {
        let lived = left.lived(&cluster, &watcher).await;
        let id = &left.options.client_id;
        assert!(lived >= EXPIRY, "{id} lived for {lived:?}");
        // Finding out that the node is dead, and electing a leader, takes its time.
        assert!(lived < EXPIRY + LATE_MAX, "{id} lived for {lived:?}");
        let client = connect(&cluster, near, &left.options).await;
        assert!(!client.session_present(), "{id}");
    }
    for (_, id) in &resumed {
        assert!(!has_ended(&watcher, id), "{id}");
    }
    drop(open);
}

/// The same when all nodes are killed: the time that nobody runs counts.
#[tokio::test]
async fn a_session_ends_after_its_interval_when_all_nodes_are_killed_meanwhile() {
    let name = "a_session_ends_after_its_interval_when_all_nodes_are_killed_meanwhile";
    let mut cluster = Cluster::start(name, options()).await;
    let watcher = watcher(&cluster, 1).await;
    let mut sessions = Vec::new();
    for shard in 0..cluster.shards() {
        let options = mortal(&cluster, "e-all", shard).session_expiry_s(LONGER_EXPIRY_S);
        let client = connect(&cluster, 2, &options).await;
        let since = Instant::now();
        client.abandon();
        sessions.push(Left { options, since });
    }
    // Shard time is not in the log for a while, and the last entries are replayed.
    let_pass(Duration::from_secs(2)).await;
    cluster.kill_all();
    let killed = Instant::now();
    let_pass(DOWN).await;
    cluster.restart_all().await;
    cluster.leaders().await;
    let restarting = killed.elapsed();
    for left in &sessions {
        let lived = left.lived(&cluster, &watcher).await;
        let id = &left.options.client_id;
        let expiry = Duration::from_secs(LONGER_EXPIRY_S.into());
        assert!(lived >= expiry, "{id} lived for {lived:?}");
        // Without the time of the restart it would live on for that and two seconds. On a machine
        // so slow that the gap is longer than what a take-over adds, it does in part.
        let latest = expiry + Duration::from_secs(2) + restarting.saturating_sub(DOWN * 2);
        assert!(
            lived < latest,
            "{id} lived for {lived:?}, restart {restarting:?}"
        );
    }
}

/// What the copy of a message says of the subscriptions that it matched.
fn marks(message: &Publish) -> (String, Qos, bool, Vec<u32>) {
    let mut identifiers: Vec<u32> = message
        .subscription_identifiers
        .iter()
        .map(|identifier| identifier.get())
        .collect();
    identifiers.sort_unstable();
    (text(message), message.qos, message.retain, identifiers)
}

/// By payload: messages of two QoS may overtake each other.
fn sorted_marks(messages: &[Publish]) -> Vec<(String, Qos, bool, Vec<u32>)> {
    let mut sorted: Vec<_> = messages.iter().map(marks).collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    sorted
}

/// Subscribed with two filters that overlap, and with one that excludes its own messages.
async fn subscribe_with_options(client: &mut Client, topic: &str) {
    let as_published = SubscriptionOptions {
        retain_as_published: true,
        ..SubscriptionOptions::new(Qos::ExactlyOnce)
    };
    let plain = SubscriptionOptions::new(Qos::AtLeastOnce);
    let not_own = SubscriptionOptions {
        no_local: true,
        ..SubscriptionOptions::new(Qos::ExactlyOnce)
    };
    let filters = [
        (format!("{topic}/both"), as_published, Some(7)),
        (format!("{topic}/+"), plain, Some(9)),
        (format!("{topic}/not/own"), not_own, Some(11)),
    ];
    for (filter, options, identifier) in filters {
        client.subscribe_with(&filter, options, identifier).await;
    }
}

/// Four messages with RETAIN, of which two are in flight, and what must be known of each.
async fn publish_marked(source: &mut Client, topic: &str) -> Vec<(String, Qos, bool, Vec<u32>)> {
    let mut expected = Vec::new();
    let cases = [
        ("both", Qos::ExactlyOnce, vec![7, 9]),
        ("one", Qos::AtLeastOnce, vec![9]),
        ("both", Qos::AtLeastOnce, vec![7, 9]),
        ("not/own", Qos::ExactlyOnce, vec![11]),
    ];
    for (number, (end, qos, identifiers)) in cases.into_iter().enumerate() {
        let payload = format!("{number}");
        let sent = Sent::new(&format!("{topic}/{end}"), &payload, qos).retained();
        sent.publish(source, 1).await;
        let as_published = end == "both";
        expected.push((payload, qos, as_published, identifiers));
    }
    expected
}

/// [MQTT-3.8.3-3] [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
#[tokio::test]
async fn copies_keep_their_identifiers_and_flags_and_sessions_their_options_across_a_failover() {
    let name =
        "copies_keep_their_identifiers_and_flags_and_sessions_their_options_across_a_failover";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let mut scenes = Vec::new();
    for shard in 0..cluster.shards() {
        let id = client_id_in_shard(&format!("e-marks-s{shard}"), shard, cluster.shards());
        let topic = format!("e-marks/{shard}");
        let options = ConnectOptions::persistent(&id, ProtocolVersion::V5).receive_maximum(2);
        let mut client = connect(&cluster, home, &options).await;
        subscribe_with_options(&mut client, &topic).await;
        let from = ConnectOptions::persistent(format!("{id}-source"), ProtocolVersion::V5);
        let mut source = connect(&cluster, [near, home][usize::from(shard % 2)], &from).await;
        let expected = publish_marked(&mut source, &topic).await;
        let mut in_flight = Vec::new();
        for _ in 0..2 {
            let accept = |packet: &Packet| match packet {
                Packet::Publish(publish) => Some(publish.clone()),
                _ => None,
            };
            in_flight.push(client.expect("PUBLISH", accept).await);
        }
        scenes.push((options, client, topic, in_flight, expected));
    }
    cluster.kill(home);
    for (options, client, topic, in_flight, expected) in &mut scenes {
        *client = connect(&cluster, far, options).await;
        assert!(client.session_present(), "{}", options.client_id);
        let mut taker = Taker::default();
        taker
            .take_until(client, "what was published", |messages| {
                messages.len() >= expected.len()
            })
            .await;
        for (first, again) in in_flight.iter().zip(&taker.messages) {
            let id = |publish: &Publish| publish.packet_id.map(PacketId::get);
            assert_eq!(id(first), id(again), "{topic}");
            assert!(again.dup, "{topic}");
        }
        assert_eq!(sorted_marks(&taker.messages), *expected, "{topic}");

        // The subscriptions are as they were as well: its own message does not come back.
        let not_own = format!("{topic}/not/own");
        let own = Sent::new(&not_own, "own", Qos::AtLeastOnce);
        own.publish(client, 500).await;
        let id = format!("{}-after", options.client_id);
        let mut source = publisher(&cluster, near, &id, ProtocolVersion::V5).await;
        let mut expected = publish_marked(&mut source, topic).await;
        let others = Sent::new(&not_own, "another's", Qos::AtLeastOnce);
        others.publish(&mut source, 2).await;
        expected.push(("another's".to_owned(), Qos::AtLeastOnce, false, vec![11]));
        let messages = take(client, expected.len()).await;
        assert_eq!(sorted_marks(&messages), expected, "{topic}");
    }
}
