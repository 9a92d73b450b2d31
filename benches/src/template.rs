//! A PUBLISH prepared once and copied per message, with packet id and stamp written into the copy.

use bytes::{Bytes, BytesMut};
use codec::{
    Message, MessageProperties, PacketId, ProtocolVersion, PublishHeader, Qos, TopicName,
    encode_publish,
};

use crate::error::LoadError;
use crate::payload::{STAMP_BYTES, Stamp};

const DUP: u8 = 0x08;

/// The PUBLISH of one publisher.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the packet id is; `None` at QoS 0.
    packet_id_at: Option<usize>,
    stamp_at: usize,
}

impl Template {
    /// # Errors
    /// The payload is too small for a stamp, or the packet too large for MQTT.
    pub fn new(
        topic: &TopicName,
        qos: Qos,
        payload_bytes: usize,
        version: ProtocolVersion,
    ) -> Result<Self, LoadError> {
        if payload_bytes < STAMP_BYTES {
            return Err(LoadError::Usage(format!(
                "a payload needs at least {STAMP_BYTES} bytes"
            )));
        }
        let message = Message {
            topic: topic.clone(),
            payload: Bytes::from(vec![b'.'; payload_bytes]),
            qos,
            retain: false,
            properties: MessageProperties::default(),
        };
        let has_id = qos != Qos::AtMostOnce;
        let header = PublishHeader {
            qos,
            packet_id: has_id.then_some(PacketId::MIN),
            ..PublishHeader::default()
        };
        let mut bytes = BytesMut::new();
        encode_publish(&header, &message, version, &mut bytes)
            .map_err(|error| LoadError::Usage(format!("PUBLISH: {error}")))?;
        // Before the payload: the id, and with 5.0 the length of no properties.
        let stamp_at = bytes.len() - payload_bytes;
        let properties_bytes = if version == ProtocolVersion::V5 { 1 } else { 0 };
        Ok(Self {
            packet_id_at: has_id.then(|| stamp_at - properties_bytes - 2),
            stamp_at,
            bytes: bytes.to_vec(),
        })
    }

    /// Bytes of each packet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends one message.
    pub fn append(&self, stamp: Stamp, packet_id: PacketId, dup: bool, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let Some(packet) = out.get_mut(start..) else {
            return;
        };
        if let (true, Some(first)) = (dup, packet.first_mut()) {
            *first |= DUP;
        }
        if let Some(at) = self.packet_id_at {
            write_at(packet, at, &packet_id.get().to_be_bytes());
        }
        write_at(packet, self.stamp_at, &stamp.encode());
    }
}

fn write_at(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use codec::{Decoder, Limits, Packet};

    use super::*;

    #[test]
    fn what_it_appends_decodes_to_what_was_asked_for_in_both_versions_at_each_qos() {
        let topic = TopicName::try_from("bench/1").unwrap();
        let stamp = Stamp {
            publisher: 3,
            sequence: 9,
            due_ns: 77,
        };
        let id = PacketId::new(0x0102).unwrap();
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let template = Template::new(&topic, qos, 256, version).unwrap();
                let dup = qos != Qos::AtMostOnce;
                let mut out = BytesMut::new();
                template.append(stamp, id, false, &mut out);
                template.append(stamp, id, dup, &mut out);
                assert_eq!(out.len(), 2 * template.len());
                let mut decoder = Decoder::from_connected_client(version, Limits::default());
                for wanted in [false, dup] {
                    let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut out) else {
                        panic!("a PUBLISH");
                    };
                    assert_eq!(publish.dup, wanted);
                    assert_eq!(publish.topic, Some(topic.clone()));
                    assert_eq!(publish.packet_id, dup.then_some(id));
                    assert_eq!(publish.payload.len(), 256);
                    assert_eq!(Stamp::decode(&publish.payload), Some(stamp));
                }
            }
        }
    }

    #[test]
    fn a_payload_without_room_for_the_stamp_is_refused() {
        let topic = TopicName::try_from("t").unwrap();
        let version = ProtocolVersion::V311;
        assert!(Template::new(&topic, Qos::AtMostOnce, STAMP_BYTES - 1, version).is_err());
    }
}
