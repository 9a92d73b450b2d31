//! PURE. Messages into the sessions of this shard, and their acknowledgements.

use codec::Timestamp;
use codec::{ClientId, Message, Qos, TopicName};
use router::Match;
use session::{Body, BodyRef, Delivery, DropCause, Input, Output, effective_qos};

use super::Machine;
use super::bodies::NewBody;
use crate::command::{Acknowledgement, CloseReason, Effect, Refusal, Response};
use crate::ids::{Epoch, Holder};
use crate::state::StateKey;

/// How many sessions a message reached.
#[derive(Default)]
pub(super) struct Reached {
    pub(super) matched: u32,
    pub(super) rejected: bool,
}

/// What a session did with a copy.
pub(super) enum Offered {
    /// There is no such session here.
    NoSession,
    /// It is queued or sent.
    Taken,
    /// The queue had no room for it.
    Full,
    /// It had expired.
    Dropped,
}

impl Machine {
    /// A message from another shard's or this shard's client: into every matching session here.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn publish(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        message: &Message,
        retained_version: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> Response {
        if self.is_stale_publisher(client_id, epoch) {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let expires_at = self.expiry_of(message);
        let reached =
            self.deliver_message(client_id, message, expires_at, retained_version, effects);
        Response::Published {
            matched: reached.matched,
            rejected: reached.rejected,
        }
    }

    /// One copy for each session of this shard that takes the message on the durable plane. Without
    /// one it gets no body.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn deliver_message(
        &mut self,
        publisher: &ClientId,
        message: &Message,
        expires_at: Option<Timestamp>,
        retained_version: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> Reached {
        let mut matches = self.durable_matches(publisher, &message.topic, message.qos);
        let mut reached = Reached::default();
        if !matches.is_empty() {
            let body = self.begin_body(message, expires_at, retained_version);
            reached = self.deliver_to_all(&mut matches, &body, effects);
            self.finish_body(&body);
        }
        self.matches = matches;
        reached
    }

    /// The same for a message that has a body already.
    pub(super) fn deliver_body(
        &mut self,
        publisher: &ClientId,
        body: &NewBody,
        effects: &mut Vec<Effect>,
    ) {
        let message = &body.stored.message;
        let mut matches = self.durable_matches(publisher, &message.topic, message.qos);
        self.deliver_to_all(&mut matches, body, effects);
        self.matches = matches;
    }

    /// Who takes a message of this QoS on the durable plane; at QoS 0 it travels on the live plane
    /// (DESIGN section 3). The list is `self.matches`, to be given back.
    fn durable_matches(
        &mut self,
        publisher: &ClientId,
        topic: &TopicName,
        qos: Qos,
    ) -> Vec<Match<ClientId>> {
        let mut matches = std::mem::take(&mut self.matches);
        let is_publisher = |subscriber: &ClientId| subscriber == publisher;
        self.router.route(topic, is_publisher, &mut matches);
        matches.retain(|matched| effective_qos(qos, matched.qos) != Qos::AtMostOnce);
        matches
    }

    fn deliver_to_all(
        &mut self,
        matches: &mut Vec<Match<ClientId>>,
        body: &NewBody,
        effects: &mut Vec<Effect>,
    ) -> Reached {
        let mut reached = Reached::default();
        for matched in matches.drain(..) {
            self.deliver_to(matched, body, &mut reached, effects);
        }
        reached
    }

    fn deliver_to(
        &mut self,
        matched: Match<ClientId>,
        body: &NewBody,
        reached: &mut Reached,
        effects: &mut Vec<Effect>,
    ) {
        let message = &body.stored.message;
        let client_id = matched.subscriber;
        let version = body.stored.retained_version;
        let has_room = version.is_none_or(|_| self.can_note(&client_id, &message.topic));
        let delivery = Delivery {
            body: Body::Stored(body.reference),
            qos: effective_qos(message.qos, matched.qos),
            retain: matched.retain_as_published && message.retain,
            identifiers: matched.identifiers,
            share: None,
        };
        let offered = if has_room {
            self.offer(&client_id, delivery, false, effects)
        } else {
            Offered::Full
        };
        match offered {
            Offered::NoSession => return,
            Offered::Dropped => {}
            Offered::Taken => {
                if let Some(version) = version {
                    self.note_live_copy(&client_id, &message.topic, version);
                }
            }
            // A QoS 2 publisher cannot be told: the loss is counted.
            Offered::Full if message.qos == Qos::ExactlyOnce => {
                let cause = DropCause::QueueFullNewest;
                effects.push(Effect::Dropped { cause });
            }
            Offered::Full => reached.rejected = true,
        }
        reached.matched = reached.matched.saturating_add(1);
    }

    /// Offers a copy to a session. `Full`: nothing of it is left here, and nobody was told; without
    /// `is_quiet` only if the policy is to tell the publisher, otherwise the loss is counted.
    pub(super) fn offer(
        &mut self,
        client_id: &ClientId,
        delivery: Delivery,
        is_quiet: bool,
        effects: &mut Vec<Effect>,
    ) -> Offered {
        let now = self.time;
        let BodyRef { id, .. } = delivery.body.reference();
        let Some(session) = self
            .sessions
            .get_mut(client_id)
            .and_then(|record| record.session.as_mut())
        else {
            return Offered::NoSession;
        };
        let mut outputs = std::mem::take(&mut self.outputs);
        session.apply(now, Input::Deliver(delivery), &mut outputs);
        let mut offered = Offered::Dropped;
        for output in &outputs {
            match output {
                Output::Queued { .. } => offered = Offered::Taken,
                Output::Send { delivery, .. } if delivery.body.id() == id => {
                    offered = Offered::Taken;
                }
                Output::Rejected => offered = Offered::Full,
                Output::Dropped {
                    cause: DropCause::QueueFullNewest,
                } if is_quiet => offered = Offered::Full,
                Output::Send { .. }
                | Output::SendPubrel { .. }
                | Output::Completed { .. }
                | Output::Released { .. }
                | Output::Reassign { .. }
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
        match offered {
            Offered::Taken => self.bodies.retain(id),
            // The next member is asked: only what happened to other messages counts.
            Offered::Full if is_quiet => outputs.retain(|output| !is_for_full_queue(output)),
            Offered::Full | Offered::Dropped | Offered::NoSession => {}
        }
        self.carry_out(client_id, &mut outputs, effects);
        self.outputs = outputs;
        offered
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
        let mut outputs = std::mem::take(&mut self.outputs);
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
        self.carry_out(client_id, &mut outputs, effects);
        self.outputs = outputs;
        Response::Done
    }

    /// Turns a session's outputs into effects for its connection and into changed keys.
    pub(super) fn carry_out(
        &mut self,
        client_id: &ClientId,
        outputs: &mut Vec<Output>,
        effects: &mut Vec<Effect>,
    ) {
        let (holder, unsaved_from) = self.session_changes(client_id);
        for output in outputs.drain(..) {
            match output {
                Output::Send {
                    position: Some(position),
                    packet_id: Some(packet_id),
                    mut delivery,
                } => {
                    self.delivery_changed(client_id, position, unsaved_from);
                    if let Some(holder) = holder {
                        self.bodies.resolve(&mut delivery.body);
                        effects.push(Effect::Send {
                            holder,
                            position,
                            packet_id,
                            delivery,
                        });
                    }
                }
                Output::SendPubrel {
                    position,
                    pubrec_position,
                    packet_id,
                    reason_code,
                } => {
                    if let Some(position) = position {
                        self.delivery_changed(client_id, position, unsaved_from);
                    }
                    if let Some(holder) = holder {
                        effects.push(Effect::SendPubrel {
                            holder,
                            packet_id,
                            reason_code,
                            pubrec_position,
                        });
                    }
                }
                Output::Queued { position } | Output::Completed { position } => {
                    self.delivery_changed(client_id, position, unsaved_from);
                }
                Output::Reassign { position, delivery } => {
                    self.delivery_changed(client_id, position, unsaved_from);
                    self.reassign(client_id, delivery);
                }
                Output::Released { body } => self.bodies.release(body),
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

    /// Notes that the session changes. Its connection, and from which position on its deliveries are in
    /// no table.
    fn session_changes(&mut self, client_id: &ClientId) -> (Option<Holder>, u64) {
        let key = || StateKey::Session(client_id.clone());
        let Some(record) = self.sessions.get_mut(client_id) else {
            self.changes.insert(key());
            return (None, u64::MAX);
        };
        if !std::mem::replace(&mut record.is_changed, true) {
            self.changes.insert(key());
        }
        (record.holder, record.unsaved_from)
    }

    /// From `unsaved_from` on a save looks at what the session has then: what came and went in between
    /// is never noted.
    fn delivery_changed(&mut self, client_id: &ClientId, position: u64, unsaved_from: u64) {
        if position < unsaved_from {
            self.changes
                .insert(StateKey::Delivery(client_id.clone(), position));
        }
    }
}

/// What a session says about a message for which it has no room.
fn is_for_full_queue(output: &Output) -> bool {
    matches!(
        output,
        Output::Rejected
            | Output::DisconnectQueueFull
            | Output::Dropped {
                cause: DropCause::QueueFullNewest
            }
    )
}
