//! Random commands on one shard, and on three with their outboxes, against a naive model: equal answers,
//! equal effects, equal storage after each entry; and what holds from the clients' side.
//!
//! A second replica of each shard writes its tables now and then and starts from them: it must go on as
//! if nothing happened. `HOLDFAST_TEST_SCALE=1000` makes it a night's work.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a test: a panic is its failure, its numbers are small"
)]

#[path = "model/action.rs"]
mod action;
#[path = "model/effects.rs"]
mod effects;
#[path = "model/fresh_values.rs"]
mod fresh_values;
#[path = "model/naive_session.rs"]
mod naive_session;
#[path = "model/naive_shard.rs"]
mod naive_shard;
#[path = "model/node_view.rs"]
mod node_view;
#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/records.rs"]
mod records;
#[path = "model/replica.rs"]
mod replica;
#[path = "model/seeded.rs"]
mod seeded;
#[path = "model/tested.rs"]
mod tested;
#[path = "model/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, Timestamp, TopicFilter, TopicName};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{TestCaseResult, TestRunner};
use raft_store::{
    Batch, Command, Ending, Epoch, Incarnation, NodeId, OutboxItem, OutboxTarget, ProposerId,
    RetainedLimits, ShardId, StateKey, encode_command,
};
use session::StoredMessage;

use action::Action;
use tested::Tested;
use world::World;

fn run(shards: u16, actions: Vec<Action>) -> TestCaseResult {
    let mut world = World::new(shards)?;
    for action in actions {
        world.step(action)?;
    }
    world.settle()
}

#[test]
fn one_shard_does_what_the_model_does() {
    seeded::check(300, action::actions(250), |actions| run(1, actions));
}

#[test]
fn three_shards_and_their_outboxes_do_what_the_models_do() {
    seeded::check(400, action::actions(250), |actions| run(3, actions));
}

/// What no node would propose.
fn nonsense() -> Vec<Command> {
    let message = Message {
        topic: TopicName::try_from("a").unwrap(),
        payload: Bytes::new(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: MessageProperties::default(),
    };
    [
        nonsense_of_outboxes(&message),
        nonsense_of_messages(&message),
        nonsense_of_sessions(),
    ]
    .concat()
}

fn nobody() -> (ClientId, Epoch) {
    (ClientId::new("nobody").unwrap(), Epoch(u64::MAX))
}

/// The last life of the last node.
const LAST: (NodeId, Incarnation) = (NodeId(u16::MAX), Incarnation(u64::MAX));

fn nonsense_of_outboxes(message: &Message) -> Vec<Command> {
    let body = Arc::new(StoredMessage {
        id: 0,
        message: message.clone(),
        expires_at: None,
        retained_version: None,
    });
    let item = OutboxItem {
        publisher: nobody().0,
        body,
        expires_in_ms: Some(u64::MAX),
        share: None,
    };
    let take = |first, count| {
        let items = vec![item.clone(); count];
        Command::TakeOutbox {
            source: ShardId(9),
            settled: u64::MAX,
            first,
            items,
        }
    };
    let targets = [
        OutboxTarget::Shard(ShardId(7)),
        OutboxTarget::Node(LAST.0, LAST.1),
        OutboxTarget::Unplaced,
    ];
    let mut commands = vec![take(0, 1), take(2, 1), take(u64::MAX, 3), take(1, 0)];
    commands.extend(targets.map(|target| Command::Taken {
        target,
        upto: u64::MAX,
        refused: vec![0, 1, u64::MAX],
    }));
    commands.extend(targets.map(|target| Command::Claim { target, number: 1 }));
    commands.extend(targets.map(|target| Command::Place {
        number: u64::MAX,
        to: Some(target),
    }));
    commands
}

fn nonsense_of_messages(message: &Message) -> Vec<Command> {
    let (client_id, epoch) = nobody();
    let share = TopicFilter::try_from("$share/g/#").unwrap();
    vec![
        Command::PublishWill {
            epoch,
            retained_version: Some(u64::MAX),
            shards: vec![ShardId(9)],
            nodes: vec![LAST],
            shared: vec![(share.clone(), OutboxTarget::Unplaced)],
        },
        Command::PublishShared {
            client_id: client_id.clone(),
            epoch: None,
            filter: share,
            message: message.clone(),
            expires_in_ms: Some(u64::MAX),
        },
        Command::DeliverRetained {
            client_id: client_id.clone(),
            epoch,
            copies: Vec::new(),
            last: true,
        },
        Command::SetRetained {
            client_id,
            epoch: None,
            message: message.clone(),
            limits: RetainedLimits {
                messages_max: 0,
                bytes_max: 0,
            },
        },
    ]
}

fn nonsense_of_sessions() -> Vec<Command> {
    let (client_id, epoch) = nobody();
    vec![
        Command::Barrier,
        Command::Disconnect {
            client_id: client_id.clone(),
            epoch,
            session_expiry_interval_s: None,
            ending: Ending::Abnormal,
        },
        Command::Subscribe {
            client_id: client_id.clone(),
            epoch,
            filters: Vec::new(),
            reads_retained: true,
        },
        Command::ExpireSession {
            client_id: client_id.clone(),
            epoch,
        },
        Command::FenceEnd { client_id, epoch },
        Command::NodeDown {
            node: LAST.0,
            incarnation: LAST.1,
        },
    ]
}

/// Nothing panics, each command is answered, nothing is left behind.
#[test]
fn nonsense_is_answered_and_changes_nothing() {
    let mut shard = Tested::new(ShardId::ZERO);
    let commands = nonsense();
    let idempotent = (ProposerId::Idempotent, 0);
    let of = |life| ProposerId::Node {
        node: NodeId(1),
        incarnation: Incarnation(life),
    };
    let streams = [
        idempotent,
        (of(5), 0),
        (of(5), 2),
        (of(5), u64::MAX),
        (of(0), 1),
        (of(4), 1),
    ];
    for ((proposer, sequence), time) in streams.into_iter().zip([u64::MAX, 0, 1, 2, 3, 4]) {
        let leader_time = Timestamp::from_millis(time);
        let bytes = commands.iter().map(encode_command).collect();
        let batch = Batch {
            proposer,
            sequence,
            leader_time,
            commands: bytes,
        };
        let expected: Vec<_> = commands.iter().cloned().map(Some).collect();
        let applied = shard.apply(batch, &expected).unwrap();
        assert_eq!(applied.answers.len(), commands.len());
    }
    let is_small = |key: &StateKey| matches!(key, StateKey::Counters | StateKey::Node(_));
    assert!(shard.records.keys().all(is_small), "{:?}", shard.records);
}

/// The actions are not so tame that something is never reached.
#[test]
fn the_model_sees_every_answer_and_every_effect() {
    let mut seen = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..60 {
        let tree = action::actions(400).new_tree(&mut runner).unwrap();
        let mut world = World::new(3).unwrap();
        for action in tree.current() {
            world.step(action).unwrap();
        }
        let of_shards = world.shards.into_iter().flat_map(|shard| shard.seen);
        for (kind, count) in world.seen.into_iter().chain(of_shards) {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    for kind in [
        "Done",
        "Refused(StaleEpoch)",
        "Refused(StaleIncarnation)",
        "Refused(Malformed)",
        "Refused(NotOwner)",
        "NodeUp",
        "Connected",
        "Subscribed",
        "Unsubscribed",
        "Published",
        "Received",
        "ReceiveMaximumExceeded",
        "Released",
        "RetainedSet",
        "RetainedFull",
        "RetainedDelivered",
        "TookOutbox",
        "Resumed",
        "Send",
        "SendPubrel",
        "Close",
        "FencesOver",
        "LiveOutbox",
        "RouteAdded",
        "RouteRemoved",
        "NodeDown",
        "Dropped(QueueFullNewest)",
        "Dropped(QueueFullOldest)",
        "Dropped(SessionEnded)",
        "Dropped(Expired)",
        "Dropped(NoMember)",
        "a shared item is refused",
        "a shared item is claimed",
        "a will is published",
        "a retained copy is out of date",
        "a message is sent from disk",
        "a snapshot brings messages",
    ] {
        let count = seen.get(kind).copied().unwrap_or(0);
        assert!(count >= 4, "{kind} was seen {count} times: {seen:?}");
    }
}
