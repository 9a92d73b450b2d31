//! The command line: what can be asked for, and the commands that need no node.

mod hash_password;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use self::hash_password::{HashPasswordArguments, hash_password};
use crate::auth::ScramUsers;
use crate::config::{self, Loaded, Override, Printed, Sources};
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

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage or configuration.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node in the foreground.
    Run(RunArguments),
    /// Run a cluster on this machine, to try it: one process per node, Ctrl-C stops it.
    Demo(DemoArguments),
    /// Look at a configuration without starting anything.
    Config(ConfigArguments),
    /// Turn a password into a line of a credentials file.
    HashPassword(HashPasswordArguments),
    /// Say which version this is.
    Version,
}

/// Flags of `holdfast run`.
#[derive(Debug, Default, Args)]
pub struct RunArguments {
    #[command(flatten)]
    sources: SourceArguments,
    /// Stop when standard input ends: ties the node to the process that started it.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// Where a configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct SourceArguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, e.g. `--set mqtt.receive_maximum=200`. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// The id of this node.
    #[arg(long, value_name = "ID", conflicts_with = "node_id_from_hostname")]
    node_id: Option<String>,
    /// The id of this node is the number at the end of the host's name, plus one.
    #[arg(long)]
    node_id_from_hostname: bool,
}

/// Flags of `holdfast demo`.
#[derive(Debug, Clone, Args)]
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

/// Flags of `holdfast config`.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration is right, and every line that is not.
    Check(SourceArguments),
    /// Print what is set, with the place where it was written.
    Print {
        #[command(flatten)]
        sources: SourceArguments,
        /// Also what nobody set: all values in force.
        #[arg(long)]
        effective: bool,
    },
}

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

impl RunArguments {
    /// Reads the configuration that the flags and the environment ask for.
    ///
    /// # Errors
    /// [`StartError::Config`].
    pub fn load(&self) -> Result<Loaded, StartError> {
        self.sources.load()
    }

    /// With `--exit-with-stdin`: starts a thread that stops this process when its standard input
    /// ends, which the kernel sees to when the process that started it dies.
    pub fn watch_stdin(&self) {
        if self.exit_with_stdin {
            std::thread::spawn(stop_when_stdin_ends);
        }
    }
}

/// How long a node that lost its parent may take to stop in order.
const ORPHAN_GRACE: std::time::Duration = std::time::Duration::from_secs(10);

fn stop_when_stdin_ends() {
    // An error ends standard input as well.
    io::copy(&mut io::stdin(), &mut io::sink()).ok();
    let own = rustix::process::getpid();
    // The ordinary way first, through the handler of SIGTERM; then without asking.
    rustix::process::kill_process(own, rustix::process::Signal::TERM).ok();
    std::thread::sleep(ORPHAN_GRACE);
    std::process::exit(1);
}

impl SourceArguments {
    fn load(&self) -> Result<Loaded, StartError> {
        let mut overrides: Vec<Override> = self
            .set
            .iter()
            .map(|(key, value)| Override {
                key: key.clone(),
                value: value.clone(),
                flag: format!("--set {key}={value}"),
            })
            .collect();
        let id = |value: &str, flag: String| Override {
            key: "node.id".to_owned(),
            value: value.to_owned(),
            flag,
        };
        if let Some(node_id) = &self.node_id {
            overrides.push(id(node_id, format!("--node-id {node_id}")));
        }
        if self.node_id_from_hostname {
            overrides.push(id(
                config::FROM_HOSTNAME,
                "--node-id-from-hostname".to_owned(),
            ));
        }
        Ok(Loaded::load(&Sources::of_process(
            self.config.clone(),
            overrides,
        ))?)
    }
}

/// Splits `KEY=VALUE`.
fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        Some(_) | None => Err("expected KEY=VALUE, such as mqtt.receive_maximum=200".to_owned()),
    }
}

/// Carries out `holdfast config …`.
///
/// # Errors
/// [`StartError::Config`]: the configuration is wrong.
pub fn config(arguments: &ConfigArguments, format: AnswerFormat) -> Result<(), StartError> {
    match &arguments.command {
        ConfigCommand::Check(sources) => {
            let loaded = sources.load()?;
            let config = &loaded.config;
            if let Some(path) = &config.auth.scram_file {
                ScramUsers::read(path)?;
            }
            let kind = if config.cluster.is_single_node() {
                "a single node".to_owned()
            } else {
                format!("node {} of {}", config.node.id, config.cluster.peers.len())
            };
            match format {
                AnswerFormat::Text => say(&format!("ok: {kind}")),
                AnswerFormat::Json => say(&serde_json::json!({ "ok": true }).to_string()),
            }
        }
        ConfigCommand::Print { sources, effective } => {
            let loaded = sources.load()?;
            let printed = if *effective {
                Printed::Effective
            } else {
                Printed::Written
            };
            match format {
                AnswerFormat::Text => say(config::print(&loaded.entries, printed).trim_end()),
                AnswerFormat::Json => say(&config::as_json(&loaded.entries, printed).to_string()),
            }
        }
    }
    Ok(())
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
    fn a_set_flag_needs_a_key_and_a_value() {
        assert_eq!(
            key_and_value("a.b=c=d"),
            Ok(("a.b".to_owned(), "c=d".to_owned()))
        );
        assert_eq!(key_and_value("a="), Ok(("a".to_owned(), String::new())));
        assert!(key_and_value("a.b").is_err());
        assert!(key_and_value("=c").is_err());
    }

    #[test]
    fn a_kept_folder_and_an_ephemeral_one_exclude_each_other() {
        assert!(
            Arguments::try_parse_from(["holdfast", "demo", "--dir", "x", "--ephemeral"]).is_err()
        );
        assert!(Arguments::try_parse_from(["holdfast", "demo", "--ephemeral"]).is_ok());
    }
}
