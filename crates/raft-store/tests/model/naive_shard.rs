//! One shard, naively: no index, no shared body, no list of changes; filters are tried one by one.
//!
//! It says what a batch is answered, what follows, and what is to be stored afterwards. Bodies have no
//! ids here: [`World`](super::world::World) compares without them. Routes are not events but what
//! `routes` counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::{ClientId, Message, PacketId, Qos, ReasonCode, Timestamp, TopicFilter};
use raft_store::{
    Acknowledgement, CloseReason, Command, Connect, Effect, Epoch, Holder, Incarnation, NodeId,
    OutboxItem, OutboxTarget, ProposerId, Refusal, Response, RouteTarget, ShardId, StateKey,
    StateRecord,
};
use session::{Delivery, DropCause, StoredMessage, Subscription};

use super::naive_session::{NaiveSession, Said};

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

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2]; no topic of these tests begins with `$`.
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, mut topic) = (filter.split('/'), topic.split('/'));
    for level in filter {
        match (level, topic.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, found) if Some(level) == found => {}
            (_, _) => return false,
        }
    }
    topic.next().is_none()
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
            let interval = interval.or(client
                .session
                .as_ref()
                .map(|session| session.expiry_interval_s));
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

    // Messages.

    fn publish(&mut self, client_id: &ClientId, epoch: Epoch, message: Message) -> Response {
        let fenced = self
            .fences
            .get(client_id)
            .is_some_and(|fence| epoch < *fence);
        let replaced = self
            .clients
            .get(client_id)
            .is_some_and(|client| client.epoch != epoch);
        if fenced || replaced {
            return stale();
        }
        let (matched, rejected) = self.deliver_here(client_id, &body(message));
        Response::Published { matched, rejected }
    }

    fn receive_exactly_once(
        &mut self,
        (client_id, epoch, packet_id): (&ClientId, Epoch, PacketId),
        message: Message,
        shards: &[ShardId],
        nodes: &[(NodeId, Incarnation)],
    ) -> Response {
        let Some(session) = self.open_session(client_id, epoch) else {
            return stale();
        };
        match session.receive_exactly_once(packet_id) {
            Some(true) => {}
            Some(false) => return Response::Received { first: false },
            None => return Response::ReceiveMaximumExceeded,
        }
        let item = OutboxItem {
            publisher: client_id.clone(),
            body: body(message),
        };
        for shard in shards {
            if *shard == self.shard {
                self.deliver_here(client_id, &item.body);
            } else {
                self.put(OutboxTarget::Shard(*shard), item.clone());
            }
        }
        for &(node, incarnation) in nodes {
            if !self.is_over(node, incarnation) {
                let number = self.put(OutboxTarget::Node(node, incarnation), item.clone());
                let item = item.clone();
                self.effects.push(Effect::LiveOutbox {
                    node,
                    incarnation,
                    number,
                    item,
                });
            }
        }
        Response::Received { first: true }
    }

    fn put(&mut self, target: OutboxTarget, item: OutboxItem) -> u64 {
        let target = self.outbox.entry(target).or_default();
        target.given += 1;
        target.items.insert(target.given, item);
        target.given
    }

    fn take_outbox(&mut self, source: ShardId, first: u64, items: Vec<OutboxItem>) -> Response {
        for (index, item) in items.into_iter().enumerate() {
            let number = first.saturating_add(index as u64);
            let taken = self.taken.get(&source).copied().unwrap_or(0);
            if number > taken + 1 {
                return Response::Refused(Refusal::Malformed);
            }
            if number == taken + 1 {
                self.deliver_here(&item.publisher, &body(item.body.message.clone()));
                self.taken.insert(source, number);
            }
        }
        Response::Done
    }

    /// Every session with a matching subscription, once [MQTT-3.3.4-2] [MQTT-3.3.4-4].
    fn deliver_here(&mut self, publisher: &ClientId, body: &Arc<StoredMessage>) -> (u32, bool) {
        let (mut matched, mut rejected) = (0, false);
        let ids: Vec<ClientId> = self.clients.keys().cloned().collect();
        for client_id in ids {
            let client = self.clients.get_mut(&client_id).unwrap();
            let Some(session) = &mut client.session else {
                continue;
            };
            let heard: Vec<&Subscription> = session
                .subscriptions
                .iter()
                .filter(|(filter, _)| matches(filter.as_str(), body.message.topic.as_str()))
                .filter(|(_, each)| !(each.options.no_local && client_id == *publisher))
                .map(|(_, subscription)| subscription)
                .collect();
            let Some(granted) = heard.iter().map(|each| each.options.qos).max() else {
                continue;
            };
            let qos = granted.min(body.message.qos);
            if qos == Qos::AtMostOnce {
                continue;
            }
            let retain_as_published = heard.iter().any(|each| each.options.retain_as_published);
            let mut identifiers: Vec<_> = heard.iter().filter_map(|each| each.identifier).collect();
            identifiers.sort();
            let retain = retain_as_published && body.message.retain;
            let delivery = Delivery {
                body: Arc::clone(body),
                qos,
                retain,
                identifiers,
            };
            let mut said = Vec::new();
            session.deliver(delivery, &mut said);
            matched += 1;
            if self.tell(&client_id, said) {
                match body.message.qos {
                    // Its publisher cannot be told: PUBREC is already due.
                    Qos::ExactlyOnce => self.effects.push(Effect::Dropped {
                        cause: DropCause::QueueFullNewest,
                    }),
                    Qos::AtMostOnce | Qos::AtLeastOnce => rejected = true,
                }
            }
        }
        (matched, rejected)
    }

    // What there is to see.

    /// The route entries that this state stands for (DESIGN section 3).
    pub(crate) fn routes(&self) -> Routes {
        let mut routes = Routes::new();
        for client in self.clients.values() {
            let subscriptions = client
                .session
                .iter()
                .flat_map(|session| &session.subscriptions);
            for (filter, subscription) in subscriptions {
                let at_most_once = subscription.options.qos == Qos::AtMostOnce;
                let durable = (!at_most_once).then_some(RouteTarget::Shard(self.shard));
                let live = client.open.map(|holder| match at_most_once {
                    true => RouteTarget::Node(holder.node),
                    false => RouteTarget::NodeAtMostOnce(holder.node),
                });
                for target in durable.into_iter().chain(live) {
                    *routes.entry((filter.clone(), target)).or_insert(0) += 1;
                }
            }
        }
        routes
    }

    /// What is to be stored, without counters and bodies.
    pub(crate) fn records(&self) -> BTreeMap<StateKey, StateRecord> {
        let mut records = BTreeMap::new();
        for (node, life) in &self.lives {
            let Life {
                incarnation,
                down,
                last_sequence,
                ..
            } = *life;
            let answers = life.answers.clone().into();
            let record = StateRecord::Node {
                incarnation,
                down,
                last_sequence,
                answers,
            };
            records.insert(StateKey::Node(*node), record);
        }
        for (source, upto) in &self.taken {
            records.insert(StateKey::Taken(*source), StateRecord::Taken { upto: *upto });
        }
        for (client_id, epoch) in &self.fences {
            let record = StateRecord::Fence { epoch: *epoch };
            records.insert(StateKey::Fence(client_id.clone()), record);
        }
        for (client_id, client) in &self.clients {
            let record = StateRecord::Session {
                epoch: client.epoch,
                holder: client.open,
                formers: client.formers.clone(),
                hosted: client.session.as_ref().map(NaiveSession::meta),
            };
            records.insert(StateKey::Session(client_id.clone()), record);
            let session = client.session.iter();
            records.extend(session.flat_map(|session| session.records(client_id)));
        }
        for (target, Target { given, items }) in &self.outbox {
            let next_number = given + 1;
            records.insert(
                StateKey::Outbox(*target),
                StateRecord::Outbox { next_number },
            );
            for (number, OutboxItem { publisher, .. }) in items {
                let publisher = publisher.clone();
                let record = StateRecord::OutboxItem { publisher, body: 0 };
                records.insert(StateKey::OutboxItem(*target, *number), record);
            }
        }
        records
    }

    /// Disconnected sessions that end by `now`.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<(ClientId, Epoch)> {
        let end = |client: &Client| client.session.as_ref().and_then(|session| session.ends_at);
        let due = self
            .clients
            .iter()
            .filter(|(_, client)| end(client).is_some_and(|end| end <= now));
        due.map(|(client_id, client)| (client_id.clone(), client.epoch))
            .collect()
    }

    pub(crate) fn taken(&self, source: ShardId) -> u64 {
        self.taken.get(&source).copied().unwrap_or(0)
    }

    pub(crate) fn outbox_bytes(&self) -> u64 {
        let items = self
            .outbox
            .values()
            .flat_map(|target| target.items.values());
        items.map(|item| item.body.message.size() as u64).sum()
    }
}

fn stale() -> Response {
    Response::Refused(Refusal::StaleEpoch)
}

fn body(message: Message) -> Arc<StoredMessage> {
    Arc::new(StoredMessage { id: 0, message })
}
