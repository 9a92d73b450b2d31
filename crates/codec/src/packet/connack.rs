//! CONNACK (section 3.2).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::primitive::Utf8;
use crate::qos::Qos;
use crate::reason_code::ReasonCode;

/// The answer to CONNECT. `Connack::default()` is a plain success.
///
/// `None` means that the property is absent, and then the default of the standard holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Connack {
    /// Whether the session existed; `false` on every refusal [MQTT-3.2.2-6].
    pub session_present: bool,
    /// Success or why not; in 3.1.1 the return code of the same meaning.
    pub reason_code: ReasonCode,
    /// In seconds, if it differs from what the client asked for.
    pub session_expiry_interval: Option<u32>,
    /// How many QoS 1 and 2 publications the client may have in flight; default 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS for publications; default 2. `ExactlyOnce` is encoded as absence.
    pub maximum_qos: Option<Qos>,
    /// Whether retained messages are supported; default yes.
    pub retain_available: Option<bool>,
    /// The largest packet the server accepts, in bytes; default none.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The client identifier the server chose [MQTT-3.1.3-7].
    pub assigned_client_identifier: Option<Utf8>,
    /// The highest alias the client may use; default 0.
    pub topic_alias_maximum: Option<u16>,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// Whether wildcards are supported; default yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether Subscription Identifiers are supported; default yes.
    pub subscription_identifiers_available: Option<bool>,
    /// Whether shared subscriptions are supported; default yes.
    pub shared_subscription_available: Option<bool>,
    /// In seconds; replaces the value of the client [MQTT-3.2.2-21].
    pub server_keep_alive: Option<u16>,
    /// Basis for response topics.
    pub response_information: Option<Utf8>,
    /// Another server to use.
    pub server_reference: Option<Utf8>,
    /// The method of the CONNECT.
    pub authentication_method: Option<Utf8>,
    /// What the method exchanges, at most 65,535 bytes.
    pub authentication_data: Option<Bytes>,
}

impl Connack {
    /// A CONNACK that refuses, without properties.
    #[must_use]
    pub fn refusal(reason_code: ReasonCode) -> Self {
        Self {
            reason_code,
            ..Self::default()
        }
    }
}
