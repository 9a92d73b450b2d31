//! What is encoded is decoded to the same packet, however the bytes arrive.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use codec::{
    Ack, Auth, Connack, Connect, Decoder, Disconnect, Limits, Message, MessageProperties, Packet,
    PacketId, PacketType, PayloadFormat, ProtocolVersion, Publish, PublishHeader, Qos, ReasonCode,
    RetainHandling, Sender, Suback, Subscribe, Subscription, SubscriptionIdentifier,
    SubscriptionOptions, TopicFilter, TopicForm, TopicName, Unsuback, Unsubscribe, Utf8, Will,
    encode, encode_publish, encoded_len, encoded_publish_len,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

type Pairs = Vec<(Utf8, Utf8)>;

/// One packet that `sender` may send to a peer of `version`.
#[derive(Debug, Clone)]
struct Case {
    version: ProtocolVersion,
    sender: Sender,
    packet: Packet,
}

impl Case {
    fn decoder(&self) -> Decoder {
        match (self.sender, self.packet.packet_type()) {
            (_, PacketType::Connect) => Decoder::from_client(Limits::default()),
            (Sender::Client, _) => Decoder::from_connected_client(self.version, Limits::default()),
            (Sender::Server, _) => Decoder::from_server(self.version, Limits::default()),
        }
    }

    fn bytes(&self) -> BytesMut {
        let mut out = BytesMut::new();
        encode(&self.packet, self.version, &mut out).unwrap();
        out
    }
}

fn text() -> impl Strategy<Value = Utf8> {
    prop_oneof![
        4 => "[ -~]{0,12}",
        1 => "[\u{1}-\u{7F}é€\u{FEFF}\u{10FFFF}]{0,200}",
    ]
    .prop_map(|text| Utf8::try_from(text.as_str()).unwrap())
}

fn data() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 100..400)].prop_map(Bytes::from)
}

fn pairs() -> impl Strategy<Value = Pairs> {
    prop_oneof![2 => Just(Vec::new()), 1 => vec((text(), text()), 0..5)]
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[$a-z/ é\u{FEFF}]{1,20}".prop_map(|text| TopicName::try_from(text.as_str()).unwrap())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    let level = prop_oneof![3 => "[a-z$]{0,4}", 1 => Just("+".to_owned())];
    (
        vec(level, 1..6),
        any::<bool>(),
        option::weighted(0.2, "[a-z]{1,4}"),
    )
        .prop_map(|(mut levels, has_hash, share)| {
            if has_hash || levels.iter().all(String::is_empty) {
                levels.push("#".to_owned());
            }
            let prefix = share.map_or(String::new(), |name| format!("$share/{name}/"));
            TopicFilter::try_from(format!("{prefix}{}", levels.join("/")).as_str()).unwrap()
        })
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn qos() -> impl Strategy<Value = Qos> {
    select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop_oneof![
        1 => Just(ProtocolVersion::V31),
        2 => Just(ProtocolVersion::V311),
        4 => Just(ProtocolVersion::V5),
    ]
}

fn subscription_identifier() -> impl Strategy<Value = SubscriptionIdentifier> {
    select(vec![
        1,
        127,
        128,
        16_383,
        16_384,
        2_097_151,
        2_097_152,
        268_435_455,
    ])
    .prop_map(|id| SubscriptionIdentifier::new(id).unwrap())
}

fn reason_code(packet: PacketType, sender: Sender) -> impl Strategy<Value = ReasonCode> {
    let codes = ReasonCode::ALL.into_iter();
    select(
        codes
            .filter(|code| code.is_allowed_in(packet, sender))
            .collect::<Vec<_>>(),
    )
}

fn message_properties() -> impl Strategy<Value = MessageProperties> {
    let format = select(vec![PayloadFormat::Unspecified, PayloadFormat::Utf8]);
    (
        option::of(format),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic()),
        option::of(data()),
        pairs(),
    )
        .prop_map(|fields| MessageProperties {
            payload_format_indicator: fields.0,
            message_expiry_interval: fields.1,
            content_type: fields.2,
            response_topic: fields.3,
            correlation_data: fields.4,
            user_properties: fields.5,
        })
}

fn message() -> impl Strategy<Value = Message> {
    let properties = prop_oneof![Just(MessageProperties::default()), message_properties()];
    (topic(), data(), qos(), any::<bool>(), properties).prop_map(
        |(topic, payload, qos, retain, properties)| Message {
            topic,
            payload,
            qos,
            retain,
            properties,
        },
    )
}

fn will() -> impl Strategy<Value = Will> {
    let delay = prop_oneof![Just(0), any::<u32>()];
    (message(), delay).prop_map(|(message, delay_interval_s)| Will {
        message,
        delay_interval_s,
    })
}

fn connect_v5() -> impl Strategy<Value = Connect> {
    let session = (
        text(),
        any::<bool>(),
        any::<u16>(),
        option::of(any::<u32>()),
    );
    let maxima = (
        option::of(any::<NonZeroU16>()),
        option::of(any::<NonZeroU32>()),
        option::of(any::<u16>()),
    );
    let wishes = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        pairs(),
    );
    let credentials = (option::of(text()), option::of(data()));
    let authentication = option::of((text(), option::of(data())));
    (
        session,
        maxima,
        wishes,
        option::of(will()),
        credentials,
        authentication,
    )
        .prop_map(
            |(session, maxima, wishes, will, credentials, authentication)| {
                let (client_id, clean_start, keep_alive_s, session_expiry_interval) = session;
                let (method, data) = authentication.map_or((None, None), |(m, d)| (Some(m), d));
                Connect {
                    version: ProtocolVersion::V5,
                    clean_start,
                    keep_alive_s,
                    client_id,
                    will,
                    username: credentials.0,
                    password: credentials.1,
                    session_expiry_interval,
                    receive_maximum: maxima.0,
                    maximum_packet_size: maxima.1,
                    topic_alias_maximum: maxima.2,
                    request_response_information: wishes.0,
                    request_problem_information: wishes.1,
                    user_properties: wishes.2,
                    authentication_method: method,
                    authentication_data: data,
                }
            },
        )
}

/// The same packet as far as an older version can say it.
fn in_old_version(connect: Connect, version: ProtocolVersion) -> Connect {
    let client_id = match connect.client_id.is_empty() {
        true => Utf8::try_from("c").unwrap(),
        false => connect.client_id,
    };
    Connect {
        clean_start: connect.clean_start,
        keep_alive_s: connect.keep_alive_s,
        will: connect.will.map(|mut will| {
            will.delay_interval_s = 0;
            will.message.properties = MessageProperties::default();
            will
        }),
        password: connect.password.filter(|_| connect.username.is_some()),
        username: connect.username,
        ..Connect::new(version, client_id)
    }
}

fn connack_v5() -> impl Strategy<Value = Connack> {
    let code = reason_code(PacketType::Connack, Sender::Server);
    let maximum_qos = select(vec![Qos::AtMostOnce, Qos::AtLeastOnce]);
    let limits = (
        option::of(any::<u32>()),
        option::of(any::<NonZeroU16>()),
        option::of(maximum_qos),
        option::of(any::<NonZeroU32>()),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
    );
    let flag = || option::of(any::<bool>());
    let strings = vec(option::of(text()), 5);
    (
        code,
        any::<bool>(),
        limits,
        (flag(), flag(), flag(), flag()),
        strings,
        pairs(),
        option::of(data()),
    )
        .prop_map(
            |(reason_code, present, limits, flags, strings, user_properties, data)| {
                let mut strings = strings.into_iter();
                let mut string = || strings.next().flatten();
                Connack {
                    session_present: present && reason_code == ReasonCode::Success,
                    reason_code,
                    session_expiry_interval: limits.0,
                    receive_maximum: limits.1,
                    maximum_qos: limits.2,
                    retain_available: flags.0,
                    maximum_packet_size: limits.3,
                    assigned_client_identifier: string(),
                    topic_alias_maximum: limits.4,
                    reason_string: string(),
                    user_properties,
                    wildcard_subscription_available: flags.1,
                    subscription_identifiers_available: flags.2,
                    shared_subscription_available: flags.3,
                    server_keep_alive: limits.5,
                    response_information: string(),
                    server_reference: string(),
                    authentication_method: string(),
                    authentication_data: data,
                }
            },
        )
}

fn connack_old(version: ProtocolVersion) -> impl Strategy<Value = Connack> {
    (0..=5_u8, any::<bool>()).prop_map(move |(code, present)| Connack {
        session_present: present && code == 0 && version == ProtocolVersion::V311,
        ..Connack::refusal(ReasonCode::from_connack_return_code(code).unwrap())
    })
}

fn publish(version: ProtocolVersion, sender: Sender) -> impl Strategy<Value = Publish> {
    let ids = vec(subscription_identifier(), 0..4);
    let alias = option::of((any::<NonZeroU16>(), any::<bool>()));
    (message(), any::<bool>(), packet_id(), alias, ids).prop_map(
        move |(message, dup, packet_id, alias, ids)| {
            let is_v5 = version == ProtocolVersion::V5;
            let alias = alias.filter(|_| is_v5);
            let has_id = message.qos > Qos::AtMostOnce;
            Publish {
                dup: dup && has_id,
                qos: message.qos,
                retain: message.retain,
                packet_id: Some(packet_id).filter(|_| has_id),
                topic: Some(message.topic).filter(|_| alias.is_none_or(|(_, named)| named)),
                topic_alias: alias.map(|(alias, _)| alias),
                payload: message.payload,
                properties: if is_v5 {
                    message.properties
                } else {
                    MessageProperties::default()
                },
                subscription_identifiers: match is_v5 && sender == Sender::Server {
                    true => ids,
                    false => Vec::new(),
                },
            }
        },
    )
}

fn ack(packet: PacketType, version: ProtocolVersion, sender: Sender) -> impl Strategy<Value = Ack> {
    let code = reason_code(packet, sender);
    (packet_id(), code, option::of(text()), pairs()).prop_map(move |(id, code, reason, pairs)| {
        match version {
            ProtocolVersion::V31 | ProtocolVersion::V311 => Ack::success(id),
            ProtocolVersion::V5 => Ack {
                packet_id: id,
                reason_code: code,
                reason_string: reason,
                user_properties: pairs,
            },
        }
    })
}

fn subscription(version: ProtocolVersion) -> impl Strategy<Value = Subscription> {
    let handling = select(vec![
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    (filter(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| Subscription {
            options: match version {
                ProtocolVersion::V31 | ProtocolVersion::V311 => SubscriptionOptions::new(qos),
                ProtocolVersion::V5 => SubscriptionOptions {
                    qos,
                    no_local: no_local && !filter.is_shared(),
                    retain_as_published,
                    retain_handling,
                },
            },
            filter,
        },
    )
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe> {
    let is_v5 = version == ProtocolVersion::V5;
    let id = option::of(subscription_identifier());
    (packet_id(), id, pairs(), vec(subscription(version), 1..5)).prop_map(
        move |(packet_id, id, pairs, subscriptions)| Subscribe {
            packet_id,
            subscription_identifier: id.filter(|_| is_v5),
            user_properties: if is_v5 { pairs } else { Vec::new() },
            subscriptions,
        },
    )
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = Suback> {
    let is_v5 = version == ProtocolVersion::V5;
    let codes = vec(reason_code(PacketType::Suback, Sender::Server), 1..5);
    (packet_id(), option::of(text()), pairs(), codes).prop_map(
        move |(packet_id, reason, pairs, codes)| Suback {
            packet_id,
            reason_string: reason.filter(|_| is_v5),
            user_properties: if is_v5 { pairs } else { Vec::new() },
            reason_codes: codes
                .into_iter()
                .map(|code| match code.is_error() && !is_v5 {
                    true => ReasonCode::UnspecifiedError,
                    false => code,
                })
                .collect(),
        },
    )
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe> {
    let is_v5 = version == ProtocolVersion::V5;
    (packet_id(), pairs(), vec(filter(), 1..5)).prop_map(move |(packet_id, pairs, filters)| {
        Unsubscribe {
            packet_id,
            user_properties: if is_v5 { pairs } else { Vec::new() },
            filters,
        }
    })
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = Unsuback> {
    let is_v5 = version == ProtocolVersion::V5;
    let codes = vec(reason_code(PacketType::Unsuback, Sender::Server), 1..5);
    (packet_id(), option::of(text()), pairs(), codes).prop_map(
        move |(packet_id, reason, pairs, codes)| Unsuback {
            packet_id,
            reason_string: reason.filter(|_| is_v5),
            user_properties: if is_v5 { pairs } else { Vec::new() },
            reason_codes: if is_v5 { codes } else { Vec::new() },
        },
    )
}

fn disconnect(version: ProtocolVersion, sender: Sender) -> impl Strategy<Value = Disconnect> {
    let code = reason_code(PacketType::Disconnect, sender);
    let expiry = option::of(any::<u32>());
    (
        code,
        expiry,
        option::of(text()),
        pairs(),
        option::of(text()),
    )
        .prop_map(
            move |(reason_code, expiry, reason_string, user_properties, server_reference)| {
                match version {
                    ProtocolVersion::V31 | ProtocolVersion::V311 => Disconnect::default(),
                    ProtocolVersion::V5 => Disconnect {
                        reason_code,
                        session_expiry_interval: expiry.filter(|_| sender == Sender::Client),
                        reason_string,
                        user_properties,
                        server_reference,
                    },
                }
            },
        )
}

fn auth(sender: Sender) -> impl Strategy<Value = Auth> {
    let code = reason_code(PacketType::Auth, sender);
    let details = (text(), option::of(data()), option::of(text()), pairs());
    (code, details).prop_map(|(reason_code, (method, data, reason, pairs))| Auth {
        reason_code,
        authentication_method: Some(method),
        authentication_data: data,
        reason_string: reason,
        user_properties: pairs,
    })
}

fn from_either_side(version: ProtocolVersion, sender: Sender) -> BoxedStrategy<Packet> {
    let ack = |packet| ack(packet, version, sender);
    let common = prop_oneof![
        4 => publish(version, sender).prop_map(Packet::Publish),
        1 => ack(PacketType::Puback).prop_map(Packet::Puback),
        1 => ack(PacketType::Pubrec).prop_map(Packet::Pubrec),
        1 => ack(PacketType::Pubrel).prop_map(Packet::Pubrel),
        1 => ack(PacketType::Pubcomp).prop_map(Packet::Pubcomp),
        1 => disconnect(version, sender).prop_map(Packet::Disconnect),
    ];
    match version {
        ProtocolVersion::V31 | ProtocolVersion::V311 => common.boxed(),
        ProtocolVersion::V5 => {
            prop_oneof![8 => common, 1 => auth(sender).prop_map(Packet::Auth)].boxed()
        }
    }
}

fn packet(version: ProtocolVersion, sender: Sender) -> BoxedStrategy<Packet> {
    let connect = connect_v5().prop_map(move |connect| match version {
        ProtocolVersion::V5 => connect,
        ProtocolVersion::V31 | ProtocolVersion::V311 => in_old_version(connect, version),
    });
    let connack = match version {
        ProtocolVersion::V5 => connack_v5().boxed(),
        ProtocolVersion::V31 | ProtocolVersion::V311 => connack_old(version).boxed(),
    };
    match sender {
        Sender::Client => prop_oneof![
            2 => connect.prop_map(|connect| Packet::Connect(Box::new(connect))),
            1 => subscribe(version).prop_map(Packet::Subscribe),
            1 => unsubscribe(version).prop_map(Packet::Unsubscribe),
            1 => Just(Packet::Pingreq),
            6 => from_either_side(version, sender),
        ]
        .boxed(),
        Sender::Server => prop_oneof![
            2 => connack.prop_map(|connack| Packet::Connack(Box::new(connack))),
            1 => suback(version).prop_map(Packet::Suback),
            1 => unsuback(version).prop_map(Packet::Unsuback),
            1 => Just(Packet::Pingresp),
            6 => from_either_side(version, sender),
        ]
        .boxed(),
    }
}

fn case() -> impl Strategy<Value = Case> {
    (version(), select(vec![Sender::Client, Sender::Server])).prop_flat_map(|(version, sender)| {
        packet(version, sender).prop_map(move |packet| Case {
            version,
            sender,
            packet,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_encoded_packet_decodes_to_itself_and_leaves_what_follows(case in case(), tail in data()) {
        let mut buffer = case.bytes();
        prop_assert_eq!(encoded_len(&case.packet, case.version), Ok(buffer.len()));
        buffer.extend_from_slice(&tail);
        let mut decoder = case.decoder();
        prop_assert_eq!(decoder.decode(&mut buffer), Ok(Some(case.packet)));
        prop_assert_eq!(decoder.version(), Some(case.version));
        prop_assert_eq!(&buffer[..], &tail[..]);
    }

    #[test]
    fn a_packet_that_arrives_byte_by_byte_is_the_same_packet(case in case()) {
        let bytes = case.bytes();
        let mut decoder = case.decoder();
        let mut buffer = BytesMut::new();
        let (last, start) = bytes.split_last().unwrap();
        for byte in start {
            buffer.extend_from_slice(&[*byte]);
            let before = buffer.clone();
            prop_assert_eq!(decoder.decode(&mut buffer), Ok(None));
            prop_assert_eq!(&before, &buffer);
        }
        buffer.extend_from_slice(&[*last]);
        prop_assert_eq!(decoder.decode(&mut buffer), Ok(Some(case.packet)));
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_packets(
        packets in vec(packet(ProtocolVersion::V5, Sender::Server), 1..8),
        chunk in 1_usize..64,
    ) {
        let mut stream = BytesMut::new();
        for packet in &packets {
            encode(packet, ProtocolVersion::V5, &mut stream).unwrap();
        }
        let mut decoder = Decoder::from_server(ProtocolVersion::V5, Limits::default());
        let mut buffer = BytesMut::new();
        let mut decoded = Vec::new();
        for piece in stream.chunks(chunk) {
            buffer.extend_from_slice(piece);
            while let Some(packet) = decoder.decode(&mut buffer).unwrap() {
                decoded.push(packet);
            }
        }
        prop_assert_eq!(decoded, packets);
    }

    #[test]
    fn a_message_encodes_as_the_publish_it_stands_for(
        message in message(),
        version in version(),
        ids in vec(subscription_identifier(), 0..4),
        alias in any::<NonZeroU16>(),
        form in 0..3_u8,
        waited_s in any::<u32>(),
    ) {
        let is_v5 = version == ProtocolVersion::V5;
        let header = PublishHeader {
            dup: message.qos > Qos::AtMostOnce && form == 1,
            qos: message.qos,
            retain: message.retain,
            packet_id: Some(PacketId::MAX).filter(|_| message.qos > Qos::AtMostOnce),
            topic_form: match form {
                1 => TopicForm::DefineAlias(alias),
                2 if is_v5 => TopicForm::Alias(alias),
                _ => TopicForm::Name,
            },
            waited_s,
            subscription_identifiers: &ids,
        };
        let mut properties = message.properties.clone();
        if let Some(interval) = &mut properties.message_expiry_interval {
            *interval = interval.saturating_sub(waited_s);
        }
        let has_alias = is_v5 && header.topic_form != TopicForm::Name;
        let publish = Publish {
            dup: header.dup,
            qos: message.qos,
            retain: message.retain,
            packet_id: header.packet_id,
            topic: Some(message.topic.clone()).filter(|_| form != 2 || !is_v5),
            topic_alias: Some(alias).filter(|_| has_alias),
            payload: message.payload.clone(),
            properties,
            subscription_identifiers: ids.clone(),
        };
        let (mut fast, mut slow) = (BytesMut::new(), BytesMut::new());
        encode_publish(&header, &message, version, &mut fast).unwrap();
        encode(&Packet::Publish(publish), version, &mut slow).unwrap();
        prop_assert_eq!(encoded_publish_len(&header, &message, version), Ok(fast.len()));
        prop_assert_eq!(fast, slow);
    }

    /// Whatever arrives: no panic, and what is accepted encodes to something that says the same.
    #[test]
    fn damaged_packets_are_refused_or_mean_what_they_say(
        case in case(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = case.bytes();
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut decoder = case.decoder();
        while let Ok(Some(packet)) = decoder.decode(&mut bytes) {
            let version = decoder.version().unwrap();
            let again = Case { version, sender: case.sender, packet };
            prop_assert_eq!(
                again.decoder().decode(&mut again.bytes()),
                Ok(Some(again.packet.clone()))
            );
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..100), version in version()) {
        let limits = Limits::default();
        for mut decoder in [
            Decoder::from_client(limits),
            Decoder::from_connected_client(version, limits),
            Decoder::from_server(version, limits),
        ] {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }
    }
}

#[test]
fn topic_and_payload_share_the_memory_of_the_read_buffer() {
    let mut buffer = BytesMut::from(&b"\x30\x07\x00\x01tload"[..]);
    let memory = buffer.as_ptr_range();
    let mut decoder = Decoder::from_connected_client(ProtocolVersion::V311, Limits::default());
    let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut buffer) else {
        panic!("a PUBLISH was written");
    };
    assert!(memory.contains(&publish.payload.as_ptr()));
    assert!(memory.contains(&publish.topic.unwrap().as_bytes().as_ptr()));
}

/// [MQTT-3.3.2-6]
#[test]
fn the_time_a_message_waited_is_taken_off_its_expiry_interval() {
    let message = Message {
        topic: TopicName::try_from("t").unwrap(),
        payload: Bytes::from_static(b"x"),
        qos: Qos::AtMostOnce,
        retain: false,
        properties: MessageProperties {
            message_expiry_interval: Some(60),
            ..MessageProperties::default()
        },
    };
    let header = PublishHeader {
        waited_s: 5,
        ..PublishHeader::default()
    };
    let mut out = BytesMut::new();
    encode_publish(&header, &message, ProtocolVersion::V5, &mut out).unwrap();
    assert_eq!(&out[..], b"\x30\x0A\x00\x01t\x05\x02\x00\x00\x00\x37x");
}
