//! Liveness: when the faults are over and a client stays connected, every handshake is finished.

use std::collections::BTreeMap;

use codec::Packet;

use super::Story;
use super::sender::Unanswered;
use super::verdict::{Rule, Verdict};
use crate::summary::summary;

pub(super) fn check(story: &Story<'_>, verdict: &mut Verdict) {
    for connection in &story.connections {
        if connection.end.is_some() || connection.connack.is_none() {
            continue;
        }
        let mut unanswered = Unanswered::default();
        for record in &connection.packets {
            if let Some(packet) = story.sent(*record) {
                unanswered.sent(*record, packet);
            }
            if let Some(packet) = story.received(*record) {
                unanswered.received(packet);
            }
        }
        for record in unanswered.rest() {
            let packet = story.sent(record).map(summary).unwrap_or_default();
            let text = format!("{}: {packet} was never answered", connection.client);
            verdict.add(Rule::Drain, &[record], text);
        }
    }
    releases(story, verdict);
}

/// A PUBREC that the last connection of a session sent is answered by PUBREL.
fn releases(story: &Story<'_>, verdict: &mut Verdict) {
    for session in story.sessions.iter().filter(|one| story.is_complete(one)) {
        let Some(last) = session.connections.last() else {
            continue;
        };
        let mut received = BTreeMap::new();
        for record in &story.connections[*last].packets {
            if let Some(Packet::Pubrec(ack)) = story.sent(*record) {
                received.insert(ack.packet_id, *record);
            }
            if let Some(Packet::Pubrel(ack)) = story.received(*record) {
                received.remove(&ack.packet_id);
            }
        }
        for record in received.into_values() {
            let text = format!(
                "{}: its PUBREC was never followed by PUBREL",
                session.client
            );
            verdict.add(Rule::Drain, &[record], text);
        }
    }
}
