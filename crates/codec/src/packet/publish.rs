//! PUBLISH (section 3.3).

use std::num::NonZeroU16;

use bytes::Bytes;

use crate::message::{Message, MessageProperties};
use crate::packet::SubscriptionIdentifier;
use crate::packet_id::PacketId;
use crate::qos::Qos;
use crate::topic::TopicName;

/// One transmission of an Application Message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Whether it may have been sent before; never with QoS 0.
    pub dup: bool,
    /// Quality of Service.
    pub qos: Qos,
    /// RETAIN flag.
    pub retain: bool,
    /// There exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// `None`: the Topic Alias stands for it.
    pub topic: Option<TopicName>,
    /// With a topic it defines the alias, without it uses it.
    pub topic_alias: Option<NonZeroU16>,
    /// The payload, a slice of the read buffer.
    pub payload: Bytes,
    /// What belongs to the message.
    pub properties: MessageProperties,
    /// Which subscriptions matched; only from a server.
    pub subscription_identifiers: Vec<SubscriptionIdentifier>,
}

impl Publish {
    /// The message, given the topic that this packet or its alias names.
    #[must_use]
    pub fn into_message(self, topic: TopicName) -> Message {
        Message {
            topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            properties: self.properties,
        }
    }
}
