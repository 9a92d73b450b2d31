//! Retained messages: who subscribes gets the last one stored, and never ends on an older one
//! [MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-9]. Judged for topics with one publisher: only there the
//! order of storage is known.

use std::collections::BTreeMap;

use codec::{Qos, RetainHandling};

use super::Story;
use super::receiver::Delivery;
use super::story::Session;
use super::subscription::{Change, Filter};
use super::verdict::{Rule, Verdict};

/// All that was published with RETAIN on one topic, oldest first.
type Values = Vec<usize>;

pub(super) fn check(story: &Story<'_>, deliveries: &[Delivery<'_>], verdict: &mut Verdict) {
    let topics = topics_of_one_publisher(story);
    let mut received: BTreeMap<(usize, usize), Vec<&Delivery<'_>>> = BTreeMap::new();
    for delivery in deliveries {
        if let Some(message) = delivery.message {
            let key = (delivery.session, story.messages[message].topic);
            received.entry(key).or_default().push(delivery);
        }
    }
    for (number, session) in story.sessions.iter().enumerate() {
        for (topic, values) in &topics {
            let Some((filter, request)) = first_request(session, *topic) else {
                continue;
            };
            let got = received
                .get(&(number, *topic))
                .map_or(&[][..], Vec::as_slice);
            let stored = stored_before(story, values, request.sent);
            never_older(story, session, (got, stored), verdict);
            let must = stored.filter(|_| is_certain(story, session, filter, request));
            if let Some(stored) = must {
                is_there(story, session, (values, stored, request), got, verdict);
            }
        }
    }
}

fn topics_of_one_publisher(story: &Story<'_>) -> BTreeMap<usize, Values> {
    let mut topics: BTreeMap<usize, Values> = BTreeMap::new();
    for (number, message) in story.messages.iter().enumerate() {
        if message.retain {
            topics.entry(message.topic).or_default().push(number);
        }
    }
    topics.retain(|_, values| {
        let messages = || values.iter().map(|number| &story.messages[*number]);
        let first = messages().next().map(|message| message.publisher);
        messages().all(|message| {
            Some(message.publisher) == first
                && !message.is_will
                && message.properties.message_expiry_interval.is_none()
        })
    });
    topics
}

/// The first subscription of a session that asks for retained messages of a topic.
fn first_request<'s>(session: &'s Session<'_>, topic: usize) -> Option<(&'s Filter, &'s Change)> {
    let filters = session.filters.values();
    let filters = filters.filter(|one| !one.is_shared() && one.matches(topic));
    let requests = filters.flat_map(|filter| filter.changes.iter().map(move |one| (filter, one)));
    requests
        .filter(|(_, change)| change.to.is_some())
        .min_by_key(|(_, change)| change.sent)
}

/// The last value that was certainly stored before a record. QoS 0 is never certain.
fn stored_before(story: &Story<'_>, values: &[usize], record: usize) -> Option<usize> {
    let is_stored = |number: &&usize| {
        let message = &story.messages[**number];
        let acknowledged = message.acknowledged.filter(|at| *at < record);
        acknowledged.is_some()
            && (message.qos == Qos::AtLeastOnce || story.settled(message) < record)
    };
    values.iter().rev().find(is_stored).copied()
}

/// Whether the message may have been stored after the other one: it was published later, or sent
/// again later.
fn may_follow(story: &Story<'_>, number: usize, other: usize) -> bool {
    let last = story.messages[number].sendings.last();
    number >= other || last.is_some_and(|last| last.record > story.messages[other].first_sent())
}

fn never_older(
    story: &Story<'_>,
    session: &Session<'_>,
    (got, stored): (&[&Delivery<'_>], Option<usize>),
    verdict: &mut Verdict,
) {
    let mut newest: Option<(usize, usize)> = None;
    for delivery in got {
        let Some(number) = delivery.message else {
            continue;
        };
        if !delivery.publish.retain {
            newest = newest.max(Some((number, delivery.record)));
            continue;
        }
        let name = story.messages[number].name();
        if let Some(stored) = stored.filter(|stored| !may_follow(story, number, *stored)) {
            let text = format!(
                "{} gets the retained {name:?} after {:?} was stored",
                session.client,
                story.messages[stored].name()
            );
            let mut records = vec![story.messages[stored].first_sent(), delivery.record];
            records.extend(story.messages[stored].acknowledged);
            verdict.add(Rule::Retained, &records, text);
        }
        if let Some((_, before)) = newest.filter(|(newest, _)| !may_follow(story, number, *newest))
        {
            let text = format!(
                "{} gets the retained {name:?} after a newer one",
                session.client
            );
            verdict.add(Rule::Retained, &[before, delivery.record], text);
        }
    }
}

/// Whether this request must bring the retained message: nothing is in doubt from it to the end.
fn is_certain(story: &Story<'_>, session: &Session<'_>, filter: &Filter, request: &Change) -> bool {
    let handling = request.to.map(|to| to.options.retain_handling);
    let granted = |done: usize| filter.certain(false, (done + 1, story.end()));
    story.is_complete(session)
        && handling.is_some_and(|handling| handling != RetainHandling::DoNotSend)
        && request
            .done
            .and_then(granted)
            .is_some_and(|qos| qos > Qos::AtMostOnce)
}

fn is_there(
    story: &Story<'_>,
    session: &Session<'_>,
    (values, stored, request): (&[usize], usize, &Change),
    got: &[&Delivery<'_>],
    verdict: &mut Verdict,
) {
    let is_clear = |number: usize| story.messages[number].payload.is_empty();
    let follows = |number: usize| may_follow(story, number, stored);
    if values
        .iter()
        .any(|number| follows(*number) && is_clear(*number))
    {
        return;
    }
    let has = got.iter().any(|one| one.message.is_some_and(follows));
    if !has {
        let text = format!(
            "{} subscribed and never got {:?} or a newer one",
            session.client,
            story.messages[stored].name()
        );
        let records = [story.messages[stored].first_sent(), request.sent];
        verdict.add(Rule::Retained, &records, text);
    }
}
