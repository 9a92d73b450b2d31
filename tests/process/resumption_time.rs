//! How long clients of a dead node are without a connection: half of them within 2 s, all within 5 s.

use std::time::Duration;

use testkit::report;

const MEDIAN_MAX: Duration = Duration::from_secs(2);
const WORST_MAX: Duration = Duration::from_secs(5);
/// Kills that a verdict needs.
const KILLS_MIN: usize = 20;

/// From kill to CONNACK on a survivor, per kill.
#[derive(Debug, Default)]
pub(crate) struct ResumptionTimes {
    kills: Vec<Vec<Duration>>,
}

impl ResumptionTimes {
    /// The times of all clients of one kill.
    pub(crate) fn record(&mut self, times: Vec<Duration>) {
        if !times.is_empty() {
            self.kills.push(times);
        }
    }

    /// The verdict; prints the figures.
    pub(crate) fn check(&self) {
        let mut all: Vec<Duration> = self.kills.iter().flatten().copied().collect();
        all.sort();
        let (median, worst) = (percentile(&all, 50), percentile(&all, 100));
        let (kills, clients) = (self.kills.len(), all.len());
        let p95 = percentile(&all, 95);
        report(&format!(
            "resumption on a survivor over {kills} kills, {clients} clients: p50 {median:?}, p95 {p95:?}, worst {worst:?}"
        ));
        assert!(
            kills >= KILLS_MIN,
            "{kills} kills are too few for a verdict"
        );
        assert!(
            median <= MEDIAN_MAX,
            "p50 {median:?} is above {MEDIAN_MAX:?}"
        );
        assert!(
            worst <= WORST_MAX,
            "the worst {worst:?} is above {WORST_MAX:?}"
        );
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.saturating_sub(1)]
}

#[test]
fn a_percentile_is_one_of_the_samples() {
    let sorted: Vec<Duration> = (1..=10).map(Duration::from_secs).collect();
    assert_eq!(percentile(&sorted, 50), Duration::from_secs(5));
    assert_eq!(percentile(&sorted, 95), Duration::from_secs(10));
    assert_eq!(percentile(&sorted, 100), Duration::from_secs(10));
    assert_eq!(percentile(&sorted[..1], 50), Duration::from_secs(1));
}
