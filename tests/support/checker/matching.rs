//! Each delivery by itself: somebody published it, the subscriber wanted it, and nothing was altered
//! on the way. What was forgotten with an older session must not come to a newer one.

use std::time::Duration;

use codec::{MessageProperties, ProtocolVersion, Qos};

use super::Story;
use super::receiver::Delivery;
use super::story::{Message, Session};
use super::subscription::{Granted, effective};
use super::verdict::{Rule, Verdict};

pub(super) fn check(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    for delivery in deliveries {
        check_one(story, delivery, verdict);
    }
}

fn check_one(story: &Story<'_>, delivery: &Delivery<'_>, verdict: &mut Verdict) {
    let topic = delivery.publish.topic.as_ref();
    let topic = topic.map_or("", |topic| topic.as_str());
    let session = &story.sessions[delivery.session];
    let Some(message) = delivery.message.map(|number| &story.messages[number]) else {
        let is_clear = delivery.publish.payload.is_empty() && story.was_cleared(topic);
        if !is_clear {
            let text = format!("{} gets what nobody published", session.client);
            verdict.add(Rule::Phantom, &[delivery.record], text);
        }
        return;
    };
    let records = [message.first_sent(), delivery.record];
    let mut add = |rule, what: &str| {
        let text = format!("{}: {:?} {what}", session.client, message.name());
        verdict.add(rule, &records, text);
    };
    if message.first_sent() > delivery.record {
        add(Rule::Phantom, "comes before it was published");
    }
    if story.topics[message.topic] != topic {
        add(Rule::Altered, "has another topic");
    }
    check_subscription(story, delivery, (message, session), &mut add);
    let version = story.connections[delivery.connection].version();
    if version == ProtocolVersion::V5 {
        check_properties(message, &delivery.publish.properties, &mut add);
        check_expiry(story, delivery, message, &mut add);
    }
}

/// Is there a subscription that asked for this, in this form?
fn check_subscription(
    story: &Story<'_>,
    delivery: &Delivery<'_>,
    (message, session): (&Message<'_>, &Session<'_>),
    add: &mut impl FnMut(Rule, &str),
) {
    let publish = delivery.publish;
    let from = message.first_sent();
    let span = (from, story.settled(message).min(delivery.record));
    let live = session.possible(message, span);
    let mut live: Vec<Granted> = live.map(|(_, one)| one).collect();
    if live.is_empty() {
        // What a lost member of a group did not acknowledge may go to one that came later.
        let all = session.possible(message, (from, delivery.record));
        live.extend(
            all.filter(|(filter, _)| filter.is_shared())
                .map(|(_, one)| one),
        );
    }
    let stored = if message.retain && publish.retain {
        retained_requests(session, message, delivery.record)
    } else {
        Vec::new()
    };
    if live.is_empty() && stored.is_empty() {
        return add(Rule::Phantom, "is nothing that this session subscribed to");
    }
    let as_published = |one: &Granted| one.options.retain_as_published;
    if publish.retain {
        let live_with_flag = message.retain && live.iter().any(as_published);
        if stored.is_empty() && !live_with_flag {
            add(Rule::Altered, "must not have RETAIN");
        }
    } else if message.retain && !live.is_empty() && live.iter().all(as_published) {
        add(Rule::Altered, "must have RETAIN, as it was published");
    }
    let asked: Vec<&Granted> = live.iter().chain(&stored).collect();
    let mut levels = asked
        .iter()
        .map(|one| effective(message.qos, one.options.qos));
    if !levels.any(|qos| qos == publish.qos) {
        add(Rule::Altered, "has a QoS that was not asked for");
    }
    if stored.is_empty() {
        let certain = session.certain(message, span);
        if certain.is_some_and(|certain| publish.qos < certain) {
            add(Rule::Altered, "has a lower QoS than was asked for");
        }
        check_identifiers(delivery, &live, add);
    }
}

/// Requests for retained messages that may have brought this one.
fn retained_requests(session: &Session<'_>, message: &Message<'_>, record: usize) -> Vec<Granted> {
    let filters = session.filters.values();
    let filters = filters.filter(|one| !one.is_shared() && one.matches(message.topic));
    let changes = filters.flat_map(|filter| &filter.changes);
    changes
        .filter(|change| change.sent < record)
        .filter_map(|change| change.to)
        .collect()
}

/// The Subscription Identifiers are those of the subscriptions that match [MQTT-3.3.4-3]; exactly
/// these, if it is certain which were there.
fn check_identifiers(delivery: &Delivery<'_>, live: &[Granted], add: &mut impl FnMut(Rule, &str)) {
    let got = &delivery.publish.subscription_identifiers;
    let may = |id| live.iter().any(|one| one.identifier == Some(id));
    if !got.iter().all(|id| may(*id)) {
        add(
            Rule::Altered,
            "has a Subscription Identifier of no subscription",
        );
    }
    if live.len() == 1 && live[0].identifier.is_some() && got.is_empty() {
        add(Rule::Altered, "lacks the Subscription Identifier");
    }
}

/// Everything but the expiry travels unaltered [MQTT-3.3.2-4, -15, -16, -17, -18, -20].
fn check_properties(
    message: &Message<'_>,
    got: &MessageProperties,
    add: &mut impl FnMut(Rule, &str),
) {
    let without_expiry = |properties: &MessageProperties| MessageProperties {
        message_expiry_interval: None,
        ..properties.clone()
    };
    let published = match message.version {
        ProtocolVersion::V5 => without_expiry(message.properties),
        ProtocolVersion::V31 | ProtocolVersion::V311 => MessageProperties::default(),
    };
    if without_expiry(got) != published {
        add(Rule::Altered, "has other properties");
    }
    if got.message_expiry_interval.is_some() != message.properties.message_expiry_interval.is_some()
    {
        add(Rule::Altered, "gained or lost its expiry");
    }
}

/// Not delivered after its time [MQTT-3.3.2-5], and with what is left of it [MQTT-3.3.2-6].
fn check_expiry(
    story: &Story<'_>,
    delivery: &Delivery<'_>,
    message: &Message<'_>,
    add: &mut impl FnMut(Rule, &str),
) {
    let published = message.properties.message_expiry_interval;
    let got = delivery.publish.properties.message_expiry_interval;
    let (Some(published), Some(got)) = (published, got) else {
        return;
    };
    if got > published {
        add(Rule::Expiry, "lives longer than was published");
    }
    let Some(acknowledged) = message.acknowledged else {
        return;
    };
    // What is in flight does not expire, and a DUP may have been in flight from the beginning.
    if delivery.publish.dup || delivery.publish.qos == Qos::AtMostOnce {
        return;
    }
    let slack = story.settings.slack;
    let accepted = story.at(acknowledged);
    let expiry = Duration::from_secs(u64::from(published));
    if story.at(delivery.record) > accepted + expiry + slack {
        add(Rule::Expiry, "is delivered after it expired");
    }
    // It waited at least until this connection asked for it.
    let connect = story.connections[delivery.connection].connect;
    let asked = connect.map_or(Duration::ZERO, |(record, _)| story.at(record));
    let waited = asked.saturating_sub(accepted).saturating_sub(slack);
    if u64::from(got) > u64::from(published).saturating_sub(waited.as_secs()) {
        add(
            Rule::Expiry,
            "has an interval that was not lowered by its wait",
        );
    }
}
