//! Who is connected to this node: connection → mailbox, and their subscriptions for the live plane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use codec::{ClientId, Message, Qos, Timestamp, TopicFilter};
use dashmap::DashMap;
use raft_store::{ConnectionId, Epoch};
use router::{Match, Router, SharedTable};
use session::{Body, Delivery, StoredMessage, Subscription, effective_qos};
use tokio::time::Instant;

use crate::budget::{Budget, LARGE_BYTES};
use crate::count;
use crate::facts::ConnectionFacts;
use crate::mailbox::{LiveOutcome, Mailbox, SharedDelivery};
use crate::shared::{SharedOrigin, SharedTaken};

/// The connections of one life of this node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_connection: AtomicU64,
    mailboxes: DashMap<ConnectionId, Arc<Mailbox>>,
    /// Of those whose session is open.
    facts: DashMap<ConnectionId, ConnectionFacts>,
    live: RwLock<LiveTable>,
    /// Whose turn it is in a shared subscription; also names the messages for them.
    turn: AtomicU64,
    fences: Mutex<BTreeMap<ClientId, Epoch>>,
    /// How many: there are seldom any, and each message asks.
    fence_count: AtomicUsize,
}

/// Subscriptions of this node's connected sessions.
#[derive(Debug, Default)]
struct LiveTable {
    router: Router<ConnectionId>,
    shared: SharedTable<ConnectionId, router::Subscription>,
    connections: HashMap<ConnectionId, LiveConnection>,
}

#[derive(Debug)]
struct LiveConnection {
    client_id: ClientId,
    /// Its session lives in a shard: what is effectively QoS 1 or 2 comes from there.
    hosted: bool,
    mailbox: Arc<Mailbox>,
}

impl LiveConnection {
    /// What became of it if the message is for the live plane here; then it is in the mailbox, or
    /// dropped.
    fn deliver(
        &self,
        matched: Match<ConnectionId>,
        body: &Body,
        live_message: &LiveMessage<'_>,
        bytes: usize,
    ) -> Option<LiveOutcome> {
        let message = live_message.message;
        let qos = effective_qos(message.qos, matched.qos);
        if self.hosted && qos != Qos::AtMostOnce {
            return None;
        }
        let delivery = Delivery {
            body: body.clone(),
            qos,
            retain: matched.retain_as_published && message.retain,
            identifiers: matched.identifiers,
            share: None,
        };
        let outcome = self.mailbox.push_live(delivery, bytes, live_message.since);
        match outcome {
            LiveOutcome::Full(reason) => {
                count::dropped(reason);
                Some(outcome)
            }
            // What may be lost slows nobody down.
            LiveOutcome::Lagging if qos == Qos::AtMostOnce => Some(LiveOutcome::Taken),
            LiveOutcome::Lagging | LiveOutcome::Taken => Some(outcome),
        }
    }

    /// A message of `published` QoS for a shared subscription reaches this member by its node; what
    /// a persistent session takes at QoS 1 or 2 comes from its shard.
    fn takes_shared(&self, published: Qos, granted: Qos) -> bool {
        !self.hosted || effective_qos(published, granted) == Qos::AtMostOnce
    }
}

/// A message on the live plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveMessage<'a> {
    /// The message.
    pub(crate) message: &'a Message,
    /// When it expires, by this node's clock.
    pub(crate) expires_at: Option<Timestamp>,
    /// Under which version it was stored, if it is retained.
    pub(crate) retained_version: Option<u64>,
    /// When it came, if a client of this node published it.
    pub(crate) since: Option<Instant>,
}

impl LiveMessage<'_> {
    /// As the connections of this node hold it, once for all, and so it counts if it is large.
    fn stored(&self, id: u64, budget: &Arc<Budget>) -> StoredMessage {
        let size = self.message.size();
        let message = if size < LARGE_BYTES {
            self.message.detached()
        } else {
            self.message
                .detached_by(|content| budget.keep(content, size))
        };
        StoredMessage {
            id,
            message,
            expires_at: self.expires_at,
            retained_version: self.retained_version,
        }
    }
}

/// What became of a message on the live plane.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// How many sessions here matched.
    pub(crate) matched: u32,
    /// One that takes it at QoS 1 or 2 and lags behind; of several the one that waits for most.
    pub(crate) lagging: Option<Arc<Mailbox>>,
}

impl Delivered {
    fn note_lagging(&mut self, mailbox: &Arc<Mailbox>) {
        let most = self.lagging.as_ref().map_or(0, |most| most.held_bytes());
        if self.lagging.is_none() || mailbox.held_bytes() > most {
            self.lagging = Some(Arc::clone(mailbox));
        }
    }
}

impl Registry {
    /// Registers a new connection.
    pub(crate) fn open(&self, mailbox: &Arc<Mailbox>) -> ConnectionId {
        let id = self
            .next_connection
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let id = ConnectionId(id);
        self.mailboxes.insert(id, Arc::clone(mailbox));
        id
    }

    /// Forgets a connection and its subscriptions.
    pub(crate) fn close(&self, connection: ConnectionId) {
        self.mailboxes.remove(&connection);
        self.facts.remove(&connection);
        self.leave(connection);
    }

    /// Notes what operators may ask about an open connection.
    pub(crate) fn describe(&self, connection: ConnectionId, facts: ConnectionFacts) {
        self.facts.insert(connection, facts);
    }

    /// What was noted.
    pub(crate) fn facts(&self, connection: ConnectionId) -> Option<ConnectionFacts> {
        self.facts
            .get(&connection)
            .map(|entry| entry.value().clone())
    }

    /// The subscriptions of a connection, in the order of their filters.
    pub(crate) fn subscriptions(
        &self,
        connection: ConnectionId,
    ) -> BTreeMap<TopicFilter, router::Subscription> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let ordinary = live.router.subscriptions(&connection);
        let shared = live.shared.groups_of(&connection).filter_map(|filter| {
            let subscription = live.shared.get(&connection, filter)?;
            Some((TopicFilter::clone(filter), *subscription))
        });
        ordinary
            .map(|(filter, subscription)| (filter.clone(), *subscription))
            .chain(shared)
            .collect()
    }

    /// The mailbox of an open connection.
    pub(crate) fn mailbox(&self, connection: ConnectionId) -> Option<Arc<Mailbox>> {
        self.mailboxes
            .get(&connection)
            .map(|entry| Arc::clone(entry.value()))
    }

    /// Lets a connection take part in the live plane.
    pub(crate) fn join(
        &self,
        connection: ConnectionId,
        client_id: ClientId,
        hosted: bool,
        mailbox: Arc<Mailbox>,
    ) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.connections.insert(
            connection,
            LiveConnection {
                client_id,
                hosted,
                mailbox,
            },
        );
    }

    /// Takes a connection out of the live plane.
    pub(crate) fn leave(&self, connection: ConnectionId) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.router.remove(&connection);
        live.shared.remove(&connection);
        live.connections.remove(&connection);
    }

    /// Adds or replaces a subscription; returns whether it existed.
    pub(crate) fn subscribe(
        &self,
        connection: ConnectionId,
        filter: &TopicFilter,
        subscription: &Subscription,
    ) -> bool {
        let subscription = router::Subscription {
            options: subscription.options,
            identifier: subscription.identifier,
        };
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = if filter.is_shared() {
            live.shared.subscribe(connection, filter, subscription)
        } else {
            live.router.subscribe(connection, filter, subscription)
        };
        replaced.is_some()
    }

    /// The filters of a connection.
    pub(crate) fn filters(&self, connection: ConnectionId) -> BTreeSet<TopicFilter> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let ordinary = live.router.subscriptions(&connection);
        let shared = live.shared.groups_of(&connection);
        ordinary
            .map(|(filter, _)| filter.clone())
            .chain(shared.map(|filter| TopicFilter::clone(filter)))
            .collect()
    }

    /// Removes a subscription.
    pub(crate) fn unsubscribe(&self, connection: ConnectionId, filter: &TopicFilter) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if filter.is_shared() {
            live.shared.unsubscribe(&connection, filter);
        } else {
            live.router.unsubscribe(&connection, filter);
        }
    }

    /// Hands a message to every connected session here that takes it on the live plane. Never waits.
    pub(crate) fn deliver(
        &self,
        publisher: &ClientId,
        live_message: &LiveMessage<'_>,
    ) -> Delivered {
        let message = live_message.message;
        let mut delivered = Delivered::default();
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let mut matches = Vec::new();
        let is_publisher = |id: &ConnectionId| {
            live.connections
                .get(id)
                .is_some_and(|connection| connection.client_id == *publisher)
        };
        live.router
            .route(&message.topic, is_publisher, &mut matches);
        let mut body = None;
        let bytes = message.size();
        for matched in matches {
            let Some(connection) = live.connections.get(&matched.subscriber) else {
                continue;
            };
            let mailbox = &connection.mailbox;
            let body = body.get_or_insert_with(|| {
                let budget = &mailbox.pressure().budget;
                Body::Here(Arc::new(live_message.stored(0, budget)))
            });
            let Some(outcome) = connection.deliver(matched, body, live_message, bytes) else {
                continue;
            };
            delivered.matched = delivered.matched.saturating_add(1);
            if outcome == LiveOutcome::Lagging {
                delivered.note_lagging(mailbox);
            }
        }
        delivered
    }

    /// Subscriptions of sessions here that end with their connection: without wildcards, with, and
    /// shared ones.
    pub(crate) fn transient_subscriptions(&self) -> (usize, usize, usize) {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let transient = live.connections.iter();
        let (mut exact, mut wildcard, mut shared) = (0_usize, 0_usize, 0_usize);
        for (id, _) in transient.filter(|(_, connection)| !connection.hosted) {
            let all = live.router.subscriptions(id).count();
            let with = live.router.subscriptions(id);
            let with = with.filter(|(filter, _)| filter.has_wildcards()).count();
            wildcard = wildcard.saturating_add(with);
            exact = exact.saturating_add(all.saturating_sub(with));
            shared = shared.saturating_add(live.shared.groups_of(id).count());
        }
        (exact, wildcard, shared)
    }

    /// Bytes that are kept on account of each connection.
    pub(crate) fn held_bytes(&self) -> Vec<(usize, Arc<Mailbox>)> {
        let mailboxes = self.mailboxes.iter();
        mailboxes
            .map(|entry| (entry.held_bytes(), Arc::clone(entry.value())))
            .collect()
    }

    /// Hands a message to one connected member of a group. Never waits.
    pub(crate) fn deliver_shared(
        &self,
        filter: &Arc<TopicFilter>,
        live_message: &LiveMessage<'_>,
        origin: Option<SharedOrigin>,
    ) -> SharedTaken {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let members = live.shared.members(filter);
        let Some(first) = router::choose(members.len(), turn) else {
            return SharedTaken::NoMember;
        };
        let mut body = None;
        let mut outcome = SharedTaken::NoMember;
        // From the one whose turn it is to the one before it.
        let turns = members.iter().skip(first).chain(members.iter().take(first));
        for (member, subscription) in turns {
            let Some(connection) = live.connections.get(member) else {
                continue;
            };
            let message = live_message.message;
            if !connection.takes_shared(message.qos, subscription.options.qos) {
                continue;
            }
            let body = body.get_or_insert_with(|| {
                let budget = &connection.mailbox.pressure().budget;
                Body::Here(Arc::new(
                    live_message.stored(turn.saturating_add(1), budget),
                ))
            });
            let delivery = Delivery {
                body: body.clone(),
                qos: effective_qos(message.qos, subscription.options.qos),
                retain: subscription.options.retain_as_published && message.retain,
                identifiers: subscription.identifier.into_iter().collect(),
                share: Some(Arc::clone(filter)),
            };
            let bytes = message.size();
            let pushed = match origin {
                Some(origin) => {
                    let shared = SharedDelivery { delivery, origin };
                    connection.mailbox.push_shared(shared, bytes)
                }
                None => connection.mailbox.push_live(delivery, bytes, None),
            };
            match pushed {
                LiveOutcome::Taken | LiveOutcome::Lagging => return SharedTaken::Placed,
                LiveOutcome::Full(_) => outcome = SharedTaken::Full,
            }
        }
        outcome
    }

    /// From now on live messages of older connections of this client are refused here.
    pub(crate) fn fence(&self, client_id: ClientId, epoch: Epoch) {
        let mut fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        let fence = fences.entry(client_id).or_insert(epoch);
        *fence = (*fence).max(epoch);
        self.fence_count.store(fences.len(), Ordering::Release);
    }

    /// Lifts the fence of this epoch or of an older one.
    pub(crate) fn fence_end(&self, client_id: &ClientId, epoch: Epoch) {
        let mut fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        if fences.get(client_id).is_some_and(|fence| *fence <= epoch) {
            fences.remove(client_id);
        }
        self.fence_count.store(fences.len(), Ordering::Release);
    }

    /// A live message of this connection must not be delivered any more.
    pub(crate) fn is_fenced(&self, client_id: &ClientId, epoch: Epoch) -> bool {
        if self.fence_count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        fences.get(client_id).is_some_and(|fence| *fence > epoch)
    }
}
