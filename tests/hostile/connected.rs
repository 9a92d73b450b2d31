//! After CONNECT: packets that break a rule, and legal ones that nobody asked for.

use codec::ProtocolVersion;

use crate::row::{
    BAD, BAD_OR_ERROR, Both, BothRow, CLOSED, ERROR, Group, IGNORED, MALFORMED, MALFORMED_OR_ERROR,
    OneRow, PROTOCOL_ERROR, Reactions, Stage, of_both, of_one,
};

const TOO_LARGE: Both = (CLOSED, &["DISCONNECT 0x95; closed"]);
/// The standard names no code [MQTT-3.3.2-2].
const BAD_TOPIC: Both = (
    CLOSED,
    &["DISCONNECT 0x90; closed", "DISCONNECT 0x81; closed"],
);
/// The standard names no code; a SUBACK that refuses would do as well [MQTT-4.7.1-1].
const BAD_FILTER: Both = (
    &["closed", "SUBACK id=1 0x80; open"],
    &["DISCONNECT 0x8F; closed", "SUBACK id=1 0x8F; open"],
);
const BAD_FILTER_LEAVING: Both = (
    CLOSED,
    &["DISCONNECT 0x8F; closed", "UNSUBACK id=1 0x8F; open"],
);
const BAD_ALIAS: Reactions = &["DISCONNECT 0x94; closed"];
/// The connection goes on, whatever a repeated answer means: nothing waits for it.
const NOBODY_WAITS: Both = (IGNORED, IGNORED);

#[rustfmt::skip]
const OUT_OF_PLACE: &[BothRow] = &[
    ("packet type 0", "00 |", BAD),
    ("CONNACK from a client", "20 | 00 00 {}", BAD_OR_ERROR),
    ("SUBACK from a client", "90 | 0001 {} 00", BAD_OR_ERROR),
    ("UNSUBACK from a client", "B0 | 0001 {} 00", BAD_OR_ERROR),
    ("PINGRESP from a client", "D0 |", BAD_OR_ERROR),
    ("AUTH without an Authentication Method in CONNECT", "F0 | 18 { 15 s'M' }", ERROR),
    ("AUTH of length 0", "F0 |", ERROR),
    ("a second CONNECT", "10 | s'MQTT' LEVEL 02 003C {} ID", ERROR),
    ("a second CONNECT of another client", "10 | s'MQTT' LEVEL 02 003C {} s'other'", ERROR),
    ("a second CONNECT of another version", "10 | s'MQIsdp' 03 02 003C ID", ERROR),
    ("a second CONNECT that is broken", "10 | s'MQTT' LEVEL 03 003C {} ID", BAD_OR_ERROR),
    ("bytes of HTTP", "'GET' 20 '/' 20 'HTTP/1.1' 0D0A 0D0A", BAD_OR_ERROR),
    ("PINGREQ with a body", "C0 | 00", BAD),
    ("PINGREQ of 128 bytes", "C0 | x128*00", BAD),
];

#[rustfmt::skip]
const LENGTHS: &[BothRow] = &[
    ("PUBLISH whose length has five bytes", "30 FFFFFFFF7F", BAD),
    ("PUBLISH whose length never ends", "30 FFFFFFFF FFFFFFFF FFFFFFFF", BAD),
    ("PINGREQ whose length has five bytes", "C0 8080808000", BAD),
    ("SUBSCRIBE whose length has five bytes", "82 8080808001", BAD),
    ("PUBLISH of 256 MiB that does not come", "30 FFFFFF7F", TOO_LARGE),
    ("PUBLISH of 2 MiB that does not come", "30 80808001 s'h'", TOO_LARGE),
    ("PUBLISH at QoS 2 of 256 MiB that does not come", "34 FFFFFF7F", TOO_LARGE),
    ("PUBLISH of a byte more than the maximum", "30 FDFF3F s'h' {} 'x'", TOO_LARGE),
    ("SUBSCRIBE of 256 MiB that does not come", "82 FFFFFF7F", TOO_LARGE),
    ("UNSUBSCRIBE of 256 MiB that does not come", "A2 FFFFFF7F", TOO_LARGE),
    ("PUBACK of 256 MiB that does not come", "40 FFFFFF7F", TOO_LARGE),
    ("PINGREQ of 256 MiB that does not come", "C0 FFFFFF7F", (CLOSED, &["DISCONNECT 0x95; closed", "DISCONNECT 0x81; closed"])),
    ("DISCONNECT of 256 MiB that does not come", "E0 FFFFFF7F", (CLOSED, &["DISCONNECT 0x95; closed", "DISCONNECT 0x81; closed"])),
];

#[rustfmt::skip]
const PUBLISH: &[BothRow] = &[
    ("PUBLISH at QoS 3", "36 | s'h' 0001 {} 'x'", BAD),
    ("PUBLISH at QoS 3 with all flags", "3F | s'h' 0001 {} 'x'", BAD),
    ("DUP at QoS 0", "38 | s'h' {} 'x'", BAD_OR_ERROR),
    ("DUP at QoS 0, retained", "39 | s'h' {} 'x'", BAD_OR_ERROR),
    ("PUBLISH to a/+", "30 | s'a/+' {} 'x'", BAD_TOPIC),
    ("PUBLISH to +", "30 | s'+' {} 'x'", BAD_TOPIC),
    ("PUBLISH to #", "30 | s'#' {} 'x'", BAD_TOPIC),
    ("PUBLISH to a/#", "30 | s'a/#' {} 'x'", BAD_TOPIC),
    ("PUBLISH to a+b", "30 | s'a+b' {} 'x'", BAD_TOPIC),
    ("PUBLISH to a#", "30 | s'a#' {} 'x'", BAD_TOPIC),
    ("PUBLISH at QoS 1 to a/+", "32 | s'a/+' 0001 {} 'x'", (CLOSED, &["DISCONNECT 0x90; closed", "DISCONNECT 0x81; closed", "PUBACK id=1 0x90; open"])),
    ("PUBLISH at QoS 2 to a/#", "34 | s'a/#' 0001 {} 'x'", (CLOSED, &["DISCONNECT 0x90; closed", "DISCONNECT 0x81; closed", "PUBREC id=1 0x90; open"])),
    ("a retained PUBLISH to #", "31 | s'#' {} 'x'", BAD_TOPIC),
    ("PUBLISH of too many levels", "30 | s'////////////////////////////////////////////////////////////////////////////////' {} 'x'", BAD_TOPIC),
    ("PUBLISH to no topic", "30 | s'' {} 'x'", ERROR),
    ("PUBLISH at QoS 1 to no topic", "32 | s'' 0001 {} 'x'", ERROR),
    ("PUBLISH of length 0", "30 |", BAD),
    ("PUBLISH with one byte", "30 | 00", BAD),
    ("PUBLISH whose topic is longer than the packet", "30 | 0009 'h'", BAD),
    ("PUBLISH whose topic has 65535 bytes that do not come", "30 | FFFF 'h'", BAD),
    ("PUBLISH at QoS 1 with packet id 0", "32 | s'h' 0000 {} 'x'", BAD_OR_ERROR),
    ("PUBLISH at QoS 2 with packet id 0", "34 | s'h' 0000 {} 'x'", BAD_OR_ERROR),
    ("a repeated PUBLISH with packet id 0", "3A | s'h' 0000 {} 'x'", BAD_OR_ERROR),
    ("PUBLISH at QoS 1 without packet id", "32 | s'h'", BAD),
    ("PUBLISH at QoS 2 with half a packet id", "34 | s'h' 00", BAD),
];

#[rustfmt::skip]
const ACKNOWLEDGEMENTS: &[BothRow] = &[
    ("PUBACK of packet id 0", "40 | 0000", BAD_OR_ERROR),
    ("PUBREC of packet id 0", "50 | 0000", BAD_OR_ERROR),
    ("PUBREL of packet id 0", "62 | 0000", BAD_OR_ERROR),
    ("PUBCOMP of packet id 0", "70 | 0000", BAD_OR_ERROR),
    ("PUBACK of nothing", "40 |", BAD),
    ("PUBREC of nothing", "50 |", BAD),
    ("PUBREL of nothing", "62 |", BAD),
    ("PUBCOMP of nothing", "70 |", BAD),
    ("PUBACK with half a packet id", "40 | 01", BAD),
    ("PUBREC with half a packet id", "50 | 01", BAD),
    ("PUBREL with half a packet id", "62 | 01", BAD),
    ("PUBCOMP with half a packet id", "70 | 01", BAD),
    ("PUBACK of an unknown packet id", "40 | 1234", NOBODY_WAITS),
    ("PUBACK of the last packet id, unknown", "40 | FFFF", NOBODY_WAITS),
    ("PUBREC of an unknown packet id", "50 | 1234", (&["open", "PUBREL id=4660; open"], &["PUBREL id=4660 0x92; open"])),
    ("PUBREL of an unknown packet id", "62 | 1234", (&["PUBCOMP id=4660; open"], &["PUBCOMP id=4660 0x92; open", "PUBCOMP id=4660; open"])),
    ("PUBREL of the last packet id, unknown", "62 | FFFF", (&["PUBCOMP id=65535; open"], &["PUBCOMP id=65535 0x92; open", "PUBCOMP id=65535; open"])),
    ("PUBCOMP of an unknown packet id", "70 | 1234", NOBODY_WAITS),
    ("PUBACK of an unknown packet id, a thousand times", "x1000*40021234", NOBODY_WAITS),
    ("PUBCOMP of an unknown packet id, a thousand times", "x1000*70021234", NOBODY_WAITS),
];

#[rustfmt::skip]
const SUBSCRIBE: &[BothRow] = &[
    ("SUBSCRIBE with packet id 0", "82 | 0000 {} s'h' 00", BAD_OR_ERROR),
    ("SUBSCRIBE to nothing", "82 | 0001 {}", ERROR),
    ("SUBSCRIBE without options", "82 | 0001 {} s'h'", BAD),
    ("SUBSCRIBE whose second filter lacks options", "82 | 0001 {} s'h' 00 s'i'", BAD),
    ("SUBSCRIBE whose filter is longer than the packet", "82 | 0001 {} 00FF 'h' 00", BAD),
    ("SUBSCRIBE with half a length at the end", "82 | 0001 {} s'h' 00 00", BAD),
    ("SUBSCRIBE at QoS 3", "82 | 0001 {} s'h' 03", ERROR),
    ("SUBSCRIBE whose second filter asks for QoS 3", "82 | 0001 {} s'h' 00 s'i' 03", ERROR),
    ("SUBSCRIBE with reserved option 0x40", "82 | 0001 {} s'h' 40", BAD),
    ("SUBSCRIBE with reserved option 0x80", "82 | 0001 {} s'h' 80", BAD),
    ("SUBSCRIBE whose second filter has a reserved option", "82 | 0001 {} s'h' 01 s'i' C0", BAD),
    ("SUBSCRIBE to an empty filter", "82 | 0001 {} s'' 00", (&["closed", "SUBACK id=1 0x80; open"], &["DISCONNECT 0x8F; closed", "DISCONNECT 0x82; closed", "DISCONNECT 0x81; closed", "SUBACK id=1 0x8F; open"])),
    ("SUBSCRIBE to a#", "82 | 0001 {} s'a#' 00", BAD_FILTER),
    ("SUBSCRIBE to a/#/b", "82 | 0001 {} s'a/#/b' 00", BAD_FILTER),
    ("SUBSCRIBE to #/a", "82 | 0001 {} s'#/a' 00", BAD_FILTER),
    ("SUBSCRIBE to ##", "82 | 0001 {} s'##' 00", BAD_FILTER),
    ("SUBSCRIBE to #/", "82 | 0001 {} s'#/' 00", BAD_FILTER),
    ("SUBSCRIBE to a+", "82 | 0001 {} s'a+' 00", BAD_FILTER),
    ("SUBSCRIBE to +a", "82 | 0001 {} s'+a' 00", BAD_FILTER),
    ("SUBSCRIBE to a/+b", "82 | 0001 {} s'a/+b' 00", BAD_FILTER),
    ("SUBSCRIBE to ++", "82 | 0001 {} s'++' 00", BAD_FILTER),
    ("SUBSCRIBE to +#", "82 | 0001 {} s'+#' 00", BAD_FILTER),
    ("SUBSCRIBE to $share//h", "82 | 0001 {} s'$share//h' 00", BAD_FILTER),
    ("SUBSCRIBE to $share/g", "82 | 0001 {} s'$share/g' 00", BAD_FILTER),
    ("SUBSCRIBE to $share/g/", "82 | 0001 {} s'$share/g/' 00", BAD_FILTER),
    ("SUBSCRIBE to $share/+/h", "82 | 0001 {} s'$share/+/h' 00", BAD_FILTER),
    ("SUBSCRIBE to $share/g#/h", "82 | 0001 {} s'$share/g#/h' 00", BAD_FILTER),
    ("SUBSCRIBE to $share/g/a#", "82 | 0001 {} s'$share/g/a#' 00", BAD_FILTER),
    ("SUBSCRIBE to too many levels", "82 | 0001 {} s'////////////////////////////////////////////////////////////////////////////////' 00", BAD_FILTER),
];

#[rustfmt::skip]
const UNSUBSCRIBE: &[BothRow] = &[
    ("UNSUBSCRIBE with packet id 0", "A2 | 0000 {} s'h'", BAD_OR_ERROR),
    ("UNSUBSCRIBE from nothing", "A2 | 0001 {}", ERROR),
    ("UNSUBSCRIBE whose filter is longer than the packet", "A2 | 0001 {} 00FF 'h'", BAD),
    ("UNSUBSCRIBE with options", "A2 | 0001 {} s'h' 00", BAD),
    ("UNSUBSCRIBE from a#", "A2 | 0001 {} s'a#'", BAD_FILTER_LEAVING),
    ("UNSUBSCRIBE from a/#/b", "A2 | 0001 {} s'a/#/b'", BAD_FILTER_LEAVING),
    ("UNSUBSCRIBE from +a", "A2 | 0001 {} s'+a'", BAD_FILTER_LEAVING),
    ("UNSUBSCRIBE from $share//h", "A2 | 0001 {} s'$share//h'", BAD_FILTER_LEAVING),
    ("UNSUBSCRIBE from an empty filter", "A2 | 0001 {} s''", (CLOSED, &["DISCONNECT 0x8F; closed", "DISCONNECT 0x82; closed", "DISCONNECT 0x81; closed", "UNSUBACK id=1 0x8F; open"])),
    ("UNSUBSCRIBE from what was never subscribed", "A2 | 0001 {} s'never'", (&["UNSUBACK id=1; open"], &["UNSUBACK id=1 0x11; open"])),
];

#[rustfmt::skip]
const ONLY_V311: &[OneRow] = &[
    ("AUTH, which 3.1.1 has not", "F0 | 18 00", CLOSED),
    ("packet type 15 with flags", "FF | 00", CLOSED),
    ("PUBACK with a reason code", "40 | 0001 00", CLOSED),
    ("PUBREC with a reason code", "50 | 0001 00", CLOSED),
    ("PUBREL with a reason code", "62 | 0001 00", CLOSED),
    ("PUBCOMP with a reason code", "70 | 0001 00", CLOSED),
    ("DISCONNECT with a reason code", "E0 | 00", CLOSED),
    ("DISCONNECT with a body", "E0 | 04 00 00 00", CLOSED),
    ("SUBSCRIBE with No Local, which 3.1.1 has not", "82 | 0001 s'h' 04", CLOSED),
    ("SUBSCRIBE with Retain As Published, which 3.1.1 has not", "82 | 0001 s'h' 08", CLOSED),
    ("SUBSCRIBE with Retain Handling, which 3.1.1 has not", "82 | 0001 s'h' 10", CLOSED),
    ("SUBSCRIBE with an empty property list", "82 | 0001 00 s'h' 00", CLOSED),
    ("a padded length, which 3.1.1 allows", "C0 8000", &["PINGRESP; open"]),
];

#[rustfmt::skip]
const ONLY_V5: &[OneRow] = &[
    ("a padded length of two bytes", "C0 8000", MALFORMED),
    ("a padded length of four bytes", "C0 80808000", MALFORMED),
    ("a padded property length", "30 | s'h' 8000 'x'", MALFORMED),
    ("Topic Alias 0", "30 | s'h' { 23 0000 } 'x'", BAD_ALIAS),
    ("Topic Alias above the maximum", "30 | s'h' { 23 0011 } 'x'", BAD_ALIAS),
    ("Topic Alias 65535", "30 | s'h' { 23 FFFF } 'x'", BAD_ALIAS),
    ("Topic Alias 0 without a topic", "30 | s'' { 23 0000 } 'x'", BAD_ALIAS),
    ("an alias above the maximum, without a topic", "30 | s'' { 23 0011 } 'x'", BAD_ALIAS),
    ("an alias that was never set", "30 | s'' { 23 0001 } 'x'", PROTOCOL_ERROR),
    ("an alias that was never set, at QoS 1", "32 | s'' 0001 { 23 0010 } 'x'", PROTOCOL_ERROR),
    ("an alias that was never set, at QoS 2", "34 | s'' 0001 { 23 0010 } 'x'", PROTOCOL_ERROR),
    ("Payload Format Indicator 2", "30 | s'h' { 01 02 } 'x'", PROTOCOL_ERROR),
    ("Subscription Identifier in PUBLISH", "30 | s'h' { 0B 01 } 'x'", PROTOCOL_ERROR),
    ("Subscription Identifier 0 in PUBLISH", "30 | s'h' { 0B 00 } 'x'", PROTOCOL_ERROR),
    ("Response Topic a/+", "30 | s'h' { 08 s'a/+' } 'x'", &["DISCONNECT 0x82; closed", "DISCONNECT 0x81; closed", "DISCONNECT 0x90; closed"]),
    ("Response Topic #", "30 | s'h' { 08 s'#' } 'x'", &["DISCONNECT 0x82; closed", "DISCONNECT 0x81; closed", "DISCONNECT 0x90; closed"]),
    ("an empty Response Topic", "30 | s'h' { 08 s'' } 'x'", &["DISCONNECT 0x82; closed", "DISCONNECT 0x81; closed", "DISCONNECT 0x90; closed"]),
    ("PUBLISH without property length", "30 | s'h'", MALFORMED),
    ("PUBLISH whose properties are longer than the packet", "30 | s'h' 7F 'x'", MALFORMED),
    ("PUBLISH whose last property is cut", "30 | s'h' 03 02 0000 'x'", MALFORMED),
    ("PUBLISH whose correlation data is longer than the properties", "30 | s'h' { 09 00FF 'x' }", MALFORMED),
    ("PUBACK with an unknown reason code", "40 | 0001 01", MALFORMED_OR_ERROR),
    ("PUBACK with a reason code of SUBACK", "40 | 0001 8F", MALFORMED_OR_ERROR),
    ("PUBREC with an unknown reason code", "50 | 0001 FF", MALFORMED_OR_ERROR),
    ("PUBREL with a reason code of PUBACK", "62 | 0001 80", MALFORMED_OR_ERROR),
    ("PUBCOMP with an unknown reason code", "70 | 0001 7F", MALFORMED_OR_ERROR),
    ("PUBACK with bytes after its properties", "40 | 0001 00 {} 00", MALFORMED),
    ("PUBACK whose properties are longer than the packet", "40 | 0001 00 05", MALFORMED),
    ("SUBSCRIBE with Retain Handling 3", "82 | 0001 {} s'h' 30", PROTOCOL_ERROR),
    ("No Local on a shared subscription", "82 | 0001 {} s'$share/g/h' 04", PROTOCOL_ERROR),
    ("Subscription Identifier 0", "82 | 0001 { 0B 00 } s'h' 00", PROTOCOL_ERROR),
    ("a Subscription Identifier of five bytes", "82 | 0001 { 0B 8080808001 } s'h' 00", MALFORMED),
    ("a padded Subscription Identifier", "82 | 0001 { 0B 8100 } s'h' 00", MALFORMED),
    ("SUBSCRIBE as in 3.1.1", "82 | 0001 s'h' 00", MALFORMED),
    ("DISCONNECT with an unknown reason code", "E0 | 01", MALFORMED_OR_ERROR),
    ("DISCONNECT with a reason code of a server", "E0 | 8E", MALFORMED_OR_ERROR),
    ("DISCONNECT with bytes after its properties", "E0 | 00 {} 00", MALFORMED),
    ("DISCONNECT whose properties are longer than the packet", "E0 | 00 05", MALFORMED),
    ("DISCONNECT that gives an ended session time", "E0 | 00 { 11 0000003C }", PROTOCOL_ERROR),
    ("AUTH with reason code 0", "F0 | 00 {}", PROTOCOL_ERROR),
    ("AUTH that re-authenticates", "F0 | 19 { 15 s'M' }", PROTOCOL_ERROR),
    ("AUTH with an unknown reason code", "F0 | 02 {}", MALFORMED_OR_ERROR),
    ("AUTH with flag 0001", "F1 | 18 {}", MALFORMED_OR_ERROR),
    ("AUTH with all flags", "FF | 18 {}", MALFORMED_OR_ERROR),
];

/// The tables of this file.
pub(crate) fn groups(version: ProtocolVersion) -> Vec<Group> {
    let stage = Stage::Connected;
    let both = |table| of_both(version, stage, table);
    let v311 = of_one((version, ProtocolVersion::V311), stage, ONLY_V311);
    let v5 = of_one((version, ProtocolVersion::V5), stage, ONLY_V5);
    vec![
        Group {
            name: "out of place",
            rows: both(OUT_OF_PLACE).chain(both(LENGTHS)).collect(),
        },
        Group {
            name: "PUBLISH and acknowledgements",
            rows: both(PUBLISH).chain(both(ACKNOWLEDGEMENTS)).collect(),
        },
        Group {
            name: "SUBSCRIBE and UNSUBSCRIBE",
            rows: both(SUBSCRIBE).chain(both(UNSUBSCRIBE)).collect(),
        },
        Group {
            name: "of one version",
            rows: v311.chain(v5).collect(),
        },
    ]
}
