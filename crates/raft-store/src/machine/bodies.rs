//! PURE. Message bodies: stored once whatever the fan-out, counted, and in memory only as long as
//! memory allows.
//!
//! Of each body the shard knows its references and what a session must know ([`BodyRef`]). Its
//! content is written to the tables once and may then be dropped from memory: whoever needs it
//! reads it from there. **Nothing that is replicated depends on whether a content is in memory**:
//! not an answer, not a record, not the digest; only an effect may carry a name instead.
//!
//! Invariants:
//! - Ids grow, so the bodies that the tables do not have yet are exactly those from `saved_below` on:
//!   what comes and goes between two saves is never looked at by one.
//! - A body from `saved_below` on has its content; below `resident_from` none has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::{Message, Qos, Timestamp};
use session::{Body, BodyRef, StoredMessage};

use super::Machine;
use crate::state::{StateKey, StateRecord};

/// What a content costs in memory besides `Message::size`: the counted structs and allocations.
const OVERHEAD_BYTES: u64 = 256;

/// All bodies of a shard.
#[derive(Debug)]
pub(super) struct Bodies {
    known: BTreeMap<u64, KnownBody>,
    /// The id that the next body gets.
    pub(super) next: u64,
    /// The tables have every body below, or know that it is gone.
    saved_below: u64,
    /// Every content below is on disk only.
    resident_from: u64,
    resident_bytes: u64,
    /// How many expire at some time. Derived from `known`.
    expiring: usize,
    /// Saved bodies whose references changed.
    changed: BTreeSet<u64>,
}

/// One body.
#[derive(Debug)]
pub(super) struct KnownBody {
    content: Option<Arc<StoredMessage>>,
    references: u64,
    pub(super) size_bytes: u32,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
}

/// A body that a command brings: kept if something takes it.
pub(super) struct NewBody {
    pub(super) stored: Arc<StoredMessage>,
    pub(super) reference: BodyRef,
}

/// Where the content of a body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyLookup {
    /// In memory.
    Here(Arc<StoredMessage>),
    /// In the tables, under [`crate::encoding::body_key`].
    Stored,
    /// Nothing refers to it any more.
    Gone,
}

impl KnownBody {
    pub(super) fn reference(&self, id: u64) -> BodyRef {
        BodyRef {
            id,
            size_bytes: self.size_bytes,
            expires_at: self.expires_at,
        }
    }

    fn resident_bytes(&self) -> u64 {
        u64::from(self.size_bytes).saturating_add(OVERHEAD_BYTES)
    }
}

impl Bodies {
    /// None yet; the first one gets the id `next`.
    pub(super) fn starting_at(next: u64) -> Self {
        Self {
            known: BTreeMap::new(),
            next,
            saved_below: next,
            resident_from: next,
            resident_bytes: 0,
            expiring: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Gives a message its id, with a first reference: that of the command which brought it.
    fn begin(
        &mut self,
        message: &Message,
        expires_at: Option<Timestamp>,
        retained_version: Option<u64>,
    ) -> NewBody {
        let id = self.next;
        self.next = id.saturating_add(1);
        // Detached, so that a queued message does not pin the whole entry it came in.
        let stored = Arc::new(StoredMessage {
            id,
            message: message.detached(),
            expires_at,
            retained_version,
        });
        let reference = stored.reference();
        let known = KnownBody {
            content: Some(Arc::clone(&stored)),
            references: 1,
            size_bytes: reference.size_bytes,
            expires_at,
            qos: message.qos,
            retain: message.retain,
        };
        self.resident_bytes = self.resident_bytes.saturating_add(known.resident_bytes());
        self.insert(id, known);
        NewBody { stored, reference }
    }

    /// One more refers to it.
    pub(super) fn retain(&mut self, id: u64) {
        if let Some(body) = self.known.get_mut(&id) {
            body.references = body.references.saturating_add(1);
            self.note_change(id);
        }
    }

    /// One less refers to it; with the last one it goes.
    pub(super) fn release(&mut self, id: u64) {
        let Some(body) = self.known.get_mut(&id) else {
            return;
        };
        body.references = body.references.saturating_sub(1);
        if body.references == 0 {
            self.remove(id);
        }
        self.note_change(id);
    }

    fn note_change(&mut self, id: u64) {
        if id < self.saved_below {
            self.changed.insert(id);
        }
    }

    fn insert(&mut self, id: u64, body: KnownBody) {
        let expires = usize::from(body.expires_at.is_some());
        self.expiring = self.expiring.saturating_add(expires);
        self.known.insert(id, body);
    }

    fn remove(&mut self, id: u64) {
        let Some(body) = self.known.remove(&id) else {
            return;
        };
        let expires = usize::from(body.expires_at.is_some());
        self.expiring = self.expiring.saturating_sub(expires);
        if body.content.is_some() {
            self.resident_bytes = self.resident_bytes.saturating_sub(body.resident_bytes());
        }
    }

    /// Whether any of them expires at some time.
    pub(super) fn has_expiring(&self) -> bool {
        self.expiring > 0
    }

    pub(super) fn get(&self, id: u64) -> Option<&KnownBody> {
        self.known.get(&id)
    }

    pub(super) fn reference(&self, id: u64) -> Option<BodyRef> {
        self.known.get(&id).map(|body| body.reference(id))
    }

    /// The same body with its content, if that is in memory.
    pub(super) fn resolve(&self, body: &mut Body) {
        let content = self
            .known
            .get(&body.id())
            .and_then(|known| known.content.as_ref());
        if let Some(content) = content {
            *body = Body::Here(Arc::clone(content));
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.known.keys().copied()
    }

    pub(super) fn index_record(&self, id: u64) -> Option<StateRecord> {
        self.known.get(&id).map(|body| StateRecord::BodyIndex {
            references: body.references,
            size_bytes: body.size_bytes,
            expires_at: body.expires_at,
            qos: body.qos,
            retain: body.retain,
        })
    }

    /// `None`: there is no such body, or its content is on disk only.
    pub(super) fn content_record(&self, id: u64) -> Option<StateRecord> {
        let stored = self.known.get(&id)?.content.as_ref()?;
        Some(StateRecord::Body {
            message: stored.message.clone(),
            expires_at: stored.expires_at,
            retained_version: stored.retained_version,
        })
    }

    /// The keys whose stored values are out of date; from now on they are not. A content is among
    /// them when it is new, and when it is gone.
    pub(super) fn take_changes(&mut self) -> Vec<StateKey> {
        let mut keys = Vec::new();
        for id in std::mem::take(&mut self.changed) {
            keys.push(StateKey::BodyIndex(id));
            if !self.known.contains_key(&id) {
                keys.push(StateKey::Body(id));
            }
        }
        for (&id, _) in self.known.range(self.saved_below..) {
            keys.push(StateKey::BodyIndex(id));
            keys.push(StateKey::Body(id));
        }
        self.saved_below = self.next;
        keys
    }

    /// Takes back what the tables say; the content stays there. In the order of ids.
    pub(super) fn restore(&mut self, id: u64, body: KnownBody) {
        self.insert(id, body);
    }

    fn evict(&mut self, resident_bytes_max: u64) {
        if self.resident_bytes <= resident_bytes_max {
            return;
        }
        for (&id, body) in self.known.range_mut(self.resident_from..self.saved_below) {
            if self.resident_bytes <= resident_bytes_max {
                return;
            }
            self.resident_from = id.saturating_add(1);
            if body.content.take().is_some() {
                let bytes = body.resident_bytes();
                self.resident_bytes = self.resident_bytes.saturating_sub(bytes);
            }
        }
    }
}

impl KnownBody {
    /// As the tables say, without content.
    pub(super) fn stored(
        references: u64,
        size_bytes: u32,
        expires_at: Option<Timestamp>,
        qos: Qos,
        retain: bool,
    ) -> Self {
        Self {
            content: None,
            references,
            size_bytes,
            expires_at,
            qos,
            retain,
        }
    }
}

impl Machine {
    /// Where the content of a body is.
    #[must_use]
    pub fn body(&self, id: u64) -> BodyLookup {
        match self.bodies.get(id) {
            None => BodyLookup::Gone,
            Some(body) => match &body.content {
                Some(content) => BodyLookup::Here(Arc::clone(content)),
                None => BodyLookup::Stored,
            },
        }
    }

    /// Drops contents from memory, oldest first, until at most this many bytes are left or only such
    /// that [`take_changes`](Self::take_changes) has not handed out. Call it only when everything
    /// that was handed out has been written. Changes nothing that is replicated. O(dropped).
    pub fn evict(&mut self, resident_bytes_max: u64) {
        self.bodies.evict(resident_bytes_max);
    }

    /// Bytes of message contents in memory; without retained messages and wills.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.bodies.resident_bytes
    }

    /// Gives a message its id; `finish_body` must follow, and forgets it again when nothing took it.
    pub(super) fn begin_body(
        &mut self,
        message: &Message,
        expires_at: Option<Timestamp>,
        retained_version: Option<u64>,
    ) -> NewBody {
        self.bodies.begin(message, expires_at, retained_version)
    }

    pub(super) fn finish_body(&mut self, body: &NewBody) {
        self.bodies.release(body.reference.id);
    }

    /// When a message that is accepted now expires [MQTT-3.3.2-5].
    pub(super) fn expiry_of(&self, message: &Message) -> Option<Timestamp> {
        let interval_s = message.properties.message_expiry_interval?;
        self.expiry_in(Some(u64::from(interval_s).saturating_mul(1000)))
    }

    /// When something expires that has this much left.
    pub(super) fn expiry_in(&self, left_ms: Option<u64>) -> Option<Timestamp> {
        let at = self.time.as_millis().saturating_add(left_ms?);
        Some(Timestamp::from_millis(at))
    }
}
