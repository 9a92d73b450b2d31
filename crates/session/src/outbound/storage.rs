//! What is on its way to the client, as plain values and back.

use std::collections::BTreeMap;

use codec::PacketId;

use super::{InFlight, Outbound, Owed};
use crate::delivery::{Body, Delivery};
use crate::parts::{DeliveryParts, DeliveryPhase, DeliveryRecord};

impl Outbound {
    /// The same with every body by name, as it comes back from its parts.
    pub(crate) fn with_names_alone(&self) -> Self {
        let mut named = self.clone();
        let name = |delivery: &mut Delivery| {
            delivery.body = Body::Stored(delivery.body.reference());
        };
        for in_flight in named.in_flight.values_mut() {
            match &mut in_flight.owed {
                Owed::Puback(delivery) | Owed::Pubrec(delivery) => name(delivery),
                Owed::Pubcomp { .. } => {}
            }
        }
        named.queue.iter_mut().for_each(name);
        named
    }

    /// One delivery as its owner stores it.
    pub(crate) fn record(&self, position: u64) -> Option<DeliveryRecord> {
        if let Some(in_flight) = self.in_flight.get(&position) {
            return Some(in_flight.record());
        }
        let index = position.checked_sub(self.first_queued_position())?;
        let delivery = self.queue.get(usize::try_from(index).ok()?)?;
        Some(DeliveryRecord::new(Some(delivery), DeliveryPhase::Queued))
    }

    /// Positions, from one on, of what is on its way.
    pub(crate) fn positions_from(&self, from: u64) -> impl Iterator<Item = u64> {
        let in_flight = self.in_flight.range(from..).map(|(&position, _)| position);
        in_flight.chain(self.first_queued_position().max(from)..self.next_position)
    }

    /// Everything on its way, by position.
    pub(crate) fn parts(&self) -> BTreeMap<u64, DeliveryParts> {
        let body = |delivery: &Delivery| delivery.body.reference();
        let in_flight = self.in_flight.iter().map(|(&position, in_flight)| {
            let body = in_flight.owed.delivery().map(body);
            (
                position,
                DeliveryParts {
                    record: in_flight.record(),
                    body,
                },
            )
        });
        let queued = self.queue.iter().map(|delivery| {
            let record = DeliveryRecord::new(Some(delivery), DeliveryPhase::Queued);
            DeliveryParts {
                record,
                body: Some(body(delivery)),
            }
        });
        in_flight
            .chain((self.first_queued_position()..).zip(queued))
            .collect()
    }

    /// Takes back what waits in the queue; called in order of position.
    pub(crate) fn restore_queued(&mut self, delivery: Delivery) {
        self.queue.push(delivery);
    }

    /// Takes back a QoS 1 or 2 message that was sent. `false` if its packet id is taken.
    pub(crate) fn restore_sent(
        &mut self,
        position: u64,
        packet_id: PacketId,
        delivery: Delivery,
    ) -> bool {
        let owed = Owed::first(delivery);
        self.in_flight
            .insert(position, InFlight { packet_id, owed });
        self.packet_ids.restore(packet_id, position)
    }

    /// Takes back a QoS 2 delivery whose PUBREC was recorded. `false` if its packet id is taken.
    pub(crate) fn restore_received(
        &mut self,
        position: u64,
        packet_id: PacketId,
        pubrec_position: u64,
    ) -> bool {
        let owed = Owed::Pubcomp { pubrec_position };
        self.in_flight
            .insert(position, InFlight { packet_id, owed });
        self.packet_ids.restore(packet_id, position)
    }
}

impl InFlight {
    fn record(&self) -> DeliveryRecord {
        let packet_id = self.packet_id;
        let phase = match self.owed {
            Owed::Puback(_) => DeliveryPhase::AwaitPuback { packet_id },
            Owed::Pubrec(_) => DeliveryPhase::AwaitPubrec { packet_id },
            Owed::Pubcomp { pubrec_position } => DeliveryPhase::AwaitPubcomp {
                packet_id,
                pubrec_position,
            },
        };
        DeliveryRecord::new(self.owed.delivery(), phase)
    }
}
