//! What goes through outboxes: items, and where they go.

use std::sync::Arc;

use codec::TopicFilter;
use session::StoredMessage;

use super::field::{
    client_id_from_proto, client_id_to_proto, node_life_from_proto, node_life_to_proto, present,
    shard_from_proto,
};
use super::message::{filter_from_proto, message_from_proto, message_to_proto};
use super::proto::outbox_target::Kind;
use super::{EncodingError, proto};
use crate::command::{Command, OutboxItem, OutboxTarget};
use crate::ids::{Incarnation, NodeId, ShardId};

pub(super) fn take_outbox_from_proto(take: proto::TakeOutbox) -> Result<Command, EncodingError> {
    Ok(Command::TakeOutbox {
        source: shard_from_proto("TakeOutbox.source", take.source)?,
        settled: take.settled,
        first: take.first,
        items: take
            .items
            .into_iter()
            .map(outbox_item_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn outbox_item_to_proto(item: &OutboxItem) -> proto::OutboxItem {
    proto::OutboxItem {
        publisher: client_id_to_proto(&item.publisher),
        body: item.body.id,
        message: Some(message_to_proto(&item.body.message)),
        expires_in_ms: item.expires_in_ms,
        share: item.share.as_ref().map(TopicFilter::to_bytes),
        retained_version: item.body.retained_version,
    }
}

fn outbox_item_from_proto(item: proto::OutboxItem) -> Result<OutboxItem, EncodingError> {
    Ok(OutboxItem {
        publisher: client_id_from_proto("OutboxItem.publisher", &item.publisher)?,
        body: Arc::new(StoredMessage {
            id: item.body,
            message: message_from_proto(present("OutboxItem.message", item.message)?)?,
            expires_at: None,
            retained_version: item.retained_version,
        }),
        expires_in_ms: item.expires_in_ms,
        share: item
            .share
            .map(|filter| filter_from_proto("OutboxItem.share", filter))
            .transpose()?,
    })
}

pub(super) fn outbox_target_to_proto(target: OutboxTarget) -> proto::OutboxTarget {
    let kind = match target {
        OutboxTarget::Shard(shard) => Kind::Shard(shard.0.into()),
        OutboxTarget::Node(node, incarnation) => Kind::Node(node_life_to_proto(node, incarnation)),
        OutboxTarget::Unplaced => Kind::Unplaced(proto::Nothing {}),
    };
    proto::OutboxTarget { kind: Some(kind) }
}

pub(super) fn outbox_target_from_proto(
    target: proto::OutboxTarget,
) -> Result<OutboxTarget, EncodingError> {
    match present("OutboxTarget.kind", target.kind)? {
        Kind::Shard(shard) => {
            shard_from_proto("OutboxTarget.shard", shard).map(OutboxTarget::Shard)
        }
        Kind::Node(life) => node_life_from_proto(life)
            .map(|(node, incarnation)| OutboxTarget::Node(node, incarnation)),
        Kind::Unplaced(proto::Nothing {}) => Ok(OutboxTarget::Unplaced),
    }
}

pub(super) fn shards_to_proto(shards: &[ShardId]) -> Vec<u32> {
    shards.iter().map(|shard| shard.0.into()).collect()
}

pub(super) fn shards_from_proto(
    field: &'static str,
    shards: Vec<u32>,
) -> Result<Vec<ShardId>, EncodingError> {
    shards
        .into_iter()
        .map(|shard| shard_from_proto(field, shard))
        .collect()
}

pub(super) fn nodes_to_proto(nodes: &[(NodeId, Incarnation)]) -> Vec<proto::NodeLife> {
    nodes
        .iter()
        .map(|(node, incarnation)| node_life_to_proto(*node, *incarnation))
        .collect()
}

pub(super) fn nodes_from_proto(
    nodes: Vec<proto::NodeLife>,
) -> Result<Vec<(NodeId, Incarnation)>, EncodingError> {
    nodes.into_iter().map(node_life_from_proto).collect()
}

pub(super) fn shared_to_proto(shared: &[(TopicFilter, OutboxTarget)]) -> Vec<proto::SharedTarget> {
    shared
        .iter()
        .map(|(filter, target)| proto::SharedTarget {
            filter: filter.to_bytes(),
            target: Some(outbox_target_to_proto(*target)),
        })
        .collect()
}

pub(super) fn shared_from_proto(
    shared: Vec<proto::SharedTarget>,
) -> Result<Vec<(TopicFilter, OutboxTarget)>, EncodingError> {
    shared
        .into_iter()
        .map(|place| {
            Ok((
                filter_from_proto("SharedTarget.filter", place.filter)?,
                outbox_target_from_proto(present("SharedTarget.target", place.target)?)?,
            ))
        })
        .collect()
}
