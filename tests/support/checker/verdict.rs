//! What a check finds: violations with the records that show them, and how much there was to find.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::recording::{Event, Fault, Record};

/// Violations kept per rule: one bug breaks a rule for many messages.
const VIOLATIONS_MAX: usize = 20;
/// Records of the same client shown around each one that a violation names.
const AROUND: usize = 3;

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged message was never received by a session that had to get it.
    Loss,
    /// Received, but never published, or not for this subscriber, or older than its session.
    Phantom,
    /// Received with another topic, QoS, RETAIN flag, property or Subscription Identifier.
    Altered,
    /// Received more often than it may be.
    Repetition,
    /// Two messages of one publisher, topic and QoS changed places.
    Order,
    /// A packet id names two things at once, or changed.
    PacketId,
    /// DUP is wrong.
    Dup,
    /// Sent again where it must not be, or not sent again, or in another order.
    Resend,
    /// PUBREL without PUBREC, PUBLISH after PUBREL, PUBRELs in another order than the PUBRECs.
    Release,
    /// More unacknowledged messages than Receive Maximum.
    Window,
    /// An acknowledgement of something that was not sent, or of another kind.
    Acknowledgement,
    /// Session Present is wrong.
    SessionPresent,
    /// Delivered after its expiry, or with too long an interval.
    Expiry,
    /// A new subscriber got a stale retained message, or none.
    Retained,
    /// A will was published too often, not at all, or after a normal end.
    Will,
    /// A shared subscription's message went to nobody, or to two.
    Shared,
    /// A connection that was taken over stayed open.
    Takeover,
    /// A handshake was not finished although nothing was in its way any more.
    Drain,
    /// What came was no MQTT or may not come from a server at this place.
    Malformed,
}

/// One breach of a rule.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What is wrong, in words.
    pub text: String,
    /// The records that show it.
    pub records: Vec<usize>,
}

impl Violation {
    /// The violation with the records that it names and what was around them.
    #[must_use]
    pub fn render(&self, records: &[Record]) -> String {
        let mut shown = BTreeSet::new();
        for index in &self.records {
            shown.extend(around(records, *index));
        }
        let (first, last) = (self.records.first(), self.records.last());
        if let (Some(first), Some(last)) = (first, last) {
            let between = (*first.min(last)..=*first.max(last)).filter(|index| {
                let record = records.get(*index).map(|record| &record.event);
                matches!(record, Some(Event::Fault(fault)) if !matches!(fault, Fault::Ready(_)))
            });
            shown.extend(between);
        }
        let mut text = format!("{:?}: {}\n", self.rule, self.text);
        let mut previous = None;
        for index in shown {
            let Some(record) = records.get(index) else {
                continue;
            };
            if previous.is_some_and(|previous: usize| index > previous + 1) {
                text.push_str("        ...\n");
            }
            previous = Some(index);
            let mark = if self.records.contains(&index) {
                "=>"
            } else {
                "  "
            };
            text.push_str(&format!("  {mark} {record}\n"));
        }
        text
    }
}

/// The records of the same client just before and after one record.
fn around(records: &[Record], index: usize) -> Vec<usize> {
    let client_of = |index: &usize| match records.get(*index).map(|record| &record.event) {
        Some(Event::Client { client, .. }) => Some(client.clone()),
        Some(Event::Fault(_) | Event::Note(_)) | None => None,
    };
    let client = client_of(&index);
    let same = |other: &usize| client.is_some() && client_of(other) == client;
    let before = (0..index).rev().filter(same).take(AROUND);
    let after = (index + 1..records.len()).filter(same).take(AROUND);
    before.chain(after).chain([index]).collect()
}

/// How much a history holds: a check of nothing proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Length of the history.
    pub length: Duration,
    /// kill -9.
    pub kills: u32,
    /// SIGSTOP.
    pub stops: u32,
    /// Cuts between nodes.
    pub cuts: u32,
    /// PUBACKs and PUBRECs with success.
    pub acknowledgements: u32,
    /// Resumed sessions whose broker sent at least one packet again.
    pub resumptions: u32,
    /// Messages published, wills not counted.
    pub messages: u32,
    /// Messages received.
    pub deliveries: u32,
    /// Packets that were sent again: PUBLISH with DUP.
    pub resent: u32,
    /// Messages received with RETAIN.
    pub retained: u32,
    /// Messages received by members of shared subscriptions, for the first time.
    pub shared: u32,
    /// Connections.
    pub connections: u32,
    /// Connections that were left open for the next one to take over.
    pub takeovers: u32,
    /// Connections with a will.
    pub wills: u32,
    /// Wills that were received.
    pub wills_published: u32,
    /// Sessions judged for loss to the end of the history.
    pub sessions: u32,
}

/// The required counts of a history of three minutes; others in proportion.
const REQUIRED_PER: Duration = Duration::from_secs(180);
const KILLS_MIN: u32 = 5;
const ACKNOWLEDGEMENTS_MIN: u32 = 3_000;
const RESUMPTIONS_MIN: u32 = 20;

impl Counts {
    /// Why a run of `length` proves too little; empty if it does not.
    #[must_use]
    pub fn vacuous(&self, length: Duration) -> Vec<String> {
        let required = |count: u32| {
            let scaled = u128::from(count) * length.as_millis() / REQUIRED_PER.as_millis();
            u32::try_from(scaled).unwrap_or(u32::MAX)
        };
        let all = [
            ("kills", self.kills, required(KILLS_MIN)),
            (
                "acknowledgements",
                self.acknowledgements,
                required(ACKNOWLEDGEMENTS_MIN),
            ),
            (
                "resumptions with something to send again",
                self.resumptions,
                required(RESUMPTIONS_MIN),
            ),
        ];
        all.into_iter()
            .filter(|(_, count, required)| count < required)
            .map(|(what, count, required)| format!("{count} {what}, {required} are required"))
            .collect()
    }
}

/// The result of a check.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// All breaches, at most 20 per rule.
    pub violations: Vec<Violation>,
    /// Breaches beyond these.
    pub left_out: usize,
    /// What there was to judge.
    pub counts: Counts,
}

impl Verdict {
    pub(super) const fn new(counts: Counts) -> Self {
        Self {
            violations: Vec::new(),
            left_out: 0,
            counts,
        }
    }

    pub(super) fn add(&mut self, rule: Rule, records: &[usize], text: String) {
        let same = self.violations.iter().filter(|one| one.rule == rule);
        if same.count() >= VIOLATIONS_MAX {
            self.left_out += 1;
            return;
        }
        let mut records = records.to_vec();
        records.sort_unstable();
        self.violations.push(Violation {
            rule,
            text,
            records,
        });
    }

    /// Whether the only complaints are that something has not come yet: more patience may help.
    #[must_use]
    pub fn is_only_late(&self) -> bool {
        let late = [
            Rule::Loss,
            Rule::Drain,
            Rule::Will,
            Rule::Retained,
            Rule::Shared,
            Rule::Takeover,
        ];
        self.violations.iter().all(|one| late.contains(&one.rule))
    }

    /// All violations with their records.
    #[must_use]
    pub fn render(&self, records: &[Record]) -> String {
        let mut text = String::new();
        for violation in &self.violations {
            text.push_str(&violation.render(records));
        }
        if self.left_out > 0 {
            text.push_str(&format!("and {} more of these rules\n", self.left_out));
        }
        text
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} s: {} kills, {} stops, {} cuts, {} messages, {} acknowledgements, {} deliveries \
             ({} sent again, {} retained, {} shared), {} connections, {} takeovers, {} resumptions \
             with something to send again, {} wills of which {} were published, {} sessions judged \
             to the end",
            self.length.as_secs_f64(),
            self.kills,
            self.stops,
            self.cuts,
            self.messages,
            self.acknowledgements,
            self.deliveries,
            self.resent,
            self.retained,
            self.shared,
            self.connections,
            self.takeovers,
            self.resumptions,
            self.wills,
            self.wills_published,
            self.sessions
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_did_too_little_is_vacuous_in_proportion_to_its_length() {
        let counts = Counts {
            kills: 5,
            acknowledgements: 3_000,
            resumptions: 19,
            ..Counts::default()
        };
        let short = counts.vacuous(Duration::from_secs(180));
        assert_eq!(short.len(), 1, "{short:?}");
        assert!(short[0].starts_with("19 resumptions"), "{short:?}");
        assert_eq!(counts.vacuous(Duration::from_secs(360)).len(), 3);
        assert!(counts.vacuous(Duration::from_secs(90)).is_empty());
    }
}
