//! Rows that follow a system: a packet cut at each of its fields, wrong flags for each packet type,
//! and ill-formed text in each string.

use codec::ProtocolVersion;

use crate::row::{
    BAD, BAD_CONNECT, BAD_OR_ERROR, Both, Group, Row, Stage, UNREADABLE_CONNECT, choose,
};

/// A packet in fields: name, notation, and what follows from a cut before or inside it.
type Fields = &'static [(&'static str, &'static str, Both)];

/// Packet, its first byte, stage, fields. A place at which a cut leaves a legal packet is no field of
/// its own here.
type Template = (&'static str, &'static str, Stage, Fields);

#[rustfmt::skip]
const TEMPLATES: &[Template] = &[
    ("CONNECT", "10 |", Stage::Fresh, &[
        ("the protocol name", "s'MQTT'", UNREADABLE_CONNECT),
        ("the protocol level", "LEVEL", UNREADABLE_CONNECT),
        ("the flags", "C6", BAD_CONNECT),
        ("the keep alive", "003C", BAD_CONNECT),
        ("the properties", "{ 11 00000000 26 s'k' s'v' 22 0003 }", BAD_CONNECT),
        ("the client id", "ID", BAD_CONNECT),
        ("the will properties", "{ 18 00000001 01 01 03 s'text' 26 s'k' s'v' }", BAD_CONNECT),
        ("the will topic", "s'hostile/will'", BAD_CONNECT),
        ("the will message", "s'a-will'", BAD_CONNECT),
        ("the user name", "s'user'", BAD_CONNECT),
        ("the password", "s'secret'", BAD_CONNECT),
    ]),
    ("PUBLISH at QoS 1", "32 |", Stage::Connected, &[
        ("the topic", "s'hostile/cut'", BAD),
        ("the packet id", "0102", BAD),
        ("the properties", "{ 02 0000003C 26 s'k' s'v' 08 s'reply' }", BAD),
    ]),
    ("PUBLISH at QoS 2", "34 |", Stage::Connected, &[
        ("the topic", "s'hostile/cut'", BAD),
        ("the packet id", "0102", BAD),
        ("the properties", "{ 01 01 09 s'bytes' 23 0001 }", BAD),
    ]),
    ("SUBSCRIBE", "82 |", Stage::Connected, &[
        ("the packet id", "0001", BAD),
        ("the properties", "{ 0B 07 26 s'k' s'v' }", BAD),
        // Nothing at all after the header is an error of its own, see the tables.
        ("the filter, after its first byte", "00", BAD),
        ("the rest of the filter", "07 'hostile'", BAD),
        ("the options", "01", BAD),
    ]),
    ("UNSUBSCRIBE", "A2 |", Stage::Connected, &[
        ("the packet id", "0001", BAD),
        ("the properties", "{ 26 s'k' s'v' }", BAD),
        ("the filter, after its first byte", "00", BAD),
        ("the rest of the filter", "07 'hostile'", BAD),
    ]),
];

/// The same, but the packet stays legal when whole fields are missing: only cuts inside count.
#[rustfmt::skip]
const OPTIONAL: &[Template] = &[
    ("PUBACK", "40 | 0001 80", Stage::Connected, &[("the properties", "{ 1F s'why' 26 s'k' s'v' }", BAD)]),
    ("PUBREC", "50 | 0001 80", Stage::Connected, &[("the properties", "{ 1F s'why' 26 s'k' s'v' }", BAD)]),
    ("PUBREL", "62 | 0001 92", Stage::Connected, &[("the properties", "{ 1F s'why' 26 s'k' s'v' }", BAD)]),
    ("PUBCOMP", "70 | 0001 92", Stage::Connected, &[("the properties", "{ 1F s'why' 26 s'k' s'v' }", BAD)]),
    ("DISCONNECT", "E0 | 04", Stage::Connected, &[("the properties", "{ 1F s'why' 26 s'k' s'v' }", BAD)]),
    ("AUTH", "F0 | 18", Stage::Connected, &[("the properties", "{ 15 s'M' 16 s'data' }", BAD_OR_ERROR)]),
];

/// A field is cut at most at so many places inside, and after its first bytes rather than its last.
const CUTS_INSIDE_MAX: usize = 12;

/// All packets that end too early; their length says so too.
fn cut(version: ProtocolVersion) -> Vec<Row> {
    let mut rows = Vec::new();
    for template in TEMPLATES {
        cut_template(version, template, true, &mut rows);
    }
    if version == ProtocolVersion::V5 {
        for template in OPTIONAL {
            cut_template(version, template, false, &mut rows);
        }
    }
    rows
}

fn cut_template(
    version: ProtocolVersion,
    (packet, head, stage, fields): &Template,
    is_needed: bool,
    rows: &mut Vec<Row>,
) {
    let mut notation = (*head).to_owned();
    for (field, text, both) in *fields {
        let scene = crate::notation::Scene {
            version,
            client_id: "hostile",
        };
        let bytes = scene.bytes(text);
        let row = |name: String, bytes: &[u8]| Row {
            name,
            version,
            stage: *stage,
            notation: format!("{notation} {}", hexadecimal(bytes)),
            reactions: choose(version, *both),
        };
        // A list without entries is another error than one that is cut.
        let is_entry = field.ends_with("after its first byte");
        if is_needed && !bytes.is_empty() && !is_entry {
            rows.push(row(format!("{packet} ends before {field}"), &[]));
        }
        for inside in 1..bytes.len().min(CUTS_INSIDE_MAX) {
            let name = format!("{packet} ends {inside} bytes into {field}");
            rows.push(row(name, &bytes[..inside]));
        }
        notation = format!("{notation} {}", hexadecimal(&bytes));
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Type, its proper flags, a body that is legal in both versions.
#[rustfmt::skip]
const FLAGGED: &[(&str, u8, &str)] = &[
    ("PUBACK", 0x40, "| 0001"),
    ("PUBREC", 0x50, "| 0001"),
    ("PUBREL", 0x62, "| 0001"),
    ("PUBCOMP", 0x70, "| 0001"),
    ("SUBSCRIBE", 0x82, "| 0001 {} s'h' 00"),
    ("UNSUBSCRIBE", 0xA2, "| 0001 {} s'h'"),
    ("PINGREQ", 0xC0, "|"),
    ("DISCONNECT", 0xE0, "|"),
];

/// Each single wrong bit, and all at once.
fn flags(version: ProtocolVersion) -> Vec<Row> {
    let wrong = [0b0001, 0b0010, 0b0100, 0b1000, 0b1111];
    let all = FLAGGED
        .iter()
        .flat_map(|row| wrong.map(|wrong| (row, wrong)));
    all.map(|((packet, first, body), wrong)| {
        let first = first ^ wrong;
        Row {
            name: format!("{packet} with flags {:04b}", first & 0x0F),
            version,
            stage: Stage::Connected,
            notation: format!("{first:02X} {body}"),
            reactions: choose(version, BAD),
        }
    })
    .collect()
}

/// What is no UTF-8, or must not be in a string of MQTT [MQTT-1.5.4-1, MQTT-1.5.4-2 of 5.0].
const ILL_FORMED: &[(&str, &str)] = &[
    ("C0 80, a null in two bytes", "0002 C080"),
    ("ED A0 80, a surrogate", "0003 EDA080"),
    ("ED BF BF, the last surrogate", "0003 EDBFBF"),
    ("F4 90 80 80, beyond Unicode", "0004 F4908080"),
    ("FF", "0001 FF"),
    ("80, which begins nothing", "0003 61 80 62"),
    ("E2 82, which does not end", "0003 61 E282"),
    ("00, a null", "0003 61 00 62"),
];

/// A packet with `*` where the string stands. Some are in 5.0 only.
type Place = (&'static str, Stage, &'static str, Both);

#[rustfmt::skip]
const STRINGS: &[Place] = &[
    ("the client id", Stage::Fresh, "10 | s'MQTT' LEVEL 02 003C {} *", BAD_CONNECT),
    ("the will topic", Stage::Fresh, "10 | s'MQTT' LEVEL 06 003C {} ID {} * s'x'", BAD_CONNECT),
    ("the user name", Stage::Fresh, "10 | s'MQTT' LEVEL 82 003C {} ID *", BAD_CONNECT),
    ("a topic name at QoS 0", Stage::Connected, "30 | * {} 'x'", BAD),
    ("a topic name at QoS 1", Stage::Connected, "32 | * 0001 {} 'x'", BAD),
    ("a topic name at QoS 2", Stage::Connected, "34 | * 0001 {} 'x'", BAD),
    ("a topic filter", Stage::Connected, "82 | 0001 {} * 00", BAD),
    ("a second topic filter", Stage::Connected, "82 | 0001 {} s'h' 00 * 00", BAD),
    ("a filter of UNSUBSCRIBE", Stage::Connected, "A2 | 0001 {} *", BAD),
];

#[rustfmt::skip]
const STRINGS_V5: &[Place] = &[
    ("the Authentication Method", Stage::Fresh, "10 | s'MQTT' 05 02 003C { 15 * } ID", BAD_CONNECT),
    ("a user property's name in CONNECT", Stage::Fresh, "10 | s'MQTT' 05 02 003C { 26 * s'v' } ID", BAD_CONNECT),
    ("a user property's value in CONNECT", Stage::Fresh, "10 | s'MQTT' 05 02 003C { 26 s'k' * } ID", BAD_CONNECT),
    ("the Content Type of a will", Stage::Fresh, "10 | s'MQTT' 05 06 003C {} ID { 03 * } s'h' s'x'", BAD_CONNECT),
    ("the Response Topic of a will", Stage::Fresh, "10 | s'MQTT' 05 06 003C {} ID { 08 * } s'h' s'x'", BAD_CONNECT),
    ("a user property of a will", Stage::Fresh, "10 | s'MQTT' 05 06 003C {} ID { 26 s'k' * } s'h' s'x'", BAD_CONNECT),
    ("the Content Type", Stage::Connected, "30 | s'h' { 03 * } 'x'", BAD),
    ("the Response Topic", Stage::Connected, "30 | s'h' { 08 * } 'x'", BAD),
    ("a user property's name in PUBLISH", Stage::Connected, "30 | s'h' { 26 * s'v' } 'x'", BAD),
    ("a user property's value in PUBLISH", Stage::Connected, "30 | s'h' { 26 s'k' * } 'x'", BAD),
    ("a user property in SUBSCRIBE", Stage::Connected, "82 | 0001 { 26 s'k' * } s'h' 00", BAD),
    ("a user property in UNSUBSCRIBE", Stage::Connected, "A2 | 0001 { 26 * s'v' } s'h'", BAD),
    ("the Reason String of PUBACK", Stage::Connected, "40 | 0001 80 { 1F * }", BAD),
    ("a user property in PUBREC", Stage::Connected, "50 | 0001 80 { 26 s'k' * }", BAD),
    ("the Reason String of PUBREL", Stage::Connected, "62 | 0001 92 { 1F * }", BAD),
    ("the Reason String of PUBCOMP", Stage::Connected, "70 | 0001 92 { 1F * }", BAD),
    ("the Reason String of DISCONNECT", Stage::Connected, "E0 | 04 { 1F * }", BAD),
    ("a user property in DISCONNECT", Stage::Connected, "E0 | 00 { 26 s'k' * }", BAD),
];

fn ill_formed(version: ProtocolVersion) -> Vec<Row> {
    let of_v5 = if version == ProtocolVersion::V5 {
        STRINGS_V5
    } else {
        &[]
    };
    let places = STRINGS.iter().chain(of_v5);
    let all = places.flat_map(|place| ILL_FORMED.iter().map(move |text| (place, text)));
    all.map(|((place, stage, notation, both), (text, bytes))| Row {
        name: format!("{place} has {text}"),
        version,
        stage: *stage,
        notation: notation.replace('*', bytes),
        reactions: choose(version, *both),
    })
    .collect()
}

/// What this file generates.
pub(crate) fn groups(version: ProtocolVersion) -> Vec<Group> {
    let group = |name, rows| Group { name, rows };
    vec![
        group("cut", cut(version)),
        group("flags", flags(version)),
        group("ill-formed text", ill_formed(version)),
    ]
}
