//! Bytes ↔ packets.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use codec::{
    Ack, Decoder, Limits, Message, MessageProperties, Packet, PacketId, ProtocolVersion,
    PublishHeader, Qos, TopicName, encode, encode_publish,
};

use crate::harness::Harness;

/// Packets per read: what a busy connection finds.
const PACKETS: u32 = 20;

pub(crate) fn run(harness: &Harness) {
    for (version, name) in [
        (ProtocolVersion::V311, "3.1.1"),
        (ProtocolVersion::V5, "5.0"),
    ] {
        let message = message();
        let header = PublishHeader {
            qos: Qos::AtLeastOnce,
            packet_id: Some(PacketId::MIN),
            ..PublishHeader::default()
        };
        let write = |out: &mut BytesMut| {
            encode_publish(&header, &message, version, out).expect("a legal PUBLISH");
        };
        let mut out = BytesMut::with_capacity(1 << 16);
        harness.run(
            &format!("encode PUBLISH QoS 1, 256 bytes, {name}"),
            PACKETS,
            || {
                out.clear();
                (0..PACKETS).for_each(|_| write(&mut out));
                black_box(&out);
            },
        );
        out.clear();
        (0..PACKETS).for_each(|_| write(&mut out));
        decode(
            harness,
            &format!("decode PUBLISH QoS 1, 256 bytes, {name}"),
            version,
            &out,
        );
        out.clear();
        let puback = Packet::Puback(Ack::success(PacketId::MIN));
        (0..PACKETS).for_each(|_| encode(&puback, version, &mut out).expect("a legal PUBACK"));
        decode(harness, &format!("decode PUBACK, {name}"), version, &out);
    }
}

/// With the copy into the read buffer that a socket would make.
fn decode(harness: &Harness, name: &str, version: ProtocolVersion, bytes: &[u8]) {
    let mut decoder = Decoder::from_connected_client(version, Limits::default());
    let mut buffer = BytesMut::with_capacity(1 << 16);
    harness.run(name, PACKETS, || {
        buffer.extend_from_slice(bytes);
        while let Some(packet) = decoder.decode(&mut buffer).expect("a legal packet") {
            black_box(packet);
        }
    });
}

pub(crate) fn message() -> Message {
    Message {
        topic: TopicName::try_from("building/7/floor/3/room/12/temperature").expect("a topic"),
        payload: Bytes::from(vec![b'.'; 256]),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: MessageProperties::default(),
    }
}
