//! What one subscriber got of one publisher: nothing lost, nothing twice, in order?

use std::collections::BTreeMap;

/// One delivery, held against those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first of its number, and later than all before.
    New,
    /// The first of its number, but a later one was here before.
    Late,
    /// Seen before.
    Repeated,
}

/// The numbers that arrived, as ranges: an undamaged stream takes one, whatever its length.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// First number of each range → one past its last. They neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
    /// One past the highest number; the end of the last range.
    end: u64,
    /// Of the range that ends at `end`.
    last_start: u64,
}

impl Ledger {
    /// Enters one number.
    pub fn receive(&mut self, sequence: u64) -> Verdict {
        if sequence == self.end && !self.ranges.is_empty() {
            self.end += 1;
            self.ranges.insert(self.last_start, self.end);
            return Verdict::New;
        }
        if sequence >= self.end {
            self.ranges.insert(sequence, sequence + 1);
            (self.last_start, self.end) = (sequence, sequence + 1);
            return Verdict::New;
        }
        let before = self.ranges.range(..=sequence).next_back();
        let before = before.map(|(&start, &end)| (start, end));
        if before.is_some_and(|(_, end)| sequence < end) {
            return Verdict::Repeated;
        }
        self.fill(before, sequence);
        Verdict::Late
    }

    /// Enters a number that lies in a gap.
    fn fill(&mut self, before: Option<(u64, u64)>, sequence: u64) {
        let start = match before {
            Some((start, end)) if end == sequence => start,
            Some(_) | None => sequence,
        };
        let end = match self.ranges.remove(&(sequence + 1)) {
            Some(end) => end,
            None => sequence + 1,
        };
        self.ranges.insert(start, end);
        if end == self.end {
            self.last_start = start;
        }
    }

    /// How many different numbers arrived.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// How many of the numbers `0..sent` did not arrive.
    #[must_use]
    pub fn missing(&self, sent: u64) -> u64 {
        let arrived: u64 = self
            .ranges
            .iter()
            .map(|(&start, &end)| end.min(sent).saturating_sub(start))
            .sum();
        sent - arrived
    }

    /// The first number of `0..sent` that did not arrive.
    #[must_use]
    pub fn first_missing(&self, sent: u64) -> Option<u64> {
        let first = match self.ranges.first_key_value() {
            Some((0, &end)) => end,
            Some(_) | None => 0,
        };
        (first < sent).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(ledger: &mut Ledger, numbers: &[u64]) -> Vec<Verdict> {
        numbers.iter().map(|n| ledger.receive(*n)).collect()
    }

    #[test]
    fn an_undamaged_stream_is_one_range() {
        let mut ledger = Ledger::default();
        let verdicts = receive(&mut ledger, &[0, 1, 2, 3]);
        assert_eq!(verdicts, [Verdict::New; 4]);
        assert_eq!((ledger.ranges.len(), ledger.missing(4)), (1, 0));
        assert_eq!(ledger.first_missing(4), None);
    }

    #[test]
    fn what_is_missing_is_counted_from_the_first_to_the_last_that_was_sent() {
        let mut ledger = Ledger::default();
        receive(&mut ledger, &[1, 2, 5]);
        assert_eq!((ledger.missing(8), ledger.distinct()), (5, 3));
        assert_eq!(ledger.first_missing(8), Some(0));
        assert_eq!(Ledger::default().missing(3), 3);
        assert_eq!(Ledger::default().first_missing(0), None);
    }

    #[test]
    fn a_repetition_is_seen_in_every_range() {
        let mut ledger = Ledger::default();
        receive(&mut ledger, &[0, 1, 5, 6, 9]);
        let verdicts = receive(&mut ledger, &[0, 1, 5, 6, 9]);
        assert_eq!(verdicts, [Verdict::Repeated; 5]);
        assert_eq!(ledger.distinct(), 5);
    }

    #[test]
    fn a_gap_that_fills_late_is_out_of_order_but_not_lost() {
        let mut ledger = Ledger::default();
        let verdicts = receive(&mut ledger, &[0, 3, 1, 2, 4, 2]);
        use Verdict::{Late, New, Repeated};
        assert_eq!(verdicts, [New, New, Late, Late, New, Repeated]);
        assert_eq!((ledger.missing(5), ledger.ranges.len()), (0, 1));
    }

    /// Against the plainest thing that could be right.
    #[test]
    fn it_agrees_with_a_list_of_what_came() {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % 40
        };
        for _ in 0..200 {
            let (mut ledger, mut seen) = (Ledger::default(), Vec::new());
            for _ in 0..30 {
                let number = next();
                let expected = match seen.iter().max() {
                    _ if seen.contains(&number) => Verdict::Repeated,
                    Some(max) if number < *max => Verdict::Late,
                    Some(_) | None => Verdict::New,
                };
                assert_eq!(ledger.receive(number), expected);
                if expected != Verdict::Repeated {
                    seen.push(number);
                }
                let missing = (0..35).filter(|n| !seen.contains(n)).count() as u64;
                assert_eq!(ledger.missing(35), missing);
                assert_eq!(
                    ledger.first_missing(35),
                    (0..35).find(|n| !seen.contains(n))
                );
            }
        }
    }
}
