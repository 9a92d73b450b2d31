//! For how long each peer has been silent, counted only while this node itself was awake: after a
//! pause of its own a node must not find everybody else dead.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use raft_store::NodeId;

/// Silence of each peer.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    peers: Mutex<BTreeMap<NodeId, Duration>>,
}

impl Silence {
    /// A peer was heard: it answered, or asked.
    pub(crate) fn heard(&self, peer: NodeId) {
        self.lock().insert(peer, Duration::ZERO);
    }

    /// Nobody is judged for the time before this node's duty began.
    pub(crate) fn reset(&self) {
        self.lock().clear();
    }

    /// A tick of `period` has passed here; returns how long the peer has been silent.
    pub(crate) fn tick(&self, peer: NodeId, period: Duration) -> Duration {
        let mut peers = self.lock();
        let silent = peers.entry(peer).or_default();
        *silent = silent.saturating_add(period);
        *silent
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Duration>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
