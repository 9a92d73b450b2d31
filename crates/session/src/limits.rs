//! Every bound of a session, with unit, default and the reason for it.

/// The bounds that the accepting node gives a session at `Connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Messages in flight to the client, below its own Receive Maximum; 1 to 65,535. The default
    /// keeps what a dead connection may have to re-send small and still fills a wide-area link.
    pub inflight_max: u16,
    /// The Receive Maximum that we advertise: QoS 2 packet ids of the client that wait for PUBREL;
    /// 1 to 65,535. Default as `inflight_max`.
    pub receive_maximum: u16,
    /// Messages that wait behind the window; 0: none. The default is a day of one message per
    /// second.
    pub queue_messages_max: u32,
    /// Bytes (`Message::size`) that wait behind the window. The default stops large messages long
    /// before `queue_messages_max` does.
    pub queue_bytes_max: u64,
    /// What happens to a message that does not fit the queue.
    pub queue_overflow: QueueOverflow,
}

impl SessionLimits {
    /// Messages that may be in flight to a client with this Receive Maximum [MQTT-3.3.4-9].
    ///
    /// At least 1: a window of 0 would never deliver anything [MQTT-4.9.0-1].
    #[must_use]
    pub fn window(&self, client_receive_maximum: u16) -> u16 {
        self.inflight_max.min(client_receive_maximum).max(1)
    }
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            inflight_max: 100,
            receive_maximum: 100,
            queue_messages_max: 100_000,
            queue_bytes_max: 256 * 1024 * 1024,
            queue_overflow: QueueOverflow::Reject,
        }
    }
}

/// What happens to a message that does not fit the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueOverflow {
    /// Its publisher is told, which only a QoS 1 publisher can act on; otherwise as `DropNewest`.
    /// The default: the only policy under which nothing acknowledged is lost.
    #[default]
    Reject,
    /// It is lost.
    DropNewest,
    /// The oldest messages of the queue are lost, as many as make room for it.
    DropOldest,
    /// It is lost, and the client is disconnected if it is connected.
    Disconnect,
}
