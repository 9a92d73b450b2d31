//! All subscriptions of many subscribers, and who gets a message on a topic.
//!
//! Invariant: `filters` names, for each subscriber, exactly the filters under which `trie` has a
//! subscription of it, and `len` is their number,
//! `wildcard_len` that of those with wildcards. A subscriber without a filter is in neither.

use std::collections::BTreeMap;

use codec::{SubscriptionIdentifier, SubscriptionOptions, TopicFilter, TopicName};

use crate::compact_map::CompactMap;
use crate::overlap::{self, Match};
use crate::trie::Trie;

/// What a subscriber asked for with one topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The granted QoS and the options of the SUBSCRIBE packet.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier of that packet, if it had one.
    pub identifier: Option<SubscriptionIdentifier>,
}

/// All subscriptions of many subscribers. Deterministic: matches come in the order of `K`.
///
/// A subscriber has at most one subscription per topic filter [MQTT-3.8.4-3].
#[derive(Clone, Debug)]
pub struct Router<K: Ord + Clone> {
    trie: Trie<CompactMap<K, Subscription>>,
    filters: BTreeMap<K, CompactMap<TopicFilter, ()>>,
    len: usize,
    wildcard_len: usize,
}

impl<K: Ord + Clone> Default for Router<K> {
    fn default() -> Self {
        Self {
            trie: Trie::default(),
            filters: BTreeMap::new(),
            len: 0,
            wildcard_len: 0,
        }
    }
}

impl<K: Ord + Clone> Router<K> {
    /// A router without subscriptions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscription, or replaces the one that `subscriber` has with an identical filter
    /// and returns the old one [MQTT-3.8.4-3].
    ///
    /// Keeps no reference to the buffer behind `filter`. O(levels).
    pub fn subscribe(
        &mut self,
        subscriber: K,
        filter: &TopicFilter,
        subscription: Subscription,
    ) -> Option<Subscription> {
        let replaced = self
            .trie
            .upsert(filter, |subscribers| {
                subscribers.insert(subscriber.clone(), subscription)
            })
            .flatten();
        if replaced.is_none() {
            let filters = self.filters.entry(subscriber).or_default();
            filters.insert(filter.detached(), ());
            self.len += 1;
            self.wildcard_len += usize::from(filter.has_wildcards());
        }
        replaced
    }

    /// Ends the subscription of `subscriber` with exactly this filter, compared character by
    /// character [MQTT-3.10.4-1], and returns it. O(levels).
    pub fn unsubscribe(&mut self, subscriber: &K, filter: &TopicFilter) -> Option<Subscription> {
        let removed = self.take_from_trie(subscriber, filter)?;
        if let Some(filters) = self.filters.get_mut(subscriber) {
            filters.remove(filter);
            if filters.is_empty() {
                self.filters.remove(subscriber);
            }
        }
        self.len -= 1;
        self.wildcard_len -= usize::from(filter.has_wildcards());
        Some(removed)
    }

    /// Ends every subscription of `subscriber`. O(its filters).
    pub fn remove(&mut self, subscriber: &K) {
        let Some(filters) = self.filters.remove(subscriber) else {
            return;
        };
        for (filter, ()) in filters.iter() {
            let removed = self.take_from_trie(subscriber, filter);
            debug_assert!(removed.is_some(), "a listed filter is in the trie");
            self.wildcard_len -= usize::from(filter.has_wildcards());
        }
        self.len -= filters.len();
    }

    /// The subscriptions of `subscriber`, in the order of their filters.
    pub fn subscriptions<'a>(
        &'a self,
        subscriber: &'a K,
    ) -> impl Iterator<Item = (&'a TopicFilter, &'a Subscription)> {
        let filters = self.filters.get(subscriber).into_iter();
        filters
            .flat_map(CompactMap::iter)
            .filter_map(|(filter, ())| {
                let subscription = self.trie.get(filter)?.get(subscriber)?;
                Some((filter, subscription))
            })
    }

    /// Replaces the content of `out` by who gets a message on `topic`: one match per subscriber,
    /// in the order of `K`.
    ///
    /// Subscriptions with No Local of the subscriber for which `is_publisher` is true are passed
    /// by [MQTT-3.8.3-3]; its others match like anybody's.
    pub fn route(
        &self,
        topic: &TopicName,
        is_publisher: impl Fn(&K) -> bool,
        out: &mut Vec<Match<K>>,
    ) {
        out.clear();
        self.trie.for_each_match(topic, |subscribers| {
            let heard = subscribers
                .iter()
                .filter(|(subscriber, subscription)| {
                    !(subscription.options.no_local && is_publisher(subscriber))
                })
                .map(|(subscriber, subscription)| Match::by_one(subscriber.clone(), subscription));
            out.extend(heard);
        });
        overlap::resolve(out);
    }

    /// How many of them have wildcards. O(1).
    pub fn wildcard_len(&self) -> usize {
        self.wildcard_len
    }

    /// How many subscriptions there are, over all subscribers. O(1).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn take_from_trie(&mut self, subscriber: &K, filter: &TopicFilter) -> Option<Subscription> {
        let removed = self.trie.update(filter, |slot| {
            let removed = slot.as_mut()?.remove(subscriber);
            slot.take_if(|subscribers| subscribers.is_empty());
            removed
        });
        removed.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::Qos;

    const NOBODY: fn(&&str) -> bool = |_| false;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).unwrap()
    }

    fn identifier(value: u32) -> SubscriptionIdentifier {
        SubscriptionIdentifier::new(value).unwrap()
    }

    fn at(qos: Qos) -> Subscription {
        Subscription {
            options: SubscriptionOptions::new(qos),
            identifier: None,
        }
    }

    fn identified(qos: Qos, value: u32) -> Subscription {
        let mut subscription = at(qos);
        subscription.identifier = Some(identifier(value));
        subscription
    }

    fn no_local(qos: Qos) -> Subscription {
        let mut subscription = at(qos);
        subscription.options.no_local = true;
        subscription
    }

    fn route<'k>(
        router: &Router<&'k str>,
        topic: &str,
        is_publisher: impl Fn(&&'k str) -> bool,
    ) -> Vec<Match<&'k str>> {
        let mut out = Vec::new();
        router.route(&TopicName::try_from(topic).unwrap(), is_publisher, &mut out);
        out
    }

    fn names<'k>(matches: &[Match<&'k str>]) -> Vec<&'k str> {
        matches.iter().map(|each| each.subscriber).collect()
    }

    /// [MQTT-3.3.4-2] [MQTT-3.3.4-4], the example of section 3.3.4.
    #[test]
    fn overlapping_subscriptions_are_one_match_with_the_highest_qos_and_all_identifiers() {
        let mut router = Router::new();
        router.subscribe("c", &filter("a/b"), identified(Qos::ExactlyOnce, 3));
        router.subscribe("c", &filter("a/#"), identified(Qos::AtLeastOnce, 2));
        router.subscribe("c", &filter("a/+"), identified(Qos::AtMostOnce, 1));
        router.subscribe("c", &filter("#"), at(Qos::AtMostOnce));
        router.subscribe("c", &filter("b"), identified(Qos::ExactlyOnce, 9));
        let found = route(&router, "a/b", NOBODY);
        assert_eq!(names(&found), ["c"]);
        assert_eq!(found[0].qos, Qos::ExactlyOnce);
        assert_eq!(found[0].identifiers, [1, 2, 3].map(identifier));
        let found = route(&router, "a/x", NOBODY);
        assert_eq!(found[0].qos, Qos::AtLeastOnce);
        assert_eq!(found[0].identifiers, [1, 2].map(identifier));
    }

    /// [MQTT-3.3.4-4]
    #[test]
    fn an_identifier_shared_by_two_matching_subscriptions_comes_twice() {
        let mut router = Router::new();
        router.subscribe("c", &filter("a/#"), identified(Qos::AtMostOnce, 7));
        router.subscribe("c", &filter("a"), identified(Qos::AtMostOnce, 7));
        router.subscribe("c", &filter("+"), identified(Qos::AtMostOnce, 5));
        let found = route(&router, "a", NOBODY);
        assert_eq!(found[0].identifiers, [5, 7, 7].map(identifier));
    }

    /// [MQTT-3.8.3-3]
    #[test]
    fn no_local_hides_a_message_from_its_publisher_only() {
        let mut router = Router::new();
        router.subscribe("me", &filter("a"), no_local(Qos::ExactlyOnce));
        router.subscribe("other", &filter("a"), no_local(Qos::ExactlyOnce));
        let me = |subscriber: &&str| *subscriber == "me";
        assert_eq!(names(&route(&router, "a", me)), ["other"]);
        assert_eq!(names(&route(&router, "a", NOBODY)), ["me", "other"]);
    }

    /// [MQTT-3.8.3-3] No Local is an option of one subscription, not of its subscriber.
    #[test]
    fn a_publisher_still_gets_what_its_other_subscriptions_match() {
        let mut router = Router::new();
        let mut hidden = no_local(Qos::ExactlyOnce);
        hidden.identifier = Some(identifier(1));
        hidden.options.retain_as_published = true;
        router.subscribe("me", &filter("a"), hidden);
        router.subscribe("me", &filter("+"), identified(Qos::AtLeastOnce, 2));
        let found = route(&router, "a", |_| true);
        assert_eq!(names(&found), ["me"]);
        assert_eq!(found[0].qos, Qos::AtLeastOnce);
        assert_eq!(found[0].identifiers, [identifier(2)]);
        assert!(!found[0].retain_as_published);
    }

    /// [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    #[test]
    fn one_subscription_that_keeps_the_retain_flag_is_enough() {
        let mut router = Router::new();
        let mut keeping = at(Qos::AtMostOnce);
        keeping.options.retain_as_published = true;
        router.subscribe("c", &filter("a/#"), keeping);
        router.subscribe("c", &filter("a/b"), at(Qos::ExactlyOnce));
        assert!(route(&router, "a/b", NOBODY)[0].retain_as_published);
        router.unsubscribe(&"c", &filter("a/#"));
        assert!(!route(&router, "a/b", NOBODY)[0].retain_as_published);
    }

    /// [MQTT-3.8.4-3]
    #[test]
    fn an_identical_filter_replaces_the_subscription() {
        let mut router = Router::new();
        let first = identified(Qos::ExactlyOnce, 1);
        let second = at(Qos::AtMostOnce);
        assert_eq!(router.subscribe("c", &filter("a/#"), first), None);
        assert_eq!(router.subscribe("c", &filter("a/#"), second), Some(first));
        assert_eq!(router.len(), 1);
        let found = route(&router, "a", NOBODY);
        assert_eq!(found[0].qos, Qos::AtMostOnce);
        assert!(found[0].identifiers.is_empty());
    }

    /// [MQTT-3.10.4-1]
    #[test]
    fn only_the_identical_filter_unsubscribes() {
        let mut router = Router::new();
        router.subscribe("c", &filter("a/+"), at(Qos::AtMostOnce));
        router.subscribe("c", &filter("a/b"), at(Qos::ExactlyOnce));
        for other in ["a/#", "#", "a", "+/b", "a/b/", "A/b"] {
            assert_eq!(router.unsubscribe(&"c", &filter(other)), None);
        }
        assert_eq!(router.unsubscribe(&"d", &filter("a/b")), None);
        assert_eq!(
            router.unsubscribe(&"c", &filter("a/b")),
            Some(at(Qos::ExactlyOnce))
        );
        assert_eq!(route(&router, "a/b", NOBODY)[0].qos, Qos::AtMostOnce);
        assert_eq!(router.len(), 1);
    }

    #[test]
    fn matches_come_in_the_order_of_the_subscribers() {
        let mut router = Router::new();
        let all: Vec<String> = (0..100)
            .map(|number| format!("{:02}", number * 37 % 100))
            .collect();
        for (at_position, name) in all.iter().enumerate() {
            let text = ["a/b", "a/+", "#"][at_position % 3];
            router.subscribe(name.as_str(), &filter(text), at(Qos::AtMostOnce));
            router.subscribe(name.as_str(), &filter("a/#"), at(Qos::AtLeastOnce));
        }
        let found = route(&router, "a/b", NOBODY);
        assert_eq!(found.len(), 100);
        assert!(found.is_sorted_by(|a, b| a.subscriber < b.subscriber));
        assert!(found.iter().all(|each| each.qos == Qos::AtLeastOnce));
    }

    #[test]
    fn what_was_in_the_result_before_is_replaced() {
        let mut router = Router::new();
        router.subscribe("c", &filter("a"), at(Qos::AtMostOnce));
        let mut out = Vec::new();
        for topic in ["a", "a", "b"] {
            router.route(&TopicName::try_from(topic).unwrap(), |_| false, &mut out);
        }
        assert!(out.is_empty());
    }

    #[test]
    fn a_removed_subscriber_leaves_nothing_and_takes_nobody_along() {
        let mut router = Router::new();
        for text in ["a", "a/#", "+", "$SYS/#"] {
            router.subscribe("gone", &filter(text), at(Qos::AtLeastOnce));
            router.subscribe("stays", &filter(text), at(Qos::AtLeastOnce));
        }
        router.remove(&"gone");
        router.remove(&"never there");
        assert_eq!(router.len(), 4);
        assert_eq!(router.subscriptions(&"gone").count(), 0);
        assert_eq!(names(&route(&router, "a", NOBODY)), ["stays"]);
        router.remove(&"stays");
        assert!(router.is_empty());
        assert!(router.filters.is_empty());
    }

    #[test]
    fn subscriptions_are_listed_in_the_order_of_their_filters() {
        let mut router = Router::new();
        router.subscribe("c", &filter("b"), identified(Qos::AtMostOnce, 2));
        router.subscribe("c", &filter("a/#"), identified(Qos::AtLeastOnce, 1));
        router.subscribe("d", &filter("c"), at(Qos::AtMostOnce));
        let listed: Vec<_> = router
            .subscriptions(&"c")
            .map(|(filter, subscription)| (filter.as_str(), subscription.identifier))
            .collect();
        assert_eq!(
            listed,
            [("a/#", Some(identifier(1))), ("b", Some(identifier(2)))]
        );
    }

    #[test]
    fn a_listed_filter_does_not_pin_the_read_buffer() {
        let mut router = Router::new();
        let read = filter("a/b");
        router.subscribe("c", &read, at(Qos::AtMostOnce));
        let kept = router.subscriptions(&"c").next().unwrap().0;
        assert_eq!(kept, &read);
        assert_ne!(kept.as_bytes().as_ptr(), read.as_bytes().as_ptr());
    }
}
