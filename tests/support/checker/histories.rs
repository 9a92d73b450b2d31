//! The checker is tested with histories: a correct one passes, and each way of breaking it is
//! reported under the rule that it breaks.
//!
//! A history is a text in the style of the scenarios of `session`: `a>` sends, `a<` receives, `a!`
//! something happens to the client's connection. CONNECT opens a connection. Each line takes a
//! millisecond; `time! wait 30s` more.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use codec::{
    Ack, Connack, Connect, Disconnect, Message, MessageProperties, Packet, ProtocolVersion,
    Publish, Qos, ReasonCode, RetainHandling, Suback, Subscribe, Subscription,
    SubscriptionIdentifier, SubscriptionOptions, TopicFilter, TopicName, Unsuback, Unsubscribe,
    Utf8, Will,
};

use super::{Rule, Settings, Verdict, check};
use crate::recording::{End, Event, Fault, Record, Step};
use crate::script::{PacketLine, Script, parse_seconds};

mod connections;
mod copies;
mod handshakes;
mod retained_and_shared;
mod wills;

/// Judges a history, as one that ends with a drain.
fn judge(text: &str) -> Verdict {
    check(&records(text), &Settings::drained())
}

/// A history that breaks no rule.
fn correct(text: &str) {
    let verdict = judge(text);
    assert!(
        verdict.violations.is_empty(),
        "{}",
        verdict.render(&records(text))
    );
}

/// A correct history, and what happens to it when `from` is replaced by `to`: `rule` is broken.
fn broken(text: &str, from: &str, to: &str, rule: Rule) {
    correct(text);
    assert!(text.contains(from), "{from:?} is in the history");
    let text = text.replacen(from, to, 1);
    let verdict = judge(&text);
    let found = verdict.violations.iter().any(|one| one.rule == rule);
    let records = records(&text);
    assert!(
        found,
        "{rule:?} is broken by {to:?}; found: {}",
        verdict.render(&records)
    );
    let shown = verdict.render(&records);
    assert!(shown.contains("=>"), "the records are shown: {shown}");
}

/// Removes lines of a history that say what did not happen.
fn without(text: &str, lines: &[&str]) -> String {
    let mut text = text.to_owned();
    for line in lines {
        assert!(text.contains(line), "{line:?} is in the history");
        text = text.replacen(line, "", 1);
    }
    text
}

/// Reads a history.
fn records(text: &str) -> Vec<Record> {
    let script = Script::parse(text).expect("a legal history");
    let mut reader = Reader::default();
    for turn in script.turns() {
        let action = turn.action;
        if turn.is_send {
            reader.packet(&action.actor, &action.packet, Direction::Sent);
        } else {
            reader.event(&action.actor, &action.packet);
        }
        for step in turn.expected {
            reader.packet(&step.actor, &step.packet, Direction::Received);
        }
    }
    reader.records
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Sent,
    Received,
}

#[derive(Default)]
struct Reader {
    at: Duration,
    records: Vec<Record>,
    connections: BTreeMap<String, u32>,
}

impl Reader {
    fn push(&mut self, event: Event) {
        self.at += Duration::from_millis(1);
        self.records.push(Record { at: self.at, event });
    }

    fn step(&mut self, actor: &str, back: u32, step: Step) {
        let connection = self.connections.get(actor).copied().unwrap_or(0) - back;
        self.push(Event::Client {
            client: Arc::from(actor),
            connection,
            step,
        });
    }

    fn packet(&mut self, actor: &str, line: &PacketLine, direction: Direction) {
        let packet = packet(actor, line);
        if matches!(packet, Packet::Connect(_)) {
            *self.connections.entry(actor.to_owned()).or_default() += 1;
            let node = line.number("node").unwrap_or(1);
            let node = u16::try_from(node).expect("a node");
            self.step(actor, 0, Step::Opened(node));
        }
        let step = match direction {
            Direction::Sent => Step::Sent(Arc::new(packet)),
            Direction::Received => Step::Received(Arc::new(packet)),
        };
        self.step(actor, 0, step);
    }

    fn event(&mut self, actor: &str, line: &PacketLine) {
        let node = || u16::try_from(line.number("node").expect("node=")).expect("a node");
        let end = match line.name.as_str() {
            "wait" => {
                let seconds = line.positional(0).and_then(parse_seconds);
                self.at += Duration::from_secs(u64::from(seconds.expect("seconds")));
                return;
            }
            "kill" => return self.push(Event::Fault(Fault::Killed(node()))),
            "restart" => return self.push(Event::Fault(Fault::Restarted(node()))),
            "leftover_closed" => return self.step(actor, 1, Step::LeftoverClosed),
            "drop" => End::Dropped,
            "disconnected" => End::Disconnected,
            "closed" => End::Closed,
            "malformed" => End::Malformed,
            "superseded" => End::Superseded,
            other => panic!("{other} is no event"),
        };
        self.step(actor, 0, Step::Ended(end));
    }
}

fn packet(actor: &str, line: &PacketLine) -> Packet {
    let id = line.packet_id();
    let ack = || Ack::success(id.expect("id="));
    match line.name.as_str() {
        "CONNECT" => Packet::Connect(Box::new(connect(actor, line))),
        "CONNACK" => Packet::Connack(Box::new(Connack {
            session_present: line.has("present"),
            ..Connack::default()
        })),
        "PUBLISH" => Packet::Publish(publish(line)),
        "PUBACK" => Packet::Puback(ack()),
        "PUBREC" => Packet::Pubrec(ack()),
        "PUBREL" => Packet::Pubrel(ack()),
        "PUBCOMP" => Packet::Pubcomp(ack()),
        "SUBSCRIBE" => Packet::Subscribe(subscribe(line)),
        "SUBACK" => Packet::Suback(Suback {
            packet_id: id.expect("id="),
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes: vec![match line.qos() {
                Some(Qos::AtMostOnce) => ReasonCode::Success,
                Some(Qos::AtLeastOnce) => ReasonCode::GrantedQos1,
                Some(Qos::ExactlyOnce) => ReasonCode::GrantedQos2,
                None => ReasonCode::UnspecifiedError,
            }],
        }),
        "UNSUBSCRIBE" => Packet::Unsubscribe(Unsubscribe {
            packet_id: id.expect("id="),
            user_properties: Vec::new(),
            filters: vec![filter(line)],
        }),
        "UNSUBACK" => Packet::Unsuback(Unsuback {
            packet_id: id.expect("id="),
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes: Vec::new(),
        }),
        "DISCONNECT" => Packet::Disconnect(Disconnect::new(ReasonCode::Success)),
        "PINGREQ" => Packet::Pingreq,
        "PINGRESP" => Packet::Pingresp,
        other => panic!("{other} is no packet"),
    }
}

fn connect(actor: &str, line: &PacketLine) -> Connect {
    let version = if line.has("v3") {
        ProtocolVersion::V311
    } else {
        ProtocolVersion::V5
    };
    let client_id = Utf8::try_from(actor).expect("a legal client id");
    let seconds = |key: &str| line.value(key).and_then(parse_seconds);
    let receive_maximum = line.number("receive_maximum");
    Connect {
        clean_start: line.has("clean"),
        session_expiry_interval: seconds("expiry"),
        receive_maximum: receive_maximum
            .and_then(|number| NonZeroU16::new(u16::try_from(number).ok()?)),
        will: line.value("will").map(|topic| Will {
            message: Message {
                topic: TopicName::try_from(topic).expect("a topic"),
                payload: line.payload().expect("a payload").to_owned().into(),
                qos: line.qos().expect("a QoS"),
                retain: false,
                properties: MessageProperties::default(),
            },
            delay_interval_s: seconds("delay").unwrap_or(0),
        }),
        ..Connect::new(version, client_id)
    }
}

fn publish(line: &PacketLine) -> Publish {
    let qos = line.qos().expect("a QoS");
    let topic = line.positional(0).expect("a topic");
    let identifier = line.number("identifier").map(|number| {
        SubscriptionIdentifier::new(u32::try_from(number).expect("small")).expect("legal")
    });
    Publish {
        dup: line.has("dup"),
        qos,
        retain: line.has("retain"),
        packet_id: line.packet_id(),
        topic: TopicName::try_from(topic).ok(),
        topic_alias: None,
        payload: line.payload().expect("a payload").to_owned().into(),
        properties: MessageProperties {
            message_expiry_interval: line.value("expiry").and_then(parse_seconds),
            content_type: line
                .value("content_type")
                .map(|text| Utf8::try_from(text).expect("legal")),
            ..MessageProperties::default()
        },
        subscription_identifiers: identifier.into_iter().collect(),
    }
}

fn subscribe(line: &PacketLine) -> Subscribe {
    let identifier = line.number("identifier").map(|number| {
        SubscriptionIdentifier::new(u32::try_from(number).expect("small")).expect("legal")
    });
    Subscribe {
        packet_id: line.packet_id().expect("id="),
        subscription_identifier: identifier,
        user_properties: Vec::new(),
        subscriptions: vec![Subscription {
            filter: filter(line),
            options: SubscriptionOptions {
                qos: line.qos().expect("a QoS"),
                no_local: line.has("no_local"),
                retain_as_published: line.has("as_published"),
                retain_handling: RetainHandling::Send,
            },
        }],
    }
}

fn filter(line: &PacketLine) -> TopicFilter {
    TopicFilter::try_from(line.positional(0).expect("a filter")).expect("a legal filter")
}
