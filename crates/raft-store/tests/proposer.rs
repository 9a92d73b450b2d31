//! Streams of batches over a network that drops, repeats, delays and reorders, under leaders that come
//! and go: every command takes effect once and in order, and its waiter gets the answer of that very
//! application.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a test: a panic is its failure, its numbers are small"
)]

#[path = "proposer/outbox.rs"]
mod outbox;
#[path = "proposer/raft.rs"]
mod raft;
#[path = "model/seeded.rs"]
mod seeded;
#[path = "proposer/sharing.rs"]
mod sharing;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{
    Command, ConnectionId, Effect, Epoch, Holder, Incarnation, Machine, NodeId, ProposerCore,
    ProposerId, Refusal, Response, ShardId, encode_command,
};

use raft::{Fault, Raft, connect, fault, idempotent};

const NODES: usize = 3;

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
