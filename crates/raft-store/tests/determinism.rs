//! The same log gives the same bytes: on every replica, live or replayed, whenever it writes its tables
//! or starts from them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a test: a panic is its failure, its numbers are small"
)]
#![allow(dead_code, reason = "the world is that of `tests/model.rs`")]

#[path = "model/action.rs"]
mod action;
#[path = "model/effects.rs"]
mod effects;
#[path = "model/naive_session.rs"]
mod naive_session;
#[path = "model/naive_shard.rs"]
mod naive_shard;
#[path = "model/node_view.rs"]
mod node_view;
#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/records.rs"]
mod records;
#[path = "model/replica.rs"]
mod replica;
#[path = "model/seeded.rs"]
mod seeded;
#[path = "model/tested.rs"]
mod tested;
#[path = "model/world.rs"]
mod world;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::{decode_batch, encode_batch};
use raft_store::{Applied, Effect, Machine, ShardId};

use action::Action;
use records::{Store, load, save};
use tested::Entry;
use world::World;

/// The committed entries of three shards, and what applying them gave once.
fn logs(actions: &[Action]) -> Result<Vec<(ShardId, Vec<Entry>)>, TestCaseError> {
    let mut world = World::new(3)?;
    for action in actions {
        world.step(action.clone())?;
    }
    let shards = (0..).map(ShardId).zip(world.shards);
    Ok(shards.map(|(id, shard)| (id, shard.log)).collect())
}

/// Applies an entry as it comes off the disk.
fn apply(machine: &mut Machine, entry: &Entry) -> Applied {
    let batch = decode_batch(encode_batch(&entry.batch)).unwrap();
    assert_eq!(batch, entry.batch);
    machine.apply(entry.index, &batch)
}

fn check_same(applied: &Applied, entry: &Entry) -> TestCaseResult {
    replica::check_same(&applied.effects, &entry.applied.effects)?;
    prop_assert_eq!(&applied.answers, &entry.applied.answers);
    Ok(())
}

/// Two replicas that write their tables at the same entries.
fn check_equal_bytes(shard: ShardId, log: &[Entry], choices: &[(bool, bool)]) -> TestCaseResult {
    let (mut one, mut other) = (Machine::new(shard), Machine::new(shard));
    for (entry, (is_save, _)) in log.iter().zip(choices.iter().cycle()) {
        check_same(&apply(&mut one, entry), entry)?;
        check_same(&apply(&mut other, entry), entry)?;
        prop_assert_eq!(one.digest(), other.digest());
        if *is_save {
            prop_assert_eq!(one.take_changes(), other.take_changes());
        }
    }
    prop_assert_eq!(one.take_changes(), other.take_changes());
    prop_assert!(one.take_changes().is_empty(), "changes are handed out once");
    Ok(())
}

/// A replica that is restarted.
struct Restarted {
    machine: Machine,
    store: Store,
    /// Entries that the tables stand for.
    saved: usize,
    /// It was loaded and has applied nothing: the first apply hands out its routes.
    is_fresh: bool,
}

impl Restarted {
    fn new(shard: ShardId) -> Self {
        Self {
            machine: Machine::new(shard),
            store: Store::new(),
            saved: 0,
            is_fresh: false,
        }
    }

    fn save(&mut self, applied: usize) {
        save(&mut self.machine, &mut self.store);
        self.saved = applied;
    }

    fn apply(&mut self, entry: &Entry) -> TestCaseResult {
        let applied = apply(&mut self.machine, entry);
        prop_assert_eq!(&applied.answers, &entry.applied.answers);
        let at_boot = applied.effects.len() - entry.applied.effects.len();
        let (at_boot, effects) = applied.effects.split_at(at_boot);
        replica::check_same(effects, &entry.applied.effects)?;
        let is_route = |effect: &Effect| matches!(effect, Effect::RouteAdded { .. });
        prop_assert!(at_boot.iter().all(is_route) && (at_boot.is_empty() || self.is_fresh));
        self.is_fresh = false;
        Ok(())
    }

    /// Starts from the tables, and replays what they lack.
    fn restart(&mut self, shard: ShardId, log: &[Entry]) -> TestCaseResult {
        self.machine = load(shard, &self.store);
        self.is_fresh = true;
        log[self.saved..]
            .iter()
            .try_for_each(|entry| self.apply(entry))
    }
}

/// One replica runs through and writes its tables at the end; one writes now and then, and starts from
/// them now and then.
fn check_restarts(shard: ShardId, log: &[Entry], choices: &[(bool, bool)]) -> TestCaseResult {
    let (mut through, mut restarted) = (Machine::new(shard), Restarted::new(shard));
    for ((entry, (is_save, is_restart)), count) in log.iter().zip(choices.iter().cycle()).zip(1..) {
        check_same(&apply(&mut through, entry), entry)?;
        restarted.apply(entry)?;
        if *is_save {
            restarted.save(count);
        }
        if *is_restart {
            restarted.restart(shard, &log[..count])?;
        }
        prop_assert_eq!(
            restarted.machine.digest(),
            through.digest(),
            "after {}",
            entry.index
        );
    }
    let mut whole = Store::new();
    save(&mut through, &mut whole);
    restarted.save(log.len());
    prop_assert_eq!(
        whole,
        restarted.store,
        "tables, however often they were written"
    );
    Ok(())
}

/// Different tables have different digests.
fn check_digest(shard: ShardId, log: &[Entry]) -> TestCaseResult {
    let (mut machine, mut store) = (Machine::new(shard), Store::new());
    let mut digests = BTreeMap::new();
    for entry in log {
        apply(&mut machine, entry);
        save(&mut machine, &mut store);
        let same = digests
            .entry(machine.digest())
            .or_insert_with(|| store.clone());
        prop_assert_eq!(&*same, &store);
    }
    Ok(())
}

fn choices() -> impl Strategy<Value = Vec<(bool, bool)>> {
    vec(
        (prop::bool::weighted(0.3), prop::bool::weighted(0.2)),
        1..40,
    )
}

#[test]
fn the_same_log_gives_the_same_bytes_whenever_replicas_write_and_restart() {
    let strategy = (action::actions(150), choices());
    seeded::check(100, strategy, |(actions, choices)| {
        for (shard, log) in logs(&actions)? {
            check_equal_bytes(shard, &log, &choices)?;
            check_restarts(shard, &log, &choices)?;
            check_digest(shard, &log)?;
        }
        Ok(())
    });
}
