//! Messages to the client, and what it acknowledges.

use std::sync::Arc;

use codec::{
    Ack, Packet, PacketId, PublishHeader, Qos, ReasonCode, Timestamp, TopicFilter, TopicForm,
};
use codec::{encode_publish, encoded_publish_len};
use raft_store::{Acknowledgement, Command};
use session::{Body, Delivery, DropCause, Input, Output, Resend, StoredMessage, Subscription};

use crate::clock;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::session_place::SessionPlace;

/// Room for a session's outputs that is kept although it is empty.
const OUTPUTS_KEPT_MAX: usize = 32;

impl Connection {
    /// The session is open: sends what was in flight, with its original ids, in its original order.
    pub(crate) fn on_resumed(
        &mut self,
        resend: Vec<Resend>,
        subscriptions: &[(TopicFilter, Subscription)],
        awaiting_pubrel: Vec<PacketId>,
    ) {
        let connection = self.client.holder.connection;
        for (filter, subscription) in subscriptions {
            self.life
                .registry
                .subscribe(connection, filter, subscription);
        }
        if let SessionPlace::Hosted(hosted) = &mut self.place {
            hosted.is_resumed = true;
            hosted.resend = resend.into();
            hosted.awaiting_pubrel.extend(awaiting_pubrel);
            hosted.subscriptions = subscriptions.len();
        }
        // They were granted on another connection, perhaps under other rules.
        self.recheck_subscriptions(subscriptions.iter().map(|(filter, _)| filter));
        self.send_again();
    }

    /// A snapshot took the place of entries that this node did not see: sends what they would have
    /// sent. Nothing of it was sent before on this connection, so nothing is a repeat.
    pub(crate) fn on_resync(&mut self, in_flight: Vec<Resend>) {
        for missed in in_flight {
            let SessionPlace::Hosted(hosted) = &self.place else {
                return;
            };
            match missed {
                Resend::Publish {
                    position,
                    packet_id,
                    delivery,
                } => {
                    if position > hosted.sent_position && !hosted.waits_to_be_resent(position) {
                        self.on_send(position, packet_id, &delivery);
                    }
                }
                Resend::Pubrel {
                    pubrec_position,
                    packet_id,
                    ..
                } => {
                    if pubrec_position > hosted.pubrel_position {
                        let success = ReasonCode::Success;
                        self.on_send_pubrel(packet_id, success, Some(pubrec_position));
                    }
                }
            }
        }
    }

    /// Sends what is in flight as far as the client's Receive Maximum allows [MQTT-4.4.0-1].
    fn send_again(&mut self) {
        loop {
            let receive_maximum = usize::from(self.client.receive_maximum);
            let SessionPlace::Hosted(hosted) = &mut self.place else {
                return;
            };
            let full = hosted.resent.len() >= receive_maximum;
            // A PUBREL takes no quota [MQTT-4.9.0-3].
            let waits = |resend: &Resend| full && matches!(resend, Resend::Publish { .. });
            match hosted.resend.pop_front_if(|resend| !waits(resend)) {
                Some(Resend::Publish {
                    position,
                    packet_id,
                    delivery,
                }) => {
                    hosted.resent.insert(packet_id);
                    hosted.sent_position = hosted.sent_position.max(position);
                    count::redelivered();
                    self.send_hosted(packet_id, &delivery, Transmission::Repeated);
                }
                Some(Resend::Pubrel {
                    packet_id,
                    pubrec_position,
                    ..
                }) => {
                    self.on_send_pubrel(packet_id, ReasonCode::Success, Some(pubrec_position));
                }
                None => return,
            }
        }
    }

    /// A hosted session's new message.
    pub(crate) fn on_send(&mut self, position: u64, packet_id: PacketId, delivery: &Delivery) {
        if let SessionPlace::Hosted(hosted) = &mut self.place {
            hosted.sent_position = hosted.sent_position.max(position);
        }
        self.send_hosted(packet_id, delivery, Transmission::First);
    }

    /// A hosted session's PUBREL.
    pub(crate) fn on_send_pubrel(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        pubrec_position: Option<u64>,
    ) {
        if let (SessionPlace::Hosted(hosted), Some(position)) = (&mut self.place, pubrec_position) {
            hosted.pubrel_position = hosted.pubrel_position.max(position);
        }
        self.send_pubrel(packet_id, reason_code);
    }

    /// A message of the session's shard, which measures its lifetime by shard time.
    fn send_hosted(
        &mut self,
        packet_id: PacketId,
        delivery: &Delivery,
        transmission: Transmission,
    ) {
        let Some(stored) = self.content(&delivery.body) else {
            // The session is over: a `Close` is on its way.
            tracing::debug!(
                packet_id = packet_id.get(),
                "the body of a delivery is gone"
            );
            return;
        };
        self.note_version(&stored);
        let now = match stored.expires_at {
            Some(_) => self.shard_time(),
            None => Timestamp::ZERO,
        };
        let waited_s = stored.waited_s(now);
        self.send_publish(Some(packet_id), delivery, (&stored, waited_s), transmission);
    }

    fn shard_time(&self) -> Timestamp {
        let shard = self.broker.shards.shard(self.client.shard);
        shard.map_or(Timestamp::ZERO, |shard| shard.leader_time())
    }

    /// The message of a hosted session's delivery: in memory, or from this node's disk.
    fn content(&self, body: &Body) -> Option<Arc<StoredMessage>> {
        let reference = match body {
            Body::Here(stored) => return Some(Arc::clone(stored)),
            Body::Stored(reference) => reference,
        };
        let shard = self.broker.shards.shard(self.client.shard)?;
        tokio::task::block_in_place(|| shard.message(reference.id))
    }

    /// A message on the live plane.
    pub(crate) fn on_live(&mut self, delivery: Delivery) -> Result<(), End> {
        let Body::Here(stored) = &delivery.body else {
            return Ok(());
        };
        let stored = Arc::clone(stored);
        self.note_version(&stored);
        match &mut self.place {
            SessionPlace::Transient(session) if delivery.qos != Qos::AtMostOnce => {
                let mut outputs = std::mem::take(&mut self.outputs);
                session.apply(self.now, Input::Deliver(delivery), &mut outputs);
                self.carry_out(outputs)
            }
            // A copy at QoS 0 leaves no trace in a session.
            SessionPlace::Hosted(_) | SessionPlace::Transient(_) => {
                self.send_at_most_once(&delivery);
                Ok(())
            }
        }
    }

    /// A copy at QoS 0 for a connection.
    pub(crate) fn send_at_most_once(&mut self, delivery: &Delivery) {
        let is_expired = || delivery.body.is_expired(clock::timestamp());
        if delivery.body.expires_at().is_some() && is_expired() {
            count::dropped_by_session(DropCause::Expired);
            return;
        }
        self.send_live_copy(None, delivery);
    }

    /// A message whose lifetime is measured by this node's clock.
    fn send_live_copy(&mut self, packet_id: Option<PacketId>, delivery: &Delivery) {
        if let Body::Here(stored) = &delivery.body {
            let waited_s = match stored.expires_at {
                Some(_) => stored.waited_s(clock::timestamp()),
                None => 0,
            };
            let stored = Arc::clone(stored);
            self.send_publish(
                packet_id,
                delivery,
                (&stored, waited_s),
                Transmission::First,
            );
        }
    }

    /// What a transient session says is to be done.
    pub(crate) fn carry_out(&mut self, mut outputs: Vec<Output>) -> Result<(), End> {
        for output in outputs.drain(..) {
            match output {
                Output::Send {
                    packet_id,
                    delivery,
                    ..
                } => {
                    self.send_live_copy(packet_id, &delivery);
                }
                Output::Released { body } => self.shared_done(body),
                Output::Reassign { delivery, .. } => self.shared_returned(&delivery),
                Output::SendPubrel {
                    packet_id,
                    reason_code,
                    ..
                } => {
                    self.send_pubrel(packet_id, reason_code);
                }
                // A transient session that cannot hold what was acknowledged to a publisher ends
                // rather than lose it in silence.
                Output::Rejected | Output::DisconnectQueueFull => {
                    count::dropped("queue_full");
                    return Err(End::closed(ReasonCode::QuotaExceeded, "overload"));
                }
                Output::Dropped { cause } => count::dropped_by_session(cause),
                Output::Queued { .. }
                | Output::Completed { .. }
                | Output::Received { .. }
                | Output::ReceiveMaximumExceeded
                | Output::PubrelAnswered { .. }
                | Output::Subscribed { .. }
                | Output::Unsubscribed { .. }
                | Output::Ended => {}
            }
        }
        if outputs.capacity() <= OUTPUTS_KEPT_MAX {
            self.outputs = outputs;
        }
        Ok(())
    }

    fn send_publish(
        &mut self,
        packet_id: Option<PacketId>,
        delivery: &Delivery,
        (stored, waited_s): (&StoredMessage, u32),
        transmission: Transmission,
    ) {
        if !self.may_receive(&stored.message.topic) {
            count::dropped("acl");
            // On an earlier connection the client may have got it at QoS 2, and waits for PUBREL: the
            // id is taken to it. PUBREL is what follows; who never got it answers 0x92.
            let may_have_it = transmission == Transmission::Repeated;
            let refusal = if may_have_it {
                ReasonCode::Success
            } else {
                ReasonCode::NotAuthorized
            };
            self.complete_unsent(packet_id, (delivery.qos, refusal));
            return;
        }
        let topic_form = self.outbound_aliases.form(&stored.message.topic);
        let mut header = PublishHeader {
            dup: transmission == Transmission::Repeated,
            qos: if packet_id.is_some() {
                delivery.qos
            } else {
                Qos::AtMostOnce
            },
            retain: delivery.retain,
            packet_id,
            topic_form,
            waited_s,
            subscription_identifiers: &delivery.identifiers,
        };
        let message = &stored.message;
        let version = self.client.version;
        let max = self.client.packet_bytes_max;
        let is_too_large = |header: &PublishHeader<'_>| {
            encoded_publish_len(header, message, version).unwrap_or(usize::MAX) > max
        };
        // Without a limit of the client there is nothing to measure.
        if max < usize::MAX && is_too_large(&header) {
            // To define an alias takes three bytes.
            header.topic_form = TopicForm::Name;
            if is_too_large(&header) {
                // Larger than the client accepts: discarded [MQTT-3.1.2-25].
                count::dropped("too_large");
                self.complete_unsent(packet_id, (delivery.qos, ReasonCode::PacketTooLarge));
                return;
            }
        }
        let (qos, topic_form) = (header.qos, header.topic_form);
        if let Err(error) = encode_publish(&header, message, version, &mut self.wire.output) {
            tracing::error!(client_id = self.client.client_id.as_str(), %error, "not encoded");
            return;
        }
        self.outbound_aliases.sent(&message.topic, topic_form);
        self.tally.sent(qos);
        if let Some(since) = self.sends_since {
            self.tally.timed(qos, since);
        }
    }

    /// Not sent: as if the client had acknowledged it, or refused it with this code.
    fn complete_unsent(&mut self, packet_id: Option<PacketId>, (qos, refusal): (Qos, ReasonCode)) {
        let Some(packet_id) = packet_id else { return };
        // Not acknowledged here and now: the next message may not be sent either.
        self.discarded.push_back(match qos {
            Qos::AtMostOnce | Qos::AtLeastOnce => Acknowledgement::Puback(packet_id),
            Qos::ExactlyOnce => Acknowledgement::Pubrec(packet_id, refusal),
        });
    }

    /// Completes what was discarded.
    pub(crate) fn complete_discarded(&mut self) -> Result<(), End> {
        while let Some(acknowledgement) = self.discarded.pop_front() {
            self.acknowledge(acknowledgement)?;
        }
        Ok(())
    }

    /// PUBREL to the client: its PUBREC is recorded [MQTT-4.3.3-1].
    pub(crate) fn send_pubrel(&mut self, packet_id: PacketId, reason_code: ReasonCode) {
        let ack = Ack::new(packet_id, self.for_version(reason_code));
        self.wire.send(&Packet::Pubrel(ack), self.client.version);
    }

    pub(crate) fn on_puback(&mut self, ack: &Ack) -> Result<(), End> {
        self.tally.delivered(Qos::AtLeastOnce);
        self.acknowledge(Acknowledgement::Puback(ack.packet_id))
    }

    pub(crate) fn on_pubrec(&mut self, ack: &Ack) -> Result<(), End> {
        self.acknowledge(Acknowledgement::Pubrec(ack.packet_id, ack.reason_code))
    }

    pub(crate) fn on_pubcomp(&mut self, ack: &Ack) -> Result<(), End> {
        self.tally.delivered(Qos::ExactlyOnce);
        self.acknowledge(Acknowledgement::Pubcomp(ack.packet_id))
    }

    /// To the shard with what else waits, or to the session here.
    fn acknowledge(&mut self, acknowledgement: Acknowledgement) -> Result<(), End> {
        match &mut self.place {
            SessionPlace::Hosted(hosted) => {
                hosted.acknowledgements.push(acknowledgement);
                let completed = completed_id(acknowledgement);
                if completed.is_some_and(|packet_id| hosted.resent.remove(&packet_id)) {
                    self.send_again();
                }
                Ok(())
            }
            SessionPlace::Transient(session) => {
                let mut outputs = std::mem::take(&mut self.outputs);
                session.apply(self.now, input(acknowledgement), &mut outputs);
                self.carry_out(outputs)
            }
        }
    }

    /// Everything acknowledged since the last time goes to the shard as one command.
    pub(crate) fn propose_acknowledgements(&mut self) {
        let SessionPlace::Hosted(hosted) = &mut self.place else {
            return;
        };
        if hosted.acknowledgements.is_empty() {
            return;
        }
        let command = Command::Acknowledge {
            client_id: self.client.client_id.clone(),
            epoch: self.client.epoch,
            acknowledgements: std::mem::take(&mut hosted.acknowledgements),
        };
        let tag = self.tag();
        self.command(self.client.shard, tag, &command);
    }
}

/// Whether the client may have seen the message before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transmission {
    First,
    Repeated,
}

/// The id whose quota is given back: not by a PUBREC that goes on to PUBREL [MQTT-4.9.0-2].
fn completed_id(acknowledgement: Acknowledgement) -> Option<PacketId> {
    match acknowledgement {
        Acknowledgement::Puback(id) | Acknowledgement::Pubcomp(id) => Some(id),
        Acknowledgement::Pubrec(id, reason_code) => reason_code.is_error().then_some(id),
    }
}

fn input(acknowledgement: Acknowledgement) -> Input {
    match acknowledgement {
        Acknowledgement::Puback(packet_id) => Input::Puback { packet_id },
        Acknowledgement::Pubrec(packet_id, reason_code) => Input::Pubrec {
            packet_id,
            reason_code,
        },
        Acknowledgement::Pubcomp(packet_id) => Input::Pubcomp { packet_id },
    }
}
