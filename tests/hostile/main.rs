//! Hostile input: malformed packets, packets out of place, slowness and floods. After each the broker
//! has reacted as the standard says, a healthy client noticed nothing, and memory is back.
//!
//! The tables are in `connect.rs` and `connected.rs`; `generated.rs` and `properties.rs` make rows
//! after a system; `slow.rs` and `floods.rs` are about time and amount.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and whatever they do not expect is a failure"
)]

mod connect;
mod connected;
mod floods;
mod generated;
mod healthy;
mod known;
mod notation;
mod properties;
mod received;
mod row;
mod slow;
mod socket;
mod tables;

use std::time::{Duration, Instant};

use codec::ProtocolVersion;
use testkit::{Cluster, ClusterOptions, NodeId, VERSIONS, report, wait_until};

use crate::floods::Aim;
use crate::healthy::Healthy;

/// What a node may keep of a whole group: more would be a leak.
const KEPT_BYTES_MAX: u64 = 32 << 20;
/// Until freed memory has gone back to the system: the allocator waits for five seconds.
const FREED_WITHIN: Duration = Duration::from_secs(20);

/// Subscriptions that a session may have here.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// A round trip of a healthy client during a flood, on a busy machine.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(5);

/// Slow CONNECTs are cut off soon.
const SLOW: &str = "[mqtt]\nconnect_timeout = \"1500ms\"\n";
/// A session may have few subscriptions.
const FLOODED: &str = "[mqtt]\nsubscriptions_max = 1000\n";

/// Nodes with further lines of configuration.
fn options(nodes: u16, limits: &'static str) -> ClusterOptions {
    ClusterOptions {
        nodes,
        limits,
        target: "hostile",
        ..ClusterOptions::new(env!("CARGO_BIN_EXE_holdfast"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_has_the_specified_reaction() {
    for version in VERSIONS {
        let rows: usize = tables::all(version)
            .iter()
            .map(|group| group.rows.len())
            .sum();
        let others = slow::names().count() + floods::all(version).count();
        report(&format!(
            "{version:?}: {rows} rows, {others} slow clients and floods"
        ));
    }
    let cluster = Cluster::start("each_row_has_the_specified_reaction", options(1, SLOW)).await;
    let [v311, v5] = VERSIONS;
    let (first, second) = tokio::join!(run_tables(&cluster, v311), run_tables(&cluster, v5));
    assert_right([first, second].concat());
}

async fn run_tables(cluster: &Cluster, version: ProtocolVersion) -> Vec<String> {
    let (address, name) = (cluster.mqtt(1), format!("tables-{version:?}"));
    let mut healthy = Healthy::connect(&[address], (&name, version), cluster.history()).await;
    let mut wrong = Vec::new();
    let at_first = cluster.resident_bytes(1);
    for group in tables::all(version) {
        let before = cluster.resident_bytes(1);
        wrong.extend(tables::run(address, &group, &mut healthy).await);
        expect_memory_back(cluster, 1, (before, group.name)).await;
    }
    wrong.extend(slow::run(address, version).await);
    expect_memory_back(cluster, 1, (at_first, "all rows")).await;
    wrong.extend(healthy.check().await.err());
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_leave_a_node_healthy() {
    let cluster = Cluster::start("floods_leave_a_node_healthy", options(1, FLOODED)).await;
    assert_right(run_floods(&cluster).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_leave_a_cluster_healthy() {
    let cluster = Cluster::start("floods_leave_a_cluster_healthy", options(3, FLOODED)).await;
    assert_right(run_floods(&cluster).await);
}

/// Each flood at one node after another; the healthy clients are at the first node and at the last.
async fn run_floods(cluster: &Cluster) -> Vec<String> {
    let mut wrong = Vec::new();
    let nodes = cluster.ids();
    let addresses: Vec<_> = nodes.iter().map(|node| cluster.mqtt(*node)).collect();
    let at_first: Vec<u64> = nodes
        .iter()
        .map(|node| cluster.resident_bytes(*node))
        .collect();
    for version in VERSIONS {
        let name = format!("flooded-{version:?}");
        let mut healthy = Healthy::connect(&addresses, (&name, version), cluster.history()).await;
        for ((name, flood), node) in floods::all(version).zip(nodes.iter().cycle()) {
            let before = cluster.resident_bytes(*node);
            let aim = Aim {
                address: cluster.mqtt(*node),
                ends: [addresses[0], addresses[addresses.len() - 1]],
                version,
            };
            let running = tokio::spawn(flood.run(aim));
            while !running.is_finished() {
                let started = Instant::now();
                wrong.extend(healthy.check().await.err());
                let took = started.elapsed();
                if took > ROUND_TRIP_MAX {
                    wrong.push(format!("{version:?} {name}: a round trip took {took:?}"));
                }
            }
            let reaction = running.await.expect("a flood ends");
            let complaint = reaction
                .err()
                .map(|why| format!("{version:?} {name}: {why}"));
            wrong.extend(known::judge(version, name, complaint));
            wrong.extend(healthy.check().await.err());
            expect_memory_back(cluster, *node, (before, name)).await;
        }
    }
    for (node, at_first) in nodes.iter().zip(at_first) {
        expect_memory_back(cluster, *node, (at_first, "all floods")).await;
        let (at_first, at_last) = (at_first >> 20, cluster.resident_bytes(*node) >> 20);
        report(&format!(
            "node {node}: {at_first} MiB before all floods, {at_last} MiB after"
        ));
    }
    wrong
}

#[track_caller]
fn assert_right(wrong: Vec<String>) {
    assert!(
        wrong.is_empty(),
        "{} wrong:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
}

/// Waits until a node's memory is near where it was.
async fn expect_memory_back(cluster: &Cluster, node: NodeId, (before, what): (u64, &str)) {
    let what = format!("memory is back near {} MiB after {what}", before >> 20);
    wait_until(&what, FREED_WITHIN, async || {
        cluster.resident_bytes(node) < before + KEPT_BYTES_MAX
    })
    .await;
}
