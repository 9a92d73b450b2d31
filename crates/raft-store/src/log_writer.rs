//! One thread that writes the logs of all shards: what waits becomes one write, one fsync, then
//! each waiter is told, in the order the writes were handed in.
//!
//! Invariants:
//! - Writes become durable in the order they were handed in, whatever their shard.
//! - Nobody is told that a write is durable before the fsync that made it so has returned.
//! - **The first failure is final.** The kernel may have dropped the pages of a failed fsync, so a
//!   retry that succeeds proves nothing: everything after the failure is refused with the same
//!   reason.
//!
//! Bounded: at most [`JOBS_MAX`] writes and [`QUEUED_BYTES_MAX`] wait; more than that waits in the
//! callers, which are the Raft cores, and through them in the proposers.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::db::{LogBatch, LogDb};
use crate::error::StoreError;
use crate::ids::ShardId;
use crate::type_config::{LogId, TypeConfig, Vote};

/// Writes that may wait, over all shards.
const JOBS_MAX: usize = 1024;
/// Bytes of entries that may wait, over all shards. A single larger write still passes, alone.
const QUEUED_BYTES_MAX: u32 = 64 << 20;

/// Hands writes to the log writer's thread. Clones share it.
#[derive(Clone)]
pub struct LogWriter {
    jobs: mpsc::Sender<Job>,
    budget: Arc<Semaphore>,
    status: Arc<Status>,
}

/// The thread behind a [`LogWriter`]. To be joined when everything that writes has stopped.
pub struct LogWriterThread(JoinHandle<()>);

/// One change of one shard's log.
pub(crate) enum Change {
    /// Entries with their bytes.
    Append(Vec<(u64, Vec<u8>)>),
    Vote(Vote),
    /// Remove the entries from this index on.
    Truncate(u64),
    /// Remove the entries up to this one.
    Purge(LogId),
    /// Nothing to write: end the thread once all before it is written.
    Stop,
}

/// How far the writes of one shard have come: the number of the last one that is durable.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn written(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A change together with who waits for it.
pub(crate) struct Write {
    pub(crate) shard: ShardId,
    pub(crate) change: Change,
    /// Number of this write among those of its shard; `progress` reaches it when it is durable.
    pub(crate) number: u64,
    pub(crate) progress: Progress,
    pub(crate) done: IOFlushed<TypeConfig>,
}

struct Job {
    write: Write,
    _budget: OwnedSemaphorePermit,
}

struct Status {
    /// The first failure.
    failed: OnceLock<String>,
    started: Instant,
    /// When the write under way began, in milliseconds after `started`, plus one; 0: none.
    busy_since_ms: AtomicU64,
    fsyncs: AtomicU64,
    #[cfg(test)]
    fail_next: std::sync::atomic::AtomicBool,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Folder`] when the system gives no thread.
    pub fn start(db: Arc<LogDb>) -> Result<(Self, LogWriterThread), StoreError> {
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let status = Arc::new(Status {
            failed: OnceLock::new(),
            started: Instant::now(),
            busy_since_ms: AtomicU64::new(0),
            fsyncs: AtomicU64::new(0),
            #[cfg(test)]
            fail_next: std::sync::atomic::AtomicBool::new(false),
        });
        let path = db.path().to_owned();
        let thread = Thread {
            db,
            waiting,
            status: Arc::clone(&status),
        };
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || thread.run());
        let thread = thread.map_err(|source| StoreError::Folder { path, source })?;
        let budget = Arc::new(Semaphore::new(
            usize::try_from(QUEUED_BYTES_MAX).unwrap_or(Semaphore::MAX_PERMITS),
        ));
        Ok((
            Self {
                jobs,
                budget,
                status,
            },
            LogWriterThread(thread),
        ))
    }

    /// Hands a write in. Waits only while too much is waiting; never for the disk otherwise.
    ///
    /// # Errors
    /// When an earlier write failed or the thread has ended. The write's waiter is told as well.
    pub(crate) async fn submit(&self, write: Write) -> io::Result<()> {
        let bytes = match &write.change {
            Change::Append(entries) => entries.iter().map(|(_, bytes)| bytes.len()).sum(),
            Change::Vote(_) | Change::Truncate(_) | Change::Purge(_) | Change::Stop => 0,
        };
        let bytes = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .min(QUEUED_BYTES_MAX);
        let Ok(budget) = Arc::clone(&self.budget).acquire_many_owned(bytes).await else {
            return Err(self.status.error());
        };
        let job = Job {
            write,
            _budget: budget,
        };
        let Err(mpsc::error::SendError(job)) = self.jobs.send(job).await else {
            return Ok(());
        };
        job.write.done.io_completed(Err(self.status.error()));
        Err(self.status.error())
    }

    /// Ends the thread once all that was handed in is written.
    pub async fn stop(&self) {
        let write = Write {
            shard: ShardId::ZERO,
            change: Change::Stop,
            number: 0,
            progress: Progress::default(),
            done: IOFlushed::noop(),
        };
        // An error says that the thread has ended already.
        drop(self.submit(write).await);
    }

    /// The first failure of a write or fsync, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.status.failed.get().map(String::as_str)
    }

    /// How long the write and fsync under way have taken so far; zero when none is.
    #[must_use]
    pub fn oldest_pending(&self) -> Duration {
        match self.status.busy_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self
                .status
                .started
                .elapsed()
                .saturating_sub(Duration::from_millis(since - 1)),
        }
    }

    /// Fsyncs since the start.
    #[must_use]
    pub fn fsyncs(&self) -> u64 {
        self.status.fsyncs.load(Ordering::Relaxed)
    }
}

impl LogWriterThread {
    /// Waits for the thread's end. Blocks.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the log writer's thread panicked");
        }
    }
}

impl Status {
    fn error(&self) -> io::Error {
        match self.failed.get() {
            Some(reason) => io::Error::other(reason.clone()),
            None => io::Error::other("the log writer has stopped"),
        }
    }
}

struct Thread {
    db: Arc<LogDb>,
    waiting: mpsc::Receiver<Job>,
    status: Arc<Status>,
}

impl Thread {
    fn run(mut self) {
        let fsync_duration = metrics::histogram!("holdfast_storage_fsync_duration_seconds");
        let fsyncs = metrics::counter!("holdfast_storage_fsyncs_total");
        let batch_entries = metrics::histogram!("holdfast_raft_append_batch_entries");
        let mut jobs = Vec::new();
        while self.waiting.blocking_recv_many(&mut jobs, JOBS_MAX) > 0 {
            let began = Instant::now();
            let (batch, entries) = gather(&jobs);
            let result = self.write(batch);
            if result.is_ok() {
                fsync_duration.record(began.elapsed());
                fsyncs.increment(1);
                batch_entries.record(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
            }
            let mut stop = false;
            for Job { write, .. } in jobs.drain(..) {
                stop |= matches!(write.change, Change::Stop);
                if result.is_ok() {
                    write.progress.0.fetch_max(write.number, Ordering::Release);
                }
                write
                    .done
                    .io_completed(result.map_err(|()| self.status.error()));
            }
            if stop {
                return;
            }
        }
    }

    fn write(&self, batch: LogBatch) -> Result<(), ()> {
        if self.status.failed.get().is_some() {
            return Err(());
        }
        if batch.is_empty() {
            return Ok(());
        }
        let since =
            u64::try_from(self.status.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.status
            .busy_since_ms
            .store(since.saturating_add(1), Ordering::Relaxed);
        let written = self.write_synced(batch);
        self.status.busy_since_ms.store(0, Ordering::Relaxed);
        self.status.fsyncs.fetch_add(1, Ordering::Relaxed);
        written.map_err(|reason| {
            tracing::error!(path = %self.db.path().display(), reason, "cannot write the Raft log: no shard writes again");
            metrics::counter!("holdfast_storage_failures_total").increment(1);
            self.status.failed.get_or_init(|| reason);
        })
    }

    fn write_synced(&self, batch: LogBatch) -> Result<(), String> {
        #[cfg(test)]
        if self.status.fail_next.swap(false, Ordering::Relaxed) {
            return Err("injected".to_owned());
        }
        self.db
            .write_synced(batch)
            .map_err(rocksdb::Error::into_string)
    }
}

/// All changes in order as one write, and how many entries are in it.
fn gather(jobs: &[Job]) -> (LogBatch, usize) {
    let mut batch = LogBatch::default();
    let mut entries = 0;
    for Job {
        write: Write { shard, change, .. },
        ..
    } in jobs
    {
        match change {
            Change::Append(appended) => {
                entries += appended.len();
                for (index, bytes) in appended {
                    batch.put_entry(*shard, *index, bytes);
                }
            }
            Change::Vote(vote) => batch.put_vote(*shard, vote),
            Change::Truncate(from) => batch.truncate(*shard, *from),
            Change::Purge(upto) => batch.purge(*shard, upto),
            Change::Stop => {}
        }
    }
    (batch, entries)
}

#[cfg(test)]
mod tests {
    use openraft::type_config::TypeConfigExt;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::db::{Budget, Owner};
    use crate::ids::NodeId;
    use crate::type_config::LeaderId;

    fn open(folder: &std::path::Path) -> Arc<LogDb> {
        let owner = Owner {
            cluster: "test".to_owned(),
            node: NodeId(1),
            shards: 4,
        };
        Arc::new(
            crate::db::open(folder, Budget::new(1 << 20), &owner)
                .unwrap()
                .0,
        )
    }

    async fn write(writer: &LogWriter, number: u64, progress: &Progress) -> io::Result<()> {
        let (told, waiter) = TypeConfig::oneshot();
        let vote = Vote {
            leader_id: LeaderId::new(number, 1),
            committed: false,
        };
        let progress = progress.clone();
        let (shard, change, done) = (ShardId(1), Change::Vote(vote), IOFlushed::signal(told));
        writer
            .submit(Write {
                shard,
                change,
                number,
                progress,
                done,
            })
            .await?;
        waiter.await.map_err(io::Error::other)?
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn after_a_failed_write_everything_fails_with_its_reason_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(folder.path());
        let (writer, thread) = LogWriter::start(Arc::clone(&db)).unwrap();
        let progress = Progress::default();
        write(&writer, 1, &progress).await.unwrap();
        assert_eq!(writer.failure(), None);

        writer.status.fail_next.store(true, Ordering::Relaxed);
        for number in 2..5 {
            let error = write(&writer, number, &progress).await.unwrap_err();
            assert_eq!(error.to_string(), "injected");
        }
        assert_eq!(writer.failure(), Some("injected"));
        assert_eq!(progress.written(), 1);
        assert_eq!(db.vote(ShardId(1)).unwrap().unwrap().leader_id.term, 1);

        writer.stop().await;
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
        assert!(write(&writer, 9, &progress).await.is_err());
    }
}
