//! AUTH (section 3.15), MQTT 5.0 only.

use bytes::Bytes;

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::packet::{PacketType, ProtocolVersion};
use crate::primitive::{Reader, Utf8, Writer};
use crate::property::{Place, Properties, PropertyId};
use crate::reason_code::ReasonCode;

/// A step of an extended authentication.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, continue, or re-authenticate.
    pub reason_code: ReasonCode,
    /// The method; always there unless the reason is success.
    pub authentication_method: Option<Utf8>,
    /// What the method exchanges, at most 65,535 bytes.
    pub authentication_data: Option<Bytes>,
    /// For people; not to be parsed.
    pub reason_string: Option<Utf8>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
}

impl Auth {
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let packet = PacketType::Auth;
        if reader.is_empty() {
            let reason_code = ReasonCode::decode(0, packet, rules.sender)?;
            return Ok(Self {
                reason_code,
                ..Self::default()
            });
        }
        let reason_code = ReasonCode::decode(reader.u8()?, packet, rules.sender)?;
        let properties = Properties::decode(reader, Place::Packet(packet), &rules.limits)?;
        let auth = Self {
            reason_code,
            authentication_method: properties.authentication_method,
            authentication_data: properties.authentication_data,
            reason_string: properties.reason_string,
            user_properties: properties.message.user_properties,
        };
        if !auth.has_method_if_needed() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(auth)
    }

    pub(crate) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let packet = PacketType::Auth;
        if version < ProtocolVersion::V5 {
            return writer.refuse(EncodeError::NotInVersion { packet });
        }
        if !self.has_method_if_needed() {
            return writer.refuse(EncodeError::AuthenticationMethodMissing);
        }
        if *self == Self::default() {
            return;
        }
        writer.reason_code(packet, self.reason_code);
        writer.properties(|writer| {
            let method = self.authentication_method.as_ref();
            writer.property_utf8(PropertyId::AuthenticationMethod, method);
            let data = self.authentication_data.as_deref();
            writer.property_binary(PropertyId::AuthenticationData, data);
            writer.property_utf8(PropertyId::ReasonString, self.reason_string.as_ref());
            writer.user_properties(&self.user_properties);
        });
    }

    /// Every step but a bare success names its method (section 3.15.2.2.2).
    const fn has_method_if_needed(&self) -> bool {
        self.authentication_method.is_some()
            || (matches!(self.reason_code, ReasonCode::Success)
                && self.authentication_data.is_none())
    }
}
