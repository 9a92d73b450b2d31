//! Some nodes, their clients and all shards: turns actions into batches, as nodes do, and watches what
//! clients get.
//!
//! What a connection sends to a shard waits in its node's stream until that is flushed, so that commands
//! of former connections and of ended lives come late. The nodes keep to the protocol: a `Fence` before
//! the first publish to another shard while an earlier connection may have something under way, a
//! `Disconnect` only when all that the connection sent was answered, a `Taken` only for what was taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use codec::{ClientId, Timestamp, Utf8, Will};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::decode_command;
use raft_store::{
    Applied, Batch, Command, Connect, ConnectionId, Effect, Ending, Epoch, Holder, Incarnation,
    NodeId, ProposerId, Response, RetainedCopy, ShardId, encode_command,
};

use super::action::{Action, Among, CLIENTS, NODES, Pick, Terms};
use super::oracle::{Kind, Oracle};
use super::tested::Tested;

#[path = "world/handing_on.rs"]
mod handing_on;
#[path = "world/messages.rs"]
mod messages;
#[path = "world/retained.rs"]
mod retained;
#[path = "world/settle.rs"]
mod settle;

/// One life of a node.
type Life = (NodeId, Incarnation);

/// A connection, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) client_id: ClientId,
    home: ShardId,
    holder: Holder,
    epoch: Epoch,
    /// It sends no more, and what it sent was answered.
    is_closed: bool,
    fenced: BTreeSet<ShardId>,
    /// Retained messages that its node read and has not handed to the session.
    read: VecDeque<RetainedCopy>,
}

/// A node's stream of batches to one shard.
#[derive(Default)]
struct Stream {
    sequence: u64,
    waiting: Vec<Command>,
}

pub(crate) struct World {
    pub(crate) shards: Vec<Tested>,
    /// How often each kind of answer and effect was seen.
    pub(crate) seen: BTreeMap<String, u32>,
    lives: Vec<Life>,
    connections: Vec<Connection>,
    streams: BTreeMap<(ShardId, Life), Stream>,
    /// What targets refused, per source and target, as they answered it.
    refused: BTreeMap<(ShardId, ShardId), BTreeSet<u64>>,
    oracle: Oracle,
    now_ms: u64,
    /// How far the next leader's clock is behind.
    behind_ms: u64,
}

impl World {
    pub(crate) fn new(shards: u16) -> Result<Self, TestCaseError> {
        let mut world = Self {
            shards: (0..shards)
                .map(|shard| Tested::new(ShardId(shard)))
                .collect(),
            seen: BTreeMap::new(),
            lives: Vec::new(),
            connections: Vec::new(),
            streams: BTreeMap::new(),
            refused: BTreeMap::new(),
            oracle: Oracle::default(),
            now_ms: 1_000,
            behind_ms: 0,
        };
        for node in NODES {
            world.node_up(node)?;
        }
        Ok(world)
    }

    fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards.len() as u16).map(ShardId)
    }

    fn shard(&self, number: usize) -> ShardId {
        ShardId((number % self.shards.len()) as u16)
    }

    fn tested(&mut self, shard: ShardId) -> &mut Tested {
        &mut self.shards[usize::from(shard.0)]
    }

    #[expect(clippy::too_many_lines, reason = "one arm per action")]
    pub(crate) fn step(&mut self, action: Action) -> TestCaseResult {
        match action {
            Action::Connect {
                client,
                node,
                old_life,
                terms,
            } => {
                return self.connect(client, node, old_life, terms);
            }
            Action::Disconnect {
                pick,
                interval_s,
                ending,
            } => return self.disconnect(pick, interval_s, ending),
            Action::Subscribe {
                pick,
                filters,
                reads_retained,
            } => {
                self.submit_home(pick, |client_id, epoch| Command::Subscribe {
                    client_id,
                    epoch,
                    filters,
                    reads_retained,
                });
            }
            Action::Unsubscribe { pick, filters } => {
                self.submit_home(pick, |client_id, epoch| Command::Unsubscribe {
                    client_id,
                    epoch,
                    filters,
                });
            }
            Action::Publish {
                pick,
                content,
                shards,
            } => {
                self.publish(pick, content, shards);
            }
            Action::PublishShared {
                pick,
                content,
                share,
                shard,
                handed_on,
            } => self.publish_shared(pick, content, (share, self.shard(shard)), handed_on),
            Action::ReceiveExactlyOnce {
                pick,
                packet_id,
                content,
                audience,
            } => {
                self.receive_exactly_once(pick, packet_id, content, &audience);
            }
            Action::Retain {
                pick,
                content,
                clears,
                by_will,
                limits,
                shards,
            } => {
                let how = (clears, by_will, limits);
                return self.retain(pick, content, how, shards);
            }
            Action::ReadRetained { pick, filter, page } => {
                return self.read_retained(&pick, filter, page);
            }
            Action::DeliverRetained {
                pick,
                count,
                qos,
                last,
            } => self.deliver_retained(pick, count, qos, last),
            Action::PublishWills {
                shard,
                audience,
                all,
            } => return self.publish_wills(self.shard(shard), &audience, all),
            Action::Release { pick, packet_id } => {
                self.submit_home(pick, |client_id, epoch| Command::Release {
                    client_id,
                    epoch,
                    packet_id,
                });
            }
            Action::Acknowledge {
                pick,
                acknowledgements,
            } => {
                let Some(connection) = self.pick(&pick) else {
                    return Ok(());
                };
                let acknowledgements = self.acknowledgements(&connection, &acknowledgements);
                self.submit_home(pick, |client_id, epoch| Command::Acknowledge {
                    client_id,
                    epoch,
                    acknowledgements,
                });
            }
            Action::EndFences { pick } => self.end_fences(&pick),
            Action::Take {
                source,
                target,
                skip,
                count,
            } => {
                return self.take(self.shard(source), self.shard(target), skip, count);
            }
            Action::Trim { source } => return self.trim(self.shard(source)),
            Action::Claim { source, item } => return self.claim(self.shard(source), item),
            Action::Place { source, item, to } => {
                return self.place(self.shard(source), item, to);
            }
            Action::NodeUp { node } => return self.node_up(NODES[node]),
            Action::NodeDown { life, shard } => return self.node_down(life, self.shard(shard)),
            Action::Wait { ms, behind_ms } => {
                (self.now_ms, self.behind_ms) = (self.now_ms + ms, behind_ms);
            }
            Action::Expire { shard, all } => return self.expire(self.shard(shard), all),
            Action::Again { shard, entry } => return self.again(self.shard(shard), entry),
            Action::Garbage { shard, bytes } => {
                let bytes = Bytes::from(bytes);
                return self.apply_bytes(self.shard(shard), vec![bytes]);
            }
            Action::Save { shard } => {
                let shard = self.shard(shard);
                return self.tested(shard).save();
            }
            Action::Restart { shard } => {
                let shard = self.shard(shard);
                return self.tested(shard).restart();
            }
            Action::Evict {
                shard,
                resident_bytes_max,
            } => {
                let shard = self.shard(shard);
                self.tested(shard).evict(resident_bytes_max);
            }
            Action::FallBehind { shard } => {
                let shard = self.shard(shard);
                self.tested(shard).fall_behind();
            }
            Action::Install { shard } => {
                let shard = self.shard(shard);
                return self.tested(shard).install();
            }
            Action::Flush { stream } => return self.flush_one(stream),
            Action::FlushAll => return self.flush_all(|_, _| true),
        }
        Ok(())
    }

    // Streams.

    fn submit(&mut self, shard: ShardId, life: Life, command: Command) {
        self.streams
            .entry((shard, life))
            .or_default()
            .waiting
            .push(command);
    }

    fn flush(&mut self, shard: ShardId, life: Life) -> Result<Option<Applied>, TestCaseError> {
        let stream = self.streams.entry((shard, life)).or_default();
        if stream.waiting.is_empty() {
            return Ok(None);
        }
        stream.sequence += 1;
        let sequence = stream.sequence;
        let commands = std::mem::take(&mut stream.waiting);
        let (node, incarnation) = life;
        let proposer = ProposerId::Node { node, incarnation };
        self.apply(shard, (proposer, sequence), commands).map(Some)
    }

    fn flush_one(&mut self, pick: prop::sample::Index) -> TestCaseResult {
        let waiting = self
            .streams
            .iter()
            .filter(|(_, stream)| !stream.waiting.is_empty());
        let keys: Vec<_> = waiting.map(|(key, _)| *key).collect();
        if !keys.is_empty() {
            let (shard, life) = keys[pick.index(keys.len())];
            self.flush(shard, life)?;
        }
        Ok(())
    }

    fn flush_all(&mut self, which: impl Fn(ShardId, Life) -> bool) -> TestCaseResult {
        let keys: Vec<_> = self.streams.keys().copied().collect();
        for (shard, life) in keys
            .into_iter()
            .filter(|(shard, life)| which(*shard, *life))
        {
            self.flush(shard, life)?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        shard: ShardId,
        (proposer, sequence): (ProposerId, u64),
        commands: Vec<Command>,
    ) -> Result<Applied, TestCaseError> {
        let batch = Batch {
            proposer,
            sequence,
            leader_time: self.leader_time(),
            commands: commands.iter().map(encode_command).collect(),
        };
        let commands: Vec<_> = commands.into_iter().map(Some).collect();
        let applied = self.tested(shard).apply(batch, &commands)?;
        self.watch(shard, &applied)?;
        Ok(applied)
    }

    fn apply_one(&mut self, shard: ShardId, command: Command) -> Result<Response, TestCaseError> {
        let applied = self.apply(shard, (ProposerId::Idempotent, 0), vec![command])?;
        Ok(applied.answers[0].clone())
    }

    fn apply_bytes(&mut self, shard: ShardId, commands: Vec<Bytes>) -> TestCaseResult {
        let decoded: Vec<_> = commands
            .iter()
            .map(|bytes| decode_command(bytes.clone()).ok())
            .collect();
        let leader_time = self.leader_time();
        let batch = Batch {
            proposer: ProposerId::Idempotent,
            sequence: 0,
            leader_time,
            commands,
        };
        let applied = self.tested(shard).apply(batch, &decoded)?;
        self.watch(shard, &applied)
    }

    fn saw(&mut self, kind: &str) {
        *self.seen.entry(kind.to_owned()).or_insert(0) += 1;
    }

    fn leader_time(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms.saturating_sub(self.behind_ms))
    }

    /// An entry of the log once more, as after a change of leader.
    fn again(&mut self, shard: ShardId, entry: prop::sample::Index) -> TestCaseResult {
        let log = &self.tested(shard).log;
        if log.is_empty() {
            return Ok(());
        }
        let batch = log[entry.index(log.len())].batch.clone();
        // A life of a node begins once; the other commands may come as often as they like.
        let commands: Vec<_> = batch
            .commands
            .iter()
            .map(|bytes| decode_command(bytes.clone()).ok())
            .collect();
        if commands
            .iter()
            .any(|command| matches!(command, Some(Command::NodeUp { .. })))
        {
            return Ok(());
        }
        let applied = self.tested(shard).apply(batch, &commands)?;
        self.watch(shard, &applied)
    }

    /// What follows from an entry, as the clients see it.
    fn watch(&mut self, shard: ShardId, applied: &Applied) -> TestCaseResult {
        let Tested { machine, model, .. } = &self.shards[usize::from(shard.0)];
        for source in self.shard_ids() {
            self.oracle.taken(source, shard, model.taken(source))?;
        }
        for target in machine.outbox_targets() {
            let items = machine.outbox_items(target, 0, usize::MAX, usize::MAX);
            self.oracle.waiting(shard, target, items)?;
        }
        let answers = applied.answers.iter().map(|answer| format!("{answer:?}"));
        let effects = applied.effects.iter().map(|effect| format!("{effect:?}"));
        for text in answers.chain(effects) {
            let kind = match text.strip_prefix("Dropped { cause: ") {
                Some(cause) => format!("Dropped({})", cause.trim_end_matches(" }")),
                None => text.split([' ', '{']).next().unwrap_or_default().to_owned(),
            };
            self.saw(&kind);
        }
        for effect in &applied.effects {
            if let Effect::Send {
                holder, delivery, ..
            } = effect
            {
                let receiver = self.connections.iter().find(|each| each.holder == *holder);
                let receiver = receiver.unwrap().client_id.clone();
                self.oracle.sent(&receiver, delivery)?;
            }
        }
        Ok(())
    }

    // Connections.

    fn pick(&self, pick: &Pick) -> Option<Connection> {
        let is_eligible = |each: &&Connection| match pick.among {
            Among::Current => !each.is_closed && self.is_current(each),
            Among::Unclosed => !each.is_closed,
            Among::All => true,
        };
        let eligible: Vec<_> = self.connections.iter().filter(is_eligible).collect();
        (!eligible.is_empty()).then(|| eligible[pick.index.index(eligible.len())].clone())
    }

    /// One of which something holds, if there is any.
    fn pick_where(&self, pick: &Pick, holds: impl Fn(&Connection) -> bool) -> Option<Connection> {
        let eligible = |each: &&Connection| !each.is_closed && self.is_current(each) && holds(each);
        let eligible: Vec<_> = self.connections.iter().filter(eligible).collect();
        if eligible.is_empty() {
            return self.pick(pick);
        }
        Some(eligible[pick.index.index(eligible.len())].clone())
    }

    /// Nothing newer of its client, and its node has no newer life.
    fn is_current(&self, connection: &Connection) -> bool {
        let Holder {
            node, incarnation, ..
        } = connection.holder;
        let newer = |each: &Connection| {
            each.client_id == connection.client_id && each.epoch > connection.epoch
        };
        !self.connections.iter().any(newer)
            && !self
                .lives
                .iter()
                .any(|(of, life)| *of == node && *life > incarnation)
    }

    fn submit_home(&mut self, pick: Pick, command: impl FnOnce(ClientId, Epoch) -> Command) {
        let Some(connection) = self.pick(&pick) else {
            return;
        };
        let Connection {
            client_id,
            home,
            holder,
            epoch,
            ..
        } = connection;
        self.submit(
            home,
            (holder.node, holder.incarnation),
            command(client_id, epoch),
        );
    }

    fn connect(
        &mut self,
        client: usize,
        node: usize,
        old_life: bool,
        terms: Terms,
    ) -> TestCaseResult {
        let client_id = ClientId::new(CLIENTS[client]).unwrap();
        let home = ShardId::of_client(CLIENTS[client], self.shards.len() as u16);
        let mut lives = self.lives.iter().rev().filter(|(of, _)| *of == NODES[node]);
        let newest = *lives.next().unwrap();
        let (node, incarnation) = lives.next().copied().filter(|_| old_life).unwrap_or(newest);
        let connection = ConnectionId(self.connections.len() as u64);
        let holder = Holder {
            node,
            incarnation,
            connection,
        };
        // Known before the answer, so that what is sent along with it is seen.
        self.connections.push(Connection {
            client_id: client_id.clone(),
            home,
            holder,
            epoch: Epoch(0),
            is_closed: true,
            fenced: BTreeSet::new(),
            read: VecDeque::new(),
        });
        let from = (&client_id, Epoch(0));
        let will = terms.will.map(|will| Will {
            message: self.oracle.message(from, will.content, Kind::Will),
            delay_interval_s: will.delay_interval_s,
        });
        let connect = Connect {
            client_id,
            holder,
            clean_start: terms.clean_start,
            session_expiry_interval_s: terms.expiry_interval_s,
            receive_maximum: terms.receive_maximum,
            limits: terms.limits,
            will,
            owner: terms.has_name.then(|| Utf8::try_from("alice").unwrap()),
        };
        self.submit(
            home,
            (node, incarnation),
            Command::Connect(Box::new(connect)),
        );
        let applied = self.flush(home, (node, incarnation))?.unwrap();
        if let Some(Response::Connected { epoch, .. }) = applied.answers.last() {
            let connection = self.connections.last_mut().unwrap();
            (connection.epoch, connection.is_closed) = (*epoch, false);
        }
        Ok(())
    }

    fn disconnect(
        &mut self,
        pick: Pick,
        interval_s: Option<u32>,
        ending: Ending,
    ) -> TestCaseResult {
        self.pick(&pick).map_or(Ok(()), |connection| {
            self.close(connection, interval_s, ending)
        })
    }

    fn close(
        &mut self,
        connection: Connection,
        interval_s: Option<u32>,
        ending: Ending,
    ) -> TestCaseResult {
        let life = (connection.holder.node, connection.holder.incarnation);
        self.flush_all(|_, of| of == life)?;
        self.connection(&connection).is_closed = true;
        let Connection {
            client_id,
            home,
            epoch,
            ..
        } = connection;
        let session_expiry_interval_s = interval_s;
        self.submit(
            home,
            life,
            Command::Disconnect {
                client_id,
                epoch,
                session_expiry_interval_s,
                ending,
            },
        );
        Ok(())
    }

    fn connection(&mut self, connection: &Connection) -> &mut Connection {
        let holder = connection.holder;
        self.connections
            .iter_mut()
            .find(|each| each.holder == holder)
            .unwrap()
    }

    /// Whether an earlier connection of the client may still have something under way to a shard.
    fn has_formers(&self, connection: &Connection, shard: ShardId) -> bool {
        let model = &self.shards[usize::from(shard.0)].model;
        self.connections.iter().any(|each| {
            each.client_id == connection.client_id
                && each.epoch < connection.epoch
                && !each.is_closed
                && !model.is_over(each.holder.node, each.holder.incarnation)
        })
    }

    /// Ends this connection's fences and those of older ones, where nothing can come any more.
    fn end_fences(&mut self, pick: &Pick) {
        let Some(connection) = self.pick(pick) else {
            return;
        };
        for shard in self.shard_ids() {
            let is_fenced = self.connections.iter().any(|each| {
                each.client_id == connection.client_id
                    && each.epoch <= connection.epoch
                    && each.fenced.contains(&shard)
            });
            if is_fenced && !self.has_formers(&connection, shard) {
                let Connection {
                    client_id,
                    epoch,
                    holder,
                    ..
                } = connection.clone();
                let command = Command::FenceEnd { client_id, epoch };
                self.submit(shard, (holder.node, holder.incarnation), command);
            }
        }
    }

    // Nodes and time.

    fn node_up(&mut self, node: NodeId) -> TestCaseResult {
        match self.apply_one(ShardId::ZERO, Command::NodeUp { node })? {
            Response::NodeUp { incarnation } => self.lives.push((node, incarnation)),
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    }

    fn node_down(&mut self, life: prop::sample::Index, shard: ShardId) -> TestCaseResult {
        let (node, incarnation) = self.lives[life.index(self.lives.len())];
        self.apply_one(shard, Command::NodeDown { node, incarnation })?;
        Ok(())
    }

    /// The leader's timer; `all`: also where it is too early or too late.
    fn expire(&mut self, shard: ShardId, all: bool) -> TestCaseResult {
        let now = self.leader_time();
        let Tested { machine, model, .. } = self.tested(shard);
        let due = machine.due(now, usize::MAX);
        let mut sessions: Vec<_> = due
            .into_iter()
            .map(|due| (due.client_id, due.epoch))
            .collect();
        let mut expected = model.due(now);
        expected.sort();
        let mut sorted = sessions.clone();
        sorted.sort();
        prop_assert_eq!(sorted, expected);
        if all {
            // First, so that a timer of an older connection meets a session that is due.
            let connections = self.connections.iter().filter(|each| each.home == shard);
            let timers = connections.map(|each| (each.client_id.clone(), each.epoch));
            sessions = timers.chain(sessions).collect();
        }
        for (client_id, epoch) in sessions {
            self.apply_one(shard, Command::ExpireSession { client_id, epoch })?;
        }
        Ok(())
    }
}
