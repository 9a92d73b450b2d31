//! What a replica does at a start: its state from the tables, and what the log has beyond them.

use std::time::{Duration, Instant};

use crate::db::StateDb;
use crate::encoding::BODIES_FROM;
use crate::entry::{AppliedState, Slot};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::type_config::LogId;

/// Entries of the log that the tables lacked at the start.
pub(super) struct Replay {
    pub(super) last: u64,
    pub(super) entries: u64,
    pub(super) began: Instant,
}

/// What was read at a load.
#[derive(Default)]
pub(crate) struct Loaded {
    keys: u64,
    bytes: u64,
}

/// Builds a machine from the tables in a slot, without the contents of bodies. Blocks; O(size of the
/// state besides those).
pub(crate) fn load_machine(
    db: &StateDb,
    shard: ShardId,
    slot: Slot,
) -> Result<(Machine, Loaded), StoreError> {
    let mut loaded = Loaded::default();
    let machine = db.load(shard, slot, Some(&BODIES_FROM), |items| {
        let mut counted = items.inspect(|(key, value)| {
            loaded.keys += 1;
            loaded.bytes += u64::try_from(key.len() + value.len()).unwrap_or(0);
        });
        Machine::load(shard, &mut counted)
    })?;
    let machine = machine.map_err(|error| StoreError::State {
        path: db.path().to_owned(),
        shard,
        reason: error.to_string(),
    })?;
    Ok((machine, loaded))
}

/// The log must go on where the tables end, and not before: see the module's rules.
pub(super) fn check_log(
    db: &StateDb,
    shard: ShardId,
    saved: Option<&AppliedState>,
    log: &LogStore,
) -> Result<(), StoreError> {
    let path = db.path().to_owned();
    let applied = saved.map(|saved| saved.applied);
    let index = |log_id: Option<LogId>| log_id.map(|log_id| log_id.index);
    if let Some(purged) = log.purged()
        && index(applied) < Some(purged.index)
    {
        let purged = purged.index;
        return Err(StoreError::LostState {
            path,
            shard,
            purged,
        });
    }
    // A snapshot is installed before the log is brought in line with it.
    let just_installed = saved.is_some_and(|saved| saved.installed == applied);
    let last = log.last_log_id();
    if index(applied) > index(last) && !just_installed {
        let index = last.map_or(0, |last| last.index.saturating_add(1));
        return Err(StoreError::LostEntry { path, shard, index });
    }
    Ok(())
}

pub(super) fn replay_of(applied: Option<LogId>, log: &LogStore) -> Option<Replay> {
    let last = log.last_log_id()?.index;
    let next = applied.map_or(0, |applied| applied.index.saturating_add(1));
    (last >= next).then(|| Replay {
        last,
        entries: last.saturating_add(1).saturating_sub(next),
        began: Instant::now(),
    })
}

pub(super) fn log_load(
    shard: ShardId,
    loaded: &Loaded,
    took: Duration,
    applied: Option<LogId>,
    replay: Option<&Replay>,
) {
    tracing::info!(
        shard = shard.0,
        keys = loaded.keys,
        bytes = loaded.bytes,
        milliseconds = took.as_millis(),
        applied = applied.map(|applied| applied.index),
        entries_to_replay = replay.map_or(0, |replay| replay.entries),
        "loaded the state"
    );
}

/// Tells when everything that the log held at the start is applied.
pub(super) fn note_replayed(shard: ShardId, replay: &mut Option<Replay>, applied: u64) {
    if let Some(replay) = replay.take_if(|replay| applied >= replay.last) {
        tracing::info!(
            shard = shard.0,
            entries = replay.entries,
            milliseconds = replay.began.elapsed().as_millis(),
            "replayed the log"
        );
    }
}
