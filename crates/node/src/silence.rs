//! For how long each peer has been silent, counted only while this node itself was awake: after a
//! pause of its own a node must not find everybody else dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft_store::NodeId;

/// Silence of each peer.
#[derive(Debug)]
pub(crate) struct Silence {
    peers: Mutex<BTreeMap<NodeId, Duration>>,
    /// A longer gap between two words ends the time for which a peer was audible.
    gap_max: Duration,
    words: Mutex<BTreeMap<NodeId, Words>>,
}

/// When a peer was heard.
#[derive(Debug)]
struct Words {
    last: Instant,
    audible_since: Instant,
}

impl Silence {
    /// Nobody was heard yet.
    pub(crate) fn new(gap_max: Duration) -> Self {
        Self {
            peers: Mutex::new(BTreeMap::new()),
            gap_max,
            words: Mutex::new(BTreeMap::new()),
        }
    }

    /// A peer was heard: it answered, or asked.
    pub(crate) fn heard(&self, peer: NodeId) {
        self.lock().insert(peer, Duration::ZERO);
        let now = Instant::now();
        let mut all = self.words();
        let words = all.entry(peer).or_insert(Words {
            last: now,
            audible_since: now,
        });
        if now.duration_since(words.last) > self.gap_max {
            words.audible_since = now;
        }
        words.last = now;
    }

    /// For how long the peer has been heard without a gap, by the clock; zero if it is not now.
    pub(crate) fn audible_for(&self, peer: NodeId) -> Duration {
        let all = self.words();
        let audible = all
            .get(&peer)
            .filter(|words| words.last.elapsed() <= self.gap_max);
        audible.map_or(Duration::ZERO, |words| words.audible_since.elapsed())
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

    fn words(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Words>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Duration>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom each peer cannot reach, by its own newest word.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    peers: Mutex<BTreeMap<NodeId, (Instant, Vec<NodeId>)>>,
    /// Who said that it is drained, and when.
    draining: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Reports {
    /// A peer said whom it cannot reach.
    pub(crate) fn note(&self, peer: NodeId, unreachable: Vec<NodeId>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.insert(peer, (Instant::now(), unreachable));
    }

    /// A peer said whether it is drained.
    pub(crate) fn note_draining(&self, peer: NodeId, draining: bool) {
        let mut all = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        if draining {
            all.insert(peer, Instant::now());
        } else {
            all.remove(&peer);
        }
    }

    /// Who is drained, by words not older than `fresh`.
    pub(crate) fn draining(&self, fresh: Duration) -> BTreeSet<NodeId> {
        let all = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = all.iter().filter(|(_, since)| since.elapsed() <= fresh);
        fresh.map(|(peer, _)| *peer).collect()
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
        let silence = Silence::new(Duration::from_secs(60));
        let tick = Duration::from_millis(100);
        silence.tick(NodeId(2), tick);
        silence.tick(NodeId(2), tick);
        assert_eq!(silence.silent_for(2 * tick), [NodeId(2)]);
        assert_eq!(silence.audible_for(NodeId(2)), Duration::ZERO);
        silence.heard(NodeId(2));
        assert!(silence.silent_for(tick).is_empty());
        assert!(silence.audible_for(NodeId(2)) > Duration::ZERO);
    }
}
