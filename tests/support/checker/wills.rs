//! Wills: published once when a connection ends without DISCONNECT, unless the session is resumed in
//! time; never after a normal end [MQTT-3.1.2-8, MQTT-3.1.2-10, MQTT-3.1.3-9]. That it is not
//! published twice is [`Rule::Repetition`].

use std::collections::BTreeMap;
use std::time::Duration;

use codec::{Qos, ReasonCode};

use super::Story;
use super::receiver::Delivery;
use super::story::Connection;
use super::verdict::{Rule, Verdict};
use crate::recording::{End, Fault};

/// What must have become of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Published,
    Dropped,
    /// The history can't tell.
    Either,
}

pub(super) fn check(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let mut received: BTreeMap<usize, Vec<&Delivery<'_>>> = BTreeMap::new();
    for delivery in deliveries {
        if let Some(message) = delivery.message {
            received.entry(message).or_default().push(delivery);
        }
    }
    for connections in story.clients.values() {
        for (position, number) in connections.iter().enumerate() {
            let connection = &story.connections[*number];
            let Some(will) = connection.will else {
                continue;
            };
            let received = received.get(&will).map_or(&[][..], Vec::as_slice);
            match due(story, connection, &connections[position + 1..]) {
                Due::Either => {}
                Due::Dropped => must_not(story, (connection, will), received, verdict),
                Due::Published => must(story, (connection, will), received, verdict),
            }
        }
    }
}

fn must_not(
    story: &Story<'_>,
    (connection, will): (&Connection<'_>, usize),
    received: &[&Delivery<'_>],
    verdict: &mut Verdict,
) {
    if let Some(delivery) = received.first() {
        let text = format!("the will {:?} was published", story.messages[will].name());
        let mut records = ends(connection);
        records.push(delivery.record);
        verdict.add(Rule::Will, &records, text);
    }
}

/// Every session that was subscribed all the time has it.
fn must(
    story: &Story<'_>,
    (connection, will): (&Connection<'_>, usize),
    received: &[&Delivery<'_>],
    verdict: &mut Verdict,
) {
    let message = &story.messages[will];
    for (number, session) in story.sessions.iter().enumerate() {
        let watches = story.is_complete(session)
            && session
                .certain(message, (message.first_sent(), story.end()))
                .is_some_and(|qos| qos > Qos::AtMostOnce);
        if watches && !received.iter().any(|one| one.session == number) {
            let text = format!("{} never got the will {:?}", session.client, message.name());
            verdict.add(Rule::Will, &ends(connection), text);
        }
    }
}

fn ends(connection: &Connection<'_>) -> Vec<usize> {
    let connect = connection.connect.map(|(record, _)| record);
    let disconnect = connection.disconnect.map(|(record, _)| record);
    let end = connection.end.map(|(record, _)| record);
    connect.into_iter().chain(disconnect).chain(end).collect()
}

fn due(story: &Story<'_>, connection: &Connection<'_>, later: &[usize]) -> Due {
    if connection.connack.is_none() {
        return Due::Either;
    }
    let Some((end, kind)) = connection.end else {
        return Due::Dropped;
    };
    if let Some((record, ReasonCode::Success)) = connection.disconnect {
        let was_processed = kind == End::Disconnected && !was_disturbed(story, connection, record);
        return if was_processed {
            Due::Dropped
        } else {
            Due::Either
        };
    }
    let slack = story.settings.slack;
    let delay = delay(connection);
    let ended = story.at(end);
    let alive = story.last_received(connection).unwrap_or(ended);
    let later = || later.iter().map(|number| &story.connections[*number]);
    let attempts = later().filter_map(|next| next.connect);
    let first = attempts.map(|(record, _)| story.at(record)).next();
    let resumed = later().find(|next| next.connack.is_some()).filter(|next| {
        next.connect
            .is_some_and(|(_, connect)| !connect.clean_start)
    });
    let resumed = resumed
        .and_then(|next| next.connack)
        .map(|(record, _)| story.at(record));
    let is_over = story.at(story.end()) > ended + delay + slack;
    let is_late = first.is_none_or(|first| first > ended + delay + slack);
    if is_over && (delay.is_zero() || is_late) {
        Due::Published
    } else if !delay.is_zero() && resumed.is_some_and(|resumed| resumed < alive + delay) {
        Due::Dropped
    } else {
        Due::Either
    }
}

/// The Will Delay Interval, or the Session Expiry Interval if that is shorter.
fn delay(connection: &Connection<'_>) -> Duration {
    let will = connection
        .connect
        .and_then(|(_, connect)| connect.will.as_ref());
    let delay_s = will.map_or(0, |will| will.delay_interval_s);
    Duration::from_secs(u64::from(delay_s.min(connection.expiry_s())))
}

/// DISCONNECT is not acknowledged: a node that dies, stops or is cut off around it may have lost it.
fn was_disturbed(story: &Story<'_>, connection: &Connection<'_>, disconnect: usize) -> bool {
    let slack = story.settings.slack;
    let at = story.at(disconnect);
    let (from, until) = (at.saturating_sub(slack), at + slack);
    let mut faults = story.faults.iter();
    faults.any(|(record, fault)| {
        let matters = match fault {
            Fault::Killed(node)
            | Fault::Terminated(node)
            | Fault::Stopped(node)
            | Fault::Woken(node) => *node == connection.node,
            Fault::Cut(..) | Fault::Healed => true,
            Fault::Restarted(_) | Fault::Ready(_) => false,
        };
        matters && (from..=until).contains(&story.at(*record))
    })
}
