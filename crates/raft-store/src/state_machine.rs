//! The replica of one shard: committed entries go through the machine, their effects to the node,
//! and the changed state, lazily, to the state tables.
//!
//! What is in the tables is derived: the log has it all. So nothing here waits for the disk. Rules:
//! - effects and answers are handed out in log order, one entry at a time, also during a replay;
//! - a save carries all keys changed since the last one, and how far they reach, in one write;
//! - **a save reaches no further than this node's own durable log.** A follower may apply what a
//!   quorum has while its own fsync is still under way; if tables got ahead of the log, a power
//!   loss would leave a replica that knows entries which its log lacks;
//! - the first failed save is the last: the changes it took are lost to the tables, which stay at
//!   an older, consistent state.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::clock::ShardClock;
use crate::command::Answers;
use crate::db::StateDb;
use crate::entry::{Proposal, encode_applied};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::log_store::LogStore;
use crate::machine::{Applied, Machine};
use crate::snapshot::{NoSnapshots, SnapshotData};
use crate::type_config::{Entry, LogId, StoredMembership, TypeConfig};

/// Entries applied before the tables are brought up to date. More means fewer table writes, since
/// what comes and goes in between never reaches them, and a longer replay.
const SAVE_AFTER_ENTRIES: u64 = 4096;
/// A replica that applies little is saved at least this often.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// Called for each applied entry, in log order, with the shard, the entry's index, and what its
/// batches did; also for replayed entries. Runs on the apply path, so it must not block.
pub type OnApplied = Arc<dyn Fn(ShardId, u64, Vec<Applied>) + Send + Sync>;

/// A shard's state on this node.
pub(crate) struct Replica {
    shard: ShardId,
    db: Arc<StateDb>,
    log: LogStore,
    pub(crate) clock: ShardClock,
    on_applied: OnApplied,
    applied: watch::Sender<u64>,
    state: Mutex<State>,
    /// One save at a time; taken before `state`.
    saving: Mutex<()>,
    save_failure: OnceLock<String>,
}

struct State {
    machine: Machine,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Entries applied since the last save.
    unsaved: u64,
    saved_at: Instant,
}

impl Replica {
    /// Loads the tables of a shard. Blocks; O(size of the state).
    pub(crate) fn load(
        shard: ShardId,
        db: Arc<StateDb>,
        log: LogStore,
        on_applied: OnApplied,
    ) -> Result<Self, StoreError> {
        let (machine, applied, membership) = match db.applied(shard)? {
            None => (Machine::new(shard), None, StoredMembership::default()),
            Some((applied, membership)) => {
                let machine = db.load(shard, |entries| Machine::load(shard, entries))?;
                let state_error = |reason| StoreError::State {
                    path: db.path().to_owned(),
                    shard,
                    reason,
                };
                (
                    machine.map_err(|error| state_error(error.to_string()))?,
                    Some(applied),
                    membership,
                )
            }
        };
        let last = log.last_log_id();
        if applied.map(|applied| applied.index) > last.map(|last| last.index) {
            let index = last.map_or(0, |last| last.index + 1);
            return Err(StoreError::LostEntry {
                path: db.path().to_owned(),
                shard,
                index,
            });
        }
        let clock = ShardClock::default();
        clock.observe(machine.time());
        let (sender, _) = watch::channel(applied.map_or(0, |applied| applied.index));
        let state = State {
            machine,
            applied,
            membership,
            unsaved: 0,
            saved_at: Instant::now(),
        };
        Ok(Self {
            shard,
            db,
            log,
            clock,
            on_applied,
            applied: sender,
            state: Mutex::new(state),
            saving: Mutex::new(()),
            save_failure: OnceLock::new(),
        })
    }

    pub(crate) fn with_machine<R>(&self, read: impl FnOnce(&Machine) -> R) -> R {
        read(&self.state().machine)
    }

    pub(crate) fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    pub(crate) fn applied_watch(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Why the tables are no longer written, if they are not.
    pub(crate) fn save_failure(&self) -> Option<&str> {
        self.save_failure.get().map(String::as_str)
    }

    /// Saves if there is something that waits for it for long enough.
    pub(crate) fn save_if_due(&self) {
        let due = {
            let state = self.state();
            state.unsaved > 0
                && (state.unsaved >= SAVE_AFTER_ENTRIES || state.saved_at.elapsed() >= SAVE_AFTER)
        };
        if due {
            self.save();
        }
    }

    /// Brings the tables up to date, as far as this node's own log is durable.
    pub(crate) fn save(&self) {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if self.save_failure.get().is_some() {
            return;
        }
        let (record, changes) = {
            let mut state = self.state();
            let Some(applied) = state.applied else { return };
            if state.unsaved == 0 || !self.log.is_durable(applied.index) {
                return;
            }
            state.unsaved = 0;
            state.saved_at = Instant::now();
            (
                encode_applied(&applied, &state.membership),
                state.machine.take_changes(),
            )
        };
        if let Err(error) = self.db.save(self.shard, &record, changes) {
            let (shard, path) = (self.shard.0, self.db.path().display());
            tracing::error!(shard, %path, %error, "cannot write the state tables: they stay as they are");
            metrics::counter!("holdfast_storage_failures_total").increment(1);
            self.save_failure.get_or_init(|| error.into_string());
        }
    }

    /// Applies one entry and hands its effects out; returns the answers to each of its batches.
    fn apply(&self, entry: Entry) -> Arc<[Answers]> {
        let index = entry.log_id.index;
        let applied = self.apply_to_state(entry);
        let answers = applied
            .iter()
            .map(|applied| Arc::clone(&applied.answers))
            .collect();
        if !applied.is_empty() {
            (self.on_applied)(self.shard, index, applied);
        }
        // Whoever is answered must find the index at least there.
        self.applied.send_replace(index);
        answers
    }

    fn apply_to_state(&self, entry: Entry) -> Vec<Applied> {
        let Entry { log_id, payload } = entry;
        let mut state = self.state();
        state.unsaved += 1;
        state.applied = Some(log_id);
        match payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(proposal) => {
                self.apply_batches(&mut state.machine, log_id.index, &proposal)
            }
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(log_id), membership);
                Vec::new()
            }
        }
    }

    fn apply_batches(&self, machine: &mut Machine, index: u64, entry: &Proposal) -> Vec<Applied> {
        let applied = entry
            .batches()
            .map(|batch| machine.apply(index, batch))
            .collect();
        self.clock.observe(machine.time());
        applied
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The machine does not panic; if it did, the replica would be as good as any after the next
        // replay.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// openraft's handle on a replica.
pub(crate) struct StateMachine(pub(crate) Arc<Replica>);

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.0.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let answers = self.0.apply(entry);
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        self.0.save_if_due();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots {
            shard: self.0.shard,
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        match snapshot {}
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use openraft::StorageError;
    use openraft::storage::{IOFlushed, RaftLogStorage};
    use openraft::testing::log::{StoreBuilder, Suite};
    use openraft::type_config::TypeConfigExt;
    use openraft::vote::RaftLeaderId;
    use tempfile::TempDir;

    use super::*;
    use crate::db::{self, Budget, Owner};
    use crate::ids::NodeId;
    use crate::log_writer::{LogWriter, LogWriterThread};
    use crate::type_config::LeaderId;

    const SHARD: ShardId = ShardId(0);

    struct Storage {
        state: Arc<StateDb>,
        log: LogStore,
        writer: LogWriter,
        thread: Option<LogWriterThread>,
        folder: Option<TempDir>,
    }

    impl Drop for Storage {
        fn drop(&mut self) {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(self.writer.stop());
                self.thread.take().unwrap().join();
            });
            drop(self.folder.take());
        }
    }

    fn open(folder: &Path) -> Storage {
        let owner = Owner {
            cluster: "test".to_owned(),
            node: NodeId(1),
            shards: 1,
        };
        let (log, state) = db::open(folder, Budget::new(1 << 20), &owner).unwrap();
        let log = Arc::new(log);
        let (writer, thread) = LogWriter::start(Arc::clone(&log)).unwrap();
        let log = LogStore::open(SHARD, log, writer.clone()).unwrap();
        Storage {
            state: Arc::new(state),
            log,
            writer,
            thread: Some(thread),
            folder: None,
        }
    }

    fn replica(storage: &Storage) -> Result<Replica, StoreError> {
        let on_applied: OnApplied = Arc::new(|_, _, _| {});
        Replica::load(
            SHARD,
            Arc::clone(&storage.state),
            storage.log.clone(),
            on_applied,
        )
    }

    fn blank(index: u64) -> Entry {
        let log_id = LogId {
            leader_id: LeaderId::new(1, 1),
            index,
        };
        Entry {
            log_id,
            payload: EntryPayload::Blank,
        }
    }

    struct Builder;

    impl StoreBuilder<TypeConfig, LogStore, StateMachine, Storage> for Builder {
        async fn build(
            &self,
        ) -> Result<(Storage, LogStore, StateMachine), StorageError<TypeConfig>> {
            let folder = tempfile::tempdir().unwrap();
            let mut storage = open(folder.path());
            storage.folder = Some(folder);
            let machine = StateMachine(Arc::new(replica(&storage).unwrap()));
            let log = storage.log.clone();
            Ok((storage, log, machine))
        }
    }

    /// The cases of openraft's suite that are about a state machine without snapshots.
    #[tokio::test(flavor = "multi_thread")]
    async fn openrafts_state_machine_cases_pass() {
        type Cases = Suite<TypeConfig, LogStore, StateMachine, Builder, Storage>;
        macro_rules! check {
            ($($case:ident)*) => {$(
                let (_storage, log, machine) = Builder.build().await.unwrap();
                Cases::$case(log, machine).await.unwrap();
            )*};
        }
        check! {
            last_membership_in_log
            get_membership_initial
            get_membership_from_log_and_empty_sm
            get_membership_from_empty_log_and_sm
            get_membership_from_log_le_sm_last_applied
            get_membership_from_log_gt_sm_last_applied_1
            get_membership_from_log_gt_sm_last_applied_2
            get_initial_state_without_init
            last_applied_state
            apply_single
            apply_multiple
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_save_reaches_no_further_than_the_durable_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path());
        let replica = replica(&storage).unwrap();
        replica.apply(blank(0));
        replica.save();
        assert_eq!(storage.state.applied(SHARD).unwrap(), None);

        let (told, waiter) = TypeConfig::oneshot();
        storage
            .log
            .append([blank(0)], IOFlushed::signal(told))
            .await
            .unwrap();
        waiter.await.unwrap().unwrap();
        replica.save();
        let (applied, _) = storage.state.applied(SHARD).unwrap().unwrap();
        assert_eq!(applied.index, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tables_that_are_ahead_of_the_log_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path());
        let record = encode_applied(&blank(5).log_id, &StoredMembership::default());
        storage.state.save(SHARD, &record, Vec::new()).unwrap();
        assert!(matches!(
            replica(&storage),
            Err(StoreError::LostEntry { index: 0, .. })
        ));
    }
}
