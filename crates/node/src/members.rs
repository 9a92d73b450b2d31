//! Lives of nodes: beginning this node's, and what the shards' leaders owe about the others'.
//!
//! Shard 0's leader alone declares a life over. The leaders of the other shards copy what shard 0
//! says. `NodeDown` names one life and never touches a later one.

use std::sync::Arc;
use std::time::Duration;

use raft_store::{Answers, Command, Incarnation, NodeId, Response, ShardId};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::broker::{Broker, incarnation_of};
use crate::clock;
use crate::count;
use crate::fences;
use crate::health::Check;
use crate::life::{Life, LifeId};
use crate::waiter::CommandWaiter;

/// How often a leader looks at the other nodes.
const DUTY_PERIOD: Duration = Duration::from_millis(100);
/// Of a longer time between two looks only this much counts as silence of a peer.
const DUTY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Pause between attempts to begin a life.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// For how long a peer's word on whom it cannot reach counts.
const REPORT_FRESH: Duration = Duration::from_secs(1);
/// How long a host may take to refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// How far shard time may be ahead of the log while something waits for it. A new leader knows of
/// unseen time only what it saw itself, and adds ten seconds of that at most: below these, so that a
/// failover loses nothing, and not less, as each is an entry.
const TIME_LOGGED_EVERY: Duration = Duration::from_secs(5);
/// Due sessions that one tick proposes to expire.
const EXPIRIES_PER_TICK_MAX: usize = 1000;

/// Begins lives of this node, one after the other, for ever.
pub(crate) async fn live(broker: Arc<Broker>) {
    loop {
        let incarnation = begin(&broker).await;
        let id = LifeId {
            node: broker.node,
            incarnation,
        };
        tracing::info!(%incarnation, "a life of this node begins");
        let life = Life::begin(
            id,
            &broker.dispatch.routes,
            (broker.shards.count(), &broker.config.cluster.name),
            &broker.members,
            &broker.forwarder,
        );
        broker.lease.reset();
        broker.dispatch.set_life(Some(Arc::clone(&life)));
        life.begin_announcing();
        for (peer, incarnation) in broker.live_nodes() {
            life.peer_up(peer, incarnation);
        }
        life.ended
            .run_until_cancelled(catch_up(&broker, &life))
            .await;
        life.ended.cancelled().await;
        broker.lease.reset();
        life.tasks.close();
        life.tasks.wait().await;
        broker.dispatch.set_life(None);
    }
}

/// Gets an incarnation from shard 0, however long that takes.
async fn begin(broker: &Broker) -> Incarnation {
    let command = [Command::NodeUp { node: broker.node }];
    loop {
        match broker.propose_idempotent(ShardId::ZERO, &command).await {
            Ok(answers) => {
                if let Some(incarnation) = incarnation_of(&answers) {
                    return incarnation;
                }
            }
            Err(error) => {
                broker
                    .health
                    .fail(Check::CaughtUp, "waiting for a quorum of shard 0");
                tracing::debug!(%error, "no incarnation yet");
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Until this life has applied what was committed before it in every shard, knows the announcements
/// of every node not declared down, and is connected to each of them both ways: of two nodes that
/// cannot reach each other one must not serve.
async fn catch_up(broker: &Broker, life: &Life) {
    broker
        .health
        .fail(Check::CaughtUp, "catching up with the shards");
    let mut answers = Vec::new();
    for shard in life.shards() {
        let (sender, receiver) = oneshot::channel();
        life.propose(shard, &Command::Hello, CommandWaiter::Task(sender));
        answers.push(receiver);
    }
    for answer in answers {
        // The sender lives as long as the life.
        drop(answer.await);
    }
    repeat_declarations(broker, life);
    loop {
        let changed = broker.dispatch.lives_changed.notified();
        let unknown = broker.live_nodes().into_iter().find(|(peer, incarnation)| {
            *peer != broker.node
                && !(broker.dispatch.routes.knows(*peer, *incarnation)
                    && life.is_connected_to(*peer, *incarnation))
        });
        let Some((peer, _)) = unknown else { break };
        let reason =
            format!("waiting for node {peer}: its announcements, or a stream to or from it");
        broker.health.fail(Check::CaughtUp, &reason);
        // Looked at again in any case: the announcements may come through a third node.
        drop(timeout(RETRY_PAUSE, changed).await);
    }
    life.set_ready();
    broker.health.pass(Check::CaughtUp);
    tracing::info!(incarnation = %life.id.incarnation, "caught up");
}

/// Declarations that this process did not see being applied precede everything that this life
/// proposes for clients, as the others do (`Dispatch::node_down`).
fn repeat_declarations(broker: &Broker, life: &Life) {
    let Some(zero) = broker.shards.shard(ShardId::ZERO) else {
        return;
    };
    let lives: Vec<_> = zero.with_machine(|machine| machine.lives().collect());
    for (node, newest, down) in lives {
        // Where the newest life is not over, those before it are.
        let incarnation = if down {
            newest
        } else {
            Incarnation(newest.0.saturating_sub(1))
        };
        for shard in life.shards().filter(|shard| *shard != ShardId::ZERO) {
            let command = Command::NodeDown { node, incarnation };
            life.propose(shard, &command, CommandWaiter::None);
        }
    }
}

/// What this node owes as a leader, for ever.
pub(crate) async fn duties(broker: Arc<Broker>) {
    let mut tick = interval(DUTY_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut led_zero = false;
    let mut looked = clock::now();
    loop {
        tick.tick().await;
        // A pause of this node itself is not held against the peers.
        let waited = clock::now().saturating_sub(looked).min(DUTY_PAUSE_MAX);
        looked = clock::now();
        let leads_zero = broker.leads(ShardId::ZERO);
        if leads_zero && !led_zero {
            broker.silence.reset();
        }
        led_zero = leads_zero;
        if leads_zero {
            declare_silent_nodes_down(&broker, waited).await;
            declare_cut_off_nodes_down(&broker).await;
        }
        fences::lift(&broker).await;
        for shard in (0..broker.shards.count()).map(ShardId) {
            if broker.leads(shard) {
                copy_declarations(&broker, shard).await;
                expire_sessions(&broker, shard).await;
                log_time(&broker, shard).await;
            }
        }
    }
}

async fn declare_silent_nodes_down(broker: &Broker, waited: Duration) {
    let live = broker.live_nodes();
    for (peer, address) in broker.peers() {
        let Some(incarnation) = live.get(&peer).copied() else {
            continue;
        };
        let silent = broker.silence.tick(peer, waited);
        let dead = silent >= broker.config.cluster.node_down_after
            || (silent >= 2 * broker.config.cluster.heartbeat && refuses(address).await);
        if dead {
            declare_down(broker, peer, incarnation, "silent").await;
        }
    }
}

/// Of two live nodes that cannot reach each other the one with the higher id goes: what one of them
/// acknowledges on the live plane must reach the other. Its next life waits until they can.
async fn declare_cut_off_nodes_down(broker: &Broker) {
    let live = broker.live_nodes();
    for (lower, higher) in broker.reports.cut_pairs(REPORT_FRESH) {
        let (true, Some(incarnation)) = (live.contains_key(&lower), live.get(&higher).copied())
        else {
            continue;
        };
        // A life that has just begun was not reachable before; that is no cut.
        let patience = broker.config.cluster.node_down_after;
        let settled = [lower, higher]
            .iter()
            .all(|node| broker.dispatch.up_for(*node) > patience);
        // Both are alive: this node has heard them all the while. Whom it has not is judged by its
        // silence; what was said of it meanwhile is not held against the other.
        let alive = |node: NodeId| broker.silence.audible_for(node) > patience;
        if settled && alive(lower) && alive(higher) {
            declare_down(broker, higher, incarnation, "cut off from another node").await;
        }
    }
}

async fn declare_down(broker: &Broker, node: NodeId, incarnation: Incarnation, why: &str) {
    tracing::warn!(peer = %node, %incarnation, why, "declaring node down");
    let command = [Command::NodeDown { node, incarnation }];
    if let Err(error) = broker.propose_idempotent(ShardId::ZERO, &command).await {
        tracing::debug!(%error, "node down not written, trying again");
    }
}

/// The peer's host refuses connections to its port: that process is dead.
async fn refuses(address: &str) -> bool {
    match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Brings shard 0's declarations into another shard.
async fn copy_declarations(broker: &Broker, shard: ShardId) {
    let (Some(zero), Some(local)) = (
        broker.shards.shard(ShardId::ZERO),
        broker.shards.shard(shard),
    ) else {
        return;
    };
    if shard == ShardId::ZERO {
        return;
    }
    let declared: Vec<(NodeId, Incarnation, bool)> =
        zero.with_machine(|machine| machine.lives().collect());
    let known: Vec<(NodeId, Incarnation, bool)> =
        local.with_machine(|machine| machine.lives().collect());
    let is_new = |node: NodeId, incarnation: Incarnation| {
        !known.iter().any(|(known_node, newest, down)| {
            *known_node == node && (*newest > incarnation || (*newest == incarnation && *down))
        })
    };
    let commands: Vec<Command> = declared
        .into_iter()
        .filter(|(node, incarnation, down)| *down && is_new(*node, *incarnation))
        .map(|(node, incarnation, _)| Command::NodeDown { node, incarnation })
        .collect();
    propose_as_leader(broker, shard, &commands).await;
}

/// Proposes the end of sessions whose deadline has passed by the leader's clock.
async fn expire_sessions(broker: &Broker, shard: ShardId) {
    let Some(local) = broker.shards.shard(shard) else {
        return;
    };
    let now = local.leader_time();
    let due = local.with_machine(|machine| machine.due(now, EXPIRIES_PER_TICK_MAX));
    let commands: Vec<Command> = due
        .into_iter()
        .map(|due| Command::ExpireSession {
            client_id: due.client_id,
            epoch: due.epoch,
        })
        .collect();
    let answers = propose_as_leader(broker, shard, &commands).await;
    let expired = answers.iter().filter(|answer| **answer == Response::Done);
    expired.for_each(|_| count::session_expired());
}

/// Shard time is what the entries say. Where there was none for a while an empty one says how late it
/// is, if anything waits for that; a shard without deadlines stays silent. So does a node without its
/// lease: without a quorum each attempt would leave an entry in the log.
async fn log_time(broker: &Broker, shard: ShardId) {
    let Some(local) = broker.shards.shard(shard) else {
        return;
    };
    let now = local.leader_time();
    let is_due = local.with_machine(|machine| {
        now >= machine.time().plus(TIME_LOGGED_EVERY) && machine.waits_for_time()
    });
    if is_due && broker.serving().is_some() {
        propose_as_leader(broker, shard, &[Command::Barrier]).await;
    }
}

async fn propose_as_leader(broker: &Broker, shard: ShardId, commands: &[Command]) -> Answers {
    if commands.is_empty() {
        return Answers::default();
    }
    let written = broker.propose_idempotent(shard, commands).await;
    written.unwrap_or_else(|error| {
        tracing::debug!(%shard, %error, "a leader's command was not written, trying again");
        Answers::default()
    })
}
