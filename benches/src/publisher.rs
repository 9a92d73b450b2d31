//! The publisher: a window of unacknowledged messages, resumed after a loss of the connection.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::BytesMut;
use codec::{Ack, Connack, Packet, PacketId, Qos};

use crate::client::Role;
use crate::connection::{Connection, refused};
use crate::payload::Stamp;
use crate::shared::{Pause, Progress, Shared};
use crate::template::Template;

/// Packet identifiers are given in turn: message `n` has `n % IDS + 1`.
const IDS: u64 = 65_535;

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Puback,
    Pubrec,
    Pubcomp,
    /// Acknowledged, but one before it is not.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    due_ns: u64,
    wait: Wait,
}

/// A client that publishes.
#[derive(Debug)]
pub struct Publisher {
    index: u32,
    qos: Qos,
    window: u64,
    /// `None`: as fast as the window allows.
    interval_ns: Option<u64>,
    offset_ns: u64,
    template: Template,
    shared: Rc<Shared>,
    /// From the oldest that is not acknowledged to the newest.
    slots: VecDeque<Slot>,
    /// Of them, not acknowledged.
    open: u64,
    /// Number of the first slot.
    first: u64,
    /// Number of the next message.
    next: u64,
    phase_start_ns: u64,
    phase_first: u64,
    connections: u32,
    /// The longest time without an acknowledgement.
    pub pause: Pause,
    /// Messages that the broker refused.
    pub refused: u64,
    /// Resumptions that found no session.
    pub sessions_lost: u32,
}

/// What distinguishes one publisher from another.
#[derive(Debug)]
pub struct PublisherPlan {
    /// Its index.
    pub index: u32,
    /// Of all its messages.
    pub qos: Qos,
    /// Most unacknowledged messages.
    pub window: u16,
    /// From one message to the next; `None` at full rate.
    pub interval_ns: Option<u64>,
    /// Of its first message in each phase.
    pub offset_ns: u64,
    /// Its PUBLISH.
    pub template: Template,
}

impl Publisher {
    /// Before its first connection.
    #[must_use]
    pub fn new(plan: PublisherPlan, shared: Rc<Shared>) -> Self {
        Self {
            index: plan.index,
            qos: plan.qos,
            window: u64::from(plan.window),
            interval_ns: plan.interval_ns,
            offset_ns: plan.offset_ns,
            template: plan.template,
            shared,
            slots: VecDeque::with_capacity(usize::from(plan.window)),
            open: 0,
            first: 0,
            next: 0,
            phase_start_ns: 0,
            phase_first: 0,
            connections: 0,
            pause: Pause::default(),
            refused: 0,
            sessions_lost: 0,
        }
    }

    fn progress(&self) -> Option<&Progress> {
        usize::try_from(self.index)
            .ok()
            .and_then(|index| self.shared.progress.get(index))
    }

    /// When the next message is due; `None`: there is none, or no room for it.
    fn next_due_ns(&mut self, now_ns: u64) -> Option<u64> {
        if !self.shared.publishing.get() || !self.has_room() {
            return None;
        }
        let start_ns = self.shared.phase_start_ns.get();
        if self.phase_start_ns != start_ns {
            (self.phase_start_ns, self.phase_first) = (start_ns, self.next);
        }
        let Some(interval_ns) = self.interval_ns else {
            return Some(now_ns);
        };
        let due_ns = start_ns + self.offset_ns + (self.next - self.phase_first) * interval_ns;
        (due_ns <= now_ns).then_some(due_ns)
    }

    fn has_room(&self) -> bool {
        match self.qos {
            // Nobody acknowledges: what is not delivered is under way.
            Qos::AtMostOnce => self.progress().is_some_and(|progress| {
                let delivered = progress.delivered.get() / progress.fan_out.max(1);
                self.next.saturating_sub(delivered) < self.window
            }),
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                self.open < self.window && self.next - self.first < IDS
            }
        }
    }

    fn publish(&mut self, due_ns: u64, output: &mut BytesMut) {
        let number = self.next;
        self.next += 1;
        let wait = match self.qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => Some(Wait::Puback),
            Qos::ExactlyOnce => Some(Wait::Pubrec),
        };
        if let Some(wait) = wait {
            self.slots.push_back(Slot { due_ns, wait });
            self.open += 1;
        } else {
            self.first = self.next;
        }
        self.append(number, due_ns, false, output);
        if let Some(progress) = self.progress() {
            progress.sent.set(self.next);
            if wait.is_none() {
                progress.acknowledged.set(self.next);
            }
        }
    }

    fn append(&self, number: u64, due_ns: u64, dup: bool, output: &mut BytesMut) {
        let stamp = Stamp {
            publisher: self.index,
            sequence: number,
            due_ns,
        };
        self.template.append(stamp, packet_id(number), dup, output);
    }

    /// The slot of a packet identifier.
    fn slot(&mut self, id: PacketId) -> Option<&mut Slot> {
        let distance = (u64::from(id.get()) - 1 + IDS - self.first % IDS) % IDS;
        usize::try_from(distance)
            .ok()
            .and_then(|index| self.slots.get_mut(index))
    }

    /// An acknowledgement that ends an exchange.
    fn on_end(&mut self, ack: &Ack, wait: Wait, now_ns: u64) -> io::Result<()> {
        let due_ns = match self.slot(ack.packet_id) {
            Some(slot) if slot.wait == wait => {
                slot.wait = Wait::Nothing;
                slot.due_ns
            }
            Some(slot) => return Err(unexpected(ack, slot.wait)),
            None => return Err(refused(format!("an unknown id {}", ack.packet_id.get()))),
        };
        if ack.reason_code.is_error() {
            self.refused += 1;
        }
        self.open -= 1;
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.wait == Wait::Nothing)
        {
            self.slots.pop_front();
            self.first += 1;
        }
        self.pause.note(now_ns, &self.shared);
        if self.shared.recording.get() {
            let latency_ns = now_ns.saturating_sub(due_ns);
            self.shared.ack_latencies.borrow_mut().record(latency_ns);
        }
        if let Some(progress) = self.progress() {
            progress.acknowledged.set(progress.acknowledged.get() + 1);
        }
        Ok(())
    }

    fn on_pubrec(&mut self, ack: &Ack, now_ns: u64, connection: &mut Connection) -> io::Result<()> {
        if ack.reason_code.is_error() {
            return self.on_end(ack, Wait::Pubrec, now_ns);
        }
        match self.slot(ack.packet_id) {
            // The same PUBREC again is answered again [MQTT-4.3.3].
            Some(slot) if matches!(slot.wait, Wait::Pubrec | Wait::Pubcomp) => {
                slot.wait = Wait::Pubcomp;
            }
            Some(slot) => return Err(unexpected(ack, slot.wait)),
            None => return Err(refused(format!("an unknown id {}", ack.packet_id.get()))),
        }
        connection.push(&Packet::Pubrel(Ack::success(ack.packet_id)));
        Ok(())
    }
}

impl Role for Publisher {
    fn on_connected(&mut self, connack: &Connack, connection: &mut Connection) {
        if let Some(maximum) = connack.receive_maximum {
            self.window = self.window.min(u64::from(maximum.get()));
        }
        if self.connections == 0 {
            self.shared.ready.set(self.shared.ready.get() + 1);
        }
        self.connections += 1;
        let is_new_session = !connack.session_present;
        if self.connections > 1 && is_new_session {
            self.sessions_lost += 1;
        }
        for (number, slot) in (self.first..).zip(self.slots.clone()) {
            match slot.wait {
                Wait::Puback | Wait::Pubrec => {
                    // In a new session nothing was sent before [MQTT-3.3.1-1].
                    self.append(number, slot.due_ns, !is_new_session, &mut connection.output);
                }
                Wait::Pubcomp => {
                    connection.push(&Packet::Pubrel(Ack::success(packet_id(number))));
                }
                Wait::Nothing => {}
            }
        }
    }

    fn on_packet(
        &mut self,
        packet: Packet,
        now_ns: u64,
        connection: &mut Connection,
    ) -> io::Result<()> {
        match packet {
            Packet::Puback(ack) => self.on_end(&ack, Wait::Puback, now_ns),
            Packet::Pubrec(ack) => self.on_pubrec(&ack, now_ns, connection),
            Packet::Pubcomp(ack) => self.on_end(&ack, Wait::Pubcomp, now_ns),
            Packet::Pingresp => Ok(()),
            other => Err(refused(format!("a publisher got {}", other.packet_type()))),
        }
    }

    fn fill(&mut self, now_ns: u64, output: &mut BytesMut) {
        while let Some(due_ns) = self.next_due_ns(now_ns) {
            self.publish(due_ns, output);
        }
    }

    fn connections(&self) -> u32 {
        self.connections
    }
}

fn packet_id(number: u64) -> PacketId {
    let id = u16::try_from(number % IDS).unwrap_or(0) + 1;
    PacketId::new(id).unwrap_or(PacketId::MIN)
}

fn unexpected(ack: &Ack, wait: Wait) -> io::Error {
    let id = ack.packet_id.get();
    refused(format!(
        "an acknowledgement for {id}, which waits for {wait:?}"
    ))
}
