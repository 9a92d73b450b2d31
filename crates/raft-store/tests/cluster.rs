//! Three nodes in this process: replication, leader changes, restarts, replay.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

#[path = "common/cluster.rs"]
#[expect(dead_code, reason = "shared with the snapshot tests")]
mod cluster;

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use cluster::{Cluster, batch, listen, wait_until};
use raft_store::{Command, NodeId, ShardId, WriteError, encode_command};

const SHARD: ShardId = ShardId(0);

fn commands(number: u64) -> Vec<Bytes> {
    let node = NodeId(1 + u16::try_from(number % 100).unwrap());
    (0..3)
        .map(|_| encode_command(&Command::NodeUp { node }))
        .collect()
}

async fn write_some(cluster: &Cluster, shard: ShardId, numbers: std::ops::Range<u64>) {
    for number in numbers {
        cluster.write(shard, batch(commands(number))).await;
    }
}

/// Any node that does not lead.
fn follower(cluster: &Cluster, leader: NodeId) -> NodeId {
    *cluster.nodes.keys().find(|node| **node != leader).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_leader_wrote_is_applied_everywhere_in_order() {
    let mut cluster = Cluster::start(3, 2).await;
    for shard in [ShardId(0), ShardId(1)] {
        write_some(&cluster, shard, 1..21).await;
        cluster.check_replicas_agree(shard).await;
        for node in cluster.nodes.values() {
            let seen = node.seen.lock().unwrap()[&shard].clone();
            assert_eq!(seen.len(), 20);
            assert!(seen.is_sorted_by(|a, b| a < b));
        }
    }
    let leader = cluster.leader(SHARD).await;
    let index = cluster.shard(leader, SHARD).read_index().await.unwrap();
    assert!(
        index
            >= *cluster.nodes[&leader].seen.lock().unwrap()[&SHARD]
                .last()
                .unwrap()
    );
    assert!(cluster.shard(leader, SHARD).commit_index() >= index);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_takes_writes_and_others_name_it() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader(SHARD).await;
    let follower = follower(&cluster, leader);
    wait_until("the follower knows the leader", || {
        cluster.shard(follower, SHARD).leader() == Some(leader)
    })
    .await;
    let shard = cluster.shard(follower, SHARD);
    assert_eq!(
        shard.write(batch(commands(1))).await,
        Err(WriteError::NotLeader {
            leader: Some(leader)
        })
    );
    assert!(matches!(
        shard.read_index().await,
        Err(WriteError::NotLeader { .. })
    ));
    wait_until("the follower hears the leader", || {
        shard.has_leader_confirmed(Duration::from_millis(500))
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_catches_up() {
    let mut cluster = Cluster::start(3, 1).await;
    write_some(&cluster, SHARD, 1..11).await;
    let away = follower(&cluster, cluster.leader(SHARD).await);
    cluster.stop(away).await;
    write_some(&cluster, SHARD, 11..41).await;
    cluster.restart(away).await;
    cluster.check_replicas_agree(SHARD).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_stops_another_goes_on_and_the_old_one_follows_when_it_returns() {
    let mut cluster = Cluster::start(3, 1).await;
    write_some(&cluster, SHARD, 1..11).await;
    let first = cluster.leader(SHARD).await;
    cluster.stop(first).await;
    write_some(&cluster, SHARD, 11..21).await;
    let second = cluster.leader(SHARD).await;
    assert_ne!(first, second);
    cluster.restart(first).await;
    write_some(&cluster, SHARD, 21..31).await;
    cluster.check_replicas_agree(SHARD).await;
    assert_eq!(
        cluster.nodes[&second].seen.lock().unwrap()[&SHARD].len(),
        30
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_log_gives_the_same_state_as_a_live_one() {
    let mut cluster = Cluster::start(3, 2).await;
    let shards = [ShardId(0), ShardId(1)];
    for shard in shards {
        write_some(&cluster, shard, 1..51).await;
        cluster.check_replicas_agree(shard).await;
    }
    let node = NodeId(2);
    let before: Vec<u64> = cluster.nodes[&node].seen.lock().unwrap()[&SHARD].clone();
    cluster.stop(node).await;
    cluster.wait_until_closed(node).await;
    fs::remove_dir_all(cluster.folder(node).join("state")).unwrap();
    cluster.restart(node).await;
    for shard in shards {
        cluster.check_replicas_agree(shard).await;
    }
    assert_eq!(cluster.nodes[&node].seen.lock().unwrap()[&SHARD], before);

    // With its tables it replays nothing that they hold.
    cluster.stop(node).await;
    cluster.restart(node).await;
    for shard in shards {
        cluster.check_replicas_agree(shard).await;
    }
    assert!(cluster.nodes[&node].seen.lock().unwrap().is_empty());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_spread_over_the_nodes_and_returns_to_a_node_that_was_away() {
    let mut cluster = Cluster::start(3, 3).await;
    let spread = |cluster: &Cluster| {
        (1..=3).all(|node| cluster.shard(NodeId(node), ShardId(node - 1)).is_leader())
    };
    wait_until("each node leads one shard", || spread(&cluster)).await;
    cluster.stop(NodeId(1)).await;
    write_some(&cluster, SHARD, 1..11).await;
    assert_ne!(cluster.leader(SHARD).await, NodeId(1));
    cluster.restart(NodeId(1)).await;
    wait_until("each node leads one shard again", || spread(&cluster)).await;
    write_some(&cluster, SHARD, 11..21).await;
    cluster.check_replicas_agree(SHARD).await;
    cluster.stop_all().await;
}

/// Pre-vote: it asks whether it would be elected before it raises the term.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nothing_disturbs_nobody() {
    let mut cluster = Cluster::start(3, 1).await;
    write_some(&cluster, SHARD, 1..6).await;
    let leader = cluster.leader(SHARD).await;
    let deaf = follower(&cluster, leader);
    let term = cluster.shard(leader, SHARD).term();
    cluster.nodes.get_mut(&deaf).unwrap().stop_serving();
    // It hears nothing for many election timeouts, while the others go on.
    wait_until("it lost its leader", || {
        !cluster
            .shard(deaf, SHARD)
            .has_leader_confirmed(Duration::from_secs(4))
    })
    .await;
    write_some(&cluster, SHARD, 6..11).await;
    assert_eq!(cluster.shard(leader, SHARD).term(), term);
    assert_eq!(cluster.shard(deaf, SHARD).term(), term);

    let listener = listen(cluster.addresses[&deaf]).await;
    cluster.nodes.get_mut(&deaf).unwrap().serve(listener);
    cluster.check_replicas_agree(SHARD).await;
    assert_eq!(cluster.leader(SHARD).await, leader);
    assert_eq!(cluster.shard(leader, SHARD).term(), term);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_leads_alone_and_finds_its_state_again() {
    let mut cluster = Cluster::start(1, 4).await;
    let node = NodeId(1);
    for shard in (0..4).map(ShardId) {
        write_some(&cluster, shard, 1..11).await;
        let shard = cluster.shard(node, shard);
        // However long ago its last entry was: nobody else could answer.
        assert!(shard.has_leader_confirmed(Duration::ZERO));
        shard.read_index().await.unwrap();
    }
    let digest = |cluster: &Cluster| {
        cluster
            .shard(node, SHARD)
            .with_machine(|machine| machine.digest())
    };
    let before = digest(&cluster);
    let health = cluster.nodes[&node].shards.storage_health();
    assert_eq!(health.failure, None);
    assert!(health.fsyncs > 0);
    cluster.stop(node).await;
    cluster.restart(node).await;
    assert_eq!(digest(&cluster), before);
    write_some(&cluster, SHARD, 11..21).await;
    cluster.stop_all().await;
}
