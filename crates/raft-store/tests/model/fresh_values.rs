//! A new subscriber never ends on a stale value, however its read of retained messages and their live
//! copies mix (DESIGN section 6).
//!
//! One shard has the topics, another one the subscriber's session. A publisher of its own serves each
//! topic: its message is stored, then matched, then sent; the next one waits until it is matched.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use codec::{
    ClientId, Message, MessageProperties, Qos, SubscriptionOptions, Timestamp, TopicFilter,
    TopicName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{
    Batch, Command, Connect, ConnectionId, Effect, Epoch, Holder, Incarnation, Machine, NodeId,
    ProposerId, Response, RetainedCopy, RetainedLimits, ShardId, encode_command,
};
use session::{Body, SessionLimits, Subscription};

use super::{naive_shard, records, seeded};

const TOPICS: [&str; 2] = ["a", "b"];
const FILTERS: [&str; 3] = ["a", "#", "+"];

#[derive(Clone, Debug)]
enum Step {
    /// A publisher's message is stored, or clears what is.
    Store {
        topic: usize,
        clears: bool,
    },
    /// Its node looks up who gets it.
    Match {
        topic: usize,
    },
    /// The next of the messages that were sent to the subscriber's shard gets there.
    Arrive,
    Subscribe {
        filter: usize,
    },
    /// The subscriber's node reads for the `read`th subscription.
    Read {
        read: usize,
    },
    /// It hands some of that to the session.
    HandOver {
        read: usize,
        count: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let topic = || 0..TOPICS.len();
    prop_oneof![
        4 => (topic(), prop::bool::weighted(0.2))
            .prop_map(|(topic, clears)| Step::Store { topic, clears }),
        4 => topic().prop_map(|topic| Step::Match { topic }),
        4 => Just(Step::Arrive),
        2 => (0..FILTERS.len()).prop_map(|filter| Step::Subscribe { filter }),
        3 => (0..3_usize).prop_map(|read| Step::Read { read }),
        4 => (0..3_usize, 0..3_usize).prop_map(|(read, count)| Step::HandOver { read, count }),
    ]
}

/// One read of retained messages.
struct Reading {
    filter: TopicFilter,
    /// What was read and not handed over; `None`: nothing was read yet.
    copies: Option<VecDeque<RetainedCopy>>,
    is_over: bool,
}

struct Race {
    topics: Machine,
    sessions: Machine,
    index: u64,
    numbers: u64,
    /// Stored and not matched.
    stored: BTreeMap<usize, (Message, u64)>,
    /// On their way to the subscriber's shard.
    sent: VecDeque<(Message, u64)>,
    readings: Vec<Reading>,
    /// What the subscriber got last.
    seen: BTreeMap<TopicName, Bytes>,
}

fn subscriber() -> ClientId {
    ClientId::new("subscriber").unwrap()
}

fn apply(machine: &mut Machine, index: &mut u64, command: &Command) -> (Response, Vec<Effect>) {
    *index += 1;
    let batch = Batch {
        proposer: ProposerId::Idempotent,
        sequence: 0,
        leader_time: Timestamp::from_millis(*index),
        commands: vec![encode_command(command)],
    };
    let applied = machine.apply(*index, &batch);
    (applied.answers[0].clone(), applied.effects)
}

impl Race {
    fn new() -> Self {
        let mut race = Self {
            topics: Machine::new(ShardId(1)),
            sessions: Machine::new(ShardId::ZERO),
            index: 0,
            numbers: 0,
            stored: BTreeMap::new(),
            sent: VecDeque::new(),
            readings: Vec::new(),
            seen: BTreeMap::new(),
        };
        let holder = Holder {
            node: NodeId(1),
            incarnation: Incarnation(1),
            connection: ConnectionId(1),
        };
        race.tell_session(&Command::Connect(Box::new(Connect {
            client_id: subscriber(),
            holder,
            clean_start: true,
            session_expiry_interval_s: 60,
            receive_maximum: u16::MAX,
            limits: SessionLimits {
                inflight_max: u16::MAX,
                ..SessionLimits::default()
            },
            will: None,
            owner: None,
        })));
        race
    }

    fn tell_session(&mut self, command: &Command) {
        let (_, effects) = apply(&mut self.sessions, &mut self.index, command);
        for effect in effects {
            if let Effect::Send { delivery, .. } = effect {
                let Body::Here(stored) = delivery.body else {
                    panic!("nothing is evicted");
                };
                let Message { topic, payload, .. } = stored.message.clone();
                self.seen.insert(topic, payload);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Store { topic, clears } => self.store(topic, clears),
            Step::Match { topic } => {
                // Who is not subscribed yet gets it by its read.
                let sent = self.stored.remove(&topic);
                self.sent.extend(sent.filter(|_| !self.readings.is_empty()));
            }
            Step::Arrive => {
                if let Some((message, version)) = self.sent.pop_front() {
                    self.tell_session(&Command::Publish {
                        client_id: ClientId::new("publisher").unwrap(),
                        epoch: Epoch(1),
                        message,
                        retained_version: Some(version),
                    });
                }
            }
            Step::Subscribe { filter } => self.subscribe(filter),
            Step::Read { read } => self.read(read),
            Step::HandOver { read, count } => self.hand_over(read, count),
        }
    }

    fn store(&mut self, topic: usize, clears: bool) {
        if self.stored.contains_key(&topic) {
            return;
        }
        self.numbers += 1;
        let text = if clears {
            String::new()
        } else {
            self.numbers.to_string()
        };
        let message = Message {
            topic: TopicName::try_from(TOPICS[topic]).unwrap(),
            payload: Bytes::from(text),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: MessageProperties::default(),
        };
        let command = Command::SetRetained {
            client_id: ClientId::new("publisher").unwrap(),
            epoch: Some(Epoch(1)),
            message: message.clone(),
            limits: RetainedLimits {
                messages_max: 9,
                bytes_max: 1_000,
            },
        };
        let (answer, _) = apply(&mut self.topics, &mut self.index, &command);
        let Response::RetainedSet { version } = answer else {
            panic!("{answer:?}");
        };
        self.stored.insert(topic, (message, version));
    }

    fn subscribe(&mut self, filter: usize) {
        let filter = TopicFilter::try_from(FILTERS[filter]).unwrap();
        let subscription = Subscription {
            options: SubscriptionOptions::new(Qos::AtLeastOnce),
            identifier: None,
        };
        self.tell_session(&Command::Subscribe {
            client_id: subscriber(),
            epoch: Epoch(1),
            filters: vec![(filter.clone(), subscription)],
            reads_retained: true,
        });
        self.readings.push(Reading {
            filter,
            copies: None,
            is_over: false,
        });
    }

    fn read(&mut self, read: usize) {
        if let Some(reading) = self.readings.get_mut(read)
            && reading.copies.is_none()
        {
            let found = records::read_retained(&self.topics, &reading.filter, 1, u64::MAX);
            let copies = found.into_iter().map(|(_, retained)| copy(retained));
            reading.copies = Some(copies.collect());
        }
    }

    /// Only the last part of a read says that it was the last.
    fn hand_over(&mut self, read: usize, count: usize) {
        let Some(reading) = self.readings.get_mut(read).filter(|each| !each.is_over) else {
            return;
        };
        let Some(copies) = &mut reading.copies else {
            return;
        };
        let part: Vec<_> = copies.drain(..count.min(copies.len())).collect();
        let last = copies.is_empty();
        reading.is_over = last;
        self.tell_session(&Command::DeliverRetained {
            client_id: subscriber(),
            epoch: Epoch(1),
            copies: part,
            last,
        });
    }

    /// Everything gets where it belongs: the subscriber's last values are those that are stored.
    fn settle(&mut self) -> TestCaseResult {
        for topic in 0..TOPICS.len() {
            self.step(&Step::Match { topic });
        }
        for read in 0..self.readings.len() {
            self.read(read);
            self.hand_over(read, usize::MAX);
        }
        while !self.sent.is_empty() {
            self.step(&Step::Arrive);
        }
        for topic in TOPICS {
            let is_subscribed = |each: &Reading| each.filter.as_str() != "a" || topic == "a";
            if !self.readings.iter().any(is_subscribed) {
                continue;
            }
            let filter = TopicFilter::try_from(topic).unwrap();
            let stored = records::read_retained(&self.topics, &filter, 9, u64::MAX);
            let value = stored
                .first()
                .map(|(_, stored)| stored.message.payload.clone());
            let seen = self.seen.get(&TopicName::try_from(topic).unwrap());
            let seen = seen.cloned().unwrap_or_default();
            prop_assert_eq!(seen, value.unwrap_or_default(), "last value of {}", topic);
        }
        Ok(())
    }
}

fn copy(retained: naive_shard::Retained) -> RetainedCopy {
    RetainedCopy {
        message: retained.message,
        version: retained.version,
        qos: Qos::AtLeastOnce,
        identifier: None,
        expires_in_ms: None,
    }
}

#[test]
fn a_new_subscriber_never_ends_on_a_stale_value() {
    seeded::check(2_000, vec(step(), 1..80), |steps| {
        let mut race = Race::new();
        for step in &steps {
            race.step(step);
        }
        race.settle()
    });
}
