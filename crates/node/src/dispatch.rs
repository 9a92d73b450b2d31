//! What this node's replicas applied → who on this node is concerned.
//!
//! Every replica computes the same effects; the node that holds the connection carries them out,
//! the others drop them. Called in log order, once per entry, on the thread that applies: nothing
//! here waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use raft_store::{Applied, Effect, Holder, Incarnation, NodeId, ShardId};
use tokio::sync::Notify;

use crate::life::Life;
use crate::mailbox::Mail;
use crate::count;
use crate::routes::RouteMap;

/// Brings effects to their receivers.
#[derive(Debug)]
pub(crate) struct Dispatch {
    node: NodeId,
    /// The route table follows what is applied.
    pub(crate) routes: RouteMap,
    life: RwLock<Option<Arc<Life>>>,
    /// A life of some node began or ended.
    pub(crate) lives_changed: Notify,
    /// Per node: the newest life that was declared over.
    over: RwLock<BTreeMap<NodeId, Incarnation>>,
    /// Per shard: newest outbox item taken by the current life.
    outbox_taken: Vec<AtomicU64>,
}

impl Dispatch {
    pub(crate) fn new(node: NodeId, shards: u16) -> Self {
        Self {
            node,
            routes: RouteMap::new(shards),
            life: RwLock::new(None),
            lives_changed: Notify::new(),
            over: RwLock::new(BTreeMap::new()),
            outbox_taken: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// This node's current life.
    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.life.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Installs a new life, or none.
    pub(crate) fn set_life(&self, life: Option<Arc<Life>>) {
        for taken in &self.outbox_taken {
            taken.store(0, Ordering::Release);
        }
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// That life was declared over while this process ran: nothing that it sends counts any more.
    pub(crate) fn is_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
        over.get(&node).is_some_and(|over| *over >= incarnation)
    }

    /// Newest outbox item of a shard that the current life has taken.
    pub(crate) fn outbox_taken(&self, shard: ShardId) -> u64 {
        let taken = self.outbox_taken.get(usize::from(shard.0));
        taken.map_or(0, |taken| taken.load(Ordering::Acquire))
    }

    /// One applied entry.
    pub(crate) fn on_applied(&self, shard: ShardId, index: u64, applied: Applied) {
        self.routes.on_applied(shard, index, &applied.effects);
        let life = self.life();
        if let Some(proposer) = life.as_ref().and_then(|life| life.proposer(shard)) {
            proposer.on_applied(index, &applied);
        }
        for effect in applied.effects {
            self.carry_out(shard, life.as_deref(), effect);
        }
    }

    fn carry_out(&self, shard: ShardId, life: Option<&Life>, effect: Effect) {
        match effect {
            Effect::Resumed { holder, resend, subscriptions } => {
                self.mail(life, &holder, || Mail::Resumed { resend, subscriptions });
            }
            Effect::Send { holder, packet_id, delivery } => {
                self.mail(life, &holder, || Mail::Send { packet_id, delivery });
            }
            Effect::SendPubrel { holder, packet_id, reason_code } => {
                self.mail(life, &holder, || Mail::SendPubrel { packet_id, reason_code });
            }
            Effect::Close { holder, reason } => {
                self.mail(life, &holder, || Mail::Close(reason));
            }
            Effect::FormersClosed { holder } => {
                self.mail(life, &holder, || Mail::FormersClosed);
            }
            Effect::LiveOutbox { node, incarnation, number, item } => {
                let Some(life) = life else { return };
                if node == self.node && incarnation == life.id.incarnation {
                    life.registry.deliver(&item.publisher, &item.body.message);
                    if let Some(taken) = self.outbox_taken.get(usize::from(shard.0)) {
                        taken.store(number, Ordering::Release);
                    }
                }
            }
            // The route table took them already.
            Effect::RouteAdded { .. } | Effect::RouteRemoved { .. } => {}
            Effect::NodeUp { node, incarnation } => {
                self.node_up(shard, life, node, incarnation);
            }
            Effect::NodeDown { node, incarnation } => {
                self.node_down(shard, life, node, incarnation);
            }
            Effect::Dropped { cause } => count::dropped_by_session(cause),
        }
    }

    /// Mail for a connection of this life of this node.
    fn mail(&self, life: Option<&Life>, holder: &Holder, mail: impl FnOnce() -> Mail) {
        let Some(life) = life else { return };
        if holder.node != self.node || holder.incarnation != life.id.incarnation {
            return;
        }
        if let Some(mailbox) = life.registry.mailbox(holder.connection) {
            mailbox.push(mail());
        }
    }

    /// Shard 0 alone decides which lives there are.
    fn node_up(&self, shard: ShardId, life: Option<&Life>, node: NodeId, begun: Incarnation) {
        if shard != ShardId::ZERO {
            return;
        }
        tracing::info!(peer = %node, incarnation = %begun, "node up");
        if let Some(life) = life {
            life.peer_up(node, begun);
        }
        self.lives_changed.notify_waiters();
    }

    fn node_down(&self, shard: ShardId, life: Option<&Life>, node: NodeId, ended: Incarnation) {
        if shard != ShardId::ZERO {
            return;
        }
        tracing::info!(peer = %node, incarnation = %ended, "node down");
        {
            let mut over = self.over.write().unwrap_or_else(PoisonError::into_inner);
            let newest = over.entry(node).or_insert(ended);
            *newest = (*newest).max(ended);
        }
        self.routes.life_ended(node, ended);
        if let Some(life) = life {
            if node == self.node && life.id.incarnation <= ended {
                tracing::warn!(incarnation = %ended, "this node's life was declared over");
                life.ended.cancel();
            } else if let Some(link) = life.links.get(&node) {
                link.end(ended);
            }
        }
        self.lives_changed.notify_waiters();
    }
}
