//! Real broker processes on loopback that form one cluster: started, killed, suspended, restarted.
//!
//! Nodes are named by their id, from 1. All of them end with the [`Cluster`], also when a test
//! panics; then the history of all clients, the seed and the ends of the nodes' logs are printed.

mod links;
mod measure;
mod node;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::links::Links;
use self::node::{Node, configuration_path};
use crate::history::History;
use crate::http;
use crate::process::{Process, tail};
use crate::proxy::{Mode, Way};
use crate::scale::Random;
use crate::shim::Shim;
use crate::wait::wait_until;

/// A node's id.
pub type NodeId = u16;

/// Clusters that may run at once in this test process: more would measure the machine, not us.
const CLUSTERS_MAX: u32 = 2;
static CLUSTERS: Semaphore = Semaphore::const_new(CLUSTERS_MAX as usize);

/// Until all nodes of a new or healed cluster are ready, on a busy machine.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// Until a process has ended after SIGTERM.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// Lines of history, and of each node's log, that a failing test prints.
const HISTORY_LINES_MAX: usize = 2_000;
const LOG_LINES_MAX: usize = 100;

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The binary `holdfast`.
    pub binary: PathBuf,
    /// Nodes, ids from 1.
    pub nodes: u16,
    /// Shards.
    pub shards: u16,
    /// Our own cap on messages in flight to one client.
    pub inflight_max: u16,
    /// Further lines of the section `[limits]`; sections of their own may follow.
    pub limits: &'static str,
    /// Log entries after which a shard's log is cut off.
    pub snapshot_after: u64,
    /// Further lines of the section `[storage]`.
    pub storage: &'static str,
    /// Lines of the section `[auth]`; sections of their own may follow.
    pub auth: String,
    /// Further lines of the section `[cluster]`; sections of their own may follow.
    pub cluster: String,
    /// Further `[[listener]]`s.
    pub listeners: String,
    /// Further lines of the section `[admin]`.
    pub admin: String,
    /// `log.level`.
    pub log: &'static str,
    /// Nothing else may run beside it: for tests that measure time.
    pub alone: bool,
    /// Many tests use it, and it takes no turn: whoever starts it limits how many there are.
    pub shared: bool,
    /// Nodes start with the fsync shim.
    pub shim: bool,
    /// Nodes are started, and are not expected to become ready.
    pub unready: bool,
    /// Nodes reach each other through proxies, so that links can be cut.
    pub proxied: bool,
    /// The test target, for the command that repeats a failed test.
    pub target: &'static str,
}

impl ClusterOptions {
    /// Three nodes, four shards, 100 messages in flight. The environment variable
    /// `HOLDFAST_TEST_BINARY` names another binary than `binary`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let other = std::env::var_os("HOLDFAST_TEST_BINARY").map(PathBuf::from);
        Self {
            binary: other.unwrap_or_else(|| binary.into()),
            nodes: 3,
            shards: 4,
            inflight_max: 100,
            limits: "",
            snapshot_after: 100_000,
            storage: "",
            auth: "anonymous = \"loopback\"".to_owned(),
            cluster: String::new(),
            listeners: String::new(),
            admin: String::new(),
            log: "info",
            alone: false,
            shared: false,
            shim: false,
            unready: false,
            proxied: false,
            target: "process",
        }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    name: &'static str,
    options: ClusterOptions,
    nodes: BTreeMap<NodeId, Node>,
    links: Option<Links>,
    history: History,
    random: Random,
    directory: TempDir,
    _permit: Option<SemaphorePermit<'static>>,
}

impl Cluster {
    /// Starts all nodes and waits until each is ready. `name` is that of the test.
    ///
    /// # Panics
    /// When a node can't be started or does not become ready.
    pub async fn start(name: &'static str, options: ClusterOptions) -> Self {
        let permit = if options.shared {
            None
        } else {
            let permits = if options.alone { CLUSTERS_MAX } else { 1 };
            let permit = CLUSTERS.acquire_many(permits).await;
            Some(permit.expect("the semaphore is never closed"))
        };
        let directory = tempfile::Builder::new().prefix("holdfast-test-").tempdir();
        let directory = directory.expect("the temporary directory is writable");
        let ids = 1..=options.nodes;
        let nodes: BTreeMap<NodeId, Node> = ids
            .map(|id| (id, Node::new(id, &options, directory.path())))
            .collect();
        let links = options.proxied.then(|| {
            let nodes = nodes.iter().map(|(id, node)| (*id, node.cluster.address()));
            Links::new(&nodes.collect::<Vec<_>>())
        });
        let random = Random::from_environment();
        let history = History::new();
        let mut cluster = Self {
            name,
            options,
            nodes,
            links,
            history,
            random,
            directory,
            _permit: permit,
        };
        cluster.write_configurations();
        for id in cluster.ids() {
            cluster.spawn(id);
        }
        cluster.wait_ready().await;
        cluster
    }

    /// The ids of all nodes, running or not.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// All nodes but `id`, from the one after it.
    #[must_use]
    pub fn others(&self, id: NodeId) -> Vec<NodeId> {
        let ids = self.ids();
        let (before, after): (Vec<_>, Vec<_>) = ids
            .into_iter()
            .filter(|other| *other != id)
            .partition(|other| *other < id);
        after.into_iter().chain(before).collect()
    }

    /// A node's admin port.
    #[must_use]
    pub fn admin(&self, id: NodeId) -> SocketAddr {
        self.node(id).admin.address()
    }

    /// Where a node's clients connect.
    #[must_use]
    pub fn mqtt(&self, id: NodeId) -> SocketAddr {
        self.node(id).mqtt.address()
    }

    /// Where the clients of all nodes but `id` connect.
    #[must_use]
    pub fn mqtt_of_others(&self, id: NodeId) -> Vec<SocketAddr> {
        self.others(id)
            .into_iter()
            .map(|other| self.mqtt(other))
            .collect()
    }

    /// Where clients connect, from node `first` on.
    #[must_use]
    pub fn mqtt_from(&self, first: NodeId) -> Vec<SocketAddr> {
        std::iter::once(first)
            .chain(self.others(first))
            .map(|id| self.mqtt(id))
            .collect()
    }

    /// The history that all clients of this test share.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// This test's random numbers.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Shards of this cluster.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.options.shards
    }

    /// A node's data folder.
    #[must_use]
    pub fn data_dir(&self, id: NodeId) -> &Path {
        &self.node(id).data_dir
    }

    /// A node's shim.
    ///
    /// # Panics
    /// When the cluster was started without.
    #[must_use]
    pub fn shim(&self, id: NodeId) -> &Shim {
        self.node(id)
            .shim
            .as_ref()
            .expect("this cluster was started with the shim")
    }

    /// kill -9; returns when the process is gone.
    pub fn kill(&mut self, id: NodeId) -> Instant {
        self.history.note(format!("kill -9 node {id}"));
        let node = self.node_mut(id);
        node.suspended = false;
        let at = node.process.take().map(|mut process| process.kill());
        self.is_gone(id);
        at.unwrap_or_else(Instant::now)
    }

    /// kill -9 of all nodes, none of which sees another one go.
    pub fn kill_all(&mut self) {
        self.history.note("kill -9 of all nodes");
        for node in self.nodes.values_mut() {
            if let Some(process) = &mut node.process {
                process.kill_without_waiting();
            }
        }
        for id in self.ids() {
            let node = self.node_mut(id);
            node.suspended = false;
            node.process = None;
            self.is_gone(id);
        }
    }

    /// Starts a node that was killed. Does not wait for it to be ready.
    ///
    /// # Panics
    /// When it is running.
    pub fn restart(&mut self, id: NodeId) {
        self.history.note(format!("restart node {id}"));
        self.spawn(id);
    }

    /// Starts all nodes that are not running and waits until each is ready.
    pub async fn restart_all(&mut self) {
        for id in self.ids() {
            if self.node(id).process.is_none() {
                self.restart(id);
            }
        }
        self.wait_ready().await;
    }

    /// Changes the configuration of a node that is not running.
    ///
    /// # Panics
    /// When its file is not there.
    pub fn configure(&self, id: NodeId, change: impl FnOnce(String) -> String) {
        assert!(!self.is_started(id), "node {id} has read its file already");
        let path = configuration_path(self.directory.path(), id);
        let text = std::fs::read_to_string(&path).expect("it was written");
        std::fs::write(&path, change(text)).expect("it is writable");
    }

    /// SIGSTOP: from here on the process neither reads nor answers nor dies.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn suspend(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.suspended = true;
        if let Some(process) = &mut node.process {
            process.suspend().await;
        }
        self.history.note(format!("SIGSTOP node {id}"));
    }

    /// SIGCONT.
    pub fn wake(&mut self, id: NodeId) {
        self.history.note(format!("SIGCONT node {id}"));
        self.signal(id, Signal::CONT);
        self.node_mut(id).suspended = false;
    }

    /// Resets all connections that node `from` opened to node `to`, and every new one. Those that
    /// `to` opened to `from` stay.
    ///
    /// # Panics
    /// When the cluster was not started with `proxied`.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.history
            .note(format!("cut: {from} can't connect to {to}"));
        let link = self.links().link(from, to);
        link.refuse(true);
        link.cut();
    }

    /// Nothing that node `from` sends reaches node `to`, whoever opened the connection; what `to`
    /// sends reaches `from`.
    ///
    /// # Panics
    /// When the cluster was not started with `proxied`.
    pub fn stall(&mut self, from: NodeId, to: NodeId) {
        self.history
            .note(format!("stall: nothing from {from} reaches {to}"));
        self.set_mode(from, to, Mode::Stall);
    }

    /// What node `from` sends reaches node `to` in this mode, whoever opened the connection.
    ///
    /// # Panics
    /// When the cluster was not started with `proxied`.
    pub fn set_mode(&mut self, from: NodeId, to: NodeId, mode: Mode) {
        let links = self.links();
        links.link(from, to).set(Way::There, mode);
        links.link(to, from).set(Way::Back, mode);
    }

    /// All links work again.
    ///
    /// # Panics
    /// When the cluster was not started with `proxied`.
    pub fn heal(&mut self) {
        self.history.note("all links heal");
        for link in self.links().all() {
            link.heal();
        }
    }

    fn links(&self) -> &Links {
        self.links
            .as_ref()
            .expect("this cluster was started with proxies")
    }

    /// Changes a node's configuration file, for its next start or [`hang_up`](Self::hang_up).
    ///
    /// # Panics
    /// When the file can't be changed.
    pub fn reconfigure(&self, id: NodeId, change: impl FnOnce(String) -> String) {
        let path = configuration_path(self.directory.path(), id);
        let text = std::fs::read_to_string(&path).expect("it was written");
        std::fs::write(path, change(text)).expect("it is writable");
    }

    /// SIGHUP.
    pub fn hang_up(&mut self, id: NodeId) {
        self.history.note(format!("SIGHUP node {id}"));
        self.signal(id, Signal::HUP);
    }

    /// SIGTERM.
    pub fn terminate(&mut self, id: NodeId) {
        self.history.note(format!("SIGTERM node {id}"));
        self.signal(id, Signal::TERM);
    }

    /// Gives every node's configuration other lines in the section `[auth]`; who runs does not look.
    pub fn set_auth(&mut self, auth: String) {
        self.options.auth = auth;
        self.write_configurations();
    }

    /// SIGTERM; returns when the process has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn terminate_and_wait(&mut self, id: NodeId) {
        self.terminate(id);
        if let Some(mut process) = self.node_mut(id).process.take() {
            let ended = process.wait_exit(ENDED_WITHIN).await;
            assert!(
                ended.is_some(),
                "node {id} did not end:\n{}",
                process.log_tail(LOG_LINES_MAX)
            );
        }
        self.is_gone(id);
    }

    /// Waits until every running node answers `/readyz` with 200.
    ///
    /// # Panics
    /// When one does not, or exits.
    pub async fn wait_ready(&mut self) {
        for id in self.running() {
            self.wait_node_ready(id).await;
        }
    }

    /// Waits until one node answers `/readyz` with 200.
    ///
    /// # Panics
    /// When it does not, or exits.
    pub async fn wait_node_ready(&mut self, id: NodeId) {
        let admin = self.node(id).admin.address();
        let probe = if self.options.unready {
            "/startupz"
        } else {
            "/readyz"
        };
        let process = self
            .nodes
            .get_mut(&id)
            .and_then(|node| node.process.as_mut())
            .expect("it runs");
        let took = wait_until(&format!("node {id} is ready"), READY_WITHIN, async || {
            if let Some(status) = process.exit_status() {
                panic!(
                    "node {id} ended with {status}:\n{}",
                    process.log_tail(LOG_LINES_MAX)
                );
            }
            matches!(http::get(admin, probe).await, Some((200, _)))
        })
        .await;
        self.history
            .note(format!("node {id} is ready after {took:?}"));
    }

    /// Whether a node answers `/readyz` with 200 now.
    pub async fn is_ready(&self, id: NodeId) -> bool {
        matches!(self.get(id, "/readyz").await, Some((200, _)))
    }

    /// `GET` against a node's admin port.
    pub async fn get(&self, id: NodeId, path: &str) -> Option<(u16, String)> {
        http::get(self.node(id).admin.address(), path).await
    }

    /// A node's metrics; none when it does not answer.
    pub async fn metrics(&self, id: NodeId) -> Vec<http::Sample> {
        self.get(id, "/metrics")
            .await
            .map(|(_, text)| http::parse_metrics(&text))
            .unwrap_or_default()
    }

    /// The leader of every shard, once each shard has exactly one among the running nodes.
    ///
    /// # Panics
    /// When a shard has none.
    pub async fn leaders(&self) -> BTreeMap<u16, NodeId> {
        let mut leaders = BTreeMap::new();
        wait_until("every shard has one leader", READY_WITHIN, async || {
            leaders = self.claimed_leaders().await;
            leaders.len() == usize::from(self.options.shards)
        })
        .await;
        self.history
            .note(format!("leaders (shard: node): {leaders:?}"));
        leaders
    }

    async fn claimed_leaders(&self) -> BTreeMap<u16, NodeId> {
        let mut claims: BTreeMap<u16, Vec<NodeId>> = BTreeMap::new();
        for id in self.running() {
            let samples = self.metrics(id).await;
            for sample in samples.iter().filter(|sample| is_leader(sample)) {
                if let Some(shard) = sample
                    .labels
                    .get("shard")
                    .and_then(|text| text.parse().ok())
                {
                    claims.entry(shard).or_default().push(id);
                }
            }
        }
        claims
            .into_iter()
            .filter_map(|(shard, nodes)| (nodes.len() == 1).then(|| (shard, nodes[0])))
            .collect()
    }

    /// Whether a node's process is there, suspended or not.
    #[must_use]
    pub fn is_started(&self, id: NodeId) -> bool {
        self.node(id).process.is_some()
    }

    /// The nodes that run and are not suspended.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        let running = self
            .nodes
            .iter()
            .filter(|(_, node)| node.process.is_some() && !node.suspended);
        running.map(|(id, _)| *id).collect()
    }

    /// The end of a node's log.
    #[must_use]
    pub fn node_log(&self, id: NodeId) -> String {
        tail(&self.node(id).options.log, LOG_LINES_MAX)
    }

    /// A node's log, from its first start on.
    #[must_use]
    pub fn log_file(&self, id: NodeId) -> &Path {
        &self.node(id).options.log
    }

    fn signal(&mut self, id: NodeId, signal: Signal) {
        if let Some(process) = &mut self.node_mut(id).process {
            process.signal(signal);
        }
    }

    fn spawn(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        assert!(node.process.is_none(), "node {id} runs already");
        if let Some(shim) = &node.shim {
            shim.begin_life();
        }
        let process = Process::start(&node.options);
        let number = process.id();
        node.process = Some(process);
        if let Some(links) = &self.links {
            links.processes.set(id, Some(number));
            links.listen(id, true);
        }
    }

    /// A node's process ended.
    fn is_gone(&self, id: NodeId) {
        if let Some(links) = &self.links {
            links.listen(id, false);
            links.processes.set(id, None);
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes
            .get(&id)
            .unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("there is no node {id}"))
    }

    /// Where other nodes reach this one.
    fn advertised(&self, id: NodeId, node: &Node) -> SocketAddr {
        let links = self.links.as_ref();
        links.map_or_else(|| node.cluster.address(), |links| links.address(id))
    }

    fn write_configurations(&self) {
        let peers: Vec<String> = self
            .nodes
            .iter()
            .map(|(id, node)| format!("\"{id}@{}\"", self.advertised(*id, node)))
            .collect();
        let peers = peers.join(", ");
        for (id, node) in &self.nodes {
            let addresses = (self.advertised(*id, node), peers.as_str());
            let text = node.configuration(*id, addresses, &self.options);
            std::fs::write(configuration_path(self.directory.path(), *id), text)
                .expect("it is writable");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::skip::report(&self.failure());
        }
    }
}

impl Cluster {
    /// What is printed of a failed test; everything is kept in files as well.
    fn failure(&self) -> String {
        let (name, seed) = (self.name, self.random.seed());
        let history = self.history.render(HISTORY_LINES_MAX);
        let mut text = format!("\n==== {name} failed ====\n{history}");
        for (id, node) in &self.nodes {
            let log = tail(&node.options.log, LOG_LINES_MAX);
            text.push_str(&format!("---- end of the log of node {id} ----\n{log}\n"));
        }
        let directory = std::env::temp_dir().join(format!("holdfast-failed-{name}-{seed}"));
        let kept = match self.keep_files(&directory) {
            Ok(()) => directory.display().to_string(),
            Err(error) => format!("not kept: {error}"),
        };
        text.push_str(&format!("---- whole history and logs: {kept} ----\n"));
        let again = format!("HOLDFAST_TEST_SEED={seed} cargo test --release -p node");
        let target = self.options.target;
        text.push_str(&format!("---- again: {again} --test {target} {name} ----"));
        text
    }

    fn keep_files(&self, directory: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        std::fs::write(
            directory.join("history.txt"),
            self.history.render(usize::MAX),
        )?;
        for (id, node) in &self.nodes {
            std::fs::copy(&node.options.log, directory.join(format!("node-{id}.log")))?;
        }
        Ok(())
    }
}

fn is_leader(sample: &http::Sample) -> bool {
    let is_role = sample.name == "holdfast_raft_role";
    is_role
        && sample
            .labels
            .get("role")
            .is_some_and(|role| role == "leader")
        && sample.value > 0.5
}
