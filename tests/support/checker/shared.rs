//! Shared subscriptions: each message goes to one session of the group [MQTT-4.8.2-3 to 4.8.2-6].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::{Packet, PacketId, Qos};

use super::Story;
use super::receiver::Delivery;
use super::story::{Message, Session};
use super::subscription::Filter;
use super::verdict::{Rule, Verdict};
use crate::recording::{End, Fault};

pub(super) fn check(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let mut by_message: BTreeMap<usize, Vec<&Delivery<'_>>> = BTreeMap::new();
    for delivery in deliveries {
        if let Some(message) = delivery.message {
            by_message.entry(message).or_default().push(delivery);
        }
    }
    let groups: BTreeSet<&str> = story
        .sessions
        .iter()
        .flat_map(|session| session.filters.values())
        .filter(|filter| filter.is_shared())
        .map(|filter| filter.text.as_str())
        .collect();
    for group in groups {
        for (number, message) in story.messages.iter().enumerate() {
            let members = members(story, group, message);
            if members.is_empty() || !is_clear_case(story, group, message, &members) {
                continue;
            }
            let all = by_message.get(&number).map_or(&[][..], Vec::as_slice);
            let of_group = all.iter().filter(|one| members.contains(&one.session));
            let copies: Vec<&Delivery<'_>> = of_group.copied().collect();
            at_most_once(story, group, message, &copies, verdict);
            if copies.is_empty() && is_due(story, group, message, &members) {
                let text = format!("no member of {group} got {:?}", message.name());
                let mut records = vec![message.first_sent()];
                records.extend(message.acknowledged);
                verdict.add(Rule::Shared, &records, text);
            }
        }
    }
}

/// The sessions that may have been members when this message was matched. The broker may need a
/// while to notice that one is gone.
fn members(story: &Story<'_>, group: &str, message: &Message<'_>) -> Vec<usize> {
    // QoS 1 may go from a lost member to one that came later.
    let until = match message.qos {
        Qos::AtLeastOnce => story.end(),
        Qos::AtMostOnce | Qos::ExactlyOnce => story.settled(message),
    };
    let span = (message.first_sent(), until);
    let sent = story.at(message.first_sent());
    let is_gone = |session: &Session<'_>| {
        let last = session.connections.last();
        let end = last.and_then(|last| story.connections[*last].end);
        let was_noticed = matches!(end, Some((_, End::Disconnected)));
        session.ended.is_some_and(|ended| {
            let slack = if was_noticed {
                Duration::ZERO
            } else {
                story.settings.slack
            };
            story.at(ended) + slack < sent
        })
    };
    let sessions = story.sessions.iter().enumerate();
    sessions
        .filter(|(_, session)| !is_gone(session))
        .filter(|(_, session)| {
            let filter = session.filters.get(group);
            filter.is_some_and(|filter| {
                filter.matches(message.topic)
                    && filter.possible(span.0, span.1).any(|state| state.is_some())
            })
        })
        .map(|(number, _)| number)
        .collect()
}

/// Whether every copy that a member gets is of this group: no other subscription of it matches.
fn is_clear_case(story: &Story<'_>, group: &str, message: &Message<'_>, members: &[usize]) -> bool {
    members.iter().all(|number| {
        let mut filters = story.sessions[*number].filters.values();
        filters.all(|filter| filter.text == group || !filter.matches(message.topic))
    })
}

fn at_most_once(
    story: &Story<'_>,
    group: &str,
    message: &Message<'_>,
    copies: &[&Delivery<'_>],
    verdict: &mut Verdict,
) {
    let published = match message.qos {
        Qos::ExactlyOnce | Qos::AtMostOnce => 1,
        Qos::AtLeastOnce => message.sendings.len(),
    };
    let mut counted = 0;
    for (position, copy) in copies.iter().enumerate() {
        // What a lost member did not acknowledge may go to another one. The client may read it after
        // the broker has given it up.
        let mut others = copies
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != position);
        let replaced = others.any(|(_, other)| may_replace(story, copy, other));
        counted += usize::from(!replaced);
    }
    if counted > published {
        let text = format!("{:?} went to {counted} members of {group}", message.name());
        let mut records: Vec<usize> = copies.iter().map(|copy| copy.record).collect();
        records.extend(message.sendings.iter().map(|sending| sending.record));
        verdict.add(Rule::Shared, &records, text);
    }
}

/// QoS 1: the connection was lost before the acknowledgement can be certain to have arrived. QoS 2
/// stays with the session that it was sent to [MQTT-4.8.2-4, MQTT-4.8.2-5].
fn may_replace(story: &Story<'_>, copy: &Delivery<'_>, other: &Delivery<'_>) -> bool {
    let connection = &story.connections[copy.connection];
    let slack = story.settings.slack;
    let Some((end, _)) = connection.end else {
        return false;
    };
    let acknowledged = connection.packets.iter().find(|record| {
        let sent = story.sent(**record);
        **record > copy.record && sent.is_some_and(|sent| is_puback(sent, copy.publish.packet_id))
    });
    let acknowledged = acknowledged.map(|record| story.at(*record));
    copy.publish.qos == Qos::AtLeastOnce
        && copy.session != other.session
        && story.at(end) <= story.at(other.record) + slack
        && acknowledged.is_none_or(|at| at + slack >= story.at(end))
}

fn is_puback(packet: &Packet, id: Option<PacketId>) -> bool {
    matches!(packet, Packet::Puback(ack) if Some(ack.packet_id) == id)
}

/// Whether some member must have got it: it was acknowledged, a member was there all the time to the
/// end, and no other may have taken it with it. QoS 1 taken by a member whose session ends with its
/// connection goes to another one, unless nodes died: such a member's messages are kept in memory.
fn is_due(story: &Story<'_>, group: &str, message: &Message<'_>, members: &[usize]) -> bool {
    let span = (message.first_sent(), story.end());
    let stays = |session: &Session<'_>, filter: &Filter| {
        story.is_complete(session)
            && filter
                .certain(session.client == message.publisher, span)
                .is_some_and(|qos| qos > Qos::AtMostOnce)
    };
    let of = |number: &usize| {
        let session = &story.sessions[*number];
        session.filters.get(group).map(|filter| (session, filter))
    };
    let one_stays = members
        .iter()
        .filter_map(of)
        .any(|(session, filter)| stays(session, filter));
    let none_takes_it_along = members.iter().filter_map(of).all(|(session, filter)| {
        let may_be_lost = message.qos == Qos::AtLeastOnce
            && is_transient(story, session)
            && !was_killed(story, message, session);
        let takes_qos0 = filter
            .possible(span.0, span.1)
            .flatten()
            .any(|one| one.options.qos == Qos::AtMostOnce);
        !takes_qos0 && (may_be_lost || stays(session, filter))
    });
    let expires = message.properties.message_expiry_interval.is_some();
    message.acknowledged.is_some()
        && message.qos > Qos::AtMostOnce
        && !message.is_will
        && !expires
        && !message.payload.is_empty()
        && one_stays
        && none_takes_it_along
}

/// Whether a node died while this member may have had the message.
fn was_killed(story: &Story<'_>, message: &Message<'_>, session: &Session<'_>) -> bool {
    let from = story.at(message.first_sent());
    let until = session.ended.map_or_else(
        || story.at(story.end()),
        |ended| story.at(ended) + story.settings.slack,
    );
    let mut faults = story.faults.iter();
    faults.any(|(record, fault)| {
        let ends = matches!(fault, Fault::Killed(_) | Fault::Terminated(_));
        ends && (from..=until).contains(&story.at(*record))
    })
}

fn is_transient(story: &Story<'_>, session: &Session<'_>) -> bool {
    let last = session.connections.last();
    last.is_some_and(|last| story.connections[*last].expiry_s() == 0)
}
