//! PURE. Messages: into the sessions of this shard, through the outbox to others, and their acknowledgements.

use std::sync::Arc;

use codec::{ClientId, Message, PacketId, Qos, ReasonCode};
use router::Match;
use session::{Delivery, DropCause, Input, Output, StoredMessage, effective_qos};

use super::{Body, Machine};
use crate::command::{
    Acknowledgement, CloseReason, Effect, OutboxItem, OutboxTarget, Refusal, Response,
};
use crate::ids::{Epoch, Incarnation, NodeId, ShardId};
use crate::state::StateKey;

/// Who must get a message besides the sessions of the shard that accepted it.
pub(super) struct Targets {
    pub(super) shards: Vec<ShardId>,
    pub(super) nodes: Vec<(NodeId, Incarnation)>,
}

/// A QoS 2 PUBLISH of a session of this shard.
pub(super) struct Reception {
    pub(super) client_id: ClientId,
    pub(super) epoch: Epoch,
    pub(super) packet_id: PacketId,
    pub(super) message: Message,
    pub(super) targets: Targets,
}

/// How many sessions a message reached.
#[derive(Default)]
struct Reached {
    matched: u32,
    rejected: bool,
}

impl Machine {
    /// A message from another shard's or this shard's client: into every matching session here.
    pub(super) fn publish(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        message: Message,
        effects: &mut Vec<Effect>,
    ) -> Response {
        if self.is_stale_publisher(client_id, epoch) {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let body = self.begin_body(message);
        let reached = self.deliver_here(client_id, &body, effects);
        self.finish_body(&body);
        Response::Published {
            matched: reached.matched,
            rejected: reached.rejected,
        }
    }

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
        let body = self.begin_body(message);
        for shard in targets.shards {
            if shard == self.shard {
                self.deliver_here(&client_id, &body, effects);
            } else {
                self.put_into_outbox(OutboxTarget::Shard(shard), &client_id, &body);
            }
        }
        for (node, incarnation) in targets.nodes {
            self.put_into_node_outbox((node, incarnation), &client_id, &body, effects);
        }
        self.finish_body(&body);
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

    /// PUBACK, PUBREC and PUBCOMP from a receiver.
    pub(super) fn acknowledge(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        acknowledgements: &[Acknowledgement],
        effects: &mut Vec<Effect>,
    ) -> Response {
        let now = self.time;
        let mut outputs = Vec::new();
        {
            let Some(session) = self.current_session(client_id, epoch) else {
                return Response::Refused(Refusal::StaleEpoch);
            };
            for acknowledgement in acknowledgements {
                let input = match *acknowledgement {
                    Acknowledgement::Puback(packet_id) => Input::Puback { packet_id },
                    Acknowledgement::Pubrec(packet_id, reason_code) => Input::Pubrec {
                        packet_id,
                        reason_code,
                    },
                    Acknowledgement::Pubcomp(packet_id) => Input::Pubcomp { packet_id },
                };
                session.apply(now, input, &mut outputs);
            }
        }
        self.carry_out(client_id, outputs, effects);
        Response::Done
    }

    /// Items of another shard's outbox: each is taken once, in order.
    pub(super) fn take_outbox(
        &mut self,
        source: ShardId,
        first: u64,
        items: Vec<OutboxItem>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        let mut taken = self.taken.get(&source).copied().unwrap_or(0);
        for (offset, item) in (0..).zip(items) {
            let number = first.saturating_add(offset);
            if number <= taken {
                continue;
            }
            if number != taken.saturating_add(1) {
                return Response::Refused(Refusal::Malformed);
            }
            let message = Arc::unwrap_or_clone(item.body).message;
            let body = self.begin_body(message);
            self.deliver_here(&item.publisher, &body, effects);
            self.finish_body(&body);
            taken = number;
            self.taken.insert(source, taken);
            self.changes.insert(StateKey::Taken(source));
        }
        Response::Done
    }

    /// A target has taken its items up to a number.
    pub(super) fn trim_outbox(&mut self, target: OutboxTarget, upto: u64) {
        for (number, item) in self.outbox.trim(target, upto) {
            self.changes.insert(StateKey::OutboxItem(target, number));
            self.release_body(item.body.id);
        }
    }

    /// A target that will take nothing any more.
    pub(super) fn drop_outbox_target(&mut self, target: OutboxTarget) {
        for (number, item) in self.outbox.remove(target) {
            self.changes.insert(StateKey::OutboxItem(target, number));
            self.release_body(item.body.id);
        }
        self.changes.insert(StateKey::Outbox(target));
    }

    fn put_into_outbox(
        &mut self,
        target: OutboxTarget,
        publisher: &ClientId,
        body: &Arc<StoredMessage>,
    ) -> (u64, OutboxItem) {
        let item = OutboxItem {
            publisher: publisher.clone(),
            body: Arc::clone(body),
        };
        let number = self.outbox.push(target, item.clone());
        self.retain_body(body.id);
        self.changes.insert(StateKey::Outbox(target));
        self.changes.insert(StateKey::OutboxItem(target, number));
        (number, item)
    }

    /// A node takes its items as its own replica applies them; the item stays until it says so.
    fn put_into_node_outbox(
        &mut self,
        (node, incarnation): (NodeId, Incarnation),
        publisher: &ClientId,
        body: &Arc<StoredMessage>,
        effects: &mut Vec<Effect>,
    ) {
        // A life that is over has no transient session any more.
        let over = self.nodes.get(&node).is_some_and(|known| {
            known.incarnation > incarnation || (known.incarnation == incarnation && known.down)
        });
        if over {
            return;
        }
        let target = OutboxTarget::Node(node, incarnation);
        let (number, item) = self.put_into_outbox(target, publisher, body);
        effects.push(Effect::LiveOutbox {
            node,
            incarnation,
            number,
            item,
        });
    }

    /// One copy for each session of this shard that takes the message on the durable plane.
    fn deliver_here(
        &mut self,
        publisher: &ClientId,
        body: &Arc<StoredMessage>,
        effects: &mut Vec<Effect>,
    ) -> Reached {
        let mut matches = Vec::new();
        self.router.route(
            &body.message.topic,
            |subscriber| subscriber == publisher,
            &mut matches,
        );
        let mut reached = Reached::default();
        for matched in matches {
            self.deliver_to(matched, body, &mut reached, effects);
        }
        reached
    }

    fn deliver_to(
        &mut self,
        matched: Match<ClientId>,
        body: &Arc<StoredMessage>,
        reached: &mut Reached,
        effects: &mut Vec<Effect>,
    ) {
        let qos = effective_qos(body.message.qos, matched.qos);
        if qos == Qos::AtMostOnce {
            // Travels on the live plane (DESIGN section 3).
            return;
        }
        let now = self.time;
        let client_id = matched.subscriber;
        let Some(session) = self
            .sessions
            .get_mut(&client_id)
            .and_then(|record| record.session.as_mut())
        else {
            return;
        };
        let delivery = Delivery {
            body: Arc::clone(body),
            qos,
            retain: matched.retain_as_published && body.message.retain,
            identifiers: matched.identifiers,
        };
        let mut outputs = Vec::new();
        session.apply(now, Input::Deliver(delivery), &mut outputs);
        reached.matched = reached.matched.saturating_add(1);
        let mut accepted = false;
        for output in &outputs {
            match output {
                Output::Queued { .. } => accepted = true,
                Output::Send { delivery, .. } => accepted |= delivery.body.id == body.id,
                // A QoS 2 publisher cannot be told: the loss is counted.
                Output::Rejected if body.message.qos == Qos::ExactlyOnce => {
                    effects.push(Effect::Dropped {
                        cause: DropCause::QueueFullNewest,
                    });
                }
                Output::Rejected => reached.rejected = true,
                Output::SendPubrel { .. }
                | Output::Completed { .. }
                | Output::Released { .. }
                | Output::Dropped { .. }
                | Output::DisconnectQueueFull
                | Output::Received { .. }
                | Output::ReceiveMaximumExceeded
                | Output::PubrelAnswered { .. }
                | Output::Subscribed { .. }
                | Output::Unsubscribed { .. }
                | Output::Ended => {}
            }
        }
        if accepted {
            self.retain_body(body.id);
        }
        self.carry_out(&client_id, outputs, effects);
    }

    /// Turns a session's outputs into effects for its connection and into changed keys.
    pub(super) fn carry_out(
        &mut self,
        client_id: &ClientId,
        outputs: Vec<Output>,
        effects: &mut Vec<Effect>,
    ) {
        let holder = self
            .sessions
            .get(client_id)
            .and_then(|record| record.holder);
        self.changes.insert(StateKey::Session(client_id.clone()));
        for output in outputs {
            match output {
                Output::Send {
                    position: Some(position),
                    packet_id: Some(packet_id),
                    delivery,
                } => {
                    self.changes
                        .insert(StateKey::Delivery(client_id.clone(), position));
                    if let Some(holder) = holder {
                        effects.push(Effect::Send {
                            holder,
                            packet_id,
                            delivery,
                        });
                    }
                }
                Output::SendPubrel {
                    position,
                    packet_id,
                    reason_code,
                } => {
                    if let Some(position) = position {
                        self.changes
                            .insert(StateKey::Delivery(client_id.clone(), position));
                    }
                    if let Some(holder) = holder {
                        effects.push(Effect::SendPubrel {
                            holder,
                            packet_id,
                            reason_code,
                        });
                    }
                }
                Output::Queued { position } | Output::Completed { position } => {
                    self.changes
                        .insert(StateKey::Delivery(client_id.clone(), position));
                }
                Output::Released { body } => self.release_body(body),
                Output::Dropped { cause } => effects.push(Effect::Dropped { cause }),
                Output::DisconnectQueueFull => {
                    if let Some(holder) = holder {
                        effects.push(Effect::Close {
                            holder,
                            reason: CloseReason::QueueFull,
                        });
                    }
                }
                // Answers, read by the caller; a copy without id never enters a hosted session.
                Output::Send { .. }
                | Output::Rejected
                | Output::Received { .. }
                | Output::ReceiveMaximumExceeded
                | Output::PubrelAnswered { .. }
                | Output::Subscribed { .. }
                | Output::Unsubscribed { .. }
                | Output::Ended => {}
            }
        }
    }

    /// Gives a message its id; `finish_body` forgets it again when nothing took it.
    fn begin_body(&mut self, message: Message) -> Arc<StoredMessage> {
        let id = self.next_body;
        self.next_body = id.saturating_add(1);
        // Detached, so that a queued message does not pin the whole entry it came in.
        let stored = Arc::new(StoredMessage {
            id,
            message: message.detached(),
        });
        self.bodies.insert(
            id,
            Body {
                stored: Arc::clone(&stored),
                references: 0,
            },
        );
        stored
    }

    fn finish_body(&mut self, body: &Arc<StoredMessage>) {
        if self
            .bodies
            .get(&body.id)
            .is_some_and(|stored| stored.references == 0)
        {
            self.bodies.remove(&body.id);
        }
    }

    pub(super) fn retain_body(&mut self, id: u64) {
        if let Some(body) = self.bodies.get_mut(&id) {
            body.references = body.references.saturating_add(1);
            self.changes.insert(StateKey::Body(id));
        }
    }

    pub(super) fn release_body(&mut self, id: u64) {
        let Some(body) = self.bodies.get_mut(&id) else {
            return;
        };
        body.references = body.references.saturating_sub(1);
        self.changes.insert(StateKey::Body(id));
        if body.references == 0 {
            self.bodies.remove(&id);
        }
    }
}
