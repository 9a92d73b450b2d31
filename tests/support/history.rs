//! Every packet of every client of one test, in the order seen, with monotonic times: printed when
//! the test fails.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Lines kept; older ones are dropped (and counted), so that a long test stays bounded.
const LINES_MAX: usize = 200_000;

/// Which way a packet went, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client wrote it.
    Sent,
    /// The client read it.
    Received,
    /// Not a packet: a kill, a restart, a step of the test.
    Note,
}

/// One line of a history.
#[derive(Debug, Clone)]
pub struct Event {
    /// Since the test began.
    pub at: Duration,
    /// Client, node or test.
    pub who: Arc<str>,
    /// Which way.
    pub direction: Direction,
    /// The packet in one line.
    pub text: String,
}

/// A shared history; clones append to the same one.
#[derive(Debug, Clone)]
pub struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Event>,
    dropped: u64,
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// An empty history that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            lines: Mutex::default(),
        }))
    }

    /// Appends one line.
    pub fn record(&self, who: &Arc<str>, direction: Direction, text: String) {
        let event = Event {
            at: self.0.started.elapsed(),
            who: Arc::clone(who),
            direction,
            text,
        };
        let mut lines = self.lines();
        if lines.kept.len() == LINES_MAX {
            lines.kept.pop_front();
            lines.dropped += 1;
        }
        lines.kept.push_back(event);
    }

    /// Appends a line that is not a packet.
    pub fn note(&self, text: impl Into<String>) {
        self.record(&Arc::from("test"), Direction::Note, text.into());
    }

    /// The lines kept, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lines().kept.iter().cloned().collect()
    }

    /// The history as text, one line per event; the last `lines_max` lines.
    #[must_use]
    pub fn render(&self, lines_max: usize) -> String {
        let lines = self.lines();
        let left_out = lines.kept.len().saturating_sub(lines_max);
        let hidden = lines.dropped + u64::try_from(left_out).unwrap_or(u64::MAX);
        let mut text = match hidden {
            0 => String::new(),
            hidden => format!("... {hidden} earlier lines left out\n"),
        };
        for event in lines.kept.iter().skip(left_out) {
            let arrow = match event.direction {
                Direction::Sent => '>',
                Direction::Received => '<',
                Direction::Note => '!',
            };
            let Event {
                who, text: line, ..
            } = event;
            text.push_str(&format!(
                "{:9.4} {who}{arrow} {line}\n",
                event.at.as_secs_f64()
            ));
        }
        text
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // A panicking test must still be able to print its history.
        self.0
            .lines
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_order_and_times() {
        let history = History::new();
        let who = Arc::from("a");
        history.record(&who, Direction::Sent, "CONNECT".to_owned());
        let same = history.clone();
        same.record(&who, Direction::Received, "CONNACK".to_owned());
        history.note("kill 1");
        let events = history.events();
        let texts: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["CONNECT", "CONNACK", "kill 1"]);
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at));
        let text = history.render(2);
        assert!(text.starts_with("... 1 earlier lines left out\n"), "{text}");
        assert!(
            text.contains("a< CONNACK") && text.contains("test! kill 1"),
            "{text}"
        );
    }

    #[test]
    fn a_history_is_bounded_and_says_so() {
        let history = History::new();
        for number in 0..=LINES_MAX {
            history.note(number.to_string());
        }
        assert_eq!(history.events().len(), LINES_MAX);
        assert!(
            history
                .render(usize::MAX)
                .starts_with("... 1 earlier lines left out\n")
        );
    }
}
