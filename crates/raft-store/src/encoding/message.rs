//! Application Messages and subscriptions, in the words of `codec`.

use bytes::Bytes;
use codec::{Message, MessageProperties, PayloadFormat, Qos, TopicFilter, TopicName, Utf8, Will};

use super::field::{invalid, narrow, present, text_error, utf8_from_proto};
use super::{EncodingError, from_bytes, proto, to_bytes};

/// The longest payload that a packet could carry: a remaining length has 28 bits.
const PAYLOAD_BYTES_MAX: usize = 268_435_455;
/// Binary data has a length of 16 bits.
const BINARY_BYTES_MAX: usize = 65_535;

/// `message` as bytes. Copies the payload once.
#[must_use]
pub fn encode_message(message: &Message) -> Bytes {
    to_bytes(&message_to_proto(message))
}

/// Reads a message; its texts and its payload are slices of `bytes`.
///
/// # Errors
/// What is broken.
pub fn decode_message(bytes: Bytes) -> Result<Message, EncodingError> {
    message_from_proto(from_bytes("Message", bytes)?)
}

/// `message` as it is embedded in other messages. Shares the payload.
#[must_use]
pub fn message_to_proto(message: &Message) -> proto::Message {
    let properties = &message.properties;
    proto::Message {
        topic: message.topic.to_bytes(),
        payload: message.payload.clone(),
        qos: message.qos.as_u8().into(),
        retain: message.retain,
        properties: (!properties.is_empty()).then(|| properties_to_proto(properties)),
    }
}

/// Reads an embedded message; its texts and its payload share the bytes of `message`.
///
/// # Errors
/// What is broken.
pub fn message_from_proto(message: proto::Message) -> Result<Message, EncodingError> {
    Ok(Message {
        topic: topic_from_proto("Message.topic", message.topic)?,
        payload: at_most("Message.payload", message.payload, PAYLOAD_BYTES_MAX)?,
        qos: qos_from_proto("Message.qos", message.qos)?,
        retain: message.retain,
        properties: match message.properties {
            Some(properties) => properties_from_proto(properties)?,
            None => MessageProperties::default(),
        },
    })
}

pub(super) fn will_to_proto(will: &Will) -> proto::Will {
    proto::Will {
        message: Some(message_to_proto(&will.message)),
        delay_interval_s: will.delay_interval_s,
    }
}

pub(super) fn will_from_proto(will: proto::Will) -> Result<Will, EncodingError> {
    Ok(Will {
        message: message_from_proto(present("Will.message", will.message)?)?,
        delay_interval_s: will.delay_interval_s,
    })
}

fn properties_to_proto(properties: &MessageProperties) -> proto::MessageProperties {
    proto::MessageProperties {
        payload_format_indicator: properties
            .payload_format_indicator
            .map(|format| format.as_u8().into()),
        message_expiry_interval: properties.message_expiry_interval,
        content_type: properties.content_type.as_ref().map(Utf8::to_bytes),
        response_topic: properties.response_topic.as_ref().map(TopicName::to_bytes),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties
            .user_properties
            .iter()
            .map(|(name, value)| proto::UserProperty {
                name: name.to_bytes(),
                value: value.to_bytes(),
            })
            .collect(),
    }
}

fn properties_from_proto(
    properties: proto::MessageProperties,
) -> Result<MessageProperties, EncodingError> {
    Ok(MessageProperties {
        payload_format_indicator: properties
            .payload_format_indicator
            .map(payload_format_from_proto)
            .transpose()?,
        message_expiry_interval: properties.message_expiry_interval,
        content_type: properties
            .content_type
            .map(|value| utf8_from_proto("MessageProperties.content_type", value))
            .transpose()?,
        response_topic: properties
            .response_topic
            .map(|value| topic_from_proto("MessageProperties.response_topic", value))
            .transpose()?,
        correlation_data: properties
            .correlation_data
            .map(|value| {
                at_most(
                    "MessageProperties.correlation_data",
                    value,
                    BINARY_BYTES_MAX,
                )
            })
            .transpose()?,
        user_properties: properties
            .user_properties
            .into_iter()
            .map(user_property_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

fn user_property_from_proto(property: proto::UserProperty) -> Result<(Utf8, Utf8), EncodingError> {
    Ok((
        utf8_from_proto("UserProperty.name", property.name)?,
        utf8_from_proto("UserProperty.value", property.value)?,
    ))
}

fn payload_format_from_proto(value: u32) -> Result<PayloadFormat, EncodingError> {
    match value {
        0 => Ok(PayloadFormat::Unspecified),
        1 => Ok(PayloadFormat::Utf8),
        _ => Err(invalid("MessageProperties.payload_format_indicator", value)),
    }
}

pub(super) fn topic_from_proto(
    field: &'static str,
    bytes: Bytes,
) -> Result<TopicName, EncodingError> {
    TopicName::try_from(bytes).map_err(text_error(field))
}

fn at_most(field: &'static str, data: Bytes, bytes_max: usize) -> Result<Bytes, EncodingError> {
    if data.len() > bytes_max {
        return Err(EncodingError::TooLong {
            field,
            bytes: data.len(),
            bytes_max,
        });
    }
    Ok(data)
}

pub(super) fn qos_from_proto(field: &'static str, value: u32) -> Result<Qos, EncodingError> {
    let code: u8 = narrow(field, value)?;
    Qos::try_from(code).map_err(text_error(field))
}

/// Copies: a filter is kept as long as its subscription, and must not pin a whole batch.
pub(super) fn filter_from_proto(
    field: &'static str,
    bytes: Bytes,
) -> Result<TopicFilter, EncodingError> {
    let filter = TopicFilter::try_from(bytes).map_err(text_error(field))?;
    Ok(filter.detached())
}
