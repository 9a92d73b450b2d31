//! How much waits for one connection, and which acknowledgements wait with it.
//!
//! A subscriber that is slower than its publishers slows them down, instead of being thrown out: from
//! a mark on, what is handed to it at QoS 1 and 2 is acknowledged to its publishers only when as many
//! messages have left. One that takes hardly anything is *stuck*: nobody waits for it any more until
//! it has caught up ([0023](../../../docs/decisions/0023-slow-subscribers.md)).
//!
//! Invariants: nothing is held up below the mark, for a stuck connection, or for one that is gone;
//! what is held up leaves in the order in which it came.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::hold::Hold;

/// How long a connection may take hardly anything before nobody waits for it any more. Nothing is
/// held up longer than two of these on account of a connection that has stopped reading.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(1);
/// Of its limits, what waits before publishers are slowed down. What they have under way by then
/// comes on top of it.
const MARK: usize = 4;
/// Of its limits, what a connection must take within `STUCK_AFTER` not to be stuck.
const PROGRESS: usize = 1_000;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveLimits {
    /// Messages.
    pub(crate) messages_max: usize,
    /// Bytes of their `Message::size`.
    pub(crate) bytes_max: usize,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes of their `Message::size`.
    pub(crate) bytes: usize,
}

impl Backlog {
    /// One message.
    pub(crate) fn of_one(bytes: usize) -> Self {
        Self { messages: 1, bytes }
    }

    /// Both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// Without `other`.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// A further message of `bytes` stays within the limits.
    pub(crate) fn has_room(self, bytes: usize, limits: &LiveLimits) -> bool {
        self.messages < limits.messages_max && self.bytes.saturating_add(bytes) <= limits.bytes_max
    }

    /// At least one `part`th of the limits.
    fn reaches(self, part: usize, limits: &LiveLimits) -> bool {
        self.messages >= (limits.messages_max / part).max(1)
            || self.bytes >= limits.bytes_max / part
    }

    /// So much waits that publishers are slowed down.
    pub(crate) fn is_above_mark(self, limits: &LiveLimits) -> bool {
        self.reaches(MARK, limits)
    }
}

/// The acknowledgements that wait for one connection.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    holds: VecDeque<Hold>,
    /// Nobody waits for it: it takes hardly anything.
    stuck: bool,
    /// Since when, and what it has taken since then. `None`: nothing is held up.
    watched: Option<(Instant, Backlog)>,
}

impl Flow {
    /// Nobody waits for the connection.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Holds up an acknowledgement. Says whether it is the first one.
    pub(crate) fn hold(&mut self, hold: Hold) -> bool {
        self.holds.push_back(hold);
        if self.watched.is_some() {
            return false;
        }
        self.watched = Some((Instant::now(), Backlog::default()));
        true
    }

    /// `taken` has left and `waits` is left. Returns what is held up no longer.
    pub(crate) fn drained(
        &mut self,
        taken: Backlog,
        waits: Backlog,
        limits: &LiveLimits,
    ) -> VecDeque<Hold> {
        if let Some((_, so_far)) = &mut self.watched {
            *so_far = so_far.plus(taken);
        }
        if self.stuck && !waits.reaches(2 * MARK, limits) {
            self.stuck = false;
        }
        let released = if waits.is_above_mark(limits) {
            taken.messages.min(self.holds.len())
        } else {
            self.holds.len()
        };
        let kept = self.holds.split_off(released);
        std::mem::replace(&mut self.holds, kept)
    }

    /// Looks whether the connection still takes what it is sent. Returns what is held up no longer;
    /// `None`: nothing is, and nobody needs to look again.
    pub(crate) fn look(&mut self, now: Instant, limits: &LiveLimits) -> Option<VecDeque<Hold>> {
        let (since, taken) = self.watched?;
        if self.holds.is_empty() {
            self.watched = None;
            return None;
        }
        if now.saturating_duration_since(since) < STUCK_AFTER {
            return Some(VecDeque::new());
        }
        self.watched = Some((now, Backlog::default()));
        if taken.reaches(PROGRESS, limits) {
            return Some(VecDeque::new());
        }
        self.stuck = true;
        Some(std::mem::take(&mut self.holds))
    }

    /// The connection is gone: nobody waits for it.
    pub(crate) fn abandon(&mut self) -> VecDeque<Hold> {
        self.stuck = true;
        std::mem::take(&mut self.holds)
    }
}
