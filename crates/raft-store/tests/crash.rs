//! The log after a crash, on real files: what was acknowledged is there, a torn end is cut, and a
//! corrupt middle is refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[path = "common/storage.rs"]
mod storage;

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use raft_store::db::Owner;
use raft_store::log_store::LogStore;
use raft_store::type_config::{LeaderId, TypeConfig, Vote};
use raft_store::{NodeId, StoreError};
use storage::{Storage, append, crash_copy, entry, log_id, owner, small};

async fn indices(log: &mut LogStore) -> Vec<u64> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// Checks that there are `count` entries from 0 on, with their content.
async fn check_entries(log: &mut LogStore, count: u64, bytes: usize) {
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries.len() as u64, count);
    for (found, index) in entries.iter().zip(0..) {
        assert_eq!(found, &entry(1, index, bytes));
    }
}

/// The newest write-ahead log file that holds something.
fn newest_wal(folder: &Path) -> PathBuf {
    let items = fs::read_dir(folder.join("log"))
        .unwrap()
        .map(|item| item.unwrap().path());
    let wals = items.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    wals.filter(|path| fs::metadata(path).unwrap().len() > 0)
        .max()
        .unwrap()
}

fn cut(file: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes)
        .unwrap();
}

/// Flips the bits of one byte; `at` counts from the end if negative.
fn flip(file: &Path, at: i64) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let place = if at < 0 {
        SeekFrom::End(at)
    } else {
        SeekFrom::Start(at.unsigned_abs())
    };
    let place = file.seek(place).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(place)).unwrap();
    file.write_all(&[!byte[0]]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let vote = Vote {
        leader_id: LeaderId::new(7, 2),
        committed: true,
    };
    for shard in 0..4 {
        let mut log = storage.shard(shard);
        log.save_vote(&vote).await.unwrap();
        for index in 0..20 {
            append(&mut log, vec![entry(1, index, 100)]).await;
        }
    }
    let after = crash_copy(folder.path());
    let storage = Storage::open(after.path()).unwrap();
    for shard in 0..4 {
        let mut log = storage.shard(shard);
        assert_eq!(log.read_vote().await.unwrap(), Some(vote));
        check_entries(&mut log, 20, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_and_a_purge_survive_a_crash_with_what_was_appended_after_them() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let mut log = storage.shard(2);
    let mut neighbour = storage.shard(3);
    append(
        &mut neighbour,
        (0..=10).map(|index| entry(1, index, 10)).collect(),
    )
    .await;
    append(
        &mut log,
        (0..=10).map(|index| entry(1, index, 10)).collect(),
    )
    .await;
    log.truncate_after(Some(log_id(1, 6))).await.unwrap();
    log.purge(log_id(1, 3)).await.unwrap();
    append(&mut log, vec![entry(2, 7, 10)]).await;

    let after = crash_copy(folder.path());
    let storage = Storage::open(after.path()).unwrap();
    let mut log = storage.shard(2);
    assert_eq!(indices(&mut log).await, [4, 5, 6, 7]);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 3)));
    assert_eq!(state.last_log_id, Some(log_id(2, 7)));
    check_entries(&mut storage.shard(3), 11, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_off_at_its_beginning_may_be_torn_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let mut log = storage.shard(0);
    for index in 0..30 {
        append(&mut log, vec![entry(1, index, 200)]).await;
    }
    log.purge(log_id(1, 9)).await.unwrap();
    append(&mut log, vec![entry(1, 30, 200)]).await;
    log.drop_purged_files().unwrap();
    log.reclaim();
    append(&mut log, vec![entry(1, 31, 200)]).await;

    let after = crash_copy(folder.path());
    cut(&newest_wal(after.path()), 3);
    let storage = Storage::open(after.path()).unwrap();
    let mut log = storage.shard(0);
    let expected: Vec<u64> = (10..31).collect();
    assert_eq!(indices(&mut log).await, expected);
    append(&mut log, vec![entry(1, 31, 200)]).await;

    // Nothing but the purge mark is left.
    log.purge(log_id(1, 31)).await.unwrap();
    let mut neighbour = storage.shard(1);
    append(&mut neighbour, vec![entry(1, 0, 10)]).await;
    let after = crash_copy(after.path());
    let storage = Storage::open(after.path()).unwrap();
    let mut log = storage.shard(0);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(1, 31)));
    append(&mut log, vec![entry(2, 32, 10)]).await;
    assert_eq!(indices(&mut log).await, [32]);
}

/// Of 40 MB that are logged, the last 50 entries are kept all the time.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_space_of_a_log_that_is_cut_off_levels_off_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open_with(folder.path(), small(), &owner()).unwrap();
    let mut log = storage.shard(0);
    let bytes = || -> u64 {
        let items = fs::read_dir(folder.path().join("log")).unwrap();
        let files = items.filter_map(|item| item.unwrap().metadata().ok());
        files.map(|file| file.len()).sum()
    };
    let mut largest = 0;
    for index in 0..2000 {
        append(&mut log, vec![entry(1, index, 20_000)]).await;
        if index >= 50 && index % 25 == 0 {
            log.purge(log_id(1, index - 50)).await.unwrap();
            log.drop_purged_files().unwrap();
            largest = bytes().max(largest);
        }
    }
    // Eight flushed files and as much again that is merged, and the write-ahead log.
    assert!(largest < 16 << 20, "{largest} bytes for 1 MB of entries");

    log.purge(log_id(1, 1999)).await.unwrap();
    append(&mut log, vec![entry(1, 2000, 10)]).await;
    log.drop_purged_files().unwrap();
    log.reclaim();
    let tables = storage.db.disk_bytes();
    assert!(tables < 512 << 10, "{tables} bytes for one entry");
    assert_eq!(indices(&mut log).await, [2000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_and_the_log_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let mut log = storage.shard(0);
    for index in 0..30 {
        append(&mut log, vec![entry(1, index, 200)]).await;
    }
    for tear in [|wal: &Path| cut(wal, 3), |wal: &Path| flip(wal, -2)] {
        let after = crash_copy(folder.path());
        tear(&newest_wal(after.path()));
        let storage = Storage::open(after.path()).unwrap();
        let mut log = storage.shard(0);
        check_entries(&mut log, 29, 200).await;
        append(&mut log, vec![entry(1, 29, 200), entry(1, 30, 200)]).await;

        // The file with the torn end may still be there at the next start.
        let again = crash_copy(after.path());
        check_entries(&mut Storage::open(again.path()).unwrap().shard(0), 31, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_middle_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let mut log = storage.shard(0);
    for index in 0..30 {
        append(&mut log, vec![entry(1, index, 2000)]).await;
    }
    let after = crash_copy(folder.path());
    flip(&newest_wal(after.path()), 20_000);
    let error = Storage::open(after.path()).err().unwrap();
    assert!(matches!(error, StoreError::CorruptLog { .. }), "{error}");
    assert!(
        error.to_string().contains("holdfast members remove 1"),
        "{error}"
    );
}

/// Several megabytes, so that files are rotated and used again.
#[tokio::test(flavor = "multi_thread")]
async fn recycled_files_keep_the_same_promises() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open_with(folder.path(), small(), &owner()).unwrap();
    let mut log = storage.shard(1);
    let bytes = 10_000;
    for index in 0..600 {
        append(&mut log, vec![entry(1, index, bytes)]).await;
    }
    let whole = crash_copy(folder.path());
    check_entries(
        &mut Storage::open(whole.path()).unwrap().shard(1),
        600,
        bytes,
    )
    .await;

    // The last record ends somewhere inside a longer, older file: garble its payload.
    let torn = crash_copy(folder.path());
    let wal = newest_wal(torn.path());
    let content = fs::read(&wal).unwrap();
    let last = vec![(599 % 251) as u8; 64];
    let at = content
        .windows(64)
        .rposition(|window| window == last)
        .unwrap();
    flip(&wal, at as i64);
    check_entries(
        &mut Storage::open(torn.path()).unwrap().shard(1),
        599,
        bytes,
    )
    .await;

    let corrupt = crash_copy(folder.path());
    let wal = newest_wal(corrupt.path());
    flip(&wal, 100);
    assert!(matches!(
        Storage::open(corrupt.path()),
        Err(StoreError::CorruptLog { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_several_shards_share_an_fsync_and_are_told_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let mut logs: Vec<LogStore> = (0..4).map(|shard| storage.shard(shard)).collect();
    let before = storage.writer.fsyncs();
    let mut waiters = Vec::new();
    for index in 0..100 {
        for log in &mut logs {
            let (told, waiter) = TypeConfig::oneshot();
            log.append(vec![entry(1, index, 50)], IOFlushed::signal(told))
                .await
                .unwrap();
            waiters.push(waiter);
        }
    }
    let last = waiters.pop().unwrap();
    last.await.unwrap().unwrap();
    // The last one was told, so all others were.
    for mut waiter in waiters {
        waiter.try_recv().unwrap().unwrap();
    }
    let fsyncs = storage.writer.fsyncs() - before;
    assert!(fsyncs < 200, "{fsyncs} fsyncs for 400 appends");
    for log in &logs {
        assert!(log.is_durable(99));
        assert!(!log.is_durable(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appended_entry_can_be_read_before_it_is_durable_and_after_the_tail_dropped_it() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path()).unwrap();
    let mut log = storage.shard(0);
    let (told, waiter) = TypeConfig::oneshot();
    log.append(vec![entry(1, 0, 10)], IOFlushed::signal(told))
        .await
        .unwrap();
    assert_eq!(indices(&mut log).await, [0]);
    waiter.await.unwrap().unwrap();
    // More than the tail keeps.
    for index in 1..60 {
        append(&mut log, vec![entry(1, index, 500_000)]).await;
    }
    let all: Vec<u64> = (0..60).collect();
    assert_eq!(indices(&mut log).await, all);
    // One message takes what fits, and at least one entry.
    let some = log.limited_get_log_entries(2, 60).await.unwrap();
    assert!((1..10).contains(&some.len()), "{} entries", some.len());
    assert_eq!(log.limited_get_log_entries(59, 60).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_node_cluster_or_shard_count_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Storage::open(folder.path()).unwrap());
    let open =
        |owner: Owner| Storage::open_with(crash_copy(folder.path()).path(), small(), &owner).err();
    assert!(open(owner()).is_none());
    let other_node = open(Owner {
        node: NodeId(2),
        ..owner()
    })
    .unwrap();
    assert!(
        matches!(other_node, StoreError::Foreign { .. }),
        "{other_node}"
    );
    let other_cluster = open(Owner {
        cluster: "other".to_owned(),
        ..owner()
    })
    .unwrap();
    assert!(
        matches!(other_cluster, StoreError::Foreign { .. }),
        "{other_cluster}"
    );
    let other_count = open(Owner {
        shards: 5,
        ..owner()
    })
    .unwrap();
    assert!(
        matches!(other_count, StoreError::ShardCount { .. }),
        "{other_count}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _open = Storage::open(folder.path()).unwrap();
    let error = Storage::open(folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}
