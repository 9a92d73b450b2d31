//! CONNECT with its Will (section 3.1).

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::decode::Rules;
use crate::error::{DecodeError, EncodeError};
use crate::message::Message;
use crate::packet::{PacketType, ProtocolVersion};
use crate::primitive::{Reader, Utf8, Writer};
use crate::property::{Place, Properties, PropertyId};
use crate::qos::Qos;
use crate::topic::TopicName;

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// The first packet of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version spoken on this connection from now on.
    pub version: ProtocolVersion,
    /// Clean Start; Clean Session before MQTT 5.0, which also ends the session with the connection.
    pub clean_start: bool,
    /// In seconds; 0: none.
    pub keep_alive_s: u16,
    /// May be empty, then the server chooses one [MQTT-3.1.3-6].
    pub client_id: Utf8,
    /// What to publish when the client is lost.
    pub will: Option<Will>,
    /// User Name.
    pub username: Option<Utf8>,
    /// Password, at most 65,535 bytes; before MQTT 5.0 only with a user name.
    pub password: Option<Bytes>,
    /// In seconds; default 0, `u32::MAX`: never.
    pub session_expiry_interval: Option<u32>,
    /// How many QoS 1 and 2 publications the server may have in flight; default 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet the client accepts, in bytes; default none.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The highest alias the server may use; default 0.
    pub topic_alias_maximum: Option<u16>,
    /// Whether the client asks for Response Information; default no.
    pub request_response_information: Option<bool>,
    /// Whether the server may add Reason String and User Properties to all packets; default yes.
    pub request_problem_information: Option<bool>,
    /// Name and value pairs.
    pub user_properties: Vec<(Utf8, Utf8)>,
    /// Asks for extended authentication.
    pub authentication_method: Option<Utf8>,
    /// What the method exchanges, at most 65,535 bytes; only with a method.
    pub authentication_data: Option<Bytes>,
}

/// The Will Message, and how long it waits after the connection is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// What is published. The payload is at most 65,535 bytes.
    pub message: Message,
    /// Will Delay Interval in seconds; 0 is the same as absent.
    pub delay_interval_s: u32,
}

/// Without the secrets, and without what may be large: for a log.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("session_expiry_interval", &self.session_expiry_interval)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .finish_non_exhaustive()
    }
}

impl Connect {
    /// A CONNECT with Clean Start, a keep alive of 60 seconds, and nothing else.
    #[must_use]
    pub const fn new(version: ProtocolVersion, client_id: Utf8) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive_s: 60,
            client_id,
            will: None,
            username: None,
            password: None,
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: None,
            request_response_information: None,
            request_problem_information: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl Connect {
    /// Reads protocol name and level, before which nothing else can be understood.
    pub(crate) fn decode_version(reader: &mut Reader) -> Result<ProtocolVersion, DecodeError> {
        let name = reader.binary()?;
        if name != ProtocolVersion::V311.name() && name != ProtocolVersion::V31.name() {
            return Err(DecodeError::ProtocolNameInvalid);
        }
        let level = reader.u8()?;
        [
            ProtocolVersion::V31,
            ProtocolVersion::V311,
            ProtocolVersion::V5,
        ]
        .into_iter()
        .find(|version| version.level() == level && name == version.name())
        .ok_or(DecodeError::UnsupportedProtocolVersion { level })
    }

    /// Reads what follows the protocol level.
    pub(crate) fn decode(reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        let version = rules.version;
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive_s = reader.u16()?;
        let properties = match version {
            ProtocolVersion::V5 => {
                let place = Place::Packet(PacketType::Connect);
                Properties::decode(reader, place, &rules.limits)?
            }
            ProtocolVersion::V31 | ProtocolVersion::V311 => Properties::default(),
        };
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        let clean_start = flags & CLEAN_START != 0;
        let client_id = decode_client_id(reader, version, clean_start)?;
        let will = match flags & WILL != 0 {
            true => Some(Will::decode(flags, reader, rules)?),
            false => None,
        };
        let (username, password) = decode_credentials(flags, reader, version)?;
        Ok(Self {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            session_expiry_interval: properties.session_expiry_interval,
            receive_maximum: properties.receive_maximum,
            maximum_packet_size: properties.maximum_packet_size,
            topic_alias_maximum: properties.topic_alias_maximum,
            request_response_information: properties.request_response_information,
            request_problem_information: properties.request_problem_information,
            user_properties: properties.message.user_properties,
            authentication_method: properties.authentication_method,
            authentication_data: properties.authentication_data,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        if self.version < ProtocolVersion::V5 && self.password.is_some() && self.username.is_none()
        {
            return writer.refuse(EncodeError::PasswordWithoutUserName);
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return writer.refuse(EncodeError::AuthenticationMethodMissing);
        }
        writer.binary(self.version.name());
        writer.u8(self.version.level());
        writer.u8(self.flags());
        writer.u16(self.keep_alive_s);
        if self.version == ProtocolVersion::V5 {
            writer.properties(|writer| self.write_properties(writer));
        }
        writer.utf8(&self.client_id);
        if let Some(will) = &self.will {
            will.write(self.version, writer);
        }
        if let Some(username) = &self.username {
            writer.utf8(username);
        }
        if let Some(password) = &self.password {
            writer.binary(password);
        }
    }

    fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| {
            let retain = if will.message.retain { WILL_RETAIN } else { 0 };
            WILL | will.message.qos.as_u8() << WILL_QOS_SHIFT | retain
        });
        let clean_start = if self.clean_start { CLEAN_START } else { 0 };
        let username = self.username.as_ref().map_or(0, |_| USER_NAME);
        let password = self.password.as_ref().map_or(0, |_| PASSWORD);
        clean_start | will | username | password
    }

    fn write_properties(&self, writer: &mut Writer<'_>) {
        use PropertyId as Id;
        let receive_maximum = self.receive_maximum.map(NonZeroU16::get);
        let maximum_packet_size = self.maximum_packet_size.map(NonZeroU32::get);
        writer.property_u32(Id::SessionExpiryInterval, self.session_expiry_interval);
        writer.property_u16(Id::ReceiveMaximum, receive_maximum);
        writer.property_u32(Id::MaximumPacketSize, maximum_packet_size);
        writer.property_u16(Id::TopicAliasMaximum, self.topic_alias_maximum);
        writer.property_bool(
            Id::RequestResponseInformation,
            self.request_response_information,
        );
        writer.property_bool(
            Id::RequestProblemInformation,
            self.request_problem_information,
        );
        writer.user_properties(&self.user_properties);
        writer.property_utf8(
            Id::AuthenticationMethod,
            self.authentication_method.as_ref(),
        );
        writer.property_binary(Id::AuthenticationData, self.authentication_data.as_deref());
    }
}

impl Will {
    fn decode(flags: u8, reader: &mut Reader, rules: &Rules) -> Result<Self, DecodeError> {
        if reader.is_empty() {
            return Err(DecodeError::WillMissing);
        }
        let properties = match rules.version {
            ProtocolVersion::V5 => Properties::decode(reader, Place::Will, &rules.limits)?,
            ProtocolVersion::V31 | ProtocolVersion::V311 => Properties::default(),
        };
        if reader.is_empty() {
            return Err(DecodeError::WillMissing);
        }
        let topic = TopicName::try_from(reader.utf8()?)?;
        if reader.is_empty() {
            return Err(DecodeError::WillMissing);
        }
        let qos = (flags & WILL_QOS) >> WILL_QOS_SHIFT;
        Ok(Self {
            message: Message {
                topic,
                payload: reader.binary()?,
                qos: Qos::try_from(qos).or(Err(DecodeError::WillQosInvalid))?,
                retain: flags & WILL_RETAIN != 0,
                properties: properties.message,
            },
            delay_interval_s: properties.will_delay_interval.unwrap_or(0),
        })
    }

    fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let message = &self.message;
        if version == ProtocolVersion::V5 {
            let delay = Some(self.delay_interval_s).filter(|delay| *delay > 0);
            writer.properties(|writer| {
                writer.property_u32(PropertyId::WillDelayInterval, delay);
                let expiry_interval = message.properties.message_expiry_interval;
                writer.message_properties(&message.properties, expiry_interval);
            });
        }
        writer.binary(message.topic.as_bytes());
        writer.binary(&message.payload);
    }
}

/// The connect flags agree with each other.
fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    let has_will = flags & WILL != 0;
    if flags & RESERVED != 0 {
        return Err(DecodeError::ConnectFlagReserved);
    }
    if !has_will && flags & WILL_QOS != 0 {
        return Err(DecodeError::WillQosWithoutWill);
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(DecodeError::WillQosInvalid);
    }
    if !has_will && flags & WILL_RETAIN != 0 {
        return Err(DecodeError::WillRetainWithoutWill);
    }
    if version < ProtocolVersion::V5 && flags & (PASSWORD | USER_NAME) == PASSWORD {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

/// Before MQTT 5.0 only a client without a lasting session may leave its name to the server
/// [MQTT-3.1.3-8 of 3.1.1]; in 3.1 none may. The 23-byte limit of 3.1 is not enforced.
fn decode_client_id(
    reader: &mut Reader,
    version: ProtocolVersion,
    clean_start: bool,
) -> Result<Utf8, DecodeError> {
    if reader.is_empty() {
        return Err(DecodeError::ClientIdMissing);
    }
    let client_id = reader.utf8()?;
    let may_be_empty = match version {
        ProtocolVersion::V31 => false,
        ProtocolVersion::V311 => clean_start,
        ProtocolVersion::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty {
        return Err(DecodeError::ClientIdEmpty);
    }
    Ok(client_id)
}

fn decode_credentials(
    flags: u8,
    reader: &mut Reader,
    version: ProtocolVersion,
) -> Result<(Option<Utf8>, Option<Bytes>), DecodeError> {
    // In 3.1 the flags may promise what does not come ("Remaining Length takes precedence").
    let may_be_missing = version == ProtocolVersion::V31;
    let username = match (flags & USER_NAME != 0, reader.is_empty()) {
        (false, _) => None,
        (true, false) => Some(reader.utf8()?),
        (true, true) if may_be_missing => None,
        (true, true) => return Err(DecodeError::UserNameMissing),
    };
    let password = match (flags & PASSWORD != 0, reader.is_empty()) {
        (false, _) => None,
        (true, false) => Some(reader.binary()?),
        (true, true) if may_be_missing => None,
        (true, true) => return Err(DecodeError::PasswordMissing),
    };
    Ok((username, password))
}
