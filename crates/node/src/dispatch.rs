//! What this node's replicas applied → who on this node is concerned.
//!
//! Every replica computes the same effects; the node that holds the connection carries them out,
//! the others drop them. Called in log order, once per entry, on the thread that applies: nothing
//! here waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use raft_store::{
    Applied, Command, Effect, Holder, Incarnation, NodeId, OutboxTarget, ShardId, Shards,
    WaitingItem,
};
use session::Body;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock;
use crate::count;
use crate::fences::{OverFence, OverFences};
use crate::life::Life;
use crate::mailbox::{Mail, waking_at_the_end};
use crate::registry::LiveMessage;
use crate::routes::RouteMap;
use crate::shared::{Claimed, SharedMessage};
use crate::waiter::CommandWaiter;

/// Brings effects to their receivers.
#[derive(Debug)]
pub(crate) struct Dispatch {
    node: NodeId,
    /// The route table follows what is applied.
    pub(crate) routes: Arc<RouteMap>,
    /// This node's replicas, once they have started.
    shards: OnceLock<Weak<Shards>>,
    life: RwLock<Option<Arc<Life>>>,
    /// A life of some node began or ended.
    pub(crate) lives_changed: Notify,
    /// Per node: the newest life that was declared over.
    over: RwLock<BTreeMap<NodeId, (Incarnation, Instant)>>,
    /// Per node: when this process saw its newest life begin.
    up: RwLock<BTreeMap<NodeId, Instant>>,
    /// Per node: the newest ended life that the current life told every shard about.
    told: Mutex<BTreeMap<NodeId, Incarnation>>,
    /// Fences that may go.
    pub(crate) fences: OverFences,
    /// This process has been watching the lives of nodes since then.
    began: Instant,
    /// Per shard: this node leads it, as looked at now and then.
    leads: Vec<AtomicBool>,
    /// Per shard: newest outbox item taken by the current life.
    outbox_taken: Vec<AtomicU64>,
}

impl Dispatch {
    pub(crate) fn new(node: NodeId, shards: u16) -> Self {
        Self {
            node,
            routes: Arc::new(RouteMap::new(shards)),
            shards: OnceLock::new(),
            life: RwLock::new(None),
            lives_changed: Notify::new(),
            over: RwLock::new(BTreeMap::new()),
            up: RwLock::new(BTreeMap::new()),
            told: Mutex::new(BTreeMap::new()),
            fences: OverFences::default(),
            began: Instant::now(),
            leads: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            outbox_taken: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The replicas have started.
    pub(crate) fn set_shards(&self, shards: &Arc<Shards>) {
        // Once per process; a second call would bring the same.
        drop(self.shards.set(Arc::downgrade(shards)));
    }

    /// This node's current life.
    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.life
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Installs a new life, or none.
    pub(crate) fn set_life(&self, life: Option<Arc<Life>>) {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for taken in &self.outbox_taken {
            taken.store(0, Ordering::Release);
        }
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// That life was declared over while this process ran: nothing that it sends counts any more.
    pub(crate) fn is_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
        over.get(&node)
            .is_some_and(|(over, _)| *over >= incarnation)
    }

    /// For how long this process has known that no life of the node serves; the caller knows that
    /// none does now.
    pub(crate) fn over_for(&self, node: NodeId) -> Duration {
        let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
        over.get(&node)
            .map_or(self.began, |(_, since)| *since)
            .elapsed()
    }

    /// For how long this process has known the node's newest life.
    pub(crate) fn up_for(&self, node: NodeId) -> Duration {
        let up = self.up.read().unwrap_or_else(PoisonError::into_inner);
        up.get(&node).unwrap_or(&self.began).elapsed()
    }

    /// Remembers whether this node leads a shard.
    pub(crate) fn set_leads(&self, shard: ShardId, leads: bool) {
        if let Some(known) = self.leads.get(usize::from(shard.0)) {
            known.store(leads, Ordering::Relaxed);
        }
    }

    /// Newest outbox item of a shard that the current life has taken.
    pub(crate) fn outbox_taken(&self, shard: ShardId) -> u64 {
        let taken = self.outbox_taken.get(usize::from(shard.0));
        taken.map_or(0, |taken| taken.load(Ordering::Acquire))
    }

    /// One applied entry: what each of its batches did.
    pub(crate) fn on_applied(&self, shard: ShardId, index: u64, entry: Vec<Applied>) {
        waking_at_the_end(|| self.hand_out(shard, index, entry));
    }

    fn hand_out(&self, shard: ShardId, index: u64, entry: Vec<Applied>) {
        // All route changes first: from then on the entry counts as seen.
        let effects = entry.iter().flat_map(|applied| &applied.effects);
        self.routes.on_applied(shard, index, effects);
        let life = self.life();
        for applied in entry {
            let proposer = life.as_ref().and_then(|life| life.proposer(shard));
            let since = proposer.map(|proposer| proposer.on_applied(index, &applied));
            let since = since.unwrap_or_default();
            let mut commands = applied.effects_after.iter().zip(since).peekable();
            for (position, effect) in applied.effects.into_iter().enumerate() {
                while commands.next_if(|(end, _)| **end <= position).is_some() {}
                let since = commands.peek().and_then(|(_, since)| *since);
                self.carry_out(shard, life.as_ref(), (effect, since));
            }
        }
    }

    /// `since`: when the PUBLISH came whose effect it is.
    fn carry_out(
        &self,
        shard: ShardId,
        life: Option<&Arc<Life>>,
        (effect, since): (Effect, Option<Instant>),
    ) {
        match effect {
            Effect::Resumed { holder, .. }
            | Effect::Send { holder, .. }
            | Effect::SendPubrel { holder, .. }
            | Effect::Resync { holder, .. }
            | Effect::Close { holder, .. } => self.mail(life, &holder, (effect, since)),
            Effect::FencesOver { client_id, epoch } => {
                self.fences.over(OverFence {
                    shard,
                    client_id,
                    epoch,
                });
            }
            Effect::LiveOutbox {
                node,
                incarnation,
                number,
                item,
            } => {
                let Some(life) = life else { return };
                if node == self.node && incarnation == life.id.incarnation {
                    self.take_outbox_item(shard, life, number, item);
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
            Effect::Dropped { cause } => {
                // Every replica computes the loss; one node counts it.
                let leads = self.leads.get(usize::from(shard.0));
                if leads.is_some_and(|leads| leads.load(Ordering::Relaxed)) {
                    count::dropped_by_session(cause);
                }
            }
        }
    }

    /// An item of an outbox for this life. After an installed snapshot all that wait come again.
    fn take_outbox_item(&self, shard: ShardId, life: &Arc<Life>, number: u64, item: WaitingItem) {
        let Some(taken) = self.outbox_taken.get(usize::from(shard.0)) else {
            return;
        };
        if number <= taken.load(Ordering::Acquire) {
            return;
        }
        let shards = self.shards.get().and_then(Weak::upgrade);
        let replica = shards.as_ref().and_then(|shards| shards.shard(shard));
        let stored = match &item.body {
            Body::Here(stored) => Some(Arc::clone(stored)),
            Body::Stored(reference) => replica.and_then(|replica| replica.message(reference.id)),
        };
        taken.store(number, Ordering::Release);
        let Some(stored) = stored else { return };
        // In the time of this node instead of the shard's.
        let expires_at = stored.expires_at.zip(replica).map(|(expires_at, replica)| {
            let now = replica.leader_time();
            clock::in_millis(expires_at.as_millis().saturating_sub(now.as_millis()))
        });
        let Some(share) = item.share else {
            let live_message = LiveMessage {
                message: &stored.message,
                expires_at,
                retained_version: stored.retained_version,
                since: None,
            };
            life.registry.deliver(&item.publisher, &live_message);
            return;
        };
        let message = stored.message.clone();
        let shared = SharedMessage::owned(item.publisher, Arc::new(share), message, expires_at);
        let target = OutboxTarget::Node(self.node, life.id.incarnation);
        Claimed::claim(life, shard, (target, number), shared);
    }

    /// Mail for a connection of this life of this node.
    fn mail(
        &self,
        life: Option<&Arc<Life>>,
        holder: &Holder,
        (effect, since): (Effect, Option<Instant>),
    ) {
        let Some(life) = life else { return };
        if holder.node != self.node || holder.incarnation != life.id.incarnation {
            return;
        }
        if let Some(mailbox) = life.registry.mailbox(holder.connection)
            && let Some(mail) = Mail::of(effect, since)
        {
            mailbox.push(mail);
        }
    }

    /// Shard 0 alone decides which lives there are.
    fn node_up(&self, shard: ShardId, life: Option<&Arc<Life>>, node: NodeId, begun: Incarnation) {
        if shard != ShardId::ZERO {
            return;
        }
        tracing::info!(peer = %node, incarnation = %begun, "node up");
        {
            let mut up = self.up.write().unwrap_or_else(PoisonError::into_inner);
            up.insert(node, Instant::now());
        }
        if let Some(life) = life {
            life.peer_up(node, begun);
        }
        self.lives_changed.notify_waiters();
    }

    /// Whatever this node proposes to another shard from now on comes after the declaration: a client
    /// that connects here after the end of its former node's life must not be overtaken there by what
    /// that life still has under way.
    fn tell_other_shards(
        &self,
        shard: ShardId,
        life: Option<&Arc<Life>>,
        node: NodeId,
        ended: Incarnation,
    ) {
        let Some(life) = life else { return };
        if node == self.node {
            return;
        }
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = told.entry(node).or_default();
            if *newest >= ended {
                return;
            }
            *newest = ended;
        }
        let command = Command::NodeDown {
            node,
            incarnation: ended,
        };
        for other in life
            .shards()
            .filter(|other| *other != shard && *other != ShardId::ZERO)
        {
            life.propose(other, &command, CommandWaiter::None);
        }
    }

    fn node_down(
        &self,
        shard: ShardId,
        life: Option<&Arc<Life>>,
        node: NodeId,
        ended: Incarnation,
    ) {
        self.tell_other_shards(shard, life, node, ended);
        if shard != ShardId::ZERO {
            return;
        }
        tracing::info!(peer = %node, incarnation = %ended, "node down");
        {
            let mut over = self.over.write().unwrap_or_else(PoisonError::into_inner);
            let newest = over.entry(node).or_insert_with(|| (ended, Instant::now()));
            if newest.0 < ended {
                *newest = (ended, Instant::now());
            }
        }
        self.routes.life_ended(node, ended);
        if let Some(life) = life {
            if node == self.node && life.id.incarnation <= ended {
                tracing::warn!(incarnation = %ended, "this node's life was declared over");
                life.ended.cancel();
            } else if let Some(link) = life.links.get(&node) {
                link.end(ended);
            }
            life.on_shared_life_ended(node, ended);
        }
        self.lives_changed.notify_waiters();
    }
}
