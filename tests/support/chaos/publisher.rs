//! A publisher: numbered messages on one topic, several under way, sent again in their order on the
//! next connection.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use codec::{Ack, Packet, PacketId, Qos};
use tokio::time::{MissedTickBehavior, interval};

use super::link::{Link, Place};
use super::{Phase, World};
use crate::client::Outgoing;
use crate::wait::let_pass_until;

/// Between two messages of one publisher.
const PACE: Duration = Duration::from_millis(50);
/// Below what brokers grant, and more than is published while handshakes are held.
const IN_FLIGHT_MAX: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    AwaitAcknowledgement,
    AwaitPubcomp,
}

#[derive(Debug)]
pub(super) struct Publisher {
    world: World,
    index: usize,
    place: Place,
    qos: Qos,
    topic: String,
    in_flight: VecDeque<(PacketId, u64, Step)>,
    /// PUBRELs that are kept back.
    held: Vec<Packet>,
    last_id: u16,
    next: u64,
    has_session: bool,
}

impl Publisher {
    pub(super) fn new(world: World, index: usize, place: Place, qos: Qos) -> Self {
        Self {
            topic: format!("{}/{index}", world.topics),
            world,
            index,
            place,
            qos,
            in_flight: VecDeque::new(),
            held: Vec::new(),
            last_id: 0,
            next: 0,
            has_session: false,
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(mut link) = self.place.connect(&self.world).await {
            if self.has_session && !link.session_present {
                self.world
                    .ledger
                    .violation(format!("{}: its session was lost", self.place.name));
                self.in_flight.clear();
            }
            self.has_session = true;
            // However it ended, the next connection goes on from here.
            drop(self.serve(&mut link).await);
            self.release_held();
        }
        self.place.clear(&self.world).await;
    }

    fn release_held(&mut self) -> Vec<Packet> {
        let count = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        self.world.held[self.place.node].fetch_sub(count, Ordering::Relaxed);
        std::mem::take(&mut self.held)
    }

    async fn serve(&mut self, link: &mut Link) -> io::Result<()> {
        self.resend(link).await?;
        let mut control = self.world.control.clone();
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told = *control.borrow_and_update();
            if told.phase == Phase::Stop || self.place.is_called_home(&self.world) {
                return Ok(());
            }
            let holds = told.hold.is_some_and(|(node, _)| node == self.place.node);
            if !holds {
                for packet in self.release_held() {
                    link.send(&packet).await?;
                }
            }
            let publishes = told.phase == Phase::Run && self.in_flight.len() < IN_FLIGHT_MAX;
            let pings_at = link.pings_at;
            tokio::select! {
                packet = link.recv() => self.on_packet(link, packet?, holds).await?,
                _ = pace.tick(), if publishes => self.publish(link).await?,
                () = let_pass_until(pings_at) => link.ping().await?,
                changed = control.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    async fn publish(&mut self, link: &mut Link) -> io::Result<()> {
        let (id, number) = (self.free_id(), self.next);
        self.next += 1;
        self.in_flight
            .push_back((id, number, Step::AwaitAcknowledgement));
        self.send(link, id, number, false).await
    }

    async fn send(&self, link: &mut Link, id: PacketId, number: u64, dup: bool) -> io::Result<()> {
        self.world.ledger.sent(self.index, number);
        let payload = format!("{}/{number}", self.index);
        let outgoing = Outgoing {
            id: id.get(),
            dup,
            qos: self.qos,
            topic: &self.topic,
            payload: &payload,
        };
        link.send(&Packet::Publish(outgoing.packet())).await
    }

    /// In the order first sent [MQTT-4.6.0-1].
    async fn resend(&self, link: &mut Link) -> io::Result<()> {
        for (id, number, step) in self.in_flight.clone() {
            match step {
                Step::AwaitAcknowledgement => self.send(link, id, number, true).await?,
                Step::AwaitPubcomp => link.send(&Packet::Pubrel(Ack::success(id))).await?,
            }
        }
        Ok(())
    }

    async fn on_packet(&mut self, link: &mut Link, packet: Packet, holds: bool) -> io::Result<()> {
        match packet {
            Packet::Puback(ack) => self.settle(ack, true),
            Packet::Pubrec(ack) if ack.reason_code.is_error() => self.settle(ack, true),
            Packet::Pubrec(ack) => {
                let found = self
                    .in_flight
                    .iter_mut()
                    .find(|(id, ..)| *id == ack.packet_id);
                let Some((_, number, step)) = found else {
                    self.world
                        .ledger
                        .violation(format!("{}: PUBREC of nothing", self.place.name));
                    return Ok(());
                };
                *step = Step::AwaitPubcomp;
                let number = *number;
                self.world.ledger.acknowledged(self.index, number);
                let pubrel = Packet::Pubrel(Ack::success(ack.packet_id));
                if holds {
                    self.held.push(pubrel);
                    self.world.held[self.place.node].fetch_add(1, Ordering::Relaxed);
                } else {
                    link.send(&pubrel).await?;
                }
            }
            Packet::Pubcomp(ack) => self.settle(ack, false),
            Packet::Disconnect(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
            other => self.world.ledger.violation(format!(
                "{}: {}",
                self.place.name,
                crate::summary::summary(&other)
            )),
        }
        Ok(())
    }

    /// The handshake is over. `is_first`: this is the first that the broker says to the message.
    fn settle(&mut self, ack: Ack, is_first: bool) {
        let Some(at) = self
            .in_flight
            .iter()
            .position(|(id, ..)| *id == ack.packet_id)
        else {
            return self.world.ledger.violation(format!(
                "{}: an acknowledgement of nothing",
                self.place.name
            ));
        };
        let Some((_, number, _)) = self.in_flight.remove(at) else {
            return;
        };
        if is_first && ack.reason_code.is_error() {
            self.world.ledger.refused(self.index, number);
        } else if is_first {
            self.world.ledger.acknowledged(self.index, number);
        }
        self.world.ledger.settled(self.index, number);
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let free = PacketId::new(self.last_id);
            let is_free = |id: &PacketId| self.in_flight.iter().all(|(other, ..)| other != id);
            if let Some(id) = free.filter(is_free) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::faults::HELD_FOR;

    /// Or our own patience would look like a pause of the broker.
    #[test]
    fn the_window_has_room_for_what_is_published_while_handshakes_are_held() {
        let published = HELD_FOR.as_millis() / PACE.as_millis();
        assert!(published + 5 < IN_FLIGHT_MAX as u128, "{published}");
    }
}
