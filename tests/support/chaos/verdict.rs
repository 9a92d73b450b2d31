//! Promises against receipts: per kind of fault, as a table for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use codec::Qos;

use super::faults::{KINDS, Kind};
use super::ledger::{Books, Got, Sent};

/// Violations that are shown.
const SHOWN_MAX: usize = 10;

/// What happened from the beginnings of the faults of one kind until the next fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `kill`, `pause`, `disconnect`; `before` the first fault.
    pub fault: String,
    /// How many.
    pub count: u32,
    /// Handshakes that stood open when they began.
    pub open_handshakes: u32,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Of these, per subscriber that had to get one: never came.
    pub lost: u64,
    /// Came more often than it may.
    pub repeated: u64,
    /// QoS 1 messages that came again as the standard allows: they, or the PUBACK, were under way when
    /// a connection broke.
    pub again: u64,
    /// The longest time in which a publisher got no acknowledgement.
    pub worst_pause: Duration,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// One per kind of fault.
    pub rows: Vec<Row>,
    /// Sessions that were lost, packets that may not come.
    pub violations: Vec<String>,
    /// Messages that arrived, at all subscribers.
    pub delivered: u64,
}

impl Verdict {
    /// Why it is bad, in words; empty when it is good.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let sum = |of: fn(&Row) -> u64| self.rows.iter().map(of).sum::<u64>();
        let mut reasons = Vec::new();
        let (lost, repeated) = (sum(|row| row.lost), sum(|row| row.repeated));
        if lost > 0 {
            reasons.push(format!("{lost} lost"));
        }
        if repeated > 0 {
            reasons.push(format!("{repeated} repeated"));
        }
        if !self.violations.is_empty() {
            reasons.push(format!(
                "{} breaches of the protocol",
                self.violations.len()
            ));
        }
        // A run that did nothing proves nothing.
        for row in &self.rows {
            if row.count > 0 && row.acknowledged == 0 {
                reasons.push(format!("nothing was acknowledged at any {}", row.fault));
            }
        }
        if self.rows.iter().all(|row| row.count == 0) {
            reasons.push("no fault was made".to_owned());
        }
        reasons
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let mut rows = Vec::new();
        for row in &self.rows {
            rows.push(format!(
                "{{\"fault\":\"{}\",\"count\":{},\"open_handshakes\":{},\"acknowledged\":{},\"lost\":{},\
                 \"repeated\":{},\"qos1_again\":{},\"worst_pause_s\":{:.3}}}",
                row.fault,
                row.count,
                row.open_handshakes,
                row.acknowledged,
                row.lost,
                row.repeated,
                row.again,
                row.worst_pause.as_secs_f64()
            ));
        }
        let quoted = |texts: &[String]| {
            let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
            texts.join(",")
        };
        let reasons = self.reasons();
        format!(
            "{{\"ok\":{},\"reasons\":[{}],\"delivered\":{},\"faults\":[{}],\"violations\":[{}]}}",
            reasons.is_empty(),
            quoted(&reasons),
            self.delivered,
            rows.join(","),
            quoted(&self.violations)
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<11}{:>6}{:>10}{:>14}{:>7}{:>10}{:>13}{:>13}",
            "fault",
            "count",
            "mid-shake",
            "acknowledged",
            "lost",
            "repeated",
            "QoS 1 again",
            "worst pause"
        )?;
        for row in &self.rows {
            let pause = format!("{:.1} s", row.worst_pause.as_secs_f64());
            writeln!(
                f,
                "{:<11}{:>6}{:>10}{:>14}{:>7}{:>10}{:>13}{:>13}",
                row.fault,
                row.count,
                row.open_handshakes,
                row.acknowledged,
                row.lost,
                row.repeated,
                row.again,
                pause
            )?;
        }
        for violation in self.violations.iter().take(SHOWN_MAX) {
            writeln!(f, "breach: {violation}")?;
        }
        let reasons = self.reasons();
        if reasons.is_empty() {
            write!(
                f,
                "verdict: nothing lost, nothing repeated; {} deliveries",
                self.delivered
            )
        } else {
            write!(f, "verdict: FAILED: {}", reasons.join(", "))
        }
    }
}

/// Index into the rows: 0 before the first fault, then the kinds.
fn row_at(books: &Books, at: Duration) -> usize {
    let begun = books.faults.iter().rev().find(|(began, ..)| *began <= at);
    begun.map_or(0, |(_, kind, _)| row_of(*kind))
}

fn row_of(kind: Kind) -> usize {
    1 + KINDS.iter().position(|one| *one == kind).unwrap_or(0)
}

pub(super) fn judge(books: &Books) -> Verdict {
    let names = std::iter::once("before".to_owned()).chain(KINDS.iter().map(Kind::to_string));
    let mut rows: Vec<Row> = names
        .map(|fault| Row {
            fault,
            count: 0,
            open_handshakes: 0,
            acknowledged: 0,
            lost: 0,
            repeated: 0,
            again: 0,
            worst_pause: Duration::ZERO,
        })
        .collect();
    for (_, kind, open) in &books.faults {
        let row = &mut rows[row_of(*kind)];
        row.count += 1;
        row.open_handshakes += open;
    }
    let mut violations = books.violations.clone();
    for (publisher, publications) in books.publishers.iter().enumerate() {
        let mut acknowledged: Vec<Duration> = Vec::new();
        for (sent, number) in publications.messages.iter().zip(0..) {
            acknowledged.extend(sent.acknowledged);
            one_message(
                books,
                &mut rows,
                publications.qos,
                (publisher, number),
                sent,
            );
        }
        acknowledged.sort_unstable();
        for pair in acknowledged.windows(2) {
            let row = &mut rows[row_at(books, pair[1])];
            row.worst_pause = row.worst_pause.max(pair[1] - pair[0]);
        }
    }
    violations.extend(never_sent(books));
    let copies = books
        .subscribers
        .iter()
        .flat_map(|one| one.messages.values());
    Verdict {
        rows,
        violations,
        delivered: copies.map(|got| u64::from(got.copies)).sum(),
    }
}

fn one_message(books: &Books, rows: &mut [Row], qos: Qos, key: (usize, u64), sent: &Sent) {
    // What was never acknowledged counts where the run ends, if it was repeated.
    let row = &mut rows[row_at(books, sent.acknowledged.unwrap_or(Duration::MAX))];
    row.acknowledged += u64::from(sent.acknowledged.is_some());
    for subscriber in &books.subscribers {
        let got = subscriber.messages.get(&key).copied().unwrap_or_default();
        if got.copies == 0 && sent.acknowledged.is_some() {
            row.lost += 1;
        }
        let allowed = allowed(qos, sent, got);
        row.repeated += u64::from(got.copies.saturating_sub(allowed));
        row.again += u64::from(got.copies.min(allowed).saturating_sub(1));
    }
}

/// QoS 2: once. QoS 1: once for each PUBLISH of the publisher, since a broker can't tell a repeat from
/// a new message, and once more for each that says with DUP that it may be one.
fn allowed(qos: Qos, sent: &Sent, got: Got) -> u32 {
    match qos {
        Qos::ExactlyOnce => 1,
        Qos::AtLeastOnce | Qos::AtMostOnce => sent.sendings.max(1) + got.with_dup,
    }
}

fn never_sent(books: &Books) -> Vec<String> {
    let mut found = BTreeMap::new();
    for key @ (publisher, number) in books.subscribers.iter().flat_map(|one| one.messages.keys()) {
        let sent = books
            .publishers
            .get(*publisher)
            .map_or(0, |one| one.messages.len() as u64);
        if *number >= sent {
            found.insert(key, ());
        }
    }
    let mut texts = Vec::new();
    for (publisher, number) in found.into_keys() {
        let mut text = String::new();
        if write!(text, "publisher {publisher} never sent number {number}").is_ok() {
            texts.push(text);
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::ledger::Ledger;

    /// One publisher with three acknowledged messages, two subscribers.
    fn ledger(qos: Qos) -> Ledger {
        let ledger = Ledger::new();
        ledger.add_publisher(qos);
        ledger.add_subscriber();
        ledger.add_subscriber();
        ledger.fault(Kind::Kill, 7);
        for number in 0..3 {
            ledger.sent(0, number);
            ledger.acknowledged(0, number);
            ledger.settled(0, number);
        }
        ledger
    }

    fn receive(ledger: &Ledger, subscriber: usize, numbers: &[u64]) {
        for number in numbers {
            ledger.received(subscriber, format!("0/{number}").as_bytes(), false);
        }
    }

    #[test]
    fn everything_once_is_good() {
        let ledger = ledger(Qos::ExactlyOnce);
        receive(&ledger, 0, &[0, 1, 2]);
        assert!(!ledger.is_drained(), "the other subscriber waits");
        receive(&ledger, 1, &[0, 1, 2]);
        assert!(ledger.is_drained());
        let verdict = ledger.verdict();
        assert_eq!(verdict.reasons(), [""; 0]);
        let kill = &verdict.rows[1];
        assert_eq!(
            (
                kill.fault.as_str(),
                kill.count,
                kill.open_handshakes,
                kill.acknowledged
            ),
            ("kill", 1, 7, 3)
        );
        assert!(
            verdict.json().starts_with("{\"ok\":true,"),
            "{}",
            verdict.json()
        );
    }

    #[test]
    fn a_message_that_one_of_two_never_got_is_lost() {
        let ledger = ledger(Qos::AtLeastOnce);
        receive(&ledger, 0, &[0, 1, 2]);
        receive(&ledger, 1, &[0, 2]);
        let verdict = ledger.verdict();
        assert_eq!(verdict.reasons(), ["1 lost"]);
        assert_eq!(verdict.rows[1].lost, 1);
        assert!(verdict.to_string().contains("FAILED: 1 lost"), "{verdict}");
    }

    #[test]
    fn at_qos_2_twice_is_once_too_often() {
        let ledger = ledger(Qos::ExactlyOnce);
        receive(&ledger, 0, &[0, 1, 1, 2]);
        receive(&ledger, 1, &[0, 1, 2]);
        assert_eq!(ledger.verdict().reasons(), ["1 repeated"]);
    }

    #[test]
    fn at_qos_1_a_repeat_needs_an_excuse() {
        for (dup, sent_again, expected) in [
            (false, false, &["1 repeated"][..]),
            (true, false, &[]),
            (false, true, &[]),
        ] {
            let ledger = ledger(Qos::AtLeastOnce);
            receive(&ledger, 0, &[0, 1, 2]);
            receive(&ledger, 1, &[0, 1, 2]);
            if sent_again {
                ledger.sent(0, 1);
            }
            ledger.received(1, b"0/1", dup);
            let verdict = ledger.verdict();
            assert_eq!(verdict.reasons(), expected, "{dup} {sent_again}");
            assert_eq!(verdict.rows[1].again, u64::from(expected.is_empty()));
        }
    }

    #[test]
    fn what_nobody_sent_and_a_run_of_nothing_are_bad() {
        let ledger = ledger(Qos::ExactlyOnce);
        receive(&ledger, 0, &[0, 1, 2, 9]);
        receive(&ledger, 1, &[0, 1, 2]);
        assert_eq!(ledger.verdict().reasons(), ["1 breaches of the protocol"]);
        assert_eq!(Ledger::new().verdict().reasons(), ["no fault was made"]);
    }

    #[test]
    fn a_refusal_is_no_promise() {
        let ledger = ledger(Qos::AtLeastOnce);
        receive(&ledger, 0, &[0, 1, 2]);
        receive(&ledger, 1, &[0, 1, 2]);
        ledger.sent(0, 3);
        ledger.refused(0, 3);
        ledger.settled(0, 3);
        assert!(ledger.is_drained());
        assert_eq!(ledger.verdict().reasons(), [""; 0]);
    }
}
