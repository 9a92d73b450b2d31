//! The tree of retained messages against a scan, topic by topic.

#![expect(clippy::unwrap_used, reason = "a test: a panic is its failure")]

#[path = "model/scan.rs"]
mod scan;

use std::collections::BTreeMap;

use codec::{TopicFilter, TopicName};
use proptest::prelude::*;
use router::RetainedTree;
use scan::{filter_matches, filters, topics};

/// All pages, and how many there were.
fn read<'a>(
    tree: &'a RetainedTree<u32>,
    filter: &TopicFilter,
    max: usize,
) -> (Vec<(&'a TopicName, &'a u32)>, usize) {
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let mut page = tree.matching(filter, after, max);
        assert!(page.found.len() <= max.max(1), "a page is bounded");
        assert!(page.continue_after > after || page.continue_after.is_none());
        found.append(&mut page.found);
        (after, pages) = (page.continue_after, pages + 1);
        if after.is_none() {
            return (found, pages);
        }
    }
}

fn tree_of<T: AsRef<str>>(topics: impl IntoIterator<Item = T>) -> RetainedTree<u32> {
    let mut tree = RetainedTree::new();
    for (number, topic) in (0..).zip(topics) {
        tree.insert(&TopicName::try_from(topic.as_ref()).unwrap(), number);
    }
    tree
}

fn found(topics: &[&str], filter: &str) -> Vec<String> {
    let tree = tree_of(topics);
    let filter = TopicFilter::try_from(filter).unwrap();
    let (found, _) = read(&tree, &filter, 1);
    found.iter().map(|(topic, _)| topic.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1] [MQTT-4.7.3-4]
    #[test]
    fn pages_hold_what_a_scan_finds_in_order(
        topics in prop::collection::btree_set(topics(), 0..80),
        filters in prop::collection::vec(filters(), 1..10),
        max in 0..8_usize,
    ) {
        let tree = tree_of(topics.iter().map(TopicName::as_str));
        for filter in filters {
            let expected = tree.iter().filter(|(topic, _)| filter_matches(&filter, topic));
            let expected: Vec<_> = expected.collect();
            prop_assert_eq!(&read(&tree, &filter, max).0, &expected);
            let whole = tree.matching(&filter, None, usize::MAX);
            prop_assert_eq!(whole.continue_after, None);
            prop_assert_eq!(whole.found, expected);
            // From anywhere, also behind a topic that is not there.
            for after in &topics {
                let page = tree.matching(&filter, Some(after), usize::MAX);
                let behind = tree.iter().filter(|(topic, _)| *topic > after);
                let expected = behind.filter(|(topic, _)| filter_matches(&filter, topic));
                prop_assert!(page.found.into_iter().eq(expected));
            }
        }
    }

    /// [MQTT-3.3.1-5] [MQTT-3.3.1-6]
    #[test]
    fn a_topic_has_the_value_put_there_last(
        steps in prop::collection::vec((topics(), any::<Option<u32>>()), 1..200),
    ) {
        let mut tree = RetainedTree::new();
        let mut model = BTreeMap::new();
        for (topic, value) in steps {
            match value {
                Some(value) => {
                    prop_assert_eq!(tree.insert(&topic, value), model.insert(topic.clone(), value));
                    prop_assert_eq!(tree.get_mut(&topic).copied(), Some(value));
                }
                None => prop_assert_eq!(tree.remove(&topic), model.remove(&topic)),
            }
            prop_assert_eq!(tree.get(&topic), model.get(&topic));
            prop_assert_eq!((tree.len(), tree.is_empty()), (model.len(), model.is_empty()));
        }
        prop_assert!(tree.iter().eq(model.iter()));
    }
}

/// What lies between a topic and its subtopics in the order of bytes hides neither.
#[test]
fn neighbours_that_sort_before_a_slash_are_passed_by() {
    let topics = [
        "a", "a b", "a!/x", "a-/b", "a.", "a/", "a/b", "a/b!", "a/b/c", "a0", "b",
    ];
    assert_eq!(found(&topics, "a/#"), ["a", "a/", "a/b", "a/b!", "a/b/c"]);
    assert_eq!(found(&topics, "a/+"), ["a/", "a/b", "a/b!"]);
    assert_eq!(found(&topics, "+/b"), ["a-/b", "a/b"]);
    assert_eq!(found(&topics, "+/b/#"), ["a-/b", "a/b", "a/b/c"]);
    assert_eq!(found(&topics, "a/b"), ["a/b"]);
    assert_eq!(found(&topics, "+"), ["a", "a b", "a.", "a0", "b"]);
}

/// [MQTT-4.7.2-1]
#[test]
fn a_wildcard_first_reads_no_dollar_topic() {
    let topics = ["", "!", "$SYS", "$SYS/a", "$x/a", "%", "a/$SYS"];
    let topics = &topics[1..];
    assert_eq!(found(topics, "#"), ["!", "%", "a/$SYS"]);
    assert_eq!(found(topics, "+/#"), ["!", "%", "a/$SYS"]);
    assert_eq!(found(topics, "+/a"), [""; 0]);
    assert_eq!(found(topics, "$SYS/#"), ["$SYS", "$SYS/a"]);
    assert_eq!(found(topics, "$SYS/+"), ["$SYS/a"]);
    assert_eq!(found(topics, "a/+"), ["a/$SYS"]);
}

/// 65,536 levels, the most that a topic can have.
#[test]
fn the_deepest_topic_needs_no_stack() {
    let deep = "/".repeat(65_535);
    let shallow = "/".repeat(65_534);
    let tree = tree_of([deep.as_str(), shallow.as_str()]);
    let plus = vec!["+"; 32_768].join("/");
    let plus_and_hash = format!("{}#", "+/".repeat(32_767));
    for (filter, count) in [
        ("#", 2),
        (deep.as_str(), 1),
        (plus.as_str(), 0),
        (plus_and_hash.as_str(), 2),
    ] {
        let filter = TopicFilter::try_from(filter).unwrap();
        assert_eq!(read(&tree, &filter, 10).0.len(), count);
    }
}

/// A filter that matches nothing looks at each topic of a level, but not in one call.
#[test]
fn a_page_ends_when_it_has_looked_at_much() {
    let topics: Vec<String> = (0..20_000).map(|number| format!("{number:05}/a")).collect();
    let tree = tree_of(&topics);
    let filter = TopicFilter::try_from("+/b").unwrap();
    let (nothing, pages) = read(&tree, &filter, usize::MAX);
    assert!(nothing.is_empty());
    // A leap over each topic's subtree, then none too many.
    assert!((4..12).contains(&pages), "{pages} pages");
    // Where the filter says what to look for, nothing else is looked at.
    let filter = TopicFilter::try_from("12345/#").unwrap();
    assert_eq!(read(&tree, &filter, usize::MAX).1, 1);
}

/// One large subtree costs a search beside it two looks, whatever its size.
#[test]
fn a_subtree_that_cannot_match_is_leapt_over() {
    let mut topics: Vec<String> = (0..20_000).map(|number| format!("a/b/{number}")).collect();
    topics.push("a/c".to_owned());
    let tree = tree_of(&topics);
    for filter in ["a/+", "+/c", "+/c/#"] {
        let filter = TopicFilter::try_from(filter).unwrap();
        let page = tree.matching(&filter, None, 10);
        let found: Vec<_> = page.found.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(found, ["a/c"]);
        assert_eq!(page.continue_after, None);
    }
}

#[test]
fn a_kept_topic_does_not_pin_the_read_buffer() {
    let mut tree = RetainedTree::new();
    let read = TopicName::try_from("a/b").unwrap();
    tree.insert(&read, 0);
    let kept = tree.iter().next().unwrap().0;
    assert_eq!(kept, &read);
    assert_ne!(kept.as_bytes().as_ptr(), read.as_bytes().as_ptr());
}
