//! Drains the outboxes of the shards that this node leads into their target shards, and tells the
//! shards what this node has taken from their outboxes.
//!
//! Each target shard takes each item once, whoever leads: items are numbered, and the target
//! remembers the last number it took from each source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_store::{Command, OutboxItem, OutboxTarget, ProposerId, Response, ShardId};
use tokio::time::{sleep, timeout};

use crate::broker::Broker;
use crate::waiter::CommandWaiter;
use crate::wills;

/// Items in one batch at most.
const ITEMS_MAX: usize = 512;
/// Bytes in one batch, at most this plus one message.
const BYTES_MAX: usize = 1024 * 1024;
/// Pause after a batch could not be written.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often an outbox is looked at although nothing was applied.
const IDLE_PERIOD: Duration = Duration::from_millis(200);
/// Bytes in one outbox beyond which publishers wait. Exceeded by what comes in within `BOUND_PERIOD`.
const OUTBOX_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often the bound is looked at.
const BOUND_PERIOD: Duration = Duration::from_millis(50);
/// How often a shard learns what this node has taken.
const TAKEN_PERIOD: Duration = Duration::from_millis(200);

/// Drains one pair of shards for ever: the outbox of `source`, the items for `target`.
pub(crate) async fn drain(broker: Arc<Broker>, source: ShardId, target: ShardId) {
    let Some(local) = broker.shards.shard(source) else {
        return;
    };
    let mut applied = local.applied_watch();
    let mut taken = 0_u64;
    loop {
        applied.mark_unchanged();
        if !local.is_leader() {
            taken = 0;
        } else if let Some(upto) = drain_batch(&broker, source, target, taken).await {
            taken = upto;
            continue;
        }
        // Nothing to do until the shard applies something; looked at again in any case, since
        // leadership comes without an entry of ours.
        drop(timeout(IDLE_PERIOD, applied.changed()).await);
    }
}

/// Writes one batch into the target and records it as taken. `None`: nothing waits.
async fn drain_batch(broker: &Broker, source: ShardId, target: ShardId, taken: u64) -> Option<u64> {
    let local = broker.shards.shard(source)?;
    let to = OutboxTarget::Shard(target);
    let settled = local.with_machine(|machine| machine.outbox_settled(to));
    let items = local.outbox_items(to, taken, ITEMS_MAX, BYTES_MAX);
    let (first, _) = items.front()?;
    let (first, last) = (*first, items.back().map_or(*first, |(number, _)| *number));
    let items = items.into_iter().map(|(_, item)| item).collect();
    let command = [Command::TakeOutbox {
        source,
        settled,
        first,
        items,
    }];
    let written = broker
        .write(target, ProposerId::Outbox { source }, &command)
        .await;
    let refused = match written.as_deref().map(<[Response]>::first) {
        Ok(Some(Response::TookOutbox { refused })) => refused.clone(),
        Ok(answer) => {
            tracing::error!(%source, %target, ?answer, "outbox items were refused");
            sleep(RETRY_PAUSE).await;
            return Some(0);
        }
        Err(error) => {
            tracing::debug!(%source, %target, %error, "outbox items not written, trying again");
            sleep(RETRY_PAUSE).await;
            return Some(taken);
        }
    };
    let is_complete = refused.is_empty();
    let trim = [Command::Taken {
        target: to,
        upto: last,
        refused,
    }];
    match broker.propose_idempotent(source, &trim).await {
        Ok(_) => Some(last),
        // Lazily: what is lost here is covered by the next one, or the items are offered again. What
        // was refused is known to nobody else: those must be offered again, and are refused again.
        Err(error) => {
            tracing::debug!(%source, %target, %error, "outbox not trimmed yet");
            sleep(RETRY_PAUSE).await;
            Some(if is_complete { last } else { taken })
        }
    }
}

/// Gives the items of a shard a new place whose place had no member any more, as its leader, for
/// ever.
pub(crate) async fn place_unplaced(broker: Arc<Broker>, shard: ShardId) {
    let Some(local) = broker.shards.shard(shard) else {
        return;
    };
    loop {
        let mut placed = false;
        if local.is_leader() && broker.serving().is_some() {
            let items = local.outbox_items(OutboxTarget::Unplaced, 0, ITEMS_MAX, BYTES_MAX);
            // Looked up under the lease: a member that was told to get the message is in the table.
            if let Some(life) = broker.serving() {
                let place = |(number, item): (u64, OutboxItem)| Command::Place {
                    number,
                    to: item.share.as_ref().and_then(|filter| {
                        wills::place_of_item(&life, filter, item.body.message.qos)
                            .filter(|target| *target != OutboxTarget::Unplaced)
                    }),
                };
                let commands: Vec<Command> = items.into_iter().map(place).collect();
                placed = !commands.is_empty()
                    && broker.propose_idempotent(shard, &commands).await.is_ok();
            }
        }
        // The place may be the one that has just refused: its table is brought up to date meanwhile.
        sleep(if placed { RETRY_PAUSE } else { IDLE_PERIOD }).await;
    }
}

/// Watches how much waits in the outboxes of this node's replicas: beyond the bound, connections
/// stop reading.
pub(crate) async fn watch_bound(broker: Arc<Broker>) {
    loop {
        let full = broker
            .shards
            .iter()
            .any(|shard| shard.with_machine(raft_store::Machine::outbox_bytes) > OUTBOX_BYTES_MAX);
        broker
            .outbox_full
            .send_if_modified(|known| std::mem::replace(known, full) != full);
        sleep(BOUND_PERIOD).await;
    }
}

/// Tells every shard, now and then, which items this node's current life has taken.
pub(crate) async fn report_taken(broker: Arc<Broker>) {
    let mut reported = BTreeMap::new();
    loop {
        sleep(TAKEN_PERIOD).await;
        let Some(life) = broker.dispatch.life() else {
            continue;
        };
        for shard in (0..broker.shards.count()).map(ShardId) {
            let upto = broker.dispatch.outbox_taken(shard);
            let report = (life.id.incarnation, upto);
            if upto == 0 || reported.get(&shard) == Some(&report) {
                continue;
            }
            reported.insert(shard, report);
            let target = OutboxTarget::Node(broker.node, life.id.incarnation);
            let command = Command::Taken {
                target,
                upto,
                refused: Vec::new(),
            };
            life.propose(shard, &command, CommandWaiter::None);
        }
    }
}
