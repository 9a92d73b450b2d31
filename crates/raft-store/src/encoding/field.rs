//! Numbers and names that many messages have, with their checks.

use bytes::Bytes;
use codec::{ClientId, PacketId, ReasonCode, Utf8};

use super::{EncodingError, proto};
use crate::ids::{ConnectionId, Holder, Incarnation, NodeId, ShardId};

/// A field that is always written.
pub(super) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, EncodingError> {
    value.ok_or(EncodingError::Missing { field })
}

/// A number of a smaller type than protobuf has.
pub(super) fn narrow<T: TryFrom<u32>>(field: &'static str, value: u32) -> Result<T, EncodingError> {
    T::try_from(value).ok().ok_or_else(|| invalid(field, value))
}

/// The error of a number without a meaning.
pub(super) fn invalid(field: &'static str, value: impl Into<u64>) -> EncodingError {
    EncodingError::NumberInvalid {
        field,
        value: value.into(),
    }
}

/// Adds the field to the rule that a text breaks.
pub(super) fn text_error(field: &'static str) -> impl FnOnce(codec::DecodeError) -> EncodingError {
    move |source| EncodingError::Text { field, source }
}

pub(super) fn client_id_to_proto(client_id: &ClientId) -> Bytes {
    Bytes::copy_from_slice(client_id.as_str().as_bytes())
}

pub(super) fn client_id_from_proto(
    field: &'static str,
    bytes: &[u8],
) -> Result<ClientId, EncodingError> {
    let text = std::str::from_utf8(bytes).map_err(|error| EncodingError::Text {
        field,
        source: codec::DecodeError::StringNotUtf8 {
            valid_up_to: error.valid_up_to(),
        },
    })?;
    ClientId::new(text).map_err(text_error(field))
}

pub(super) fn utf8_from_proto(field: &'static str, bytes: Bytes) -> Result<Utf8, EncodingError> {
    Utf8::try_from(bytes).map_err(text_error(field))
}

/// The owner of a session: kept as long as that, so it does not pin what it was read from.
pub(super) fn owner_from_proto(
    field: &'static str,
    bytes: Option<Bytes>,
) -> Result<Option<Utf8>, EncodingError> {
    let owner = bytes.map(|bytes| utf8_from_proto(field, bytes));
    Ok(owner.transpose()?.map(|owner| owner.detached()))
}

pub(super) fn packet_id_from_proto(
    field: &'static str,
    value: u32,
) -> Result<PacketId, EncodingError> {
    PacketId::new(narrow(field, value)?).ok_or_else(|| invalid(field, value))
}

pub(super) fn reason_code_from_proto(
    field: &'static str,
    value: u32,
) -> Result<ReasonCode, EncodingError> {
    let code: u8 = narrow(field, value)?;
    ReasonCode::try_from(code).map_err(|code| invalid(field, code))
}

pub(super) fn node_from_proto(field: &'static str, value: u32) -> Result<NodeId, EncodingError> {
    Ok(NodeId(narrow(field, value)?))
}

pub(super) fn shard_from_proto(field: &'static str, value: u32) -> Result<ShardId, EncodingError> {
    Ok(ShardId(narrow(field, value)?))
}

pub(super) fn node_life_to_proto(node: NodeId, incarnation: Incarnation) -> proto::NodeLife {
    proto::NodeLife {
        node: node.0.into(),
        incarnation: incarnation.0,
    }
}

pub(super) fn node_life_from_proto(
    life: proto::NodeLife,
) -> Result<(NodeId, Incarnation), EncodingError> {
    Ok((
        node_from_proto("NodeLife.node", life.node)?,
        Incarnation(life.incarnation),
    ))
}

pub(super) fn holder_to_proto(holder: Holder) -> proto::Holder {
    proto::Holder {
        node: holder.node.0.into(),
        incarnation: holder.incarnation.0,
        connection: holder.connection.0,
    }
}

pub(super) fn holder_from_proto(holder: proto::Holder) -> Result<Holder, EncodingError> {
    Ok(Holder {
        node: node_from_proto("Holder.node", holder.node)?,
        incarnation: Incarnation(holder.incarnation),
        connection: ConnectionId(holder.connection),
    })
}
