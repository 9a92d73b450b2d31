//! What decodes also encodes, to as many bytes as announced, and decodes again to the same packet;
//! a message can be sent on in each version.
//!
//! Input: as of `decode`, without the sizes of pieces.

use bytes::BytesMut;
use codec::{
    Decoder, Limits, Message, Packet, PacketId, ProtocolVersion, PublishHeader, Qos, TopicForm,
    encode, encode_publish, encoded_len, encoded_publish_len,
};

const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V31,
    ProtocolVersion::V311,
    ProtocolVersion::V5,
];

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let Some((&kind, stream)) = input.split_first() else {
        return;
    };
    let version = VERSIONS[usize::from(kind >> 1) % 3];
    let is_client = kind & 1 == 0;
    let mut decoder = match (is_client, kind & 8) {
        (true, 0) => Decoder::from_client(Limits::default()),
        (true, _) => Decoder::from_connected_client(version, Limits::default()),
        (false, _) => Decoder::from_server(version, Limits::default()),
    };
    let mut stream = BytesMut::from(stream);
    while let Ok(Some(packet)) = decoder.decode(&mut stream) {
        let version = decoder.version().expect("a packet was decoded");
        check_packet(&packet, version, is_client);
        check_messages(packet);
    }
}

fn check_packet(packet: &Packet, version: ProtocolVersion, is_client: bool) {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).expect("what was decoded is legal");
    assert_eq!(encoded_len(packet, version), Ok(bytes.len()));
    let mut decoder = match (is_client, packet) {
        (true, Packet::Connect(_)) => Decoder::from_client(Limits::default()),
        (true, _) => Decoder::from_connected_client(version, Limits::default()),
        (false, _) => Decoder::from_server(version, Limits::default()),
    };
    let again = decoder.decode(&mut bytes);
    assert_eq!(again.as_ref(), Ok(&Some(packet.clone())));
    assert!(bytes.is_empty());
}

/// Messages of PUBLISH and CONNECT, as they go to subscribers of each version.
fn check_messages(packet: Packet) {
    let (message, alias) = match packet {
        Packet::Publish(publish) => match publish.topic.clone() {
            Some(topic) => (publish.clone().into_message(topic), publish.topic_alias),
            None => return,
        },
        Packet::Connect(connect) => match connect.will {
            Some(will) => (will.message, None),
            None => return,
        },
        _ => return,
    };
    assert!(message.size() >= message.payload.len() + message.topic.as_bytes().len());
    assert_eq!(message.detached(), message);
    for version in VERSIONS {
        check_message(&message, TopicForm::Name, version);
        if let Some(alias) = alias {
            check_message(&message, TopicForm::DefineAlias(alias), version);
            check_message(&message, TopicForm::Alias(alias), version);
        }
    }
}

fn check_message(message: &Message, topic_form: TopicForm, version: ProtocolVersion) {
    let has_id = message.qos > Qos::AtMostOnce;
    let header = PublishHeader {
        dup: has_id && message.retain,
        qos: message.qos,
        retain: message.retain,
        packet_id: has_id.then_some(PacketId::MIN),
        topic_form,
        waited_s: u32::try_from(message.payload.len()).unwrap_or(u32::MAX),
        subscription_identifiers: &[],
    };
    let mut bytes = BytesMut::new();
    let result = encode_publish(&header, message, version, &mut bytes);
    let is_v5 = version == ProtocolVersion::V5;
    if matches!(topic_form, TopicForm::Alias(_)) && !is_v5 {
        assert!(result.is_err() && bytes.is_empty(), "an alias in 3.1.1");
        return;
    }
    assert_eq!(result, Ok(()));
    assert_eq!(
        encoded_publish_len(&header, message, version),
        Ok(bytes.len())
    );
    let mut decoder = Decoder::from_server(version, Limits::default());
    let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut bytes) else {
        panic!("{message:?} is no PUBLISH of {version:?}");
    };
    assert!(bytes.is_empty());
    assert_eq!((publish.dup, publish.qos), (header.dup, header.qos));
    assert_eq!(
        (publish.retain, publish.packet_id),
        (header.retain, header.packet_id)
    );
    assert_eq!(publish.payload, message.payload);
    let is_named = !matches!(topic_form, TopicForm::Alias(_));
    assert_eq!(publish.topic, is_named.then(|| message.topic.clone()));
    if is_v5 {
        let mut properties = message.properties.clone();
        if let Some(interval) = &mut properties.message_expiry_interval {
            *interval = interval.saturating_sub(header.waited_s);
        }
        assert_eq!(publish.properties, properties);
    }
}
