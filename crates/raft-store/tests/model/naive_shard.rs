//! One shard, naively: no index, no shared body, no list of changes; filters are tried one by one.
//!
//! It says what a batch is answered, what follows, and what is to be stored afterwards. Bodies have no
//! ids here: [`World`](super::world::World) compares without them. Routes are not events but what
//! `routes` counts.

use std::collections::BTreeMap;

use codec::{ClientId, ReasonCode, Timestamp, TopicFilter, TopicName, Utf8};
use raft_store::{
    Acknowledgement, CloseReason, Command, Connect, Effect, Ending, Epoch, Holder, Incarnation,
    NodeId, OutboxTarget, ProposerId, Refusal, Response, RouteTarget, ShardId, WaitingItem,
};
use session::{DropCause, Subscription};

use super::naive_session::{NaiveSession, Said};

#[path = "naive_shard/messages.rs"]
mod messages;
#[path = "naive_shard/outbox.rs"]
mod outbox;
#[path = "naive_shard/retained.rs"]
mod retained;
#[path = "naive_shard/view.rs"]
mod view;
#[path = "naive_shard/wills.rs"]
mod wills;

pub(crate) use messages::Choices;
use retained::Read;
pub(crate) use retained::Retained;
pub(crate) use wills::NaiveWill;

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
    pub(crate) owner: Option<Utf8>,
    pub(crate) session: Option<NaiveSession>,
    pub(crate) read: Option<Read>,
}

#[derive(Clone, Debug, Default)]
struct Target {
    given: u64,
    items: BTreeMap<u64, WaitingItem>,
}

/// How far another shard's outbox is taken.
#[derive(Clone, Debug, Default)]
struct Source {
    upto: u64,
    /// Not settled yet.
    refused: Vec<u64>,
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
    taken: BTreeMap<ShardId, Source>,
    pub(crate) wills: BTreeMap<Epoch, NaiveWill>,
    pub(crate) retained: BTreeMap<TopicName, Retained>,
    versions: u64,
    /// Which members of shared subscriptions get something.
    pub(crate) choices: Choices,
    outbox: BTreeMap<OutboxTarget, Target>,
    effects: Vec<Effect>,
    /// What the machine answered to the command at hand, for where it has a choice.
    hint: Option<Response>,
    /// How many retained copies the last batch brought too late.
    pub(crate) outdated: u32,
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
            wills: BTreeMap::new(),
            retained: BTreeMap::new(),
            versions: 0,
            choices: Choices::default(),
            outbox: BTreeMap::new(),
            effects: Vec::new(),
            hint: None,
            outdated: 0,
        }
    }

    /// `None` stands for bytes that are no command; `hints`: what the machine answered.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        (proposer, sequence): (ProposerId, u64),
        leader_time: Timestamp,
        (commands, hints): (&[Option<Command>], &[Response]),
    ) -> Outcome {
        let commands: Vec<_> = commands.iter().zip(hints).collect();
        let commands = &commands[..];
        self.time = self.time.max(leader_time);
        self.outdated = 0;
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
        commands: &[(&Option<Command>, &Response)],
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

    fn apply_all(
        &mut self,
        index: u64,
        commands: &[(&Option<Command>, &Response)],
    ) -> Vec<Response> {
        let apply = |(command, hint): &(&Option<Command>, &Response)| match command {
            Some(command) => {
                self.hint = Some((*hint).clone());
                self.command(index, command.clone())
            }
            None => Response::Refused(Refusal::Malformed),
        };
        commands.iter().map(apply).collect()
    }

    #[expect(clippy::too_many_lines, reason = "one arm per command")]
    fn command(&mut self, index: u64, command: Command) -> Response {
        match command {
            Command::Hello => {}
            Command::Barrier => {
                let version = self.versions;
                return Response::RetainedSet { version };
            }
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
                ending,
            } => {
                return self.disconnect(&client_id, epoch, session_expiry_interval_s, ending);
            }
            Command::Subscribe {
                client_id,
                epoch,
                filters,
                reads_retained,
            } => {
                return self.subscribe(&client_id, epoch, filters, reads_retained);
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
                retained_version,
            } => {
                return self.publish(&client_id, epoch, message, retained_version);
            }
            Command::PublishShared {
                client_id,
                epoch,
                filter,
                message,
                expires_in_ms,
            } => {
                let body = self.body(message, expires_in_ms, None);
                return self.publish_shared(&client_id, epoch, &filter, &body);
            }
            Command::SetRetained {
                client_id,
                epoch,
                message,
                limits,
            } => {
                return self.set_retained(&client_id, epoch, message, limits);
            }
            Command::DeliverRetained {
                client_id,
                epoch,
                copies,
                last,
            } => {
                return self.deliver_retained(&client_id, epoch, copies, last);
            }
            Command::PublishWill {
                epoch,
                retained_version,
                shards,
                nodes,
                shared,
            } => {
                return self.publish_will(epoch, retained_version, (&shards, &nodes, &shared));
            }
            Command::Place { number, to } => return self.place(number, to),
            Command::Claim { target, number } => return self.claim(target, number),
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
                let from = (&client_id, epoch, packet_id);
                let body = self.body(message, None, retained_version);
                return self.receive_exactly_once(from, &body, (&shards, &nodes, &shared));
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
                settled,
                first,
                items,
            } => {
                return self.take_outbox(source, settled, first, items);
            }
            Command::Taken {
                target,
                upto,
                refused,
            } => self.trim(target, upto, &refused),
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
                self.disconnect(&client_id, *former, None, Ending::Abnormal);
            }
            if let Some(holder) = open.filter(ended) {
                self.effects.push(Effect::Close {
                    holder,
                    reason: CloseReason::NodeDown,
                });
                self.disconnect(&client_id, epoch, None, Ending::Abnormal);
            }
        }
        self.end_lanes(|of, life| of == node && over(life));
    }

    /// Whether this shard takes nothing from a life any more.
    pub(crate) fn is_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.lives.get(&node).is_some_and(|life| {
            (life.incarnation, life.down) >= (incarnation, true) || life.incarnation > incarnation
        })
    }

    // Sessions.

    fn belongs_to_another(&self, connect: &Connect) -> bool {
        self.clients.get(&connect.client_id).is_some_and(|client| {
            let ends_at = client.session.as_ref().and_then(|session| session.ends_at);
            let is_over = ends_at.is_some_and(|end| end <= self.time) && client.formers.is_empty();
            client.owner != connect.owner && !is_over
        })
    }

    fn connect(&mut self, connect: &Connect) -> Response {
        let Connect {
            client_id, holder, ..
        } = connect.clone();
        if self.belongs_to_another(connect) {
            return Response::Refused(Refusal::NotOwner);
        }
        self.epochs += 1;
        let epoch = Epoch(self.epochs);
        let (mut formers, mut kept) = (Vec::new(), None);
        if let Some(former) = self.clients.remove(&client_id) {
            formers = former.formers;
            let is_over = |session: &NaiveSession| {
                connect.clean_start
                    || session.ends_at.is_some_and(|end| end <= self.time)
                    || (former.open.is_some() && session.expiry_interval_s == 0)
            };
            let (over, resumed) = match former.session {
                Some(session) if is_over(&session) => (Some(session), None),
                session => (None, session),
            };
            self.will_at_connect(former.epoch, resumed.is_some());
            if let Some(holder) = former.open {
                formers.push((former.epoch, holder));
                self.effects.push(Effect::Close {
                    holder,
                    reason: CloseReason::TakenOver,
                });
            }
            if let Some(session) = over {
                self.lose(&client_id, &session);
            }
            kept = resumed;
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
            owner: connect.owner.clone(),
            session,
            read: None,
        };
        let (mut said, mut awaiting_pubrel) = (Vec::new(), Vec::new());
        let (mut resend, mut subscriptions) = (Vec::new(), Vec::new());
        if let Some(session) = &mut client.session {
            (resend, said) = session.connect(self.time, connect);
            subscriptions = session.subscriptions.clone().into_iter().collect();
            awaiting_pubrel = session.unreleased();
        }
        self.clients.insert(client_id.clone(), client);
        self.arm_will(&client_id, epoch, connect.will.as_ref());
        self.effects.push(Effect::Resumed {
            holder,
            resend,
            subscriptions,
            awaiting_pubrel,
        });
        self.tell(&client_id, said);
        answer
    }

    fn disconnect(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        interval: Option<u32>,
        ending: Ending,
    ) -> Response {
        let Some(client) = self.clients.get_mut(client_id) else {
            return stale();
        };
        if client.epoch == epoch {
            if client.open.take().is_none() {
                return stale();
            }
            client.read = None;
            let own = client.session.as_ref();
            let interval = interval.or_else(|| own.map(|session| session.expiry_interval_s));
            match &mut client.session {
                Some(session) if interval != Some(0) => {
                    session.disconnect(self.time, interval.unwrap());
                    let ends_at = session.ends_at;
                    self.will_at_close(epoch, ending, ends_at);
                }
                session => {
                    let session = session.take();
                    self.will_at_close(epoch, ending, Some(self.time));
                    if let Some(session) = session {
                        self.lose(client_id, &session);
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
            self.will_of_former(epoch, ending);
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
        self.lose(client_id, &session);
        if self.clients[client_id].formers.is_empty() {
            self.clients.remove(client_id);
        }
    }

    /// A session ends: what it had by a share goes to other members, the rest is lost.
    fn lose(&mut self, client_id: &ClientId, session: &NaiveSession) {
        let (reassigned, lost) = session.end();
        for delivery in reassigned {
            let item = WaitingItem {
                publisher: client_id.clone(),
                body: delivery.body,
                share: delivery.share.map(|share| TopicFilter::clone(&share)),
            };
            self.put(OutboxTarget::Unplaced, item);
        }
        let dropped = Effect::Dropped {
            cause: DropCause::SessionEnded,
        };
        self.effects.extend(std::iter::repeat_n(dropped, lost));
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
        reads_retained: bool,
    ) -> Response {
        let Some(session) = self.open_session(client_id, epoch) else {
            return stale();
        };
        let mut existed = Vec::new();
        for (filter, subscription) in filters {
            existed.push(session.subscriptions.insert(filter, subscription).is_some());
        }
        if reads_retained {
            self.begin_read(client_id);
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
        let now = self.time;
        for acknowledgement in acknowledgements {
            let Some(session) = self.open_session(client_id, epoch) else {
                return stale();
            };
            let said = session.acknowledge(now, *acknowledgement);
            self.tell(client_id, said);
        }
        if self.open_session(client_id, epoch).is_some() {
            Response::Done
        } else {
            stale()
        }
    }

    /// Tells a client's connection what its session says.
    fn tell(&mut self, client_id: &ClientId, said: Vec<Said>) {
        let open = self.clients[client_id].open;
        for said in said {
            let effect = match (said, open) {
                (Said::Publish(position, packet_id, delivery), Some(holder)) => Effect::Send {
                    holder,
                    position,
                    packet_id,
                    delivery,
                },
                (Said::Pubrel(pubrec_position, packet_id, reason_code), Some(holder)) => {
                    Effect::SendPubrel {
                        holder,
                        packet_id,
                        reason_code,
                        pubrec_position,
                    }
                }
                (Said::QueueFull, Some(holder)) => Effect::Close {
                    holder,
                    reason: CloseReason::QueueFull,
                },
                (Said::Dropped(cause), _) => Effect::Dropped { cause },
                (Said::Publish(..) | Said::Pubrel(..) | Said::QueueFull, None) => {
                    panic!("{client_id} has no connection to be told on")
                }
            };
            self.effects.push(effect);
        }
    }
}

fn stale() -> Response {
    Response::Refused(Refusal::StaleEpoch)
}
