//! Any bytes, from either side, of any version: packets or an error, the same in whatever pieces
//! they arrive; an error can be answered.
//!
//! Input: which side and version and limits (1 byte), sizes of the pieces (1 byte), the stream.

use bytes::BytesMut;
use codec::{
    Connack, DecodeError, Decoder, Disconnect, Limits, Packet, ProtocolVersion, encoded_len,
};

/// What a connection gave.
#[derive(Debug, PartialEq)]
struct Decoded {
    packets: Vec<Packet>,
    error: Option<DecodeError>,
    version: Option<ProtocolVersion>,
    /// Bytes of the packet that is not complete; 0 after an error.
    left: usize,
}

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let Some((&[kind, pieces], stream)) = input.split_first_chunk::<2>() else {
        return;
    };
    let limits = limits(kind);
    let at_once = decode(decoder(kind, limits), stream, &[usize::MAX]);
    let sizes = [usize::from(pieces >> 4) + 1, usize::from(pieces & 15) + 1];
    let in_pieces = decode(decoder(kind, limits), stream, &sizes);
    assert_eq!(at_once, in_pieces);
    for packet in &at_once.packets {
        check_limits(packet, &limits);
    }
    let is_client = kind & 7 < 4;
    if let Some(error) = at_once.error.filter(|_| is_client) {
        check_answer(
            &error,
            at_once.version,
            at_once.packets.is_empty() && kind & 7 == 0,
        );
    }
}

fn limits(kind: u8) -> Limits {
    match kind & 8 {
        0 => Limits::default(),
        _ => Limits {
            packet_bytes_max: 200,
            user_properties_max: 2,
            topic_filters_max: 2,
        },
    }
}

fn decoder(kind: u8, limits: Limits) -> Decoder {
    let version = match kind & 3 {
        1 => ProtocolVersion::V31,
        2 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    };
    match kind & 7 {
        0 => Decoder::from_client(limits),
        1..4 => Decoder::from_connected_client(version, limits),
        _ => Decoder::from_server(version, limits),
    }
}

/// Hands the stream over in pieces of these sizes, in turn.
fn decode(mut decoder: Decoder, mut stream: &[u8], sizes: &[usize]) -> Decoded {
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    let mut error = None;
    for size in sizes.iter().cycle() {
        let (piece, rest) = stream.split_at((*size).min(stream.len()));
        stream = rest;
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        if error.is_some() || stream.is_empty() {
            break;
        }
    }
    let left = if error.is_some() { 0 } else { buffer.len() };
    Decoded {
        packets,
        error,
        version: decoder.version(),
        left,
    }
}

fn check_limits(packet: &Packet, limits: &Limits) {
    let (user_properties, filters) = match packet {
        Packet::Connect(connect) => (connect.user_properties.len(), 0),
        Packet::Connack(connack) => (connack.user_properties.len(), 0),
        Packet::Publish(publish) => {
            let ids = publish.subscription_identifiers.len();
            (ids.max(publish.properties.user_properties.len()), 0)
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            (ack.user_properties.len(), 0)
        }
        Packet::Subscribe(packet) => (packet.user_properties.len(), packet.subscriptions.len()),
        Packet::Suback(packet) => (packet.user_properties.len(), 0),
        Packet::Unsubscribe(packet) => (packet.user_properties.len(), packet.filters.len()),
        Packet::Unsuback(packet) => (packet.user_properties.len(), 0),
        Packet::Pingreq | Packet::Pingresp => (0, 0),
        Packet::Disconnect(packet) => (packet.user_properties.len(), 0),
        Packet::Auth(packet) => (packet.user_properties.len(), 0),
    };
    assert!(user_properties <= limits.user_properties_max);
    assert!(filters <= limits.topic_filters_max);
}

/// The broker can say what is wrong in the words of the version.
fn check_answer(error: &DecodeError, version: Option<ProtocolVersion>, is_first: bool) {
    let code = error.reason_code();
    assert!(code.is_error(), "{error} has the reason code {code:?}");
    for version in [
        ProtocolVersion::V31,
        ProtocolVersion::V311,
        ProtocolVersion::V5,
    ] {
        assert!(!error.rule(version).is_empty(), "{error} breaks no rule");
    }
    let answer = match is_first {
        true => Packet::Connack(Box::new(Connack::refusal(code))),
        false => Packet::Disconnect(Disconnect::new(code)),
    };
    if version == Some(ProtocolVersion::V5) {
        let length = encoded_len(&answer, ProtocolVersion::V5);
        assert!(length.is_ok(), "{error} is answered with {length:?}");
    }
}
