//! Bytes → batches of every kind of command, about few clients, topics, shards and nodes, so that
//! they meet; with a number out of every range now and then.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use codec::{
    ClientId, Message, MessageProperties, PacketId, Qos, ReasonCode, SubscriptionIdentifier,
    SubscriptionOptions, Timestamp, TopicFilter, TopicName, Utf8, Will,
};
use raft_store::command::{
    Acknowledgement, Command, Connect, Ending, OutboxItem, OutboxTarget, RetainedCopy,
    RetainedLimits,
};
use raft_store::encoding::encode_command;
use raft_store::{Batch, ConnectionId, Epoch, Holder, Incarnation, NodeId, ProposerId, ShardId};
use session::{QueueOverflow, SessionLimits, StoredMessage, Subscription};

/// Reads choices off the input; zeros behind its end.
pub(crate) struct Commands<'a> {
    input: &'a [u8],
    time: Timestamp,
    /// Where each stream of batches is.
    sequences: BTreeMap<(NodeId, Incarnation), u64>,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            time: Timestamp::ZERO,
            sequences: BTreeMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.input.split_first().unwrap_or((&0, &[]));
        self.input = rest;
        *first
    }

    /// The next bytes as they are, with their length in front.
    pub(crate) fn bytes(&mut self) -> Bytes {
        let length = usize::from(self.byte());
        let (taken, rest) = self.input.split_at(length.min(self.input.len()));
        self.input = rest;
        Bytes::copy_from_slice(taken)
    }

    pub(crate) fn batch(&mut self) -> Batch {
        let kind = self.byte();
        let proposer = match kind & 3 {
            0 => ProposerId::Idempotent,
            1 => ProposerId::Outbox {
                source: self.shard(),
            },
            _ => ProposerId::Node {
                node: self.node(),
                incarnation: Incarnation(self.number()),
            },
        };
        let sequence = match proposer {
            ProposerId::Node { .. } if kind & 0x80 != 0 => self.number(),
            ProposerId::Node { node, incarnation } => {
                let last = self.sequences.entry((node, incarnation)).or_default();
                *last = last.saturating_add(1);
                *last
            }
            ProposerId::Outbox { .. } | ProposerId::Idempotent => 0,
        };
        if kind & 0x40 != 0 {
            let seconds = self.number();
            self.time = self.time.plus(std::time::Duration::from_secs(seconds));
        }
        let count = 1 + (kind >> 2 & 3);
        let commands = (0..count).map(|_| encode_command(&self.command()));
        let commands = commands.collect();
        Batch {
            proposer,
            sequence,
            leader_time: self.time,
            commands,
        }
    }

    fn command(&mut self) -> Command {
        match self.byte() % 22 {
            0 => Command::Hello,
            1 => Command::NodeUp { node: self.node() },
            2 => Command::NodeDown {
                node: self.node(),
                incarnation: Incarnation(self.number()),
            },
            3 | 4 => Command::Connect(Box::new(self.connect())),
            5 => Command::Disconnect {
                client_id: self.client(),
                epoch: self.epoch(),
                session_expiry_interval_s: self.option(Self::seconds),
                ending: match self.flag() {
                    true => Ending::Normal,
                    false => Ending::Abnormal,
                },
            },
            6 => Command::Subscribe {
                client_id: self.client(),
                epoch: self.epoch(),
                reads_retained: self.flag(),
                filters: self.list(|it| (it.filter(), it.subscription())),
            },
            7 => Command::Unsubscribe {
                client_id: self.client(),
                epoch: self.epoch(),
                filters: self.list(Self::filter),
            },
            8 => Command::Publish {
                client_id: self.client(),
                epoch: self.epoch(),
                message: self.message(),
                retained_version: self.option(Self::number),
            },
            9 => Command::PublishShared {
                client_id: self.client(),
                epoch: self.option(Self::epoch),
                filter: self.filter(),
                message: self.message(),
                expires_in_ms: self.option(Self::number),
            },
            10 => Command::ReceiveExactlyOnce {
                client_id: self.client(),
                epoch: self.epoch(),
                packet_id: self.packet_id(),
                message: self.message(),
                retained_version: self.option(Self::number),
                shards: self.list(Self::shard),
                nodes: self.list(Self::life),
                shared: self.list(|it| (it.filter(), it.target())),
            },
            11 => Command::SetRetained {
                client_id: self.client(),
                epoch: self.option(Self::epoch),
                message: self.message(),
                limits: RetainedLimits {
                    messages_max: self.number(),
                    bytes_max: self.number(),
                },
            },
            12 => Command::DeliverRetained {
                client_id: self.client(),
                epoch: self.epoch(),
                last: self.flag(),
                copies: self.list(Self::copy),
            },
            kind => self.rarer_command(kind),
        }
    }

    fn rarer_command(&mut self, kind: u8) -> Command {
        match kind {
            13 => Command::PublishWill {
                epoch: self.epoch(),
                retained_version: self.option(Self::number),
                shards: self.list(Self::shard),
                nodes: self.list(Self::life),
                shared: self.list(|it| (it.filter(), it.target())),
            },
            14 => Command::Place {
                number: self.number(),
                to: self.option(Self::target),
            },
            15 => Command::Claim {
                target: self.target(),
                number: self.number(),
            },
            16 => Command::Release {
                client_id: self.client(),
                epoch: self.epoch(),
                packet_id: self.packet_id(),
            },
            17 => Command::Acknowledge {
                client_id: self.client(),
                epoch: self.epoch(),
                acknowledgements: self.list(Self::acknowledgement),
            },
            18 => match self.flag() {
                true => Command::Fence {
                    client_id: self.client(),
                    epoch: self.epoch(),
                },
                false => Command::FenceEnd {
                    client_id: self.client(),
                    epoch: self.epoch(),
                },
            },
            19 => Command::TakeOutbox {
                source: self.shard(),
                settled: self.number(),
                first: self.number(),
                items: self.list(Self::outbox_item),
            },
            20 => Command::Taken {
                target: self.target(),
                upto: self.number(),
                refused: self.list(Self::number),
            },
            _ => match self.flag() {
                true => Command::Barrier,
                false => Command::ExpireSession {
                    client_id: self.client(),
                    epoch: self.epoch(),
                },
            },
        }
    }

    fn connect(&mut self) -> Connect {
        Connect {
            client_id: self.client(),
            holder: Holder {
                node: self.node(),
                incarnation: Incarnation(self.number()),
                connection: ConnectionId(self.number()),
            },
            clean_start: self.flag(),
            session_expiry_interval_s: self.seconds(),
            receive_maximum: u16::from(self.byte()) + 1,
            limits: SessionLimits {
                inflight_max: u16::from(self.byte() & 3) + 1,
                receive_maximum: u16::from(self.byte() & 3) + 1,
                queue_messages_max: u32::from(self.byte() & 7),
                queue_bytes_max: self.number(),
                queue_overflow: self.pick([
                    QueueOverflow::Reject,
                    QueueOverflow::DropNewest,
                    QueueOverflow::DropOldest,
                    QueueOverflow::Disconnect,
                ]),
            },
            will: self.option(|it| Will {
                message: it.message(),
                delay_interval_s: it.seconds(),
            }),
            owner: self.option(|it| Utf8::try_from(it.pick(["u", "v"])).expect("legal")),
        }
    }

    fn subscription(&mut self) -> Subscription {
        let options = self.byte();
        Subscription {
            options: SubscriptionOptions {
                no_local: options & 1 != 0,
                retain_as_published: options & 2 != 0,
                ..SubscriptionOptions::new(self.qos())
            },
            identifier: SubscriptionIdentifier::new(u32::from(options >> 2)),
        }
    }

    fn message(&mut self) -> Message {
        let details = self.byte();
        Message {
            topic: self.topic(),
            payload: Bytes::from(vec![b'x'; usize::from(details >> 4)]),
            qos: self.qos(),
            retain: details & 1 != 0,
            properties: MessageProperties {
                message_expiry_interval: (details & 2 != 0).then(|| self.seconds()),
                ..MessageProperties::default()
            },
        }
    }

    fn copy(&mut self) -> RetainedCopy {
        RetainedCopy {
            message: self.message(),
            version: self.number(),
            qos: self.pick([Qos::AtLeastOnce, Qos::ExactlyOnce]),
            identifier: SubscriptionIdentifier::new(u32::from(self.byte() & 3)),
            expires_in_ms: self.option(Self::number),
        }
    }

    fn outbox_item(&mut self) -> OutboxItem {
        OutboxItem {
            publisher: self.client(),
            body: Arc::new(StoredMessage {
                id: self.number(),
                message: self.message(),
                expires_at: None,
                retained_version: self.option(Self::number),
            }),
            expires_in_ms: self.option(Self::number),
            share: self.option(Self::filter),
        }
    }

    fn acknowledgement(&mut self) -> Acknowledgement {
        let kind = self.byte();
        let packet_id = self.packet_id();
        match kind & 3 {
            0 => Acknowledgement::Puback(packet_id),
            1 => Acknowledgement::Pubrec(packet_id, ReasonCode::Success),
            2 => Acknowledgement::Pubrec(packet_id, ReasonCode::QuotaExceeded),
            _ => Acknowledgement::Pubcomp(packet_id),
        }
    }

    fn target(&mut self) -> OutboxTarget {
        match self.byte() & 3 {
            0 => OutboxTarget::Shard(self.shard()),
            1 => OutboxTarget::Unplaced,
            _ => {
                let (node, incarnation) = self.life();
                OutboxTarget::Node(node, incarnation)
            }
        }
    }

    fn life(&mut self) -> (NodeId, Incarnation) {
        (self.node(), Incarnation(self.number()))
    }

    fn node(&mut self) -> NodeId {
        self.pick([NodeId(1), NodeId(2), NodeId(3), NodeId(u16::MAX)])
    }

    /// Shard 1 is the one that is tested.
    fn shard(&mut self) -> ShardId {
        self.pick([ShardId(1), ShardId(0), ShardId(2), ShardId(u16::MAX)])
    }

    fn epoch(&mut self) -> Epoch {
        Epoch(self.number())
    }

    fn client(&mut self) -> ClientId {
        let name = self.pick(["a", "b", "c", "ab"]);
        ClientId::new(name).expect("legal")
    }

    fn topic(&mut self) -> TopicName {
        let name = self.pick(["t", "t/u", "u", "$x"]);
        TopicName::try_from(name).expect("legal")
    }

    fn filter(&mut self) -> TopicFilter {
        let filters = [
            "t",
            "#",
            "t/+",
            "$share/g/t",
            "$share/g/#",
            "$share/h/t",
            "u",
            "$x/#",
        ];
        TopicFilter::try_from(self.pick(filters)).expect("legal")
    }

    fn packet_id(&mut self) -> PacketId {
        PacketId::new(u16::from(self.byte() & 7)).unwrap_or(PacketId::MAX)
    }

    fn qos(&mut self) -> Qos {
        self.pick([
            Qos::AtLeastOnce,
            Qos::ExactlyOnce,
            Qos::AtMostOnce,
            Qos::ExactlyOnce,
        ])
    }

    fn seconds(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }

    /// Small, or out of every range.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            253 => 1 << 63,
            252 => u64::from(u32::MAX),
            small => u64::from(small),
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn option<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| some(self))
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        let length = self.byte() & 3;
        (0..length).map(|_| item(self)).collect()
    }

    fn pick<T, const N: usize>(&mut self, choices: [T; N]) -> T {
        let index = usize::from(self.byte()) % N;
        choices
            .into_iter()
            .nth(index)
            .expect("it is below the length")
    }
}
