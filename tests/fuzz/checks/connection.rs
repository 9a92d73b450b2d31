//! What one client sends, over any number of connections, drives a session as the broker does it,
//! with messages of others, lost connections, time and restarts in between.
//!
//! Input: the limits (1 byte), then MQTT packets. Where a packet would begin, a first byte that no
//! client may send stands for what else happens:
//!
//! | upper half | event | lower half |
//! |---|---|---|
//! | 0 | a message of somebody else | QoS, RETAIN, length |
//! | 2 | the connection is lost; without one, a CONNECT | which CONNECT; 15: it takes over |
//! | 9 | time passes | twice as long with each |
//! | B | the session is stored and loaded | |
//! | D | the client acknowledges what is in flight; 0: the session ends | which |
//!
//! The oracle knows the rules of the standard and the contract of the crate, not the code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use codec::{
    Connect, Decoder, Limits, Message, MessageProperties, Packet, PacketId, ProtocolVersion,
    Publish, PublishHeader, Qos, ReasonCode, Timestamp, TopicForm, TopicName, encode_publish,
};
use session::{
    Delivery, Input, Output, QueueOverflow, Resend, Session, SessionLimits, StoredMessage,
    Subscription, effective_qos,
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
    bodies: u64,
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
            bodies: 0,
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
            11 => {
                let loaded = Session::from_parts(self.session.parts());
                assert_eq!(loaded.as_ref(), Ok(&self.session));
                self.session = loaded.expect("it was compared");
            }
            _ if detail == 0 => self.apply(Input::End),
            _ => self.acknowledge(usize::from(detail)),
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

    /// Every subscription that says `#` or the topic itself matches.
    fn deliver(&mut self, message: &Message) {
        let subscriptions = self.session.subscriptions();
        let matching: Vec<_> = subscriptions
            .filter(|(filter, _)| [message.topic.as_str(), "#"].contains(&filter.as_str()))
            .map(|(_, subscription)| subscription.clone())
            .collect();
        let Some(granted) = matching.iter().map(|one| one.options.qos).max() else {
            return;
        };
        self.bodies += 1;
        let body = Arc::new(StoredMessage {
            id: self.bodies,
            message: message.clone(),
        });
        self.apply(Input::Deliver(Delivery {
            body,
            qos: effective_qos(message.qos, granted),
            retain: message.retain,
            identifiers: matching.iter().filter_map(|one| one.identifier).collect(),
        }));
    }

    /// The client answers one of the messages in flight as it should.
    fn acknowledge(&mut self, which: usize) {
        if self.connection.is_none() || self.oracle.in_flight.is_empty() {
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
            Owed::Pubcomp => Input::Pubcomp { packet_id },
        });
    }

    fn apply(&mut self, input: Input) {
        let mut out = Vec::new();
        self.session.apply(self.now, input.clone(), &mut out);
        for output in &out {
            self.oracle.check(&input, output);
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
        let header = PublishHeader {
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id,
            topic_form: TopicForm::Name,
            subscription_identifiers: &delivery.identifiers,
            ..PublishHeader::default()
        };
        let mut bytes = BytesMut::new();
        let written = encode_publish(&header, &delivery.body.message, version, &mut bytes);
        assert_eq!(written, Ok(()));
        let mut decoder = Decoder::from_server(version, Limits::default());
        let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut bytes) else {
            panic!("the client cannot read {delivery:?}");
        };
        assert_eq!((publish.packet_id, publish.qos), (packet_id, delivery.qos));
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
        retain: detail & 4 != 0,
        properties: MessageProperties::default(),
    }
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
    Pubcomp,
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
    queued: VecDeque<u64>,
    last_sent: u64,
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

    fn check(&mut self, input: &Input, output: &Output) {
        match output {
            Output::Send {
                position: Some(position),
                packet_id: Some(packet_id),
                delivery,
            } => self.sent(*position, *packet_id, delivery),
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
                packet_id,
                ..
            } => match position.and_then(|position| self.in_flight.get_mut(&position)) {
                Some(flight) => {
                    assert!(flight.packet_id == *packet_id && flight.owed != Owed::Puback);
                    flight.owed = Owed::Pubcomp;
                }
                None => {
                    assert_eq!(*position, None);
                    assert!(
                        self.in_flight
                            .values()
                            .all(|one| one.packet_id != *packet_id)
                    );
                }
            },
            Output::Queued { position } => {
                let Input::Deliver(delivery) = input else {
                    panic!("{input:?} queues something");
                };
                *self.bodies.entry(delivery.body.id).or_default() += 1;
                assert!(self.queued.back().is_none_or(|last| position > last));
                self.queued.push_back(*position);
            }
            Output::Completed { position } => {
                if self.in_flight.remove(position).is_none() {
                    let first = self.queued.pop_front();
                    assert_eq!(first, Some(*position), "the queue loses its oldest first");
                }
            }
            Output::Released { body } => {
                let count = self.bodies.get_mut(body).expect("it was referred to");
                *count -= 1;
                if *count == 0 {
                    self.bodies.remove(body);
                }
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
            Output::Dropped { .. }
            | Output::ReceiveMaximumExceeded
            | Output::Subscribed { .. }
            | Output::Unsubscribed { .. } => {}
        }
    }

    fn sent(&mut self, position: u64, packet_id: PacketId, delivery: &Delivery) {
        let window = self.window.expect("nothing is sent without a connection");
        assert!(self.in_flight.len() < window, "the window is exceeded");
        assert!(position > self.last_sent, "out of order, or twice");
        self.last_sent = position;
        match self.queued.pop_front() {
            Some(first) => assert_eq!(first, position, "what waited longest goes first"),
            None => *self.bodies.entry(delivery.body.id).or_default() += 1,
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

    /// First the PUBRELs, then the PUBLISHes in their order: everything that is in flight, once.
    fn check_resend(&self, resend: &[Resend]) {
        let mut last_publish = 0;
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
                    assert!(id == *packet_id && owed != Owed::Pubcomp);
                    assert_eq!(delivery.qos == Qos::AtLeastOnce, owed == Owed::Puback);
                }
                Resend::Pubrel {
                    position,
                    packet_id,
                } => {
                    assert_eq!(last_publish, 0, "a PUBREL after a PUBLISH");
                    let Flight {
                        packet_id: id,
                        owed,
                    } = self.in_flight[position];
                    assert!(id == *packet_id && owed == Owed::Pubcomp);
                }
            }
        }
        assert_eq!(resend.len(), self.in_flight.len());
    }
}
