//! A shard's outbox on its way to its target: as whoever leads knows it, cut as it likes.

use std::sync::Arc;

use bytes::Bytes;
use codec::{
    Message, MessageProperties, PacketId, Qos, SubscriptionOptions, Timestamp, TopicFilter,
    TopicName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::decode_command;
use raft_store::{
    Applied, Batch, Command, ConnectionId, Effect, Epoch, Holder, Incarnation, Machine, NodeId,
    OutboxTarget, ProposerId, Response, ShardId, WaitingItem, encode_command,
};
use session::{Body, StoredMessage, Subscription};

use super::raft::{Fault, Raft, client_id, connect, fault, idempotent};
use super::seeded;

const SOURCE: ShardId = ShardId(1);
const TARGET: OutboxTarget = OutboxTarget::Shard(ShardId::ZERO);

#[derive(Clone, Debug)]
enum OutboxStep {
    /// To everyone, or to one member of a shared subscription.
    Publish {
        is_shared: bool,
    },
    /// The shared subscription gets or loses its only member.
    Member(bool),
    /// Whoever thinks it leads the source sends items, as it knows them.
    Cut {
        after: After,
        max_items: usize,
        max_bytes: usize,
        stale: bool,
    },
    /// The leader of the source learns an answer, and records how far the target is.
    Record(Index),
    ToTarget(Fault),
    ToSource(Fault),
    /// A replica of the source that is behind.
    CatchUp(usize),
}

/// From where a leader begins.
#[derive(Clone, Debug)]
enum After {
    /// It has learned nothing yet.
    Nothing,
    Learned,
    Anything(u64),
}

fn outbox_step() -> impl Strategy<Value = OutboxStep> {
    let after = prop_oneof![
        3 => Just(After::Learned),
        2 => Just(After::Nothing),
        1 => (0..40_u64).prop_map(After::Anything),
    ];
    let max_bytes = select(vec![1, 2, 4, 1_000]);
    prop_oneof![
        4 => any::<bool>().prop_map(|is_shared| OutboxStep::Publish { is_shared }),
        1 => any::<bool>().prop_map(OutboxStep::Member),
        6 => (after, 1..5_usize, max_bytes, any::<bool>()).prop_map(
            |(after, max_items, max_bytes, stale)| {
                OutboxStep::Cut { after, max_items, max_bytes, stale }
            }
        ),
        4 => any::<Index>().prop_map(OutboxStep::Record),
        10 => fault().prop_map(OutboxStep::ToTarget),
        10 => fault().prop_map(OutboxStep::ToSource),
        2 => (1..6_usize).prop_map(OutboxStep::CatchUp),
    ]
}

/// A shard's machine behind its log.
struct Shard {
    raft: Raft,
    machine: Machine,
    applied: usize,
}

impl Shard {
    fn new(shard: ShardId) -> Self {
        Self {
            raft: Raft::default(),
            machine: Machine::new(shard),
            applied: 0,
        }
    }

    /// Applies what is committed.
    fn apply(&mut self) -> Vec<Applied> {
        let new = self.raft.log.iter().enumerate().skip(self.applied);
        let applied = new
            .map(|(index, batch)| self.machine.apply(index as u64, batch))
            .collect();
        self.applied = self.raft.log.len();
        applied
    }

    /// Commits a command at once.
    fn commit(&mut self, command: &Command) -> Response {
        self.raft
            .log
            .push(idempotent(vec![encode_command(command)]));
        let applied = self.apply();
        applied.last().unwrap().answers[0].clone()
    }
}

struct Draining {
    source: Shard,
    /// A replica of the source, behind.
    behind: Machine,
    behind_applied: usize,
    target: Shard,
    published: u64,
    /// What the subscriber at the target was sent, of what was for everyone.
    received: Vec<u64>,
    /// And of what was for one member.
    received_shared: Vec<u64>,
    published_shared: Vec<u64>,
    /// Last numbers of the batches that the target took, and what it refused of them.
    answers: Vec<(u64, Vec<u64>)>,
    learned: u64,
}

const SHARE: &str = "$share/g/t";

/// The subscriber subscribes.
fn subscribe(filter: &str) -> Command {
    let options = SubscriptionOptions::new(Qos::ExactlyOnce);
    let subscription = Subscription {
        options,
        identifier: None,
    };
    Command::Subscribe {
        client_id: client_id("subscriber"),
        epoch: Epoch(1),
        filters: vec![(TopicFilter::try_from(filter).unwrap(), subscription)],
        reads_retained: false,
    }
}

fn number_in(message: &Message) -> u64 {
    std::str::from_utf8(&message.payload)
        .unwrap()
        .parse()
        .unwrap()
}

/// Contents are never evicted here.
fn content(body: &Body) -> &Arc<StoredMessage> {
    match body {
        Body::Here(stored) => stored,
        Body::Stored(_) => panic!("evicted"),
    }
}

fn holder(connection: u64) -> Holder {
    let (node, incarnation) = (NodeId(1), Incarnation(1));
    Holder {
        node,
        incarnation,
        connection: ConnectionId(connection),
    }
}

impl Draining {
    fn new() -> Self {
        let (mut source, mut target) = (Shard::new(SOURCE), Shard::new(ShardId::ZERO));
        source.commit(&connect("publisher", holder(1), 60));
        target.commit(&connect("subscriber", holder(2), 60));
        target.commit(&subscribe("#"));
        Self {
            source,
            behind: Machine::new(SOURCE),
            behind_applied: 0,
            target,
            published: 0,
            received: Vec::new(),
            received_shared: Vec::new(),
            published_shared: Vec::new(),
            answers: Vec::new(),
            learned: 0,
        }
    }

    fn step(&mut self, step: &OutboxStep) -> TestCaseResult {
        match step {
            OutboxStep::Publish { is_shared } => self.publish(*is_shared),
            OutboxStep::Member(true) => {
                self.target
                    .raft
                    .log
                    .push(idempotent(vec![encode_command(&subscribe(SHARE))]));
            }
            OutboxStep::Member(false) => {
                let command = Command::Unsubscribe {
                    client_id: client_id("subscriber"),
                    epoch: Epoch(1),
                    filters: vec![TopicFilter::try_from(SHARE).unwrap()],
                };
                self.target
                    .raft
                    .log
                    .push(idempotent(vec![encode_command(&command)]));
            }
            OutboxStep::Cut {
                after,
                max_items,
                max_bytes,
                stale,
            } => {
                self.cut(after, *max_items, *max_bytes, *stale);
            }
            OutboxStep::Record(index) => {
                if !self.answers.is_empty() {
                    let (upto, refused) = self.answers[index.index(self.answers.len())].clone();
                    self.learned = upto;
                    let command = Command::Taken {
                        target: TARGET,
                        upto,
                        refused,
                    };
                    self.source
                        .raft
                        .network
                        .push(idempotent(vec![encode_command(&command)]));
                }
            }
            OutboxStep::ToTarget(fault) => self.target.raft.suffer(fault),
            OutboxStep::ToSource(fault) => self.source.raft.suffer(fault),
            OutboxStep::CatchUp(count) => {
                let log = &self.source.raft.log;
                let upto = log.len().min(self.behind_applied + count);
                for (index, batch) in log.iter().enumerate().take(upto).skip(self.behind_applied) {
                    self.behind.apply(index as u64, batch);
                }
                self.behind_applied = upto;
            }
        }
        self.observe()
    }

    /// Whoever takes itself for the leader sends what it knows of.
    fn cut(&mut self, after: &After, max_items: usize, max_bytes: usize, stale: bool) {
        let after = match after {
            After::Nothing => 0,
            After::Learned => self.learned,
            After::Anything(number) => *number,
        };
        let leader = if stale {
            &self.behind
        } else {
            &self.source.machine
        };
        let items = leader.outbox_items(TARGET, after, max_items, max_bytes);
        let Some((first, _)) = items.front().cloned() else {
            return;
        };
        let to_item = |(_, item): (u64, WaitingItem)| {
            let content = Arc::clone(content(&item.body));
            item.into_item(content, Timestamp::ZERO)
        };
        let items = items.into_iter().map(to_item).collect();
        let command = Command::TakeOutbox {
            source: SOURCE,
            settled: leader.outbox_settled(TARGET),
            first,
            items,
        };
        let batch = idempotent(vec![encode_command(&command)]);
        let proposer = ProposerId::Outbox { source: SOURCE };
        self.target.raft.network.push(Batch { proposer, ..batch });
    }

    fn publish(&mut self, is_shared: bool) {
        let number = if is_shared {
            self.published_shared
                .push(self.published_shared.len() as u64 + 1);
            self.published_shared.len() as u64
        } else {
            self.published += 1;
            self.published
        };
        let (client_id, epoch) = (client_id("publisher"), Epoch(1));
        let packet_id = PacketId::MIN;
        let message = Message {
            topic: TopicName::try_from(if is_shared { "t" } else { "u" }).unwrap(),
            payload: Bytes::from(number.to_string()),
            qos: Qos::ExactlyOnce,
            retain: false,
            properties: MessageProperties::default(),
        };
        let share = (TopicFilter::try_from(SHARE).unwrap(), TARGET);
        let answer = self.source.commit(&Command::ReceiveExactlyOnce {
            client_id: client_id.clone(),
            epoch,
            packet_id,
            message,
            shards: if is_shared {
                vec![]
            } else {
                vec![ShardId::ZERO]
            },
            nodes: Vec::new(),
            retained_version: None,
            shared: if is_shared { vec![share] } else { vec![] },
        });
        assert_eq!(answer, Response::Received { first: true });
        self.source.commit(&Command::Release {
            client_id,
            epoch,
            packet_id,
        });
    }

    fn observe(&mut self) -> TestCaseResult {
        self.source.apply();
        let first = self.target.applied;
        for (applied, index) in self.target.apply().into_iter().zip(first..) {
            for effect in &applied.effects {
                if let Effect::Send { delivery, .. } = effect {
                    let number = number_in(&content(&delivery.body).message);
                    if delivery.share.is_some() {
                        self.received_shared.push(number);
                    } else {
                        self.received.push(number);
                    }
                }
            }
            let bytes = self.target.raft.log[index].commands[0].clone();
            let command = decode_command(bytes).unwrap();
            if let (Command::TakeOutbox { first, items, .. }, Response::TookOutbox { refused }) =
                (command, &applied.answers[0])
            {
                let upto = first + items.len() as u64 - 1;
                self.answers.push((upto, refused.clone()));
            }
        }
        let in_order = self
            .received
            .iter()
            .copied()
            .eq(1..=self.received.len() as u64);
        prop_assert!(in_order, "received {:?}", self.received);
        Ok(())
    }

    fn settle(&mut self) -> TestCaseResult {
        self.target.raft.heal();
        self.source.raft.heal();
        self.observe()?;
        let mut rounds = 0;
        while self.source.machine.outbox_targets().contains(&TARGET) {
            rounds += 1;
            prop_assert!(rounds < 200, "the outbox stands still");
            let after = After::Nothing;
            self.step(&OutboxStep::Cut {
                after,
                max_items: 5,
                max_bytes: 9,
                stale: false,
            })?;
            self.target.raft.heal();
            self.observe()?;
            // Not even a late `Taken` can lose an item: it is cumulative.
            if let Some((upto, refused)) = self.answers.last().cloned() {
                self.source.commit(&Command::Taken {
                    target: TARGET,
                    upto,
                    refused,
                });
            }
        }
        self.check_shared()?;
        prop_assert_eq!(self.received.len() as u64, self.published);
        Ok(())
    }

    /// Each shared message reached the member once, or waits for another place, once.
    fn check_shared(&self) -> TestCaseResult {
        let unplaced =
            self.source
                .machine
                .outbox_items(OutboxTarget::Unplaced, 0, usize::MAX, usize::MAX);
        let waiting = unplaced
            .iter()
            .map(|(_, item)| number_in(&content(&item.body).message));
        let mut all: Vec<u64> = waiting
            .chain(self.received_shared.iter().copied())
            .collect();
        all.sort_unstable();
        prop_assert_eq!(&all, &self.published_shared);
        Ok(())
    }
}

#[test]
fn a_target_takes_each_outbox_item_once_in_order_however_leaders_cut() {
    seeded::check(1_000, vec(outbox_step(), 1..250), |steps| {
        let mut draining = Draining::new();
        for step in &steps {
            draining.step(step)?;
        }
        draining.settle()
    });
}
