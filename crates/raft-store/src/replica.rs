//! The replica of one shard: committed entries go through the machine, their effects to the node,
//! and the changed state, lazily, to the state tables.
//!
//! What is in the tables is derived: the log has it all. So nothing here waits for the disk. Rules:
//! - effects and answers are handed out in log order, one entry at a time, also during a replay, and
//!   those of an installed snapshot between those of the entries before and after it;
//! - a save carries all keys changed since the last one, and how far they reach, in one write;
//! - **a save reaches no further than this node's own durable log.** A follower may apply what a
//!   quorum has while its own fsync is still under way; if tables got ahead of the log, a power
//!   loss would leave a replica that knows entries which its log lacks;
//! - the first failed save or install is the last: the changes it took are lost to the tables, which
//!   stay at an older, consistent state.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use openraft::EntryPayload;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::batch::ProposerId;
use crate::clock::ShardClock;
use crate::clock::kept::KeptClock;
use crate::command::Answers;
use crate::db::{Changes, StateDb};
use crate::entry::{AppliedState, Proposal, Slot};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::log_store::LogStore;
use crate::machine::{Applied, Machine};
use crate::retention::Sending;
use crate::snapshot::{ReceivedTables, count_event, record_duration};
use crate::type_config::{Entry, LogId, StoredMembership};

mod content;
mod start;

pub(crate) use start::load_machine;
use start::{Loaded, Replay, check_log, log_load, note_replayed, replay_of};

/// Entries applied before the tables are brought up to date. More means fewer table writes, since
/// what comes and goes in between never reaches them, and a longer replay.
const SAVE_AFTER_ENTRIES: u64 = 4096;
/// The same in bytes of entries: what a save gathers in memory, and for how long it holds up the
/// entries after it, stays bounded.
const SAVE_AFTER_BYTES: u64 = 8 << 20;
/// A replica that applies little is saved at least this often.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// Contents of messages that stay in memory after a save: those most likely sent next. With four
/// shards that is a sixteenth of half a gigabyte; the rest is read from disk when it is sent.
const RESIDENT_BYTES_MAX: u64 = 8 << 20;

/// Called for each applied entry, in log order, with the shard, the entry's index, and what its
/// batches did; also for replayed entries, and for an installed snapshot. Runs on the apply path, so
/// it must not block.
pub type OnApplied = Arc<dyn Fn(ShardId, u64, Vec<Applied>) + Send + Sync>;

/// A shard's state on this node.
pub(crate) struct Replica {
    shard: ShardId,
    db: Arc<StateDb>,
    log: LogStore,
    pub(crate) clock: ShardClock,
    on_applied: OnApplied,
    applied: AtomicU64,
    /// Follows [`Machine::outbox_pushes`].
    outbox_pushes: watch::Sender<u64>,
    /// How many snapshots were installed in this life.
    installs: watch::Sender<u64>,
    state: Mutex<State>,
    /// One save or install at a time; taken before `state`. Holds changes that were taken from the
    /// machine and wait for the log to be durable that far.
    saving: Mutex<Option<Taken>>,
    receiving: Arc<tokio::sync::Mutex<()>>,
    sending: Sending,
    /// A slot was emptied; its disk space is to be freed.
    emptied: AtomicBool,
    failure: OnceLock<String>,
}

struct State {
    machine: Machine,
    applied: Option<LogId>,
    membership: StoredMembership,
    slot: Slot,
    installed: Option<LogId>,
    unsaved: Unsaved,
    /// Bytes of the entries applied in this life.
    applied_bytes: u64,
    replay: Option<Replay>,
}

/// What was applied since the last save.
struct Unsaved {
    entries: u64,
    bytes: u64,
    since: Instant,
}

impl Unsaved {
    fn nothing() -> Self {
        Self {
            entries: 0,
            bytes: 0,
            since: Instant::now(),
        }
    }

    fn is_due(&self) -> bool {
        self.entries > 0
            && (self.entries >= SAVE_AFTER_ENTRIES
                || self.bytes >= SAVE_AFTER_BYTES
                || self.since.elapsed() >= SAVE_AFTER)
    }
}

/// Changes with how far they reach.
struct Taken {
    state: AppliedState,
    changes: Changes,
}

impl Replica {
    /// Loads the tables of a shard. Blocks; O(size of the state).
    pub(crate) fn load(
        shard: ShardId,
        db: Arc<StateDb>,
        log: LogStore,
        on_applied: OnApplied,
    ) -> Result<Self, StoreError> {
        let began = Instant::now();
        let saved = db.applied(shard)?;
        let slot = saved.as_ref().map(|saved| saved.slot).unwrap_or_default();
        check_log(&db, shard, saved.as_ref(), &log)?;
        let emptied = !db.is_clear(shard, slot.other())?;
        if emptied {
            tracing::info!(shard = shard.0, "deleting what is left of a snapshot");
            let cleared = db.clear(shard, slot.other());
            cleared.map_err(|error| write_error(&db, error))?;
        }
        let (machine, loaded) = match &saved {
            None => (Machine::new(shard), Loaded::default()),
            Some(_) => load_machine(&db, shard, slot)?,
        };
        let clock = ShardClock::default();
        clock.observe(machine.time(), 0);
        let applied = saved.as_ref().map(|saved| saved.applied);
        let replay = replay_of(applied, &log);
        log_load(shard, &loaded, began.elapsed(), applied, replay.as_ref());
        let applied_index = AtomicU64::new(applied.map_or(0, |applied| applied.index));
        let state = State {
            machine,
            applied,
            membership: saved
                .as_ref()
                .map(|saved| saved.membership.clone())
                .unwrap_or_default(),
            slot,
            installed: saved.and_then(|saved| saved.installed),
            unsaved: Unsaved::nothing(),
            applied_bytes: 0,
            replay,
        };
        Ok(Self {
            shard,
            db,
            log,
            clock,
            on_applied,
            applied: applied_index,
            outbox_pushes: watch::channel(0).0,
            installs: watch::channel(0).0,
            state: Mutex::new(state),
            saving: Mutex::default(),
            receiving: Arc::default(),
            sending: Sending::default(),
            emptied: AtomicBool::new(emptied),
            failure: OnceLock::new(),
        })
    }

    /// Shard time goes on where an earlier process was. To be called before anything is applied.
    pub(crate) fn resume_clock(&self, kept: KeptClock) {
        let applied = self.state().applied;
        let term = applied.map_or(0, |applied| applied.leader_id.term);
        self.clock.resume(kept, term);
    }

    /// After a crash just behind the installation of a snapshot, the log may end before it, or hold
    /// entries that contradict it: brings it in line. To be called before Raft starts.
    pub(crate) async fn align_log(&self) -> io::Result<()> {
        let installed = {
            let state = self.state();
            state
                .installed
                .filter(|installed| state.applied == Some(*installed))
        };
        let Some(installed) = installed else {
            return Ok(());
        };
        if self.log.holds(installed)? {
            return Ok(());
        }
        tracing::info!(
            shard = self.shard.0,
            index = installed.index,
            "the log starts again after an installed snapshot"
        );
        self.log.restart_after(installed).await
    }

    pub(crate) fn with_machine<R>(&self, read: impl FnOnce(&Machine) -> R) -> R {
        read(&self.state().machine)
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn db(&self) -> &Arc<StateDb> {
        &self.db
    }

    pub(crate) fn log(&self) -> &LogStore {
        &self.log
    }

    /// The snapshots of this replica that are being sent.
    pub(crate) fn sending(&self) -> &Sending {
        &self.sending
    }

    /// The right to receive a snapshot, unless one is being received.
    pub(crate) fn only_reception(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.receiving).try_lock_owned().ok()
    }

    pub(crate) fn live_slot(&self) -> Slot {
        self.state().slot
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Follows [`Machine::outbox_pushes`]. A snapshot may bring items without a change.
    pub(crate) fn outbox_watch(&self) -> watch::Receiver<u64> {
        self.outbox_pushes.subscribe()
    }

    /// Changes with each installed snapshot, after its effects were handed out.
    pub(crate) fn installs_watch(&self) -> watch::Receiver<u64> {
        self.installs.subscribe()
    }

    /// Bytes of the entries applied in this life.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.state().applied_bytes
    }

    /// The last applied entry and the membership, for openraft.
    pub(crate) fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        let state = self.state();
        (state.applied, state.membership.clone())
    }

    /// Why the tables are no longer written, if they are not.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether a save is due that has something to write. Does not wait for one under way.
    pub(crate) fn is_save_due(&self) -> bool {
        let Ok(saving) = self.saving.try_lock() else {
            return false;
        };
        match saving.as_ref() {
            Some(taken) => self.log.is_durable(taken.state.applied.index),
            None => self.state().unsaved.is_due(),
        }
    }

    /// Saves if that is due. Does not wait for the disk, unless that has fallen far behind.
    pub(crate) fn save_if_due(&self) {
        self.save_when(Unsaved::is_due);
    }

    /// Brings the tables up to date, as far as this node's own log is durable.
    pub(crate) fn save(&self) {
        self.save_when(|unsaved| unsaved.entries > 0);
    }

    /// What is not durable yet is taken from the machine all the same, and written by the next save:
    /// otherwise a node whose disk is slower than the quorum's would never save.
    fn save_when(&self, due: impl Fn(&Unsaved) -> bool) {
        let mut saving = self.saving();
        for _ in 0..2 {
            if self.failure.get().is_some() {
                return;
            }
            let Some(taken) = saving.take().or_else(|| self.take_changes(&due)) else {
                return;
            };
            if !self.log.is_durable(taken.state.applied.index) {
                *saving = Some(taken);
                return;
            }
            match self.db.save(self.shard, &taken.state, taken.changes) {
                Ok(()) => self.state().machine.evict(RESIDENT_BYTES_MAX),
                Err(error) => self.fail(error.into_string()),
            }
        }
    }

    fn take_changes(&self, due: impl Fn(&Unsaved) -> bool) -> Option<Taken> {
        let mut state = self.state();
        let applied = state.applied.filter(|_| due(&state.unsaved))?;
        state.unsaved = Unsaved::nothing();
        Some(Taken {
            state: AppliedState {
                applied,
                membership: state.membership.clone(),
                slot: state.slot,
                installed: state.installed,
            },
            changes: state.machine.take_changes(),
        })
    }

    /// Saves and waits until the tables are durable. Returns how far they are; `None` before the
    /// first save. Blocks.
    pub(crate) fn make_durable(&self) -> Result<Option<AppliedState>, StoreError> {
        self.save();
        if let Some(reason) = self.failure() {
            return Err(StoreError::Write {
                path: self.db.path().to_owned(),
                reason: reason.to_owned(),
            });
        }
        let saved = self.db.applied(self.shard)?;
        self.flush()?;
        Ok(saved)
    }

    /// Makes the tables of all shards durable. Blocks.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| {
            self.fail(error.clone().into_string());
            write_error(&self.db, error)
        })
    }

    /// Makes a received snapshot the state. Blocks until it is durable.
    pub(crate) fn install(&self, received: ReceivedTables) -> Result<(), StoreError> {
        let mut saving = self.saving();
        let began = Instant::now();
        let rows = received.rows;
        if let Err(error) = self.db.switch(self.shard, &received.state) {
            self.fail(error.clone().into_string());
            return Err(write_error(&self.db, error));
        }
        // Changes of the old state.
        *saving = None;
        let (installed, machine, other_slot) = received.keep();
        let index = installed.applied.index;
        let applied = self.replace_state(installed.clone(), machine);
        if let Err(error) = self.db.clear(self.shard, installed.slot.other()) {
            self.fail(error.into_string());
        }
        self.emptied.store(true, Ordering::Relaxed);
        drop(other_slot);
        count_event("installed");
        record_duration("install", began);
        tracing::info!(
            shard = self.shard.0,
            index,
            rows,
            milliseconds = began.elapsed().as_millis(),
            "installed a snapshot"
        );
        (self.on_applied)(self.shard, index, vec![applied]);
        self.applied.store(index, Ordering::Release);
        self.installs.send_modify(|count| *count += 1);
        Ok(())
    }

    fn replace_state(&self, installed: AppliedState, machine: Machine) -> Applied {
        let mut state = self.state();
        let old = std::mem::replace(&mut state.machine, machine);
        state.applied = Some(installed.applied);
        state.membership = installed.membership;
        state.slot = installed.slot;
        state.installed = installed.installed;
        state.unsaved = Unsaved::nothing();
        let term = installed.applied.leader_id.term;
        self.clock.observe(state.machine.time(), term);
        let effects = state.machine.catch_up(&old);
        note_replayed(self.shard, &mut state.replay, installed.applied.index);
        // No proposer's batch: those that are in it are resent, and get their stored answers.
        Applied {
            answers: Answers::from([]),
            effects,
            effects_after: Vec::new(),
            proposer: ProposerId::Idempotent,
            sequence: 0,
        }
    }

    /// Frees the disk space of a slot that was emptied. Blocks for as long as that takes.
    pub(crate) fn reclaim(&self) {
        if self.emptied.swap(false, Ordering::Relaxed) {
            self.db.reclaim(self.shard, self.live_slot().other());
        }
    }

    /// Applies one entry and hands its effects out; returns the answers to each of its batches.
    pub(crate) fn apply(&self, entry: Entry) -> Arc<[Answers]> {
        let index = entry.log_id.index;
        let (applied, pushes) = self.apply_to_state(entry);
        self.outbox_pushes
            .send_if_modified(|known| std::mem::replace(known, pushes) != pushes);
        let answers = applied
            .iter()
            .map(|applied| Arc::clone(&applied.answers))
            .collect();
        if !applied.is_empty() {
            (self.on_applied)(self.shard, index, applied);
        }
        // Whoever is answered must find the index at least there.
        self.applied.store(index, Ordering::Release);
        answers
    }

    /// What its batches did, and [`Machine::outbox_pushes`].
    fn apply_to_state(&self, entry: Entry) -> (Vec<Applied>, u64) {
        let Entry { log_id, payload } = entry;
        let mut state = self.state();
        state.unsaved.entries += 1;
        state.applied = Some(log_id);
        let applied = match payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(proposal) => {
                let bytes = u64::try_from(proposal.len_bytes()).unwrap_or(0);
                state.unsaved.bytes += bytes;
                state.applied_bytes += bytes;
                self.apply_batches(&mut state.machine, &log_id, &proposal)
            }
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(log_id), membership);
                Vec::new()
            }
        };
        note_replayed(self.shard, &mut state.replay, log_id.index);
        (applied, state.machine.outbox_pushes())
    }

    fn apply_batches(&self, machine: &mut Machine, at: &LogId, entry: &Proposal) -> Vec<Applied> {
        let applied = entry
            .batches()
            .map(|batch| machine.apply(at.index, batch))
            .collect();
        self.clock.observe(machine.time(), at.leader_id.term);
        applied
    }

    /// The first failure of a write: final.
    pub(crate) fn fail(&self, reason: String) {
        let (shard, path) = (self.shard.0, self.db.path().display());
        tracing::error!(shard, %path, reason, "cannot write the state tables: they stay as they are");
        metrics::counter!("holdfast_storage_failures_total").increment(1);
        self.failure.get_or_init(|| reason);
    }

    fn saving(&self) -> MutexGuard<'_, Option<Taken>> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The machine does not panic; if it did, the replica would be as good as any after the next
        // replay.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_error(db: &StateDb, source: rocksdb::Error) -> StoreError {
    StoreError::Write {
        path: db.path().to_owned(),
        reason: source.into_string(),
    }
}
