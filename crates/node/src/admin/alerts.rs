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

/// Less free space than this share of a disk is worth a look.
const DISK_FREE_DIVISOR: u64 = 20;
/// Free space is low below so many times `storage.min_free_disk`; below that itself publishes are refused.
const DISK_LIMIT_FACTOR: u64 = 2;
/// A certificate that is good for less than this is to be renewed.
const CERTIFICATE_SOON_S: i64 = 14 * DAY_S;
/// The same, and nobody did.
const CERTIFICATE_LATE_S: i64 = 2 * DAY_S;
const DAY_S: i64 = 86_400;
/// Checks of a node that fail while it refuses work for want of something.
const RESOURCES: [&str; 2] = ["memory", "disk"];
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
    let mut alerts = of_checks(node, document);
    if let Some(reason) = document.get("quorum_critical").and_then(Value::as_str) {
        alerts.push(alert("quorum_critical", "critical", Some(node), reason));
    }
    alerts.extend(of_disk(node, document));
    alerts.extend(of_certificates(node, document));
    alerts.extend(of_followers(node, document));
    alerts
}

/// A node that is short of something is not ready, and refuses new connections or publishes as well.
fn of_checks(node: NodeId, document: &Value) -> Vec<Value> {
    let mut alerts = Vec::new();
    for check in entries(document, "checks") {
        if check.get("ok") != Some(&json!(false)) {
            continue;
        }
        let text = |member| {
            let text = check.get(member).and_then(Value::as_str);
            text.unwrap_or_default()
        };
        let detail = format!("{}: {}", text("name"), text("reason"));
        if RESOURCES.contains(&text("name")) {
            alerts.push(alert("overload", "critical", Some(node), detail.clone()));
        }
        alerts.push(alert("node_not_ready", "warning", Some(node), detail));
    }
    alerts
}

fn of_disk(node: NodeId, document: &Value) -> Option<Value> {
    let bytes = |member: &str| document.get("disk")?.get(member)?.as_u64();
    let (free, total) = (bytes("free_bytes")?, bytes("total_bytes")?);
    // A node of an older version does not say.
    let limit = bytes("limit_bytes").unwrap_or(0);
    let severity = if free < limit.saturating_mul(DISK_LIMIT_FACTOR) {
        "critical"
    } else if free < total / DISK_FREE_DIVISOR {
        "warning"
    } else {
        return None;
    };
    let detail = format!("{free} of {total} bytes are free where the data folder is");
    Some(alert("disk_low", severity, Some(node), detail))
}

fn of_certificates(node: NodeId, document: &Value) -> Vec<Value> {
    let mut alerts = Vec::new();
    for certificate in entries(document, "certificates") {
        let left = certificate.get("expires_in_s").and_then(Value::as_i64);
        let Some(left) = left.filter(|left| *left < CERTIFICATE_SOON_S) else {
            continue;
        };
        let severity = if left < CERTIFICATE_LATE_S {
            "critical"
        } else {
            "warning"
        };
        let text = |member: &str| certificate.get(member).and_then(Value::as_str);
        let listener = text("listener").unwrap_or_default();
        let verb = if left < 0 { "expired" } else { "expires" };
        let detail = format!(
            "the certificate of listener {listener} {verb} at {}",
            text("not_after").unwrap_or_default()
        );
        alerts.push(alert("certificate_expires", severity, Some(node), detail));
    }
    alerts
}

fn of_followers(node: NodeId, document: &Value) -> Vec<Value> {
    let mut alerts = Vec::new();
    for shard in entries(document, "shards") {
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

/// The entries of a list; none when an older node has no such list.
fn entries<'a>(document: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    let list = document.get(list).and_then(Value::as_array);
    list.into_iter().flatten()
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
            "disk": { "free_bytes": 50 * gib, "total_bytes": 100 * gib, "limit_bytes": gib },
            "certificates": [{ "listener": "tls", "not_after": "-", "expires_in_s": 14 * DAY_S }],
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

    fn severities(document: &Value) -> Vec<(String, String)> {
        let alerts = of_node(NodeId(1), document);
        let text = |alert: &Value, member: &str| alert[member].as_str().unwrap().to_owned();
        alerts
            .iter()
            .map(|alert| (text(alert, "name"), text(alert, "severity")))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, severity): &(&str, &str)| ((*name).to_owned(), (*severity).to_owned());
        expected.iter().map(owned).collect()
    }

    /// As HoldfastCertExpiresSoon of the Prometheus rules.
    #[test]
    fn a_certificate_is_an_alert_for_its_last_fortnight() {
        for (left, severity) in [
            (14 * DAY_S - 1, "warning"),
            (2 * DAY_S, "warning"),
            (2 * DAY_S - 1, "critical"),
            (-1, "critical"),
        ] {
            let document = json!({
                "certificates": [{ "listener": "tls", "not_after": "-", "expires_in_s": left }],
            });
            let expected = pairs(&[("certificate_expires", severity)]);
            assert_eq!(severities(&document), expected, "{left}");
        }
    }

    /// As HoldfastOverload and HoldfastDiskLow of the Prometheus rules.
    #[test]
    fn a_node_that_is_short_of_something_is_overloaded() {
        let checks = |name: &str| json!([{ "name": name, "ok": false, "reason": "it is short" }]);
        for resource in RESOURCES {
            let expected = pairs(&[("overload", "critical"), ("node_not_ready", "warning")]);
            let document = json!({ "checks": checks(resource) });
            assert_eq!(severities(&document), expected, "{resource}");
        }
        let document = json!({ "checks": checks("lease") });
        assert_eq!(
            severities(&document),
            pairs(&[("node_not_ready", "warning")])
        );
        let document = json!({
            "disk": { "free_bytes": 19, "total_bytes": 100, "limit_bytes": 10 },
        });
        assert_eq!(severities(&document), pairs(&[("disk_low", "critical")]));
    }
}
