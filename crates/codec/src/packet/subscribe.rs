//! SUBSCRIBE and SUBACK (sections 3.8 and 3.9).

use std::num::NonZeroU32;

use crate::packet_id::PacketId;
use crate::primitive::{Utf8, VARIABLE_BYTE_INTEGER_MAX};
use crate::qos::Qos;
use crate::reason_code::ReasonCode;
use crate::topic::TopicFilter;

/// Asks for subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Echoed by the SUBACK [MQTT-3.8.4-2].
    pub packet_id: PacketId,
    /// For all subscriptions of this packet.
    pub subscription_identifier: Option<SubscriptionIdentifier>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// At least one [MQTT-3.8.3-2].
    pub subscriptions: Vec<Subscription>,
}

/// One Topic Filter with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What to subscribe to.
    pub filter: TopicFilter,
    /// How.
    pub options: SubscriptionOptions,
}

/// Subscription Options (section 3.8.3.1). Before MQTT 5.0 there is only the QoS.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS wanted.
    pub qos: Qos,
    /// Leave out what this client publishes itself [MQTT-3.8.3-3].
    pub no_local: bool,
    /// Keep the RETAIN flag as published [MQTT-3.3.1-13].
    pub retain_as_published: bool,
    /// Which retained messages to send.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// The options of a 3.1.1 subscription.
    #[must_use]
    pub const fn new(qos: Qos) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }
}

/// When to send retained messages for a subscription.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE [MQTT-3.3.1-9].
    #[default]
    Send = 0,
    /// Only if the subscription is new [MQTT-3.3.1-10].
    SendIfNew = 1,
    /// Never [MQTT-3.3.1-11].
    DoNotSend = 2,
}

impl RetainHandling {
    /// The two-bit value on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

/// A Subscription Identifier: 1 to 268,435,455.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionIdentifier(NonZeroU32);

impl SubscriptionIdentifier {
    /// `None` outside of 1 to 268,435,455.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        match NonZeroU32::new(value) {
            Some(id) if value <= VARIABLE_BYTE_INTEGER_MAX => Some(Self(id)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// The answer to SUBSCRIBE: one code per filter, in order [MQTT-3.8.4-6].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suback {
    /// The identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// Granted QoS or failure; before MQTT 5.0 every failure is 0x80.
    pub reason_codes: Vec<ReasonCode>,
}
