//! The Application Message: what a publisher said, apart from how one packet carried it.

use bytes::Bytes;

use crate::primitive::Utf8;
use crate::qos::Qos;
use crate::topic::TopicName;

/// An Application Message: no packet identifier, no DUP, no Topic Alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: TopicName,
    /// What was published; borrows from the read buffer unless [`detached`](Self::detached).
    pub payload: Bytes,
    /// The QoS it was published with.
    pub qos: Qos,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// What travels on unaltered; empty from 3.1 and 3.1.1 publishers.
    pub properties: MessageProperties,
}

impl Message {
    /// Bytes of topic, payload and properties, for accounting. Does not count fixed overhead.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.as_bytes().len() + self.payload.len() + self.properties.size()
    }

    /// A copy that does not pin the read buffer: one allocation for topic and payload, and one per
    /// property that is there.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.detached_by(Bytes::from)
    }

    /// As [`detached`](Self::detached); `keep` makes the buffer of topic and payload one that its
    /// owner can count.
    #[must_use]
    pub fn detached_by(&self, keep: impl FnOnce(Vec<u8>) -> Bytes) -> Self {
        let topic = self.topic.as_bytes();
        let mut both = Vec::with_capacity(topic.len() + self.payload.len());
        both.extend_from_slice(topic);
        both.extend_from_slice(&self.payload);
        let mut both = keep(both);
        let payload = both.split_off(topic.len());
        Self {
            topic: self.topic.moved_to(both),
            payload,
            qos: self.qos,
            retain: self.retain,
            properties: self.properties.detached(),
        }
    }
}

/// The properties of a message that a server forwards unaltered (section 3.3.2.3); the expiry
/// interval alone is lowered by the time the message waited [MQTT-3.3.2-6].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct MessageProperties {
    /// Whether the payload claims to be text [MQTT-3.3.2-4]; not checked against the payload.
    pub payload_format_indicator: Option<PayloadFormat>,
    /// Lifetime in seconds from publication; `None`: does not expire.
    pub message_expiry_interval: Option<u32>,
    /// What the payload is, in the words of the publisher.
    pub content_type: Option<Utf8>,
    /// Where an answer goes.
    pub response_topic: Option<TopicName>,
    /// What an answer quotes, at most 65,535 bytes.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs; order and repetition are kept [MQTT-3.3.2-17].
    pub user_properties: Vec<(Utf8, Utf8)>,
}

impl MessageProperties {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes of all strings and data.
    #[must_use]
    pub fn size(&self) -> usize {
        let pairs: usize = self
            .user_properties
            .iter()
            .map(|(name, value)| name.as_bytes().len() + value.as_bytes().len())
            .sum();
        self.content_type.as_ref().map_or(0, |v| v.as_bytes().len())
            + self
                .response_topic
                .as_ref()
                .map_or(0, |v| v.as_bytes().len())
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + pairs
    }

    /// A copy that does not pin the read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            payload_format_indicator: self.payload_format_indicator,
            message_expiry_interval: self.message_expiry_interval,
            content_type: self.content_type.as_ref().map(Utf8::detached),
            response_topic: self.response_topic.as_ref().map(TopicName::detached),
            correlation_data: self
                .correlation_data
                .as_ref()
                .map(|data| Bytes::copy_from_slice(data)),
            user_properties: self
                .user_properties
                .iter()
                .map(|(name, value)| (name.detached(), value.detached()))
                .collect(),
        }
    }
}

/// What the publisher says the payload is (section 3.3.2.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PayloadFormat {
    /// Unspecified bytes.
    Unspecified = 0,
    /// UTF-8 text.
    Utf8 = 1,
}

impl PayloadFormat {
    /// The value on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}
