//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape (sections 3.4 to 3.7).

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::packet::{PacketType, ProtocolVersion, Sender};
use crate::packet_id::PacketId;
use crate::primitive::{Reader, Utf8, Writer};
use crate::property::{Place, Properties, PropertyId};
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

impl Ack {
    pub(crate) fn decode(
        packet: PacketType,
        reader: &mut Reader,
        rules: &Rules,
    ) -> Result<Self, DecodeError> {
        let mut ack = Self::success(PacketId::decode(packet, reader)?);
        if rules.version < ProtocolVersion::V5 || reader.is_empty() {
            return Ok(ack);
        }
        ack.reason_code = ReasonCode::decode(reader.u8()?, packet, rules.sender)?;
        if reader.is_empty() {
            return Ok(ack);
        }
        let properties = Properties::decode(reader, Place::Packet(packet), &rules.limits)?;
        ack.reason_string = properties.reason_string;
        ack.user_properties = properties.message.user_properties;
        Ok(ack)
    }

    /// Uses the short forms of section 3.4.2.1 where they say the same.
    pub(crate) fn write(
        &self,
        packet: PacketType,
        version: ProtocolVersion,
        writer: &mut Writer<'_>,
    ) {
        writer.u16(self.packet_id.get());
        let has_properties = self.reason_string.is_some() || !self.user_properties.is_empty();
        let is_plain = self.reason_code == ReasonCode::Success && !has_properties;
        if version < ProtocolVersion::V5 || is_plain {
            return;
        }
        writer.reason_code(packet, self.reason_code);
        if has_properties {
            writer.reason_properties(self.reason_string.as_ref(), &self.user_properties);
        }
    }
}

/// What acknowledgements of MQTT 5.0 share.
impl Writer<'_> {
    /// A Reason Code, refused where it cannot stand.
    pub(crate) fn reason_code(&mut self, packet: PacketType, code: ReasonCode) {
        if !code.is_allowed_in(packet, Sender::Server)
            && !code.is_allowed_in(packet, Sender::Client)
        {
            self.refuse(EncodeError::ReasonCodeInvalid { packet, code });
        }
        self.u8(code.as_u8());
    }

    /// Property Length, Reason String and User Properties.
    pub(crate) fn reason_properties(
        &mut self,
        reason_string: Option<&Utf8>,
        user_properties: &[(Utf8, Utf8)],
    ) {
        self.properties(|writer| {
            writer.property_utf8(PropertyId::ReasonString, reason_string);
            writer.user_properties(user_properties);
        });
    }
}
