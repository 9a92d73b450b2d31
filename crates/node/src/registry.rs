//! Who is connected to this node: connection → mailbox, and their subscriptions for the live plane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use codec::{ClientId, Message, Qos, TopicFilter};
use dashmap::DashMap;
use raft_store::{ConnectionId, Epoch};
use router::Router;
use session::{Delivery, StoredMessage, Subscription, effective_qos};

use crate::count;
use crate::mailbox::{LiveOutcome, Mailbox};

/// The connections of one life of this node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_connection: AtomicU64,
    mailboxes: DashMap<ConnectionId, Arc<Mailbox>>,
    live: RwLock<LiveTable>,
    fences: Mutex<BTreeMap<ClientId, Epoch>>,
}

/// Subscriptions of this node's connected sessions.
#[derive(Debug, Default)]
struct LiveTable {
    router: Router<ConnectionId>,
    connections: BTreeMap<ConnectionId, LiveConnection>,
}

#[derive(Debug)]
struct LiveConnection {
    client_id: ClientId,
    /// Its session lives in a shard: what is effectively QoS 1 or 2 comes from there.
    hosted: bool,
    mailbox: Arc<Mailbox>,
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
        self.leave(connection);
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
        live.router
            .subscribe(connection, filter, subscription)
            .is_some()
    }

    /// Removes a subscription.
    pub(crate) fn unsubscribe(&self, connection: ConnectionId, filter: &TopicFilter) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.router.unsubscribe(&connection, filter);
    }

    /// Hands a message to every connected session here that takes it on the live plane. Never waits.
    /// Returns how many matched.
    pub(crate) fn deliver(&self, publisher: &ClientId, message: &Message) -> u32 {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let mut matches = Vec::new();
        let is_publisher = |id: &ConnectionId| {
            live.connections
                .get(id)
                .is_some_and(|connection| connection.client_id == *publisher)
        };
        live.router
            .route(&message.topic, is_publisher, &mut matches);
        if matches.is_empty() {
            return 0;
        }
        let body = Arc::new(StoredMessage {
            id: 0,
            message: message.detached(),
        });
        let mut taken = 0_u32;
        for matched in matches {
            let Some(connection) = live.connections.get(&matched.subscriber) else {
                continue;
            };
            let qos = effective_qos(message.qos, matched.qos);
            if connection.hosted && qos != Qos::AtMostOnce {
                continue;
            }
            taken = taken.saturating_add(1);
            let delivery = Delivery {
                body: Arc::clone(&body),
                qos,
                retain: matched.retain_as_published && message.retain,
                identifiers: matched.identifiers,
            };
            if connection.mailbox.push_live(delivery) == LiveOutcome::Full {
                count::dropped("queue_full");
            }
        }
        taken
    }

    /// From now on live messages of older connections of this client are refused here.
    pub(crate) fn fence(&self, client_id: ClientId, epoch: Epoch) {
        let mut fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        let fence = fences.entry(client_id).or_insert(epoch);
        *fence = (*fence).max(epoch);
    }

    /// Lifts the fence of this epoch or of an older one.
    pub(crate) fn fence_end(&self, client_id: &ClientId, epoch: Epoch) {
        let mut fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        if fences.get(client_id).is_some_and(|fence| *fence <= epoch) {
            fences.remove(client_id);
        }
    }

    /// A live message of this connection must not be delivered any more.
    pub(crate) fn is_fenced(&self, client_id: &ClientId, epoch: Epoch) -> bool {
        let fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        fences.get(client_id).is_some_and(|fence| *fence > epoch)
    }
}
