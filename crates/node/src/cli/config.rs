//! `holdfast config`: looks at a configuration, or writes an example of one.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::run::SourceArguments;
use super::{AnswerFormat, example, say};
use crate::admin::Tokens;
use crate::auth::AccessPolicy;
use crate::config::{self, Printed};
use crate::error::StartError;
use crate::server::peer_security;
use crate::transport::TlsStore;

/// What `config init` writes: everything that is not a comment is the default.
const EXAMPLE: &str = include_str!("example.toml");

/// Flags of `holdfast config`.
#[derive(Debug, Args)]
#[command(after_help = example("holdfast config check --config holdfast.toml"))]
pub struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Write a commented example; a file that is there already is left alone.
    #[command(after_help = example("holdfast config init ./holdfast.toml"))]
    Init {
        /// Where to.
        #[arg(default_value = "holdfast.toml")]
        file: PathBuf,
    },
    /// Say whether the configuration is right, and every line that is not.
    #[command(after_help = example("holdfast config check --config holdfast.toml"))]
    Check(SourceArguments),
    /// Print what is set, with the place where it was written.
    #[command(after_help = example("holdfast config print --config holdfast.toml --effective"))]
    Print {
        #[command(flatten)]
        sources: SourceArguments,
        /// Also what nobody set: all values in force.
        #[arg(long)]
        effective: bool,
    },
}

/// Carries out `holdfast config …`.
///
/// # Errors
/// [`StartError::Config`]: the configuration is wrong.
pub fn config(arguments: &ConfigArguments, format: AnswerFormat) -> Result<(), StartError> {
    match &arguments.command {
        ConfigCommand::Init { file } => init(file, format)?,
        ConfigCommand::Check(sources) => {
            let loaded = sources.load()?;
            let config = &loaded.config;
            AccessPolicy::load(&config.auth, &config.acl)?;
            if let Some(path) = &config.admin.token_file {
                Tokens::read(path)?;
            }
            peer_security(config, &TlsStore::load(config)?)?;
            let kind = if config.cluster.is_single_node() {
                "a single node".to_owned()
            } else {
                format!("node {} of {}", config.node.id, config.cluster.peers.len())
            };
            match format {
                AnswerFormat::Text => say(&format!("ok: {kind}")),
                AnswerFormat::Json => say(&json!({ "ok": true }).to_string()),
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

/// Writes the example, unless something is there.
fn init(file: &Path, format: AnswerFormat) -> Result<(), StartError> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(EXAMPLE.as_bytes()));
    written.map_err(|error| {
        let name = file.display();
        if error.kind() == ErrorKind::AlreadyExists {
            StartError::Usage(format!("{name} is there already and was left alone"))
        } else {
            StartError::failed(format!("cannot write {name}"), error)
        }
    })?;
    let name = file.display().to_string();
    match format {
        AnswerFormat::Text => say(&format!(
            "{name} is written; start with: holdfast run --config {name}"
        )),
        AnswerFormat::Json => say(&json!({ "written": name }).to_string()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Loaded, Sources};

    #[test]
    fn the_example_is_the_built_in_default() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("holdfast.toml");
        init(&file, AnswerFormat::Json).unwrap();
        let loaded = Loaded::load(&Sources {
            file: Some(file.clone()),
            environment: Vec::new(),
            overrides: Vec::new(),
        });
        assert_eq!(loaded.unwrap().config, Config::default());
        std::fs::write(&file, "mine").unwrap();
        assert!(init(&file, AnswerFormat::Json).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
