//! For how long each peer has been silent, counted only while this node itself was awake: after a
//! pause of its own a node must not find everybody else dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft_store::NodeId;

/// Silence of each peer.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    peers: Mutex<BTreeMap<NodeId, Duration>>,
    /// When each peer was heard last.
    last_words: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Silence {
    /// A peer was heard: it answered, or asked.
    pub(crate) fn heard(&self, peer: NodeId) {
        self.lock().insert(peer, Duration::ZERO);
        self.last_words().insert(peer, Instant::now());
    }

    /// The peer was heard within this time, by the clock: certainly alive then.
    pub(crate) fn was_heard(&self, peer: NodeId, within: Duration) -> bool {
        self.last_words()
            .get(&peer)
            .is_some_and(|at| at.elapsed() <= within)
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

    /// Peers that have been silent for at least `limit`.
    pub(crate) fn silent_for(&self, limit: Duration) -> Vec<NodeId> {
        let peers = self.lock();
        let silent = peers.iter().filter(|(_, silent)| **silent >= limit);
        silent.map(|(peer, _)| *peer).collect()
    }

    fn last_words(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Duration>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom each peer cannot reach, by its own newest word.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    peers: Mutex<BTreeMap<NodeId, (Instant, Vec<NodeId>)>>,
}

impl Reports {
    /// A peer said whom it cannot reach.
    pub(crate) fn note(&self, peer: NodeId, unreachable: Vec<NodeId>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.insert(peer, (Instant::now(), unreachable));
    }

    /// Pairs of nodes of which one cannot reach the other, the lower id first, by words not older
    /// than `fresh`.
    pub(crate) fn cut_pairs(&self, fresh: Duration) -> BTreeSet<(NodeId, NodeId)> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = peers
            .iter()
            .filter(|(_, (since, _))| since.elapsed() <= fresh);
        let pairs = fresh.flat_map(|(from, (_, unreachable))| {
            unreachable
                .iter()
                .map(|to| ((*from).min(*to), (*from).max(*to)))
        });
        pairs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_cut_when_either_side_says_so_and_forgotten_with_its_word() {
        let reports = Reports::default();
        reports.note(NodeId(3), vec![NodeId(1)]);
        reports.note(NodeId(2), Vec::new());
        let cut = reports.cut_pairs(Duration::from_secs(60));
        assert_eq!(cut, BTreeSet::from([(NodeId(1), NodeId(3))]));
        reports.note(NodeId(3), Vec::new());
        assert!(reports.cut_pairs(Duration::from_secs(60)).is_empty());
    }

    #[test]
    fn silence_is_counted_in_ticks_and_ends_with_a_word() {
        let silence = Silence::default();
        let tick = Duration::from_millis(100);
        silence.tick(NodeId(2), tick);
        silence.tick(NodeId(2), tick);
        assert_eq!(silence.silent_for(2 * tick), [NodeId(2)]);
        assert!(!silence.was_heard(NodeId(2), Duration::from_secs(60)));
        silence.heard(NodeId(2));
        assert!(silence.silent_for(tick).is_empty());
        assert!(silence.was_heard(NodeId(2), Duration::from_secs(60)));
    }
}
