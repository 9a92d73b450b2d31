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

/// QoS 2 once [MQTT-4.3.3-10]; QoS 1 as often as the publisher sent it; wills once. What is delivered
/// with QoS 0 comes once per connection. A re-sent PUBLISH that the client knows is no delivery and
/// does not count.
fn repetition(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let mut copies: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for delivery in deliveries {
        if let Some(message) = delivery.message {
            let key = (delivery.session, message, unacknowledged(delivery));
            copies.entry(key).or_default().push(delivery.record);
        }
    }
    for ((session, message, _), records) in copies {
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

/// The connection, if it is the only one that knows of this delivery: nothing of QoS 0 survives it, so
/// that the next connection may get the message as well.
fn unacknowledged(delivery: &Delivery<'_>) -> Option<usize> {
    (delivery.publish.qos == Qos::AtMostOnce).then_some(delivery.connection)
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
/// order [MQTT-4.6.0-5, MQTT-4.6.0-6]. Not for shared subscriptions, nor for what was stored as
/// retained.
///
/// QoS 1 and 0 come in the order of the PUBLISHes that brought them: a publisher that sends "one" and
/// "two" again may cause "one, two, one, two", and for a subscriber that came in between "two, one,
/// two". QoS 2 comes in the order of the first PUBLISHes.
fn order(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    // The latest PUBLISH that a delivery of each stream can be due to, and that delivery.
    let mut latest: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for delivery in deliveries {
        let Some(number) = delivery.message else {
            continue;
        };
        let message = &story.messages[number];
        let session = &story.sessions[delivery.session];
        let mut filters = session.filters.values();
        let shares = filters.any(|one| one.is_shared() && one.matches(message.topic));
        if message.is_will || delivery.publish.retain || shares {
            continue;
        }
        let stream = (message.publisher, message.topic, message.qos);
        let place = (delivery.session, unacknowledged(delivery));
        let key = (place, stream, delivery.publish.qos);
        let before = latest.get(&key).copied();
        let mut causes = message.sendings.iter().map(|sending| sending.record);
        let cause = match message.qos {
            Qos::ExactlyOnce => causes.next(),
            Qos::AtMostOnce | Qos::AtLeastOnce => {
                let after = before.map_or(0, |(cause, _)| cause + 1);
                causes.find(|cause| *cause >= after)
            }
        };
        match (cause, before) {
            (Some(cause), Some((last, _))) if cause >= last => {
                latest.insert(key, (cause, delivery.record));
            }
            (Some(cause), None) => drop(latest.insert(key, (cause, delivery.record))),
            (_, Some((last, record))) => {
                let text = format!(
                    "{} gets {:?} after a message that was published after it",
                    session.client,
                    message.name(),
                );
                let records = [message.first_sent(), last, record, delivery.record];
                verdict.add(Rule::Order, &records, text);
            }
            (None, None) => {}
        }
    }
}
