//! Any value of each type that has an encoding.

use std::sync::Arc;

use bytes::Bytes;
use codec::{
    ClientId, Message, MessageProperties, PacketId, PayloadFormat, Qos, ReasonCode, RetainHandling,
    SubscriptionIdentifier, SubscriptionOptions, Timestamp, TopicFilter, TopicName, Utf8, Will,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use session::{
    ConnectionState, DeliveryPhase, DeliveryRecord, QueueOverflow, SessionLimits, SessionMeta,
    StoredMessage, Subscription,
};

use crate::batch::{Batch, ProposerId};
use crate::command::{
    Acknowledgement, Answers, Command, Connect, Ending, OutboxItem, OutboxTarget, Refusal,
    Response, RetainedCopy, RetainedLimits,
};
use crate::ids::{ConnectionId, Epoch, Holder, Incarnation, NodeId, ShardId};
use crate::state::{StateKey, StateRecord};

fn utf8() -> impl Strategy<Value = Utf8> {
    "[^\0]{0,6}".prop_map(|text| Utf8::try_from(text.as_str()).unwrap())
}

fn client_id() -> impl Strategy<Value = ClientId> {
    // Few letters, so that one is often the beginning of another.
    prop_oneof!["[ab!\u{1}]{1,4}", "[^\0]{1,9}"].prop_map(|text| ClientId::new(&text).unwrap())
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[^\0+#]{1,12}".prop_map(|text| TopicName::try_from(text.as_str()).unwrap())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    prop_oneof!["[ab!/]{1,6}", "[+]/[a-z]{0,3}/#", "[$]share/g/[a-z]{1,3}"]
        .prop_map(|text| TopicFilter::try_from(text.as_str()).unwrap())
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn identifier() -> impl Strategy<Value = SubscriptionIdentifier> {
    (1..=268_435_455_u32).prop_map(|id| SubscriptionIdentifier::new(id).unwrap())
}

fn qos() -> impl Strategy<Value = Qos> {
    select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn reason_code() -> impl Strategy<Value = ReasonCode> {
    select(&ReasonCode::ALL[..])
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u16>().prop_map(NodeId)
}

fn shard() -> impl Strategy<Value = ShardId> {
    any::<u16>().prop_map(ShardId)
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u64>().prop_map(Incarnation)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn holder() -> impl Strategy<Value = Holder> {
    (node(), incarnation(), any::<u64>()).prop_map(|(node, incarnation, connection)| Holder {
        node,
        incarnation,
        connection: ConnectionId(connection),
    })
}

fn properties() -> impl Strategy<Value = MessageProperties> {
    let format = option::of(select(vec![
        PayloadFormat::Unspecified,
        PayloadFormat::Utf8,
    ]));
    (
        (format, option::of(any::<u32>()), option::of(utf8())),
        (option::of(topic()), option::of(bytes())),
        vec((utf8(), utf8()), 0..3),
    )
        .prop_map(
            |((format, expiry, content_type), (response, correlation), user)| MessageProperties {
                payload_format_indicator: format,
                message_expiry_interval: expiry,
                content_type,
                response_topic: response,
                correlation_data: correlation,
                user_properties: user,
            },
        )
}

pub(super) fn message() -> impl Strategy<Value = Message> {
    (topic(), bytes(), qos(), any::<bool>(), properties()).prop_map(
        |(topic, payload, qos, retain, properties)| Message {
            topic,
            payload,
            qos,
            retain,
            properties,
        },
    )
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let handling = select(vec![
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    let flags = (any::<bool>(), any::<bool>());
    (qos(), flags, handling, option::of(identifier())).prop_map(
        |(qos, (no_local, retain_as_published), retain_handling, identifier)| Subscription {
            options: SubscriptionOptions {
                qos,
                no_local,
                retain_as_published,
                retain_handling,
            },
            identifier,
        },
    )
}

fn limits() -> impl Strategy<Value = SessionLimits> {
    let overflow = select(vec![
        QueueOverflow::Reject,
        QueueOverflow::DropNewest,
        QueueOverflow::DropOldest,
        QueueOverflow::Disconnect,
    ]);
    (any::<(u16, u16, u32, u64)>(), overflow).prop_map(
        |((inflight, receive, messages, bytes), o)| SessionLimits {
            inflight_max: inflight,
            receive_maximum: receive,
            queue_messages_max: messages,
            queue_bytes_max: bytes,
            queue_overflow: o,
        },
    )
}

fn meta() -> impl Strategy<Value = SessionMeta> {
    let connection = prop_oneof![
        Just(ConnectionState::Connected),
        option::of(timestamp()).prop_map(|ends_at| ConnectionState::Disconnected { ends_at }),
    ];
    let numbers = any::<(u32, u16, u16, u64, u64)>();
    (connection, limits(), numbers, option::of(packet_id())).prop_map(
        |(connection, limits, (expiry, receive, pubrel, position, pubrec), last)| SessionMeta {
            connection,
            session_expiry_interval_s: expiry,
            client_receive_maximum: receive,
            limits,
            awaiting_pubrel_max: pubrel,
            next_position: position,
            next_pubrec_position: pubrec,
            last_packet_id: last,
        },
    )
}

fn delivery_record() -> impl Strategy<Value = DeliveryRecord> {
    let phase = prop_oneof![
        Just(DeliveryPhase::Queued),
        packet_id().prop_map(|packet_id| DeliveryPhase::AwaitPuback { packet_id }),
        packet_id().prop_map(|packet_id| DeliveryPhase::AwaitPubrec { packet_id }),
        (packet_id(), any::<u64>()).prop_map(|(packet_id, pubrec_position)| {
            DeliveryPhase::AwaitPubcomp {
                packet_id,
                pubrec_position,
            }
        }),
    ];
    let identifiers = vec(identifier(), 0..3);
    let copy = (any::<u64>(), qos(), any::<bool>(), option::of(filter()));
    (copy, identifiers, phase).prop_map(|((body, qos, retain, share), identifiers, phase)| {
        DeliveryRecord {
            body,
            qos,
            retain,
            identifiers,
            share: share.map(Arc::new),
            phase,
        }
    })
}

fn outbox_target() -> impl Strategy<Value = OutboxTarget> {
    prop_oneof![
        shard().prop_map(OutboxTarget::Shard),
        (node(), incarnation()).prop_map(|(node, life)| OutboxTarget::Node(node, life)),
        Just(OutboxTarget::Unplaced),
    ]
}

fn outbox_item() -> impl Strategy<Value = OutboxItem> {
    let numbers = any::<(u64, Option<u64>, Option<u64>)>();
    (client_id(), numbers, message(), option::of(filter())).prop_map(
        |(publisher, (id, expires_in_ms, retained_version), message, share)| OutboxItem {
            publisher,
            body: Arc::new(StoredMessage {
                id,
                message,
                expires_at: None,
                retained_version,
            }),
            expires_in_ms,
            share,
        },
    )
}

fn will() -> impl Strategy<Value = Will> {
    (message(), any::<u32>()).prop_map(|(message, delay_interval_s)| Will {
        message,
        delay_interval_s,
    })
}

fn retained_copy() -> impl Strategy<Value = RetainedCopy> {
    let numbers = any::<(u64, Option<u64>)>();
    (message(), numbers, qos(), option::of(identifier())).prop_map(
        |(message, (version, expires_in_ms), qos, identifier)| RetainedCopy {
            message,
            version,
            qos,
            identifier,
            expires_in_ms,
        },
    )
}

fn shared() -> impl Strategy<Value = Vec<(TopicFilter, OutboxTarget)>> {
    vec((filter(), outbox_target()), 0..3)
}

fn acknowledgement() -> impl Strategy<Value = Acknowledgement> {
    prop_oneof![
        packet_id().prop_map(Acknowledgement::Puback),
        (packet_id(), reason_code()).prop_map(|(id, code)| Acknowledgement::Pubrec(id, code)),
        packet_id().prop_map(Acknowledgement::Pubcomp),
    ]
}

fn connect() -> impl Strategy<Value = Connect> {
    let numbers = any::<(bool, u32, u16)>();
    let texts = (client_id(), option::of(utf8()));
    (texts, holder(), numbers, limits(), option::of(will())).prop_map(
        |((client_id, owner), holder, (clean_start, expiry, receive_maximum), limits, will)| {
            Connect {
                client_id,
                holder,
                clean_start,
                session_expiry_interval_s: expiry,
                receive_maximum,
                limits,
                will,
                owner,
            }
        },
    )
}

fn client_command() -> impl Strategy<Value = Command> {
    let filters = vec((filter(), subscription()), 0..3);
    let acknowledgements = vec(acknowledgement(), 0..4);
    prop_oneof![
        connect().prop_map(|connect| Command::Connect(Box::new(connect))),
        (client_id(), epoch(), any::<(Option<u32>, bool)>()).prop_map(
            |(client_id, epoch, (interval, is_normal))| {
                Command::Disconnect {
                    client_id,
                    epoch,
                    session_expiry_interval_s: interval,
                    ending: if is_normal {
                        Ending::Normal
                    } else {
                        Ending::Abnormal
                    },
                }
            }
        ),
        (client_id(), epoch(), filters, any::<bool>()).prop_map(
            |(client_id, epoch, filters, reads_retained)| Command::Subscribe {
                client_id,
                epoch,
                filters,
                reads_retained,
            }
        ),
        (client_id(), epoch(), vec(filter(), 0..3)).prop_map(|(client_id, epoch, filters)| {
            Command::Unsubscribe {
                client_id,
                epoch,
                filters,
            }
        }),
        (client_id(), epoch(), acknowledgements).prop_map(
            |(client_id, epoch, acknowledgements)| Command::Acknowledge {
                client_id,
                epoch,
                acknowledgements,
            }
        ),
        (client_id(), epoch())
            .prop_map(|(client_id, epoch)| Command::ExpireSession { client_id, epoch }),
    ]
}

fn flow_command() -> impl Strategy<Value = Command> {
    let targets = (vec(shard(), 0..3), vec((node(), incarnation()), 0..3));
    prop_oneof![
        (client_id(), epoch(), message(), any::<Option<u64>>()).prop_map(
            |(client_id, epoch, message, retained_version)| Command::Publish {
                client_id,
                epoch,
                message,
                retained_version,
            }
        ),
        (
            (client_id(), epoch(), packet_id(), message()),
            targets,
            any::<Option<u64>>(),
            shared()
        )
            .prop_map(
                |((client_id, epoch, packet_id, message), (shards, nodes), version, shared)| {
                    Command::ReceiveExactlyOnce {
                        client_id,
                        epoch,
                        packet_id,
                        message,
                        shards,
                        nodes,
                        retained_version: version,
                        shared,
                    }
                }
            ),
        (client_id(), epoch(), packet_id()).prop_map(|(client_id, epoch, packet_id)| {
            Command::Release {
                client_id,
                epoch,
                packet_id,
            }
        }),
        (client_id(), epoch()).prop_map(|(client_id, epoch)| Command::Fence { client_id, epoch }),
        (client_id(), epoch())
            .prop_map(|(client_id, epoch)| Command::FenceEnd { client_id, epoch }),
    ]
}

fn retained_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (
            client_id(),
            option::of(epoch()),
            message(),
            any::<(u64, u64)>()
        )
            .prop_map(|(client_id, epoch, message, (messages_max, bytes_max))| {
                Command::SetRetained {
                    client_id,
                    epoch,
                    message,
                    limits: RetainedLimits {
                        messages_max,
                        bytes_max,
                    },
                }
            }),
        (
            client_id(),
            epoch(),
            vec(retained_copy(), 0..3),
            any::<bool>()
        )
            .prop_map(
                |(client_id, epoch, copies, last)| Command::DeliverRetained {
                    client_id,
                    epoch,
                    copies,
                    last,
                }
            ),
        Just(Command::Barrier),
    ]
}

fn placing_command() -> impl Strategy<Value = Command> {
    let targets = (vec(shard(), 0..3), vec((node(), incarnation()), 0..3));
    prop_oneof![
        (
            (client_id(), option::of(epoch())),
            filter(),
            message(),
            any::<Option<u64>>()
        )
            .prop_map(|((client_id, epoch), filter, message, expires_in_ms)| {
                Command::PublishShared {
                    client_id,
                    epoch,
                    filter,
                    message,
                    expires_in_ms,
                }
            }),
        (epoch(), any::<Option<u64>>(), targets, shared()).prop_map(
            |(epoch, retained_version, (shards, nodes), shared)| Command::PublishWill {
                epoch,
                retained_version,
                shards,
                nodes,
                shared,
            }
        ),
        (any::<u64>(), option::of(outbox_target()))
            .prop_map(|(number, to)| Command::Place { number, to }),
        (outbox_target(), any::<u64>())
            .prop_map(|(target, number)| Command::Claim { target, number }),
    ]
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let items = vec(outbox_item(), 0..3);
    let numbers = any::<(u64, u64)>();
    prop_oneof![
        node().prop_map(|node| Command::NodeUp { node }),
        (node(), incarnation())
            .prop_map(|(node, incarnation)| Command::NodeDown { node, incarnation }),
        client_command(),
        flow_command(),
        retained_command(),
        placing_command(),
        (shard(), numbers, items).prop_map(|(source, (settled, first), items)| {
            Command::TakeOutbox {
                source,
                settled,
                first,
                items,
            }
        }),
        (outbox_target(), any::<u64>(), vec(any::<u64>(), 0..3)).prop_map(
            |(target, upto, refused)| Command::Taken {
                target,
                upto,
                refused,
            }
        ),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let refusals = vec![
        Refusal::StaleEpoch,
        Refusal::StaleIncarnation,
        Refusal::Malformed,
        Refusal::NotOwner,
    ];
    prop_oneof![
        Just(Response::Done),
        select(refusals).prop_map(Response::Refused),
        incarnation().prop_map(|incarnation| Response::NodeUp { incarnation }),
        (epoch(), any::<(bool, bool, bool)>()).prop_map(
            |(epoch, (session_present, hosted, formers))| Response::Connected {
                epoch,
                session_present,
                hosted,
                formers,
            }
        ),
        vec(any::<bool>(), 0..5).prop_map(|existed| Response::Subscribed { existed }),
        vec(any::<bool>(), 0..5).prop_map(|existed| Response::Unsubscribed { existed }),
        any::<(u32, bool)>()
            .prop_map(|(matched, rejected)| Response::Published { matched, rejected }),
        any::<bool>().prop_map(|first| Response::Received { first }),
        Just(Response::ReceiveMaximumExceeded),
        reason_code().prop_map(|reason_code| Response::Released { reason_code }),
        any::<u64>().prop_map(|version| Response::RetainedSet { version }),
        Just(Response::RetainedFull),
        any::<u32>().prop_map(|dropped| Response::RetainedDelivered { dropped }),
        any::<bool>().prop_map(|claimed| Response::Claimed { claimed }),
        vec(any::<u64>(), 0..3).prop_map(|refused| Response::TookOutbox { refused }),
    ]
}

pub(super) fn answers() -> impl Strategy<Value = Answers> {
    vec(response(), 0..6).prop_map(Answers::from)
}

pub(super) fn batch() -> impl Strategy<Value = Batch> {
    let proposer = prop_oneof![
        (node(), incarnation())
            .prop_map(|(node, incarnation)| ProposerId::Node { node, incarnation }),
        shard().prop_map(|source| ProposerId::Outbox { source }),
        Just(ProposerId::Idempotent),
    ];
    (proposer, any::<u64>(), timestamp(), vec(bytes(), 0..4)).prop_map(
        |(proposer, sequence, leader_time, commands)| Batch {
            proposer,
            sequence,
            leader_time,
            commands,
        },
    )
}

pub(super) fn key() -> impl Strategy<Value = StateKey> {
    // Small numbers as well, so that keys with equal beginnings are compared.
    let number = || prop_oneof![0..3_u64, any::<u64>()];
    let target = || {
        prop_oneof![
            (0..3_u16).prop_map(|shard| OutboxTarget::Shard(ShardId(shard))),
            (0..3_u16, 0..3_u64)
                .prop_map(|(node, life)| OutboxTarget::Node(NodeId(node), Incarnation(life))),
            outbox_target(),
        ]
    };
    prop_oneof![
        Just(StateKey::Counters),
        node().prop_map(StateKey::Node),
        shard().prop_map(StateKey::Taken),
        number().prop_map(StateKey::BodyIndex),
        number().prop_map(StateKey::Body),
        number().prop_map(|epoch| StateKey::Will(Epoch(epoch))),
        topic().prop_map(StateKey::Retained),
        client_id().prop_map(StateKey::RetainedRead),
        client_id().prop_map(StateKey::Fence),
        client_id().prop_map(StateKey::Session),
        client_id().prop_map(StateKey::Inbound),
        (client_id(), filter()).prop_map(|(id, filter)| StateKey::Subscription(id, filter)),
        (client_id(), number()).prop_map(|(id, position)| StateKey::Delivery(id, position)),
        target().prop_map(StateKey::Outbox),
        (target(), number()).prop_map(|(target, number)| StateKey::OutboxItem(target, number)),
    ]
}

/// A record with the key that asks for it.
pub(super) fn row() -> impl Strategy<Value = (StateKey, StateRecord)> {
    let session = (
        epoch(),
        option::of(holder()),
        vec((epoch(), holder()), 0..3),
        option::of(meta()),
        option::of(utf8()),
    )
        .prop_map(
            |(epoch, holder, formers, hosted, owner)| StateRecord::Session {
                epoch,
                holder,
                formers,
                hosted,
                owner,
            },
        );
    let a = || ClientId::new("a").unwrap();
    let t = TopicFilter::try_from("t/#").unwrap();
    let target = OutboxTarget::Shard(ShardId(1));
    prop_oneof![
        (Just(StateKey::Counters), counters()),
        (Just(StateKey::Node(NodeId(1))), node_record()),
        (
            Just(StateKey::Taken(ShardId(1))),
            (any::<u64>(), btree_set(any::<u64>(), 0..3)).prop_map(|(upto, refused)| {
                let refused = refused.into_iter().collect();
                StateRecord::Taken { upto, refused }
            })
        ),
        (Just(StateKey::BodyIndex(1)), body_index_record()),
        (Just(StateKey::Body(1)), body_record()),
        (Just(StateKey::Will(Epoch(1))), will_record()),
        (
            Just(StateKey::Retained(TopicName::try_from("t").unwrap())),
            retained_record()
        ),
        (Just(StateKey::RetainedRead(a())), retained_read_record()),
        (
            Just(StateKey::Fence(a())),
            epoch().prop_map(|epoch| StateRecord::Fence { epoch })
        ),
        (Just(StateKey::Session(a())), session),
        (Just(StateKey::Inbound(a())), inbound_record()),
        (
            Just(StateKey::Subscription(a(), t)),
            subscription().prop_map(StateRecord::Subscription)
        ),
        (
            Just(StateKey::Delivery(a(), 1)),
            delivery_record().prop_map(StateRecord::Delivery)
        ),
        (
            Just(StateKey::Outbox(target)),
            any::<u64>().prop_map(|next_number| StateRecord::Outbox { next_number })
        ),
        (
            Just(StateKey::OutboxItem(target, 1)),
            (client_id(), any::<u64>(), option::of(filter())).prop_map(
                |(publisher, body, share)| StateRecord::OutboxItem {
                    publisher,
                    body,
                    share,
                }
            )
        ),
    ]
}

fn counters() -> impl Strategy<Value = StateRecord> {
    (timestamp(), any::<[u64; 4]>()).prop_map(
        |(time, [next_epoch, next_body, next_version, next_turn])| StateRecord::Counters {
            time,
            next_epoch,
            next_body,
            next_version,
            next_turn,
        },
    )
}

fn node_record() -> impl Strategy<Value = StateRecord> {
    (incarnation(), any::<bool>(), any::<u64>(), answers()).prop_map(
        |(incarnation, down, last_sequence, answers)| StateRecord::Node {
            incarnation,
            down,
            last_sequence,
            answers,
        },
    )
}

fn body_index_record() -> impl Strategy<Value = StateRecord> {
    let numbers = (1..=u64::MAX, any::<u32>());
    (numbers, option::of(timestamp()), qos(), any::<bool>()).prop_map(
        |((references, size_bytes), expires_at, qos, retain)| StateRecord::BodyIndex {
            references,
            size_bytes,
            expires_at,
            qos,
            retain,
        },
    )
}

fn body_record() -> impl Strategy<Value = StateRecord> {
    (message(), option::of(timestamp()), any::<Option<u64>>()).prop_map(
        |(message, expires_at, retained_version)| StateRecord::Body {
            message,
            expires_at,
            retained_version,
        },
    )
}

fn will_record() -> impl Strategy<Value = StateRecord> {
    (client_id(), will(), option::of(timestamp())).prop_map(|(client_id, will, due)| {
        StateRecord::Will {
            client_id,
            will,
            due,
        }
    })
}

fn retained_record() -> impl Strategy<Value = StateRecord> {
    (message(), any::<u64>(), option::of(timestamp())).prop_map(|(message, version, expires_at)| {
        StateRecord::Retained {
            message,
            version,
            expires_at,
        }
    })
}

fn retained_read_record() -> impl Strategy<Value = StateRecord> {
    (1..=u32::MAX, btree_map(topic(), any::<u64>(), 0..4)).prop_map(|(open, wanted_from)| {
        StateRecord::RetainedRead {
            open,
            wanted_from: wanted_from.into_iter().collect(),
        }
    })
}

fn inbound_record() -> impl Strategy<Value = StateRecord> {
    btree_set(packet_id(), 0..5).prop_map(|ids| StateRecord::Inbound(ids.into_iter().collect()))
}
