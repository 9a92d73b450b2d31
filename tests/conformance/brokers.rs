//! The brokers that all scripts of one run share, started when first needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use testkit::{Cluster, ClusterOptions};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, RwLock};

use crate::barrier::Barrier;
use crate::configurations::Configuration;
use crate::files::root;
use crate::killer::Killer;

/// A broker that scripts share.
pub(crate) struct Shared {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) barrier: Option<Barrier>,
    /// Written by scripts that need it for themselves.
    pub(crate) gate: RwLock<()>,
    cluster: Mutex<Cluster>,
}

type Key = (&'static str, u16);

/// All brokers of a run.
#[derive(Default)]
pub(crate) struct Brokers {
    shared: Mutex<BTreeMap<Key, Arc<OnceCell<Shared>>>>,
    /// The cluster of the kill form, for one script at a time.
    pub(crate) killer: AsyncMutex<Option<Killer>>,
}

impl Brokers {
    /// The broker with this configuration and so many nodes. Those of other configurations that
    /// nobody uses now are stopped: scripts are sorted by configuration.
    pub(crate) fn cell(&self, configuration: &Configuration, nodes: u16) -> Arc<OnceCell<Shared>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|(name, _), cell| {
            let is_wanted = name.is_empty() || *name == configuration.name;
            is_wanted || Arc::strong_count(cell) > 1
        });
        Arc::clone(shared.entry((configuration.name, nodes)).or_default())
    }

    /// Stops all of them.
    pub(crate) async fn stop(&self) {
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        drop(self.killer.lock().await.take());
    }
}

/// Starts a broker.
pub(crate) async fn start(configuration: &Configuration, nodes: u16) -> Cluster {
    let binary = env!("CARGO_BIN_EXE_holdfast");
    let folder = root().join("tests/conformance");
    let auth = configuration.auth;
    let options = ClusterOptions {
        nodes,
        limits: configuration.limits,
        auth: auth.replace("{conformance}", &folder.display().to_string()),
        shared: true,
        target: "conformance",
        ..ClusterOptions::new(binary)
    };
    Cluster::start("conformance", options).await
}

impl Shared {
    pub(crate) async fn start(configuration: &Configuration, nodes: u16) -> Self {
        let cluster = start(configuration, nodes).await;
        let barrier = if configuration.has_barrier {
            Some(Barrier::new(&cluster).await)
        } else {
            None
        };
        Self {
            addresses: cluster.mqtt_from(1),
            barrier,
            gate: RwLock::new(()),
            cluster: Mutex::new(cluster),
        }
    }

    /// What the nodes logged about a scenario.
    pub(crate) fn logs(&self, prefix: &str) -> String {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        logs(&cluster, prefix)
    }
}

/// The last lines of each node's log that name a scenario's clients.
pub(crate) fn logs(cluster: &Cluster, prefix: &str) -> String {
    const LINES_MAX: usize = 20;
    let mut text = String::new();
    for id in cluster.ids() {
        let log = std::fs::read_to_string(cluster.log_file(id)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(prefix)).collect();
        let last = lines.len().saturating_sub(LINES_MAX);
        for line in lines.iter().skip(last) {
            text.push_str(&format!("node {id}: {line}\n"));
        }
    }
    text
}
