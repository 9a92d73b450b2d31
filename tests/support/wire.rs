//! Packets to bytes and back: the broker's own codec, seen from the client's side.

use bytes::{Bytes, BytesMut};
use codec::{Decoder, Limits, Packet, ProtocolVersion};

/// The bytes of a packet.
///
/// # Panics
/// When the packet is not legal in this version.
#[must_use]
pub fn encode(packet: &Packet, version: ProtocolVersion) -> Bytes {
    let mut bytes = BytesMut::new();
    codec::encode(packet, version, &mut bytes)
        .unwrap_or_else(|error| panic!("{packet:?}: {error}"));
    bytes.freeze()
}

/// Decodes what a broker sends to a client of `version`.
#[must_use]
pub fn decoder(version: ProtocolVersion) -> Decoder {
    Decoder::from_server(version, Limits::default())
}
