//! The end of fences: kept a while longer than they are needed, then lifted everywhere.
//!
//! Every replica of the client's shard says when a client's former connections are all recorded
//! closed. Each node lifts its own fence against live messages; the shard's leader lifts those in
//! the other shards. A change of leader within the while leaves a fence behind until the client is
//! taken over again: it costs its memory and refuses nothing that is current.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use codec::ClientId;
use raft_store::{Command, Epoch, ShardId};

use crate::broker::Broker;

/// Fences waiting to be lifted at most; beyond it the oldest are lifted early.
const WAITING_MAX: usize = 100_000;
/// Fences lifted by one batch per shard.
const BATCH_MAX: usize = 1000;

/// One client's fences that may go.
#[derive(Clone, Debug)]
pub(crate) struct OverFence {
    /// The shard of the client's session.
    pub(crate) shard: ShardId,
    /// The client.
    pub(crate) client_id: ClientId,
    /// Fences of this connection and of older ones.
    pub(crate) epoch: Epoch,
}

/// Fences that may go, in the order in which they were found to be over.
#[derive(Debug, Default)]
pub(crate) struct OverFences {
    waiting: Mutex<VecDeque<(Instant, OverFence)>>,
}

impl OverFences {
    /// A client's fences may go.
    pub(crate) fn over(&self, fence: OverFence) {
        self.lock().push_back((Instant::now(), fence));
    }

    /// Takes those that have waited long enough.
    fn take(&self, linger: Duration) -> Vec<OverFence> {
        let mut waiting = self.lock();
        let mut taken = Vec::new();
        while taken.len() < BATCH_MAX {
            let crowded = waiting.len() > WAITING_MAX;
            let Some((_, fence)) =
                waiting.pop_front_if(|(since, _)| crowded || since.elapsed() >= linger)
            else {
                break;
            };
            taken.push(fence);
        }
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, OverFence)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lifts the fences that have waited long enough.
pub(crate) async fn lift(broker: &Broker) {
    // By then a declaration has reached every shard and node that serves.
    let taken = broker
        .dispatch
        .fences
        .take(broker.config.cluster.node_down_after);
    let life = broker.dispatch.life();
    let mut commands: BTreeMap<ShardId, Vec<Command>> = BTreeMap::new();
    for OverFence {
        shard,
        client_id,
        epoch,
    } in taken
    {
        if let Some(life) = &life {
            life.registry.fence_end(&client_id, epoch);
        }
        if !broker.leads(shard) {
            continue;
        }
        for other in (0..broker.shards.count())
            .map(ShardId)
            .filter(|other| *other != shard)
        {
            let end = Command::FenceEnd {
                client_id: client_id.clone(),
                epoch,
            };
            commands.entry(other).or_default().push(end);
        }
    }
    for (shard, commands) in commands {
        if let Err(error) = broker.propose_idempotent(shard, &commands).await {
            tracing::debug!(%shard, %error, "fences stay until their clients are taken over again");
        }
    }
}
