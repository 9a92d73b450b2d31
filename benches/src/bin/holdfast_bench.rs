//! `holdfast-bench`: the table of figures, against mosquitto in the same run.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use benches::broker::end_with_this_process;
use benches::error::LoadError;
use benches::suite::{Part, Suite, SuitePlan};
use benches::table::{Grade, markdown};
use clap::{Parser, ValueEnum};
use codec::ProtocolVersion;

/// Measures Holdfast against mosquitto, in turn, and prints the table of docs/performance.md.
#[derive(Debug, Parser)]
#[command(name = "holdfast-bench")]
struct Arguments {
    /// The broker.
    #[arg(long, env = "HOLDFAST_BIN")]
    binary: PathBuf,
    /// For configuration, data and logs of the brokers; what is in it is removed.
    #[arg(long)]
    dir: PathBuf,
    /// Five rounds of ten seconds (about 20 minutes) instead of three of three (about 6).
    #[arg(long)]
    long: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Protocol version.
    #[arg(long, value_enum, default_value = "5.0")]
    mqtt: Version,
    /// Where everything that was measured goes, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fail when a line misses its limit.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5.0")]
    V5,
}

impl Arguments {
    fn plan(&self) -> SuitePlan {
        let long = self.long;
        SuitePlan {
            binary: self.binary.clone(),
            dir: self.dir.clone(),
            rounds: if long { 5 } else { 3 },
            warm_up: Duration::from_secs(if long { 2 } else { 1 }),
            duration: Duration::from_secs(if long { 10 } else { 3 }),
            kills: if long { 6 } else { 2 },
            idle_connections: 5_000,
            version: match self.mqtt {
                Version::V311 => ProtocolVersion::V311,
                Version::V5 => ProtocolVersion::V5,
            },
            only: self.only.clone(),
        }
    }
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn say(line: &str) {
    println!("{line}");
}

/// Whether all went well.
fn execute(arguments: &Arguments) -> Result<bool, LoadError> {
    end_with_this_process()?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    say(&format!("load before: {}", load.trim()));
    let suite = Suite::run(&arguments.plan(), &say)?;
    say("");
    say(&markdown(&suite.rows));
    for violation in &suite.violations {
        say(&format!("VIOLATION: {violation}"));
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&suite);
        let text = text.map_err(|error| LoadError::Protocol(error.to_string()))?;
        fs::write(path, text).map_err(LoadError::io(path.to_string_lossy()))?;
    }
    let missed = suite.rows.iter().any(|row| row.grade() == Grade::Missed);
    Ok(suite.violations.is_empty() && !(arguments.check && missed))
}

#[expect(clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    match execute(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("holdfast-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
