//! One round: clients and nemesis for a while, then the drain, then the verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::checker::{Settings, Verdict, check};
use testkit::recording::{Record, Recording};
use testkit::{Cluster, let_pass, report};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::actor::{Actor, Phase, World};
use crate::faults::Nemesis;
use crate::features::FEATURES;
use crate::mortal::Mortals;
use crate::profile::{Topics, profiles};
use crate::wire::Address;

/// How long everything may take to arrive after the last fault.
const DRAINED_WITHIN: Duration = Duration::from_secs(90);
/// So long nothing is under way before the verdict: what must not come, would.
const QUIET: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Clients that only wait for a death to happen.
const MORTALS: u32 = 3;

/// Runs one round and fails with the violations, if any.
pub(crate) async fn round(cluster: &mut Cluster, number: u32, length: Duration) {
    let recording = Recording::new();
    let (phase, watched) = watch::channel(Phase::Run);
    let world = World {
        nodes: cluster
            .ids()
            .into_iter()
            .map(|node| Address {
                node,
                mqtt: cluster.mqtt(node),
            })
            .collect(),
        recording: recording.clone(),
        topics: Arc::new(Topics::new(number)),
        features: FEATURES,
        phase: watched,
    };
    let mut tasks = JoinSet::new();
    let idle = start_clients(cluster, &world, number, &mut tasks);
    let mut nemesis = Nemesis {
        cluster: &mut *cluster,
        recording: recording.clone(),
        features: FEATURES,
    };
    nemesis.run(Instant::now() + length).await;
    nemesis.heal().await;
    recording.note("drain");
    phase.send_replace(Phase::Drain);
    let (records, verdict) = drained(&recording, &idle, &mut tasks).await;
    phase.send_replace(Phase::Stop);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no client fails");
    }
    report(&format!("nemesis round {number}: {}", verdict.counts));
    judge(cluster, number, &records, &verdict, length);
}

fn start_clients(
    cluster: &mut Cluster,
    world: &World,
    number: u32,
    tasks: &mut JoinSet<()>,
) -> Vec<(String, Arc<AtomicBool>)> {
    let mut idle = Vec::new();
    for profile in profiles(&world.topics, number, FEATURES) {
        let is_idle = Arc::new(AtomicBool::new(false));
        idle.push((profile.name.clone(), Arc::clone(&is_idle)));
        let seed = cluster.random().next_u64();
        tasks.spawn(Actor::new(world.clone(), profile, seed, is_idle).run());
    }
    if FEATURES.wills {
        for mortal in 0..MORTALS {
            let seed = cluster.random().next_u64();
            let prefix = format!("mortal{mortal}-r{number}");
            tasks.spawn(Mortals::new(world.clone(), prefix, seed).run());
        }
    }
    idle
}

/// Waits until nothing is under way and nothing is missing any more, or patience is over.
async fn drained(
    recording: &Recording,
    idle: &[(String, Arc<AtomicBool>)],
    tasks: &mut JoinSet<()>,
) -> (Vec<Record>, Verdict) {
    let deadline = Instant::now() + DRAINED_WITHIN;
    loop {
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET && Instant::now() < deadline {
            let_pass(LOOK_EVERY).await;
            if !idle.iter().all(|(_, idle)| idle.load(Ordering::Relaxed)) {
                quiet_since = Instant::now();
            }
            while let Some(ended) = tasks.try_join_next() {
                ended.expect("no client fails");
            }
        }
        let busy = idle
            .iter()
            .filter(|(_, idle)| !idle.load(Ordering::Relaxed));
        let busy: Vec<&str> = busy.map(|(name, _)| name.as_str()).collect();
        recording.note(format!("drained, but for {busy:?}"));
        let records = recording.snapshot();
        let verdict = check(&records, &Settings::drained());
        let may_wait = verdict.is_only_late() && Instant::now() < deadline;
        if verdict.violations.is_empty() || !may_wait {
            return (records, verdict);
        }
    }
}

fn judge(
    cluster: &mut Cluster,
    number: u32,
    records: &[Record],
    verdict: &Verdict,
    length: Duration,
) {
    let vacuous = verdict.counts.vacuous(length);
    let seed = cluster.random().seed();
    if !verdict.violations.is_empty() {
        let kept = std::env::temp_dir().join(format!("holdfast-nemesis-{seed}-round{number}.txt"));
        let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
        let violations = verdict.render(records);
        let text = format!("{}\n\n{violations}", lines.join("\n"));
        std::fs::write(&kept, text).expect("the temporary folder is writable");
        panic!(
            "round {number} of seed {seed} breaks {} rules or more:\n{violations}\nall packets: {}",
            verdict.violations.len(),
            kept.display()
        );
    }
    assert!(vacuous.is_empty(), "the run proves too little: {vacuous:?}");
}
