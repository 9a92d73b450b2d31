//! Turns `log.*` into a `tracing` subscriber.
//!
//! Operators know one name, `holdfast`; our crates have several. A level without a target is meant
//! for us: libraries stay at `warn`, and openraft at `error`, since it writes dozens of lines a second
//! at `warn` for as long as one peer is away.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat, LogTarget};

/// The crates whose log lines are ours; `holdfast` is the binary.
const OUR_CRATES: [&str; 6] = [
    "holdfast",
    "node",
    "raft_store",
    "codec",
    "session",
    "router",
];

/// One line for each change by an administrator.
const AUDIT: &str = "holdfast::audit";

/// The filter in force, and the way to change it.
struct InForce {
    handle: reload::Handle<Targets, Registry>,
    level: Mutex<String>,
}

static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// The level in force, as it was written; empty when this process does not log.
pub fn level() -> String {
    let level = IN_FORCE.get().map(|in_force| {
        let level = in_force
            .level
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        level.clone()
    });
    level.unwrap_or_default()
}

/// Changes what is logged from now on, in the words of `log.level`.
///
/// # Errors
/// A sentence: the text is no level, or this process does not log.
pub fn set_level(text: &str) -> Result<(), String> {
    let new = filter(text).ok_or_else(|| {
        "level is error, warn, info, debug, trace, off, or a list such as \"info,holdfast::raft=debug\""
            .to_owned()
    })?;
    let in_force = IN_FORCE.get().ok_or("this process does not log")?;
    in_force
        .handle
        .reload(new)
        .map_err(|error| error.to_string())?;
    let mut level = in_force
        .level
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    text.clone_into(&mut level);
    Ok(())
}

/// Reads a filter: a level for everything of ours, or a list of `TARGET=LEVEL`.
///
/// `holdfast` stands for all our crates, `holdfast::raft` for the shards, `holdfast::NAME` for a
/// module of the node; any other target is the path of a library. `None`: not understood.
pub fn filter(text: &str) -> Option<Targets> {
    let mut filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("openraft", LevelFilter::ERROR)
        // Who changed what is kept however quiet the log is, unless it is named itself.
        .with_target(AUDIT, LevelFilter::INFO);
    let mut directives = 0;
    for directive in text
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
    {
        directives += 1;
        filter = match directive.split_once('=') {
            None => {
                let level: LevelFilter = named_level(directive)?;
                let ours = OUR_CRATES.iter().map(|target| (*target, level));
                filter
                    .with_default(level.min(LevelFilter::WARN))
                    .with_target("openraft", level.min(LevelFilter::ERROR))
                    .with_targets(ours)
            }
            Some((target, level)) => {
                let level = named_level(level)?;
                filter.with_targets(targets(target)?.into_iter().map(|target| (target, level)))
            }
        };
    }
    (directives > 0).then_some(filter)
}

/// A level by name; a number, which `tracing` would take as well, is more likely a mistake.
fn named_level(text: &str) -> Option<LevelFilter> {
    text.parse()
        .ok()
        .filter(|_| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// The module paths that an operator's target stands for.
fn targets(target: &str) -> Option<Vec<String>> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
    if target.is_empty() || !target.chars().all(is_path) {
        return None;
    }
    Some(match target.split_once("::") {
        None if target == "holdfast" => OUR_CRATES.map(str::to_owned).to_vec(),
        Some(("holdfast", "audit")) => vec![AUDIT.to_owned()],
        Some(("holdfast", "raft")) => vec!["raft_store".to_owned(), "openraft".to_owned()],
        Some(("holdfast", module)) => vec![format!("node::{module}")],
        Some(_) | None => vec![target.to_owned()],
    })
}

/// Starts logging for this process. A second call changes nothing, so that tests may start several
/// nodes in one process.
pub fn init(config: &LogConfig) {
    let (writer, is_terminal) = match config.target {
        LogTarget::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        LogTarget::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
    };
    let is_text = match config.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(is_terminal);
    let filter = filter(&config.level).unwrap_or_default();
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let begun = if is_text {
        registry.with(lines).try_init()
    } else {
        registry.with(lines.json().flatten_event(true)).try_init()
    };
    // An error means that there is a subscriber already.
    if begun.is_ok() {
        let level = Mutex::new(config.level.clone());
        IN_FORCE.set(InForce { handle, level }).ok();
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_is_for_our_crates_and_libraries_stay_at_warn() {
        let filter = filter("debug").unwrap();
        assert!(filter.would_enable("raft_store::shard", &Level::DEBUG));
        assert!(!filter.would_enable("raft_store::shard", &Level::TRACE));
        assert!(!filter.would_enable("h2::codec", &Level::INFO));
        assert!(filter.would_enable("h2::codec", &Level::WARN));
        assert!(!filter.would_enable("openraft::core", &Level::WARN));
        assert!(filter.would_enable("openraft::core", &Level::ERROR));
    }

    #[test]
    fn a_quieter_level_quietens_libraries_too() {
        let filter = filter("error").unwrap();
        assert!(!filter.would_enable("h2::codec", &Level::WARN));
    }

    #[test]
    fn targets_are_named_after_the_product() {
        let filter =
            filter("info,holdfast::raft=debug,holdfast::connection=trace,h2=info").unwrap();
        assert!(filter.would_enable("raft_store::shard", &Level::DEBUG));
        assert!(filter.would_enable("node::connection", &Level::TRACE));
        assert!(!filter.would_enable("node::publish", &Level::DEBUG));
        assert!(filter.would_enable("h2::codec", &Level::INFO));
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for bad in [
            "",
            ",",
            "verbose",
            "info,",
            "x=",
            "=info",
            "a b=info",
            "holdfast::raft=loud",
            "3",
        ] {
            assert_eq!(filter(bad).is_some(), bad == "info,", "{bad}");
        }
    }
}
