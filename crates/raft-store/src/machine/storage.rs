//! PURE. A shard's state as keys and records: what changed, everything for a digest, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use codec::{ClientId, TopicFilter};
use session::{
    BodyRef, DeliveryParts, DeliveryRecord, PartsError, Session, SessionMeta, SessionParts,
    Subscription,
};

use super::bodies::{Bodies, KnownBody};
use super::handover::TakenFrom;
use super::outbox::Item;
use super::retained::RetainedRead;
use super::routes::Change;
use super::{Machine, NodeRecord, SessionRecord};
use crate::encoding::{
    BODIES_FROM, EncodingError, decode_key, decode_record, encode_key, encode_record,
};
use crate::ids::ShardId;
use crate::state::{StateKey, StateRecord};

/// Why stored state is no shard. The replica must not serve from it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Bytes that are no key or record.
    #[error("state of shard {shard}: {source}")]
    Encoding {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        source: EncodingError,
    },
    /// The parts of a session contradict each other.
    #[error("state of shard {shard}: session {client_id}: {source}")]
    Session {
        /// The shard.
        shard: ShardId,
        /// Whose.
        client_id: ClientId,
        /// What is wrong.
        source: PartsError,
    },
    /// A record refers to something that is not there.
    #[error("state of shard {shard}: {what} is missing")]
    Missing {
        /// The shard.
        shard: ShardId,
        /// What.
        what: &'static str,
    },
}

/// Parts of the sessions while they come in.
#[derive(Default)]
struct Incoming {
    metas: BTreeMap<ClientId, SessionMeta>,
    subscriptions: BTreeMap<ClientId, BTreeMap<TopicFilter, Subscription>>,
    deliveries: BTreeMap<ClientId, BTreeMap<u64, DeliveryRecord>>,
    inbound: BTreeMap<ClientId, BTreeSet<codec::PacketId>>,
}

impl SessionRecord {
    /// Positions of deliveries that the tables never had.
    fn unsaved(&self) -> impl Iterator<Item = u64> {
        let session = self.session.as_deref();
        session
            .into_iter()
            .flat_map(|session| session.delivery_positions_from(self.unsaved_from))
    }

    /// The tables have everything up to now.
    fn note_saved(&mut self) {
        self.is_changed = false;
        if let Some(session) = &self.session {
            self.unsaved_from = session.meta().next_position;
        }
    }
}

impl Machine {
    /// Keys changed since the last call, each with its encoded value or `None` when it is gone.
    pub fn take_changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let bodies = self.bodies.take_changes();
        let changes = std::mem::take(&mut self.changes);
        let mut deliveries = Vec::new();
        for key in &changes {
            if let StateKey::Session(client_id) = key
                && let Some(record) = self.sessions.get_mut(client_id)
            {
                let key = |position| StateKey::Delivery(client_id.clone(), position);
                deliveries.extend(record.unsaved().map(key));
                record.note_saved();
            } else if let StateKey::Outbox(target) = key {
                self.outbox.note_saved(*target);
            }
        }
        changes
            .iter()
            .chain(&deliveries)
            .chain(&bodies)
            .map(|key| {
                (
                    encode_key(key),
                    self.record(key).map(|record| encode_record(&record)),
                )
            })
            .collect()
    }

    /// Builds a shard from its stored pairs, in key order. The contents of bodies
    /// ([`crate::encoding::BODIES_FROM`]) may be left out: they are passed by.
    ///
    /// # Errors
    /// The pairs are damaged or contradict each other.
    pub fn load(
        shard: ShardId,
        entries: &mut dyn Iterator<Item = (Box<[u8]>, Box<[u8]>)>,
    ) -> Result<Self, StateError> {
        let mut machine = Self::new(shard);
        let mut incoming = Incoming::default();
        for (key, value) in entries {
            let encoding = |source| StateError::Encoding { shard, source };
            if key.first() == BODIES_FROM.first() {
                continue;
            }
            let key = decode_key(&key).map_err(encoding)?;
            let record = decode_record(&key, Bytes::from(value)).map_err(encoding)?;
            machine.restore(key, record, &mut incoming)?;
        }
        machine.restore_sessions(incoming)?;
        machine.boot_effects = machine.all_routes(Change::Added);
        Ok(machine)
    }

    /// The record under a key, `None` when there is none.
    pub(crate) fn record(&self, key: &StateKey) -> Option<StateRecord> {
        match key {
            StateKey::Counters => Some(StateRecord::Counters {
                time: self.time,
                next_epoch: self.next_epoch,
                next_body: self.bodies.next,
                next_version: self.next_version,
                next_turn: self.next_turn,
            }),
            StateKey::Node(node) => self.nodes.get(node).map(|record| StateRecord::Node {
                incarnation: record.incarnation,
                down: record.down,
                last_sequence: record.last_sequence,
                answers: Arc::clone(&record.answers),
            }),
            StateKey::Taken(source) => self.taken.get(source).map(|taken| StateRecord::Taken {
                upto: taken.upto,
                refused: taken.refused.iter().copied().collect(),
            }),
            StateKey::BodyIndex(id) => self.bodies.index_record(*id),
            StateKey::Body(id) => self.bodies.content_record(*id),
            StateKey::Fence(client_id) => self
                .fences
                .get(client_id)
                .map(|epoch| StateRecord::Fence { epoch: *epoch }),
            StateKey::Session(client_id) => {
                self.sessions
                    .get(client_id)
                    .map(|record| StateRecord::Session {
                        epoch: record.epoch,
                        holder: record.holder,
                        formers: record.formers.clone(),
                        hosted: record.session.as_ref().map(|session| session.meta()),
                        owner: record.owner.clone(),
                    })
            }
            StateKey::Inbound(client_id) => self.session(client_id).and_then(|session| {
                let ids: Vec<_> = session.awaiting_pubrel().collect();
                (!ids.is_empty()).then_some(StateRecord::Inbound(ids))
            }),
            StateKey::Subscription(client_id, filter) => self
                .session(client_id)
                .and_then(|session| session.subscription(filter))
                .map(|subscription| StateRecord::Subscription(subscription.clone())),
            StateKey::Delivery(client_id, position) => self
                .session(client_id)
                .and_then(|session| session.delivery_record(*position))
                .map(StateRecord::Delivery),
            StateKey::Outbox(target) => {
                self.outbox
                    .target(*target)
                    .map(|queue| StateRecord::Outbox {
                        next_number: queue.next_number,
                    })
            }
            StateKey::OutboxItem(target, number) => {
                let item = self.outbox.item(*target, *number)?;
                Some(StateRecord::OutboxItem {
                    publisher: item.publisher.clone(),
                    body: item.body,
                    share: item.share.as_deref().cloned(),
                })
            }
            StateKey::RetainedRead(client_id) => {
                self.reads.get(client_id).map(RetainedRead::record)
            }
            StateKey::Will(epoch) => self.wills.record(*epoch),
            StateKey::Retained(topic) => self.retained.record(topic),
        }
    }

    /// Every key of the state but the contents of bodies, in order.
    pub(crate) fn keys(&self) -> BTreeSet<StateKey> {
        let mut keys = BTreeSet::from([StateKey::Counters]);
        keys.extend(self.nodes.keys().map(|node| StateKey::Node(*node)));
        keys.extend(self.taken.keys().map(|source| StateKey::Taken(*source)));
        keys.extend(self.bodies.ids().map(StateKey::BodyIndex));
        keys.extend(self.wills.epochs().map(StateKey::Will));
        keys.extend(self.retained.topics().cloned().map(StateKey::Retained));
        keys.extend(self.reads.keys().cloned().map(StateKey::RetainedRead));
        keys.extend(
            self.fences
                .keys()
                .map(|client_id| StateKey::Fence(client_id.clone())),
        );
        for (client_id, record) in &self.sessions {
            keys.insert(StateKey::Session(client_id.clone()));
            let Some(session) = &record.session else {
                continue;
            };
            keys.insert(StateKey::Inbound(client_id.clone()));
            for (filter, _) in session.subscriptions() {
                keys.insert(StateKey::Subscription(client_id.clone(), filter.clone()));
            }
            for position in session.parts().deliveries.into_keys() {
                keys.insert(StateKey::Delivery(client_id.clone(), position));
            }
        }
        for (target, queue) in self.outbox.targets() {
            keys.insert(StateKey::Outbox(*target));
            keys.extend(
                queue
                    .items
                    .keys()
                    .map(|number| StateKey::OutboxItem(*target, *number)),
            );
        }
        keys
    }

    pub(super) fn session(&self, client_id: &ClientId) -> Option<&Session> {
        self.sessions.get(client_id)?.session.as_deref()
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm per kind of record, without branches"
    )]
    fn restore(
        &mut self,
        key: StateKey,
        record: StateRecord,
        incoming: &mut Incoming,
    ) -> Result<(), StateError> {
        match (key, record) {
            (
                StateKey::Counters,
                StateRecord::Counters {
                    time,
                    next_epoch,
                    next_body,
                    next_version,
                    next_turn,
                },
            ) => {
                self.time = time;
                self.next_epoch = next_epoch;
                self.bodies = Bodies::starting_at(next_body);
                self.next_version = next_version;
                self.next_turn = next_turn;
            }
            (
                StateKey::Node(node),
                StateRecord::Node {
                    incarnation,
                    down,
                    last_sequence,
                    answers,
                },
            ) => {
                self.nodes.insert(
                    node,
                    NodeRecord {
                        incarnation,
                        down,
                        last_sequence,
                        answers,
                    },
                );
            }
            (StateKey::Taken(source), StateRecord::Taken { upto, refused }) => {
                let refused = refused.into_iter().collect();
                self.taken.insert(source, TakenFrom { upto, refused });
            }
            (
                StateKey::BodyIndex(id),
                StateRecord::BodyIndex {
                    references,
                    size_bytes,
                    expires_at,
                    qos,
                    retain,
                },
            ) => {
                if id >= self.bodies.next {
                    return Err(self.missing("the counter that a body's id came from"));
                }
                let body = KnownBody::stored(references, size_bytes, expires_at, qos, retain);
                self.bodies.restore(id, body);
            }
            (StateKey::Fence(client_id), StateRecord::Fence { epoch }) => {
                self.fences.insert(client_id, epoch);
            }
            (
                StateKey::Session(client_id),
                StateRecord::Session {
                    epoch,
                    holder,
                    formers,
                    hosted,
                    owner,
                },
            ) => {
                if let Some(meta) = hosted {
                    incoming.metas.insert(client_id.clone(), meta);
                }
                let connections = formers.iter().map(|(_, holder)| holder).chain(&holder);
                for held in connections {
                    self.held
                        .insert((held.node, held.incarnation, client_id.clone()));
                }
                let record = SessionRecord {
                    epoch,
                    holder,
                    formers,
                    owner,
                    session: None,
                    unsaved_from: u64::MAX,
                    is_changed: false,
                };
                self.sessions.insert(client_id, record);
            }
            (StateKey::Inbound(client_id), StateRecord::Inbound(ids)) => {
                incoming
                    .inbound
                    .insert(client_id, ids.into_iter().collect());
            }
            (
                StateKey::Subscription(client_id, filter),
                StateRecord::Subscription(subscription),
            ) => {
                incoming
                    .subscriptions
                    .entry(client_id)
                    .or_default()
                    .insert(filter, subscription);
            }
            (StateKey::Delivery(client_id, position), StateRecord::Delivery(delivery)) => {
                incoming
                    .deliveries
                    .entry(client_id)
                    .or_default()
                    .insert(position, delivery);
            }
            (StateKey::Outbox(target), StateRecord::Outbox { next_number }) => {
                self.outbox.restore_target(target, next_number);
            }
            (
                StateKey::OutboxItem(target, number),
                StateRecord::OutboxItem {
                    publisher,
                    body,
                    share,
                },
            ) => {
                let item = Item {
                    publisher,
                    body,
                    size_bytes: self.body_reference(body)?.size_bytes,
                    share: share.map(Arc::new),
                };
                if !self.outbox.restore_item(target, number, item) {
                    return Err(self.missing("the outbox target of an item"));
                }
            }
            (
                StateKey::RetainedRead(client_id),
                StateRecord::RetainedRead { open, wanted_from },
            ) => {
                let read = RetainedRead::restore(open, wanted_from);
                self.reads.insert(client_id, read);
            }
            (
                StateKey::Will(epoch),
                StateRecord::Will {
                    client_id,
                    will,
                    due,
                },
            ) => self.wills.restore(epoch, client_id, will, due),
            (
                StateKey::Retained(_),
                StateRecord::Retained {
                    message,
                    version,
                    expires_at,
                },
            ) => self.retained.restore(message, version, expires_at),
            // `decode_record` gives the record that the key asks for.
            _ => return Err(self.missing("the record that a key names")),
        }
        Ok(())
    }

    fn restore_sessions(&mut self, mut incoming: Incoming) -> Result<(), StateError> {
        for (client_id, meta) in std::mem::take(&mut incoming.metas) {
            let mut deliveries = BTreeMap::new();
            for (position, record) in incoming.deliveries.remove(&client_id).unwrap_or_default() {
                let body = if record.body == 0 {
                    None
                } else {
                    Some(self.body_reference(record.body)?)
                };
                deliveries.insert(position, DeliveryParts { record, body });
            }
            let parts = SessionParts {
                meta,
                subscriptions: incoming
                    .subscriptions
                    .remove(&client_id)
                    .unwrap_or_default(),
                deliveries,
                awaiting_pubrel: incoming.inbound.remove(&client_id).unwrap_or_default(),
            };
            let session = Session::from_parts(parts).map_err(|source| StateError::Session {
                shard: self.shard,
                client_id: client_id.clone(),
                source,
            })?;
            self.index_session(&client_id, session);
        }
        let orphan = !incoming.deliveries.is_empty() || !incoming.subscriptions.is_empty();
        if orphan {
            Err(self.missing("the session of a delivery or subscription"))
        } else {
            Ok(())
        }
    }

    /// Puts a restored session in its place and into the derived indexes.
    fn index_session(&mut self, client_id: &ClientId, session: Session) {
        let connected = session.is_connected();
        for (filter, subscription) in session.subscriptions() {
            self.index_subscription(client_id, filter, subscription, connected);
        }
        if let Some(deadline) = session.next_deadline() {
            self.deadlines.insert((deadline, client_id.clone()));
        }
        if let Some(record) = self.sessions.get_mut(client_id) {
            record.session = Some(Box::new(session));
            record.note_saved();
        }
    }

    fn body_reference(&self, id: u64) -> Result<BodyRef, StateError> {
        let body = self.bodies.reference(id);
        body.ok_or_else(|| self.missing("a message body"))
    }

    fn missing(&self, what: &'static str) -> StateError {
        StateError::Missing {
            shard: self.shard,
            what,
        }
    }
}
