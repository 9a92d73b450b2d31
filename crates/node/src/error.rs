//! Why a node did not start or stopped early, with the exit code that tells a supervisor whether
//! trying again can help.

use std::error::Error;
use std::path::{Path, PathBuf};

use crate::admin::TokenFileError;
use crate::auth::CredentialsError;
use crate::config::{ConfigError, Entry};
use crate::data_dir::DataDirError;

/// Exit code of a failure that may pass: a full disk, a child that died.
const FAILED: u8 = 1;
/// Exit code of a usage or configuration error: starting again changes nothing.
const USAGE: u8 = 2;
/// Exit code of a command whose node does not answer.
const UNREACHABLE: u8 = 3;
/// Exit code of a command that a node without quorum cannot carry out.
const NO_QUORUM: u8 = 4;

/// Why the process ends with an exit code other than 0.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file of credentials is wrong.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The file of tokens for the admin API is wrong.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// A socket cannot be bound: change the address, or stop what uses it.
    #[error("{}{key} = \"{address}\": cannot listen there: {source}", prefix(.place))]
    Bind {
        /// Where the address was written, once known.
        place: Option<String>,
        /// The key that names the address, e.g. `listener.0.bind`.
        key: String,
        /// The address.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that the configuration names is not there or of no use.
    #[error("{}{key} = {path:?}: {problem}", prefix(.place))]
    File {
        /// Where its path was written, once known.
        place: Option<String>,
        /// The key that names it, e.g. `listener.0.cert`.
        key: String,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A node cannot be reached: is it running, and is this its admin port?
    #[error("{url}: cannot be reached: {source}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why there was no answer.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A node answered, but a majority of the nodes does not answer it.
    #[error("{0}")]
    NoQuorum(String),
    /// A node refused what it was asked, or what was looked for is not as it should be.
    #[error("{0}")]
    Refused(String),
    /// A command cannot be carried out as it was given.
    #[error("{0}")]
    Usage(String),
    /// Anything else: see the message.
    #[error("{what}: {source}")]
    Failed {
        /// What was being done, in the operator's words.
        what: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StartError {
    /// A failure while doing `what`.
    pub fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            what: what.into(),
            source: source.into(),
        }
    }

    /// A socket that cannot be bound.
    pub fn bind(key: impl Into<String>, address: impl ToString, source: std::io::Error) -> Self {
        Self::Bind {
            place: None,
            key: key.into(),
            address: address.to_string(),
            source,
        }
    }

    /// A file that is not there or of no use.
    pub fn file(key: impl Into<String>, path: &Path, problem: impl ToString) -> Self {
        Self::File {
            place: None,
            key: key.into(),
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// Adds the file and line, the variable or the flag where the culprit was written.
    #[must_use]
    pub fn located(self, entries: &[Entry]) -> Self {
        match self {
            Self::Bind {
                key,
                address,
                source,
                ..
            } => {
                let place = place_of(&key, entries);
                Self::Bind {
                    place,
                    key,
                    address,
                    source,
                }
            }
            Self::File {
                key, path, problem, ..
            } => {
                let place = place_of(&key, entries);
                Self::File {
                    place,
                    key,
                    path,
                    problem,
                }
            }
            Self::Config(_)
            | Self::Credentials(_)
            | Self::Tokens(_)
            | Self::DataDir(_)
            | Self::Usage(_)
            | Self::Unreachable { .. }
            | Self::NoQuorum(_)
            | Self::Refused(_)
            | Self::Failed { .. } => self,
        }
    }

    /// 2: correct the command line, the configuration or the folder first. 1: it may pass.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Credentials(_)
            | Self::Tokens(_)
            | Self::Bind { .. }
            | Self::File { .. }
            | Self::Usage(_) => USAGE,
            Self::DataDir(error) if error.is_permanent() => USAGE,
            Self::DataDir(_) | Self::Refused(_) | Self::Failed { .. } => FAILED,
            Self::Unreachable { .. } => UNREACHABLE,
            Self::NoQuorum(_) => NO_QUORUM,
        }
    }
}

fn place_of(key: &str, entries: &[Entry]) -> Option<String> {
    let entry = entries.iter().find(|entry| entry.full_key() == key)?;
    Some(entry.origin.to_string())
}

/// `PLACE: ` when the place is known.
fn prefix(place: &Option<String>) -> String {
    place
        .as_ref()
        .map(|place| format!("{place}: "))
        .unwrap_or_default()
}
