//! Commands that fill a shard: sessions of clients that are away, and messages for them.

use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, RetainHandling, SubscriptionOptions};
use codec::{TopicFilter, TopicName};
use raft_store::{
    Command, Connect, ConnectionId, Ending, Epoch, Holder, Incarnation, NodeId, Response, ShardId,
    encode_command,
};
use session::{SessionLimits, Subscription};

use crate::cluster::{Cluster, batch};

pub(crate) fn client(name: &str) -> ClientId {
    ClientId::try_from(name).unwrap()
}

pub(crate) fn connect(name: &str, node: NodeId) -> Command {
    Command::Connect(Box::new(Connect {
        client_id: client(name),
        holder: Holder {
            node,
            incarnation: Incarnation(1),
            connection: ConnectionId(1),
        },
        clean_start: false,
        session_expiry_interval_s: u32::MAX,
        receive_maximum: 50,
        limits: SessionLimits::default(),
        will: None,
        owner: None,
    }))
}

/// A message for the sessions that [`open_session`] made under this name.
pub(crate) fn publish(name: &str, payload: Vec<u8>) -> Command {
    Command::Publish {
        client_id: client("publisher"),
        epoch: Epoch(1),
        message: Message {
            topic: TopicName::try_from(format!("to/{name}").as_str()).unwrap(),
            payload: Bytes::from(payload),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::default(),
        },
        retained_version: None,
    }
}

/// Bytes that do not compress and can be told apart.
pub(crate) fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

impl Cluster {
    /// Writes commands in one batch.
    pub(crate) async fn run(&self, shard: ShardId, commands: &[Command]) -> Vec<Response> {
        let commands = commands.iter().map(encode_command).collect();
        self.write(shard, batch(commands)).await.to_vec()
    }

    /// A persistent session that gets what is published to its name; its client is away.
    pub(crate) async fn open_session(&self, shard: ShardId, name: &str) {
        let answers = self.run(shard, &[connect(name, NodeId(1))]).await;
        let Some(Response::Connected { epoch, .. }) = answers.first() else {
            panic!("{answers:?}");
        };
        let subscription = Subscription {
            options: SubscriptionOptions {
                qos: Qos::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::DoNotSend,
            },
            identifier: None,
        };
        let filter = TopicFilter::try_from(format!("to/{name}").as_str()).unwrap();
        let subscribe = Command::Subscribe {
            client_id: client(name),
            epoch: *epoch,
            filters: vec![(filter, subscription)],
            reads_retained: false,
        };
        let disconnect = Command::Disconnect {
            client_id: client(name),
            epoch: *epoch,
            session_expiry_interval_s: None,
            ending: Ending::Normal,
        };
        self.run(shard, &[subscribe, disconnect]).await;
    }
}
