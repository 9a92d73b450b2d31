//! The life of what is stored: a node that was away longer than the log lasts comes back by snapshot
//! while the cluster works, and is as good as the others; logs are cut off, disk space comes back
//! (decision 0021).

use std::time::{Duration, Instant};

use codec::{ProtocolVersion, Qos};
use testkit::{
    Client, Cluster, ClusterOptions, ConnectOptions, Delivery, NodeId, Random, Receiver, Sender,
    SenderOptions, let_pass, oracle, report, wait_until,
};

use crate::load::Load;
use crate::scene::{
    client_ids, leader_of_some, options, payloads, publish_all, publisher, resent, spread_leaders,
};

const IN_TIME: Duration = Duration::from_secs(60);

/// Logs that last for about a second of these tests' load.
fn short_logs(snapshot_after: u64) -> ClusterOptions {
    ClusterOptions {
        snapshot_after,
        ..options()
    }
}

/// The last applied entry of each shard, and the first that the log still has.
async fn logs(cluster: &Cluster, node: NodeId) -> Vec<(f64, f64)> {
    let mut logs = Vec::new();
    for shard in 0..cluster.shards() {
        let label = ("shard", shard.to_string());
        let label = (label.0, label.1.as_str());
        let applied = cluster
            .metric(node, "holdfast_raft_applied_index", label)
            .await;
        let entries = cluster
            .metric(node, "holdfast_raft_log_entries", label)
            .await;
        logs.push((applied, applied + 1.0 - entries));
    }
    logs
}

async fn installed(cluster: &Cluster, node: NodeId) -> f64 {
    let event = ("event", "installed");
    cluster
        .metric(node, "holdfast_raft_snapshots_total", event)
        .await
}

/// Entries of each shard that a node may apply between a look at it and its end.
const ENTRIES_BETWEEN: f64 = 200.0;

/// Waits until no other node's log has an entry of before.
async fn logs_are_cut_off(cluster: &Cluster, away: NodeId, before: &[(f64, f64)]) {
    let what = format!("the logs have nothing any more that node {away} has");
    wait_until(&what, IN_TIME, async || {
        for node in cluster.others(away) {
            let now = logs(cluster, node).await;
            let is_behind = |((_, first), (applied, _)): (&(f64, f64), &(f64, f64))| {
                *first > applied + ENTRIES_BETWEEN
            };
            if now.len() != before.len() || !now.iter().zip(before).all(is_behind) {
                return false;
            }
        }
        true
    })
    .await;
}

/// A session with handshakes in every state, and the client gone.
struct Left {
    options: ConnectOptions,
    topic: String,
    unreceived: Vec<Delivery>,
    released: u16,
}

/// One session per version and shard: of four QoS 2 messages one has its PUBREC.
async fn leave_half_way(cluster: &Cluster, node: NodeId, prefix: &str) -> Vec<Left> {
    let mut all = Vec::new();
    for (version, _, id) in client_ids(prefix, cluster.shards()) {
        let topic = format!("{prefix}/{id}");
        let options = ConnectOptions::persistent(&id, version);
        let address = [cluster.mqtt(node)];
        let mut client = Client::connect_any(&address, &options, cluster.history()).await;
        client.subscribe(&topic, Qos::ExactlyOnce).await;
        let mut source = publisher(cluster, node, &format!("{id}-source"), version).await;
        publish_all(&mut source, Qos::ExactlyOnce, &topic, &payloads("r", 0..4)).await;
        let mut unreceived = Vec::new();
        for _ in 0..4 {
            unreceived.push(client.expect_publish().await);
        }
        let released = unreceived.remove(1).id;
        client.pubrec(released).await;
        client.expect_pubrel(released).await;
        client.abandon();
        all.push(Left {
            options,
            topic,
            unreceived,
            released,
        });
    }
    all
}

/// G2 on this node: same ids, same order, what was recorded is not sent again; new messages go on.
async fn resume_exactly(cluster: &Cluster, node: NodeId, sessions: Vec<Left>) {
    for left in sessions {
        let id = &left.options.client_id;
        let address = [cluster.mqtt(node)];
        let mut client = Client::connect_any(&address, &left.options, cluster.history()).await;
        assert!(client.session_present(), "{id}");
        client.expect_pubrel(left.released).await;
        client.pubcomp(left.released).await;
        for delivery in &left.unreceived {
            assert_eq!(client.expect_publish().await, resent(delivery), "{id}");
        }
        for delivery in &left.unreceived {
            client.pubrec(delivery.id).await;
            client.expect_pubrel(delivery.id).await;
            client.pubcomp(delivery.id).await;
        }
        let source = format!("{id}-source-after");
        let mut source = publisher(cluster, node, &source, ProtocolVersion::V5).await;
        source.publish_qos1(1, &left.topic, "new").await;
        assert_eq!(client.take_message().await.payload, "new", "{id}");
    }
}

/// Each shard tells what it loaded at the start, and how much of the log it replayed.
fn check_start_is_told(cluster: &Cluster, node: NodeId) {
    let log = cluster.node_log(node);
    let told = |event: &str, fields: &[&str]| {
        let is_it = |line: &&str| {
            line.contains(event)
                && fields
                    .iter()
                    .all(|field| line.contains(&format!("\"{field}\":")))
        };
        log.lines().filter(is_it).count()
    };
    let shards = usize::from(cluster.shards());
    let loaded = told(
        "loaded the state",
        &["shard", "keys", "milliseconds", "entries_to_replay"],
    );
    assert!(loaded >= shards, "{loaded} of {shards} shards told:\n{log}");
}

/// Until `milliseconds` of the slowest shard, in the log of the newest start.
fn slowest_load_ms(cluster: &Cluster, node: NodeId) -> u64 {
    let log = cluster.node_log(node);
    let lines = log.lines().filter(|line| line.contains("loaded the state"));
    let millis = lines.filter_map(|line| {
        let (_, rest) = line.split_once("\"milliseconds\":")?;
        let digits: String = rest
            .trim_start_matches('"')
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    });
    millis.max().unwrap_or(0)
}

/// Kill, and sleep, each for longer than the log lasts; then another node dies, so that the sessions
/// are resumed from what the snapshot brought (G1, G2).
#[tokio::test]
async fn a_node_that_was_away_longer_than_the_log_serves_from_its_own_state_again() {
    let name = "a_node_that_was_away_longer_than_the_log_serves_from_its_own_state_again";
    let mut cluster = Cluster::start(name, short_logs(100)).await;
    let away = leader_of_some(&spread_leaders(&cluster).await);
    let other = cluster.others(away)[0];
    let third = cluster.others(away)[1];
    let load = Load::start(&cluster, "st").await;
    for sleeps in [false, true] {
        let sessions = leave_half_way(&cluster, other, &format!("st-{sleeps}")).await;
        let before = logs(&cluster, away).await;
        let snapshots = if sleeps {
            installed(&cluster, away).await
        } else {
            0.0
        };
        if sleeps {
            cluster.suspend(away).await;
        } else {
            cluster.kill(away);
        }
        // Part of what was in flight is known to the others only.
        logs_are_cut_off(&cluster, away, &before).await;
        if sleeps {
            cluster.wake(away);
        } else {
            // Clients of a node that sleeps do not know that; those of a dead one have moved.
            load.progress(20).await;
            cluster.restart(away);
        }
        let back = Instant::now();
        wait_until(
            "it installed a snapshot of each shard",
            IN_TIME,
            async || {
                installed(&cluster, away).await - snapshots > f64::from(cluster.shards()) - 0.5
            },
        )
        .await;
        cluster.wait_node_ready(away).await;
        let took = back.elapsed();
        if !sleeps {
            check_start_is_told(&cluster, away);
        }
        report(&format!(
            "{name}: sleeps: {sleeps}: ready {took:?} after it was back, loaded in {} ms",
            slowest_load_ms(&cluster, away)
        ));
        load.progress(20).await;
        // From here on nothing is committed without the node that was away.
        cluster.kill(third);
        resume_exactly(&cluster, away, sessions).await;
        load.progress(5).await;
        cluster.restart_all().await;
    }
    load.finish(&cluster).await;
}

/// How long a node sleeps without being out of service for good: its connections stay.
const NAP: Duration = Duration::from_millis(1_800);
const NAPS_MAX: usize = 8;

/// Numbered messages to everybody, from persistent sessions on these nodes.
async fn senders(cluster: &Cluster, nodes: &[NodeId], topic: &str) -> Vec<(Qos, Sender)> {
    let mut senders = Vec::new();
    for (version, shard, client_id) in client_ids("sn-source", cluster.shards()) {
        let qos = [Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(shard % 2)];
        let options = SenderOptions {
            topic: format!("{topic}/{client_id}"),
            connect: ConnectOptions::persistent(client_id, version),
            addresses: nodes.iter().map(|node| cluster.mqtt(*node)).collect(),
            qos,
            in_flight_max: 10,
            interval: Duration::from_millis(10),
            count: None,
        };
        senders.push((qos, Sender::start(options, cluster.history()).await));
    }
    senders
}

/// A snapshot takes the place of entries that were never applied one by one: the connections of the
/// node compare what they sent with the session, and lose and repeat nothing.
#[tokio::test]
async fn connections_that_live_through_an_installed_snapshot_lose_and_repeat_nothing() {
    let name = "connections_that_live_through_an_installed_snapshot_lose_and_repeat_nothing";
    let mut cluster = Cluster::start(name, short_logs(10)).await;
    let away = leader_of_some(&spread_leaders(&cluster).await);
    let rest = cluster.others(away);
    let mut receivers = Vec::new();
    for (version, _, client_id) in client_ids("sn", cluster.shards()) {
        let options = ConnectOptions::persistent(client_id, version);
        let addresses = vec![cluster.mqtt(away)];
        let filters = [("sn/#", Qos::ExactlyOnce)];
        receivers.push(Receiver::start(options, addresses, &filters, cluster.history()).await);
    }
    let senders = senders(&cluster, &rest, "sn").await;
    let stayed = || {
        let connections = receivers
            .iter()
            .map(|receiver| receiver.log().connected_at.len());
        connections.filter(|count| *count == 1).count()
    };
    let mut naps = 0;
    let mut lived_through = false;
    while naps < NAPS_MAX && !lived_through {
        naps += 1;
        let before = installed(&cluster, away).await;
        cluster.suspend(away).await;
        let_pass(NAP).await;
        cluster.wake(away);
        cluster.wait_node_ready(away).await;
        for (_, sender) in &senders {
            let until = sender.log().acknowledged.len() + 10;
            sender.wait_acknowledged(until, IN_TIME).await;
        }
        let count = installed(&cluster, away).await - before;
        lived_through = count > 0.5 && stayed() > 0;
        cluster.history().note(format!(
            "{count} snapshots, {} connections stayed",
            stayed()
        ));
    }
    report(&format!(
        "{name}: {naps} naps, {} of {} connections stayed",
        stayed(),
        receivers.len()
    ));
    assert!(
        lived_through,
        "no connection saw a snapshot being installed"
    );
    for (qos, sender) in senders {
        let name = sender.name().to_owned();
        let log = sender.finish().await;
        assert_eq!(log.violations, [""; 0], "{name}");
        for receiver in &receivers {
            receiver
                .wait_for(&format!("{name}/{}", log.begun - 1), IN_TIME)
                .await;
            let seen = receiver.sequence(&name);
            let verdict = match qos {
                Qos::ExactlyOnce => oracle::exactly_once(&seen, log.begun),
                Qos::AtLeastOnce | Qos::AtMostOnce => {
                    oracle::at_least_once(&seen, &log.acknowledged)
                }
            };
            assert_eq!(verdict, Ok(()), "{} of {name}", receiver.name());
            // Without a lost connection, and with publishers that kept theirs, QoS 1 is not repeated.
            let log = receiver.log();
            assert_eq!(log.violations, [""; 0], "{}", receiver.name());
        }
    }
}

/// Payload of the messages that fill disks.
const BLOCK_BYTES: usize = 64 << 10;
/// Blocks of one round: 32 MiB of payload.
const ROUND_BLOCKS: u64 = 512;
const ROUNDS: usize = 12;
/// Both databases of a node, while the logs hold next to nothing: the log's files are merged when they
/// take 128 MiB more than they need, and copied for that.
const DISK_MIB_MAX: u64 = 448;
/// What it comes down to again and again; without that the last rounds would begin with more.
const DISK_MIB_LOW: u64 = 256;

/// Text that compression makes no smaller: the state tables are compressed.
fn block(random: &mut Random) -> String {
    let mut text = String::with_capacity(BLOCK_BYTES);
    while text.len() < BLOCK_BYTES {
        text.push_str(&format!("{:016x}", random.next_u64()));
    }
    text
}

/// Publishes a block so many times, some in flight at once, and a last message.
async fn publish_blocks(source: &mut Client, block: &str, count: u64, last: &str) {
    let topic = "sd";
    let payloads = vec![block.to_owned(); usize::try_from(count).unwrap()];
    publish_all(source, Qos::AtLeastOnce, topic, &payloads).await;
    source.publish_qos1(1, topic, last).await;
}

/// Takes everything up to this message.
async fn drain(client: &mut Client, last: &str) {
    while client.take_message().await.payload != last {}
}

/// MiB in the data folder of each node.
fn disk_mib(cluster: &Cluster) -> Vec<u64> {
    let nodes = cluster.ids().into_iter();
    nodes.map(|node| cluster.disk_bytes(node) >> 20).collect()
}

/// Under steady load what is written is freed again; what waits for a session that is away is freed
/// when that has taken it.
#[tokio::test]
async fn disk_use_levels_off_under_steady_load_and_shrinks_after_a_drain() {
    let name = "disk_use_levels_off_under_steady_load_and_shrinks_after_a_drain";
    let mut cluster = Cluster::start(name, short_logs(200)).await;
    let block = block(cluster.random());
    let options = ConnectOptions::persistent("sd", ProtocolVersion::V5);
    let mut source = publisher(&cluster, 1, "sd-source", ProtocolVersion::V5).await;
    let mut client = Client::connect_any(&[cluster.mqtt(2)], &options, cluster.history()).await;
    client.subscribe("sd", Qos::AtLeastOnce).await;
    let mut most = Vec::new();
    for _ in 0..ROUNDS {
        publish_blocks(&mut source, &block, ROUND_BLOCKS, "last").await;
        drain(&mut client, "last").await;
        most.push(disk_mib(&cluster).into_iter().max().unwrap_or(0));
    }
    report(&format!("{name}: {most:?} MiB after rounds of 32 MiB"));
    assert!(most.iter().all(|mib| *mib < DISK_MIB_MAX), "{most:?} MiB");
    let last = &most[ROUNDS - 4..];
    assert!(last.iter().any(|mib| *mib < DISK_MIB_LOW), "{most:?} MiB");
    client.abandon();

    // A queue that nobody takes; then somebody does.
    publish_blocks(&mut source, &block, 3 * ROUND_BLOCKS, "drained").await;
    let mut states = Vec::new();
    wait_until("the queue is in the state tables", IN_TIME, async || {
        states = state_mib(&cluster).await;
        states.iter().all(|mib| *mib > 32.0)
    })
    .await;
    let full = states.clone();
    let mut client = Client::connect_any(&[cluster.mqtt(3)], &options, cluster.history()).await;
    drain(&mut client, "drained").await;
    let took = wait_until("the space of the queue comes back", IN_TIME, async || {
        states = state_mib(&cluster).await;
        states.iter().all(|mib| *mib < 8.0)
    })
    .await;
    report(&format!(
        "{name}: state tables {full:.0?} MiB full, {states:.0?} MiB {took:?} after the drain"
    ));
}

/// MiB in the state tables of each node.
async fn state_mib(cluster: &Cluster) -> Vec<f64> {
    let mut states = Vec::new();
    for node in cluster.ids() {
        let label = ("kind", "state");
        let bytes = cluster
            .metric(node, "holdfast_storage_size_bytes", label)
            .await;
        states.push(bytes / f64::from(1 << 20));
    }
    states
}
