//! SUBSCRIBE and SUBACK (sections 3.8 and 3.9).

use std::num::NonZeroU32;

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::packet::{PacketType, ProtocolVersion};
use crate::packet_id::PacketId;
use crate::primitive::{Reader, Utf8, VARIABLE_BYTE_INTEGER_MAX, Writer};
use crate::property::{Place, Properties};
use crate::qos::Qos;
use crate::reason_code::ReasonCode;
use crate::topic::TopicFilter;

const QOS: u8 = 0x03;
const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RETAIN_HANDLING: u8 = 0x30;
const RESERVED: u8 = 0xC0;

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

impl Subscribe {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Subscribe;
        let packet_id = PacketId::decode(packet, reader)?;
        let properties = match rules.version {
            ProtocolVersion::V5 => {
                Properties::decode(reader, Place::Packet(packet), &rules.limits)?
            }
            ProtocolVersion::V31 | ProtocolVersion::V311 => Properties::default(),
        };
        if reader.is_empty() {
            return Err(DecodeError::SubscribeEmpty);
        }
        let mut subscriptions = Vec::new();
        while !reader.is_empty() {
            check_filter_count(subscriptions.len(), rules)?;
            subscriptions.push(Subscription::decode(reader, rules.version)?);
        }
        Ok(Self {
            packet_id,
            subscription_identifier: properties.subscription_identifiers.first().copied(),
            user_properties: properties.message.user_properties,
            subscriptions,
        })
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        if self.subscriptions.is_empty() {
            return writer.refuse(EncodeError::Empty {
                packet: PacketType::Subscribe,
            });
        }
        writer.u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| {
                if let Some(id) = self.subscription_identifier {
                    writer.property_subscription_identifier(id);
                }
                writer.user_properties(&self.user_properties);
            });
        }
        for subscription in &self.subscriptions {
            writer.binary(subscription.filter.as_bytes());
            writer.u8(subscription.options.encode(version));
        }
    }
}

impl Subscription {
    fn decode(reader: &mut Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let filter = TopicFilter::try_from(reader.utf8()?)?;
        let options = SubscriptionOptions::decode(reader.u8()?, version)?;
        if options.no_local && filter.is_shared() {
            return Err(DecodeError::NoLocalOnShared);
        }
        Ok(Self { filter, options })
    }
}

impl SubscriptionOptions {
    fn decode(byte: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let reserved = match version {
            ProtocolVersion::V5 => RESERVED,
            ProtocolVersion::V31 | ProtocolVersion::V311 => !QOS,
        };
        if byte & reserved != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved);
        }
        Ok(Self {
            qos: Qos::try_from(byte & QOS).or(Err(DecodeError::RequestedQosInvalid))?,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling: match (byte & RETAIN_HANDLING) >> RETAIN_HANDLING_SHIFT {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(DecodeError::RetainHandlingInvalid),
            },
        })
    }

    fn encode(self, version: ProtocolVersion) -> u8 {
        if version < ProtocolVersion::V5 {
            return self.qos.as_u8();
        }
        let no_local = if self.no_local { NO_LOCAL } else { 0 };
        let retain_as_published = if self.retain_as_published {
            RETAIN_AS_PUBLISHED
        } else {
            0
        };
        let retain_handling = self.retain_handling.as_u8() << RETAIN_HANDLING_SHIFT;
        self.qos.as_u8() | no_local | retain_as_published | retain_handling
    }
}

impl Suback {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Suback;
        let packet_id = PacketId::decode(packet, reader)?;
        let properties = match rules.version {
            ProtocolVersion::V5 => {
                Properties::decode(reader, Place::Packet(packet), &rules.limits)?
            }
            ProtocolVersion::V31 | ProtocolVersion::V311 => Properties::default(),
        };
        let reason_codes = decode_reason_codes(packet, reader, rules)?;
        Ok(Self {
            packet_id,
            reason_string: properties.reason_string,
            user_properties: properties.message.user_properties,
            reason_codes,
        })
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let packet = PacketType::Suback;
        if self.reason_codes.is_empty() {
            return writer.refuse(EncodeError::Empty { packet });
        }
        writer.u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            writer.reason_properties(self.reason_string.as_ref(), &self.user_properties);
        }
        for &code in &self.reason_codes {
            match version < ProtocolVersion::V5 && code.is_error() {
                // The only failure that older versions know [MQTT-3.9.3-2 of 3.1.1].
                true => writer.reason_code(packet, ReasonCode::UnspecifiedError),
                false => writer.reason_code(packet, code),
            }
        }
    }
}

/// The codes of a SUBACK or UNSUBACK: all that is left, at least one.
pub(crate) fn decode_reason_codes(
    packet: PacketType,
    reader: &mut Reader,
    rules: &Rules,
) -> Result<Vec<ReasonCode>, DecodeError> {
    if reader.is_empty() {
        return Err(DecodeError::ReasonCodesMissing { packet });
    }
    let codes = reader.take_rest();
    let is_old = rules.version < ProtocolVersion::V5;
    codes
        .iter()
        .map(|&code| match is_old && !matches!(code, 0..=2 | 0x80) {
            true => Err(DecodeError::ReasonCodeInvalid { packet, code }),
            false => ReasonCode::decode(code, packet, rules.sender),
        })
        .collect()
}

/// Room for one more filter?
pub(crate) fn check_filter_count(count: usize, rules: &Rules) -> Result<(), DecodeError> {
    let max = rules.limits.topic_filters_max;
    if count >= max {
        return Err(DecodeError::TooMany {
            what: "topic filters",
            max,
        });
    }
    Ok(())
}
