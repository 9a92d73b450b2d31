//! What is easier to read as a story than as a property: one command after the other into one shard.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test picks the effects that it is about"
)]

mod bodies;
mod catch_up;
mod owners;
mod retained;
mod shared;
mod storage;
mod time;
mod wills;

use bytes::Bytes;
use codec::{
    ClientId, Message, MessageProperties, PacketId, Qos, SubscriptionOptions, Timestamp,
    TopicFilter, TopicName, Will,
};
use session::{SessionLimits, Subscription};

use super::Machine;
use crate::batch::{Batch, ProposerId};
use crate::command::{
    Acknowledgement, Command, Connect, Effect, Ending, OutboxTarget, Response, WaitingItem,
};
use crate::encoding::encode_command;
use crate::ids::{ConnectionId, Epoch, Holder, Incarnation, NodeId, ShardId};

const SHARD: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

/// A shard and how far its log is.
struct Tested {
    machine: Machine,
    index: u64,
    now_ms: u64,
    connections: u64,
}

impl Tested {
    fn new() -> Self {
        Self {
            machine: Machine::new(SHARD),
            index: 0,
            now_ms: 1000,
            connections: 0,
        }
    }

    fn wait_s(&mut self, seconds: u64) {
        self.now_ms += seconds * 1000;
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms)
    }

    /// One command as an entry of its own.
    fn apply(&mut self, command: &Command) -> (Response, Vec<Effect>) {
        self.index += 1;
        let batch = Batch {
            proposer: ProposerId::Idempotent,
            sequence: 0,
            leader_time: self.now(),
            commands: vec![encode_command(command)],
        };
        let applied = self.machine.apply(self.index, &batch);
        (applied.answers[0].clone(), applied.effects)
    }

    fn answer(&mut self, command: &Command) -> Response {
        self.apply(command).0
    }

    /// The session lives for an hour, a transient one (`0`) as long as its connection.
    fn connect_with(&mut self, connect: impl FnOnce(&mut Connect)) -> (Epoch, Vec<Effect>) {
        self.connections += 1;
        let mut command = Connect {
            client_id: client("c"),
            holder: holder(self.connections),
            clean_start: false,
            session_expiry_interval_s: 3600,
            receive_maximum: 10,
            limits: SessionLimits::default(),
            will: None,
            owner: None,
        };
        connect(&mut command);
        let (answer, effects) = self.apply(&Command::Connect(Box::new(command)));
        let Response::Connected { epoch, .. } = answer else {
            panic!("{answer:?}");
        };
        (epoch, effects)
    }

    fn connect(&mut self, client_id: &str) -> Epoch {
        self.connect_with(|connect| connect.client_id = client(client_id))
            .0
    }

    fn disconnect(&mut self, client_id: &str, epoch: Epoch, ending: Ending) -> Vec<Effect> {
        let command = Command::Disconnect {
            client_id: client(client_id),
            epoch,
            session_expiry_interval_s: None,
            ending,
        };
        self.apply(&command).1
    }

    fn subscribe(&mut self, client_id: &str, epoch: Epoch, filter: &str, qos: Qos) {
        self.subscribe_and_read(client_id, epoch, filter, qos, false);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    fn subscribe_and_read(
        &mut self,
        client_id: &str,
        epoch: Epoch,
        filter: &str,
        qos: Qos,
        reads_retained: bool,
    ) {
        let subscription = Subscription {
            options: SubscriptionOptions::new(qos),
            identifier: None,
        };
        let answer = self.answer(&Command::Subscribe {
            client_id: client(client_id),
            epoch,
            filters: vec![(self::filter(filter), subscription)],
            reads_retained,
        });
        assert!(matches!(answer, Response::Subscribed { .. }), "{answer:?}");
    }

    /// From a client whose session lives elsewhere.
    fn publish(&mut self, message: Message, retained_version: Option<u64>) -> Vec<Effect> {
        let command = Command::Publish {
            client_id: client("publisher"),
            epoch: Epoch(1),
            message,
            retained_version,
        };
        self.apply(&command).1
    }

    fn puback(&mut self, client_id: &str, epoch: Epoch, packet_id: u16) -> Vec<Effect> {
        let command = Command::Acknowledge {
            client_id: client(client_id),
            epoch,
            acknowledgements: vec![Acknowledgement::Puback(id(packet_id))],
        };
        self.apply(&command).1
    }

    fn waiting(&self, target: OutboxTarget) -> Vec<(u64, WaitingItem)> {
        self.machine
            .outbox_items(target, 0, usize::MAX, usize::MAX)
            .into()
    }

    /// The tables as they are after a save, and the machine that starts from them.
    fn reload(&self) -> Machine {
        // What is not in the changes must not matter: everything is written anew.
        let mut pairs = Vec::new();
        let keys = self.machine.keys();
        for key in keys {
            let Some(record) = self.machine.record(&key) else {
                continue;
            };
            let key = crate::encoding::encode_key(&key);
            let record = crate::encoding::encode_record(&record);
            pairs.push((key.into_boxed_slice(), record.into_boxed_slice()));
        }
        Machine::load(SHARD, &mut pairs.into_iter()).unwrap()
    }
}

fn client(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap()
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

/// Connections live on node 1.
fn holder(connection: u64) -> Holder {
    Holder {
        node: NodeId(1),
        incarnation: Incarnation(1),
        connection: ConnectionId(connection),
    }
}

fn message(topic: &str, payload: &str, qos: Qos) -> Message {
    Message {
        topic: self::topic(topic),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        properties: MessageProperties::default(),
    }
}

fn will(delay_interval_s: u32) -> Will {
    Will {
        message: message("will", "gone", Qos::AtLeastOnce),
        delay_interval_s,
    }
}

/// Payloads of the messages that are sent, or `?` where only the name is there.
fn sent(effects: &[Effect]) -> Vec<String> {
    let payload = |effect: &Effect| match effect {
        Effect::Send { delivery, .. } => Some(match &delivery.body {
            session::Body::Here(stored) => {
                String::from_utf8(stored.message.payload.to_vec()).unwrap()
            }
            session::Body::Stored(_) => "?".to_owned(),
        }),
        _ => None,
    };
    effects.iter().filter_map(payload).collect()
}

/// Whoever waits for a message is told by which command it came.
#[test]
fn each_effect_is_told_with_its_command() {
    let mut shard = Tested::new();
    let epoch = shard.connect("c");
    shard.subscribe("c", epoch, "t", Qos::AtLeastOnce);
    let publish = |topic: &str| Command::Publish {
        client_id: client("publisher"),
        epoch: Epoch(1),
        message: message(topic, topic, Qos::AtLeastOnce),
        retained_version: None,
    };
    let commands = [publish("t"), publish("nobody"), publish("t")];
    let batch = Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time: shard.now(),
        commands: commands.iter().map(encode_command).collect(),
    };
    let applied = shard.machine.apply(shard.index + 1, &batch);
    assert_eq!(applied.effects_after, [1, 1, 2]);
    assert_eq!(sent(&applied.effects), ["t", "t"]);
}
