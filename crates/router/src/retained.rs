//! Retained messages by topic, and the pages in which a new subscriber reads them.
//!
//! Topics lie in the order of their bytes in one sorted map, and a filter is matched by leaping:
//! a topic that does not match says which is the least that could, and the search goes on there.
//! This needs a tenth of the memory of a trie of levels (which pays for each level of each topic),
//! keeps the order that paging needs, and has no depth to recurse into.
//!
//! Invariant of a search: no topic between two that it looks at matches.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use codec::{TopicFilter, TopicName};

use crate::trie::split_first;

/// What one page may look at: the sum of `LOOK_COST` and length over all topics looked at. About
/// 3,000 topics of usual length, a few milliseconds.
const PAGE_COST_MAX: usize = 256 * 1024;
/// What looking at a topic costs besides reading it, in bytes.
const LOOK_COST: usize = 64;

/// A topic as a key, found by its bytes.
#[derive(Clone, Debug)]
struct Key(TopicName);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

/// One value per topic. Deterministic: topics come in the order of their bytes.
#[derive(Clone, Debug)]
pub struct RetainedTree<V> {
    topics: BTreeMap<Key, V>,
}

/// A part of the topics that match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<'a, V> {
    /// Topics with their values, in the order of their bytes.
    pub found: Vec<(&'a TopicName, &'a V)>,
    /// What the next page goes on behind; `None`: this was the last one. A page may end before it
    /// found anything.
    pub continue_after: Option<&'a TopicName>,
}

impl<V> Default for RetainedTree<V> {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
        }
    }
}

impl<V> RetainedTree<V> {
    /// A tree without topics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a value at a topic and returns the one that it replaces [MQTT-3.3.1-5].
    ///
    /// Keeps no reference to the buffer behind `topic`. O(log len).
    pub fn insert(&mut self, topic: &TopicName, value: V) -> Option<V> {
        if let Some(present) = self.get_mut(topic) {
            return Some(std::mem::replace(present, value));
        }
        self.topics.insert(Key(topic.detached()), value)
    }

    /// Takes the value at a topic out [MQTT-3.3.1-6]. O(log len).
    pub fn remove(&mut self, topic: &TopicName) -> Option<V> {
        self.topics.remove(topic.as_bytes())
    }

    /// The value at a topic. O(log len).
    #[must_use]
    pub fn get(&self, topic: &TopicName) -> Option<&V> {
        self.topics.get(topic.as_bytes())
    }

    /// The value at a topic, to be changed. O(log len).
    #[must_use]
    pub fn get_mut(&mut self, topic: &TopicName) -> Option<&mut V> {
        self.topics.get_mut(topic.as_bytes())
    }

    /// Topics. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// All topics in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicName, &V)> {
        self.topics.iter().map(|(Key(topic), value)| (topic, value))
    }

    /// The topics behind `after` that match `filter`, at most `max` (at least one) of them.
    ///
    /// The page also ends when it has looked at much that does not match, so that no filter,
    /// however it is made, holds the caller up: read on until `continue_after` is `None`. What is
    /// set or cleared between two pages may be in what follows or not. A filter that starts with
    /// a wildcard matches no topic that starts with `$` [MQTT-4.7.2-1]. A filter is taken as
    /// written: shared subscriptions get no retained messages.
    #[must_use]
    pub fn matching(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        max: usize,
    ) -> Page<'_, V> {
        let mut found = Vec::new();
        let mut cost = 0_usize;
        let mut leap = Vec::new();
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
        let mut topics = self.topics.range::<[u8], _>((start, Bound::Unbounded));
        while let Some((Key(topic), value)) = topics.next() {
            match look(filter.as_bytes(), topic.as_bytes(), &mut leap) {
                Step::Match => found.push((topic, value)),
                Step::Next => {}
                Step::Leap => {
                    debug_assert!(leap.as_slice() > topic.as_bytes(), "a leap goes forward");
                    let from = Bound::Included(leap.as_slice());
                    topics = self.topics.range::<[u8], _>((from, Bound::Unbounded));
                }
                Step::End => break,
            }
            cost = cost.saturating_add(LOOK_COST + topic.as_bytes().len());
            if found.len() >= max.max(1) || cost >= PAGE_COST_MAX {
                let continue_after = Some(topic);
                return Page {
                    found,
                    continue_after,
                };
            }
        }
        Page {
            found,
            continue_after: None,
        }
    }
}

/// How a search goes on after a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It matches; with the topic that follows.
    Match,
    /// With the topic that follows.
    Next,
    /// With the least topic that is not below the bytes in `leap`: what lies between can't match.
    Leap,
    /// Not at all.
    End,
}

/// Compares a topic with a filter, level by level; `leap` is scratch space and result.
fn look(filter: &[u8], topic: &[u8], leap: &mut Vec<u8>) -> Step {
    if topic.starts_with(b"$") && matches!(filter.first(), Some(b'+' | b'#')) {
        return leap_to(leap, &[], b"%");
    }
    let (mut wanted, mut rest) = (Some(filter), Some(topic));
    // Ends of the last level compared, and of the last one that a `+` stood for.
    let (mut end, mut plus_end) = (0, None);
    loop {
        let (levels, text) = match (wanted, rest) {
            // `#` matches whatever is left, also nothing: the parent level itself.
            (Some(b"#"), _) | (None, None) => return Step::Match,
            // What follows may have another text where the last `+` stands.
            (Some(_), None) => return Step::Next,
            // Everything that goes on here is too long as well.
            (None, Some(_)) => return leap_behind(leap, topic, end),
            (Some(levels), Some(text)) => (levels, text),
        };
        let start = topic.len() - text.len();
        let (level, levels_after) = split_first(levels);
        let (word, text_after) = split_first(text);
        if level != b"+" && level != word {
            let (before, text) = topic.split_at(start);
            return leap_to_level(leap, before, text, level, levels_after)
                .unwrap_or_else(|| plus_end.map_or(Step::End, |at| leap_behind(leap, topic, at)));
        }
        end = start + word.len();
        if level == b"+" {
            plus_end = Some(end);
        }
        (wanted, rest) = (levels_after, text_after);
    }
}

/// To the least topic that has `level` where this one has `text`, and could match: `level` itself
/// if the filter may end there, or what goes on behind it. `None` if that lies behind us.
fn leap_to_level(
    leap: &mut Vec<u8>,
    before: &[u8],
    text: &[u8],
    level: &[u8],
    levels_after: Option<&[u8]>,
) -> Option<Step> {
    let may_end = levels_after.is_none_or(|levels| levels == b"#");
    if may_end && level > text {
        return Some(leap_to(leap, before, level));
    }
    levels_after?;
    let step = leap_to(leap, before, level);
    leap.push(b'/');
    let ahead = leap.get(before.len()..).is_some_and(|bytes| bytes > text);
    ahead.then_some(step)
}

/// Behind every topic that goes on with `/` where `topic` does, at `end`.
fn leap_behind(leap: &mut Vec<u8>, topic: &[u8], end: usize) -> Step {
    // `0` is the byte after `/`.
    leap_to(leap, topic.get(..end).unwrap_or_default(), b"0")
}

fn leap_to(leap: &mut Vec<u8>, before: &[u8], then: &[u8]) -> Step {
    leap.clear();
    leap.extend_from_slice(before);
    leap.extend_from_slice(then);
    Step::Leap
}
