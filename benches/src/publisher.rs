//! The publisher: a window of unacknowledged messages, resumed after a loss of the connection.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use codec::{Ack, Connack, Packet, PacketId, Qos};

use crate::client::Role;
use crate::connection::{Output, refused};
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
        let is_enough = self.next >= self.shared.messages_max.get();
        if is_enough || !self.shared.publishing.get() || !self.has_room() {
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

    fn publish(&mut self, due_ns: u64, output: &mut Output) {
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

    fn append(&self, number: u64, due_ns: u64, dup: bool, output: &mut Output) {
        let stamp = Stamp {
            publisher: self.index,
            sequence: number,
            due_ns,
        };
        self.template
            .append(stamp, packet_id(number), dup, &mut output.bytes);
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
        // A PUBCOMP 0x92 only says that the exchange was over already [MQTT5 3.7.2.1].
        if ack.reason_code.is_error() && wait != Wait::Pubcomp {
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

    fn on_pubrec(&mut self, ack: &Ack, now_ns: u64, output: &mut Output) -> io::Result<()> {
        if ack.reason_code.is_error() {
            return self.on_end(ack, Wait::Pubrec, now_ns);
        }
        match self.slot(ack.packet_id) {
            // The same PUBREC again is answered again.
            Some(slot) if matches!(slot.wait, Wait::Pubrec | Wait::Pubcomp) => {
                slot.wait = Wait::Pubcomp;
            }
            Some(slot) => return Err(unexpected(ack, slot.wait)),
            None => return Err(refused(format!("an unknown id {}", ack.packet_id.get()))),
        }
        output.push(&Packet::Pubrel(Ack::success(ack.packet_id)));
        Ok(())
    }
}

impl Role for Publisher {
    fn on_connected(&mut self, connack: &Connack, output: &mut Output) {
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
                    self.append(number, slot.due_ns, !is_new_session, output);
                }
                Wait::Pubcomp => {
                    output.push(&Packet::Pubrel(Ack::success(packet_id(number))));
                }
                Wait::Nothing => {}
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other packet is a mistake of the server"
    )]
    fn on_packet(&mut self, packet: Packet, now_ns: u64, output: &mut Output) -> io::Result<()> {
        match packet {
            Packet::Puback(ack) => self.on_end(&ack, Wait::Puback, now_ns),
            Packet::Pubrec(ack) => self.on_pubrec(&ack, now_ns, output),
            Packet::Pubcomp(ack) => self.on_end(&ack, Wait::Pubcomp, now_ns),
            Packet::Pingresp => Ok(()),
            Packet::Disconnect(disconnect) => {
                Err(refused(format!("DISCONNECT {:?}", disconnect.reason_code)))
            }
            other => Err(refused(format!("a publisher got {}", other.packet_type()))),
        }
    }

    fn fill(&mut self, now_ns: u64, output: &mut Output) {
        while let Some(due_ns) = self.next_due_ns(now_ns) {
            self.publish(due_ns, output);
        }
    }

    fn is_away(&self) -> bool {
        false
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

#[cfg(test)]
mod tests {
    use codec::{Decoder, Limits, ProtocolVersion, ReasonCode, TopicName};

    use super::*;
    use crate::workload::Workload;

    const V5: ProtocolVersion = ProtocolVersion::V5;

    struct Bench {
        publisher: Publisher,
        shared: Rc<Shared>,
        output: Output,
    }

    fn bench(qos: Qos, window: u16, interval_ns: Option<u64>) -> Bench {
        let workload = Workload {
            publishers: 1,
            subscribers: 1,
            topics: 1,
            ..Workload::new("x", Vec::new(), Vec::new())
        };
        let shared = Rc::new(Shared::new(&workload));
        shared.publishing.set(true);
        let topic = TopicName::try_from("t").unwrap();
        let plan = PublisherPlan {
            index: 0,
            qos,
            window,
            interval_ns,
            offset_ns: 0,
            template: Template::new(&topic, qos, 32, V5).unwrap(),
        };
        Bench {
            publisher: Publisher::new(plan, Rc::clone(&shared)),
            shared,
            output: Output::new(V5),
        }
    }

    impl Bench {
        /// What it wants to send now: packet, DUP, number or id.
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a publisher sends nothing else"
        )]
        fn sent(&mut self, now_ns: u64) -> Vec<(&'static str, bool, u64)> {
            self.publisher.fill(now_ns, &mut self.output);
            let mut decoder = Decoder::from_connected_client(V5, Limits::default());
            let mut sent = Vec::new();
            while let Some(packet) = decoder.decode(&mut self.output.bytes).unwrap() {
                sent.push(match packet {
                    Packet::Publish(publish) => {
                        let stamp = Stamp::decode(&publish.payload).unwrap();
                        ("PUBLISH", publish.dup, stamp.sequence)
                    }
                    Packet::Pubrel(ack) => ("PUBREL", false, u64::from(ack.packet_id.get())),
                    other => panic!("{other:?}"),
                });
            }
            sent
        }

        fn receive(&mut self, packet: fn(Ack) -> Packet, id: u16) -> io::Result<()> {
            let ack = Ack::success(PacketId::new(id).unwrap());
            self.publisher.on_packet(packet(ack), 5, &mut self.output)
        }

        fn reconnect(&mut self, session_present: bool) {
            let connack = Connack {
                session_present,
                ..Connack::default()
            };
            self.output = Output::new(V5);
            self.publisher.on_connected(&connack, &mut self.output);
        }

        fn acknowledged(&self) -> u64 {
            self.shared.totals().acknowledged
        }
    }

    #[test]
    fn the_window_bounds_what_is_unacknowledged_whatever_the_order_of_the_acknowledgements() {
        let mut bench = bench(Qos::AtLeastOnce, 2, None);
        let publish = |n| ("PUBLISH", false, n);
        assert_eq!(bench.sent(0), [publish(0), publish(1)]);
        bench.receive(Packet::Puback, 2).unwrap();
        assert_eq!(bench.sent(0), [publish(2)]);
        bench.receive(Packet::Puback, 1).unwrap();
        bench.receive(Packet::Puback, 3).unwrap();
        assert_eq!(bench.sent(0), [publish(3), publish(4)]);
        assert_eq!(bench.acknowledged(), 3);
        assert!(bench.receive(Packet::Puback, 3).is_err(), "twice");
        assert!(bench.receive(Packet::Pubcomp, 4).is_err(), "not QoS 2");
    }

    #[test]
    fn packet_ids_begin_anew_after_the_last_one() {
        let mut bench = bench(Qos::AtLeastOnce, 1, None);
        for number in 0..70_000_u64 {
            assert_eq!(bench.sent(0), [("PUBLISH", false, number)]);
            let id = u16::try_from(number % IDS + 1).unwrap();
            bench.receive(Packet::Puback, id).unwrap();
        }
        assert_eq!(bench.acknowledged(), 70_000);
    }

    /// [MQTT-4.4.0-1]
    #[test]
    fn a_resumed_session_goes_on_where_each_exchange_stopped() {
        let mut bench = bench(Qos::ExactlyOnce, 3, None);
        bench.reconnect(false);
        assert_eq!(bench.sent(0).len(), 3);
        bench.receive(Packet::Pubrec, 1).unwrap();
        bench.receive(Packet::Pubrec, 2).unwrap();
        bench.receive(Packet::Pubcomp, 1).unwrap();
        bench.reconnect(true);
        let expected = [
            ("PUBREL", false, 2),
            ("PUBLISH", true, 2),
            ("PUBLISH", false, 3),
        ];
        assert_eq!(bench.sent(0), expected);
        assert_eq!(bench.publisher.sessions_lost, 0);
    }

    #[test]
    fn a_session_that_is_gone_is_noticed() {
        let mut bench = bench(Qos::AtLeastOnce, 1, None);
        bench.reconnect(false);
        bench.sent(0);
        bench.reconnect(false);
        assert_eq!(bench.sent(0), [("PUBLISH", false, 0)]);
        assert_eq!(bench.publisher.sessions_lost, 1);
    }

    #[test]
    fn at_a_fixed_rate_a_message_is_due_when_it_is_due_even_if_it_is_sent_later() {
        let mut bench = bench(Qos::AtLeastOnce, 10, Some(100));
        bench.shared.recording.set(true);
        assert_eq!(bench.sent(0).len(), 1);
        assert_eq!(bench.sent(99).len(), 0);
        // A stall: three are overdue, and their latencies count from 100, 200 and 300.
        bench.publisher.fill(1_000_300, &mut bench.output);
        let due: Vec<_> = bench
            .publisher
            .slots
            .iter()
            .map(|slot| slot.due_ns)
            .collect();
        assert_eq!(due[..4], [0, 100, 200, 300]);
        let ack = Ack::success(PacketId::new(2).unwrap());
        let packet = Packet::Puback(ack);
        let now_ns = 2_000_100;
        bench
            .publisher
            .on_packet(packet, now_ns, &mut bench.output)
            .unwrap();
        let summary = bench.shared.ack_latencies.borrow().summary().unwrap();
        assert!(summary.max_us.abs_diff(2_000) <= 2, "{summary:?}");
    }

    #[test]
    fn without_acknowledgements_deliveries_open_the_window() {
        let mut bench = bench(Qos::AtMostOnce, 2, None);
        assert_eq!(bench.sent(0).len(), 2);
        assert_eq!(bench.sent(0).len(), 0);
        bench.shared.progress[0].delivered.set(1);
        assert_eq!(bench.sent(0).len(), 1);
    }

    #[test]
    fn a_refused_message_is_counted_and_over() {
        let mut bench = bench(Qos::ExactlyOnce, 1, None);
        bench.sent(0);
        let ack = Ack::new(PacketId::MIN, ReasonCode::QuotaExceeded);
        let refusal = Packet::Pubrec(ack);
        bench
            .publisher
            .on_packet(refusal, 0, &mut bench.output)
            .unwrap();
        assert_eq!((bench.publisher.refused, bench.acknowledged()), (1, 1));
        assert_eq!(bench.sent(0), [("PUBLISH", false, 1)]);
    }
}
