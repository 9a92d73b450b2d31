//! `[log]`: what is logged, how, and where to.

use super::reader::Reader;
use super::value::Table;
use crate::logging;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`. Default `auto`: people read text, collectors read JSON.
    pub format: LogFormat,
    /// `level`, also `HOLDFAST_LOG`: a level, or a list of `TARGET=LEVEL`. Default `info`.
    pub level: String,
    /// `target`. Default `stderr`: standard output stays free.
    pub target: LogTarget,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `auto`: text on a terminal, else JSON.
    Auto,
    /// `text`: one line for people.
    Text,
    /// `json`: one JSON object a line.
    Json,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// `stderr`.
    Stderr,
    /// `stdout`.
    Stdout,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> LogConfig {
    let mut section = reader.section(root, "log");
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
    let targets = [("stderr", LogTarget::Stderr), ("stdout", LogTarget::Stdout)];
    let expected =
        "error, warn, info, debug, trace, off, or a list such as \"info,holdfast::raft=debug\"";
    let config = LogConfig {
        format: section.choice("format", "auto", &formats, LogFormat::Auto),
        level: section.parsed("level", ("info".to_owned(), "info"), expected, |text| {
            logging::filter(text).map(|_| text.to_owned())
        }),
        target: section.choice("target", "stderr", &targets, LogTarget::Stderr),
    };
    section.finish();
    config
}
