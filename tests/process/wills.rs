//! Wills (G7; failover.md section 9): published once when a client or its node goes without a word,
//! after their delay, whichever nodes die meanwhile; not after a normal end [MQTT-3.1.2-10].

use std::time::{Duration, Instant};

use codec::{
    Disconnect, MessageProperties, Packet, PayloadFormat, ProtocolVersion, Publish, Qos,
    ReasonCode, SubscriptionOptions, TopicName, Utf8, Will,
};
use testkit::{
    Client, Cluster, ConnectOptions, NodeId, Receiver, VERSIONS, client_id_in_shard, let_pass,
    wait_until,
};

use crate::exchange::{Sent, Taker, take, text};
use crate::scene::{client_ids, leader_of_some, options, spread_leaders, tag};

const IN_TIME: Duration = Duration::from_secs(30);
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// Of the client whose will comes after all others that are due.
const BARRIER_DELAY_S: u32 = 1;

fn will(client_id: &str, delay_s: u32) -> Will {
    Sent::new("w/will", client_id, Qos::ExactlyOnce).will(delay_s)
}

async fn connect(cluster: &Cluster, node: NodeId, options: &ConnectOptions) -> Client {
    Client::connect_any(&[cluster.mqtt(node)], options, cluster.history()).await
}

/// Persistent and transient subscribers in both versions: one of each on every one of `nodes`.
async fn watchers(cluster: &Cluster, nodes: &[NodeId]) -> Vec<Receiver> {
    let mut watchers = Vec::new();
    for node in nodes {
        for version in VERSIONS {
            let id = |kind: &str| format!("w-watch-{kind}-{}-{node}", tag(version));
            for options in [
                ConnectOptions::persistent(id("p"), version),
                ConnectOptions::transient(id("t"), version),
            ] {
                let filters = [("w/#", Qos::ExactlyOnce)];
                let addresses = vec![cluster.mqtt(*node)];
                watchers
                    .push(Receiver::start(options, addresses, &filters, cluster.history()).await);
            }
        }
    }
    watchers
}

/// Wills of one shard go out in the order in which they fall due: when the will of a client that goes
/// now has come, all that were due by now have.
async fn all_due_are_out(cluster: &Cluster, node: NodeId, name: &str, watchers: &[Receiver]) {
    let mut last = Vec::new();
    for shard in 0..cluster.shards() {
        let client_id = client_id_in_shard(&format!("w-last-{name}"), shard, cluster.shards());
        let options = ConnectOptions::persistent(&client_id, ProtocolVersion::V5);
        let options = options.will(will(&client_id, BARRIER_DELAY_S));
        connect(cluster, node, &options).await.abandon();
        last.push(client_id);
    }
    for watcher in watchers {
        for client_id in &last {
            watcher.wait_for(client_id, IN_TIME).await;
        }
    }
}

/// Every watcher has seen the wills of exactly these clients, once each.
fn check(watchers: &[Receiver], expected: &[String]) {
    let mut expected = expected.to_vec();
    expected.sort();
    for watcher in watchers {
        let log = watcher.log();
        let mut seen: Vec<String> = log
            .messages
            .into_iter()
            .map(|message| message.payload)
            .filter(|payload| !payload.starts_with("w-last-"))
            .collect();
        seen.sort();
        assert_eq!(seen, expected, "{}", watcher.name());
        assert_eq!(log.violations, [""; 0], "{}", watcher.name());
    }
}

fn node_of(cluster: &Cluster, number: usize) -> NodeId {
    let ids = cluster.ids();
    ids[number % ids.len()]
}

#[tokio::test]
async fn a_will_is_published_once_unless_the_client_says_good_bye() {
    let name = "a_will_is_published_once_unless_the_client_says_good_bye";
    let cluster = Cluster::start(name, options()).await;
    let watchers = watchers(&cluster, &[1, 3]).await;
    let mut expected = Vec::new();
    let mut silent = Vec::new();
    for (number, (version, _, client_id)) in
        client_ids("w", cluster.shards()).into_iter().enumerate()
    {
        for kind in ["persistent", "transient"] {
            let node = node_of(&cluster, number);
            let make = |end: &str| {
                let id = format!("{client_id}-{kind}-{end}");
                let options = match kind {
                    "persistent" => ConnectOptions::persistent(&id, version),
                    _ => ConnectOptions::transient(&id, version),
                };
                options.will(will(&id, 0))
            };
            // The socket is closed.
            let dropped = make("drop");
            connect(&cluster, node, &dropped).await.abandon();
            expected.push(dropped.client_id);
            // Nothing is heard for one and a half times the keep alive [MQTT-3.1.2-22].
            let keep_alive = make("keep-alive").keep_alive_s(1);
            silent.push(connect(&cluster, node, &keep_alive).await);
            expected.push(keep_alive.client_id);
            // A breach of the protocol: a second CONNECT [MQTT-3.1.0-2].
            let wrong = make("breach");
            let mut client = connect(&cluster, node, &wrong).await;
            client
                .send(&Packet::Connect(Box::new(wrong.packet())))
                .await;
            client.expect_closed(CLOSED_WITHIN).await;
            expected.push(wrong.client_id);
            // Disconnect with Will Message.
            if version == ProtocolVersion::V5 {
                let told = make("0x04");
                let mut client = connect(&cluster, node, &told).await;
                client.send(&with_will()).await;
                client.expect_closed(CLOSED_WITHIN).await;
                expected.push(told.client_id);
            }
            // Good bye [MQTT-3.14.4-3].
            let mut client = connect(&cluster, node, &make("normal")).await;
            client
                .send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)))
                .await;
            client.expect_closed(CLOSED_WITHIN).await;
        }
    }
    for mut client in silent {
        client.expect_closed(CLOSED_WITHIN).await;
    }
    all_due_are_out(&cluster, 2, "ends", &watchers).await;
    check(&watchers, &expected);
}

fn with_will() -> Packet {
    Packet::Disconnect(Disconnect::new(ReasonCode::DisconnectWithWillMessage))
}

#[tokio::test]
async fn a_takeover_publishes_the_will_unless_it_may_wait() {
    let name = "a_takeover_publishes_the_will_unless_it_may_wait";
    let cluster = Cluster::start(name, options()).await;
    let watchers = watchers(&cluster, &[2]).await;
    let mut expected = Vec::new();
    let mut stay = Vec::new();
    for (version, _, client_id) in client_ids("w-over", cluster.shards()) {
        // Delay, whether the newer connection starts clean, whether the will goes out.
        let cases = [
            (0, false, true),
            (0, true, true),
            (30, false, false),
            (30, true, true),
        ];
        for (delay_s, clean, is_published) in cases {
            if version == ProtocolVersion::V311 && delay_s > 0 {
                continue;
            }
            let id = format!("{client_id}-{delay_s}-{clean}");
            let options = ConnectOptions::persistent(&id, version);
            let with_will = options.clone().will(will(&id, delay_s));
            let mut older = connect(&cluster, 1, &with_will).await;
            stay.push(connect(&cluster, 3, &options.clean_start(clean)).await);
            older.expect_closed(CLOSED_WITHIN).await;
            if is_published {
                expected.push(id);
            }
        }
    }
    for id in &expected {
        for watcher in &watchers {
            watcher.wait_for(id, IN_TIME).await;
        }
    }
    all_due_are_out(&cluster, 1, "over", &watchers).await;
    check(&watchers, &expected);
}

const DELAY_S: u32 = 3;
const A_BIT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_will_waits_for_its_delay_or_the_end_of_the_session() {
    let name = "a_will_waits_for_its_delay_or_the_end_of_the_session";
    let cluster = Cluster::start(name, options()).await;
    let watchers = watchers(&cluster, &[2]).await;
    let (mut expected, mut resumed) = (Vec::new(), Vec::new());
    let mut begun = Vec::new();
    let mut stay = Vec::new();
    for shard in 0..cluster.shards() {
        // Will Delay, Session Expiry, comes back in time.
        let cases = [
            ("delay", DELAY_S, 600, false),
            ("expiry", 600, DELAY_S, false),
            ("back", DELAY_S, 600, true),
        ];
        for (case, delay_s, expiry_s, comes_back) in cases {
            let prefix = format!("w-delay-{case}-s{shard}");
            let id = client_id_in_shard(&prefix, shard, cluster.shards());
            let options = ConnectOptions::persistent(&id, ProtocolVersion::V5);
            let options = options.session_expiry_s(expiry_s);
            let with_will = options.clone().will(will(&id, delay_s));
            begun.push((id.clone(), Instant::now()));
            connect(&cluster, 1, &with_will).await.abandon();
            if comes_back {
                resumed.push((options, id));
            } else {
                expected.push(id);
            }
        }
    }
    for (options, id) in resumed {
        let client = connect(&cluster, 3, &options).await;
        assert!(client.session_present(), "{id}");
        stay.push(client);
    }
    let first_due = begun[0].1 + Duration::from_secs(DELAY_S.into());
    let_pass(first_due.saturating_duration_since(Instant::now() + A_BIT)).await;
    let early = watchers[0].log().messages;
    // The look itself may come late on a busy machine.
    assert!(early.is_empty() || Instant::now() >= first_due, "{early:?}");
    for id in &expected {
        for watcher in &watchers {
            watcher.wait_for(id, IN_TIME).await;
        }
        let (_, began) = begun.iter().find(|(begun, _)| begun == id).unwrap();
        let took = began.elapsed();
        cluster.history().note(format!("{id} after {took:?}"));
        let delay = Duration::from_secs(DELAY_S.into());
        assert!(took >= delay, "{id} came after {took:?}");
        assert!(took < delay + CLOSED_WITHIN, "{id} came after {took:?}");
    }
    all_due_are_out(&cluster, 1, "delay", &watchers).await;
    check(&watchers, &expected);
}

#[tokio::test]
async fn the_wills_of_a_dead_node_are_published_once() {
    let name = "the_wills_of_a_dead_node_are_published_once";
    let mut cluster = Cluster::start(name, options()).await;
    let home = leader_of_some(&spread_leaders(&cluster).await);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let watchers = watchers(&cluster, &[near, far]).await;
    let (mut expected, mut stay, mut moving) = (Vec::new(), Vec::new(), Vec::new());
    for (version, _, client_id) in client_ids("w-node", cluster.shards()) {
        for persistent in [true, false] {
            let id = format!("{client_id}-{persistent}");
            let options = match persistent {
                true => ConnectOptions::persistent(&id, version),
                false => ConnectOptions::transient(&id, version),
            };
            stay.push(connect(&cluster, home, &options.will(will(&id, 0))).await);
            expected.push(id);
        }
        if version == ProtocolVersion::V5 {
            let id = format!("{client_id}-moves");
            let options = ConnectOptions::persistent(&id, version);
            let with_will = options.clone().will(will(&id, 600));
            stay.push(connect(&cluster, home, &with_will).await);
            moving.push(options);
        }
    }
    cluster.kill(home);
    let mut moved = Vec::new();
    for options in &moving {
        let client = connect(&cluster, near, options).await;
        assert!(client.session_present(), "{}", options.client_id);
        moved.push(client);
    }
    for watcher in &watchers {
        for id in &expected {
            watcher.wait_for(id, IN_TIME).await;
        }
    }
    cluster.restart_all().await;
    all_due_are_out(&cluster, far, "node", &watchers).await;
    check(&watchers, &expected);
}

#[tokio::test]
async fn a_pending_will_outlives_the_leader_of_its_shard() {
    let name = "a_pending_will_outlives_the_leader_of_its_shard";
    let mut cluster = Cluster::start(name, options()).await;
    let leaders = spread_leaders(&cluster).await;
    let home = leader_of_some(&leaders);
    let [near, far] = cluster.others(home)[..] else {
        panic!("three nodes")
    };
    let watchers = watchers(&cluster, &[far]).await;
    let mut expected = Vec::new();
    for shard in 0..cluster.shards() {
        // Due before a new leader is there, while it is being elected, and after.
        for delay_s in 1..=4 {
            let prefix = format!("w-pending-{delay_s}-s{shard}");
            let id = client_id_in_shard(&prefix, shard, cluster.shards());
            let options = ConnectOptions::persistent(&id, ProtocolVersion::V5);
            let options = options.will(will(&id, delay_s));
            connect(&cluster, near, &options).await.abandon();
            expected.push(id);
        }
    }
    wait_until("the first will is out", IN_TIME, async || {
        !watchers[0].log().messages.is_empty()
    })
    .await;
    cluster.kill(home);
    for watcher in &watchers {
        for id in &expected {
            watcher.wait_for(id, IN_TIME).await;
        }
    }
    cluster.restart_all().await;
    all_due_are_out(&cluster, near, "pending", &watchers).await;
    check(&watchers, &expected);
}

fn pair(name: &str, value: &str) -> (Utf8, Utf8) {
    (
        Utf8::try_from(name).unwrap(),
        Utf8::try_from(value).unwrap(),
    )
}

fn properties() -> MessageProperties {
    MessageProperties {
        payload_format_indicator: Some(PayloadFormat::Utf8),
        message_expiry_interval: Some(1_000),
        content_type: Some(Utf8::try_from("text/plain").unwrap()),
        response_topic: Some(TopicName::try_from("w/answer").unwrap()),
        correlation_data: Some("question".into()),
        user_properties: vec![pair("a", "1"), pair("b", "2"), pair("a", "1")],
    }
}

fn check_complete(publish: &Publish, version: ProtocolVersion, retain: bool) {
    assert_eq!(publish.qos, Qos::ExactlyOnce, "{publish:?}");
    assert_eq!(publish.retain, retain, "{publish:?}");
    if version != ProtocolVersion::V5 {
        return;
    }
    let interval_s = publish.properties.message_expiry_interval.unwrap();
    // It counts from the moment the will is published [MQTT-3.3.2-6].
    assert!((900..=1_000).contains(&interval_s), "{publish:?}");
    let expected = MessageProperties {
        message_expiry_interval: Some(interval_s),
        ..properties()
    };
    assert_eq!(publish.properties, expected);
}

#[tokio::test]
async fn a_retained_will_arrives_complete_and_is_stored() {
    let name = "a_retained_will_arrives_complete_and_is_stored";
    let cluster = Cluster::start(name, options()).await;
    for (number, (version, _, client_id)) in client_ids("w-retained", cluster.shards())
        .into_iter()
        .enumerate()
    {
        let topic = format!("wr/{client_id}");
        let mut sent = Sent::new(&topic, &client_id, Qos::ExactlyOnce).retained();
        if version == ProtocolVersion::V5 {
            sent.properties = properties();
        }
        let mut live = Vec::new();
        for (reader, node) in VERSIONS.into_iter().zip([1, 2]) {
            let id = format!("{client_id}-live-{}", tag(reader));
            let options = ConnectOptions::persistent(id, reader);
            let mut client = connect(&cluster, node, &options).await;
            let wanted = SubscriptionOptions {
                retain_as_published: reader == ProtocolVersion::V5,
                ..SubscriptionOptions::new(Qos::ExactlyOnce)
            };
            client.subscribe_with(&topic, wanted, None).await;
            live.push((reader, client));
        }
        let options = ConnectOptions::transient(&client_id, version).will(sent.will(0));
        let node = node_of(&cluster, number);
        connect(&cluster, node, &options).await.abandon();
        let both = |reader| match version {
            ProtocolVersion::V5 => reader,
            ProtocolVersion::V31 | ProtocolVersion::V311 => version,
        };
        for (reader, client) in &mut live {
            let messages = take(client, 1).await;
            assert_eq!(messages.len(), 1, "{messages:?}");
            check_complete(&messages[0], both(*reader), *reader == ProtocolVersion::V5);
        }
        for (reader, node) in VERSIONS.into_iter().zip([3, 1]) {
            let id = format!("{client_id}-late-{}", tag(reader));
            let options = ConnectOptions::transient(id, reader);
            let mut client = connect(&cluster, node, &options).await;
            let mut taker = Taker::default();
            for packet in client.subscribe(&topic, Qos::ExactlyOnce).await {
                taker.on_packet(&mut client, packet).await;
            }
            let first = |messages: &[Publish]| !messages.is_empty();
            taker.take_until(&mut client, "the will", first).await;
            assert_eq!(text(&taker.messages[0]), client_id);
            check_complete(&taker.messages[0], both(reader), true);
        }
    }
}
