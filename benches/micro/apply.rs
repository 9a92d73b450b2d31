//! `Machine::apply`: a message for one persistent session, and its acknowledgement.

use bytes::Bytes;
use codec::{ClientId, Message, PacketId, Qos, SubscriptionOptions, Timestamp, TopicFilter};
use raft_store::{
    Acknowledgement, Batch, Command, Connect, ConnectionId, Effect, Epoch, Holder, Incarnation,
    Machine, NodeId, ProposerId, Response, ShardId, encode_command,
};
use session::{SessionLimits, Subscription};

use crate::harness::Harness;
use crate::wire;

const SUBSCRIBERS: u32 = 10;
/// How many messages lie between two writes of changed state.
const SAVE_EVERY: u64 = 1_000;

pub(crate) fn run(harness: &Harness) {
    for messages in [1_u32, 32] {
        let mut bench = Bench::new();
        let name = format!("apply: PUBLISH and PUBACK, {messages} of each per entry");
        harness.run(&name, messages, || bench.publish(messages));
    }
}

struct Bench {
    machine: Machine,
    index: u64,
    sequence: u64,
    epochs: Vec<Epoch>,
    /// Encoded once: bytes are what arrives.
    publishes: Vec<Bytes>,
    /// Of what the last entry sent: subscriber, packet id.
    sent: Vec<(usize, PacketId)>,
    next: usize,
    unsaved: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            machine: Machine::new(ShardId::ZERO),
            index: 0,
            sequence: 0,
            epochs: Vec::new(),
            publishes: Vec::new(),
            sent: Vec::new(),
            next: 0,
            unsaved: 0,
        };
        for n in 0..SUBSCRIBERS {
            bench.connect(n);
        }
        bench
    }

    fn connect(&mut self, n: u32) {
        let client_id = client(n);
        let connect = Connect {
            client_id: client_id.clone(),
            holder: holder(n),
            clean_start: false,
            session_expiry_interval_s: 3_600,
            receive_maximum: 65_535,
            limits: SessionLimits::default(),
            will: None,
            owner: None,
        };
        let connected = self.apply(vec![encode_command(&Command::Connect(Box::new(connect)))]);
        let Some(Response::Connected { epoch, .. }) = connected else {
            panic!("not connected: {connected:?}");
        };
        let filter = TopicFilter::try_from(topic(n).as_str()).expect("a filter");
        let subscription = Subscription {
            options: SubscriptionOptions::new(Qos::AtLeastOnce),
            identifier: None,
        };
        self.apply(vec![encode_command(&Command::Subscribe {
            client_id: client_id.clone(),
            epoch,
            filters: vec![(filter, subscription)],
            reads_retained: false,
        })]);
        self.epochs.push(epoch);
        self.publishes.push(encode_command(&Command::Publish {
            client_id,
            epoch,
            message: Message {
                topic: topic(n).as_str().try_into().expect("a topic"),
                ..wire::message()
            },
            retained_version: None,
        }));
    }

    /// One entry with as many messages, and the acknowledgements of the entry before.
    fn publish(&mut self, messages: u32) {
        let mut commands: Vec<Bytes> = std::mem::take(&mut self.sent)
            .into_iter()
            .filter_map(|(n, id)| self.acknowledge(n, id))
            .collect();
        for _ in 0..messages {
            self.next = (self.next + 1) % self.publishes.len();
            commands.extend(self.publishes.get(self.next).cloned());
        }
        self.apply(commands);
        self.unsaved += u64::from(messages);
        if self.unsaved >= SAVE_EVERY {
            self.unsaved = 0;
            self.machine.take_changes();
        }
    }

    fn acknowledge(&self, n: usize, packet_id: PacketId) -> Option<Bytes> {
        let command = Command::Acknowledge {
            client_id: client(u32::try_from(n).ok()?),
            epoch: *self.epochs.get(n)?,
            acknowledgements: vec![Acknowledgement::Puback(packet_id)],
        };
        Some(encode_command(&command))
    }

    /// Returns the last answer.
    fn apply(&mut self, commands: Vec<Bytes>) -> Option<Response> {
        self.index += 1;
        self.sequence += 1;
        let batch = Batch {
            proposer: ProposerId::Node {
                node: NodeId(1),
                incarnation: Incarnation(1),
            },
            sequence: self.sequence,
            leader_time: Timestamp::from_millis(self.index),
            commands,
        };
        let applied = self.machine.apply(self.index, &batch);
        for effect in &applied.effects {
            if let Effect::Send {
                holder, packet_id, ..
            } = effect
            {
                let n = usize::try_from(holder.connection.0).expect("a small number");
                self.sent.push((n, *packet_id));
            }
        }
        applied.answers.last().cloned()
    }
}

fn client(n: u32) -> ClientId {
    ClientId::new(&format!("client-{n}")).expect("a client id")
}

fn topic(n: u32) -> String {
    format!("building/7/floor/3/room/{n}/temperature")
}

fn holder(n: u32) -> Holder {
    Holder {
        node: NodeId(1),
        incarnation: Incarnation(1),
        connection: ConnectionId(u64::from(n)),
    }
}
