//! A node's right to serve: a majority answered its heartbeats recently enough, and it has applied
//! what they listed (DESIGN section 6).
//!
//! Counted from the sending of each heartbeat, so that the lease ends here before a majority may
//! believe that it has ended. A node that was stopped for a while (SIGSTOP, a stalled host) must hear
//! a majority again before it does anything: its clients may have gone on elsewhere meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use raft_store::{Incarnation, NodeId, ShardId};
use tokio::sync::watch;

use crate::clock;
use crate::visibility::Change;

/// What a node must have applied before an answered heartbeat counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Per shard: index of its newest subscription change.
    pub(crate) subscription_index: BTreeMap<ShardId, u64>,
    /// Per node: its life and its newest announcement.
    pub(crate) announced: BTreeMap<NodeId, (Incarnation, u64)>,
}

impl Seen {
    /// Everything that `needed` lists is in `self`. A newer life covers every announcement of an
    /// older one: its transient sessions are gone.
    pub(crate) fn covers(&self, needed: &Self) -> bool {
        let shards = needed.subscription_index.iter().all(|(shard, index)| {
            self.subscription_index
                .get(shard)
                .is_some_and(|applied| applied >= index)
        });
        let nodes = needed.announced.iter().all(|(node, position)| {
            self.announced
                .get(node)
                .is_some_and(|seen| seen >= position)
        });
        shards && nodes
    }

    /// A change that is to be covered as well.
    pub(crate) fn add(&mut self, change: Change) {
        match change {
            Change::Shard(shard, index) => {
                let known = self.subscription_index.entry(shard).or_default();
                *known = (*known).max(index);
            }
            Change::Announcement(life, number) => {
                let known = self.announced.entry(life.node).or_default();
                *known = (*known).max((life.incarnation, number));
            }
        }
    }
}

/// Whether the node may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseState {
    /// It may.
    Held,
    /// It must not; connections stay open for now.
    Lost,
    /// It has not for `quorum_lost_after`: connections are closed.
    Closing,
}

/// The lease of one node.
#[derive(Debug)]
pub(crate) struct Lease {
    duration: Duration,
    quorum_lost_after: Duration,
    /// Answers needed besides our own.
    answers_needed: usize,
    /// When the lease was last looked at, milliseconds of `clock::now`. Long ago: the node slept.
    looked_at_ms: AtomicU64,
    /// End of the lease, milliseconds of `clock::now`; `u64::MAX` for a cluster of one.
    until_ms: AtomicU64,
    answers: Mutex<Answers>,
    state: watch::Sender<LeaseState>,
}

/// What has been answered.
#[derive(Debug, Default)]
struct Answers {
    /// Heartbeats sent before this count for nothing: the node slept, or a new life began.
    not_before: Duration,
    peers: BTreeMap<NodeId, PeerAnswers>,
}

impl Answers {
    /// Whatever was answered to heartbeats sent before `now` counts for nothing.
    fn forget(&mut self, now: Duration) {
        *self = Self {
            not_before: now,
            peers: BTreeMap::new(),
        };
    }
}

/// The answers of one peer.
#[derive(Debug, Default)]
struct PeerAnswers {
    /// When the newest heartbeat was sent whose answer counts.
    counted: Option<Duration>,
    /// The newest answer that lists something not yet applied here.
    waiting: Option<(Duration, Seen)>,
}

/// A pause of this part of the lease makes the answers from before it worthless: long enough not to
/// happen on a busy machine, short enough to notice a pause in which clients could move.
const SLEPT_FRACTION: u32 = 4;
/// A shorter pause is a busy machine, whatever the lease.
const SLEPT_MIN: Duration = Duration::from_millis(200);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Lease {
    /// No lease yet. `members`: nodes in the cluster, this one included.
    pub(crate) fn new(members: usize, duration: Duration, quorum_lost_after: Duration) -> Self {
        Self {
            duration,
            quorum_lost_after,
            answers_needed: members / 2,
            looked_at_ms: AtomicU64::new(0),
            until_ms: AtomicU64::new(0),
            answers: Mutex::new(Answers::default()),
            state: watch::Sender::new(LeaseState::Lost),
        }
    }

    /// How long one answered heartbeat is good for.
    pub(crate) fn duration(&self) -> Duration {
        self.duration
    }

    /// The node may serve at this instant.
    pub(crate) fn is_held(&self) -> bool {
        let now = millis(clock::now());
        now < self.until_ms.load(Ordering::Acquire) && !self.slept(now)
    }

    /// The task that looks at the lease has not run for longer than a busy machine explains.
    fn slept(&self, now_ms: u64) -> bool {
        let looked_at = self.looked_at_ms.load(Ordering::Acquire);
        now_ms.saturating_sub(looked_at) > millis((self.duration / SLEPT_FRACTION).max(SLEPT_MIN))
    }

    /// Changes of the state, for those who must act on them.
    pub(crate) fn watch(&self) -> watch::Receiver<LeaseState> {
        self.state.subscribe()
    }

    /// A peer answered the heartbeat sent at `sent`, listing `needed`.
    pub(crate) fn answered(&self, peer: NodeId, sent: Duration, needed: Seen, seen: &Seen) {
        let mut all = self.lock();
        if sent < all.not_before {
            return;
        }
        let answers = all.peers.entry(peer).or_default();
        if seen.covers(&needed) {
            answers.counted = answers.counted.max(Some(sent));
            answers.waiting = None;
        } else {
            // The oldest one: it is the first to be covered, also while new changes keep coming.
            answers.waiting.get_or_insert((sent, needed));
        }
    }

    /// Forgets all answers: a new life begins without a lease.
    pub(crate) fn reset(&self) {
        let mut answers = self.lock();
        let now = clock::now();
        answers.forget(now);
        let until = self.until_ms.load(Ordering::Acquire).min(millis(now));
        self.until_ms.store(until, Ordering::Release);
        self.publish();
    }

    /// Renews the lease from what has been answered; `seen` is what this node has applied by now.
    /// `ready`: this life has caught up and may serve at all.
    pub(crate) fn renew(&self, seen: &Seen, ready: bool) {
        let mut answers = self.lock();
        // A lease that has run out is seen by those who wait before it is renewed.
        self.publish();
        let now = clock::now();
        if self.slept(millis(now)) {
            answers.forget(now);
        }
        let end = if ready {
            self.end(&mut answers, seen)
        } else {
            0
        };
        // Lost now, not long ago: `quorum_lost_after` counts from here.
        let until = end.max(self.until_ms.load(Ordering::Acquire).min(millis(now)));
        self.until_ms.store(until, Ordering::Release);
        self.looked_at_ms.store(millis(now), Ordering::Release);
        self.publish();
    }

    fn end(&self, answers: &mut Answers, seen: &Seen) -> u64 {
        let Some(index) = self.answers_needed.checked_sub(1) else {
            return u64::MAX;
        };
        for peer in answers.peers.values_mut() {
            let applied = peer.waiting.take_if(|(_, needed)| seen.covers(needed));
            if let Some((sent, _)) = applied {
                peer.counted = peer.counted.max(Some(sent));
            }
        }
        let counted = answers.peers.values().filter_map(|peer| peer.counted);
        let mut counted: Vec<Duration> = counted.collect();
        counted.sort_unstable_by(|a, b| b.cmp(a));
        counted
            .get(index)
            .map_or(0, |sent| millis(sent.saturating_add(self.duration)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait when the state has changed.
    fn publish(&self) {
        let now = millis(clock::now());
        let until = self.until_ms.load(Ordering::Acquire);
        self.state.send_if_modified(|state| {
            let new = if now < until && !self.slept(now) {
                LeaseState::Held
            } else if now.saturating_sub(until) < millis(self.quorum_lost_after) {
                LeaseState::Lost
            } else {
                LeaseState::Closing
            };
            let changed = *state != new;
            *state = new;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: u64) -> Seen {
        Seen {
            subscription_index: BTreeMap::from([(ShardId(0), index)]),
            announced: BTreeMap::new(),
        }
    }

    fn lease() -> Lease {
        Lease::new(3, Duration::from_secs(60), Duration::from_secs(3))
    }

    /// DESIGN section 6, lease
    #[test]
    fn a_majority_of_answers_gives_the_lease_and_a_minority_does_not() {
        let lease = lease();
        lease.renew(&seen(5), true);
        assert!(!lease.is_held());
        lease.answered(NodeId(2), clock::now(), seen(5), &seen(5));
        lease.renew(&seen(5), true);
        assert!(lease.is_held());
    }

    /// DESIGN section 6, lease: "and it has applied all that they listed"
    #[test]
    fn an_answer_counts_only_once_what_it_lists_is_applied() {
        let lease = lease();
        lease.renew(&seen(5), true);
        lease.answered(NodeId(2), clock::now(), seen(6), &seen(5));
        lease.renew(&seen(5), true);
        assert!(!lease.is_held());
        lease.renew(&seen(6), true);
        assert!(lease.is_held());
    }

    /// DESIGN section 6, lease: "counted from sending"
    #[test]
    fn a_late_answer_gives_no_lease() {
        let lease = Lease::new(3, Duration::from_millis(1), Duration::from_secs(3));
        lease.renew(&seen(0), true);
        let long_ago = clock::now().saturating_sub(Duration::from_millis(5));
        lease.answered(NodeId(2), long_ago, seen(0), &seen(0));
        lease.renew(&seen(0), true);
        assert!(!lease.is_held());
    }

    #[test]
    fn a_node_that_slept_must_be_answered_again() {
        let lease = Lease::new(3, Duration::from_secs(60), Duration::from_secs(3));
        lease.renew(&seen(0), true);
        lease.answered(NodeId(2), clock::now(), seen(0), &seen(0));
        lease.renew(&seen(0), true);
        assert!(lease.is_held());
        let asleep = millis(clock::now()).saturating_sub(15_001);
        lease.looked_at_ms.store(asleep, Ordering::Release);
        assert!(!lease.is_held());
        let before = clock::now();
        lease.renew(&seen(0), true);
        assert!(!lease.is_held());
        assert_eq!(*lease.watch().borrow(), LeaseState::Lost);
        // The answer to a heartbeat from before the sleep counts for nothing.
        lease.answered(NodeId(2), before, seen(0), &seen(0));
        lease.renew(&seen(0), true);
        assert!(!lease.is_held());
        lease.answered(NodeId(2), clock::now(), seen(0), &seen(0));
        lease.renew(&seen(0), true);
        assert!(lease.is_held());
        assert_eq!(*lease.watch().borrow(), LeaseState::Held);
    }

    #[test]
    fn a_single_node_holds_its_lease_as_soon_as_it_is_ready() {
        let lease = Lease::new(1, Duration::from_secs(1), Duration::from_secs(3));
        lease.renew(&seen(0), false);
        assert!(!lease.is_held());
        lease.renew(&seen(0), true);
        assert!(lease.is_held());
    }
}
