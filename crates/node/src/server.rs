//! One node from configuration to clean stop: what is started, in which order, and stopped in reverse.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_store::{
    Forwarder, NodeId, OnApplied, PeerSecret, PeerSecurity, ProposalService, RaftService, ShardId,
    Shards, StoreConfig, StoreError,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::task::TaskTracker;

use crate::auth::{AccessPolicy, Logins};
use crate::broker::Broker;
use crate::config::Config;
use crate::disk::{self, Disk};
use crate::dispatch::Dispatch;
use crate::drain::Drain;
use crate::error::StartError;
use crate::health::{Check, Health};
use crate::lease::Lease;
use crate::listener::Listener;
use crate::overload::Overload;
use crate::peers::PeerService;
use crate::pressure::{self, Pressure};
use crate::query::QueryService;
use crate::silence::{Reports, Silence};
use crate::transport::TlsStore;
use crate::visibility::Visibility;
use crate::{clock, count, gauges, heartbeat, members, outbox, sys_topics, wills};

/// How often readiness is looked at.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);
/// Before a listener whose address is taken is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);

/// A running node.
#[derive(Debug)]
pub(crate) struct Server {
    broker: Arc<Broker>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Starts a node; it begins to serve when the cluster lets it.
    ///
    /// # Errors
    /// [`StartError`]: a port or the data folder cannot be had.
    pub(crate) async fn start(config: Config, health: Arc<Health>) -> Result<Self, StartError> {
        let node = NodeId(config.node.id);
        let tls = Arc::new(TlsStore::load(&config)?);
        let security = peer_security(&config, &tls)?;
        let cluster_socket = bind_cluster(&config).await?;
        let mut listeners = Vec::new();
        for (place, listener) in config.listeners.iter().enumerate() {
            listeners
                .push(Listener::bind(format!("listener.{place}.bind"), listener.clone()).await?);
        }
        let members = members_of(&config);
        let dispatch = Arc::new(Dispatch::new(node, config.cluster.shards));
        let on_applied: OnApplied = {
            let dispatch = Arc::clone(&dispatch);
            Arc::new(move |shard, index, applied| dispatch.on_applied(shard, index, applied))
        };
        let shards = Shards::start(store_config(&config, members.clone(), security), on_applied)
            .await
            .map_err(store)?;
        dispatch.set_shards(&shards);
        let connections = TaskTracker::new();
        let drain = Drain::new(config.shutdown.clone(), connections.clone());
        let broker = broker(
            (config, drain, tls),
            (node, members),
            shards,
            dispatch,
            health,
        )?;
        let mut server = Self {
            broker,
            tasks: JoinSet::new(),
        };
        server.spawn_cluster(cluster_socket);
        server.spawn_outboxes();
        for listener in listeners {
            let broker = Arc::clone(&server.broker);
            server
                .tasks
                .spawn(listen(broker, listener, connections.clone()));
        }
        server.broker.health.pass(Check::Listeners);
        server.broker.health.started();
        Ok(server)
    }

    fn spawn_cluster(&mut self, socket: Option<TcpListener>) {
        let broker = &self.broker;
        if let Some(socket) = socket {
            let server = raft_store::server_builder()
                .add_service(RaftService::new(Arc::clone(&broker.shards)))
                .add_service(ProposalService::server(Arc::clone(&broker.shards)))
                .add_service(PeerService::server(Arc::clone(broker)))
                .add_service(QueryService::server(Arc::clone(broker)))
                .serve_with_incoming(raft_store::incoming(
                    socket,
                    broker.shards.security().clone(),
                ));
            self.tasks.spawn(async move {
                if let Err(error) = server.await {
                    tracing::error!(%error, "the cluster port stopped");
                }
            });
        }
        for (peer, address) in broker.peers() {
            self.tasks
                .spawn(heartbeat::run(Arc::clone(broker), peer, address.clone()));
        }
        self.tasks.spawn(heartbeat::keep_lease(Arc::clone(broker)));
        self.tasks.spawn(members::live(Arc::clone(broker)));
        self.tasks.spawn(members::duties(Arc::clone(broker)));
        self.tasks.spawn(watch_health(Arc::clone(broker)));
        self.tasks.spawn(pressure::relieve(Arc::clone(broker)));
        self.tasks.spawn(gauges::keep(Arc::clone(broker)));
        self.tasks.spawn(disk::watch(Arc::clone(broker)));
        self.tasks.spawn(sys_topics::run(Arc::clone(broker)));
        self.tasks.spawn(Arc::clone(&broker.tls).watch());
    }

    fn spawn_outboxes(&mut self) {
        let broker = &self.broker;
        let shards = || (0..broker.shards.count()).map(ShardId);
        for source in shards() {
            for target in shards().filter(|target| *target != source) {
                self.tasks
                    .spawn(outbox::drain(Arc::clone(broker), source, target));
            }
        }
        for shard in shards() {
            self.tasks
                .spawn(outbox::place_unplaced(Arc::clone(broker), shard));
            self.tasks
                .spawn(wills::publish_due(Arc::clone(broker), shard));
        }
        self.tasks.spawn(outbox::report_taken(Arc::clone(broker)));
        self.tasks.spawn(outbox::watch_bound(Arc::clone(broker)));
    }

    /// The parts of the node, for whoever answers about it.
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// What ends the node although nobody asked it to stop.
    pub(crate) async fn failed(&self) -> StartError {
        let mut tick = interval(HEALTH_PERIOD);
        loop {
            tick.tick().await;
            if let Some(failure) = self.broker.shards.storage_health().failure {
                return StartError::failed("the storage failed", failure);
            }
        }
    }

    /// Stops: no new clients, leaderships handed over, the open connections closed with a reason,
    /// the state flushed. `hurry`: whoever is left is closed at once.
    ///
    /// # Errors
    /// [`StartError`]: the state could not be made durable.
    pub(crate) async fn stop(mut self, hurry: impl Future<Output = ()>) -> Result<(), StartError> {
        let limit = self.broker.config.shutdown.drain_timeout;
        tokio::select! {
            () = self.broker.drain(limit) => {}
            () = hurry => {
                tracing::warn!("asked to stop again: the remaining clients are closed at once");
                self.broker.close_clients().await;
            }
        }
        self.tasks.shutdown().await;
        self.broker.shards.shutdown().await.map_err(store)
    }
}

/// Accepts clients on one listener, except while the node is drained.
async fn listen(broker: Arc<Broker>, mut listener: Listener, connections: TaskTracker) {
    loop {
        let again = listener.again();
        let accepting = broker.drain.accepting();
        listener
            .run(Arc::clone(&broker), connections.clone(), accepting)
            .await;
        broker.drain.served_again().await;
        listener = loop {
            match again.bind().await {
                Ok(listener) => break listener,
                Err(error) => {
                    let reason = error.to_string();
                    tracing::error!(reason, "a listener cannot be opened again");
                    broker.health.fail(Check::Listeners, &reason);
                }
            }
            sleep(BIND_PAUSE).await;
        };
        broker.health.pass(Check::Listeners);
    }
}

fn broker(
    (config, drain, tls): (Config, Drain, Arc<TlsStore>),
    (node, members): (NodeId, BTreeMap<NodeId, String>),
    shards: Arc<Shards>,
    dispatch: Arc<Dispatch>,
    health: Arc<Health>,
) -> Result<Arc<Broker>, StartError> {
    let address = |error| StartError::failed("an address in cluster.peers is not usable", error);
    let name = config.cluster.name.clone();
    let forwarder = Forwarder::new((node, name), Arc::clone(&shards), &members).map_err(address)?;
    let peers = members
        .iter()
        .filter(|(peer, _)| **peer != node)
        .map(|(peer, a)| (*peer, a));
    let visibility = Visibility::new(peers, shards.security()).map_err(address)?;
    let access = AccessPolicy::load(&config.auth, &config.acl)?;
    let cluster = &config.cluster;
    let gap_max = cluster.lease;
    let buffers_max = usize::try_from(config.limits.buffers_max_bytes).unwrap_or(usize::MAX);
    let lease = Lease::new(members.len(), cluster.lease, cluster.quorum_lost_after);
    {
        let shards = Arc::clone(&shards);
        health.watch_fsyncs(move || shards.storage_health().oldest_pending);
    }
    let overload = Overload::new(&config.limits);
    let limits = watch::Sender::new(Arc::new(config.limits.clone()));
    Ok(Arc::new(Broker {
        config,
        started: clock::now(),
        node,
        members,
        shards,
        forwarder: Arc::new(forwarder),
        dispatch,
        lease,
        health,
        silence: Silence::new(gap_max),
        unanswered: Silence::new(gap_max),
        reports: Reports::default(),
        visibility: Arc::new(visibility),
        pressure: Pressure::new(buffers_max),
        limits,
        overload,
        outbox_full: watch::Sender::new(false),
        access: watch::Sender::new(Arc::new(access)),
        logins: Logins::new(),
        tls,
        drain,
        disk: Disk::default(),
    }))
}

/// How nodes make sure of each other.
///
/// # Errors
/// The secret cannot be read, or is too short.
pub(crate) fn peer_security(config: &Config, tls: &TlsStore) -> Result<PeerSecurity, StartError> {
    let secret_file = config.cluster.secret_file.as_ref();
    if let Some(tls) = tls.cluster() {
        if secret_file.is_some() {
            tracing::warn!("cluster.secret_file is not looked at: cluster.tls is set");
        }
        return Ok(PeerSecurity::Tls(tls));
    }
    let Some(path) = secret_file else {
        return Ok(PeerSecurity::Open);
    };
    let wrong = |problem: String| StartError::file("cluster.secret_file", path, problem);
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let secret = PeerSecret::new(bytes.trim_ascii_end());
    let secret = secret.ok_or_else(|| wrong("a secret has at least 16 bytes".to_owned()))?;
    Ok(PeerSecurity::Secret(secret))
}

/// A single node has no cluster port: nobody is to talk to it there.
async fn bind_cluster(config: &Config) -> Result<Option<TcpListener>, StartError> {
    if config.cluster.is_single_node() {
        return Ok(None);
    }
    let address = config.cluster.listen;
    let socket = TcpListener::bind(address)
        .await
        .map_err(|error| StartError::bind("cluster.listen", address, error))?;
    tracing::info!(listener = "cluster", %address, "listening");
    Ok(Some(socket))
}

fn members_of(config: &Config) -> BTreeMap<NodeId, String> {
    if config.cluster.is_single_node() {
        return BTreeMap::from([(NodeId(config.node.id), unused_address().to_string())]);
    }
    let peers = config.cluster.peers.iter();
    peers
        .map(|peer| (NodeId(peer.id), peer.address.to_string()))
        .collect()
}

/// What stands in the log for the only member; nobody connects to it.
fn unused_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7400))
}

fn store_config(
    config: &Config,
    peers: BTreeMap<NodeId, String>,
    security: PeerSecurity,
) -> StoreConfig {
    let cluster = &config.cluster;
    StoreConfig {
        node: NodeId(config.node.id),
        cluster_name: cluster.name.clone(),
        peers,
        shards: cluster.shards,
        data_dir: config.node.data_dir.clone(),
        heartbeat: cluster.heartbeat,
        election_timeout: cluster.election_timeout,
        block_cache_bytes: config.storage.block_cache_bytes,
        snapshot_after: config.storage.snapshot_after,
        security,
    }
}

fn store(error: StoreError) -> StartError {
    StartError::failed("storage", error)
}

/// Keeps readiness up to date: confirmed leaders and the lease.
async fn watch_health(broker: Arc<Broker>) {
    let mut tick = interval(HEALTH_PERIOD);
    let confirmed_within = 2 * broker.config.cluster.election_timeout.1;
    loop {
        tick.tick().await;
        let leaderless: Vec<String> = broker
            .shards
            .iter()
            .filter(|shard| !shard.has_leader_confirmed(confirmed_within))
            .map(|shard| shard.id().to_string())
            .collect();
        if leaderless.is_empty() {
            broker.health.pass(Check::Leaders);
        } else {
            let reason = format!("no confirmed leader in shards {}", leaderless.join(", "));
            broker.health.fail(Check::Leaders, &reason);
        }
        for shard in broker.shards.iter() {
            count::raft_role(shard.id(), shard.is_leader());
            broker.dispatch.set_leads(shard.id(), shard.is_leader());
        }
        count::quorum_critical(broker.quorum_critical().is_some());
        if broker.overload.is_memory_short() {
            broker.health.fail(
                Check::Memory,
                "limits.memory_high: new connections are refused",
            );
        } else {
            broker.health.pass(Check::Memory);
        }
        if broker.lease.is_held() {
            broker.health.pass(Check::Lease);
        } else {
            broker
                .health
                .fail(Check::Lease, "a majority of the nodes does not answer");
        }
    }
}
