//! Repeats, times, prints.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

const SAMPLE: Duration = Duration::from_millis(50);
const SAMPLES: u32 = 12;

/// Runs those benchmarks whose name matches.
pub(crate) struct Harness {
    filter: Option<String>,
}

impl Harness {
    pub(crate) const fn new(filter: Option<String>) -> Self {
        Self { filter }
    }

    /// Whether a benchmark is wanted: to be asked before something large is built for it.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter))
    }

    /// Measures `once`, which does `operations` operations: CPU time of the process, which hardly
    /// depends on what else the machine does, and the time on the clock.
    #[expect(clippy::print_stdout, reason = "the result")]
    pub(crate) fn run(&self, name: &str, operations: u32, mut once: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        let repetitions = repetitions(&mut once);
        let mut best = Times::MAX;
        for _ in 0..SAMPLES {
            best = best.min(time(repetitions, &mut once));
        }
        let per_operation = |time: Duration| {
            time.as_secs_f64() * 1e9 / f64::from(repetitions) / f64::from(operations)
        };
        let (cpu_ns, wall_ns) = (per_operation(best.cpu), per_operation(best.wall));
        println!("{name:<55} {cpu_ns:>9.1} ns CPU {wall_ns:>11.1} ns");
    }
}

/// How long something took.
struct Times {
    cpu: Duration,
    wall: Duration,
}

impl Times {
    const MAX: Self = Self {
        cpu: Duration::MAX,
        wall: Duration::MAX,
    };

    fn min(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.min(other.cpu),
            wall: self.wall.min(other.wall),
        }
    }
}

/// How often `once` fits into one sample.
fn repetitions(once: &mut impl FnMut()) -> u32 {
    let mut repetitions = 1_u32;
    while time(repetitions, once).wall < SAMPLE && repetitions < 1 << 30 {
        repetitions *= 2;
    }
    repetitions
}

fn time(repetitions: u32, once: &mut impl FnMut()) -> Times {
    let (cpu, start) = (cpu_time(), Instant::now());
    for _ in 0..repetitions {
        once();
    }
    Times {
        wall: start.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    }
}

/// Of all threads of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
