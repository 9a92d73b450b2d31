//! The trie against a scan, filter by filter, over a plain list of subscriptions.

#[path = "model/scan.rs"]
mod scan;

use std::collections::BTreeMap;

use codec::{
    Qos, RetainHandling, SubscriptionIdentifier, SubscriptionOptions, TopicFilter, TopicName,
};
use proptest::prelude::*;
use router::{Match, RouteTable, Router, Subscription};
use scan::{filter_matches, filters, topics};

/// Subscriptions as a list, nothing precomputed.
#[derive(Default)]
struct Model {
    subscriptions: BTreeMap<(u8, TopicFilter), Subscription>,
}

impl Model {
    fn route(&self, topic: &TopicName, publisher: u8) -> Vec<Match<u8>> {
        let mut found = BTreeMap::<u8, Match<u8>>::new();
        for ((subscriber, filter), subscription) in &self.subscriptions {
            let own = subscription.options.no_local && *subscriber == publisher;
            if own || !filter_matches(filter, topic) {
                continue;
            }
            let entry = found.entry(*subscriber).or_insert_with(|| Match {
                subscriber: *subscriber,
                qos: Qos::AtMostOnce,
                retain_as_published: false,
                identifiers: Vec::new(),
            });
            entry.qos = entry.qos.max(subscription.options.qos);
            entry.retain_as_published |= subscription.options.retain_as_published;
            entry.identifiers.extend(subscription.identifier);
            entry.identifiers.sort();
        }
        found.into_values().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8, TopicFilter, Subscription),
    Unsubscribe(u8, TopicFilter),
    Remove(u8),
    Route(TopicName, u8),
}

fn subscriptions() -> impl Strategy<Value = Subscription> {
    let qos = prop::sample::select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]);
    let flags = (any::<bool>(), any::<bool>());
    (qos, flags, prop::option::of(1..4u32)).prop_map(
        |(qos, (no_local, retain_as_published), identifier)| Subscription {
            options: SubscriptionOptions {
                qos,
                no_local,
                retain_as_published,
                retain_handling: RetainHandling::Send,
            },
            identifier: identifier.and_then(SubscriptionIdentifier::new),
        },
    )
}

/// Few subscribers with many filters, so that they overlap, and many with few.
fn subscribers() -> impl Strategy<Value = u8> {
    prop_oneof![0..4u8, 0..60u8]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (subscribers(), filters(), subscriptions()).prop_map(|(k, f, s)| Step::Subscribe(k, f, s)),
        4 => (subscribers(), filters()).prop_map(|(k, f)| Step::Unsubscribe(k, f)),
        1 => subscribers().prop_map(Step::Remove),
        6 => (topics(), subscribers()).prop_map(|(topic, publisher)| Step::Route(topic, publisher)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// [MQTT-3.3.4-2] [MQTT-3.3.4-4] [MQTT-3.8.3-3] [MQTT-3.8.4-3] [MQTT-3.10.4-1]
    #[test]
    fn the_router_agrees_with_a_scan(steps in prop::collection::vec(steps(), 1..150)) {
        let mut router = Router::new();
        let mut model = Model::default();
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Subscribe(subscriber, filter, subscription) => {
                    let replaced = router.subscribe(subscriber, &filter, subscription);
                    let expected = model.subscriptions.insert((subscriber, filter), subscription);
                    prop_assert_eq!(replaced, expected);
                }
                Step::Unsubscribe(subscriber, filter) => {
                    let removed = router.unsubscribe(&subscriber, &filter);
                    prop_assert_eq!(removed, model.subscriptions.remove(&(subscriber, filter)));
                }
                Step::Remove(subscriber) => {
                    router.remove(&subscriber);
                    model.subscriptions.retain(|(other, _), _| *other != subscriber);
                }
                Step::Route(topic, publisher) => {
                    router.route(&topic, |subscriber| *subscriber == publisher, &mut out);
                    prop_assert_eq!(&out, &model.route(&topic, publisher));
                }
            }
            prop_assert_eq!(router.len(), model.subscriptions.len());
            prop_assert_eq!(router.is_empty(), model.subscriptions.is_empty());
        }
        for subscriber in 0..60 {
            let listed = router.subscriptions(&subscriber).map(|(filter, s)| (filter.clone(), *s));
            let expected = model.subscriptions.iter().filter(|((other, _), _)| *other == subscriber);
            prop_assert!(listed.eq(expected.map(|((_, filter), s)| (filter.clone(), *s))));
        }
    }

    /// The order of subscribing, and what was there in between, leave no trace.
    #[test]
    fn equal_subscriptions_route_equally(
        subscriptions in prop::collection::btree_map((subscribers(), filters()), subscriptions(), 0..60),
        passing in prop::collection::vec((subscribers(), filters(), subscriptions()), 0..60),
        topics in prop::collection::vec(topics(), 1..10),
    ) {
        let mut one = Router::new();
        let mut other = Router::new();
        for ((subscriber, filter), subscription) in &subscriptions {
            one.subscribe(*subscriber, filter, *subscription);
        }
        for (subscriber, filter, subscription) in &passing {
            other.subscribe(*subscriber, filter, *subscription);
        }
        for ((subscriber, filter), subscription) in subscriptions.iter().rev() {
            other.subscribe(*subscriber, filter, *subscription);
        }
        for (subscriber, filter, _) in passing {
            if !subscriptions.contains_key(&(subscriber, filter.clone())) {
                other.unsubscribe(&subscriber, &filter);
            }
        }
        for topic in topics {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            one.route(&topic, |subscriber| *subscriber == 1, &mut left);
            other.route(&topic, |subscriber| *subscriber == 1, &mut right);
            prop_assert_eq!(left, right);
        }
    }
}

#[derive(Clone, Debug)]
enum TableStep {
    Add(TopicFilter, u8),
    Remove(TopicFilter, u8),
    RemoveTarget(u8),
    Route(TopicName),
}

fn table_steps() -> impl Strategy<Value = TableStep> {
    prop_oneof![
        6 => (filters(), 0..20u8).prop_map(|(filter, target)| TableStep::Add(filter, target)),
        4 => (filters(), 0..20u8).prop_map(|(filter, target)| TableStep::Remove(filter, target)),
        1 => (0..20u8).prop_map(TableStep::RemoveTarget),
        4 => topics().prop_map(TableStep::Route),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_route_table_agrees_with_a_scan(steps in prop::collection::vec(table_steps(), 1..200)) {
        let mut table = RouteTable::new();
        let mut model = BTreeMap::<(TopicFilter, u8), usize>::new();
        let mut out = Vec::new();
        for step in steps {
            match step {
                TableStep::Add(filter, target) => {
                    let is_new = table.add(&filter, target);
                    let count = model.entry((filter, target)).or_default();
                    *count += 1;
                    prop_assert_eq!(is_new, *count == 1);
                }
                TableStep::Remove(filter, target) => {
                    let gone = table.remove(&filter, target);
                    let key = (filter, target);
                    let left = model.get(&key).copied();
                    prop_assert_eq!(gone, left == Some(1));
                    match left {
                        Some(count) if count > 1 => model.insert(key, count - 1),
                        _ => model.remove(&key),
                    };
                }
                TableStep::RemoveTarget(target) => {
                    table.remove_target(target);
                    model.retain(|(_, other), _| *other != target);
                }
                TableStep::Route(topic) => {
                    table.route(&topic, &mut out);
                    let matching = model.keys().filter(|(filter, _)| filter_matches(filter, &topic));
                    let expected: std::collections::BTreeSet<u8> =
                        matching.map(|(_, target)| *target).collect();
                    prop_assert!(out.iter().eq(&expected), "{out:?} is not {expected:?}");
                }
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.is_empty(), model.is_empty());
        }
    }
}
