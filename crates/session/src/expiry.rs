//! Session expiry: runs from the end of the connection, ends the session [MQTT-4.1.0-2].

use std::time::Duration;

use codec::Timestamp;

/// Session Expiry Interval of a session that never expires (section 3.1.2.11.2).
pub(crate) const NEVER_S: u32 = u32::MAX;

/// Whether a connection serves the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Yes; the session does not end while it lasts [MQTT-4.1.0-1].
    Connected,
    /// No.
    Disconnected {
        /// When the session ends. `None`: never, or it had no connection yet.
        ends_at: Option<Timestamp>,
    },
}

impl ConnectionState {
    /// The state after the connection ended; `None` if the session ends with it [MQTT-3.1.2-23].
    pub(crate) fn after_disconnect(now: Timestamp, session_expiry_interval_s: u32) -> Option<Self> {
        let ends_at = match session_expiry_interval_s {
            0 => return None,
            NEVER_S => None,
            seconds => Some(now.plus(Duration::from_secs(u64::from(seconds)))),
        };
        Some(Self::Disconnected { ends_at })
    }

    pub(crate) const fn is_connected(self) -> bool {
        matches!(self, Self::Connected)
    }

    /// When the session ends if nobody connects.
    pub(crate) const fn deadline(self) -> Option<Timestamp> {
        match self {
            Self::Connected => None,
            Self::Disconnected { ends_at } => ends_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT-3.1.2-23] [MQTT-4.1.0-2]
    #[test]
    fn the_interval_says_when_a_closed_session_ends() {
        let now = Timestamp::from_millis(5_000);
        let end = |interval| ConnectionState::after_disconnect(now, interval);
        assert_eq!(end(0), None);
        for (interval, ends_at) in [
            (1, Some(Timestamp::from_millis(6_000))),
            (
                NEVER_S - 1,
                Some(Timestamp::from_millis(5_000 + 4_294_967_294_000)),
            ),
            (NEVER_S, None),
        ] {
            let state = end(interval).unwrap();
            assert_eq!(state, ConnectionState::Disconnected { ends_at });
            assert_eq!(state.deadline(), ends_at);
            assert!(!state.is_connected());
        }
        assert_eq!(ConnectionState::Connected.deadline(), None);
    }
}
