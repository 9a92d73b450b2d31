//! Gauges that nobody sets when something happens: what sessions, subscriptions and retained messages
//! there are, read off this node's replicas now and then.
//!
//! A node speaks for the shards that it leads, so that the sum over all nodes is that of the cluster.
//! Sessions are read page by page: no shard waits, however many there are, and a scrape costs nothing.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use raft_store::{SessionTally, Shard};
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::Broker;
use crate::metrics::{
    CLUSTER_MEMBERS, INFLIGHT_MESSAGES, QOS2_PENDING, QUEUED_BYTES, QUEUED_MESSAGES,
    RETAINED_BYTES, RETAINED_MESSAGES, SESSIONS, SHARED_GROUP_MEMBERS, SUBSCRIPTIONS,
};
use crate::pending;

/// How often they are read.
const PERIOD: Duration = Duration::from_secs(5);
/// Sessions for which a shard is held up at once: some ten microseconds.
const PAGE: usize = 500;

/// What the shards that this node leads hold.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    sessions: usize,
    connected: usize,
    exact: usize,
    wildcard: usize,
    shared: usize,
    retained: usize,
    retained_bytes: u64,
    tally: SessionTally,
}

/// Keeps them up to date for as long as the node runs.
pub(crate) async fn keep(broker: Arc<Broker>) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut totals = Totals::default();
        for shard in broker.shards.iter().filter(|shard| shard.is_leader()) {
            add(&mut totals, shard).await;
        }
        if let Some(life) = broker.dispatch.life() {
            let (exact, wildcard, shared) = life.registry.transient_subscriptions();
            totals.exact = totals.exact.saturating_add(exact);
            totals.wildcard = totals.wildcard.saturating_add(wildcard);
            totals.shared = totals.shared.saturating_add(shared);
        }
        tell(&totals);
        gauge!(CLUSTER_MEMBERS, "state" => "voter").set(real(broker.members.len()));
        gauge!(CLUSTER_MEMBERS, "state" => "learner").set(0.0);
    }
}

async fn add(totals: &mut Totals, shard: &Shard) {
    shard.with_machine(|machine| {
        let (exact, wildcard, shared) = machine.subscription_kinds();
        totals.sessions = totals.sessions.saturating_add(machine.session_count());
        totals.connected = totals.connected.saturating_add(machine.connected_count());
        totals.exact = totals.exact.saturating_add(exact);
        totals.wildcard = totals.wildcard.saturating_add(wildcard);
        totals.shared = totals.shared.saturating_add(shared);
        totals.retained = totals.retained.saturating_add(machine.retained_count());
        totals.retained_bytes = totals
            .retained_bytes
            .saturating_add(machine.retained_bytes());
    });
    let mut after = None;
    loop {
        let (tally, last) = shard.with_machine(|machine| machine.tally(after.as_ref(), PAGE));
        totals.tally = totals.tally.plus(tally);
        if last.is_none() {
            return;
        }
        after = last;
        tokio::task::yield_now().await;
    }
}

fn tell(totals: &Totals) {
    let disconnected = totals.sessions.saturating_sub(totals.connected);
    gauge!(SESSIONS, "state" => "connected").set(real(totals.connected));
    gauge!(SESSIONS, "state" => "disconnected").set(real(disconnected));
    gauge!(SUBSCRIPTIONS, "kind" => "exact").set(real(totals.exact));
    gauge!(SUBSCRIPTIONS, "kind" => "wildcard").set(real(totals.wildcard));
    gauge!(SUBSCRIPTIONS, "kind" => "shared").set(real(totals.shared));
    gauge!(SHARED_GROUP_MEMBERS).set(real(totals.shared));
    gauge!(RETAINED_MESSAGES).set(real(totals.retained));
    let tally = &totals.tally;
    for (gauge, value) in [
        (gauge!(RETAINED_BYTES), totals.retained_bytes),
        (gauge!(QUEUED_MESSAGES), tally.queued_messages),
        (gauge!(QUEUED_BYTES), tally.queued_bytes),
        (
            gauge!(INFLIGHT_MESSAGES, "direction" => "out"),
            tally.inflight,
        ),
        (
            gauge!(QOS2_PENDING, "state" => "awaiting_pubrel"),
            tally.awaiting_pubrel,
        ),
        (
            gauge!(QOS2_PENDING, "state" => "awaiting_pubcomp"),
            tally.awaiting_pubcomp,
        ),
    ] {
        gauge.set(real_u64(value));
    }
    gauge!(INFLIGHT_MESSAGES, "direction" => "in").set(real(pending::under_way()));
}

fn real(count: usize) -> f64 {
    real_u64(u64::try_from(count).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "gauges; exact below 2^53")]
fn real_u64(value: u64) -> f64 {
    value as f64
}
