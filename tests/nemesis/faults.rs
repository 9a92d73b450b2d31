//! The nemesis: one fault after another, at random; in the end everything runs.

use std::time::Duration;

use testkit::recording::{Fault, Recording};
use testkit::{Cluster, NodeId, let_pass};
use tokio::time::Instant;

use crate::features::Features;

/// What it does to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// One node dies and comes back.
    Kill,
    /// Two die: no quorum for a while.
    KillTwo,
    /// All die.
    KillAll,
    /// One node stands still.
    Stop,
    /// One stands still while another dies.
    StopAndKill,
    /// One after another is restarted, each as soon as the one before is ready.
    Roll,
    /// One node is asked to end, and comes back.
    Terminate,
    /// One node can't reach another.
    Cut,
}

/// In proportion.
const PLANS: [Plan; 18] = [
    Plan::Kill,
    Plan::Kill,
    Plan::Kill,
    Plan::Kill,
    Plan::Kill,
    Plan::KillTwo,
    Plan::KillTwo,
    Plan::KillAll,
    Plan::Stop,
    Plan::Stop,
    Plan::Stop,
    Plan::StopAndKill,
    Plan::Roll,
    Plan::Terminate,
    Plan::Terminate,
    Plan::Cut,
    Plan::Cut,
    Plan::Cut,
];

pub(crate) struct Nemesis<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) recording: Recording,
    pub(crate) features: Features,
}

impl Nemesis<'_> {
    /// One fault after another until `until`.
    pub(crate) async fn run(&mut self, until: Instant) {
        self.calm(2_000).await;
        while Instant::now() < until {
            let plan = *self.cluster.random().choose(&PLANS);
            if plan == Plan::Cut && !self.features.cuts {
                continue;
            }
            self.recording.note(format!("nemesis: {plan:?}"));
            self.carry_out(plan).await;
            // Sometimes the next fault comes before the nodes have recovered from this one.
            if self.cluster.random().below(100) < 70 {
                self.ready().await;
                self.calm(4_000).await;
            } else {
                self.calm(1_500).await;
            }
        }
    }

    /// Everything runs and is ready.
    pub(crate) async fn heal(&mut self) {
        for id in self.cluster.ids() {
            if !self.cluster.is_started(id) {
                self.restart(id);
            }
        }
        self.ready().await;
    }

    async fn carry_out(&mut self, plan: Plan) {
        let mut ids = self.cluster.ids();
        self.shuffle(&mut ids);
        let [one, other, _] = ids[..] else {
            panic!("three nodes")
        };
        match plan {
            Plan::Kill => {
                self.kill(one);
                self.calm(3_000).await;
                self.restart(one);
            }
            Plan::KillTwo => {
                self.kill(one);
                self.calm(500).await;
                self.kill(other);
                self.calm(2_000).await;
                self.restart(other);
                self.calm(500).await;
                self.restart(one);
            }
            Plan::KillAll => {
                for id in &ids {
                    self.recording.fault(Fault::Killed(*id));
                }
                self.cluster.kill_all();
                self.calm(500).await;
                for id in ids {
                    self.restart(id);
                }
            }
            Plan::Stop => {
                self.stop(one).await;
                self.calm(7_000).await;
                self.wake(one);
            }
            Plan::StopAndKill => {
                self.stop(one).await;
                self.calm(1_000).await;
                self.kill(other);
                self.calm(2_000).await;
                self.wake(one);
                self.calm(1_000).await;
                self.restart(other);
            }
            Plan::Roll => {
                for id in ids {
                    self.kill(id);
                    self.restart(id);
                    self.ready().await;
                }
            }
            Plan::Terminate => {
                self.recording.fault(Fault::Terminated(one));
                self.cluster.terminate_and_wait(one).await;
                self.calm(1_000).await;
                self.restart(one);
            }
            Plan::Cut => self.cut(one, other).await,
        }
    }

    /// Shorter and longer than a node that is silent is waited for.
    async fn cut(&mut self, from: NodeId, to: NodeId) {
        self.recording.fault(Fault::Cut(from, to));
        match self.cluster.random().below(3) {
            0 => self.cluster.cut(from, to),
            1 => self.cluster.stall(from, to),
            _ => {
                self.cluster.stall(from, to);
                self.cluster.stall(to, from);
            }
        }
        self.calm(9_000).await;
        self.cluster.heal();
        self.recording.fault(Fault::Healed);
    }

    fn kill(&mut self, id: NodeId) {
        self.recording.fault(Fault::Killed(id));
        self.cluster.kill(id);
    }

    fn restart(&mut self, id: NodeId) {
        self.cluster.restart(id);
        self.recording.fault(Fault::Restarted(id));
    }

    async fn stop(&mut self, id: NodeId) {
        self.recording.fault(Fault::Stopped(id));
        self.cluster.suspend(id).await;
    }

    fn wake(&mut self, id: NodeId) {
        self.cluster.wake(id);
        self.recording.fault(Fault::Woken(id));
    }

    async fn ready(&mut self) {
        for id in self.cluster.running() {
            self.cluster.wait_node_ready(id).await;
            self.recording.fault(Fault::Ready(id));
        }
    }

    /// Lets up to so many milliseconds pass.
    async fn calm(&mut self, most_ms: u64) {
        let ms = self.cluster.random().below(most_ms);
        let_pass(Duration::from_millis(ms)).await;
    }

    fn shuffle(&mut self, ids: &mut [NodeId]) {
        for index in (1..ids.len()).rev() {
            let bound = u64::try_from(index + 1).expect("a few");
            let other = usize::try_from(self.cluster.random().below(bound)).expect("a few");
            ids.swap(index, other);
        }
    }
}
