//! This client's filters and options. Which messages match is the router's question.

use std::collections::BTreeMap;

use codec::{Qos, TopicFilter};

use crate::event::{Output, Subscription};

/// The QoS of a delivery: the lower of the published and the granted one [MQTT-3.8.4-8].
#[must_use]
pub fn effective_qos(published: Qos, granted: Qos) -> Qos {
    published.min(granted)
}

/// Filter → subscription, ordered so that replicas iterate alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subscriptions(BTreeMap<TopicFilter, Subscription>);

impl Subscriptions {
    pub(crate) fn from_map(map: BTreeMap<TopicFilter, Subscription>) -> Self {
        Self(map)
    }

    pub(crate) fn as_map(&self) -> &BTreeMap<TopicFilter, Subscription> {
        &self.0
    }

    /// Adds a subscription or replaces the one with the identical filter [MQTT-3.8.4-3].
    pub(crate) fn subscribe(&mut self, filter: &TopicFilter, subscription: Subscription) -> Output {
        if let Some(current) = self.0.get_mut(filter) {
            *current = subscription;
            return Output::Subscribed { existed: true };
        }
        // A subscription may live for weeks: it must not pin the buffer that SUBSCRIBE was read into.
        self.0.insert(filter.detached(), subscription);
        Output::Subscribed { existed: false }
    }

    /// Removes the identical filter [MQTT-3.10.4-1].
    pub(crate) fn unsubscribe(&mut self, filter: &TopicFilter) -> Output {
        let existed = self.0.remove(filter).is_some();
        Output::Unsubscribed { existed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT-3.8.4-8]
    #[test]
    fn the_effective_qos_is_the_lower_one_for_all_nine_pairs() {
        use Qos::{AtLeastOnce as One, AtMostOnce as Zero, ExactlyOnce as Two};
        for (published, granted, effective) in [
            (Zero, Zero, Zero),
            (Zero, One, Zero),
            (Zero, Two, Zero),
            (One, Zero, Zero),
            (One, One, One),
            (One, Two, One),
            (Two, Zero, Zero),
            (Two, One, One),
            (Two, Two, Two),
        ] {
            assert_eq!(effective_qos(published, granted), effective);
        }
    }
}
