//! Drains the outboxes of the shards that this node leads into their target shards, and tells the
//! shards what this node has taken from their outboxes.
//!
//! Each target shard takes each item once, whoever leads: items are numbered, and the target
//! remembers the last number it took from each source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_store::{Command, OutboxItem, OutboxTarget, ProposerId, Response, ShardId};
use tokio::time::{Instant, sleep, timeout_at};

use crate::broker::Broker;
use crate::waiter::CommandWaiter;
use crate::wills;

/// Items in one batch at most.
const ITEMS_MAX: usize = 512;
/// Bytes in one batch, at most this plus one message.
const BYTES_MAX: usize = 1024 * 1024;
/// Pause after a batch could not be written.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long what was taken may stay in the outbox: telling the source costs a command, and nothing
/// waits for it.
const TRIM_AFTER: Duration = Duration::from_millis(100);
/// Items that were taken and are still in the outbox, at most: after a change of leader they are
/// offered again.
const UNTRIMMED_ITEMS_MAX: u64 = 4096;
/// How often an outbox is looked at although nothing was put into it.
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
    let mut pushes = local.outbox_watch();
    let mut drain = Drain::new(source, target);
    loop {
        pushes.mark_unchanged();
        if !local.is_leader() {
            drain = Drain::new(source, target);
        } else if drain.batch(&broker).await {
            continue;
        }
        // Looked at again in any case, since leadership and snapshots come without an entry of ours.
        drop(timeout_at(drain.look_again(), pushes.changed()).await);
    }
}

/// How far the items of one pair of shards have come.
struct Drain {
    source: ShardId,
    target: ShardId,
    /// The target has taken all up to this one.
    taken: u64,
    /// The source has been told of all up to this one.
    trimmed: u64,
    /// When it is told of the rest.
    trim_at: Option<Instant>,
}

impl Drain {
    fn new(source: ShardId, target: ShardId) -> Self {
        Self {
            source,
            target,
            taken: 0,
            trimmed: 0,
            trim_at: None,
        }
    }

    fn look_again(&self) -> Instant {
        let idle = Instant::now() + IDLE_PERIOD;
        self.trim_at.map_or(idle, |trim_at| trim_at.min(idle))
    }

    /// Writes one batch into the target, and tells the source when that is due. False: nothing waits.
    async fn batch(&mut self, broker: &Broker) -> bool {
        let due = self.trim_at.is_some_and(|at| at <= Instant::now());
        if due || self.taken.saturating_sub(self.trimmed) >= UNTRIMMED_ITEMS_MAX {
            self.trim(broker, self.taken, Vec::new()).await;
        }
        let Some(local) = broker.shards.shard(self.source) else {
            return false;
        };
        let to = OutboxTarget::Shard(self.target);
        let settled = local.with_machine(|machine| machine.outbox_settled(to));
        let items = local.outbox_items(to, self.taken, ITEMS_MAX, BYTES_MAX);
        let Some((first, _)) = items.front() else {
            return false;
        };
        let (first, last) = (*first, items.back().map_or(*first, |(number, _)| *number));
        let items = items.into_iter().map(|(_, item)| item).collect();
        let command = [Command::TakeOutbox {
            source: self.source,
            settled,
            first,
            items,
        }];
        let proposer = ProposerId::Outbox {
            source: self.source,
        };
        let written = broker.write(self.target, proposer, &command).await;
        match written.as_deref().map(<[Response]>::first) {
            Ok(Some(Response::TookOutbox { refused })) if refused.is_empty() => {
                self.taken = last;
                self.trim_at
                    .get_or_insert_with(|| Instant::now() + TRIM_AFTER);
            }
            // What was refused is known to nobody else: the source is told before anything follows.
            Ok(Some(Response::TookOutbox { refused })) => {
                let refused = refused.clone();
                self.trim(broker, last, refused).await;
                self.taken = self.trimmed.max(self.taken);
            }
            Ok(answer) => {
                let (source, target) = (self.source, self.target);
                tracing::error!(%source, %target, ?answer, "outbox items were refused");
                *self = Self::new(source, target);
                sleep(RETRY_PAUSE).await;
            }
            Err(error) => {
                let (source, target) = (self.source, self.target);
                tracing::debug!(%source, %target, %error, "outbox items not written, trying again");
                sleep(RETRY_PAUSE).await;
            }
        }
        true
    }

    /// Tells the source what the target has taken and what it has refused.
    async fn trim(&mut self, broker: &Broker, upto: u64, refused: Vec<u64>) {
        let command = [Command::Taken {
            target: OutboxTarget::Shard(self.target),
            upto,
            refused,
        }];
        match broker.propose_idempotent(self.source, &command).await {
            Ok(_) => {
                self.trimmed = upto;
                self.trim_at = None;
            }
            // The next one covers it; what was refused is offered again, and refused again.
            Err(error) => {
                let (source, target) = (self.source, self.target);
                tracing::debug!(%source, %target, %error, "outbox not trimmed yet");
                sleep(RETRY_PAUSE).await;
            }
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
