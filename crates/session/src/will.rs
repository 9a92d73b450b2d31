//! When the will of a connection that did not end normally is published (section 3.1.3.2.2).
//!
//! Who keeps the will, and what cancels it, is its owner's business: a DISCONNECT with reason 0x00
//! removes it [MQTT-3.14.4-3], a new connection that resumes the session in time too
//! [MQTT-3.1.3-9]. A session that ends earlier than expected (Clean Start) makes it due at once.

use std::time::Duration;

use codec::Timestamp;

use crate::expiry::ConnectionState;

/// When the session ends whose connection has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// With its connection: a Session Expiry Interval of 0.
    WithConnection,
    /// At this time if nobody connects before.
    At(Timestamp),
    /// Not by itself.
    Never,
}

impl SessionEnd {
    /// The end of a session whose connection closed at `closed_at` (section 3.1.2.11.2).
    #[must_use]
    pub fn after(closed_at: Timestamp, session_expiry_interval_s: u32) -> Self {
        match ConnectionState::after_disconnect(closed_at, session_expiry_interval_s) {
            None => Self::WithConnection,
            Some(state) => state.deadline().map_or(Self::Never, Self::At),
        }
    }
}

/// When the will is published if nothing cancels it: after the Will Delay Interval or when the
/// session ends, whichever comes first [MQTT-3.1.2-8].
#[must_use]
pub fn due_at(closed_at: Timestamp, delay_interval_s: u32, session_ends: SessionEnd) -> Timestamp {
    let delayed = closed_at.plus(Duration::from_secs(u64::from(delay_interval_s)));
    match session_ends {
        SessionEnd::WithConnection => closed_at,
        SessionEnd::At(ends_at) => delayed.min(ends_at),
        SessionEnd::Never => delayed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// [MQTT-3.1.2-8]
    #[test]
    fn the_delay_or_the_end_of_the_session_whichever_comes_first() {
        for (delay, expiry, due) in [
            (0, 0, 100),
            (0, 60, 100),
            (5, 0, 100),
            (5, 60, 105),
            (60, 60, 160),
            (61, 60, 160),
            (u32::MAX, 60, 160),
            (5, u32::MAX, 105),
            (u32::MAX, u32::MAX, 100 + 4_294_967_295),
        ] {
            let end = SessionEnd::after(s(100), expiry);
            assert_eq!(due_at(s(100), delay, end), s(due), "{delay} {expiry}");
        }
    }

    #[test]
    fn an_interval_says_when_the_session_ends() {
        assert_eq!(SessionEnd::after(s(1), 0), SessionEnd::WithConnection);
        assert_eq!(SessionEnd::after(s(1), 2), SessionEnd::At(s(3)));
        assert_eq!(SessionEnd::after(s(1), u32::MAX), SessionEnd::Never);
    }
}
