//! The command line: what can be asked for. Commands that ask a node are clients of its admin API.

mod api;
mod check;
mod config;
mod drain;
mod hash_password;
mod later;
mod mqtt;
mod retained;
mod run;
mod sessions;
mod status;
mod table;
mod tls;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use self::api::ApiArguments;
pub use self::check::{CheckArguments, check};
pub use self::config::{ConfigArguments, config};
pub use self::drain::{DrainArguments, UndrainArguments, drain, undrain};
pub use self::hash_password::{HashPasswordArguments, hash_password};
pub use self::later::{LaterArguments, MembersArguments, later, members};
pub use self::mqtt::{BrokerArguments, PublishArguments, SubscribeArguments, publish, subscribe};
pub use self::retained::{RetainedArguments, retained};
pub use self::run::{RunArguments, SourceArguments};
pub use self::sessions::{
    SessionsArguments, SubscriptionsArguments, TopicsArguments, sessions, subscriptions, topics,
};
pub use self::status::{
    HealthcheckArguments, LeaderArguments, StatusArguments, healthcheck, leader, status,
};
pub use self::tls::{TlsArguments, tls};
use crate::error::StartError;
use crate::version;

/// A clustered MQTT broker that neither loses nor repeats messages when a node dies.
///
/// Without a command: one durable node on 127.0.0.1:1883.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version = version::VERSION, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Answer in JSON, where there is an answer.
    #[arg(long, global = true)]
    json: bool,
}

const EXIT_CODES: &str =
    "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 cannot reach a node, 4 no quorum.";

/// What stands below the flags in the help of a command.
fn example(command: &str) -> String {
    format!("Example: {command}\n\n{EXIT_CODES}")
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node in the foreground.
    Run(RunArguments),
    /// Run a cluster on this machine, to try it: one process per node, Ctrl-C stops it.
    Demo(DemoArguments),
    /// Look at a configuration without starting anything, or write an example.
    Config(ConfigArguments),
    /// Show the cluster: nodes, leaders, sessions.
    Status(StatusArguments),
    /// List the nodes.
    Members(MembersArguments),
    /// Move the leaderships of shards.
    Leader(LeaderArguments),
    /// Empty a node of clients and leaderships, before it is stopped.
    Drain(DrainArguments),
    /// Let a drained node serve again.
    Undrain(UndrainArguments),
    /// Verify a data folder while no node uses it.
    Check(CheckArguments),
    /// Clients and their sessions.
    Sessions(SessionsArguments),
    /// Subscriptions of all clients.
    Subscriptions(SubscriptionsArguments),
    /// Who would get a message.
    Topics(TopicsArguments),
    /// Messages that new subscribers get.
    Retained(RetainedArguments),
    /// Publish one message.
    Publish(PublishArguments),
    /// Print messages as they come.
    Subscribe(SubscribeArguments),
    /// Certificates of a node.
    Tls(TlsArguments),
    /// Turn a password into a line of a credentials file.
    HashPassword(HashPasswordArguments),
    /// Say whether a node is well, for health checks of containers.
    Healthcheck(HealthcheckArguments),
    /// Print completions for a shell.
    Completions(CompletionsArguments),
    /// Say which version this is.
    Version(VersionArguments),
    /// Not available in this version.
    Import(LaterArguments),
    /// Not available in this version.
    Trace(LaterArguments),
    /// Not available in this version.
    Backup(LaterArguments),
    /// Not available in this version.
    Recover(LaterArguments),
}

/// Flags of `holdfast demo`.
#[derive(Debug, Clone, Args)]
#[command(after_help = example("holdfast demo --nodes 3 --ephemeral"))]
pub struct DemoArguments {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) nodes: u8,
    /// Where configuration, data and logs of the nodes go; kept for the next time.
    #[arg(long, default_value = "./holdfast-demo", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Use a temporary folder instead, and remove it at the end.
    #[arg(long, conflicts_with = "dir")]
    pub(crate) ephemeral: bool,
    /// MQTT port of the first node; the others follow.
    #[arg(long, default_value_t = 1883, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) mqtt_port: u16,
    /// Port of the first node for the other nodes.
    #[arg(long, default_value_t = 7401, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) cluster_port: u16,
    /// Port of the first node for health and metrics.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) admin_port: u16,
}

/// Flags of `holdfast completions`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast completions bash > /etc/bash_completion.d/holdfast"))]
pub struct CompletionsArguments {
    /// For which shell.
    shell: Shell,
}

/// Flags of `holdfast version`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast version --json"))]
pub struct VersionArguments {}

impl Arguments {
    /// The command; `run` when none was given.
    pub fn command(self) -> (Command, AnswerFormat) {
        let format = if self.json {
            AnswerFormat::Json
        } else {
            AnswerFormat::Text
        };
        (
            self.command
                .unwrap_or_else(|| Command::Run(RunArguments::default())),
            format,
        )
    }
}

/// How a command answers on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFormat {
    /// For people.
    Text,
    /// One JSON value.
    Json,
}

/// Carries out `holdfast completions`.
pub fn completions(arguments: &CompletionsArguments) {
    let mut script = Vec::new();
    // Its own method `command` is something else.
    let mut command = <Arguments as clap::CommandFactory>::command();
    clap_complete::generate(arguments.shell, &mut command, "holdfast", &mut script);
    io::stdout().write_all(&script).ok();
}

/// Carries out `holdfast version`.
pub fn print_version(format: AnswerFormat) {
    match format {
        AnswerFormat::Json => say(&version::as_json().to_string()),
        AnswerFormat::Text => say(&format!(
            "holdfast {} (revision {}, {})",
            version::VERSION,
            version::REVISION,
            version::RUSTC
        )),
    }
}

/// Prints a line for people. That nobody reads it (a closed pipe) is no error.
pub(crate) fn say(line: &str) {
    writeln!(io::stdout(), "{line}").ok();
}

/// Prints why the process ends, one line per problem, and gives its exit code.
pub fn report(error: &StartError) -> ExitCode {
    for line in error.to_string().lines() {
        writeln!(io::stderr(), "holdfast: {line}").ok();
    }
    ExitCode::from(error.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn no_command_means_run() {
        let (command, _) = Arguments::parse_from(["holdfast"]).command();
        assert!(matches!(command, Command::Run(_)));
    }

    #[test]
    fn every_command_has_an_example_and_its_exit_codes_in_its_help_and_takes_json() {
        fn walk(command: &clap::Command, path: &str, seen: &mut usize) {
            for inner in command
                .get_subcommands()
                .filter(|inner| inner.get_name() != "help")
            {
                let path = format!("{path} {}", inner.get_name());
                let help = inner.get_after_help().map(ToString::to_string);
                let help = help.unwrap_or_default();
                assert!(help.contains("Example: holdfast "), "{path}: {help:?}");
                assert!(help.contains("Exit codes: 0 ok"), "{path}: {help:?}");
                let has_json = inner
                    .get_arguments()
                    .any(|argument| argument.get_id() == "json");
                assert!(has_json, "{path}");
                *seen += 1;
                walk(inner, &path, seen);
            }
        }
        let mut command = <Arguments as clap::CommandFactory>::command();
        command.build();
        let mut seen = 0;
        walk(&command, "holdfast", &mut seen);
        assert!(seen > 20, "{seen} commands");
    }

    #[test]
    fn a_kept_folder_and_an_ephemeral_one_exclude_each_other() {
        assert!(
            Arguments::try_parse_from(["holdfast", "demo", "--dir", "x", "--ephemeral"]).is_err()
        );
        assert!(Arguments::try_parse_from(["holdfast", "demo", "--ephemeral"]).is_ok());
    }

    #[test]
    fn a_command_of_a_later_version_takes_whatever_comes_behind_it() {
        for line in [
            "backup create x --new-cluster 1@a",
            "members add 4@host:1",
            "import mosquitto f",
        ] {
            let arguments =
                Arguments::try_parse_from(["holdfast"].into_iter().chain(line.split(' ')));
            assert!(arguments.is_ok(), "{line}: {arguments:?}");
        }
        assert_eq!(later("backup").unwrap_err().exit_code(), 2);
    }
}
