//! What was acknowledged to its publisher reaches every session that had subscribed to it.
//!
//! A session that is there at the end must have got everything. One that ended, or whose client did
//! not come back, must have got all that precedes what it did get: of one publisher, topic and QoS
//! nothing can come later.

use std::collections::{BTreeMap, BTreeSet};

use codec::Qos;

use super::Story;
use super::receiver::Delivery;
use super::story::{Message, Session};
use super::verdict::{Rule, Verdict};

/// Messages that live shorter than this, in seconds, may expire before they are delivered.
const EXPIRY_S_MIN: u32 = 600;

pub(super) fn check(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let mut received: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for delivery in deliveries {
        let received = received.entry(delivery.session).or_default();
        received.extend(delivery.message);
    }
    let none = BTreeSet::new();
    for (number, session) in story.sessions.iter().enumerate() {
        let received = received.get(&number).unwrap_or(&none);
        if story.is_complete(session) {
            complete(story, session, received, verdict);
        }
    }
    overtaken(story, deliveries, &received, verdict);
}

fn complete(
    story: &Story<'_>,
    session: &Session<'_>,
    received: &BTreeSet<usize>,
    verdict: &mut Verdict,
) {
    for (number, message) in story.messages.iter().enumerate() {
        let until = story.end();
        if !received.contains(&number) && is_due(message, session, until) {
            let text = format!("{} never got {:?}", session.client, message.name());
            let records = evidence(story, session, message);
            verdict.add(Rule::Loss, &records, text);
        }
    }
}

/// What a session missed before something that it got.
fn overtaken(
    story: &Story<'_>,
    deliveries: &[Delivery<'_>],
    received: &BTreeMap<usize, BTreeSet<usize>>,
    verdict: &mut Verdict,
) {
    let mut streams: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (number, message) in story.messages.iter().enumerate() {
        streams.entry(stream(message)).or_default().push(number);
    }
    // The last message that each session got of each stream.
    let mut last = BTreeMap::new();
    for delivery in deliveries {
        let message = delivery.message.map(|number| &story.messages[number]);
        if let Some(message) = message.filter(|_| !delivery.publish.retain) {
            let key = (delivery.session, stream(message));
            let newest = last.entry(key).or_insert((0, 0));
            *newest = (*newest).max((delivery.message.unwrap_or(0), delivery.record));
        }
    }
    for ((number, stream), (newest, record)) in last {
        let session = &story.sessions[number];
        let (Some(all), Some(received)) = (streams.get(&stream), received.get(&number)) else {
            continue;
        };
        if story.is_complete(session) {
            continue;
        }
        let before = all.iter().take_while(|message| **message < newest);
        for missing in before.filter(|message| !received.contains(message)) {
            let message = &story.messages[*missing];
            if is_due(message, session, record) {
                let later = story.messages[newest].name();
                let text = format!(
                    "{} got {later:?} but not {:?}, which was published before it",
                    session.client,
                    message.name()
                );
                let mut records = evidence(story, session, message);
                records.push(record);
                verdict.add(Rule::Loss, &records, text);
            }
        }
    }
}

fn stream<'a>(message: &Message<'a>) -> (&'a str, usize, Qos) {
    (message.publisher, message.topic, message.qos)
}

/// Whether this session must get this message: it was acknowledged, and a subscription was there from
/// before it was sent until `until`.
fn is_due(message: &Message<'_>, session: &Session<'_>, until: usize) -> bool {
    let expiry_s = message.properties.message_expiry_interval;
    let may_expire = expiry_s.is_some_and(|expiry_s| expiry_s < EXPIRY_S_MIN);
    if message.is_will || message.payload.is_empty() || may_expire {
        return false;
    }
    message.acknowledged.is_some()
        && session
            .certain(message, (message.first_sent(), until))
            .is_some_and(|qos| qos > Qos::AtMostOnce)
}

/// The publication, and the subscription.
fn evidence(story: &Story<'_>, session: &Session<'_>, message: &Message<'_>) -> Vec<usize> {
    let mut records: Vec<usize> = message.sendings.iter().map(|one| one.record).collect();
    records.extend(message.acknowledged);
    let filters = session.filters.values();
    let filter = filters
        .filter(|one| one.matches(message.topic))
        .find_map(|one| {
            let change = one.changes.iter().rev();
            change
                .filter_map(|change| change.done)
                .find(|done| *done < message.first_sent())
        });
    records.extend(filter);
    let connections = session.connections.iter();
    let connections = connections.map(|number| &story.connections[*number]);
    let first_after = connections
        .filter_map(|one| one.connack)
        .find(|(record, _)| *record > message.first_sent());
    records.extend(first_after.map(|(record, _)| record));
    records
}
