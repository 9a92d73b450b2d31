//! The subscriptions of a session over time. A packet that may or may not have been processed leaves
//! several possibilities open, so the questions are: what may have been, and what must have been.

use codec::{Qos, SubscriptionIdentifier, SubscriptionOptions};

/// One subscription as asked for, with the QoS granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) options: SubscriptionOptions,
    pub(super) identifier: Option<SubscriptionIdentifier>,
}

/// A SUBSCRIBE or UNSUBSCRIBE for one filter.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Record of the request.
    pub(super) sent: usize,
    /// Record of the acknowledgement.
    pub(super) done: Option<usize>,
    /// `None`: unsubscribed.
    pub(super) to: Option<Granted>,
    /// The connection it was sent on.
    pub(super) connection: usize,
    /// Its packet id.
    pub(super) packet_id: u16,
}

/// Everything a session ever asked for with one filter.
#[derive(Debug)]
pub(super) struct Filter {
    /// As subscribed, e.g. `$share/g/a/#`.
    pub(super) text: String,
    /// What is matched: without `$share/NAME/`.
    pattern: String,
    pub(super) changes: Vec<Change>,
    /// By topic number.
    matches: Vec<bool>,
}

impl Filter {
    pub(super) fn new(text: &str) -> Self {
        let pattern = match text.strip_prefix("$share/") {
            Some(rest) => rest.split_once('/').map_or("", |(_, pattern)| pattern),
            None => text,
        };
        Self {
            text: text.to_owned(),
            pattern: pattern.to_owned(),
            changes: Vec::new(),
            matches: Vec::new(),
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.text != self.pattern
    }

    /// Prepares [`matches`](Self::matches).
    pub(super) fn match_all(&mut self, topics: &[String]) {
        let topics = topics.iter();
        self.matches = topics.map(|topic| matches(&self.pattern, topic)).collect();
    }

    pub(super) fn matches(&self, topic: usize) -> bool {
        self.matches.get(topic).copied().unwrap_or(false)
    }

    /// Every state that this subscription may have had at some moment from record `from` to record
    /// `to`: what the last change acknowledged before `from` made of it, and every later change that
    /// was sent before `to`.
    pub(super) fn possible(&self, from: usize, to: usize) -> impl Iterator<Item = Option<Granted>> {
        let settled = self
            .changes
            .iter()
            .rposition(|change| change.done.is_some_and(|done| done < from));
        let before = match settled {
            Some(position) => self.changes.get(position).and_then(|change| change.to),
            None => None,
        };
        let later = self.changes.iter().skip(settled.map_or(0, |at| at + 1));
        let later = later
            .take_while(move |change| change.sent < to)
            .map(|change| change.to);
        std::iter::once(before).chain(later)
    }

    /// The lowest QoS of all the states that it may have had; `None` if in one of them it takes no
    /// message, `own` saying whether the subscriber publishes it itself.
    pub(super) fn certain(&self, own: bool, (from, to): (usize, usize)) -> Option<Qos> {
        let mut lowest = Qos::ExactlyOnce;
        for state in self.possible(from, to) {
            let options = state?.options;
            if own && options.no_local {
                return None;
            }
            lowest = lowest.min(options.qos);
        }
        Some(lowest)
    }
}

/// The rules of topic matching [MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.2-1], written apart from the
/// broker's.
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['#', '+']) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        match (level, topic.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// The QoS of a delivery [MQTT-3.8.4-8].
pub(super) fn effective(published: Qos, granted: Qos) -> Qos {
    published.min(granted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        let yes = [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("+/b", "a/b"),
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("+", "a"),
            ("/+", "/a"),
            ("$SYS/#", "$SYS/x"),
        ];
        for (filter, topic) in yes {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        let no = [
            ("a/b", "a"),
            ("a", "a/b"),
            ("a/+", "a"),
            ("+", "a/b"),
            ("+", "/a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("a/#", "b"),
        ];
        for (filter, topic) in no {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn only_what_was_acknowledged_is_certain() {
        let granted = |qos| {
            Some(Granted {
                options: SubscriptionOptions::new(qos),
                identifier: None,
            })
        };
        let change = |sent, done, to| Change {
            sent,
            done,
            to,
            connection: 0,
            packet_id: 1,
        };
        let mut filter = Filter::new("a");
        filter.changes = vec![
            change(10, Some(20), granted(Qos::AtLeastOnce)),
            change(30, None, granted(Qos::ExactlyOnce)),
            change(40, Some(50), None),
        ];
        let possible = |from, to| filter.possible(from, to).collect::<Vec<_>>();
        let (one, two) = (granted(Qos::AtLeastOnce), granted(Qos::ExactlyOnce));
        assert_eq!(possible(5, 8), [None]);
        assert_eq!(possible(15, 18), [None, one]);
        assert_eq!(possible(25, 28), [one]);
        assert_eq!(possible(25, 35), [one, two]);
        assert_eq!(possible(32, 45), [one, two, None]);
        assert_eq!(possible(60, 70), [None]);
    }
}
