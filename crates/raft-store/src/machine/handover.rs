//! PURE. Messages on their way from shard to shard and to nodes: into this shard's outbox, out of
//! it, and out of the outboxes of others.
//!
//! A shared item (one with a `share`) is for a single member. It leaves a shard's lane when that
//! shard took it or refused it for want of a member, and a node's lane when the node claimed it or
//! its life ended. What was not taken waits among the unplaced until the leader finds another place.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use codec::{ClientId, Message, PacketId, Qos, ReasonCode, TopicFilter};
use session::{Body, Delivery, DropCause, Input, Output};

use super::Machine;
use super::bodies::NewBody;
use super::outbox::Item;
use super::shared::SharedCopy;
use crate::command::{Effect, OutboxItem, OutboxTarget, Refusal, Response, WaitingItem};
use crate::ids::{Epoch, Incarnation, NodeId, ShardId};
use crate::state::StateKey;

/// Who must get a message.
pub(super) struct Targets {
    pub(super) shards: Vec<ShardId>,
    pub(super) nodes: Vec<(NodeId, Incarnation)>,
    pub(super) shared: Vec<(TopicFilter, OutboxTarget)>,
}

/// A QoS 2 PUBLISH of a session of this shard.
pub(super) struct Reception {
    pub(super) client_id: ClientId,
    pub(super) epoch: Epoch,
    pub(super) packet_id: PacketId,
    pub(super) message: Message,
    pub(super) retained_version: Option<u64>,
    pub(super) targets: Targets,
}

/// How far this shard has taken another shard's outbox.
#[derive(Clone, Debug, Default)]
pub(super) struct TakenFrom {
    /// Number of the last item.
    pub(super) upto: u64,
    /// Items that were refused and that the source has not settled: offered again, they are refused
    /// again, or they would reach two members.
    pub(super) refused: BTreeSet<u64>,
}

/// The caller counts its reference to the body.
fn new_item(publisher: &ClientId, body: &NewBody, share: Option<Arc<TopicFilter>>) -> Item {
    Item {
        publisher: publisher.clone(),
        body: body.reference.id,
        size_bytes: body.reference.size_bytes,
        share,
    }
}

impl Machine {
    /// Records the packet id and hands the message on, in one step: a crash between the two can
    /// neither lose nor repeat it [MQTT-4.3.3-8, -10].
    pub(super) fn receive_exactly_once(
        &mut self,
        reception: Reception,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let Reception {
            client_id,
            epoch,
            packet_id,
            message,
            retained_version,
            targets,
        } = reception;
        let now = self.time;
        let Some(session) = self.current_session(&client_id, epoch) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        let mut outputs = Vec::new();
        session.apply(now, Input::ReceiveExactlyOnce { packet_id }, &mut outputs);
        match outputs.first() {
            Some(Output::Received { first: true }) => {}
            Some(Output::Received { first: false }) => return Response::Received { first: false },
            _ => return Response::ReceiveMaximumExceeded,
        }
        self.changes.insert(StateKey::Inbound(client_id.clone()));
        self.hand_on(&client_id, &message, retained_version, targets, effects);
        Response::Received { first: true }
    }

    /// PUBREL: the id is free for a new message.
    pub(super) fn release(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        packet_id: PacketId,
    ) -> Response {
        let now = self.time;
        let Some(session) = self.current_session(client_id, epoch) else {
            return Response::Refused(Refusal::StaleEpoch);
        };
        let mut outputs = Vec::new();
        session.apply(now, Input::Pubrel { packet_id }, &mut outputs);
        self.changes.insert(StateKey::Inbound(client_id.clone()));
        match outputs.first() {
            Some(Output::PubrelAnswered { reason_code }) => Response::Released {
                reason_code: *reason_code,
            },
            _ => Response::Released {
                reason_code: ReasonCode::PacketIdentifierNotFound,
            },
        }
    }

    /// A message that this shard accepted: to its own sessions at once, to everyone else through the
    /// outbox.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn hand_on(
        &mut self,
        publisher: &ClientId,
        message: &Message,
        retained_version: Option<u64>,
        targets: Targets,
        effects: &mut Vec<Effect>,
    ) {
        let expires_at = self.expiry_of(message);
        let body = self.begin_body(message, expires_at, retained_version);
        for shard in targets.shards {
            if shard == self.shard {
                self.deliver_body(publisher, &body, effects);
            } else {
                self.put_into_outbox(OutboxTarget::Shard(shard), publisher, &body);
            }
        }
        for (node, incarnation) in targets.nodes {
            // A life that is over has no transient session any more.
            if !self.is_life_over(node, incarnation) {
                let target = OutboxTarget::Node(node, incarnation);
                let number = self.put_into_outbox(target, publisher, &body);
                self.show_to_node(target, number, effects);
            }
        }
        for (filter, target) in targets.shared {
            self.hand_on_shared(publisher, &body, filter, target, effects);
        }
        self.finish_body(&body);
    }

    /// To one member of a shared subscription, where the publishing node found one.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    fn hand_on_shared(
        &mut self,
        publisher: &ClientId,
        body: &NewBody,
        filter: TopicFilter,
        target: OutboxTarget,
        effects: &mut Vec<Effect>,
    ) {
        let share = Arc::new(filter);
        let copy = SharedCopy {
            share: &share,
            body: body.reference,
            qos: body.stored.message.qos,
            retain: body.stored.message.retain,
        };
        let place = match target {
            OutboxTarget::Shard(shard) if shard == self.shard => {
                if self.deliver_shared_or_drop(&copy, effects) {
                    return;
                }
                None
            }
            OutboxTarget::Node(node, life) if self.is_life_over(node, life) => None,
            OutboxTarget::Shard(_) if copy.qos == Qos::AtMostOnce => None,
            OutboxTarget::Unplaced => None,
            OutboxTarget::Shard(_) | OutboxTarget::Node(..) => Some(target),
        };
        self.bodies.retain(body.reference.id);
        let item = new_item(publisher, body, Some(share));
        match place {
            None => self.unplace(item, effects),
            Some(target) => {
                let number = self.put_item(target, item);
                self.show_to_node(target, number, effects);
            }
        }
    }

    fn put_into_outbox(
        &mut self,
        target: OutboxTarget,
        publisher: &ClientId,
        body: &NewBody,
    ) -> u64 {
        self.bodies.retain(body.reference.id);
        self.put_item(target, new_item(publisher, body, None))
    }

    /// The item's reference to its body comes along.
    fn put_item(&mut self, target: OutboxTarget, item: Item) -> u64 {
        let number = self.outbox.push(target, item);
        self.changes.insert(StateKey::Outbox(target));
        self.changes.insert(StateKey::OutboxItem(target, number));
        number
    }

    /// The item's reference to its body comes along.
    fn take_item(&mut self, target: OutboxTarget, number: u64) -> Option<Item> {
        let item = self.outbox.take(target, number)?;
        self.item_left(target, number, self.outbox.unsaved_from(target));
        Some(item)
    }

    /// What the tables never had needs no write.
    fn item_left(&mut self, target: OutboxTarget, number: u64, unsaved_from: u64) {
        let key = StateKey::OutboxItem(target, number);
        if number >= unsaved_from {
            self.changes.remove(&key);
        } else {
            self.changes.insert(key);
        }
    }

    /// A node takes its items as its own replica applies them; an item stays until the node says so.
    fn show_to_node(&self, target: OutboxTarget, number: u64, effects: &mut Vec<Effect>) {
        let OutboxTarget::Node(node, incarnation) = target else {
            return;
        };
        let item = self.outbox.item(target, number);
        if let Some(item) = item.and_then(|item| self.waiting_item(item)) {
            effects.push(Effect::LiveOutbox {
                node,
                incarnation,
                number,
                item,
            });
        }
    }

    /// A session ended without having got this shared message: someone else must (section 4.8.2).
    /// The delivery's reference to its body comes along.
    pub(super) fn reassign(&mut self, member: &ClientId, delivery: Delivery) {
        let item = Item {
            publisher: member.clone(),
            body: delivery.body.id(),
            size_bytes: delivery.body.size_bytes(),
            share: delivery.share,
        };
        self.put_item(OutboxTarget::Unplaced, item);
    }

    /// Items of another shard's outbox: each is taken once, in order, or refused once.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn take_outbox(
        &mut self,
        source: ShardId,
        settled: u64,
        first: u64,
        items: Vec<OutboxItem>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let upto = self.taken.get(&source).map_or(0, |taken| taken.upto);
        if first > upto.saturating_add(1) {
            return Response::Refused(Refusal::Malformed);
        }
        let mut taken = self.taken.remove(&source).unwrap_or_default();
        taken.refused = taken.refused.split_off(&settled.saturating_add(1));
        let mut next = first;
        for item in items {
            if next > taken.upto {
                if !self.take_outbox_item(item, effects) {
                    taken.refused.insert(next);
                }
                taken.upto = next;
            }
            next = next.saturating_add(1);
        }
        // Also those of earlier batches: `Taken` is cumulative, and the one that named them may be lost.
        let refused = taken.refused.iter().copied().collect();
        if taken.upto > 0 {
            self.taken.insert(source, taken);
            self.changes.insert(StateKey::Taken(source));
        }
        Response::TookOutbox { refused }
    }

    /// False: it is for a member of a shared subscription that has none here.
    fn take_outbox_item(&mut self, item: OutboxItem, effects: &mut Vec<Effect>) -> bool {
        let expires_at = self.expiry_in(item.expires_in_ms);
        let (message, version) = (&item.body.message, item.body.retained_version);
        let Some(filter) = item.share else {
            self.deliver_message(&item.publisher, message, expires_at, version, effects);
            return true;
        };
        let share = Arc::new(filter);
        if !self.shared.has_members(&share) {
            return false;
        }
        let body = self.begin_body(message, expires_at, version);
        let copy = SharedCopy {
            share: &share,
            body: body.reference,
            qos: message.qos,
            retain: message.retain,
        };
        let taken = self.deliver_shared_or_drop(&copy, effects);
        self.finish_body(&body);
        taken
    }

    /// A target has taken its items up to a number, and refused some shared ones.
    pub(super) fn outbox_taken(
        &mut self,
        target: OutboxTarget,
        upto: u64,
        refused: &[u64],
        effects: &mut Vec<Effect>,
    ) -> Response {
        // A shard's lane must not get gaps: its items travel without their numbers.
        let movable_upto = match target {
            OutboxTarget::Shard(_) => upto,
            OutboxTarget::Node(..) => u64::MAX,
            OutboxTarget::Unplaced => 0,
        };
        for number in refused.iter().filter(|number| **number <= movable_upto) {
            let item = self.outbox.item(target, *number);
            if item.is_some_and(|item| item.share.is_some())
                && let Some(item) = self.take_item(target, *number)
            {
                self.unplace(item, effects);
            }
        }
        if target != OutboxTarget::Unplaced {
            let unsaved_from = self.outbox.unsaved_from(target);
            for (number, item) in self.outbox.trim(target, upto) {
                self.item_left(target, number, unsaved_from);
                self.bodies.release(item.body);
            }
        }
        Response::Done
    }

    /// The node owns the item from now on: nobody else gets it, also if the node dies.
    pub(super) fn claim(&mut self, target: OutboxTarget, number: u64) -> Response {
        let item = self.outbox.item(target, number);
        let is_shared = item.is_some_and(|item| item.share.is_some());
        let is_node = matches!(target, OutboxTarget::Node(..));
        let claimed = is_node && is_shared;
        if claimed && let Some(item) = self.take_item(target, number) {
            self.bodies.release(item.body);
        }
        Response::Claimed { claimed }
    }

    /// An item without a place gets one. It stays where it is if the place is no good.
    pub(super) fn place(
        &mut self,
        number: u64,
        to: Option<OutboxTarget>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let placed = self.try_place(number, to, effects);
        Response::Claimed { claimed: placed }
    }

    fn try_place(
        &mut self,
        number: u64,
        to: Option<OutboxTarget>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(item) = self.outbox.item(OutboxTarget::Unplaced, number).cloned() else {
            return false;
        };
        let lane = match to {
            None => {
                let cause = DropCause::NoMember;
                effects.push(Effect::Dropped { cause });
                None
            }
            Some(OutboxTarget::Unplaced) => return false,
            Some(OutboxTarget::Node(node, life)) if self.is_life_over(node, life) => return false,
            Some(OutboxTarget::Shard(shard)) if shard == self.shard => {
                if !self.deliver_item(&item, effects) {
                    return false;
                }
                None
            }
            Some(target @ (OutboxTarget::Shard(_) | OutboxTarget::Node(..))) => Some(target),
        };
        self.take_item(OutboxTarget::Unplaced, number);
        match lane {
            None => self.bodies.release(item.body),
            Some(target) => {
                let number = self.put_item(target, item);
                self.show_to_node(target, number, effects);
            }
        }
        true
    }

    /// To a member in this shard; the content of the body is not needed.
    fn deliver_item(&mut self, item: &Item, effects: &mut Vec<Effect>) -> bool {
        let (Some(share), Some(body)) = (&item.share, self.bodies.get(item.body)) else {
            return false;
        };
        let copy = SharedCopy {
            share,
            body: body.reference(item.body),
            qos: body.qos,
            retain: body.retain,
        };
        self.deliver_shared_or_drop(&copy, effects)
    }

    /// A life of a node is over: its sessions are gone, but shared items are for anybody.
    pub(super) fn end_outbox_target(&mut self, target: OutboxTarget, effects: &mut Vec<Effect>) {
        let unsaved_from = self.outbox.unsaved_from(target);
        for (number, item) in self.outbox.remove(target) {
            self.item_left(target, number, unsaved_from);
            if item.share.is_some() {
                self.unplace(item, effects);
            } else {
                self.bodies.release(item.body);
            }
        }
        self.changes.insert(StateKey::Outbox(target));
    }

    /// A shared item whose place was no good. At QoS 0 it gets no other: the durable plane takes none of
    /// that kind, and nobody waits for it.
    fn unplace(&mut self, item: Item, effects: &mut Vec<Effect>) {
        let qos = self.bodies.get(item.body).map(|body| body.qos);
        if qos == Some(Qos::AtMostOnce) {
            self.bodies.release(item.body);
            let cause = DropCause::NoMember;
            effects.push(Effect::Dropped { cause });
        } else {
            self.put_item(OutboxTarget::Unplaced, item);
        }
    }

    /// Items of one outbox target after a number, at most `max_items` and about `max_bytes`.
    #[must_use]
    pub fn outbox_items(
        &self,
        target: OutboxTarget,
        after: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> VecDeque<(u64, WaitingItem)> {
        self.outbox
            .items(target, after, max_items, max_bytes)
            .filter_map(|(number, item)| Some((number, self.waiting_item(item)?)))
            .collect()
    }

    pub(super) fn waiting_item(&self, item: &Item) -> Option<WaitingItem> {
        let mut body = Body::Stored(self.bodies.reference(item.body)?);
        self.bodies.resolve(&mut body);
        Some(WaitingItem {
            publisher: item.publisher.clone(),
            body,
            share: item.share.as_deref().cloned(),
        })
    }

    /// What became of every item of a target up to this number is recorded; what `TakeOutbox` tells
    /// that target.
    #[must_use]
    pub fn outbox_settled(&self, target: OutboxTarget) -> u64 {
        self.outbox.settled(target)
    }

    /// Targets that have items waiting.
    #[must_use]
    pub fn outbox_targets(&self) -> Vec<OutboxTarget> {
        self.outbox.waiting_targets()
    }

    /// Bytes waiting in the outbox.
    #[must_use]
    pub fn outbox_bytes(&self) -> u64 {
        self.outbox.bytes()
    }
}
