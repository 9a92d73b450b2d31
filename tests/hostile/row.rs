//! What a row of the tables says, and what is expected of the broker.

use codec::ProtocolVersion;

use crate::notation::Scene;

/// The ways in which the broker may react: the packets that it sends, then whether it closes the
/// connection, e.g. `DISCONNECT 0x81; closed` or `PUBCOMP id=7; open`. More than one only where the
/// standard leaves a choice.
pub(crate) type Reactions = &'static [&'static str];

/// The reactions in 3.1.1 and in 5.0.
pub(crate) type Both = (Reactions, Reactions);

/// Name, bytes, reactions: a row for both versions.
pub(crate) type BothRow = (&'static str, &'static str, Both);

/// The same for one version.
pub(crate) type OneRow = (&'static str, &'static str, Reactions);

/// Not a byte comes, and the connection is closed.
pub(crate) const CLOSED: Reactions = &["closed"];
/// Not a byte comes, and the connection lives on.
pub(crate) const IGNORED: Reactions = &["open"];

pub(crate) const MALFORMED: Reactions = &["DISCONNECT 0x81; closed"];
pub(crate) const PROTOCOL_ERROR: Reactions = &["DISCONNECT 0x82; closed"];
/// An error to which the standard gives no number: either of the general ones fits.
pub(crate) const MALFORMED_OR_ERROR: Reactions =
    &["DISCONNECT 0x81; closed", "DISCONNECT 0x82; closed"];
/// Of CONNECT, whose version is known.
pub(crate) const REFUSED_MALFORMED: Reactions = &["CONNACK 0x81; closed"];
pub(crate) const REFUSED_ERROR: Reactions = &["CONNACK 0x82; closed"];
/// Of CONNECT, whose version need not have been read yet: an answer would be in an unknown language.
pub(crate) const REFUSED_OR_CLOSED: Reactions = &["closed", "CONNACK 0x81; closed"];

/// A broken CONNECT: 3.1.1 answers only what has a return code [MQTT-3.1.4-1].
pub(crate) const BAD_CONNECT: Both = (CLOSED, REFUSED_MALFORMED);
pub(crate) const UNREADABLE_CONNECT: Both = (CLOSED, REFUSED_OR_CLOSED);
/// After CONNECT, 3.1.1 can only close [MQTT-4.8.0-1].
pub(crate) const BAD: Both = (CLOSED, MALFORMED);
pub(crate) const ERROR: Both = (CLOSED, PROTOCOL_ERROR);
pub(crate) const BAD_OR_ERROR: Both = (CLOSED, MALFORMED_OR_ERROR);

/// What has happened on a row's connection before its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing: its bytes are the first.
    Fresh,
    /// CONNECT with Clean Start and CONNACK.
    Connected,
}

/// One hostile input.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) version: ProtocolVersion,
    pub(crate) stage: Stage,
    /// In the notation of `notation.rs`.
    pub(crate) notation: String,
    pub(crate) reactions: Reactions,
}

impl Row {
    /// The row's bytes, for a client of this name.
    pub(crate) fn bytes(&self, client_id: &str) -> Vec<u8> {
        let version = self.version;
        Scene { version, client_id }.bytes(&self.notation)
    }
}

/// Rows of one kind.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// The rows of one version out of a table for both.
pub(crate) fn of_both<'a>(
    version: ProtocolVersion,
    stage: Stage,
    table: &'a [BothRow],
) -> impl Iterator<Item = Row> + 'a {
    table.iter().map(move |(name, notation, both)| Row {
        name: (*name).to_owned(),
        version,
        stage,
        notation: (*notation).to_owned(),
        reactions: choose(version, *both),
    })
}

/// The rows of a table for one version, when it is this one.
pub(crate) fn of_one<'a>(
    (version, only): (ProtocolVersion, ProtocolVersion),
    stage: Stage,
    table: &'a [OneRow],
) -> impl Iterator<Item = Row> + 'a {
    let table = if version == only { table } else { &[] };
    table.iter().map(move |(name, notation, reactions)| Row {
        name: (*name).to_owned(),
        version,
        stage,
        notation: (*notation).to_owned(),
        reactions,
    })
}

/// The reactions of one version.
pub(crate) fn choose(version: ProtocolVersion, (v311, v5): Both) -> Reactions {
    if version == ProtocolVersion::V5 {
        v5
    } else {
        v311
    }
}
