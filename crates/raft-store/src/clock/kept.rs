//! Shard time across a restart of this node: what its clocks said, in a file beside the databases.
//!
//! The entries in the log say how far shard time was when they were made, and not what passed since.
//! The machine's time since boot goes on while no process of ours runs, so that a clock is kept as
//! what shard time was at which time since boot, together with the name of that boot. After a power
//! loss, or on another machine, the boot is another one and what was kept says nothing: then the time
//! since the last entry is lost, rather late than early.
//!
//! `data_dir/clocks` is text: `clocks 1`, the boot's id, and a line `SHARD TIME_MS AT_MS TERM APPLIED_MS`
//! per shard. It is replaced as a whole and never synced: it need not outlive the machine's memory. A file
//! that can't be read is as good as none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codec::Timestamp;

use crate::ids::ShardId;

const FILE: &str = "clocks";
const TEMPORARY: &str = "clocks.new";
const HEAD: &str = "clocks 1";
/// Linux names each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A shard's clock, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptClock {
    /// Shard time at `at`.
    pub(crate) time: Timestamp,
    /// Time since boot.
    pub(crate) at: Duration,
    /// Whose time it is: the term of a leader.
    pub(crate) term: u64,
    /// The last time that was applied.
    pub(crate) applied: Timestamp,
}

/// The clocks of all shards of a node.
pub(crate) type KeptClocks = BTreeMap<ShardId, KeptClock>;

/// The file.
#[derive(Debug)]
pub(crate) struct ClockFile {
    folder: PathBuf,
    /// `None`: this system does not tell; then nothing is kept.
    boot: Option<String>,
    written: KeptClocks,
}

impl ClockFile {
    pub(crate) fn new(data_dir: &Path) -> Self {
        let boot = fs::read_to_string(BOOT_ID).ok();
        Self {
            folder: data_dir.to_owned(),
            boot: boot.map(|boot| boot.trim().to_owned()),
            written: KeptClocks::new(),
        }
    }

    /// What an earlier process of this boot kept.
    pub(crate) fn read(&self) -> KeptClocks {
        let text = fs::read_to_string(self.folder.join(FILE));
        let clocks = match (&text, &self.boot) {
            (Ok(text), Some(boot)) => parse(text, boot),
            (Ok(_) | Err(_), _) => None,
        };
        let clocks = clocks.unwrap_or_default();
        tracing::info!(clocks = clocks.len(), "shard times of before the start");
        clocks
    }

    /// Keeps these, unless they are kept already: nothing is written while no shard is. Blocks for a
    /// moment.
    pub(crate) fn write(&mut self, clocks: KeptClocks) -> io::Result<()> {
        let Some(boot) = &self.boot else {
            return Ok(());
        };
        if clocks == self.written {
            return Ok(());
        }
        let temporary = self.folder.join(TEMPORARY);
        fs::write(&temporary, render(&clocks, boot))?;
        fs::rename(&temporary, self.folder.join(FILE))?;
        self.written = clocks;
        Ok(())
    }
}

fn render(clocks: &KeptClocks, boot: &str) -> String {
    let mut text = format!("{HEAD}\n{boot}\n");
    for (shard, clock) in clocks {
        // Rounded up: what has passed since is rather too little.
        let at_ms = clock.at.as_nanos().div_ceil(1_000_000);
        let (time_ms, applied_ms) = (clock.time.as_millis(), clock.applied.as_millis());
        let (shard, term) = (shard.0, clock.term);
        // Writing to a string does not fail.
        writeln!(text, "{shard} {time_ms} {at_ms} {term} {applied_ms}").ok();
    }
    text
}

/// `None`: it is of another boot, or damaged.
fn parse(text: &str, boot: &str) -> Option<KeptClocks> {
    // A file that was cut off ends within a line.
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != HEAD || lines.next()? != boot {
        return None;
    }
    lines.map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(ShardId, KeptClock)> {
    let mut fields = line.split(' ');
    let shard = ShardId(fields.next()?.parse().ok()?);
    let mut number = || fields.next()?.parse::<u64>().ok();
    let clock = KeptClock {
        time: Timestamp::from_millis(number()?),
        at: Duration::from_millis(number()?),
        term: number()?,
        applied: Timestamp::from_millis(number()?),
    };
    fields.next().is_none().then_some((shard, clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks() -> KeptClocks {
        let clock = |seconds: u64| KeptClock {
            time: Timestamp::from_millis(seconds * 1000 + 1),
            at: Duration::from_secs(seconds),
            term: seconds,
            applied: Timestamp::from_millis(seconds * 1000),
        };
        (0..3)
            .map(|shard| (ShardId(shard), clock(7 + u64::from(shard))))
            .collect()
    }

    #[test]
    fn what_is_kept_is_read_by_the_next_process_of_the_same_boot() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = ClockFile::new(folder.path());
        assert_eq!(file.read(), KeptClocks::new());
        for clocks in [KeptClocks::new(), clocks()] {
            file.write(clocks.clone()).unwrap();
            assert_eq!(ClockFile::new(folder.path()).read(), clocks);
        }
        assert!(!folder.path().join(TEMPORARY).exists());
        let after_a_boot = ClockFile {
            boot: Some("another".to_owned()),
            ..ClockFile::new(folder.path())
        };
        assert_eq!(after_a_boot.read(), KeptClocks::new());
        let untold = ClockFile {
            boot: None,
            ..ClockFile::new(folder.path())
        };
        assert_eq!(untold.read(), KeptClocks::new());
    }

    #[test]
    fn unchanged_clocks_are_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = ClockFile::new(folder.path());
        file.write(clocks()).unwrap();
        fs::remove_file(folder.path().join(FILE)).unwrap();
        file.write(clocks()).unwrap();
        assert!(!folder.path().join(FILE).exists());
    }

    #[test]
    fn a_file_that_is_cut_off_or_damaged_says_nothing() {
        let text = render(&clocks(), "boot");
        assert_eq!(parse(&text, "boot"), Some(clocks()));
        let cut = |length: usize| text.get(..length).unwrap();
        // What ends with a line is a shorter file, and as good.
        let partial = (0..text.len()).filter(|length| !cut(*length).ends_with('\n'));
        for length in partial {
            assert_eq!(parse(cut(length), "boot"), None, "{length}");
        }
        for line in ["x 1 2 3 4", "0 1 2 3", "0 1 2 3 4 5", "0 1 2 3 -4", ""] {
            let damaged = format!("{HEAD}\nboot\n{line}\n");
            assert_eq!(parse(&damaged, "boot"), None, "{line}");
        }
    }

    #[test]
    fn time_since_boot_is_rounded_up() {
        let clock = KeptClock {
            time: Timestamp::ZERO,
            at: Duration::from_nanos(1_000_001),
            term: 1,
            applied: Timestamp::ZERO,
        };
        let text = render(&[(ShardId(0), clock)].into(), "boot");
        assert!(text.ends_with("\n0 0 2 1 0\n"), "{text}");
    }
}
