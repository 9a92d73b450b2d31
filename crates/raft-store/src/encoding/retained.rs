//! The commands of retained messages.

use super::field::{client_id_from_proto, present};
use super::message::{message_from_proto, message_to_proto, qos_from_proto};
use super::session_parts::identifier_from_proto;
use super::{EncodingError, proto};
use crate::command::{Command, RetainedCopy, RetainedLimits};
use crate::ids::Epoch;

pub(super) fn set_retained_from_proto(set: proto::SetRetained) -> Result<Command, EncodingError> {
    Ok(Command::SetRetained {
        client_id: client_id_from_proto("SetRetained.client_id", &set.client_id)?,
        epoch: set.epoch.map(Epoch),
        message: message_from_proto(present("SetRetained.message", set.message)?)?,
        limits: RetainedLimits {
            messages_max: set.messages_max,
            bytes_max: set.bytes_max,
        },
    })
}

pub(super) fn deliver_retained_from_proto(
    deliver: proto::DeliverRetained,
) -> Result<Command, EncodingError> {
    Ok(Command::DeliverRetained {
        client_id: client_id_from_proto("DeliverRetained.client_id", &deliver.client_id)?,
        epoch: Epoch(deliver.epoch),
        copies: deliver
            .copies
            .into_iter()
            .map(retained_copy_from_proto)
            .collect::<Result<_, _>>()?,
        last: deliver.last,
    })
}

pub(super) fn retained_copy_to_proto(copy: &RetainedCopy) -> proto::RetainedCopy {
    proto::RetainedCopy {
        message: Some(message_to_proto(&copy.message)),
        version: copy.version,
        qos: copy.qos.as_u8().into(),
        identifier: copy.identifier.map(|identifier| identifier.get()),
        expires_in_ms: copy.expires_in_ms,
    }
}

fn retained_copy_from_proto(copy: proto::RetainedCopy) -> Result<RetainedCopy, EncodingError> {
    Ok(RetainedCopy {
        message: message_from_proto(present("RetainedCopy.message", copy.message)?)?,
        version: copy.version,
        qos: qos_from_proto("RetainedCopy.qos", copy.qos)?,
        identifier: copy
            .identifier
            .map(|value| identifier_from_proto("RetainedCopy.identifier", value))
            .transpose()?,
        expires_in_ms: copy.expires_in_ms,
    })
}
