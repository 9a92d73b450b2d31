//! Spreads leadership over the nodes: each shard has a preferred leader, and another leader hands
//! over.
//!
//! The preferred leader of shard `s` is the `s mod n`-th of its `n` voters. A hand-over costs a few
//! milliseconds without a leader, so it waits until the other node has answered heartbeats, held
//! the whole log and applied nearly all of it for some seconds: a node that has just restarted
//! replays first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, ServerState};

use crate::connections::Connections;
use crate::ids::{NodeId, ShardId};
use crate::shard::Shard;
use crate::shards::Shards;
use crate::type_config::{LogId, TypeConfig};

/// How long the preferred leader must have been fit.
const STABLE_FOR: Duration = Duration::from_secs(3);
/// After a hand-over, before the next one of the same shard.
const PAUSE: Duration = Duration::from_secs(10);
/// How recently it must have answered a heartbeat.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// How many entries it may lack, or have yet to apply.
const LAG_MAX: u64 = 256;

/// The leader that a shard should have among its voters.
#[must_use]
pub fn preferred_leader(shard: ShardId, voters: &BTreeSet<u64>) -> Option<u64> {
    let place = usize::from(shard.0).checked_rem(voters.len())?;
    voters.iter().nth(place).copied()
}

/// Watches the shards that this node leads and hands over those that it should not.
#[derive(Default)]
pub(crate) struct Balance(BTreeMap<ShardId, Candidate>);

struct Candidate {
    node: u64,
    fit_since: Instant,
    not_before: Instant,
}

impl Balance {
    /// Looks at one shard; called about once a second.
    pub(crate) async fn check(&mut self, shard: &Shard, connections: &Connections) {
        let metrics = shard.metrics();
        let Some(node) = fit_preferred_leader(shard.id(), &metrics, connections) else {
            if let Some(candidate) = self.0.get_mut(&shard.id()) {
                candidate.fit_since = Instant::now();
            }
            return;
        };
        let now = Instant::now();
        let candidate = self.0.entry(shard.id()).or_insert(Candidate {
            node,
            fit_since: now,
            not_before: now,
        });
        if candidate.node != node {
            (candidate.node, candidate.fit_since) = (node, now);
        }
        if now.duration_since(candidate.fit_since) < STABLE_FOR || now < candidate.not_before {
            return;
        }
        candidate.not_before = now + PAUSE;
        tracing::info!(
            shard = shard.id().0,
            to = node,
            "handing the leadership to the preferred node"
        );
        if let Err(error) = shard.raft().trigger().transfer_leader(node).await {
            tracing::debug!(shard = shard.id().0, %error, "no hand-over");
        }
    }
}

/// The preferred leader, if this node leads instead of it and it could take over now.
fn fit_preferred_leader(
    shard: ShardId,
    metrics: &RaftMetrics<TypeConfig>,
    connections: &Connections,
) -> Option<u64> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let voters = metrics.membership_config.membership().voter_ids().collect();
    let preferred = preferred_leader(shard, &voters).filter(|node| *node != metrics.id)?;

    let heard = metrics.heartbeat.as_ref()?.get(&preferred)?.as_ref()?;
    let matching = metrics
        .replication
        .as_ref()?
        .get(&preferred)?
        .as_ref()?
        .index;
    let committed = metrics.local_committed.as_ref()?.index;
    let applied_here = metrics.last_applied.as_ref()?.index;
    let applied_there = connections.applied(preferred, shard)?;
    let fit = heard.elapsed() <= HEARD_WITHIN
        && metrics.last_log_index?.saturating_sub(matching) <= LAG_MAX
        && committed.saturating_sub(applied_here) <= LAG_MAX
        && committed.saturating_sub(applied_there) <= LAG_MAX;
    fit.then_some(preferred)
}

/// How long a follower may take to take over at a planned stop.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// One shard as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Which.
    pub shard: ShardId,
    /// The current term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The leader that it should have.
    pub preferred_leader: Option<NodeId>,
    /// The nodes whose votes count.
    pub voters: Vec<NodeId>,
    /// Index of the last entry applied here.
    pub applied_index: u64,
    /// Index of the last entry known here to be committed.
    pub commit_index: u64,
    /// Index of the first entry that the log still has.
    pub first_log_index: u64,
    /// On the leader: how many entries each follower lacks.
    pub lag_entries: BTreeMap<NodeId, u64>,
}

/// Why a leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask the leader.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// Only a voter can lead.
    #[error("node {0} has no vote in the shard")]
    NotVoter(NodeId),
    /// The other node did not take over in time; it may be down or lag behind.
    #[error("node {0} did not take the leadership over in time")]
    NotTaken(NodeId),
    /// The Raft group has stopped.
    #[error("the shard has stopped on this node")]
    Stopped,
}

impl Shard {
    /// What an operator wants to know of the shard.
    #[must_use]
    pub fn status(&self) -> ShardStatus {
        let metrics = self.metrics();
        let node = |id: u64| u16::try_from(id).ok().map(NodeId);
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        let followers = metrics.replication.unwrap_or_default().into_iter();
        let lag_entries = followers
            .filter(|(id, _)| *id != metrics.id)
            .filter_map(|(id, matching)| {
                let matching = matching.map_or(0, |log_id| log_id.index);
                Some((node(id)?, last.saturating_sub(matching)))
            })
            .collect();
        ShardStatus {
            shard: self.id(),
            term: self.term(),
            leader: self.leader(),
            preferred_leader: preferred_leader(self.id(), &voters).and_then(node),
            voters: voters.into_iter().filter_map(node).collect(),
            applied_index: self.applied_index(),
            commit_index: self.commit_index(),
            first_log_index: self.first_log_index(),
            lag_entries,
        }
    }

    /// As the leader: hands the leadership to a voter, and waits until it has taken over.
    ///
    /// # Errors
    /// See [`TransferError`]; the shard may be without a leader for a moment.
    pub async fn transfer_to(&self, to: NodeId) -> Result<(), TransferError> {
        let metrics = self.metrics();
        if metrics.state != ServerState::Leader {
            return Err(TransferError::NotLeader);
        }
        let id = u64::from(to.0);
        if !metrics
            .membership_config
            .membership()
            .voter_ids()
            .any(|voter| voter == id)
        {
            return Err(TransferError::NotVoter(to));
        }
        if id == metrics.id {
            return Ok(());
        }
        let mut leader = self.leader_watch();
        if let Err(error) = self.raft().trigger().transfer_leader(id).await {
            tracing::debug!(shard = self.id().0, %to, %error, "no hand-over");
            return Err(TransferError::Stopped);
        }
        let taken = leader.wait_for(|leader| *leader == Some(to));
        match tokio::time::timeout(HAND_OVER_TIMEOUT, taken).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(TransferError::Stopped),
            Err(_) => Err(TransferError::NotTaken(to)),
        }
    }
}

impl Shards {
    /// Hands every shard that this node leads to its most caught-up follower, before a planned stop
    /// (DESIGN section 8), and lets nobody hand one to this node any more. A shard that nobody can take
    /// keeps its leader.
    pub async fn hand_over(&self) {
        self.declines_leadership.store(true, Ordering::Relaxed);
        let all = self.iter().map(|shard| hand_over(shard, &self.connections));
        futures::future::join_all(all).await;
    }

    /// After [`hand_over`](Self::hand_over): this node may lead again.
    pub fn accept_leadership(&self) {
        self.declines_leadership.store(false, Ordering::Relaxed);
    }

    pub(crate) fn declines_leadership(&self) -> bool {
        self.declines_leadership.load(Ordering::Relaxed)
    }
}

async fn hand_over(shard: &Shard, connections: &Connections) {
    let metrics = shard.metrics();
    if metrics.state != ServerState::Leader {
        return;
    }
    let replication = metrics.replication.unwrap_or_default();
    let followers = replication
        .into_iter()
        .filter(|(node, _)| *node != metrics.id);
    let fitness = |node: &u64, matching: &Option<LogId>| {
        let accepts = connections.applied(*node, shard.id()).is_some();
        (accepts, matching.as_ref().map(|log_id| log_id.index))
    };
    let Some((node, _)) = followers.max_by_key(|(node, matching)| fitness(node, matching)) else {
        return;
    };
    let mut leader = shard.leader_watch();
    if let Err(error) = shard.raft().trigger().transfer_leader(node).await {
        tracing::warn!(shard = shard.id().0, to = node, %error, "the leadership was not handed over");
        return;
    }
    let other =
        leader.wait_for(|leader| leader.is_some_and(|leader| u64::from(leader.0) != metrics.id));
    if tokio::time::timeout(HAND_OVER_TIMEOUT, other)
        .await
        .is_err()
    {
        tracing::warn!(
            shard = shard.id().0,
            to = node,
            "nobody took the leadership over in time"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_dealt_out_in_turn() {
        let voters = BTreeSet::from([7, 2, 5]);
        let leaders: Vec<_> = (0..6)
            .filter_map(|shard| preferred_leader(ShardId(shard), &voters))
            .collect();
        assert_eq!(leaders, [2, 5, 7, 2, 5, 7]);
        assert_eq!(preferred_leader(ShardId(0), &BTreeSet::new()), None);
    }
}
