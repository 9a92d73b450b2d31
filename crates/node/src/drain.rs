//! A planned stop, or a node that is emptied for a while: everything up to the point where no client
//! is left. `leaving.rs` is the same seen by one connection.
//!
//! Invariants:
//! - Balancers see it first (`/readyz`), then nobody is accepted, then the leaderships go, and only
//!   then the clients, at a bounded rate.
//! - The node stays a member and votes until its process ends; drained, it can serve again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codec::ReasonCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::config::ShutdownConfig;
use crate::count;
use crate::refusal::Refused;

/// How long connections may take to end once they are told to at once.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody asked for one.
    Serving,
    /// Unready, and nothing else yet.
    Announced,
    /// Nobody is accepted any more, and the leaderships go to other nodes.
    Closed,
    /// Clients are told to leave, one after the other.
    Leaving {
        /// When the first was.
        since: Instant,
    },
    /// Whoever is left is closed at once.
    AtOnce,
    /// No client is left.
    Drained,
}

impl Stage {
    /// For people and programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Announced => "announced",
            Self::Closed => "closed",
            Self::Leaving { .. } | Self::AtOnce => "leaving",
            Self::Drained => "drained",
        }
    }
}

/// Why a node is not drained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrainRefused {
    /// A shard would lose its majority.
    #[error("quorum critical: {0}")]
    QuorumCritical(String),
}

/// The drain of a node.
#[derive(Debug)]
pub(crate) struct Drain {
    stage: watch::Sender<Stage>,
    /// Connections that have been told when to leave.
    told: AtomicU64,
    config: ShutdownConfig,
    /// Every client's task.
    connections: TaskTracker,
    /// Replaced when the node serves again.
    period: Mutex<Period>,
}

/// From one drain to the next.
#[derive(Clone, Debug, Default)]
struct Period {
    /// Cancelled when nobody is to be accepted any more.
    accepting: CancellationToken,
    /// Cancelled when the drain is called off.
    called_off: CancellationToken,
}

impl Drain {
    /// The node serves. `connections`: the task of every client.
    pub(crate) fn new(config: ShutdownConfig, connections: TaskTracker) -> Self {
        Self {
            stage: watch::Sender::new(Stage::Serving),
            told: AtomicU64::new(0),
            config,
            connections,
            period: Mutex::default(),
        }
    }

    /// How far it has come.
    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// The same, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Cancelled when nobody is to be accepted any more.
    pub(crate) fn accepting(&self) -> CancellationToken {
        self.period().accepting.clone()
    }

    /// Waits until clients are accepted again.
    pub(crate) async fn served_again(&self) {
        let mut stage = self.watch();
        // The sender lives as long as this.
        drop(stage.wait_for(|stage| *stage == Stage::Serving).await);
    }

    /// A connection is to leave: when. Each gets another moment, `shutdown.close_rate` a second.
    pub(crate) fn turn(&self, since: Instant) -> Instant {
        let before = self.told.fetch_add(1, Ordering::Relaxed);
        let rate = u64::from(self.config.close_rate).max(1);
        since + Duration::from_micros(before.saturating_mul(1_000_000) / rate)
    }

    /// CONNECTs that come through although nobody is accepted any more are refused.
    pub(crate) fn admit(&self) -> Result<(), Refused> {
        match self.stage() {
            Stage::Serving | Stage::Announced => Ok(()),
            Stage::Closed | Stage::Leaving { .. } | Stage::AtOnce | Stage::Drained => {
                Err(Refused {
                    reason_code: ReasonCode::ServerUnavailable,
                    cause: "drain",
                })
            }
        }
    }

    /// Whoever is left is closed now.
    pub(crate) fn close_at_once(&self) {
        self.set(Stage::AtOnce);
    }

    fn set(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    fn period(&self) -> MutexGuard<'_, Period> {
        self.period.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Why stopping this node would leave a shard without a majority, if it would: too few of the
    /// others answer, serve, and mean to stay. A single node has no majority to lose.
    pub(crate) fn quorum_critical(&self) -> Option<String> {
        if self.members.len() == 1 {
            return None;
        }
        let live = self.live_nodes();
        let leaving = self.reports.draining(self.lease.duration());
        let stays = |node: &raft_store::NodeId| {
            live.contains_key(node)
                && !self.silence.audible_for(*node).is_zero()
                && !leaving.contains(node)
        };
        let peers: Vec<_> = self.peers().map(|(peer, _)| peer).collect();
        let staying = peers.iter().filter(|peer| stays(peer)).count();
        if staying >= self.majority() {
            return None;
        }
        let away: Vec<String> = peers
            .iter()
            .filter(|peer| !stays(peer))
            .map(ToString::to_string)
            .collect();
        Some(format!(
            "without this node {staying} of {} would be left, fewer than the majority of {}; down, starting or drained: {}",
            self.members.len(),
            self.majority(),
            if away.is_empty() {
                "none".to_owned()
            } else {
                away.join(", ")
            },
        ))
    }

    /// Begins to drain this node in the background; [`Drain::stage`] says how far it is. Does nothing
    /// if it is being drained already.
    ///
    /// # Errors
    /// It is quorum critical, and `force` was not given.
    pub(crate) fn request_drain(
        self: &Arc<Self>,
        limit: Option<Duration>,
        force: bool,
    ) -> Result<(), DrainRefused> {
        if !force && let Some(reason) = self.quorum_critical() {
            return Err(DrainRefused::QuorumCritical(reason));
        }
        let limit = limit.unwrap_or(self.drain.config.drain_timeout);
        // At once, so that whoever asks next sees that it has begun.
        if let Some(period) = self.begin_drain() {
            let broker = Arc::clone(self);
            tokio::spawn(async move { broker.carry_out_drain(limit, &period).await });
        }
        Ok(())
    }

    /// Calls a drain off: the node accepts clients and leads shards again.
    pub(crate) fn undrain(&self) {
        let was = {
            let mut period = self.drain.period();
            period.called_off.cancel();
            *period = Period::default();
            self.drain.stage.send_replace(Stage::Serving)
        };
        if was == Stage::Serving {
            return;
        }
        self.drain.connections.reopen();
        self.shards.accept_leadership();
        self.health.undrained();
        count::draining(false);
        tracing::info!("the drain is called off: this node serves again");
    }

    /// Drains this node, or waits until a drain under way is over. Returns early if it is called off.
    pub(crate) async fn drain(&self, limit: Duration) {
        if let Some(period) = self.begin_drain() {
            return self.carry_out_drain(limit, &period).await;
        }
        let called_off = self.drain.period().called_off.clone();
        let mut stage = self.drain.watch();
        let over = stage.wait_for(|stage| *stage == Stage::Drained);
        let in_time = timeout(limit.saturating_add(CLOSE_TIMEOUT), over);
        drop(called_off.run_until_cancelled(in_time).await);
    }

    /// `None`: one is under way, or over.
    fn begin_drain(&self) -> Option<Period> {
        let period = self.drain.period().clone();
        let is_first = self.drain.stage.send_if_modified(|stage| {
            let is_first = *stage == Stage::Serving;
            if is_first {
                *stage = Stage::Announced;
            }
            is_first
        });
        is_first.then_some(period)
    }

    async fn carry_out_drain(&self, limit: Duration, period: &Period) {
        let steps = self.drain_step_by_step(limit, &period.accepting);
        period.called_off.run_until_cancelled(steps).await;
    }

    async fn drain_step_by_step(&self, limit: Duration, accepting: &CancellationToken) {
        let drain = &self.drain;
        self.health.draining();
        count::draining(true);
        tracing::info!(?limit, "draining: this node is not ready any more");
        sleep(drain.config.grace).await;
        if let Some(reason) = self.quorum_critical() {
            tracing::warn!(
                reason,
                "stopping this node leaves shards without a majority"
            );
        }
        drain.set(Stage::Closed);
        accepting.cancel();
        let began = Instant::now();
        self.shards.hand_over().await;
        drain.told.store(0, Ordering::Relaxed);
        drain.connections.close();
        let clients = drain.connections.len();
        tracing::info!(
            clients,
            "draining: the leaderships are handed over, clients are told to leave"
        );
        drain.set(Stage::Leaving {
            since: Instant::now(),
        });
        let left = limit.saturating_sub(began.elapsed());
        if timeout(left, drain.connections.wait()).await.is_err() {
            let open = drain.connections.len();
            tracing::warn!(
                open,
                "shutdown.drain_timeout: the remaining clients are closed at once"
            );
            self.close_clients().await;
        }
        drain.set(Stage::Drained);
        tracing::info!("drained: no client is left");
    }

    /// Closes whoever is left, without waiting for a turn.
    pub(crate) async fn close_clients(&self) {
        self.drain.connections.close();
        self.drain.close_at_once();
        if timeout(CLOSE_TIMEOUT, self.drain.connections.wait())
            .await
            .is_err()
        {
            let open = self.drain.connections.len();
            tracing::warn!(open, "connections did not end in time");
        }
    }

    /// What a client is told that has to leave: there are other nodes, or none.
    pub(crate) fn leave_reason(&self) -> ReasonCode {
        if self.members.len() > 1 {
            ReasonCode::UseAnotherServer
        } else {
            ReasonCode::ServerShuttingDown
        }
    }
}
