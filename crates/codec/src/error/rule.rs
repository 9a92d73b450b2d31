//! The table of broken rules: variant → Reason Code and statement, per version of the standard.

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::reason_code::ReasonCode;

/// One row of the table.
pub(super) struct Rule {
    pub(super) reason_code: ReasonCode,
    pub(super) v5: &'static str,
    pub(super) v311: &'static str,
}

const fn malformed(v5: &'static str, v311: &'static str) -> Rule {
    rule(ReasonCode::MalformedPacket, v5, v311)
}

const fn protocol_error(v5: &'static str, v311: &'static str) -> Rule {
    rule(ReasonCode::ProtocolError, v5, v311)
}

const fn bad_filter(v5: &'static str, v311: &'static str) -> Rule {
    rule(ReasonCode::TopicFilterInvalid, v5, v311)
}

const fn rule(reason_code: ReasonCode, v5: &'static str, v311: &'static str) -> Rule {
    Rule {
        reason_code,
        v5,
        v311,
    }
}

/// A rule that only MQTT 5.0 has; the error does not occur in other versions.
const ONLY_V5: &str = "none";

/// A rule that 5.0 dropped.
const ONLY_V311: &str = "none";

/// Looks up the rule that `error` says was broken.
#[rustfmt::skip]
pub(super) const fn of(error: &DecodeError) -> Rule {
    use DecodeError as E;
    use ReasonCode as R;
    match error {
        E::PacketTooLarge { .. } => rule(R::PacketTooLarge, "MQTT-3.2.2-15", "section 2.2.3"),
        E::VariableByteIntegerTooLong => malformed("section 1.5.5", "section 2.2.3"),
        E::VariableByteIntegerNotMinimal => malformed("MQTT-1.5.5-1", ONLY_V5),
        E::PacketTypeReserved { .. } => malformed("section 2.1.2", "section 2.2.1"),
        E::FlagsInvalid { packet, .. } => flags(*packet),
        E::QosInvalid => malformed("MQTT-3.3.1-4", "MQTT-3.3.1-4"),
        E::DupWithQos0 => malformed("MQTT-3.3.1-2", "MQTT-3.3.1-2"),
        E::NotConnect { .. } => protocol_error("MQTT-3.1.0-1", "MQTT-3.1.0-1"),
        E::SecondConnect => protocol_error("MQTT-3.1.0-2", "MQTT-3.1.0-2"),
        E::WrongSender { .. } => protocol_error("section 2.1.2", "section 2.2.1"),
        E::ProtocolNameInvalid => rule(R::UnsupportedProtocolVersion, "MQTT-3.1.2-1", "MQTT-3.1.2-1"),
        E::UnsupportedProtocolVersion { .. } => rule(R::UnsupportedProtocolVersion, "MQTT-3.1.2-2", "MQTT-3.1.2-2"),
        E::ConnectFlagReserved => malformed("MQTT-3.1.2-3", "MQTT-3.1.2-3"),
        E::WillQosInvalid => malformed("MQTT-3.1.2-12", "MQTT-3.1.2-14"),
        E::WillQosWithoutWill => malformed("MQTT-3.1.2-11", "MQTT-3.1.2-13"),
        E::WillRetainWithoutWill => malformed("MQTT-3.1.2-13", "MQTT-3.1.2-15"),
        E::WillMissing => malformed("MQTT-3.1.2-9", "MQTT-3.1.2-9"),
        E::PasswordWithoutUserName => malformed(ONLY_V311, "MQTT-3.1.2-22"),
        E::ClientIdMissing => malformed("MQTT-3.1.3-3", "MQTT-3.1.3-3"),
        E::UserNameMissing => malformed("MQTT-3.1.2-17", "MQTT-3.1.2-19"),
        E::PasswordMissing => malformed("MQTT-3.1.2-19", "MQTT-3.1.2-21"),
        E::ClientIdEmpty => rule(R::ClientIdentifierNotValid, "MQTT-3.1.3-8", "MQTT-3.1.3-8"),
        E::Truncated => malformed("section 1.2", "section 2.2.3"),
        E::TrailingBytes { packet } => trailing(*packet),
        E::StringNotUtf8 { .. } => malformed("MQTT-1.5.4-1", "MQTT-1.5.3-1"),
        E::StringContainsNull => malformed("MQTT-1.5.4-2", "MQTT-1.5.3-2"),
        E::StringTooLong { .. } => malformed("section 1.5.4", "section 1.5.3"),
        E::PacketIdZero { .. } => protocol_error("MQTT-2.2.1-3", "MQTT-2.3.1-1"),
        E::PropertyUnknown { .. } | E::PropertyNotAllowed { .. } => malformed("section 2.2.2.2", ONLY_V5),
        E::PropertyRepeated { .. } | E::PropertyValueInvalid { .. } => protocol_error("section 2.2.2.2", ONLY_V5),
        E::PropertyLengthInvalid => malformed("MQTT-2.2.2-1", ONLY_V5),
        E::TopicAliasZero => rule(R::TopicAliasInvalid, "MQTT-3.3.2-8", ONLY_V5),
        E::SubscriptionIdentifierFromClient => protocol_error("MQTT-3.3.4-6", ONLY_V5),
        E::SessionExpiryFromServer => protocol_error("MQTT-3.14.2-2", ONLY_V5),
        E::AuthenticationMethodMissing => protocol_error("section 3.1.2.11.10", ONLY_V5),
        E::TopicNameEmpty => rule(R::TopicNameInvalid, "MQTT-4.7.3-1", "MQTT-4.7.3-1"),
        E::TopicMissing => protocol_error("MQTT-3.3.2-1", "MQTT-4.7.3-1"),
        E::TopicNameWildcard => rule(R::TopicNameInvalid, "MQTT-3.3.2-2", "MQTT-3.3.2-2"),
        E::ResponseTopicWildcard => protocol_error("MQTT-3.3.2-14", ONLY_V5),
        E::TopicFilterEmpty => bad_filter("MQTT-4.7.3-1", "MQTT-4.7.3-1"),
        E::MultiLevelWildcardMisplaced => bad_filter("MQTT-4.7.1-1", "MQTT-4.7.1-2"),
        E::SingleLevelWildcardMisplaced => bad_filter("MQTT-4.7.1-2", "MQTT-4.7.1-3"),
        // Before 5.0 shared subscriptions are an extension, with the rules of 5.0.
        E::ShareNameEmpty => bad_filter("MQTT-4.8.2-1", "section 4.7.2"),
        E::ShareNameInvalid | E::ShareFilterMissing => bad_filter("MQTT-4.8.2-2", "section 4.7.2"),
        E::SubscribeEmpty => protocol_error("MQTT-3.8.3-2", "MQTT-3.8.3-3"),
        E::UnsubscribeEmpty => protocol_error("MQTT-3.10.3-2", "MQTT-3.10.3-2"),
        E::ReasonCodesMissing { .. } => protocol_error("MQTT-3.8.4-6", "MQTT-3.8.4-5"),
        E::SubscriptionOptionsReserved => malformed("MQTT-3.8.3-5", "MQTT-3.8.3-4"),
        E::RequestedQosInvalid => protocol_error("section 3.8.3.1", "MQTT-3.8.3-4"),
        E::RetainHandlingInvalid => protocol_error("section 3.8.3.1", ONLY_V5),
        E::NoLocalOnShared => protocol_error("MQTT-3.8.3-4", ONLY_V5),
        E::ReasonCodeInvalid { packet, .. } => reason_code(*packet),
        E::ConnackFlagsReserved => malformed("MQTT-3.2.2-1", "section 3.2.2.1"),
        E::SessionPresentOnRefusal => protocol_error("MQTT-3.2.2-6", "MQTT-3.2.2-4"),
        E::TooMany { .. } => rule(R::QuotaExceeded, "section 2.4", "section 4.8"),
    }
}

const fn flags(packet: PacketType) -> Rule {
    match packet {
        PacketType::Pubrel => malformed("MQTT-3.6.1-1", "MQTT-3.6.1-1"),
        PacketType::Subscribe => malformed("MQTT-3.8.1-1", "MQTT-3.8.1-1"),
        PacketType::Unsubscribe => malformed("MQTT-3.10.1-1", "MQTT-3.10.1-1"),
        PacketType::Disconnect => malformed("MQTT-3.14.1-1", "MQTT-3.14.1-1"),
        PacketType::Auth => malformed("MQTT-3.15.1-1", ONLY_V5),
        PacketType::Connect
        | PacketType::Connack
        | PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubcomp
        | PacketType::Suback
        | PacketType::Unsuback
        | PacketType::Pingreq
        | PacketType::Pingresp => malformed("MQTT-2.1.3-1", "MQTT-2.2.2-2"),
    }
}

const fn trailing(packet: PacketType) -> Rule {
    match packet {
        PacketType::Connect => malformed("MQTT-3.1.4-1", "MQTT-3.1.4-1"),
        PacketType::Unsubscribe => malformed("MQTT-3.10.3-1", "MQTT-3.10.3-1"),
        PacketType::Connack
        | PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp
        | PacketType::Subscribe
        | PacketType::Suback
        | PacketType::Unsuback
        | PacketType::Pingreq
        | PacketType::Pingresp
        | PacketType::Disconnect
        | PacketType::Auth => malformed("section 2.1.4", "section 2.2.3"),
    }
}

const fn reason_code(packet: PacketType) -> Rule {
    match packet {
        PacketType::Connack => protocol_error("MQTT-3.2.2-8", "section 3.2.2.3"),
        PacketType::Puback => protocol_error("MQTT-3.4.2-1", ONLY_V5),
        PacketType::Pubrec => protocol_error("MQTT-3.5.2-1", ONLY_V5),
        PacketType::Pubrel => protocol_error("MQTT-3.6.2-1", ONLY_V5),
        PacketType::Pubcomp => protocol_error("MQTT-3.7.2-1", ONLY_V5),
        PacketType::Suback => protocol_error("MQTT-3.9.3-2", "MQTT-3.9.3-2"),
        PacketType::Unsuback => protocol_error("MQTT-3.11.3-2", ONLY_V5),
        PacketType::Disconnect => protocol_error("MQTT-3.14.2-1", ONLY_V5),
        PacketType::Auth => protocol_error("MQTT-3.15.2-1", ONLY_V5),
        PacketType::Connect
        | PacketType::Publish
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::Pingreq
        | PacketType::Pingresp => protocol_error("section 2.4", "section 2.4"),
    }
}
