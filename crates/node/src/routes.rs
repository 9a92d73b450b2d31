//! This node's route table, and what it has seen of subscription changes anywhere in the cluster.
//!
//! Entries of persistent sessions come from the effects of this node's own replicas, entries of
//! transient sessions from the announcements of the nodes that own them. The table may name too
//! many: whoever is asked matches again on its own subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use codec::{Qos, TopicFilter, TopicName};
use raft_store::{Effect, Incarnation, NodeId, RouteTarget, ShardId};
use router::RouteTable;
use tokio::sync::watch;

use crate::lease::Seen;

/// Who must be asked about one message.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Shards, for effective QoS 1 and 2 of persistent sessions.
    pub(crate) shards: Vec<ShardId>,
    /// Nodes, for the live plane.
    pub(crate) nodes: Vec<NodeId>,
}

/// What one node has announced.
#[derive(Debug, Default)]
struct Announced {
    incarnation: Incarnation,
    number: u64,
    filters: BTreeSet<TopicFilter>,
}

/// The route table of this node.
#[derive(Debug)]
pub(crate) struct RouteMap {
    table: RwLock<RouteTable<RouteTarget>>,
    announced: Mutex<BTreeMap<NodeId, Announced>>,
    /// Index of the newest entry applied, per shard.
    applied: Vec<AtomicU64>,
    seen: watch::Sender<Seen>,
}

impl RouteMap {
    /// Knows nothing yet of `shards` shards.
    pub(crate) fn new(shards: u16) -> Self {
        let subscription_index = (0..shards).map(|shard| (ShardId(shard), 0)).collect();
        let seen = Seen {
            subscription_index,
            announced: BTreeMap::new(),
        };
        Self {
            table: RwLock::new(RouteTable::new()),
            announced: Mutex::new(BTreeMap::new()),
            applied: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            seen: watch::Sender::new(seen),
        }
    }

    /// Whom to ask about a message published at `qos`.
    pub(crate) fn route(&self, topic: &TopicName, qos: Qos) -> Routes {
        let mut targets = Vec::new();
        {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table.route(topic, &mut targets);
        }
        let mut routes = Routes::default();
        for target in targets {
            match target {
                RouteTarget::Shard(shard) => routes.shards.push(shard),
                RouteTarget::Node(node) => routes.nodes.push(node),
                RouteTarget::NodeAtMostOnce(node) => {
                    if qos == Qos::AtMostOnce {
                        routes.nodes.push(node);
                    }
                }
            }
        }
        if qos == Qos::AtMostOnce {
            routes.shards.clear();
        }
        routes.nodes.sort_unstable();
        routes.nodes.dedup();
        routes
    }

    /// Takes the route changes of one applied entry.
    pub(crate) fn on_applied(&self, shard: ShardId, index: u64, effects: &[Effect]) {
        let is_route = |effect: &Effect| {
            matches!(
                effect,
                Effect::RouteAdded { .. } | Effect::RouteRemoved { .. }
            )
        };
        let changed = effects.iter().any(is_route);
        if changed {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            for effect in effects {
                if let Effect::RouteAdded { filter, target } = effect {
                    table.add(filter, *target);
                } else if let Effect::RouteRemoved { filter, target } = effect {
                    table.remove(filter, *target);
                }
            }
        }
        if let Some(applied) = self.applied.get(usize::from(shard.0)) {
            applied.store(index, Ordering::Release);
        }
        if changed {
            self.seen.send_modify(|seen| {
                seen.subscription_index.insert(shard, index);
            });
        }
    }

    /// Takes all that a node has announced. Ignored when something newer is known.
    pub(crate) fn announced_all(
        &self,
        node: NodeId,
        position: (Incarnation, u64),
        filters: BTreeSet<TopicFilter>,
    ) {
        let mut announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = announced.entry(node).or_default();
        let first = known.incarnation == Incarnation::default();
        if !first && (known.incarnation, known.number) >= position {
            return;
        }
        let target = RouteTarget::Node(node);
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            for filter in filters.difference(&known.filters) {
                table.add(filter, target);
            }
            for filter in known.filters.difference(&filters) {
                table.remove(filter, target);
            }
        }
        *known = Announced {
            incarnation: position.0,
            number: position.1,
            filters,
        };
        self.announcement_seen(node, position);
    }

    /// Takes one announcement. False: one before it is missing.
    pub(crate) fn announced_one(
        &self,
        node: NodeId,
        (incarnation, number): (Incarnation, u64),
        filter: &TopicFilter,
        added: bool,
    ) -> bool {
        let mut announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(known) = announced.get_mut(&node) else {
            return false;
        };
        if known.incarnation > incarnation {
            return true;
        }
        if known.incarnation == incarnation && known.number >= number {
            return true;
        }
        if known.incarnation != incarnation || known.number.saturating_add(1) != number {
            return false;
        }
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            if added {
                if known.filters.insert(filter.detached()) {
                    table.add(filter, RouteTarget::Node(node));
                }
            } else if known.filters.remove(filter) {
                table.remove(filter, RouteTarget::Node(node));
            }
        }
        known.number = number;
        self.announcement_seen(node, (incarnation, number));
        true
    }

    /// What a node has announced, for a peer that lacks it.
    pub(crate) fn announcements_of(
        &self,
        node: NodeId,
    ) -> Option<((Incarnation, u64), Vec<TopicFilter>)> {
        let announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = announced.get(&node)?;
        Some((
            (known.incarnation, known.number),
            known.filters.iter().cloned().collect(),
        ))
    }

    /// The transient sessions of a life of a node are gone, and its routes with them.
    pub(crate) fn life_ended(&self, node: NodeId, incarnation: Incarnation) {
        let mut announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(known) = announced.get_mut(&node) else {
            return;
        };
        if known.incarnation > incarnation {
            return;
        }
        let filters = std::mem::take(&mut known.filters);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for filter in &filters {
            table.remove(filter, RouteTarget::Node(node));
        }
        // Every announcement of that life counts as seen: it has no subscription any more.
        *known = Announced {
            incarnation,
            number: u64::MAX,
            filters: BTreeSet::new(),
        };
        drop(table);
        self.announcement_seen(node, (incarnation, u64::MAX));
    }

    fn announcement_seen(&self, node: NodeId, position: (Incarnation, u64)) {
        self.seen.send_modify(|seen| {
            seen.announced.insert(node, position);
        });
    }

    /// The newest subscription changes that this node has seen: what it lists in heartbeats.
    pub(crate) fn listed(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Everything that this node has seen by now, subscription change or not.
    pub(crate) fn seen(&self) -> Seen {
        let mut seen = self.listed();
        for (shard, applied) in (0..).map(ShardId).zip(&self.applied) {
            seen.subscription_index
                .insert(shard, applied.load(Ordering::Acquire));
        }
        seen
    }

    /// Follows what this node has seen.
    pub(crate) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// This node has announcements of that life of a node (or of a later one).
    pub(crate) fn knows(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.seen
            .borrow()
            .announced
            .get(&node)
            .is_some_and(|(known, _)| *known >= incarnation)
    }
}
