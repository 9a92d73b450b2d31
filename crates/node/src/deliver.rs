//! Messages to the client, and what it acknowledges.

use codec::{Ack, Packet, PacketId, PublishHeader, Qos, ReasonCode, TopicFilter, TopicForm};
use codec::{encode_publish, encoded_publish_len};
use raft_store::{Acknowledgement, Command};
use session::{Delivery, Input, Output, Resend, Subscription};

use crate::clock;
use crate::connection::Connection;
use crate::count;
use crate::end::End;
use crate::session_place::SessionPlace;

impl Connection {
    /// The session is open: sends what was in flight, with its original ids, in its original order.
    pub(crate) fn on_resumed(
        &mut self,
        resend: Vec<Resend>,
        subscriptions: &[(TopicFilter, Subscription)],
    ) {
        let connection = self.client.holder.connection;
        for (filter, subscription) in subscriptions {
            self.life
                .registry
                .subscribe(connection, filter, subscription);
        }
        if let SessionPlace::Hosted(hosted) = &mut self.place {
            hosted.resend = resend.into();
        }
        self.send_again();
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
                    packet_id,
                    delivery,
                    ..
                }) => {
                    hosted.resent.insert(packet_id);
                    count::redelivered();
                    self.send_publish(Some(packet_id), &delivery, Transmission::Repeated);
                }
                Some(Resend::Pubrel { packet_id, .. }) => {
                    self.send_pubrel(packet_id, ReasonCode::Success);
                }
                None => return,
            }
        }
    }

    /// A hosted session's new message.
    pub(crate) fn on_send(&mut self, packet_id: PacketId, delivery: &Delivery) {
        self.send_publish(Some(packet_id), delivery, Transmission::First);
    }

    /// A message on the live plane.
    pub(crate) fn on_live(&mut self, delivery: Delivery) -> Result<(), End> {
        match &mut self.place {
            SessionPlace::Hosted(_) => {
                self.send_publish(None, &delivery, Transmission::First);
                Ok(())
            }
            SessionPlace::Transient(session) => {
                let mut outputs = Vec::new();
                session.apply(clock::timestamp(), Input::Deliver(delivery), &mut outputs);
                self.carry_out(outputs)
            }
        }
    }

    /// What a transient session says is to be done.
    fn carry_out(&mut self, outputs: Vec<Output>) -> Result<(), End> {
        for output in outputs {
            match output {
                Output::Send {
                    packet_id,
                    delivery,
                    ..
                } => {
                    self.send_publish(packet_id, &delivery, Transmission::First);
                }
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
                | Output::Released { .. }
                | Output::Received { .. }
                | Output::ReceiveMaximumExceeded
                | Output::PubrelAnswered { .. }
                | Output::Subscribed { .. }
                | Output::Unsubscribed { .. }
                | Output::Ended => {}
            }
        }
        Ok(())
    }

    fn send_publish(
        &mut self,
        packet_id: Option<PacketId>,
        delivery: &Delivery,
        transmission: Transmission,
    ) {
        let header = PublishHeader {
            dup: transmission == Transmission::Repeated,
            qos: if packet_id.is_some() {
                delivery.qos
            } else {
                Qos::AtMostOnce
            },
            retain: delivery.retain,
            packet_id,
            topic_form: TopicForm::Name,
            waited_s: 0,
            subscription_identifiers: &delivery.identifiers,
        };
        let message = &delivery.body.message;
        let version = self.client.version;
        let bytes = encoded_publish_len(&header, message, version).unwrap_or(usize::MAX);
        if bytes > self.client.packet_bytes_max {
            self.complete_too_large(packet_id, delivery.qos);
            return;
        }
        if let Err(error) = encode_publish(&header, message, version, &mut self.wire.output) {
            tracing::error!(client_id = self.client.client_id.as_str(), %error, "not encoded");
            return;
        }
        count::publish_sent(header.qos);
    }

    /// Larger than the client accepts: discarded as if it had been delivered [MQTT-3.1.2-25].
    fn complete_too_large(&mut self, packet_id: Option<PacketId>, qos: Qos) {
        count::dropped("too_large");
        let Some(packet_id) = packet_id else { return };
        // Not acknowledged here and now: the next message may be too large as well.
        self.discarded.push_back(match qos {
            Qos::AtMostOnce | Qos::AtLeastOnce => Acknowledgement::Puback(packet_id),
            Qos::ExactlyOnce => Acknowledgement::Pubrec(packet_id, ReasonCode::PacketTooLarge),
        });
    }

    /// Completes what was discarded for its size.
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
        self.acknowledge(Acknowledgement::Puback(ack.packet_id))
    }

    pub(crate) fn on_pubrec(&mut self, ack: &Ack) -> Result<(), End> {
        self.acknowledge(Acknowledgement::Pubrec(ack.packet_id, ack.reason_code))
    }

    pub(crate) fn on_pubcomp(&mut self, ack: &Ack) -> Result<(), End> {
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
                let mut outputs = Vec::new();
                session.apply(clock::timestamp(), input(acknowledgement), &mut outputs);
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
