//! One client's session, naively: one list of deliveries that is searched from the front each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::{ClientId, PacketId, Qos, ReasonCode, Timestamp, TopicFilter};
use raft_store::{Acknowledgement, Connect, StateKey, StateRecord};
use session::{
    ConnectionState, Delivery, DeliveryPhase, DeliveryRecord, DropCause, QueueOverflow, Resend,
    SessionLimits, SessionMeta, Subscription,
};

/// What a session says to its connection, or loses.
pub(crate) enum Said {
    Publish(PacketId, Delivery),
    Pubrel(PacketId, ReasonCode),
    Dropped(DropCause),
    QueueFull,
    /// Nothing for the connection: the publisher learns it.
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
    pub(crate) fn connect(&mut self, connect: &Connect) -> (Vec<Resend>, Vec<Said>) {
        let resend = self.resend();
        self.connected = true;
        self.ends_at = None;
        self.expiry_interval_s = connect.session_expiry_interval_s;
        self.receive_maximum = connect.receive_maximum;
        self.limits = connect.limits;
        self.unreleased_max = self.unreleased.len() as u16 + connect.limits.receive_maximum;
        let mut said = Vec::new();
        self.send_queued(&mut said);
        (resend, said)
    }

    pub(crate) fn disconnect(&mut self, now: Timestamp, expiry_interval_s: u32) {
        self.connected = false;
        self.expiry_interval_s = expiry_interval_s;
        let lifetime = Duration::from_secs(expiry_interval_s.into());
        self.ends_at = (expiry_interval_s != u32::MAX).then(|| now.plus(lifetime));
    }

    /// What is lost when the session ends.
    pub(crate) fn lost(&self) -> usize {
        self.pending
            .iter()
            .filter(|pending| pending.delivery.is_some())
            .count()
    }

    fn resend(&self) -> Vec<Resend> {
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

    fn send_queued(&mut self, said: &mut Vec<Said>) {
        while self.has_room() {
            let queued = |pending: &Pending| pending.phase == DeliveryPhase::Queued;
            let Some(index) = self.pending.iter().position(queued) else {
                return;
            };
            let packet_id = self.take_packet_id();
            let delivery = self.pending[index].delivery.clone().unwrap();
            self.pending[index].phase = match delivery.qos {
                Qos::ExactlyOnce => DeliveryPhase::AwaitPubrec { packet_id },
                Qos::AtLeastOnce | Qos::AtMostOnce => DeliveryPhase::AwaitPuback { packet_id },
            };
            said.push(Said::Publish(packet_id, delivery));
        }
    }

    pub(crate) fn deliver(&mut self, delivery: Delivery, said: &mut Vec<Said>) {
        if !self.has_room() && !self.make_room(&delivery, said) {
            return;
        }
        let position = self.next_position;
        self.next_position += 1;
        let phase = DeliveryPhase::Queued;
        self.pending.push(Pending {
            position,
            delivery: Some(delivery),
            phase,
        });
        self.send_queued(said);
    }

    fn queue_has_room_for(&self, delivery: &Delivery) -> bool {
        let size = |delivery: &Delivery| delivery.body.message.size() as u64;
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
    fn make_room(&mut self, delivery: &Delivery, said: &mut Vec<Said>) -> bool {
        if self.queue_has_room_for(delivery) {
            return true;
        }
        let size = delivery.body.message.size() as u64;
        let fits_alone = self.limits.queue_messages_max > 0 && size <= self.limits.queue_bytes_max;
        match self.limits.queue_overflow {
            QueueOverflow::Reject if delivery.qos == Qos::AtLeastOnce => {
                said.push(Said::Rejected);
                return false;
            }
            QueueOverflow::DropOldest if fits_alone => {
                while !self.queue_has_room_for(delivery) {
                    let queued = |pending: &Pending| pending.phase == DeliveryPhase::Queued;
                    let oldest = self.pending.iter().position(queued).unwrap();
                    self.pending.remove(oldest);
                    said.push(Said::Dropped(DropCause::QueueFullOldest));
                }
                return true;
            }
            QueueOverflow::Disconnect if self.connected => said.push(Said::QueueFull),
            QueueOverflow::Reject
            | QueueOverflow::DropNewest
            | QueueOverflow::DropOldest
            | QueueOverflow::Disconnect => {}
        }
        said.push(Said::Dropped(DropCause::QueueFullNewest));
        false
    }

    pub(crate) fn acknowledge(&mut self, acknowledgement: Acknowledgement) -> Vec<Said> {
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
                said.push(Said::Pubrel(
                    packet_id,
                    ReasonCode::PacketIdentifierNotFound,
                ));
                false
            }
            (
                Acknowledgement::Pubrec(_, code),
                Some(DeliveryPhase::AwaitPubrec { .. } | DeliveryPhase::AwaitPubcomp { .. }),
            ) => {
                if !code.is_error() {
                    self.receive(found.unwrap(), packet_id);
                    said.push(Said::Pubrel(packet_id, ReasonCode::Success));
                }
                code.is_error()
            }
            (_, _) => false,
        };
        if done {
            self.pending.remove(found.unwrap());
            self.send_queued(&mut said);
        }
        said
    }

    /// PUBREC: only the id is left.
    fn receive(&mut self, index: usize, packet_id: PacketId) {
        if let DeliveryPhase::AwaitPubrec { .. } = self.pending[index].phase {
            let pubrec_position = self.next_pubrec_position;
            self.next_pubrec_position += 1;
            self.pending[index].phase = DeliveryPhase::AwaitPubcomp {
                packet_id,
                pubrec_position,
            };
            self.pending[index].delivery = None;
        }
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
    pub(crate) fn records(&self, client_id: &ClientId) -> Vec<(StateKey, StateRecord)> {
        let mut records = Vec::new();
        if !self.unreleased.is_empty() {
            let ids = self.unreleased.iter().copied().collect();
            records.push((
                StateKey::Inbound(client_id.clone()),
                StateRecord::Inbound(ids),
            ));
        }
        for (filter, subscription) in &self.subscriptions {
            let key = StateKey::Subscription(client_id.clone(), filter.clone());
            records.push((key, StateRecord::Subscription(subscription.clone())));
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
                phase: *phase,
            };
            let key = StateKey::Delivery(client_id.clone(), *position);
            records.push((key, StateRecord::Delivery(record)));
        }
        records
    }
}
