//! What a node says of itself, as JSON: the one form in which nodes tell each other and the admin API
//! tells people, so that a newer node's further members get through an older one.

use std::time::{Duration, SystemTime};

use raft_store::ShardStatus;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::calendar::rfc_3339;
use crate::config::Config;
use crate::{clock, memory, metrics, statistics, version};

/// This node now.
pub(crate) fn of_this_node(broker: &Broker) -> Value {
    let uptime = clock::now().saturating_sub(broker.started);
    let checks: Vec<Value> = broker
        .health
        .reports()
        .into_iter()
        .map(|report| {
            json!({
                "name": report.name,
                "ok": report.ok,
                "since": rfc_3339(report.since),
                "reason": report.reason,
            })
        })
        .collect();
    let shards: Vec<Value> = broker
        .shards
        .iter()
        .map(|shard| of_shard(&shard.status()))
        .collect();
    let life = broker.dispatch.life();
    let counted = statistics::of_this_node(broker);
    json!({
        "id": broker.node.0,
        "name": broker.config.node.name,
        "address": broker.members.get(&broker.node),
        "version": version::VERSION,
        "revision": version::REVISION,
        "uptime_s": uptime.as_secs(),
        "life": life.map(|life| life.id.incarnation.0),
        "ready": broker.health.is_ready(),
        "has_lease": broker.lease.is_held(),
        "drain": broker.drain.stage().name(),
        "quorum_critical": broker.quorum_critical(),
        "checks": checks,
        "shards": shards,
        "connections": counted.connections,
        "packets_received": counted.packets_received,
        "packets_sent": counted.packets_sent,
        "bytes_received": counted.bytes_received,
        "bytes_sent": counted.bytes_sent,
        "messages_dropped": counted.messages_dropped,
        "memory": {
            "used_bytes": metrics::resident_bytes(),
            "available_bytes": memory::available_bytes(),
        },
        "disk": disk(&broker.config),
        "certificates": certificates(broker),
    })
}

/// Those in use. `expires_in_s` is below 0 once one has expired.
fn certificates(broker: &Broker) -> Vec<Value> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let certificates = broker.tls.expiries();
    certificates
        .map(|(listener, expires)| {
            let since = Duration::from_secs(u64::try_from(expires).unwrap_or(0));
            json!({
                "listener": listener,
                "not_after": rfc_3339(SystemTime::UNIX_EPOCH + since),
                "expires_in_s": expires.saturating_sub(now),
            })
        })
        .collect()
}

fn of_shard(status: &ShardStatus) -> Value {
    let lag: serde_json::Map<String, Value> = status
        .lag_entries
        .iter()
        .map(|(node, lag)| (node.to_string(), json!(lag)))
        .collect();
    json!({
        "shard": status.shard.0,
        "term": status.term,
        "leader": status.leader.map(|node| node.0),
        "preferred_leader": status.preferred_leader.map(|node| node.0),
        "voters": status.voters.iter().map(|node| node.0).collect::<Vec<_>>(),
        "applied_index": status.applied_index,
        "commit_index": status.commit_index,
        "first_log_index": status.first_log_index,
        "lag_entries": lag,
    })
}

/// The file system of the data folder; `null` when it cannot be asked.
fn disk(config: &Config) -> Value {
    match rustix::fs::statvfs(&config.node.data_dir) {
        Ok(file_system) => json!({
            "free_bytes": file_system.f_bavail.saturating_mul(file_system.f_frsize),
            "total_bytes": file_system.f_blocks.saturating_mul(file_system.f_frsize),
            "limit_bytes": config.storage.min_free_disk,
        }),
        Err(error) => {
            tracing::debug!(%error, "the file system of the data folder cannot be asked");
            Value::Null
        }
    }
}
