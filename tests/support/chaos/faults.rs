//! One fault after another, each while handshakes of the node's clients stand open.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::containers::Containers;
use super::{Control, Stage, World};
use crate::scale::Random;
use crate::wait::let_pass;

/// How long answers are kept back at most, before the fault.
pub(super) const HELD_FOR: Duration = Duration::from_millis(1_500);
/// So many open handshakes are enough.
const OPEN_MIN: u32 = 6;
/// For clients to come back to their own nodes.
const HOME_WITHIN: Duration = Duration::from_secs(1);
/// Until a node is itself again.
const HEALTHY_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// kill -9, and started again.
    Kill,
    /// It stands still, with its connections open.
    Pause,
    /// It loses its network.
    Disconnect,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Kill, Kind::Pause, Kind::Disconnect];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Disconnect => "disconnect",
        })
    }
}

/// Who makes the faults.
pub(super) struct Nemesis<'a> {
    pub(super) containers: &'a Containers,
    pub(super) world: &'a World,
    pub(super) control: &'a watch::Sender<Control>,
    pub(super) random: Random,
}

impl Nemesis<'_> {
    /// Until `length` is over; everything runs when it returns without an error.
    pub(super) async fn run(
        &mut self,
        length: Duration,
        progress: &mut impl FnMut(String),
    ) -> Result<(), String> {
        let until = Instant::now() + length;
        let_pass(HOME_WITHIN).await;
        for kind in KINDS.into_iter().cycle() {
            if Instant::now() >= until {
                break;
            }
            self.control.send_modify(|control| control.homecoming += 1);
            let calm = self.around(2_000);
            let_pass(HOME_WITHIN + calm).await;
            let nodes = self.containers.len() as u64;
            let node = usize::try_from(self.random.below(nodes)).unwrap_or(0);
            let open = self.hold(node).await;
            progress(format!(
                "{kind:10} {}, {open} handshakes open",
                self.containers.service(node)
            ));
            self.world.ledger.fault(kind, open);
            self.strike(kind, node).await?;
            self.containers.wait_healthy(HEALTHY_WITHIN).await?;
        }
        Ok(())
    }

    /// Lets handshakes of the node's clients stand open; how many do.
    async fn hold(&mut self, node: usize) -> u32 {
        let stage = *self.random.choose(&[Stage::Early, Stage::Late]);
        self.control
            .send_modify(|control| control.hold = Some((node, stage)));
        let deadline = Instant::now() + HELD_FOR;
        while self.world.held_at(node) < OPEN_MIN && Instant::now() < deadline {
            let_pass(LOOK_EVERY).await;
        }
        self.world.held_at(node)
    }

    async fn strike(&mut self, kind: Kind, node: usize) -> Result<(), String> {
        let containers = self.containers;
        match kind {
            Kind::Kill => containers.kill(node).await?,
            Kind::Pause => containers.pause(node).await?,
            Kind::Disconnect => containers.disconnect(node).await?,
        }
        // What was kept back goes out now, to a node that is not there.
        self.control.send_modify(|control| control.hold = None);
        // Shorter and longer than the time after which a silent node is declared dead.
        let more = self.around(8_000);
        let_pass(Duration::from_secs(1) + more).await;
        match kind {
            Kind::Kill => containers.start(node).await,
            Kind::Pause => containers.unpause(node).await,
            Kind::Disconnect => containers.connect(node).await,
        }
    }

    /// Up to so many milliseconds.
    fn around(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(self.random.below(most_ms))
    }
}
