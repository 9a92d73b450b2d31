//! `[sys_topics]`: statistics as retained messages below `$SYS/`.

use std::time::Duration;

use super::reader::Reader;
use super::value::Table;

/// `[sys_topics]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysTopicsConfig {
    /// `enabled`. Default true: what monitors mosquitto shows something here too.
    pub enabled: bool,
    /// `interval`, 1s..1h: how often what has changed is published. Default 10s, as mosquitto's.
    pub interval: Duration,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> SysTopicsConfig {
    let mut section = reader.section(root, "sys_topics");
    let second = Duration::from_secs(1);
    let config = SysTopicsConfig {
        enabled: section.boolean("enabled", true),
        interval: section.duration("interval", second * 10, second..=second * 3_600),
    };
    section.finish();
    config
}
