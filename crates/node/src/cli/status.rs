//! `holdfast status`, `healthcheck`, `members` and `leader`: the cluster and its nodes.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::{Api, ApiArguments};
use super::table::{bytes, cell, table};
use super::{AnswerFormat, example, say};
use crate::error::StartError;

/// How often `--watch` asks.
const WATCH_PERIOD: Duration = Duration::from_secs(2);
/// Clears a terminal, and puts the cursor into its corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Flags of `holdfast status`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast status --url http://127.0.0.1:8081 --watch"))]
pub struct StatusArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// Show it again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// Flags of `holdfast healthcheck`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast healthcheck --live"))]
pub struct HealthcheckArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// Whether the process should live on, which does not depend on a quorum.
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Whether clients should be sent to the node (the default).
    #[arg(long)]
    ready: bool,
}

/// Flags of `holdfast leader`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast leader balance"))]
pub struct LeaderArguments {
    #[command(subcommand)]
    command: LeaderCommand,
}

#[derive(Debug, Subcommand)]
enum LeaderCommand {
    /// Hand leaderships to a node. The node that should lead a shard takes it back after some seconds.
    #[command(after_help = example("holdfast leader transfer --shard 2 --to 3"))]
    Transfer {
        #[command(flatten)]
        api: ApiArguments,
        /// Only of this shard; without, of all.
        #[arg(long, value_name = "SHARD")]
        shard: Option<u16>,
        /// The node that is to lead.
        #[arg(long, value_name = "ID")]
        to: u16,
    },
    /// Hand every shard to the node that should lead it.
    #[command(after_help = example("holdfast leader balance"))]
    Balance {
        #[command(flatten)]
        api: ApiArguments,
    },
}

/// Carries out `holdfast status`.
///
/// # Errors
/// The node cannot be reached, refuses, or has no quorum.
pub fn status(arguments: &StatusArguments, format: AnswerFormat) -> Result<(), StartError> {
    let api = arguments.api.api()?;
    loop {
        let cluster = api.get("/api/v1/cluster")?;
        let clear = if arguments.watch && format == AnswerFormat::Text {
            CLEAR
        } else {
            ""
        };
        match format {
            AnswerFormat::Text => say(&format!("{clear}{}", describe(&cluster))),
            AnswerFormat::Json => say(&cluster.to_string()),
        }
        if arguments.watch {
            std::thread::sleep(WATCH_PERIOD);
            continue;
        }
        if cluster.get("has_quorum") == Some(&json!(false)) {
            let problem = "the node that was asked has no quorum";
            return Err(StartError::NoQuorum(problem.to_owned()));
        }
        return Ok(());
    }
}

fn describe(cluster: &Value) -> String {
    let of = |member: &str| cell(cluster.get(member));
    let verdict = match (cluster.get("has_quorum"), cluster.get("incomplete")) {
        (Some(Value::Bool(false)), _) => "no quorum".to_owned(),
        (_, Some(Value::Array(silent))) if !silent.is_empty() => {
            let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
            format!("degraded: no answer from node {}", silent.join(", "))
        }
        _ => "healthy".to_owned(),
    };
    let retained = of("retained_messages");
    let (sessions, disconnected) = (of("sessions"), of("sessions_disconnected"));
    format!(
        "cluster {}: {verdict}\nsessions {sessions} ({disconnected} not connected), retained messages {retained}\n\n{}\n\n{}",
        of("name"),
        nodes(cluster),
        shards(cluster)
    )
}

fn nodes(cluster: &Value) -> String {
    let nodes = cluster.get("nodes").and_then(Value::as_array);
    let rows: Vec<Vec<String>> = nodes
        .into_iter()
        .flatten()
        .map(|node| {
            let state = match (node.get("answers"), node.get("ready")) {
                (Some(Value::Bool(false)), _) => "no answer",
                (_, Some(Value::Bool(true))) => "ready",
                _ => "not ready",
            };
            let free = node.get("disk").and_then(|disk| disk.get("free_bytes"));
            let used = node
                .get("memory")
                .and_then(|memory| memory.get("used_bytes"));
            vec![
                cell(node.get("id")),
                cell(node.get("name")),
                cell(node.get("address")),
                state.to_owned(),
                cell(node.get("version")),
                cell(node.get("connections")),
                cell(node.get("shards_led")),
                bytes(used),
                bytes(free),
            ]
        })
        .collect();
    let headings = [
        "NODE",
        "NAME",
        "ADDRESS",
        "STATE",
        "VERSION",
        "CONNECTIONS",
        "LEADS",
        "MEMORY",
        "DISK FREE",
    ];
    table(&headings, &rows)
}

fn shards(cluster: &Value) -> String {
    let shards = cluster.get("shards").and_then(Value::as_array);
    let rows: Vec<Vec<String>> = shards
        .into_iter()
        .flatten()
        .map(|shard| {
            let of = |member: &str| cell(shard.get(member));
            vec![
                of("shard"),
                of("leader"),
                of("preferred_leader"),
                of("term"),
            ]
        })
        .collect();
    table(&["SHARD", "LEADER", "SHOULD LEAD", "TERM"], &rows)
}

/// Carries out `holdfast healthcheck`: for container health checks and exec probes.
///
/// # Errors
/// The node cannot be reached, or is not live or ready.
pub fn healthcheck(
    arguments: &HealthcheckArguments,
    format: AnswerFormat,
) -> Result<(), StartError> {
    let path = if arguments.live { "/livez" } else { "/readyz" };
    let answer = arguments.api.api()?.look(path)?;
    let ok = answer.status == 200;
    let reason = answer.text.trim().replace('\n', "; ");
    if format == AnswerFormat::Json {
        say(&json!({ "ok": ok, "reason": reason }).to_string());
    }
    if ok {
        if format == AnswerFormat::Text {
            say("ok");
        }
        return Ok(());
    }
    Err(StartError::Refused(reason))
}

/// Carries out `holdfast members list`.
///
/// # Errors
/// The node cannot be reached or refuses.
pub(super) fn members(arguments: &ApiArguments, format: AnswerFormat) -> Result<(), StartError> {
    let cluster = arguments.api()?.get("/api/v1/cluster")?;
    match format {
        AnswerFormat::Text => say(&nodes(&cluster)),
        AnswerFormat::Json => say(&cluster.get("nodes").unwrap_or(&Value::Null).to_string()),
    }
    Ok(())
}

/// Carries out `holdfast leader …`.
///
/// # Errors
/// The node cannot be reached, or not every leadership was handed over.
pub fn leader(arguments: &LeaderArguments, format: AnswerFormat) -> Result<(), StartError> {
    let moved = match &arguments.command {
        LeaderCommand::Transfer { api, shard, to } => {
            let mut body = json!({ "to": to });
            if let (Some(shard), Value::Object(body)) = (shard, &mut body) {
                body.insert("shard".to_owned(), json!(shard));
            }
            hand_over(&api.api()?, "transfer", &body)?
        }
        LeaderCommand::Balance { api } => hand_over(&api.api()?, "balance", &json!({}))?,
    };
    match format {
        AnswerFormat::Json => say(&moved.to_string()),
        AnswerFormat::Text => {
            let moved = moved.get("moved").and_then(Value::as_array);
            let moves: Vec<String> = moved
                .into_iter()
                .flatten()
                .map(|one| {
                    format!(
                        "shard {} to node {}",
                        cell(one.get("shard")),
                        cell(one.get("to"))
                    )
                })
                .collect();
            if moves.is_empty() {
                say("nothing had to move");
            } else {
                say(&moves.join("\n"));
            }
        }
    }
    Ok(())
}

fn hand_over(api: &Api, how: &str, body: &Value) -> Result<Value, StartError> {
    api.post(&format!("/api/v1/cluster/leaders/{how}"), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_with_a_silent_node_is_degraded() {
        let mut cluster = json!({
            "name": "c", "has_quorum": true, "incomplete": [], "sessions": 3,
            "sessions_disconnected": 1, "retained_messages": 0,
            "nodes": [{ "id": 1, "name": "node-1", "answers": true, "ready": true }],
            "shards": [{ "shard": 0, "leader": null, "preferred_leader": 1, "term": 4 }],
        });
        let text = describe(&cluster);
        assert!(
            text.starts_with("cluster c: healthy\nsessions 3 (1 not connected)"),
            "{text}"
        );
        assert!(text.contains("0      -       1            4"), "{text}");
        cluster["incomplete"] = json!([2]);
        assert!(describe(&cluster).starts_with("cluster c: degraded: no answer from node 2"));
        cluster["has_quorum"] = json!(false);
        assert!(describe(&cluster).starts_with("cluster c: no quorum"));
    }
}
