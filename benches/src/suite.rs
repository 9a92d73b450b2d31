//! `make bench`: every line of the table, Holdfast and mosquitto in turn.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use serde::Serialize;

use crate::broker::Brokers;
use crate::error::LoadError;
use crate::idle::{IdlePlan, IdleReport, run_idle};
use crate::queue::run_queue;
use crate::report::Report;
use crate::run::run;
use crate::table::{Limits, Row};
use crate::workload::{Kill, Workload};

/// More than any run takes from the free list.
const TOUCHED_MIB: usize = 512;

/// What is run.
#[derive(Debug, Clone)]
pub struct SuitePlan {
    /// The broker.
    pub binary: PathBuf,
    /// For configuration, data and logs.
    pub dir: PathBuf,
    /// How often each pair is measured.
    pub rounds: usize,
    /// Load before each measurement.
    pub warm_up: Duration,
    /// Of each measurement.
    pub duration: Duration,
    /// How many leaders are killed.
    pub kills: usize,
    /// How many connections are idle.
    pub idle_connections: u32,
    /// Of all clients.
    pub version: ProtocolVersion,
    /// Parts to run; empty: all.
    pub only: Vec<Part>,
}

/// A part of the suite, with brokers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Durable QoS 1 and 2, three nodes.
    Durable,
    /// One node, transient subscribers.
    Live,
    /// Memory per connection.
    Idle,
    /// A leader's node dies.
    Failover,
    /// Latency at a fixed rate; queues. Not in the table.
    More,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Suite {
    /// The table.
    pub rows: Vec<Row>,
    /// Every run, in order.
    pub runs: Vec<Report>,
    /// Memory of idle connections.
    pub idle: Vec<IdleReport>,
    /// Runs in which a delivery was lost or, where that must not be, repeated.
    pub violations: Vec<String>,
}

impl Suite {
    /// Runs all parts, and tells each run's outcome to `say`.
    ///
    /// # Errors
    /// A broker does not start, or clients cannot connect.
    pub fn run(plan: &SuitePlan, say: &dyn Fn(&str)) -> Result<Self, LoadError> {
        let mut suite = Self::default();
        let wanted = |part| plan.only.is_empty() || plan.only.contains(&part);
        let bench = Bench { plan, say };
        if wanted(Part::Durable) {
            suite.durable(&bench)?;
        }
        if wanted(Part::Live) {
            suite.live(&bench)?;
        }
        if wanted(Part::Idle) {
            suite.idle(&bench)?;
        }
        if wanted(Part::Failover) {
            suite.failover(&bench)?;
        }
        if wanted(Part::More) {
            suite.more(&bench)?;
        }
        Ok(suite)
    }

    fn durable(&mut self, bench: &Bench<'_>) -> Result<(), LoadError> {
        let mosquitto = bench.mosquitto()?;
        let holdfast = bench.holdfast(3)?;
        let (mut against_mosquitto, mut qos2, mut fsyncs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.plan.rounds {
            let reference = self.measure(bench, &bench.durable("mosquitto", &mosquitto, 1))?;
            let own = self.measure(bench, &bench.durable("holdfast", &holdfast, 1))?;
            let twice = self.measure(bench, &bench.durable("holdfast", &holdfast, 2))?;
            against_mosquitto.push((per_message(&own), per_message(&reference)));
            qos2.push((per_message(&twice), per_message(&own)));
            let per_node = own.broker.map(|broker| broker.fsyncs_per_1000_acknowledged);
            fsyncs.push(per_node.unwrap_or_default().into_iter().fold(0.0, f64::max));
        }
        self.rows.push(Row::ratio(
            "durable QoS 1, persistent subscribers on other nodes: CPU per message",
            "us",
            &against_mosquitto,
            Limits {
                must: 3.0,
                aim: 1.25,
            },
        ));
        self.rows.push(Row::absolute(
            "durable QoS 1: fsyncs per 1,000 acknowledged, busiest node, full rate",
            "",
            &fsyncs,
            Limits {
                must: 50.0,
                aim: 10.0,
            },
        ));
        self.rows.push(Row::ratio(
            "durable QoS 2: CPU per message, against own durable QoS 1",
            "us",
            &qos2,
            Limits {
                must: 2.5,
                aim: 1.5,
            },
        ));
        Ok(())
    }

    fn live(&mut self, bench: &Bench<'_>) -> Result<(), LoadError> {
        let mosquitto = bench.mosquitto()?;
        let holdfast = bench.holdfast(1)?;
        let limits = Limits {
            must: 1.0,
            aim: 0.25,
        };
        for qos in [0, 1] {
            let mut rounds = Vec::new();
            for _ in 0..bench.plan.rounds {
                let reference = self.measure(bench, &bench.live("mosquitto", &mosquitto, qos))?;
                let own = self.measure(bench, &bench.live("holdfast", &holdfast, qos))?;
                rounds.push((per_message(&own), per_message(&reference)));
            }
            let workload = format!("live plane, one node, QoS {qos}: CPU per message");
            self.rows.push(Row::ratio(&workload, "us", &rounds, limits));
        }
        let mut rounds = Vec::new();
        for _ in 0..bench.plan.rounds {
            let reference = self.measure(bench, &bench.fan_out("mosquitto", &mosquitto))?;
            let own = self.measure(bench, &bench.fan_out("holdfast", &holdfast))?;
            rounds.push((per_delivery(&own), per_delivery(&reference)));
        }
        let workload = "fan-out 1:100, QoS 1 live: CPU per delivery";
        self.rows.push(Row::ratio(workload, "us", &rounds, limits));
        Ok(())
    }

    /// The first connections of a process bring memory along that is not theirs, so a hundred are
    /// opened before. Fresh brokers for each way of counting: what was given back is not measured.
    fn idle(&mut self, bench: &Bench<'_>) -> Result<(), LoadError> {
        for subscribe in [false, true] {
            for (who, brokers) in [
                ("holdfast", bench.holdfast(1)?),
                ("mosquitto", bench.mosquitto()?),
            ] {
                let report = idle(bench, &brokers, subscribe)?;
                (bench.say)(&format!(
                    "{who}, {} idle connections, subscribed: {subscribe}: {:.1} KB each",
                    report.connections,
                    report.bytes_per_connection / 1_000.0
                ));
                self.idle.push(report);
                if who == "holdfast" {
                    let with = if subscribe {
                        "with one subscription"
                    } else {
                        "without subscription"
                    };
                    self.rows.push(Row::absolute(
                        &format!("resident memory per idle connection, one node, {with}"),
                        "KB",
                        &[report.bytes_per_connection / 1_000.0],
                        Limits {
                            must: 20.0,
                            aim: 8.0,
                        },
                    ));
                }
            }
        }
        Ok(())
    }

    fn failover(&mut self, bench: &Bench<'_>) -> Result<(), LoadError> {
        let mut pauses_s = Vec::new();
        for kill in 0..bench.plan.kills {
            let holdfast = bench.holdfast(3)?;
            let qos = if kill % 2 == 0 { 1 } else { 2 };
            let workload = Workload {
                rate_per_s: Some(1_000.0),
                duration: Duration::from_secs(10),
                kill: Some(Kill {
                    pid: holdfast.leader_pid()?,
                    after: Duration::from_secs(3),
                }),
                ..bench.durable("holdfast, kill -9 of a leader's node", &holdfast, qos)
            };
            let report = self.measure(bench, &workload)?;
            pauses_s.push(report.publisher_pause_ms.max(report.subscriber_pause_ms) / 1_000.0);
        }
        self.rows.push(Row::worst(
            "kill -9 of a leader's node at 1,000 msg/s: worst pause of a publisher or subscriber",
            "s",
            &pauses_s,
            Limits {
                must: 3.0,
                aim: 1.0,
            },
        ));
        Ok(())
    }

    fn more(&mut self, bench: &Bench<'_>) -> Result<(), LoadError> {
        let mosquitto = bench.mosquitto()?;
        let holdfast = bench.holdfast(3)?;
        for (who, brokers) in [("mosquitto", &mosquitto), ("holdfast", &holdfast)] {
            let at_rate = |workload: Workload, rate| Workload {
                name: format!("{}, {rate} msg/s", workload.name),
                rate_per_s: Some(rate),
                ..workload
            };
            self.measure(bench, &at_rate(bench.durable(who, brokers, 1), 1_000.0))?;
            self.measure(bench, &at_rate(bench.live(who, brokers, 1), 1_000.0))?;
            // Its publishers are slowed down to what the subscriber takes.
            let fan_in = Workload {
                name: format!("{who}, fan-in 50:1 live QoS 1"),
                publishers: 50,
                subscribers: 1,
                topics: 1,
                ..bench.live(who, brokers, 1)
            };
            self.measure(bench, &fan_in)?;
            let queue = Workload {
                name: format!("{who}, queues of offline sessions"),
                drain_max: Duration::from_secs(120),
                ..bench.durable(who, brokers, 1)
            };
            let queues = run_queue(&queue, 2_000)?;
            self.enter(bench, &queues.filling);
            self.enter(bench, &queues.draining);
        }
        Ok(())
    }

    fn measure(&mut self, bench: &Bench<'_>, workload: &Workload) -> Result<Report, LoadError> {
        bench.touch_memory()?;
        let report = run(workload)?;
        self.enter(bench, &report);
        // QoS 1 publishers send again after a failure.
        let may_repeat = workload.kill.is_some() && workload.qos == Qos::AtLeastOnce;
        let checked = &report.checked;
        let is_right = checked.lost == 0
            && checked.unacknowledged == 0
            && checked.refused == 0
            && checked.sessions_lost == 0
            && (may_repeat || checked.repeated == 0)
            && (workload.kill.is_some() || checked.is_clean());
        if !is_right {
            self.violations.push(format!("{}: {checked}", report.name));
        }
        Ok(report)
    }

    fn enter(&mut self, bench: &Bench<'_>, report: &Report) {
        (bench.say)(&report.to_string());
        self.runs.push(report.clone());
    }
}

/// How brokers are started and loaded.
struct Bench<'a> {
    plan: &'a SuitePlan,
    say: &'a dyn Fn(&str),
}

impl Bench<'_> {
    fn holdfast(&self, nodes: u16) -> Result<Brokers, LoadError> {
        Brokers::holdfast(&self.plan.binary, &self.plan.dir.join("holdfast"), nodes)
    }

    fn mosquitto(&self) -> Result<Brokers, LoadError> {
        Brokers::mosquitto(&self.plan.dir.join("mosquitto"))
    }

    /// Makes the host of a virtual machine back the memory that is free. Where it takes free memory
    /// back, the first touch of a page costs thirty times as much as any later one, and whoever
    /// writes files, not mosquitto, pays for it.
    fn touch_memory(&self) -> Result<(), LoadError> {
        let path = self.plan.dir.join("touch");
        let failed = || LoadError::io(path.to_string_lossy());
        let mut file = File::create(&path).map_err(failed())?;
        let chunk = vec![0; 1 << 20];
        for _ in 0..TOUCHED_MIB {
            file.write_all(&chunk).map_err(failed())?;
        }
        fs::remove_file(&path).map_err(failed())
    }

    fn workload(&self, name: &str, brokers: &Brokers) -> Workload {
        let endpoints = brokers.endpoints();
        // Subscriber i is on another node than publisher i.
        let mut others = endpoints.clone();
        others.rotate_left(1);
        Workload {
            version: self.plan.version,
            warm_up: self.plan.warm_up,
            duration: self.plan.duration,
            pids: brokers.pids(),
            admins: brokers.admins(),
            ..Workload::new(name, endpoints, others)
        }
    }

    fn durable(&self, who: &str, brokers: &Brokers, qos: u8) -> Workload {
        Workload {
            qos: Qos::try_from(qos).unwrap_or_default(),
            persistent: true,
            ..self.workload(&format!("{who}, durable QoS {qos}"), brokers)
        }
    }

    fn live(&self, who: &str, brokers: &Brokers, qos: u8) -> Workload {
        Workload {
            qos: Qos::try_from(qos).unwrap_or_default(),
            ..self.workload(&format!("{who}, live QoS {qos}"), brokers)
        }
    }

    fn fan_out(&self, who: &str, brokers: &Brokers) -> Workload {
        Workload {
            publishers: 1,
            subscribers: 100,
            topics: 1,
            ..self.workload(&format!("{who}, fan-out 1:100 live QoS 1"), brokers)
        }
    }
}

fn idle(bench: &Bench<'_>, brokers: &Brokers, subscribe: bool) -> Result<IdleReport, LoadError> {
    let (endpoints, pids) = (brokers.endpoints(), brokers.pids());
    let (Some(&endpoint), Some(&pid)) = (endpoints.first(), pids.first()) else {
        return Err(LoadError::Usage("no broker".to_owned()));
    };
    let plan = IdlePlan {
        version: bench.plan.version,
        endpoint,
        connections: 100,
        subscribe,
        pid,
    };
    run_idle(&plan)?;
    run_idle(&IdlePlan {
        connections: bench.plan.idle_connections,
        ..plan
    })
}

fn per_message(report: &Report) -> f64 {
    let broker = report.broker.as_ref();
    broker.map_or(f64::NAN, |broker| broker.cpu_us_per_message)
}

fn per_delivery(report: &Report) -> f64 {
    let broker = report.broker.as_ref();
    broker.map_or(f64::NAN, |broker| broker.cpu_us_per_delivery)
}
