//! The process's own metrics, under the names that every Prometheus client library uses, read at
//! each scrape: seconds of CPU are a fraction, which the recorder's counters cannot hold.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Renders what can be read; what cannot is left out.
pub(super) fn render() -> String {
    let mut text = String::new();
    let mut add = |name: &str, metric_type: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {metric_type}\n{name} {value}\n"
            )
            .ok();
        }
    };
    add(
        "process_cpu_seconds_total",
        "counter",
        "CPU time of this process, user and system, in seconds.",
        cpu_seconds(),
    );
    add(
        "process_resident_memory_bytes",
        "gauge",
        "Memory of this process that is in RAM.",
        status_bytes("VmRSS:"),
    );
    add(
        "process_virtual_memory_bytes",
        "gauge",
        "Address space of this process.",
        status_bytes("VmSize:"),
    );
    add(
        "process_open_fds",
        "gauge",
        "File descriptors open now.",
        open_fds(),
    );
    add(
        "process_max_fds",
        "gauge",
        "File descriptors that may be open.",
        max_fds(),
    );
    add(
        "process_start_time_seconds",
        "gauge",
        "When this process started, in seconds since 1970.",
        start_time(),
    );
    text
}

fn cpu_seconds() -> Option<f64> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u32::try_from(time.tv_sec).ok()?;
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    Some(f64::from(seconds) + f64::from(nanoseconds) / 1e9)
}

/// Memory of this process that is in RAM.
pub(super) fn resident_bytes() -> Option<u64> {
    status_kib("VmRSS:")?.checked_mul(1_024)
}

/// A line of `/proc/self/status`, which counts in kB.
fn status_kib(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn status_bytes(field: &str) -> Option<f64> {
    // Exact up to 2^53, which no memory reaches.
    status_kib(field).map(|kib| kib as f64 * 1_024.0)
}

fn open_fds() -> Option<f64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn max_fds() -> Option<f64> {
    let limit = getrlimit(Resource::Nofile).current?;
    u32::try_from(limit).ok().map(f64::from)
}

/// Taken at the first scrape from the age of `/proc/self`, which is as old as the process.
fn start_time() -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    *START.get_or_init(|| {
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
        // Field 22, behind the name in parentheses, in hundredths of a second since the boot: the
        // unit is fixed by the kernel's interface on every architecture that we build for.
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()?
            .as_secs_f64();
        Some(now - (uptime - ticks / 100.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described_by_plausible_numbers() {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let started = start_time().unwrap();
        assert!(
            started <= now + 1.0 && started > now - 86_400.0,
            "{started} against {now}"
        );
        assert!(open_fds().unwrap() >= 3.0);
        assert!(status_bytes("VmRSS:").unwrap() > 100_000.0);
        assert_eq!(render().matches("# TYPE").count(), 6);
    }
}
