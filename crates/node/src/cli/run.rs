//! `holdfast run`, and where a configuration comes from.

use std::io;
use std::path::PathBuf;

use clap::Args;

use super::example;
use crate::config::{self, Loaded, Override, Sources};
use crate::error::StartError;

/// Flags of `holdfast run`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = example("holdfast run --config /etc/holdfast/holdfast.toml"))]
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
    pub(super) fn load(&self) -> Result<Loaded, StartError> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
