//! Every property of 5.0 in every packet in which it must not be, and twice where it may be once.

use codec::ProtocolVersion;

use crate::row::{
    Group, MALFORMED, MALFORMED_OR_ERROR, PROTOCOL_ERROR, REFUSED_ERROR, REFUSED_MALFORMED,
    Reactions, Row, Stage,
};

/// Letters of the places of table 2-4: C CONNECT, W will, P PUBLISH, a PUBACK, r PUBREC, l PUBREL,
/// c PUBCOMP, S SUBSCRIBE, U UNSUBSCRIBE, D DISCONNECT, A AUTH. Packets of servers are left out.
type Letters = &'static str;

/// Name, identifier, a legal value, where it may be.
type Property = (&'static str, &'static str, &'static str, Letters);

#[rustfmt::skip]
const PROPERTIES: &[Property] = &[
    ("Payload Format Indicator", "01", "01", "WP"),
    ("Message Expiry Interval", "02", "0000003C", "WP"),
    ("Content Type", "03", "s'text'", "WP"),
    ("Response Topic", "08", "s'reply'", "WP"),
    ("Correlation Data", "09", "s'bytes'", "WP"),
    ("Subscription Identifier", "0B", "01", "PS"),
    ("Session Expiry Interval", "11", "00000000", "CD"),
    ("Assigned Client Identifier", "12", "s'name'", ""),
    ("Server Keep Alive", "13", "003C", ""),
    ("Authentication Method", "15", "s'M'", "CA"),
    ("Authentication Data", "16", "s'bytes'", "CA"),
    ("Request Problem Information", "17", "01", "C"),
    ("Will Delay Interval", "18", "00000000", "W"),
    ("Request Response Information", "19", "00", "C"),
    ("Response Information", "1A", "s'text'", ""),
    ("Server Reference", "1C", "s'other'", "D"),
    ("Reason String", "1F", "s'why'", "arlcDA"),
    ("Receive Maximum", "21", "0001", "C"),
    ("Topic Alias Maximum", "22", "0001", "C"),
    ("Topic Alias", "23", "0001", "P"),
    ("Maximum QoS", "24", "01", ""),
    ("Retain Available", "25", "01", ""),
    ("User Property", "26", "s'k' s'v'", "CWParlcSUDA"),
    ("Maximum Packet Size", "27", "00001000", "C"),
    ("Wildcard Subscription Available", "28", "01", ""),
    ("Subscription Identifier Available", "29", "01", ""),
    ("Shared Subscription Available", "2A", "01", ""),
    ("property 0x00", "00", "01", ""),
    ("property 0x04", "04", "01", ""),
    ("property 0x2B", "2B", "01", ""),
    ("property 0x7F", "7F", "01", ""),
];

/// Letter, name, notation with `*` for the properties, reactions to a property that is not allowed,
/// and to one that is there twice.
type Place = (
    char,
    &'static str,
    Stage,
    &'static str,
    (Reactions, Reactions),
);

const IN_CONNECT: (Reactions, Reactions) = (REFUSED_MALFORMED, REFUSED_ERROR);
const IN_OTHERS: (Reactions, Reactions) = (MALFORMED, PROTOCOL_ERROR);

#[rustfmt::skip]
const PLACES: &[Place] = &[
    ('C', "CONNECT", Stage::Fresh, "10 | s'MQTT' 05 02 003C { * } ID", IN_CONNECT),
    ('W', "a will", Stage::Fresh, "10 | s'MQTT' 05 06 003C {} ID { * } s'h' s'x'", IN_CONNECT),
    ('P', "PUBLISH", Stage::Connected, "32 | s'h' 0001 { * } 'x'", IN_OTHERS),
    ('a', "PUBACK", Stage::Connected, "40 | 0001 00 { * }", IN_OTHERS),
    ('r', "PUBREC", Stage::Connected, "50 | 0001 00 { * }", IN_OTHERS),
    ('l', "PUBREL", Stage::Connected, "62 | 0001 92 { * }", IN_OTHERS),
    ('c', "PUBCOMP", Stage::Connected, "70 | 0001 92 { * }", IN_OTHERS),
    ('S', "SUBSCRIBE", Stage::Connected, "82 | 0001 { * } s'h' 00", IN_OTHERS),
    ('U', "UNSUBSCRIBE", Stage::Connected, "A2 | 0001 { * } s'h'", IN_OTHERS),
    ('D', "DISCONNECT", Stage::Connected, "E0 | 00 { * }", IN_OTHERS),
    // On a connection without enhanced authentication AUTH is an error in itself.
    ('A', "AUTH", Stage::Connected, "F0 | 18 { * }", (MALFORMED_OR_ERROR, MALFORMED_OR_ERROR)),
];

/// A property where it must not be (section 2.2.2.2: malformed).
fn misplaced() -> Vec<Row> {
    let pairs = PLACES
        .iter()
        .flat_map(|place| PROPERTIES.iter().map(move |property| (place, property)));
    let misplaced = pairs.filter(|(place, property)| !property.3.contains(place.0));
    misplaced
        .map(|(place, (name, id, value, _))| {
            let properties = format!("{id} {value}");
            row(
                format!("{name} in {}", place.1),
                place,
                &properties,
                place.4.0,
            )
        })
        .collect()
}

/// A property that may be there once, twice (sections 3.1.2.11 to 3.15.2.2: a Protocol Error).
fn repeated() -> Vec<Row> {
    let pairs = PLACES
        .iter()
        .flat_map(|place| PROPERTIES.iter().map(move |property| (place, property)));
    let once =
        pairs.filter(|(place, (_, id, _, letters))| letters.contains(place.0) && *id != "26");
    once.map(|(place, (name, id, value, _))| {
        // Data alone is another error.
        let method = if *id == "16" { "15 s'M'" } else { "" };
        let properties = format!("{method} {id} {value} {id} {value}");
        let reactions = match (*id, place.0) {
            // Only a server sends it; no rule says what becomes of one from a client.
            ("1C", _) => &[
                "closed",
                "DISCONNECT 0x81; closed",
                "DISCONNECT 0x82; closed",
            ],
            _ => place.4.1,
        };
        row(
            format!("{name} twice in {}", place.1),
            place,
            &properties,
            reactions,
        )
    })
    .collect()
}

/// A value that ends before its type does.
fn cut() -> Vec<Row> {
    let typed = PROPERTIES
        .iter()
        .filter(|(_, _, _, letters)| letters.contains(['C', 'P']));
    typed
        .map(|(name, id, value, letters)| {
            let in_publish = letters.contains('P');
            let place = &PLACES[if in_publish { 2 } else { 0 }];
            let half = half_of(value);
            let name = format!("{name} cut in {}", place.1);
            // From a client it is wrong in any case.
            let is_identifier = in_publish && *id == "0B";
            let reactions = if is_identifier {
                MALFORMED_OR_ERROR
            } else {
                place.4.0
            };
            row(name, place, &format!("{id} {half}"), reactions)
        })
        .collect()
}

/// A value in the notation without its last byte, or without its last string.
fn half_of(value: &str) -> String {
    match value.rsplit_once(' ') {
        Some((first, _)) => first.to_owned(),
        None if value.starts_with("s'") => "0009 'cut'".to_owned(),
        None => value[..value.len() - 2].to_owned(),
    }
}

fn row(name: String, place: &Place, properties: &str, reactions: Reactions) -> Row {
    Row {
        name,
        version: ProtocolVersion::V5,
        stage: place.2,
        notation: place.3.replace('*', properties),
        reactions,
    }
}

/// What this file generates; 3.1.1 has no properties.
pub(crate) fn groups(version: ProtocolVersion) -> Vec<Group> {
    if version != ProtocolVersion::V5 {
        return Vec::new();
    }
    let group = |name, rows| Group { name, rows };
    let closed = row(
        "Server Reference in DISCONNECT of a client".to_owned(),
        &PLACES[9],
        "1C s'other'",
        &[
            "closed",
            "DISCONNECT 0x81; closed",
            "DISCONNECT 0x82; closed",
        ],
    );
    vec![
        group("misplaced properties", misplaced()),
        group("repeated properties", repeated()),
        group(
            "cut properties",
            cut().into_iter().chain([closed]).collect(),
        ),
    ]
}
