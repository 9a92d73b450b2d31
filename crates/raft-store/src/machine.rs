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
//! - Whether a content is in memory or on disk changes nothing but how an effect carries it.
//!
//! | file | what |
//! |---|---|
//! | `lives` | lives of nodes, fences |
//! | `sessions`, `subscriptions`, `routes` | CONNECT to session expiry; SUBSCRIBE; what routes follow |
//! | `publish`, `shared` | messages into sessions, acknowledgements; one member of a shared subscription |
//! | `handover`, `outbox` | QoS 2 and wills to other shards and nodes, exactly once |
//! | `wills`, `retained` | wills; retained messages and their versions |
//! | `bodies` | contents, in memory or on disk |
//! | `storage`, `catch_up` | state as keys and records; what a node does after an installed snapshot |
//! | `view` | what operators see of sessions, in pages |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::{ClientId, Timestamp, Utf8};
use router::{Match, Router};
use session::{Output, Session};

use crate::batch::{Batch, ProposerId};
use crate::command::{Answers, Command, Effect, Refusal, Response};
use crate::encoding::decode_command;
use crate::ids::{Epoch, Holder, Incarnation, NodeId, ShardId};
use crate::state::StateKey;

mod applied;
mod bodies;
mod catch_up;
mod handover;
mod lives;
mod outbox;
mod publish;
mod retained;
mod routes;
mod sessions;
mod shared;
mod storage;
mod subscriptions;
mod tally;
mod view;
mod wills;

#[cfg(test)]
mod tests;

pub use applied::Applied;
pub use bodies::BodyLookup;
pub use retained::RetainedPage;
pub use storage::StateError;
pub use tally::SessionTally;
pub use view::{SessionView, StoredSession, SubscriberView};
pub use wills::DueWill;

use bodies::Bodies;
use handover::{Reception, TakenFrom, Targets};
use outbox::Outbox;
use retained::{RetainedMessages, RetainedRead};
use shared::SharedMembers;
use wills::Wills;

/// One shard's replicated state.
#[derive(Debug)]
pub struct Machine {
    shard: ShardId,
    time: Timestamp,
    next_epoch: u64,
    next_version: u64,
    next_turn: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    taken: BTreeMap<ShardId, TakenFrom>,
    sessions: BTreeMap<ClientId, SessionRecord>,
    /// Unshared subscriptions. Derived from `sessions`.
    router: Router<ClientId>,
    shared: SharedMembers,
    bodies: Bodies,
    fences: BTreeMap<ClientId, Epoch>,
    outbox: Outbox,
    wills: Wills,
    retained: RetainedMessages,
    reads: BTreeMap<ClientId, RetainedRead>,
    /// When disconnected sessions end. Derived from `sessions`.
    deadlines: BTreeSet<(Timestamp, ClientId)>,
    /// Which clients have a connection, open or not yet recorded closed, on which life of a node.
    /// Derived from `sessions`.
    held: BTreeSet<(NodeId, Incarnation, ClientId)>,
    /// Keys whose stored value is out of date.
    changes: BTreeSet<StateKey>,
    /// Route entries of a loaded state; the first apply hands them out.
    boot_effects: Vec<Effect>,
    /// Room for one message's matches, and for one session's outputs; empty between commands.
    matches: Vec<Match<ClientId>>,
    outputs: Vec<Output>,
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
    /// The user name that created it; `None`: an anonymous client. Nobody else takes it over, resumes or
    /// clears it, as long as there is a record.
    owner: Option<Utf8>,
    session: Option<Box<Session>>,
    /// Deliveries from this position on are in no table: those that end before the next save are not
    /// worth a write. `u64::MAX` for a new session until its first save, since the tables may still have
    /// deliveries of an earlier session of this client.
    unsaved_from: u64,
    /// Its key is among the changed ones.
    is_changed: bool,
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
            next_version: 1,
            next_turn: 0,
            nodes: BTreeMap::new(),
            taken: BTreeMap::new(),
            sessions: BTreeMap::new(),
            router: Router::new(),
            shared: SharedMembers::default(),
            bodies: Bodies::starting_at(1),
            fences: BTreeMap::new(),
            outbox: Outbox::default(),
            wills: Wills::default(),
            retained: RetainedMessages::default(),
            reads: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            held: BTreeSet::new(),
            changes: BTreeSet::new(),
            boot_effects: Vec::new(),
            matches: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Applies one committed entry. Never panics, never fails: a bad command is `Refused`.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        if batch.leader_time > self.time {
            self.time = batch.leader_time;
        }
        self.changes.insert(StateKey::Counters);
        self.purge_retained();
        let mut effects = std::mem::take(&mut self.boot_effects);
        let mut effects_after = Vec::new();
        let answers = match self.admit(batch, &mut effects) {
            Admission::Apply => {
                effects_after.reserve_exact(batch.commands.len());
                self.apply_commands(index, batch, (&mut effects, &mut effects_after))
            }
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
            effects_after,
            proposer: batch.proposer,
            sequence: batch.sequence,
        }
    }

    /// Shard time: the last applied leader time.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether anything waits for shard time to pass: a session or a message to expire, a will to
    /// become due.
    #[must_use]
    pub fn waits_for_time(&self) -> bool {
        !self.deadlines.is_empty()
            || self.wills.has_due()
            || self.bodies.has_expiring()
            || self.retained.has_expiring()
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

    /// Sessions with a connection that is not recorded closed.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.held.len()
    }

    /// Subscriptions of the sessions that live here, shared ones included.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.router.len().saturating_add(self.shared.len())
    }

    /// Whether one of them is this client's.
    #[must_use]
    pub fn knows(&self, client_id: &ClientId) -> bool {
        self.sessions.contains_key(client_id)
    }

    /// Messages that wait behind the window of a session of this shard.
    #[must_use]
    pub fn queue_len(&self, client_id: &ClientId) -> usize {
        self.session(client_id).map_or(0, Session::queue_len)
    }

    /// The newest version that a retained message of this shard was given; 0 before the first.
    #[must_use]
    pub fn newest_retained_version(&self) -> u64 {
        self.next_version.saturating_sub(1)
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
    fn apply_commands(
        &mut self,
        index: u64,
        batch: &Batch,
        (effects, effects_after): (&mut Vec<Effect>, &mut Vec<usize>),
    ) -> Answers {
        let answers: Answers = batch
            .commands
            .iter()
            .map(|bytes| {
                let response = match decode_command(bytes.clone()) {
                    Ok(command) => self.apply_command(index, command, effects),
                    Err(_) => Response::Refused(Refusal::Malformed),
                };
                effects_after.push(effects.len());
                response
            })
            .collect();
        // A command may have begun a newer life of the node, whose stream is another one.
        if let ProposerId::Node { node, incarnation } = batch.proposer
            && let Some(record) = self.nodes.get_mut(&node)
            && record.incarnation == incarnation
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
            Command::Barrier => Response::RetainedSet {
                version: self.newest_retained_version(),
            },
            Command::NodeUp { node } => {
                let incarnation = Incarnation(index);
                // An entry may hold the same proposal twice.
                let begun = self.nodes.get(&node).map(|known| known.incarnation);
                if begun != Some(incarnation) {
                    self.begin_life(node, incarnation, effects);
                }
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
                ending,
            } => self.disconnect(
                &client_id,
                epoch,
                session_expiry_interval_s,
                ending,
                effects,
            ),
            Command::Subscribe {
                client_id,
                epoch,
                filters,
                reads_retained,
            } => self.subscribe(&client_id, epoch, filters, reads_retained, effects),
            Command::Unsubscribe {
                client_id,
                epoch,
                filters,
            } => self.unsubscribe(&client_id, epoch, &filters, effects),
            Command::Publish {
                client_id,
                epoch,
                message,
                retained_version,
            } => self.publish(&client_id, epoch, &message, retained_version, effects),
            Command::PublishShared {
                client_id,
                epoch,
                filter,
                message,
                expires_in_ms,
            } => self.publish_shared(&client_id, epoch, filter, &message, expires_in_ms, effects),
            Command::ReceiveExactlyOnce {
                client_id,
                epoch,
                packet_id,
                message,
                shards,
                nodes,
                retained_version,
                shared,
            } => {
                let targets = Targets {
                    shards,
                    nodes,
                    shared,
                };
                let reception = Reception {
                    client_id,
                    epoch,
                    packet_id,
                    message,
                    retained_version,
                    targets,
                };
                self.receive_exactly_once(reception, effects)
            }
            Command::SetRetained {
                client_id,
                epoch,
                message,
                limits,
            } => self.set_retained(&client_id, epoch, &message, limits),
            Command::DeliverRetained {
                client_id,
                epoch,
                copies,
                last,
            } => self.deliver_retained(&client_id, epoch, copies, last, effects),
            Command::PublishWill {
                epoch,
                retained_version,
                shards,
                nodes,
                shared,
            } => {
                let targets = Targets {
                    shards,
                    nodes,
                    shared,
                };
                self.publish_will(epoch, retained_version, targets, effects)
            }
            Command::Place { number, to } => self.place(number, to, effects),
            Command::Claim { target, number } => self.claim(target, number),
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
                settled,
                first,
                items,
            } => self.take_outbox(source, settled, first, items, effects),
            Command::Taken {
                target,
                upto,
                refused,
            } => self.outbox_taken(target, upto, &refused, effects),
            Command::ExpireSession { client_id, epoch } => {
                self.expire(&client_id, epoch, effects);
                Response::Done
            }
        }
    }
}
