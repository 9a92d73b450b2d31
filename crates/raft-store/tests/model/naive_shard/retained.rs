//! Retained messages, and reading them for new subscriptions.

use std::collections::BTreeMap;

use codec::{ClientId, Message, Timestamp, TopicFilter, TopicName};
use raft_store::{Effect, Epoch, Response, RetainedCopy, RetainedLimits};
use session::{Body, Delivery, DropCause};

use super::super::naive_session::{Copy, has_passed};
use super::messages::matches;
use super::{NaiveShard, stale};

/// What is retained under a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retained {
    pub(crate) message: Message,
    pub(crate) version: u64,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Reads under way for one session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(super) open: u32,
    /// Per topic, the lowest version that may still be delivered.
    pub(super) wanted_from: BTreeMap<TopicName, u64>,
}

impl Read {
    fn note(&mut self, topic: &TopicName, wanted_from: u64) {
        let noted = self.wanted_from.entry(topic.clone()).or_insert(0);
        *noted = wanted_from.max(*noted);
    }
}

impl NaiveShard {
    /// [MQTT-3.3.1-5] [MQTT-3.3.1-6]
    pub(super) fn set_retained(
        &mut self,
        client_id: &ClientId,
        epoch: Option<Epoch>,
        message: Message,
        limits: RetainedLimits,
    ) -> Response {
        if epoch.is_some_and(|epoch| self.is_stale_publisher(client_id, epoch)) {
            return stale();
        }
        let topic = message.topic.clone();
        if message.payload.is_empty() {
            self.retained.remove(&topic);
        } else {
            // What expired may count or not.
            let is_full = match [true, false].map(|kept| self.is_full(&message, limits, kept)) {
                [true, true] => true,
                [false, false] => false,
                [_, _] => self.hint == Some(Response::RetainedFull),
            };
            if is_full {
                return Response::RetainedFull;
            }
        }
        self.versions += 1;
        let version = self.versions;
        if !message.payload.is_empty() {
            let expires_at = self.expires_at(&message, None);
            let retained = Retained {
                message,
                version,
                expires_at,
            };
            self.retained.insert(topic, retained);
        }
        Response::RetainedSet { version }
    }

    /// Whether a message is too much; what takes nothing more than before is always welcome.
    /// `with_expired`: what expired is still there.
    fn is_full(&self, message: &Message, limits: RetainedLimits, with_expired: bool) -> bool {
        let kept = self
            .retained
            .iter()
            .filter(|(_, retained)| with_expired || !has_passed(retained.expires_at, self.time));
        let (mut messages, mut bytes, mut before) = (1, message.size() as u64, None);
        for (topic, retained) in kept {
            let size = retained.message.size() as u64;
            if *topic == message.topic {
                before = Some(size);
            } else {
                (messages, bytes) = (messages + 1, bytes + size);
            }
        }
        let has_place = before.is_some() || messages <= limits.messages_max;
        let is_less = before.is_some_and(|before| (message.size() as u64) < before);
        !has_place || (bytes > limits.bytes_max && !is_less)
    }

    /// What expired may be gone or not; `is_kept` says which.
    pub(crate) fn forget_expired(&mut self, is_kept: impl Fn(&TopicName) -> bool) {
        let now = self.time;
        self.retained
            .retain(|topic, retained| !has_passed(retained.expires_at, now) || is_kept(topic));
    }

    /// What a new subscription gets, in the order of topics.
    pub(crate) fn read_retained(&self, filter: &TopicFilter) -> Vec<(TopicName, Retained)> {
        let matching = self.retained.iter().filter(|(topic, retained)| {
            matches(filter.as_str(), topic.as_str()) && !has_passed(retained.expires_at, self.time)
        });
        matching
            .map(|(topic, retained)| (topic.clone(), retained.clone()))
            .collect()
    }

    pub(super) fn begin_read(&mut self, client_id: &ClientId) {
        let client = self.clients.get_mut(client_id).unwrap();
        client.read.get_or_insert_default().open += 1;
    }

    /// The session got a live copy of a retained publish.
    pub(super) fn note_live(&mut self, client_id: &ClientId, topic: &TopicName, version: u64) {
        let client = self.clients.get_mut(client_id).unwrap();
        if let Some(read) = &mut client.read {
            read.note(topic, version + 1);
        }
    }

    /// Another read may still have an older version on its way.
    fn note_read(&mut self, client_id: &ClientId, topic: &TopicName, version: u64) {
        let read = &mut self.clients.get_mut(client_id).unwrap().read;
        if let Some(read) = read.as_mut().filter(|read| read.open > 1) {
            read.note(topic, version);
        }
    }

    /// What was read, but for what is older than a live copy: nobody ends on a stale value.
    pub(super) fn deliver_retained(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        copies: Vec<RetainedCopy>,
        last: bool,
    ) -> Response {
        if self.open_session(client_id, epoch).is_none() {
            return stale();
        }
        let mut dropped = 0;
        for copy in copies {
            let RetainedCopy {
                message,
                version,
                qos,
                identifier,
                expires_in_ms,
            } = copy;
            let read = &self.clients[client_id].read;
            let noted = read
                .iter()
                .filter_map(|read| read.wanted_from.get(&message.topic));
            if noted.into_iter().any(|wanted_from| version < *wanted_from) {
                self.outdated += 1;
                continue;
            }
            let topic = message.topic.clone();
            let delivery = Delivery {
                body: Body::Here(self.body(message, expires_in_ms, Some(version))),
                qos,
                retain: true,
                identifiers: identifier.into_iter().collect(),
                share: None,
            };
            match self.offer(client_id, delivery) {
                Copy::Taken => self.note_read(client_id, &topic, version),
                Copy::Expired => {}
                Copy::Lost | Copy::Rejected => {
                    dropped += 1;
                    self.effects.push(Effect::Dropped {
                        cause: DropCause::QueueFullNewest,
                    });
                }
            }
        }
        let client = self.clients.get_mut(client_id).unwrap();
        if let Some(read) = client.read.as_mut().filter(|_| last) {
            read.open -= 1;
            if read.open == 0 {
                client.read = None;
            }
        }
        Response::RetainedDelivered { dropped }
    }
}
