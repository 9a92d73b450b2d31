//! A machine under test: its model beside it, its storage, and replicas that are not as lucky.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{
    Applied, Batch, BodyLookup, Command, Effect, Holder, Machine, ProposerId, Response, ShardId,
    StateKey, StateRecord,
};
use session::{Body, Resend, StoredMessage};

use super::action::FILTERS;
use super::effects::{anonymous, by_listener};
use super::naive_shard::{Choices, NaiveShard, Outcome, Routes};
use super::node_view::NodeView;
use super::records::{
    Records, Store, check_bodies, check_equal, check_sessions, content, decode, read_retained,
    save, substance,
};
use super::replica::{Follower, Restarting};

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
    /// A node that sees every entry.
    view: NodeView,
    restarting: Restarting,
    follower: Follower,
    /// What happened, and how often.
    pub(crate) seen: BTreeMap<String, u32>,
}

impl Tested {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            machine: Machine::new(shard),
            model: NaiveShard::new(shard),
            log: Vec::new(),
            records: Records::new(),
            store: Store::new(),
            view: NodeView::default(),
            restarting: Restarting::new(shard),
            follower: Follower::new(shard),
            seen: BTreeMap::new(),
        }
    }

    /// Applies an entry everywhere and checks everything. `commands`: what is in the batch, `None`
    /// for bytes that are no command. In the result, every body has its content.
    pub(crate) fn apply(
        &mut self,
        batch: Batch,
        commands: &[Option<Command>],
    ) -> Result<Applied, TestCaseError> {
        let index = self.log.len() as u64 + 1;
        let applied = self.machine.apply(index, &batch);
        prop_assert_eq!(
            (applied.proposer, applied.sequence),
            (batch.proposer, batch.sequence)
        );
        save(&mut self.machine, &mut self.store);
        let before = std::mem::replace(&mut self.records, decode(&self.store));
        let seen = Applied {
            effects: self.with_contents(&applied.effects, &before),
            ..applied.clone()
        };
        self.advance_model(index, &batch, commands, &seen)?;
        for effect in &applied.effects {
            if matches!(effect, Effect::Send { delivery, .. } if matches!(delivery.body, Body::Stored(_)))
            {
                self.saw("a message is sent from disk", 1);
            }
        }
        self.saw("a retained copy is out of date", self.model.outdated);
        self.view.carry_out(&seen.effects, true)?;
        prop_assert_eq!(&self.view.routes, &self.model.routes());
        prop_assert_eq!(self.machine.time(), self.model.time);
        prop_assert_eq!(self.machine.outbox_bytes(), self.model.outbox_bytes());
        self.check_storage(&batch, &seen, &before)?;
        self.log.push(Entry {
            index,
            batch,
            applied,
        });
        self.follow()?;
        Ok(seen)
    }

    fn saw(&mut self, kind: &str, count: u32) {
        *self.seen.entry(kind.to_owned()).or_insert(0) += count;
    }

    /// The model does the same, whichever member of a share the machine chose.
    fn advance_model(
        &mut self,
        index: u64,
        batch: &Batch,
        commands: &[Option<Command>],
        seen: &Applied,
    ) -> TestCaseResult {
        let mut first_difference = None;
        let mut choices = Some(Choices::default());
        while let Some(said) = choices {
            let mut model = self.model.clone();
            model.choices = said;
            let stream = (batch.proposer, batch.sequence);
            let hints = (commands, &seen.answers[..]);
            let expected = model.apply(index, stream, batch.leader_time, hints);
            let records = &self.records;
            model.forget_expired(|topic| records.contains_key(&StateKey::Retained(topic.clone())));
            match self.check_like(&model, &expected, commands, seen) {
                Ok(()) => {
                    self.model = model;
                    return Ok(());
                }
                Err(difference) => first_difference = first_difference.or(Some(difference)),
            }
            choices = model.choices.next();
        }
        Err(first_difference.unwrap())
    }

    fn check_like(
        &self,
        model: &NaiveShard,
        expected: &Outcome,
        commands: &[Option<Command>],
        seen: &Applied,
    ) -> TestCaseResult {
        prop_assert_eq!(
            &seen.answers[..],
            &expected.answers[..],
            "answers to {:?}",
            commands
        );
        prop_assert_eq!(
            by_listener(&seen.effects),
            by_listener(&expected.effects),
            "effects of {:?}",
            commands
        );
        let now = self.machine.time();
        check_equal(&substance(&self.records, now), &model.records())
    }

    /// The effects as a node would find the messages: in memory, or in its tables.
    fn with_contents(&self, effects: &[Effect], before: &Records) -> Vec<Effect> {
        let read = |id| -> Option<StoredMessage> {
            content(&self.records, id).or_else(|| content(before, id))
        };
        effects
            .iter()
            .map(|effect| anonymous(effect, read))
            .collect()
    }

    fn check_storage(&self, batch: &Batch, applied: &Applied, before: &Records) -> TestCaseResult {
        let now = self.machine.time();
        if was_refused(batch, applied, before) {
            let kept = |records: &Records| {
                let mut kept = substance(records, now);
                kept.retain(|key, _| !matches!(key, StateKey::Node(_)));
                kept
            };
            check_equal(&kept(&self.records), &kept(before))?;
        }
        check_bodies(&self.records)?;
        self.check_contents()?;
        check_sessions(&self.records)?;
        for filter in FILTERS {
            self.check_retained(filter)?;
        }
        Ok(())
    }

    /// A body is in memory as it is stored, or only stored.
    fn check_contents(&self) -> TestCaseResult {
        for key in self.records.keys() {
            let StateKey::Body(id) = *key else { continue };
            match self.machine.body(id) {
                BodyLookup::Here(stored) => {
                    let stored = StoredMessage {
                        id: 0,
                        ..StoredMessage::clone(&stored)
                    };
                    prop_assert_eq!(Some(stored), content(&self.records, id));
                }
                BodyLookup::Stored => {}
                BodyLookup::Gone => prop_assert!(false, "body {id} is gone"),
            }
        }
        Ok(())
    }

    /// A subscriber reads what the model says.
    fn check_retained(&self, filter: &str) -> TestCaseResult {
        let filter = codec::TopicFilter::try_from(filter).unwrap();
        let read = read_retained(&self.machine, &filter, usize::MAX, u64::MAX);
        prop_assert_eq!(read, self.model.read_retained(&filter));
        Ok(())
    }

    fn follow(&mut self) -> TestCaseResult {
        self.restarting.follow(&self.log)?;
        self.restarting.check_contents(&self.records)?;
        let digest = self.machine.digest();
        prop_assert_eq!(self.restarting.machine.digest(), digest);
        if let Some(entry) = self.log.last() {
            self.follower.follow(entry)?;
        }
        if !self.follower.is_behind() {
            prop_assert_eq!(self.follower.machine.digest(), digest);
            let open = self.open_connections();
            self.follower.view.check_same(&self.view, &open)?;
        }
        Ok(())
    }

    fn open_connections(&self) -> Vec<(Holder, Vec<Resend>)> {
        let open = self.model.clients.values().filter_map(|client| {
            let session = client.session.as_ref()?;
            Some((client.open?, session.resend()))
        });
        open.collect()
    }

    /// The restarted replica writes its tables.
    pub(crate) fn save(&mut self) -> TestCaseResult {
        let routes = self.model.routes();
        self.restarting.save(self.log.len(), routes, &self.records)
    }

    /// The restarted replica starts from its tables and the log behind them.
    pub(crate) fn restart(&mut self) -> TestCaseResult {
        self.restarting.restart(&self.log)?;
        prop_assert_eq!(self.restarting.machine.digest(), self.machine.digest());
        self.check_derived(&self.restarting.machine)
    }

    /// Content of bodies goes from memory: of this replica, and of the one that is restarted.
    pub(crate) fn evict(&mut self, resident_bytes_max: u64) {
        let digest = self.machine.digest();
        self.machine.evict(resident_bytes_max);
        self.restarting.machine.evict(resident_bytes_max);
        assert_eq!(self.machine.digest(), digest, "evicting changes nothing");
        assert!(self.machine.take_changes().is_empty());
    }

    /// The third replica misses what comes.
    pub(crate) fn fall_behind(&mut self) {
        self.follower.fall_behind();
    }

    /// It is sent a snapshot.
    pub(crate) fn install(&mut self) -> TestCaseResult {
        let open = self.open_connections();
        let brought = self.follower.install(&self.store, &self.view, &open)?;
        self.saw("a snapshot brings messages", brought);
        prop_assert_eq!(self.follower.machine.digest(), self.machine.digest());
        self.check_derived(&self.follower.machine)
    }

    /// What is not stored but rebuilt: deadlines, outbox sizes, the tree of retained messages.
    fn check_derived(&self, loaded: &Machine) -> TestCaseResult {
        let never = codec::Timestamp::MAX;
        prop_assert_eq!(
            loaded.due(never, usize::MAX),
            self.machine.due(never, usize::MAX)
        );
        prop_assert_eq!(
            loaded.due_wills(never, usize::MAX),
            self.machine.due_wills(never, usize::MAX)
        );
        prop_assert_eq!(loaded.outbox_bytes(), self.machine.outbox_bytes());
        prop_assert_eq!(loaded.outbox_targets(), self.machine.outbox_targets());
        prop_assert_eq!(loaded.session_count(), self.machine.session_count());
        prop_assert_eq!(loaded.time(), self.machine.time());
        let lives: Vec<_> = loaded.lives().collect();
        prop_assert_eq!(lives, self.machine.lives().collect::<Vec<_>>());
        for target in self.machine.outbox_targets() {
            let items = |machine: &Machine| -> Vec<_> {
                let items = machine.outbox_items(target, 0, usize::MAX, usize::MAX);
                let name = |(number, item): (u64, raft_store::WaitingItem)| {
                    (number, item.publisher, item.body.reference(), item.share)
                };
                items.into_iter().map(name).collect()
            };
            prop_assert_eq!(items(loaded), items(&self.machine));
        }
        for filter in FILTERS {
            let filter = codec::TopicFilter::try_from(filter).unwrap();
            let read = |machine| read_retained(machine, &filter, usize::MAX, u64::MAX);
            prop_assert_eq!(read(loaded), read(&self.machine));
        }
        Ok(())
    }

    /// A message of an outbox as whoever drains it finds it.
    pub(crate) fn stored(&self, body: &Body) -> std::sync::Arc<StoredMessage> {
        match body {
            Body::Here(stored) => std::sync::Arc::clone(stored),
            Body::Stored(name) => {
                let content = content(&self.records, name.id).unwrap();
                std::sync::Arc::new(StoredMessage {
                    id: name.id,
                    ..content
                })
            }
        }
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.view.routes
    }
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
