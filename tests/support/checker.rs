//! Judges what clients of a broker saw, by the standard alone: it knows MQTT and the order of the
//! records, and nothing of how the broker is built. Pure: records in, violations out.
//!
//! What it expects of a history:
//! - payloads are unique, but for empty ones (which clear a retained message); a message that is sent
//!   again has the payload of the first time;
//! - a client has one connection at a time; when it opens the next one, it is done with the one before;
//! - SUBSCRIBE and UNSUBSCRIBE have one filter each, publishers use no Topic Alias;
//! - a CONNECT with Clean Start that got no CONNACK is followed by another one with Clean Start, and so
//!   is one that came when the session may have expired: or nobody could say whether the session that
//!   is present next is the old one or one that the unanswered CONNECT began.
//!
//! Where a history leaves open what the broker has to do, because it can't show whether a packet was
//! processed before a connection broke, the checker accepts every outcome that the standard allows.
//! `docs/TESTING.md` lists these windows. One file per rule:
//!
//! | file | rules |
//! |---|---|
//! | `presence.rs` | [`Rule::SessionPresent`] |
//! | `receiver.rs` | [`Rule::PacketId`], [`Rule::Dup`], [`Rule::Resend`], [`Rule::Release`], [`Rule::Window`]: the handshakes, as the receiving client must see them |
//! | `sender.rs` | [`Rule::Acknowledgement`] |
//! | `matching.rs` | [`Rule::Phantom`], [`Rule::Altered`], [`Rule::Expiry`]: each delivery by itself |
//! | `copies.rs` | [`Rule::Repetition`], [`Rule::Order`] |
//! | `loss.rs` | [`Rule::Loss`] |
//! | `shared.rs` | [`Rule::Shared`] |
//! | `retained.rs` | [`Rule::Retained`] |
//! | `wills.rs` | [`Rule::Will`] |
//! | `takeover.rs` | [`Rule::Takeover`] |
//! | `drain.rs` | [`Rule::Drain`] |
//!
//! `counting.rs` says how much there was to judge.
//! `story.rs` makes connections, sessions and messages of the records, `subscription.rs` says which
//! subscriptions a session may or must have had at a time.

mod copies;
mod counting;
mod drain;
#[cfg(test)]
mod histories;
mod loss;
mod matching;
mod presence;
mod receiver;
mod retained;
mod sender;
mod shared;
mod story;
mod subscription;
mod takeover;
mod verdict;
mod wills;

use std::time::Duration;

pub use verdict::{Counts, Rule, Verdict, Violation};

use crate::recording::Record;
use story::Story;

/// What a history is judged by, apart from the standard.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The history ends with a drain: no faults any more, and every persistent client that is still
    /// there has been connected long enough to get all that it must get.
    pub drained: bool,
    /// How long after its acknowledgement a QoS 2 message may still be matched with subscriptions, and
    /// how long an unacknowledged message may still come after its connection ended.
    pub settle: Duration,
    /// How much later than the client sees it the broker may notice that a connection is gone, or that
    /// time has passed; how long it may need to close a connection that was taken over.
    pub slack: Duration,
}

impl Settings {
    /// For a run that ends with a drain.
    #[must_use]
    pub const fn drained() -> Self {
        Self {
            drained: true,
            settle: Duration::from_secs(20),
            slack: Duration::from_secs(15),
        }
    }
}

/// Judges a history. O(records + sessions * messages).
#[must_use]
pub fn check(records: &[Record], settings: &Settings) -> Verdict {
    let story = Story::new(records, settings.clone());
    let mut verdict = Verdict::new(counting::count(&story));
    presence::check(&story, &mut verdict);
    sender::check(&story, &mut verdict);
    let deliveries = receiver::check(&story, &mut verdict);
    matching::check(&story, &deliveries, &mut verdict);
    copies::check(&story, &deliveries, &mut verdict);
    loss::check(&story, &deliveries, &mut verdict);
    shared::check(&story, &deliveries, &mut verdict);
    retained::check(&story, &deliveries, &mut verdict);
    wills::check(&story, &deliveries, &mut verdict);
    takeover::check(&story, &mut verdict);
    if settings.drained {
        drain::check(&story, &mut verdict);
    }
    verdict
}
