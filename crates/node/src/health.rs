//! What the node knows about its own health; `admin.rs` answers probes from it.
//!
//! Setters are cheap (a mutex held for a comparison) and may be called from any task at any rate.
//! A check that nobody has set yet fails: silence never reads as readiness.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// One condition of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The local log is replayed.
    Startup,
    /// Every shard has a leader that this node knows, confirmed within two election timeouts.
    Leaders,
    /// This node holds its lease.
    Lease,
    /// This node has applied what was committed when it started.
    CaughtUp,
    /// The listeners accept clients.
    Listeners,
    /// Passes while nobody asked the node to stop.
    Draining,
    /// There is room on the disk.
    Disk,
    /// There is memory for more clients.
    Memory,
}

impl Check {
    const ALL: [Self; 8] = [
        Self::Startup,
        Self::Leaders,
        Self::Lease,
        Self::CaughtUp,
        Self::Listeners,
        Self::Draining,
        Self::Disk,
        Self::Memory,
    ];

    /// Passes until it is found to fail.
    fn begins_well(self) -> bool {
        matches!(self, Self::Draining | Self::Disk | Self::Memory)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Leaders => "leaders",
            Self::Lease => "lease",
            Self::CaughtUp => "caught_up",
            Self::Listeners => "listeners",
            Self::Draining => "draining",
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

/// What a check says at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Its name in `/readyz?verbose`.
    pub name: &'static str,
    /// Whether it passes.
    pub ok: bool,
    /// When it last changed between passing and failing.
    pub since: SystemTime,
    /// Why it fails; empty when it passes.
    pub reason: String,
}

/// A watchdog tick older than this means that the runtime is wedged.
const TICK_AGE_MAX: Duration = Duration::from_secs(10);
const TICK_EVERY: Duration = Duration::from_secs(1);
/// An fsync older than this means that the disk is wedged.
const FSYNC_AGE_MAX: Duration = Duration::from_secs(60);

type FsyncAge = Box<dyn Fn() -> Duration + Send + Sync>;

/// The health of one node. Share it as `Arc<Health>`.
pub struct Health {
    /// In the order of [`Check::ALL`].
    checks: Mutex<[CheckReport; 8]>,
    born: Instant,
    /// When the watchdog last ticked, milliseconds after `born`.
    ticked_ms: AtomicU64,
    fsync_age: OnceLock<FsyncAge>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("checks", &self.checks())
            .finish_non_exhaustive()
    }
}

impl Health {
    /// A node that has just begun to start: every check fails but those of which nobody has
    /// found anything wrong.
    pub fn new() -> Self {
        let since = SystemTime::now();
        let checks = Check::ALL.map(|check| CheckReport {
            name: check.name(),
            ok: check.begins_well(),
            since,
            reason: if check.begins_well() {
                String::new()
            } else {
                "starting".to_owned()
            },
        });
        Self {
            checks: Mutex::new(checks),
            born: Instant::now(),
            ticked_ms: AtomicU64::new(0),
            fsync_age: OnceLock::new(),
        }
    }

    /// The check passes from now on.
    pub fn pass(&self, check: Check) {
        self.set(check, "");
    }

    /// The check fails from now on; `reason` is for the person on call, not empty.
    pub fn fail(&self, check: Check, reason: &str) {
        self.set(check, if reason.is_empty() { "failed" } else { reason });
    }

    /// Local replay is done and listeners are bound: `/startupz` answers 200 from now on.
    pub fn started(&self) {
        self.pass(Check::Startup);
    }

    /// The planned stop has begun: unready from now on.
    pub fn draining(&self) {
        self.fail(Check::Draining, "the node is stopping");
    }

    /// The planned stop was called off.
    pub fn undrained(&self) {
        self.pass(Check::Draining);
    }

    /// Gives the age of the oldest fsync that has not returned (zero when none is under way), for
    /// `/livez`. Only the first call counts.
    pub fn watch_fsyncs(&self, age: impl Fn() -> Duration + Send + Sync + 'static) {
        self.fsync_age.set(Box::new(age)).ok();
    }

    /// Starts the task whose ticks show that the runtime moves. Ends when the node is dropped.
    pub fn spawn_watchdog(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let health = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(TICK_EVERY);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let Some(health) = health.upgrade() else {
                    return;
                };
                health.tick();
            }
        })
    }

    /// Whether the process should live on: `Err` says why not. Never depends on a quorum, since a
    /// restart does not bring one back.
    ///
    /// # Errors
    /// A sentence, when the runtime or the disk is wedged.
    pub fn live(&self) -> Result<(), String> {
        let ticked = Duration::from_millis(self.ticked_ms.load(Ordering::Relaxed));
        let tick_age = self.born.elapsed().saturating_sub(ticked);
        if tick_age > TICK_AGE_MAX {
            return Err(format!(
                "the runtime has not moved for {} s",
                tick_age.as_secs()
            ));
        }
        let fsync_age = self.fsync_age.get().map_or(Duration::ZERO, |age| age());
        if fsync_age > FSYNC_AGE_MAX {
            return Err(format!(
                "an fsync has not returned for {} s",
                fsync_age.as_secs()
            ));
        }
        Ok(())
    }

    /// Whether [`started`](Self::started) was called.
    pub fn is_started(&self) -> bool {
        self.checks()
            .iter()
            .any(|report| report.name == Check::Startup.name() && report.ok)
    }

    /// Whether every check passes.
    pub fn is_ready(&self) -> bool {
        self.checks().iter().all(|report| report.ok)
    }

    /// All checks, in a fixed order.
    pub fn reports(&self) -> Vec<CheckReport> {
        self.checks().to_vec()
    }

    fn set(&self, check: Check, reason: &str) {
        let mut checks = self.checks();
        let Some(report) = checks.iter_mut().find(|report| report.name == check.name()) else {
            return;
        };
        if report.reason == reason {
            return;
        }
        let ok = reason.is_empty();
        if report.ok != ok {
            report.since = SystemTime::now();
            tracing::info!(check = report.name, ok, reason, "readiness check changed");
        }
        report.ok = ok;
        reason.clone_into(&mut report.reason);
    }

    fn tick(&self) {
        let ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ticked_ms.store(ms, Ordering::Relaxed);
    }

    fn checks(&self) -> MutexGuard<'_, [CheckReport; 8]> {
        // Reports are replaced one field after the other, but each is valid by itself.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_every_check_was_passed_and_none_failed_since() {
        let health = Health::new();
        assert!(!health.is_ready() && !health.is_started());
        for check in Check::ALL {
            health.pass(check);
        }
        assert!(health.is_ready() && health.is_started());
        health.fail(Check::Lease, "2 of 3 nodes are silent");
        assert!(!health.is_ready() && health.is_started());
        let lease = health
            .reports()
            .into_iter()
            .find(|report| report.name == "lease")
            .unwrap();
        assert_eq!(
            (lease.ok, lease.reason.as_str()),
            (false, "2 of 3 nodes are silent")
        );
    }

    #[test]
    fn since_changes_only_between_passing_and_failing() {
        let health = Health::new();
        health.fail(Check::Lease, "one");
        let first = health.reports();
        health.fail(Check::Lease, "two");
        let second = health.reports();
        assert_eq!(first[2].since, second[2].since);
        assert_eq!(second[2].reason, "two");
    }

    #[test]
    fn a_wedged_fsync_ends_liveness_but_a_lost_quorum_does_not() {
        let health = Health::new();
        health.fail(Check::Lease, "no quorum");
        assert_eq!(health.live(), Ok(()));
        health.watch_fsyncs(|| Duration::from_secs(61));
        assert!(health.live().unwrap_err().contains("fsync"));
    }
}
