//! PURE. The heart of a shard: committed entries in, answers and effects out.
//!
//! Every replica applies the same entries in the same order and so holds the same state, gives the
//! same answers and computes the same effects. A node carries out the effects that concern it and
//! drops the others; nothing here knows which node it runs on.
//!
//! Invariants:
//! - **`apply` never panics and never fails.** A command that makes no sense is answered `Refused`.
//! - Time is `leader_time`, clamped to grow. There is no other clock.
//! - A batch of a numbered proposer takes effect once; a repeat gets the stored answers.
//! - A command of an older connection of a client changes nothing.
//! - Each body is stored once, counts its references, and goes with the last one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use codec::{ClientId, Timestamp};
use router::Router;
use session::{Session, StoredMessage};

use crate::batch::{Batch, ProposerId};
use crate::command::{Answers, CloseReason, Command, Effect, OutboxTarget, Refusal, Response};
use crate::encoding::decode_command;
use crate::ids::{Epoch, Holder, Incarnation, NodeId, ShardId};
use crate::state::StateKey;

mod outbox;
mod publish;
mod sessions;
mod storage;

pub use storage::StateError;

use outbox::Outbox;

/// What applying one entry gave.
#[derive(Clone, Debug)]
pub struct Applied {
    /// One response per command.
    pub answers: Answers,
    /// What follows, in order.
    pub effects: Vec<Effect>,
    /// Whose batch it was.
    pub proposer: ProposerId,
    /// Its place in that stream.
    pub sequence: u64,
}

/// One shard's replicated state.
#[derive(Debug)]
pub struct Machine {
    shard: ShardId,
    time: Timestamp,
    next_epoch: u64,
    next_body: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    taken: BTreeMap<ShardId, u64>,
    sessions: BTreeMap<ClientId, SessionRecord>,
    router: Router<ClientId>,
    bodies: BTreeMap<u64, Body>,
    fences: BTreeMap<ClientId, Epoch>,
    outbox: Outbox,
    /// When disconnected sessions end. Derived from `sessions`.
    deadlines: BTreeSet<(Timestamp, ClientId)>,
    /// Which clients have a connection, open or not yet recorded closed, on which life of a node.
    /// Derived from `sessions`.
    held: BTreeSet<(NodeId, Incarnation, ClientId)>,
    /// Keys whose stored value is out of date.
    changes: BTreeSet<StateKey>,
    /// Route entries of a loaded state; the first apply hands them out.
    boot_effects: Vec<Effect>,
}

/// What a shard knows of a node's newest life.
#[derive(Clone, Debug)]
struct NodeRecord {
    incarnation: Incarnation,
    down: bool,
    last_sequence: u64,
    answers: Answers,
}

/// A client's registration, and its session if it lives in this shard.
#[derive(Clone, Debug)]
struct SessionRecord {
    epoch: Epoch,
    holder: Option<Holder>,
    /// Older connections not yet recorded closed. Bounded: one per life of a node and epoch.
    formers: Vec<(Epoch, Holder)>,
    session: Option<Box<Session>>,
}

/// A message body and the number of deliveries and outbox items that refer to it.
#[derive(Clone, Debug)]
struct Body {
    stored: Arc<StoredMessage>,
    references: u64,
}

/// What to do with a batch.
enum Admission {
    Apply,
    Repeat(Answers),
    Refuse(Refusal),
}

/// A session that may be past its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueSession {
    /// The client.
    pub client_id: ClientId,
    /// Its last connection.
    pub epoch: Epoch,
}

impl Machine {
    /// An empty shard.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            time: Timestamp::ZERO,
            next_epoch: 1,
            next_body: 1,
            nodes: BTreeMap::new(),
            taken: BTreeMap::new(),
            sessions: BTreeMap::new(),
            router: Router::new(),
            bodies: BTreeMap::new(),
            fences: BTreeMap::new(),
            outbox: Outbox::default(),
            deadlines: BTreeSet::new(),
            held: BTreeSet::new(),
            changes: BTreeSet::new(),
            boot_effects: Vec::new(),
        }
    }

    /// Applies one committed entry. Never panics, never fails: a bad command is `Refused`.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        if batch.leader_time > self.time {
            self.time = batch.leader_time;
        }
        self.changes.insert(StateKey::Counters);
        let mut effects = std::mem::take(&mut self.boot_effects);
        let answers = match self.admit(batch, &mut effects) {
            Admission::Apply => self.apply_commands(index, batch, &mut effects),
            Admission::Repeat(answers) => answers,
            Admission::Refuse(refusal) => batch
                .commands
                .iter()
                .map(|_| Response::Refused(refusal))
                .collect(),
        };
        Applied {
            answers,
            effects,
            proposer: batch.proposer,
            sequence: batch.sequence,
        }
    }

    /// Shard time: the last applied leader time.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The newest known life of each node, and whether it was declared over.
    pub fn lives(&self) -> impl Iterator<Item = (NodeId, Incarnation, bool)> + '_ {
        self.nodes
            .iter()
            .map(|(node, record)| (*node, record.incarnation, record.down))
    }

    /// Disconnected sessions whose deadline is not after `now`, at most `max`.
    #[must_use]
    pub fn due(&self, now: Timestamp, max: usize) -> Vec<DueSession> {
        self.deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(max)
            .filter_map(|(_, client_id)| {
                let record = self.sessions.get(client_id)?;
                Some(DueSession {
                    client_id: client_id.clone(),
                    epoch: record.epoch,
                })
            })
            .collect()
    }

    /// Registered sessions: connected ones, and persistent ones without a connection.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Decides whether a batch is new, a repeat, or from a life that is over.
    fn admit(&mut self, batch: &Batch, effects: &mut Vec<Effect>) -> Admission {
        let (node, incarnation) = match batch.proposer {
            ProposerId::Node { node, incarnation } => (node, incarnation),
            ProposerId::Outbox { .. } | ProposerId::Idempotent => return Admission::Apply,
        };
        let known = self.nodes.get(&node).map(|known| known.incarnation);
        if known.is_none_or(|known| known < incarnation) {
            self.begin_life(node, incarnation, effects);
        }
        let Some(record) = self.nodes.get(&node) else {
            return Admission::Refuse(Refusal::Malformed);
        };
        if record.incarnation > incarnation || record.down {
            return Admission::Refuse(Refusal::StaleIncarnation);
        }
        // 0 is no place in a stream: a new life has applied none.
        if batch.sequence == record.last_sequence && batch.sequence > 0 {
            return Admission::Repeat(Arc::clone(&record.answers));
        }
        // Older ones are late copies that nobody waits for; with one batch in flight per proposer
        // there is no gap.
        if batch.sequence != record.last_sequence.saturating_add(1) {
            return Admission::Refuse(Refusal::Malformed);
        }
        Admission::Apply
    }

    /// Applies each command and remembers the answers if the stream is numbered.
    fn apply_commands(&mut self, index: u64, batch: &Batch, effects: &mut Vec<Effect>) -> Answers {
        let answers: Answers = batch
            .commands
            .iter()
            .map(|bytes| match decode_command(bytes.clone()) {
                Ok(command) => self.apply_command(index, command, effects),
                Err(_) => Response::Refused(Refusal::Malformed),
            })
            .collect();
        if let ProposerId::Node { node, .. } = batch.proposer
            && let Some(record) = self.nodes.get_mut(&node)
        {
            record.last_sequence = batch.sequence;
            record.answers = Arc::clone(&answers);
            self.changes.insert(StateKey::Node(node));
        }
        answers
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm per command, without branches"
    )]
    fn apply_command(
        &mut self,
        index: u64,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Response {
        match command {
            // `admit` did what there is to do.
            Command::Hello => Response::Done,
            Command::NodeUp { node } => {
                let incarnation = Incarnation(index);
                self.begin_life(node, incarnation, effects);
                Response::NodeUp { incarnation }
            }
            Command::NodeDown { node, incarnation } => {
                self.declare_down(node, incarnation, effects);
                Response::Done
            }
            Command::Connect(connect) => self.connect(*connect, effects),
            Command::Disconnect {
                client_id,
                epoch,
                session_expiry_interval_s,
            } => self.disconnect(&client_id, epoch, session_expiry_interval_s, effects),
            Command::Subscribe {
                client_id,
                epoch,
                filters,
            } => self.subscribe(&client_id, epoch, filters, effects),
            Command::Unsubscribe {
                client_id,
                epoch,
                filters,
            } => self.unsubscribe(&client_id, epoch, &filters, effects),
            Command::Publish {
                client_id,
                epoch,
                message,
            } => self.publish(&client_id, epoch, message, effects),
            Command::ReceiveExactlyOnce {
                client_id,
                epoch,
                packet_id,
                message,
                shards,
                nodes,
            } => {
                let targets = publish::Targets { shards, nodes };
                let reception = publish::Reception {
                    client_id,
                    epoch,
                    packet_id,
                    message,
                    targets,
                };
                self.receive_exactly_once(reception, effects)
            }
            Command::Release {
                client_id,
                epoch,
                packet_id,
            } => self.release(&client_id, epoch, packet_id),
            Command::Acknowledge {
                client_id,
                epoch,
                acknowledgements,
            } => self.acknowledge(&client_id, epoch, &acknowledgements, effects),
            Command::Fence { client_id, epoch } => self.fence(client_id, epoch),
            Command::FenceEnd { client_id, epoch } => self.fence_end(&client_id, epoch),
            Command::TakeOutbox {
                source,
                first,
                items,
            } => self.take_outbox(source, first, items, effects),
            Command::Taken { target, upto } => {
                self.trim_outbox(target, upto);
                Response::Done
            }
            Command::ExpireSession { client_id, epoch } => {
                self.expire(&client_id, epoch, effects);
                Response::Done
            }
        }
    }

    /// A newer life of a node: every earlier one is over.
    fn begin_life(&mut self, node: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        // Also lives that this shard knows only as targets of its outbox.
        let earlier = Incarnation(incarnation.0.saturating_sub(1));
        self.end_lives(node, earlier, effects);
        if let Some(previous) = self.nodes.get(&node) {
            effects.push(Effect::NodeDown {
                node,
                incarnation: previous.incarnation,
            });
        }
        let record = NodeRecord {
            incarnation,
            down: false,
            last_sequence: 0,
            answers: Arc::new([]),
        };
        self.nodes.insert(node, record);
        self.changes.insert(StateKey::Node(node));
        effects.push(Effect::NodeUp { node, incarnation });
    }

    /// Declares one life over, and with it all earlier ones; never a later one.
    fn declare_down(&mut self, node: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        let record = self.nodes.entry(node).or_insert_with(|| NodeRecord {
            incarnation,
            down: false,
            last_sequence: 0,
            answers: Arc::new([]),
        });
        if record.incarnation > incarnation || (record.incarnation == incarnation && record.down) {
            return;
        }
        record.incarnation = incarnation;
        record.down = true;
        record.answers = Arc::new([]);
        self.changes.insert(StateKey::Node(node));
        self.end_lives(node, incarnation, effects);
        effects.push(Effect::NodeDown { node, incarnation });
    }

    /// Records every connection of these lives closed, and forgets what only they could take.
    fn end_lives(&mut self, node: NodeId, upto: Incarnation, effects: &mut Vec<Effect>) {
        let held: Vec<ClientId> = self
            .held
            .iter()
            .filter(|(held_node, incarnation, _)| *held_node == node && *incarnation <= upto)
            .map(|(_, _, client_id)| client_id.clone())
            .collect();
        for client_id in held {
            self.end_connections(&client_id, node, upto, effects);
        }
        for target in self.outbox.node_targets(node, upto) {
            self.drop_outbox_target(target);
        }
    }

    /// One client's connections on ended lives of a node.
    fn end_connections(
        &mut self,
        client_id: &ClientId,
        node: NodeId,
        upto: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        let ended = |holder: &Holder| holder.node == node && holder.incarnation <= upto;
        let Some(record) = self.sessions.get(client_id) else {
            return;
        };
        let former_epochs: Vec<Epoch> = record
            .formers
            .iter()
            .filter(|(_, holder)| ended(holder))
            .map(|(epoch, _)| *epoch)
            .collect();
        let current = record
            .holder
            .filter(ended)
            .map(|holder| (record.epoch, holder));
        for epoch in former_epochs {
            self.former_closed(client_id, epoch, effects);
        }
        if let Some((epoch, holder)) = current {
            effects.push(Effect::Close {
                holder,
                reason: CloseReason::NodeDown,
            });
            self.disconnect(client_id, epoch, None, effects);
        }
    }

    /// Refuses commands of older connections of a client whose session lives elsewhere.
    fn fence(&mut self, client_id: ClientId, epoch: Epoch) -> Response {
        let fence = self.fences.entry(client_id.clone()).or_insert(epoch);
        if *fence > epoch {
            return Response::Refused(Refusal::StaleEpoch);
        }
        *fence = epoch;
        self.changes.insert(StateKey::Fence(client_id));
        Response::Done
    }

    fn fence_end(&mut self, client_id: &ClientId, epoch: Epoch) -> Response {
        if self
            .fences
            .get(client_id)
            .is_some_and(|fence| *fence <= epoch)
        {
            self.fences.remove(client_id);
            self.changes.insert(StateKey::Fence(client_id.clone()));
        }
        Response::Done
    }

    /// A publish from this connection must change nothing any more.
    fn is_stale_publisher(&self, client_id: &ClientId, epoch: Epoch) -> bool {
        let fenced = self
            .fences
            .get(client_id)
            .is_some_and(|fence| *fence > epoch);
        let replaced = self
            .sessions
            .get(client_id)
            .is_some_and(|record| record.epoch != epoch);
        fenced || replaced
    }

    /// Items of one outbox target from `after` on, at most `max_items` and about `max_bytes`.
    #[must_use]
    pub fn outbox_items(
        &self,
        target: OutboxTarget,
        after: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> VecDeque<(u64, crate::command::OutboxItem)> {
        self.outbox.items(target, after, max_items, max_bytes)
    }

    /// Targets that have items waiting.
    #[must_use]
    pub fn outbox_targets(&self) -> Vec<OutboxTarget> {
        self.outbox.waiting_targets()
    }

    /// Bytes waiting in the outbox.
    #[must_use]
    pub fn outbox_bytes(&self) -> u64 {
        self.outbox.bytes()
    }
}
