//! What the shards of a node need now and then: time kept, state saved and made durable, logs cut off
//! behind it, disk space freed, gauges, leaderships spread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::clock::kept::ClockFile;
use crate::ids::ShardId;
use crate::leadership::Balance;
use crate::retention::{LogPosition, Retention};
use crate::shard::Shard;
use crate::shards::Shards;

/// How often all of it is looked after.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// How often the state tables are made durable. A restart replays what came after; a flush writes
/// small files that have to be merged later.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Or after so many bytes of entries, of all shards: the replay at a start takes seconds at most.
const FLUSH_AFTER_BYTES: u64 = 64 << 20;
/// How often the log database is merged out of turn, at most: that copies what is not purged.
const RECLAIM_EVERY: Duration = Duration::from_secs(60);
/// Files of the log database beyond twice what the logs hold: as much as waits to be merged anyway.
const RECLAIM_SLACK_BYTES: u64 = 128 << 20;

/// Looks after the shards of a node until they stop.
pub(super) struct Upkeep {
    shards: Arc<Shards>,
    balance: Balance,
    retention: Retention,
    flushed_at: Instant,
    /// Bytes of the entries that were applied before the last flush.
    flushed_bytes: u64,
    clocks: ClockFile,
    /// Frees disk space, if it is not at it.
    space: Option<Space>,
    freeing: Option<JoinHandle<Space>>,
}

impl Upkeep {
    pub(super) fn new(shards: Arc<Shards>) -> Self {
        let retention = Retention::new(shards.config.snapshot_after);
        let space = Space {
            shards: Arc::clone(&shards),
            reclaimed_at: Instant::now(),
            dropped: BTreeMap::new(),
        };
        let clocks = ClockFile::new(&shards.config.data_dir);
        Self {
            shards,
            balance: Balance::default(),
            retention,
            flushed_at: Instant::now(),
            flushed_bytes: 0,
            clocks,
            space: Some(space),
            freeing: None,
        }
    }

    pub(super) async fn run(mut self) {
        let shards = Arc::clone(&self.shards);
        // Nodes look at different moments, so that two of them do not hand over at once.
        let node = u64::from(shards.config.node.0 % 8);
        let every = UPKEEP_EVERY + Duration::from_millis(node * 40);
        loop {
            tokio::select! {
                () = shards.stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let blocking = spawn_blocking(move || {
                self.keep_clocks();
                self.save();
                self
            });
            self = match blocking.await {
                Ok(upkeep) => upkeep,
                Err(error) => {
                    tracing::error!(%error, "the upkeep of the shards ended");
                    return;
                }
            };
            self.free_disk_space().await;
            for shard in shards.iter() {
                shard.report();
                self.balance.check(shard, &shards.connections).await;
                self.shorten_log(shard).await;
            }
            self.report();
        }
    }

    fn keep_clocks(&mut self) {
        let clocks = self.shards.iter().filter_map(|shard| {
            let kept = shard.replica().clock.kept()?;
            Some((shard.id(), kept))
        });
        let clocks = clocks.collect();
        if let Err(error) = self.clocks.write(clocks) {
            // A restart then counts less time; a disk that is broken fails the log as well.
            tracing::warn!(%error, "cannot keep the time of the shards");
        }
    }

    fn save(&mut self) {
        for shard in self.shards.iter() {
            shard.replica().save_if_due();
        }
        let applied = self
            .shards
            .iter()
            .map(|shard| shard.replica().applied_bytes());
        let applied: u64 = applied.sum();
        let due = self.flushed_at.elapsed() >= FLUSH_EVERY
            || applied.saturating_sub(self.flushed_bytes) >= FLUSH_AFTER_BYTES;
        if !due {
            return;
        }
        self.flushed_at = Instant::now();
        self.flushed_bytes = applied;
        let state = &self.shards.state;
        if let Err(error) = state.flush() {
            // The tables stay at an older state; a disk that is broken fails the log as well.
            tracing::error!(path = %state.path().display(), %error, "cannot flush the state tables");
        }
    }

    /// Makes the state durable when much was logged since the last time, and cuts the log off behind
    /// what is durable.
    async fn shorten_log(&self, shard: &Shard) {
        let metrics = shard.metrics();
        let at = LogPosition {
            applied: shard.applied_index(),
            snapshot: metrics.snapshot.map(|log_id| log_id.index),
            purged: metrics.purged.map(|log_id| log_id.index),
            sending: shard.replica().sending().oldest(),
        };
        let length = shard.replica().log().length();
        let trigger = shard.raft().trigger();
        let mut triggered = Ok(());
        if let Some(upto) = self.retention.purge_upto(at, &length) {
            triggered = trigger.purge_log(upto).await;
            // openraft keeps what it streams; it looks again when a stream ends.
            if self.retention.is_overlong(at, &length) {
                self.interrupt_laggards(shard, upto);
            }
        }
        // Under load that is due again by the time the last one can be used.
        if self.retention.is_snapshot_due(at, &length) {
            triggered = triggered.and(trigger.snapshot().await);
        }
        if let Err(error) = triggered {
            tracing::debug!(shard = shard.id().0, %error, "the shard has stopped");
        }
    }

    /// As the leader, ends the streams to followers that lack an entry which is to be cut off.
    fn interrupt_laggards(&self, shard: &Shard, upto: u64) {
        let followers = shard.metrics().replication.unwrap_or_default();
        for (node, matched) in followers {
            let next = matched.map_or(0, |matched| matched.index.saturating_add(1));
            if next <= upto && node != u64::from(shard.node().0) {
                // As often as the log is cut off while it is away; what it gets is logged once.
                tracing::debug!(
                    shard = shard.id().0,
                    peer = node,
                    next,
                    "the peer lags too far behind: it gets a snapshot"
                );
                self.shards.connections.interrupt(node, shard.id());
            }
        }
    }

    /// Nobody waits for it: merging a large database takes long.
    async fn free_disk_space(&mut self) {
        if let Some(freeing) = self.freeing.take_if(|freeing| freeing.is_finished()) {
            self.space = freeing.await.ok();
        }
        if let Some(mut space) = self.space.take() {
            self.freeing = Some(spawn_blocking(move || {
                space.free();
                space
            }));
        }
    }

    fn report(&self) {
        let databases = [
            ("log", self.shards.log.pressure()),
            ("state", self.shards.state.pressure()),
        ];
        for (database, pressure) in databases {
            #[expect(clippy::cast_precision_loss, reason = "a gauge; exact below 2^53")]
            metrics::gauge!("holdfast_rocksdb_pending_compaction_bytes", "database" => database)
                .set(pressure.pending_compaction_bytes as f64);
            for (state, is_so) in [
                ("delayed", pressure.is_delayed),
                ("stopped", pressure.is_stopped),
            ] {
                metrics::gauge!("holdfast_rocksdb_write_stall", "database" => database, "state" => state)
                    .set(if is_so { 1.0 } else { 0.0 });
            }
        }
    }
}

/// Frees disk space that the logs and the state no longer need.
struct Space {
    shards: Arc<Shards>,
    reclaimed_at: Instant,
    /// The last purged entry whose files are gone.
    dropped: BTreeMap<ShardId, u64>,
}

impl Space {
    fn free(&mut self) {
        for shard in self.shards.iter() {
            shard.replica().reclaim();
            let log = shard.replica().log();
            let Some(purged) = log.durable_purge().map(|purged| purged.index) else {
                continue;
            };
            if self.dropped.insert(shard.id(), purged) == Some(purged) {
                continue;
            }
            if let Err(error) = log.drop_purged_files() {
                tracing::warn!(shard = shard.id().0, %error, "cannot free the disk space of a log");
            }
        }
        let logs = self
            .shards
            .iter()
            .map(|shard| shard.replica().log().length().bytes());
        let logs: u64 = logs.sum();
        let wanted = logs.saturating_mul(2).saturating_add(RECLAIM_SLACK_BYTES);
        if self.shards.log.disk_bytes() > wanted && self.reclaimed_at.elapsed() >= RECLAIM_EVERY {
            for shard in self.shards.iter() {
                shard.replica().log().reclaim();
            }
            self.reclaimed_at = Instant::now();
        }
    }
}
