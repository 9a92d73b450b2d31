//! `holdfast drain` and `undrain`: a node without clients and leaderships, before it is stopped.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::api::{Api, ApiArguments};
use super::table::cell;
use super::{AnswerFormat, example, say};
use crate::error::StartError;

/// How often the node is asked how far it is.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// What closing the last clients takes beyond the time that they have.
const CLOSE_GRACE: Duration = Duration::from_secs(15);

/// Flags of `holdfast drain`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast drain --timeout 60s"))]
pub struct DrainArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// Which node; without, the one that is asked.
    #[arg(long, value_name = "ID")]
    node: Option<u16>,
    /// How long clients have to leave before they are closed.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = seconds)]
    timeout: u32,
    /// Although without the node a shard has no majority.
    #[arg(long)]
    force: bool,
}

/// Flags of `holdfast undrain`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast undrain --node 2"))]
pub struct UndrainArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// Which node; without, the one that is asked.
    #[arg(long, value_name = "ID")]
    node: Option<u16>,
}

fn seconds(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (number, 1),
    };
    let number: u32 = number
        .parse()
        .map_err(|error| format!("expected a duration such as 60s or 2m: {error}"))?;
    Ok(number.saturating_mul(unit))
}

/// Carries out `holdfast drain`: ends when no client is left.
///
/// # Errors
/// The node cannot be reached, refuses because it is needed, or is not drained in time.
pub fn drain(arguments: &DrainArguments, format: AnswerFormat) -> Result<(), StartError> {
    let api = arguments.api.api()?;
    let node = which(&api, arguments.node)?;
    let body = json!({ "timeout_s": arguments.timeout, "force": arguments.force });
    api.post(&format!("/api/v1/nodes/{node}/drain"), &body)?;
    let limit = Duration::from_secs(arguments.timeout.into()).saturating_add(CLOSE_GRACE);
    let deadline = Instant::now() + limit;
    loop {
        let document = api.get(&format!("/api/v1/nodes/{node}"))?;
        let stage = cell(document.get("drain"));
        if stage == "drained" {
            break;
        }
        if stage == "serving" {
            let problem = format!("the drain of node {node} was called off");
            return Err(StartError::Refused(problem));
        }
        if Instant::now() >= deadline {
            let problem = format!("node {node} is not drained in time; it is at: {stage}");
            return Err(StartError::Refused(problem));
        }
        std::thread::sleep(LOOK_PERIOD);
    }
    tell(&node, true, format);
    Ok(())
}

/// Carries out `holdfast undrain`.
///
/// # Errors
/// The node cannot be reached or refuses.
pub fn undrain(arguments: &UndrainArguments, format: AnswerFormat) -> Result<(), StartError> {
    let api = arguments.api.api()?;
    let node = which(&api, arguments.node)?;
    api.post(&format!("/api/v1/nodes/{node}/undrain"), &json!({}))?;
    tell(&node, false, format);
    Ok(())
}

/// The node that is meant.
fn which(api: &Api, node: Option<u16>) -> Result<Value, StartError> {
    match node {
        Some(node) => Ok(json!(node)),
        None => {
            let cluster = api.get("/api/v1/cluster")?;
            let asked = cluster.get("asked").cloned();
            asked.ok_or_else(|| StartError::Refused("the node does not say which it is".to_owned()))
        }
    }
}

fn tell(node: &Value, drained: bool, format: AnswerFormat) {
    match (format, drained) {
        (AnswerFormat::Json, _) => say(&json!({ "node": node, "drained": drained }).to_string()),
        (AnswerFormat::Text, true) => say(&format!("node {node} is drained")),
        (AnswerFormat::Text, false) => say(&format!("node {node} serves again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_seconds_or_minutes() {
        assert_eq!(seconds("60s"), Ok(60));
        assert_eq!(seconds("2m"), Ok(120));
        assert_eq!(seconds("5"), Ok(5));
        assert!(seconds("1h").is_err());
    }
}
