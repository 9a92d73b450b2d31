//! UNSUBSCRIBE and UNSUBACK (sections 3.10 and 3.11).

use crate::packet_id::PacketId;
use crate::primitive::Utf8;
use crate::reason_code::ReasonCode;
use crate::topic::TopicFilter;

/// Ends subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Echoed by the UNSUBACK [MQTT-3.10.4-5].
    pub packet_id: PacketId,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// At least one [MQTT-3.10.3-2].
    pub filters: Vec<TopicFilter>,
}

/// The answer to UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsuback {
    /// The identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// One per filter, in order; before MQTT 5.0 not on the wire, so empty after decoding.
    pub reason_codes: Vec<ReasonCode>,
}
