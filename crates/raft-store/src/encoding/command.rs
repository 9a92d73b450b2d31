//! Commands: what is in a batch.

use std::sync::Arc;

use bytes::Bytes;
use codec::{ClientId, TopicFilter};
use session::{StoredMessage, Subscription};

use super::field::{
    client_id_from_proto, client_id_to_proto, holder_from_proto, holder_to_proto, narrow,
    node_from_proto, node_life_from_proto, node_life_to_proto, packet_id_from_proto, present,
    reason_code_from_proto, shard_from_proto,
};
use super::message::{filter_from_proto, message_from_proto, message_to_proto};
use super::proto::command::Kind;
use super::proto::{acknowledgement, outbox_target};
use super::session_parts::{
    limits_from_proto, limits_to_proto, subscription_from_proto, subscription_to_proto,
};
use super::{EncodingError, from_bytes, proto, to_bytes};
use crate::command::{Acknowledgement, Command, Connect, OutboxItem, OutboxTarget};
use crate::ids::Epoch;

/// `command` as bytes, in one allocation of the exact size. Copies the payload once.
#[must_use]
pub fn encode_command(command: &Command) -> Bytes {
    to_bytes(&proto::Command {
        kind: Some(command_to_proto(command)),
    })
}

/// Reads a command. Topic and payload of a message are slices of `bytes`; what is kept for long is
/// first detached.
///
/// # Errors
/// What is broken, or a kind that only newer versions know.
pub fn decode_command(bytes: Bytes) -> Result<Command, EncodingError> {
    let command: proto::Command = from_bytes("Command", bytes)?;
    command_from_proto(present("Command.kind", command.kind)?)
}

#[expect(
    clippy::too_many_lines,
    reason = "one arm per command, without branches"
)]
fn command_to_proto(command: &Command) -> Kind {
    match command {
        Command::Hello => Kind::Hello(proto::Hello {}),
        Command::NodeUp { node } => Kind::NodeUp(proto::NodeUp {
            node: node.0.into(),
        }),
        Command::NodeDown { node, incarnation } => {
            Kind::NodeDown(node_life_to_proto(*node, *incarnation))
        }
        Command::Connect(connect) => Kind::Connect(connect_to_proto(connect)),
        Command::Disconnect {
            client_id,
            epoch,
            session_expiry_interval_s,
        } => Kind::Disconnect(proto::Disconnect {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            session_expiry_interval_s: *session_expiry_interval_s,
        }),
        Command::Subscribe {
            client_id,
            epoch,
            filters,
        } => Kind::Subscribe(proto::Subscribe {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            filters: filters.iter().map(filter_subscription_to_proto).collect(),
        }),
        Command::Unsubscribe {
            client_id,
            epoch,
            filters,
        } => Kind::Unsubscribe(proto::Unsubscribe {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            filters: filters.iter().map(TopicFilter::to_bytes).collect(),
        }),
        Command::Publish {
            client_id,
            epoch,
            message,
        } => Kind::Publish(proto::Publish {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            message: Some(message_to_proto(message)),
        }),
        Command::ReceiveExactlyOnce {
            client_id,
            epoch,
            packet_id,
            message,
            shards,
            nodes,
        } => Kind::ReceiveExactlyOnce(proto::ReceiveExactlyOnce {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            packet_id: packet_id.get().into(),
            message: Some(message_to_proto(message)),
            shards: shards.iter().map(|shard| shard.0.into()).collect(),
            nodes: nodes
                .iter()
                .map(|(node, incarnation)| node_life_to_proto(*node, *incarnation))
                .collect(),
        }),
        Command::Release {
            client_id,
            epoch,
            packet_id,
        } => Kind::Release(proto::Release {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            packet_id: packet_id.get().into(),
        }),
        Command::Acknowledge {
            client_id,
            epoch,
            acknowledgements,
        } => Kind::Acknowledge(proto::Acknowledge {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            acknowledgements: acknowledgements
                .iter()
                .copied()
                .map(acknowledgement_to_proto)
                .collect(),
        }),
        Command::Fence { client_id, epoch } => {
            Kind::Fence(client_epoch_to_proto(client_id, *epoch))
        }
        Command::FenceEnd { client_id, epoch } => {
            Kind::FenceEnd(client_epoch_to_proto(client_id, *epoch))
        }
        Command::TakeOutbox {
            source,
            first,
            items,
        } => Kind::TakeOutbox(proto::TakeOutbox {
            source: source.0.into(),
            first: *first,
            items: items.iter().map(outbox_item_to_proto).collect(),
        }),
        Command::Taken { target, upto } => Kind::Taken(proto::Taken {
            target: Some(outbox_target_to_proto(*target)),
            upto: *upto,
        }),
        Command::ExpireSession { client_id, epoch } => {
            Kind::ExpireSession(client_epoch_to_proto(client_id, *epoch))
        }
    }
}

fn command_from_proto(kind: Kind) -> Result<Command, EncodingError> {
    Ok(match kind {
        Kind::Hello(proto::Hello {}) => Command::Hello,
        Kind::NodeUp(proto::NodeUp { node }) => Command::NodeUp {
            node: node_from_proto("NodeUp.node", node)?,
        },
        Kind::NodeDown(life) => {
            let (node, incarnation) = node_life_from_proto(life)?;
            Command::NodeDown { node, incarnation }
        }
        Kind::Connect(connect) => Command::Connect(Box::new(connect_from_proto(connect)?)),
        Kind::Disconnect(disconnect) => Command::Disconnect {
            client_id: client_id_from_proto("Disconnect.client_id", &disconnect.client_id)?,
            epoch: Epoch(disconnect.epoch),
            session_expiry_interval_s: disconnect.session_expiry_interval_s,
        },
        Kind::Subscribe(subscribe) => subscribe_from_proto(subscribe)?,
        Kind::Unsubscribe(unsubscribe) => unsubscribe_from_proto(unsubscribe)?,
        Kind::Publish(publish) => Command::Publish {
            client_id: client_id_from_proto("Publish.client_id", &publish.client_id)?,
            epoch: Epoch(publish.epoch),
            message: message_from_proto(present("Publish.message", publish.message)?)?,
        },
        Kind::ReceiveExactlyOnce(receive) => receive_exactly_once_from_proto(receive)?,
        Kind::Release(release) => Command::Release {
            client_id: client_id_from_proto("Release.client_id", &release.client_id)?,
            epoch: Epoch(release.epoch),
            packet_id: packet_id_from_proto("Release.packet_id", release.packet_id)?,
        },
        Kind::Acknowledge(acknowledge) => acknowledge_from_proto(acknowledge)?,
        Kind::Fence(fence) => {
            let (client_id, epoch) = client_epoch_from_proto(&fence)?;
            Command::Fence { client_id, epoch }
        }
        Kind::FenceEnd(fence) => {
            let (client_id, epoch) = client_epoch_from_proto(&fence)?;
            Command::FenceEnd { client_id, epoch }
        }
        Kind::TakeOutbox(take) => take_outbox_from_proto(take)?,
        Kind::Taken(taken) => Command::Taken {
            target: outbox_target_from_proto(present("Taken.target", taken.target)?)?,
            upto: taken.upto,
        },
        Kind::ExpireSession(session) => {
            let (client_id, epoch) = client_epoch_from_proto(&session)?;
            Command::ExpireSession { client_id, epoch }
        }
    })
}

fn client_epoch_to_proto(client_id: &ClientId, epoch: Epoch) -> proto::ClientEpoch {
    proto::ClientEpoch {
        client_id: client_id_to_proto(client_id),
        epoch: epoch.0,
    }
}

fn client_epoch_from_proto(
    client: &proto::ClientEpoch,
) -> Result<(ClientId, Epoch), EncodingError> {
    Ok((
        client_id_from_proto("ClientEpoch.client_id", &client.client_id)?,
        Epoch(client.epoch),
    ))
}

fn connect_to_proto(connect: &Connect) -> proto::Connect {
    proto::Connect {
        client_id: client_id_to_proto(&connect.client_id),
        holder: Some(holder_to_proto(connect.holder)),
        clean_start: connect.clean_start,
        session_expiry_interval_s: connect.session_expiry_interval_s,
        receive_maximum: connect.receive_maximum.into(),
        limits: Some(limits_to_proto(connect.limits)),
    }
}

fn connect_from_proto(connect: proto::Connect) -> Result<Connect, EncodingError> {
    Ok(Connect {
        client_id: client_id_from_proto("Connect.client_id", &connect.client_id)?,
        holder: holder_from_proto(present("Connect.holder", connect.holder)?)?,
        clean_start: connect.clean_start,
        session_expiry_interval_s: connect.session_expiry_interval_s,
        receive_maximum: narrow("Connect.receive_maximum", connect.receive_maximum)?,
        limits: limits_from_proto(present("Connect.limits", connect.limits)?)?,
    })
}

fn subscribe_from_proto(subscribe: proto::Subscribe) -> Result<Command, EncodingError> {
    Ok(Command::Subscribe {
        client_id: client_id_from_proto("Subscribe.client_id", &subscribe.client_id)?,
        epoch: Epoch(subscribe.epoch),
        filters: subscribe
            .filters
            .into_iter()
            .map(filter_subscription_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

fn filter_subscription_to_proto(
    (filter, subscription): &(TopicFilter, Subscription),
) -> proto::FilterSubscription {
    proto::FilterSubscription {
        filter: filter.to_bytes(),
        subscription: Some(subscription_to_proto(subscription)),
    }
}

fn filter_subscription_from_proto(
    item: proto::FilterSubscription,
) -> Result<(TopicFilter, Subscription), EncodingError> {
    let subscription = present("FilterSubscription.subscription", item.subscription)?;
    Ok((
        filter_from_proto("FilterSubscription.filter", item.filter)?,
        subscription_from_proto(subscription)?,
    ))
}

fn unsubscribe_from_proto(unsubscribe: proto::Unsubscribe) -> Result<Command, EncodingError> {
    Ok(Command::Unsubscribe {
        client_id: client_id_from_proto("Unsubscribe.client_id", &unsubscribe.client_id)?,
        epoch: Epoch(unsubscribe.epoch),
        filters: unsubscribe
            .filters
            .into_iter()
            .map(|filter| filter_from_proto("Unsubscribe.filters", filter))
            .collect::<Result<_, _>>()?,
    })
}

fn receive_exactly_once_from_proto(
    receive: proto::ReceiveExactlyOnce,
) -> Result<Command, EncodingError> {
    let message = present("ReceiveExactlyOnce.message", receive.message)?;
    Ok(Command::ReceiveExactlyOnce {
        client_id: client_id_from_proto("ReceiveExactlyOnce.client_id", &receive.client_id)?,
        epoch: Epoch(receive.epoch),
        packet_id: packet_id_from_proto("ReceiveExactlyOnce.packet_id", receive.packet_id)?,
        message: message_from_proto(message)?,
        shards: receive
            .shards
            .into_iter()
            .map(|shard| shard_from_proto("ReceiveExactlyOnce.shards", shard))
            .collect::<Result<_, _>>()?,
        nodes: receive
            .nodes
            .into_iter()
            .map(node_life_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

fn acknowledge_from_proto(acknowledge: proto::Acknowledge) -> Result<Command, EncodingError> {
    Ok(Command::Acknowledge {
        client_id: client_id_from_proto("Acknowledge.client_id", &acknowledge.client_id)?,
        epoch: Epoch(acknowledge.epoch),
        acknowledgements: acknowledge
            .acknowledgements
            .into_iter()
            .map(acknowledgement_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

fn acknowledgement_to_proto(acknowledgement: Acknowledgement) -> proto::Acknowledgement {
    let kind = match acknowledgement {
        Acknowledgement::Puback(packet_id) => acknowledgement::Kind::Puback(packet_id.get().into()),
        Acknowledgement::Pubrec(packet_id, reason_code) => {
            acknowledgement::Kind::Pubrec(proto::Pubrec {
                packet_id: packet_id.get().into(),
                reason_code: reason_code.as_u8().into(),
            })
        }
        Acknowledgement::Pubcomp(packet_id) => {
            acknowledgement::Kind::Pubcomp(packet_id.get().into())
        }
    };
    proto::Acknowledgement { kind: Some(kind) }
}

fn acknowledgement_from_proto(
    acknowledgement: proto::Acknowledgement,
) -> Result<Acknowledgement, EncodingError> {
    match present("Acknowledgement.kind", acknowledgement.kind)? {
        acknowledgement::Kind::Puback(id) => {
            packet_id_from_proto("Acknowledgement.puback", id).map(Acknowledgement::Puback)
        }
        acknowledgement::Kind::Pubrec(pubrec) => Ok(Acknowledgement::Pubrec(
            packet_id_from_proto("Pubrec.packet_id", pubrec.packet_id)?,
            reason_code_from_proto("Pubrec.reason_code", pubrec.reason_code)?,
        )),
        acknowledgement::Kind::Pubcomp(id) => {
            packet_id_from_proto("Acknowledgement.pubcomp", id).map(Acknowledgement::Pubcomp)
        }
    }
}

fn take_outbox_from_proto(take: proto::TakeOutbox) -> Result<Command, EncodingError> {
    Ok(Command::TakeOutbox {
        source: shard_from_proto("TakeOutbox.source", take.source)?,
        first: take.first,
        items: take
            .items
            .into_iter()
            .map(outbox_item_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

fn outbox_item_to_proto(item: &OutboxItem) -> proto::OutboxItem {
    proto::OutboxItem {
        publisher: client_id_to_proto(&item.publisher),
        body: item.body.id,
        message: Some(message_to_proto(&item.body.message)),
    }
}

fn outbox_item_from_proto(item: proto::OutboxItem) -> Result<OutboxItem, EncodingError> {
    Ok(OutboxItem {
        publisher: client_id_from_proto("OutboxItem.publisher", &item.publisher)?,
        body: Arc::new(StoredMessage {
            id: item.body,
            message: message_from_proto(present("OutboxItem.message", item.message)?)?,
        }),
    })
}

fn outbox_target_to_proto(target: OutboxTarget) -> proto::OutboxTarget {
    let kind = match target {
        OutboxTarget::Shard(shard) => outbox_target::Kind::Shard(shard.0.into()),
        OutboxTarget::Node(node, incarnation) => {
            outbox_target::Kind::Node(node_life_to_proto(node, incarnation))
        }
    };
    proto::OutboxTarget { kind: Some(kind) }
}

fn outbox_target_from_proto(target: proto::OutboxTarget) -> Result<OutboxTarget, EncodingError> {
    match present("OutboxTarget.kind", target.kind)? {
        outbox_target::Kind::Shard(shard) => {
            shard_from_proto("OutboxTarget.shard", shard).map(OutboxTarget::Shard)
        }
        outbox_target::Kind::Node(life) => node_life_from_proto(life)
            .map(|(node, incarnation)| OutboxTarget::Node(node, incarnation)),
    }
}
