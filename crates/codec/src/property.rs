//! The properties of MQTT 5.0 (section 2.2.2): identifier, type, allowed packets, may it repeat.
//!
//! This file is the only one that knows them all. A packet asks for [`Properties`] of its
//! [`Place`] and takes the fields it has; what does not belong there was refused before.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::decode::Limits;
use crate::error::DecodeError;
use crate::message::{MessageProperties, PayloadFormat};
use crate::packet::{PacketType, SubscriptionIdentifier};
use crate::primitive::{Reader, Utf8, Writer};
use crate::qos::Qos;
use crate::topic::TopicName;

/// A property, by its identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of table 2-4")]
pub enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQos = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

impl PropertyId {
    /// Every property, in the order of its identifier.
    pub const ALL: [Self; 27] = [
        Self::PayloadFormatIndicator,
        Self::MessageExpiryInterval,
        Self::ContentType,
        Self::ResponseTopic,
        Self::CorrelationData,
        Self::SubscriptionIdentifier,
        Self::SessionExpiryInterval,
        Self::AssignedClientIdentifier,
        Self::ServerKeepAlive,
        Self::AuthenticationMethod,
        Self::AuthenticationData,
        Self::RequestProblemInformation,
        Self::WillDelayInterval,
        Self::RequestResponseInformation,
        Self::ResponseInformation,
        Self::ServerReference,
        Self::ReasonString,
        Self::ReceiveMaximum,
        Self::TopicAliasMaximum,
        Self::TopicAlias,
        Self::MaximumQos,
        Self::RetainAvailable,
        Self::UserProperty,
        Self::MaximumPacketSize,
        Self::WildcardSubscriptionAvailable,
        Self::SubscriptionIdentifierAvailable,
        Self::SharedSubscriptionAvailable,
    ];

    /// The identifier on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Table 2-4, last column.
    const fn is_allowed_in(self, place: Place) -> bool {
        use PacketType as P;
        match (self, place) {
            (Self::UserProperty, _) => true,
            (
                Self::PayloadFormatIndicator
                | Self::MessageExpiryInterval
                | Self::ContentType
                | Self::ResponseTopic
                | Self::CorrelationData,
                place,
            ) => matches!(place, Place::Will | Place::Packet(P::Publish)),
            (Self::WillDelayInterval, place) => matches!(place, Place::Will),
            (_, Place::Will) => false,
            (Self::TopicAlias, Place::Packet(packet)) => matches!(packet, P::Publish),
            (Self::SubscriptionIdentifier, Place::Packet(packet)) => {
                matches!(packet, P::Publish | P::Subscribe)
            }
            (Self::SessionExpiryInterval, Place::Packet(packet)) => {
                matches!(packet, P::Connect | P::Connack | P::Disconnect)
            }
            (Self::AuthenticationMethod | Self::AuthenticationData, Place::Packet(packet)) => {
                matches!(packet, P::Connect | P::Connack | P::Auth)
            }
            (
                Self::RequestProblemInformation | Self::RequestResponseInformation,
                Place::Packet(packet),
            ) => matches!(packet, P::Connect),
            (Self::ServerReference, Place::Packet(packet)) => {
                matches!(packet, P::Connack | P::Disconnect)
            }
            (Self::ReasonString, Place::Packet(packet)) => !matches!(
                packet,
                P::Connect | P::Publish | P::Subscribe | P::Unsubscribe
            ),
            (
                Self::ReceiveMaximum | Self::TopicAliasMaximum | Self::MaximumPacketSize,
                Place::Packet(packet),
            ) => matches!(packet, P::Connect | P::Connack),
            (
                Self::AssignedClientIdentifier
                | Self::ServerKeepAlive
                | Self::ResponseInformation
                | Self::MaximumQos
                | Self::RetainAvailable
                | Self::WildcardSubscriptionAvailable
                | Self::SubscriptionIdentifierAvailable
                | Self::SharedSubscriptionAvailable,
                Place::Packet(packet),
            ) => matches!(packet, P::Connack),
        }
    }

    /// User Property may repeat everywhere, Subscription Identifier in PUBLISH.
    const fn may_repeat_in(self, place: Place) -> bool {
        matches!(
            (self, place),
            (Self::UserProperty, _)
                | (
                    Self::SubscriptionIdentifier,
                    Place::Packet(PacketType::Publish)
                )
        )
    }

    fn decode(id: u32) -> Result<Self, DecodeError> {
        Self::ALL
            .binary_search_by_key(&id, |property| u32::from(property.as_u8()))
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .ok_or(DecodeError::PropertyUnknown { id })
    }

    const fn invalid(self) -> DecodeError {
        DecodeError::PropertyValueInvalid { property: self }
    }
}

/// Where properties stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the variable header.
    Packet(PacketType),
    /// In the payload of CONNECT.
    Will,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::Will => "Will",
            Self::Packet(packet) => packet.name(),
        }
    }
}

/// The properties of one place, as read; absent ones are `None` or empty.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    pub(crate) message: MessageProperties,
    pub(crate) subscription_identifiers: Vec<SubscriptionIdentifier>,
    pub(crate) session_expiry_interval: Option<u32>,
    pub(crate) assigned_client_identifier: Option<Utf8>,
    pub(crate) server_keep_alive: Option<u16>,
    pub(crate) authentication_method: Option<Utf8>,
    pub(crate) authentication_data: Option<Bytes>,
    pub(crate) request_problem_information: Option<bool>,
    pub(crate) will_delay_interval: Option<u32>,
    pub(crate) request_response_information: Option<bool>,
    pub(crate) response_information: Option<Utf8>,
    pub(crate) server_reference: Option<Utf8>,
    pub(crate) reason_string: Option<Utf8>,
    pub(crate) receive_maximum: Option<NonZeroU16>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) topic_alias: Option<NonZeroU16>,
    pub(crate) maximum_qos: Option<Qos>,
    pub(crate) retain_available: Option<bool>,
    pub(crate) maximum_packet_size: Option<NonZeroU32>,
    pub(crate) wildcard_subscription_available: Option<bool>,
    pub(crate) subscription_identifiers_available: Option<bool>,
    pub(crate) shared_subscription_available: Option<bool>,
}

impl Properties {
    /// Reads Property Length and properties.
    pub(crate) fn decode(
        reader: &mut Reader,
        place: Place,
        limits: &Limits,
    ) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut block = Reader::new(take_block(reader)?);
        let mut seen = 0_u64;
        while !block.is_empty() {
            let id = block.variable_byte_integer().map_err(beyond_block)?;
            let id = PropertyId::decode(id)?;
            if !id.is_allowed_in(place) {
                return Err(DecodeError::PropertyNotAllowed {
                    property: id,
                    packet: place.name(),
                });
            }
            let bit = 1 << id.as_u8();
            if seen & bit != 0 && !id.may_repeat_in(place) {
                return Err(DecodeError::PropertyRepeated { property: id });
            }
            seen |= bit;
            properties
                .read_value(id, &mut block, limits)
                .map_err(beyond_block)?;
        }
        Ok(properties)
    }

    fn read_value(
        &mut self,
        id: PropertyId,
        block: &mut Reader,
        limits: &Limits,
    ) -> Result<(), DecodeError> {
        use PropertyId as Id;
        match id {
            Id::PayloadFormatIndicator => {
                self.message.payload_format_indicator = Some(read_payload_format(id, block)?);
            }
            Id::MessageExpiryInterval => self.message.message_expiry_interval = Some(block.u32()?),
            Id::ContentType => self.message.content_type = Some(block.utf8()?),
            Id::ResponseTopic => self.message.response_topic = Some(read_response_topic(block)?),
            Id::CorrelationData => self.message.correlation_data = Some(block.binary()?),
            Id::UserProperty => self.push_user_property(block, limits)?,
            Id::SubscriptionIdentifier => self.push_subscription_identifier(block, limits)?,
            Id::SessionExpiryInterval => self.session_expiry_interval = Some(block.u32()?),
            Id::AssignedClientIdentifier => self.assigned_client_identifier = Some(block.utf8()?),
            Id::ServerKeepAlive => self.server_keep_alive = Some(block.u16()?),
            Id::AuthenticationMethod => self.authentication_method = Some(block.utf8()?),
            Id::AuthenticationData => self.authentication_data = Some(block.binary()?),
            Id::RequestProblemInformation => {
                self.request_problem_information = Some(read_bool(id, block)?);
            }
            Id::WillDelayInterval => self.will_delay_interval = Some(block.u32()?),
            Id::RequestResponseInformation => {
                self.request_response_information = Some(read_bool(id, block)?);
            }
            Id::ResponseInformation => self.response_information = Some(block.utf8()?),
            Id::ServerReference => self.server_reference = Some(block.utf8()?),
            Id::ReasonString => self.reason_string = Some(block.utf8()?),
            Id::ReceiveMaximum => {
                self.receive_maximum =
                    Some(NonZeroU16::new(block.u16()?).ok_or_else(|| id.invalid())?);
            }
            Id::TopicAliasMaximum => self.topic_alias_maximum = Some(block.u16()?),
            Id::TopicAlias => {
                let alias = NonZeroU16::new(block.u16()?);
                self.topic_alias = Some(alias.ok_or(DecodeError::TopicAliasZero)?);
            }
            Id::MaximumQos => {
                let is_1 = read_bool(id, block)?;
                self.maximum_qos = Some(if is_1 {
                    Qos::AtLeastOnce
                } else {
                    Qos::AtMostOnce
                });
            }
            Id::RetainAvailable => self.retain_available = Some(read_bool(id, block)?),
            Id::MaximumPacketSize => {
                self.maximum_packet_size =
                    Some(NonZeroU32::new(block.u32()?).ok_or_else(|| id.invalid())?);
            }
            Id::WildcardSubscriptionAvailable => {
                self.wildcard_subscription_available = Some(read_bool(id, block)?);
            }
            Id::SubscriptionIdentifierAvailable => {
                self.subscription_identifiers_available = Some(read_bool(id, block)?);
            }
            Id::SharedSubscriptionAvailable => {
                self.shared_subscription_available = Some(read_bool(id, block)?);
            }
        }
        Ok(())
    }

    fn push_user_property(
        &mut self,
        block: &mut Reader,
        limits: &Limits,
    ) -> Result<(), DecodeError> {
        let pairs = &mut self.message.user_properties;
        check_count(pairs, "user properties", limits)?;
        pairs.push((block.utf8()?, block.utf8()?));
        Ok(())
    }

    fn push_subscription_identifier(
        &mut self,
        block: &mut Reader,
        limits: &Limits,
    ) -> Result<(), DecodeError> {
        let ids = &mut self.subscription_identifiers;
        check_count(ids, "subscription identifiers", limits)?;
        let value = block.variable_byte_integer()?;
        let id = SubscriptionIdentifier::new(value);
        ids.push(id.ok_or_else(|| PropertyId::SubscriptionIdentifier.invalid())?);
        Ok(())
    }
}

fn take_block(reader: &mut Reader) -> Result<Bytes, DecodeError> {
    let length = reader.variable_byte_integer().map_err(beyond_block)?;
    usize::try_from(length)
        .ok()
        .and_then(|length| reader.take(length).ok())
        .ok_or(DecodeError::PropertyLengthInvalid)
}

fn beyond_block(error: DecodeError) -> DecodeError {
    if error == DecodeError::Truncated {
        return DecodeError::PropertyLengthInvalid;
    }
    error
}

fn read_bool(id: PropertyId, block: &mut Reader) -> Result<bool, DecodeError> {
    match block.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(id.invalid()),
    }
}

fn read_payload_format(id: PropertyId, block: &mut Reader) -> Result<PayloadFormat, DecodeError> {
    match read_bool(id, block)? {
        true => Ok(PayloadFormat::Utf8),
        false => Ok(PayloadFormat::Unspecified),
    }
}

fn read_response_topic(block: &mut Reader) -> Result<TopicName, DecodeError> {
    TopicName::try_from(block.utf8()?).map_err(|error| {
        match error == DecodeError::TopicNameWildcard {
            true => DecodeError::ResponseTopicWildcard,
            false => error,
        }
    })
}

fn check_count<T>(list: &[T], what: &'static str, limits: &Limits) -> Result<(), DecodeError> {
    if list.len() >= limits.user_properties_max {
        return Err(DecodeError::TooMany {
            what,
            max: limits.user_properties_max,
        });
    }
    Ok(())
}

/// Writes properties that are there; nothing for absent ones.
impl Writer<'_> {
    /// Property Length, then what `properties` writes. Calls it twice.
    pub(crate) fn properties(&mut self, properties: impl Fn(&mut Writer<'_>)) {
        let mut counter = Writer::counting();
        properties(&mut counter);
        match counter.finish() {
            Ok(length) => self.variable_byte_integer(length),
            Err(error) => return self.refuse(error),
        }
        properties(self);
    }

    pub(crate) fn property_u8(&mut self, id: PropertyId, value: Option<u8>) {
        if let Some(value) = value {
            self.bytes(&[id.as_u8(), value]);
        }
    }

    pub(crate) fn property_bool(&mut self, id: PropertyId, value: Option<bool>) {
        self.property_u8(id, value.map(u8::from));
    }

    pub(crate) fn property_u16(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id.as_u8());
            self.u16(value);
        }
    }

    pub(crate) fn property_u32(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id.as_u8());
            self.u32(value);
        }
    }

    pub(crate) fn property_binary(&mut self, id: PropertyId, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.u8(id.as_u8());
            self.binary(value);
        }
    }

    pub(crate) fn property_utf8(&mut self, id: PropertyId, value: Option<&Utf8>) {
        self.property_binary(id, value.map(Utf8::as_bytes));
    }

    pub(crate) fn property_subscription_identifier(&mut self, id: SubscriptionIdentifier) {
        self.u8(PropertyId::SubscriptionIdentifier.as_u8());
        self.variable_byte_integer(id.get() as usize);
    }

    pub(crate) fn user_properties(&mut self, pairs: &[(Utf8, Utf8)]) {
        for (name, value) in pairs {
            self.u8(PropertyId::UserProperty.as_u8());
            self.utf8(name);
            self.utf8(value);
        }
    }

    /// The properties of a message, its expiry interval replaced by `expiry_interval`.
    pub(crate) fn message_properties(
        &mut self,
        properties: &MessageProperties,
        expiry_interval: Option<u32>,
    ) {
        use PropertyId as Id;
        let format = properties.payload_format_indicator;
        self.property_u8(Id::PayloadFormatIndicator, format.map(PayloadFormat::as_u8));
        self.property_u32(Id::MessageExpiryInterval, expiry_interval);
        self.property_utf8(Id::ContentType, properties.content_type.as_ref());
        let response_topic = properties.response_topic.as_ref();
        self.property_binary(Id::ResponseTopic, response_topic.map(TopicName::as_bytes));
        self.property_binary(Id::CorrelationData, properties.correlation_data.as_deref());
        self.user_properties(&properties.user_properties);
    }
}
