//! Round trips, order of keys, bytes that are no encoding, and bytes that must stay as they are.

mod strategies;

use bytes::Bytes;
use codec::{ClientId, Message, MessageProperties, Qos, Timestamp, TopicFilter, TopicName, Utf8};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use session::SessionLimits;

use self::strategies::{answers, batch, command, key, message, row};
use super::{
    BATCH_FORMAT, BODIES_FROM, EncodingError, body_key, decode_answers, decode_batch, decode_body,
    decode_command, decode_key, decode_message, decode_record, encode_answers, encode_batch,
    encode_command, encode_key, encode_message, encode_record, message_from_proto,
    message_to_proto, proto,
};
use crate::batch::{Batch, ProposerId};
use crate::command::{Command, Connect, OutboxTarget};
use crate::ids::{ConnectionId, Epoch, Holder, Incarnation, NodeId, ShardId};
use crate::state::{StateKey, StateRecord};

/// Hands `bytes` to every decoder. Whatever they are, none panics, and what is understood can be
/// written again.
fn decode_with_everything(bytes: &Bytes) {
    if let Ok(command) = decode_command(bytes.clone()) {
        assert_eq!(decode_command(encode_command(&command)), Ok(command));
    }
    if let Ok(batch) = decode_batch(bytes.clone()) {
        assert_eq!(decode_batch(encode_batch(&batch)), Ok(batch));
    }
    if let Ok(answers) = decode_answers(bytes.clone()) {
        assert_eq!(decode_answers(encode_answers(&answers)), Ok(answers));
    }
    if let Ok(message) = decode_message(bytes.clone()) {
        assert_eq!(decode_message(encode_message(&message)), Ok(message));
    }
    if let Ok(key) = decode_key(bytes) {
        assert_eq!(encode_key(&key), bytes[..]);
    }
    for key in one_key_of_each_kind() {
        if let Ok(record) = decode_record(&key, bytes.clone()) {
            let again = Bytes::from(encode_record(&record));
            assert_eq!(decode_record(&key, again), Ok(record));
        }
    }
}

fn one_key_of_each_kind() -> [StateKey; 15] {
    let a = || ClientId::new("a").unwrap();
    let target = OutboxTarget::Node(NodeId(1), Incarnation(2));
    [
        StateKey::Counters,
        StateKey::Node(NodeId(1)),
        StateKey::Taken(ShardId(1)),
        StateKey::BodyIndex(1),
        StateKey::Fence(a()),
        StateKey::Session(a()),
        StateKey::Inbound(a()),
        StateKey::Subscription(a(), TopicFilter::try_from("t/+").unwrap()),
        StateKey::Delivery(a(), 1),
        StateKey::RetainedRead(a()),
        StateKey::Outbox(target),
        StateKey::OutboxItem(target, 1),
        StateKey::Will(Epoch(1)),
        StateKey::Retained(TopicName::try_from("t/").unwrap()),
        StateKey::Body(1),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn a_command_comes_back_as_it_was(command in command()) {
        prop_assert_eq!(decode_command(encode_command(&command)), Ok(command));
    }

    #[test]
    fn a_batch_comes_back_as_it_was(batch in batch()) {
        prop_assert_eq!(decode_batch(encode_batch(&batch)), Ok(batch));
    }

    #[test]
    fn answers_come_back_as_they_were(answers in answers()) {
        prop_assert_eq!(decode_answers(encode_answers(&answers)), Ok(answers));
    }

    #[test]
    fn a_message_comes_back_as_it_was(message in message()) {
        prop_assert_eq!(decode_message(encode_message(&message)), Ok(message));
    }

    #[test]
    fn a_key_comes_back_as_it_was(key in key()) {
        prop_assert_eq!(decode_key(&encode_key(&key)), Ok(key));
    }

    #[test]
    fn a_record_comes_back_as_it_was((key, record) in row()) {
        prop_assert_eq!(decode_record(&key, encode_record(&record).into()), Ok(record));
    }

    #[test]
    fn keys_sort_as_their_bytes_do(a in key(), b in key()) {
        prop_assert_eq!(a.cmp(&b), encode_key(&a).cmp(&encode_key(&b)));
    }

    #[test]
    fn any_bytes_are_an_error_or_a_value_never_a_panic(bytes in vec(any::<u8>(), 0..60)) {
        decode_with_everything(&bytes.into());
    }

    /// Bytes that are almost right reach deeper than random ones.
    #[test]
    fn a_damaged_encoding_is_an_error_or_a_value_never_a_panic(
        encoded in prop_oneof![
            command().prop_map(|command| encode_command(&command).to_vec()),
            batch().prop_map(|batch| encode_batch(&batch).to_vec()),
            answers().prop_map(|answers| encode_answers(&answers).to_vec()),
            key().prop_map(|key| encode_key(&key)),
            row().prop_map(|(_, record)| encode_record(&record)),
        ],
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encoded;
        for (index, byte) in damage {
            if !bytes.is_empty() {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        decode_with_everything(&bytes.into());
    }
}

fn publish() -> Command {
    Command::Publish {
        client_id: ClientId::new("c").unwrap(),
        epoch: Epoch(3),
        message: Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: Bytes::from_static(b"hi"),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::default(),
        },
        retained_version: None,
    }
}

/// These bytes are in logs on disk: if this test fails, the change needs a new batch format.
#[test]
fn what_is_on_disk_keeps_its_bytes() {
    let command = encode_command(&publish());
    assert_eq!(
        command[..],
        *b"\x3a\x10\x0a\x01c\x10\x03\x1a\x09\x0a\x01t\x12\x02hi\x18\x01"
    );
    let batch = Batch {
        proposer: ProposerId::Node {
            node: NodeId(2),
            incarnation: Incarnation(7),
        },
        sequence: 9,
        leader_time: Timestamp::from_millis(300),
        commands: vec![Bytes::from_static(b"x"), Bytes::from_static(b"yz")],
    };
    assert_eq!(
        encode_batch(&batch)[..],
        *b"\x08\x02\x12\x04\x08\x02\x10\x07\x28\x09\x30\xac\x02\x3a\x01x\x3a\x02yz"
    );
    let bytes: Vec<Vec<u8>> = one_key_of_each_kind().iter().map(encode_key).collect();
    let expected: [&[u8]; 15] = [
        b"\x10",
        b"\x20\0\x01",
        b"\x30\0\x01",
        b"\x45\0\0\0\0\0\0\0\x01",
        b"\x50a\0",
        b"\x60a\0",
        b"\x70a\0",
        b"\x80a\0t/+",
        b"\x90a\0\0\0\0\0\0\0\0\x01",
        b"\x98a\0",
        b"\xa0\x02\0\x01\0\0\0\0\0\0\0\x02",
        b"\xb0\x02\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01",
        b"\xc0\0\0\0\0\0\0\0\x01",
        b"\xd0t/",
        b"\xf0\0\0\0\0\0\0\0\x01",
    ];
    assert_eq!(bytes, expected);
    // A load stops at the first content of a body.
    let is_content = |key: &StateKey| matches!(key, StateKey::Body(_));
    for (key, bytes) in one_key_of_each_kind().iter().zip(&bytes) {
        assert_eq!(bytes[..] >= BODIES_FROM[..], is_content(key));
    }
    assert_eq!(bytes[14], body_key(1));
}

#[test]
fn topic_and_payload_are_slices_and_filters_are_not() {
    let is_slice = |part: &[u8], whole: &Bytes| whole.as_ptr_range().contains(&part.as_ptr());
    let bytes = encode_command(&publish());
    let Command::Publish { message, .. } = decode_command(bytes.clone()).unwrap() else {
        panic!("another command");
    };
    assert!(is_slice(&message.payload, &bytes));
    assert!(is_slice(message.topic.as_bytes(), &bytes));

    let bytes = encode_command(&Command::Unsubscribe {
        client_id: ClientId::new("c").unwrap(),
        epoch: Epoch(3),
        filters: vec![TopicFilter::try_from("a/#").unwrap()],
    });
    let Command::Unsubscribe { filters, .. } = decode_command(bytes.clone()).unwrap() else {
        panic!("another command");
    };
    assert!(!is_slice(filters[0].as_bytes(), &bytes));
}

/// A node of the version before can follow until the first client has shown a user name.
#[test]
fn only_a_batch_with_an_owner_needs_the_newest_format() {
    let connect = |owner: Option<&str>| {
        encode_command(&Command::Connect(Box::new(Connect {
            client_id: ClientId::new("c").unwrap(),
            holder: Holder {
                node: NodeId(1),
                incarnation: Incarnation(1),
                connection: ConnectionId(1),
            },
            clean_start: true,
            session_expiry_interval_s: 0,
            receive_maximum: 1,
            limits: SessionLimits::default(),
            will: None,
            owner: owner.map(|name| Utf8::try_from(name).unwrap()),
        })))
    };
    let format = |commands: Vec<Bytes>| {
        let bytes = encode_batch(&Batch {
            proposer: ProposerId::Idempotent,
            sequence: 0,
            leader_time: Timestamp::ZERO,
            commands,
        });
        proto::Batch::decode(bytes).unwrap().format
    };
    let publish = || encode_command(&publish());
    assert_eq!(format(vec![]), 2);
    assert_eq!(format(vec![publish(), connect(None)]), 2);
    assert_eq!(
        format(vec![publish(), connect(Some("alice"))]),
        BATCH_FORMAT
    );
}

#[test]
fn a_newer_batch_format_is_named() {
    let format = BATCH_FORMAT + 1;
    let newer = proto::Batch {
        format,
        ..proto::Batch::default()
    };
    assert_eq!(
        decode_batch(newer.encode_to_vec().into()),
        Err(EncodingError::BatchFormatNewer {
            format,
            newest: BATCH_FORMAT
        })
    );
    assert_eq!(
        decode_batch(Bytes::new()),
        Err(EncodingError::Missing {
            field: "Batch.format"
        })
    );
}

#[test]
fn a_command_of_an_unknown_kind_is_an_error() {
    // Field 2047, an empty message.
    let unknown = Bytes::from_static(b"\xfa\x7f\x00");
    for bytes in [unknown, Bytes::new()] {
        assert_eq!(
            decode_command(bytes),
            Err(EncodingError::Missing {
                field: "Command.kind"
            })
        );
    }
}

/// Changes one legal message and returns the error.
fn refused(change: impl FnOnce(&mut proto::Message)) -> EncodingError {
    let Command::Publish { message, .. } = publish() else {
        panic!("another command");
    };
    let mut changed = message_to_proto(&message);
    changed.properties = Some(proto::MessageProperties::default());
    change(&mut changed);
    message_from_proto(changed).unwrap_err()
}

#[test]
fn a_message_that_mqtt_could_not_carry_is_an_error() {
    let long = Bytes::from(vec![0; 65_536]);
    let field = "MessageProperties.correlation_data";
    assert_eq!(
        refused(|message| message.properties.as_mut().unwrap().correlation_data = Some(long)),
        EncodingError::TooLong {
            field,
            bytes: 65_536,
            bytes_max: 65_535
        }
    );
    assert_eq!(
        refused(|message| message.topic = Bytes::from_static(b"a/#")),
        EncodingError::Text {
            field: "Message.topic",
            source: codec::DecodeError::TopicNameWildcard
        }
    );
    assert_eq!(
        refused(|message| message.qos = 3),
        EncodingError::Text {
            field: "Message.qos",
            source: codec::DecodeError::QosInvalid
        }
    );
    assert_eq!(
        refused(|message| message.qos = 257),
        EncodingError::NumberInvalid {
            field: "Message.qos",
            value: 257
        }
    );
}

#[test]
fn packet_ids_are_in_range_and_unreleased_ones_ascend() {
    let key = StateKey::Inbound(ClientId::new("a").unwrap());
    let field = "InboundRecord.packet_ids";
    let inbound = |packet_ids: &[u32]| {
        let record = proto::InboundRecord {
            packet_ids: packet_ids.to_vec(),
        };
        decode_record(&key, record.encode_to_vec().into())
    };
    assert!(inbound(&[1, 2, 65_535]).is_ok());
    for value in [0, 65_536] {
        let error = EncodingError::NumberInvalid {
            field,
            value: value.into(),
        };
        assert_eq!(inbound(&[value]), Err(error));
    }
    for ids in [[2, 1], [1, 1]] {
        assert_eq!(inbound(&ids), Err(EncodingError::NotAscending { field }));
    }
}

/// A body is read without its key.
#[test]
fn a_body_is_read_as_it_was_stored() {
    let Command::Publish { message, .. } = publish() else {
        panic!("another command");
    };
    let (expires_at, retained_version) = (Some(Timestamp::from_millis(5)), Some(7));
    let record = StateRecord::Body {
        message: message.clone(),
        expires_at,
        retained_version,
    };
    let stored = decode_body(3, encode_record(&record).into()).unwrap();
    assert_eq!((stored.id, stored.message), (3, message));
    assert_eq!(stored.expires_at, expires_at);
    assert_eq!(stored.retained_version, retained_version);
    assert!(decode_body(3, Bytes::new()).is_err());
}

#[test]
fn what_was_noted_in_a_read_is_in_order_and_a_read_is_open() {
    let key = StateKey::RetainedRead(ClientId::new("a").unwrap());
    let read = |open, topics: &[&'static str]| {
        let notes = topics.iter().map(|topic| proto::RetainedNote {
            topic: Bytes::from_static(topic.as_bytes()),
            wanted_from: 1,
        });
        let record = proto::RetainedReadRecord {
            open,
            notes: notes.collect(),
        };
        decode_record(&key, record.encode_to_vec().into())
    };
    assert!(read(1, &["a", "b"]).is_ok());
    let field = "RetainedReadRecord.open";
    let error = EncodingError::NumberInvalid { field, value: 0 };
    assert_eq!(read(0, &[]), Err(error));
    let field = "RetainedReadRecord.notes";
    for topics in [["b", "a"], ["a", "a"]] {
        assert_eq!(read(1, &topics), Err(EncodingError::NotAscending { field }));
    }
}

#[test]
fn a_body_without_references_is_an_error() {
    let field = "BodyIndexRecord.references";
    assert_eq!(
        decode_record(&StateKey::BodyIndex(1), Bytes::new()),
        Err(EncodingError::NumberInvalid { field, value: 0 })
    );
}

#[test]
fn a_key_has_neither_too_few_nor_too_many_bytes() {
    for key in one_key_of_each_kind() {
        let bytes = encode_key(&key);
        for length in 0..bytes.len() {
            // A filter or topic ends where its key ends, so it may be cut.
            let is_cut_filter = matches!(key, StateKey::Subscription(..)) && length > 3;
            let is_cut_topic = matches!(key, StateKey::Retained(_)) && length > 1;
            let cut_text = is_cut_filter || is_cut_topic;
            assert!(cut_text || decode_key(&bytes[..length]).is_err(), "{key:?}");
        }
        let longer = [&bytes[..], b"#"].concat();
        assert!(decode_key(&longer).is_err(), "{key:?}");
    }
    let unknown = EncodingError::KeyKindUnknown { kind: 0x11 };
    assert_eq!(decode_key(&[0x11]), Err(unknown));
}
