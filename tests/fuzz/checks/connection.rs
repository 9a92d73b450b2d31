//! What one client sends, over any number of connections, drives a session as the broker does it,
//! with messages of others, lost connections, time and restarts in between.
//!
//! Input: the limits (1 byte), then MQTT packets. Where a packet would begin, a first byte that no
//! client may send stands for what else happens:
//!
//! | upper half | event | lower half |
//! |---|---|---|
//! | 0 | a message of somebody else | QoS, expiry, length |
//! | 2 | the connection is lost; without one, a CONNECT | which CONNECT; 15: it takes over |
//! | 9 | time passes | twice as long with each |
//! | B | below 4 the session is stored and loaded, else the client subscribes | 3: packet ids have come full circle; filter and QoS |
//! | D | 0: the session ends; below 8 the client acknowledges what is in flight, below 12 it publishes at QoS 2, else it sends PUBREL | which |
//!
//! The oracle knows the rules of the standard and the contract of the crate, not the code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use codec::{
    Connect, Decoder, Limits, Message, MessageProperties, Packet, PacketId, ProtocolVersion,
    Publish, PublishHeader, Qos, ReasonCode, SubscriptionIdentifier, SubscriptionOptions,
    Timestamp, TopicFilter, TopicForm, TopicName, encode_publish,
};
use session::{
    Body, Delivery, DropCause, Input, Output, QueueOverflow, Resend, Session, SessionLimits,
    StoredMessage, Subscription, effective_qos,
};

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let Some((&limits, stream)) = input.split_first() else {
        return;
    };
    let mut broker = Broker::new(limits);
    let mut stream = BytesMut::from(stream);
    while let Some(&first) = stream.first() {
        match first >> 4 {
            0 | 2 | 9 | 11 | 13 => {
                stream.advance(1);
                broker.event(first >> 4, first & 15);
            }
            _ => broker.packet(&mut stream),
        }
    }
    broker.apply(Input::End);
    assert_eq!(broker.session, Session::new());
}

/// A connection, as the broker sees it.
struct Connection {
    decoder: Decoder,
    version: ProtocolVersion,
    session_expiry_interval_s: u32,
}

struct Broker {
    session: Session,
    limits: SessionLimits,
    now: Timestamp,
    connection: Option<Connection>,
    oracle: Oracle,
    /// What the owner of the session stores.
    bodies: Vec<Arc<StoredMessage>>,
}

impl Broker {
    fn new(limits: u8) -> Self {
        Self {
            session: Session::new(),
            limits: SessionLimits {
                inflight_max: u16::from(limits & 3) + 1,
                receive_maximum: u16::from(limits >> 2 & 3) + 1,
                queue_messages_max: u32::from(limits >> 4 & 3) * 2,
                queue_bytes_max: 100,
                queue_overflow: [
                    QueueOverflow::Reject,
                    QueueOverflow::DropNewest,
                    QueueOverflow::DropOldest,
                    QueueOverflow::Disconnect,
                ][usize::from(limits >> 6)],
            },
            now: Timestamp::ZERO,
            connection: None,
            oracle: Oracle::default(),
            bodies: Vec::new(),
        }
    }

    fn event(&mut self, kind: u8, detail: u8) {
        match kind {
            0 => self.deliver(&other_message(detail)),
            2 if self.connection.is_some() && detail != 15 => self.lose_connection(None),
            2 => self.connect(&quick_connect(detail)),
            9 => {
                self.now = self.now.plus(Duration::from_millis(1 << (2 * detail)));
                self.apply(Input::Deadline);
            }
            11 if detail < 4 => {
                // That it is the same, but for bodies in memory, is one of its own invariants.
                let mut parts = self.session.parts();
                if detail == 3 {
                    parts.meta.last_packet_id = Some(PacketId::MAX);
                }
                let loaded = Session::from_parts(parts.clone()).expect("it was stored");
                assert_eq!(loaded.parts(), parts);
                self.session = loaded;
            }
            11 if self.connection.is_none() => {}
            11 => {
                let (filter, subscription) = quick_subscription(usize::from(detail) - 4);
                self.apply(Input::Subscribe {
                    filter,
                    subscription,
                });
            }
            _ => self.client_event(detail),
        }
    }

    fn client_event(&mut self, detail: u8) {
        let packet_id = |id| PacketId::new(u16::from(id)).expect("not 0");
        match detail {
            0 => self.apply(Input::End),
            _ if self.connection.is_none() => {}
            1..8 => self.acknowledge(usize::from(detail)),
            8..12 => self.publish(quick_publish(packet_id(detail - 7))),
            _ => self.apply(Input::Pubrel {
                packet_id: packet_id(detail - 11),
            }),
        }
    }

    /// Takes one packet off the stream; what cannot be one ends the connection.
    fn packet(&mut self, stream: &mut BytesMut) {
        let before = stream.len();
        let mut first = Decoder::from_client(Limits::default());
        let decoder = match &mut self.connection {
            Some(connection) => &mut connection.decoder,
            None => &mut first,
        };
        match decoder.decode(stream) {
            Ok(Some(packet)) => self.take(packet),
            Ok(None) => stream.clear(),
            Err(_) => {
                self.lose_connection(None);
                if stream.len() == before {
                    stream.advance(1);
                }
            }
        }
    }

    fn take(&mut self, packet: Packet) {
        match packet {
            Packet::Connect(connect) => self.connect(&connect),
            Packet::Publish(publish) => self.publish(publish),
            Packet::Puback(ack) => self.apply(Input::Puback {
                packet_id: ack.packet_id,
            }),
            Packet::Pubrec(ack) => self.apply(Input::Pubrec {
                packet_id: ack.packet_id,
                reason_code: ack.reason_code,
            }),
            Packet::Pubrel(ack) => self.apply(Input::Pubrel {
                packet_id: ack.packet_id,
            }),
            Packet::Pubcomp(ack) => self.apply(Input::Pubcomp {
                packet_id: ack.packet_id,
            }),
            Packet::Subscribe(subscribe) => {
                let identifier = subscribe.subscription_identifier;
                for subscription in subscribe.subscriptions {
                    self.apply(Input::Subscribe {
                        filter: subscription.filter,
                        subscription: Subscription {
                            options: subscription.options,
                            identifier,
                        },
                    });
                }
            }
            Packet::Unsubscribe(unsubscribe) => {
                for filter in unsubscribe.filters {
                    self.apply(Input::Unsubscribe { filter });
                }
            }
            Packet::Disconnect(disconnect) => {
                self.lose_connection(disconnect.session_expiry_interval);
            }
            Packet::Pingreq | Packet::Auth(_) => {}
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                panic!("the decoder lets {packet:?} through from a client")
            }
        }
    }

    fn connect(&mut self, connect: &Connect) {
        self.apply(Input::Deadline);
        if connect.clean_start {
            self.apply(Input::End);
        }
        let is_v5 = connect.version == ProtocolVersion::V5;
        let session_expiry_interval_s = match (is_v5, connect.clean_start) {
            (true, _) => connect.session_expiry_interval.unwrap_or(0),
            (false, true) => 0,
            (false, false) => u32::MAX,
        };
        self.connection = Some(Connection {
            decoder: Decoder::from_connected_client(connect.version, Limits::default()),
            version: connect.version,
            session_expiry_interval_s,
        });
        self.oracle.check_resend(&self.session.resume());
        let receive_maximum = connect.receive_maximum.map_or(u16::MAX, u16::from);
        self.oracle.connect(receive_maximum, &self.limits);
        self.apply(Input::Connect {
            receive_maximum,
            session_expiry_interval_s,
            limits: self.limits,
        });
    }

    fn lose_connection(&mut self, expiry_interval_s: Option<u32>) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // An interval of 0 in CONNECT cannot become another one [MQTT-3.14.2-2].
        let may_change = connection.session_expiry_interval_s > 0;
        self.oracle.window = None;
        self.apply(Input::Disconnect {
            session_expiry_interval_s: expiry_interval_s.filter(|_| may_change),
        });
    }

    /// A PUBLISH of the client itself, which may have subscribed to it.
    fn publish(&mut self, publish: Publish) {
        let Some(topic) = publish.topic.clone() else {
            return;
        };
        let packet_id = publish
            .packet_id
            .filter(|_| publish.qos == Qos::ExactlyOnce);
        if let Some(packet_id) = packet_id {
            self.oracle.handed_on = false;
            self.apply(Input::ReceiveExactlyOnce { packet_id });
            if !self.oracle.handed_on {
                return;
            }
        }
        let message = publish.into_message(topic);
        if self.connection.is_some() {
            self.deliver(&message);
        }
    }

    /// Every subscription to `#` or to the topic itself matches; this client is always the member
    /// that a shared one chooses.
    fn deliver(&mut self, message: &Message) {
        let mut granted = None;
        let mut identifiers = Vec::new();
        let mut shared = Vec::new();
        for (filter, subscription) in self.session.subscriptions() {
            let share = filter.share();
            let plain = share.as_ref().map_or(filter, |(_, filter)| filter);
            if ![message.topic.as_str(), "#"].contains(&plain.as_str()) {
                continue;
            }
            let qos = subscription.options.qos;
            let identifier = subscription.identifier;
            if share.is_some() {
                shared.push((filter.clone(), qos, identifier));
            } else {
                granted = granted.max(Some(qos));
                identifiers.extend(identifier);
            }
        }
        if let Some(granted) = granted {
            self.deliver_copy(message, granted, identifiers, None);
        }
        for (filter, granted, identifier) in shared {
            let identifiers = identifier.into_iter().collect();
            self.deliver_copy(message, granted, identifiers, Some(Arc::new(filter)));
        }
    }

    fn deliver_copy(
        &mut self,
        message: &Message,
        granted: Qos,
        identifiers: Vec<SubscriptionIdentifier>,
        share: Option<Arc<TopicFilter>>,
    ) {
        let interval = message.properties.message_expiry_interval;
        let after = |seconds| self.now.plus(Duration::from_secs(u64::from(seconds)));
        let body = Arc::new(StoredMessage {
            id: self.bodies.len() as u64,
            message: message.clone(),
            expires_at: interval.map(after),
            retained_version: None,
        });
        self.bodies.push(Arc::clone(&body));
        self.apply(Input::Deliver(Delivery {
            body: match body.id % 2 {
                0 => Body::Here(body),
                _ => Body::Stored(body.reference()),
            },
            qos: effective_qos(message.qos, granted),
            retain: message.retain,
            identifiers,
            share,
        }));
    }

    /// The client answers one of the messages in flight as it should.
    fn acknowledge(&mut self, which: usize) {
        if self.oracle.in_flight.is_empty() {
            return;
        }
        let which = (which - 1) % self.oracle.in_flight.len();
        let flight = self.oracle.in_flight.values().nth(which);
        let Flight { packet_id, owed } = *flight.expect("it is within the length");
        let reason_code = ReasonCode::Success;
        self.apply(match owed {
            Owed::Puback => Input::Puback { packet_id },
            Owed::Pubrec => Input::Pubrec {
                packet_id,
                reason_code,
            },
            Owed::Pubcomp(_) => Input::Pubcomp { packet_id },
        });
    }

    fn apply(&mut self, input: Input) {
        let mut out = Vec::new();
        self.session.apply(self.now, input.clone(), &mut out);
        for output in &out {
            self.oracle.check(self.now, &input, output);
            match output {
                Output::Send {
                    packet_id,
                    delivery,
                    ..
                } => self.write(*packet_id, delivery),
                Output::Ended => self.connection = None,
                _ => {}
            }
        }
        self.oracle.compare(&self.session);
        let is_refused = |output: &Output| {
            matches!(
                output,
                Output::DisconnectQueueFull | Output::ReceiveMaximumExceeded
            )
        };
        if out.iter().any(is_refused) {
            self.lose_connection(None);
        }
    }

    /// What is sent can be written in the version of the connection, and read by the client.
    fn write(&self, packet_id: Option<PacketId>, delivery: &Delivery) {
        let version = self.connection.as_ref().expect("only then is sent").version;
        let stored = &self.bodies[delivery.body.id() as usize];
        let header = PublishHeader {
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id,
            topic_form: TopicForm::Name,
            waited_s: stored.waited_s(self.now),
            subscription_identifiers: &delivery.identifiers,
            dup: false,
        };
        let mut bytes = BytesMut::new();
        let written = encode_publish(&header, &stored.message, version, &mut bytes);
        assert_eq!(written, Ok(()));
        let mut decoder = Decoder::from_server(version, Limits::default());
        let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut bytes) else {
            panic!("the client cannot read {delivery:?}");
        };
        assert_eq!((publish.packet_id, publish.qos), (packet_id, delivery.qos));
        let left = publish.properties.message_expiry_interval;
        let seconds = stored.message.properties.message_expiry_interval;
        assert!(left.is_none_or(|left| left > 0 && Some(left) <= seconds));
    }
}

fn other_message(detail: u8) -> Message {
    let qos = [
        Qos::AtMostOnce,
        Qos::AtLeastOnce,
        Qos::ExactlyOnce,
        Qos::ExactlyOnce,
    ];
    Message {
        topic: TopicName::try_from("t").expect("legal"),
        payload: Bytes::from(vec![b'x'; usize::from(detail >> 3) * 50]),
        qos: qos[usize::from(detail & 3)],
        retain: false,
        properties: MessageProperties {
            message_expiry_interval: (detail & 4 != 0).then_some(2),
            ..MessageProperties::default()
        },
    }
}

fn quick_publish(packet_id: PacketId) -> Publish {
    Publish {
        dup: false,
        qos: Qos::ExactlyOnce,
        retain: false,
        packet_id: Some(packet_id),
        topic: TopicName::try_from("t").ok(),
        topic_alias: None,
        payload: Bytes::new(),
        properties: MessageProperties::default(),
        subscription_identifiers: Vec::new(),
    }
}

fn quick_subscription(detail: usize) -> (TopicFilter, Subscription) {
    use Qos::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    let filter = ["t", "#", "$share/g/t"][detail % 3];
    let qos = [ExactlyOnce, AtLeastOnce, ExactlyOnce, AtMostOnce][detail / 3];
    let subscription = Subscription {
        options: SubscriptionOptions::new(qos),
        identifier: SubscriptionIdentifier::new(detail as u32),
    };
    (TopicFilter::try_from(filter).expect("legal"), subscription)
}

fn quick_connect(detail: u8) -> Connect {
    let version = match detail & 1 {
        0 => ProtocolVersion::V5,
        _ => ProtocolVersion::V311,
    };
    let mut connect = Connect::new(version, "c".try_into().expect("legal"));
    connect.clean_start = detail & 2 != 0;
    connect.session_expiry_interval = [None, Some(1)][usize::from(detail >> 2 & 1)];
    if detail & 8 != 0 {
        connect.session_expiry_interval = Some(u32::MAX);
    }
    connect.receive_maximum = std::num::NonZeroU16::new(u16::from(detail >> 3) * 2);
    connect
}

/// What a client owes for a message in flight.
#[derive(Clone, Copy, PartialEq)]
enum Owed {
    Puback,
    Pubrec,
    /// With its place in the order of PUBRECs.
    Pubcomp(u64),
}

/// A message in flight.
#[derive(Clone, Copy)]
struct Flight {
    packet_id: PacketId,
    owed: Owed,
}

/// What must hold, as seen from outside.
#[derive(Default)]
struct Oracle {
    /// Messages that may be in flight; `None` without a connection.
    window: Option<usize>,
    limits: SessionLimits,
    in_flight: BTreeMap<u64, Flight>,
    /// What waits, with its deadline.
    queued: BTreeMap<u64, Option<Timestamp>>,
    last_sent: u64,
    last_pubrec: u64,
    /// Body → references.
    bodies: BTreeMap<u64, u64>,
    awaiting_pubrel: BTreeSet<PacketId>,
    /// The QoS 2 message is new.
    handed_on: bool,
}

impl Oracle {
    fn connect(&mut self, receive_maximum: u16, limits: &SessionLimits) {
        self.window = Some(usize::from(receive_maximum.min(limits.inflight_max)));
        self.limits = *limits;
    }

    fn check(&mut self, now: Timestamp, input: &Input, output: &Output) {
        match output {
            Output::Send {
                position: Some(position),
                packet_id: Some(packet_id),
                delivery,
            } => {
                assert!(!delivery.body.is_expired(now), "sent too late");
                self.sent(*position, *packet_id, delivery);
            }
            Output::Send {
                position,
                packet_id,
                delivery,
            } => {
                assert!(self.window.is_some());
                assert_eq!((*position, *packet_id), (None, None));
                assert_eq!(delivery.qos, Qos::AtMostOnce);
            }
            Output::SendPubrel {
                position,
                pubrec_position,
                packet_id,
                ..
            } => self.received_pubrec(*position, *pubrec_position, *packet_id),
            Output::Queued { position } => {
                let Input::Deliver(delivery) = input else {
                    panic!("{input:?} queues something");
                };
                assert!(!delivery.body.is_expired(now), "queued too late");
                *self.bodies.entry(delivery.body.id()).or_default() += 1;
                let last = self.queued.last_key_value();
                assert!(last.is_none_or(|(last, _)| position > last));
                self.queued.insert(*position, delivery.body.expires_at());
            }
            Output::Completed { position } => self.completed(now, *position),
            Output::Released { body } => self.released(*body),
            Output::Reassign { position, delivery } => {
                assert!(delivery.share.is_some());
                match self.in_flight.remove(position) {
                    Some(flight) => assert!(flight.owed == Owed::Puback, "QoS 2 was sent"),
                    None => assert!(self.queued.remove(position).is_some()),
                }
                self.released(delivery.body.id());
            }
            Output::Rejected => assert_eq!(self.limits.queue_overflow, QueueOverflow::Reject),
            Output::DisconnectQueueFull => {
                assert_eq!(self.limits.queue_overflow, QueueOverflow::Disconnect);
            }
            Output::Received { first } => self.received(input, *first),
            Output::PubrelAnswered { reason_code } => {
                let Input::Pubrel { packet_id } = input else {
                    panic!("{input:?} is answered as PUBREL");
                };
                let was_known = self.awaiting_pubrel.remove(packet_id);
                assert_eq!(was_known, *reason_code == ReasonCode::Success);
            }
            Output::Ended => self.ended(),
            Output::Dropped { cause } => assert_ne!(*cause, DropCause::NoMember, "the owner's"),
            Output::ReceiveMaximumExceeded
            | Output::Subscribed { .. }
            | Output::Unsubscribed { .. } => {}
        }
    }

    fn received_pubrec(&mut self, position: Option<u64>, place: Option<u64>, packet_id: PacketId) {
        let Some(flight) = position.and_then(|position| self.in_flight.get_mut(&position)) else {
            assert_eq!((position, place), (None, None));
            let is_known = self
                .in_flight
                .values()
                .any(|one| one.packet_id == packet_id);
            return assert!(!is_known, "{packet_id:?} is in flight");
        };
        assert_eq!(flight.packet_id, packet_id);
        let place = place.expect("it is in flight");
        match flight.owed {
            Owed::Puback => panic!("a PUBREL for a QoS 1 message"),
            Owed::Pubrec => {
                assert!(place > self.last_pubrec);
                self.last_pubrec = place;
                flight.owed = Owed::Pubcomp(place);
            }
            Owed::Pubcomp(first) => assert_eq!(place, first),
        }
    }

    /// Of what waits, only the oldest is given up, unless the time of others is up.
    fn completed(&mut self, now: Timestamp, position: u64) {
        if self.in_flight.remove(&position).is_some() {
            return;
        }
        let is_first = self.queued.keys().next() == Some(&position);
        let expires_at = self.queued.remove(&position).expect("it was on its way");
        let is_expired = expires_at.is_some_and(|expires_at| expires_at <= now);
        assert!(is_first || is_expired, "{position} is not the oldest");
    }

    fn released(&mut self, body: u64) {
        let count = self.bodies.get_mut(&body).expect("it was referred to");
        *count -= 1;
        if *count == 0 {
            self.bodies.remove(&body);
        }
    }

    fn sent(&mut self, position: u64, packet_id: PacketId, delivery: &Delivery) {
        let window = self.window.expect("nothing is sent without a connection");
        assert!(self.in_flight.len() < window, "the window is exceeded");
        assert!(position > self.last_sent, "out of order, or twice");
        self.last_sent = position;
        match self.queued.pop_first() {
            Some((first, _)) => assert_eq!(first, position, "what waited longest goes first"),
            None => *self.bodies.entry(delivery.body.id()).or_default() += 1,
        }
        let owed = match delivery.qos {
            Qos::AtMostOnce => panic!("QoS 0 has no packet id"),
            Qos::AtLeastOnce => Owed::Puback,
            Qos::ExactlyOnce => Owed::Pubrec,
        };
        let is_taken = self
            .in_flight
            .values()
            .any(|one| one.packet_id == packet_id);
        assert!(!is_taken, "{packet_id:?} names two messages");
        self.in_flight.insert(position, Flight { packet_id, owed });
    }

    fn received(&mut self, input: &Input, first: bool) {
        let Input::ReceiveExactlyOnce { packet_id } = input else {
            panic!("{input:?} is answered as PUBLISH");
        };
        assert_eq!(first, self.awaiting_pubrel.insert(*packet_id));
        self.handed_on = first;
    }

    fn ended(&mut self) {
        assert!(self.in_flight.is_empty() && self.queued.is_empty());
        assert!(
            self.bodies.is_empty(),
            "{:?} are never released",
            self.bodies
        );
        *self = Self::default();
    }

    fn compare(&self, session: &Session) {
        assert_eq!(session.check_invariants(), Ok(()));
        assert_eq!(session.is_connected(), self.window.is_some());
        assert_eq!(session.inflight_len(), self.in_flight.len());
        assert_eq!(session.queue_len(), self.queued.len());
        assert!(session.queue_len() <= self.limits.queue_messages_max as usize);
        assert!(session.queue_bytes() <= self.limits.queue_bytes_max);
        assert!(
            session
                .awaiting_pubrel()
                .eq(self.awaiting_pubrel.iter().copied())
        );
    }

    /// First the PUBRELs, then the PUBLISHes, each in their order: everything that is in flight, once.
    fn check_resend(&self, resend: &[Resend]) {
        let (mut last_publish, mut last_pubrec) = (0, 0);
        for one in resend {
            match one {
                Resend::Publish {
                    position,
                    packet_id,
                    delivery,
                } => {
                    assert!(*position > last_publish);
                    last_publish = *position;
                    let Flight {
                        packet_id: id,
                        owed,
                    } = self.in_flight[position];
                    assert_eq!(id, *packet_id);
                    match owed {
                        Owed::Puback => assert_eq!(delivery.qos, Qos::AtLeastOnce),
                        Owed::Pubrec => assert_eq!(delivery.qos, Qos::ExactlyOnce),
                        Owed::Pubcomp(_) => panic!("a PUBLISH after its PUBREC"),
                    }
                }
                Resend::Pubrel {
                    position,
                    pubrec_position,
                    packet_id,
                } => {
                    assert_eq!(last_publish, 0, "a PUBREL after a PUBLISH");
                    assert!(*pubrec_position > last_pubrec);
                    last_pubrec = *pubrec_position;
                    let Flight {
                        packet_id: id,
                        owed,
                    } = self.in_flight[position];
                    assert_eq!(id, *packet_id);
                    assert!(owed == Owed::Pubcomp(*pubrec_position));
                }
            }
        }
        assert_eq!(resend.len(), self.in_flight.len());
    }
}
