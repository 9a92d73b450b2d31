//! `holdfast retained`: the messages that new subscribers get.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::api::{ApiArguments, escaped, query};
use super::sessions::List;
use super::table::cell;
use super::{AnswerFormat, example, say};
use crate::error::StartError;

/// Flags of `holdfast retained`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast retained list 'sensors/#'"))]
pub struct RetainedArguments {
    #[command(subcommand)]
    command: RetainedCommand,
}

#[derive(Debug, Subcommand)]
enum RetainedCommand {
    /// List retained messages, in the order of their topics.
    #[command(after_help = example("holdfast retained list 'sensors/+/temperature'"))]
    List {
        #[command(flatten)]
        api: ApiArguments,
        /// Only those on topics that match; without, all but those that begin with $.
        filter: Option<String>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
        limit: usize,
    },
    /// Show one retained message with its content.
    #[command(after_help = example("holdfast retained get sensors/7/temperature"))]
    Get {
        #[command(flatten)]
        api: ApiArguments,
        /// The topic name.
        topic: String,
    },
    /// Clear one retained message, or all that match a filter.
    #[command(after_help = example("holdfast retained delete --filter 'sensors/7/#'"))]
    Delete {
        #[command(flatten)]
        api: ApiArguments,
        /// The topic name.
        #[arg(required_unless_present = "filter", conflicts_with = "filter")]
        topic: Option<String>,
        /// All on topics that match.
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
    },
}

/// Carries out `holdfast retained …`.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub fn retained(arguments: &RetainedArguments, format: AnswerFormat) -> Result<(), StartError> {
    match &arguments.command {
        RetainedCommand::List { api, filter, limit } => {
            let list = List {
                path: "/api/v1/retained",
                key: "retained",
                headings: &["TOPIC", "QOS", "BYTES", "EXPIRES IN S"],
                row: |message| {
                    ["topic", "qos", "payload_bytes", "expires_in_s"]
                        .map(|member| cell(message.get(member)))
                        .to_vec()
                },
            };
            list.print(api, &[("filter", filter.clone())], *limit, format)
        }
        RetainedCommand::Get { api, topic } => {
            let message = api
                .api()?
                .get(&format!("/api/v1/retained/{}", escaped(topic)))?;
            match format {
                AnswerFormat::Json => say(&message.to_string()),
                AnswerFormat::Text => {
                    let text = message
                        .get("payload")
                        .or_else(|| message.get("payload_base64"));
                    say(&cell(text));
                }
            }
            Ok(())
        }
        RetainedCommand::Delete { api, topic, filter } => {
            let api = api.api()?;
            let path = match topic {
                Some(topic) => format!("/api/v1/retained/{}", escaped(topic)),
                None => format!("/api/v1/retained{}", query(&[("filter", filter.clone())])),
            };
            let mut cleared = 0_u64;
            loop {
                let answer = api.delete(&path)?;
                let count = answer.get("cleared").and_then(Value::as_u64).unwrap_or(0);
                cleared = cleared.saturating_add(count);
                if answer.get("more") != Some(&Value::Bool(true)) || count == 0 {
                    break;
                }
            }
            match format {
                AnswerFormat::Json => say(&serde_json::json!({ "cleared": cleared }).to_string()),
                AnswerFormat::Text => say(&format!("{cleared} cleared")),
            }
            Ok(())
        }
    }
}
