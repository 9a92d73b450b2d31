//! Messages as sessions hold them: stored once, referred to by every copy.
//!
//! A shard's sessions hold only the *names* of bodies, so that a long queue costs some tens of
//! bytes per message and the content may stay on disk; sessions in a node's memory hold the
//! messages themselves. A session reads nothing of a message but what [`BodyRef`] says, so it does
//! the same with either.

use std::sync::Arc;

use codec::{Message, Qos, SubscriptionIdentifier, Timestamp, TopicFilter};

/// One Application Message as its owner (a shard, or a node) keeps it in memory: once, whatever the
/// fan-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Names the body in its owner's store; 0 where nothing is stored.
    pub id: u64,
    /// The message as published.
    pub message: Message,
    /// Owner's time at which a copy whose delivery has not begun is dropped [MQTT-3.3.2-5].
    pub expires_at: Option<Timestamp>,
    /// Version of the retained message that this is: the live copy of a retained publish, or one
    /// read from the store.
    pub retained_version: Option<u64>,
}

impl StoredMessage {
    /// What a session needs to know of the message. O(user properties).
    #[must_use]
    pub fn reference(&self) -> BodyRef {
        BodyRef {
            id: self.id,
            size_bytes: u32::try_from(self.message.size()).unwrap_or(u32::MAX),
            expires_at: self.expires_at,
        }
    }

    /// Whole seconds to take off the Message Expiry Interval of a copy that is sent now: what the
    /// message waited anywhere since it was published [MQTT-3.3.2-6]. A re-send past the deadline
    /// takes off the whole interval, so that it says 0.
    #[must_use]
    pub fn waited_s(&self, now: Timestamp) -> u32 {
        let interval = self.message.properties.message_expiry_interval;
        let remaining = remaining_expiry_s(self.expires_at, now);
        interval.zip(remaining).map_or(0, |(interval, remaining)| {
            interval.saturating_sub(remaining)
        })
    }
}

/// Names a body in its owner's store; everything that a session needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRef {
    /// [`StoredMessage::id`].
    pub id: u64,
    /// `Message::size`, what a copy counts towards the limits of a queue.
    pub size_bytes: u32,
    /// [`StoredMessage::expires_at`].
    pub expires_at: Option<Timestamp>,
}

impl BodyRef {
    /// Whether a copy whose delivery has not begun is to be dropped [MQTT-3.3.2-5].
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        is_expired(self.expires_at, now)
    }
}

/// The message of a delivery, in memory or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In memory.
    Here(Arc<StoredMessage>),
    /// In its owner's store.
    Stored(BodyRef),
}

impl Body {
    /// [`StoredMessage::id`].
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Here(stored) => stored.id,
            Self::Stored(reference) => reference.id,
        }
    }

    /// `Message::size`, at most `u32::MAX`.
    #[must_use]
    pub fn size_bytes(&self) -> u32 {
        self.reference().size_bytes
    }

    /// [`StoredMessage::expires_at`].
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::Here(stored) => stored.expires_at,
            Self::Stored(reference) => reference.expires_at,
        }
    }

    /// Whether a copy whose delivery has not begun is to be dropped [MQTT-3.3.2-5].
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        is_expired(self.expires_at(), now)
    }

    /// The name alone.
    #[must_use]
    pub fn reference(&self) -> BodyRef {
        match self {
            Self::Here(stored) => stored.reference(),
            Self::Stored(reference) => *reference,
        }
    }
}

impl From<Arc<StoredMessage>> for Body {
    fn from(stored: Arc<StoredMessage>) -> Self {
        Self::Here(stored)
    }
}

/// One copy of a message for one session: overlap is resolved, the QoS is the effective one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The shared body.
    pub body: Body,
    /// min(published, granted) [MQTT-3.8.4-8].
    pub qos: Qos,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Identifiers of all matching subscriptions [MQTT-3.3.4-3].
    pub identifiers: Vec<SubscriptionIdentifier>,
    /// The shared subscription (`$share/…`) by which this session was chosen, if one did
    /// (section 4.8.2). Counted, so that copies of the delivery allocate nothing.
    pub share: Option<Arc<TopicFilter>>,
}

/// Seconds of the Message Expiry Interval that are left: what is forwarded [MQTT-3.3.2-6].
///
/// Rounded up, so that a message that lives is not forwarded as one that has expired; 0 from
/// `expires_at` on, also for the re-send of what was in flight before. `None`: it never expires.
#[must_use]
pub fn remaining_expiry_s(expires_at: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    let remaining_ms = expires_at?.since(now).as_millis();
    Some(u32::try_from(remaining_ms.div_ceil(1000)).unwrap_or(u32::MAX))
}

fn is_expired(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|expires_at| expires_at <= now)
}

#[cfg(test)]
mod tests {
    use codec::{MessageProperties, TopicName};

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn stored(message_expiry_interval: Option<u32>, expires_at: Option<u64>) -> StoredMessage {
        StoredMessage {
            id: 7,
            message: Message {
                topic: TopicName::try_from("t/u").unwrap(),
                payload: vec![0; 9].into(),
                qos: Qos::AtLeastOnce,
                retain: false,
                properties: MessageProperties {
                    message_expiry_interval,
                    ..MessageProperties::default()
                },
            },
            expires_at: expires_at.map(at),
            retained_version: None,
        }
    }

    /// A queue of 100,000 messages is meant to cost less than 8 MB.
    #[test]
    fn what_waits_is_small() {
        assert!(size_of::<Body>() <= 32);
        assert!(size_of::<Delivery>() <= 72);
    }

    #[test]
    fn a_body_says_the_same_in_memory_and_by_name() {
        let here = Body::from(Arc::new(stored(Some(3), Some(4_000))));
        let name = Body::Stored(here.reference());
        for body in [here, name] {
            assert_eq!((body.id(), body.size_bytes()), (7, 12));
            assert_eq!(body.expires_at(), Some(at(4_000)));
            let reference = BodyRef {
                id: 7,
                size_bytes: 12,
                expires_at: Some(at(4_000)),
            };
            assert_eq!(body.reference(), reference);
            for (now, is_expired) in [(3_999, false), (4_000, true), (4_001, true)] {
                assert_eq!(body.is_expired(at(now)), is_expired);
                assert_eq!(reference.is_expired(at(now)), is_expired);
            }
        }
        assert!(!Body::from(Arc::new(stored(None, None))).is_expired(Timestamp::MAX));
    }

    /// [MQTT-3.3.2-6]
    #[test]
    fn what_is_left_is_rounded_up_and_never_below_zero() {
        for (now, left) in [(0, 3), (1, 3), (999, 3), (1_000, 2), (2_999, 1), (3_000, 0)] {
            assert_eq!(remaining_expiry_s(Some(at(3_000)), at(now)), Some(left));
            assert_eq!(stored(Some(3), Some(3_000)).waited_s(at(now)), 3 - left);
        }
        assert_eq!(remaining_expiry_s(Some(at(3_000)), at(9_000)), Some(0));
        assert_eq!(stored(Some(3), Some(3_000)).waited_s(at(9_000)), 3);
        let never_soon = remaining_expiry_s(Some(Timestamp::MAX), Timestamp::ZERO);
        assert_eq!(never_soon, Some(u32::MAX));
        assert_eq!(remaining_expiry_s(None, at(9_000)), None);
        assert_eq!(stored(None, None).waited_s(at(9_000)), 0);
    }

    /// A copy that reached this owner late says what is left, not what is left of a new start.
    #[test]
    fn time_spent_elsewhere_counts() {
        // 60 s when published; 20 s were left when it got here at 1,000 s.
        let stored = stored(Some(60), Some(1_020_000));
        assert_eq!(stored.waited_s(at(1_000_000)), 40);
        assert_eq!(stored.waited_s(at(1_015_000)), 55);
    }
}
