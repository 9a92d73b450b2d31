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
