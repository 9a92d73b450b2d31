//! Before the session exists: first packets that are no CONNECT, and CONNECTs that break a rule.

use codec::ProtocolVersion;

use crate::row::{
    BAD_CONNECT, Both, BothRow, CLOSED, Group, OneRow, REFUSED_ERROR, REFUSED_MALFORMED,
    REFUSED_OR_CLOSED, Reactions, Stage, UNREADABLE_CONNECT, of_both, of_one,
};

/// Nobody has said a version yet, so there is no language to answer in [MQTT-3.14.0-1].
const NO_CONNECT: Both = (CLOSED, CLOSED);
/// 3.1.1 and 5.0 each have a code for a version that is not served [MQTT-3.1.2-2]. A client that is
/// older than 5.0 does not know the newer one.
const OLD_LEVEL: Both = (&["CONNACK 0x01; closed"], &["CONNACK 0x01; closed"]);
const NEW_LEVEL: Both = (
    &["CONNACK 0x84; closed", "CONNACK 0x01; closed"],
    &["CONNACK 0x84; closed", "CONNACK 0x01; closed"],
);
/// Not MQTT at all [MQTT-3.1.2-1].
const UNKNOWN_NAME: Both = (CLOSED, &["closed", "CONNACK 0x84; closed"]);
const BAD_WILL_TOPIC: Both = (CLOSED, &["CONNACK 0x90; closed", "CONNACK 0x81; closed"]);
const ACCEPTED: Reactions = &["CONNACK 0x00; open"];

#[rustfmt::skip]
const NOT_CONNECT: &[BothRow] = &[
    ("packet type 0 comes first", "00 |", NO_CONNECT),
    ("CONNACK comes first", "20 | 00 00 {}", NO_CONNECT),
    ("PUBLISH at QoS 0 comes first", "30 | s'h' {} 'x'", NO_CONNECT),
    ("PUBLISH at QoS 1 comes first", "32 | s'h' 0001 {} 'x'", NO_CONNECT),
    ("PUBLISH at QoS 2 comes first", "34 | s'h' 0001 {} 'x'", NO_CONNECT),
    ("a retained PUBLISH comes first", "31 | s'h' {} 'x'", NO_CONNECT),
    ("PUBACK comes first", "40 | 0001", NO_CONNECT),
    ("PUBREC comes first", "50 | 0001", NO_CONNECT),
    ("PUBREL comes first", "62 | 0001", NO_CONNECT),
    ("PUBCOMP comes first", "70 | 0001", NO_CONNECT),
    ("SUBSCRIBE comes first", "82 | 0001 {} s'h' 00", NO_CONNECT),
    ("SUBACK comes first", "90 | 0001 {} 00", NO_CONNECT),
    ("UNSUBSCRIBE comes first", "A2 | 0001 {} s'h'", NO_CONNECT),
    ("UNSUBACK comes first", "B0 | 0001 {}", NO_CONNECT),
    ("PINGREQ comes first", "C0 |", NO_CONNECT),
    ("PINGRESP comes first", "D0 |", NO_CONNECT),
    ("DISCONNECT comes first", "E0 |", NO_CONNECT),
    ("packet type 15 comes first", "F0 | 18 {}", NO_CONNECT),
    ("an HTTP request comes first", "'GET' 20 '/' 20 'HTTP/1.1' 0D0A 0D0A", NO_CONNECT),
    ("a TLS greeting comes first", "16 03 01 0200 01 0001FC 0303 x32*00", NO_CONNECT),
    ("a PROXY header comes first", "0D0A0D0A000D0A515549540A", NO_CONNECT),
    ("zeros come first", "x64*00", NO_CONNECT),
    ("ones come first", "x64*FF", NO_CONNECT),
];

#[rustfmt::skip]
const FIXED_HEADER: &[BothRow] = &[
    ("CONNECT with flag 0001", "11 | s'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("CONNECT with flag 0010", "12 | s'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("CONNECT with flag 0100", "14 | s'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("CONNECT with flag 1000", "18 | s'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("CONNECT with all flags", "1F | s'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("CONNECT whose length has five bytes", "10 8080808001 s'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("CONNECT whose length never ends", "10 FFFFFFFF FFFFFFFF", UNREADABLE_CONNECT),
    ("CONNECT of 256 MiB that does not come", "10 FFFFFF7F", (CLOSED, &["closed", "CONNACK 0x81; closed", "CONNACK 0x95; closed"])),
    ("CONNECT of 2 MiB, announced with a good start", "10 80808001 s'MQTT' LEVEL 02 003C {} ID", (CLOSED, &["closed", "CONNACK 0x81; closed", "CONNACK 0x95; closed"])),
];

#[rustfmt::skip]
const NAME_AND_LEVEL: &[BothRow] = &[
    ("protocol name MQTX", "10 | s'MQTX' LEVEL 02 003C {} ID", UNKNOWN_NAME),
    ("protocol name in lower case", "10 | s'mqtt' LEVEL 02 003C {} ID", UNKNOWN_NAME),
    ("protocol name with a letter more", "10 | s'MQTTT' LEVEL 02 003C {} ID", UNKNOWN_NAME),
    ("protocol name with a letter less", "10 | s'MQT' LEVEL 02 003C {} ID", UNKNOWN_NAME),
    ("empty protocol name", "10 | s'' LEVEL 02 003C {} ID", UNKNOWN_NAME),
    ("protocol name with a null", "10 | 0005 'MQTT' 00 LEVEL 02 003C {} ID", (CLOSED, &["closed", "CONNACK 0x84; closed", "CONNACK 0x81; closed"])),
    ("protocol name that is no UTF-8", "10 | 0004 FFFEFDFC LEVEL 02 003C {} ID", (CLOSED, &["closed", "CONNACK 0x84; closed", "CONNACK 0x81; closed"])),
    ("protocol name longer than the packet", "10 | FFFF 'MQTT' LEVEL 02 003C {} ID", UNREADABLE_CONNECT),
    ("level 0", "10 | s'MQTT' 00 02 003C {} ID", OLD_LEVEL),
    ("level 1", "10 | s'MQTT' 01 02 003C {} ID", OLD_LEVEL),
    ("level 2", "10 | s'MQTT' 02 02 003C {} ID", OLD_LEVEL),
    ("level 3 with the name MQTT", "10 | s'MQTT' 03 02 003C {} ID", OLD_LEVEL),
    ("level 6", "10 | s'MQTT' 06 02 003C {} ID", NEW_LEVEL),
    ("level 127", "10 | s'MQTT' 7F 02 003C {} ID", NEW_LEVEL),
    ("level 131, a bridge", "10 | s'MQTT' 83 02 003C {} ID", NEW_LEVEL),
    ("level 255", "10 | s'MQTT' FF 02 003C {} ID", NEW_LEVEL),
    ("the name MQIsdp with our level", "10 | s'MQIsdp' LEVEL 02 003C {} ID", NEW_LEVEL),
    ("the name MQIsdp with level 0", "10 | s'MQIsdp' 00 02 003C {} ID", OLD_LEVEL),
];

#[rustfmt::skip]
const FLAGS: &[BothRow] = &[
    ("reserved connect flag", "10 | s'MQTT' LEVEL 03 003C {} ID", BAD_CONNECT),
    ("reserved connect flag with all others", "10 | s'MQTT' LEVEL CF 003C {} ID {} s'h' s'x' s'u' s'p'", BAD_CONNECT),
    ("will QoS 1 without a will", "10 | s'MQTT' LEVEL 0A 003C {} ID", BAD_CONNECT),
    ("will QoS 2 without a will", "10 | s'MQTT' LEVEL 12 003C {} ID", BAD_CONNECT),
    ("will QoS 3 without a will", "10 | s'MQTT' LEVEL 1A 003C {} ID", BAD_CONNECT),
    ("will retain without a will", "10 | s'MQTT' LEVEL 22 003C {} ID", BAD_CONNECT),
    ("will QoS 3", "10 | s'MQTT' LEVEL 1E 003C {} ID {} s'h' s'x'", BAD_CONNECT),
    ("will flag, and the payload ends", "10 | s'MQTT' LEVEL 06 003C {} ID", BAD_CONNECT),
    ("will flag, and no will message", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'h'", BAD_CONNECT),
    ("will without the flag", "10 | s'MQTT' LEVEL 02 003C {} ID {} s'h' s'x'", BAD_CONNECT),
    ("user name flag without a user name", "10 | s'MQTT' LEVEL 82 003C {} ID", BAD_CONNECT),
    ("user name without the flag", "10 | s'MQTT' LEVEL 02 003C {} ID s'u'", BAD_CONNECT),
    ("password flag without a password", "10 | s'MQTT' LEVEL C2 003C {} ID s'u'", BAD_CONNECT),
    ("password without the flag", "10 | s'MQTT' LEVEL 82 003C {} ID s'u' s'p'", BAD_CONNECT),
    ("a byte after the payload", "10 | s'MQTT' LEVEL 02 003C {} ID 00", BAD_CONNECT),
    ("PINGREQ counted into CONNECT", "10 | s'MQTT' LEVEL 02 003C {} ID C000", BAD_CONNECT),
];

#[rustfmt::skip]
const PAYLOAD: &[BothRow] = &[
    ("no client id", "10 | s'MQTT' LEVEL 02 003C {}", BAD_CONNECT),
    ("client id longer than the packet", "10 | s'MQTT' LEVEL 02 003C {} 0005 'me'", BAD_CONNECT),
    ("client id of length 65535 that does not come", "10 | s'MQTT' LEVEL 02 003C {} FFFF 'me'", BAD_CONNECT),
    ("will topic longer than the packet", "10 | s'MQTT' LEVEL 06 003C {} ID {} 00FF 'h'", BAD_CONNECT),
    ("will message longer than the packet", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'h' 00FF 'x'", BAD_CONNECT),
    ("user name longer than the packet", "10 | s'MQTT' LEVEL 82 003C {} ID 00FF 'u'", BAD_CONNECT),
    ("password longer than the packet", "10 | s'MQTT' LEVEL C2 003C {} ID s'u' 00FF 'p'", BAD_CONNECT),
    ("will topic a/+", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'a/+' s'x'", BAD_WILL_TOPIC),
    ("will topic #", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'#' s'x'", BAD_WILL_TOPIC),
    ("will topic a+b", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'a+b' s'x'", BAD_WILL_TOPIC),
    ("retained will to a/#", "10 | s'MQTT' LEVEL 26 003C {} ID {} s'a/#' s'x'", BAD_WILL_TOPIC),
    ("empty will topic", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'' s'x'", BAD_WILL_TOPIC),
    // A limit of ours, for which 3.1.1 has no code of its own [MQTT-3.2.2-6].
    ("will topic of too many levels", "10 | s'MQTT' LEVEL 06 003C {} ID {} s'////////////////////////////////////////////////////////////////////////////////' s'x'", (&["closed", "CONNACK 0x03; closed"], BAD_WILL_TOPIC.1)),
];

#[rustfmt::skip]
const ONLY_V311: &[OneRow] = &[
    ("an empty client id that asks for its session", "10 | s'MQTT' 04 00 003C s''", &["CONNACK 0x02; closed"]),
    ("a password without a user name", "10 | s'MQTT' 04 42 003C ID s'p'", CLOSED),
    ("a password flag alone, and nothing", "10 | s'MQTT' 04 42 003C ID", CLOSED),
    ("properties, which 3.1.1 has not", "10 | s'MQTT' 04 02 003C 00 ID", CLOSED),
    ("MQIsdp without a client id", "10 | s'MQIsdp' 03 02 003C s''", &["CONNACK 0x02; closed"]),
    ("MQIsdp with the reserved flag", "10 | s'MQIsdp' 03 03 003C ID", CLOSED),
    ("a padded length of CONNECT, which 3.1.1 allows", "10 8E00 s'MQTT' 04 02 003C s'ab'", ACCEPTED),
    ("a client id longer than the 23 bytes that a server must take", "10 | s'MQTT' 04 02 003C s'a-client-id-of-more-than-twenty-three-bytes'", ACCEPTED),
];

#[rustfmt::skip]
const ONLY_V5: &[OneRow] = &[
    ("a padded length of CONNECT", "10 8F00 s'MQTT' 05 02 003C 00 s'ab'", REFUSED_OR_CLOSED),
    ("a padded property length in CONNECT", "10 | s'MQTT' 05 02 003C 8000 ID", REFUSED_MALFORMED),
    ("no properties, as in 3.1.1", "10 | s'MQTT' 05 02 003C", REFUSED_MALFORMED),
    ("properties longer than the packet", "10 | s'MQTT' 05 02 003C 20 ID", REFUSED_MALFORMED),
    ("a property length of five bytes", "10 | s'MQTT' 05 02 003C 8080808001 ID", REFUSED_MALFORMED),
    ("a property cut by its length", "10 | s'MQTT' 05 02 003C 03 1100000001 ID", REFUSED_MALFORMED),
    ("a property identifier without a value", "10 | s'MQTT' 05 02 003C { 11 } ID", REFUSED_MALFORMED),
    ("a user property without a value", "10 | s'MQTT' 05 02 003C { 26 s'k' } ID", REFUSED_MALFORMED),
    ("a user property longer than all properties", "10 | s'MQTT' 05 02 003C { 26 s'k' FFFF 'v' } ID", REFUSED_MALFORMED),
    ("a will with properties longer than the packet", "10 | s'MQTT' 05 06 003C {} ID 7F s'h' s'x'", REFUSED_MALFORMED),
    ("Receive Maximum 0", "10 | s'MQTT' 05 02 003C { 21 0000 } ID", REFUSED_ERROR),
    ("Maximum Packet Size 0", "10 | s'MQTT' 05 02 003C { 27 00000000 } ID", REFUSED_ERROR),
    ("Request Response Information 2", "10 | s'MQTT' 05 02 003C { 19 02 } ID", REFUSED_ERROR),
    ("Request Problem Information 255", "10 | s'MQTT' 05 02 003C { 17 FF } ID", REFUSED_ERROR),
    ("Payload Format Indicator 2 of a will", "10 | s'MQTT' 05 06 003C {} ID { 01 02 } s'h' s'x'", REFUSED_ERROR),
    ("a Response Topic with a wildcard in a will", "10 | s'MQTT' 05 06 003C {} ID { 08 s'a/#' } s'h' s'x'", &["CONNACK 0x82; closed", "CONNACK 0x81; closed", "CONNACK 0x90; closed"]),
    ("Authentication Data without a method", "10 | s'MQTT' 05 02 003C { 16 s'd' } ID", REFUSED_ERROR),
    ("an unknown Authentication Method", "10 | s'MQTT' 05 02 003C { 15 s'X-UNKNOWN' } ID", &["CONNACK 0x8C; closed"]),
    ("an empty Authentication Method", "10 | s'MQTT' 05 02 003C { 15 s'' } ID", &["CONNACK 0x8C; closed"]),
    ("an unknown Authentication Method with data", "10 | s'MQTT' 05 02 003C { 15 s'X' 16 s'd' } ID", &["CONNACK 0x8C; closed"]),
    ("a property identifier of two bytes", "10 | s'MQTT' 05 02 003C { 8101 00 } ID", REFUSED_MALFORMED),
    ("a padded property identifier", "10 | s'MQTT' 05 02 003C { A100 0001 } ID", REFUSED_MALFORMED),
    ("a property identifier of five bytes", "10 | s'MQTT' 05 02 003C { 8080808001 } ID", REFUSED_MALFORMED),
];

/// The tables of this file.
pub(crate) fn groups(version: ProtocolVersion) -> Vec<Group> {
    let stage = Stage::Fresh;
    let both = |table| of_both(version, stage, table);
    let v311 = of_one((version, ProtocolVersion::V311), stage, ONLY_V311);
    let v5 = of_one((version, ProtocolVersion::V5), stage, ONLY_V5);
    vec![
        Group {
            name: "no CONNECT",
            rows: both(NOT_CONNECT).collect(),
        },
        Group {
            name: "CONNECT",
            rows: both(FIXED_HEADER)
                .chain(both(NAME_AND_LEVEL))
                .chain(both(FLAGS))
                .chain(both(PAYLOAD))
                .chain(v311)
                .chain(v5)
                .collect(),
        },
    ]
}
