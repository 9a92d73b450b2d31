//! The cluster of the kill form: a node dies under an actor, and is back for the next script.

use std::net::SocketAddr;

use testkit::{Cluster, NodeId};

use crate::barrier::Barrier;

/// A cluster whose nodes may be killed, one at a time.
pub(crate) struct Killer {
    cluster: Cluster,
    barrier: Barrier,
    dead: Option<usize>,
}

impl Killer {
    pub(crate) async fn new(cluster: Cluster) -> Self {
        let barrier = Barrier::new(&cluster).await;
        Self {
            cluster,
            barrier,
            dead: None,
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether this node was killed and not started again.
    pub(crate) fn is_dead(&self, node: usize) -> bool {
        self.dead == Some(node)
    }

    pub(crate) fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.cluster.mqtt_from(1)
    }

    /// Kills a node; the others live.
    pub(crate) async fn kill(&mut self, node: usize) {
        self.make_whole().await;
        if let Ok(id) = NodeId::try_from(node) {
            self.cluster.kill(id);
            self.dead = Some(node);
        }
    }

    /// All nodes run again.
    pub(crate) async fn make_whole(&mut self) {
        if self.dead.is_some() {
            self.cluster.restart_all().await;
            self.barrier = Barrier::new(&self.cluster).await;
            self.dead = None;
        }
    }
}
