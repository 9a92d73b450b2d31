//! Connections, sessions and messages, made of the records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::{
    Ack, Connack, Connect, MessageProperties, Packet, PacketId, ProtocolVersion, Publish, Qos,
    ReasonCode, Subscribe, TopicName, Unsubscribe, Will,
};

use super::Settings;
use super::subscription::{Change, Filter, Granted};
use crate::cluster::NodeId;
use crate::recording::{End, Event, Fault, Record, Step};

/// One connection of a client, or an attempt at one.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    pub(super) client: &'a str,
    pub(super) node: NodeId,
    /// Record and packet.
    pub(super) connect: Option<(usize, &'a Connect)>,
    /// Record and packet, if it accepts.
    pub(super) connack: Option<(usize, &'a Connack)>,
    /// The records of packets, in order; leftovers are not among them.
    pub(super) packets: Vec<usize>,
    pub(super) end: Option<(usize, End)>,
    pub(super) leftover_closed: Option<usize>,
    /// DISCONNECT that the client sent.
    pub(super) disconnect: Option<(usize, ReasonCode)>,
    pub(super) session: Option<usize>,
    /// The will, as a message.
    pub(super) will: Option<usize>,
}

impl Connection<'_> {
    pub(super) fn version(&self) -> ProtocolVersion {
        self.connect
            .map_or(ProtocolVersion::V5, |(_, connect)| connect.version)
    }

    /// Session Expiry Interval in seconds; 0: the session ends with the connection.
    pub(super) fn expiry_s(&self) -> u32 {
        let Some((_, connect)) = self.connect else {
            return 0;
        };
        match (connect.version, connect.clean_start) {
            (ProtocolVersion::V5, _) => connect.session_expiry_interval.unwrap_or(0),
            (ProtocolVersion::V31 | ProtocolVersion::V311, true) => 0,
            (ProtocolVersion::V31 | ProtocolVersion::V311, false) => u32::MAX,
        }
    }

    /// Whether the session was there already.
    pub(super) fn is_resumed(&self) -> bool {
        self.connack
            .is_some_and(|(_, connack)| connack.session_present)
    }
}

/// One session: from a CONNACK without Session Present to its end.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) client: &'a str,
    /// The record from which on it may be gone.
    pub(super) ended: Option<usize>,
    pub(super) connections: Vec<usize>,
    pub(super) filters: BTreeMap<String, Filter>,
}

/// One PUBLISH of a message.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) record: usize,
    pub(super) connection: usize,
}

/// One application message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) publisher: &'a str,
    pub(super) version: ProtocolVersion,
    pub(super) topic: usize,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) payload: &'a [u8],
    pub(super) properties: &'a MessageProperties,
    /// Every PUBLISH, oldest first; for a will the CONNECT.
    pub(super) sendings: Vec<Sending>,
    /// The record of the first PUBACK or PUBREC with success.
    pub(super) acknowledged: Option<usize>,
    /// Whether it is a will.
    pub(super) is_will: bool,
}

impl Message<'_> {
    /// The record of the first PUBLISH.
    pub(super) fn first_sent(&self) -> usize {
        self.sendings.first().map_or(0, |sending| sending.record)
    }

    /// The payload for people.
    pub(super) fn name(&self) -> String {
        let text = String::from_utf8_lossy(self.payload);
        let name: String = text.chars().take(40).collect();
        name.trim_end_matches([' ', 'x']).to_owned()
    }
}

impl Session<'_> {
    /// The states of subscriptions, shared ones or not, that may have matched a message at some
    /// moment from record `from` to record `to`, each with its filter.
    pub(super) fn possible(
        &self,
        message: &Message<'_>,
        (from, to): (usize, usize),
    ) -> impl Iterator<Item = (&Filter, Granted)> {
        let own = message.publisher == self.client;
        let topic = message.topic;
        let filters = self.filters.values();
        let filters = filters.filter(move |filter| filter.matches(topic));
        filters.flat_map(move |filter| {
            let states = filter.possible(from, to).flatten();
            let states = states.filter(move |granted| !(own && granted.options.no_local));
            states.map(move |granted| (filter, granted))
        })
    }

    /// The highest QoS with which this message must have been matched: that of a subscription, not
    /// shared, that was certainly there all the time from record `from` to record `to`.
    pub(super) fn certain(&self, message: &Message<'_>, (from, to): (usize, usize)) -> Option<Qos> {
        let own = message.publisher == self.client;
        let filters = self.filters.values();
        let filters = filters.filter(|one| !one.is_shared() && one.matches(message.topic));
        filters
            .filter_map(|filter| filter.certain(own, (from, to)))
            .max()
            .map(|granted| granted.min(message.qos))
    }
}

/// Everything that the rules ask for.
#[derive(Debug)]
pub(super) struct Story<'a> {
    pub(super) records: &'a [Record],
    pub(super) settings: Settings,
    pub(super) connections: Vec<Connection<'a>>,
    /// The connections of each client, in order.
    pub(super) clients: BTreeMap<&'a str, Vec<usize>>,
    pub(super) sessions: Vec<Session<'a>>,
    pub(super) messages: Vec<Message<'a>>,
    pub(super) topics: Vec<String>,
    pub(super) faults: Vec<(usize, Fault)>,
    by_payload: BTreeMap<&'a [u8], usize>,
    cleared_topics: BTreeSet<&'a str>,
}

impl<'a> Story<'a> {
    pub(super) fn new(records: &'a [Record], settings: Settings) -> Self {
        let story = Self {
            records,
            settings,
            connections: Vec::new(),
            clients: BTreeMap::new(),
            sessions: Vec::new(),
            messages: Vec::new(),
            topics: Vec::new(),
            faults: Vec::new(),
            by_payload: BTreeMap::new(),
            cleared_topics: BTreeSet::new(),
        };
        Builder::new(story).build()
    }

    /// The record after the last one.
    pub(super) fn end(&self) -> usize {
        self.records.len()
    }

    pub(super) fn at(&self, record: usize) -> Duration {
        let last = self.records.last().map_or(Duration::ZERO, |last| last.at);
        self.records.get(record).map_or(last, |record| record.at)
    }

    /// The first record after `at`.
    pub(super) fn after(&self, at: Duration) -> usize {
        self.records.partition_point(|record| record.at <= at)
    }

    /// The step that a record is.
    pub(super) fn step(&self, record: usize) -> Option<&'a Step> {
        match &self.records.get(record)?.event {
            Event::Client { step, .. } => Some(step),
            Event::Fault(_) | Event::Note(_) => None,
        }
    }

    /// When a connection last brought something: it was certainly open then.
    pub(super) fn last_received(&self, connection: &Connection<'_>) -> Option<Duration> {
        let packets = connection.packets.iter().rev();
        let mut received =
            packets.filter(|record| matches!(self.step(**record), Some(Step::Received(_))));
        received.next().map(|record| self.at(*record))
    }

    /// The packet that a record says was sent.
    pub(super) fn sent(&self, record: usize) -> Option<&'a Packet> {
        self.step(record)?.sent()
    }

    /// The packet that a record says was received.
    pub(super) fn received(&self, record: usize) -> Option<&'a Packet> {
        self.step(record)?.received()
    }

    /// The message with this payload.
    pub(super) fn message_of(&self, payload: &[u8]) -> Option<usize> {
        self.by_payload.get(payload).copied()
    }

    /// Whether anybody published an empty payload there.
    pub(super) fn was_cleared(&self, topic: &str) -> bool {
        self.cleared_topics.contains(topic)
    }

    /// The record after which a message is matched with no subscription any more. QoS 1: its PUBACK,
    /// as every session must have it by then; else `settle` after whatever is known last of it.
    pub(super) fn settled(&self, message: &Message<'_>) -> usize {
        if message.is_will {
            return self.end();
        }
        match (message.acknowledged, message.qos) {
            (Some(acknowledged), Qos::AtLeastOnce) => return acknowledged,
            (Some(acknowledged), _) => {
                return self.after(self.at(acknowledged) + self.settings.settle);
            }
            (None, _) => {}
        }
        let last = message.sendings.last();
        let connection = last.and_then(|sending| self.connections.get(sending.connection));
        match connection.and_then(|connection| connection.end) {
            Some((end, _)) => self.after(self.at(end) + self.settings.settle),
            None => self.end(),
        }
    }

    /// Whether a session is still there when the history ends, and its client connected to it: then
    /// it must have got everything by then.
    pub(super) fn is_complete(&self, session: &Session<'_>) -> bool {
        let last = session.connections.last();
        let last = last.and_then(|connection| self.connections.get(*connection));
        self.settings.drained
            && session.ended.is_none()
            && last.is_some_and(|last| last.connack.is_some() && last.end.is_none())
    }
}

/// What is under way while the records are read.
struct Builder<'a> {
    story: Story<'a>,
    /// (client, connection number) to connection.
    numbers: BTreeMap<(&'a str, u32), usize>,
    /// The session of each client that is there now.
    current: BTreeMap<&'a str, usize>,
    topic_numbers: BTreeMap<String, usize>,
    /// (client, packet id) to the message last sent with it.
    sent: BTreeMap<(&'a str, PacketId), usize>,
}

impl<'a> Builder<'a> {
    const fn new(story: Story<'a>) -> Self {
        Self {
            story,
            numbers: BTreeMap::new(),
            current: BTreeMap::new(),
            topic_numbers: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    fn build(mut self) -> Story<'a> {
        for (index, record) in self.story.records.iter().enumerate() {
            match &record.event {
                Event::Client {
                    client,
                    connection,
                    step,
                } => self.on_step(index, client, *connection, step),
                Event::Fault(fault) => self.story.faults.push((index, *fault)),
                Event::Note(_) => {}
            }
        }
        let topics = &self.story.topics;
        for session in &mut self.story.sessions {
            for filter in session.filters.values_mut() {
                filter.match_all(topics);
            }
        }
        self.story
    }

    fn on_step(&mut self, index: usize, client: &'a str, number: u32, step: &'a Step) {
        let connection = match (self.numbers.get(&(client, number)), step) {
            (Some(connection), _) => *connection,
            (None, Step::Opened(node)) => return self.open(client, number, *node),
            (None, _) => panic!("record {index}: {client}#{number} was not opened"),
        };
        match step {
            Step::Opened(_) => panic!("record {index}: {client}#{number} was opened twice"),
            Step::Sent(packet) => {
                self.story.connections[connection].packets.push(index);
                self.on_sent(index, connection, packet);
            }
            Step::Received(packet) => {
                self.story.connections[connection].packets.push(index);
                self.on_received(index, connection, packet);
            }
            Step::Ended(end) => self.on_end(index, connection, *end),
            Step::Leftover(_) => {}
            Step::LeftoverClosed => {
                self.story.connections[connection].leftover_closed = Some(index);
            }
        }
    }

    fn open(&mut self, client: &'a str, number: u32, node: NodeId) {
        let connection = self.story.connections.len();
        self.numbers.insert((client, number), connection);
        self.story
            .clients
            .entry(client)
            .or_default()
            .push(connection);
        self.story.connections.push(Connection {
            client,
            node,
            connect: None,
            connack: None,
            packets: Vec::new(),
            end: None,
            leftover_closed: None,
            disconnect: None,
            session: None,
            will: None,
        });
    }

    fn on_sent(&mut self, index: usize, connection: usize, packet: &'a Packet) {
        match packet {
            Packet::Connect(connect) => self.on_connect(index, connection, connect),
            Packet::Publish(publish) => self.on_publish(index, connection, publish),
            Packet::Subscribe(subscribe) => self.on_subscribe(index, connection, subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(index, connection, unsubscribe);
            }
            Packet::Disconnect(disconnect) => {
                self.story.connections[connection].disconnect =
                    Some((index, disconnect.reason_code));
            }
            _ => {}
        }
    }

    fn on_received(&mut self, index: usize, connection: usize, packet: &'a Packet) {
        match packet {
            Packet::Connack(connack) if connack.reason_code == ReasonCode::Success => {
                self.on_connack(index, connection, connack);
            }
            Packet::Puback(ack) | Packet::Pubrec(ack) => self.on_ack(index, connection, ack),
            Packet::Suback(suback) => {
                let code = suback.reason_codes.first().copied();
                self.on_changed(index, connection, suback.packet_id, code);
            }
            Packet::Unsuback(unsuback) => {
                let code = unsuback.reason_codes.first().copied();
                self.on_changed(index, connection, unsuback.packet_id, code);
            }
            _ => {}
        }
    }

    fn on_connect(&mut self, index: usize, connection: usize, connect: &'a Connect) {
        let client = self.story.connections[connection].client;
        self.story.connections[connection].connect = Some((index, connect));
        if connect.clean_start {
            self.end_session(client, index);
        }
        if let Some(will) = &connect.will {
            let message = self.add_will(index, connection, connect.version, will);
            self.story.connections[connection].will = Some(message);
        }
    }

    fn add_will(
        &mut self,
        index: usize,
        connection: usize,
        version: ProtocolVersion,
        will: &'a Will,
    ) -> usize {
        let message = Message {
            publisher: self.story.connections[connection].client,
            version,
            topic: self.topic(&will.message.topic),
            qos: will.message.qos,
            retain: will.message.retain,
            payload: &will.message.payload,
            properties: &will.message.properties,
            sendings: vec![Sending {
                record: index,
                connection,
            }],
            acknowledged: None,
            is_will: true,
        };
        self.add_message(message)
    }

    fn on_connack(&mut self, index: usize, connection: usize, connack: &'a Connack) {
        let client = self.story.connections[connection].client;
        self.story.connections[connection].connack = Some((index, connack));
        if !connack.session_present {
            // Unless Clean Start ended it, it expired, or is lost: `presence` says which.
            let begun = self.story.connections[connection].connect;
            self.end_session(client, begun.map_or(index, |(record, _)| record));
        }
        let session = match self.current.get(client) {
            Some(session) => *session,
            None => {
                self.story.sessions.push(Session {
                    client,
                    ended: None,
                    connections: Vec::new(),
                    filters: BTreeMap::new(),
                });
                self.story.sessions.len() - 1
            }
        };
        self.current.insert(client, session);
        self.story.sessions[session].connections.push(connection);
        self.story.connections[connection].session = Some(session);
    }

    fn end_session(&mut self, client: &'a str, index: usize) {
        if let Some(session) = self.current.remove(client) {
            self.story.sessions[session].ended = Some(index);
        }
    }

    fn on_end(&mut self, index: usize, connection: usize, end: End) {
        self.story.connections[connection].end = Some((index, end));
        let Connection {
            client, session, ..
        } = self.story.connections[connection];
        let is_transient = self.story.connections[connection].expiry_s() == 0;
        if is_transient && session.is_some() {
            self.end_session(client, index);
        }
    }

    fn on_publish(&mut self, index: usize, connection: usize, publish: &'a Publish) {
        let client = self.story.connections[connection].client;
        let sending = Sending {
            record: index,
            connection,
        };
        let known = publish
            .packet_id
            .and_then(|id| self.sent.get(&(client, id)));
        if let (true, Some(message)) = (publish.dup, known) {
            return self.story.messages[*message].sendings.push(sending);
        }
        let Some(topic) = &publish.topic else {
            panic!("record {index}: publishers use no Topic Alias");
        };
        let message = Message {
            publisher: client,
            version: self.story.connections[connection].version(),
            topic: self.topic(topic),
            qos: publish.qos,
            retain: publish.retain,
            payload: &publish.payload,
            properties: &publish.properties,
            sendings: vec![sending],
            acknowledged: None,
            is_will: false,
        };
        if publish.payload.is_empty() {
            self.story.cleared_topics.insert(topic.as_str());
        }
        let message = self.add_message(message);
        if let Some(id) = publish.packet_id {
            self.sent.insert((client, id), message);
        }
    }

    fn add_message(&mut self, message: Message<'a>) -> usize {
        let number = self.story.messages.len();
        if !message.payload.is_empty() {
            let twice = self.story.by_payload.insert(message.payload, number);
            assert!(
                twice.is_none(),
                "the payload {} is not unique",
                message.name()
            );
        }
        self.story.messages.push(message);
        number
    }

    fn on_ack(&mut self, index: usize, connection: usize, ack: &Ack) {
        let client = self.story.connections[connection].client;
        let Some(message) = self.sent.get(&(client, ack.packet_id)) else {
            return;
        };
        let message = &mut self.story.messages[*message];
        if !ack.reason_code.is_error() && message.acknowledged.is_none() {
            message.acknowledged = Some(index);
        }
    }

    fn on_subscribe(&mut self, index: usize, connection: usize, subscribe: &Subscribe) {
        for one in &subscribe.subscriptions {
            let granted = Granted {
                options: one.options,
                identifier: subscribe.subscription_identifier,
            };
            let request = (subscribe.packet_id, one.filter.as_str());
            self.on_change(index, connection, request, Some(granted));
        }
    }

    fn on_unsubscribe(&mut self, index: usize, connection: usize, unsubscribe: &Unsubscribe) {
        for filter in &unsubscribe.filters {
            let request = (unsubscribe.packet_id, filter.as_str());
            self.on_change(index, connection, request, None);
        }
    }

    fn on_change(
        &mut self,
        index: usize,
        connection: usize,
        (packet_id, filter): (PacketId, &str),
        to: Option<Granted>,
    ) {
        let Some(session) = self.story.connections[connection].session else {
            panic!("record {index}: a subscription before CONNACK");
        };
        let filters = &mut self.story.sessions[session].filters;
        let entry = filters
            .entry(filter.to_owned())
            .or_insert_with(|| Filter::new(filter));
        entry.changes.push(Change {
            sent: index,
            done: None,
            to,
            connection,
            packet_id: packet_id.get(),
        });
    }

    /// SUBACK or UNSUBACK, of a request with one filter: what was refused never was.
    fn on_changed(
        &mut self,
        index: usize,
        connection: usize,
        id: PacketId,
        code: Option<ReasonCode>,
    ) {
        let Some(session) = self.story.connections[connection].session else {
            return;
        };
        let is_answered = |change: &Change| {
            change.connection == connection && change.packet_id == id.get() && change.done.is_none()
        };
        for filter in self.story.sessions[session].filters.values_mut() {
            if code.is_some_and(ReasonCode::is_error) {
                filter.changes.retain(|change| !is_answered(change));
            }
            for change in filter.changes.iter_mut().filter(|one| is_answered(one)) {
                change.done = Some(index);
                grant(change, code);
            }
        }
    }

    fn topic(&mut self, topic: &TopicName) -> usize {
        let next = self.story.topics.len();
        let number = *self
            .topic_numbers
            .entry(topic.as_str().to_owned())
            .or_insert(next);
        if number == next {
            self.story.topics.push(topic.as_str().to_owned());
        }
        number
    }
}

/// A server may grant less than was asked for.
fn grant(change: &mut Change, code: Option<ReasonCode>) {
    let Some(granted) = &mut change.to else {
        return;
    };
    granted.options.qos = match code {
        Some(ReasonCode::GrantedQos1) => granted.options.qos.min(Qos::AtLeastOnce),
        Some(ReasonCode::GrantedQos2) | None => granted.options.qos,
        Some(_) => Qos::AtMostOnce,
    };
}
