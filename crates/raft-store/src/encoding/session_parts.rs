//! What `session` hands out to be stored, and its bounds.

use std::sync::Arc;

use codec::{RetainHandling, SubscriptionIdentifier, SubscriptionOptions, Timestamp};
use session::{
    ConnectionState, DeliveryPhase, DeliveryRecord, QueueOverflow, SessionLimits, SessionMeta,
    Subscription,
};

use super::field::{invalid, narrow, packet_id_from_proto, present};
use super::message::{filter_from_proto, qos_from_proto};
use super::proto::delivery_record::Phase;
use super::proto::session_meta::Connection;
use super::{EncodingError, proto};

pub(super) fn subscription_to_proto(subscription: &Subscription) -> proto::Subscription {
    let options = subscription.options;
    proto::Subscription {
        qos: options.qos.as_u8().into(),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: options.retain_handling.as_u8().into(),
        identifier: subscription.identifier.map(SubscriptionIdentifier::get),
    }
}

pub(super) fn subscription_from_proto(
    subscription: proto::Subscription,
) -> Result<Subscription, EncodingError> {
    Ok(Subscription {
        options: SubscriptionOptions {
            qos: qos_from_proto("Subscription.qos", subscription.qos)?,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            retain_handling: retain_handling_from_proto(subscription.retain_handling)?,
        },
        identifier: subscription
            .identifier
            .map(|value| identifier_from_proto("Subscription.identifier", value))
            .transpose()?,
    })
}

fn retain_handling_from_proto(value: u32) -> Result<RetainHandling, EncodingError> {
    match value {
        0 => Ok(RetainHandling::Send),
        1 => Ok(RetainHandling::SendIfNew),
        2 => Ok(RetainHandling::DoNotSend),
        _ => Err(invalid("Subscription.retain_handling", value)),
    }
}

pub(super) fn identifier_from_proto(
    field: &'static str,
    value: u32,
) -> Result<SubscriptionIdentifier, EncodingError> {
    SubscriptionIdentifier::new(value).ok_or_else(|| invalid(field, value))
}

pub(super) fn limits_to_proto(limits: SessionLimits) -> proto::SessionLimits {
    let queue_overflow = match limits.queue_overflow {
        QueueOverflow::Reject => proto::QueueOverflow::Reject,
        QueueOverflow::DropNewest => proto::QueueOverflow::DropNewest,
        QueueOverflow::DropOldest => proto::QueueOverflow::DropOldest,
        QueueOverflow::Disconnect => proto::QueueOverflow::Disconnect,
    };
    proto::SessionLimits {
        inflight_max: limits.inflight_max.into(),
        receive_maximum: limits.receive_maximum.into(),
        queue_messages_max: limits.queue_messages_max,
        queue_bytes_max: limits.queue_bytes_max,
        queue_overflow: queue_overflow.into(),
    }
}

pub(super) fn limits_from_proto(
    limits: proto::SessionLimits,
) -> Result<SessionLimits, EncodingError> {
    let queue_overflow = match proto::QueueOverflow::try_from(limits.queue_overflow) {
        Ok(proto::QueueOverflow::Reject) => QueueOverflow::Reject,
        Ok(proto::QueueOverflow::DropNewest) => QueueOverflow::DropNewest,
        Ok(proto::QueueOverflow::DropOldest) => QueueOverflow::DropOldest,
        Ok(proto::QueueOverflow::Disconnect) => QueueOverflow::Disconnect,
        Ok(proto::QueueOverflow::Unspecified) | Err(_) => {
            return Err(EncodingError::Missing {
                field: "SessionLimits.queue_overflow",
            });
        }
    };
    Ok(SessionLimits {
        inflight_max: narrow("SessionLimits.inflight_max", limits.inflight_max)?,
        receive_maximum: narrow("SessionLimits.receive_maximum", limits.receive_maximum)?,
        queue_messages_max: limits.queue_messages_max,
        queue_bytes_max: limits.queue_bytes_max,
        queue_overflow,
    })
}

pub(super) fn meta_to_proto(meta: &SessionMeta) -> proto::SessionMeta {
    let connection = match meta.connection {
        ConnectionState::Connected => Connection::Connected(proto::Nothing {}),
        ConnectionState::Disconnected { ends_at } => {
            Connection::Disconnected(proto::Disconnected {
                ends_at_ms: ends_at.map(Timestamp::as_millis),
            })
        }
    };
    proto::SessionMeta {
        connection: Some(connection),
        session_expiry_interval_s: meta.session_expiry_interval_s,
        client_receive_maximum: meta.client_receive_maximum.into(),
        limits: Some(limits_to_proto(meta.limits)),
        awaiting_pubrel_max: meta.awaiting_pubrel_max.into(),
        next_position: meta.next_position,
        next_pubrec_position: meta.next_pubrec_position,
        last_packet_id: meta.last_packet_id.map(|id| id.get().into()),
    }
}

pub(super) fn meta_from_proto(meta: proto::SessionMeta) -> Result<SessionMeta, EncodingError> {
    let connection = match present("SessionMeta.connection", meta.connection)? {
        Connection::Connected(proto::Nothing {}) => ConnectionState::Connected,
        Connection::Disconnected(proto::Disconnected { ends_at_ms }) => {
            ConnectionState::Disconnected {
                ends_at: ends_at_ms.map(Timestamp::from_millis),
            }
        }
    };
    Ok(SessionMeta {
        connection,
        session_expiry_interval_s: meta.session_expiry_interval_s,
        client_receive_maximum: narrow(
            "SessionMeta.client_receive_maximum",
            meta.client_receive_maximum,
        )?,
        limits: limits_from_proto(present("SessionMeta.limits", meta.limits)?)?,
        awaiting_pubrel_max: narrow("SessionMeta.awaiting_pubrel_max", meta.awaiting_pubrel_max)?,
        next_position: meta.next_position,
        next_pubrec_position: meta.next_pubrec_position,
        last_packet_id: meta
            .last_packet_id
            .map(|id| packet_id_from_proto("SessionMeta.last_packet_id", id))
            .transpose()?,
    })
}

pub(super) fn delivery_record_to_proto(record: &DeliveryRecord) -> proto::DeliveryRecord {
    let phase = match record.phase {
        DeliveryPhase::Queued => Phase::Queued(proto::Nothing {}),
        DeliveryPhase::AwaitPuback { packet_id } => Phase::AwaitPuback(packet_id.get().into()),
        DeliveryPhase::AwaitPubrec { packet_id } => Phase::AwaitPubrec(packet_id.get().into()),
        DeliveryPhase::AwaitPubcomp {
            packet_id,
            pubrec_position,
        } => Phase::AwaitPubcomp(proto::AwaitPubcomp {
            packet_id: packet_id.get().into(),
            pubrec_position,
        }),
    };
    proto::DeliveryRecord {
        body: record.body,
        qos: record.qos.as_u8().into(),
        retain: record.retain,
        identifiers: record.identifiers.iter().map(|id| id.get()).collect(),
        phase: Some(phase),
        share: record.share.as_ref().map(|filter| filter.to_bytes()),
    }
}

pub(super) fn delivery_record_from_proto(
    record: proto::DeliveryRecord,
) -> Result<DeliveryRecord, EncodingError> {
    let phase = match present("DeliveryRecord.phase", record.phase)? {
        Phase::Queued(proto::Nothing {}) => DeliveryPhase::Queued,
        Phase::AwaitPuback(id) => DeliveryPhase::AwaitPuback {
            packet_id: packet_id_from_proto("DeliveryRecord.await_puback", id)?,
        },
        Phase::AwaitPubrec(id) => DeliveryPhase::AwaitPubrec {
            packet_id: packet_id_from_proto("DeliveryRecord.await_pubrec", id)?,
        },
        Phase::AwaitPubcomp(await_pubcomp) => DeliveryPhase::AwaitPubcomp {
            packet_id: packet_id_from_proto("AwaitPubcomp.packet_id", await_pubcomp.packet_id)?,
            pubrec_position: await_pubcomp.pubrec_position,
        },
    };
    Ok(DeliveryRecord {
        body: record.body,
        qos: qos_from_proto("DeliveryRecord.qos", record.qos)?,
        retain: record.retain,
        identifiers: record
            .identifiers
            .into_iter()
            .map(|value| identifier_from_proto("DeliveryRecord.identifiers", value))
            .collect::<Result<_, _>>()?,
        share: record
            .share
            .map(|filter| filter_from_proto("DeliveryRecord.share", filter).map(Arc::new))
            .transpose()?,
        phase,
    })
}
