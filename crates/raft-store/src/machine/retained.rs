//! PURE. The retained messages of the topics of this shard, and what a session gets of them when it
//! subscribes.
//!
//! Each `SetRetained`, also one that clears a topic, gets a version from one counter of the shard, so
//! that all values that a topic ever had are in order, also across its clearing and expiry. Live
//! copies of a retained message carry its version. While retained messages are read for a session,
//! the session notes which versions it got live: a retained copy that is not newer is dropped, so
//! that the last value a new subscriber sees is never a stale one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::{ClientId, Message, Timestamp, TopicFilter, TopicName};
use router::RetainedTree;
use session::{Body, Delivery, DropCause, StoredMessage};

use super::Machine;
use super::publish::Offered;
use crate::command::{Effect, Refusal, Response, RetainedCopy, RetainedLimits};
use crate::ids::Epoch;
use crate::state::{StateKey, StateRecord};

/// Expired messages that one entry removes at most; bounds its work.
const PURGED_MAX: usize = 16;
/// Topics that a session notes during one read. With more, live copies of retained messages on
/// further topics count as if its queue were full.
const NOTES_MAX: usize = 65_536;

/// The retained messages of a shard.
#[derive(Debug, Default)]
pub(super) struct RetainedMessages {
    topics: RetainedTree<Arc<StoredMessage>>,
    /// Derived from `topics`.
    expiring: BTreeSet<(Timestamp, TopicName)>,
    bytes: u64,
}

/// What a session got while retained messages are read for it.
#[derive(Debug, Default)]
pub(super) struct RetainedRead {
    /// Reads under way.
    open: u32,
    /// Per topic the lowest version that may still be delivered.
    wanted_from: BTreeMap<TopicName, u64>,
}

/// A part of the retained messages that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedPage {
    /// Each has its version and when it expires; its id is 0.
    pub messages: Vec<Arc<StoredMessage>>,
    /// What the next page goes on behind; `None`: this was the last one. A page may be empty and yet
    /// not be the last.
    pub continue_after: Option<TopicName>,
}

fn size_bytes(message: &Message) -> u64 {
    u64::try_from(message.size()).unwrap_or(u64::MAX)
}

impl RetainedMessages {
    fn insert(&mut self, stored: Arc<StoredMessage>) {
        let topic = stored.message.topic.clone();
        self.bytes = self.bytes.saturating_add(size_bytes(&stored.message));
        if let Some(expires_at) = stored.expires_at {
            self.expiring.insert((expires_at, topic.clone()));
        }
        if let Some(replaced) = self.topics.insert(&topic, stored) {
            self.forget(&replaced);
        }
    }

    fn remove(&mut self, topic: &TopicName) -> bool {
        let removed = self.topics.remove(topic);
        if let Some(removed) = &removed {
            self.forget(removed);
        }
        removed.is_some()
    }

    /// Takes what is no longer among the topics out of the sums.
    fn forget(&mut self, gone: &StoredMessage) {
        self.bytes = self.bytes.saturating_sub(size_bytes(&gone.message));
        let Some(expires_at) = gone.expires_at else {
            return;
        };
        let topic = &gone.message.topic;
        let present = self.topics.get(topic);
        if present.is_none_or(|present| present.expires_at != gone.expires_at) {
            self.expiring.remove(&(expires_at, topic.clone()));
        }
    }

    /// Whether a message may be stored. What makes less of an excess is always welcome.
    fn has_room(&self, message: &Message, limits: RetainedLimits) -> bool {
        let replaced = self.topics.get(&message.topic);
        let before = replaced.map_or(0, |stored| size_bytes(&stored.message));
        let count = u64::try_from(self.topics.len()).unwrap_or(u64::MAX);
        let has_place = replaced.is_some() || count < limits.messages_max;
        let size = size_bytes(message);
        let bytes = self.bytes.saturating_sub(before).saturating_add(size);
        has_place && (bytes <= limits.bytes_max || size < before)
    }

    /// The message that expired longest ago.
    fn expired(&self, now: Timestamp) -> Option<TopicName> {
        let (expires_at, topic) = self.expiring.first()?;
        (*expires_at <= now).then(|| topic.clone())
    }

    /// Whether any of them expires at some time.
    pub(super) fn has_expiring(&self) -> bool {
        !self.expiring.is_empty()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &TopicName> {
        self.topics.iter().map(|(topic, _)| topic)
    }

    pub(super) fn record(&self, topic: &TopicName) -> Option<StateRecord> {
        self.topics.get(topic).map(|stored| StateRecord::Retained {
            message: stored.message.clone(),
            version: stored.retained_version.unwrap_or_default(),
            expires_at: stored.expires_at,
        })
    }

    pub(super) fn restore(
        &mut self,
        message: Message,
        version: u64,
        expires_at: Option<Timestamp>,
    ) {
        self.insert(Arc::new(StoredMessage {
            id: 0,
            message,
            expires_at,
            retained_version: Some(version),
        }));
    }
}

impl RetainedRead {
    pub(super) fn restore(open: u32, wanted_from: Vec<(TopicName, u64)>) -> Self {
        Self {
            open,
            wanted_from: wanted_from.into_iter().collect(),
        }
    }

    pub(super) fn record(&self) -> StateRecord {
        StateRecord::RetainedRead {
            open: self.open,
            wanted_from: self
                .wanted_from
                .iter()
                .map(|(topic, version)| (topic.clone(), *version))
                .collect(),
        }
    }

    fn note(&mut self, topic: &TopicName, wanted_from: u64) {
        if let Some(noted) = self.wanted_from.get_mut(topic) {
            *noted = wanted_from.max(*noted);
        } else {
            self.wanted_from.insert(topic.detached(), wanted_from);
        }
    }
}

impl Machine {
    /// Stores, replaces or clears a topic's retained message [MQTT-3.3.1-5] [MQTT-3.3.1-6].
    pub(super) fn set_retained(
        &mut self,
        client_id: &ClientId,
        epoch: Option<Epoch>,
        message: &Message,
        limits: RetainedLimits,
    ) -> Response {
        if epoch.is_some_and(|epoch| self.is_stale_publisher(client_id, epoch)) {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let clears = message.payload.is_empty();
        if !clears && !self.retained.has_room(message, limits) {
            return Response::RetainedFull;
        }
        let version = self.next_version;
        self.next_version = version.saturating_add(1);
        let topic = message.topic.detached();
        if clears {
            self.retained.remove(&topic);
        } else {
            self.retained.insert(Arc::new(StoredMessage {
                id: 0,
                message: message.detached(),
                expires_at: self.expiry_of(message),
                retained_version: Some(version),
            }));
        }
        self.changes.insert(StateKey::Retained(topic));
        Response::RetainedSet { version }
    }

    /// Removes what expired longest ago; part of every entry, so that nobody has to ask for it.
    pub(super) fn purge_retained(&mut self) {
        for _ in 0..PURGED_MAX {
            let Some(topic) = self.retained.expired(self.time) else {
                return;
            };
            self.retained.remove(&topic);
            self.changes.insert(StateKey::Retained(topic));
        }
    }

    /// One page of the retained messages that match a filter, in the order of their topics, at most
    /// `max_items` and about `max_bytes`; those that have expired are passed by.
    #[must_use]
    pub fn retained(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        max_items: usize,
        max_bytes: u64,
    ) -> RetainedPage {
        let page = self.retained.topics.matching(filter, after, max_items);
        let mut messages = Vec::new();
        let mut bytes = 0_u64;
        for (topic, stored) in page.found {
            messages.extend(self.visible(stored).cloned());
            bytes = bytes.saturating_add(size_bytes(&stored.message));
            if bytes >= max_bytes {
                return RetainedPage {
                    messages,
                    continue_after: Some(topic.clone()),
                };
            }
        }
        RetainedPage {
            messages,
            continue_after: page.continue_after.cloned(),
        }
    }

    fn visible<'a>(&self, stored: &'a Arc<StoredMessage>) -> Option<&'a Arc<StoredMessage>> {
        let expired = stored.expires_at.is_some_and(|at| at <= self.time);
        (!expired).then_some(stored)
    }

    /// Topics with a retained message.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.topics.len()
    }

    /// Bytes (`Message::size`) of the retained messages.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.retained.bytes
    }

    /// A read begins with the subscription that it is for.
    pub(super) fn begin_retained_read(&mut self, client_id: &ClientId) {
        let read = self.reads.entry(client_id.clone()).or_default();
        read.open = read.open.saturating_add(1);
        self.changes
            .insert(StateKey::RetainedRead(client_id.clone()));
    }

    /// With its connection its reads are over.
    pub(super) fn end_retained_reads(&mut self, client_id: &ClientId) {
        if self.reads.remove(client_id).is_some() {
            self.changes
                .insert(StateKey::RetainedRead(client_id.clone()));
        }
    }

    /// Whether a live copy of a retained message can be noted, if it must be.
    pub(super) fn can_note(&self, client_id: &ClientId, topic: &TopicName) -> bool {
        self.reads.get(client_id).is_none_or(|read| {
            read.wanted_from.len() < NOTES_MAX || read.wanted_from.contains_key(topic)
        })
    }

    /// The session took a live copy: of its topic only newer versions may follow.
    pub(super) fn note_live_copy(&mut self, client_id: &ClientId, topic: &TopicName, version: u64) {
        if let Some(read) = self.reads.get_mut(client_id) {
            read.note(topic, version.saturating_add(1));
            self.changes
                .insert(StateKey::RetainedRead(client_id.clone()));
        }
    }

    /// Retained messages for a new subscription [MQTT-3.3.1-9]: sent with RETAIN 1, each once, and
    /// only if the session got nothing newer on the topic meanwhile.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field of the command"
    )]
    pub(super) fn deliver_retained(
        &mut self,
        client_id: &ClientId,
        epoch: Epoch,
        copies: Vec<RetainedCopy>,
        last: bool,
        effects: &mut Vec<Effect>,
    ) -> Response {
        if self.current_session(client_id, epoch).is_none() {
            return Response::Refused(Refusal::StaleEpoch);
        }
        let mut dropped = 0_u32;
        for copy in copies {
            if !self.deliver_retained_copy(client_id, copy, effects) {
                dropped = dropped.saturating_add(1);
            }
        }
        if last && let Some(read) = self.reads.get_mut(client_id) {
            read.open = read.open.saturating_sub(1);
            if read.open == 0 {
                self.reads.remove(client_id);
            }
            self.changes
                .insert(StateKey::RetainedRead(client_id.clone()));
        }
        Response::RetainedDelivered { dropped }
    }

    /// False: the queue had no room.
    fn deliver_retained_copy(
        &mut self,
        client_id: &ClientId,
        copy: RetainedCopy,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let topic = &copy.message.topic;
        let read = self.reads.get(client_id);
        let wanted_from = read.and_then(|read| read.wanted_from.get(topic));
        if wanted_from.is_some_and(|from| copy.version < *from) {
            return true;
        }
        let expires_at = self.expiry_in(copy.expires_in_ms);
        let body = self.begin_body(&copy.message, expires_at, Some(copy.version));
        let delivery = Delivery {
            body: Body::Stored(body.reference),
            qos: copy.qos,
            retain: true,
            identifiers: copy.identifier.into_iter().collect(),
            share: None,
        };
        let offered = self.offer(client_id, delivery, true, effects);
        self.finish_body(&body);
        match offered {
            Offered::Taken => {
                self.note_retained_copy(client_id, topic, copy.version);
                true
            }
            Offered::Dropped | Offered::NoSession => true,
            Offered::Full => {
                let cause = DropCause::QueueFullNewest;
                effects.push(Effect::Dropped { cause });
                false
            }
        }
    }

    /// Of two reads under way the later one may have seen a newer version, and come first. The same
    /// version goes to both: each subscription gets its own copy.
    fn note_retained_copy(&mut self, client_id: &ClientId, topic: &TopicName, version: u64) {
        if let Some(read) = self.reads.get_mut(client_id)
            && read.open > 1
            && read.wanted_from.len() < NOTES_MAX
        {
            read.note(topic, version);
            self.changes
                .insert(StateKey::RetainedRead(client_id.clone()));
        }
    }
}
