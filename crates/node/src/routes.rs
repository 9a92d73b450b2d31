//! This node's route table, and what it has seen of subscription changes anywhere in the cluster.
//!
//! Entries of persistent sessions come from the effects of this node's own replicas, entries of
//! transient sessions from the announcements of the nodes that own them. The table may name too
//! many: whoever is asked matches again on its own subscriptions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use codec::{Qos, TopicFilter, TopicName};
use raft_store::{Effect, Incarnation, NodeId, RouteTarget, ShardId};
use router::RouteTable;
use tokio::sync::watch;

use crate::lease::Seen;
use crate::shared_routes::{Place, SharedRoute, SharedRoutes};

thread_local! {
    /// Room for the targets of one message; empty in between.
    static TARGETS: RefCell<Vec<RouteTarget>> = const { RefCell::new(Vec::new()) };
}

/// Who must be asked about one message.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Shards, for effective QoS 1 and 2 of persistent sessions.
    pub(crate) shards: Vec<ShardId>,
    /// Nodes, for the live plane.
    pub(crate) nodes: Vec<NodeId>,
    /// Groups of shared subscriptions, of each of which one member gets it.
    pub(crate) shared: Vec<SharedRoute>,
}

/// What one node has announced.
#[derive(Debug, Default)]
struct Announced {
    incarnation: Incarnation,
    number: u64,
    filters: Announcements,
}

/// Filters that a node's transient sessions need; each shared subscription with its members there,
/// any other with 1.
pub(crate) type Announcements = BTreeMap<TopicFilter, u32>;

/// Who must be asked about what.
#[derive(Debug, Default)]
struct Tables {
    routes: RouteTable<RouteTarget>,
    shared: SharedRoutes,
}

impl Tables {
    fn add(&mut self, filter: &TopicFilter, target: RouteTarget) {
        if filter.is_shared() {
            self.shared.add(filter, target, 1);
        } else {
            self.routes.add(filter, target);
        }
    }

    fn remove(&mut self, filter: &TopicFilter, target: RouteTarget) {
        if filter.is_shared() {
            self.shared.remove(filter, target, 1);
        } else {
            self.routes.remove(filter, target);
        }
    }

    /// A node announced `after` members of a filter, where there were `before`.
    fn announced(&mut self, filter: &TopicFilter, node: NodeId, before: u32, after: u32) {
        let target = RouteTarget::Node(node);
        if filter.is_shared() {
            self.shared
                .add(filter, target, after.saturating_sub(before));
            self.shared
                .remove(filter, target, before.saturating_sub(after));
        } else if before == 0 && after > 0 {
            self.routes.add(filter, target);
        } else if before > 0 && after == 0 {
            self.routes.remove(filter, target);
        }
    }
}

/// The route table of this node.
#[derive(Debug)]
pub(crate) struct RouteMap {
    tables: RwLock<Tables>,
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
            tables: RwLock::default(),
            announced: Mutex::new(BTreeMap::new()),
            applied: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            seen: watch::Sender::new(seen),
        }
    }

    /// Whom to ask about a message published at `qos`.
    pub(crate) fn route(&self, topic: &TopicName, qos: Qos) -> Routes {
        let mut targets = TARGETS.take();
        let mut routes = Routes::default();
        {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            tables.routes.route(topic, &mut targets);
            routes.shared = tables.shared.route(topic, qos);
        }
        for target in targets.drain(..) {
            match target {
                RouteTarget::Shard(shard) => routes.shards.push(shard),
                RouteTarget::Node(node) => routes.nodes.push(node),
                RouteTarget::NodeAtMostOnce(node) => {
                    if qos == Qos::AtMostOnce {
                        routes.nodes.push(node);
                    }
                }
                // Of shared subscriptions alone.
                RouteTarget::ConnectedShard(_) => {}
            }
        }
        TARGETS.set(targets);
        if qos == Qos::AtMostOnce {
            routes.shards.clear();
        }
        routes.nodes.sort_unstable();
        routes.nodes.dedup();
        routes
    }

    /// Another place for a message of a shared subscription, none of those tried.
    pub(crate) fn shared_place(
        &self,
        filter: &TopicFilter,
        qos: Qos,
        tried: &[Place],
    ) -> Option<Place> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.shared.place(filter, qos, tried)
    }

    /// Takes the route changes of one applied entry.
    pub(crate) fn on_applied<'a>(
        &self,
        shard: ShardId,
        index: u64,
        effects: impl Iterator<Item = &'a Effect> + Clone,
    ) {
        let is_route = |effect: &Effect| {
            matches!(
                effect,
                Effect::RouteAdded { .. } | Effect::RouteRemoved { .. }
            )
        };
        let changed = effects.clone().any(is_route);
        if changed {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            for effect in effects {
                if let Effect::RouteAdded { filter, target } = effect {
                    tables.add(filter, *target);
                } else if let Effect::RouteRemoved { filter, target } = effect {
                    tables.remove(filter, *target);
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
        filters: Announcements,
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
        {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            for (filter, members) in &filters {
                let before = known.filters.get(filter).copied().unwrap_or(0);
                tables.announced(filter, node, before, *members);
            }
            for (filter, members) in &known.filters {
                if !filters.contains_key(filter) {
                    tables.announced(filter, node, *members, 0);
                }
            }
        }
        *known = Announced {
            incarnation: position.0,
            number: position.1,
            filters,
        };
        self.announcement_seen(node, position);
    }

    /// Takes one announcement; 0 members: the filter is not needed any more. False: an announcement
    /// before this one is missing.
    pub(crate) fn announced_one(
        &self,
        node: NodeId,
        (incarnation, number): (Incarnation, u64),
        filter: &TopicFilter,
        members: u32,
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
        let before = if members > 0 {
            known.filters.insert(filter.detached(), members)
        } else {
            known.filters.remove(filter)
        };
        {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            tables.announced(filter, node, before.unwrap_or(0), members);
        }
        known.number = number;
        self.announcement_seen(node, (incarnation, number));
        true
    }

    /// What a node has announced, for a peer that lacks it.
    pub(crate) fn announcements_of(
        &self,
        node: NodeId,
    ) -> Option<((Incarnation, u64), Announcements)> {
        let announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = announced.get(&node)?;
        Some(((known.incarnation, known.number), known.filters.clone()))
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
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for (filter, members) in &filters {
            tables.announced(filter, node, *members, 0);
        }
        // Every announcement of that life counts as seen: it has no subscription any more.
        *known = Announced {
            incarnation,
            number: u64::MAX,
            filters: Announcements::new(),
        };
        drop(tables);
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
