//! Replicas that do not simply apply entry after entry: one is restarted, one misses entries and is
//! sent a snapshot. Both must go on as if nothing had happened.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::encode_key;
use raft_store::{BodyLookup, Effect, Holder, Machine, OutboxTarget, ShardId, StateKey};
use session::Resend;

use super::effects::named;
use super::naive_shard::Routes;
use super::node_view::{NodeView, count_routes};
use super::records::{Records, Store, decode, load, save};
use super::tested::Entry;

/// A replica that saves its tables now and then, and may lose everything else.
pub(crate) struct Restarting {
    shard: ShardId,
    pub(crate) machine: Machine,
    store: Store,
    /// Entries that `store` stands for, and their routes.
    saved: usize,
    saved_routes: Routes,
    /// What the first apply after a load must hand out.
    boot: Option<Routes>,
}

impl Restarting {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            machine: Machine::new(shard),
            store: Store::new(),
            saved: 0,
            saved_routes: Routes::new(),
            boot: None,
        }
    }

    /// Writes its tables; then they say what those of a replica say that writes after each entry.
    pub(crate) fn save(
        &mut self,
        applied: usize,
        routes: Routes,
        expected: &Records,
    ) -> TestCaseResult {
        save(&mut self.machine, &mut self.store);
        (self.saved, self.saved_routes) = (applied, routes);
        let saved = decode(&self.store);
        for key in saved.keys().chain(expected.keys()) {
            let (saved, expected) = (saved.get(key), expected.get(key));
            prop_assert_eq!(saved, expected, "{:?} of the restarted replica", key);
        }
        Ok(())
    }

    /// Every body that `expected` names is in memory or in the tables.
    pub(crate) fn check_contents(&self, expected: &Records) -> TestCaseResult {
        for key in expected.keys() {
            let StateKey::Body(id) = *key else { continue };
            let is_stored = || self.store.contains_key(&encode_key(key));
            let is_there = match self.machine.body(id) {
                BodyLookup::Here(_) => true,
                BodyLookup::Stored => is_stored(),
                BodyLookup::Gone => false,
            };
            prop_assert!(is_there, "the content of body {id} is nowhere");
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, log: &[Entry]) -> TestCaseResult {
        self.machine = load(self.shard, &self.store);
        self.boot = (self.saved > 0).then(|| self.saved_routes.clone());
        for count in self.saved..log.len() {
            self.follow(&log[..=count])?;
        }
        Ok(())
    }

    /// Applies the last entry of `log`, with the same result as the other replica had.
    pub(crate) fn follow(&mut self, log: &[Entry]) -> TestCaseResult {
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
        check_same(effects, &entry.applied.effects)?;
        prop_assert_eq!(&applied.answers, &entry.applied.answers);
        Ok(())
    }
}

/// A replica whose node is cut off now and then: when it comes back, the log has been purged, and it
/// installs the state of another one.
pub(crate) struct Follower {
    shard: ShardId,
    pub(crate) machine: Machine,
    pub(crate) view: NodeView,
    is_behind: bool,
    has_missed: bool,
}

impl Follower {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            machine: Machine::new(shard),
            view: NodeView::default(),
            is_behind: false,
            has_missed: false,
        }
    }

    pub(crate) fn fall_behind(&mut self) {
        self.is_behind = true;
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    pub(crate) fn follow(&mut self, entry: &Entry) -> TestCaseResult {
        if self.is_behind {
            return Ok(());
        }
        let applied = self.machine.apply(entry.index, &entry.batch);
        check_same(&applied.effects, &entry.applied.effects)?;
        prop_assert_eq!(&applied.answers, &entry.applied.answers);
        self.view.carry_out(&applied.effects, !self.has_missed)
    }

    /// Installs `store` and tells how many messages that brought to connections; `whole` is the node that missed nothing, `open` its connections with a
    /// session here, and what is in flight on each.
    pub(crate) fn install(
        &mut self,
        store: &Store,
        whole: &NodeView,
        open: &[(Holder, Vec<Resend>)],
    ) -> Result<u32, TestCaseError> {
        let before = self.view.publish_count();
        let mut machine = load(self.shard, store);
        let effects = machine.catch_up(&self.machine);
        check_routes_do_not_flicker(&effects)?;
        self.has_missed |= self.is_behind;
        self.view.carry_out(&effects, false)?;
        self.view.check_same(whole, open)?;
        for target in machine.outbox_targets() {
            let items = machine.outbox_items(target, 0, usize::MAX, usize::MAX);
            if let (OutboxTarget::Node(node, life), Some((number, _))) = (target, items.back()) {
                let handed = self.view.lanes.get(&(node, life));
                prop_assert!(handed >= Some(number), "lane of {node}: {handed:?}");
            }
        }
        self.machine = machine;
        self.is_behind = false;
        Ok((self.view.publish_count() - before) as u32)
    }
}

/// Nothing of the old state's routes goes before the new state's are there.
fn check_routes_do_not_flicker(effects: &[Effect]) -> TestCaseResult {
    let is_removed = |effect: &Effect| matches!(effect, Effect::RouteRemoved { .. });
    let is_added = |effect: &Effect| matches!(effect, Effect::RouteAdded { .. });
    let first_removed = effects.iter().position(is_removed);
    let last_added = effects.iter().rposition(is_added);
    if let (Some(removed), Some(added)) = (first_removed, last_added) {
        prop_assert!(added < removed, "routes flicker");
    }
    Ok(())
}

/// The same effects, whichever bodies each replica has in memory.
pub(crate) fn check_same(effects: &[Effect], expected: &[Effect]) -> TestCaseResult {
    let names = |effects: &[Effect]| -> Vec<Effect> { effects.iter().map(named).collect() };
    prop_assert_eq!(names(effects), names(expected));
    Ok(())
}
