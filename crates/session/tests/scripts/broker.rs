//! A broker of a page around `Session`, for scripts: one thread, no wire, time by hand.
//!
//! It does what the owner of sessions does: match, choose members of shared subscriptions, effective
//! QoS, acknowledge publishers, re-send on resumption within the new window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codec::{
    Message, MessageProperties, PacketId, Qos, ReasonCode, SubscriptionIdentifier,
    SubscriptionOptions, Timestamp, TopicFilter, TopicName,
};
use session::{
    Body, Delivery, DropCause, Input, Output, QueueOverflow, Resend, Session, SessionLimits,
    StoredMessage, Subscription, effective_qos,
};

use crate::script::{PacketLine, Received, Step, parse_seconds};

/// All sessions, and who serves them.
pub(crate) struct Broker {
    now: Timestamp,
    limits: SessionLimits,
    sessions: BTreeMap<String, Session>,
    /// Actor → its connection.
    connections: BTreeMap<String, Connection>,
    received: Vec<Received>,
    /// Actor → how it connected last.
    connects: BTreeMap<String, PacketLine>,
}

struct Connection {
    client_id: String,
    /// PUBLISHes to re-send that the window did not take yet.
    unsent: VecDeque<Resend>,
    /// Ids of re-sent PUBLISHes that are not completed; bounded by the window.
    resent: BTreeSet<PacketId>,
}

impl Broker {
    pub(crate) fn new() -> Self {
        Self {
            now: Timestamp::ZERO,
            limits: SessionLimits::default(),
            sessions: BTreeMap::new(),
            connections: BTreeMap::new(),
            received: Vec::new(),
            connects: BTreeMap::new(),
        }
    }

    /// Carries out one action; what everyone received because of it.
    pub(crate) fn act(&mut self, is_send: bool, step: &Step) -> Vec<Received> {
        let (actor, packet) = (step.actor.as_str(), &step.packet);
        if is_send {
            self.on_packet(actor, packet);
        } else {
            self.on_event(actor, packet);
        }
        for session in self.sessions.values() {
            session.check_invariants().unwrap();
        }
        std::mem::take(&mut self.received)
    }

    fn on_packet(&mut self, actor: &str, packet: &PacketLine) {
        let packet_id = packet.packet_id();
        let id = || packet_id.unwrap_or_else(|| panic!("{packet} needs an id"));
        match packet.name.as_str() {
            "CONNECT" => self.on_connect(actor, packet),
            "PUBLISH" => self.on_publish(actor, packet),
            "SUBSCRIBE" => self.on_subscribe(actor, packet),
            "UNSUBSCRIBE" => self.on_unsubscribe(actor, packet),
            "PUBACK" => self.acknowledge(actor, id(), Input::Puback { packet_id: id() }),
            "PUBREC" => {
                let (packet_id, reason_code) = (id(), reason_code(packet));
                self.acknowledge(
                    actor,
                    id(),
                    Input::Pubrec {
                        packet_id,
                        reason_code,
                    },
                );
            }
            "PUBCOMP" => self.acknowledge(actor, id(), Input::Pubcomp { packet_id: id() }),
            "PUBREL" => self.on_pubrel(actor, id()),
            "DISCONNECT" => {
                let interval = packet.value("session_expiry").and_then(parse_seconds);
                self.close(actor, interval);
            }
            name => panic!("no such packet: {name}"),
        }
    }

    fn on_event(&mut self, actor: &str, event: &PacketLine) {
        match (actor, event.name.as_str()) {
            ("broker", "limits") => self.set_limits(event),
            ("broker", "wait") => self.wait(parse_seconds(event.positional(0).unwrap()).unwrap()),
            ("broker", name) => panic!("no such event: {name}"),
            (_, "drop") => self.close(actor, None),
            (_, "failover") => self.fail_over(actor),
            (_, "exchange") => self.exchange(actor, event),
            (_, name) => panic!("no such event: {name}"),
        }
    }

    /// The connection is lost, and the client comes back for its session.
    fn fail_over(&mut self, actor: &str) {
        self.close(actor, None);
        let connect = self.connects[actor].clone();
        let words = connect.words().iter();
        let words = words.filter(|word| !word.starts_with("clean_start="));
        let resuming = connect.with_words(words.cloned().collect());
        self.on_connect(actor, &resuming.with("clean_start", 0));
    }

    /// CONNECT: a take-over, then Clean Start, then CONNACK, then what is in flight, then new messages.
    fn on_connect(&mut self, actor: &str, packet: &PacketLine) {
        self.connects.insert(actor.to_owned(), packet.clone());
        let client_id = packet.value("client_id").unwrap_or(actor).to_owned();
        let holder = self.holder(&client_id);
        if let Some(former) = holder {
            self.connections.remove(&former);
            self.receive(
                &former,
                PacketLine::new("DISCONNECT").with("reason", "0x8e"),
            );
        }
        if packet.value("clean_start") == Some("1") && self.sessions.contains_key(&client_id) {
            self.apply_to(&client_id, Input::End);
        }
        let is_present = self.sessions.contains_key(&client_id);
        let session = self.sessions.entry(client_id.clone()).or_default();
        let is_pubrel = |resend: &Resend| matches!(resend, Resend::Pubrel { .. });
        let (pubrels, publishes): (Vec<_>, Vec<_>) =
            session.resume().into_iter().partition(is_pubrel);
        let connection = Connection {
            client_id: client_id.clone(),
            unsent: publishes.into(),
            resent: BTreeSet::new(),
        };
        self.connections.insert(actor.to_owned(), connection);
        let present = u8::from(is_present);
        self.receive(
            actor,
            PacketLine::new("CONNACK").with("session_present", present),
        );
        for pubrel in pubrels {
            self.receive(actor, resend_line(&pubrel, self.now));
        }
        let receive_maximum = packet.number("receive_maximum").unwrap_or(65_535);
        let receive_maximum = u16::try_from(receive_maximum).unwrap();
        self.resend(actor, self.limits.window(receive_maximum));
        let expiry = packet.value("session_expiry").and_then(parse_seconds);
        let input = Input::Connect {
            receive_maximum,
            session_expiry_interval_s: expiry.unwrap_or(0),
            limits: self.limits,
        };
        self.apply(actor, input);
    }

    /// Re-sends what the window takes.
    fn resend(&mut self, actor: &str, window: u16) {
        let mut lines = Vec::new();
        let Some(connection) = self.connections.get_mut(actor) else {
            return;
        };
        while connection.resent.len() < usize::from(window) {
            let Some(resend) = connection.unsent.pop_front() else {
                break;
            };
            let Resend::Publish { packet_id, .. } = &resend else {
                continue;
            };
            connection.resent.insert(*packet_id);
            lines.push(resend_line(&resend, self.now));
        }
        for line in lines {
            self.receive(actor, line);
        }
    }

    fn on_subscribe(&mut self, actor: &str, packet: &PacketLine) {
        let options = SubscriptionOptions::new(packet.qos().unwrap());
        let identifier = packet.number("sub_id").map(|id| u32::try_from(id).unwrap());
        let identifier = identifier.map(|id| SubscriptionIdentifier::new(id).unwrap());
        let subscription = Subscription {
            options,
            identifier,
        };
        let filter = filter(packet);
        self.apply(
            actor,
            Input::Subscribe {
                filter,
                subscription,
            },
        );
        let suback = PacketLine::new("SUBACK").with("id", packet.packet_id().unwrap());
        let granted = options.qos.as_u8();
        self.receive(actor, suback.with("reason", format!("{granted:#04x}")));
    }

    fn on_unsubscribe(&mut self, actor: &str, packet: &PacketLine) {
        let filter = filter(packet);
        let outputs = self.apply(actor, Input::Unsubscribe { filter });
        let reason_code = match outputs.as_slice() {
            [Output::Unsubscribed { existed: true }] => ReasonCode::Success,
            _ => ReasonCode::NoSubscriptionExisted,
        };
        self.receive(
            actor,
            ack_line("UNSUBACK", packet.packet_id().unwrap(), reason_code),
        );
    }

    fn on_pubrel(&mut self, actor: &str, packet_id: PacketId) {
        let outputs = self.apply(actor, Input::Pubrel { packet_id });
        let [Output::PubrelAnswered { reason_code }] = outputs.as_slice() else {
            panic!("PUBREL is answered")
        };
        self.receive(actor, ack_line("PUBCOMP", packet_id, *reason_code));
    }

    /// PUBLISH from a client; without `id=` its acknowledgements are not shown.
    fn on_publish(&mut self, actor: &str, packet: &PacketLine) {
        let qos = packet.qos().unwrap();
        let Some(packet_id) = packet.packet_id() else {
            self.deliver(packet);
            return;
        };
        match qos {
            Qos::AtMostOnce => panic!("{packet}: QoS 0 has no id"),
            Qos::AtLeastOnce => {
                let reason_code = self.deliver(packet);
                self.receive(actor, ack_line("PUBACK", packet_id, reason_code));
            }
            Qos::ExactlyOnce => {
                let outputs = self.apply(actor, Input::ReceiveExactlyOnce { packet_id });
                match outputs.as_slice() {
                    [Output::Received { first }] => {
                        let reason_code = if *first {
                            self.deliver(packet)
                        } else {
                            ReasonCode::Success
                        };
                        self.receive(actor, ack_line("PUBREC", packet_id, reason_code));
                    }
                    _ => {
                        self.receive(actor, PacketLine::new("DISCONNECT").with("reason", "0x93"));
                        self.close(actor, None);
                    }
                }
            }
        }
    }

    /// Matches every session and every group; the reason code for the publisher.
    fn deliver(&mut self, packet: &PacketLine) -> ReasonCode {
        let stored = self.stored(packet);
        let topic = stored.message.topic.as_str().to_owned();
        let mut reason_code = ReasonCode::NoMatchingSubscribers;
        let mut handed_on = |outputs: Vec<Output>| {
            if outputs.contains(&Output::Rejected) {
                reason_code = ReasonCode::QuotaExceeded;
            } else if reason_code == ReasonCode::NoMatchingSubscribers {
                reason_code = ReasonCode::Success;
            }
        };
        let mut groups = BTreeSet::new();
        let client_ids: Vec<String> = self.sessions.keys().cloned().collect();
        for client_id in client_ids {
            let mut matching = Vec::new();
            for (filter, subscription) in self.sessions[&client_id].subscriptions() {
                match filter.share() {
                    Some((_, inner)) if matches(inner.as_str(), &topic) => {
                        groups.insert(filter.clone());
                    }
                    None if matches(filter.as_str(), &topic) => matching.push(subscription),
                    Some(_) | None => {}
                }
            }
            if !matching.is_empty() {
                let delivery = copy_for(&matching, &stored, None);
                handed_on(self.apply_to(&client_id, Input::Deliver(delivery)));
            }
        }
        for share in groups {
            handed_on(self.assign(&share, &stored).unwrap());
        }
        reason_code
    }

    /// The message that a PUBLISH line says.
    fn stored(&self, packet: &PacketLine) -> Arc<StoredMessage> {
        let expiry_interval = packet.value("expiry").and_then(parse_seconds);
        let message = Message {
            topic: TopicName::try_from(packet.positional(0).unwrap()).unwrap(),
            payload: Bytes::copy_from_slice(packet.payload().unwrap_or("").as_bytes()),
            qos: packet.qos().unwrap(),
            retain: packet.has("retain"),
            properties: MessageProperties {
                message_expiry_interval: expiry_interval,
                ..MessageProperties::default()
            },
        };
        let lifetime = expiry_interval.map(|seconds| Duration::from_secs(u64::from(seconds)));
        Arc::new(StoredMessage {
            id: 0,
            message,
            expires_at: lifetime.map(|lifetime| self.now.plus(lifetime)),
            retained_version: None,
        })
    }

    /// One member of a group gets the message, one that is connected if there is any; what
    /// follows. `None`: there is no member.
    fn assign(&mut self, share: &TopicFilter, stored: &Arc<StoredMessage>) -> Option<Vec<Output>> {
        let mut members: Vec<(&String, &Session)> = self.sessions.iter().collect();
        members.retain(|(_, session)| session.subscription(share).is_some());
        members.sort_by_key(|(_, session)| !session.is_connected());
        let (client_id, session) = members.first()?;
        let delivery = copy_for(&[session.subscription(share)?], stored, Some(share));
        let client_id = (*client_id).clone();
        Some(self.apply_to(&client_id, Input::Deliver(delivery)))
    }

    /// An acknowledgement: more of what is to be re-sent may follow it.
    fn acknowledge(&mut self, actor: &str, packet_id: PacketId, input: Input) {
        let outputs = self.apply(actor, input);
        let is_complete = |output: &Output| matches!(output, Output::Completed { .. });
        if !outputs.iter().any(is_complete) {
            return;
        }
        let Some(connection) = self.connections.get_mut(actor) else {
            return;
        };
        connection.resent.remove(&packet_id);
        let client_id = connection.client_id.clone();
        let meta = self.sessions[&client_id].meta();
        self.resend(actor, meta.limits.window(meta.client_receive_maximum));
    }

    /// `exchange 65533 t q1 "x"`: so many messages are published and acknowledged at once, unseen.
    fn exchange(&mut self, actor: &str, event: &PacketLine) {
        let count: usize = event.positional(0).unwrap().parse().unwrap();
        let mut publish = PacketLine::new("PUBLISH").word(event.positional(1).unwrap());
        publish = publish.word("q1").quoted(event.payload().unwrap_or(""));
        for _ in 0..count {
            let before = self.received.len();
            self.deliver(&publish);
            let sent = self.received.split_off(before);
            let packet_id = sent
                .iter()
                .find_map(|(who, packet)| (who == actor).then(|| packet.packet_id()).flatten());
            let packet_id = packet_id.expect("the exchange reaches its actor");
            self.apply(actor, Input::Puback { packet_id });
        }
    }

    fn set_limits(&mut self, event: &PacketLine) {
        let small = |key| event.number(key).map(|value| u16::try_from(value).unwrap());
        let limits = &mut self.limits;
        limits.inflight_max = small("inflight_max").unwrap_or(limits.inflight_max);
        limits.receive_maximum = small("receive_maximum").unwrap_or(limits.receive_maximum);
        if let Some(messages) = event.number("queue_messages_max") {
            limits.queue_messages_max = u32::try_from(messages).unwrap();
        }
        limits.queue_bytes_max = event
            .number("queue_bytes_max")
            .unwrap_or(limits.queue_bytes_max);
        limits.queue_overflow = match event.value("queue_overflow") {
            None => limits.queue_overflow,
            Some("reject") => QueueOverflow::Reject,
            Some("drop_newest") => QueueOverflow::DropNewest,
            Some("drop_oldest") => QueueOverflow::DropOldest,
            Some("disconnect") => QueueOverflow::Disconnect,
            Some(other) => panic!("no such policy: {other}"),
        };
    }

    fn wait(&mut self, seconds: u32) {
        self.now = self.now.plus(Duration::from_secs(u64::from(seconds)));
        let client_ids: Vec<String> = self.sessions.keys().cloned().collect();
        for client_id in client_ids {
            self.apply_to(&client_id, Input::Deadline);
        }
    }

    fn close(&mut self, actor: &str, session_expiry_interval_s: Option<u32>) {
        if let Some(connection) = self.connections.remove(actor) {
            let input = Input::Disconnect {
                session_expiry_interval_s,
            };
            self.apply_to(&connection.client_id, input);
        }
    }

    fn holder(&self, client_id: &str) -> Option<String> {
        let mut connections = self.connections.iter();
        let (actor, _) = connections.find(|(_, connection)| connection.client_id == client_id)?;
        Some(actor.clone())
    }

    /// Applies an input of a connected actor.
    fn apply(&mut self, actor: &str, input: Input) -> Vec<Output> {
        let connection = self.connections.get(actor);
        let connection = connection.unwrap_or_else(|| panic!("{actor} is not connected"));
        let client_id = connection.client_id.clone();
        self.apply_to(&client_id, input)
    }

    fn apply_to(&mut self, client_id: &str, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        let session = self.sessions.get_mut(client_id).unwrap();
        session.apply(self.now, input, &mut outputs);
        for output in &outputs {
            self.show(client_id, output);
        }
        outputs
    }

    /// Turns an output into what someone receives.
    fn show(&mut self, client_id: &str, output: &Output) {
        let holder = self.holder(client_id);
        let line = match output {
            Output::Send {
                packet_id,
                delivery,
                ..
            } => publish_line(delivery, *packet_id, self.now),
            Output::SendPubrel {
                packet_id,
                reason_code,
                ..
            } => ack_line("PUBREL", *packet_id, *reason_code),
            Output::DisconnectQueueFull => {
                let line = PacketLine::new("DISCONNECT").with("reason", "0x97");
                if let Some(actor) = &holder {
                    self.receive(actor, line);
                    self.connections.remove(actor);
                }
                let session_expiry_interval_s = None;
                self.apply_to(
                    client_id,
                    Input::Disconnect {
                        session_expiry_interval_s,
                    },
                );
                return;
            }
            Output::Dropped { cause } => {
                self.dropped(client_id, *cause);
                return;
            }
            Output::Reassign { delivery, .. } => {
                let (share, stored) = (delivery.share.as_deref().unwrap(), content(delivery));
                if self.assign(share, stored).is_none() {
                    self.dropped(client_id, DropCause::NoMember);
                }
                return;
            }
            Output::Ended => {
                self.sessions.remove(client_id);
                self.receive("broker", PacketLine::new("ENDED").word(client_id));
                return;
            }
            Output::Queued { .. }
            | Output::Completed { .. }
            | Output::Released { .. }
            | Output::Rejected
            | Output::Received { .. }
            | Output::ReceiveMaximumExceeded
            | Output::PubrelAnswered { .. }
            | Output::Subscribed { .. }
            | Output::Unsubscribed { .. } => return,
        };
        if let Some(actor) = holder {
            self.receive(&actor, line);
        }
    }

    fn dropped(&mut self, client_id: &str, cause: DropCause) {
        let cause = match cause {
            DropCause::QueueFullNewest => "queue_full_newest",
            DropCause::QueueFullOldest => "queue_full_oldest",
            DropCause::Offline => "offline",
            DropCause::Expired => "expired",
            DropCause::NoMember => "no_member",
            DropCause::SessionEnded => "session_ended",
        };
        let line = PacketLine::new("DROPPED").word(client_id);
        self.receive("broker", line.with("cause", cause));
    }

    fn receive(&mut self, actor: &str, line: PacketLine) {
        self.received.push((actor.to_owned(), line));
    }
}

/// The copy for a session whose subscriptions these are.
fn copy_for(
    matching: &[&Subscription],
    stored: &Arc<StoredMessage>,
    share: Option<&TopicFilter>,
) -> Delivery {
    let granted = matching.iter().map(|s| s.options.qos).max().unwrap();
    Delivery {
        body: Body::Here(Arc::clone(stored)),
        qos: effective_qos(stored.message.qos, granted),
        retain: false,
        identifiers: matching.iter().filter_map(|s| s.identifier).collect(),
        share: share.cloned().map(Arc::new),
    }
}

/// Sessions here are never stored, so they hold what they were given.
fn content(delivery: &Delivery) -> &Arc<StoredMessage> {
    match &delivery.body {
        Body::Here(stored) => stored,
        Body::Stored(reference) => panic!("{reference:?} is not in memory"),
    }
}

fn publish_line(delivery: &Delivery, packet_id: Option<PacketId>, now: Timestamp) -> PacketLine {
    let stored = content(delivery);
    let message = &stored.message;
    let mut line = PacketLine::new("PUBLISH")
        .word(&message.topic)
        .word(format!("q{}", delivery.qos.as_u8()))
        .quoted(std::str::from_utf8(&message.payload).unwrap());
    if let Some(packet_id) = packet_id {
        line = line.with("id", packet_id);
    }
    if !delivery.identifiers.is_empty() {
        let ids = delivery.identifiers.iter().map(|id| id.get().to_string());
        line = line.with("sub_id", ids.collect::<Vec<_>>().join(","));
    }
    if let Some(interval) = message.properties.message_expiry_interval {
        let left = interval - stored.waited_s(now);
        line = line.with("expiry", format!("{left}s"));
    }
    line
}

fn resend_line(resend: &Resend, now: Timestamp) -> PacketLine {
    match resend {
        Resend::Publish {
            packet_id,
            delivery,
            ..
        } => publish_line(delivery, Some(*packet_id), now).word("dup"),
        Resend::Pubrel { packet_id, .. } => ack_line("PUBREL", *packet_id, ReasonCode::Success),
    }
}

fn ack_line(name: &str, packet_id: PacketId, reason_code: ReasonCode) -> PacketLine {
    let line = PacketLine::new(name).with("id", packet_id);
    match reason_code {
        ReasonCode::Success => line,
        code => line.with("reason", format!("{:#04x}", code.as_u8())),
    }
}

fn reason_code(packet: &PacketLine) -> ReasonCode {
    let Some(text) = packet.value("reason") else {
        return ReasonCode::Success;
    };
    let number = u8::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut codes = ReasonCode::ALL.into_iter();
    codes.find(|code| code.as_u8() == number).unwrap()
}

fn filter(packet: &PacketLine) -> TopicFilter {
    TopicFilter::try_from(packet.positional(0).unwrap()).unwrap()
}

/// Enough of section 4.7 for scripts; the router is tested elsewhere.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for level in filter.split('/') {
        match (level, levels.next()) {
            ("#", _) => return true,
            (_, None) => return false,
            ("+", Some(_)) => {}
            (level, Some(other)) if level == other => {}
            (_, Some(_)) => return false,
        }
    }
    levels.next().is_none()
}
