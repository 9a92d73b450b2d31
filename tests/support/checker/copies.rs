//! How often and in which order a session gets messages.

use std::collections::{BTreeMap, BTreeSet};

use codec::Qos;

use super::Story;
use super::receiver::Delivery;
use super::story::{Message, Session};
use super::verdict::{Rule, Verdict};

pub(super) fn check(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    repetition(story, deliveries, verdict);
    order(story, deliveries, verdict);
}

/// QoS 2 once [MQTT-4.3.3-10]; QoS 1 as often as the publisher sent it; QoS 0 and wills once. A
/// re-sent PUBLISH that the client knows is no delivery and does not count.
fn repetition(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let mut copies: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for delivery in deliveries {
        if let Some(message) = delivery.message {
            let copies = copies.entry((delivery.session, message)).or_default();
            copies.push(delivery.record);
        }
    }
    for ((session, message), records) in copies {
        let (session, message) = (&story.sessions[session], &story.messages[message]);
        let last = records.last().copied().unwrap_or(0);
        let allowed = allowed(story, session, message, last);
        if records.len() > allowed {
            let text = format!(
                "{} gets {:?} {} times, {allowed} allowed",
                session.client,
                message.name(),
                records.len()
            );
            let sendings = message.sendings.iter().map(|sending| sending.record);
            let all: Vec<usize> = sendings.chain(records).collect();
            verdict.add(Rule::Repetition, &all, text);
        }
    }
}

fn allowed(story: &Story<'_>, session: &Session<'_>, message: &Message<'_>, last: usize) -> usize {
    let published = match message.qos {
        Qos::ExactlyOnce | Qos::AtMostOnce => 1,
        Qos::AtLeastOnce => message.sendings.len(),
    };
    let span = (message.first_sent(), story.settled(message).min(last));
    let mut shared = BTreeSet::new();
    let mut own = 0;
    for (filter, _) in session.possible(message, span) {
        if filter.is_shared() {
            shared.insert(&filter.text);
        } else {
            own = 1;
        }
    }
    let filters = session.filters.values();
    let requests = filters.filter(|one| !one.is_shared() && one.matches(message.topic));
    let requests = requests.flat_map(|filter| &filter.changes);
    let requests = requests.filter(|change| change.to.is_some() && change.sent < last);
    let stored = if message.retain { requests.count() } else { 0 };
    (own + shared.len()).max(1) * published + stored
}

/// Messages of one publisher, on one topic, published and delivered with the same QoS, keep their
/// order [MQTT-4.6.0-5, MQTT-4.6.0-6]; the first sight of each counts. Not for shared subscriptions,
/// nor for what was stored as retained.
fn order(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let mut seen = BTreeSet::new();
    let mut latest: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for delivery in deliveries {
        let Some(number) = delivery.message else {
            continue;
        };
        let message = &story.messages[number];
        let session = &story.sessions[delivery.session];
        let is_first = seen.insert((delivery.session, number));
        if !is_first || message.is_will || delivery.publish.retain {
            continue;
        }
        let mut filters = session.filters.values();
        if filters.any(|filter| filter.is_shared() && filter.matches(message.topic)) {
            continue;
        }
        let stream = (message.publisher, message.topic, message.qos);
        let key = (delivery.session, stream, delivery.publish.qos);
        match latest.get(&key) {
            // Messages are numbered in the order in which they were first sent.
            Some((last, before)) if *last > number => {
                let text = format!(
                    "{} gets {:?} after {:?}",
                    session.client,
                    message.name(),
                    story.messages[*last].name()
                );
                let sent = [message.first_sent(), story.messages[*last].first_sent()];
                let records = [sent[0], sent[1], *before, delivery.record];
                verdict.add(Rule::Order, &records, text);
            }
            _ => drop(latest.insert(key, (number, delivery.record))),
        }
    }
}
