//! A session as plain values, for storage, snapshots and digests.
//!
//! `Session::parts` and `Session::from_parts` are inverse: the session that comes back is equal, but
//! that it names bodies which the first one may have held, and so behaves equally. Nothing here knows an encoding; keys are ordered so that replicas agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::{PacketId, Qos, SubscriptionIdentifier, Timestamp, TopicFilter};

use crate::delivery::{Body, BodyRef, Delivery};
use crate::event::Subscription;
use crate::expiry::{ConnectionState, NEVER_S};
use crate::inbound::Inbound;
use crate::limits::SessionLimits;
use crate::outbound::Outbound;

/// Counters stay below this, so that adding one never wraps.
const COUNTER_MAX: u64 = 1 << 63;

/// Everything that a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionParts {
    /// The small part of fixed size.
    pub meta: SessionMeta,
    /// Filter → subscription.
    pub subscriptions: BTreeMap<TopicFilter, Subscription>,
    /// Position → delivery, in flight or queued.
    pub deliveries: BTreeMap<u64, DeliveryParts>,
    /// Ids of QoS 2 messages from the client that wait for PUBREL.
    pub awaiting_pubrel: BTreeSet<PacketId>,
}

/// The part of a session that has a fixed size; changes with almost every input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionMeta {
    /// Whether a connection serves it, and when it ends otherwise.
    pub connection: ConnectionState,
    /// Seconds the session outlives its connection; `u32::MAX`: for ever.
    pub session_expiry_interval_s: u32,
    /// The client's Receive Maximum at the last `Connect`.
    pub client_receive_maximum: u16,
    /// The bounds given at the last `Connect`.
    pub limits: SessionLimits,
    /// Ids that may wait for PUBREL on this connection: those it found, plus our Receive Maximum.
    pub awaiting_pubrel_max: u16,
    /// Position of the next QoS 1 or 2 delivery; from 1.
    pub next_position: u64,
    /// Position of the next recorded PUBREC; from 1.
    pub next_pubrec_position: u64,
    /// The packet id given last.
    pub last_packet_id: Option<PacketId>,
}

/// One delivery: its record, and what is known of the body that the record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryParts {
    /// As stored.
    pub record: DeliveryRecord,
    /// The body; `None` exactly in `AwaitPubcomp`.
    pub body: Option<BodyRef>,
}

/// One delivery as its owner stores it under its position.
///
/// In `AwaitPubcomp` only the phase says something: `body` is 0, `qos` 2, `retain` false, and there
/// are neither identifiers nor a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// `StoredMessage::id`.
    pub body: u64,
    /// The effective QoS, 1 or 2.
    pub qos: Qos,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Identifiers of all matching subscriptions.
    pub identifiers: Vec<SubscriptionIdentifier>,
    /// The shared subscription that it was assigned by.
    pub share: Option<Arc<TopicFilter>>,
    /// How far it is.
    pub phase: DeliveryPhase,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryPhase {
    /// Waits in the queue, without packet id.
    Queued,
    /// QoS 1, sent.
    AwaitPuback {
        /// Its packet id.
        packet_id: PacketId,
    },
    /// QoS 2, sent.
    AwaitPubrec {
        /// Its packet id.
        packet_id: PacketId,
    },
    /// QoS 2, PUBREC recorded: only the id is left.
    AwaitPubcomp {
        /// Its packet id.
        packet_id: PacketId,
        /// Its place in the order of PUBRECs [MQTT-4.6.0-4].
        pubrec_position: u64,
    },
}

impl DeliveryRecord {
    /// `delivery`: `None` exactly in `AwaitPubcomp`.
    pub(crate) fn new(delivery: Option<&Delivery>, phase: DeliveryPhase) -> Self {
        let identifiers = delivery.map(|delivery| delivery.identifiers.clone());
        Self {
            body: delivery.map_or(0, |delivery| delivery.body.id()),
            qos: delivery.map_or(Qos::ExactlyOnce, |delivery| delivery.qos),
            retain: delivery.is_some_and(|delivery| delivery.retain),
            identifiers: identifiers.unwrap_or_default(),
            share: delivery.and_then(|delivery| delivery.share.clone()),
            phase,
        }
    }
}

impl DeliveryParts {
    /// The copy to send; `None` if the body is not the one that the record names.
    fn into_delivery(self) -> Option<Delivery> {
        let DeliveryRecord {
            body: id,
            qos,
            retain,
            identifiers,
            share,
            ..
        } = self.record;
        let body = self.body.filter(|body| body.id == id)?;
        Some(Delivery {
            body: Body::Stored(body),
            qos,
            retain,
            identifiers,
            share,
        })
    }
}

/// Why stored parts are no session. Each means that the store is damaged: the replica must not serve
/// from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// `next_position` or `next_pubrec_position` is out of range.
    #[error("a position counter is outside 1..2^63")]
    CounterOutOfRange,
    /// A closed session has a deadline that its expiry interval does not allow.
    #[error("the session ends at {ends_at:?} but its expiry interval sets no end")]
    EndWithoutExpiry {
        /// The deadline.
        ends_at: Timestamp,
    },
    /// A position that was never given.
    #[error("delivery {position} is outside the positions given")]
    PositionOutOfRange {
        /// The position.
        position: u64,
    },
    /// A queued delivery is missing, or one in flight lies behind a queued one.
    #[error("the queue has a gap at or before position {position}")]
    QueueGap {
        /// The first position that shows it.
        position: u64,
    },
    /// The body is missing or another one, or one is left after PUBREC.
    #[error("delivery {position} has not the body that its record names")]
    BodyContradictsRecord {
        /// The position.
        position: u64,
    },
    /// The QoS does not fit the phase.
    #[error("the QoS of delivery {position} contradicts its phase")]
    QosContradictsPhase {
        /// The position.
        position: u64,
    },
    /// A place in the order of PUBRECs that was never given, or given twice.
    #[error("delivery {position} has a PUBREC position that was not given to it")]
    PubrecPositionInvalid {
        /// The position.
        position: u64,
    },
    /// Two deliveries in flight under one id.
    #[error("delivery {position} is in flight under the packet id of another")]
    PacketIdTwice {
        /// The second position.
        position: u64,
    },
    /// Connected, messages wait, and yet there is room.
    #[error("messages wait although the window has room")]
    WindowHasRoom,
    /// More inbound ids than the session accepts.
    #[error("more packet ids wait for PUBREL than the session accepts")]
    TooManyAwaitingPubrel,
}

impl SessionMeta {
    /// Messages that may be in flight; `None` without a connection.
    pub(crate) fn window(&self) -> Option<u16> {
        let window = self.limits.window(self.client_receive_maximum);
        self.connection.is_connected().then_some(window)
    }

    fn check(&self) -> Result<(), PartsError> {
        let legal = 1..COUNTER_MAX;
        if !legal.contains(&self.next_position) || !legal.contains(&self.next_pubrec_position) {
            return Err(PartsError::CounterOutOfRange);
        }
        match self.connection.deadline() {
            Some(ends_at) if matches!(self.session_expiry_interval_s, 0 | NEVER_S) => {
                Err(PartsError::EndWithoutExpiry { ends_at })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Builds both directions from parts, with all invariants checked.
pub(crate) fn restore(
    meta: &SessionMeta,
    deliveries: BTreeMap<u64, DeliveryParts>,
    awaiting_pubrel: BTreeSet<PacketId>,
) -> Result<(Outbound, Inbound), PartsError> {
    meta.check()?;
    check_order(meta, &deliveries)?;
    check_pubrec_positions(meta, &deliveries)?;
    let mut outbound = Outbound::starting_at(
        meta.next_position,
        meta.next_pubrec_position,
        meta.last_packet_id,
    );
    for (position, delivery) in deliveries {
        restore_delivery(&mut outbound, position, delivery)?;
    }
    let has_room = meta
        .window()
        .is_some_and(|window| outbound.in_flight_len() < usize::from(window));
    if has_room && !outbound.queue().is_empty() {
        return Err(PartsError::WindowHasRoom);
    }
    let inbound = Inbound::restore(awaiting_pubrel, meta.awaiting_pubrel_max)
        .ok_or(PartsError::TooManyAwaitingPubrel)?;
    Ok((outbound, inbound))
}

fn restore_delivery(
    outbound: &mut Outbound,
    position: u64,
    parts: DeliveryParts,
) -> Result<(), PartsError> {
    let phase = parts.record.phase;
    if !qos_fits(parts.record.qos, phase) {
        return Err(PartsError::QosContradictsPhase { position });
    }
    let no_body = PartsError::BodyContradictsRecord { position };
    let id_is_free = match phase {
        DeliveryPhase::Queued => {
            outbound.restore_queued(parts.into_delivery().ok_or(no_body)?);
            true
        }
        DeliveryPhase::AwaitPuback { packet_id } | DeliveryPhase::AwaitPubrec { packet_id } => {
            let delivery = parts.into_delivery().ok_or(no_body)?;
            outbound.restore_sent(position, packet_id, delivery)
        }
        DeliveryPhase::AwaitPubcomp {
            packet_id,
            pubrec_position,
        } => {
            let remainder = DeliveryRecord::new(None, phase);
            if parts.record != remainder || parts.body.is_some() {
                return Err(no_body);
            }
            outbound.restore_received(position, packet_id, pubrec_position)
        }
    };
    let twice = PartsError::PacketIdTwice { position };
    id_is_free.then_some(()).ok_or(twice)
}

/// What is queued follows what is in flight, without a gap, up to the last position given.
fn check_order(
    meta: &SessionMeta,
    deliveries: &BTreeMap<u64, DeliveryParts>,
) -> Result<(), PartsError> {
    let mut next_queued = None;
    for (&position, parts) in deliveries {
        if !(1..meta.next_position).contains(&position) {
            return Err(PartsError::PositionOutOfRange { position });
        }
        let is_queued = parts.record.phase == DeliveryPhase::Queued;
        if next_queued.is_some_and(|next| next != position || !is_queued) {
            return Err(PartsError::QueueGap { position });
        }
        next_queued = is_queued.then_some(position.saturating_add(1));
    }
    match next_queued {
        Some(position) if position != meta.next_position => Err(PartsError::QueueGap { position }),
        Some(_) | None => Ok(()),
    }
}

fn check_pubrec_positions(
    meta: &SessionMeta,
    deliveries: &BTreeMap<u64, DeliveryParts>,
) -> Result<(), PartsError> {
    let mut given = BTreeSet::new();
    for (&position, parts) in deliveries {
        let DeliveryPhase::AwaitPubcomp {
            pubrec_position, ..
        } = parts.record.phase
        else {
            continue;
        };
        let in_range = (1..meta.next_pubrec_position).contains(&pubrec_position);
        if !in_range || !given.insert(pubrec_position) {
            return Err(PartsError::PubrecPositionInvalid { position });
        }
    }
    Ok(())
}

fn qos_fits(qos: Qos, phase: DeliveryPhase) -> bool {
    match phase {
        DeliveryPhase::Queued => qos != Qos::AtMostOnce,
        DeliveryPhase::AwaitPuback { .. } => qos == Qos::AtLeastOnce,
        DeliveryPhase::AwaitPubrec { .. } | DeliveryPhase::AwaitPubcomp { .. } => {
            qos == Qos::ExactlyOnce
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::{Message, MessageProperties, ReasonCode, TopicName};

    use super::*;
    use crate::delivery::StoredMessage;
    use crate::event::Input;
    use crate::session::Session;

    /// Positions: 1 awaits PUBACK, 2 PUBREC, 3 and 4 PUBCOMP; 5 and 6 wait behind a window of 4.
    fn parts() -> SessionParts {
        let mut session = Session::new();
        let mut out = Vec::new();
        let mut apply = |input| session.apply(Timestamp::ZERO, input, &mut out);
        apply(Input::Connect {
            receive_maximum: 4,
            session_expiry_interval_s: 60,
            limits: SessionLimits::default(),
        });
        for id in 1..=6 {
            let qos = if id == 1 {
                Qos::AtLeastOnce
            } else {
                Qos::ExactlyOnce
            };
            apply(Input::Deliver(delivery(id, qos)));
        }
        for id in [4, 3] {
            let packet_id = PacketId::new(id).unwrap();
            let reason_code = ReasonCode::Success;
            apply(Input::Pubrec {
                packet_id,
                reason_code,
            });
        }
        let packet_id = PacketId::MIN;
        apply(Input::ReceiveExactlyOnce { packet_id });
        session.parts()
    }

    fn delivery(id: u64, qos: Qos) -> Delivery {
        let message = Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: bytes::Bytes::new(),
            qos,
            retain: false,
            properties: MessageProperties::default(),
        };
        let stored = StoredMessage {
            id,
            message,
            expires_at: Some(Timestamp::MAX),
            retained_version: None,
        };
        let identifiers = vec![SubscriptionIdentifier::new(7).unwrap()];
        let share = TopicFilter::try_from("$share/g/t").unwrap();
        Delivery {
            body: Body::from(Arc::new(stored)),
            qos,
            retain: true,
            identifiers,
            share: Some(Arc::new(share)),
        }
    }

    #[test]
    fn parts_say_what_is_stored_under_each_position() {
        let parts = parts();
        let id = |value| PacketId::new(value).unwrap();
        let phases: Vec<DeliveryPhase> = parts
            .deliveries
            .values()
            .map(|delivery| delivery.record.phase)
            .collect();
        assert_eq!(
            phases,
            [
                DeliveryPhase::AwaitPuback { packet_id: id(1) },
                DeliveryPhase::AwaitPubrec { packet_id: id(2) },
                DeliveryPhase::AwaitPubcomp {
                    packet_id: id(3),
                    pubrec_position: 2
                },
                DeliveryPhase::AwaitPubcomp {
                    packet_id: id(4),
                    pubrec_position: 1
                },
                DeliveryPhase::Queued,
                DeliveryPhase::Queued,
            ]
        );
        let first = &parts.deliveries[&1].record;
        assert_eq!(
            (first.body, first.qos, first.retain),
            (1, Qos::AtLeastOnce, true)
        );
        assert_eq!(first.identifiers.len(), 1);
        assert!(first.share.is_some());
        let body = delivery(1, Qos::AtLeastOnce).body.reference();
        assert_eq!(parts.deliveries[&1].body, Some(body));
        let received = &parts.deliveries[&3];
        assert_eq!((received.record.body, &received.body), (0, &None));
        assert!(received.record.identifiers.is_empty());
        assert_eq!(received.record.share, None);
        let session = Session::from_parts(parts.clone()).unwrap();
        assert_eq!(session.parts(), parts);
        for (position, delivery) in parts.deliveries {
            assert_eq!(session.delivery_record(position), Some(delivery.record));
        }
        assert_eq!(session.delivery_record(0), None);
        assert_eq!(session.delivery_record(7), None);
    }

    #[test]
    fn a_damaged_meta_is_refused() {
        let counter = PartsError::CounterOutOfRange;
        assert_eq!(error_after(|p| p.meta.next_position = 0), counter);
        assert_eq!(error_after(|p| p.meta.next_position = COUNTER_MAX), counter);
        assert_eq!(error_after(|p| p.meta.next_pubrec_position = 0), counter);
        let ends_at = Timestamp::ZERO;
        for interval in [0, NEVER_S] {
            let error = error_after(|p| {
                let ends_at = Some(ends_at);
                p.meta.connection = ConnectionState::Disconnected { ends_at };
                p.meta.session_expiry_interval_s = interval;
            });
            assert_eq!(error, PartsError::EndWithoutExpiry { ends_at });
        }
        let error = error_after(|p| p.meta.client_receive_maximum = 5);
        assert_eq!(error, PartsError::WindowHasRoom);
        let error = error_after(|p| p.meta.awaiting_pubrel_max = 0);
        assert_eq!(error, PartsError::TooManyAwaitingPubrel);
    }

    #[test]
    fn deliveries_out_of_place_are_refused() {
        let error = error_after(|p| p.meta.next_position = 6);
        assert_eq!(error, PartsError::PositionOutOfRange { position: 6 });
        let error = error_after(|p| p.meta.next_position = 8);
        assert_eq!(error, PartsError::QueueGap { position: 7 });
        for (from, to) in [(5, 4), (1, 6)] {
            let error = error_after(|p| {
                let delivery = p.deliveries.remove(&from).unwrap();
                p.deliveries.insert(to, delivery);
            });
            assert_eq!(error, PartsError::QueueGap { position: 6 });
        }
        let error = error_after(|p| {
            let packet_id = PacketId::MIN;
            record_of(p, 2).phase = DeliveryPhase::AwaitPubrec { packet_id };
        });
        assert_eq!(error, PartsError::PacketIdTwice { position: 2 });
    }

    #[test]
    fn records_that_contradict_themselves_are_refused() {
        for (position, qos) in [
            (1, Qos::ExactlyOnce),
            (2, Qos::AtLeastOnce),
            (3, Qos::AtLeastOnce),
            (5, Qos::AtMostOnce),
        ] {
            let error = error_after(|p| record_of(p, position).qos = qos);
            assert_eq!(error, PartsError::QosContradictsPhase { position });
        }
        for position in [1, 2, 3, 5] {
            let error = error_after(|p| record_of(p, position).body = 9);
            assert_eq!(error, PartsError::BodyContradictsRecord { position });
        }
        for position in [1, 2, 3, 5] {
            let error = error_after(|p| {
                let body = &mut p.deliveries.get_mut(&position).unwrap().body;
                *body = body
                    .is_none()
                    .then(|| delivery(0, Qos::ExactlyOnce).body.reference());
            });
            assert_eq!(error, PartsError::BodyContradictsRecord { position });
        }
    }

    #[test]
    fn a_pubrec_position_is_given_once_and_below_the_next() {
        for pubrec_position in [0, 1, 3] {
            let mut parts = parts();
            let packet_id = PacketId::new(3).unwrap();
            record_of(&mut parts, 3).phase = DeliveryPhase::AwaitPubcomp {
                packet_id,
                pubrec_position,
            };
            // 1 belongs to position 4, which is met second.
            let position = if pubrec_position == 1 { 4 } else { 3 };
            let error = PartsError::PubrecPositionInvalid { position };
            assert_eq!(Session::from_parts(parts), Err(error));
        }
    }

    fn record_of(parts: &mut SessionParts, position: u64) -> &mut DeliveryRecord {
        &mut parts.deliveries.get_mut(&position).unwrap().record
    }

    fn error_after(damage: impl FnOnce(&mut SessionParts)) -> PartsError {
        let mut parts = parts();
        damage(&mut parts);
        Session::from_parts(parts).unwrap_err()
    }
}
