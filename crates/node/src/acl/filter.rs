//! Topic Filters as sets of topics: which contains which, and which have topics in common. A Topic Name
//! is a filter for one topic.

/// Whether `general` matches every topic that `specific` does. A topic that begins with `$` is in none
/// that begins with a wildcard [MQTT-4.7.2-1].
///
/// What only several levels together show (`+/#` is as much as `#`) is not seen: then the answer is no.
pub(super) fn covers(general: &str, specific: &str) -> bool {
    if specific.starts_with('$') && begins_with_wildcard(general) {
        return false;
    }
    let (mut general, mut specific) = (general.split('/'), specific.split('/'));
    loop {
        match (general.next(), specific.next()) {
            // Also the level above [MQTT-4.7.1-2].
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(one), Some(other)) if one == other => {}
            (Some(_) | None, _) => return false,
        }
    }
}

/// Whether there is a topic that both match.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    if (one.starts_with('$') && begins_with_wildcard(other))
        || (other.starts_with('$') && begins_with_wildcard(one))
    {
        return false;
    }
    // Only the empty topic, which is none [MQTT-4.7.3-1].
    if matches!((one, other), ("+", "/#") | ("/#", "+")) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(same)) if level == same => {}
            (Some(_) | None, _) => return false,
        }
    }
}

fn begins_with_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

#[cfg(test)]
mod tests {
    use codec::{TopicFilter, TopicName};
    use proptest::prelude::*;
    use router::Router;

    use super::*;

    #[test]
    fn a_filter_covers_what_it_matches_altogether() {
        for (general, specific, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/+/c", true),
            ("a/#", "a/#", true),
            ("a/#", "#", false),
            ("#", "#", true),
            ("#", "+/a", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("a/b", "a/+", false),
            ("/+", "/", true),
        ] {
            assert_eq!(covers(general, specific), expected, "{general} {specific}");
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![
            "[ab]",
            Just("+".to_owned()),
            Just("$s".to_owned()),
            Just(String::new())
        ];
        (proptest::collection::vec(level, 1..4), any::<bool>()).prop_filter_map(
            "a filter has at least one byte",
            |(mut levels, open)| {
                if open {
                    levels.push("#".to_owned());
                }
                let text = levels.join("/");
                (!text.is_empty()).then_some(text)
            },
        )
    }

    fn topics() -> Vec<TopicName> {
        let levels = ["a", "b", "$s", ""];
        let mut topics = levels.map(str::to_owned).to_vec();
        for _ in 0..4 {
            let longer = topics
                .iter()
                .flat_map(|topic| levels.map(|level| format!("{topic}/{level}")));
            let longer: Vec<_> = longer.collect();
            topics.extend(longer);
            topics.sort();
            topics.dedup();
        }
        let topics = topics.iter().filter(|topic| !topic.is_empty());
        topics
            .map(|topic| TopicName::try_from(topic.as_str()).unwrap())
            .collect()
    }

    /// The topics that the broker itself would deliver.
    fn matched(filter: &str, topics: &[TopicName]) -> Vec<bool> {
        let mut router = Router::new();
        let filter = TopicFilter::try_from(filter).unwrap();
        let subscription = router::Subscription {
            options: codec::SubscriptionOptions::default(),
            identifier: None,
        };
        router.subscribe(0_u8, &filter, subscription);
        let matches = |topic: &TopicName| {
            let mut matches = Vec::new();
            router.route(topic, |_| false, &mut matches);
            !matches.is_empty()
        };
        topics.iter().map(matches).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Against the matching of the broker, topic by topic.
        #[test]
        fn covers_and_overlap_are_what_delivery_says(one in filter(), other in filter()) {
            let topics = topics();
            let (of_one, of_other) = (matched(&one, &topics), matched(&other, &topics));
            let both = || of_one.iter().zip(&of_other);
            if covers(&one, &other) {
                prop_assert!(both().all(|(one, other)| *one || !*other), "{one} {other}");
            }
            prop_assert_eq!(overlap(&one, &other), both().any(|(one, other)| *one && *other), "{} {}", one, other);
            for (topic, is_matched) in topics.iter().zip(&of_one) {
                prop_assert_eq!(covers(&one, topic.as_str()), *is_matched, "{} {}", one, topic);
            }
        }
    }
}
