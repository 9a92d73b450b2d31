//! A machine under test: its model beside it, its storage, and a second replica that is restarted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use codec::ClientId;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::{decode_key, decode_record};
use raft_store::{
    Applied, Batch, Command, Effect, Holder, Incarnation, Machine, NodeId, ProposerId, Response,
    ShardId, StateKey, StateRecord,
};
use session::{DeliveryParts, Resend, Session, SessionParts, StoredMessage};

use super::naive_shard::{NaiveShard, Routes};

/// The state tables.
pub(crate) type Store = BTreeMap<Vec<u8>, Vec<u8>>;
/// The same, decoded.
type Records = BTreeMap<StateKey, StateRecord>;

/// One committed entry and what applying it gave.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) batch: Batch,
    pub(crate) applied: Applied,
}

pub(crate) struct Tested {
    pub(crate) machine: Machine,
    pub(crate) model: NaiveShard,
    pub(crate) log: Vec<Entry>,
    pub(crate) records: Records,
    store: Store,
    /// What a node's route table holds because of this shard.
    routes: Routes,
    restarting: Restarting,
}

/// A replica that saves its tables now and then, and may lose everything else.
struct Restarting {
    shard: ShardId,
    machine: Machine,
    store: Store,
    /// Entries that `store` stands for, and their routes.
    saved: usize,
    saved_routes: Routes,
    /// What the first apply after a load must hand out.
    boot: Option<Routes>,
}

/// Writes what changed as the node does.
pub(crate) fn save(machine: &mut Machine, store: &mut Store) {
    for (key, value) in machine.take_changes() {
        match value {
            Some(value) => store.insert(key, value),
            None => store.remove(&key),
        };
    }
}

/// Starts a replica from its tables.
pub(crate) fn load(shard: ShardId, store: &Store) -> Machine {
    let pairs = store.iter().map(|(key, value)| {
        (
            key.clone().into_boxed_slice(),
            value.clone().into_boxed_slice(),
        )
    });
    let pairs: Vec<_> = pairs.collect();
    Machine::load(shard, &mut pairs.into_iter()).unwrap()
}

/// Takes the route effects out of `effects`, counting them into `routes`.
pub(crate) fn count_routes(effects: &[Effect], routes: &mut Routes) -> TestCaseResult {
    for effect in effects {
        if let Effect::RouteAdded { filter, target } = effect {
            *routes.entry((filter.clone(), *target)).or_insert(0) += 1;
        } else if let Effect::RouteRemoved { filter, target } = effect {
            let key = (filter.clone(), *target);
            let count = routes.get(&key).copied().unwrap_or(0);
            prop_assert!(count > 0, "{key:?} is removed and was not there");
            if count == 1 {
                routes.remove(&key);
            } else {
                routes.insert(key, count - 1);
            }
        }
    }
    Ok(())
}

impl Tested {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            machine: Machine::new(shard),
            model: NaiveShard::new(shard),
            log: Vec::new(),
            records: Records::new(),
            store: Store::new(),
            routes: Routes::new(),
            restarting: Restarting {
                shard,
                machine: Machine::new(shard),
                store: Store::new(),
                saved: 0,
                saved_routes: Routes::new(),
                boot: None,
            },
        }
    }

    /// Applies an entry everywhere and checks everything. `commands`: what is in the batch, `None`
    /// for bytes that are no command.
    pub(crate) fn apply(
        &mut self,
        batch: Batch,
        commands: &[Option<Command>],
    ) -> Result<Applied, TestCaseError> {
        let index = self.log.len() as u64 + 1;
        let applied = self.machine.apply(index, &batch);
        let stream = (batch.proposer, batch.sequence);
        let expected = self.model.apply(index, stream, batch.leader_time, commands);
        prop_assert_eq!(
            &applied.answers[..],
            &expected.answers[..],
            "answers to {:?}",
            commands
        );
        prop_assert_eq!((applied.proposer, applied.sequence), stream);
        let heard = by_listener(&applied.effects);
        prop_assert_eq!(
            heard,
            by_listener(&expected.effects),
            "effects of {:?}",
            commands
        );
        count_routes(&applied.effects, &mut self.routes)?;
        prop_assert_eq!(&self.routes, &self.model.routes());
        prop_assert_eq!(self.machine.time(), self.model.time);
        prop_assert_eq!(self.machine.outbox_bytes(), self.model.outbox_bytes());
        self.check_storage(&batch, &applied)?;
        self.log.push(Entry {
            index,
            batch,
            applied: applied.clone(),
        });
        self.restarting.follow(&self.log)?;
        prop_assert_eq!(self.restarting.machine.digest(), self.machine.digest());
        Ok(applied)
    }

    fn check_storage(&mut self, batch: &Batch, applied: &Applied) -> TestCaseResult {
        save(&mut self.machine, &mut self.store);
        let before = std::mem::take(&mut self.records);
        self.records = decode(&self.store);
        if was_refused(batch, applied, &before) {
            prop_assert_eq!(
                substance(&before),
                substance(&self.records),
                "by {:?}",
                applied
            );
        }
        prop_assert_eq!(without_bodies(&self.records), self.model.records());
        check_bodies(&self.records)?;
        check_sessions(&self.records)
    }

    /// The restarted replica writes its tables.
    pub(crate) fn save(&mut self) {
        self.restarting.save(self.log.len(), self.model.routes());
    }

    /// The restarted replica starts from its tables and the log behind them.
    pub(crate) fn restart(&mut self) -> TestCaseResult {
        self.restarting.restart(&self.log)?;
        prop_assert_eq!(self.restarting.machine.digest(), self.machine.digest());
        self.check_derived()
    }

    /// What is not stored but rebuilt: deadlines, outbox sizes.
    fn check_derived(&self) -> TestCaseResult {
        let loaded = &self.restarting.machine;
        let never = codec::Timestamp::MAX;
        prop_assert_eq!(
            loaded.due(never, usize::MAX),
            self.machine.due(never, usize::MAX)
        );
        prop_assert_eq!(loaded.outbox_bytes(), self.machine.outbox_bytes());
        prop_assert_eq!(loaded.outbox_targets(), self.machine.outbox_targets());
        prop_assert_eq!(loaded.session_count(), self.machine.session_count());
        prop_assert_eq!(loaded.time(), self.machine.time());
        let lives: Vec<_> = loaded.lives().collect();
        prop_assert_eq!(lives, self.machine.lives().collect::<Vec<_>>());
        for target in self.machine.outbox_targets() {
            let items = |machine: &Machine| machine.outbox_items(target, 0, usize::MAX, usize::MAX);
            prop_assert_eq!(items(loaded), items(&self.machine));
        }
        Ok(())
    }
}

impl Restarting {
    fn save(&mut self, applied: usize, routes: Routes) {
        save(&mut self.machine, &mut self.store);
        (self.saved, self.saved_routes) = (applied, routes);
    }

    fn restart(&mut self, log: &[Entry]) -> TestCaseResult {
        self.machine = load(self.shard, &self.store);
        self.boot = (self.saved > 0).then(|| self.saved_routes.clone());
        for count in self.saved..log.len() {
            self.follow(&log[..=count])?;
        }
        Ok(())
    }

    /// Applies the last entry of `log`, with the same result as the other replica had.
    fn follow(&mut self, log: &[Entry]) -> TestCaseResult {
        let Some(entry) = log.last() else {
            return Ok(());
        };
        let applied = self.machine.apply(entry.index, &entry.batch);
        let boot = self.boot.take().unwrap_or_default();
        let boot_count: u64 = boot.values().sum();
        let (at_boot, effects) = applied.effects.split_at(boot_count as usize);
        let mut handed_out = Routes::new();
        count_routes(at_boot, &mut handed_out)?;
        prop_assert_eq!(handed_out, boot, "routes that a loaded replica hands out");
        prop_assert_eq!(effects, &entry.applied.effects[..]);
        prop_assert_eq!(&applied.answers, &entry.applied.answers);
        Ok(())
    }
}

/// Who acts on effects; only what one listener hears has an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listener {
    Connection(Holder),
    Client(ClientId),
    Node(NodeId, Incarnation),
    Cluster,
    Metrics,
}

/// The effects but routes, per listener, without the ids of bodies.
fn by_listener(effects: &[Effect]) -> BTreeMap<Listener, Vec<Effect>> {
    let mut heard: BTreeMap<Listener, Vec<Effect>> = BTreeMap::new();
    for effect in effects {
        let listener = match effect {
            Effect::Resumed { holder, .. }
            | Effect::Send { holder, .. }
            | Effect::SendPubrel { holder, .. }
            | Effect::Close { holder, .. } => Listener::Connection(*holder),
            Effect::FencesOver { client_id, .. } => Listener::Client(client_id.clone()),
            Effect::LiveOutbox {
                node, incarnation, ..
            } => Listener::Node(*node, *incarnation),
            Effect::NodeUp { .. } | Effect::NodeDown { .. } => Listener::Cluster,
            Effect::Dropped { .. } => Listener::Metrics,
            Effect::RouteAdded { .. } | Effect::RouteRemoved { .. } => continue,
        };
        heard
            .entry(listener)
            .or_default()
            .push(anonymous(effect.clone()));
    }
    if let Some(dropped) = heard.get_mut(&Listener::Metrics) {
        dropped.sort_by_key(|effect| format!("{effect:?}"));
    }
    heard
}

/// The effect without the ids of bodies.
fn anonymous(mut effect: Effect) -> Effect {
    let forget = |body: &mut Arc<StoredMessage>| {
        *body = Arc::new(StoredMessage {
            id: 0,
            message: body.message.clone(),
        });
    };
    match &mut effect {
        Effect::Send { delivery, .. } => forget(&mut delivery.body),
        Effect::LiveOutbox { item, .. } => forget(&mut item.body),
        Effect::Resumed { resend, .. } => {
            for resend in resend {
                if let Resend::Publish { delivery, .. } = resend {
                    forget(&mut delivery.body);
                }
            }
        }
        Effect::SendPubrel { .. }
        | Effect::Close { .. }
        | Effect::FencesOver { .. }
        | Effect::RouteAdded { .. }
        | Effect::RouteRemoved { .. }
        | Effect::NodeUp { .. }
        | Effect::NodeDown { .. }
        | Effect::Dropped { .. } => {}
    }
    effect
}

fn decode(store: &Store) -> Records {
    let pairs = store.iter().map(|(key, value)| {
        let key = decode_key(key).unwrap();
        let record = decode_record(&key, Bytes::copy_from_slice(value)).unwrap();
        (key, record)
    });
    pairs.collect()
}

/// Every command was refused, or the batch was a repeat; and it was not a life's first sign.
fn was_refused(batch: &Batch, applied: &Applied, before: &Records) -> bool {
    let refused = |answer: &Response| matches!(answer, Response::Refused(_));
    let all_refused = applied.answers.iter().all(refused);
    match batch.proposer {
        ProposerId::Outbox { .. } | ProposerId::Idempotent => all_refused,
        ProposerId::Node {
            node,
            incarnation: life,
        } => match before.get(&StateKey::Node(node)) {
            Some(StateRecord::Node {
                incarnation,
                last_sequence,
                ..
            }) => {
                let is_repeat = (life, batch.sequence) == (*incarnation, *last_sequence);
                life <= *incarnation && (is_repeat || all_refused)
            }
            _ => false,
        },
    }
}

/// All but the counters and what is known of proposers.
fn substance(records: &Records) -> Records {
    let is_substance = |key: &StateKey| !matches!(key, StateKey::Counters | StateKey::Node(_));
    let kept = records.iter().filter(|(key, _)| is_substance(key));
    kept.map(|(key, record)| (key.clone(), record.clone()))
        .collect()
}

/// As the model says it.
fn without_bodies(records: &Records) -> Records {
    let mut kept = records.clone();
    kept.retain(|key, _| !matches!(key, StateKey::Counters | StateKey::Body(_)));
    for record in kept.values_mut() {
        match record {
            StateRecord::Delivery(delivery) => delivery.body = 0,
            StateRecord::OutboxItem { body, .. } => *body = 0,
            // What a dead life's stream was at says nothing any more.
            StateRecord::Node {
                down: true,
                last_sequence,
                ..
            } => *last_sequence = 0,
            _ => {}
        }
    }
    kept
}

/// Each body is there while something refers to it, with the number of what does.
fn check_bodies(records: &Records) -> TestCaseResult {
    let (mut stored, mut referred) = (BTreeMap::new(), BTreeMap::new());
    for (key, record) in records {
        match (key, record) {
            (StateKey::Body(id), StateRecord::Body { references, .. }) => {
                stored.insert(*id, *references);
            }
            (_, StateRecord::Delivery(delivery)) if delivery.body != 0 => {
                *referred.entry(delivery.body).or_insert(0) += 1;
            }
            (_, StateRecord::OutboxItem { body, .. }) => {
                *referred.entry(*body).or_insert(0) += 1;
            }
            _ => {}
        }
    }
    prop_assert_eq!(stored, referred, "references to bodies");
    Ok(())
}

/// Each hosted session keeps its own invariants.
fn check_sessions(records: &Records) -> TestCaseResult {
    for (key, record) in records {
        let (
            StateKey::Session(client_id),
            StateRecord::Session {
                hosted: Some(meta),
                holder,
                ..
            },
        ) = (key, record)
        else {
            continue;
        };
        let mut parts = SessionParts {
            meta: *meta,
            subscriptions: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            awaiting_pubrel: Default::default(),
        };
        for (key, record) in records {
            add_part(&mut parts, client_id, (key, record), records);
        }
        let session = Session::from_parts(parts)
            .map_err(|error| TestCaseError::fail(format!("session of {client_id}: {error}")))?;
        session.check_invariants().map_err(TestCaseError::fail)?;
        prop_assert_eq!(session.is_connected(), holder.is_some());
    }
    Ok(())
}

fn add_part(
    parts: &mut SessionParts,
    client_id: &ClientId,
    part: (&StateKey, &StateRecord),
    records: &Records,
) {
    match part {
        (StateKey::Subscription(of, filter), StateRecord::Subscription(subscription))
            if of == client_id =>
        {
            parts
                .subscriptions
                .insert(filter.clone(), subscription.clone());
        }
        (StateKey::Inbound(of), StateRecord::Inbound(ids)) if of == client_id => {
            parts.awaiting_pubrel = ids.iter().copied().collect();
        }
        (StateKey::Delivery(of, position), StateRecord::Delivery(record)) if of == client_id => {
            let id = record.body;
            let body = match records.get(&StateKey::Body(id)) {
                Some(StateRecord::Body { message, .. }) => Some(Arc::new(StoredMessage {
                    id,
                    message: message.clone(),
                })),
                _ => None,
            };
            parts.deliveries.insert(
                *position,
                DeliveryParts {
                    record: record.clone(),
                    body,
                },
            );
        }
        _ => {}
    }
}
