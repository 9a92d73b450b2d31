//! The four places a value can come from, merged: flag over environment over file over default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::value::{Kind, Origin, Table, Value, parse_file, put};

/// Prefix of every environment variable that we read.
const PREFIX: &str = "HOLDFAST_";
/// Filter of the log, with the syntax of `RUST_LOG`; stands above `log.level`.
const LOG_VARIABLE: &str = "HOLDFAST_LOG";
/// Longest secret that is read from a `…_FILE`, bytes. Bounds memory when it names a wrong file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// One key that a flag of the command line sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Full key, e.g. `listener.0.bind`.
    pub key: String,
    /// The value as text; the key decides how it is read.
    pub value: String,
    /// The flag as written, for error messages.
    pub flag: String,
}

/// Everything a configuration is read from, so that reading it depends on nothing else.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`; none: defaults, environment and flags only.
    pub file: Option<PathBuf>,
    /// The environment; variables that are not ours are skipped.
    pub environment: Vec<(OsString, OsString)>,
    /// `--set` and the other flags, the last one wins.
    pub overrides: Vec<Override>,
}

impl Sources {
    /// File and flags as given, and the environment of this process.
    pub fn of_process(file: Option<PathBuf>, overrides: Vec<Override>) -> Self {
        Self {
            file,
            environment: std::env::vars_os().collect(),
            overrides,
        }
    }

    /// Merges the sources into one table. `is_key` tells keys of the configuration, by full name,
    /// from others: it decides whether `HOLDFAST_A__B_FILE` is the key `a.b_file` or a file that
    /// holds `a.b`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] for the file; everything else is added to `problems`.
    pub(super) fn merge(
        &self,
        is_key: impl Fn(&str) -> bool,
        problems: &mut Vec<Problem>,
    ) -> Result<Table, ConfigError> {
        let mut table = match &self.file {
            None => Table::new(),
            Some(path) => read_file(path)?,
        };
        for (name, text) in self.variables() {
            let origin = Origin::Environment(name.clone());
            let Some(text) = text else {
                problems.push(problem(origin, &name, None, "not UTF-8"));
                continue;
            };
            match variable(&name, text, &is_key) {
                Ok((key, text)) => set(&mut table, &key, text, origin, problems),
                Err(message) => problems.push(problem(origin, &name, None, &message)),
            }
        }
        for flag in &self.overrides {
            let origin = Origin::Flag(flag.flag.clone());
            set(&mut table, &flag.key, flag.value.clone(), origin, problems);
        }
        Ok(table)
    }

    /// Our variables in the order of their names, so that list places come in order; those
    /// without `__` (such as `HOLDFAST_URL`) belong to other commands.
    fn variables(&self) -> Vec<(String, Option<String>)> {
        let mut variables: Vec<(String, Option<String>)> = self
            .environment
            .iter()
            .filter_map(|(name, text)| {
                Some((name.to_str()?.to_owned(), text.to_str().map(str::to_owned)))
            })
            .filter(|(name, _)| {
                name == LOG_VARIABLE
                    || name
                        .strip_prefix(PREFIX)
                        .is_some_and(|rest| rest.contains("__"))
            })
            .collect();
        variables.sort_by_cached_key(|(name, _)| places_in_order(name));
        variables
    }
}

/// Sort key under which `…__10__…` comes behind `…__9__…`, and [`LOG_VARIABLE`] behind all: it
/// stands above `HOLDFAST_LOG__LEVEL`.
fn places_in_order(name: &str) -> (bool, Vec<(u64, String)>) {
    let steps = name
        .split("__")
        .map(|step| (step.parse().unwrap_or(0), step.to_owned()))
        .collect();
    (name == LOG_VARIABLE, steps)
}

/// The key and the text that an environment variable stands for.
fn variable(
    name: &str,
    text: String,
    is_key: impl Fn(&str) -> bool,
) -> Result<(String, String), String> {
    if name == LOG_VARIABLE {
        return Ok(("log.level".to_owned(), text));
    }
    let key = name
        .strip_prefix(PREFIX)
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace("__", ".");
    match key.strip_suffix("_file") {
        Some(secret_key) if !is_key(&key) => {
            Ok((secret_key.to_owned(), read_secret(Path::new(&text))?))
        }
        _ => Ok((key, text)),
    }
}

/// Puts a text of the environment or of a flag into the table.
fn set(table: &mut Table, key: &str, text: String, origin: Origin, problems: &mut Vec<Problem>) {
    let path: Vec<&str> = key.split('.').collect();
    let value = Value {
        kind: Kind::Untyped(text),
        origin: origin.clone(),
    };
    let shown = value.show();
    if let Err(message) = put(table, &path, value) {
        problems.push(problem(origin, key, Some(shown), &message));
    }
}

fn problem(origin: Origin, key: &str, value: Option<String>, message: &str) -> Problem {
    Problem {
        origin,
        key: key.to_owned(),
        value,
        message: message.to_owned(),
    }
}

/// Reads the configuration file.
fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse_file(path, &text).map_err(|problem| ConfigError::Invalid(vec![problem]))
}

/// Reads a secret from the file that a `…_FILE` variable names; one newline at its end is not
/// part of it, since every editor writes one.
fn read_secret(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let cannot =
        |reason: String| format!("cannot read the secret from {}: {reason}", path.display());
    let file = std::fs::File::open(path).map_err(|error| cannot(error.to_string()))?;
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| cannot(error.to_string()))?;
    if u64::try_from(text.len()).map_or(true, |bytes| bytes > SECRET_BYTES_MAX) {
        return Err(cannot(format!("longer than {SECRET_BYTES_MAX} bytes")));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
