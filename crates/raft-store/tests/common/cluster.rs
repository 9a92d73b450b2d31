//! Nodes of one cluster in this process, talking over loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::Timestamp;
use raft_store::db::{self, Budget, Owner};
use raft_store::{
    Answers, Applied, Batch, Effect, NodeId, OnApplied, PeerSecurity, ProposalService, ProposerId,
    RaftService, RouteTarget, Shard, ShardId, Shards, StoreConfig, StoreError, WriteError,
    server_builder,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Long enough for any election on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What `on_applied` was told, per shard: the index of each entry.
pub(crate) type Seen = Arc<Mutex<BTreeMap<ShardId, Vec<u64>>>>;
/// The route table: reasons to ask a target about a filter.
pub(crate) type Routes = Arc<Mutex<BTreeMap<(String, RouteTarget), i64>>>;
/// Called for each applied entry, after it was noted.
pub(crate) type Watch = Arc<dyn Fn(ShardId, u64, &[Applied]) + Send + Sync>;
type Watching = Arc<Mutex<Option<Watch>>>;

pub(crate) struct Node {
    pub(crate) shards: Arc<Shards>,
    pub(crate) seen: Seen,
    pub(crate) routes: Routes,
    /// Who is told what it applies.
    pub(crate) watch: Watching,
    /// Serves on threads of its own, so that all its connections can be cut at once, as by a dead
    /// process.
    server: Option<Runtime>,
}

pub(crate) struct Cluster {
    pub(crate) addresses: BTreeMap<NodeId, SocketAddr>,
    pub(crate) folders: BTreeMap<NodeId, TempDir>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    shards: u16,
    /// Log entries after which a shard's log is cut off.
    snapshot_after: u64,
    /// Who is told what a node applies, for nodes started from now on.
    pub(crate) watch: Option<Watch>,
}

/// A batch that is harmless when repeated.
pub(crate) fn batch(commands: Vec<Bytes>) -> Batch {
    Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time: Timestamp::ZERO,
        commands,
    }
}

impl Cluster {
    /// Starts nodes 1 to `nodes`, whose logs are never cut off.
    pub(crate) async fn start(nodes: u16, shards: u16) -> Self {
        Self::start_with(nodes, shards, u64::MAX).await
    }

    /// Starts nodes 1 to `nodes`.
    pub(crate) async fn start_with(nodes: u16, shards: u16, snapshot_after: u64) -> Self {
        let mut listeners = BTreeMap::new();
        for node in (1..=nodes).map(NodeId) {
            listeners.insert(node, TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners
            .iter()
            .map(|(node, listener)| (*node, listener.local_addr().unwrap()))
            .collect();
        let folders = listeners
            .keys()
            .map(|node| (*node, tempfile::tempdir().unwrap()))
            .collect();
        let mut cluster = Self {
            addresses,
            folders,
            nodes: BTreeMap::new(),
            shards,
            snapshot_after,
            watch: None,
        };
        for (node, listener) in listeners {
            cluster.start_node(node, listener).await;
        }
        cluster
    }

    pub(crate) fn config(&self, node: NodeId) -> StoreConfig {
        StoreConfig {
            node,
            cluster_name: "test".to_owned(),
            peers: self
                .addresses
                .iter()
                .map(|(node, address)| (*node, address.to_string()))
                .collect(),
            shards: self.shards,
            data_dir: self.folders[&node].path().to_owned(),
            heartbeat: Duration::from_millis(50),
            election_timeout: (Duration::from_millis(500), Duration::from_millis(1000)),
            block_cache_bytes: 1 << 20,
            snapshot_after: self.snapshot_after,
            security: PeerSecurity::Open,
        }
    }

    async fn start_node(&mut self, node: NodeId, listener: TcpListener) {
        let (seen, routes) = (Seen::default(), Routes::default());
        let watch: Watching = Arc::new(Mutex::new(self.watch.clone()));
        let on_applied: OnApplied = {
            let (seen, routes) = (Arc::clone(&seen), Arc::clone(&routes));
            let watch = Arc::clone(&watch);
            Arc::new(move |shard, index, applied: Vec<Applied>| {
                seen.lock().unwrap().entry(shard).or_default().push(index);
                note_routes(&routes, &applied);
                if let Some(watch) = watch.lock().unwrap().as_ref() {
                    watch(shard, index, &applied);
                }
            })
        };
        let deadline = Instant::now() + PATIENCE;
        let shards = loop {
            match Shards::start(self.config(node), Arc::clone(&on_applied)).await {
                Ok(shards) => break shards,
                // The tasks of an earlier life in this process let go of the databases a little
                // later.
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let mut running = Node {
            shards,
            seen,
            routes,
            watch,
            server: None,
        };
        running.serve(listener);
        self.nodes.insert(node, running);
    }

    /// Starts a stopped node again, on its old address and folder.
    pub(crate) async fn restart(&mut self, node: NodeId) {
        let listener = listen(self.addresses[&node]).await;
        self.start_node(node, listener).await;
    }

    /// Stops a node in an orderly way.
    pub(crate) async fn stop(&mut self, node: NodeId) {
        let mut stopped = self.nodes.remove(&node).unwrap();
        stopped.shards.shutdown().await.unwrap();
        stopped.stop_serving();
    }

    /// Waits until the tasks of a stopped node have let go of its databases.
    pub(crate) async fn wait_until_closed(&self, node: NodeId) {
        let config = self.config(node);
        let owner = Owner {
            cluster: config.cluster_name,
            node,
            shards: config.shards,
        };
        wait_until("the databases are closed", || {
            db::open(&config.data_dir, Budget::new(1 << 20), &owner).is_ok()
        })
        .await;
    }

    pub(crate) fn folder(&self, node: NodeId) -> &Path {
        self.folders[&node].path()
    }

    pub(crate) fn shard(&self, node: NodeId, shard: ShardId) -> &Shard {
        self.nodes[&node].shards.shard(shard).unwrap()
    }

    /// The running node that leads a shard.
    pub(crate) async fn leader(&self, shard: ShardId) -> NodeId {
        let mut leader = None;
        wait_until("the shard has a leader", || {
            let leads = |node: &NodeId| {
                let shard = self.shard(*node, shard);
                shard.is_leader() && shard.has_leader_confirmed(Duration::from_secs(1))
            };
            leader = self.nodes.keys().copied().find(leads);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Writes a batch to whoever leads, as a proposer does: again until it is known to be applied.
    pub(crate) async fn write(&self, shard: ShardId, batch: Batch) -> Answers {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader(shard).await;
            match self.shard(leader, shard).write(batch.clone()).await {
                Ok(answers) => {
                    assert_eq!(answers.len(), batch.commands.len());
                    return answers;
                }
                Err(WriteError::NotLeader { .. } | WriteError::Unknown) => {}
                Err(WriteError::Stopped) => panic!("the shard stopped"),
            }
            assert!(Instant::now() < deadline, "no leader takes the batch");
        }
    }

    /// Waits until all running replicas have applied the same entries, and checks that they hold
    /// the same state. Returns the index.
    pub(crate) async fn check_replicas_agree(&self, shard: ShardId) -> u64 {
        let index = || -> Vec<u64> {
            self.nodes
                .keys()
                .map(|node| self.shard(*node, shard).applied_index())
                .collect()
        };
        let digest = |node: &NodeId| {
            self.shard(*node, shard)
                .with_machine(|machine| machine.digest())
        };
        let mut agreed = 0;
        wait_until("all replicas have applied the same", || {
            let before = index();
            let digests: Vec<u64> = self.nodes.keys().map(digest).collect();
            // A batch that was sent again may still come, and moves time.
            if before.windows(2).any(|pair| pair[0] != pair[1]) || index() != before {
                return false;
            }
            assert!(
                digests.windows(2).all(|pair| pair[0] == pair[1]),
                "{digests:?}"
            );
            agreed = before[0];
            true
        })
        .await;
        agreed
    }

    pub(crate) async fn stop_all(&mut self) {
        while let Some(node) = self.nodes.keys().next().copied() {
            self.stop(node).await;
        }
    }
}

fn note_routes(routes: &Routes, applied: &[Applied]) {
    let mut routes = routes.lock().unwrap();
    for effect in applied.iter().flat_map(|applied| &applied.effects) {
        let (filter, target, change) = match effect {
            Effect::RouteAdded { filter, target } => (filter, target, 1),
            Effect::RouteRemoved { filter, target } => (filter, target, -1),
            _ => continue,
        };
        let key = (filter.to_string(), *target);
        let count = routes.entry(key.clone()).or_default();
        *count += change;
        if *count == 0 {
            routes.remove(&key);
        }
    }
}

/// Listens on an address as soon as its former listener is gone.
pub(crate) async fn listen(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Node {
    pub(crate) fn serve(&mut self, listener: TcpListener) {
        let router = server_builder()
            .add_service(RaftService::new(Arc::clone(&self.shards)))
            .add_service(ProposalService::server(Arc::clone(&self.shards)));
        let listener = listener.into_std().unwrap();
        let server = Runtime::new().unwrap();
        server.spawn(async move {
            let incoming =
                raft_store::incoming(TcpListener::from_std(listener).unwrap(), PeerSecurity::Open);
            router.serve_with_incoming(incoming).await.unwrap();
        });
        self.server = Some(server);
    }

    /// Closes the port and all connections that came in through it.
    pub(crate) fn stop_serving(&mut self) {
        self.server.take().unwrap().shutdown_background();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}
