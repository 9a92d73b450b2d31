//! One life of this node in the cluster: its incarnation, and everything that ends with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use codec::TopicFilter;
use raft_store::{Command, Forwarder, Incarnation, NodeId, Proposer, ProposerId, ShardId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::held::HeldShared;
use crate::link::Link;
use crate::proto::live_item::Kind as ItemKind;
use crate::proto::{Announcement, AnnouncementSnapshot};
use crate::registry::Registry;
use crate::routes::{Announcements, RouteMap};
use crate::visibility::AwaitingSeen;
use crate::waiter::CommandWaiter;

/// Names one life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LifeId {
    /// The node.
    pub(crate) node: NodeId,
    /// Its life.
    pub(crate) incarnation: Incarnation,
}

/// Where a connection's commands and messages queue up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The stream of commands to a shard.
    Shard(ShardId),
    /// The live stream to a peer.
    Peer(NodeId),
    /// What this life holds for members of shared subscriptions.
    Shared,
}

/// One life of this node.
#[derive(Debug)]
pub(crate) struct Life {
    /// Its name.
    pub(crate) id: LifeId,
    /// The node's route table.
    pub(crate) routes: Arc<RouteMap>,
    /// Its connections.
    pub(crate) registry: Registry,
    /// Messages that members of shared subscriptions have not acknowledged.
    pub(crate) held: HeldShared,
    /// Its streams to the peers.
    pub(crate) links: BTreeMap<NodeId, Arc<Link>>,
    proposers: Vec<Arc<Proposer<CommandWaiter>>>,
    announcer: Mutex<Announcer>,
    /// Its connections that wait for their subscriptions to be visible.
    pub(crate) awaiting_seen: AwaitingSeen,
    /// Per peer: the newest life whose stream has reached this one.
    heard: Mutex<BTreeMap<NodeId, Incarnation>>,
    ready: AtomicBool,
    /// Cancelled when the life is over: every connection closes.
    pub(crate) ended: CancellationToken,
    /// The tasks of the life.
    pub(crate) tasks: TaskTracker,
}

/// What this node's transient sessions are subscribed to, as announced to the peers.
#[derive(Debug, Default)]
struct Announcer {
    number: u64,
    filters: Announcements,
}

impl Life {
    /// A life that has just begun; its streams are driven from now on.
    pub(crate) fn begin(
        id: LifeId,
        routes: &Arc<RouteMap>,
        (shards, cluster): (u16, &str),
        peers: &BTreeMap<NodeId, String>,
        forwarder: &Arc<Forwarder>,
    ) -> Arc<Self> {
        let proposer_id = ProposerId::Node {
            node: id.node,
            incarnation: id.incarnation,
        };
        let proposers: Vec<_> = (0..shards)
            .map(|shard| Arc::new(Proposer::new(ShardId(shard), proposer_id)))
            .collect();
        let links: BTreeMap<NodeId, Arc<Link>> = peers
            .iter()
            .filter(|(peer, _)| **peer != id.node)
            .map(|(peer, address)| (*peer, Arc::new(Link::new(*peer, address.clone()))))
            .collect();
        let life = Arc::new(Self {
            id,
            routes: Arc::clone(routes),
            registry: Registry::default(),
            held: HeldShared::default(),
            links,
            proposers,
            announcer: Mutex::new(Announcer::default()),
            awaiting_seen: AwaitingSeen::default(),
            heard: Mutex::new(BTreeMap::new()),
            ready: AtomicBool::new(false),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for proposer in &life.proposers {
            let run = Arc::clone(proposer).run(Arc::clone(forwarder));
            life.spawn_until_ended(run);
        }
        for link in life.links.values() {
            let (link, cluster) = (Arc::clone(link), cluster.to_owned());
            let security = forwarder.security().clone();
            life.spawn_until_ended(async move { link.run(id, cluster, &security).await });
        }
        life
    }

    fn spawn_until_ended(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            ended.run_until_cancelled(task).await;
        });
    }

    /// Every shard.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> {
        (0..).map(ShardId).take(self.proposers.len())
    }

    /// The stream of commands to a shard.
    pub(crate) fn proposer(&self, shard: ShardId) -> Option<&Arc<Proposer<CommandWaiter>>> {
        self.proposers.get(usize::from(shard.0))
    }

    /// More waits for a shard or peer than the bound of its queue.
    pub(crate) fn is_full(&self, destination: Destination) -> bool {
        match destination {
            Destination::Shard(shard) => self.proposer(shard).is_some_and(|queue| queue.is_full()),
            Destination::Peer(peer) => self.links.get(&peer).is_some_and(|queue| queue.is_full()),
            Destination::Shared => self.held.is_full(),
        }
    }

    /// A peer for which so much waits that nobody may add to it, whoever that is meant for.
    pub(crate) fn overfull_peer(&self) -> Option<NodeId> {
        let mut links = self.links.iter();
        let (peer, _) = links.find(|(_, link)| link.is_overfull())?;
        Some(*peer)
    }

    /// Waits until the queue to a shard or peer is below its bound.
    pub(crate) async fn ready(&self, destination: Destination) {
        match destination {
            Destination::Shard(shard) => {
                if let Some(proposer) = self.proposer(shard) {
                    proposer.ready().await;
                }
            }
            Destination::Peer(peer) => {
                if let Some(link) = self.links.get(&peer) {
                    link.ready().await;
                }
            }
            Destination::Shared => self.held.ready().await,
        }
    }

    /// Proposes a command in a shard; `waiter` gets the response.
    pub(crate) fn propose(&self, shard: ShardId, command: &Command, waiter: CommandWaiter) {
        if let Some(proposer) = self.proposer(shard) {
            proposer.propose(command, waiter);
        }
    }

    /// The life of a node that live messages for it reach.
    pub(crate) fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        if node == self.id.node {
            return Some(self.id.incarnation);
        }
        self.links.get(&node)?.peer_life()
    }

    /// This life has caught up: it answers heartbeats and may hold the lease.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// See [`Self::is_ready`].
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// A transient session needs a filter. Returns the announcement that covers it.
    pub(crate) fn announce(&self, filter: &TopicFilter) -> u64 {
        let mut announcer = self
            .announcer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = announcer.filters.entry(filter.detached()).or_insert(0);
        *count = count.saturating_add(1);
        let count = *count;
        if count == 1 || filter.is_shared() {
            self.send_announcement(&mut announcer, filter, count);
        }
        // Counted already: covered by an announcement up to the newest one.
        announcer.number
    }

    /// The newest announcement of this life.
    pub(crate) fn newest_announcement(&self) -> u64 {
        self.announcer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .number
    }

    /// A transient session needs a filter no longer.
    pub(crate) fn retract(&self, filter: &TopicFilter) {
        let mut announcer = self
            .announcer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(count) = announcer.filters.get_mut(filter) else {
            return;
        };
        *count = count.saturating_sub(1);
        let count = *count;
        if count == 0 {
            announcer.filters.remove(filter);
        }
        if count == 0 || filter.is_shared() {
            self.send_announcement(&mut announcer, filter, count);
        }
    }

    /// To this node's own table and to every peer, in the same order for all. Of filters that are not
    /// shared nobody needs the count.
    fn send_announcement(&self, announcer: &mut Announcer, filter: &TopicFilter, count: u32) {
        announcer.number = announcer.number.saturating_add(1);
        let number = announcer.number;
        let members = members(filter, count);
        let position = (self.id.incarnation, number);
        self.routes
            .announced_one(self.id.node, position, filter, members);
        for link in self.links.values() {
            let announcement = Announcement {
                number,
                added: members > 0,
                filter: filter.as_str().to_owned(),
                members,
            };
            link.send(
                ItemKind::Announcement(announcement),
                filter.as_bytes().len(),
                None,
            );
        }
    }

    /// A life of a peer began: its stream starts with everything announced so far.
    pub(crate) fn peer_up(&self, peer: NodeId, incarnation: Incarnation) {
        let Some(link) = self.links.get(&peer) else {
            return;
        };
        let announcer = self
            .announcer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let snapshot = AnnouncementSnapshot {
            number: announcer.number,
            filters: announcer
                .filters
                .keys()
                .map(|filter| filter.as_str().to_owned())
                .collect(),
            members: announcer.filters.values().copied().collect(),
        };
        link.restart(incarnation, ItemKind::Snapshot(snapshot));
    }

    /// A stream of that life of a peer has reached this one.
    pub(crate) fn heard_from(&self, peer: NodeId, incarnation: Incarnation) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = heard.entry(peer).or_default();
        *newest = (*newest).max(incarnation);
    }

    /// The streams between this life and that life of a peer are open, both ways.
    pub(crate) fn is_connected_to(&self, peer: NodeId, incarnation: Incarnation) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let inward = heard.get(&peer).is_some_and(|heard| *heard >= incarnation);
        let link = self.links.get(&peer);
        inward && link.is_some_and(|link| link.has_reached(incarnation))
    }

    /// This node's own announcements begin: none.
    pub(crate) fn begin_announcing(&self) {
        let position = (self.id.incarnation, 0);
        self.routes
            .announced_all(self.id.node, position, Announcements::new());
    }
}

/// How many members of a filter are announced.
fn members(filter: &TopicFilter, count: u32) -> u32 {
    if filter.is_shared() {
        count
    } else {
        count.min(1)
    }
}
