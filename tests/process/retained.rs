//! Retained messages: stored before they are acknowledged, read through any node right after that,
//! and the last value that a new subscriber sees is the last one stored (DESIGN section 6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::{Packet, ProtocolVersion, Publish, Qos, RetainHandling, SubscriptionOptions};
use testkit::{Client, Cluster, ConnectOptions, NodeId, Receiver, VERSIONS, let_pass, wait_until};

use crate::exchange::{Sent, Taker, publishes, take_up_to, text, texts};
use crate::scene::{all_of, client_ids, leader_of_some, options, publisher, spread_leaders, tag};

const IN_TIME: Duration = Duration::from_secs(30);

async fn connect(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await
}

/// A client that was never seen before: both versions and both kinds of session in turn.
async fn newcomer(cluster: &Cluster, node: NodeId, number: usize) -> Client {
    let version = VERSIONS[number % 2];
    let id = format!("r-new-{number}");
    let options = match number / 2 % 2 {
        0 => ConnectOptions::persistent(id, version),
        _ => ConnectOptions::transient(id, version),
    };
    connect(cluster, node, &options).await
}

/// What is stored under a topic, as a new subscriber on `node` sees it: at least so many.
async fn stored(
    cluster: &Cluster,
    node: NodeId,
    number: &mut usize,
    (topic, count): (&str, usize),
) -> Vec<Publish> {
    *number += 1;
    let mut client = newcomer(cluster, node, *number).await;
    let mut taker = Taker::default();
    for packet in client.subscribe(topic, Qos::ExactlyOnce).await {
        taker.on_packet(&mut client, packet).await;
    }
    // Not retained. What is stored may come behind it.
    let end = Sent::new(topic, "end", Qos::AtLeastOnce).packet(1, false);
    client.send(&end).await;
    loop {
        match client.recv().await.unwrap() {
            Packet::Puback(_) => {}
            packet => taker.on_packet(&mut client, packet).await,
        }
        let has_end = taker.messages.iter().any(|message| text(message) == "end");
        if has_end && taker.messages.len() > count {
            break;
        }
    }
    for packet in client.ping_barrier().await {
        if !matches!(packet, Packet::Puback(_)) {
            taker.on_packet(&mut client, packet).await;
        }
    }
    client.disconnect().await;
    taker.messages.retain(|message| message.retain);
    taker.messages
}

async fn expect_stored(
    cluster: &Cluster,
    node: NodeId,
    number: &mut usize,
    sent: &Sent,
    is_there: bool,
) {
    let expected: Vec<&str> = is_there
        .then_some(sent.payload.as_str())
        .into_iter()
        .collect();
    let found = stored(cluster, node, number, (&sent.topic, expected.len())).await;
    assert_eq!(texts(&found), expected, "{} on node {node}", sent.topic);
    for message in found {
        assert_eq!(message.qos, sent.qos, "{message:?}");
        assert!(message.retain && !message.dup, "{message:?}");
    }
}

#[tokio::test]
async fn a_retained_message_is_read_through_every_node_once_it_is_acknowledged() {
    let name = "a_retained_message_is_read_through_every_node_once_it_is_acknowledged";
    let cluster = Cluster::start(name, options()).await;
    let mut number = 0;
    for (version, shard, client_id) in client_ids("r-set", cluster.shards()) {
        let options = match shard % 2 {
            0 => ConnectOptions::persistent(&client_id, version),
            _ => ConnectOptions::transient(&client_id, version),
        };
        let home = cluster.ids()[usize::from(shard) % 3];
        let mut source = connect(&cluster, home, &options).await;
        let topic = format!("r-set/{client_id}");
        let mut id = 0;
        for (qos, payload) in [
            (Qos::AtLeastOnce, "set"),
            (Qos::AtLeastOnce, "replaced"),
            (Qos::AtLeastOnce, ""),
            (Qos::ExactlyOnce, "set again"),
            (Qos::ExactlyOnce, "replaced again"),
            (Qos::ExactlyOnce, ""),
        ] {
            id += 1;
            let sent = Sent::new(&topic, payload, qos).retained();
            sent.publish(&mut source, id).await;
            let node = cluster.ids()[usize::from(id) % 3];
            expect_stored(&cluster, node, &mut number, &sent, !payload.is_empty()).await;
        }
        // Without RETAIN nothing is stored or removed [MQTT-3.3.1-8].
        let kept = Sent::new(&topic, "kept", Qos::AtLeastOnce).retained();
        kept.publish(&mut source, 10).await;
        Sent::new(&topic, "live", Qos::AtLeastOnce)
            .publish(&mut source, 11)
            .await;
        for node in cluster.ids() {
            expect_stored(&cluster, node, &mut number, &kept, true).await;
        }
    }
}

#[tokio::test]
async fn the_retain_flag_tells_a_stored_copy_from_a_live_one() {
    let name = "the_retain_flag_tells_a_stored_copy_from_a_live_one";
    let cluster = Cluster::start(name, options()).await;
    let mut source = publisher(&cluster, 1, "r-flag-source", ProtocolVersion::V5).await;
    for (version, shard, client_id) in client_ids("r-flag", cluster.shards()) {
        let topic = format!("r-flag/{client_id}");
        let stored = Sent::new(&topic, "stored", Qos::AtLeastOnce).retained();
        let live = Sent::new(&topic, "live", Qos::AtLeastOnce).retained();
        let plain = Sent::new(&topic, "plain", Qos::AtLeastOnce);
        let modes: &[bool] = match version {
            ProtocolVersion::V5 => &[false, true],
            ProtocolVersion::V31 | ProtocolVersion::V311 => &[false],
        };
        for as_published in modes {
            stored.publish(&mut source, 1).await;
            let id = format!("{client_id}-{as_published}");
            let options = match shard % 2 {
                0 => ConnectOptions::persistent(id, version),
                _ => ConnectOptions::transient(id, version),
            };
            let mut client = connect(&cluster, 2 + shard % 2, &options).await;
            let wanted = SubscriptionOptions {
                retain_as_published: *as_published,
                ..SubscriptionOptions::new(Qos::AtLeastOnce)
            };
            let mut taker = Taker::default();
            for packet in client.subscribe_with(&topic, wanted, None).await {
                taker.on_packet(&mut client, packet).await;
            }
            let first = |messages: &[Publish]| !messages.is_empty();
            taker
                .take_until(&mut client, "the stored copy", first)
                .await;
            live.publish(&mut source, 2).await;
            plain.publish(&mut source, 3).await;
            taker
                .messages
                .extend(take_up_to(&mut client, "plain").await);
            let flags: Vec<(String, bool)> = taker
                .messages
                .iter()
                .map(|message| (text(message), message.retain))
                .collect();
            let expected = [
                ("stored".to_owned(), true),
                ("live".to_owned(), *as_published),
                ("plain".to_owned(), false),
            ];
            assert_eq!(flags, expected, "{}", options.client_id);
        }
    }
}

/// Subscribes (again); returns what was stored, up to a message published afterwards.
async fn subscribe_and_read(
    client: &mut Client,
    source: &mut Client,
    topic: &str,
    (handling, is_sent): (RetainHandling, bool),
    end: &str,
) -> Vec<String> {
    let wanted = SubscriptionOptions {
        retain_handling: handling,
        ..SubscriptionOptions::new(Qos::AtLeastOnce)
    };
    let mut taker = Taker::default();
    for packet in client.subscribe_with(topic, wanted, None).await {
        taker.on_packet(client, packet).await;
    }
    Sent::new(topic, end, Qos::AtLeastOnce)
        .publish(source, 9)
        .await;
    let is_over = |messages: &[Publish]| {
        let has_end = messages.iter().any(|message| text(message) == end);
        has_end && messages.len() > usize::from(is_sent)
    };
    taker.take_until(client, end, is_over).await;
    for packet in client.ping_barrier().await {
        taker.on_packet(client, packet).await;
    }
    let mut seen = texts(&taker.messages);
    seen.retain(|payload| payload != end);
    seen
}

#[tokio::test]
async fn retain_handling_says_when_what_is_stored_is_sent() {
    let name = "retain_handling_says_when_what_is_stored_is_sent";
    let cluster = Cluster::start(name, options()).await;
    let mut source = publisher(&cluster, 3, "r-handling-source", ProtocolVersion::V5).await;
    for (version, shard, client_id) in client_ids("r-handling", cluster.shards()) {
        let topic = format!("r-handling/{client_id}");
        let sent = Sent::new(&topic, "stored", Qos::AtLeastOnce).retained();
        sent.publish(&mut source, 1).await;
        let options = ConnectOptions::persistent(&client_id, version);
        let mut client = connect(&cluster, 1 + shard % 3, &options).await;
        let steps: &[(RetainHandling, bool)] = match version {
            ProtocolVersion::V5 => &[
                (RetainHandling::DoNotSend, false),
                (RetainHandling::SendIfNew, false),
                (RetainHandling::Send, true),
                (RetainHandling::Send, true),
            ],
            // Always, also when subscribed already [MQTT-3.8.4-3].
            ProtocolVersion::V31 | ProtocolVersion::V311 => {
                &[(RetainHandling::Send, true), (RetainHandling::Send, true)]
            }
        };
        for (index, (handling, is_sent)) in steps.iter().enumerate() {
            let end = format!("end {index}");
            let wanted = (*handling, *is_sent);
            let seen = subscribe_and_read(&mut client, &mut source, &topic, wanted, &end).await;
            let expected: &[&str] = if *is_sent { &["stored"] } else { &[] };
            assert_eq!(seen, expected, "{client_id} {handling:?}");
        }
        if version == ProtocolVersion::V5 {
            let options = ConnectOptions::persistent(format!("{client_id}-new"), version);
            let mut client = connect(&cluster, 1 + shard % 3, &options).await;
            let wanted = (RetainHandling::SendIfNew, true);
            let seen = subscribe_and_read(&mut client, &mut source, &topic, wanted, "end").await;
            assert_eq!(seen, ["stored"], "{client_id}: it is new");
        }
    }
}

const TOPICS: usize = 60;

/// Every stored message of a wildcard, each once, through every node.
async fn check_wildcard(cluster: &Cluster, number: &mut usize, expected: &BTreeSet<String>) {
    for node in cluster.ids() {
        for filter in ["r-wild/#", "r-wild/+/b", "+/+/#"] {
            *number += 1;
            let mut client = newcomer(cluster, node, *number).await;
            let mut taker = Taker::default();
            for packet in client.subscribe(filter, Qos::AtLeastOnce).await {
                taker.on_packet(&mut client, packet).await;
            }
            let all = |messages: &[Publish]| messages.len() >= expected.len();
            taker.take_until(&mut client, "all of them", all).await;
            for packet in client.ping_barrier().await {
                taker.on_packet(&mut client, packet).await;
            }
            let seen: BTreeSet<String> = texts(&taker.messages).into_iter().collect();
            assert_eq!(
                taker.messages.len(),
                expected.len(),
                "{filter}: one is repeated"
            );
            assert_eq!(seen, *expected, "{filter} on node {node}");
            assert!(taker.messages.iter().all(|message| message.retain));
        }
    }
}

#[tokio::test]
async fn a_wildcard_reads_all_shards_also_after_all_nodes_died() {
    let name = "a_wildcard_reads_all_shards_also_after_all_nodes_died";
    let mut cluster = Cluster::start(name, options()).await;
    let mut expected = BTreeSet::new();
    for version in VERSIONS {
        let id = format!("r-wild-{}", tag(version));
        let mut source = publisher(&cluster, 2, &id, version).await;
        for number in 0..TOPICS / 2 {
            let payload = format!("{}-{number}", tag(version));
            let topic = format!("r-wild/{payload}/b");
            let qos = [Qos::AtLeastOnce, Qos::ExactlyOnce][number % 2];
            let sent = Sent::new(&topic, &payload, qos).retained();
            sent.publish(&mut source, 1).await;
            expected.insert(payload);
        }
    }
    let mut number = 0;
    check_wildcard(&cluster, &mut number, &expected).await;
    cluster.kill_all();
    cluster.restart_all().await;
    check_wildcard(&cluster, &mut number, &expected).await;
}

#[tokio::test]
async fn a_retained_message_counts_its_expiry_down_and_goes() {
    let name = "a_retained_message_counts_its_expiry_down_and_goes";
    let cluster = Cluster::start(name, options()).await;
    let mut source = publisher(&cluster, 1, "r-expiry", ProtocolVersion::V5).await;
    let topics: Vec<String> = (0..8).map(|number| format!("r-expiry/{number}")).collect();
    for topic in &topics {
        for (suffix, interval_s) in [("short", 4), ("long", 3_600)] {
            let topic = format!("{topic}/{suffix}");
            let sent = Sent::new(&topic, suffix, Qos::AtLeastOnce).retained();
            sent.expires_after_s(interval_s)
                .publish(&mut source, 1)
                .await;
        }
    }
    let read = async |node: NodeId, id: &str| -> BTreeMap<String, u32> {
        let options = ConnectOptions::persistent(id, ProtocolVersion::V5);
        let mut client = connect(&cluster, node, &options).await;
        let mut messages = publishes(&client.subscribe("r-expiry/+/long", Qos::AtMostOnce).await);
        messages.extend(publishes(
            &client.subscribe("r-expiry/+/short", Qos::AtMostOnce).await,
        ));
        messages.extend(publishes(&client.commit_barrier().await));
        let mut taker = Taker::default();
        taker
            .take_rest(&mut client, Duration::from_millis(700))
            .await;
        messages.extend(taker.messages);
        let topic_of = |message: &Publish| message.topic.as_ref().unwrap().as_str().to_owned();
        let interval = |message: &Publish| message.properties.message_expiry_interval.unwrap();
        messages
            .iter()
            .map(|message| (topic_of(message), interval(message)))
            .collect()
    };
    let early = read(2, "r-expiry-early").await;
    assert_eq!(early.len(), 2 * topics.len(), "{early:?}");
    for (topic, interval_s) in &early {
        let most = if topic.ends_with("short") { 4 } else { 3_600 };
        assert!((1..=most).contains(interval_s), "{topic}: {interval_s}");
    }
    let_pass(Duration::from_secs(5)).await;
    let late = read(3, "r-expiry-late").await;
    assert_eq!(late.len(), topics.len(), "{late:?}");
    for (topic, interval_s) in &late {
        assert!(topic.ends_with("long"), "{topic} has expired");
        assert!(
            (3_500..=3_595).contains(interval_s),
            "{topic}: {interval_s}"
        );
    }
}

#[tokio::test]
async fn a_retained_message_resent_through_another_node_is_stored_and_delivered_once() {
    let name = "a_retained_message_resent_through_another_node_is_stored_and_delivered_once";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let mut watchers = Vec::new();
    for version in VERSIONS {
        let options = ConnectOptions::persistent(format!("r-once-{}", tag(version)), version);
        let filters = [("r-once/#", Qos::ExactlyOnce)];
        let addresses = vec![cluster.mqtt(far)];
        watchers.push(Receiver::start(options, addresses, &filters, cluster.history()).await);
    }
    let mut sources = Vec::new();
    for (version, _, client_id) in client_ids("r-once", cluster.shards()) {
        let options = ConnectOptions::persistent(&client_id, version);
        let client = connect(&cluster, home, &options).await;
        let sent = Sent::new(&format!("r-once/{client_id}"), &client_id, Qos::ExactlyOnce);
        sources.push((options, client, sent.retained()));
    }
    for (index, (_, client, sent)) in sources.iter_mut().enumerate() {
        client.send(&sent.packet(7, false)).await;
        // Some got as far as PUBREC.
        if index % 2 == 0 {
            client.expect_pubrec(7).await;
        }
    }
    cluster.kill(home);
    for (options, client, sent) in &mut sources {
        *client = connect(&cluster, near, options).await;
        assert!(client.session_present(), "{}", options.client_id);
        client.send(&sent.packet(7, true)).await;
        client.expect_pubrec(7).await;
        client.pubrel(7).await;
        client.expect_pubcomp(7).await;
    }
    let mut number = 0;
    for (_, _, sent) in &sources {
        for watcher in &watchers {
            watcher.wait_for(&sent.payload, IN_TIME).await;
        }
        let node = [near, far][number % 2];
        let found = stored(&cluster, node, &mut number, (&sent.topic, 1)).await;
        assert_eq!(texts(&found), [sent.payload.as_str()]);
    }
    for watcher in &watchers {
        let log = watcher.log();
        let mut seen: Vec<&str> = log
            .messages
            .iter()
            .map(|message| message.payload.as_str())
            .filter(|payload| *payload != "end")
            .collect();
        seen.sort_unstable();
        let mut expected: Vec<&str> = sources
            .iter()
            .map(|(_, _, sent)| sent.payload.as_str())
            .collect();
        expected.sort_unstable();
        assert_eq!(seen, expected, "{}", watcher.name());
        assert_eq!(log.violations, [""; 0], "{}", watcher.name());
    }
}

const ROUNDS: usize = 10;
const UPDATES: u64 = 40;
/// The time within which the subscribers of one round subscribe: about as long as the updates take.
const SPAN_MS: u64 = 150;

/// One publisher updates a topic while subscribers come at random moments.
async fn race(cluster: &mut Cluster, round: usize) {
    let topic = format!("r-race/{round}");
    let version = VERSIONS[round % 2];
    let ids = cluster.ids();
    let home = ids[round % 3];
    let mut source = publisher(cluster, home, &format!("r-race-{round}"), version).await;
    let mut comers = Vec::new();
    for number in 0..12 {
        let id = format!("r-race-{round}-{number}");
        let reader = VERSIONS[number % 2];
        let options = match number / 2 % 2 {
            0 => ConnectOptions::persistent(id, reader),
            _ => ConnectOptions::transient(id, reader),
        };
        let wait = Duration::from_millis(cluster.random().below(SPAN_MS));
        let addresses = vec![cluster.mqtt(ids[number % 3])];
        let (topic, history) = (topic.clone(), cluster.history().clone());
        comers.push(async move {
            let_pass(wait).await;
            let filters = [(topic.as_str(), Qos::AtLeastOnce)];
            Receiver::start(options, addresses, &filters, &history).await
        });
    }
    let update = async {
        for number in 0..UPDATES {
            let sent = Sent::new(&topic, number.to_string(), Qos::AtLeastOnce);
            sent.retained().publish(&mut source, 1).await;
        }
    };
    let (receivers, ()) = tokio::join!(all_of(comers), update);
    let last = (UPDATES - 1).to_string();
    for receiver in &receivers {
        receiver.wait_for(&last, IN_TIME).await;
    }
    // A message to the same topic comes last of all: nothing stored comes behind the newest value.
    let end = Sent::new(&topic, "end", Qos::AtLeastOnce);
    end.publish(&mut source, 1).await;
    for receiver in &receivers {
        receiver.wait_for("end", IN_TIME).await;
        let log = receiver.log();
        let is_newest = |message: &&testkit::Delivery| message.payload != "end";
        let newest = log.messages.iter().rev().find(is_newest).unwrap();
        assert_eq!(
            newest.payload,
            last,
            "{} ends on a stale value",
            receiver.name()
        );
        assert_eq!(log.violations, [""; 0], "{}", receiver.name());
    }
}

#[tokio::test]
async fn a_new_subscriber_never_ends_on_a_stale_value() {
    let name = "a_new_subscriber_never_ends_on_a_stale_value";
    let mut cluster = Cluster::start(name, options()).await;
    for round in 0..ROUNDS * usize::try_from(testkit::scale()).unwrap() {
        race(&mut cluster, round).await;
    }
    wait_until("all nodes are ready", IN_TIME, async || {
        cluster.is_ready(1).await && cluster.is_ready(2).await && cluster.is_ready(3).await
    })
    .await;
}
