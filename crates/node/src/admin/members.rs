//! The cluster, its shards and its nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use raft_store::{NodeId, ShardId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answers;
use super::problem::{Problem, ok};
use super::request::{Json, Name, NoParams, Params};
use crate::query::{Cluster, Unreachable};
use crate::statistics;

/// What every node says of itself; `None`: it does not answer.
pub(super) type Nodes = BTreeMap<NodeId, Option<Value>>;

/// `GET /cluster`
pub(super) async fn cluster(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let nodes = cluster.nodes().await;
    let stored = statistics::stored(&cluster.broker);
    let members: Vec<Value> = nodes
        .iter()
        .map(|(node, document)| summary(cluster, *node, document.as_ref()))
        .collect();
    Ok(ok(&json!({
        "name": cluster.broker.config.cluster.name,
        "asked": cluster.broker.node.0,
        "has_quorum": cluster.broker.lease.is_held(),
        "nodes": members,
        "shards": shards_of(cluster),
        "sessions": stored.sessions,
        "sessions_disconnected": stored.disconnected,
        "stored_subscriptions": stored.subscriptions,
        "retained_messages": stored.retained,
        "incomplete": silent(&nodes),
    })))
}

/// `GET /shards`
pub(super) async fn shards(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let nodes = cluster.nodes().await;
    let mut shards = shards_of(cluster);
    for shard in &mut shards {
        let replicas: Vec<Value> = nodes
            .iter()
            .filter_map(|(node, document)| replica(*node, document.as_ref()?, &shard["shard"]))
            .collect();
        if let Value::Object(shard) = shard {
            shard.insert("replicas".to_owned(), Value::Array(replicas));
        }
    }
    Ok(ok(
        &json!({ "shards": shards, "incomplete": silent(&nodes) }),
    ))
}

/// `GET /nodes/{id}`
pub(super) async fn node(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let node = member(cluster, &name)?;
    let document = cluster.node(node).await.map_err(unreachable)?;
    Ok(ok(&document))
}

/// `GET /nodes/{id}/quorum-critical`: 503 when no majority would be left without the node.
pub(super) async fn quorum_critical(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let node = member(cluster, &name)?;
    let document = cluster.node(node).await.map_err(unreachable)?;
    match document.get("quorum_critical").and_then(Value::as_str) {
        None => Ok(ok(&json!({ "node": node.0, "critical": false }))),
        Some(reason) => Err(quorum_critical_problem(node, reason)),
    }
}

fn quorum_critical_problem(node: NodeId, reason: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        .with("code", json!("quorum_critical"))
        .with("critical", json!(true))
        .with("node", json!(node.0))
}

fn unreachable(Unreachable(node): Unreachable) -> Problem {
    Problem::unreachable(node)
}

/// The body of `POST /nodes/{id}/drain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainBody {
    /// `shutdown.drain_timeout` without.
    timeout_s: Option<u32>,
    #[serde(default)]
    force: bool,
}

/// `POST /nodes/{id}/drain`: begins, and answers at once; `drain` of `GET /nodes/{id}` says how far it is.
pub(super) async fn drain(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
    Json(body): Json<DrainBody>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let node = member(cluster, &name)?;
    let limit = body
        .timeout_s
        .map(|seconds| Duration::from_secs(seconds.into()));
    let refused = cluster.drain(node, limit, body.force).await;
    match refused.map_err(unreachable)? {
        None => Ok(ok(&json!({ "node": node.0, "draining": true }))),
        Some(reason) => Err(
            Problem::conflict(format!("{reason}; force drains it all the same"))
                .with("code", json!("quorum_critical")),
        ),
    }
}

/// `POST /nodes/{id}/undrain`
pub(super) async fn undrain(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
    Json(_): Json<NoBody>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let node = member(cluster, &name)?;
    cluster.undrain(node).await.map_err(unreachable)?;
    Ok(ok(&json!({ "node": node.0, "draining": false })))
}

/// The body of `POST /cluster/leaders/transfer`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransferBody {
    /// All shards, without.
    shard: Option<u16>,
    to: u16,
}

/// `POST /cluster/leaders/transfer`
pub(super) async fn transfer(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
    Json(body): Json<TransferBody>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let to = NodeId(body.to);
    if !cluster.broker.members.contains_key(&to) {
        return Err(Problem::bad_request(format!("there is no node {to}")));
    }
    let shards = cluster.broker.shards.iter().map(raft_store::Shard::id);
    let shards: Vec<ShardId> = match body.shard {
        None => shards.collect(),
        Some(shard) => shards.filter(|known| known.0 == shard).collect(),
    };
    if shards.is_empty() {
        return Err(Problem::bad_request("there is no such shard"));
    }
    hand_over(cluster, shards.into_iter().map(|shard| (shard, to))).await
}

/// An object without members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

/// `POST /cluster/leaders/balance`: each shard to the node that should lead it.
pub(super) async fn balance(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
    Json(_): Json<NoBody>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let wanted: Vec<(ShardId, NodeId)> = cluster
        .broker
        .shards
        .iter()
        .filter_map(|shard| Some((shard.id(), shard.status().preferred_leader?)))
        .collect();
    hand_over(cluster, wanted.into_iter()).await
}

/// Hands over those that are led by another node. One that fails does not keep the others from it.
async fn hand_over(
    cluster: &Cluster,
    wanted: impl Iterator<Item = (ShardId, NodeId)>,
) -> Result<Response, Problem> {
    let mut moved = Vec::new();
    let mut failed = Vec::new();
    for (shard, to) in wanted {
        let leader = cluster
            .broker
            .shards
            .shard(shard)
            .and_then(|shard| shard.leader());
        if leader == Some(to) {
            continue;
        }
        match cluster.transfer(shard, to).await {
            Ok(()) => moved.push(json!({ "shard": shard.0, "to": to.0 })),
            Err(reason) => failed.push(json!({ "shard": shard.0, "to": to.0, "reason": reason })),
        }
    }
    if failed.is_empty() {
        return Ok(ok(&json!({ "moved": moved })));
    }
    Err(Problem::unavailable("not every leadership was handed over")
        .with("moved", json!(moved))
        .with("failed", json!(failed)))
}

fn member(cluster: &Cluster, name: &Name) -> Result<NodeId, Problem> {
    let node = name.node()?;
    if cluster.broker.members.contains_key(&node) {
        return Ok(node);
    }
    Err(Problem::not_found(format!("there is no node {node}")))
}

/// Each shard as this node's replica of it knows it.
fn shards_of(cluster: &Cluster) -> Vec<Value> {
    let statuses = cluster.broker.shards.iter().map(raft_store::Shard::status);
    statuses
        .map(|status| {
            json!({
                "shard": status.shard.0,
                "leader": status.leader.map(|leader| leader.0),
                "preferred_leader": status.preferred_leader.map(|leader| leader.0),
                "term": status.term,
                "voters": status.voters.iter().map(|voter| voter.0).collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// What a node says of its replica of a shard.
fn replica(node: NodeId, document: &Value, shard: &Value) -> Option<Value> {
    let replicas = document.get("shards")?.as_array()?;
    let replica = replicas
        .iter()
        .find(|replica| replica.get("shard") == Some(shard))?;
    Some(json!({
        "node": node.0,
        "applied_index": replica.get("applied_index"),
        "commit_index": replica.get("commit_index"),
        "first_log_index": replica.get("first_log_index"),
        "lag_entries": replica.get("lag_entries"),
    }))
}

/// One line of a node; `null` where it does not answer.
fn summary(cluster: &Cluster, node: NodeId, document: Option<&Value>) -> Value {
    let led = cluster
        .broker
        .shards
        .iter()
        .filter(|shard| shard.leader() == Some(node));
    let of = |member: &str| document.and_then(|document| document.get(member));
    json!({
        "id": node.0,
        "name": of("name"),
        "address": cluster.broker.members.get(&node),
        "answers": document.is_some(),
        "ready": of("ready").is_some_and(|ready| ready == &json!(true)),
        "drain": of("drain"),
        "version": of("version"),
        "uptime_s": of("uptime_s"),
        "connections": of("connections"),
        "shards_led": led.count(),
        "memory": of("memory"),
        "disk": of("disk"),
    })
}

pub(super) fn silent(nodes: &Nodes) -> Value {
    let silent = nodes.iter().filter(|(_, document)| document.is_none());
    silent.map(|(node, _)| node.0).collect()
}
