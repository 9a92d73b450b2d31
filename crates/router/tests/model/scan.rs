//! What the tests compare with: one filter against one topic; and where both come from.

use codec::{TopicFilter, TopicName};
use proptest::prelude::*;

/// Whether `filter` matches `topic`, as section 4.7 reads.
pub(crate) fn filter_matches(filter: &TopicFilter, topic: &TopicName) -> bool {
    // [MQTT-4.7.2-1]
    if topic.as_str().starts_with('$') && filter.as_str().starts_with(['+', '#']) {
        return false;
    }
    let filter: Vec<&str> = filter.as_str().split('/').collect();
    let topic: Vec<&str> = topic.as_str().split('/').collect();
    let (filter, open) = match filter.split_last() {
        Some((&"#", levels)) => (levels, true),
        _ => (filter.as_slice(), false),
    };
    let long_enough = topic.len() == filter.len() || (open && topic.len() > filter.len());
    long_enough
        && filter
            .iter()
            .zip(&topic)
            .all(|(level, text)| *level == "+" || level == text)
}

/// Texts of a level: `!` and `-` sort before `/`, `0` right behind it, so that neighbours of a level
/// come between a topic and what lies below it.
const WORDS: [&str; 9] = ["", "a", "b", "$s", "a!", "a-", "a0", "aa", "0"];

fn words() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => prop::sample::select(&WORDS[..4]), 1 => prop::sample::select(&WORDS[..])]
}

pub(crate) fn filters() -> impl Strategy<Value = TopicFilter> {
    let level = prop_oneof![2 => words(), 1 => Just("+")];
    let text =
        (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, open)| {
            if open {
                levels.push("#");
            }
            levels.join("/")
        });
    text.prop_filter_map("a filter is not empty", |text| {
        TopicFilter::try_from(text.as_str()).ok()
    })
}

pub(crate) fn topics() -> impl Strategy<Value = TopicName> {
    let text = prop::collection::vec(words(), 1..6).prop_map(|levels| levels.join("/"));
    text.prop_filter_map("a topic is not empty", |text| {
        TopicName::try_from(text.as_str()).ok()
    })
}
