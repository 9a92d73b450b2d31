//! What the brokers' processes used, from `/proc`.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::LoadError;

/// One tick of `/proc/PID/stat`, microseconds: Linux shows hundredths of a second on all platforms
/// that Holdfast runs on.
const TICK_US: u64 = 10_000;

/// CPU time of all `pids` together, microseconds: user and system, also of threads that are gone.
///
/// The kernel keeps the sum in nanoseconds and shows it in ticks, so it is off by at most one tick
/// (10 ms) per process: measure for seconds.
///
/// # Errors
/// A process is gone.
pub fn cpu_us(pids: &[u32]) -> Result<u64, LoadError> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(LoadError::io(&path))?;
        ticks += cpu_ticks(&text).ok_or_else(|| LoadError::Protocol(format!("{path}: {text}")))?;
    }
    Ok(ticks.saturating_mul(TICK_US))
}

/// `utime` and `stime` of a line of `/proc/PID/stat`. The command's name may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory of all `pids` together, bytes.
///
/// # Errors
/// A process is gone.
pub fn resident_bytes(pids: &[u32]) -> Result<u64, LoadError> {
    let mut bytes = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).map_err(LoadError::io(&path))?;
        bytes += resident(&text).ok_or_else(|| LoadError::Protocol(format!("{path}: no VmRSS")))?;
    }
    Ok(bytes)
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

/// Ends a process at once, as a power cut would.
///
/// # Errors
/// There is none, or it is not ours.
pub fn kill(pid: u32) -> Result<(), LoadError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = raw.ok_or_else(|| LoadError::Usage(format!("{pid} is no process id")))?;
    kill_process(pid, Signal::KILL)
        .map_err(|error| LoadError::io(format!("kill {pid:?}"))(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_command_is_called() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(line), Some(100));
        assert_eq!(cpu_ticks("42 (a"), None);
    }

    #[test]
    fn resident_memory_is_found_among_the_other_lines() {
        let status = "Name:\tx\nVmPeak:\t  999 kB\nVmRSS:\t     12 kB\n";
        assert_eq!(resident(status), Some(12 * 1_024));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        assert!(resident_bytes(&[pid, pid]).unwrap() > resident_bytes(&[pid]).unwrap());
        assert!(cpu_us(&[pid]).is_ok());
    }
}
