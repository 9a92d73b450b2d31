//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape (sections 3.4 to 3.7).

use crate::packet_id::PacketId;
use crate::primitive::Utf8;
use crate::reason_code::ReasonCode;

/// The answer to a PUBLISH or to another acknowledgement.
///
/// Before MQTT 5.0 only the packet identifier is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The identifier of the PUBLISH that started the exchange.
    pub packet_id: PacketId,
    /// How it went.
    pub reason_code: ReasonCode,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
}

impl Ack {
    /// The answer "success", without properties.
    #[must_use]
    pub const fn success(packet_id: PacketId) -> Self {
        Self::new(packet_id, ReasonCode::Success)
    }

    /// The answer `reason_code`, without properties.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason_code: ReasonCode) -> Self {
        Self {
            packet_id,
            reason_code,
            reason_string: None,
            user_properties: Vec::new(),
        }
    }
}
