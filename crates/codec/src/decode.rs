//! Bytes → packets, incrementally.

use bytes::{Buf, BytesMut};

use crate::error::DecodeError;
use crate::packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, PacketType, ProtocolVersion, Publish, Sender,
    Suback, Subscribe, Unsuback, Unsubscribe,
};
use crate::primitive::{Reader, read_variable_byte_integer};

/// What a decoder accepts at most. Checked before anything is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole packet, fixed header included. Default 1 MiB: what a CONNACK announces by
    /// default, so that one client cannot claim much memory.
    pub packet_bytes_max: usize,
    /// User Properties of one packet; also Subscription Identifiers. Default 1,024: each takes 64
    /// bytes of memory but only 5 on the wire.
    pub user_properties_max: usize,
    /// Topic Filters of one SUBSCRIBE or UNSUBSCRIBE. Default 4,096: each takes 40 bytes of memory
    /// and a route, but only 4 on the wire.
    pub topic_filters_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1 << 20,
            user_properties_max: 1_024,
            topic_filters_max: 4_096,
        }
    }
}

/// What one packet is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) version: ProtocolVersion,
    pub(crate) sender: Sender,
    pub(crate) limits: Limits,
}

/// Decodes what one side of one connection sends.
///
/// After an error the connection is to be closed: the decoder is not to be used again, but for its
/// [`version`](Self::version), which says in which form to answer.
#[derive(Debug, Clone)]
pub struct Decoder {
    sender: Sender,
    version: Option<ProtocolVersion>,
    limits: Limits,
}

/// The first bytes of a packet.
#[derive(Debug, Clone, Copy)]
struct FixedHeader {
    packet: PacketType,
    flags: u8,
    bytes: usize,
    packet_bytes: usize,
    is_minimal: bool,
}

impl Decoder {
    /// For a server: the first packet is CONNECT [MQTT-3.1.0-1] and settles the version.
    #[must_use]
    pub const fn from_client(limits: Limits) -> Self {
        Self {
            sender: Sender::Client,
            version: None,
            limits,
        }
    }

    /// For a server that takes over a connection whose CONNECT was decoded elsewhere.
    #[must_use]
    pub const fn from_connected_client(version: ProtocolVersion, limits: Limits) -> Self {
        Self {
            sender: Sender::Client,
            version: Some(version),
            limits,
        }
    }

    /// For a client that sent a CONNECT of `version`.
    #[must_use]
    pub const fn from_server(version: ProtocolVersion, limits: Limits) -> Self {
        Self {
            sender: Sender::Server,
            version: Some(version),
            limits,
        }
    }

    /// The version of the connection, known from the moment a supported protocol level was read,
    /// even if the rest of that CONNECT is malformed.
    #[must_use]
    pub const fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Takes the next packet off the front of `buffer`, whatever else that holds.
    ///
    /// `Ok(None)`: it is not complete yet; nothing was taken, read more and call again. Strings and
    /// payload of the packet share the memory of `buffer`. Allocates nothing but the lists of
    /// User Properties, filters and codes. Packet type, flags and size are judged as soon as
    /// their bytes are there, before the body arrives.
    ///
    /// # Errors
    /// The rule that the packet breaks. The connection must be closed [MQTT-4.13.1-1].
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = self.fixed_header(buffer)? else {
            return Ok(None);
        };
        if buffer.len() < header.packet_bytes {
            return Ok(None);
        }
        let mut body = buffer.split_to(header.packet_bytes).freeze();
        body.advance(header.bytes);
        self.packet(header, Reader::new(body)).map(Some)
    }

    fn fixed_header(&self, buffer: &[u8]) -> Result<Option<FixedHeader>, DecodeError> {
        let Some((&first, rest)) = buffer.split_first() else {
            return Ok(None);
        };
        let packet = PacketType::try_from(first >> 4)?;
        let flags = first & 0x0F;
        self.check_packet_type(packet)?;
        self.check_flags(packet, flags)?;
        let Some(remaining_length) = read_variable_byte_integer(rest)? else {
            return Ok(None);
        };
        if !remaining_length.is_minimal && self.version == Some(ProtocolVersion::V5) {
            return Err(DecodeError::VariableByteIntegerNotMinimal);
        }
        let bytes = 1 + remaining_length.bytes;
        let body_bytes = usize::try_from(remaining_length.value).unwrap_or(usize::MAX);
        let packet_bytes = body_bytes.saturating_add(bytes);
        if packet_bytes > self.limits.packet_bytes_max {
            return Err(DecodeError::PacketTooLarge {
                bytes: packet_bytes,
                bytes_max: self.limits.packet_bytes_max,
            });
        }
        Ok(Some(FixedHeader {
            packet,
            flags,
            bytes,
            packet_bytes,
            is_minimal: remaining_length.is_minimal,
        }))
    }

    /// May this packet come from this side, in this version, now?
    fn check_packet_type(&self, packet: PacketType) -> Result<(), DecodeError> {
        let Some(version) = self.version else {
            return match packet == PacketType::Connect {
                true => Ok(()),
                false => Err(DecodeError::NotConnect { packet }),
            };
        };
        if packet == PacketType::Auth && version < ProtocolVersion::V5 {
            let packet_type = packet.as_u8();
            return Err(DecodeError::PacketTypeReserved { packet_type });
        }
        if !packet.is_sent_by(self.sender) {
            return Err(DecodeError::WrongSender { packet });
        }
        if packet == PacketType::Connect {
            return Err(DecodeError::SecondConnect);
        }
        Ok(())
    }

    fn check_flags(&self, packet: PacketType, flags: u8) -> Result<(), DecodeError> {
        if packet == PacketType::Publish {
            return Publish::check_flags(flags);
        }
        // MQTT 3.1 sets DUP on repeated PUBREL, SUBSCRIBE and UNSUBSCRIBE packets.
        let is_repeat = self.version == Some(ProtocolVersion::V31)
            && packet.flags() != 0
            && flags == packet.flags() | 0b1000;
        if flags != packet.flags() && !is_repeat {
            return Err(DecodeError::FlagsInvalid { packet, flags });
        }
        Ok(())
    }

    fn packet(&mut self, header: FixedHeader, mut body: Reader) -> Result<Packet, DecodeError> {
        let packet = header.packet;
        let version = match (packet, self.version) {
            (PacketType::Connect, _) => Connect::decode_version(&mut body)?,
            (_, Some(version)) => version,
            (_, None) => return Err(DecodeError::NotConnect { packet }),
        };
        self.version = Some(version);
        if !header.is_minimal && version == ProtocolVersion::V5 {
            return Err(DecodeError::VariableByteIntegerNotMinimal);
        }
        let rules = Rules {
            version,
            sender: self.sender,
            limits: self.limits,
        };
        let (packet, body) = decode_body(header, body, &rules)?;
        if !body.is_empty() {
            return Err(DecodeError::TrailingBytes {
                packet: header.packet,
            });
        }
        Ok(packet)
    }
}

/// The packet, and what is left of its body.
fn decode_body(
    header: FixedHeader,
    mut body: Reader,
    rules: &Rules,
) -> Result<(Packet, Reader), DecodeError> {
    let reader = &mut body;
    let packet = match header.packet {
        PacketType::Connect => Packet::Connect(Box::new(Connect::decode(reader, rules)?)),
        PacketType::Connack => Packet::Connack(Box::new(Connack::decode(reader, rules)?)),
        PacketType::Publish => Packet::Publish(Publish::decode(header.flags, reader, rules)?),
        PacketType::Puback => Packet::Puback(Ack::decode(header.packet, reader, rules)?),
        PacketType::Pubrec => Packet::Pubrec(Ack::decode(header.packet, reader, rules)?),
        PacketType::Pubrel => Packet::Pubrel(Ack::decode(header.packet, reader, rules)?),
        PacketType::Pubcomp => Packet::Pubcomp(Ack::decode(header.packet, reader, rules)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(reader, rules)?),
        PacketType::Suback => Packet::Suback(Suback::decode(reader, rules)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(reader, rules)?),
        PacketType::Unsuback => Packet::Unsuback(Unsuback::decode(reader, rules)?),
        PacketType::Pingreq => Packet::Pingreq,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(reader, rules)?),
        PacketType::Auth => Packet::Auth(Auth::decode(reader, rules)?),
    };
    Ok((packet, body))
}
