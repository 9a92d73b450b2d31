//! Broker → client: window, packet ids, the QoS 1 and 2 sender, re-send on resumption.
//!
//! A delivery gets its position when it is accepted, waits in the queue while the window is full or
//! nobody is connected, then gets a packet id and is in flight until PUBACK, PUBCOMP or a failing
//! PUBREC. Invariants: see the crate documentation.

mod storage;

use std::collections::BTreeMap;

use codec::{PacketId, Qos, ReasonCode, Timestamp};

use crate::delivery::Delivery;
use crate::event::{DropCause, Output, Resend};
use crate::limits::{QueueOverflow, SessionLimits};
use crate::packet_ids::PacketIds;
use crate::queue::{self, Queue};

/// What the connection and its limits allow at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The time of this input.
    pub(crate) now: Timestamp,
    /// Messages that may be in flight; `None` without a connection.
    pub(crate) window: Option<u16>,
    /// The bounds of the queue.
    pub(crate) limits: SessionLimits,
}

impl Terms {
    fn has_room(&self, in_flight: usize) -> bool {
        self.window
            .is_some_and(|window| in_flight < usize::from(window))
    }
}

/// One delivery that has a packet id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InFlight {
    packet_id: PacketId,
    owed: Owed,
}

/// What the client owes next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owed {
    Puback(Delivery),
    Pubrec(Delivery),
    Pubcomp { pubrec_position: u64 },
}

/// Everything that is on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outbound {
    queue: Queue,
    in_flight: BTreeMap<u64, InFlight>,
    packet_ids: PacketIds,
    next_position: u64,
    next_pubrec_position: u64,
}

impl Outbound {
    /// Nothing on its way; the counters go on as given.
    pub(crate) fn starting_at(
        next_position: u64,
        next_pubrec_position: u64,
        last_packet_id: Option<PacketId>,
    ) -> Self {
        Self {
            queue: Queue::default(),
            in_flight: BTreeMap::new(),
            packet_ids: PacketIds::starting_after(last_packet_id),
            next_position,
            next_pubrec_position,
        }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// Those whose PUBREC has come.
    pub(crate) fn awaiting_pubcomp_len(&self) -> usize {
        let all = self.in_flight.values();
        all.filter(|one| matches!(one.owed, Owed::Pubcomp { .. }))
            .count()
    }

    /// Position of the oldest of them.
    pub(crate) fn oldest_in_flight(&self) -> Option<u64> {
        self.in_flight.keys().next().copied()
    }

    pub(crate) fn last_packet_id(&self) -> Option<PacketId> {
        self.packet_ids.last()
    }

    pub(crate) fn next_position(&self) -> u64 {
        self.next_position
    }

    pub(crate) fn next_pubrec_position(&self) -> u64 {
        self.next_pubrec_position
    }

    /// Takes a matching message: sends it, queues it, or does what the overflow policy says.
    pub(crate) fn deliver(&mut self, delivery: Delivery, terms: &Terms, out: &mut Vec<Output>) {
        if delivery.body.is_expired(terms.now) {
            let cause = DropCause::Expired;
            out.push(Output::Dropped { cause });
        } else if delivery.qos == Qos::AtMostOnce {
            out.push(match terms.window {
                Some(_) => Output::Send {
                    position: None,
                    packet_id: None,
                    delivery,
                },
                None => Output::Dropped {
                    cause: DropCause::Offline,
                },
            });
        } else if terms.has_room(self.in_flight.len()) {
            // The queue is empty: it holds something only while the window is full.
            let position = self.take_position();
            self.send(position, delivery, out);
        } else {
            self.enqueue(delivery, terms, out);
        }
        self.assert_invariants(terms);
    }

    /// Sends queued messages until the window is full [MQTT-3.3.4-9]; those that expired are dropped
    /// [MQTT-3.3.2-5]. O(messages sent and dropped).
    pub(crate) fn fill_window(&mut self, terms: &Terms, out: &mut Vec<Output>) {
        while terms.has_room(self.in_flight.len()) {
            let position = self.first_queued_position();
            let Some(delivery) = self.queue.pop() else {
                break;
            };
            if delivery.body.is_expired(terms.now) {
                give_up(position, &delivery, DropCause::Expired, out);
            } else {
                self.send(position, delivery, out);
            }
        }
        self.assert_invariants(terms);
    }

    /// PUBACK: ends a QoS 1 delivery, whatever its reason code [MQTT-4.4.0-2]. An id that is not in
    /// flight or belongs to a QoS 2 delivery changes nothing.
    pub(crate) fn on_puback(&mut self, packet_id: PacketId, terms: &Terms, out: &mut Vec<Output>) {
        let Some((position, in_flight)) = self.find(packet_id) else {
            return;
        };
        match in_flight.owed {
            Owed::Puback(_) => self.complete(position, terms, out),
            Owed::Pubrec(_) | Owed::Pubcomp { .. } => {}
        }
    }

    /// PUBREC: keeps of the delivery only its id, and answers with PUBREL [MQTT-4.3.3-4]; a repeated
    /// one is answered again. A failing one ends the delivery and is never answered.
    pub(crate) fn on_pubrec(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        terms: &Terms,
        out: &mut Vec<Output>,
    ) {
        let pubrec_position = self.next_pubrec_position;
        let Some((position, in_flight)) = self.find(packet_id) else {
            if !reason_code.is_error() {
                let reason_code = ReasonCode::PacketIdentifierNotFound;
                out.push(Output::SendPubrel {
                    position: None,
                    pubrec_position: None,
                    packet_id,
                    reason_code,
                });
            }
            return;
        };
        let pubrec_position = match &in_flight.owed {
            // A PUBREC for a QoS 1 message is the client's mistake; its PUBACK is still owed.
            Owed::Puback(_) => return,
            Owed::Pubrec(_) | Owed::Pubcomp { .. } if reason_code.is_error() => {
                self.complete(position, terms, out);
                return;
            }
            Owed::Pubrec(delivery) => {
                out.push(Output::Released {
                    body: delivery.body.id(),
                });
                in_flight.owed = Owed::Pubcomp { pubrec_position };
                self.next_pubrec_position = pubrec_position.saturating_add(1);
                pubrec_position
            }
            // Recorded before: the PUBREL keeps its place.
            Owed::Pubcomp { pubrec_position } => *pubrec_position,
        };
        out.push(Output::SendPubrel {
            position: Some(position),
            pubrec_position: Some(pubrec_position),
            packet_id,
            reason_code: ReasonCode::Success,
        });
    }

    /// PUBCOMP: ends a QoS 2 delivery whose PUBREC was recorded; anything else changes nothing.
    pub(crate) fn on_pubcomp(&mut self, packet_id: PacketId, terms: &Terms, out: &mut Vec<Output>) {
        let Some((position, in_flight)) = self.find(packet_id) else {
            return;
        };
        match in_flight.owed {
            Owed::Pubcomp { .. } => self.complete(position, terms, out),
            Owed::Puback(_) | Owed::Pubrec(_) => {}
        }
    }

    /// What is in flight, for a new connection. See [`crate::Session::resume`] for the order.
    pub(crate) fn resume(&self) -> Vec<Resend> {
        let mut pubrels = Vec::new();
        let mut publishes = Vec::new();
        for (&position, InFlight { packet_id, owed }) in &self.in_flight {
            let packet_id = *packet_id;
            match owed {
                Owed::Puback(delivery) | Owed::Pubrec(delivery) => {
                    let delivery = delivery.clone();
                    publishes.push(Resend::Publish {
                        position,
                        packet_id,
                        delivery,
                    });
                }
                &Owed::Pubcomp { pubrec_position } => {
                    let resend = Resend::Pubrel {
                        position,
                        pubrec_position,
                        packet_id,
                    };
                    pubrels.push((pubrec_position, resend));
                }
            }
        }
        pubrels.sort_unstable_by_key(|(pubrec_position, _)| *pubrec_position);
        let mut resends: Vec<Resend> = pubrels.into_iter().map(|(_, resend)| resend).collect();
        resends.append(&mut publishes);
        resends
    }

    /// The session ends: gives up everything, in order of position. What a shared subscription
    /// assigned goes to its owner, unless it is QoS 2 and was sent (section 4.8.2)
    /// [MQTT-4.8.2-5].
    pub(crate) fn discard_all(&mut self, out: &mut Vec<Output>) {
        let cause = DropCause::SessionEnded;
        for (position, in_flight) in std::mem::take(&mut self.in_flight) {
            match in_flight.owed {
                Owed::Puback(delivery) if delivery.share.is_some() => {
                    out.push(Output::Reassign { position, delivery });
                }
                Owed::Puback(delivery) | Owed::Pubrec(delivery) => {
                    give_up(position, &delivery, cause, out);
                }
                Owed::Pubcomp { .. } => out.push(Output::Completed { position }),
            }
        }
        let first_queued = self.first_queued_position();
        for (position, delivery) in (first_queued..).zip(std::mem::take(&mut self.queue)) {
            if delivery.share.is_some() {
                out.push(Output::Reassign { position, delivery });
            } else {
                give_up(position, &delivery, cause, out);
            }
        }
        self.packet_ids = PacketIds::starting_after(self.packet_ids.last());
    }

    fn find(&mut self, packet_id: PacketId) -> Option<(u64, &mut InFlight)> {
        let position = self.packet_ids.position(packet_id)?;
        Some((position, self.in_flight.get_mut(&position)?))
    }

    fn take_position(&mut self) -> u64 {
        let position = self.next_position;
        // 2^63 positions last for ever; saturating keeps replicated code from panicking.
        self.next_position = position.saturating_add(1);
        position
    }

    /// Position of the oldest queued delivery; `next_position` if there is none.
    fn first_queued_position(&self) -> u64 {
        let queued = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
        self.next_position.saturating_sub(queued)
    }

    /// Puts a delivery in flight. The caller has seen room in the window.
    fn send(&mut self, position: u64, delivery: Delivery, out: &mut Vec<Output>) {
        // A window is at most 65,535, so with room in it there is a free id.
        let Some(packet_id) = self.packet_ids.assign(position) else {
            return;
        };
        let owed = Owed::first(delivery.clone());
        self.in_flight
            .insert(position, InFlight { packet_id, owed });
        let (position, packet_id) = (Some(position), Some(packet_id));
        out.push(Output::Send {
            position,
            packet_id,
            delivery,
        });
    }

    fn enqueue(&mut self, delivery: Delivery, terms: &Terms, out: &mut Vec<Output>) {
        self.drop_expired(terms.now, out);
        let size_bytes = queue::size_bytes(&delivery);
        let limits = &terms.limits;
        if !self.queue.has_room(size_bytes, limits) {
            let room_was_made = match limits.queue_overflow {
                QueueOverflow::Reject => {
                    if delivery.qos == Qos::AtLeastOnce {
                        out.push(Output::Rejected);
                        return;
                    }
                    false
                }
                QueueOverflow::DropNewest => false,
                QueueOverflow::DropOldest => self.make_room(size_bytes, limits, out),
                QueueOverflow::Disconnect => {
                    if terms.window.is_some() {
                        out.push(Output::DisconnectQueueFull);
                    }
                    false
                }
            };
            if !room_was_made {
                out.push(Output::Dropped {
                    cause: DropCause::QueueFullNewest,
                });
                return;
            }
        }
        let position = self.take_position();
        self.queue.push(delivery);
        out.push(Output::Queued { position });
    }

    /// Drops what expired at the front of the queue [MQTT-3.3.2-5]. Further back it keeps its place,
    /// since positions in the queue have no gap. O(messages dropped).
    fn drop_expired(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        loop {
            let position = self.first_queued_position();
            let Some(delivery) = self.queue.pop_expired(now) else {
                return;
            };
            give_up(position, &delivery, DropCause::Expired, out);
        }
    }

    /// Drops the oldest queued messages until one of this size fits. A message that would not even
    /// fit an empty queue drops nothing.
    fn make_room(
        &mut self,
        size_bytes: u64,
        limits: &SessionLimits,
        out: &mut Vec<Output>,
    ) -> bool {
        if !Queue::could_fit(size_bytes, limits) {
            return false;
        }
        while !self.queue.has_room(size_bytes, limits) {
            let position = self.first_queued_position();
            let Some(delivery) = self.queue.pop() else {
                return false;
            };
            give_up(position, &delivery, DropCause::QueueFullOldest, out);
        }
        true
    }

    /// Forgets a delivery, frees its id, and lets the next ones into the window.
    fn complete(&mut self, position: u64, terms: &Terms, out: &mut Vec<Output>) {
        let Some(in_flight) = self.in_flight.remove(&position) else {
            return;
        };
        self.packet_ids.release(in_flight.packet_id);
        out.push(Output::Completed { position });
        if let Some(delivery) = in_flight.owed.delivery() {
            out.push(Output::Released {
                body: delivery.body.id(),
            });
        }
        self.fill_window(terms, out);
    }

    /// What is cheap enough to check after each change; `Session::check_invariants` checks all.
    fn assert_invariants(&self, terms: &Terms) {
        debug_assert_eq!(self.in_flight.len(), self.packet_ids.len());
        debug_assert!(self.queue.is_empty() || !terms.has_room(self.in_flight.len()));
        let last_in_flight = self.in_flight.last_key_value();
        debug_assert!(
            last_in_flight.is_none_or(|(&position, _)| position < self.first_queued_position())
        );
    }
}

/// A delivery is lost.
fn give_up(position: u64, delivery: &Delivery, cause: DropCause, out: &mut Vec<Output>) {
    let body = delivery.body.id();
    out.push(Output::Completed { position });
    out.push(Output::Released { body });
    out.push(Output::Dropped { cause });
}

impl Owed {
    /// What a message just sent asks of the client.
    fn first(delivery: Delivery) -> Self {
        match delivery.qos {
            Qos::ExactlyOnce => Self::Pubrec(delivery),
            // QoS 0 never gets this far.
            Qos::AtLeastOnce | Qos::AtMostOnce => Self::Puback(delivery),
        }
    }

    /// The copy to re-send; `None` once PUBREC was recorded.
    fn delivery(&self) -> Option<&Delivery> {
        match self {
            Self::Puback(delivery) | Self::Pubrec(delivery) => Some(delivery),
            Self::Pubcomp { .. } => None,
        }
    }
}
