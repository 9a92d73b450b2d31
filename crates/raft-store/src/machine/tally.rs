//! What the sessions of a shard hold together, for gauges: page by page, so that nobody waits long.

use std::ops::Bound;

use codec::ClientId;
use session::Session;

use super::Machine;

/// What many sessions hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTally {
    /// Messages behind the windows.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Messages with a packet id, on their way to clients.
    pub inflight: u64,
    /// Of these, QoS 2 ones whose PUBREC has come.
    pub awaiting_pubcomp: u64,
    /// QoS 2 messages of clients that these have not released.
    pub awaiting_pubrel: u64,
}

impl SessionTally {
    fn add(&mut self, session: &Session) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.queued_messages, number(session.queue_len()));
        add(&mut self.queued_bytes, session.queue_bytes());
        add(&mut self.inflight, number(session.inflight_len()));
        add(
            &mut self.awaiting_pubcomp,
            number(session.awaiting_pubcomp_len()),
        );
        add(
            &mut self.awaiting_pubrel,
            number(session.awaiting_pubrel().len()),
        );
    }

    /// The sums of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            queued_messages: self.queued_messages.saturating_add(other.queued_messages),
            queued_bytes: self.queued_bytes.saturating_add(other.queued_bytes),
            inflight: self.inflight.saturating_add(other.inflight),
            awaiting_pubcomp: self.awaiting_pubcomp.saturating_add(other.awaiting_pubcomp),
            awaiting_pubrel: self.awaiting_pubrel.saturating_add(other.awaiting_pubrel),
        }
    }
}

impl Machine {
    /// Sums over up to `max` sessions behind the one of `after`, and where the next ones begin; `None`:
    /// there are none.
    #[must_use]
    pub fn tally(&self, after: Option<&ClientId>, max: usize) -> (SessionTally, Option<ClientId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut tally = SessionTally::default();
        let mut last = None;
        let page = self.sessions.range::<ClientId, _>((from, Bound::Unbounded));
        for (count, (client_id, record)) in (1..).zip(page.take(max)) {
            if let Some(session) = &record.session {
                tally.add(session);
            }
            if count == max {
                last = Some(client_id.clone());
            }
        }
        (tally, last)
    }

    /// Subscriptions here: without wildcards, with, and shared ones.
    #[must_use]
    pub fn subscription_kinds(&self) -> (usize, usize, usize) {
        let wildcard = self.router.wildcard_len();
        (
            self.router.len().saturating_sub(wildcard),
            wildcard,
            self.shared.len(),
        )
    }

    /// Position of the oldest message that is in flight to the client of a session of this shard.
    #[must_use]
    pub fn oldest_in_flight(&self, client_id: &ClientId) -> Option<u64> {
        self.session(client_id)?.oldest_in_flight()
    }
}
