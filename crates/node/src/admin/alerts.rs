//! `GET /alerts`: what an operator should know now, by conditions that are built in. Those of the
//! Prometheus rules look at a longer time; these are for a cluster without Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use raft_store::NodeId;
use serde_json::{Value, json};

use super::Answers;
use super::members::silent;
use super::problem::{Problem, ok};
use super::request::{NoParams, Params};
use crate::query::Cluster;

/// Less free space than this share of a disk, or than this many bytes, is an alert.
const DISK_FREE_DIVISOR: u64 = 20;
const DISK_FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;
/// Entries that a follower may lack.
const LAG_MAX: u64 = 100_000;

/// `GET /alerts`
pub(super) async fn list(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let nodes = cluster.nodes().await;
    let mut alerts = of_cluster(cluster);
    for (node, document) in &nodes {
        match document {
            None => alerts.push(alert(
                "node_down",
                "warning",
                Some(*node),
                "the node does not answer",
            )),
            Some(document) => alerts.extend(of_node(*node, document)),
        }
    }
    Ok(ok(
        &json!({ "alerts": alerts, "incomplete": silent(&nodes) }),
    ))
}

fn alert(name: &str, severity: &str, node: Option<NodeId>, detail: impl Into<String>) -> Value {
    json!({
        "name": name,
        "severity": severity,
        "node": node.map(|node| node.0),
        "detail": detail.into(),
    })
}

fn of_cluster(cluster: &Cluster) -> Vec<Value> {
    let mut alerts = Vec::new();
    let leaderless: Vec<String> = cluster
        .broker
        .shards
        .iter()
        .filter(|shard| shard.leader().is_none())
        .map(|shard| shard.id().to_string())
        .collect();
    if !leaderless.is_empty() {
        let detail = format!("no leader is known of shards {}", leaderless.join(", "));
        alerts.push(alert("shard_without_leader", "critical", None, detail));
    }
    alerts
}

/// What a node's own description says.
fn of_node(node: NodeId, document: &Value) -> Vec<Value> {
    let mut alerts = Vec::new();
    let checks = document.get("checks").and_then(Value::as_array);
    for check in checks.into_iter().flatten() {
        if check.get("ok") == Some(&json!(false)) {
            let text = |member| {
                check
                    .get(member)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let detail = format!("{}: {}", text("name"), text("reason"));
            alerts.push(alert("node_not_ready", "warning", Some(node), detail));
        }
    }
    if let Some(reason) = document.get("quorum_critical").and_then(Value::as_str) {
        alerts.push(alert("quorum_critical", "critical", Some(node), reason));
    }
    let bytes = |section: &str, member: &str| document.get(section)?.get(member)?.as_u64();
    if let (Some(free), Some(total)) = (bytes("disk", "free_bytes"), bytes("disk", "total_bytes"))
        && (free < DISK_FREE_BYTES_MIN || free < total / DISK_FREE_DIVISOR)
    {
        let detail = format!("{free} of {total} bytes are free where the data folder is");
        alerts.push(alert("disk_low", "warning", Some(node), detail));
    }
    let shards = document.get("shards").and_then(Value::as_array);
    for shard in shards.into_iter().flatten() {
        let lag = shard.get("lag_entries").and_then(Value::as_object);
        for (follower, entries) in lag.into_iter().flatten() {
            if entries.as_u64().is_some_and(|entries| entries > LAG_MAX) {
                let detail = format!(
                    "node {follower} lacks {entries} entries of shard {}",
                    shard.get("shard").unwrap_or(&Value::Null)
                );
                alerts.push(alert("follower_lags", "warning", Some(node), detail));
            }
        }
    }
    alerts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(document: &Value) -> Vec<String> {
        let alerts = of_node(NodeId(1), document);
        let name = |alert: &Value| alert["name"].as_str().unwrap().to_owned();
        alerts.iter().map(name).collect()
    }

    #[test]
    fn a_node_that_is_well_gives_no_alert() {
        let gib = 1024_u64.pow(3);
        let document = json!({
            "checks": [{ "name": "lease", "ok": true, "reason": "" }],
            "disk": { "free_bytes": 50 * gib, "total_bytes": 100 * gib },
            "shards": [{ "shard": 0, "lag_entries": { "2": 17 } }],
        });
        assert!(names(&document).is_empty());
    }

    #[test]
    fn each_condition_has_its_alert() {
        let gib = 1024_u64.pow(3);
        let document = json!({
            "checks": [{ "name": "lease", "ok": false, "reason": "2 of 3 nodes are silent" }],
            "quorum_critical": "without this node 1 of 3 would be left",
            "disk": { "free_bytes": 4 * gib, "total_bytes": 100 * gib },
            "shards": [{ "shard": 0, "lag_entries": { "2": 100_001, "3": 1 } }],
        });
        assert_eq!(
            names(&document),
            [
                "node_not_ready",
                "quorum_critical",
                "disk_low",
                "follower_lags"
            ]
        );
    }
}
