//! What can be wrong with bytes or with a packet, each with its rule and Reason Code.

mod rule;

use crate::packet::{PacketType, ProtocolVersion};
use crate::property::PropertyId;
use crate::reason_code::ReasonCode;

/// Why bytes are not a legal packet, or a text not a legal topic or string.
///
/// Every one of them ends the connection [MQTT-4.13.1-1] [MQTT-4.8.0-1 of 3.1.1]. What is sent before depends on
/// who is told: [`reason_code`](Self::reason_code) for 5.0,
/// [`connack_return_code`](Self::connack_return_code) for 3.1 and 3.1.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Known as soon as the fixed header is; the body was not waited for.
    #[error("packet of {bytes} bytes is larger than the maximum of {bytes_max}")]
    PacketTooLarge {
        /// Size of the whole packet.
        bytes: usize,
        /// The limit it was held against.
        bytes_max: usize,
    },
    /// A Variable Byte Integer goes on after its fourth byte.
    #[error("variable byte integer has more than four bytes")]
    VariableByteIntegerTooLong,
    /// MQTT 5.0 only; older versions allow padding.
    #[error("variable byte integer uses more bytes than its value needs")]
    VariableByteIntegerNotMinimal,
    /// Packet type 0, or 15 before MQTT 5.0.
    #[error("packet type {packet_type} is reserved")]
    PacketTypeReserved {
        /// The four bits.
        packet_type: u8,
    },
    /// Reserved bits of the first byte do not have their value.
    #[error("fixed header flags of {packet} are {flags:#06b}")]
    FlagsInvalid {
        /// Packet type.
        packet: PacketType,
        /// The four bits.
        flags: u8,
    },
    /// Both QoS bits are set.
    #[error("QoS 3 does not exist")]
    QosInvalid,
    /// A first transmission at QoS 0 cannot be repeated.
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupWithQos0,
    /// Something came before CONNECT.
    #[error("first packet is {packet}, not CONNECT")]
    NotConnect {
        /// What came instead.
        packet: PacketType,
    },
    /// CONNECT came again.
    #[error("second CONNECT on one connection")]
    SecondConnect,
    /// A packet that only the other side may send.
    #[error("{packet} comes from the wrong side")]
    WrongSender {
        /// What came.
        packet: PacketType,
    },
    /// The protocol name is neither MQTT nor MQIsdp.
    #[error("protocol name is not MQTT")]
    ProtocolNameInvalid,
    /// The protocol level is not 3, 4 or 5, or does not fit the protocol name.
    #[error("protocol level {level} is not supported")]
    UnsupportedProtocolVersion {
        /// The level asked for.
        level: u8,
    },
    /// Bit 0 of the connect flags is set.
    #[error("reserved connect flag is set")]
    ConnectFlagReserved,
    /// Will QoS 3.
    #[error("Will QoS 3 does not exist")]
    WillQosInvalid,
    /// Will QoS without Will Flag.
    #[error("Will QoS without Will Flag")]
    WillQosWithoutWill,
    /// Will Retain without Will Flag.
    #[error("Will Retain without Will Flag")]
    WillRetainWithoutWill,
    /// Will Flag without Will Topic.
    #[error("Will Flag without Will")]
    WillMissing,
    /// Legal from MQTT 5.0 on.
    #[error("Password Flag without User Name Flag")]
    PasswordWithoutUserName,
    /// The payload of CONNECT has no ClientID.
    #[error("client identifier is missing")]
    ClientIdMissing,
    /// User Name Flag without User Name.
    #[error("User Name Flag without User Name")]
    UserNameMissing,
    /// Password Flag without Password.
    #[error("Password Flag without Password")]
    PasswordMissing,
    /// A zero-length client identifier where one is needed.
    #[error("client identifier is empty")]
    ClientIdEmpty,
    /// A field reaches beyond the end of the packet.
    #[error("packet ends inside a field")]
    Truncated,
    /// Bytes after the last field.
    #[error("{packet} has bytes after its last field")]
    TrailingBytes {
        /// Packet type.
        packet: PacketType,
    },
    /// Ill-formed UTF-8, surrogates included.
    #[error("string is not UTF-8 after byte {valid_up_to}")]
    StringNotUtf8 {
        /// Length of the well-formed start.
        valid_up_to: usize,
    },
    /// U+0000.
    #[error("string contains U+0000")]
    StringContainsNull,
    /// Only for strings that were not read from a packet.
    #[error("string of {bytes} bytes is longer than 65,535")]
    StringTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Packet Identifier 0.
    #[error("packet identifier of {packet} is 0")]
    PacketIdZero {
        /// Packet type.
        packet: PacketType,
    },
    /// No such property.
    #[error("property {id:#04x} does not exist")]
    PropertyUnknown {
        /// Its identifier.
        id: u32,
    },
    /// A property that this packet cannot have.
    #[error("{packet} cannot have property {property:?}")]
    PropertyNotAllowed {
        /// The property.
        property: PropertyId,
        /// Packet type, or "Will".
        packet: &'static str,
    },
    /// A property that may be there once, twice.
    #[error("property {property:?} is repeated")]
    PropertyRepeated {
        /// The property.
        property: PropertyId,
    },
    /// A value outside the range of the property.
    #[error("property {property:?} has an illegal value")]
    PropertyValueInvalid {
        /// The property.
        property: PropertyId,
    },
    /// A property, or all of them, reach beyond their length.
    #[error("property length does not fit")]
    PropertyLengthInvalid,
    /// Topic Alias 0.
    #[error("topic alias is 0")]
    TopicAliasZero,
    /// Only a server adds Subscription Identifiers to a PUBLISH.
    #[error("PUBLISH from a client has a subscription identifier")]
    SubscriptionIdentifierFromClient,
    /// Only a client may set a Session Expiry Interval in DISCONNECT.
    #[error("DISCONNECT from a server has a session expiry interval")]
    SessionExpiryFromServer,
    /// Authentication Data needs a method.
    #[error("authentication data without authentication method")]
    AuthenticationMethodMissing,
    /// Zero-length Topic Name.
    #[error("topic name is empty")]
    TopicNameEmpty,
    /// Zero-length Topic Name in a PUBLISH without Topic Alias.
    #[error("PUBLISH has neither topic name nor topic alias")]
    TopicMissing,
    /// `+` or `#` in a Topic Name.
    #[error("topic name contains a wildcard")]
    TopicNameWildcard,
    /// `+` or `#` in a Response Topic.
    #[error("response topic contains a wildcard")]
    ResponseTopicWildcard,
    /// Zero-length Topic Filter.
    #[error("topic filter is empty")]
    TopicFilterEmpty,
    /// `#` that is not a whole level or not the last.
    #[error("# in a topic filter is not alone in the last level")]
    MultiLevelWildcardMisplaced,
    /// `+` that is not a whole level.
    #[error("+ in a topic filter is not alone in its level")]
    SingleLevelWildcardMisplaced,
    /// `$share//…`
    #[error("share name is empty")]
    ShareNameEmpty,
    /// Wildcard in the ShareName.
    #[error("share name contains a wildcard")]
    ShareNameInvalid,
    /// `$share/name` or `$share/name/`
    #[error("shared subscription has no topic filter")]
    ShareFilterMissing,
    /// SUBSCRIBE without filters.
    #[error("SUBSCRIBE has no topic filter")]
    SubscribeEmpty,
    /// UNSUBSCRIBE without filters.
    #[error("UNSUBSCRIBE has no topic filter")]
    UnsubscribeEmpty,
    /// SUBACK or, in 5.0, UNSUBACK without codes.
    #[error("{packet} has no reason code")]
    ReasonCodesMissing {
        /// Packet type.
        packet: PacketType,
    },
    /// Reserved bits of the options byte.
    #[error("reserved subscription option is set")]
    SubscriptionOptionsReserved,
    /// Requested QoS 3.
    #[error("requested QoS 3 does not exist")]
    RequestedQosInvalid,
    /// Retain Handling 3.
    #[error("retain handling 3 does not exist")]
    RetainHandlingInvalid,
    /// No Local on a shared subscription.
    #[error("No Local on a shared subscription")]
    NoLocalOnShared,
    /// A Reason Code that this packet, or its sender, cannot use.
    #[error("{packet} cannot have reason code {code:#04x}")]
    ReasonCodeInvalid {
        /// Packet type.
        packet: PacketType,
        /// The number.
        code: u8,
    },
    /// Reserved bits of the connect acknowledge flags.
    #[error("reserved connect acknowledge flag is set")]
    ConnackFlagsReserved,
    /// Session Present in a refusal.
    #[error("Session Present in a CONNACK that refuses")]
    SessionPresentOnRefusal,
    /// More repetitions than this implementation keeps; see [`Limits`](crate::Limits).
    #[error("packet has more than {max} {what}")]
    TooMany {
        /// "user properties" or "topic filters".
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

impl DecodeError {
    /// What CONNACK (before the session exists) or DISCONNECT says to an MQTT 5.0 peer.
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        rule::of(self).reason_code
    }

    /// The statement that is broken, in the numbering of `version`: `MQTT-x.y.z-n`, or
    /// `section x.y.z` where the standard gives no number.
    #[must_use]
    pub const fn rule(&self, version: ProtocolVersion) -> &'static str {
        match version {
            ProtocolVersion::V5 => rule::of(self).v5,
            ProtocolVersion::V31 | ProtocolVersion::V311 => rule::of(self).v311,
        }
    }

    /// What CONNACK says to a 3.1 or 3.1.1 client before the connection closes.
    ///
    /// `None`: close without a CONNACK; also for everything after CONNECT.
    #[must_use]
    pub const fn connack_return_code(&self) -> Option<u8> {
        if matches!(
            self,
            Self::UnsupportedProtocolVersion { .. } | Self::ClientIdEmpty
        ) {
            return self.reason_code().as_connack_return_code();
        }
        None
    }
}

/// Why a packet cannot be encoded. Nothing was written.
///
/// Each is a mistake of the caller, but for the first two, which data can provoke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More than the fixed header can say.
    #[error("packet of {bytes} bytes is larger than MQTT allows")]
    PacketTooLarge {
        /// Its length without the fixed header.
        bytes: usize,
    },
    /// Binary data of more than 65,535 bytes.
    #[error("binary data of {bytes} bytes is longer than 65,535")]
    DataTooLong {
        /// Its length.
        bytes: usize,
    },
    /// AUTH before MQTT 5.0, or a DISCONNECT with a Reason Code, which 3.1.1 cannot say.
    #[error("{packet} cannot be sent to a peer of this version")]
    NotInVersion {
        /// Packet type.
        packet: PacketType,
    },
    /// QoS 1 or 2 without packet identifier [MQTT-2.2.1-3], or QoS 0 with one [MQTT-2.2.1-2].
    #[error("QoS and packet identifier of PUBLISH do not fit")]
    PacketIdMismatch,
    /// DUP with QoS 0 [MQTT-3.3.1-2].
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupWithQos0,
    /// Neither Topic Name nor, in 5.0, Topic Alias.
    #[error("PUBLISH has neither topic name nor topic alias")]
    TopicMissing,
    /// SUBSCRIBE, UNSUBSCRIBE, SUBACK or UNSUBACK without entries.
    #[error("{packet} has no entries")]
    Empty {
        /// Packet type.
        packet: PacketType,
    },
    /// A Reason Code that this packet cannot have, or that has no return code in 3.1.1.
    #[error("{packet} cannot have reason code {code:?}")]
    ReasonCodeInvalid {
        /// Packet type.
        packet: PacketType,
        /// The code.
        code: ReasonCode,
    },
    /// Password without User Name before MQTT 5.0 [MQTT-3.1.2-22 of 3.1.1].
    #[error("password without user name")]
    PasswordWithoutUserName,
    /// Authentication Data without Authentication Method.
    #[error("authentication data without authentication method")]
    AuthenticationMethodMissing,
}
