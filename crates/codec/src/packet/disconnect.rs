//! DISCONNECT (section 3.14).

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::packet::{PacketType, ProtocolVersion, Sender};
use crate::primitive::{Reader, Utf8, Writer};
use crate::property::{Place, Properties, PropertyId};
use crate::reason_code::ReasonCode;

/// The last packet on a connection. Before MQTT 5.0 only a client sends it, and it has no fields.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; `Success` is "Normal disconnection".
    pub reason_code: ReasonCode,
    /// In seconds; only from a client.
    pub session_expiry_interval: Option<u32>,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// Another server to use; only from a server.
    pub server_reference: Option<Utf8>,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    #[must_use]
    pub const fn new(reason_code: ReasonCode) -> Self {
        Self {
            reason_code,
            session_expiry_interval: None,
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        }
    }
}

impl Disconnect {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Disconnect;
        let mut disconnect = Self::default();
        if rules.version < ProtocolVersion::V5 || reader.is_empty() {
            return Ok(disconnect);
        }
        disconnect.reason_code = ReasonCode::decode(reader.u8()?, packet, rules.sender)?;
        if reader.is_empty() {
            return Ok(disconnect);
        }
        let properties = Properties::decode(reader, Place::Packet(packet), &rules.limits)?;
        if properties.session_expiry_interval.is_some() && rules.sender == Sender::Server {
            return Err(DecodeError::SessionExpiryFromServer);
        }
        disconnect.session_expiry_interval = properties.session_expiry_interval;
        disconnect.reason_string = properties.reason_string;
        disconnect.user_properties = properties.message.user_properties;
        disconnect.server_reference = properties.server_reference;
        Ok(disconnect)
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let packet = PacketType::Disconnect;
        if version < ProtocolVersion::V5 {
            if self.reason_code != ReasonCode::Success {
                writer.refuse(EncodeError::NotInVersion { packet });
            }
            return;
        }
        if *self == Self::default() {
            return;
        }
        writer.reason_code(packet, self.reason_code);
        if *self == Self::new(self.reason_code) {
            return;
        }
        writer.properties(|writer| {
            let expiry = self.session_expiry_interval;
            writer.property_u32(PropertyId::SessionExpiryInterval, expiry);
            writer.property_utf8(PropertyId::ReasonString, self.reason_string.as_ref());
            writer.user_properties(&self.user_properties);
            writer.property_utf8(PropertyId::ServerReference, self.server_reference.as_ref());
        });
    }
}
