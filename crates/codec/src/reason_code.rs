//! Reason Codes (section 2.4) and the packets each may appear in.

use crate::error::DecodeError;
use crate::packet::{PacketType, Sender};

/// A Reason Code. One name per number: `Success` is also "Normal disconnection" and
/// "Granted QoS 0".
///
/// The return codes of 3.1 and 3.1.1 are mapped to the code of the same meaning, see
/// [`from_connack_return_code`](Self::from_connack_return_code).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of table 2-6")]
pub enum ReasonCode {
    #[default]
    Success = 0x00,
    GrantedQos1 = 0x01,
    GrantedQos2 = 0x02,
    DisconnectWithWillMessage = 0x04,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    ContinueAuthentication = 0x18,
    ReAuthenticate = 0x19,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ImplementationSpecificError = 0x83,
    UnsupportedProtocolVersion = 0x84,
    ClientIdentifierNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8A,
    ServerShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdentifierInUse = 0x91,
    PacketIdentifierNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    MessageRateTooHigh = 0x96,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
    PayloadFormatInvalid = 0x99,
    RetainNotSupported = 0x9A,
    QosNotSupported = 0x9B,
    UseAnotherServer = 0x9C,
    ServerMoved = 0x9D,
    SharedSubscriptionsNotSupported = 0x9E,
    ConnectionRateExceeded = 0x9F,
    MaximumConnectTime = 0xA0,
    SubscriptionIdentifiersNotSupported = 0xA1,
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Every code, in ascending order.
    pub const ALL: [Self; 43] = [
        Self::Success,
        Self::GrantedQos1,
        Self::GrantedQos2,
        Self::DisconnectWithWillMessage,
        Self::NoMatchingSubscribers,
        Self::NoSubscriptionExisted,
        Self::ContinueAuthentication,
        Self::ReAuthenticate,
        Self::UnspecifiedError,
        Self::MalformedPacket,
        Self::ProtocolError,
        Self::ImplementationSpecificError,
        Self::UnsupportedProtocolVersion,
        Self::ClientIdentifierNotValid,
        Self::BadUserNameOrPassword,
        Self::NotAuthorized,
        Self::ServerUnavailable,
        Self::ServerBusy,
        Self::Banned,
        Self::ServerShuttingDown,
        Self::BadAuthenticationMethod,
        Self::KeepAliveTimeout,
        Self::SessionTakenOver,
        Self::TopicFilterInvalid,
        Self::TopicNameInvalid,
        Self::PacketIdentifierInUse,
        Self::PacketIdentifierNotFound,
        Self::ReceiveMaximumExceeded,
        Self::TopicAliasInvalid,
        Self::PacketTooLarge,
        Self::MessageRateTooHigh,
        Self::QuotaExceeded,
        Self::AdministrativeAction,
        Self::PayloadFormatInvalid,
        Self::RetainNotSupported,
        Self::QosNotSupported,
        Self::UseAnotherServer,
        Self::ServerMoved,
        Self::SharedSubscriptionsNotSupported,
        Self::ConnectionRateExceeded,
        Self::MaximumConnectTime,
        Self::SubscriptionIdentifiersNotSupported,
        Self::WildcardSubscriptionsNotSupported,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether the operation failed: 0x80 and above.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// Whether `sender` may put this code into a `packet` of MQTT 5.0 (tables 3-1 to 3-11).
    #[must_use]
    pub fn is_allowed_in(self, packet: PacketType, sender: Sender) -> bool {
        let code = self.as_u8();
        let from_server = sender == Sender::Server;
        match packet {
            PacketType::Connack => {
                from_server
                    && matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            // "Sent only by the Server", says the table of 0x10; from a client it is taken as the success
            // that it is, because [MQTT-4.3.3-4] makes no exception.
            PacketType::Puback | PacketType::Pubrec => {
                matches!(
                    code,
                    0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
                )
            }
            PacketType::Pubrel | PacketType::Pubcomp => matches!(code, 0x00 | 0x92),
            PacketType::Suback => {
                from_server
                    && matches!(
                        code,
                        0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
                    )
            }
            PacketType::Unsuback => {
                from_server && matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            PacketType::Disconnect => match code {
                0x04 => !from_server,
                0x87 | 0x89 | 0x8B..=0x8F | 0x9A..=0xA2 => from_server,
                _ => matches!(code, 0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99),
            },
            PacketType::Auth => match code {
                0x00 => from_server,
                0x19 => !from_server,
                _ => code == 0x18,
            },
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq
            | PacketType::Pingresp => false,
        }
    }

    /// The CONNACK return code of 3.1 and 3.1.1 with this meaning. `None`: close the connection
    /// without a CONNACK, none fits [MQTT-3.2.2-6 of 3.1.1].
    #[must_use]
    pub const fn as_connack_return_code(self) -> Option<u8> {
        match self.as_u8() {
            0x00 => Some(0),
            0x84 => Some(1),
            0x85 => Some(2),
            0x88 | 0x89 => Some(3),
            0x86 | 0x8C => Some(4),
            0x87 | 0x8A => Some(5),
            _ => None,
        }
    }

    /// The code with the meaning of a CONNACK return code of 3.1 and 3.1.1; `None` above 5.
    #[must_use]
    pub const fn from_connack_return_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// Reads the code of `packet` and checks that `sender` may use it there.
    pub(crate) fn decode(
        code: u8,
        packet: PacketType,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        Self::try_from(code)
            .ok()
            .filter(|reason_code| reason_code.is_allowed_in(packet, sender))
            .ok_or(DecodeError::ReasonCodeInvalid { packet, code })
    }
}

impl TryFrom<u8> for ReasonCode {
    type Error = u8;

    /// # Errors
    /// Gives a number that is no Reason Code back.
    fn try_from(code: u8) -> Result<Self, u8> {
        Self::ALL
            .binary_search_by_key(&code, |reason_code| reason_code.as_u8())
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .ok_or(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_number_and_by_no_other() {
        let found: Vec<_> = (0..=255)
            .filter_map(|n| ReasonCode::try_from(n).ok())
            .collect();
        assert_eq!(found, ReasonCode::ALL);
    }

    #[test]
    fn every_code_may_appear_somewhere() {
        for code in ReasonCode::ALL {
            assert!(
                PacketType::ALL.iter().any(|&packet| {
                    code.is_allowed_in(packet, Sender::Client)
                        || code.is_allowed_in(packet, Sender::Server)
                }),
                "{code:?}"
            );
        }
    }
}
