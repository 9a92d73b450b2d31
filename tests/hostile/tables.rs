//! Runs the rows of the tables, one after another, and asks a healthy client after each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use codec::ProtocolVersion;

use crate::healthy::Healthy;
use crate::notation::Scene;
use crate::row::{Group, Reactions, Row, Stage};
use crate::socket::{PATIENCE, Socket};
use crate::{connect, connected, floods, generated, known, properties, slow};

/// In so many pieces the bytes of every second row are written.
const PIECES_MAX: usize = 100;

/// All tables of one version.
pub(crate) fn all(version: ProtocolVersion) -> Vec<Group> {
    let groups = connect::groups(version)
        .into_iter()
        .chain(connected::groups(version))
        .chain(generated::groups(version));
    groups.chain(properties::groups(version)).collect()
}

/// Plays all rows of one group. Returns what is wrong.
pub(crate) async fn run(address: SocketAddr, group: &Group, healthy: &mut Healthy) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, row) in group.rows.iter().enumerate() {
        // Both versions run at the same time.
        let group_name = group.name.replace(' ', "-");
        let client_id = format!("{:?}-{group_name}-{number}", row.version);
        let reaction = react(address, row, &client_id).await;
        wrong.extend(known::judge(
            row.version,
            &row.name,
            complaint(row, &reaction),
        ));
        if let Err(trouble) = healthy.check().await {
            wrong.push(format!("after {:?}: {trouble}", row.name));
        }
    }
    wrong
}

fn complaint(row: &Row, reaction: &str) -> Option<String> {
    if row.reactions.contains(&reaction) {
        return None;
    }
    let Row {
        name,
        version,
        notation,
        reactions,
        ..
    } = row;
    let shown: String = notation.chars().take(160).collect();
    Some(format!(
        "{version:?} {name}: {shown}\n      expected {reactions:?}\n      got      {reaction:?}"
    ))
}

/// What the broker does when it gets a row's bytes.
async fn react(address: SocketAddr, row: &Row, client_id: &str) -> String {
    let mut socket = match row.stage {
        Stage::Fresh => Socket::open(address, row.version).await,
        Stage::Connected => Socket::connect(address, row.version, (client_id, 0)).await,
    };
    let expected = expected_packets(row.reactions);
    let mut bytes = row.bytes(client_id);
    if expected.is_none() {
        // Nothing that follows what breaks a rule is processed: the healthy client would notice.
        let (version, notation) = (row.version, "30 | s'smuggled' {} 'x'");
        bytes.extend(Scene { version, client_id }.bytes(notation));
    }
    // What arrives bit by bit is judged as what arrives at once.
    let is_in_pieces = client_id.ends_with(['1', '3', '5', '7', '9']);
    let piece_bytes = if is_in_pieces { 1 } else { bytes.len() };
    for piece in bytes.chunks(piece_bytes.max(bytes.len() / PIECES_MAX)) {
        socket.write(piece).await;
    }
    match expected {
        None => socket.until_closed(PATIENCE).await,
        Some(expected) => socket.until_ping(expected).await,
    }
}

/// PINGRESPs, and the fewest packets, that come before the answer to our own PINGREQ; `None`: the
/// connection is closed whatever else happens.
fn expected_packets(reactions: Reactions) -> Option<(usize, usize)> {
    let open = reactions.iter().filter(|words| words.ends_with("open"));
    let pings = |words: &str| words.matches("PINGRESP").count();
    let packets = |words: &str| words.matches(';').count();
    open.map(|words| (pings(words), packets(words)))
        .min_by_key(|(_, packets)| *packets)
}

/// The fewest rows that issue and documentation promise for each version.
const ROWS_MIN: usize = 150;

#[test]
fn each_version_has_its_rows_and_each_row_a_name_of_its_own() {
    for version in testkit::VERSIONS {
        let groups = all(version);
        let rows = groups.iter().flat_map(|group| &group.rows);
        let mut names: Vec<String> = rows.map(|row| row.name.clone()).collect();
        names.extend(slow::names().map(str::to_owned));
        names.extend(floods::all(version).map(|(name, _)| name.to_owned()));
        assert!(names.len() >= ROWS_MIN, "{version:?}: {} rows", names.len());
        let distinct: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let count = |name: &String| names.iter().filter(|other| *other == name).count();
        let twice: Vec<&String> = names.iter().filter(|name| count(name) > 1).collect();
        assert!(twice.is_empty(), "{version:?}: {twice:?}");
        known::assert_named(version, &distinct);
    }
}

#[test]
fn no_two_rows_send_the_same_bytes() {
    for version in testkit::VERSIONS {
        let mut seen = BTreeMap::new();
        let mut same = Vec::new();
        for row in all(version).iter().flat_map(|group| &group.rows) {
            let key = (row.stage == Stage::Fresh, row.bytes("hostile"));
            if let Some(former) = seen.insert(key, row.name.clone()) {
                same.push((former, row.name.clone()));
            }
        }
        assert!(same.is_empty(), "{version:?}: {same:#?}");
    }
}
