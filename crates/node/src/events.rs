//! What happens in the cluster that an operator may want to see at once, as this node sees it.
//!
//! Nothing is kept: who does not listen misses it, and who listens too slowly is told how much it
//! missed. A process is one node, so there is one stream.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use raft_store::{Incarnation, NodeId, ShardId};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::interval;

use crate::broker::Broker;
use crate::calendar::rfc_3339;

/// Events that a slow listener may be behind.
const BEHIND_MAX: usize = 256;
/// How often the node looks for what changed.
const LOOK: Duration = Duration::from_millis(200);

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// What kind, in snake case.
    pub(crate) kind: &'static str,
    /// `at` and what the kind has.
    pub(crate) fields: Value,
}

static STREAM: LazyLock<broadcast::Sender<Event>> =
    LazyLock::new(|| broadcast::Sender::new(BEHIND_MAX));

/// Everything from now on.
pub(crate) fn listen() -> broadcast::Receiver<Event> {
    STREAM.subscribe()
}

/// Tells those who listen, if anybody does.
pub(crate) fn note(kind: &'static str, fields: impl FnOnce() -> Value) {
    if STREAM.receiver_count() == 0 {
        return;
    }
    let mut fields = fields();
    if let Value::Object(fields) = &mut fields {
        fields.insert("at".to_owned(), json!(rfc_3339(SystemTime::now())));
    }
    // An error means that the last listener has just gone.
    drop(STREAM.send(Event { kind, fields }));
}

/// What was last seen of the cluster.
#[derive(Debug)]
struct Seen {
    leaders: BTreeMap<ShardId, (Option<NodeId>, u64)>,
    live: BTreeMap<NodeId, Incarnation>,
    has_lease: bool,
    drain: &'static str,
    checks: BTreeMap<&'static str, (bool, String)>,
}

impl Seen {
    fn now(broker: &Broker) -> Self {
        let shards = broker.shards.iter();
        let reports = broker.health.reports().into_iter();
        Self {
            leaders: shards
                .map(|shard| (shard.id(), (shard.leader(), shard.term())))
                .collect(),
            live: broker.live_nodes(),
            has_lease: broker.lease.is_held(),
            drain: broker.drain.stage().name(),
            checks: reports
                .map(|report| (report.name, (report.ok, report.reason)))
                .collect(),
        }
    }

    /// Tells what is new since `last`.
    fn tell(&self, last: &Self) {
        for (shard, (leader, term)) in &self.leaders {
            if last.leaders.get(shard).map(|(leader, _)| *leader) != Some(*leader) {
                note(
                    "leader_changed",
                    || json!({ "shard": shard.0, "leader": leader.map(|leader| leader.0), "term": term }),
                );
            }
        }
        for (node, life) in &self.live {
            if last.live.get(node) != Some(life) {
                note("node_up", || json!({ "node": node.0, "life": life.0 }));
            }
        }
        for node in last
            .live
            .keys()
            .filter(|node| !self.live.contains_key(node))
        {
            note("node_down", || json!({ "node": node.0 }));
        }
        if self.has_lease != last.has_lease {
            let has_lease = self.has_lease;
            note("quorum_changed", || json!({ "has_quorum": has_lease }));
        }
        if self.drain != last.drain {
            let stage = self.drain;
            note("drain_changed", || json!({ "stage": stage }));
        }
        for (name, (ok, reason)) in &self.checks {
            if last
                .checks
                .get(name)
                .is_some_and(|(was_ok, _)| was_ok != ok)
            {
                note(
                    "check_changed",
                    || json!({ "check": name, "ok": ok, "reason": reason }),
                );
            }
        }
    }
}

/// Looks for changes, for ever.
pub(crate) async fn watch(broker: Arc<Broker>) {
    let mut look = interval(LOOK);
    let mut last = Seen::now(&broker);
    loop {
        look.tick().await;
        let now = Seen::now(&broker);
        now.tell(&last);
        last = now;
    }
}
