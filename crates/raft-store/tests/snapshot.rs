//! Logs that are cut off behind the durable state, and snapshots for nodes that were away longer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

#[path = "common/cluster.rs"]
#[expect(dead_code, reason = "shared with the cluster tests")]
mod cluster;
#[path = "common/work.rs"]
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use cluster::{Cluster, listen, wait_until};
use futures::future::join_all;
use futures::stream;
use raft_store::proto::holdfast::raft::v1 as wire;
use raft_store::proto::holdfast::raft::v1::raft_client::RaftClient;
use raft_store::proto::holdfast::raft::v1::snapshot_part::Part;
use raft_store::{
    Applied, Command, Effect, Forwarder, Incarnation, NodeId, Proposer, ProposerId, Response,
    ShardId, Waiter,
};
use session::Body;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request};
use work::{connect, payload, publish};
use xxhash_rust::xxh3::xxh3_64;

const SHARD: ShardId = ShardId(0);
/// Entries after which logs are cut off in these tests.
const AFTER: u64 = 100;

/// Any node that does not lead.
async fn a_follower(cluster: &Cluster) -> NodeId {
    let leader = cluster.leader(SHARD).await;
    *cluster.nodes.keys().find(|node| **node != leader).unwrap()
}

/// `entries` entries of ten messages each for "away".
async fn load(cluster: &Cluster, entries: u64) {
    for entry in 0..entries {
        let message = |number| publish("away", payload(entry * 10 + number, 100));
        let messages: Vec<Command> = (0..10).map(message).collect();
        cluster.run(SHARD, &messages).await;
    }
}

/// Writes until no running node has entry `index` in its log any more.
async fn load_until_cut_off(cluster: &Cluster, index: u64, nodes: &[NodeId]) {
    let first = |node: &NodeId| cluster.shard(*node, SHARD).first_log_index();
    let deadline = Instant::now() + cluster::PATIENCE;
    while nodes.iter().any(|node| first(node) <= index) {
        let firsts: Vec<u64> = nodes.iter().map(first).collect();
        assert!(
            Instant::now() < deadline,
            "{index} is still there: {firsts:?}"
        );
        load(cluster, 20).await;
    }
}

fn others(cluster: &Cluster, node: NodeId) -> Vec<NodeId> {
    let all = cluster.addresses.keys();
    all.filter(|other| **other != node).copied().collect()
}

fn installs(cluster: &Cluster, node: NodeId) -> u64 {
    *cluster.shard(node, SHARD).installs_watch().borrow()
}

/// The content of a delivery, from memory or from the disk of this node.
fn content(cluster: &Cluster, node: NodeId, body: &Body) -> Bytes {
    let stored = match body {
        Body::Here(stored) => Arc::clone(stored),
        Body::Stored(reference) => {
            let shard = cluster.shard(node, SHARD);
            tokio::task::block_in_place(|| shard.message(reference.id)).unwrap()
        }
    };
    stored.message.payload.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_longer_than_the_log_catches_up_by_snapshot_under_load() {
    let mut cluster = Cluster::start_with(3, 1, AFTER).await;
    for name in ["away", "also-away"] {
        cluster.open_session(SHARD, name).await;
    }
    load(&cluster, 50).await;
    let node = a_follower(&cluster).await;
    let applied = cluster.shard(node, SHARD).applied_index();
    cluster.stop(node).await;
    cluster.open_session(SHARD, "later").await;
    // More than a chunk, of what is read from disk later.
    for number in 0..20 {
        let message = publish("also-away", payload(number, 50_000));
        cluster.run(SHARD, &[message]).await;
    }
    load_until_cut_off(&cluster, applied, &others(&cluster, node)).await;

    let sent = Arc::new(Mutex::new(Vec::new()));
    cluster.watch = Some({
        let sent = Arc::clone(&sent);
        Arc::new(move |_, _, applied: &[Applied]| {
            let effects = applied.iter().flat_map(|applied| &applied.effects);
            sent.lock()
                .unwrap()
                .extend(effects.filter_map(|effect| match effect {
                    Effect::Send { delivery, .. } => Some(delivery.body.clone()),
                    _ => None,
                }));
        })
    });
    cluster.restart(node).await;
    while installs(&cluster, node) == 0 {
        join_all((0..4).map(|_| load(&cluster, 2))).await;
    }
    load(&cluster, 10).await;
    cluster.check_replicas_agree(SHARD).await;
    let routes = |node: &NodeId| cluster.nodes[node].routes.lock().unwrap().clone();
    assert_eq!(routes(&node).len(), 3);
    assert_eq!(routes(&node), routes(&cluster.leader(SHARD).await));

    // What came in the snapshot can be delivered from there.
    cluster.run(SHARD, &[connect("also-away", node)]).await;
    wait_until("the node is to send", || sent.lock().unwrap().len() == 20).await;
    for (body, number) in sent.lock().unwrap().iter().zip(0..) {
        assert_eq!(content(&cluster, node, body), payload(number, 50_000));
    }

    // And it outlives a restart.
    cluster.stop(node).await;
    cluster.restart(node).await;
    cluster.check_replicas_agree(SHARD).await;
    assert_eq!(installs(&cluster, node), 0);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_a_moment_catches_up_from_the_log() {
    let mut cluster = Cluster::start_with(3, 1, AFTER).await;
    cluster.open_session(SHARD, "away").await;
    load_until_cut_off(&cluster, 50, &others(&cluster, NodeId(0))).await;
    let node = a_follower(&cluster).await;
    cluster.stop(node).await;
    load(&cluster, AFTER / 5).await;
    cluster.restart(node).await;
    cluster.check_replicas_agree(SHARD).await;
    assert_eq!(installs(&cluster, node), 0);
    cluster.stop_all().await;
}

/// A part of a snapshot of shard 0.
fn part(part: Part) -> wire::SnapshotPart {
    wire::SnapshotPart { part: Some(part) }
}

fn head() -> wire::SnapshotPart {
    part(Part::Head(wire::SnapshotHead {
        format: 1,
        shard: 0,
        vote: Some(wire::BallotVote {
            term: 1000,
            node: 2,
            committed: true,
        }),
        applied: Some(wire::LogId {
            term: 1000,
            leader: 2,
            index: 1_000_000,
        }),
        ..wire::SnapshotHead::default()
    }))
}

/// One row, of a state that makes no sense.
fn chunk() -> wire::SnapshotChunk {
    let rows = Bytes::from_static(b"\x03\0\0\0\x05\0\0\0keyvalue");
    let checksum = xxh3_64(&rows);
    wire::SnapshotChunk { rows, checksum }
}

async fn send(cluster: &Cluster, node: NodeId, parts: Vec<wire::SnapshotPart>) -> Code {
    let address = format!("http://{}", cluster.addresses[&node]);
    let mut client = RaftClient::connect(address).await.unwrap();
    let answer = client
        .install_snapshot(request(node, stream::iter(parts)))
        .await;
    answer.unwrap_err().code()
}

fn request<T>(node: NodeId, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("holdfast-cluster", "test".parse().unwrap());
    metadata.insert("holdfast-from", 2.into());
    metadata.insert("holdfast-to", node.0.into());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::start_with(1, 1, AFTER).await;
    cluster.open_session(SHARD, "away").await;
    load(&cluster, 5).await;
    let node = NodeId(1);
    let digest = || {
        cluster
            .shard(node, SHARD)
            .with_machine(|machine| machine.digest())
    };
    let before = digest();

    let good = chunk();
    let changed = wire::SnapshotChunk {
        rows: Bytes::from_static(b"\x03\0\0\0\x05\0\0\0keyvalua"),
        ..good.clone()
    };
    let end = |rows, checksum| part(Part::End(wire::SnapshotEnd { rows, checksum }));
    let all = xxh3_64(&good.checksum.to_le_bytes());
    let good = || part(Part::Chunk(good.clone()));
    let refused = [
        vec![head(), part(Part::Chunk(changed)), end(1, all)],
        // A row is missing, a chunk came twice, the end is missing.
        vec![head(), good(), end(2, all)],
        vec![head(), good(), good(), end(2, all)],
        vec![head(), good()],
        // Whole, but no state.
        vec![head(), good(), end(1, all)],
    ];
    for parts in refused {
        assert_eq!(send(&cluster, node, parts).await, Code::DataLoss);
    }
    assert_eq!(
        send(&cluster, node, vec![good()]).await,
        Code::InvalidArgument
    );
    assert_eq!(digest(), before);
    assert_eq!(cluster.nodes[&node].shards.storage_health().failure, None);
    load(&cluster, 1).await;
    cluster.stop_all().await;
}

/// Begins to send a snapshot that has no end until the sender is dropped, and returns what it was
/// answered.
async fn begin(
    client: &RaftClient<Channel>,
    node: NodeId,
) -> (mpsc::Sender<wire::SnapshotPart>, JoinHandle<Code>) {
    let (parts, stream) = mpsc::channel(4);
    let stream = stream::unfold(stream, |mut stream| async move {
        Some((stream.recv().await?, stream))
    });
    let stream = Box::pin(stream);
    let mut client = client.clone();
    let answer = tokio::spawn(async move {
        let answer = client.install_snapshot(request(node, stream)).await;
        answer.unwrap_err().code()
    });
    for part in [head(), part(Part::Chunk(chunk()))] {
        // A refusal has closed the stream.
        drop(parts.send(part).await);
    }
    (parts, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_snapshot_of_a_shard_is_received_at_a_time() {
    let mut cluster = Cluster::start_with(1, 1, AFTER).await;
    let node = NodeId(1);
    let address = format!("http://{}", cluster.addresses[&node]);
    let client = RaftClient::connect(address).await.unwrap();
    let (mut parts, mut first) = begin(&client, node).await;
    // It has come so far when another one is refused.
    loop {
        match send(&cluster, node, vec![head()]).await {
            Code::Unavailable => break,
            // That other one may have come first, and then this one was refused.
            Code::DataLoss if first.is_finished() => {
                assert_eq!(first.await.unwrap(), Code::Unavailable);
                (parts, first) = begin(&client, node).await;
            }
            Code::DataLoss => {}
            code => panic!("{code:?}"),
        }
    }
    drop(parts);
    assert_eq!(first.await.unwrap(), Code::DataLoss);
    assert_eq!(send(&cluster, node, vec![head()]).await, Code::DataLoss);
    cluster.stop_all().await;
}

struct Told(mpsc::Sender<Response>);

impl Waiter for Told {
    fn answered(self, _index: u64, response: Response) {
        self.0.try_send(response).unwrap();
    }
}

/// Its batch is applied by the others, and reaches its own replica only inside a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_proposer_is_answered_when_its_batch_comes_in_a_snapshot() {
    let mut cluster = Cluster::start_with(3, 1, AFTER).await;
    cluster.open_session(SHARD, "away").await;
    cluster.check_replicas_agree(SHARD).await;
    let node = a_follower(&cluster).await;
    let leader = cluster.leader(SHARD).await;
    let shards = Arc::clone(&cluster.nodes[&node].shards);
    wait_until("it knows the leader", || {
        cluster.shard(node, SHARD).leader() == Some(leader)
    })
    .await;
    let peers: BTreeMap<NodeId, String> = cluster.config(node).peers;
    let forwarder = Forwarder::new((node, "test".to_owned()), shards, &peers).unwrap();
    let incarnation = Incarnation(1);
    let id = ProposerId::Node { node, incarnation };
    let proposer = Arc::new(Proposer::new(SHARD, id));
    *cluster.nodes[&node].watch.lock().unwrap() = Some({
        let proposer = Arc::clone(&proposer);
        Arc::new(move |_, index, applied: &[Applied]| {
            for applied in applied {
                drop(proposer.on_applied(index, applied));
            }
        })
    });

    // From now on it hears nothing, but is heard.
    let applied = cluster.shard(node, SHARD).applied_index();
    cluster.nodes.get_mut(&node).unwrap().stop_serving();
    let (told, mut answers) = mpsc::channel(1);
    let running = tokio::spawn(Arc::clone(&proposer).run(Arc::new(forwarder)));
    proposer.propose(&connect("new", node), Told(told));
    let sessions = |node| {
        let shard = cluster.shard(node, SHARD);
        shard.with_machine(|machine| machine.session_count())
    };
    wait_until("the leader has applied it", || sessions(leader) == 2).await;
    load_until_cut_off(&cluster, applied + 2, &others(&cluster, node)).await;
    assert!(answers.try_recv().is_err());

    let listener = listen(cluster.addresses[&node]).await;
    cluster.nodes.get_mut(&node).unwrap().serve(listener);
    let answer = tokio::time::timeout(cluster::PATIENCE, answers.recv()).await;
    assert!(matches!(answer, Ok(Some(Response::Connected { .. }))));
    assert!(installs(&cluster, node) > 0);
    cluster.check_replicas_agree(SHARD).await;
    running.abort();
    drop(running.await);
    cluster.stop_all().await;
}

fn disk_bytes(folder: &Path) -> u64 {
    let items = fs::read_dir(folder).unwrap();
    // A file may go meanwhile.
    items
        .filter_map(|item| item.unwrap().metadata().ok())
        .map(|file| file.len())
        .sum()
}

/// 20 MiB of messages that nobody fetches are on the disk, and gone when their session is.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_space_of_a_drained_queue_comes_back() {
    let mut cluster = Cluster::start_with(1, 1, 50).await;
    cluster.open_session(SHARD, "away").await;
    cluster.open_session(SHARD, "other").await;
    let node = NodeId(1);
    let state = cluster.folder(node).join("state");
    for entry in 0..200_u64 {
        let message = |number| publish("away", payload(entry * 100 + number, 1024));
        let messages: Vec<Command> = (0..100).map(message).collect();
        cluster.run(SHARD, &messages).await;
    }
    wait_until("the queue is on the disk", || disk_bytes(&state) > 15 << 20).await;
    // What is on the disk leaves the memory with the next save.
    let resident = || {
        let shard = cluster.shard(node, SHARD);
        shard.with_machine(|machine| machine.resident_bytes())
    };
    wait_until("the queue leaves the memory", || resident() < 10 << 20).await;

    let Command::Connect(mut again) = connect("away", node) else {
        panic!("it is a CONNECT");
    };
    again.clean_start = true;
    cluster.run(SHARD, &[Command::Connect(again)]).await;
    // The state is made durable, and with that what was deleted from it, as the log grows.
    for _ in 0..60 {
        cluster.run(SHARD, &[publish("other", Vec::new())]).await;
    }
    wait_until("the disk space is free", || disk_bytes(&state) < 2 << 20).await;
    cluster.stop_all().await;
}
