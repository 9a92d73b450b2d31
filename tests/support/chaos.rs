//! `make chaos`: clients that publish and subscribe at QoS 1 and 2 through the published ports of a
//! compose cluster, while its containers are killed, paused and cut off in the middle of handshakes;
//! then a verdict. The cluster may be anybody's: nothing here knows how the broker is built.
//!
//! | module | what |
//! |---|---|
//! | `containers` | the nodes as containers, found by compose's labels; what is done to them |
//! | `faults` | one fault after another |
//! | `link` | a connection; how a client comes to one |
//! | `publisher`, `subscriber` | the clients, each with its half of the session |
//! | `ledger` | what was promised and what arrived |
//! | `verdict` | both compared, per kind of fault; as a table and as JSON |

mod containers;
mod faults;
mod ledger;
mod link;
mod publisher;
mod subscriber;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use codec::{ProtocolVersion, Qos};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::containers::Containers;
use self::faults::Nemesis;
use self::ledger::Ledger;
use self::link::Place;
use self::publisher::Publisher;
use self::subscriber::Subscriber;
pub use self::verdict::{Row, Verdict};
use crate::scale::Random;
use crate::wait::let_pass;

/// Of each version and QoS.
const PUBLISHERS_EACH: usize = 2;
/// Of each version.
const SUBSCRIBERS_EACH: usize = 2;
/// Until every client has its first connection and subscription.
const BEGUN_WITHIN: Duration = Duration::from_secs(30);
/// Without progress for so long after the last fault, what is missing is lost.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

/// What to torment, and for how long.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The compose project; needed when there are several with nodes in them.
    pub project: Option<String>,
    /// How long faults are made.
    pub length: Duration,
    /// For the random choices.
    pub seed: u64,
    /// User name and password of all clients.
    pub credentials: Option<(String, String)>,
}

/// What the clients are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Publish.
    Run,
    /// Finish every handshake.
    Drain,
    /// Go, and leave no session behind.
    Stop,
}

/// Where a handshake is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Publishers have PUBREC and keep PUBREL; subscribers have PUBLISH and keep PUBACK or PUBREC.
    Early,
    /// Subscribers have PUBREL and keep PUBCOMP; publishers as before.
    Late,
}

/// What all clients are told.
#[derive(Debug, Clone, Copy)]
struct Control {
    phase: Phase,
    /// Clients of this node keep answers back from now on.
    hold: Option<(usize, Stage)>,
    /// When it changes, each client goes back to its own node.
    homecoming: u32,
}

/// What all clients share.
#[derive(Debug, Clone)]
struct World {
    addresses: Arc<Vec<SocketAddr>>,
    credentials: Option<(String, String)>,
    topics: String,
    control: watch::Receiver<Control>,
    /// Per node: answers that its clients keep back.
    held: Arc<Vec<AtomicU32>>,
    ledger: Ledger,
}

impl World {
    fn held_at(&self, node: usize) -> u32 {
        self.held
            .get(node)
            .map_or(0, |held| held.load(Ordering::Relaxed))
    }
}

/// Finds the containers, torments them, and judges.
///
/// # Errors
/// When there is no such cluster, or docker can't be run: in words for the user.
pub async fn run(options: &Options, mut progress: impl FnMut(String)) -> Result<Verdict, String> {
    let containers = Containers::find(options.project.as_deref()).await?;
    progress(format!("{containers}"));
    containers.wait_healthy(BEGUN_WITHIN).await?;
    let mut random = Random::new(options.seed);
    let first = Control {
        phase: Phase::Run,
        hold: None,
        homecoming: 0,
    };
    let (control, watched) = watch::channel(first);
    let world = World {
        addresses: Arc::new(containers.addresses()),
        credentials: options.credentials.clone(),
        topics: format!("chaos/{:08x}", random.next_u64() >> 32),
        control: watched,
        held: Arc::new(
            containers
                .addresses()
                .iter()
                .map(|_| AtomicU32::new(0))
                .collect(),
        ),
        ledger: Ledger::new(),
    };
    let mut tasks = JoinSet::new();
    start_clients(&world, &mut tasks).await?;
    let mut nemesis = Nemesis {
        containers: &containers,
        world: &world,
        control: &control,
        random,
    };
    let outcome = nemesis.run(options.length, &mut progress).await;
    progress("everything runs: waiting for what is under way".to_owned());
    control.send_modify(|control| control.phase = Phase::Drain);
    drained(&world.ledger).await;
    control.send_modify(|control| control.phase = Phase::Stop);
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| format!("a client of ours failed: {error}"))?;
    }
    outcome?;
    Ok(world.ledger.verdict())
}

/// Subscribers first: what is published before them is not for them.
async fn start_clients(world: &World, tasks: &mut JoinSet<()>) -> Result<(), String> {
    let mut homes = (0..world.addresses.len()).cycle();
    let mut place = |version: ProtocolVersion, kind: &str, number: usize| {
        let name = format!("{}-{}-{kind}{number}", world.topics, tag(version));
        Place::new(name, version, homes.next().unwrap_or(0))
    };
    for version in VERSIONS {
        for number in 0..SUBSCRIBERS_EACH {
            let index = world.ledger.add_subscriber();
            let place = place(version, "sub", number);
            tasks.spawn(Subscriber::new(world.clone(), index, place).run());
        }
    }
    let begun = tokio::time::timeout(BEGUN_WITHIN, async {
        while !world.ledger.all_subscribed() {
            let_pass(LOOK_EVERY).await;
        }
    });
    begun.await.map_err(|_elapsed| {
        "no client could connect and subscribe: see --username, or the nodes' logs".to_owned()
    })?;
    for version in VERSIONS {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for number in 0..PUBLISHERS_EACH {
                let index = world.ledger.add_publisher(qos);
                let place = place(version, level(qos), number);
                tasks.spawn(Publisher::new(world.clone(), index, place, qos).run());
            }
        }
    }
    Ok(())
}

/// Waits until everything promised has arrived, or nothing comes any more.
async fn drained(ledger: &Ledger) {
    let mut progress = (ledger.events(), tokio::time::Instant::now());
    while !ledger.is_drained() && progress.1.elapsed() < PATIENCE {
        let_pass(LOOK_EVERY).await;
        let events = ledger.events();
        if events != progress.0 {
            progress = (events, tokio::time::Instant::now());
        }
    }
}

fn tag(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 | ProtocolVersion::V311 => "v3",
        ProtocolVersion::V5 => "v5",
    }
}

fn level(qos: Qos) -> &'static str {
    match qos {
        Qos::AtMostOnce => "q0",
        Qos::AtLeastOnce => "q1",
        Qos::ExactlyOnce => "q2",
    }
}
