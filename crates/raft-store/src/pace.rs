//! When a batch leaves, and when it waits a little for company.
//!
//! Whoever is answered by an entry soon has something to say again: a publisher its next message, a
//! subscriber its acknowledgement. A batch that leaves with the first of them leaves the others to
//! the next one, and an entry costs a hundred times what a command in it costs. So after a crowd a
//! batch waits until as much has come as was in the larger one of the two before, but not longer than
//! the last one took, and never longer than [`WAIT_MAX`]. No crowd, no wait: a lone command leaves at once.

use std::time::Duration;

use tokio::time::Instant;

/// What counts as a crowd: below, the wait would cost more time than the entry costs work.
const CROWD_MIN: usize = 16;
/// The longest wait: less than what an fsync takes on a busy disk.
const WAIT_MAX: Duration = Duration::from_millis(8);

/// The pace of one sequence of batches, of which one is under way at a time.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Until when it is worth to wait for how much.
    company: Option<Company>,
    /// What the last one counted.
    last_weight: usize,
}

#[derive(Clone, Copy, Debug)]
struct Company {
    weight: usize,
    until: Instant,
}

impl Pace {
    /// A batch of this weight was answered, so long after it left.
    pub(crate) fn answered(&mut self, weight: usize, took: Duration) {
        self.answered_at(weight, took, Instant::now());
    }

    fn answered_at(&mut self, weight: usize, took: Duration, now: Instant) {
        // The steps of QoS 2 alternate between heavy and light ones.
        let weight = std::mem::replace(&mut self.last_weight, weight).max(weight);
        self.company = (weight >= CROWD_MIN).then(|| Company {
            weight,
            until: now + took.min(WAIT_MAX),
        });
    }

    /// Whether a batch of what waits should leave now: `None`; otherwise until when more may come.
    pub(crate) fn wait(&self, waiting: usize) -> Option<Instant> {
        self.wait_at(waiting, Instant::now())
    }

    fn wait_at(&self, waiting: usize, now: Instant) -> Option<Instant> {
        let company = self.company?;
        (waiting < company.weight && now < company.until).then_some(company.until)
    }

    /// What weight ends a wait.
    pub(crate) fn enough(&self) -> usize {
        self.company.map_or(1, |company| company.weight)
    }
}

#[cfg(test)]
impl Pace {
    /// Waits for so much, for very long.
    pub(crate) fn waiting_for(weight: usize) -> Self {
        let until = Instant::now() + Duration::from_secs(600);
        Self {
            company: Some(Company { weight, until }),
            last_weight: weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crowd_is_waited_for_and_only_until_it_is_there_or_the_time_is_up() {
        let took = Duration::from_millis(3);
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.wait_at(1, now), None);
        pace.answered_at(CROWD_MIN - 1, took, now);
        assert_eq!(pace.wait_at(1, now), None);

        pace.answered_at(CROWD_MIN, took, now);
        assert_eq!(pace.wait_at(1, now), Some(now + took));
        assert_eq!(pace.wait_at(CROWD_MIN, now), None);
        assert_eq!(pace.wait_at(1, now + took), None);

        // A light one after a heavy one: the next may be heavy again.
        pace.answered_at(1, took, now);
        assert_eq!(pace.wait_at(CROWD_MIN - 1, now), Some(now + took));
        pace.answered_at(1, took, now);
        assert_eq!(pace.wait_at(1, now), None);

        pace.answered_at(CROWD_MIN, WAIT_MAX * 2, now);
        assert_eq!(pace.wait_at(1, now), Some(now + WAIT_MAX));
    }
}
