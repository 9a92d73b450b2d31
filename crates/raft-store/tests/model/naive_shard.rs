//! One shard, naively: no index, no shared body, no list of changes; filters are tried one by one.
//!
//! It says what a batch is answered, what follows, and what is to be stored afterwards. Bodies have no
//! ids here: [`World`](super::world::World) compares without them. Routes are not events but what
//! `routes` counts.

use std::collections::BTreeMap;

use codec::{ClientId, ReasonCode, Timestamp, TopicFilter};
use raft_store::{
    Acknowledgement, CloseReason, Command, Connect, Effect, Epoch, Holder, Incarnation, NodeId,
    OutboxItem, OutboxTarget, ProposerId, Refusal, Response, RouteTarget, ShardId,
};
use session::{DropCause, Subscription};

use super::naive_session::{NaiveSession, Said};

#[path = "naive_shard/messages.rs"]
mod messages;
#[path = "naive_shard/view.rs"]
mod view;

/// How often each route entry is there.
pub(crate) type Routes = BTreeMap<(TopicFilter, RouteTarget), u64>;

#[derive(Clone, Debug)]
struct Life {
    incarnation: Incarnation,
    down: bool,
    last_sequence: u64,
    answers: Vec<Response>,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) epoch: Epoch,
    pub(crate) open: Option<Holder>,
    formers: Vec<(Epoch, Holder)>,
    pub(crate) session: Option<NaiveSession>,
}

#[derive(Clone, Debug, Default)]
struct Target {
    given: u64,
    items: BTreeMap<u64, OutboxItem>,
}

/// What applying a batch gives.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Response>,
    pub(crate) effects: Vec<Effect>,
}

#[derive(Clone, Debug)]
pub(crate) struct NaiveShard {
    shard: ShardId,
    pub(crate) time: Timestamp,
    epochs: u64,
    lives: BTreeMap<NodeId, Life>,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    fences: BTreeMap<ClientId, Epoch>,
    taken: BTreeMap<ShardId, u64>,
    outbox: BTreeMap<OutboxTarget, Target>,
    effects: Vec<Effect>,
}

impl NaiveShard {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            time: Timestamp::ZERO,
            epochs: 0,
            lives: BTreeMap::new(),
            clients: BTreeMap::new(),
            fences: BTreeMap::new(),
            taken: BTreeMap::new(),
            outbox: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// `None` stands for bytes that are no command.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        (proposer, sequence): (ProposerId, u64),
        leader_time: Timestamp,
        commands: &[Option<Command>],
    ) -> Outcome {
        self.time = self.time.max(leader_time);
        let answers = match proposer {
            ProposerId::Node { node, incarnation } => {
                self.apply_numbered((node, incarnation), sequence, index, commands)
            }
            ProposerId::Outbox { .. } | ProposerId::Idempotent => self.apply_all(index, commands),
        };
        Outcome {
            answers,
            effects: std::mem::take(&mut self.effects),
        }
    }

    fn apply_numbered(
        &mut self,
        (node, incarnation): (NodeId, Incarnation),
        sequence: u64,
        index: u64,
        commands: &[Option<Command>],
    ) -> Vec<Response> {
        let refused = |refusal| vec![Response::Refused(refusal); commands.len()];
        if self
            .lives
            .get(&node)
            .is_none_or(|life| life.incarnation < incarnation)
        {
            self.begin_life(node, incarnation);
        }
        let life = &self.lives[&node];
        if life.incarnation != incarnation || life.down {
            return refused(Refusal::StaleIncarnation);
        }
        if sequence == life.last_sequence && sequence > 0 {
            return life.answers.clone();
        }
        if sequence != life.last_sequence + 1 {
            return refused(Refusal::Malformed);
        }
        let answers = self.apply_all(index, commands);
        let life = self.lives.get_mut(&node).unwrap();
        (life.last_sequence, life.answers) = (sequence, answers.clone());
        answers
    }

    fn apply_all(&mut self, index: u64, commands: &[Option<Command>]) -> Vec<Response> {
        let apply = |command: &Option<Command>| match command {
            Some(command) => self.command(index, command.clone()),
            None => Response::Refused(Refusal::Malformed),
        };
        commands.iter().map(apply).collect()
    }

    #[expect(clippy::too_many_lines, reason = "one arm per command")]
    fn command(&mut self, index: u64, command: Command) -> Response {
        match command {
            Command::Hello => {}
            Command::NodeUp { node } => {
                let incarnation = Incarnation(index);
                self.begin_life(node, incarnation);
                return Response::NodeUp { incarnation };
            }
            Command::NodeDown { node, incarnation } => self.node_down(node, incarnation),
            Command::Connect(connect) => return self.connect(&connect),
            Command::Disconnect {
                client_id,
                epoch,
                session_expiry_interval_s,
            } => {
                return self.disconnect(&client_id, epoch, session_expiry_interval_s);
            }
            Command::Subscribe {
                client_id,
                epoch,
                filters,
            } => {
                return self.subscribe(&client_id, epoch, filters);
            }
            Command::Unsubscribe {
                client_id,
                epoch,
                filters,
            } => {
                return self.unsubscribe(&client_id, epoch, &filters);
            }
            Command::Publish {
                client_id,
                epoch,
                message,
            } => {
                return self.publish(&client_id, epoch, message);
            }
            Command::ReceiveExactlyOnce {
                client_id,
                epoch,
                packet_id,
                message,
                shards,
                nodes,
            } => {
                let from = (&client_id, epoch, packet_id);
                return self.receive_exactly_once(from, message, &shards, &nodes);
            }
            Command::Release {
                client_id,
                epoch,
                packet_id,
            } => {
                let Some(session) = self.open_session(&client_id, epoch) else {
                    return stale();
                };
                let reason_code = match session.release(packet_id) {
                    true => ReasonCode::Success,
                    false => ReasonCode::PacketIdentifierNotFound,
                };
                return Response::Released { reason_code };
            }
            Command::Acknowledge {
                client_id,
                epoch,
                acknowledgements,
            } => {
                return self.acknowledge(&client_id, epoch, &acknowledgements);
            }
            Command::Fence { client_id, epoch } => {
                if self
                    .fences
                    .get(&client_id)
                    .is_some_and(|fence| *fence > epoch)
                {
                    return stale();
                }
                self.fences.insert(client_id, epoch);
            }
            Command::FenceEnd { client_id, epoch } => {
                self.fences
                    .retain(|fenced, fence| *fenced != client_id || *fence > epoch);
            }
            Command::TakeOutbox {
                source,
                first,
                items,
            } => {
                return self.take_outbox(source, first, items);
            }
            Command::Taken { target, upto } => {
                if let Some(target) = self.outbox.get_mut(&target) {
                    target.items.retain(|number, _| *number > upto);
                }
            }
            Command::ExpireSession { client_id, epoch } => self.expire(&client_id, epoch),
        }
        Response::Done
    }

    // Lives of nodes.

    fn begin_life(&mut self, node: NodeId, incarnation: Incarnation) {
        if let Some(life) = self.lives.get(&node) {
            self.effects.push(Effect::NodeDown {
                node,
                incarnation: life.incarnation,
            });
        }
        self.end_lives(node, |life| life < incarnation);
        let life = Life {
            incarnation,
            down: false,
            last_sequence: 0,
            answers: Vec::new(),
        };
        self.lives.insert(node, life);
        self.effects.push(Effect::NodeUp { node, incarnation });
    }

    fn node_down(&mut self, node: NodeId, incarnation: Incarnation) {
        let known = self
            .lives
            .get(&node)
            .map(|life| (life.incarnation, life.down));
        if known.is_some_and(|known| known >= (incarnation, true)) {
            return;
        }
        let life = Life {
            incarnation,
            down: true,
            last_sequence: 0,
            answers: Vec::new(),
        };
        self.lives.insert(node, life);
        self.end_lives(node, |life| life <= incarnation);
        self.effects.push(Effect::NodeDown { node, incarnation });
    }

    fn end_lives(&mut self, node: NodeId, over: impl Fn(Incarnation) -> bool) {
        let ended = |holder: &Holder| holder.node == node && over(holder.incarnation);
        let ids: Vec<ClientId> = self.clients.keys().cloned().collect();
        for client_id in ids {
            let client = self.clients.get_mut(&client_id).unwrap();
            let (epoch, open, formers) = (client.epoch, client.open, client.formers.clone());
            for (former, _) in formers.iter().filter(|(_, holder)| ended(holder)) {
                self.disconnect(&client_id, *former, None);
            }
            if let Some(holder) = open.filter(ended) {
                self.effects.push(Effect::Close {
                    holder,
                    reason: CloseReason::NodeDown,
                });
                self.disconnect(&client_id, epoch, None);
            }
        }
        self.outbox.retain(|target, _| match target {
            OutboxTarget::Node(of, life) => *of != node || !over(*life),
            OutboxTarget::Shard(_) => true,
        });
    }

    /// Whether this shard takes nothing from a life any more.
    pub(crate) fn is_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.lives.get(&node).is_some_and(|life| {
            (life.incarnation, life.down) >= (incarnation, true) || life.incarnation > incarnation
        })
    }

    // Sessions.

    fn connect(&mut self, connect: &Connect) -> Response {
        let Connect {
            client_id, holder, ..
        } = connect.clone();
        self.epochs += 1;
        let epoch = Epoch(self.epochs);
        let (mut formers, mut kept) = (Vec::new(), None);
        if let Some(former) = self.clients.remove(&client_id) {
            formers = former.formers;
            if let Some(holder) = former.open {
                formers.push((former.epoch, holder));
                self.effects.push(Effect::Close {
                    holder,
                    reason: CloseReason::TakenOver,
                });
            }
            let is_over = |session: &NaiveSession| {
                connect.clean_start
                    || session.ends_at.is_some_and(|end| end <= self.time)
                    || (former.open.is_some() && session.expiry_interval_s == 0)
            };
            match former.session {
                Some(session) if is_over(&session) => self.lose(&session),
                session => kept = session,
            }
        }
        let session_present = kept.is_some();
        let hosted = session_present || connect.session_expiry_interval_s > 0;
        let session = hosted.then(|| kept.unwrap_or_else(NaiveSession::new));
        let answer = Response::Connected {
            epoch,
            session_present,
            hosted,
            formers: !formers.is_empty(),
        };
        let mut client = Client {
            epoch,
            open: Some(holder),
            formers,
            session,
        };
        let mut said = Vec::new();
        let (mut resend, mut subscriptions) = (Vec::new(), Vec::new());
        if let Some(session) = &mut client.session {
            (resend, said) = session.connect(connect);
            subscriptions = session.subscriptions.clone().into_iter().collect();
        }
        self.clients.insert(client_id.clone(), client);
        self.effects.push(Effect::Resumed {
            holder,
            resend,
            subscriptions,
        });
        self.tell(&client_id, said);
        answer
    }

    fn disconnect(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        interval: Option<u32>,
    ) -> Response {
        let Some(client) = self.clients.get_mut(client_id) else {
            return stale();
        };
        if client.epoch == epoch {
            if client.open.take().is_none() {
                return stale();
            }
            let own = client.session.as_ref();
            let interval = interval.or_else(|| own.map(|session| session.expiry_interval_s));
            match &mut client.session {
                Some(session) if interval != Some(0) => {
                    session.disconnect(self.time, interval.unwrap());
                }
                session => {
                    if let Some(session) = session.take() {
                        self.lose(&session);
                    }
                }
            }
        } else {
            let before = client.formers.len();
            client.formers.retain(|(former, _)| *former != epoch);
            if client.formers.len() == before {
                return stale();
            }
            if client.formers.is_empty() {
                let (client_id, epoch) = (client_id.clone(), client.epoch);
                self.effects.push(Effect::FencesOver { client_id, epoch });
            }
        }
        self.clients.retain(|_, client| {
            client.open.is_some() || client.session.is_some() || !client.formers.is_empty()
        });
        Response::Done
    }

    fn expire(&mut self, client_id: &ClientId, epoch: Epoch) {
        let now = self.time;
        let due = |client: &&mut Client| {
            let end = client.session.as_ref().and_then(|session| session.ends_at);
            client.epoch == epoch && end.is_some_and(|end| end <= now)
        };
        let Some(client) = self.clients.get_mut(client_id).filter(due) else {
            return;
        };
        let session = client.session.take().unwrap();
        self.lose(&session);
        if self.clients[client_id].formers.is_empty() {
            self.clients.remove(client_id);
        }
    }

    fn lose(&mut self, session: &NaiveSession) {
        let dropped = Effect::Dropped {
            cause: DropCause::SessionEnded,
        };
        self.effects
            .extend(std::iter::repeat_n(dropped, session.lost()));
    }

    fn open_session(&mut self, client_id: &ClientId, epoch: Epoch) -> Option<&mut NaiveSession> {
        let client = self.clients.get_mut(client_id)?;
        let is_open = client.open.is_some() && client.epoch == epoch;
        client.session.as_mut().filter(|_| is_open)
    }

    fn subscribe(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        filters: Vec<(TopicFilter, Subscription)>,
    ) -> Response {
        let Some(session) = self.open_session(client_id, epoch) else {
            return stale();
        };
        let mut existed = Vec::new();
        for (filter, subscription) in filters {
            existed.push(session.subscriptions.insert(filter, subscription).is_some());
        }
        Response::Subscribed { existed }
    }

    fn unsubscribe(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        filters: &[TopicFilter],
    ) -> Response {
        let Some(session) = self.open_session(client_id, epoch) else {
            return stale();
        };
        let mut existed = Vec::new();
        for filter in filters {
            existed.push(session.subscriptions.remove(filter).is_some());
        }
        Response::Unsubscribed { existed }
    }

    fn acknowledge(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        acknowledgements: &[Acknowledgement],
    ) -> Response {
        for acknowledgement in acknowledgements {
            let Some(session) = self.open_session(client_id, epoch) else {
                return stale();
            };
            let said = session.acknowledge(*acknowledgement);
            self.tell(client_id, said);
        }
        if self.open_session(client_id, epoch).is_some() {
            Response::Done
        } else {
            stale()
        }
    }

    fn tell(&mut self, client_id: &ClientId, said: Vec<Said>) -> bool {
        let open = self.clients[client_id].open;
        let mut rejected = false;
        for said in said {
            let effect = match (said, open) {
                (Said::Publish(packet_id, delivery), Some(holder)) => Effect::Send {
                    holder,
                    packet_id,
                    delivery,
                },
                (Said::Pubrel(packet_id, reason_code), Some(holder)) => Effect::SendPubrel {
                    holder,
                    packet_id,
                    reason_code,
                },
                (Said::QueueFull, Some(holder)) => Effect::Close {
                    holder,
                    reason: CloseReason::QueueFull,
                },
                (Said::Dropped(cause), _) => Effect::Dropped { cause },
                (Said::Rejected, _) => {
                    rejected = true;
                    continue;
                }
                (Said::Publish(..) | Said::Pubrel(..) | Said::QueueFull, None) => {
                    panic!("{client_id} has no connection to be told on")
                }
            };
            self.effects.push(effect);
        }
        rejected
    }
}

fn stale() -> Response {
    Response::Refused(Refusal::StaleEpoch)
}
