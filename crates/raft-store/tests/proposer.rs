//! Streams of batches over a network that drops, repeats, delays and reorders, under leaders that come
//! and go: every command takes effect once and in order, and its waiter gets the answer of that very
//! application.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test: a panic is its failure, its numbers are small"
)]

#[path = "model/seeded.rs"]
mod seeded;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use codec::{
    ClientId, Message, MessageProperties, PacketId, Qos, SubscriptionOptions, Timestamp,
    TopicFilter, TopicName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestCaseResult;
use raft_store::{
    Applied, Batch, Command, Connect, ConnectionId, Effect, Epoch, Holder, Incarnation, Machine,
    NodeId, OutboxTarget, ProposerCore, ProposerId, Refusal, Response, ShardId, encode_command,
};
use session::{SessionLimits, Subscription};

const NODES: usize = 3;

/// Batches on their way to a shard's leader, its entries that are not committed yet, and those that are.
#[derive(Default)]
struct Raft {
    network: Vec<Batch>,
    tail: Vec<Batch>,
    log: Vec<Batch>,
}

/// What a network and changes of leader do to batches.
#[derive(Clone, Debug)]
enum Fault {
    /// One arrives, whichever was sent first.
    Deliver(Index),
    /// One arrives and will arrive again.
    Repeat(Index),
    Drop(Index),
    /// The new leader has some of what the old one had appended.
    ChangeLeader(Index),
    /// Some of the leader's entries reach a quorum.
    Commit(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => any::<Index>().prop_map(Fault::Deliver),
        3 => any::<Index>().prop_map(Fault::Repeat),
        2 => any::<Index>().prop_map(Fault::Drop),
        2 => any::<Index>().prop_map(Fault::ChangeLeader),
        6 => (1..4_usize).prop_map(Fault::Commit),
    ]
}

impl Raft {
    fn suffer(&mut self, fault: &Fault) {
        let pick = |index: &Index, network: &[Batch]| {
            (!network.is_empty()).then(|| index.index(network.len()))
        };
        match fault {
            Fault::Deliver(index) => {
                if let Some(at) = pick(index, &self.network) {
                    let batch = self.network.remove(at);
                    self.append(batch);
                }
            }
            Fault::Repeat(index) => {
                if let Some(at) = pick(index, &self.network) {
                    self.append(self.network[at].clone());
                }
            }
            Fault::Drop(index) => {
                if let Some(at) = pick(index, &self.network) {
                    self.network.remove(at);
                }
            }
            Fault::ChangeLeader(index) => self.tail.truncate(index.index(self.tail.len() + 1)),
            Fault::Commit(count) => {
                let count = (*count).min(self.tail.len());
                self.log.extend(self.tail.drain(..count));
            }
        }
    }

    fn append(&mut self, batch: Batch) {
        let leader_time = Timestamp::from_millis(self.log.len() as u64 * 10);
        self.tail.push(Batch {
            leader_time,
            ..batch
        });
    }

    /// Everything under way arrives and is committed.
    fn heal(&mut self) {
        for batch in std::mem::take(&mut self.network) {
            self.append(batch);
        }
        self.log.append(&mut self.tail);
    }
}

fn client_id(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

fn connect(name: &str, holder: Holder, session_expiry_interval_s: u32) -> Command {
    Command::Connect(Box::new(Connect {
        client_id: client_id(name),
        holder,
        clean_start: false,
        session_expiry_interval_s,
        receive_maximum: 65_535,
        limits: SessionLimits {
            inflight_max: 65_535,
            ..SessionLimits::default()
        },
    }))
}

// Streams of nodes.

/// One life of a node.
type Life = (NodeId, Incarnation);

/// A node: one life, and its replica of the shard.
struct Node {
    life: Life,
    core: ProposerCore<u64>,
    /// Numbers of its commands, in order, and what their waiters got.
    submitted: Vec<u64>,
    answered: Vec<(u64, Response)>,
    machine: Machine,
    applied: usize,
}

struct Streams {
    raft: Raft,
    nodes: Vec<Node>,
    lives: u64,
    commands: u64,
    /// A replica that applies what is committed at once, and what it saw.
    witness: Machine,
    witnessed: usize,
    /// Command → the life it came from and the epoch that its application gave.
    effects: BTreeMap<u64, (Life, Epoch)>,
    /// Per life, what took effect.
    order: BTreeMap<Life, Vec<u64>>,
    /// Lives from which nothing must take effect any more.
    over: BTreeSet<Life>,
}

#[derive(Clone, Debug)]
enum Step {
    Submit {
        node: usize,
        count: usize,
    },
    /// The batch in flight once more, or the next one.
    Send {
        node: usize,
    },
    /// A node's replica applies some more of the log.
    Apply {
        node: usize,
        count: usize,
    },
    /// A new life; its replica replays the log from the start.
    Restart {
        node: usize,
    },
    DeclareDown {
        node: usize,
    },
    Fault(Fault),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        6 => (node(), 1..4_usize).prop_map(|(node, count)| Step::Submit { node, count }),
        8 => node().prop_map(|node| Step::Send { node }),
        6 => (node(), 1..6_usize).prop_map(|(node, count)| Step::Apply { node, count }),
        1 => node().prop_map(|node| Step::Restart { node }),
        1 => node().prop_map(|node| Step::DeclareDown { node }),
        16 => fault().prop_map(Step::Fault),
    ]
}

impl Streams {
    fn new() -> Self {
        let mut streams = Self {
            raft: Raft::default(),
            nodes: Vec::new(),
            lives: 0,
            commands: 0,
            witness: Machine::new(ShardId::ZERO),
            witnessed: 0,
            effects: BTreeMap::new(),
            order: BTreeMap::new(),
            over: BTreeSet::new(),
        };
        for node in 0..NODES {
            let node = streams.begin_life(node);
            streams.nodes.push(node);
        }
        streams
    }

    fn begin_life(&mut self, node: usize) -> Node {
        self.lives += 1;
        let life = (NodeId(node as u16 + 1), Incarnation(self.lives));
        let (node, incarnation) = life;
        Node {
            life,
            core: ProposerCore::new(ProposerId::Node { node, incarnation }),
            submitted: Vec::new(),
            answered: Vec::new(),
            machine: Machine::new(ShardId::ZERO),
            applied: 0,
        }
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match *step {
            Step::Submit { node, count } => (0..count).for_each(|_| self.submit(node)),
            Step::Send { node } => self.send(node),
            Step::Apply { node, count } => self.apply(node, count)?,
            Step::Restart { node } => self.nodes[node] = self.begin_life(node),
            Step::DeclareDown { node } => {
                let (node, incarnation) = self.nodes[node].life;
                let command = encode_command(&Command::NodeDown { node, incarnation });
                self.raft.network.push(idempotent(vec![command]));
            }
            Step::Fault(ref fault) => self.raft.suffer(fault),
        }
        self.witness()
    }

    /// Each command connects a client of its own: the epoch that it is given tells the application.
    fn submit(&mut self, node: usize) {
        self.commands += 1;
        let number = self.commands;
        let (id, incarnation) = self.nodes[node].life;
        let holder = Holder {
            node: id,
            incarnation,
            connection: ConnectionId(number),
        };
        let command = encode_command(&connect(&number.to_string(), holder, 0));
        self.nodes[node].core.submit(command, number);
        self.nodes[node].submitted.push(number);
    }

    fn send(&mut self, node: usize) {
        let core = &mut self.nodes[node].core;
        let batch = core.in_flight().cloned().or_else(|| core.next_batch());
        self.raft.network.extend(batch);
    }

    /// What `Proposer::on_applied` does.
    fn apply(&mut self, node: usize, count: usize) -> TestCaseResult {
        let upto = self.raft.log.len().min(self.nodes[node].applied + count);
        for index in self.nodes[node].applied..upto {
            let node = &mut self.nodes[node];
            let applied = node.machine.apply(index as u64, &self.raft.log[index]);
            node.applied = index + 1;
            let (id, incarnation) = node.life;
            if applied.proposer
                != (ProposerId::Node {
                    node: id,
                    incarnation,
                })
            {
                continue;
            }
            for (number, response) in node.core.on_answers(applied.sequence, &applied.answers) {
                let expected = node.submitted.get(node.answered.len());
                prop_assert_eq!(Some(&number), expected, "answers come once and in order");
                check_answer(&response, self.effects.get(&number))?;
                node.answered.push((number, response));
            }
        }
        Ok(())
    }

    /// Sees what newly committed entries do.
    fn witness(&mut self) -> TestCaseResult {
        for index in self.witnessed..self.raft.log.len() {
            let batch = &self.raft.log[index];
            let applied = self.witness.apply(index as u64, batch);
            let mut epochs = applied.answers.iter().filter_map(|answer| match answer {
                Response::Connected { epoch, .. } => Some(*epoch),
                _ => None,
            });
            for effect in &applied.effects {
                let Effect::Resumed { holder, .. } = effect else {
                    continue;
                };
                let (number, life) = (holder.connection.0, (holder.node, holder.incarnation));
                prop_assert!(!self.over.contains(&life), "{life:?} is over: {number}");
                let before = self.effects.insert(number, (life, epochs.next().unwrap()));
                prop_assert_eq!(before, None, "{} takes effect twice", number);
                self.order.entry(life).or_default().push(number);
            }
            for effect in &applied.effects {
                match *effect {
                    Effect::NodeUp { node, incarnation } => {
                        self.over
                            .extend((0..incarnation.0).map(|life| (node, Incarnation(life))));
                    }
                    Effect::NodeDown { node, incarnation } => {
                        self.over
                            .extend((0..=incarnation.0).map(|life| (node, Incarnation(life))));
                    }
                    _ => {}
                }
            }
        }
        self.witnessed = self.raft.log.len();
        Ok(())
    }

    /// The network recovers: whoever is not declared down gets all its answers.
    fn settle(&mut self) -> TestCaseResult {
        let is_idle = |node: &Node| node.answered.len() == node.submitted.len();
        let mut rounds = 0;
        while !self.nodes.iter().all(is_idle) {
            rounds += 1;
            prop_assert!(rounds < 200, "a stream stands still");
            for node in 0..NODES {
                self.send(node);
            }
            self.raft.heal();
            self.witness()?;
            for node in 0..NODES {
                self.apply(node, usize::MAX / 2)?;
            }
        }
        for node in &self.nodes {
            prop_assert_eq!(node.core.waiting_bytes(), 0);
            prop_assert!(node.core.in_flight().is_none());
            let took_effect = self.order.get(&node.life).cloned().unwrap_or_default();
            let is_prefix = node.submitted.starts_with(&took_effect);
            prop_assert!(is_prefix, "{took_effect:?} of {:?}", node.submitted);
            if !self.over.contains(&node.life) {
                prop_assert_eq!(&took_effect, &node.submitted);
            }
            for (number, response) in &node.answered {
                check_answer(response, self.effects.get(number))?;
            }
        }
        Ok(())
    }
}

/// The answer is that of the application, or a refusal of what never took effect.
fn check_answer(response: &Response, effect: Option<&(Life, Epoch)>) -> TestCaseResult {
    match (response, effect) {
        (Response::Connected { epoch, .. }, Some((_, given))) => prop_assert_eq!(epoch, given),
        (Response::Refused(Refusal::StaleIncarnation), None) => {}
        (_, _) => prop_assert!(false, "{response:?} for {effect:?}"),
    }
    Ok(())
}

fn idempotent(commands: Vec<Bytes>) -> Batch {
    let leader_time = Timestamp::ZERO;
    Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time,
        commands,
    }
}

#[test]
fn every_command_takes_effect_once_in_order_and_its_waiter_gets_that_answer() {
    seeded::check(1_000, vec(step(), 1..250), |steps| {
        let mut streams = Streams::new();
        for step in &steps {
            streams.step(step)?;
        }
        streams.settle()
    });
}

/// While a batch is in flight the stream sends nothing else, whatever waits.
#[test]
fn one_batch_is_in_flight_and_large_waits_are_cut() {
    let (node, incarnation) = (NodeId(1), Incarnation(1));
    for (count, bytes) in [
        (2_500_usize, 10_usize),
        (7, 600_000),
        (3, 3_000_000),
        (1, 0),
    ] {
        let mut core = ProposerCore::new(ProposerId::Node { node, incarnation });
        for number in 0..count {
            core.submit(Bytes::from(vec![number as u8; bytes]), number);
        }
        assert_eq!(core.waiting_bytes(), count * bytes);
        let mut answered = Vec::new();
        for sequence in 1.. {
            let Some(batch) = core.next_batch() else {
                break;
            };
            assert_eq!(batch.sequence, sequence);
            assert_eq!((core.next_batch(), core.in_flight()), (None, Some(&batch)));
            let sizes = batch.commands.iter().map(Bytes::len);
            assert!(
                batch.commands.len() <= 1_024 && sizes.sum::<usize>() < 1_048_576 + bytes.max(1)
            );
            let answers = vec![Response::Done; batch.commands.len()].into();
            let early = core.on_answers(sequence + 1, &answers);
            assert!(early.is_empty(), "answers to another batch");
            answered.extend(
                core.on_answers(sequence, &answers)
                    .into_iter()
                    .map(|(who, _)| who),
            );
            assert!(
                core.on_answers(sequence, &answers).is_empty(),
                "answers come once"
            );
        }
        assert_eq!(answered, (0..count).collect::<Vec<_>>());
        assert_eq!(core.waiting_bytes(), 0);
    }
}

// Outboxes.

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
            let command = raft_store::encoding::decode_command(bytes).unwrap();
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
