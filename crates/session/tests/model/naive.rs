//! The session as one would write it on a napkin: one list of everything, scanned from the front.

use codec::{PacketId, Qos, ReasonCode, Timestamp, TopicFilter};
use session::{
    Body, Delivery, DropCause, Input, Output, QueueOverflow, Resend, SessionLimits, Subscription,
};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    Queued,
    Sent(PacketId),
    Received(PacketId, u64),
}

pub(crate) struct Item {
    pub(crate) position: u64,
    pub(crate) delivery: Delivery,
    pub(crate) phase: Phase,
}

/// Every field in the open; times in milliseconds.
pub(crate) struct Model {
    pub(crate) connected: bool,
    pub(crate) ends_at: Option<u64>,
    pub(crate) items: Vec<Item>,
    pub(crate) awaiting_pubrel: Vec<PacketId>,
    pub(crate) subscriptions: Vec<(TopicFilter, Subscription)>,
    limits: SessionLimits,
    receive_maximum: u16,
    expiry_s: u32,
    ids_max: usize,
    positions_given: u64,
    pubrecs: u64,
    last_id: u16,
}

impl Model {
    /// `last_id`: the packet id given last.
    pub(crate) fn new(last_id: u16) -> Self {
        let limits = SessionLimits::default();
        Self {
            connected: false,
            ends_at: None,
            items: Vec::new(),
            awaiting_pubrel: Vec::new(),
            subscriptions: Vec::new(),
            limits,
            receive_maximum: u16::MAX,
            expiry_s: 0,
            ids_max: usize::from(limits.receive_maximum),
            positions_given: 0,
            pubrecs: 0,
            last_id,
        }
    }

    pub(crate) fn ids_in_flight(&self) -> Vec<PacketId> {
        self.items.iter().filter_map(Item::id).collect()
    }

    pub(crate) fn resume(&self) -> Vec<Resend> {
        let mut pubrels = Vec::new();
        let mut publishes = Vec::new();
        for item in &self.items {
            let position = item.position;
            match item.phase {
                Phase::Queued => {}
                Phase::Sent(packet_id) => {
                    let delivery = item.delivery.clone();
                    publishes.push(Resend::Publish {
                        position,
                        packet_id,
                        delivery,
                    });
                }
                Phase::Received(packet_id, order) => {
                    pubrels.push((
                        order,
                        Resend::Pubrel {
                            position,
                            pubrec_position: order,
                            packet_id,
                        },
                    ));
                }
            }
        }
        pubrels.sort_by_key(|(order, _)| *order);
        pubrels
            .into_iter()
            .map(|(_, r)| r)
            .chain(publishes)
            .collect()
    }

    pub(crate) fn apply(&mut self, now: u64, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Connect {
                receive_maximum,
                session_expiry_interval_s,
                limits,
            } => {
                self.connected = true;
                self.ends_at = None;
                self.receive_maximum = receive_maximum;
                self.expiry_s = session_expiry_interval_s;
                self.limits = limits;
                let allowed = usize::from(limits.receive_maximum);
                self.ids_max = self.awaiting_pubrel.len() + allowed;
            }
            Input::Disconnect {
                session_expiry_interval_s,
            } if self.connected => {
                self.disconnect(now, session_expiry_interval_s, &mut out);
            }
            Input::Disconnect { .. } => {}
            Input::Deadline => {
                if self.ends_at.is_some_and(|ends_at| now >= ends_at) {
                    self.end(&mut out);
                }
            }
            Input::End => self.end(&mut out),
            Input::Subscribe {
                filter,
                subscription,
            } => {
                let existed = self.unsubscribe(&filter);
                self.subscriptions.push((filter, subscription));
                out.push(Output::Subscribed { existed });
            }
            Input::Unsubscribe { filter } => {
                let existed = self.unsubscribe(&filter);
                out.push(Output::Unsubscribed { existed });
            }
            Input::Deliver(delivery) => self.deliver(now, delivery, &mut out),
            Input::Puback { packet_id } => {
                if let Some(i) = self.find(packet_id, |phase, qos| {
                    matches!(phase, Phase::Sent(_)) && qos == Qos::AtLeastOnce
                }) {
                    self.complete(i, &mut out);
                }
            }
            Input::Pubrec {
                packet_id,
                reason_code,
            } => {
                self.pubrec(packet_id, reason_code, &mut out);
            }
            Input::Pubcomp { packet_id } => {
                if let Some(i) =
                    self.find(packet_id, |phase, _| matches!(phase, Phase::Received(..)))
                {
                    self.complete(i, &mut out);
                }
            }
            Input::ReceiveExactlyOnce { packet_id } => out.push(self.receive(packet_id)),
            Input::Pubrel { packet_id } => out.push(self.pubrel(packet_id)),
        }
        self.fill(now, &mut out);
        out
    }

    fn disconnect(&mut self, now: u64, interval: Option<u32>, out: &mut Vec<Output>) {
        self.expiry_s = interval.unwrap_or(self.expiry_s);
        self.connected = false;
        self.ends_at = match self.expiry_s {
            u32::MAX => None,
            seconds => Some(now + u64::from(seconds) * 1000),
        };
        if self.expiry_s == 0 {
            self.end(out);
        }
    }

    fn unsubscribe(&mut self, filter: &TopicFilter) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|(other, _)| other != filter);
        self.subscriptions.len() < before
    }

    fn receive(&mut self, packet_id: PacketId) -> Output {
        let first = !self.awaiting_pubrel.contains(&packet_id);
        if first && self.awaiting_pubrel.len() >= self.ids_max {
            return Output::ReceiveMaximumExceeded;
        }
        self.awaiting_pubrel.extend(first.then_some(packet_id));
        Output::Received { first }
    }

    fn pubrel(&mut self, packet_id: PacketId) -> Output {
        let known = self.awaiting_pubrel.contains(&packet_id);
        self.awaiting_pubrel.retain(|id| *id != packet_id);
        let not_found = ReasonCode::PacketIdentifierNotFound;
        let reason_code = if known {
            ReasonCode::Success
        } else {
            not_found
        };
        Output::PubrelAnswered { reason_code }
    }

    fn deliver(&mut self, now: u64, delivery: Delivery, out: &mut Vec<Output>) {
        if is_expired(&delivery, now) {
            out.push(Output::Dropped {
                cause: DropCause::Expired,
            });
            return;
        }
        if delivery.qos == Qos::AtMostOnce {
            out.push(if self.connected {
                Output::Send {
                    position: None,
                    packet_id: None,
                    delivery,
                }
            } else {
                Output::Dropped {
                    cause: DropCause::Offline,
                }
            });
            return;
        }
        let goes_out = self.connected && self.in_flight() < self.window();
        while let Some(i) = self.first_queued()
            && is_expired(&self.items[i].delivery, now)
        {
            self.forget(i, Some(DropCause::Expired), out);
        }
        if !goes_out && !self.fits(&delivery) {
            let empty_fits = self.limits.queue_messages_max > 0
                && u64::from(delivery.body.size_bytes()) <= self.limits.queue_bytes_max;
            match self.limits.queue_overflow {
                QueueOverflow::Reject if delivery.qos == Qos::AtLeastOnce => {
                    out.push(Output::Rejected);
                    return;
                }
                QueueOverflow::DropOldest if empty_fits => {
                    while !self.fits(&delivery) {
                        let i = self.first_queued().unwrap();
                        self.forget(i, Some(DropCause::QueueFullOldest), out);
                    }
                }
                QueueOverflow::Disconnect if self.connected => {
                    out.push(Output::DisconnectQueueFull);
                    out.push(Output::Dropped {
                        cause: DropCause::QueueFullNewest,
                    });
                    return;
                }
                QueueOverflow::Reject
                | QueueOverflow::DropNewest
                | QueueOverflow::DropOldest
                | QueueOverflow::Disconnect => {
                    out.push(Output::Dropped {
                        cause: DropCause::QueueFullNewest,
                    });
                    return;
                }
            }
        }
        self.positions_given += 1;
        let position = self.positions_given;
        self.items.push(Item {
            position,
            delivery,
            phase: Phase::Queued,
        });
        if !goes_out {
            out.push(Output::Queued { position });
        }
    }

    fn pubrec(&mut self, packet_id: PacketId, reason: ReasonCode, out: &mut Vec<Output>) {
        let Some(i) = self.find(packet_id, |_, _| true) else {
            if !reason.is_error() {
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
        if self.items[i].delivery.qos == Qos::AtLeastOnce {
            return;
        }
        if reason.is_error() {
            self.complete(i, out);
            return;
        }
        if matches!(self.items[i].phase, Phase::Sent(_)) {
            self.pubrecs += 1;
            self.items[i].phase = Phase::Received(packet_id, self.pubrecs);
            out.push(Output::Released {
                body: self.items[i].delivery.body.id(),
            });
        }
        let Phase::Received(_, order) = self.items[i].phase else {
            unreachable!("it was received just now or before");
        };
        out.push(Output::SendPubrel {
            position: Some(self.items[i].position),
            pubrec_position: Some(order),
            packet_id,
            reason_code: ReasonCode::Success,
        });
    }

    /// Whatever happened: what waits is sent while there is room.
    fn fill(&mut self, now: u64, out: &mut Vec<Output>) {
        while self.connected && self.in_flight() < self.window() {
            let taken = self.ids_in_flight();
            let Some(i) = self.first_queued() else {
                return;
            };
            if is_expired(&self.items[i].delivery, now) {
                self.forget(i, Some(DropCause::Expired), out);
                continue;
            }
            let item = &mut self.items[i];
            let mut candidates = (1..=65_535_u16).map(|n| PacketId::new(n).unwrap());
            let mut behind = candidates.clone().filter(|id| id.get() > self.last_id);
            let free = |id: &PacketId| !taken.contains(id);
            let packet_id = behind.find(free).or_else(|| candidates.find(free)).unwrap();
            self.last_id = packet_id.get();
            item.phase = Phase::Sent(packet_id);
            let (position, packet_id) = (Some(item.position), Some(packet_id));
            out.push(Output::Send {
                position,
                packet_id,
                delivery: item.delivery.clone(),
            });
        }
    }

    fn end(&mut self, out: &mut Vec<Output>) {
        while let Some(Item {
            position,
            delivery,
            phase,
        }) = self.items.first()
        {
            let was_sent = *phase != Phase::Queued;
            if delivery.share.is_some() && !(was_sent && delivery.qos == Qos::ExactlyOnce) {
                out.push(Output::Reassign {
                    position: *position,
                    delivery: delivery.clone(),
                });
                self.items.remove(0);
                continue;
            }
            let lost = !matches!(self.items[0].phase, Phase::Received(..));
            self.forget(0, lost.then_some(DropCause::SessionEnded), out);
        }
        *self = Self::new(0);
        out.push(Output::Ended);
    }

    fn complete(&mut self, index: usize, out: &mut Vec<Output>) {
        self.forget(index, None, out);
    }

    fn forget(&mut self, index: usize, lost: Option<DropCause>, out: &mut Vec<Output>) {
        let item = self.items.remove(index);
        out.push(Output::Completed {
            position: item.position,
        });
        if !matches!(item.phase, Phase::Received(..)) {
            out.push(Output::Released {
                body: item.delivery.body.id(),
            });
        }
        out.extend(lost.map(|cause| Output::Dropped { cause }));
    }

    fn find(&self, packet_id: PacketId, wanted: impl Fn(Phase, Qos) -> bool) -> Option<usize> {
        self.items
            .iter()
            .position(|item| item.id() == Some(packet_id) && wanted(item.phase, item.delivery.qos))
    }

    /// Stored and loaded: bodies are known by name alone.
    pub(crate) fn forget_contents(&mut self) {
        for item in &mut self.items {
            item.delivery.body = Body::Stored(item.delivery.body.reference());
        }
    }

    fn first_queued(&self) -> Option<usize> {
        self.items
            .iter()
            .position(|item| item.phase == Phase::Queued)
    }

    pub(crate) fn queued(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.phase == Phase::Queued)
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued()
            .map(|item| u64::from(item.delivery.body.size_bytes()))
            .sum()
    }

    fn in_flight(&self) -> usize {
        self.items.len() - self.queued().count()
    }

    fn window(&self) -> usize {
        usize::from(self.limits.inflight_max.min(self.receive_maximum).max(1))
    }

    fn fits(&self, delivery: &Delivery) -> bool {
        let bytes = self.queued_bytes() + u64::from(delivery.body.size_bytes());
        self.queued().count() < self.limits.queue_messages_max as usize
            && bytes <= self.limits.queue_bytes_max
    }
}

fn is_expired(delivery: &Delivery, now: u64) -> bool {
    let expires_at = delivery.body.expires_at().map(Timestamp::as_millis);
    expires_at.is_some_and(|expires_at| now >= expires_at)
}

impl Item {
    fn id(&self) -> Option<PacketId> {
        match self.phase {
            Phase::Queued => None,
            Phase::Sent(id) | Phase::Received(id, _) => Some(id),
        }
    }
}
