//! How much a history holds.

use std::collections::BTreeSet;

use codec::Packet;

use super::Story;
use super::story::Connection;
use super::verdict::Counts;
use crate::recording::{End, Fault};

pub(super) fn count(story: &Story<'_>) -> Counts {
    let connections = || story.connections.iter().filter(|one| one.connack.is_some());
    let faults = |is_it: fn(&Fault) -> bool| {
        let faults = story.faults.iter();
        number(faults.filter(|(_, fault)| is_it(fault)))
    };
    let mut counts = Counts {
        length: story.at(story.end()),
        kills: faults(|fault| matches!(fault, Fault::Killed(_))),
        stops: faults(|fault| matches!(fault, Fault::Stopped(_))),
        cuts: faults(|fault| matches!(fault, Fault::Cut(..))),
        messages: number(story.messages.iter().filter(|one| !one.is_will)),
        connections: number(connections()),
        takeovers: number(connections().filter(|one| is_left_open(one))),
        wills: number(connections().filter(|one| one.will.is_some())),
        sessions: number(story.sessions.iter().filter(|one| story.is_complete(one))),
        ..Counts::default()
    };
    let mut wills = BTreeSet::new();
    for connection in &story.connections {
        add_received(story, connection, &mut counts, &mut wills);
    }
    counts.wills_published = number(wills.iter());
    counts
}

fn add_received(
    story: &Story<'_>,
    connection: &Connection<'_>,
    counts: &mut Counts,
    wills: &mut BTreeSet<usize>,
) {
    let received = connection.packets.iter();
    let received = received.filter_map(|record| story.received(*record));
    let shares = connection.session.is_some_and(|session| {
        let mut filters = story.sessions[session].filters.values();
        filters.any(|filter| filter.is_shared())
    });
    let mut is_resumed_with_something = false;
    // CONNACK is the first.
    for (place, packet) in received.enumerate() {
        match packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) if !ack.reason_code.is_error() => {
                counts.acknowledgements += 1;
            }
            Packet::Publish(publish) => {
                counts.deliveries += 1;
                counts.resent += u32::from(publish.dup);
                counts.retained += u32::from(publish.retain);
                counts.shared += u32::from(shares && !publish.dup);
                is_resumed_with_something |= publish.dup;
                let message = story.message_of(&publish.payload);
                wills.extend(message.filter(|message| story.messages[*message].is_will));
            }
            Packet::Pubrel(_) if place == 1 => is_resumed_with_something = true,
            _ => {}
        }
    }
    counts.resumptions += u32::from(connection.is_resumed() && is_resumed_with_something);
}

fn is_left_open(connection: &Connection<'_>) -> bool {
    matches!(connection.end, Some((_, End::Superseded)))
}

fn number<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
