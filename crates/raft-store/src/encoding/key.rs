//! The keys of the state tables, byte by byte.
//!
//! The first byte is the kind. Kinds are ordered like the variants of [`StateKey`], with room for
//! kinds to come:
//!
//! | byte | kind | then |
//! |---|---|---|
//! | `10` | counters | nothing |
//! | `20` | node | node id: 2 bytes |
//! | `30` | taken | shard id: 2 bytes |
//! | `45` | body index | body id: 8 bytes |
//! | `50` | fence | client id, `00` |
//! | `60` | session | client id, `00` |
//! | `70` | inbound | client id, `00` |
//! | `80` | subscription | client id, `00`, topic filter to the end |
//! | `90` | delivery | client id, `00`, position: 8 bytes |
//! | `98` | retained read | client id, `00` |
//! | `A0` | outbox | target |
//! | `B0` | outbox item | target, number: 8 bytes |
//! | `C0` | will | epoch: 8 bytes |
//! | `D0` | retained | topic name to the end |
//! | `F0` | body | body id: 8 bytes |
//!
//! `40` was a body with its references. A target is `01` and a shard id of 2 bytes, or `02`, a node
//! id of 2 bytes and an incarnation of 8 bytes, or `03`. Numbers are big endian. Client ids, topics
//! and filters are UTF-8.
//!
//! Invariants: keys sort as [`StateKey`] does, and no client's keys of one kind lie between those
//! of another client, although one client id may begin with another: the `00` after a client id
//! is lower than every byte that can be in one [MQTT-1.5.4-2].

use bytes::Bytes;
use codec::{ClientId, TopicFilter, TopicName};

use super::EncodingError;
use super::field::{client_id_from_proto, text_error};
use crate::command::OutboxTarget;
use crate::ids::{Epoch, Incarnation, NodeId, ShardId};
use crate::state::StateKey;

const COUNTERS: u8 = 0x10;
const NODE: u8 = 0x20;
const TAKEN: u8 = 0x30;
const BODY_INDEX: u8 = 0x45;
const FENCE: u8 = 0x50;
const SESSION: u8 = 0x60;
const INBOUND: u8 = 0x70;
const SUBSCRIPTION: u8 = 0x80;
const DELIVERY: u8 = 0x90;
const RETAINED_READ: u8 = 0x98;
const OUTBOX: u8 = 0xA0;
const OUTBOX_ITEM: u8 = 0xB0;
const WILL: u8 = 0xC0;
const RETAINED: u8 = 0xD0;
const BODY: u8 = 0xF0;

const TARGET_SHARD: u8 = 0x01;
const TARGET_NODE: u8 = 0x02;
const TARGET_UNPLACED: u8 = 0x03;

/// Ends a client id, which has no such byte.
const END: u8 = 0x00;

/// Where the contents of bodies begin: every key from here on is one, and none before it. A load
/// passes them by.
pub const BODIES_FROM: [u8; 1] = [BODY];

/// The key of a body's content.
#[must_use]
pub fn body_key(id: u64) -> Vec<u8> {
    join(BODY, &[&id.to_be_bytes()])
}

/// The bytes of `key`. They sort as the keys themselves do.
#[must_use]
pub fn encode_key(key: &StateKey) -> Vec<u8> {
    match key {
        StateKey::Counters => vec![COUNTERS],
        StateKey::Node(node) => join(NODE, &[&node.0.to_be_bytes()]),
        StateKey::Taken(shard) => join(TAKEN, &[&shard.0.to_be_bytes()]),
        StateKey::BodyIndex(id) => join(BODY_INDEX, &[&id.to_be_bytes()]),
        StateKey::Fence(client_id) => client_key(FENCE, client_id, &[]),
        StateKey::Session(client_id) => client_key(SESSION, client_id, &[]),
        StateKey::Inbound(client_id) => client_key(INBOUND, client_id, &[]),
        StateKey::Subscription(client_id, filter) => {
            client_key(SUBSCRIPTION, client_id, filter.as_bytes())
        }
        StateKey::Delivery(client_id, position) => {
            client_key(DELIVERY, client_id, &position.to_be_bytes())
        }
        StateKey::Outbox(target) => target_key(OUTBOX, *target, &[]),
        StateKey::OutboxItem(target, number) => {
            target_key(OUTBOX_ITEM, *target, &number.to_be_bytes())
        }
        StateKey::RetainedRead(client_id) => client_key(RETAINED_READ, client_id, &[]),
        StateKey::Will(epoch) => join(WILL, &[&epoch.0.to_be_bytes()]),
        StateKey::Retained(topic) => join(RETAINED, &[topic.as_bytes()]),
        StateKey::Body(id) => body_key(*id),
    }
}

fn client_key(kind: u8, client_id: &ClientId, rest: &[u8]) -> Vec<u8> {
    join(kind, &[client_id.as_str().as_bytes(), &[END], rest])
}

fn target_key(kind: u8, target: OutboxTarget, rest: &[u8]) -> Vec<u8> {
    match target {
        OutboxTarget::Shard(shard) => join(kind, &[&[TARGET_SHARD], &shard.0.to_be_bytes(), rest]),
        OutboxTarget::Node(node, incarnation) => join(
            kind,
            &[
                &[TARGET_NODE],
                &node.0.to_be_bytes(),
                &incarnation.0.to_be_bytes(),
                rest,
            ],
        ),
        OutboxTarget::Unplaced => join(kind, &[&[TARGET_UNPLACED], rest]),
    }
}

/// `kind` and `parts` in one allocation of the exact size.
fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut key = Vec::with_capacity(length);
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Reads a key. Copies its texts.
///
/// # Errors
/// What is broken, or a kind that only newer versions know.
pub fn decode_key(bytes: &[u8]) -> Result<StateKey, EncodingError> {
    let mut rest = Rest(bytes);
    let key = match rest.u8("kind")? {
        COUNTERS => StateKey::Counters,
        NODE => StateKey::Node(NodeId(rest.u16("node id")?)),
        TAKEN => StateKey::Taken(ShardId(rest.u16("shard id")?)),
        BODY_INDEX => StateKey::BodyIndex(rest.u64("body id")?),
        FENCE => StateKey::Fence(rest.client_id()?),
        SESSION => StateKey::Session(rest.client_id()?),
        INBOUND => StateKey::Inbound(rest.client_id()?),
        SUBSCRIPTION => StateKey::Subscription(rest.client_id()?, rest.filter_to_end()?),
        DELIVERY => StateKey::Delivery(rest.client_id()?, rest.u64("position")?),
        OUTBOX => StateKey::Outbox(rest.target()?),
        OUTBOX_ITEM => StateKey::OutboxItem(rest.target()?, rest.u64("item number")?),
        RETAINED_READ => StateKey::RetainedRead(rest.client_id()?),
        WILL => StateKey::Will(Epoch(rest.u64("epoch")?)),
        RETAINED => StateKey::Retained(rest.topic_to_end()?),
        BODY => StateKey::Body(rest.u64("body id")?),
        kind => return Err(EncodingError::KeyKindUnknown { kind }),
    };
    rest.end()?;
    Ok(key)
}

/// What is left of a key, taken field by field.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], EncodingError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(EncodingError::KeyTruncated { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, EncodingError> {
        self.take(field).map(u8::from_be_bytes)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, EncodingError> {
        self.take(field).map(u16::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, EncodingError> {
        self.take(field).map(u64::from_be_bytes)
    }

    fn client_id(&mut self) -> Result<ClientId, EncodingError> {
        let truncated = EncodingError::KeyTruncated { field: "client id" };
        let mut parts = self.0.splitn(2, |byte| *byte == END);
        let (Some(client_id), Some(rest)) = (parts.next(), parts.next()) else {
            return Err(truncated);
        };
        self.0 = rest;
        client_id_from_proto("client id of the key", client_id)
    }

    fn filter_to_end(&mut self) -> Result<TopicFilter, EncodingError> {
        let filter = Bytes::copy_from_slice(std::mem::take(&mut self.0));
        TopicFilter::try_from(filter).map_err(text_error("filter of the key"))
    }

    fn topic_to_end(&mut self) -> Result<TopicName, EncodingError> {
        let topic = Bytes::copy_from_slice(std::mem::take(&mut self.0));
        TopicName::try_from(topic).map_err(text_error("topic of the key"))
    }

    fn target(&mut self) -> Result<OutboxTarget, EncodingError> {
        match self.u8("target")? {
            TARGET_SHARD => Ok(OutboxTarget::Shard(ShardId(self.u16("shard id")?))),
            TARGET_NODE => Ok(OutboxTarget::Node(
                NodeId(self.u16("node id")?),
                Incarnation(self.u64("incarnation")?),
            )),
            TARGET_UNPLACED => Ok(OutboxTarget::Unplaced),
            kind => Err(EncodingError::NumberInvalid {
                field: "target of the key",
                value: kind.into(),
            }),
        }
    }

    fn end(self) -> Result<(), EncodingError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(EncodingError::KeyTrailing { bytes }),
        }
    }
}
