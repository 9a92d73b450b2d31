//! Turns `log.*` into a `tracing` subscriber.
//!
//! Operators know one name, `holdfast`; our crates have several. A level without a target is meant
//! for us: libraries stay at `warn`, and openraft at `error`, since it writes dozens of lines a second
//! at `warn` for as long as one peer is away.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
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

/// Reads a filter: a level for everything of ours, or a list of `TARGET=LEVEL`.
///
/// `holdfast` stands for all our crates, `holdfast::raft` for the shards, `holdfast::NAME` for a
/// module of the node; any other target is the path of a library. `None`: not understood.
pub fn filter(text: &str) -> Option<Targets> {
    let mut filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("openraft", LevelFilter::ERROR);
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
    let registry = tracing_subscriber::registry().with(filter(&config.level));
    // An error means that there is a subscriber already.
    if is_text {
        registry.with(lines).try_init().ok();
    } else {
        registry
            .with(lines.json().flatten_event(true))
            .try_init()
            .ok();
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
