//! UNSUBSCRIBE and UNSUBACK (sections 3.10 and 3.11).

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::packet::subscribe::{check_filter_count, decode_reason_codes};
use crate::packet::{PacketType, ProtocolVersion};
use crate::packet_id::PacketId;
use crate::primitive::{Reader, Utf8, Writer};
use crate::property::{Place, Properties};
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

impl Unsubscribe {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Unsubscribe;
        let packet_id = PacketId::decode(packet, reader)?;
        let properties = match rules.version {
            ProtocolVersion::V5 => {
                Properties::decode(reader, Place::Packet(packet), &rules.limits)?
            }
            ProtocolVersion::V31 | ProtocolVersion::V311 => Properties::default(),
        };
        if reader.is_empty() {
            return Err(DecodeError::UnsubscribeEmpty);
        }
        let mut filters = Vec::new();
        while !reader.is_empty() {
            check_filter_count(filters.len(), rules)?;
            filters.push(TopicFilter::try_from(reader.utf8()?)?);
        }
        Ok(Self {
            packet_id,
            user_properties: properties.message.user_properties,
            filters,
        })
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        if self.filters.is_empty() {
            return writer.refuse(EncodeError::Empty {
                packet: PacketType::Unsubscribe,
            });
        }
        writer.u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| writer.user_properties(&self.user_properties));
        }
        for filter in &self.filters {
            writer.binary(filter.as_bytes());
        }
    }
}

impl Unsuback {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Unsuback;
        let mut unsuback = Self {
            packet_id: PacketId::decode(packet, reader)?,
            reason_string: None,
            user_properties: Vec::new(),
            reason_codes: Vec::new(),
        };
        if rules.version < ProtocolVersion::V5 {
            return Ok(unsuback);
        }
        let properties = Properties::decode(reader, Place::Packet(packet), &rules.limits)?;
        unsuback.reason_string = properties.reason_string;
        unsuback.user_properties = properties.message.user_properties;
        unsuback.reason_codes = decode_reason_codes(packet, reader, rules)?;
        Ok(unsuback)
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let packet = PacketType::Unsuback;
        writer.u16(self.packet_id.get());
        if version < ProtocolVersion::V5 {
            return;
        }
        if self.reason_codes.is_empty() {
            return writer.refuse(EncodeError::Empty { packet });
        }
        writer.reason_properties(self.reason_string.as_ref(), &self.user_properties);
        for &code in &self.reason_codes {
            writer.reason_code(packet, code);
        }
    }
}
