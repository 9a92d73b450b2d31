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
#[path = "model/naive_session.rs"]
mod naive_session;
#[path = "model/naive_shard.rs"]
mod naive_shard;
#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/seeded.rs"]
mod seeded;
#[path = "model/tested.rs"]
mod tested;
#[path = "model/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, Timestamp, TopicName};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{TestCaseResult, TestRunner};
use raft_store::{
    Batch, Command, Epoch, Incarnation, NodeId, OutboxItem, OutboxTarget, ProposerId, ShardId,
    StateKey, encode_command,
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
    seeded::check(300, vec(action::action(), 1..200), |actions| {
        run(1, actions)
    });
}

#[test]
fn three_shards_and_their_outboxes_do_what_the_models_do() {
    seeded::check(300, vec(action::action(), 1..200), |actions| {
        run(3, actions)
    });
}

/// What no node would propose.
fn nonsense() -> Vec<Command> {
    let (client_id, epoch) = (ClientId::new("nobody").unwrap(), Epoch(u64::MAX));
    let (node, last) = (NodeId(u16::MAX), Incarnation(u64::MAX));
    let message = Message {
        topic: TopicName::try_from("a").unwrap(),
        payload: Bytes::new(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: MessageProperties::default(),
    };
    let body = Arc::new(StoredMessage { id: 0, message });
    let item = OutboxItem {
        publisher: client_id.clone(),
        body,
    };
    let take = |first, count| {
        let items = vec![item.clone(); count];
        Command::TakeOutbox {
            source: ShardId(9),
            first,
            items,
        }
    };
    let targets = [
        OutboxTarget::Shard(ShardId(7)),
        OutboxTarget::Node(node, last),
    ];
    let mut commands = vec![take(0, 1), take(2, 1), take(u64::MAX, 3), take(1, 0)];
    commands.extend(targets.map(|target| Command::Taken {
        target,
        upto: u64::MAX,
    }));
    commands.extend([
        Command::Disconnect {
            client_id: client_id.clone(),
            epoch,
            session_expiry_interval_s: None,
        },
        Command::Subscribe {
            client_id: client_id.clone(),
            epoch,
            filters: Vec::new(),
        },
        Command::ExpireSession {
            client_id: client_id.clone(),
            epoch,
        },
        Command::FenceEnd { client_id, epoch },
        Command::NodeDown {
            node,
            incarnation: last,
        },
    ]);
    commands
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
        let tree = vec(action::action(), 140..150)
            .new_tree(&mut runner)
            .unwrap();
        let mut world = World::new(3).unwrap();
        for action in tree.current() {
            world.step(action).unwrap();
        }
        for (kind, count) in world.seen {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    for kind in [
        "Done",
        "Refused(StaleEpoch)",
        "Refused(StaleIncarnation)",
        "Refused(Malformed)",
        "NodeUp",
        "Connected",
        "Subscribed",
        "Unsubscribed",
        "Published",
        "Received",
        "ReceiveMaximumExceeded",
        "Released",
        "Resumed",
        "Send",
        "SendPubrel",
        "Close",
        "FencesOver",
        "LiveOutbox",
        "RouteAdded",
        "RouteRemoved",
        "NodeDown",
        "Dropped",
    ] {
        let count = seen.get(kind).copied().unwrap_or(0);
        assert!(count >= 10, "{kind} was seen {count} times: {seen:?}");
    }
}
