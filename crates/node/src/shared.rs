//! One message for one member of a shared subscription (section 4.8.2).
//!
//! A message of QoS 1 or 2 goes to a place: to a shard, whose answer settles it, or to the
//! connections of a node. What went to a node is *held* here until the member there has acknowledged
//! it; if the member or its node goes first, the message goes to another place. Whoever picks a
//! place may be late: a place without a member says so, and the next one is asked.
//!
//! Nothing here waits; outcomes come from the place, in any order.

use std::sync::{Arc, Weak};

use codec::{ClientId, Message, Qos, Timestamp, TopicFilter};
use raft_store::{
    Command, Epoch, Incarnation, NodeId, OutboxTarget, Refusal, Response, ShardId, encode_message,
};

use crate::clock;
use crate::count;
use crate::held::HeldItem;
use crate::life::{Life, LifeId};
use crate::mailbox::{Mail, Mailbox};
use crate::proto::live_item::Kind as ItemKind;
use crate::proto::{LiveShared, SharedOutcome, SharedOutcomeKind};
use crate::registry::LiveMessage;
use crate::shared_routes::Place;
use crate::waiter::CommandWaiter;

/// What a held message costs besides its own bytes.
const OVERHEAD_BYTES: usize = 128;

/// A message on its way to one member.
#[derive(Debug)]
pub(crate) struct SharedMessage {
    /// Who published it.
    publisher: ClientId,
    /// Its connection, until a member has the message; then this node answers for it.
    epoch: Option<Epoch>,
    /// The group.
    filter: Arc<TopicFilter>,
    /// The message, which pins no read buffer.
    message: Message,
    /// When it expires, by this node's clock.
    expires_at: Option<Timestamp>,
    /// The publisher, while it must be told.
    waiter: Option<SharedWaiter>,
    /// Places that had no member.
    tried: Vec<Place>,
    /// A member had no room.
    full: bool,
}

/// A connection that waits until a member has its message.
#[derive(Debug)]
pub(crate) struct SharedWaiter {
    /// Its mailbox.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Its own name for the publish.
    pub(crate) tag: u64,
}

/// What became of a message for a shared subscription, as its publisher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// A member has it, or a shard or node answers for it.
    Placed,
    /// The group has no member.
    NoMember,
    /// Every member's queue is full.
    Full,
    /// The publisher's connection was replaced, or this life is over.
    Refused(Refusal),
}

/// Names a held message to the node where its member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedOrigin {
    /// The life that holds it.
    pub(crate) life: LifeId,
    /// Its number there.
    pub(crate) number: u64,
}

impl SharedMessage {
    /// A message that this node hands on by its own right: its publisher was acknowledged.
    pub(crate) fn owned(
        publisher: ClientId,
        filter: Arc<TopicFilter>,
        message: Message,
        expires_at: Option<Timestamp>,
    ) -> Self {
        Self {
            publisher,
            epoch: None,
            filter,
            message,
            expires_at,
            waiter: None,
            tried: Vec::new(),
            full: false,
        }
    }

    /// A message that a connection publishes; `waiter` is told what became of it.
    pub(crate) fn published(
        (publisher, epoch): (ClientId, Epoch),
        filter: Arc<TopicFilter>,
        message: &Message,
        waiter: Option<SharedWaiter>,
    ) -> Self {
        Self {
            epoch: Some(epoch),
            waiter,
            ..Self::owned(
                publisher,
                filter,
                message.detached(),
                clock::expires_at(message),
            )
        }
    }

    /// What it costs to keep.
    pub(crate) fn bytes(&self) -> usize {
        self.message.size().saturating_add(OVERHEAD_BYTES)
    }

    /// A member has it: from now on this node answers for it.
    pub(crate) fn placed(&mut self) -> Option<SharedWaiter> {
        self.epoch = None;
        self.waiter.take()
    }

    /// Ends the way of this message.
    fn finish(mut self, outcome: Shared) {
        tell(self.waiter.take(), outcome);
    }

    /// There is nobody left to ask.
    fn give_up(mut self) {
        let (outcome, reason) = if self.full {
            (Shared::Full, "queue_full")
        } else {
            (Shared::NoMember, "no_member")
        };
        match self.waiter.take() {
            Some(waiter) => tell(Some(waiter), outcome),
            None => count::dropped(reason),
        }
    }
}

fn tell(waiter: Option<SharedWaiter>, outcome: Shared) {
    if let Some(SharedWaiter { mailbox, tag }) = waiter {
        mailbox.push(Mail::Shared { tag, outcome });
    }
}

impl Life {
    /// Hands a message to `place`, or to the next one that has a member. Never waits.
    pub(crate) fn share(self: &Arc<Self>, mut shared: SharedMessage, place: Option<Place>) {
        let mut place = place;
        loop {
            if shared
                .expires_at
                .is_some_and(|expires_at| expires_at <= clock::timestamp())
            {
                count::dropped("expired");
                return shared.finish(Shared::Placed);
            }
            let Some(next) = place else {
                return shared.give_up();
            };
            shared.tried.push(next);
            let back = match next {
                Place::Shard(shard) => {
                    self.offer_to_shard(shard, shared);
                    None
                }
                Place::Node(node) if node == self.id.node => self.offer_here(shared),
                Place::Node(node) => self.offer_to_peer(node, shared),
            };
            let Some(back) = back else { return };
            shared = back;
            let qos = shared.message.qos;
            place = self.routes.shared_place(&shared.filter, qos, &shared.tried);
        }
    }

    fn offer_to_shard(self: &Arc<Self>, shard: ShardId, shared: SharedMessage) {
        let left = |at: Timestamp| {
            at.as_millis()
                .saturating_sub(clock::timestamp().as_millis())
        };
        let command = Command::PublishShared {
            client_id: shared.publisher.clone(),
            epoch: shared.epoch,
            filter: TopicFilter::clone(&shared.filter),
            message: shared.message.clone(),
            expires_in_ms: shared.expires_at.map(left),
        };
        let offer = ShardOffer {
            life: Arc::downgrade(self),
            shared,
        };
        self.propose(shard, &command, CommandWaiter::Shared(Box::new(offer)));
    }

    /// To a connection of this node. Returned: there is none that takes it.
    fn offer_here(self: &Arc<Self>, mut shared: SharedMessage) -> Option<SharedMessage> {
        let fenced = |epoch| self.registry.is_fenced(&shared.publisher, epoch);
        if shared.epoch.is_some_and(fenced) {
            shared.finish(Shared::Refused(Refusal::StaleEpoch));
            return None;
        }
        let filter = Arc::clone(&shared.filter);
        let (message, expires_at) = (shared.message.clone(), shared.expires_at);
        let live_message = LiveMessage {
            message: &message,
            expires_at,
            retained_version: None,
            since: None,
        };
        if message.qos == Qos::AtMostOnce {
            let taken = self.registry.deliver_shared(&filter, &live_message, None);
            return (taken != SharedTaken::Placed).then_some(shared);
        }
        let number = {
            // Held before it is handed over: the member may be faster than this thread.
            let mut held = self.held.lock();
            let number = held.next_number();
            shared.tried.shrink_to_fit();
            let at = self.id;
            held.insert(number, HeldItem { shared, at });
            number
        };
        let origin = SharedOrigin {
            life: self.id,
            number,
        };
        let taken = self
            .registry
            .deliver_shared(&filter, &live_message, Some(origin));
        match taken {
            SharedTaken::Placed => {
                self.note_placed(number, self.id);
                None
            }
            SharedTaken::NoMember => self.held.take(number, self.id),
            SharedTaken::Full => {
                let mut back = self.held.take(number, self.id)?;
                back.full = true;
                Some(back)
            }
        }
    }

    /// To a connection of a peer, which says what became of it. Returned: the peer has no life.
    fn offer_to_peer(&self, node: NodeId, shared: SharedMessage) -> Option<SharedMessage> {
        let Some(link) = self.links.get(&node) else {
            return Some(shared);
        };
        let held = shared.message.qos != Qos::AtMostOnce;
        if !held && link.is_full() {
            count::dropped_for_peer(node.0);
            return None;
        }
        let now = clock::timestamp();
        let left = |at: Timestamp| at.as_millis().saturating_sub(now.as_millis());
        let bytes = shared.message.size();
        // The lock is kept while the item is queued, so that what is held knows which life it went
        // to before that life can be declared over.
        let mut table = self.held.lock();
        let number = if held { table.next_number() } else { 0 };
        let item = LiveShared {
            number,
            client_id: shared.publisher.as_str().to_owned(),
            epoch: shared.epoch.map_or(0, |epoch| epoch.0),
            filter: shared.filter.as_str().to_owned(),
            message: encode_message(&shared.message),
            expires_in_ms: shared.expires_at.map(left),
        };
        let Some(incarnation) = link.send(ItemKind::Shared(item), bytes, None) else {
            return Some(shared);
        };
        if held {
            let at = LifeId { node, incarnation };
            table.insert(number, HeldItem { shared, at });
        }
        None
    }

    fn note_placed(&self, number: u64, at: LifeId) {
        let waiter = {
            let mut held = self.held.lock();
            held.get_mut(number, at).and_then(SharedMessage::placed)
        };
        tell(waiter, Shared::Placed);
    }

    /// What a place says of a message that it was handed.
    pub(crate) fn on_shared(self: &Arc<Self>, number: u64, at: LifeId, kind: SharedOutcomeKind) {
        if kind == SharedOutcomeKind::Placed {
            return self.note_placed(number, at);
        }
        let Some(mut shared) = self.held.take(number, at) else {
            return;
        };
        match kind {
            SharedOutcomeKind::Placed | SharedOutcomeKind::Done => {
                return shared.finish(Shared::Placed);
            }
            SharedOutcomeKind::Refused => {
                return shared.finish(Shared::Refused(Refusal::StaleEpoch));
            }
            SharedOutcomeKind::Unspecified | SharedOutcomeKind::NoMember => {}
            SharedOutcomeKind::Full => shared.full = true,
            // Its member is gone; another one at the same place may not be.
            SharedOutcomeKind::Returned => shared.tried.clear(),
        }
        self.share_again(shared);
    }

    /// A life of a node is over, and the members there with it. A QoS 2 message may have been sent
    /// to one of them: nobody else must get it [MQTT-4.8.2-5].
    pub(crate) fn on_shared_life_ended(self: &Arc<Self>, node: NodeId, ended: Incarnation) {
        let back = self.held.lock().take_all(node, ended);
        self.held.drained.notify_waiters();
        for mut shared in back {
            if shared.message.qos == Qos::ExactlyOnce {
                count::dropped("session_ended");
                shared.finish(Shared::Placed);
                continue;
            }
            shared.tried.clear();
            self.share_again(shared);
        }
    }

    fn share_again(self: &Arc<Self>, shared: SharedMessage) {
        let qos = shared.message.qos;
        let place = self.routes.shared_place(&shared.filter, qos, &shared.tried);
        self.share(shared, place);
    }

    /// Tells the life that holds a message what became of it here.
    pub(crate) fn report_shared(self: &Arc<Self>, origin: SharedOrigin, kind: SharedOutcomeKind) {
        if origin.life.node == self.id.node {
            if origin.life == self.id {
                self.on_shared(origin.number, self.id, kind);
            }
            return;
        }
        let Some(link) = self.links.get(&origin.life.node) else {
            return;
        };
        let outcome = SharedOutcome {
            incarnation: origin.life.incarnation.0,
            number: origin.number,
            kind: kind.into(),
        };
        link.send(ItemKind::SharedOutcome(outcome), OUTCOME_BYTES, None);
    }
}

/// What a report counts for in a peer's queue.
const OUTCOME_BYTES: usize = 32;

/// Whether a connection of this node took a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedTaken {
    /// One did.
    Placed,
    /// There is none in the group that takes this QoS from a node.
    NoMember,
    /// All that there are have full mailboxes.
    Full,
}

/// A message that was offered to a shard.
#[derive(Debug)]
pub(crate) struct ShardOffer {
    life: Weak<Life>,
    shared: SharedMessage,
}

impl ShardOffer {
    /// The shard's answer.
    pub(crate) fn answered(self, response: &Response) {
        let Self { life, mut shared } = self;
        match response {
            Response::Published { matched, rejected } => {
                if *matched > 0 && !rejected {
                    return shared.finish(Shared::Placed);
                }
                shared.full |= *rejected;
                // Without its life nobody waits for the message any more.
                if let Some(life) = life.upgrade() {
                    life.share_again(shared);
                }
            }
            Response::Refused(refusal) => shared.finish(Shared::Refused(*refusal)),
            Response::Done
            | Response::NodeUp { .. }
            | Response::Connected { .. }
            | Response::Subscribed { .. }
            | Response::Unsubscribed { .. }
            | Response::Received { .. }
            | Response::ReceiveMaximumExceeded
            | Response::Released { .. }
            | Response::RetainedSet { .. }
            | Response::RetainedFull
            | Response::RetainedDelivered { .. }
            | Response::Claimed { .. }
            | Response::TookOutbox { .. } => {
                tracing::error!(?response, "a shard's answer makes no sense");
                shared.give_up();
            }
        }
    }
}

/// An item of an outbox lane of this node, for a member of a shared subscription.
#[derive(Debug)]
pub(crate) struct Claimed {
    life: Weak<Life>,
    shared: SharedMessage,
}

impl Claimed {
    /// Asks the shard for the item: from its answer on this node answers for the message.
    pub(crate) fn claim(
        life: &Arc<Life>,
        shard: ShardId,
        (target, number): (OutboxTarget, u64),
        shared: SharedMessage,
    ) {
        let claimed = Self {
            life: Arc::downgrade(life),
            shared,
        };
        let command = Command::Claim { target, number };
        life.propose(shard, &command, CommandWaiter::Claim(Box::new(claimed)));
    }

    /// The shard's answer.
    pub(crate) fn answered(self, response: &Response) {
        if let (Response::Claimed { claimed: true }, Some(life)) = (response, self.life.upgrade()) {
            let here = Place::Node(life.id.node);
            life.share(self.shared, Some(here));
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::{MessageProperties, TopicName};

    use super::*;

    /// From then on this node hands it on by its own right, whatever becomes of its publisher.
    #[test]
    fn a_placed_message_is_this_nodes_own() {
        let message = Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: vec![0].into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::default(),
        };
        let filter = Arc::new(TopicFilter::try_from("$share/g/t").unwrap());
        let publisher = (ClientId::new("p").unwrap(), Epoch(3));
        let mut shared = SharedMessage::published(publisher, filter, &message, None);
        assert_eq!(shared.epoch, Some(Epoch(3)));
        assert!(shared.placed().is_none());
        assert_eq!(shared.epoch, None);
    }
}
