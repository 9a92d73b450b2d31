//! Bad bytes → the rule they break, and what the peer is told.
//!
//! A row is written in a small notation: pairs of hex digits; `'text'` for its bytes, `s'text'` with
//! its two-byte length before; `|` for the Remaining Length of what follows; `{ … }` for
//! properties with their length.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

use bytes::BytesMut;
use codec::DecodeError as E;
use codec::PropertyId as P;
use codec::{Decoder, Limits, PacketType, ProtocolVersion, ReasonCode};

/// Who sent the bytes, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// A client, before anything else; the version is in the bytes.
    New,
    /// A client after its CONNECT.
    Client(ProtocolVersion),
    /// A server.
    Server(ProtocolVersion),
}

const V31: Peer = Peer::Client(ProtocolVersion::V31);
const V311: Peer = Peer::Client(ProtocolVersion::V311);
const V5: Peer = Peer::Client(ProtocolVersion::V5);
const SERVER_V311: Peer = Peer::Server(ProtocolVersion::V311);
const SERVER_V5: Peer = Peer::Server(ProtocolVersion::V5);

/// Rule (in the numbering of the version spoken), sender, bytes, error, Reason Code.
type Row = (&'static str, Peer, &'static str, E, u8);

const LIMITS: Limits = Limits {
    packet_bytes_max: 200,
    user_properties_max: 3,
    topic_filters_max: 3,
};

/// The bytes that `notation` stands for.
fn bytes(notation: &str) -> Vec<u8> {
    let (mut lengths, mut out) = (Vec::new(), Vec::new());
    for token in notation.split_whitespace() {
        match token {
            "|" | "{" => lengths.push(out.len()),
            "{}" => out.push(0),
            "}" => insert_length(&mut out, lengths.pop().unwrap()),
            _ if token.starts_with("s'") => {
                let text = token[2..].strip_suffix('\'').unwrap();
                out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text.as_bytes());
            }
            _ if token.starts_with('\'') => {
                out.extend(token[1..].strip_suffix('\'').unwrap().as_bytes());
            }
            _ => out.extend(
                (0..token.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()),
            ),
        }
    }
    if let Some(at) = lengths.pop() {
        insert_length(&mut out, at);
    }
    assert!(lengths.is_empty(), "unbalanced: {notation}");
    out
}

fn insert_length(out: &mut Vec<u8>, at: usize) {
    let mut rest = out.len() - at;
    let mut length = Vec::new();
    while rest > 127 {
        length.push(u8::try_from(rest & 0x7F).unwrap() | 0x80);
        rest >>= 7;
    }
    length.push(u8::try_from(rest).unwrap());
    out.splice(at..at, length);
}

fn decoder(from: Peer) -> Decoder {
    match from {
        Peer::New => Decoder::from_client(LIMITS),
        Peer::Client(version) => Decoder::from_connected_client(version, LIMITS),
        Peer::Server(version) => Decoder::from_server(version, LIMITS),
    }
}

fn check(rows: &[Row]) {
    for (rule, from, notation, error, code) in rows {
        let mut decoder = decoder(*from);
        let mut buffer = BytesMut::from(&bytes(notation)[..]);
        let result = decoder.decode(&mut buffer);
        assert_eq!(result, Err(error.clone()), "{from:?}: {notation}");
        assert_eq!(error.reason_code().as_u8(), *code, "{notation}");
        // Before the level is understood the broken rule is the same one in every version.
        let version = decoder.version().unwrap_or(ProtocolVersion::V5);
        assert_eq!(error.rule(version), *rule, "{notation}");
    }
}

#[test]
#[rustfmt::skip]
fn fixed_headers() {
    use PacketType as T;
    let flags = |packet, flags| E::FlagsInvalid { packet, flags };
    check(&[
        ("section 2.1.2", V5, "00 |", E::PacketTypeReserved { packet_type: 0 }, 0x81),
        ("section 2.2.1", V311, "00 |", E::PacketTypeReserved { packet_type: 0 }, 0x81),
        ("section 2.2.1", V311, "F0 |", E::PacketTypeReserved { packet_type: 15 }, 0x81),
        ("section 2.2.1", V31, "F0 |", E::PacketTypeReserved { packet_type: 15 }, 0x81),
        ("MQTT-2.1.3-1", Peer::New, "11", flags(T::Connect, 1), 0x81),
        ("MQTT-2.1.3-1", V5, "41", flags(T::Puback, 1), 0x81),
        ("MQTT-2.1.3-1", V5, "52", flags(T::Pubrec, 2), 0x81),
        ("MQTT-2.1.3-1", V5, "78", flags(T::Pubcomp, 8), 0x81),
        ("MQTT-2.1.3-1", V5, "C1", flags(T::Pingreq, 1), 0x81),
        ("MQTT-2.1.3-1", SERVER_V5, "21", flags(T::Connack, 1), 0x81),
        ("MQTT-2.1.3-1", SERVER_V5, "92", flags(T::Suback, 2), 0x81),
        ("MQTT-2.1.3-1", SERVER_V5, "B2", flags(T::Unsuback, 2), 0x81),
        ("MQTT-2.1.3-1", SERVER_V5, "D1", flags(T::Pingresp, 1), 0x81),
        ("MQTT-2.2.2-2", V311, "41", flags(T::Puback, 1), 0x81),
        ("MQTT-2.2.2-2", V311, "C1", flags(T::Pingreq, 1), 0x81),
        ("MQTT-3.6.1-1", V5, "60", flags(T::Pubrel, 0), 0x81),
        ("MQTT-3.6.1-1", V5, "63", flags(T::Pubrel, 3), 0x81),
        ("MQTT-3.6.1-1", V311, "6A", flags(T::Pubrel, 10), 0x81),
        ("MQTT-3.6.1-1", V31, "68", flags(T::Pubrel, 8), 0x81),
        ("MQTT-3.8.1-1", V5, "80", flags(T::Subscribe, 0), 0x81),
        ("MQTT-3.8.1-1", V311, "83", flags(T::Subscribe, 3), 0x81),
        ("MQTT-3.10.1-1", V5, "A1", flags(T::Unsubscribe, 1), 0x81),
        ("MQTT-3.10.1-1", V311, "A0", flags(T::Unsubscribe, 0), 0x81),
        ("MQTT-3.14.1-1", V5, "E1 |", flags(T::Disconnect, 1), 0x81),
        ("MQTT-3.14.1-1", V311, "E1 |", flags(T::Disconnect, 1), 0x81),
        ("MQTT-3.15.1-1", V5, "F1", flags(T::Auth, 1), 0x81),
        ("MQTT-1.5.5-1", V5, "C0 80 00", E::VariableByteIntegerNotMinimal, 0x81),
        ("MQTT-1.5.5-1", V5, "C0 80 80 00", E::VariableByteIntegerNotMinimal, 0x81),
        ("section 1.5.5", V5, "C0 80 80 80 80", E::VariableByteIntegerTooLong, 0x81),
        ("section 2.2.3", V311, "C0 FF FF FF FF", E::VariableByteIntegerTooLong, 0x81),
        ("section 2.1.4", V5, "C0 | 00", E::TrailingBytes { packet: T::Pingreq }, 0x81),
        ("section 2.2.3", V311, "C0 | 00", E::TrailingBytes { packet: T::Pingreq }, 0x81),
    ]);
}

#[test]
#[rustfmt::skip]
fn packets_out_of_place() {
    use PacketType as T;
    check(&[
        ("MQTT-3.1.0-1", Peer::New, "C0", E::NotConnect { packet: T::Pingreq }, 0x82),
        ("MQTT-3.1.0-1", Peer::New, "30", E::NotConnect { packet: T::Publish }, 0x82),
        ("MQTT-3.1.0-1", Peer::New, "F0", E::NotConnect { packet: T::Auth }, 0x82),
        ("MQTT-3.1.0-1", Peer::New, "E0", E::NotConnect { packet: T::Disconnect }, 0x82),
        ("MQTT-3.1.0-2", V5, "10", E::SecondConnect, 0x82),
        ("MQTT-3.1.0-2", V311, "10", E::SecondConnect, 0x82),
        ("section 2.1.2", V5, "20", E::WrongSender { packet: T::Connack }, 0x82),
        ("section 2.1.2", V5, "90", E::WrongSender { packet: T::Suback }, 0x82),
        ("section 2.1.2", V5, "B0", E::WrongSender { packet: T::Unsuback }, 0x82),
        ("section 2.2.1", V311, "D0", E::WrongSender { packet: T::Pingresp }, 0x82),
        ("section 2.1.2", SERVER_V5, "10", E::WrongSender { packet: T::Connect }, 0x82),
        ("section 2.1.2", SERVER_V5, "82", E::WrongSender { packet: T::Subscribe }, 0x82),
        ("section 2.2.1", SERVER_V311, "C0", E::WrongSender { packet: T::Pingreq }, 0x82),
    ]);
}

#[test]
#[rustfmt::skip]
fn strings_and_lengths() {
    let not_utf8 = |valid_up_to| E::StringNotUtf8 { valid_up_to };
    check(&[
        ("MQTT-1.5.4-1", V5, "30 | 0002 C080 {}", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "30 | 0004 'a' EDA080 {}", not_utf8(1), 0x81),
        ("MQTT-1.5.4-1", V5, "30 | s't' { 03 0001 FF }", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "30 | s't' { 08 0001 FF }", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "30 | s't' { 26 0001 FF s'v' }", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "30 | s't' { 26 s'n' 0002 E282 }", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "82 | 0001 {} 0003 EDA080 00", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "A2 | 0001 {} 0001 FF", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "E0 | 00 { 1F 0001 FF }", not_utf8(0), 0x81),
        ("MQTT-1.5.4-1", V5, "F0 | 18 { 15 0001 FF }", not_utf8(0), 0x81),
        ("MQTT-1.5.3-1", V311, "30 | 0001 FF", not_utf8(0), 0x81),
        ("MQTT-1.5.3-1", V311, "82 | 0001 0002 C080 00", not_utf8(0), 0x81),
        ("MQTT-1.5.4-2", V5, "30 | 0003 'a' 00 'b' {}", E::StringContainsNull, 0x81),
        ("MQTT-1.5.4-2", V5, "82 | 0001 {} 0001 00 00", E::StringContainsNull, 0x81),
        ("MQTT-1.5.3-2", V311, "30 | 0001 00", E::StringContainsNull, 0x81),
        ("section 1.2", V5, "30 | 0005 't'", E::Truncated, 0x81),
        ("section 2.2.3", V311, "30 | 0005 't'", E::Truncated, 0x81),
        ("section 1.2", V5, "30 |", E::Truncated, 0x81),
        ("section 1.2", V5, "32 | s't' 00", E::Truncated, 0x81),
        ("section 1.2", V5, "40 | 00", E::Truncated, 0x81),
        ("section 2.2.3", V311, "82 | 0001 s'a'", E::Truncated, 0x81),
    ]);
}

#[test]
#[rustfmt::skip]
fn connect_headers_and_flags() {
    let level = |level| E::UnsupportedProtocolVersion { level };
    check(&[
        ("MQTT-3.1.2-1", Peer::New, "10 | s'MQTX' 04 02 003C s'c'", E::ProtocolNameInvalid, 0x84),
        ("MQTT-3.1.2-1", Peer::New, "10 | s'mqtt' 05 02 003C {} s'c'", E::ProtocolNameInvalid, 0x84),
        ("MQTT-3.1.2-2", Peer::New, "10 | s'MQTT' 06 02 003C {} s'c'", level(6), 0x84),
        ("MQTT-3.1.2-2", Peer::New, "10 | s'MQTT' 00 02 003C s'c'", level(0), 0x84),
        ("MQTT-3.1.2-2", Peer::New, "10 | s'MQTT' 03 02 003C s'c'", level(3), 0x84),
        ("MQTT-3.1.2-2", Peer::New, "10 | s'MQIsdp' 04 02 003C s'c'", level(4), 0x84),
        ("MQTT-3.1.2-2", Peer::New, "10 | s'MQTT' 84 02 003C s'c'", level(0x84), 0x84),
        ("MQTT-3.1.2-3", Peer::New, "10 | s'MQTT' 05 03 003C {} s'c'", E::ConnectFlagReserved, 0x81),
        ("MQTT-3.1.2-3", Peer::New, "10 | s'MQTT' 04 03 003C s'c'", E::ConnectFlagReserved, 0x81),
        ("MQTT-3.1.2-11", Peer::New, "10 | s'MQTT' 05 0A 003C {} s'c'", E::WillQosWithoutWill, 0x81),
        ("MQTT-3.1.2-11", Peer::New, "10 | s'MQTT' 05 12 003C {} s'c'", E::WillQosWithoutWill, 0x81),
        ("MQTT-3.1.2-13", Peer::New, "10 | s'MQTT' 04 0A 003C s'c'", E::WillQosWithoutWill, 0x81),
        ("MQTT-3.1.2-12", Peer::New, "10 | s'MQTT' 05 1E 003C {} s'c' {} s't' s''", E::WillQosInvalid, 0x81),
        ("MQTT-3.1.2-14", Peer::New, "10 | s'MQTT' 04 1E 003C s'c' s't' s''", E::WillQosInvalid, 0x81),
        ("MQTT-3.1.2-13", Peer::New, "10 | s'MQTT' 05 22 003C {} s'c'", E::WillRetainWithoutWill, 0x81),
        ("MQTT-3.1.2-15", Peer::New, "10 | s'MQTT' 04 22 003C s'c'", E::WillRetainWithoutWill, 0x81),
        ("MQTT-3.1.2-22", Peer::New, "10 | s'MQTT' 04 42 003C s'c' s'p'", E::PasswordWithoutUserName, 0x81),
        ("MQTT-3.1.2-22", Peer::New, "10 | s'MQIsdp' 03 42 003C s'c' s'p'", E::PasswordWithoutUserName, 0x81),
        ("MQTT-1.5.5-1", Peer::New, "10 90 00 s'MQTT' 05 02 003C 00 s'abc'", E::VariableByteIntegerNotMinimal, 0x81),
        ("MQTT-1.5.5-1", Peer::New, "10 | s'MQTT' 05 02 003C 8000 s'c'", E::VariableByteIntegerNotMinimal, 0x81),
        ("section 1.2", Peer::New, "10 | s'MQTT'", E::Truncated, 0x81),
        ("section 2.2.3", Peer::New, "10 | s'MQTT' 04 02 00", E::Truncated, 0x81),
    ]);
}

#[test]
#[rustfmt::skip]
fn connect_payloads() {
    let not_utf8 = E::StringNotUtf8 { valid_up_to: 0 };
    let trailing = E::TrailingBytes { packet: PacketType::Connect };
    check(&[
        ("MQTT-3.1.3-3", Peer::New, "10 | s'MQTT' 05 02 003C {}", E::ClientIdMissing, 0x81),
        ("MQTT-3.1.3-3", Peer::New, "10 | s'MQTT' 04 02 003C", E::ClientIdMissing, 0x81),
        ("MQTT-1.5.4-1", Peer::New, "10 | s'MQTT' 05 02 003C {} 0002 FFFE", not_utf8.clone(), 0x81),
        ("MQTT-1.5.3-1", Peer::New, "10 | s'MQTT' 04 02 003C 0002 FFFE", not_utf8.clone(), 0x81),
        ("MQTT-3.1.3-8", Peer::New, "10 | s'MQTT' 04 00 003C s''", E::ClientIdEmpty, 0x85),
        ("MQTT-3.1.3-8", Peer::New, "10 | s'MQIsdp' 03 02 003C s''", E::ClientIdEmpty, 0x85),
        ("MQTT-3.1.2-9", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c'", E::WillMissing, 0x81),
        ("MQTT-3.1.2-9", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c' {} s't'", E::WillMissing, 0x81),
        ("MQTT-3.1.2-9", Peer::New, "10 | s'MQTT' 04 06 003C s'c'", E::WillMissing, 0x81),
        ("MQTT-1.5.4-1", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c' {} 0003 EDA080 s''", not_utf8.clone(), 0x81),
        ("MQTT-3.3.2-2", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c' {} s'a/+' s''", E::TopicNameWildcard, 0x90),
        ("MQTT-3.3.2-2", Peer::New, "10 | s'MQTT' 04 06 003C s'c' s'#' s''", E::TopicNameWildcard, 0x90),
        ("MQTT-4.7.3-1", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c' {} s'' s''", E::TopicNameEmpty, 0x90),
        ("MQTT-3.1.2-17", Peer::New, "10 | s'MQTT' 05 82 003C {} s'c'", E::UserNameMissing, 0x81),
        ("MQTT-3.1.2-19", Peer::New, "10 | s'MQTT' 04 82 003C s'c'", E::UserNameMissing, 0x81),
        ("MQTT-1.5.4-1", Peer::New, "10 | s'MQTT' 05 82 003C {} s'c' 0002 C328", not_utf8, 0x81),
        ("MQTT-3.1.2-19", Peer::New, "10 | s'MQTT' 05 42 003C {} s'c'", E::PasswordMissing, 0x81),
        ("MQTT-3.1.2-21", Peer::New, "10 | s'MQTT' 04 C2 003C s'c' s'u'", E::PasswordMissing, 0x81),
        ("MQTT-3.1.4-1", Peer::New, "10 | s'MQTT' 05 02 003C {} s'c' s'u'", trailing.clone(), 0x81),
        ("MQTT-3.1.4-1", Peer::New, "10 | s'MQTT' 04 82 003C s'c' s'u' s'p'", trailing, 0x81),
    ]);
}

#[test]
#[rustfmt::skip]
fn connect_properties() {
    let value = |property| E::PropertyValueInvalid { property };
    let repeated = |property| E::PropertyRepeated { property };
    let alien = |property, packet| E::PropertyNotAllowed { property, packet };
    check(&[
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 21 0000 } s'c'", value(P::ReceiveMaximum), 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 27 00000000 } s'c'", value(P::MaximumPacketSize), 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 19 02 } s'c'", value(P::RequestResponseInformation), 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 17 02 } s'c'", value(P::RequestProblemInformation), 0x82),
        ("section 3.1.2.11.10", Peer::New, "10 | s'MQTT' 05 02 003C { 16 s'd' } s'c'", E::AuthenticationMethodMissing, 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 11 00000001 11 00000001 } s'c'", repeated(P::SessionExpiryInterval), 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 22 0001 22 0001 } s'c'", repeated(P::TopicAliasMaximum), 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 01 00 } s'c'", alien(P::PayloadFormatIndicator, "CONNECT"), 0x81),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 18 00000001 } s'c'", alien(P::WillDelayInterval, "CONNECT"), 0x81),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c' { 11 00000001 } s't' s''", alien(P::SessionExpiryInterval, "Will"), 0x81),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 06 003C {} s'c' { 18 00000001 18 00000001 } s't' s''", repeated(P::WillDelayInterval), 0x82),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 04 00 } s'c'", E::PropertyUnknown { id: 4 }, 0x81),
        ("section 2.2.2.2", Peer::New, "10 | s'MQTT' 05 02 003C { 8101 00 } s'c'", E::PropertyUnknown { id: 129 }, 0x81),
        ("MQTT-2.2.2-1", Peer::New, "10 | s'MQTT' 05 02 003C", E::PropertyLengthInvalid, 0x81),
        ("MQTT-2.2.2-1", Peer::New, "10 | s'MQTT' 05 02 003C 20 s'c'", E::PropertyLengthInvalid, 0x81),
        ("MQTT-2.2.2-1", Peer::New, "10 | s'MQTT' 05 02 003C { 11 0000 } s'c'", E::PropertyLengthInvalid, 0x81),
        ("section 2.4", Peer::New, "10 | s'MQTT' 05 02 003C { 26 s'' s'' 26 s'' s'' 26 s'' s'' 26 s'' s'' } s'c'", E::TooMany { what: "user properties", max: 3 }, 0x97),
    ]);
}

#[test]
#[rustfmt::skip]
fn publish() {
    let value = |property| E::PropertyValueInvalid { property };
    let id_zero = E::PacketIdZero { packet: PacketType::Publish };
    check(&[
        ("MQTT-3.3.1-4", V5, "36", E::QosInvalid, 0x81),
        ("MQTT-3.3.1-4", V311, "3F", E::QosInvalid, 0x81),
        ("MQTT-3.3.1-2", V5, "38", E::DupWithQos0, 0x81),
        ("MQTT-3.3.1-2", V311, "39", E::DupWithQos0, 0x81),
        ("MQTT-2.2.1-3", V5, "32 | s't' 0000 {}", id_zero.clone(), 0x82),
        ("MQTT-2.2.1-3", V5, "34 | s't' 0000 {}", id_zero.clone(), 0x82),
        ("MQTT-2.3.1-1", V311, "32 | s't' 0000", id_zero, 0x82),
        ("MQTT-3.3.2-1", V5, "30 | s'' {} 'x'", E::TopicMissing, 0x82),
        ("MQTT-4.7.3-1", V311, "30 | s'' 'x'", E::TopicMissing, 0x82),
        ("MQTT-3.3.2-2", V5, "30 | s'a/+' {}", E::TopicNameWildcard, 0x90),
        ("MQTT-3.3.2-2", V5, "32 | s'a/#' 0001 {}", E::TopicNameWildcard, 0x90),
        ("MQTT-3.3.2-2", V311, "31 | s'#'", E::TopicNameWildcard, 0x90),
        ("MQTT-3.3.2-8", V5, "30 | s't' { 23 0000 }", E::TopicAliasZero, 0x94),
        ("MQTT-3.3.2-14", V5, "30 | s't' { 08 s'a/+' }", E::ResponseTopicWildcard, 0x82),
        ("MQTT-4.7.3-1", V5, "30 | s't' { 08 s'' }", E::TopicNameEmpty, 0x90),
        ("MQTT-3.3.4-6", V5, "30 | s't' { 0B 01 }", E::SubscriptionIdentifierFromClient, 0x82),
        ("section 2.2.2.2", SERVER_V5, "30 | s't' { 0B 00 }", value(P::SubscriptionIdentifier), 0x82),
        ("section 2.2.2.2", V5, "30 | s't' { 01 02 }", value(P::PayloadFormatIndicator), 0x82),
        ("section 2.2.2.2", V5, "30 | s't' { 02 00000001 02 00000001 }", E::PropertyRepeated { property: P::MessageExpiryInterval }, 0x82),
        ("section 2.2.2.2", V5, "30 | s't' { 23 0001 23 0001 }", E::PropertyRepeated { property: P::TopicAlias }, 0x82),
        ("section 2.2.2.2", V5, "30 | s't' { 1F s'r' }", E::PropertyNotAllowed { property: P::ReasonString, packet: "PUBLISH" }, 0x81),
        ("MQTT-2.2.2-1", V5, "30 | s't'", E::PropertyLengthInvalid, 0x81),
        ("MQTT-2.2.2-1", V5, "30 | s't' 05 02 0000", E::PropertyLengthInvalid, 0x81),
        ("MQTT-2.2.2-1", V5, "30 | s't' { 09 0005 'x' }", E::PropertyLengthInvalid, 0x81),
        ("MQTT-1.5.5-1", SERVER_V5, "30 | s't' { 0B 8100 }", E::VariableByteIntegerNotMinimal, 0x81),
    ]);
}

#[test]
#[rustfmt::skip]
fn acknowledgements() {
    use PacketType as T;
    let code = |packet, code| E::ReasonCodeInvalid { packet, code };
    let trailing = |packet| E::TrailingBytes { packet };
    check(&[
        ("MQTT-2.2.1-3", V5, "40 | 0000", E::PacketIdZero { packet: T::Puback }, 0x82),
        ("MQTT-2.3.1-1", V311, "62 | 0000", E::PacketIdZero { packet: T::Pubrel }, 0x82),
        ("MQTT-3.4.2-1", V5, "40 | 0001 01", code(T::Puback, 1), 0x82),
        ("MQTT-3.5.2-1", V5, "50 | 0001 92", code(T::Pubrec, 0x92), 0x82),
        ("MQTT-3.6.2-1", V5, "62 | 0001 80", code(T::Pubrel, 0x80), 0x82),
        ("MQTT-3.7.2-1", V5, "70 | 0001 7F", code(T::Pubcomp, 0x7F), 0x82),
        ("section 2.1.4", V5, "40 | 0001 00 {} 00", trailing(T::Puback), 0x81),
        ("section 2.2.3", V311, "40 | 0001 00", trailing(T::Puback), 0x81),
        ("section 2.2.3", V31, "70 | 0001 00", trailing(T::Pubcomp), 0x81),
        ("MQTT-2.2.2-1", V5, "50 | 0001 00 05", E::PropertyLengthInvalid, 0x81),
        ("section 2.2.2.2", V5, "40 | 0001 00 { 1F s'a' 1F s'b' }", E::PropertyRepeated { property: P::ReasonString }, 0x82),
        ("section 2.2.2.2", V5, "40 | 0001 00 { 21 0001 }", E::PropertyNotAllowed { property: P::ReceiveMaximum, packet: "PUBACK" }, 0x81),
    ]);
}

#[test]
#[rustfmt::skip]
fn subscribe_and_unsubscribe() {
    use PacketType as T;
    let too_many = E::TooMany { what: "topic filters", max: 3 };
    let trailing = |packet| E::TrailingBytes { packet };
    check(&[
        ("MQTT-2.2.1-3", V5, "82 | 0000 {} s'a' 00", E::PacketIdZero { packet: T::Subscribe }, 0x82),
        ("MQTT-2.3.1-1", V311, "A2 | 0000 s'a'", E::PacketIdZero { packet: T::Unsubscribe }, 0x82),
        ("MQTT-3.8.3-2", V5, "82 | 0001 {}", E::SubscribeEmpty, 0x82),
        ("MQTT-3.8.3-3", V311, "82 | 0001", E::SubscribeEmpty, 0x82),
        ("MQTT-3.10.3-2", V5, "A2 | 0001 {}", E::UnsubscribeEmpty, 0x82),
        ("MQTT-3.10.3-2", V311, "A2 | 0001", E::UnsubscribeEmpty, 0x82),
        ("MQTT-3.8.3-5", V5, "82 | 0001 {} s'a' 40", E::SubscriptionOptionsReserved, 0x81),
        ("MQTT-3.8.3-5", V5, "82 | 0001 {} s'a' 80", E::SubscriptionOptionsReserved, 0x81),
        ("MQTT-3.8.3-4", V311, "82 | 0001 s'a' 04", E::SubscriptionOptionsReserved, 0x81),
        ("MQTT-3.8.3-4", V311, "82 | 0001 s'a' 00 s'b' 80", E::SubscriptionOptionsReserved, 0x81),
        ("MQTT-3.8.3-4", V311, "82 | 0001 s'a' 03", E::RequestedQosInvalid, 0x82),
        ("section 3.8.3.1", V5, "82 | 0001 {} s'a' 03", E::RequestedQosInvalid, 0x82),
        ("section 3.8.3.1", V5, "82 | 0001 {} s'a' 30", E::RetainHandlingInvalid, 0x82),
        ("MQTT-3.8.3-4", V5, "82 | 0001 {} s'$share/g/t' 04", E::NoLocalOnShared, 0x82),
        ("MQTT-4.7.3-1", V5, "82 | 0001 {} s'' 00", E::TopicFilterEmpty, 0x8F),
        ("MQTT-4.7.3-1", V311, "A2 | 0001 s''", E::TopicFilterEmpty, 0x8F),
        ("MQTT-4.7.1-1", V5, "82 | 0001 {} s'a/#/b' 00", E::MultiLevelWildcardMisplaced, 0x8F),
        ("MQTT-4.7.1-2", V311, "82 | 0001 s'a#' 00", E::MultiLevelWildcardMisplaced, 0x8F),
        ("MQTT-4.7.1-2", V5, "82 | 0001 {} s'a/+b' 00", E::SingleLevelWildcardMisplaced, 0x8F),
        ("MQTT-4.7.1-3", V311, "A2 | 0001 s'a+'", E::SingleLevelWildcardMisplaced, 0x8F),
        ("MQTT-4.8.2-1", V5, "82 | 0001 {} s'$share//t' 00", E::ShareNameEmpty, 0x8F),
        ("MQTT-4.8.2-2", V5, "82 | 0001 {} s'$share/g' 00", E::ShareFilterMissing, 0x8F),
        ("MQTT-4.8.2-2", V5, "82 | 0001 {} s'$share/g/' 00", E::ShareFilterMissing, 0x8F),
        ("MQTT-4.8.2-2", V5, "82 | 0001 {} s'$share/g+/t' 00", E::ShareNameInvalid, 0x8F),
        ("section 2.2.2.2", V5, "82 | 0001 { 0B 00 } s'a' 00", E::PropertyValueInvalid { property: P::SubscriptionIdentifier }, 0x82),
        ("section 2.2.2.2", V5, "82 | 0001 { 0B 01 0B 02 } s'a' 00", E::PropertyRepeated { property: P::SubscriptionIdentifier }, 0x82),
        ("section 2.2.2.2", V5, "A2 | 0001 { 0B 01 } s'a'", E::PropertyNotAllowed { property: P::SubscriptionIdentifier, packet: "UNSUBSCRIBE" }, 0x81),
        ("section 1.5.5", V5, "82 | 0001 { 0B 8080808001 } s'a' 00", E::VariableByteIntegerTooLong, 0x81),
        ("MQTT-2.2.2-1", V5, "82 | 0001", E::PropertyLengthInvalid, 0x81),
        ("section 1.2", V5, "82 | 0001 {} s'a'", E::Truncated, 0x81),
        ("section 1.2", V5, "A2 | 0001 {} s'a' 00", E::Truncated, 0x81),
        ("section 2.4", V5, "82 | 0001 {} s'a' 00 s'b' 00 s'c' 00 s'd' 00", too_many.clone(), 0x97),
        ("section 4.8", V311, "A2 | 0001 s'a' s'b' s'c' s'd'", too_many, 0x97),
        ("section 2.2.3", SERVER_V311, "B0 | 0001 00", trailing(T::Unsuback), 0x81),
        ("MQTT-3.9.3-2", SERVER_V5, "90 | 0001 {} 03", E::ReasonCodeInvalid { packet: T::Suback, code: 3 }, 0x82),
        ("MQTT-3.9.3-2", SERVER_V311, "90 | 0001 87", E::ReasonCodeInvalid { packet: T::Suback, code: 0x87 }, 0x82),
        ("MQTT-3.8.4-6", SERVER_V5, "90 | 0001 {}", E::ReasonCodesMissing { packet: T::Suback }, 0x82),
        ("MQTT-3.11.3-2", SERVER_V5, "B0 | 0001 {} 01", E::ReasonCodeInvalid { packet: T::Unsuback, code: 1 }, 0x82),
    ]);
}

#[test]
#[rustfmt::skip]
fn disconnect_auth_and_connack() {
    use PacketType as T;
    let code = |packet, code| E::ReasonCodeInvalid { packet, code };
    let alien = |property, packet| E::PropertyNotAllowed { property, packet };
    check(&[
        ("MQTT-3.14.2-1", V5, "E0 | 01", code(T::Disconnect, 1), 0x82),
        ("MQTT-3.14.2-1", V5, "E0 | 8E", code(T::Disconnect, 0x8E), 0x82),
        ("MQTT-3.14.2-1", SERVER_V5, "E0 | 04", code(T::Disconnect, 4), 0x82),
        ("MQTT-3.14.2-2", SERVER_V5, "E0 | 00 { 11 00000001 }", E::SessionExpiryFromServer, 0x82),
        ("section 2.2.2.2", V5, "E0 | 00 { 21 0001 }", alien(P::ReceiveMaximum, "DISCONNECT"), 0x81),
        ("section 2.1.4", V5, "E0 | 00 {} 00", E::TrailingBytes { packet: T::Disconnect }, 0x81),
        ("section 2.2.3", V311, "E0 | 00", E::TrailingBytes { packet: T::Disconnect }, 0x81),
        ("MQTT-3.15.2-1", V5, "F0 |", code(T::Auth, 0), 0x82),
        ("MQTT-3.15.2-1", V5, "F0 | 02 { 15 s'm' }", code(T::Auth, 2), 0x82),
        ("MQTT-3.15.2-1", SERVER_V5, "F0 | 19 { 15 s'm' }", code(T::Auth, 0x19), 0x82),
        ("section 3.1.2.11.10", V5, "F0 | 18 {}", E::AuthenticationMethodMissing, 0x82),
        ("MQTT-2.2.2-1", V5, "F0 | 18", E::PropertyLengthInvalid, 0x81),
        ("MQTT-3.2.2-1", SERVER_V5, "20 | 02 00 {}", E::ConnackFlagsReserved, 0x81),
        ("section 3.2.2.1", SERVER_V311, "20 | 80 00", E::ConnackFlagsReserved, 0x81),
        ("MQTT-3.2.2-6", SERVER_V5, "20 | 01 87 {}", E::SessionPresentOnRefusal, 0x82),
        ("MQTT-3.2.2-4", SERVER_V311, "20 | 01 05", E::SessionPresentOnRefusal, 0x82),
        ("MQTT-3.2.2-8", SERVER_V5, "20 | 00 8E {}", code(T::Connack, 0x8E), 0x82),
        ("section 3.2.2.3", SERVER_V311, "20 | 00 06", code(T::Connack, 6), 0x82),
        ("section 2.2.2.2", SERVER_V5, "20 | 00 00 { 24 02 }", E::PropertyValueInvalid { property: P::MaximumQos }, 0x82),
        ("MQTT-2.2.2-1", SERVER_V5, "20 | 00 00", E::PropertyLengthInvalid, 0x81),
    ]);
}

/// [MQTT-3.2.2-15]
#[test]
fn a_packet_that_is_too_large_is_refused_before_its_body_arrives() {
    let too_large = |bytes| {
        Err(E::PacketTooLarge {
            bytes,
            bytes_max: 200,
        })
    };
    for (from, header, result) in [
        (V5, "30 C501", Ok(None)),
        (V5, "30 C601", too_large(201)),
        (V311, "30 C601", too_large(201)),
        (Peer::New, "10 FFFFFF7F", too_large(268_435_460)),
    ] {
        let mut buffer = BytesMut::from(&bytes(header)[..]);
        assert_eq!(decoder(from).decode(&mut buffer), result, "{header}");
    }
}

/// [MQTT-3.1.2-2 of 3.1.1] [MQTT-3.1.3-8 of 3.1.1] [MQTT-3.1.4-1 of 3.1.1]
#[test]
fn only_two_errors_are_told_to_an_old_client() {
    let return_code = |notation| {
        let mut buffer = BytesMut::from(&bytes(notation)[..]);
        let error = decoder(Peer::New).decode(&mut buffer).unwrap_err();
        error.connack_return_code()
    };
    assert_eq!(return_code("10 | s'MQTT' 06 02 003C s'c'"), Some(1));
    assert_eq!(return_code("10 | s'MQTT' 04 00 003C s''"), Some(2));
    assert_eq!(return_code("10 | s'MQTX' 04 02 003C s'c'"), None);
    assert_eq!(return_code("10 | s'MQTT' 04 03 003C s'c'"), None);
}

/// The answer to a bad CONNECT takes the form of its version.
#[test]
fn the_version_is_known_as_soon_as_the_level_was_read() {
    for (notation, version) in [
        ("10 | s'MQTT' 05 03 003C {} s'c'", Some(ProtocolVersion::V5)),
        ("10 | s'MQTT' 04 03 003C s'c'", Some(ProtocolVersion::V311)),
        ("10 | s'MQIsdp' 03 03 003C s'c'", Some(ProtocolVersion::V31)),
        ("10 | s'MQTT' 07 02 003C {} s'c'", None),
    ] {
        let mut decoder = decoder(Peer::New);
        let mut buffer = BytesMut::from(&bytes(notation)[..]);
        assert!(decoder.decode(&mut buffer).is_err());
        assert_eq!(decoder.version(), version, "{notation}");
    }
}

/// What older or newer versions forbid, and this one does not.
#[test]
fn unusual_packets_that_are_legal() {
    for (from, notation) in [
        // 3.1.1 does not ask for the shortest Remaining Length.
        (V311, "C0 80 00"),
        (Peer::New, "10 8D00 s'MQTT' 04 02 003C s'c'"),
        // 3.1 sets DUP on repeated packets, and its flags may promise what does not come.
        (V31, "6A | 0001"),
        (V31, "8A | 0001 s'a' 01"),
        (Peer::New, "10 | s'MQIsdp' 03 C2 003C s'c'"),
        // 5.0 allows a password alone, and any client to be named by the server.
        (Peer::New, "10 | s'MQTT' 05 42 003C {} s'c' s'p'"),
        (Peer::New, "10 | s'MQTT' 05 00 003C {} s''"),
        (Peer::New, "10 | s'MQTT' 04 02 003C s''"),
        // Short forms, with and without what may be left out.
        (V5, "40 | 0001 00 {}"),
        (V5, "E0 | 00"),
        (SERVER_V5, "F0 |"),
        (V5, "30 | s'' { 23 0001 } 'x'"),
    ] {
        let mut buffer = BytesMut::from(&bytes(notation)[..]);
        let result = decoder(from).decode(&mut buffer);
        assert!(matches!(result, Ok(Some(_))), "{notation}: {result:?}");
    }
}

#[test]
fn every_error_has_a_reason_code_that_a_server_can_send() {
    for (error, packet) in [
        (
            E::PacketTooLarge {
                bytes: 2,
                bytes_max: 1,
            },
            PacketType::Disconnect,
        ),
        (E::TopicNameWildcard, PacketType::Connack),
        (E::TooMany { what: "x", max: 1 }, PacketType::Connack),
        (E::TopicFilterEmpty, PacketType::Disconnect),
        (E::TopicAliasZero, PacketType::Disconnect),
        (E::ClientIdEmpty, PacketType::Connack),
    ] {
        let code: ReasonCode = error.reason_code();
        assert!(code.is_allowed_in(packet, codec::Sender::Server), "{error}");
    }
}
