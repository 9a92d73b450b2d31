//! Topic → who gets it, in small and large tables.

use std::hint::black_box;

use codec::{Qos, SubscriptionOptions, TopicFilter, TopicName};
use router::{RouteTable, Router, Subscription};

use crate::harness::Harness;

const TOPICS: u32 = 64;

pub(crate) fn run(harness: &Harness) {
    for count in [1_000_u32, 1_000_000] {
        let router_name = format!("router: route, {count} subscriptions, 2 match");
        let table_name = format!("route table: route, {count} routes, 1 target");
        let topics: Vec<TopicName> = (0..TOPICS)
            .map(|n| {
                let name = topic(n * (count / TOPICS));
                TopicName::try_from(name.as_str()).expect("a topic")
            })
            .collect();
        if harness.wants(&router_name) {
            let router = router(count);
            let mut matches = Vec::new();
            harness.run(&router_name, TOPICS, || {
                for topic in &topics {
                    router.route(topic, |_| false, &mut matches);
                    black_box(&matches);
                }
            });
            assert_eq!(matches.len(), 2, "its own filter and the one for all rooms");
        }
        if harness.wants(&table_name) {
            let mut table = RouteTable::new();
            for n in 0..count {
                table.add(&filter(&topic(n)), n % 4);
            }
            let mut targets = Vec::new();
            harness.run(&table_name, TOPICS, || {
                for topic in &topics {
                    table.route(topic, &mut targets);
                    black_box(&targets);
                }
            });
            assert_eq!(targets.len(), 1);
        }
    }
}

/// One filter per subscriber, and one with wildcards on top for each thousandth.
fn router(count: u32) -> Router<u32> {
    let subscription = || Subscription {
        options: SubscriptionOptions::new(Qos::AtLeastOnce),
        identifier: None,
    };
    let mut router = Router::new();
    for n in 0..count {
        router.subscribe(n, &filter(&topic(n)), subscription());
        if n % 1_000 == 0 {
            let all_rooms = format!("building/{}/+/+/temperature", n / 1_000);
            router.subscribe(count + n, &filter(&all_rooms), subscription());
        }
    }
    router
}

fn topic(n: u32) -> String {
    format!(
        "building/{}/floor-{}/room-{}/temperature",
        n / 1_000,
        n % 1_000 / 50,
        n % 50
    )
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).expect("a filter")
}
