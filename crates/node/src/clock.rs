//! A clock that never goes back and counts while the machine is suspended (DESIGN section 6, lease).

use std::time::Duration;

use codec::Timestamp;
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
