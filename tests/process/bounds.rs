//! Memory of a node stays within what is configured, whatever clients and peers do (G9), and who
//! keeps up does not suffer from who does not. What each bound is: docs/ARCHITECTURE.md, "Bounds".

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use codec::{ProtocolVersion, Qos};
use testkit::{Cluster, ClusterOptions, ConnectOptions, VERSIONS, let_pass, scale, wait_until};
use tokio::time::Instant;

use crate::bulk::{Bulk, Published};
use crate::scene::{all_of, options, tag};

const MIB: u64 = 1 << 20;
/// What every node must do with.
const NODE_BYTES_MAX: u64 = 512 * MIB;
const IN_TIME: Duration = Duration::from_secs(40);

fn numbered(prefix: &str, count: u64, size: usize) -> Vec<Bytes> {
    let texts = (0..count).map(|number| format!("{prefix}/{number}/"));
    texts
        .map(|mut text| {
            while text.len() < size {
                text.push('x');
            }
            Bytes::from(text)
        })
        .collect()
}

async fn bulk(cluster: &Cluster, node: u16, options: &ConnectOptions) -> Bulk {
    Bulk::connect(cluster.mqtt(node), options).await
}

async fn dropped(cluster: &Cluster, node: u16, reason: &str) -> f64 {
    let name = "holdfast_messages_dropped_total";
    cluster.metric(node, name, ("reason", reason)).await
}

async fn closed_by_overload(cluster: &Cluster, node: u16) -> f64 {
    let name = "holdfast_connections_closed_total";
    cluster.metric(node, name, ("reason", "overload")).await
}

/// A metric without labels.
async fn plain(cluster: &Cluster, node: u16, name: &str) -> f64 {
    let samples = cluster.metrics(node).await;
    let found = samples.iter().find(|sample| sample.name == name);
    found.map_or(0.0, |sample| sample.value)
}

/// Publishers in a task of their own.
async fn publish_all(
    cluster: &Cluster,
    publishers: Vec<(u16, String, ProtocolVersion)>,
    topic: &'static str,
    (count, size): (u64, usize),
) -> tokio::task::JoinHandle<Vec<Published>> {
    let mut tasks = Vec::new();
    for (node, name, version) in publishers {
        let connect = ConnectOptions::transient(name.as_str(), version);
        let mut publisher = bulk(cluster, node, &connect).await;
        tasks.push(async move {
            let payloads = numbered(&name, count, size);
            publisher.publish(topic, 100, payloads.into_iter()).await
        });
    }
    tokio::spawn(all_of(tasks))
}

/// Takes `count` messages, no faster than some fifteen thousand a second. Panics when the order of a
/// publisher is broken, or the connection is closed.
async fn take_slowly(subscriber: &mut Bulk, count: u64) {
    let mut newest = BTreeMap::new();
    for taken in 0..count {
        let Some(message) = subscriber.take().await else {
            panic!("closed after {taken} of {count} messages");
        };
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        let mut parts = text.split('/');
        let publisher = parts.next().unwrap().to_owned();
        let number: u64 = parts.next().unwrap().parse().unwrap();
        let expected = newest.insert(publisher, number).map_or(0, |last| last + 1);
        assert_eq!(number, expected, "{text}");
        if taken % 20 == 0 {
            let_pass(Duration::from_millis(1)).await;
        }
    }
}

/// A subscriber that is slower than fifty publishers together slows them down: it gets every message,
/// in order (G4), and stays connected. Publishers on its own node, and on all nodes.
#[tokio::test]
async fn fan_in_slows_publishers_down_and_disconnects_nobody() {
    let limits = "queue_max_messages = 10000";
    let name = "fan_in_slows_publishers_down_and_disconnects_nobody";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            limits,
            ..options()
        },
    )
    .await;
    for (version, nodes) in [(VERSIONS[0], &[1_u16][..]), (VERSIONS[1], &[2, 3, 1][..])] {
        let connect = ConnectOptions::transient(format!("sub-{}", tag(version)), version);
        let mut subscriber = bulk(&cluster, 1, &connect).await;
        subscriber.subscribe(&["in".into()], Qos::AtLeastOnce).await;
        let publishers = (0..50_usize).map(|index| {
            let name = format!("pub-{}-{index}", tag(version));
            (nodes[index % nodes.len()], name, VERSIONS[index % 2])
        });
        let count = 600 * u64::from(scale());
        let publishing = publish_all(&cluster, publishers.collect(), "in", (count, 0)).await;
        take_slowly(&mut subscriber, 50 * count).await;
        for published in publishing.await.unwrap() {
            assert_eq!((published.acknowledged, published.refused), (count, 0));
        }
    }
    assert!(plain(&cluster, 1, "holdfast_publish_delayed_total").await > 0.0);
    assert!(plain(&cluster, 1, "holdfast_subscribers_stuck_total").await < 0.5);
    for node in cluster.ids() {
        assert!(closed_by_overload(&cluster, node).await < 0.5, "{node}");
    }
}

/// A client that subscribes to what it publishes: its acknowledgements are taken while its
/// PUBLISHes wait for itself, so that nothing stands still.
#[tokio::test]
async fn a_client_that_publishes_to_itself_goes_on() {
    let limits = "queue_max_messages = 200";
    let name = "a_client_that_publishes_to_itself_goes_on";
    let one_node = ClusterOptions {
        limits,
        nodes: 1,
        inflight_max: 10,
        ..options()
    };
    let cluster = Cluster::start(name, one_node).await;
    for version in VERSIONS {
        let connect = ConnectOptions::transient(tag(version), version);
        let mut client = bulk(&cluster, 1, &connect).await;
        client.subscribe(&["self".into()], Qos::AtLeastOnce).await;
        // Ten are in flight, and up to the mark of fifty wait before anything is held up: then it has
        // a hundred under way, all of them waiting for its own acknowledgements.
        client.publish_to_itself("self", 59, 4_000).await;
    }
    assert!(plain(&cluster, 1, "holdfast_subscribers_stuck_total").await < 0.5);
    assert!(plain(&cluster, 1, "holdfast_publish_delayed_total").await > 0.0);
    assert!(closed_by_overload(&cluster, 1).await < 0.5);
}

/// Whoever publishes to a subscriber that has stopped reading waits for it once, not for each
/// message; the subscriber is closed when as much waits as may. Others wait for nobody.
#[tokio::test]
async fn a_subscriber_that_stops_reading_delays_its_publishers_once() {
    let limits = "queue_max_messages = 4000\nqueue_max_bytes = \"8MiB\"";
    let name = "a_subscriber_that_stops_reading_delays_its_publishers_once";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            limits,
            ..options()
        },
    )
    .await;
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let mut tasks = Vec::new();
        let mut silent = Vec::new();
        for node in [1, 2] {
            let connect = ConnectOptions::transient(format!("silent-{round}-{node}"), version);
            let mut subscriber = bulk(&cluster, node, &connect).await;
            let filter = format!("silent/{node}");
            subscriber.subscribe(&[filter], Qos::AtLeastOnce).await;
            silent.push(subscriber);
        }
        // One goes to a subscriber here, one to a subscriber of another node, one to nobody.
        for topic in ["silent/1", "silent/2", "nobody"] {
            let name = format!("pub-{round}-{}", topic.replace('/', "-"));
            let mut publisher = bulk(&cluster, 1, &ConnectOptions::transient(name, version)).await;
            tasks.push(async move {
                let payloads = numbered("p", 20_000, 1_024);
                let began = Instant::now();
                let published = publisher.publish(topic, 50, payloads.into_iter()).await;
                (published, began.elapsed())
            });
        }
        let all = all_of(tasks).await;
        for (published, took) in &all {
            assert_eq!(published.acknowledged, 20_000);
            assert!(*took < Duration::from_secs(15), "{took:?}");
            assert!(published.longest_wait < Duration::from_secs(3));
        }
        assert!(all[2].0.longest_wait < Duration::from_secs(1));
        let expected = round as f64 + 1.0;
        for node in [1, 2] {
            wait_until("the silent one is closed", IN_TIME, async || {
                closed_by_overload(&cluster, node).await >= expected
            })
            .await;
            let stuck = "holdfast_subscribers_stuck_total";
            assert!(plain(&cluster, node, stuck).await >= expected, "{node}");
        }
    }
}

/// A flood to subscribers that read and to others that do not, in small and large messages: what
/// waits for all together is bounded, what is lost is counted, and who reads is served.
#[tokio::test]
async fn a_flood_stays_within_the_memory_for_buffers() {
    let limits = "buffers_max_bytes = \"32MiB\"";
    let name = "a_flood_stays_within_the_memory_for_buffers";
    let one_node = ClusterOptions {
        limits,
        nodes: 1,
        ..options()
    };
    let cluster = Cluster::start(name, one_node).await;
    let mut silent = Vec::new();
    for index in 0..100_usize {
        let version = VERSIONS[index % 2];
        let connect = ConnectOptions::transient(format!("silent-{index}"), version);
        let mut subscriber = bulk(&cluster, 1, &connect).await;
        let own = format!("own/{index}");
        subscriber
            .subscribe(&["all".into(), own], Qos::AtLeastOnce)
            .await;
        silent.push(subscriber);
    }
    let before = cluster.resident_bytes(1);
    let mut publisher = bulk(
        &cluster,
        1,
        &ConnectOptions::transient("flood", VERSIONS[1]),
    )
    .await;
    // Each message to all of them, small and large; then each to one of them.
    publisher.flood("all", 256, 40_000).await;
    publisher.flood("all", 65_536, 3_000).await;
    for index in 0..100 {
        publisher.flood(&format!("own/{index}"), 65_536, 40).await;
    }
    let grown = cluster.peak_resident_bytes(1).saturating_sub(before);
    testkit::report(&format!("{name}: QoS 0: {} MiB", grown / MIB));
    wait_until("QoS 0 is dropped", IN_TIME, async || {
        dropped(&cluster, 1, "buffers_full").await > 0.0
    })
    .await;
    // At QoS 1 somebody who reads gets everything, although the others hold all there is.
    let mut reader = bulk(
        &cluster,
        1,
        &ConnectOptions::transient("reader", VERSIONS[0]),
    )
    .await;
    reader.subscribe(&["all".into()], Qos::AtLeastOnce).await;
    let publishers = vec![(1, "p".to_owned(), VERSIONS[1])];
    let publishing = publish_all(&cluster, publishers, "all", (1_000, 65_536)).await;
    take_slowly(&mut reader, 1_000).await;
    let published = publishing.await.unwrap().remove(0);
    assert_eq!((published.acknowledged, published.refused), (1_000, 0));
    let grown = cluster.peak_resident_bytes(1).saturating_sub(before);
    let closed = closed_by_overload(&cluster, 1).await;
    testkit::report(&format!(
        "{name}: grew by {} MiB, {closed} connections closed",
        grown / MIB
    ));
    assert!(closed > 0.0);
    assert!(grown < 110 * MIB, "grew by {} MiB", grown / MIB);
}

/// Many clients that each send most of a large packet, and no more, cannot use up the memory.
#[tokio::test]
async fn unfinished_packets_stay_within_the_memory_for_buffers() {
    let limits = "buffers_max_bytes = \"32MiB\"";
    let name = "unfinished_packets_stay_within_the_memory_for_buffers";
    let one_node = ClusterOptions {
        limits,
        nodes: 1,
        ..options()
    };
    let cluster = Cluster::start(name, one_node).await;
    let before = cluster.resident_bytes(1);
    let payload = Bytes::from(vec![b'x'; 900_000]);
    let mut clients = Vec::new();
    for index in 0..150_usize {
        let version = VERSIONS[index % 2];
        let connect = ConnectOptions::transient(format!("slow-{index}"), version);
        let mut client = bulk(&cluster, 1, &connect).await;
        let publish = crate::bulk::message("t", Qos::AtMostOnce, 0, payload.clone());
        let packet = testkit::wire::encode(&codec::Packet::Publish(publish), version);
        let most = &packet[..packet.len() - 10_000];
        client.write_within(most, Duration::from_millis(20)).await;
        clients.push(client);
    }
    let grown = cluster.peak_resident_bytes(1).saturating_sub(before);
    testkit::report(&format!("{name}: grew by {} MiB", grown / MIB));
    wait_until("the largest are closed", IN_TIME, async || {
        closed_by_overload(&cluster, 1).await > 0.0
    })
    .await;
    // Who sends little is served all the while.
    let mut client = bulk(
        &cluster,
        1,
        &ConnectOptions::transient("small", VERSIONS[1]),
    )
    .await;
    let published = client.publish("t", 10, numbered("p", 100, 0).into_iter());
    assert_eq!(published.await.acknowledged, 100);
    let grown = cluster.peak_resident_bytes(1).saturating_sub(before);
    assert!(grown < 110 * MIB, "grew by {} MiB", grown / MIB);
}

/// Publishers that send at QoS 1 far beyond Receive Maximum and read no acknowledgement, to
/// subscribers here and on another node that do not read either.
#[tokio::test]
async fn publishers_that_ignore_receive_maximum_are_not_read() {
    let name = "publishers_that_ignore_receive_maximum_are_not_read";
    let limits = "buffers_max_bytes = \"64MiB\"";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            limits,
            ..options()
        },
    )
    .await;
    let mut silent = Vec::new();
    for (node, version) in [(1, VERSIONS[0]), (2, VERSIONS[1])] {
        let connect = ConnectOptions::transient(format!("silent-{node}"), version);
        let mut subscriber = bulk(&cluster, node, &connect).await;
        subscriber.subscribe(&["in".into()], Qos::AtLeastOnce).await;
        silent.push(subscriber);
    }
    let before = [1, 2].map(|node| cluster.resident_bytes(node));
    let mut tasks = Vec::new();
    for index in 0..30_usize {
        let version = VERSIONS[index % 2];
        let connect = ConnectOptions::transient(format!("flood-{index}"), version);
        let mut publisher = bulk(&cluster, 1, &connect).await;
        tasks.push(async move {
            let size = if index < 15 { 256 } else { 65_536 };
            let payload = Bytes::from(vec![b'x'; size]);
            let publish = crate::bulk::message("in", Qos::AtLeastOnce, 1, payload);
            let packet = testkit::wire::encode(&codec::Packet::Publish(publish), version);
            let flood = packet.repeat(8_000_000 / packet.len());
            publisher.write_within(&flood, Duration::from_secs(3)).await
        });
    }
    let written: usize = all_of(tasks).await.into_iter().sum();
    for (node, before) in [1, 2].into_iter().zip(before) {
        let grown = cluster.peak_resident_bytes(node).saturating_sub(before);
        testkit::report(&format!(
            "{name}: {} MB written, node {node} grew by {} MiB",
            written / 1_000_000,
            grown / MIB
        ));
        assert!(grown < 160 * MIB, "{node} grew by {} MiB", grown / MIB);
    }
}

/// What one client can make a node keep by asking without end and reading nothing.
#[tokio::test]
async fn a_client_that_asks_and_never_reads_is_not_read_either() {
    let name = "a_client_that_asks_and_never_reads_is_not_read_either";
    let one_node = ClusterOptions {
        nodes: 1,
        ..options()
    };
    let cluster = Cluster::start(name, one_node).await;
    let before = cluster.resident_bytes(1);
    let filters: Vec<String> = (0..50).map(|number| format!("s/{number}")).collect();
    for (index, version) in VERSIONS.into_iter().cycle().take(8).enumerate() {
        let connect = ConnectOptions::transient(format!("asks-{index}"), version);
        let mut client = bulk(&cluster, 1, &connect).await;
        let what = if index < 4 {
            [0xC0, 0x00].repeat(16 << 20)
        } else {
            crate::bulk::subscribe(version, &filters).repeat(20_000)
        };
        let written = client.write_within(&what, Duration::from_millis(300)).await;
        // What answers 7 MB of SUBSCRIBEs fits into the buffers of the system.
        assert!(index >= 4 || written < what.len(), "all of {written} bytes");
    }
    let grown = cluster.peak_resident_bytes(1).saturating_sub(before);
    testkit::report(&format!("{name}: grew by {} MiB", grown / MIB));
    assert!(grown < 40 * MIB, "grew by {} MiB", grown / MIB);
}

/// A node that is stopped: the others keep no more for it than their bound, and go on when it is
/// declared down.
#[tokio::test]
async fn a_peer_that_stops_reading_costs_a_bounded_amount_of_memory() {
    let name = "a_peer_that_stops_reading_costs_a_bounded_amount_of_memory";
    let mut cluster = Cluster::start(name, options()).await;
    let mut subscribers = Vec::new();
    for version in VERSIONS {
        let connect = ConnectOptions::transient(format!("sub-{}", tag(version)), version);
        let mut subscriber = bulk(&cluster, 3, &connect).await;
        subscriber
            .subscribe(&["far".into()], Qos::AtLeastOnce)
            .await;
        subscribers.push(subscriber);
    }
    let before = [1, 2].map(|node| cluster.resident_bytes(node));
    cluster.suspend(3).await;
    let suspended = Instant::now();
    let mut flood = bulk(
        &cluster,
        1,
        &ConnectOptions::transient("flood", VERSIONS[1]),
    )
    .await;
    let publishers = (0..20_usize).map(|index| {
        let node = 1 + u16::from(index % 2 == 1);
        (node, format!("pub-{index}"), VERSIONS[index % 2])
    });
    let publishing = publish_all(&cluster, publishers.collect(), "far", (100, 65_536)).await;
    assert!(flood.flood("far", 65_536, 3_000).await);
    // Its queue was full: the flood was not read until the node was declared down, or lost some.
    let was_held_up = suspended.elapsed() > Duration::from_secs(3);
    for published in publishing.await.unwrap() {
        assert_eq!(published.acknowledged, 100);
    }
    assert!(was_held_up || dropped(&cluster, 1, "peer_queue_full").await > 0.0);
    for (node, before) in [1, 2].into_iter().zip(before) {
        let grown = cluster.peak_resident_bytes(node).saturating_sub(before);
        testkit::report(&format!("{name}: node {node} grew by {} MiB", grown / MIB));
        assert!(grown < 150 * MIB, "{node} grew by {} MiB", grown / MIB);
    }
    cluster.wake(3);
    cluster.wait_ready().await;
}

/// Subscriptions cost memory while they are there, and not again when they come back.
#[tokio::test]
async fn memory_comes_back_after_a_storm_of_subscriptions() {
    let name = "memory_comes_back_after_a_storm_of_subscriptions";
    let cluster = Cluster::start(name, options()).await;
    let mut peaks = Vec::new();
    for round in 0..3 {
        let mut clients = Vec::new();
        for index in 0..100 * scale() {
            let version = VERSIONS[usize::try_from(index % 2).unwrap()];
            let connect = ConnectOptions::transient(format!("c-{index}"), version);
            let node = cluster.ids()[usize::try_from(index % 3).unwrap()];
            let mut client = bulk(&cluster, node, &connect).await;
            let filters: Vec<String> = (0..200)
                .map(|number| format!("storm/{index}/{number}/+/#"))
                .collect();
            client.subscribe(&filters, Qos::AtLeastOnce).await;
            clients.push(client);
        }
        peaks.push(cluster.resident_bytes(1));
        drop(clients);
        wait_until("all have left", IN_TIME, async || {
            plain(&cluster, 1, "holdfast_connections").await < 0.5
        })
        .await;
        testkit::report(&format!(
            "{name}: round {round}: {} MiB",
            peaks[round] / MIB
        ));
    }
    // The first round has the process grow to its working size.
    assert!(peaks[2] < peaks[1] + 16 * MIB, "{peaks:?}");
}

/// Long queues of offline sessions, and many sessions, fit into the memory of a node.
#[tokio::test]
async fn offline_sessions_and_their_queues_fit_into_memory() {
    let name = "offline_sessions_and_their_queues_fit_into_memory";
    let cluster = Cluster::start(name, options()).await;
    let sessions = 1_000 * u64::from(scale());
    let mut tasks = Vec::new();
    for part in 0..20_u64 {
        let address = cluster.mqtt(u16::try_from(part % 3).unwrap() + 1);
        tasks.push(async move {
            for index in (part..sessions).step_by(20) {
                let version = VERSIONS[usize::from(index % 4 > 1)];
                let connect = ConnectOptions::persistent(format!("off-{index}"), version);
                let mut client = Bulk::connect(address, &connect).await;
                // The first ten get everything, each other one what is its own.
                let all = (index < 10).then(|| "queue".to_owned());
                let filter = all.unwrap_or_else(|| format!("own/{index}"));
                client.subscribe(&[filter], Qos::AtLeastOnce).await;
            }
        });
    }
    all_of(tasks).await;
    let messages = 10_000 * u64::from(scale());
    let publishers = (1..=2).map(|node| (node, format!("p-{node}"), VERSIONS[0]));
    let publishing = publish_all(
        &cluster,
        publishers.collect(),
        "queue",
        (messages / 2, 1_024),
    );
    for published in publishing.await.await.unwrap() {
        assert_eq!(published.acknowledged, messages / 2);
    }
    for node in cluster.ids() {
        let peak = cluster.peak_resident_bytes(node);
        testkit::report(&format!("{name}: node {node}: {} MiB", peak / MIB));
        assert!(peak < NODE_BYTES_MAX, "{node}: {} MiB", peak / MIB);
    }
    let connect = ConnectOptions::persistent("off-0", VERSIONS[0]).clean_start(false);
    let mut client = bulk(&cluster, 2, &connect).await;
    for taken in 0..messages {
        assert!(client.take().await.is_some(), "closed after {taken}");
    }
}

/// A durable subscriber that stops reading: its queue fills, and 5.0 publishers are told.
#[tokio::test]
async fn a_durable_subscriber_that_stops_reading_has_its_publisher_refused() {
    let limits = "queue_max_messages = 2000";
    let name = "a_durable_subscriber_that_stops_reading_has_its_publisher_refused";
    let cluster = Cluster::start(
        name,
        ClusterOptions {
            limits,
            ..options()
        },
    )
    .await;
    for version in VERSIONS {
        let connect = ConnectOptions::persistent(format!("sub-{}", tag(version)), version);
        let mut subscriber = bulk(&cluster, 2, &connect).await;
        let filter = format!("durable/{}", tag(version));
        subscriber
            .subscribe(std::slice::from_ref(&filter), Qos::AtLeastOnce)
            .await;
        let connect = ConnectOptions::transient(format!("pub-{}", tag(version)), VERSIONS[1]);
        let mut publisher = bulk(&cluster, 1, &connect).await;
        let payloads = numbered("p", 4_000, 1_024);
        let published = publisher.publish(&filter, 100, payloads.into_iter()).await;
        assert_eq!(published.acknowledged + published.refused, 4_000);
        // The window and the queue, and nothing else.
        assert!(
            (2_000..=2_100).contains(&published.acknowledged),
            "{published:?}"
        );
        for taken in 0..published.acknowledged {
            assert!(subscriber.take().await.is_some(), "closed after {taken}");
        }
    }
    assert!(dropped(&cluster, 1, "queue_full").await > 0.0);
}
