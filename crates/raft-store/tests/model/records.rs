//! State tables as a node writes them, and what must hold of them at any time.

use std::collections::BTreeMap;

use bytes::Bytes;
use codec::{ClientId, Timestamp, TopicFilter, TopicName};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::encoding::{decode_key, decode_record};
use raft_store::{Machine, ShardId, StateKey, StateRecord};
use session::{BodyRef, DeliveryParts, Session, SessionParts, StoredMessage};

use super::naive_session::has_passed;
use super::naive_shard::Retained;

/// The state tables.
pub(crate) type Store = BTreeMap<Vec<u8>, Vec<u8>>;
/// The same, decoded.
pub(crate) type Records = BTreeMap<StateKey, StateRecord>;
/// Records with the bodies that they name in place of the names.
pub(crate) type Substance = BTreeMap<StateKey, (StateRecord, Option<StoredMessage>)>;

/// Writes what changed as the node does.
pub(crate) fn save(machine: &mut Machine, store: &mut Store) {
    for (key, value) in machine.take_changes() {
        match value {
            Some(value) => store.insert(key, value),
            None => store.remove(&key),
        };
    }
}

/// Starts a replica from its tables.
pub(crate) fn load(shard: ShardId, store: &Store) -> Machine {
    let pairs = store.iter().map(|(key, value)| {
        (
            key.clone().into_boxed_slice(),
            value.clone().into_boxed_slice(),
        )
    });
    let pairs: Vec<_> = pairs.collect();
    Machine::load(shard, &mut pairs.into_iter()).unwrap()
}

pub(crate) fn decode(store: &Store) -> Records {
    let pairs = store.iter().map(|(key, value)| {
        let key = decode_key(key).unwrap();
        let record = decode_record(&key, Bytes::copy_from_slice(value)).unwrap();
        (key, record)
    });
    pairs.collect()
}

/// A body's content as it is stored, without its id.
pub(crate) fn content(records: &Records, id: u64) -> Option<StoredMessage> {
    match records.get(&StateKey::Body(id)) {
        Some(StateRecord::Body {
            message,
            expires_at,
            retained_version,
        }) => Some(StoredMessage {
            id: 0,
            message: message.clone(),
            expires_at: *expires_at,
            retained_version: *retained_version,
        }),
        _ => None,
    }
}

/// A retained message as the model has it.
pub(crate) fn retained_parts(stored: &StoredMessage) -> (TopicName, Retained) {
    let retained = Retained {
        message: stored.message.clone(),
        version: stored.retained_version.unwrap(),
        expires_at: stored.expires_at,
    };
    (stored.message.topic.clone(), retained)
}

/// All that is retained for a filter, read in pages.
pub(crate) fn read_retained(
    machine: &Machine,
    filter: &TopicFilter,
    max_items: usize,
    max_bytes: u64,
) -> Vec<(TopicName, Retained)> {
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = machine.retained(filter, after.as_ref(), max_items, max_bytes);
        assert!(page.messages.len() <= max_items);
        found.extend(page.messages.iter().map(|stored| retained_parts(stored)));
        after = page.continue_after;
        if after.is_none() {
            return found;
        }
    }
}

/// As the model says it: no counters, bodies by content.
pub(crate) fn substance(records: &Records, now: Timestamp) -> Substance {
    let mut substance = Substance::new();
    for (key, record) in records {
        if is_bookkeeping(key) || is_expired_retained(record, now) {
            continue;
        }
        let (mut record, mut body) = (record.clone(), None);
        match &mut record {
            StateRecord::Delivery(delivery) => {
                body = content(records, delivery.body);
                delivery.body = 0;
            }
            StateRecord::OutboxItem { body: id, .. } => {
                body = content(records, *id);
                *id = 0;
            }
            // What a dead life's stream was at says nothing any more.
            StateRecord::Node {
                down: true,
                last_sequence,
                ..
            } => *last_sequence = 0,
            _ => {}
        }
        substance.insert(key.clone(), (record, body));
    }
    substance
}

/// Says what is stored and should not be, and what is not.
pub(crate) fn check_equal(stored: &Substance, expected: &Substance) -> TestCaseResult {
    for key in stored.keys().chain(expected.keys()) {
        let (stored, expected) = (stored.get(key), expected.get(key));
        prop_assert_eq!(stored, expected, "{:?}", key);
    }
    Ok(())
}

fn is_bookkeeping(key: &StateKey) -> bool {
    matches!(
        key,
        StateKey::Counters | StateKey::Body(_) | StateKey::BodyIndex(_)
    )
}

/// May be there or not: nobody reads it any more.
fn is_expired_retained(record: &StateRecord, now: Timestamp) -> bool {
    matches!(record, StateRecord::Retained { expires_at, .. } if has_passed(*expires_at, now))
}

/// Each body is there while something refers to it, with the number of what does.
pub(crate) fn check_bodies(records: &Records) -> TestCaseResult {
    let (mut stored, mut referred) = (BTreeMap::new(), BTreeMap::new());
    let mut contents = 0;
    for (key, record) in records {
        match (key, record) {
            (StateKey::BodyIndex(id), StateRecord::BodyIndex { references, .. }) => {
                check_index(records, *id)?;
                stored.insert(*id, *references);
            }
            (StateKey::Body(_), _) => contents += 1,
            (_, StateRecord::Delivery(delivery)) if delivery.body != 0 => {
                *referred.entry(delivery.body).or_insert(0) += 1;
            }
            (_, StateRecord::OutboxItem { body, .. }) => {
                *referred.entry(*body).or_insert(0) += 1;
            }
            _ => {}
        }
    }
    prop_assert_eq!(contents, stored.len(), "contents of bodies");
    prop_assert_eq!(stored, referred, "references to bodies");
    Ok(())
}

/// What is kept in memory of a body says the same as its content.
fn check_index(records: &Records, id: u64) -> TestCaseResult {
    let Some(StateRecord::BodyIndex {
        size_bytes,
        expires_at,
        qos,
        retain,
        ..
    }) = records.get(&StateKey::BodyIndex(id))
    else {
        return Err(TestCaseError::fail("no index"));
    };
    let body = content(records, id);
    let Some(body) = body else {
        return Err(TestCaseError::fail(format!("body {id} has no content")));
    };
    prop_assert_eq!(*size_bytes as usize, body.message.size());
    prop_assert_eq!(*expires_at, body.expires_at);
    prop_assert_eq!((*qos, *retain), (body.message.qos, body.message.retain));
    Ok(())
}

/// Each hosted session keeps its own invariants.
pub(crate) fn check_sessions(records: &Records) -> TestCaseResult {
    for (key, record) in records {
        let (
            StateKey::Session(client_id),
            StateRecord::Session {
                hosted: Some(meta),
                holder,
                ..
            },
        ) = (key, record)
        else {
            continue;
        };
        let mut parts = SessionParts {
            meta: *meta,
            subscriptions: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            awaiting_pubrel: Default::default(),
        };
        for (key, record) in records {
            add_part(&mut parts, client_id, (key, record), records);
        }
        let session = Session::from_parts(parts)
            .map_err(|error| TestCaseError::fail(format!("session of {client_id}: {error}")))?;
        session.check_invariants().map_err(TestCaseError::fail)?;
        prop_assert_eq!(session.is_connected(), holder.is_some());
    }
    Ok(())
}

fn add_part(
    parts: &mut SessionParts,
    client_id: &ClientId,
    part: (&StateKey, &StateRecord),
    records: &Records,
) {
    match part {
        (StateKey::Subscription(of, filter), StateRecord::Subscription(subscription))
            if of == client_id =>
        {
            parts
                .subscriptions
                .insert(filter.clone(), subscription.clone());
        }
        (StateKey::Inbound(of), StateRecord::Inbound(ids)) if of == client_id => {
            parts.awaiting_pubrel = ids.iter().copied().collect();
        }
        (StateKey::Delivery(of, position), StateRecord::Delivery(record)) if of == client_id => {
            let parts_of_delivery = DeliveryParts {
                record: record.clone(),
                body: body_ref(records, record.body),
            };
            parts.deliveries.insert(*position, parts_of_delivery);
        }
        _ => {}
    }
}

fn body_ref(records: &Records, id: u64) -> Option<BodyRef> {
    match records.get(&StateKey::BodyIndex(id)) {
        Some(StateRecord::BodyIndex {
            size_bytes,
            expires_at,
            ..
        }) => Some(BodyRef {
            id,
            size_bytes: *size_bytes,
            expires_at: *expires_at,
        }),
        _ => None,
    }
}
