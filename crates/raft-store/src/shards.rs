//! All shards of this node: opened together, written by one log writer, stopped together.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use openraft::SnapshotPolicy;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::kept::ClockFile;
use crate::connections::{Connections, endpoint};
use crate::db::{self, Budget, LogDb, Owner, SHARDS_MAX, StateDb};
use crate::error::StoreError;
use crate::ids::{NodeId, ShardId};
use crate::leadership::preferred_leader;
use crate::log_store::LogStore;
use crate::log_writer::{LogWriter, LogWriterThread};
use crate::network::NetworkFactory;
use crate::replica::{OnApplied, Replica};
use crate::security::PeerSecurity;
use crate::shard::{Shard, ShardRaft};
use crate::state_machine::StateMachine;
use crate::type_config::PeerAddress;

mod upkeep;

use upkeep::Upkeep;

/// How long a Raft group may take to stop. Longer only when its disk hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries per replication message: enough to keep a stream busy, few enough to be sent in a
/// heartbeat.
const MESSAGE_ENTRIES_MAX: u64 = 256;

/// What the shards of a node need to know.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `node.id`.
    pub node: NodeId,
    /// `cluster.name`; visible ASCII.
    pub cluster_name: String,
    /// The members at the first start, this node included, as `host:port`. Later the log decides.
    pub peers: BTreeMap<NodeId, String>,
    /// `cluster.shards`, 1..=1024; fixed at the first start.
    pub shards: u16,
    /// `node.data_dir`.
    pub data_dir: PathBuf,
    /// `cluster.heartbeat`.
    pub heartbeat: Duration,
    /// `cluster.election_timeout`: a follower that heard nothing from a leader for a random time
    /// between these starts an election. The upper one is at least four heartbeats.
    pub election_timeout: (Duration, Duration),
    /// `storage.block_cache`.
    pub block_cache_bytes: u64,
    /// `storage.snapshot_after`, log entries of a shard: so many after the last time its state is
    /// made durable and its log cut off behind it.
    pub snapshot_after: u64,
    /// How this node and its peers make sure of each other.
    pub security: PeerSecurity,
}

/// The state of this node's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageHealth {
    /// Why nothing is written any more, if so. Final: only a restart on a sound disk helps.
    pub failure: Option<String>,
    /// How long the write or fsync under way has taken so far.
    pub oldest_pending: Duration,
    /// Fsyncs of the log since the start.
    pub fsyncs: u64,
}

/// All shards of this node.
pub struct Shards {
    config: StoreConfig,
    shards: Vec<Shard>,
    writer: LogWriter,
    thread: Mutex<Option<LogWriterThread>>,
    log: Arc<LogDb>,
    state: Arc<StateDb>,
    pub(crate) connections: Arc<Connections>,
    stop: CancellationToken,
    tasks: TaskTracker,
    pub(crate) declines_leadership: AtomicBool,
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What is read from disk before Raft starts.
struct Opened {
    writer: LogWriter,
    thread: LogWriterThread,
    log: Arc<LogDb>,
    state: Arc<StateDb>,
    replicas: Vec<(LogStore, Arc<Replica>)>,
}

impl Shards {
    /// Opens the databases, loads the state, and starts a Raft group per shard. Entries that are
    /// not in the state tables are replayed once a leader says what is committed. At the first
    /// start the groups form themselves from `config.peers`.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing runs then.
    pub async fn start(
        config: StoreConfig,
        on_applied: OnApplied,
    ) -> Result<Arc<Self>, StoreError> {
        let raft_config = Arc::new(raft_config(&config)?);
        check(&config)?;
        let opened = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || open(&config, &on_applied)).await
        };
        let opened = opened.map_err(|error| StoreError::Configuration(error.to_string()))??;
        let connections = Arc::new(Connections::new(
            config.cluster_name.clone(),
            config.node,
            config.security.clone(),
        ));

        let mut shards = Vec::new();
        for (id, (log, replica)) in (0..).map(ShardId).zip(opened.replicas) {
            replica
                .align_log()
                .await
                .map_err(|error| StoreError::Raft {
                    shard: id,
                    reason: error.to_string(),
                })?;
            let network = NetworkFactory {
                shard: id,
                connections: Arc::clone(&connections),
            };
            let machine = StateMachine(Arc::clone(&replica));
            let raft = ShardRaft::new(
                config.node.0.into(),
                Arc::clone(&raft_config),
                network,
                log,
                machine,
            )
            .await;
            let raft = raft.map_err(|error| StoreError::Raft {
                shard: id,
                reason: error.to_string(),
            })?;
            shards.push(Shard::new(id, config.node, raft, replica));
        }
        let this = Arc::new(Self {
            config,
            shards,
            writer: opened.writer,
            thread: Mutex::new(Some(opened.thread)),
            log: opened.log,
            state: opened.state,
            connections,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            declines_leadership: AtomicBool::new(false),
        });
        this.spawn_tasks();
        Ok(this)
    }

    fn spawn_tasks(self: &Arc<Self>) {
        for place in 0..self.shards.len() {
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                let Some(shard) = this.shards.get(place) else {
                    return;
                };
                tokio::join!(shard.follow_leader(this.stop.clone()), this.form(shard));
            });
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Some(shard) = this.shards.get(place) {
                    shard.commit_groups(this.stop.clone()).await;
                }
            });
        }
        let this = Arc::clone(self);
        self.tasks
            .spawn(async move { Upkeep::new(this).run().await });
        self.tasks.close();
    }

    /// The shard of this number.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(usize::from(id.0))
    }

    /// How many shards there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.config.shards
    }

    /// All shards in order.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        &self.config.cluster_name
    }

    /// How this node and its peers make sure of each other.
    #[must_use]
    pub fn security(&self) -> &PeerSecurity {
        &self.config.security
    }

    /// Whether [`Self::shutdown`] was called: peers are told at once.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether the storage works, and how long the fsync under way has taken.
    #[must_use]
    pub fn storage_health(&self) -> StorageHealth {
        let failure = self.writer.failure().map(str::to_owned);
        let failure = failure.or_else(|| {
            self.iter()
                .find_map(|shard| shard.replica().failure().map(str::to_owned))
        });
        let failure = failure.or_else(|| {
            if self.stop.is_cancelled() {
                None
            } else {
                self.iter().find_map(Shard::failure)
            }
        });
        StorageHealth {
            failure,
            oldest_pending: self.writer.oldest_pending(),
            fsyncs: self.writer.fsyncs(),
        }
    }

    /// Stops the Raft groups, makes the state durable, and ends the log writer. Acknowledged
    /// entries are durable anyway: this only shortens the next start.
    ///
    /// # Errors
    /// [`StoreError::Write`] when the state could not be made durable.
    pub async fn shutdown(&self) -> Result<(), StoreError> {
        self.stop.cancel();
        let stopping = self
            .iter()
            .map(|shard| tokio::time::timeout(STOP_TIMEOUT, shard.raft().shutdown()));
        for (shard, stopped) in self.iter().zip(join_all(stopping).await) {
            if stopped.is_err() {
                tracing::warn!(shard = shard.id().0, "the Raft group did not stop in time");
            }
        }
        self.tasks.wait().await;
        let replicas: Vec<_> = self
            .iter()
            .map(|shard| Arc::clone(shard.replica()))
            .collect();
        let state = Arc::clone(&self.state);
        let flush = move || {
            replicas.iter().for_each(|replica| replica.save());
            state.flush()
        };
        let flushed = tokio::task::spawn_blocking(flush).await;
        self.writer.stop().await;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            drop(tokio::task::spawn_blocking(|| thread.join()).await);
        }
        // Nothing is written any more; a merge of files need not be waited for.
        self.log.cancel_background_work();
        self.state.cancel_background_work();
        let write_error = |reason| StoreError::Write {
            path: self.state.path().to_owned(),
            reason,
        };
        flushed
            .map_err(|error| write_error(error.to_string()))?
            .map_err(|error| write_error(error.into_string()))
    }

    /// At the first start, sets the members of a shard, unless another node has done so.
    ///
    /// All nodes would set the same, so any of them may. They take turns, the preferred leader
    /// first, so that they do not compete for votes, and each leads its own shards from the
    /// beginning.
    async fn form(&self, shard: &Shard) {
        let members: BTreeMap<u64, PeerAddress> = self
            .config
            .peers
            .iter()
            .map(|(node, address)| (u64::from(node.0), PeerAddress(address.clone())))
            .collect();
        let nodes = members.keys().copied().collect();
        let first = preferred_leader(shard.id(), &nodes);
        let turns = members
            .keys()
            .cycle()
            .skip_while(|node| Some(**node) != first);
        let turn = turns
            .take(members.len())
            .position(|node| *node == u64::from(self.config.node.0));
        let turn = turn.and_then(|turn| u32::try_from(turn).ok()).unwrap_or(0);
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = tokio::time::sleep(self.config.election_timeout.1 * turn) => {}
        }
        if matches!(shard.raft().is_initialized().await, Ok(false)) {
            tracing::info!(
                shard = shard.id().0,
                members = members.len(),
                "forming the shard"
            );
            if let Err(error) = shard.raft().initialize(members).await {
                // Another node was faster.
                tracing::debug!(shard = shard.id().0, %error, "not formed here");
            }
        }
    }
}

fn check(config: &StoreConfig) -> Result<(), StoreError> {
    let error = |text: String| Err(StoreError::Configuration(text));
    if config.shards == 0 || config.shards > SHARDS_MAX {
        return error(format!(
            "cluster.shards is {}, allowed is 1 to {SHARDS_MAX}",
            config.shards
        ));
    }
    if !config.peers.contains_key(&config.node) {
        return error(format!(
            "cluster.peers does not list this node, {}",
            config.node
        ));
    }
    if !config
        .cluster_name
        .bytes()
        .all(|byte| byte.is_ascii_graphic())
        || config.cluster_name.is_empty()
    {
        return error(format!(
            "cluster.name is {:?}, allowed are visible ASCII characters",
            config.cluster_name
        ));
    }
    let mut others = config
        .peers
        .iter()
        .filter(|(node, _)| **node != config.node);
    match others.find(|(_, address)| endpoint(address).is_none()) {
        Some((node, address)) => error(format!(
            "cluster.peers: {address:?} of node {node} is not host:port"
        )),
        None => Ok(()),
    }
}

fn open(config: &StoreConfig, on_applied: &OnApplied) -> Result<Opened, StoreError> {
    let owner = Owner {
        cluster: config.cluster_name.clone(),
        node: config.node,
        shards: config.shards,
    };
    let (log, state) = db::open(
        &config.data_dir,
        Budget::new(config.block_cache_bytes),
        &owner,
    )?;
    let (log, state) = (Arc::new(log), Arc::new(state));
    let (writer, thread) = LogWriter::start(Arc::clone(&log))?;
    let clocks = ClockFile::new(&config.data_dir).read();
    let mut replicas = Vec::new();
    for id in (0..config.shards).map(ShardId) {
        let store = LogStore::open(id, Arc::clone(&log), writer.clone())?;
        let (state, on_applied) = (Arc::clone(&state), Arc::clone(on_applied));
        let replica = Replica::load(id, state, store.clone(), on_applied)?;
        if let Some(kept) = clocks.get(&id) {
            replica.resume_clock(*kept);
        }
        replicas.push((store, Arc::new(replica)));
    }
    Ok(Opened {
        writer,
        thread,
        log,
        state,
        replicas,
    })
}

/// Raft's own settings.
///
/// openraft's followers wait for the leader's lease (its `election_timeout_max`) and then for a
/// random time between its two timeouts. Ours are the sum, counted from the last message of the
/// leader, as operators know them from elsewhere: half of the upper one is the lease.
fn raft_config(config: &StoreConfig) -> Result<openraft::Config, StoreError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (lower, upper) = (
        millis(config.election_timeout.0),
        millis(config.election_timeout.1),
    );
    let heartbeat = millis(config.heartbeat).max(1);
    if lower > upper || upper < heartbeat.saturating_mul(4) {
        return Err(StoreError::Configuration(format!(
            "cluster.election_timeout is [{lower}ms, {upper}ms]: the first must not be above the second, and the \
             second must be at least four heartbeats ({heartbeat}ms each)"
        )));
    }
    let lease = upper / 2;
    let raft = openraft::Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: heartbeat,
        election_timeout_min: lower.saturating_sub(lease).clamp(heartbeat + 1, lease - 1),
        election_timeout_max: lease,
        // A cut-off or suspended node asks before it raises the term, so it disturbs nobody when it
        // returns.
        enable_pre_vote: Some(true),
        // A restarted leader does not know what was committed: it must be elected again.
        enable_leader_restore: Some(false),
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    };
    raft.validate()
        .map_err(|error| StoreError::Configuration(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lower_ms: u64, upper_ms: u64) -> StoreConfig {
        StoreConfig {
            node: NodeId(1),
            cluster_name: "test".to_owned(),
            peers: BTreeMap::from([(NodeId(1), "127.0.0.1:7400".to_owned())]),
            shards: 1,
            data_dir: PathBuf::new(),
            heartbeat: Duration::from_millis(100),
            election_timeout: (
                Duration::from_millis(lower_ms),
                Duration::from_millis(upper_ms),
            ),
            block_cache_bytes: 0,
            snapshot_after: 100_000,
            security: PeerSecurity::Open,
        }
    }

    #[test]
    fn an_election_starts_within_the_configured_time_after_the_last_heartbeat() {
        for (lower, upper) in [(500, 1000), (1000, 2000), (800, 1000), (400, 400)] {
            let raft = raft_config(&config(lower, upper)).unwrap();
            assert!(raft.election_timeout_max * 2 <= upper, "{lower} {upper}");
            assert!(
                raft.election_timeout_max + raft.election_timeout_min >= lower.min(upper - 1),
                "{lower} {upper}"
            );
        }
    }

    #[test]
    fn timeouts_too_close_to_the_heartbeat_are_refused() {
        assert!(raft_config(&config(300, 399)).is_err());
        assert!(raft_config(&config(1000, 500)).is_err());
    }

    #[test]
    fn addresses_must_be_host_and_port() {
        let mut wrong = config(500, 1000);
        wrong.peers.insert(NodeId(2), "nowhere".to_owned());
        assert!(check(&wrong).unwrap_err().to_string().contains("nowhere"));
    }
}
