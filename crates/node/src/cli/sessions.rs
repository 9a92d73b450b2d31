//! `holdfast sessions`, `subscriptions`, `topics`: who is there, and who gets what.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::{ApiArguments, escaped};
use super::table::{cell, table};
use super::{AnswerFormat, example, say};
use crate::error::StartError;

/// Entries that a list prints when nobody says how many.
const LISTED_DEFAULT: usize = 1_000;

/// Flags of `holdfast sessions`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast sessions list --filter connected=false"))]
pub struct SessionsArguments {
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// List clients that are connected or have a session, in the order of their ids.
    #[command(after_help = example("holdfast sessions list --filter 'client=sensor-*,user=alice,connected=true'"))]
    List {
        #[command(flatten)]
        api: ApiArguments,
        /// Conditions that must hold: client=PATTERN, user=PATTERN (nothing: no user name), node=ID, connected=true|false; with commas between.
        #[arg(long, value_name = "CONDITIONS")]
        filter: Option<String>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = LISTED_DEFAULT)]
        limit: usize,
    },
    /// Show one client: its connection, its session, its subscriptions and what waits for it.
    #[command(after_help = example("holdfast sessions show sensor-7"))]
    Show {
        #[command(flatten)]
        api: ApiArguments,
        /// The client identifier.
        id: String,
    },
    /// Close the connection of a client.
    #[command(after_help = example("holdfast sessions kick sensor-7 --purge"))]
    Kick {
        #[command(flatten)]
        api: ApiArguments,
        /// The client identifier.
        id: String,
        /// Also end its session, with all that waits in it.
        #[arg(long)]
        purge: bool,
    },
}

/// Flags of `holdfast subscriptions`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast subscriptions list --topic sensors/7/temperature"))]
pub struct SubscriptionsArguments {
    #[command(subcommand)]
    command: SubscriptionsCommand,
}

#[derive(Debug, Subcommand)]
enum SubscriptionsCommand {
    /// List subscriptions, in the order of client identifiers.
    #[command(after_help = example("holdfast subscriptions list --client 'sensor-*'"))]
    List {
        #[command(flatten)]
        api: ApiArguments,
        /// Only those that match this topic name.
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Only those of clients like this; * stands for anything.
        #[arg(long, value_name = "PATTERN")]
        client: Option<String>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = LISTED_DEFAULT)]
        limit: usize,
    },
}

/// Flags of `holdfast topics`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast topics match sensors/7/temperature"))]
pub struct TopicsArguments {
    #[command(subcommand)]
    command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// List the subscriptions that a message on a topic would go to.
    #[command(after_help = example("holdfast topics match sensors/7/temperature"))]
    Match {
        #[command(flatten)]
        api: ApiArguments,
        /// The topic name.
        topic: String,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = LISTED_DEFAULT)]
        limit: usize,
    },
}

/// Carries out `holdfast sessions …`.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub fn sessions(arguments: &SessionsArguments, format: AnswerFormat) -> Result<(), StartError> {
    match &arguments.command {
        SessionsCommand::List { api, filter, limit } => {
            let list = List {
                path: "/api/v1/clients",
                key: "clients",
                headings: &[
                    "CLIENT",
                    "USER",
                    "CONNECTED",
                    "NODE",
                    "ADDRESS",
                    "QUEUED",
                    "IN FLIGHT",
                ],
                row: client_row,
            };
            list.print(api, &[("filter", filter.clone())], *limit, format)
        }
        SessionsCommand::Show { api, id } => show(api, id, format),
        SessionsCommand::Kick { api, id, purge } => {
            let what = if *purge { "sessions" } else { "clients" };
            let answer = api
                .api()?
                .delete(&format!("/api/v1/{what}/{}", escaped(id)))?;
            match format {
                AnswerFormat::Json => say(&answer.to_string()),
                AnswerFormat::Text if *purge => say("the session has ended"),
                AnswerFormat::Text if answer.get("closed") == Some(&json!(true)) => {
                    say("the connection is closed");
                }
                AnswerFormat::Text => say("the connection is being closed"),
            }
            Ok(())
        }
    }
}

/// Carries out `holdfast subscriptions …`.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub fn subscriptions(
    arguments: &SubscriptionsArguments,
    format: AnswerFormat,
) -> Result<(), StartError> {
    let SubscriptionsCommand::List {
        api,
        topic,
        client,
        limit,
    } = &arguments.command;
    let parameters = [("topic", topic.clone()), ("client", client.clone())];
    SUBSCRIPTIONS.print(api, &parameters, *limit, format)
}

/// Carries out `holdfast topics …`.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub fn topics(arguments: &TopicsArguments, format: AnswerFormat) -> Result<(), StartError> {
    let TopicsCommand::Match { api, topic, limit } = &arguments.command;
    let list = List {
        path: "/api/v1/topics/match",
        ..SUBSCRIPTIONS
    };
    list.print(api, &[("topic", Some(topic.clone()))], *limit, format)
}

/// A list of the API, and how people see it.
pub(super) struct List {
    pub(super) path: &'static str,
    /// The member that holds the entries.
    pub(super) key: &'static str,
    pub(super) headings: &'static [&'static str],
    pub(super) row: fn(&Value) -> Vec<String>,
}

const SUBSCRIPTIONS: List = List {
    path: "/api/v1/subscriptions",
    key: "subscriptions",
    headings: &["CLIENT", "FILTER", "QOS", "STORED"],
    row: subscription_row,
};

impl List {
    /// Prints at most so many entries; what nodes that did not answer know is said to be missing.
    pub(super) fn print(
        &self,
        api: &ApiArguments,
        parameters: &[(&str, Option<String>)],
        max: usize,
        format: AnswerFormat,
    ) -> Result<(), StartError> {
        let mut entries = Vec::new();
        let incomplete = api
            .api()?
            .pages(self.path, parameters, (self.key, max), |entry| {
                entries.push(entry.clone());
            })?;
        match format {
            AnswerFormat::Json => {
                let mut answer = serde_json::Map::new();
                answer.insert(self.key.to_owned(), Value::Array(entries));
                answer.insert("incomplete".to_owned(), Value::Array(incomplete));
                say(&Value::Object(answer).to_string());
            }
            AnswerFormat::Text => {
                let rows: Vec<Vec<String>> = entries.iter().map(self.row).collect();
                say(&table(self.headings, &rows));
                for node in incomplete {
                    say(&format!(
                        "node {node} does not answer: what only it knows is missing"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn client_row(client: &Value) -> Vec<String> {
    let inner = |outer: &str, member: &str| cell(client.get(outer).and_then(|it| it.get(member)));
    vec![
        cell(client.get("client_id")),
        cell(client.get("user")),
        cell(client.get("connected")),
        cell(client.get("node")),
        inner("connection", "address"),
        inner("session", "queued"),
        inner("session", "in_flight"),
    ]
}

fn subscription_row(subscription: &Value) -> Vec<String> {
    ["client_id", "filter", "qos", "stored"]
        .map(|member| cell(subscription.get(member)))
        .to_vec()
}

fn show(api: &ApiArguments, id: &str, format: AnswerFormat) -> Result<(), StartError> {
    let api = api.api()?;
    let id = escaped(id);
    let client = api.get(&format!("/api/v1/clients/{id}"))?;
    let subscriptions = api.get(&format!("/api/v1/sessions/{id}/subscriptions"))?;
    if format == AnswerFormat::Json {
        let subscriptions = subscriptions.get("subscriptions");
        say(&json!({ "client": client, "subscriptions": subscriptions }).to_string());
        return Ok(());
    }
    let mut rows = Vec::new();
    let mut add = |prefix: &str, value: Option<&Value>| {
        for (name, value) in value.and_then(Value::as_object).into_iter().flatten() {
            if !value.is_object() && name != "incomplete" {
                rows.push(vec![format!("{prefix}{name}"), cell(Some(value))]);
            }
        }
    };
    add("", Some(&client));
    add("session.", client.get("session"));
    add("connection.", client.get("connection"));
    let entries = subscriptions.get("subscriptions").and_then(Value::as_array);
    let subscribed: Vec<Vec<String>> = entries
        .into_iter()
        .flatten()
        .map(subscription_row)
        .collect();
    say(&table(&["WHAT", "VALUE"], &rows));
    say("");
    say(&table(SUBSCRIPTIONS.headings, &subscribed));
    Ok(())
}
