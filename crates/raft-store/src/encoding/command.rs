//! Commands: what is in a batch.

use bytes::Bytes;
use codec::{ClientId, TopicFilter};
use session::Subscription;

use super::field::{
    client_id_from_proto, client_id_to_proto, holder_from_proto, holder_to_proto, narrow,
    node_from_proto, node_life_from_proto, node_life_to_proto, owner_from_proto,
    packet_id_from_proto, present, reason_code_from_proto,
};
use super::message::{
    filter_from_proto, message_from_proto, message_to_proto, will_from_proto, will_to_proto,
};
use super::outbox::{
    nodes_from_proto, nodes_to_proto, outbox_item_to_proto, outbox_target_from_proto,
    outbox_target_to_proto, shards_from_proto, shards_to_proto, shared_from_proto, shared_to_proto,
    take_outbox_from_proto,
};
use super::proto::acknowledgement;
use super::proto::command::Kind;
use super::retained::{
    deliver_retained_from_proto, retained_copy_to_proto, set_retained_from_proto,
};
use super::session_parts::{
    limits_from_proto, limits_to_proto, subscription_from_proto, subscription_to_proto,
};
use super::{EncodingError, from_bytes, proto, to_bytes};
use crate::command::{Acknowledgement, Command, Connect, Ending};
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
            ending,
        } => Kind::Disconnect(proto::Disconnect {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            session_expiry_interval_s: *session_expiry_interval_s,
            normal: *ending == Ending::Normal,
        }),
        Command::Subscribe {
            client_id,
            epoch,
            filters,
            reads_retained,
        } => Kind::Subscribe(proto::Subscribe {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            filters: filters.iter().map(filter_subscription_to_proto).collect(),
            reads_retained: *reads_retained,
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
            retained_version,
        } => Kind::Publish(proto::Publish {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            message: Some(message_to_proto(message)),
            retained_version: *retained_version,
        }),
        Command::PublishShared {
            client_id,
            epoch,
            filter,
            message,
            expires_in_ms,
        } => Kind::PublishShared(proto::PublishShared {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.map(|epoch| epoch.0),
            filter: filter.to_bytes(),
            message: Some(message_to_proto(message)),
            expires_in_ms: *expires_in_ms,
        }),
        Command::ReceiveExactlyOnce {
            client_id,
            epoch,
            packet_id,
            message,
            shards,
            nodes,
            retained_version,
            shared,
        } => Kind::ReceiveExactlyOnce(proto::ReceiveExactlyOnce {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            packet_id: packet_id.get().into(),
            message: Some(message_to_proto(message)),
            shards: shards_to_proto(shards),
            nodes: nodes_to_proto(nodes),
            retained_version: *retained_version,
            shared: shared_to_proto(shared),
        }),
        Command::SetRetained {
            client_id,
            epoch,
            message,
            limits,
        } => Kind::SetRetained(proto::SetRetained {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.map(|epoch| epoch.0),
            message: Some(message_to_proto(message)),
            messages_max: limits.messages_max,
            bytes_max: limits.bytes_max,
        }),
        Command::DeliverRetained {
            client_id,
            epoch,
            copies,
            last,
        } => Kind::DeliverRetained(proto::DeliverRetained {
            client_id: client_id_to_proto(client_id),
            epoch: epoch.0,
            copies: copies.iter().map(retained_copy_to_proto).collect(),
            last: *last,
        }),
        Command::Barrier => Kind::Barrier(proto::Nothing {}),
        Command::PublishWill {
            epoch,
            retained_version,
            shards,
            nodes,
            shared,
        } => Kind::PublishWill(proto::PublishWill {
            epoch: epoch.0,
            retained_version: *retained_version,
            shards: shards_to_proto(shards),
            nodes: nodes_to_proto(nodes),
            shared: shared_to_proto(shared),
        }),
        Command::Place { number, to } => Kind::Place(proto::Place {
            number: *number,
            to: to.map(outbox_target_to_proto),
        }),
        Command::Claim { target, number } => Kind::Claim(proto::Claim {
            target: Some(outbox_target_to_proto(*target)),
            number: *number,
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
            settled,
            first,
            items,
        } => Kind::TakeOutbox(proto::TakeOutbox {
            source: source.0.into(),
            first: *first,
            items: items.iter().map(outbox_item_to_proto).collect(),
            settled: *settled,
        }),
        Command::Taken {
            target,
            upto,
            refused,
        } => Kind::Taken(proto::Taken {
            target: Some(outbox_target_to_proto(*target)),
            upto: *upto,
            refused: refused.clone(),
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
            ending: if disconnect.normal {
                Ending::Normal
            } else {
                Ending::Abnormal
            },
        },
        Kind::Subscribe(subscribe) => subscribe_from_proto(subscribe)?,
        Kind::Unsubscribe(unsubscribe) => unsubscribe_from_proto(unsubscribe)?,
        Kind::Publish(publish) => Command::Publish {
            client_id: client_id_from_proto("Publish.client_id", &publish.client_id)?,
            epoch: Epoch(publish.epoch),
            message: message_from_proto(present("Publish.message", publish.message)?)?,
            retained_version: publish.retained_version,
        },
        Kind::PublishShared(publish) => publish_shared_from_proto(publish)?,
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
            refused: taken.refused,
        },
        Kind::SetRetained(set) => set_retained_from_proto(set)?,
        Kind::DeliverRetained(deliver) => deliver_retained_from_proto(deliver)?,
        Kind::Barrier(proto::Nothing {}) => Command::Barrier,
        Kind::PublishWill(publish) => publish_will_from_proto(publish)?,
        Kind::Place(place) => Command::Place {
            number: place.number,
            to: place.to.map(outbox_target_from_proto).transpose()?,
        },
        Kind::Claim(claim) => Command::Claim {
            target: outbox_target_from_proto(present("Claim.target", claim.target)?)?,
            number: claim.number,
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
        will: connect.will.as_ref().map(will_to_proto),
        owner: connect.owner.as_ref().map(codec::Utf8::to_bytes),
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
        will: connect.will.map(will_from_proto).transpose()?,
        owner: owner_from_proto("Connect.owner", connect.owner)?,
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
        reads_retained: subscribe.reads_retained,
    })
}

fn publish_shared_from_proto(publish: proto::PublishShared) -> Result<Command, EncodingError> {
    Ok(Command::PublishShared {
        client_id: client_id_from_proto("PublishShared.client_id", &publish.client_id)?,
        epoch: publish.epoch.map(Epoch),
        filter: filter_from_proto("PublishShared.filter", publish.filter)?,
        message: message_from_proto(present("PublishShared.message", publish.message)?)?,
        expires_in_ms: publish.expires_in_ms,
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
        shards: shards_from_proto("ReceiveExactlyOnce.shards", receive.shards)?,
        nodes: nodes_from_proto(receive.nodes)?,
        retained_version: receive.retained_version,
        shared: shared_from_proto(receive.shared)?,
    })
}

fn publish_will_from_proto(publish: proto::PublishWill) -> Result<Command, EncodingError> {
    Ok(Command::PublishWill {
        epoch: Epoch(publish.epoch),
        retained_version: publish.retained_version,
        shards: shards_from_proto("PublishWill.shards", publish.shards)?,
        nodes: nodes_from_proto(publish.nodes)?,
        shared: shared_from_proto(publish.shared)?,
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
