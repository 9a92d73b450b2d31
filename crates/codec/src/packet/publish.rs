//! PUBLISH (section 3.3).

use std::num::NonZeroU16;

use bytes::Bytes;

use crate::decode::Rules;
use crate::encode::{PublishHeader, TopicForm};
use crate::error::{DecodeError, EncodeError};
use crate::message::{Message, MessageProperties};
use crate::packet::{PacketType, ProtocolVersion, Sender, SubscriptionIdentifier};
use crate::packet_id::PacketId;
use crate::primitive::{Reader, Writer};
use crate::property::{Place, Properties, PropertyId};
use crate::qos::Qos;
use crate::topic::TopicName;

const RETAIN: u8 = 0x01;
const QOS_SHIFT: u8 = 1;
const QOS: u8 = 0x06;
const DUP: u8 = 0x08;

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

impl Publish {
    /// Judges the lower four bits of the first byte.
    pub(crate) fn check_flags(flags: u8) -> Result<(), DecodeError> {
        let qos = decode_qos(flags)?;
        if qos == Qos::AtMostOnce && flags & DUP != 0 {
            return Err(DecodeError::DupWithQos0);
        }
        Ok(())
    }

    pub(crate) fn decode(
        flags: u8,
        reader: &mut Reader,
        rules: &Rules,
    ) -> Result<Self, DecodeError> {
        let qos = decode_qos(flags)?;
        let topic = reader.utf8()?;
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                Some(PacketId::decode(PacketType::Publish, reader)?)
            }
        };
        let properties = match rules.version {
            ProtocolVersion::V5 => {
                let place = Place::Packet(PacketType::Publish);
                Properties::decode(reader, place, &rules.limits)?
            }
            ProtocolVersion::V31 | ProtocolVersion::V311 => Properties::default(),
        };
        if rules.sender == Sender::Client && !properties.subscription_identifiers.is_empty() {
            return Err(DecodeError::SubscriptionIdentifierFromClient);
        }
        let topic = match topic.is_empty() {
            false => Some(TopicName::try_from(topic)?),
            true if properties.topic_alias.is_some() => None,
            true => return Err(DecodeError::TopicMissing),
        };
        Ok(Self {
            dup: flags & DUP != 0,
            qos,
            retain: flags & RETAIN != 0,
            packet_id,
            topic,
            topic_alias: properties.topic_alias,
            payload: reader.take_rest(),
            properties: properties.message,
            subscription_identifiers: properties.subscription_identifiers,
        })
    }
}

fn decode_qos(flags: u8) -> Result<Qos, DecodeError> {
    Qos::try_from((flags & QOS) >> QOS_SHIFT)
}

/// A PUBLISH about to be written, from whatever holds its parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transmission<'a> {
    dup: bool,
    qos: Qos,
    retain: bool,
    packet_id: Option<PacketId>,
    topic: Option<&'a TopicName>,
    topic_alias: Option<NonZeroU16>,
    payload: &'a [u8],
    properties: &'a MessageProperties,
    expiry_interval: Option<u32>,
    subscription_identifiers: &'a [SubscriptionIdentifier],
}

impl<'a> Transmission<'a> {
    pub(crate) fn of_publish(publish: &'a Publish) -> Self {
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            topic: publish.topic.as_ref(),
            topic_alias: publish.topic_alias,
            payload: &publish.payload,
            properties: &publish.properties,
            expiry_interval: publish.properties.message_expiry_interval,
            subscription_identifiers: &publish.subscription_identifiers,
        }
    }

    pub(crate) fn of_message(header: &PublishHeader<'a>, message: &'a Message) -> Self {
        let (topic, topic_alias) = match header.topic_form {
            TopicForm::Name => (Some(&message.topic), None),
            TopicForm::DefineAlias(alias) => (Some(&message.topic), Some(alias)),
            TopicForm::Alias(alias) => (None, Some(alias)),
        };
        let expiry_interval = message.properties.message_expiry_interval;
        Self {
            dup: header.dup,
            qos: header.qos,
            retain: header.retain,
            packet_id: header.packet_id,
            topic,
            topic_alias,
            payload: &message.payload,
            properties: &message.properties,
            expiry_interval: expiry_interval.map(|s| s.saturating_sub(header.waited_s)),
            subscription_identifiers: header.subscription_identifiers,
        }
    }

    /// The lower four bits of the first byte.
    pub(crate) const fn flags(&self) -> u8 {
        let dup = if self.dup { DUP } else { 0 };
        let retain = if self.retain { RETAIN } else { 0 };
        dup | self.qos.as_u8() << QOS_SHIFT | retain
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        if let Err(error) = self.check(version) {
            return writer.refuse(error);
        }
        writer.binary(self.topic.map_or(&[], TopicName::as_bytes));
        if let Some(packet_id) = self.packet_id {
            writer.u16(packet_id.get());
        }
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| self.write_properties(writer));
        }
        writer.bytes(self.payload);
    }

    fn check(&self, version: ProtocolVersion) -> Result<(), EncodeError> {
        if (self.qos == Qos::AtMostOnce) != self.packet_id.is_none() {
            return Err(EncodeError::PacketIdMismatch);
        }
        if self.qos == Qos::AtMostOnce && self.dup {
            return Err(EncodeError::DupWithQos0);
        }
        let has_alias = self.topic_alias.is_some() && version == ProtocolVersion::V5;
        if self.topic.is_none() && !has_alias {
            return Err(EncodeError::TopicMissing);
        }
        Ok(())
    }

    fn write_properties(&self, writer: &mut Writer<'_>) {
        let topic_alias = self.topic_alias.map(NonZeroU16::get);
        writer.property_u16(PropertyId::TopicAlias, topic_alias);
        writer.message_properties(self.properties, self.expiry_interval);
        for id in self.subscription_identifiers {
            writer.property_subscription_identifier(*id);
        }
    }
}
