//! A clock that never goes back and counts while the machine is suspended (DESIGN section 6, lease).

use std::time::Duration;

use codec::{Message, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Time since boot.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// The same as the time of a session that lives on this node alone.
pub(crate) fn timestamp() -> Timestamp {
    Timestamp::from_millis(u64::try_from(now().as_millis()).unwrap_or(u64::MAX))
}

/// When a message expires that was published now [MQTT-3.3.2-5].
pub(crate) fn expires_at(message: &Message) -> Option<Timestamp> {
    let interval_s = message.properties.message_expiry_interval?;
    Some(timestamp().plus(Duration::from_secs(u64::from(interval_s))))
}

/// When something expires that has so long to live.
pub(crate) fn in_millis(millis: u64) -> Timestamp {
    timestamp().plus(Duration::from_millis(millis))
}
