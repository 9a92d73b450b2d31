//! Wills: the leader of a session's shard publishes them when they are due (DESIGN section 6).
//!
//! `PublishWill` consumes a will and hands its message on in one step, so it is published once,
//! whichever leaders try. What comes before it may be repeated: a retained will is stored first, and
//! stored again if the leader dies in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use codec::{Qos, TopicFilter, TopicName};
use raft_store::{Command, DueWill, Epoch, Incarnation, NodeId, OutboxTarget, Response, ShardId};
use tokio::time::sleep;

use crate::broker::Broker;
use crate::count;
use crate::life::Life;
use crate::shared_routes::{Place, SharedRoute};

/// How often a leader looks for wills that are due.
const PERIOD: Duration = Duration::from_millis(50);
/// Wills published by one batch at most.
const BATCH_MAX: usize = 256;

/// Publishes the wills of one shard when this node leads it, for ever.
pub(crate) async fn publish_due(broker: Arc<Broker>, shard: ShardId) {
    loop {
        // A full batch: there may be more.
        if !publish_batch(&broker, shard).await {
            sleep(PERIOD).await;
        }
    }
}

/// One batch. True: it was full, and all of it was written.
async fn publish_batch(broker: &Broker, shard: ShardId) -> bool {
    let Some(local) = broker.shards.shard(shard) else {
        return false;
    };
    if !local.is_leader() || broker.serving().is_none() {
        return false;
    }
    let now = local.leader_time();
    let due = local.with_machine(|machine| machine.due_wills(now, BATCH_MAX));
    if due.is_empty() {
        return false;
    }
    let is_full = due.len() == BATCH_MAX;
    let stored = store_retained(broker, &due).await;
    // Matched under the lease: what a subscriber was told to get is in the table (G5).
    let Some(life) = broker.serving() else {
        return false;
    };
    let commands: Vec<Command> = due
        .iter()
        .filter_map(|will| {
            let retained_version = if is_stored(broker, will) {
                *stored.get(&will.epoch)?
            } else {
                None
            };
            Some(publish_will(&life, will, retained_version))
        })
        .collect();
    match broker.propose_idempotent(shard, &commands).await {
        Ok(_) => is_full && commands.len() == due.len(),
        Err(error) => {
            tracing::debug!(%shard, %error, "wills not published, trying again");
            false
        }
    }
}

fn is_stored(broker: &Broker, will: &DueWill) -> bool {
    will.message.retain && broker.config.mqtt.retain_available
}

/// Stores the retained ones, each in the shard of its topic. Those that are missing in the result
/// are to be tried again; `None`: a bound was reached, the will is published without being stored.
async fn store_retained(broker: &Broker, due: &[DueWill]) -> BTreeMap<Epoch, Option<u64>> {
    let mut by_shard: BTreeMap<ShardId, Vec<&DueWill>> = BTreeMap::new();
    for will in due.iter().filter(|will| is_stored(broker, will)) {
        let shard = broker.shard_of_topic(&will.message.topic);
        by_shard.entry(shard).or_default().push(will);
    }
    let mut stored = BTreeMap::new();
    for (shard, wills) in by_shard {
        let commands: Vec<Command> = wills
            .iter()
            .map(|will| Command::SetRetained {
                client_id: will.client_id.clone(),
                epoch: None,
                message: will.message.clone(),
                limits: broker.retained_limits(),
            })
            .collect();
        let answers = match broker.propose_idempotent(shard, &commands).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%shard, %error, "retained wills not stored, trying again");
                continue;
            }
        };
        for (will, answer) in wills.iter().zip(answers.iter()) {
            if let Response::RetainedSet { version } = answer {
                stored.insert(will.epoch, Some(*version));
            } else {
                count::dropped("retained_full");
                stored.insert(will.epoch, None);
            }
        }
    }
    stored
}

/// Consumes the will and hands it to everybody who matches now.
fn publish_will(life: &Life, will: &DueWill, retained_version: Option<u64>) -> Command {
    let qos = will.message.qos;
    let routes = life.routes.route(&will.message.topic, qos);
    Command::PublishWill {
        epoch: will.epoch,
        retained_version,
        shards: routes.shards,
        nodes: lives(life, &routes.nodes),
        shared: shared_targets(life, routes.shared, qos),
    }
}

/// The lives of nodes that live messages reach.
pub(crate) fn lives(life: &Life, nodes: &[NodeId]) -> Vec<(NodeId, Incarnation)> {
    nodes
        .iter()
        .filter_map(|node| Some((*node, life.incarnation_of(*node)?)))
        .collect()
}

/// The outbox lanes for the groups of shared subscriptions.
pub(crate) fn shared_targets(
    life: &Life,
    routes: Vec<SharedRoute>,
    qos: Qos,
) -> Vec<(TopicFilter, OutboxTarget)> {
    routes
        .into_iter()
        .filter_map(|SharedRoute { filter, place }| {
            let target = outbox_target(life, &filter, qos, place?);
            Some((TopicFilter::clone(&filter), target))
        })
        .collect()
}

/// The outbox lane of a place. A node that has no life at the moment has no members either: the next
/// place is asked, and if there is none, the shard's leader places the item later.
fn outbox_target(life: &Life, filter: &TopicFilter, qos: Qos, place: Place) -> OutboxTarget {
    let mut tried = Vec::new();
    let mut next = Some(place);
    while let Some(place) = next {
        match place {
            Place::Shard(shard) => return OutboxTarget::Shard(shard),
            Place::Node(node) => {
                if let Some(incarnation) = life.incarnation_of(node) {
                    return OutboxTarget::Node(node, incarnation);
                }
            }
        }
        tried.push(place);
        next = life.routes.shared_place(filter, qos, &tried);
    }
    OutboxTarget::Unplaced
}

/// Where an item of an outbox goes that has no place; `None`: the group has no member.
pub(crate) fn place_of_item(life: &Life, filter: &TopicFilter, qos: Qos) -> Option<OutboxTarget> {
    let place = life.routes.shared_place(filter, qos, &[])?;
    Some(outbox_target(life, filter, qos, place))
}

impl Broker {
    /// The shard that keeps the retained message of a topic.
    pub(crate) fn shard_of_topic(&self, topic: &TopicName) -> ShardId {
        ShardId::of_topic(topic.as_str(), self.shards.count())
    }

    /// This node's bounds of the retained messages of one shard: an equal part of the cluster's.
    pub(crate) fn retained_limits(&self) -> raft_store::RetainedLimits {
        let shards = u64::from(self.shards.count().max(1));
        let limits = self.limits();
        raft_store::RetainedLimits {
            messages_max: limits.retained_max.div_ceil(shards),
            bytes_max: limits.retained_max_bytes.div_ceil(shards),
        }
    }
}
