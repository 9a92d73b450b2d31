//! One run: connect everybody, warm up, measure, drain, check.
//!
//! The brokers' cost is read before the first measured message and after the last delivery, while
//! nothing is under way, so cost and messages belong together exactly.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use codec::{Connect, TopicFilter, TopicName, Utf8};
use tokio::runtime::Builder;
use tokio::task::{JoinError, JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::client::{Client, Role};
use crate::error::LoadError;
use crate::ledger::Ledger;
use crate::pacer;
use crate::process;
use crate::publisher::{Publisher, PublisherPlan};
use crate::report::{BrokerCost, Checked, Report, per, per_s};
use crate::scrape;
use crate::shared::{Shared, Totals};
use crate::subscriber::Subscriber;
use crate::template::Template;
use crate::workload::Workload;

/// How often it is looked whether a phase is over.
const LOOK: Duration = Duration::from_millis(2);
/// How long it may take until all clients are connected and subscribed.
const READY_MAX: Duration = Duration::from_secs(60);
/// What a persistent session may outlive its connection, seconds.
const SESSION_EXPIRY_S: u32 = 3_600;

/// Carries out a workload on one thread.
///
/// # Errors
/// The parameters make no sense, clients cannot connect, or a measured process is gone.
pub fn run(workload: &Workload) -> Result<Report, LoadError> {
    workload.check()?;
    on_this_thread(measure(workload))
}

/// Runs a future that spawns local tasks.
pub(crate) fn on_this_thread<T>(
    future: impl Future<Output = Result<T, LoadError>>,
) -> Result<T, LoadError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(LoadError::io("start the runtime"))?;
    LocalSet::new().block_on(&runtime, future)
}

async fn measure(workload: &Workload) -> Result<Report, LoadError> {
    let run = Run::start(workload).await?;
    if !workload.warm_up.is_zero() {
        run.phase(workload.warm_up).await;
    }
    run.shared.recording.set(true);
    let before = run.snapshot()?;
    let killer = workload.kill.map(|kill| {
        spawn_local(async move {
            sleep(kill.after).await;
            process::kill(kill.pid)
        })
    });
    let times = run.phase(workload.duration).await;
    let after = run.snapshot()?;
    if let Some(killer) = killer {
        killer.await.map_err(gone)??;
    }
    let mut report = after.since(&before, workload, &times);
    run.finish(&mut report).await?;
    Ok(report)
}

/// Clients at work.
pub(crate) struct Run<'a> {
    workload: &'a Workload,
    pub(crate) shared: Rc<Shared>,
    clients: Clients,
}

/// The tasks of all clients.
struct Clients {
    publishers: Vec<JoinHandle<Publisher>>,
    subscribers: Vec<JoinHandle<Subscriber>>,
}

impl<'a> Run<'a> {
    /// Everybody is connected and subscribed.
    pub(crate) async fn start(workload: &'a Workload) -> Result<Self, LoadError> {
        let shared = Rc::new(Shared::new(workload));
        Ok(Self {
            clients: start(workload, &shared).await?,
            shared,
            workload,
        })
    }

    /// Publishes for `duration`, then waits until everything is acknowledged and delivered, or no
    /// longer to be expected.
    async fn phase(&self, duration: Duration) -> PhaseTimes {
        let start_ns = self.begin();
        match self.workload.rate_per_s {
            None => sleep(duration).await,
            Some(_) => pacer::pace(self.workload, &self.shared, duration).await,
        }
        self.shared.publishing.set(false);
        self.drain(start_ns).await
    }

    /// Lets publishers publish; returns the time at which a phase begins.
    pub(crate) fn begin(&self) -> u64 {
        let start_ns = self.shared.now_ns();
        self.shared.phase_start_ns.set(start_ns);
        self.shared.publishing.set(true);
        self.shared.wake_all();
        start_ns
    }

    /// Waits for the last acknowledgement and the last delivery.
    pub(crate) async fn drain(&self, start_ns: u64) -> PhaseTimes {
        let (shared, mut acknowledged_ns) = (&self.shared, None);
        self.wait(|| {
            if acknowledged_ns.is_none() && shared.is_acknowledged() {
                acknowledged_ns = Some(shared.now_ns() - start_ns);
            }
            shared.is_settled()
        })
        .await;
        let delivered_ns = shared.now_ns() - start_ns;
        PhaseTimes {
            acknowledged_ns: acknowledged_ns.unwrap_or(delivered_ns),
            delivered_ns,
        }
    }

    /// Waits until something is so, at most as long as the workload allows. Says whether it is.
    pub(crate) async fn wait(&self, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + self.workload.drain_max;
        while !is_so() {
            if Instant::now() > deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, LoadError> {
        Snapshot::take(self.workload, &self.shared)
    }

    /// Disconnects everybody and enters what they saw.
    pub(crate) async fn finish(self, report: &mut Report) -> Result<(), LoadError> {
        self.shared.recording.set(false);
        finish(&self.shared, self.clients, report).await
    }
}

/// Subscribers first, so that nothing is published before they are all there.
async fn start(workload: &Workload, shared: &Rc<Shared>) -> Result<Clients, LoadError> {
    let run = run_name();
    let mut subscribers = Vec::new();
    for index in 0..workload.subscribers {
        let name = topic(&run, workload.topic_of(index));
        let filter = TopicFilter::try_from(name.as_str());
        let filter = filter.map_err(|error| LoadError::Usage(error.to_string()))?;
        let role = Subscriber::new(filter, workload.qos, Rc::clone(shared));
        let who = Who {
            id: format!("{run}-s{index}"),
            index: workload.publishers + index,
            endpoints: &workload.subscribe_to,
            turn: index,
        };
        subscribers.push(spawn_local(client(workload, shared, &who, role)?.run()));
    }
    ready(shared, workload.subscribers, "all SUBACKs").await?;
    let mut publishers = Vec::new();
    for index in 0..workload.publishers {
        let role = publisher(workload, shared, &run, index)?;
        let who = Who {
            id: format!("{run}-p{index}"),
            index,
            endpoints: &workload.publish_to,
            turn: index,
        };
        publishers.push(spawn_local(client(workload, shared, &who, role)?.run()));
    }
    let all = workload.publishers + workload.subscribers;
    ready(shared, all, "all CONNACKs").await?;
    Ok(Clients {
        publishers,
        subscribers,
    })
}

/// Which client.
struct Who<'a> {
    id: String,
    index: u32,
    endpoints: &'a [std::net::SocketAddr],
    turn: u32,
}

fn client<R: Role>(
    workload: &Workload,
    shared: &Rc<Shared>,
    who: &Who<'_>,
    role: R,
) -> Result<Client<R>, LoadError> {
    let id = Utf8::try_from(who.id.as_str());
    let id = id.map_err(|error| LoadError::Usage(error.to_string()))?;
    let connect = Connect {
        clean_start: !workload.persistent,
        keep_alive_s: 0,
        session_expiry_interval: workload.persistent.then_some(SESSION_EXPIRY_S),
        ..Connect::new(workload.version, id)
    };
    Ok(Client {
        index: who.index as usize,
        endpoints: who.endpoints.to_vec(),
        next_endpoint: who.turn as usize,
        connect,
        role,
        shared: Rc::clone(shared),
    })
}

fn publisher(
    workload: &Workload,
    shared: &Rc<Shared>,
    run: &str,
    index: u32,
) -> Result<Publisher, LoadError> {
    let name = topic(run, workload.topic_of(index));
    let name = TopicName::try_from(name.as_str());
    let name = name.map_err(|error| LoadError::Usage(error.to_string()))?;
    let interval_ns = workload.interval_ns();
    let plan = PublisherPlan {
        index,
        qos: workload.qos,
        window: workload.window,
        interval_ns,
        offset_ns: interval_ns.unwrap_or(0) / u64::from(workload.publishers) * u64::from(index),
        template: Template::new(
            &name,
            workload.qos,
            workload.payload_bytes,
            workload.version,
        )?,
    };
    Ok(Publisher::new(plan, Rc::clone(shared)))
}

async fn ready(shared: &Shared, count: u32, what: &str) -> Result<(), LoadError> {
    let deadline = Instant::now() + READY_MAX;
    while shared.ready.get() < count {
        if Instant::now() > deadline {
            let error = shared.last_error.borrow().clone().unwrap_or_default();
            return Err(LoadError::TimedOut(format!("{what} ({error})")));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// When the parts of a phase ended, nanoseconds since it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhaseTimes {
    pub(crate) acknowledged_ns: u64,
    pub(crate) delivered_ns: u64,
}

/// All that counts up.
pub(crate) struct Snapshot {
    totals: Totals,
    broker_cpu_us: Option<u64>,
    resident_bytes: u64,
    load_cpu_us: u64,
    fsyncs: Vec<f64>,
}

impl Snapshot {
    /// With a process to kill, processes are not measured: they may be gone.
    fn take(workload: &Workload, shared: &Shared) -> Result<Self, LoadError> {
        let is_measured = workload.kill.is_none() && !workload.pids.is_empty();
        let pids: &[u32] = if is_measured { &workload.pids } else { &[] };
        let admins: &[_] = if is_measured { &workload.admins } else { &[] };
        Ok(Self {
            totals: shared.totals(),
            fsyncs: scrape::fsyncs(admins)?,
            broker_cpu_us: is_measured.then(|| process::cpu_us(pids)).transpose()?,
            resident_bytes: process::resident_bytes(pids)?,
            load_cpu_us: process::cpu_us(&[std::process::id()])?,
        })
    }

    pub(crate) fn since(&self, before: &Self, workload: &Workload, times: &PhaseTimes) -> Report {
        let messages = self.totals.acknowledged - before.totals.acknowledged;
        let deliveries = self.totals.delivered - before.totals.delivered;
        let broker = self.broker_cpu_us.zip(before.broker_cpu_us);
        let broker = broker.map(|(after_us, before_us)| {
            let cpu_us = after_us - before_us;
            let fsyncs = self.fsyncs.iter().zip(&before.fsyncs);
            BrokerCost {
                cpu_us_per_message: per(cpu_us, messages),
                cpu_us_per_delivery: per(cpu_us, deliveries),
                cpus: per(cpu_us, times.delivered_ns / 1_000),
                resident_bytes: self.resident_bytes,
                fsyncs_per_1000_acknowledged: fsyncs
                    .map(|(after, before)| (after - before) * per(1_000, messages))
                    .collect(),
            }
        });
        Report {
            name: workload.name.clone(),
            messages,
            deliveries,
            seconds: per(times.acknowledged_ns, 1_000_000_000),
            seconds_to_last_delivery: per(times.delivered_ns, 1_000_000_000),
            messages_per_s: per_s(messages, times.acknowledged_ns),
            deliveries_per_s: per_s(deliveries, times.delivered_ns),
            broker,
            load_cpu_us_per_message: per(self.load_cpu_us - before.load_cpu_us, messages),
            ..Report::default()
        }
    }
}

async fn finish(shared: &Shared, clients: Clients, report: &mut Report) -> Result<(), LoadError> {
    let connections_lost = shared.connections_lost.get();
    let last_error = shared.last_error.borrow().clone();
    shared.finishing.set(true);
    shared.wake_all();
    let totals = shared.totals();
    let checked = &mut report.checked;
    *checked = Checked {
        sent: totals.sent,
        unacknowledged: totals.sent - totals.acknowledged,
        connections_lost,
        last_error,
        ..Checked::default()
    };
    let mut pauses_ns = (0, 0);
    for publisher in clients.publishers {
        let publisher = publisher.await.map_err(gone)?;
        checked.refused += publisher.refused;
        checked.sessions_lost += publisher.sessions_lost;
        pauses_ns.0 = pauses_ns.0.max(publisher.pause.worst_ns);
    }
    for (index, subscriber) in (0_u32..).zip(clients.subscribers) {
        let subscriber = subscriber.await.map_err(gone)?;
        checked.repeated += subscriber.repeated;
        checked.repeated_without_dup += subscriber.repeated_without_dup;
        checked.late += subscriber.late;
        checked.sessions_lost += subscriber.sessions_lost;
        pauses_ns.1 = pauses_ns.1.max(subscriber.pause.worst_ns);
        enter_losses(shared, index, &subscriber.ledgers, checked);
    }
    report.publisher_pause_ms = per(pauses_ns.0, 1_000_000);
    report.subscriber_pause_ms = per(pauses_ns.1, 1_000_000);
    report.acknowledged_after = shared.ack_latencies.borrow().summary();
    report.delivered_after = shared.delivery_latencies.borrow().summary();
    Ok(())
}

/// For tasks that panicked.
fn gone(error: JoinError) -> LoadError {
    LoadError::Protocol(error.to_string())
}

fn enter_losses(shared: &Shared, subscriber: u32, ledgers: &[Ledger], checked: &mut Checked) {
    let topics = shared.topics;
    for (publisher, (ledger, progress)) in (0_u32..).zip(ledgers.iter().zip(&shared.progress)) {
        if publisher % topics != subscriber % topics {
            continue;
        }
        let sent = progress.sent.get();
        checked.lost += ledger.missing(sent);
        if let (None, Some(number)) = (&checked.first_lost, ledger.first_missing(sent)) {
            let first =
                format!("message {number} of publisher {publisher} to subscriber {subscriber}");
            checked.first_lost = Some(first);
        }
    }
}

fn topic(run: &str, index: u32) -> String {
    format!("bench/{run}/{index}")
}

/// No two runs share sessions or topics.
fn run_name() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    format!("b{:x}-{run}", ms & 0xFFFF_FFFF)
}
