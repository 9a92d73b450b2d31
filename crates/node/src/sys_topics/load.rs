//! `$SYS/broker/load/…`: moving averages, per minute, over the last 1, 5 and 15 minutes, as mosquitto and
//! the load average of Unix weigh them.

use std::time::Duration;

use super::{PREFIX, Texts};
use crate::proto::StatisticsReply;

/// Averages over one span, per minute, of what is in [`NAMES`].
type Rates = [f64; NAMES.len()];

const NAMES: [&str; 7] = [
    "connections",
    "messages/received",
    "messages/sent",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
];

const SPANS: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// All averages; they begin at 0.
#[derive(Debug, Default)]
pub(super) struct Loads {
    last: Option<(Duration, [u64; NAMES.len()])>,
    rates: [Rates; SPANS.len()],
}

impl Loads {
    /// Sums at a time of the process clock. Sums that became less are of a node that is gone: nothing.
    pub(super) fn add(&mut self, now: Duration, sum: &StatisticsReply) {
        let sums = [
            sum.connections_opened,
            sum.packets_received,
            sum.packets_sent,
            sum.publishes_received,
            sum.publishes_sent,
            sum.bytes_received,
            sum.bytes_sent,
        ];
        let Some((before, last)) = self.last.replace((now, sums)) else {
            return;
        };
        let minutes = now.saturating_sub(before).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((_, span), rates) in SPANS.iter().zip(&mut self.rates) {
            let keeps = (-minutes / span).exp();
            for ((rate, sum), last) in rates.iter_mut().zip(sums).zip(last) {
                // Exact up to 2^53 within one interval.
                let per_minute = sum.saturating_sub(last) as f64 / minutes;
                *rate = keeps.mul_add(*rate, (1.0 - keeps) * per_minute);
            }
        }
    }

    pub(super) fn describe(&self, texts: &mut Texts) {
        for ((span, _), rates) in SPANS.iter().zip(&self.rates) {
            for (name, rate) in NAMES.iter().zip(rates) {
                let topic = format!("{PREFIX}broker/load/{name}/{span}");
                texts.insert(topic, format!("{rate:.2}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: u32, per_step: u64) -> Texts {
        let mut loads = Loads::default();
        for step in 0..=steps {
            let sum = StatisticsReply {
                publishes_received: u64::from(step) * per_step,
                ..StatisticsReply::default()
            };
            loads.add(Duration::from_secs(10) * step, &sum);
        }
        let mut texts = Texts::new();
        loads.describe(&mut texts);
        texts
    }

    #[test]
    fn an_average_nears_the_rate_as_its_span_passes() {
        let rate = |texts: &Texts, span: &str| -> f64 {
            let topic = format!("$SYS/broker/load/publish/received/{span}");
            texts[&topic].parse().unwrap()
        };
        // 100 in 10 s are 600 in a minute; after one span 63 % of that is reached.
        let texts = after(6, 100);
        assert!((rate(&texts, "1min") - 379.27).abs() < 0.1);
        assert!(rate(&texts, "5min") < 120.0);
        let texts = after(6 * 60, 100);
        assert!((rate(&texts, "15min") - 600.0).abs() < 20.0);
        assert!((rate(&texts, "1min") - 600.0).abs() < 0.1);
    }

    #[test]
    fn a_sum_that_became_less_counts_as_nothing() {
        let mut loads = Loads::default();
        for (second, bytes_sent) in [(0, 900), (10, 100)] {
            let sum = StatisticsReply {
                bytes_sent,
                ..StatisticsReply::default()
            };
            loads.add(Duration::from_secs(second), &sum);
        }
        let mut texts = Texts::new();
        loads.describe(&mut texts);
        assert_eq!(texts["$SYS/broker/load/bytes/sent/1min"], "0.00");
    }
}
