//! One subscriber, several matching filters: one match.
//!
//! A message is delivered once to a session, however many of its subscriptions match, at the
//! highest QoS among them [MQTT-3.3.4-2] and with all their identifiers [MQTT-3.3.4-4].

use codec::{Qos, SubscriptionIdentifier};

use crate::router::Subscription;

/// What one subscriber gets of a published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<K> {
    /// Who gets the message.
    pub subscriber: K,
    /// The highest QoS granted to a matching subscription [MQTT-3.3.4-2]. The message is delivered
    /// at the lower of this and the QoS it was published with.
    pub qos: Qos,
    /// Whether a matching subscription keeps the RETAIN flag as published [MQTT-3.3.1-13]. The
    /// standard leaves open what holds when they differ; one that asks for the flag gets it.
    pub retain_as_published: bool,
    /// The identifiers of all matching subscriptions that have one, ascending; one that several of
    /// them share comes as often as they do [MQTT-3.3.4-4].
    pub identifiers: Vec<SubscriptionIdentifier>,
}

impl<K> Match<K> {
    /// The match by one subscription alone.
    pub(crate) fn by_one(subscriber: K, subscription: &Subscription) -> Self {
        Self {
            subscriber,
            qos: subscription.options.qos,
            retain_as_published: subscription.options.retain_as_published,
            identifiers: subscription.identifier.into_iter().collect(),
        }
    }

    fn absorb(&mut self, other: &mut Self) {
        self.qos = self.qos.max(other.qos);
        self.retain_as_published |= other.retain_as_published;
        self.identifiers.append(&mut other.identifiers);
        self.identifiers.sort_unstable();
    }
}

/// Turns one match per subscription into one per subscriber, in the order of the subscribers.
///
/// Which of two matches of a subscriber came first changes nothing.
pub(crate) fn resolve<K: Ord>(matches: &mut Vec<Match<K>>) {
    // The usual case: a single filter matched, whose subscribers are in order and distinct.
    if matches.is_sorted_by(|a, b| a.subscriber < b.subscriber) {
        return;
    }
    matches.sort_unstable_by(|a, b| a.subscriber.cmp(&b.subscriber));
    matches.dedup_by(|later, kept| {
        let same = later.subscriber == kept.subscriber;
        if same {
            kept.absorb(later);
        }
        same
    });
}
