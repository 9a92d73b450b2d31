//! What is wrong with a configuration, in the operator's words: where, which key, which value,
//! and what is allowed.

use std::fmt;
use std::path::PathBuf;

use super::value::Origin;

/// One thing that is wrong with the configuration.
///
/// Shown on one line as `PLACE: KEY = VALUE: MESSAGE`, for example
/// `holdfast.toml:12: cluster.heartbeat = "fast": expected a duration such as "100ms"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub(super) origin: Origin,
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) message: String,
}

impl Problem {
    /// The full key, e.g. `cluster.heartbeat`; empty when the file is not TOML at all.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.value {
            Some(value) => write!(f, "{} = {value}: ", self.key)?,
            None if self.key.is_empty() => {}
            None => write!(f, "{}: ", self.key)?,
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration to start with. Always exit code 2: nothing was started and
/// nothing was written; correct the line and start again.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// One or more keys are wrong; one line each.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// Joins problems to one line each.
fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
