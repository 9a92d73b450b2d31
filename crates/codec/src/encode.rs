//! Packets → bytes.

use std::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use crate::error::EncodeError;
use crate::message::Message;
use crate::packet::publish::Transmission;
use crate::packet::{Packet, PacketType, ProtocolVersion, SubscriptionIdentifier};
use crate::packet_id::PacketId;
use crate::primitive::{VARIABLE_BYTE_INTEGER_MAX, Writer};
use crate::qos::Qos;

/// Appends `packet` to `out`, in the form of `version`.
///
/// What an older version cannot say (properties, most Reason Codes) is left out. A CONNECT is
/// written in its own version.
///
/// # Errors
/// The packet is not legal; nothing was written.
pub fn encode(
    packet: &Packet,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    frame(first_byte(packet), out, |writer| {
        write_body(packet, version, writer);
    })
}

/// Bytes of `packet` in the form of `version`, fixed header included: what is compared with a
/// Maximum Packet Size.
///
/// # Errors
/// The packet is not legal.
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> Result<usize, EncodeError> {
    framed_len(|writer| write_body(packet, version, writer))
}

/// How one copy of a message is sent; the rest comes from the [`Message`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PublishHeader<'a> {
    /// Whether this is a re-transmission [MQTT-3.3.1-3]; never with QoS 0.
    pub dup: bool,
    /// The lower of published and granted QoS [MQTT-3.8.4-8].
    pub qos: Qos,
    /// RETAIN flag of this copy.
    pub retain: bool,
    /// There exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Topic Name or alias; before MQTT 5.0 the name always.
    pub topic_form: TopicForm,
    /// How long the message waited here, in whole seconds. Taken off its expiry interval
    /// [MQTT-3.3.2-6].
    pub waited_s: u32,
    /// Identifiers of the matching subscriptions [MQTT-3.3.4-3].
    pub subscription_identifiers: &'a [SubscriptionIdentifier],
}

/// How a PUBLISH names its topic.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum TopicForm {
    /// By the Topic Name.
    #[default]
    Name,
    /// By the Topic Name, which the alias means from now on.
    DefineAlias(NonZeroU16),
    /// By an alias that this connection has defined.
    Alias(NonZeroU16),
}

/// Appends a PUBLISH of `message` to `out` without building a [`Publish`](crate::Publish).
///
/// # Errors
/// QoS, DUP and packet identifier do not fit, or the packet is larger than MQTT allows; nothing was
/// written.
pub fn encode_publish(
    header: &PublishHeader<'_>,
    message: &Message,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let transmission = Transmission::of_message(header, message);
    let first = first_byte_of_publish(transmission.flags());
    frame(first, out, |writer| transmission.write(version, writer))
}

/// Bytes that [`encode_publish`] would append: what is compared with the client's Maximum Packet
/// Size [MQTT-3.1.2-24].
///
/// # Errors
/// As [`encode_publish`].
pub fn encoded_publish_len(
    header: &PublishHeader<'_>,
    message: &Message,
    version: ProtocolVersion,
) -> Result<usize, EncodeError> {
    let transmission = Transmission::of_message(header, message);
    framed_len(|writer| transmission.write(version, writer))
}

/// Fixed header and body; measures before it writes.
fn frame(
    first_byte: u8,
    out: &mut BytesMut,
    body: impl Fn(&mut Writer<'_>),
) -> Result<(), EncodeError> {
    let mut counter = Writer::counting();
    body(&mut counter);
    let remaining_length = check_length(counter.finish()?)?;
    out.reserve(remaining_length + 5);
    out.put_u8(first_byte);
    let mut writer = Writer::writing(out);
    writer.variable_byte_integer(remaining_length);
    let header_bytes = writer.written();
    body(&mut writer);
    debug_assert_eq!(writer.written(), header_bytes + remaining_length);
    Ok(())
}

fn framed_len(body: impl Fn(&mut Writer<'_>)) -> Result<usize, EncodeError> {
    let mut counter = Writer::counting();
    body(&mut counter);
    let remaining_length = check_length(counter.finish()?)?;
    let mut header = Writer::counting();
    header.u8(0);
    header.variable_byte_integer(remaining_length);
    Ok(header.written() + remaining_length)
}

fn check_length(remaining_length: usize) -> Result<usize, EncodeError> {
    if remaining_length > VARIABLE_BYTE_INTEGER_MAX as usize {
        return Err(EncodeError::PacketTooLarge {
            bytes: remaining_length,
        });
    }
    Ok(remaining_length)
}

fn first_byte(packet: &Packet) -> u8 {
    match packet {
        Packet::Publish(publish) => {
            first_byte_of_publish(Transmission::of_publish(publish).flags())
        }
        Packet::Connect(_)
        | Packet::Connack(_)
        | Packet::Puback(_)
        | Packet::Pubrec(_)
        | Packet::Pubrel(_)
        | Packet::Pubcomp(_)
        | Packet::Subscribe(_)
        | Packet::Suback(_)
        | Packet::Unsubscribe(_)
        | Packet::Unsuback(_)
        | Packet::Pingreq
        | Packet::Pingresp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => {
            let packet_type = packet.packet_type();
            packet_type.as_u8() << 4 | packet_type.flags()
        }
    }
}

const fn first_byte_of_publish(flags: u8) -> u8 {
    PacketType::Publish.as_u8() << 4 | flags
}

fn write_body(packet: &Packet, version: ProtocolVersion, writer: &mut Writer<'_>) {
    match packet {
        Packet::Connect(connect) => connect.write(writer),
        Packet::Connack(connack) => connack.write(version, writer),
        Packet::Publish(publish) => Transmission::of_publish(publish).write(version, writer),
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.write(packet.packet_type(), version, writer);
        }
        Packet::Subscribe(subscribe) => subscribe.write(version, writer),
        Packet::Suback(suback) => suback.write(version, writer),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.write(version, writer),
        Packet::Unsuback(unsuback) => unsuback.write(version, writer),
        Packet::Pingreq | Packet::Pingresp => {}
        Packet::Disconnect(disconnect) => disconnect.write(version, writer),
        Packet::Auth(auth) => auth.write(version, writer),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::MessageProperties;
    use crate::packet::{
        Ack, Auth, Connack, Connect, Disconnect, Publish, Suback, Subscribe, Unsubscribe,
    };
    use crate::primitive::Utf8;
    use crate::reason_code::ReasonCode;
    use crate::topic::TopicName;

    const V311: ProtocolVersion = ProtocolVersion::V311;
    const V5: ProtocolVersion = ProtocolVersion::V5;

    fn publish() -> Publish {
        Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            packet_id: None,
            topic: Some(TopicName::try_from("t").unwrap()),
            topic_alias: None,
            payload: Bytes::new(),
            properties: MessageProperties::default(),
            subscription_identifiers: Vec::new(),
        }
    }

    fn refused(packet: Packet, version: ProtocolVersion) -> EncodeError {
        let mut out = BytesMut::from("before");
        let error = encode(&packet, version, &mut out).unwrap_err();
        assert_eq!(encoded_len(&packet, version), Err(error.clone()));
        assert_eq!(out, "before");
        error
    }

    #[test]
    fn a_publish_that_contradicts_itself_is_refused_and_leaves_nothing_behind() {
        let with_id = Publish {
            packet_id: Some(PacketId::MIN),
            ..publish()
        };
        let without_id = Publish {
            qos: Qos::ExactlyOnce,
            ..publish()
        };
        let dup = Publish {
            dup: true,
            ..publish()
        };
        let alias_only = Publish {
            topic: None,
            topic_alias: NonZeroU16::new(1),
            ..publish()
        };
        let refused = |publish, version| refused(Packet::Publish(publish), version);
        assert_eq!(refused(with_id, V5), EncodeError::PacketIdMismatch);
        assert_eq!(refused(without_id, V311), EncodeError::PacketIdMismatch);
        assert_eq!(refused(dup, V5), EncodeError::DupWithQos0);
        assert_eq!(refused(alias_only, V311), EncodeError::TopicMissing);
    }

    #[test]
    fn what_a_version_cannot_say_is_refused_where_leaving_it_out_would_mislead() {
        let disconnect = Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver));
        let packet = PacketType::Disconnect;
        assert_eq!(
            refused(disconnect, V311),
            EncodeError::NotInVersion { packet }
        );
        let packet = PacketType::Auth;
        let auth = Packet::Auth(Auth::default());
        assert_eq!(refused(auth, V311), EncodeError::NotInVersion { packet });
        let (packet, code) = (PacketType::Connack, ReasonCode::QuotaExceeded);
        let connack = Packet::Connack(Box::new(Connack::refusal(code)));
        let invalid = EncodeError::ReasonCodeInvalid { packet, code };
        assert_eq!(refused(connack, V311), invalid);
        let mut connect = Connect::new(V311, Utf8::default());
        connect.password = Some(Bytes::new());
        let connect = Packet::Connect(Box::new(connect));
        assert_eq!(refused(connect, V311), EncodeError::PasswordWithoutUserName);
    }

    #[test]
    fn packets_that_a_receiver_would_refuse_are_not_sent() {
        let packet_id = PacketId::MIN;
        let empty = |packet| EncodeError::Empty { packet };
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: Vec::new(),
            subscriptions: Vec::new(),
        });
        assert_eq!(refused(subscribe, V5), empty(PacketType::Subscribe));
        let unsubscribe = Packet::Unsubscribe(Unsubscribe {
            packet_id,
            user_properties: Vec::new(),
            filters: Vec::new(),
        });
        assert_eq!(refused(unsubscribe, V311), empty(PacketType::Unsubscribe));
        let suback = Packet::Suback(Suback {
            packet_id,
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes: Vec::new(),
        });
        assert_eq!(refused(suback, V5), empty(PacketType::Suback));
        let (packet, code) = (PacketType::Pubrel, ReasonCode::QuotaExceeded);
        let pubrel = Packet::Pubrel(Ack::new(packet_id, code));
        let invalid = EncodeError::ReasonCodeInvalid { packet, code };
        assert_eq!(refused(pubrel, V5), invalid);
    }

    #[test]
    fn data_that_no_length_field_can_hold_is_refused() {
        let correlation_data = Publish {
            properties: MessageProperties {
                correlation_data: Some(Bytes::from(vec![0; 65_536])),
                ..MessageProperties::default()
            },
            ..publish()
        };
        let error = refused(Packet::Publish(correlation_data.clone()), V5);
        assert_eq!(error, EncodeError::DataTooLong { bytes: 65_536 });
        assert_eq!(encoded_len(&Packet::Publish(correlation_data), V311), Ok(5));
    }

    /// [MQTT-3.2.2-6]
    #[test]
    fn a_refusing_connack_never_says_session_present() {
        let connack = Connack {
            session_present: true,
            ..Connack::refusal(ReasonCode::NotAuthorized)
        };
        let mut out = BytesMut::new();
        encode(&Packet::Connack(Box::new(connack)), V311, &mut out).unwrap();
        assert_eq!(&out[..], b"\x20\x02\x00\x05");
    }
}
