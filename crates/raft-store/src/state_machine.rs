//! openraft's handle on a replica: applies entries, and says what a snapshot is.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use tokio::task::spawn_blocking;

use crate::replica::Replica;
use crate::snapshot::{self, Builder, SnapshotData};
use crate::type_config::{LogId, StoredMembership, TypeConfig};

/// openraft's handle on a replica.
pub(crate) struct StateMachine(pub(crate) Arc<Replica>);

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.0.applied_state())
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
            if self.0.is_save_due() {
                let replica = Arc::clone(&self.0);
                spawn_blocking(move || replica.save_if_due())
                    .await
                    .map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(Arc::clone(&self.0))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let received = match snapshot {
            SnapshotData::Received(received) => received,
            SnapshotData::Live(_) => return Err(io::Error::other("these tables are live already")),
        };
        let replica = Arc::clone(&self.0);
        let installed = spawn_blocking(move || replica.install(*received)).await;
        Ok(installed.map_err(io::Error::other)??)
    }

    /// The live tables as they are: they may be newer than when they were last made durable.
    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let saved = self.0.db().applied(self.0.shard())?;
        Ok(saved.map(|saved| Snapshot {
            meta: snapshot::meta(&saved),
            snapshot: SnapshotData::Live(Arc::clone(&self.0)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use codec::Timestamp;
    use futures::stream;
    use openraft::storage::{IOFlushed, RaftLogStorage};
    use openraft::testing::log::{StoreBuilder, Suite};
    use openraft::type_config::TypeConfigExt;
    use openraft::vote::RaftLeaderId;
    use openraft::{EntryPayload, StorageError};
    use tempfile::TempDir;

    use super::*;
    use crate::batch::{Batch, ProposerId};
    use crate::command::Command;
    use crate::db::{self, Budget, Owner, StateDb};
    use crate::entry::{AppliedState, EncodedBatch, Proposal, Slot};
    use crate::error::StoreError;
    use crate::ids::{NodeId, ShardId};
    use crate::log_store::LogStore;
    use crate::log_writer::{LogWriter, LogWriterThread};
    use crate::proto::holdfast::raft::v1::snapshot_part::Part;
    use crate::replica::OnApplied;
    use crate::snapshot::incoming::{Reception, head_from_wire};
    use crate::snapshot::outgoing::read_live;
    use crate::type_config::{Entry, LeaderId, Vote};

    const SHARD: ShardId = ShardId(0);

    struct Storage {
        state: Arc<StateDb>,
        log_db: Arc<db::LogDb>,
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
        let log_db = Arc::new(log);
        let (writer, thread) = LogWriter::start(Arc::clone(&log_db)).unwrap();
        let log = LogStore::open(SHARD, Arc::clone(&log_db), writer.clone()).unwrap();
        Storage {
            state: Arc::new(state),
            log_db,
            log,
            writer,
            thread: Some(thread),
            folder: None,
        }
    }

    fn load(storage: &Storage) -> Result<Replica, StoreError> {
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

    /// What a replica is in the suite, which hands a snapshot over without a network.
    struct Suited {
        machine: StateMachine,
        /// Where entries are logged before they are applied; a snapshot reaches no further.
        log: Option<LogStore>,
    }

    impl RaftStateMachine<TypeConfig> for Suited {
        type SnapshotData = SnapshotData;
        type SnapshotBuilder = Builder;

        async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
            self.machine.applied_state().await
        }

        async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
        where
            S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
        {
            let mut items = Vec::new();
            while let Some(item) = entries.next().await {
                let (entry, responder) = item?;
                if let Some(log) = &mut self.log {
                    append(log, entry.clone()).await;
                }
                items.push(Ok((entry, responder)));
            }
            self.machine.apply(stream::iter(items)).await
        }

        async fn get_snapshot_builder(&mut self) -> Builder {
            self.machine.get_snapshot_builder().await
        }

        async fn install_snapshot(
            &mut self,
            meta: &SnapshotMetaOf<TypeConfig>,
            snapshot: SnapshotData,
        ) -> Result<(), io::Error> {
            let SnapshotData::Live(other) = snapshot else {
                panic!("it is live");
            };
            let received = transfer(other, &self.machine.0).await;
            self.machine
                .install_snapshot(meta, SnapshotData::Received(Box::new(received)))
                .await
        }

        async fn get_current_snapshot(
            &mut self,
        ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
            self.machine.get_current_snapshot().await
        }
    }

    /// Streams one replica's tables into the free slot of another one.
    async fn transfer(from: Arc<Replica>, to: &Replica) -> snapshot::ReceivedTables {
        let vote = Vote {
            leader_id: LeaderId::new(1, 1),
            committed: true,
        };
        let mut outgoing = read_live(from, vote);
        let mut reception = None;
        let received = loop {
            match outgoing.parts.recv().await.unwrap().part.unwrap() {
                Part::Head(head) => {
                    let head = head_from_wire(head).unwrap();
                    reception = Some(Reception::begin(to, head).unwrap());
                }
                Part::Chunk(chunk) => reception.as_mut().unwrap().add(&chunk).unwrap(),
                Part::End(end) => break reception.take().unwrap().finish(&end).unwrap(),
            }
        };
        assert!(outgoing.read.await.unwrap().unwrap().is_some());
        received
    }

    async fn append(log: &mut LogStore, entry: Entry) {
        let (told, waiter) = TypeConfig::oneshot();
        log.append([entry], IOFlushed::signal(told)).await.unwrap();
        waiter.await.unwrap().unwrap();
    }

    #[derive(PartialEq)]
    enum SuiteBuilder {
        /// For cases that log what they apply.
        Plain,
        /// For cases that apply what they never logged.
        Logging,
    }

    impl StoreBuilder<TypeConfig, LogStore, Suited, Storage> for SuiteBuilder {
        async fn build(&self) -> Result<(Storage, LogStore, Suited), StorageError<TypeConfig>> {
            let folder = tempfile::tempdir().unwrap();
            let mut storage = open(folder.path());
            storage.folder = Some(folder);
            let machine = StateMachine(Arc::new(load(&storage).unwrap()));
            let log = storage.log.clone();
            let suited = Suited {
                machine,
                log: (*self == Self::Logging).then(|| log.clone()),
            };
            Ok((storage, log, suited))
        }
    }

    /// The cases of openraft's suite that are about a state machine.
    #[tokio::test(flavor = "multi_thread")]
    async fn openrafts_state_machine_cases_pass() {
        type Cases = Suite<TypeConfig, LogStore, Suited, SuiteBuilder, Storage>;
        macro_rules! check {
            ($builder:ident: $($case:ident)*) => {$(
                let (_storage, log, machine) = SuiteBuilder::$builder.build().await.unwrap();
                Cases::$case(log, machine).await.unwrap();
            )*};
        }
        check! {
            Plain:
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
        check! {
            Logging:
            snapshot_meta
            snapshot_meta_optional
        }
        let transfer = Cases::transfer_snapshot(&SuiteBuilder::Logging);
        transfer.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_save_reaches_no_further_than_the_durable_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path());
        let replica = load(&storage).unwrap();
        replica.apply(blank(0));
        replica.save();
        assert_eq!(storage.state.applied(SHARD).unwrap(), None);

        append(&mut storage.log, blank(0)).await;
        replica.save();
        let saved = storage.state.applied(SHARD).unwrap().unwrap();
        assert_eq!(saved.applied.index, 0);
    }

    fn at(index: u64) -> AppliedState {
        AppliedState {
            applied: blank(index).log_id,
            membership: StoredMembership::default(),
            slot: Slot::A,
            installed: None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tables_that_are_ahead_of_the_log_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path());
        storage.state.save(SHARD, &at(5), Vec::new()).unwrap();
        assert!(matches!(
            load(&storage),
            Err(StoreError::LostEntry { index: 0, .. })
        ));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_was_cut_off_without_a_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path());
        for index in 0..10 {
            append(&mut storage.log, blank(index)).await;
        }
        storage.log.purge(blank(4).log_id).await.unwrap();
        assert!(matches!(
            load(&storage),
            Err(StoreError::LostState { purged: 4, .. })
        ));
        storage.state.save(SHARD, &at(4), Vec::new()).unwrap();
        load(&storage).unwrap();
    }

    /// A crash between the installation of a snapshot and what openraft then does to the log.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_ends_before_an_installed_snapshot_or_contradicts_it_starts_again() {
        let installed = AppliedState {
            installed: Some(blank(20).log_id),
            ..at(20)
        };
        // It ends before; a higher term ends before; another entry is at its place.
        let ends = [(1, 10), (2, 10), (2, 25)];
        for (term, last) in ends {
            let folder = tempfile::tempdir().unwrap();
            let mut storage = open(folder.path());
            for index in 0..=last {
                let mut entry = blank(index);
                entry.log_id.leader_id = LeaderId::new(term, 1);
                append(&mut storage.log, entry).await;
            }
            storage.state.save(SHARD, &installed, Vec::new()).unwrap();
            let replica = load(&storage).unwrap();
            replica.align_log().await.unwrap();
            let state = storage.log.get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, Some(installed.applied));
            assert_eq!(state.last_purged_log_id, Some(installed.applied));
            append(&mut storage.log, blank(21)).await;

            let again = LogStore::open(SHARD, Arc::clone(&storage.log_db), storage.writer.clone());
            let state = again.unwrap().get_log_state().await.unwrap();
            assert_eq!(state.last_log_id, Some(blank(21).log_id));
            assert_eq!(state.last_purged_log_id, Some(installed.applied));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_holds_an_installed_snapshots_last_entry_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path());
        for index in 0..=25 {
            append(&mut storage.log, blank(index)).await;
        }
        let installed = AppliedState {
            installed: Some(blank(20).log_id),
            ..at(20)
        };
        storage.state.save(SHARD, &installed, Vec::new()).unwrap();
        load(&storage).unwrap().align_log().await.unwrap();
        assert_eq!(storage.log.last_log_id(), Some(blank(25).log_id));
    }

    /// A replica that has applied one session of a client, and is saved and durable.
    async fn filled(storage: &mut Storage) -> Arc<Replica> {
        let replica = Arc::new(load(storage).unwrap());
        for index in 0..20 {
            let command = crate::encoding::encode_command(&Command::NodeUp {
                node: NodeId(1 + u16::try_from(index).unwrap()),
            });
            let batch = Batch {
                proposer: ProposerId::Idempotent,
                sequence: 0,
                leader_time: Timestamp::ZERO,
                commands: vec![command],
            };
            let proposal = Proposal::new(Timestamp::ZERO, vec![EncodedBatch::new(batch)]);
            let mut entry = blank(index);
            entry.payload = EntryPayload::Normal(proposal);
            append(&mut storage.log, entry.clone()).await;
            replica.apply(entry);
        }
        replica.make_durable().unwrap();
        replica
    }

    fn digest(replica: &Replica) -> u64 {
        replica.with_machine(|machine| machine.digest())
    }

    /// The process ends without a trace at two points: while a snapshot comes in, and when all of
    /// it is there but not yet live.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_before_the_installation_leaves_the_old_state_and_an_empty_slot() {
        let source_folder = tempfile::tempdir().unwrap();
        let mut source = open(source_folder.path());
        let other = filled(&mut source).await;
        for complete in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let storage = open(folder.path());
            let replica = Arc::new(load(&storage).unwrap());
            let before = digest(&replica);
            let received = transfer(Arc::clone(&other), &replica).await;
            storage.state.flush().unwrap();
            if complete {
                std::mem::forget(received);
            } else {
                drop(received);
            }
            assert_eq!(storage.state.is_clear(SHARD, Slot::B).unwrap(), !complete);
            drop((replica, storage));

            // `forget` has kept its database open: what is on the disk counts.
            let copy = tempfile::tempdir().unwrap();
            for database in ["log", "state"] {
                fs::create_dir(copy.path().join(database)).unwrap();
                for file in fs::read_dir(folder.path().join(database)).unwrap() {
                    let file = file.unwrap();
                    let to = copy.path().join(database).join(file.file_name());
                    fs::copy(file.path(), to).unwrap();
                }
            }
            let storage = open(copy.path());
            let replica = load(&storage).unwrap();
            assert_eq!(digest(&replica), before);
            assert!(storage.state.is_clear(SHARD, Slot::B).unwrap());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_installed_snapshot_is_the_state_after_a_restart_and_the_old_one_is_gone() {
        let source_folder = tempfile::tempdir().unwrap();
        let mut source = open(source_folder.path());
        let other = filled(&mut source).await;
        let folder = tempfile::tempdir().unwrap();
        {
            let storage = open(folder.path());
            let replica = Arc::new(load(&storage).unwrap());
            // There and back, so that each slot was live once.
            for live in [Slot::B, Slot::A] {
                let received = transfer(Arc::clone(&other), &replica).await;
                replica.install(received).unwrap();
                assert_eq!(replica.live_slot(), live);
                assert_eq!(digest(&replica), digest(&other));
                assert!(storage.state.is_clear(SHARD, live.other()).unwrap());
            }
            replica.reclaim();
        }
        let mut storage = open(folder.path());
        let replica = load(&storage).unwrap();
        replica.align_log().await.unwrap();
        assert_eq!(digest(&replica), digest(&other));
        let state = storage.log.get_log_state().await.unwrap();
        assert_eq!(state.last_log_id, Some(blank(19).log_id));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_for_the_log_to_be_durable_is_saved_with_the_next_save() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path());
        let replica = load(&storage).unwrap();
        append(&mut storage.log, blank(0)).await;
        replica.apply(blank(0));
        // Applied, as others have it, before it is in the own log.
        replica.apply(blank(1));
        replica.save();
        assert_eq!(storage.state.applied(SHARD).unwrap(), None);
        replica.apply(blank(2));
        append(&mut storage.log, blank(1)).await;
        replica.save();
        let saved = storage.state.applied(SHARD).unwrap().unwrap();
        assert_eq!(saved.applied.index, 1);
        append(&mut storage.log, blank(2)).await;
        replica.save();
        let saved = storage.state.applied(SHARD).unwrap().unwrap();
        assert_eq!(saved.applied.index, 2);
    }
}
