//! CONNACK (section 3.2).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::packet::{PacketType, ProtocolVersion};
use crate::primitive::{Reader, Utf8, Writer};
use crate::property::{Place, Properties, PropertyId};
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

impl Connack {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Connack;
        let flags = reader.u8()?;
        let code = reader.u8()?;
        if rules.version == ProtocolVersion::V5 {
            let reason_code = ReasonCode::decode(code, packet, rules.sender)?;
            let session_present = decode_flags(flags, reason_code)?;
            let properties = Properties::decode(reader, Place::Packet(packet), &rules.limits)?;
            return Ok(Self::from_properties(
                session_present,
                reason_code,
                properties,
            ));
        }
        let reason_code = ReasonCode::from_connack_return_code(code)
            .ok_or(DecodeError::ReasonCodeInvalid { packet, code })?;
        let session_present = match rules.version {
            // The byte is reserved in 3.1.
            ProtocolVersion::V31 => false,
            ProtocolVersion::V311 | ProtocolVersion::V5 => decode_flags(flags, reason_code)?,
        };
        Ok(Self {
            session_present,
            reason_code,
            ..Self::default()
        })
    }

    fn from_properties(
        session_present: bool,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> Self {
        Self {
            session_present,
            reason_code,
            session_expiry_interval: properties.session_expiry_interval,
            receive_maximum: properties.receive_maximum,
            maximum_qos: properties.maximum_qos,
            retain_available: properties.retain_available,
            maximum_packet_size: properties.maximum_packet_size,
            assigned_client_identifier: properties.assigned_client_identifier,
            topic_alias_maximum: properties.topic_alias_maximum,
            reason_string: properties.reason_string,
            user_properties: properties.message.user_properties,
            wildcard_subscription_available: properties.wildcard_subscription_available,
            subscription_identifiers_available: properties.subscription_identifiers_available,
            shared_subscription_available: properties.shared_subscription_available,
            server_keep_alive: properties.server_keep_alive,
            response_information: properties.response_information,
            server_reference: properties.server_reference,
            authentication_method: properties.authentication_method,
            authentication_data: properties.authentication_data,
        }
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let packet = PacketType::Connack;
        // A refusal says nothing of the session [MQTT-3.2.2-6]; 3.1 never does.
        let session_present =
            self.session_present && !self.reason_code.is_error() && version != ProtocolVersion::V31;
        writer.u8(u8::from(session_present));
        if version == ProtocolVersion::V5 {
            writer.reason_code(packet, self.reason_code);
            return writer.properties(|writer| self.write_properties(writer));
        }
        let code = self.reason_code;
        match code.as_connack_return_code() {
            Some(return_code) => writer.u8(return_code),
            None => writer.refuse(EncodeError::ReasonCodeInvalid { packet, code }),
        }
    }

    fn write_properties(&self, writer: &mut Writer<'_>) {
        use PropertyId as Id;
        let receive_maximum = self.receive_maximum.map(NonZeroU16::get);
        // "QoS 2" is said by leaving the property out (section 3.2.2.3.4).
        let maximum_qos = self.maximum_qos.filter(|qos| *qos < Qos::ExactlyOnce);
        let maximum_packet_size = self.maximum_packet_size.map(NonZeroU32::get);
        writer.property_u32(Id::SessionExpiryInterval, self.session_expiry_interval);
        writer.property_u16(Id::ReceiveMaximum, receive_maximum);
        writer.property_u8(Id::MaximumQos, maximum_qos.map(Qos::as_u8));
        writer.property_bool(Id::RetainAvailable, self.retain_available);
        writer.property_u32(Id::MaximumPacketSize, maximum_packet_size);
        writer.property_utf8(
            Id::AssignedClientIdentifier,
            self.assigned_client_identifier.as_ref(),
        );
        writer.property_u16(Id::TopicAliasMaximum, self.topic_alias_maximum);
        writer.property_utf8(Id::ReasonString, self.reason_string.as_ref());
        writer.user_properties(&self.user_properties);
        writer.property_bool(
            Id::WildcardSubscriptionAvailable,
            self.wildcard_subscription_available,
        );
        writer.property_bool(
            Id::SubscriptionIdentifierAvailable,
            self.subscription_identifiers_available,
        );
        writer.property_bool(
            Id::SharedSubscriptionAvailable,
            self.shared_subscription_available,
        );
        writer.property_u16(Id::ServerKeepAlive, self.server_keep_alive);
        writer.property_utf8(Id::ResponseInformation, self.response_information.as_ref());
        writer.property_utf8(Id::ServerReference, self.server_reference.as_ref());
        writer.property_utf8(
            Id::AuthenticationMethod,
            self.authentication_method.as_ref(),
        );
        writer.property_binary(Id::AuthenticationData, self.authentication_data.as_deref());
    }
}

/// Session Present, the only flag [MQTT-3.2.2-1].
fn decode_flags(flags: u8, reason_code: ReasonCode) -> Result<bool, DecodeError> {
    match (flags, reason_code) {
        (0, _) => Ok(false),
        (1, ReasonCode::Success) => Ok(true),
        (1, _) => Err(DecodeError::SessionPresentOnRefusal),
        _ => Err(DecodeError::ConnackFlagsReserved),
    }
}
