//! The values of the state tables. A value does not say what it is: its key does.

use bytes::Bytes;
use codec::{PacketId, Timestamp, TopicFilter, TopicName};
use prost::Message;
use session::StoredMessage;

use super::answers::{responses_from_proto, responses_to_proto};
use super::field::{
    client_id_from_proto, client_id_to_proto, holder_from_proto, holder_to_proto, invalid,
    owner_from_proto, packet_id_from_proto, present,
};
use super::message::{
    filter_from_proto, message_from_proto, message_to_proto, qos_from_proto, topic_from_proto,
    will_from_proto, will_to_proto,
};
use super::session_parts::{
    delivery_record_from_proto, delivery_record_to_proto, meta_from_proto, meta_to_proto,
    subscription_from_proto, subscription_to_proto,
};
use super::{EncodingError, from_bytes, proto};
use crate::ids::{Epoch, Holder, Incarnation};
use crate::state::{StateKey, StateRecord};

/// `record` as bytes, in one allocation of the exact size. A delivery names its body by its id.
#[must_use]
#[expect(
    clippy::too_many_lines,
    reason = "one arm per kind of record, without branches"
)]
pub fn encode_record(record: &StateRecord) -> Vec<u8> {
    match record {
        StateRecord::Counters {
            time,
            next_epoch,
            next_body,
            next_version,
            next_turn,
        } => proto::CountersRecord {
            time_ms: time.as_millis(),
            next_epoch: *next_epoch,
            next_body: *next_body,
            next_version: *next_version,
            next_turn: *next_turn,
        }
        .encode_to_vec(),
        StateRecord::Node {
            incarnation,
            down,
            last_sequence,
            answers,
        } => proto::NodeRecord {
            incarnation: incarnation.0,
            down: *down,
            last_sequence: *last_sequence,
            answers: responses_to_proto(answers),
        }
        .encode_to_vec(),
        StateRecord::Taken { upto, refused } => proto::TakenRecord {
            upto: *upto,
            refused: refused.clone(),
        }
        .encode_to_vec(),
        StateRecord::BodyIndex {
            references,
            size_bytes,
            expires_at,
            qos,
            retain,
        } => proto::BodyIndexRecord {
            references: *references,
            size_bytes: *size_bytes,
            expires_at_ms: expires_at.map(Timestamp::as_millis),
            qos: qos.as_u8().into(),
            retain: *retain,
        }
        .encode_to_vec(),
        StateRecord::Fence { epoch } => proto::FenceRecord { epoch: epoch.0 }.encode_to_vec(),
        StateRecord::Session {
            epoch,
            holder,
            formers,
            hosted,
            owner,
        } => proto::SessionRecord {
            epoch: epoch.0,
            holder: holder.map(holder_to_proto),
            formers: formers.iter().copied().map(former_to_proto).collect(),
            hosted: hosted.as_ref().map(meta_to_proto),
            owner: owner.as_ref().map(codec::Utf8::to_bytes),
        }
        .encode_to_vec(),
        StateRecord::Inbound(packet_ids) => proto::InboundRecord {
            packet_ids: packet_ids.iter().map(|id| id.get().into()).collect(),
        }
        .encode_to_vec(),
        StateRecord::Subscription(subscription) => {
            subscription_to_proto(subscription).encode_to_vec()
        }
        StateRecord::Delivery(record) => delivery_record_to_proto(record).encode_to_vec(),
        StateRecord::Outbox { next_number } => proto::OutboxRecord {
            next_number: *next_number,
        }
        .encode_to_vec(),
        StateRecord::OutboxItem {
            publisher,
            body,
            share,
        } => proto::OutboxItemRecord {
            publisher: client_id_to_proto(publisher),
            body: *body,
            share: share.as_ref().map(TopicFilter::to_bytes),
        }
        .encode_to_vec(),
        StateRecord::RetainedRead { open, wanted_from } => proto::RetainedReadRecord {
            open: *open,
            notes: wanted_from.iter().map(note_to_proto).collect(),
        }
        .encode_to_vec(),
        StateRecord::Will {
            client_id,
            will,
            due,
        } => proto::WillRecord {
            client_id: client_id_to_proto(client_id),
            will: Some(will_to_proto(will)),
            due_ms: due.map(Timestamp::as_millis),
        }
        .encode_to_vec(),
        StateRecord::Retained {
            message,
            version,
            expires_at,
        } => proto::RetainedRecord {
            message: Some(message_to_proto(message)),
            version: *version,
            expires_at_ms: expires_at.map(Timestamp::as_millis),
        }
        .encode_to_vec(),
        StateRecord::Body {
            message,
            expires_at,
            retained_version,
        } => proto::BodyRecord {
            message: Some(message_to_proto(message)),
            expires_at_ms: expires_at.map(Timestamp::as_millis),
            retained_version: *retained_version,
        }
        .encode_to_vec(),
    }
}

/// Reads the content of the body called `id` as it is stored under [`super::body_key`].
///
/// # Errors
/// What is broken.
pub fn decode_body(id: u64, bytes: Bytes) -> Result<StoredMessage, EncodingError> {
    let body: proto::BodyRecord = from_bytes("BodyRecord", bytes)?;
    Ok(StoredMessage {
        id,
        message: message_from_proto(present("BodyRecord.message", body.message)?)?,
        expires_at: body.expires_at_ms.map(Timestamp::from_millis),
        retained_version: body.retained_version,
    })
}

/// Reads the value under `key`: the record of the same name.
///
/// The message of a body is made of slices of `bytes`, which hold little else.
///
/// # Errors
/// What is broken.
pub fn decode_record(key: &StateKey, bytes: Bytes) -> Result<StateRecord, EncodingError> {
    match key {
        StateKey::Counters => from_bytes("CountersRecord", bytes).map(counters_from_proto),
        StateKey::Node(_) => node_from_proto(from_bytes("NodeRecord", bytes)?),
        StateKey::Taken(_) => taken_from_proto(from_bytes("TakenRecord", bytes)?),
        StateKey::BodyIndex(_) => body_index_from_proto(&from_bytes("BodyIndexRecord", bytes)?),
        StateKey::Fence(_) => {
            from_bytes("FenceRecord", bytes).map(|fence: proto::FenceRecord| StateRecord::Fence {
                epoch: Epoch(fence.epoch),
            })
        }
        StateKey::Session(_) => session_from_proto(from_bytes("SessionRecord", bytes)?),
        StateKey::Inbound(_) => inbound_from_proto(&from_bytes("InboundRecord", bytes)?),
        StateKey::Subscription(..) => subscription_from_proto(from_bytes("Subscription", bytes)?)
            .map(StateRecord::Subscription),
        StateKey::Delivery(..) => delivery_record_from_proto(from_bytes("DeliveryRecord", bytes)?)
            .map(StateRecord::Delivery),
        StateKey::Outbox(_) => from_bytes("OutboxRecord", bytes)
            .map(|proto::OutboxRecord { next_number }| StateRecord::Outbox { next_number }),
        StateKey::OutboxItem(..) => {
            let item: proto::OutboxItemRecord = from_bytes("OutboxItemRecord", bytes)?;
            Ok(StateRecord::OutboxItem {
                publisher: client_id_from_proto("OutboxItemRecord.publisher", &item.publisher)?,
                body: item.body,
                share: item
                    .share
                    .map(|filter| filter_from_proto("OutboxItemRecord.share", filter))
                    .transpose()?,
            })
        }
        StateKey::RetainedRead(_) => {
            retained_read_from_proto(from_bytes("RetainedReadRecord", bytes)?)
        }
        StateKey::Will(_) => will_record_from_proto(from_bytes("WillRecord", bytes)?),
        StateKey::Retained(_) => retained_from_proto(from_bytes("RetainedRecord", bytes)?),
        StateKey::Body(_) => body_from_proto(from_bytes("BodyRecord", bytes)?),
    }
}

fn counters_from_proto(counters: proto::CountersRecord) -> StateRecord {
    StateRecord::Counters {
        time: Timestamp::from_millis(counters.time_ms),
        next_epoch: counters.next_epoch,
        next_body: counters.next_body,
        next_version: counters.next_version,
        next_turn: counters.next_turn,
    }
}

fn taken_from_proto(taken: proto::TakenRecord) -> Result<StateRecord, EncodingError> {
    let proto::TakenRecord { upto, refused } = taken;
    if !refused.is_sorted_by(|a, b| a < b) {
        let field = "TakenRecord.refused";
        return Err(EncodingError::NotAscending { field });
    }
    Ok(StateRecord::Taken { upto, refused })
}

fn node_from_proto(node: proto::NodeRecord) -> Result<StateRecord, EncodingError> {
    Ok(StateRecord::Node {
        incarnation: Incarnation(node.incarnation),
        down: node.down,
        last_sequence: node.last_sequence,
        answers: responses_from_proto(node.answers)?,
    })
}

fn body_index_from_proto(body: &proto::BodyIndexRecord) -> Result<StateRecord, EncodingError> {
    if body.references == 0 {
        return Err(invalid("BodyIndexRecord.references", body.references));
    }
    Ok(StateRecord::BodyIndex {
        references: body.references,
        size_bytes: body.size_bytes,
        expires_at: body.expires_at_ms.map(Timestamp::from_millis),
        qos: qos_from_proto("BodyIndexRecord.qos", body.qos)?,
        retain: body.retain,
    })
}

fn body_from_proto(body: proto::BodyRecord) -> Result<StateRecord, EncodingError> {
    Ok(StateRecord::Body {
        message: message_from_proto(present("BodyRecord.message", body.message)?)?,
        expires_at: body.expires_at_ms.map(Timestamp::from_millis),
        retained_version: body.retained_version,
    })
}

fn note_to_proto((topic, wanted_from): &(TopicName, u64)) -> proto::RetainedNote {
    proto::RetainedNote {
        topic: topic.to_bytes(),
        wanted_from: *wanted_from,
    }
}

fn retained_read_from_proto(read: proto::RetainedReadRecord) -> Result<StateRecord, EncodingError> {
    if read.open == 0 {
        return Err(invalid("RetainedReadRecord.open", read.open));
    }
    let wanted_from = read
        .notes
        .into_iter()
        .map(|note| {
            let topic = topic_from_proto("RetainedNote.topic", note.topic)?;
            Ok((topic.detached(), note.wanted_from))
        })
        .collect::<Result<Vec<_>, EncodingError>>()?;
    if !wanted_from.is_sorted_by(|(a, _), (b, _)| a < b) {
        let field = "RetainedReadRecord.notes";
        return Err(EncodingError::NotAscending { field });
    }
    Ok(StateRecord::RetainedRead {
        open: read.open,
        wanted_from,
    })
}

fn will_record_from_proto(record: proto::WillRecord) -> Result<StateRecord, EncodingError> {
    Ok(StateRecord::Will {
        client_id: client_id_from_proto("WillRecord.client_id", &record.client_id)?,
        will: will_from_proto(present("WillRecord.will", record.will)?)?,
        due: record.due_ms.map(Timestamp::from_millis),
    })
}

fn retained_from_proto(retained: proto::RetainedRecord) -> Result<StateRecord, EncodingError> {
    Ok(StateRecord::Retained {
        message: message_from_proto(present("RetainedRecord.message", retained.message)?)?,
        version: retained.version,
        expires_at: retained.expires_at_ms.map(Timestamp::from_millis),
    })
}

fn session_from_proto(session: proto::SessionRecord) -> Result<StateRecord, EncodingError> {
    Ok(StateRecord::Session {
        epoch: Epoch(session.epoch),
        holder: session.holder.map(holder_from_proto).transpose()?,
        formers: session
            .formers
            .into_iter()
            .map(former_from_proto)
            .collect::<Result<_, _>>()?,
        hosted: session.hosted.map(meta_from_proto).transpose()?,
        owner: owner_from_proto("SessionRecord.owner", session.owner)?,
    })
}

fn former_to_proto((epoch, holder): (Epoch, Holder)) -> proto::Former {
    proto::Former {
        epoch: epoch.0,
        holder: Some(holder_to_proto(holder)),
    }
}

fn former_from_proto(former: proto::Former) -> Result<(Epoch, Holder), EncodingError> {
    let holder = holder_from_proto(present("Former.holder", former.holder)?)?;
    Ok((Epoch(former.epoch), holder))
}

fn inbound_from_proto(inbound: &proto::InboundRecord) -> Result<StateRecord, EncodingError> {
    let field = "InboundRecord.packet_ids";
    // This also bounds them: there are 65,535 at most.
    if !inbound.packet_ids.is_sorted_by(|a, b| a < b) {
        return Err(EncodingError::NotAscending { field });
    }
    let packet_ids: Result<Vec<PacketId>, _> = inbound
        .packet_ids
        .iter()
        .map(|id| packet_id_from_proto(field, *id))
        .collect();
    packet_ids.map(StateRecord::Inbound)
}
