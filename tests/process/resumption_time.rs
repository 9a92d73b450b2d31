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

    /// The verdict; prints the figures. Each kill counts once, with the client that waited longest,
    /// however many clients it had.
    pub(crate) fn check(&self) {
        let mut longest: Vec<Duration> = self
            .kills
            .iter()
            .filter_map(|times| times.iter().max().copied())
            .collect();
        longest.sort();
        let (kills, clients) = (
            longest.len(),
            self.kills.iter().map(Vec::len).sum::<usize>(),
        );
        let (median, worst) = (percentile(&longest, 50), percentile(&longest, 100));
        report(&format!(
            "resumption on a survivor, the slowest client of each of {kills} kills ({clients} clients in all): \
             p50 {median:?}, worst {worst:?}"
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
