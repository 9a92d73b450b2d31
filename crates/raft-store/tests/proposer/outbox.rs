//! A shard's outbox on its way to its target: as whoever leads knows it, cut as it likes.

use bytes::Bytes;
use codec::{
    Message, MessageProperties, PacketId, Qos, SubscriptionOptions, TopicFilter, TopicName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::decode_command;
use raft_store::{
    Applied, Batch, Command, ConnectionId, Effect, Epoch, Holder, Incarnation, Machine, NodeId,
    OutboxTarget, ProposerId, Response, ShardId, encode_command,
};
use session::Subscription;

use super::raft::{Fault, Raft, client_id, connect, fault, idempotent};
use super::seeded;

const SOURCE: ShardId = ShardId(1);
const TARGET: OutboxTarget = OutboxTarget::Shard(ShardId::ZERO);

#[derive(Clone, Debug)]
enum OutboxStep {
    Publish,
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
        4 => Just(OutboxStep::Publish),
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
    /// What the subscriber at the target was sent.
    received: Vec<u64>,
    /// Last numbers of the batches that the target answered `Done`.
    answers: Vec<u64>,
    learned: u64,
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
        let options = SubscriptionOptions::new(Qos::ExactlyOnce);
        let subscription = Subscription {
            options,
            identifier: None,
        };
        target.commit(&Command::Subscribe {
            client_id: client_id("subscriber"),
            epoch: Epoch(1),
            filters: vec![(TopicFilter::try_from("#").unwrap(), subscription)],
        });
        Self {
            source,
            behind: Machine::new(SOURCE),
            behind_applied: 0,
            target,
            published: 0,
            received: Vec::new(),
            answers: Vec::new(),
            learned: 0,
        }
    }

    fn step(&mut self, step: &OutboxStep) -> TestCaseResult {
        match step {
            OutboxStep::Publish => self.publish(),
            OutboxStep::Cut {
                after,
                max_items,
                max_bytes,
                stale,
            } => {
                let after = match after {
                    After::Nothing => 0,
                    After::Learned => self.learned,
                    After::Anything(number) => *number,
                };
                let leader = if *stale {
                    &self.behind
                } else {
                    &self.source.machine
                };
                let items = leader.outbox_items(TARGET, after, *max_items, *max_bytes);
                if let Some((first, _)) = items.front().cloned() {
                    let items = items.into_iter().map(|(_, item)| item).collect();
                    let command = Command::TakeOutbox {
                        source: SOURCE,
                        first,
                        items,
                    };
                    let batch = idempotent(vec![encode_command(&command)]);
                    let proposer = ProposerId::Outbox { source: SOURCE };
                    self.target.raft.network.push(Batch { proposer, ..batch });
                }
            }
            OutboxStep::Record(index) => {
                if !self.answers.is_empty() {
                    let upto = self.answers[index.index(self.answers.len())];
                    self.learned = upto;
                    let command = Command::Taken {
                        target: TARGET,
                        upto,
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

    fn publish(&mut self) {
        self.published += 1;
        let (client_id, epoch) = (client_id("publisher"), Epoch(1));
        let packet_id = PacketId::new(self.published as u16).unwrap();
        let message = Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: Bytes::from(self.published.to_string()),
            qos: Qos::ExactlyOnce,
            retain: false,
            properties: MessageProperties::default(),
        };
        let answer = self.source.commit(&Command::ReceiveExactlyOnce {
            client_id: client_id.clone(),
            epoch,
            packet_id,
            message,
            shards: vec![ShardId::ZERO],
            nodes: Vec::new(),
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
                    let payload = &delivery.body.message.payload;
                    self.received
                        .push(std::str::from_utf8(payload).unwrap().parse().unwrap());
                }
            }
            let bytes = self.target.raft.log[index].commands[0].clone();
            let command = decode_command(bytes).unwrap();
            if let (Command::TakeOutbox { first, items, .. }, Response::Done) =
                (command, &applied.answers[0])
            {
                let upto = first + items.len() as u64 - 1;
                prop_assert!(
                    self.received.len() as u64 >= upto,
                    "Done, but {upto} is not taken"
                );
                self.answers.push(upto);
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
        while !self.source.machine.outbox_targets().is_empty() {
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
            let upto = self.answers.iter().max().copied().unwrap_or(0);
            self.source.commit(&Command::Taken {
                target: TARGET,
                upto,
            });
        }
        prop_assert_eq!(self.received.len() as u64, self.published);
        prop_assert_eq!(self.source.machine.outbox_bytes(), 0);
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
