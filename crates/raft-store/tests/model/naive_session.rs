//! One client's session, naively: one list of deliveries that is searched from the front each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::{ClientId, PacketId, Qos, ReasonCode, Timestamp, TopicFilter};
use raft_store::{Acknowledgement, Connect, StateKey, StateRecord};
use session::{
    Body, ConnectionState, Delivery, DeliveryPhase, DeliveryRecord, DropCause, QueueOverflow,
    Resend, SessionLimits, SessionMeta, StoredMessage, Subscription,
};

use super::records::Substance;

/// What a session says to its connection, or loses.
pub(crate) enum Said {
    Publish(u64, PacketId, Delivery),
    /// With its place in the order of PUBRECs, unless the id is unknown.
    Pubrel(Option<u64>, PacketId, ReasonCode),
    Dropped(DropCause),
    /// The queue is full, and the connection is to be closed.
    QueueFull,
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    Taken,
    Expired,
    /// The queue is full: it is lost, and that was said.
    Lost,
    /// The queue is full: nothing was said, its publisher learns it.
    Rejected,
}

/// One message on its way to the client.
#[derive(Clone, Debug)]
struct Pending {
    position: u64,
    /// `None` after PUBREC.
    delivery: Option<Delivery>,
    phase: DeliveryPhase,
}

impl Pending {
    fn packet_id(&self) -> Option<PacketId> {
        match self.phase {
            DeliveryPhase::Queued => None,
            DeliveryPhase::AwaitPuback { packet_id }
            | DeliveryPhase::AwaitPubrec { packet_id }
            | DeliveryPhase::AwaitPubcomp { packet_id, .. } => Some(packet_id),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NaiveSession {
    pub(crate) connected: bool,
    pub(crate) ends_at: Option<Timestamp>,
    pub(crate) expiry_interval_s: u32,
    pub(crate) subscriptions: BTreeMap<TopicFilter, Subscription>,
    receive_maximum: u16,
    limits: SessionLimits,
    pending: Vec<Pending>,
    next_position: u64,
    next_pubrec_position: u64,
    last_packet_id: Option<PacketId>,
    unreleased: BTreeSet<PacketId>,
    unreleased_max: u16,
}

impl NaiveSession {
    pub(crate) fn new() -> Self {
        Self {
            connected: false,
            ends_at: None,
            expiry_interval_s: 0,
            subscriptions: BTreeMap::new(),
            receive_maximum: 0,
            limits: SessionLimits::default(),
            pending: Vec::new(),
            next_position: 1,
            next_pubrec_position: 1,
            last_packet_id: None,
            unreleased: BTreeSet::new(),
            unreleased_max: 0,
        }
    }

    /// What to send again, and what is sent for the first time behind it.
    pub(crate) fn connect(
        &mut self,
        now: Timestamp,
        connect: &Connect,
    ) -> (Vec<Resend>, Vec<Said>) {
        let resend = self.resend();
        self.connected = true;
        self.ends_at = None;
        self.expiry_interval_s = connect.session_expiry_interval_s;
        self.receive_maximum = connect.receive_maximum;
        self.limits = connect.limits;
        self.unreleased_max = self.unreleased.len() as u16 + connect.limits.receive_maximum;
        let mut said = Vec::new();
        self.send_queued(now, &mut said);
        (resend, said)
    }

    pub(crate) fn disconnect(&mut self, now: Timestamp, expiry_interval_s: u32) {
        self.connected = false;
        self.expiry_interval_s = expiry_interval_s;
        let lifetime = Duration::from_secs(expiry_interval_s.into());
        self.ends_at = (expiry_interval_s != u32::MAX).then(|| now.plus(lifetime));
    }

    /// The session ends: what goes to another member of its share, and how many messages are lost.
    /// QoS 2 goes to nobody else once it was sent [MQTT-4.8.2-5].
    pub(crate) fn end(&self) -> (Vec<Delivery>, usize) {
        let mut reassigned = Vec::new();
        let mut lost = 0;
        for pending in &self.pending {
            let Some(delivery) = &pending.delivery else {
                continue;
            };
            let was_begun = matches!(pending.phase, DeliveryPhase::AwaitPubrec { .. });
            if delivery.share.is_some() && !was_begun {
                reassigned.push(delivery.clone());
            } else {
                lost += 1;
            }
        }
        (reassigned, lost)
    }

    pub(crate) fn unreleased(&self) -> Vec<PacketId> {
        self.unreleased.iter().copied().collect()
    }

    /// What is in flight: PUBRELs in the order of PUBRECs, then PUBLISHes in the order they were sent.
    pub(crate) fn resend(&self) -> Vec<Resend> {
        let mut pubrels = Vec::new();
        let mut publishes = Vec::new();
        for pending in &self.pending {
            let position = pending.position;
            match (pending.phase, pending.delivery.clone()) {
                (
                    DeliveryPhase::AwaitPubcomp {
                        packet_id,
                        pubrec_position,
                    },
                    _,
                ) => {
                    pubrels.push((
                        pubrec_position,
                        Resend::Pubrel {
                            position,
                            pubrec_position,
                            packet_id,
                        },
                    ));
                }
                (
                    DeliveryPhase::AwaitPuback { packet_id }
                    | DeliveryPhase::AwaitPubrec { packet_id },
                    Some(delivery),
                ) => publishes.push(Resend::Publish {
                    position,
                    packet_id,
                    delivery,
                }),
                (_, _) => {}
            }
        }
        pubrels.sort_by_key(|(pubrec_position, _)| *pubrec_position);
        pubrels
            .into_iter()
            .map(|(_, resend)| resend)
            .chain(publishes)
            .collect()
    }

    fn has_room(&self) -> bool {
        let in_flight = self.ids_in_flight().len();
        let window = self.limits.inflight_max.min(self.receive_maximum).max(1);
        self.connected && in_flight < usize::from(window)
    }

    pub(crate) fn ids_in_flight(&self) -> Vec<PacketId> {
        self.pending.iter().filter_map(Pending::packet_id).collect()
    }

    /// The next id in the circle that is not in use.
    fn take_packet_id(&mut self) -> PacketId {
        let used = self.ids_in_flight();
        let mut number = self.last_packet_id.map_or(0, PacketId::get);
        loop {
            number = number.wrapping_add(1);
            let Some(id) = PacketId::new(number) else {
                continue;
            };
            if !used.contains(&id) {
                self.last_packet_id = Some(id);
                return id;
            }
        }
    }

    fn oldest_queued(&self) -> Option<usize> {
        let queued = |pending: &Pending| pending.phase == DeliveryPhase::Queued;
        self.pending.iter().position(queued)
    }

    fn is_expired(&self, index: usize, now: Timestamp) -> bool {
        let delivery = self.pending[index].delivery.as_ref();
        delivery.is_some_and(|delivery| has_passed(delivery.body.expires_at(), now))
    }

    fn send_queued(&mut self, now: Timestamp, said: &mut Vec<Said>) {
        while self.has_room() {
            let Some(index) = self.oldest_queued() else {
                return;
            };
            if self.is_expired(index, now) {
                self.pending.remove(index);
                said.push(Said::Dropped(DropCause::Expired));
                continue;
            }
            let packet_id = self.take_packet_id();
            let position = self.pending[index].position;
            let delivery = self.pending[index].delivery.clone().unwrap();
            self.pending[index].phase = match delivery.qos {
                Qos::ExactlyOnce => DeliveryPhase::AwaitPubrec { packet_id },
                Qos::AtLeastOnce | Qos::AtMostOnce => DeliveryPhase::AwaitPuback { packet_id },
            };
            said.push(Said::Publish(position, packet_id, delivery));
        }
    }

    pub(crate) fn deliver(
        &mut self,
        now: Timestamp,
        delivery: Delivery,
        said: &mut Vec<Said>,
    ) -> Copy {
        if has_passed(delivery.body.expires_at(), now) {
            said.push(Said::Dropped(DropCause::Expired));
            return Copy::Expired;
        }
        if !self.has_room() {
            while let Some(oldest) = self.oldest_queued() {
                if !self.is_expired(oldest, now) {
                    break;
                }
                self.pending.remove(oldest);
                said.push(Said::Dropped(DropCause::Expired));
            }
            let room = self.make_room(&delivery, said);
            if room != Copy::Taken {
                return room;
            }
        }
        let position = self.next_position;
        self.next_position += 1;
        let phase = DeliveryPhase::Queued;
        self.pending.push(Pending {
            position,
            delivery: Some(delivery),
            phase,
        });
        self.send_queued(now, said);
        Copy::Taken
    }

    fn queue_has_room_for(&self, delivery: &Delivery) -> bool {
        let size = |delivery: &Delivery| u64::from(delivery.body.size_bytes());
        let queued = self
            .pending
            .iter()
            .filter(|pending| pending.phase == DeliveryPhase::Queued);
        let sizes: Vec<u64> = queued
            .filter_map(|pending| pending.delivery.as_ref().map(size))
            .collect();
        let bytes = sizes.iter().sum::<u64>() + size(delivery);
        sizes.len() < self.limits.queue_messages_max as usize
            && bytes <= self.limits.queue_bytes_max
    }

    /// Room in the queue, or what the policy says instead.
    fn make_room(&mut self, delivery: &Delivery, said: &mut Vec<Said>) -> Copy {
        if self.queue_has_room_for(delivery) {
            return Copy::Taken;
        }
        let size = u64::from(delivery.body.size_bytes());
        let fits_alone = self.limits.queue_messages_max > 0 && size <= self.limits.queue_bytes_max;
        match self.limits.queue_overflow {
            QueueOverflow::Reject if delivery.qos == Qos::AtLeastOnce => {
                return Copy::Rejected;
            }
            QueueOverflow::DropOldest if fits_alone => {
                while !self.queue_has_room_for(delivery) {
                    let oldest = self.oldest_queued().unwrap();
                    self.pending.remove(oldest);
                    said.push(Said::Dropped(DropCause::QueueFullOldest));
                }
                return Copy::Taken;
            }
            QueueOverflow::Disconnect if self.connected => said.push(Said::QueueFull),
            QueueOverflow::Reject
            | QueueOverflow::DropNewest
            | QueueOverflow::DropOldest
            | QueueOverflow::Disconnect => {}
        }
        said.push(Said::Dropped(DropCause::QueueFullNewest));
        Copy::Lost
    }

    pub(crate) fn acknowledge(
        &mut self,
        now: Timestamp,
        acknowledgement: Acknowledgement,
    ) -> Vec<Said> {
        let mut said = Vec::new();
        let (Acknowledgement::Puback(packet_id)
        | Acknowledgement::Pubrec(packet_id, _)
        | Acknowledgement::Pubcomp(packet_id)) = acknowledgement;
        let found = self
            .pending
            .iter()
            .position(|pending| pending.packet_id() == Some(packet_id));
        let phase = found.map(|index| self.pending[index].phase);
        let done = match (acknowledgement, phase) {
            (Acknowledgement::Puback(_), Some(DeliveryPhase::AwaitPuback { .. }))
            | (Acknowledgement::Pubcomp(_), Some(DeliveryPhase::AwaitPubcomp { .. })) => true,
            (Acknowledgement::Pubrec(_, code), None) if !code.is_error() => {
                let unknown = ReasonCode::PacketIdentifierNotFound;
                said.push(Said::Pubrel(None, packet_id, unknown));
                false
            }
            (
                Acknowledgement::Pubrec(_, code),
                Some(DeliveryPhase::AwaitPubrec { .. } | DeliveryPhase::AwaitPubcomp { .. }),
            ) => {
                if !code.is_error() {
                    let place = self.receive(found.unwrap(), packet_id);
                    said.push(Said::Pubrel(Some(place), packet_id, ReasonCode::Success));
                }
                code.is_error()
            }
            (_, _) => false,
        };
        if done {
            self.pending.remove(found.unwrap());
            self.send_queued(now, &mut said);
        }
        said
    }

    /// PUBREC: only the id is left, with its place in the order of PUBRECs.
    fn receive(&mut self, index: usize, packet_id: PacketId) -> u64 {
        if let DeliveryPhase::AwaitPubcomp {
            pubrec_position, ..
        } = self.pending[index].phase
        {
            return pubrec_position;
        }
        let pubrec_position = self.next_pubrec_position;
        self.next_pubrec_position += 1;
        self.pending[index].phase = DeliveryPhase::AwaitPubcomp {
            packet_id,
            pubrec_position,
        };
        self.pending[index].delivery = None;
        pubrec_position
    }

    /// A QoS 2 PUBLISH from the client. `None`: more than the Receive Maximum.
    pub(crate) fn receive_exactly_once(&mut self, packet_id: PacketId) -> Option<bool> {
        if self.unreleased.contains(&packet_id) {
            return Some(false);
        }
        if self.unreleased.len() >= usize::from(self.unreleased_max) {
            return None;
        }
        self.unreleased.insert(packet_id);
        Some(true)
    }

    pub(crate) fn release(&mut self, packet_id: PacketId) -> bool {
        self.unreleased.remove(&packet_id)
    }

    pub(crate) fn meta(&self) -> SessionMeta {
        SessionMeta {
            connection: if self.connected {
                ConnectionState::Connected
            } else {
                ConnectionState::Disconnected {
                    ends_at: self.ends_at,
                }
            },
            session_expiry_interval_s: self.expiry_interval_s,
            client_receive_maximum: self.receive_maximum,
            limits: self.limits,
            awaiting_pubrel_max: self.unreleased_max,
            next_position: self.next_position,
            next_pubrec_position: self.next_pubrec_position,
            last_packet_id: self.last_packet_id,
        }
    }

    /// Everything but `meta` as it is to be stored, bodies without their ids.
    pub(crate) fn records(&self, client_id: &ClientId) -> Substance {
        let mut records = Substance::new();
        if !self.unreleased.is_empty() {
            let ids = self.unreleased.iter().copied().collect();
            let key = StateKey::Inbound(client_id.clone());
            records.insert(key, (StateRecord::Inbound(ids), None));
        }
        for (filter, subscription) in &self.subscriptions {
            let key = StateKey::Subscription(client_id.clone(), filter.clone());
            let record = StateRecord::Subscription(subscription.clone());
            records.insert(key, (record, None));
        }
        for Pending {
            position,
            delivery,
            phase,
        } in &self.pending
        {
            let delivery = delivery.as_ref();
            let record = DeliveryRecord {
                body: 0,
                qos: delivery.map_or(Qos::ExactlyOnce, |delivery| delivery.qos),
                retain: delivery.is_some_and(|delivery| delivery.retain),
                identifiers: delivery
                    .map(|each| each.identifiers.clone())
                    .unwrap_or_default(),
                share: delivery.and_then(|each| each.share.clone()),
                phase: *phase,
            };
            let key = StateKey::Delivery(client_id.clone(), *position);
            let body = delivery.map(|each| match &each.body {
                Body::Here(stored) => StoredMessage::clone(stored),
                Body::Stored(name) => panic!("the model knows no names: {name:?}"),
            });
            records.insert(key, (StateRecord::Delivery(record), body));
        }
        records
    }
}

/// Whether a copy whose delivery has not begun is dropped [MQTT-3.3.2-5].
pub(crate) fn has_passed(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|expires_at| expires_at <= now)
}
