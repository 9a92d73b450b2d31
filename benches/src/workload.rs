//! What a run does.

use std::net::SocketAddr;
use std::time::Duration;

use codec::{ProtocolVersion, Qos};

use crate::error::LoadError;
use crate::payload::STAMP_BYTES;

/// Parameters of one run. Publisher `i` publishes to topic `i % topics`, subscriber `j` subscribes
/// to topic `j % topics`; both take their endpoints in turn.
#[derive(Debug, Clone)]
pub struct Workload {
    /// For the report.
    pub name: String,
    /// Of all clients.
    pub version: ProtocolVersion,
    /// Of publications and subscriptions.
    pub qos: Qos,
    /// Whether sessions outlive their connections.
    pub persistent: bool,
    /// How many clients publish.
    pub publishers: u32,
    /// How many clients subscribe.
    pub subscribers: u32,
    /// How many topics there are.
    pub topics: u32,
    /// Size of each payload.
    pub payload_bytes: usize,
    /// Unacknowledged publications per publisher; at QoS 0 undelivered ones.
    pub window: u16,
    /// Publications per second of all publishers together; `None`: as the window allows.
    pub rate_per_s: Option<f64>,
    /// Load before anything is measured.
    pub warm_up: Duration,
    /// How long is published while it is measured.
    pub duration: Duration,
    /// How long the last acknowledgements and deliveries may take.
    pub drain_max: Duration,
    /// Where publishers connect; after a loss of the connection they try the next one.
    pub publish_to: Vec<SocketAddr>,
    /// Where subscribers connect.
    pub subscribe_to: Vec<SocketAddr>,
    /// Whose CPU time and memory is measured.
    pub pids: Vec<u32>,
    /// Where the fsyncs of each node are counted.
    pub admins: Vec<SocketAddr>,
    /// A process to kill while it is measured.
    pub kill: Option<Kill>,
}

/// A process that dies under load.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    /// Its id.
    pub pid: u32,
    /// How long after the start of the measurement.
    pub after: Duration,
}

impl Workload {
    /// Ten publishers to ten subscribers with 256 bytes, window 20, at full rate.
    #[must_use]
    pub fn new(name: &str, publish_to: Vec<SocketAddr>, subscribe_to: Vec<SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            version: ProtocolVersion::V5,
            qos: Qos::AtLeastOnce,
            persistent: false,
            publishers: 10,
            subscribers: 10,
            topics: 10,
            payload_bytes: 256,
            window: 20,
            rate_per_s: None,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(5),
            drain_max: Duration::from_secs(30),
            publish_to,
            subscribe_to,
            pids: Vec::new(),
            admins: Vec::new(),
            kill: None,
        }
    }

    /// # Errors
    /// What cannot be run.
    pub fn check(&self) -> Result<(), LoadError> {
        let wrong = if self.publish_to.is_empty() || self.subscribe_to.is_empty() {
            "there must be an endpoint"
        } else if self.publishers == 0 || self.topics == 0 || self.window == 0 {
            "publishers, topics and window must be at least 1"
        } else if self.payload_bytes < STAMP_BYTES {
            "the payload is too small to carry the number of its message (20 bytes)"
        } else if self.qos == Qos::AtMostOnce && self.subscribers < self.topics {
            "at QoS 0 each topic needs a subscriber: a delivery is the only sign of progress"
        } else if self.rate_per_s.is_some_and(|rate| rate <= 0.0) {
            "the rate must be positive"
        } else {
            return Ok(());
        };
        Err(LoadError::Usage(wrong.to_owned()))
    }

    /// The topic of publisher or subscriber `index`.
    #[must_use]
    pub const fn topic_of(&self, index: u32) -> u32 {
        index % self.topics
    }

    /// How many subscribers get what publisher `index` publishes.
    #[must_use]
    pub fn fan_out_of(&self, index: u32) -> u64 {
        let topic = self.topic_of(index);
        (0..self.subscribers)
            .map(|subscriber| u64::from(self.topic_of(subscriber) == topic))
            .sum()
    }

    /// The time from one publication of a publisher to its next, nanoseconds; `None` at full rate.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of nanoseconds; `as` saturates"
    )]
    pub fn interval_ns(&self) -> Option<u64> {
        let rate = self.rate_per_s?;
        Some((f64::from(self.publishers) / rate * 1e9) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(publishers: u32, subscribers: u32, topics: u32) -> Workload {
        Workload {
            publishers,
            subscribers,
            topics,
            ..Workload::new("x", Vec::new(), Vec::new())
        }
    }

    #[test]
    fn fan_out_counts_the_subscribers_of_the_publishers_topic() {
        assert_eq!(workload(10, 10, 10).fan_out_of(3), 1);
        assert_eq!(workload(1, 100, 1).fan_out_of(0), 100);
        assert_eq!(workload(4, 3, 2).fan_out_of(2), 2);
        assert_eq!(workload(4, 3, 2).fan_out_of(3), 1);
        assert_eq!(workload(10, 0, 1).fan_out_of(0), 0);
    }

    #[test]
    fn a_rate_is_shared_among_the_publishers() {
        let mut workload = workload(10, 10, 10);
        assert_eq!(workload.interval_ns(), None);
        workload.rate_per_s = Some(1_000.0);
        assert_eq!(workload.interval_ns(), Some(10_000_000));
    }
}
