//! `holdfast check`: everything in a data folder, while no node uses it.

use std::path::PathBuf;

use clap::Args;
use raft_store::NodeId;
use raft_store::db::Owner;
use serde_json::{Value, json};

use super::table::{bytes, cell, table};
use super::{AnswerFormat, example, say};
use crate::data_dir::DataDir;
use crate::error::StartError;

/// Flags of `holdfast check`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast check /var/lib/holdfast"))]
pub struct CheckArguments {
    /// The data folder (`node.data_dir`) of a node that does not run.
    dir: PathBuf,
}

/// Carries out `holdfast check DIR`.
///
/// # Errors
/// The folder is in use or not ours, or something in it is wrong.
pub fn check(arguments: &CheckArguments, format: AnswerFormat) -> Result<(), StartError> {
    let (data_dir, identity) = DataDir::open_existing(&arguments.dir)?;
    let owner = Owner {
        cluster: identity.cluster.clone(),
        node: NodeId(identity.node),
        shards: identity.shards,
    };
    let verified = raft_store::verify(data_dir.path(), &owner)
        .map_err(|error| StartError::Refused(error.to_string()))?;
    let shards: Vec<Value> = verified
        .iter()
        .map(|shard| {
            json!({
                "shard": shard.shard.0,
                "applied_index": shard.applied_index,
                "digest": format!("{:016x}", shard.digest),
                "sessions": shard.sessions,
                "rows": shard.rows,
                "row_bytes": shard.row_bytes,
                "log_first_index": shard.log.map(|(first, _)| first),
                "log_last_index": shard.log.map(|(_, last)| last),
            })
        })
        .collect();
    if format == AnswerFormat::Json {
        say(&json!({
            "ok": true,
            "cluster": identity.cluster,
            "node": identity.node,
            "shards": shards,
        })
        .to_string());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = shards
        .iter()
        .map(|shard| {
            let of = |member: &str| cell(shard.get(member));
            vec![
                of("shard"),
                of("applied_index"),
                of("digest"),
                of("sessions"),
                of("rows"),
                bytes(shard.get("row_bytes")),
                of("log_first_index"),
                of("log_last_index"),
            ]
        })
        .collect();
    let headings = [
        "SHARD", "APPLIED", "DIGEST", "SESSIONS", "ROWS", "SIZE", "LOG FROM", "LOG TO",
    ];
    say(&format!(
        "ok: node {} of cluster {}\n{}",
        identity.node,
        identity.cluster,
        table(&headings, &rows)
    ));
    Ok(())
}
